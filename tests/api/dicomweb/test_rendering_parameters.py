"""Parameters and data sets of any kind: a value or a typed error, never anything else."""

import contextlib
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.dicomweb.rendering import Look, RenderedQuery, Viewport, parse_look, parse_source_viewport
from gpu_render.errors import BadRequest, RenderError
from gpu_render.frame import PixelLayout, Window
from gpu_render.pictures.captions import Annotation, lines
from gpu_render.pictures.colour import jpeg_profile, source_of
from gpu_render.pictures.timing import delays
from gpu_render.view import Region
from tests.gpu_render.test_pictures_colour import frame

TEXT = st.none() | st.text(max_size=30) | st.text("0123456789,.-+elinar", max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)
TAGS = st.sampled_from(
    ["00100010", "00100020", "00080020", "00080060", "00180050", "00181063", "00181065", "00180040", "00200032",
     "00280008", "00282000", "00282002", "00480105", "00480106", "00480207", "52009229", "52009230"]
)  # fmt: skip
ELEMENTS = st.fixed_dictionaries(
    {"vr": st.just("LO")}, optional={"Value": JSON, "InlineBinary": JSON, "BulkDataURI": JSON}
)
DATASETS = st.recursive(
    st.dictionaries(TAGS, ELEMENTS | JSON, max_size=4),
    lambda inner: st.dictionaries(
        TAGS, st.fixed_dictionaries({"vr": st.just("SQ"), "Value": st.lists(inner, max_size=2)})
    ),
    max_leaves=6,
)
LAYOUT = PixelLayout(40, 50, 1, 16, 16, 15, 0, "MONOCHROME2")


@given(window=TEXT, viewport=TEXT, quality=TEXT, annotation=TEXT, iccprofile=TEXT)
@settings(max_examples=400)
def test_a_query_is_a_look_or_a_bad_request(**sent: str | None) -> None:
    try:
        look = parse_look(RenderedQuery(**sent), 8192)
    except BadRequest:
        return
    assert 1 <= look.quality <= 100
    assert (look.window is None) == (sent["window"] is None)
    if look.viewport is not None:
        assert min(look.viewport.size) >= 1
        assert min(look.viewport.x, look.viewport.y) >= 0


def test_nothing_asked_is_the_default_look() -> None:
    assert parse_look(RenderedQuery(), 8192) == Look()
    asked = parse_look(RenderedQuery(window="1,2,sigmoid", annotation="technique,dose,patient"), 8192)
    assert isinstance(asked.window, Window)
    assert (asked.annotation, asked.unsupported) == (frozenset(Annotation), ("dose",))


def test_a_viewport_says_which_part_of_a_frame() -> None:
    assert parse_source_viewport("10,20", 100) == Viewport((10, 20))
    assert parse_source_viewport("10,20,,,-5", 100) == Viewport((10, 20), 0, 0, 5, None, True, False)
    assert parse_source_viewport("10,20,7,8", 100).region(LAYOUT) == Region(7, 8, 43, 32)
    assert parse_source_viewport("10,20,7,8,9,-3", 100).region(LAYOUT) == Region(7, 8, 9, 3)


@given(dataset=DATASETS, number=st.integers(1, 3))
@settings(max_examples=300)
@example(dataset={"00282000": None}, number=1)
def test_a_data_set_of_any_kind_has_lines_a_pace_and_a_profile_or_a_typed_error(dataset: Any, number: int) -> None:
    top, bottom = lines(dataset, number, None, frozenset(Annotation))
    assert all(isinstance(line, str) and line for line in (*top, *bottom))
    assert all(2 <= delay <= 65535 for delay in delays(dataset, [1, number]))
    with contextlib.suppress(RenderError):
        source_of(dataset, number, lambda path: path.encode(), frame)


@given(st.binary(max_size=200).map(lambda data: b"\xff\xd8\xff\xe2" + data) | st.binary(max_size=50))
def test_any_bytes_have_a_profile_or_none(data: bytes) -> None:
    jpeg_profile(data)
