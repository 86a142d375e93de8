"""``/api/benchmarks``: what was measured, and a test in which this service measures itself."""

import asyncio
import hmac
import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import APIRouter, Query, Request
from prometheus_client.core import GaugeMetricFamily, Metric
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.documents import json_document
from api.problems import RESPONSES
from api.service import service_of, while_connected
from benchmarks import history, record
from benchmarks.running import Started
from gpu_render import selftest
from gpu_render.errors import Forbidden, SelfTestRunning, Unauthorized
from gpu_render.frame import EncodedFrame
from gpu_render.phantom import COLUMNS, ROWS
from gpu_render.renderer import Renderer
from gpu_render.selftest import Timed

router = APIRouter(prefix="/api/benchmarks", tags=["benchmarks"], responses=RESPONSES)

log = logging.getLogger("gpu_render.api")

SELF_TEST = "self-test"
"""What the service's measurements of itself are called in ``benchmark``."""
_BEARER = re.compile(r"bearer +([^ ]+) *", re.IGNORECASE)

Status = Literal["ok", "slow", "alarm"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(_Document):
    """One run of one benchmark, and where it comes from."""

    name: str = Field(description="of its file, without folder and ending")
    source: Literal["release", "local", "memory"] = Field(
        description="release: it came with this version; local: it lies in the folder that the operator named; "
        "memory: this process measured it and has no folder to keep it in"
    )
    machine: str = Field(description="processor, cores and GPU; figures of different machines cannot be compared")
    run: record.Run


class Results(_Document):
    """The answer of ``GET /api/benchmarks``, oldest result first."""

    results: tuple[Result, ...]
    unreadable: dict[str, str] = Field(description="files that are no results of this form, and why")


class SelfTest(_Document):
    """The answer of ``POST /api/benchmarks``."""

    status: Status = Field(description="slow: a slice took 2 s or more; alarm: 5 s or more")
    slowest_ms: float = Field(description="the slowest slice of all transfer syntaxes")
    result: Result


class Benchmarks:
    """The results of one process' folders and of its last self-test. ``local``: a folder of the operator's, if any."""

    def __init__(self, local: Path | None) -> None:
        self.local = local
        self.running = False
        self.last: SelfTest | None = None
        self.last_s = 0.0  # Unix time
        self.frames: dict[str, EncodedFrame] | None = None  # made by the first self-test
        self._lock = threading.Lock()
        self._files: tuple[tuple[str, int, int], ...] | None = None
        self._stored = history.Results((), {})

    def document(self, benchmark: str | None, machine: str | None, latest: bool) -> Results:
        """What fits, oldest first. Reads files where one has changed."""
        stored = self._read()
        found = [Result(**_place(one.path), machine=one.run.machine.slug, run=one.run) for one in stored.stored]
        if self.last is not None and self.last.result.source == "memory":
            found.append(self.last.result)
        found = [one for one in found if benchmark in (None, one.run.benchmark) and machine in (None, one.machine)]
        if latest:
            found = [*{(one.run.benchmark, one.machine): one for one in found}.values()]
        return Results(results=tuple(found), unreadable={path.name: why for path, why in stored.refused.items()})

    def _read(self) -> history.Results:
        folders = [record.RESULTS, *([self.local] if self.local is not None else [])]
        with self._lock:
            files = tuple(_stamps(folders))
            if files != self._files:
                self._stored, self._files = history.load(folders), files
            return self._stored

    def keep(self, run: record.Run) -> Result:
        """Into the operator's folder, where there is one that can be written to."""
        stem, source = record.file_stem(run), "memory"
        if self.local is not None:
            try:
                stem, source = record.write(run, self.local).stem, "local"
            except (OSError, ValueError) as error:  # ValueError: what lies there under this name is no result
                log.error("a self-test cannot be kept in GPU_RENDER_BENCHMARK_RESULTS (%s)", type(error).__name__)
        return Result(name=stem, source=cast(Any, source), machine=run.machine.slug, run=run)


def _stamps(folders: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            try:
                status = path.stat()
            except OSError:
                continue
            yield str(path), status.st_mtime_ns, status.st_size


def _place(path: Path) -> dict[str, Any]:
    return {"name": path.stem, "source": "release" if path.parent == record.RESULTS.resolve() else "local"}


def _benchmarks(request: Request) -> Benchmarks:
    """Those of this application, made by ``api.app.create_app``."""
    return cast(Benchmarks, request.app.state.benchmarks)


# --- what was measured --------------------------------------------------------------------------------------

_RESULT = {
    "name": "2026-11-25-slice-x-2-cores-no-gpu",
    "source": "release",
    "machine": "x-2-cores-no-gpu",
    "run": {"benchmark": "slice", "date": "2026-11-25T03:17:06+00:00"},
}


@router.get(
    "",
    summary="Results of benchmarks",
    response_class=Response,
    responses={200: {"content": {"application/json": {"example": {"results": [_RESULT], "unreadable": {}}}}}},
)
async def get_results(
    request: Request,
    benchmark: Annotated[str | None, Query(description="only results of this benchmark")] = None,
    machine: Annotated[str | None, Query(description="only results of this machine")] = None,
    latest: Annotated[bool, Query(description="only the newest result of each benchmark on each machine")] = False,
) -> Response:
    """Results that came with this version, those of the operator's folder, and this process' last self-test.

    The form is that of ``/api/benchmarks/schema``; a ``run`` is what a benchmark writes.
    """
    benchmarks = _benchmarks(request)

    def answer() -> Response:
        return json_document(request, benchmarks.document(benchmark, machine, latest).model_dump_json().encode())

    return await asyncio.to_thread(answer)


@router.get(
    "/schema",
    summary="The form of results",
    response_class=Response,
    responses={200: {"content": {"application/schema+json": {"example": {"title": "Results", "type": "object"}}}}},
)
async def get_schema(request: Request) -> Response:
    """JSON Schema (2020-12) of what ``GET /api/benchmarks`` answers."""

    def answer() -> Response:
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}
        return json_document(request, orjson.dumps(schema), "application/schema+json")

    return await asyncio.to_thread(answer)


# --- the service measures itself ----------------------------------------------------------------------------


@router.post(
    "",
    summary="Let this service measure itself",
    response_class=Response,
    responses={
        200: {
            "content": {
                "application/json": {"example": {"status": "ok", "slowest_ms": 21.4, "result": _RESULT}},
            }
        },
        401: {"description": "The token is missing or wrong."},
        403: {"description": "Self-tests are switched off: GPU_RENDER_SELF_TEST_TOKEN is not set."},
        409: {"description": "A self-test is under way."},
        503: {"description": "Others' requests left no time to measure anything."},
    },
)
async def post_self_test(request: Request) -> Response:
    """Decodes and windows a phantom's slice in six transfer syntaxes, for four seconds, when nobody waits for anything.

    Needs ``Authorization: Bearer <GPU_RENDER_SELF_TEST_TOKEN>``. One at a time.
    """
    benchmarks, service = _benchmarks(request), service_of(request)
    require_token(request.headers.get("authorization", ""), service.settings.self_test_token)
    if benchmarks.running:
        raise SelfTestRunning("a self-test is under way; it ends within 10 s")
    benchmarks.running = True
    try:
        done = await while_connected(request, _self_test(benchmarks, service.renderer))
    finally:
        benchmarks.running = False
    return Response(done.model_dump_json(), headers={"Cache-Control": "no-store"}, media_type="application/json")


def require_token(authorization: str, token: str | None) -> None:
    """Raises Forbidden where no token would do, Unauthorized where it is missing or wrong."""
    if token is None:
        raise Forbidden("self-tests are switched off; GPU_RENDER_SELF_TEST_TOKEN switches them on")
    shown = _BEARER.fullmatch(authorization)
    # The time that a comparison takes says nothing of where the two differ.
    if shown is None or not hmac.compare_digest(shown[1].encode("latin-1", "replace"), token.encode()):
        raise Unauthorized("a self-test needs the header Authorization: Bearer, with the operator's token")


async def _self_test(benchmarks: Benchmarks, renderer: Renderer) -> SelfTest:
    if benchmarks.frames is None:
        benchmarks.frames = await asyncio.to_thread(selftest.phantom_frames, renderer.pool)
    started = await asyncio.to_thread(Started)
    timed = await selftest.measure(renderer, benchmarks.frames)
    run = await asyncio.to_thread(_run_of, started, timed, renderer)
    slowest_ms = max(max(times.total_ms) for times in timed.values())
    result = await asyncio.to_thread(benchmarks.keep, run)
    status = cast(Status, selftest.status_of(slowest_ms / 1e3))
    benchmarks.last = SelfTest(status=status, slowest_ms=slowest_ms, result=result)
    benchmarks.last_s = time.time()
    return benchmarks.last


def _run_of(started: Started, timed: dict[str, Timed], renderer: Renderer) -> record.Run:
    left_out = [name for uid, name in selftest.NAMES.items() if uid not in timed]
    return started.record(
        SELF_TEST,
        notes=(
            "Measured inside the service: without HTTP, index and disk. JPEG 2000 and the like by the CPU.",
            *([f"No time was left for {', '.join(left_out)}."] if left_out else []),
        ),
        backend=renderer.backend.name,
        device=renderer.backend.description,
        measurements=tuple(_measurements(timed)),
    )


def _measurements(timed: dict[str, Timed]) -> Iterator[record.Measurement]:
    for uid, times in timed.items():
        steps = {"picture": times.total_ms, "decode": times.decode_ms, "window": times.render_ms}
        for name, values in steps.items():
            if values:
                yield record.Measurement(
                    name=name,
                    unit="ms",
                    group=selftest.NAMES[uid],
                    parameters={"rows": ROWS, "columns": COLUMNS},
                    summary=record.spread(values),
                    samples=tuple(values),
                )


def self_test_families(benchmarks: Benchmarks, prefix: str) -> Iterator[Metric]:
    """Figures of the last self-test, for ``/metrics``; none before the first."""
    last = benchmarks.last
    if last is None:
        return
    at = GaugeMetricFamily(f"{prefix}self_test_timestamp_seconds", "When the last self-test ended, Unix time")
    at.add_metric((), benchmarks.last_s)
    yield at
    slowest = GaugeMetricFamily(f"{prefix}self_test_slowest_seconds", "Slowest slice of the last self-test")
    slowest.add_metric((), last.slowest_ms / 1e3)
    yield slowest
    median = GaugeMetricFamily(
        f"{prefix}self_test_median_seconds", "Median slice of the last self-test", labels=("transfer_syntax",)
    )
    for one in last.result.run.measurements:
        if one.name == "picture":
            median.add_metric((one.group,), one.summary.median / 1e3)
    yield median
