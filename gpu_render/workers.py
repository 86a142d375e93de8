"""WorkerPool: processes that may be killed, for everything that touches bytes from outside (decision 0003)."""

import contextlib
import fcntl
import json
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gpu_render.errors import CorruptPixelData, DecoderTimeout, NoProcessorTime, Overloaded, RenderError, TooLarge
from gpu_render.worker_protocol import ERRORS, BrokenMessage, Message, receive_message, send_message
from gpu_render.worker_time import PATIENCE, TimeLimit

OPERATIONS: Mapping[str, str] = {
    "decode": "gpu_render.decode.codecs:decode_payload",
    "encode": "gpu_render.encode:encode_payload",
    "phantom": "gpu_render.phantom_frames:encode_payload",
    "parse": "gpu_render.archive.parse:parse_file",
    "parse_files": "gpu_render.archive.parse:parse_files",
    "metadata": "gpu_render.archive.instance:metadata_of_file",
    "bulkdata": "gpu_render.archive.instance:bulkdata_of_file",
    "rewrite": "gpu_render.archive.rewrite:rewrite_file",
    "colours": "gpu_render.pictures.colour:convert_payload",
}
"""What a worker can do, as ``module:function``; imported in the worker, when first asked for."""

log = logging.getLogger("gpu_render")

Json = dict[str, Any]
Bytes = npt.NDArray[np.uint8]

MIB = 1024 * 1024
_KEPT_SHARED_BYTES = 32 * MIB  # shared pages beyond this go back to the system after a call that touched them
_ALIGNMENT = 64
_NICE = 5
_MAX_ERROR_TEXT = 500
_ALARM_SLACK_S = 5
_PASSED_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG")


class WorkerPool:
    """Up to ``size`` processes, each doing one call at a time, and ``spare`` more, started when they are needed: for
    callers who keep to ``size`` with what can wait, so that there is always a process for what cannot. Any number of
    threads may call.

    ``max_shared_bytes``: most that payload and result of one call may take together. A worker is replaced after
    ``max_calls`` calls, or when its own memory exceeds ``max_rss_bytes``. ``operations`` as in ``OPERATIONS``.
    ``background``: they run when the processors have little else to do.
    """

    def __init__(
        self,
        size: int,
        *,
        operations: Mapping[str, str] = OPERATIONS,
        max_shared_bytes: int = 4096 * MIB,
        max_calls: int = 10_000,
        max_rss_bytes: int = 1024 * MIB,
        start_timeout_s: float = 60.0,
        spare: int = 0,
        background: bool = False,
    ) -> None:
        if size < 1:
            raise ValueError("a pool has at least one worker")
        self.size = size
        self._most = size + spare
        self._operations = dict(operations)
        self._max_shared_bytes = max_shared_bytes
        self._max_calls = max_calls
        self._max_rss_bytes = max_rss_bytes
        self._start_timeout_s = start_timeout_s
        self._background = background
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._taken: set[_Worker] = set()
        self._busy = 0
        self._warming = 0
        self._halts = 0
        self._closed = False

    @property
    def busy(self) -> int:
        """How many calls are running now."""
        return self._busy

    def call(
        self,
        operation: str,
        meta: Json,
        payload: bytes | memoryview,
        *,
        timeout_s: float,
        result_bytes: int,
        memory_bytes: int,
    ) -> tuple[Json, Bytes]:
        """Run ``operation(meta, payload)`` in a worker and wait for it: (meta, result), the result uint8, flat, a copy.

        ``timeout_s`` [s] is processor time (worker_time.TimeLimit); ``result_bytes`` is the most the result may have;
        ``memory_bytes`` is what the worker may map beyond what it has mapped already.

        Raises DecoderTimeout at either limit and when the worker is killed, CorruptPixelData when it dies otherwise or
        raises anything unforeseen, the worker's own error (worker_protocol.ERRORS), TooLarge beyond
        ``max_shared_bytes``, Overloaded once closed and where no process can be started, NoProcessorTime where others
        have all processors.
        """
        if len(payload) + result_bytes + _ALIGNMENT > self._max_shared_bytes:
            raise TooLarge(f"{result_bytes} bytes of pixels exceed the limit of {self._max_shared_bytes}")
        worker = self._take()
        try:
            self._load(worker, operation)
            return worker.run(operation, meta, payload, timeout_s, result_bytes, memory_bytes)
        finally:
            self._give_back(worker)

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Its calls stand still while the block runs, wherever they are; blocks may overlap. A process that does
        nothing is left alone: to stop it would wake it.

        That they get no processor which another wants is not enough: the system spreads the threads of one decoder
        badly over processors of which one is busy, with whatever it is. Should this process die meanwhile, Linux ends
        them: a process group that stands still and is orphaned gets SIGHUP."""
        with self._changed:
            self._halts += 1
            if self._halts == 1:
                for worker in self._taken:
                    worker.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with self._changed:
                self._halts -= 1
                if self._halts == 0:
                    for worker in (*self._taken, *self._idle):  # one may have answered just before it was stopped
                        worker.signal(signal.SIGCONT)

    def warm(self, operation: str = "decode", count: int = 1) -> None:
        """Start ``count`` workers (at most ``size``) and let them import ``operation``, so that no call has to wait.

        One that comes meanwhile does wait: another worker would be no sooner.
        """
        workers = list[_Worker]()
        with self._changed:
            self._warming += 1
        try:
            for _ in range(min(count, self.size)):
                workers.append(self._take(warming=True))
            for worker in workers:
                self._load(worker, operation)
        finally:
            for worker in workers:
                self._give_back(worker)
            with self._changed:
                self._warming -= 1
                self._changed.notify_all()

    def retire(self, operation: str) -> int:
        """End the idle workers that have imported ``operation``, which nobody needs for now; how many these were."""
        with self._changed:
            retired = [worker for worker in self._idle if worker.has_loaded(operation)]
            self._idle = [worker for worker in self._idle if worker not in retired]
        for worker in retired:
            worker.stop()
        return len(retired)

    def close(self) -> None:
        """End all workers. Calls that are running end with CorruptPixelData, those waiting with Overloaded."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._taken:
                worker.kill()
            self._changed.notify_all()
        for worker in idle:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, worker: "_Worker", operation: str) -> None:
        """Raises Overloaded: a worker that cannot even begin says nothing about the bytes that wait for it."""
        try:
            worker.load(operation, self._start_timeout_s)
        except CorruptPixelData:
            raise Overloaded(f"no process for {operation} could be started") from None

    def _take(self, *, warming: bool = False) -> "_Worker":
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self._busy < self._most and (warming or bool(self._idle) or not self._warming))
            )
            if self._closed:
                raise Overloaded("the service is shutting down")
            self._busy += 1
            worker = self._idle.pop() if self._idle else None
        try:
            if worker is not None and not worker.running:
                worker.stop()
                worker = None
            worker = worker or _Worker(self._operations, self._background)
        except OSError as error:
            self._release(None)
            raise Overloaded(f"no worker process could be started ({type(error).__name__})") from None
        except BaseException:
            self._release(None)
            raise
        with self._changed:
            self._taken.add(worker)
            worker.signal(signal.SIGSTOP if self._halts else signal.SIGCONT)  # it may have missed either till now
            if self._closed:
                worker.kill()
        return worker

    def _give_back(self, worker: "_Worker") -> None:
        fresh: _Worker | None = worker
        try:
            if not worker.running or worker.worn(self._max_calls, self._max_rss_bytes):
                worker.stop()
                fresh = None if self._closed else _Worker(self._operations, self._background)
        except OSError:
            fresh = None  # no process could be started now; the next call tries again
        finally:
            self._release(fresh, worker)

    def _release(self, idle: "_Worker | None", taken: "_Worker | None" = None) -> None:
        with self._changed:
            self._busy -= 1
            if taken is not None:
                self._taken.discard(taken)
            if idle is not None and not self._closed:
                self._idle.append(idle)
                idle = None
            self._changed.notify()
        if idle is not None:
            idle.stop()


class _Worker:
    """One process as the parent sees it. Used by one thread at a time; only ``kill`` and ``signal`` may come from
    another."""

    def __init__(self, operations: Mapping[str, str], background: bool = False) -> None:
        self._memory_fd = os.memfd_create("gpu-render-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Without the seal a hostile worker could shrink the file under the parent's mapping: SIGBUS.
        fcntl.fcntl(self._memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        self._shared: mmap.mmap | None = None
        self._loaded: set[str] = set()
        self._calls = 0
        self._signalled = signal.SIGCONT  # as it begins
        try:
            self._sock, theirs = socket.socketpair()
        except OSError:
            os.close(self._memory_fd)
            raise
        try:
            self._process = _start(theirs.fileno(), self._memory_fd, operations)
            _step_back(self._process.pid, background)
            self._statm_fd = os.open(f"/proc/{self._process.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._sock.close()
            os.close(self._memory_fd)
            raise
        finally:
            theirs.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def worn(self, max_calls: int, max_rss_bytes: int) -> bool:
        """Whether it has done its share, or holds more memory of its own than allowed."""
        if self._calls >= max_calls:
            return True
        resident, shared = os.pread(self._statm_fd, 256, 0).split()[1:3]
        return (int(resident) - int(shared)) * mmap.PAGESIZE > max_rss_bytes

    def has_loaded(self, operation: str) -> bool:
        """Whether the worker has imported ``operation``."""
        return operation in self._loaded

    def load(self, operation: str, timeout_s: float) -> None:
        """Let the worker import ``operation``, once. Apart from ``run``, so that no call pays for imports."""
        if operation not in self._loaded:
            self._ask(operation, {"load": operation}, timeout_s)
            self._loaded.add(operation)

    def run(
        self,
        operation: str,
        meta: Json,
        payload: bytes | memoryview,
        timeout_s: float,
        result_bytes: int,
        memory_bytes: int,
    ) -> tuple[Json, Bytes]:
        """One call; see WorkerPool.call. The payload lies at the start of the shared memory, the result behind it."""
        offset = -(-len(payload) // _ALIGNMENT) * _ALIGNMENT
        shared = self._reserve(offset + result_bytes)
        shared[: len(payload)] = payload
        self._calls += 1
        request = {
            "operation": operation,
            "meta": meta,
            "payload_bytes": len(payload),
            "result_offset": offset,
            "result_bytes": result_bytes,
            "shared_bytes": len(shared),
            "memory_bytes": memory_bytes,
            "alarm_s": math.ceil(PATIENCE * timeout_s) + _ALARM_SLACK_S,
        }
        reply = self._ask(operation, request, timeout_s)
        answer, length = reply.get("meta"), reply.get("result_bytes")
        if not isinstance(answer, dict) or not isinstance(length, int) or not 0 <= length <= result_bytes:
            raise self._lost(operation)
        result = np.frombuffer(shared, np.uint8, length, offset).copy()
        if offset + length > _KEPT_SHARED_BYTES:
            shared.madvise(mmap.MADV_REMOVE, _KEPT_SHARED_BYTES, len(shared) - _KEPT_SHARED_BYTES)
        return answer, result

    def signal(self, number: signal.Signals) -> None:
        """Let the process stand still or go on, unless it does; nothing where it has ended."""
        if number is not self._signalled:
            self._process.send_signal(number)
            self._signalled = number

    def kill(self) -> None:
        """End the process now; its thread notices the closed socket."""
        self._process.kill()

    def stop(self) -> None:
        """End the process, reap it, and free what the parent holds for it."""
        self._process.kill()
        self._process.wait()
        self._sock.close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            os.close(self._statm_fd)
            self._memory_fd = -1

    def _reserve(self, size: int) -> mmap.mmap:
        if self._shared is None or len(self._shared) < size:
            grown = 1 << max(20, (size - 1).bit_length())
            os.ftruncate(self._memory_fd, grown)
            if self._shared is not None:
                self._shared.close()
            self._shared = mmap.mmap(self._memory_fd, grown)
        return self._shared

    def _ask(self, operation: str, request: Message, timeout_s: float) -> Message:
        """Send, wait for the answer, raise what it says. A worker that does not answer in time or sense is killed."""
        try:
            limit = TimeLimit(self._process.pid, timeout_s)
            self._sock.settimeout(PATIENCE * timeout_s)
            send_message(self._sock, request)
            reply = receive_message(self._sock, limit.left)
        except TimeoutError:
            self._end()
            log.warning("a process for %s was stopped at its time limit of %.1f s", operation, timeout_s)
            raise DecoderTimeout(f"{operation} was stopped at its time limit of {timeout_s:.1f} s") from None
        except NoProcessorTime:
            self._end()
            log.warning("a process for %s was stopped: the machine had no processor time for it", operation)
            raise
        except (BrokenMessage, OSError):
            raise self._lost(operation) from None
        except BaseException:
            self._end()  # interrupted half-way: nobody knows what the worker would answer next
            raise
        if "error" in reply:
            raise self._reported(operation, reply)
        return reply

    def _reported(self, operation: str, reply: Message) -> RenderError:
        kind = ERRORS.get(str(reply["error"]))
        if kind is None:
            return self._lost(operation)
        return kind(str(reply.get("message"))[:_MAX_ERROR_TEXT])

    def _lost(self, operation: str) -> CorruptPixelData:
        self._end()
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        log.warning("a process for %s died (%s) and is replaced", operation, how)
        # SIGKILL comes from outside, as from a machine without memory: that says nothing against the bytes.
        kind = DecoderTimeout if code == -signal.SIGKILL else CorruptPixelData
        return kind(f"the {operation} process died ({how}); other frames are not affected")

    def _end(self) -> None:
        try:
            self._process.wait(0.2)  # one that died by itself has its own signal to report
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _step_back(pid: int, background: bool) -> None:
    """Let a process that has just begun give way to the one that answers requests; one of the background runs only
    while no other of this service wants the processor (sched(7))."""
    with contextlib.suppress(OSError):  # a system that forbids even this; then it is one process like the others
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE))
        if background:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _start(socket_fd: int, memory_fd: int, operations: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # what the parent can import, no more
        "MALLOC_ARENA_MAX": "1",  # an arena a thread would count 64 MiB each against the memory limit
        # Keep freed memory for the next frame: mapping it anew costs a third of a fast decoder's time.
        "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
        "MALLOC_TRIM_THRESHOLD_": str(128 * MIB),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # -P: never import from the current folder; -B, -W ignore: a worker writes nothing and prints nothing.
    command = [sys.executable, "-P", "-B", "-W", "ignore", "-m", "gpu_render.worker_main"]
    return subprocess.Popen(  # noqa: S603 - the command is made of constants and two numbers
        [*command, str(socket_fd), str(memory_fd), json.dumps(dict(operations))],
        pass_fds=(socket_fd, memory_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        # A terminal's Ctrl+C goes to the service alone. But no session of its own: Linux may share processors among
        # sessions before it looks at what their processes are (sched(7), autogroup).
        process_group=0,
    )
