"""JSON answers: an ETag, 304 where the client has the same text already, zstd or gzip where it takes that."""

import gzip
import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from api.arrays import matches
from api.encoding import codings
from api.negotiation import parse_accept
from gpu_render import wire

#: Lists change, so that a browser has to ask; what it kept it may use after a 304.
CACHING = {"Cache-Control": "private, no-cache", "Vary": "Accept, Accept-Encoding, Authorization"}
#: Of zlib's levels: slices' data sets resemble each other, which is found from level 4 on. Higher ones take longer
#: and save little more; ``python -m benchmarks.metadata --levels`` measures it.
GZIP_LEVEL = 5
#: Below this a packet is sent anyhow [byte].
_WORTH_PACKING = 1024


def gzip_accepted(request: Request) -> bool:
    """Whether Accept-Encoding (RFC 9110 section 12.5.3) allows gzip. Absent, it asks for none."""
    quality = {entry.media: entry.quality for entry in parse_accept(request.headers.get("accept-encoding", ""))}
    return quality.get("gzip", quality.get("x-gzip", quality.get("*", 0))) > 0


def weak_etag(*parts: bytes) -> str:
    """An ETag over what decides a JSON text. Weak: the same text may be sent packed, whose bytes a library decides."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return f'W/"{digest.hexdigest()}"'


def not_modified(request: Request, tag: str) -> Response | None:
    """304 where If-None-Match names ``tag``, or any: then there is such a document."""
    known = request.headers.get("if-none-match")
    if known is None or not (known.strip() == "*" or matches(known, tag.removeprefix("W/"))):
        return None
    return Response(status_code=304, headers={**CACHING, "ETag": tag})


def _packed(text: bytes, coding: wire.Coding) -> bytes:
    """zstd takes a tenth of gzip's time, and finds more in texts as long as manifests."""
    if coding == "gzip":
        return gzip.compress(text, GZIP_LEVEL, mtime=0)
    return wire.compress(text, coding, filtered=False)


def json_document(
    request: Request, text: bytes, media_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Response:
    """``text`` as an answer. Packs where it is worth it: for large ones, call it in a thread."""
    tag = weak_etag(text)
    if (same := not_modified(request, tag)) is not None:
        return same
    found = {**CACHING, **(headers or {}), "ETag": tag}
    coding = next(iter(codings(request)), None) if len(text) >= _WORTH_PACKING else None
    if coding is not None:
        text = _packed(text, coding)
        found["Content-Encoding"] = coding
    return Response(text, headers=found, media_type=media_type)
