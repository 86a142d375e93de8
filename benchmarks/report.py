"""A run as people read it: a table on the terminal, a shorter one in Markdown, and a plot.

``python -m benchmarks.report RESULT.json`` prints the Markdown of a run that was written before.
"""

import sys
from pathlib import Path

from rich.table import Table

from benchmarks import drawing, grids
from benchmarks.record import Case, Run, read

COLD, WARM, NEITHER = "#d97706", "#2563eb", "#6b7280"


def heading(run: Run) -> str:
    """One line: what was measured on which machine."""
    gpu = ", ".join(gpu.name for gpu in run.machine.gpus) or "no GPU"
    cores = f"{run.machine.cores} core" + ("s" if run.machine.cores > 1 else "")
    memory = f"{run.machine.memory_bytes / 2**30:.0f} GiB"
    return f"{run.machine.cpu}, {cores}, {memory}, {gpu}; backend {run.backend}; {run.date[:10]}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def rows(run: Run) -> list[tuple[str, ...]]:
    """The table's cells, a row a case, in the order of COLUMNS."""
    return [
        (
            case.group,
            case.request,
            case.state,
            _milliseconds(case.client.median_ms),
            f"{_milliseconds(case.client.q1_ms)} - {_milliseconds(case.client.q3_ms)}",
            _milliseconds(case.client.p99_ms),
            str(case.client.n),
            f"{case.times_ruler:.1f}",
            f"{run.target_s * 1000 / case.client.median_ms:,.0f}",
        )
        for case in run.cases
    ]


COLUMNS = (
    "stored as",
    "request",
    "cache",
    "median ms",
    "middle half ms",
    "p99 ms",
    "n",
    "x ruler",
    "times below 2 s",
)
_TEXT_COLUMNS = 3


TITLES = {"sizes": "Time to one frame of other sizes"}


def title(run: Run) -> str:
    """What its cases are about."""
    return TITLES.get(run.benchmark, "Time to one 512x512 CT slice")


def rich_table(run: Run, title: str = "time to one 512x512 slice over HTTP") -> Table:
    """For the terminal."""
    table = Table(title=title, caption=heading(run), header_style="bold")
    for i, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if i < _TEXT_COLUMNS else "right", no_wrap=True)
    for before, row, case in zip([None, *run.cases], rows(run), run.cases, strict=False):
        if before is not None and before.group != case.group:
            table.add_section()
        table.add_row(*row, style=_colour(run, case))
    return table


def _colour(run: Run, case: Case) -> str:
    if case.client.p99_ms > run.alarm_s * 1000:
        return "red"
    return "yellow" if case.client.p99_ms > run.target_s * 1000 else ""


OBJECT_COLUMNS = (
    "object",
    "file MB",
    "index s",
    "slowest s",
    "worker MiB",
    "service MiB",
    "reads a frame",
    "manifest s",
)


def object_rows(run: Run) -> list[tuple[str, ...]]:
    """A row an object, in the order of OBJECT_COLUMNS. Reads are those from the object's file."""
    return [
        (
            one.name,
            f"{one.file_bytes / 1e6:,.0f}",
            f"{one.index.median_ms / 1000:.2f}",
            f"{one.index.max_ms / 1000:.2f}",
            f"{one.worker_peak_bytes / 2**20:.0f}",
            f"{one.service_peak_bytes / 2**20:.0f}",
            " ".join(sorted({str(read.file_reads) for read in one.reads})),
            f"{one.manifest_ms / 1000:.2f}",
        )
        for one in run.objects
    ]


def object_table(run: Run) -> Table:
    """What it took to index each object, for the terminal."""
    table = Table(title="objects of very many frames", caption=heading(run), header_style="bold")
    for index, name in enumerate(OBJECT_COLUMNS):
        table.add_column(name, justify="right" if index else "left")
    for one, row in zip(run.objects, object_rows(run), strict=True):
        table.add_row(*row, style="red" if one.index.median_ms > run.alarm_s * 1000 else "")
    return table


def object_markdown(run: Run) -> str:
    """The same for docs/benchmarks.md, with the time to a frame."""
    frames = {(case.group, case.request, case.state): case for case in run.cases if case.group != "ruler"}
    requests = list(dict.fromkeys((request, state) for _, request, state in frames))
    names = (*OBJECT_COLUMNS, *(f"{request}, {state} ms" for request, state in requests))
    lines = []
    for row in object_rows(run):
        cells = (frames.get((row[0], *request)) for request in requests)
        lines.append((*row, *(_milliseconds(case.client.median_ms) if case else "" for case in cells)))
    return f"{grids.markdown(names, lines)}\n\n{heading(run)}.\n"


def markdown(run: Run) -> str:
    """For the README: a row for each transfer syntax, a column for each request; what fits in neither stands below."""
    kinds = list(dict.fromkeys((case.request, case.state) for case in run.cases if case.state))
    groups = dict.fromkeys(case.group for case in run.cases)
    cells = {(case.group, case.request, case.state): case for case in run.cases}
    full = [kind for kind in kinds if sum((group, *kind) in cells for group in groups) > 1]
    rows = [(group, *(_cell(cells.get((group, *kind))) for kind in full)) for group in groups]
    names = ("median (p99) in ms", *(", ".join(kind) for kind in full))
    table = grids.markdown(names, [row for row in rows if any(row[1:])])
    others = [f"{c.group}: {c.request} {_cell(c)}" for c in run.cases if (c.request, c.state) not in full]
    return f"{table}\n\n{'; '.join([*others, heading(run)])}. {' '.join(run.notes)}\n"


def _cell(case: Case | None) -> str:
    return f"{_milliseconds(case.client.median_ms)} ({_milliseconds(case.client.p99_ms)})" if case else ""


def plot(run: Run, path: Path) -> None:
    """Median and p99 of each case on a logarithmic axis, with the target and the alarm."""
    figure = drawing.figure(9, 0.9 + 0.24 * len(run.cases))
    axes = figure.add_subplot()
    places = range(len(run.cases))
    for place, case in zip(places, run.cases, strict=True):
        colour = {"cold": COLD, "warm": WARM}.get(case.state, NEITHER)
        axes.barh(place, case.client.median_ms, color=colour, height=0.7)
        axes.plot([case.client.median_ms, case.client.p99_ms], [place, place], color="black", linewidth=0.8)
        axes.plot(case.client.p99_ms, place, "|", color="black", markersize=6)
        axes.text(case.client.p99_ms * 1.12, place, _milliseconds(case.client.median_ms), va="center", fontsize=7)
    limits = ((run.target_s, "target", "#15803d", "right"), (run.alarm_s, "alarm", "#b91c1c", "left"))
    for seconds, name, colour, side in limits:
        axes.axvline(seconds * 1000, color=colour, linestyle="--", linewidth=1)
        axes.text(seconds * 1000, -0.9, f" {name} {seconds:g} s ", color=colour, fontsize=8, ha=side, va="bottom")
    axes.set_yticks(places, [f"{c.group}: {c.request} {c.state}".strip() for c in run.cases], fontsize=8)
    axes.set_ylim(len(run.cases) - 0.4, -1.6)
    axes.set_xscale("log")
    axes.set_xlim(0.1, run.alarm_s * 4000)
    axes.set_xlabel("ms from request to last byte: bar median, tick p99 (orange cold, blue warm)")
    axes.set_title(f"{title(run)}\n{heading(run)}", fontsize=9)
    axes.grid(axis="x", which="major", linewidth=0.4)
    drawing.save(figure, path)


if __name__ == "__main__":
    run = read(Path(sys.argv[1]))
    sys.stdout.write(object_markdown(run) if run.objects else markdown(run))
