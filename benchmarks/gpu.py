"""``python -m benchmarks.gpu``: series of 300 slices through this service on a GPU, beside other ways to the pictures.

The same voxels in eight transfer syntaxes. Each series goes through this service on the GPU and on the CPU, and through
pydicom with NVIDIA's plug-in; beside them stand the kernel alone, the first frame of a series, a window drag over one
frame, and eight series at once. All take turns in every round, in another order each time. No HTTP. Needs a GPU.
"""

import argparse
import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import gpu_data, gpu_report, gpu_run, record
from benchmarks.gpu_data import Series
from benchmarks.gpu_paths import (
    CPU,
    GPU,
    KERNEL,
    PYDICOM,
    KernelAlone,
    Pydicom,
    Service,
    Tally,
    Wanted,
    no_pydicom,
    pydicom_with_plugin,
    shared_out,
)
from benchmarks.gpu_run import Begun, Gpu
from benchmarks.harness import BenchmarkError
from gpu_render import phantom
from gpu_render.archive.folder import FolderArchive
from gpu_render.decode.device import check
from gpu_render.decode.proof import ProofTable, load_file
from gpu_render.errors import StartupError
from gpu_render.frame import Window
from gpu_render.settings import Settings, default_cache_dir
from gpu_render.view import View
from gpu_render.workers import WorkerPool
from kernels.cpu import CpuBackend

ALL = "all eight"
NOTES = (
    "GPU, CPU: this service's renderer over either, without HTTP. Files are in the page cache of the operating system; "
    "pictures end in host memory.",
    "Series: all slices once, several waited for at a time. Cold: from the files, nothing in any cache; warm: the same "
    "again, without a byte uploaded but records.",
    "First frame: one slice, when the service is idle. Cold: from its file; warm: the same once more. Window drag: one "
    "frame on the device, another window each time, one after the other. Eight series: eight clients, each of which "
    "asks one by one.",
    "pydicom: file by file, decoded by NVIDIA's plug-in where it can and windowed by NumPy in float32; it keeps "
    "nothing, so there is no warm pass.",
    "Kernel alone: a whole series on the device in one launch, by CUDA events: neither files nor bus.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``slices`` a series, ``clients`` that share one; ``first`` frames and a drag of ``windows`` a round. After
    ``limit_s`` [s] no further round begins."""

    slices: int
    rounds: int
    clients: int
    first: int
    windows: int
    limit_s: float


FULL = Plan(slices=300, rounds=5, clients=64, first=6, windows=200, limit_s=900)
QUICK = Plan(slices=48, rounds=2, clients=32, first=3, windows=200, limit_s=120)

Job = Callable[[int], Awaitable[None]]
"""One measurement, given the number of the round."""


def wanted_of(series: Series) -> Wanted:
    """Every slice with the series' window."""
    view = View(window=series.window)
    return [(ref, view) for ref in series.refs]


def drag_of(series: Series, windows: int) -> Wanted:
    """The middle slice with so many windows."""
    ref, center, width = series.refs[len(series.refs) // 2], series.window.center, series.window.width
    return [(ref, View(window=Window(center + step * 0.25, width + step * 0.5))) for step in range(windows)]


class Bench:
    """What is measured: a tally for each row of the result, and the jobs of a round that fill them."""

    def __init__(
        self,
        plan: Plan,
        series: Sequence[Series],
        services: Sequence[Service],
        library: Pydicom | None,
        kernels: Mapping[str, KernelAlone],
    ) -> None:
        self._plan, self._services = plan, services
        self.tallies: list[Tally] = []
        self.jobs: list[Job] = []
        for one in series:
            self._add_series(one)
            if library is not None and one.name not in library.refused:
                own = self._tally(one.name, "series", PYDICOM, "cold", len(one.refs), 1)
                self.jobs.append(partial(_at_once, partial(library.one_pass, one, own)))
            if one.name in kernels:
                own = self._tally(one.name, "series", KERNEL, "warm", len(one.refs), len(one.refs))
                self.jobs.append(partial(_at_once, partial(kernels[one.name].one_pass, own)))
            self._add_first_frames(one)
        self._add_window_drag(series[0])
        self._add_all(series)

    def _tally(self, *row: Any) -> Tally:
        self.tallies.append(Tally(*row))
        return self.tallies[-1]

    def _add_series(self, series: Series) -> None:
        wanted = wanted_of(series)
        clients = shared_out(wanted, self._plan.clients)
        self._add_cold_and_warm(series.name, "series", clients)

    def _add_first_frames(self, series: Series) -> None:
        for service in self._services:
            cold, warm = (self._tally(series.name, "first frame", service.name, s, 1, 1) for s in ("cold", "warm"))
            self.jobs.append(partial(_first_frames, service, wanted_of(series), self._plan.first, cold, warm))

    def _add_window_drag(self, series: Series) -> None:
        wanted = drag_of(series, self._plan.windows)
        for service in self._services:
            own = self._tally(series.name, "window drag", service.name, "warm", len(wanted), 1)
            self.jobs.append(partial(_window_drag, service, wanted, own))

    def _add_all(self, series: Sequence[Series]) -> None:
        self._add_cold_and_warm(ALL, f"{len(series)} series at once", [wanted_of(one) for one in series])

    def _add_cold_and_warm(self, group: str, request: str, clients: Sequence[Wanted]) -> None:
        slices = sum(map(len, clients))
        for service in self._services:
            cold, warm = (
                self._tally(group, request, service.name, state, slices, len(clients)) for state in ("cold", "warm")
            )
            self.jobs.append(partial(_cold_and_warm, service, clients, cold, warm))


async def _cold_and_warm(service: Service, clients: Sequence[Wanted], cold: Tally, warm: Tally, _round: int) -> None:
    """One pass over files, and one over what that has left in the caches."""
    async with service.renderer() as renderer:
        await service.one_pass(renderer, clients, cold)
        await service.one_pass(renderer, clients, warm)


async def _first_frames(service: Service, wanted: Wanted, count: int, cold: Tally, warm: Tally, number: int) -> None:
    """Each frame is a pass of its own, and another; another round takes others, as long as there are any."""
    async with service.renderer() as renderer:
        for place in range(number * count, (number + 1) * count):
            one = [[wanted[place % len(wanted)]]]
            await service.one_pass(renderer, one, cold)
            await service.one_pass(renderer, one, warm)


async def _window_drag(service: Service, wanted: Wanted, tally: Tally, _round: int) -> None:
    """The frame is brought to where it is rendered before."""
    async with service.renderer() as renderer:
        await renderer.render(*wanted[0])
        await service.one_pass(renderer, [wanted], tally)


async def _at_once(call: Callable[[], None], _round: int) -> None:
    """What knows nothing of event loops, and has this one for itself."""
    call()


async def check_pictures(series: Sequence[Series], services: Sequence[Service], library: Pydicom | None) -> list[str]:
    """Render the first, middle and last slice of each series by all. Returns what is not measured, and why.

    Raises BenchmarkError unless the services give the same bytes: a wrong picture is not worth timing.
    """
    notes: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        renderers = [await stack.enter_async_context(service.renderer()) for service in services]
        for one in series:
            wanted = wanted_of(one)
            for place in sorted({0, len(wanted) // 2, len(wanted) - 1}):
                first, *others = [(await renderer.render(*wanted[place])).pixels for renderer in renderers]
                if any(first.tobytes() != other.tobytes() for other in others):
                    raise BenchmarkError(f"{one.name}: the GPU's picture is not the CPU's")
                if library is not None and one.name not in library.refused:
                    notes += library.check(one, one.paths[place], first)
    return notes


async def measure(jobs: Sequence[Job], plan: Plan, step: Callable[[], None]) -> int:
    """All jobs in every round, in another order each time. Returns how many rounds there were; at least one."""
    order, begun = random.Random(plan.rounds), time.monotonic()
    for number in range(plan.rounds):
        if number and time.monotonic() - begun > plan.limit_s:
            return number
        for job in order.sample(jobs, len(jobs)):
            await job(number)
            gc.collect()
            step()
    return plan.rounds


def prepare(directory: Path, plan: Plan, console: Console) -> list[Path]:
    """Make the files, with a progress bar; their folders."""
    with gpu_run.bar(console) as bar:
        task = bar.add_task("CT phantom", total=None)

        def show(_what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return gpu_data.prepare(directory, plan.slices, show)


def settings_of(plan: Plan) -> Settings:
    """The service's own, but with room for all series at once."""
    room = len(gpu_data.NAMES) * plan.slices * phantom.ROWS * phantom.COLUMNS * 2
    return Settings(cache_bytes=2 * room, queue_capacity=max(1024, 2 * plan.clients))


def run(options: argparse.Namespace, plan: Plan, console: Console) -> record.Run:
    """Open the device and all others, measure, close them. Raises BenchmarkError."""
    begun, settings = Begun(), settings_of(plan)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(gpu_run.gpu(options.device))
        folders = prepare(options.data, plan, console)
        pool = stack.enter_context(WorkerPool(settings.workers))
        archive = stack.enter_context(contextlib.closing(FolderArchive(folders, None, pool)))
        archive.scan()
        library, note = stack.enter_context(pydicom_with_plugin() if options.pydicom else no_pydicom())
        series = gpu_data.list_series(archive, folders)
        table = proven(opened, options.proof or settings.proof_path)
        codec = opened.backend.codec or "none"
        proof = f"Kinds of codestream that the GPU is proven to decode: {len(table)}; its codec: {codec}."
        on_gpu = Service(GPU, archive, opened.backend, pool, settings, table)
        services = [on_gpu, Service(CPU, archive, CpuBackend(), pool, settings)]
        throughputs, notes = asyncio.run(_run(plan, series, services, library, opened, console))
        return gpu_run.run_of("gpu", begun, opened, [*NOTES, proof, note, *notes], throughputs=throughputs)


async def _run(
    plan: Plan,
    series: Sequence[Series],
    services: Sequence[Service],
    library: Pydicom | None,
    opened: Gpu,
    console: Console,
) -> tuple[list[record.Throughput], list[str]]:
    notes = await check_pictures(series, services, library)
    archive, pool = services[0].archive, services[0].pool
    kernels = {one.name: KernelAlone.of(opened.backend, archive, pool, one) for one in (series[0], series[-1])}
    bench = Bench(plan, series, services, library, kernels)
    with gpu_run.bar(console) as bar:
        task = bar.add_task("measuring", total=plan.rounds * len(bench.jobs))
        rounds = await measure(bench.jobs, plan, lambda: bar.advance(task))
    if rounds < plan.rounds:
        notes.append(f"After {plan.limit_s:g} s there were {rounds} rounds instead of {plan.rounds}.")
    return [tally.result() for tally in bench.tallies], notes


def proven(opened: Gpu, path: Path | None) -> ProofTable:
    """What the device may decode, as the service would have it. Raises BenchmarkError for a table that is none."""
    try:
        return check(opened.backend, load_file(path))
    except StartupError as error:
        raise BenchmarkError(str(error)) from error


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = gpu_run.parser("gpu", __doc__)
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument(
        "--proof",
        type=Path,
        help="proof table of gpu-render prove (default: GPU_RENDER_PROOF_PATH's, then the shipped)",
    )
    parser.add_argument("--no-pydicom", dest="pydicom", action="store_false", help="leave out pydicom")
    options = parser.parse_args(arguments)
    chosen = plan or (QUICK if options.quick else FULL)
    report = gpu_report.throughput_table, gpu_report.throughput_markdown, gpu_report.throughput_plot
    return gpu_run.command("gpu", options, partial(run, options, chosen), *report)


if __name__ == "__main__":
    raise SystemExit(main())
