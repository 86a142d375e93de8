"""Headers that are mostly as in the files before them, as those of one series are: read without pydicom.

Stretches of elements that two files had in common are known again, bytes and all, with everything that was made of
them; only what lies between is looked at. What elements mean is left to those who say it elsewhere: values to pydicom,
which gets each element when it is asked for, texts to ``metadata.Writer``. Where anything is unusual UnfamiliarError
is raised, and the caller reads the file with pydicom (``parse.read_file``), with which this module agrees in
everything.

For a process that parses on one thread: what is remembered belongs to the process.
"""

import io
import os
import re
import struct
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag

from gpu_render.archive.dataset import PixelElement
from gpu_render.archive.elements import LONG_VRS, PIXEL_REPRESENTATION, IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.archive.metadata import (
    AVAILABLE_TRANSFER_SYNTAX,
    DEFAULT_ENCODINGS,
    LEVELS,
    SPECIFIC_CHARACTER_SET,
    Member,
    Metadata,
    Writer,
    belongs,
    join_metadata,
)

IMPLICIT_LE = "1.2.840.10008.1.2"
PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
PER_FRAME_GROUPS = 0x52009230
_NOT_LITTLE_ENDIAN = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # or not before it is inflated
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_DICOMDIR = "1.2.840.10008.1.3.10"
_PREAMBLE = 128

FIRST_BYTES, MOST_BYTES = 8 << 10, 512 << 10
"""Of a file's beginning as much is read as the last one needed, and at most so much."""
_MOST_BEHIND = 64 << 10
_MOST_CHARACTERS = 4 << 20  # of JSON, of all these bytes: fewer than metadata may have
_EMPTY_BYTES = 8  # of an element without a value
_MOST_MEANINGS, _MOST_RUNS, _MOST_RUN_BYTES, _MOST_ALIKE = 256, 2048, 4 << 20, 4
_MOST_RESULTS, _MOST_RESULT_BYTES, _MOST_LOOKS = 4096, 4 << 20, 8

_TAG, _SHORT, _LONG = struct.Struct("<HH"), struct.Struct("<H"), struct.Struct("<I")
_PLAIN_UID = re.compile(rb"([0-9.]{1,128})\0?").fullmatch

Found = TypeVar("Found")
Charset = str | tuple[str, ...]
"""Character sets as pydicom names them: one where nothing says which."""


class UnfamiliarError(Exception):
    """A header that is to be read by pydicom."""


def _encoded(tag: int) -> bytes:
    return _TAG.pack(tag >> 16, tag & 0xFFFF)


_PIXELS = {_encoded(tag): tag for tag in PIXEL_KEYWORDS}
_ENDS = frozenset({*_PIXELS, _encoded(PER_FRAME_GROUPS)})
_ALWAYS = frozenset({SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION})  # what values depend on beside their own bytes


# --- elements as pydicom has them ---------------------------------------------------------------------------


class Elements(MutableMapping[BaseTag, RawDataElement | DataElement]):
    """What pydicom's Dataset keeps its elements in, each made when it is asked for.

    ``raw``: by their tags, as they lie in the file. ``looked``: where it is a set, the tags that are asked for.
    """

    def __init__(self, raw: dict[int, bytes], implicit: bool, charset: Charset) -> None:
        self.raw = raw
        self.implicit = implicit
        self.looked: set[int] | None = None
        self._charset = charset
        self._made: dict[int, RawDataElement | DataElement] = {}

    def __getitem__(self, tag: int) -> RawDataElement | DataElement:
        tag = int(tag)  # BaseTag compares slowly
        if self.looked is not None:
            self.looked.add(tag)
        made = self._made.get(tag)
        if made is None:
            made = self._made[tag] = raw_element(tag, self.raw[tag], self.implicit, self._charset)
        return made

    def __contains__(self, tag: object) -> bool:
        if not isinstance(tag, int):
            return False
        if self.looked is not None:
            self.looked.add(int(tag))
        return int(tag) in self.raw

    def __setitem__(self, tag: int, element: RawDataElement | DataElement) -> None:
        if tag not in self.raw:
            raise TypeError("a header is not changed")
        self._made[int(tag)] = element  # pydicom keeps what it made of an element

    def __delitem__(self, tag: int) -> None:
        raise TypeError("a header is not changed")

    def __iter__(self) -> Iterator[BaseTag]:
        if self.looked is not None:
            self.looked.update(self.raw)
            self.looked.add(_EVERYTHING)
        return map(BaseTag, self.raw)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_EVERYTHING = -1
"""In ``looked``: which tags there are was asked for."""


def raw_element(tag: int, element: bytes, implicit: bool, charset: Charset) -> RawDataElement | DataElement:
    """What ``pydicom.filereader.data_element_generator`` makes of an element, little-endian."""
    vr, start, length = None, 8, _LONG.unpack_from(element, 4)[0]
    if not implicit:
        given = element[4:6]
        vr = given.decode(default_encoding)
        start = 12 if given in LONG_VRS else 8
        length = _LONG.unpack_from(element, 8)[0] if given in LONG_VRS else _SHORT.unpack_from(element, 6)[0]
    if length == UNDEFINED_LENGTH:  # a sequence: _Walk lets nothing else pass
        encoding = charset if isinstance(charset, str) else list(charset)
        items = read_sequence(io.BytesIO(element[start:]), implicit, True, length, encoding)
        return DataElement(BaseTag(tag), "SQ", items, 0, is_undefined_length=True)
    value: Any = element[start:] if length else empty_value_for_VR(vr, raw=True)
    return RawDataElement(BaseTag(tag), vr, length, value, 0, implicit, True)


# --- what is known again ------------------------------------------------------------------------------------

Texts = tuple[list[str], list[str], list[str], list[str]]
"""JSON members: of all elements, and of those of a study, a series and an instance."""


@dataclass(frozen=True, eq=False, slots=True)
class _Meaning:
    """What elements mean depends on those before them: the character sets, by the names of this service and of
    pydicom, whether ``US or SS`` is signed, and the private creators. ``runs``: what may follow, by its first tag."""

    encodings: tuple[str, ...]
    charset: Charset
    signed: bool
    creators: tuple[tuple[int, bytes], ...]
    runs: dict[bytes, list["_Run"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    """Elements, one behind the other, that two files had in common; ``texts``: as Texts, each joined. ``behind``: what
    those that follow depend on."""

    data: bytes
    first: int
    last: int
    elements: dict[int, bytes]
    texts: tuple[str, ...]
    behind: _Meaning


@dataclass(frozen=True, eq=False, slots=True)
class _Single:
    """An element of no run. ``text``: its JSON member, empty where it has none."""

    tag: int
    element: bytes
    text: str
    before: _Meaning
    behind: _Meaning


def _no_texts() -> Texts:
    return [], [], [], []


def _add_text(texts: Texts, tag: int, text: str) -> None:
    texts[0].append(text)
    for tags, of_level in zip(LEVELS, texts[1:], strict=True):
        if tag in tags:
            of_level.append(text)


# --- the header of a file -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a file up to its pixels, where the data set begins at ``begin`` [byte]. ``texts``: JSON members in
    the order of tags; that of Available Transfer Syntax UID belongs before number ``available_at``."""

    transfer_syntax_uid: str
    media_sop_instance_uid: str
    begin: int
    pixels: PixelElement
    elements: Elements
    ds: Dataset
    encodings: tuple[str, ...]
    texts: Texts
    available_at: int

    def recalled(self, function: Callable[..., Found], *args: Hashable) -> Found:
        """``function(ds, *args)``, which depends on nothing but these: what it returned before, where all elements that
        it looked at then are the same now."""
        return _known.result(self, function, args)

    def metadata(self, tail: Reader | None, available: Sequence[str]) -> Metadata | None:
        """As ``make_metadata`` makes it, with what ``tail`` reads behind the pixels; None where it has to."""
        behind = list[Member]()
        if tail is not None:
            if len(tail.data) - tail.at > _MOST_BEHIND:
                return None
            writer = Writer(tail, list(self.encodings), "", [_MOST_CHARACTERS])
            behind, _ = writer.root_members(lenient=True)
        encoded = self.elements.raw.get(SPECIFIC_CHARACTER_SET, b"")
        return join_metadata(
            self.texts, self.available_at, self.pixels, behind, available, unicode=len(encoded) > _EMPTY_BYTES
        )


def read_head(descriptor: int, size: int) -> Head:
    """Of an open file of ``size`` bytes. Raises UnfamiliarError, and whatever comes out of pydicom."""
    wanted = _known.expected
    while True:
        data = os.pread(descriptor, wanted, 0)
        try:
            return _known.read(data)
        except IrregularError:  # it may go on behind what was read
            if len(data) >= min(size, MOST_BYTES):
                raise UnfamiliarError from None
        wanted = min(8 * wanted, MOST_BYTES)


def _read_file_meta(data: bytes) -> tuple[str, str, int]:
    """Transfer Syntax UID, Media Storage SOP Instance UID, and where the data set begins."""
    if data[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise UnfamiliarError
    reader = Reader(data, _PREAMBLE + 4, implicit=False, little_endian=True)
    elements, found, last = reader.elements(len(data), Scope()), dict[int, bytes](), -1
    while data.startswith(b"\x02\x00", reader.at):
        tag, _, start, length = next(elements)
        reader.at = start + length
        if tag <= last or length == UNDEFINED_LENGTH:
            raise UnfamiliarError
        last = tag
        found[tag] = data[start : reader.at]
    uid = _plain_uid(found.get(_TRANSFER_SYNTAX, b""))
    sop_class = _plain_uid(found[_SOP_CLASS]) if found.get(_SOP_CLASS) else ""
    if uid in _NOT_LITTLE_ENDIAN or sop_class == _DICOMDIR:
        raise UnfamiliarError
    return uid, _plain_uid(found[_SOP_INSTANCE]) if found.get(_SOP_INSTANCE) else "", reader.at


def _plain_uid(value: bytes) -> str:
    plain = _PLAIN_UID(value)
    if plain is None:
        raise UnfamiliarError
    return plain[1].decode()


class _Walk:
    """The elements of a data set up to its pixels. ``singles``: those that belonged to no run, None for a run."""

    def __init__(self, known: "_Known", data: bytes, begin: int, implicit: bool) -> None:
        self.raw: dict[int, bytes] = {}
        self.singles: list[_Single | None] = []
        self._known = known
        self._data = data
        self._begin = begin
        self._implicit = implicit
        self._meaning = known.meaning(implicit, tuple(DEFAULT_ENCODINGS), default_encoding, False, ())
        self._texts = _no_texts()
        self._available_at = -1
        self._scope = Scope()
        self._reader = Reader(data, begin, implicit=implicit, little_endian=True)
        self._writer = Writer(self._reader, DEFAULT_ENCODINGS, "", [_MOST_CHARACTERS])

    def read(self) -> int:
        """Go to the pixels; return where they begin. Raises UnfamiliarError and IrregularError."""
        data, reader, last = self._data, self._reader, -1
        elements = reader.elements(len(data), self._scope)
        while True:
            at = reader.at
            head = data[at : at + 4]
            for run in self._meaning.runs.get(head, ()):
                if data.startswith(run.data, at) and run.first > last:
                    self._take_run(run)
                    last = run.last
                    break
            else:
                if head in _ENDS:
                    return at
                tag, vr, start, length = next(elements, (-1, b"", 0, 0))
                if tag <= last:  # in no order, or no pixels
                    raise UnfamiliarError
                self._take_single(at, tag, vr, start, length)
                last = tag

    def _take_run(self, run: _Run) -> None:
        self._note_available(run.first)
        self._reader.at += len(run.data)
        self.raw.update(run.elements)
        self.singles.append(None)
        for texts, text in zip(self._texts, run.texts, strict=True):
            if text:
                texts.append(text)
        if run.behind is not self._meaning:
            self._meaning = run.behind
            self._scope.signed = run.behind.signed
            self._scope.creators = dict(run.behind.creators)
            self._writer.use(list(run.behind.encodings))

    def _take_single(self, at: int, tag: int, vr: bytes, start: int, length: int) -> None:
        self._note_available(tag)
        text = self._writer.member(tag, vr, start, length, self._scope) if belongs(tag) else ""
        if length != UNDEFINED_LENGTH:
            self._reader.at = start + length
        element = self._data[at : self._reader.at]
        if length == UNDEFINED_LENGTH:
            self._check_undefined(tag, element)
        self.raw[tag] = element
        if tag == AVAILABLE_TRANSFER_SYNTAX:  # of what is offered, not of what was stored
            text = ""
        if text:
            _add_text(self._texts, tag, text)
        before = self._meaning
        if tag in _ALWAYS or tag & 0x1FF00 == 0x10000:  # or a private creator
            self._meaning = self._meaning_behind(tag, element)
        self.singles.append(_Single(tag, element, text, before, self._meaning))

    def _note_available(self, tag: int) -> None:
        if self._available_at < 0 and tag >= AVAILABLE_TRANSFER_SYNTAX:
            self._available_at = len(self._texts[0])

    def _check_undefined(self, tag: int, element: bytes) -> None:
        """That an element of undefined length is a sequence for pydicom too, and one that it can read at all."""
        if tag < SPECIFIC_CHARACTER_SET or (dictionary_VR(tag) if self._implicit else element[4:6]) not in (
            "SQ",
            b"SQ",
        ):
            raise UnfamiliarError
        raw_element(tag, element, self._implicit, self._meaning.charset)

    def _meaning_behind(self, tag: int, element: bytes) -> _Meaning:
        charset = self._meaning.charset
        if tag == SPECIFIC_CHARACTER_SET:
            if not self._implicit and element[4:6] != b"CS":
                raise UnfamiliarError
            raw = raw_element(tag, element, self._implicit, charset)
            if not isinstance(raw, RawDataElement):
                raise UnfamiliarError
            charset = tuple(convert_encodings(convert_raw_data_element(raw).value))
        creators = tuple(sorted(self._scope.creators.items()))
        return self._known.meaning(self._implicit, tuple(self._writer.encodings), charset, self._scope.signed, creators)

    def head(self, transfer_syntax_uid: str, media_sop_instance_uid: str, at: int) -> Head:
        """All of it; the pixels are at ``at``."""
        charset = self._meaning.charset
        elements = Elements(self.raw, self._implicit, charset)
        ds = Dataset(elements)
        ds.set_original_encoding(self._implicit, True, charset if isinstance(charset, str) else list(charset))
        self._note_available(PER_FRAME_GROUPS)
        return Head(
            transfer_syntax_uid,
            media_sop_instance_uid,
            self._begin,
            self._pixels(at),
            elements,
            ds,
            self._meaning.encodings,
            self._texts,
            self._available_at,
        )

    def _pixels(self, at: int) -> PixelElement:
        tag = _PIXELS.get(self._data[at : at + 4])
        if tag is None:
            raise UnfamiliarError
        if at + (8 if self._implicit else 12) > len(self._data):
            raise IrregularError
        keyword = PIXEL_KEYWORDS[tag]
        if self._implicit:
            return PixelElement(keyword, None, at + 8, _LONG.unpack_from(self._data, at + 4)[0])
        vr = self._data[at + 4 : at + 6]
        if vr not in LONG_VRS:
            raise UnfamiliarError
        return PixelElement(keyword, vr.decode(), at + 12, _LONG.unpack_from(self._data, at + 8)[0])


class _Known:
    """What is remembered of headers."""

    def __init__(self) -> None:
        self.expected = FIRST_BYTES
        self._meanings: dict[tuple[Any, ...], _Meaning] = {}
        self._runs = 0
        self._run_bytes = 0
        self._previous: dict[int, bytes] = {}
        self._looks: dict[Hashable, list[tuple[int, ...]]] = {}
        self._results: dict[Hashable, Any] = {}
        self._result_bytes = 0

    def read(self, data: bytes) -> Head:
        """The header of a file that begins with ``data``. Raises UnfamiliarError and IrregularError."""
        uid, instance_uid, begin = _read_file_meta(data)
        implicit = uid == IMPLICIT_LE
        if implicit and data[begin + 4 : begin + 6].isalpha():
            raise UnfamiliarError  # explicit, whatever the transfer syntax says
        walk = _Walk(self, data, begin, implicit)
        end = walk.read()
        head = walk.head(uid, instance_uid, end)
        self._learn(walk.singles)
        self._previous = walk.raw
        self.expected = min(MOST_BYTES, max(FIRST_BYTES, end + end // 4))
        return head

    # --- elements -------------------------------------------------------------------------------------------

    def meaning(
        self,
        implicit: bool,
        encodings: tuple[str, ...],
        charset: Charset,
        signed: bool,
        creators: tuple[tuple[int, bytes], ...],
    ) -> _Meaning:
        """The one and only meaning of its kind, until all are forgotten."""
        key = (implicit, encodings, charset, signed, creators)
        found = self._meanings.get(key)
        if found is None:
            found = self._meanings[key] = _Meaning(encodings, charset, signed, creators)
        return found

    def _learn(self, singles: list[_Single | None]) -> None:
        """Make runs of what this file and the one before it have in common, and no run had."""
        if len(self._meanings) > _MOST_MEANINGS or self._runs > _MOST_RUNS or self._run_bytes > _MOST_RUN_BYTES:
            self._meanings, self._runs, self._run_bytes = {}, 0, 0
            return
        alike = list[_Single]()
        for single in [*singles, None]:
            recurs = single is not None and self._previous.get(single.tag) == single.element
            if alike and (single is None or not recurs or _divides(alike[-1].tag, single.tag)):
                self._keep(alike)
                alike = []
            if single is not None and recurs:
                alike.append(single)

    def _keep(self, alike: list[_Single]) -> None:
        data, texts = b"".join([single.element for single in alike]), _no_texts()
        for single in alike:
            if single.text:
                _add_text(texts, single.tag, single.text)
        elements = {single.tag: single.element for single in alike}
        first, last = alike[0], alike[-1]
        run = _Run(data, first.tag, last.tag, elements, tuple(map(",".join, texts)), last.behind)
        runs = first.before.runs.setdefault(data[:4], [])
        runs.insert(0, run)
        del runs[_MOST_ALIKE:]
        self._runs += 1
        self._run_bytes += len(data)

    # --- results --------------------------------------------------------------------------------------------

    def result(self, head: Head, function: Callable[..., Found], args: tuple[Hashable, ...]) -> Found:
        """See ``Head.recalled``."""
        asked, elements = (function, args, head.elements.implicit), head.elements
        element = elements.raw.get
        for tags in self._looks.get(asked, ()):
            key = (asked, tags, *map(element, tags))
            if key in self._results:
                result: Found = self._results[key]
                return result
        elements.looked = looked = set[int]()
        try:
            result = function(head.ds, *args)
        finally:
            elements.looked = None
        if _EVERYTHING not in looked:
            self._remember(asked, tuple(sorted(looked | _ALWAYS)), elements.raw, result)
        return result

    def _remember(self, asked: Hashable, tags: tuple[int, ...], raw: dict[int, bytes], result: Any) -> None:
        seen = [raw.get(tag) for tag in tags]
        self._result_bytes += sum(len(element) for element in seen if element) + (
            len(result) if isinstance(result, str) else 0
        )
        if len(self._results) >= _MOST_RESULTS or self._result_bytes > _MOST_RESULT_BYTES:
            self._looks, self._results, self._result_bytes = {}, {}, 0
        looks = self._looks.setdefault(asked, [])
        if tags not in looks:
            looks.insert(0, tags)
            del looks[_MOST_LOOKS:]
        self._results[asked, tags, *seen] = result


def _divides(before: int, behind: int) -> bool:
    """Whether Available Transfer Syntax UID has its place between these elements."""
    return before < AVAILABLE_TRANSFER_SYNTAX <= behind


_known = _Known()
