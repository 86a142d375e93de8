"""The elements of an encoded data set (PS3.5 section 7), one after another, without making values of them.

What metadata, bulk data and re-encoding have in common: each wants to know exactly where a value lies. Where anything
is unusual it raises IrregularError; the caller then takes what pydicom, which repairs much, makes of the file.
"""

import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from gpu_render.archive.encapsulation import ITEM as ITEM_TAG
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
SHORT_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
_VRS = LONG_VRS | SHORT_VRS
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
PIXEL_REPRESENTATION = 0x00280103

MAX_DEPTH = 64
_MAX_KNOWN_UN = 0xFFFF  # longer ones are UN because their own VR has no room for their length (PS3.5 6.2.2)
_SIGNED_OR_NOT = b"US or SS"

Element = tuple[int, bytes, int, int]
"""(tag, VR, place of the value, its length): of VR ``SQ`` the length may be undefined, and of others that of
encapsulated pixels. The VR is the one to read the value with, whatever the file says."""


class IrregularError(Exception):
    """Something that readers could take in more than one way, or an end that comes too early."""


class Scope:
    """What elements of one item mean depends on others of it, or of the items around it: private creators (PS3.5
    7.8.1), and Pixel Representation, which says whether values of ``US or SS`` are signed."""

    __slots__ = ("creators", "depth", "signed")

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.creators: dict[int, bytes] = {}
        self.signed: bool = parent.signed if parent else False
        self.depth: int = parent.depth + 1 if parent else 0
        if self.depth > MAX_DEPTH:
            raise IrregularError


class Reader:
    """Elements of ``data``, from ``at`` on. One place is read at a time: an iterator over elements goes on behind the
    value, whether its consumer moved ``at`` there or left it where the value begins."""

    def __init__(self, data: bytes | mmap.mmap, at: int, *, implicit: bool, little_endian: bool) -> None:
        self.data = data
        self.at = at
        self.implicit = implicit
        self.little_endian = little_endian
        self.was_un = False
        """Whether the element at hand is declared UN; ``elements`` sets it."""
        order = "<" if little_endian else ">"
        self._tagged = struct.Struct(f"{order}HHI").unpack_from
        self._head = struct.Struct(f"{order}HHI" if implicit else f"{order}HH2sH").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from

    def elements(self, end: int | None, scope: Scope) -> Iterator[Element]:
        """Up to ``end``, or to the item's delimiter where that is None; some writers leave the order of their tags."""
        data, last, tags = self.data, -1, list[int]()
        seen: set[int] | None = None
        limit = len(data) if end is None else end
        if limit > len(data):
            raise IrregularError
        while self.at != end:
            at, given = self.at, b""
            start = at + 8
            if start > limit:
                raise IrregularError
            if self.implicit:
                group, number, length = self._head(data, at)
            else:
                group, number, given, length = self._head(data, at)
                if given in LONG_VRS:
                    start = at + 12
                    if start > limit:
                        raise IrregularError
                    length = self._long(data, at + 8)[0]
                elif given not in SHORT_VRS:
                    length = self._tagged(data, at)[2]
            tag = group << 16 | number
            if tag == ITEM_END and end is None and length == 0:
                self.at = start
                return
            undefined = length == UNDEFINED_LENGTH
            if tag >= ITEM or (start + length > limit and not undefined):
                raise IrregularError
            if tag <= last:
                seen = set(tags) if seen is None else seen
                if tag in seen:
                    raise IrregularError
            if seen is None:
                tags.append(tag)
            else:
                seen.add(tag)
            last = max(tag, last)
            was_un = self.was_un = given == b"UN"
            vr = given if given and not was_un else self._vr(tag, start, length, scope)
            if vr not in LONG_VRS and (undefined or vr not in SHORT_VRS):
                raise IrregularError
            if tag & 0x1FF00 == 0x10000 and tag & 0xFF >= 0x10:  # (odd group, 0010-00FF)
                scope.creators[tag] = bytes(data[start : start + length])
            elif tag == PIXEL_REPRESENTATION and length == 2:
                scope.signed = data[start : start + 2] != b"\0\0"
            self.at = start
            yield tag, vr, start, length
            if self.at == start:
                self._skip(vr, length, was_un, scope)

    def items(self, length: int) -> Iterator[int | None]:
        """Of a sequence: where each item ends, or None where a delimiter ends it. The consumer walks through it."""
        data, at_end = self.data, None if length == UNDEFINED_LENGTH else self.at + length
        limit = len(data) if at_end is None else at_end
        while self.at != at_end:
            if self.at + 8 > limit:
                raise IrregularError
            group, number, size = self._tagged(data, self.at)
            self.at += 8
            tag = group << 16 | number
            if tag == SEQUENCE_END and at_end is None:
                return
            behind = None if size == UNDEFINED_LENGTH else self.at + size
            if tag != ITEM or (behind is not None and behind > limit):
                raise IrregularError
            yield behind
            if self.at != behind and behind is not None:
                raise IrregularError

    def inside(self, was_un: bool) -> "Reader":
        """What reads the item that begins here. What was UN once is implicit and little-endian (PS3.5 6.2.2), but some
        keep the VRs; and some leave them out elsewhere."""
        implicit = self.implicit or bytes(self.data[self.at + 4 : self.at + 6]) not in _VRS
        if was_un:
            return Reader(self.data, self.at, implicit=implicit, little_endian=True)
        # An empty item has no VR either, nor has the end of one.
        if implicit == self.implicit or self._ends_here():
            return self
        return Reader(self.data, self.at, implicit=implicit, little_endian=self.little_endian)

    def _ends_here(self) -> bool:
        if self.at + 8 > len(self.data):
            return True
        group, _number, _length = self._tagged(self.data, self.at)
        return bool(group == ITEM >> 16)

    def _skip(self, vr: bytes, length: int, was_un: bool, scope: Scope) -> None:
        """Go behind the value that begins here."""
        if length != UNDEFINED_LENGTH:
            self.at += length
            return
        for end in self.items(length):
            if vr != b"SQ":  # fragments of encapsulated pixels
                if end is None:
                    raise IrregularError
                self.at = end
                continue
            inner = self.inside(was_un)
            for _ in inner.elements(end, Scope(scope)):
                pass
            self.at = inner.at

    def _vr(self, tag: int, start: int, length: int, scope: Scope) -> bytes:
        """Of an element without a VR, or with UN."""
        if self.was_un and (length > _MAX_KNOWN_UN or not self.little_endian):
            # Of undefined length it is a sequence, whatever its tag. How UN came out of big endian, nobody knows.
            return b"SQ" if length == UNDEFINED_LENGTH else b"UN"
        vr = _known_vr(tag, _creator(tag, scope))
        if vr == _SIGNED_OR_NOT:
            return b"SS" if scope.signed else b"US"
        if vr == b"SQ" and self.was_un and length and bytes(self.data[start : start + 4]) != ITEM_TAG:
            return b"UN"
        if vr == b"UN" and length == UNDEFINED_LENGTH:
            return b"SQ"  # what is private or unknown, and has no length, consists of items
        return vr


def _creator(tag: int, scope: Scope) -> bytes | None:
    if not tag & 0x10000 or not tag & 0xFF00:
        return None
    return scope.creators.get(tag & 0xFFFF0000 | (tag & 0xFF00) >> 8)


@lru_cache(maxsize=8192)
def _known_vr(tag: int, creator: bytes | None) -> bytes:
    """The VR of the dictionary, UN where there is none. Of alternatives that with words, as PS3.5 A.1 demands of
    Implicit VR Little Endian, or ``US or SS``."""
    try:
        if creator is not None:
            vr = private_dictionary_VR(tag, creator.decode("latin-1").strip(" \0"))
        elif tag & 0x10000:
            return b"LO" if tag & 0xFF00 == 0 and tag & 0xFF >= 0x10 else b"UN"
        else:
            vr = dictionary_VR(tag)
    except KeyError:
        return b"UL" if tag & 0xFFFF == 0 else b"UN"
    if " or " in vr:
        vr = "OW" if vr.endswith("OW") else vr
    return vr.encode() if len(vr) == 2 or vr == "US or SS" else b"UN"
