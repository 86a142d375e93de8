"""EncodedFrames straight from files, without the archive: pydicom reads the header, generate_frames the fragments."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRBigEndian

from gpu_render.decode.native import frame_bytes
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation, Samples
from gpu_render.reference import FrameRef
from kernels.packing import Packed, unpacked

REF = FrameRef("1.2", "1.2.3", "1.2.3.4", 1)

# An 8 x 8 ramp, value = 37 * index, 12 bit, encoded by DCMTK 3.6.7: dcmcjpeg +el +sv PREDICTOR +pt SHIFT.
POINT_TRANSFORMED: dict[tuple[int, int], bytes] = {
    (1, 2): bytes.fromhex(
        "ffd8ffe000104a46494600010100000100010000ffc3000b100008000801011100ffc4001600010101000000000000000000"
        "0000000004070effda0008010100010002cfff00a52952529a5252952529a5252952529a5252952529a5252952529a525295"
        "2529a5252952529a5252952529ffffd9"
    ),
    (6, 1): bytes.fromhex(
        "ffd8ffe000104a46494600010100000100010000ffc3000b100008000801011100ffc4001700010101010000000000000000"
        "000000000705080fffda0008010100060001e7ff00f4a9d2a74a9d2d2894949494949495a512929292929292b4a252525252"
        "525256944a4a4a4a4a4a4ad2894949494949495a512929292929292b4a252525252525257fffffd9"
    ),
}


def sample(name: str) -> Path:
    """A file of the pydicom wheel."""
    return Path(str(get_testdata_file(name, download=False)))


def layout_of(dataset: Dataset) -> PixelLayout:
    """PixelLayout from the Image Pixel module."""
    is_float = "PixelData" not in dataset
    allocated = int(dataset.BitsAllocated)
    return PixelLayout(
        rows=dataset.Rows,
        columns=dataset.Columns,
        samples_per_pixel=dataset.SamplesPerPixel,
        bits_allocated=allocated,
        bits_stored=allocated if is_float else dataset.BitsStored,
        high_bit=allocated - 1 if is_float else dataset.HighBit,
        pixel_representation=0 if is_float else dataset.PixelRepresentation,
        photometric_interpretation=dataset.PhotometricInterpretation,
        planar_configuration=dataset.get("PlanarConfiguration") or 0,
        is_float=is_float,
    )


def encode(data: bytes, uid: str, layout: PixelLayout) -> EncodedFrame:
    """An EncodedFrame around ``data``; reference and presentation do not matter to a decoder."""
    return EncodedFrame(REF, uid, layout, Presentation(), data)


def frames_of(path: str | Path) -> Iterator[EncodedFrame]:
    """All frames of a file, as the archive hands them out."""
    dataset = pydicom.dcmread(path)
    layout, uid = layout_of(dataset), dataset.file_meta.TransferSyntaxUID
    count = int(dataset.get("NumberOfFrames") or 1)
    if uid.is_encapsulated:
        frames = generate_frames(dataset.PixelData, number_of_frames=count)
    else:
        frames = _native_frames(dataset, layout, count)
    for data in frames:
        yield encode(data, str(uid), layout)


def _native_frames(dataset: Dataset, layout: PixelLayout, count: int) -> Iterator[bytes]:
    element = next(dataset[name] for name in _PIXELS if name in dataset)
    data = element.value
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and element.VR == "OW" and layout.bits_allocated <= 8:
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    if layout.bits_allocated == 1:
        pixels = layout.rows * layout.columns
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: pixels * count]
        yield from (np.packbits(frame, bitorder="little").tobytes() for frame in bits.reshape(count, pixels))
        return
    size = frame_bytes(layout)
    yield from (data[i * size : (i + 1) * size] for i in range(count))


_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def stored_values(decoded: Samples | Packed, layout: PixelLayout) -> npt.NDArray[np.generic]:
    """Shift, mask and sign-extend as the kernel does (PS3.5 8.1.1): the values the modality meant."""
    samples = unpacked(decoded)
    if layout.is_float or layout.bits_allocated == 1:
        return samples
    container = 8 * layout.dtype.itemsize
    raw = samples.view(f"<u{layout.dtype.itemsize}") << (container - 1 - layout.high_bit)
    return raw.view(layout.dtype) >> (container - layout.bits_stored)
