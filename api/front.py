"""The public side of ``serve --gpus``: passes each request to the worker that has its series, body by body part.

Nothing is rendered or kept here. What a worker says passes unchanged, but for hop-by-hop headers; ``X-Render-Worker``
is added.
"""

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping

import aiohttp
import orjson
import yarl
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import SecurityHeaders
from api.cors import CrossOrigin
from api.lines import LINE, TOLD, Line
from api.metrics import PREFIX, Given, gpu_families
from api.problems import Boundary, problem
from api.sending import Paced, Readers
from api.supervisor import Slot, Supervisor, Worker
from gpu_render import __version__
from gpu_render.errors import StartupError
from gpu_render.gpus import read_gpus

log = logging.getLogger("gpu_render.front")

SCRAPE_LIMIT_S = 5.0
RETRY_AFTER_S = 2

#: RFC 9110 section 7.6.1; ``expect`` was answered when the body was asked for.
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"expect",
}  # fmt: skip
_SERIES = re.compile(r"/(?:api|dicomweb)/studies/[^/]+/series/([^/]+)")
_IMAGE = re.compile(r"/dicom-viewer/api/image/([^/]+)/")

Headers = list[tuple[bytes, bytes]]


def affinity(path: str) -> str | None:
    """What decides which worker gets a request: the Series Instance UID or the image id in its path, if any."""
    found = _SERIES.match(path) or _IMAGE.match(path)
    return found[1] if found else None


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without what belongs to one connection only; names in lower case."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in pairs if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in pairs if name not in HOP_BY_HOP and name not in named]


def create_front(
    supervisor: Supervisor,
    allowed_hosts: tuple[str, ...] = ("*",),
    cors_origins: tuple[str, ...] = (),
    readers: Readers | None = None,
) -> ASGIApp:
    """The application that a server on the public address runs. Its lifespan starts and ends the workers."""
    app: ASGIApp = Boundary(Front(supervisor))
    if cors_origins:
        app = CrossOrigin(app, cors_origins)
    app = SecurityHeaders(app)
    if readers is not None:
        app = Paced(app, readers)
    if "*" not in allowed_hosts:
        app = TrustedHostMiddleware(app, allowed_hosts=list(allowed_hosts), www_redirect=False)
    return app


class ClientGone(Exception):
    """The client went before its request was complete."""


class Incoming:
    """A client's request body, and the news that the client has gone."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        names = {name for name, _ in scope["headers"]}
        self.has_body = b"transfer-encoding" in names or b"content-length" in names
        self._complete = asyncio.Event()
        if not self.has_body:
            self._complete.set()

    async def body(self) -> AsyncIterator[bytes]:
        """Part by part, as they come. Raises ClientGone."""
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            yield message.get("body", b"")
        self._complete.set()

    async def gone(self) -> None:
        """Return when the client has closed the connection; only after its body was read."""
        await self._complete.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Front:
    """ASGI: health and figures of all, everything else from the workers."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._failures = dict.fromkeys(range(len(supervisor.slots)), 0)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._own: dict[str, Callable[[], Awaitable[Response]]] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            own = self._own.get(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
            if own is None:
                await self._pass(scope, receive, send)
            else:
                response = await own()
                await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._supervisor.start()
        except StartupError as error:
            await self._supervisor.close()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._supervisor.close()
        await send({"type": "lifespan.shutdown.complete"})

    # --- passing on -----------------------------------------------------------------------------------------

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on until it is answered or the client goes, which ends the worker's part as well."""
        incoming = Incoming(scope, receive)
        work = asyncio.ensure_future(self._forward(scope, incoming, send))
        gone = asyncio.ensure_future(incoming.gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})
        if not work.cancelled():
            with contextlib.suppress(ClientGone):
                work.result()

    async def _forward(self, scope: Scope, incoming: Incoming, send: Send) -> None:
        for worker in self._supervisor.candidates(affinity(scope["path"])):
            if await self._try(worker, scope, incoming, send):
                return
        await unavailable(scope, "no worker serves at the moment")(scope, incoming.receive, send)

    async def _try(self, worker: Worker, scope: Scope, incoming: Incoming, send: Send) -> bool:
        """Let ``worker`` answer. False where it could not even be asked: then another may be."""
        try:
            headers = _for_aiohttp(_as_seen(end_to_end(scope["headers"]), scope))
        except UnicodeDecodeError:
            await _bad_header(scope)(scope, incoming.receive, send)
            return True
        asked: dict[str, bool] = {}
        started = False
        try:
            async with worker.session.request(
                scope["method"],
                _url(scope),
                headers=headers,
                data=incoming.body() if incoming.has_body else None,
                allow_redirects=False,
                trace_request_ctx=asked,
            ) as answer:
                started = True
                await _relay(answer, worker, send)
        except (aiohttp.ClientError, OSError) as error:
            if not asked and not started:
                return False
            self._failures[worker.number] += 1
            log.warning("worker %d broke off an answer (%s)", worker.number, type(error).__name__)
            if not started:
                await broken_off(scope)(scope, incoming.receive, send)
            # Else what came is less than was promised: the server closes the connection, and the client sees that.
        return True

    # --- own answers ----------------------------------------------------------------------------------------

    async def _live(self) -> Response:
        return _json({"status": "live"}, 200)

    async def _ready(self) -> Response:
        """Every worker is asked now. 503 where none serves."""
        slots = self._supervisor.slots
        await asyncio.gather(*(slot.current.ask() for slot in slots if slot.current is not None))
        workers = [_slot_json(slot) for slot in slots]
        fine = sum(worker["status"] == "ready" for worker in workers)
        serving = sum(slot.worker is not None for slot in slots)
        status = "ready" if fine == len(slots) else "degraded" if serving else "not ready"
        trouble = None if status == "ready" else f"{fine} of {len(slots)} workers are ready"
        body = {"status": status, "version": __version__, "problem": trouble, "workers": workers}
        return _json(body, 200 if serving else 503)

    async def _metrics(self) -> Response:
        workers = self._supervisor.candidates(None)
        texts = await asyncio.gather(*map(_scrape, workers))
        own = await asyncio.to_thread(lambda: [*gpu_families(read_gpus()), *self._families()])
        labelled = [
            *_labelled("front", generate_latest(self._registry).decode()),
            *(family for worker, text in zip(workers, texts, strict=True) for family in _labelled(worker.number, text)),
        ]
        body = generate_latest(Given([*own, *merged(labelled)]))
        return Response(body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"})

    def _families(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{PREFIX}worker_up", "1 for a worker that requests are sent to", labels=("worker",))
        restarts = CounterMetricFamily(
            f"{PREFIX}worker_restarts", "Workers that took another's place", labels=("worker",)
        )
        failures = CounterMetricFamily(
            f"{PREFIX}worker_failures", "Answers that a worker broke off", labels=("worker",)
        )
        for slot in self._supervisor.slots:
            up.add_metric((str(slot.number),), slot.worker is not None)
            restarts.add_metric((str(slot.number),), slot.restarts)
            failures.add_metric((str(slot.number),), self._failures[slot.number])
        yield from (up, restarts, failures)


async def _relay(answer: aiohttp.ClientResponse, worker: Worker, send: Send) -> None:
    """Status, headers and body as they come; the next part is read when the client has taken this one."""
    headers = end_to_end(answer.raw_headers)
    headers.append((b"x-render-worker", str(worker.number).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async for part in answer.content.iter_any():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _url(scope: Scope) -> yarl.URL:
    """The same path and query, byte for byte. The authority is for the Host header, which the client's replaces."""
    path, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
    return yarl.URL.build(
        scheme="http", host="worker", path=path.decode("latin-1"), query_string=query.decode("latin-1"), encoded=True
    )


def _as_seen(headers: Headers, scope: Scope) -> Headers:
    """With the scheme that the client used, of which the worker makes absolute URLs, and with the speed of its line, if
    that may be slow; whatever it claims itself."""
    others = [(name, value) for name, value in headers if name not in (b"x-forwarded-proto", TOLD)]
    others.append((b"x-forwarded-proto", scope["scheme"].encode()))
    line: Line | None = scope.get(LINE)
    if line is not None and (speed := line.mbit_s(scope)) < math.inf:
        others.append((TOLD, f"{speed:.1f}".encode()))
    return others


def _for_aiohttp(headers: Headers) -> list[tuple[str, str]]:
    """aiohttp writes UTF-8. Raises UnicodeDecodeError for bytes that are none and could not pass unchanged."""
    return [(name.decode("ascii"), value.decode("utf-8")) for name, value in headers]


# --- answers of the front -----------------------------------------------------------------------------------


def unavailable(scope: Scope, detail: str) -> Response:
    """503: nobody was asked, so that asking again is safe."""
    response = problem(503, "no-worker", "No worker", detail, Request(scope))
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def broken_off(scope: Scope) -> Response:
    """502: a worker was asked and ended before it answered. It is not asked of another: it may have been the cause."""
    detail = "the process that rendered this ended before it answered; another takes its place"
    response = problem(502, "worker-failed", "Worker failed", detail, Request(scope))
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _bad_header(scope: Scope) -> Response:
    return problem(400, "bad-request", "Bad request", "a header's value is not UTF-8", Request(scope))


def _json(body: Mapping[str, object], status: int) -> Response:
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, "application/json")


def _slot_json(slot: Slot) -> dict[str, object]:
    worker = slot.current
    about: dict[str, object] = {
        "worker": slot.number,
        "gpu": slot.settings.device,
        "status": worker.status if worker is not None and worker.alive else "starting",
        "restarts": slot.restarts,
    }
    if worker is not None and worker.alive:
        about |= {name: worker.health.get(name) for name in ("backend", "device", "problem")}
    return about


# --- figures ------------------------------------------------------------------------------------------------


async def _scrape(worker: Worker) -> str:
    try:
        async with asyncio.timeout(SCRAPE_LIMIT_S), worker.session.get("http://127.0.0.1/metrics") as answer:
            return await answer.text() if answer.status == 200 else ""
    except (aiohttp.ClientError, OSError, TimeoutError):
        return ""


def _labelled(worker: int | str, text: str) -> Iterator[Metric]:
    """The families of one process' text, each sample with the label ``worker``."""
    for family in text_string_to_metric_families(text):
        family.samples = [sample._replace(labels={**sample.labels, "worker": str(worker)}) for sample in family.samples]
        yield family


def merged(families: Iterable[Metric]) -> list[Metric]:
    """Families of one name as one, as the text format demands."""
    found: dict[str, Metric] = {}
    for family in families:
        if family.name in found:
            found[family.name].samples += family.samples
        else:
            found[family.name] = family
    return list(found.values())
