"""Radiographs, mammograms and colour cine to be timed: made by rule, the same samples in several transfer syntaxes.

No patient and no physics. What decides how long a codec takes is how much there is to encode, so the samples have the
spectrum of such pictures: anatomy falls with the third power of the frequency, as measured spectra of mammograms and
chest radiographs do, over a few smooth solids; quantum noise on it has the correlation of a detector; a mammogram's
background is empty; ultrasound is speckle within a sector, with a colour box in it. ``tests/benchmarks/test_sizes.py``
holds them to the sizes that real ones are compressed to.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from gpu_render.demo import phantom_uid

Samples = npt.NDArray[Any]
VERSION = 1
"""Raise it whenever the files come out different."""
DISTINCT = 2
"""Pictures of a kind; files repeat them, each as an instance of its own."""


# --- samples ------------------------------------------------------------------------------------------------


def _texture(rows: int, columns: int, seed: int, power: float) -> npt.NDArray[np.float32]:
    """Noise whose power spectrum falls with ``power`` of the frequency: mean 0, standard deviation 1."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(random.standard_normal((rows, columns), np.float32)) * frequency ** (-power / 2)
    spectrum[0, 0] = 0
    plane = np.fft.irfft2(spectrum, (rows, columns))
    made: npt.NDArray[np.float32] = (plane / plane.std()).astype(np.float32)
    return made


def _quantum(rows: int, columns: int, seed: int) -> npt.NDArray[np.float32]:
    """White noise, blurred a little as by a detector; standard deviation 1."""
    white = np.random.default_rng((seed, 1)).standard_normal((rows + 1, columns + 1), np.float32)
    blurred = white[1:, 1:] + 0.5 * (white[:-1, 1:] + white[1:, :-1])
    made: npt.NDArray[np.float32] = (blurred / blurred.std()).astype(np.float32)
    return made


def _place(rows: int, columns: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """y and x of each pixel, -1 to 1."""
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return y.astype(np.float32), x.astype(np.float32)


def _within(ellipse: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 inside, where ``ellipse`` is below 1, 0 outside, with a soft edge."""
    inside: npt.NDArray[np.float32] = np.clip((1.15 - ellipse) / 0.3, 0, 1)
    return inside * inside * (3 - 2 * inside)


def _chest(rows: int, columns: int, seed: int) -> Samples:
    """Two lungs, a heart, ribs and a spine: 12 bits."""
    y, x = _place(rows, columns)
    image = np.full((rows, columns), 1500, np.float32)
    for side in (-1, 1):
        lung = ((x - side * 0.42) / 0.32) ** 2 + ((y + 0.05) / 0.62) ** 2
        image += 1500 * _within(lung)
    heart = ((x - 0.12) / 0.3) ** 2 + ((y - 0.32) / 0.3) ** 2
    image -= 900 * _within(heart) + 700 * np.exp(-((x / 0.09) ** 2))
    image -= 140 * np.clip(np.cos(26 * (y + 0.35 * x * x)), 0.5, 1) * (np.abs(x) < 0.85)
    image += 110 * _texture(rows, columns, seed, 3)
    image += _quantum(rows, columns, seed) * np.sqrt(np.clip(image, 100, None) / 40)
    return np.clip(np.rint(image), 0, 4095).astype("<u2")


def _breast(rows: int, columns: int, seed: int) -> Samples:
    """A breast at the left edge, the rest empty as in images for presentation: 12 bits."""
    y, x = _place(rows, columns)
    inside = 1 - np.sqrt(((x + 1) / 1.35) ** 2 + (y / 0.88) ** 2)
    image = 900 + 1500 * np.clip(inside, 0, 1) ** 0.35 + 260 * _texture(rows, columns, seed, 3)
    image += _quantum(rows, columns, seed) * 9
    image[inside < 0] = 0
    made: Samples = np.clip(np.rint(image), 0, 4095).astype("<u2")
    return made


def _ultrasound(rows: int, columns: int, seed: int) -> Samples:
    """Speckle in a sector, a box of colour flow, a bar of grey: 8 bits RGB."""
    random, (y, x) = np.random.default_rng(seed), _place(rows, columns)
    field = random.standard_normal((2, rows, columns)).astype(np.float32)
    smooth = sum(np.roll(field, (a, b), (1, 2)) for a in range(3) for b in range(6)) / np.sqrt(18)
    echo = np.hypot(smooth[0], smooth[1]) * np.exp(0.6 * _texture(rows, columns, seed, 3))
    grey = np.clip(55 + 42 * np.log(echo + 0.05), 0, 255)
    sector = (np.abs(np.arctan2(x, y + 1.15)) < 0.62) & (np.hypot(x, y + 1.15) < 2) & (np.hypot(x, y + 1.15) > 0.25)
    image = np.repeat((grey * sector)[..., None], 3, axis=2)
    box = (np.abs(x) < 0.25) & (np.abs(y - 0.1) < 0.3)
    flow = box & (_texture(rows, columns, seed + 7, 3) > 0.4)
    image[flow] = np.stack([120 + grey[flow] / 2, grey[flow] / 4, 40 + 0 * grey[flow]], -1)
    image[rows // 10 : rows // 2, columns - 24 : columns - 12] = np.linspace(255, 0, rows // 2 - rows // 10)[
        :, None, None
    ]
    return image.astype(np.uint8)


# --- codestreams --------------------------------------------------------------------------------------------


def _rle(samples: Samples) -> bytes:
    bits = samples.dtype.itemsize * 8
    colour: dict[str, Any] = {"planar_configuration": 0} if samples.ndim == 3 else {}
    return RLELosslessEncoder.encode(
        samples,
        encoding_plugin="pylibjpeg",
        **colour,
        rows=samples.shape[0],
        columns=samples.shape[1],
        samples_per_pixel=samples.shape[2] if samples.ndim == 3 else 1,
        number_of_frames=1,
        bits_allocated=bits,
        bits_stored=12 if bits == 16 else 8,
        pixel_representation=0,
        photometric_interpretation="RGB" if samples.ndim == 3 else "MONOCHROME2",
    )


def _jpeg2000(samples: Samples) -> bytes:
    bits = 12 if samples.dtype.itemsize == 2 else 8
    return bytes(
        imagecodecs.jpeg2k_encode(samples, codecformat="j2k", reversible=True, bitspersample=bits, numthreads=2)
    )


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one series is stored; ``encode`` none: natively. ``photometric`` of colour; grey is MONOCHROME2."""

    name: str
    uid: UID
    encode: Callable[[Samples], bytes] | None
    photometric: str = "RGB"
    lossy: bool = False


GREY = (
    Syntax("uncompressed", ExplicitVRLittleEndian, None),
    Syntax("JPEG 2000", JPEG2000Lossless, _jpeg2000),
    Syntax("HTJ2K", HTJ2KLossless, lambda samples: bytes(imagecodecs.htj2k_encode(samples, reversible=True))),
    Syntax("JPEG-LS", JPEGLSLossless, lambda samples: bytes(imagecodecs.jpegls_encode(samples))),
    Syntax(
        "JPEG lossless",
        JPEGLosslessSV1,
        lambda samples: bytes(imagecodecs.jpeg8_encode(samples, lossless=True, predictor=1, bitspersample=16)),
    ),
    Syntax("RLE", RLELossless, _rle),
)
COLOUR = (
    Syntax("uncompressed", ExplicitVRLittleEndian, None),
    Syntax(
        "JPEG baseline",
        JPEGBaseline8Bit,
        lambda samples: bytes(imagecodecs.jpeg8_encode(samples, level=90, subsampling="422")),
        "YBR_FULL_422",
        lossy=True,
    ),
    Syntax("JPEG 2000", JPEG2000Lossless, _jpeg2000, "YBR_RCT"),
    Syntax(
        "HTJ2K", HTJ2KLossless, lambda samples: bytes(imagecodecs.htj2k_encode(samples, reversible=True)), "YBR_RCT"
    ),
    Syntax("RLE", RLELossless, _rle),
)


# --- files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """Pictures of one kind. ``window`` of grey ones, center and width; ``cine``: all in one object of many frames."""

    name: str
    modality: str
    sop_class: UID
    rows: int
    columns: int
    make: Callable[[int, int, int], Samples]
    syntaxes: Sequence[Syntax]
    window: str | None
    cine: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.columns}x{self.rows}"

    def series_uid(self, number: int) -> UID:
        return phantom_uid("sizes", VERSION, self.name, number)

    @property
    def stored_bytes(self) -> int:
        """Of one frame's samples."""
        return self.rows * self.columns * (2 if self.window else 3)

    @property
    def picture_bytes(self) -> int:
        """Of one frame as a picture."""
        return self.rows * self.columns * (1 if self.window else 3)


KINDS = (
    Kind("CR", "CR", ComputedRadiographyImageStorage, 2048, 2048, _chest, GREY, "2000,3000"),
    Kind(
        "mammography",
        "MG",
        DigitalMammographyXRayImageStorageForPresentation,
        4096,
        3328,
        _breast,
        GREY,
        "1800,2400",
    ),
    Kind("colour cine", "US", UltrasoundMultiFrameImageStorage, 600, 800, _ultrasound, COLOUR, None, cine=True),
)
STUDY = phantom_uid("sizes", VERSION, "study")


@cache
def samples_of(kind: Kind, number: int) -> Samples:
    """Picture ``number`` of DISTINCT."""
    return kind.make(kind.rows, kind.columns, 100 + number)


def _dataset(kind: Kind, syntax: Syntax, number: int, instance: int) -> Dataset:
    """All but the pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax.uid
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind.sop_class
    ds.SOPInstanceUID = phantom_uid("sizes", VERSION, kind.name, number, instance)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, kind.series_uid(number)
    ds.PatientName, ds.PatientID = "Demo^Sizes", "DEMO-2"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240229", "120000", "2", "DEMO-2"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = kind.modality, number, instance + 1
    ds.SeriesDescription = f"{kind.label} {syntax.name}"
    grey = kind.window is not None
    bits = 16 if grey else 8
    ds.Rows, ds.Columns, ds.SamplesPerPixel = kind.rows, kind.columns, 1 if grey else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if grey else syntax.photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, *((12, 11) if grey else (8, 7)), 0
    if kind.window is not None:
        ds.WindowCenter, ds.WindowWidth = kind.window.split(",")
    else:
        ds.PlanarConfiguration = 0
    return ds


def write_kind(folder: Path, kind: Kind, frames: int) -> None:
    """``frames`` frames in every syntax: files of one each, or one object of all."""
    for number, syntax in enumerate(kind.syntaxes, 1):
        pictures = [samples_of(kind, place) for place in range(DISTINCT)]
        codes = [one.tobytes() if syntax.encode is None else syntax.encode(one) for one in pictures]
        target = folder / kind.name.replace(" ", "-") / f"{number}-{syntax.name.replace(' ', '-')}"
        target.mkdir(parents=True)
        everything = [codes[place % DISTINCT] for place in range(frames)]
        for instance, parts in enumerate([everything] if kind.cine else [[one] for one in everything]):
            ds = _dataset(kind, syntax, number, instance)
            if kind.cine:
                ds.NumberOfFrames, ds.FrameTime = frames, "40"
            ds.PixelData = b"".join(parts) if syntax.encode is None else encapsulate(parts)
            ds["PixelData"].VR = "OB" if syntax.encode or kind.window is None else "OW"
            if syntax.lossy:
                ds.LossyImageCompression = "01"
            ds.save_as(target / f"{instance:03d}.dcm", enforce_file_format=True)


def prepare(directory: Path, kinds: Sequence[Kind], frames: int, step: Callable[[], None]) -> dict[str, Path]:
    """The folder of each kind below ``directory``; what is there already is not made again."""
    found = {}
    for kind in kinds:
        name = f"{kind.name.replace(' ', '-')}-{kind.columns}x{kind.rows}-{frames}-{VERSION}"
        target, fresh = directory / "sizes" / name, directory / "sizes" / f".{name}"
        if not target.is_dir():
            shutil.rmtree(fresh, ignore_errors=True)
            write_kind(fresh, kind, frames)
            fresh.rename(target)
        found[kind.name] = target
        step()
    return found
