"""``python -m benchmarks.index``: the index at 10,000, 100,000 and 1,000,000 instances, and how fast files are scanned.

One index grows in SQLite, and another in PostgreSQL where ``--url`` names a database. At each size the same questions
are asked: studies by name, date and patient, all data sets of a series, where a frame is. Then real files are scanned
by the service's own workers beside a plain loop with pydicom, and trees scanned again that have not changed.
"""

import argparse
import contextlib
import os
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pydicom
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import comparing, grids, index_data, machine, record, report, running
from benchmarks.harness import BenchmarkError
from benchmarks.index_data import INSTANCES_A_SERIES, SERIES_A_STUDY, frame_of, place_of
from gpu_render import __version__
from gpu_render.archive import Level, Match, Query
from gpu_render.archive.folder import FolderArchive
from gpu_render.archive.index import Index
from gpu_render.workers import WorkerPool

ROOT = b"/made-up"
PAGE = 101
"""Studies of an answer, as OHIF asks for them."""
SCHEMA = "gpu_render_benchmark"
NOTES = (
    "In one process, without HTTP: from the question to the answer as the service uses it.",
    f"{INSTANCES_A_SERIES} instances a series, {SERIES_A_STUDY} series a study, two studies a patient; header and data "
    "set of a real CT. Each question is another one. The index has just been filled, so the system has it in memory.",
    f"Searches answer at most {PAGE} studies.",
    "Filling: transactions of 512 instances that are parsed already.",
    "Scanning: 39 kB CT files, series of a hundred slices, on two workers, new index each time; beside them a process "
    "that reads each header with pydicom up to its pixels and keeps nothing, and one that makes DICOM JSON of it as "
    "well, which a scan does too.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``sizes``: instances; ``questions`` of each kind at each size; files of each scan."""

    sizes: tuple[int, ...]
    questions: int
    scanned: int
    passes: int
    unchanged: tuple[int, ...]


FULL = Plan((10_000, 100_000, 1_000_000), 200, 5_000, 3, (20_000, 100_000))
QUICK = Plan((600, 3_000), 20, 60, 1, (500,))

# --- questions ----------------------------------------------------------------------------------------------


def _studies(index: Index, expected: int | None, **wanted: str) -> None:
    fuzzy = wanted.pop("fuzzy", "") == "yes"
    matches = tuple(Match(keyword, (value,)) for keyword, value in wanted.items())
    answers = index.search(Query(Level.STUDY, matches=matches, fuzzy=fuzzy, limit=PAGE))
    if not answers or (expected is not None and len(answers) != expected):
        raise BenchmarkError(f"{len(answers)} studies by {', '.join(wanted) or 'nothing'}")


def _read_series(index: Index, instance: int) -> None:
    ref = frame_of(instance)
    bodies = index.metadata(index.instances(ref.study_uid, ref.series_uid, None))
    if sum(1 for _, body in bodies if body) != INSTANCES_A_SERIES:
        raise BenchmarkError("data sets are missing")


def _find_frame(index: Index, instance: int) -> None:
    record = index.find(frame_of(instance)).record
    if record is None or record.instance_number != place_of(instance)[2]:
        raise BenchmarkError("another frame was found")


def _page_of_instances(index: Index, instance: int) -> None:
    ref = frame_of(instance)
    query = Query(Level.INSTANCE, study_uid=ref.study_uid, series_uid=ref.series_uid, limit=PAGE)
    if len(index.search(query)) != INSTANCES_A_SERIES:
        raise BenchmarkError("instances are missing")


def _names(instance: int) -> tuple[str, str]:
    """Of a patient: the family name, and its second half with the given names."""
    family, _, given = place_of(instance)[0].patient_name.partition("^")
    return family, f"{family.partition('-')[2]}^{given}"


Ask = Callable[[Index, int], None]
"""Ask about an instance: its frame, its series, or its study."""

QUESTIONS: dict[str, Ask] = {
    "where a frame is": _find_frame,
    "data sets of a series": _read_series,
    "search: instances of a series": _page_of_instances,
    "search: latest studies": lambda index, _: _studies(index, None),
    "search: patient id": lambda index, i: _studies(index, None, PatientID=place_of(i)[0].patient_id),
    "search: accession number": lambda index, i: _studies(index, 1, AccessionNumber=f"A{place_of(i)[0].number}"),
    "search: one day": lambda index, i: _studies(index, None, StudyDate=place_of(i)[0].day),
    "search: name, whole": lambda index, i: _studies(index, None, PatientName=place_of(i)[0].patient_name),
    "search: name, from its beginning": lambda index, i: _studies(index, None, PatientName=f"{_names(i)[0]}^*"),
    "search: name, anywhere": lambda index, i: _studies(index, None, PatientName=f"*{_names(i)[1][2:]}*"),
    "search: name, fuzzy": lambda index, i: _studies(index, None, PatientName=_names(i)[1].lower(), fuzzy="yes"),
}


def measure_questions(index: Index, group: str, size: int, count: int) -> Iterator[record.Case]:
    """In rounds of five of each kind, so that a busy moment hits all alike."""
    chance = random.Random(size)
    durations: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    for number in range(-1, count // 5):
        for name, ask in QUESTIONS.items():
            for _ in range(5):
                instance = chance.randrange(size)
                start = time.perf_counter()
                ask(index, instance)
                if number >= 0:  # the first round compiles and prepares statements
                    durations[name].append((time.perf_counter() - start) * 1000)
    for name, found in durations.items():
        yield record.Case(
            group=f"{group}, {size:,} instances",
            request=name,
            state="warm",
            body_bytes=0,
            client=record.summarize(found),
            server_ms={},
            decoder="",
            times_ruler=0,
        )


@dataclass(slots=True)
class Found:
    """What was measured so far."""

    cases: list[record.Case]
    rates: list[record.Rate]
    ratios: list[record.Ratio] = field(default_factory=list)


def measure_index(index: Index, group: str, plan: Plan, found: Found, stored: Callable[[], int], bar: Progress) -> None:
    """Fill the index to each size, and ask."""
    index.set_roots([ROOT])
    before = 0
    for size in plan.sizes:
        task = bar.add_task(f"{group}: {size:,}", total=size - before)
        start = time.perf_counter()
        index_data.fill(index, ROOT, before, size, lambda count, task=task: bar.advance(task, count))  # type: ignore[misc]
        seconds = time.perf_counter() - start
        index.analyze()
        rate = record.Rate(
            group=group,
            what=f"filling from {before:,} to {size:,}",
            count=size - before,
            seconds=(seconds,),
            stored_bytes=stored(),
        )
        found.rates.append(rate)
        found.cases += measure_questions(index, group, size, plan.questions)
        before = size


# --- scans --------------------------------------------------------------------------------------------------


def _scan(folder: Path, index: Path, pool: WorkerPool, count: int) -> float:
    with contextlib.closing(FolderArchive([folder], index, pool)) as archive:
        start = time.perf_counter()
        report = archive.scan()
        seconds = time.perf_counter() - start
        if (report.added, report.unreadable) != (count, []):
            raise BenchmarkError(f"{report.added} of {count} files were indexed")
    return seconds


def _plain_loop(paths: Sequence[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        if not ds.SOPInstanceUID or not ds.Rows:
            raise BenchmarkError("a file cannot be read")
    return time.perf_counter() - start


def _to_json(paths: Sequence[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        if len(pydicom.dcmread(path, stop_before_pixels=True).to_json()) < 1000:
            raise BenchmarkError("a file has no header")
    return time.perf_counter() - start


def measure_scan(work: Path, plan: Plan, found: Found) -> None:
    """New files: the service's way and plain loops in turns."""
    paths = index_data.write_files(work / "files", plan.scanned)
    ours, plain, as_json = [], [], []
    with contextlib.closing(WorkerPool(2)) as pool:
        for operation in ("parse", "parse_files"):
            pool.warm(operation, 2)  # they start, and import what they need
        for number in range(plan.passes):
            plain.append(_plain_loop(paths))
            as_json.append(_to_json(paths))
            ours.append(_scan(work / "files", work / f"scan-{number}.sqlite", pool, plan.scanned))
    what = "new files"
    found.rates.append(record.Rate(group="scan, 2 workers", what=what, count=plan.scanned, seconds=tuple(ours)))
    for name, seconds in (("pydicom, 1 process", plain), ("pydicom's to_json, 1 process", as_json)):
        found.rates.append(record.Rate(group=name, what=what, count=plan.scanned, seconds=tuple(seconds)))
    rates = [[plan.scanned / one for one in seconds] for seconds in (ours, plain)]
    pair = ("scan, 2 workers", rates[0]), ("pydicom, 1 process", rates[1])
    found.ratios.append(comparing.compare("new files, a second", *pair, target=3))


def measure_unchanged(work: Path, group: str, url: str | None, count: int, passes: int, found: Found) -> None:
    """A tree that the index knows: only folders are listed and compared. A pass more counts memory."""
    folder = work / f"unchanged-{count}"
    root = os.fsencode(folder.resolve())
    with contextlib.closing(WorkerPool(1)) as pool, contextlib.ExitStack() as stack:
        place = None if url else work / f"unchanged-{count}.sqlite"
        with contextlib.closing(Index(place, url=url)) as index:
            index.set_roots([root])
            index_data.write_known_files(folder, index, root, count)
            index.analyze()
        archive = stack.enter_context(contextlib.closing(FolderArchive([folder], place, pool, index_url=url)))
        seconds = [_rescan(archive, count) for _ in range(passes)]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        _rescan(archive, count)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    rate = record.Rate(group=group, what="unchanged files", count=count, seconds=tuple(seconds), peak_bytes=peak)
    found.rates.append(rate)


def _rescan(archive: FolderArchive, count: int) -> float:
    start = time.perf_counter()
    report = archive.scan()
    if report.unchanged != count:
        raise BenchmarkError(f"{report.unchanged} of {count} files are unchanged")
    return time.perf_counter() - start


# --- all of it ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_schema(url: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """A URL of a schema that is made here and goes again, and what tells the bytes of the tables in it."""
    import psycopg

    plain = url.replace("postgresql+psycopg://", "postgresql://")
    size = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        connection.execute(f"CREATE SCHEMA {SCHEMA}")

        def stored() -> int:
            row = connection.execute(f"{size} WHERE nspname = '{SCHEMA}' AND relkind = 'r'").fetchone()
            return int(row[0]) if row else 0

        try:
            options = quote(f"-csearch_path={SCHEMA}", safe="")
            yield f"{url}{'&' if '?' in url else '?'}options={options}", stored
        finally:
            connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def file_bytes(path: Path) -> int:
    """Of a SQLite file and what lies beside it."""
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*"))


def measure(plan: Plan, url: str | None, console: Console) -> record.Run:
    """All indexes, then all scans. Raises BenchmarkError."""
    start, load_before = time.perf_counter(), os.getloadavg()[0]
    date, found = datetime.now(UTC).isoformat(timespec="seconds"), Found([], [])
    revision = machine.revision()  # now: the tree may change during so long a run
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as bar:
        work = Path(folder)
        path = work / "index.sqlite"
        with contextlib.closing(Index(path)) as index:
            measure_index(index, "SQLite", plan, found, lambda: file_bytes(path), bar)
        path.unlink()
        if url is not None:
            with own_schema(url) as (own, stored), contextlib.closing(Index(None, url=own)) as index:
                measure_index(index, "PostgreSQL", plan, found, stored, bar)
        measure_scan(work, plan, found)
        for count in plan.unchanged:
            measure_unchanged(work, "scan, SQLite", None, count, plan.passes, found)
            if url is not None:
                with own_schema(url) as (own, _):
                    measure_unchanged(work, "scan, PostgreSQL", own, count, plan.passes, found)
    return record.Run(
        benchmark="index",
        date=date,
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=revision,
        backend="cpu",
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=0,
        ruler_ms=0,
        notes=NOTES,
        cases=tuple(found.cases),
        rates=tuple(found.rates),
        ratios=tuple(found.ratios),
    )


# --- tables -------------------------------------------------------------------------------------------------


def case_rows(run: record.Run) -> list[tuple[str, ...]]:
    """A row a question: median and 95th percentile at each size; the first row has the headings."""
    groups = list(dict.fromkeys(case.group for case in run.cases))
    by_key = {(case.group, case.request): case.client for case in run.cases}
    rows = [("p50 / p95 [ms]", *groups)]
    for request in dict.fromkeys(case.request for case in run.cases):
        found = (by_key[group, request] for group in groups)
        rows.append((request, *(f"{one.median_ms:.3g} / {one.p95_ms or 0:.3g}" for one in found)))
    return rows


def rate_rows(run: record.Run) -> list[tuple[str, ...]]:
    """A row a rate; the first has the headings."""
    rows: list[tuple[str, ...]] = [("who", "what", "count", "a second", "memory", "index")]
    for rate in run.rates:
        peak = "" if rate.peak_bytes is None else f"{rate.peak_bytes / 1e6:,.1f} MB"
        stored = "" if rate.stored_bytes is None else f"{rate.stored_bytes / 1e6:,.0f} MB"
        rows.append((rate.group, rate.what, f"{rate.count:,}", f"{rate.per_s:,.0f}", peak, stored))
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """For docs/benchmarks.md."""
    return grids.markdown(rows[0], rows[1:])


def table(rows: Sequence[Sequence[str]], run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("", rows[0], rows[1:], caption=report.heading(run))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some thousand instances; nothing is written unless asked")
    parser.add_argument("--url", help=f"a PostgreSQL database in which the schema {SCHEMA} is made and removed again")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options, console = parse(arguments), Console()
    if not console.is_terminal:
        console = Console(width=160)
    try:
        run = measure(QUICK if options.quick else FULL, options.url or None, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    for rows in (case_rows(run), rate_rows(run)):
        if options.markdown:
            console.print(markdown(rows), markup=False, soft_wrap=True)
        else:
            console.print(table(rows, run))
    running.show_ratios(run, console)
    results = options.results or (None if options.quick else record.RESULTS)
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
