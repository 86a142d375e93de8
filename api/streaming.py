"""An answer whose body is made while it is sent."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpu_render.errors import RenderError

log = logging.getLogger("gpu_render.api")

Part = bytes | bytearray | memoryview

#: Set in the scope of a HEAD that is answered as a GET.
IS_HEAD = "gpu_render.is_head"


class Streamed(Response):
    """A body that an asynchronous generator yields in parts, each sent as it comes, without a copy.

    The generator is asked for a part when the client has taken those before, so that a slow one costs no memory. It is
    closed, and whatever it waits for cancelled, as soon as the client goes. A HEAD is answered without asking it.
    ``length``: of the whole body [byte], where that is known before.
    """

    def __init__(
        self,
        parts: AsyncGenerator[Part, None],
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        *,
        status: int = 200,
        length: int | None = None,
    ) -> None:
        self._parts = parts
        self.status_code = status
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        if length is not None:
            self.headers["Content-Length"] = str(length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Returns without completing the answer where the client has gone, or where a part cannot be had: the
        server closes the connection then, so that nobody takes what came for the whole."""
        sending = asyncio.ensure_future(self._send(scope, send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            try:
                sending.result()
            except RenderError as error:
                log.warning("an answer was broken off: %s (%s)", error, type(error).__name__)

    async def _send(self, scope: Scope, send: Send) -> None:
        async with contextlib.aclosing(self._parts) as parts:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope.get(IS_HEAD):
                await send({"type": "http.response.body", "body": b""})
                return
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
