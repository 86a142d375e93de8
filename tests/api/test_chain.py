"""The pixel chain behind the decoder, stage by stage and over HTTP: post-processing, Modality, padding, VOI,
presentation and geometry of files with known pixels, against the standard's formulas of ``tests.formulas``.

Each case is a file and what must be seen in it: frame, stage and request parameters, and the array.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt
import pytest
from rle.utils import encode_pixel_data

from tests import data
from tests.api.answers import SERIES, STUDY, Answers, assert_problem, serve
from tests.data import Raw
from tests.encoded import POINT_TRANSFORMED
from tests.formulas import (
    WINDOWS,
    bilinear,
    bytes_of,
    linear,
    linear_exact,
    rgb_of_full,
    rgb_of_partial,
    sigmoid,
    table,
    whole_range,
)

Array = npt.NDArray[Any]

ENHANCED_CT, ENHANCED_MR, ENHANCED_PET, PARAMETRIC_MAP, PET = (
    f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("2.1", "4.1", "130", "30", "128")
)
J2K, J2K_LOSSY, JPEG_LS, JPEG_LOSSLESS = (f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 80, 70))
HTJ2K, HTJ2K_LOSSY, JPEG_XL_JPEG, JPEG_XL = (f"1.2.840.10008.1.2.4.{n}" for n in (201, 203, 111, 112))
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
BITS_8 = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
FLOAT: dict[str, Any] = {"BitsStored": ..., "HighBit": ..., "PixelRepresentation": ...}


@dataclass
class Look:
    """One request, and the array that answers it; ``many`` pixels may be one grey level off (ties of float64)."""

    want: Array
    stage: str = "display"
    frame: int = 1
    asked: dict[str, str] = field(default_factory=dict)
    many: int = 0


def look(want: Array, stage: str = "display", frame: int = 1, many: int = 0, **asked: str) -> Look:
    return Look(np.asarray(want), stage, frame, asked, many)


@dataclass
class Case:
    """A file without its SOP Instance UID, and what is seen in it. ``notes``: words of the manifest's notes."""

    attributes: dict[str, Any]
    pixels: bytes
    looks: list[Look]
    syntax: str = data.EXPLICIT_LE
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    elements: bytes = b""  # between the attributes and the pixels

    def write(self, path: Path, uid: str) -> None:
        attributes = {**self.attributes, "SOPInstanceUID": uid}
        if not self.elements:
            data.write(path, attributes, self.pixels, self.syntax, **self.options)
            return
        encapsulated = self.options.get("encapsulated", False)
        length = data.UNDEFINED if encapsulated else None
        vr = "OB" if encapsulated else "OW"
        pixels = data.element(0x7FE00010, self.pixels, self.syntax, vr=vr, length=length)
        path.write_bytes(data.file_bytes(attributes, syntax=self.syntax) + self.elements + pixels)


def shown(samples: Array, *looks: Look, **tags: Any) -> Case:
    """A native file of integer samples, (rows, columns) or (frames, rows, columns); ``notes`` as in Case."""
    notes = tags.pop("notes", ())
    frames, rows, columns = samples.shape if samples.ndim == 3 else (1, *samples.shape)
    size = 8 * samples.dtype.itemsize
    bits = {"BitsAllocated": size, "BitsStored": size, "HighBit": size - 1}
    number = {"NumberOfFrames": frames} if frames > 1 else {}
    signed = {"PixelRepresentation": int(samples.dtype.kind == "i")}
    attributes = data.image(rows, columns, **{**bits, **signed, **number, **tags})
    return Case(attributes, samples.astype(samples.dtype.newbyteorder("<")).tobytes(), list(looks), notes=notes)


def floats(samples: Array, *looks: Look, **tags: Any) -> Case:
    """A native file of Float or Double Float Pixel Data."""
    frames, rows, columns = samples.shape if samples.ndim == 3 else (1, *samples.shape)
    single = samples.dtype.itemsize == 4
    number = {"NumberOfFrames": frames} if frames > 1 else {}
    attributes = data.image(rows, columns, **{**FLOAT, **number, "BitsAllocated": 32 if single else 64, **tags})
    options = {"keyword": "FloatPixelData", "vr": "OF"} if single else {"keyword": "DoubleFloatPixelData", "vr": "OD"}
    return Case(attributes, samples.tobytes(), list(looks), options=options)


def encoded(stream: bytes, syntax: str, rows: int, columns: int, *looks: Look, **tags: Any) -> Case:
    """A file of one encapsulated frame."""
    value = data.encapsulate([bytes(stream) + b"\0" * (len(stream) % 2)])
    attributes = data.image(rows, columns, **tags)
    return Case(attributes, value, list(looks), syntax, {"encapsulated": True})


def stages(stored: Array, modality: Array, display: Array) -> tuple[Look, Look, Look]:
    return look(stored, "stored"), look(modality, "modality"), look(display)


def lut(first: int, entries: list[int], bits: int, vr: str = "US", packed: bool = False) -> dict[str, Any]:
    """An item of a Modality or VOI LUT Sequence; ``packed``: two 8-bit entries a word."""
    descriptor = struct.pack("<3H", len(entries) & 0xFFFF, first & 0xFFFF, bits)
    body = bytes(entries) + b"\0" * (len(entries) % 2) if packed else np.array(entries, "<u2").tobytes()
    return {"LUTDescriptor": Raw(vr, descriptor), "LUTData": Raw("OW", body)}


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
SIGNED = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
WIDE = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


# --- stage 2: bits ----------------------------------------------------------------------------------------------


def overlay_cases() -> dict[str, Case]:
    """12 of 16 bits, an overlay plane in bit 15 and others in 12 to 14 (PS3.5 8.1.2): none may leak."""
    values = np.random.default_rng(7).integers(0, 4096, (32, 40), dtype=np.uint16)
    signed = np.where(values >= 2048, values.astype(int) - 4096, values)
    planes = np.random.default_rng(8).integers(0, 16, values.shape, dtype=np.uint16) << 12
    raw = values | planes
    overlay = b"".join(
        data.element(0x60000000 + tag, value, vr=vr)
        for tag, vr, value in (
            (0x0010, "US", struct.pack("<H", 32)),
            (0x0011, "US", struct.pack("<H", 40)),
            (0x0040, "CS", b"G "),
            (0x0050, "SS", struct.pack("<hh", 1, 1)),
            (0x0100, "US", struct.pack("<H", 16)),
            (0x0102, "US", struct.pack("<H", 15)),
        )
    )
    streams = {
        "native": (raw.tobytes(), data.EXPLICIT_LE),
        "RLE": (rle_of(raw), data.RLE),
        "JPEG lossless": (imagecodecs.jpeg8_encode(raw, lossless=True, bitspersample=16), JPEG_LOSSLESS),
        "JPEG-LS": (jpeg_ls.encode_buffer(raw.tobytes(), 32, 40, 1, 16, 0), JPEG_LS),
        "JPEG 2000": (imagecodecs.jpeg2k_encode(raw, level=0, codecformat="j2k", reversible=True), J2K),
        "HTJ2K": (imagecodecs.htj2k_encode(raw, reversible=True), HTJ2K),
    }
    found = {}
    for (name, (stream, syntax)), (sign, stored) in itertools.product(streams.items(), enumerate((values, signed))):
        looks = stages(stored, 2.0 * stored + 3, linear(2.0 * stored + 3, 500, 3000))
        tags: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": sign, "RescaleSlope": "2"}
        tags |= {"RescaleIntercept": "3", "WindowCenter": "500", "WindowWidth": "3000"}
        if name == "native":
            case = Case(data.image(32, 40, **tags), bytes(stream), list(looks))
        else:
            case = encoded(bytes(stream), syntax, 32, 40, *looks, **tags)
        case.elements = overlay
        found[f"overlay in the high bits, {name}, {'signed' if sign else 'unsigned'}"] = case
    return found


def rle_of(values: Array, samples: int = 1) -> bytes:
    rows, columns = values.shape[:2]
    bits = 8 * values.dtype.itemsize
    stream = encode_pixel_data(
        values.tobytes(), rows=rows, columns=columns, samples_per_pixel=samples, bits_allocated=bits, byteorder="<"
    )
    return bytes(stream)


def high_bit_cases() -> dict[str, Case]:
    """Samples that lie higher in their container than Bits Stored - 1."""
    found = {}
    for stored_bits, high, signed in itertools.product((10, 12), (12, 15), (0, 1)):
        low = -(1 << stored_bits - 1) if signed else 0
        values = np.random.default_rng(high).integers(low, low + (1 << stored_bits), (8, 9), dtype=np.int64)
        shift = high + 1 - stored_bits
        mask = ((1 << stored_bits) - 1) << shift
        raw = ((values << shift) & mask) | (0xA5A5 & ~mask & 0xFFFF)
        tags: dict[str, Any] = {"BitsStored": stored_bits, "HighBit": high, "PixelRepresentation": signed}
        tags |= {"WindowCenter": "300", "WindowWidth": "900"}
        looks = stages(values, values, linear(values, 300, 900))
        case = Case(data.image(8, 9, **tags), raw.astype("<u2").tobytes(), list(looks))
        found[f"{stored_bits} bits up to bit {high}, {'signed' if signed else 'unsigned'}"] = case
    return found


def sign_cases() -> dict[str, Case]:
    """JPEG 2000 and HTJ2K whose own sign or precision is not the dataset's: its low bits are kept, and Pixel
    Representation says what they mean."""
    found = {}
    chance = np.random.default_rng(9)
    for precision, in_stream, in_dataset in itertools.product((12, 13, 16), (0, 1), (0, 1)):
        low = -(1 << precision - 1) if in_stream else 0
        values = chance.integers(low, low + (1 << precision), (33, 34), dtype=np.int64)
        raw = values.astype("<i2" if in_stream else "<u2")
        stream = imagecodecs.jpeg2k_encode(raw, level=0, codecformat="j2k", reversible=True, bitspersample=precision)
        meant = values & (1 << precision) - 1
        if in_dataset:
            meant = np.where(meant >> precision - 1, meant - (1 << precision), meant)
        tags: dict[str, Any] = {"BitsStored": precision, "HighBit": precision - 1, "PixelRepresentation": in_dataset}
        tags |= {"WindowCenter": "100", "WindowWidth": "4000"}
        looks = stages(meant, meant, linear(meant, 100, 4000))
        name = f"codestream {'signed' if in_stream else 'unsigned'}, dataset {'signed' if in_dataset else 'unsigned'}"
        found[f"{precision} bit {name}"] = encoded(bytes(stream), J2K, 33, 34, *looks, **tags)
    thirteen = chance.integers(0, 1 << 13, (33, 34), dtype=np.uint16)
    stream = imagecodecs.jpeg2k_encode(thirteen, level=0, codecformat="j2k", reversible=True, bitspersample=13)
    meant = np.where(thirteen >> 12, thirteen.astype(int) - 8192, thirteen)
    found["13 bit codestream unsigned, dataset 16 bit signed"] = encoded(
        bytes(stream), J2K, 33, 34, look(meant, "stored"), PixelRepresentation=1
    )
    return found


# --- stage 2: colour --------------------------------------------------------------------------------------------

YBR = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def halved(values: Array, rows: int = 1) -> Array:
    """Chroma shared by two columns (and ``rows`` rows): what a subsampled file can hold."""
    shared = values.copy()
    shared[:, 1::2, 1:] = shared[:, ::2, 1:]
    if rows == 2:
        shared[1::2, :, 1:] = shared[::2, :, 1:]
    return shared


def pairs_of(values: Array) -> bytes:
    """Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    parts = [values[:, ::2, 0], values[:, 1::2, 0], values[:, ::2, 1], values[:, ::2, 2]]
    return np.stack(parts, axis=-1).tobytes()


def native_colour_cases() -> dict[str, Case]:
    rgb16 = np.random.default_rng(4).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    rgb12 = rgb16 & 0x0FFF
    half = halved(YBR)

    def case(values: Array, want: Array, raw: bytes = b"", **tags: Any) -> Case:
        bits = 8 * values.dtype.itemsize
        sizes = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        attributes = data.image(*values.shape[:2], **{**RGB, **sizes, **tags})
        return Case(attributes, raw or values.tobytes(), [look(values, "stored"), look(want)])

    def planes(values: Array) -> bytes:
        return np.ascontiguousarray(np.moveaxis(values, -1, 0)).tobytes()

    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    full: dict[str, Any] = {"PhotometricInterpretation": "YBR_FULL"}
    partial: dict[str, Any] = {"PhotometricInterpretation": "YBR_PARTIAL_422"}
    return {
        "RGB 8": case(YBR, YBR),
        "RGB 8 in planes": case(YBR, YBR, planes(YBR), PlanarConfiguration=1),
        "RGB 16 in planes": case(rgb16, bytes_of(rgb16, 16), planes(rgb16), PlanarConfiguration=1),
        "RGB 12": case(rgb12, bytes_of(rgb12, 12), **twelve),
        "RGB 12 with other bits set": Case(
            data.image(5, 7, **{**RGB, **twelve}), (rgb12 | 0x5000).tobytes(), [look(rgb12, "stored")]
        ),
        "YBR_FULL": case(YBR, rgb_of_full(YBR), **full),
        "YBR_FULL in planes": case(YBR, rgb_of_full(YBR), planes(YBR), PlanarConfiguration=1, **full),
        "YBR_FULL_422": case(half, rgb_of_full(half), pairs_of(half), PhotometricInterpretation="YBR_FULL_422"),
        "YBR_PARTIAL_422": case(half, rgb_of_partial(half), pairs_of(half), **partial),
        "YBR_FULL in RLE": encoded(
            rle_of(YBR, 3), data.RLE, 6, 8, look(YBR, "stored"), look(rgb_of_full(YBR)), **{**RGB, **BITS_8, **full}
        ),
    }


def wave(shape: tuple[int, int], phase: float) -> Array:
    y, x = np.mgrid[: shape[0], : shape[1]]
    values: Array = np.floor(128 + 90 * np.sin(x / 9 + phase) * np.cos(y / 11 - phase)).astype(np.uint8)
    return values


COMPONENTS = np.stack([wave((32, 48), phase) for phase in (0, 1, 2)], axis=-1)


def marked(stream: bytes, marker: str) -> bytes:
    """The JPEG codestream with no application marker but the one named."""
    kept, position = b"", 2
    while stream[position + 1] in range(0xE0, 0xF0):
        position += 2 + struct.unpack_from(">H", stream, position + 2)[0]
    if marker == "JFIF":
        kept = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    elif marker.startswith("Adobe"):
        kept = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([int(marker[-1])])
    return stream[:2] + kept + stream[position:]


MARKERS = ("none", "JFIF", "Adobe 0", "Adobe 1")
JPEG_COLOURS = {
    "RGB": lambda components: components,
    "YBR_FULL": rgb_of_full,
    "YBR_FULL_422": rgb_of_full,
    "YBR_PARTIAL_422": rgb_of_partial,
    "YBR_PARTIAL_420": rgb_of_partial,
}


def jpeg_of(photometric: str, marker: str) -> bytes:
    """The components as they are, whatever they mean; subsampled as the photometric interpretation says."""
    sampling = {"YBR_FULL_422": "422", "YBR_PARTIAL_422": "422", "YBR_PARTIAL_420": "420"}.get(photometric, "444")
    stream = imagecodecs.jpeg8_encode(
        COMPONENTS, level=98, colorspace="YCBCR", outcolorspace="YCBCR", subsampling=sampling
    )
    return marked(bytes(stream), marker)


def palette_tags(tables: Array, first: int, bits: int, kind: str = "words", order: str = "<") -> dict[str, Any]:
    """Palette descriptors and data; ``tables`` (3, entries); ``kind``: words, packed (two to a word) or segments."""
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in zip(("Red", "Green", "Blue"), tables, strict=True):
        descriptor = struct.pack(f"{order}3H", len(entries) & 0xFFFF, first & 0xFFFF, bits)
        tags[f"{name}PaletteColorLookupTableDescriptor"] = Raw("US", descriptor)
        if kind == "packed":
            body = entries.astype("u1").tobytes()
            body = body if order == "<" else np.frombuffer(body, "<u2").byteswap().tobytes()
        else:
            body = entries.astype(f"{order}u2").tobytes()
        tags[f"{name}PaletteColorLookupTableData"] = Raw("OW", body)
    return tags


def segmented(tags: dict[str, Any], segments: bytes) -> dict[str, Any]:
    """The same descriptors with Segmented Palette Color Lookup Table Data for all three colours."""
    kept = {keyword: value for keyword, value in tags.items() if not keyword.endswith("Data")}
    for name in ("Red", "Green", "Blue"):
        kept[f"Segmented{name}PaletteColorLookupTableData"] = Raw("OW", segments)
    return kept


def palette_cases() -> dict[str, Case]:
    chance = np.random.default_rng(12)
    index8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found: dict[str, Case] = {}

    def add(name: str, samples: Array, tables: Array, first: int, bits: int, kind: str = "words") -> None:
        where = np.clip(samples.astype(int) - first, 0, tables.shape[1] - 1)
        want = bytes_of(tables.T[where], bits)
        looks = look(samples, "stored"), look(want)
        found[f"palette, {name}"] = shown(samples, *looks, **palette_tags(tables, first, bits, kind))

    eight, sixteen = chance.integers(0, 256, (3, 256)), chance.integers(0, 65536, (3, 256))
    add("8 bit packed", index8, eight, 0, 8, "packed")
    add("8 bit one to a word", index8, eight, 0, 8)
    add("16 bit", index8, sixteen, 0, 16)
    add("indices beside both ends", index8, sixteen[:, :100], 50, 16)
    deep = chance.integers(0, 65536, (9, 11), dtype=np.uint16)
    add("16 bit samples, 65536 entries", deep, chance.integers(0, 65536, (3, 65536)), 0, 16)
    add("16 bit samples beside both ends", deep, chance.integers(0, 65536, (3, 300)), 30000, 16)
    add("signed samples, negative first value", SIGNED, chance.integers(0, 65536, (3, 100)), -60, 16)

    big = palette_tags(sixteen, 0, 16, order=">")
    want = bytes_of(sixteen.T[index8], 16)
    for name, syntax, tags in (("big endian", data.EXPLICIT_BE, big),):
        case = shown(index8, look(want), **tags)
        case.pixels, case.syntax = np.frombuffer(index8.tobytes(), "<u2").byteswap().tobytes(), syntax
        found[f"palette, {name}"] = case
    implicit = shown(index8, look(want), **palette_tags(sixteen, 0, 16))
    implicit.syntax = data.IMPLICIT_LE
    found["palette, implicit"] = implicit
    found["palette, RLE"] = encoded(
        rle_of(index8), data.RLE, 16, 16, look(index8, "stored"), look(want), **BITS_8, **palette_tags(sixteen, 0, 16)
    )
    # PS3.3 C.7.9.2: discrete 3, linear up to 100 in 4 steps, then the two segments once more, discrete 2.
    words = [0, 3, 1000, 2000, 4000, 1, 4, 8000, 2, 2, 0, 0, 0, 2, 65535, 7]
    entries = [1000, 2000, 4000, 5000, 6000, 7000, 8000] * 2 + [65535, 7]
    tags = palette_tags(np.array([entries] * 3), 10, 16)
    grey = bytes_of(np.array(entries)[np.clip(index8.astype(int) - 10, 0, len(entries) - 1)], 16)
    want = np.stack([grey] * 3, axis=-1)
    found["palette, segmented 16 bit"] = shown(index8, look(want), **segmented(tags, np.array(words, "<u2").tobytes()))
    small = bytes([0, 3, 10, 20, 40, 1, 4, 80, 2, 2, 0, 0, 0, 0, 0, 2, 255, 7])
    entries = [10, 20, 40, 50, 60, 70, 80] * 2 + [255, 7]
    tags = palette_tags(np.array([entries] * 3), 0, 8)
    want = np.stack([np.array(entries)[np.clip(index8.astype(int), 0, len(entries) - 1)]] * 3, axis=-1)
    found["palette, segmented 8 bit"] = shown(index8, look(want), **segmented(tags, small))
    return found


# --- stage 3: modality ------------------------------------------------------------------------------------------


def modality_cases() -> dict[str, Case]:
    entries = [900 + 13 * i for i in range(100)]
    m = table(entries, -50, SIGNED)
    voi_entries = [(i * i) % 4096 for i in range(300)]
    voi_look = bytes_of(table(voi_entries, 1000, m), 12)
    both = {
        "ModalityLUTSequence": [{**lut(-50, entries, 16), "ModalityLUTType": "US"}],
        "VOILUTSequence": [lut(1000, voi_entries, 12), lut(900, [0, 255], 8)],
        "WindowCenter": "1500\\1200",
        "WindowWidth": "600\\100",
    }
    windows = linear(m, 1500, 600), linear(m, 1200, 100)
    big = [(7919 * i) & 0xFFFF for i in range(65536)]
    slope = {"RescaleSlope": "0.37", "RescaleIntercept": "-12.5"}
    return {
        "Modality LUT of signed input, VOI LUTs and windows by index": shown(
            SIGNED,
            look(SIGNED, "stored"),
            look(m, "modality"),
            look(voi_look),
            look(voi_look, voi="0"),
            look(bytes_of(table([0, 255], 900, m), 8), voi="1"),
            look(windows[0], voi="2"),
            look(windows[1], voi="3"),
            look(linear(m, 1300, 40), window="1300,40"),
            look(linear_exact(m, 1300, 40), window="1300,40,linear-exact"),
            look(sigmoid(m, 1300, 400), window="1300,400,sigmoid"),
            look(255 - voi_look, invert="true"),
            **both,
        ),
        "Modality LUT without VOI shows its own range": shown(
            SIGNED, look(m, "modality"), look(whole_range(m)), ModalityLUTSequence=both["ModalityLUTSequence"]
        ),
        "Modality LUT descriptor of VR SS": shown(
            SIGNED, look(m, "modality"), ModalityLUTSequence=[lut(-50, entries, 16, vr="SS")]
        ),
        "Modality LUT of unsigned input with a first value above 32767": shown(
            WIDE, look(table(entries, 40000, WIDE), "modality"), ModalityLUTSequence=[lut(40000, entries, 16)]
        ),
        "Modality LUT of 65536 entries": shown(
            WIDE, look(table(big, 0, WIDE), "modality"), ModalityLUTSequence=[lut(0, big, 16)]
        ),
        "Modality LUT of packed 8 bit entries": shown(
            RAMP,
            look(table(list(range(255, 55, -1)), 20, RAMP), "modality"),
            ModalityLUTSequence=[lut(20, list(range(255, 55, -1)), 8, packed=True)],
        ),
        "Modality LUT before Rescale": shown(
            SIGNED, look(m, "modality"), ModalityLUTSequence=both["ModalityLUTSequence"], RescaleSlope="9",
            RescaleIntercept="9", notes=("there is a Modality LUT",),
        ),
        "fractional slope": shown(
            RAMP, look(RAMP * 0.37 - 12.5, "modality"), look(linear(RAMP * 0.37 - 12.5, 20, 60)), **slope,
            WindowCenter="20", WindowWidth="60",
        ),
        "negative slope": shown(
            RAMP, look(100 - 3.0 * RAMP, "modality"), look(linear(100 - 3.0 * RAMP, -100, 300)), RescaleSlope="-3",
            RescaleIntercept="100", WindowCenter="-100", WindowWidth="300",
        ),
        "negative slope without a window": shown(
            RAMP, look(255 - bytes_of(RAMP, 8)), RescaleSlope="-2", RescaleIntercept="7"
        ),
        **{
            f"slope {name} is absent": shown(
                RAMP, look(RAMP, "modality"), look(linear(RAMP, 100, 90)), RescaleSlope=value, RescaleIntercept="-1024",
                WindowCenter="100", WindowWidth="90", notes=("Rescale Slope is empty, 0 or not finite",),
            )
            for name, value in (("of 0", "0"), ("empty", None), ("missing", ...))
        },
        "values beyond int16": shown(WIDE, look(WIDE * 3.0 - 5, "modality"), RescaleSlope="3", RescaleIntercept="-5"),
    }  # fmt: skip


def pet_cases() -> dict[str, Case]:
    """Slopes and windows that are fractions, down to tiny ones."""
    counts = np.random.default_rng(5).integers(0, 32768, (24, 24), dtype=np.int16)
    suv = counts * 0.000183823
    ranged = whole_range(suv)
    tiny = np.random.default_rng(6).integers(0, 65536, (24, 24), dtype=np.uint16)
    small = tiny * 1.5e-7
    tags: dict[str, Any] = {"SOPClassUID": PET, "Modality": "PT", "RescaleIntercept": "0", "RescaleType": "BQML"}
    return {
        "PET with a fractional slope and window": shown(
            counts, look(suv.astype("f4"), "modality"), look(linear(suv, 2.5, 5.25)), **tags,
            RescaleSlope="0.000183823", WindowCenter="2.5", WindowWidth="5.25",
        ),
        "PET whose LINEAR width is below 1": shown(
            counts, look(ranged, many=1), look(linear_exact(suv, 2.5, 0.75), window="2.5,0.75,linear-exact"),
            look(sigmoid(suv, 2.5, 0.75), window="2.5,0.75,sigmoid"), **tags, RescaleSlope="0.000183823",
            WindowCenter="2.5", WindowWidth="0.75", notes=("window 1 ignored",),
        ),
        "tiny width on a tiny slope": shown(
            tiny, look(small.astype("f4"), "modality"), look(linear_exact(small, 0.004, 0.00125)), **tags,
            RescaleSlope="1.5e-7", WindowCenter="0.004", WindowWidth="0.00125", VOILUTFunction="LINEAR_EXACT",
        ),
    }  # fmt: skip


def float_cases() -> dict[str, Case]:
    chance = np.random.default_rng(13)
    found = {}
    for name, kind in (("Float", "f4"), ("Double Float", "f8")):
        values = (chance.standard_normal((3, 9, 10)) * 1e-6).astype(kind)
        window = {"WindowCenter": "1e-7", "WindowWidth": "2.5e-6", "VOILUTFunction": "LINEAR_EXACT"}
        own = {"WindowCenter": "-5e-7", "WindowWidth": "1e-7", "VOILUTFunction": "SIGMOID"}
        shared = {
            "PixelValueTransformationSequence": [{"RescaleSlope": "1", "RescaleIntercept": "0"}],
            "FrameVOILUTSequence": [window],
        }
        found[f"parametric map of {name} Pixel Data"] = floats(
            values,
            *(look(values[n], "stored", n + 1) for n in range(3)),
            *(look(values[n].astype("f4"), "modality", n + 1) for n in range(3)),
            look(linear_exact(values[0], 1e-7, 2.5e-6)),
            look(sigmoid(values[1], -5e-7, 1e-7), frame=2),
            look(linear_exact(values[2], 1e-7, 2.5e-6), frame=3),
            look(linear_exact(values[1], 0, 1e-8), frame=2, window="0,1e-8,linear-exact"),
            SOPClassUID=PARAMETRIC_MAP,
            Modality="OT",
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=[{}, {"FrameVOILUTSequence": [own]}, {}],
        )
        padded = values[0].copy()
        padded[:, :3] = -5
        kept = padded > -5
        found[f"padding of {name} Pixel Data"] = floats(
            padded,
            look(np.where(kept, whole_range(padded, kept), 0), many=1),
            **{f"{name.replace(' ', '')}PixelPaddingValue": -5.0},
        )
        holes = values[0].copy()
        holes[0, 0], holes[0, 1] = np.nan, holes[1:].max()
        found[f"NaN in {name} Pixel Data"] = floats(
            holes, look(holes, "stored"), look(np.where(np.isnan(holes), 0, nan_range(holes)), many=1)
        )
    return found


def nan_range(values: Array) -> Array:
    low = float(np.nanmin(values))
    return whole_range(np.where(np.isnan(values), low, values))


# --- functional groups ------------------------------------------------------------------------------------------


def groups(slope: float, center: float, width: float, spacing: str = "", function: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {
        "PixelValueTransformationSequence": [{"RescaleSlope": str(slope), "RescaleIntercept": "-10"}],
        "FrameVOILUTSequence": [{"WindowCenter": str(center), "WindowWidth": str(width)}],
    }
    if function:
        found["FrameVOILUTSequence"][0]["VOILUTFunction"] = function
    if spacing:
        found["PixelMeasuresSequence"] = [{"PixelSpacing": spacing}]
    return found


def enhanced_cases() -> dict[str, Case]:
    """Per-frame before shared before root, each macro for itself, in real enhanced SOP Classes."""
    frames = np.random.default_rng(15).integers(-1000, 3000, (4, 12, 10)).astype(np.int16)

    def seen(number: int, slope: float, function: str, center: float, width: float) -> list[Look]:
        m = slope * frames[number - 1].astype(float) - 10
        display = WINDOWS[function](m, center, width)
        return [look(frames[number - 1], "stored", number), look(m, "modality", number), look(display, frame=number)]

    root: dict[str, Any] = {"RescaleSlope": "7", "RescaleIntercept": "-10", "WindowCenter": "5", "WindowWidth": "70"}
    shared = groups(2, 900, 3000, "1\\1")
    own = groups(0.5, 40, 401, "2\\1", "LINEAR_EXACT")
    voi_only = {"FrameVOILUTSequence": own["FrameVOILUTSequence"]}
    slope_only = {"PixelValueTransformationSequence": own["PixelValueTransformationSequence"]}
    measures_only = {"PixelMeasuresSequence": [{"PixelSpacing": "1\\2"}]}
    mixed = {
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [own, voi_only, {**slope_only, **measures_only}, {}],
    }
    looks = [
        *seen(1, 0.5, "LINEAR_EXACT", 40, 401),
        *seen(2, 2, "LINEAR_EXACT", 40, 401),
        *seen(3, 0.5, "LINEAR", 900, 3000),
        *seen(4, 2, "LINEAR", 900, 3000),
    ]
    found = {}
    for name, sop_class, modality in (
        ("CT", ENHANCED_CT, "CT"),
        ("MR", ENHANCED_MR, "MR"),
        ("PET", ENHANCED_PET, "PT"),
    ):
        tags = {**root, **mixed, "SOPClassUID": sop_class, "Modality": modality}
        found[f"enhanced {name} with per-frame, shared and root values"] = shown(frames, *looks, **tags)
    only_root = {**root, "PerFrameFunctionalGroupsSequence": [{}, {}, own, {}]}
    found["enhanced CT whose other frames have the root's values"] = shown(
        frames,
        *seen(1, 7, "LINEAR", 5, 70),
        *seen(3, 0.5, "LINEAR_EXACT", 40, 401),
        *seen(4, 7, "LINEAR", 5, 70),
        SOPClassUID=ENHANCED_CT,
        **only_root,
    )
    empty = {"FrameVOILUTSequence": [{"WindowCenter": None, "WindowWidth": None}]}
    found["enhanced MR whose own window is empty"] = shown(
        frames,
        *seen(1, 2, "LINEAR", 900, 3000),
        SOPClassUID=ENHANCED_MR,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[empty, {}, {}, {}],
    )
    slopes = [0.0123, 1.75, 0.25, 3.5]
    found["enhanced PET with a slope for every frame"] = shown(
        frames,
        *itertools.chain(*(seen(n, slope, "LINEAR", 7.5, 33.25) for n, slope in enumerate(slopes, 1))),
        SOPClassUID=ENHANCED_PET,
        Modality="PT",
        PerFrameFunctionalGroupsSequence=[groups(slope, 7.5, 33.25) for slope in slopes],
    )
    return found


# --- stage 4: padding -------------------------------------------------------------------------------------------


def padding_cases() -> dict[str, Case]:
    signed = np.random.default_rng(17).integers(-1000, 2000, (16, 16)).astype(np.int16)
    signed[:4] = np.random.default_rng(18).integers(-2000, -1499, (4, 16))
    kept = signed >= -1499
    ranged = whole_range(signed, kept)
    unsigned = (signed.astype(int) + 40000).astype(np.uint16)

    def words(vr: str, value: int, limit: int) -> dict[str, Any]:
        pair = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
        return {keyword: Raw(vr, struct.pack("<H", number & 0xFFFF)) for keyword, number in pair.items()}

    def hidden(display: Array, where: Array = kept) -> Array:
        return np.where(where, display, 0)

    one = signed.copy()
    one[:4] = -2000
    flat = np.full((4, 4), 63, np.uint16)
    hu = {"RescaleSlope": "2", "RescaleIntercept": "-24"}
    return {
        "padding range of signed samples": shown(signed, look(hidden(ranged)), **words("SS", -2000, -1500)),
        "padding range written with VR US": shown(signed, look(hidden(ranged)), **words("US", -2000, -1500)),
        "padding range with its limit first": shown(signed, look(hidden(ranged)), **words("SS", -1500, -2000)),
        "padding range of unsigned samples": shown(unsigned, look(hidden(ranged)), **words("US", 38000, 38500)),
        "one padding value": shown(one, look(hidden(whole_range(one, one > -2000), one > -2000)), PixelPaddingValue=Raw(
            "SS", struct.pack("<h", -2000))),
        "padding under a window": shown(
            signed, look(hidden(linear(signed, -1500, 2000))), look(hidden(linear(signed, 0, 9)), window="0,9"),
            look(hidden(255 - linear(signed, 0, 9)), window="0,9", invert="true"), look(signed, "stored"),
            look(signed, "modality"), WindowCenter="-1500", WindowWidth="2000", **words("SS", -2000, -1500),
        ),
        "padding of MONOCHROME1 stays background": shown(
            signed, look(hidden(255 - ranged)), PhotometricInterpretation="MONOCHROME1", **words("SS", -2000, -1500)
        ),
        "padding is compared with stored values, not rescaled ones": shown(
            signed, look(hidden(ranged)), **hu, **words("SS", -2000, -1500)
        ),
        "nothing but padding": shown(flat, look(np.zeros((4, 4))), **words("US", 63, 63)),
    }  # fmt: skip


# --- stage 5: VOI -----------------------------------------------------------------------------------------------


def voi_cases() -> dict[str, Case]:
    several = {"WindowCenter": "100\\50\\200", "WindowWidth": "80\\21\\1"}
    found = {
        "several windows": shown(
            RAMP, look(linear(RAMP, 100, 80)), look(linear(RAMP, 100, 80), voi="0"),
            look(linear(RAMP, 50, 21), voi="1"), look(linear(RAMP, 200, 1), voi="2"),
            look(linear(RAMP, 7, 77), window="7,77"), **several,
        ),
        "width 1 is a step at center - 0.5": shown(
            SIGNED, look(np.where(SIGNED > 2, 255, 0)), WindowCenter="3", WindowWidth="1"
        ),
        "impossible windows are passed over": shown(
            RAMP, look(linear(RAMP, 60, 30)), look(linear(RAMP, 60, 30), voi="0"), WindowCenter="1\\2\\3\\60",
            WindowWidth="0\\-5\\0.5\\30", notes=("window 1 ignored", "window 2 ignored", "window 3 ignored"),
        ),
        "nothing but impossible windows": shown(
            RAMP, look(whole_range(RAMP)), WindowCenter="1", WindowWidth="0", VOILUTFunction="LINEAR_EXACT",
            notes=("window 1 ignored",),
        ),
        "empty windows are absent": shown(RAMP[:, 3:9], look(whole_range(RAMP[:, 3:9])), WindowCenter=None,
                                          WindowWidth=None, VOILUTSequence=[], VOILUTFunction=None),
        "no window at all": shown(SIGNED[3:9], look(whole_range(SIGNED[3:9]))),
        "VOI LUT where no window was asked for": shown(
            RAMP, look(bytes_of(table([5, 4000, 77], 100, RAMP), 12)), look(linear(RAMP, 30, 60), window="30,60"),
            look(linear(RAMP, 128, 256), voi="1"), VOILUTSequence=[lut(100, [5, 4000, 77], 12)], WindowCenter="128",
            WindowWidth="256",
        ),
        "VOI LUT with a negative first value": shown(
            SIGNED, look(bytes_of(table([0, 99, 30000, 65535], -3, SIGNED), 16)),
            VOILUTSequence=[lut(-3, [0, 99, 30000, 65535], 16)],
        ),
        "VOI LUT of rescaled values": shown(
            RAMP, look(bytes_of(table(list(range(200)), -900, RAMP * 2.0 - 1000), 8)), RescaleSlope="2",
            RescaleIntercept="-1000", VOILUTSequence=[lut(-900, list(range(200)), 8, packed=True)],
        ),
    }  # fmt: skip
    for function, formula in WINDOWS.items():
        asked: dict[str, Any] = {"window": f"17.25,63.5,{function.lower().replace('_', '-')}"}
        found[f"{function} of the file and of the request"] = shown(
            SIGNED, look(formula(SIGNED, -8.5, 41.75)), look(formula(SIGNED, 17.25, 63.5), **asked),
            look(255 - formula(SIGNED, 17.25, 63.5), **asked, invert="true"),
            WindowCenter="-8.5", WindowWidth="41.75", VOILUTFunction=function,
        )  # fmt: skip
    return found


def syntax_cases() -> dict[str, Case]:
    """LUTs, padding and floats where bytes lie the other way round, and where no VR says how to read them."""
    entries, voi = [900 + 13 * i for i in range(100)], [(i * i) % 4096 for i in range(300)]
    m = table(entries, -50, SIGNED)
    kept = SIGNED > -100
    found = {}
    for name, syntax, order in (("implicit", data.IMPLICIT_LE, "<"), ("big endian", data.EXPLICIT_BE, ">")):

        def item(first: int, values: list[int], bits: int, order: str = order) -> dict[str, Any]:
            descriptor = struct.pack(f"{order}3H", len(values), first & 0xFFFF, bits)
            return {
                "LUTDescriptor": Raw("US", descriptor),
                "LUTData": Raw("OW", np.array(values, f"{order}u2").tobytes()),
            }

        luts = {"ModalityLUTSequence": [item(-50, entries, 16)], "VOILUTSequence": [item(1000, voi, 12)]}
        looks = look(m, "modality"), look(bytes_of(table(voi, 1000, m), 12))
        padding = {
            "PixelPaddingValue": Raw("SS", struct.pack(f"{order}h", -128)),
            "PixelPaddingRangeLimit": Raw("SS", struct.pack(f"{order}h", -100)),
        }
        cases = {
            "LUTs": shown(SIGNED, *looks, **luts),
            "padding range": shown(SIGNED, look(np.where(kept, whole_range(SIGNED, kept), 0)), **padding),
        }
        for what, case in cases.items():
            case.syntax, case.pixels = syntax, SIGNED.astype(f"{order}i2").tobytes()
            found[f"{what}, {name}"] = case
        for kind, single in (("f4", "Float"), ("f8", "Double Float")):
            values = np.linspace(-3, 8, 63).reshape(7, 9).astype(kind)
            case = floats(
                values, look(values, "stored"), look(linear_exact(values, 2, 7.5), window="2,7.5,linear-exact")
            )
            case.syntax, case.pixels = syntax, values.astype(order + kind).tobytes()
            found[f"{single} Pixel Data, {name}"] = case
    bytes_only = np.arange(45, dtype=np.uint8).reshape(3, 3, 5)
    case = shown(bytes_only, *(look(bytes_only[n], "stored", n + 1) for n in range(3)))
    case.syntax, case.options = data.EXPLICIT_BE, {"vr": "OB"}
    found["8 bit samples of OB, big endian"] = case
    return found


# --- stage 6 and 8: presentation, output ------------------------------------------------------------------------


def presentation_cases() -> dict[str, Case]:
    window = {"WindowCenter": "100", "WindowWidth": "80"}
    found = {}
    for mono, shape in itertools.product(("MONOCHROME1", "MONOCHROME2"), ("INVERSE", "IDENTITY", ...)):
        plain = linear(RAMP, 100, 80)
        inverse = mono == "MONOCHROME1" or shape == "INVERSE"
        name = "absent" if shape is ... else shape
        found[f"{mono} with Presentation LUT Shape {name}"] = shown(
            RAMP,
            look(255 - plain if inverse else plain),
            look(plain if inverse else 255 - plain, invert="true"),
            look(RAMP, "modality"),
            PhotometricInterpretation=mono,
            PresentationLUTShape=shape,
            **window,
        )
    curve = [0, 10, 200, 255]
    found["MONOCHROME1 inverts after a VOI LUT"] = shown(
        RAMP, look(255 - table(curve, 100, RAMP)), PhotometricInterpretation="MONOCHROME1",
        VOILUTSequence=[lut(100, curve, 8)],
    )  # fmt: skip
    found["halves are rounded up"] = shown(
        np.arange(512, dtype=np.uint16).reshape(16, 32),
        look(np.minimum((np.arange(512).reshape(16, 32) + 1) // 2, 255)),  # 255 t = value / 2
        WindowCenter="255",
        WindowWidth="510",
        VOILUTFunction="LINEAR_EXACT",
    )
    return found


# --- stage 7: geometry ------------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(19).integers(0, 256, (24, 30), dtype=np.uint16)


def rounded(values: Array) -> Array:
    return np.floor(values + 0.5)


def geometry_cases() -> dict[str, Case]:
    step = linear(PICTURE, 128, 1)
    ranged = whole_range(PICTURE)
    part = PICTURE[5:17, 3:23].astype(float)
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    greys = linear(PICTURE, 128, 256)
    half = greys[5:17, 3:23]
    frames = np.stack([PICTURE] * 3)
    measured = [{"PixelMeasuresSequence": [{"PixelSpacing": text}]} for text in ("1\\1", "2\\1", "1\\3")]
    found = {
        "the window comes before the scaling": shown(
            PICTURE, look(rounded(bilinear(step, 48, 60)), viewport="60,48", many=3), WindowCenter="128",
            WindowWidth="1",
        ),
        "the range is that of the frame, not of the region": shown(
            PICTURE, look(ranged[5:17, 3:23], region="3,5,20,12"),
            look(rounded(bilinear(ranged[5:17, 3:23], 6, 10)), region="3,5,20,12", viewport="10,6", many=3),
        ),
        "region of every stage": shown(
            PICTURE, look(PICTURE[5:17, 3:23], "stored", region="3,5,20,12"),
            look(2 * part, "modality", region="3,5,20,12"), look(PICTURE[23:, 29:], "stored", region="29,23,1,1"),
            RescaleSlope="2", RescaleIntercept="0",
        ),
        "region, then viewport": shown(
            PICTURE, look(rounded(bilinear(half, 24, 40)), region="3,5,20,12", viewport="40,40", many=3),
            look(rounded(bilinear(half, 6, 10)), region="3,5,20,12", viewport="10,100", many=3),
            look(bilinear(half.astype(float), 6, 10), "modality", region="3,5,20,12", viewport="10,100"),
            **window,
        ),
    }  # fmt: skip
    for name, tags in {
        "Pixel Spacing": {"PixelSpacing": "2\\1"},
        "Imager Pixel Spacing": {"ImagerPixelSpacing": "2\\1"},
        "Pixel Aspect Ratio": {"PixelAspectRatio": "2\\1"},
    }.items():
        tall = rounded(bilinear(greys, 48, 30))
        found[f"pixels that {name} says are tall"] = shown(
            PICTURE, look(tall, viewport="48,48", many=3), look(greys), **tags, **window
        )
    wide = [(30, 24), (30, 48), (90, 24)]
    found["pixels of another shape in every frame"] = shown(
        frames,
        *(
            look(rounded(bilinear(greys, height, width)), frame=n, viewport=f"{width},{height}", many=3)
            for n, (width, height) in enumerate(wide, 1)
        ),
        PerFrameFunctionalGroupsSequence=measured,
        **window,
    )
    return found


CASES: dict[str, Case] = {
    **overlay_cases(),
    **high_bit_cases(),
    **sign_cases(),
    **native_colour_cases(),
    **palette_cases(),
    **modality_cases(),
    **pet_cases(),
    **float_cases(),
    **enhanced_cases(),
    **padding_cases(),
    **voi_cases(),
    **syntax_cases(),
    **presentation_cases(),
    **geometry_cases(),
}
UIDS = {name: f"1.2.20.{number}" for number, name in enumerate(CASES, 1)}
JPEGS = {
    (photometric, marker): f"1.2.21.{i}.{j}"
    for i, photometric in enumerate(JPEG_COLOURS, 1)
    for j, marker in enumerate(MARKERS, 1)
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    root = tmp_path_factory.mktemp("chain")
    for name, case in CASES.items():
        case.write(root / f"{UIDS[name]}.dcm", UIDS[name])
    for (photometric, marker), uid in JPEGS.items():
        tags = {**RGB, **BITS_8, "PhotometricInterpretation": photometric}
        encoded(jpeg_of(photometric, marker), data.JPEG_BASELINE, 32, 48, **tags).write(root / f"{uid}.dcm", uid)
        if marker == "Adobe 0":  # libjxl takes subsampled RGB for no JPEG
            continue
        recompressed = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg_of(photometric, marker), usecontainer=True))
        encoded(recompressed, JPEG_XL_JPEG, 32, 48, **tags).write(root / f"{uid}.9.dcm", f"{uid}.9")
    with serve(root, workers=2) as running:
        assert running.state["unreadable"] == []
        yield running


@pytest.fixture(scope="module")
def notes(service: Answers) -> dict[str, str]:
    """What the manifest says was ignored, by SOP Instance UID."""
    frames = service.client.get(f"/api/studies/{STUDY}/series/{SERIES}").json()["frames"]
    return {frame["sop_instance_uid"]: "; ".join(frame["notes"]) for frame in frames}


@pytest.mark.parametrize("name", CASES)
def test_every_look_is_what_the_standard_says(name: str, service: Answers, notes: dict[str, str]) -> None:
    case = CASES[name]
    for one in case.looks:
        got = service.array(UIDS[name], one.frame, one.stage, **one.asked)
        assert got.shape == one.want.shape, one.asked
        if one.stage == "modality" and got.dtype.kind == "f":
            np.testing.assert_allclose(got, one.want, rtol=1e-6, err_msg=str(one.asked))
            continue
        wrong = np.count_nonzero(got != one.want) - np.count_nonzero(np.isnan(one.want.astype(float)))
        assert wrong <= one.many, (one.stage, one.frame, one.asked, got, one.want)
        if wrong:
            assert np.abs(got.astype(float) - one.want).max() <= 1
    for words in case.notes:
        assert words in notes[UIDS[name]]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("photometric", JPEG_COLOURS)
def test_the_dataset_decides_what_jpeg_components_mean(photometric: str, marker: str, service: Answers) -> None:
    """Photometric Interpretation against APP14 and JFIF, in every combination."""
    uid = JPEGS[photometric, marker]
    stored = service.array(uid, 1, "stored")
    near = np.abs(stored.astype(int) - COMPONENTS).max(axis=(0, 1))
    assert near[0] <= 3
    assert near.max() <= 8  # chroma of two or four pixels was averaged
    np.testing.assert_array_equal(service.array(uid), JPEG_COLOURS[photometric](stored))


@pytest.mark.parametrize("marker", ["none", "JFIF", "Adobe 1"])
@pytest.mark.parametrize("photometric", JPEG_COLOURS)
def test_a_jpeg_recompressed_as_jpeg_xl_is_that_jpeg(photometric: str, marker: str, service: Answers) -> None:
    uid = JPEGS[photometric, marker]
    for stage in ("stored", "display"):
        np.testing.assert_array_equal(service.array(f"{uid}.9", 1, stage), service.array(uid, 1, stage))
    assert service.get(f"{uid}.9").headers["x-decode-backend"] == "jpeg-xl-recompression"


def test_a_point_transform_of_lossless_jpeg_is_undone(tmp_path: Path) -> None:
    """JPEG lossless with Pt > 0, written by DCMTK: the values come back shifted up again (ISO 10918-1 H.2.2)."""
    ramp = np.arange(64, dtype="<u2").reshape(8, 8) * 37
    tags = {"BitsStored": 12, "HighBit": 11}
    for number, stream in enumerate(POINT_TRANSFORMED.values(), 1):
        encoded(stream, JPEG_LOSSLESS, 8, 8, **tags).write(tmp_path / f"{number}.dcm", f"1.2.22.{number}")
    with serve(tmp_path) as running:
        for number, (_, shift) in enumerate(POINT_TRANSFORMED, 1):
            np.testing.assert_array_equal(running.array(f"1.2.22.{number}", 1, "stored"), ramp >> shift << shift)


def plateaus() -> Array:
    """Wide areas of black and white with soft edges, where lossy codecs overshoot."""
    y, x = np.mgrid[:128, :128]
    values: Array = np.clip(128 + 400 * np.sin(x / 5) * np.cos(y / 7), 0, 255).astype(np.uint8)
    return values


LOSSY: dict[str, tuple[str, bytes]] = {
    "JPEG": (data.JPEG_BASELINE, bytes(imagecodecs.jpeg8_encode(plateaus(), level=30))),
    "JPEG 2000": (
        J2K_LOSSY,
        bytes(imagecodecs.jpeg2k_encode(plateaus(), level=30, codecformat="j2k", reversible=False)),
    ),
    "HTJ2K": (HTJ2K_LOSSY, bytes(imagecodecs.htj2k_encode(plateaus(), level=0.02, reversible=False))),
    "JPEG XL": (JPEG_XL, bytes(imagecodecs.jpegxl_encode(plateaus(), lossless=False, distance=3))),
}


@pytest.mark.parametrize("name", LOSSY)
def test_white_of_a_lossy_codec_never_turns_black(name: str, tmp_path: Path) -> None:
    syntax, stream = LOSSY[name]
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    encoded(stream, syntax, 128, 128, **BITS_8, **window).write(tmp_path / "a.dcm", "1.2.23")
    with serve(tmp_path) as running:
        stored = running.array("1.2.23", 1, "stored")
        display = running.array("1.2.23")
    assert np.abs(stored.astype(int) - plateaus()).max() < 100
    assert stored[plateaus() == 255].min() > 200
    assert stored[plateaus() == 0].max() < 60
    np.testing.assert_array_equal(display, linear(stored, 128, 256))


def test_a_voi_number_beyond_the_files_own_is_400(service: Answers) -> None:
    name = "Modality LUT of signed input, VOI LUTs and windows by index"
    for number in ("4", "9"):
        assert service.get(UIDS[name], voi=number).status_code == 400


def test_the_answer_names_stage_type_order_and_window(service: Answers) -> None:
    uid = UIDS["several windows"]
    headers = service.get(uid, voi="1").headers
    assert headers["x-array-stage"] == "display"
    assert headers["x-array-shape"] == "16,16"
    assert headers["x-array-dtype"] == "|u1"
    assert headers["x-window"] == "50,21,LINEAR"
    assert service.get(uid, stage="stored").headers["x-array-dtype"] == "<u2"
    modality = service.get(UIDS["tiny width on a tiny slope"], stage="modality").headers
    assert (modality["x-array-dtype"], modality["x-array-stage"]) == ("<f4", "modality")
    assert "x-window" not in modality


def test_colour_has_neither_window_nor_modality_values(service: Answers) -> None:
    for name in ("RGB 8", "palette, 16 bit"):
        assert_problem(service.get(UIDS[name], stage="modality"), 406, UIDS[name])
        assert_problem(service.get(UIDS[name], window="40,400"), 406, UIDS[name])
        assert_problem(service.get(UIDS[name], invert="true"), 406, UIDS[name])
