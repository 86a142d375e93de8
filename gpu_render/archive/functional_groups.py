"""PerFrameFunctionalGroupsSequence (PS3.3 C.7.6.16) of very many frames, walked by its lengths instead of parsed.

pydicom makes dozens of objects of an item, which takes minutes and gigabytes for 200,000 frames. Here only those
elements of an item are kept that ``header.py`` looks at, as bytes, and equal ones once; pydicom parses the item made
of these when it is asked for. What is not plainly regular is left to pydicom as a whole.
"""

import math
import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32
from pydicom.values import convert_SQ

from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.header import GEOMETRY_GROUPS, PRESENTATION_GROUPS

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET, _PLANE_POSITION, _IMAGE_POSITION = 0x00080005, 0x00209113, 0x00200032
_PRESENTATION_TAGS = frozenset({_CHARACTER_SET, *(tag_for_keyword(name) for name in PRESENTATION_GROUPS)})
_GEOMETRY_TAGS = frozenset(tag_for_keyword(name) for name in GEOMETRY_GROUPS)
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_SHORT_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
_NESTING_VRS = (b"SQ", b"UN")  # what of undefined length consists of items (PS3.5 6.2.2)

_WINDOW_BYTES = 1 << 20
_MAX_ITEM_BYTES = 16 << 20
_MAX_DEPTH = 16
_MAX_FORMS = 16
_MAX_PATTERNS = 256
_MAX_VALUES = 256

_NUMBER = rb" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *"
_THREE_NUMBERS = re.compile(rb"(%b)\\(%b)\\(%b)" % (_NUMBER, _NUMBER, _NUMBER))

Position = tuple[float, float, float]
Values = list[tuple[int, int]]
"""Places of values: where each begins and where it ends."""


class _IrregularError(Exception):
    """Something that readers could take in more than one way."""


class _WindowEndError(Exception):
    """The item goes on behind the bytes at hand."""


@dataclass(frozen=True, eq=False, slots=True)
class _Form:
    """An item as its headers describe it: ``length`` [byte], and where those elements are that ``header.py`` looks
    at. An item with the same headers at the same places has this form whatever its values are."""

    length: int
    values: Values
    presentation: list[slice]
    geometry: list[slice]

    def pattern(self, item: bytes) -> re.Pattern[bytes]:
        """What matches the items of this form, of which ``item`` is one."""
        parts, done = [], 0
        for start, stop in self.values:
            parts += [re.escape(item[done:start]), b".{%d}" % (stop - start)]
            done = stop
        return re.compile(b"".join([*parts, re.escape(item[done:])]), re.DOTALL)


class FrameGroups(Sequence):
    """The items of the sequence, in order. ``read`` fills it; an item is parsed anew when it is asked for, and holds
    only what ``header.PRESENTATION_GROUPS`` and ``GEOMETRY_GROUPS`` name."""

    def __init__(self, *, implicit: bool, little_endian: bool, encoding: list[str]) -> None:
        super().__init__()
        order = "<" if little_endian else ">"
        self._implicit = implicit
        self._little_endian = little_endian
        self._encoding = encoding
        self._implicit_header = struct.Struct(f"{order}HHI")
        self._explicit_header = struct.Struct(f"{order}HH2sH")
        self._long = struct.Struct(f"{order}I")
        self._short = struct.Struct(f"{order}H")
        self._contents: list[bytes] = []  # what read_presentation looks at, each once
        self._numbers_of: dict[bytes, int] = {}
        self._numbers = array("I")
        self._geometries = bytearray()
        self._ends = array("Q", [0])
        self._forms: list[tuple[re.Pattern[bytes], _Form]] = []  # of the items seen last, the latest first
        self._patterns_left = _MAX_PATTERNS
        self._parsed: tuple[int, Dataset] | None = None
        self._position_form = lru_cache(maxsize=256)(self._make_position_form)

    # --- the items ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Dataset]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Dataset:  # type: ignore[override]  # nobody takes slices of it
        if self._parsed is None or self._parsed[0] != index:
            content = self._contents[self._numbers[index]] + self.geometry(index)
            item = self._implicit_header.pack(_ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content
            self._parsed = (index, convert_SQ(item, self._implicit, self._little_endian, self._encoding)[0])
        return self._parsed[1]

    def presentation(self, index: int) -> int:
        """A number: where two items have the same, read_presentation finds the same bytes in both."""
        return self._numbers[index]

    def geometry(self, index: int) -> bytes:
        """The elements of an item that read_geometry looks at."""
        return bytes(self._geometries[self._ends[index] : self._ends[index + 1]])

    def position(self, index: int) -> tuple[Position, bytes] | None:
        """ImagePositionPatient of an item, and the elements behind Plane Position Sequence in its geometry.

        None unless that sequence holds just this one value, as plain decimals: then read_geometry has to look.
        """
        data, value = self.geometry(index), 24 if self._implicit else 28
        if len(data) < value:
            return None
        length = self._long.unpack_from(data, 20)[0] if self._implicit else self._short.unpack_from(data, 26)[0]
        open_sequence = data[value - 20 : value - 16] == b"\xff\xff\xff\xff"
        open_item = data[value - 12 : value - 8] == b"\xff\xff\xff\xff"
        head, tail = self._position_form(length, open_sequence, open_item)
        end = value + length
        numbers = _THREE_NUMBERS.fullmatch(data, value, end)
        if numbers is None or not data.startswith(head) or not data.startswith(tail, end):
            return None
        position = (float(numbers[1]), float(numbers[2]), float(numbers[3]))
        return (position, data[end + len(tail) :]) if all(map(math.isfinite, position)) else None

    def _make_position_form(self, length: int, open_sequence: bool, open_item: bool) -> tuple[bytes, bytes]:
        """What stands before and behind a value of ``length`` bytes that is alone in a Plane Position Sequence, whose
        own length or whose item's is undefined (open) or not."""
        item_end = self._tagged(_ITEM_END, 0) if open_item else b""
        sequence_end = self._tagged(_SEQUENCE_END, 0) if open_sequence else b""
        element = self._element(_IMAGE_POSITION, b"DS", length)
        item = self._tagged(_ITEM, UNDEFINED_LENGTH if open_item else 8 + length)
        inside = 16 + length + len(item_end)
        sequence = self._element(_PLANE_POSITION, b"SQ", UNDEFINED_LENGTH if open_sequence else inside)
        return sequence + item + element, item_end + sequence_end

    def _tagged(self, tag: int, length: int) -> bytes:
        return self._implicit_header.pack(tag >> 16, tag & 0xFFFF, length)

    def _element(self, tag: int, vr: bytes, length: int) -> bytes:
        """The header of an element."""
        if self._implicit:
            return self._tagged(tag, length)
        if vr in _LONG_VRS:
            return self._explicit_header.pack(tag >> 16, tag & 0xFFFF, vr, 0) + self._long.pack(length)
        return self._explicit_header.pack(tag >> 16, tag & 0xFFFF, vr, length)

    # --- walking --------------------------------------------------------------------------------------------

    def read(self, stream: BinaryIO, length: int) -> bool:
        """Walk the sequence, whose value begins where ``stream`` is and has this length, and leave the stream behind
        it. False where anything is unusual, or cut: only a whole parser knows what that means."""
        try:
            return self._read(stream, length)
        except _IrregularError:
            return False

    def _read(self, stream: BinaryIO, length: int) -> bool:
        start = stream.tell()
        end = None if length == UNDEFINED_LENGTH else start + length
        window, at = b"", 0  # the window begins at ``start``
        while end is None or start + at < end:
            try:
                behind = self._read_item(window, at)
            except _WindowEndError:
                more = stream.read(max(_WINDOW_BYTES, len(window) - at))
                if not more or len(window) - at > _MAX_ITEM_BYTES:
                    return False
                start, window, at = start + at, window[at:] + more, 0
                continue
            if behind is None:
                stream.seek(start + at + 8)
                return end is None
            at = behind
        stream.seek(start + at)
        return start + at == end

    def _read_item(self, data: bytes, at: int) -> int | None:
        """Keep what matters of the item at this place of the window; return where it ends, None for the sequence's
        end."""
        form = self._known_form(data, at) or self._walk_item(data, at)
        if form is None:
            return None
        self._keep(
            b"".join([data[at + part.start : at + part.stop] for part in form.presentation]),
            b"".join([data[at + part.start : at + part.stop] for part in form.geometry]),
        )
        return at + form.length

    def _known_form(self, data: bytes, at: int) -> _Form | None:
        """The form of the item at this place, if it is one of those seen last."""
        for place, (pattern, form) in enumerate(self._forms):
            if pattern.match(data, at):
                if place:
                    self._forms.insert(0, self._forms.pop(place))
                return form
        return None

    def _remember(self, form: _Form, item: bytes) -> None:
        """Know this form again. Making a pattern takes as long as walking dozens of items, so not for each of very
        many forms."""
        if self._patterns_left and len(form.values) <= _MAX_VALUES:
            self._patterns_left -= 1
            self._forms.insert(0, (form.pattern(item), form))
            del self._forms[_MAX_FORMS:]

    def _walk_item(self, data: bytes, at: int) -> _Form | None:
        """The form of the item at this place of the window; None for the sequence's end."""
        begin, (tag, length) = at, self._tag_and_length(data, at)
        if tag == _SEQUENCE_END:
            return None
        if tag != _ITEM:
            raise _IrregularError
        at += 8
        end = None if length == UNDEFINED_LENGTH else at + length
        if end is not None and end > len(data):
            raise _WindowEndError
        values: list[tuple[int, int]] = []
        presentation, geometry, last = [], [], -1
        while at != end:
            tag, vr, value, length = self._header(data, at, self._implicit)
            if tag == _ITEM_END and end is None:
                at += 8
                break
            if tag <= last or tag >= _ITEM or (end is not None and value > end):
                raise _IrregularError
            behind = self._behind(data, tag, vr, value, length, self._implicit, values)
            if behind > (len(data) if end is None else end):
                raise _WindowEndError if end is None else _IrregularError
            if tag in _PRESENTATION_TAGS:
                presentation.append(slice(at - begin, behind - begin))
            elif tag in _GEOMETRY_TAGS:
                geometry.append(slice(at - begin, behind - begin))
            at, last = behind, tag
        form = _Form(at - begin, [(start - begin, stop - begin) for start, stop in values], presentation, geometry)
        self._remember(form, data[begin:at])
        return form

    def _keep(self, presentation: bytes, geometry: bytes) -> None:
        number = self._numbers_of.setdefault(presentation, len(self._contents))
        if number == len(self._contents):
            self._contents.append(presentation)
        self._numbers.append(number)
        self._geometries += geometry
        self._ends.append(len(self._geometries))

    def _tag_and_length(self, data: bytes, at: int) -> tuple[int, int]:
        if at + 8 > len(data):
            raise _WindowEndError
        group, element, length = self._implicit_header.unpack_from(data, at)
        return group << 16 | element, length

    def _header(self, data: bytes, at: int, implicit: bool) -> tuple[int, bytes | None, int, int]:
        """(tag, VR or None, place of the value, length) of the element at a place of the window."""
        if at + 12 > len(data):
            # The shortest thing that can follow an element is 8 bytes long, and something follows it in its turn.
            raise _WindowEndError
        if implicit:
            group, element, length = self._implicit_header.unpack_from(data, at)
            return group << 16 | element, None, at + 8, length
        group, element, vr, length = self._explicit_header.unpack_from(data, at)
        tag = group << 16 | element
        if vr in _SHORT_VRS:
            return tag, vr, at + 8, length
        if vr in _LONG_VRS:
            return tag, vr, at + 12, self._long.unpack_from(data, at + 8)[0]
        if tag == _ITEM_END:
            return tag, None, at + 8, 0
        raise _IrregularError

    def _behind(
        self,
        data: bytes,
        tag: int,
        vr: bytes | None,
        at: int,
        length: int,
        implicit: bool,
        values: Values,
        depth: int = 0,
    ) -> int:
        """Where a value ends that begins at ``at``; if its length is undefined, behind its items and their delimiter.
        The places of all values that are not walked through are added to ``values``."""
        if length != UNDEFINED_LENGTH:
            values.append((at, at + length))
            return at + length
        if depth > _MAX_DEPTH or not (vr in _NESTING_VRS if vr else _nests(tag)):
            raise _IrregularError
        while True:
            tag, length = self._tag_and_length(data, at)
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _IrregularError
            end = None if length == UNDEFINED_LENGTH else at + length
            at = self._behind_item(data, at, end, implicit, values, depth)

    def _behind_item(self, data: bytes, at: int, end: int | None, implicit: bool, values: Values, depth: int) -> int:
        """Where an item ends whose elements begin at ``at``; ``end`` is None where its length is undefined."""
        # What was UN once may be implicit inside (PS3.5 6.2.2): then no letters stand where a VR would.
        implicit = implicit or not data[at + 4 : at + 6].isalpha()
        while at != end:
            tag, vr, value, length = self._header(data, at, implicit)
            if tag == _ITEM_END and end is None:
                return at + 8
            if tag >= _ITEM:
                raise _IrregularError
            at = self._behind(data, tag, vr, value, length, implicit, values, depth + 1)
            if end is not None and at > end:
                raise _IrregularError
        return at


def _nests(tag: int) -> bool:
    """Whether an element of undefined length without a VR is a sequence; a private one can be nothing else."""
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return True
