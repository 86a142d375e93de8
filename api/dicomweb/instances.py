"""Whole instances as WADO-RS sends them (PS3.18 10.4.1.1.1 to 10.4.1.1.3): the stored files, or rewritten ones."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from api.arrays import caching
from api.dicomweb.bodies import held, streamed, unchanged
from api.dicomweb.forms import DICOM, InstanceForm, choose_instance_form, instance_syntax
from api.dicomweb.multipart import Cut, Framing, digest, multipart, single
from api.negotiation import MediaRange
from api.service import Service
from api.streaming import Part
from gpu_render import PIPELINE_VERSION
from gpu_render.ahead import MIB
from gpu_render.archive import Archive, InstanceRecord
from gpu_render.errors import CorruptPixelData, NotAcceptable
from gpu_render.priority import Priority

STEP_BYTES = MIB
"""Most that is read of a file at once [byte]."""

MADE: tuple[str, ...] = ()
"""Transfer syntaxes that instances can be rewritten in."""


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
        form, syntaxes = self._choose(records, one=True)
        tag = digest("instance", sop_instance_uid, form, PIPELINE_VERSION, records[0].version)
        return await self._answer(records, form, syntaxes, tag, caching(f'"{tag}"'))

    async def many(self, study_uid: str, series_uid: str | None = None) -> Response:
        """All of a series or study. More may come: a browser has to ask whether they are all."""
        records = await asyncio.to_thread(self.service.archive.instances, study_uid, series_uid)
        form, syntaxes = self._choose(records, one=False)
        versions = [(record.sop_instance_uid, record.version) for record in records]
        tag = digest("instances", study_uid, series_uid, form, PIPELINE_VERSION, versions)
        headers = {**caching(f'"{tag}"'), "Cache-Control": "private, no-cache"}
        return await self._answer(records, form, syntaxes, tag, headers)

    def _choose(self, records: Sequence[InstanceRecord], *, one: bool) -> tuple[InstanceForm, list[str]]:
        """The form that is liked most, and each instance's transfer syntax in it. Raises NotAcceptable."""
        refused: InstanceRecord | None = None
        for form in choose_instance_form(self.ranges, one=one):
            found = [instance_syntax(form, record.transfer_syntax_uid, MADE) for record in records]
            syntaxes = [syntax for syntax in found if syntax is not None]
            if len(syntaxes) == len(records):
                return form, syntaxes
            refused = refused or records[found.index(None)]
        assert refused is not None
        offered = ", ".join(dict.fromkeys([refused.transfer_syntax_uid, *MADE]))
        raise NotAcceptable(f"SOP Instance {refused.sop_instance_uid} is offered in {offered}, as stored with *")

    async def _answer(
        self,
        records: Sequence[InstanceRecord],
        form: InstanceForm,
        syntaxes: Sequence[str],
        tag: str,
        headers: dict[str, str],
    ) -> Response:
        known = unchanged(self.request, headers)
        if known is not None:
            return known
        framing = _framing(form, syntaxes, tag)
        archive, sizes = self.service.archive, [record.nbytes for record in records]
        if len(records) == 1 and sizes[0] <= STEP_BYTES:
            first = await asyncio.to_thread(read_step, archive, records[0], 0, sizes[0])
            return held(self.request, framing, (first,), headers)
        await asyncio.to_thread(read_step, archive, records[0], 0, 1)  # before anything is said

        async def read(cuts: Sequence[Cut]) -> AsyncGenerator[Part, None]:
            for cut in cuts:
                if cut.head:
                    yield cut.head
                if cut.has_content:
                    async with contextlib.aclosing(read_file(archive, records[cut.number], cut)) as steps:
                        async for step in steps:
                            yield step

        return streamed(self.request, framing, sizes, read, headers)


def _framing(form: InstanceForm, syntaxes: Sequence[str], tag: str) -> Framing:
    content_types = [f"{DICOM}; transfer-syntax={uid}" for uid in syntaxes]
    return multipart(tag, DICOM, content_types) if form.multipart else single(content_types[0])


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
