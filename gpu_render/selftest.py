"""How long one slice takes in this very process: the phantom, decoded and windowed by what requests use.

It is measured from the inside: without HTTP, without the index and without a disk. It is polite: each slice waits, as
a prefetch does, until nobody waits for anything, and only then does its clock begin. It is bounded: after BEGIN_S no
slice is begun, and all of it ends LIMIT_S after its beginning.
"""

import asyncio
import contextlib
import os
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from gpu_render.decode import DECODERS, decode
from gpu_render.errors import Overloaded, RenderError
from gpu_render.frame import DeviceFrame, EncodedFrame, PixelLayout, Presentation, Rescale, Samples, Window
from gpu_render.phantom import COLUMNS, RESCALE_INTERCEPT, ROWS
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.render_queue import Rendered
from gpu_render.renderer import Renderer
from gpu_render.view import View
from gpu_render.workers import MIB, WorkerPool

TARGET_S, ALARM_S = 2.0, 5.0
"""A slice should come in 2 s; 5 s is the alarm."""
ROUNDS = 9
BEGIN_S = 4.0
LIMIT_S = BEGIN_S + ALARM_S + 1.0
PREPARE_LIMIT_S = 30.0

NAMES = {
    "1.2.840.10008.1.2.1": "uncompressed",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.201": "HTJ2K",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
}
"""Transfer Syntax UID to the name in tables, in the order in which they are measured."""

LAYOUT = PixelLayout(ROWS, COLUMNS, 1, 16, 16, 15, 1, "MONOCHROME2")
PRESENTATION = Presentation(modality=Rescale(1.0, RESCALE_INTERCEPT, "HU"), voi=(Window(40.0, 400.0),))
_REF = FrameRef("2.25.1", "2.25.2", "2.25.4", 1)


@dataclass(slots=True)
class Timed:
    """Times [ms] of one transfer syntax, a value for each slice: all of it, and the two steps."""

    total_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    render_ms: list[float] = field(default_factory=list)


def status_of(seconds: float) -> str:
    """``ok`` below 2 s, ``slow`` from there on, ``alarm`` from 5 s on."""
    return "ok" if seconds < TARGET_S else "slow" if seconds < ALARM_S else "alarm"


def phantom_frames(pool: WorkerPool) -> dict[str, EncodedFrame]:
    """The slice by Transfer Syntax UID, made in a worker. Blocks for some hundred ms; raises what the pool raises."""
    meta, flat = pool.call("phantom", {}, b"", timeout_s=PREPARE_LIMIT_S, result_bytes=8 * MIB, memory_bytes=1024 * MIB)
    frames, at = {}, 0
    for uid in NAMES:
        end = at + int(meta["lengths"][uid])
        frames[uid] = EncodedFrame(_REF, uid, LAYOUT, PRESENTATION, flat[at:end].tobytes())
        at = end
    return frames


async def measure(renderer: Renderer, frames: dict[str, EncodedFrame]) -> dict[str, Timed]:
    """Times by Transfer Syntax UID, of those that were measured at all, in rounds.

    Raises Overloaded where others' work left time for none, RenderError where two transfer syntaxes of the same voxels
    give two pictures, and what decoding and rendering raise.
    """
    found: dict[str, Timed] = {}
    pictures: dict[str, Samples] = {}
    begin_until_s = time.perf_counter() + BEGIN_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_S):
            for uid, frame in [*frames.items()] * ROUNDS:
                if time.perf_counter() < begin_until_s:
                    pictures[uid] = await _one(renderer, frame, found)
    if not found:
        raise Overloaded("others' requests left no time to measure anything", retry_after_s=60)
    if len({picture.tobytes() for picture in pictures.values()}) > 1:
        raise RenderError("transfer syntaxes of the same voxels gave different pictures")
    return found


async def _one(renderer: Renderer, frame: EncodedFrame, found: dict[str, Timed]) -> Samples:
    async with renderer.turns.prefetch():
        begun_s = time.perf_counter()
        try:
            decode_ms, rendered = await _decode_and_render(renderer, frame)
        except asyncio.CancelledError:
            if time.perf_counter() - begun_s >= ALARM_S:  # it took at least this long; less says nothing
                found.setdefault(frame.transfer_syntax_uid, Timed()).total_ms.append(_since_ms(begun_s))
            raise
        times = found.setdefault(frame.transfer_syntax_uid, Timed())
        times.total_ms.append(_since_ms(begun_s))
        times.decode_ms.append(decode_ms)
        times.render_ms.append(times.total_ms[-1] - decode_ms)
    return rendered.picture.pixels


async def _decode_and_render(renderer: Renderer, frame: EncodedFrame) -> tuple[float, Rendered]:
    begun_s = time.perf_counter()
    cores, packed = os.cpu_count() or 1, renderer.backend.unpacks
    decoded = await asyncio.to_thread(decode, frame, renderer.pool, cores=cores, packed=packed)
    decode_ms = _since_ms(begun_s)
    codec = DECODERS[frame.transfer_syntax_uid].codec
    held = DeviceFrame(_REF, decoded.layout, PRESENTATION, decoded.samples, codec)
    future: Future[Rendered] = renderer.queue.render(held, View(), Priority.PREFETCH)
    return decode_ms, await asyncio.wrap_future(future)


def _since_ms(begun_s: float) -> float:
    return (time.perf_counter() - begun_s) * 1e3
