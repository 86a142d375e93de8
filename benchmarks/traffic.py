"""Bytes that a kernel cannot do without: counted from the records that tell it what to do, each byte once.

Samples that the output depends on, records, and each distinct table are read; outputs and reports are written. All
functions return (bytes that have to be read, bytes that are written), and raise ValueError for a record that
contradicts itself.
"""

from collections.abc import Sequence

import numpy as np

from kernels import Codestream, RenderJob
from kernels.adopt import adopt_record
from kernels.batch import declared_dtype, declared_shape
from kernels.check import read, read_source, reads_table
from kernels.packing import Packed, check
from kernels.params import ADOPT_PARAMS, ADOPT_WORDS, FRAME_PARAMS, UNPACK_PARAMS
from kernels.steps import steps_for

Traffic = tuple[int, int]


def of_frame(params: np.void) -> Traffic:
    """Samples and output of one FRAME_PARAMS record. Of a scaled region only the rows and columns between which
    something is interpolated are read."""
    r = read_source(params)
    rows, columns = _looked_at(r.region_height, r.height), _looked_at(r.region_width, r.width)
    return rows * columns * r.samples * r.sample_dtype.itemsize, r.output_bytes


def of_batch(jobs: Sequence[RenderJob]) -> Traffic:
    """A batch of ``render_batch``."""
    records = [read(job) for job in jobs]
    tables = [job.table if reads_table(record) else None for job, record in zip(jobs, records, strict=True)]
    distinct = {id(part): part.nbytes for part in (*tables, *map(steps_for, records)) if part is not None}
    frames = [of_frame(job.params) for job in jobs]
    records_and_tables = len(jobs) * FRAME_PARAMS.itemsize + sum(distinct.values())
    return records_and_tables + sum(samples for samples, _ in frames), sum(output for _, output in frames)


def of_packed(frames: Sequence[Packed]) -> Traffic:
    """A batch of ``unpack_batch``."""
    for frame in frames:
        check(frame)
    samples = sum(int(np.prod(frame.shape)) * frame.dtype.itemsize for frame in frames)
    return len(frames) * UNPACK_PARAMS.itemsize + sum(frame.nbytes for frame in frames), samples


def of_adopted(codestreams: Sequence[Codestream]) -> Traffic:
    """A batch of ``adopt_batch``, without witnesses, of which the codec left rows that follow each other."""
    left, samples = 0, 0
    for one in codestreams:
        rows, columns, count = declared_shape(one)
        adopt_record(one, declared_dtype(one), columns * count * declared_dtype(one).itemsize)
        left += rows * columns * count * declared_dtype(one).itemsize
        samples += rows * columns * count * one.dtype.itemsize
    return len(codestreams) * ADOPT_PARAMS.itemsize + left, len(codestreams) * 8 * ADOPT_WORDS + samples


def _looked_at(length: int, size: int) -> int:
    """How many of ``length`` places ``size`` outputs look at; as many where nothing is scaled."""
    if length == size:
        return length
    low = np.floor((np.arange(size) + 0.5) * length / size - 0.5)
    return len(np.unique(np.clip(np.concatenate((low, low + 1)), 0, length - 1)))
