"""``python -m benchmarks.roofline``: the render kernel alone, beside a copy of as many bytes on the GPU.

Batches of 300 frames of 512x512 lie on the device, several times its L2 cache in all. Each round renders every batch,
timed by CUDA events around the kernel, and right after it a copy from the device to itself; batches in another order
each time. What the kernel has to read and write is counted from the records; the copy reads and writes as much.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks import gpu_report, gpu_run, record
from benchmarks.gpu_run import Begun, Gpu
from benchmarks.harness import BenchmarkError
from gpu_render import phantom
from gpu_render.frame import LookupTable, PixelLayout, Presentation, Rescale, Window
from gpu_render.transform import Folded, fold
from gpu_render.view import Stage, View
from kernels import RenderJob, render
from kernels.check import read_source
from kernels.cpu import CpuBackend
from kernels.cuda import CudaBackend

Array = npt.NDArray[np.generic]

TIMES_CACHE = 4
PROMISED, PROMISED_OF_COLOUR = 90.0, 81.0
SLICES = range(60, 300, 30)  # of the phantom; batches repeat them
WINDOW = Window(40.0, 400.0)
NOTES = (
    "Kernel: time between two CUDA events around it; frames, records and tables are on the device.",
    "Bytes: the samples that the output depends on, each read once, and the output, written once; records and tables, "
    "which are small, are not counted.",
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
    """Frames of one kind and how they are shown. ``samples`` makes one from a slice of the phantom, int16 (n, n)."""

    name: str
    photometric: str
    dtype: str
    view: View
    presentation: Presentation
    samples: Callable[[npt.NDArray[np.int16]], Array]
    target_percent: float | None = None

    def folded(self, side: int) -> Folded:
        """Record and table."""
        bits, signed = np.dtype(self.dtype).itemsize * 8, int(np.dtype(self.dtype).kind == "i")
        count = 3 if self.photometric in ("RGB", "YBR_FULL") else 1
        layout = PixelLayout(side, side, count, bits, bits, bits - 1, signed, self.photometric)
        return fold(self.presentation, self.view, layout)


def _stored(stored: npt.NDArray[np.int16]) -> Array:
    return np.ascontiguousarray(stored)


def _bytes(stored: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    grey: npt.NDArray[np.uint8] = np.clip((stored.astype(np.float32) - 864) * (255 / 400), 0, 255).astype(np.uint8)
    return grey


def _colour(stored: npt.NDArray[np.int16]) -> Array:
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
    window, byte_window, larger = View(window=WINDOW), View(window=Window(128, 256)), (side * 3 // 2, side * 3 // 2)
    return [
        Kind("int16 to uint8, window", "MONOCHROME2", "<i2", window, ct, _stored, PROMISED),
        Kind("int16 to uint8, VOI LUT", "MONOCHROME2", "<i2", View(), lut, _stored, PROMISED_OF_COLOUR),
        Kind("uint8 to uint8, window", "MONOCHROME2", "u1", byte_window, plain, _bytes),
        Kind("RGB", "RGB", "u1", View(), plain, _colour, PROMISED_OF_COLOUR),
        Kind("YBR_FULL to RGB", "YBR_FULL", "u1", View(), plain, _colour, PROMISED_OF_COLOUR),
        Kind("palette to RGB", "PALETTE COLOR", "u1", View(), palette, _bytes, PROMISED_OF_COLOUR),
        Kind(
            "int16 to uint8, viewport 1.5 times",
            "MONOCHROME2",
            "<i2",
            View(window=WINDOW, viewport=larger),
            ct,
            _stored,
        ),
        Kind("int16 to float32, modality", "MONOCHROME2", "<i2", View(stage=Stage.MODALITY), half, _stored),
    ]


def traffic(params: np.void) -> tuple[int, int]:
    """(bytes that have to be read, bytes that are written) for one FRAME_PARAMS record, each byte once.

    Of a scaled region only the rows and columns between which something is interpolated. Records and tables are left
    out. Raises ValueError for a record that contradicts itself.
    """
    r = read_source(params)
    rows, columns = _looked_at(r.region_height, r.height), _looked_at(r.region_width, r.width)
    return rows * columns * r.samples * r.sample_dtype.itemsize, r.output_bytes


def _looked_at(length: int, size: int) -> int:
    """How many of ``length`` places ``size`` outputs look at; as many where nothing is scaled."""
    if length == size:
        return length
    low = np.floor((np.arange(size) + 0.5) * length / size - 0.5)
    return len(np.unique(np.clip(np.concatenate((low, low + 1)), 0, length - 1)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames on the device and what becomes of them, with the times [ms] so far."""

    kind: Kind
    jobs: Sequence[RenderJob]
    bytes_read: int
    bytes_written: int
    kernel_ms: list[float] = field(default_factory=list)
    copy_ms: list[float] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    def result(self, cache_bytes: int) -> record.Kernel:
        """What is written down."""
        return record.Kernel(
            name=self.kind.name,
            frames=len(self.jobs),
            bytes_read=self.bytes_read,
            bytes_written=self.bytes_written,
            cache_bytes=cache_bytes,
            kernel=record.summarize(self.kernel_ms),
            copied=record.summarize(self.copy_ms),
            target_percent=self.kind.target_percent,
        )


def frames_of(read_and_written: int, cache_bytes: int, least: int) -> int:
    """How many frames of as many bytes each are beyond the cache, and not fewer than ``least``."""
    return max(least, math.ceil(TIMES_CACHE * cache_bytes / read_and_written))


def prepare(backend: CudaBackend, kind: Kind, plan: Plan, slices: Sequence[npt.NDArray[np.int16]]) -> Batch:
    """Put a batch on the device. Raises BenchmarkError unless its first and last pictures are the CPU's: a wrong
    picture is not worth timing."""
    folded = kind.folded(plan.side)
    read, written = traffic(folded.params)
    count = frames_of(read + written, backend.cache_bytes, plan.frames)
    made = [kind.samples(stored) for stored in slices]
    samples = [made[index % len(made)] for index in range(count)]
    jobs = [RenderJob(handle, folded.params, folded.table) for handle in backend.put(samples)]
    pictures = render(backend, jobs)
    for index in (0, count - 1):
        (expected,) = render(CpuBackend(), [RenderJob(samples[index], folded.params, folded.table)])
        if expected.tobytes() != pictures[index].tobytes():
            raise BenchmarkError(f"{kind.name}: the device's picture is not the CPU's")
    return Batch(kind, jobs, count * read, count * written)


def measure(opened: Gpu, plan: Plan, console: Console) -> list[record.Kernel]:
    """All kinds, taking turns."""
    backend, order = opened.backend, random.Random(plan.rounds)
    middle = slice((phantom.ROWS - plan.side) // 2, (phantom.ROWS + plan.side) // 2)
    with gpu_run.bar(console) as bar:
        task = bar.add_task("preparing", total=len(SLICES) + len(kinds(plan.side)))
        slices = []
        for index in SLICES:
            slices.append(phantom.stored_slice(index)[middle, middle])
            bar.advance(task)
        batches = []
        for kind in kinds(plan.side):
            batches.append(prepare(backend, kind, plan, slices))
            bar.advance(task)
        task = bar.add_task("measuring", total=(plan.warm_ups + plan.rounds) * len(batches))
        for number in range(plan.warm_ups + plan.rounds):
            for batch in order.sample(batches, len(batches)):
                kernel_ms, copy_ms = backend.kernel_and_copy_ms(batch.jobs, batch.nbytes // 2)
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
