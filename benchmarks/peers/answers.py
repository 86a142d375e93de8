"""Whether an answer is right. A fast wrong answer is not timed.

Pixels that are asked for as they were stored have to be equal. Pictures are compared with the formula of PS3.3
C.11.2.1.2.1 in double precision: what is not compressed with loss may be off by rounding, JPEG by what it loses.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.peers.slices import Slice

Headers = Mapping[str, str]
Check = Callable[[bytes, Headers, Slice], None]
"""Raises WrongAnswer, or ValueError and the like where a body cannot be read at all."""

ROUNDING = 1.001
"""Grey levels between rounding down and up, and what single precision adds."""
OTHER_FORMULA = 2.0
"""Orthanc's /instances/ID/rendered windows by a formula of its own, up to 1.6 grey levels beside the standard's."""
JPEG_MEAN, JPEG_MAX = 1.0, 40.0
"""Grey levels that JPEG of quality 90 may be off; about 0.5 and 19 are usual for these slices."""


class WrongAnswer(Exception):
    """It came, but it is not what was asked for."""


def only_part(body: bytes, headers: Headers) -> bytes:
    """The part of a multipart/related body that has one (RFC 2387). Raises WrongAnswer for anything else."""
    kind, _, rest = headers.get("content-type", "").partition(";")
    if kind != "multipart/related" or "boundary=" not in rest:
        raise WrongAnswer("not multipart/related")
    boundary = rest.split("boundary=")[1].split(";")[0].strip().strip('"').encode()
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(pieces) != 3 or not pieces[2].startswith(b"--"):
        raise WrongAnswer("not one part")
    return pieces[1].partition(b"\r\n\r\n")[2]


def samples(body: bytes, _headers: Headers, one: Slice) -> None:
    """Little-endian samples."""
    _equal(body == one.stored.astype("<i2", copy=False).tobytes())


def samples_part(body: bytes, headers: Headers, one: Slice) -> None:
    """The same as the only part."""
    samples(only_part(body, headers), headers, one)


def numpy_file(body: bytes, _headers: Headers, one: Slice) -> None:
    """A .npy file."""
    array = np.load(io.BytesIO(body), allow_pickle=False)
    _equal(array.dtype.kind in "iu" and np.array_equal(array.reshape(one.stored.shape), one.stored))


def pam16(body: bytes, _headers: Headers, one: Slice) -> None:
    """A Portable Arbitrary Map of 16 bit: big-endian."""
    _equal(np.array_equal(_pam(body, ">i2").reshape(one.stored.shape), one.stored))


def number_list(body: bytes, _headers: Headers, one: Slice) -> None:
    """JSON with rescaled values."""
    answer = json.loads(body)
    hu = one.stored.astype(np.int32) - 1024
    _equal(np.array_equal(np.array(answer["pixels"]).reshape(answer["rows"], answer["columns"]), hu))


def as_stored(body: bytes, _headers: Headers, one: Slice) -> None:
    """The frame's bytes as they lie in the file; a byte of padding behind them is none of the frame's."""
    _equal(body in (one.encoded, one.encoded.removesuffix(b"\0"), one.encoded + b"\0"))


def grey(body: bytes, _headers: Headers, one: Slice) -> None:
    """8-bit samples with the window."""
    _near(np.frombuffer(body, np.uint8), one.windowed, ROUNDING)


def pam8(body: bytes, _headers: Headers, one: Slice) -> None:
    _near(_pam(body, "u1"), one.windowed, OTHER_FORMULA)


def png(body: bytes, _headers: Headers, one: Slice) -> None:
    _near(_picture(body, "PNG"), one.windowed, OTHER_FORMULA)


def jpeg(body: bytes, _headers: Headers, one: Slice) -> None:
    _near(_picture(body, "JPEG"), one.windowed, JPEG_MAX, JPEG_MEAN)


def stretched_pam8(body: bytes, _headers: Headers, one: Slice) -> None:
    """Without a window: the least sample is black, the largest white."""
    _near(_pam(body, "u1"), one.stretched, ROUNDING)


def stretched_jpeg(body: bytes, _headers: Headers, one: Slice) -> None:
    _near(_picture(body, "JPEG"), one.stretched, JPEG_MAX, JPEG_MEAN)


def png_in_json(body: bytes, _headers: Headers, one: Slice) -> None:
    """The old design's picture."""
    _near(_picture(base64.b64decode(json.loads(body)["image"]), "PNG"), one.windowed, ROUNDING)


def grey_list(body: bytes, _headers: Headers, one: Slice) -> None:
    """What the old viewer reads of this service: 8-bit values as a JSON list."""
    _near(np.array(json.loads(body)["pixel_data"], np.uint8), one.windowed, ROUNDING)


def _pam(body: bytes, dtype: str) -> npt.NDArray[np.generic]:
    head, _, rest = body.partition(b"ENDHDR\n")
    if not head.startswith(b"P7"):
        raise WrongAnswer("not a PAM")
    return np.frombuffer(rest, dtype)


def _picture(body: bytes, kind: str) -> npt.NDArray[np.generic]:
    with Image.open(io.BytesIO(body), formats=[kind]) as image:
        if image.mode != "L":
            raise WrongAnswer(f"{image.mode} instead of 8-bit grey")
        return np.asarray(image)


def _equal(equal: bool) -> None:
    if not equal:
        raise WrongAnswer("not the stored samples")


def _near(shown: npt.NDArray[np.generic], wanted: npt.NDArray[np.float64], most: float, mean: float = np.inf) -> None:
    if shown.size != wanted.size:
        raise WrongAnswer(f"{shown.size} instead of {wanted.size} pixels")
    off = np.abs(shown.reshape(wanted.shape).astype(np.float64) - wanted)
    if off.max() > most or off.mean() > mean:
        raise WrongAnswer(f"another picture: off by up to {off.max():.0f} grey levels, {off.mean():.1f} in the mean")
