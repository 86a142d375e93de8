"""Frames with records, as the tests of all backends use them: a constructor, named edge cases, and a strategy."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

import kernels
from kernels import Backend, RenderJob
from kernels.packing import Packed, Packing, check
from kernels.params import FRAME_PARAMS, SAMPLE_DTYPES, SAMPLE_FORMATS, Colour, Curve, SampleFormat, Stage

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Samples in host memory with what to do with them."""

    samples: Array
    params: np.void
    table: Array | None = None


def case(samples: Array, table: Array | None = None, /, **fields: float) -> Case:
    """A case whose record has these fields; the rest follows from the samples: (rows, columns[, 3]), or with
    planar=1 (3, rows, columns); the whole frame in its own size; display of grey values."""
    shape = samples.shape if samples.ndim == 2 else samples.shape[1:] if fields.get("planar") else samples.shape[:2]
    rows, columns = shape
    count = 1 if samples.ndim == 2 else 3
    record = np.zeros((), FRAME_PARAMS)
    code = SAMPLE_FORMATS[samples.dtype]
    defaults: dict[str, float] = {
        "slope": 1,
        "span": 255,
        "pad_low": np.nan,
        "pad_high": np.nan,
        "rows": rows,
        "columns": columns,
        "samples": count,
        "sample_format": code,
        "bits": samples.dtype.itemsize * 8,
        "signed": samples.dtype.kind == "i",
        "region_width": columns,
        "region_height": rows,
        "stage": Stage.DISPLAY,
        "colour": Colour.GREY if count == 1 else Colour.RGB,
        "table_length": 0 if table is None else len(table),
    } | fields
    defaults.setdefault("width", defaults["region_width"])
    defaults.setdefault("height", defaults["region_height"])
    stage, colour = defaults["stage"], defaults["colour"]
    output = {Stage.STORED: code, Stage.MODALITY: SampleFormat.F32, Stage.DISPLAY: SampleFormat.U8}[Stage(int(stage))]
    defaults.setdefault("output_format", output)
    three = count == 3 or (stage == Stage.DISPLAY and colour == Colour.PALETTE)
    defaults.setdefault("output_samples", 3 if three else 1)
    for name, value in defaults.items():
        record[name] = value
    return Case(samples, cast(np.void, record[()]), table)


def render(backend: Backend, cases: list[Case]) -> list[Array]:
    """All cases as one batch."""
    handles = backend.put([c.samples for c in cases])
    jobs = [RenderJob(pixels, c.params, c.table) for pixels, c in zip(handles, cases, strict=True)]
    return kernels.render(backend, jobs)


def ramp(dtype: str, rows: int = 16, columns: int = 17) -> Array:
    """Samples of all magnitudes, the container's ends, and for floats its oddities, first."""
    kind: np.dtype[Any] = np.dtype(dtype)
    rng = np.random.default_rng(rows * 1000 + columns)
    raw = rng.integers(0, 256, rows * columns * kind.itemsize, np.uint8).view(kind)
    if kind.kind == "f":
        tiny = np.finfo(kind).smallest_subnormal
        odd = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, np.finfo(kind).max, np.finfo(kind).min]
        near: Array = rng.normal(0, 300, raw.size // 2)
        raw[: raw.size // 2] = near[: raw.size // 2]
    else:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        odd = [low, low + 1, high, high - 1, 0, 1, high // 2, high // 2 + 1]
        near = rng.integers(max(low, -200), min(high, 500), raw.size // 2)
        raw[raw.size - raw.size // 2 :] = near
    count = min(len(odd), raw.size)
    raw[:count] = np.array(odd[:count]).astype(kind)
    return raw.reshape(rows, columns)


DTYPES = [str(dtype.str) for dtype in SAMPLE_DTYPES.values()]
_RNG = np.random.default_rng(7)
THRESHOLDS = np.sort(_RNG.normal(40, 300, 255))
GREYS = _RNG.integers(0, 256, 300, np.uint8)
PALETTE = _RNG.integers(0, 256, (256, 3), np.uint8)
MODALITIES = _RNG.normal(0, 1000, 300).astype("<f4")
MODALITIES[:3] = np.nan, np.inf, 1e-45
COLOURS = _RNG.integers(0, 256, (11, 13, 3), np.uint8)


def _windows(dtype: str) -> dict[str, Case]:
    samples = ramp(dtype)
    sides = {"width": 31, "height": 9}
    return {
        "window": case(samples, slope=1, intercept=-24, lower=-160, span=400),
        "ties": case(samples, lower=-160, span=400),
        "width 1": case(samples, lower=99.5, span=0),
        "tiny window": case(samples, slope=1e-5, intercept=1e-7, lower=1e-4, span=3e-5),
        "falling": case(samples, slope=-2.5, intercept=1000, lower=0, span=1600),
        "slope 0": case(samples, slope=0, intercept=7, lower=0, span=10),
        "huge": case(samples, slope=1e300, intercept=-1e300, lower=1e308, span=1e308),
        "endless": case(samples, slope=np.inf, intercept=-np.inf, lower=0, span=np.nan),
        "inverted": case(samples, lower=-160, span=400, invert=1),
        "padding": case(samples, lower=-160, span=400, invert=1, pad_low=0, pad_high=20.5),
        "padding below all": case(samples, lower=-160, span=400, pad_low=-np.inf, pad_high=-1e9),
        "all padding": case(samples, lower=-160, span=400, invert=1, pad_low=-np.inf, pad_high=np.inf),
        "thresholds": case(samples, THRESHOLDS, curve=Curve.THRESHOLDS, slope=1.5, intercept=-3),
        "thresholds falling": case(samples, THRESHOLDS, curve=Curve.THRESHOLDS, slope=-0.5, invert=1),
        "thresholds equal": case(samples, np.full(255, 3.0), curve=Curve.THRESHOLDS),
        "region": case(samples, lower=-160, span=400, region_x=3, region_y=5, region_width=7, region_height=2),
        "up": case(samples, lower=-160, span=400, width=40, height=41),
        "down": case(samples, lower=-160, span=400, width=3, height=4, invert=1, pad_low=0, pad_high=5),
        "one pixel": case(samples, lower=-160, span=400, region_x=16, region_width=1, region_height=1, **sides),
        "to one pixel": case(samples, lower=-160, span=400, width=1, height=1),
        "modality": case(samples, stage=Stage.MODALITY, slope=0.1, intercept=-1024.3),
        "modality region": case(samples, stage=Stage.MODALITY, slope=3, region_x=1, region_width=9, region_height=3),
        "modality up": case(samples, stage=Stage.MODALITY, slope=0.1, intercept=-7, **sides),
        "modality denormal": case(samples, stage=Stage.MODALITY, slope=1e-44, **sides),
        "modality overflow": case(samples, stage=Stage.MODALITY, slope=1e36, **sides),
        "modality int16": case(samples, stage=Stage.MODALITY, intercept=-1024, output_format=SampleFormat.I16),
        "stored": case(samples, stage=Stage.STORED),
        "stored region": case(samples, stage=Stage.STORED, region_x=2, region_y=3, region_width=5, region_height=4),
    }


def _tables(dtype: str) -> dict[str, Case]:
    samples = ramp(dtype)
    return {
        "table": case(samples, GREYS, curve=Curve.TABLE, table_first=-50, invert=1, pad_low=3, pad_high=9),
        "table of one": case(samples, GREYS[:1], curve=Curve.TABLE, table_first=5),
        "table far off": case(samples, GREYS, curve=Curve.TABLE, table_first=2**31 - 1),
        "table far below": case(samples, GREYS, curve=Curve.TABLE, table_first=-(2**31), width=5),
        "palette": case(samples, PALETTE, curve=Curve.TABLE, colour=Colour.PALETTE, table_first=-3),
        "palette up": case(samples, PALETTE, curve=Curve.TABLE, colour=Colour.PALETTE, width=29, height=50),
        "modality table": case(samples, MODALITIES, stage=Stage.MODALITY, curve=Curve.TABLE, table_first=-5),
        "modality table down": case(samples, MODALITIES, stage=Stage.MODALITY, curve=Curve.TABLE, width=4, height=3),
        "modality table int16": case(
            samples, MODALITIES, stage=Stage.MODALITY, curve=Curve.TABLE, output_format=SampleFormat.I16
        ),
    }


def _fields(dtype: str) -> dict[str, Case]:
    samples, size = ramp(dtype), np.dtype(dtype).itemsize * 8
    cases = {}
    for bits, shift in ((size - 4, 0), (size - 4, 4), (size - 6, 3), (1, 0), (1, size - 1), (2, 1)):
        for signed in (0, 1):
            name = f"{bits} bits at {shift}, {'signed' if signed else 'unsigned'}"
            at: dict[str, float] = {"bits": bits, "shift": shift, "signed": signed}
            cases[name] = case(samples, lower=-100, span=777, **at)
            cases[name + " stored"] = case(samples, stage=Stage.STORED, **at)
            cases[name + " modality"] = case(samples, stage=Stage.MODALITY, slope=0.5, **at)
            cases[name + " table"] = case(samples, GREYS, curve=Curve.TABLE, table_first=-9, **at)
    return cases


def _colours() -> dict[str, Case]:
    planes = np.ascontiguousarray(np.moveaxis(COLOURS, -1, 0))
    wide = np.random.default_rng(3).integers(0, 65536, (9, 14, 3), np.uint16)
    cases = {}
    for colour in (Colour.RGB, Colour.YBR_FULL, Colour.YBR_PARTIAL):
        name = colour.name
        cases[name] = case(COLOURS, colour=colour)
        cases[name + " planes"] = case(planes, planar=1, colour=colour)
        cases[name + " region"] = case(COLOURS, colour=colour, region_x=1, region_y=2, region_width=5, region_height=6)
        cases[name + " up"] = case(planes, planar=1, colour=colour, width=27, height=30)
        cases[name + " down"] = case(COLOURS, colour=colour, width=4, height=2)
        for bits, shift in ((16, 0), (12, 0), (10, 6), (8, 8)):
            cases[f"{name} {bits} bits at {shift}"] = case(wide, colour=colour, bits=bits, shift=shift)
        cases[name + " 32 bits"] = case(wide.astype("<u4") * 65537, colour=colour)
        cases[name + " 7 bits"] = case(COLOURS, colour=colour, bits=7, width=5)
    cases["stored planes"] = case(planes, planar=1, stage=Stage.STORED)
    cases["stored 5 bits of planes"] = case(planes, planar=1, stage=Stage.STORED, bits=5, shift=2)
    return cases


EDGES: dict[str, Case] = {f"{dtype[1:]} {name}": c for dtype in DTYPES for name, c in _windows(dtype).items()}
for _dtype in DTYPES[:6]:
    EDGES |= {f"{_dtype[1:]} {name}": c for name, c in (_tables(_dtype) | _fields(_dtype)).items()}
EDGES |= _colours()
# Whole rows of an odd number of pixels at every alignment: the vectorised path and its remainder.
for _size in ((1, 1), (1, 7), (1, 8), (3, 8), (5, 16), (7, 13), (64, 65)):
    for _dtype in DTYPES[:4]:
        _samples = ramp(_dtype, *_size)
        EDGES[f"{_dtype[1:]} of {_size}"] = case(_samples, lower=-100, span=300)
        if _size[0] > 1:
            EDGES[f"{_dtype[1:]} of {_size} from row 1"] = case(
                _samples, lower=-100, span=300, region_y=1, region_height=_size[0] - 1
            )


def _large() -> dict[str, Case]:
    """Whole rows with enough pixels for every loop over vectors to go round, and a remainder; from the first row, and
    from rows that begin at other alignments."""
    rng, cases = np.random.default_rng(5), {}
    for columns in (64, 65):
        rgb = rng.integers(0, 256, (65, columns, 3), np.uint8)
        grey = {dtype: ramp(dtype, 65, columns) for dtype in ("u1", "i1", "<u2", "<i2")}
        long = rng.integers(0, 256, (20000, 3), np.uint8)
        for y in (0, 1, 3):
            rows: dict[str, float] = {"region_y": y, "region_height": 65 - y}
            at = f"{columns} columns from row {y}"
            for colour in (Colour.RGB, Colour.YBR_FULL, Colour.YBR_PARTIAL):
                cases[f"{colour.name} {at}"] = case(rgb, colour=colour, **rows)
            cases[f"stored colour {at}"] = case(rgb, stage=Stage.STORED, **rows)
            cases[f"stored 16-bit colour {at}"] = case(rgb.astype("<u2") * 257, stage=Stage.STORED, bits=10, **rows)
            for dtype, samples in grey.items():
                table: dict[str, float] = {"curve": Curve.TABLE, "table_first": -7, **rows}
                padded: dict[str, float] = {"pad_low": -3.5, "pad_high": 60.5, "invert": 1}
                name = f"{dtype} {at}"
                cases[f"window {name}"] = case(samples, lower=-60, span=400, **rows)
                cases[f"padded {name}"] = case(samples, lower=-60, span=400, **rows, **padded)
                cases[f"falling {name}"] = case(samples, slope=-0.3, lower=-160, span=400, **rows, **padded)
                cases[f"thresholds {name}"] = case(samples, THRESHOLDS, curve=Curve.THRESHOLDS, **rows)
                cases[f"table {name}"] = case(samples, GREYS, **table, **padded)
                cases[f"long table {name}"] = case(samples, np.ascontiguousarray(long[:, 0]), **table)
                cases[f"palette {name}"] = case(samples, PALETTE, colour=Colour.PALETTE, **table)
                cases[f"long palette {name}"] = case(samples, long, colour=Colour.PALETTE, **table)
                cases[f"stored {name}"] = case(samples, stage=Stage.STORED, **rows)
                for signed in (0, 1):
                    bits = samples.dtype.itemsize * 8 - 4
                    some: dict[str, float] = {"bits": bits, "shift": 3, "signed": signed}
                    cases[f"stored {bits} bits {signed} {name}"] = case(samples, stage=Stage.STORED, **rows, **some)
                    cases[f"{bits} bits {signed} {name}"] = case(samples, lower=-60, span=400, **rows, **some, **padded)
                    cases[f"table of {bits} bits {signed} {name}"] = case(samples, GREYS, **table, **some)
    return cases


LARGE = _large()


def _packed() -> dict[str, Packed]:
    rng, frames = np.random.default_rng(11), {}
    for rows, columns in ((1, 1), (1, 7), (3, 5), (5, 8), (9, 14), (64, 66)):
        for packing in Packing:
            for samples in (1, 3):
                for dtype in ("u1", "i1", "<u2", "<i2", "<u4", "<f8"):
                    size = np.dtype(dtype).itemsize
                    count = rows * columns * samples * size
                    if packing == Packing.BITS:
                        count = (rows * columns * samples + 7) // 8
                    elif packing == Packing.CHROMA_422:
                        count = 2 * rows * columns * size
                    shape = (rows, columns) if samples == 1 else (rows, columns, 3)
                    frame = Packed(rng.integers(0, 256, count, np.uint8), packing, shape, np.dtype(dtype))
                    if is_possible(frame):
                        frames[f"{packing.name} {dtype} {shape}"] = frame
    return frames


def is_possible(frame: Packed) -> bool:
    """Whether packing, shape and dtype agree."""
    try:
        check(frame)
    except ValueError:
        return False
    return True


PACKED = _packed()

_NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 255.0, 400.0, -1024.0, 1e-9, 1e30, np.inf, -np.inf, np.nan]),
    st.floats(-3000, 3000),
    st.integers(-2000, 2000).map(float),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any record that the checks let through, with samples full of edge values."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    samples = ramp(draw(st.sampled_from(DTYPES)), rows, columns)
    fields: dict[str, float] = {"stage": draw(st.sampled_from(list(Stage)))}
    for name in ("slope", "intercept", "lower", "pad_low", "pad_high"):
        fields[name] = draw(_NUMBERS)
    fields["span"] = draw(_NUMBERS.map(abs))
    for start, length, whole in (("region_x", "region_width", columns), ("region_y", "region_height", rows)):
        fields[start] = draw(st.integers(0, whole - 1))
        fields[length] = draw(st.integers(1, whole - int(fields[start])))
    if fields["stage"] != Stage.STORED and draw(st.booleans()):
        fields["width"], fields["height"] = draw(st.integers(1, 25)), draw(st.integers(1, 25))
    fields["invert"] = draw(st.integers(0, 1))
    if samples.dtype.kind == "f":
        return case(samples, **fields)
    size = samples.dtype.itemsize * 8
    fields["bits"] = draw(st.integers(1, size))
    fields["shift"] = draw(st.integers(0, size - int(fields["bits"])))
    fields["signed"] = draw(st.integers(0, 1))
    return _with_table(draw, samples, fields)


def _with_table(draw: st.DrawFn, samples: Array, fields: dict[str, float]) -> Case:
    curve = draw(st.sampled_from(list(Curve)))
    if fields["stage"] == Stage.STORED or curve == Curve.RATIO:
        return case(samples, **fields)
    if curve == Curve.THRESHOLDS:
        if fields["stage"] == Stage.MODALITY:
            return case(samples, **fields)
        values = draw(st.lists(_NUMBERS.filter(lambda v: v == v), min_size=1, max_size=6))
        return case(samples, np.sort(np.resize(values, 255)), **fields, curve=curve)
    fields["table_first"] = draw(st.integers(-300, 300))
    length = draw(st.integers(1, 256))
    if fields["stage"] == Stage.MODALITY:
        return case(samples, MODALITIES[:length], **fields, curve=curve)
    if draw(st.booleans()):
        return case(samples, PALETTE[:length], **fields, curve=curve, colour=Colour.PALETTE)
    return case(samples, GREYS[:length], **fields, curve=curve)
