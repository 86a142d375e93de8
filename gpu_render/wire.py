"""Bodies for slow lines: a filter after which samples compress well, and the codings that HTTP clients undo.

The filter ``planes`` is exact for every bit pattern, since it takes samples as unsigned integers and computes modulo
their range: each is replaced by its difference to the one before it in its row and channel (0 before the first); where
a sample has more than one byte, that by its difference to the one in the row above, and that, as two's complement, by
``2 * d`` where ``d >= 0`` and ``-2 * d - 1`` where it is less, so that small differences have small numbers. Then come
the lowest bytes of all numbers in C order, the next ones, and so on.
"""

import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zstandard

Samples = npt.NDArray[np.generic]
Words = npt.NDArray[np.unsignedinteger[Any]]
Buffer = bytes | bytearray | memoryview

Coding = Literal["zstd", "gzip"]
"""Content codings: RFC 8878, RFC 1952."""

LEVEL = 1
"""Of zstd and zlib. Higher ones take several times as long and save a hundredth (``python -m benchmarks.wire``)."""
BAND = 1 << 16
"""Samples that are filtered at a time: what is made in between stays in the processor's cache."""


def can_be_filtered(pixels: Samples) -> bool:
    """Whether ``planes`` is offered for these: samples of 1, 2 or 4 bytes. Larger ones have no type in browsers."""
    return pixels.dtype.itemsize in (1, 2, 4)


def planes(pixels: Samples) -> memoryview:
    """``pixels`` (rows, columns) or (rows, columns, channels), C order -> as many bytes, filtered."""
    rows, step = pixels.shape[0], pixels.shape[2] if pixels.ndim == 3 else 1
    words = _words(pixels).reshape(rows, -1)
    size, width = words.dtype.itemsize, words.shape[1]
    filtered = np.empty((size, rows * width), np.uint8)
    band = max(1, BAND // max(1, width))
    for top in range(0, rows, band):
        bottom = min(rows, top + band)
        above = top - 1 if top and size > 1 else top  # the first row of what is subtracted
        numbers = _left(words[above:bottom], step)
        if size > 1:
            numbers = _folded(_up(numbers)[top - above :])
        filtered[:, top * width : bottom * width] = numbers.view(np.uint8).reshape(-1, size).T
    return filtered.reshape(-1).data


def _words(pixels: Samples) -> Words:
    words: Words = np.ascontiguousarray(pixels).view(f"<u{pixels.dtype.itemsize}")
    return words


def _left(words: Words, step: int) -> Words:
    found = words.copy()
    np.subtract(words[:, step:], words[:, :-step], out=found[:, step:])
    return found


def _up(words: Words) -> Words:
    found = words.copy()
    np.subtract(words[1:], words[:-1], out=found[1:])
    return found


def _folded(words: Words) -> Words:
    """0, -1, 1, -2, 2 ... to 0, 1, 2, 3, 4 ..., in place."""
    signs = words.view(f"<i{words.dtype.itemsize}") >> (8 * words.dtype.itemsize - 1)
    np.left_shift(words, 1, out=words)
    np.bitwise_xor(words, signs.view(words.dtype), out=words)
    return words


def unplanes(body: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Samples:
    """The samples that ``planes`` made ``body`` of. Raises ValueError where it has not exactly as many bytes."""
    found = np.dtype(dtype)
    size, step = found.itemsize, shape[2] if len(shape) == 3 else 1
    numbers = np.frombuffer(body, np.uint8).reshape(size, -1).T.reshape(-1).view(f"<u{size}")
    if size > 1:
        numbers = (numbers >> 1) ^ (-(numbers & 1).view(f"<i{size}")).view(numbers.dtype)
    words = numbers.reshape(shape[0], -1, step)
    if size > 1:
        words = np.cumsum(words, axis=0, dtype=words.dtype)
    return np.cumsum(words, axis=1, dtype=words.dtype).reshape(shape).view(found)


def compress(data: Buffer, coding: Coding, *, filtered: bool) -> bytes:
    """All of ``data`` as one zstd frame, with its checksum, or as one gzip member."""
    if coding == "zstd":
        return _zstd().compress(data)
    packer = _gzip(filtered)
    return packer.compress(data) + packer.flush()


def _zstd() -> zstandard.ZstdCompressor:
    """RFC 9659 allows windows up to 8 MB; this level's has 512 KiB."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)


def _gzip(filtered: bool) -> "zlib._Compress":
    """In what is filtered nothing repeats itself but single bytes: to look for more takes longer and finds less."""
    strategy = zlib.Z_RLE if filtered else zlib.Z_DEFAULT_STRATEGY
    return zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, strategy)


class Stream:
    """One body whose parts come one after the other. Each is complete for the reader before the next is there.

    Not for two threads at a time."""

    def __init__(self, coding: Coding, *, filtered: bool) -> None:
        self._zstd = _zstd().compressobj() if coding == "zstd" else None
        self._gzip = _gzip(filtered)

    def part(self, *pieces: Buffer) -> bytes:
        """``pieces`` compressed, all that came of them."""
        if self._zstd is None:
            return b"".join([*map(self._gzip.compress, pieces), self._gzip.flush(zlib.Z_SYNC_FLUSH)])
        packed = [*map(self._zstd.compress, pieces), self._zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
        return b"".join(packed)

    def end(self) -> bytes:
        """The body's last bytes."""
        return self._gzip.flush() if self._zstd is None else self._zstd.flush()
