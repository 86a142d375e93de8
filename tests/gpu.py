"""The real GPU, for tests marked with ``gpu``: ``make gpu-test`` runs them, and refuses where there is none."""

import pytest

from kernels import BackendUnavailable
from kernels.cuda import CudaBackend


def open_gpu() -> CudaBackend:
    """The first device. Skips the test, with the reason, where none can be used."""
    try:
        return CudaBackend()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
