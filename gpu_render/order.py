"""The order of a series' frames, kept for as long as the archive says that it holds."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from gpu_render.archive import Archive, FrameRecord
from gpu_render.reference import FrameRef

MOST_FRAMES = 50_000
"""Frames of all orders that are kept together; the order used last is kept in any case."""


@dataclass(frozen=True)
class Order:
    """All frames of a series in the order of its manifest."""

    version: str
    frames: tuple[FrameRecord, ...]

    @cached_property
    def places(self) -> dict[FrameRef, int]:
        """Where each frame stands, from 0."""
        return {frame.ref: place for place, frame in enumerate(self.frames)}


class Orders:
    """Orders of the series asked for last. Any thread may ask; it may take as long as ``Archive.series``."""

    def __init__(self, archive: Archive, most_frames: int = MOST_FRAMES) -> None:
        self._archive = archive
        self._most_frames = most_frames
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Order] = OrderedDict()

    def of(self, study_uid: str, series_uid: str) -> Order:
        """The order as it is now. Raises NotFound."""
        key = study_uid, series_uid
        version = self._archive.series_version(*key)  # before the frames: then it is never newer than they are
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.version == version:
                self._kept.move_to_end(key)
                return kept
        order = Order(version, self._archive.series(*key).frames)
        assert len(order.places) == len(order.frames)  # found here, and not on somebody's event loop
        with self._lock:
            self._kept[key] = order
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(len(one.frames) for one in self._kept.values()) > self._most_frames:
                self._kept.popitem(last=False)
        return order
