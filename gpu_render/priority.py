"""Bounded queues with three priorities: one for loading frames, one for the device."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
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
    """A bounded heap of awaited work: lowest Priority first, in order of arrival within one."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heap: list[tuple[int, int, A]] = []
        self._arrivals = itertools.count()
        self._ready = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, item: A, priority: Priority) -> None:
        """Add an item. In a full queue it takes the place of the youngest of the least urgent ones, if they are less
        urgent: that one's future raises Overloaded. Raises Overloaded at once where there is no place, or no queue."""
        displaced: A | None = None
        with self._ready:
            if len(self._heap) >= self._capacity:
                self._drop_cancelled()
            if len(self._heap) >= self._capacity:
                displaced = self._displace(priority)
            if self._closed or len(self._heap) >= self._capacity:
                raise Overloaded("the service is shutting down" if self._closed else FULL)
            heapq.heappush(self._heap, (priority, next(self._arrivals), item))
            self._ready.notify_all()  # not everybody takes everything
        if displaced is not None and displaced.future.set_running_or_notify_cancel():
            displaced.future.set_exception(Overloaded(FULL))

    def _displace(self, priority: Priority) -> A | None:
        """Take out the youngest of the least urgent items, where it is less urgent than ``priority``."""
        if not self._heap:
            return None
        last = max(range(len(self._heap)), key=lambda place: self._heap[place][:2])
        if self._heap[last][0] <= priority:
            return None
        _, _, item = self._heap.pop(last)
        heapq.heapify(self._heap)
        return item

    def _drop_cancelled(self) -> None:
        self._heap = [entry for entry in self._heap if not entry[2].future.cancelled()]
        heapq.heapify(self._heap)

    def promote(self, future: "Future[Any]", priority: Priority) -> None:
        """Let the item with ``future`` wait among those of ``priority``, where it waits and is less urgent."""
        with self._ready:
            for place, (waits_as, arrival, item) in enumerate(self._heap):
                if item.future is future and waits_as > priority:
                    self._heap[place] = (priority, arrival, item)
                    heapq.heapify(self._heap)
                    self._ready.notify_all()
                    return

    def take(self, limit: int, wait: bool = True, least: Priority = Priority.PREFETCH) -> list[A]:
        """Wait for work; return up to ``limit`` items that somebody still waits for, or [] once closed. All are of one
        priority, ``least`` or more urgent: nobody waits for less urgent work that is done together with his.
        Without ``wait``, [] also where there is none now."""
        with self._ready:
            while True:
                taken: list[A] = []
                while self._heap and len(taken) < limit and self._heap[0][0] <= least:
                    priority, _, item = heapq.heappop(self._heap)
                    if item.future.set_running_or_notify_cancel():
                        taken.append(item)
                        least = Priority(priority)
                if taken or self._closed or not wait:
                    return taken
                self._ready.wait()

    def close(self) -> None:
        """Let takers go, and cancel what still waits."""
        with self._ready:
            self._closed = True
            for _, _, item in self._heap:
                item.future.cancel()
            self._heap.clear()
            self._ready.notify_all()


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
