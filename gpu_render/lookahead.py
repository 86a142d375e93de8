"""What somebody scrolls towards is decoded before it is asked for, and dropped when they turn."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gpu_render.errors import RenderError
from gpu_render.order import Order
from gpu_render.reference import FrameRef

STRIDE = 3
"""Most places that a step of scrolling covers; farther is a jump."""
IDLE_S = 3.0
"""Somebody who asks for nothing for so long has stopped."""
MOST_TRACKS = 64
"""Scrolls that are followed at once; those that were asked for last."""
ORDER_S = 1.0
"""An order that was looked up so short a time ago holds: who scrolls asks for many frames of it."""
MOST_ORDERS = 8
"""They may be long, so few are held."""
SETTLE_S = 0.002
"""Loads are begun and dropped so long after a move, once for all moves until then: of those that come hundreds a second
most are taken back at once, and hardly any of their loads would have had its turn."""
CACHE_SHARE = 8
"""The frames ahead of one track take at most this part of the cache."""

#: Decoders that decode nothing: such frames only have to be read.
_PLAIN = ("native", "native-big-endian")


@dataclass(slots=True, eq=False)
class _Track:
    """One scroll through a series: ``place`` in its order, from 0; ``step`` +1 or -1, 0 before the second frame.
    ``ahead``: places in ``order`` that were wanted when it moved last, at ``moved_s`` of the event loop's time."""

    series: tuple[str, str]
    place: int
    step: int = 0
    loads: dict[FrameRef, "asyncio.Task[None]"] = field(default_factory=dict)
    idle: asyncio.TimerHandle | None = None
    moved_s: float = 0.0
    order: Order | None = None
    ahead: range = range(0)

    def keep(self, wanted: set[FrameRef]) -> None:
        """Drop loads that are not wanted any more."""
        for ref in [ref for ref in self.loads if ref not in wanted]:
            self.loads.pop(ref).cancel()

    def look(self, order: Order, ahead: range) -> list[int]:
        """These places are wanted now. Which of them are to be looked at: those that were not wanted before, and the
        next ones, which may have left the cache since. Most moves add one place: this is done for each frame that is
        asked for, also where all are held."""
        before = self.ahead if self.order is order else range(0)
        self.order, self.ahead = order, ahead
        return [place for number, place in enumerate(ahead) if number < STRIDE or place not in before]


class LookAhead:
    """Follows who asks for frames one after the other, by adjacency alone: several may scroll through one series.

    ``frames``: how many ahead, 0 for none. ``order_of`` gives the order of a series (blocking); ``load`` puts a frame
    into the cache when nobody waits for anything else; ``is_held`` says whether it is there. Lives on one event loop.
    """

    def __init__(
        self,
        frames: int,
        cache_bytes: int,
        order_of: Callable[[str, str], Order],
        load: Callable[[FrameRef], Awaitable[None]],
        is_held: Callable[[FrameRef], bool],
    ) -> None:
        self._frames = frames
        self._track_bytes = cache_bytes // CACHE_SHARE
        self._order_of = order_of
        self._load = load
        self._is_held = is_held
        self._tracks: OrderedDict[_Track, None] = OrderedDict()  # the one that moved last at the end
        self._ahead: set[FrameRef] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._waiting: dict[tuple[str, str], list[FrameRef]] = {}
        self._orders: OrderedDict[tuple[str, str], tuple[Order, float]] = OrderedDict()  # until when it holds
        self._moved: dict[_Track, Order] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._begun = self._dropped = self._used = 0

    def saw(self, ref: FrameRef, decoder: str) -> None:
        """Somebody waited for this frame, which ``decoder`` decoded (as in RenderedFrame), and has it now."""
        if self._frames == 0 or decoder in _PLAIN:
            return
        if ref in self._ahead:
            self._ahead.discard(ref)
            self._used += 1
        series = ref.study_uid, ref.series_uid
        waiting, known = self._waiting.get(series), self._orders.get(series)
        if waiting is not None:
            waiting.append(ref)  # one after the other: their order tells which way it goes
        elif known is not None and time.monotonic() < known[1]:
            self._follow(known[0], ref)
        else:
            self._waiting[series] = [ref]
            task = asyncio.ensure_future(self._ask(series))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def figures(self) -> dict[str, float]:
        """Counters for ``/metrics``: loads that were begun, those dropped before they were done, and those of use."""
        return {
            "lookahead_begun_total": self._begun,
            "lookahead_dropped_total": self._dropped,
            "lookahead_used_total": self._used,
        }

    async def close(self) -> None:
        """Drop everything."""
        if self._settling is not None:
            self._settling.cancel()
        tasks = [*self._asking, *(load for track in self._tracks for load in track.loads.values())]
        for task in tasks:
            task.cancel()
        for track in list(self._tracks):
            self._end(track)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, series: tuple[str, str]) -> None:
        """Look up the order of a series, and follow all who asked for its frames meanwhile."""
        try:
            order = await asyncio.to_thread(self._order_of, *series)
        except RenderError:  # the series has gone meanwhile: there is nothing ahead
            return
        finally:
            refs = self._waiting.pop(series)
        self._orders[series] = order, time.monotonic() + ORDER_S
        self._orders.move_to_end(series)
        while len(self._orders) > MOST_ORDERS:
            self._orders.popitem(last=False)
        for ref in refs:
            self._follow(order, ref)

    def _follow(self, order: Order, ref: FrameRef) -> None:
        place = order.places.get(ref)
        if place is not None:
            self._move(order, self._track_at((ref.study_uid, ref.series_uid), place), place)

    def _track_at(self, series: tuple[str, str], place: int) -> _Track:
        """The scroll that comes by here, which is the nearest; a new one where none does."""
        near = [track for track in self._tracks if track.series == series and abs(track.place - place) <= STRIDE]
        if near:
            return min(near, key=lambda track: abs(track.place - place))
        track = _Track(series, place)
        self._tracks[track] = None
        while len(self._tracks) > MOST_TRACKS:
            self._end(next(iter(self._tracks)))
        return track

    def _move(self, order: Order, track: _Track, place: int) -> None:
        """Note where it is now, and in which direction it goes."""
        self._tracks.move_to_end(track)
        if place != track.place:
            track.step = 1 if place > track.place else -1
        track.place = place
        self._wait_for_idle(track)
        if track.step != 0:
            self._moved[track] = order
            if self._settling is None:
                self._settling = asyncio.get_running_loop().call_later(SETTLE_S, self._settle)

    def _settle(self) -> None:
        self._settling = None
        moved, self._moved = self._moved, {}
        for track, order in moved.items():
            self._load_ahead(order, track)

    def _load_ahead(self, order: Order, track: _Track) -> None:
        """Load what comes next in this direction, drop what does not."""
        ahead = self._next(order, track)
        if track.loads:
            track.keep({order.frames[place].ref for place in ahead})
        for place in track.look(order, ahead):
            ref = order.frames[place].ref
            if ref not in track.loads and not self._is_held(ref):
                track.loads[ref] = asyncio.ensure_future(self._loaded(ref))

    def _next(self, order: Order, track: _Track) -> range:
        """Places of as many frames as are wanted ahead and the cache has room for."""
        layout = order.frames[track.place].layout
        nbytes = math.prod(layout.shape) * layout.dtype.itemsize
        count = min(self._frames, self._track_bytes // nbytes)
        end = track.place + track.step * (count + 1)
        return range(track.place + track.step, max(-1, min(end, len(order.frames))), track.step)

    async def _loaded(self, ref: FrameRef) -> None:
        """Errors are for whoever asks for the frame: they get their own."""
        self._begun += 1
        try:
            await self._load(ref)
        except RenderError:
            return
        except asyncio.CancelledError:
            self._dropped += not self._is_held(ref)  # it may have come in the same moment, or for somebody else
            raise
        self._ahead.add(ref)
        while len(self._ahead) > MOST_TRACKS * max(1, self._frames):
            self._ahead.pop()

    def _wait_for_idle(self, track: _Track) -> None:
        loop = asyncio.get_running_loop()
        track.moved_s = loop.time()
        if track.idle is None:
            track.idle = loop.call_later(IDLE_S, self._end_if_idle, track)

    def _end_if_idle(self, track: _Track) -> None:
        """One timer a scroll, which looks when the last move was: a timer for each move would cost more than it."""
        loop = asyncio.get_running_loop()
        left_s = track.moved_s + IDLE_S - loop.time()
        if left_s > 0:
            track.idle = loop.call_later(left_s, self._end_if_idle, track)
        else:
            self._end(track)

    def _end(self, track: _Track) -> None:
        """Nobody scrolls here any more."""
        if track.idle is not None:
            track.idle.cancel()
        track.keep(set())
        self._moved.pop(track, None)
        self._tracks.pop(track, None)
        if not any(other.series == track.series for other in self._tracks):
            self._orders.pop(track.series, None)
