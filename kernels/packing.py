"""Samples as a file or a byte-oriented decoder leaves them, and how they become samples: NumPy, the specification of
``unpack_batch`` in ``render.cu``."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kernels.params import UNPACK_PARAMS

Array = npt.NDArray[Any]


class Packing(IntEnum):
    """What lies in ``Packed.data``."""

    BITS = 0
    """1 bit a sample, bit 0 of a byte first (PS3.5 8.1.1) -> uint8 0 and 1."""
    BYTE_PLANES = 1
    """RLE Lossless without its runs (PS3.5 G.2): for each sample of a pixel, for each of its bytes from the most
    significant on, a plane of rows x columns bytes -> little-endian samples, interleaved."""
    BIG_ENDIAN = 2
    """Samples of 2, 4 or 8 bytes, most significant byte first, interleaved -> little-endian."""
    CHROMA_422 = 3
    """Y1 Y2 Cb Cr for each two pixels of a row (PS3.3 C.7.6.3.1.2), little-endian -> Y1 Cb Cr Y2 Cb Cr."""
    PLANES = 4
    """Three planes (Planar Configuration 1), little-endian -> interleaved."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One frame before unpacking. ``data``: uint8 (n,), C-contiguous; ``shape`` (rows, columns) or (rows, columns, 3)
    and ``dtype`` (in SAMPLE_FORMATS): the samples that come out."""

    data: npt.NDArray[np.uint8]
    packing: Packing
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        """Of the packed data [byte]."""
        return self.data.nbytes


def check(packed: Packed) -> None:
    """Raise ValueError where the data cannot be what the packing, shape and dtype say."""
    rows, columns = packed.shape[:2]
    samples = packed.shape[2] if len(packed.shape) == 3 else 1
    size = packed.dtype.itemsize
    count = rows * columns * samples
    expected = {
        Packing.BITS: (count + 7) // 8,
        Packing.CHROMA_422: 2 * rows * columns * size,
    }.get(packed.packing, count * size)
    good = {
        Packing.BITS: size == 1,
        Packing.BIG_ENDIAN: size > 1,
        Packing.CHROMA_422: samples == 3 and columns % 2 == 0,
        Packing.PLANES: samples == 3,
    }.get(packed.packing, True)
    flat = packed.data.dtype == np.uint8 and packed.data.ndim == 1 and packed.data.flags.c_contiguous
    if not good or not flat or samples not in (1, 3) or packed.data.size != expected or count == 0:
        raise ValueError("the packed data are not what their packing says")


def unpack(packed: Packed) -> Array:
    """The samples: ``packed.shape``, ``packed.dtype``, C order, memory of their own."""
    check(packed)
    return _UNPACK[packed.packing](packed)


def unpacked(samples: Array | Packed) -> Array:
    """Samples, unpacked where they are packed."""
    return unpack(samples) if isinstance(samples, Packed) else samples


def unpack_record(packed: Packed) -> np.void:
    """The UNPACK_PARAMS record, addresses 0, after ``check``."""
    check(packed)
    record = np.zeros((), UNPACK_PARAMS)
    record["rows"], record["columns"] = packed.shape[:2]
    record["samples"] = packed.shape[2] if len(packed.shape) == 3 else 1
    record["itemsize"], record["packing"] = packed.dtype.itemsize, packed.packing
    return cast(np.void, record[()])


def _bits(p: Packed) -> Array:
    count = int(np.prod(p.shape))
    return np.unpackbits(p.data, count=count, bitorder="little").view(p.dtype).reshape(p.shape)


def _byte_planes(p: Packed) -> Array:
    pixels, size = p.shape[0] * p.shape[1], p.dtype.itemsize
    planes = p.data.reshape(-1, pixels)
    if planes.shape[0] == size == 2:  # three times as fast as byte by byte
        words: Array = planes[0].astype("<u2")
        words <<= 8
        words |= planes[1]
        return words.view(p.dtype).reshape(p.shape)
    samples = np.empty((pixels, len(planes) // size, size), np.uint8)
    for index, plane in enumerate(planes):
        samples[:, index // size, size - 1 - index % size] = plane
    return samples.view(p.dtype).reshape(p.shape)


def _big_endian(p: Packed) -> Array:
    return p.data.view(p.dtype.newbyteorder(">")).astype(p.dtype).reshape(p.shape)


def _chroma_422(p: Packed) -> Array:
    rows, columns, _ = p.shape
    pairs = p.data.view(p.dtype).reshape(rows, columns // 2, 4)
    samples = np.empty((rows, columns // 2, 2, 3), p.dtype)
    samples[..., 0] = pairs[..., :2]
    samples[..., 1:] = pairs[:, :, np.newaxis, 2:]
    return samples.reshape(p.shape)


def _planes(p: Packed) -> Array:
    rows, columns, samples = p.shape
    return np.ascontiguousarray(p.data.view(p.dtype).reshape(samples, rows, columns).transpose(1, 2, 0))


_UNPACK = {
    Packing.BITS: _bits,
    Packing.BYTE_PLANES: _byte_planes,
    Packing.BIG_ENDIAN: _big_endian,
    Packing.CHROMA_422: _chroma_422,
    Packing.PLANES: _planes,
}
