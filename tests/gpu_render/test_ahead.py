"""Results in order, some ahead of whoever takes them, and never more than there is room for."""

import asyncio
import contextlib

import pytest

from gpu_render.ahead import Room, in_order
from gpu_render.errors import CorruptPixelData

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Bench:
    """Work that a test finishes by hand."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self._done: dict[int, asyncio.Future[str]] = {}

    def _future(self, item: int) -> "asyncio.Future[str]":
        return self._done.setdefault(item, asyncio.get_running_loop().create_future())

    async def work(self, item: int) -> str:
        self.begun.append(item)
        try:
            return await asyncio.shield(self._future(item))
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise

    def finish(self, *items: int) -> None:
        for item in items:
            self._future(item).set_result(f"result {item}")

    def fail(self, item: int, error: Exception) -> None:
        self._future(item).set_exception(error)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_results_come_in_order_whatever_is_done_first() -> None:
    bench = Bench()
    bench.finish(3, 2, 1, 0)
    stream = in_order(range(4), bench.work, lambda _: 1, Room(100))
    assert [pair async for pair in stream] == [(item, f"result {item}") for item in range(4)]


async def test_a_window_is_under_way_and_moves_when_a_result_was_taken() -> None:
    bench = Bench()
    async with contextlib.aclosing(in_order(range(9), bench.work, lambda _: 10, Room(1000), window_bytes=35)) as stream:
        bench.finish(0)
        assert await anext(stream) == (0, "result 0")
        await settled()
        assert bench.begun == [0, 1, 2]  # the one that is being taken counts
        bench.finish(1)
        assert await anext(stream) == (1, "result 1")
        await settled()
        assert bench.begun == [0, 1, 2, 3]


async def test_at_most_so_many_however_small() -> None:
    bench = Bench()
    async with contextlib.aclosing(in_order(range(9), bench.work, lambda _: 0, Room(10), most=4)) as stream:
        bench.finish(0)
        await anext(stream)
        assert len(bench.begun) == 4


async def test_one_is_always_under_way_even_above_window_and_room() -> None:
    bench = Bench()
    bench.finish(*range(3))
    room = Room(5)
    stream = in_order(range(3), bench.work, lambda _: 50, room, window_bytes=10)
    assert [item async for item, _ in stream] == [0, 1, 2]
    assert room.taken == 0


async def test_streams_share_the_room() -> None:
    first, second, room = Bench(), Bench(), Room(40)
    async with (
        contextlib.aclosing(in_order(range(9), first.work, lambda _: 10, room)) as one,
        contextlib.aclosing(in_order(range(9), second.work, lambda _: 10, room)) as other,
    ):
        first.finish(0)
        second.finish(0)
        await anext(one)
        await anext(other)
        await settled()
        assert (first.begun, second.begun) == ([0, 1, 2, 3], [0])
        assert room.taken == 50
    assert room.taken == 0


async def test_closing_cancels_what_is_under_way() -> None:
    bench, room = Bench(), Room(100)
    stream = in_order(range(9), bench.work, lambda _: 10, room, most=3)
    bench.finish(0)
    await anext(stream)
    await settled()
    await stream.aclose()
    assert (bench.cancelled, room.taken) == ([1, 2], 0)


async def test_an_error_of_one_stands_in_its_place() -> None:
    bench = Bench()
    error = CorruptPixelData("broken")
    bench.finish(0, 2)
    bench.fail(1, error)
    found = [outcome async for _, outcome in in_order(range(3), bench.work, lambda _: 1, Room(100))]
    assert found == ["result 0", error, "result 2"]


async def test_an_unforeseen_error_ends_it_and_cancels_the_rest() -> None:
    bench, room = Bench(), Room(100)
    bench.fail(0, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await anext(in_order(range(3), bench.work, lambda _: 1, room))
    assert (bench.cancelled, room.taken) == ([1, 2], 0)


async def test_nothing_asked_nothing_given() -> None:
    assert [pair async for pair in in_order((), Bench().work, lambda _: 1, Room(1))] == []
