"""Whether libjpeg has really decoded a JPEG codestream, which it does not tell by itself (decision 0006)."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from gpu_render.decode.codestream import JpegHeader
from gpu_render.errors import CorruptPixelData
from kernels import Witness

Array = npt.NDArray[Any]

_TOO_SHORT = "the JPEG codestream ends before its last pixel"
_MORE_DATA = b"\x5a" * 64


class Ahead:
    """A decoder that has the codestreams it will probably be asked for decoded meanwhile, on cores that are idle."""

    def __init__(self, decode: Callable[[bytes], Array], threads: int, likely: Sequence[bytes]) -> None:
        self._decode = decode
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self._begun = {data: self._threads.submit(decode, data) for data in likely} if self._threads else {}

    def __call__(self, data: bytes) -> Array:
        return self._begun[data].result() if data in self._begun else self._decode(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads:
            self._threads.shutdown(cancel_futures=True)


class Probes:
    """Whether a picture took more entropy-coded data than a JPEG codestream has, or less (decision 0006).

    libjpeg makes up what is missing, skips what is too much, and tells nobody: so it is asked once more, with other
    data where they matter to the last samples only.
    """

    def __init__(self, data: bytes, header: JpegHeader) -> None:
        self._data = data
        self._ends = header.data_ends
        self._lossless = header.start_of_frame == 0xC3
        self._one_scan = len(header.data_ends) == 1
        # Some encoders pad with these; where they are data, the checks look at a few samples more.
        body = header.data_start + len(data[header.data_start : header.data_ends[0]].rstrip(b"\0\xff"))
        self._last = body - 1 if self._lossless and self._one_scan and body > header.data_start else None
        # A change of a lossless sample is always seen, one of a block's high frequencies may not be.
        tail = body - (4 if self._lossless else 16)
        has_tail = self._one_scan and header.any_bits and tail > header.data_start
        self._tail = tail - (data[tail - 1] == 0xFF) if has_tail else None

    def first(self) -> list[bytes]:
        """The codestreams that ``check`` always, or nearly always, wants to see decoded."""
        if self._last is not None:
            return list(islice(self._other_last_bytes(), 1))
        return [self._lengthened(), *(islice(self._other_tails(), 1) if self._tail is not None else ())]

    def witnesses(self, samples: int) -> tuple[Witness, ...]:
        """What ``check`` would ask about a picture of so many samples, for a decoder that compares by itself; empty
        where it takes more than that. Where a change happens to mean the same, a whole picture is refused."""
        if self._last is not None:
            equal = samples - 8 * (self._ends[0] - self._last)
            others = list(islice(self._other_last_bytes(), 1))
            return (Witness(others[0], equal, differs=True),) if others and equal > 0 else ()
        if self._lossless or self._tail is None:
            return ()
        other_tail = next(self._other_tails())
        return Witness(self._lengthened(), samples, differs=False), Witness(other_tail, 0, differs=True)

    def check(self, values: Array, decode: Callable[[bytes], Array]) -> None:
        """Raise CorruptPixelData where ``values``, decoded from the codestream itself, took too much or too little."""
        if self._last is not None:
            whole = self._check_last_byte(values, decode)
        elif not np.array_equal(decode(self._lengthened()), values):
            raise CorruptPixelData(_TOO_SHORT)
        else:
            whole = not self._one_scan
        # The last data belong to the last samples: where others in their place change nothing, samples took less data
        # than they have, and lie in the wrong place. Not where most bits are no code at all (any_bits): libjpeg takes
        # these for zeros, which may be what they stand for.
        doubtful = not whole and self._tail is not None
        if doubtful and all(np.array_equal(decode(data), values) for data in self._other_tails()):
            raise CorruptPixelData("the JPEG codestream has data behind its last pixel")

    def _check_last_byte(self, values: Array, decode: Callable[[bytes], Array]) -> bool:
        """The last byte of lossless data holds the last of the samples, and at most eight of them.

        So another byte there, with more data behind it, changes a whole picture, and only its last samples. Where it
        changes more, data are missing before it. False where it changes nothing.
        """
        padding = self._ends[0] - cast(int, self._last)
        for data in self._other_last_bytes():
            differs = (decode(data) != values).reshape(-1)
            if differs[: -8 * padding].any():
                raise CorruptPixelData(_TOO_SHORT)
            if differs.any():
                return True
        return False

    def _lengthened(self) -> bytes:
        """With more data before each marker that ends some: that changes nothing in a picture that is whole."""
        return _MORE_DATA.join(self._data[start:end] for start, end in pairwise((0, *self._ends, len(self._data))))

    def _other_last_bytes(self) -> Iterator[bytes]:
        last, end = cast(int, self._last), self._ends[0]
        for mask in (0xFF, 0xB3, 0x8F):  # the first bit is data; a change that happens to mean the same says nothing
            other = bytes([self._data[last] ^ mask])
            if other != b"\xff":  # would begin a marker
                yield self._data[:last] + other + self._data[last + 1 : end] + _MORE_DATA + self._data[end:]

    def _other_tails(self) -> Iterator[bytes]:
        for byte in (b"\x5a", b"\x33", b"\xc9", b"\x97"):
            yield self._data[: self._tail] + byte * 64 + self._data[self._ends[0] :]
