"""The ruler: an application that copies some bytes and answers them. No HTTP service on this stack can be much faster.

``/`` answers 512 KiB, ``/N`` N bytes.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

Message = MutableMapping[str, Any]

BODY = bytearray(range(256)) * 2048
MOST_BYTES = 64 << 20


@lru_cache(8)
def _answer(path: str) -> tuple[bytearray, list[tuple[bytes, bytes]]]:
    """What is copied each time, and the headers."""
    size = min(int(path[1:]), MOST_BYTES) if path[1:].isdecimal() else len(BODY)
    body = BODY if size == len(BODY) else bytearray(bytes(range(256)) * (size // 256 + 1))[:size]
    return body, [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]


async def app(
    scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """ASGI, by hand."""
    if scope["type"] != "http":
        return
    body, headers = _answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body)})
