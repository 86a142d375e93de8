"""What every benchmark needs around what it measures: when it began, on what, and the record at its end."""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import machine, record
from benchmarks.harness import BenchmarkError
from gpu_render import __version__


@dataclass(frozen=True, slots=True)
class Started:
    """The moment at which a run began: make one first, and a Run with ``record`` at the end."""

    clock_s: float = field(default_factory=time.perf_counter)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.clock_s

    def record(self, benchmark: str, notes: tuple[str, ...], **figures: Any) -> record.Run:
        """``figures``: fields of Run, such as ``measurements``; what does not apply may be left out."""
        defaults = {"backend": "cpu", "startup_s": 0.0, "ruler_ms": 0.0, "cases": ()}
        return record.Run(
            benchmark=benchmark,
            date=self.date,
            duration_s=self.elapsed_s,
            version=__version__,
            revision=machine.revision(),
            machine=machine.describe(),
            load_average=(self.load, os.getloadavg()[0]),
            notes=notes,
            **{**defaults, **figures},
        )


def progress(console: Console) -> Progress:
    """A bar: what, how much of it, how long still."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def console(columns: int = 140) -> Console:
    """For tables: a log file has no 80 columns."""
    made = Console()
    return made if made.is_terminal else Console(width=columns)


def command(
    options: argparse.Namespace,
    to: Console,
    measure: Callable[[], record.Run],
    table: Callable[[record.Run], Table],
    markdown: Callable[[record.Run], str],
    plot: Callable[[record.Run, Path], None] | None,
    default_plot: Path | None,
) -> int:
    """Measure, print, and write what ``options`` (quick, results, plot, markdown) say; returns the exit status."""
    try:
        run = measure()
        if options.markdown:
            to.print(markdown(run), markup=False, soft_wrap=True)
        else:
            to.print(table(run))
            show_ratios(run, to)
        results = options.results or (None if options.quick else record.RESULTS)
        if results is not None:
            to.print(f"wrote {record.write(run, results)}", markup=False, soft_wrap=True)
        image = options.plot or (None if options.quick else default_plot)
        if plot is not None and image is not None:
            plot(run, image)
            to.print(f"wrote {image}", markup=False, soft_wrap=True)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False, soft_wrap=True)
        return 1
    return 0


def show_ratios(run: record.Run, to: Console) -> None:
    """What the run compares, with what was promised."""
    if not run.ratios:
        return
    made = Table("what", "of", "to", "ratio", "95 % interval", "promised", header_style="bold")
    for one in run.ratios:
        sign = {"higher": "at least", "lower": "at most"}[one.better]
        promised = "" if one.target is None else f"{sign} {one.target:g}"
        style = {True: "green", False: "red", None: ""}[one.reached]
        interval = f"{one.low:.2f} - {one.high:.2f}"
        made.add_row(one.name, one.of, one.to, f"{one.ratio:.2f}", interval, promised, style=style)
    to.print(made)
