"""``python -m benchmarks.startup``: how long the service takes to be ready, and what it takes of the memory then.

It starts with an index of no instance, of 10,000 and of 100,000, whose files it has seen before, again and again in
turns: with its modules and the index in the system's memory, and without. Ready is when ``/health/ready`` says so,
which decodes a frame. Memory is read of each process when its scan has ended and nobody asks for anything; once more
after a scan of new files.
"""

import argparse
import contextlib
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import comparing, drawing, grids, index_data, record, report, running
from benchmarks.endurance import family, memory_of
from benchmarks.harness import ROOT, SERVICE, Client, serving
from benchmarks.slice import wait_for_index
from gpu_render.archive.index import Index

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-startup.png"
WARM, COLD = "files in memory", "files on disk"
READY, PSS, RSS = "start to ready", "memory, all processes", "memory, service"
SCANNED = "after a scan of new files"
LIMIT_MS, LIMIT_MB = 3000.0, 250.0
QUIET_S = 0.5
NOTES = (
    f"{READY}: from starting the process to the first 200 of /health/ready, asked every 50 ms.",
    f"{COLD}: the system was told to forget what it has of Python, its packages, this project and the index, of which "
    "it keeps what other processes have mapped.",
    "Memory: PSS, with each process' part of what several share, of the service and its workers, and RSS of the "
    "service's own process alone; idle, when the first scan has found that no file has changed.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``sizes``: instances that the index knows; ``scanned``: new files of the last start."""

    sizes: tuple[int, ...]
    starts: int
    scanned: int


FULL = Plan((0, 10_000, 100_000), 7, 2_000)
QUICK = Plan((0, 300), 1, 20)


@dataclass(slots=True)
class Found:
    """Times [ms] and memory [MB] so far, by (index, what, state)."""

    values: defaultdict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    processes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def make_known(folder: Path, index_path: Path, count: int) -> None:
    """An index of so many instances and the files that it knows."""
    folder.mkdir()
    root = os.fsencode(folder.resolve())
    with contextlib.closing(Index(index_path)) as index:
        index.set_roots([root])
        index_data.write_known_files(folder, index, root, count)
        index.analyze()


def modules() -> Iterator[Path]:
    """Files of Python, its packages and this project that a start may read."""
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platlib"), sysconfig.get_path("purelib")}:
        yield from Path(folder).rglob("*")
    for package in ("api", "gpu_render", "kernels"):
        yield from (ROOT / package).rglob("*")
    yield Path(sys.executable).resolve()


def forget(paths: Iterable[Path]) -> None:
    """Ask the system to drop these files from its memory."""
    for path in paths:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def start(folder: Path, index_path: Path, name: str, count: int, state: str, found: Found) -> None:
    """Start the service once. Raises BenchmarkError where it does not know its index."""
    if state == COLD:
        forget([*modules(), *index_path.parent.glob(f"{index_path.name}*")])
    with serving((*SERVICE, str(folder), "--index", str(index_path)), "/health/ready") as server:
        with contextlib.closing(Client(server.port)) as client:
            wait_for_index(client, count)
        found.values[name, READY, state].append(server.startup_s * 1000)
        if state == WARM:
            read_memory(server.pid, name, found)


def read_memory(pid: int, name: str, found: Found) -> None:
    """When no process has come or gone for a moment."""
    everyone = family(pid)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(QUIET_S)
        before, everyone = everyone, family(pid)
        if before == everyone:
            break
    sizes = [memory_of(one) for one in everyone]
    found.processes[name].append(len(everyone))
    found.values[name, RSS, ""].append(sizes[0][0] / 1e6)
    found.values[name, PSS, ""].append(sum(pss for _, pss in sizes) / 1e6)


def measure(plan: Plan, console: Console) -> record.Run:
    """All starts in turns, then those with new files."""
    started, found, chance = running.Started(), Found(), random.Random(1)
    with tempfile.TemporaryDirectory() as name, running.progress(console) as bar:
        work = Path(name)
        task = bar.add_task("starts", total=plan.starts * (2 * len(plan.sizes) + 1))
        for key in keys(plan):
            found.values[key] = []  # in the order in which they are told
        for count in plan.sizes:
            make_known(work / f"{count}", work / f"{count}.sqlite", count)
        turns = [(count, state) for count in plan.sizes for state in (WARM, COLD)]
        for _ in range(plan.starts):
            for count, state in chance.sample(turns, len(turns)):
                start(work / f"{count}", work / f"{count}.sqlite", label(count), count, state, found)
                bar.advance(task)
        (work / "new").mkdir()
        index_data.write_files(work / "new", plan.scanned)
        for number in range(plan.starts):
            start(work / "new", work / f"new-{number}.sqlite", SCANNED, plan.scanned, WARM, found)
            bar.advance(task)
    return started.record(
        "startup",
        NOTES,
        startup_s=statistics.median(found.values[label(plan.sizes[0]), READY, WARM]) / 1000,
        measurements=tuple(measurements(found)),
        ratios=tuple(ratios(found)),
    )


def keys(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(index, what, state) of all that is measured."""
    for name in (*map(label, plan.sizes), SCANNED):
        yield name, READY, WARM
        if name != SCANNED:
            yield name, READY, COLD
        yield name, PSS, ""
        yield name, RSS, ""


def label(count: int) -> str:
    return f"index of {count:,} instances"


def measurements(found: Found) -> Iterator[record.Measurement]:
    for (name, what, state), values in found.values.items():
        parameters: dict[str, str | int | float] = {"state": state} if state else {}
        if what == PSS:
            parameters["processes"] = max(found.processes[name])
        yield record.Measurement(
            name=f"{what}, {state}" if state else what,
            unit="ms" if what == READY else "MB",
            group=name,
            parameters=parameters,
            summary=record.spread(values),
            samples=tuple(values),
        )


def ratios(found: Found) -> Iterator[record.Ratio]:
    """Beside what was promised: 3 s with an index of 10,000 instances, 250 MB."""
    for (name, what, state), values in found.values.items():
        if what == READY and name != SCANNED:
            limit, unit = LIMIT_MS, f"{LIMIT_MS / 1000:g} s"
        elif what == PSS:
            limit, unit = LIMIT_MB, f"{LIMIT_MB:g} MB"
        else:
            continue
        title = f"{what}, {state}" if state else what
        pair = ("gpu-render", values), (unit, [limit])
        yield comparing.compare(f"{name}: {title}", *pair, group=name, better="lower", target=1)


COLUMNS = ("", "what", "unit", "median", "range", "n")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""
    return [
        (
            one.group,
            one.name,
            one.unit,
            f"{one.summary.median:,.0f}",
            f"{one.summary.min:,.0f} - {one.summary.max:,.0f}",
            str(one.summary.n),
        )
        for one in run.measurements
    ]


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("start and idle memory", COLUMNS, rows(run), range(3), report.heading(run))


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    return f"{grids.markdown(COLUMNS, rows(run), range(3))}\n\n{report.heading(run)}.\n"


def plot(run: record.Run, path: Path) -> None:
    """Every start as a point, beside the limits."""
    figure = drawing.figure(9, 3.6)
    for axes, unit, limit in zip(figure.subplots(1, 2), ("ms", "MB"), (LIMIT_MS, LIMIT_MB), strict=True):
        mine = [one for one in run.measurements if one.unit == unit and not one.name.startswith(RSS)]
        for place, one in enumerate(mine):
            axes.plot(one.samples, [place] * one.summary.n, "o", markersize=4, alpha=0.6, color="#2563eb")
        axes.axvline(limit, color="#b91c1c", linewidth=1)
        axes.set_yticks(range(len(mine)), [f"{one.group}\n{one.name}" for one in mine], fontsize=6)
        axes.set_ylim(-0.7, len(mine) - 0.3)
        axes.set_xlim(left=0)
        axes.set_xlabel(unit)
        axes.grid(linewidth=0.4, axis="x")
    figure.suptitle(f"Start to ready, and memory of the idle service\n{report.heading(run)}", fontsize=9)
    drawing.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help=f"PNG (default: docs/images/{PLOT.name})")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console()
    plan = QUICK if options.quick else FULL
    return running.command(options, console, lambda: measure(plan, console), table, markdown, plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
