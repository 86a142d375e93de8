"""The standard's formulas, value by value and in exact fractions: nothing here is shared with the code under test."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_HALF = Fraction(1, 2)


def _each(values: Array, grey: Callable[[float], int]) -> Array:
    """``grey`` of every value of ``values`` (any shape), uint8; computed once for equal values."""
    distinct, where = np.unique(values, return_inverse=True)
    greys = np.array([grey(value) for value in distinct.astype(np.float64).tolist()], np.uint8)
    shown: Array = greys[where].reshape(values.shape)
    return shown


def linear(values: Array, center: float, width: float) -> Array:
    """PS3.3 C.11.2.1.2.1, y from 0 to 255, halves rounded up."""
    c, w = Fraction(center), Fraction(width)

    def grey(value: float) -> int:
        x = Fraction(value)
        if x <= c - _HALF - (w - 1) / 2:
            return 0
        if x > c - _HALF + (w - 1) / 2:
            return 255
        return math.floor(((x - (c - _HALF)) / (w - 1) + _HALF) * 255 + _HALF)

    return _each(values, grey)


def linear_exact(values: Array, center: float, width: float) -> Array:
    """PS3.3 C.11.2.1.3.2."""
    c, w = Fraction(center), Fraction(width)

    def grey(value: float) -> int:
        x = Fraction(value)
        if x <= c - w / 2:
            return 0
        if x > c + w / 2:
            return 255
        return math.floor(((x - c) / w + _HALF) * 255 + _HALF)

    return _each(values, grey)


def sigmoid(values: Array, center: float, width: float) -> Array:
    """PS3.3 C.11.2.1.3.1."""

    def grey(value: float) -> int:
        exponent = -4 * (value - center) / width
        return math.floor(255 / (1 + math.exp(exponent)) + 0.5) if exponent < 700 else 0

    return _each(values, grey)


WINDOWS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def whole_range(values: Array, kept: Array | None = None) -> Array:
    """Lowest to highest value (of those ``kept``) as 0 to 255: what is shown where a file has no window."""
    counted = values if kept is None else values[kept]
    low, high = float(counted.min()), float(counted.max())
    return linear_exact(np.clip(values.astype(np.float64), low, high), (low + high) / 2, high - low)


def table(entries: list[int], first: int, values: Array) -> Array:
    """Entry for every value; values beside the table take its first or last entry (PS3.3 C.11.1.1.1)."""
    found: Array = np.array([entries[min(max(int(v) - first, 0), len(entries) - 1)] for v in values.flat])
    return found.reshape(values.shape)


def bytes_of(entries: Array, bits: int) -> Array:
    """Entries of ``bits`` bits as 0 to 255, halves rounded up."""
    top = (1 << bits) - 1
    scaled: Array = np.vectorize(lambda e: math.floor(Fraction(int(e) * 255, top) + _HALF))(entries).astype(np.uint8)
    return scaled


def rgb_of_full(ybr: Array) -> Array:
    """RGB of YBR_FULL: the matrix of PS3.3 C.7.6.3.1.2 solved, rounded, clipped; (..., 3) uint8."""
    y, cb, cr = (ybr[..., n].astype(np.float64) - (128 if n else 0) for n in range(3))
    return _rounded(y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)


def rgb_of_partial(ybr: Array) -> Array:
    """RGB of YBR_PARTIAL: black at 16, white at 235, chroma 16 to 240 (PS3.3 C.7.6.3.1.2)."""
    y, cb, cr = (ybr[..., n].astype(np.float64) - (128 if n else 16) for n in range(3))
    y, cb, cr = y * 255 / 219, cb * 255 / 224, cr * 255 / 224
    return _rounded(y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)


def _rounded(*planes: Array) -> Array:
    shown: Array = np.clip(np.floor(np.stack(planes, axis=-1) + 0.5), 0, 255).astype(np.uint8)
    return shown


def bilinear(values: Array, height: int, width: int) -> Array:
    """``values`` (rows, columns) at (height, width), pixel centers at .5, edges repeated; float64, not rounded."""
    rows, columns = values.shape
    out = np.empty((height, width))
    for i in range(height):
        y = min(max((i + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        y0 = min(int(y), max(rows - 2, 0))
        for j in range(width):
            x = min(max((j + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            x0 = min(int(x), max(columns - 2, 0))
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = float(values[y0, x0]) * (1 - x + x0) + float(values[y0, x1]) * (x - x0)
            bottom = float(values[y1, x0]) * (1 - x + x0) + float(values[y1, x1]) * (x - x0)
            out[i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out
