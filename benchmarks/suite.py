"""All benchmarks by name, and how ``gpu-render bench`` runs some of them."""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from benchmarks import baseline, drawing, history, record, running
from benchmarks.harness import BenchmarkError
from benchmarks.history import Change


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``module``.main takes ``--quick`` and ``--results``, and ``--plot`` where it ``plots``."""

    name: str
    module: str
    what: str
    about: str
    plots: bool = False
    gpu: bool = False

    def main(self) -> Callable[[Sequence[str]], int]:
        """Its command. Imported when it is to run: each loads what it measures."""
        return cast(Callable[[Sequence[str]], int], importlib.import_module(self.module).main)


ALL = (
    Benchmark("slice", "benchmarks.slice", "one CT slice over HTTP, cold and warm, by transfer syntax", "1 min", True),
    Benchmark("sizes", "benchmarks.sizes", "the same for radiographs, mammograms and colour cine", "5 min", True),
    Benchmark("concurrency", "benchmarks.concurrency", "1 to 256 clients at once", "4 min", True),
    Benchmark("load", "benchmarks.load", "one slice while a thousand prefetches wait; 503s", "3 min", True),
    Benchmark("series", "benchmarks.series", "series of 300 to 3,000 slices, whole", "10 min", True),
    Benchmark("wire", "benchmarks.wire", "compressed bodies; slices over 10 to 1,000 Mbit/s", "2 min", True),
    Benchmark("metadata", "benchmarks.metadata", "metadata of series of 1,000 and 3,000 instances", "5 min"),
    Benchmark("index", "benchmarks.index", "an index of 10,000 to 1,000,000 instances; scans", "15 min"),
    Benchmark("startup", "benchmarks.startup", "start to ready, and memory of the idle service", "5 min", True),
    Benchmark("huge", "benchmarks.huge", "objects of 200,000 frames", "5 min"),
    Benchmark("decode", "benchmarks.decode", "codecs alone, and by the service's processes", "4 min", True),
    Benchmark("bandwidth", "benchmarks.bandwidth", "windowing and unpacking on the CPU beside memcpy", "1 min", True),
    Benchmark("endurance", "benchmarks.endurance", "memory over ten minutes of mixed requests", "11 min", True),
    Benchmark("reencode", "benchmarks.reencode", "JPEG 2000 frames from copies as HTJ2K", "2 min"),
    Benchmark("roofline", "benchmarks.roofline", "the GPU's kernels beside a copy on it", "2 min", True, gpu=True),
    Benchmark("gpu", "benchmarks.gpu", "series on the GPU, the CPU and NVIDIA's plug-in", "15 min", True, gpu=True),
)
BY_NAME = {one.name: one for one in ALL}


@dataclass(frozen=True, slots=True)
class Options:
    """``results`` none: where results of this checkout or user lie, and plots where its documents have them; a quick
    run writes results only where it is told to. ``html``: one page of all. ``data``: where the check keeps slices."""

    quick: bool = False
    results: Path | None = None
    html: Path | None = None
    data: Path = Path()

    @property
    def folder(self) -> Path:
        return self.results or history.local_results()

    def arguments(self, one: Benchmark) -> list[str]:
        """Of a benchmark's command."""
        found = ["--quick"] if self.quick else []
        if self.results is not None or not self.quick:
            found += ["--results", str(self.folder)]
        in_documents = self.results is None and self.folder == record.RESULTS
        if one.plots and not self.quick and not in_documents:
            found += ["--plot", str(self.folder / "images" / f"benchmark-{one.name}.png")]
        return found


@dataclass(frozen=True, slots=True)
class Ran:
    """How one benchmark ended: exit status, time it took, files that it wrote."""

    name: str
    status: int
    seconds: float
    written: tuple[Path, ...]


def chosen(names: Sequence[str], every: bool, has_gpu: bool) -> list[Benchmark]:
    """What is asked for: by name, or all that this machine can run. Raises BenchmarkError for an unknown name."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise BenchmarkError(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    if every:
        return [one for one in ALL if has_gpu or not one.gpu]
    return [BY_NAME[name] for name in dict.fromkeys(names)]


def run(asked: Sequence[Benchmark], options: Options, console: Console) -> list[Ran]:
    """One after the other; one that fails does not keep the others from running.

    Raises BenchmarkError at once where what they need is not installed.
    """
    if not options.quick and any(one.plots for one in asked) and not drawing.available():
        raise BenchmarkError(f"{drawing.INSTALL} (or --quick, which draws none)")
    return list(_each(asked, options, console))


def _each(asked: Sequence[Benchmark], options: Options, console: Console) -> Iterator[Ran]:
    for number, one in enumerate(asked, 1):
        console.rule(f"{one.name}: {one.what} ({number} of {len(asked)})")
        before, begun = _stamps(options.folder), time.perf_counter()
        earlier = history.load([options.folder]).stored
        try:
            status = one.main()(options.arguments(one))
        except (BenchmarkError, ImportError) as error:
            console.print(f"{one.name}: {error}", markup=False, soft_wrap=True)
            status = 1
        written = tuple(path for path, stamp in _stamps(options.folder).items() if before.get(path) != stamp)
        for path in written:
            show_changes(record.read(path), earlier, console)
        yield Ran(one.name, status, time.perf_counter() - begun, written)


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*.json"))}


def show_changes(run: record.Run, earlier: Sequence[history.Stored], console: Console) -> None:
    """What is apart from this machine's last result of the same benchmark by more than both spread."""
    same = [
        one.run for one in earlier if one.run.benchmark == run.benchmark and one.run.machine.slug == run.machine.slug
    ]
    if not same:
        return
    before = same[-1]
    changes = history.changes(run, before)
    apart = [change for change in changes if change.apart]
    console.print(
        f"beside the result of {before.date[:10]} ({before.revision[:12]}): {len(apart)} of {len(changes)} figures are "
        "apart by more than the middle halves of both",
        soft_wrap=True,
    )
    if apart:
        console.print(change_table(apart))


def change_table(changes: Sequence[Change]) -> Table:
    """Ratios of medians, the largest change first."""
    made = Table("what", "figure", "unit", "now / before", "middle halves", "", header_style="bold")
    for one in sorted(changes, key=lambda change: -abs(change.ratio - 1)):
        word = "better" if one.improved else "worse"
        spread = f"{one.low:.2f} - {one.high:.2f}"
        made.add_row(
            one.group, one.name, one.unit, f"{one.ratio:.2f}", spread, word, style="green" if one.improved else "yellow"
        )
    return made


def list_table() -> Table:
    """All benchmarks, for a command that names none."""
    made = Table("name", "what it measures", "about", header_style="bold")
    for one in ALL:
        made.add_row(one.name, one.what + (" (needs an NVIDIA GPU)" if one.gpu else ""), one.about)
    return made


def end_table(ran: Sequence[Ran]) -> Table:
    """How each ended."""
    made = Table("benchmark", "", "took", "written", header_style="bold")
    for one in ran:
        ended = "ended" if one.status == 0 else f"failed ({one.status})"
        written = ", ".join(path.name for path in one.written)
        made.add_row(one.name, ended, f"{one.seconds:.0f} s", written, style="red" if one.status else "")
    return made


def command(names: Sequence[str], every: bool, has_gpu: bool, options: Options) -> int:
    """``gpu-render bench``: run what is named, write the page where one is wanted; list all where nothing is asked for.
    Raises BenchmarkError."""
    to = running.console()
    asked = chosen(names, every, has_gpu)
    if options.html is not None and not drawing.available():
        raise BenchmarkError(drawing.INSTALL)
    if not asked and options.html is None:
        to.print(list_table())
        to.print("gpu-render bench NAME ... runs some of them, gpu-render bench --all all of them", markup=False)
        return 0
    ran = run(asked, options, to)
    if ran:
        to.print(end_table(ran))
    if options.html is not None:
        write_page(options, to)
    return int(any(one.status for one in ran))


def write_page(options: Options, to: Console) -> None:
    """All results there are: those of the folder, and those that came with the package."""
    from benchmarks import html  # with it, all that draws

    html.write(history.load([options.folder, record.RESULTS]), cast(Path, options.html))
    to.print(f"wrote {options.html}", markup=False, soft_wrap=True)


def check(options: Options, save_baseline: bool) -> int:
    """``gpu-render bench --check``; the exit status. Raises BenchmarkError."""
    from benchmarks import check as checking
    from benchmarks import data

    to, plan = running.console(160), checking.QUICK if options.quick else checking.FULL
    places = baseline.folders() if options.results is None else (options.results,)
    save = (options.results or baseline.own_folder()) if save_baseline else None
    if save is None and not checking.has_baseline(places, to):
        return 2
    return checking.command(data.prepare(options.data, plan.slices), plan, to, places, save)
