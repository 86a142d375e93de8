"""``python -m benchmarks.reencode``: JPEG 2000 after a restart, as it is stored beside its re-encoded copy.

Two services over the same files, neither of which keeps decoded frames: one without copies, one that has made them
before it was started anew. They take turns slice by slice; their answers must be the same byte for byte.
"""

import argparse
import contextlib
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from rich.console import Console
from rich.table import Table

from benchmarks import comparing, data, grids, record, report, running
from benchmarks.harness import WITHOUT_LOOKAHEAD, BenchmarkError, Client, Question, Server, serving
from benchmarks.series import path_of, write_series
from benchmarks.slice import get_json, wait_for_index

JPEG_2000 = 2
AS_STORED, FROM_COPY = "as stored", "from its copy"
LIMIT_S = 600.0
NOTES = (
    "Cold: the services keep no decoded frames, each answer is decoded anew; files and copies are in the page cache.",
    "From its copy: the copies were made by the service before it was started anew.",
    "Re-encoded: decoded, coded, decoded again and compared, one frame after the other while nothing else is done.",
    "Client, services and decoders share the machine's cores.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``slices`` of 512 x 512 and ``mammograms`` of 4096 x 3328; ``rounds`` over all of them."""

    slices: int
    mammograms: int
    rounds: int


FULL = Plan(slices=60, mammograms=4, rounds=5)
QUICK = Plan(slices=6, mammograms=1, rounds=2)
CT, MAMMOGRAM = "CT 512 x 512", "mammogram 4096 x 3328"
MAMMOGRAM_PIXELS = (4096, 3328)


@dataclass(slots=True)
class Found:
    """Times [ms] by (group, request, who); of each group: time to re-encode all [s], bytes as stored and of copies."""

    times: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    making_s: dict[str, float] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    copied_bytes: dict[str, int] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    backend: str = ""
    startup_s: float = 0.0


def write_mammograms(folder: Path, count: int) -> None:
    """12 bits: the phantom, enlarged, with the noise of a detector."""
    with tempfile.TemporaryDirectory() as work:
        write_series(Path(work) / "s", JPEG_2000, count, count)
        slices = [pydicom.dcmread(path) for path in sorted((Path(work) / "s").iterdir())]
    folder.mkdir()
    noise = np.random.default_rng(1)
    for number, ds in enumerate(slices):
        rows, columns = MAMMOGRAM_PIXELS
        samples = np.kron(ds.pixel_array, np.ones((8, 7), np.int32))[:rows, :columns]
        samples = np.clip(samples + 1024 + noise.normal(0, 12, samples.shape), 0, 4095).astype(np.uint16)
        ds.Rows, ds.Columns = samples.shape
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
        coded = imagecodecs.jpeg2k_encode(samples, level=0, codecformat="j2k", reversible=True, bitspersample=12)
        ds.PixelData = encapsulate([bytes(coded)])
        ds.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


@contextlib.contextmanager
def service(folder: Path, work: Path, count: int, budget: int) -> Iterator[tuple[Server, Client]]:
    """The service over ``folder``, indexed, with no cache of decoded frames. ``budget``: of copies [byte]."""
    settings = (
        "GPU_RENDER_CACHE_BYTES=0",
        f"GPU_RENDER_REENCODE_BYTES={budget}",
        f"GPU_RENDER_REENCODE_PATH={work / 'copies'}",
    )
    command = ("env", *settings, *WITHOUT_LOOKAHEAD, str(folder), "--index", str(work / f"{budget}.sqlite"))
    with serving(command, "/health/ready") as server, contextlib.closing(Client(server.port)) as client:
        wait_for_index(client, count)
        data.read_all(folder)
        yield server, client


def figure(client: Client, name: str) -> float:
    """From ``/metrics``."""
    text = client.ask(Question("/metrics", "*/*")).body.decode()
    found = re.search(rf"^gpu_render_{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"no figure {name}")
    return float(found[1])


def urls_of(client: Client) -> list[str]:
    return [frame["url"] for frame in get_json(client, path_of(JPEG_2000))["frames"]]


def make_copies(group: str, folder: Path, work: Path, count: int, found: Found) -> None:
    """Look at every slice once, and wait until all are re-encoded. Raises BenchmarkError where one is not."""
    with service(folder, work, count, 1 << 34) as (server, client):
        for url in urls_of(client):
            client.ask(stored_values(url))
        begun = time.perf_counter()
        while figure(client, "reencode_kept_total") < count:
            if time.perf_counter() - begun > LIMIT_S or figure(client, "reencode_refused_total"):
                raise BenchmarkError(f"{group}: not all slices were re-encoded")
            time.sleep(0.1)
        found.making_s[group] = time.perf_counter() - begun
        found.copied_bytes[group] = int(figure(client, "reencode_bytes"))
        found.startup_s = found.startup_s or server.startup_s
    found.stored_bytes[group] = sum(len(pydicom.dcmread(path).PixelData) for path in folder.iterdir())
    found.count[group] = count


def measure_group(group: str, folder: Path, work: Path, count: int, plan: Plan, found: Found) -> None:
    """Both services in turn, slice by slice."""
    make_copies(group, folder, work, count, found)
    order = random.Random(count)
    with service(folder, work, count, 0) as (_, plain), service(folder, work, count, 1 << 34) as (_, copied):
        urls = urls_of(plain)
        found.backend = check(plain, copied, urls)
        clients = [(AS_STORED, plain), (FROM_COPY, copied)]
        asked = 0
        for _ in range(plan.rounds):
            for url in order.sample(urls, len(urls)):
                for name, question in (("stored values", stored_values(url)), ("picture", picture(url))):
                    for who, client in order.sample(clients, 2):
                        answer = client.ask(question)
                        if "decode" not in answer.headers.get("server-timing", ""):
                            raise BenchmarkError(f"{question.url} is not cold")
                        found.times[group, f"{name}, cold", who].append(answer.duration_ms)
                    asked += 1
        if figure(copied, "reencode_hits_total") < asked:
            raise BenchmarkError(f"{group}: not all answers came from copies")


def stored_values(url: str) -> Question:
    return Question(f"{url}?stage=stored")


def picture(url: str) -> Question:
    return Question(f"{url}?window=40,400")


def check(plain: Client, copied: Client, urls: Sequence[str]) -> str:
    """The backend's name. Raises BenchmarkError unless both answer the same, and say the same of it."""
    backend = ""
    for url in urls:
        for question in (stored_values(url), picture(url)):
            one, other = plain.ask(question), copied.ask(question)
            told = [
                {name: value for name, value in answer.headers.items() if name not in ("server-timing", "date")}
                for answer in (one, other)
            ]
            if one.body != other.body or told[0] != told[1]:
                raise BenchmarkError(f"{question.url} is another from its copy")
            backend = one.headers["x-render-backend"] if "window" in question.url else backend
    return backend


def measurements(found: Found) -> Iterator[record.Measurement]:
    for (group, name, who), times in sorted(found.times.items()):
        yield record.Measurement(
            name=f"{name}, {who}", unit="ms", group=group, parameters={"state": "cold"}, summary=record.spread(times)
        )
    for group, count in found.count.items():
        rate = count / found.making_s[group]
        yield record.Measurement(
            name="re-encoded", unit="frames/s", group=group, summary=record.spread([rate]), better="higher"
        )
        nbytes = found.copied_bytes[group] / count
        yield record.Measurement(name="size of a copy", unit="bytes", group=group, summary=record.spread([nbytes]))


def ratios(found: Found) -> Iterator[record.Ratio]:
    for group, name, who in sorted(found.times):
        if who == AS_STORED:
            pair = (who, found.times[group, name, who]), (FROM_COPY, found.times[group, name, FROM_COPY])
            yield comparing.compare(f"{group}: {name}", *pair, group=group)
    for group, nbytes in found.stored_bytes.items():
        pair = ("copies", [found.copied_bytes[group]]), ("stored frames", [nbytes])
        yield comparing.compare(f"{group}: bytes", *pair, group=group, better="lower")


def measure(plan: Plan, console: Console) -> record.Run:
    """Make the files, and the copies, and measure."""
    started, found = running.Started(), Found()
    makers: dict[str, tuple[int, Callable[[Path, int], None]]] = {
        CT: (plan.slices, lambda folder, count: write_series(folder, JPEG_2000, count, min(count, 30))),
        MAMMOGRAM: (plan.mammograms, write_mammograms),
    }
    for group, (count, make) in makers.items():
        console.print(f"{group}, {count}")
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "files"
            make(folder, count)
            measure_group(group, folder, Path(work), count, plan, found)
    return started.record(
        "reencode",
        NOTES,
        backend=found.backend,
        startup_s=found.startup_s,
        measurements=tuple(measurements(found)),
        ratios=tuple(ratios(found)),
    )


COLUMNS = ("frames", "", "unit", "median", "middle half", "p99", "n")


def rows(run: record.Run) -> list[tuple[str, ...]]:
    """The table's cells, in the order of COLUMNS."""
    return [
        (
            one.group,
            one.name,
            one.unit,
            f"{one.summary.median:,.2f}",
            f"{one.summary.q1:,.2f} - {one.summary.q3:,.2f}",
            f"{one.summary.p99:,.2f}",
            str(one.summary.n),
        )
        for one in run.measurements
    ]


def table(run: record.Run) -> Table:
    """For the terminal."""
    return grids.terminal("JPEG 2000 after a restart", COLUMNS, rows(run), range(3), report.heading(run))


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    return f"{grids.markdown(COLUMNS, rows(run), range(3))}\n\n{report.heading(run)}.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reencode", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console()
    options.plot = None
    plan = QUICK if options.quick else FULL
    return running.command(options, console, lambda: measure(plan, console), table, markdown, None, None)


if __name__ == "__main__":
    raise SystemExit(main())
