"""PriorityQueue, PriorityExecutor and RenderQueue: order, bounds, batches, flights, dropped and failing work."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from gpu_render.device import Device, Gone
from gpu_render.errors import InvalidRegion, Overloaded
from gpu_render.frame import DeviceFrame, PixelLayout, Presentation
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.reference import FrameRef
from gpu_render.render_queue import Rendered, RenderQueue
from gpu_render.view import Region, Stage, View
from kernels import Codestream
from kernels.cpu import CpuBackend
from tests.devices import WAIT_S, TestDevice

LAYOUT = PixelLayout(2, 3, 1, 16, 16, 15, 0, "MONOCHROME2")
STORED = View(stage=Stage.STORED)


def frame(number: int, layout: PixelLayout = LAYOUT) -> DeviceFrame:
    """A frame of nothing but its number."""
    samples = np.full(layout.shape, number, layout.dtype)
    return DeviceFrame(FrameRef("1", "2", "3", number + 1), layout, Presentation(), samples, "native")


def codestream(number: int) -> Codestream:
    """What the test's codec makes frame(number) of."""
    return Codestream(bytes([number]), "jpeg2000", LAYOUT.shape, LAYOUT.dtype, 16, False, 0, 0, 65535)


def decoder(stream: Codestream) -> Any:
    """The codec: a picture of the number, but none of 99."""
    return None if stream.data[0] == 99 else np.full(stream.shape, stream.data[0], stream.dtype)


class Queued:
    """A queue over a device of a test, whose first batch is in flight until the gate opens."""

    def __init__(self, backend: TestDevice, capacity: int = 100, max_batch: int = 8) -> None:
        self.backend = backend
        self.device = Device(backend, 70)
        self.queue = RenderQueue(self.device, capacity, max_batch)
        backend.gate.clear()
        self.first = self.submit(0)
        assert backend.entered.acquire(timeout=WAIT_S)

    def submit(self, number: int, priority: Priority = Priority.INTERACTIVE, view: View = STORED) -> "Future[Rendered]":
        return self.queue.render(frame(number), view, priority)

    def open(self) -> None:
        self.backend.gate.set()


@pytest.fixture
def backend() -> TestDevice:
    return TestDevice(decoder=decoder)


@pytest.fixture
def queued(backend: TestDevice) -> Iterator[Queued]:
    queued = Queued(backend)
    yield queued
    queued.open()
    queued.queue.close()


def value(future: "Future[Rendered]") -> int:
    """The number of the frame that was rendered."""
    return int(future.result(WAIT_S).picture.pixels[0, 0])


def test_what_waits_is_rendered_together_and_most_urgent_first(backend: TestDevice) -> None:
    queued = Queued(backend, max_batch=4)
    prefetch = [queued.submit(n, Priority.PREFETCH) for n in (30, 31, 32)]
    thumbnails = [queued.submit(n, Priority.THUMBNAIL) for n in (20, 21)]
    people = [queued.submit(n) for n in (10, 11)]
    queued.open()
    assert [value(f) for f in [queued.first, *people, *thumbnails, *prefetch]] == [0, 10, 11, 20, 21, 30, 31, 32]
    assert backend.batches == [[0], [10, 11], [20, 21], [30, 31, 32]]  # and nobody waits for less urgent ones
    queued.queue.close()


def test_a_batch_is_one_upload_call_one_launch_and_one_download(queued: Queued) -> None:
    frames = [frame(n) for n in range(1, 6)]
    futures = [queued.queue.render(f, STORED, Priority.INTERACTIVE) for f in frames for _ in range(2)]
    queued.open()
    assert [value(future) for future in futures] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    backend, counts = queued.backend, queued.device.counts
    assert backend.batches == [[0], [1, 1, 2, 2, 3, 3, 4, 4], [5, 5]]
    assert {name: backend.calls[name] for name in ("put", "launch", "collect", "extents", "decode")} == {
        "put": 3,
        "launch": 3,
        "collect": 3,
        "extents": 0,
        "decode": 0,
    }
    assert (backend.uploads, backend.uploaded) == (6, 6 * 12) == (counts.uploads, counts.upload_bytes)
    assert (counts.launches, counts.downloads) == (3, 3)


def test_what_is_on_the_device_is_not_uploaded_again(queued: Queued) -> None:
    resident = frame(7)
    queued.open()
    for _ in range(3):
        assert value(queued.queue.render(resident, STORED, Priority.INTERACTIVE)) == 7
    assert queued.backend.uploads == 2
    again = queued.queue.render(resident, STORED, Priority.INTERACTIVE).result(WAIT_S)
    assert again.upload_ms == 0
    assert again.picture.backend == "cuda"


def test_windows_that_depend_on_pixels_are_asked_for_once_a_batch_and_once_a_frame(queued: Queued) -> None:
    frames = [frame(n) for n in (1, 2, 3)]
    futures = [queued.queue.render(f, View(), Priority.INTERACTIVE) for f in frames for _ in range(2)]
    queued.open()
    for future in futures:
        future.result(WAIT_S)
    assert queued.backend.calls["extents"] == 1
    queued.queue.render(frames[0], View(), Priority.INTERACTIVE).result(WAIT_S)
    assert queued.backend.calls["extents"] == 1


def test_the_next_batch_is_launched_while_one_is_in_flight(backend: TestDevice) -> None:
    queued = Queued(backend, max_batch=2)
    futures = [queued.submit(n) for n in range(1, 9)]
    queued.open()
    assert [value(future) for future in [queued.first, *futures]] == list(range(9))
    assert backend.most_tickets == 2
    assert len(backend.batches) == 5
    queued.queue.close()


def test_without_a_device_nothing_is_in_flight() -> None:
    backend = CpuBackend()
    queue = RenderQueue(Device(backend, 70), 10, 8)
    rendered = queue.render(frame(5), STORED, Priority.INTERACTIVE).result(WAIT_S)
    assert (int(rendered.picture.pixels[0, 0]), rendered.picture.backend, rendered.upload_ms) == (5, "cpu", 0)
    queue.close()


def test_a_full_queue_refuses_at_once(backend: TestDevice) -> None:
    queued = Queued(backend, capacity=2)
    waiting = [queued.submit(n) for n in (1, 2)]
    for priority in Priority:
        with pytest.raises(Overloaded) as caught:
            queued.submit(3, priority)
    assert caught.value.retry_after_s >= 1
    waiting[0].cancel()
    last = queued.submit(4)
    queued.open()
    assert value(last) == 4
    queued.queue.close()


def test_in_a_full_queue_the_youngest_of_the_least_urgent_gives_its_place_to_a_more_urgent_one(
    backend: TestDevice,
) -> None:
    queued = Queued(backend, capacity=3)
    older, younger = (queued.submit(n, Priority.PREFETCH) for n in (1, 2))
    thumbnail = queued.submit(3, Priority.THUMBNAIL)
    urgent = queued.submit(4)
    with pytest.raises(Overloaded):
        younger.result(0)
    with pytest.raises(Overloaded):
        queued.submit(5, Priority.PREFETCH)
    queued.open()
    assert [value(future) for future in (urgent, thumbnail, older)] == [4, 3, 1]
    queued.queue.close()


def test_what_nobody_waits_for_is_never_uploaded(queued: Queued) -> None:
    gone = queued.submit(1)
    assert gone.cancel()
    stays = queued.submit(2)
    queued.open()
    assert value(stays) == 2
    assert queued.backend.batches == [[0], [2]]
    assert queued.backend.uploads == 2


def test_a_task_that_cannot_be_prepared_fails_alone(queued: Queued) -> None:
    beyond = View(stage=Stage.STORED, region=Region(0, 0, 9, 9))
    bad, good = queued.submit(1, view=beyond), queued.submit(2)
    queued.open()
    with pytest.raises(InvalidRegion):
        bad.result(WAIT_S)
    assert value(good) == 2


def test_a_frame_that_is_nowhere_is_said_to_be_gone_and_the_others_are_rendered(queued: Queued) -> None:
    nowhere = frame(1)
    nowhere.samples = None
    bad, good = queued.queue.render(nowhere, STORED, Priority.INTERACTIVE), queued.submit(2)
    queued.open()
    with pytest.raises(Gone):
        bad.result(WAIT_S)
    assert value(good) == 2


def test_a_batch_of_large_outputs_is_split(backend: TestDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.render_queue.MAX_BATCH_BYTES", 30)  # of 12 each
    queued = Queued(backend)
    futures = [queued.submit(n) for n in range(1, 6)]
    queued.open()
    assert [value(future) for future in [queued.first, *futures]] == [0, 1, 2, 3, 4, 5]
    assert backend.batches == [[0], [1, 2], [3, 4], [5]]
    assert backend.most_tickets == 2
    queued.queue.close()


def test_frames_of_many_requests_are_decoded_in_one_call(queued: Queued) -> None:
    frames = {n: frame(n) for n in (1, 2, 99, 3)}
    for each in frames.values():
        each.samples = None
    render = queued.submit(50)
    futures = {n: queued.queue.decode(f, codestream(n), Priority.INTERACTIVE) for n, f in frames.items()}
    queued.open()
    assert {n: future.result(WAIT_S).on_device for n, future in futures.items()} == {
        1: True,
        2: True,
        99: False,
        3: True,
    }
    assert queued.backend.calls["decode"] == 1
    assert value(render) == 50
    assert value(queued.queue.render(frames[2], STORED, Priority.INTERACTIVE)) == 2
    assert queued.backend.uploads == 2  # 0 and 50: what was decoded there is there
    assert (queued.device.counts.decoded, queued.device.counts.refused) == (3, 1)


def test_a_picture_does_not_wait_for_the_decoding_of_others(backend: TestDevice) -> None:
    seen: list[bool] = []

    def slow(stream: Codestream) -> Any:
        seen.append(picture.done())
        return decoder(stream)

    backend.decoder = slow
    queued = Queued(backend)
    picture = queued.submit(1)
    decoding = queued.queue.decode(frame(2), codestream(2), Priority.PREFETCH)
    queued.open()
    assert decoding.result(WAIT_S).on_device
    assert seen == [True]
    queued.queue.close()


def test_memory_that_a_batch_in_flight_holds_is_waited_for() -> None:
    backend = TestDevice(memory_bytes=10 * 12, decoder=decoder)
    queued = Queued(backend, max_batch=8)
    futures = [queued.submit(n) for n in range(1, 33)]
    queued.open()
    assert [future.result(WAIT_S).picture.backend for future in futures] == ["cuda"] * 32
    assert queued.device.counts.out_of_memory > 0
    queued.queue.close()


def test_an_urgent_request_hurries_a_decoding_that_a_prefetch_queued(backend: TestDevice) -> None:
    order: list[int] = []

    def noting(stream: Codestream) -> Any:
        order.append(stream.data[0])
        return decoder(stream)

    backend.decoder = noting
    queued = Queued(backend, max_batch=1)
    futures = [queued.queue.decode(frame(n), codestream(n), Priority.PREFETCH) for n in (1, 2, 3)]
    queued.queue.promote(futures[2], Priority.INTERACTIVE)
    queued.open()
    for future in futures:
        assert future.result(WAIT_S).on_device
    assert order == [3, 1, 2]
    queued.queue.close()


def test_closing_finishes_what_flies_cancels_what_waits_and_refuses_more(backend: TestDevice) -> None:
    queued = Queued(backend)
    waiting = queued.submit(1)
    closer = threading.Thread(target=queued.queue.close)
    closer.start()
    with pytest.raises(CancelledError):
        waiting.result(WAIT_S)
    queued.open()
    closer.join(WAIT_S)
    assert value(queued.first) == 0
    with pytest.raises(Overloaded, match="shutting down"):
        queued.submit(2)


def test_what_nobody_foresaw_reaches_those_who_wait_and_the_thread_lives_on(
    queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(queued.device, "prepare", lambda works: 1 / 0)
        broken = queued.submit(1)
        queued.open()
        with pytest.raises(ZeroDivisionError):
            broken.result(WAIT_S)
    assert value(queued.submit(2)) == 2


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
