"""Decoding real files: lossless exactly, lossy within the tolerance of RENDERING; and what must be refused."""

import csv
import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from rle.utils import encode_pixel_data

from gpu_render.decode import DECODERS, codec_versions, decode, find_decoder, memory_limit, time_limit_s
from gpu_render.decode.codecs import CODECS, Job, run_codec, to_container
from gpu_render.decode.native import frame_bytes
from gpu_render.errors import CorruptPixelData, NotRenderable, RenderError, UnsupportedTransferSyntax
from gpu_render.frame import PixelLayout
from gpu_render.workers import WorkerPool
from kernels.packing import Packed, Packing, unpacked
from tests.encoded import POINT_TRANSFORMED, encode, frames_of, layout_of, sample, stored_values

Array = npt.NDArray[Any]
Codestream = bytes | bytearray

CORPUS = Path(os.environ.get("GPU_RENDER_CORPUS", Path(__file__).parents[2] / ".." / "shared" / "data"))
RLE, JPEG, EXTENDED, LOSSLESS = (f"1.2.840.10008.1.2.{n}" for n in ("5", "4.50", "4.51", "4.70"))
JLS, JLS_NEAR, J2K, J2K_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (80, 81, 90, 91))
HTJ2K, HTJ2K_LOSSY, JXL, JXL_JPEG, JXL_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (201, 203, 110, 111, 112))
EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


def corpus_rows() -> list[dict[str, str]]:
    """Rows of the manifest with pixels; of the two long series every tenth file."""
    manifest = CORPUS / "MANIFEST.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["stored_sha256"]]
    series = [row for row in rows if "series" in row["path"]]
    return [row for row in rows if row not in series] + series[::10]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def decode_file(path: str | Path, pool: WorkerPool) -> Array:
    """Stored values of all frames, ([frames,] rows, columns[, 3])."""
    decoded = [decode(frame, pool) for frame in frames_of(path)]
    values = [stored_values(frame.samples, frame.layout) for frame in decoded]
    return values[0] if len(values) == 1 else np.stack(values)


def difference(left: Array, right: Array) -> int:
    assert left.shape == right.shape
    return int(np.abs(left.astype(np.int64) - right.astype(np.int64)).max())


@pytest.mark.corpus
@pytest.mark.skipif(not corpus_rows(), reason="the folder of real DICOM files is absent (GPU_RENDER_CORPUS)")
@pytest.mark.parametrize("row", corpus_rows(), ids=lambda row: row["path"])
def test_corpus_files_have_the_agreed_stored_values(row: dict[str, str], pool: WorkerPool) -> None:
    values = decode_file(CORPUS / row["path"], pool)
    shape = tuple(int(side) for side in row["stored_shape"].split("x"))
    if row["tolerance"] == "0":
        flat = values.reshape(shape).astype(np.dtype(row["stored_dtype"]).newbyteorder("<"), casting="equiv")
        assert hashlib.sha256(flat.tobytes()).hexdigest() == row["stored_sha256"]
    else:
        allowed = 8 if row["tolerance"].endswith("subsampled)") else int(row["tolerance"])
        assert difference(values.reshape(shape), lossy_reference(CORPUS / row["path"])) <= allowed


def lossy_reference(path: Path) -> Array:
    """GDCM in this test process: the independent reader that agreed on every lossy file of the manifest."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    layout = layout_of(pydicom.dcmread(path))
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    values: Array = np.frombuffer(data, layout.dtype).reshape(layout.shape)
    return values


PYDICOM_FILES = [
    *("693_J2KI", "CT_small", "ExplVR_BigEnd", "GDCMJ2K_TextGBR", "J2K_pixelrep_mismatch", "JPEG2000", "MR_small"),
    *("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "MR_small_RLE", "MR_small_bigendian", "MR_small_expb"),
    *("MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded"),
    *("SC_jpeg_no_color_transform", "SC_jpeg_no_color_transform_2", "SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cy+n1"),
    *("SC_rgb_dcmtk_+eb+cy+n2", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_dcmtk_+eb+cy+s4"),
    *("SC_rgb_gdcm_KY", "SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample", "SC_rgb_jpeg", "SC_rgb_jpeg_app14_dcmd"),
    *("SC_rgb_jpeg_dcmd", "SC_rgb_jpeg_dcmtk", "SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_lossy_gdcm", "SC_rgb_rle"),
    *("SC_rgb_rle_16bit", "SC_rgb_rle_16bit_2frame", "SC_rgb_rle_2frame", "SC_rgb_rle_32bit"),
    *("SC_rgb_rle_32bit_2frame", "SC_rgb_small_odd", "SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_jpeg"),
    *("SC_ybr_full_422_uncompressed", "examples_jpeg2k", "examples_overlay", "examples_palette", "examples_rgb_color"),
    *("examples_ybr_color", "image_dfl", "liver_1frame", "liver_expb_1frame", "rtdose", "rtdose_1frame"),
    *("rtdose_expb", "rtdose_expb_1frame", "rtdose_rle", "rtdose_rle_1frame"),
]


@pytest.mark.parametrize("name", PYDICOM_FILES)
@pytest.mark.filterwarnings("ignore")
def test_pydicom_samples_have_the_stored_values_that_pydicom_gives(name: str, pool: WorkerPool) -> None:
    path = sample(f"{name}.dcm")
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(raw=True)
    # The samples of this list are small, and libjpeg-turbo, libjpeg and GDCM agree on every one of them.
    np.testing.assert_array_equal(decode_file(path, pool), dataset.pixel_array)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_twelve_bit_jpeg_equals_dcmtk(name: str, pool: WorkerPool) -> None:
    """No reader in the wheels decodes these; DCMTK 3.6.7 (dcmdjpeg) gives exactly these stored values."""
    values = decode_file(sample(name), pool)
    digest = "d30242775a414c01d616447854ebe3f2b20259822894bcd6891f879bcdcbf313"
    assert hashlib.sha256(values.astype("<u2").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"])
def test_broken_samples_are_refused(name: str, pool: WorkerPool) -> None:
    with pytest.raises(CorruptPixelData):
        decode_file(sample(name), pool)


def grey(bits: int = 16, stored: int | None = None, signed: int = 0, side: int = 64) -> PixelLayout:
    stored = stored or bits
    return PixelLayout(side, side, 1, bits, stored, stored - 1, signed, "MONOCHROME2")


def colour(side: int = 64, photometric: str = "RGB", planar: int = 0) -> PixelLayout:
    return PixelLayout(side, side, 3, 8, 8, 7, 0, photometric, planar)


def noise(layout: PixelLayout, seed: int = 1) -> Array:
    low, high = layout.stored_range
    return np.random.default_rng(seed).integers(low, high, layout.shape, endpoint=True).astype(layout.dtype)


def waves(layout: PixelLayout) -> Array:
    """Smooth, with wide plateaus of black and white: what makes a lossy codec overshoot."""
    y, x = np.mgrid[: layout.rows, : layout.columns]
    low, high = layout.stored_range
    values: Array = np.clip((low + high) / 2 + 2 * high * np.sin(x / 5) * np.cos(y / 7), low, high)
    return values.astype(layout.dtype)


def in_process(data: Codestream, uid: str, layout: PixelLayout) -> tuple[Array, str]:
    """The codec without a worker, masked and sign-extended."""
    decoder = DECODERS[uid]
    samples, photometric = run_codec(decoder.codec, Job(bytes(data), layout, 1, decoder.may_be_lossy))
    samples = unpacked(samples)
    assert samples.shape == layout.shape
    assert samples.dtype == layout.dtype
    return stored_values(samples, layout), photometric


LOSSLESS_CASES: list[tuple[str, str, Callable[[Array], Codestream], PixelLayout]] = [
    ("jls-8", JLS, imagecodecs.jpegls_encode, grey(8)),
    ("jls-16", JLS, imagecodecs.jpegls_encode, grey(16)),
    ("jls-colour", JLS, lambda a: imagecodecs.jpegls_encode(a, out=1 << 20), colour()),
    ("htj2k-8", HTJ2K, imagecodecs.htj2k_encode, grey(8)),
    ("htj2k-8-signed", HTJ2K, imagecodecs.htj2k_encode, grey(8, signed=1)),
    ("htj2k-16", HTJ2K, imagecodecs.htj2k_encode, grey(16)),
    ("htj2k-16-signed", HTJ2K, imagecodecs.htj2k_encode, grey(16, signed=1)),
    ("htj2k-colour", HTJ2K, imagecodecs.htj2k_encode, colour()),
    ("htj2k-in-203", HTJ2K_LOSSY, imagecodecs.htj2k_encode, grey(16, signed=1)),
    ("j2k-8-signed", J2K, lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True), grey(8, signed=1)),
    ("j2k-16", J2K, lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True), grey(16)),
    ("j2k-24", J2K, lambda a: imagecodecs.jpeg2k_encode(a, level=0, bitspersample=24), grey(32, 24)),
    ("j2k-colour", J2K_LOSSY, lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True), colour()),
    ("jxl-8", JXL, lambda a: imagecodecs.jpegxl_encode(a, lossless=True), grey(8)),
    ("jxl-12", JXL, lambda a: imagecodecs.jpegxl_encode(a, lossless=True, bitspersample=12), grey(16, 12)),
    ("jxl-16", JXL, lambda a: imagecodecs.jpegxl_encode(a, lossless=True), grey(16)),
    ("jxl-colour", JXL, lambda a: imagecodecs.jpegxl_encode(a, lossless=True), colour()),
]


@pytest.mark.parametrize(
    ("uid", "encoder", "layout"), [c[1:] for c in LOSSLESS_CASES], ids=[c[0] for c in LOSSLESS_CASES]
)
def test_lossless_codecs_return_what_was_encoded(
    uid: str, encoder: Callable[[Array], Codestream], layout: PixelLayout
) -> None:
    original = noise(layout)
    np.testing.assert_array_equal(in_process(encoder(original), uid, layout)[0], original)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (16, 12), (16, 16)])
def test_every_predictor_of_lossless_jpeg(predictor: int, bits: int, stored: int) -> None:
    layout = grey(bits, stored)
    original = noise(layout)
    data = imagecodecs.jpeg8_encode(original, lossless=True, predictor=predictor, bitspersample=stored)
    np.testing.assert_array_equal(in_process(data, LOSSLESS, layout)[0], original)


@pytest.mark.parametrize(("predictor", "shift"), POINT_TRANSFORMED)
def test_point_transform_of_lossless_jpeg_is_undone(predictor: int, shift: int) -> None:
    ramp = np.arange(64, dtype="<u2").reshape(8, 8) * 37
    values, _ = in_process(POINT_TRANSFORMED[predictor, shift], LOSSLESS, grey(16, 12, side=8))
    np.testing.assert_array_equal(values, ramp >> shift << shift)


@pytest.mark.parametrize("codec", ["htj2k", "jpeg2000"])
def test_missing_tile_parts_are_an_error(codec: str) -> None:
    """What lacks is detail: the picture of the others would be blurred, and look right."""
    pixels = np.random.default_rng(2).integers(0, 4096, (64, 64)).astype(np.uint16)
    whole = bytes(imagecodecs.htj2k_encode(pixels, tilepart=1))
    starts = [place for place in range(len(whole)) if whole.startswith(b"\xff\x90\0\x0a", place)]
    assert len(starts) > 2
    layout = PixelLayout(64, 64, 1, 16, 12, 11, 0, "MONOCHROME2")
    np.testing.assert_array_equal(unpacked(run_codec(codec, Job(whole, layout, 1, False))[0]), pixels)
    second = whole[: starts[1]] + whole[starts[2] :]
    for part in (whole[: starts[1]] + b"\xff\xd9", whole[: starts[-1]] + b"\xff\xd9", second):
        with pytest.raises(CorruptPixelData, match="tile-parts"):
            run_codec(codec, Job(part, layout, 1, False))


def test_a_tile_part_without_a_length_needs_an_end_of_codestream() -> None:
    pixels = np.random.default_rng(2).integers(0, 4096, (64, 64)).astype(np.uint16)
    whole = bytearray(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="J2K"))
    place = whole.index(b"\xff\x90\0\x0a")
    whole[place + 6 : place + 10] = bytes(4)  # Psot 0: up to the end of codestream
    layout = PixelLayout(64, 64, 1, 16, 12, 11, 0, "MONOCHROME2")
    np.testing.assert_array_equal(run_codec("jpeg2000", Job(bytes(whole), layout, 1, False))[0], pixels)
    for cut in (whole[:-2], whole[: len(whole) // 2]):
        with pytest.raises(CorruptPixelData, match="truncated"):
            run_codec("jpeg2000", Job(bytes(cut), layout, 1, False))


def test_damage_of_a_high_throughput_code_block_is_an_error_on_any_number_of_threads() -> None:
    """OpenJPEG forgets the error of a code block that another thread decodes, and shows what was decoded of it."""
    pixels = np.random.default_rng(1).integers(0, 1500, (64, 64)).astype(np.uint16)
    whole = bytes(imagecodecs.htj2k_encode(np.sort(pixels, axis=1)))
    refused = 0
    for place in range(100, len(whole) - 30, 17):
        damaged = whole[:place] + b"\xff" * 29 + whole[place + 29 :]
        outcomes = [lossy_htj2k(damaged, threads) for threads in (1, 2)]
        assert outcomes[0] == outcomes[1], place
        refused += outcomes[0] is None
    assert refused > 3


def lossy_htj2k(codestream: bytes, threads: int) -> bytes | None:
    layout = PixelLayout(64, 64, 1, 16, 16, 15, 0, "MONOCHROME2")
    try:
        return unpacked(run_codec("jpeg2000", Job(codestream, layout, threads, True))[0]).tobytes()
    except RenderError:
        return None


@pytest.mark.parametrize("level", [0.002, 0.01, 0.05])
def test_lossy_htj2k_never_wraps_white_to_black(level: float) -> None:
    layout = grey(8, side=256)
    original = waves(layout)
    data = imagecodecs.htj2k_encode(original, level=level, reversible=False)
    assert difference(imagecodecs.htj2k_decode(data), original) > 200  # OpenJPH does; why it is not used here
    assert difference(in_process(data, HTJ2K_LOSSY, layout)[0], original) < 30
    with pytest.raises(CorruptPixelData, match="irreversible"):
        in_process(data, HTJ2K, layout)


@pytest.mark.parametrize("layout", [grey(16), grey(16, signed=1), grey(8), colour()])
def test_lossless_htj2k_beyond_its_own_precision_is_an_error(layout: PixelLayout) -> None:
    """Of a damaged code block, or of a codestream that lost quality layers: OpenJPH would wrap white to black."""
    original = noise(layout)
    data = bytearray(imagecodecs.htj2k_encode(original))
    np.testing.assert_array_equal(in_process(data, HTJ2K, layout)[0], original)
    for component in range(layout.samples_per_pixel):
        data[42 + 3 * component] -= 1  # Ssiz: one bit less than there are
    with pytest.raises(CorruptPixelData, match="beyond"):
        in_process(data, HTJ2K, layout)


def test_lossy_output_is_clamped_to_bits_stored() -> None:
    """A 16-bit lossy codestream in a dataset of 10 bits stored: values above 1023 are white, not black."""
    layout = grey(16, 10)
    data = imagecodecs.jpeg2k_encode(noise(grey(16)), level=60, reversible=False)
    values, _ = in_process(data, J2K_LOSSY, layout)
    expected = np.minimum(imagecodecs.jpeg2k_decode(data), 1023)
    np.testing.assert_array_equal(values, expected)
    with pytest.raises(NotRenderable, match="High Bit"):
        in_process(data, J2K_LOSSY, replace(layout, high_bit=11))


@pytest.mark.parametrize("uid", [J2K_LOSSY, HTJ2K_LOSSY])
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_bits_stored_in_a_reversible_codestream_are_not_clamped(uid: str, signed: int) -> None:
    """Overlay bits, or a sign that was not extended: clamped they would be white. Lossless syntaxes mask them; in a
    syntax that may be lossy they could also be overshoot, so nobody can tell what was meant."""
    layout, within = grey(16, 12, signed), noise(grey(16, 12 - signed))
    encoder = imagecodecs.htj2k_encode if uid == HTJ2K_LOSSY else imagecodecs.jpeg2k_encode
    beyond = within | np.uint16(0x8000 if not signed else 0x0800)
    for lossless in (J2K, uid):
        np.testing.assert_array_equal(in_process(encoder(within, reversible=True), lossless, layout)[0], within)
    np.testing.assert_array_equal(
        in_process(encoder(beyond, reversible=True), J2K, layout)[0], within.astype(int) - 2048 * signed
    )
    with pytest.raises(NotRenderable, match="Bits Stored"):
        in_process(encoder(beyond, reversible=True), uid, layout)


def test_near_lossless_jpeg_ls_stays_within_near() -> None:
    original = waves(grey(8))
    values, _ = in_process(imagecodecs.jpegls_encode(original, level=3), JLS_NEAR, grey(8))
    assert 0 < difference(values, original) <= 3


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("written_as", ["RGB", "YCBCR"])
def test_the_dataset_decides_what_jpeg_components_mean(photometric: str, written_as: str) -> None:
    """Same components whatever APP14 or JFIF say; only the name they get follows the dataset."""
    components = np.stack([waves(grey(8)), waves(grey(8)).T, waves(grey(8))[::-1]], -1)
    data = imagecodecs.jpeg8_encode(
        components, level=100, colorspace=written_as, outcolorspace=written_as, subsampling="444"
    )
    values, named = in_process(data, JPEG, colour(photometric=photometric))
    assert difference(values, components) <= 3
    assert named == photometric.removesuffix("_422")


def test_a_colour_transform_of_jpeg_2000_is_undone_by_the_codec() -> None:
    original = noise(colour())
    data = imagecodecs.jpeg2k_encode(original, level=0, reversible=True, mct=True)
    values, photometric = in_process(data, J2K, colour(photometric="YBR_RCT"))
    np.testing.assert_array_equal(values, original)
    assert photometric == "RGB"


def test_jpeg_xl_recompression_equals_the_jpeg_it_came_from() -> None:
    original = np.stack([waves(grey(8)), waves(grey(8)).T, waves(grey(8))[::-1]], -1)
    jpeg = imagecodecs.jpeg8_encode(original, level=90)
    data = imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True)
    layout = colour(photometric="YBR_FULL_422")
    expected, photometric = in_process(jpeg, JPEG, layout)
    values, named = in_process(bytes(data), JXL_JPEG, layout)
    np.testing.assert_array_equal(values, expected)
    assert named == photometric == "YBR_FULL"


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("uid", [JXL, JXL_LOSSY])
def test_a_recompressed_jpeg_that_calls_itself_jpeg_xl_is_not_converted_twice(uid: str, photometric: str) -> None:
    """libjxl itself makes RGB of the JPEG inside, whatever the dataset calls it."""
    original = np.stack([waves(grey(8)), waves(grey(8)).T, waves(grey(8))[::-1]], -1)
    jpeg = imagecodecs.jpeg8_encode(original, level=95, subsampling="444")
    data = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg))
    assert difference(in_process(data, uid, colour())[0], imagecodecs.jpeg8_decode(jpeg)) <= 20  # YBR would be 100 off
    with pytest.raises(CorruptPixelData, match="recompressed"):
        in_process(data, uid, colour(photometric=photometric))


@pytest.mark.parametrize(
    ("precision", "signed", "representation", "values", "expected"),
    [
        (13, False, 1, [0, 4095, 4096, 8191], [0, 4095, -4096, -1]),
        (16, True, 0, [-1, -32768, 5], [65535, 32768, 5]),
        (12, True, 0, [-1, -2048, 7], [4095, 2048, 7]),
        (12, False, 0, [0, 4095], [0, 4095]),
        (12, True, 1, [-2048, 2047], [-2048, 2047]),
    ],
)
def test_sign_of_codestream_and_dataset(
    precision: int, signed: bool, representation: int, values: list[int], expected: list[int]
) -> None:
    decoded = np.array(values, "<i2" if signed else "<u2")
    assert to_container(decoded, precision, signed, grey(16, signed=representation)).tolist() == expected


def test_jpeg_ls_of_fewer_bits_than_stored_has_no_certain_sign() -> None:
    """12 bits of signed 16: DCMTK and GDCM read 4080, pydicom -16. Below the sign bit all agree."""
    for top in (2047, 4080):
        values = np.linspace(0, top, 64 * 64).astype("<u2").reshape(64, 64)
        data = jpeg_ls.encode_buffer(values.tobytes(), 64, 64, 1, 12, 0)
        np.testing.assert_array_equal(in_process(data, JLS, grey(16))[0], values)
        if top == 2047:
            np.testing.assert_array_equal(in_process(data, JLS, grey(16, signed=1))[0], values)
            continue
        with pytest.raises(CorruptPixelData, match="sign"):
            in_process(data, JLS, grey(16, signed=1))


def test_near_lossless_jpeg_ls_clamps_its_own_error_and_no_more() -> None:
    values = waves(grey(16, 12))
    data = jpeg_ls.encode_buffer(values.tobytes(), 64, 64, 1, 16, 3)
    assert difference(in_process(data, JLS_NEAR, grey(16, 12))[0], values) <= 3
    beyond = (values | 0x8000).tobytes()
    with pytest.raises(NotRenderable, match="Bits Stored"):
        in_process(jpeg_ls.encode_buffer(beyond, 64, 64, 1, 16, 3), JLS_NEAR, grey(16, 12))


def rle_frame(values: Array) -> bytes:
    rows, columns = values.shape
    options = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_allocated": 8 * values.itemsize}
    return bytes(encode_pixel_data(values.tobytes(), byteorder="<", **options))


CODESTREAMS: dict[str, tuple[str, Codestream, PixelLayout]] = {
    "rle": (RLE, rle_frame(noise(grey(16))), grey(16)),
    "jpeg": (JPEG, imagecodecs.jpeg8_encode(waves(grey(8))), grey(8)),
    "jpeg-lossless": (LOSSLESS, imagecodecs.jpeg8_encode(noise(grey(16)), lossless=True, bitspersample=16), grey(16)),
    "jpeg-ls": (JLS, imagecodecs.jpegls_encode(noise(grey(16))), grey(16)),
    "j2k": (J2K, imagecodecs.jpeg2k_encode(noise(grey(16)), level=0, codecformat="j2k"), grey(16)),
    "jp2": (J2K, imagecodecs.jpeg2k_encode(noise(grey(16)), level=0, codecformat="jp2"), grey(16)),
    "htj2k": (HTJ2K, imagecodecs.htj2k_encode(noise(grey(16))), grey(16)),
    "jpeg-xl": (JXL, imagecodecs.jpegxl_encode(noise(grey(16)), lossless=True), grey(16)),
}


@pytest.mark.parametrize("name", [name for name in CODESTREAMS if name not in ("rle", "jpeg-xl")])
def test_two_codestreams_in_one_frame_are_an_error(name: str) -> None:
    """Of an offset table that counts two fragments to one frame: it cannot be known which of them is the frame."""
    uid, data, layout = CODESTREAMS[name]
    with pytest.raises(CorruptPixelData, match="behind its end"):
        in_process((bytes(data) + b"\0" * (len(data) % 2)) * 2, uid, layout)
    for padding in (b"\0", b"\0\0"):
        np.testing.assert_array_equal(
            in_process(bytes(data) + padding, uid, layout)[0], in_process(data, uid, layout)[0]
        )


@pytest.mark.parametrize("name", CODESTREAMS)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_codestream_is_an_error(name: str, kept: float) -> None:
    uid, data, layout = CODESTREAMS[name]
    assert in_process(data, uid, layout)[0].any()
    with pytest.raises(CorruptPixelData):
        in_process(data[: int(len(data) * kept)], uid, layout)


JPEG_STREAMS: dict[str, tuple[str, Codestream, PixelLayout]] = {
    "baseline": (JPEG, imagecodecs.jpeg8_encode(noise(grey(8)), level=90), grey(8)),
    "baseline, colour": (JPEG, imagecodecs.jpeg8_encode(noise(colour()), level=90), colour()),
    "extended, 12": (EXTENDED, imagecodecs.jpeg8_encode(noise(grey(16, 12)), bitspersample=12), grey(16, 12)),
    "lossless, 8": (LOSSLESS, imagecodecs.jpeg8_encode(noise(grey(8)), lossless=True), grey(8)),
    "lossless, 16": (LOSSLESS, imagecodecs.jpeg8_encode(noise(grey(16)), lossless=True, bitspersample=16), grey(16)),
}


@pytest.mark.parametrize("name", JPEG_STREAMS)
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8, 0.9])
def test_a_jpeg_whose_data_end_before_its_last_pixel_is_an_error(name: str, kept: float) -> None:
    """An end of image marker behind half of the data: libjpeg fills up with grey and reports success."""
    uid, data, layout = JPEG_STREAMS[name]
    scan = bytes(data).rindex(b"\xff\xda")
    short = bytes(data)[: scan + int((len(data) - scan) * kept)].rstrip(b"\xff") + b"\xff\xd9"
    assert imagecodecs.jpeg8_decode(short).shape == layout.shape
    for tail in (b"", b"\0", b"\0\xff\xd9"):
        with pytest.raises(CorruptPixelData, match="before its last pixel"):
            in_process(short + tail, uid, layout)


@pytest.mark.parametrize("name", ["lossless, 8", "lossless, 16"])
@pytest.mark.parametrize("gone", [40, 100, 1000])
@pytest.mark.parametrize("place", [0.05, 0.2, 0.6, 0.95])
def test_bytes_that_are_missing_inside_a_lossless_jpeg_are_an_error(name: str, gone: int, place: float) -> None:
    """All that follows is shown in the wrong place; the last row's end is made up, and seldom grey."""
    uid, whole, layout = JPEG_STREAMS[name]
    data = bytes(whole)
    scan = data.rindex(b"\xff\xda") + 20
    start = scan + int((len(data) - scan - gone - 20) * place)
    with pytest.raises(CorruptPixelData, match=r"before its last pixel|behind its last pixel|a marker inside"):
        in_process(data[:start] + data[start + gone :], uid, layout)


@pytest.mark.parametrize("name", ["baseline", "baseline, colour", "extended, 12"])
def test_a_lossy_jpeg_with_more_data_than_blocks_is_an_error(name: str) -> None:
    """As where a run of zeros from a bad sector stands in place of data: fewer bits make a block there."""
    uid, whole, layout = JPEG_STREAMS[name]
    data = bytes(whole)
    scan = data.rindex(b"\xff\xda") + 20
    for more in (bytes(range(1, 40)), bytes(range(1, 200)), data[scan : scan + 100].rstrip(b"\xff")):
        with pytest.raises(CorruptPixelData, match="behind its last pixel"):
            in_process(data[:-2] + more + data[-2:], uid, layout)
    for padding in (b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff"):
        values, _ = in_process(data[:-2] + padding + data[-2:], uid, layout)
        np.testing.assert_array_equal(values, in_process(data, uid, layout)[0])


@pytest.mark.parametrize("level", [10, 75, 100])
@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_a_jpeg_that_ends_in_black_or_white_is_whole(level: int, subsampling: str) -> None:
    for value in (0, 3, 128, 252, 255):
        for size in (1, 8, 9, 64):
            flat = np.full((size, size, 3), value, np.uint8)
            flat[0, 0] = 77
            data = bytes(imagecodecs.jpeg8_encode(flat, level=level, subsampling=subsampling))
            assert in_process(data, JPEG, colour(side=size, photometric="YBR_FULL"))[0].any() or not value


def test_data_that_are_missing_in_a_scan_before_the_last_are_an_error() -> None:
    """Progressive: each of its scans must have all of its data."""
    original = Image.fromarray(np.stack([waves(grey(8)), waves(grey(8)).T, waves(grey(8))[::-1]], -1))
    buffer = io.BytesIO()
    original.save(buffer, "jpeg", progressive=True, quality=95, subsampling=0)
    data = buffer.getvalue()
    layout = colour(photometric="YBR_FULL")
    assert in_process(data, JPEG, layout)[0].any()
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    end = data.rindex(b"\xff\xc4", 0, second)  # a Huffman table stands between the scans
    with pytest.raises(CorruptPixelData, match="before its last pixel"):
        in_process(data[: end - 60].rstrip(b"\xff") + data[end:], JPEG, layout)


@pytest.mark.parametrize("name", ["lossless, 8", "lossless, 16"])
def test_a_lossless_jpeg_with_more_data_than_pixels_is_an_error(name: str) -> None:
    uid, whole, layout = JPEG_STREAMS[name]
    data = bytes(whole)
    scan = data.rindex(b"\xff\xda") + 20
    for more in (bytes(range(1, 5)), bytes(range(1, 200)), data[scan : scan + 100].rstrip(b"\xff")):
        with pytest.raises(CorruptPixelData, match="behind its last pixel"):
            in_process(data[:-2] + more + data[-2:], uid, layout)
    for padding in (b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff"):
        values, _ = in_process(data[:-2] + padding + data[-2:], uid, layout)
        np.testing.assert_array_equal(values, in_process(data, uid, layout)[0])


def test_a_smooth_lossless_jpeg_is_whole() -> None:
    """Constant rows cost a bit a pixel, the last byte holds eight of them, and all data may look like padding."""
    for value in (0, 1, 128, 255):
        for last in (0, 1, 255):
            original = np.full((64, 64), value, np.uint8)
            original[-1, -1] = last or value
            for predictor in (1, 4, 7):
                data = imagecodecs.jpeg8_encode(original, lossless=True, predictor=predictor)
                np.testing.assert_array_equal(in_process(data, LOSSLESS, grey(8))[0], original)


@pytest.mark.parametrize("step", [16, 60, 100])
@pytest.mark.parametrize("value", [2, 100, 136, 250])
def test_jpeg_values_far_beyond_the_range_are_clamped(step: int, value: int) -> None:
    """A flat block is its DC coefficient: 128 + coefficient * step / 8 (ISO 10918-1 A.3.3). IJG's old libjpeg, in GDCM
    and DCMTK, wraps white to black where that is far out."""
    data = bytearray(imagecodecs.jpeg8_encode(np.full((16, 16), value, np.uint8), level=50))
    table = data.index(b"\xff\xdb") + 5
    coefficient = (value - 128) * 8 // data[table]
    data[table] = step
    expected = np.clip(128 + coefficient * step / 8, 0, 255)
    values, _ = in_process(data, JPEG, grey(8, side=16))
    assert np.abs(values - expected).max() <= 1


@pytest.mark.parametrize("lossless", [False, True])
def test_a_jpeg_that_ends_in_mid_grey_is_whole(lossless: bool) -> None:
    original = np.full((64, 64), 128, np.uint8)
    original[:32] = 7
    data = bytes(imagecodecs.jpeg8_encode(original, level=100, lossless=lossless))
    for tail in (b"", b"\0", b"\xff\xd9\0\0"):
        values, _ = in_process(data + tail, LOSSLESS if lossless else JPEG, grey(8))
        np.testing.assert_array_equal(values, original)


@pytest.mark.parametrize("name", [name for name in CODESTREAMS if name != "jpeg-xl"])
def test_a_codestream_that_disagrees_with_the_dataset_is_an_error(name: str) -> None:
    uid, data, layout = CODESTREAMS[name]
    wrong = [replace(layout, rows=63), replace(layout, columns=65), replace(layout, samples_per_pixel=3)]
    if layout.bits_allocated == 16:
        wrong.append(replace(layout, bits_allocated=8, bits_stored=8, high_bit=7))
    for other in wrong:
        with pytest.raises(CorruptPixelData):
            in_process(data, uid, other)


def test_a_mismatch_names_both_sizes() -> None:
    uid, data, layout = CODESTREAMS["j2k"]
    with pytest.raises(CorruptPixelData, match=r"64 x 64 with 1 components.* 63 x 64 with 1"):
        in_process(data, uid, replace(layout, rows=63))


@pytest.mark.parametrize("name", CODESTREAMS)
def test_another_transfer_syntax_than_the_codestream_is_an_error(name: str) -> None:
    uid, _, layout = CODESTREAMS[name]
    for other_uid, data, _ in CODESTREAMS.values():
        # OpenJPEG decodes HTJ2K exactly, whatever the transfer syntax calls it.
        if DECODERS[uid].codec not in (DECODERS[other_uid].codec, "jpeg2000" if other_uid == HTJ2K else ""):
            with pytest.raises(RenderError):
                in_process(data, uid, layout)


def test_errors_that_a_codec_library_swallows_are_errors_here() -> None:
    """imagecodecs only prints the exception of a broken HTJ2K code block and returns a picture."""
    data = bytearray(CODESTREAMS["htj2k"][1])
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(data)
        at = int(rng.integers(200, len(data) - 60))
        broken[at : at + 40] = rng.bytes(40)
        try:
            in_process(bytes(broken), HTJ2K, grey(16))
            outcomes.add("decoded")
        except CorruptPixelData as error:
            outcomes.add(str(error))
    assert "the decoder met an error inside the codestream" in outcomes


RLE_FRAME = bytes(CODESTREAMS["rle"][1])


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        RLE_FRAME[:63],
        b"\x01\0\0\0" + RLE_FRAME[4:],
        b"\x0f\0\0\0" + RLE_FRAME[4:],
        b"\xff\xff\xff\xff" + RLE_FRAME[4:],
        RLE_FRAME[:4] + b"\x00\0\0\0" + RLE_FRAME[8:],
        RLE_FRAME[:8] + b"\x40\0\0\0" + RLE_FRAME[12:],
        RLE_FRAME[:8] + b"\xff\xff\xff\x7f" + RLE_FRAME[12:],
    ],
)
def test_rle_headers_that_do_not_fit_are_errors(broken: bytes) -> None:
    with pytest.raises(CorruptPixelData):
        in_process(broken, RLE, grey(16))


@pytest.mark.parametrize(("first", "second"), [(10, -10), (-10, 10), (0, -1), (-1, 0), (1, 0), (0, 10)])
def test_an_rle_segment_of_the_wrong_length_is_an_error(first: int, second: int) -> None:
    """Also where the other segment makes up for it, so that the total is right."""

    def segment(pixels: int) -> bytes:
        runs, rest = divmod(pixels, 2)
        return b"\xff\x07" * runs + b"\x00\x07" * rest

    segments = segment(4096 + first), segment(4096 + second)
    frame = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)
    with pytest.raises(CorruptPixelData, match="an RLE segment has"):
        in_process(frame, RLE, grey(16))


@pytest.mark.parametrize("padding", [b"\0", b"\0\0"])
def test_padding_behind_the_last_rle_segment_is_ignored(padding: bytes) -> None:
    np.testing.assert_array_equal(in_process(RLE_FRAME + padding, RLE, grey(16))[0], noise(grey(16)))


@pytest.mark.parametrize("layout", [grey(8), grey(16), grey(16, 12), grey(32), grey(16, signed=1)])
def test_rle_of_every_container(layout: PixelLayout) -> None:
    values = noise(layout)
    np.testing.assert_array_equal(in_process(rle_frame(values), RLE, layout)[0], values)


def test_every_worker_codec_is_in_the_table() -> None:
    assert {d.codec for d in DECODERS.values() if d.needs_worker} == set(CODECS)
    assert set(codec_versions()) == {d.codec for d in DECODERS.values()}


def test_through_the_pool_equals_in_process(pool: WorkerPool) -> None:
    for uid, data, layout in CODESTREAMS.values():
        frame = decode(encode(bytes(data), uid, layout), pool, cores=4)
        np.testing.assert_array_equal(stored_values(frame.samples, frame.layout), in_process(data, uid, layout)[0])
        assert frame.decoder == DECODERS[uid].codec
        assert frame.timings["decode"] > 0
        assert unpacked(frame.samples).flags.c_contiguous


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.1.2.4.100", "video"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_an_unknown_transfer_syntax_says_what_would_be_needed(uid: str, words: str) -> None:
    with pytest.raises(UnsupportedTransferSyntax, match=words):
        find_decoder(uid)


def test_limits_grow_with_the_frame() -> None:
    assert time_limit_s(50_000_000) == 3.0
    assert memory_limit(1024) == 512 * 1024 * 1024 + 8192


# Native pixels


@pytest.mark.parametrize("layout", [grey(8), grey(16, 12), grey(16, signed=1), grey(32)])
@pytest.mark.parametrize("uid", [EXPLICIT, BIG_ENDIAN])
def test_native_grey(layout: PixelLayout, uid: str, pool: WorkerPool) -> None:
    values = noise(layout)
    data = values.astype(values.dtype.newbyteorder(">" if uid == BIG_ENDIAN else "<")).tobytes()
    frame = decode(encode(data, uid, layout), pool)
    np.testing.assert_array_equal(frame.samples, values)
    assert frame.samples.dtype == layout.dtype
    assert np.shares_memory(frame.samples, np.frombuffer(data, np.uint8)) == (uid == EXPLICIT or layout == grey(8))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("uid", [EXPLICIT, BIG_ENDIAN])
def test_float_pixels(bits: int, uid: str, pool: WorkerPool) -> None:
    layout = PixelLayout(4, 5, 1, bits, bits, bits - 1, 0, "MONOCHROME2", is_float=True)
    values = np.linspace(-1e9, 1e-9, 20).astype(layout.dtype).reshape(4, 5)
    data = values.astype(values.dtype.newbyteorder(">" if uid == BIG_ENDIAN else "<")).tobytes()
    np.testing.assert_array_equal(decode(encode(data, uid, layout), pool).samples, values)


def test_planes_are_interleaved(pool: WorkerPool) -> None:
    layout = colour(planar=1)
    values = noise(layout)
    frame = decode(encode(values.transpose(2, 0, 1).tobytes(), EXPLICIT, layout), pool)
    np.testing.assert_array_equal(frame.samples, values)
    assert frame.layout.planar_configuration == 0


def test_bits_unpack_lowest_first_and_columns_need_not_fill_bytes(pool: WorkerPool) -> None:
    layout = PixelLayout(3, 5, 1, 1, 1, 0, 0, "MONOCHROME2")
    frame = decode(encode(bytes([0b10010001, 0b01000010]), EXPLICIT, layout), pool)
    assert unpacked(frame.samples).tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]]


def test_chroma_of_uncompressed_422_serves_two_pixels(pool: WorkerPool) -> None:
    layout = PixelLayout(1, 4, 3, 8, 8, 7, 0, "YBR_FULL_422")
    frame = decode(encode(bytes([10, 11, 1, 2, 20, 21, 3, 4]), EXPLICIT, layout), pool)
    assert unpacked(frame.samples).tolist() == [[[10, 1, 2], [11, 1, 2], [20, 3, 4], [21, 3, 4]]]
    assert frame.layout.photometric_interpretation == "YBR_FULL"
    with pytest.raises(CorruptPixelData, match="even number of columns"):
        decode(encode(bytes(6), EXPLICIT, replace(layout, columns=3)), pool)


def test_a_wrong_length_names_both_and_one_pad_byte_is_allowed(pool: WorkerPool) -> None:
    layout = grey(8, side=3)
    assert decode(encode(bytes(10), EXPLICIT, layout), pool).samples.shape == (3, 3)
    for length in (8, 11):
        with pytest.raises(CorruptPixelData, match=f"has {length} bytes, expected 9"):
            decode(encode(bytes(length), EXPLICIT, layout), pool)


PACKINGS = {
    "bits": (Packing.BITS, PixelLayout(7, 5, 1, 1, 1, 0, 0, "MONOCHROME2"), EXPLICIT),
    "big endian": (Packing.BIG_ENDIAN, PixelLayout(7, 5, 1, 16, 12, 11, 1, "MONOCHROME2"), BIG_ENDIAN),
    "422": (Packing.CHROMA_422, PixelLayout(7, 6, 3, 8, 8, 7, 0, "YBR_FULL_422"), EXPLICIT),
    "planes": (Packing.PLANES, PixelLayout(7, 5, 3, 16, 16, 15, 0, "RGB", 1), EXPLICIT),
    "big-endian planes": (Packing.PLANES, PixelLayout(7, 5, 3, 16, 16, 15, 0, "RGB", 1), BIG_ENDIAN),
    "RLE": (Packing.BYTE_PLANES, PixelLayout(7, 5, 1, 16, 12, 11, 1, "MONOCHROME2"), RLE),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_what_is_left_to_a_device_becomes_the_same_samples(name: str, pool: WorkerPool) -> None:
    packing, layout, uid = PACKINGS[name]
    data = np.random.default_rng(7).bytes(frame_bytes(layout))
    if uid == RLE:
        data = encode_pixel_data(data, rows=7, columns=5, samples_per_pixel=1, bits_allocated=16, byteorder="<")
    frame = encode(data, uid, layout)
    whole, packed = decode(frame, pool), decode(frame, pool, packed=True)
    assert not isinstance(whole.samples, Packed)
    assert isinstance(packed.samples, Packed)
    assert packed.samples.packing is packing
    assert (packed.samples.shape, packed.samples.dtype) == (layout.shape, layout.dtype)
    assert packed.layout == whole.layout
    np.testing.assert_array_equal(unpacked(packed.samples), whole.samples)


def test_samples_that_need_no_unpacking_are_not_left_to_a_device(pool: WorkerPool) -> None:
    for uid in (EXPLICIT, BIG_ENDIAN):
        layout = grey(8, side=4)
        frame = decode(encode(bytes(16), uid, layout), pool, packed=True)
        assert isinstance(frame.samples, np.ndarray)


def test_deflated_frames_and_deflate_bombs(pool: WorkerPool) -> None:
    layout = grey(16)
    uid, values = "1.2.840.10008.1.2.8.1", noise(layout)

    def deflate(data: bytes) -> bytes:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush()

    np.testing.assert_array_equal(decode(encode(deflate(values.tobytes()), uid, layout), pool).samples, values)
    whole = deflate(values.tobytes())
    np.testing.assert_array_equal(decode(encode(whole + b"\0\0", uid, layout), pool).samples, values)
    for broken in (deflate(bytes(1 << 26)), whole[:-50], whole[:-1], whole * 2, b"", b"\xff" * 100):
        with pytest.raises(CorruptPixelData):
            decode(encode(broken, uid, layout), pool)


@pytest.mark.parametrize("bits", [0, 2, 12, 24, 64])
def test_containers_that_no_kernel_reads_are_refused(bits: int, pool: WorkerPool) -> None:
    with pytest.raises(NotRenderable, match=f"Bits Allocated {bits} "):
        decode(encode(b"", EXPLICIT, replace(grey(16), bits_allocated=bits)), pool)
