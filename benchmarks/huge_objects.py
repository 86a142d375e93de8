"""Objects of very many frames, written in a few seconds each: what ``benchmarks.huge`` measures.

Every frame is a ramp that begins at its own number, so that a wrong frame is seen. Large files are sparse: they are as
long as they say, but hold blocks only where something was written.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import UID, ExplicitVRLittleEndian, HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

UNDEFINED = 0xFFFFFFFF
PERIOD = 251
"""Frames whose numbers differ by so many have the same samples, except those of 1 bit."""
_STEP_FRAMES = 2000
_DENSE_BYTES = 4096
_LONG = ("OB", "OV", "OW", "SQ", "UT")
_NUMBERS = {"US": "H", "UL": "I", "SL": "i", "FD": "d", "OV": "Q"}
_ENHANCED_CT, _SLIDE = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.77.1.6"
_GREY_MULTIFRAME, _BIT_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.1"

Samples = npt.NDArray[np.uint8]
Step = Callable[[int], None]
"""Told how many frames more are done."""


@dataclass(frozen=True, eq=False)
class HugeObject:
    """One file. ``side`` [px] of the square frames; ``bits`` allocated; ``fragments`` a frame, each of at least
    ``fragment_bytes`` (what that adds is not written); ``groups``: the functional groups of a frame by its index."""

    name: str
    syntax: UID
    side: int
    bits: int = 8
    offsets: str = ""  # no offset table, "basic" or "extended"
    fragments: int = 1
    fragment_bytes: int = 0
    groups: Callable[[int], bytes] | None = None
    samples_per_pixel: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def lossy(self) -> bool:
        """Whether what comes back is only like what was written."""
        return self.syntax == JPEGBaseline8Bit

    @property
    def file_name(self) -> str:
        """Letters and dashes of the name."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split()) + ".dcm"


# --- elements, explicit VR little endian --------------------------------------------------------------------


def element(keyword: str, value: object, length: int | None = None) -> bytes:
    """One element: text, bytes as they are, one number or several; ``length`` writes another one than the value's."""
    tag, vr = _tag_and_vr(keyword)
    body = _value(vr, value)
    body += (b"\0" if vr in ("UI", "OB") else b" ") * (len(body) % 2)
    head, size = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode()), len(body) if length is None else length
    return head + (struct.pack("<HI", 0, size) if vr in _LONG else struct.pack("<H", size)) + body


@cache
def _tag_and_vr(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(keyword)
    return tag, dictionary_VR(tag).partition(" or ")[0]


def _value(vr: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, tuple | list) else (value,)
    if vr in _NUMBERS:
        return struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *values)
    return "\\".join(map(str, values)).encode()


def sequence(keyword: str, *elements: bytes, defined: bool = True) -> bytes:
    """A sequence of one item, of defined or undefined length."""
    content = b"".join(elements)
    return element(keyword, item(content, defined) + end_of_sequence(defined), None if defined else UNDEFINED)


def item(content: bytes, defined: bool = True) -> bytes:
    """One item of a sequence."""
    if defined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


def end_of_sequence(defined: bool = True) -> bytes:
    """What ends a sequence of undefined length."""
    return b"" if defined else struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


# --- functional groups --------------------------------------------------------------------------------------


def volume_groups(index: int, *, defined: bool = True, windows: int = 10, rescales: int = 3) -> bytes:
    """What an enhanced CT says of a frame: time, stack, position, rescale and window of its own."""
    window, rescale = index % windows, index % rescales
    parts = (
        sequence(
            "FrameContentSequence",
            element("FrameAcquisitionDateTime", "20260102030405.000000"),
            element("DimensionIndexValues", (1, index + 1)),
            element("StackID", "1"),
            element("InStackPositionNumber", index + 1),
            defined=defined,
        ),
        sequence(
            "PlanePositionSequence",
            element("ImagePositionPatient", ("-125.5", "-130.25", f"{index * 0.625:.3f}")),
            defined=defined,
        ),
        sequence(
            "FrameVOILUTSequence",
            element("WindowCenter", (40 + window, 300)),
            element("WindowWidth", (400 + window, 1500)),
            element("WindowCenterWidthExplanation", ("SOFT", "BONE")),
            defined=defined,
        ),
        sequence(
            "PixelValueTransformationSequence",
            element("RescaleIntercept", -1024 - rescale),
            element("RescaleSlope", 1),
            element("RescaleType", "HU"),
            defined=defined,
        ),
    )
    return item(b"".join(parts), defined)


def volume_groups_undefined(index: int) -> bytes:
    """The same with every length undefined."""
    return volume_groups(index, defined=False)


def volume_groups_distinct(index: int) -> bytes:
    """The same with 2,000 different windows and rescales."""
    return volume_groups(index, windows=2000, rescales=2000)


def tile_groups(index: int) -> bytes:
    """What a TILED_SPARSE slide says of a tile (PS3.3 C.8.12.6.1)."""
    row, column = divmod(index, 500)
    position = sequence(
        "PlanePositionSlideSequence",
        element("XOffsetInSlideCoordinateSystem", f"{column * 0.004:.6f}"),
        element("YOffsetInSlideCoordinateSystem", f"{row * 0.004:.6f}"),
        element("ZOffsetInSlideCoordinateSystem", "0"),
        element("ColumnPositionInTotalImagePixelMatrix", column * 16 + 1),
        element("RowPositionInTotalImagePixelMatrix", row * 16 + 1),
    )
    return item(sequence("FrameContentSequence", element("DimensionIndexValues", (column + 1, row + 1))) + position)


_SHARED_CT = (
    sequence("PlaneOrientationSequence", element("ImageOrientationPatient", (1, 0, 0, 0, 1, 0))),
    sequence("PixelMeasuresSequence", element("SliceThickness", 1), element("PixelSpacing", ("0.5", "0.5"))),
)
_CT = {"SOPClassUID": _ENHANCED_CT, "Modality": "CT", "SharedFunctionalGroupsSequence": item(b"".join(_SHARED_CT))}
_SLIDE_ATTRIBUTES = {
    "SOPClassUID": _SLIDE,
    "Modality": "SM",
    "DimensionOrganizationType": "TILED_SPARSE",
    "TotalPixelMatrixColumns": 500 * 16,
    "TotalPixelMatrixRows": 400 * 16,
    "SharedFunctionalGroupsSequence": item(
        sequence("PixelMeasuresSequence", element("SliceThickness", "0.001"), element("PixelSpacing", (".00025",) * 2))
    ),
}

OBJECTS = (
    HugeObject("native 1 bit", ExplicitVRLittleEndian, 10, bits=1, attributes={"SOPClassUID": _BIT_MULTIFRAME}),
    HugeObject("native 8 bit", ExplicitVRLittleEndian, 8),
    HugeObject("native 8 bit, large", ExplicitVRLittleEndian, 144),
    HugeObject("RLE, no offset table", RLELossless, 16),
    HugeObject("RLE, basic offset table", RLELossless, 16, offsets="basic"),
    HugeObject("HTJ2K, extended offset table", HTJ2KLossless, 16, offsets="extended"),
    HugeObject("HTJ2K, no offset table, large", HTJ2KLossless, 16, fragment_bytes=65536),
    HugeObject("JPEG 2000, 4 fragments a frame, no offset table", JPEG2000Lossless, 16, fragments=4),
    HugeObject("enhanced CT, defined lengths", ExplicitVRLittleEndian, 8, groups=volume_groups, attributes=_CT),
    HugeObject(
        "enhanced CT, undefined lengths", ExplicitVRLittleEndian, 8, groups=volume_groups_undefined, attributes=_CT
    ),
    HugeObject(
        "enhanced CT, 2,000 windows and rescales",
        ExplicitVRLittleEndian,
        8,
        groups=volume_groups_distinct,
        attributes=_CT,
    ),
    HugeObject(
        "slide, TILED_SPARSE",
        JPEGBaseline8Bit,
        16,
        offsets="extended",
        groups=tile_groups,
        samples_per_pixel=3,
        attributes=_SLIDE_ATTRIBUTES,
    ),
)


# --- pixels -------------------------------------------------------------------------------------------------


def stored_frame(huge: HugeObject, frame_number: int) -> Samples:
    """The samples of a frame: a ramp from its number on, of 1 bit the number's bits again and again."""
    pixels = huge.side * huge.side
    if huge.bits == 1:
        number = np.unpackbits(np.array([frame_number], "<u4").view(np.uint8), bitorder="little")
        return np.resize(number, (huge.side, huge.side))
    ramp = (np.arange(pixels) + frame_number % PERIOD).astype(np.uint8).reshape(huge.side, huge.side)
    return ramp if huge.samples_per_pixel == 1 else np.repeat(ramp[:, :, None], 3, axis=2)


def _encode(huge: HugeObject, samples: Samples) -> bytes:
    if huge.syntax == RLELossless:
        return RLELosslessEncoder.encode(
            samples,
            encoding_plugin="pylibjpeg",
            rows=huge.side,
            columns=huge.side,
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    if huge.syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(samples, reversible=True))
    if huge.syntax == JPEG2000Lossless:
        return bytes(imagecodecs.jpeg2k_encode(samples, codecformat="j2k", reversible=True, level=0, numthreads=1))
    return bytes(imagecodecs.jpeg8_encode(samples, level=90, subsampling="444"))


@cache
def _fragments(huge: HugeObject, frame_number: int) -> tuple[bytes, int]:
    """The items of a frame as far as they are written, and the bytes they take."""
    code = _encode(huge, stored_frame(huge, frame_number))
    code += b"\0" * (-len(code) % (2 * huge.fragments))
    step = len(code) // huge.fragments
    taken = max(step, huge.fragment_bytes)
    parts = [code[at : at + step] for at in range(0, len(code), step)]
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, taken) + part for part in parts), len(parts) * (8 + taken)


def _fragments_of(huge: HugeObject, frame_number: int) -> tuple[bytes, int]:
    """The same; only 251 frames are different, and each is encoded once."""
    return _fragments(huge, (frame_number - 1) % PERIOD + 1)


def asked_frames(frames: int, each: int = 50) -> tuple[range, ...]:
    """Numbers of the frames that are asked for: the first ones, those up to the middle, up to 95 in a hundred, the last
    ones."""
    each = min(each, frames // 20)
    ends = (each, frames // 2, frames * 95 // 100, frames)
    return tuple(range(end - each + 1, end + 1) for end in ends)


# --- files --------------------------------------------------------------------------------------------------


def write(huge: HugeObject, path: Path, frames: int, step: Step) -> None:
    """Write one object of so many frames."""
    with path.open("wb") as file:
        _write_header(huge, file, frames, step)
        if huge.syntax.is_encapsulated:
            _write_encapsulated(huge, file, frames, step)
        elif huge.bits == 1:
            _write_bits(huge, file, frames, step)
        else:
            _write_native(huge, file, frames, step)


def uid(huge: HugeObject, level: str) -> str:
    """Study, series and instance UID of an object; each has a series of its own."""
    number = [one.name for one in OBJECTS].index(huge.name) + 1
    return {"study": "1.2.826.0.1.1", "series": f"1.2.826.0.1.2.{number}", "instance": f"1.2.826.0.1.3.{number}"}[level]


def _attributes(huge: HugeObject, frames: int) -> dict[str, Any]:
    colour = huge.samples_per_pixel == 3
    return {
        "SOPClassUID": _GREY_MULTIFRAME,
        "SOPInstanceUID": uid(huge, "instance"),
        "StudyInstanceUID": uid(huge, "study"),
        "SeriesInstanceUID": uid(huge, "series"),
        "Modality": "OT",
        "PatientName": "Huge^Object",
        "PatientID": "HUGE",
        "SamplesPerPixel": huge.samples_per_pixel,
        "PhotometricInterpretation": "YBR_FULL" if colour else "MONOCHROME2",
        "NumberOfFrames": frames,
        "Rows": huge.side,
        "Columns": huge.side,
        "BitsAllocated": huge.bits,
        "BitsStored": huge.bits,
        "HighBit": huge.bits - 1,
        "PixelRepresentation": 0,
        **({"PlanarConfiguration": 0} if colour else {}),
        **huge.attributes,
    }


def _write_header(huge: HugeObject, file: BinaryIO, frames: int, step: Step) -> None:
    attributes = _attributes(huge, frames)
    meta = element("MediaStorageSOPClassUID", attributes["SOPClassUID"])
    meta += element("MediaStorageSOPInstanceUID", attributes["SOPInstanceUID"])
    meta += element("TransferSyntaxUID", huge.syntax)
    file.write(b"\0" * 128 + b"DICM" + element("FileMetaInformationGroupLength", len(meta)) + meta)
    tagged = sorted(attributes.items(), key=lambda pair: tag_for_keyword(pair[0]) or 0)
    file.write(b"".join(element(keyword, value) for keyword, value in tagged))
    if huge.groups is None:
        return
    defined = huge.groups is not volume_groups_undefined
    start = file.tell()
    file.write(element("PerFrameFunctionalGroupsSequence", b"", UNDEFINED))
    for chunk in _chunks(frames, step):
        file.write(b"".join(map(huge.groups, chunk)))
    file.write(end_of_sequence(defined))
    if defined:
        length = file.tell() - start - 12
        file.seek(start + 8)
        file.write(struct.pack("<I", length))
        file.seek(0, 2)


def _chunks(frames: int, step: Step) -> Iterator[range]:
    """Frame indices, some at a time."""
    for first in range(0, frames, _STEP_FRAMES):
        chunk = range(first, min(frames, first + _STEP_FRAMES))
        yield chunk
        step(len(chunk))


def _write_native(huge: HugeObject, file: BinaryIO, frames: int, step: Step) -> None:
    """Of large frames only those that are asked for are written; the others are zeros that take no space."""
    size = huge.side * huge.side
    start = _begin_pixels(huge, file, frames * size)
    file.truncate(start + frames * size)
    asked = {number for some in asked_frames(frames) for number in some}
    for chunk in _chunks(frames, step):
        for index in chunk:
            if size <= _DENSE_BYTES or index + 1 in asked:
                file.seek(start + index * size)
                file.write(stored_frame(huge, index + 1).tobytes())


def _write_bits(huge: HugeObject, file: BinaryIO, frames: int, step: Step) -> None:
    """Frames of 1-bit samples follow each other without a gap (PS3.5 8.1.1)."""
    bits = np.concatenate([stored_frame(huge, index + 1).ravel() for chunk in _chunks(frames, step) for index in chunk])
    packed = np.packbits(bits, bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    _begin_pixels(huge, file, len(packed))
    file.write(packed)


def _begin_pixels(huge: HugeObject, file: BinaryIO, length: int) -> int:
    """Write the header of Pixel Data; return where its value begins."""
    vr = b"OB" if huge.syntax.is_encapsulated or huge.bits == 1 else b"OW"
    file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length))
    return file.tell()


def _write_encapsulated(huge: HugeObject, file: BinaryIO, frames: int, step: Step) -> None:
    lengths = np.resize([_fragments_of(huge, number)[1] for number in range(1, PERIOD + 1)], frames)
    offsets = np.cumsum(lengths) - lengths
    if huge.offsets == "extended":
        file.write(element("ExtendedOffsetTable", offsets.astype("<u8").tobytes()))
        file.write(element("ExtendedOffsetTableLengths", (lengths - 8).astype("<u8").tobytes()))
    _begin_pixels(huge, file, UNDEFINED)
    file.write(item(offsets.astype("<u4").tobytes() if huge.offsets == "basic" else b""))
    start = file.tell()
    for chunk in _chunks(frames, step):
        for index in chunk:
            file.seek(start + int(offsets[index]))
            file.write(_fragments_of(huge, index + 1)[0])
    file.seek(start + int(lengths.sum()))
    file.write(end_of_sequence(defined=False))
