"""FrameCache: one load a key, a byte budget, cancelled loads."""

import asyncio
from dataclasses import dataclass

import pytest

from gpu_render.cache import FrameCache

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Blob:
    nbytes: int
    is_gone: bool = False
    leavings: int = 0

    def left(self) -> None:
        self.leavings += 1


class Loader:
    """Counts loads, and holds them until released."""

    def __init__(self, nbytes: int = 10, error: Exception | None = None) -> None:
        self.started = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self._nbytes = nbytes
        self._error = error

    async def __call__(self) -> Blob:
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._error:
            raise self._error
        return Blob(self._nbytes)


async def test_callers_of_one_key_share_one_load() -> None:
    cache: FrameCache[Blob] = FrameCache(100)
    loader = Loader()
    callers = [asyncio.ensure_future(cache.get("a", loader)) for _ in range(20)]
    await asyncio.sleep(0)
    loader.release.set()
    values = await asyncio.gather(*callers)
    assert loader.started == 1
    assert all(value is values[0] for value in values)
    assert await cache.get("a", loader) is values[0]
    assert (cache.hits, cache.misses, cache.nbytes, len(cache)) == (1, 20, 10, 1)


async def test_the_budget_is_kept_by_forgetting_the_least_recently_used() -> None:
    cache: FrameCache[Blob] = FrameCache(25)
    loader = Loader()
    loader.release.set()
    for key in ("a", "b"):
        await cache.get(key, loader)
    cache.peek("a")
    await cache.get("c", loader)
    assert cache.peek("b") is None
    assert cache.peek("a") is not None
    assert cache.nbytes == 20


async def test_a_value_above_the_budget_is_returned_but_not_kept() -> None:
    cache: FrameCache[Blob] = FrameCache(5)
    loader = Loader()
    loader.release.set()
    assert (await cache.get("a", loader)).nbytes == 10
    assert len(cache) == 0


async def test_a_failed_load_reaches_every_caller_and_is_tried_again() -> None:
    cache: FrameCache[Blob] = FrameCache(100)
    loader = Loader(error=ValueError("no"))
    loader.release.set()
    results = await asyncio.gather(*(cache.get("a", loader) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3
    with pytest.raises(ValueError, match="no"):
        await cache.get("a", loader)
    assert loader.started == 2


async def test_one_leaving_caller_does_not_disturb_the_others() -> None:
    cache: FrameCache[Blob] = FrameCache(100)
    loader = Loader()
    stays, leaves = (asyncio.ensure_future(cache.get("a", loader)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    loader.release.set()
    assert (await stays).nbytes == 10
    assert loader.cancelled == 0


async def test_a_load_nobody_waits_for_is_cancelled() -> None:
    cache: FrameCache[Blob] = FrameCache(100)
    loader = Loader()
    callers = [asyncio.ensure_future(cache.get("a", loader)) for _ in range(3)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await asyncio.sleep(0)
    assert loader.cancelled == 1
    again = asyncio.ensure_future(cache.get("a", loader))
    await asyncio.sleep(0)
    loader.release.set()
    assert (await again).nbytes == 10
    assert loader.started == 2


async def test_clear_keeps_nothing_that_is_being_loaded() -> None:
    cache: FrameCache[Blob] = FrameCache(100)
    old, new = Loader(1), Loader(2)
    first = asyncio.ensure_future(cache.get("a", old))
    await asyncio.sleep(0)
    cache.clear()
    second = asyncio.ensure_future(cache.get("a", new))
    await asyncio.sleep(0)
    old.release.set()
    assert (await first).nbytes == 1
    new.release.set()
    assert (await second).nbytes == 2
    value = cache.peek("a")
    assert value is not None
    assert value.nbytes == 2


async def test_values_are_told_that_they_leave() -> None:
    cache: FrameCache[Blob] = FrameCache(25)
    loader = Loader()
    loader.release.set()
    values = [await cache.get(key, loader) for key in ("a", "b", "c")]
    assert [value.leavings for value in values] == [1, 0, 0]
    cache.drop("b")
    cache.drop("b")
    assert [value.leavings for value in values] == [1, 1, 0]
    cache.clear()
    assert [value.leavings for value in values] == [1, 1, 1]
    assert (len(cache), cache.nbytes) == (0, 0)
    large = Loader(30)
    large.release.set()
    assert (await cache.get("d", large)).leavings == 1


async def test_a_value_that_is_gone_is_loaded_again() -> None:
    cache: FrameCache[Blob] = FrameCache(25)
    loader = Loader()
    loader.release.set()
    first = await cache.get("a", loader)
    first.is_gone = True
    assert cache.peek("a") is None
    second = await cache.get("a", loader)
    assert second is not first
    assert cache.peek("a") is second
    assert (loader.started, cache.nbytes, cache.hits) == (2, 10, 1)
