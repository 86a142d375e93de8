"""Header parsers against codecs' own output, and against bytes that mean harm."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_render.decode.codestream import parse_jpeg, parse_jpeg2000
from gpu_render.errors import CorruptPixelData
from tests.encoded import frames_of, sample

GREY = (np.arange(60 * 70).reshape(60, 70) % 251).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)

JPEGS: list[bytes] = [
    bytes(imagecodecs.jpeg8_encode(GREY)),
    bytes(imagecodecs.jpeg8_encode(COLOUR, subsampling="420")),
    bytes(imagecodecs.jpeg8_encode(GREY.astype(np.uint16), lossless=True, predictor=5, bitspersample=12)),
    bytes(imagecodecs.jpegls_encode(GREY, level=2)),
]
JPEG2000S: list[bytes] = [
    bytes(imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k")),
    bytes(imagecodecs.jpeg2k_encode(COLOUR, level=0, reversible=True, codecformat="jp2")),
    bytes(imagecodecs.htj2k_encode(GREY, level=0.01, reversible=False, tile=(32, 32))),
    bytes(imagecodecs.htj2k_encode(GREY.astype(np.int16) - 100)),
]


def test_baseline_colour() -> None:
    header = parse_jpeg(JPEGS[1])
    assert (header.start_of_frame, header.precision, header.rows, header.columns) == (0xC0, 8, 60, 70)
    assert [(c.horizontal, c.vertical) for c in header.components] == [(2, 2), (1, 1), (1, 1)]
    assert header.subsampled
    assert header.jfif
    assert header.adobe_transform is None


def test_lossless_predictor_and_point_transform() -> None:
    header = parse_jpeg(JPEGS[2])
    assert (header.start_of_frame, header.precision, len(header.components)) == (0xC3, 12, 1)
    assert (header.first_scan.start, header.first_scan.low) == (5, 0)


def test_jpeg_ls_near_value() -> None:
    header = parse_jpeg(JPEGS[3])
    assert (header.start_of_frame, header.precision, header.rows, header.columns) == (0xF7, 8, 60, 70)
    assert (header.first_scan.start, header.mapping_table) == (2, False)


def test_adobe_marker_of_a_real_file() -> None:
    frame = next(frames_of(sample("SC_rgb_jpeg_app14_dcmd.dcm")))
    assert parse_jpeg(bytes(frame.data)).adobe_transform == 0


def test_raw_and_boxed_jpeg_2000() -> None:
    raw, boxed = parse_jpeg2000(JPEG2000S[0]), parse_jpeg2000(JPEG2000S[1])
    assert (raw.rows, raw.columns, raw.components, raw.precision, raw.signed) == (60, 70, 1, 8, False)
    assert (raw.start, raw.end) == (0, len(JPEG2000S[0]))
    assert boxed.start > 0
    assert JPEG2000S[1][boxed.start : boxed.start + 4] == b"\xff\x4f\xff\x51"
    assert (boxed.components, boxed.multiple_component_transform, boxed.reversible) == (3, True, True)


def test_tiles_and_the_irreversible_wavelet() -> None:
    header = parse_jpeg2000(JPEG2000S[2])
    assert (header.tile_rows, header.tile_columns, header.reversible) == (32, 32, False)


def test_high_throughput_and_sign() -> None:
    header = parse_jpeg2000(JPEG2000S[3])
    assert (header.high_throughput, header.signed, header.precision, header.reversible) == (True, True, 16, True)


def test_a_missing_tile_is_an_error() -> None:
    data = JPEG2000S[2]
    first = data.index(b"\xff\x90")
    length = int.from_bytes(data[first + 6 : first + 10], "big")
    with pytest.raises(CorruptPixelData, match="5 of 6 tiles"):
        parse_jpeg2000(data[:first] + data[first + length :])


@pytest.mark.parametrize("data", JPEGS)
def test_no_part_of_a_jpeg_passes_for_the_whole(data: bytes) -> None:
    for end in range(len(data) - 1):
        with pytest.raises(CorruptPixelData):
            parse_jpeg(data[:end])


@pytest.mark.parametrize("data", JPEG2000S)
def test_no_part_of_a_jpeg_2000_passes_for_the_whole(data: bytes) -> None:
    for end in range(len(data) - 2):  # the end of codestream marker itself may be missing
        with pytest.raises(CorruptPixelData):
            parse_jpeg2000(data[:end])


def attempt(data: bytes) -> None:
    for parser in (parse_jpeg, parse_jpeg2000):
        try:
            header = parser(data)
        except CorruptPixelData:
            continue
        assert header.rows > 0
        assert header.columns > 0
        assert 1 <= header.precision <= 128


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_but_corrupt_pixel_data(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc3", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"):
        attempt(start + data)


@given(st.sampled_from(JPEGS + JPEG2000S), st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=8))
@settings(max_examples=400, deadline=None)
def test_mutated_headers_raise_nothing_but_corrupt_pixel_data(data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(data)
    for position, value in changes:
        mutated[position % len(mutated)] = value
    attempt(bytes(mutated))


def test_every_encapsulated_sample_of_pydicom_parses() -> None:
    names = [
        "JPEG2000.dcm",
        "MR_small_jp2klossless.dcm",
        "693_J2KI.dcm",
        "JPGExtended.dcm",
        "SC_rgb_jls_lossy_line.dcm",
    ]
    for name in names:
        frame = next(frames_of(sample(name)))
        data = bytes(frame.data)
        header = parse_jpeg(data) if data.startswith(b"\xff\xd8") else parse_jpeg2000(data)
        assert (header.rows, header.columns) == (frame.layout.rows, frame.layout.columns)
