"""What the benchmarks of the GPU have in common: a device that answers, the record of a run, and how it is put out."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import machine, record
from benchmarks.harness import BenchmarkError
from gpu_render import __version__
from kernels import BackendUnavailable, DeviceError
from kernels.cuda import CudaBackend

IMAGES = Path(__file__).parent.parent / "docs" / "images"


@dataclass(frozen=True, slots=True)
class Begun:
    """When a run began, and how busy the machine was."""

    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    start_s: float = field(default_factory=time.perf_counter)
    load: float = field(default_factory=lambda: os.getloadavg()[0])


@dataclass(frozen=True, slots=True)
class Gpu:
    """The opened device, and the time that took."""

    backend: CudaBackend
    startup_s: float


@contextlib.contextmanager
def gpu(device: int) -> Iterator[Gpu]:
    """A CUDA device until the block ends. Raises BenchmarkError, with the reason, where none answers or it fails."""
    start = time.perf_counter()
    try:
        with contextlib.closing(CudaBackend(device)) as backend:
            yield Gpu(backend, time.perf_counter() - start)
    except BackendUnavailable as reason:
        raise BenchmarkError(f"this benchmark needs a GPU, and none can be used here: {reason}") from reason
    except DeviceError as error:
        raise BenchmarkError(f"the GPU failed: {error}") from error


def run_of(
    benchmark: str,
    begun: Begun,
    opened: Gpu,
    notes: Sequence[str],
    *,
    kernels: Sequence[record.Kernel] = (),
    throughputs: Sequence[record.Throughput] = (),
) -> record.Run:
    """What is written down of a run."""
    return record.Run(
        benchmark=benchmark,
        date=begun.date,
        duration_s=time.perf_counter() - begun.start_s,
        version=__version__,
        revision=machine.revision(),
        backend=opened.backend.name,
        device=opened.backend.description,
        machine=machine.describe(),
        load_average=(begun.load, os.getloadavg()[0]),
        startup_s=opened.startup_s,
        ruler_ms=0.0,
        notes=tuple(notes),
        cases=(),
        kernels=tuple(kernels),
        throughputs=tuple(throughputs),
    )


def bar(console: Console) -> Progress:
    """A progress bar with an estimate of the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark of the GPU."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    options.add_argument("--quick", action="store_true", help="a short look; nothing is written unless asked")
    options.add_argument("--device", type=int, default=0, help="number of the CUDA device")
    options.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    options.add_argument("--plot", type=Path, help=f"PNG (default: docs/images/benchmark-{name}.png)")
    options.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return options


def command(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[Console], record.Run],
    table: Callable[[record.Run], Table],
    markdown: Callable[[record.Run], str],
    plot: Callable[[record.Run, Path], None],
) -> int:
    """Measure, print, and write what is wanted; returns the exit status."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=220)  # a log file has no 80 columns
    try:
        run = measure(console)
    except BenchmarkError as error:
        Console(file=sys.stderr).print(f"benchmark failed: {error}", markup=False, soft_wrap=True)
        return 1
    if options.markdown:
        console.print(markdown(run), markup=False, soft_wrap=True)
    else:
        console.print(table(run))
    for note in run.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    results = options.results or (None if options.quick else record.RESULTS)
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", markup=False, soft_wrap=True)
    image = options.plot or (None if options.quick else IMAGES / f"benchmark-{name}.png")
    if image is not None:
        plot(run, image)
        console.print(f"wrote {image}", markup=False, soft_wrap=True)
    return 0
