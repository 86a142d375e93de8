"""Content negotiation by Accept (RFC 9110 section 12.5.1)."""

from collections.abc import Sequence

from fastapi import Request

from gpu_render.errors import NotAcceptable


def _ranges(accept: str) -> list[tuple[str, float]]:
    """(media range, quality) of each element; what cannot be read counts as quality 0."""
    ranges = []
    for element in accept.split(","):
        media, *parameters = (part.strip() for part in element.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media:
            ranges.append((media.lower(), quality))
    return ranges


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Quality of ``media``: of the most specific range that covers it."""
    main = media.split("/")[0]
    for candidate in (media, f"{main}/*", "*/*"):
        for name, quality in ranges:
            if name == candidate:
                return quality
    return 0.0


def choose(request: Request, offered: Sequence[str]) -> str:
    """The media type among ``offered`` (best first) that the request's Accept likes most; without one, the first.

    Raises NotAcceptable, which lists what is offered.
    """
    accept = ",".join(request.headers.getlist("accept"))
    if not accept.strip():
        return offered[0]
    ranges = _ranges(accept)
    best = max(offered, key=lambda media: (_quality(media, ranges), -offered.index(media)))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"this resource is offered as {', '.join(offered)}")
    return best
