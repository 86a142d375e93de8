"""What the clients are shown: the demo's phantom in each transfer syntax viewers meet, and some of pydicom's files.

The phantom is computed, so its own values are what every client has to end up with, whoever decodes.
"""

import shutil
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import HTJ2KLosslessRPCL, JPEGLosslessSV1, RLELossless

from gpu_render.demo import PHANTOM_SERIES, PhantomSeries, Stored, phantom_uid, slice_indices, write_phantom
from gpu_render.phantom import stored_slice
from tests.data import sample

SLICES = 8


def _rle(stored: Stored) -> bytes:
    rows, columns = stored.shape
    return RLELosslessEncoder.encode(
        stored.astype("<i2").tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
        encoding_plugin="pydicom",
    )


def _jpeg_lossless(stored: Stored) -> bytes:
    return bytes(imagecodecs.ljpeg_encode(stored.view(np.uint16), bitspersample=16))


def _rpcl(stored: Stored) -> bytes:
    return bytes(imagecodecs.htj2k_encode(stored, reversible=True, tlm=True))


PHANTOM = (
    *PHANTOM_SERIES,
    PhantomSeries(5, "5-rle", "Chest 1.0 RLE", RLELossless, _rle),
    PhantomSeries(6, "6-jpeg-lossless", "Chest 1.0 JPEG lossless", JPEGLosslessSV1, _jpeg_lossless),
    PhantomSeries(7, "7-htj2k-rpcl", "Chest 1.0 HTJ2K RPCL", HTJ2KLosslessRPCL, _rpcl),
)
STUDY_UID = str(phantom_uid("study"))

SAMPLES = (
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "693_J2KI.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_rle_2frame.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
    "examples_jpeg2k.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
)


def series_uid(series: PhantomSeries) -> str:
    """Series Instance UID of one of PHANTOM."""
    return str(phantom_uid("series", series.number))


def instance_uid(series: PhantomSeries, position: int) -> str:
    """SOP Instance UID of the slice at ``position`` (from 0) of a series of PHANTOM."""
    return str(phantom_uid("instance", series.number, slice_indices(SLICES)[position]))


def stored_values(position: int) -> Stored:
    """What every series of PHANTOM holds at ``position``: (512, 512) int16."""
    return stored_slice(slice_indices(SLICES)[position])


def write(folder: Path) -> dict[str, Path]:
    """All files below ``folder``; returns the samples by name."""
    write_phantom(folder / "phantom", PHANTOM, SLICES, lambda *_: None)
    (folder / "samples").mkdir()
    return {name: Path(shutil.copyfile(sample(name), folder / "samples" / name)) for name in SAMPLES}
