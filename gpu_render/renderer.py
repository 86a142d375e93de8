"""Renderer.render(ref, view): the whole path of one frame on one screen."""

import asyncio
import os
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from gpu_render.archive import Archive
from gpu_render.cache import FrameCache
from gpu_render.decode import decode
from gpu_render.errors import TooLarge
from gpu_render.frame import UNKNOWN, DeviceFrame, LookupTable, PixelLayout, RenderedFrame, Window
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.reference import FrameRef
from gpu_render.render_queue import RenderQueue
from gpu_render.settings import Settings
from gpu_render.transform import fold, needs_extent, source_record, table_extent
from gpu_render.view import Stage, View
from gpu_render.workers import WorkerPool
from kernels import Backend, RenderJob


class Renderer:
    """Owns the cache, the loading threads and the render queue; borrows archive, backend and worker pool.

    One instance lives on one event loop.
    """

    def __init__(self, archive: Archive, backend: Backend, pool: WorkerPool, settings: Settings) -> None:
        self.archive = archive
        self.backend = backend
        self.cache: FrameCache[DeviceFrame] = FrameCache(settings.cache_bytes)
        self.pool = pool
        self._settings = settings
        self._loaders = PriorityExecutor(settings.workers + 2, settings.queue_capacity, "load")
        self.queue = RenderQueue(backend, settings.queue_capacity, settings.max_batch)
        self._generation = archive.generation
        self._loading: dict[FrameRef, Future[tuple[DeviceFrame, float, dict[str, float]]]] = {}

    def close(self) -> None:
        """Stop the threads; what waits is cancelled."""
        self._loaders.close()
        self.queue.close()

    @property
    def waiting(self) -> tuple[int, int]:
        """(frames waiting to be loaded, frames waiting for the device)."""
        return len(self._loaders), len(self.queue)

    async def render(self, ref: FrameRef, view: View, priority: Priority = Priority.INTERACTIVE) -> RenderedFrame:
        """The frame as ``view`` asks for it. Raises any RenderError. Cancel the caller to drop the work."""
        self._forget_changed_files()
        timings: dict[str, float] = {}
        frame = self.cache.peek(ref)
        if frame is None:
            self._hurry(ref, priority)
            frame = await self.cache.get(ref, partial(self._load, ref, priority, timings))
        if view.stage is Stage.STORED and view.region is None and view.viewport is None and stored_as_is(frame.layout):
            return RenderedFrame(frame.samples, view.stage, None, frame.decoder, "none", timings, frame.version)
        return await self._render(frame, view, priority, timings)

    def _forget_changed_files(self) -> None:
        if self._generation != self.archive.generation:
            self._generation = self.archive.generation
            self.cache.clear()

    def _hurry(self, ref: FrameRef, priority: Priority) -> None:
        """A load that a less urgent request has queued serves this one as well: it must not wait with that one."""
        loading = self._loading.get(ref)
        if loading is not None:
            self._loaders.promote(loading, priority)

    async def _load(self, ref: FrameRef, priority: Priority, timings: dict[str, float]) -> DeviceFrame:
        """Read and decode on a loading thread; ``timings`` is the first caller's."""
        submitted = time.perf_counter()
        future = self._loading[ref] = self._loaders.submit(partial(self._read_and_decode, ref), priority)
        try:
            frame, begun, steps = await asyncio.wrap_future(future)
        finally:
            if self._loading.get(ref) is future:
                del self._loading[ref]
        timings["queue"] = (begun - submitted) * 1e3
        timings.update(steps)
        return frame

    def _read_and_decode(self, ref: FrameRef) -> tuple[DeviceFrame, float, dict[str, float]]:
        begun = time.perf_counter()
        encoded = self.archive.fetch(ref)
        layout = encoded.layout
        nbytes = int(np.prod(layout.shape)) * layout.dtype.itemsize
        if nbytes > self._settings.max_frame_bytes:
            raise TooLarge(f"a frame of {nbytes} bytes is above the limit of {self._settings.max_frame_bytes}")
        read = time.perf_counter()
        decoded = decode(encoded, self.pool, cores=os.cpu_count() or 1)
        decoded.samples.setflags(write=False)  # answers are views of it
        steps = {"read": (read - begun) * 1e3, "decode": (time.perf_counter() - read) * 1e3}
        frame = DeviceFrame(
            ref, decoded.layout, encoded.presentation, decoded.samples, decoded.decoder, encoded.version
        )
        return frame, begun, steps

    async def _render(
        self, frame: DeviceFrame, view: View, priority: Priority, timings: dict[str, float]
    ) -> RenderedFrame:
        prepared = _Prepared()
        done = await asyncio.wrap_future(self.queue.submit(partial(self._prepare, frame, view, prepared), priority))
        timings["queue"] = timings.get("queue", 0.0) + done.queue_ms
        timings["upload"] = prepared.upload_ms
        timings["render"] = done.prepare_ms - prepared.upload_ms + done.render_ms
        timings["download"] = done.download_ms
        window = prepared.window
        return RenderedFrame(done.pixels, view.stage, window, frame.decoder, self.backend.name, timings, frame.version)

    def _prepare(self, frame: DeviceFrame, view: View, prepared: "_Prepared") -> RenderJob:
        """On the device thread: upload once, ask for the extent once, fold."""
        if frame.pixels is None:
            started = time.perf_counter()
            frame.pixels = self.backend.put(frame.samples)
            prepared.upload_ms = (time.perf_counter() - started) * 1e3
        extent = None
        if needs_extent(frame.presentation, view, frame.layout):
            if frame.extent is UNKNOWN:
                frame.extent = self._extent(frame)
            extent = frame.extent
        folded = fold(frame.presentation, view, frame.layout, extent)
        prepared.window = folded.window
        return RenderJob(frame.pixels, folded.params, folded.table)

    def _extent(self, frame: DeviceFrame) -> tuple[float, float] | None:
        """What fold() wants to know of a whole frame, without padding."""
        if not isinstance(frame.presentation.modality, LookupTable):
            return self.backend.extent(frame.pixels, source_record(frame.layout, frame.presentation))
        folded = fold(frame.presentation, View(stage=Stage.STORED), frame.layout)
        (stored,) = self.backend.render([RenderJob(frame.pixels, folded.params)])
        return table_extent(frame.presentation, stored)


@dataclass(slots=True)
class _Prepared:
    """What the device thread found out about one request: the window in use, and the time of its upload [ms]."""

    window: Window | None = None
    upload_ms: float = 0.0


def stored_as_is(layout: PixelLayout) -> bool:
    """Whether decoded samples are the stored values already: no bit of the container is left to mask."""
    return layout.is_float or layout.bits_stored == layout.bits_allocated
