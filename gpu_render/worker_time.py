"""How long a worker may take: processor time, so that a busy machine does not make good bytes look bad."""

import contextlib
import time
from pathlib import Path

from gpu_render.errors import NoProcessorTime

PATIENCE = 10
"""How many times its limit a worker may take by the clock on the wall, where it does not get the processor."""

_LEAST_S = 0.01
_AT_WORK = frozenset("RDT")  # proc(5): runs or would like to, waits for a disk, was stopped


class TimeLimit:
    """The time of one call of the process ``pid``, which begins now: ``limit_s`` [s] of processor time.

    Less by the clock on the wall where the process takes none, as one that hangs; and PATIENCE times that where others
    have the processor. Raises OSError where there is no such process.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._pid = pid
        self._limit_s = limit_s
        self._begun_s = time.monotonic()
        self._used_before_s = self._last_used_s = _used_s(pid)

    def left(self) -> float:
        """How long to wait before it is asked again [s].

        Raises TimeoutError where the call has had its time, or does nothing with it, NoProcessorTime where the machine
        had none for it, and OSError where the process has ended.
        """
        elapsed_s = time.monotonic() - self._begun_s
        if elapsed_s < self._limit_s:
            return max(_LEAST_S, self._limit_s - elapsed_s)
        used_s = _used_s(self._pid)
        works = used_s > self._last_used_s or _is_at_work(self._pid)
        left_s, self._last_used_s = self._limit_s - (used_s - self._used_before_s), used_s
        if left_s <= 0 or not works:
            raise TimeoutError
        if elapsed_s >= PATIENCE * self._limit_s:
            raise NoProcessorTime("the machine has no processor time for this at the moment: others use all of it")
        return max(_LEAST_S, min(left_s, self._limit_s / 4))


def _used_s(pid: int) -> float:
    """Processor time of all threads of a process [s]."""
    return time.clock_gettime(~pid << 3 | 2)  # its clock, as clock_getcpuclockid(3) makes it


def _is_at_work(pid: int) -> bool:
    """Whether any of its threads does something, or would but for the machine."""
    for status in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if status.read_text().rpartition(")")[2].split()[0] in _AT_WORK:
                return True
    return False
