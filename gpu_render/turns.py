"""When prefetch may take place: while nobody waits for anything; and a little of it while somebody does."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from enum import IntEnum

from gpu_render.errors import Overloaded

#: Time [s] between the beginnings of prefetches, one at a time, while somebody waits or did a moment ago.
TRICKLE_S = 0.05


class Line(IntEnum):
    """What waits for its turn: frames that somebody scrolls towards come before those that a client asked for, and what
    is for another day comes when there is nothing else."""

    LOOK_AHEAD = 0
    ASKED_FOR = 1
    SPARE_TIME = 2


#: Time [s] without more urgent work after which a line goes on. Who scrolls fast asks every 33 ms: what he scrolls
#: towards is loaded in between, and all else when he stops.
QUIET_S = {Line.LOOK_AHEAD: 0.01, Line.ASKED_FOR: 0.05, Line.SPARE_TIME: 0.2}


class Turns:
    """Prefetches wait here, and not where more urgent work does. Lives on one event loop.

    ``at_once``: most prefetches under way; ``capacity``: most that wait in one line.
    """

    def __init__(self, at_once: int, capacity: int) -> None:
        self._at_once = at_once
        self._capacity = capacity
        self._lines: dict[Line, deque[asyncio.Future[None]]] = {line: deque() for line in Line}
        self._under_way = 0
        self._urgent = 0
        self._urgent_until_s = float("-inf")
        self._next_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many prefetches wait."""
        return sum(not turn.done() for line, turns in self._lines.items() if line < Line.SPARE_TIME for turn in turns)

    @contextlib.asynccontextmanager
    async def urgent(self) -> AsyncIterator[None]:
        """Somebody waits for what is done in this block."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._urgent_until_s = asyncio.get_running_loop().time()
                if self._timer is None and any(self._lines.values()):
                    self._admit()

    def noted(self) -> None:
        """Somebody asked for something that was there: as if an urgent block had ended now."""
        self._urgent_until_s = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def prefetch(self, line: Line = Line.ASKED_FOR) -> AsyncIterator[None]:
        """Wait for a turn and hold it for this block. Raises Overloaded at once where the line is full."""
        turn = self._enqueue(line)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._end()  # it was given the turn in the same moment
            raise
        try:
            yield
        finally:
            self._end()

    def _enqueue(self, line: Line) -> "asyncio.Future[None]":
        waiting = self._lines[line]
        if len(waiting) >= self._capacity:
            waiting = self._lines[line] = deque(turn for turn in waiting if not turn.done())
        if len(waiting) >= self._capacity:
            raise Overloaded("the line of prefetches is full")
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        self._admit()
        return turn

    def _end(self) -> None:
        self._under_way -= 1
        self._admit()

    def _admit(self) -> None:
        """Let those go whose turn it is; be called again when time alone makes it another's."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (line := self._first()) is not None:
            now_s = loop.time()
            pause_s = self._pause(line, now_s)
            if pause_s > 0:
                if pause_s < float("inf"):
                    self._timer = loop.call_later(pause_s, self._admit)
                return
            self._under_way += 1
            self._next_s = now_s + TRICKLE_S
            self._lines[line].popleft().set_result(None)

    def _first(self) -> Line | None:
        """The first line with somebody who still waits, who is at its head then."""
        for line, waiting in self._lines.items():
            while waiting and waiting[0].done():
                waiting.popleft()
            if waiting:
                return line
        return None

    def _pause(self, line: Line, now_s: float) -> float:
        """Time [s] until the next one may begin; infinite where something else has to end before."""
        forever = float("inf")
        quiet_from_s = self._urgent_until_s + QUIET_S[line]
        if line is Line.SPARE_TIME:
            return forever if self._urgent or self._under_way else max(0.0, quiet_from_s - now_s)
        if not self._urgent and now_s >= quiet_from_s:
            return 0.0 if self._under_way < self._at_once else forever
        until_quiet_s = forever if self._urgent else quiet_from_s - now_s
        until_next_s = forever if self._under_way else max(0.0, self._next_s - now_s)
        return min(until_quiet_s, until_next_s)
