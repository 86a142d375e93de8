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
        """Add an item. Raises Overloaded at once where the queue is full or closed."""
        with self._ready:
            if len(self._heap) >= self._capacity:
                self._drop_cancelled()
            if self._closed or len(self._heap) >= self._capacity:
                raise Overloaded("the service is shutting down" if self._closed else "the render queue is full")
            heapq.heappush(self._heap, (priority, next(self._arrivals), item))
            self._ready.notify()

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
                    return

    def take(self, limit: int, wait: bool = True) -> list[A]:
        """Wait for work; return up to ``limit`` items that somebody still waits for, or [] once closed. Without
        ``wait``, [] also where there is none now."""
        with self._ready:
            while True:
                taken: list[A] = []
                while self._heap and len(taken) < limit:
                    item = heapq.heappop(self._heap)[2]
                    if item.future.set_running_or_notify_cancel():
                        taken.append(item)
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
    """Threads that run callables, most urgent first."""

    def __init__(self, threads: int, capacity: int, name: str) -> None:
        self._queue: PriorityQueue[_Call[Any]] = PriorityQueue(capacity)
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
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

    def _run(self) -> None:
        while calls := self._queue.take(1):
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
