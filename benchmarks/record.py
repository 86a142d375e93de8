"""What a benchmark writes down: one JSON file a run, of the form that ``results/schema.json`` describes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

RESULTS = Path(__file__).parent / "results"
SCHEMA = RESULTS / "schema.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Summary(_Record):
    """A sample of durations [ms]. Quartiles and percentiles are interpolated linearly."""

    n: int = Field(ge=1)
    median_ms: float
    q1_ms: float
    q3_ms: float
    p95_ms: float | None = Field(default=None, description="absent from results of before it was written down")
    p99_ms: float
    min_ms: float
    max_ms: float


class Spread(_Record):
    """A sample in the unit of what it belongs to. Quartiles and percentiles are interpolated linearly."""

    n: int = Field(ge=1)
    median: float
    q1: float
    q3: float
    p95: float
    p99: float
    min: float
    max: float


class Measurement(_Record):
    """Anything that was measured several times, of this service or of what it is compared with."""

    name: str = Field(description="what was measured, e.g. 'stored values, warm'")
    unit: str = Field(description="of the summary: ms, requests/s, bytes, GB/s ...")
    group: str = Field(default="", description="what belongs into one table or plot, e.g. a transfer syntax")
    who: str = Field(default="gpu-render", description="who was measured: gpu-render, ruler, Orthanc ...")
    parameters: dict[str, str | int | float] = Field(
        default_factory=dict, description="what it depends on, e.g. clients, rows, columns, state"
    )
    summary: Spread
    better: Literal["lower", "higher"] = "lower"
    throughput: float | None = Field(default=None, description="answers, frames or files a second, where counted")
    errors: dict[str, int] = Field(
        default_factory=dict, description="what failed, by HTTP status or by name; it is in no summary"
    )
    samples: tuple[float, ...] = Field(default=(), description="the values themselves, where they are few")

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


class Ratio(_Record):
    """Two measurements of the same run, divided: by their medians, with a 95 % bootstrap interval."""

    name: str = Field(description="what is compared, e.g. 'stored values, warm, 8 clients'")
    group: str = ""
    of: str = Field(description="whose figure is above the line, e.g. gpu-render")
    to: str = Field(description="whose is below it, e.g. Orthanc /numpy, ruler, baseline")
    ratio: float
    low: float
    high: float
    better: Literal["lower", "higher"] = "higher"
    target: float | None = Field(default=None, description="what was promised, where something was")

    @property
    def reached(self) -> bool | None:
        """Whether the ratio of medians is what was promised; None without a promise."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target


class Trace(_Record):
    """One quantity over the time of the run."""

    name: str
    unit: str
    at_s: tuple[float, ...] = Field(description="seconds since the run's start")
    values: tuple[float, ...]


class Case(_Record):
    """One kind of request and how long its answers took, measured by the client."""

    group: str = Field(description="what the slices are stored as, or 'ruler'")
    request: str = Field(description="what was asked for")
    state: str = Field(description="cold: not in the service's cache; warm: in it; or '' where neither applies")
    body_bytes: int = Field(ge=0)
    client: Summary
    server_ms: dict[str, float] = Field(description="median of each step that Server-Timing names [ms]")
    decoder: str
    times_ruler: float = Field(description="median over the median of the ruler in the same run")


class Read(_Record):
    """What fetching one frame read: from the object's file, and in all, the index included."""

    frame_number: int = Field(ge=1)
    file_reads: int
    file_bytes: int
    all_reads: int
    all_bytes: int


class Object(_Record):
    """One object of many frames, and what it took to index it."""

    name: str
    transfer_syntax_uid: str
    frames: int
    file_bytes: int
    index: Summary = Field(description="from a file to an index that answers, worker started anew each time")
    service_peak_bytes: int = Field(description="most memory resident in the service when its index was ready")
    worker_peak_bytes: int = Field(description="most memory resident in the worker that parses")
    manifest_ms: float = Field(description="median time to the series' manifest over HTTP")
    reads: tuple[Read, ...]


class Kernel(_Record):
    """One batch that is on the device already: its kernel alone, beside a copy that moves as many bytes."""

    name: str
    frames: int = Field(ge=1)
    bytes_read: int = Field(description="of samples, records and tables, each once")
    bytes_written: int
    cache_bytes: int = Field(description="of the device's L2")
    kernel: Summary = Field(description="by CUDA events around the kernel")
    copied: Summary = Field(description="a copy from the device to itself: half as many bytes, read and written")
    target_percent: float | None = Field(default=None, description="of the copy's bandwidth, where one was promised")

    @property
    def nbytes(self) -> int:
        """All that crosses to and from the device's memory."""
        return self.bytes_read + self.bytes_written

    @property
    def percent_of_copy(self) -> float:
        """Bandwidth in percent of the copy's, both by their medians."""
        return 100 * self.copied.median_ms / self.kernel.median_ms


class Throughput(_Record):
    """Several passes over the same slices by one path: this service, another library, or the kernel alone."""

    group: str = Field(description="what the slices are stored as")
    request: str = Field(description="series, first frame, window drag, or several series at once")
    path: str = Field(description="what rendered")
    state: str = Field(description="cold: nothing is kept; warm: the samples are where they are rendered")
    slices: int = Field(ge=1, description="of a pass")
    in_flight: int = Field(ge=1, description="most slices that are waited for at a time")
    per_slice: Summary = Field(description="time of a pass over its slices, one value a pass")
    answer: Summary | None = Field(description="from asking for a slice to its picture; none where a pass is one call")
    decoder: str = Field(description="who decoded; empty in warm passes")
    uploads: int = Field(default=0, description="frames to the device, of all passes; so the following three")
    decoded: int = Field(default=0, description="frames that the device decoded")
    downloads: int = Field(default=0, description="batches from the device")
    launches: int = 0

    @property
    def slices_per_s(self) -> float:
        """By the median pass."""
        return 1000 / self.per_slice.median_ms

    @property
    def frames_a_launch(self) -> float | None:
        """None where nothing was launched on a device."""
        return self.slices * self.per_slice.n / self.launches if self.launches else None


class Rate(_Record):
    """Passes over many files or instances: how many a second went through."""

    group: str = Field(description="which index, or which reader")
    what: str
    count: int = Field(ge=1, description="files or instances of one pass")
    seconds: tuple[float, ...] = Field(description="one value a pass")
    peak_bytes: int | None = Field(default=None, description="most memory that Python held more than before, if asked")
    stored_bytes: int | None = Field(default=None, description="size of the index afterwards, if asked")

    @property
    def per_s(self) -> float:
        """By the median pass."""
        return self.count / float(np.median(self.seconds))


class Beside(_Record):
    """One kind of request, asked alone and while others wait, in turns of the same run."""

    group: str = Field(description="what the slices are stored as")
    request: str
    others: str = Field(description="what waits meanwhile")
    others_waiting: int = Field(description="least that waited after the last request of a turn")
    alone: Summary
    beside: Summary

    @property
    def p95_percent(self) -> float:
        """By how much the others raise the 95th percentile [%]."""
        alone, beside = self.alone.p95_ms, self.beside.p95_ms
        return 100 * (beside / alone - 1) if alone and beside else 0.0


class Refusal(_Record):
    """How soon a full service says so."""

    situation: str
    answer: Summary = Field(description="from the request to its 503")


class Stream(_Record):
    """Frames of one series: in one answer, or one by one."""

    group: str = Field(description="what the slices are stored as")
    frames: int = Field(ge=1)
    nbytes: int = Field(description="of samples")
    way: str
    first: Summary = Field(description="from the request to the last byte of the first frame")
    total: Summary = Field(description="to the last byte of the last one")
    peak_bytes: int = Field(description="most memory resident in the service")

    @property
    def gigabytes_per_s(self) -> float:
        """By the median pass."""
        return self.nbytes / self.total.median_ms / 1e6


class Gpu(_Record):
    name: str
    memory_bytes: int
    driver: str


class Machine(_Record):
    """What the figures were measured on. It names no host and no user."""

    cpu: str
    cores: int = Field(description="processors this process may use")
    memory_bytes: int
    system: str
    python: str
    libraries: dict[str, str]
    gpus: tuple[Gpu, ...]

    @property
    def slug(self) -> str:
        """A file name: processor, cores and GPU."""
        gpu = self.gpus[0].name if self.gpus else "no gpu"
        return re.sub(r"[^a-z0-9]+", "-", f"{self.cpu} {self.cores} cores {gpu}".lower()).strip("-")


class Run(_Record):
    """One run of one benchmark."""

    benchmark: str
    date: str = Field(description="start, UTC, ISO 8601")
    duration_s: float
    version: str
    revision: str = Field(description="git commit, '+' where the tree had changes, or 'unknown'")
    backend: str = Field(description="what rendered, as X-Render-Backend said")
    machine: Machine
    load_average: tuple[float, float] = Field(description="of one minute, before and after the run")
    device: str = Field(default="", description="the backend's own words, where a benchmark opened it itself")
    startup_s: float = Field(
        description="from starting the process to the first answer of /health/ready, or to open the backend"
    )
    target_s: float = 2.0
    alarm_s: float = 5.0
    ruler_ms: float = Field(description="median of an application that only copies 512 KiB and answers them; 0: none")
    notes: tuple[str, ...]
    cases: tuple[Case, ...]
    objects: tuple[Object, ...] = Field(default=(), description="objects of very many frames, where they are measured")
    kernels: tuple[Kernel, ...] = Field(default=(), description="kernels beside copies, where they are measured")
    throughputs: tuple[Throughput, ...] = Field(default=(), description="many slices, where they are measured")
    besides: tuple[Beside, ...] = Field(default=(), description="requests beside others, where they are measured")
    refusals: tuple[Refusal, ...] = Field(default=(), description="503s, where they are measured")
    streams: tuple[Stream, ...] = Field(default=(), description="series as a whole, where they are measured")
    rates: tuple[Rate, ...] = Field(default=(), description="many files or instances, where they are measured")
    measurements: tuple[Measurement, ...] = Field(default=(), description="all that has no form of its own above")
    ratios: tuple[Ratio, ...] = Field(default=(), description="measurements of this run beside each other")
    traces: tuple[Trace, ...] = Field(default=(), description="quantities over the time of the run")
    programs: dict[str, str] = Field(
        default_factory=dict, description="versions of other programs that were measured or that measured"
    )


FIGURES = (
    *("cases", "objects", "kernels", "throughputs", "besides", "refusals", "streams", "rates"),
    *("measurements", "ratios", "traces"),
)
"""The fields of a Run that hold what was measured; a file has at least one of them."""


def summarize(durations_ms: Sequence[float]) -> Summary:
    """Median, quartiles, 95th and 99th percentile and range. Raises ValueError for an empty sample."""
    if not durations_ms:
        raise ValueError("no durations to summarize")
    low, q1, median, q3, p95, p99, high = np.percentile(durations_ms, [0, 25, 50, 75, 95, 99, 100]).tolist()
    return Summary(
        n=len(durations_ms),
        median_ms=median,
        q1_ms=q1,
        q3_ms=q3,
        p95_ms=p95,
        p99_ms=p99,
        min_ms=low,
        max_ms=high,
    )


def spread(values: Sequence[float]) -> Spread:
    """The same for values of any unit. Raises ValueError for an empty sample."""
    if not values:
        raise ValueError("no values to summarize")
    low, q1, median, q3, p95, p99, high = np.percentile(values, [0, 25, 50, 75, 95, 99, 100]).tolist()
    return Spread(n=len(values), median=median, q1=q1, q3=q3, p95=p95, p99=p99, min=low, max=high)


def schema_text() -> str:
    """The JSON Schema of a result file, as it is committed."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Run.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write(run: Run, folder: Path) -> Path:
    """Write ``<date>-<benchmark>-<machine>.json`` into ``folder`` and return its path.

    What another revision left there on the same day stays: then the name ends in this one's revision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_stem(run)}.json"
    if path.exists() and read(path).revision != run.revision:
        path = folder / f"{file_stem(run)}-{run.revision[:9]}.json"
    path.write_text(run.model_dump_json(indent=2) + "\n")
    return path


def file_stem(run: Run) -> str:
    """Date, benchmark and machine."""
    return f"{run.date[:10]}-{run.benchmark}-{run.machine.slug}"


def read(path: Path) -> Run:
    """Read and check a result file. Raises pydantic.ValidationError."""
    return Run.model_validate_json(path.read_text())


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
