"""Bodies of store requests: parts in any pieces, what clients really send, and what is no body."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb import uploads
from api.dicomweb.uploads import PartEnd, PartHead, Parts, boundary_of, chunks, events
from api.service import ClientGone
from gpu_render.errors import BadRequest, RenderError, TooLarge, TooSlow, UnsupportedMediaType

HEAD = b"Content-Type: application/dicom\r\n"


def body(files: Iterable[bytes], boundary: bytes = b"b", head: bytes = HEAD) -> bytes:
    """As dicomweb-client, dcmjs and dcm4che write it."""
    parts = [b"--" + boundary + b"\r\n" + head + b"\r\n" + data + b"\r\n" for data in files]
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """``data`` cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for start, stop in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:stop]


def files_of(data: Iterable[bytes], boundary: bytes = b"b") -> list[bytes]:
    """The parts that are complete. Raises what Parts raises, after them."""
    parts, found, current = Parts(boundary), list[bytes](), bytearray()
    for piece in data:
        for event in parts.feed(piece):
            if isinstance(event, PartHead):
                current = bytearray()
            elif isinstance(event, PartEnd):
                found.append(bytes(current))
            else:
                current += event
    parts.finish()
    return found


BOUNDARY = b"bo-'()+_,./:=? und"
#: What looks like a delimiter, or like half of one.
NEARLY = [
    b"\r",
    b"\n",
    b"\r\n",
    b"-",
    b"--",
    b"\r\n--",
    b"\r\n--" + BOUNDARY[:-1],
    b"--" + BOUNDARY,
    b"\n--" + BOUNDARY,
]
NEARLY += [b"\r\n--" + BOUNDARY + b"x", b"\r\n--" + BOUNDARY + b"-", b"\r\r\n--", b"\r\n-" + BOUNDARY]
tricky = st.lists(st.sampled_from(NEARLY) | st.binary(max_size=8), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=20)


def is_delimited_by(data: bytes, boundary: bytes) -> bool:
    """Whether a part with these bytes would end early: RFC 2046 does not let a sender choose such a boundary."""
    line = b"\r\n--" + boundary
    ends = [b"\r\n", b"--", b" ", b"\t"]
    return any(line + end in b"\r\n" + data + b"\r\n--" + boundary[:1] for end in ends) or data.endswith(
        (line, line + b"-", line + b"\r")
    )


@given(st.lists(tricky, min_size=1, max_size=4), cuts)
def test_parts_come_out_as_they_went_in_however_they_are_cut(files: list[bytes], places: list[int]) -> None:
    files = [data for data in files if not is_delimited_by(data, BOUNDARY)] or [b""]
    assert files_of(pieces(body(files, BOUNDARY), places), BOUNDARY) == files


def test_a_body_byte_by_byte() -> None:
    files = [b"\r\n--b-\r\n--\r\n-", b"", b"\r\r\n\n--b"]
    data = body(files)
    assert files_of(data[i : i + 1] for i in range(len(data))) == files


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(body([b"x", b"y"]), id="plain"),
        pytest.param(b"\r\n" + body([b"x", b"y"]), id="an empty line before (dicomweb-client)"),
        pytest.param(b"This is a multi-part message\r\n--bb\r\n" + body([b"x", b"y"]), id="preamble"),
        pytest.param(body([b"x", b"y"]) + b"epilogue\r\n--c\r\n", id="epilogue"),
        pytest.param(body([b"x", b"y"])[:-2], id="nothing after the last delimiter"),
        pytest.param(body([b"x", b"y"], head=b""), id="parts without headers"),
        pytest.param(
            body([b"x", b"y"], head=b"content-type:application/dicom\r\nContent-Location: u\r\n"), id="lower case"
        ),
        pytest.param(
            body([b"x", b"y"], head=b'Content-Type: application/dicom; transfer-syntax="1.2.840.10008.1.2.4.90"\r\n'),
            id="with parameters",
        ),
        pytest.param(
            body([b"x", b"y"], head=HEAD + b"MIME-Version: 1.0\r\nContent-Length: 1\r\n"), id="with Content-Length"
        ),
        pytest.param(
            body([b"x", b"y"], head=HEAD + b"Content-Transfer-Encoding: BINARY\r\n"), id="with a transfer encoding"
        ),
        pytest.param(body([b"x", b"y"]).replace(b"\r\n--b\r\n", b"\r\n--b \t\r\n"), id="padding after a delimiter"),
    ],
)
def test_bodies_of_clients(data: bytes) -> None:
    assert files_of([data]) == [b"x", b"y"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", BadRequest, id="empty"),
        pytest.param(b"--b--\r\n", BadRequest, id="no parts"),
        pytest.param(body([b"x"])[:-4], BadRequest, id="no closing delimiter"),
        pytest.param(body([b"x"])[:20], BadRequest, id="ends in a header"),
        pytest.param(body([b"x"], b"c"), BadRequest, id="another boundary"),
        pytest.param(body([b"x"]).replace(b"\r\n", b"\n"), BadRequest, id="lines that end in LF"),
        pytest.param(b"x" * 200_000, BadRequest, id="an endless preamble"),
        pytest.param(body([b"x"], head=b"Nonsense\r\n"), BadRequest, id="no header"),
        pytest.param(body([b"x"], head=b"A: " + b"a" * 10_000 + b"\r\n"), BadRequest, id="a long header"),
        pytest.param(body([b"x"], head=b"A: a\r\n" * 100), BadRequest, id="many headers"),
        pytest.param(body([b"xx"], head=HEAD + b"Content-Length: 1\r\n"), BadRequest, id="longer than it says"),
        pytest.param(body([b"xx"], head=HEAD + b"Content-Length: 3\r\n"), BadRequest, id="shorter than it says"),
        pytest.param(body([b"x"], head=b"Content-Type: application/dicom+json\r\n"), UnsupportedMediaType, id="JSON"),
        pytest.param(body([b"x"], head=b"Content-Type: \xff\r\n"), UnsupportedMediaType, id="no media type"),
        pytest.param(
            body([b"x"], head=HEAD + b"Content-Transfer-Encoding: base64\r\n"), UnsupportedMediaType, id="base64"
        ),
    ],
)
def test_what_is_no_body(data: bytes, error: type[RenderError]) -> None:
    with pytest.raises(error):
        files_of([data])
    with pytest.raises(error):
        files_of(data[i : i + 1] for i in range(len(data)))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3), cuts, st.data())
def test_damaged_bodies_raise_nothing_but_our_errors(
    files: list[bytes], places: list[int], data: st.DataObject
) -> None:
    whole = bytearray(body(files))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        removed = data.draw(st.integers(0, 6))
        whole[at : at + removed] = data.draw(st.binary(max_size=6) | st.sampled_from([b"\r\n", b"--b", b"\r\n--b--"]))
    try:
        once = files_of([bytes(whole)])
    except RenderError as error:
        with pytest.raises(type(error)):
            files_of(pieces(bytes(whole), places))
    else:
        assert files_of(pieces(bytes(whole), places)) == once


def test_parts_that_are_complete_come_before_the_error() -> None:
    parts = Parts(b"b")
    found: list[uploads.Event] = []
    with pytest.raises(BadRequest):
        found.extend(parts.feed(body([b"one"])[:-4] + b"\r\nNonsense\r\n"))
    assert [type(event) for event in found] == [PartHead, memoryview, PartEnd]


def request(headers: dict[str, str], messages: Iterable[Any] = ()) -> Request:
    """A POST whose body comes as ``messages``: bytes, seconds of silence, or an ASGI message."""
    pending = list(messages)

    async def receive() -> dict[str, Any]:
        if pending and isinstance(pending[0], int | float):
            await asyncio.sleep(pending.pop(0))
        message = pending.pop(0) if pending else b""
        if isinstance(message, bytes):
            return {"type": "http.request", "body": message, "more_body": bool(pending)}
        return dict(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def read(asked: Request, boundary: bytes | None = None, max_bytes: int = 1000) -> list[Any]:
    async def collect() -> list[Any]:
        return [
            bytes(event) if isinstance(event, memoryview) else event
            async for event in events(asked, boundary, max_bytes)
        ]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("application/dicom", None),
        ("Application/DICOM; transfer-syntax=1.2.840.10008.1.2.1", None),
        ('multipart/related; type="application/dicom"; boundary="a b"', b"a b"),
        ("multipart/related; type=application/dicom; boundary=xyz", b"xyz"),
        ("multipart/related;boundary=xyz;type=application/dicom", b"xyz"),
        ("multipart/related; boundary=xyz", b"xyz"),
        ('Multipart/Related; Boundary="a;b"; Type="application/DICOM"', b"a;b"),
    ],
)
def test_media_types_that_are_taken(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(request({"Content-Type": content_type}), 1000) == boundary


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, UnsupportedMediaType),
        ({"Content-Type": "application/dicom+json"}, UnsupportedMediaType),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}, UnsupportedMediaType),
        ({"Content-Type": 'multipart/related; type="application/dicom+xml"; boundary=b'}, UnsupportedMediaType),
        ({"Content-Type": "multipart/form-data; boundary=b"}, UnsupportedMediaType),
        ({"Content-Type": "application/octet-stream"}, UnsupportedMediaType),
        ({"Content-Type": "application/dicom", "Content-Encoding": "gzip"}, UnsupportedMediaType),
        ({"Content-Type": "multipart/related; type=application/dicom"}, BadRequest),
        ({"Content-Type": "multipart/related; type=application/dicom; boundary="}, BadRequest),
        ({"Content-Type": f"multipart/related; boundary={'b' * 71}"}, BadRequest),
        ({"Content-Type": "application/dicom", "Content-Length": "1001"}, TooLarge),
    ],
)
def test_media_types_that_are_not(headers: dict[str, str], error: type[RenderError]) -> None:
    with pytest.raises(error):
        boundary_of(request(headers), 1000)


def test_a_body_of_one_instance() -> None:
    found = read(request({}, [b"ab", b"", b"c"]))
    assert found == [PartHead("application/dicom", None), b"ab", b"", b"c", PartEnd()]


def test_a_body_beyond_the_limit() -> None:
    with pytest.raises(TooLarge):
        read(request({}, [b"x" * 600, b"x" * 600]))


def test_a_client_that_goes() -> None:
    with pytest.raises(ClientGone):
        read(request({}, [b"x", {"type": "http.disconnect"}]))


def test_a_silent_client_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_S", 0.05)
    with pytest.raises(TooSlow):
        read(request({}, [b"x", 30]))


def test_a_client_that_sends_a_byte_now_and_then_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_S", 0.3)
    with pytest.raises(TooSlow):
        read(request({}, [item for _ in range(100) for item in (b"x", 0.01)]))


def test_a_slow_client_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_S", 1.0)

    async def collect() -> int:
        messages = [item for _ in range(60) for item in (b"x" * 1000, 0.02)]
        return sum([len(data) async for data in chunks(request({}, messages), 1_000_000)])

    assert asyncio.run(collect()) == 60_000
