"""``python -m benchmarks.decode``: what a frame costs to decode, by the codec alone and by the service's processes.

A CT slice, a radiograph, a mammogram and a frame of colour cine in every compressed transfer syntax that is measured
over HTTP. Alone: the fastest library that this service may use, called as its documentation says, without any check.
The service: ``gpu_render.decode`` with worker processes, with all that stands between a file and its samples. One frame
at a time, and as many at once as there are cores; all take turns in each round.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks import data, drawing, grids, record, running, sizes_data
from benchmarks.comparing import compare
from benchmarks.harness import BenchmarkError
from gpu_render import phantom
from gpu_render.decode import DECODERS, decode
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation
from gpu_render.memory import keep_freed_memory
from gpu_render.reference import FrameRef
from gpu_render.workers import WorkerPool

Samples = npt.NDArray[Any]

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-decode.png"
PROMISED = 0.85
ALONE, SERVICE = "codec alone", "gpu-render"
ONE, ALL = "one frame", "all cores"
BATCH_S = 0.15
NOTES = (
    "One frame: median time from a codestream in memory to its samples, nothing else being decoded; JPEG 2000 uses as "
    "many threads as there are cores, alone and in the service.",
    "All cores: frames a second with as many decoded at once as there are cores.",
    "Codec alone: the fastest library that may be used, in threads of one process, without checks.",
    "gpu-render: worker processes that may be killed, checks, and samples copied to the service.",
)

#: By gpu_render.decode's name of a codec: (codestream, threads, dtype) -> samples.
CODECS: Mapping[str, Callable[[bytes, int, str], object]] = {
    "jpeg2000": lambda code, threads, _: imagecodecs.jpeg2k_decode(code, numthreads=threads),
    "htj2k": lambda code, _, __: imagecodecs.htj2k_decode(code),
    "jpeg-ls": lambda code, _, __: imagecodecs.jpegls_decode(code),
    "jpeg-lossless": lambda code, _, __: imagecodecs.jpeg8_decode(code),
    "jpeg": lambda code, _, __: imagecodecs.jpeg8_decode(code),
    "rle": lambda code, _, dtype: imagecodecs.dicomrle_decode(code, dtype),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """``kinds``: of ``sizes_data``, beside the CT slice; ``side``: the most of them that is taken [px], None: all."""

    rounds: int
    kinds: int
    side: int | None = None


FULL, QUICK = Plan(rounds=7, kinds=3), Plan(rounds=2, kinds=0)


@dataclass(frozen=True, slots=True)
class Stored:
    """Frames of one kind in one transfer syntax, and what they are decoded to (none: not known to the last bit)."""

    kind: str
    syntax: str
    frames: Sequence[EncodedFrame]
    samples: Sequence[Samples] | None

    @property
    def codec(self) -> str:
        return DECODERS[self.frames[0].transfer_syntax_uid].codec


@dataclass(slots=True)
class Work:
    """One way to decode one kind: a frame's time [ms], or frames a second of a batch, of each round."""

    stored: Stored
    who: str
    at_once: str
    decode: Callable[[EncodedFrame], object]
    batch: int = 1
    values: list[float] = field(default_factory=list)

    def prepare(self, threads: ThreadPoolExecutor, cores: int) -> None:
        """Warm up, and see how many frames make a batch."""
        self._batch(threads, cores)
        begun = time.perf_counter()
        self._batch(threads, cores)
        self.batch = max(1, round(BATCH_S / (time.perf_counter() - begun)))

    def measure(self, threads: ThreadPoolExecutor, cores: int) -> None:
        """One round."""
        if self.at_once == ALL:
            begun = time.perf_counter()
            frames = self._batch(threads, cores)
            self.values.append(frames / (time.perf_counter() - begun))
            return
        for frame in self._frames(self.batch):
            begun = time.perf_counter()
            self.decode(frame)
            self.values.append((time.perf_counter() - begun) * 1000)

    def _batch(self, threads: ThreadPoolExecutor, cores: int) -> int:
        """``batch`` frames; of ``ALL``, so many for each core, at once. Returns how many."""
        if self.at_once == ONE:
            return sum(self.decode(frame) is not None for frame in self._frames(self.batch))
        return sum(answer is not None for answer in threads.map(self.decode, self._frames(self.batch * cores)))

    def _frames(self, count: int) -> Iterator[EncodedFrame]:
        return (self.stored.frames[number % len(self.stored.frames)] for number in range(count))

    def result(self) -> record.Measurement:
        rate = self.at_once == ALL
        return record.Measurement(
            name=self.at_once,
            unit="frames/s" if rate else "ms",
            group=f"{self.stored.kind}, {self.stored.syntax}",
            who=self.who,
            parameters={"codec": self.stored.codec, "bytes": len(self.stored.frames[0].data)},
            summary=record.spread(self.values),
            better="higher" if rate else "lower",
        )


# --- what is decoded ----------------------------------------------------------------------------------------


def ct_slices() -> Iterator[Stored]:
    """The phantom's, as the demo stores them."""
    slices = [phantom.stored_slice(index) for index in (100, 200)]
    layout = PixelLayout(phantom.ROWS, phantom.COLUMNS, 1, 16, 16, 15, 1, "MONOCHROME2")
    for series in data.SERIES:
        codes = [series.encode(one) for one in slices] if series.encode is not None else []
        if codes:
            frames = [_frame(series.transfer_syntax_uid, layout, code) for code in codes]
            yield Stored("CT 512x512", data.NAMES[series.number], frames, slices)


def pictures(kind: sizes_data.Kind, side: int | None) -> Iterator[Stored]:
    """Those of ``sizes_data``."""
    samples = [np.ascontiguousarray(sizes_data.samples_of(kind, number)[:side, :side]) for number in range(2)]
    grey = kind.window is not None
    rows, columns = samples[0].shape[:2]
    allocated, stored = (16, 12) if grey else (8, 8)
    for syntax in kind.syntaxes:
        if syntax.encode is None:
            continue
        photometric = "MONOCHROME2" if grey else syntax.photometric
        layout = PixelLayout(rows, columns, 1 if grey else 3, allocated, stored, stored - 1, 0, photometric)
        frames = [_frame(syntax.uid, layout, syntax.encode(one)) for one in samples]
        yield Stored(kind.label, syntax.name, frames, None if syntax.lossy else samples)


def _frame(uid: str, layout: PixelLayout, code: bytes) -> EncodedFrame:
    return EncodedFrame(FrameRef("1", "2", "3", 1), uid, layout, Presentation(), code)


def works_of(stored: Stored, pool: WorkerPool, cores: int) -> list[Work]:
    """Four: alone and by the service, one at a time and on all cores.

    Raises BenchmarkError unless the service decodes what was encoded."""
    for number, frame in enumerate(stored.frames):
        samples = decode(frame, pool, cores=cores).samples
        if stored.samples is None:
            continue
        if not isinstance(samples, np.ndarray) or not np.array_equal(samples, stored.samples[number]):
            raise BenchmarkError(f"{stored.kind}, {stored.syntax}: the samples are not those that were encoded")
    codec, dtype = CODECS[stored.codec], stored.frames[0].layout.dtype.str

    def alone(threads: int) -> Callable[[EncodedFrame], object]:
        return lambda frame: codec(bytes(frame.data), threads, dtype)

    def served(frame: EncodedFrame) -> object:
        return decode(frame, pool, cores=cores).samples

    return [
        Work(stored, ALONE, ONE, alone(cores)),
        Work(stored, SERVICE, ONE, served),
        Work(stored, ALONE, ALL, alone(1)),
        Work(stored, SERVICE, ALL, served),
    ]


# --- the run ------------------------------------------------------------------------------------------------


def measure(plan: Plan, console: Console) -> record.Run:
    """One kind after the other; of each, all take turns."""
    started, cores, works = running.Started(), len(os.sched_getaffinity(0)), list[Work]()
    order = random.Random(plan.rounds)
    kinds: list[Callable[[], Iterator[Stored]]] = [ct_slices]
    kinds += [partial(pictures, kind, plan.side) for kind in sizes_data.KINDS[: plan.kinds]]
    with WorkerPool(cores) as pool, ThreadPoolExecutor(cores) as threads, running.progress(console) as bar:
        pool.warm(count=cores)
        task = bar.add_task("decoding", total=len(kinds) * (plan.rounds + 1))
        for make in kinds:
            mine = [work for stored in make() for work in works_of(stored, pool, cores)]
            for work in mine:
                work.prepare(threads, cores)
            bar.advance(task)
            for _ in range(plan.rounds):
                for work in order.sample(mine, len(mine)):
                    work.measure(threads, cores)
                bar.advance(task)
            works += mine
    measurements = tuple(work.result() for work in works)
    return started.record("decode", NOTES, measurements=measurements, ratios=tuple(ratios_of(works)))


def ratios_of(works: Sequence[Work]) -> Iterator[record.Ratio]:
    """The service beside the codec alone: above 1 the service is faster."""
    for first in range(0, len(works), 4):
        alone, served, alone_all, served_all = works[first : first + 4]
        group = f"{alone.stored.kind}, {alone.stored.syntax}"
        for name, above, below in ((ONE, alone, served), (ALL, served_all, alone_all)):
            values = (SERVICE, above.values), (ALONE, below.values)
            yield compare(f"{group}, {name}", *values, group=group, target=PROMISED)


# --- what is shown ------------------------------------------------------------------------------------------

COLUMNS = ("picture", "alone ms", "service ms", "of it", "alone frames/s", "service frames/s", "of it", "kB")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS; medians."""
    found = []
    for group in dict.fromkeys(one.group for one in run.measurements):
        mine = {(one.who, one.name): one for one in run.measurements if one.group == group}
        ratio = {one.name.rpartition(", ")[2]: one.ratio for one in run.ratios if one.group == group}
        ms, rate = ([mine[who, name].summary.median for who in (ALONE, SERVICE)] for name in (ONE, ALL))
        size = float(mine[ALONE, ONE].parameters["bytes"]) / 1000
        found.append(
            (
                group,
                *(f"{value:.2f}" for value in (*ms, ratio[ONE])),
                *(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in rate),
                f"{ratio[ALL]:.2f}",
                f"{size:,.0f}",
            )
        )
    return found


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("decoding, beside the codec alone", COLUMNS, rows(run))


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    return grids.markdown(COLUMNS, rows(run)) + "\n"


def plot(run: record.Run, path: Path) -> None:
    """The service's rate in parts of the codec's alone."""
    found = [one for one in run.ratios if one.name.endswith(ALL)]
    made = drawing.figure(8, 1.2 + 0.28 * len(found))
    axes = made.add_subplot()
    places = range(len(found), 0, -1)
    axes.barh(places, [one.ratio for one in found], color="#2563eb", height=0.6)
    axes.set_yticks(places, [one.group for one in found], fontsize=8)
    axes.axvline(PROMISED, color="black", linewidth=1)
    axes.set_xlabel("frames a second on all cores, in parts of the codec's alone (black line: promised)")
    axes.grid(axis="x", linewidth=0.4)
    drawing.save(made, path)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="CT slices only; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-decode.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console(160)
    chosen = plan or (QUICK if options.quick else FULL)
    keep_freed_memory()  # as the service does
    return running.command(options, console, lambda: measure(chosen, console), table, markdown, plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
