"""``python -m benchmarks.hotpath``: what one frame from the cache costs between the socket and the renderer.

The real service runs as a process of its own on loopback and is asked over eight connections, all at once; so is the
ruler. Counted is the processor time of the server's process, all threads: other programs add less to that than to the
time on the wall. Calls, tasks and allocations are counted in this process, over the same application without a server:
``blocks``: objects that a request has in memory when its body goes to the server; ``peak KiB``: memory on top of what
there was before, a copy of the pixels would be 512; ``left``: objects that stay behind (figures, what is remembered).
Where py-spy is installed, it says where the time goes.
"""

import argparse
import asyncio
import contextlib
import gc
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table
from starlette.types import ASGIApp, Message, Scope

from api.app import create_app
from benchmarks import data
from benchmarks.harness import RULER, WITHOUT_LOOKAHEAD, BenchmarkError, Client, Question, Server, serving
from benchmarks.slice import manifest, wait_for_index
from gpu_render.settings import Settings, default_cache_dir

CONNECTIONS = 8
SLICES = 26
FRAMES = 8
"""Frames that are asked for in turn, all of them in the cache."""
WINDOWS = 100_000
"""Windows that no request has asked for before."""
EXPLICIT = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


@dataclass(slots=True)
class Case:
    """One kind of request. ``paths`` are asked for in turn, ``sent`` were; ``cpu_us`` a request, one figure a round."""

    name: str
    paths: Sequence[str]
    accept: str = "application/octet-stream"
    header: tuple[str, str] | None = None
    sent: int = 0
    cpu_us: list[float] = field(default_factory=list)

    def request(self) -> bytes:
        """The bytes of the next request."""
        extra = f"{self.header[0]}: {self.header[1]}\r\n" if self.header else ""
        path = self.paths[self.sent % len(self.paths)]
        self.sent += 1
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {self.accept}\r\n{extra}\r\n".encode()


def cases(client: Client) -> list[Case]:
    """What is asked of the service; the last condition holds for the first frame only."""
    native, packed = manifest(client, 1)[:FRAMES], manifest(client, 2)[:FRAMES]
    urls = [frame["url"] for frame in native]
    wado = [url.replace("/api/", "/dicomweb/", 1) for url in urls]
    coded = [frame["url"].replace("/api/", "/dicomweb/", 1) for frame in packed]
    study = native[0]["url"].split("/instances/")[0]
    tag = _etag(client, f"{urls[0]}?stage=stored")
    return [
        Case("raw, stored values", [f"{url}?stage=stored" for url in urls]),
        Case("raw, file's window", urls),
        Case("raw, another window", [f"{urls[n % FRAMES]}?window={n / 100},400" for n in range(WINDOWS)]),
        Case("raw, 304", [f"{urls[0]}?stage=stored"], header=("If-None-Match", tag)),
        Case("WADO-RS, explicit, stored explicit", wado, EXPLICIT),
        Case("WADO-RS, explicit, stored JPEG 2000", coded, EXPLICIT),
        Case("WADO-RS, as stored, JPEG 2000", coded, AS_STORED),
        Case("WADO-RS, as stored, explicit", wado, AS_STORED),
        Case("manifest of the series", [study], "application/json"),
        Case("health", ["/health/live"], "*/*"),
    ]


def _etag(client: Client, path: str) -> str:
    return client.ask(Question(path)).headers["etag"]


# --- time of a process ----------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Processor time of a process, all its threads that still run [s], to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ends
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Crowd:
    """Connections of one client that ask all at once: each asks its next when all have their answer."""

    def __init__(self, port: int, count: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(count)]
        self._buffer = bytearray(8 << 20)

    def ask(self, case: Case, requests: int) -> None:
        """Raises BenchmarkError for any answer but 200 and 304."""
        for _ in range(0, requests, len(self._sockets)):
            for one in self._sockets:
                one.sendall(case.request())
            for one in self._sockets:
                self._read(one)

    def _read(self, one: socket.socket) -> None:
        view, have = memoryview(self._buffer), 0
        while (end := self._buffer.find(b"\r\n\r\n", 0, have)) < 0:
            have += one.recv_into(view[have:]) or _cut_off()
        head = bytes(view[:end]).lower()
        status = int(head[9:12])
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if status not in (200, 304) or (length is None and status == 200):
            raise BenchmarkError(f"HTTP {status}")
        left = (int(length[1]) if length and status == 200 else 0) - (have - end - 4)
        while left > 0:
            left -= one.recv_into(view, min(left, len(view))) or _cut_off()

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _cut_off() -> int:
    raise BenchmarkError("an answer was cut off")


def measure(case: Case, server: Server, requests: int) -> None:
    """One round, over connections of its own: servers close those that wait for long."""
    with contextlib.closing(Crowd(server.port, CONNECTIONS)) as crowd:
        crowd.ask(case, 4 * CONNECTIONS)
        cpu = cpu_s(server.pid)
        crowd.ask(case, requests)
        case.cpu_us.append((cpu_s(server.pid) - cpu) / requests * 1e6)


# --- counts without a server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one request: calls of Python and of C functions, tasks, what is allocated on top of what was there when the
    body goes to the server (blocks) and at most (bytes), and what stays behind (blocks)."""

    python_calls: float
    c_calls: float
    tasks: float
    blocks: float
    peak_bytes: float
    left: float


class Bare:
    """Asks an application as a server would, without one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.counts_blocks = False
        self.at_body = 0

    async def ask(self, case: Case, number: int) -> None:
        """Raises BenchmarkError for any answer but 200 and 304."""
        path, _, query = case.paths[number % len(case.paths)].partition("?")
        headers = [(b"host", b"127.0.0.1"), (b"accept", case.accept.encode())]
        if case.header:
            headers.append((case.header[0].lower().encode(), case.header[1].encode()))
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "",
            "headers": headers, "state": {}, "method": "GET", "path": path, "raw_path": path.encode(),
            "query_string": query.encode(),
        }  # fmt: skip
        done, status, asked = asyncio.Event(), 0, False

        async def receive() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if self.counts_blocks and message["type"] == "http.response.body":
                self.at_body = max(self.at_body, sys.getallocatedblocks())

        await self._app(scope, receive, send)
        done.set()
        if status not in (200, 304):
            raise BenchmarkError(f"HTTP {status}")


async def count(bare: Bare, case: Case, requests: int) -> Counts:
    """Counts, the mean over some requests where they are sums, the median where one is a state."""
    for number in range(3 * FRAMES):
        await bare.ask(case, number)
    calls, tasks = await _calls(bare, case, requests)
    blocks, left, peaks = [], [], []
    gc.collect()
    gc.disable()
    bare.counts_blocks = True
    for number in range(requests):
        bare.at_body, before = 0, sys.getallocatedblocks()
        await bare.ask(case, number)
        blocks.append(bare.at_body - before)
        left.append(sys.getallocatedblocks() - before)
    bare.counts_blocks = False
    tracemalloc.start(1)
    for number in range(requests):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await bare.ask(case, number)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    gc.enable()
    return Counts(
        calls["call"] / requests,
        calls["c_call"] / requests,
        tasks / requests,
        statistics.median(blocks),
        statistics.median(peaks),
        statistics.median(left),
    )


async def _calls(bare: Bare, case: Case, requests: int) -> tuple[Counter[str], int]:
    calls: Counter[str] = Counter()
    tasks = 0
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        nonlocal tasks
        tasks += 1
        return asyncio.Task(work, loop=loop, **options)

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        calls[event] += 1

    loop.set_task_factory(factory)
    sys.setprofile(note)
    try:
        for number in range(requests):
            await bare.ask(case, number)
    finally:
        sys.setprofile(None)
        loop.set_task_factory(None)
    return calls, tasks


async def all_counts(folder: Path, index: Path, asked: Sequence[Case], requests: int) -> list[Counts]:
    """The application's lifespan around the counts of every case."""
    app = create_app(Settings(roots=(folder,), index_path=index, backend="cpu", lookahead_frames=0, scan=False))
    async with app.router.lifespan_context(app):
        await asyncio.to_thread(app.state.service.archive.scan)
        return [await count(Bare(app), case, requests) for case in asked]


# --- report ---------------------------------------------------------------------------------------------------


def spied(server: Server, case: Case, seconds: int) -> list[str]:
    """Where the time of a server's main thread goes while it is kept busy: functions by their own time, without those
    that wait; [] without py-spy."""
    program = shutil.which("py-spy") or shutil.which(str(Path(sys.executable).with_name("py-spy")))
    if program is None:
        return []
    with tempfile.NamedTemporaryFile(suffix=".txt") as out:
        options = ("--threads", "--format", "raw", "--rate", "500", "--duration", str(seconds), "--output", out.name)
        with contextlib.closing(Crowd(server.port, CONNECTIONS)) as crowd:
            command = [program, "record", "--pid", str(server.pid), *options]
            watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while watching.poll() is None:
                crowd.ask(case, CONNECTIONS)
        return _own_time(Path(out.name).read_text()) if watching.returncode == 0 else []


def _own_time(stacks: str) -> list[str]:
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        if "MainThread" in stack.split(";")[0]:
            own[re.sub(r":\d+\)$", ")", stack.split(";")[-1])] += int(samples)
    total = sum(own.values()) or 1
    return [f"{samples / total:6.1%}  {name}" for name, samples in own.most_common(25)]


def table(asked: Sequence[Case], ruler: Case, counted: Sequence[Counts]) -> Table:
    """A row a case."""
    shown = Table(title=f"one request, {CONNECTIONS} at once")
    for heading in (
        "request", "CPU µs", "min-max", "x ruler", "Python calls", "C calls", "tasks", "blocks", "peak KiB", "left",
    ):  # fmt: skip
        shown.add_column(heading, justify="left" if heading == "request" else "right")
    scale = statistics.median(ruler.cpu_us)
    for case, counts in [(ruler, None), *zip(asked, counted, strict=True)]:
        cpu = statistics.median(case.cpu_us)
        cells = [case.name, f"{cpu:.0f}", f"{min(case.cpu_us):.0f}-{max(case.cpu_us):.0f}", f"{cpu / scale:.2f}"]
        if counts is not None:
            cells += [f"{counts.python_calls:.0f}", f"{counts.c_calls:.0f}", f"{counts.tasks:.1f}"]
            cells += [f"{counts.blocks:.0f}", f"{counts.peak_bytes / 1024:.0f}", f"{counts.left:.0f}"]
        shown.add_row(*cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotpath", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="a round and case")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--profile", default="raw, stored", metavar="CASE", help="which one py-spy looks at; '' none")
    parser.add_argument("--seconds", type=int, default=5, help="that py-spy looks")
    parser.add_argument("--slices", type=int, default=SLICES, help="in each series of the folder")
    options, console = parser.parse_args(arguments), Console(width=150)
    folder = data.prepare(options.data, options.slices)
    with contextlib.ExitStack() as stack:
        index = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = (*WITHOUT_LOOKAHEAD, str(folder), "--index", str(index / "served.sqlite"))
        service = stack.enter_context(serving(command, "/health/ready"))
        scale = stack.enter_context(serving(RULER, "/"))
        client = stack.enter_context(contextlib.closing(Client(service.port)))
        wait_for_index(client, options.slices * len(data.SERIES))
        asked = [case for case in cases(client) if options.only in case.name]
        ruler = Case("ruler", ["/"])
        for _ in range(options.rounds):
            measure(ruler, scale, options.requests)
            for case in asked:
                measure(case, service, options.requests)
        chosen = next((case for case in asked if options.profile and options.profile in case.name), None)
        lines = spied(service, chosen, options.seconds) if chosen else []
        counted = asyncio.run(all_counts(folder, index / "counted.sqlite", asked, 32))
    console.print(table(asked, ruler, counted))
    if chosen and lines:
        console.print(f"\nWhere the time of '{chosen.name}' goes (py-spy, own time):")
        console.print("\n".join(lines), markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
