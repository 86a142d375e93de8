"""``python -m benchmarks.series``: all slices of a series in one answer, beside the same slices asked for one by one.

The real service runs as a process of its own on loopback, started anew for each pass, so that nothing is in its cache;
the files lie in the operating system's page cache. One by one: six connections, each of which asks for the next slice
when it has one, as a browser does. The ways take turns, in another order each round.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
from rich.console import Console
from rich.table import Table

from benchmarks import data, drawing, grids, machine, record, report
from benchmarks.harness import SERVICE, BenchmarkError, Client, Question, serving
from benchmarks.slice import PIXELS, get_json, wait_for_index
from gpu_render import __version__, phantom
from gpu_render.demo import PhantomSeries, phantom_uid, write_slice

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-series.png"
CONNECTIONS = 6
"""What browsers open to one server (HTTP/1.1)."""
SLICE_BYTES = 2 * PIXELS
ONE_ANSWER, ONE_BY_ONE = "one answer", f"one by one, {CONNECTIONS} at a time"
MANIFESTS = 10
NOTES = (
    "Stored values, 512 KiB a slice; the service is started anew for each pass, the files are in the page cache.",
    "First: from the request to the last byte of the first slice. Total: to the last byte of the last one.",
    f"One by one: {CONNECTIONS} connections that are kept alive.",
    f"The manifest of the series is asked for {MANIFESTS} times before each pass, at first right after the start.",
    "The client, the service and its decoders share the machine's cores.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``asked``: by Series Number (1 uncompressed, 2 JPEG 2000, 3 HTJ2K), how many slices are asked for at a time.
    ``distinct``: pictures of a series, which take turns."""

    asked: dict[int, tuple[int, ...]]
    rounds: int
    distinct: int


FULL = Plan({1: (300, 1000, 2000, 3000), 2: (300, 2000), 3: (300, 1000, 2000, 3000)}, rounds=3, distinct=30)
QUICK = Plan({1: (20,), 2: (5, 10), 3: (20,)}, rounds=1, distinct=5)


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through the slices, once: times [ms] and the service's peak of resident memory [byte]."""

    first_ms: float
    total_ms: float
    peak_bytes: int


@dataclass(slots=True)
class Found:
    passes: dict[tuple[int, int, str], list[Pass]] = field(default_factory=lambda: defaultdict(list))
    manifests_ms: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    startup_s: float = 0.0


def series_of(number: int) -> PhantomSeries:
    return next(one for one in data.SERIES if one.number == number)


def write_series(folder: Path, number: int, count: int, distinct: int) -> None:
    """``count`` slices with ``distinct`` pictures in turn, each an instance of its own with a place of its own."""
    one = series_of(number)
    with tempfile.TemporaryDirectory() as work:
        for index in range(distinct):
            write_slice(Path(work), (one,), phantom.SLICES // 2 + index)
        pictures = [pydicom.dcmread(path) for path in sorted((Path(work) / one.folder).iterdir())]
    folder.mkdir()
    for place in range(count):
        ds = pictures[place % distinct]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("series benchmark", number, place)
        ds.InstanceNumber = place + 1
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], -place]
        ds.SliceLocation = -place
        ds.save_as(folder / f"{place:05d}.dcm", enforce_file_format=True)


def path_of(number: int) -> str:
    return f"/api/studies/{phantom_uid('study')}/series/{phantom_uid('series', number)}"


class Reader:
    """One connection, read into one buffer; nothing of it is kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._buffer = bytearray(1 << 20)
        self._length = -1

    def ask(self, path: str, *, close: bool = False) -> bytes:
        """Send a request; returns what came with the answer's head. Raises BenchmarkError."""
        end = "Connection: close\r\n\r\n" if close else "\r\n"
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{end}".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            part = self._socket.recv(1 << 16)
            if not part:
                raise BenchmarkError(f"no answer to {path}")
            received += part
        head, rest = received.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"{head[:30]!r} for {path}")
        length = re.search(rb"content-length: (\d+)", head.lower())
        self._length = int(length[1]) if length else -1
        return rest

    def slice(self, path: str) -> None:
        """One slice, whole."""
        left = SLICE_BYTES - len(self.ask(path))
        if self._length != SLICE_BYTES:
            raise BenchmarkError(f"{self._length} bytes instead of {SLICE_BYTES} for {path}")
        while left:
            left -= self._received()

    def stream(self, path: str, least: int) -> tuple[float, float]:
        """Everything; when there was enough for the first slice, and when all of it was there. Raises BenchmarkError
        where it did not end as it should."""
        received = len(self.ask(path, close=True))
        first_s, end = 0.0, b""
        while count := self._socket.recv_into(self._buffer):
            received += count
            end = (end + bytes(self._buffer[max(0, count - 100) : count]))[-100:]
            if not first_s and received > SLICE_BYTES + 250:  # its header has some 350 bytes
                first_s = time.perf_counter()
        if received < least or b'"kind":"end"' not in end or b'"problems":0' not in end:
            raise BenchmarkError(f"an answer of {received} bytes that does not end as it should")
        return first_s, time.perf_counter()

    def _received(self) -> int:
        count = self._socket.recv_into(self._buffer)
        if not count:
            raise BenchmarkError("a connection broke")
        return count

    def close(self) -> None:
        self._socket.close()


def in_one_answer(port: int, number: int, urls: Sequence[str]) -> tuple[float, float]:
    """Time [ms] to the first and to the last slice."""
    with contextlib.closing(Reader(port)) as reader:
        begun = time.perf_counter()
        path = f"{path_of(number)}/frames?frames=1-{len(urls)}&stage=stored"
        first_s, end_s = reader.stream(path, len(urls) * SLICE_BYTES)
    return (first_s - begun) * 1000, (end_s - begun) * 1000


def one_by_one(port: int, _number: int, urls: Sequence[str]) -> tuple[float, float]:
    """The same over some connections."""
    left, firsts, troubles = iter(urls), list[float](), list[Exception]()
    lock = threading.Lock()

    def work() -> None:
        try:
            with contextlib.closing(Reader(port)) as reader:
                while True:
                    with lock:
                        url = next(left, None)
                    if url is None:
                        return
                    reader.slice(f"{url}?stage=stored")
                    if url is urls[0]:
                        firsts.append(time.perf_counter())
        except (BenchmarkError, OSError) as error:
            troubles.append(error)

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.perf_counter()
    if troubles:
        raise BenchmarkError(f"one by one: {troubles[0]}")
    return (firsts[0] - begun) * 1000, (ended - begun) * 1000


WAYS: dict[str, Callable[[int, int, Sequence[str]], tuple[float, float]]] = {
    ONE_ANSWER: in_one_answer,
    ONE_BY_ONE: one_by_one,
}


def check(port: int, number: int, urls: Sequence[str]) -> str:
    """The backend's name. Raises BenchmarkError unless one answer holds what the frames' own URLs answer."""
    path = f"{path_of(number)}/frames?frames={len(urls)}-1&stage=stored"
    with contextlib.closing(Client(port)) as client:  # one that was silent for seconds has been hung up on
        for url, (header, samples) in zip(reversed(urls), records(client.ask(Question(path)).body), strict=False):
            if header["kind"] != "frame" or samples != client.ask(Question(f"{url}?stage=stored")).body:
                raise BenchmarkError(f"one answer and {url} do not agree")
        return client.ask(Question(f"{urls[0]}?window=40,400")).headers["x-render-backend"]


def records(body: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Header and samples of each record (docs/api.md)."""
    at = 0
    while at < len(body):
        begin = at + 4 + int.from_bytes(body[at : at + 4], "little")
        header = json.loads(body[at + 4 : begin])
        at = begin + header.get("nbytes", 0)
        yield header, body[begin:at]


def manifest_ms(client: Client, number: int) -> float:
    """Time to the last byte of the series' manifest."""
    begun = time.perf_counter()
    client.ask(Question(path_of(number), "application/json"))
    return (time.perf_counter() - begun) * 1000


def peak_bytes(pid: int) -> int:
    """Most memory resident in a process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measure_series(folder: Path, number: int, count: int, asked: Sequence[int], plan: Plan, found: Found) -> str:
    """All passes over one series; returns the backend's name."""
    order, backend = random.Random(count), ""
    command = (*SERVICE, str(folder), "--index", str(folder.parent / f"{folder.name}.sqlite"))
    turns = [(size, way) for size in asked for way in WAYS]
    for round_number in range(plan.rounds):
        for size, way in order.sample(turns, len(turns)):
            with (
                serving(command, "/health/ready") as service,
                contextlib.closing(Client(service.port)) as client,
            ):
                wait_for_index(client, count)
                data.read_all(folder)
                found.manifests_ms[number, count] += [manifest_ms(client, number) for _ in range(MANIFESTS)]
                urls = [frame["url"] for frame in get_json(client, path_of(number))["frames"][:size]]
                found.startup_s = found.startup_s or service.startup_s
                first_ms, total_ms = WAYS[way](service.port, number, urls)
                found.passes[number, size, way].append(Pass(first_ms, total_ms, peak_bytes(service.pid)))
                if round_number == 0:
                    backend = check(service.port, number, urls[:3])
    return backend


def measure(work: Path, plan: Plan, console: Console) -> record.Run:
    """Make one series after the other, measure it, and remove it."""
    start, load_before, date = time.perf_counter(), os.getloadavg()[0], datetime.now(UTC)
    found, backend = Found(), ""
    for number, asked in plan.asked.items():
        # 2,000 are a part of the largest series; the other sizes are series of their own.
        counts: dict[int, list[int]] = defaultdict(list)
        for size in asked:
            counts[max(asked) if size == 2000 else size].append(size)
        for count, sizes in counts.items():
            console.print(f"{data.NAMES[number]}, {count:,} slices")
            folder = work / f"{number}-{count}"
            write_series(folder, number, count, plan.distinct)
            backend = measure_series(folder, number, count, sizes, plan, found)
            shutil.rmtree(folder)
    return record.Run(
        benchmark="series",
        date=date.isoformat(timespec="seconds"),
        duration_s=time.perf_counter() - start,
        version=__version__,
        revision=machine.revision(),
        backend=backend,
        machine=machine.describe(),
        load_average=(load_before, os.getloadavg()[0]),
        startup_s=found.startup_s,
        ruler_ms=0,
        notes=NOTES,
        cases=(),
        streams=tuple(
            record.Stream(
                group=data.NAMES[number],
                frames=size,
                nbytes=size * SLICE_BYTES,
                way=way,
                first=record.summarize([one.first_ms for one in passes]),
                total=record.summarize([one.total_ms for one in passes]),
                peak_bytes=max(one.peak_bytes for one in passes),
            )
            for (number, size, way), passes in sorted(found.passes.items())
        ),
        measurements=tuple(
            record.Measurement(
                name="manifest of the series",
                unit="ms",
                group=data.NAMES[number],
                parameters={"slices": count},
                summary=record.spread(times_ms),
            )
            for (number, count), times_ms in sorted(found.manifests_ms.items())
        ),
    )


COLUMNS = ("stored as", "slices", "asked for", "first ms", "total s", "GB/s", "slices/s", "peak MiB", "n")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS; medians."""
    return [
        (
            one.group,
            f"{one.frames:,}",
            one.way,
            f"{one.first.median_ms:.1f}",
            f"{one.total.median_ms / 1000:.2f}",
            f"{one.gigabytes_per_s:.2f}",
            f"{one.frames / one.total.median_ms * 1000:,.0f}",
            f"{one.peak_bytes / 2**20:.0f}",
            str(one.total.n),
        )
        for one in run.streams
    ]


MANIFEST_COLUMNS = ("stored as", "slices", "manifest: p50 ms", "p95 ms", "n")


def manifest_rows(run: record.Run) -> list[tuple[str, ...]]:
    """The cells of the second table, in the order of MANIFEST_COLUMNS."""
    return [
        (
            one.group,
            f"{one.parameters['slices']:,}",
            f"{one.summary.median:.1f}",
            f"{one.summary.p95:.1f}",
            str(one.summary.n),
        )
        for one in run.measurements
    ]


def tables(run: record.Run) -> tuple[Table, Table]:
    """For the terminal."""
    return (
        grids.terminal("series as a whole", COLUMNS, rows(run), (0, 2), report.heading(run)),
        grids.terminal("manifests", MANIFEST_COLUMNS, manifest_rows(run), (0,)),
    )


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    both = grids.markdown(COLUMNS, rows(run), (0, 2)), grids.markdown(MANIFEST_COLUMNS, manifest_rows(run), (0,))
    return "\n\n".join((*both, f"{report.heading(run)}.\n"))


def plot(run: record.Run, path: Path) -> None:
    """Total by the number of slices, one answer and one by one."""
    figure = drawing.figure(8, 4)
    axes = figure.add_subplot()
    groups = dict.fromkeys(one.group for one in run.streams)
    for group, colour in zip(groups, ("#2563eb", "#b91c1c", "#15803d"), strict=False):
        for way, line in ((ONE_ANSWER, "-o"), (ONE_BY_ONE, "--o")):
            mine = [one for one in run.streams if (one.group, one.way) == (group, way)]
            points = [(one.frames, one.total.median_ms / 1000) for one in mine]
            axes.plot(*zip(*points, strict=True), line, color=colour, label=f"{group}, {way}", markersize=4)
    axes.set_xlabel("slices")
    axes.set_ylabel("s to the last byte of the last slice")
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    axes.set_title(f"A series in one answer and one by one\n{report.heading(run)}", fontsize=9)
    axes.grid(linewidth=0.4)
    drawing.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--work", type=Path, help="folder for files while they are needed, 1.6 GB (default: temporary)")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-series.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            run = measure(Path(work), QUICK if options.quick else FULL, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    if options.markdown:
        console.print(markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(*tables(run))
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
