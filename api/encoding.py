"""Bodies with a content coding (RFC 9110 section 8.4), for clients whose line is slower than the coding.

Whoever accepts zstd or gzip may get it. The filter of ``gpu_render.wire`` makes samples smaller still, but another
thing than the array that was asked for: it comes only to those who name its media type.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from api.arrays import OCTETS, VARY_CODED, array_body, array_headers, caching, matches
from api.lines import LINE, Line
from api.negotiation import MediaRange, accepted, parse_accept
from api.service import while_connected
from api.streaming import Part
from gpu_render import wire
from gpu_render.errors import Overloaded
from gpu_render.frame import RenderedFrame, Samples
from gpu_render.priority import Priority, PriorityExecutor

PLANES = "application/vnd.gpu-render.planes"
"""One frame, filtered. Named beside application/octet-stream, which is the answer where nothing is to be gained."""
FILTER = "planes"
"""As a parameter of a stream's media type, and in the header of a record that is filtered."""

WORTH_BYTES = 16 * 1024
"""What is smaller is there at once: ten packets are sent before the first one was acknowledged (RFC 6928)."""
PAYS_BELOW_MBIT_S: dict[wire.Coding, float] = {"zstd": 500.0, "gzip": 100.0}
"""Half of what is saved by what time it takes here and in the browser, for a CT slice (``python -m benchmarks.wire``):
others need the processors too."""
MOST_WAITING = 64
"""Pictures that wait for the threads: with more, it is not the line that is slow."""

PATIENCE_S, PAUSE_S = 30.0, 0.02
"""How long, and how often, an answer that has begun asks for a thread again."""

T = TypeVar("T")

Mode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a body is to be sent."""

    coding: wire.Coding
    filtered: bool

    def tag(self, tag: str) -> str:
        """The ETag of an array in this form. Weak: the same array may be other bytes with the coding's next version."""
        return f'W/{tag[:-1]}{"-planes" if self.filtered else ""}-{self.coding}"'

    def fits(self, pixels: Samples) -> "Form":
        """Without the filter where it is not for such samples."""
        return self if wire.can_be_filtered(pixels) else dataclasses.replace(self, filtered=False)


def codings(request: Request) -> list[wire.Coding]:
    """Those that Accept-Encoding allows and likes as well as none (RFC 9110 section 12.5.3), the best first.

    ``*`` stands for gzip: who wrote it may be older than zstd. Without the header there is none.
    """
    ranges = parse_accept(request.headers.get("accept-encoding", ""))
    quality = {entry.media: entry.quality for entry in ranges}
    offered: dict[wire.Coding, float] = {
        "zstd": quality.get("zstd", 0.0),
        "gzip": quality.get("gzip", quality.get("x-gzip", quality.get("*", 0.0))),
    }
    plain = quality.get("identity", 0.0)
    good = [coding for coding, value in offered.items() if value > 0 and value >= plain]
    return sorted(good, key=lambda coding: -offered[coding])


def named(ranges: list[MediaRange], media: str, **parameters: str) -> bool:
    """Whether Accept names just that. No range of several types does: who asks for anything knows no filter."""
    return any(entry.media == media and entry.quality > 0 and entry.parameters == parameters for entry in ranges)


def held(request: Request, known: str, tag: str, media_type: str) -> str | None:
    """The ETag in ``known`` (If-None-Match) of the array of ``tag``, in a form that this request could get."""
    if matches(known, tag):
        return tag
    filters = (False, True) if media_type == OCTETS and named(accepted(request), PLANES) else (False,)
    forms = (Form(coding, filtered) for coding in codings(request) for filtered in filters)
    return next((found for form in forms if matches(known, (found := form.tag(tag)).removeprefix("W/"))), None)


def encoder_of(request: Request) -> "Encoder":
    """The service's."""
    return cast(Encoder, request.app.state.encoder)


class Encoder:
    """Decides who gets an encoded body, and makes it on ``threads``."""

    def __init__(self, mode: Mode, threads: PriorityExecutor) -> None:
        self._mode = mode
        self._threads = threads
        self._answers = self._saved = 0

    def figures(self) -> dict[str, float]:
        """For ``/metrics``."""
        return {"encoded_answers_total": self._answers, "encoded_bytes_saved_total": self._saved}

    def frame_form(self, request: Request, media_type: str) -> Form | None:
        """How to send one frame as ``media_type`` to this client; None: as it is."""
        coding = self._coding(request)
        if coding is None:
            return None
        return Form(coding, media_type == OCTETS and named(accepted(request), PLANES))

    def stream_form(self, request: Request, media_type: str) -> Form | None:
        """How to send a stream of frames, whose media type has the filter as a parameter; None: as it is."""
        coding = self._coding(request)
        return None if coding is None else Form(coding, named(accepted(request), media_type, filter=FILTER))

    def _coding(self, request: Request) -> wire.Coding | None:
        """The one that the client likes best of those that are faster than its line."""
        if self._mode == "auto":
            line: Line | None = request.scope.get(LINE)
            if line is None:
                return None
            mbit_s = line.mbit_s(request.scope)
        elif self._mode == "on":
            mbit_s = 0.0
        else:
            return None
        return next((coding for coding in codings(request) if mbit_s < PAYS_BELOW_MBIT_S[coding]), None)

    async def frame(
        self, request: Request, frame: RenderedFrame, media_type: str, form: Form, tag: str, priority: Priority
    ) -> Response | None:
        """``frame`` in that form; None where that is not worth it: it is small, or hardly gets smaller, or too much
        waits to be encoded. Raises ClientGone."""
        nbytes = frame.pixels.nbytes
        if nbytes < WORTH_BYTES or len(self._threads) >= MOST_WAITING:
            return None
        form = form.fits(frame.pixels)
        begun = time.perf_counter()
        try:
            work = self._threads.submit(lambda: _body(frame, media_type, form), priority)
            body = await while_connected(request, _result(work))
        except Overloaded:
            return None
        if len(body) > nbytes - nbytes // 16:
            return None
        self._answers += 1
        self._saved += nbytes - len(body)
        timings = {**frame.timings, "encode": (time.perf_counter() - begun) * 1000}
        headers = array_headers(dataclasses.replace(frame, timings=timings)) | caching(form.tag(tag), VARY_CODED)
        headers["Content-Encoding"] = form.coding
        return Response(body, 200, headers, PLANES if form.filtered else media_type)

    async def stream(
        self, parts: AsyncGenerator[Part, None], form: Form, priority: Priority
    ) -> AsyncGenerator[Part, None]:
        """``parts`` as one encoded body. A part that is an array of rows is filtered where ``form`` says so. What comes
        from a part, and from the heads before it, is sent when it is there. Raises Overloaded where there is no thread
        for long."""
        packer = wire.Stream(form.coding, filtered=form.filtered)
        begun: list[Part] = []
        self._answers += 1
        async with contextlib.aclosing(parts):
            async for part in parts:
                begun.append(part)
                if isinstance(part, memoryview):
                    packed = await self._run(lambda: packer.part(*map(_filtered, begun)), priority)
                    self._saved += sum(map(_nbytes, begun)) - len(packed)
                    begun.clear()
                    yield packed
        yield packer.part(*begun) + packer.end()

    async def _run(self, work: Callable[[], T], priority: Priority) -> T:
        """On a thread, for which it waits as long as an answer that has begun may."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await asyncio.wrap_future(self._threads.submit(work, priority))
            except Overloaded:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(PAUSE_S)


async def _result(work: "Future[T]") -> T:
    return await asyncio.wrap_future(work)


def _body(frame: RenderedFrame, media_type: str, form: Form) -> bytes:
    """All of it, encoded."""
    plain = wire.planes(frame.pixels) if form.filtered else array_body(frame.pixels, media_type)
    return wire.compress(plain, form.coding, filtered=form.filtered)


def _filtered(part: Part) -> Part:
    return wire.planes(np.asarray(part)) if isinstance(part, memoryview) and part.ndim > 1 else part


def _nbytes(part: Part) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
