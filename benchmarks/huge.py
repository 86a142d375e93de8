"""``python -m benchmarks.huge``: objects of 200,000 frames. Time and memory to index them, reads and time to a frame.

Each object is written, indexed several times by a process of its own, and then served by the real service, which is
asked for frames at its beginning and at 95 in a hundred of it, cold and warm in turn.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import huge_objects, machine, record, report, ruler
from benchmarks.harness import (
    ROOT,
    RULER,
    WITHOUT_LOOKAHEAD,
    BenchmarkError,
    Client,
    Question,
    Series,
    interleave,
    serving,
)
from benchmarks.huge_index import peak_bytes
from benchmarks.huge_objects import OBJECTS, HugeObject, asked_frames, stored_frame, uid
from benchmarks.slice import result, wait_for_index
from gpu_render import __version__

NOTES = (
    "Index: from the file to an index that answers, in a new process with a new worker each time; the file is in the "
    "page cache of the operating system.",
    "Memory: the most that was ever resident, in the worker that parses and in the service when its index was ready.",
    "Reads a frame: from the object's file, at the beginning, in the middle, at 95 in a hundred and at the end.",
    "Frames: time from sending the request to the last byte, stored values, one request at a time. Cold: the first "
    "request for a frame. Warm: it is in the service's cache.",
)
_LOSSY_DIFFERENCE = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """``frames`` an object, indexed ``runs`` times; ``rounds`` of requests, one cold frame of each place in each."""

    frames: int
    runs: int
    rounds: int


FULL = Plan(frames=200_000, runs=5, rounds=40)
QUICK = Plan(frames=4_000, runs=2, rounds=5)


def frame_url(huge: HugeObject, frame_number: int) -> str:
    return f"{series_url(huge)}/instances/{uid(huge, 'instance')}/frames/{frame_number}"


def series_url(huge: HugeObject) -> str:
    return f"/api/studies/{uid(huge, 'study')}/series/{uid(huge, 'series')}"


def stored(huge: HugeObject, frame_number: int) -> Question:
    size = huge.side * huge.side * huge.samples_per_pixel
    return Question(frame_url(huge, frame_number) + "?stage=stored", body_bytes=size)


def index_once(path: Path, frame_numbers: Sequence[int]) -> dict[str, Any]:
    """Index the file in a new process (benchmarks.huge_index). Raises BenchmarkError."""
    command = [sys.executable, "-m", "benchmarks.huge_index", str(path), *map(str, frame_numbers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise BenchmarkError(f"{path.name} was not indexed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def check_frames(client: Client, huge: HugeObject, frame_numbers: Sequence[int]) -> str:
    """Raises BenchmarkError unless these frames have the samples that were written; returns the backend's name."""
    for number in frame_numbers:
        answer = client.ask(stored(huge, number))
        # The first sample of a pixel: in grey frames stored as YBR the others are 128.
        expected = stored_frame(huge, number).ravel()[:: huge.samples_per_pixel].astype(np.int16)
        difference = np.abs(np.frombuffer(answer.body, np.uint8)[:: huge.samples_per_pixel] - expected)
        if (difference.mean() > _LOSSY_DIFFERENCE) if huge.lossy else difference.any():
            raise BenchmarkError(f"{huge.name}: frame {number} is not the one that was written")
    picture = client.ask(Question(frame_url(huge, frame_numbers[0])))
    return picture.headers["x-render-backend"]


def frame_cases(client: Client, huge: HugeObject, frames: int) -> list[Series]:
    """Frames at the beginning and at 95 in a hundred: each once cold, and the last of them, cold before, again."""
    first, _, late, _ = asked_frames(frames)
    cases = []
    for name, numbers in (("frame 1", first), (f"frame {late[-1]:,}", late)):
        cold, warm = numbers[:-1], numbers[-1]
        questions = (stored(huge, number) for number in cold)
        again = itertools.repeat(stored(huge, warm))
        cases += [
            Series(huge.name, name, "cold", client, questions, 1),
            Series(huge.name, name, "warm", client, again, 2),
        ]
    return cases


def manifest_ms(client: Client, huge: HugeObject) -> float:
    """Median of three answers of the series' manifest."""
    return statistics.median(client.ask(Question(series_url(huge), "application/json")).duration_ms for _ in range(3))


def measure_object(
    huge: HugeObject, path: Path, plan: Plan, ruler_port: int, tell: Callable[[], None]
) -> tuple[record.Object, list[Series], str, float]:
    """Index one object and ask for its frames; the last case is that of the ruler."""
    numbers = [some[-1] for some in asked_frames(plan.frames)]
    numbers[0] = 1
    runs = []
    for _ in range(plan.runs):
        runs.append(index_once(path, numbers))
        tell()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(
            serving((*WITHOUT_LOOKAHEAD, str(path.parent), "--index", str(folder / "index.sqlite")), "/health/ready")
        )
        client = stack.enter_context(contextlib.closing(Client(service.port, 120.0)))
        ruler_client = stack.enter_context(contextlib.closing(Client(ruler_port)))
        wait_for_index(client, 1, 300.0)
        service_peak_bytes = peak_bytes(service.pid)
        warm = [some[-1] for some in asked_frames(plan.frames)]
        backend = check_frames(client, huge, warm)
        same = itertools.repeat(Question("/", body_bytes=len(ruler.BODY)))
        scale = Series("ruler", "copy 512 KiB", "", ruler_client, same, 2)
        cases = [*frame_cases(client, huge, plan.frames), scale]
        interleave(cases, plan.rounds, seed=plan.rounds, step=lambda: None)
        manifest = manifest_ms(client, huge)
    tell()
    measured = record.Object(
        name=huge.name,
        transfer_syntax_uid=huge.syntax,
        frames=plan.frames,
        file_bytes=path.stat().st_size,
        index=record.summarize([run["index_s"] * 1000 for run in runs]),
        service_peak_bytes=service_peak_bytes,
        worker_peak_bytes=max(run["worker_peak_bytes"] for run in runs),
        manifest_ms=manifest,
        reads=tuple(record.Read(**read) for read in runs[-1]["reads"]),
    )
    return measured, cases, backend, service.startup_s


def measure(objects: Sequence[HugeObject], directory: Path, plan: Plan, console: Console) -> record.Run:
    """Write, index and serve one object after the other; each file is deleted before the next is written."""
    start, load_before = time.perf_counter(), os.getloadavg()[0]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    measured, cases, scales, startups, backend = [], [], [], [], ""
    with contextlib.ExitStack() as stack:
        scale = stack.enter_context(serving(RULER, "/"))
        bar = stack.enter_context(_bar(console))
        for huge in objects:
            with _written(huge, directory, plan.frames, bar) as path:
                task = bar.add_task(f"{huge.name}: measuring", total=plan.runs + 1)
                one, series, backend, startup = measure_object(huge, path, plan, scale.port, partial(bar.advance, task))
            measured.append(one)
            cases += series[:-1]
            scales += series[-1].answers
            startups.append(startup)
    ruler_ms = statistics.median(answer.duration_ms for answer in scales)
    cases.insert(0, Series("ruler", "copy 512 KiB", "", Client(scale.port), iter(()), 0, scales))
    return record.Run(
        benchmark="huge",
        date=date,
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=machine.revision(),
        backend=backend,
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=statistics.median(startups),
        ruler_ms=ruler_ms,
        notes=NOTES,
        cases=tuple(result(case, ruler_ms) for case in cases),
        objects=tuple(measured),
    )


@contextlib.contextmanager
def _written(huge: HugeObject, directory: Path, frames: int, bar: Progress) -> Iterator[Path]:
    """The object in a folder of its own, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="huge-", dir=directory) as folder:
        path = Path(folder) / huge.file_name
        task = bar.add_task(f"{huge.name}: writing", total=frames * (1 if huge.groups is None else 2))
        huge_objects.write(huge, path, frames, lambda done: bar.advance(task, done))
        yield path


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.huge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4,000 frames; nothing is written unless asked")
    parser.add_argument("--frames", type=int, help="frames of each object, at least 1,000")
    parser.add_argument("--object", action="append", choices=[one.name for one in OBJECTS], help="only this one")
    parser.add_argument("--data", type=Path, help="folder for the files, up to 1 GB at a time (default: temporary)")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as one in Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options, console = parse(arguments), Console()
    if not console.is_terminal:
        console = Console(width=140)  # a log file has no 80 columns
    plan = QUICK if options.quick else FULL
    if options.frames is not None:
        plan = Plan(max(1000, options.frames), plan.runs, plan.rounds)
    objects = [one for one in OBJECTS if options.object is None or one.name in options.object]
    try:
        run = measure(objects, options.data or Path(tempfile.gettempdir()), plan, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    results = options.results or (None if options.quick else record.RESULTS)
    if options.markdown:
        console.print(report.object_markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(report.object_table(run))
        console.print(report.rich_table(run, "time to one frame over HTTP"))
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
