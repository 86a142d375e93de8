"""Operations that misbehave on purpose, for test_workers.py. They run in worker processes only."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gpu_render.errors import NotRenderable

Answer = tuple[dict[str, Any], bytes]


def echo(meta: dict[str, Any], payload: memoryview) -> Answer:
    return meta, bytes(payload)


def fill(meta: dict[str, Any], payload: memoryview) -> Answer:
    return {}, b"\x5a" * meta["bytes"]


def crash(meta: dict[str, Any], payload: memoryview) -> Answer:
    os.kill(os.getpid(), meta["signal"])
    raise AssertionError("still alive")


def leave(meta: dict[str, Any], payload: memoryview) -> Answer:
    os._exit(3)


def hang(meta: dict[str, Any], payload: memoryview) -> Answer:
    threading.Event().wait()
    raise AssertionError("woke up")


def stop(meta: dict[str, Any], payload: memoryview) -> Answer:
    """Stand still, as if others had all processors."""
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError("goes on")


def nap(meta: dict[str, Any], payload: memoryview) -> Answer:
    time.sleep(meta["seconds"])
    return {"pid": os.getpid()}, bytes(payload)


def spin(meta: dict[str, Any], payload: memoryview) -> Answer:
    """Take so many seconds of processor time."""
    begun_s = time.process_time()
    while time.process_time() - begun_s < meta["seconds"]:
        pass
    return {}, bytes(payload)


def grab(meta: dict[str, Any], payload: memoryview) -> Answer:
    """Take memory in small steps, as a decoder that follows a hostile header does."""
    taken = [bytearray(1 << 20) for _ in range(meta["mebibytes"])]
    return {"taken": len(taken)}, b""


def refuse(meta: dict[str, Any], payload: memoryview) -> Answer:
    raise NotRenderable("our own words")


def stumble(meta: dict[str, Any], payload: memoryview) -> Answer:
    raise KeyError("Doe^Jane")


def recurse(meta: dict[str, Any], payload: memoryview) -> Answer:
    return recurse(meta, payload)


def chatter(meta: dict[str, Any], payload: memoryview) -> Answer:
    """A message longer than the protocol allows."""
    return {"text": "x" * (8 << 20)}, b""


def inspect(meta: dict[str, Any], payload: memoryview) -> Answer:
    """What the process looks like from inside."""
    fds = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    ignored = [s.name for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) == signal.SIG_IGN]
    seen = {"fds": sorted(fds), "ignored": ignored, "environment": sorted(os.environ), "pid": os.getpid()}
    print("printed on purpose", file=sys.stderr)
    return seen, b""


def shrink(meta: dict[str, Any], payload: memoryview) -> Answer:
    """What a taken-over worker could try against the parent: cut the shared memory off under its mapping."""
    outcome = "shrunk"
    try:
        os.ftruncate(int(sys.argv[2]), 0)
    except OSError as error:
        outcome = str(error.strerror)
    return {"outcome": outcome}, bytes(payload)
