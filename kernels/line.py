"""Grey values of 16-bit containers by a line: a clamp, a product and a sum in float32, where these are exact.

A table over all containers is exact for everything, but NumPy needs twice as long to look a pixel up in one, and an
index of 8 bytes for each. A line is used only after every stored value between its ends has been tried.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK = 1 << 16  # pixels worked on at once: their float32 fit into a core's L2 cache

#: Added to the offset: a tie of the formula must not fall to the wrong side, whatever float32 makes of it.
BIASES = tuple(sign * 2.0**-exponent for exponent in (12, 17, 8) for sign in (1, -1))

#: Values that are tried in search of a line. With windows of tens of thousands of values float32 rarely suffices.
MOST_TRIED = 1 << 15


@dataclass(frozen=True, slots=True)
class Field:
    """Where the stored value lies in its container of 16 bits: ``bits`` from ``shift`` on, two's complement or not."""

    shift: int
    bits: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of stored values."""
        return np.dtype("<i2" if self.signed else "<u2")

    def of(self, samples: Array, out: Array) -> Array:
        """Stored values of containers; maybe the containers themselves."""
        stored: Array = samples.view(self.dtype)
        if self.bits == 16:
            return stored
        left = 16 - self.bits - self.shift
        if self.signed:
            np.right_shift(np.left_shift(stored, left, out=out), 16 - self.bits, out=out)
        elif self.shift:
            np.bitwise_and(np.right_shift(stored, self.shift, out=out), (1 << self.bits) - 1, out=out)
        else:
            np.bitwise_and(stored, (1 << self.bits) - 1, out=out)
        return out


@dataclass(frozen=True, slots=True)
class Line:
    """grey = trunc(clamp(stored, low, high) * gain + offset), float32; ``clips``: clamped to 0..255 before trunc."""

    field: Field
    low: int
    high: int
    gain: np.float32
    offset: np.float32
    clips: bool

    def __call__(self, samples: Array) -> npt.NDArray[np.uint8]:
        """Grey values of 16-bit containers, (rows, columns), in memory of their own."""
        rows, columns = samples.shape
        step = min(max(1, BLOCK // columns), rows)
        grey = np.empty((rows, columns), np.uint8)
        integers = np.empty((step, columns), self.field.dtype)
        floats = np.empty((step, columns), np.float32)
        low, high = (self.field.dtype.type(end) for end in (self.low, self.high))  # of NumPy: an int is looked at anew
        for y in range(0, rows, step):
            part, out = samples[y : y + step], grey[y : y + step]
            stored = self.field.of(part, integers[: len(part)])
            stored.clip(low, high, out=integers[: len(part)])
            self._grey(integers[: len(part)], floats[: len(part)], out)
        return grey

    def _grey(self, clamped: Array, floats: Array, out: Array) -> None:
        np.copyto(floats, clamped)
        np.multiply(floats, self.gain, out=floats)
        np.add(floats, self.offset, out=floats)
        if self.clips:
            floats.clip(0, 255, out=floats)
        np.copyto(out, floats, casting="unsafe")


def fit(field: Field, low: int, greys: npt.NDArray[np.uint8], gain: float, offset: float) -> Line | None:
    """The line near ``stored * gain + offset`` that gives ``greys`` for the stored values from ``low`` on, and keeps
    the first and last of them beyond; None where there is none."""
    first, last = _constant_ends(greys)
    stored = np.arange(low + first, low + last + 1).astype(field.dtype)
    wanted, floats, found = greys[first : last + 1], np.empty(len(stored), np.float32), np.empty(len(stored), np.uint8)
    for line in _lines(field, stored, gain, offset)[: max(1, MOST_TRIED // len(stored))]:
        line._grey(stored, floats, found)
        if np.array_equal(found, wanted):
            return line
    return None


def _constant_ends(greys: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Places of the last value that is as all before it, and of the first that is as all behind it."""
    changes = np.flatnonzero(greys[1:] != greys[:-1])
    return (int(changes[0]), int(changes[-1]) + 1) if changes.size else (0, 0)


def _lines(field: Field, stored: Array, gain: float, offset: float) -> list[Line]:
    low, high = int(stored[0]), int(stored[-1])
    ends = np.array((low, high), np.float32)
    found = []
    with np.errstate(all="ignore"):
        for bias in BIASES:
            line = Line(field, low, high, np.float32(gain), np.float32(offset + bias), clips=False)
            first, last = sorted((ends * line.gain + line.offset).tolist())  # all others lie between
            if first > -1 and last < 256:  # which trunc takes to 0 and to 255
                found.append(line)
            elif math.isfinite(first) and math.isfinite(last):
                found.append(replace(line, clips=True))
    return found
