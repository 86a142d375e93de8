"""Frames of slow transfer syntaxes are coded anew in spare time, so that nobody waits for them a second time.

What JPEG 2000 takes 20 ms for, HTJ2K does in two. A frame that was decoded is decoded once more when nothing else is
under way, in the processes of the background, coded as HTJ2K without loss, decoded again as it will be for the next
visit, and compared, sample by sample; only then it is kept (``copies.py``). See docs/decisions/0014.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from gpu_render.archive import Archive
from gpu_render.copies import Copies
from gpu_render.decode import decode
from gpu_render.errors import NotFound, NotRenderable, Overloaded, RenderError
from gpu_render.frame import DecodedFrame, EncodedFrame, PixelLayout, Samples
from gpu_render.priority import settle
from gpu_render.reference import FrameRef
from gpu_render.transcode import HTJ2K_RPCL, encode_in_worker
from gpu_render.turns import Line, Turns
from gpu_render.workers import MIB, WorkerPool

log = logging.getLogger("gpu_render")

SLOW = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 110, 112))
"""JPEG 2000, Part 1 and 2, and JPEG XL but for recompressed JPEG. All others are decoded in a few milliseconds."""
LEAST_BYTES = 8192
"""Smaller frames (64 x 64 of 16 bits) are decoded as soon as a copy is found."""
MOST_BYTES = 64 * MIB
"""Frames are held twice to be compared; larger ones [byte, decoded] are not coded anew."""
MOST_WAITING = 10_000
"""Frames that wait to be coded anew; one more is not noted."""
AGAIN_S = 5.0
"""Wait after a process of the background had no time, or could not be started."""
SWEEP_STEP = 64
"""Copies that are looked at in one turn when those of removed instances go."""
SWEEP_SHARE = 20
"""That takes at most this part of the time."""
LEAVE_S = 2.0
"""Longest wait for what is under way at the end; it ends with the processes that it waits for."""

T = TypeVar("T")


class Reencoder:
    """The frames of an archive, those that decode slowly as copies that do not, where there are any. Implements Frames.

    Only what decodes may ask it: ``data`` of what it gives may be of another transfer syntax than what is stored.
    ``pool``: the processes of the background. Methods may be called from any thread; ``start`` and ``close`` belong to
    the event loop.
    """

    def __init__(self, archive: Archive, copies: Copies, pool: WorkerPool) -> None:
        self._archive = archive
        self._copies = copies
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: OrderedDict[FrameRef, None] = OrderedDict()
        self._in_hand: FrameRef | None = None
        self._refused: OrderedDict[FrameRef, str] = OrderedDict()  # the version that cannot be coded anew
        self._counts = {"refused": 0, "differing": 0}
        self._swept_at: int | None = None  # generation of the archive
        self._sweep_due = False
        self._next_sweep_s = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._step: threading.Thread | None = None

    # --- Frames ---------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Of the archive."""
        return self._archive.generation

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        """The frame for a decoder: a copy, else as it is stored, and then it is noted to be coded anew. Raises what the
        archive's ``fetch`` raises."""
        stored = self._archive.fetch(ref)
        if not _is_slow(stored):
            return stored
        copy = self._copies.find(stored)
        if copy is None:
            self._note(stored)
        return copy or stored

    def _note(self, stored: EncodedFrame) -> None:
        with self._lock:
            noted = stored.ref in self._waiting or stored.ref == self._in_hand
            refused = self._refused.get(stored.ref) == stored.version
            if noted or refused or len(self._waiting) >= MOST_WAITING or self._copies.paused:
                return
            self._waiting[stored.ref] = None
        self._call(self._wake.set)

    def _call(self, function: Callable[[], object]) -> None:
        """On the event loop, which may have ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    def figures(self) -> dict[str, float]:
        """Counters and gauges for ``/metrics``."""
        counted = {f"reencode_{name}_total": value for name, value in self._counts.items()}
        return {**self._copies.figures(), **counted, "reencode_waiting": len(self._waiting)}

    # --- spare time -----------------------------------------------------------------------------------------

    def start(self, turns: Turns) -> None:
        """Begin to work through what is noted, whenever ``turns`` says that nothing else is under way."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._run(turns))
        self._wake.set()

    async def close(self) -> None:
        """Stop. What is under way is dropped."""
        self._copies.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._step is not None:
            self._step.join(LEAVE_S)

    def scanned(self) -> None:
        """To be called when the archive has looked at all its files: copies of what has gone are removed then."""
        self._sweep_due = True
        self._call(self._wake.set)

    async def _run(self, turns: Turns) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                with self._lock:
                    self._in_hand, _ = self._waiting.popitem(last=False)
                await self._one(turns, self._in_hand)
                self._in_hand = None
            if self._sweep_due:
                self._sweep_due = False
                await self._sweep(turns)

    async def _one(self, turns: Turns, ref: FrameRef) -> None:
        """A frame from the file to the copy. Nothing that happens to it ends the work on others."""
        try:
            await self._made(turns, ref)
        except Overloaded:
            with self._lock:
                self._waiting[ref] = None  # behind all others
            await asyncio.sleep(AGAIN_S)
        except NotFound:
            pass
        except Exception as error:  # noqa: BLE001 - a frame less, whatever it was
            self._counts["refused"] += 1
            if not isinstance(error, RenderError):
                log.error("a frame could not be re-encoded (%s)", type(error).__name__)

    async def _made(self, turns: Turns, ref: FrameRef) -> None:
        """Step by step, each with a turn of its own: what is more urgent comes between."""
        stored = await self._spare(turns, partial(self._archive.fetch, ref))
        if self._copies.paused or not _is_slow(stored):
            return
        try:
            decoded = await self._spare(turns, partial(decode, stored, self._pool))
            copy = await self._spare(turns, partial(recoded, stored, decoded, self._pool))
            again = await self._spare(turns, partial(decode, copy, self._pool))
            if not is_same(decoded, again):
                self._counts["differing"] += 1
                log.error("a re-encoded frame came out otherwise than the stored one; it is not kept")
                raise NotRenderable("the copy differs")
            await self._spare(turns, partial(self._copies.keep, stored, copy))
        except Overloaded:
            raise
        except RenderError:
            self._refuse(stored)
            raise

    def _refuse(self, stored: EncodedFrame) -> None:
        with self._lock:
            self._refused[stored.ref] = stored.version
            while len(self._refused) > MOST_WAITING:
                self._refused.popitem(last=False)

    async def _spare(self, turns: Turns, work: Callable[[], T]) -> T:
        """Run ``work`` on a thread of its own when nothing else is under way."""
        async with turns.prefetch(Line.SPARE_TIME):
            future: Future[T] = Future()
            future.set_running_or_notify_cancel()
            self._step = threading.Thread(target=settle, args=(future, work), name="reencode", daemon=True)
            self._step.start()
            return await asyncio.wrap_future(future)

    async def _sweep(self, turns: Turns) -> None:
        """Where anything has changed or gone since the last time, which took so long that it may be done again."""
        generation = self._archive.generation
        if generation == self._swept_at or time.monotonic() < self._next_sweep_s:
            return
        copies, taken_s = self._copies.sweep(self._is_held), 0.0

        def step() -> tuple[int, float]:
            begun_s = time.monotonic()
            return sum(1 for _ in zip(range(SWEEP_STEP), copies, strict=False)), time.monotonic() - begun_s

        looked_at = 1
        while looked_at:
            looked_at, step_s = await self._spare(turns, step)
            taken_s += step_s
        self._swept_at = generation
        self._next_sweep_s = time.monotonic() + SWEEP_SHARE * taken_s

    def _is_held(self, ref: FrameRef, version: str) -> bool:
        try:
            return self._archive.describe(ref).version == version
        except NotFound:
            return False
        except RenderError:
            return True  # its file cannot be read at the moment


def _is_slow(stored: EncodedFrame) -> bool:
    layout = stored.layout
    integers = layout.bits_allocated in (8, 16) and not layout.is_float
    nbytes = math.prod(layout.shape) * layout.dtype.itemsize
    return stored.transfer_syntax_uid in SLOW and integers and LEAST_BYTES <= nbytes <= MOST_BYTES


def recoded(stored: EncodedFrame, decoded: DecodedFrame, pool: WorkerPool) -> EncodedFrame:
    """The frame in HTJ2K, as it would be decoded: blocking, and to be compared with ``decoded``. Raises what the
    encoder raises (NotRenderable ...), Overloaded."""
    layout = _recoded_layout(decoded.layout)
    if not isinstance(decoded.samples, np.ndarray):
        raise NotRenderable("the decoder gave no samples")
    data = encode_in_worker(decoded.samples, layout, pool)
    return replace(stored, transfer_syntax_uid=HTJ2K_RPCL, layout=layout, data=data, decoder=decoded.decoder)


def _recoded_layout(decoded: PixelLayout) -> PixelLayout:
    """Colours are decorrelated, which the decoder undoes."""
    photometric = "YBR_RCT" if decoded.photometric_interpretation == "RGB" else decoded.photometric_interpretation
    return replace(decoded, photometric_interpretation=photometric, planar_configuration=0)


def is_same(one: DecodedFrame, other: DecodedFrame) -> bool:
    """Whether two decoders gave the same: every sample with all bits of its container, and what the samples are."""
    same = one.layout == other.layout and one.decoder == other.decoder
    return same and isinstance(one.samples, np.ndarray) and _equal(one.samples, other.samples)


def _equal(one: Samples, other: object) -> bool:
    return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
