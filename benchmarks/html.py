"""One static HTML file with what was measured: it needs no server and loads nothing from anywhere."""

import base64
import html
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import concurrency, drawing, gpu_report, history, machine, report
from benchmarks.history import Line, Stored
from benchmarks.record import Run
from gpu_render import __version__

Rows = Sequence[Sequence[str]]
MOST_LINES = 12
FIRST = ("slice", "sizes", "concurrency", "peers", "bandwidth", "roofline")
"""What stands before the history over revisions; the rest follows it."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 3rem; border-bottom: 2px solid #d1d5db }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
th:first-child, td:first-child, td.text, th.text { text-align: left } dt { font-weight: 600 } dd { margin: 0 0 .4rem }
.good { color: #15803d } .bad { color: #b91c1c } .quiet { color: #4b5563 }
"""


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Rows, text: frozenset[int] = frozenset({0})) -> str:
    """Columns of ``text`` stand to the left. Everything is escaped."""

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (
            f"<{tag}{' class=text' if place in text else ''}>{html.escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table><thead>{line("th", columns)}</thead><tbody>{body}</tbody></table></div>'


def picture(draw: Callable[[Path], None], text: str) -> str:
    """What ``draw`` writes as SVG, within the page; ``text`` is for who cannot see it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.svg"
        draw(path)
        code = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(text, quote=True)
    return f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{code}"></figure>'


def plots(run: Run) -> Iterator[str]:
    """Of one run, as its own benchmark draws them."""
    if run.benchmark in ("slice", "sizes"):
        lines = f"with the target of {run.target_s:g} s and the alarm at {run.alarm_s:g} s"
        yield picture(lambda path: report.plot(run, path), f"median and 99th percentile of each request, {lines}")
    if run.benchmark == "concurrency":
        yield picture(lambda path: concurrency.plot(run, path), "throughput and 99th percentile by number of clients")
    if run.kernels:
        yield picture(lambda path: gpu_report.kernel_plot(run, path), "bandwidth of each kernel in percent of a copy's")
    for trace in run.traces:
        text = f"{trace.name} over the run"
        yield picture(partial(drawing.trace, trace), text)


def tables(run: Run) -> Iterator[str]:
    """All figures of one run, form by form."""
    if run.cases:
        yield table(report.COLUMNS, report.rows(run), frozenset({0, 1, 2}))
    if run.objects:
        yield table(report.OBJECT_COLUMNS, report.object_rows(run))
    if run.kernels:
        yield table(gpu_report.KERNEL_COLUMNS, gpu_report.kernel_rows(run))
    if run.ratios:
        yield table(
            ("what", "of", "to", "ratio", "95 % interval", "promised", ""),
            [
                (
                    f"{one.group} {one.name}".strip(),
                    one.of,
                    one.to,
                    f"{one.ratio:.2f}",
                    f"{one.low:.2f} - {one.high:.2f}",
                    "" if one.target is None else f"{'>=' if one.better == 'higher' else '<='} {one.target:g}",
                    {True: "reached", False: "not reached", None: ""}[one.reached],
                )
                for one in run.ratios
            ],
            frozenset({0, 1, 2, 6}),
        )
    if run.measurements:
        yield table(
            ("what", "group", "who", "with", "unit", "median", "middle half", "p95", "p99", "n", "errors"),
            [
                (
                    one.name,
                    one.group,
                    one.who,
                    ", ".join(f"{key} {value}" for key, value in one.parameters.items()),
                    one.unit,
                    number(one.summary.median),
                    f"{number(one.summary.q1)} - {number(one.summary.q3)}",
                    number(one.summary.p95),
                    number(one.summary.p99),
                    str(one.summary.n),
                    ", ".join(f"{times} x {what}" for what, times in one.errors.items()),
                )
                for one in run.measurements
            ],
            frozenset({0, 1, 2, 3, 4}),
        )
    yield from _older_tables(run)


def _older_tables(run: Run) -> Iterator[str]:
    """Of the forms that one benchmark each has to itself."""
    if run.streams:
        yield table(
            ("stored as", "frames", "way", "first ms", "total s", "GB/s", "peak MiB"),
            [
                (
                    one.group,
                    f"{one.frames:,}",
                    one.way,
                    number(one.first.median_ms),
                    f"{one.total.median_ms / 1000:.2f}",
                    f"{one.gigabytes_per_s:.2f}",
                    f"{one.peak_bytes / 2**20:,.0f}",
                )
                for one in run.streams
            ],
        )
    if run.besides:
        rows = [
            (
                f"{one.group}, {one.request}",
                one.others,
                number(one.alone.median_ms),
                number(one.beside.median_ms),
                f"{one.p95_percent:+.0f} %",
            )
            for one in run.besides
        ]
        yield table(("stored as", "beside", "alone ms", "beside ms", "p95 by"), rows, frozenset({0, 1}))
    if run.refusals:
        refused = [(one.situation, number(one.answer.median_ms), number(one.answer.max_ms)) for one in run.refusals]
        yield table(("503 while", "median ms", "slowest ms"), refused)
    if run.rates:
        rates = [(one.group, one.what, f"{one.count:,}", f"{one.per_s:,.0f}") for one in run.rates]
        yield table(("who", "what", "count", "a second"), rates, frozenset({0, 1}))
    if run.throughputs:
        passes = [(one.group, one.request, one.path, one.state, f"{one.slices_per_s:,.0f}") for one in run.throughputs]
        yield table(("stored as", "request", "by", "state", "slices/s"), passes, frozenset({0, 1, 2, 3}))


def about(run: Run) -> str:
    """On what, when, and with which versions."""
    libraries = ", ".join(f"{name} {version}" for name, version in run.machine.libraries.items())
    programs = ", ".join(f"{name}: {version}" for name, version in run.programs.items())
    before, after = run.load_average
    facts = {
        "Measured": f"{run.date}, {run.duration_s:,.0f} s; load average {before:.1f} before, {after:.1f} after",
        "Version": f"gpu-render {run.version}, revision {run.revision}",
        "Machine": f"{report.heading(run)}; {run.machine.system}",
        "Software": f"{run.machine.python}, {libraries}" + (f"; {programs}" if programs else ""),
    }
    busy = max(run.load_average) > run.machine.cores
    warning = '<p class="bad">The machine had other work to do during this run.</p>' if busy else ""
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in run.notes)
    return f'<dl class="quiet">{items}</dl>{warning}<ul class="quiet">{notes}</ul>'


def section(run: Run) -> str:
    """One run, whole."""
    return "".join((f"<h3>{html.escape(run.benchmark)}</h3>", *plots(run), *tables(run), about(run)))


def over_revisions(stored: Sequence[Stored]) -> str:
    """What was measured at more than one revision; the figures that changed most are drawn."""
    found = [line for line in history.lines(stored) if len(line.points) > 1 and min(p.median for p in line.points) > 0]
    if not found:
        return "<p>No figure was measured more than once on this machine yet.</p>"
    found.sort(key=lambda line: -abs(_change(line) - 1))
    shown = found[:MOST_LINES]
    drawn = picture(lambda path: drawing.history(shown, path), "median of each figure over the revisions")
    rows = [
        (
            f"{line.benchmark}: {line.group}, {line.name}",
            line.unit,
            " -> ".join(number(point.median) for point in line.points),
            f"{_change(line):.2f}",
            " -> ".join(point.revision[:9] for point in line.points),
        )
        for line in found
    ]
    columns = ("figure", "unit", "medians", "last / first", "revisions")
    return drawn + table(columns, rows, frozenset({0, 1, 4}))


def _change(line: Line) -> float:
    return line.points[-1].median / line.points[0].median


def page(results: history.Results) -> str:
    """All results, this machine's first. Raises BenchmarkError where plots cannot be drawn."""
    groups, here = history.by_machine(results.stored), machine.describe().slug
    made = [f"<h1>gpu-render {html.escape(__version__)}: benchmarks</h1>"]
    made.append(f'<p class="quiet">Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Figures of one machine compare.</p>')
    for slug in sorted(groups, key=lambda slug: (slug != here, slug)):
        mine = groups[slug]
        made.append(f"<h2>{html.escape(slug)}</h2>")
        latest = history.latest(mine)
        made += [section(latest[name].run) for name in FIRST if name in latest]
        made += ["<h3>Over revisions</h3>", over_revisions(mine)]
        made += [section(one.run) for name, one in sorted(latest.items()) if name not in FIRST]
    if not groups:
        made.append("<p>Nothing was measured yet.</p>")
    if results.refused:
        refused = [(path.name, why) for path, why in results.refused.items()]
        made += ["<h2>Files that are no results</h2>", table(("file", "why"), refused, frozenset({0, 1}))]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>gpu-render benchmarks</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(made)}</body></html>\n"
    )


def write(results: history.Results, path: Path) -> None:
    """The page as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), "utf-8")
