"""Whole pictures, file to answer: archive, decode, fold and kernel against PS3.3 written out again in float64."""

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from gpu_render.archive.file import FileArchive
from gpu_render.errors import (
    CorruptPixelData,
    NotRenderable,
    RenderError,
    UnreadableFile,
    UnsupportedTransferSyntax,
)
from gpu_render.frame import RenderedFrame, VoiFunction, Window
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.view import Region, Stage, View
from gpu_render.workers import WorkerPool
from kernels import open_backend
from tests import data
from tests.data import Raw

Array = npt.NDArray[Any]
Show = Callable[..., RenderedFrame]

RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
BITS_8 = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with contextlib.closing(WorkerPool(2)) as running:
        yield running


@pytest.fixture
def show(pool: WorkerPool) -> Show:
    """Renders a frame of a file as the command line does, with the pool shared by all tests."""

    async def render(file: Path, stage: str, frame: int, view: dict[str, Any]) -> RenderedFrame:
        with contextlib.ExitStack() as stack:
            backend = stack.enter_context(contextlib.closing(open_backend("cpu")))
            archive = stack.enter_context(contextlib.closing(FileArchive(file, pool)))
            settings = Settings(backend="cpu", workers=1)
            renderer = stack.enter_context(contextlib.closing(Renderer(archive, backend, pool, settings)))
            return await renderer.render(archive.ref(frame), View(stage=Stage(stage), **view))

    def run(file: Path, stage: str = "display", frame: int = 1, **view: Any) -> RenderedFrame:
        return asyncio.run(render(file, stage, frame, view))

    return run


def lut(first: int, entries: list[int], bits: int) -> dict[str, Any]:
    """An item of a Modality, VOI or Presentation LUT Sequence, entries one to a word."""
    descriptor = struct.pack("<3H", len(entries) & 0xFFFF, first & 0xFFFF, bits)
    return {"LUTDescriptor": Raw("US", descriptor), "LUTData": Raw("OW", np.array(entries, "<u2").tobytes())}


def grey(modality: Array, center: float, width: float, function: str = "LINEAR", invert: bool = False) -> Array:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 as they are printed, in float64; output 0 to 255, rounded half up."""
    x = modality.astype(np.float64)
    if function == "SIGMOID":
        y = 255 / (1 + np.exp(-4 * (x - center) / width))
    elif function == "LINEAR_EXACT":
        y = np.where(x <= center - width / 2, 0, ((x - center) / width + 0.5) * 255)
        y = np.where(x > center + width / 2, 255, y)
    else:
        y = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
        y = np.where(x <= center - 0.5 - (width - 1) / 2, 0, y)
        y = np.where(x > center - 0.5 + (width - 1) / 2, 255, y)
    shown = np.floor(y + 0.5).astype(np.uint8)
    return 255 - shown if invert else shown


def assert_within_one(pixels: Array, want: Array, many: int = 0) -> None:
    """Within one grey level, and in at most ``many`` pixels not equal."""
    assert pixels.shape == want.shape
    difference = np.abs(pixels.astype(int) - want)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= many


def encapsulated(
    path: Path, codestream: bytes | bytearray, syntax: str, rows: int, columns: int, **changes: Any
) -> Path:
    """A file of one frame."""
    padded = bytes(codestream) + b"\0" * (len(codestream) % 2)
    attributes = data.image(rows, columns, **changes)
    return data.write(path, attributes, data.encapsulate([padded]), syntax, encapsulated=True)


# --- bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [data.IMPLICIT_LE, data.EXPLICIT_LE, data.EXPLICIT_BE, data.DEFLATED])
@pytest.mark.parametrize(("stored_bits", "high_bit"), [(12, 11), (12, 15), (10, 12), (16, 15)])
@pytest.mark.parametrize("signed", [0, 1])
def test_only_bits_stored_at_high_bit_are_seen(
    syntax: str, stored_bits: int, high_bit: int, signed: int, tmp_path: Path, show: Show
) -> None:
    generator = np.random.default_rng(stored_bits + high_bit)
    low = -(1 << (stored_bits - 1)) if signed else 0
    values = generator.integers(low, low + (1 << stored_bits), (5, 7), dtype=np.int64)
    shift = high_bit + 1 - stored_bits
    mask = ((1 << stored_bits) - 1) << shift
    garbage = generator.integers(0, 1 << 16, values.shape, dtype=np.int64) & ~mask & 0xFFFF
    raw = (((values << shift) & mask) | garbage).astype(">u2" if syntax == data.EXPLICIT_BE else "<u2")
    attributes = data.image(
        *values.shape, BitsStored=stored_bits, HighBit=high_bit, PixelRepresentation=signed,
        RescaleSlope="2", RescaleIntercept="-24", WindowCenter="100", WindowWidth="3000",
    )  # fmt: skip
    file = data.write(tmp_path / "a.dcm", attributes, raw.tobytes(), syntax)
    stored = show(file, "stored")
    assert stored.pixels.dtype == ("<i2" if signed else "<u2")
    np.testing.assert_array_equal(stored.pixels, values)
    np.testing.assert_array_equal(show(file, "modality").pixels, 2 * values - 24)
    assert_within_one(show(file).pixels, grey(2 * values - 24, 100, 3000))


def test_big_endian_words_of_odd_8_bit_frames(tmp_path: Path, show: Show) -> None:
    frames = np.arange(45, dtype=np.uint8).reshape(3, 3, 5)
    swapped = np.frombuffer(frames.tobytes() + b"\0", "<u2").byteswap().tobytes()
    attributes = data.image(3, 5, NumberOfFrames=3, **BITS_8)
    file = data.write(tmp_path / "a.dcm", attributes, swapped, data.EXPLICIT_BE)
    for number, frame in enumerate(frames, 1):
        np.testing.assert_array_equal(show(file, "stored", number).pixels, frame)


def test_1_bit_frames_that_begin_inside_a_byte(tmp_path: Path, show: Show) -> None:
    frames = np.random.default_rng(5).integers(0, 2, (4, 3, 7), dtype=np.uint8)
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    attributes = data.image(3, 7, NumberOfFrames=4, BitsAllocated=1, BitsStored=1, HighBit=0)
    file = data.write(tmp_path / "a.dcm", attributes, packed, vr="OB")
    for number, frame in enumerate(frames, 1):
        np.testing.assert_array_equal(show(file, "stored", number).pixels, frame)
        np.testing.assert_array_equal(show(file, "display", number).pixels, 255 * frame)


def test_one_bit_has_no_sign(tmp_path: Path, show: Show) -> None:
    """Signed, its values would be 0 and -1: foreground black, background white."""
    attributes = data.image(8, 8, BitsAllocated=1, BitsStored=1, HighBit=0, PixelRepresentation=1)
    file = data.write(tmp_path / "a.dcm", attributes, bytes(range(8)), vr="OB")
    with pytest.raises(CorruptPixelData, match="PixelRepresentation"):
        show(file)


@pytest.mark.parametrize("kind", ["<i4", "<u4"])
def test_32_bit_samples_are_exact(kind: str, tmp_path: Path, show: Show) -> None:
    limits = np.iinfo(kind)
    values = np.array([[limits.min, limits.max, 2**24 + 1, 2**24 + 3], [0, 1, 2**30 + 1, 5]], kind)
    file = data.write_image(tmp_path / "a.dcm", values, WindowCenter=str(2**24 + 2.5), WindowWidth="5")
    np.testing.assert_array_equal(show(file, "stored").pixels, values)
    np.testing.assert_array_equal(show(file).pixels, grey(values, 2**24 + 2.5, 5))
    window = Window(2**24 + 2, 4, VoiFunction.SIGMOID)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(show(file, window=window).pixels, grey(values, 2**24 + 2, 4, "SIGMOID"))


def test_big_endian_samples_of_32_bits_are_said_to_be_doubtful(tmp_path: Path, pool: WorkerPool, show: Show) -> None:
    values = np.array([[1249000, 1250000]], ">u4")
    tags = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
    file = data.write(tmp_path / "a.dcm", data.image(1, 2, **tags), values.tobytes(), data.EXPLICIT_BE)
    np.testing.assert_array_equal(show(file, "stored").pixels, values)
    with contextlib.closing(FileArchive(file, pool)) as archive:
        assert "swap their halves" in archive.describe(archive.ref(1)).presentation.notes[0]


def test_files_without_a_preamble_or_meta_information(tmp_path: Path, show: Show) -> None:
    for name, options in (("a", {"preamble": False}), ("b", {"preamble": False, "meta": False})):
        file = data.write(tmp_path / name, data.image(8, 8), RAMP.tobytes(), **options)
        np.testing.assert_array_equal(show(file, "stored").pixels, RAMP)


# --- lengths that disagree ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"Columns": 4}, {"Rows": 4}, {"Columns": 7}, {"Rows": 7}, BITS_8, {"NumberOfFrames": 1, "Rows": 2}]
)
@pytest.mark.parametrize("syntax", [data.EXPLICIT_LE, data.DEFLATED])
def test_more_pixels_than_the_header_says_are_refused(
    changes: dict[str, Any], syntax: str, tmp_path: Path, show: Show
) -> None:
    """Fewer columns than the writer had shear the picture, fewer bits tear it, fewer rows cut it off."""
    attributes = data.image(8, 8, **changes)
    file = data.write(tmp_path / "a.dcm", attributes, RAMP.tobytes(), syntax)
    with pytest.raises(CorruptPixelData, match="longer"):
        show(file)


@pytest.mark.parametrize("syntax", [data.EXPLICIT_LE, data.EXPLICIT_BE, data.DEFLATED])
def test_bytes_lost_from_the_pixels_are_not_made_up_by_what_follows(syntax: str, tmp_path: Path, show: Show) -> None:
    """Trailing padding (PS3.10 7.2) would move up and take their place: the picture would be sheared."""
    noise = np.random.default_rng(8).integers(1, 256, 4096, dtype=np.uint8).tobytes()
    attributes = data.image(8, 8)
    trailing = data.element(0xFFFCFFFC, noise[:600], syntax, vr="OB")
    pixels = data.element(0x7FE00010, noise[:128], syntax, vr="OW")
    for lost in (0, 10):
        body = data.dataset(attributes, syntax) + pixels[:-100] + pixels[-100 + lost :] + trailing
        head = data.file_bytes({"SOPInstanceUID": attributes["SOPInstanceUID"]}, syntax=syntax)
        head = head[: head.index(syntax.encode()) + len(syntax) + len(syntax) % 2]
        file = tmp_path / f"{lost}.dcm"
        file.write_bytes(head + (data.deflate(body) if syntax == data.DEFLATED else body))
        if lost:
            with pytest.raises(CorruptPixelData, match="follows"):
                show(file)
        else:
            assert show(file, "stored").pixels.shape == (8, 8)


@pytest.mark.parametrize("syntax", [data.EXPLICIT_LE, data.DEFLATED])
def test_zeros_behind_the_last_frame_are_padding(syntax: str, tmp_path: Path, show: Show) -> None:
    file = data.write(tmp_path / "a.dcm", data.image(8, 8), RAMP.tobytes() + bytes(32), syntax)
    np.testing.assert_array_equal(show(file, "stored").pixels, RAMP)


# --- modality and VOI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [..., "INVERSE"])
@pytest.mark.parametrize("slope", ["-3", "0.125", "0", None])
def test_slope_window_and_inversion(photometric: str, shape: Any, slope: Any, tmp_path: Path, show: Show) -> None:
    values = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    file = data.write_image(
        tmp_path / "a.dcm", values, PhotometricInterpretation=photometric, PresentationLUTShape=shape,
        RescaleSlope=slope, RescaleIntercept="10", WindowCenter="20\\7", WindowWidth="0\\90",
    )  # fmt: skip
    modality = values * float(slope) + 10 if slope not in ("0", None) else values.astype(float)
    np.testing.assert_array_equal(show(file, "modality").pixels, modality)
    shown = show(file)
    assert shown.window == Window(7, 90)
    assert_within_one(shown.pixels, grey(modality, 7, 90, invert=photometric == "MONOCHROME1" or shape == "INVERSE"))


@pytest.mark.parametrize("function", list(VoiFunction))
@pytest.mark.parametrize("center", [-1e6, 70000, 32768.25])
def test_windows_beside_the_values(function: VoiFunction, center: float, tmp_path: Path, show: Show) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    file = data.write_image(tmp_path / "a.dcm", values)
    shown = show(file, window=Window(center, 1000.5, function))
    with np.errstate(over="ignore"):
        assert_within_one(shown.pixels, grey(values, center, 1000.5, function.value), many=2)


def test_modality_lut_of_signed_input_and_voi_lut_of_its_output(tmp_path: Path, show: Show) -> None:
    values = np.arange(-32, 32, dtype=np.int16).reshape(8, 8)
    table = [1000 + 7 * i for i in range(20)]
    file = data.write_image(
        tmp_path / "a.dcm", values, ModalityLUTSequence=[lut(-10, table, 16) | {"ModalityLUTType": "US"}],
        VOILUTSequence=[lut(1030, list(range(0, 4096, 64)), 12)],
    )  # fmt: skip
    modality = np.array(table)[np.clip(values + 10, 0, 19)]
    np.testing.assert_array_equal(show(file, "modality").pixels, modality)
    want = np.floor(np.clip(modality - 1030, 0, 63) * 64 * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(show(file).pixels, want)


def test_a_modality_lut_without_a_window_shows_the_range_of_the_frames_own_values(tmp_path: Path, show: Show) -> None:
    table = [(k * 37) % 64 for k in range(64)]
    table[20], table[21] = 5000, 60000  # these inputs are not in the frame, though others on both sides of them are
    values = np.where((RAMP == 20) | (RAMP == 21), 3, RAMP).astype(np.uint16)
    file = data.write_image(
        tmp_path / "a.dcm",
        values,
        PixelPaddingValue=63,
        ModalityLUTSequence=[lut(0, table, 16) | {"ModalityLUTType": "US"}],
    )
    modality = np.array(table)[values]
    low, high = modality[values != 63].min(), modality[values != 63].max()
    shown = show(file)
    assert shown.window == Window((low + high) / 2, float(high - low), VoiFunction.LINEAR_EXACT, "range of the frame")
    want = grey(modality, (low + high) / 2, high - low, "LINEAR_EXACT")
    assert_within_one(np.where(values == 63, 0, shown.pixels), np.where(values == 63, 0, want))
    assert not shown.pixels[values == 63].any()


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2"])
def test_the_modality_lut_of_angiography_is_none_for_display(sop_class: str, tmp_path: Path, show: Show) -> None:
    intensity = [lut(0, [1000 * k for k in range(64)], 16) | {"ModalityLUTType": "US"}]
    file = data.write_image(
        tmp_path / "a.dcm",
        RAMP,
        SOPClassUID=sop_class,
        ModalityLUTSequence=intensity,
        WindowCenter="32",
        WindowWidth="64",
    )
    np.testing.assert_array_equal(show(file).pixels, grey(RAMP, 32, 64))


def test_entries_beyond_their_declared_bits_have_16(tmp_path: Path, show: Show) -> None:
    """As DCMTK takes them; clamped to 12 bits, nearly all of the picture would be white."""
    entries = [4369 * k for k in range(16)]
    file = data.write_image(tmp_path / "a.dcm", RAMP, VOILUTSequence=[lut(0, entries, 12)])
    want = 17 * np.minimum(RAMP, 15)
    np.testing.assert_array_equal(show(file).pixels, want)


@pytest.mark.parametrize("value", [0, 1])
def test_a_frame_of_one_bit_and_one_value_shows_which(value: int, tmp_path: Path, show: Show) -> None:
    attributes = data.image(8, 8, BitsAllocated=1, BitsStored=1, HighBit=0)
    file = data.write(tmp_path / "a.dcm", attributes, bytes([255 * value]) * 8)
    assert set(show(file).pixels.flat) == {255 * value}


def test_voi_lut_with_a_negative_first_value_after_rescale(tmp_path: Path, show: Show) -> None:
    file = data.write_image(
        tmp_path / "a.dcm", RAMP, RescaleSlope="1", RescaleIntercept="-30", WindowCenter="1", WindowWidth="2",
        VOILUTSequence=[lut(-20, list(range(100, 140)), 8)],
    )  # fmt: skip
    np.testing.assert_array_equal(show(file).pixels, 100 + np.clip(RAMP.astype(int) - 30 + 20, 0, 39))


def test_voi_lut_of_functional_groups_comes_before_the_root(tmp_path: Path, show: Show) -> None:
    """PS3.3 C.7.6.16.2.10b: Frame VOI LUT Sequence may hold a VOI LUT Sequence."""
    own, shared, root = ([lut(0, [level] * 64, 8)] for level in (50, 150, 250))
    file = data.write_image(
        tmp_path / "a.dcm", np.stack([RAMP, RAMP, RAMP]), VOILUTSequence=root,
        SharedFunctionalGroupsSequence=[{"FrameVOILUTSequence": [{"VOILUTSequence": shared}]}],
        PerFrameFunctionalGroupsSequence=[
            {"FrameVOILUTSequence": [{"VOILUTSequence": own}]},
            {},
            {"FrameVOILUTSequence": [{"WindowCenter": "32", "WindowWidth": "64"}]},
        ],
    )  # fmt: skip
    assert set(show(file, frame=1).pixels.flat) == {50}
    assert set(show(file, frame=2).pixels.flat) == {150}
    np.testing.assert_array_equal(show(file, frame=3).pixels, grey(RAMP, 32, 64))


@pytest.mark.parametrize("bits", [10, 16])
def test_a_presentation_lut_comes_after_the_window(bits: int, tmp_path: Path, show: Show) -> None:
    """PS3.3 C.11.6.1.1: the window's whole output range maps to the entries; their whole range is black to white."""
    top = (1 << bits) - 1
    table = [top * (1023 - i) ** 2 // 1023**2 for i in range(1024)]
    file = data.write_image(
        tmp_path / "a.dcm", RAMP, PresentationLUTSequence=[lut(0, table, bits)], WindowCenter="30", WindowWidth="41",
        VOILUTFunction="LINEAR_EXACT",
    )  # fmt: skip
    fraction = np.clip((RAMP - 30.0) / 41 + 0.5, 0, 1)
    want = np.floor(np.array(table)[np.floor(fraction * 1023 + 0.5).astype(int)] * 255 / top + 0.5)
    np.testing.assert_array_equal(show(file).pixels, want)
    np.testing.assert_array_equal(show(file, invert=True).pixels, 255 - want)
    np.testing.assert_array_equal(show(file, "modality").pixels, RAMP)
    other = np.clip((RAMP - 9.5) / 15 + 0.5, 0, 1)  # LINEAR 10, 16
    want = np.floor(np.array(table)[np.floor(other * 1023 + 0.5).astype(int)] * 255 / top + 0.5)
    np.testing.assert_array_equal(show(file, window=Window(10, 16)).pixels, want)


def test_a_presentation_lut_comes_after_a_sigmoid_and_after_a_voi_lut(tmp_path: Path, show: Show) -> None:
    table = [(i * 37) % 1024 for i in range(256)]
    common: dict[str, Any] = {"PresentationLUTSequence": [lut(0, table, 10)]}
    curved = data.write_image(
        tmp_path / "a.dcm", RAMP, WindowCenter="30", WindowWidth="20", VOILUTFunction="SIGMOID", **common
    )
    entries = np.floor(255 / (1 + np.exp(-4 * (RAMP - 30.0) / 20)) + 0.5).astype(int)
    np.testing.assert_array_equal(show(curved).pixels, np.floor(np.array(table)[entries] * 255 / 1023 + 0.5))
    mapped = data.write_image(
        tmp_path / "b.dcm", RAMP, VOILUTSequence=[lut(0, [17 * (i % 16) for i in range(64)], 8)], **common
    )
    entries = 17 * (RAMP.astype(int) % 16)
    np.testing.assert_array_equal(show(mapped).pixels, np.floor(np.array(table)[entries] * 255 / 1023 + 0.5))


def test_padding_stays_black_through_a_presentation_lut(tmp_path: Path, show: Show) -> None:
    negative = lut(0, list(range(1023, -1, -1)), 10)
    file = data.write_image(tmp_path / "a.dcm", RAMP, PresentationLUTSequence=[negative], PixelPaddingValue=5)
    shown = show(file).pixels
    assert not shown[RAMP == 5].any()
    assert shown[RAMP == 0].all()


@pytest.mark.parametrize(
    "tags", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}], ids=["mono1", "shape"]
)
def test_an_ambiguous_presentation_lut_is_refused(tags: dict[str, str], tmp_path: Path, show: Show) -> None:
    file = data.write_image(tmp_path / "a.dcm", RAMP, PresentationLUTSequence=[lut(0, [0] * 256, 10)], **tags)
    with pytest.raises(NotRenderable, match="ambiguous"):
        show(file)


def test_a_presentation_lut_that_does_not_begin_at_0_is_refused(tmp_path: Path, show: Show) -> None:
    file = data.write_image(tmp_path / "a.dcm", RAMP, PresentationLUTSequence=[lut(1, [0] * 256, 10)])
    with pytest.raises(CorruptPixelData, match="first value"):
        show(file)


def palette_tags(first: int, entries: int, bits: int = 8) -> tuple[dict[str, Any], Array]:
    """Three palette tables and, shape (entries, 3), what they hold; 16-bit entries are the 8-bit ones twice."""
    colours = np.stack([np.arange(entries) * k % 256 for k in (3, 5, 7)], axis=1).astype(np.uint8)
    tags: dict[str, Any] = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        keyword = f"{name}PaletteColorLookupTable"
        words = colours[:, channel].astype("<u2") * (257 if bits == 16 else 1)
        raw = words.tobytes() if bits == 16 else colours[:, channel].tobytes()
        tags[f"{keyword}Descriptor"] = Raw("US", struct.pack("<3H", entries, first & 0xFFFF, bits))
        tags[f"{keyword}Data"] = Raw("OW", raw)
    return tags, colours


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("signed", [0, 1])
def test_supplemental_palette(bits: int, signed: int, tmp_path: Path, show: Show) -> None:
    """PS3.3 C.8.16.2.1.1.1: grey through the window below the first mapped value, colours from there on."""
    samples = np.arange(-20 if signed else 0, 236 if signed else 256, dtype=np.int16).reshape(16, 16)
    first = -4 if signed else 100
    tags, colours = palette_tags(first, 64, bits)
    file = data.write_image(
        tmp_path / "a.dcm", samples.astype("i2" if signed else "u2"), PixelPresentation="COLOR", WindowCenter="20",
        WindowWidth="61", RescaleSlope="2", RescaleIntercept="-10", **tags,
    )  # fmt: skip
    shown = show(file)
    coloured = samples >= first
    for channel in range(3):
        plane = shown.pixels[..., channel]
        np.testing.assert_array_equal(plane[coloured], colours[np.clip(samples - first, 0, 63), channel][coloured])
        np.testing.assert_array_equal(plane[~coloured], grey(2 * samples - 10.0, 20, 61)[~coloured])
    assert shown.window == Window(20, 61)
    np.testing.assert_array_equal(show(file, "stored").pixels, samples)
    with pytest.raises(NotRenderable, match="no modality values"):
        show(file, "modality")
    inverted = show(file, invert=True).pixels
    np.testing.assert_array_equal(inverted[coloured], shown.pixels[coloured])
    np.testing.assert_array_equal(inverted[~coloured], 255 - shown.pixels[~coloured])


def test_without_a_window_the_range_of_the_grey_values_alone_is_shown(tmp_path: Path, show: Show) -> None:
    tags, _ = palette_tags(60, 64)
    image = np.where(RAMP < 60, RAMP, 63).astype(np.uint16)
    file = data.write_image(tmp_path / "a.dcm", image, PixelPresentation="COLOR", **tags)
    assert show(file).window == Window(29.5, 59, VoiFunction.LINEAR_EXACT, "range of the frame")
    beside = data.write_image(tmp_path / "b.dcm", image, PixelPresentation="COLOR", PixelPaddingValue=59, **tags)
    assert show(beside).window == Window(29, 58, VoiFunction.LINEAR_EXACT, "range of the frame")
    assert not show(beside).pixels[image == 59].any()
    apart = data.write_image(tmp_path / "c.dcm", image, PixelPresentation="COLOR", PixelPaddingValue=0, **tags)
    with pytest.raises(NotRenderable, match="ask for a window"):
        show(apart)
    assert not show(apart, window=Window(20, 400)).pixels[image == 0].any()


def test_each_frame_says_whether_its_palette_counts(tmp_path: Path, show: Show) -> None:
    tags, colours = palette_tags(32, 32)
    frames = [{"MRImageFrameTypeSequence": [{"PixelPresentation": kind}]} for kind in ("MONOCHROME", "COLOR")]
    file = data.write_image(
        tmp_path / "a.dcm", np.stack([RAMP, RAMP]), PixelPresentation="MIXED", WindowCenter="32", WindowWidth="65",
        PerFrameFunctionalGroupsSequence=frames, **tags,
    )  # fmt: skip
    assert show(file, frame=1).pixels.shape == RAMP.shape
    np.testing.assert_array_equal(show(file, frame=1).pixels, grey(RAMP, 32, 65))
    assert np.array_equal(show(file, frame=2).pixels[RAMP >= 32], colours)


@pytest.mark.parametrize("group", ["XRay3DFrameTypeSequence", "PETFrameTypeSequence", "CTImageFrameTypeSequence"])
def test_the_frame_types_of_every_kind_say_what_is_colour(group: str, tmp_path: Path, show: Show) -> None:
    shared = [{group: [{"PixelPresentation": "MONOCHROME"}]}]
    file = data.write_image(tmp_path / "a.dcm", RAMP, PixelPresentation="MIXED", SharedFunctionalGroupsSequence=shared)
    assert show(file).pixels.shape == RAMP.shape


def test_an_error_of_one_frame_says_which_it_is(tmp_path: Path, show: Show) -> None:
    slopes = [{"PixelValueTransformationSequence": [{"RescaleSlope": s, "RescaleIntercept": 0}]} for s in (1, "x", 2)]
    file = data.write_image(tmp_path / "a.dcm", np.stack([RAMP] * 3), PerFrameFunctionalGroupsSequence=slopes)
    with pytest.raises(CorruptPixelData, match="frame 2: RescaleSlope is malformed"):
        show(file)


@pytest.mark.parametrize("vr", ["OB", "OD", "OF", "OL", "OV", "SV", "UC", "UN", "UR", "UV"])
def test_any_element_may_follow_the_pixels(vr: str, tmp_path: Path, show: Show) -> None:
    file = data.write_image(tmp_path / "a.dcm", RAMP)
    follower = data.element(0x7FE11010, bytes(8), vr=vr)
    file.write_bytes(file.read_bytes() + follower)
    np.testing.assert_array_equal(show(file, "stored").pixels, RAMP)


def test_an_implicit_data_set_that_is_called_explicit_may_end_with_padding(tmp_path: Path, show: Show) -> None:
    body = data.dataset(data.image(8, 8, SOPInstanceUID="1.2.3"), data.IMPLICIT_LE)
    body += data.element(0x7FE00010, RAMP.tobytes(), data.IMPLICIT_LE)
    body += data.element(0xFFFCFFFC, bytes(10), data.IMPLICIT_LE, vr="OB")
    file = tmp_path / "a.dcm"
    file.write_bytes(bytes(128) + b"DICM" + data.file_meta(data.EXPLICIT_LE, "1.2.3") + body)
    np.testing.assert_array_equal(show(file, "stored").pixels, RAMP)


def test_a_palette_beside_grey_pixels_is_no_reason_to_colour_them(tmp_path: Path, show: Show) -> None:
    tags, _ = palette_tags(0, 64)
    for presentation in ("MONOCHROME", ...):
        file = data.write_image(tmp_path / "a.dcm", RAMP, PixelPresentation=presentation, **tags)
        assert show(file).pixels.ndim == 2


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({"PixelPresentation": "COLOR"}, CorruptPixelData),
        ({"PixelPresentation": "MIXED"}, NotRenderable),
        ({"PixelPresentation": "COLOR", "PhotometricInterpretation": "MONOCHROME1"}, CorruptPixelData),
    ],
    ids=["no palette", "frame silent", "mono1"],
)
def test_colour_that_cannot_be_made_is_not_shown_as_grey(
    tags: dict[str, str], error: type[Exception], tmp_path: Path, show: Show
) -> None:
    with pytest.raises(error):
        show(data.write_image(tmp_path / "a.dcm", RAMP, **tags))


def jpeg2000_file(path: Path, syntax: int, frames: list[bytes], columns: int) -> Path:
    number = {"NumberOfFrames": columns // 8} if columns > 8 else {}
    attributes = data.image(8, 8, BitsAllocated=8, BitsStored=8, HighBit=7, **number)
    uid = f"1.2.840.10008.1.2.4.{syntax}"
    return data.write(path, attributes, data.encapsulate(frames), uid, encapsulated=True)


@pytest.mark.parametrize("syntax", [92, 93])
def test_jpeg_2000_part_2_is_decoded_where_it_needs_no_extension(syntax: int, tmp_path: Path, show: Show) -> None:
    pixels = RAMP.astype(np.uint8)
    plain = bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="J2K"))
    np.testing.assert_array_equal(show(jpeg2000_file(tmp_path / "a.dcm", syntax, [plain], 8), "stored").pixels, pixels)
    extended = bytearray(plain)
    extended[6] |= 0x80  # Rsiz, ISO 15444-2 A.2.1: extensions are in use
    with pytest.raises(UnsupportedTransferSyntax, match=rf"1\.2\.840\.10008\.1\.2\.4\.{syntax} .*Part 2"):
        show(jpeg2000_file(tmp_path / "b.dcm", syntax, [bytes(extended)], 8))
    with pytest.raises(UnsupportedTransferSyntax, match="Part 2"):
        show(jpeg2000_file(tmp_path / "c.dcm", syntax, [plain], 24))


def test_rescale_and_windows_of_each_frame(tmp_path: Path, show: Show) -> None:
    def groups(slope: int) -> dict[str, Any]:
        return {
            "PixelValueTransformationSequence": [{"RescaleSlope": slope, "RescaleIntercept": -slope}],
            "FrameVOILUTSequence": [{"WindowCenter": 40 * slope, "WindowWidth": 60 * slope}],
        }

    own = [groups(2), {}, groups(5)]
    file = data.write_image(
        tmp_path / "a.dcm", np.stack([RAMP, RAMP, RAMP]), RescaleSlope="9", RescaleIntercept="9",
        SharedFunctionalGroupsSequence=[groups(3)], PerFrameFunctionalGroupsSequence=own,
    )  # fmt: skip
    for number, slope in ((1, 2), (2, 3), (3, 5)):
        modality = slope * RAMP.astype(int) - slope
        np.testing.assert_array_equal(show(file, "modality", number).pixels, modality)
        assert_within_one(show(file, "display", number).pixels, grey(modality, 40 * slope, 60 * slope))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("dtype", "value", "limit"), [("<i2", 0xFFF6, 0xFFF0), ("<u2", 0xFFF6, 0xFFF0)])
def test_padding_range(photometric: str, dtype: str, value: int, limit: int, tmp_path: Path, show: Show) -> None:
    values = np.arange(64, dtype=dtype).reshape(8, 8)
    values[0, :4] = np.array([0xFFF0, 0xFFF3, 0xFFF6, 0xFFEF], np.uint16).view(dtype)
    padding = {"PixelPaddingValue": Raw("US", struct.pack("<H", value))}
    padding["PixelPaddingRangeLimit"] = Raw("US", struct.pack("<H", limit))
    file = data.write_image(tmp_path / "a.dcm", values, PhotometricInterpretation=photometric, **padding)
    kept = np.ones(values.shape, bool)
    kept[0, :3] = False
    low, high = float(values[kept].min()), float(values[kept].max())
    want = grey(values, (low + high) / 2, high - low, "LINEAR_EXACT", photometric == "MONOCHROME1")
    assert_within_one(show(file).pixels, np.where(kept, want, 0), many=1)


@pytest.mark.parametrize(
    ("keyword", "vr", "dtype"), [("FloatPixelData", "OF", "<f4"), ("DoubleFloatPixelData", "OD", "<f8")]
)
def test_float_pixels_with_nan_and_infinity(keyword: str, vr: str, dtype: str, tmp_path: Path, show: Show) -> None:
    values = np.linspace(-1e-5, 1e-5, 64).astype(dtype).reshape(8, 8)
    bits = {"BitsAllocated": 8 * values.itemsize, "BitsStored": ..., "HighBit": ..., "PixelRepresentation": ...}
    values[3, 3] = np.nan
    attributes = data.image(8, 8, **bits)
    file = data.write(tmp_path / "a.dcm", attributes, values.tobytes(), keyword=keyword, vr=vr)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    want = grey(np.nan_to_num(values, nan=low), (low + high) / 2, high - low, "LINEAR_EXACT")
    assert_within_one(show(file).pixels, want, many=1)
    values[0, 0] = np.inf
    file = data.write(tmp_path / "b.dcm", attributes, values.tobytes(), keyword=keyword, vr=vr)
    np.testing.assert_array_equal(show(file, "stored").pixels, values)
    with pytest.raises(NotRenderable, match="window"):  # an infinite range would show everything black
        show(file)
    window = Window(0, 1e-5, VoiFunction.LINEAR_EXACT)
    want = grey(np.nan_to_num(values, nan=-1, posinf=1), 0, 1e-5, "LINEAR_EXACT")
    assert_within_one(show(file, window=window).pixels, want, many=1)


def test_doubles_that_float32_cannot_hold_have_no_modality_array(tmp_path: Path, show: Show) -> None:
    values = np.array([[0.0, 1e300], [1.5, -2.5]])
    bits = {"BitsAllocated": 64, "BitsStored": ..., "HighBit": ..., "PixelRepresentation": ...}
    file = data.write(
        tmp_path / "a.dcm", data.image(2, 2, **bits), values.tobytes(), keyword="DoubleFloatPixelData", vr="OD"
    )
    with pytest.raises(NotRenderable, match="float32"):
        show(file, "modality")
    with pytest.raises(NotRenderable, match="float32"):
        show(file, "modality", viewport=(1, 1))


# --- colour -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rgb(planar: int, bits: int, tmp_path: Path, show: Show) -> None:
    top = (1 << bits) - 1
    values = np.random.default_rng(bits).integers(0, top + 1, (5, 7, 3)).astype("u1" if bits == 8 else "<u2")
    raw = values.transpose(2, 0, 1) if planar else values
    changes = {**RGB, "PlanarConfiguration": planar, "BitsAllocated": 8 * values.itemsize, "BitsStored": bits}
    attributes = data.image(5, 7, **changes, HighBit=bits - 1)
    file = data.write(tmp_path / "a.dcm", attributes, np.ascontiguousarray(raw).tobytes())
    np.testing.assert_array_equal(show(file, "stored").pixels, values)
    np.testing.assert_array_equal(show(file).pixels, np.floor(values * 255.0 / top + 0.5))


def rgb_of(ybr: Array, partial: bool = False) -> Array:
    """PS3.3 C.7.6.3.1.2 turned round; partial: BT.601 of 16..235 and 16..240."""
    y, cb, cr = np.moveaxis(ybr.astype(float), -1, 0) - [[[16.0 if partial else 0]], [[128]], [[128]]]
    if partial:
        y, cb, cr = y * 255 / 219, cb * 255 / 224, cr * 255 / 224
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    shown: Array = np.floor(np.clip(rgb, 0, 255) + 0.5)
    return shown


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422"])
def test_native_ybr(photometric: str, tmp_path: Path, show: Show) -> None:
    values = np.random.default_rng(3).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    raw = values.tobytes()
    if photometric != "YBR_FULL":
        values[:, 1::2, 1:] = values[:, ::2, 1:]
        pairs = [values[:, ::2, 0], values[:, 1::2, 0], values[:, ::2, 1], values[:, ::2, 2]]
        raw = np.stack(pairs, axis=-1).tobytes()
    attributes = data.image(4, 6, **{**RGB, **BITS_8, "PhotometricInterpretation": photometric})
    file = data.write(tmp_path / "a.dcm", attributes, raw, vr="OB")
    np.testing.assert_array_equal(show(file, "stored").pixels, values)
    want = rgb_of(values, photometric == "YBR_PARTIAL_422")
    assert_within_one(show(file).pixels, want, many=2)


def test_native_422_of_odd_width_is_refused(tmp_path: Path, show: Show) -> None:
    attributes = data.image(4, 5, **{**RGB, **BITS_8, "PhotometricInterpretation": "YBR_FULL_422"})
    file = data.write(tmp_path / "a.dcm", attributes, bytes(40), vr="OB")
    with pytest.raises(CorruptPixelData, match="even number"):
        show(file)


@pytest.mark.parametrize(
    ("dtype", "entries", "first", "bits", "packed"),
    [
        ("u1", 200, 30, 8, True), ("u1", 200, 30, 8, False), ("u1", 256, 0, 16, False),
        ("<u2", 300, 1000, 16, False), ("<i2", 300, -100, 16, False), ("<u2", 65536, 0, 16, False),
    ],
)  # fmt: skip
def test_palettes(dtype: str, entries: int, first: int, bits: int, packed: bool, tmp_path: Path, show: Show) -> None:
    generator = np.random.default_rng(entries)
    limits = np.iinfo(dtype)
    low, high = max(limits.min, first - 50), min(limits.max, first + entries + 50)
    values = generator.integers(low, high, (9, 11)).astype(dtype)
    tables = generator.integers(0, 1 << bits, (3, entries)).astype("u1" if packed else "<u2")
    changes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        descriptor = Raw("US", struct.pack("<3H", entries & 0xFFFF, first & 0xFFFF, bits))
        changes[f"{name}PaletteColorLookupTableDescriptor"] = descriptor
        changes[f"{name}PaletteColorLookupTableData"] = Raw("OW", table.tobytes())
    file = data.write_image(tmp_path / "a.dcm", values, **changes)
    index = np.clip(values.astype(int) - first, 0, entries - 1)
    want = np.floor(tables.T[index] * 255.0 / ((1 << bits) - 1) + 0.5)
    np.testing.assert_array_equal(show(file).pixels, want)


# --- codestreams against the header -------------------------------------------------------------------------


def test_a_codestream_without_the_bits_of_high_bit_is_refused(tmp_path: Path, show: Show) -> None:
    """Bits 4 to 15 of the container cannot come out of 12 bits: shifting them would throw four away."""
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    for bits in (12, 16):
        stream = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat="j2k", reversible=True)
        file = encapsulated(tmp_path / f"{bits}.dcm", stream, data.J2K_LOSSLESS, 16, 16, BitsStored=12, HighBit=15)
        if bits == 12:
            with pytest.raises(CorruptPixelData, match="HighBit"):
                show(file)
        else:
            np.testing.assert_array_equal(show(file, "stored").pixels, values >> 4)


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
def test_the_colour_transform_of_a_codestream_and_of_the_header_agree(
    transform: bool, photometric: str, tmp_path: Path, show: Show
) -> None:
    """Where one says that the components were transformed and the other that they were not, colours are a guess."""
    values = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True, mct=transform)
    changes = {**RGB, **BITS_8, "PhotometricInterpretation": photometric}
    file = encapsulated(tmp_path / "a.dcm", stream, data.J2K_LOSSLESS, 16, 16, **changes)
    if photometric != "RGB" and transform != (photometric in ("YBR_RCT", "YBR_ICT")):
        with pytest.raises(CorruptPixelData, match="colour transform"):
            show(file)
    elif photometric == "YBR_FULL":
        assert_within_one(show(file).pixels, rgb_of(values), many=2)
    else:
        np.testing.assert_array_equal(show(file).pixels, values)


# --- geometry -----------------------------------------------------------------------------------------------


def test_region_and_viewport_of_pixels_that_are_not_square(tmp_path: Path, show: Show) -> None:
    values = np.random.default_rng(9).integers(0, 4096, (30, 40), dtype=np.uint16)
    file = data.write_image(tmp_path / "a.dcm", values, PixelSpacing="2\\1", WindowCenter="2048", WindowWidth="4096")
    region = Region(5, 3, 20, 12)
    part = grey(values, 2048, 4096)[3:15, 5:25].astype(float)
    shown = show(file, region=region, viewport=(50, 50)).pixels
    assert shown.shape == (50, 42)  # 12 rows of 2 mm by 20 columns of 1 mm
    y = np.clip((np.arange(50) + 0.5) * 12 / 50 - 0.5, 0, 11)
    x = np.clip((np.arange(42) + 0.5) * 20 / 42 - 0.5, 0, 19)
    y0, x0 = np.minimum(y.astype(int), 10), np.minimum(x.astype(int), 18)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    top = part[y0][:, x0] * (1 - fx) + part[y0][:, x0 + 1] * fx
    bottom = part[y0 + 1][:, x0] * (1 - fx) + part[y0 + 1][:, x0 + 1] * fx
    assert_within_one(shown, np.floor(top * (1 - fy) + bottom * fy + 0.5), many=20)


# --- hostile files ------------------------------------------------------------------------------------------

MUTATED = (
    "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEG-lossy.dcm", "liver_1frame.dcm",
    "examples_palette.dcm",
)  # fmt: skip


def mutate(content: bytes, seed: int) -> bytes:
    """Flipped bits in the header or anywhere, a cut, or zeros over a stretch."""
    chance = random.Random(seed)
    changed = bytearray(content)
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(changed[: chance.randrange(200, len(changed))])
    if kind == 1:
        begin = chance.randrange(132, len(changed))
        changed[begin : begin + chance.randrange(1, 200)] = b""
        return bytes(changed)
    last = len(changed) if kind == 2 else min(len(changed), 2500)
    for _ in range(chance.randrange(1, 12)):
        changed[chance.randrange(132, last)] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", MUTATED)
def test_broken_files_give_a_picture_or_a_typed_error(name: str, tmp_path: Path, show: Show) -> None:
    content = data.sample(name).read_bytes()
    outcomes = []
    for seed in range(6):
        file = tmp_path / f"{seed}.dcm"
        file.write_bytes(mutate(content, seed))
        try:
            outcomes.append(show(file).pixels.dtype == np.uint8)
        except (RenderError, UnreadableFile):
            outcomes.append(True)
    assert outcomes == [True] * 6
