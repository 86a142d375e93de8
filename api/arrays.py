"""A rendered frame as an HTTP body with the headers that say what it is."""

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from api.again import EncodedResponse
from gpu_render import PIPELINE_VERSION
from gpu_render.frame import RenderedFrame, Samples, Window
from gpu_render.reference import FrameRef
from gpu_render.view import View

OCTETS = "application/octet-stream"
NPY = "application/x-npy"
MEDIA_TYPES = (OCTETS, NPY)

#: A frame of a SOP Instance never changes (PS3.3 C.12.1.1.1), so browsers may keep it for a year.
IMMUTABLE = "private, max-age=31536000, immutable"
VARY = "Accept, Authorization"
#: The same where bodies may have a content coding.
VARY_CODED = "Accept, Accept-Encoding, Authorization"


@lru_cache(maxsize=4096)
def etag(ref: FrameRef, view: View, media_type: str, version: str) -> str:
    """Strong ETag over what decides the bytes: the frame, the view, the form, this pipeline and the file's version."""
    key = repr((ref, view, media_type, PIPELINE_VERSION, version)).encode()
    return f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether If-None-Match (RFC 9110 section 13.1.2) names ``tag``. ``*`` names none."""
    if if_none_match is None:
        return False
    candidates = (item.strip().removeprefix("W/") for item in if_none_match.split(","))
    return tag in candidates


def caching(tag: str, vary: str = VARY) -> dict[str, str]:
    """Headers that let a browser keep the answer. ``vary``: what of a request decides it."""
    return {"ETag": tag, "Cache-Control": IMMUTABLE, "Vary": vary}


def number(value: float) -> str:
    """Shortest decimal that reads back as ``value``; 40 rather than 40.0."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def window_text(window: Window) -> str:
    """``center,width,FUNCTION``."""
    return f"{number(window.center)},{number(window.width)},{window.function}"


def array_headers(frame: RenderedFrame) -> dict[str, str]:
    """The X-Array-*, X-Window, X-*-Backend and Server-Timing headers."""
    pixels = frame.pixels
    said = _said(pixels.shape, pixels.dtype.str, frame.stage, frame.decoder, frame.backend, frame.window)
    return {**said, "Server-Timing": _timing(frame.timings)}


def _said(
    shape: tuple[int, ...], dtype: str, stage: str, decoder: str, backend: str, window: Window | None
) -> dict[str, str]:
    headers = {
        "X-Array-Shape": ",".join(map(str, shape)),
        "X-Array-Dtype": dtype,
        "X-Array-Stage": str(stage),
        "X-Decode-Backend": decoder,
        "X-Render-Backend": backend,
    }
    return headers if window is None else headers | {"X-Window": window_text(window)}


def _timing(timings: Mapping[str, float]) -> str:
    return ", ".join([f"{step};dur={value:.3f}" for step, value in timings.items()])


def array_body(pixels: Samples, media_type: str) -> bytes | memoryview:
    """The pixels as OCTETS, a flat view of the same memory, or as NPY."""
    if media_type == NPY:
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        return buffer.getbuffer()
    return np.ascontiguousarray(pixels).data.cast("B")


@lru_cache(maxsize=1024)
def _encoded(tag: str, vary: str, media_type: str, *said: Any) -> tuple[tuple[bytes, bytes], ...]:
    """What does not change from answer to answer. ``said``: as of ``_said``."""
    headers = _said(*said) | caching(tag, vary) | {"Content-Type": media_type}
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())


def array_response(frame: RenderedFrame, media_type: str, tag: str, vary: str = VARY) -> EncodedResponse:
    """The pixels, without a copy: the body is a flat byte view of the array."""
    pixels, body = frame.pixels, array_body(frame.pixels, media_type)
    said = pixels.shape, pixels.dtype.str, frame.stage, frame.decoder, frame.backend, frame.window
    own = (b"server-timing", _timing(frame.timings).encode()), (b"content-length", str(len(body)).encode())
    return EncodedResponse(body, [*_encoded(tag, vary, media_type, *said), *own])
