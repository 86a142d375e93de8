"""A stored object in another transfer syntax: all of its elements but the pixels, in Explicit VR Little Endian.

The worker operation ``rewrite``. Values stay as they are, in the order of little endian; lengths of sequences become
defined; group lengths and padding go, and so does an icon that is compressed in a syntax of its own. What is said of
the pixels is said anew where they are decoded (``changes``).
"""

import struct
from collections.abc import Mapping
from typing import Any

from gpu_render import __version__
from gpu_render.archive.dataset import PixelElement
from gpu_render.archive.elements import PIXEL_TAGS, SHORT_VRS, IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.archive.instance import opened, readers
from gpu_render.archive.metadata import WORD_BYTES, belongs, little_endian
from gpu_render.archive.parse import File
from gpu_render.errors import CorruptPixelData, NotRenderable
from gpu_render.header import whole_number

IMPLEMENTATION_CLASS_UID = "2.25.206305088189934436654688267247646577291"  # PS3.5 B.2: of a UUID, made once

_LENGTH_TO_END, _ICON_IMAGES, _PADDING = 0x00080001, 0x00880200, 0xFFFCFFFC
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_PADDED_WITH_ZERO = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UI", b"UN")

Changes = Mapping[int, tuple[bytes, bytes]]
"""Elements of the data set that are another: tag -> (VR, value in little endian, of even length)."""


def rewrite_file(meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker operation ``rewrite``.

    ``meta``: ``root`` and ``path``; ``transfer_syntax_uid``, ``sop_class_uid`` and ``sop_instance_uid`` for the File
    Meta Information; ``changes``: [tag, VR, value as a number or text] of elements of the data set. Returns the
    elements before the pixels, the preamble and the File Meta Information in front of them, and those behind;
    ``head_bytes`` of them are before; ``pixels``: where they are, or None (see ``_place``).

    Raises UnreadableFile, CorruptPixelData, TooLarge, and NotRenderable for compressed pixels within a sequence.
    """
    changes = {tag: _encoded(vr, value) for tag, vr, value in meta["changes"]}
    with opened(meta) as (descriptor, file):
        head, *tail = readers(descriptor, file)
        try:
            before = write_elements(head, len(head.data), Scope(), {**changes, **dict.fromkeys(_OFFSET_TABLES)})
        except IrregularError:
            raise CorruptPixelData("the data set cannot be taken apart into elements") from None
        behind = _tail(tail[0]) if tail else b""
        place = None if file.pixels is None else _place(file, file.pixels)
    start = file_meta(meta["transfer_syntax_uid"], meta["sop_class_uid"], meta["sop_instance_uid"]) + before
    return {"head_bytes": len(start), "pixels": place}, start + behind


def _encoded(vr: str, value: int | str) -> tuple[bytes, bytes]:
    if isinstance(value, int):
        return vr.encode(), struct.pack("<H", value)
    return vr.encode(), _padded(vr.encode(), value.encode())


def _place(file: File, pixels: PixelElement) -> dict[str, Any]:
    """Where the value of the pixels is, of which VR and tag it is, and of how many bytes are the words that are to be
    swapped: 1 where none are. ``length`` None: undefined."""
    vr, word = pixels.value_representation, 1
    if file.big_endian:
        allocated = whole_number(file.ds, "BitsAllocated") or 0
        word = allocated // 8 if vr == "OW" and allocated in (32, 64) else WORD_BYTES.get(vr.encode(), 1)
    return {
        "tag": next(tag for tag, keyword in _KEYWORDS.items() if keyword == pixels.keyword),
        "vr": vr,
        "offset": pixels.offset,
        "length": None if pixels.length == UNDEFINED_LENGTH else pixels.length,
        "word_bytes": word,
        "inflate_offset": file.inflate_offset,
    }


_KEYWORDS = dict(zip(PIXEL_TAGS, ("FloatPixelData", "DoubleFloatPixelData", "PixelData"), strict=True))


def _tail(reader: Reader) -> bytes:
    """What stands behind the pixels, as far as it consists of elements."""
    try:
        return write_elements(reader, len(reader.data), Scope(), {})
    except IrregularError:
        return b""


def write_elements(
    reader: Reader, end: int | None, scope: Scope, changes: Mapping[int, tuple[bytes, bytes] | None]
) -> bytes:
    """Elements in Explicit VR Little Endian, in order of their tags. ``changes``: others instead, None for none at all;
    of one that is not there it is added. Raises IrregularError and NotRenderable."""
    written: dict[int, bytes] = {}
    for tag, vr, start, length in reader.elements(end, scope):
        if not belongs(tag) or tag in (_LENGTH_TO_END, _PADDING) or (tag in changes and not scope.depth):
            continue
        if vr == b"SQ":
            try:
                written[tag] = element(tag, vr, _items(reader, length, scope))
            except NotRenderable:
                if tag != _ICON_IMAGES:
                    raise
                reader.at = start  # an icon in a syntax of its own, which the object will not have any more
        elif length == UNDEFINED_LENGTH:
            raise NotRenderable("the object has compressed pixels within a sequence: it is offered as it is stored")
        else:
            value = bytes(reader.data[start : start + length])
            given = b"UN" if reader.was_un else vr
            word = 1 if reader.little_endian else WORD_BYTES.get(given, 1)
            written[tag] = element(tag, given, little_endian(value, word, ">"))
    for tag, change in changes.items():
        if change is not None and not scope.depth:
            written[tag] = element(tag, *change)
    return b"".join([written[tag] for tag in sorted(written)])


def _items(reader: Reader, length: int, scope: Scope) -> bytes:
    items, was_un = list[bytes](), reader.was_un
    for end in reader.items(length):
        inner = reader.inside(was_un)
        body = write_elements(inner, end, Scope(scope), {})
        items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body)
        reader.at = inner.at
    return b"".join(items)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element. What is too long for its VR is UN (PS3.5 6.2.2)."""
    value = _padded(vr, value)
    if vr in SHORT_VRS and len(value) > 0xFFFF:
        vr = b"UN"
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    length = struct.pack("<H", len(value)) if vr in SHORT_VRS else struct.pack("<HI", 0, len(value))
    return head + length + value


def _padded(vr: bytes, value: bytes) -> bytes:
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr in _PADDED_WITH_ZERO else b" ")


def file_meta(transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1)."""
    group = b"".join(
        (
            element(0x00020001, b"OB", b"\0\1"),
            element(0x00020002, b"UI", sop_class_uid.encode()),
            element(0x00020003, b"UI", sop_instance_uid.encode()),
            element(0x00020010, b"UI", transfer_syntax_uid.encode()),
            element(0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
            element(0x00020013, b"SH", f"GPU_RENDER_{__version__}".encode()[:16]),
        )
    )
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(group))) + group
