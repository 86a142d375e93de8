"""The real service as a process of its own, asked over HTTP by several clients while its memory is watched."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import free_port

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
ANSWER_LIMIT_S = 15.0
"""A decoder's time limit and the queue before it; an answer that takes longer counts as a hang."""
START_LIMIT_S = 60.0
_PATIENCE_S = 2 * ANSWER_LIMIT_S


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``status`` 0: the connection broke or nothing came in time."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """One connection that stays open, for one thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)

    def get(self, url: str, **headers: str) -> Reply:
        """Ask, and ask again where the service says 503 and when to come back. A broken connection is status 0."""
        began = time.monotonic()
        while True:
            try:
                self._connection.request("GET", url, headers=headers)
                response = self._connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                return Reply(0, {}, b"", time.monotonic() - began)
            if response.status != 503 or time.monotonic() - began > _PATIENCE_S:
                names = {name.lower(): value for name, value in response.getheaders()}
                return Reply(response.status, names, body, time.monotonic() - began)
            time.sleep(float(response.headers.get("Retry-After", 1)))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Service:
    """A running ``gpu-render serve``."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def alive(self) -> bool:
        """Whether the process that was started is still there."""
        return self.process.poll() is None

    def client(self) -> "contextlib.closing[Client]":
        """A client that hangs up at the end of the block."""
        return contextlib.closing(Client(self.port))


@contextlib.contextmanager
def serving(roots: Sequence[Path], folder: Path, *, workers: int, cache_bytes: int) -> Iterator[Service]:
    """Serve ``roots`` on loopback with an index of its own below ``folder``, until the block ends."""
    port = free_port()
    environment = {
        **os.environ,
        "GPU_RENDER_CACHE_BYTES": str(cache_bytes),
        "GPU_RENDER_WORKERS": str(workers),
        "GPU_RENDER_RESCAN_INTERVAL_S": "0",
    }
    command = [sys.executable, "-c", "from api.cli import app; app()", "serve", *map(str, roots)]
    command += ["--port", str(port), "--backend", "cpu", "--index", str(folder / f"index-{port}.sqlite")]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_live(process, port)
            yield Service(port, process)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_live(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with contextlib.closing(Client(port)) as client:
        while client.get("/health/live").status != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the service did not start")
            time.sleep(0.1)


def wait_for_scan(service: Service, files: int, limit_s: float, step: Any = None) -> dict[str, Any]:
    """/api/index once every file has been looked at. Raises TimeoutError."""
    deadline = time.monotonic() + limit_s
    with service.client() as client:
        while time.monotonic() < deadline:
            state: dict[str, Any] = client.get("/api/index").json()
            if step is not None:
                step(state["files_done"])
            if not state["scanning"] and state["files_done"] >= files:
                return state
            time.sleep(0.2)
    raise TimeoutError(f"the scan of {files} files took longer than {limit_s:.0f} s")


# --- memory -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """The service process at one moment: ``rss`` [byte] of its own, ``workers_rss`` [byte] of all its children."""

    seconds: float
    rss: int
    workers_rss: int
    workers: int
    threads: int
    descriptors: int


@dataclass
class Watch:
    """Takes a footprint every ``interval_s`` on a thread of its own, until the block ends."""

    service: Service
    interval_s: float = 0.25
    footprints: list[Footprint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._began = time.monotonic()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            with contextlib.suppress(OSError):  # the process has ended
                self.footprints.append(footprint(self.service.process.pid, time.monotonic() - self._began))


def footprint(pid: int, seconds: float) -> Footprint:
    """What one process and its children hold now."""
    children = _children(pid)
    return Footprint(
        seconds,
        _private(pid),
        sum(map(_private, children)),
        len(children),
        len(os.listdir(f"/proc/{pid}/task")),  # noqa: PTH208
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
    )


def _private(pid: int) -> int:
    """Resident memory [byte] without what is shared with other processes, 0 once the process has gone."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found
