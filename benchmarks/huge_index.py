"""``python -m benchmarks.huge_index FILE N ...``: index one file in this process as the service does, and print JSON.

How long it took, the peak memory of the worker that parsed the file, and what was read for each of the frames N: by
``pread`` from the file, and by all system calls, the index's own included.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpu_render.archive.file import FileArchive
from gpu_render.workers import WorkerPool


def peak_bytes(pid: int) -> int:
    """The most memory a process ever had resident [byte]."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """Processes started by any thread of this one that still run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _system_reads() -> tuple[int, int]:
    """Read calls of this process, and their bytes, until now."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["syscr"]), int(fields["rchar"])


def reads_of(action: Callable[[], object]) -> dict[str, int]:
    """What ``action`` reads: from files by ``os.pread``, and by all read calls of this process."""
    calls: list[int] = []
    pread = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        calls.append(len(data))
        return data

    idle = [_system_reads(), _system_reads()]  # looking reads too
    os.pread = counting
    before = _system_reads()
    try:
        action()
        after = _system_reads()
    finally:
        os.pread = pread
    return {
        "file_reads": len(calls),
        "file_bytes": sum(calls),
        "all_reads": after[0] - before[0] - (idle[1][0] - idle[0][0]),
        "all_bytes": after[1] - before[1] - (idle[1][1] - idle[0][1]),
    }


def measure(path: Path, frame_numbers: list[int]) -> dict[str, Any]:
    """Index the file, then fetch these frames."""
    with WorkerPool(1) as pool:
        start = time.perf_counter()
        archive = FileArchive(path, pool)
        seconds = time.perf_counter() - start
        worker_peak_bytes = max(map(peak_bytes, children(os.getpid())))
        archive.fetch(archive.ref(1))  # opens the file and a connection to the index
        refs = [archive.ref(number) for number in frame_numbers]
        reads = [{"frame_number": ref.frame_number, **reads_of(partial(archive.fetch, ref))} for ref in refs]
        archive.close()
    return {"index_s": seconds, "worker_peak_bytes": worker_peak_bytes, "reads": reads}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])))
