"""What every benchmark needs around what it measures: when it began, on what, and the record at its end."""

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import machine, record
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


def console() -> Console:
    """For tables: a log file has no 80 columns."""
    made = Console()
    return made if made.is_terminal else Console(width=140)
