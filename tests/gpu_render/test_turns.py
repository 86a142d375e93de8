"""Prefetch waits while somebody waits. The event loop's clock is moved by hand."""

import asyncio

import pytest

from gpu_render.errors import Overloaded
from gpu_render.turns import QUIET_S, TRICKLE_S, Line, Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """Stands in for ``loop.time``: timers fire when it was moved past them, and not by themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now_s)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Prefetches:
    """Some prefetches that hold their turns until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.begun: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def add(self, *numbers: int, line: Line = Line.ASKED_FOR) -> None:
        for number in numbers:
            self._ends[number] = asyncio.Event()
            self.tasks[number] = asyncio.ensure_future(self._run(number, line))

    async def _run(self, number: int, line: Line) -> None:
        async with self._turns.prefetch(line):
            self.begun.append(number)
            await self._ends[number].wait()

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await settled()


async def test_as_many_as_allowed_take_place_at_once_in_order() -> None:
    turns = Turns(at_once=2, capacity=9)
    prefetches = Prefetches(turns)
    prefetches.add(1, 2, 3, 4)
    await settled()
    assert (prefetches.begun, len(turns)) == ([1, 2], 2)
    await prefetches.end(2)
    assert prefetches.begun == [1, 2, 3]


async def test_while_somebody_waits_one_at_a_time_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(monkeypatch), Turns(at_once=8, capacity=9)
    prefetches = Prefetches(turns)
    async with turns.urgent():
        prefetches.add(1, 2, 3)
        await settled()
        assert prefetches.begun == [1]
        await prefetches.end(1)
        assert prefetches.begun == [1]  # the pause is not over
        clock.now_s += TRICKLE_S
        await settled()
        assert prefetches.begun == [1, 2]
        clock.now_s += 10 * TRICKLE_S
        await settled()
        assert prefetches.begun == [1, 2]  # one at a time, however long it takes


@pytest.mark.parametrize("line", [Line.LOOK_AHEAD, Line.ASKED_FOR])
async def test_all_go_on_when_nobody_has_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    clock, turns, quiet_s = Clock(monkeypatch), Turns(at_once=8, capacity=9), QUIET_S[line]
    prefetches = Prefetches(turns)
    async with turns.urgent():
        prefetches.add(1, 2, 3, line=line)
        await settled()
    clock.now_s += quiet_s / 2
    await settled()
    assert prefetches.begun == [1]
    async with turns.urgent():
        clock.now_s += quiet_s
        await settled()
    assert prefetches.begun == [1]
    clock.now_s += quiet_s
    await settled()
    assert prefetches.begun == [1, 2, 3]


async def test_what_somebody_scrolls_towards_comes_first() -> None:
    turns = Turns(at_once=1, capacity=9)
    prefetches = Prefetches(turns)
    prefetches.add(1, 2, 3)
    await settled()
    prefetches.add(10, 11, line=Line.LOOK_AHEAD)
    await settled()
    for number in (1, 10, 11):
        await prefetches.end(number)
    assert prefetches.begun == [1, 10, 11, 2]


async def test_what_is_for_another_day_comes_alone_and_when_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns, quiet_s = Clock(monkeypatch), Turns(at_once=8, capacity=9), QUIET_S[Line.SPARE_TIME]
    prefetches = Prefetches(turns)
    async with turns.urgent():
        prefetches.add(1, 2, line=Line.SPARE_TIME)
        clock.now_s += 100 * TRICKLE_S
        await settled()
        assert (prefetches.begun, len(turns)) == ([], 0)  # not even a little of it, and it is no prefetch
    clock.now_s += quiet_s / 2
    await settled()
    assert prefetches.begun == []
    prefetches.add(10, 11)
    await settled()
    assert prefetches.begun == [10, 11]
    clock.now_s += quiet_s
    await settled()
    await prefetches.end(10)
    assert prefetches.begun == [10, 11]
    await prefetches.end(11)
    assert prefetches.begun == [10, 11, 1]
    prefetches.add(12)  # which does not have to wait for it
    await settled()
    assert prefetches.begun == [10, 11, 1, 12]
    await prefetches.end(1)
    assert prefetches.begun == [10, 11, 1, 12]
    await prefetches.end(12)
    assert prefetches.begun == [10, 11, 1, 12, 2]


async def test_those_that_leave_make_room_and_take_no_turn() -> None:
    turns = Turns(at_once=1, capacity=3)
    prefetches = Prefetches(turns)
    prefetches.add(1, 2, 3, 4)
    await settled()
    with pytest.raises(Overloaded):
        async with turns.prefetch():
            pass
    prefetches.tasks[2].cancel()
    await settled()
    assert len(turns) == 2
    prefetches.add(5)
    await settled()
    await prefetches.end(1)
    assert prefetches.begun == [1, 3]


async def test_a_turn_given_to_one_that_leaves_goes_to_the_next() -> None:
    turns = Turns(at_once=1, capacity=3)
    prefetches = Prefetches(turns)
    async with turns.prefetch():
        prefetches.add(2, 3)
        await settled()
    prefetches.tasks[2].cancel()  # it has the turn, and does not know yet
    await settled()
    assert prefetches.begun == [3]
