"""What is fuzzed: functions of bytes that raise typed errors and nothing else, and keep their promises.

``tests/fuzz/test_fuzz.py`` calls each with its seeds; ``tests/fuzz/run.py`` lets libFuzzer look for more.
"""

import contextlib
import json
import os
import struct
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom

from gpu_render.archive import parse
from gpu_render.archive.elements import IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import OffsetTables, frame_spans, join_fragments
from gpu_render.archive.functional_groups import FrameGroups
from gpu_render.archive.instance import bulkdata_of_file, metadata_of_file
from gpu_render.archive.records import geometry_from_json, layout_from_json, presentation_from_json
from gpu_render.archive.rewrite import rewrite_file
from gpu_render.decode.codestream import parse_jpeg, parse_jpeg2000
from gpu_render.errors import CorruptPixelData, RenderError, UnreadableFile
from gpu_render.lookup_tables import as_words, expand_segments, unpack_entries
from tests import data

SEED_BYTES = 20_000
"""Longer files are no seeds: a small one is tried more often."""


class Finding(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Target:
    """``run`` raises for a finding; ``seeds`` are where fuzzing begins; ``share`` of the time it gets."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    share: float = 1.0


# --- whole files --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[int]:
    """The descriptor of a file in memory."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def header(content: bytes) -> None:
    """A file: UnreadableFile or a document that can be stored and read back.

    parse_descriptor turns every exception into UnreadableFile, because anything can come out of pydicom. What comes
    out of our own code is a finding all the same, so its two parts are called here without that net.
    """
    with opened(content) as descriptor:
        try:
            with parse.quiet():
                file = parse.read_file(descriptor)
                document, spans, _ = parse.describe_file(descriptor, file, "identity", 1 << 20, 10_000)
        except RenderError:
            document = None
        except Exception as error:
            if not _comes_from_reading(error):
                raise
            document = None
        try:
            safe, *_ = parse.parse_descriptor(
                descriptor, identity="identity", max_frame_bytes=1 << 20, max_frames=10_000
            )
        except UnreadableFile:
            safe = None
    if safe != document:
        raise Finding("two readings of a file differ")
    if document is not None:
        _check_document(document, spans)


def _comes_from_reading(error: Exception) -> bool:
    """Whether pydicom's reader raised it while the file was read, which nothing but the net can catch."""
    frames = traceback.extract_tb(error.__traceback__)
    reading = any(frame.name == "read_file" for frame in frames)
    return reading and any(frame.name == "read_dataset" and "pydicom" in frame.filename for frame in frames)


def _check_document(document: parse.Document, spans: bytes) -> None:
    json.loads(json.dumps(document))
    if document["error"] is not None:
        return
    layout_from_json(document["layout"])
    geometry_from_json(document["geometry"])
    for presentation in document["presentations"]:
        presentation_from_json(presentation)
    for number, presentation, geometry in document["frames"]:
        geometry_from_json(geometry)
        if not (1 <= number <= document["number_of_frames"] and 0 <= presentation < len(document["presentations"])):
            raise Finding("a frame that is none")
    if spans and len(spans) != 16 * document["number_of_frames"]:
        raise Finding("spans of another number of frames")


def header_seeds() -> list[bytes]:
    """pydicom's small samples, and files made by hand in each way of writing."""
    folder = data.pydicom_folder()
    samples = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size <= SEED_BYTES]
    seeds = [content for path in samples if (content := path.read_bytes())[128:132] == b"DICM"]
    groups = {"PlanePositionSequence": [{"ImagePositionPatient": ["1", "2", "3"]}]}
    frame = {**groups, "PixelValueTransformationSequence": [{"RescaleSlope": "2", "RescaleIntercept": "-1"}]}
    attributes = data.image(
        2, 2, NumberOfFrames=2, WindowCenter="40", WindowWidth="400", PerFrameFunctionalGroupsSequence=[frame, groups]
    )
    native = (data.IMPLICIT_LE, data.EXPLICIT_LE, data.EXPLICIT_BE, data.DEFLATED)
    seeds += [data.file_bytes(attributes, bytes(16), syntax) for syntax in native]
    for syntax in (data.RLE, data.JPEG_BASELINE):
        pixels = data.encapsulate([bytes(10), bytes(12)], [0, 18])
        seeds.append(data.file_bytes(attributes, pixels, syntax, encapsulated=True))
    lut = {"LUTDescriptor": [2, 0, 16], "LUTData": struct.pack("<2H", 1, 2)}
    seeds.append(data.file_bytes(data.image(1, 2, ModalityLUTSequence=[lut], VOILUTSequence=[lut]), bytes(4)))
    seeds.append(data.file_bytes(palette(), bytes(2)))
    return seeds


def palette() -> dict[str, object]:
    """A PALETTE COLOR image with segmented tables."""
    colours: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    colours |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    for name in ("Red", "Green", "Blue"):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        colours[f"Segmented{name}PaletteColorLookupTableData"] = struct.pack("<6H", 0, 1, 9, 1, 3, 30)
    return data.image(1, 2, **colours)


# --- whole objects, read on request -------------------------------------------------------------------------

_PATHS = ("00281201", "00283000/1/00283006", "52009230/1/00289145/1/00281052", "7FE11010")


def objects(content: bytes) -> None:
    """A file: its metadata, a large value and the object rewritten, or typed errors; and what is rewritten can be taken
    apart into elements, whatever the file was."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(content)
        meta = {"root": folder, "path": "a"}
        with contextlib.suppress(RenderError):
            _, packed = metadata_of_file({**meta, "decodable": True}, memoryview(b""))
            json.loads(zlib.decompress(packed))
        for path in _PATHS:
            with contextlib.suppress(RenderError):
                bulkdata_of_file({**meta, "path_in_data_set": path}, memoryview(b""))
        names = {"transfer_syntax_uid": data.EXPLICIT_LE, "sop_class_uid": "1.2", "sop_instance_uid": "1.3"}
        try:
            changes = [[0x00280004, "CS", "RGB"], [0x00280006, "US", 0]]
            answer, written = rewrite_file({**meta, **names, "changes": changes}, memoryview(b""))
        except RenderError:
            return
    for part in (written[132 : answer["head_bytes"]], written[answer["head_bytes"] :]):
        try:
            for _ in Reader(part, 0, implicit=False, little_endian=True).elements(len(part), Scope()):
                pass
        except IrregularError:
            raise Finding("a rewritten object that is irregular") from None


# --- per-frame functional groups ----------------------------------------------------------------------------


def groups(content: bytes) -> None:
    """The value of PerFrameFunctionalGroupsSequence: what the walk makes of it is what pydicom makes of it, where
    both make something of it. The first byte chooses how it is written."""
    syntax = (data.EXPLICIT_LE, data.IMPLICIT_LE, data.EXPLICIT_BE)[(content[:1] or b"\0")[0] % 3]
    value = content[1:]
    undefined = bool(content[:1] and content[0] & 0x80)
    body = data.dataset(data.image(1, 1, NumberOfFrames=2, BitsAllocated=8, BitsStored=8, HighBit=7), syntax)
    body += data.element(0x52009230, data.Raw("SQ", value), syntax, length=data.UNDEFINED if undefined else None)
    body += data.element(0x7FE00010, bytes(2), syntax, vr="OW")
    file = b"\0" * 128 + b"DICM" + data.file_meta(syntax, "1.2.9") + body
    with opened(file) as descriptor:
        walked, by_pydicom = _document(descriptor), _document_by_pydicom(descriptor)
        if walked is None or by_pydicom is None or by_pydicom["error"] is not None:
            return
        if walked != by_pydicom and _was_walked(descriptor):
            raise Finding("the walk and pydicom differ")


def _document(descriptor: int) -> parse.Document | None:
    try:
        return parse.parse_descriptor(descriptor, identity="identity")[0]
    except UnreadableFile:
        return None


def _document_by_pydicom(descriptor: int) -> parse.Document | None:
    walk, parse._walk_groups = parse._walk_groups, lambda *_: None
    try:
        return _document(descriptor)
    finally:
        parse._walk_groups = walk


def _was_walked(descriptor: int) -> bool:
    with parse.quiet():
        found = parse.read_file(descriptor).ds.get("PerFrameFunctionalGroupsSequence")
    return isinstance(found, FrameGroups)


def groups_seeds() -> list[bytes]:
    """Two items with all that is looked at, in the three ways of writing, of defined and undefined length."""
    item = {
        "FrameContentSequence": [{"StackID": "1"}],
        "PlanePositionSequence": [{"ImagePositionPatient": ["1", "2", "3.5"]}],
        "PlaneOrientationSequence": [{"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}],
        "PixelMeasuresSequence": [{"PixelSpacing": ["1", "2"]}],
        "FrameVOILUTSequence": [{"WindowCenter": "40", "WindowWidth": "400"}],
        "PixelValueTransformationSequence": [{"RescaleIntercept": "-1024", "RescaleSlope": "1", "RescaleType": "HU"}],
    }
    seeds = []
    for number, syntax in enumerate((data.EXPLICIT_LE, data.IMPLICIT_LE, data.EXPLICIT_BE)):
        order = ">" if syntax == data.EXPLICIT_BE else "<"
        content = data.dataset(item, syntax)
        defined = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(content)) + content
        open_item = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, data.UNDEFINED) + content
        open_item += struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0)
        end = struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
        seeds += [bytes([number]) + 2 * defined, bytes([0x81 + number]) + open_item + defined + end]
        # 0x81 = 129 is a multiple of 3, so that the same syntax is meant.
    return seeds


# --- fragments ----------------------------------------------------------------------------------------------


def fragments(content: bytes) -> None:
    """The value of encapsulated Pixel Data behind a little header: number of frames, RLE or not, an Extended Offset
    Table. Spans lie inside, rise, and consist of whole items."""
    if len(content) < 4:
        return
    frames, flags, count = struct.unpack_from("<HBB", content)
    table = np.frombuffer(content[4 : 4 + 8 * count][: len(content[4:]) // 8 * 8], "<u8").tolist()
    value = content[4 + 8 * len(table) :]
    join_or_refuse(value)
    try:
        spans = frame_spans(
            lambda offset, length: value[offset : offset + length],
            0,
            len(value),
            max(1, frames),
            OffsetTables(table),
            one_fragment=bool(flags & 1),
        )
    except CorruptPixelData:
        return
    held = [(offset, offset + length) for offset, length in spans.tolist() if length]
    if any(later[0] < earlier[1] for earlier, later in pairwise(held)) or (held and held[-1][1] > len(value)):
        raise Finding("spans that overlap or reach beyond the end")
    for start, end in held:
        join_fragments(value[start:end])  # raises for what is not made of whole items


def join_or_refuse(value: bytes) -> None:
    with contextlib.suppress(CorruptPixelData):
        join_fragments(value)


def fragments_seeds() -> list[bytes]:
    """One, two and four fragments for two frames, with and without tables."""
    jpeg = b"\xff\xd8\xff\xe0abcd"
    seeds = []
    for parts, offsets in (
        ([jpeg, jpeg], ()),
        ([jpeg, jpeg], (0, 16)),
        ([jpeg, b"more", jpeg, b"more"], ()),
        ([jpeg, b"more", jpeg, b""], (0, 28)),
    ):
        value = data.encapsulate(parts, offsets)
        seeds.append(struct.pack("<HBB", 2, 0, 0) + value)
        seeds.append(struct.pack("<HBB2Q", 2, 0, 2, 0, 16) + value)
    seeds.append(struct.pack("<HBB", 3, 1, 0) + data.encapsulate([b"ab", b"cd"], delimiter=False))
    return seeds


# --- codestreams --------------------------------------------------------------------------------------------


def codestream(content: bytes) -> None:
    """A JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream: CorruptPixelData or a header that can be."""
    with contextlib.suppress(CorruptPixelData):
        jpeg = parse_jpeg(content)
        if not (1 <= jpeg.rows <= 0xFFFF and 1 <= jpeg.columns <= 0xFFFF and 2 <= jpeg.precision <= 16):
            raise Finding("an impossible JPEG header")
    with contextlib.suppress(CorruptPixelData):
        header = parse_jpeg2000(content)
        if not (0 <= header.start < header.end <= len(content) and header.rows >= 1 and header.columns >= 1):
            raise Finding("an impossible JPEG 2000 header")


def codestream_seeds() -> list[bytes]:
    """The first frames of pydicom's encapsulated samples, of each transfer syntax the smallest."""
    smallest: dict[str, bytes] = {}
    for path in sorted(data.pydicom_folder().rglob("*.dcm")):
        if path.stat().st_size > 300_000:
            continue
        with contextlib.suppress(Exception):  # some samples are broken on purpose
            ds = pydicom.dcmread(path)
            if ds.file_meta.TransferSyntaxUID.is_encapsulated:
                frame = next(iter(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
                known = smallest.get(ds.file_meta.TransferSyntaxUID)
                if known is None or len(frame) < len(known):
                    smallest[ds.file_meta.TransferSyntaxUID] = frame
    return [frame for frame in smallest.values() if len(frame) <= SEED_BYTES]


# --- lookup tables ------------------------------------------------------------------------------------------


def lut(content: bytes) -> None:
    """The data of a LUT behind its number of entries, bits and byte order: CorruptPixelData or so many entries."""
    if len(content) < 4:
        return
    entries, bits, flags = struct.unpack_from("<HBB", content)
    entries, bits = entries or 0x10000, 1 + bits % 16
    words = as_words(content[4:], little_endian=bool(flags & 1))
    with contextlib.suppress(CorruptPixelData):
        values, real_bits = unpack_entries(words, entries, bits)
        if len(values) != entries or values.dtype != np.uint16 or not 1 <= real_bits <= 16:
            raise Finding("another number of entries")
    with contextlib.suppress(CorruptPixelData):
        expanded = expand_segments(words, entries, 8 if flags & 2 else 16)
        if len(expanded) != entries:
            raise Finding("another number of entries")


def lut_seeds() -> list[bytes]:
    """Discrete, linear and indirect segments of 16 and 8 bits, and plain tables."""
    words = struct.pack("<14H", 0, 1, 9, 1, 3, 30, 2, 2, 0, 0, 0, 2, 5, 6)
    eight = bytes([0, 1, 9, 1, 3, 30, 2, 2, 0, 0, 0, 0])
    return [
        struct.pack("<HBB", 10, 15, 1) + words,
        struct.pack("<HBB", 10, 15, 0) + words,
        struct.pack("<HBB", 8, 7, 3) + eight,
        struct.pack("<HBB", 4, 7, 1) + bytes([1, 2, 3, 4]),
    ]


TARGETS = {
    "header": Target(header, header_seeds, 2.0),
    "objects": Target(objects, header_seeds),
    "groups": Target(groups, groups_seeds),
    "fragments": Target(fragments, fragments_seeds),
    "codestream": Target(codestream, codestream_seeds),
    "lut": Target(lut, lut_seeds),
}
