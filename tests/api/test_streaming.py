"""Answers that are made while they are sent: in parts, at the reader's pace, and no longer than somebody reads."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from api.streaming import IS_HEAD, Part, Streamed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Connection:
    """Both ends of an ASGI connection: what was sent, and a client that may go or stop reading."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.stops_after = -1
        self.begun = asyncio.Event()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)
        if len(self.sent) == 2:
            self.begun.set()
        if len(self.sent) == self.stops_after:
            self.reads.clear()

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message["body"]) for message in self.sent[1:])


class Parts:
    """Counts the parts that were made, and notices that it was closed."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts
        self.made = 0
        self.closed = False
        self.endless = False

    async def __call__(self) -> AsyncGenerator[Part, None]:
        try:
            for part in self._parts:
                self.made += 1
                yield part
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_all_parts_are_sent_as_they_are() -> None:
    connection, parts, view = Connection(), Parts(b"abc", memoryview(b"defg")), None
    await Streamed(parts(), {"X-A": "b"}, "text/x")({"type": "http"}, connection.receive, connection.send)
    assert connection.body == b"abcdefg"
    view = connection.sent[2]["body"]
    assert isinstance(view, memoryview)  # no copy was made of it
    assert [message.get("more_body", False) for message in connection.sent[1:]] == [True, True, False]
    names = {name for name, _ in connection.sent[0]["headers"]}
    assert (names >= {b"x-a", b"content-type"}, b"content-length" in names) == (True, False)


async def test_a_length_that_is_known_is_said() -> None:
    connection = Connection()
    answer = Streamed(Parts(b"abc")(), length=3, status=206)
    await answer({"type": "http"}, connection.receive, connection.send)
    assert (b"content-length", b"3") in connection.sent[0]["headers"]
    assert connection.sent[0]["status"] == 206


async def test_nothing_is_made_for_a_reader_that_has_stopped() -> None:
    connection, parts = Connection(), Parts(*[b"x"] * 9)
    connection.stops_after = 3
    answer = asyncio.ensure_future(Streamed(parts())({"type": "http"}, connection.receive, connection.send))
    for _ in range(20):
        await asyncio.sleep(0)
    assert parts.made == 3  # two were sent, and one waits
    connection.reads.set()
    await answer
    assert parts.made == 9


async def test_a_client_that_goes_closes_the_generator() -> None:
    connection, parts = Connection(), Parts(b"x")
    parts.endless = True
    answer = asyncio.ensure_future(Streamed(parts())({"type": "http"}, connection.receive, connection.send))
    await connection.begun.wait()
    connection.gone.set()
    await answer
    assert parts.closed
    assert connection.sent[-1]["more_body"]  # never said to be complete


async def test_a_head_makes_no_part() -> None:
    connection, parts = Connection(), Parts(b"x")
    await Streamed(parts())({"type": "http", IS_HEAD: True}, connection.receive, connection.send)
    assert (parts.made, connection.body, len(connection.sent)) == (0, b"", 2)


async def test_an_error_of_the_generator_reaches_the_server() -> None:
    async def broken() -> AsyncGenerator[Part, None]:
        yield b"x"
        raise ZeroDivisionError

    connection = Connection()
    with pytest.raises(ZeroDivisionError):
        await Streamed(broken())({"type": "http"}, connection.receive, connection.send)
