"""Which frames are on the device: a budget of its memory, least recently used first."""

import threading
from collections import OrderedDict

from gpu_render.frame import DeviceFrame
from gpu_render.reference import FrameRef

#: Batches in which half of the whole budget comes back.
RECOVERY = 1024


class Residency:
    """The device's copies of frames, ``budget`` bytes at most.

    The device thread adds, uses and drops; any thread may look. A copy is dropped by taking the handle from its frame:
    work that was launched keeps the memory until it is done (``kernels.Backend``).
    """

    def __init__(self, budget: int) -> None:
        self.budget = self._whole = budget
        self.nbytes = 0
        self.evictions = 0
        self._frames: OrderedDict[tuple[int, FrameRef], DeviceFrame] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def find(self, key: tuple[int, FrameRef]) -> DeviceFrame | None:
        """The frame whose copy is on the device."""
        with self._lock:
            return self._frames.get(key)

    def add(self, frame: DeviceFrame, pixels: object) -> None:
        """Keep a copy, and drop those that were not used for longest. One above the budget is not kept."""
        with self._lock:
            if frame.key in self._frames:
                self._drop(frame.key)
            if frame.device_nbytes > self.budget:
                return
            self._evict(self.budget - frame.device_nbytes)
            self._frames[frame.key] = frame
            self.nbytes += frame.device_nbytes
            frame.arrived(pixels)

    def use(self, frame: DeviceFrame) -> None:
        """A frame is used now, and its copy should be kept longest."""
        with self._lock:
            if self._frames.get(frame.key) is frame:
                self._frames.move_to_end(frame.key)

    def shrink(self) -> None:
        """The device's memory did not suffice: drop half of what is there, and keep no more from now on.
        With nothing there somebody else has the memory."""
        with self._lock:
            if self.nbytes:
                self.budget = self.nbytes // 2
                self._evict(self.budget)

    def recover(self) -> None:
        """A batch went well: allow a little more again."""
        if self.budget < self._whole:
            self.budget = min(self._whole, self.budget + max(1, self._whole // (2 * RECOVERY)))

    def clear(self) -> None:
        """Drop all copies."""
        with self._lock:
            self._evict(0)

    def _evict(self, nbytes: int) -> None:
        while self.nbytes > nbytes:
            self._drop(next(iter(self._frames)))
            self.evictions += 1

    def _drop(self, key: tuple[int, FrameRef]) -> None:
        frame = self._frames.pop(key)
        self.nbytes -= frame.device_nbytes
        frame.pixels = None
