"""As much of CuPy as ``kernels/cuda.py`` calls, over NumPy's memory and the host-built kernels.

Nothing is done when it is queued. A stream's work is done when someone waits for it, or for an event behind it: as late
as CUDA may. With a ``seed`` any other order that the events allow is taken. So bytes that are read too early are old
bytes, and bytes that are written too early are someone else's. Memory is full of old bytes when it is given out and
when it is given back, and is never given out again; work that touches what was given back, or that leaves an
allocation, fails the test. It counts what crosses the bus, and fails where it is told to.
"""

import ctypes
import random
import sys
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kernels.params import ADOPT_PARAMS, ADOPT_WORDS, FRAME_PARAMS, SAMPLE_DTYPES, UNPACK_PARAMS, Curve, SampleFormat
from tests.kernels import host

Bytes = npt.NDArray[np.uint8]

OLD, FREED = 0xA5, 0xDB  # bytes
HARMLESS = (1, 2, 9, 701)  # statuses after which CUDA goes on; any other is given for every call from then on
KEPT = 64 << 20  # bytes given back that are kept, so that their addresses mean nothing else


class CUDARuntimeError(RuntimeError):
    """As CuPy's: ``status`` is the cudaError_t."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


class CUDADriverError(CUDARuntimeError):
    """As CuPy's."""


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class CompileException(Exception):
    """As CuPy's."""


@dataclass
class Block:
    """An allocation, aligned to 512 bytes. ``busy``: queued work that was given its address."""

    nbytes: int
    pinned: bool
    busy: set["Work"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._memory = np.full(self.nbytes + 512, OLD, np.uint8)
        self.ptr = -(-self._memory.ctypes.data // 512) * 512

    @property
    def bytes(self) -> Bytes:
        """Its bytes."""
        offset = self.ptr - self._memory.ctypes.data
        return self._memory[offset : offset + self.nbytes]


class Pointer:
    """As CuPy's MemoryPointer: gives its block back when the last reference is gone."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


@dataclass(eq=False)
class Work:
    """Something queued: ``run`` does it, and ``after``, of another stream, has to be done before."""

    run: Callable[[], None]
    stream: "Stream"
    after: "Work | None" = None
    blocks: tuple[Block, ...] = ()
    done: bool = False
    tick: int = 0


class _Context:
    def __init__(self, device: "FakeDevice") -> None:
        self._fake = device

    def __enter__(self) -> "_Context":
        self._fake.entered.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._fake.entered.pop() is self


class Device(_Context):
    """As CuPy's."""


class Stream(_Context):
    """As CuPy's. Only non-blocking ones: the others wait for each other by themselves."""

    def __init__(self, device: "FakeDevice") -> None:
        super().__init__(device)
        self.queue: list[Work] = []
        self.ptr = 40 + len(device.streams)
        device.streams.append(self)

    def synchronize(self) -> None:
        """Do all that is queued."""
        self._fake.call("synchronize")
        self._fake.finish(self.queue[-1] if self.queue else None)

    def record(self, event: "Event") -> "Event":
        """As CuPy's."""
        self._fake.call("event")
        event.work = self._fake.queue(self, lambda: None)
        return event

    def wait_event(self, event: "Event") -> None:
        """As CuPy's: what is queued from now on waits."""
        self._fake.call("event")
        self._fake.queue(self, lambda: None, after=event.work)


class Event:
    """As CuPy's."""

    def __init__(self, device: "FakeDevice", *, disable_timing: bool = False) -> None:
        device.call("event")
        self._fake, self.timed = device, not disable_timing
        self.work: Work | None = None

    @property
    def done(self) -> bool:
        """As CuPy's; never raises."""
        return self.work is None or self.work.done

    def synchronize(self) -> None:
        """Do all that was queued before."""
        self._fake.call("synchronize")
        self._fake.finish(self.work)


class FakeDevice:
    """The state behind one fake module: what is queued, what was counted, and which errors are to happen."""

    def __init__(self, devices: int = 1, seed: int | None = None) -> None:
        self.devices = devices
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []  # every upload, kernel, download and synchronisation, as they are queued
        self.uploaded = self.downloaded = 0
        self.compile_error: Exception | None = None
        self.count_error: Exception | None = None
        self.options: tuple[str, ...] = ()
        self.entered: list[_Context] = []
        self.streams: list[Stream] = []
        self.wrong: list[str] = []  # what no device would survive
        self._random = None if seed is None else random.Random(seed)
        self._tick = 0
        self._failures: dict[str, tuple[int, Exception]] = {}
        self._lost: Exception | None = None
        self._blocks: dict[int, Block] = {}
        self._starts: list[int] = []
        self._freed: list[Block] = []

    # Failures.

    def fail(self, what: str, error: Exception, nth: int = 1) -> None:
        """Let the nth call from now on fail: ``alloc``, ``pinned``, ``upload``, ``download``, ``event``,
        ``synchronize``, a kernel's name, or ``work``: the device itself, in what was queued, and from then on."""
        self._failures[what] = nth, error

    def call(self, what: str) -> None:
        """Count a call, and let it fail if it is to."""
        if self._lost:
            raise self._lost
        self.counts[what] += 1
        self._trip(what)

    def _trip(self, what: str) -> None:
        nth, error = self._failures.get(what, (0, None))
        if error is not None:
            self._failures[what] = nth - 1, error
            if nth == 1:
                del self._failures[what]
                if getattr(error, "status", 2) not in HARMLESS:
                    self._lost = error
                raise error

    # Memory.

    @property
    def lost(self) -> bool:
        """Whether it is lost: every call fails from now on."""
        return self._lost is not None

    @property
    def alive(self) -> int:
        """Bytes on the device that have not been given back."""
        return sum(block.nbytes for block in self._blocks.values() if not block.pinned)

    def alloc(self, nbytes: int) -> Pointer:
        """As CuPy's, from the pool: the current stream is the one whose blocks it takes."""
        self.call("alloc")
        assert any(isinstance(entered, Device) for entered in self.entered)
        assert nbytes > 0
        block = self._new(Block(nbytes, pinned=False))
        pointer = Pointer(block.ptr)
        weakref.finalize(pointer, self._give_back, block).atexit = False
        return pointer

    def pinned(self, nbytes: int) -> Any:
        """As CuPy's: something that has the buffer protocol. Not an array: NumPy would look through it."""
        self.call("pinned")
        block = self._new(Block(nbytes, pinned=True))
        view = (ctypes.c_ubyte * nbytes).from_address(block.ptr)
        weakref.finalize(view, self._give_back, block).atexit = False
        return view

    def _new(self, block: Block) -> Block:
        self._blocks[block.ptr] = block
        self._starts = sorted(self._blocks)
        return block

    def _give_back(self, block: Block) -> None:
        if block.busy and not self._lost:
            self.wrong.append("memory was given back while queued work uses it")
        block.bytes[:] = FREED
        del self._blocks[block.ptr]
        self._starts = sorted(self._blocks)
        self._freed.append(block)
        while sum(freed.nbytes for freed in self._freed) > KEPT:
            self._freed.pop(0)

    def block(self, address: int, nbytes: int, pinned: bool = False) -> Block:
        """The allocation that holds these bytes."""
        place = bisect_right(self._starts, address) - 1
        block = self._blocks[self._starts[place]] if place >= 0 else None
        inside = block is not None and address + nbytes <= block.ptr + block.nbytes
        if block is None or not inside or block.pinned is not pinned:
            self.wrong.append(f"{nbytes} bytes are not in {'pinned' if pinned else 'device'} memory")
            raise AssertionError(self.wrong[-1])
        return block

    # Work.

    def queue(
        self, stream: Stream, run: Callable[[], None], after: Work | None = None, blocks: tuple[Block, ...] = ()
    ) -> Work:
        """Queue work on a stream; with a seed, some of all that is queued is done at once."""
        work = Work(run, stream, after, blocks)
        stream.queue.append(work)
        for block in blocks:
            block.busy.add(work)
        while self._random and self._random.random() < 0.6:
            ready = [s.queue[0] for s in self.streams if s.queue and (not s.queue[0].after or s.queue[0].after.done)]
            if ready:
                self._do(self._random.choice(ready))
        return work

    def finish(self, work: Work | None) -> None:
        """Do this work and what has to be done before it, and nothing else."""
        while work is not None and not work.done:
            first = work.stream.queue[0]
            if first.after is not None:
                self.finish(first.after)
            self._do(first)
        if self._lost:
            raise self._lost

    def _do(self, work: Work) -> None:
        assert work.stream.queue.pop(0) is work
        try:
            self._trip("work")
        except CUDARuntimeError:
            assert self._lost, "what fails in queued work is a lost device"
        if not self._lost:
            work.run()
        for block in work.blocks:
            block.busy.discard(work)
        self._tick += 1
        work.done, work.tick = True, self._tick

    def memcpy_async(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        """As CuPy's."""
        what = {1: "upload", 2: "download", 3: "copy"}[kind]
        self.call(what)
        self.log.append(what)
        self.uploaded += nbytes if kind == 1 else 0
        self.downloaded += nbytes if kind == 2 else 0
        blocks = self.block(to, nbytes, kind == 2), self.block(source, nbytes, kind == 1)
        (on,) = (s for s in self.streams if s.ptr == stream)

        def copy() -> None:
            self.block(to, nbytes, kind == 2)
            self.block(source, nbytes, kind == 1)
            ctypes.memmove(to, source, nbytes)

        self.queue(on, copy, blocks=blocks)

    def memset_async(self, to: int, value: int, nbytes: int, stream: int) -> None:
        """As CuPy's."""
        self.call("wipe")
        (on,) = (s for s in self.streams if s.ptr == stream)
        block = self.block(to, nbytes)

        def fill() -> None:
            ctypes.memset(to, value, nbytes)

        self.queue(on, fill, blocks=(block,))

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Queue a kernel on the current stream, as CuPy does."""
        self.call(name)
        self.log.append(name)
        assert all(1 <= n <= limit for n, limit in zip(grid, (2**31 - 1, 65535), strict=True))
        assert 1 <= block[0] <= 256
        assert [type(a) for a in arguments[:2]] == [np.uint64, np.int32]
        address, count = int(arguments[0]), int(arguments[1])
        stream = self.entered[-1]
        assert isinstance(stream, Stream)
        nbytes = count * _RECORDS[name].itemsize
        blocks = (self.block(address, nbytes),) if count else ()

        def run() -> None:
            if not count:
                return
            held = self.block(address, nbytes)
            rows = held.bytes[address - held.ptr :][:nbytes].view(_RECORDS[name])
            for row in rows:
                for start, size in _TOUCHED[name](row):
                    self.block(start, size)
            more = [ctypes.c_void_p(int(a)) for a in arguments[2:]]
            for start in arguments[2:]:
                self.block(int(start), 16 * count)
            host.launch(name, grid, block[0], ctypes.c_void_p(address), ctypes.c_int(count), *more)

        self.queue(stream, run, blocks=blocks)

    def device_count(self) -> int:
        """As CuPy's."""
        if self.count_error:
            raise self.count_error
        return self.devices

    def elapsed(self, start: Event, end: Event) -> float:
        """As CuPy's: half a millisecond for everything that was done in between."""
        assert start.timed
        assert end.timed
        if start.work is None or end.work is None or not (start.work.done and end.work.done):
            raise CUDARuntimeError(600)
        return (end.work.tick - start.work.tick) / 2

    def module(self) -> ModuleType:
        """To stand in ``sys.modules["cupy"]``."""
        fake, device = ModuleType("cupy"), self

        class RawModule:
            def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
                assert "render_batch" in code
                assert backend == "nvrtc"
                device.options = options

            def compile(self) -> None:
                device.counts["compile"] += 1
                if device.compile_error:
                    raise device.compile_error

            def get_function(self, name: str) -> Any:
                assert name in _RECORDS
                return lambda grid, block, arguments: device.launch(name, grid, block, arguments)

        def stream(*, non_blocking: bool) -> Stream:
            assert non_blocking
            return Stream(device)

        def event(*, disable_timing: bool = False) -> Event:
            return Event(device, disable_timing=disable_timing)

        properties = {"name": b"Fake GPU", "major": 9, "minor": 0, "l2CacheSize": 1 << 12}
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=self.device_count,
            getDeviceProperties=lambda number: properties,
            driverGetVersion=lambda: 13010,
            runtimeGetVersion=lambda: 12090,
            memGetInfo=lambda: (1 << 30, 1 << 31),
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3,
            memcpyAsync=self.memcpy_async,
            memsetAsync=self.memset_async,
        )
        pool = SimpleNamespace(free_bytes=lambda: 4096, free_all_blocks=lambda: self.call("trim"))
        vars(fake).update(
            __version__="0.0-fake",
            RawModule=RawModule,
            get_default_memory_pool=lambda: pool,
            get_default_pinned_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: self.call("trim pinned")),
            cuda=SimpleNamespace(
                runtime=runtime,
                driver=SimpleNamespace(CUDADriverError=CUDADriverError),
                memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
                compiler=SimpleNamespace(CompileException=CompileException),
                Stream=stream,
                Event=event,
                Device=lambda number: Device(device),
                alloc=self.alloc,
                alloc_pinned_memory=self.pinned,
                get_elapsed_time=self.elapsed,
            ),
        )
        return fake


def use(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> FakeDevice:
    """Put a device in CuPy's place for a test."""
    host.library()
    monkeypatch.setitem(sys.modules, "cupy", device.module())
    return device


# Which bytes a kernel touches, by its records.

_RECORDS = {
    "render_batch": FRAME_PARAMS,
    "extent_batch": FRAME_PARAMS,
    "unpack_batch": UNPACK_PARAMS,
    "adopt_batch": ADOPT_PARAMS,
}
Spans = list[tuple[int, int]]


def _count(row: Any) -> int:
    return int(row["rows"]) * int(row["columns"]) * int(row["samples"])


def _itemsize(code: Any) -> int:
    return SAMPLE_DTYPES[SampleFormat(int(code))].itemsize


def _of_extent(row: Any) -> Spans:
    return [(int(row["source"]), _count(row) * _itemsize(row["sample_format"]))]


def _of_render(row: Any) -> Spans:
    output = int(row["width"]) * int(row["height"]) * int(row["output_samples"]) * _itemsize(row["output_format"])
    spans = [*_of_extent(row), (int(row["output"]), output)]
    if row["table"]:
        spans.append((int(row["table"]), 255 * 8 if row["curve"] == Curve.THRESHOLDS else int(row["table_length"])))
    if row["steps"]:
        spans.append((int(row["steps"]), 1024))
    return spans


def _of_unpack(row: Any) -> Spans:
    return [(int(row["source"]), 1), (int(row["output"]), _count(row) * int(row["itemsize"]))]


def _of_adopt(row: Any) -> Spans:
    left = (int(row["rows"]) - 1) * int(row["row_stride"])
    left += int(row["columns"]) * int(row["samples"]) * _itemsize(row["source_format"])
    samples = _count(row) * _itemsize(row["output_format"])
    assert bool(row["output"]) != bool(row["reference"])
    spans = [(int(row["source"]), left), (int(row["stats"]), 8 * ADOPT_WORDS)]
    return spans + [(int(row[name]), samples) for name in ("output", "reference") if row[name]]


_TOUCHED: dict[str, Callable[[Any], Spans]] = {
    "render_batch": _of_render,
    "extent_batch": _of_extent,
    "unpack_batch": _of_unpack,
    "adopt_batch": _of_adopt,
}
