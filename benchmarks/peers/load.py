"""Many clients of one contestant, by wrk, and what they cost the server in processor time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clients
from benchmarks.harness import BenchmarkError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one block. ``answer_bytes``: mean length of an answer, its header and incomplete ones included."""

    answers: int
    per_s: float
    answer_bytes: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: dict[str, int]


def load(port: int, pid: int, urls: Sequence[str], accept: str, count: int, seconds: float) -> Load:
    """Ask for ``urls`` in turn over ``count`` connections. Raises BenchmarkError when nothing is answered.

    On a busy machine, that takes longer to answer anything, ``seconds`` become more.
    """
    for longer in (1, 4):
        try:
            return _load(port, pid, urls, accept, count, longer * seconds)
        except BenchmarkError:
            continue
    return _load(port, pid, urls, accept, count, 16 * seconds)


def _load(port: int, pid: int, urls: Sequence[str], accept: str, count: int, seconds: float) -> Load:
    before = cpu_s(pid)
    found = clients.load(port, urls, count, seconds, "wrk", accept)
    if not found.answers:
        raise BenchmarkError(f"nothing but {found.errors}")
    return Load(
        answers=found.answers,
        per_s=found.per_s,
        answer_bytes=found.nbytes / found.answers,
        p50_ms=found.latency.median,
        p99_ms=found.latency.p99,
        cpu_ms=(cpu_s(pid) - before) * 1000 / found.answers,
        errors=found.errors,
    )


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
