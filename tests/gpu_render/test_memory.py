"""Freed memory is used again: frames that come and go cost no new pages."""

import subprocess
import sys

_FRAMES = """
import resource, sys, threading, queue
from gpu_render.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
frames = queue.Queue(16)
def read():
    for number in range(500):
        frames.put([bytes(512 * 1024) for _ in range(4)])
readers = [threading.Thread(target=read) for _ in range(4)]
for reader in readers:
    reader.start()
for _ in range(500 * len(readers)):
    b"".join(frames.get())
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def _page_faults(how: str) -> int:
    command = [sys.executable, "-c", _FRAMES, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_frames_read_on_some_threads_and_freed_on_another_cost_few_new_pages() -> None:
    assert _page_faults("keep") < _page_faults("as it is") // 2
