"""Runs of the GPU benchmarks as people read them: tables, the same in Markdown, and plots.

``python -m benchmarks.gpu_report RESULT.json`` prints the Markdown of a run that was written before.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks import drawing, grids
from benchmarks.record import Kernel, Run, Throughput, read
from benchmarks.report import NEITHER, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MET, MISSED = "#15803d", "#b91c1c"
COLOURS = ("#2563eb", "#d97706", "#7c3aed", "#6b7280")

KERNEL_COLUMNS = (
    "batch",
    "frames",
    "MB read",
    "MB written",
    "times L2",
    "kernel ms",
    "middle half ms",
    "GB/s",
    "copy GB/s",
    "% of copy",
    "promised %",
)
THROUGHPUT_COLUMNS = (
    "stored as",
    "request",
    "by",
    "state",
    "slices/s",
    "ms a slice",
    "middle half ms",
    "answer p50 ms",
    "answer p95 ms",
    "passes",
    "uploads",
    "decoded",
    "launches",
    "a launch",
    "decoder",
)
_MOST_DECODERS = 2
_THROUGHPUT_TEXT = (0, 1, 2, 3, 14)


def title(run: Run) -> str:
    """One line: device, machine, and date."""
    return f"{run.device}; {heading(run)}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _gigabytes_per_s(nbytes: int, ms: float) -> str:
    return f"{nbytes / ms / 1e6:,.0f}"


def is_met(kernel: Kernel) -> bool | None:
    """Whether the promise was kept; None where there is none."""
    return None if kernel.target_percent is None else kernel.percent_of_copy >= kernel.target_percent


def kernel_rows(run: Run) -> list[tuple[str, ...]]:
    """A row a batch, in the order of KERNEL_COLUMNS."""
    return [
        (
            one.name,
            str(one.frames),
            f"{one.bytes_read / 1e6:,.1f}",
            f"{one.bytes_written / 1e6:,.1f}",
            f"{one.nbytes / one.cache_bytes:.1f}",
            _ms(one.kernel.median_ms),
            f"{_ms(one.kernel.q1_ms)} - {_ms(one.kernel.q3_ms)}",
            _gigabytes_per_s(one.nbytes, one.kernel.median_ms),
            _gigabytes_per_s(one.nbytes, one.copied.median_ms),
            f"{one.percent_of_copy:.0f}",
            "" if one.target_percent is None else f"{one.target_percent:.0f}",
        )
        for one in run.kernels
    ]


def throughput_rows(run: Run) -> list[tuple[str, ...]]:
    """A row a path, in the order of THROUGHPUT_COLUMNS."""
    return [
        (
            one.group,
            one.request,
            one.path,
            one.state,
            f"{one.slices_per_s:,.0f}",
            _ms(one.per_slice.median_ms),
            f"{_ms(one.per_slice.q1_ms)} - {_ms(one.per_slice.q3_ms)}",
            _ms(one.answer.median_ms) if one.answer else "",
            _ms(one.answer.p95_ms) if one.answer else "",
            str(one.per_slice.n),
            *(str(count) if one.launches else "" for count in (one.uploads, one.decoded, one.launches)),
            "" if one.frames_a_launch is None else f"{one.frames_a_launch:.1f}",
            one.decoder if one.decoder.count(",") < _MOST_DECODERS else "several",
        )
        for one in run.throughputs
    ]


def kernel_table(run: Run) -> Table:
    """For the terminal."""
    table = _table("kernels beside a copy", run, KERNEL_COLUMNS, (0,))
    for one, row in zip(run.kernels, kernel_rows(run), strict=True):
        table.add_row(*row, style="red" if is_met(one) is False else "")
    return table


def throughput_table(run: Run) -> Table:
    """For the terminal."""
    table = _table("512x512 slices", run, THROUGHPUT_COLUMNS, _THROUGHPUT_TEXT)
    before = ""
    for one, row in zip(run.throughputs, throughput_rows(run), strict=True):
        if before not in ("", one.group):
            table.add_section()
        table.add_row(*row)
        before = one.group
    return table


def _table(name: str, run: Run, columns: Sequence[str], text: Sequence[int]) -> Table:
    table = Table(title=name, caption=title(run), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index in text else "right", no_wrap=index in text)
    return table


def kernel_markdown(run: Run) -> str:
    """For the README."""
    return _markdown(run, KERNEL_COLUMNS, kernel_rows(run), (0,))


def throughput_markdown(run: Run) -> str:
    """For the README."""
    return _markdown(run, THROUGHPUT_COLUMNS, throughput_rows(run), _THROUGHPUT_TEXT)


def _markdown(run: Run, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int]) -> str:
    return f"{grids.markdown(columns, rows, text)}\n\n{title(run)}. {' '.join(run.notes)}\n"


def kernel_plot(run: Run, path: Path) -> None:
    """Each batch's bandwidth in percent of the copy's, with what was promised."""
    figure = drawing.figure(9, 1.3 + 0.32 * len(run.kernels))
    axes = figure.add_subplot()
    for place, one in enumerate(run.kernels):
        colour = {True: MET, False: MISSED, None: NEITHER}[is_met(one)]
        axes.barh(place, one.percent_of_copy, color=colour, height=0.7)
        if one.target_percent is not None:
            axes.plot([one.target_percent] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.5)
        axes.text(one.percent_of_copy, place, f" {one.percent_of_copy:.0f} %", va="center", fontsize=8)
    axes.axvline(100, color="black", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(run.kernels)), [one.name for one in run.kernels], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("bandwidth in % of a copy in the same memory (black line: promised)")
    _save(figure, run, path, "Kernels beside a copy")


def throughput_plot(run: Run, path: Path) -> None:
    """Slices a second of each series, cold and warm, on a logarithmic axis."""
    shown = [one for one in run.throughputs if one.request != "first frame"]
    paths = list(dict.fromkeys(one.path for one in shown))
    figure = drawing.figure(10, 1.3 + 0.2 * len(shown))
    axes = figure.add_subplot()
    for place, one in enumerate(shown):
        axes.barh(place, one.slices_per_s, color=COLOURS[paths.index(one.path) % len(COLOURS)], height=0.75)
        axes.text(one.slices_per_s, place, f" {one.slices_per_s:,.0f}", va="center", fontsize=6)
    axes.set_yticks(range(len(shown)), [_label(one) for one in shown], fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("slices/s, median pass")
    axes.grid(axis="x", which="major", linewidth=0.4)
    _save(figure, run, path, "512x512 slices a second")


def _label(one: Throughput) -> str:
    return f"{one.group}: {one.request}, {one.state}, {one.path}"


def _save(figure: "Figure", run: Run, path: Path, name: str) -> None:
    figure.suptitle(f"{name}\n{run.device}; {run.date[:10]}", fontsize=8)
    drawing.save(figure, path)


if __name__ == "__main__":
    written = read(Path(sys.argv[1]))
    sys.stdout.write(kernel_markdown(written) if written.kernels else throughput_markdown(written))
