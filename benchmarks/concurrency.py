"""``python -m benchmarks.concurrency``: 1 to 256 clients at once, each of which asks for a slice when it has the last.

Uncompressed slices as stored and as windowed pictures, from the cache, and pictures of JPEG 2000 slices with a cache
that keeps nothing; beside them, in turn and by as many clients, the ruler. wrk asks where it is installed; the clients,
the service and its decoders share the machine.
"""

import argparse
import contextlib
import itertools
import math
import random
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import clients, comparing, data, drawing, grids, record, report, running
from benchmarks.clients import Load
from benchmarks.harness import RULER, WITHOUT_LOOKAHEAD, BenchmarkError, Client, Question, Server, serving
from benchmarks.series import path_of, write_series
from benchmarks.slice import get_json, picture, stored, wait_for_index

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-concurrency.png"
RULED, STORED, PICTURE, DECODED = "ruler", "stored values, warm", "picture, warm", "picture, JPEG 2000, cold"
NATIVE, JPEG_2000 = 1, 2
MANY = 8
"""Clients at which the promises about the ruler and the 99th percentile are made."""
LONGEST_S = 20.0
OF_THE_RULER, TAIL, OF_THE_BEST = 0.7, 5.0, 0.8
NOTES = (
    "Throughput: answers of status 200 a second, one value a round. Latency: medians over the rounds of what each "
    "round says of all its answers, refusals included; wrk corrects its percentiles for answers that kept a client "
    "waiting.",
    "Warm: the frames are in the service's cache. Cold: its cache keeps nothing; every picture is decoded. What "
    "several clients ask for in the same moment is decoded once, and there are more slices than clients.",
    "Clients, service and decoders share the machine's cores.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``native`` and ``compressed`` slices, with ``distinct`` pictures; ``seconds`` a load."""

    clients: tuple[int, ...]
    rounds: int
    seconds: float
    native: int
    compressed: int
    distinct: int
    by: str | None = None
    """Who asks: none: see ``clients.generator``."""


FULL = Plan((1, 2, 4, 8, 16, 32, 64, 128, 256), rounds=5, seconds=1, native=64, compressed=1024, distinct=30)
QUICK = Plan((1, 8, 64), rounds=1, seconds=1, native=8, compressed=96, distinct=4)


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked for what."""

    name: str
    group: str
    port: int
    paths: Sequence[str]


@dataclass(slots=True)
class Found:
    loads: dict[tuple[str, int], list[Load]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, Counter[str]] = field(default_factory=dict)


@contextlib.contextmanager
def service(folder: Path, index: Path, count: int, *settings: str) -> Iterator[tuple[Server, Client]]:
    """The service over ``folder``, indexed. ``settings``: NAME=VALUE of its environment."""
    command = ("env", *settings, *WITHOUT_LOOKAHEAD, str(folder), "--index", str(index))
    with serving(command, "/health/ready") as server, contextlib.closing(Client(server.port)) as client:
        wait_for_index(client, count)
        data.read_all(folder)
        yield server, client


def urls_of(client: Client, number: int) -> list[str]:
    return [frame["url"] for frame in get_json(client, path_of(number))["frames"]]


def check_warm(client: Client, urls: Sequence[str]) -> str:
    """Put all into the cache; returns the backend's name. Raises BenchmarkError unless they are answered from there."""
    backend = ""
    for _, url in itertools.product(range(2), urls):
        backend = client.ask(picture(url)).headers["x-render-backend"]
    for url in urls:
        for question in (stored(url), picture(url)):
            if "read" in client.ask(question).headers.get("server-timing", ""):
                raise BenchmarkError(f"{question.url} is not warm")
    return backend


def check_cold(client: Client, urls: Sequence[str]) -> None:
    """Raises BenchmarkError unless a slice is read and decoded each time it is asked for."""
    for url in (*urls[:2], *urls[:2]):
        answer = client.ask(picture(url))
        if "read" not in answer.headers.get("server-timing", "") or not answer.headers.get("x-decode-backend"):
            raise BenchmarkError(f"{url} is not cold")


def measure_loads(targets: Sequence[Target], plan: Plan, found: Found, step: Callable[[], None]) -> None:
    """Every target by every number of clients, in another order each round; then what refusals there are, by status."""
    order = random.Random(plan.rounds)
    rates = dict[str, float]()

    def load(target: Target, count: int, by: str | None = plan.by) -> Load:
        seconds = long_enough(plan.seconds, count, rates.get(target.name, math.inf))
        return clients.load(target.port, target.paths, count, seconds, by)

    for target in targets:
        rates[target.name] = load(target, 4).per_s

    for _ in range(plan.rounds):
        for count in order.sample(plan.clients, len(plan.clients)):
            for target in order.sample(targets, len(targets)):
                found.loads[target.name, count].append(load(target, count))
                step()
    for target in targets:
        found.statuses[target.name] = Counter(load(target, max(plan.clients), by="asyncio").errors)


def long_enough(seconds: float, count: int, per_s: float) -> float:
    """How long ``count`` clients ask where so many a second are answered: each is answered three times at least."""
    return min(max(seconds, math.ceil(3 * count / max(per_s, 1))), LONGEST_S)


def throughput_of(target: Target, count: int, loads: Sequence[Load]) -> record.Measurement:
    """Answers a second."""
    values = tuple(load.per_s for load in loads)
    return record.Measurement(
        name=f"{target.name}: throughput",
        unit="requests/s",
        group=target.group,
        who=RULED if target.name == RULED else "gpu-render",
        parameters={"clients": count},
        summary=record.spread(values),
        better="higher",
        throughput=statistics.median(values),
        errors=dict(sum((Counter(load.errors) for load in loads), Counter())),
        samples=values,
    )


def latency_of(target: Target, count: int, loads: Sequence[Load]) -> record.Measurement:
    """Each percentile's median over the rounds; smallest and largest of all."""
    kept = {
        name: statistics.median(getattr(load.latency, name) for load in loads)
        for name in ("median", "q1", "q3", "p95", "p99")
    }
    low, high = min(load.latency.min for load in loads), max(load.latency.max for load in loads)
    return record.Measurement(
        name=f"{target.name}: latency",
        unit="ms",
        group=target.group,
        who=RULED if target.name == RULED else "gpu-render",
        parameters={"clients": count},
        summary=record.Spread(n=sum(load.latency.n for load in loads), min=low, max=high, **kept),
    )


def ratios(found: Found, plan: Plan) -> Iterator[record.Ratio]:
    """What was promised, where the clients that it is about were there."""
    most, rates = max(plan.clients), {key: [one.per_s for one in loads] for key, loads in found.loads.items()}
    for name in (STORED, PICTURE):
        if (name, MANY) in rates:
            target = OF_THE_RULER if name == STORED else None
            pair = ("gpu-render", rates[name, MANY]), ("ruler", rates[RULED, MANY])
            yield comparing.compare(f"{name}: throughput, {MANY} clients", *pair, target=target)
            loads = found.loads[name, MANY]
            pair = ("p99", [one.latency.p99 for one in loads]), ("p50", [one.latency.median for one in loads])
            yield comparing.compare(f"{name}: tail, {MANY} clients", *pair, better="lower", target=TAIL)
    for name in (STORED, PICTURE, DECODED):
        best = max(plan.clients, key=lambda count: statistics.median(rates[name, count]))
        pair = (f"{most} clients", rates[name, most]), (f"the best, {best} clients", rates[name, best])
        yield comparing.compare(f"{name}: throughput", *pair, target=OF_THE_BEST)


def measure(plan: Plan, console: Console) -> record.Run:
    """Write the slices, start the service twice and the ruler, measure."""
    started, found = running.Started(), Found()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = {number: work / str(number) for number in (NATIVE, JPEG_2000)}
        write_series(folders[NATIVE], NATIVE, plan.native, min(plan.distinct, plan.native))
        write_series(folders[JPEG_2000], JPEG_2000, plan.compressed, plan.distinct)
        warm, client = stack.enter_context(service(folders[NATIVE], work / "warm.sqlite", plan.native))
        native = urls_of(client, NATIVE)
        backend = check_warm(client, native)
        nothing = "GPU_RENDER_CACHE_BYTES=0"
        cold, client = stack.enter_context(service(folders[JPEG_2000], work / "cold.sqlite", plan.compressed, nothing))
        compressed = urls_of(client, JPEG_2000)
        check_cold(client, compressed)
        scale = stack.enter_context(serving(RULER, "/"))
        targets = [
            Target(RULED, RULED, scale.port, ["/"]),
            Target(STORED, data.NAMES[NATIVE], warm.port, [stored(url).url for url in native]),
            Target(PICTURE, data.NAMES[NATIVE], warm.port, [picture(url).url for url in native]),
            Target(DECODED, data.NAMES[JPEG_2000], cold.port, [picture(url).url for url in compressed]),
        ]
        with running.progress(console) as bar:
            task = bar.add_task("measuring", total=plan.rounds * len(plan.clients) * len(targets))
            measure_loads(targets, plan, found, lambda: bar.advance(task))
        with contextlib.closing(Client(cold.port)) as again:
            check_cold(again, compressed)
        copied = measure_copy(scale.port)
    places = {target.name: target for target in targets}
    return started.record(
        "concurrency",
        (*NOTES, *refusal_notes(found, max(plan.clients))),
        backend=backend,
        startup_s=warm.startup_s,
        ruler_ms=copied,
        measurements=tuple(
            make(places[name], count, loads)
            for (name, count), loads in sorted(found.loads.items())
            for make in (throughput_of, latency_of)
        ),
        ratios=tuple(ratios(found, plan)),
        programs={"load generator": clients.generator_version()},
    )


def measure_copy(port: int) -> float:
    """The ruler's median for one client, as every run states it [ms]."""
    with contextlib.closing(Client(port)) as client:
        return statistics.median(client.ask(Question("/")).duration_ms for _ in range(50))


def refusal_notes(found: Found, most: int) -> Iterator[str]:
    """What did not go well, in words: asked once more by clients that see each status."""
    for name, errors in found.statuses.items():
        said = ", ".join(f"{count:,} x {what}" for what, count in sorted(errors.items())) or "none"
        yield f"Errors of {name} at {most} clients, asked once by clients in Python: {said}."


COLUMNS = ("request", "clients", "requests/s", "middle half", "p50 ms", "p95 ms", "p99 ms", "errors")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""
    found: dict[tuple[str, int], dict[str, record.Measurement]] = defaultdict(dict)
    for one in run.measurements:
        name, _, kind = one.name.rpartition(": ")
        found[name, int(one.parameters["clients"])][kind] = one
    lines = []
    for (name, count), both in sorted(found.items()):
        rate, wait = both["throughput"], both["latency"].summary
        errors = ", ".join(f"{what} {times}" for what, times in rate.errors.items()) or "0"
        middle = f"{rate.summary.q1:,.0f} - {rate.summary.q3:,.0f}"
        waits = (f"{value:.2f}" for value in (wait.median, wait.p95, wait.p99))
        lines.append((name, str(count), f"{rate.summary.median:,.0f}", middle, *waits, errors))
    return lines


def table(run: record.Run) -> Table:
    """For the terminal."""
    made = Table(title="many clients at once", caption=report.heading(run), header_style="bold")
    for index, name in enumerate(COLUMNS):
        made.add_column(name, justify="right" if index else "left")
    before = ""
    for row in rows(run):
        if before and row[0] != before:
            made.add_section()
        made.add_row(*row)
        before = row[0]
    return made


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    text = grids.markdown(COLUMNS, rows(run))
    return f"{text}\n\n{report.heading(run)}. {' '.join(run.notes)}\n"


COLOURS = {RULED: report.NEITHER, STORED: report.WARM, PICTURE: "#15803d", DECODED: report.COLD}


def plot(run: record.Run, path: Path) -> None:
    """Throughput and 99th percentile over the number of clients."""
    figure = drawing.figure(9, 4)
    left, right = figure.subplots(1, 2)
    for axes, kind, of in ((left, "throughput", "median"), (right, "latency", "p99")):
        for name, colour in COLOURS.items():
            mine = [one for one in run.measurements if one.name == f"{name}: {kind}"]
            mine.sort(key=lambda one: int(one.parameters["clients"]))
            places = [int(one.parameters["clients"]) for one in mine]
            axes.plot(places, [getattr(one.summary, of) for one in mine], "-o", color=colour, label=name, markersize=3)
        counts = sorted({int(one.parameters["clients"]) for one in run.measurements})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts], fontsize=7)
        axes.set_yscale("log")
        axes.set_xlabel("clients")
        axes.grid(linewidth=0.4)
    left.set_ylabel("requests/s")
    right.set_ylabel("ms, 99th percentile")
    left.legend(fontsize=7)
    figure.suptitle(f"Many clients at once\n{report.heading(run)}", fontsize=9)
    drawing.save(figure, path)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-concurrency.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console()
    chosen = plan or (QUICK if options.quick else FULL)
    return running.command(options, console, lambda: measure(chosen, console), table, markdown, plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
