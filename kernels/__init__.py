"""Ground floor: arrays only. No DICOM, no I/O. NumPy everywhere; CuPy in one file, ``cuda.py``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


class BackendUnavailable(RuntimeError):
    """The asked-for backend cannot run here; the message says what to install or to check."""


class DeviceError(RuntimeError):
    """The device failed while it worked. ``lost``: it cannot be used again by this process; otherwise only this call
    failed (its memory did not suffice, a launch was refused)."""

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One frame to render: the backend's handle of its samples, its FRAME_PARAMS record (scalar, shape ()), and the
    table that the record's curve reads: float64 (255,) for THRESHOLDS; for TABLE uint8 (n,) for grey display,
    uint8 (n, 3) for PALETTE, float32 (n,) for the modality stage. Equal table objects are uploaded once a batch."""

    pixels: object
    params: np.void
    table: npt.NDArray[np.generic] | None = None


class Backend(Protocol):
    """A device. All methods are called from one thread."""

    name: str
    """``cpu`` or ``cuda``."""
    description: str
    """For people: device, driver, library versions."""
    download_ms: float
    """Of the last render(): time of the copy from device to host [ms]; 0 where there is none."""

    def put(self, samples: npt.NDArray[np.generic]) -> object:
        """Take C-contiguous samples of a dtype in SAMPLE_FORMATS to the device; one upload. Returns a handle."""
        ...

    def extent(self, pixels: object, params: np.void) -> tuple[float, float] | None:
        """Lowest and highest stored value (after shift, mask and sign extension) outside the padding range of
        ``params``, NaNs left out; None where nothing is left. Looks at the whole frame, not at the region."""
        ...

    def render(self, jobs: Sequence[RenderJob]) -> list[npt.NDArray[np.generic]]:
        """Render a batch: one launch, one download. Returns, per job, a C-contiguous array of the record's output
        format, (height, width) or (height, width, 3)."""
        ...

    def memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of the device's memory; None where the host's memory is used."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


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
