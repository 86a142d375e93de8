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
from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag

from gpu_render.archive.dataset import PixelElement
from gpu_render.archive.elements import LONG_VRS, PIXEL_REPRESENTATION, SHORT_VRS, IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.archive.metadata import (
    AVAILABLE_TRANSFER_SYNTAX,
    DEFAULT_ENCODINGS,
    LEVELS,
    SPECIFIC_CHARACTER_SET,
    Member,
    Metadata,
    Piece,
    Writer,
    belongs,
    join_metadata,
    packed_piece,
)

IMPLICIT_LE = "1.2.840.10008.1.2"
PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
PER_FRAME_GROUPS = 0x52009230
_NOT_LITTLE_ENDIAN = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # or not before it is inflated
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010  # of group 0002
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
_FILE_META = b"\x02\x00"  # its group
_ENDS = frozenset({*_PIXELS, _encoded(PER_FRAME_GROUPS)})
_OF_LEVELS, _OF_NO_LEVEL = frozenset().union(*LEVELS), ("", "", "")
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

Levels = tuple[list[str], list[str], list[str]]
"""JSON members of a study, a series and an instance."""


@dataclass(frozen=True, eq=False, slots=True)
class _Meaning:
    """What elements mean depends on those before them: the character sets, by the names of this service and of
    pydicom, whether ``US or SS`` is signed, and the private creators. ``runs``: what may follow, by its first tag."""

    encodings: tuple[str, ...]
    charset: Charset
    signed: bool
    creators: tuple[tuple[int, bytes], ...]
    runs: dict[bytes, list["_Run"]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Run:
    """Elements, one behind the other; where ``learned``, they were in two files. ``text``: their JSON members, and
    ``levels`` those of each level, joined. ``before``, ``behind``: what elements there depend on."""

    data: bytes
    first: int
    last: int
    elements: dict[int, bytes]
    piece: Piece
    levels: tuple[str, ...]
    before: _Meaning
    behind: _Meaning
    learned: bool


# --- the header of a file -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a file up to its pixels, where the data set begins at ``begin`` [byte]. ``pieces``: JSON members in
    the order of tags; that of Available Transfer Syntax UID belongs before number ``available_at``."""

    transfer_syntax_uid: str
    media_sop_instance_uid: str
    begin: int
    pixels: PixelElement
    elements: Elements
    ds: Dataset
    encodings: tuple[str, ...]
    pieces: list[Piece]
    available_at: int
    levels: Levels

    def recalled(self, function: Callable[..., Found], *args: Hashable) -> Found:
        """``function(ds, *args)``, which depends on nothing but these: what it returned before, where all elements that
        it looked at then are the same now."""
        return _known.result(self, function, args)

    def metadata(self, tail: Reader | None, available: Sequence[str]) -> Metadata | None:
        """As ``make_metadata`` makes it, with what ``tail`` reads behind the pixels; None where it has to."""
        behind: tuple[Member, ...] = ()
        if tail is not None:
            if len(tail.data) - tail.at > _MOST_BEHIND:
                return None
            behind = _members(bytes(tail.data[tail.at :]), tail.implicit, self.encodings)
        encoded = self.elements.raw.get(SPECIFIC_CHARACTER_SET, b"")
        unicode = len(encoded) > _EMPTY_BYTES
        return join_metadata(
            self.pieces, self.available_at, self.levels, self.pixels, behind, available, unicode=unicode
        )


@lru_cache(maxsize=16)
def _members(data: bytes, implicit: bool, encodings: tuple[str, ...]) -> tuple[Member, ...]:
    """Of what stands behind the pixels, as far as it consists of elements."""
    reader = Reader(data, 0, implicit=implicit, little_endian=True)
    members, _ = Writer(reader, list(encodings), "", [_MOST_CHARACTERS]).root_members(lenient=True)
    return tuple(members)


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


@dataclass(frozen=True, slots=True)
class _FileMeta:
    """File Meta Information, but for the value of Media Storage SOP Instance UID, which has so many bytes: what stands
    before it in the file, and what behind."""

    transfer_syntax_uid: str
    before: bytes
    length: int
    behind: bytes

    def read(self, data: bytes) -> tuple[str, int] | None:
        """Media Storage SOP Instance UID, and where the data set begins; None where a file has another one."""
        start = len(self.before)
        end = start + self.length + len(self.behind)
        same = data.startswith(self.before) and data.startswith(self.behind, start + self.length)
        if not same or data.startswith(_FILE_META, end):
            return None
        return _plain_uid(data[start : start + self.length]), end


def _read_file_meta(data: bytes) -> _FileMeta:
    if data[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise UnfamiliarError
    found, last, at = dict[int, tuple[int, int]](), -1, _PREAMBLE + 4
    while data.startswith(_FILE_META, at):
        vr, start = data[at + 4 : at + 6], at + 8
        if vr in LONG_VRS:
            start = at + 12
        elif vr not in SHORT_VRS:
            raise UnfamiliarError
        if start > len(data):
            raise IrregularError
        number = _SHORT.unpack_from(data, at + 2)[0]
        length = _LONG.unpack_from(data, at + 8)[0] if vr in LONG_VRS else _SHORT.unpack_from(data, at + 6)[0]
        if start + length > len(data):
            raise IrregularError
        if number <= last:  # in no order
            raise UnfamiliarError
        found[number], last, at = (start, start + length), number, start + length
    uid, sop_class = (_plain_uid(data[slice(*found.get(number, (0, 0)))]) for number in (_TRANSFER_SYNTAX, _SOP_CLASS))
    if uid in _NOT_LITTLE_ENDIAN or sop_class == _DICOMDIR or _SOP_INSTANCE not in found:
        raise UnfamiliarError
    start, end = found[_SOP_INSTANCE]
    return _FileMeta(uid, data[:start], end - start, data[end:at])


def _plain_uid(value: bytes) -> str:
    plain = _PLAIN_UID(value)
    if plain is None:
        raise UnfamiliarError
    return plain[1].decode()


class _Walk:
    """The elements of a data set up to its pixels: ``raw`` by their tags, and ``runs`` in order."""

    def __init__(self, known: "_Known", data: bytes, begin: int, implicit: bool) -> None:
        self.raw: dict[int, bytes] = {}
        self.runs: list[_Run] = []
        self._known = known
        self._data = data
        self._begin = begin
        self._implicit = implicit
        self._meaning = known.meaning(implicit, tuple(DEFAULT_ENCODINGS), default_encoding, False, ())
        self._pieces: list[Piece] = []
        self._levels: Levels = ([], [], [])
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
        self._take(run)
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
        if tag == AVAILABLE_TRANSFER_SYNTAX:  # of what is offered, not of what was stored
            text = ""
        levels = tuple([text if tag in tags else "" for tags in LEVELS]) if tag in _OF_LEVELS else _OF_NO_LEVEL
        before = self._meaning
        if tag in _ALWAYS or tag & 0x1FF00 == 0x10000:  # or a private creator
            self._meaning = self._meaning_behind(tag, element)
        self._take(_Run(element, tag, tag, {tag: element}, (text, b""), levels, before, self._meaning, False))

    def _take(self, run: _Run) -> None:
        self.runs.append(run)
        self.raw.update(run.elements)
        if run.piece[0]:
            self._pieces.append(run.piece)
        if run.levels is not _OF_NO_LEVEL:
            for texts, text in zip(self._levels, run.levels, strict=True):
                if text:
                    texts.append(text)

    def _note_available(self, tag: int) -> None:
        if self._available_at < 0 and tag >= AVAILABLE_TRANSFER_SYNTAX:
            self._available_at = len(self._pieces)

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
            self._pieces,
            self._available_at,
            self._levels,
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
        self._learned = 0
        self._learned_bytes = 0
        self._previous: dict[int, bytes] = {}
        self._metas: list[_FileMeta] = []
        self._results: dict[Hashable, list[tuple[tuple[int, ...], dict[Any, Any]]]] = {}
        self._remembered = 0
        self._remembered_bytes = 0

    def read(self, data: bytes) -> Head:
        """The header of a file that begins with ``data``. Raises UnfamiliarError and IrregularError."""
        uid, instance_uid, begin = self._file_meta(data)
        implicit = uid == IMPLICIT_LE
        if implicit and data[begin + 4 : begin + 6].isalpha():
            raise UnfamiliarError  # explicit, whatever the transfer syntax says
        walk = _Walk(self, data, begin, implicit)
        end = walk.read()
        head = walk.head(uid, instance_uid, end)
        self._learn(walk.runs)
        self._previous = walk.raw
        self.expected = min(MOST_BYTES, max(FIRST_BYTES, end + end // 4))
        return head

    def _file_meta(self, data: bytes) -> tuple[str, str, int]:
        """Transfer Syntax UID, Media Storage SOP Instance UID, and where the data set begins."""
        for meta in self._metas:
            if (read := meta.read(data)) is not None:
                return meta.transfer_syntax_uid, *read
        meta = _read_file_meta(data)
        self._metas = [meta, *self._metas[: _MOST_ALIKE - 1]]
        read = meta.read(data)
        if read is None:
            raise UnfamiliarError
        return meta.transfer_syntax_uid, *read

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

    def _learn(self, runs: list[_Run]) -> None:
        """Make one run of those that follow one another in this file and the one before it."""
        if len(self._meanings) > _MOST_MEANINGS or self._learned > _MOST_RUNS or self._learned_bytes > _MOST_RUN_BYTES:
            self._meanings, self._learned, self._learned_bytes = {}, 0, 0
            return
        alike, divided = list[_Run](), False
        for run in runs:
            # Available Transfer Syntax UID gets its place between runs.
            divides = not divided and run.last >= AVAILABLE_TRANSFER_SYNTAX
            divided = divided or divides
            recurs = run.learned or self._previous.get(run.first) == run.data
            if not recurs or divides:
                self._join(alike)
                alike = []
            if recurs:
                alike.append(run)
        self._join(alike)

    def _join(self, alike: list[_Run]) -> None:
        previous = self._previous.get
        if not alike or (len(alike) == 1 and alike[0].learned):
            return
        elements = {tag: element for run in alike for tag, element in run.elements.items()}
        if any(previous(tag) != element for tag, element in elements.items()):
            return
        data, text = b"".join([run.data for run in alike]), _joined([run.piece[0] for run in alike])
        levels = tuple([_joined(texts) for texts in zip(*[run.levels for run in alike], strict=True)])
        levels = levels if any(levels) else _OF_NO_LEVEL
        first, last = alike[0], alike[-1]
        piece = text, packed_piece(text)
        run = _Run(data, first.first, last.last, elements, piece, levels, first.before, last.behind, True)
        known = run.before.runs.setdefault(data[:4], [])
        known.insert(0, run)
        del known[_MOST_ALIKE:]
        self._learned += 1
        self._learned_bytes += len(data)

    # --- results --------------------------------------------------------------------------------------------

    def result(self, head: Head, function: Callable[..., Found], args: tuple[Hashable, ...]) -> Found:
        """See ``Head.recalled``."""
        asked, elements = (function, args, head.elements.implicit), head.elements
        element = elements.raw.get
        for tags, results in self._results.get(asked, ()):
            key = tuple([element(tag) for tag in tags])
            if key in results:
                result: Found = results[key]
                return result
        elements.looked = looked = set[int]()
        try:
            result = function(head.ds, *args)
        finally:
            elements.looked = None
        if _EVERYTHING not in looked:
            tags = tuple(sorted(looked | _ALWAYS))
            self._remember(asked, tags, tuple([element(tag) for tag in tags]), result)
        return result

    def _remember(self, asked: Hashable, tags: tuple[int, ...], key: tuple[bytes | None, ...], result: Any) -> None:
        self._remembered += 1
        self._remembered_bytes += sum([len(element) for element in key if element])
        if self._remembered > _MOST_RESULTS or self._remembered_bytes > _MOST_RESULT_BYTES:
            self._results, self._remembered, self._remembered_bytes = {}, 0, 0
        looks = self._results.setdefault(asked, [])
        for known, results in looks:
            if known == tags:
                results[key] = result
                return
        looks.insert(0, (tags, {key: result}))
        del looks[_MOST_LOOKS:]


def _joined(texts: Iterable[str]) -> str:
    return ",".join([text for text in texts if text])


_known = _Known()
