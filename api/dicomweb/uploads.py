"""Bodies of store requests (PS3.18 10.5.1, RFC 2387, RFC 2046 5.1), part by part as they arrive."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.service import ClientGone
from gpu_render.errors import BadRequest, RenderError, TooLarge, TooSlow, UnsupportedMediaType

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # says in a line what each malformed body is told anyway

DICOM = "application/dicom"

IDLE_S = 60.0
"""How long a client may keep an upload waiting."""
SLOWEST_BYTES_S = 1024
"""What earns patience anew: a client that sends a byte a minute has none left soon [byte/s]."""
MAX_PREAMBLE_BYTES = 8192
MAX_HEADERS = 16
MAX_HEADER_BYTES = 8192
_TRANSFER_ENCODINGS = ("", "binary", "7bit", "8bit")


@dataclass(frozen=True, slots=True)
class PartHead:
    """A part begins. ``nbytes``: its size where its header says so."""

    media_type: str
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class PartEnd:
    """It is complete."""


Event = PartHead | PartEnd | memoryview
"""What a body consists of; memoryviews are bytes of the part that began last."""


class Patience:
    """How long one upload may still be waited for: IDLE_S at most, and less where nothing worth it comes."""

    def __init__(self) -> None:
        self.left_s = IDLE_S

    def spend(self, waited_s: float, nbytes: int) -> None:
        """Count a wait and what it brought."""
        self.left_s = min(IDLE_S, self.left_s - waited_s + nbytes / SLOWEST_BYTES_S)


async def chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ClientGone, TooSlow, and TooLarge behind the first ``max_bytes``."""
    patience, left, more = Patience(), max_bytes, True
    while more:
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience.left_s):
                message = await request.receive()
        except TimeoutError:
            raise TooSlow("the body stopped arriving") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        data: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        patience.spend(time.monotonic() - began, len(data))
        yield data[:left]
        left -= len(data)
        if left < 0:
            raise TooLarge(f"the request is larger than the limit of {max_bytes} bytes")


async def events(request: Request, boundary: bytes | None, max_bytes: int) -> AsyncIterator[Event]:
    """The parts of the body; with ``boundary`` None it is one. Raises what ``chunks`` and ``Parts`` raise."""
    if boundary is None:
        yield PartHead(DICOM, None)
        async for data in chunks(request, max_bytes):
            yield memoryview(data)
        yield PartEnd()
        return
    parts = Parts(boundary)
    async for data in chunks(request, max_bytes):
        for event in parts.feed(data):
            yield event
    parts.finish()


def boundary_of(request: Request, max_bytes: int) -> bytes | None:
    """What separates the parts of the body, None for a body that is one instance.

    Raises UnsupportedMediaType, BadRequest, and TooLarge for a Content-Length beyond ``max_bytes``.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body may have no content coding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise TooLarge(f"the request is larger than the limit of {max_bytes} bytes")
    media_type, parameters = parse_options_header(request.headers.get("content-type"))
    if media_type == DICOM.encode():
        return None
    if media_type != b"multipart/related" or parameters.get(b"type", DICOM.encode()).lower() != DICOM.encode():
        raise UnsupportedMediaType(f'taken are {DICOM} and multipart/related; type="{DICOM}"')
    boundary = parameters.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046 5.1.1
        raise BadRequest("Content-Type names no boundary of 1 to 70 characters")
    return boundary


class Parts:
    """Takes a body in pieces of any size and tells what it consists of. Holds nothing but a part's header.

    Delimiters are lines that end in CRLF: a lone LF may be one of the bytes of a file. Raises BadRequest for what is no
    such body, and UnsupportedMediaType for a part that is no DICOM file.
    """

    def __init__(self, boundary: bytes) -> None:
        self._first = re.compile(rb"(?:\A|\n)(--" + re.escape(boundary) + rb"(?:\r\n|--))")
        self._preamble: bytes | None = b""
        self._events: list[Event] = []
        self._name, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._left: int | None = None
        self._ended = False
        self._any = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._head,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._close,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> Iterator[Event]:
        """What the next piece of the body brings, before what is wrong with the rest of it is raised."""
        if self._preamble is not None:
            data = self._skip_preamble(self._preamble + data)
        error: RenderError | None = None
        try:
            self._parser.write(data)
        except FormParserError:
            error = BadRequest("the body is not multipart/related as its boundary says")
        except RenderError as found:
            error = found
        events, self._events = self._events, []
        yield from events
        if error is not None:
            raise error

    def finish(self) -> None:
        """The body has ended. Raises BadRequest where it has not come to its end, or holds no part."""
        if not self._ended:
            raise BadRequest("the body ends before its closing delimiter")
        if not self._any:
            raise BadRequest("the body holds no parts")

    def _skip_preamble(self, data: bytes) -> bytes:
        """What follows the preamble (RFC 2046 5.1.1), nothing while it lasts."""
        first = self._first.search(data)
        if first is None:
            if len(data) > MAX_PREAMBLE_BYTES:
                raise BadRequest("the body does not begin with its boundary")
            self._preamble = data
            return b""
        self._preamble = None
        return data[first.start(1) :]

    def _begin(self) -> None:
        self._any = True
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value.strip()
        self._name, self._value = b"", b""

    def _head(self) -> None:
        media_type = parse_options_header(self._headers.get(b"content-type", DICOM.encode()))[0].decode("latin-1")
        if media_type != DICOM:
            raise UnsupportedMediaType(f"each part is {DICOM}")
        coding = self._headers.get(b"content-transfer-encoding", b"").lower().decode("latin-1")
        if coding not in _TRANSFER_ENCODINGS:
            raise UnsupportedMediaType("a part may have no transfer encoding but binary")
        length = self._headers.get(b"content-length", b"")
        self._left = int(length) if length.isdigit() and len(length) < 20 else None
        self._events.append(PartHead(media_type, self._left))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._left is not None:
            self._left -= end - start
        self._events.append(memoryview(data)[start:end])

    def _end(self) -> None:
        if self._left:  # too few bytes, or too many
            raise BadRequest("a part does not have the Content-Length that it declares")
        self._events.append(PartEnd())

    def _close(self) -> None:
        self._ended = True
