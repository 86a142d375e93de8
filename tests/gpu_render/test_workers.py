"""Worker processes: what they give back, and what happens when they crash, hang, grow, lie, or lose their parent."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_render.errors import CorruptPixelData, DecoderTimeout, NoProcessorTime, NotRenderable, Overloaded, TooLarge
from gpu_render.workers import MIB, WorkerPool

ROOT = Path(__file__).parents[2]
NAMES: tuple[str, ...] = ("chatter", "crash", "echo", "fill", "grab", "hang", "inspect", "leave", "nap")
NAMES += ("recurse", "refuse", "shrink", "spin", "stumble")
OPERATIONS = {name: f"tests.gpu_render.worker_operations:{name}" for name in NAMES}

Call = Callable[..., tuple[dict[str, Any], Any]]


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, operations=OPERATIONS) as pool:
        yield pool


def call(pool: WorkerPool, operation: str, payload: bytes = b"", **options: Any) -> tuple[dict[str, Any], bytes]:
    limits: dict[str, Any] = {"timeout_s": 30.0, "result_bytes": 1 << 20, "memory_bytes": 256 * MIB}
    limits |= {name: options.pop(name) for name in tuple(options) if name in limits}
    meta, result = pool.call(operation, options, payload, **limits)
    return meta, result.tobytes()


def pid_of(pool: WorkerPool) -> int:
    return int(call(pool, "inspect")[0]["pid"])


def state_of(pid: int) -> str:
    """proc(5): S sleeps, T stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is about to happen; the test's own time limit is the limit."""
    while not condition():
        time.sleep(0.01)


def test_meta_and_payload_come_back(pool: WorkerPool) -> None:
    payload = np.random.default_rng(0).bytes(300_001)
    assert call(pool, "echo", payload, text="ä\udcff", number=3) == ({"text": "ä\udcff", "number": 3}, payload)
    assert call(pool, "echo") == ({}, b"")
    assert pool.busy == 0


def test_results_of_changing_size_never_show_an_earlier_one(pool: WorkerPool) -> None:
    for size in (10, 1 << 20, 40 << 20, 3, 0, 1 << 21):
        _, result = call(pool, "fill", result_bytes=max(size, 1 << 16), bytes=size)
        assert result == b"\x5a" * size


def test_the_result_is_a_copy_that_outlives_the_next_call(pool: WorkerPool) -> None:
    limits: dict[str, Any] = {"timeout_s": 30.0, "result_bytes": 8, "memory_bytes": 256 * MIB}
    _, first = pool.call("echo", {}, b"first...", **limits)
    pool.call("echo", {}, b"second..", **limits)
    assert first.tobytes() == b"first..."
    assert first.dtype == np.uint8


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_costs_one_call_and_is_logged(
    pool: WorkerPool, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CorruptPixelData, match=f"crash process died .{number.name}"):
        call(pool, "crash", signal=number)
    assert caplog.messages == [f"a process for crash died ({number.name}) and is replaced"]
    assert call(pool, "echo", b"next")[1] == b"next"


def test_a_worker_that_leaves_costs_one_call(pool: WorkerPool) -> None:
    with pytest.raises(CorruptPixelData, match="status 3"):
        call(pool, "leave")
    assert call(pool, "echo", b"next")[1] == b"next"


def test_a_crash_does_not_disturb_its_neighbour(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(2) as threads:
        neighbour = threads.submit(call, pool, "nap", b"neighbour", seconds=0.5)
        until(lambda: pool.busy == 1)
        for _ in range(3):
            with pytest.raises(CorruptPixelData):
                call(pool, "crash", signal=signal.SIGSEGV)
        assert not neighbour.done()
        assert neighbour.result()[1] == b"neighbour"


def test_a_hang_is_stopped_at_its_time_limit_and_reaped(pool: WorkerPool, caplog: pytest.LogCaptureFixture) -> None:
    pid = pid_of(pool)
    with pytest.raises(DecoderTimeout, match=r"time limit of 0\.2 s"):
        call(pool, "hang", timeout_s=0.2)
    assert caplog.messages == ["a process for hang was stopped at its time limit of 0.2 s"]
    assert not Path(f"/proc/{pid}").exists()
    assert call(pool, "echo", b"next")[1] == b"next"


def test_a_loop_is_stopped_when_it_has_had_its_processor_time(pool: WorkerPool) -> None:
    with pytest.raises(DecoderTimeout, match=r"time limit of 0\.2 s"):
        call(pool, "spin", seconds=600, timeout_s=0.2)
    assert call(pool, "spin", b"next", seconds=0.2, timeout_s=30.0)[1] == b"next"


def test_one_that_does_not_get_the_processor_is_waited_for(pool: WorkerPool) -> None:
    pid = pid_of(pool)
    with ThreadPoolExecutor(1) as threads:
        call(pool, "spin", seconds=0)
        os.kill(pid, signal.SIGSTOP)  # as if others had it
        waiting = threads.submit(call, pool, "spin", b"late", seconds=0.1, timeout_s=0.5)
        time.sleep(1.5)
        assert not waiting.done()
        os.kill(pid, signal.SIGCONT)
        assert waiting.result()[1] == b"late"
    assert pid_of(pool) == pid


def test_but_not_for_ever_and_nothing_is_said_against_its_bytes(
    pool: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pid = pid_of(pool)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NoProcessorTime):
        call(pool, "inspect", timeout_s=0.05)
    assert caplog.messages == ["a process for inspect was stopped: the machine had no processor time for it"]
    assert not Path(f"/proc/{pid}").exists()
    assert call(pool, "echo", b"next")[1] == b"next"


def test_a_memory_bomb_is_stopped_and_the_worker_survives(pool: WorkerPool) -> None:
    pid = pid_of(pool)
    with pytest.raises(DecoderTimeout, match="memory limit"):
        call(pool, "grab", mebibytes=4096, memory_bytes=64 * MIB)
    assert call(pool, "grab", mebibytes=32, memory_bytes=64 * MIB)[0] == {"taken": 32}
    assert pid_of(pool) == pid


def test_own_errors_cross_with_their_words(pool: WorkerPool) -> None:
    with pytest.raises(NotRenderable, match=r"^our own words$"):
        call(pool, "refuse")


@pytest.mark.parametrize(("operation", "kind"), [("stumble", "KeyError"), ("recurse", "RecursionError")])
def test_of_other_errors_only_the_type_crosses(pool: WorkerPool, operation: str, kind: str) -> None:
    with pytest.raises(CorruptPixelData, match=kind) as caught:
        call(pool, operation)
    assert "Doe" not in str(caught.value)


def test_a_result_or_message_that_is_too_long_is_an_error(pool: WorkerPool) -> None:
    with pytest.raises(TooLarge):
        call(pool, "fill", bytes=101, result_bytes=100)
    with pytest.raises(CorruptPixelData):
        call(pool, "chatter")
    assert call(pool, "echo", b"next")[1] == b"next"


def test_more_than_the_shared_memory_is_refused_before_anything_happens() -> None:
    with WorkerPool(1, operations=OPERATIONS, max_shared_bytes=MIB) as pool, pytest.raises(TooLarge):
        call(pool, "echo", result_bytes=MIB)


def test_a_worker_cannot_shrink_the_shared_memory(pool: WorkerPool) -> None:
    meta, result = call(pool, "shrink", b"still here")
    assert meta["outcome"] == "Operation not permitted"
    assert result == b"still here"


def test_a_worker_sees_nothing_it_does_not_need(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with (ROOT / "pyproject.toml").open() as file:
        os.set_inheritable(file.fileno(), True)
        seen, _ = call(pool, "inspect")
    assert "SECRET_TOKEN" not in seen["environment"]
    assert seen["ignored"] == ["SIGINT", "SIGTERM"]
    others = [fd for fd in seen["fds"] if fd != "/dev/null" and "/proc/" not in fd]
    assert {fd.split(":")[0] for fd in others} == {"/memfd", "socket"}


def test_workers_are_reused_and_no_more_than_size(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: call(pool, "nap", seconds=0.01)[0]["pid"], range(40)))
    assert 1 <= len(set(answers)) <= 2
    assert pool.busy == 0


def test_a_worker_is_replaced_after_its_share_of_calls() -> None:
    with WorkerPool(1, operations=OPERATIONS, max_calls=3) as pool:
        pids = [pid_of(pool) for _ in range(7)]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_grew_is_replaced() -> None:
    with WorkerPool(1, operations=OPERATIONS, max_rss_bytes=1) as pool:
        assert pid_of(pool) != pid_of(pool)


def test_a_worker_killed_while_idle_costs_nothing(pool: WorkerPool) -> None:
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z")
    assert call(pool, "echo", b"next")[1] == b"next"


def test_warm_starts_workers_that_calls_then_use(pool: WorkerPool) -> None:
    pool.warm("echo", count=5)
    assert pool.busy == 0
    assert len(pool._idle) == 2


def test_a_call_waits_for_a_worker_that_is_being_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPool(2, operations=OPERATIONS) as pool, ThreadPoolExecutor(2) as threads:
        entered, go_on, load = threading.Event(), threading.Event(), pool._load

        def slow(worker: Any, operation: str) -> None:
            entered.set()
            assert go_on.wait(30)
            load(worker, operation)

        monkeypatch.setattr(pool, "_load", slow)
        warming = threads.submit(pool.warm, "echo")
        assert entered.wait(30)
        called = threads.submit(call, pool, "echo", b"x")
        assert pool.busy == 1
        go_on.set()
        assert called.result()[1] == b"x"
        warming.result()
        assert len(pool._idle) == 1


def test_workers_are_retired_by_what_they_have_imported() -> None:
    with WorkerPool(2, operations=OPERATIONS) as pool:
        pool.warm("echo", 2)
        pid = pid_of(pool)
        assert pool.retire("hang") == 0
        assert pool.retire("inspect") == 1
        assert len(pool._idle) == 1
        assert not Path(f"/proc/{pid}").exists()
        assert call(pool, "echo", b"next")[1] == b"next"


def test_close_ends_running_and_waiting_calls_and_leaves_no_process() -> None:
    pool = WorkerPool(1, operations=OPERATIONS)
    pid = pid_of(pool)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(call, pool, "hang")
        until(lambda: pool.busy == 1)
        waiting = threads.submit(call, pool, "echo")
        pool.close()
        with pytest.raises((CorruptPixelData, Overloaded)):
            running.result()
        with pytest.raises(Overloaded):
            waiting.result()
    with pytest.raises(Overloaded, match="shutting down"):
        call(pool, "echo")
    assert not Path(f"/proc/{pid}").exists()
    pool.close()


def test_a_closed_pool_leaves_no_open_files() -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with WorkerPool(2, operations=OPERATIONS) as pool:
        pool.warm("echo", 2)
        with pytest.raises(CorruptPixelData):
            call(pool, "leave")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


PARENT = """
import sys, threading
from gpu_render.workers import WorkerPool
pool = WorkerPool(2, operations={operations!r})
limits = dict(result_bytes=4096, memory_bytes=1 << 28)
meta, _ = pool.call("inspect", {{}}, b"", timeout_s=30, **limits)
print(meta["pid"], flush=True)
if {busy}:
    limits["timeout_s"] = 0.1
    threading.Thread(target=pool.call, args=("hang", {{}}, b""), kwargs=limits, daemon=True).start()
    while pool.busy == 0:
        pass
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_ends_when_its_parent_is_gone(busy: bool) -> None:
    """Idle: at the end of the socket. Hanging in a codec: at its own alarm, when its parent would have ended it."""
    operations = {name: OPERATIONS[name] for name in ("hang", "inspect")}
    script = PARENT.format(operations=operations, busy=busy)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ready\n"
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    """False for a process that is gone, or dead and waiting for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_many_threads_and_crashes_together(pool: WorkerPool) -> None:
    stop = threading.Event()
    crashes = []

    def crash_often() -> None:
        while not stop.is_set():
            with pytest.raises(CorruptPixelData) as caught:
                call(pool, "crash", signal=signal.SIGSEGV)
            crashes.append(str(caught.value))

    with ThreadPoolExecutor(4) as threads:
        crashing = threads.submit(crash_often)
        payloads = [bytes([n]) * 1000 for n in range(60)]
        assert [result for _, result in threads.map(lambda p: call(pool, "echo", p), payloads)] == payloads
        stop.set()
        crashing.result()
    assert crashes


def test_a_process_that_cannot_begin_is_no_fault_of_the_bytes() -> None:
    with WorkerPool(1, operations={"missing": "no_such_module:nothing"}) as pool, pytest.raises(Overloaded):
        pool.call("missing", {}, b"", timeout_s=5, result_bytes=0, memory_bytes=0)


def test_spare_processes_are_there_when_the_others_are_busy() -> None:
    with WorkerPool(1, operations=OPERATIONS, spare=1) as pool, ThreadPoolExecutor(1) as threads:
        assert pool.size == 1
        neighbour = threads.submit(call, pool, "nap", b"neighbour", seconds=1.0)
        until(lambda: pool.busy == 1)
        assert call(pool, "echo", b"at once")[1] == b"at once"
        assert not neighbour.done()


def test_processes_in_the_background_stand_behind_others() -> None:
    with WorkerPool(1, operations=OPERATIONS, background=True) as pool:
        pid = pid_of(pool)
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        # Linux may share processors among sessions, whatever their processes are.
        assert (os.getsid(pid), os.getpgid(pid)) == (os.getsid(0), pid)


def test_processes_stand_still_while_they_are_halted() -> None:
    with WorkerPool(2, operations=OPERATIONS, background=True) as pool, ThreadPoolExecutor(2) as threads:
        call(pool, "echo")
        with pool.halted(), pool.halted():
            halted = [threads.submit(call, pool, "echo", b"later") for _ in range(2)]  # one has to be started, even
            until(lambda: pool.busy == 2)
            time.sleep(0.3)
            assert not any(one.done() for one in halted)
        assert [one.result()[1] for one in halted] == [b"later"] * 2
        with pool.halted():
            pass
        assert call(pool, "echo", b"again")[1] == b"again"


def test_a_process_that_does_nothing_is_not_woken_to_be_halted() -> None:
    with WorkerPool(1, operations=OPERATIONS, background=True) as pool:
        pid = pid_of(pool)
        with pool.halted():
            time.sleep(0.1)
            assert state_of(pid) == "S"


def test_one_that_is_at_work_is() -> None:
    with WorkerPool(1, operations=OPERATIONS, background=True) as pool, ThreadPoolExecutor(1) as threads:
        pid = pid_of(pool)
        napping = threads.submit(call, pool, "nap", b"late", seconds=0.3)
        until(lambda: pool.busy == 1)
        with pool.halted():
            until(lambda: state_of(pid) == "T")
            time.sleep(0.5)
            assert not napping.done()
        assert napping.result()[1] == b"late"


def test_what_was_halted_for_too_long_says_nothing_about_the_bytes() -> None:
    with WorkerPool(1, operations=OPERATIONS, background=True) as pool:
        call(pool, "echo")
        with pool.halted(), pytest.raises(NoProcessorTime):
            call(pool, "echo", timeout_s=0.02)
        assert call(pool, "echo", b"again")[1] == b"again"


_ORPHAN = """
import os, signal, threading
from gpu_render.workers import WorkerPool
from tests.gpu_render.test_workers import OPERATIONS, call, pid_of, state_of, until
pool = WorkerPool(1, operations=OPERATIONS, background=True)
pid = pid_of(pool)
print(pid, flush=True)
threading.Thread(target=call, args=(pool, "nap"), kwargs={"seconds": 600.0}, daemon=True).start()
until(lambda: pool.busy == 1)
halt = pool.halted()  # one that nobody holds would end at once
halt.__enter__()
until(lambda: state_of(pid) == "T")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_halted_process_ends_with_its_parent() -> None:
    parent = subprocess.run([sys.executable, "-c", _ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    until(lambda: not Path(f"/proc/{int(parent.stdout)}").exists())
