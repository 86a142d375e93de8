"""What is decoded ahead of whoever scrolls, and what is dropped. Loads end when the test says so."""

import asyncio
import math
from types import SimpleNamespace
from typing import cast

import pytest

from gpu_render import lookahead
from gpu_render.archive import FrameRecord
from gpu_render.errors import CorruptPixelData, NotFound
from gpu_render.frame import PixelLayout
from gpu_render.lookahead import CACHE_SHARE, MOST_TRACKS, LookAhead
from gpu_render.order import Order
from gpu_render.reference import FrameRef

pytestmark = pytest.mark.anyio
LAYOUT = PixelLayout(512, 512, 1, 16, 12, 11, 0, "MONOCHROME2")
FRAME_BYTES = 2 * math.prod(LAYOUT.shape)
COUNT = 50


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ref(place: int, series: str = "1.2") -> FrameRef:
    return FrameRef("1", series, f"{series}.{place + 1}", 1)


class Scrolling:
    """A series of COUNT frames, somebody who scrolls, and what was loaded ahead of them."""

    def __init__(self, frames: int = 4, cache_frames: int = 1000, fail: bool = False) -> None:
        self.asked: list[int] = []
        self.lookups = 0
        self.under_way: dict[int, asyncio.Event] = {}
        self.cancelled: list[int] = []
        self.held: set[FrameRef] = set()
        self.fail = fail
        self.ahead = LookAhead(
            frames, CACHE_SHARE * FRAME_BYTES * cache_frames, self.order, self.load, self.held.__contains__
        )

    def order(self, study: str, series: str) -> Order:
        self.lookups += 1
        if series == "gone":
            raise NotFound("no series")
        record = SimpleNamespace(layout=LAYOUT)
        frames = [SimpleNamespace(ref=ref(place, series), layout=record.layout) for place in range(COUNT)]
        return Order("1", tuple(cast(list[FrameRecord], frames)))

    async def load(self, wanted: FrameRef) -> None:
        place = int(wanted.sop_instance_uid.rsplit(".", 1)[1]) - 1
        self.asked.append(place)
        end = self.under_way[place] = asyncio.Event()
        try:
            await end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(place)
            raise
        finally:
            del self.under_way[place]
        if self.fail:
            raise CorruptPixelData("broken")
        self.held.add(wanted)

    async def sees(self, *places: int, series: str = "1.2", decoder: str = "jpeg2000") -> None:
        for place in places:
            self.ahead.saw(ref(place, series), decoder)
            await asyncio.gather(*self.ahead._asking)
            await settled()

    async def finish(self) -> None:
        for end in list(self.under_way.values()):
            end.set()
        await settled()


async def settled() -> None:
    await asyncio.sleep(lookahead.SETTLE_S)
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_second_frame_tells_the_direction() -> None:
    scroll = Scrolling()
    await scroll.sees(10)
    assert scroll.asked == []
    await scroll.sees(11)
    assert scroll.asked == [12, 13, 14, 15]
    await scroll.sees(12)
    assert scroll.asked == [12, 13, 14, 15, 16]
    assert scroll.cancelled == [12]  # whoever asked for it has it


async def test_backwards_and_to_the_ends_of_the_series() -> None:
    scroll = Scrolling()
    await scroll.sees(3, 2)
    assert scroll.asked == [1, 0]
    await scroll.sees(COUNT - 3, COUNT - 2)
    assert scroll.asked == [1, 0, COUNT - 1]


async def test_frames_that_come_faster_than_their_order_is_looked_up_are_followed_one_after_the_other() -> None:
    scroll = Scrolling()
    for place in (10, 11, 10):
        scroll.ahead.saw(ref(place), "jpeg2000")
    assert len(scroll.ahead._asking) == 1
    await asyncio.gather(*scroll.ahead._asking)
    await settled()
    assert sorted(scroll.under_way) == [6, 7, 8, 9]
    scroll.ahead.saw(ref(9), "jpeg2000")  # without a task of its own
    assert not scroll.ahead._asking
    await settled()
    assert sorted(scroll.under_way) == [5, 6, 7, 8]
    assert scroll.lookups == 1


async def test_moves_that_follow_at_once_begin_loads_once() -> None:
    scroll = Scrolling()
    await scroll.sees(10)
    for place in (11, 10, 11, 10, 11, 12):
        scroll.ahead.saw(ref(place), "jpeg2000")
    assert scroll.asked == []
    await settled()
    assert scroll.asked == [13, 14, 15, 16]
    assert scroll.ahead.figures()["lookahead_dropped_total"] == 0


async def test_nothing_is_begun_after_the_end() -> None:
    scroll = Scrolling()
    await scroll.sees(10)
    scroll.ahead.saw(ref(11), "jpeg2000")
    await scroll.ahead.close()
    await settled()
    assert scroll.asked == []
    scroll = Scrolling()
    await scroll.sees(10)
    scroll.ahead.saw(ref(11), "jpeg2000")
    scroll.ahead._end(next(iter(scroll.ahead._tracks)))
    await settled()
    assert scroll.asked == []


async def test_an_order_holds_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11)
    assert scroll.lookups == 1
    monkeypatch.setattr(lookahead, "ORDER_S", 0.0)
    await scroll.sees(12, series="1.3")
    await scroll.sees(13, series="1.3")
    assert scroll.lookups == 3


async def test_a_turn_drops_what_lay_ahead() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11, 10)
    assert scroll.cancelled == [12, 13, 14, 15]
    assert sorted(scroll.under_way) == [6, 7, 8, 9]
    assert scroll.ahead.figures()["lookahead_dropped_total"] == 4


async def test_a_frame_that_comes_in_the_moment_of_the_turn_is_not_counted_as_dropped() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11)
    scroll.held.add(ref(13))  # its load is about to say so
    await scroll.sees(10)
    assert scroll.cancelled == [12, 13, 14, 15]
    assert scroll.ahead.figures()["lookahead_dropped_total"] == 3


async def test_a_jump_begins_anew_and_the_old_scroll_ends_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "IDLE_S", 0.05)
    scroll = Scrolling()
    await scroll.sees(10, 11, 40)
    assert scroll.cancelled == []
    await asyncio.sleep(0.15)
    assert sorted(scroll.cancelled) == [12, 13, 14, 15]
    assert not scroll.ahead._tracks


async def test_the_same_frame_again_changes_nothing() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11, 11, 11)  # a window drag
    assert scroll.asked == [12, 13, 14, 15]
    assert scroll.cancelled == []


async def test_who_moves_again_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "IDLE_S", 0.05)
    scroll = Scrolling()
    await scroll.sees(10, 11)
    (track,) = scroll.ahead._tracks
    timer = track.idle
    await scroll.sees(11, 11)
    assert track.idle is timer  # not one for each move
    track.moved_s += 1000
    await asyncio.sleep(0.15)
    assert track in scroll.ahead._tracks
    assert track.idle is not None
    assert track.idle.when() > asyncio.get_running_loop().time() + 900
    await scroll.ahead.close()


async def test_a_move_looks_at_what_is_new_and_at_what_is_next() -> None:
    scroll = Scrolling(frames=20)
    scroll.held |= {ref(place) for place in range(COUNT)}
    looked = list[FrameRef]()

    def is_held(one: FrameRef) -> bool:
        looked.append(one)
        return one in scroll.held

    scroll.ahead._is_held = is_held
    await scroll.sees(10, 11)
    assert looked == [ref(place) for place in range(12, 32)]
    looked.clear()
    await scroll.sees(12)
    assert looked == [ref(13), ref(14), ref(15), ref(32)]
    assert scroll.asked == []


async def test_what_is_next_and_has_left_the_cache_is_loaded_again() -> None:
    scroll = Scrolling()
    scroll.held |= {ref(place) for place in range(COUNT)}
    await scroll.sees(10, 11)
    scroll.held.discard(ref(14))
    await scroll.sees(12)
    assert scroll.asked == [14]


async def test_a_new_order_is_looked_at_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    scroll = Scrolling()
    scroll.held |= {ref(place) for place in range(COUNT)}
    await scroll.sees(10, 11)
    monkeypatch.setattr(lookahead, "ORDER_S", -1.0)
    scroll.ahead._orders.clear()
    scroll.held.clear()  # as when a file of the series has changed
    await scroll.sees(12)
    assert scroll.asked == [13, 14, 15, 16]


async def test_two_people_in_one_series_are_two_scrolls() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 40, 11, 39, 12, 38)
    assert sorted(scroll.under_way) == [13, 14, 15, 16, 34, 35, 36, 37]


async def test_other_series_are_other_scrolls() -> None:
    scroll = Scrolling()
    await scroll.sees(10)
    await scroll.sees(11, series="1.3")
    assert scroll.asked == []


@pytest.mark.parametrize("decoder", ["native", "native-big-endian"])
async def test_frames_that_need_no_decoding_are_left_alone(decoder: str) -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11, 12, decoder=decoder)
    assert scroll.asked == []
    assert not scroll.ahead._tracks


async def test_none_is_none() -> None:
    scroll = Scrolling(frames=0)
    await scroll.sees(10, 11, 12)
    assert scroll.asked == []


async def test_no_more_than_the_cache_has_room_for() -> None:
    scroll = Scrolling(cache_frames=2)
    await scroll.sees(10, 11)
    assert scroll.asked == [12, 13]


async def test_what_is_held_is_not_loaded_again_and_use_is_counted() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11)
    await scroll.finish()
    await scroll.sees(12, 13)
    assert scroll.asked == [12, 13, 14, 15, 16, 17]
    figures = scroll.ahead.figures()
    assert (figures["lookahead_begun_total"], figures["lookahead_used_total"]) == (6, 2)
    assert figures["lookahead_dropped_total"] == 0


async def test_a_frame_that_fails_is_not_tried_again_while_it_lies_ahead() -> None:
    scroll = Scrolling(fail=True)
    await scroll.sees(10, 11)
    await scroll.finish()
    await scroll.sees(12)
    assert scroll.asked == [12, 13, 14, 15, 16]


async def test_a_series_that_has_gone_has_nothing_ahead() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11, series="gone")
    assert scroll.asked == []


async def test_scrolls_are_bounded_in_number() -> None:
    scroll = Scrolling()
    for number in range(MOST_TRACKS + 10):
        await scroll.sees(10, series=f"1.{number}")
    assert len(scroll.ahead._tracks) == MOST_TRACKS


async def test_close_drops_everything() -> None:
    scroll = Scrolling()
    await scroll.sees(10, 11)
    await scroll.ahead.close()
    assert sorted(scroll.cancelled) == [12, 13, 14, 15]
    assert not scroll.under_way
