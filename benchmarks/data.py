"""The slices that are timed: the demo's CT phantom in six transfer syntaxes, the same voxels in all of them."""

from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import JPEGLosslessSV1, RLELossless

from gpu_render.demo import PHANTOM_SERIES, PhantomSeries, Progress, Stored, prepare_phantom


def _jpeg_lossless(stored: Stored) -> bytes:
    # Predictor 1 is what Transfer Syntax 1.2.840.10008.1.2.4.70 prescribes; the stream knows no sign.
    samples = stored.view(np.uint16)
    return bytes(imagecodecs.jpeg8_encode(samples, lossless=True, predictor=1, bitspersample=16))


def _rle(stored: Stored) -> bytes:
    return RLELosslessEncoder.encode(
        stored,
        encoding_plugin="pylibjpeg",
        rows=stored.shape[0],
        columns=stored.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
    )


SERIES = (
    *PHANTOM_SERIES,
    PhantomSeries(5, "5-jpeg-lossless", "Chest 1.0 JPEG lossless", JPEGLosslessSV1, _jpeg_lossless),
    PhantomSeries(6, "6-rle", "Chest 1.0 RLE", RLELossless, _rle),
)
NAMES = {1: "uncompressed", 2: "JPEG 2000", 3: "HTJ2K", 4: "JPEG-LS", 5: "JPEG lossless", 6: "RLE"}
"""Series Number to the name in tables."""


def prepare(directory: Path, slices: int, progress: Progress | None = None) -> Path:
    """Make the six series below ``directory`` unless they are there; return their folder."""
    return prepare_phantom(directory, f"ct-{slices}", SERIES, slices=slices, progress=progress)


def read_all(folder: Path) -> int:
    """Read every file once, so that they lie in the page cache; return the number of bytes."""
    return sum(len(path.read_bytes()) for path in folder.rglob("*.dcm"))
