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


HIGH_THROUGHPUT = bytes(imagecodecs.htj2k_encode(COLOUR, reversible=True))


@pytest.mark.parametrize(
    "data",
    [
        JPEG2000S[0],
        JPEG2000S[1],
        JPEG2000S[3],
        HIGH_THROUGHPUT,
        bytes(imagecodecs.jpeg2k_encode(GREY, level=0, reversible=True, codecformat="j2k", resolutions=1)),
        bytes(
            imagecodecs.htj2k_encode(GREY, reversible=True, tlm=True, tilepart=imagecodecs.HTJ2K.TILEPART.RESOLUTIONS)
        ),
    ],
)
def test_codestreams_as_most_encoders_write_them_are_plain(data: bytes) -> None:
    assert parse_jpeg2000(data).plain


def changed(marker: bytes, at: int, value: int, data: bytes = JPEG2000S[0]) -> bytes:
    """Another byte in a marker segment, ``at`` bytes behind the marker."""
    position = data.index(marker) + 2 + at
    return data[:position] + bytes([value]) + data[position + 1 :]


def inserted(segment: bytes, before: bytes = b"\xff\x90", data: bytes = JPEG2000S[0]) -> bytes:
    """One more marker segment. Where it goes into the tile-part, that gets longer."""
    if before == b"\xff\x93":
        length = data.index(b"\xff\x90") + 6
        longer = int.from_bytes(data[length : length + 4], "big") + len(segment)
        data = data[:length] + longer.to_bytes(4, "big") + data[length + 4 :]
    position = data.index(before)
    return data[:position] + segment + data[position:]


COD, QCD, CAP = b"\xff\x52", b"\xff\x5c", b"\xff\x50"
CODING = JPEG2000S[0][JPEG2000S[0].index(COD) :][:14]
NOT_PLAIN: dict[str, bytes] = {
    "an origin of its own": changed(b"\xff\x51", 15, 1),
    "tiles": bytes(imagecodecs.htj2k_encode(GREY, reversible=True, tile=(32, 32))),
    "precincts": bytes(imagecodecs.jpeg2k_encode(GREY, level=40, reversible=True, codecformat="j2k")),
    "packet markers": changed(COD, 2, 2),
    "progression by component": changed(COD, 3, 4),
    "two layers": changed(COD, 5, 2),
    "six decompositions": changed(COD, 7, 6),
    "narrow code blocks": changed(COD, 8, 3),
    "code blocks of other contexts": changed(COD, 10, 8),
    "only some code blocks of high throughput": changed(COD, 10, 0xC0, HIGH_THROUGHPUT),
    "no code blocks of high throughput": changed(COD, 10, 0, HIGH_THROUGHPUT),
    "quantized": changed(QCD, 2, 0x42),
    "seven guard bits": changed(QCD, 2, 0xE0),
    "another part": changed(CAP, 3, 4, HIGH_THROUGHPUT),
    "several sets of high throughput": changed(CAP, 6, 0x20, HIGH_THROUGHPUT),
    "a region of interest": inserted(b"\xff\x5e\0\5\0\0\1"),
    "a component of its own": inserted(b"\xff\x53\0\x09\0\0\5\4\4\0\1"),
    "an order of packets of its own": inserted(b"\xff\x5f\0\x09\0\0\0\1\6\1\0"),
    "coding said twice": inserted(CODING),
    "coding said in the tile": inserted(CODING, b"\xff\x93"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_few_encoders_write_is_not_plain(name: str) -> None:
    assert not parse_jpeg2000(NOT_PLAIN[name]).plain


def test_comments_and_lengths_leave_a_codestream_plain() -> None:
    assert parse_jpeg2000(inserted(b"\xff\x64\0\5\0\1a")).plain
    assert parse_jpeg2000(inserted(b"\xff\x64\0\5\0\1a", b"\xff\x93")).plain


@pytest.mark.parametrize(
    "data",
    [
        JPEGS[0][:2] + b"\xff\xfe\0\2" * 300_000 + JPEGS[0][2:],
        JPEGS[0][:2] + b"\xff" * 600_000 + JPEGS[0][2:],
        inserted(b"\xff\x64\0\2" * 300_000),
        inserted(b"\xff\x64\0\2" * 300_000, b"\xff\x93"),
    ],
    ids=["comments", "fill bytes", "comments in JPEG 2000", "comments in a tile-part"],
)
def test_headers_without_end_are_an_error(data: bytes) -> None:
    """They are also read where nobody limits the time."""
    with pytest.raises(CorruptPixelData, match="too many markers"):
        (parse_jpeg if data[1] == 0xD8 else parse_jpeg2000)(data)


@pytest.mark.parametrize("data", JPEGS)
def test_no_part_of_a_jpeg_passes_for_the_whole(data: bytes) -> None:
    for end in range(len(data) - 1):
        with pytest.raises(CorruptPixelData):
            parse_jpeg(data[:end])


def entropy_coded(data: bytes) -> int:
    """Offset behind the header of the first scan."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


@pytest.mark.parametrize("data", JPEGS[:3])
@pytest.mark.parametrize("marker", [0x02, 0xC0, 0xC4, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xF0, 0xFE])
def test_a_marker_inside_the_entropy_coded_data_is_an_error(data: bytes, marker: int) -> None:
    """libjpeg stops there, fills the rest of the picture with grey, and tells nobody."""
    middle = (entropy_coded(data) + len(data)) // 2
    with pytest.raises(CorruptPixelData):
        parse_jpeg(data[:middle] + bytes([0xFF, marker]) + data[middle:])


def test_a_second_image_behind_the_first_is_an_error() -> None:
    with pytest.raises(CorruptPixelData, match="behind its end"):
        parse_jpeg(JPEGS[0] + JPEGS[0])
    for padding in (b"", b"\0", b"\xff\xd9", b"\0\0\0"):
        assert parse_jpeg(JPEGS[0] + padding).rows == 60


def restarting(interval: int, restarts: int, first: int = 0) -> bytes:
    """A grey JPEG header of 60 x 70 with a restart interval, and so many intervals of nothing much."""
    header = JPEGS[0][: entropy_coded(JPEGS[0])]
    at = header.index(b"\xff\xda")
    markers = [bytes([0xFF, 0xD0 + (first + index) % 8]) for index in range(restarts)]
    scan = b"\x2a" + b"".join(marker + b"\x2a" for marker in markers)
    return header[:at] + b"\xff\xdd\0\4" + interval.to_bytes(2, "big") + header[at:] + scan + b"\xff\xd9"


def test_restart_markers_are_counted() -> None:
    """60 x 70 pixels are 8 x 9 blocks."""
    assert parse_jpeg(restarting(9, 7)).columns == 70
    assert parse_jpeg(restarting(72, 0)).columns == 70
    assert parse_jpeg(restarting(5, 14)).columns == 70
    for interval, restarts, first in ((9, 6, 0), (9, 9, 0), (9, 7, 1), (0, 1, 0), (5, 13, 0)):
        with pytest.raises(CorruptPixelData, match="restart"):
            parse_jpeg(restarting(interval, restarts, first))


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_several_scans_must_hold_every_component(subsampling: str) -> None:
    """Progressive here; a sequential frame with its first of three scans only is what a cut between scans leaves."""
    colour = bytes(imagecodecs.jpeg8_encode(COLOUR, subsampling=subsampling))
    start = colour.index(b"\xff\xda")
    one = colour[:start] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + b"\x2a" * 50
    with pytest.raises(CorruptPixelData, match="1 of 3 components"):
        parse_jpeg(one + b"\xff\xd9")
    scans = b"".join(b"\xff\xda\0\x08\x01" + bytes([n]) + b"\x11\0\x3f\0" + b"\x2a" * 50 for n in (2, 3))
    assert parse_jpeg(one + scans + b"\xff\xd9").rows == 60


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
