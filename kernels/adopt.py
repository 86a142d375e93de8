"""What an image codec left on the device, taken into a frame's samples: NumPy, the specification of ``adopt_batch`` in
``render.cu``, and what its report says of a Codestream.

For every sample, in the order rows, columns, samples of a pixel::

    value  = what the codec left + offset
    sample = value, or with sign_bits > 0 its lowest sign_bits bits, sign-extended where the output is signed and
             zero-extended where it is not; then the lowest bits that the output's container holds

The report is ADOPT_WORDS uint64 words, all ones before. ``ordered`` numbers doubles by their size (``render.cu``)::

    0  the least ordered(value)         1  the least complement of ordered(value): of the greatest
    2  the least index of a sample that differs from the reference's
    3  the least ordered(sample)        4  the least complement of ordered(sample)
"""

import struct
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kernels import Codestream, Witness
from kernels.params import ADOPT_PARAMS, ADOPT_WORDS, SAMPLE_DTYPES, SAMPLE_FORMATS, SampleFormat

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

NONE = 2**64 - 1
MAX_OFFSET = 1 << 16
_NARROW = (SampleFormat.U8, SampleFormat.I8, SampleFormat.U16, SampleFormat.I16)


def adopt_record(codestream: Codestream, left: np.dtype[np.generic], row_stride: int) -> np.void:
    """The ADOPT_PARAMS record, addresses 0, for a codestream or its witnesses, of which the codec left rows of ``left``
    samples, ``row_stride`` bytes apart. Raises ValueError where the codestream's fields contradict themselves."""
    rows, columns = codestream.shape[:2]
    samples = codestream.shape[2] if len(codestream.shape) == 3 else 1
    formats = SAMPLE_FORMATS.get(left), SAMPLE_FORMATS.get(codestream.dtype)
    if formats[0] not in _NARROW or formats[1] not in _NARROW:
        raise ValueError("codecs leave samples of 8 or 16 bits, and so do frames take them")
    if rows < 1 or columns < 1 or samples not in (1, 3) or row_stride < columns * samples * left.itemsize:
        raise ValueError("the codec left rows that are shorter than the frame's")
    if row_stride % left.itemsize or abs(codestream.offset) > MAX_OFFSET:
        raise ValueError("the row stride or the offset is not possible")
    lowest, highest = _limits(codestream.dtype)
    whole = lowest <= codestream.low and codestream.high <= highest
    if not (0 <= codestream.sign_bits <= codestream.dtype.itemsize * 8) or not (codestream.sign_bits or whole):
        raise ValueError("the values do not fit into the frame's samples")
    record = np.zeros((), ADOPT_PARAMS)
    record["row_stride"] = row_stride
    record["source_format"], record["output_format"] = formats
    record["rows"], record["columns"], record["samples"] = rows, columns, samples
    record["offset"], record["sign_bits"] = codestream.offset, codestream.sign_bits
    return cast(np.void, record[()])


def _limits(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    count = 1 << (dtype.itemsize * 8)
    return (-count // 2, count // 2 - 1) if dtype.kind == "i" else (0, count - 1)


def extent_of(codestream: Codestream, report: Words) -> tuple[int, int] | None:
    """Lowest and highest sample; None where a value lies outside the codestream's ``low``..``high``."""
    lowest, highest, low, high = (number(int(word)) for word in (report[0], ~report[1], report[3], ~report[4]))
    if not codestream.low <= lowest <= highest <= codestream.high:
        return None
    return int(low), int(high)


def holds(witness: Witness, codestream: Codestream, report: Words) -> bool:
    """Whether a witness, adopted with the codestream's samples as its reference, is what it should be."""
    first = int(report[2])
    if first < witness.equal_samples or extent_of(codestream, report) is None:
        return False
    return first != NONE or not witness.differs


def number(key: int) -> float:
    """The double that ``ordered`` in ``render.cu`` numbers so."""
    bits = key ^ 2**63 if key >> 63 else key ^ NONE
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def ordered(value: float) -> int:
    """Unsigned integers in the order of the doubles that they stand for."""
    bits = int(struct.unpack("<Q", struct.pack("<d", value))[0])
    return bits ^ NONE if bits >> 63 else bits | 2**63


def adopt(record: np.void, left: Array, reference: Array | None = None) -> tuple[Array, Words]:
    """(samples, report) of one record. ``left``: (rows, row_stride // itemsize) as the codec left them; ``reference``
    and samples: (rows, columns * samples), of the record's output format."""
    output = SAMPLE_DTYPES[SampleFormat(int(record["output_format"]))]
    bits = int(record["sign_bits"])
    values = left[:, : int(record["columns"]) * int(record["samples"])].astype(np.int32) + int(record["offset"])
    wide = values
    if bits:
        wide = values & ((1 << bits) - 1)
        sign = 1 << (bits - 1) if output.kind == "i" else 0
        wide = (wide ^ sign) - sign
    samples = wide.astype(output)
    report = np.full(ADOPT_WORDS, NONE, np.uint64)
    report[0], report[1] = ordered(float(values.min())), NONE - ordered(float(values.max()))
    report[3], report[4] = ordered(float(samples.min())), NONE - ordered(float(samples.max()))
    if reference is not None and (samples != reference).any():
        report[2] = np.flatnonzero(samples.reshape(-1) != reference.reshape(-1))[0]
    return samples, report
