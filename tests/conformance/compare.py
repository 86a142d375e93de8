"""Ours against every reader, stage by stage, with the tolerances of the reference section of RENDERING."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_render.frame import Rescale, Window
from tests.conformance.deviations import Deviation, find_deviation
from tests.conformance.ours import Ours
from tests.conformance.readers import Answer
from tests.conformance.samples import Sample

Array = npt.NDArray[Any]

MILLIONTHS = 10
"""Pixels in a million that a window's formula in float64 may leave one grey level off."""
TIE = 1e-9
"""How near [grey levels] a reader's unrounded value lies to a tie that its arithmetic cannot decide."""
TRUNCATING = ("DCMTK", "GDCM")
"""Readers whose grey levels are cut off rather than rounded: up to one level below."""


class Verdict(StrEnum):
    """``WITHIN``: inside the tolerance of a lossy codec, of rounding, or of a formula's ties."""

    EQUAL = "equal"
    WITHIN = "within"
    EXPLAINED = "explained"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stage of one file against one reader: the largest difference and how many of the samples differ.

    Stored and modality values in their own units; display values in grey levels, the reader's rounded.
    """

    stage: str
    reader: str
    verdict: Verdict
    largest: float
    differing: int
    samples: int
    reason: str = ""


@dataclass(slots=True)
class Row:
    """One file: what was compared, or the error that it gave and whether that is the right one."""

    sample: Sample
    transfer_syntax_uid: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    error: str = ""
    error_is_right: bool = False
    renderings: int = 0
    unlike: int = 0

    @property
    def unexplained(self) -> int:
        """Differences that nothing explains: of a reader, of a backend, or an error where there should be a picture."""
        different = sum(c.verdict is Verdict.DIFFERENT for c in self.comparisons)
        return different + self.unlike + (bool(self.error or self.sample.refused) and not self.error_is_right)


def lossy_tolerance(uid: str, subsampled: bool) -> int:
    """How far stored values of two right decoders may lie apart (RENDERING, Reference)."""
    if uid in ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.93", "1.2.840.10008.1.2.4.203"):
        return 1
    if uid in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"):
        return 8 if subsampled else 2
    return 0


def compare(sample: Sample, ours: Ours, answers: Mapping[str, Answer]) -> Row:
    """All comparisons of one file. ``answers`` by reader."""
    row = Row(sample, renderings=ours.renderings, unlike=ours.unlike)
    if ours.record is not None:
        row.transfer_syntax_uid = ours.record.transfer_syntax_uid
    if ours.error:
        row.error, row.error_is_right = ours.error, bool(sample.refused) and sample.refused in ours.error
        return row
    row.comparisons += _against_known(sample, ours)
    for reader, answer in answers.items():
        for stage, theirs in answer.items():
            if stage in ours.stages:
                row.comparisons.append(_one(sample, ours, reader, stage, theirs))
    return row


def _against_known(sample: Sample, ours: Ours) -> Iterator[Comparison]:
    """Stored values known from a file's making, or agreed on by independent readers when the corpus was made."""
    stored = np.stack(list(ours.stages["stored"].values()))
    if sample.truth is not None:
        known = sample.truth.reshape(stored.shape)
        unlike = int((stored != known).sum())
        yield Comparison("stored", "source", _exact(unlike), float(unlike > 0), unlike, stored.size)
    if sample.stored_sha256:
        digest = hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()
        same = digest == sample.stored_sha256
        yield Comparison(
            "stored", "manifest", _exact(not same), float(not same), 0 if same else stored.size, stored.size
        )


def _exact(unlike: int | bool) -> Verdict:
    return Verdict.DIFFERENT if unlike else Verdict.EQUAL


def _one(sample: Sample, ours: Ours, reader: str, stage: str, theirs: Mapping[int, Array]) -> Comparison:
    largest, differing, samples, off_by_more = 0.0, 0, 0, False
    allowed = _allowed(ours, reader, stage)
    for frame, values in theirs.items():
        own = ours.stages[stage][frame]
        if own.shape != values.shape:
            return Comparison(stage, reader, Verdict.DIFFERENT, math.inf, own.size, own.size, "another shape")
        apart = _differences(own, values, stage, reader)
        if stage not in ("stored", "modality") and frame in ours.padding:
            apart[ours.padding[frame]] = np.where(own[ours.padding[frame]] == 0, 0, np.inf)
        largest = max(largest, float(apart.max()))
        differing += int((apart > 0).sum())
        samples += own.size
    few = differing <= math.ceil(samples * MILLIONTHS / 1e6)
    off_by_more = largest > (1 if stage not in ("stored", "modality") and few else allowed)
    deviation: Deviation | None = find_deviation(sample, reader, stage) if off_by_more else None
    if deviation is not None:
        deviation.used = True
        return Comparison(stage, reader, Verdict.EXPLAINED, largest, differing, samples, deviation.reason)
    verdict = Verdict.DIFFERENT if off_by_more else Verdict.WITHIN if differing else Verdict.EQUAL
    return Comparison(stage, reader, verdict, largest, differing, samples)


def _differences(own: Array, theirs: Array, stage: str, reader: str) -> Array:
    """Absolute differences, shape of ``own``; NaN in both is none."""
    if stage in ("stored", "modality"):
        left, right = own.astype(np.float64), theirs.astype(np.float64)
        apart = np.abs(left - right)
        if own.dtype.kind == "f":  # modality in float32: 1e-6 relative
            apart = np.where(apart <= 1e-6 * np.abs(right), 0, apart)
        both = (left == right) | (np.isnan(left) & np.isnan(right))
        return np.where(both, 0, np.nan_to_num(apart, nan=np.inf))
    theirs = np.clip(theirs, 0, 255)
    apart = np.abs(own.astype(np.float64) - np.floor(theirs + 0.5))
    # A float64 value within rounding errors of a tie of the real formula may fall on either side of it.
    tie = np.abs(theirs - np.floor(theirs) - 0.5) < TIE
    return np.where(tie & (np.abs(own - theirs) < 0.5 + TIE), 0, apart)


def _allowed(ours: Ours, reader: str, stage: str) -> float:
    """Largest difference that the codec, or the reader's way of rounding, explains."""
    assert ours.record is not None
    layout, presentation = ours.record.layout, ours.record.presentation
    lossy = lossy_tolerance(ours.record.transfer_syntax_uid, layout.samples_per_pixel == 3)
    if stage == "stored":
        return lossy
    slope = abs(presentation.modality.slope) if isinstance(presentation.modality, Rescale) else 1.0
    if stage == "modality":
        return lossy * slope
    rounding = (
        1 if reader.startswith(TRUNCATING) or layout.samples_per_pixel == 3 or presentation.palette is not None else 0
    )
    if not lossy:
        return rounding
    if layout.samples_per_pixel == 3:
        return rounding + 2 * lossy  # the largest factor of chrominance is 1.772
    assert ours.ask is not None
    windows = dict(ours.ask.windows)
    own = next((voi.width for voi in presentation.voi if isinstance(voi, Window)), 1.0)
    width = windows[stage][1] if stage in windows else own
    return rounding + 1 + math.ceil(lossy * slope * 255 / max(1.0, width - 1))
