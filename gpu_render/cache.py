"""Decoded frames within a byte budget, one load a key at a time. Lives on the event loop: no locks."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from cachetools import Cache, LRUCache


class Kept(Protocol):
    """Something that counts against the budget."""

    @property
    def nbytes(self) -> int: ...

    @property
    def is_gone(self) -> bool:
        """Whether it is of no use any more: it counts as missing."""
        ...

    def left(self) -> None:
        """Called when the cache does not keep it (any longer)."""
        ...


V = TypeVar("V", bound=Kept)


class _Values(LRUCache[Hashable, V]):
    """Tells values that have to make room."""

    def popitem(self) -> tuple[Hashable, V]:
        key, value = super().popitem()
        value.left()
        return key, value


class _Load(Generic[V]):
    """A load under way and how many wait for it."""

    def __init__(self, task: "asyncio.Task[V]") -> None:
        self.task = task
        self.waiting = 0


class FrameCache(Generic[V]):
    """Least recently used values go first when ``budget_bytes`` is full; a value above the budget is not kept.

    Any number of callers that miss on one key share one load. A load is cancelled when all of them have gone; a
    failed load is forgotten, so that the next caller tries again.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._values: _Values[Kept] = _Values(budget_bytes, getsizeof=lambda value: value.nbytes)
        self._loads: dict[Hashable, _Load[V]] = {}
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return int(self._values.currsize)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, kind: type[Kept]) -> int:
        """How many values are of this kind. Looks at all of them."""
        return sum(isinstance(value, kind) for value in self._values.values())

    def peek(self, key: Hashable) -> V | None:
        """The value, counted as a hit, or None."""
        value = self.find(key)
        if value is not None:
            self.hits += 1
        return value

    def find(self, key: Hashable) -> V | None:
        """The value, which becomes the one used last, or None. Whether it was of use, ``used`` says."""
        return self.kept(key)  # type: ignore[return-value]  # of such a key

    def keep(self, key: Hashable, value: Kept) -> None:
        """Keep something that is made of values beside them: within the same budget, and no longer than ``clear``."""
        if value.nbytes <= self._values.maxsize:
            self._values[key] = value

    def kept(self, key: Hashable) -> Kept | None:
        """What ``keep`` has put there, and was not dropped since."""
        try:
            value = self._values[key]
        except KeyError:  # get() would look twice for what is there
            return None
        return None if value.is_gone else value

    def used(self) -> None:
        """Count a hit: what ``find`` gave answered a request."""
        self.hits += 1

    def holds(self, key: Hashable) -> bool:
        """Whether the value is there; unlike ``peek`` that is no use of it."""
        value = Cache.__getitem__(self._values, key) if key in self._values else None
        return value is not None and not value.is_gone

    async def get(self, key: Hashable, load: Callable[[], Awaitable[V]]) -> V:
        """The value of ``key``, loaded by ``load`` where it is not held. Raises what ``load`` raises."""
        value = self.peek(key)
        if value is not None:
            return value
        self.misses += 1
        entry = self._loads.get(key)
        if entry is None:
            entry = self._loads[key] = _Load(asyncio.ensure_future(self._fill(key, load)))
        entry.waiting += 1
        try:
            return await asyncio.shield(entry.task)
        finally:
            entry.waiting -= 1
            if entry.waiting == 0 and not entry.task.done():
                entry.task.cancel()
                if self._loads.get(key) is entry:
                    del self._loads[key]

    async def _fill(self, key: Hashable, load: Callable[[], Awaitable[V]]) -> V:
        task = asyncio.current_task()
        try:
            value = await load()
        finally:
            # clear() or a cancelled load may have made room for a newer one under the same key.
            current = self._loads.get(key)
            valid = current is not None and current.task is task
            if valid:
                del self._loads[key]
        if valid:
            self.add(key, value)
        else:
            value.left()
        return value

    def add(self, key: Hashable, value: V) -> None:
        """A value that was loaded, where none is held: kept, or told that it is not."""
        if value.nbytes <= self._values.maxsize:
            self._values[key] = value
        else:
            value.left()

    def is_loading(self, key: Hashable) -> bool:
        """Whether the value is being loaded."""
        return key in self._loads

    def abandon(self, key: Hashable) -> None:
        """Let the next caller begin a load of its own; who waits for the one under way still gets its value."""
        self._loads.pop(key, None)

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        value = self._values.pop(key, None)
        if value is not None:
            value.left()

    def clear(self) -> None:
        """Forget all values, and do not keep what is being loaded now."""
        while self._values:
            self._values.popitem()
        self._loads.clear()
