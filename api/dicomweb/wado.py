"""WADO-RS (PS3.18 10.4): frames, instances, series, studies and bulk data as DICOM has them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.arrays import caching
from api.dicomweb import PREFIX
from api.dicomweb.bodies import held, unchanged
from api.dicomweb.forms import DICOM, OCTETS, PDF, choose_bulkdata_form
from api.dicomweb.frames import Frames, parse_frames
from api.dicomweb.instances import Instances
from api.dicomweb.multipart import MEDIA_TYPE, digest, multipart, single
from api.negotiation import accepted
from api.problems import RESPONSES
from api.service import ClientGone, priority_of, service_of, while_connected
from gpu_render.errors import NotAcceptable
from gpu_render.reference import FrameRef, check_uid
from gpu_render.transcode import EXPLICIT_LE

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], responses=RESPONSES)

_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OF_FRAMES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Frames in the form that was chosen.", "content": {MEDIA_TYPE: _BINARY, OCTETS: _BINARY}},
    206: {"description": "The range of bytes that was asked for."},
    304: {"description": "The ETag in If-None-Match still holds."},
}
_OF_INSTANCES: dict[int | str, dict[str, Any]] = {
    **_OF_FRAMES,
    200: {"description": "DICOM files (PS3.10).", "content": {MEDIA_TYPE: _BINARY, DICOM: _BINARY}},
}

#: Pixel Data, Float Pixel Data and Double Float Pixel Data.
_PIXEL_DATA = {"7FE00010", "7FE00008", "7FE00009"}
_ENCAPSULATED_DOCUMENT = "00420011"


async def _or_gone(answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer; for a client that has gone nobody reads, one that says so in the log of requests."""
    try:
        return await answer
    except ClientGone:
        return Response(status_code=499)


def _frames(request: Request) -> Frames:
    return Frames(request, service_of(request), accepted(request), priority_of(request))


def _instances(request: Request) -> Instances:
    return Instances(request, service_of(request), accepted(request), priority_of(request))


@router.get(
    _INSTANCE + "/frames/{frames}", summary="Frames of an instance", response_class=Response, responses=_OF_FRAMES
)
async def get_frames(request: Request, study: str, series: str, instance: str, frames: str) -> Response:
    """Frames by their numbers, from 1: ``1`` or ``1,2,3``, each a part of ``multipart/related``; one also by itself.

    Without ``transfer-syntax`` in Accept it is Explicit VR Little Endian, with ``transfer-syntax=*`` the stored form.
    """
    refs = parse_frames(study, series, instance, frames)
    asked = _frames(request)
    return await _or_gone(asked.one(refs[0]) if len(refs) == 1 else asked.many(refs))


@router.get(
    _INSTANCE + "/pixeldata", summary="All frames of an instance", response_class=Response, responses=_OF_FRAMES
)
async def get_pixel_data(request: Request, study: str, series: str, instance: str) -> Response:
    """The value of Pixel Data: uncompressed one part, compressed a part for each frame."""
    return await _or_gone(_frames(request).pixel_data(FrameRef.parse(study, series, instance, 1)))


@router.get(_INSTANCE + "/bulkdata/{path:path}", summary="A large value", response_class=Response, responses=_OF_FRAMES)
async def get_bulk_data(request: Request, study: str, series: str, instance: str, path: str) -> Response:
    """What a ``BulkDataURI`` in the metadata leads to: one element's value, little-endian."""
    first = FrameRef.parse(study, series, instance, 1)
    if path.upper() in _PIXEL_DATA:
        return await _or_gone(_frames(request).pixel_data(first, path.upper()))
    return await _or_gone(_bulk_data(request, first, path))


async def _bulk_data(request: Request, first: FrameRef, path: str) -> Response:
    archive = service_of(request).archive
    media_type, is_multipart = choose_bulkdata_form(accepted(request), may_be_pdf=path == _ENCAPSULATED_DOCUMENT)
    uids = (first.study_uid, first.series_uid, first.sop_instance_uid)
    record = (await asyncio.to_thread(archive.instances, *uids))[0]
    tag = digest("bulkdata", uids, path, media_type, is_multipart, record.version)
    known = unchanged(request, caching(f'"{tag}"'))
    if known is not None:
        return known
    data = await while_connected(request, asyncio.to_thread(archive.bulkdata, record, path))
    if media_type == PDF and not data.startswith(b"%PDF-"):
        raise NotAcceptable("the document is no PDF; it is offered as application/octet-stream")
    content_type = media_type if media_type == PDF else f"{media_type}; transfer-syntax={EXPLICIT_LE}"
    framing = multipart(tag, media_type, [content_type]) if is_multipart else single(content_type)
    return held(request, framing, (data,), caching(f'"{tag}"'))


@router.get(_INSTANCE, summary="An instance", response_class=Response, responses=_OF_INSTANCES)
async def get_instance(request: Request, study: str, series: str, instance: str) -> Response:
    """The stored file, byte for byte, or in the transfer syntax that Accept names; also by itself as
    ``application/dicom``."""
    first = FrameRef.parse(study, series, instance, 1)
    return await _or_gone(_instances(request).one(first.study_uid, first.series_uid, first.sop_instance_uid))


@router.get(_SERIES, summary="All instances of a series", response_class=Response, responses=_OF_INSTANCES)
async def get_series(request: Request, study: str, series: str) -> Response:
    """Each instance a part, as for one."""
    uids = check_uid(study, "Study Instance UID"), check_uid(series, "Series Instance UID")
    return await _or_gone(_instances(request).many(*uids))


@router.get(_STUDY, summary="All instances of a study", response_class=Response, responses=_OF_INSTANCES)
async def get_study(request: Request, study: str) -> Response:
    """Each instance a part, as for one."""
    return await _or_gone(_instances(request).many(check_uid(study, "Study Instance UID")))
