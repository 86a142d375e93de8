"""Whether a lossless JPEG picture took exactly the entropy-coded data that its codestream has (decision 0006).

Every difference between a sample and its prediction has one code, so the picture itself says how many bits were read
for it, and where the codes of each row begin. Where that ends in the last byte of the data, and the bits at the
beginning of each row and all over the last ones are those codes, libjpeg neither made anything up nor skipped
anything. That is counted in a fourth of the time in which the picture could be decoded again.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_render.decode.codestream import HuffmanTable, JpegHeader

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 16  # samples worked on at once
_NO_CODE = 255
_TAIL = 1024  # samples, at least, at the end of the picture of which each code is looked at
_WINDOW = 5  # bytes that hold the longest code with its further bits, 31 in all, wherever in a byte it begins


def takes_all(data: bytes, header: JpegHeader, values: Array) -> bool:
    """Whether ``values``, uint8 or uint16, (rows, columns) or (rows, columns, components), are what all of the data
    say. False also where this cannot tell: other predictors than 1, restarts, several scans, unusual tables or data."""
    scan, tables = header.first_scan, [table for table in header.scan_tables if table is not None]
    samples = values.reshape(*values.shape[:2], -1)
    if (scan.start, scan.low, len(header.data_ends)) != (1, 0, 1) or header.subsampled:
        return False
    if scan.components != tuple(component.identifier for component in header.components):
        return False
    if not len(tables) == len(header.components) == samples.shape[2]:
        return False
    bits = np.zeros(len(samples), np.int64)  # of each row
    for component, table in enumerate(tables):
        plane = np.ascontiguousarray(samples[:, :, component])
        counted = _bits_of_rows(plane, _first_differences(plane[:, 0], header.precision), _lengths(table))
        if counted is None:
            return False
        bits += counted
    entropy, ends = _Entropy(np.frombuffer(data, np.uint8)[header.data_start : header.data_ends[0]]), bits.cumsum()
    if not 0 <= 8 * entropy.nbytes - int(ends[-1]) < 8:
        return False
    first = _Codes(_first_differences(samples[:, 0, 0], header.precision), tables[0])
    if not first.stand_at(ends - bits, entropy):
        return False
    tail = max(len(samples) - -(-_TAIL // samples[0].size), 0)
    return _stand_in_rows(samples, tail, header.precision, tables, int((ends - bits)[tail]), entropy)


def _stand_in_rows(
    samples: Array, first: int, precision: int, tables: list[HuffmanTable], start: int, entropy: "_Entropy"
) -> bool:
    """Whether the codes of all samples from row ``first`` on stand where they should: the first at ``start``."""
    rows = samples[first:].astype(np.int64)
    differences = np.diff(rows, axis=1, prepend=rows[:, :1])
    for component in range(samples.shape[2]):
        differences[:, 0, component] = _first_differences(samples[:, 0, component], precision)[first:]
    found = [_Codes(differences[:, :, c].astype(np.uint16), table) for c, table in enumerate(tables)]
    lengths = np.stack([codes.lengths for codes in found], axis=-1)
    starts = start + lengths.cumsum().reshape(lengths.shape) - lengths
    return all(codes.stand_at(starts[:, :, c], entropy) for c, codes in enumerate(found))


def _first_differences(column: Array, precision: int) -> npt.NDArray[np.uint16]:
    """Of the first column, modulo 2^16: each from the one above, the first one from the middle (H.1.2.1)."""
    above = np.concatenate(([1 << (precision - 1)], column[:-1].astype(np.int64)))
    return (column - above).astype(np.uint16)


def _lengths(table: HuffmanTable) -> npt.NDArray[np.uint8]:
    """Bits of each difference modulo 2^16: its category's code and the bits that tell it from others (H.1.2.2)."""
    lengths = np.full(1 << 16, _NO_CODE, np.uint8)
    for category, (_, length) in table.items():
        low, high = (1 << category) >> 1, 1 << category
        lengths[low : min(high, 32769)] = length + _further_bits(category)
        if category < 16:
            lengths[65537 - high : 65537 - low] = length + category
    return lengths


def _further_bits(category: int) -> int:
    return category if category < 16 else 0  # 32768 stands alone


def _bits_of_rows(plane: Array, first: npt.NDArray[np.uint16], lengths: npt.NDArray[np.uint8]) -> Integers | None:
    """Bits that the codes of each row take; None where there is no code for something."""
    rows, columns = plane.shape
    step = min(max(1, _BLOCK // columns), rows)
    bits, differences = np.empty(rows, np.int64), np.empty((step, columns), np.uint16)
    taken = np.empty((step, columns), np.uint8)
    for y in range(0, rows, step):
        part = plane[y : y + step]
        d, t = differences[: len(part)], taken[: len(part)]
        np.subtract(part.reshape(-1)[1:], part.reshape(-1)[:-1], out=d.reshape(-1)[1:], dtype=np.uint16)
        d[:, 0] = first[y : y + step]
        lengths.take(d, mode="clip", out=t)
        if t.max() == _NO_CODE:
            return None
        bits[y : y + step] = t.sum(axis=1, dtype=np.uint32)
    return bits


class _Codes:
    """The codes of differences modulo 2^16 with their further bits, and their ``lengths``; any shape."""

    def __init__(self, differences: npt.NDArray[np.uint16], table: HuffmanTable) -> None:
        signed = differences.astype(np.int64)
        signed[signed > 32768] -= 65536
        category = np.frexp(np.abs(signed).astype(np.float64))[1]
        codes, lengths, further = (np.zeros(17, np.int64) for _ in range(3))
        for number, (code, length) in table.items():
            codes[number], lengths[number], further[number] = code, length, _further_bits(number)
        more = further[category]
        self._bits = codes[category] << more | np.where(signed < 0, signed - 1, signed) & ((1 << more) - 1)
        self.lengths: Integers = lengths[category] + more

    def stand_at(self, starts: Integers, entropy: "_Entropy") -> bool:
        """Whether the data have them there."""
        return bool(np.array_equal(entropy.bits(starts, self.lengths), self._bits))


class _Entropy:
    """Entropy-coded data, whose bytes of 0xFF are followed by a 0 that is none of it (F.1.2.3)."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self._data = np.concatenate((data, np.zeros(2 * _WINDOW, np.uint8)))
        stuffed = np.flatnonzero(data == 0xFF)
        self._stuffed = stuffed - np.arange(len(stuffed))  # where they are without the zeros
        self.nbytes = len(data) - len(stuffed)

    def bits(self, starts: Integers, lengths: Integers) -> Integers:
        """``lengths`` bits from each of ``starts`` on, as numbers."""
        found = np.zeros(starts.shape, np.int64)
        for byte in range(_WINDOW):
            place = (starts >> 3) + byte
            found = found << 8 | self._data[place + np.searchsorted(self._stuffed, place)]
        left = (1 << 8 * _WINDOW) - 1 >> (starts & 7)
        return (found & left) >> (8 * _WINDOW - (starts & 7) - lengths)
