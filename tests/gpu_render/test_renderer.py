"""Renderer: one load for all who ask, urgency, changed files, dropped work. A gated archive stands in for disks."""

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from gpu_render import prove
from gpu_render.archive import FrameRecord
from gpu_render.decode.device import DevicePlan
from gpu_render.decode.proof import ProofTable
from gpu_render.errors import BadRequest, CorruptPixelData, NotFound, TooLarge
from gpu_render.frame import EncodedFrame, Geometry, PixelLayout, Presentation, RenderedFrame, Window
from gpu_render.kept import KeptPicture
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.view import Region, Stage, View
from gpu_render.workers import WorkerPool
from kernels import Codestream, RenderJob
from kernels.cpu import CpuBackend
from tests.data import EXPLICIT_LE, RLE
from tests.devices import TestDevice, lost, out_of_memory, refused

pytestmark = pytest.mark.anyio
LAYOUT = PixelLayout(2, 3, 1, 16, 16, 15, 0, "MONOCHROME2")
PRESENTATION = Presentation(voi=(Window(3, 6),))
STORED = View(stage=Stage.STORED)
WAIT_S = 20


class GatedArchive:
    """Frames whose first pixel is their frame number; ``fetch`` notes its caller and waits for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.fetched: list[int] = []
        self.generation = 0
        self.layout = LAYOUT
        self.error: Exception | None = None
        self.added = 0
        self.in_memory: set[int] = set()
        self.syntax = "1.2.840.10008.1.2.1"

    def fetch_now(self, ref: FrameRef, is_wanted: Callable[[FrameRecord], bool]) -> EncodedFrame | None:
        known = FrameRecord(ref, 1, 1, 1, None, "", self.syntax, self.layout, PRESENTATION, Geometry(), "v1")
        return self.fetch(ref) if ref.frame_number in self.in_memory and is_wanted(known) else None

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        self.fetched.append(ref.frame_number)
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        data = (np.arange(6, dtype="<u2") + ref.frame_number + self.added).tobytes()
        return EncodedFrame(ref, self.syntax, self.layout, PRESENTATION, data, "v1")


def frame(number: int) -> FrameRef:
    return FrameRef("1.2", "1.3", "1.4", number)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def archive() -> GatedArchive:
    return GatedArchive()


@pytest.fixture
async def renderer(archive: GatedArchive) -> AsyncIterator[Renderer]:
    with WorkerPool(1) as pool:
        renderer = Renderer(archive, CpuBackend(), pool, Settings(workers=1))
        yield renderer
        archive.gate.set()
        await asyncio.to_thread(renderer.close)


async def entered(archive: GatedArchive, count: int) -> None:
    """Until ``count`` more fetches are inside the archive."""
    for _ in range(count):
        assert await asyncio.to_thread(archive.entered.acquire, timeout=WAIT_S)


async def test_all_who_ask_at_once_share_one_read(renderer: Renderer, archive: GatedArchive) -> None:
    views = [STORED, View(), View(stage=Stage.MODALITY), View(window=Window(2, 4)), STORED]
    tasks = [asyncio.ensure_future(renderer.render(frame(1), view)) for view in views]
    await entered(archive, 1)
    archive.gate.set()
    answers = await asyncio.gather(*tasks)
    assert archive.fetched == [1]
    assert answers[0].pixels.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert answers[3].window == Window(2, 4)
    assert {answer.version for answer in answers} == {"v1"}
    assert {answer.backend for answer in answers} == {"none", "cpu"}


async def test_steps_are_timed_where_they_happened(renderer: Renderer, archive: GatedArchive) -> None:
    archive.gate.set()
    cold = await renderer.render(frame(1), View())
    warm = await renderer.render(frame(1), View())
    assert {"queue", "read", "decode", "upload", "render", "download"} <= set(cold.timings)
    assert not {"read", "decode"} & set(warm.timings)
    assert warm.timings["upload"] == 0
    assert all(value >= 0 for value in (*cold.timings.values(), *warm.timings.values()))


async def test_an_urgent_request_hurries_a_load_that_a_less_urgent_one_queued(
    renderer: Renderer, archive: GatedArchive
) -> None:
    people = [asyncio.ensure_future(renderer.render(frame(n), STORED)) for n in (21, 22, 23)]
    await entered(archive, 3)  # workers + 2
    tasks = [asyncio.ensure_future(renderer.render(frame(n), STORED, Priority.THUMBNAIL)) for n in range(1, 9)]
    urgent = asyncio.ensure_future(renderer.render(frame(8), STORED, Priority.INTERACTIVE))
    await asyncio.sleep(0.05)
    archive.gate.set()
    await asyncio.gather(urgent, *people, *tasks)
    assert sorted(archive.fetched) == [*range(1, 9), 21, 22, 23]
    assert archive.fetched.index(8) in (3, 4)


async def test_threads_stay_free_for_what_a_person_waits_for(renderer: Renderer, archive: GatedArchive) -> None:
    tasks = [asyncio.ensure_future(renderer.render(frame(n), STORED, Priority.THUMBNAIL)) for n in range(1, 9)]
    await entered(archive, 1)
    tasks += [asyncio.ensure_future(renderer.render(frame(n), STORED)) for n in (21, 22)]
    await entered(archive, 2)
    assert set(archive.fetched[1:]) == {21, 22}
    archive.gate.set()
    await asyncio.gather(*tasks)


async def test_prefetch_waits_in_a_line_of_its_own(renderer: Renderer, archive: GatedArchive) -> None:
    tasks = [asyncio.ensure_future(renderer.render(frame(n), STORED, Priority.PREFETCH)) for n in range(1, 9)]
    await entered(archive, 1)
    assert renderer.waiting == (0, 0)
    assert renderer.figures()["prefetches_waiting"] == 7
    for task in tasks[4:]:
        task.cancel()
    await asyncio.sleep(0.05)
    assert renderer.figures()["prefetches_waiting"] == 3
    archive.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert archive.fetched == [1, 2, 3, 4]


async def test_nobody_waits_long_for_the_end_of_a_prefetch_that_decodes_in_the_background(
    renderer: Renderer, archive: GatedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_render.renderer.BEHIND_S", 0.0)
    prefetch = asyncio.ensure_future(renderer.render(frame(1), STORED, Priority.PREFETCH))
    await entered(archive, 1)
    renderer._behind.add(frame(1))
    urgent = asyncio.ensure_future(renderer.render(frame(1), STORED))
    await entered(archive, 1)
    archive.gate.set()
    answers = await asyncio.gather(prefetch, urgent)
    assert archive.fetched == [1, 1]
    assert [answer.pixels[0, 0] for answer in answers] == [1, 1]
    assert len(renderer.cache) == 1


async def test_work_that_nobody_waits_for_is_never_read(renderer: Renderer, archive: GatedArchive) -> None:
    busy = [asyncio.ensure_future(renderer.render(frame(n), STORED)) for n in (1, 2, 3)]
    await entered(archive, 3)
    gone = asyncio.ensure_future(renderer.render(frame(9), STORED))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    archive.gate.set()
    await asyncio.gather(*busy)
    assert (await renderer.render(frame(4), STORED)).pixels[0, 0] == 4
    assert 9 not in archive.fetched
    assert renderer.waiting == (0, 0)


async def test_nothing_is_kept_of_work_that_is_dropped_before_it_begins(
    renderer: Renderer, archive: GatedArchive
) -> None:
    busy = [asyncio.ensure_future(renderer.render(frame(n), STORED)) for n in (1, 2, 3)]
    await entered(archive, 3)
    gone = asyncio.ensure_future(renderer.render(frame(9), STORED, Priority.THUMBNAIL))
    asyncio.get_running_loop().call_soon(gone.cancel)  # behind the request's first step, before its load's
    await asyncio.gather(gone, return_exceptions=True)
    archive.gate.set()
    await asyncio.gather(*busy)
    assert not renderer._urgency
    assert not renderer._loading
    assert sorted(archive.fetched) == [1, 2, 3]


async def test_a_changed_file_empties_the_cache(renderer: Renderer, archive: GatedArchive) -> None:
    archive.gate.set()
    await renderer.render(frame(1), STORED)
    await renderer.render(frame(1), STORED)
    archive.generation += 1
    await renderer.render(frame(1), STORED)
    assert archive.fetched == [1, 1]


async def test_a_failed_read_is_told_to_all_and_tried_again(renderer: Renderer, archive: GatedArchive) -> None:
    archive.error = CorruptPixelData("truncated")
    archive.gate.set()
    for _ in range(2):
        with pytest.raises(CorruptPixelData, match="truncated"):
            await renderer.render(frame(1), STORED)
    archive.error = None
    assert (await renderer.render(frame(1), STORED)).pixels.shape == (2, 3)


async def test_a_frame_above_the_limit_is_refused_before_it_is_decoded(archive: GatedArchive) -> None:
    archive.gate.set()
    with WorkerPool(1) as pool:
        renderer = Renderer(archive, CpuBackend(), pool, Settings(workers=1, max_frame_bytes=11))
        with pytest.raises(TooLarge, match="12 bytes"):
            await renderer.render(frame(1), STORED)
        await asyncio.to_thread(renderer.close)


@pytest.mark.parametrize("view", [STORED, View(stage=Stage.STORED, region=Region(0, 0, 3, 1))])
async def test_an_answer_cannot_change_the_cached_frame(renderer: Renderer, archive: GatedArchive, view: View) -> None:
    archive.gate.set()
    answer: Any = await renderer.render(frame(1), view)
    with pytest.raises(ValueError, match="read-only"):
        answer.pixels[0, 0] = 9


# -- pictures that need no thread, or not even rendering ----------------------------------------------------------


class Counted(CpuBackend):
    """Counts the pictures that it renders, by thread."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        self.threads += [threading.current_thread().name] * len(jobs)
        return super().launch(jobs)


@pytest.fixture
async def counted(archive: GatedArchive) -> AsyncIterator[Renderer]:
    archive.gate.set()
    with WorkerPool(1) as pool:
        renderer = Renderer(archive, Counted(), pool, Settings(workers=1))
        yield renderer
        await asyncio.to_thread(renderer.close)


def rendered_by(renderer: Renderer) -> list[str]:
    return cast(Counted, renderer.backend).threads


async def test_a_first_picture_is_rendered_by_the_thread_that_decodes(counted: Renderer) -> None:
    for number, view in enumerate((View(), View(window=Window(2, 4)), View(viewport=(4, 4)), View(Stage.MODALITY)), 1):
        expected = await counted.render(frame(99), view)
        answer = await counted.render(frame(number), view)
        assert answer.pixels.shape == expected.pixels.shape
        assert answer.window == expected.window
        assert {"queue", "read", "decode", "upload", "render", "download"} == set(answer.timings)
    assert {name[:4] for name in rendered_by(counted)[1::2][:2]} == {"load"}


async def test_another_window_of_a_frame_that_is_held_needs_no_thread(counted: Renderer) -> None:
    await counted.decoded(frame(1))
    assert counted.at_hand(frame(2), View()) is None
    for width in range(2, 20):
        answer = counted.at_hand(frame(1), View(window=Window(3, width)))
        assert answer is not None
        assert answer.window == Window(3, width)
        assert set(answer.timings) == {"queue", "upload", "render", "download"}
    assert set(rendered_by(counted)) == {threading.current_thread().name}


@pytest.mark.parametrize("view", [STORED, View(), View(window=Window(2, 4))])
async def test_a_frame_in_memory_is_read_without_a_thread(counted: Renderer, view: View) -> None:
    archive = cast(GatedArchive, counted.archive)
    assert counted.read_now(frame(1), view) is None
    assert archive.fetched == []
    archive.in_memory = {1}
    answer = counted.read_now(frame(1), view)
    assert answer is not None
    assert set(rendered_by(counted)) <= {threading.current_thread().name}
    assert counted.read_now(frame(1), view) is None  # it is held now
    assert counted.at_hand(frame(1), view) is not None
    assert archive.fetched == [1]
    counted.cache.clear()
    expected = await counted.render(frame(1), view)
    np.testing.assert_array_equal(answer.pixels, expected.pixels)
    assert set(answer.timings) == set(expected.timings)
    assert (answer.window, answer.decoder, answer.version) == (expected.window, expected.decoder, expected.version)
    assert counted.cache.misses == 2


async def test_what_is_not_quick_to_read_is_left_to_threads(counted: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cast(GatedArchive, counted.archive)
    archive.in_memory = {1}
    for view in (View(viewport=(4, 4)), View(stage=Stage.MODALITY)):
        assert counted.read_now(frame(1), view) is None
    archive.syntax = RLE
    assert counted.read_now(frame(1), STORED) is None
    archive.syntax = EXPLICIT_LE
    monkeypatch.setattr("gpu_render.renderer.QUICK_BYTES", 11)
    assert counted.read_now(frame(1), STORED) is None
    assert archive.fetched == []


async def test_a_frame_that_is_being_loaded_is_not_read_once_more(counted: Renderer) -> None:
    archive = cast(GatedArchive, counted.archive)
    archive.in_memory = {1}
    archive.gate.clear()
    loading = asyncio.ensure_future(counted.render(frame(1), STORED))
    await asyncio.sleep(0.05)
    assert counted.read_now(frame(1), STORED) is None
    archive.gate.set()
    await loading
    assert archive.fetched == [1]


async def test_what_is_wrong_with_a_frame_in_memory_is_said_by_render(counted: Renderer) -> None:
    archive = cast(GatedArchive, counted.archive)
    archive.in_memory = {1}
    archive.layout = replace(LAYOUT, rows=3)  # more than there is
    assert counted.read_now(frame(1), STORED) is None
    with pytest.raises(CorruptPixelData):
        await counted.render(frame(1), STORED)
    assert len(counted.cache) == 0


async def test_what_takes_longer_is_left_to_threads(counted: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    await counted.decoded(frame(1))
    for view in (View(viewport=(4, 4)), View(stage=Stage.MODALITY)):
        assert counted.at_hand(frame(1), view) is None
    monkeypatch.setattr("gpu_render.renderer.QUICK_SAMPLES", 5)
    assert counted.at_hand(frame(1), View()) is None
    assert (await counted.render(frame(1), View())).window == Window(3, 6)
    assert rendered_by(counted) == ["device"]


async def test_what_is_wrong_with_a_request_is_said_by_render(counted: Renderer) -> None:
    await counted.decoded(frame(1))
    for view in (View(region=Region(0, 0, 9, 9)), View(voi_index=7)):
        assert counted.at_hand(frame(1), view) is None
        with pytest.raises(BadRequest):
            await counted.render(frame(1), view)
        with pytest.raises(BadRequest):
            await counted.render(frame(2), view)
        counted.cache.clear()


@pytest.mark.parametrize("view", [View(), View(viewport=(5, 5)), View(stage=Stage.MODALITY)])
async def test_a_picture_is_rendered_twice_at_most(counted: Renderer, view: View) -> None:
    answers = [await counted.render(frame(1), view) for _ in range(6)]
    assert len(rendered_by(counted)) == 2
    assert {(a.pixels.tobytes(), a.window, a.version, a.backend, a.decoder) for a in answers} == {
        (answers[0].pixels.tobytes(), answers[0].window, "v1", "cpu", "native")
    }
    with pytest.raises(ValueError, match="read-only"):
        answers[5].pixels[0, 0] = 9
    assert await counted.render(frame(1), replace(view, viewport=(3, 3)))
    assert len(rendered_by(counted)) == 3
    assert counted.figures()["host_cache_frames"] == 1


async def test_a_window_drag_keeps_no_pictures(counted: Renderer) -> None:
    for width in range(2, 52):
        await counted.render(frame(1), View(window=Window(3, width)))
    assert len(counted.cache) == 1
    assert len(rendered_by(counted)) == 50


async def test_a_kept_picture_outlives_its_frame_but_not_its_file(counted: Renderer, archive: GatedArchive) -> None:
    for _ in range(3):
        await counted.render(frame(1), View())
    counted.cache.drop(frame(1))
    assert (await counted.render(frame(1), View())).version == "v1"
    assert archive.fetched == [1]
    archive.generation += 1
    archive.added = 100
    answer = await counted.render(frame(1), View())
    assert archive.fetched == [1, 1]
    assert answer.pixels.min() == 255  # and not 42, as before
    assert len(rendered_by(counted)) == 3


@pytest.mark.parametrize("view", [View(), View(viewport=(5, 5))])
async def test_a_picture_of_a_file_that_changed_meanwhile_is_not_kept(
    counted: Renderer, archive: GatedArchive, view: View
) -> None:
    await counted.render(frame(1), view)
    archive.gate.clear()
    counted.cache.drop(frame(1))
    late = asyncio.ensure_future(counted.render(frame(1), view))
    await entered(archive, 2)
    archive.generation += 1
    archive.gate.set()
    await late
    archive.added = 100
    assert (await counted.render(frame(1), view)).pixels.min() == 255


async def test_nothing_is_kept_without_a_budget(archive: GatedArchive) -> None:
    archive.gate.set()
    with WorkerPool(1) as pool:
        renderer = Renderer(archive, Counted(), pool, Settings(workers=1, cache_bytes=0))
        for _ in range(4):
            await renderer.render(frame(1), View())
        assert (len(renderer.cache), len(rendered_by(renderer))) == (0, 4)
        await asyncio.to_thread(renderer.close)


# -- with a device ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def over(archive: GatedArchive, backend: TestDevice, **settings: Any) -> AsyncIterator[Renderer]:
    """A renderer over a device, whose frames may all be decoded there where ``plans`` says so."""
    archive.gate.set()
    with WorkerPool(1) as pool:
        renderer = Renderer(archive, backend, pool, Settings(workers=1, **settings))
        yield renderer
        await asyncio.to_thread(renderer.close)


def pixels_of(number: int) -> list[list[int]]:
    return (np.arange(6) + number).reshape(2, 3).tolist()


async def test_a_window_drag_over_a_resident_frame_uploads_nothing(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend) as renderer:
        for width in range(2, 52):
            answer = await renderer.render(frame(1), View(window=Window(3, width)))
            assert answer.backend == "cuda"
        figures = renderer.figures()
    assert (figures["uploads_total"], figures["launches_total"], figures["downloads_total"]) == (1, 50, 50)
    assert (backend.uploads, archive.fetched) == (1, [1])


async def test_a_kept_picture_of_a_device_is_no_part_of_its_batch(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend) as renderer:
        answers = [await renderer.render(frame(1), View()) for _ in range(5)]
        assert renderer.figures()["launches_total"] == 2
        kept = renderer.cache.kept((frame(1), View()))
        assert isinstance(kept, KeptPicture)
        assert kept.pixels.flags.owndata
        assert all(answer.pixels.tolist() == answers[0].pixels.tolist() for answer in answers)


async def test_a_frame_that_the_host_let_go_of_is_still_on_the_device(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend, cache_bytes=1024) as renderer:  # one frame
        for number in (1, 2, 3, 1, 2, 3):
            answer = await renderer.render(frame(number), View(stage=Stage.STORED, region=Region(0, 0, 3, 2)))
            assert answer.pixels.tolist() == pixels_of(number)
        assert len(renderer.cache) == 1
        assert (await renderer.render(frame(1), STORED)).pixels.tolist() == pixels_of(1)
    assert archive.fetched == [1, 2, 3]
    assert backend.uploads == 3


async def test_a_frame_that_neither_has_is_read_again(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend, cache_bytes=1024) as renderer:
        for number in (1, 2):
            await renderer.render(frame(number), View())
        renderer.device.residency.clear()
        assert (await renderer.render(frame(1), STORED)).pixels.tolist() == pixels_of(1)
    assert archive.fetched == [1, 2, 1]


async def test_a_device_lost_in_flight_is_not_noticed_by_those_who_wait(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend, cache_bytes=1024) as renderer:
        for number in (1, 2, 3, 4):
            await renderer.render(frame(number), View())
        backend.fail("launch", lost())
        views = [View(stage=Stage.STORED, region=Region(0, 0, 3, 2))] * 4
        answers = await asyncio.gather(*(renderer.render(frame(n), v) for n, v in enumerate(views, 1)))
        assert [answer.pixels.tolist() for answer in answers] == [pixels_of(n) for n in (1, 2, 3, 4)]
        assert {answer.backend for answer in answers} == {"cpu"}
        assert (renderer.backend.name, renderer.device.lost) == ("cpu", "CUDA error 700")
        figures = renderer.figures()
    assert (figures["device_lost"], figures["device_faults_total"], figures["rendered_on_cpu_total"]) == (1, 1, 4)
    assert len(archive.fetched) > 4  # of most, only the device had a copy


async def test_a_changed_file_is_not_served_from_the_device(archive: GatedArchive) -> None:
    backend = TestDevice()
    async with over(archive, backend) as renderer:
        await renderer.render(frame(1), View())
        archive.generation += 1
        await renderer.render(frame(1), View())
    assert archive.fetched == [1, 1]
    assert backend.uploads == 2


class Decoding:
    """Lets the test's device decode every frame; counts how often it is asked for a plan."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans = 0
        monkeypatch.setattr("gpu_render.renderer.plan", self.plan)

    def plan(self, encoded: EncodedFrame, table: object) -> DevicePlan:
        self.plans += 1
        layout = encoded.layout
        codestream = Codestream(bytes(encoded.data), "jpeg2000", layout.shape, layout.dtype, 16, False, 0, 0, 65535)
        return DevicePlan(codestream, layout, "test-codec", next(iter(prove.kinds())))

    @staticmethod
    def decoder(codestream: Codestream) -> Any:
        return np.frombuffer(codestream.data, codestream.dtype).reshape(codestream.shape).copy()


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    return Decoding(monkeypatch)


@contextlib.asynccontextmanager
async def decoding_over(archive: GatedArchive, backend: TestDevice, **settings: Any) -> AsyncIterator[Renderer]:
    async with over(archive, backend, **settings) as renderer:
        renderer._proven = cast(ProofTable, [1])  # anything that is true
        yield renderer


async def test_frames_decoded_on_the_device_never_cross_the_bus(archive: GatedArchive, decoding: Decoding) -> None:
    backend = TestDevice(decoder=decoding.decoder)
    async with decoding_over(archive, backend) as renderer:
        answers = await asyncio.gather(*(renderer.render(frame(n), STORED) for n in range(1, 9)))
        again = await renderer.render(frame(3), View())
    assert [answer.pixels.tolist() for answer in answers] == [pixels_of(n) for n in range(1, 9)]
    assert {answer.decoder for answer in (*answers, again)} == {"test-codec"}
    assert {"queue", "read", "decode", "upload", "render", "download"} <= set(answers[0].timings)
    assert (backend.uploads, decoding.plans) == (0, 8)
    assert backend.calls["decode"] <= 8


async def test_what_the_device_refuses_the_cpu_decodes(archive: GatedArchive, decoding: Decoding) -> None:
    backend = TestDevice(decoder=lambda codestream: None)
    async with decoding_over(archive, backend) as renderer:
        answer = await renderer.render(frame(1), STORED)
        figures = renderer.figures()
    assert (answer.pixels.tolist(), answer.decoder) == (pixels_of(1), "native")
    assert (figures["decode_refused_by_device_total"], figures["decoded_on_device_total"]) == (1, 0)
    assert archive.fetched == [1]


async def test_a_frame_decoded_on_a_device_that_is_lost_is_read_again_by_the_cpu(
    archive: GatedArchive, decoding: Decoding
) -> None:
    backend = TestDevice(decoder=decoding.decoder)
    backend.fail("collect", lost())
    async with decoding_over(archive, backend) as renderer:
        answer = await renderer.render(frame(1), STORED)
        assert (answer.pixels.tolist(), answer.decoder) == (pixels_of(1), "native")
        second = await renderer.render(frame(2), STORED)
        assert (second.pixels.tolist(), second.decoder) == (pixels_of(2), "native")
    assert archive.fetched == [1, 1, 2]
    assert decoding.plans == 1


async def test_frames_that_drive_each_other_out_are_all_answered(archive: GatedArchive, decoding: Decoding) -> None:
    backend = TestDevice(memory_bytes=60, decoder=decoding.decoder)  # room for three
    async with decoding_over(archive, backend, max_batch=32) as renderer:
        for _ in range(3):
            answers = await asyncio.gather(*(renderer.render(frame(n), STORED) for n in range(1, 21)))
            assert [answer.pixels.tolist() for answer in answers] == [pixels_of(n) for n in range(1, 21)]
        assert renderer.device.lost is None


async def test_a_frame_larger_than_the_devices_budget_is_not_planned_for_it(
    archive: GatedArchive, decoding: Decoding
) -> None:
    backend = TestDevice(memory_bytes=10, decoder=decoding.decoder)
    async with decoding_over(archive, backend) as renderer:
        assert (await renderer.render(frame(1), STORED)).pixels.tolist() == pixels_of(1)
    assert decoding.plans == 0


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_in_whatever_order_every_picture_is_right(
    archive: GatedArchive, decoding: Decoding, seed: int
) -> None:
    """Small budgets, failing calls, changed files, callers that go, and at last perhaps a lost device."""
    chance = random.Random(seed)

    def decoder(codestream: Codestream) -> Any:
        return None if chance.random() < 0.2 else decoding.decoder(codestream)

    backend = TestDevice(memory_bytes=chance.choice([10, 40, 100, 400, 4000]), decoder=decoder)
    settings = {"cache_bytes": chance.choice([0, 1024, 5000, 100_000]), "max_batch": chance.choice([1, 3, 32])}
    views = (STORED, View(stage=Stage.STORED, region=Region(0, 0, 3, 2)))

    async def ask(renderer: Renderer, number: int) -> None:
        asked = asyncio.ensure_future(
            renderer.render(frame(number), chance.choice(views), chance.choice(list(Priority)))
        )
        if chance.random() < 0.1:
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        else:
            assert (await asyncio.wait_for(asked, WAIT_S)).pixels.tolist() == pixels_of(number)

    async with decoding_over(archive, backend, **settings) as renderer:
        for number in range(20):
            for method in ("put", "launch", "collect", "decode"):
                if chance.random() < 0.15:
                    backend.fail(method, chance.choice([out_of_memory(), refused(), RuntimeError("any other"), None]))
            if number > 15 and chance.random() < 0.2:
                backend.fail(chance.choice(["put", "launch", "collect", "decode", "trim"]), lost())
            archive.generation += chance.random() < 0.1
            await asyncio.gather(*(ask(renderer, chance.randint(1, 25)) for _ in range(40)))
        residency, is_lost = renderer.device.residency, renderer.device.lost is not None
        assert residency.nbytes <= residency.budget
    gc.collect()
    assert is_lost or backend.used == residency.nbytes  # nothing else holds memory of the device


async def test_plain_frames_are_read_together_and_past_the_cache(renderer: Renderer, archive: GatedArchive) -> None:
    archive.gate.set()
    answers = await renderer.read([frame(2), frame(1)], Priority.THUMBNAIL)
    assert archive.fetched == [2, 1]
    assert len(renderer.cache) == 0
    for number, answer in zip((2, 1), answers, strict=True):
        single = await renderer.render(frame(number), STORED)
        assert isinstance(answer, RenderedFrame)
        assert np.array_equal(answer.pixels, single.pixels)
        told = ("stage", "window", "decoder", "backend", "version")
        assert [getattr(answer, name) for name in told] == [getattr(single, name) for name in told]
        assert not answer.pixels.flags.writeable


async def test_what_is_not_plain_is_not_read_and_errors_stand_in_a_frames_place(
    renderer: Renderer, archive: GatedArchive
) -> None:
    archive.gate.set()
    archive.layout, archive.added = replace(LAYOUT, bits_stored=12, high_bit=11), 0x1000  # a bit that is to be masked
    assert await renderer.read([frame(1)], Priority.THUMBNAIL) == [None]
    archive.layout, archive.error = LAYOUT, NotFound("gone")
    assert await renderer.read([frame(1)], Priority.THUMBNAIL) == [archive.error]


@pytest.mark.parametrize(
    ("bits", "high_bit", "signed", "added", "first", "is_bare"),
    [
        (12, 11, 0, 0, 1, True),
        (12, 11, 0, 0x0FF9, 0x0FFA, True),  # the last of the six values is the highest of 12 bits
        (12, 11, 0, 0x0FFA, 0x0FFB, False),  # the last one has a bit above
        (12, 11, 0, 0x1000, 1, False),
        (12, 11, 1, 0xFFFC, -3, True),  # the sign fills the container
        (12, 11, 1, 0xF7FF, -2048, True),
        (12, 11, 1, 0xF7FE, 2047, False),  # below -2048: bits that are not stored
        (12, 11, 1, 0x0FFC, -3, False),  # the sign does not fill the container
        (12, 15, 0, 0x0010, 1, False),  # to be moved
        (16, 15, 0, 0xFFF0, 0xFFF1, True),
    ],
)
async def test_stored_values_are_the_samples_where_no_other_bit_is_set(
    renderer: Renderer,
    archive: GatedArchive,
    bits: int,
    high_bit: int,
    signed: int,
    added: int,
    first: int,
    is_bare: bool,
) -> None:
    archive.gate.set()
    archive.layout = replace(LAYOUT, bits_stored=bits, high_bit=high_bit, pixel_representation=signed)
    archive.added = added
    answers = [await renderer.render(frame(1), STORED) for _ in range(2)]
    (read,) = await renderer.read([frame(1)], Priority.THUMBNAIL)
    held = renderer.held(frame(1))
    assert held is not None
    assert isinstance(held.samples, np.ndarray)
    for answer in answers:
        assert answer.pixels[0, 0] == first
        assert np.shares_memory(answer.pixels, held.samples) == is_bare
        assert answer.backend == ("none" if is_bare else "cpu")
        assert not answer.pixels.flags.writeable or not is_bare
    assert (read is not None) == is_bare
    if isinstance(read, RenderedFrame):
        assert np.array_equal(read.pixels, answers[0].pixels)


async def test_stored_values_of_twelve_bits_need_no_thread(renderer: Renderer, archive: GatedArchive) -> None:
    archive.gate.set()
    archive.layout, archive.in_memory = replace(LAYOUT, bits_stored=12, high_bit=11), {1, 2}
    first = renderer.read_now(frame(1), STORED)
    assert first is not None
    assert first.backend == "none"
    again = renderer.at_hand(frame(1), STORED)
    assert again is not None
    assert again.pixels is first.pixels
    archive.added = 0x1000
    masked = renderer.read_now(frame(2), STORED)
    assert masked is not None
    assert masked.pixels[0, 0] == 2
