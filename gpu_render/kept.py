"""Pictures that are asked for again: kept as they are, so that the third request for one costs no rendering.

Beside the decoded frames, within their budget. Only a picture that was asked for twice is kept: of a window that is
dragged, each is asked for once.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from gpu_render.frame import FRAME_OVERHEAD, Samples, Window

#: Pictures whose first request is remembered.
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A rendered picture, read-only, with what an answer says of it."""

    pixels: Samples
    window: Window | None
    decoder: str
    backend: str
    version: str

    @property
    def nbytes(self) -> int:
        """What it counts against the budget [byte]."""
        return self.pixels.nbytes + FRAME_OVERHEAD

    @property
    def is_gone(self) -> bool:
        """Never: its pixels are its own."""
        return False

    def left(self) -> None:
        """Nobody else has to know."""


class Recently:
    """Which keys were seen, of the last ``REMEMBERED``. Not thread-safe."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def seen(self, key: Hashable) -> bool:
        """Whether ``key`` was seen before; it has been now."""
        if key in self._keys:
            self._keys.move_to_end(key)
            return True
        self._keys[key] = None
        if len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)
        return False
