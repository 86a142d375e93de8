"""Series whose metadata are asked for: copies of a scanner's own header, one a slice, with few pixels."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from gpu_render.demo import phantom_uid

SIDE = 32
"""Rows and columns: no answer of metadata depends on the pixels, and small files are written faster."""

LARGE = {1: 1000, 2: 3000}
"""Series Number -> instances, of the study with long series."""
MANY = dict.fromkeys(range(1, 13), 250)
"""The same of a study of as many instances in many series."""

Progress = Callable[[], None]


def uid(study: str, *name: object) -> UID:
    """Of the study, or of a series or an instance in it."""
    return phantom_uid("metadata", study, *name)


def template() -> FileDataset:
    """The CT that pydicom brings: 79 elements of the standard and 179 private ones, as one scanner wrote them."""
    ds = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    ds.Rows = ds.Columns = SIDE
    ds.PixelData = bytes(2 * SIDE * SIDE)
    return ds


def write_study(folder: Path, study: str, series: dict[int, int], progress: Progress) -> None:
    """A file for each instance: what differs between slices differs, as in a series that was scanned."""
    base = template()
    for number, count in series.items():
        target = folder / f"{study}-{number}"
        target.mkdir(parents=True)
        for index in range(count):
            ds = copy.copy(base)
            ds.file_meta = copy.copy(base.file_meta)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(study), uid(study, number)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(study, number, index)
            ds.SeriesNumber, ds.InstanceNumber = number, index + 1
            ds.ImagePositionPatient = [-158.1359, -179.0359, -75.6997 + 0.625 * index]
            ds.SliceLocation = -77.2040634155 + 0.625 * index
            ds.ContentTime = f"{112000 + index % 60:06d}.{index:06d}"
            ds.WindowCenter = 40 + index % 7
            ds.save_as(target / f"{index + 1:05d}.dcm", enforce_file_format=True)
            progress()


def prepare(directory: Path, large: dict[int, int], many: dict[int, int], progress: Progress) -> Path:
    """Make both studies below ``directory`` unless they are there; return their folder."""
    recipe = {"version": 1, "large": large, "many": many}
    folder = directory / f"metadata-{sum(large.values()) + sum(many.values())}"
    done = folder / "recipe.json"
    if done.is_file() and json.loads(done.read_text()) == json.loads(json.dumps(recipe)):
        return folder / "files"
    shutil.rmtree(folder, ignore_errors=True)
    write_study(folder / "files", "large", large, progress)
    write_study(folder / "files", "many", many, progress)
    done.write_text(json.dumps(recipe))
    return folder / "files"
