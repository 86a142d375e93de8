"""Many pieces of work in order, a few of them ahead of whoever takes the results: how answers of many frames stream."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from gpu_render.errors import RenderError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIB = 1024 * 1024

WINDOW_BYTES = 64 * MIB
"""Most results [byte] of one stream that may be under way, or done before their turn."""
MOST_AHEAD = 2 * max(4, min(os.cpu_count() or 1, 16))
"""Most results of one stream, however small: enough to keep all decoder processes busy."""


class Room:
    """Bytes that all streams of a process may have ahead together. Lives on one event loop."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.taken = 0

    def has(self, nbytes: int) -> bool:
        """Whether so much more may be taken."""
        return self.taken + nbytes <= self.nbytes


async def in_order(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    size: Callable[[Item], int],
    room: Room,
    *,
    window_bytes: int = WINDOW_BYTES,
    most: int = MOST_AHEAD,
) -> AsyncGenerator[tuple[Item, Result | RenderError], None]:
    """Each item with the result of ``work(item)``, in the order of ``items``; with the RenderError of one that fails.

    While a result is taken, later ones are under way: as many as fit into ``window_bytes`` and ``room`` by what
    ``size`` says of them [byte], at most ``most``; one always, however large. A result counts until the next one is
    asked for. So a reader that stops costs no more than that. Close the generator (``contextlib.aclosing``) to cancel
    what is under way. An error that is no RenderError ends it.
    """
    window = _Window(items, work, size, room, window_bytes, most)
    try:
        while window.fill():
            yield await window.first()
            window.drop_first()
    finally:
        await window.close()


class _Window(Generic[Item, Result]):
    """What is under way: the first of it is the next to be taken, or being taken."""

    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Awaitable[Result]],
        size: Callable[[Item], int],
        room: Room,
        window_bytes: int,
        most: int,
    ) -> None:
        self._items = items
        self._work = work
        self._size = size
        self._room = room
        self._window_bytes = window_bytes
        self._most = most
        self._begun = 0
        self._taken = 0
        self._ahead: deque[tuple[Item, int, asyncio.Future[Result]]] = deque()

    def fill(self) -> bool:
        """Begin what there is room for; whether anything is under way."""
        while self._begun < len(self._items) and len(self._ahead) < self._most:
            item = self._items[self._begun]
            nbytes = self._size(item)
            fits = self._taken + nbytes <= self._window_bytes and self._room.has(nbytes)
            if self._ahead and not fits:
                break
            self._begun += 1
            self._count(nbytes)
            self._ahead.append((item, nbytes, asyncio.ensure_future(self._work(item))))
        return bool(self._ahead)

    async def first(self) -> tuple[Item, Result | RenderError]:
        item, _, future = self._ahead[0]
        try:
            return item, await future
        except RenderError as error:
            return item, error

    def drop_first(self) -> None:
        _, nbytes, _ = self._ahead.popleft()
        self._count(-nbytes)

    def _count(self, nbytes: int) -> None:
        self._taken += nbytes
        self._room.taken += nbytes

    async def close(self) -> None:
        """Cancel what is under way, and wait until it has noticed."""
        futures = [future for _, _, future in self._ahead]
        for future in futures:
            future.cancel()
        self._ahead.clear()
        self._count(-self._taken)
        await asyncio.gather(*futures, return_exceptions=True)
