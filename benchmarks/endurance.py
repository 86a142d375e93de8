"""``python -m benchmarks.endurance``: the memory of the service and its workers over ten minutes of mixed requests.

A steady number of requests a second, of all kinds and about all slices, comes over eight connections, whether the last
ones were answered or not. The cache of decoded frames is small, so that it is full within seconds and frames leave it
all the time. Every few seconds it is read from the system how much memory the processes hold. What grows shows as a
slope, in MB an hour, with an interval; the first third of the run does not count, in which caches and pools fill.
"""

import argparse
import contextlib
import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import comparing, data, drawing, grids, record, report, running
from benchmarks.harness import WITHOUT_LOOKAHEAD, BenchmarkError, Client, Question, serving
from benchmarks.slice import manifest, picture, stored, wait_for_index
from gpu_render.demo import phantom_uid
from gpu_render.settings import default_cache_dir

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-endurance.png"
CONNECTIONS = 8
CACHE_MIB = 32
MEGA = 1e6
SHORTEST_S = 300
NOTES = (
    "PSS: memory of a process with its part of what several processes share; the sum over all is what the machine "
    "gives. RSS counts what is shared in each of them.",
    "Growth: the median slope between all pairs of points (Theil, Sen) of the last two thirds of the run; its spread "
    "is that of 400 resamples in blocks, which is what n counts.",
    f"Cache of decoded frames: {CACHE_MIB} MiB, less than the slices that are asked for take.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``per_s`` requests for ``seconds``; memory is read every ``every_s``."""

    seconds: float
    per_s: float
    every_s: float
    slices: int


FULL = Plan(seconds=600, per_s=40, every_s=2, slices=26)
QUICK = Plan(seconds=20, per_s=20, every_s=0.2, slices=10)


@dataclass(slots=True)
class Found:
    """What was read of memory [byte] and of answers [ms] so far."""

    at_s: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(
        default_factory=lambda: {"service, RSS": [], "workers, RSS": [], "all, PSS": []}
    )
    processes: list[int] = field(default_factory=list)
    durations_ms: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


def family(pid: int) -> list[int]:
    """A process and all that descend from it, itself first."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = list[int](), [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def memory_of(pid: int) -> tuple[int, int]:
    """(RSS, PSS) of a process [byte]; zeros where it has ended. Where the system does not tell PSS, it is the RSS."""
    sizes = {"Rss:": 0, "Pss:": -1}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name in sizes:
                sizes[name] = int(rest[0]) * 1024
    return sizes["Rss:"], sizes["Pss:"] if sizes["Pss:"] >= 0 else sizes["Rss:"]


def read_memory(pid: int, at_s: float, found: Found) -> None:
    """Of the service and all its workers, now. Raises BenchmarkError where the service has ended."""
    everyone = [(one, *memory_of(one)) for one in family(pid)]
    if not everyone[0][1]:
        raise BenchmarkError("the service has ended")
    found.at_s.append(at_s)
    found.processes.append(len(everyone))
    found.memory["service, RSS"].append(everyone[0][1])
    found.memory["workers, RSS"].append(sum(rss for _, rss, _ in everyone[1:]))
    found.memory["all, PSS"].append(sum(pss for *_, pss in everyone))


def questions(frames: dict[int, list[str]], seed: int) -> Iterator[tuple[str, Question]]:
    """Without end: what a viewer asks for, about any slice of any series."""
    chance = random.Random(seed)
    study, numbers = phantom_uid("study"), list(frames)
    while True:
        number = chance.choice(numbers)
        url = chance.choice(frames[number])
        series = f"studies/{study}/series/{phantom_uid('series', number)}"
        window = f"{chance.randint(-600, 400)},{chance.randint(1, 2000)}"
        wado = f"/dicomweb/{url.partition('/api/')[2].partition('?')[0]}"
        multipart = 'multipart/related; type="application/octet-stream"'
        kinds = [
            (6, "stored values", stored(url)),
            (6, "picture", picture(url, window)),
            (3, "thumbnail", Question(f"{url}?stage=display&viewport=128,128")),
            (2, "WADO-RS frame", Question(wado, multipart)),
            (1, "rendered", Question(f"{wado}/rendered", "image/jpeg")),
            (1, "manifest", Question(f"/api/{series}", "application/json")),
            (1, "metadata", Question(f"/dicomweb/{series}/metadata", "application/dicom+json")),
            (1, "search", Question("/dicomweb/studies?PatientID=DEMO-1", "application/dicom+json")),
        ]
        (_, name, question), *_ = chance.choices(kinds, [weight for weight, *_ in kinds])
        yield name, question


def ask_steadily(port: int, frames: dict[int, list[str]], plan: Plan, begun_s: float, found: Found) -> None:
    """All requests of the run, each at its time, over several connections; one that fails is counted."""
    lock, asked = threading.Lock(), questions(frames, CONNECTIONS)
    places = itertools.count()

    def work() -> None:
        with contextlib.closing(Client(port)) as client:
            while True:
                with lock:
                    due_s = begun_s + next(places) / plan.per_s
                    name, question = next(asked)
                if due_s > begun_s + plan.seconds:
                    return
                time.sleep(max(0.0, due_s - time.perf_counter()))
                try:
                    duration_ms, error = client.ask(question).duration_ms, ""
                except (BenchmarkError, OSError) as trouble:
                    duration_ms, error = 0.0, f"{name}: {str(trouble).partition(' for ')[0]}"
                with lock:
                    found.kinds[name] += 1
                    if error:
                        found.errors[error] += 1
                    else:
                        found.durations_ms.append(duration_ms)

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def watch(pid: int, plan: Plan, begun_s: float, found: Found, step: Callable[[float], None]) -> None:
    """Read memory until the run's end."""
    while (now := time.perf_counter()) < begun_s + plan.seconds:
        read_memory(pid, now - begun_s, found)
        step(now - begun_s)
        time.sleep(plan.every_s)


def measurements(found: Found) -> Iterator[record.Measurement]:
    """Memory of the last two thirds, its growth, and how long answers took."""
    settled = [place for place, at_s in enumerate(found.at_s) if at_s >= max(found.at_s) / 3]
    at_s = [found.at_s[place] for place in settled]
    for name, values in found.memory.items():
        kept = [values[place] / MEGA for place in settled]
        yield record.Measurement(name=f"memory: {name}", unit="MB", summary=record.spread(kept))
        slopes = comparing.slope(at_s, kept) * 3600
        summary = record.spread(slopes[1:].tolist()).model_copy(update={"median": float(slopes[0])})
        yield record.Measurement(name=f"growth: {name}", unit="MB/h", summary=summary)
    if found.durations_ms:
        yield record.Measurement(
            name="answers of all kinds",
            unit="ms",
            parameters=dict(found.kinds),
            summary=record.spread(found.durations_ms),
            throughput=len(found.durations_ms) / max(found.at_s),
            errors=dict(found.errors),
        )


def measure(folder: Path, plan: Plan, console: Console) -> record.Run:
    """Start the service, ask and watch, stop it. Raises BenchmarkError."""
    started, found = running.Started(), Found()
    with contextlib.ExitStack() as stack:
        index = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "index.sqlite"
        settings = ("env", f"GPU_RENDER_CACHE_BYTES={CACHE_MIB << 20}")
        command = (*settings, *WITHOUT_LOOKAHEAD, str(folder), "--index", str(index))
        service = stack.enter_context(serving(command, "/health/ready"))
        with contextlib.closing(Client(service.port)) as client:
            wait_for_index(client, plan.slices * len(data.SERIES))
            frames = {number: [frame["url"] for frame in manifest(client, number)] for number in data.NAMES}
            backend = client.ask(picture(frames[1][0])).headers["x-render-backend"]
        bar = stack.enter_context(running.progress(console))
        task, begun_s = bar.add_task("asking", total=round(plan.seconds)), time.perf_counter()
        asking = threading.Thread(target=ask_steadily, args=(service.port, frames, plan, begun_s, found))
        asking.start()
        try:
            watch(service.pid, plan, begun_s, found, lambda at_s: bar.update(task, completed=round(at_s)))
        finally:
            asking.join()
    short = (f"A run of {plan.seconds:.0f} s says little of growth.",) if plan.seconds < SHORTEST_S else ()
    return started.record(
        "endurance",
        (*NOTES, f"Processes: {min(found.processes)} to {max(found.processes)}.", *short),
        backend=backend,
        startup_s=service.startup_s,
        measurements=tuple(measurements(found)),
        traces=tuple(
            record.Trace(
                name=f"memory: {name}",
                unit="MB",
                at_s=tuple(round(at_s, 2) for at_s in found.at_s),
                values=tuple(value / MEGA for value in values),
            )
            for name, values in found.memory.items()
        ),
    )


COLUMNS = ("what", "unit", "median", "middle half", "largest", "n", "errors")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""
    return [
        (
            one.name,
            one.unit,
            f"{one.summary.median:,.2f}",
            f"{one.summary.q1:,.2f} - {one.summary.q3:,.2f}",
            f"{one.summary.max:,.2f}",
            f"{one.summary.n:,}",
            ", ".join(f"{times} x {what}" for what, times in one.errors.items()) or "0",
        )
        for one in run.measurements
    ]


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("memory over the run", COLUMNS, rows(run), (0, 1, 6), report.heading(run))


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    text = grids.markdown(COLUMNS, rows(run), (0, 1, 6))
    return f"{text}\n\n{report.heading(run)}; {run.duration_s:.0f} s. {' '.join(run.notes)}\n"


def plot(run: record.Run, path: Path) -> None:
    """Memory over the run."""
    figure = drawing.figure(9, 4)
    axes = figure.add_subplot()
    for trace, colour in zip(run.traces, (report.WARM, report.COLD, report.NEITHER), strict=True):
        axes.plot(trace.at_s, trace.values, color=colour, linewidth=1, label=trace.name.partition(": ")[2])
    axes.set_xlabel("s since the first request")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.4)
    axes.legend(fontsize=8)
    axes.set_title(f"Memory over mixed requests\n{report.heading(run)}", fontsize=9)
    drawing.save(figure, path)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 s; nothing is written unless asked")
    parser.add_argument("--seconds", type=float, help="how long (default: 600)")
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-endurance.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console()
    chosen = plan or (QUICK if options.quick else FULL)
    if options.seconds is not None:
        every_s = min(chosen.every_s, options.seconds / 60)
        chosen = Plan(options.seconds, chosen.per_s, every_s, chosen.slices)

    def work() -> record.Run:
        return measure(data.prepare(options.data, chosen.slices), chosen, console)

    return running.command(options, console, work, table, markdown, plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
