"""All result files of a place, read once, and how figures went over the revisions of one machine."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmarks import record
from benchmarks.record import Run
from gpu_render.settings import default_cache_dir


@dataclass(frozen=True, slots=True)
class Stored:
    """One result file."""

    path: Path
    run: Run


@dataclass(frozen=True, slots=True)
class Results:
    """``stored``: oldest first. ``refused``: files that are no results of this form, and why."""

    stored: tuple[Stored, ...]
    refused: dict[Path, str]


@dataclass(frozen=True, slots=True)
class Point:
    """One figure of one run: median and quartiles in ``unit``."""

    date: str
    revision: str
    median: float
    q1: float
    q3: float


@dataclass(frozen=True, slots=True)
class Line:
    """One figure over the runs of one machine, oldest first."""

    benchmark: str
    group: str
    name: str
    unit: str
    better: str
    points: tuple[Point, ...]


def local_results() -> Path:
    """Where ``gpu-render bench`` keeps results: beside the source in a checkout, else below the user's cache folder."""
    checkout = (record.RESULTS.parent.parent / "pyproject.toml").is_file()
    return record.RESULTS if checkout and os.access(record.RESULTS, os.W_OK) else default_cache_dir() / "benchmarks"


def load(folders: Iterable[Path]) -> Results:
    """Every ``*.json`` of these folders but the schema. A file that cannot be read is named and costs no other."""
    stored, refused = list[Stored](), dict[Path, str]()
    for path in _files(folders):
        try:
            stored.append(Stored(path, record.read(path)))
        except (OSError, UnicodeDecodeError) as error:
            refused[path] = type(error).__name__
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            refused[path] = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return Results(tuple(sorted(stored, key=lambda one: (one.run.date, one.path.name))), refused)


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    seen = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in sorted(folder.resolve().glob("*.json")):
                if path.name != record.SCHEMA.name and path not in seen:
                    seen.add(path)
                    yield path


def by_machine(stored: Sequence[Stored]) -> dict[str, tuple[Stored, ...]]:
    """Grouped by ``Machine.slug`` (processor, cores, GPU): only figures of one group may be compared."""
    slugs = dict.fromkeys(one.run.machine.slug for one in stored)
    return {slug: tuple(one for one in stored if one.run.machine.slug == slug) for slug in slugs}


def latest(stored: Sequence[Stored]) -> dict[str, Stored]:
    """The newest run of each benchmark."""
    return {one.run.benchmark: one for one in sorted(stored, key=lambda one: one.run.date)}


def figures(run: Run) -> Iterator[tuple[str, str, str, str, Point]]:
    """(group, name, unit, which is better, figure) of what the run's cases and measurements say."""
    for case in run.cases:
        c = case.client
        name = f"{case.request}, {case.state}" if case.state else case.request
        yield case.group, name, "ms", "lower", Point(run.date, run.revision, c.median_ms, c.q1_ms, c.q3_ms)
    for one in run.measurements:
        s = one.summary
        yield (
            one.group,
            ", ".join([one.who, one.name, *(f"{key} {value}" for key, value in one.parameters.items())]),
            one.unit,
            one.better,
            Point(run.date, run.revision, s.median, s.q1, s.q3),
        )


def lines(stored: Sequence[Stored]) -> tuple[Line, ...]:
    """Each figure of the runs of one machine over time."""
    points: dict[tuple[str, str, str, str, str], list[Point]] = {}
    for one in sorted(stored, key=lambda one: one.run.date):
        for group, name, unit, better, point in figures(one.run):
            points.setdefault((one.run.benchmark, group, name, unit, better), []).append(point)
    return tuple(Line(*key, tuple(found)) for key, found in points.items())


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of two runs: the ratio of medians, now over before, and what the middle halves of both allow."""

    group: str
    name: str
    unit: str
    better: str
    ratio: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the middle halves have nothing in common. It says less than an interval of a check in turns."""
        return not self.low <= 1 <= self.high

    @property
    def improved(self) -> bool:
        return (self.ratio < 1) == (self.better == "lower")


def changes(now: Run, before: Run) -> list[Change]:
    """Every figure that both runs have, of the same machine; those that are not positive are left out."""
    known = {(group, name, unit, better): point for group, name, unit, better, point in figures(before)}
    found = []
    for group, name, unit, better, point in figures(now):
        old = known.get((group, name, unit, better))
        if old is None or min(old.median, old.q1, point.q1) <= 0:
            continue
        ratio, low, high = point.median / old.median, point.q1 / old.q3, point.q3 / old.q1
        found.append(Change(group, name, unit, better, ratio, low, high))
    return found
