"""PriorityQueue, PriorityExecutor and RenderQueue: order, bounds, batches, dropped and failing work."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpu_render.errors import Overloaded
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.render_queue import Rendered, RenderQueue
from kernels import RenderJob
from kernels.params import FRAME_PARAMS

RECORD = np.zeros(1, FRAME_PARAMS)[0]
WAIT_S = 20


class FakeDevice:
    """Renders a job to its handle's number; blocks while ``gate`` is shut; notes the batches it saw."""

    name = "fake"
    description = "a device of a test"
    download_ms = 0.0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[object]] = []
        self.poison: set[object] = set()

    def put(self, samples: npt.NDArray[np.generic]) -> object:
        return samples

    def extent(self, pixels: object, params: np.void) -> tuple[float, float] | None:
        return None

    def render(self, jobs: Sequence[RenderJob]) -> list[npt.NDArray[Any]]:
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        self.batches.append([job.pixels for job in jobs])
        if self.poison & {job.pixels for job in jobs}:
            raise RuntimeError("poisoned")
        return [np.array([[job.pixels]]) for job in jobs]

    def memory(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        pass


def task(number: int) -> Callable[[], RenderJob]:
    return lambda: RenderJob(number, RECORD)


def value(future: "Future[Rendered]") -> int:
    return int(future.result(WAIT_S).pixels[0, 0])


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


def busy_queue(device: FakeDevice, capacity: int = 100, max_batch: int = 8) -> "tuple[RenderQueue, Future[Rendered]]":
    """A queue whose device is inside a first batch."""
    queue = RenderQueue(device, capacity, max_batch)
    first = queue.submit(task(0), Priority.INTERACTIVE)
    assert device.entered.acquire(timeout=WAIT_S)
    return queue, first


def test_what_waits_is_rendered_together_and_most_urgent_first(device: FakeDevice) -> None:
    queue, first = busy_queue(device, max_batch=4)
    prefetch = [queue.submit(task(n), Priority.PREFETCH) for n in (30, 31, 32)]
    thumbnails = [queue.submit(task(n), Priority.THUMBNAIL) for n in (20, 21)]
    people = [queue.submit(task(n), Priority.INTERACTIVE) for n in (10, 11)]
    device.gate.set()
    assert [value(f) for f in [first, *people, *thumbnails, *prefetch]] == [0, 10, 11, 20, 21, 30, 31, 32]
    assert device.batches == [[0], [10, 11, 20, 21], [30, 31, 32]]
    queue.close()


def test_a_full_queue_refuses_at_once(device: FakeDevice) -> None:
    queue, _ = busy_queue(device, capacity=2)
    waiting = [queue.submit(task(n), Priority.PREFETCH) for n in (1, 2)]
    with pytest.raises(Overloaded) as caught:
        queue.submit(task(3), Priority.INTERACTIVE)
    assert caught.value.retry_after_s >= 1
    waiting[0].cancel()
    assert value_after_release(device, queue.submit(task(4), Priority.INTERACTIVE)) == 4
    queue.close()


def value_after_release(device: FakeDevice, future: "Future[Rendered]") -> int:
    device.gate.set()
    return value(future)


def test_what_nobody_waits_for_is_never_prepared(device: FakeDevice) -> None:
    queue, _ = busy_queue(device)
    prepared = []

    def prepare() -> RenderJob:
        prepared.append(1)
        return RenderJob(1, RECORD)

    gone = queue.submit(prepare, Priority.INTERACTIVE)
    assert gone.cancel()
    stays = queue.submit(task(2), Priority.INTERACTIVE)
    device.gate.set()
    assert value(stays) == 2
    assert not prepared
    assert [0] in device.batches
    assert all(1 not in batch for batch in device.batches)
    queue.close()


def test_a_task_that_cannot_be_prepared_fails_alone(device: FakeDevice) -> None:
    queue, _ = busy_queue(device)

    def broken() -> RenderJob:
        raise ValueError("no record")

    bad, good = queue.submit(broken, Priority.INTERACTIVE), queue.submit(task(2), Priority.INTERACTIVE)
    device.gate.set()
    with pytest.raises(ValueError, match="no record"):
        bad.result(WAIT_S)
    assert value(good) == 2
    queue.close()


def test_a_failing_member_of_a_batch_fails_alone(device: FakeDevice) -> None:
    queue, _ = busy_queue(device)
    device.poison = {2}
    futures = [queue.submit(task(n), Priority.INTERACTIVE) for n in (1, 2, 3)]
    device.gate.set()
    assert (value(futures[0]), value(futures[2])) == (1, 3)
    with pytest.raises(RuntimeError, match="poisoned"):
        futures[1].result(WAIT_S)
    queue.close()


def test_a_batch_of_large_outputs_is_split(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.render_queue.MAX_BATCH_BYTES", 100)
    record = np.zeros(1, FRAME_PARAMS)
    record["height"], record["width"], record["output_samples"] = 5, 8, 1
    queue, first = busy_queue(device)
    futures = [queue.submit(partial(RenderJob, n, record[0]), Priority.INTERACTIVE) for n in range(1, 6)]
    device.gate.set()
    assert [value(future) for future in [first, *futures]] == [0, 1, 2, 3, 4, 5]
    assert device.batches == [[0], [1, 2], [3, 4], [5]]
    queue.close()


def test_closing_cancels_what_waits_and_refuses_more(device: FakeDevice) -> None:
    queue, first = busy_queue(device)
    waiting = queue.submit(task(1), Priority.INTERACTIVE)
    closer = threading.Thread(target=queue.close)
    closer.start()
    with pytest.raises(CancelledError):
        waiting.result(WAIT_S)
    device.gate.set()
    closer.join(WAIT_S)
    assert value(first) == 0
    with pytest.raises(Overloaded, match="shutting down"):
        queue.submit(task(2), Priority.INTERACTIVE)


def test_the_executor_runs_the_most_urgent_first_and_survives_errors() -> None:
    executor = PriorityExecutor(1, 10, "test")
    gate, inside, order = threading.Event(), threading.Event(), []

    def block() -> None:
        inside.set()
        assert gate.wait(WAIT_S)

    executor.submit(block, Priority.PREFETCH)
    assert inside.wait(WAIT_S)
    late = executor.submit(lambda: order.append("prefetch"), Priority.PREFETCH)
    failing = executor.submit(lambda: 1 / 0, Priority.INTERACTIVE)
    early = executor.submit(lambda: order.append("person"), Priority.INTERACTIVE)
    gate.set()
    early.result(WAIT_S)
    late.result(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT_S)
    assert order == ["person", "prefetch"]
    executor.close()
