"""``python -m benchmarks.load``: what a person waits for one slice while a thousand prefetches wait, and how soon a
full service says so.

The real service runs as a process of its own on loopback, with a cache that keeps nothing, so that every request is
read and decoded. A person asks for one slice after the other, with pauses of 5 to 35 ms; in turns nobody else asks, and
a thousand prefetches (``Priority: u=7``) of all series are in line, each on a connection of its own. Then their clients
go away, and it is measured how long the service keeps what they asked for.
"""

import argparse
import contextlib
import itertools
import os
import random
import resource
import socket
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import data, drawing, grids, machine, record, report
from benchmarks.harness import SERVICE, BenchmarkError, Client, Question, Server, serving
from benchmarks.slice import manifest, stored, wait_for_index
from gpu_render import __version__
from gpu_render.settings import default_cache_dir

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-load.png"
NUMBERS = (1, 2, 3)
"""Series Numbers: uncompressed, JPEG 2000, HTJ2K."""
PAUSE_S = (0.005, 0.035)
SETTLE_S = 0.5
PROBES = 64
REFILL_PER_S = 200
NOTES = (
    "Time from sending the request to the last byte of one slice's stored values; the service's cache keeps nothing.",
    "Beside: prefetches of all three series are in line, each on a connection of its own.",
    "Alone and beside take turns in one run.",
    "The client, the service and its decoders share the machine's cores.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: requests a turn, turns, requests that come at once to a service and fill its queue, and
    how many a person sends to it then."""

    slices: int
    rounds: int
    per_turn: int
    flood: int
    refusals: int
    queue: int
    prefetches: int


FULL = Plan(slices=210, rounds=10, per_turn=40, flood=3000, refusals=400, queue=100, prefetches=1000)
QUICK = Plan(slices=26, rounds=1, per_turn=5, flood=200, refusals=40, queue=4, prefetches=100)


@dataclass(slots=True)
class Found:
    """What was measured so far [ms], and how many prefetches were still in line at the end of a turn."""

    durations: dict[tuple[int, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    waiting: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    forgotten: list[float] = field(default_factory=list)


def allow_connections(count: int) -> None:
    """Let this process, and those that it starts, have so many connections open. Raises BenchmarkError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchmarkError(f"this user may open {hard} files, and {wanted} are needed (ulimit -n)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def flood(port: int, urls: Iterator[str], count: int, urgency: int) -> Iterator[list[socket.socket]]:
    """``count`` requests on connections of their own, of which nothing is read; closed at the end of the block."""
    with contextlib.ExitStack() as stack:
        connections = []
        for url in itertools.islice(urls, count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            request = f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nPriority: u={urgency}\r\n\r\n"
            connection.sendall(request.encode())
            connections.append(connection)
        yield connections


def figure(client: Client, name: str) -> int:
    """One figure of ``/metrics``."""
    text = client.ask(Question("/metrics", "*/*")).body.decode()
    lines = (line.split() for line in text.splitlines() if line.startswith(f"gpu_render_{name} "))
    return int(float(next(lines)[1]))


def wait_until(client: Client, name: str, least: int, most: int, limit_s: float = 30.0) -> float:
    """Until a figure is between both; returns how long that took [ms]. Raises BenchmarkError."""
    begun = time.perf_counter()
    while not least <= (value := figure(client, name)) <= most:
        if time.perf_counter() - begun > limit_s:
            raise BenchmarkError(f"{name} is {value}, not {least} to {most}")
        time.sleep(0.01)
    return (time.perf_counter() - begun) * 1000


def one_turn(client: Client, urls: Iterator[str], count: int, order: random.Random) -> list[float]:
    """A person asks for some slices, one after the other."""
    durations = []
    for url in itertools.islice(urls, count):
        time.sleep(order.uniform(*PAUSE_S))
        durations.append(client.ask(stored(url)).duration_ms)
    return durations


def measure_beside(port: int, urls: dict[int, list[str]], plan: Plan, found: Found) -> None:
    """Turns alone and beside prefetches, for every series, in another order each round."""
    order = random.Random(plan.rounds)
    asked = {number: itertools.cycle(series) for number, series in urls.items()}
    for _ in range(plan.rounds):
        everything = [url for series in urls.values() for url in series]
        order.shuffle(everything)
        turns = [(number, state) for number in urls for state in ("alone", "beside")]
        for number, state in order.sample(turns, len(turns)):
            with contextlib.closing(Client(port)) as client:
                if state == "alone":
                    found.durations[number, state] += one_turn(client, asked[number], plan.per_turn, order)
                    continue
                with flood(port, itertools.cycle(everything), plan.prefetches, urgency=7):
                    wait_until(client, "prefetches_waiting", plan.prefetches // 2, plan.prefetches)
                    time.sleep(SETTLE_S)
                    found.durations[number, state] += one_turn(client, asked[number], plan.per_turn, order)
                    found.waiting[number].append(figure(client, "prefetches_waiting"))
                found.forgotten.append(wait_until(client, "prefetches_waiting", 0, 0))
                time.sleep(SETTLE_S)


def refusal_ms(port: int, url: str) -> float | None:
    """How long one request waits for its 503; None where it was taken into the queue. Raises BenchmarkError."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        begun = time.perf_counter()
        connection.sendall(f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = connection.recv(1 << 16)
        duration_ms = (time.perf_counter() - begun) * 1000
    if answer.startswith(b"HTTP/1.1 200"):
        return None
    if not answer.startswith(b"HTTP/1.1 503") or b"\r\nretry-after: " not in answer.lower():
        raise BenchmarkError(f"no 503 with Retry-After but {answer[:60]!r}")
    return duration_ms


@contextlib.contextmanager
def refilling(port: int, urls: Iterator[str]) -> Iterator[None]:
    """REFILL_PER_S further requests, which take the places of those that are done, until the block ends."""
    done = threading.Event()

    def work() -> None:
        open_now: deque[contextlib.ExitStack] = deque()
        while not done.wait(1 / REFILL_PER_S):
            open_now.append(contextlib.ExitStack())
            open_now[-1].enter_context(flood(port, urls, 1, urgency=3))
            if len(open_now) > 10 * REFILL_PER_S:  # answered long ago
                open_now.popleft().close()
        for one in open_now:
            one.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def ask_anyway(port: int, urls: Sequence[str], count: int) -> record.Summary:
    """``count`` requests, one each 20 ms, whether the others have been answered or not; how long the refused ones took.
    The others came when a place in the queue had just become free. Raises BenchmarkError."""
    order, answers = random.Random(count), []
    with ThreadPoolExecutor(PROBES) as threads:  # those that are taken wait for their answers
        for _ in range(count):
            time.sleep(0.02)
            answers.append(threads.submit(refusal_ms, port, order.choice(urls)))
    durations = [duration_ms for answer in answers if (duration_ms := answer.result()) is not None]
    if not durations:
        raise BenchmarkError("a queue that should be full took every request")
    return record.summarize(durations)


def measure_refusals(
    port: int, urls: Sequence[str], probes: Sequence[str], plan: Plan
) -> tuple[record.Refusal, record.Refusal]:
    """A person's requests for ``probes`` while the queue is full of others' for ``urls``: kept full by as many as come
    all the time, and just after thousands came at once, each of which the service has to look at. Requests for one
    frame share a place in the queue, so nobody else asks for the probes."""
    full = f"the queue of {plan.queue:,} is full"
    with refilling(port, itertools.cycle(urls)):
        time.sleep(SETTLE_S + plan.queue / REFILL_PER_S)
        kept = ask_anyway(port, probes, plan.refusals)
        with flood(port, itertools.cycle(urls), plan.flood, urgency=3):
            burst = ask_anyway(port, probes, plan.refusals // 4)
    return (
        record.Refusal(situation=f"{full} and {REFILL_PER_S} more requests come each second", answer=kept),
        record.Refusal(situation=f"{full} and {plan.flood:,} more requests come at once", answer=burst),
    )


@contextlib.contextmanager
def running(folder: Path, plan: Plan, queue: int) -> Iterator[tuple[Server, Client]]:
    """The service over ``folder``, indexed, with a queue of this length and a cache that keeps nothing."""
    with contextlib.ExitStack() as stack:
        index = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "index.sqlite"
        settings = ("env", "GPU_RENDER_CACHE_BYTES=0", f"GPU_RENDER_QUEUE_CAPACITY={queue}")
        command = (*settings, *SERVICE, str(folder), "--index", str(index))
        service = stack.enter_context(serving(command, "/health/ready"))
        client = stack.enter_context(contextlib.closing(Client(service.port)))
        wait_for_index(client, plan.slices * len(data.SERIES))
        data.read_all(folder)
        yield service, client


def measure(folder: Path, plan: Plan) -> record.Run:
    """Start the service over ``folder``, measure, stop it."""
    start, load_before, date = time.perf_counter(), os.getloadavg()[0], datetime.now(UTC)
    allow_connections(plan.flood + 11 * REFILL_PER_S)
    found = Found()
    with running(folder, plan, plan.prefetches + 24) as (service, client):
        urls = {number: [frame["url"] for frame in manifest(client, number)] for number in NUMBERS}
        backend = client.ask(Question(f"{urls[1][0]}?window=40,400")).headers["x-render-backend"]
        one_turn(client, iter(urls[2]), plan.per_turn, random.Random(0))  # the decoders are started
        measure_beside(service.port, urls, plan, found)
    with running(folder, plan, plan.queue) as (full, client):
        slow, probes = ([f"{frame['url']}?stage=stored" for frame in manifest(client, number)] for number in (2, 3))
        refusals = measure_refusals(full.port, slow, probes, plan)
    forgotten = record.summarize(found.forgotten)
    return record.Run(
        benchmark="load",
        date=date.isoformat(timespec="seconds"),
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=machine.revision(),
        backend=backend,
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=service.startup_s,
        ruler_ms=0,
        notes=(
            *NOTES,
            f"After all clients of the prefetches had gone, their line was empty within {forgotten.max_ms:.0f} ms "
            f"(slowest of {forgotten.n}).",
        ),
        cases=(),
        besides=tuple(
            record.Beside(
                group=data.NAMES[number],
                request="stored values",
                others=f"{plan.prefetches:,} prefetches",
                others_waiting=min(found.waiting[number]),
                alone=record.summarize(found.durations[number, "alone"]),
                beside=record.summarize(found.durations[number, "beside"]),
            )
            for number in NUMBERS
        ),
        refusals=refusals,
    )


COLUMNS = ("stored as", "alone: median ms", "p95", "beside prefetches: median ms", "p95", "p95 by", "n")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""
    return [
        (
            one.group,
            f"{one.alone.median_ms:.2f}",
            f"{one.alone.p95_ms:.2f}",
            f"{one.beside.median_ms:.2f}",
            f"{one.beside.p95_ms:.2f}",
            f"{one.p95_percent:+.0f} %",
            f"{one.alone.n} + {one.beside.n}",
        )
        for one in run.besides
    ]


def refusal_text(run: record.Run) -> str:
    """A sentence about the 503s."""
    return " ".join(
        f"503 while {one.situation}: "
        f"median {one.answer.median_ms:.1f} ms, p95 {one.answer.p95_ms:.1f} ms, "
        f"slowest {one.answer.max_ms:.1f} ms (n {one.answer.n})."
        for one in run.refusals
    )


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("one slice while others wait", COLUMNS, rows(run), caption=report.heading(run))


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    text = grids.markdown(COLUMNS, rows(run))
    return f"{text}\n\n{refusal_text(run)} {run.notes[-1]} {report.heading(run)}.\n"


def plot(run: record.Run, path: Path) -> None:
    """Median and 95th percentile, alone and beside."""
    drawn = drawing.figure(8, 3.6)
    axes = drawn.add_subplot()
    for place, one in enumerate(run.besides):
        for shift, summary, colour in ((-0.2, one.alone, report.NEITHER), (0.2, one.beside, report.WARM)):
            axes.bar(place + shift, summary.median_ms, 0.36, color=colour)
            p95_ms = summary.p95_ms or summary.max_ms
            axes.plot([place + shift] * 2, [summary.median_ms, p95_ms], color="black", linewidth=0.8)
            axes.plot(place + shift, p95_ms, "_", color="black", markersize=10)
        axes.text(place, one.beside.p95_ms or 0, f"p95 {one.p95_percent:+.0f} %", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(run.besides)), [one.group for one in run.besides])
    axes.set_ylabel("ms: bar median, tick p95")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.set_title(
        f"One slice, alone (grey) and beside {run.besides[0].others} (blue)\n{report.heading(run)}", fontsize=9
    )
    axes.grid(axis="y", linewidth=0.4)
    drawing.save(drawn, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument("--slices", type=int, help="slices in each series")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-load.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), Console()
    if not console.is_terminal:
        console = Console(width=120)
    plan = QUICK if options.quick else FULL
    plan = replace(plan, slices=options.slices or plan.slices)
    try:
        run = measure(data.prepare(options.data, plan.slices), plan)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    if options.markdown:
        console.print(markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(table(run))
        console.print(refusal_text(run), run.notes[-1])
    results = options.results or (None if options.quick else record.RESULTS)
    picture = options.plot or (None if options.quick else PLOT)
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    if picture is not None:
        plot(run, picture)
        console.print(f"wrote {picture}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
