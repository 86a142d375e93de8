"""``python -m benchmarks.wire``: what compressed bodies for slow lines save and cost, and when a slice is there.

Bodies: a CT slice as stored and as picture, a made radiograph and frames of a real colour cine, by each coding with and
without the filter, in this process. Lines: the real service, asked for CT slices over the loopback of a network
namespace of its own, which the kernel shapes to so many Mbit/s (tc, a token bucket); a client in Python undoes what it
gets. Where such a namespace cannot be made, there are no lines, and a note says so.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pydicom.data
import zstandard
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import comparing, data, drawing, grids, record, report, running
from benchmarks.harness import ROOT, SERVICE, Answer, BenchmarkError, Client, Question, serving
from benchmarks.series import path_of, write_series
from benchmarks.slice import get_json, stored, wait_for_index
from gpu_render import wire

Samples = npt.NDArray[np.generic]

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-wire.png"
NATIVE = 1
CT, PICTURE, RADIOGRAPH, CINE = (
    "CT 512x512, stored", "CT 512x512, picture", "radiograph 2048x2048, 12 bits", "colour cine 320x240",
)  # fmt: skip
FORMS: dict[str, tuple[wire.Coding, bool]] = {
    "zstd": ("zstd", False),
    "zstd, filtered": ("zstd", True),
    "gzip": ("gzip", False),
    "gzip, filtered": ("gzip", True),
}
OCTETS, PLANES = "application/octet-stream", "application/vnd.gpu-render.planes"
AS_IT_IS, AUTO = "as it is", "auto: zstd, filtered, where the line is slow"
NOTES = (
    "Bodies: size as a part of the plain one; encoding is filter and coding, undoing both backwards, by NumPy and the "
    "codings' libraries. The radiograph is a CT slice enlarged, with noise; the cine comes with pydicom.",
    "Pays below: the line over which the saved bytes take as long as encoding and undoing.",
)
LINE_NOTE = (
    "Lines: from asking for a CT slice to its samples, undone, over loopback that the kernel shapes to so many Mbit/s, "
    "in both directions and without any distance; one after the other, and each round begins with a new connection. "
    "Client and service share the machine's cores."
)
NO_LINES = "No lines: a network namespace with a token bucket cannot be made here ({})."


@dataclass(frozen=True, slots=True)
class Plan:
    """``pictures`` of a kind, ``rounds`` over the bodies; ``slices`` a round over each line; ``mbit_s`` 0: unshaped."""

    pictures: int
    rounds: int
    mbit_s: tuple[int, ...]
    line_rounds: int
    slices: int


FULL = Plan(pictures=6, rounds=15, mbit_s=(10, 50, 100, 1000, 0), line_rounds=5, slices=5)
QUICK = Plan(pictures=2, rounds=2, mbit_s=(50, 1000), line_rounds=1, slices=3)


# --- bodies ------------------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int) -> dict[str, list[Samples]]:
    """Samples of each kind, ``count`` of them at most."""
    slices = [pydicom.dcmread(path).pixel_array for path in sorted(folder.iterdir())[:count]]
    cine = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
    return {
        CT: slices,
        PICTURE: [windowed(one) for one in slices],
        RADIOGRAPH: [radiograph(one) for one in slices[:2]],
        CINE: list(pydicom.dcmread(str(cine)).pixel_array[:count]),
    }


def windowed(ct: Samples) -> Samples:
    """As a window of 400 shows the upper half of what there is."""
    grey = ct.astype(np.float32)
    return np.clip((grey - np.median(grey)) * 255 / 400, 0, 255).astype(np.uint8)


def radiograph(ct: Samples) -> Samples:
    """The slice at four times its size, in 12 bits, with the noise of a detector."""
    large = np.asarray(Image.fromarray(ct.astype(np.float32)).resize((2048, 2048), Image.Resampling.BICUBIC))
    scaled = (large - large.min()) * (3800 / float(np.ptp(large)))
    noise = np.random.default_rng(1).normal(0, 1, large.shape) * (3 + np.sqrt(scaled) / 4)
    made: npt.NDArray[np.uint16] = np.clip(scaled + noise, 0, 4095).astype("<u2")
    return made


def encode(pixels: Samples, coding: wire.Coding, filtered: bool) -> bytes:
    plain = wire.planes(pixels) if filtered else pixels.reshape(-1).view(np.uint8).data
    return wire.compress(plain, coding, filtered=filtered)


def decode(body: bytes, coding: wire.Coding) -> bytes:
    return zstandard.ZstdDecompressor().decompress(body) if coding == "zstd" else zlib.decompress(body, 31)


def undo(body: bytes, coding: wire.Coding, filtered: bool, shape: tuple[int, ...], dtype: str) -> Samples:
    plain = decode(body, coding)
    return wire.unplanes(plain, shape, dtype) if filtered else np.frombuffer(plain, dtype).reshape(shape)


@dataclass(slots=True)
class Bodies:
    """Of one kind in one form: the median over the pictures of each round [ms]; sizes by picture."""

    kind: str
    form: str
    plain_bytes: float
    parts: list[float]
    encoding_ms: list[float]
    undoing_ms: list[float]

    @property
    def pays_below_mbit_s(self) -> float:
        saved = self.plain_bytes * (1 - statistics.median(self.parts))
        return 8e-3 * saved / (statistics.median(self.encoding_ms) + statistics.median(self.undoing_ms))


def measure_bodies(kinds: Mapping[str, Sequence[Samples]], rounds: int) -> list[Bodies]:
    """Every form of every kind in turn. Raises BenchmarkError where a picture does not come back."""
    found = [
        Bodies(kind, form, statistics.mean(one.nbytes for one in some), [], [], [])
        for kind, some in kinds.items()
        for form in FORMS
    ]
    order = random.Random(rounds)
    for number in range(rounds):
        for one in order.sample(found, len(found)):
            results = [_there_and_back(pixels, *FORMS[one.form]) for pixels in kinds[one.kind]]
            if number == 0:
                one.parts = [part for part, _, _ in results]
            one.encoding_ms.append(statistics.median(ms for _, ms, _ in results))
            one.undoing_ms.append(statistics.median(ms for _, _, ms in results))
    return found


def _there_and_back(pixels: Samples, coding: wire.Coding, filtered: bool) -> tuple[float, float, float]:
    """Part of the plain size; time to encode and to undo [ms]."""
    begun = time.perf_counter()
    body = encode(pixels, coding, filtered)
    encoded = time.perf_counter()
    back = undo(body, coding, filtered, pixels.shape, pixels.dtype.str)
    undone = time.perf_counter()
    if back.tobytes() != pixels.tobytes():
        raise BenchmarkError(f"{coding} does not bring back what was put in")
    return len(body) / pixels.nbytes, (encoded - begun) * 1000, (undone - encoded) * 1000


# --- lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How slices are asked for, and of which service."""

    name: str
    settings: tuple[str, ...]
    accept: str
    accept_encoding: str

    def question(self, url: str) -> Question:
        headers = {"Accept-Encoding": self.accept_encoding}
        return Question(stored(url).url, self.accept, headers=headers)


ON, BOTH = ("GPU_RENDER_WIRE_ENCODING=on",), f"{PLANES}, {OCTETS}"
WAYS = (
    Way(AS_IT_IS, ("GPU_RENDER_WIRE_ENCODING=off",), OCTETS, "identity"),
    Way("zstd", ON, OCTETS, "zstd"),
    Way("zstd, filtered", ON, BOTH, "zstd"),
    Way("gzip, filtered", ON, BOTH, "gzip"),
    Way(AUTO, ("GPU_RENDER_WIRE_FAST_NETWORKS=[]",), BOTH, "zstd, gzip"),
)


def samples_of(answer: Answer) -> Samples:
    """What the answer holds, undone. Raises BenchmarkError for what a client does not know."""
    shape = tuple(map(int, answer.headers["x-array-shape"].split(",")))
    dtype, coding, media = (answer.headers.get(name) for name in ("x-array-dtype", "content-encoding", "content-type"))
    if dtype is None or media not in (OCTETS, PLANES) or (media == PLANES and coding is None):
        raise BenchmarkError(f"an answer of type {media} and coding {coding}")
    if coding is None:
        return np.frombuffer(answer.body, dtype).reshape(shape)
    if coding not in ("zstd", "gzip"):
        raise BenchmarkError(f"coding {coding}")
    return undo(answer.body, "zstd" if coding == "zstd" else "gzip", media == PLANES, shape, dtype)


def shape_loopback(mbit_s: int) -> None:
    """Let loopback pass so many Mbit/s; 0: as many as it can."""
    if mbit_s:
        rule = ("root", "tbf", "rate", f"{mbit_s}mbit", "burst", "64kb", "latency", "200ms")
        subprocess.run(["tc", "qdisc", "replace", "dev", "lo", *rule], check=True)
    else:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=False, stderr=subprocess.DEVNULL)


def ask_over_lines(folder: Path, plan: Plan) -> Iterator[dict[str, object]]:
    """Inside the namespace: one result for each slice. Raises BenchmarkError where samples are not the stored ones."""
    with contextlib.ExitStack() as stack:
        ports = dict[tuple[str, ...], int]()
        for settings in dict.fromkeys(way.settings for way in WAYS):
            index = folder.parent / f"{len(ports)}.sqlite"
            command = ("env", *settings, *SERVICE, str(folder), "--index", str(index))
            ports[settings] = stack.enter_context(serving(command, "/health/ready")).port
        for port in reversed(ports.values()):
            with contextlib.closing(Client(port)) as client:
                wait_for_index(client, len(list(folder.iterdir())))
                urls = [frame["url"] for frame in get_json(client, path_of(NATIVE))["frames"]][: plan.slices]
                expected = {url: client.ask(stored(url)).body for url in urls}  # of the last, as they are
        order = random.Random(plan.slices)
        for mbit_s in plan.mbit_s:
            shape_loopback(mbit_s)
            for _ in range(plan.line_rounds):
                for way in order.sample(WAYS, len(WAYS)):
                    yield from _ask(ports[way.settings], way, expected, mbit_s)


def _ask(port: int, way: Way, expected: Mapping[str, bytes], mbit_s: int) -> Iterator[dict[str, object]]:
    with contextlib.closing(Client(port)) as client:
        for url, stored_bytes in expected.items():
            answer = client.ask(way.question(url))
            begun = time.perf_counter()
            found = samples_of(answer)
            took_ms = answer.duration_ms + (time.perf_counter() - begun) * 1000
            if found.tobytes() != stored_bytes:
                raise BenchmarkError(f"{way.name}: {url} is not what was stored")
            coded = "content-encoding" in answer.headers
            yield {"way": way.name, "mbit_s": mbit_s, "ms": took_ms, "nbytes": len(answer.body), "coded": coded}


def over_lines(folder: Path, plan: Plan) -> tuple[list[dict[str, float]], str]:
    """All results of the process in the namespace; or none, and a note that says why.

    Raises BenchmarkError where it fails once it is inside.
    """
    inside = "ip link set lo mtu 1500 up && tc qdisc add dev lo root tbf rate 1gbit burst 64kb latency 200ms"
    try:
        made = subprocess.run(["unshare", "-rn", "sh", "-c", inside], capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return [], NO_LINES.format("the program unshare is missing")
    if made.returncode:
        return [], NO_LINES.format(made.stderr.strip().splitlines()[-1] if made.stderr.strip() else "no reason given")
    arguments = [str(folder), *map(str, (plan.line_rounds, plan.slices)), *map(str, plan.mbit_s)]
    command = ["unshare", "-rn", "sh", "-c", f'{inside} && exec "$@"', "sh"]
    command += [sys.executable, "-m", "benchmarks.wire", "--inside", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise BenchmarkError(f"asking over a line failed: {done.stderr.strip()[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()], LINE_NOTE


def inside(arguments: Sequence[str]) -> int:
    """The process in the namespace: a line of JSON for each slice."""
    folder, line_rounds, slices, *mbit_s = arguments
    plan = Plan(0, 0, tuple(map(int, mbit_s)), int(line_rounds), int(slices))
    for result in ask_over_lines(Path(folder), plan):
        print(json.dumps(result), flush=True)
    return 0


# --- the record --------------------------------------------------------------------------------------------------


def body_measurements(bodies: Sequence[Bodies]) -> Iterator[record.Measurement]:
    """Size, encoding and undoing of each."""
    for one in bodies:
        about: dict[str, str | int | float] = {"form": one.form, "pays below [Mbit/s]": round(one.pays_below_mbit_s)}
        for kind, unit, values in (
            ("size", "of plain", one.parts),
            ("encoding", "ms", one.encoding_ms),
            ("undoing", "ms", one.undoing_ms),
        ):
            yield record.Measurement(
                name=f"{one.form}: {kind}", unit=unit, group=one.kind, parameters=about, summary=record.spread(values)
            )


def line_measurements(results: Sequence[Mapping[str, float]]) -> Iterator[record.Measurement]:
    """Time to the samples by line and way."""
    for (mbit_s, way), some in _by_line(results).items():
        coded = sum(bool(one["coded"]) for one in some)
        yield record.Measurement(
            name=f"{way}: to samples",
            unit="ms",
            group=line_name(mbit_s),
            parameters={"Mbit/s": mbit_s, "way": way, "coded answers": coded, "answers": len(some)},
            summary=record.spread([one["ms"] for one in some]),
            samples=tuple(round(one["ms"], 3) for one in some),
        )


def _by_line(results: Sequence[Mapping[str, float]]) -> dict[tuple[int, str], list[Mapping[str, float]]]:
    """In the order of the lines and of WAYS."""
    found: dict[tuple[int, str], list[Mapping[str, float]]] = {
        (mbit_s, way.name): [] for mbit_s in dict.fromkeys(int(one["mbit_s"]) for one in results) for way in WAYS
    }
    for one in results:
        found[int(one["mbit_s"]), str(one["way"])].append(one)
    return found


def line_name(mbit_s: int) -> str:
    return f"CT slice over {mbit_s:,} Mbit/s" if mbit_s else "CT slice over loopback, unshaped"


def ratios(results: Sequence[Mapping[str, float]]) -> Iterator[record.Ratio]:
    """How many times sooner a slice is there than as it is."""
    found = {key: [one["ms"] for one in some] for key, some in _by_line(results).items()}
    for (mbit_s, way), values in found.items():
        if way != AS_IT_IS:
            plain = (AS_IT_IS, found[mbit_s, AS_IT_IS])
            yield comparing.compare(f"{line_name(mbit_s)}: time to samples", plain, (way, values), group="lines")


def measure(plan: Plan, console: Console) -> record.Run:
    """Make the pictures, encode and undo them; ask for slices over lines."""
    started = running.Started()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "slices"
        write_series(folder, NATIVE, max(plan.pictures, plan.slices), max(plan.pictures, plan.slices))
        data.read_all(folder)
        console.print("bodies")
        bodies = measure_bodies(pictures(folder, plan.pictures), plan.rounds)
        console.print("lines")
        results, note = over_lines(folder, plan)
    return started.record(
        "wire",
        (*NOTES, note),
        measurements=(*body_measurements(bodies), *line_measurements(results)),
        ratios=tuple(ratios(results)),
        programs={"zstd": ".".join(map(str, zstandard.ZSTD_VERSION)), "zlib": zlib.ZLIB_RUNTIME_VERSION},
    )


# --- tables ------------------------------------------------------------------------------------------------------

BODY_COLUMNS = ("body", "form", "of plain", "encoding ms", "undoing ms", "pays below Mbit/s")
LINE_COLUMNS = ("line", "asked for", "ms to samples", "middle half", "coded")


def body_rows(run: record.Run) -> list[tuple[str, ...]]:
    """In the order of BODY_COLUMNS; medians."""
    found: dict[tuple[str, str], dict[str, record.Measurement]] = defaultdict(dict)
    for one in run.measurements:
        if "form" in one.parameters:
            found[one.group, str(one.parameters["form"])][one.name.rpartition(": ")[2]] = one
    return [
        (
            kind,
            form,
            f"{some['size'].summary.median:.3f}",
            f"{some['encoding'].summary.median:.2f}",
            f"{some['undoing'].summary.median:.2f}",
            f"{some['size'].parameters['pays below [Mbit/s]']:,}",
        )
        for (kind, form), some in found.items()
    ]


def line_rows(run: record.Run) -> list[tuple[str, ...]]:
    """In the order of LINE_COLUMNS."""
    return [
        (
            one.group,
            str(one.parameters["way"]),
            f"{one.summary.median:.1f}",
            f"{one.summary.q1:.1f} - {one.summary.q3:.1f}",
            f"{one.parameters['coded answers']} of {one.parameters['answers']}",
        )
        for one in run.measurements
        if "way" in one.parameters
    ]


def table(run: record.Run) -> Table:
    """Both tables for the terminal, one beside nothing else."""
    made = Table.grid(padding=(0, 0))
    made.add_column()
    for title, columns, lines in (
        ("bodies for slow lines", BODY_COLUMNS, body_rows(run)),
        ("a CT slice over lines", LINE_COLUMNS, line_rows(run)),
    ):
        part = Table(title=title, header_style="bold")
        for index, name in enumerate(columns):
            part.add_column(name, justify="left" if index < 2 else "right")
        for before, line in zip([None, *lines], lines, strict=False):
            if before is not None and before[0] != line[0]:
                part.add_section()
            part.add_row(*line)
        made.add_row(part)
    made.add_row(report.heading(run))
    return made


def markdown(run: record.Run) -> str:
    """For docs/benchmarks.md."""
    texts = []
    for columns, lines in ((BODY_COLUMNS, body_rows(run)), (LINE_COLUMNS, line_rows(run))):
        texts.append(grids.markdown(columns, lines, range(2)))
    return "\n\n".join((*texts, f"{report.heading(run)}. {' '.join(run.notes)}\n"))


def plot(run: record.Run, path: Path) -> None:
    """Time to the samples over the speed of the line."""
    made = drawing.figure(8, 4)
    axes = made.add_subplot()
    for way in WAYS:
        mine = [one for one in run.measurements if one.parameters.get("way") == way.name and one.parameters["Mbit/s"]]
        places = [int(one.parameters["Mbit/s"]) for one in mine]
        axes.plot(places, [one.summary.median for one in mine], "-o", label=way.name, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("Mbit/s")
    axes.set_ylabel("ms to the samples of a CT slice")
    axes.legend(fontsize=7)
    axes.grid(linewidth=0.4)
    axes.set_title(f"One slice over slow lines\n{report.heading(run)}", fontsize=9)
    drawing.save(made, path)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-wire.png)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options, console = parser.parse_args(arguments), running.console()
    if options.inside:
        return inside(options.inside)
    chosen = plan or (QUICK if options.quick else FULL)
    return running.command(options, console, lambda: measure(chosen, console), table, markdown, plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
