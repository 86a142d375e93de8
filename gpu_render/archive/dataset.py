"""The encoded data set of an open file: its elements before and behind the pixels, as bytes."""

import mmap
import os
import struct
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from gpu_render.archive.elements import Reader
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.archive.files import inflate_range
from gpu_render.errors import TooLarge

Buffer = bytes | mmap.mmap

_COPIED_BYTES = 64 << 20  # what is longer is mapped: of most of it nobody looks at the values
_PIXEL_VRS = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD", "PixelData": "OW"}


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixels are: ``offset`` [byte] of the value in the (inflated) file, ``length`` as declared."""

    keyword: str
    vr: str | None
    offset: int
    length: int

    @property
    def header_offset(self) -> int:
        """Where the element begins."""
        return self.offset - (12 if self.vr in EXPLICIT_VR_LENGTH_32 else 8)

    @property
    def value_representation(self) -> str:
        """The VR as it stands there, if it is one, or that of Implicit VR Little Endian (PS3.5 A.1)."""
        if self.vr in ("OB", "OW", "OF", "OD", "UN"):
            return self.vr
        return "OB" if self.length == UNDEFINED_LENGTH else _PIXEL_VRS[self.keyword]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Where the data set's bytes are.

    ``begin``: of the data set; ``end``: of the elements before the pixels, or of the file without any; all of them
    are offsets [byte] in the file, or in the inflated data set where ``inflate_offset`` is not 0. ``inflated``: its
    beginning, as far as it was inflated. ``groups``: (begin, end) of the per-frame functional groups where they were
    walked. ``implicit``, ``little_endian``: as pydicom found the data set to be.
    """

    begin: int
    end: int
    inflate_offset: int
    inflated: bytes
    groups: tuple[int, int] | None
    implicit: bool
    little_endian: bool


def head_reader(descriptor: int, place: Stretches, *, groups: bool = True) -> Reader:
    """What reads the elements before the pixels, without the per-frame functional groups where not ``groups``.

    Raises TooLarge where so much cannot be held.
    """
    if groups or place.groups is None:
        return _reader(descriptor, place, place.begin, place.end)
    begin, end = place.groups
    parts = [_reader(descriptor, place, *ends) for ends in ((place.begin, begin), (end, place.end))]
    data = b"".join([bytes(part.data[part.at :]) for part in parts])
    return Reader(data, 0, implicit=place.implicit, little_endian=place.little_endian)


def tail_reader(descriptor: int, place: Stretches, begin: int) -> Reader | None:
    """What reads the elements behind the pixels, which end at ``begin``; None where there is nothing."""
    if place.inflate_offset:
        data = inflate_range(descriptor, place.inflate_offset, begin, _COPIED_BYTES)
        return Reader(data, 0, implicit=place.implicit, little_endian=place.little_endian) if data else None
    end = os.fstat(descriptor).st_size
    return _reader(descriptor, place, begin, end) if begin < end else None


def _reader(descriptor: int, place: Stretches, begin: int, end: int) -> Reader:
    data: Buffer
    at = 0
    if place.inflate_offset:
        data = place.inflated[begin:end]
    elif end - begin <= _COPIED_BYTES:
        data = os.pread(descriptor, max(0, end - begin), begin)
    else:
        at = begin % mmap.ALLOCATIONGRANULARITY
        try:
            data = mmap.mmap(descriptor, end - begin + at, access=mmap.ACCESS_READ, offset=begin - at)
        except (OSError, ValueError):
            raise TooLarge(f"a data set with {end - begin} bytes beside its pixels") from None
    return Reader(data, at, implicit=place.implicit, little_endian=place.little_endian)


def repaired(ds: Dataset) -> bytes:
    """What pydicom made of an irregular data set, in Explicit VR Little Endian. Values that cannot be read are empty.

    For a process that parses only: pydicom's warnings quote values.
    """
    encoding = ds.original_character_set
    encodings = [encoding] if isinstance(encoding, str) else list(encoding)
    elements = []
    for tag, raw in sorted(ds.items()):
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        try:
            write_data_element(stream, correct_ambiguous_vr_element(ds[tag], ds, True), encodings)
            elements.append(stream.getvalue())
        except Exception:  # noqa: BLE001 - whatever a broken value makes pydicom raise; the element stays, empty
            elements.append(_emptied(tag, raw.VR))
    return b"".join(elements)


def _emptied(tag: int, vr: str | None) -> bytes:
    """The element without a value; of what has no VR the dictionary's, or UN."""
    known = vr if vr in EXPLICIT_VR_LENGTH_32 | EXPLICIT_VR_LENGTH_16 else "UN"
    if vr is None and dictionary_has_tag(tag) and len(dictionary_VR(tag)) == 2:
        known = dictionary_VR(tag)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, known.encode())
    return head + bytes(6 if known in EXPLICIT_VR_LENGTH_32 else 2)
