"""Answers at the pace of those who read them, and an end to connections on which nothing moves.

A large body goes to the server in pieces, the next when the reader has taken the one before; so the server's buffers
stay small. The body itself stays in memory until the last piece is gone: what all readers hold back in this way has a
budget, and where it is exceeded, the one that has taken nothing for longest is cut off. Whether one takes something is
looked up now and then, and not told with every packet: most have taken all before anybody looks.
"""

import asyncio
import logging
import math
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.lines import LINE, Line, Networks, line_of

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

log = logging.getLogger("gpu_render")

PIECE_BYTES = 1 << 20
"""Most that is handed to the server at a time, without a copy: each piece costs a wait, and most frames are one."""
SMALL_BYTES = 64 * 1024
"""Bodies up to this size go as they are."""
EASY_BYTES = 16 * 1024
"""With so little left to send no server lets anybody wait: by default a transport lets go on at 16 KiB."""
LOOK_S = 1.0
"""Time between looks at those who have not taken all yet."""
GRACE_S = 1.0
"""A reader that took something so recently is not cut off for others' sake."""
ABORT = "gpu_render.abort"
"""In the scope of a request that ``Connection`` has read: closes its connection at once, whatever waits there."""
LEFT = "gpu_render.left"
"""In the same scope: how much of what was handed over has not gone to the system yet [byte]."""


@dataclass(slots=True, eq=False)
class Reader:
    """One answer that is being sent: the part that its reader has not taken yet, and since when that is so."""

    scope: Scope
    nbytes: int = 0
    since_s: float = 0.0
    left: int = 0
    task: "asyncio.Task[Any] | None" = None
    was_cut: bool = False

    def look(self) -> bool:
        """Whether some of what the server has was taken since the last look."""
        left = self.scope.get(LEFT)
        before, self.left = self.left, left() if left is not None else 0
        return self.left < before

    def cut(self) -> None:
        """Give up on it: close the connection, or, where the server lets nobody do that, stop sending."""
        self.was_cut = True
        abort = self.scope.get(ABORT)
        if abort is not None:
            abort()
        elif self.task is not None:
            self.task.cancel()


class Readers:
    """All answers that are being sent. Lives on one event loop.

    ``budget_bytes``: of parts that readers have not taken; ``limit_s``: longest that one may take nothing.
    """

    def __init__(self, budget_bytes: int, limit_s: float) -> None:
        self._budget_bytes = budget_bytes
        self._limit_s = limit_s
        self._waiting: dict[Reader, None] = {}  # in the order of ``since_s``
        self._timer: asyncio.TimerHandle | None = None
        self.nbytes = 0
        self.cut_off = 0

    def figures(self) -> dict[str, float]:
        """For ``/metrics``."""
        return {"answer_bytes_waiting": self.nbytes, "slow_readers_cut_off_total": self.cut_off}

    def begin(self, reader: Reader, nbytes: int) -> None:
        """A part is handed to the server; ``nbytes`` stay in memory until it has been taken."""
        reader.nbytes, reader.since_s = nbytes, asyncio.get_running_loop().time()
        reader.task = asyncio.current_task()
        self._waiting[reader] = None
        self.nbytes += nbytes
        if self._timer is None or self.nbytes > self._budget_bytes:
            self._look()

    def took(self, reader: Reader) -> None:
        """It has taken something, and what is left goes on waiting."""
        if self._waiting.pop(reader, self) is None:
            reader.since_s = asyncio.get_running_loop().time()
            self._waiting[reader] = None

    def end(self, reader: Reader) -> None:
        """The part has been taken, or nobody waits for it any more."""
        if self._waiting.pop(reader, self) is None:
            self.nbytes -= reader.nbytes

    def _look_at_all(self) -> None:
        for reader in list(self._waiting):
            if reader.look():
                self.took(reader)
        self._look()

    def _look(self) -> None:
        """Cut off who has to go; look again when the next one may have to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting:
            reader = next(iter(self._waiting))
            allowed_s = self._limit_s if self.nbytes <= self._budget_bytes else min(GRACE_S, self._limit_s)
            left_s = reader.since_s + allowed_s - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(min(left_s, LOOK_S, self._limit_s / 10), self._look_at_all)
                return
            if reader.look():
                self.took(reader)
                continue
            self.end(reader)
            self.cut_off += 1
            log.warning("an answer of which nothing was read for %.0f s was broken off", allowed_s - left_s)
            reader.cut()


class Paced:
    """Pure ASGI: hands large bodies to the server in pieces, without a copy, and accounts for their readers."""

    def __init__(self, app: ASGIApp, readers: Readers) -> None:
        self._app = app
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reader, left = Reader(scope), scope.get(LEFT, _unknown)

        async def send_paced(message: Message) -> None:
            nbytes = len(message.get("body", b"")) if message["type"] == "http.response.body" else 0
            if nbytes > SMALL_BYTES:
                await self._send_pieces(reader, message, nbytes, send)
            elif left() <= EASY_BYTES:  # nobody waits: no need to account for it
                await send(message)
            else:
                await self._send(reader, message, nbytes, send)

        try:
            await self._app(scope, receive, send_paced)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not reader.was_cut or task is None:
                raise
            task.uncancel()  # by Reader.cut(): the answer stays incomplete, and the server closes the connection

    async def _send(self, reader: Reader, message: Message, nbytes: int, send: Send) -> None:
        self._readers.begin(reader, nbytes)
        try:
            await send(message)
        finally:
            self._readers.end(reader)

    async def _send_pieces(self, reader: Reader, message: Message, nbytes: int, send: Send) -> None:
        """The end is told apart, so that it waits until the last piece was taken."""
        body, left = memoryview(message["body"]), reader.scope.get(LEFT, _unknown)
        begun = left() > EASY_BYTES or nbytes > PIECE_BYTES  # otherwise the first piece is taken over without waiting
        if begun:
            self._readers.begin(reader, nbytes)
        try:
            for at in range(0, nbytes, PIECE_BYTES):
                piece = body[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if begun:
                    reader.look()
                    self._readers.took(reader)
            if not begun and left() > EASY_BYTES:
                begun = True
                self._readers.begin(reader, nbytes)
                reader.look()
            if not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b""})
        finally:
            if begun:
                self._readers.end(reader)


def _unknown() -> float:
    """How much is left where the server does not say."""
    return math.inf


def allow_connections() -> None:
    """Let this process have as many connections and files open as the system allows it: 1,024 are few for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Answering(RequestResponseCycle):
    """uvicorn's answer to one request, of which large chunks are not copied to stand between their length and their
    end: the transport writes all three from where they are."""

    async def send(self, message: "ASGISendEvent") -> None:
        """As the base class does."""
        body = cast(bytes, message.get("body", b""))
        copied = not self.chunked_encoding or self.response_complete or self.scope["method"] == "HEAD"
        if copied or len(body) <= SMALL_BYTES:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.writelines([b"%x\r\n" % len(body), body, b"\r\n"])
        if not message.get("more_body", False):
            await super().send({"type": "http.response.body", "body": b""})


class Connection(HttpToolsProtocol):
    """uvicorn's connection, closed when it stands still for ``limit_s``: silent from the start, in the middle of a
    request, or with an answer's end that is not taken."""

    limit_s = 60.0
    fast: Networks | None = None
    _line: Line | None = None
    _in_request = False
    _silence: asyncio.TimerHandle | None = None
    _left = 0
    _given_s = 0.0

    @classmethod
    def with_limit(cls, limit_s: float, fast: Networks | None = None) -> "type[Connection]":
        """For ``uvicorn.Config(http=...)``. ``fast``: whoever is in none of these networks has a Line; None: nobody."""
        return cast("type[Connection]", type(cls.__name__, (cls,), {"limit_s": limit_s, "fast": fast}))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.fast is not None:
            self._line = line_of(transport, self.fast)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._silence is None and (self._in_request or self.cycle is None or self.cycle.response_complete):
            self._expect_request()  # the rest of it

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        cycle.__class__ = Answering  # uvicorn has no other place for it
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_request = True
        scope = cast(Scope, self.scope)
        scope[ABORT], scope[LEFT] = self.transport.abort, self.transport.get_write_buffer_size
        if self._line is not None:
            scope[LINE] = self._line

    def on_body(self, body: bytes) -> None:
        self._expect_request()  # more of it
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # as soon as the answer's end has been taken
            self._silence = self.loop.call_later(self.limit_s, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while. Where the answer's end has not been taken yet, give it time for that."""
        left = self.transport.get_write_buffer_size()
        if left == 0 or self.transport.is_closing():
            self._left = 0
            super().timeout_keep_alive_handler()
        elif self._left in (0, left) and self._given_s >= self.limit_s:
            self.transport.abort()
        else:
            self._given_s = self._given_s + self.timeout_keep_alive if self._left == left else 0.0
            self._left = left
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expect_request(self) -> None:
        """Something has to come within the limit: all of a request's head, more of its body."""
        self._expect_nothing()
        self._silence = self.loop.call_later(self.limit_s, self._stood_still)

    def _expect_nothing(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _stood_still(self) -> None:
        self._silence = None
        if self.flow.read_paused:  # it is this side that does not read
            self._expect_request()
        else:
            self.transport.abort()
