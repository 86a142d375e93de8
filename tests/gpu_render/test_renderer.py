"""Renderer: one load for all who ask, urgency, changed files, dropped work. A gated archive stands in for disks."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from gpu_render.archive import ArchiveStatus, FrameRecord, ImageRecord, SeriesManifest, StudyRecord
from gpu_render.errors import CorruptPixelData, TooLarge
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation, Window
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.view import Region, Stage, View
from gpu_render.workers import WorkerPool
from kernels.cpu import CpuBackend

pytestmark = pytest.mark.anyio
LAYOUT = PixelLayout(2, 3, 1, 16, 16, 15, 0, "MONOCHROME2")
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

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        self.fetched.append(ref.frame_number)
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        data = (np.arange(6, dtype="<u2") + ref.frame_number).tobytes()
        return EncodedFrame(ref, "1.2.840.10008.1.2.1", self.layout, Presentation(voi=(Window(3, 6),)), data, "v1")

    def describe(self, ref: FrameRef) -> FrameRecord:
        raise AssertionError("not asked for")

    def studies(self) -> tuple[StudyRecord, ...]:
        return ()

    def series(self, study_uid: str, series_uid: str) -> SeriesManifest:
        raise AssertionError("not asked for")

    def image(self, image_id: int) -> ImageRecord:
        raise AssertionError("not asked for")

    def image_id(self, sop_instance_uid: str) -> int:
        raise AssertionError("not asked for")

    def status(self) -> ArchiveStatus:
        raise AssertionError("not asked for")

    def close(self) -> None:
        pass


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


async def test_an_urgent_request_hurries_a_load_that_a_prefetch_queued(
    renderer: Renderer, archive: GatedArchive
) -> None:
    threads = 3  # workers + 2
    tasks = [asyncio.ensure_future(renderer.render(frame(n), STORED, Priority.PREFETCH)) for n in range(1, 9)]
    await entered(archive, threads)
    urgent = asyncio.ensure_future(renderer.render(frame(8), STORED, Priority.INTERACTIVE))
    await asyncio.sleep(0.05)
    archive.gate.set()
    await asyncio.gather(urgent, *tasks)
    assert sorted(archive.fetched) == list(range(1, 9))
    assert 8 in archive.fetched[threads : threads + 3]
    assert archive.fetched.index(8) < archive.fetched.index(7)


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
