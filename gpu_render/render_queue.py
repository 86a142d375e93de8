"""RenderQueue: one thread owns the device and renders whatever waits, together."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from gpu_render.frame import Samples
from gpu_render.priority import Priority, PriorityQueue
from kernels import Backend, RenderJob
from kernels.params import output_bytes

#: Most that one launch may put out [byte]; a device packs a batch into one buffer. A larger frame goes alone.
MAX_BATCH_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rendered:
    """Pixels of one task, and the time [ms] it waited, was prepared, and its batch was on the device."""

    pixels: Samples
    queue_ms: float
    prepare_ms: float
    render_ms: float
    download_ms: float


@dataclass(slots=True)
class _Task:
    prepare: Callable[[], RenderJob]
    future: "Future[Rendered]" = field(default_factory=Future)
    submitted_s: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    prepare_ms: float = 0.0


class RenderQueue:
    """Bounded, three priorities, natural batching: the device thread takes a task and whatever else already waits.

    There is no timer: an idle queue adds no delay, a busy one forms batches by itself. A task whose future was
    cancelled is dropped unrendered. A task that fails, fails alone.
    """

    def __init__(self, backend: Backend, capacity: int, max_batch: int) -> None:
        self._backend = backend
        self._max_batch = max_batch
        self._queue: PriorityQueue[_Task] = PriorityQueue(capacity)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, prepare: Callable[[], RenderJob], priority: Priority) -> "Future[Rendered]":
        """Queue one frame. ``prepare`` runs on the device thread and returns the job: uploads and folds.

        Raises Overloaded where the queue is full. Cancel the future to drop the task.
        """
        task = _Task(prepare)
        self._queue.put(task, priority)
        return task.future

    def close(self) -> None:
        """Finish the batch that runs, drop what waits, and join the device thread."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while tasks := self._queue.take(self._max_batch):
            ready = [(task, job) for task in tasks if (job := self._prepare(task)) is not None]
            for batch in _within_bytes(ready, MAX_BATCH_BYTES):
                self._render(batch)

    def _prepare(self, task: _Task) -> RenderJob | None:
        started = time.perf_counter()
        task.queue_ms = (started - task.submitted_s) * 1e3
        try:
            job = task.prepare()
        except BaseException as error:  # noqa: BLE001 - belongs to whoever waits; the device thread lives on
            task.future.set_exception(error)
            return None
        task.prepare_ms = (time.perf_counter() - started) * 1e3
        return job

    def _render(self, ready: Sequence[tuple[_Task, RenderJob]]) -> None:
        started = time.perf_counter()
        try:
            arrays = self._backend.render([job for _, job in ready])
        except BaseException as error:  # noqa: BLE001 - as above
            self._render_apart(ready, error)
            return
        total_ms = (time.perf_counter() - started) * 1e3
        download_ms = self._backend.download_ms
        for (task, _), pixels in zip(ready, arrays, strict=True):
            task.future.set_result(
                Rendered(pixels, task.queue_ms, task.prepare_ms, total_ms - download_ms, download_ms)
            )

    def _render_apart(self, ready: Sequence[tuple[_Task, RenderJob]], error: BaseException) -> None:
        """After a failed batch, render its members one by one, so that only the culprit fails."""
        if len(ready) == 1:
            ready[0][0].future.set_exception(error)
            return
        for pair in ready:
            self._render([pair])


def _within_bytes(ready: Sequence[tuple[_Task, RenderJob]], limit: int) -> Iterator[Sequence[tuple[_Task, RenderJob]]]:
    """Consecutive runs of ``ready`` whose outputs take at most ``limit`` bytes together."""
    begin, total = 0, 0
    for end, (_, job) in enumerate(ready):
        nbytes = output_bytes(job.params)
        if end > begin and total + nbytes > limit:
            yield ready[begin:end]
            begin, total = end, 0
        total += nbytes
    if begin < len(ready):
        yield ready[begin:]
