"""The CUDA backend: the only file that imports CuPy. ``render.cu`` is compiled once per device, when it is opened.

CuPy's RawModule keeps the compiled kernel on disk, in CUPY_CACHE_DIR (``~/.cupy/kernel_cache``), under a hash of
source, options, architecture and NVRTC version; a second start compiles nothing. CuPy adds ``-ftz=true`` to every
compilation: ``render.cu`` is written so that no flag changes its results.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import BackendUnavailable, DeviceError, RenderJob
from kernels.check import Record, read, read_source, reads_table
from kernels.params import FRAME_PARAMS, SAMPLE_FORMATS

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

OPTIONS = ("--std=c++17", "-fmad=false")
BLOCK = 256  # threads; render.cu is bounded to it
PIXELS_A_THREAD = 8
MAX_BLOCKS_A_FRAME = 4096
MAX_GRID_Y = 65535
ALIGNMENT = 256  # of what is packed into one buffer [bytes]

# CUDA runtime errors after which the context still works: invalid value, out of memory, invalid configuration, too
# many resources requested. After any other the process cannot use the device again.
_HARMLESS = frozenset({1, 2, 9, 701})

_INSTALL = "install it with pip install 'gpu-render[cuda12]' or 'gpu-render[cuda13]', as the driver's CUDA version says"


@dataclass(frozen=True, slots=True)
class DevicePixels:
    """Samples in device memory. ``memory`` owns them; ``address`` is where they begin."""

    memory: Any
    address: int
    size: int
    dtype: np.dtype[np.generic]


class CudaBackend:
    """One CUDA device through CuPy. Raises BackendUnavailable where it cannot be used, and DeviceError afterwards."""

    name = "cuda"

    def __init__(self, device: int = 0) -> None:
        self._cupy = _import_cupy()
        _check_device(self._cupy, device)
        self._runtime = self._cupy.cuda.runtime
        self._device = self._cupy.cuda.Device(device)
        self.download_ms = 0.0
        self._staging: Bytes | None = (
            None  # pinned host memory, reused; everything that crosses the bus goes through it
        )
        self._scratch: dict[str, tuple[Any, int]] = {}  # device memory of records and outputs with its size, reused
        try:
            with self._device:
                self._stream = self._cupy.cuda.Stream(non_blocking=True)
                self._render_batch, self._extent_frame = _compile(self._cupy)
                self.description = _describe(self._cupy, device)
        except self._device_errors() as error:
            raise BackendUnavailable(f"CUDA device {device} does not answer ({type(error).__name__})") from error

    def put(self, samples: Array) -> DevicePixels:
        """See ``kernels.Backend.put``. Raises DeviceError, ``lost`` False, where the memory does not suffice."""
        if samples.dtype not in SAMPLE_FORMATS or not samples.flags.c_contiguous or samples.size == 0:
            raise ValueError("samples are C-contiguous, not empty, and of a dtype in SAMPLE_FORMATS")
        with self._on_device():
            memory = self._cupy.cuda.alloc(samples.nbytes)
            staging = self._pinned(samples.nbytes)
            staging[:] = samples.reshape(-1).view(np.uint8)
            self._upload(memory, staging)
            self._stream.synchronize()  # the next call writes into the same pinned memory
        return DevicePixels(memory, int(memory.ptr), samples.size, samples.dtype)

    def extent(self, pixels: object, params: np.void) -> tuple[float, float] | None:
        """See ``kernels.Backend.extent``."""
        record = read_source(params)
        row = np.array(params, FRAME_PARAMS)
        row["source"] = _checked(pixels, record).address
        with self._on_device():
            # One buffer: the record, then the two words of the answer, all ones before.
            staging = self._pinned(FRAME_PARAMS.itemsize + 16)
            staging[:-16] = np.frombuffer(row.tobytes(), np.uint8)
            staging[-16:] = 255
            memory = self._device_memory("records", staging.nbytes)
            self._upload(memory, staging)
            address = int(memory.ptr)
            blocks = min(_blocks(record.rows * record.columns * record.samples), 512)
            self._extent_frame((blocks,), (BLOCK,), (np.uint64(address), np.uint64(address + FRAME_PARAMS.itemsize)))
            self._download(staging, memory)
            least, complement = (int(word) for word in staging[-16:].view("<u8"))
        if least == complement == 2**64 - 1:
            return None
        return _number(least), _number(complement ^ (2**64 - 1))

    def render(self, jobs: Sequence[RenderJob]) -> list[Array]:
        """See ``kernels.Backend.render``: one upload of records and tables, one launch, one download."""
        if not jobs:
            return []
        records = [read(job) for job in jobs]
        rows = np.array([job.params for job in jobs], FRAME_PARAMS)
        rows["source"] = [_checked(job.pixels, record).address for job, record in zip(jobs, records, strict=True)]
        offsets, out_bytes = _pack(record.output_bytes for record in records)
        tables, places, in_bytes = _place_tables(jobs, records)
        with self._on_device():
            inputs, outputs = self._device_memory("records", in_bytes), self._device_memory("outputs", out_bytes)
            rows["output"] = [int(outputs.ptr) + offset for offset in offsets]
            rows["table"] = [int(inputs.ptr) + place if place else 0 for place in places]
            staging = self._pinned(max(in_bytes, out_bytes))
            staging[: rows.nbytes] = rows.view(np.uint8)
            for place, table in tables.items():
                staging[place : place + table.nbytes] = table.reshape(-1).view(np.uint8)
            self._upload(inputs, staging[:in_bytes])
            grid = (max(_blocks(r.width * r.height, PIXELS_A_THREAD) for r in records), min(len(jobs), MAX_GRID_Y))
            self._render_batch(grid, (BLOCK,), (np.uint64(inputs.ptr), np.int32(len(jobs))))
            self._download(staging[:out_bytes], outputs)
            return [_copy_out(staging, offset, record) for offset, record in zip(offsets, records, strict=True)]

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device; what CuPy's pool holds but does not use counts as free."""
        with self._on_device():
            free, total = self._runtime.memGetInfo()
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes()), int(total)

    def close(self) -> None:
        """Release buffers and pools. Handles that the caller still holds keep their memory until they are dropped."""
        self._staging = None
        self._scratch.clear()
        with self._on_device():
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def _device_errors(self) -> tuple[type[Exception], ...]:
        cuda = self._cupy.cuda
        return cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cuda.memory.OutOfMemoryError

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Make device and stream this thread's current ones; turn CUDA's errors into DeviceError."""
        try:
            with self._device, self._stream:
                yield
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise DeviceError("the device's memory does not suffice", lost=False) from error
        except self._device_errors() as error:
            status = int(getattr(error, "status", -1))
            raise DeviceError(f"CUDA error {status}", lost=status not in _HARMLESS) from error

    def _pinned(self, nbytes: int) -> Bytes:
        """The first ``nbytes`` of the pinned staging memory, which grows by doubling."""
        if self._staging is None or self._staging.nbytes < nbytes:
            self._staging = None
            block = self._cupy.cuda.alloc_pinned_memory(_round_up(nbytes))
            self._staging = np.frombuffer(block, np.uint8, _round_up(nbytes))
        return self._staging[:nbytes]

    def _device_memory(self, what: str, nbytes: int) -> Any:
        memory, size = self._scratch.get(what, (None, 0))
        if size < nbytes:
            memory = None
            self._scratch.pop(what, None)
            memory = self._cupy.cuda.alloc(_round_up(nbytes))
            self._scratch[what] = memory, _round_up(nbytes)
        return memory

    def _upload(self, memory: Any, staging: Bytes) -> None:
        kind = self._runtime.memcpyHostToDevice
        self._runtime.memcpyAsync(memory.ptr, staging.ctypes.data, staging.nbytes, kind, self._stream.ptr)

    def _download(self, staging: Bytes, memory: Any) -> None:
        """Wait for the kernel, then copy: so ``download_ms`` is the copy alone."""
        self._stream.synchronize()
        start = perf_counter()
        kind = self._runtime.memcpyDeviceToHost
        self._runtime.memcpyAsync(staging.ctypes.data, memory.ptr, staging.nbytes, kind, self._stream.ptr)
        self._stream.synchronize()
        self.download_ms = (perf_counter() - start) * 1000


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(f"CuPy cannot be imported: {_INSTALL}") from error
    return cupy


def _check_device(cupy: Any, device: int) -> None:
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable("no CUDA device answers: check the NVIDIA driver (nvidia-smi)") from error
    if not 0 <= device < count:
        raise BackendUnavailable(f"there is no CUDA device {device}: {count} found, numbered from 0")


def _compile(cupy: Any) -> tuple[Any, Any]:
    """The kernels, compiled now and not when the first request waits for them."""
    source = Path(__file__).with_name("render.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=OPTIONS, backend="nvrtc")
    try:
        module.compile()
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError):
        raise  # the device itself: the caller knows what to say
    except cupy.cuda.compiler.CompileException as error:
        raise BackendUnavailable("NVRTC does not compile the kernel for this device") from error
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(f"CuPy finds no NVRTC that fits: {_INSTALL}") from error
    except OSError as error:
        raise BackendUnavailable("the kernel cache is not writable: set CUPY_CACHE_DIR to a folder that is") from error
    return module.get_function("render_batch"), module.get_function("extent_frame")


def _describe(cupy: Any, device: int) -> str:
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(device)
    name = properties["name"].decode("ascii", "replace")
    driver, library = (
        f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())
    )
    capability = f"{properties['major']}.{properties['minor']}"
    return (
        f"{name}, compute capability {capability}, driver for CUDA {driver}, runtime {library}, CuPy {cupy.__version__}"
    )


def _checked(pixels: object, record: Record) -> DevicePixels:
    if not isinstance(pixels, DevicePixels) or pixels.dtype != record.sample_dtype:
        raise ValueError("the samples are not of the record's format")
    if pixels.size != record.rows * record.columns * record.samples:
        raise ValueError("the samples are not of the record's size")
    return pixels


def _pack(sizes: Iterator[int], start: int = 0) -> tuple[list[int], int]:
    """Aligned offsets for blocks of ``sizes`` bytes one after the other, and where the last one ends."""
    offsets, end = [], start
    for size in sizes:
        offsets.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = offsets[-1] + size
    return offsets, end


def _place_tables(jobs: Sequence[RenderJob], records: Sequence[Record]) -> tuple[dict[int, Array], list[int], int]:
    """Where each distinct table goes behind the records: {offset: table}, each job's offset (0: none), total bytes."""
    used = [job.table if reads_table(record) else None for job, record in zip(jobs, records, strict=True)]
    distinct = {id(table): table for table in used if table is not None}
    offsets, end = _pack((table.nbytes for table in distinct.values()), len(jobs) * FRAME_PARAMS.itemsize)
    place = dict(zip(distinct, offsets, strict=True))
    return dict(zip(offsets, distinct.values(), strict=True)), [place.get(id(table), 0) for table in used], end


def _blocks(items: int, each: int = 1) -> int:
    return min(-(-items // (BLOCK * each)), MAX_BLOCKS_A_FRAME)


def _round_up(nbytes: int) -> int:
    return max(1 << 16, 1 << (nbytes - 1).bit_length())


def _copy_out(staging: Bytes, offset: int, record: Record) -> Array:
    """Into memory of its own: the pinned block is written again by the next batch."""
    count = math.prod(record.output_shape)
    view = np.frombuffer(staging, record.output_dtype, count, offset)
    return view.reshape(record.output_shape).copy()


def _number(key: int) -> float:
    """The inverse of ordered() in render.cu."""
    bits = key ^ 2**63 if key >> 63 else key ^ (2**64 - 1)
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
