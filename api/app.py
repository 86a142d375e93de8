"""create_app(settings): the service as an ASGI application."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import batches, benchmarks, catalog, documentation, legacy, metrics, native, ops, pages, problems
from api.again import MOST, Remembered
from api.cors import CrossOrigin
from api.dicomweb import metadata, qido, rendered, stow, wado
from api.direct import Asked, Direct, route_of
from api.encoding import Encoder
from api.sending import Paced, Readers
from api.service import Service
from api.streaming import IS_HEAD
from gpu_render import __version__
from gpu_render.ahead import Room
from gpu_render.archive.folder import FolderArchive
from gpu_render.archive.store import Store, served_roots
from gpu_render.copies import Copies
from gpu_render.decode.device import check
from gpu_render.decode.proof import load_file
from gpu_render.errors import RenderError, StartupError
from gpu_render.lookahead import LookAhead
from gpu_render.order import Orders
from gpu_render.priority import PriorityExecutor
from gpu_render.reencode import Reencoder
from gpu_render.renderer import Renderer, for_people
from gpu_render.settings import Settings
from gpu_render.transcode import Transcoder
from gpu_render.workers import WorkerPool
from kernels import open_backend

log = logging.getLogger("gpu_render")

Progress = Callable[[int, int], None]

CODESTREAM_SHARE = 8
"""Codestreams that were made for clients are kept in this part of what the cache of decoded frames may take, beside it:
progressive viewers ask for one several times, range by range."""

#: What a page of this service may do: nothing from elsewhere. Inline styles are the image viewport's own.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class SecurityHeaders:
    """Pure ASGI: adds SECURITY_HEADERS to every answer without touching its body.

    ``shared``: pages of other origins may use the answers, in an ``<img>`` as well.
    """

    def __init__(self, app: ASGIApp, *, shared: bool = False) -> None:
        self._app = app
        policy = "cross-origin" if shared else "same-origin"
        headers = {**SECURITY_HEADERS, "Cross-Origin-Resource-Policy": policy}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._names = frozenset(name for name, _ in self._headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self.added(message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)

    def added(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """``headers``, whose names are in lower case as ASGI has them, and those that they lack."""
        present = dict(headers)
        if self._names.isdisjoint(present):
            return [*headers, *self._headers]
        return [*headers, *(pair for pair in self._headers if pair[0] not in present)]


class HeadAsGet:
    """Pure ASGI: a HEAD is routed as the GET whose headers it asks for; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}
        await self._app(scope, receive, send)


class Scanner:
    """Scans at start and then every ``interval_s`` on a thread of its own, while requests are served. ``scanned`` is
    called after each scan that was not stopped."""

    def __init__(
        self, archive: FolderArchive, interval_s: float, progress: Progress | None, scanned: Callable[[], None]
    ) -> None:
        self._archive = archive
        self._interval_s = interval_s
        self._progress = progress
        self._scanned = scanned
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scan", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._archive.scan(self._progress, self._stop).stopped:
                    self._scanned()
            except Exception as error:  # noqa: BLE001 - a failed scan must not end the scans after it
                log.error("scan failed with %s; the next one tries again", type(error).__name__)
            if self._stop.wait(self._interval_s or None):
                return

    def close(self) -> None:
        """Stop a running scan after the file it is at, and join the thread."""
        self._stop.set()
        self._thread.join()


class TrustedHosts(TrustedHostMiddleware):
    """Starlette's, which does not take a Host header apart that it has let pass before."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        super().__init__(self._pass, allowed_hosts, www_redirect=False)
        self._app = app
        self._passed: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passes = scope["type"] == "http" and self._host(scope) in self._passed
        await (self._app if passes else super().__call__)(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = self._host(scope) if scope["type"] == "http" else b""
        if len(self._passed) < 64 and 0 < len(host) <= 256:
            self._passed.add(host)
        await self._app(scope, receive, send)

    @staticmethod
    def _host(scope: Scope) -> bytes:
        host: bytes
        for name, host in scope["headers"]:
            if name == b"host":
                return host
        return b""


def create_app(
    settings: Settings | None = None, scan_progress: Progress | None = None, *, reads_gpus: bool = True
) -> FastAPI:
    """The service over ``settings`` (default: from the environment). It opens nothing before its lifespan starts.

    ``scan_progress(done, total)`` is called from the scanning thread. ``reads_gpus``: /metrics tells NVML's figures.
    """
    chosen = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(chosen, scan_progress) as service:
            app.state.service = service
            app.state.encoder = Encoder(chosen.wire_encoding, service.encoders)
            try:
                yield
            finally:
                app.state.remembered.clear()

    app = FastAPI(
        title="gpu-render",
        version=__version__,
        description="DICOM slices as raw arrays, rendered on a GPU where there is one.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Paths name studies: no library that happens to be installed is to send them to some collector.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    direct = (
        (native.router, native.get_frame),
        (wado.router, wado.get_frames),
        (rendered.router, rendered.get_rendered_frames),
        (rendered.router, rendered.get_rendered_instance),
    )
    problems.install(app)
    app.state.benchmarks = benchmarks.Benchmarks(chosen.benchmark_results)
    app.state.metrics = metrics.Metrics(reads_gpus)
    app.state.remembered = Remembered[Asked](MOST)
    app.add_middleware(metrics.Measured, metrics=app.state.metrics)
    app.add_middleware(HeadAsGet)
    if chosen.cors_origins:
        app.add_middleware(CrossOrigin, origins=chosen.cors_origins)
    app.add_middleware(SecurityHeaders, shared=bool(chosen.cors_origins))
    app.add_middleware(
        Direct,
        routes=[route_of(router, handler) for router, handler in direct],
        metrics=app.state.metrics,
        origins=chosen.cors_origins,
        added=SecurityHeaders(app, shared=bool(chosen.cors_origins)).added,
        remembered=app.state.remembered,
    )
    app.state.readers = Readers(chosen.answer_bytes, chosen.stall_limit_s)
    app.add_middleware(Paced, readers=app.state.readers)
    if "*" not in chosen.allowed_hosts:
        app.add_middleware(TrustedHosts, allowed_hosts=list(chosen.allowed_hosts))
    documented = (qido, metadata, stow, wado, rendered, native, batches, catalog, legacy, ops, metrics, benchmarks)
    for module in (*documented, documentation):
        app.include_router(module.router)
    pages.mount(app)
    return app


@contextlib.asynccontextmanager
async def running(settings: Settings, scan_progress: Progress | None = None) -> AsyncIterator[Service]:
    """Open backend, workers, archive and renderer, scan in the background; close all of them at the end."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(contextlib.closing(open_backend(settings.backend, settings.device)))
        log.info("rendering on %s (%s)", backend.name, backend.description)
        people = for_people(settings.workers)
        pool = stack.enter_context(contextlib.closing(WorkerPool(settings.workers, spare=people)))
        background = stack.enter_context(contextlib.closing(WorkerPool(settings.workers, spare=1, background=True)))
        archive = FolderArchive(
            served_roots(settings.roots, settings.store_path),
            settings.index_path,
            pool,
            max_frame_bytes=settings.max_frame_bytes,
            max_frames=settings.max_frames,
            index_url=settings.index_url,
            shared=settings.index_shared,
        )
        stack.enter_context(contextlib.closing(archive))
        proven = check(backend, load_file(settings.proof_path)) if settings.gpu_decode == "auto" else None
        copies = open_copies(settings)
        reencoder = None if copies is None else Reencoder(archive, copies, background)
        renderer = Renderer(archive, backend, pool, settings, proven, background, reencoder)
        stack.enter_context(contextlib.closing(renderer))
        encoders = PriorityExecutor(max(2, os.cpu_count() or 1), settings.queue_capacity, "encode")
        stack.enter_context(contextlib.closing(encoders))
        room = Room(settings.stream_bytes)
        transcoder = Transcoder(archive, renderer, pool, encoders, room, settings.cache_bytes // CODESTREAM_SHARE)
        store = open_store(settings, archive)
        if store is not None:
            stack.enter_context(contextlib.closing(store))
        if settings.scan:
            scanned = partial(_after_scan, pool, reencoder)
            scanner = Scanner(archive, settings.rescan_interval_s, scan_progress, scanned)
            stack.enter_context(contextlib.closing(scanner))
        orders = Orders(archive)
        lookahead = LookAhead(
            settings.lookahead_frames, settings.cache_bytes, orders.of, renderer.load_ahead, renderer.cache.holds
        )
        warming = asyncio.get_running_loop().run_in_executor(None, _warm, pool, background)
        if reencoder is not None:
            reencoder.start(renderer.turns)
        try:
            yield Service(settings, archive, renderer, orders, room, encoders, lookahead, transcoder, store, reencoder)
        finally:
            await lookahead.close()
            if reencoder is not None:
                await reencoder.close()
            await warming


def open_store(settings: Settings, archive: FolderArchive) -> Store | None:
    """What STOW-RS stores to, None where it is switched off. Raises StartupError."""
    if settings.store_path is None:
        return None
    return Store(archive, settings.store_path, max_instance_bytes=settings.max_store_instance_bytes)


def open_copies(settings: Settings) -> Copies | None:
    """Where re-encoded frames are kept, None where that is switched off. Raises StartupError."""
    if settings.reencode_path is None or settings.reencode_bytes == 0:
        return None
    path = settings.reencode_path.resolve()
    if any(path.is_relative_to(root.resolve()) for root in served_roots(settings.roots, settings.store_path)):
        raise StartupError("the folder for re-encoded copies lies in one that is served")
    return Copies(path, settings.reencode_bytes)


def _after_scan(pool: WorkerPool, reencoder: Reencoder | None) -> None:
    """Give back the memory of workers that have parsed, of which a scan without news needs none."""
    if pool.retire("parse_files"):
        _warm(pool)
    if reencoder is not None:
        reencoder.scanned()


def _warm(*pools: WorkerPool) -> None:
    """Start one worker of each ahead of the first request. That it cannot be started is for /health/ready to say."""
    try:
        for pool in pools:
            pool.warm()
    except (RenderError, OSError) as error:
        log.error("no decoder process can be started (%s)", type(error).__name__)
