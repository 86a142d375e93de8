"""Making the pictures of an answer: rendered, flipped, with colours managed and text burned in, encoded."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import orjson

from api.batches import most_bytes, patiently
from api.dicomweb.rendering import Look
from api.service import Service
from gpu_render.ahead import in_order
from gpu_render.archive import DicomJson, InstanceRecord
from gpu_render.errors import CorruptPixelData, NotRenderable, RenderError, TooLarge
from gpu_render.frame import FRAME_OVERHEAD, RenderedFrame
from gpu_render.pictures.annotate import burn_in
from gpu_render.pictures.captions import lines
from gpu_render.pictures.colour import Profile, Source, manage, source_of
from gpu_render.pictures.encode import GIF, Pixels, check_size, encode
from gpu_render.pictures.gif import GifFrame, animation, encode_frame
from gpu_render.pictures.timing import delays
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.view import View

T = TypeVar("T")

MOST_GIF_FRAMES = 2000
"""Most frames of one animation."""
MOST_GIF_BYTES = 64 * 1024 * 1024
"""Largest animation [byte]."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in its media type; ``version`` is that of the file it was made of."""

    data: bytes
    version: str

    @property
    def nbytes(self) -> int:
        """What it takes [byte]."""
        return len(self.data) + FRAME_OVERHEAD

    @property
    def is_gone(self) -> bool:
        """Never: it has all its bytes."""
        return False

    def left(self) -> None:
        """Nobody else has to know."""


@dataclass(frozen=True, slots=True)
class _Instance:
    record: InstanceRecord
    dataset: DicomJson


class Datasets:
    """Data sets of instances, of which the last one is kept: many frames of one instance read it once."""

    def __init__(self, service: Service) -> None:
        self._archive = service.archive
        self._of = ""
        self._last: asyncio.Future[_Instance] | None = None

    async def get(self, ref: FrameRef) -> _Instance:
        """Raises what ``Archive.instances`` and ``Archive.metadata`` raise."""
        if self._last is None or self._of != ref.sop_instance_uid:
            self._of, self._last = ref.sop_instance_uid, asyncio.ensure_future(asyncio.to_thread(self._read, ref))
        return await self._last

    def _read(self, ref: FrameRef) -> _Instance:
        record = self._archive.instances(ref.study_uid, ref.series_uid, ref.sop_instance_uid)[0]
        (text,) = self._archive.metadata([record])
        return _Instance(record, orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Pictures:
    """Makes pictures of one ``look`` and ``media_type``."""

    service: Service
    look: Look
    media_type: str
    priority: Priority
    datasets: Datasets = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", Datasets(self.service))

    @property
    def _reads_dataset(self) -> bool:
        return bool(self.look.annotation) or self.look.profile is not Profile.NO

    async def view(self, ref: FrameRef) -> View:
        """What the renderer is asked for. Raises what ``Archive.describe`` raises, and InvalidRegion."""
        viewport = self.look.viewport
        if viewport is None:
            return View(window=self.look.window)
        if viewport.is_whole:
            return View(window=self.look.window, viewport=viewport.size)
        record = await asyncio.to_thread(self.service.archive.describe, ref)
        return View(window=self.look.window, region=viewport.region(record.layout), viewport=viewport.size)

    async def make(self, ref: FrameRef, priority: Priority | None = None) -> Picture:
        """One frame's picture, the same one where it is asked for again and again. Raises any RenderError. Cancel the
        caller to drop the work."""
        key, generation = (ref, self.look, self.media_type), self.service.archive.generation
        renderer = self.service.renderer
        kept = renderer.kept(key)
        if isinstance(kept, Picture):
            renderer.was_at_hand()
            return kept
        priority = self.priority if priority is None else priority
        frame, instance = await self._frame(ref, priority)
        picture = await self._on_a_thread(partial(self._encode, ref, frame, instance), priority)
        renderer.keep(key, lambda: picture, picture.version, generation)
        return picture

    async def make_patiently(self, ref: FrameRef, versions: Mapping[str, str]) -> Picture:
        """The same for a frame in mid-answer: whoever waits for any single frame comes before it. ``versions``: of the
        answer's files, by SOP Instance UID."""
        picture = await patiently(lambda: self.make(ref, max(self.priority, Priority.THUMBNAIL)))
        check_version(ref, picture.version, versions)
        return picture

    async def _frame(self, ref: FrameRef, priority: Priority) -> tuple[RenderedFrame, _Instance | None]:
        renderer, view = self.service.renderer, await self.view(ref)
        frame = renderer.read_now(ref, view) if priority is Priority.INTERACTIVE else None
        frame = frame or await renderer.render(ref, view, priority)
        instance = await self.datasets.get(ref) if self._reads_dataset else None
        if instance is not None:
            check_version(ref, frame.version, {ref.sop_instance_uid: instance.record.version})
        return frame, instance

    async def _on_a_thread(self, work: Callable[[], T], priority: Priority) -> T:
        """Raises Overloaded where too much waits for the threads that encode."""
        return await asyncio.wrap_future(self.service.encoders.submit(work, priority))

    def _encode(self, ref: FrameRef, frame: RenderedFrame, instance: _Instance | None) -> Picture:
        """On a thread."""
        pixels, profile = self._finished(ref, frame, instance)
        return Picture(encode(pixels, self.media_type, self.look.quality, profile), frame.version)

    def _finished(self, ref: FrameRef, frame: RenderedFrame, instance: _Instance | None) -> tuple[Pixels, bytes | None]:
        """Everything between rendering and encoding; the annotation is last (PS3.18 8.3.5.1.1)."""
        pixels, viewport, profile = frame.pixels, self.look.viewport, None
        check_size(pixels.shape[1], pixels.shape[0], self.media_type)
        if viewport is not None:
            across, down = viewport.flip_horizontally, viewport.flip_vertically
            pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
        if instance is None:
            return pixels, None
        if self.look.profile is not Profile.NO:
            source = self._source(ref, instance) if pixels.ndim == 3 else Source(None)
            pixels, profile = manage(pixels, self.look.profile, source, self.service.renderer.pool)
        if self.look.annotation:
            top, bottom = lines(instance.dataset, ref.frame_number, frame.window, self.look.annotation)
            pixels = burn_in(pixels, top, bottom, self.service.settings.annotation_font)
        return pixels, profile

    def _source(self, ref: FrameRef, instance: _Instance) -> Source:
        archive = self.service.archive
        read = partial(_bulk, self.service, instance.record)
        return source_of(instance.dataset, ref.frame_number, read, lambda: archive.fetch(ref))

    async def animation(self, refs: Sequence[FrameRef], versions: Mapping[str, str]) -> bytes:
        """GIF of several frames, at the pace of the first one's instance. ``versions``: of their files, by SOP Instance
        UID. Raises TooLarge and NotRenderable."""
        if len(refs) > MOST_GIF_FRAMES:
            raise TooLarge(f"an animation holds at most {MOST_GIF_FRAMES} frames, this would have {len(refs)}")

        async def compressed(ref: FrameRef) -> GifFrame:
            if ref is refs[0]:
                return await self._gif_frame(ref, self.priority, versions)
            return await patiently(lambda: self._gif_frame(ref, max(self.priority, Priority.THUMBNAIL), versions))

        instance = await self.datasets.get(refs[0])
        frames: list[GifFrame] = []
        nbytes = 0
        async with contextlib.aclosing(in_order(refs, compressed, self.cost, self.service.room)) as results:
            async for _, result in results:
                if isinstance(result, RenderError):
                    raise result
                frames.append(result)
                nbytes += result.nbytes
                _check_animation(frames, nbytes)
        pace = delays(instance.dataset, [ref.frame_number for ref in refs])
        return await asyncio.to_thread(animation, frames, pace)

    async def _gif_frame(self, ref: FrameRef, priority: Priority, versions: Mapping[str, str]) -> GifFrame:
        frame, instance = await self._frame(ref, priority)
        check_version(ref, frame.version, versions)
        return await self._on_a_thread(partial(self._compress, ref, frame, instance), priority)

    def _compress(self, ref: FrameRef, frame: RenderedFrame, instance: _Instance | None) -> GifFrame:
        pixels, _ = self._finished(ref, frame, instance)
        return encode_frame(np.ascontiguousarray(pixels))

    def cost(self, ref: FrameRef) -> int:
        """Most that a frame takes while it is made [byte]; 0 for one that cannot be."""
        try:
            layout = self.service.archive.describe(ref).layout
        except RenderError:
            return 0
        viewport = self.look.viewport
        return most_bytes(layout, View(viewport=viewport.size if viewport is not None else None))


def check_version(ref: FrameRef, version: str, versions: Mapping[str, str]) -> None:
    """Raise CorruptPixelData where a file is no longer the one that the rest of the answer is made of."""
    if versions[ref.sop_instance_uid] != version:
        raise CorruptPixelData(f"the file of SOP Instance {ref.sop_instance_uid} changed while it was read")


def _bulk(service: Service, record: InstanceRecord, path: str) -> bytes:
    return service.archive.bulkdata(record, path)


def _check_animation(frames: Sequence[GifFrame], nbytes: int) -> None:
    """Raise NotRenderable where the last frame has another size than the first, TooLarge for too many bytes."""
    first, last = frames[0], frames[-1]
    if (first.width, first.height) != (last.width, last.height):
        raise NotRenderable(f"frames of different sizes are no {GIF}; ask for a viewport of one size, or for parts")
    if nbytes > MOST_GIF_BYTES:
        raise TooLarge(f"this animation is above the limit of {MOST_GIF_BYTES} bytes; ask for a smaller viewport")
