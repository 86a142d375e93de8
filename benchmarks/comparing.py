"""Two samples beside each other: the ratio of their medians, and how sure it is."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.record import Ratio

RESAMPLES = 2000
LEVEL = 95.0
"""Percent of resamples that lie within an interval."""


def interval(
    above: Sequence[float], below: Sequence[float], resamples: int = RESAMPLES, seed: int = 1
) -> tuple[float, float, float]:
    """(ratio of the medians, and its LEVEL % bootstrap interval) of two independent samples.

    Both samples are drawn anew with replacement, so that the interval holds what either does not know. Percentiles of
    the resampled ratios; the seed is fixed, so that the same samples always say the same. Raises ValueError where a
    sample is empty or a median below the line is not positive.
    """
    a, b = np.asarray(above, float), np.asarray(below, float)
    if not a.size or not b.size:
        raise ValueError("no values to compare")
    if np.median(b) <= 0:
        raise ValueError("what is compared with has to be positive")
    random = np.random.default_rng(seed)
    tops = np.median(random.choice(a, (resamples, a.size)), axis=1)
    bottoms = np.median(random.choice(b, (resamples, b.size)), axis=1)
    ratios = tops / np.where(bottoms > 0, bottoms, np.median(b))
    low, high = np.percentile(ratios, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]).tolist()
    return float(np.median(a) / np.median(b)), low, high


def compare(
    name: str,
    of: tuple[str, Sequence[float]],
    to: tuple[str, Sequence[float]],
    *,
    group: str = "",
    better: Literal["lower", "higher"] = "higher",
    target: float | None = None,
) -> Ratio:
    """Who and what they measured, above and below the line."""
    ratio, low, high = interval(of[1], to[1])
    return Ratio(
        name=name, group=group, of=of[0], to=to[0], ratio=ratio, low=low, high=high, better=better, target=target
    )


def slope(
    at: Sequence[float], values: Sequence[float], block: int = 12, resamples: int = 400
) -> npt.NDArray[np.float64]:
    """Slopes of ``values`` over ``at``: the first is Theil and Sen's, the median of those between all pairs of points,
    which single outliers do not move; the others are the same of resamples, and say how sure it is.

    A resample puts runs of ``block`` neighbouring residuals, drawn with replacement, onto the line: neighbours of a
    memory curve resemble each other, and drawing them one by one would promise too much. Raises ValueError for fewer
    than two blocks.
    """
    x, y = np.asarray(at, float), np.asarray(values, float)
    if x.size < 2 * block:
        raise ValueError(f"{x.size} points are too few for a slope")
    first, second = np.triu_indices(x.size, 1)
    apart = x[second] - x[first]
    line = float(np.median((y[second] - y[first]) / apart))
    residuals = y - line * x
    random, starts = np.random.default_rng(1), x.size - block + 1
    found = [line]
    for _ in range(resamples):
        chosen = random.integers(0, starts, -(-x.size // block))
        drawn = (chosen[:, None] + np.arange(block)).reshape(-1)[: x.size]
        noisy = line * x + residuals[drawn]
        found.append(float(np.median((noisy[second] - noisy[first]) / apart)))
    return np.asarray(found)
