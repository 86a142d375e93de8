"""Display pixels as files of the three media types that are offered (PS3.18 8.7.4)."""

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from gpu_render.errors import NotRenderable
from gpu_render.images import encode_png as plain_png
from gpu_render.pictures.gif import animation, encode_frame

Pixels = npt.NDArray[np.generic]

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"

DEFAULT_QUALITY = 90
"""Of a JPEG where the request says nothing."""
FULL_CHROMA_QUALITY = 90
"""From this quality on the colours of a JPEG have the resolution of its luminance (4:4:4), below it half (4:2:0)."""

LONGEST_SIDE = {JPEG: 65500, PNG: 0x7FFFFFFF, GIF: 65535}
"""What each type can hold [px]; for JPEG, its encoder."""

_ICC_CHUNK = 65519  # of a profile in one APP2 segment: 65535 without its own length and the 14 bytes of the marker
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR_END = len(_SIGNATURE) + 25


def encode(pixels: Pixels, media_type: str, quality: int = DEFAULT_QUALITY, profile: bytes | None = None) -> bytes:
    """A picture of uint8 (height, width) or (height, width, 3), ``profile`` embedded where the type can hold one.

    ``quality`` 1 to 100 is libjpeg's, of JPEG only: PNG is lossless, and so is GIF for grey. Raises NotRenderable for
    a picture that is larger than the type allows.
    """
    check_size(pixels.shape[1], pixels.shape[0], media_type)
    pixels = np.ascontiguousarray(pixels)
    if media_type == JPEG:
        return _jpeg(pixels, quality, profile)
    if media_type == PNG:
        return _png(pixels, profile)
    return animation([encode_frame(pixels)], [0])


def check_size(width: int, height: int, media_type: str) -> None:
    """Raise NotRenderable where ``media_type`` cannot hold so many pixels in a row or column."""
    if max(width, height) > LONGEST_SIDE[media_type]:
        raise NotRenderable(f"{media_type} holds at most {LONGEST_SIDE[media_type]} pixels a side; ask for a viewport")


def _jpeg(pixels: Pixels, quality: int, profile: bytes | None) -> bytes:
    options: dict[str, Any] = {}
    if pixels.ndim == 3:
        options["subsampling"] = "444" if quality >= FULL_CHROMA_QUALITY else "420"
    data = bytes(imagecodecs.jpeg8_encode(pixels, level=quality, **options))
    if profile is None:
        return data
    # SOI, the JFIF segment that libjpeg writes first, the profile, the rest (ICC.1 B.4).
    end = 4 + struct.unpack(">H", data[4:6])[0] if data[2:4] == b"\xff\xe0" else 2
    return data[:end] + _app2_segments(profile) + data[end:]


def _app2_segments(profile: bytes) -> bytes:
    chunks = [profile[start : start + _ICC_CHUNK] for start in range(0, len(profile), _ICC_CHUNK)]
    return b"".join(
        b"\xff\xe2" + struct.pack(">H", len(chunk) + 16) + b"ICC_PROFILE\0" + bytes((number, len(chunks))) + chunk
        for number, chunk in enumerate(chunks, 1)
    )


def _png(pixels: Pixels, profile: bytes | None) -> bytes:
    data = plain_png(pixels)
    if profile is None:
        return data
    body = b"iCCP" + b"ICC Profile\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:_IHDR_END] + chunk + data[_IHDR_END:]
