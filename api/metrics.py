"""``/metrics``: what a Prometheus server scrapes. Everything but requests is read at the moment of the scrape."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.benchmarks import Benchmarks, self_test_families
from api.encoding import encoder_of
from api.problems import RESPONSES
from api.sending import Readers
from api.service import Service, service_of
from gpu_render import __version__
from gpu_render.archive import ArchiveStatus
from gpu_render.gpus import THROTTLE_REASONS, Gpu, read_gpus

router = APIRouter(tags=["metrics"], responses=RESPONSES)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody asks for

PREFIX = "gpu_render_"
#: Upper ends in seconds. 2 is the target for a slice, 5 the alarm: both are read off exactly.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: The route of requests that no route template fits: the viewer's files, and what there is not.
NO_ROUTE = "other"

#: What the figures of the renderer mean. One that is not named here is exported all the same.
FIGURES = {
    "queue_waiting": "Pictures that wait for the device",
    "loads_waiting": "Frames that wait to be read and decoded",
    "prefetches_waiting": "Prefetches that wait until nobody else does",
    "lookahead_begun_total": "Frames that were to be decoded before somebody who scrolls asked for them",
    "lookahead_dropped_total": "Those of them that were dropped, because they turned or stopped",
    "lookahead_used_total": "Those of them that were asked for",
    "reencode_waiting": "Frames that wait to be coded anew for a later visit",
    "reencode_kept_total": "Frames that were coded anew, compared and written to disk",
    "reencode_refused_total": "Frames that cannot be coded anew: the stored ones are decoded each time",
    "reencode_differing_total": "Those of them whose copy came out otherwise than the stored frame: report this",
    "reencode_hits_total": "Frames that were decoded from a copy",
    "reencode_damaged_total": "Copies that were not as they had been written",
    "reencode_outdated_total": "Copies of a file that has changed, or made with other codecs",
    "reencode_evicted_total": "Copies that made room for others",
    "reencode_removed_total": "Copies of instances that are not held any more",
    "reencode_bytes": "Disk space of all copies, as this process saw it when it last wrote one",
    "reencode_paused": "1 while no copies are written since the disk is full or fails",
    "answer_bytes_waiting": "Parts of answers that their readers have not taken yet",
    "encoded_answers_total": "Answers with arrays that were compressed, since a line was slow",
    "encoded_bytes_saved_total": "By how much that made them smaller",
    "slow_readers_cut_off_total": "Answers broken off because nothing of them was read",
    "host_cache_bytes": "Decoded frames held in the host's memory",
    "host_cache_frames": "Decoded frames held in the host's memory",
    "host_cache_hits_total": "Requests whose frame was held in the host's memory",
    "host_cache_misses_total": "Requests whose frame was not known to the host: it was read, unless the device had it",
    "device_cache_bytes": "Frames held in the device's memory",
    "device_cache_budget_bytes": "Most that frames may take of the device's memory",
    "device_cache_frames": "Frames held in the device's memory",
    "device_cache_evictions_total": "Frames that left the device's memory for others",
    "uploads_total": "Frames copied to the device",
    "upload_bytes_total": "Bytes copied to the device",
    "downloads_total": "Batches of pictures copied from the device, one for each launch",
    "launches_total": "Kernel launches; pictures of one batch share one",
    "decoded_on_device_total": "Frames that the device decoded",
    "decode_refused_by_device_total": "Frames that the device's decoder refused and the CPU decoded",
    "device_faults_total": "Batches in which the device failed",
    "out_of_memory_total": "Allocations that the device had no memory for",
    "device_lost": "1 when the device was lost and the process renders on the CPU",
    "rendered_on_cpu_total": "Pictures that the CPU rendered in place of the device",
}


class Metrics:
    """The figures of one service process that are counted as they happen, and the process itself.

    ``reads_gpus``: whether this process tells NVML's figures too; of several on one machine, one is enough.
    """

    def __init__(self, reads_gpus: bool = True) -> None:
        self.reads_gpus = reads_gpus
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            f"{PREFIX}request_seconds",
            "Time from a request to the last byte of its answer, by route and class of status",
            ("route", "status"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, int], Histogram] = {}  # labels() looks for one under a lock

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answer. ``status`` 0: there was none, since the client went or the handler broke off."""
        key = route, status // 100
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(route, f"{status // 100}xx" if status else "none")
        child.observe(seconds)

    def text(self, families: Iterable[Metric]) -> bytes:
        """All of it, and ``families``, in Prometheus' text format."""
        return generate_latest(self._registry) + generate_latest(Given(families))


class Given(Collector):
    """Families that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """As given."""
        return self._families


class Measured:
    """Pure ASGI: measures every request and looks at nothing but the status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)  # the router leaves it there
            self._metrics.observe(route, status, time.perf_counter() - begun)


# --- families -----------------------------------------------------------------------------------------------


def figure_families(figures: Mapping[str, float]) -> Iterator[Metric]:
    """A counter for each name that ends in ``_total``, a gauge for any other."""
    for name, value in figures.items():
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        yield family(PREFIX + name, FIGURES.get(name, name.replace("_", " ")), value=value)


def index_families(status: ArchiveStatus) -> Iterator[Metric]:
    """How far the index is."""
    yield GaugeMetricFamily(f"{PREFIX}index_scanning", "1 while files are looked for", value=status.scanning)
    yield GaugeMetricFamily(f"{PREFIX}index_instances", "SOP Instances in the index", value=status.instances)
    yield GaugeMetricFamily(f"{PREFIX}index_frames", "Frames in the index that can be shown", value=status.frames)
    unreadable = len(status.unreadable)
    yield GaugeMetricFamily(f"{PREFIX}index_unreadable_files", "Files that could not be read", value=unreadable)


#: (name, help, field of Gpu); the label ``gpu`` is the number that nvidia-smi shows.
_GPU_GAUGES = (
    ("memory_used_bytes", "Memory in use, by all processes", "memory_used"),
    ("memory_total_bytes", "Memory there is", "memory_total"),
    ("utilization_percent", "Share of the last sample period in which a kernel ran", "gpu_utilization"),
    ("memory_utilization_percent", "Share of the last sample period in which memory was used", "memory_utilization"),
    ("temperature_celsius", "Temperature", "temperature_c"),
    ("power_watts", "Power drawn", "power_w"),
    ("power_limit_watts", "Power that may be drawn", "power_limit_w"),
)


def gpu_families(gpus: list[Gpu]) -> Iterator[Metric]:
    """NVML's figures, one sample a device; what NVML does not say has no sample."""
    up = GaugeMetricFamily(f"{PREFIX}gpu_up", "0 for a GPU that does not answer the driver", labels=("gpu",))
    about = InfoMetricFamily(f"{PREFIX}gpu", "Which GPU it is", labels=("gpu",))
    for gpu in gpus:
        up.add_metric((str(gpu.index),), gpu.answers)
        known = {"name": gpu.name, "uuid": gpu.uuid, "driver": gpu.driver}
        about.add_metric((str(gpu.index),), {key: value for key, value in known.items() if value is not None})
    yield up
    yield about
    for name, text, field in _GPU_GAUGES:
        family = GaugeMetricFamily(f"{PREFIX}gpu_{name}", text, labels=("gpu",))
        for gpu in gpus:
            if (value := getattr(gpu, field)) is not None:
                family.add_metric((str(gpu.index),), value)
        yield family
    yield _ecc_family(gpus)
    yield _throttle_family(gpus)


def _ecc_family(gpus: list[Gpu]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}gpu_ecc_errors", "ECC errors since the driver was loaded", labels=("gpu", "kind")
    )
    for gpu in gpus:
        for kind, count in (("corrected", gpu.ecc_corrected), ("uncorrected", gpu.ecc_uncorrected)):
            if count is not None:
                family.add_metric((str(gpu.index), kind), count)
    return family


def _throttle_family(gpus: list[Gpu]) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}gpu_throttled", "1 for each reason that holds clocks back", labels=("gpu", "reason")
    )
    for gpu in gpus:
        for reason in THROTTLE_REASONS.values() if gpu.throttle_reasons is not None else ():
            family.add_metric((str(gpu.index), reason), reason in (gpu.throttle_reasons or ()))
    return family


def about_family(backend: str, device: str) -> Metric:
    """Version, backend and device as labels of a 1."""
    value = {"version": __version__, "backend": backend, "device": device}
    return InfoMetricFamily(f"{PREFIX}service", "What this process is", value=value)


def _service_families(service: Service, with_gpus: bool) -> Iterator[Metric]:
    yield from index_families(service.archive.status())
    if with_gpus:
        yield from gpu_families(read_gpus())


_EXAMPLE = """# HELP gpu_render_queue_waiting Pictures that wait for the device
# TYPE gpu_render_queue_waiting gauge
gpu_render_queue_waiting 0.0
"""


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": _EXAMPLE}}}},
)
async def get_metrics(request: Request) -> Response:
    """Requests, GPUs (NVML), caches, queues and the process in Prometheus' text format, read now."""
    service, metrics = service_of(request), cast(Metrics, request.app.state.metrics)
    renderer = service.renderer
    about = about_family(renderer.backend.name, renderer.backend.description)
    readers = cast(Readers, request.app.state.readers)
    tests = self_test_families(cast(Benchmarks, request.app.state.benchmarks), PREFIX)
    figures = renderer.figures() | service.lookahead.figures() | readers.figures() | encoder_of(request).figures()
    if service.reencoder is not None:
        figures |= service.reencoder.figures()
    families = [about, *figure_families(figures), *tests]

    def text() -> bytes:  # off the event loop: a GPU in trouble may let NVML wait, and the index is a file
        return metrics.text([*families, *_service_families(service, metrics.reads_gpus)])

    body = await asyncio.to_thread(text)
    return Response(body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"})
