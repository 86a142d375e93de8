"""Memory through which data cross the bus. CuPy is handed in: ``cuda.py`` is the only file that imports it."""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Ring:
    """Pinned memory through which frames go up, used round and round. A place is written again when its copy is done;
    larger data go in pieces, so that the host copies one while another goes up."""

    def __init__(self, cupy: Any, stream: Any, nbytes: int) -> None:
        self._cupy, self._stream = cupy, stream
        self._memory = _pinned(cupy, nbytes)
        self._next = 0  # never falls: place = _next % size
        self._copies: deque[tuple[int, Any]] = deque()  # (where it began, its event), oldest first

    def upload(self, address: int, data: Bytes) -> None:
        """Queue a copy to the device. ``data`` may change afterwards."""
        piece = self._memory.nbytes // 4
        for start in range(0, data.nbytes, piece):
            self._upload(address + start, data[start : start + piece])

    def before(self, stream: Any) -> None:
        """Let a stream wait for all copies so far."""
        if self._copies:
            stream.wait_event(self._copies[-1][1])

    def forget(self) -> None:
        """All copies are known to be done."""
        self._copies.clear()

    def _upload(self, address: int, data: Bytes) -> None:
        begin = self._room(data.nbytes)
        place = self._memory[begin % self._memory.nbytes :][: data.nbytes]
        place[:] = data
        runtime = self._cupy.cuda.runtime
        kind = runtime.memcpyHostToDevice
        runtime.memcpyAsync(address, place.ctypes.data, place.nbytes, kind, self._stream.ptr)
        self._copies.append((begin, self._stream.record(self._cupy.cuda.Event(disable_timing=True))))

    def _room(self, nbytes: int) -> int:
        """Where the next ``nbytes`` go: a place without a gap, of which the copies of the last round are done."""
        size, begin = self._memory.nbytes, self._next
        if begin % size + nbytes > size:
            begin += size - begin % size
        while self._copies and self._copies[0][0] < begin + nbytes - size:
            self._copies[0][1].synchronize()
            self._copies.popleft()
        self._next = begin + nbytes
        return begin


class Buffer:
    """Device memory that grows, its contents lost."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._memory: Any = None
        self._nbytes = 0

    @property
    def address(self) -> int:
        """Where it begins; changes where it grows."""
        return int(self._memory.ptr)

    def fit(self, nbytes: int) -> None:
        """Make it hold ``nbytes``. Lets go of the old memory first: both together may not fit."""
        if self._nbytes < nbytes:
            self.clear()
            self._memory = self._cupy.cuda.alloc(_round_up(nbytes))
            self._nbytes = _round_up(nbytes)

    def clear(self) -> None:
        """Let the memory go."""
        self._memory, self._nbytes = None, 0


class Slot:
    """What a batch needs while it is in flight: device memory for its input and its output, pinned memory for both (the
    input has gone up before the output comes down), and the events around its download."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.busy = False
        self.inputs, self.outputs = Buffer(cupy), Buffer(cupy)
        self.staging: Bytes = np.empty(0, np.uint8)
        self.start, self.end = cupy.cuda.Event(), cupy.cuda.Event()

    def fit(self, input_bytes: int, output_bytes: int) -> None:
        """Make room. Addresses may change."""
        self.inputs.fit(input_bytes)
        self.outputs.fit(output_bytes)
        nbytes = max(input_bytes, output_bytes)
        if self.staging.nbytes < nbytes:
            self.staging = np.empty(0, np.uint8)
            self.staging = _pinned(self._cupy, _round_up(nbytes))

    def clear(self) -> None:
        """Let the memory go."""
        self.inputs.clear()
        self.outputs.clear()
        self.staging = np.empty(0, np.uint8)


def _pinned(cupy: Any, nbytes: int) -> Bytes:
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)


def _round_up(nbytes: int) -> int:
    return max(1 << 16, 1 << (nbytes - 1).bit_length())
