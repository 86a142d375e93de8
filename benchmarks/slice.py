"""``python -m benchmarks.slice``: time to one 512x512 CT slice over HTTP, cold and warm, per transfer syntax.

The real service runs as a process of its own on loopback, over the phantom of ``gpu-render demo`` stored in six ways.
One client asks for one slice at a time over one kept-alive connection. Every case is asked a little in every round, in
another order each time, and so is a ruler that only copies and sends 512 KiB.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import data, machine, record, report, ruler
from benchmarks.harness import (
    RULER,
    WITHOUT_LOOKAHEAD,
    BenchmarkError,
    Client,
    Question,
    Series,
    interleave,
    server_timing,
    serving,
)
from gpu_render import __version__, phantom
from gpu_render.demo import phantom_uid
from gpu_render.settings import default_cache_dir

PIXELS = phantom.ROWS * phantom.COLUMNS
PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-slices.png"
NOTES = (
    "Time from sending the request to the last byte, one request at a time.",
    "Cold: the first request for a frame, which is not in the service's cache; the file is in the page cache of the "
    "operating system.",
    "Warm: the decoded frame is in the service's cache.",
    "Ruler: an ASGI application on the same server that only copies 512 KiB and sends them.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: ``slices`` a series, of which ``warm`` are asked for again and again."""

    slices: int
    warm: int
    rounds: int
    per_round: int

    @property
    def cold_per_round(self) -> int:
        """Half of what is not warm is asked for as stored values, half as picture, and every frame once."""
        return (self.slices - self.warm) // 2 // self.rounds


FULL = Plan(slices=210, warm=10, rounds=10, per_round=10)
QUICK = Plan(slices=26, warm=2, rounds=4, per_round=5)


def get_json(client: Client, url: str) -> Any:
    """A JSON answer of the service."""
    return json.loads(client.ask(Question(url, "application/json")).body)


def wait_for_index(client: Client, instances: int, timeout_s: float = 120.0) -> None:
    """Return when the scan has ended. Raises BenchmarkError when it found another number of instances."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = get_json(client, "/api/index")
        if not state["scanning"] and state["instances"] == instances:
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the index has {state['instances']} of {instances} instances")
        time.sleep(0.1)


def manifest(client: Client, number: int) -> list[dict[str, Any]]:
    """The frames of the series with this Series Number, as the service lists them."""
    study, series = phantom_uid("study"), phantom_uid("series", number)
    frames: list[dict[str, Any]] = get_json(client, f"/api/studies/{study}/series/{series}")["frames"]
    return frames


def stored(url: str) -> Question:
    return Question(f"{url}?stage=stored", body_bytes=2 * PIXELS)


def picture(url: str, window: str = "40,400") -> Question:
    return Question(f"{url}?stage=display&window={window}", body_bytes=PIXELS)


def window_drag(urls: Sequence[str]) -> Iterator[Question]:
    """The same few frames again and again, with a window that was never asked for before."""
    for step in itertools.count():
        yield picture(urls[step % len(urls)], f"{40 + step * 0.25:g},{400 + step * 0.5:g}")


def syntax_cases(client: Client, name: str, urls: Sequence[str], plan: Plan) -> list[Series]:
    """The cases of one series. No frame serves two of the cold cases, nor a cold and a warm one."""
    warm, cold = urls[: plan.warm], urls[plan.warm :]
    first, second = cold[: len(cold) // 2], cold[len(cold) // 2 :]
    often, once = plan.per_round, plan.cold_per_round
    return [
        Series(name, "stored values", "cold", client, map(stored, first), once),
        Series(name, "stored values", "warm", client, map(stored, itertools.cycle(warm)), often),
        Series(name, "picture", "cold", client, map(picture, second), once),
        Series(name, "picture", "warm", client, map(picture, itertools.cycle(warm)), often),
        Series(name, "picture, new window", "warm", client, window_drag(warm), often),
    ]


def legacy_cases(client: Client, name: str, frames: Sequence[dict[str, Any]], plan: Plan) -> list[Series]:
    """The old viewer's route: the picture as a JSON list of numbers, and the same binary."""
    urls = [f"/dicom-viewer/api/image/{frame['id']}/data/" for frame in frames[: plan.warm]]
    as_json = (Question(url, "application/json") for url in itertools.cycle(urls))
    binary = (Question(url, body_bytes=PIXELS) for url in itertools.cycle(urls))
    return [
        Series(name, "legacy JSON", "warm", client, as_json, plan.per_round),
        Series(name, "legacy binary", "warm", client, binary, plan.per_round),
    ]


def check_and_warm(client: Client, manifests: Sequence[Sequence[dict[str, Any]]], warm: int) -> str:
    """Put the warm frames into the cache; return the backend's name.

    Raises BenchmarkError unless every series answers the same samples: a wrong answer is not worth timing.
    """
    backend = ""
    for same_frame in itertools.islice(zip(*manifests, strict=True), warm):
        digests = set()
        for frame in same_frame:
            digests.add(hashlib.sha256(client.ask(stored(frame["url"])).body).digest())
            backend = client.ask(picture(frame["url"])).headers["x-render-backend"]
        if len(digests) != 1:
            raise BenchmarkError("the series do not answer the same stored values")
    return backend


def all_cases(client: Client, manifests: dict[int, list[dict[str, Any]]], plan: Plan) -> list[Series]:
    cases: list[Series] = []
    for number, frames in manifests.items():
        cases += syntax_cases(client, data.NAMES[number], [frame["url"] for frame in frames], plan)
        if number == 1:
            cases += legacy_cases(client, data.NAMES[number], frames, plan)
    return cases


def check_state(case: Series) -> None:
    """Raises BenchmarkError unless every cold answer was read from the disk and no warm one was."""
    reads = len(server_timing(case.answers).get("read", []))
    if case.state and reads != (len(case.answers) if case.state == "cold" else 0):
        raise BenchmarkError(f"{case.group}, {case.request}: not {case.state}, {reads} answers came from the disk")


def result(case: Series, ruler_ms: float) -> record.Case:
    """What is written down about one case. Raises BenchmarkError when it was not what it is called."""
    check_state(case)
    client = record.summarize([answer.duration_ms for answer in case.answers])
    headers = case.answers[-1].headers
    return record.Case(
        group=case.group,
        request=case.request,
        state=case.state,
        body_bytes=int(headers["content-length"]),
        client=client,
        server_ms={name: statistics.median(values) for name, values in server_timing(case.answers).items()},
        decoder=headers.get("x-decode-backend", ""),
        times_ruler=client.median_ms / ruler_ms,
    )


def measure(folder: Path, plan: Plan, console: Console) -> record.Run:
    """Start both servers over ``folder``, measure, stop them."""
    start, load_before = time.perf_counter(), os.getloadavg()[0]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    with contextlib.ExitStack() as stack:
        index = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "index.sqlite"
        service = stack.enter_context(
            serving((*WITHOUT_LOOKAHEAD, str(folder), "--index", str(index)), "/health/ready")
        )
        scale = stack.enter_context(serving(RULER, "/"))
        client = stack.enter_context(contextlib.closing(Client(service.port)))
        scale_client = stack.enter_context(contextlib.closing(Client(scale.port)))
        wait_for_index(client, plan.slices * len(data.SERIES))
        data.read_all(folder)
        manifests = {number: manifest(client, number) for number in data.NAMES}
        backend = check_and_warm(client, list(manifests.values()), plan.warm)
        same = itertools.repeat(Question("/", body_bytes=len(ruler.BODY)))
        cases = [Series("ruler", "copy 512 KiB", "", scale_client, same, plan.per_round)]
        cases += all_cases(client, manifests, plan)
        with _bar(console) as bar:
            task = bar.add_task("measuring", total=len(cases) * plan.rounds)
            interleave(cases, plan.rounds, seed=plan.rounds, step=lambda: bar.advance(task))
    ruler_ms = statistics.median(answer.duration_ms for answer in cases[0].answers)
    return record.Run(
        benchmark="slice",
        date=date,
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=machine.revision(),
        backend=backend,
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=service.startup_s,
        ruler_ms=ruler_ms,
        notes=NOTES,
        cases=tuple(result(case, ruler_ms) for case in cases),
    )


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def prepare(directory: Path, plan: Plan, console: Console) -> Path:
    """Make the files, with a progress bar."""
    with _bar(console) as bar:
        task = bar.add_task("CT phantom", total=None)
        return data.prepare(
            directory, plan.slices, lambda _what, done, total: bar.update(task, completed=done, total=total)
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slice", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look in about 15 s; nothing is written unless asked")
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-slices.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--slices", type=int, help="slices in each series")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the command line asks for. Raises SystemExit when there are too few slices for it."""
    plan = QUICK if options.quick else FULL
    if options.slices is not None:
        plan = Plan(options.slices, plan.warm, plan.rounds, plan.per_round)
    if plan.cold_per_round < 1 or plan.slices > phantom.SLICES:
        raise SystemExit(f"--slices is {plan.warm + 2 * plan.rounds} to {phantom.SLICES}")
    return plan


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options, console = parse(arguments), Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no 80 columns
    plan = plan_of(options)
    try:
        run = measure(prepare(options.data, plan, console), plan, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    results = options.results or (None if options.quick else record.RESULTS)
    plot = options.plot or (None if options.quick else PLOT)
    if options.markdown:
        console.print(report.markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(report.rich_table(run))
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    if plot is not None:
        report.plot(run, plot)
        console.print(f"wrote {plot}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
