"""GIF (version 89a), one frame at a time: each is encoded by itself, and the blocks are put together.

Grey is exact: the table of colours is the 256 greys. Colour is brought to 256 colours a frame, each with its own table.
Pillow encodes the frames; its own writer of animations would merge equal frames and hold all pixels until the end.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

_TRAILER = b"\x3b"
_FOREVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
_LOCAL_TABLE = 0x80


@dataclass(frozen=True, slots=True)
class GifFrame:
    """One frame: ``width``, ``height`` [px], its table of colours (RGB, 2 ** n entries) and its compressed data."""

    width: int
    height: int
    table: bytes
    data: bytes

    @property
    def nbytes(self) -> int:
        """What it takes [byte]."""
        return len(self.table) + len(self.data)


def encode_frame(pixels: npt.NDArray[np.generic]) -> GifFrame:
    """Compress uint8 (height, width) or (height, width, 3), at most 65535 a side."""
    picture = Image.fromarray(pixels)
    if picture.mode == "RGB":
        picture = picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", optimize=False, interlace=0)
    return _only_frame(buffer.getvalue())


def _only_frame(gif: bytes) -> GifFrame:
    """Of a GIF with one frame, as Pillow writes it: header, screen, global table, extensions, image."""
    position, table = _table(gif, 13, gif[10])
    while gif[position] == 0x21:  # an extension: label, then its blocks
        position = _after_blocks(gif, position + 2)
    width, height, flags = struct.unpack_from("<4xHHB", gif, position + 1)
    position, table = _table(gif, position + 10, flags, table)
    return GifFrame(width, height, table, gif[position : _after_blocks(gif, position + 1)])


def _table(gif: bytes, start: int, flags: int, otherwise: bytes = b"") -> tuple[int, bytes]:
    """Where the table of colours that ``flags`` speak of ends, and its bytes."""
    if not flags & _LOCAL_TABLE:
        return start, otherwise
    end = start + 3 * (2 << (flags & 7))
    return end, gif[start:end]


def _after_blocks(gif: bytes, position: int) -> int:
    while gif[position]:
        position += 1 + gif[position]
    return position + 1


def animation(frames: Sequence[GifFrame], delays: Sequence[int]) -> bytes:
    """Frames of one size that follow each other without end, each for its delay [1/100 s]; one frame stands still."""
    first = frames[0]
    assert all((frame.width, frame.height) == (first.width, first.height) for frame in frames)
    parts = [b"GIF89a" + struct.pack("<HHBBB", first.width, first.height, 0x70, 0, 0)]
    if len(frames) > 1:
        parts.append(_FOREVER)
    for frame, delay in zip(frames, delays, strict=True):
        if len(frames) > 1:
            parts.append(b"\x21\xf9\x04" + struct.pack("<BHB", 0, delay, 0) + b"\0")
        flags = _LOCAL_TABLE | (len(frame.table) // 3).bit_length() - 2
        parts += [b"\x2c" + struct.pack("<HHHHB", 0, 0, frame.width, frame.height, flags), frame.table, frame.data]
    return b"".join((*parts, _TRAILER))
