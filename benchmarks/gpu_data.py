"""The eight series that ``benchmarks.gpu`` renders: those of ``benchmarks.data``, and two that lose something."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from benchmarks import data
from gpu_render import phantom
from gpu_render.archive.folder import FolderArchive
from gpu_render.demo import (
    GENERATOR_VERSION,
    PhantomSeries,
    Progress,
    Stored,
    phantom_dataset,
    phantom_uid,
    prepare_phantom,
    slice_indices,
)
from gpu_render.frame import Window
from gpu_render.reference import FrameRef

WINDOW = Window(40.0, 400.0)  # HU
BYTE_WINDOW = Window(128.0, 256.0)


def _jpeg2000_lossy(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(stored, level=85, codecformat="j2k", reversible=False, numthreads=1))


SERIES_16_BIT = (
    *data.SERIES,
    PhantomSeries(7, "7-jpeg2000-lossy", "Chest 1.0 JPEG 2000 lossy", JPEG2000, _jpeg2000_lossy),
)
BASELINE = PhantomSeries(8, "8-jpeg-baseline", "Chest 1.0 JPEG baseline", JPEGBaseline8Bit)
LOSSY = (SERIES_16_BIT[-1], BASELINE)
NAMES = {**data.NAMES, 7: "JPEG 2000 lossy", 8: "JPEG baseline, 8 bit"}
"""Series Number to the name in tables."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its frames, the files that hold them, in the same order, and the window it is shown with."""

    name: str
    transfer_syntax_uid: str
    refs: Sequence[FrameRef]
    paths: Sequence[Path]
    window: Window
    lossy: bool


def prepare(directory: Path, slices: int, progress: Progress) -> list[Path]:
    """Make the series below ``directory`` unless they are there; return their two folders."""
    native = prepare_phantom(directory, f"gpu-{slices}", SERIES_16_BIT, slices=slices, progress=progress)
    baseline = directory / f"gpu-jpeg-{slices}-{GENERATOR_VERSION}"
    if not baseline.is_dir():
        fresh = Path(tempfile.mkdtemp(prefix=".gpu-jpeg-", dir=directory))
        try:
            _write_baseline(fresh / BASELINE.folder, slices, progress)
            fresh.rename(baseline)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return [native, baseline]


def _write_baseline(folder: Path, slices: int, progress: Progress) -> None:
    folder.mkdir()
    for done, index in enumerate(slice_indices(slices)):
        progress("JPEG baseline", done, slices)
        baseline_dataset(index).save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)
    progress("JPEG baseline", slices, slices)


def baseline_dataset(index: int) -> Dataset:
    """A slice of the phantom as 8 bits, windowed, in JPEG baseline (PS3.5 A.4.1), one component."""
    stored = phantom.stored_slice(index)
    low = WINDOW.center - WINDOW.width / 2 - phantom.RESCALE_INTERCEPT
    grey = np.clip((stored - low) * (255 / WINDOW.width), 0, 255).astype(np.uint8)
    ds = phantom_dataset(BASELINE, index, stored)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    for keyword in ("PixelPaddingValue", "RescaleIntercept", "RescaleSlope", "RescaleType"):
        delattr(ds, keyword)
    ds.WindowCenter, ds.WindowWidth = str(BYTE_WINDOW.center), str(BYTE_WINDOW.width)
    del ds.WindowCenterWidthExplanation
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(grey, level=90))])
    ds["PixelData"].VR = "OB"
    return ds


def list_series(archive: FolderArchive, folders: Sequence[Path]) -> list[Series]:
    """The series as the archive has them, which has been scanned."""
    found = []
    for one in (*SERIES_16_BIT, BASELINE):
        manifest = archive.series(phantom_uid("study"), phantom_uid("series", one.number))
        (folder,) = (below / one.folder for below in folders if (below / one.folder).is_dir())
        files = {str(phantom_uid("instance", one.number, int(path.stem) - 1)): path for path in folder.iterdir()}
        refs = [frame.ref for frame in manifest.frames]
        paths = [files[ref.sop_instance_uid] for ref in refs]
        window = BYTE_WINDOW if one is BASELINE else WINDOW
        found.append(Series(NAMES[one.number], one.transfer_syntax_uid, refs, paths, window, one in LOSSY))
    return found
