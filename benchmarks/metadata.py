"""``python -m benchmarks.metadata``: time to the metadata of series of 1,000 and 3,000 instances over HTTP.

The real service runs as a process of its own on loopback over real files. Cold: the first request for a series after
the service was started anew and its index was put out of the operating system's page cache. Warm: asked again and
again. Also the metadata of all series of a study at once over six connections, as a viewer in a browser asks for them.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import grids, machine, record, report, ruler
from benchmarks.harness import RULER, SERVICE, Answer, BenchmarkError, Client, Question, Series, serving
from benchmarks.metadata_data import LARGE, MANY, prepare, uid
from benchmarks.slice import wait_for_index
from gpu_render import __version__
from gpu_render.settings import default_cache_dir

ACCEPT = "application/dicom+json"
CONNECTIONS = 6
"""What browsers open to one server (HTTP/1.1)."""
NOTES = (
    "Time from sending the request to the last byte; the client does not unpack or parse.",
    "Cold: the first request for the series after a start of the service with its index out of the page cache.",
    "All series at once: six connections; the time to the last byte of the last answer.",
    "Ruler: an ASGI application on the same server that only copies 512 KiB and sends them.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``large`` and ``many``: Series Number -> instances of both studies. ``starts``: cold runs of each form."""

    large: dict[int, int]
    many: dict[int, int]
    starts: int
    rounds: int
    per_round: int

    @property
    def instances(self) -> int:
        return sum(self.large.values()) + sum(self.many.values())


FULL = Plan(LARGE, MANY, starts=10, rounds=10, per_round=3)
QUICK = Plan({1: 60, 2: 120}, dict.fromkeys(range(1, 5), 20), starts=1, rounds=2, per_round=2)

FORMS = {"gzip": "gzip", "identity": "identity"}


def metadata(study: str, number: int, form: str) -> Question:
    url = f"/dicomweb/studies/{uid(study)}/series/{uid(study, number)}/metadata"
    return Question(url, ACCEPT, headers={"Accept-Encoding": form})


def not_modified(question: Question, tag: str) -> Question:
    return Question(question.url, ACCEPT, 0, {**question.headers, "If-None-Match": tag}, 304)


def check(answer: Answer, instances: int) -> None:
    """Raises BenchmarkError unless all instances are in the answer: a short list is not worth timing."""
    packed = answer.headers.get("content-encoding") == "gzip"
    found = json.loads(gzip.decompress(answer.body) if packed else answer.body)
    if len({one["00080018"]["Value"][0] for one in found}) != instances:
        raise BenchmarkError(f"{len(found)} instead of {instances} instances")


def drop_from_page_cache(index: Path) -> None:
    """Let the index's file be read from the disk again."""
    for path in (index, index.with_name(f"{index.name}-wal")):
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


Durations = dict[tuple[str, str, str], list[Answer]]
"""(group, request, state) -> answers, their bodies cut to none but their lengths kept in the headers."""


def keep(found: Durations, key: tuple[str, str, str], answer: Answer) -> None:
    """Bodies are counted and dropped."""
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    found.setdefault(key, []).append(Answer(answer.duration_ms, headers, b""))


def group_of(instances: int) -> str:
    return f"{instances:,} instances"


def measure_cold(command: Sequence[str], index: Path, plan: Plan, found: Durations) -> None:
    """Each start asks for each series once."""
    for _, form in itertools.product(range(plan.starts), FORMS):
        drop_from_page_cache(index)
        with serving(command, "/health/ready") as service, contextlib.closing(Client(service.port)) as client:
            wait_for_index(client, plan.instances)
            for number, instances in plan.large.items():
                answer = client.ask(metadata("large", number, form))
                check(answer, instances)
                keep(found, (group_of(instances), f"metadata, {form}", "cold"), answer)


def warm_cases(client: Client, plan: Plan) -> list[Series]:
    """Cases of both series, after both forms were checked against each other."""
    cases = []
    for number, instances in plan.large.items():
        questions = {form: metadata("large", number, form) for form in FORMS}
        packed, plain = (client.ask(questions[form]) for form in ("gzip", "identity"))
        check(plain, instances)
        if gzip.decompress(packed.body) != plain.body:
            raise BenchmarkError("gzip and identity differ")
        for form, question in questions.items():
            same = itertools.repeat(question)
            cases.append(Series(group_of(instances), f"metadata, {form}", "warm", client, same, plan.per_round))
        known = itertools.repeat(not_modified(questions["gzip"], packed.headers["etag"]))
        cases.append(Series(group_of(instances), "metadata, 304", "warm", client, known, plan.per_round))
    return cases


def measure_all_at_once(port: int, plan: Plan, found: Durations) -> None:
    """Every series of the study with many, over CONNECTIONS connections: one that is free takes the next series."""
    instances = sum(plan.many.values())
    group = f"{len(plan.many)} series, {group_of(instances)}"
    with ThreadPoolExecutor(CONNECTIONS) as threads, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(port))) for _ in range(CONNECTIONS)]
        for number, count in plan.many.items():
            check(clients[0].ask(metadata("many", number, "gzip")), count)
        for _ in range(plan.rounds * plan.per_round):
            waiting = iter(list(plan.many))  # next() of an iterator of a list is atomic

            def work(client: Client, waiting: Iterator[int] = waiting) -> list[Answer]:
                return [client.ask(metadata("many", number, "gzip")) for number in waiting]

            start = time.perf_counter()
            answers = list(itertools.chain.from_iterable(threads.map(work, clients)))
            duration_ms = (time.perf_counter() - start) * 1000
            if len(answers) != len(plan.many):
                raise BenchmarkError(f"{len(answers)} answers of {len(plan.many)} series")
            whole = Answer(duration_ms, {}, b"".join(answer.body for answer in answers))
            keep(found, (group, "all series at once, gzip", "warm"), whole)
            for answer in answers:
                keep(found, (group, "one of them, gzip", "warm"), answer)


def case_of(key: tuple[str, str, str], answers: Sequence[Answer], ruler_ms: float) -> record.Case:
    summary = record.summarize([answer.duration_ms for answer in answers])
    return record.Case(
        group=key[0],
        request=key[1],
        state=key[2],
        body_bytes=int(answers[-1].headers["content-length"]),
        client=summary,
        server_ms={},
        decoder="",
        times_ruler=summary.median_ms / ruler_ms,
    )


def measure(folder: Path, plan: Plan, console: Console) -> record.Run:
    """Index the files once, then cold and warm. Raises BenchmarkError."""
    start, load_before = time.perf_counter(), os.getloadavg()[0]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found: Durations = {}
    with contextlib.ExitStack() as stack:
        index = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "index.sqlite"
        command = (*SERVICE, str(folder), "--index", str(index), "--backend", "cpu")
        with serving(command, "/health/ready") as service, contextlib.closing(Client(service.port)) as client:
            wait_for_index(client, plan.instances, 600)
        console.print(f"indexed {plan.instances:,} instances")
        measure_cold(command, index, plan, found)
        service = stack.enter_context(serving(command, "/health/ready"))
        scale = stack.enter_context(serving(RULER, "/"))
        client = stack.enter_context(contextlib.closing(Client(service.port)))
        scale_client = stack.enter_context(contextlib.closing(Client(scale.port)))
        wait_for_index(client, plan.instances)
        same = itertools.repeat(Question("/", body_bytes=len(ruler.BODY)))
        cases = [Series("ruler", "copy 512 KiB", "", scale_client, same, plan.per_round), *warm_cases(client, plan)]
        with _bar(console) as bar:
            task = bar.add_task("measuring", total=len(cases) * plan.rounds)
            for _ in range(plan.rounds):
                scale_client.close()  # a round may be longer than the server keeps an idle connection
                scale_client.ask(next(same))
                for case in cases:
                    for _ in range(plan.per_round):
                        keep(found, (case.group, case.request, case.state), case.client.ask(next(case.questions)))
                    bar.advance(task)
        measure_all_at_once(service.port, plan, found)
    ruler_ms = statistics.median(answer.duration_ms for answer in found[("ruler", "copy 512 KiB", "")])
    ordered = sorted(found, key=lambda key: (key[0] != "ruler", len(key[0]), key[0]))
    return record.Run(
        benchmark="metadata",
        date=date,
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=machine.revision(),
        backend="cpu",
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=service.startup_s,
        ruler_ms=ruler_ms,
        notes=NOTES,
        cases=tuple(case_of(key, found[key], ruler_ms) for key in ordered),
    )


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("metadata over HTTP", COLUMNS, rows(run), range(3), report.heading(run))


COLUMNS = ("what", "request", "state", "kB", "p50 ms", "p95 ms", "n")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """A row a case, in the order of COLUMNS."""
    return [
        (
            case.group,
            case.request,
            case.state,
            f"{case.body_bytes / 1000:,.0f}",
            f"{case.client.median_ms:.1f}",
            f"{case.client.p95_ms or 0:.1f}",
            str(case.client.n),
        )
        for case in run.cases
    ]


def markdown(run: record.Run) -> str:
    """The same for docs/benchmarks.md."""
    lines = [COLUMNS, ("---", "---", "---", "---:", "---:", "---:", "---:"), *rows(run)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def levels(folder: Path, plan: Plan, console: Console) -> None:
    """What each level of zlib makes of the first series, the best of five passes: how GZIP_LEVEL was chosen."""
    with tempfile.TemporaryDirectory() as work:
        command = (*SERVICE, str(folder), "--index", f"{work}/index.sqlite", "--backend", "cpu")
        with serving(command, "/health/ready") as service, contextlib.closing(Client(service.port)) as client:
            wait_for_index(client, plan.instances, 600)
            body = client.ask(metadata("large", 1, "identity")).body
    console.print(f"{len(body):,} bytes")
    for level in range(1, 10):
        times, packed = [], b""
        for _ in range(5):
            start = time.perf_counter()
            pack = zlib.compressobj(level, zlib.DEFLATED, 31)
            packed = pack.compress(body) + pack.flush()
            times.append((time.perf_counter() - start) * 1000)
        console.print(f"level {level}: {min(times):6.1f} ms, {len(packed):,} bytes")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metadata", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short series; nothing is written unless asked")
    parser.add_argument("--levels", action="store_true", help="only compare the levels of gzip")
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the files are kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options, console = parse(arguments), Console()
    if not console.is_terminal:
        console = Console(width=120)
    plan = QUICK if options.quick else FULL
    try:
        with _bar(console) as bar:
            task = bar.add_task("files", total=plan.instances)
            folder = prepare(options.data, plan.large, plan.many, lambda: bar.advance(task))
            bar.update(task, completed=plan.instances)
        if options.levels:
            levels(folder, plan, console)
            return 0
        run = measure(folder, plan, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    if options.markdown:
        console.print(markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(table(run))
    results = options.results or (None if options.quick else record.RESULTS)
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
