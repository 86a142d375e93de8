"""What every backend asks of a job before it touches memory: a record is trusted by the kernels only after this."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels import RenderJob
from kernels.params import FRAME_PARAMS, SAMPLE_DTYPES, Colour, Curve, SampleFormat, Stage


class Record(NamedTuple):
    """A FRAME_PARAMS record as Python numbers; field by field the same as ``params.FRAME_PARAMS``."""

    source: int
    table: int
    output: int
    steps: int
    slope: float
    intercept: float
    lower: float
    span: float
    pad_low: float
    pad_high: float
    rows: int
    columns: int
    samples: int
    planar: int
    sample_format: int
    shift: int
    bits: int
    signed: int
    region_x: int
    region_y: int
    region_width: int
    region_height: int
    height: int
    width: int
    stage: int
    curve: int
    colour: int
    table_first: int
    table_length: int
    invert: int
    output_format: int
    output_samples: int

    @property
    def sample_dtype(self) -> np.dtype[np.generic]:
        """dtype of the container."""
        return SAMPLE_DTYPES[SampleFormat(self.sample_format)]

    @property
    def output_dtype(self) -> np.dtype[np.generic]:
        """dtype of the array that comes out."""
        return SAMPLE_DTYPES[SampleFormat(self.output_format)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(height, width), or (height, width, 3)."""
        size = (self.height, self.width)
        return size if self.output_samples == 1 else (*size, self.output_samples)

    @property
    def output_bytes(self) -> int:
        """Size of the array that comes out."""
        return self.height * self.width * self.output_samples * self.output_dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether the output's size differs from the region's, so that it is interpolated."""
        return (self.height, self.width) != (self.region_height, self.region_width)


def read(job: RenderJob) -> Record:
    """The job's record as numbers, after checking that rendering it can neither leave the source nor the table.

    Raises ValueError, naming the field, for a record that contradicts itself. The size of ``pixels`` is checked by
    the backend, which alone knows what its handle is.
    """
    record = read_source(job.params)
    _check_geometry(record)
    _CHECK_STAGE[Stage(record.stage)](record)
    _check_table(record, job.table)
    return record


def read_source(params: np.void) -> Record:
    """The record as numbers, where only what it says of the source will be used. Raises ValueError like ``read``."""
    if params.dtype != FRAME_PARAMS:
        raise ValueError("params is not a FRAME_PARAMS record")
    record = Record(*params.item())
    _check_samples(record)
    return record


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_samples(r: Record) -> None:
    container = r.sample_dtype.itemsize * 8
    _require(r.rows >= 1 and r.columns >= 1, "rows and columns are at least 1")
    _require(r.samples in (1, 3), "samples is 1 or 3")
    _require(r.shift >= 0 and r.bits >= 1 and r.shift + r.bits <= container, "bits do not fit into the container")
    _require(r.sample_dtype.kind != "f" or r.bits == container, "floats have the bits of their container")


def _check_geometry(r: Record) -> None:
    _require(r.region_width >= 1 and r.region_height >= 1, "the region has at least one pixel")
    _require(0 <= r.region_x <= r.columns - r.region_width, "the region leaves the source in x")
    _require(0 <= r.region_y <= r.rows - r.region_height, "the region leaves the source in y")
    _require(r.width >= 1 and r.height >= 1, "the output has at least one pixel")
    _require(r.width * r.height < 2**31, "the output has more pixels than an int counts")


def _check_stored(r: Record) -> None:
    source, output = r.sample_dtype, r.output_dtype
    _require(not r.scaled, "stored values are never scaled")
    _require(r.output_samples == r.samples, "stored values keep their samples per pixel")
    same = source.itemsize == output.itemsize and (source.kind == "f") == (output.kind == "f")
    _require(same, "stored values keep their container")


def _check_modality(r: Record) -> None:
    _require(r.samples == 1 and r.output_samples == 1, "modality values have one sample per pixel")
    _require(r.output_format in (SampleFormat.I16, SampleFormat.F32), "modality values are int16 or float32")
    _require(not (r.scaled and r.output_format == SampleFormat.I16), "scaled modality values are float32")
    _require(r.curve in (Curve.RATIO, Curve.TABLE), "modality values come from a rescale or a table")


def _check_display(r: Record) -> None:
    colour = Colour(r.colour)
    _require(r.output_format == SampleFormat.U8, "display values are uint8")
    _require(r.output_samples == (1 if colour == Colour.GREY else 3), "output_samples contradicts colour")
    _require(r.samples == (1 if colour in (Colour.GREY, Colour.PALETTE) else 3), "samples contradicts colour")
    _require(colour != Colour.PALETTE or r.curve == Curve.TABLE, "a palette is a table")
    _require(r.samples == 1 or (r.sample_dtype.kind != "f" and not r.signed), "colour samples are unsigned integers")


_CHECK_STAGE = {
    Stage.STORED: _check_stored,
    Stage.MODALITY: _check_modality,
    Stage.DISPLAY: _check_display,
}


def reads_table(r: Record) -> bool:
    """Whether this record's curve reads a table."""
    return r.stage != Stage.STORED and r.samples == 1 and r.curve != Curve.RATIO


def _check_table(r: Record, table: npt.NDArray[np.generic] | None) -> None:
    if not reads_table(r):
        return
    if table is None:
        raise ValueError("the curve needs a table")
    shape: tuple[int, ...] = (r.table_length,)
    dtype: np.dtype[np.generic] = np.dtype("u1")
    if r.curve == Curve.THRESHOLDS:
        shape, dtype = (255,), np.dtype("<f8")
    elif r.stage == Stage.MODALITY:
        dtype = np.dtype("<f4")
    elif r.colour == Colour.PALETTE:
        shape = (r.table_length, 3)
    _require(table.dtype == dtype and table.shape == shape and table.flags.c_contiguous, "not this curve's table")
    _require(table.size > 0, "the table is empty")
    _require(r.curve != Curve.TABLE or r.sample_dtype.kind != "f", "float samples have no table")
