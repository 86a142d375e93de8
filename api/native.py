"""``/api/.../frames/{frame}``: one frame as a raw array."""

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.again import Again
from api.arrays import MEDIA_TYPES, VARY_CODED, array_response, caching, etag
from api.encoding import encoder_of, held
from api.negotiation import LONGEST_REMEMBERED, choose, header
from api.problems import RESPONSES
from api.service import ClientGone, Service, priority_of, service_of, while_connected
from gpu_render.errors import BadRequest
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.view import Stage, View, parse_region, parse_viewport, parse_window

router = APIRouter(prefix="/api", tags=["raw arrays"], responses=RESPONSES)

_EXAMPLE_HEADERS = {
    "X-Array-Shape": "512,512",
    "X-Array-Dtype": "|u1",
    "X-Array-Stage": "display",
    "X-Window": "40,400,LINEAR",
    "X-Decode-Backend": "native",
    "X-Render-Backend": "cpu",
    "Server-Timing": "queue;dur=0.1, read;dur=0.04, decode;dur=0.01, upload;dur=0.01, render;dur=0.2, download;dur=0",
}


def parse_flag(text: str | None) -> bool:
    """``true`` or ``1``, ``false`` or ``0``; an empty value counts as absent, like every parameter's. BadRequest."""
    if not text or text.lower() in ("false", "0"):
        return False
    if text.lower() in ("true", "1"):
        return True
    raise BadRequest("invert is true or false")


def parse_view(
    stage: str | None,
    window: str | None,
    voi: str | None,
    region: str | None,
    viewport: str | None,
    invert: str | None,
    max_side: int,
) -> View:
    """Query parameters to a View. Raises BadRequest and its subclasses."""
    name = (stage or "display").lower()
    if name not in Stage.__members__.values():
        raise BadRequest("stage is stored, modality or display")
    if voi and not (voi.isascii() and voi.isdigit() and len(voi) <= 4):
        raise BadRequest("voi is the number of one of the file's VOI transformations, from 0")
    view = View(
        stage=Stage(name),
        window=parse_window(window) if window else None,
        voi_index=int(voi) if voi else None,
        region=parse_region(region) if region else None,
        viewport=parse_viewport(viewport, max_side) if viewport else None,
        invert=parse_flag(invert),
    )
    if view.stage is not Stage.DISPLAY and (view.window or view.invert or view.voi_index is not None):
        raise BadRequest("window, voi and invert belong to stage=display")
    return view


_usual_view = lru_cache(maxsize=256)(parse_view)


async def frame_response(request: Request, service: Service, ref: FrameRef, view: View, media_type: str) -> Response:
    """The frame, or 304 where the client has it already."""
    known = header(request, b"if-none-match")
    if known is not None:
        tag = etag(ref, view, media_type, service.archive.describe(ref).version)
        if (same := held(request, known, tag, media_type)) is not None:
            return Response(status_code=304, headers=caching(same, VARY_CODED))
    priority = priority_of(request)
    frame = service.renderer.at_hand(ref, view)
    if frame is None and priority is Priority.INTERACTIVE:
        frame = service.renderer.read_now(ref, view)
    if frame is None:
        try:
            frame = await while_connected(request, service.renderer.render(ref, view, priority))
        except ClientGone:
            return Response(status_code=499)
    if priority is Priority.INTERACTIVE:
        service.lookahead.saw(ref, frame.decoder)
    tag = etag(ref, view, media_type, frame.version)
    if known == "*":  # whether there is any picture: only rendering tells
        return Response(status_code=304, headers=caching(tag, VARY_CODED))
    encoder = encoder_of(request)
    if (form := encoder.frame_form(request, media_type)) is not None:
        try:
            response = await encoder.frame(request, frame, media_type, form, tag, priority)
        except ClientGone:
            return Response(status_code=499)
        if response is not None:
            return response
    plain = array_response(frame, media_type, tag, VARY_CODED)
    if form is None:
        plain.again = _again(service, ref, view, media_type, priority, (frame.version, tag))
    return plain


def _again(
    service: Service, ref: FrameRef, view: View, media_type: str, priority: Priority, tagged: tuple[str, str]
) -> Again:
    """As ``frame_response`` while the frame is at hand. ``tagged``: a version of the file, and its ETag."""
    version, tag = tagged

    def again() -> Response | None:
        frame = service.renderer.at_hand(ref, view)
        if frame is None:
            return None
        if priority is Priority.INTERACTIVE:
            service.lookahead.saw(ref, frame.decoder)
        now = tag if frame.version == version else etag(ref, view, media_type, frame.version)
        return array_response(frame, media_type, now, VARY_CODED)

    return again


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/frames/{frame}",
    summary="One frame as a raw array",
    response_class=Response,
    responses={
        200: {
            "description": "Little-endian, C order; the headers say shape, dtype, stage and the window used.",
            "headers": {
                name: {"schema": {"type": "string"}, "example": text} for name, text in _EXAMPLE_HEADERS.items()
            },
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES},
        },
        304: {"description": "The ETag in If-None-Match still holds."},
        404: {"description": "No such study, series, instance or frame."},
    },
)
async def get_frame(
    request: Request,
    study: str,
    series: str,
    instance: str,
    frame: str,
    stage: Annotated[str | None, Query(description="stored, modality or display", examples=["display"])] = None,
    window: Annotated[
        str | None, Query(description="center,width[,linear|linear-exact|sigmoid]", examples=["40,400"])
    ] = None,
    voi: Annotated[str | None, Query(description="which VOI of the file, from 0", examples=["0"])] = None,
    region: Annotated[
        str | None, Query(description="x,y,width,height in stored pixels", examples=["0,0,256,256"])
    ] = None,
    viewport: Annotated[
        str | None, Query(description="width,height that the picture fits in", examples=["256,256"])
    ] = None,
    invert: Annotated[str | None, Query(description="true: grey values turned round", examples=["false"])] = None,
) -> Response:
    """Stored values, modality values (HU ...) or the 8-bit picture of one frame.

    Without ``window`` the file's first VOI is applied, and the frame's range where it has none.
    """
    service = service_of(request)
    media_type = choose(request, MEDIA_TYPES)
    ref = FrameRef.parse(study, series, instance, frame)
    parse = _usual_view if len(request.scope["query_string"]) <= LONGEST_REMEMBERED else parse_view
    view = parse(stage, window, voi, region, viewport, invert, service.settings.max_viewport)
    return await frame_response(request, service, ref, view, media_type)
