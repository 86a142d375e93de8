"""The worker process: ``python -m gpu_render.worker_main SOCKET_FD MEMORY_FD OPERATIONS``. Started by WorkerPool only.

It does one call at a time, keeps the limits the call came with, and ends when the parent's end of the socket closes.
"""

import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from gpu_render.errors import CorruptPixelData, DecoderTimeout, TooLarge
from gpu_render.worker_protocol import ERRORS, BrokenMessage, Message, receive_message, send_message

Result = bytes | bytearray | memoryview
Operation = Callable[[dict[str, Any], memoryview], tuple[dict[str, Any], Result]]
"""(meta, payload) -> (meta, result). Meta is JSON; payload is readable during the call; result is flat bytes."""

MAX_OPEN_FILES = 64
UNWANTED = ("gdcm", "_gdcm", "pylibjpeg", "openjpeg", "rle", "libjpeg", "jpeg_ls", "requests")
"""What pydicom imports as soon as it is installed: codecs that nobody has chosen (decision 0005), and downloads."""


class Worker:
    """The parent's calls, one after another, over ``sock`` and the shared memory ``memory_fd``."""

    def __init__(self, sock: socket.socket, memory_fd: int, paths: dict[str, str]) -> None:
        self._sock = sock
        self._memory_fd = memory_fd
        self._shared = memoryview(b"")
        self._paths = paths
        self._operations: dict[str, Operation] = {}

    def serve(self) -> None:
        """Answer until the parent hangs up."""
        while True:
            try:
                request = receive_message(self._sock)
                send_message(self._sock, self._answer(request))
            except (BrokenMessage, OSError):
                return

    def _answer(self, request: Message) -> Message:
        # An exception's own text may quote what is in the file, so only texts of this package leave the process.
        try:
            return self._run(request) if "operation" in request else self._load(request["load"])
        except MemoryError:
            return _error(DecoderTimeout("stopped at its memory limit"))
        except tuple(ERRORS.values()) as error:
            return _error(error)
        except Exception as error:  # noqa: BLE001 - anything can come out of a parser; the boundary of RENDERING
            return _error(CorruptPixelData(f"the pixel data could not be read ({type(error).__name__})"))

    def _load(self, name: str) -> Message:
        module, function = self._paths[name].split(":")
        self._operations[name] = getattr(importlib.import_module(module), function)
        return {"meta": {}, "result_bytes": 0}

    def _run(self, request: Message) -> Message:
        shared = self._map(request["shared_bytes"])
        operation = self._operations[request["operation"]]
        # Should the parent be gone and the codec hang, the alarm's default action ends this process.
        signal.alarm(request["alarm_s"])
        _limit_memory(request["memory_bytes"])
        try:
            with shared[: request["payload_bytes"]].toreadonly() as payload:
                meta, result = operation(request["meta"], payload)
        finally:
            _unlimit_memory()
            signal.alarm(0)
        with memoryview(result) as source:
            offset, length = request["result_offset"], source.nbytes
            if length > request["result_bytes"]:
                raise TooLarge(f"the result has {length} bytes, expected at most {request['result_bytes']}")
            shared[offset : offset + length] = source
        return {"meta": meta, "result_bytes": length}

    def _map(self, size: int) -> memoryview:
        if self._shared.nbytes != size:
            self._shared = memoryview(mmap.mmap(self._memory_fd, size))
        return self._shared


def _error(error: Exception) -> Message:
    return {"error": type(error).__name__, "message": str(error)}


def _limit_memory(extra: int) -> None:
    """Allow ``extra`` bytes of address space beyond what is mapped now."""
    mapped = int(os.pread(_statm(), 256, 0).split()[0]) * mmap.PAGESIZE
    hard = _most_memory()
    soft = mapped + extra if hard == resource.RLIM_INFINITY else min(mapped + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _unlimit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_most_memory(), _most_memory()))


@cache
def _statm() -> int:
    """Descriptor of what tells how much memory is mapped; open for life."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


@cache
def _most_memory() -> int:
    """The limit that this process was started with [byte]."""
    return resource.getrlimit(resource.RLIMIT_AS)[1]


def _harden() -> None:
    """Limits for the whole life: no core dumps (they would hold patient data), no files written, few open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))


def _refuse(modules: Iterable[str]) -> None:
    """Let imports of these fail in this process, as if nobody had installed them."""
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]  # what importlib documents


def main() -> None:
    """Entry point; the arguments are two inherited file descriptors and ``{operation: "module:function"}`` as JSON."""
    socket_fd, memory_fd, paths = sys.argv[1:]
    _harden()
    _refuse(UNWANTED)
    with socket.socket(fileno=int(socket_fd)) as sock:
        Worker(sock, int(memory_fd), json.loads(paths)).serve()


if __name__ == "__main__":
    main()
