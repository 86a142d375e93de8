"""Content negotiation by Accept (RFC 9110 section 12.5.1) and the ``accept`` query parameter (PS3.18 8.3.3.1)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Request

from gpu_render.errors import NotAcceptable

LONGEST_REMEMBERED = 256
"""What a client sends that is longer [byte] is read anew each time: nobody can fill the memory with it."""

_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')
_PARAMETER = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^";])+')


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of Accept. ``media`` (``type/subtype``) and the names of ``parameters`` are in lower case, values
    without their quotes; ``quality`` is 0 to 1, 0 also where it cannot be read."""

    media: str
    parameters: Mapping[str, str]
    quality: float


def parse_accept(text: str) -> list[MediaRange]:
    """All elements of an Accept header, quoted and unquoted parameters alike."""
    return [found for element in _ELEMENT.findall(text) if (found := _media_range(element)) is not None]


def _media_range(element: str) -> MediaRange | None:
    media, *rest = (part.strip() for part in _PARAMETER.findall(element) or [""])
    parameters = {}
    for parameter in rest:
        name, _, value = parameter.partition("=")
        parameters[name.strip().lower()] = _unquoted(value.strip())
    quality = _quality_value(parameters.pop("q", "1"))
    return MediaRange(media.lower(), parameters, quality) if media else None


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _quality_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0


def header(request: Request, name: bytes) -> str | None:
    """A header of a request, the first of this ``name`` (in lower case), None where there is none."""
    for found, value in request.scope["headers"]:
        if found == name:
            return str(value, "latin-1")
    return None


def accept_text(request: Request) -> str:
    """What a request accepts: its query parameter ``accept`` where there is one, else its header; empty is anything."""
    asked: bytes = request.scope["query_string"]
    if b"accept" in asked or b"%" in asked:
        query = [value for value in request.query_params.getlist("accept") if value.strip()]
        if query:
            return ",".join(query)
    return ",".join(str(value, "latin-1") for name, value in request.scope["headers"] if name == b"accept")


def accepted(request: Request) -> list[MediaRange]:
    """``accept_text`` read; [] is anything."""
    text = accept_text(request)
    return list((_usual_ranges if len(text) <= LONGEST_REMEMBERED else parse_accept)(text))


_usual_ranges = lru_cache(maxsize=256)(parse_accept)


def quality(media: str, ranges: Sequence[MediaRange]) -> float:
    """Quality of ``media``: of the most specific range that covers it, 0 where none does."""
    main = media.split("/")[0]
    for candidate in (media, f"{main}/*", "*/*"):
        for entry in ranges:
            if entry.media == candidate:
                return entry.quality
    return 0.0


def choose(request: Request, offered: Sequence[str]) -> str:
    """The media type among ``offered`` (best first) that the request likes most; where it says nothing, the first.

    Raises NotAcceptable, which lists what is offered.
    """
    text = accept_text(request)
    return (_usual_choice if len(text) <= LONGEST_REMEMBERED else _choice)(text, tuple(offered))


def _choice(text: str, offered: tuple[str, ...]) -> str:
    ranges = parse_accept(text)
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media: (quality(media, ranges), -offered.index(media)))
    if quality(best, ranges) <= 0:
        raise NotAcceptable(f"this resource is offered as {', '.join(offered)}")
    return best


_usual_choice = lru_cache(maxsize=256)(_choice)
