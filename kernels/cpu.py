"""NumPy: what a correct rendering is, and the backend of machines without a GPU. ``render.cu`` equals it bit by bit.

For every output pixel of a frame (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.18 8.3.5: the window first, then the scaling)::

    stored(x, y, c) = container >> shift, its lowest ``bits`` bits, sign-extended if ``signed``; floats as they are
    m(x, y)         = slope * stored + intercept                  float64, two roundings
                      or table[clamp(stored - table_first)]       float32, curve TABLE at Stage.MODALITY

    STORED    stored(x, y, c) in the container's width; planes become interleaved; no colour conversion
    MODALITY  m, to float32 (round to nearest even) or to int16 (towards zero, clamped; NaN is 0)
    DISPLAY   GREY, RATIO       t = (m - lower) * 255 / span, float64 with a true division, in this order
                                grey = 255 if t >= 255; floor(t + 0.5) if t > 0; else 0 (NaN too)
              GREY, THRESHOLDS  grey = how many of the 255 ascending float64 thresholds are <= m; NaN: 0
              GREY, TABLE       grey = table[clamp(stored - table_first)]
                                then invert: 255 - grey; then 0 where pad_low <= stored <= pad_high
              RGB               8 bit: as it is; else floor(stored * 255 / (2^bits - 1) + 0.5), float64
              YBR_FULL, YBR_PARTIAL  the same, then the matrix of YBR_MATRIX in whole millionths, half up, clamped
              PALETTE           rgb = table[clamp(stored - table_first)]

A region of (region_width, region_height) at (region_x, region_y) becomes (width, height) by bilinear interpolation of
what the lines above give, with pixel centres at .5::

    sx = region_x + (ox + 0.5) * region_width / width - 0.5       float64; x0 = floor(sx), x1 = x0 + 1,
    fx = float32(sx - x0)                                         both clamped to the region; y likewise
    top = a + (b - a) * fx; bottom = c + (d - c) * fx; v = top + (bottom - top) * fy      float32, no fused operation
    DISPLAY: floor(v + 0.5); MODALITY: v

A float32 NaN comes out as 0x7fc00000. Why float64: ``docs/decisions/0002-float64-display.md``.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kernels import Codestream, Decoded, RenderJob
from kernels.check import Record, read, read_source, reads_table
from kernels.line import BLOCK, Field, Line, fit
from kernels.packing import Packed, unpacked
from kernels.params import FRAME_PARAMS, SAMPLE_FORMATS, Colour, Curve, SampleFormat, Stage

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

MILLION = 1_000_000
YBR_MATRIX: dict[int, tuple[int, int, tuple[tuple[int, int], ...]]] = {
    # Factor of Y, what is taken from Y first, and the factors of (Cb - 128, Cr - 128) for R, G, B; in millionths.
    # PS3.3 C.7.6.3.1.2. YBR_PARTIAL inverts its matrix: Y of 16..235 and chroma of 16..240 span 0..255 (BT.601).
    Colour.YBR_FULL: (1_000_000, 0, ((0, 1_402_000), (-344_136, -714_136), (1_772_000, 0))),
    Colour.YBR_PARTIAL: (1_164_384, 16, ((0, 1_596_027), (-391_762, -812_968), (2_017_232, 0))),
}

TABLES = 64  # tables of greys kept; at most 256 KiB each


class CpuBackend:
    """The NumPy backend. Handles are the arrays themselves; nothing is copied by ``put``. Any threads may call."""

    name = "cpu"
    unpacks = False
    codec = ""
    download_ms = 0.0

    def __init__(self) -> None:
        self.description = f"NumPy {np.__version__}"
        self._tables: OrderedDict[tuple[object, ...], tuple[Array | Line, Array | None]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, frames: Sequence[Array | Packed]) -> list[object]:
        """See ``kernels.Backend.put``. Samples are kept as they are."""
        return [self._put(unpacked(frame)) for frame in frames]

    def _put(self, samples: Array) -> Array:
        if samples.dtype not in SAMPLE_FORMATS or not samples.flags.c_contiguous:
            raise ValueError("samples are C-contiguous, of a dtype in SAMPLE_FORMATS")
        return samples

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        """See ``kernels.Backend.decode``: nothing is decoded here."""
        return [None] * len(codestreams)

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        """See ``kernels.Backend.extents``."""
        return [self._extent(pixels, params) for pixels, params in frames]

    def _extent(self, pixels: object, params: np.void) -> tuple[float, float] | None:
        record = read_source(params)
        samples = _samples(pixels, record).reshape(-1)
        low, high = math.inf, -math.inf
        with np.errstate(invalid="ignore"):  # a signalling NaN
            for start in range(0, samples.size, BLOCK):
                stored = _stored(record, samples[start : start + BLOCK])
                padding = (stored >= record.pad_low) & (stored <= record.pad_high)
                kept = stored[~(padding | np.isnan(stored))]
                if kept.size:
                    low, high = min(low, float(kept.min())), max(high, float(kept.max()))
        return (low, high) if low <= high else None

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        """See ``kernels.Backend.launch``: rendered at once. An array that shows the samples unchanged is a read-only
        view of them."""
        with np.errstate(all="ignore"):
            return [self._render(job) for job in jobs]

    def collect(self, ticket: object) -> list[Array]:
        """See ``kernels.Backend.collect``."""
        return cast(list[Array], ticket)

    def trim(self) -> None:
        """Nothing is kept back."""

    def memory(self) -> None:
        """None: the host's memory is used."""

    def close(self) -> None:
        """Forget the tables."""
        with self._lock:
            self._tables.clear()

    def _render(self, job: RenderJob) -> Array:
        record = read(job)
        samples = _samples(job.pixels, record)
        if record.stage == Stage.STORED:
            return _render_stored(record, samples)
        curve = self._curve(job, record)
        if not record.scaled:
            y, x = record.region_y, record.region_x
            return curve(samples[y : y + record.region_height, x : x + record.region_width])
        values = _bilinear(record, samples, curve)
        return _canonical(values) if record.stage == Stage.MODALITY else values

    def _curve(self, job: RenderJob, record: Record) -> Callable[[Array], Array]:
        """What turns containers, (h, w) or (h, w, 3), into values of the output's dtype before any scaling."""
        if record.sample_dtype.itemsize <= 2:
            table = self._table(job, record)
            if record.colour in YBR_MATRIX and record.stage == Stage.DISPLAY:
                return lambda samples: _rgb_from_ybr(record.colour, _look_up(cast(Array, table), samples))
            if table is None:
                return _frozen
            return table if isinstance(table, Line) else lambda samples: _look_up(table, samples)
        return lambda samples: _in_blocks(record, samples, job.table)

    def _table(self, job: RenderJob, record: Record) -> Array | Line | None:
        """The formula for each of the 256 or 65,536 containers that exist, or a line that says the same; None where it
        changes nothing."""
        if (
            record.stage == Stage.DISPLAY
            and record.samples == 3
            and record.bits == 8 == record.sample_dtype.itemsize * 8
        ):
            return None
        key = _table_key(job, record)
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key][0]
        table = _by_sample(record, job.table)
        with self._lock:
            self._tables[key] = table, job.table
            if len(self._tables) > TABLES:
                self._tables.popitem(last=False)
        return table


def _samples(pixels: object, r: Record) -> Array:
    """The handle as (rows, columns), or (rows, columns, 3) whatever the planar configuration."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != r.sample_dtype:
        raise ValueError("the samples are not of the record's format")
    if pixels.size != r.rows * r.columns * r.samples:
        raise ValueError("the samples are not of the record's size")
    if r.samples == 1:
        return pixels.reshape(r.rows, r.columns)
    if r.planar:
        return np.moveaxis(pixels.reshape(r.samples, r.rows, r.columns), 0, -1)
    return pixels.reshape(r.rows, r.columns, r.samples)


def _unsigned(samples: Array) -> Array:
    return samples.view(f"<u{samples.dtype.itemsize}")


def _field(r: Record, samples: Array) -> Array:
    """Integer containers, shifted, masked and sign-extended within the container's width, as unsigned bits."""
    bits = (_unsigned(samples) >> r.shift) & ((1 << r.bits) - 1)
    if r.signed:
        sign = 1 << (r.bits - 1)
        bits = (bits ^ sign) - sign
    return bits


def _stored(r: Record, samples: Array) -> Floats:
    """Stored values in float64, which holds all of them exactly."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    kind = "i" if r.signed else "u"
    return _field(r, samples).view(f"<{kind}{samples.dtype.itemsize}").astype(np.float64)


def _render_stored(r: Record, samples: Array) -> Array:
    y, x = r.region_y, r.region_x
    region = samples[y : y + r.region_height, x : x + r.region_width]
    if samples.dtype.kind != "f" and r.bits < samples.dtype.itemsize * 8:
        region = _field(r, region)
    return _frozen(region.view(r.output_dtype))


def _frozen(samples: Array) -> Array:
    """C order; without a copy where it is already so, and then read-only, for it is the cached frame itself."""
    if samples.flags.c_contiguous:
        result = samples[:]
    else:
        result = np.empty(samples.shape, samples.dtype)
        for c in np.ndindex(samples.shape[2:]):  # NumPy copies planes several times faster one by one
            result[:, :, *c] = samples[:, :, *c]
    result.flags.writeable = False
    return result


# The formula, from stored values in float64.


def _modality(r: Record, stored: Floats) -> Floats:
    return stored * r.slope + r.intercept


def _index(r: Record, stored: Floats) -> npt.NDArray[np.intp]:
    return np.clip(stored - r.table_first, 0, r.table_length - 1).astype(np.intp)


def _grey(r: Record, stored: Floats, table: Array | None) -> npt.NDArray[np.uint8]:
    if table is not None and r.curve == Curve.TABLE:
        grey = table[_index(r, stored)].astype(np.uint8, copy=False)
    elif table is not None and r.curve == Curve.THRESHOLDS:
        m = _modality(r, stored)
        grey = np.searchsorted(table, m, side="right").astype(np.uint8)
        grey[np.isnan(m)] = 0
    else:
        grey = grey_of_ratio(r, stored)
    if r.invert:
        np.subtract(255, grey, out=grey)
    grey[(stored >= r.pad_low) & (stored <= r.pad_high)] = 0
    return grey


def grey_of_ratio(r: Record, stored: Floats) -> npt.NDArray[np.uint8]:
    """Grey values of stored values, any shape, by Curve.RATIO; before inversion and padding."""
    t = _modality(r, stored)
    t -= r.lower
    t *= 255.0
    t /= np.float64(r.span)
    np.minimum(t, 255.0, out=t)
    np.fmax(t, -0.5, out=t)  # NaN becomes the other operand: 0 after the next line
    t += 0.5
    return t.astype(np.uint8)


def _to_8_bit(r: Record, stored: Floats) -> npt.NDArray[np.uint8]:
    if r.bits == 8:
        return stored.astype(np.uint8)
    return (stored * 255.0 / ((1 << r.bits) - 1) + 0.5).astype(np.uint8)


def _modality_output(r: Record, stored: Floats, table: Array | None) -> Array:
    if table is not None and r.curve == Curve.TABLE:
        m = table[_index(r, stored)].astype(np.float64)
    else:
        m = _modality(r, stored)
    if r.output_format == SampleFormat.F32:
        return _canonical(m.astype(np.float32))
    return np.where(np.isnan(m), 0, np.clip(m, -32768, 32767)).astype(np.int16)


def _values(r: Record, stored: Floats, table: Array | None) -> Array:
    """Output values, one or three (PALETTE) for each stored value; YBR is still YBR."""
    if r.stage == Stage.MODALITY:
        return _modality_output(r, stored, table)
    if r.colour == Colour.GREY:
        return _grey(r, stored, table)
    if r.colour == Colour.PALETTE and table is not None:
        return table[_index(r, stored)]
    return _to_8_bit(r, stored)


def _canonical(values: Array) -> Array:
    """float32 with one kind of NaN."""
    values[np.isnan(values)] = np.float32(np.nan)
    return values


def _rgb_from_ybr(colour: int, ybr: Array) -> Array:
    """uint8 (..., 3) to uint8 (..., 3). Whole millionths: the real formula rounded half up, by construction."""
    factor, black, rows = YBR_MATRIX[colour]
    rgb = np.empty(ybr.shape, np.uint8)
    flat, out = ybr.reshape(-1, 3), rgb.reshape(-1, 3)
    for start in range(0, len(flat), BLOCK):
        y, cb, cr = (flat[start : start + BLOCK, c].astype(np.int32) for c in range(3))
        y = (y - black) * factor + MILLION // 2
        for c, (of_cb, of_cr) in enumerate(rows):
            value = y + (cb - 128) * of_cb + (cr - 128) * of_cr
            out[start : start + BLOCK, c] = np.clip(value // MILLION, 0, 255)
    return rgb


# Wide samples: the formula, block by block.


def _in_blocks(r: Record, samples: Array, table: Array | None) -> Array:
    shape = (*samples.shape[:2], r.output_samples)
    out = np.empty(shape if r.output_samples == 3 else shape[:2], r.output_dtype)
    step = max(1, BLOCK // samples.shape[1])
    for y in range(0, len(samples), step):
        values = _values(r, _stored(r, samples[y : y + step]), table)
        out[y : y + step] = _rgb_from_ybr(r.colour, values) if values.ndim == 3 and r.colour in YBR_MATRIX else values
    return out


# Samples of 8 and 16 bit: the formula once for every container that exists.

_OFFSET = {name: FRAME_PARAMS.fields[name][1] for name in FRAME_PARAMS.names or ()} if FRAME_PARAMS.fields else {}


def _table_key(job: RenderJob, r: Record) -> tuple[object, ...]:
    """All a table depends on. Bytes, not numbers: NaN is no key. A table that cannot change is known by its identity
    (the cache holds it, so its id is not given away again), any other by its bytes."""
    record = job.params.tobytes()
    key = record[_OFFSET["slope"] : _OFFSET["rows"]] + record[_OFFSET["sample_format"] : _OFFSET["region_x"]]
    key += record[_OFFSET["stage"] :]
    if job.table is None or not reads_table(r):
        return (key,)
    return key, job.table.tobytes() if job.table.flags.writeable else id(job.table)


def _look_up(table: Array | None, samples: Array) -> Array:
    """Block by block: NumPy makes an index of 8 bytes of each sample."""
    if table is None:
        return samples
    values = np.empty((*samples.shape, *table.shape[1:]), table.dtype)
    step = max(1, BLOCK // max(1, math.prod(samples.shape[1:])))
    for y in range(0, len(samples), step):
        table.take(_unsigned(samples[y : y + step]), axis=0, mode="clip", out=values[y : y + step])
    return values


def _by_sample(r: Record, table: Array | None) -> Array | Line:
    low, part = _part(r, table)
    line = _line(r, low, part) if r.curve == Curve.RATIO and r.sample_dtype.itemsize == 2 else None
    return line or _by_container(r, _by_stored(r, low, part))


def _limits(r: Record) -> tuple[int, int]:
    """Lowest and highest stored value that ``bits`` and ``signed`` allow."""
    first = -(1 << (r.bits - 1)) if r.signed else 0
    return first, first + (1 << r.bits) - 1


def _part(r: Record, table: Array | None) -> tuple[int, Array]:
    """Output values, padding apart, from a stored value on; all lower ones are as the first, all higher as the last."""
    first, last = _limits(r)
    bare = r._replace(pad_low=math.nan, pad_high=math.nan)
    low, high = _changing(r, table, first, last)
    part = _values(bare, np.arange(low, high + 1, dtype=np.float64), table)
    if r.curve != Curve.TABLE and not _ends_saturated(r, part, low == first, high == last):
        return first, _values(bare, np.arange(first, last + 1, dtype=np.float64), table)
    return low, part


def _padding(r: Record) -> tuple[int, int] | None:
    """Inclusive range of the stored values that are shown as background; None where no value is."""
    if r.stage != Stage.DISPLAY or r.colour != Colour.GREY or not r.pad_low <= r.pad_high:
        return None
    first, last = _limits(r)
    low, high = max(r.pad_low, first), min(r.pad_high, last)
    return (math.ceil(low), math.floor(high)) if low <= high else None


def _line(r: Record, low: int, part: Array) -> Line | None:
    """A line that says what a table would; None where there is none."""
    if r.stage != Stage.DISPLAY or r.colour != Colour.GREY or not r.span:
        return None
    padding = _padding(r)
    if padding is not None:  # black anyway, or a line cannot say it
        places = np.clip((padding[0] - low, padding[1] - low), 0, len(part) - 1)
        if part[places[0] : places[1] + 1].any():
            return None
    gain, offset = 255 * r.slope / r.span, 255 * (r.intercept - r.lower) / r.span + 0.5
    return fit(
        Field(r.shift, r.bits, bool(r.signed)), low, part, *((-gain, 256 - offset) if r.invert else (gain, offset))
    )


def _by_stored(r: Record, low: int, part: Array) -> Array:
    """Output values for all stored values that ``bits`` and ``signed`` allow, in ascending order."""
    first, last = _limits(r)
    end = low + len(part) - first
    values = np.empty((last - first + 1, *part.shape[1:]), part.dtype)
    values[: low - first] = part[0]
    values[low - first : end] = part
    values[end:] = part[-1]
    padding = _padding(r)
    if padding is not None:
        values[padding[0] - first : padding[1] + 1 - first] = 0
    return values


def _changing(r: Record, table: Array | None, first: int, last: int) -> tuple[int, int]:
    """Inclusive range of stored values, within first..last, below and above which output values should not change."""
    grey = r.stage == Stage.DISPLAY and r.colour == Colour.GREY
    if table is not None and r.curve == Curve.TABLE:
        ends: tuple[float, float] = (r.table_first, r.table_first + r.table_length - 1)
    elif grey and r.slope:
        limits = (r.lower, r.lower + r.span) if table is None else (float(table.min()), float(table.max()))
        ends = ((limits[0] - r.intercept) / r.slope, (limits[1] - r.intercept) / r.slope)
    else:
        return first, last
    if not all(map(math.isfinite, ends)):
        return first, last
    low, high = math.floor(min(ends)) - 2, math.ceil(max(ends)) + 2
    return min(max(low, first), last), max(min(high, last), first)


def _ends_saturated(r: Record, part: Array, whole_below: bool, whole_above: bool) -> bool:
    """Whether the greys at the ends of a part hold for all beyond them: every operation of the formula rises or falls
    with the stored value, so beyond the lowest grey on its low side, and the highest on the other, nothing changes."""
    if whole_below and whole_above:
        return True
    if not (math.isfinite(r.slope) and math.isfinite(r.intercept) and r.span >= 0):
        return False
    at_low = 0 if (r.slope > 0) != bool(r.invert) else 255
    return (whole_below or part[0] == at_low) and (whole_above or part[-1] == 255 - at_low)


def _by_container(r: Record, values: Array) -> Array:
    """Reorder values for ascending stored values to one for each container, whatever its other bits hold."""
    if r.signed:
        half = len(values) // 2
        values = np.concatenate((values[half:], values[:half]))
    above = 1 << (r.sample_dtype.itemsize * 8 - r.bits - r.shift)
    below = 1 << r.shift
    if above == below == 1:
        return values
    spread = np.broadcast_to(values[None, :, None], (above, len(values), below, *values.shape[1:]))
    return spread.reshape(-1, *values.shape[1:])


# Region and viewport.


def _axis(start: int, length: int, size: int) -> tuple[Array, Array, Array]:
    """For each of ``size`` output positions: both neighbours within a region of ``length`` (from 0), and the weight
    of the second, float32."""
    position = start + (np.arange(size) + 0.5) * length / size - 0.5
    low = np.floor(position)
    first = low.astype(np.intp) - start
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), (position - low).astype(np.float32)


def _needed(first: Array, second: Array, length: int) -> tuple[slice | Array, Array, Array]:
    """What to take of an axis, and the neighbours' places in it: all of it, unless far less is looked at."""
    if 2 * len(first) >= length:
        return slice(None), first, second
    places = np.arange(len(first))
    return np.concatenate((first, second)), places, places + len(first)


def _bilinear(r: Record, samples: Array, curve: Callable[[Array], Array]) -> Array:
    region = samples[r.region_y : r.region_y + r.region_height, r.region_x : r.region_x + r.region_width]
    x0, x1, fx = _axis(r.region_x, r.region_width, r.width)
    y0, y1, fy = _axis(r.region_y, r.region_height, r.height)
    rows, y0, y1 = _needed(y0, y1, r.region_height)
    columns, x0, x1 = _needed(x0, x1, r.region_width)
    values = curve(np.ascontiguousarray(region[rows][:, columns]))
    more = (1,) * (values.ndim - 2)
    # Each source row is interpolated in x once, however many output rows look at it.
    across = _between(values.take(x0, axis=1), values.take(x1, axis=1), fx.reshape(-1, *more))
    out = np.empty((r.height, r.width, *values.shape[2:]), r.output_dtype)
    step = max(1, BLOCK // r.width)
    for y in range(0, r.height, step):
        part = slice(y, y + step)
        value = _between(across[y0[part]], across[y1[part]], fy[part].reshape(-1, 1, *more))
        out[part] = value if r.stage == Stage.MODALITY else value + np.float32(0.5)
    return out


def _between(a: Array, b: Array, weight: Array) -> npt.NDArray[np.float32]:
    """a + (b - a) * weight in float32, each operation rounded."""
    start = a.astype(np.float32)
    result = b.astype(np.float32)
    result -= start
    result *= weight
    result += start
    return result
