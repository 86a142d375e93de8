"""Two samples beside each other: the ratio of their medians, and how sure it is."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

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
