"""As much of CuPy as ``kernels/cuda.py`` calls, over NumPy's memory and the host-built kernel. It counts what crosses
the bus, and refuses what a device would: addresses outside its own memory, copies that leave an allocation."""

import ctypes
from collections import Counter
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from kernels.params import FRAME_PARAMS
from tests.kernels import host


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


class Memory:
    """An allocation, on the device or pinned, aligned to 512 bytes and full of old bytes."""

    def __init__(self, nbytes: int) -> None:
        self._bytes = np.full(nbytes + 512, 0xA5, np.uint8)
        self.ptr = -(-self._bytes.ctypes.data // 512) * 512
        self.nbytes = nbytes

    def bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The allocation's bytes."""
        offset = self.ptr - self._bytes.ctypes.data
        return self._bytes[offset : offset + self.nbytes]


class _Context:
    def __enter__(self) -> "_Context":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


class FakeDevice:
    """The state behind one fake module: what was counted, and which errors are to happen."""

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.counts: Counter[str] = Counter()
        self.uploaded = 0
        self.launch_error: Exception | None = None
        self.alloc_error: Exception | None = None
        self.compile_error: Exception | None = None
        self.count_error: Exception | None = None
        self.options: tuple[str, ...] = ()
        self._alive: list[Memory] = []

    def alloc(self, nbytes: int) -> Memory:
        if self.alloc_error:
            raise self.alloc_error
        self._alive.append(Memory(nbytes))
        return self._alive[-1]

    def _assert_inside(self, address: int, nbytes: int) -> None:
        assert any(m.ptr <= address and address + nbytes <= m.ptr + m.nbytes for m in self._alive)

    def memcpy_async(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        assert stream == 42
        self.counts["upload" if kind == 1 else "download"] += 1
        self.uploaded += nbytes if kind == 1 else 0
        self._assert_inside(to, nbytes)
        self._assert_inside(source, nbytes)
        ctypes.memmove(to, source, nbytes)

    def device_count(self) -> int:
        if self.count_error:
            raise self.count_error
        return self.devices

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        self.counts[name] += 1
        if self.launch_error:
            raise self.launch_error
        assert block[0] <= 256
        if name == "render_batch":
            address, count = int(arguments[0]), int(arguments[1])
            self._assert_inside(address, count * FRAME_PARAMS.itemsize)
            host.launch(name, grid, block[0], ctypes.c_void_p(address), ctypes.c_int(count))
        else:
            host.launch(name, grid, block[0], *(ctypes.c_void_p(int(a)) for a in arguments))

    def pinned(self, nbytes: int) -> Any:
        return self.alloc(nbytes).bytes()

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
                return lambda grid, block, arguments: device.launch(name, grid, block, arguments)

        class Stream(_Context):
            ptr = 42

            def __init__(self, *, non_blocking: bool) -> None:
                assert non_blocking

            def synchronize(self) -> None:
                device.counts["synchronize"] += 1

        class Device(_Context):
            def __init__(self, number: int) -> None:
                self.number = number

        properties = {"name": b"Fake GPU", "major": 9, "minor": 0}
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=self.device_count,
            getDeviceProperties=lambda number: properties,
            driverGetVersion=lambda: 13010,
            runtimeGetVersion=lambda: 12090,
            memGetInfo=lambda: (1 << 30, 1 << 31),
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyAsync=self.memcpy_async,
        )
        pool = SimpleNamespace(free_bytes=lambda: 4096, free_all_blocks=lambda: None)
        vars(fake).update(
            __version__="0.0-fake",
            RawModule=RawModule,
            get_default_memory_pool=lambda: pool,
            get_default_pinned_memory_pool=lambda: pool,
            cuda=SimpleNamespace(
                runtime=runtime,
                driver=SimpleNamespace(CUDADriverError=CUDADriverError),
                memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
                compiler=SimpleNamespace(CompileException=CompileException),
                Stream=Stream,
                Device=Device,
                alloc=self.alloc,
                alloc_pinned_memory=self.pinned,
            ),
        )
        return fake
