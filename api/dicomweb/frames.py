"""Frames as WADO-RS sends them (PS3.18 10.4.1.1.6): one by one or many, stored, decoded or coded anew."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from starlette.requests import Request
from starlette.responses import Response

from api.again import Again, EncodedResponse, Repeatable
from api.arrays import caching
from api.batches import patiently
from api.dicomweb.bodies import held, loaded_ahead, streamed, unchanged
from api.dicomweb.forms import Form, choose_frame_form, frame_syntaxes, stored_form
from api.dicomweb.multipart import Framing, digest, multipart, single
from api.negotiation import LONGEST_REMEMBERED, MediaRange, accept_text, header
from api.service import Service, while_connected
from api.streaming import Part
from gpu_render import PIPELINE_VERSION
from gpu_render.archive import FrameRecord
from gpu_render.decode import find_decoder
from gpu_render.errors import CorruptPixelData, InvalidFrameNumber, NotFound, NotRenderable
from gpu_render.frame import FRAME_OVERHEAD, EncodedFrame, PixelLayout
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.transcode import EXPLICIT_LE

LOOK_S = 1.0
"""How long a file that is replaced while it is served may go unnoticed, where nobody has scanned it since."""

_LIST = re.compile(r"[0-9]{1,10}(,[0-9]{1,10})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class FrameBytes:
    """One frame in the transfer syntax that was asked for; ``version`` is the file's, ``decoder`` that of its pixels,
    ``none`` where its bytes are those that were stored."""

    data: Part
    version: str
    decoder: str = "none"

    @property
    def headers(self) -> dict[str, str]:
        """What tells users which decoder ran."""
        return {"X-Decode-Backend": self.decoder}


@dataclass(slots=True)
class OneFrame:
    """One frame with all that an answer says of it. ``looked_s``: when its file was last looked at."""

    data: Part
    decoder: str
    version: str
    framing: Framing
    headers: dict[str, str]
    whole: bytes | None = None
    looked_s: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        """Whether its file was looked at so short a time ago that it is not looked at again."""
        return time.monotonic() - self.looked_s < LOOK_S

    def joined(self) -> "OneFrame":
        """The same to be kept: its body in one piece, for which the server needs one write and not three."""
        head, tail = self.framing.heads[0], self.framing.tail
        whole = b"".join((head, self.data, tail))
        return replace(self, whole=whole, data=memoryview(whole)[len(head) : len(whole) - len(tail)])

    @property
    def nbytes(self) -> int:
        """What it counts against the budget of frames [byte]."""
        return len(self.data) + FRAME_OVERHEAD

    @property
    def is_gone(self) -> bool:
        """Never: its bytes are its own."""
        return False

    def left(self) -> None:
        """Nobody else has to know."""


def parse_frames(study: str, series: str, instance: str, text: str) -> list[FrameRef]:
    """``1,2,3`` in the order that is asked for. Raises InvalidUid, and InvalidFrameNumber for anything else."""
    if _LIST.fullmatch(text) is None:
        raise InvalidFrameNumber("frames are asked for as a list of numbers from 1: 1,2,3")
    numbers = text.split(",")
    first = FrameRef.parse(study, series, instance, numbers[0])
    if len(numbers) == 1:
        return [first]
    if any(int(number) < 1 for number in numbers):
        raise InvalidFrameNumber("a frame number is an integer from 1 upwards")
    return [FrameRef(first.study_uid, first.series_uid, first.sop_instance_uid, int(number)) for number in numbers]


@dataclass(frozen=True, slots=True)
class Frames:
    """What a request asks of frames. ``ranges``: the media types that it accepts."""

    request: Request
    service: Service
    ranges: Sequence[MediaRange]
    priority: Priority

    async def one(self, ref: FrameRef) -> Response:
        """A frame: kept from before, or read once, and decoded only where it has to be."""
        kept = self._kept(ref)
        if kept is not None and not kept.is_fresh:
            kept = await while_connected(self.request, self._looked_at(ref, kept))
        if kept is None and header(self.request, b"if-none-match") is not None:
            record = await asyncio.to_thread(self.service.archive.describe, ref)
            known = unchanged(self.request, _tagged(self.form(record, 1), (ref,), record.version)[1])
            if known is not None:
                return known
        if kept is None:
            generation = self.service.archive.generation
            at_once = self.priority is Priority.INTERACTIVE
            encoded = self.service.renderer.encoded_now(ref) if at_once else None
            read = None if encoded is None else self._as_stored(encoded)
            if read is None:
                read = await while_connected(self.request, self._read(ref, encoded))
            kept = _sent(ref, *read)
            self._keep(ref, kept, generation)
        if kept.decoder != "none" and self.priority is Priority.INTERACTIVE:
            self.service.lookahead.saw(ref, kept.decoder)
        headers = kept.headers | {"X-Decode-Backend": kept.decoder}
        known = unchanged(self.request, kept.headers)
        if known is not None:
            return known
        response = held(self.request, kept.framing, (kept.data,), headers, kept.whole)
        if kept.whole is not None and response.status_code == 200 and isinstance(response, Repeatable):
            response.again = self._again(ref, kept.version, response.raw_headers)
        return response

    def _again(self, ref: FrameRef, version: str, headers: list[tuple[bytes, bytes]]) -> Again:
        """As ``one`` while the frame, whole and of this ``version``, is kept and its file was just looked at."""
        renderer, lookahead = self.service.renderer, self.service.lookahead  # and not the request, which has a client
        key, waits = (ref, accept_text(self.request)), self.priority is Priority.INTERACTIVE

        def again() -> Response | None:
            kept = renderer.kept(key)
            if not isinstance(kept, OneFrame) or kept.whole is None or kept.version != version or not kept.is_fresh:
                return None
            renderer.was_at_hand()
            if kept.decoder != "none" and waits:
                lookahead.saw(ref, kept.decoder)
            return EncodedResponse(kept.whole, headers)

        return again

    def _kept(self, ref: FrameRef) -> OneFrame | None:
        """What this request gets, where it was kept for another one that accepts the same."""
        renderer = self.service.renderer
        kept = renderer.kept((ref, accept_text(self.request)))
        if not isinstance(kept, OneFrame):
            return None
        renderer.was_at_hand()
        return kept

    def _keep(self, ref: FrameRef, frame: OneFrame, generation: int) -> None:
        """For the next ones who accept the same: what is fetched only once is not kept."""
        text = accept_text(self.request)
        if self.priority is not Priority.PREFETCH and len(text) <= LONGEST_REMEMBERED:
            self.service.renderer.keep((ref, text), frame.joined, frame.version, generation)

    async def _looked_at(self, ref: FrameRef, kept: OneFrame) -> OneFrame | None:
        """The same after a look at its file; None where that is another one now."""
        record = await asyncio.to_thread(self.service.archive.describe, ref)
        if record.version != kept.version:
            return None
        kept.looked_s = time.monotonic()
        return kept

    async def many(self, refs: Sequence[FrameRef]) -> Response:
        """Frames in this order, each a part."""
        record = await asyncio.to_thread(self.service.archive.describe, refs[0])
        _require(refs, record)
        form = self.form(record, len(refs))
        return await self._streamed(refs, record, form, lambda tag, _: _framing(form, tag, len(refs)))

    async def pixel_data(self, first: FrameRef, tag: str | None = None) -> Response:
        """The value of Pixel Data: all frames one behind the other in Explicit VR Little Endian, else each a part.

        ``tag``: which of the three elements that hold pixels is asked for. Raises NotFound where it is another."""
        record = await asyncio.to_thread(self.service.archive.describe, first)
        if tag not in (None, pixel_element(record.layout)):
            raise NotFound(f"SOP Instance {first.sop_instance_uid} has no such value")
        count = record.number_of_frames
        refs = [replace(first, frame_number=number) for number in range(1, count + 1)]
        form = self.form(record, 1)
        if form.transfer_syntax_uid != EXPLICIT_LE:
            form = self.form(record, count)
        if form.transfer_syntax_uid != EXPLICIT_LE:
            return await self._streamed(refs, record, form, lambda tag, _: _framing(form, tag, count))
        if count > 1 and _begin_inside_bytes(record.layout):
            raise NotRenderable("frames that begin inside a byte are offered one by one, below frames/")
        return await self._streamed(refs, record, form, lambda tag, size: _value(form, tag, count, size))

    def form(self, stored: FrameRecord | EncodedFrame, frames: int) -> Form:
        """The form that is liked most of those that can be had. Raises NotAcceptable."""
        syntaxes = frame_syntaxes(stored.transfer_syntax_uid, stored.layout)
        return choose_frame_form(self.ranges, syntaxes, frames)

    async def _streamed(
        self,
        refs: Sequence[FrameRef],
        record: FrameRecord,
        form: Form,
        framing: Callable[[str, int], Framing],
    ) -> Response:
        """The first frame is there before anything is said; the next ones are made ahead of their turn."""
        uid = form.transfer_syntax_uid
        known = unchanged(self.request, _tagged(form, refs, record.version)[1])
        if known is not None:
            return known
        first = await while_connected(self.request, self._frame(record, refs[0], uid, self.priority))
        tag, headers = _tagged(form, refs, first.version)
        headers |= first.headers
        size = len(first.data)
        priority = max(self.priority, Priority.THUMBNAIL)  # whoever waits for any single frame comes before the rest

        async def load(number: int) -> Part:
            if number == 0:
                return first.data
            frame = await patiently(lambda: self._frame(record, refs[number], uid, priority))
            if frame.version != first.version or (uid == EXPLICIT_LE and len(frame.data) != size):
                raise CorruptPixelData(f"the file of SOP Instance {first_uid} changed while it was read")
            return frame.data

        first_uid = refs[0].sop_instance_uid
        # Samples that are not compressed take the same length in each frame: the whole has a length, and ranges.
        sizes = [size if uid == EXPLICIT_LE else None] * len(refs)
        read = loaded_ahead(load, lambda _: most_bytes(record.layout), self.service.room)
        return streamed(self.request, framing(tag, size), sizes, read, headers)

    def _as_stored(self, encoded: EncodedFrame) -> tuple[Form, FrameBytes] | None:
        """The form that is liked most, and the frame, where that is the one it is stored in."""
        form = self.form(encoded, 1)
        if form.transfer_syntax_uid != stored_form(encoded.transfer_syntax_uid):
            return None
        return form, FrameBytes(encoded.data, encoded.version)

    async def _read(self, ref: FrameRef, encoded: EncodedFrame | None) -> tuple[Form, FrameBytes]:
        """A frame in the form that is liked most, which its transfer syntax decides. ``encoded``: where it was read."""
        if encoded is None:
            encoded = await self.service.renderer.encoded(ref, self.priority)
        as_stored = self._as_stored(encoded)
        if as_stored is not None:
            return as_stored
        form = self.form(encoded, 1)
        return form, await self._made(encoded, ref, form.transfer_syntax_uid, self.priority)

    async def _frame(self, record: FrameRecord, ref: FrameRef, uid: str, priority: Priority) -> FrameBytes:
        """A frame in a transfer syntax; ``record`` is of the same instance."""
        if uid == stored_form(record.transfer_syntax_uid):
            encoded = await self.service.renderer.encoded(ref, priority)
            return FrameBytes(encoded.data, encoded.version)
        return await self._made(record, ref, uid, priority)

    async def _made(
        self, stored: FrameRecord | EncodedFrame, ref: FrameRef, uid: str, priority: Priority
    ) -> FrameBytes:
        made = await self.service.transcoder.frame(ref, uid, priority)
        return FrameBytes(made.data, made.version, find_decoder(stored.transfer_syntax_uid).codec)


def pixel_element(layout: PixelLayout) -> str:
    """The tag of Pixel Data, Float Pixel Data or Double Float Pixel Data (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25)."""
    if not layout.is_float:
        return "7FE00010"
    return "7FE00008" if layout.bits_allocated == 32 else "7FE00009"


def most_bytes(layout: PixelLayout) -> int:
    """Most that a frame takes in any form that is sent, or while it is made [byte]."""
    return math.prod(layout.shape) * layout.dtype.itemsize


def _begin_inside_bytes(layout: PixelLayout) -> bool:
    """Whether 1-bit frames follow each other without beginning a byte each (PS3.5 8.1.1)."""
    return layout.bits_allocated == 1 and layout.rows * layout.columns % 8 != 0


def _require(refs: Sequence[FrameRef], record: FrameRecord) -> None:
    """Raise NotFound for a frame beyond the last one."""
    last = max(ref.frame_number for ref in refs)
    if last > record.number_of_frames:
        uid, count = record.ref.sop_instance_uid, record.number_of_frames
        raise NotFound(f"no frame {last} of SOP Instance {uid}: it has {count} frame{'s' if count > 1 else ''}")


def _tagged(form: Form, refs: Sequence[FrameRef], version: str) -> tuple[str, dict[str, str]]:
    """What stands for this representation, and headers that let a browser keep it."""
    first = refs[0]
    numbers = tuple(ref.frame_number for ref in refs)
    uids = (first.study_uid, first.series_uid, first.sop_instance_uid)
    tag = digest("frames", uids, numbers, form, PIPELINE_VERSION, version)
    return tag, caching(f'"{tag}"')


def _sent(ref: FrameRef, form: Form, frame: FrameBytes) -> OneFrame:
    """What an answer with one frame consists of."""
    tag, headers = _tagged(form, (ref,), frame.version)
    return OneFrame(frame.data, frame.decoder, frame.version, _framing(form, tag, 1), headers)


def _framing(form: Form, tag: str, count: int) -> Framing:
    """Each frame a part."""
    if not form.multipart:
        return single(form.content_type)
    return multipart(tag, form.media_type, [form.content_type] * count)


def _value(form: Form, tag: str, count: int, size: int) -> Framing:
    """All frames one part, padded to an even length (PS3.5 8.1.1)."""
    around = _framing(form, tag, 1)
    heads = [around.heads[0], *[b""] * (count - 1)]
    return Framing(around.media_type, heads, b"\0" * (count * size % 2) + around.tail)
