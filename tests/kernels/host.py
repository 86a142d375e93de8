"""``render.cu`` built by the machine's C++ compiler and called through ctypes."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from kernels import Codestream, Decoded, RenderJob
from kernels.adopt import NONE, adopt_record, extent_of, holds, number
from kernels.check import Record, read, read_source, reads_table
from kernels.packing import Packed, unpack_record
from kernels.params import ADOPT_PARAMS, ADOPT_WORDS, FRAME_PARAMS, SAMPLE_FORMATS, UNPACK_PARAMS
from kernels.steps import steps_for
from tests.kernels.cases import Array

_HERE = Path(__file__).parent
_FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-strict-aliasing"]


def compiler() -> str:
    """A C++ compiler. Skips the test where there is none, but fails in CI."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no C++ compiler, though this is CI")
        pytest.skip("no C++ compiler to build render.cu for the host")
    return found


@cache
def library() -> ctypes.CDLL:
    """The built library."""
    kernels = _HERE.parents[1] / "kernels"
    with TemporaryDirectory() as folder:
        built = Path(folder) / "render_host.so"
        command = [
            compiler(),
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
    """Run a kernel of ``render.cu`` over a grid, to its end."""
    grid_x, grid_y = (*grid, 1)[:2]
    getattr(library(), f"host_{name}")(ctypes.c_uint(grid_x), ctypes.c_uint(grid_y), ctypes.c_uint(block), *arguments)


def launch_batch(name: str, records: Array, *addresses: int) -> None:
    """Run a kernel over records: two blocks of 32 threads by three, so that every loop goes round."""
    pointers = [ctypes.c_void_p(address) for address in addresses]
    launch(name, (2, 3), 32, ctypes.c_void_p(records.ctypes.data), ctypes.c_int(len(records)), *pointers)


Codec = Callable[[bytes, Codestream], Array | None]
"""What a codec would leave of a codestream: (rows, columns) or (rows, columns, 3), or None where it refuses."""


class HostBackend:
    """The kernels alone, over NumPy's memory: what CUDA would compute, without the code that drives it.

    With a ``codec`` it decodes, too; ``codec_name`` is then what it says decodes.
    """

    name = "host"
    description = "render.cu built by a C++ compiler"
    unpacks = True
    download_ms = 0.0

    def __init__(self, codec: Codec | None = None, codec_name: str = "test codec 1") -> None:
        self._codec = codec
        self.codec = codec_name if codec else ""

    def put(self, frames: Sequence[Array | Packed]) -> list[object]:
        """The arrays themselves, and unpacked ones."""
        return [self._unpack(frame) if isinstance(frame, Packed) else _samples(frame) for frame in frames]

    def _unpack(self, packed: Packed) -> Array:
        row = np.array([unpack_record(packed)], UNPACK_PARAMS)
        output = np.full(packed.shape, 77).astype(packed.dtype)
        row["source"], row["output"] = packed.data.ctypes.data, output.ctypes.data
        launch_batch("unpack_batch", row)
        return output

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        """See ``kernels.Backend.decode``."""
        return [self._decode(codestream) for codestream in codestreams]

    def _decode(self, codestream: Codestream) -> Decoded | None:
        report, output = adopt(codestream, self._left(codestream.data, codestream))
        extent = None if report is None else extent_of(codestream, report)
        if extent is None or output is None:
            return None
        for witness in codestream.witnesses:
            report, _ = adopt(codestream, self._left(witness.data, codestream), output)
            if report is None or not holds(witness, codestream, report):
                return None
        return Decoded(output, *extent)

    def _left(self, data: bytes, codestream: Codestream) -> Array | None:
        return self._codec(data, codestream) if self._codec else None

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        """See ``kernels.Backend.extents``."""
        rows = np.array([params for _, params in frames], FRAME_PARAMS)
        for row, (pixels, params) in zip(rows, frames, strict=True):
            row["source"] = _checked(pixels, read_source(params)).ctypes.data
        words = np.full((len(rows), 2), NONE, np.uint64)
        launch_batch("extent_batch", rows, words.ctypes.data)
        return [None if least == NONE else (number(least), number(other ^ NONE)) for least, other in words.tolist()]

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        """See ``kernels.Backend.launch``: rendered at once."""
        rows = np.array([job.params for job in jobs], FRAME_PARAMS)
        outputs, steps = [], []
        for row, job in zip(rows, jobs, strict=True):
            record = read(job)
            outputs.append(_aligned(record.output_shape, record.output_dtype))
            row["source"], row["output"] = _checked(job.pixels, record).ctypes.data, outputs[-1].ctypes.data
            if job.table is not None and reads_table(record):
                row["table"] = job.table.ctypes.data
            steps.append(steps_for(record))
            row["steps"] = 0 if steps[-1] is None else steps[-1].ctypes.data
        launch_batch("render_batch", rows)
        return outputs

    def collect(self, ticket: object) -> list[Array]:
        """See ``kernels.Backend.collect``."""
        assert isinstance(ticket, list)
        return ticket

    def trim(self) -> None:
        """Nothing is kept back."""

    def memory(self) -> None:
        """None."""

    def close(self) -> None:
        """Nothing is held."""


def adopt(
    codestream: Codestream, left: Array | None, reference: Array | None = None
) -> tuple[Array, Array] | tuple[None, None]:
    """(report, samples) by ``adopt_batch``; None, None where the codec left nothing of the frame's shape. With a
    ``reference`` nothing is written, and the samples are all 77."""
    if left is None or left.shape != codestream.shape:
        return None, None
    flat = left.reshape(len(left), -1)
    wider = np.pad(flat, ((0, 0), (0, 5)), constant_values=99)  # as codecs align rows
    row = np.array([adopt_record(codestream, left.dtype, wider.strides[0])], ADOPT_PARAMS)
    report, output = np.full(ADOPT_WORDS, NONE, np.uint64), np.full(codestream.shape, 77).astype(codestream.dtype)
    row["source"], row["stats"] = wider.ctypes.data, report.ctypes.data
    if reference is None:
        row["output"] = output.ctypes.data
    else:
        row["reference"] = reference.ctypes.data
    launch_batch("adopt_batch", row)
    return report, output


def _samples(frame: Array) -> Array:
    if frame.dtype not in SAMPLE_FORMATS or not frame.flags.c_contiguous:
        raise ValueError("samples are C-contiguous, of a dtype in SAMPLE_FORMATS")
    if frame.ctypes.data % 16 == 0:
        return frame
    copy = _aligned(frame.shape, frame.dtype)  # as a device's memory is
    copy[...] = frame
    return copy


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array full of old bytes, aligned to 256 bytes."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 256, 77, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + size].view(dtype).reshape(shape)


def _checked(pixels: object, record: Record) -> Array:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != record.sample_dtype:
        raise ValueError("the samples are not of the record's format")
    if pixels.size != record.rows * record.columns * record.samples:
        raise ValueError("the samples are not of the record's size")
    return pixels
