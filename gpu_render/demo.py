"""What ``gpu-render demo`` shows: DICOM files that need no download, made once and kept in a folder.

``samples/`` are copies of the sample files that the installed pydicom package brings; ``phantom/`` is one study with a
synthetic CT (``gpu_render.phantom``) in four series: the same voxels in four transfer syntaxes.
"""

import fcntl
import json
import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)

from gpu_render import phantom

Stored = npt.NDArray[np.int16]
Encoder = Callable[[Stored], bytes]
Progress = Callable[[str, int, int], None]
"""Called with what is being made, how many files are done and how many there will be."""

GENERATOR_VERSION = 2
"""Raise it whenever the files come out different: folders made by another version are made anew."""

# A random UUID made for this project; with a name it gives the same UID everywhere.
_UID_NAMESPACE = uuid.UUID("6c1e0f0e-4a39-4f5c-9a57-5b1d2d7c9e54")

_WITHOUT_PIXELS = frozenset({"reportsi.dcm", "test-SR.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm"})
"""Samples that show how objects without pixels are refused; the many others would only clutter the study list."""


@dataclass(frozen=True, slots=True)
class PhantomSeries:
    """One series of the phantom; ``encode`` None stores the samples natively (explicit VR little endian)."""

    number: int
    folder: str
    description: str
    transfer_syntax_uid: UID
    encode: Encoder | None = None


def _jpeg2000(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, numthreads=1))


def _htj2k(stored: Stored) -> bytes:
    return bytes(imagecodecs.htj2k_encode(stored, reversible=True))


def _jpeg_ls(stored: Stored) -> bytes:
    # A JPEG-LS codestream knows no sign: the bits go in as they are and Pixel Representation gives them back.
    return bytes(imagecodecs.jpegls_encode(stored.view(np.uint16)))


PHANTOM_SERIES = (
    PhantomSeries(1, "1-native", "Chest 1.0 uncompressed", ExplicitVRLittleEndian),
    PhantomSeries(2, "2-jpeg2000", "Chest 1.0 JPEG 2000", JPEG2000Lossless, _jpeg2000),
    PhantomSeries(3, "3-htj2k", "Chest 1.0 HTJ2K", HTJ2KLossless, _htj2k),
    PhantomSeries(4, "4-jpeg-ls", "Chest 1.0 JPEG-LS", JPEGLSLossless, _jpeg_ls),
)


def phantom_uid(*name: object) -> UID:
    """A UID below 2.25 (PS3.5 B.2) that depends on the name and GENERATOR_VERSION alone."""
    text = "/".join(map(str, (GENERATOR_VERSION, *name)))
    return UID(f"2.25.{uuid.uuid5(_UID_NAMESPACE, text).int}")


def phantom_dataset(series: PhantomSeries, index: int, stored: Stored) -> Dataset:
    """One CT Image (PS3.3 A.3) with its file meta: slice ``index`` of ``phantom.SLICES``, from the head downwards."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = series.transfer_syntax_uid
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = phantom_uid("instance", series.number, index)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    _describe_study(ds, series)
    _place(ds, index)
    _describe_pixels(ds)
    frame = stored.astype("<i2", copy=False).tobytes() if series.encode is None else series.encode(stored)
    ds.PixelData = frame if series.encode is None else encapsulate([frame])
    ds["PixelData"].VR = "OW" if series.encode is None else "OB"
    return ds


def _describe_study(ds: Dataset, series: PhantomSeries) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Demo^Phantom", "DEMO-1", "19700101", "O"
    ds.StudyInstanceUID, ds.StudyID, ds.AccessionNumber = phantom_uid("study"), "1", "DEMO-1"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240229"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.StudyDescription, ds.ReferringPhysicianName = "CT chest and upper abdomen, synthetic", ""
    ds.SeriesInstanceUID, ds.SeriesNumber = phantom_uid("series", series.number), series.number
    ds.SeriesDescription, ds.Modality, ds.BodyPartExamined = series.description, "CT", "CHEST"
    ds.Manufacturer, ds.ManufacturerModelName = "gpu-render", "synthetic phantom"
    ds.KVP, ds.AcquisitionNumber, ds.ConvolutionKernel, ds.PatientPosition = "120", "1", "STANDARD", "HFS"


def _place(ds: Dataset, index: int) -> None:
    """Image Plane (PS3.3 C.7.6.2): axial slices that go down from z = 0."""
    x, y = phantom.FIRST_PIXEL_MM
    z = -index * phantom.SLICE_SPACING_MM
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = phantom_uid("frame of reference"), ""
    ds.InstanceNumber = index + 1
    ds.ImagePositionPatient, ds.SliceLocation = [x, y, z], z
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [phantom.PIXEL_SPACING_MM, phantom.PIXEL_SPACING_MM]
    ds.SliceThickness = ds.SpacingBetweenSlices = phantom.SLICE_SPACING_MM


def _describe_pixels(ds: Dataset) -> None:
    """Image Pixel, Modality LUT and VOI LUT (PS3.3 C.7.6.3, C.11.1, C.11.2), signed 16 bit like many a scanner."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = phantom.ROWS, phantom.COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelPaddingValue = phantom.PADDING
    ds["PixelPaddingValue"].VR = "SS"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(phantom.RESCALE_INTERCEPT), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = ["40", "-600"], ["400", "1500"]
    ds.WindowCenterWidthExplanation = ["MEDIASTINUM", "LUNG"]


def write_slice(folder: Path, series: tuple[PhantomSeries, ...], index: int) -> None:
    """Compute slice ``index`` once and write it into ``folder``, a file for each series."""
    stored = phantom.stored_slice(index)
    for one in series:
        path = folder / one.folder / f"{index + 1:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        phantom_dataset(one, index, stored).save_as(path, enforce_file_format=True)


def slice_indices(slices: int) -> range:
    """``slices`` neighbours from the middle of the phantom. Raises ValueError if it has not that many."""
    if not 1 <= slices <= phantom.SLICES:
        raise ValueError(f"the phantom has 1 to {phantom.SLICES} slices")
    first = (phantom.SLICES - slices) // 2
    return range(first, first + slices)


def write_phantom(folder: Path, series: tuple[PhantomSeries, ...], slices: int, progress: Progress) -> None:
    """Write ``slices`` slices of each series into ``folder``, with as many threads as there are processors."""
    indices = slice_indices(slices)
    done, total = 0, len(indices) * len(series)
    progress("CT phantom", done, total)
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="phantom") as pool:
        jobs = [pool.submit(write_slice, folder, series, index) for index in indices]
        try:
            for job in as_completed(jobs):
                job.result()
                done += len(series)
                progress("CT phantom", done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _sample_uid(path: Path) -> str | None:
    """SOP Instance UID ("" where it has none) of a file worth showing: with pixels, or chosen without. Else None."""
    chosen = path.name in _WITHOUT_PIXELS
    with path.open("rb") as file:
        if not chosen and file.read(132)[128:] != b"DICM":
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the samples break the standard on purpose
        ds = pydicom.dcmread(path, force=True)
    shown = chosen or any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    return str(ds.get("SOPInstanceUID", "")) if shown else None


def _another_uid(uid: str, name: str) -> str:
    """A UID as long as ``uid`` that depends on ``name``: in its end, other digits but the first of each component."""
    digits = iter(str(uuid.uuid5(_UID_NAMESPACE, name).int))
    return uid[:-30] + re.sub(r"(?<=\d)\d", lambda _: next(digits), uid[-30:])


def write_samples(folder: Path, progress: Progress) -> None:
    """Copy what the installed pydicom package ships; nothing is downloaded.

    Some samples are one image in several encodings under one SOP Instance UID, which an archive refuses. The first
    keeps it, the others get one of their own of the same length, in place; nothing else in any file changes.
    """
    source = Path(pydicom.__file__).parent / "data"
    parts = (source / "test_files", source / "charset_files")
    found = [(path, _sample_uid(path)) for part in parts for path in sorted(part.rglob("*")) if path.is_file()]
    samples = [(path, uid) for path, uid in found if uid is not None]
    seen: set[str] = set()
    for done, (path, uid) in enumerate(samples):
        progress("sample files", done, len(samples))
        name = path.relative_to(source)
        content = path.read_bytes()
        if uid in seen and uid:
            content = content.replace(uid.encode(), _another_uid(uid, name.as_posix()).encode())
        seen.add(uid)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    progress("sample files", len(samples), len(samples))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time makes or looks at the folder; the lock goes with the process that holds it."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure(directory: Path, name: str, recipe: dict[str, object], write: Callable[[Path], None]) -> Path:
    """Make ``directory/name`` unless it was completed by the same recipe: written elsewhere, then renamed.

    The marker ``name.json`` is removed before the folder is touched and written after it is in place, so that a folder
    without a marker is known to be unfinished.
    """
    target, marker = directory / name, directory / f"{name}.json"
    if target.is_dir() and marker.is_file() and marker.read_text() == json.dumps(recipe):
        return target
    for left in directory.glob(f".{name}-*"):
        shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=directory))
    write(fresh)
    fresh.chmod(0o755)
    marker.unlink(missing_ok=True)
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
    marker.write_text(json.dumps(recipe))
    return target


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def prepare_phantom(
    directory: Path, name: str, series: tuple[PhantomSeries, ...], *, slices: int, progress: Progress | None = None
) -> Path:
    """Make ``directory/name`` with ``slices`` slices of each series unless it is there already; return it.

    Raises ValueError for an impossible number of slices and OSError when the folder cannot be written.
    """
    slice_indices(slices)
    directory.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, object] = {
        "generator": GENERATOR_VERSION,
        "slices": slices,
        "series": [[one.folder, one.transfer_syntax_uid] for one in series],
    }
    with _locked(directory):
        return _ensure(directory, name, recipe, lambda fresh: write_phantom(fresh, series, slices, progress or _silent))


def prepare_demo(directory: Path, *, slices: int = phantom.SLICES, progress: Progress | None = None) -> list[Path]:
    """Make what the demo shows unless it is there already; return the folders to serve: samples and phantom.

    An interrupted run, another version of the generator or of pydicom, or another number of slices makes it anew.
    Takes about 290 MB for 300 slices. Raises ValueError for an impossible number of slices, OSError when the folder
    cannot be written.
    """
    slice_indices(slices)
    directory.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, object] = {"generator": GENERATOR_VERSION, "pydicom": pydicom.__version__}
    with _locked(directory):
        samples = _ensure(directory, "samples", recipe, lambda fresh: write_samples(fresh, progress or _silent))
    return [samples, prepare_phantom(directory, "phantom", PHANTOM_SERIES, slices=slices, progress=progress)]
