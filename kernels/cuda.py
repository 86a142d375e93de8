"""The CUDA backend: the only file that imports CuPy. ``render.cu`` is compiled once per device, when it is opened.

CuPy's RawModule keeps the compiled kernels on disk, in CUPY_CACHE_DIR (``~/.cupy/kernel_cache``), under a hash of
source, options, architecture and NVRTC version; a second start compiles nothing. CuPy adds ``-ftz=true`` to every
compilation: ``render.cu`` is written so that no flag changes its results.

Three streams work side by side: uploads of frames, kernels with the small uploads of their records, and downloads of
batches. Events order them: kernels wait for the uploads before them, a download waits for its kernel, and the host
waits only in ``collect``, in ``extents`` and ``decode``, and where the ring of pinned memory is full.

CuPy's pool gives a block out again as soon as its last reference is gone, without waiting for any stream. So whatever
queued work reads or writes is referenced until that work is done: by a ticket until it is collected, by ``_held`` until
an event, by the call itself where it waits. Then a block that the pool gives out is idle, whichever stream takes it.
"""

import logging
import math
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import BackendUnavailable, Codestream, Decoded, DeviceError, RenderJob
from kernels.adopt import NONE, adopt_record, extent_of, holds, number
from kernels.batch import RenderBatch, bytes_of, declared_dtype, declared_shape, pack
from kernels.check import Record, read_source
from kernels.nvcodec import CodecImage, CodecUnavailable, NvCodec
from kernels.packing import Packed, unpack_record
from kernels.params import ADOPT_PARAMS, ADOPT_WORDS, FRAME_PARAMS, SAMPLE_FORMATS, UNPACK_PARAMS
from kernels.staging import Ring, Slot

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

KERNELS = ("render_batch", "extent_batch", "unpack_batch", "adopt_batch")
OPTIONS = ("--std=c++17", "-fmad=false")
BLOCK = 256  # threads; render.cu is bounded to it
ITEMS_A_THREAD = 8
MAX_BLOCKS_A_FRAME = 4096
MAX_BLOCKS_OF_EXTENT = 512  # each ends in an atomic operation on the frame's two words
MAX_GRID_Y = 65535
COPIES_AHEAD = 2
RING_BYTES = 32 << 20  # pinned memory that frames go through

# CUDA errors after which the context still works: invalid value, out of memory, invalid configuration, too many
# resources requested. After any other the process cannot use the device again.
_HARMLESS = frozenset({1, 2, 9, 701})
_OUT_OF_MEMORY = 2

_INSTALL = "install it with pip install 'gpu-render[cuda12]' or 'gpu-render[cuda13]', as the driver's CUDA version says"


@dataclass(frozen=True, slots=True)
class DevicePixels:
    """Samples in device memory. ``memory`` owns them; ``address`` is where they begin."""

    memory: Any
    address: int
    size: int
    dtype: np.dtype[np.generic]


@dataclass(slots=True)
class _Ticket:
    """A batch in flight. ``pixels``: the handles that it reads, held until it is collected."""

    batch: RenderBatch
    pixels: list[DevicePixels]
    slot: Slot | None


class CudaBackend:
    """One CUDA device through CuPy. Raises BackendUnavailable where it cannot be used, and DeviceError afterwards."""

    name = "cuda"
    unpacks = True

    def __init__(self, device: int = 0) -> None:
        self._cupy = _import_cupy()
        _check_device(self._cupy, device)
        self._device = self._cupy.cuda.Device(device)
        self._held: deque[tuple[Any, list[Any]]] = deque()  # (event, what must live until it has happened)
        self.download_ms = 0.0
        try:
            with self._device:
                self._compute, self._uploads, self._downloads = (
                    self._cupy.cuda.Stream(non_blocking=True) for _ in range(3)
                )
                self._kernels = _compile(self._cupy)
                self._ring = Ring(self._cupy, self._uploads, RING_BYTES)
                self._slots = Slot(self._cupy), Slot(self._cupy)
                self._answers = Slot(self._cupy)
                self._warm_up()
                self.description = _describe(self._cupy, device)
                self.cache_bytes = int(self._cupy.cuda.runtime.getDeviceProperties(device)["l2CacheSize"])
                self._codec = self._open_codec(device)
        except self._device_errors() as error:
            raise BackendUnavailable(f"CUDA device {device} does not answer ({type(error).__name__})") from error
        self.codec = ""
        if self._codec is not None:
            self.codec = f"{self._codec.version}, compute capability {_capability(self._cupy, device)}"

    def put(self, frames: Sequence[Array | Packed]) -> list[object]:
        """See ``kernels.Backend.put``. Copies into pinned memory, and returns while that goes up."""
        records = [_unpack_record(frame) for frame in frames]
        with self._on_device():
            self._release()
            return list(self._put(frames, records))

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        """See ``kernels.Backend.decode``. None, too, for a frame of one value only: a codec that fails may leave
        that, so another one has to confirm it."""
        # Also checks the codestreams: ValueError before anything is queued.
        records = [adopt_record(c, declared_dtype(c), _dense(c)) for c in codestreams]
        if self._codec is None or not codestreams:
            return [None] * len(codestreams)
        with self._on_device():
            self._release()
            return self._decode(self._codec, codestreams, records)

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        """See ``kernels.Backend.extents``."""
        if not frames:
            return []
        records = [read_source(params) for _, params in frames]
        rows = np.array([params for _, params in frames], FRAME_PARAMS)
        rows["source"] = [_checked(pixels, r).address for (pixels, _), r in zip(frames, records, strict=True)]
        blocks = max(_blocks(r.rows * r.columns * r.samples) for r in records)
        with self._on_device():
            at = self._place_for_answers(rows.nbytes, 2 * len(rows))
            self._ask(rows, 2 * len(rows))
            self._run("extent_batch", min(blocks, MAX_BLOCKS_OF_EXTENT), at, len(rows), at + rows.nbytes)
            words = self._answered(rows.nbytes, 2 * len(rows)).reshape(-1, 2).tolist()
        return [None if least == NONE else (number(least), number(other ^ NONE)) for least, other in words]

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        """See ``kernels.Backend.launch``: one upload of records and tables, one kernel, one download behind it."""
        batch, pixels = _batch(jobs)
        if not jobs:
            return _Ticket(batch, [], None)
        slot = self._free_slot()
        with self._on_device():
            self._release()
            self._upload_batch(batch, slot)
            self._render(batch, slot)
            self._downloads.wait_event(self._compute.record(self._event()))
            self._downloads.record(slot.start)
            self._fetch(slot.staging[: batch.output_bytes], slot.outputs.address, self._downloads)
            self._downloads.record(slot.end)
        slot.busy = True
        return _Ticket(batch, pixels, slot)

    def collect(self, ticket: object) -> list[Array]:
        """See ``kernels.Backend.collect``. What failed while the batch was in flight is raised here."""
        if not isinstance(ticket, _Ticket) or (ticket.slot is None and ticket.batch.records):
            raise ValueError("no ticket, or one that has been collected")
        self.download_ms = 0.0
        slot, ticket.slot = ticket.slot, None
        if slot is None:
            return []
        try:
            with self._on_device():
                slot.end.synchronize()
                self.download_ms = self._between_ms(slot.start, slot.end)
                self._release()
                return ticket.batch.results(slot.staging)
        finally:
            slot.busy = False
            ticket.pixels.clear()

    def kernel_and_copy_ms(self, jobs: Sequence[RenderJob], nbytes: int) -> tuple[float, float]:
        """For benchmarks: time [ms] of the kernel alone over a batch, and of a copy of ``nbytes`` from one place in the
        device's memory to another, right after it. Nothing comes down."""
        batch, _pixels = _batch(jobs)
        slot = self._free_slot()
        with self._on_device():
            self._upload_batch(batch, slot)
            return self._beside_copy(partial(self._render, batch, slot), nbytes)

    def unpack_and_copy_ms(self, frames: Sequence[Packed], nbytes: int) -> tuple[float, float]:
        """``kernel_and_copy_ms`` of the kernel that unpacks, behind the upload of what it unpacks."""
        records = [unpack_record(frame) for frame in frames]
        with self._on_device():
            pixels = [self._pixels(frame.shape, frame.dtype) for frame in frames]
            addresses = [p.address for p in pixels]
            memory = self._upload_packed(list(zip(frames, records, addresses, strict=True)))
            self._ring.before(self._compute)
            return self._beside_copy(partial(self._unpack, frames, int(memory.ptr)), nbytes)

    def adopt_and_copy_ms(self, codestream: Codestream, left: Sequence[object], nbytes: int) -> tuple[float, float]:
        """``kernel_and_copy_ms`` of the kernel that takes over what a codec left. ``left``: handles of frames in its
        place, laid out as the codec leaves what ``codestream`` declares; the codestream's data are not looked at."""
        dtype, row = declared_dtype(codestream), _dense(codestream)
        sources = [_sized(pixels, dtype, math.prod(codestream.shape)) for pixels in left]
        rows = np.array([adopt_record(codestream, dtype, row)] * len(sources), ADOPT_PARAMS)
        rows["source"] = [source.address for source in sources]
        with self._on_device():
            pixels = [self._pixels(codestream.shape, codestream.dtype) for _ in sources]
            rows["output"] = [p.address for p in pixels]
            at = self._ask_adopt(rows)
            return self._beside_copy(partial(self._run, "adopt_batch", _adopt_blocks(rows), at, len(rows)), nbytes)

    def trim(self) -> None:
        """See ``kernels.Backend.trim``. Waits for the device; batches in flight keep what they use."""
        with self._on_device():
            self._synchronize()
            for slot in (*self._slots, self._answers):
                if not slot.busy:
                    slot.clear()
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device; what CuPy's pool holds but does not use counts as free."""
        with self._on_device():
            free, total = self._cupy.cuda.runtime.memGetInfo()
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes()), int(total)

    def close(self) -> None:
        """Release codec, buffers and pools. Handles that the caller still holds keep their memory until they are
        dropped. A lost device has nothing left to release."""
        settled = self._settle()
        if self._codec is not None:
            if not settled:
                self._codec.abandon()
            self._codec.close()
            self._codec, self.codec = None, ""
        for slot in self._slots:
            slot.busy = False
        if settled:
            self.trim()

    def _device_errors(self) -> tuple[type[Exception], ...]:
        cuda = self._cupy.cuda
        return cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cuda.memory.OutOfMemoryError

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Make device and kernel stream this thread's current ones; turn CUDA's errors into DeviceError.

        A call that fails leaves nothing half done: all that it queued is waited for, and then the frames of the
        traceback forget what they hold. Otherwise memory would not be free until the caller lets go of the error.
        """
        try:
            with self._device, self._compute:
                yield
        except BaseException as error:
            lost = not self._settle() or self._loses(error)
            if lost and self._codec is not None:
                self._codec.abandon()  # before anything lets go of its images
            _forget(error)
            if isinstance(error, self._device_errors()):
                raise self._device_error(error, lost) from error
            if lost and isinstance(error, Exception):
                raise DeviceError("the device does not answer any more", lost=True) from error
            raise

    def _loses(self, error: BaseException) -> bool:
        """Whether an error means that the device is lost."""
        if isinstance(error, self._cupy.cuda.memory.OutOfMemoryError) or not isinstance(error, self._device_errors()):
            return False
        return int(getattr(error, "status", -1)) not in _HARMLESS

    def _device_error(self, error: Exception, lost: bool) -> DeviceError:
        if isinstance(error, self._cupy.cuda.memory.OutOfMemoryError):
            return DeviceError("the device's memory does not suffice", lost=lost, out_of_memory=True)
        status = int(getattr(error, "status", -1))
        return DeviceError(f"CUDA error {status}", lost=lost, out_of_memory=status == _OUT_OF_MEMORY)

    def _settle(self) -> bool:
        """Wait for everything queued. Whether the device still works."""
        try:
            with self._device:
                self._synchronize()
        except self._device_errors():
            return False
        return True

    def _synchronize(self) -> None:
        for stream in (self._uploads, self._compute, self._downloads):
            stream.synchronize()
        self._ring.forget()
        self._held.clear()

    def _release(self) -> None:
        """Let go of what is no longer in use."""
        while self._held and self._held[0][0].done:
            self._held.popleft()

    def _beside_copy(self, kernel: Callable[[], None], nbytes: int) -> tuple[float, float]:
        """Times [ms] of a kernel, which the call queues, and of a copy of ``nbytes`` on the device.

        Copies go before, so that the device is busy until all is queued: otherwise it would wait for the host between
        an event and what the event times.
        """
        runtime, events = self._cupy.cuda.runtime, [self._cupy.cuda.Event() for _ in range(3)]
        source, target = (self._cupy.cuda.alloc(nbytes) for _ in range(2))
        copy = partial(runtime.memcpyAsync, int(target.ptr), int(source.ptr), nbytes, runtime.memcpyDeviceToDevice)
        for _ in range(COPIES_AHEAD):
            copy(self._compute.ptr)
        begun, between, done = events
        self._compute.record(begun)
        kernel()
        self._compute.record(between)
        copy(self._compute.ptr)
        self._compute.record(done)
        done.synchronize()
        return self._between_ms(begun, between), self._between_ms(between, done)

    def _between_ms(self, begun: Any, done: Any) -> float:
        return float(self._cupy.cuda.get_elapsed_time(begun, done))

    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)

    def _pixels(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> DevicePixels:
        """Memory for samples, not yet written."""
        size = math.prod(shape)
        memory = self._cupy.cuda.alloc(size * dtype.itemsize)
        return DevicePixels(memory, int(memory.ptr), size, dtype)

    def _run(self, kernel: str, blocks: int, records: int, count: int, *more: int) -> None:
        """Queue a kernel over ``count`` records at the address ``records``."""
        arguments = (np.uint64(records), np.int32(count), *map(np.uint64, more))
        self._kernels[kernel]((blocks, min(max(count, 1), MAX_GRID_Y)), (BLOCK,), arguments)

    def _warm_up(self) -> None:
        """Each kernel over no records: what CUDA and CuPy load at a kernel's first launch is loaded now."""
        with self._compute:
            for kernel in KERNELS:
                self._run(kernel, 1, 0, 0, *([0] if kernel == "extent_batch" else []))
        self._compute.synchronize()

    def _free_slot(self) -> Slot:
        slot = next((slot for slot in self._slots if not slot.busy), None)
        if slot is None:
            raise RuntimeError("two batches are out already")
        return slot

    def _upload_batch(self, batch: RenderBatch, slot: Slot) -> None:
        """Make room for a batch in its slot, and queue the upload of its records and tables."""
        slot.fit(batch.input_bytes, batch.output_bytes)
        batch.write(slot.staging, slot.inputs.address, slot.outputs.address)
        self._copy(slot.inputs.address, slot.staging[: batch.input_bytes])

    def _render(self, batch: RenderBatch, slot: Slot) -> None:
        blocks = max(_blocks(r.width * r.height) for r in batch.records)
        self._run("render_batch", blocks, slot.inputs.address, len(batch.records))

    def _copy(self, address: int, pinned: Bytes) -> None:
        """Up, on the kernels' stream."""
        runtime = self._cupy.cuda.runtime
        size, kind = pinned.nbytes, runtime.memcpyHostToDevice
        runtime.memcpyAsync(address, pinned.ctypes.data, size, kind, self._compute.ptr)

    def _fetch(self, pinned: Bytes, address: int, stream: Any) -> None:
        """Down."""
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(pinned.ctypes.data, address, pinned.nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def _put(self, frames: Sequence[Array | Packed], records: Sequence[np.void | None]) -> list[DevicePixels]:
        """Queue the uploads, and behind them one kernel for all packed frames. Returns the handles."""
        pixels = [self._pixels(frame.shape, frame.dtype) for frame in frames]
        held: list[Any] = [*pixels]
        packed: list[tuple[Packed, np.void, int]] = []
        for frame, record, to in zip(frames, records, pixels, strict=True):
            if isinstance(frame, Packed) and record is not None:
                packed.append((frame, record, to.address))
            elif not isinstance(frame, Packed):
                self._ring.upload(to.address, bytes_of(frame))
        if packed:
            held.append(self._upload_packed(packed))
        self._ring.before(self._compute)
        if packed:
            self._unpack([frame for frame, _, _ in packed], int(held[-1].ptr))
        self._held.append((self._compute.record(self._event()), held))
        return pixels

    def _unpack(self, frames: Sequence[Packed], at: int) -> None:
        self._run("unpack_batch", max(_blocks(math.prod(frame.shape)) for frame in frames), at, len(frames))

    def _upload_packed(self, packed: Sequence[tuple[Packed, np.void, int]]) -> Any:
        """Device memory to which go the records, addresses filled in, and the packed bytes behind them."""
        rows = np.array([record for _, record, _ in packed], UNPACK_PARAMS)
        offsets, nbytes = pack((frame.nbytes for frame, _, _ in packed), rows.nbytes)
        memory = self._cupy.cuda.alloc(nbytes)
        rows["source"] = [int(memory.ptr) + offset for offset in offsets]
        rows["output"] = [address for _, _, address in packed]
        self._ring.upload(int(memory.ptr), bytes_of(rows))
        for (frame, _, _), source in zip(packed, rows["source"].tolist(), strict=True):
            self._ring.upload(source, frame.data)
        return memory

    def _place_for_answers(self, nbytes: int, words: int) -> int:
        """The device address of ``nbytes`` of records with as many words for answers behind them."""
        self._answers.fit(nbytes + 8 * words, 0)
        return self._answers.inputs.address

    def _ask(self, rows: Array, words: int) -> None:
        """Upload the records, and words of all ones behind them."""
        staging = self._answers.staging[: rows.nbytes + 8 * words]
        staging[: rows.nbytes] = bytes_of(rows)
        staging[rows.nbytes :] = 255
        self._copy(self._answers.inputs.address, staging)

    def _answered(self, nbytes: int, words: int) -> Words:
        """Wait for the kernels, and fetch the words behind ``nbytes`` of records."""
        staging = self._answers.staging[nbytes : nbytes + 8 * words]
        self._fetch(staging, self._answers.inputs.address + nbytes, self._compute)
        self._compute.synchronize()
        return staging.view("<u8").copy()

    def _open_codec(self, device: int) -> NvCodec | None:
        try:
            return NvCodec(device)
        except CodecUnavailable as reason:
            logging.getLogger("kernels").info("the CPU decodes: %s", reason)
            return None

    def _decode(
        self, codec: NvCodec, codestreams: Sequence[Codestream], records: Sequence[np.void]
    ) -> list[Decoded | None]:
        images = self._images(codec, codestreams)
        try:
            return self._take(codestreams, records, images)
        finally:
            self._wipe([image for each in images for image in each if image is not None])

    def _take(
        self, codestreams: Sequence[Codestream], records: Sequence[np.void], images: Sequence[list[CodecImage | None]]
    ) -> list[Decoded | None]:
        usable = [_as_declared(c, each) for c, each in zip(codestreams, images, strict=True)]
        good = [(i, each) for i, each in enumerate(usable) if each]
        pixels = [self._pixels(codestreams[i].shape, codestreams[i].dtype) for i, _ in good]
        reports = self._adopt([records[i] for i, _ in good], [each for _, each in good], pixels)
        found: list[Decoded | None] = [None] * len(codestreams)
        for (i, _), to, report in zip(good, pixels, reports, strict=True):
            found[i] = _judged(codestreams[i], to, report)
        return found

    def _images(self, codec: NvCodec, codestreams: Sequence[Codestream]) -> list[list[CodecImage | None]]:
        """What the codec leaves of each codestream and of its witnesses, all decoded by one call. Whatever that raises
        becomes a DeviceError, for it says nothing of a single frame."""
        data = [d for c in codestreams for d in (c.data, *(witness.data for witness in c.witnesses))]
        try:
            images = codec.decode(data, self._compute.ptr)
        except self._device_errors():
            raise
        except Exception as error:
            raise DeviceError(f"the codec failed ({type(error).__name__})", lost=False) from error
        if len(images) != len(data):
            raise DeviceError("the codec did not answer for each codestream", lost=False)
        rest = iter(images)
        return [[next(rest) for _ in (c, *c.witnesses)] for c in codestreams]

    def _wipe(self, images: Sequence[CodecImage]) -> None:
        """Zero what the codec left, and wait for that. Its memory is given out again as it is: a frame that it does not
        write, though it says so, would be the picture of another patient. Now it is constant, which is refused."""
        for image in images:
            rows, columns, samples = image.shape
            nbytes = (rows - 1) * image.row_stride + columns * samples * image.dtype.itemsize
            self._cupy.cuda.runtime.memsetAsync(image.address, 0, nbytes, self._compute.ptr)
        self._compute.synchronize()

    def _adopt(
        self, records: Sequence[np.void], images: Sequence[Sequence[CodecImage]], pixels: Sequence[DevicePixels]
    ) -> list[list[Words]]:
        """Take the first images into samples, and compare the others, of witnesses, with those: one kernel each, one
        download. Returns the reports on each frame's images. The images live until the kernels are done: it waits."""
        if not records:
            self._compute.synchronize()
            return []
        order = [(i, 0) for i in range(len(images))]
        order += [(i, k) for i, each in enumerate(images) for k in range(1, len(each))]
        count, rows = len(images), np.array([records[i] for i, _ in order], ADOPT_PARAMS)
        rows["source"] = [images[i][k].address for i, k in order]
        rows["row_stride"] = [images[i][k].row_stride for i, k in order]
        rows["output"][:count] = [p.address for p in pixels]
        rows["reference"][count:] = [pixels[i].address for i, _ in order[count:]]
        at, blocks = self._ask_adopt(rows), _adopt_blocks(rows)
        self._run("adopt_batch", blocks, at, count)
        if len(rows) > count:
            self._run("adopt_batch", blocks, at + count * ADOPT_PARAMS.itemsize, len(rows) - count)
        reports = self._answered(rows.nbytes, ADOPT_WORDS * len(rows)).reshape(-1, ADOPT_WORDS)
        answers = dict(zip(order, reports, strict=True))
        return [[answers[i, k] for k in range(len(each))] for i, each in enumerate(images)]

    def _ask_adopt(self, rows: Array) -> int:
        """Upload the records of ``adopt_batch``, with places for its reports filled in; where they are."""
        words = ADOPT_WORDS * len(rows)
        at = self._place_for_answers(rows.nbytes, words)
        rows["stats"] = at + rows.nbytes + 8 * ADOPT_WORDS * np.arange(len(rows), dtype=np.uint64)
        self._ask(rows, words)
        return at


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


def _compile(cupy: Any) -> dict[str, Any]:
    """The kernels, compiled now and not when the first request waits for them."""
    source = Path(__file__).with_name("render.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=OPTIONS, backend="nvrtc")
    try:
        module.compile()
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError):
        raise  # the device itself: the caller knows what to say
    except cupy.cuda.compiler.CompileException as error:
        raise BackendUnavailable("NVRTC does not compile the kernels for this device") from error
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(f"CuPy finds no NVRTC that fits: {_INSTALL}") from error
    except OSError as error:
        raise BackendUnavailable("the kernel cache is not writable: set CUPY_CACHE_DIR to a folder that is") from error
    return {name: module.get_function(name) for name in KERNELS}


def _capability(cupy: Any, device: int) -> str:
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    return f"{properties['major']}.{properties['minor']}"


def _describe(cupy: Any, device: int) -> str:
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(device)["name"].decode("ascii", "replace")
    driver, library = (
        f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())
    )
    return (
        f"{name}, compute capability {_capability(cupy, device)}, driver for CUDA {driver}, runtime {library}, "
        f"CuPy {cupy.__version__}"
    )


def _forget(error: BaseException | None) -> None:
    """Empty the frames that an error, and what caused it, came through."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _unpack_record(frame: Array | Packed) -> np.void | None:
    """The record of a packed frame; None for samples. Raises ValueError for what no kernel reads."""
    if isinstance(frame, Packed):
        return unpack_record(frame)
    if frame.dtype not in SAMPLE_FORMATS or not frame.flags.c_contiguous or frame.size == 0:
        raise ValueError("samples are C-contiguous, not empty, and of a dtype in SAMPLE_FORMATS")
    return None


def _checked(pixels: object, record: Record) -> DevicePixels:
    return _sized(pixels, record.sample_dtype, record.rows * record.columns * record.samples)


def _sized(pixels: object, dtype: np.dtype[np.generic], size: int) -> DevicePixels:
    if not isinstance(pixels, DevicePixels) or pixels.dtype != dtype:
        raise ValueError("the samples are not of the record's format")
    if pixels.size != size:
        raise ValueError("the samples are not of the record's size")
    return pixels


def _batch(jobs: Sequence[RenderJob]) -> tuple[RenderBatch, list[DevicePixels]]:
    """The batch, its records' sources filled in, and the handles that it reads."""
    batch = RenderBatch(jobs)
    pixels = [_checked(job.pixels, record) for job, record in zip(jobs, batch.records, strict=True)]
    batch.rows["source"] = [p.address for p in pixels]
    return batch, pixels


def _dense(codestream: Codestream) -> int:
    """Bytes of one row of what the codec leaves, where rows follow each other without a gap."""
    _, columns, samples = declared_shape(codestream)
    return columns * samples * declared_dtype(codestream).itemsize


def _as_declared(codestream: Codestream, images: Sequence[CodecImage | None]) -> list[CodecImage]:
    """The images of a codestream and its witnesses; empty unless all of them can be that, and are laid out as
    ``adopt_batch`` reads them."""
    shape, dtype, size = declared_shape(codestream), declared_dtype(codestream), declared_dtype(codestream).itemsize
    fitting = [
        image
        for image in images
        if image is not None
        and (image.shape, image.dtype) == (shape, dtype)
        and image.row_stride >= _dense(codestream)
        and image.row_stride % size == image.address % size == 0
    ]
    return fitting if len(fitting) == len(images) else []


def _judged(codestream: Codestream, pixels: DevicePixels, reports: Sequence[Words]) -> Decoded | None:
    """``reports``: on the codestream, then on each of its witnesses."""
    extent = extent_of(codestream, reports[0])
    if extent is None or extent[0] == extent[1]:
        return None
    if not all(holds(witness, codestream, r) for witness, r in zip(codestream.witnesses, reports[1:], strict=True)):
        return None
    return Decoded(pixels, *extent)


def _adopt_blocks(rows: Array) -> int:
    return min(int(rows["rows"].max()), MAX_BLOCKS_A_FRAME)


def _blocks(items: int) -> int:
    return min(-(-items // (BLOCK * ITEMS_A_THREAD)), MAX_BLOCKS_A_FRAME)
