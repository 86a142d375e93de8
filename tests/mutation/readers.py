"""Other readers of the same files, each in a process that may be killed: pydicom's plugins, GDCM, DCMTK, two of ours.

``python -m tests.mutation.readers NAME`` answers requests on its standard input. A reader refuses by raising.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from tests.mutation.bases import NATIVE, make_base
from tests.mutation.jpeg_reference import decode

Array = npt.NDArray[Any]
Reader = Callable[[Path, list[int]], dict[int, Array]]
"""(file, frame numbers) -> stored values of those that can be read, (rows, columns[, samples])."""

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 4 << 30
PATIENCE_S = 15.0

JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
RLE = "1.2.840.10008.1.2.5"
UNCOMPRESSED, DEFLATED_FRAME = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"


# --- what a reader says -------------------------------------------------------------------------------------


def stored_values(values: Array, ds: Dataset) -> Array:
    """Shifted, masked and sign-extended as Bits Stored, High Bit and Pixel Representation say (PS3.5 8.1.1)."""
    if values.dtype.kind == "f" or int(ds.BitsAllocated) == 1:
        return values
    container = 8 * values.dtype.itemsize
    stored, high, signed = int(ds.BitsStored), int(ds.HighBit), int(ds.PixelRepresentation) == 1
    if not 1 <= stored <= high + 1 <= container:
        raise ValueError("impossible bits")
    raw = values.astype(values.dtype.newbyteorder("<")).view(f"<u{container // 8}")
    return (raw << (container - 1 - high)).view(f"<{'i' if signed else 'u'}{container // 8}") >> (container - stored)


_PLUGINS = {
    **dict.fromkeys(JPEG[:2], "pillow"),
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    RLE: "pydicom",
    **{f"1.2.840.10008.1.2.4.{n}": "pylibjpeg" for n in (90, 91, 201, 202, 203)},
}


def read_pydicom(path: Path, frames: list[int]) -> dict[int, Array]:
    """pydicom with Pillow, pyjpegls, pylibjpeg-openjpeg and its own RLE; never GDCM, which is a reader of its own."""
    ds = pydicom.dcmread(path)
    plugin = _PLUGINS.get(str(ds.file_meta.TransferSyntaxUID), "")
    if not plugin and str(ds.file_meta.TransferSyntaxUID) not in NATIVE:
        raise ValueError("no plugin")
    found: dict[int, Array] = {}
    for frame in frames:
        with contextlib.suppress(Exception):
            values = pixel_array(ds, index=frame - 1, raw=True, decoding_plugin=plugin)
            found[frame] = stored_values(values, ds)
    return found


def read_gdcm(path: Path, frames: list[int]) -> dict[int, Array]:
    """GDCM: its own parser, IJG's libjpeg, CharLS and OpenJPEG of its own, its own RLE."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("refused")
    image = reader.GetImage()
    form = image.GetPixelFormat()
    kinds = {gdcm.PixelFormat.UINT8: "u1", gdcm.PixelFormat.INT8: "i1", gdcm.PixelFormat.UINT16: "<u2"}
    kinds |= {gdcm.PixelFormat.INT16: "<i2", gdcm.PixelFormat.UINT32: "<u4", gdcm.PixelFormat.INT32: "<i4"}
    kinds |= {gdcm.PixelFormat.UINT12: "<u2", gdcm.PixelFormat.INT12: "<i2"}
    sizes = [image.GetDimension(axis) for axis in range(image.GetNumberOfDimensions())]
    count = sizes[2] if len(sizes) > 2 else 1
    samples = form.GetSamplesPerPixel()
    flat = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), kinds[form.GetScalarType()])
    if image.GetPlanarConfiguration() and samples == 3:
        planes = flat.reshape(count, 3, sizes[1], sizes[0])
        all_frames = planes.transpose(0, 2, 3, 1)
    else:
        all_frames = flat.reshape(count, sizes[1], sizes[0], *((samples,) if samples > 1 else ()))
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    return {n: stored_values(np.ascontiguousarray(all_frames[n - 1]), ds) for n in frames if n <= count}


_TOOLS = {**dict.fromkeys(JPEG, ("dcmdjpeg", "+cn")), **dict.fromkeys(JPEG_LS, ("dcmdjpls",)), RLE: ("dcmdrle",)}


def read_dcmtk(path: Path, frames: list[int]) -> dict[int, Array]:
    """DCMTK's tools write the file anew without compression; its own parser, IJG's libjpeg, its own CharLS and RLE."""
    syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    tool = _TOOLS.get(syntax) or (("dcmconv", "+te") if syntax in NATIVE else None)
    if tool is None or shutil.which(tool[0]) is None:
        raise ValueError("no tool")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "native.dcm"
        subprocess.run([*tool, "-q", str(path), str(target)], check=True, timeout=10, capture_output=True)
        return read_native(target, frames)


def read_native(path: Path, frames: list[int]) -> dict[int, Array]:
    """Byte by byte, with no library: numbers of the header where they stand, pixels where they must be."""
    base = make_base(path.name, path.read_bytes())

    def number(tag: int, default: int | None = None) -> int:
        part = base.parts.get(tag)
        if part is None and default is not None:
            return default
        assert part is not None
        return int(struct.unpack_from(f"{base.order}H", base.data, part.value)[0])

    rows, columns, samples = number(0x00280010), number(0x00280011), number(0x00280002)
    bits, signed = number(0x00280100), number(0x00280103, 0)
    photometric = base.parts[0x00280004]
    name = base.data[photometric.value : photometric.end].decode().strip("\0 ")
    each = rows * columns * samples
    if samples == 3 and name in ("YBR_FULL_422", "YBR_PARTIAL_422") and base.syntax in NATIVE:
        raise ValueError("subsampled")
    ds = Dataset()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (
        *(bits, number(0x00280101), number(0x00280102)),
        signed,
    )
    planar = number(0x00280006, 0) if samples == 3 else 0
    found = {}
    for frame in frames:
        raw = _native_frame(base, frame, each, bits)
        flat = np.frombuffer(raw, _dtype(base.pixels.tag, bits, base.order))
        if bits == 1:
            start = (frame - 1) * each % 8
            flat = np.unpackbits(flat, bitorder="little")[start : start + each]
        shape = (rows, columns, samples) if samples > 1 else (rows, columns)
        values = flat.reshape(samples, rows, columns).transpose(1, 2, 0) if planar else flat.reshape(shape)
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        found[frame] = stored_values(little, ds)
    return found


def _dtype(tag: int, bits: int, order: str) -> str:
    return f"{order}f{bits // 8}" if tag != 0x7FE00010 else f"{order}u{max(1, bits // 8)}"


def _native_frame(base: Any, frame: int, samples: int, bits: int) -> bytes:
    if base.syntax in NATIVE:
        begin, end = (frame - 1) * samples * bits // 8, (frame * samples * bits + 7) // 8
        data = base.data[base.pixels.value : base.pixels.end]
        if base.big_endian and bits <= 8 and base.data[base.pixels.start + 4 : base.pixels.start + 6] == b"OW":
            data = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
        if end > len(data):
            raise ValueError("too short")
        return bytes(data[begin:end])
    if base.syntax not in (UNCOMPRESSED, DEFLATED_FRAME) or len(base.codestreams) != base.frames:
        raise ValueError("not native")
    offset, length = base.codestreams[frame - 1]
    raw = base.data[offset : offset + length]
    if base.syntax == DEFLATED_FRAME:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw)
    size = samples * bits // 8
    if not size <= len(raw) <= size + size % 2:
        raise ValueError("another length")
    return bytes(raw[:size])


def read_reference(path: Path, frames: list[int]) -> dict[int, Array]:
    """Baseline and extended JPEG of one frame, as ISO 10918-1 says it: see jpeg_reference.py."""
    base = make_base(path.name, path.read_bytes())
    if base.syntax not in JPEG[:2] or base.frames != 1:
        raise ValueError("another transfer syntax, or several frames")
    joined = b"".join(base.data[offset : offset + length] for offset, length in base.codestreams)
    return {frames[0]: decode(joined)}


READERS: dict[str, Reader] = {
    "pydicom": read_pydicom,
    "GDCM": read_gdcm,
    "DCMTK": read_dcmtk,
    "bytes": read_native,
    "reference": read_reference,
}


# --- a process for each -------------------------------------------------------------------------------------


class ReaderProcess:
    """One reader in a process of its own; it is ended when it takes too long, and started anew when it has died."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, path: Path, frames: list[int]) -> dict[int, Array]:
        """What the reader makes of the file; empty where it refuses, dies or takes too long."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([str(path), frames]).encode() + b"\n")
            process.stdin.flush()
            return self._answer(process)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.deaths += 1
            self._end()
            return {}

    def _answer(self, process: "subprocess.Popen[bytes]") -> dict[int, Array]:
        assert process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        described = json.loads(
            _receive(process.stdout, int.from_bytes(_receive(process.stdout, 4, deadline)), deadline)
        )
        arrays = {}
        for number, shape, dtype, nbytes in described:
            arrays[number] = np.frombuffer(_receive(process.stdout, nbytes, deadline), dtype).reshape(shape)
        return arrays

    def _start(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.mutation.readers", self.name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def _receive(pipe: IO[bytes], length: int, deadline: float) -> bytes:
    parts = b""
    while len(parts) < length:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe.fileno(), min(1 << 20, length - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return parts


def _serve(name: str) -> None:
    """Answer until the input ends. What libraries print goes nowhere: the answers have a descriptor of their own."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        for line in sys.stdin.buffer:
            path, frames = json.loads(line)
            try:
                found = READERS[name](Path(path), frames)
            except Exception:  # noqa: BLE001 - anything can come out of these libraries: the reader refuses
                found = {}
            arrays = [(number, np.ascontiguousarray(values)) for number, values in found.items()]
            described = json.dumps([(n, a.shape, a.dtype.str, a.nbytes) for n, a in arrays]).encode()
            _send(out, len(described).to_bytes(4) + described + b"".join(a.tobytes() for _, a in arrays))


def _send(out: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


if __name__ == "__main__":
    _serve(sys.argv[1])
