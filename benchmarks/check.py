"""``gpu-render bench --check``: whether the service became slower than the baseline stored for this kind of machine.

The most important cases, each in turn with a yardstick of the same run: answers over HTTP beside a server that only
copies (``benchmarks.ruler``), compressed slices beside their codec alone, windowing beside memcpy, a scan beside a
plain loop with pydicom. The servers are started anew a few times, because one start is never quite as fast as the next.
What seems slower is measured once more, and fails only if it is slower again.
"""

import contextlib
import functools
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from rich.console import Console
from rich.table import Table

from benchmarks import baseline, clients, data, index_data, machine, record, report, ruler
from benchmarks.baseline import Judged, Verdict
from benchmarks.harness import RULER, WITHOUT_LOOKAHEAD, Answer, BenchmarkError, Client, Question, Server, serving
from benchmarks.running import Started, progress
from benchmarks.slice import manifest, picture, stored, wait_for_index, window_drag
from gpu_render import phantom
from gpu_render.archive.folder import FolderArchive
from gpu_render.demo import phantom_uid
from gpu_render.frame import PixelLayout, Presentation, Rescale, Window
from gpu_render.transform import fold
from gpu_render.view import View
from gpu_render.workers import WorkerPool
from kernels import RenderJob, render
from kernels.cpu import CpuBackend

CLIENTS = 8
CODECS: dict[int, Callable[[bytes], object]] = {
    2: lambda frame: imagecodecs.jpeg2k_decode(frame, numthreads=len(os.sched_getaffinity(0))),
    3: imagecodecs.htj2k_decode,
    4: imagecodecs.jpegls_decode,
    5: imagecodecs.jpeg8_decode,
    6: lambda frame: imagecodecs.dicomrle_decode(frame, dtype="<i2"),
}
"""By Series Number: the codec alone, on all processors where it can."""
NOTES = (
    "Each value is one round: the median time of a case over the median of its yardstick, which took turns with it.",
    "Cold: the service's cache keeps nothing. Warm: the frames asked for are in its cache.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``starts`` of all servers, ``rounds`` after each, ``slices`` a series, ``scanned`` files."""

    slices: int
    starts: int
    rounds: int
    load_s: float
    scanned: int

    @property
    def values(self) -> int:
        """Rounds in all."""
        return self.starts * self.rounds


FULL = Plan(slices=26, starts=3, rounds=7, load_s=1, scanned=600)
QUICK = Plan(slices=10, starts=1, rounds=5, load_s=0.1, scanned=20)


@dataclass(frozen=True, slots=True)
class Pair:
    """A case and its yardstick. Both do it once and return how long that took, in the same unit."""

    name: str
    yardstick: str
    work: Callable[[], float]
    beside: Callable[[], float]
    repeats: int
    tolerance: float = baseline.TOLERANCE

    def round(self) -> float:
        """The ratio of medians of ``repeats`` of each, in turn."""
        pairs = [(self.work(), self.beside()) for _ in range(self.repeats)]
        return statistics.median(above for above, _ in pairs) / statistics.median(below for _, below in pairs)


def timed(work: Callable[[], object]) -> float:
    """How long it takes [ms]."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


@dataclass(frozen=True, slots=True)
class Servers:
    """``cold`` keeps nothing. Clients stay connected."""

    warm: Client
    cold: Client
    scale: Client
    warm_server: Server
    scale_server: Server


@contextlib.contextmanager
def running(folder: Path, plan: Plan) -> Iterator[Servers]:
    """The service twice, and the ruler."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def service(name: str, *settings: str) -> tuple[Server, Client]:
            command = ("env", *settings, *WITHOUT_LOOKAHEAD, str(folder), "--index", str(work / f"{name}.sqlite"))
            server = stack.enter_context(serving(command, "/health/ready"))
            client = stack.enter_context(contextlib.closing(Client(server.port)))
            wait_for_index(client, plan.slices * len(data.SERIES))
            return server, client

        warm_server, warm = service("warm")
        _, cold = service("cold", "GPU_RENDER_CACHE_BYTES=0")
        scale = stack.enter_context(serving(RULER, "/"))
        scale_client = stack.enter_context(contextlib.closing(Client(scale.port)))
        data.read_all(folder)
        yield Servers(warm, cold, scale_client, warm_server, scale)


def asking(client: Client, questions: Iterator[Question], read: bool | None = None) -> Callable[[], float]:
    """Ask the next one. Raises BenchmarkError where the frame was ``read`` from its file, or was not, against what is
    expected (None: nothing is)."""

    def ask() -> float:
        answer = client.ask(next(questions))
        if read is not None and was_read(answer) != read:
            raise BenchmarkError(f"an answer that is to be {'cold' if read else 'warm'} was not")
        return answer.duration_ms

    return ask


def was_read(answer: Answer) -> bool:
    """Whether the service says that it read the file."""
    return "read;" in answer.headers.get("server-timing", "").replace(" ", "")


def http_pairs(servers: Servers) -> Iterator[Pair]:
    """Uncompressed slices beside the ruler."""
    copying = Question("/", body_bytes=len(ruler.BODY))
    beside = asking(servers.scale, itertools.repeat(copying))
    urls = [frame["url"] for frame in manifest(servers.warm, 1)]
    hot = urls[:4]
    for url in hot:
        servers.warm.ask(picture(url))
        servers.warm.ask(stored(url))
    in_turn = functools.partial(itertools.cycle, urls)
    series = f"studies/{phantom_uid('study')}/series/{phantom_uid('series', 1)}"
    frames = [f"/dicomweb/{series}/instances/{url.split('/instances/')[1].split('?')[0]}" for url in hot]
    wado = (Question(url, 'multipart/related; type="application/octet-stream"') for url in itertools.cycle(frames))
    cold_stored = asking(servers.cold, map(stored, in_turn()), read=True)
    cold_picture = asking(servers.cold, map(picture, in_turn()), read=True)
    warm_stored = asking(servers.warm, map(stored, itertools.cycle(hot)), read=False)
    dragging = asking(servers.warm, window_drag(hot), read=False)
    listing = asking(servers.warm, itertools.repeat(Question(f"/api/{series}", "application/json")))
    yield Pair("stored values, uncompressed, cold", "ruler", cold_stored, beside, 60)
    yield Pair("stored values, uncompressed, warm", "ruler", warm_stored, beside, 60)
    yield Pair("picture, uncompressed, cold", "ruler", cold_picture, beside, 60)
    yield Pair("picture, uncompressed, new window", "ruler", dragging, beside, 60)
    yield Pair("WADO-RS frame, uncompressed", "ruler", asking(servers.warm, wado), beside, 60)
    yield Pair("manifest of a series", "ruler", listing, beside, 10, tolerance=0.2)


def together(servers: Servers, plan: Plan) -> Pair:
    """Time an answer takes the service while eight clients ask, beside the ruler."""
    by = clients.generator() if plan.load_s >= 1 else "asyncio"
    paths = [f"{frame['url']}?stage=stored" for frame in manifest(servers.warm, 1)][:4]

    def each(port: int, asked: Sequence[str]) -> float:
        found = clients.load(port, asked, CLIENTS, plan.load_s, by)
        if found.errors:
            raise BenchmarkError(f"{CLIENTS} clients: {found.errors}")
        return 1000 / found.per_s

    return Pair(
        f"stored values, {CLIENTS} clients",
        f"ruler, {CLIENTS} clients, {by}",
        lambda: each(servers.warm_server.port, paths),
        lambda: each(servers.scale_server.port, ["/"]),
        repeats=1,
        tolerance=0.2,
    )


def codec_pairs(servers: Servers, folder: Path) -> Iterator[Pair]:
    """Windowed pictures of compressed slices beside their codec alone, on the same frames."""
    for one in data.SERIES:
        decode = CODECS.get(one.number)
        if decode is None:
            continue
        paths = sorted((folder / one.folder).iterdir())
        frames = itertools.cycle([get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1) for path in paths])
        urls = [frame["url"] for frame in manifest(servers.cold, one.number)]
        work = asking(servers.cold, map(picture, itertools.cycle(urls)), read=True)

        def beside(decode: Callable[[bytes], object] = decode, frames: Iterator[bytes] = frames) -> float:
            frame = next(frames)
            return timed(lambda: decode(frame))

        yield Pair(f"picture, {data.NAMES[one.number]}, cold", "codec alone", work, beside, 8)


def kernel_pair() -> Pair:
    """A window over one slice beside copying it."""
    samples = phantom.stored_slice(phantom.SLICES // 2)
    layout = PixelLayout(phantom.ROWS, phantom.COLUMNS, 1, 16, 16, 15, 1, "MONOCHROME2")
    folded = fold(Presentation(modality=Rescale(1.0, -1024.0)), View(window=Window(40.0, 400.0)), layout)
    backend, job, target = CpuBackend(), RenderJob(samples, folded.params, folded.table), np.empty_like(samples)

    def many(work: Callable[[], object]) -> float:
        return timed(lambda: [work() for _ in range(20)])

    return Pair(
        "window of one slice",
        "memcpy",
        lambda: many(lambda: render(backend, [job])),
        lambda: many(lambda: np.copyto(target, samples)),
        repeats=5,
        tolerance=0.25,
    )


def scan_pair(pool: WorkerPool, work: Path, count: int) -> Pair:
    """Small files into a new index, beside reading their headers with pydicom in one process."""
    paths, numbers = index_data.write_files(work / "files", count), itertools.count()

    def scan() -> None:
        index = work / f"scan-{next(numbers)}.sqlite"
        with contextlib.closing(FolderArchive([work / "files"], index, pool)) as archive:
            if archive.scan().unreadable:
                raise BenchmarkError("a scan could not read what it was given")

    def plain() -> None:
        for path in paths:
            pydicom.dcmread(path, stop_before_pixels=True).get("SOPInstanceUID")

    return Pair("scan", "pydicom headers", lambda: timed(scan), lambda: timed(plain), repeats=1, tolerance=0.25)


def measure(
    folder: Path, plan: Plan, step: Callable[[], None], only: frozenset[str] | None = None
) -> list[record.Measurement]:
    """One measurement a pair, of all starts and rounds; of those named in ``only``, where it is given."""
    ratios: dict[tuple[str, str, float], list[float]] = {}
    order = random.Random(plan.values)
    for _ in range(plan.starts):
        with contextlib.ExitStack() as stack:
            pairs = [pair for pair in _opened(stack, folder, plan) if only is None or pair.name in only]
            for pair in pairs:  # what is done once, and by nobody else, is done
                pair.work()
                pair.beside()
            for _ in range(plan.rounds):
                for pair in order.sample(pairs, len(pairs)):
                    ratios.setdefault((pair.name, pair.yardstick, pair.tolerance), []).append(pair.round())
                step()
    return [
        record.Measurement(
            name=name,
            unit="times the yardstick",
            group=yardstick,
            parameters={"tolerance": tolerance},
            summary=record.spread(values),
            samples=tuple(values),
        )
        for (name, yardstick, tolerance), values in sorted(ratios.items())
    ]


def _opened(stack: contextlib.ExitStack, folder: Path, plan: Plan) -> list[Pair]:
    servers = stack.enter_context(running(folder, plan))
    pool = stack.enter_context(contextlib.closing(WorkerPool(2)))
    work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    codecs, scan = codec_pairs(servers, folder), scan_pair(pool, work, plan.scanned)
    return [*http_pairs(servers), together(servers, plan), *codecs, kernel_pair(), scan]


def run(folder: Path, plan: Plan, console: Console, only: frozenset[str] | None = None) -> record.Run:
    """Measure all, or what is named."""
    started = Started()
    with progress(console) as bar:
        task = bar.add_task("checking" if only is None else "once more", total=plan.values)
        found = measure(folder, plan, lambda: bar.advance(task), only)
    return started.record("check", NOTES, measurements=tuple(found), programs={"load": clients.generator_version()})


def again(judged: Sequence[Judged], stored_run: record.Run, once_more: Callable[[frozenset[str]], record.Run]) -> bool:
    """Whether what seemed slower is slower once more. ``once_more`` measures what is named."""
    suspects = frozenset(one.name for one in judged if one.verdict is Verdict.SLOWER)
    stored_of = [one for one in stored_run.measurements if one.name in suspects]
    return any(one.verdict in baseline.FAILING for one in baseline.judge(once_more(suspects).measurements, stored_of))


COLUMNS = ("case", "yardstick", "now", "baseline", "now / baseline", "95 % interval", "allowed", "verdict")
_STYLES = {Verdict.SLOWER: "red", Verdict.MISSING: "red", Verdict.UNCLEAR: "yellow", Verdict.FASTER: "green"}


def rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""

    def median(one: record.Measurement | None) -> str:
        return f"{one.summary.median:.3g}" if one else "-"

    return [
        (
            one.name,
            next((found.group for found in (one.now, one.stored) if found), ""),
            median(one.now),
            median(one.stored),
            f"{one.ratio.ratio:.2f}" if one.ratio else "-",
            f"{one.ratio.low:.2f} - {one.ratio.high:.2f}" if one.ratio else "-",
            f"{1 + one.tolerance:.2f}",
            str(one.verdict),
        )
        for one in judged
    ]


def table(judged: Sequence[Judged], measured: record.Run) -> Table:
    """For the terminal."""
    made = Table(title="beside the baseline", caption=report.heading(measured), header_style="bold")
    for index, name in enumerate(COLUMNS):
        made.add_column(name, justify="right" if 1 < index < 7 else "left")
    for one, row in zip(judged, rows(judged), strict=True):
        made.add_row(*row, style=_STYLES.get(one.verdict, ""))
    return made


def has_baseline(baselines: Sequence[Path], console: Console) -> bool:
    """Whether there is one for this kind of machine; says how to make one where there is none."""
    here = machine.describe()
    if baseline.find(here, baselines) is not None:
        return True
    console.print(
        f"no baseline is stored for this kind of machine ({here.slug}). Make one at a revision that is known to be "
        "fast, on a quiet machine: gpu-render bench --check --save-baseline",
        markup=False,
        soft_wrap=True,
    )
    return False


def command(folder: Path, plan: Plan, console: Console, baselines: Sequence[Path], save: Path | None) -> int:
    """Measure and compare, or store; 0: not slower; 1: slower; 2: there is nothing to compare with."""
    if save is None and not has_baseline(baselines, console):
        return 2
    measured = run(folder, plan, console)
    if save is not None:
        console.print(f"wrote {baseline.save(measured, save)}", soft_wrap=True)
        return 0
    stored_run = baseline.find(measured.machine, baselines)
    assert stored_run is not None
    judged = baseline.judge(measured.measurements, stored_run.measurements)
    console.print(table(judged, measured))
    for text in baseline.differences(measured.machine, stored_run.machine):
        console.print(f"not as in the baseline: {text}", markup=False, soft_wrap=True)
    console.print(f"baseline: {stored_run.revision[:12]} of {stored_run.date[:10]}", soft_wrap=True)
    unclear = sum(one.verdict is Verdict.UNCLEAR for one in judged)
    if unclear > len(judged) / 3:
        console.print(
            f"the machine was too busy to tell: {unclear} of {len(judged)} intervals reach beyond", style="yellow"
        )
    if any(one.verdict is Verdict.MISSING for one in judged):
        return 1
    if not any(one.verdict is Verdict.SLOWER for one in judged):
        return 0
    console.print("what seems slower is measured once more")
    slower = again(judged, stored_run, lambda names: run(folder, plan, console, names))
    console.print("slower than the baseline" if slower else "not slower the second time: taken for noise")
    return int(slower)
