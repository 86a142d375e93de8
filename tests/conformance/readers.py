"""The independent readers: pydicom, highdicom, GDCM and DCMTK, asked for stored, modality and display values.

Each is asked in a process of its own (``Isolated``): some of them crash on valid files. A reader that cannot do what
is asked raises; what it gives is never changed here beyond the form: masked to Bits Stored, 0..255 floats for display.
"""

import contextlib
import resource
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    convert_color_space,
)

from tests.mutation.readers import read_dcmtk, read_gdcm, read_pydicom

Array = npt.NDArray[Any]

LIMIT_S = 60
MEMORY_BYTES = 6 << 30
GREY = ("MONOCHROME1", "MONOCHROME2")
Window = tuple[float, float, str]
"""Center, width and VOI LUT Function."""


@dataclass(frozen=True, slots=True)
class Ask:
    """``frames`` of a file from 1; ``stored_frames`` those whose stored values are asked for; ``windows`` by view."""

    path: Path
    stored_frames: tuple[int, ...]
    frames: tuple[int, ...]
    windows: tuple[tuple[str, Window], ...]


Answer = dict[str, dict[int, Array]]
"""Per stage ("stored", "modality", "display" of the file, or the name of a window) the values by frame number."""


class Refused(Exception):
    """The reader does not do this."""


def _collect(steps: dict[str, Callable[[], dict[int, Array]]]) -> Answer:
    answer: Answer = {}
    for stage, step in steps.items():
        with contextlib.suppress(Exception):  # anything may come out of a library: then it has not answered
            answer[stage] = step()
    return answer


# --- pydicom ------------------------------------------------------------------------------------------------


def _functional(ds: Dataset) -> bool:
    """Whether rescale or window stand in functional groups, which pydicom does not look at (its issue 2353)."""
    groups = [*ds.get("SharedFunctionalGroupsSequence", []), *ds.get("PerFrameFunctionalGroupsSequence", [])]
    return any("PixelValueTransformationSequence" in item or "FrameVOILUTSequence" in item for item in groups)


def ask_pydicom(ask: Ask) -> Answer:
    """Stored values through its plugins without GDCM; its own LUT, window, palette and colour functions."""
    ds = pydicom.dcmread(ask.path, stop_before_pixels=True)
    stored = read_pydicom(ask.path, list(dict.fromkeys((*ask.stored_frames, *ask.frames))))

    def modality() -> dict[int, Array]:
        if ds.PhotometricInterpretation not in GREY or _functional(ds):
            raise Refused
        return {frame: apply_modality_lut(stored[frame], ds) for frame in ask.frames}

    def windowed(window: Window) -> dict[int, Array]:
        own = deepcopy(ds)
        own.WindowCenter, own.WindowWidth, own.VOILUTFunction = window
        return {frame: _through_window(values, own) for frame, values in modality().items()}

    def display() -> dict[int, Array]:
        if ds.PhotometricInterpretation not in GREY:
            return {frame: _pydicom_colour(stored[frame], ds) for frame in ask.frames}
        if ds.get("VOILUTSequence"):
            top = (1 << int(ds.VOILUTSequence[0].LUTDescriptor[2])) - 1
            inputs = {frame: np.floor(values + 0.5).astype(np.int64) for frame, values in modality().items()}
            return {frame: apply_voi(values, ds) * (255 / top) for frame, values in inputs.items()}
        if "PresentationLUTSequence" in ds:
            raise Refused
        return {frame: _pydicom_grey(values, stored[frame], ds) for frame, values in modality().items()}

    windows = {
        name: lambda window=window: {f: _polarity(v, ds) for f, v in windowed(window).items()}
        for name, window in ask.windows
    }
    return _collect(
        {
            "stored": lambda: {frame: stored[frame] for frame in ask.stored_frames},
            "modality": modality,
            "display": display,
            **windows,
        }
    )


def _pydicom_grey(modality: Array, stored: Array, ds: Dataset) -> Array:
    """With the file's first window, or over the range of what is no padding; supplemental colours over it."""
    own = deepcopy(ds)
    if ds.get("WindowCenter") is None:
        own.WindowCenter, own.WindowWidth = _range(modality, stored, ds)
        own.VOILUTFunction = "LINEAR_EXACT"
    grey = _polarity(_through_window(modality, own), ds)
    if ds.get("PixelPresentation") != "COLOR":
        return grey
    first = int(ds.RedPaletteColorLookupTableDescriptor[1])
    own.PhotometricInterpretation = "PALETTE COLOR"  # it applies no supplemental palette, but the same table as one
    del own.PixelPresentation
    coloured = apply_color_lut(stored, own)
    return np.where((stored < first)[..., None], grey[..., None], coloured * (255 / np.iinfo(coloured.dtype).max))


def _range(modality: Array, stored: Array, ds: Dataset) -> tuple[float, float]:
    low = ds.get("PixelPaddingValue")
    if low is not None:
        high = ds.get("PixelPaddingRangeLimit", low)
        modality = modality[(stored < min(low, high)) | (stored > max(low, high))]
    return float((modality.max() + modality.min()) / 2), float(modality.max() - modality.min())


def _through_window(values: Array, ds: Dataset) -> Array:
    """pydicom's window, its output range brought to 0..255."""
    if "BitsStored" not in ds:  # float pixels: the range that these decide is not used
        ds.BitsStored, ds.PixelRepresentation = 16, 0
    low, high = apply_windowing(np.array([-1e300, 1e300]), ds, index=0)
    scaled: Array = (apply_windowing(values.astype(np.float64), ds, index=0) - low) * (255 / (high - low))
    return scaled


def _polarity(grey: Array, ds: Dataset) -> Array:
    inverse = ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE"
    return 255 - grey if inverse else grey


def _pydicom_colour(stored: Array, ds: Dataset) -> Array:
    photometric = ds.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(stored, ds)
        return coloured * (255 / np.iinfo(coloured.dtype).max)
    if stored.dtype.itemsize > 1:
        return stored * (255 / ((1 << int(ds.BitsStored)) - 1))
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return np.asarray(convert_color_space(stored, photometric, "RGB"), dtype=np.float64)
    if photometric == "YBR_PARTIAL_422":
        raise Refused
    return stored.astype(np.float64)


# --- highdicom ----------------------------------------------------------------------------------------------


def ask_highdicom(ask: Ask) -> Answer:
    """Built on pydicom's decoders, with pixel transforms of its own, functional groups included."""
    import highdicom

    image = highdicom.imread(ask.path)

    def shown(**options: Any) -> dict[int, Array]:
        common: dict[str, Any] = {"apply_real_world_transform": False, "apply_icc_profile": False}
        return {frame: image.get_frame(frame, **common, **options) for frame in ask.frames}

    def modality() -> dict[int, Array]:
        if image.PhotometricInterpretation not in GREY:
            raise Refused
        return shown(apply_presentation_lut=False, apply_palette_color_lut=False)

    def display() -> dict[int, Array]:
        if image.PhotometricInterpretation == "PALETTE COLOR":
            top = (1 << int(image.RedPaletteColorLookupTableDescriptor[2])) - 1
            coloured = shown(apply_palette_color_lut=True, dtype=np.uint16)
            return {frame: values * (255 / top) for frame, values in coloured.items()}
        unknown = "PresentationLUTSequence" in image or image.get("PixelPresentation") == "COLOR"
        if image.PhotometricInterpretation not in GREY or unknown:
            raise Refused
        return shown(apply_voi_transform=True, voi_output_range=(0, 255))

    def windowed(window: Window) -> dict[int, Array]:
        center, width, function = window
        if image.PhotometricInterpretation not in GREY or function != "LINEAR":
            raise Refused  # it takes the function of a given window for LINEAR
        selector = highdicom.VOILUTTransformation(center, width, voi_lut_function=function)
        return shown(apply_voi_transform=True, voi_transform_selector=selector, voi_output_range=(0, 255))

    windows = {name: lambda window=window: windowed(window) for name, window in ask.windows}
    return _collect({"modality": modality, "display": display, **windows})


# --- GDCM ---------------------------------------------------------------------------------------------------


def ask_gdcm(ask: Ask) -> Answer:
    """Stored values, and the colours of a palette."""
    return _collect(
        {"stored": lambda: read_gdcm(ask.path, list(ask.stored_frames)), "display": lambda: _gdcm_palette(ask)}
    )


def _gdcm_palette(ask: Ask) -> dict[int, Array]:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(ask.path))
    if not reader.Read() or reader.GetImage().GetPhotometricInterpretation().GetString().strip() != "PALETTE COLOR":
        raise Refused
    lut = gdcm.ImageApplyLookupTable()
    lut.SetInput(reader.GetImage())
    if not lut.Apply():
        raise Refused
    image = lut.GetOutput()
    bits = image.GetPixelFormat().GetBitsAllocated()
    flat = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), f"<u{bits // 8}")
    frames = flat.reshape(-1, image.GetDimension(1), image.GetDimension(0), 3)
    return {n: frames[n - 1] * (255 / ((1 << bits) - 1)) for n in ask.frames}


# --- DCMTK --------------------------------------------------------------------------------------------------

_PAINTERS = {
    **{f"1.2.840.10008.1.2.4.{n}": "dcmj2pnm" for n in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{n}": "dcml2pnm" for n in (80, 81)},
}


def ask_dcmtk(ask: Ask) -> Answer:
    """Its own parser, codecs (no JPEG 2000) and picture pipeline, through its command line tools."""
    ds = pydicom.dcmread(ask.path, stop_before_pixels=True)
    tool = _PAINTERS.get(str(ds.file_meta.TransferSyntaxUID), "dcm2pnm")

    def paint(*options: str) -> dict[int, Array]:
        return {n: _paint(tool, ask.path, n, *options).astype(np.float64) for n in ask.frames}

    def modality() -> dict[int, Array]:
        if ds.PhotometricInterpretation not in GREY:
            raise Refused
        # A LINEAR window of 65536 values shown in 16 bits maps the integer m to m + 32768 (PS3.3 C.11.2.1.2.1).
        shown = paint("+Ww", "0", "65536", "+Wfl", "+opn", "16", *_upright(ds))
        if any(values.min() == 0 or values.max() == 65535 for values in shown.values()):
            raise Refused("beyond 16 bits")
        return {n: values - 32768 for n, values in shown.items()}

    def display() -> dict[int, Array]:
        if ds.PhotometricInterpretation not in GREY:
            return paint()
        if ds.get("PixelPresentation") == "COLOR":
            raise Refused
        if "PresentationLUTSequence" in ds:
            return {n: _paint_with_presentation_lut(ask.path, n, ds) for n in ask.frames}
        if _functional(ds):
            return {n: _paint(tool, ask.path, n, "+Ww", *_frame_window(ds, n), "+Wfl") for n in ask.frames}
        if ds.get("VOILUTSequence"):
            return paint("+Wl", "1")
        if ds.get("WindowCenter") is None:
            return paint("+Wm")
        return paint("+Wi", "1", *_FUNCTIONS[ds.get("VOILUTFunction", "LINEAR")])

    def windowed(window: Window) -> dict[int, Array]:
        center, width, function = window
        if ds.PhotometricInterpretation not in GREY:
            raise Refused
        return paint("+Ww", repr(center), repr(width), *_FUNCTIONS[function])

    windows = {name: lambda window=window: windowed(window) for name, window in ask.windows}
    stored = {"stored": lambda: read_dcmtk(ask.path, list(ask.stored_frames))}
    return _collect({**stored, "modality": modality, "display": display, **windows})


_FUNCTIONS = {"LINEAR": ("+Wfl",), "SIGMOID": ("+Wfs",)}


def _frame_window(ds: Dataset, frame: int) -> tuple[str, str]:
    """The window of a frame's own functional group: DCMTK sees its rescale, but not its window."""
    window = ds.PerFrameFunctionalGroupsSequence[frame - 1].FrameVOILUTSequence[0]
    return str(window.WindowCenter), str(window.WindowWidth)


def _upright(ds: Dataset) -> tuple[str, ...]:
    """Undo the inversion of MONOCHROME1: modality values are asked for."""
    inverse = ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE"
    return ("+P",) if inverse else ()


def _paint(tool: str, path: Path, frame: int, *options: str) -> Array:
    """One frame as PGM or PPM; overlays off, YBR converted with DCMTK's own matrix."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "picture.pnm"
        form = () if "+opn" in options else ("+op",)
        command = [tool, "-q", "-O", "+F", str(frame), *options, *form, str(path), str(target)]
        subprocess.run(command, check=True, timeout=LIMIT_S, capture_output=True)
        return _read_pnm(target.read_bytes())


def _paint_with_presentation_lut(path: Path, frame: int, ds: Dataset) -> Array:
    """DCMTK looks for a Presentation LUT Sequence in presentation states only: it makes one, which gets the image's."""
    with tempfile.TemporaryDirectory() as folder:
        state, target = Path(folder) / "state.dcm", Path(folder) / "picture.pgm"
        subprocess.run(["dcmpsmk", "-q", str(path), str(state)], check=True, timeout=LIMIT_S, capture_output=True)
        presentation = pydicom.dcmread(state)
        del presentation.PresentationLUTShape
        presentation.PresentationLUTSequence = ds.PresentationLUTSequence
        presentation.save_as(state)
        command = ["dcmp2pgm", "-q", "-f", str(frame), "-p", str(state), str(path), str(target)]
        subprocess.run(command, check=True, timeout=LIMIT_S, capture_output=True)
        return _read_pnm(target.read_bytes()).astype(np.float64)


def _read_pnm(data: bytes) -> Array:
    kind, columns, rows, top, *_ = (part for line in data[:80].split(b"\n")[:4] for part in line.split() if part)
    shape = (int(rows), int(columns), 3) if kind in (b"P3", b"P6") else (int(rows), int(columns))
    count = int(np.prod(shape))
    if kind in (b"P5", b"P6"):
        return np.frombuffer(data[-count:], np.uint8).reshape(shape)
    text = data.split(top, 1)[1] if kind in (b"P2", b"P3") else b""
    return np.array(text.split()[:count], dtype=np.int64).reshape(shape)


# --- a process for each -------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Ask], Answer]] = {
    "pydicom": ask_pydicom,
    "highdicom": ask_highdicom,
    "GDCM": ask_gdcm,
    "DCMTK": ask_dcmtk,
}


def _begin() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")


def _answer(name: str, ask: Ask) -> Answer:
    signal.alarm(LIMIT_S)  # ends the process, and with it a codec that loops
    try:
        return READERS[name](ask)
    finally:
        signal.alarm(0)


class Isolated:
    """One reader in a process that may die: then it has not answered, and the next question starts another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.deaths = 0
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)

    def ask(self, ask: Ask) -> Answer:
        """What the reader says; nothing where it refuses or dies."""
        try:
            return self._pool.submit(_answer, self.name, ask).result()
        except BrokenProcessPool:
            self.deaths += 1
            self._pool.shutdown(cancel_futures=True)
            self._pool = self._start()
            return {}
        except Exception:  # noqa: BLE001 - the reader refuses the file as a whole
            return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
