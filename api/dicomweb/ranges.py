"""One range of bytes of an answer (RFC 9110 section 14): viewers show the beginning of a progressive frame first."""

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from api.negotiation import header
from api.problems import problem
from api.streaming import IS_HEAD

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` (exclusive) of a representation of ``total`` bytes."""

    start: int
    stop: int
    total: int

    @property
    def headers(self) -> dict[str, str]:
        """Content-Range (RFC 9110 section 14.4) of a 206."""
        return {"Content-Range": f"bytes {self.start}-{self.stop - 1}/{self.total}"}


class Unsatisfiable(Exception):
    """The range begins behind the end: 416."""


def parse_range(text: str, total: int) -> ByteRange | None:
    """``bytes=a-b``, ``bytes=a-`` or ``bytes=-n``, cut off at the end.

    None, which means the whole, for another unit, for what is malformed and for several ranges: RFC 9110 section 14.2
    lets a server ignore them. Raises Unsatisfiable.
    """
    found = _RANGE.fullmatch(text)
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, stop = total - min(int(found[2]), total), total
    else:
        start, stop = int(found[1]), min(int(found[2] or total) + 1, total)
        if found[2] and int(found[2]) < start:
            return None
    if start >= total:
        raise Unsatisfiable
    return ByteRange(start, stop, total)


def wanted_range(request: Request, total: int | None, tag: str) -> ByteRange | None:
    """What of ``total`` bytes is asked for; None: the whole. If-Range (RFC 9110 section 13.1.5) has to name ``tag``.

    A body whose length is not known before (None) is sent whole. Raises Unsatisfiable.
    """
    text = None if request.scope.get(IS_HEAD) else header(request, b"range")  # RFC 9110 section 14.2: of GET only
    if text is None or total is None:
        return None
    condition = header(request, b"if-range")
    if condition is not None and condition.strip() != tag:
        return None
    return parse_range(text, total)


def not_satisfiable(request: Request, total: int) -> Response:
    """416, with the length that there is."""
    response = problem(
        416, "range-not-satisfiable", "No such range", f"the range begins behind the {total} bytes there are", request
    )
    response.headers["Content-Range"] = f"bytes */{total}"
    return response
