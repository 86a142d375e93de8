"""``python -m benchmarks.bandwidth``: windowing and unpacking on the CPU, beside copying as many bytes in its memory.

The batches of ``benchmarks.roofline``, in one thread: each round renders every batch, or unpacks it, and right after it
copies as many bytes, batches in another order each time. Frames lie one after the other in memory, many times the
second cache of a processor in all; what a machine's last cache gives to one process nobody can know who shares it. What
has to be read and written is counted from the records, as on the GPU. Frames that are shown unchanged are left out:
nothing is computed or copied.
"""

import argparse
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from benchmarks import gpu_report, record, running, traffic
from benchmarks.harness import BenchmarkError
from benchmarks.roofline import SLICES, Batch, Kind, Plan, Slice, frames_of, kinds
from gpu_render import phantom
from kernels import RenderJob, render
from kernels.cpu import CpuBackend
from kernels.packing import Packed, Packing, unpack

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-bandwidth.png"
FULL = Plan(frames=64, side=512, rounds=15)
QUICK = Plan(frames=16, side=512, rounds=3, warm_ups=1)
MOST_CACHE_BYTES = 8 << 20
NOTES = (
    "Kernel: one thread renders or unpacks the batch, frame after frame, into new arrays.",
    "Bytes: the samples that the output depends on, records and tables, each read once, and the output, written once.",
    "Copy: memory to memory in the same thread, right after each; half the bytes are read and as many written.",
)


def cache_bytes() -> int:
    """The second cache of a processor, as the kernel says; 2 MiB where it does not."""
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/"):
        if (path / "level").read_text().strip() == "2":
            found = re.fullmatch(r"(\d+)([KM])", (path / "size").read_text().strip())
            if found:
                return min(int(found[1]) << {"K": 10, "M": 20}[found[2]], MOST_CACHE_BYTES)
    return 2 << 20


class Copy:
    """Copies in memory that was written to before: a first touch would be timed otherwise."""

    def __init__(self) -> None:
        self._source = self._target = np.ones(0, np.uint8)

    def after(self, work: Callable[[], object], nbytes: int) -> tuple[float, float]:
        """(``work``, a copy that reads ``nbytes`` and writes as many) [ms]."""
        if self._source.size < nbytes:
            self._source, self._target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
        begun = time.perf_counter()
        work()
        worked = time.perf_counter()
        np.copyto(self._target[:nbytes], self._source[:nbytes])
        return (worked - begun) * 1000, (time.perf_counter() - worked) * 1000


def rendered(kind: Kind, copy: Copy, plan: Plan, slices: Sequence[Slice]) -> Batch | None:
    """A batch of one kind; None where its frames are shown unchanged. Raises BenchmarkError where the same frame does
    not come out the same everywhere in it."""
    folded = kind.folded(plan.side)
    count = frames_of(sum(traffic.of_frame(folded.params)), cache_bytes(), plan.frames)
    made = [kind.samples(stored) for stored in slices]
    jobs = [RenderJob(made[i % len(made)].copy(), folded.params, folded.table) for i in range(count)]
    backend = CpuBackend()
    (first,), last = render(backend, jobs[:1]), render(backend, jobs)[(count - 1) // len(made) * len(made)]
    if np.shares_memory(first, cast(Slice, jobs[0].pixels)):
        return None
    if first.tobytes() != last.tobytes():
        raise BenchmarkError(f"{kind.name}: the same frame came out differently")

    def work() -> None:
        for job in jobs:
            render(backend, [job])

    return Batch(kind.name, count, *traffic.of_batch(jobs), partial(copy.after, work))


def unpacked(name: str, packing: Packing, copy: Copy, plan: Plan, slices: Sequence[Slice]) -> Batch:
    """Frames of 16 bits, as RLE's byte planes or with the most significant byte first. Raises BenchmarkError unless
    they come out as the slices."""
    count = frames_of(4 * plan.side**2, cache_bytes(), plan.frames)
    frames = [_packed(slices[i % len(slices)], packing) for i in range(count)]
    if any(unpack(frame).tobytes() != slices[i].tobytes() for i, frame in enumerate(frames[: len(slices)])):
        raise BenchmarkError(f"{name}: the samples are not those that were packed")

    def work() -> None:
        for frame in frames:
            unpack(frame)

    return Batch(name, count, *traffic.of_packed(frames), partial(copy.after, work))


def _packed(stored: Slice, packing: Packing) -> Packed:
    big_endian = stored.astype(">i2").reshape(-1, 1).view(np.uint8)
    data = big_endian.T if packing is Packing.BYTE_PLANES else big_endian
    return Packed(np.ascontiguousarray(data).reshape(-1), packing, stored.shape, np.dtype("<i2"))


def makers_of(plan: Plan, slices: Sequence[Slice]) -> Iterator[Callable[[], Batch | None]]:
    """What makes each batch."""
    copy = Copy()
    for kind in kinds(plan.side):
        yield partial(rendered, kind, copy, plan, slices)
    for name, packing in (
        ("unpack: RLE's byte planes to int16", Packing.BYTE_PLANES),
        ("unpack: big endian to int16", Packing.BIG_ENDIAN),
    ):
        yield partial(unpacked, name, packing, copy, plan, slices)


def measure(plan: Plan, console: Console) -> record.Run:
    """All batches, taking turns."""
    started, order = running.Started(), random.Random(plan.rounds)
    middle = slice((phantom.ROWS - plan.side) // 2, (phantom.ROWS + plan.side) // 2)
    slices = [np.ascontiguousarray(phantom.stored_slice(index)[middle, middle]) for index in SLICES]
    with running.progress(console) as bar:
        makers = list(makers_of(plan, slices))
        task = bar.add_task("preparing", total=len(makers))
        batches = []
        for make in makers:
            if (batch := make()) is not None:
                batches.append(batch)
            bar.advance(task)
        task = bar.add_task("measuring", total=(plan.warm_ups + plan.rounds) * len(batches))
        for number in range(plan.warm_ups + plan.rounds):
            for batch in order.sample(batches, len(batches)):
                kernel_ms, copy_ms = batch.measure()
                if number >= plan.warm_ups:
                    batch.kernel_ms.append(kernel_ms)
                    batch.copy_ms.append(copy_ms)
                bar.advance(task)
    kernels = tuple(batch.result(cache_bytes()) for batch in batches)
    return started.record("bandwidth", NOTES, device=CpuBackend().description, kernels=kernels)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bandwidth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-bandwidth.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console(220)
    chosen = plan or (QUICK if options.quick else FULL)
    reports = gpu_report.kernel_table, gpu_report.kernel_markdown, gpu_report.kernel_plot
    return running.command(options, console, lambda: measure(chosen, console), *reports, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
