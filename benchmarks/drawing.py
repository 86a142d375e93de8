"""Plots, with matplotlib where it is installed: results need none."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import BenchmarkError
from benchmarks.history import Line
from benchmarks.record import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "plots need matplotlib: pip install 'gpu-render[bench]'"


def available() -> bool:
    """Whether plots can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches. Raises BenchmarkError, which says what to install, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BenchmarkError(INSTALL) from error
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def save(made: "Figure", path: Path) -> None:
    """As the path's suffix says: PNG or SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path)


def trace(one: Trace, path: Path) -> None:
    """One quantity over the time of a run."""
    made = figure(8, 2.6)
    axes = made.add_subplot()
    axes.plot(one.at_s, one.values, linewidth=1)
    axes.set_xlabel("s since the run's start")
    axes.set_ylabel(one.unit)
    axes.set_ylim(bottom=0)
    axes.set_title(one.name, fontsize=9)
    axes.grid(linewidth=0.4)
    save(made, path)


def history(lines: Sequence[Line], path: Path) -> None:
    """Medians with their middle halves over revisions, in the order in which those were measured."""
    made = figure(9, 4.5)
    axes = made.add_subplot()
    moments = sorted({(point.date, point.revision[:9]) for line in lines for point in line.points})
    for line in lines:
        places = [moments.index((point.date, point.revision[:9])) for point in line.points]
        medians = [point.median for point in line.points]
        below = [max(0.0, point.median - point.q1) for point in line.points]
        above = [max(0.0, point.q3 - point.median) for point in line.points]
        label = f"{line.benchmark}: {line.group}, {line.name} [{line.unit}]"
        axes.errorbar(places, medians, yerr=(below, above), marker="o", markersize=3, capsize=2, label=label)
    axes.set_xticks(range(len(moments)), [f"{date[:10]}\n{revision}" for date, revision in moments], fontsize=7)
    axes.set_yscale("log")
    axes.grid(linewidth=0.4)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    save(made, path)
