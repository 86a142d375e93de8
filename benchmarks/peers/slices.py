"""The slices that everybody is asked for, and what the right answers are."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames

from benchmarks import data
from gpu_render import phantom

WINDOW = (40, 400)
"""Center and width [HU] of every picture that is asked for with a window."""

PIXELS = phantom.ROWS * phantom.COLUMNS


@dataclass(frozen=True)
class Slice:
    """One file. ``stored`` (rows, columns) int16; ``encoded``: the frame's bytes as they lie in the file."""

    syntax: str
    path: Path
    study: str
    series: str
    sop: str
    orthanc: str
    encoded: bytes = field(repr=False)
    stored: npt.NDArray[np.int16] = field(repr=False)

    @property
    def names(self) -> dict[str, str | int]:
        """What the templates of URLs may name."""
        center, width = WINDOW
        return {
            "study": self.study,
            "series": self.series,
            "sop": self.sop,
            "orthanc": self.orthanc,
            "folder": self.path.parent.name,
            "file": self.path.stem,
            "center": center,
            "width": width,
        }

    @cached_property
    def windowed(self) -> npt.NDArray[np.float64]:
        """Grey values 0 to 255, not rounded: rescale, then LINEAR (PS3.3 C.11.2.1.2.1)."""
        center, width = WINDOW
        hu = self.stored.astype(np.float64) + phantom.RESCALE_INTERCEPT
        return np.clip(((hu - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)

    @cached_property
    def stretched(self) -> npt.NDArray[np.float64]:
        """Grey values from the least to the largest sample: what a picture without any window shows."""
        low, high = float(self.stored.min()), float(self.stored.max())
        return (self.stored.astype(np.float64) - low) / (high - low) * 255


def load(folder: Path) -> dict[str, list[Slice]]:
    """The slices of each transfer syntax by its name; samples are those of the uncompressed files."""
    names = {one.folder: data.NAMES[one.number] for one in data.SERIES}
    first = next(iter(names))
    stored = {path.stem: pydicom.dcmread(path).pixel_array for path in sorted((folder / first).iterdir())}
    return {
        name: [_slice(name, path, stored[path.stem]) for path in sorted((folder / series).iterdir())]
        for series, name in names.items()
    }


def _slice(syntax: str, path: Path, stored: npt.NDArray[np.int16]) -> Slice:
    ds = pydicom.dcmread(path)
    compressed = ds.file_meta.TransferSyntaxUID.is_compressed
    encoded = next(generate_frames(ds.PixelData, number_of_frames=1)) if compressed else ds.PixelData
    uids = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
    return Slice(syntax, path, *uids, orthanc_id(str(ds.PatientID), *uids), encoded, stored)


def orthanc_id(*identifiers: str) -> str:
    """What Orthanc calls an instance: SHA-1 of Patient ID and its UIDs, in five groups."""
    digits = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))
