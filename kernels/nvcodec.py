"""nvImageCodec: what it leaves on the device, and whether it can be used. Not yet written: it says that it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class CodecUnavailable(RuntimeError):
    """The codec cannot be used here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class CodecImage:
    """An image on the device: ``shape`` (rows, columns, samples), interleaved samples of ``dtype``, rows ``row_stride``
    bytes apart from ``address`` on. ``owner`` keeps the memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    row_stride: int
    owner: object


class NvCodec:
    """The codec of one device, for one thread. Raises CodecUnavailable where it cannot be used."""

    version: str

    def __init__(self, device: int) -> None:
        del device
        raise CodecUnavailable("decoding on the GPU is not yet written")

    def decode(self, codestreams: Sequence[bytes], stream_ptr: int) -> list[CodecImage | None]:
        """One image for each codestream, None where it is refused. The work is queued on the CUDA stream."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the codec."""
        raise NotImplementedError
