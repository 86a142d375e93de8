"""Records that travel from the archive to the renderer. Plain, immutable, no behaviour beyond what they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import EllipsisType

import numpy as np
import numpy.typing as npt

from gpu_render.reference import FrameRef
from kernels.packing import Packed, unpack

Samples = npt.NDArray[np.generic]

#: DeviceFrame.extent before anybody asked for it (None is an answer: nothing but padding).
UNKNOWN = ...

#: What a frame without samples counts against the host's budget [byte]: its record.
FRAME_OVERHEAD = 1024


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 C.11.2.1.2 and C.11.2.1.3."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """Image Pixel attributes (PS3.3 C.7.6.3) of one frame as stored.

    ``rows``, ``columns`` [px]; ``bits_*`` and ``high_bit`` [bit]; ``pixel_representation`` 0 unsigned, 1 two's
    complement; ``planar_configuration`` 0 interleaved, 1 planes. ``is_float`` marks Float (32 bit) and Double Float
    (64 bit) Pixel Data, for which ``bits_stored == bits_allocated``.
    """

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    photometric_interpretation: str
    planar_configuration: int = 0
    is_float: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The stored samples' little-endian dtype: the container of Bits Allocated (1-bit unpacks to uint8)."""
        if self.is_float:
            return np.dtype(f"<f{self.bits_allocated // 8}")
        size = max(1, self.bits_allocated // 8)
        kind = "i" if self.pixel_representation else "u"
        return np.dtype(f"{kind}{size}") if size == 1 else np.dtype(f"<{kind}{size}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, 3) for colour."""
        if self.samples_per_pixel == 1:
            return (self.rows, self.columns)
        return (self.rows, self.columns, self.samples_per_pixel)

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that Bits Stored and Pixel Representation allow (integers only)."""
        if self.pixel_representation:
            half = 1 << (self.bits_stored - 1)
            return -half, half - 1
        return 0, (1 << self.bits_stored) - 1


@dataclass(frozen=True, slots=True)
class Rescale:
    """modality value = slope * stored + intercept (PS3.3 C.11.1.1.2); ``unit`` is Rescale Type, e.g. ``HU``."""

    slope: float
    intercept: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Width [modality units] with their function (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A LUT (PS3.3 C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.5/6).

    ``data`` uint16, shape (entries,), or (entries, 3) for a palette; ``first_mapped`` is the input value of entry 0
    (signed where the input is); ``bits`` 8 or 16 (1..16 for a VOI LUT) is the number of significant bits of an entry.
    """

    first_mapped: int
    data: npt.NDArray[np.uint16]
    bits: int
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Presentation:
    """How stored values become a picture: everything between stored and display that the file says.

    ``modality`` None means modality = stored. ``voi`` keeps the file's order, LUTs before windows. ``inverse``:
    MONOCHROME1 or Presentation LUT Shape INVERSE. ``pixel_padding`` is an inclusive (low, high) range of *stored*
    values. ``pixel_spacing_mm`` is (between rows, between columns) in mm. ``notes`` says what in the file was ignored
    and why (a slope of 0, an impossible window ...), in words free of patient data.

    ``palette`` with a grey Photometric Interpretation is a supplemental one (PS3.3 C.8.16.2.1.1.1): stored values from
    its ``first_mapped`` on are colours, those below are grey. ``presentation_lut`` (C.11.6) comes after the VOI.
    """

    modality: Rescale | LookupTable | None = None
    voi: tuple[Window | LookupTable, ...] = ()
    inverse: bool = False
    presentation_lut: LookupTable | None = None
    palette: LookupTable | None = None
    pixel_padding: tuple[float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_aspect_ratio: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a frame lies in the patient (PS3.3 C.7.6.2): position and orientation [mm, direction cosines]."""

    image_position: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    slice_location: float | None = None


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One frame as it lies in the archive.

    ``data``: native: exactly the frame's bytes (1-bit frames that start inside a byte are shifted so that pixel 0 is
    bit 0; big endian stays big endian); encapsulated: the codestream, its fragments joined, item headers removed.
    ``version`` changes whenever the file that holds the frame does. ``decoder``: where ``data`` are a copy in another
    transfer syntax than the file's, the codec of that one, by which answers call it.
    """

    ref: FrameRef
    transfer_syntax_uid: str
    layout: PixelLayout
    presentation: Presentation
    data: bytes | memoryview
    version: str = ""
    decoder: str = ""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """Samples in host memory. ``layout`` describes *these* samples: a decoder that undoes a colour transform or
    interleaves planes returns a layout that says so. ``samples`` has ``layout.shape`` and ``layout.dtype``, C order,
    and is not yet masked to Bits Stored; or it is packed, and becomes so. ``version`` is the file's, where known."""

    samples: Samples | Packed
    layout: PixelLayout
    decoder: str
    timings: Mapping[str, float] = field(default_factory=dict)
    version: str = ""


@dataclass(slots=True, eq=False)
class DeviceFrame:
    """A decoded frame that the service keeps, on the host, on the device, or on both.

    ``samples``: the host's copy, as in DecodedFrame; None where the device decoded the frame, or where the host's
    memory was needed for others. ``pixels``: the handle of the device's copy; None where it is not there (yet, or any
    more). ``extent``: the lowest and highest value that ``transform.fold`` asks for, ``UNKNOWN`` until somebody did;
    only the device thread reads and writes it. ``generation``: of the archive, when the frame was read. ``is_bare``:
    whether it is known that containers hold stored values and no other bit, so that nothing has to be masked.
    """

    ref: FrameRef
    layout: PixelLayout
    presentation: Presentation
    samples: Samples | Packed | None
    decoder: str
    version: str = ""
    generation: int = 0
    pixels: object | None = None
    extent: tuple[float, float] | EllipsisType | None = UNKNOWN
    on_host: bool = True
    is_bare: bool = False

    @property
    def key(self) -> tuple[int, FrameRef]:
        """What the device's copy is found by: a changed file has another one."""
        return self.generation, self.ref

    @property
    def nbytes(self) -> int:
        """What the frame counts against the host's budget [byte]: packed samples may have to be unpacked."""
        return FRAME_OVERHEAD if self.samples is None else max(FRAME_OVERHEAD, self.device_nbytes)

    @property
    def device_nbytes(self) -> int:
        """Of its samples on a device [byte]."""
        return math.prod(self.layout.shape) * self.layout.dtype.itemsize

    @property
    def is_gone(self) -> bool:
        """Whether neither host nor device has its samples: it has to be read again."""
        return self.samples is None and self.pixels is None

    def host_samples(self) -> Samples | None:
        """The host's copy, unpacked; read-only."""
        samples = self.samples
        if isinstance(samples, Packed):
            samples = unpack(samples)
            samples.setflags(write=False)
            if self.on_host:
                self.samples = samples
        return samples

    def arrived(self, pixels: object) -> None:
        """The device has a copy: the host's goes, where it was only waiting for that."""
        self.pixels = pixels
        if not self.on_host:
            self.samples = None

    def left(self) -> None:
        """The host's memory is needed for others: its copy goes as soon as the device has one."""
        self.on_host = False
        if self.pixels is not None:
            self.samples = None


@dataclass(slots=True)
class RenderedFrame:
    """The answer: ``pixels`` C order, (height, width) or (height, width, 3), little-endian; ``window`` is the one
    used, None where none was; ``timings`` in milliseconds by step name; ``version`` is the file's.

    Nobody changes it; that it is not frozen is since a frozen one takes 1 µs to make, and each answer has one."""

    pixels: Samples
    stage: str
    window: Window | None
    decoder: str
    backend: str
    timings: Mapping[str, float]
    version: str = ""
