"""A service in a process of its own, asked over real connections, with all that it writes kept in a file."""

import contextlib
import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SERVICE = ("-m", "api.cli")
START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body as a problem document."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def everything(self) -> str:
        """Status line apart, all that went over the wire."""
        return "\n".join(f"{name}: {value}" for name, value in self.headers.items()) + self.body.decode("utf-8")


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it listens, its process, and the file that holds its stderr and stdout."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def json(self, path: str) -> dict[str, Any]:
        """The body of a 200."""
        answer = self.ask(path)
        assert answer.status == 200, answer
        return answer.problem

    def wait_for_files(self, count: int) -> dict[str, Any]:
        """Poll /api/index until a scan is over and ``count`` files are known."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            state = self.json("/api/index")
            if not state["scanning"] and state["instances"] + len(state["unreadable"]) == count:
                return state
            time.sleep(0.02)
        raise AssertionError(f"the scan did not end: {state['files_done']} of {state['files_total']} files")

    def image_ids(self) -> dict[str, int]:
        """SOP Instance UID -> id on the old route, also of instances that no manifest lists, from the index file."""
        uri = f"file:{self.log.parent / 'index.sqlite'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as index:
            return dict(index.execute("SELECT sop_instance_uid, id FROM image"))

    def peak_bytes(self) -> int:
        """Most memory the process ever had resident at once."""
        return _peak_bytes(self.process.pid) or 0

    def forget_peak(self) -> None:
        """Let ``peak_bytes`` and ``peak_bytes_of_children`` count from now."""
        for pid in (self.process.pid, *self._children()):
            with contextlib.suppress(OSError):  # of one that has just ended
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes_of_children(self) -> list[int]:
        """The same of each worker process that is there now."""
        return [peak for pid in self._children() if (peak := _peak_bytes(pid)) is not None]

    def _children(self) -> list[int]:
        children = (path.read_text().split() for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"))
        return [int(pid) for found in children for pid in found]


def _peak_bytes(pid: int) -> int | None:
    """None of a process that has ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else None
    return None


@contextlib.contextmanager
def serving(
    root: Path,
    work: Path,
    *,
    launch: Sequence[str] = SERVICE,
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Served]:
    """``gpu-render serve root`` with ``options`` until the block ends. Its log is made in ``work``, and so is its index
    unless ``environment`` says where that is."""
    log = work / "server.log"
    command = [sys.executable, *launch, "serve", str(root), "--port", "0", "--backend", "cpu"]
    index = () if environment and "GPU_RENDER_INDEX_URL" in environment else ("--index", str(work / "index.sqlite"))
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*command, *index, *options],
            stdout=written,
            stderr=written,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GPU_RENDER_WORKERS": "2", **(environment or {})},
        )
    try:
        yield Served(_port(process, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
