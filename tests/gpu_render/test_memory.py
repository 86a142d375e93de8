"""Freed memory is used again: frames that come and go cost no new pages."""

import platform
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


_KEPT = """
import resource, sys
from gpu_render import memory
assert memory.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
frames, without = [], 0
for number in range(100):
    if sys.argv[1] == "ahead":
        memory.fetch_ahead()
    before = faults()
    frames.append(b"x" * (512 * 1024))
    without += faults() - before < 12
print(without)
"""


def _frames_without_faults(how: str) -> int:
    command = [sys.executable, "-c", _KEPT, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_memory_for_frames_that_stay_is_mapped_some_frames_at_a_time() -> None:
    assert _frames_without_faults("as it is") < 10
    if _populates():
        assert _frames_without_faults("ahead") > 70


def _populates() -> bool:
    release = [int(part) for part in platform.release().split("-")[0].split(".")[:2]]
    return release >= [5, 14]


_COLLECTED = """
import gc
from gpu_render.memory import collect_rarely
before = len(gc.get_objects())
collect_rarely()
assert gc.get_freeze_count() > before // 2 > len(gc.get_objects())
class Cycle: pass
for _ in range(200_000):
    one = Cycle()
    one.self = one
assert sum(isinstance(one, Cycle) for one in gc.get_objects()) < 40_000
"""


def test_garbage_is_looked_for_rarely_and_found_all_the_same() -> None:
    subprocess.run([sys.executable, "-c", _COLLECTED], check=True, timeout=60)
