"""Accept in all the ways that clients write it (RFC 9110 section 12.5.1)."""

import pytest

from api.negotiation import MediaRange, parse_accept, quality


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("image/png", [MediaRange("image/png", {}, 1.0)]),
        ("Image/PNG;q=0.5, */*;q=0.1", [MediaRange("image/png", {}, 0.5), MediaRange("*/*", {}, 0.1)]),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            [MediaRange("multipart/related", {"type": "application/octet-stream", "transfer-syntax": "*"}, 1.0)],
        ),
        (
            'multipart/related; type="application/octet-stream"; transfer-syntax="*", image/jpeg',
            [
                MediaRange("multipart/related", {"type": "application/octet-stream", "transfer-syntax": "*"}, 1.0),
                MediaRange("image/jpeg", {}, 1.0),
            ],
        ),
        ('a/b; x="1,2;3\\"4"; q=0.2', [MediaRange("a/b", {"x": '1,2;3"4'}, 0.2)]),
        ("a/b;q=high, c/d;q=7", [MediaRange("a/b", {}, 0.0), MediaRange("c/d", {}, 0.0)]),
        (", ,", []),
    ],
)
def test_elements_and_their_parameters(text: str, expected: list[MediaRange]) -> None:
    assert parse_accept(text) == expected


def test_the_most_specific_range_decides() -> None:
    ranges = parse_accept("image/*;q=0.5, image/png;q=0, */*;q=0.1")
    assert [quality(media, ranges) for media in ("image/png", "image/jpeg", "text/plain")] == [0.0, 0.5, 0.1]
