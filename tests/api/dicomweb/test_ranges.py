"""Ranges of bytes, and multipart bodies cut by them: without a service."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.multipart import Cut, Framing, digest, multipart, single
from api.dicomweb.ranges import ByteRange, Unsatisfiable, parse_range
from tests.api.dicomweb.bodies import parts_of

TOTAL = 1000


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("bytes=0-65535", 0, 1000),
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("BYTES=10-19", 10, 20),
        ("bytes=10-", 10, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=999-999999999999999999", 999, 1000),
    ],
)
def test_a_range_is_cut_off_at_the_end(text: str, start: int, stop: int) -> None:
    found = parse_range(text, TOTAL)
    assert found == ByteRange(start, stop, TOTAL)
    assert found.headers == {"Content-Range": f"bytes {start}-{stop - 1}/1000"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1,5-6",
        "lines=0-5",
        "bytes 0-5",
        "bytes=a-b",
        "bytes=٣-٤",
        "bytes=1",
    ],
)
def test_what_is_no_single_range_means_the_whole(text: str) -> None:
    assert parse_range(text, TOTAL) is None


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=1000-2000", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(text: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(text, TOTAL)


def test_nothing_of_nothing_can_be_satisfied() -> None:
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=0-", 0)


def cut_out(framing: Framing, data: list[bytes], wanted: ByteRange | None) -> bytes:
    sizes = [len(part) for part in data]
    cuts = list(framing.cuts(sizes, wanted))
    assert all(cut.head or cut.has_content for cut in cuts) or wanted is None
    return b"".join(cut.head + (data[cut.number][cut.start : cut.stop] if cut.has_content else b"") for cut in cuts)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.booleans(), st.data())
def test_any_cut_is_that_piece_of_the_whole(data: list[bytes], in_parts: bool, draw: st.DataObject) -> None:
    boundary = digest("any", len(data))
    framing = multipart(boundary, "image/jls", ["image/jls"] * len(data)) if in_parts else single("image/jls")
    data = data if in_parts else data[:1]
    whole = cut_out(framing, data, None)
    assert framing.length([len(part) for part in data]) == len(whole)
    start = draw.draw(st.integers(0, len(whole)))
    stop = draw.draw(st.integers(start, len(whole)))
    assert cut_out(framing, data, ByteRange(start, stop, len(whole))) == whole[start:stop]
    if in_parts:
        assert [part.data for part in parts_of(framing.media_type, whole)] == data


def test_parts_whose_length_is_not_known_are_cut_whole() -> None:
    framing = multipart(digest(1), "image/jls", ["image/jls"] * 2)
    assert framing.length([3, None]) is None
    assert [(cut.start, cut.stop, cut.has_content) for cut in framing.cuts([3, None], None)] == [
        (0, 3, True),
        (0, None, True),
        (0, 0, False),
    ]


def test_a_part_outside_the_range_is_not_read() -> None:
    framing = Framing("text/plain", [b"ab", b"cd"], b"ef")
    assert list(framing.cuts([10, 10], ByteRange(0, 2, 26))) == [Cut(0, b"ab", 0, 0)]
    assert list(framing.cuts([10, 10], ByteRange(12, 25, 26))) == [Cut(1, b"cd", 0, 10), Cut(2, b"e", 0, 0)]
    assert list(framing.cuts([10, 10], ByteRange(13, 15, 26))) == [Cut(1, b"d", 0, 1)]


def test_a_digest_is_the_same_each_time_and_another_for_another_key() -> None:
    assert digest("a", 1) == digest("a", 1) == "".join(digest("a", 1).split())
    assert len({digest("a", 1), digest("a", 2), digest("a", "1"), digest("a1")}) == 4
