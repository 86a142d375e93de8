"""Where each frame of encapsulated Pixel Data lies in its file (PS3.5 A.4), found without reading any pixels."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gpu_render.errors import CorruptPixelData

ReadAt = Callable[[int, int], bytes]
"""(offset, length) [byte] -> that many bytes, fewer at the end of the file."""

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = b"\xfe\xff\x00\xe0"
DELIMITER = b"\xfe\xff\xdd\xe0"
_HEADER_BYTES = 8

MISSING = (0, 0)
"""Span of a frame that the file does not hold completely."""

# First bytes of a codestream: JPEG and JPEG-LS (SOI), JPEG 2000 and HTJ2K (SOC, SIZ), JP2 boxes, JPEG XL.
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\xff\x0a", b"\0\0\0\x0cJXL ")


@dataclass(frozen=True, slots=True)
class Item:
    """One item: ``offset`` [byte] of its tag in the file, ``length`` [byte] of its value; ``whole``: it ends inside
    the file."""

    offset: int
    length: int
    whole: bool = True

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + _HEADER_BYTES + self.length


@dataclass(frozen=True, slots=True)
class OffsetTables:
    """What the dataset says beside Pixel Data: Extended Offset Table (7FE0,0001), offsets [byte] from the first
    byte behind the Basic Offset Table; empty where absent."""

    extended: Sequence[int] = ()


def walk_items(read: ReadAt, start: int, end: int) -> tuple[list[Item], bool]:
    """The items from ``start`` on, the Basic Offset Table first, and whether a sequence delimiter ends them.

    ``end`` is the file's (or the element's) end. A missing delimiter is tolerated, the last item may be cut.
    Raises CorruptPixelData where something else than an item follows an item.
    """
    items: list[Item] = []
    position = start
    while position + _HEADER_BYTES <= end:
        header = read(position, _HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            break
        tag, length = header[:4], struct.unpack_from("<I", header, 4)[0]
        if tag == DELIMITER:
            return items, True
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise CorruptPixelData("encapsulated Pixel Data holds something that is not an item")
        item = Item(position, length, position + _HEADER_BYTES + length <= end)
        items.append(item)
        position = item.end
    return items, False


def frame_spans(
    read: ReadAt, start: int, end: int, frames: int, tables: OffsetTables | None = None, *, one_fragment: bool = False
) -> npt.NDArray[np.uint64]:
    """Offset and length [byte] of every frame: uint64, shape (frames, 2).

    A span reaches from the frame's first item tag to the end of its last fragment; (0, 0) stands for a frame that
    the file does not hold completely. ``start`` is the offset of the Pixel Data element's value, ``end`` that of the
    end of the file. ``one_fragment``: the transfer syntax is RLE or has frames of native samples, where a frame is one
    fragment (PS3.5 A.4) and has no marker. Raises CorruptPixelData where it is not certain which bytes belong to which
    frame.
    """
    items, delimited = walk_items(read, start, end)
    if not delimited and items and items[-1].whole and read(end - 8, 8) == DELIMITER + bytes(4):
        raise CorruptPixelData("the last fragment takes in the delimiter behind it: it has lost bytes")
    if not items or not items[0].whole:
        raise CorruptPixelData("encapsulated Pixel Data has no Basic Offset Table item")
    table, fragments = items[0], items[1:]
    if not fragments:
        raise CorruptPixelData("encapsulated Pixel Data has no fragments")
    offsets = tables.extended if tables and tables.extended else _basic_offsets(read, table, frames)
    firsts = _rising(offsets, fragments, frames, table.end, delimited) if len(offsets) else None
    if firsts is None:
        fewer = not delimited and not len(offsets)
        firsts = _without_table(read, fragments, frames, one_fragment=one_fragment, fewer=fewer)
    return _spans(fragments, firsts, frames)


def _basic_offsets(read: ReadAt, table: Item, frames: int) -> Sequence[int]:
    """The Basic Offset Table; empty where it is empty or cannot be one of so many frames."""
    if table.length != 4 * frames:
        return ()
    offsets: list[int] = np.frombuffer(read(table.offset + _HEADER_BYTES, table.length), "<u4").tolist()
    return offsets


def _rising(offsets: Sequence[int], fragments: list[Item], frames: int, base: int, delimited: bool) -> list[int] | None:
    """Index of each frame's first fragment as the table says it; None where the table does not fit the fragments.

    Fewer than ``frames`` where the file was cut: the table's other offsets lie behind the last fragment. Raises
    CorruptPixelData where the offsets do not rise: readers disagree on which frame is frame 1 then.
    """
    if any(later <= earlier for earlier, later in pairwise(offsets)):
        raise CorruptPixelData("the offset table of the encapsulated Pixel Data does not rise")
    index_of = {fragment.offset - base: index for index, fragment in enumerate(fragments)}
    held = list(offsets) if delimited else [offset for offset in offsets if offset < fragments[-1].end - base]
    firsts = [index_of.get(offset) for offset in held]
    known = [first for first in firsts if first is not None]
    return known if len(known) == len(firsts) and len(offsets) == frames and known[:1] == [0] else None


def _without_table(read: ReadAt, fragments: list[Item], frames: int, *, one_fragment: bool, fewer: bool) -> list[int]:
    """Index of each frame's first fragment where no table helps. Where the file may hold ``fewer`` frames than it
    declares because it was cut, those that are there; else something was left out, and nobody knows which frame."""
    if frames == 1:
        return [0]
    while len(fragments) > frames and fragments[-1].length == 0:
        fragments = fragments[:-1]
    if one_fragment and (len(fragments) == frames or (fewer and len(fragments) < frames)):
        return list(range(len(fragments)))
    starts = [
        index
        for index, fragment in enumerate(fragments)
        if read(fragment.offset + _HEADER_BYTES, min(8, fragment.length)).startswith(_STARTS)
    ]
    # Where only some fragments begin a codestream, the others are pieces of it and no frames.
    if len(fragments) == frames and len(starts) in (0, frames):
        return list(range(frames))
    if len(fragments) < frames and fewer and len(starts) == len(fragments):
        return list(range(len(fragments)))
    if len(fragments) > frames and not one_fragment and len(starts) == frames and starts[0] == 0:
        return starts
    raise CorruptPixelData(f"{len(fragments)} fragments cannot be divided among {frames} frames")


def check_held(held: int, frames: int) -> None:
    """Raises CorruptPixelData where a file holds not even one in a hundred of the frames that it declares: lists and
    tables of the others are not made for a header that lies."""
    if frames > 100 * max(1, held):
        raise CorruptPixelData(f"the file holds {held} of {frames} declared frames")


def _spans(fragments: list[Item], firsts: list[int], frames: int) -> npt.NDArray[np.uint64]:
    check_held(len(firsts), frames)
    spans = np.zeros((frames, 2), dtype=np.uint64)
    for index, (first, after) in enumerate(pairwise([*firsts, len(fragments)])):
        last = fragments[after - 1]
        if last.whole and last.end > fragments[first].offset + _HEADER_BYTES:
            spans[index] = fragments[first].offset, last.end - fragments[first].offset
    return spans


def join_fragments(span: bytes | memoryview) -> bytes | memoryview:
    """The codestream in a span of ``frame_spans``: item headers removed. One fragment is returned without a copy.

    Raises CorruptPixelData where the span does not consist of whole items.
    """
    view, parts, position = memoryview(span), [], 0
    while position < len(view):
        if len(view) - position < _HEADER_BYTES or view[position : position + 4] != ITEM:
            raise CorruptPixelData("a fragment does not begin with an item tag")
        begin = position + _HEADER_BYTES
        position = begin + struct.unpack_from("<I", view, begin - 4)[0]
        if position > len(view):
            raise CorruptPixelData("a fragment is longer than its frame")
        parts.append(view[begin:position])
    if not parts:
        raise CorruptPixelData("a frame has no fragments")
    return parts[0] if len(parts) == 1 else b"".join(parts)
