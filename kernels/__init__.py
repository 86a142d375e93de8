"""Ground floor: arrays only. No DICOM, no I/O. NumPy everywhere; CuPy in one file, ``cuda.py``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from kernels.packing import Packed


class BackendUnavailable(RuntimeError):
    """The asked-for backend cannot run here; the message says what to install or to check."""


class DeviceError(RuntimeError):
    """The device failed while it worked. ``lost``: it cannot be used again by this process; otherwise only this call
    failed (its memory did not suffice, a launch was refused). ``out_of_memory``: freeing some may help."""

    def __init__(self, message: str, *, lost: bool, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.lost = lost
        self.out_of_memory = out_of_memory


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One frame to render: the backend's handle of its samples, its FRAME_PARAMS record (scalar, shape ()), and the
    table that the record's curve reads: float64 (255,) for THRESHOLDS; for TABLE uint8 (n,) for grey display,
    uint8 (n, 3) for PALETTE, float32 (n,) for the modality stage. Equal table objects are uploaded once a batch."""

    pixels: object
    params: np.void
    table: npt.NDArray[np.generic] | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """Another codestream, made from the first, that shows whether the codec really decoded that one.

    ``data``: of the same size and format. Its first ``equal_samples`` samples must be equal to those of the first;
    with ``differs`` at least one of the others must not be.
    """

    data: bytes
    equal_samples: int
    differs: bool


@dataclass(frozen=True, slots=True)
class Codestream:
    """One frame for the device's codec, and what becomes of the values that the codec gives.

    ``value = decoded + offset`` must lie in ``low``..``high``, otherwise the frame counts as not decoded. With
    ``sign_bits`` > 0 the value's lowest ``sign_bits`` bits are then read as ``dtype`` says: sign-extended where it is
    signed, zero-extended where it is not. ``shape`` (rows, columns) or (rows, columns, 3), ``dtype`` in
    SAMPLE_FORMATS with at most 2 bytes: the samples that come out. ``precision``, ``signed``: what the codestream
    declares, so what the codec must give. ``codec``: ``jpeg`` or ``jpeg2000`` (HTJ2K too).
    """

    data: bytes
    codec: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    precision: int
    signed: bool
    offset: int
    low: int
    high: int
    sign_bits: int = 0
    witnesses: tuple[Witness, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples that the device's codec left on the device: their handle, and the lowest and highest of them."""

    pixels: object
    lowest: int
    highest: int


class Backend(Protocol):
    """A device. All methods are called from one thread. Any of them raises DeviceError where the device fails.

    Work is queued: ``put`` and ``launch`` return before the device has done it. A handle that the caller drops keeps
    its memory until everything launched before has been collected.
    """

    name: str
    """``cpu`` or ``cuda``."""
    description: str
    """For people: device, driver, library versions."""
    unpacks: bool
    """Whether ``put`` unpacks on the device, so that callers should leave frames packed."""
    codec: str
    """What decodes codestreams here, with all that its results may depend on; empty where nothing does."""
    download_ms: float
    """Of the last collect(): time of the copy from device to host [ms]; 0 where there is none."""

    def put(self, frames: Sequence[npt.NDArray[np.generic] | Packed]) -> list[object]:
        """Take frames to the device, one upload each: C-contiguous samples of a dtype in SAMPLE_FORMATS, or packed
        ones, which are unpacked there. Returns their handles. The caller does not change the arrays afterwards."""
        ...

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        """Decode a batch in one call of the codec, and leave the samples on the device. None for each frame that the
        codec refuses, or whose values or witnesses are not as its Codestream says. Waits until it is done."""
        ...

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        """For each (handle, FRAME_PARAMS record): lowest and highest stored value (after shift, mask and sign
        extension) outside the padding range, NaNs left out; None where nothing is left. Looks at the whole frame, not
        at the region. One launch and one small download for all."""
        ...

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        """Begin to render a batch; returns a ticket for ``collect``. At most two tickets are out at a time."""
        ...

    def collect(self, ticket: object) -> list[npt.NDArray[np.generic]]:
        """Wait for a batch: one download. Returns, per job, a C-contiguous array of the record's output format,
        (height, width) or (height, width, 3). Tickets are collected in the order of their launches."""
        ...

    def trim(self) -> None:
        """Give memory back that no handle holds."""
        ...

    def memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of the device's memory; None where the host's memory is used."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


def render(backend: Backend, jobs: Sequence[RenderJob]) -> list[npt.NDArray[np.generic]]:
    """Launch a batch and wait for it."""
    return backend.collect(backend.launch(jobs))


def open_backend(kind: Literal["auto", "cpu", "cuda"] = "auto", device: int = 0) -> Backend:
    """Open a backend: the only place that decides which.

    ``auto`` takes CUDA where a device answers and NumPy otherwise; ``cuda`` raises BackendUnavailable, with the
    reason and the remedy, where none does.
    """
    from kernels.cpu import CpuBackend

    if kind == "cpu":
        return CpuBackend()
    from kernels.cuda import CudaBackend

    try:
        return CudaBackend(device)
    except BackendUnavailable as reason:
        if kind == "cuda":
            raise
        logging.getLogger("kernels").info("rendering on the CPU: %s", reason)
        return CpuBackend()
