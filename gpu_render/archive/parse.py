"""One file -> everything the index keeps of it. Runs in a worker process: parsers meet hostile bytes here."""

import contextlib
import hashlib
import io
import json
import logging
import os
import struct
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom.uid
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from gpu_render.archive.alike import IMPLICIT_LE, PER_FRAME_GROUPS, PIXEL_KEYWORDS, Head, read_head
from gpu_render.archive.dataset import (
    PixelElement,
    Stretches,
    head_reader,
    repaired,
    tail_reader,
)
from gpu_render.archive.elements import IrregularError, Reader
from gpu_render.archive.encapsulation import (
    ITEM,
    UNDEFINED_LENGTH,
    OffsetTables,
    ReadAt,
    check_held,
    frame_spans,
    walk_items,
)
from gpu_render.archive.files import INFLATE_STEP_BYTES, inflate, open_beneath
from gpu_render.archive.functional_groups import FrameGroups
from gpu_render.archive.metadata import NO_METADATA, Metadata, make_metadata
from gpu_render.archive.records import geometry_to_json, layout_to_json, move_geometry, presentation_to_json
from gpu_render.decode import find_decoder
from gpu_render.errors import (
    CorruptPixelData,
    InvalidUid,
    NotRenderable,
    RenderError,
    TooLarge,
    UnreadableFile,
    UnsupportedTransferSyntax,
)
from gpu_render.frame import PixelLayout
from gpu_render.header import (
    MAX_FRAME_BYTES,
    MAX_FRAMES,
    SUBSAMPLED,
    Attributes,
    native_frame_bits,
    presentation_varies,
    read_geometry,
    read_kind,
    read_layout,
    read_number_of_frames,
    read_presentation,
    read_series,
    read_study,
    text,
    uid_text,
    whole_number,
)
from gpu_render.reference import check_uid

Document = dict[str, Any]
Found = TypeVar("Found")

_dump = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one a call

EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
JPEG_2000_PART_2 = ("1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.93")
NATIVE = (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)
# Encapsulated, but each frame holds native samples, so that all of Image Pixel applies to them: Encapsulated
# Uncompressed and Deflated Image Frame Compression.
NATIVE_FRAMES = ("1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1")
_STANDARD = "1.2.840.10008.1.2."

MAX_HEADER_BYTES = 64 << 20
"""A deflated data set is inflated this far in search of its pixels."""
INDEXED_METADATA = 4 << 20
"""Longest metadata [character] that are made at indexing; longer ones are made when they are asked for."""
INDEXED_GROUPS_BYTES = 2 << 20
"""Per-frame functional groups of more bytes are not even tried at indexing."""
MAX_INFLATED_BYTES = 1 << 30
"""Most bytes that a deflated data set may inflate to."""
DEFER_BYTES = 128 << 20
"""Longer elements before the pixels are skipped: nothing that is read here is that long."""

_DICOMDIR = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class File:
    """What parsing has found. ``inflate_offset`` [byte]: where the deflated data set begins, 0 where it is not
    deflated; all other offsets are those of the inflated data set then, which begins with ``inflated``. ``begin``: of
    the data set. ``groups``: where the per-frame functional groups begin and end, if they were walked. ``head``: where
    pydicom did not read it, what did."""

    ds: Dataset
    transfer_syntax_uid: str
    guessed: bool
    big_endian: bool
    pixels: PixelElement | None
    inflate_offset: int
    media_sop_instance_uid: str
    begin: int
    inflated: bytes
    groups: tuple[int, int] | None
    head: Head | None = None

    def recalled(self, function: Callable[..., Found], *args: Hashable) -> Found:
        """``function(ds, *args)``, which depends on nothing but these; see ``Head.recalled``."""
        return self.head.recalled(function, *args) if self.head is not None else function(self.ds, *args)


class Parsed(NamedTuple):
    """What the index keeps of one file: the document of ``describe_file``, the packed spans of its frames, and its
    metadata: JSON text (DICOM JSON Model), compressed by zlib; empty where they are long, and made on request."""

    document: Document
    spans: bytes
    metadata: bytes


def parse_file(meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker operation ``parse``.

    ``meta``: ``root`` and ``path`` below it (surrogate-escaped text), ``max_frame_bytes``, ``max_frames``.
    Operations take a payload; this one needs none. Returns ``{"document_bytes": n, ...}`` and n bytes of JSON (see
    ``describe_file``), followed by the packed frame spans, little-endian uint64 (frames, 2), of as many bytes as
    ``spans_bytes`` says, and the metadata, compressed. Raises UnreadableFile.
    """
    with quiet():
        parsed = _parse_path(meta, meta["path"])
    encoded = _dump(parsed.document).encode()
    sizes = {"document_bytes": len(encoded), "spans_bytes": len(parsed.spans)}
    return sizes, b"".join((encoded, parsed.spans, parsed.metadata))


def unpack_result(meta: dict[str, Any], result: bytes | npt.NDArray[np.uint8]) -> Parsed:
    """What ``parse_file`` returned."""
    spans = meta["document_bytes"]
    metadata = spans + meta["spans_bytes"]
    return Parsed(json.loads(bytes(result[:spans])), bytes(result[spans:metadata]), bytes(result[metadata:]))


def parse_files(meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker operation ``parse_files``: the same for all of ``paths``, so that not each has its own way to and fro.

    Returns ``{"documents_bytes": n, "sizes": [[bytes of spans, of metadata], ...]}`` and n bytes of JSON, a list, then
    spans and metadata of each file. Of a document is there what differs from the one before it, which it follows
    ``like`` then; of a file that cannot be read ``{"unreadable": reason}``.
    """
    documents, sizes, parts = list[Document](), list[tuple[int, int]](), list[bytes]()
    before: Document = {}
    with quiet():
        for path in meta["paths"]:
            try:
                parsed = _parse_path(meta, path)
            except UnreadableFile as error:
                documents.append({"unreadable": str(error)})
                sizes.append((0, 0))
                continue
            documents.append(_difference(parsed.document, before))
            sizes.append((len(parsed.spans), len(parsed.metadata)))
            parts += (parsed.spans, parsed.metadata)
            before = parsed.document
    encoded = _dump(documents).encode()
    return {"documents_bytes": len(encoded), "sizes": sizes}, b"".join([encoded, *parts])


def unpack_results(meta: dict[str, Any], result: bytes | npt.NDArray[np.uint8]) -> list[Parsed | UnreadableFile]:
    """What ``parse_files`` returned, or would have raised. Documents share what they have in common."""
    content, at = bytes(result), meta["documents_bytes"]
    found, before = list[Parsed | UnreadableFile](), Document()
    for document, (spans, metadata) in zip(json.loads(content[:at]), meta["sizes"], strict=True):
        if "unreadable" in document:
            found.append(UnreadableFile(document["unreadable"]))
            continue
        before = {**before, **document} if document.pop("like", False) else document
        end = at + spans + metadata
        found.append(Parsed(before, content[at : at + spans], content[at + spans : end]))
        at = end
    return found


def _difference(document: Document, before: Document) -> Document:
    if document.keys() != before.keys():
        return document
    differing = {name: value for name, value in document.items() if value != before[name]}
    return {"like": True, **differing}


def _parse_path(meta: dict[str, Any], path: str) -> Parsed:
    try:
        descriptor = open_beneath(meta["root"], os.fsencode(path))
    except OSError as error:
        raise UnreadableFile(f"cannot be opened ({type(error).__name__})") from None
    try:
        return _parse_quietly(
            descriptor, path, meta.get("max_frame_bytes", MAX_FRAME_BYTES), meta.get("max_frames", MAX_FRAMES)
        )
    finally:
        os.close(descriptor)


def parse_descriptor(
    descriptor: int, *, identity: str, max_frame_bytes: int = MAX_FRAME_BYTES, max_frames: int = MAX_FRAMES
) -> Parsed:
    """All of an open file. ``identity`` makes up the UID of a file that has none.

    Raises UnreadableFile.
    """
    with quiet():
        return _parse_quietly(descriptor, identity, max_frame_bytes, max_frames)


def _parse_quietly(descriptor: int, identity: str, max_frame_bytes: int, max_frames: int) -> Parsed:
    try:
        # Whatever goes wrong on the short way, an error too: the long one decides.
        with contextlib.suppress(Exception):
            return describe_file(descriptor, read_alike(descriptor), identity, max_frame_bytes, max_frames)
        file = read_file(descriptor)
        return describe_file(descriptor, file, identity, max_frame_bytes, max_frames)
    except UnreadableFile:
        raise
    except RenderError as error:
        raise UnreadableFile(str(error)) from None
    except Exception as error:  # noqa: BLE001 - anything can come out of a parser; its text may quote values
        raise UnreadableFile(f"header cannot be parsed ({type(error).__name__})") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings and log lines, which quote element values. For a process that parses on one thread:
    the filters of ``warnings`` belong to the process."""
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


# --- from bytes to a data set -------------------------------------------------------------------------------


def read_alike(descriptor: int) -> File:
    """The same as ``read_file``, of what is like the files before it. Raises UnfamiliarError, and whatever comes out of
    pydicom."""
    head = read_head(descriptor, os.fstat(descriptor).st_size)
    uid, media_uid = _checked_uid(head.transfer_syntax_uid, "Transfer Syntax UID"), head.media_sop_instance_uid
    return File(head.ds, uid, False, False, head.pixels, 0, media_uid, head.begin, b"", None, head)


def read_file(descriptor: int) -> File:
    """The header of an open file. Raises UnreadableFile, and whatever comes out of pydicom."""
    with open(descriptor, "rb", closefd=False) as stream:
        _find_beginning(stream)
        meta = read_dataset(stream, False, True, stop_when=_behind_file_meta)
        begin = stream.tell()
        uid = uid_text(meta, "TransferSyntaxUID")
        if text(meta, "MediaStorageSOPClassUID", 64) == _DICOMDIR:
            raise UnreadableFile("a DICOMDIR, not an image")
        source: BinaryIO = stream
        inflated = _inflate_header(descriptor, begin) if uid == DEFLATED else b""
        if uid == DEFLATED:
            source = io.BytesIO(inflated)
        guessed = not uid
        uid = uid or _guess_transfer_syntax(source)
        ds, pixels, groups = _read_until_pixels(source, uid)
    if pixels is None and uid == DEFLATED and source.tell() >= MAX_HEADER_BYTES:
        raise UnreadableFile(f"no pixels within the first {MAX_HEADER_BYTES} inflated bytes")
    return File(
        ds,
        _checked_uid(uid, "Transfer Syntax UID"),
        guessed,
        uid == EXPLICIT_BE,
        pixels,
        begin if uid == DEFLATED else 0,
        uid_text(meta, "MediaStorageSOPInstanceUID"),
        0 if uid == DEFLATED else begin,
        inflated,
        groups,
    )


def _behind_file_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _find_beginning(stream: BinaryIO) -> None:
    """Behind the preamble; without one, at the start where the first element looks like one of DICOM."""
    stream.seek(0)
    head = stream.read(132)
    if head[128:] == b"DICM":
        return
    if len(head) >= 8:
        for order in "<>":
            group, element = struct.unpack_from(f"{order}HH", head)
            explicit = head[4:6] in _VRS
            implicit = order == "<" and struct.unpack_from("<I", head, 4)[0] <= 1024
            if group in (2, 8) and element <= 0x1200 and (explicit or implicit):
                stream.seek(0)
                return
    raise UnreadableFile("not a DICOM file")


_VRS = frozenset(vr.encode() for vr in (*EXPLICIT_VR_LENGTH_16, *EXPLICIT_VR_LENGTH_32))


def _guess_transfer_syntax(stream: BinaryIO) -> str:
    """Of a file without File Meta Information, from its first element."""
    head = stream.read(6)
    stream.seek(-len(head), os.SEEK_CUR)
    if head[4:6] not in _VRS:
        return IMPLICIT_LE
    return EXPLICIT_LE if head[1:2] == b"\0" else EXPLICIT_BE


def _read_until_pixels(
    stream: BinaryIO, transfer_syntax_uid: str
) -> tuple[Dataset, PixelElement | None, tuple[int, int] | None]:
    """The elements before the pixels, these, and where the per-frame functional groups are, if they were walked."""
    begin, span = stream.tell(), None
    ds, element = _read_until(stream, transfer_syntax_uid, {*PIXEL_KEYWORDS, PER_FRAME_GROUPS})
    if element is not None and element.tag == PER_FRAME_GROUPS:
        groups = _walk_groups(stream, ds, element)
        if groups is None:
            stream.seek(begin)
            ds, element = _read_until(stream, transfer_syntax_uid, set(PIXEL_KEYWORDS))
        else:
            span = (element.offset - (8 if element.vr is None else 12), stream.tell())
            rest, element = _read_until(stream, transfer_syntax_uid, set(PIXEL_KEYWORDS))
            ds = _joined(ds, groups, rest)
    if element is None:
        return ds, None, span
    return ds, PixelElement(PIXEL_KEYWORDS[element.tag], element.vr, element.offset, element.length), span


@dataclass(frozen=True, slots=True)
class _Element:
    """Where an element's value is, as in PixelElement."""

    tag: int
    vr: str | None
    offset: int
    length: int


def _read_until(stream: BinaryIO, transfer_syntax_uid: str, tags: set[int]) -> tuple[Dataset, _Element | None]:
    """All elements before the first of these, and that one."""
    found: list[_Element] = []

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if tag in tags:
            found[:] = [_Element(tag, vr, stream.tell(), length)]
        return tag in tags

    ds = read_dataset(
        stream,
        transfer_syntax_uid == IMPLICIT_LE,
        transfer_syntax_uid != EXPLICIT_BE,
        stop_when=stop,
        defer_size=DEFER_BYTES,
    )
    return ds, found[0] if found else None


def _walk_groups(stream: BinaryIO, ds: Dataset, element: _Element) -> FrameGroups | None:
    """The per-frame functional groups, encoded as the data set ``ds`` before them; the stream is left behind them.
    None where pydicom must parse them."""
    implicit, little_endian = ds.original_encoding
    encoding = ds.original_character_set
    if element.vr != (None if implicit else "SQ"):
        return None
    groups = FrameGroups(
        implicit=bool(implicit),
        little_endian=little_endian is not False,
        encoding=[encoding] if isinstance(encoding, str) else list(encoding),
    )
    stream.seek(element.offset)
    return groups if groups.read(stream, element.length) else None


def _joined(before: Dataset, groups: FrameGroups, behind: Dataset) -> Dataset:
    """One data set of the elements before the per-frame functional groups, these, and those behind them."""
    # Not with update(), which converts values, nor by assignment, which looks at every item of a sequence.
    elements = {**dict(before.items()), BaseTag(PER_FRAME_GROUPS): DataElement(PER_FRAME_GROUPS, "SQ", groups)}
    ds = Dataset({**elements, **dict(behind.items())})
    implicit, little_endian = before.original_encoding
    ds.set_original_encoding(implicit, little_endian, before.original_character_set)
    return ds


def _inflate_header(descriptor: int, offset: int) -> bytes:
    inflated = bytearray()
    for step in inflate(descriptor, offset):
        inflated += step
        if len(inflated) >= MAX_HEADER_BYTES:
            break
    return bytes(inflated)


# --- from a data set to the document ------------------------------------------------------------------------


def describe_file(descriptor: int, file: File, identity: str, max_frame_bytes: int, max_frames: int) -> Parsed:
    """Everything the index keeps of one file; its packed spans are empty for native pixels.

    A document has the UIDs, the attributes by level, ``error`` (class name and message: why no frame of it can be
    shown) or None, and, without error, ``layout``, ``presentations`` (JSON texts), ``geometry``, ``frames``
    (``[frame number, index of its presentation, geometry]`` of those that differ) and where the pixels lie.
    ``study_attributes``, ``series_attributes`` and ``instance_attributes``: what metadata.py lists, as DICOM JSON.
    """
    ds = file.ds
    if file.pixels is None and not text(ds, "SOPClassUID", 64):
        raise UnreadableFile("neither a SOP Class UID nor pixel data")
    uids, of_study, of_series, kind = file.recalled(_read_kinship)
    said = {**uids, "SOPInstanceUID": uid_text(ds, "SOPInstanceUID")}
    document: Document = {
        "cut_off": _is_cut_off(descriptor, file),  # first: an element that was looked at is no longer raw
        **_identify(said, file.media_sop_instance_uid, identity),
        "lacks": [*_lacks(said), *(["Transfer Syntax UID"] if file.guessed else [])],
        "study": of_study,
        "series": of_series,
        "instance": {**kind, "InstanceNumber": whole_number(ds, "InstanceNumber")},
        "transfer_syntax_uid": file.transfer_syntax_uid,
        "number_of_frames": 0,
        "error": None,
    }
    spans = b""
    try:
        pixels = _require_pixels(file)
        frames = document["number_of_frames"] = file.recalled(read_number_of_frames, max_frames)
        encapsulated = file.transfer_syntax_uid not in NATIVE
        of_codestream = encapsulated and file.transfer_syntax_uid not in NATIVE_FRAMES
        layout, document["layout"] = file.recalled(
            _read_layout, pixels.keyword != "PixelData", of_codestream, max_frame_bytes
        )
        # The pixels first: they bound the number of frames by what the file really holds.
        if encapsulated:
            document.update(pixel_offset=pixels.offset, frame_bits=0, word_swap=False, frames_whole=frames)
            spans = _encapsulated_spans(descriptor, file, pixels, frames)
        else:
            document.update(_native_pixels(descriptor, file, pixels, layout, frames))
        document["inflate_offset"] = file.inflate_offset
        document.update(_describe_frames(file, layout, frames))
    except (CorruptPixelData, NotRenderable, TooLarge, UnsupportedTransferSyntax) as error:
        document["error"] = [type(error).__name__, str(error)]
        spans = b""
    metadata = read_metadata(descriptor, file, decodable=document["error"] is None, spans=spans)
    document.update(
        study_attributes=metadata.study,
        series_attributes=metadata.series,
        instance_attributes=metadata.instance,
    )
    return Parsed(document, spans, metadata.packed)


def read_metadata(
    descriptor: int,
    file: File,
    *,
    decodable: bool,
    spans: bytes,
    limit: int = INDEXED_METADATA,
    groups: int = INDEXED_GROUPS_BYTES,
) -> Metadata:
    """The data set as JSON; see ``make_metadata``. ``decodable``: whether its frames can be had in another form.

    Per-frame functional groups of more than ``groups`` bytes are left out, and the text with them.
    """
    available = [file.transfer_syntax_uid]
    if file.transfer_syntax_uid != EXPLICIT_LE and (decodable or file.pixels is None):
        available.append(EXPLICIT_LE)
    with_groups = file.groups is None or file.groups[1] - file.groups[0] <= groups
    place = stretches(descriptor, file)
    try:
        end = pixels_end(descriptor, file, spans)
        tail = None if end is None else tail_reader(descriptor, place, end)
        joined = file.head.metadata(tail, available) if file.head is not None else None
        if joined is not None:
            return joined
        tail = None if end is None else tail_reader(descriptor, place, end)
        head = head_reader(descriptor, place, groups=with_groups)
        return make_metadata(head, file.pixels, tail, available, whole=with_groups, limit=limit)
    except TooLarge:
        return NO_METADATA
    except IrregularError:
        pass
    try:
        head = Reader(repaired_head(descriptor, file), 0, implicit=False, little_endian=True)
        return make_metadata(head, file.pixels, tail, available, whole=True, limit=limit)
    except IrregularError:
        return NO_METADATA


def stretches(descriptor: int, file: File) -> Stretches:
    """Where the bytes of the data set are."""
    if file.pixels is not None:
        end = file.pixels.header_offset
    else:
        end = len(file.inflated) if file.inflate_offset else os.fstat(descriptor).st_size
    implicit, little_endian = file.ds.original_encoding
    return Stretches(
        file.begin, end, file.inflate_offset, file.inflated, file.groups, bool(implicit), little_endian is not False
    )


def repaired_head(descriptor: int, file: File) -> bytes:
    """The elements before the pixels as pydicom takes them, in Explicit VR Little Endian."""
    if file.inflate_offset:
        return repaired(_read_until(io.BytesIO(file.inflated), DEFLATED, set(PIXEL_KEYWORDS))[0])
    with open(descriptor, "rb", closefd=False) as stream:
        stream.seek(file.begin)
        return repaired(_read_until(stream, file.transfer_syntax_uid, set(PIXEL_KEYWORDS))[0])


def pixels_end(descriptor: int, file: File, spans: bytes) -> int | None:
    """Where the elements behind the pixels begin; None where there are no pixels, or nobody can tell where they end."""
    if file.pixels is None:
        return None
    if file.pixels.length != UNDEFINED_LENGTH:
        return file.pixels.offset + file.pixels.length
    known = np.frombuffer(spans, "<u8").reshape(-1, 2).sum(axis=1).max(initial=file.pixels.offset)
    try:
        items, delimited = walk_items(_buffered(_pread(descriptor)), int(known), os.fstat(descriptor).st_size)
    except CorruptPixelData:
        return None
    return (items[-1].end if items else int(known)) + 8 if delimited else None


def _read_kinship(ds: Dataset) -> tuple[dict[str, str], Attributes, Attributes, Attributes]:
    """What all instances of a series say: UIDs, and attributes of study, series and instance."""
    uids = {keyword: uid_text(ds, keyword) for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")}
    return uids, read_study(ds), read_series(ds), read_kind(ds)


def _identify(said: dict[str, str], media_sop_instance_uid: str, identity: str) -> Document:
    """The three UIDs. One that is missing is made up, always the same for the same file: an object without UIDs can
    be shown, but belongs to no study of others. Raises UnreadableFile for malformed ones."""
    sop = said["SOPInstanceUID"] or media_sop_instance_uid or _made_up("instance", identity)
    study = said["StudyInstanceUID"] or _made_up("study", sop)
    series = said["SeriesInstanceUID"] or _made_up("series", study)
    return {
        "study_instance_uid": _checked_uid(study, "Study Instance UID"),
        "series_instance_uid": _checked_uid(series, "Series Instance UID"),
        "sop_instance_uid": _checked_uid(sop, "SOP Instance UID"),
    }


def _lacks(said: dict[str, str]) -> list[str]:
    """Names of what a file must say to be told apart and read (PS3.10 7.1, PS3.3 C.7 and C.12.1) and this one does not:
    UIDs that were made up or taken from the File Meta Information."""
    keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    return [dictionary_description(keyword) for keyword in keywords if not said[keyword]]


def _is_cut_off(descriptor: int, file: File) -> bool:
    """Whether the file ends within an element before any pixels: pydicom takes what there is."""
    last = next(reversed(list(file.ds.values())), None) if file.pixels is None else None
    if file.inflate_offset or not isinstance(last, RawDataElement) or last.length == UNDEFINED_LENGTH:
        return False
    return last.value_tell + last.length != os.fstat(descriptor).st_size


def _made_up(level: str, seed: str) -> str:
    digest = hashlib.blake2b(f"{level} {seed}".encode("utf-8", "surrogateescape"), digest_size=15).digest()
    return f"2.25.{int.from_bytes(digest)}"  # PS3.5 B.2: an integer of at most 128 bits


def _checked_uid(uid: str, what: str) -> str:
    try:
        return check_uid(uid, what)
    except InvalidUid:
        raise UnreadableFile(f"malformed {what}") from None


def _require_pixels(file: File) -> PixelElement:
    if file.pixels is not None:
        _check_transfer_syntax(file, file.pixels)
        return file.pixels
    if "PixelDataProviderURL" in file.ds:
        find_decoder(file.transfer_syntax_uid)  # of JPIP, which says what it needs
        raise NotRenderable("the pixels are on another server (Pixel Data Provider URL)")
    uid = text(file.ds, "SOPClassUID", 64)
    name = pydicom.uid.UID(uid).name
    # Of what is no known class the name is the element's own value, whatever that is.
    raise NotRenderable("the object has no pixels" + (f" ({name})" if name != uid else ""))


def _check_transfer_syntax(file: File, pixels: PixelElement) -> None:
    """Raises UnsupportedTransferSyntax and CorruptPixelData where frames cannot even be told apart."""
    uid = file.transfer_syntax_uid
    if uid in NATIVE:
        if pixels.length == UNDEFINED_LENGTH:
            why = "there is no Transfer Syntax UID" if file.guessed else f"Transfer Syntax {uid} is not"
            raise CorruptPixelData(f"Pixel Data is encapsulated but {why}")
        return
    # pydicom's own list lacks some, so it does not decide which are known. The frames of video are no fragments.
    if not uid.startswith(_STANDARD) or uid in pydicom.uid.MPEGTransferSyntaxes:
        find_decoder(uid)


def _read_layout(ds: Dataset, is_float: bool, encapsulated: bool, max_frame_bytes: int) -> tuple[PixelLayout, str]:
    layout = read_layout(ds, is_float=is_float, encapsulated=encapsulated, max_frame_bytes=max_frame_bytes)
    return layout, layout_to_json(layout)


def _describe_frames(file: File, layout: PixelLayout, frames: int) -> Document:
    """Presentation and geometry of the object, and of the frames that differ from it."""
    ds = file.ds
    base_presentation = file.recalled(_presentation, layout, 0)
    presentations = {base_presentation: 0}
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    if groups and len(groups) < frames:
        raise CorruptPixelData(f"PerFrameFunctionalGroupsSequence has {len(groups)} items for {frames} frames")
    if not groups and "GridFrameOffsetVector" not in ds:
        return _describe_alike(file, base_presentation, frames)
    if isinstance(groups, FrameGroups):
        return _describe_walked(ds, layout, frames, groups)
    base_geometry = geometry_to_json(read_geometry(ds, 0, frames))
    rows = []
    shared = None if presentation_varies(ds, 0) else base_presentation  # what frames without groups of their own have
    for index in range(1, frames):
        presentation = shared
        if presentation is None or presentation_varies(ds, index):
            presentation = _presentation(ds, layout, index)
            shared = shared if presentation_varies(ds, index) else presentation
        number = presentations.setdefault(presentation, len(presentations))
        geometry = geometry_to_json(read_geometry(ds, index, frames))
        if number or geometry != base_geometry:
            rows.append([index + 1, number, geometry])
    return {"presentations": list(presentations), "geometry": base_geometry, "frames": rows}


def _presentation(ds: Dataset, layout: PixelLayout, index: int) -> str:
    """The Presentation of a frame, as JSON. An error of one frame is one of the object, and says which frame it was."""
    try:
        return presentation_to_json(read_presentation(ds, layout, index))
    except (CorruptPixelData, NotRenderable) as error:
        raise type(error)(f"frame {index + 1}: {error}" if index else str(error)) from None


def _describe_walked(ds: Dataset, layout: PixelLayout, frames: int, groups: FrameGroups) -> Document:
    """The same, where equal bytes of functional groups are read once."""
    presentations: dict[str, int] = {}
    numbers: dict[int, int] = {}
    geometries = _Geometries(ds, groups, frames)
    base, rows = geometries.of(0), []
    for index in range(frames):
        key = groups.presentation(index)
        if key not in numbers:
            presentation = _presentation(ds, layout, index)
            numbers[key] = presentations.setdefault(presentation, len(presentations))
        geometry = geometries.of(index)
        if numbers[key] or geometry != base:
            rows.append([index + 1, numbers[key], geometry])
    return {"presentations": list(presentations), "geometry": base, "frames": rows}


class _Geometries:
    """What read_geometry says of each frame, as JSON."""

    def __init__(self, ds: Dataset, groups: FrameGroups, frames: int) -> None:
        self._ds = ds
        self._groups = groups
        self._frames = frames
        self._has_grid = "GridFrameOffsetVector" in ds
        self._beside: dict[bytes, str] = {}
        self._known: dict[tuple[bytes, bool], str] = {}

    def of(self, index: int) -> str:
        """Of one frame, by its index."""
        placed = self._groups.position(index)
        if placed is None:
            return self._of_unplaced(index)
        position, others = placed
        if others not in self._beside:
            beside = read_geometry(self._ds, index, self._frames)
            self._beside[others] = geometry_to_json(replace(beside, image_position=None))
        return move_geometry(self._beside[others], position)

    def _of_unplaced(self, index: int) -> str:
        """Of frames with the same functional groups, only the first is different from the others (read_geometry),
        and each where there is a Grid Frame Offset Vector."""
        key = (self._groups.geometry(index), index == 0)
        if self._has_grid or key not in self._known:
            self._known[key] = geometry_to_json(read_geometry(self._ds, index, self._frames))
        return self._known[key]


def _describe_alike(file: File, presentation: str, frames: int) -> Document:
    """Without functional groups: the root's position is that of frame 1 alone."""
    first = geometry_to_json(read_geometry(file.ds, 0, frames, file.recalled))
    others = geometry_to_json(read_geometry(file.ds, 1, frames, file.recalled)) if frames > 1 else first
    rows = [] if first == others else [[1, 0, first]]
    return {"presentations": [presentation], "geometry": others, "frames": rows}


# --- where the frames lie -----------------------------------------------------------------------------------


def _encapsulated_spans(descriptor: int, file: File, pixels: PixelElement, frames: int) -> bytes:
    read = _pread(descriptor)
    end = os.fstat(descriptor).st_size
    if pixels.length != UNDEFINED_LENGTH:
        end = min(end, pixels.offset + pixels.length)
        if read(pixels.offset, 4) != ITEM:
            raise CorruptPixelData(f"Pixel Data is native but Transfer Syntax {file.transfer_syntax_uid} is not")
    uid = file.transfer_syntax_uid
    if uid in JPEG_2000_PART_2 and len(walk_items(read, pixels.offset, end)[0]) <= frames:
        # PS3.5 8.2.4: one codestream may hold several frames as its components.
        raise UnsupportedTransferSyntax(f"transfer syntax {uid} needs a decoder of JPEG 2000 Part 2 extensions")
    one_fragment = uid in (RLE, *NATIVE_FRAMES)
    spans = frame_spans(_buffered(read), pixels.offset, end, frames, _tables(file.ds), one_fragment=one_fragment)
    return spans.astype("<u8").tobytes()


def _pread(descriptor: int) -> ReadAt:
    return lambda offset, length: os.pread(descriptor, length, offset)


def _buffered(read: ReadAt, block_bytes: int = 4096) -> ReadAt:
    """Item headers of small fragments lie close together: one read serves many of them. Where the last two did not,
    only what is asked for is read."""
    start, block, last = 0, b"", -block_bytes

    def read_at(offset: int, length: int) -> bytes:
        nonlocal start, block, last
        if length > block_bytes:
            return read(offset, length)
        if not start <= offset <= offset + length <= start + len(block):
            start, block = offset, read(offset, block_bytes if abs(offset - last) < block_bytes else length)
        last = offset
        return block[offset - start : offset - start + length]

    return read_at


def _tables(ds: Dataset) -> OffsetTables:
    raw = ds.get("ExtendedOffsetTable")
    if not isinstance(raw, bytes) or not raw:
        return OffsetTables()
    return OffsetTables(np.frombuffer(raw[: len(raw) // 8 * 8], "<u8").tolist())


def _native_pixels(descriptor: int, file: File, pixels: PixelElement, layout: PixelLayout, frames: int) -> Document:
    bits = native_frame_bits(layout)
    wanted = (bits * frames + 7) // 8
    end = pixels.offset + min(wanted, pixels.length)
    if file.inflate_offset:
        available = _inflated_size(descriptor, file.inflate_offset, end) - pixels.offset
    else:
        available = os.fstat(descriptor).st_size - pixels.offset
    full = layout.rows * layout.columns * 3 * frames
    if layout.photometric_interpretation in SUBSAMPLED and pixels.length in (full, full + 1):
        raise CorruptPixelData("the pixels are subsampled by PhotometricInterpretation but not by their length")
    whole = min(frames, 8 * max(0, min(available, pixels.length)) // bits)
    check_held(whole, frames)
    _check_excess(descriptor, file, pixels, wanted, frames)
    _check_follower(descriptor, file, pixels)
    return {
        "pixel_offset": pixels.offset,
        "frame_bits": bits,
        # PS3.5 8.2, A.3: big endian OW of up to 8 bits a sample holds its bytes swapped in pairs.
        "word_swap": file.big_endian and pixels.vr == "OW" and layout.bits_allocated <= 8,
        "frames_whole": whole,
    }


def _check_excess(descriptor: int, file: File, pixels: PixelElement, wanted: int, frames: int) -> None:
    """What follows the last frame can only be padding: zeros, and less than a frame.

    Anything else are pixels that Rows, Columns, Bits Allocated or Number of Frames do not count, and with a wrong one
    of these the picture is sheared, torn or cut off. A byte that pads to even length may be anything (PS3.5 8.1.1).
    """
    start, excess = wanted + wanted % 2, pixels.length - wanted - wanted % 2
    if excess >= max(2, wanted // frames):
        raise CorruptPixelData(f"Pixel Data is {excess} bytes longer than {frames} frames")
    if any(step.count(0) < len(step) for step in _stretch(descriptor, file, pixels.offset + start, excess)):
        raise CorruptPixelData(f"Pixel Data is longer than {frames} frames, and no zeros follow them")


def _check_follower(descriptor: int, file: File, pixels: PixelElement) -> None:
    """What follows Pixel Data is the end, zeros, or an element with a higher tag (PS3.5 7.1). Where bytes were lost
    from the pixels, what stood behind them has moved up and would be shown in their place."""
    tail = b"".join(_stretch(descriptor, file, pixels.offset + pixels.length, 6))
    if not any(tail):
        return
    group = int.from_bytes(tail[:2], "big" if file.big_endian else "little")
    implicit = file.ds.original_encoding[0]  # as pydicom found it, whatever the transfer syntax says
    known = implicit or group == 0xFFFE or tail[4:] in _VRS
    if len(tail) < 6 or group < 0x7FE0 or not known:
        raise CorruptPixelData("what follows Pixel Data is no element: the file has lost or gained bytes")


def _stretch(descriptor: int, file: File, start: int, length: int) -> Iterator[bytes]:
    """``length`` bytes of the (inflated) file from ``start`` on, fewer where it ends, in steps of at most 1 MiB."""
    end, position = start + length, 0 if file.inflate_offset else start
    if length <= 0:
        return
    if file.inflate_offset:
        for step in inflate(descriptor, file.inflate_offset):
            yield step[max(0, start - position) : max(0, end - position)]
            position += len(step)
            if position >= end:
                break
        return
    while step := os.pread(descriptor, min(end - position, INFLATE_STEP_BYTES), position):
        yield step
        position += len(step)


def _inflated_size(descriptor: int, offset: int, end: int) -> int:
    """Bytes the data set inflates to, counted up to ``end``. Raises TooLarge before it inflates that many."""
    if end > MAX_INFLATED_BYTES:
        raise TooLarge(f"a deflated object of {end} bytes is above the limit of {MAX_INFLATED_BYTES}")
    size = 0
    for step in inflate(descriptor, offset):
        size += len(step)
        if size >= end:
            break
    return size
