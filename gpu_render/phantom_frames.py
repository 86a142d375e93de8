"""One slice of the phantom as frames of six transfer syntaxes, for the service's test of itself.

The encoders run in a worker process: the codec libraries are never loaded where requests are served.
"""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from gpu_render import phantom
from gpu_render.demo import PHANTOM_SERIES, Stored

SLICE = phantom.SLICES // 2


def encode_payload(_meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker's operation ``phantom``: all frames one after the other; ``lengths`` by Transfer Syntax UID [byte]."""
    stored = phantom.stored_slice(SLICE).astype("<i2", copy=False)
    frames = {uid: encode(stored) for uid, encode in ENCODERS.items()}
    return {"lengths": {str(uid): len(frame) for uid, frame in frames.items()}}, b"".join(frames.values())


def _native(stored: Stored) -> bytes:
    return stored.tobytes()


def _rle(stored: Stored) -> bytes:
    """PS3.5 annex G: a segment for each byte of the samples, the most significant first, each of even length."""
    planes = np.moveaxis(stored.astype(">i2").view(np.uint8).reshape(*stored.shape, 2), 2, 0)
    segments = [bytes(imagecodecs.packbits_encode(np.ascontiguousarray(plane))) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segments[0])
    return header.tobytes() + b"".join(segments)


def _jpeg_lossless(stored: Stored) -> bytes:
    """ISO 10918-1 process 14 with selection value 1. Such a codestream knows no sign."""
    samples = stored.view(np.uint16)
    return bytes(imagecodecs.jpeg8_encode(samples, lossless=True, predictor=1, bitspersample=16))


def _of_the_demo(uid: UID) -> Callable[[Stored], bytes]:
    return next(series.encode for series in PHANTOM_SERIES if series.transfer_syntax_uid == uid and series.encode)


ENCODERS: dict[UID, Callable[[Stored], bytes]] = {
    ExplicitVRLittleEndian: _native,
    RLELossless: _rle,
    JPEGLosslessSV1: _jpeg_lossless,
    JPEGLSLossless: _of_the_demo(JPEGLSLossless),
    HTJ2KLossless: _of_the_demo(HTJ2KLossless),
    JPEG2000Lossless: _of_the_demo(JPEG2000Lossless),
}
