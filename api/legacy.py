"""``/dicom-viewer/api/image/{id}/data/``: the contract of the Django view that this service replaces.

``pixel_data`` is one flat list of 8-bit display values, rows * columns of them. A colour image comes as its luminance,
because the old viewer knows one number a pixel, and says so in ``original_photometric_interpretation``.
"""

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.arrays import OCTETS, array_headers, array_response, caching, etag
from api.native import parse_view
from api.negotiation import choose
from api.problems import RESPONSES
from api.service import ClientGone, priority_of, service_of, while_connected
from gpu_render.archive import ImageRecord
from gpu_render.errors import NotFound
from gpu_render.frame import RenderedFrame, Rescale
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef

router = APIRouter(prefix="/dicom-viewer/api", tags=["old viewer"], responses=RESPONSES)

JSON = "application/json"


def luminance(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """(rows, columns, 3) uint8 RGB to (rows, columns) uint8 by ITU-R BT.601, rounded half up; grey as it is."""
    if pixels.ndim == 2:
        return pixels.astype(np.uint8, copy=False)
    weights = np.array([299, 587, 114], np.int32)
    return ((pixels.astype(np.int32) @ weights + 500) // 1000).astype(np.uint8)


def image_json(image: ImageRecord, ref: FrameRef, shown: RenderedFrame) -> dict[str, Any]:
    """What the old viewer reads; ``window_*`` is the window that made ``pixel_data``, null where there was none."""
    frame, layout, presentation = image.frame, image.frame.layout, image.frame.presentation
    rescale = presentation.modality if isinstance(presentation.modality, Rescale) else Rescale(1.0, 0.0)
    spacing = presentation.pixel_spacing_mm
    rows, columns = shown.pixels.shape
    return {
        "id": image.frame.image_id,
        "sop_instance_uid": ref.sop_instance_uid,
        "study_instance_uid": ref.study_uid,
        "series_instance_uid": ref.series_uid,
        "instance_number": frame.instance_number,
        "frame": ref.frame_number,
        "number_of_frames": frame.number_of_frames,
        "rows": rows,
        "columns": columns,
        "width": columns,
        "height": rows,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "high_bit": layout.high_bit,
        "pixel_representation": layout.pixel_representation,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "original_photometric_interpretation": layout.photometric_interpretation,
        "window_center": shown.window and shown.window.center,
        "window_width": shown.window and shown.window.width,
        "rescale_slope": rescale.slope,
        "rescale_intercept": rescale.intercept,
        "pixel_spacing": list(spacing) if spacing else None,
        "slice_thickness": frame.slice_thickness,
        "slice_location": frame.geometry.slice_location,
        "image_position": frame.geometry.image_position,
        "image_orientation": frame.geometry.image_orientation,
        "modality": image.series.modality,
        "series_number": image.series.series_number,
        "series_description": image.series.series_description,
        "study_date": image.study.study_date,
        "study_description": image.study.study_description,
        "patient_name": image.study.patient_name,
        "patient_id": image.study.patient_id,
        "pixel_data": shown.pixels.reshape(-1),
    }


_EXAMPLE = {
    "id": 17,
    "rows": 512,
    "columns": 512,
    "bits_allocated": 16,
    "bits_stored": 12,
    "window_center": 40.0,
    "window_width": 400.0,
    "pixel_spacing": [0.7, 0.7],
    "modality": "CT",
    "photometric_interpretation": "MONOCHROME2",
    "pixel_data": [0, 17, 255],
}


@router.get(
    "/image/{image_id}/data/",
    summary="The old viewer's image",
    response_class=Response,
    responses={
        200: {
            "content": {JSON: {"example": _EXAMPLE}, OCTETS: {"schema": {"type": "string", "format": "binary"}}},
        },
        404: {"description": "No image has this id."},
    },
)
async def get_image_data(
    request: Request,
    image_id: str,
    frame: Annotated[str, Query(description="frame number, from 1", examples=["1"])] = "1",
    window: Annotated[str | None, Query(description="center,width[,function]", examples=["40,400"])] = None,
) -> Response:
    """8-bit display values as a flat JSON list with the attributes an old viewer reads, or as bytes."""
    service = service_of(request)
    media_type = choose(request, (JSON, OCTETS))
    view = parse_view("display", window, None, None, None, None, service.settings.max_viewport)
    if not (image_id.isascii() and image_id.isdigit() and len(image_id) <= 18):
        raise NotFound("an image id is a whole number; see the id of a manifest's frames")
    image = await asyncio.to_thread(service.archive.image, int(image_id))
    first = image.frame.ref
    request.path_params.update(instance=first.sop_instance_uid, frame=frame)  # what a problem is about
    ref = FrameRef.parse(first.study_uid, first.series_uid, first.sop_instance_uid, frame)
    if ref.frame_number > image.frame.number_of_frames:
        raise NotFound(f"image {image_id} has {image.frame.number_of_frames} frames")
    if ref.frame_number != 1:
        image = replace(image, frame=await asyncio.to_thread(service.archive.describe, ref))
    try:
        shown = await while_connected(request, service.renderer.render(ref, view, priority_of(request)))
    except ClientGone:
        return Response(status_code=499)
    if priority_of(request) is Priority.INTERACTIVE:
        service.lookahead.saw(ref, shown.decoder)
    tag = etag(ref, view, f"old {media_type}", shown.version)
    return await asyncio.to_thread(_answer, image, ref, shown, media_type, tag)


def _answer(image: ImageRecord, ref: FrameRef, shown: RenderedFrame, media_type: str, tag: str) -> Response:
    """Off the event loop: a large image is some ten million numbers in JSON."""
    shown = replace(shown, pixels=np.ascontiguousarray(luminance(shown.pixels)))
    if media_type == OCTETS:
        return array_response(shown, OCTETS, tag)
    body = orjson.dumps(image_json(image, ref, shown), option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, 200, {**array_headers(shown), **caching(tag)}, JSON)
