"""How a batch lies in memory: its records with what they point to go up in one piece, its outputs come down in one."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import Codestream, RenderJob
from kernels.check import Record, read, reads_table
from kernels.params import FRAME_PARAMS
from kernels.steps import steps_for

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 256  # of what is packed into one buffer [byte]


class RenderBatch:
    """Jobs as ``render_batch`` takes them. Raises ValueError for a job whose record contradicts itself.

    The input is ``rows`` (FRAME_PARAMS, (jobs,)), then each distinct table and STEPS; the output is one array a job.
    """

    def __init__(self, jobs: Sequence[RenderJob]) -> None:
        self.records: list[Record] = [read(job) for job in jobs]
        self.rows: Array = np.array([job.params for job in jobs], FRAME_PARAMS)
        self._outputs, self.output_bytes = pack(record.output_bytes for record in self.records)
        tables = [job.table if reads_table(record) else None for job, record in zip(jobs, self.records, strict=True)]
        steps = [steps_for(record) for record in self.records]
        distinct = {id(part): part for part in (*tables, *steps) if part is not None}
        offsets, self.input_bytes = pack((part.nbytes for part in distinct.values()), self.rows.nbytes)
        self._parts = list(zip(offsets, distinct.values(), strict=True))
        places = dict(zip(distinct, offsets, strict=True))
        self._tables, self._steps = ([places.get(id(part), 0) for part in parts] for parts in (tables, steps))

    def write(self, staging: Bytes, inputs: int, outputs: int) -> None:
        """Write the input, ``input_bytes``, for a device that finds it at ``inputs`` and writes at ``outputs``."""
        self.rows["output"] = [outputs + offset for offset in self._outputs]
        self.rows["table"] = [inputs + place if place else 0 for place in self._tables]
        self.rows["steps"] = [inputs + place if place else 0 for place in self._steps]
        staging[: self.rows.nbytes] = bytes_of(self.rows)
        for offset, part in self._parts:
            staging[offset : offset + part.nbytes] = bytes_of(part)

    def results(self, staging: Bytes) -> list[Array]:
        """The arrays of an output of ``output_bytes``, in memory of their own."""
        return [
            np.frombuffer(staging, record.output_dtype, math.prod(record.output_shape), offset)
            .reshape(record.output_shape)
            .copy()
            for offset, record in zip(self._outputs, self.records, strict=True)
        ]


def pack(sizes: Iterable[int], start: int = 0) -> tuple[list[int], int]:
    """Aligned offsets for blocks of ``sizes`` bytes one after the other, and where the last one ends."""
    offsets, end = [], start
    for size in sizes:
        offsets.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = offsets[-1] + size
    return offsets, end


def bytes_of(array: Array) -> Bytes:
    """The bytes of a C-contiguous array, uint8 (n,), without a copy."""
    return array.reshape(-1).view(np.uint8)


def declared_dtype(codestream: Codestream) -> np.dtype[np.generic]:
    """What a codec gives for the precision and sign that a codestream declares."""
    return np.dtype(f"<{'i' if codestream.signed else 'u'}{1 if codestream.precision <= 8 else 2}")


def declared_shape(codestream: Codestream) -> tuple[int, int, int]:
    """(rows, columns, samples)."""
    rows, columns, samples = (*codestream.shape, 1)[:3]
    return rows, columns, samples
