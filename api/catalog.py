"""What there is: studies, the manifest of a series, the state of the index. JSON for viewers."""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.documents import json_document
from api.problems import RESPONSES
from api.service import Service, service_of
from gpu_render import PIPELINE_VERSION
from gpu_render.archive import FrameRecord, SeriesManifest, SeriesRecord, StudyRecord
from gpu_render.frame import FRAME_OVERHEAD, LookupTable, PixelLayout, Rescale, Window
from gpu_render.reference import FrameRef, check_uid

router = APIRouter(prefix="/api", tags=["catalog"], responses=RESPONSES)

Json = dict[str, Any]


def json_response(request: Request, body: Json) -> Response:
    """JSON that a browser has to ask for anew each time."""
    return json_document(request, orjson.dumps(body))


def frame_path(ref: FrameRef) -> str:
    """The frame's own URL, from the root of the service."""
    return (
        f"/api/studies/{ref.study_uid}/series/{ref.series_uid}"
        f"/instances/{ref.sop_instance_uid}/frames/{ref.frame_number}"
    )


def series_json(series: SeriesRecord) -> Json:
    """A series as a study list needs it; ``thumbnail`` null means that nothing of it can be shown."""
    middle = series.thumbnail
    return {
        "series_instance_uid": series.series_instance_uid,
        "modality": series.modality,
        "series_number": series.series_number,
        "series_description": series.series_description,
        "instance_count": series.instance_count,
        "frame_count": series.frame_count,
        "thumbnail": None
        if middle is None
        else {
            "sop_instance_uid": middle.sop_instance_uid,
            "frame_number": middle.frame_number,
            "url": frame_path(middle),
        },
    }


def study_json(study: StudyRecord) -> Json:
    """A study with its series."""
    about = study.attributes
    return {
        "study_instance_uid": about.study_instance_uid,
        "patient_name": about.patient_name,
        "patient_id": about.patient_id,
        "study_date": about.study_date,
        "study_time": about.study_time,
        "study_description": about.study_description,
        "accession_number": about.accession_number,
        "modalities": list(study.modalities),
        "series_count": len(study.series),
        "instance_count": study.instance_count,
        "frame_count": study.frame_count,
        "series": [series_json(series) for series in study.series],
    }


def window_json(window: Window) -> Json:
    """A window of the file."""
    return {
        "center": window.center,
        "width": window.width,
        "function": str(window.function),
        "explanation": window.explanation,
    }


def decoded_photometric(layout: PixelLayout) -> str:
    """Photometric Interpretation of ``stage=stored``: JPEG 2000 undoes its own colour transform while decoding."""
    name = layout.photometric_interpretation
    return {"YBR_ICT": "RGB", "YBR_RCT": "RGB", "YBR_FULL_422": "YBR_FULL"}.get(name, name)


def frame_json(frame: FrameRecord) -> Json:
    """Everything a viewer needs to show one frame without asking again; shape and dtype are those of stage=stored."""
    layout, presentation, geometry = frame.layout, frame.presentation, frame.geometry
    rescale = presentation.modality if isinstance(presentation.modality, Rescale) else None
    return {
        "id": frame.image_id,
        "sop_instance_uid": frame.ref.sop_instance_uid,
        "sop_class_uid": frame.sop_class_uid,
        "frame_number": frame.ref.frame_number,
        "instance_number": frame.instance_number,
        "url": frame_path(frame.ref),
        "version": f"{PIPELINE_VERSION}-{frame.version}",
        "shape": layout.shape,
        "dtype": layout.dtype.str,
        "samples_per_pixel": layout.samples_per_pixel,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": layout.pixel_representation,
        "photometric_interpretation": decoded_photometric(layout),
        "rescale": rescale and {"slope": rescale.slope, "intercept": rescale.intercept, "unit": rescale.unit},
        "modality_lut": isinstance(presentation.modality, LookupTable),
        "windows": [window_json(voi) for voi in presentation.voi if isinstance(voi, Window)],
        "voi_lut": any(isinstance(voi, LookupTable) for voi in presentation.voi),
        "presentation_lut": presentation.presentation_lut is not None,
        "palette": presentation.palette is not None,
        "inverse": presentation.inverse,
        "pixel_padding": presentation.pixel_padding,
        "pixel_spacing_mm": presentation.pixel_spacing_mm,
        "pixel_aspect_ratio": presentation.pixel_aspect_ratio,
        "slice_thickness_mm": frame.slice_thickness,
        "image_position": geometry.image_position,
        "image_orientation": geometry.image_orientation,
        "slice_location": geometry.slice_location,
        "transfer_syntax_uid": frame.transfer_syntax_uid,
        "notes": presentation.notes,
    }


def manifest_json(manifest: SeriesManifest) -> Json:
    """A series with all its frames, in anatomical order, and what of it cannot be shown."""
    return {
        "study_instance_uid": manifest.study.study_instance_uid,
        "patient_name": manifest.study.patient_name,
        "patient_id": manifest.study.patient_id,
        "study_date": manifest.study.study_date,
        "study_description": manifest.study.study_description,
        **series_json(manifest.series),
        "frames": [frame_json(frame) for frame in manifest.frames],
        "problems": [
            {
                "sop_instance_uid": hidden.sop_instance_uid,
                "sop_class_uid": hidden.sop_class_uid,
                "reason": hidden.reason,
            }
            for hidden in manifest.hidden
        ],
    }


_SERIES_EXAMPLE = {
    "series_instance_uid": "1.2.3.1",
    "modality": "CT",
    "series_number": 2,
    "series_description": "Thorax 1 mm",
    "instance_count": 300,
    "frame_count": 300,
    "thumbnail": {
        "sop_instance_uid": "1.2.3.1.150",
        "frame_number": 1,
        "url": "/api/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.150/frames/1",
    },
}
_STUDIES_EXAMPLE = {
    "studies": [
        {
            "study_instance_uid": "1.2.3",
            "patient_name": "Demo^Phantom",
            "patient_id": "DEMO",
            "study_date": "20240131",
            "study_time": "120000",
            "study_description": "CT phantom",
            "accession_number": "A1",
            "modalities": ["CT"],
            "series_count": 1,
            "instance_count": 300,
            "frame_count": 300,
            "series": [_SERIES_EXAMPLE],
        }
    ]
}
_MANIFEST_EXAMPLE = {
    "study_instance_uid": "1.2.3",
    "patient_name": "Demo^Phantom",
    "patient_id": "DEMO",
    "study_date": "20240131",
    "study_description": "CT phantom",
    **_SERIES_EXAMPLE,
    "frames": [
        {
            "id": 17,
            "sop_instance_uid": "1.2.3.1.1",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "frame_number": 1,
            "instance_number": 1,
            "url": "/api/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1/frames/1",
            "shape": [512, 512],
            "dtype": "<i2",
            "samples_per_pixel": 1,
            "bits_allocated": 16,
            "bits_stored": 16,
            "pixel_representation": 1,
            "photometric_interpretation": "MONOCHROME2",
            "rescale": {"slope": 1.0, "intercept": -1024.0, "unit": "HU"},
            "modality_lut": False,
            "windows": [{"center": 40.0, "width": 400.0, "function": "LINEAR", "explanation": "soft tissue"}],
            "voi_lut": False,
            "inverse": False,
            "pixel_padding": None,
            "pixel_spacing_mm": [0.7, 0.7],
            "pixel_aspect_ratio": None,
            "slice_thickness_mm": 1.0,
            "image_position": [-180.0, -180.0, 0.0],
            "image_orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "slice_location": 0.0,
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "notes": [],
        }
    ],
    "problems": [{"sop_instance_uid": "1.2.3.1.9", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.11", "reason": "..."}],
}
_INDEX_EXAMPLE = {
    "scanning": False,
    "files_done": 301,
    "files_total": 301,
    "instances": 300,
    "frames": 300,
    "unreadable": [{"path": "notes/readme.txt", "reason": "not a DICOM file"}],
}


def example(body: Json) -> dict[int | str, Json]:
    """An OpenAPI 200 answer that shows ``body``."""
    return {200: {"content": {"application/json": {"example": body}}}}


@router.get(
    "/studies", summary="Studies with their series", responses=example(_STUDIES_EXAMPLE), response_class=Response
)
async def get_studies(request: Request) -> Response:
    """All studies, the latest first: what a study list shows."""
    service = service_of(request)
    return await asyncio.to_thread(
        lambda: json_response(request, {"studies": list(map(study_json, service.archive.studies()))})
    )


@router.get(
    "/studies/{study}/series/{series}",
    summary="Manifest of a series",
    responses={**example(_MANIFEST_EXAMPLE), 404: {"description": "No such study or series."}},
    response_class=Response,
)
async def get_series(request: Request, study: str, series: str) -> Response:
    """All frames of a series in anatomical order, with everything a viewer needs, in one call."""
    service = service_of(request)
    study_uid, series_uid = check_uid(study, "Study Instance UID"), check_uid(series, "Series Instance UID")
    generation = service.archive.generation
    version = await asyncio.to_thread(service.archive.series_version, study_uid, series_uid)
    key = "manifest", study_uid, series_uid, version  # read before the text, which is not older then
    kept = service.renderer.kept(key)
    if isinstance(kept, KeptText):
        return await asyncio.to_thread(json_document, request, kept.text)
    text = await asyncio.to_thread(_manifest, service, study_uid, series_uid)
    service.renderer.keep(key, lambda: KeptText(text), version, generation)
    return await asyncio.to_thread(json_document, request, text)


@dataclass(frozen=True, slots=True)
class KeptText:
    """A JSON text that was asked for twice, kept among the frames."""

    text: bytes

    @property
    def nbytes(self) -> int:
        """What it counts against their budget [byte]."""
        return len(self.text) + FRAME_OVERHEAD

    @property
    def is_gone(self) -> bool:
        """Never."""
        return False

    def left(self) -> None:
        """Nobody else has to know."""


def _manifest(service: Service, study_uid: str, series_uid: str) -> bytes:
    return orjson.dumps(manifest_json(service.archive.series(study_uid, series_uid)))


@router.get("/index", summary="State of the index", responses=example(_INDEX_EXAMPLE), response_class=Response)
async def get_index(request: Request) -> Response:
    """How far the scan is, and which files could not be read, each with the reason.

    Of several processes one scans; in another's answer ``scanning``, ``files_done`` and ``files_total`` are null.
    """
    service = service_of(request)
    status = await asyncio.to_thread(service.archive.status)
    scans = service.settings.scan
    return await asyncio.to_thread(
        json_response,
        request,
        {
            "scanning": status.scanning if scans else None,
            "files_done": status.files_done if scans else None,
            "files_total": status.files_total if scans else None,
            "instances": status.instances,
            "frames": status.frames,
            "unreadable": [{"path": entry.path, "reason": entry.reason} for entry in status.unreadable],
        },
    )
