"""Plots, with matplotlib where it is installed: results need none."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import BenchmarkError

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
