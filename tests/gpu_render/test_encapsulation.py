"""Frames of encapsulated Pixel Data, against the layout that was written. Real files: test_folder.py."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_render.archive.encapsulation import OffsetTables, ReadAt, frame_spans, join_fragments
from gpu_render.errors import CorruptPixelData
from tests.data import encapsulate, item

JPEG = b"\xff\xd8\xff\xe0"
J2K = b"\xff\x4f\xff\x51"


def reader(value: bytes) -> ReadAt:
    return lambda offset, length: value[offset : offset + length]


def frames_of(
    value: bytes, frames: int, tables: OffsetTables | None = None, *, one_fragment: bool = False
) -> list[bytes | None]:
    spans = frame_spans(reader(value), 0, len(value), frames, tables, one_fragment=one_fragment)
    assert spans.shape == (frames, 2)
    cut = [value[int(offset) : int(offset) + int(length)] for offset, length in spans]
    return [bytes(join_fragments(span)) if span else None for span in cut]


def offsets_of(layout: Sequence[Sequence[bytes]]) -> list[int]:
    sizes = [sum(8 + len(fragment) for fragment in frame) for frame in layout]
    return [0, *accumulate(sizes)][: len(layout)]


fragments = st.binary(max_size=20).map(lambda b: b + b"\0" * (len(b) % 2))
layouts = st.lists(st.lists(fragments, min_size=1, max_size=4), min_size=1, max_size=6)


@given(layouts, st.booleans())
def test_basic_offset_table(layout: list[list[bytes]], delimiter: bool) -> None:
    value = encapsulate([f for frame in layout for f in frame], offsets_of(layout), delimiter=delimiter)
    expected = [b"".join(frame) for frame in layout]
    assert [frame or b"" for frame in frames_of(value, len(layout))] == expected


@given(layouts)
def test_extended_offset_table(layout: list[list[bytes]]) -> None:
    value = encapsulate([f for frame in layout for f in frame])
    frames = frames_of(value, len(layout), OffsetTables(offsets_of(layout)))
    assert [frame or b"" for frame in frames] == [b"".join(frame) for frame in layout]


@given(st.lists(st.lists(fragments, max_size=3), min_size=1, max_size=5), st.sampled_from([JPEG, J2K]))
def test_frames_begin_where_codestreams_begin(rest: list[list[bytes]], start: bytes) -> None:
    layout = [[start + b"\x02\x03", *(b"\0\0" + f for f in frame)] for frame in rest]
    value = encapsulate([f for frame in layout for f in frame])
    assert frames_of(value, len(layout)) == [b"".join(frame) for frame in layout]


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_bytes_give_frames_or_a_typed_error(value: bytes, frames: int) -> None:
    try:
        spans = frame_spans(reader(value), 0, len(value), frames)
    except CorruptPixelData:
        return
    assert int((spans[:, 0] + spans[:, 1]).max()) <= len(value)


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 200))
def test_a_flipped_byte_gives_frames_or_a_typed_error(fragment: bytes, byte: int, position: int) -> None:
    value = bytearray(encapsulate([fragment, JPEG, fragment], [0, 8 + len(fragment), 20 + len(fragment)]))
    value[position % len(value)] = byte
    try:
        frames = frames_of(bytes(value), 3)
    except CorruptPixelData:
        return
    assert len(frames) == 3


def test_one_fragment_a_frame_without_table() -> None:
    assert frames_of(encapsulate([b"aa", b"bb", b"cc"]), 3) == [b"aa", b"bb", b"cc"]


def test_one_frame_takes_all_fragments() -> None:
    assert frames_of(encapsulate([b"aa", b"bb", b"cc"]), 1) == [b"aabbcc"]


@pytest.mark.parametrize("offsets", [[8, 18], [0, 11], [0, 10, 20], [4, 14]])
def test_a_wrong_table_does_not_matter_where_fragments_say_it_all(offsets: list[int]) -> None:
    assert frames_of(encapsulate([b"aa", b"bb"], offsets), 2) == [b"aa", b"bb"]


@pytest.mark.parametrize("offsets", [[10, 0], [0, 0], [0, 20, 10][:2][::-1]])
def test_a_table_that_does_not_rise_is_refused(offsets: list[int]) -> None:
    with pytest.raises(CorruptPixelData, match="does not rise"):
        frames_of(encapsulate([b"aa", b"bb"], offsets), 2)


def test_a_wrong_table_with_ambiguous_fragments_is_refused() -> None:
    with pytest.raises(CorruptPixelData, match="3 fragments cannot be divided among 2 frames"):
        frames_of(encapsulate([b"aa", b"bb", b"cc"], [0, 11]), 2)


def test_empty_last_fragment() -> None:
    assert frames_of(encapsulate([b"aa", b"bb", b""]), 2) == [b"aa", b"bb"]


def test_missing_delimiter() -> None:
    assert frames_of(encapsulate([b"aa", b"bb"], delimiter=False), 2) == [b"aa", b"bb"]


def test_a_cut_fragment_costs_its_frame_only() -> None:
    value = encapsulate([JPEG, JPEG, JPEG], [0, 12, 24], delimiter=False)[:-1]
    assert frames_of(value, 3) == [JPEG, JPEG, None]


def test_frames_that_never_came_cost_no_others() -> None:
    value = encapsulate([JPEG, JPEG], delimiter=False)
    assert frames_of(value, 4) == [JPEG, JPEG, None, None]
    assert frames_of(encapsulate([b"aa"], delimiter=False), 2, one_fragment=True) == [b"aa", None]
    assert frames_of(encapsulate([JPEG, JPEG], [0, 12, 24], delimiter=False), 3) == [JPEG, JPEG, None]


@pytest.mark.parametrize("offsets", [[], [0, 20, 40], [0, 12, 24]])
@pytest.mark.parametrize("one_fragment", [False, True])
def test_a_whole_file_with_fewer_fragments_than_frames_is_refused(offsets: list[int], one_fragment: bool) -> None:
    """Two frames in one fragment, or a frame left out in the middle: what follows would be shown as another frame."""
    with pytest.raises(CorruptPixelData, match="2 fragments cannot be divided among 3 frames"):
        frames_of(encapsulate([JPEG + JPEG, JPEG], offsets), 3, one_fragment=one_fragment)


def test_a_cut_file_whose_table_contradicts_its_fragments_is_refused() -> None:
    with pytest.raises(CorruptPixelData, match="2 fragments cannot be divided among 3 frames"):
        frames_of(encapsulate([JPEG + JPEG, JPEG], [0, 12, 24], delimiter=False), 3)


@pytest.mark.parametrize("start", [JPEG, J2K])
def test_pieces_are_not_counted_as_frames(start: bytes) -> None:
    """Two frames in two pieces each, where the header says four frames: frame 3 would be frame 2."""
    pieces = [start, b"aa", start, b"bb"]
    for offsets in ([], [0, 22]):
        with pytest.raises(CorruptPixelData, match="4 fragments cannot be divided among 4 frames"):
            frames_of(encapsulate(pieces, offsets), 4)
    assert frames_of(encapsulate(pieces, [0, 12, 22, 34]), 4) == pieces
    assert frames_of(encapsulate(pieces), 4, one_fragment=True) == pieces


def test_fewer_fragments_than_frames_without_codestreams_is_refused() -> None:
    with pytest.raises(CorruptPixelData, match="2 fragments cannot be divided among 3 frames"):
        frames_of(encapsulate([b"aa", b"bb"], delimiter=False), 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "no Basic Offset Table"),
        (item(b""), "no fragments"),
        (item(b"") + b"\x08\x00\x05\x00\0\0\0\0", "not an item"),
        (item(b"") + item(b"aa", 0xFFFFFFFF), "not an item"),
        (item(b"", 1000), "no Basic Offset Table"),
    ],
)
def test_what_is_no_encapsulated_pixel_data(value: bytes, message: str) -> None:
    with pytest.raises(CorruptPixelData, match=message):
        frames_of(value, 1)


def test_a_delimiter_inside_a_fragment_is_pixels() -> None:
    fragment = b"aa\xfe\xff\xdd\xe0\0\0\0\0bb"
    assert frames_of(encapsulate([fragment, b"cc"]), 2) == [fragment, b"cc"]


def test_one_fragment_is_joined_without_a_copy() -> None:
    span = item(b"abcd")
    joined = join_fragments(span)
    assert isinstance(joined, memoryview)
    assert np.shares_memory(np.frombuffer(joined, np.uint8), np.frombuffer(span, np.uint8))


@pytest.mark.parametrize("span", [b"", b"\xfe\xff\x00\xe0", item(b"ab", 5), b"X" * 10, item(b"ab") + b"\0"])
def test_join_refuses_what_is_not_whole_items(span: bytes) -> None:
    with pytest.raises(CorruptPixelData):
        join_fragments(span)


@pytest.mark.parametrize("gone", range(1, 9))
def test_a_delimiter_that_slipped_into_the_last_fragment_is_an_error(gone: int) -> None:
    """Bytes are missing in it: its length takes in what stands behind."""
    first, last = JPEG + bytes(20), JPEG + bytes(range(1, 41))
    value = encapsulate([first, last], [0, 8 + len(first)])
    assert frames_of(value, 2) == [first, last]
    at = len(value) - 8 - 20
    with pytest.raises(CorruptPixelData, match="lost"):
        frames_of(value[:at] + value[at + gone :], 2)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 7])
def test_zeros_in_place_of_the_delimiter_are_padding(padding: bytes) -> None:
    value = encapsulate([JPEG + bytes(6)], delimiter=False)
    assert frames_of(value + padding, 1) == [JPEG + bytes(6)]
