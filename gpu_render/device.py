"""The device as the render queue sees it: what is on it already, and what happens when it fails.

Nobody waits in vain for a device. Where its memory does not suffice, frames leave it and the work is tried again; where
that fails, or anything else does, the CPU renders the same pictures, one by one, so that only the culprit fails.
A device that is lost is left alone: the CPU goes on, and ``lost`` says why, so that the process can be replaced.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gpu_render.frame import UNKNOWN, DeviceFrame, LookupTable, Samples, Window
from gpu_render.residency import Residency
from gpu_render.transform import fold, needs_extent, source_record, table_extent
from gpu_render.view import Stage, View
from kernels import Backend, Codestream, DeviceError, RenderJob, render
from kernels.cpu import CpuBackend
from kernels.packing import Packed
from kernels.params import output_bytes

log = logging.getLogger("gpu_render")

#: Most that one launch may put out [byte]; a device packs a batch into one buffer. A larger frame goes alone.
MAX_BATCH_BYTES = 256 * 1024 * 1024
#: Failures without a success between them after which a device counts as lost, or its codec is asked no more.
MOST_FAULTS = 5
#: Time [s] between messages about faults that the service survives.
SILENCE_S = 60.0

T = TypeVar("T")


class Gone(Exception):
    """The frame's samples are neither here nor there any more: read it again."""


@dataclass(frozen=True, slots=True)
class Work:
    """One picture that somebody asks for."""

    frame: DeviceFrame
    view: View


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered picture, the window in use (None: none), and the backend that rendered it."""

    pixels: Samples
    window: Window | None
    backend: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Work that a launch can take. Without a ``job`` the CPU has to do it. ``upload_ms``: of all its batch's frames,
    0 where its own was on the device."""

    work: Work
    job: RenderJob | None
    window: Window | None
    upload_ms: float


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that was launched, and by whom; without a ticket nothing was."""

    batch: Sequence[Ready]
    backend: Backend
    ticket: object | None


@dataclass(slots=True)
class Counts:
    """What a device was asked since it was opened."""

    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    launches: int = 0
    decoded: int = 0
    refused: int = 0
    faults: int = 0
    out_of_memory: int = 0
    by_cpu: int = 0


class Device:
    """A backend, the frames that are on it, and the CPU in its place. Used by one thread, the device thread, but for
    ``now``.

    ``cache_percent``: of the memory that is free now, for frames. ``settle``: called before memory is made free, to
    finish what is in flight and so holds some. ``decodes``: whether its codec is to be asked.
    """

    def __init__(self, backend: Backend, cache_percent: int) -> None:
        self.backend = backend
        self.lost: str | None = None
        self.counts = Counts()
        self.settle: Callable[[], None] = lambda: None
        self.decodes = bool(backend.codec)
        self._asked = backend.name
        self._cpu = backend if isinstance(backend, CpuBackend) else CpuBackend()
        self._faults = self._codec_faults = 0
        self._silent_until_s = 0.0
        self.residency = Residency(0)
        try:
            memory = backend.memory()
        except DeviceError as error:
            memory = None
            self._lose(str(error))
        self.has_memory = memory is not None
        self._most_bytes = memory[0] if memory else 0
        self.residency = Residency(self._most_bytes * cache_percent // 100)

    # -- decoding ---------------------------------------------------------------------------------------------

    def decode(self, wanted: Sequence[tuple[DeviceFrame, Codestream]]) -> list[bool]:
        """Decode frames and keep them on the device; False for each that the CPU has to decode."""
        try:
            found = self._with_memory(lambda: self.backend.decode([codestream for _, codestream in wanted]))
        except Exception as error:  # noqa: BLE001 - whatever a codec raises: the CPU decodes
            self._codec_fault(error)
            return [False] * len(wanted)
        self._codec_faults = 0
        for (frame, _), decoded in zip(wanted, found, strict=True):
            if decoded is not None:
                self.residency.add(frame, decoded.pixels)
        refused = found.count(None)
        self.counts.refused += refused
        self.counts.decoded += len(found) - refused
        return [frame.pixels is not None for frame, _ in wanted]

    # -- rendering --------------------------------------------------------------------------------------------

    def prepare(self, works: Sequence[Work]) -> list[Ready | Exception]:
        """Upload the frames that are not there, in one go; find what windows depend on; fold. An exception instead of
        work that cannot be done, Gone among them."""
        frames = list({id(work.frame): work.frame for work in works if self._fits(work.frame)}.values())
        try:
            handles, upload_ms = self._with_memory(lambda: self._handles(frames))
            troubles = self._find_extents(works, handles)
        except Exception as error:  # noqa: BLE001 - the CPU does it, and says what is wrong with whose frame
            self._fault(error)
            return [Ready(work, None, None, 0.0) for work in works]
        return [self._ready(work, handles, troubles, upload_ms) for work in works]

    def _ready(
        self, work: Work, handles: dict[int, object], troubles: dict[int, Exception], upload_ms: dict[int, float]
    ) -> Ready | Exception:
        key = id(work.frame)
        if not self._fits(work.frame):
            return Ready(work, None, None, 0.0)
        if key not in handles:
            return Gone()
        if key in troubles and self._lacks_extent(work):
            return troubles[key]
        try:
            folded = fold(work.frame.presentation, work.view, work.frame.layout, _known_extent(work))
        except Exception as error:  # noqa: BLE001 - belongs to whoever waits
            return error
        return Ready(work, RenderJob(handles[key], folded.params, folded.table), folded.window, upload_ms.get(key, 0.0))

    def _fits(self, frame: DeviceFrame) -> bool:
        """Whether the device could ever hold a frame; driving others out would not help one that is too large."""
        return not self.has_memory or frame.pixels is not None or frame.device_nbytes <= self._most_bytes

    def _handles(self, frames: Sequence[DeviceFrame]) -> tuple[dict[int, object], dict[int, float]]:
        """Handles by id, but of frames that are gone; and the time of the upload [ms] of those that were uploaded."""
        handles = {id(frame): pixels for frame in frames if (pixels := frame.pixels) is not None}
        absent = [
            (frame, samples)
            for frame in frames
            if id(frame) not in handles and (samples := self._source(frame)) is not None
        ]
        started = time.perf_counter()
        put = self.backend.put([samples for _, samples in absent]) if absent else []
        took = (time.perf_counter() - started) * 1e3 if self.has_memory else 0.0
        for frame in frames:
            self.residency.use(frame)
        for (frame, samples), pixels in zip(absent, put, strict=True):
            handles[id(frame)] = pixels
            if self.has_memory:
                self.counts.uploads += 1
                self.counts.upload_bytes += samples.nbytes
                self.residency.add(frame, pixels)
        return handles, {id(frame): took for frame, _ in absent}

    def _source(self, frame: DeviceFrame) -> Samples | Packed | None:
        return frame.samples if self.backend.unpacks else frame.host_samples()

    def _lacks_extent(self, work: Work) -> bool:
        frame = work.frame
        return frame.extent is UNKNOWN and needs_extent(frame.presentation, work.view, frame.layout)

    def _find_extents(self, works: Sequence[Work], handles: dict[int, object]) -> dict[int, Exception]:
        """Fill in the extents that are needed, all in one call; returns why one cannot be found."""
        lacking = {id(w.frame): w.frame for w in works if id(w.frame) in handles and self._lacks_extent(w)}
        troubles: dict[int, Exception] = {}
        asked: list[tuple[DeviceFrame, tuple[object, np.void]]] = []
        for key, frame in lacking.items():
            try:
                if isinstance(frame.presentation.modality, LookupTable):
                    frame.extent = self._table_extent(frame)
                else:
                    asked.append((frame, (handles[key], source_record(frame.layout, frame.presentation))))
            except Exception as error:  # noqa: BLE001 - belongs to whoever waits
                troubles[key] = error
        if asked:
            questions = [question for _, question in asked]
            extents = self._with_memory(lambda: self.backend.extents(questions))
            for (frame, _), extent in zip(asked, extents, strict=True):
                frame.extent = extent
        return troubles

    def _table_extent(self, frame: DeviceFrame) -> tuple[float, float] | None:
        """By the CPU, from the host's copy: a Modality LUT need not rise, so every value has to be looked at."""
        folded = fold(frame.presentation, View(stage=Stage.STORED), frame.layout)
        (stored,) = render(self._cpu, [RenderJob(self._on_host(frame), folded.params)])
        return table_extent(frame.presentation, stored)

    def launch(self, batch: Sequence[Ready]) -> Flight:
        """Begin to render; at most two flights are out, and end in the order of their beginnings."""
        backend, jobs = self.backend, [ready.job for ready in batch if ready.job is not None]
        if len(jobs) < len(batch):
            return Flight(batch, backend, None)
        try:
            ticket = self._with_memory(lambda: backend.launch(jobs))
        except Exception as error:  # noqa: BLE001 - the members are rendered apart
            self._fault(error)
            return Flight(batch, backend, None)
        self.counts.launches += self.has_memory
        return Flight(batch, backend, ticket)

    def land(self, flight: Flight) -> list[Picture | Exception]:
        """Wait for a flight; what the device could not render, the CPU has."""
        if flight.ticket is not None and not (self.lost and flight.backend is not self.backend):
            try:
                arrays = flight.backend.collect(flight.ticket)
            except Exception as error:  # noqa: BLE001 - the members are rendered apart
                self._fault(error)
            else:
                self._faults = 0
                self.counts.downloads += self.has_memory
                self.residency.recover()
                self._count_cpu(flight.backend.name, len(arrays))
                ready = zip(flight.batch, arrays, strict=True)
                return [Picture(pixels, r.window, flight.backend.name) for r, pixels in ready]
        return [self._by_cpu(ready.work) for ready in flight.batch]

    def now(self, frame: DeviceFrame, view: View) -> Picture | None:
        """The picture where the CPU renders anyway, to which a batch is worth nothing: on whichever thread asks. None
        where there is a device, where only the device thread knows enough, and where that has to say what is wrong."""
        if self.has_memory or not isinstance(frame.samples, np.ndarray):
            return None
        if needs_extent(frame.presentation, view, frame.layout):
            return None
        picture = self._by_cpu(Work(frame, view))
        return picture if isinstance(picture, Picture) else None

    def _by_cpu(self, work: Work) -> Picture | Exception:
        """One picture by the CPU, from the host's copy."""
        frame = work.frame
        try:
            samples = self._on_host(frame)
            if self._lacks_extent(work):
                if isinstance(frame.presentation.modality, LookupTable):
                    frame.extent = self._table_extent(frame)
                else:
                    (frame.extent,) = self._cpu.extents([(samples, source_record(frame.layout, frame.presentation))])
            folded = fold(frame.presentation, work.view, frame.layout, _known_extent(work))
            (pixels,) = render(self._cpu, [RenderJob(samples, folded.params, folded.table)])
        except Exception as error:  # noqa: BLE001 - belongs to whoever waits
            return error
        self._count_cpu(self._cpu.name, 1)
        return Picture(pixels, folded.window, self._cpu.name)

    def _on_host(self, frame: DeviceFrame) -> Samples:
        samples = frame.host_samples()
        if samples is None:
            raise Gone
        return samples

    def _count_cpu(self, name: str, pictures: int) -> None:
        if name != self._asked:
            self.counts.by_cpu += pictures

    # -- faults -----------------------------------------------------------------------------------------------

    def _with_memory(self, call: Callable[[], T]) -> T:
        """``call``; where the device's memory does not suffice once more with fewer frames there, then with none."""
        for make_room in (self.residency.shrink, self.residency.clear):
            try:
                return call()
            except DeviceError as error:
                if error.lost or not error.out_of_memory:
                    raise
            self.counts.out_of_memory += 1
            self.settle()
            make_room()
            self._say(f"the device's memory did not suffice; at most {self.residency.budget >> 20} MiB for frames now")
            self.backend.trim()
        return call()

    def _fault(self, error: Exception) -> None:
        """Note a failure of the device. Any other exception is somebody's frame: the CPU will say whose."""
        self.counts.faults += 1
        if not isinstance(error, DeviceError):
            self._say(f"a batch failed with {type(error).__name__}; its members are done apart")
            return
        if not error.out_of_memory:  # a frame above the device's memory says nothing of the device
            self._faults += 1
        if error.lost or self._faults >= MOST_FAULTS:
            self._lose(str(error))
        else:
            self._say(f"the device failed ({error}); the CPU does this batch")

    def _codec_fault(self, error: Exception) -> None:
        """Note a failure of the codec, which is no failure of the device unless that is lost."""
        if isinstance(error, DeviceError) and error.lost:
            self._fault(error)
            return
        self.counts.faults += 1
        if not isinstance(error, DeviceError) or not error.out_of_memory:
            self._codec_faults += 1
        if self.decodes and self._codec_faults >= MOST_FAULTS:
            self.decodes = False
            log.error("the device's codec does nothing but fail; the CPU decodes from now on")
        else:
            self._say(f"the device's codec failed ({type(error).__name__}); the CPU decodes these frames")

    def _say(self, what: str) -> None:
        """Log what may happen with every batch, at most once a minute; metrics count all of it."""
        now = time.monotonic()
        if now >= self._silent_until_s:
            self._silent_until_s = now + SILENCE_S
            log.error("%s", what)

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            log.critical("the device is lost (%s); the CPU goes on: replace this process", reason)
            self.lost = reason
            self.backend = self._cpu
            self.has_memory = self.decodes = False
            self.residency.clear()


def _known_extent(work: Work) -> tuple[float, float] | None:
    """Of the frame; None also where nobody asked, for then fold() does not."""
    return work.frame.extent if isinstance(work.frame.extent, tuple) else None


def within_bytes(batch: Sequence[Ready], limit: int) -> Iterator[Sequence[Ready]]:
    """Consecutive runs of ``batch`` whose outputs take at most ``limit`` bytes together."""
    begin, total = 0, 0
    for end, ready in enumerate(batch):
        nbytes = output_bytes(ready.job.params) if ready.job is not None else 0
        for_another = end > begin and (ready.job is None) != (batch[begin].job is None)
        if for_another or (end > begin and total + nbytes > limit):
            yield batch[begin:end]
            begin, total = end, 0
        total += nbytes
    if begin < len(batch):
        yield batch[begin:]
