"""Rendered and Thumbnail resources (PS3.18 10.4.1.1.3 and 10.4.1.1.4): pictures for people who have no DICOM viewer.

A single picture of a resource that has several is the representative one, and ``Content-Location`` says which that is;
``multipart/related`` has all of them, and so has ``image/gif``, as an animation.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.arrays import caching
from api.dicomweb import PREFIX
from api.dicomweb.bodies import loaded_ahead, streamed, unchanged
from api.dicomweb.frames import parse_frames
from api.dicomweb.multipart import MEDIA_TYPE, digest, multipart
from api.dicomweb.pictures import Picture, Pictures, check_version
from api.dicomweb.rendering import OFFERED, Form, Look, RenderedQuery, Viewport, choose_form, parse_look
from api.problems import RESPONSES
from api.service import ClientGone, Service, priority_of, service_of, while_connected
from api.streaming import Part
from gpu_render import PIPELINE_VERSION
from gpu_render.archive import Archive, InstanceRecord
from gpu_render.errors import BadRequest, NotFound, NotRenderable, RenderError
from gpu_render.pictures.colour import Profile
from gpu_render.pictures.encode import GIF
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef, check_uid
from gpu_render.view import parse_viewport

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], responses=RESPONSES)

THUMBNAIL_SIDE = 256
"""A thumbnail is no larger than this unless a viewport is asked for [px]; a smaller picture stays as it is."""

_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{frames}"

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The ETag in If-None-Match still holds."}}
_OF_PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Pictures.", "content": dict.fromkeys((*OFFERED, MEDIA_TYPE), _BINARY)},
    **_NOT_MODIFIED,
}
_OF_THUMBNAILS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A small picture.", "content": dict.fromkeys(OFFERED, _BINARY)},
    **_NOT_MODIFIED,
}

RenderedParameters = Annotated[RenderedQuery, Query()]


def _parameter(name: str) -> Any:
    """One of them by itself: routes of single instances and frames take texts only, see ``api.direct``."""
    field = RenderedQuery.model_fields[name]
    return Query(description=field.description, examples=field.examples)


WindowText = Annotated[str | None, _parameter("window")]
ViewportText = Annotated[str | None, _parameter("viewport")]
QualityText = Annotated[str | None, _parameter("quality")]
AnnotationText = Annotated[str | None, _parameter("annotation")]
ProfileText = Annotated[str | None, _parameter("iccprofile")]
ThumbnailViewport = Annotated[str | None, Query(description="vw,vh in pixels", examples=["256,256"])]

REVALIDATED = {"Cache-Control": "private, no-cache"}
"""Of series and studies, which may get more instances: a browser has to ask whether its picture still is the one."""


async def _or_gone(answer: Coroutine[Any, Any, Response]) -> Response:
    try:
        return await answer
    except ClientGone:
        return Response(status_code=499)


# -- which frames ---------------------------------------------------------------------------------------------


def frames_of(record: InstanceRecord) -> list[FrameRef]:
    """All frames of an instance that can be shown."""
    uids = (record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid)
    return [FrameRef(*uids, number) for number in range(1, record.number_of_frames + 1)]


def representative(records: Sequence[InstanceRecord]) -> FrameRef:
    """The frame in the middle of the series that has the most. ``records``: in order, some with frames."""
    series = [list(group) for _, group in groupby(records, lambda record: record.series_instance_uid)]
    longest = max(series, key=lambda group: sum(record.number_of_frames for record in group))
    index = sum(record.number_of_frames for record in longest) // 2
    for record in longest:
        if index < record.number_of_frames:
            uids = (record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid)
            return FrameRef(*uids, index + 1)
        index -= record.number_of_frames
    raise NotRenderable("nothing here can be shown as a picture")


async def _records(
    archive: Archive, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None
) -> tuple[list[InstanceRecord], dict[str, str]]:
    """Those of the instances that can be shown, and a header that says so where others cannot.

    Raises NotFound, and why the only one cannot be shown.
    """
    records = await asyncio.to_thread(archive.instances, study_uid, series_uid, sop_instance_uid)
    shown = [record for record in records if record.number_of_frames]
    if not shown and len(records) == 1:
        only = records[0]
        first = FrameRef(only.study_instance_uid, only.series_instance_uid, only.sop_instance_uid, 1)
        await asyncio.to_thread(archive.describe, first)  # which knows the kind of error
    if not shown:
        raise NotRenderable("none of the instances here can be shown as pictures")
    hidden = len(records) - len(shown)
    if not hidden:
        return shown, {}
    return shown, {"Warning": f"299 {PREFIX}: {hidden} of {len(records)} instances cannot be shown as pictures"}


def _only_frame(
    archive: Archive, study_uid: str, series_uid: str | None, sop_instance_uid: str | None
) -> FrameRef | None:
    """The frame of an instance that has no other, by one look-up. None for all else, also where something is wrong,
    which ``_records`` says."""
    if series_uid is None or sop_instance_uid is None:
        return None
    ref = FrameRef(study_uid, series_uid, sop_instance_uid, 1)
    try:
        return ref if archive.describe(ref).number_of_frames == 1 else None
    except RenderError:
        return None


# -- answers --------------------------------------------------------------------------------------------------


class Answer:
    """Pictures of one look and form, of whatever frames a request is for."""

    def __init__(self, request: Request, service: Service, look: Look, form: Form, priority: Priority) -> None:
        if form.media_type == GIF and look.profile is not Profile.NO:
            raise BadRequest("image/gif cannot hold an ICC profile")
        self._request = request
        self._service = service
        self._look = look
        self._form = form
        self._pictures = Pictures(service, look, form.media_type, priority)

    async def single(self, ref: FrameRef, extra: dict[str, str]) -> Response:
        """One frame as a picture. ``extra``: headers."""
        if "if-none-match" in self._request.headers:
            record = await asyncio.to_thread(self._service.archive.describe, ref)
            known = unchanged(self._request, self._headers((ref, record.version), extra))
            if known is not None:
                return known
        picture = await while_connected(self._request, self._pictures.make(ref))
        headers = self._headers((ref, picture.version), extra)
        return Response(picture.data, 200, headers, media_type=self._form.media_type)

    async def many(self, refs: Sequence[FrameRef], versions: Mapping[str, str], extra: dict[str, str]) -> Response:
        """All frames, in parts or as an animation. ``versions``: of their files, by SOP Instance UID."""
        numbers = [(uid, [ref.frame_number for ref in group]) for uid, group in groupby(refs, _instance_of)]
        headers = self._headers((numbers, versions), extra)
        known = unchanged(self._request, headers)
        if known is not None:
            return known
        if not self._form.multipart:
            picture = await while_connected(self._request, self._pictures.animation(refs, versions))
            return Response(picture, 200, headers, media_type=GIF)
        return await self._parts(refs, versions, headers)

    async def _parts(self, refs: Sequence[FrameRef], versions: Mapping[str, str], headers: dict[str, str]) -> Response:
        """The first picture is there before anything is said; the next ones are made ahead of their turn."""
        first: Picture | None = await while_connected(self._request, self._pictures.make(refs[0]))
        assert first is not None
        check_version(refs[0], first.version, versions)

        async def load(number: int) -> Part:
            nonlocal first
            made, first = first if number == 0 else None, None
            return (made or await self._pictures.make_patiently(refs[number], versions)).data

        media_type = self._form.media_type
        framing = multipart(headers["ETag"].strip('"'), media_type, [media_type] * len(refs))
        read = loaded_ahead(load, lambda number: self._pictures.cost(refs[number]), self._service.room)
        return streamed(self._request, framing, [None] * len(refs), read, headers)

    def _headers(self, subject: object, extra: dict[str, str]) -> dict[str, str]:
        """``subject``: which frames of which files."""
        font = self._service.settings.annotation_font if self._look.annotation else None
        tag = digest("picture", subject, self._look, self._form, font, PIPELINE_VERSION)
        headers = {**caching(f'"{tag}"'), **extra}
        if self._look.unsupported:
            names = ", ".join(self._look.unsupported)
            warning = f"299 {PREFIX}: The following annotation values are not supported: {names}"
            headers["Warning"] = ", ".join(filter(None, (headers.get("Warning"), warning)))
        return headers


def _instance_of(ref: FrameRef) -> str:
    return ref.sop_instance_uid


async def _rendered(
    request: Request, query: RenderedQuery, study: str, series: str | None = None, instance: str | None = None
) -> Response:
    service = service_of(request)
    look = parse_look(query, service.settings.max_viewport)
    choose_form(request, several=True)  # what is wrong with Accept is wrong whatever there is
    uids = _checked(study, series, instance)
    only = _only_frame(service.archive, study, series, instance)
    if only is not None and not (form := choose_form(request, several=False)).multipart:
        answer = Answer(request, service, look, form, priority_of(request))
        return await answer.single(only, {"Content-Location": _location(request, only, "rendered")})
    records, hidden = await _records(service.archive, *uids)
    several = sum(record.number_of_frames for record in records) > 1
    form = choose_form(request, several=several)
    answer = Answer(request, service, look, form, priority_of(request))
    extra = hidden if instance is not None else {**REVALIDATED, **hidden}
    if form.multipart or (form.media_type == GIF and several):
        refs = [ref for record in records for ref in frames_of(record)]
        return await answer.many(refs, {record.sop_instance_uid: record.version for record in records}, extra)
    ref = representative(records)
    return await answer.single(ref, {**extra, "Content-Location": _location(request, ref, "rendered")})


async def _rendered_frames(request: Request, query: RenderedQuery, refs: Sequence[FrameRef]) -> Response:
    service = service_of(request)
    look = parse_look(query, service.settings.max_viewport)
    form = choose_form(request, several=len(refs) > 1)
    answer = Answer(request, service, look, form, priority_of(request))
    if len(refs) == 1 and not form.multipart:
        return await answer.single(refs[0], {})
    record = await asyncio.to_thread(service.archive.describe, refs[0])
    last = max(ref.frame_number for ref in refs)
    if last > record.number_of_frames:
        raise NotFound(f"no frame {last} of SOP Instance {refs[0].sop_instance_uid}")
    if form.multipart or form.media_type == GIF:
        return await answer.many(refs, {refs[0].sop_instance_uid: record.version}, {})
    ref = refs[len(refs) // 2]
    return await answer.single(ref, {"Content-Location": _location(request, ref, "rendered")})


async def _thumbnail(
    request: Request, viewport: str | None, refs: Sequence[FrameRef], of: tuple[str, str | None, str | None]
) -> Response:
    """``refs``: frames that are asked for; none: the frame that stands for ``of``."""
    service = service_of(request)
    size = None if viewport is None else parse_viewport(viewport, service.settings.max_viewport)
    form = choose_form(request, several=False, parts=False)
    ref = refs[len(refs) // 2] if refs else representative((await _records(service.archive, *of))[0])
    if size is None:
        layout = (await asyncio.to_thread(service.archive.describe, ref)).layout
        size = min(THUMBNAIL_SIDE, layout.columns), min(THUMBNAIL_SIDE, layout.rows)
    look = replace(Look(), viewport=Viewport(size))
    answer = Answer(request, service, look, form, max(priority_of(request), Priority.THUMBNAIL))
    extra = {} if of[2] is not None else REVALIDATED
    return await answer.single(ref, {**extra, "Content-Location": _location(request, ref, "thumbnail")})


def _checked(study: str, series: str | None, instance: str | None) -> tuple[str, str | None, str | None]:
    """Raises InvalidUid."""
    return (
        check_uid(study, "Study Instance UID"),
        None if series is None else check_uid(series, "Series Instance UID"),
        None if instance is None else check_uid(instance, "SOP Instance UID"),
    )


def _location(request: Request, ref: FrameRef, resource: str) -> str:
    """The picture's own path (RFC 9110 section 8.7)."""
    query = request.url.query
    return (
        f"{request.scope.get('root_path', '')}{PREFIX}/studies/{ref.study_uid}/series/{ref.series_uid}"
        f"/instances/{ref.sop_instance_uid}/frames/{ref.frame_number}/{resource}{f'?{query}' if query else ''}"
    )


# -- routes ---------------------------------------------------------------------------------------------------


@router.get(_STUDY + "/rendered", summary="Pictures of a study", response_class=Response, responses=_OF_PICTURES)
async def get_rendered_study(request: Request, study: str, query: RenderedParameters) -> Response:
    """Each frame a part of ``multipart/related``, or the representative one as a picture by itself."""
    return await _or_gone(_rendered(request, query, study))


@router.get(_SERIES + "/rendered", summary="Pictures of a series", response_class=Response, responses=_OF_PICTURES)
async def get_rendered_series(request: Request, study: str, series: str, query: RenderedParameters) -> Response:
    """As for a study; ``image/gif`` shows all frames one after the other."""
    return await _or_gone(_rendered(request, query, study, series))


@router.get(_INSTANCE + "/rendered", summary="Pictures of an instance", response_class=Response, responses=_OF_PICTURES)
async def get_rendered_instance(
    request: Request,
    study: str,
    series: str,
    instance: str,
    window: WindowText = None,
    viewport: ViewportText = None,
    quality: QualityText = None,
    annotation: AnnotationText = None,
    iccprofile: ProfileText = None,
) -> Response:
    """As for a series; of a single-frame instance its picture."""
    query = RenderedQuery(
        window=window, viewport=viewport, quality=quality, annotation=annotation, iccprofile=iccprofile
    )
    return await _or_gone(_rendered(request, query, study, series, instance))


@router.get(_FRAMES + "/rendered", summary="Pictures of frames", response_class=Response, responses=_OF_PICTURES)
async def get_rendered_frames(
    request: Request,
    study: str,
    series: str,
    instance: str,
    frames: str,
    window: WindowText = None,
    viewport: ViewportText = None,
    quality: QualityText = None,
    annotation: AnnotationText = None,
    iccprofile: ProfileText = None,
) -> Response:
    """``1`` or ``1,2,3``: numbers from 1."""
    refs = parse_frames(study, series, instance, frames)
    query = RenderedQuery(
        window=window, viewport=viewport, quality=quality, annotation=annotation, iccprofile=iccprofile
    )
    return await _or_gone(_rendered_frames(request, query, refs))


@router.get(
    _STUDY + "/thumbnail", summary="A small picture of a study", response_class=Response, responses=_OF_THUMBNAILS
)
async def get_study_thumbnail(request: Request, study: str, viewport: ThumbnailViewport = None) -> Response:
    """The frame in the middle of its longest series, at most 256 pixels a side, without any text."""
    return await _or_gone(_thumbnail(request, viewport, (), _checked(study, None, None)))


@router.get(
    _SERIES + "/thumbnail", summary="A small picture of a series", response_class=Response, responses=_OF_THUMBNAILS
)
async def get_series_thumbnail(
    request: Request, study: str, series: str, viewport: ThumbnailViewport = None
) -> Response:
    """The frame in its middle."""
    return await _or_gone(_thumbnail(request, viewport, (), _checked(study, series, None)))


@router.get(
    _INSTANCE + "/thumbnail",
    summary="A small picture of an instance",
    response_class=Response,
    responses=_OF_THUMBNAILS,
)
async def get_instance_thumbnail(
    request: Request, study: str, series: str, instance: str, viewport: ThumbnailViewport = None
) -> Response:
    """The frame in its middle."""
    return await _or_gone(_thumbnail(request, viewport, (), _checked(study, series, instance)))


@router.get(
    _FRAMES + "/thumbnail", summary="A small picture of a frame", response_class=Response, responses=_OF_THUMBNAILS
)
async def get_frame_thumbnail(
    request: Request, study: str, series: str, instance: str, frames: str, viewport: ThumbnailViewport = None
) -> Response:
    """That frame; of several the one in their middle."""
    refs = parse_frames(study, series, instance, frames)
    return await _or_gone(_thumbnail(request, viewport, refs, _checked(study, series, instance)))
