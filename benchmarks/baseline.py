"""Whether something became slower: a run's figures beside those that were stored on the same kind of machine.

A figure is a ratio: what was measured, divided by a yardstick (a server that only copies, a codec alone, memcpy) that
took turns with it in the same moment, so that a busy or throttled machine slows both. Every round gives one ratio of
medians. Two runs are compared by the medians of their rounds, with a bootstrap interval that draws the rounds of both
anew; only an interval that lies wholly beyond the tolerance is a regression. A disturbed round is one value of many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks import comparing, history, record
from benchmarks.record import Measurement, Ratio, Run

TOLERANCE = 0.15
"""By which part a ratio may rise before it counts, where a measurement names no other: what the same code differs by
from one start to the next on one machine is below it (docs/benchmarks.md)."""
LEAST_ROUNDS = 5


class Verdict(StrEnum):
    """``UNCLEAR``: the interval is too wide to say whether it lies beyond the tolerance."""

    SLOWER = "slower"
    UNCLEAR = "unclear"
    SAME = "same"
    FASTER = "faster"
    NEW = "not in the baseline"
    MISSING = "not measured now"


FAILING = (Verdict.SLOWER, Verdict.MISSING)


@dataclass(frozen=True, slots=True)
class Judged:
    """One measurement beside the stored one; ``ratio`` none where one of the two is missing."""

    name: str
    verdict: Verdict
    tolerance: float
    now: Measurement | None
    stored: Measurement | None
    ratio: Ratio | None


def folders() -> tuple[Path, ...]:
    """Where baselines are looked for: where this user saves them, then what came with the package."""
    return tuple(dict.fromkeys((own_folder(), record.RESULTS.parent / "baseline")))


def own_folder() -> Path:
    """Where ``--save-baseline`` writes."""
    return history.local_results().parent / "baseline"


def path_of(machine: record.Machine, folder: Path) -> Path:
    """One file a kind of machine: processor, cores and GPU."""
    return folder / f"{machine.slug}.json"


def find(machine: record.Machine, among: Sequence[Path]) -> Run | None:
    """The baseline for this kind of machine, if one is stored. Raises pydantic.ValidationError."""
    paths = (path_of(machine, folder) for folder in among)
    return next((record.read(path) for path in paths if path.is_file()), None)


def save(run: Run, folder: Path) -> Path:
    """Store a run as the baseline of its kind of machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(run.machine, folder)
    path.write_text(run.model_dump_json(indent=2) + "\n")
    return path


def verdict(low: float, high: float, tolerance: float) -> Verdict:
    """Of the interval of a time over the stored time."""
    if low > 1 + tolerance:
        return Verdict.SLOWER
    if high < 1 / (1 + tolerance):
        return Verdict.FASTER
    return Verdict.UNCLEAR if high > 1 + tolerance else Verdict.SAME


def judge_one(now: Measurement, stored: Measurement, tolerance: float) -> Judged:
    """Raises ValueError where one of both has too few rounds to say anything."""
    if min(len(now.samples), len(stored.samples)) < LEAST_ROUNDS:
        raise ValueError(f"{now.name}: fewer than {LEAST_ROUNDS} rounds")
    ratio = comparing.compare(
        now.name, ("now", now.samples), ("baseline", stored.samples), group=now.group, better="lower"
    )
    return Judged(now.name, verdict(ratio.low, ratio.high, tolerance), tolerance, now, stored, ratio)


def judge(now: Sequence[Measurement], stored: Sequence[Measurement]) -> list[Judged]:
    """Every measurement of both. Those are the same that have the same name and the same yardstick (``group``)."""
    before = {(one.name, one.group): one for one in stored}
    judged = []
    for one in now:
        tolerance = float(one.parameters.get("tolerance", TOLERANCE))
        known = before.pop((one.name, one.group), None)
        if known is None:
            judged.append(Judged(one.name, Verdict.NEW, tolerance, one, None, None))
        else:
            judged.append(judge_one(one, known, tolerance))
    gone = (Judged(left.name, Verdict.MISSING, TOLERANCE, None, left, None) for left in before.values())
    return [*judged, *gone]


def differences(now: record.Machine, stored: record.Machine) -> list[str]:
    """What is not as it was when the baseline was stored, for people: it may explain a difference."""
    names = dict.fromkeys((*stored.libraries, *now.libraries))
    pairs = [("Python", stored.python, now.python), ("system", stored.system, now.system)]
    pairs += [(name, stored.libraries.get(name, "-"), now.libraries.get(name, "-")) for name in names]
    return [f"{name} {before} -> {after}" for name, before, after in pairs if before != after]
