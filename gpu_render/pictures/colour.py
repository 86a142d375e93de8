"""The ``iccprofile`` of a picture (PS3.18 8.3.5.1.5): which profile says what its colours are, and changing them.

A profile out of a file is somebody's bytes, and Little CMS is C code that reads them: colours are changed with it in a
worker process only (decision 0003).
"""

import base64
import binascii
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from gpu_render.errors import CorruptPixelData, NotRenderable, TooLarge
from gpu_render.frame import EncodedFrame
from gpu_render.pictures.dataset import DicomJson, first, items
from gpu_render.pictures.profiles import ADOBE_RGB, ROMM_RGB, SRGB, ColorSpace, grey_profile, profile_of
from gpu_render.workers import WorkerPool

Pixels = npt.NDArray[np.generic]
ReadBulk = Callable[[str], bytes]
"""Reads a value by the path of ``Archive.bulkdata``."""

MAX_PROFILE_BYTES = 4 * 1024 * 1024
"""Largest profile of a file that is embedded or used [byte]."""


class Profile(StrEnum):
    """Values of ``iccprofile``."""

    NO = "no"
    YES = "yes"
    SRGB = "srgb"
    ADOBE_RGB = "adobergb"
    ROMM_RGB = "rommrgb"


SPACES: dict[str, ColorSpace] = {"srgb": SRGB, "adobergb": ADOBE_RGB, "rommrgb": ROMM_RGB}
"""By value of ``iccprofile``, which is Color Space (0028,2002) in lower case."""

_JPEG_SYNTAXES = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)}
_ICC_PROFILE, _COLOR_SPACE = "00282000", "00282002"
_OPTICAL_PATHS, _OPTICAL_PATH, _IDENTIFICATION = "00480105", "00480106", "00480207"
_SHARED_GROUPS, _PER_FRAME_GROUPS = "52009229", "52009230"


@dataclass(frozen=True, slots=True)
class Source:
    """What says how a frame's colours are meant: a ``profile``, or else a well-known ``space``."""

    profile: bytes | None
    space: ColorSpace = SRGB


def source_of(dataset: DicomJson, frame_number: int, read: ReadBulk, encoded: Callable[[], EncodedFrame]) -> Source:
    """In the order of PS3.18 8.3.5.1.5: ICC Profile (0028,2000) of the object or of the frame's optical path, the one
    in the frame's JPEG stream, Color Space (0028,2002), sRGB.

    Raises CorruptPixelData for a profile that is none, NotRenderable where it is not known which one holds.
    """
    profile = _dicom_profile(dataset, frame_number, read) or _stored_profile(encoded())
    if profile is not None:
        return Source(_checked(profile))
    return Source(None, SPACES.get(str(first(dataset, _COLOR_SPACE) or "").lower(), SRGB))


def _dicom_profile(dataset: DicomJson, frame_number: int, read: ReadBulk) -> bytes | None:
    if _ICC_PROFILE in dataset:
        return _bytes(dataset[_ICC_PROFILE], _ICC_PROFILE, read)
    paths = items(dataset, _OPTICAL_PATHS)
    if not any(_ICC_PROFILE in path for path in paths):
        return None
    number = _path_of(dataset, frame_number, paths)
    return _bytes(paths[number].get(_ICC_PROFILE, {}), f"{_OPTICAL_PATHS}/{number + 1}/{_ICC_PROFILE}", read)


def _path_of(dataset: DicomJson, frame_number: int, paths: list[DicomJson]) -> int:
    """Which item of Optical Path Sequence (0048,0105) a frame was taken through."""
    if len(paths) == 1:
        return 0
    per_frame = items(dataset, _PER_FRAME_GROUPS)
    groups = [*per_frame[frame_number - 1 : frame_number], *items(dataset, _SHARED_GROUPS)]
    for group in groups:
        for reference in items(group, _IDENTIFICATION):
            wanted = first(reference, _OPTICAL_PATH)
            found = [number for number, path in enumerate(paths) if first(path, _OPTICAL_PATH) == wanted]
            if len(found) == 1:
                return found[0]
    raise NotRenderable("which of the object's optical paths, and so which ICC Profile, the frame has is not known")


def _bytes(element: object, path: str, read: ReadBulk) -> bytes | None:
    if not isinstance(element, dict):
        raise CorruptPixelData("ICC Profile is malformed")
    if "InlineBinary" in element:
        try:
            return base64.b64decode(element["InlineBinary"], validate=True) or None
        except (binascii.Error, TypeError, ValueError):
            raise CorruptPixelData("ICC Profile is malformed") from None
    return read(path) or None if "BulkDataURI" in element else None


def _stored_profile(frame: EncodedFrame) -> bytes | None:
    return jpeg_profile(frame.data) if frame.transfer_syntax_uid in _JPEG_SYNTAXES else None


def jpeg_profile(data: bytes | memoryview) -> bytes | None:
    """The profile in the APP2 segments of a JPEG stream (ICC.1 annex B.4); None where there is none, or not all."""
    chunks: dict[int, bytes] = {}
    count, position = 0, 2
    with memoryview(data) as view:
        if bytes(view[:2]) != b"\xff\xd8":
            return None
        while position + 4 <= len(view):
            marker, length = struct.unpack_from(">HH", view, position)
            if marker not in range(0xFFC0, 0xFFFF) or marker == 0xFFDA or length < 2:
                break
            segment = bytes(view[position + 4 : position + 2 + min(length, 65535)])
            if marker == 0xFFE2 and segment[:12] == b"ICC_PROFILE\0" and len(segment) > 14:
                count = segment[13]
                chunks[segment[12]] = segment[14:]
            position += 2 + length
    complete = count and sorted(chunks) == list(range(1, count + 1))
    return b"".join(chunks[number] for number in sorted(chunks)) if complete else None


def _checked(profile: bytes) -> bytes:
    """The profile without its padding (ICC.1 7.2). Raises CorruptPixelData, TooLarge."""
    if len(profile) > MAX_PROFILE_BYTES:
        raise TooLarge(f"an ICC Profile of {len(profile)} bytes is above the limit of {MAX_PROFILE_BYTES}")
    size = struct.unpack(">I", profile[:4])[0] if len(profile) >= 132 else 0
    if not 132 <= size <= len(profile) or profile[36:40] != b"acsp":
        raise CorruptPixelData("ICC Profile is no ICC profile")
    if profile[16:20] != b"RGB ":
        raise CorruptPixelData("ICC Profile is not one of red, green and blue")
    return profile[:size]


def manage(pixels: Pixels, wanted: Profile, source: Source, pool: WorkerPool) -> tuple[Pixels, bytes | None]:
    """Pixels in the colours ``wanted``, and the profile to embed.

    ``yes`` changes no pixel. A named space makes a grey picture one of three equal channels, its greys taken as those
    of sRGB: then the profile that was asked for is the one that is there. ``source`` is not used for grey.
    """
    if wanted is Profile.NO:
        return pixels, None
    if wanted is Profile.YES:
        if pixels.ndim == 2:
            return pixels, grey_profile()
        return pixels, source.profile or profile_of(source.space)
    space = SPACES[wanted]
    if pixels.ndim == 2:
        pixels, source = np.repeat(pixels[:, :, np.newaxis], 3, axis=2), Source(None, SRGB)
    profile = profile_of(space)
    if source.profile is not None:
        return _convert_in_worker(pixels, source.profile, wanted, pool), profile
    return (pixels if source.space == space else convert(pixels, profile_of(source.space), profile)), profile


def convert(pixels: Pixels, source: bytes, target: bytes) -> Pixels:
    """uint8 (height, width, 3) from one profile to another, relative colorimetric."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(source)),
        ImageCms.ImageCmsProfile(io.BytesIO(target)),
        "RGB",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    converted = ImageCms.applyTransform(picture, transform)
    return np.asarray(converted)


def _convert_in_worker(pixels: Pixels, profile: bytes, wanted: Profile, pool: WorkerPool) -> Pixels:
    height, width, _ = pixels.shape
    meta = {"height": height, "width": width, "profile_bytes": len(profile), "wanted": str(wanted)}
    _, result = pool.call(
        "colours",
        meta,
        profile + pixels.tobytes(),
        timeout_s=5 + pixels.nbytes / 10e6,
        result_bytes=pixels.nbytes,
        memory_bytes=256 * 1024 * 1024 + 8 * pixels.nbytes,
    )
    return result.reshape(pixels.shape)


def convert_payload(meta: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """In a worker: the profile's bytes, then the pixels'. Raises CorruptPixelData for a profile that cannot be used."""
    length = meta["profile_bytes"]
    pixels = np.frombuffer(payload, np.uint8, offset=length).reshape(meta["height"], meta["width"], 3)
    try:
        converted = convert(pixels, bytes(payload[:length]), profile_of(SPACES[meta["wanted"]]))
    except ImageCms.PyCMSError:
        raise CorruptPixelData("ICC Profile cannot be used to change colours") from None
    return {}, converted.tobytes()
