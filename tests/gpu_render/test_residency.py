"""Residency: the budget of a device's memory, by examples and against a model."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpu_render.frame import FRAME_OVERHEAD, DeviceFrame, PixelLayout, Presentation
from gpu_render.reference import FrameRef
from gpu_render.residency import RECOVERY, Residency


def frame(number: int, side: int = 10, generation: int = 0) -> DeviceFrame:
    layout = PixelLayout(side, side, 1, 8, 8, 7, 0, "MONOCHROME2")
    samples = np.zeros((side, side), np.uint8)
    return DeviceFrame(FrameRef("1", "2", "3", number), layout, Presentation(), samples, "native", "v", generation)


def test_the_least_recently_used_leaves_first() -> None:
    residency = Residency(250)
    a, b, c = frame(1), frame(2), frame(3)
    for each in (a, b):
        residency.add(each, object())
    residency.use(a)
    residency.add(c, object())
    assert [each.pixels is None for each in (a, b, c)] == [False, True, False]
    assert residency.find(a.key) is a
    assert residency.find(b.key) is None
    assert (residency.nbytes, len(residency), residency.evictions) == (200, 2, 1)


def test_a_frame_above_the_budget_is_not_kept_and_drives_nothing_out() -> None:
    residency = Residency(250)
    small, large = frame(1), frame(2, side=16)
    residency.add(small, object())
    residency.add(large, object())
    assert large.pixels is None
    assert small.pixels is not None


def test_a_newer_copy_of_the_same_frame_takes_the_place_of_the_older() -> None:
    residency = Residency(250)
    older, newer, changed = frame(1), frame(1), frame(1, generation=1)
    for each in (older, newer, changed):
        residency.add(each, object())
    assert older.pixels is None
    assert residency.find(newer.key) is newer
    assert residency.find(changed.key) is changed
    assert residency.nbytes == 200
    residency.use(older)  # says nothing about the newer one
    residency.add(frame(2), object())
    assert newer.pixels is None


def test_it_shrinks_at_once_and_recovers_slowly() -> None:
    residency = Residency(1000)
    frames = [frame(n) for n in range(6)]
    for each in frames:
        residency.add(each, object())
    residency.shrink()
    assert residency.budget == 300
    assert [each.pixels is None for each in frames] == [True] * 3 + [False] * 3
    for _ in range(2 * RECOVERY):
        residency.recover()
    assert residency.budget == 1000
    residency.clear()
    residency.shrink()  # somebody else has the memory
    assert residency.budget == 1000


def test_the_hosts_copy_goes_when_both_the_host_wants_it_and_the_device_has_one() -> None:
    residency = Residency(250)
    waits, resident, both = frame(1), frame(2), frame(3)
    waits.left()
    assert waits.samples is not None  # nobody else has it
    residency.add(waits, object())
    assert waits.samples is None
    residency.add(resident, object())
    assert resident.samples is not None
    assert resident.nbytes == FRAME_OVERHEAD  # 100 bytes of samples
    resident.left()
    assert resident.samples is None
    assert not resident.is_gone
    residency.add(both, object())  # waits leaves the device
    assert waits.is_gone
    assert not both.is_gone


@given(
    st.integers(0, 500),
    st.lists(st.tuples(st.sampled_from(["add", "use", "shrink", "recover", "clear"]), st.integers(0, 9))),
)
def test_what_it_counts_is_what_frames_hold(budget: int, steps: list[tuple[str, int]]) -> None:
    residency = Residency(budget)
    frames = [frame(number, side=number + 3) for number in range(10)]
    for step, number in steps:
        if step == "add":
            residency.add(frames[number], object())
        elif step == "use":
            residency.use(frames[number])
        else:
            getattr(residency, step)()
        resident = [each for each in frames if each.pixels is not None]
        assert residency.nbytes == sum(each.device_nbytes for each in resident) <= residency.budget <= budget
        assert len(residency) == len(resident)
        assert all(residency.find(each.key) is (each if each in resident else None) for each in frames)
