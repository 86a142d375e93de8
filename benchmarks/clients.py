"""Many clients at once, each of which asks for the next thing when it has its answer: wrk where it is installed, else
clients in this process, which take more of the machine from what they measure."""

import asyncio
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import BenchmarkError
from benchmarks.record import Spread, spread

TIMEOUT_S = 60
START_S = 0.1
"""In which wrk starts [s]; before that an interruption would just end it."""
_LUA = """
local paths, started = {{ {paths} }}, 0
setup = function(thread)
  thread:set("place", math.floor(started * #paths / {threads}))
  started = started + 1
end
request = function()
  place = place % #paths + 1
  return wrk.format("GET", paths[place])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.status, e.timeout, e.connect + e.read + e.write))
  for _, p in ipairs({{ 25, 50, 75, 95, 99 }}) do
    io.write(string.format(" %d", latency:percentile(p)))
  end
  io.write(string.format(" %d %d\\n", latency.min, latency.max))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a while of asking. ``answers``: those of status 200. ``latency`` [ms], refusals included."""

    answers: int
    seconds: float
    nbytes: int
    latency: Spread
    errors: dict[str, int]

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds


def generator() -> str:
    """``wrk`` or ``asyncio``: the two are not to be compared."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def generator_version() -> str:
    """For ``Run.programs``: wrk and its version, or who asks instead."""
    if generator() == "asyncio":
        return "clients in one Python process"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return (said.stdout + said.stderr).split(" Copyright", 1)[0].strip()


def load(
    port: int, paths: Sequence[str], clients: int, seconds: float, by: str | None = None, accept: str = "*/*"
) -> Load:
    """``clients`` connections to 127.0.0.1 ask for ``paths`` in turn for some seconds.

    Raises BenchmarkError where nothing was answered.
    """
    made = _by_wrk if (by or generator()) == "wrk" else _by_asyncio
    return made(port, paths, clients, seconds, accept)


def _by_wrk(port: int, paths: Sequence[str], clients: int, seconds: float, accept: str) -> Load:
    if any(re.search(r"[\"\\\s]", path) for path in paths):
        raise ValueError("a path holds what a Lua string would not")
    threads = min(2, clients)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        script.write_text(_LUA.format(paths=",".join(f'"{path}"' for path in paths), threads=threads))
        counts = ["-c", str(clients), "-t", str(threads), "-d", f"{seconds + TIMEOUT_S:.0f}s"]
        rest = ["--timeout", f"{TIMEOUT_S}s", "-H", f"Accept: {accept}", "-s", str(script)]
        said = _interrupted(["wrk", *counts, *rest, f"http://127.0.0.1:{port}"], seconds)
    found = re.search(r"FOUND ([\d ]+)", said)
    if not found:
        raise BenchmarkError(f"wrk: {said.strip()}")
    requests, took_us, nbytes, status, timeouts, broken, *micros = map(int, found[1].split())
    if not requests:
        raise BenchmarkError(f"{clients} clients had no answer in {seconds:g} s")
    q1, median, q3, p95, p99, low, high = (value / 1000 for value in micros)
    latency = Spread(n=requests, median=median, q1=q1, q3=q3, p95=p95, p99=p99, min=low, max=high)
    errors = {"status": status, "timeout": timeouts, "connection": broken}
    return Load(requests - status, took_us / 1e6, nbytes, latency, {k: n for k, n in errors.items() if n})


def _interrupted(command: Sequence[str], seconds: float) -> str:
    """What wrk says when it is interrupted: it knows whole seconds only, but sums up then, too."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        time.sleep(seconds + START_S)
        wrk.send_signal(signal.SIGINT)
        try:
            return wrk.communicate(timeout=2 * TIMEOUT_S)[0]
        except subprocess.TimeoutExpired:
            wrk.kill()
            raise BenchmarkError("wrk did not end") from None


@dataclass(slots=True)
class _Found:
    durations_ms: list[float] = field(default_factory=list)
    nbytes: int = 0
    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def _by_asyncio(port: int, paths: Sequence[str], clients: int, seconds: float, accept: str) -> Load:
    found, begun = _Found(), time.perf_counter()
    asyncio.run(_ask_together(port, paths, clients, begun + seconds, accept, found))
    took_s = time.perf_counter() - begun
    if not found.durations_ms:
        raise BenchmarkError(f"{clients} clients had no answer in {seconds} s: {dict(found.errors)}")
    return Load(found.answers, took_s, found.nbytes, spread(found.durations_ms), dict(found.errors))


async def _ask_together(
    port: int, paths: Sequence[str], clients: int, end_s: float, accept: str, found: _Found
) -> None:
    starts = (index * len(paths) // clients for index in range(clients))
    async with asyncio.TaskGroup() as group:
        for start in starts:
            group.create_task(_ask_until(port, paths, start, end_s, accept, found))


async def _ask_until(port: int, paths: Sequence[str], place: int, end_s: float, accept: str, found: _Found) -> None:
    """One client; a connection that breaks ends it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    except OSError:
        found.errors["connection"] += 1
        return
    try:
        while (begun := time.perf_counter()) < end_s:
            request = f"GET {paths[place % len(paths)]} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n"
            place += 1
            writer.write(request.encode())
            async with asyncio.timeout(TIMEOUT_S):
                status, nbytes = await _answer(reader)
            found.durations_ms.append((time.perf_counter() - begun) * 1000)
            if status == 200:
                found.answers += 1
                found.nbytes += nbytes
            else:
                found.errors[str(status)] += 1
    except TimeoutError:
        found.errors["timeout"] += 1
    except (OSError, EOFError):
        found.errors["connection"] += 1
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Status and length of one answer, which is read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"content-length: *(\d+)", head)
    if length is None:
        raise BenchmarkError("an answer without Content-Length")
    left = int(length[1])
    while left:
        part = await reader.read(min(left, 1 << 20))
        if not part:
            raise EOFError
        left -= len(part)
    return int(head.split(b" ", 2)[1]), int(length[1])
