"""Renderer.render(ref, view): the whole path of one frame on one screen."""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gpu_render.archive import FrameRecord, Frames, Source
from gpu_render.cache import FrameCache, Kept
from gpu_render.decode import DECODERS, decode
from gpu_render.decode.device import DevicePlan, plan
from gpu_render.decode.proof import ProofTable
from gpu_render.device import Device, Gone, Picture
from gpu_render.errors import CorruptPixelData, RenderError, TooLarge
from gpu_render.frame import (
    DecodedFrame,
    DeviceFrame,
    EncodedFrame,
    LookupTable,
    PixelLayout,
    RenderedFrame,
    Samples,
    Window,
)
from gpu_render.kept import KeptPicture, Recently
from gpu_render.memory import fetch_ahead
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.reference import FrameRef
from gpu_render.render_queue import RenderQueue
from gpu_render.settings import Settings
from gpu_render.turns import Line, Turns
from gpu_render.view import Stage, View
from gpu_render.workers import WorkerPool
from kernels import Backend
from kernels.packing import Packed

#: Time [s] that somebody waits for the end of a prefetch that decodes his frame already; then he has it decoded anew.
BEHIND_S = 0.1
#: Most samples of a frame that is rendered in between, on the event loop: some 0.15 ms.
QUICK_SAMPLES = 1 << 18
#: Largest frame [byte] that is read in between, on the event loop, where it lies in memory: some 0.1 ms.
QUICK_BYTES = 1 << 20

T = TypeVar("T")
Timings = dict[str, float]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A frame that was read and that the device may decode."""

    encoded: EncodedFrame
    plan: DevicePlan


@dataclass(slots=True)
class _Asked:
    """What the first who asks for a load wants of it: the picture ``made`` of the frame by the thread that decodes,
    where that can be, and the time [ms] of each step."""

    view: View | None = None
    made: tuple[DeviceFrame, Picture] | None = None
    timings: Timings = field(default_factory=dict)


class Renderer:
    """Owns the caches, the loading threads and the render queue; borrows archive, backend and worker pools.

    ``proven``: what the backend's codec may decode. ``background``: processes that decode what nobody waits for.
    ``decoded_from``: what is decoded comes from there, as the archive's frames or as copies that decode faster.
    One instance lives on one event loop.
    """

    def __init__(
        self,
        archive: Frames,
        backend: Backend,
        pool: WorkerPool,
        settings: Settings,
        proven: ProofTable | None = None,
        background: WorkerPool | None = None,
        decoded_from: Source | None = None,
    ) -> None:
        self.archive = archive
        self._decoded_from = decoded_from or archive
        self.cache: FrameCache[DeviceFrame] = FrameCache(settings.cache_bytes)
        self.pool = pool
        self._background = background or pool
        self.device = Device(backend, settings.device_cache_percent)
        self._settings = settings
        self._cores = os.cpu_count() or 1  # to ask for each frame takes as long as to open its file
        self._proven = proven
        people = for_people(settings.workers)
        self._loaders = PriorityExecutor(settings.workers + people, settings.queue_capacity, "load", reserved=people)
        self.turns = Turns(settings.workers, settings.queue_capacity)
        self.queue = RenderQueue(self.device, settings.queue_capacity, settings.max_batch)
        self._generation = archive.generation
        self._pictures = Recently()
        self._loading: dict[FrameRef, Future[Any]] = {}
        self._urgency: dict[FrameRef, Priority] = {}
        self._behind: set[FrameRef] = set()  # which processes of the background decode now

    def close(self) -> None:
        """Stop the threads; what waits is cancelled."""
        self._loaders.close()
        self.queue.close()

    @property
    def backend(self) -> Backend:
        """What renders now: the CPU, after the device was lost."""
        return self.device.backend

    @property
    def waiting(self) -> tuple[int, int]:
        """(frames waiting to be loaded, frames waiting for the device)."""
        return len(self._loaders), len(self.queue)

    def figures(self) -> dict[str, float]:
        """Counters and gauges for ``/metrics``; names that end in ``_total`` only rise."""
        device, counts, residency = self.device, self.device.counts, self.device.residency
        return {
            "queue_waiting": len(self.queue),
            "loads_waiting": len(self._loaders),
            "prefetches_waiting": len(self.turns),
            "host_cache_bytes": self.cache.nbytes,
            "host_cache_frames": self.cache.count(DeviceFrame),
            "host_cache_hits_total": self.cache.hits,
            "host_cache_misses_total": self.cache.misses,
            "device_cache_bytes": residency.nbytes,
            "device_cache_budget_bytes": residency.budget,
            "device_cache_frames": len(residency),
            "device_cache_evictions_total": residency.evictions,
            "uploads_total": counts.uploads,
            "upload_bytes_total": counts.upload_bytes,
            "downloads_total": counts.downloads,
            "launches_total": counts.launches,
            "decoded_on_device_total": counts.decoded,
            "decode_refused_by_device_total": counts.refused,
            "device_faults_total": counts.faults,
            "out_of_memory_total": counts.out_of_memory,
            "device_lost": float(device.lost is not None),
            "rendered_on_cpu_total": counts.by_cpu,
        }

    async def render(self, ref: FrameRef, view: View, priority: Priority = Priority.INTERACTIVE) -> RenderedFrame:
        """The frame as ``view`` asks for it. Raises any RenderError. Cancel the caller to drop the work."""
        if priority is not Priority.PREFETCH and (ready := self.at_hand(ref, view)) is not None:
            return ready
        async with self._turn(priority):
            return await self._rendered(ref, view, priority)

    def at_hand(self, ref: FrameRef, view: View) -> RenderedFrame | None:
        """The same where that needs no task, thread or queue: for a frame that is held and whose samples are the
        answer, for a picture that is kept, or one that the CPU renders in little more time than a thread takes to
        begin. None where ``render`` has something to do."""
        frame = self.held(ref)
        answer = None if frame is None else self._as_it_is(frame, view, {})
        if answer is None:
            kept = self.cache.kept((ref, view))
            if isinstance(kept, KeptPicture):
                answer = RenderedFrame(
                    kept.pixels, view.stage, kept.window, kept.decoder, kept.backend, {}, kept.version
                )
            elif frame is not None and _is_quick(frame, view):
                answer = self._quickly(frame, view, {"queue": 0.0})
        if answer is not None:
            self.was_at_hand()
        return answer

    def read_now(self, ref: FrameRef, view: View) -> RenderedFrame | None:
        """The same of a frame that is not held, where it takes less time to read and decode it than to let a thread do
        so: uncompressed, and in the system's memory. Kept as any other. None where ``render`` has something to do. For
        what a person waits for: it does not stand in any queue."""
        if self.held(ref) is not None or self.cache.is_loading(ref):
            return None
        begun = time.perf_counter()
        fetch_ahead()
        encoded = self.archive.fetch_now(ref, partial(self._is_quick_to_read, view))
        if encoded is None:
            return None
        timings = {"queue": 0.0, "read": (time.perf_counter() - begun) * 1e3}
        try:
            frame, timings["decode"] = self._decode(encoded, self._generation)
        except RenderError:
            return None  # which ``render`` says
        self.cache.add(ref, frame)
        self.cache.misses += 1
        self.turns.noted()
        return self._as_it_is(frame, view, timings) or self._quickly(frame, view, timings)

    def _is_quick_to_read(self, view: View, record: FrameRecord) -> bool:
        decoder, nbytes = DECODERS.get(record.transfer_syntax_uid), _decoded_bytes(record.layout)
        if decoder is None or decoder.needs_worker or nbytes > min(QUICK_BYTES, self._settings.max_frame_bytes):
            return False
        return _may_be_as_it_is(view, record.layout) or _is_quick(record, view)

    @staticmethod
    def _as_it_is(frame: DeviceFrame, view: View, timings: Timings) -> RenderedFrame | None:
        """The samples, where they are the answer."""
        if not isinstance(frame.samples, np.ndarray) or not frame.is_bare or not _may_be_as_it_is(view, frame.layout):
            return None
        return RenderedFrame(frame.samples, view.stage, None, frame.decoder, "none", timings, frame.version)

    def _quickly(self, frame: DeviceFrame, view: View, timings: Timings) -> RenderedFrame | None:
        """The picture, where the CPU makes it at once."""
        begun = time.perf_counter()
        picture = self.device.now(frame, view)
        if picture is None:
            return None
        render_ms = (time.perf_counter() - begun) * 1e3
        return self._made(frame, view, picture, timings | {"upload": 0.0, "render": render_ms, "download": 0.0})

    def was_at_hand(self) -> None:
        """Somebody was answered with what is held or kept."""
        self.cache.used()
        self.turns.noted()

    def kept(self, key: Hashable) -> Kept | None:
        """What ``keep`` has kept, where no file has changed since."""
        self._forget_changed_files()
        return self.cache.kept(key)

    def keep(self, key: Hashable, make: Callable[[], Kept], version: str, generation: int) -> None:
        """Keep what ``make`` gives, made of a file of ``version``, where it was asked for before; nothing where a file
        has changed since the archive was of ``generation``."""
        self._forget_changed_files()
        if generation == self._generation and self._pictures.seen((key, version)):
            self.cache.keep(key, make())

    def _made(self, frame: DeviceFrame, view: View, picture: Picture, timings: Timings) -> RenderedFrame:
        """A picture as an answer. It is kept where it was asked for before, and no file has changed since."""
        pixels = picture.pixels
        current = frame.generation == self._generation == self.archive.generation
        if current and self._pictures.seen((frame.key, view)) and not _shows(pixels, frame):
            pixels = pixels if pixels.flags.owndata else pixels.copy()  # of a batch, which would be kept as a whole
            pixels.setflags(write=False)
            kept = KeptPicture(pixels, picture.window, frame.decoder, picture.backend, frame.version)
            self.cache.keep((frame.ref, view), kept)
        return RenderedFrame(pixels, view.stage, picture.window, frame.decoder, picture.backend, timings, frame.version)

    def held(self, ref: FrameRef) -> DeviceFrame | None:
        """The decoded frame, where the cache holds it and no file has changed. Not counted as a hit."""
        self._forget_changed_files()
        return self.cache.find(ref)

    def _turn(self, priority: Priority) -> contextlib.AbstractAsyncContextManager[None]:
        return self.turns.prefetch() if priority is Priority.PREFETCH else self.turns.urgent()

    async def _rendered(self, ref: FrameRef, view: View, priority: Priority) -> RenderedFrame:
        self._forget_changed_files()
        asked = _Asked(view)
        for by_cpu in (False, True):
            frame = self.cache.peek(ref)
            if frame is None:
                frame = await self._held(ref, priority, asked, by_cpu)
            try:
                return await self._render(frame, view, priority, asked)
            except Gone:  # the device lost its copy, and the host has none
                self.cache.drop(ref)
        # Somebody else's load may have been of the device again: this one is nobody else's, and stays on the host.
        self._hurry(ref, priority)
        frame = await self._load(ref, asked, by_cpu=True)
        try:
            return await self._render(frame, view, priority, asked)
        finally:
            frame.left()

    async def decoded(self, ref: FrameRef, priority: Priority = Priority.INTERACTIVE) -> DecodedFrame:
        """The frame's samples as a decoder leaves them, in host memory: not masked to Bits Stored, read-only.

        Raises any RenderError. What only the device holds is decoded once more, by the CPU."""
        async with self._turn(priority):
            return await self._decoded(ref, priority)

    async def _decoded(self, ref: FrameRef, priority: Priority) -> DecodedFrame:
        self._forget_changed_files()
        asked = _Asked()
        frame = self.cache.peek(ref) or await self._held(ref, priority, asked, by_cpu=True)
        samples = frame.host_samples()
        if samples is None:
            self._hurry(ref, priority)
            frame = await self._load(ref, asked, by_cpu=True)
            samples = frame.host_samples()
            frame.left()
        if samples is None:
            raise CorruptPixelData("the decoder gave no samples")
        return DecodedFrame(samples, frame.layout, frame.decoder, asked.timings, frame.version)

    async def load_ahead(self, ref: FrameRef) -> None:
        """Decode a frame into the cache when nobody waits for anything. Raises any RenderError; cancel to drop it."""
        async with self.turns.prefetch(Line.LOOK_AHEAD):
            self._forget_changed_files()
            if not self.cache.holds(ref):
                await self._held(ref, Priority.PREFETCH, _Asked(), by_cpu=False)

    async def encoded(self, ref: FrameRef, priority: Priority = Priority.INTERACTIVE) -> EncodedFrame:
        """The frame as it is stored, read when its turn among the loads comes. Raises what ``Archive.fetch`` raises,
        and Overloaded. Cancel the caller to drop the work."""
        return await asyncio.wrap_future(self._loaders.submit(partial(self.archive.fetch, ref), priority))

    def encoded_now(self, ref: FrameRef) -> EncodedFrame | None:
        """The same where it lies in memory and is not large, without a thread; None where ``encoded`` has something to
        do. For what a person waits for."""
        fetch_ahead()
        found = self.archive.fetch_now(ref, lambda record: _decoded_bytes(record.layout) <= QUICK_BYTES)
        if found is not None:
            self.turns.noted()
        return found

    @staticmethod
    def is_plain(frame: FrameRecord | EncodedFrame, view: View) -> bool:
        """Whether the bytes in the file may be what ``view`` asks for: nothing to decode or to window, nor to mask
        unless other bits are set beside the stored ones."""
        decoder = DECODERS.get(frame.transfer_syntax_uid)
        return decoder is not None and decoder.codec == "native" and _may_be_as_it_is(view, frame.layout)

    async def read(self, refs: Sequence[FrameRef], priority: Priority) -> list[RenderedFrame | RenderError | None]:
        """Stored values of frames that are plain: read together, past the cache. An error in place of a frame that
        cannot be read, None in place of one that is not plain (any more). Raises Overloaded."""
        async with self._turn(priority):
            return await asyncio.wrap_future(self._loaders.submit(partial(self._read_plain, refs), priority))

    def _read_plain(self, refs: Sequence[FrameRef]) -> list[RenderedFrame | RenderError | None]:
        """On a loading thread."""
        return [self._read_one(ref) for ref in refs]

    def _read_one(self, ref: FrameRef) -> RenderedFrame | RenderError | None:
        view = View(stage=Stage.STORED)
        try:
            encoded = self.archive.fetch(ref)
            if not self.is_plain(encoded, view) or _decoded_bytes(encoded.layout) > self._settings.max_frame_bytes:
                return None
            decoded = decode(encoded, self.pool)
        except RenderError as error:
            return error
        samples = decoded.samples
        if not isinstance(samples, np.ndarray) or not _is_bare(samples, decoded.layout):
            return None
        samples.setflags(write=False)
        return RenderedFrame(samples, view.stage, None, decoded.decoder, "none", {}, encoded.version)

    async def _held(self, ref: FrameRef, priority: Priority, asked: _Asked, by_cpu: bool) -> DeviceFrame:
        """From the cache, which loads it where it has to, or lets this request share a load."""
        self._hurry(ref, priority)
        load = partial(self._load, ref, asked, by_cpu)
        try:
            if priority < Priority.PREFETCH and ref in self._behind:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEHIND_S):
                        return await self.cache.get(ref, load)
                self.cache.abandon(ref)  # a prefetch decodes it, for which this busy machine has no time
            return await self.cache.get(ref, load)
        finally:
            if ref not in self._loading:
                self._urgency.pop(ref, None)  # of a load that was dropped before it began

    def _forget_changed_files(self) -> None:
        if self._generation != self.archive.generation:
            self._generation = self.archive.generation
            self.cache.clear()

    def _hurry(self, ref: FrameRef, priority: Priority) -> None:
        """A load that a less urgent request has queued serves this one as well: it must not wait with that one."""
        self._urgency[ref] = min(priority, self._urgency.get(ref, priority))  # of the steps that it has still to take
        loading = self._loading.get(ref)
        if loading is not None:
            self._loaders.promote(loading, priority)
            self.queue.promote(loading, priority)

    async def _load(self, ref: FrameRef, asked: _Asked, by_cpu: bool) -> DeviceFrame:
        """Read and decode; ``asked`` is the first caller's. ``by_cpu``: not by the device, and to the host."""
        try:
            return await self._steps(ref, asked, by_cpu)
        finally:
            self._urgency.pop(ref, None)

    async def _steps(self, ref: FrameRef, asked: _Asked, by_cpu: bool) -> DeviceFrame:
        resident = None if by_cpu else self.device.residency.find((self._generation, ref))
        if resident is not None:
            return resident
        generation, timings = self._generation, asked.timings
        submitted = time.perf_counter()
        work = partial(self._read, ref, generation, by_cpu, asked)
        loaded, begun, steps = await self._awaited(ref, self._loaders.submit(work, self._urgency_of(ref)))
        timings["queue"] = (begun - submitted) * 1e3
        timings.update(steps)
        if isinstance(loaded, DeviceFrame):
            return loaded
        on_device = await self._decode_on_device(loaded, generation, timings)
        if on_device is not None:
            return on_device
        refused = partial(self._decode, loaded.encoded, generation)
        frame, decode_ms = await self._awaited(ref, self._loaders.submit(refused, self._urgency_of(ref)))
        timings["decode"] += decode_ms
        return frame

    def _urgency_of(self, ref: FrameRef) -> Priority:
        return self._urgency.get(ref, Priority.INTERACTIVE)

    async def _awaited(self, ref: FrameRef, future: "Future[T]") -> T:
        """Wait for a step of a load, which others may hurry meanwhile."""
        self._loading[ref] = future
        try:
            return await asyncio.wrap_future(future)
        finally:
            if self._loading.get(ref) is future:
                del self._loading[ref]

    def _read(
        self, ref: FrameRef, generation: int, by_cpu: bool, asked: _Asked
    ) -> tuple[DeviceFrame | _Planned, float, Timings]:
        """On a loading thread: read, decode what the device may not, and render what is ``asked`` for where that needs
        no device. With the time it began, and steps [ms]."""
        begun = time.perf_counter()
        fetch_ahead()
        encoded = self._decoded_from.fetch(ref)
        nbytes = _decoded_bytes(encoded.layout)
        if nbytes > self._settings.max_frame_bytes:
            raise TooLarge(f"a frame of {nbytes} bytes is above the limit of {self._settings.max_frame_bytes}")
        steps = {"read": (time.perf_counter() - begun) * 1e3}
        planned = None if by_cpu else self._plan(encoded, nbytes)
        if planned is not None:
            return _Planned(encoded, planned), begun, steps
        frame, steps["decode"] = self._decode(encoded, generation)
        if asked.view is not None and self._as_it_is(frame, asked.view, {}) is None:
            rendering = time.perf_counter()
            picture = self.device.now(frame, asked.view)
            if picture is not None:
                asked.made = frame, picture
                render_ms = (time.perf_counter() - rendering) * 1e3
                steps |= {"upload": 0.0, "render": render_ms, "download": 0.0}
        return frame, begun, steps

    def _plan(self, encoded: EncodedFrame, nbytes: int) -> DevicePlan | None:
        """How the device may decode a frame that it also has room for; None where the CPU has to."""
        usable = bool(self._proven) and self.device.decodes and nbytes <= self.device.residency.budget
        return plan(encoded, self._proven) if usable and self._proven is not None else None

    def _decode(self, encoded: EncodedFrame, generation: int) -> tuple[DeviceFrame, float]:
        """On a loading thread: decode by the CPU. With the time it took [ms]."""
        begun = time.perf_counter()
        decoded = self._decode_in_turn(encoded)
        samples = decoded.samples
        (samples.data if isinstance(samples, Packed) else samples).setflags(write=False)  # answers are views of it
        frame = _frame_of(encoded, decoded.layout, samples, decoded.decoder, generation)
        return frame, (time.perf_counter() - begun) * 1e3

    def _decode_in_turn(self, encoded: EncodedFrame) -> DecodedFrame:
        """A prefetch in the background, which stands still while anything more urgent is decoded."""
        decoder = DECODERS.get(encoded.transfer_syntax_uid)
        options: dict[str, Any] = {"cores": self._cores, "packed": self.backend.unpacks}
        if self._background is self.pool or decoder is None or not decoder.needs_worker:
            return decode(encoded, self.pool, **options)
        if self._urgency_of(encoded.ref) is not Priority.PREFETCH:
            with self._background.halted():
                return decode(encoded, self.pool, **options)
        self._behind.add(encoded.ref)
        try:
            return decode(encoded, self._background, **options)
        finally:
            self._behind.discard(encoded.ref)

    async def _decode_on_device(self, planned: _Planned, generation: int, timings: Timings) -> DeviceFrame | None:
        """Let the device decode, and keep it there; None where it cannot."""
        encoded, chosen = planned.encoded, planned.plan
        frame = _frame_of(encoded, chosen.layout, None, chosen.decoder, generation)
        done = await self._awaited(
            encoded.ref, self.queue.decode(frame, chosen.codestream, self._urgency_of(encoded.ref))
        )
        timings["queue"] += done.queue_ms
        timings["decode"] = done.decode_ms
        return frame if done.on_device else None

    async def _render(self, frame: DeviceFrame, view: View, priority: Priority, asked: _Asked) -> RenderedFrame:
        timings = asked.timings
        as_it_is = self._as_it_is(frame, view, timings)
        if as_it_is is not None:
            return as_it_is
        if asked.made is not None and asked.made[0] is frame:
            return self._made(frame, view, asked.made[1], timings)
        done = await asyncio.wrap_future(self.queue.render(frame, view, priority))
        timings["queue"] = timings.get("queue", 0.0) + done.queue_ms
        timings["upload"] = done.upload_ms
        timings["render"] = done.render_ms
        timings["download"] = done.download_ms
        return self._made(frame, view, done.picture, timings)


def for_people(workers: int) -> int:
    """Loading threads, and decoder processes, beside ``workers`` others that only do what a person waits for."""
    return max(2, min(workers, 4))


def _decoded_bytes(layout: PixelLayout) -> int:
    return math.prod(layout.shape) * layout.dtype.itemsize


def _frame_of(
    encoded: EncodedFrame, layout: PixelLayout, samples: Samples | Packed | None, decoder: str, generation: int
) -> DeviceFrame:
    bare = _is_bare(samples, layout)
    return DeviceFrame(
        encoded.ref, layout, encoded.presentation, samples, decoder, encoded.version, generation, is_bare=bare
    )


def _may_be_as_it_is(view: View, layout: PixelLayout) -> bool:
    """Whether decoded samples are the answer where they are bare: all of them, as stored."""
    if view.stage is not Stage.STORED or view.region is not None or view.viewport is not None:
        return False
    return _fills_container(layout) or layout.high_bit == layout.bits_stored - 1


def _fills_container(layout: PixelLayout) -> bool:
    return layout.is_float or layout.bits_stored == layout.bits_allocated


def _is_bare(samples: Samples | Packed | None, layout: PixelLayout) -> bool:
    """Whether each container is its stored value (PS3.5 8.1.1): no other bit is set beside it, none is to be moved, and
    the sign fills those above. To look is far faster than to mask. False where it is not known."""
    if _fills_container(layout):
        return True
    if layout.high_bit != layout.bits_stored - 1 or not isinstance(samples, np.ndarray):
        return False
    low, high = layout.stored_range
    return bool(samples.max() <= high and (not layout.pixel_representation or samples.min() >= low))


def _is_quick(frame: DeviceFrame | FrameRecord, view: View) -> bool:
    """Whether the CPU renders this in less time than it takes to hand it to a thread and back: a window on not too many
    pixels of grey, in their own size, without a table."""
    layout, presentation = frame.layout, frame.presentation
    if view.stage is not Stage.DISPLAY or view.viewport is not None or math.prod(layout.shape) > QUICK_SAMPLES:
        return False
    if layout.samples_per_pixel != 1 or layout.dtype.itemsize > 2:
        return False
    voi = view.window or next(iter(presentation.voi[view.voi_index or 0 :]), None)
    tables = (presentation.modality, presentation.presentation_lut, presentation.palette)
    return isinstance(voi, Window) and not any(isinstance(table, LookupTable) for table in tables)


def _shows(pixels: Samples, frame: DeviceFrame) -> bool:
    """Whether pixels are the frame's own memory: then nothing is gained by keeping them."""
    return isinstance(frame.samples, np.ndarray) and np.may_share_memory(pixels, frame.samples)
