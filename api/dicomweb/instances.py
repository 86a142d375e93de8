"""Whole instances as WADO-RS sends them (PS3.18 10.4.1.1.1 to 10.4.1.1.3): the stored files, or rewritten ones."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from api.arrays import caching
from api.batches import patiently
from api.dicomweb.bodies import held, streamed, unchanged
from api.dicomweb.forms import DICOM, InstanceForm, choose_instance_form, instance_syntax
from api.dicomweb.multipart import Cut, Framing, digest, multipart, single
from api.negotiation import MediaRange
from api.service import Service, while_connected
from api.streaming import Part
from gpu_render import PIPELINE_VERSION
from gpu_render.ahead import MIB
from gpu_render.archive import Archive, InstanceRecord
from gpu_render.errors import CorruptPixelData, NotAcceptable
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.transcode import MADE, InstanceStream, can_instance

STEP_BYTES = MIB
"""Most that is read of a file at once [byte]."""


@dataclass(frozen=True, slots=True)
class Instances:
    """What a request asks of whole instances. ``ranges``: the media types that it accepts."""

    request: Request
    service: Service
    ranges: Sequence[MediaRange]
    priority: Priority

    async def one(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> Response:
        """An instance, which never changes: browsers may keep it."""
        records = await asyncio.to_thread(self.service.archive.instances, study_uid, series_uid, sop_instance_uid)
        is_multipart, syntaxes = await asyncio.to_thread(self._choose, records, one=True)
        tag = digest("instance", sop_instance_uid, is_multipart, syntaxes, PIPELINE_VERSION, records[0].version)
        return await self._answer(records, is_multipart, syntaxes, tag, caching(f'"{tag}"'))

    async def many(self, study_uid: str, series_uid: str | None = None) -> Response:
        """All of a series or study. More may come: a browser has to ask whether they are all."""
        records = await asyncio.to_thread(self.service.archive.instances, study_uid, series_uid)
        _, syntaxes = await asyncio.to_thread(self._choose, records, one=False)
        versions = [(record.sop_instance_uid, record.version) for record in records]
        tag = digest("instances", study_uid, series_uid, syntaxes, PIPELINE_VERSION, versions)
        headers = {**caching(f'"{tag}"'), "Cache-Control": "private, no-cache"}
        return await self._answer(records, True, syntaxes, tag, headers)

    def _choose(self, records: Sequence[InstanceRecord], *, one: bool) -> tuple[bool, list[str]]:
        """Whether the body is a multipart one, and each instance's transfer syntax in it: the one that is liked most
        of those that this instance can be had in. Raises NotAcceptable."""
        forms = choose_instance_form(self.ranges, one=one)
        refused: InstanceRecord | None = None
        for is_multipart in dict.fromkeys(form.multipart for form in forms):
            alike = [form for form in forms if form.multipart == is_multipart]
            found = [self._syntax(alike, record) for record in records]
            syntaxes = [syntax for syntax in found if syntax is not None]
            if len(syntaxes) == len(records):
                return is_multipart, syntaxes
            refused = refused or records[found.index(None)]
        assert refused is not None
        made = [uid for uid in MADE if self._can_make(refused, uid)]
        offered = ", ".join(dict.fromkeys([refused.transfer_syntax_uid, *made]))
        raise NotAcceptable(f"SOP Instance {refused.sop_instance_uid} is offered in {offered}, as stored with *")

    def _syntax(self, forms: Sequence[InstanceForm], record: InstanceRecord) -> str | None:
        for form in forms:
            syntax = instance_syntax(form, record.transfer_syntax_uid, partial(self._can_make, record))
            if syntax is not None:
                return syntax
        return None

    def _can_make(self, record: InstanceRecord, syntax: str) -> bool:
        """Whether an instance can be rewritten in a transfer syntax; blocks."""
        layout = None
        if record.reason is None and syntax in MADE:
            first = FrameRef(record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid, 1)
            try:
                layout = self.service.archive.describe(first).layout
            except CorruptPixelData:  # of a file that was cut off
                return False
        return can_instance(record.transfer_syntax_uid, layout, syntax)

    async def _answer(
        self,
        records: Sequence[InstanceRecord],
        is_multipart: bool,
        syntaxes: Sequence[str],
        tag: str,
        headers: dict[str, str],
    ) -> Response:
        """What can be told of the first instance is told before anything is sent."""
        known = unchanged(self.request, headers)
        if known is not None:
            return known
        framing = _framing(is_multipart, syntaxes, tag)
        archive, first = self.service.archive, records[0]
        stored = [record.transfer_syntax_uid == uid for record, uid in zip(records, syntaxes, strict=True)]
        sizes = [record.nbytes if as_is else None for record, as_is in zip(records, stored, strict=True)]
        if len(records) == 1 and stored[0] and first.nbytes <= STEP_BYTES:
            content = await asyncio.to_thread(read_step, archive, first, 0, first.nbytes)
            return held(self.request, framing, (content,), headers)
        rewritten: InstanceStream | None = None
        if stored[0]:
            await asyncio.to_thread(read_step, archive, first, 0, 1)
        else:
            rewritten = await while_connected(self.request, self._rewritten(first, syntaxes[0]))
            sizes[0] = rewritten.content_length

        async def read(cuts: Sequence[Cut]) -> AsyncGenerator[Part, None]:
            for cut in cuts:
                if cut.head:
                    yield cut.head
                if not cut.has_content:
                    continue
                async with contextlib.aclosing(await content_of(cut)) as steps:
                    async for step in steps:
                        yield step

        async def content_of(cut: Cut) -> AsyncGenerator[Part, None]:
            number = cut.number
            if stored[number]:
                return read_file(archive, records[number], cut)
            if number == 0 and rewritten is not None:
                return within(rewritten.chunks, cut)
            made = await patiently(lambda: self._rewritten(records[number], syntaxes[number]))
            return within(made.chunks, cut)

        return streamed(self.request, framing, sizes, read, headers)

    async def _rewritten(self, record: InstanceRecord, syntax: str) -> InstanceStream:
        return await self.service.transcoder.instance(record, syntax, self.priority)


def _framing(is_multipart: bool, syntaxes: Sequence[str], tag: str) -> Framing:
    content_types = [f"{DICOM}; transfer-syntax={uid}" for uid in syntaxes]
    return multipart(tag, DICOM, content_types) if is_multipart else single(content_types[0])


async def within(chunks: AsyncGenerator[Part, None], cut: Cut) -> AsyncGenerator[Part, None]:
    """What a cut wants of what is made from its beginning on. Raises CorruptPixelData where that ends before."""
    at = 0
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            stop = len(chunk) if cut.stop is None else max(0, cut.stop - at)
            wanted = memoryview(chunk)[max(0, cut.start - at) : stop]
            at += len(chunk)
            if len(wanted):
                yield wanted
            if cut.stop is not None and at >= cut.stop:
                return
    if cut.stop is not None:
        raise CorruptPixelData("what was made of an instance is shorter than was said")


async def read_file(archive: Archive, record: InstanceRecord, cut: Cut) -> AsyncGenerator[bytes, None]:
    """What a cut wants of a stored file, step by step, read by threads. Raises as ``read_step`` does."""
    stop = record.nbytes if cut.stop is None else cut.stop
    for start in range(cut.start, stop, STEP_BYTES):
        yield await asyncio.to_thread(read_step, archive, record, start, min(STEP_BYTES, stop - start))


def read_step(archive: Archive, record: InstanceRecord, start: int, length: int) -> bytes:
    """Bytes of a stored file. It is opened for each step, and held open by nobody who waits for a slow client; so
    NotFound is raised as soon as it has gone or changed. Raises CorruptPixelData where it becomes shorter."""
    with archive.open(record) as file:
        data = os.pread(file.descriptor, length, start)
    if len(data) != length:
        raise CorruptPixelData(f"the file of SOP Instance {record.sop_instance_uid} became shorter while it was read")
    return data
