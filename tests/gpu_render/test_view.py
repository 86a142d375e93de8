"""Text from outside to View and FrameRef."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_render.errors import BadRequest, InvalidFrameNumber, InvalidRegion, InvalidUid, InvalidWindow
from gpu_render.frame import VoiFunction, Window
from gpu_render.reference import FrameRef, check_uid
from gpu_render.view import Region, parse_region, parse_viewport, parse_window


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("40,400", Window(40, 400)),
        ("-600.5, 1500 , linear", Window(-600.5, 1500)),
        ("0.5,0.25,linear-exact", Window(0.5, 0.25, VoiFunction.LINEAR_EXACT)),
        ("1e3,2e3,SIGMOID", Window(1000, 2000, VoiFunction.SIGMOID)),
    ],
)
def test_windows_are_read(text: str, window: Window) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text",
    ["", "40", "40,400,linear,1", "a,b", "40,nan", "inf,1", "40,0.5", "40,0,linear-exact", "40,-1,sigmoid", "1,2,c"],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidWindow):
        parse_window(text)


def test_regions_and_viewports_are_read() -> None:
    assert parse_region("1,2,3,4") == Region(1, 2, 3, 4)
    assert parse_viewport("640,480") == (640, 480)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,0", "-1,2,3,4", "1.5,2,3,4", "1,2,3,4,5", "1,2,3,9999999999", "٣,1,1,1"]
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(InvalidRegion):
        parse_region(text)


@pytest.mark.parametrize("text", ["0,1", "1,0", "9000,1", "1", "a,b"])
def test_what_is_no_viewport_is_refused(text: str) -> None:
    with pytest.raises(InvalidRegion):
        parse_viewport(text)


@given(st.text(max_size=40))
def test_any_text_gives_a_value_or_a_bad_request(text: str) -> None:
    for parse in (parse_window, parse_region, parse_viewport):
        with contextlib.suppress(BadRequest):
            assert parse(text) is not None


def test_frames_count_from_1() -> None:
    ref = FrameRef.parse("1.2", "1.3", "1.4", "7")
    assert (ref.frame_number, ref.frame_index) == (7, 6)
    for number in ("0", "-1", "1.0", "", "x", "99999999999", "²"):
        with pytest.raises(InvalidFrameNumber):
            FrameRef.parse("1.2", "1.3", "1.4", number)


@pytest.mark.parametrize("uid", ["", ".1", "1.", "1..2", "1.a", "1." + "2" * 64, "../etc", "1.2\n", "१.२"])
def test_malformed_uids_are_refused(uid: str) -> None:
    with pytest.raises(InvalidUid):
        check_uid(uid)
