"""The old design: the obvious service. Each request reads the whole file with pydicom and answers JSON.

``/list`` has every pixel as a number, as the Django view that this project began with; ``/png`` a picture as PNG in
base64, as it was before. One process, handlers in the thread pool, nothing kept; files come from PEERS_FOLDER.
"""

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

FOLDER = "PEERS_FOLDER"
FILES = {f"{path.parent.name}/{path.stem}": path for path in Path(os.environ[FOLDER]).rglob("*.dcm")}

app = FastAPI()


def _read(name: str) -> pydicom.Dataset:
    if name not in FILES:
        raise HTTPException(404)
    return pydicom.dcmread(FILES[name])


def _picture(ds: pydicom.Dataset) -> npt.NDArray[np.uint8]:
    """(rows, columns): the file's first window, from black to white."""
    shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    grey: npt.NDArray[np.uint8] = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).astype(np.uint8)
    return grey


@app.get("/list/{folder}/{file}")
def pixel_list(folder: str, file: str) -> JSONResponse:
    """All pixels as numbers."""
    ds = _read(f"{folder}/{file}")
    hu = apply_modality_lut(ds.pixel_array, ds).astype(np.int32)
    return JSONResponse({"rows": ds.Rows, "columns": ds.Columns, "pixels": hu.ravel().tolist()})


@app.get("/png/{folder}/{file}")
def png(folder: str, file: str) -> dict[str, Any]:
    """A picture."""
    body = io.BytesIO()
    Image.fromarray(_picture(_read(f"{folder}/{file}"))).save(body, "PNG")
    return {"image": base64.b64encode(body.getvalue()).decode()}
