"""What one process holds while it serves, and how handlers get at it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import Request

from api.negotiation import header
from gpu_render.ahead import Room
from gpu_render.archive import Archive
from gpu_render.archive.store import Store
from gpu_render.lookahead import LookAhead
from gpu_render.order import Orders
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.reencode import Reencoder
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.transcode import Transcoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """The running parts, built by the lifespan of ``api.app``. ``room``: for what streams make ahead. ``encoders``: the
    threads that make pictures of pixels. ``store`` None: nothing can be stored. ``reencoder`` None: no
    frames are coded anew for a later visit."""

    settings: Settings
    archive: Archive
    renderer: Renderer
    orders: Orders
    room: Room
    encoders: PriorityExecutor
    lookahead: LookAhead
    transcoder: Transcoder
    store: Store | None = None
    reencoder: Reencoder | None = None


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return cast(Service, request.app.state.service)


def priority_of(request: Request) -> Priority:
    """Urgency of a request from its ``Priority`` header (RFC 9218): u=0..3 a person waits, 4..5 thumbnails, 6..7
    prefetch. Absent or unreadable means that a person waits."""
    text = header(request, b"priority")
    for item in text.split(",") if text else ():
        key, _, value = item.strip().partition("=")
        if key == "u" and value in ("4", "5"):
            return Priority.THUMBNAIL
        if key == "u" and value in ("6", "7"):
            return Priority.PREFETCH
    return Priority.INTERACTIVE


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` until it is done or the client goes. Raises ClientGone after cancelling it in that case."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
