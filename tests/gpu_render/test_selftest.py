"""The service's test of itself: it waits for its turn, ends in time, and never passes over a wrong picture."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gpu_render import selftest
from gpu_render.errors import Overloaded, RenderError
from gpu_render.frame import EncodedFrame
from gpu_render.priority import Priority
from gpu_render.renderer import Renderer

pytestmark = pytest.mark.anyio

FRAMES = {uid: EncodedFrame(selftest._REF, uid, selftest.LAYOUT, selftest.PRESENTATION, b"") for uid in selftest.NAMES}


class FakeRenderer:
    """A renderer's turns and queue: a turn comes after ``turn_s``; pictures are ``pictures``, one after the other."""

    def __init__(self, *, turn_s: float = 0.0, pictures: tuple[int, ...] = (0,)) -> None:
        self.turns = self.queue = self
        self.pool, self.backend = object(), SimpleNamespace(unpacks=False)
        self._turn_s, self._pictures = turn_s, pictures
        self.in_turn = self.asked = 0

    @contextlib.asynccontextmanager
    async def prefetch(self) -> AsyncIterator[None]:
        await asyncio.sleep(self._turn_s)
        self.in_turn += 1
        yield
        self.in_turn -= 1

    def render(self, _frame: object, _view: object, priority: Priority) -> "Future[Any]":
        assert (self.in_turn, priority) == (1, Priority.PREFETCH)
        shade = self._pictures[self.asked % len(self._pictures)]
        self.asked += 1
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(picture=SimpleNamespace(pixels=np.full((2, 2), shade))))
        return future


@pytest.fixture(autouse=True)
def decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = SimpleNamespace(layout=selftest.LAYOUT, samples=np.zeros((512, 512), np.int16))
    monkeypatch.setattr(selftest, "decode", lambda *_, **__: decoded)


async def measure(fake: FakeRenderer) -> dict[str, selftest.Timed]:
    return await selftest.measure(cast(Renderer, fake), FRAMES)


async def test_every_transfer_syntax_is_measured_as_often() -> None:
    found = await measure(FakeRenderer())
    assert list(found) == list(FRAMES)
    for times in found.values():
        assert len(times.total_ms) == len(times.decode_ms) == len(times.render_ms) == selftest.ROUNDS
        np.testing.assert_allclose(np.add(times.decode_ms, times.render_ms), times.total_ms)


async def test_no_slice_is_begun_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "BEGIN_S", 0.2)
    fake = FakeRenderer(turn_s=0.15)
    found = await measure(fake)
    assert fake.asked == 2
    assert [len(times.total_ms) for times in found.values()] == [1, 1]
    assert max(found[next(iter(FRAMES))].total_ms) < 150, "waiting for a turn is not part of a slice's time"


async def test_a_service_without_a_moment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LIMIT_S", 0.1)
    begun_s = time.monotonic()
    with pytest.raises(Overloaded):
        await measure(FakeRenderer(turn_s=60))
    assert time.monotonic() - begun_s < 30


async def test_a_slice_that_does_not_end_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LIMIT_S", 0.3)
    monkeypatch.setattr(selftest, "TARGET_S", 0.05)
    monkeypatch.setattr(selftest, "ALARM_S", 0.1)
    monkeypatch.setattr(selftest, "decode", lambda *_, **__: time.sleep(0.6))
    found = await measure(FakeRenderer())
    ((uid, times),) = found.items()
    assert uid == next(iter(FRAMES))
    assert times.total_ms[0] >= 100
    assert times.decode_ms == []
    assert selftest.status_of(times.total_ms[0] / 1e3) == "alarm"


async def test_a_slice_that_was_broken_off_early_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LIMIT_S", 0.1)
    monkeypatch.setattr(selftest, "decode", lambda *_, **__: time.sleep(0.4))
    with pytest.raises(Overloaded):
        await measure(FakeRenderer())


async def test_two_pictures_of_the_same_voxels_fail() -> None:
    with pytest.raises(RenderError, match="different pictures"):
        await measure(FakeRenderer(pictures=(0, 0, 1)))
    assert await measure(FakeRenderer(pictures=(7,)))
