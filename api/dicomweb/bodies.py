"""Answers of parts with something around them, whole or a range: held in memory, or read while they are sent."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.again import Repeatable
from api.arrays import matches
from api.dicomweb.multipart import Cut, Framing
from api.dicomweb.ranges import ByteRange, Unsatisfiable, not_satisfiable, wanted_range
from api.negotiation import header
from api.streaming import Part, Streamed
from gpu_render.ahead import MIB, Room, in_order
from gpu_render.errors import RenderError

Load = Callable[[int], Awaitable[Part]]
"""Number of a part, from 0 -> its bytes."""
Read = Callable[[Sequence[Cut]], AsyncGenerator[Part, None]]
"""What cuts ask for, in order: each one's head, then its bytes, step by step."""

SENT_AT_ONCE = MIB
"""Most that is given to the server at once [byte]: it keeps what a slow client has not taken."""


class Held(Repeatable):
    """A body in a few buffers that are in memory already, sent one after the other without joining them."""

    def __init__(self, buffers: Sequence[Part], headers: dict[str, str], media_type: str, status: int) -> None:
        self._buffers = buffers
        self.status_code = status
        self.media_type = media_type
        self.background = None
        self.init_headers({**headers, "Content-Length": str(sum(map(len, buffers)))})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for buffer in self._buffers[:-1]:
            await send({"type": "http.response.body", "body": buffer, "more_body": True})
        await send({"type": "http.response.body", "body": self._buffers[-1]})


def unchanged(request: Request, headers: dict[str, str]) -> Response | None:
    """304 with ``headers``, where If-None-Match names the ETag among them."""
    known = matches(header(request, b"if-none-match"), headers["ETag"])
    return Response(status_code=304, headers=headers) if known else None


def held(
    request: Request, framing: Framing, parts: Sequence[Part], headers: dict[str, str], whole: Part | None = None
) -> Response:
    """An answer of parts that are in memory. ``headers``: with its ETag. ``whole``: all of it in one piece, where there
    is one."""
    sizes = list(map(len, parts))
    try:
        wanted, about = _selected(request, framing, sizes, headers)
    except Unsatisfiable:
        return not_satisfiable(request, framing.length(sizes) or 0)
    if whole is not None and wanted is None:
        return Held((whole,), about, framing.media_type, 200)
    buffers: list[Part] = []
    for cut in framing.cuts(sizes, wanted):
        buffers += [cut.head] if cut.head else []
        buffers += steps(parts[cut.number], cut) if cut.has_content else []
    return Held(buffers or [b""], about, framing.media_type, 200 if wanted is None else 206)


def streamed(
    request: Request, framing: Framing, sizes: Sequence[int | None], read: Read, headers: dict[str, str]
) -> Response:
    """An answer of parts of ``sizes`` [byte] that ``read`` gives while they are sent; None: not known before, so that
    the answer has no length and no ranges. ``headers``: with its ETag."""
    try:
        wanted, about = _selected(request, framing, sizes, headers)
    except Unsatisfiable:
        return not_satisfiable(request, framing.length(sizes) or 0)
    length = framing.length(sizes) if wanted is None else wanted.stop - wanted.start
    parts = read(list(framing.cuts(sizes, wanted)))
    return Streamed(parts, about, framing.media_type, status=200 if wanted is None else 206, length=length)


def _selected(
    request: Request, framing: Framing, sizes: Sequence[int | None], headers: dict[str, str]
) -> tuple[ByteRange | None, dict[str, str]]:
    """What of the body is asked for, None for the whole, and the headers of the answer. Raises Unsatisfiable."""
    total = framing.length(sizes)
    if total is None:
        return None, headers
    wanted = wanted_range(request, total, headers["ETag"])
    return wanted, {**headers, "Accept-Ranges": "bytes", **(wanted.headers if wanted is not None else {})}


def steps(data: Part, cut: Cut) -> Iterator[memoryview]:
    """What is wanted of a part that is in memory, in steps that a slow client may take its time for."""
    view = memoryview(data)
    stop = len(view) if cut.stop is None else cut.stop
    for start in range(cut.start, stop, SENT_AT_ONCE):
        yield view[start : min(start + SENT_AT_ONCE, stop)]


def loaded_ahead(load: Load, cost: Callable[[int], int], room: Room) -> Read:
    """Parts that ``load`` gives whole, some of them ahead of their turn; ``cost``: most that one takes [byte].

    A part that cannot be had raises its error, which breaks the answer off: to go on, or to end properly, would be a
    wrong answer."""

    async def read(cuts: Sequence[Cut]) -> AsyncGenerator[Part, None]:
        async def content(cut: Cut) -> Part:
            return await load(cut.number) if cut.has_content else b""

        results = in_order(cuts, content, lambda cut: cost(cut.number) if cut.has_content else 0, room)
        async with contextlib.aclosing(results):
            async for cut, result in results:
                if isinstance(result, RenderError):
                    raise result
                if cut.head:
                    yield cut.head
                for step in steps(result, cut):
                    yield step

    return read
