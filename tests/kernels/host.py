"""``render.cu`` built by the machine's C++ compiler and called through ctypes."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from kernels import RenderJob
from kernels.check import read, read_source, reads_table
from kernels.cuda import _number
from kernels.params import FRAME_PARAMS
from tests.kernels.cases import Array

_HERE = Path(__file__).parent
_FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-strict-aliasing"]


@cache
def library() -> ctypes.CDLL:
    """The built library. Skips the test where there is no compiler, but fails in CI."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C++ compiler, though this is CI")
        pytest.skip("no C++ compiler to build render.cu for the host")
    kernels = _HERE.parents[1] / "kernels"
    with TemporaryDirectory() as folder:
        built = Path(folder) / "render_host.so"
        command = [
            compiler,
            *_FLAGS,
            "-shared",
            "-fPIC",
            f"-I{kernels}",
            str(_HERE / "host_launch.cpp"),
            "-o",
            str(built),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(built))


def launch(name: str, grid: Sequence[int], block: int, *arguments: object) -> None:
    """Run ``render_batch`` or ``extent_frame`` over a grid, to its end."""
    grid_x, grid_y = (*grid, 1)[:2]
    getattr(library(), f"host_{name}")(ctypes.c_uint(grid_x), ctypes.c_uint(grid_y), ctypes.c_uint(block), *arguments)


class HostBackend:
    """The kernel alone, over NumPy's memory: what CUDA would compute, without the code that drives it."""

    name = "host"
    description = "render.cu built by a C++ compiler"
    download_ms = 0.0

    def put(self, samples: Array) -> Array:
        """The array itself."""
        return samples

    def extent(self, pixels: object, params: np.void) -> tuple[float, float] | None:
        """See ``kernels.Backend.extent``."""
        assert isinstance(pixels, np.ndarray)
        read_source(params)
        row = np.array([params], FRAME_PARAMS)
        row["source"] = pixels.ctypes.data
        words = np.full(2, 2**64 - 1, np.uint64)
        launch("extent_frame", (3,), 5, ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(words.ctypes.data))
        least, complement = (int(word) for word in words)
        if least == complement == 2**64 - 1:
            return None
        return _number(least), _number(complement ^ (2**64 - 1))

    def render(self, jobs: Sequence[RenderJob]) -> list[Array]:
        """See ``kernels.Backend.render``. Two blocks of 32 threads over all frames: every loop goes round."""
        rows = np.array([job.params for job in jobs], FRAME_PARAMS)
        outputs = []
        for row, job in zip(rows, jobs, strict=True):
            record = read(job)
            outputs.append(np.full(record.output_shape, 77).astype(record.output_dtype))
            assert isinstance(job.pixels, np.ndarray)
            row["source"], row["output"] = job.pixels.ctypes.data, outputs[-1].ctypes.data
            if job.table is not None and reads_table(record):
                row["table"] = job.table.ctypes.data
        launch("render_batch", (2, 3), 32, ctypes.c_void_p(rows.ctypes.data), ctypes.c_int(len(jobs)))
        return outputs

    def memory(self) -> None:
        """None."""

    def close(self) -> None:
        """Nothing is held."""
