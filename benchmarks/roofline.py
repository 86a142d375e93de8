"""``python -m benchmarks.roofline``: each kernel alone, beside a copy of as many bytes on the GPU.

Batches of 300 frames of 512x512 lie on the device, several times its L2 cache in all. Each round renders every batch,
or unpacks it, or takes it over from where a codec would have left it, timed by CUDA events around the kernel, and right
after it a copy from the device to itself; batches in another order each time. What the kernel has to read and write is
counted from the records; the copy reads and writes as much.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks import gpu_report, gpu_run, record, traffic
from benchmarks.gpu_run import Begun, Gpu
from benchmarks.harness import BenchmarkError
from gpu_render import phantom
from gpu_render.frame import LookupTable, PixelLayout, Presentation, Rescale, Window
from gpu_render.transform import Folded, fold
from gpu_render.view import Region, Stage, View
from kernels import Codestream, RenderJob, render
from kernels.cpu import CpuBackend
from kernels.cuda import CudaBackend
from kernels.packing import Packed, Packing, unpack

Array = npt.NDArray[np.generic]
Slice = npt.NDArray[np.int16]

TIMES_CACHE = 4
PROMISED, PROMISED_OF_COLOUR = 90.0, 81.0
SLICES = range(60, 300, 30)  # of the phantom; batches repeat them
WINDOW = Window(40.0, 400.0)
NOTES = (
    "Kernel: time between two CUDA events around it; frames, records and tables are on the device.",
    "Bytes: the samples that the output depends on, records and tables, each read once, and the output, written once.",
    "Copy: device to device in the same run, right after each kernel; half the bytes are read and as many written.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``frames`` a batch at least, square, ``side`` [px]; ``rounds`` count, after ``warm_ups`` that do not."""

    frames: int
    side: int
    rounds: int
    warm_ups: int = 3


FULL = Plan(frames=300, side=512, rounds=30)
QUICK = Plan(frames=300, side=512, rounds=5)


@dataclass(frozen=True, slots=True)
class Kind:
    """Frames of one kind and how they are shown. ``samples`` makes one from a slice of the phantom, int16 (n, n).
    ``bits`` [bit] stored, 0: all of the container."""

    name: str
    photometric: str
    dtype: str
    view: View
    presentation: Presentation
    samples: Callable[[Slice], Array]
    target_percent: float | None = None
    bits: int = 0

    def folded(self, side: int) -> Folded:
        """Record and table."""
        container, signed = np.dtype(self.dtype).itemsize * 8, int(np.dtype(self.dtype).kind == "i")
        bits, count = self.bits or container, 3 if self.photometric in ("RGB", "YBR_FULL") else 1
        layout = PixelLayout(side, side, count, container, bits, bits - 1, signed, self.photometric)
        return fold(self.presentation, self.view, layout)


def _stored(stored: Slice) -> Array:
    return np.ascontiguousarray(stored)


def _signed_12(stored: Slice) -> Slice:
    """HU from -1024 on, in 12 bits."""
    hounsfield: Slice = np.clip(stored + np.int16(phantom.RESCALE_INTERCEPT), -2048, 2047).astype("<i2")
    return hounsfield


def _below_an_overlay(stored: Slice) -> Slice:
    """The same, with other bits above the High Bit, as where an overlay lies in them."""
    return (_signed_12(stored) & 0x0FFF) | np.int16(0x5000)


def _bytes(stored: Slice) -> npt.NDArray[np.uint8]:
    grey: npt.NDArray[np.uint8] = np.clip((stored.astype(np.float32) - 864) * (255 / 400), 0, 255).astype(np.uint8)
    return grey


def _colour(stored: Slice) -> Array:
    grey = _bytes(stored)
    return np.stack([grey, 255 - grey, grey // 2 + 64], axis=-1)


def kinds(side: int) -> list[Kind]:
    """What is measured of frames of this side."""
    ct = Presentation(modality=Rescale(1.0, -1024.0))
    entries = np.linspace(0, 65535, 4096).astype(np.uint16)
    lut = Presentation(voi=(LookupTable(0, entries, 16),))
    colours = np.stack([np.roll(np.arange(256, dtype=np.uint16) * 257, shift) for shift in (0, 85, 170)], axis=-1)
    palette = Presentation(palette=LookupTable(0, colours, 16))
    half, plain = Presentation(modality=Rescale(0.5, -1024.5)), Presentation()
    inverse = replace(ct, inverse=True, pixel_padding=(phantom.PADDING, phantom.PADDING))
    window, byte_window, larger = View(window=WINDOW), View(window=Window(128, 256)), (side * 3 // 2, side * 3 // 2)
    middle = Region(side // 8, side // 8, side * 3 // 4, side * 3 // 4)
    return [
        Kind("int16 to uint8, window", "MONOCHROME2", "<i2", window, ct, _stored, PROMISED),
        Kind("int16 to uint8, MONOCHROME1, padding", "MONOCHROME1", "<i2", window, inverse, _stored, PROMISED),
        Kind("12 of 16 bits to uint8, window", "MONOCHROME2", "<i2", window, plain, _below_an_overlay, PROMISED, 12),
        Kind("int16 to uint8, VOI LUT", "MONOCHROME2", "<i2", View(), lut, _stored, PROMISED_OF_COLOUR),
        Kind("uint8 to uint8, window", "MONOCHROME2", "u1", byte_window, plain, _bytes),
        Kind("RGB", "RGB", "u1", View(), plain, _colour, PROMISED_OF_COLOUR),
        Kind("YBR_FULL to RGB", "YBR_FULL", "u1", View(), plain, _colour, PROMISED_OF_COLOUR),
        Kind("palette to RGB", "PALETTE COLOR", "u1", View(), palette, _bytes, PROMISED_OF_COLOUR),
        Kind("int16 to uint8, region", "MONOCHROME2", "<i2", replace(window, region=middle), ct, _stored),
        Kind("int16 to uint8, viewport 1.5 times", "MONOCHROME2", "<i2", replace(window, viewport=larger), ct, _stored),
        Kind("int16 to float32, modality", "MONOCHROME2", "<i2", View(stage=Stage.MODALITY), half, _stored),
    ]


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames and what a kernel does with them, with the times [ms] so far. ``time``: of the kernel and of a copy of so
    many bytes."""

    name: str
    frames: int
    bytes_read: int
    bytes_written: int
    time: Callable[[int], tuple[float, float]]
    target_percent: float | None = None
    kernel_ms: list[float] = field(default_factory=list)
    copy_ms: list[float] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    def measure(self) -> tuple[float, float]:
        """Once: (kernel, copy) [ms]. The copy reads half as many bytes and writes as many."""
        return self.time(self.nbytes // 2)

    def result(self, cache_bytes: int) -> record.Kernel:
        """What is written down."""
        return record.Kernel(
            name=self.name,
            frames=self.frames,
            bytes_read=self.bytes_read,
            bytes_written=self.bytes_written,
            cache_bytes=cache_bytes,
            kernel=record.summarize(self.kernel_ms),
            copied=record.summarize(self.copy_ms),
            target_percent=self.target_percent,
        )


Maker = Callable[[Plan, Sequence[Slice]], Batch]


def frames_of(read_and_written: int, cache_bytes: int, least: int) -> int:
    """How many frames of as many bytes each are beyond the cache, and not fewer than ``least``."""
    return max(least, math.ceil(TIMES_CACHE * cache_bytes / read_and_written))


def rendered(backend: CudaBackend, kind: Kind, plan: Plan, slices: Sequence[Slice]) -> Batch:
    """Put a batch on the device. Raises BenchmarkError unless its first and last pictures are the CPU's: a wrong
    picture is not worth timing."""
    folded = kind.folded(plan.side)
    count = frames_of(sum(traffic.of_frame(folded.params)), backend.cache_bytes, plan.frames)
    made = [kind.samples(stored) for stored in slices]
    samples = [made[index % len(made)] for index in range(count)]
    jobs = [RenderJob(handle, folded.params, folded.table) for handle in backend.put(samples)]
    pictures = render(backend, jobs)
    for index in (0, count - 1):
        (expected,) = render(CpuBackend(), [RenderJob(samples[index], folded.params, folded.table)])
        if expected.tobytes() != pictures[index].tobytes():
            raise BenchmarkError(f"{kind.name}: the device's picture is not the CPU's")
    time = partial(backend.kernel_and_copy_ms, jobs)
    return Batch(kind.name, count, *traffic.of_batch(jobs), time, kind.target_percent)


def unpacked(backend: CudaBackend, plan: Plan, slices: Sequence[Slice]) -> Batch:
    """What RLE leaves of 16-bit frames, which goes up before each time it is unpacked. Raises BenchmarkError unless
    the first and the last come out as NumPy has them."""
    name, made = "unpack: RLE's byte planes to int16", [_planes(stored) for stored in slices]
    count = frames_of(2 * made[0].nbytes, backend.cache_bytes, plan.frames)
    frames = [made[index % len(made)] for index in range(count)]
    layout = PixelLayout(plan.side, plan.side, 1, 16, 16, 15, 1, "MONOCHROME2")
    params = fold(Presentation(), View(stage=Stage.STORED), layout).params
    ends = [frames[0], frames[-1]]
    found = render(backend, [RenderJob(handle, params) for handle in backend.put(ends)])
    if any(unpack(frame).tobytes() != samples.tobytes() for frame, samples in zip(ends, found, strict=True)):
        raise BenchmarkError(f"{name}: the device's samples are not the CPU's")
    return Batch(name, count, *traffic.of_packed(frames), partial(backend.unpack_and_copy_ms, frames))


def _planes(stored: Slice) -> Packed:
    planes = np.ascontiguousarray(stored.reshape(-1, 1).view(np.uint8)[:, ::-1].T)
    return Packed(planes.reshape(-1), Packing.BYTE_PLANES, stored.shape, np.dtype("<i2"))


def adopted(backend: CudaBackend, plan: Plan, slices: Sequence[Slice]) -> Batch:
    """Frames of 12 bits in the place of what a codec left of them, as ``decode.device`` has JPEG 2000 decoded."""
    shape, dtype = (plan.side, plan.side), np.dtype("<i2")
    declared = Codestream(
        data=b"", codec="jpeg2000", shape=shape, dtype=dtype, precision=14, signed=True, offset=0, low=-2048, high=2047
    )
    count = frames_of(sum(traffic.of_adopted([declared])), backend.cache_bytes, plan.frames)
    made = [_signed_12(stored) for stored in slices]
    left = backend.put([made[index % len(made)] for index in range(count)])
    time = partial(backend.adopt_and_copy_ms, declared, left)
    return Batch("take over what a codec left, int16", count, *traffic.of_adopted([declared] * count), time)


def measure(opened: Gpu, plan: Plan, console: Console) -> list[record.Kernel]:
    """All kinds, taking turns."""
    backend, order = opened.backend, random.Random(plan.rounds)
    middle = slice((phantom.ROWS - plan.side) // 2, (phantom.ROWS + plan.side) // 2)
    with gpu_run.bar(console) as bar:
        makers: list[Maker] = [partial(rendered, backend, kind) for kind in kinds(plan.side)]
        makers += [partial(unpacked, backend), partial(adopted, backend)]
        task = bar.add_task("preparing", total=len(SLICES) + len(makers))
        slices = []
        for index in SLICES:
            slices.append(np.ascontiguousarray(phantom.stored_slice(index)[middle, middle]))
            bar.advance(task)
        batches = []
        for make in makers:
            batches.append(make(plan, slices))
            bar.advance(task)
        task = bar.add_task("measuring", total=(plan.warm_ups + plan.rounds) * len(batches))
        for number in range(plan.warm_ups + plan.rounds):
            for batch in order.sample(batches, len(batches)):
                kernel_ms, copy_ms = batch.measure()
                if number >= plan.warm_ups:
                    batch.kernel_ms.append(kernel_ms)
                    batch.copy_ms.append(copy_ms)
                bar.advance(task)
    return [batch.result(backend.cache_bytes) for batch in batches]


def run(options: argparse.Namespace, plan: Plan, console: Console) -> record.Run:
    """Open the device, measure, close it. Raises BenchmarkError."""
    begun = Begun()
    with gpu_run.gpu(options.device) as opened:
        kernels = measure(opened, plan, console)
        return gpu_run.run_of("roofline", begun, opened, NOTES, kernels=kernels)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    options = gpu_run.parser("roofline", __doc__).parse_args(arguments)
    chosen = plan or (QUICK if options.quick else FULL)
    report = gpu_report.kernel_table, gpu_report.kernel_markdown, gpu_report.kernel_plot
    return gpu_run.command("roofline", options, partial(run, options, chosen), *report)


if __name__ == "__main__":
    raise SystemExit(main())
