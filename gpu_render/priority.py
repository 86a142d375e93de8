"""Bounded queues with three priorities: one for loading frames, one for the device."""

import bisect
import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

from gpu_render.errors import Overloaded


class Priority(IntEnum):
    """Who waits: a person, a strip of thumbnails, or nobody yet."""

    INTERACTIVE = 0
    THUMBNAIL = 1
    PREFETCH = 2


class Awaited(Protocol):
    """Work that somebody may stop waiting for: a cancelled ``future`` means drop it."""

    @property
    def future(self) -> "Future[Any]": ...


FULL = "the render queue is full"

A = TypeVar("A", bound=Awaited)
T = TypeVar("T")


class PriorityQueue(Generic[A]):
    """A bounded queue of awaited work: lowest Priority first, in order of arrival within one.

    To refuse costs nothing that grows with the queue.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lines: dict[Priority, deque[tuple[int, A]]] = {priority: deque() for priority in Priority}
        self._arrivals = itertools.count()
        self._ready = threading.Condition()
        self._closed = False
        self._cancelled = False  # whether anything was, since those were last taken out

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def put(self, item: A, priority: Priority) -> None:
        """Add an item. In a full queue it takes the place of the youngest of the least urgent ones, if they are less
        urgent: that one's future raises Overloaded. Raises Overloaded at once where there is no place, or no queue."""
        displaced: A | None = None
        with self._ready:
            if self._closed:
                raise Overloaded("the service is shutting down")
            if len(self) >= self._capacity and self._cancelled:
                self._drop_cancelled()
            if len(self) >= self._capacity:
                displaced = self._displace(priority)
            self._lines[priority].append((next(self._arrivals), item))
            if priority is Priority.INTERACTIVE:
                self._ready.notify()
            else:
                self._ready.notify_all()  # not everybody takes it
        item.future.add_done_callback(self._note)
        if displaced is not None and displaced.future.set_running_or_notify_cancel():
            displaced.future.set_exception(Overloaded(FULL))

    def _note(self, future: "Future[Any]") -> None:
        self._cancelled = self._cancelled or future.cancelled()

    def _displace(self, priority: Priority) -> A:
        """Take out the youngest of the least urgent items. Raises Overloaded where none is less urgent."""
        for waits_as, line in reversed(self._lines.items()):
            if line and waits_as > priority:
                return line.pop()[1]
        raise Overloaded(FULL)

    def _drop_cancelled(self) -> None:
        self._cancelled = False
        for priority, line in self._lines.items():
            self._lines[priority] = deque(entry for entry in line if not entry[1].future.cancelled())

    def promote(self, future: "Future[Any]", priority: Priority) -> None:
        """Let the item with ``future`` wait among those of ``priority``, where it waits and is less urgent."""
        with self._ready:
            for waits_as, line in self._lines.items():
                entry = next((entry for entry in line if entry[1].future is future), None)
                if entry is not None:
                    if waits_as > priority:
                        line.remove(entry)
                        bisect.insort(self._lines[priority], entry, key=itemgetter(0))
                        self._ready.notify_all()
                    return

    def take(self, limit: int, wait: bool = True, least: Priority = Priority.PREFETCH) -> list[A]:
        """Wait for work; return up to ``limit`` items that somebody still waits for, or [] once closed. All are of one
        priority, ``least`` or more urgent: nobody waits for less urgent work that is done together with his.
        Without ``wait``, [] also where there is none now."""
        with self._ready:
            while True:
                for priority, line in self._lines.items():
                    taken: list[A] = []
                    while priority <= least and line and len(taken) < limit:
                        _, item = line.popleft()
                        if item.future.set_running_or_notify_cancel():
                            taken.append(item)
                    if taken:
                        return taken
                if self._closed or not wait:
                    return []
                self._ready.wait()

    def close(self) -> None:
        """Let takers go, and cancel what still waits."""
        with self._ready:
            self._closed = True
            waiting = [item for line in self._lines.values() for _, item in line]
            for line in self._lines.values():
                line.clear()
            self._ready.notify_all()
        for item in waiting:
            item.future.cancel()


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    work: Callable[[], T]
    future: "Future[T]" = field(default_factory=Future)


class PriorityExecutor:
    """Threads that run callables, most urgent first. ``reserved`` of them run only what a person waits for."""

    def __init__(self, threads: int, capacity: int, name: str, reserved: int = 0) -> None:
        self._queue: PriorityQueue[_Call[Any]] = PriorityQueue(capacity)
        least = [Priority.INTERACTIVE] * reserved + [Priority.PREFETCH] * (threads - reserved)
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name=f"{name}-{number}", daemon=True)
            for number, one in enumerate(least)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, work: Callable[[], T], priority: Priority) -> "Future[T]":
        """Queue ``work``. Raises Overloaded where the queue is full. Cancel the future to drop it."""
        call = _Call(work)
        self._queue.put(call, priority)
        return call.future

    def promote(self, future: "Future[Any]", priority: Priority) -> None:
        """Make queued work as urgent as ``priority``: somebody more urgent waits for it now."""
        self._queue.promote(future, priority)

    def _run(self, least: Priority) -> None:
        while calls := self._queue.take(1, least=least):
            settle(calls[0].future, calls[0].work)
            calls.clear()  # the result is its caller's: this thread may wait for long

    def close(self) -> None:
        """Finish what runs, drop what waits, join the threads."""
        self._queue.close()
        for thread in self._threads:
            thread.join()


def settle(future: "Future[T]", work: Callable[[], T]) -> None:
    """Run ``work`` and hand its result or error to whoever waits on ``future``."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the waiter, and the thread lives on
        future.set_exception(error)
    else:
        future.set_result(result)
