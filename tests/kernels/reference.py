"""The formula once more, pixel by pixel and without tables or blocks, to check ``kernels/cpu.py`` against."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from kernels.params import SAMPLE_DTYPES, Colour, Curve, SampleFormat, Stage
from tests.kernels.cases import Array, Case

F32 = np.float32
F64 = np.float64


def render(c: Case) -> Array:
    """What a backend must return for one case."""
    p: dict[str, Any] = dict(zip(c.params.dtype.names or (), c.params.item(), strict=True))
    height, width, samples = p["height"], p["width"], p["output_samples"]
    out = np.empty((height, width, samples), SAMPLE_DTYPES[SampleFormat(p["output_format"])])
    with np.errstate(all="ignore"):
        for oy in range(height):
            for ox in range(width):
                out[oy, ox] = _pixel(c, p, ox, oy)
    if out.dtype == F32 and p["stage"] == Stage.MODALITY:
        out[np.isnan(out)] = np.nan
    return out[:, :, 0] if samples == 1 else out


def _pixel(c: Case, p: dict[str, Any], ox: int, oy: int) -> Any:
    if p["stage"] == Stage.STORED:
        return [_stored(c, p, p["region_x"] + ox, p["region_y"] + oy, k) for k in range(p["samples"])]
    value = _shown if p["stage"] == Stage.DISPLAY else _modality
    if (p["width"], p["height"]) == (p["region_width"], p["region_height"]):
        return value(c, p, p["region_x"] + ox, p["region_y"] + oy)
    x0, x1, fx = _place(ox, p["region_x"], p["region_width"], p["width"])
    y0, y1, fy = _place(oy, p["region_y"], p["region_height"], p["height"])
    corners = [np.atleast_1d(F32(value(c, p, x, y))) for y in (y0, y1) for x in (x0, x1)]
    top = corners[0] + (corners[1] - corners[0]) * fx
    bottom = corners[2] + (corners[3] - corners[2]) * fx
    result = top + (bottom - top) * fy
    return np.floor(result + F32(0.5)) if p["stage"] == Stage.DISPLAY else result


def _place(o: int, start: int, length: int, size: int) -> tuple[int, int, Any]:
    position = F64(start) + (F64(o) + 0.5) * F64(length) / F64(size) - 0.5
    low = math.floor(position)
    last = start + length - 1
    return min(max(low, start), last), min(max(low + 1, start), last), F32(position - low)


def _stored(c: Case, p: dict[str, Any], x: int, y: int, k: int = 0) -> Any:
    place = (y, x) if p["samples"] == 1 else (k, y, x) if p["planar"] else (y, x, k)
    raw = c.samples[place]
    if c.samples.dtype.kind == "f":
        return raw
    field = int.from_bytes(raw.tobytes(), "little") >> p["shift"] & (2 ** p["bits"] - 1)
    if p["signed"] and field >= 2 ** (p["bits"] - 1):
        field -= 2 ** p["bits"]
    if p["stage"] == Stage.STORED:  # as the output's dtype holds it
        return np.frombuffer(field.to_bytes(9, "little", signed=True), c.samples.dtype, 1)[0]
    return field


def _entry(c: Case, p: dict[str, Any], stored: Any) -> Any:
    assert c.table is not None
    return c.table[min(max(int(stored) - p["table_first"], 0), p["table_length"] - 1)]


def _rescaled(p: dict[str, Any], stored: Any) -> Any:
    return F64(p["slope"]) * F64(stored) + F64(p["intercept"])


def _modality(c: Case, p: dict[str, Any], x: int, y: int) -> Any:
    stored = _stored(c, p, x, y)
    m = F64(_entry(c, p, stored)) if p["curve"] == Curve.TABLE else _rescaled(p, stored)
    if p["output_format"] == SampleFormat.F32:
        return F32(m)
    return 0 if np.isnan(m) else int(min(max(m, -32768), 32767))


def _shown(c: Case, p: dict[str, Any], x: int, y: int) -> Any:
    if p["colour"] == Colour.GREY:
        return _grey(c, p, _stored(c, p, x, y))
    if p["colour"] == Colour.PALETTE:
        return _entry(c, p, _stored(c, p, x, y))
    three = [_eight_bit(p, _stored(c, p, x, y, k)) for k in range(3)]
    return three if p["colour"] == Colour.RGB else ybr(p["colour"], *three)


def _grey(c: Case, p: dict[str, Any], stored: Any) -> int:
    if p["curve"] == Curve.TABLE:
        grey = int(_entry(c, p, stored))
    elif p["curve"] == Curve.THRESHOLDS:
        assert c.table is not None
        grey = int(np.count_nonzero(c.table <= _rescaled(p, stored)))
    else:
        t = (_rescaled(p, stored) - F64(p["lower"])) * F64(255) / F64(p["span"])
        grey = 255 if t >= 255 else math.floor(t + 0.5) if t > 0 else 0
    if p["invert"]:
        grey = 255 - grey
    return 0 if p["pad_low"] <= F64(stored) <= p["pad_high"] else grey


def _eight_bit(p: dict[str, Any], stored: int) -> int:
    return stored if p["bits"] == 8 else math.floor(F64(stored) * 255 / F64(2 ** p["bits"] - 1) + 0.5)


def ybr(colour: int, y: int, cb: int, cr: int) -> list[int]:
    """PS3.3 C.7.6.3.1.2 in exact fractions, half up. YBR_PARTIAL: BT.601 with six decimals."""
    if colour == Colour.YBR_FULL:
        scaled = Fraction(y)
        factors = ("0", "1.402"), ("-0.344136", "-0.714136"), ("1.772", "0")
    else:
        scaled = Fraction("1.164384") * (y - 16)
        factors = ("0", "1.596027"), ("-0.391762", "-0.812968"), ("2.017232", "0")
    exact = [scaled + Fraction(b) * (cb - 128) + Fraction(r) * (cr - 128) for b, r in factors]
    return [min(max(math.floor(value + Fraction(1, 2)), 0), 255) for value in exact]
