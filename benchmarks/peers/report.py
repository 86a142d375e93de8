"""The run as people read it: tables on the terminal and in Markdown, and a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table as RichTable

from benchmarks import data, grids
from benchmarks.peers.contest import COMPARED_CLIENTS, Outcome
from benchmarks.peers.figures import (
    CLIENTS,
    CPU,
    FIRST,
    KIND,
    P50,
    P99,
    REQUESTS,
    ROUTE,
    WINDOWED,
    label,
    select,
)
from benchmarks.peers.routes import KINDS, OLD, OURS, PICTURE, SAMPLES, UNCOMPRESSED
from benchmarks.record import Measurement, Ratio, Run
from benchmarks.report import heading

_NOTES = (
    "Every answer was compared with the stored samples, or with the window's formula, before it was timed.",
    "Warm: the same slices again and again by wrk, all servers running, contestants in another order in each round.",
    "First touch: one client, each server started afresh, each slice asked for once; files are in the page cache.",
    "The ruler is the least work that a Python process can do: it checks nothing and keeps nothing.",
)
_NOT_TIMED = "Not timed: "


def notes(outcome: Outcome) -> tuple[str, ...]:
    """How it was measured, and who was not timed and why."""
    return (*_NOTES, *(f"{_NOT_TIMED}{one.label}, {syntax}: {why}" for (syntax, one), why in outcome.refused.items()))


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1

    def rich(self) -> RichTable:
        return grids.terminal(self.title, self.columns, self.rows, range(self.text_columns))

    def markdown(self) -> str:
        return grids.markdown(self.columns, self.rows, range(self.text_columns))


def number(value: float) -> str:
    """Three digits, and as many as there are before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def tables(run: Run) -> list[Table]:
    """Targets, then uncompressed slices by what is asked for, then all transfer syntaxes."""
    found = run.measurements
    of_kinds = [_of_kind(found, kind) for kind in KINDS]
    states = ((REQUESTS, f"requests/s of {COMPARED_CLIENTS} clients"), (FIRST, "first touch, median ms"))
    across = [_across(found, name, kind, words) for kind in KINDS for name, words in states]
    return [target_table(run), *(one for one in (*of_kinds, *across) if one.rows)]


def target_table(run: Run) -> Table:
    rows = tuple(
        (
            one.name,
            one.group,
            one.of,
            one.to,
            f"{'>=' if one.better == 'higher' else '<='} {one.target:g}",
            f"{number(one.ratio)} ({number(one.low)} - {number(one.high)})",
            "yes" if one.reached else "no",
            _by_processor_time(run.measurements, one),
        )
        for one in run.ratios
    )
    columns = (
        "what",
        "stored as",
        "measured",
        "beside",
        "target",
        "ratio (95 % interval)",
        "reached",
        "by processor time",
    )
    return Table("Targets", columns, rows, text_columns=4)


def _by_processor_time(found: Sequence[Measurement], ratio: Ratio) -> str:
    """The same ratio by what a request costs each server, which other work on the machine hardly changes."""
    costs = {
        label(one): one.summary.median
        for one in found
        if one.name == CPU and one.group == ratio.group and one.parameters[CLIENTS] == COMPARED_CLIENTS
        if ratio.name.startswith(f"{one.parameters[KIND]}, ") and f"{COMPARED_CLIENTS} clients" in ratio.name
    }
    ours, theirs = costs.get(ratio.of), costs.get(ratio.to)
    return number(theirs / ours) if ours and theirs and ratio.of != ratio.to else ""


def _of_kind(found: Sequence[Measurement], kind: str) -> Table:
    """Uncompressed: a row for each way, the fastest first."""
    compared = select(found, REQUESTS, UNCOMPRESSED, kind, clients=COMPARED_CLIENTS)
    clients = sorted({int(one.parameters[CLIENTS]) for one in select(found, REQUESTS, UNCOMPRESSED, kind)})
    ours = next((one for one in compared if one.who == OURS), None)
    rows = []
    for one in sorted(compared, key=lambda one: -one.summary.median):
        of_it = partial(_cell, found, syntax=UNCOMPRESSED, kind=kind, who=one.who, route=str(one.parameters[ROUTE]))
        figures = [of_it(REQUESTS, clients=count) for count in clients]
        figures += [of_it(name, clients=COMPARED_CLIENTS) for name in (P50, P99, CPU)]
        times = number(ours.summary.median / one.summary.median) if ours else ""
        rows.append((_label(one), *figures, of_it(FIRST, clients=1), times))
    columns = (
        "way",
        *(f"{count} client{'s' if count > 1 else ''} [requests/s]" for count in clients),
        f"p50 at {COMPARED_CLIENTS} [ms]",
        f"p99 at {COMPARED_CLIENTS} [ms]",
        "processor time [ms/request]",
        "first touch [ms]",
        f"{ours.who} {ours.parameters[ROUTE]} / it" if ours else "",
    )
    return Table(f"{kind}, uncompressed", columns, tuple(rows))


def _across(found: Sequence[Measurement], name: str, kind: str, words: str) -> Table:
    """A row for each way, a column for each transfer syntax."""
    clients = 1 if name == FIRST else COMPARED_CLIENTS
    of_kind = [one for one in found if one.parameters[KIND] == kind]
    syntaxes = [one for one in data.NAMES.values() if any(any_of.group == one for any_of in of_kind)]
    rows = []
    for who, route in dict.fromkeys((one.who, str(one.parameters[ROUTE])) for one in of_kind):
        cells = [
            _cell(found, name, syntax=syntax, kind=kind, who=who, route=route, clients=clients) for syntax in syntaxes
        ]
        if sum(map(bool, cells)) > 1:
            rows.append((f"{who} {route}", *cells))
    return Table(f"{kind}, {words}", ("way", *syntaxes), tuple(rows))


def _cell(
    found: Sequence[Measurement], name: str, *, syntax: str, kind: str, who: str, route: str, clients: int
) -> str:
    """The median, with what failed."""
    exact = [one for one in select(found, name, syntax, kind, who, route, clients) if one.who == who]
    if not exact:
        return ""
    failed = f" ({exact[0].error_count} failed)" if exact[0].error_count else ""
    return number(exact[0].summary.median) + failed


def _label(one: Measurement) -> str:
    return label(one) + ("" if one.parameters[WINDOWED] else " (without the window)")


def markdown(run: Run) -> str:
    """docs/peers.md."""
    programs = ", ".join(f"{name}: {version}" for name, version in run.programs.items())
    first, *others = tables(run)
    refused = [one.removeprefix(_NOT_TIMED) for one in run.notes if one.startswith(_NOT_TIMED)]
    disturbed = run.load_average[0] > run.machine.cores
    warning = "The machine did other work at the same time, so that these are no figures to go by."
    parts = [
        "# Beside its peers",
        "Made by `make bench-peers`; [benchmarks.md](benchmarks.md#peers) says what is compared and how.",
        f"{heading(run)}. Load average {run.load_average[0]:.1f} before and {run.load_average[1]:.1f} after; "
        f"revision {run.revision[:10]}; {programs}.",
        *([f"**{warning}**"] if disturbed else []),
        "![Requests a second and first touches](images/benchmark-peers.png)",
        *(f"## {one.title}\n\n{one.markdown()}" for one in (first, *others)),
    ]
    if refused:
        parts.append("## Not timed\n\nThese ways do not answer, or not what was asked for:\n\n" + _bullets(refused))
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


_COLOURS = {"gpu-render": "#d97706", "ruler": "#6b7280", "nginx": "#9ca3af", "Orthanc": "#2563eb", "old": "#b91c1c"}


def plot(run: Run, path: Path) -> None:
    """Uncompressed slices warm, and first touches of pictures in each transfer syntax; logarithmic axes."""
    figure = Figure(figsize=(11, 10), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 2)
    for column, kind in enumerate((SAMPLES, PICTURE)):
        found = select(run.measurements, REQUESTS, UNCOMPRESSED, kind, clients=COMPARED_CLIENTS)
        title = f"{kind}, uncompressed, {COMPARED_CLIENTS} clients [requests/s]"
        _bars(figure.add_subplot(grid[0, column]), title, [(_label(one), one) for one in found])
    axes = figure.add_subplot(grid[1, :])
    first = [one for one in run.measurements if one.name == FIRST and one.parameters[KIND] == PICTURE]
    fastest: dict[tuple[str, str], Measurement] = {}
    for one in first:
        key = (one.group, one.who)
        if one.parameters[WINDOWED] and (key not in fastest or one.summary.median < fastest[key].summary.median):
            fastest[key] = one
    title = f"{PICTURE}, first touch, the fastest way of each [ms]"
    _bars(axes, title, [(f"{one.group}: {label(one)}", one) for one in fastest.values() if one.who != OLD])
    figure.suptitle(heading(run), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _bars(axes: Axes, title: str, named: Sequence[tuple[str, Measurement]]) -> None:
    grouped = len({one.group for _, one in named}) > 1
    order = sorted(named, key=lambda pair: (pair[1].group if grouped else "", pair[1].summary.median))
    for place, (_, one) in enumerate(order):
        colour = next(colour for who, colour in _COLOURS.items() if one.who.startswith(who))
        axes.barh(place, one.summary.median, color=colour, height=0.75)
        axes.plot([one.summary.q1, one.summary.q3], [place, place], color="black", linewidth=0.8)
        axes.text(
            max(one.summary.median, one.summary.q3) * 1.08, place, number(one.summary.median), va="center", fontsize=7
        )
    axes.set_yticks(range(len(order)), [name for name, _ in order], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_title(title, fontsize=8, loc="right")
    axes.grid(axis="x", which="major", linewidth=0.4)
