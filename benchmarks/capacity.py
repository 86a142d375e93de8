"""``python -m benchmarks.capacity``: how many users a node carries, and what saturates first, from measured figures.

It prints the tables that ``docs/capacity.md`` holds; ``--write`` puts them there, with the plot, from the newest
results. What is measured, what is a formula and what is assumed stands in the document.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import drawing, history, record
from benchmarks.history import Stored
from benchmarks.queueing import Seconds, Station, simulate

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

DOCUMENT = Path(__file__).parent.parent / "docs" / "capacity.md"
PLOT = Path(__file__).parent.parent / "docs" / "images" / "capacity.png"

SYNTAXES = ("uncompressed", "RLE", "JPEG lossless", "JPEG-LS", "HTJ2K", "JPEG 2000")
SEVERAL_THREADS = ("JPEG 2000",)
"""Whose decoder takes all cores while they are idle: its work is then its time on each of them."""
COLD, WARM, PICTURE = ("stored values", "cold"), ("stored values", "warm"), "stored values, warm"
SLICE_BYTES = 512 * 512 * 2

SLICES, BURST, PER_S = 300, 30, 30.0
"""A study, the slices of one scroll through a part of it, and how many a second go by."""
IMAGES_PER_MINUTE = 16.1
"""McDonald et al. 2015: images that one radiologist interprets a minute of the working day."""
STUDY_S = SLICES / IMAGES_PER_MINUTE * 60

SLICE_LIMIT_S, OPEN_LIMIT_S = 0.1, 2.0
GPU_DECODE_MS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Nobody has measured it: a frame of the GPU's decoder, by its throughput."""
LINKS_GBIT = (1, 10, 25)
PAYLOAD = 1460 / 1538
"""Of what is on an Ethernet: TCP's payload of a full frame, over the frame with preamble and gap [byte]."""
DISKS = {"hard disk, 150 MB/s": 150e6, "SATA SSD, 500 MB/s": 500e6, "NVMe SSD, 3 GB/s": 3e9}
BUSY = 0.8
"""Nearer to saturation what was asked for ahead grows over minutes, longer than a simulated window."""
JOBS, LEAST_S, SEED, STEPS = 30_000, 20.0, 0, 6
NODES = 10

Table = list[list[str]]


class NoResult(Exception):
    """A result that the arithmetic needs is not there."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one machine, each from the newest result that has it. Times in ms a slice.

    ``loop_ms``: what the process that serves needs for a slice, whatever else it takes. ``alone_ms``: what a slice
    takes beyond that when it is first asked for and nobody else asks; ``together_ms``: the same from a whole series by
    six connections, the client's own work included, where that was measured.
    """

    sources: tuple[str, ...]
    machine: str
    cores: int
    loop_ms: float
    loop_from: str
    alone_ms: Mapping[str, float]
    together_ms: Mapping[str, float]
    streams: Mapping[str, float]
    copy_gb_s: float | None
    lookup_ms: Mapping[str, float]
    manifest_ms: float

    @property
    def overhead_ms(self) -> float:
        """What a slice costs more beside others than alone, where nothing is decoded: the client's part among it."""
        return max(0.0, self.together_ms.get("uncompressed", 0.0) - self.alone_ms["uncompressed"])

    def predicted_ms(self, syntax: str) -> float:
        """Of a slice beside others, from what it costs alone."""
        return self.alone_ms[syntax] + self.overhead_ms

    def work_ms(self, syntax: str) -> float:
        """Time of a core for a slice that is first asked for, beside the loop: predicted, or measured where that is
        more."""
        return max(self.predicted_ms(syntax), self.together_ms.get(syntax, 0.0))


def measured(stored: Sequence[Stored]) -> Measured:
    """From the newest results of the machine that the newest slices were measured on. Raises NoResult."""
    slices = [one for one in stored if one.run.benchmark == "slice"]
    if not slices:
        raise NoResult("there is no result of the benchmark slice")
    newest = history.latest(slices)["slice"]
    own = [one for one in stored if one.run.machine.slug == newest.run.machine.slug]
    latest = history.latest(own)
    used = [latest[name] for name in ("slice", "series", "concurrency", "bandwidth", "index") if name in latest]
    runs = {one.run.benchmark: one.run for one in used}
    cores = newest.run.machine.cores
    loop_ms, loop_from = _loop(runs)
    streams = _streams(runs.get("series"))
    return Measured(
        sources=tuple(one.path.name for one in used),
        machine=f"{newest.run.machine.cpu}, {cores} cores, {len(newest.run.machine.gpus) or 'no'} GPU",
        cores=cores,
        loop_ms=loop_ms,
        loop_from=loop_from,
        alone_ms={name: _alone(runs["slice"], name, cores) for name in SYNTAXES},
        together_ms={name: max(0.0, cores * 1e3 / rate - loop_ms) for name, rate in streams.items()},
        streams=streams,
        copy_gb_s=_copy(runs.get("bandwidth")),
        lookup_ms=_lookups(runs.get("index")),
        manifest_ms=_manifest(runs.get("index")),
    )


def _case(run: record.Run, group: str, what: tuple[str, str]) -> record.Case:
    for case in run.cases:
        if (case.group, (case.request, case.state)) == (group, what):
            return case
    raise NoResult(f"{group}: {', '.join(what)} was not measured")


def _alone(run: record.Run, syntax: str, cores: int) -> float:
    cold, warm = _case(run, syntax, COLD), _case(run, syntax, WARM)
    more = cold.server_ms.get("decode", 0.0) * (cores - 1) if syntax in SEVERAL_THREADS else 0.0
    return max(0.0, cold.client.median_ms - warm.client.median_ms) + more


def _loop(runs: Mapping[str, record.Run]) -> tuple[float, str]:
    """By the best throughput of warm slices where many clients were measured, else by one client's time of a slice."""
    many = runs.get("concurrency")
    rates = [
        one.throughput
        for one in (many.measurements if many is not None else ())
        if one.name.startswith(PICTURE) and one.throughput and one.who == "gpu-render"
    ]
    if rates:
        return 1e3 / max(rates), "by the best throughput of warm slices"
    return _case(runs["slice"], "uncompressed", WARM).client.median_ms, "a warm slice of one client, with its time"


def _streams(run: record.Run | None) -> dict[str, float]:
    """Slices a second of 300 by six connections, by transfer syntax."""
    return {
        one.group: one.frames * 1e3 / one.total.median_ms
        for one in (run.streams if run is not None else ())
        if one.frames == SLICES and one.way.startswith("one by one") and one.group in SYNTAXES
    }


def _copy(run: record.Run | None) -> float | None:
    """Bytes read and written by copies, GB/s, the median of all batches."""
    found = [one.nbytes / one.copied.median_ms / 1e6 for one in (run.kernels if run is not None else ())]
    return float(np.median(found)) if found else None


def _lookups(run: record.Run | None) -> dict[str, float]:
    cases = run.cases if run is not None else ()
    return {one.group: one.client.median_ms for one in cases if one.request == "where a frame is"}


def _manifest(run: record.Run | None) -> float:
    """Reading the data sets of a series from the index [ms], the largest; 0 where it was not measured."""
    cases = run.cases if run is not None else ()
    return max((one.client.p95_ms or 0 for one in cases if one.request == "data sets of a series"), default=0.0)


# --- what a user asks for ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Studies:
    """All slices of some studies, study by study. ``opened`` [s]: when the study of each slice was; ``reached`` [s]:
    when the user comes to the slice; ``first``: it is the first one of its study."""

    opened: Seconds
    reached: Seconds
    first: Flags

    def only(self, chosen: Flags | Indices) -> "Studies":
        """Some of the slices, or all in another order."""
        return Studies(self.opened[chosen], self.reached[chosen], self.first[chosen])


def studies(users: float, begin_s: float, end_s: float) -> Studies:
    """Those that are opened in a window. A user opens a study, scrolls through it in bursts with pauses of random
    length, and opens the next one; many users together open them at random."""
    rng = np.random.default_rng(SEED)
    bursts = SLICES // BURST
    count = rng.poisson(users * (end_s - begin_s) / STUDY_S)
    opened = np.sort(rng.uniform(begin_s, end_s, count))
    pauses = rng.exponential((STUDY_S - SLICES / PER_S) / bursts, (count, bursts))
    pauses[:, 0] = 0.0
    begun = opened[:, None] + np.cumsum(pauses, axis=1) + np.arange(bursts) * BURST / PER_S
    reached = (begun[:, :, None] + np.arange(BURST) / PER_S).reshape(-1)
    first = np.zeros((count, SLICES), np.bool_)
    first[:, 0] = True
    return Studies(np.repeat(opened, SLICES), reached, first.reshape(-1))


@dataclass(frozen=True, slots=True)
class Node:
    """What a slice takes [ms]: on any core, on the device (None: there is none), and of the serving process."""

    cores: int
    work_ms: float
    loop_ms: float
    device_ms: float | None = None
    manifest_ms: float = 0.0

    @property
    def slices_per_s(self) -> dict[str, float]:
        """Most slices a second by what limits them."""
        device = {} if self.device_ms is None else {"GPU": 1e3 / self.device_ms}
        return {"cores": self.cores * 1e3 / (self.work_ms + self.loop_ms), "event loop": 1e3 / self.loop_ms, **device}

    @property
    def first(self) -> str:
        """What saturates first. With one slice at a time in the loop, the loop and all cores may be the same limit."""
        return min(self.slices_per_s, key=lambda name: self.slices_per_s[name])


def percentiles(node: Node, users: float, *, ahead: bool) -> tuple[float, float]:
    """95th percentile [s] of the wait for a slice that the user has come to, and for the first one of a study.

    ``ahead``: the viewer asks for the whole series when the study is opened, and for a slice with more urgency when the
    user has come to it; otherwise it asks only then, and the user waits for every slice.
    """
    end_s = max(JOBS / (users * SLICES / STUDY_S), LEAST_S)
    if ahead:
        asked = studies(users, 0.0, end_s)
        arrivals = asked.opened
    else:
        asked = studies(users, -4 * STUDY_S, end_s)  # of which slices are reached in the window
        asked = asked.only((asked.reached >= 0) & (asked.reached < end_s))
        asked = asked.only(np.argsort(asked.reached, kind="stable"))
        arrivals = asked.reached
    work = np.where(asked.first, node.work_ms + node.manifest_ms, node.work_ms) / 1e3
    loop = np.full(work.size, node.loop_ms / 1e3)
    device = [] if node.device_ms is None else [np.full(work.size, node.device_ms / 1e3)]
    stations = [Station(node.cores), *[Station(1, on_core=False) for _ in device], Station(1)]
    ended = simulate(arrivals, [work, *device, loop], stations, node.cores, asked.reached)
    waits = np.maximum(0.0, ended - asked.reached)
    return _p95(waits[~asked.first]), _p95(waits[asked.first])


def _p95(waits: Seconds) -> float:
    return float(np.percentile(waits, 95)) if waits.size else 0.0


def users_of(node: Node, *, ahead: bool) -> int:
    """Most users at which both 95th percentiles are kept, and no more than BUSY of what saturates the node; the
    result of halving an interval a few times."""

    def kept(users: float) -> bool:
        slice_s, open_s = percentiles(node, users, ahead=ahead)
        return slice_s <= SLICE_LIMIT_S and open_s <= OPEN_LIMIT_S

    low, high = 0.0, BUSY * most_users(node)
    if kept(high):
        return int(high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return int(low)


def most_users(node: Node) -> float:
    """At whose mean rate of slices something of the node is always busy."""
    return min(node.slices_per_s.values()) * STUDY_S / SLICES


def node_of(found: Measured, syntax: str) -> Node:
    """Without a GPU."""
    return Node(found.cores, found.work_ms(syntax), found.loop_ms, None, found.manifest_ms)


def gpu_node_of(found: Measured, decode_ms: float) -> Node:
    """With one that decodes: the cores do for a slice what they do for one that needs no decoding."""
    return Node(found.cores, found.work_ms("uncompressed"), found.loop_ms, decode_ms, found.manifest_ms)


# --- tables --------------------------------------------------------------------------------------------------


def inputs(found: Measured) -> Table:
    rows = [["stored as", "alone", "predicted", "together", "used", "slices/s predicted", "slices/s measured"]]
    for name in SYNTAXES:
        together, stream = found.together_ms.get(name), found.streams.get(name)
        predicted = Node(found.cores, found.predicted_ms(name), found.loop_ms)
        rows.append(
            [
                name,
                figure(found.alone_ms[name]),
                figure(found.predicted_ms(name)),
                "" if together is None else figure(together),
                figure(found.work_ms(name)),
                figure(min(predicted.slices_per_s.values())),
                "" if stream is None else figure(stream),
            ]
        )
    return rows


def resources(found: Measured) -> Table:
    rows = [["resource", "arithmetic", "slices/s", "users by the mean"]]

    def add(name: str, arithmetic: str, per_s: float) -> None:
        rows.append([name, arithmetic, figure(per_s), figure(per_s * STUDY_S / SLICES)])

    for name in SYNTAXES:
        work = found.work_ms(name)
        text = f"{found.cores} / ({figure(work)} + {figure(found.loop_ms)} ms)"
        add(f"cores, {name}", text, found.cores * 1e3 / (work + found.loop_ms))
    add("event loop", f"1 / {figure(found.loop_ms)} ms", 1e3 / found.loop_ms)
    if found.copy_gb_s is not None:
        moved = 4 * SLICE_BYTES
        add("memory", f"{figure(found.copy_gb_s)} GB/s / {moved / 1e6:.2f} MB", found.copy_gb_s * 1e9 / moved)
    for gbit in LINKS_GBIT:
        text = f"{gbit} Gbit/s x {PAYLOAD:.3f} / {SLICE_BYTES * 8 / 1e6:.2f} Mbit"
        add(f"network, {gbit} Gbit/s", text, gbit * 1e9 * PAYLOAD / (SLICE_BYTES * 8))
    for name, rate in DISKS.items():
        add(name, f"/ {SLICE_BYTES / 1e6:.3f} MB", rate / SLICE_BYTES)
    for name, milliseconds in found.lookup_ms.items():
        add(f"index, {name}", f"1 / {figure(milliseconds)} ms", 1e3 / milliseconds)
    return rows


def carried(found: Measured, syntaxes: Iterable[str] = SYNTAXES) -> Table:
    """Users of one node, simulated, and of ten."""
    rows = [["stored as", "users", "users, ahead", "by the mean", f"{NODES} nodes", f"{NODES} nodes, ahead", "first"]]
    for name in syntaxes:
        node = node_of(found, name)
        counts = [users_of(node, ahead=ahead) for ahead in (False, True)]
        many = [rounded(NODES * count) for count in counts]
        rows.append([name, *map(rounded, counts), rounded(int(most_users(node))), *many, node.first])
    return rows


def with_gpu(found: Measured, decode_ms: Iterable[float] = GPU_DECODE_MS) -> Table:
    rows = [["GPU decode, ms a frame (assumed)", "slices/s", "users", "users, ahead", "first"]]
    for each in decode_ms:
        node = gpu_node_of(found, each)
        counts = [users_of(node, ahead=ahead) for ahead in (False, True)]
        rows.append([figure(each), figure(min(node.slices_per_s.values())), *map(rounded, counts), node.first])
    return rows


def figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rounded(users: int) -> str:
    """Two digits: more are not in the model."""
    scale = 10 ** max(0, len(str(users)) - 2)
    return f"{users // scale * scale:,}"


def markdown(rows: Table) -> str:
    head, *body = rows
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sources(found: Measured) -> str:
    """Which results, and what of them has no table."""
    files = "\n".join(f"- `benchmarks/results/{name}`" for name in found.sources)
    return (
        f"{found.machine}:\n\n{files}\n\nThe loop takes {figure(found.loop_ms)} ms a slice ({found.loop_from}); "
        f"a manifest {figure(found.manifest_ms)} ms (p95 of reading a series from the index, the slower database).\n"
    )


TABLES: dict[str, Callable[[Measured], str]] = {
    "sources": sources,
    "inputs": lambda found: markdown(inputs(found)),
    "resources": lambda found: markdown(resources(found)),
    "users": lambda found: markdown(carried(found)),
    "gpu": lambda found: markdown(with_gpu(found)),
}


def block(document: str, name: str) -> str:
    """What stands between ``<!-- capacity: NAME -->`` and ``<!-- end -->``. Raises NoResult."""
    match = re.search(rf"<!-- capacity: {name} -->\n(.*?)<!-- end -->", document, re.DOTALL)
    if match is None:
        raise NoResult(f"the document has no place for {name}")
    return match[1]


def rewritten(document: str, texts: Mapping[str, str]) -> str:
    """``document`` with other tables."""
    for name, text in texts.items():
        document = document.replace(
            f"<!-- capacity: {name} -->\n{block(document, name)}<!-- end -->",
            f"<!-- capacity: {name} -->\n{text}<!-- end -->",
        )
    return document


def waits_ms(node: Node, users: Seconds, *, ahead: bool) -> list[float]:
    """95th percentiles of the wait for a slice, for a logarithmic axis."""
    return [max(0.1, 1e3 * percentiles(node, each, ahead=ahead)[0]) for each in users.tolist()]


def plot(found: Measured, path: Path) -> None:
    """95th percentile of a slice over users of one node, by what the slices are stored as."""
    drawn = drawing.figure(9, 4.6)
    axes = drawn.add_subplot()
    for name in SYNTAXES:
        node = node_of(found, name)
        users = most_users(node) * np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
        (line,) = axes.plot(users, waits_ms(node, users, ahead=False), "o-", markersize=3, label=name)
        axes.plot(users, waits_ms(node, users, ahead=True), ":", color=line.get_color())
    axes.axhline(SLICE_LIMIT_S * 1e3, color="0.4", linestyle="--", linewidth=1)
    axes.text(axes.get_xlim()[0], SLICE_LIMIT_S * 1.05e3, " 100 ms", color="0.3", va="bottom", fontsize=8)
    axes.set(
        xscale="log", yscale="log", xlabel="users of one node, reading CT", ylabel="p95 of a slice, simulated [ms]"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"Simulated, {found.machine}; dotted: fetched ahead (0.1 ms: it is there before)", fontsize=9)
    drawing.save(drawn, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; with --write put them into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of results")
    options = parser.parse_args(arguments)
    try:
        found = measured(history.load([options.results]).stored)
        texts = {name: make(found) for name, make in TABLES.items()}
    except NoResult as error:
        parser.exit(1, f"{error}\n")
    for text in texts.values():
        print(text)
    if options.write:
        DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), texts))
        plot(found, PLOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
