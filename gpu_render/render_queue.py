"""RenderQueue: one thread owns the device, and decodes and renders whatever waits, together."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from gpu_render.device import MAX_BATCH_BYTES, Device, Flight, Picture, Ready, Work, within_bytes
from gpu_render.frame import DeviceFrame
from gpu_render.priority import Priority, PriorityQueue
from gpu_render.view import View
from kernels import Codestream

log = logging.getLogger("gpu_render")

#: Most pictures that the CPU renders before it looks for more urgent ones: to it a batch is worth nothing.
MOST_BY_CPU = 4


@dataclass(frozen=True, slots=True)
class Rendered:
    """One picture, and the time [ms] it waited and its batch was prepared, uploaded, on the device, and fetched."""

    picture: Picture
    queue_ms: float
    upload_ms: float
    render_ms: float
    download_ms: float


@dataclass(frozen=True, slots=True)
class DeviceDecoded:
    """Whether the device has the frame now, and the time [ms] it waited and its batch took."""

    on_device: bool
    queue_ms: float
    decode_ms: float


@dataclass(slots=True)
class _Render:
    work: Work
    future: "Future[Rendered]" = field(default_factory=Future)
    submitted_s: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _Decode:
    frame: DeviceFrame
    codestream: Codestream
    future: "Future[DeviceDecoded]" = field(default_factory=Future)
    submitted_s: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class _InFlight:
    tasks: Sequence[_Render]
    flight: Flight
    begun_s: float
    launched_s: float


class RenderQueue:
    """Bounded, three priorities, natural batching: the device thread takes a task and whatever else of its priority
    already waits.

    There is no timer: an idle queue adds no delay, a busy one forms batches by itself. While a batch is in flight on a
    device, the next one is uploaded and launched. A task whose future was cancelled is dropped undone. A task
    that fails, fails alone.
    """

    def __init__(self, device: Device, capacity: int, max_batch: int) -> None:
        self._device = device
        self._max_batch = max_batch
        self._queue: PriorityQueue[_Render | _Decode] = PriorityQueue(capacity)
        self._pending: _InFlight | None = None
        device.settle = self._finish
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def render(self, frame: DeviceFrame, view: View, priority: Priority) -> "Future[Rendered]":
        """Queue one picture. Its future raises any RenderError, and device.Gone where the frame has to be read again.

        Raises Overloaded where the queue is full. Cancel the future to drop the task.
        """
        task = _Render(Work(frame, view))
        self._queue.put(task, priority)
        return task.future

    def decode(self, frame: DeviceFrame, codestream: Codestream, priority: Priority) -> "Future[DeviceDecoded]":
        """Queue the decoding of a frame without samples; the device keeps them. As render(), but raises nothing."""
        task = _Decode(frame, codestream)
        self._queue.put(task, priority)
        return task.future

    def promote(self, future: "Future[Any]", priority: Priority) -> None:
        """Make a queued task as urgent as ``priority``: somebody more urgent waits for it now."""
        self._queue.promote(future, priority)

    def close(self) -> None:
        """Finish the batches that run, drop what waits, and join the device thread."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            most = self._max_batch if self._device.has_memory else min(self._max_batch, MOST_BY_CPU)
            tasks = self._queue.take(most, wait=self._pending is None)
            if not tasks and self._pending is None:
                return
            flown = list(self._pending.tasks) if self._pending else []
            try:
                self._step(tasks)
            except BaseException as error:  # noqa: BLE001 - nobody waits for ever, and the device thread lives on
                log.error("the device thread met %s", type(error).__name__)
                self._pending = None
                for task in (*flown, *tasks):
                    if not task.future.done():
                        task.future.set_exception(error)
            tasks, flown = [], []  # nothing that was answered stays in memory while this waits for work

    def _step(self, tasks: "Sequence[_Render | _Decode]") -> None:
        """Launch what waits; before decoding, and with nothing to launch, finish what is in flight."""
        renders = [task for task in tasks if isinstance(task, _Render)]
        decodes = [task for task in tasks if isinstance(task, _Decode)]
        if renders:
            self._begin(renders)
        if decodes or not renders:
            self._finish()  # whoever waits for a picture does not wait for others' decoding
        if decodes:
            self._decode(decodes)

    def _begin(self, tasks: Sequence[_Render]) -> None:
        """Launch a batch; the one before, which the device is done with by now or soon, is finished afterwards."""
        begun = time.perf_counter()
        answers = self._device.prepare([task.work for task in tasks])
        ready: list[tuple[_Render, Ready]] = []
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, Ready):
                ready.append((task, answer))
            else:
                task.future.set_exception(answer)
        ready.sort(key=lambda pair: pair[1].job is None)  # what is for the CPU keeps nothing else from the device
        for batch in within_bytes([answer for _, answer in ready], MAX_BATCH_BYTES):
            mine, ready = [task for task, _ in ready[: len(batch)]], ready[len(batch) :]
            launched = time.perf_counter()
            flight = self._device.launch(batch)
            self._finish()
            self._pending = _InFlight(mine, flight, begun, launched)
            if flight.ticket is None or not self._device.has_memory:  # nothing is under way: it is done, or not begun
                self._finish()

    def _finish(self) -> None:
        """Wait for the batch in flight and answer those who wait."""
        flown, self._pending = self._pending, None
        if flown is None:
            return
        pictures = self._device.land(flown.flight)
        total_ms = (time.perf_counter() - flown.launched_s) * 1e3
        download_ms = min(flown.flight.backend.download_ms, total_ms) if flown.flight.ticket is not None else 0.0
        for task, ready, picture in zip(flown.tasks, flown.flight.batch, pictures, strict=True):
            if isinstance(picture, Exception):
                task.future.set_exception(picture)
                continue
            prepare_ms = (flown.launched_s - flown.begun_s) * 1e3
            queue_ms = (flown.begun_s - task.submitted_s) * 1e3
            render_ms = max(prepare_ms - ready.upload_ms, 0.0) + total_ms - download_ms
            task.future.set_result(Rendered(picture, queue_ms, ready.upload_ms, render_ms, download_ms))

    def _decode(self, tasks: Sequence[_Decode]) -> None:
        begun = time.perf_counter()
        answers = self._device.decode([(task.frame, task.codestream) for task in tasks])
        took_ms = (time.perf_counter() - begun) * 1e3
        for task, on_device in zip(tasks, answers, strict=True):
            task.future.set_result(DeviceDecoded(on_device, (begun - task.submitted_s) * 1e3, took_ms))
