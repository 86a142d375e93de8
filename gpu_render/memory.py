"""How this process keeps the memory that it has freed, and gets more of it."""

import ctypes
import gc
import mmap
import threading
from typing import Any

MIB = 1024 * 1024

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_STEP = 4 * MIB
_OPTIONS = (
    (_M_ARENA_MAX, 1),
    (_M_MMAP_THRESHOLD, 32 * MIB),
    (_M_TRIM_THRESHOLD, 128 * MIB),
    (_M_TOP_PAD, _STEP),
)
_MADV_POPULATE_WRITE = 23  # Linux 5.14


class _Heap:
    """The memory of malloc, which ends where the system says (brk)."""

    def __init__(self, libc: Any) -> None:
        self._sbrk, self._madvise = libc.sbrk, libc.madvise
        self._sbrk.restype, self._sbrk.argtypes = ctypes.c_void_p, (ctypes.c_ssize_t,)
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._end = self._sbrk(0)
        self._lock = threading.Lock()

    def populate(self) -> None:
        end = self._sbrk(0)
        if end == self._end or not self._lock.acquire(blocking=False):
            return
        try:
            begin, self._end = max(self._end, end - _STEP), end
            if begin < end:
                begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
                self._madvise(begin, end - begin, _MADV_POPULATE_WRITE)  # an older system refuses, which costs nothing
        finally:
            self._lock.release()


_heap: _Heap | None = None


def keep_freed_memory() -> bool:
    """Let freed memory be used for the next frame in place of new pages; whether this C library can.

    Frames are read on some threads and freed on others, half a megabyte at a time. With an arena a thread and the usual
    thresholds nearly each of them is mapped anew, which costs more than to read it. Call it before threads are started.
    """
    global _heap
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False  # musl, say: nothing is lost but time
    kept = all(mallopt(option, value) == 1 for option, value in _OPTIONS)
    _heap = _Heap(libc) if kept else None
    return kept


def fetch_ahead() -> None:
    """Have the pages that malloc has got last mapped all at once: one by one, as they are written to, takes four times
    as long. Nothing where ``keep_freed_memory`` was not called. Any threads may call."""
    if _heap is not None:
        _heap.populate()


def collect_rarely() -> None:
    """Look for garbage in cycles less often, and never again in what is there now: code and tables, which stay.

    An answer leaves no cycles, an error a few small ones, and all that is made counts as if it did; a look at
    everything stops all answers for more than a tenth of a second. Call it when all modules are imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
