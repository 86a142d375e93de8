"""PixelLayout, Presentation and Geometry as JSON text and back: the one place that knows how they are stored."""

import base64
import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from gpu_render.frame import Geometry, LookupTable, PixelLayout, Presentation, Rescale, VoiFunction, Window

Json = dict[str, Any]


_dump = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one a call


def layout_to_json(layout: PixelLayout) -> str:
    """JSON text of a PixelLayout."""
    return _dump(asdict(layout))


@lru_cache(maxsize=256)
def layout_from_json(text: str) -> PixelLayout:
    """The PixelLayout of ``layout_to_json``'s text; equal texts give one object."""
    return PixelLayout(**json.loads(text))


def geometry_to_json(geometry: Geometry) -> str:
    """JSON text of a Geometry: position, orientation, slice location."""
    return _dump([geometry.image_position, geometry.image_orientation, geometry.slice_location])


def move_geometry(text: str, position: tuple[float, float, float]) -> str:
    """``geometry_to_json``'s text of a Geometry without image position, with this one: for very many of them."""
    x, y, z = position  # finite; then repr writes what JSON does
    return f"[[{x!r},{y!r},{z!r}]{text.removeprefix('[null')}"


def geometry_from_json(text: str) -> Geometry:
    """The Geometry of ``geometry_to_json``'s text."""
    position, orientation, location = json.loads(text)
    return Geometry(
        None if position is None else tuple(position), None if orientation is None else tuple(orientation), location
    )


def _table_to_json(table: LookupTable) -> Json:
    data = np.ascontiguousarray(table.data, dtype="<u2")
    return {
        "first_mapped": table.first_mapped,
        "shape": list(data.shape),
        "data": base64.b64encode(data.tobytes()).decode("ascii"),
        "bits": table.bits,
        "explanation": table.explanation,
    }


def _table_from_json(record: Json) -> LookupTable:
    # frombuffer over bytes: read-only, so records may be shared between requests.
    data = np.frombuffer(base64.b64decode(record["data"]), "<u2").reshape(record["shape"])
    return LookupTable(record["first_mapped"], data, record["bits"], record["explanation"])


def _optional_table_to_json(table: LookupTable | None) -> Json | None:
    return None if table is None else _table_to_json(table)


def _optional_table_from_json(record: Json | None) -> LookupTable | None:
    return None if record is None else _table_from_json(record)


def _modality_to_json(modality: Rescale | LookupTable | None) -> Json | None:
    if isinstance(modality, LookupTable):
        return {"table": _table_to_json(modality)}
    return None if modality is None else asdict(modality)


def _modality_from_json(record: Json | None) -> Rescale | LookupTable | None:
    if record is None:
        return None
    return _table_from_json(record["table"]) if "table" in record else Rescale(**record)


def _voi_to_json(voi: Window | LookupTable) -> Json:
    return {"table": _table_to_json(voi)} if isinstance(voi, LookupTable) else asdict(voi)


def _voi_from_json(record: Json) -> Window | LookupTable:
    if "table" in record:
        return _table_from_json(record["table"])
    return Window(record["center"], record["width"], VoiFunction(record["function"]), record["explanation"])


def presentation_to_json(presentation: Presentation) -> str:
    """JSON text of a Presentation; tables as base64 of little-endian uint16."""
    return _dump(
        {
            "modality": _modality_to_json(presentation.modality),
            "voi": [_voi_to_json(voi) for voi in presentation.voi],
            "inverse": presentation.inverse,
            "presentation_lut": _optional_table_to_json(presentation.presentation_lut),
            "palette": _optional_table_to_json(presentation.palette),
            "pixel_padding": presentation.pixel_padding,
            "pixel_spacing_mm": presentation.pixel_spacing_mm,
            "pixel_aspect_ratio": presentation.pixel_aspect_ratio,
            "notes": presentation.notes,
        }
    )


def _pair(value: list[Any] | None) -> Any:
    return None if value is None else (value[0], value[1])


@lru_cache(maxsize=128)
def presentation_from_json(text: str) -> Presentation:
    """The Presentation of ``presentation_to_json``'s text; its tables are read-only."""
    record = json.loads(text)
    return Presentation(
        modality=_modality_from_json(record["modality"]),
        voi=tuple(_voi_from_json(voi) for voi in record["voi"]),
        inverse=record["inverse"],
        presentation_lut=_optional_table_from_json(record["presentation_lut"]),
        palette=_optional_table_from_json(record["palette"]),
        pixel_padding=_pair(record["pixel_padding"]),
        pixel_spacing_mm=_pair(record["pixel_spacing_mm"]),
        pixel_aspect_ratio=_pair(record["pixel_aspect_ratio"]),
        notes=tuple(record["notes"]),
    )
