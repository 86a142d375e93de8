"""A device for tests: NumPy's answers, a memory of its own, batches in flight, faults where it is told to have them."""

import threading
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import Codestream, Decoded, DeviceError, RenderJob, render
from kernels.cpu import CpuBackend
from kernels.packing import Packed, unpacked

Array = npt.NDArray[Any]
WAIT_S = 20


def out_of_memory() -> DeviceError:
    """As a backend says so."""
    return DeviceError("the device's memory does not suffice", lost=False, out_of_memory=True)


def refused() -> DeviceError:
    """A launch that CUDA refuses."""
    return DeviceError("CUDA error 701", lost=False)


def lost() -> DeviceError:
    """An illegal address: the context is gone."""
    return DeviceError("CUDA error 700", lost=True)


@dataclass(eq=False)
class Pixels:
    """A handle."""

    samples: Array


@dataclass(eq=False)
class Ticket:
    """A batch in flight."""

    jobs: Sequence[RenderJob]


@dataclass
class TestDevice:
    """A Backend. ``memory_bytes``: all its memory. ``faults[method]``: what its next calls raise, None for none; when
    one is lost, every later call raises it too. ``calls`` counts calls, ``uploaded`` bytes, ``batches`` what was
    launched (the samples' first values). While ``gate`` is shut, collect() waits. ``decoder``: its codec.
    """

    __test__ = False

    memory_bytes: int = 1 << 20
    decoder: Callable[[Codestream], Array | None] | None = None
    poison: int | None = None
    faults: dict[str, deque[Exception | None]] = field(default_factory=lambda: defaultdict(deque))
    calls: Counter[str] = field(default_factory=Counter)
    batches: list[list[int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    name = "cuda"
    description = "a device of a test"
    unpacks = True
    download_ms = 0.0

    def __post_init__(self) -> None:
        self.used = self.uploads = self.uploaded = 0
        self.most_tickets = 0
        self.codec = "test codec 1" if self.decoder else ""
        self._tickets: list[Ticket] = []
        self._gone: Exception | None = None
        self._cpu = CpuBackend()
        self._thread: int | None = None
        self.gate.set()

    def fail(self, method: str, *errors: Exception | None) -> None:
        """Let the next calls of a method fail; None: not that one."""
        self.faults[method].extend(errors)

    def _called(self, method: str) -> None:
        assert self._thread in (None, threading.get_ident()), "a device is used by one thread"
        self._thread = threading.get_ident()
        self.calls[method] += 1
        if self._gone is not None:
            raise self._gone
        error = self.faults[method].popleft() if self.faults[method] else None
        if error is not None:
            if isinstance(error, DeviceError) and error.lost:
                self._gone = error
            raise error

    def _allocate(self, samples: Array) -> Pixels:
        if self.used + samples.nbytes > self.memory_bytes:
            raise out_of_memory()
        pixels = Pixels(samples)
        self.used += samples.nbytes
        weakref.finalize(pixels, self._free, samples.nbytes)
        return pixels

    def _free(self, nbytes: int) -> None:
        self.used -= nbytes

    def put(self, frames: Sequence[Array | Packed]) -> list[object]:
        self._called("put")
        put: list[object] = [self._allocate(unpacked(frame)) for frame in frames]
        self.uploads += len(frames)
        self.uploaded += sum(frame.nbytes for frame in frames)
        return put

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        self._called("decode")
        return [self._decoded(codestream) for codestream in codestreams]

    def _decoded(self, codestream: Codestream) -> Decoded | None:
        samples = self.decoder(codestream) if self.decoder else None
        return None if samples is None else Decoded(self._allocate(samples), int(samples.min()), int(samples.max()))

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        self._called("extents")
        return self._cpu.extents([(samples_of(pixels), params) for pixels, params in frames])

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        self._called("launch")
        assert len(self._tickets) < 2, "two batches are out already"
        self.batches.append([int(samples_of(job.pixels).flat[0]) for job in jobs])
        self._tickets.append(Ticket(jobs))
        self.most_tickets = max(self.most_tickets, len(self._tickets))
        return self._tickets[-1]

    def collect(self, ticket: object) -> list[Array]:
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        assert self._tickets.pop(0) is ticket, "tickets are collected in order"
        self._called("collect")
        assert isinstance(ticket, Ticket)
        if self.poison is not None and any(samples_of(job.pixels).flat[0] == self.poison for job in ticket.jobs):
            raise refused()
        jobs = [RenderJob(samples_of(job.pixels), job.params, job.table) for job in ticket.jobs]
        return [array.copy() for array in render(self._cpu, jobs)]

    def trim(self) -> None:
        self._called("trim")

    def memory(self) -> tuple[int, int]:
        if self._gone is not None:
            raise self._gone
        return self.memory_bytes - self.used, self.memory_bytes

    def close(self) -> None:
        self.calls["close"] += 1


def samples_of(pixels: object) -> Array:
    """Behind a handle."""
    assert isinstance(pixels, Pixels)
    return pixels.samples
