"""Answers that are given again: whoever asks the same thing gets what is still at hand without a look at the request.

To read a request, to check and to parse what it says takes longer than to answer with a frame that is held, and gives
the same each time. Only that is remembered here, never an answer: its handler leaves behind how to make it again, of
what is held at that moment.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.responses import Response
from starlette.types import Scope

from api.lines import LINE

T = TypeVar("T")

Again = Callable[[], Response | None]
"""Answers as the handler would, all that it counts and tells others included; None, and nothing done, where it has more
to do than to take what is at hand."""
Key = tuple[str, bytes, tuple[tuple[bytes, bytes], ...]]

MOST = 4096
"""Requests that are remembered: the frames of a dozen series of CT."""
LONGEST = 1024
"""What a request says that is longer [byte] is read anew each time: nobody can fill the memory with it."""

CONDITIONS = frozenset((b"if-none-match", b"if-range", b"range"))
"""Headers with which the answer may be another than the whole: such requests are never remembered."""
DECIDING = CONDITIONS | {b"accept", b"accept-encoding", b"priority"}
"""All headers that handlers of frames look at. What origins may read is said of each answer after it was made."""


class Repeatable(Response):
    """An answer whose handler may leave behind how to give it again."""

    again: Again | None = None


class EncodedResponse(Repeatable):
    """A body with headers that are encoded already."""

    def __init__(self, body: bytes | memoryview, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code, self.background = 200, None
        self.body, self.raw_headers = body, headers


def key_of(scope: Scope) -> Key | None:
    """All of a GET that decides its answer. None where the speed of a line does as well, which changes."""
    if LINE in scope:
        return None
    return scope["path"], scope["query_string"], tuple([pair for pair in scope["headers"] if pair[0] in DECIDING])


class Remembered(Generic[T]):
    """What is known of the requests that were answered last, at most ``most``. Lives on one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Key, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all of it: what was left behind belongs to a service that ends."""
        self._known.clear()

    def find(self, key: Key) -> T | None:
        """What ``keep`` was told of the same request, which becomes the one used last."""
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def keep(self, key: Key, known: T) -> None:
        """Remember a request, unless it is long or has conditions."""
        path, query, headers = key
        if len(path.encode("utf-8", "surrogatepass")) + len(query) + sum(len(value) for _, value in headers) > LONGEST:
            return
        if not CONDITIONS.isdisjoint(name for name, _ in headers):
            return
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
