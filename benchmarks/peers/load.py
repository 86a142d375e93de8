"""Many clients at once, by wrk, and what they cost the server in processor time."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError

SCRIPT = Path(__file__).parent / "wrk.lua"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 0.1
"""After this wrk has its connections and stops, with its summary, when it is interrupted."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one block. ``errors``: how many of each kind; ``requests`` has those of status 400 and more, too."""

    requests: int
    duration_s: float
    answer_bytes: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: dict[str, int]

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s


def load(port: int, pid: int, urls: Sequence[str], accept: str, clients: int, seconds: float) -> Load:
    """Ask for ``urls`` in turn over ``clients`` connections. Raises BenchmarkError when nothing is answered.

    On a busy machine that takes longer to answer anything, ``seconds`` become more.
    """
    for longer in (1, 4, 16):
        measured = _load(port, pid, urls, accept, clients, longer * seconds)
        if measured is not None:
            return measured
    raise BenchmarkError(f"nothing was answered in {16 * seconds:g} s")


def _load(port: int, pid: int, urls: Sequence[str], accept: str, clients: int, seconds: float) -> Load | None:
    before = cpu_s(pid)
    with tempfile.NamedTemporaryFile("w", suffix=".urls") as file:
        file.write("\n".join(urls) + "\n")
        file.flush()
        said = _run(port, file.name, accept, clients, seconds)
    if said["requests"] == 0:
        return None
    kinds = ("connect", "read", "write", "status", "timeout")
    return Load(
        requests=said["requests"],
        duration_s=said["duration_us"] / 1e6,
        answer_bytes=said["bytes"] / said["requests"],
        p50_ms=said["p50_us"] / 1000,
        p99_ms=said["p99_us"] / 1000,
        cpu_ms=(cpu_s(pid) - before) * 1000 / said["requests"],
        errors={kind: said[kind] for kind in kinds if said[kind]},
    )


def _run(port: int, urls: str, accept: str, clients: int, seconds: float) -> dict[str, int]:
    address = f"http://127.0.0.1:{port}"
    options = ["-t1", f"-c{clients}", f"-d{int(seconds) + 60}s", "--timeout", "30s", "-s", str(SCRIPT)]
    command = ["wrk", *options, "-H", f"Accept: {accept}", address, "--", urls]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        time.sleep(seconds + _START_S)
        wrk.send_signal(signal.SIGINT)
        try:
            output, _ = wrk.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            wrk.kill()
            raise BenchmarkError("wrk did not stop") from None
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise BenchmarkError(f"wrk failed: {output[-500:]}")
    said: dict[str, int] = json.loads(lines[0].removeprefix("RESULT "))
    return said


def cpu_s(pid: int) -> float:
    """Processor time of a process and of those that it started and that still run [s], by /proc (proc(5))."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    return sum(spent for one, spent in ticks.items() if _descends(one, pid, parents)) / _TICKS_PER_S


def _descends(one: int, ancestor: int, parents: dict[int, int]) -> bool:
    while one > 1:
        if one == ancestor:
            return True
        one = parents.get(one, 0)
    return False
