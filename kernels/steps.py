"""Grey values of 16-bit samples by comparing integers: what the float64 formula of ``cpu.py`` gives, without float64.

Every operation of ``grey = f(stored)`` is monotone, and so is its rounding: grey is a staircase over the stored values.
Its 255 steps are looked up with the formula itself. A kernel then needs, for each pixel, an integer estimate that is
the grey or one less, and one comparison with the step above it::

    key      = the container's bits, rearranged so that keys rise with grey: ((container ^ flip) & mask) << 16
    estimate = clamp(((key * gain >> 32) + offset) >> fraction, 0, 255)
    grey     = estimate + (key >= above[estimate]); then 255 - grey if inverted; then 0 for keys of padding

``gain`` and ``offset`` are taken only after the estimate has been checked, exactly, at both ends of every step; it
rises with the key, so it is right in between.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.check import Record
from kernels.cpu import grey_of_ratio
from kernels.params import FRAME_PARAMS, STEPS, Colour, Curve, SampleFormat, Stage

Array = npt.NDArray[Any]

NONE = 0xFFFFFFFF
TABLES = 2048  # kept, 1 KiB each
LIMIT = 1e100  # of the formula's parameters: nothing overflows on the way
MAX_FRACTION = 15
_GREYS = np.arange(1, 256)
_AROUND = np.arange(-1, 3)
_NOTHING = Record(*np.zeros((), FRAME_PARAMS).item())


class _Keys(NamedTuple):
    """Stored values as numbers 0..total - 1 in the order of rising grey: stored = first + direction * number."""

    total: int
    first: int
    direction: int


def steps_for(record: Record) -> Array | None:
    """STEPS (shape (1,), read-only), to be uploaded as they are, aligned to 8, with their address in the record's
    ``steps``; the same object for records of the same formula. None where the record has none: ``steps`` stays 0."""
    r = record
    grey = r.stage == Stage.DISPLAY and r.colour == Colour.GREY and r.curve == Curve.RATIO
    whole = r.region_width == r.columns and not r.scaled
    sizes = abs(r.slope), abs(r.intercept), abs(r.lower), r.span
    possible = all(size < LIMIT for size in sizes) and abs(r.slope) > 1 / LIMIT and r.span > 1 / LIMIT
    if not (grey and whole and possible and r.sample_format in (SampleFormat.U16, SampleFormat.I16)):
        return None
    low, high = (r.pad_low, r.pad_high) if r.pad_low <= r.pad_high else (1.0, 0.0)  # no NaN: it is no key
    return _steps(
        _NOTHING._replace(
            **{name: getattr(r, name) for name in ("slope", "intercept", "lower", "span", "shift", "bits")},
            signed=int(r.signed != 0),
            invert=int(r.invert != 0),
            pad_low=low,
            pad_high=high,
        )
    )


@lru_cache(TABLES)
def _steps(r: Record) -> Array | None:
    keys = _keys(r)
    first = _first_of_each_grey(r, keys)
    if first is None:
        return None
    line = _line(r, np.concatenate(([0], first, [keys.total])) << r.shift)
    if line is None:
        return None
    steps = np.zeros(1, STEPS)
    steps["above"] = NONE
    reached = first < keys.total
    steps["above"][0, :255][reached] = first[reached] << (r.shift + 16)
    steps["gain"], steps["offset"], steps["fraction"] = line
    mask = ((1 << r.bits) - 1) << r.shift
    sign = 1 << (r.shift + r.bits - 1) if r.signed else 0
    steps["mask"] = mask * 0x10001
    steps["flip"] = (sign ^ (mask if keys.direction < 0 else 0)) * 0x10001
    steps["pad_first"], steps["pad_span"] = _padding(r, keys)
    steps["invert"] = NONE if r.invert else 0
    steps.flags.writeable = False
    return steps


def _keys(r: Record) -> _Keys:
    count = 1 << r.bits
    lowest = -count // 2 if r.signed else 0
    return _Keys(count, lowest, 1) if r.slope > 0 else _Keys(count, lowest + count - 1, -1)


def _first_of_each_grey(r: Record, keys: _Keys) -> Array | None:
    """For each grey from 1 to 255, the number of the first key that shows at least it; keys.total where none does.
    (255,), int64. The formula's inverse says where to look, the formula itself what is there."""
    stored = ((_GREYS - 0.5) * r.span / 255 + r.lower - r.intercept) / r.slope
    near = np.clip(np.floor((stored - keys.first) * keys.direction), 0, keys.total - 1).astype(np.int64)
    around = near[:, np.newaxis] + _AROUND
    below = grey_of_ratio(r, (keys.first + keys.direction * around).astype(np.float64)) < _GREYS[:, np.newaxis]
    first = around[:, 0] + below.sum(axis=1)
    found = (below[:, 0] | (first <= 0)) & (~below[:, -1] | (first >= keys.total))
    return first.clip(0, keys.total) if found.all() else None


def _line(r: Record, edges: Array) -> tuple[int, int, int] | None:
    """(gain, offset, fraction) of an estimate that is right or one too low for every key. ``edges``: the first key of
    grey 0, 1, ... 255, and the first that is none; (257,), keys without their 16 zero bits."""
    slope = 255 * abs(r.slope) / r.span / (1 << r.shift)  # greys per key
    fraction = min(14 - math.frexp(slope)[1], MAX_FRACTION)  # so that gain <= 2^30: the sums fit into an int
    if fraction < 1:
        return None
    gain = round(math.ldexp(slope, fraction + 16))
    grey = np.flatnonzero(edges[:-1] < edges[1:])
    at_first, at_last = edges[grey] * gain >> 16, (edges[grey + 1] - (1 << r.shift)) * gain >> 16
    # The clamp makes 0 of what is below 0, which is right for greys 0 and 1, and 255 of what is above.
    least = (((grey - 1) << fraction) - at_first)[grey >= 2]
    most = (((grey + 1) << fraction) - 1 - at_last)[grey <= 254]
    low, high = int(least.max(initial=-(2**40))), int(most.min(initial=2**40))
    if low > high:
        return None
    offset = high if low == -(2**40) else low if high == 2**40 else (low + high) // 2
    if not -(2**31) <= offset <= 2**31 - 1 - int(at_last.max()):
        return None
    return gain, offset, fraction


def _padding(r: Record, keys: _Keys) -> tuple[int, int]:
    """(first, span) of the keys of padding."""
    ends = keys.first, keys.first + keys.direction * (keys.total - 1)
    low, high = math.ceil(max(r.pad_low, min(ends))), math.floor(min(r.pad_high, max(ends)))
    if low > high:
        return NONE, 0
    first = (low - keys.first) if keys.direction > 0 else keys.first - high
    return first << (r.shift + 16), (high - low) << (r.shift + 16)
