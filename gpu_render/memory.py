"""How this process keeps the memory that it has freed."""

import ctypes

MIB = 1024 * 1024

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_OPTIONS = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 32 * MIB), (_M_TRIM_THRESHOLD, 128 * MIB))


def keep_freed_memory() -> bool:
    """Let freed memory be used for the next frame in place of new pages; whether this C library can.

    Frames are read on some threads and freed on others, half a megabyte at a time. With an arena a thread and the usual
    thresholds nearly each of them is mapped anew, which costs more than to read it. Call it before threads are started.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # musl, say: nothing is lost but time
    return all(mallopt(option, value) == 1 for option, value in _OPTIONS)
