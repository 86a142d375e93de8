"""Cross-origin requests (the Fetch standard, "CORS protocol"): which other sites' pages may read the answers.

A viewer that is served elsewhere needs its origin in the setting ``cors_origins``. Nothing of this is added where that
is empty: then browsers keep other sites' pages from reading anything, as they do by default.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Send

#: All that is asked of the service; POST is STOW-RS.
METHODS = ("GET", "HEAD", "POST")
#: What viewers send beyond the few headers that need no permission.
REQUEST_HEADERS = ("Accept", "Authorization", "Content-Type", "If-None-Match", "If-Range", "Priority", "Range")
#: What a page may read of an answer beyond the few headers that it always may.
EXPOSED_HEADERS = (
    "Accept-Ranges", "Content-Encoding", "Content-Length", "Content-Range", "ETag", "Retry-After", "Server-Timing",
    "Warning", "X-Array-Dtype", "X-Array-Shape", "X-Array-Stage", "X-Decode-Backend", "X-Render-Backend",
    "X-Render-Worker", "X-Window",
)  # fmt: skip
#: How long a browser may remember a permission [s]; none remembers it longer than two hours.
MAX_AGE_S = 7200

_DONE = b"access-control-expose-headers"


class CrossOrigin(CORSMiddleware):
    """Pure ASGI: answers preflights, and says on every answer, errors included, whether the asking page may read it.

    Named origins may send credentials (cookies, client certificates). ``*`` stands for any page of any site, which
    never may, nor may it reach into a private network by a browser of that network.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        named = "*" not in origins
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            allow_credentials=named,
            allow_private_network=named,
            expose_headers=EXPOSED_HEADERS,
            max_age=MAX_AGE_S,
        )

    async def send(self, message: Message, send: Send, request_headers: Headers) -> None:
        """Leave alone what was passed on from a worker process, which has said it already."""
        if any(name == _DONE for name, _ in message.get("headers", ())):
            await send(message)
        else:
            await super().send(message, send, request_headers)
