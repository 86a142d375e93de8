"""One worker process a GPU: started, watched, replaced when it dies, exchanged when it asks for it.

Runs on the event loop of ``api.front``, which sends requests to the workers. Each worker is ``api.worker_process`` on a
Unix socket of its own; ``worker-<k>.sock`` beside them always leads to the one that serves as number k.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from api.worker_process import DRAIN_S, Order
from gpu_render.errors import StartupError
from gpu_render.gpus import read_gpus
from gpu_render.settings import Settings

log = logging.getLogger("gpu_render.supervisor")

POLL_S = 5.0
POLL_LIMIT_S = 10.0
START_LIMIT_S = 180.0
"""A first start compiles the kernels for the device."""
SILENT_POLLS = 3
"""So many unanswered questions in a row, and the worker is taken to hang."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_S = 0.5, 60.0, 60.0
KILL_S = DRAIN_S + 5.0
READ_BUFFER = 256 * 1024
SERVING = ("ready", "degraded")


# --- which GPUs, which settings ------------------------------------------------------------------------------


def choose_gpus(text: str, backend: str) -> list[int]:
    """Device numbers of ``all`` or ``0,2``. Raises StartupError, which says what is wrong with it.

    With the backend ``cpu`` the numbers name no device: so many workers are started.
    """
    if text == "all":
        if backend == "cpu":
            raise StartupError("--gpus all has no meaning on the CPU; --gpus 0,1 starts two workers there")
        found = _visible_gpus()
        if not found:
            raise StartupError("--gpus all: no GPU that an NVIDIA driver knows; leave --gpus out to render on the CPU")
        return found
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= 3 for word in words) or len({*words}) < len(words):
        raise StartupError("--gpus is all, or numbers of GPUs, each once: 0,1,2")
    numbers = [int(word) for word in words]
    if backend != "cpu" and (missing := sorted({*numbers} - {*_visible_gpus()})):
        raise StartupError(f"--gpus: the NVIDIA driver knows no GPU {', '.join(map(str, missing))}")
    return numbers


def _visible_gpus() -> list[int]:
    """Numbers as CUDA will count: those of nvidia-smi, or within CUDA_VISIBLE_DEVICES where that is set."""
    gpus = [gpu.index for gpu in read_gpus() if gpu.answers]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if visible is None else list(range(min(len(gpus), len([w for w in visible.split(",") if w.strip()]))))


def worker_settings(settings: Settings, gpus: Sequence[int]) -> list[Settings]:
    """Settings of each worker: its device, and its share of cores and cache where the operator did not say."""
    share: dict[str, Any] = {"index_shared": True}
    if settings.backend == "auto":
        share["backend"] = "cuda"  # asked for GPUs: a worker without its own shall not pretend
    if "workers" not in settings.model_fields_set:
        share["workers"] = max(1, (os.cpu_count() or 1) // len(gpus))
    if "cache_bytes" not in settings.model_fields_set:
        share["cache_bytes"] = settings.cache_bytes // len(gpus)
    return [
        settings.model_copy(update={**share, "device": gpu, "scan": number == 0}) for number, gpu in enumerate(gpus)
    ]


@contextlib.contextmanager
def socket_directory(chosen: Path | None) -> Iterator[Path]:
    """Where the sockets lie: ``chosen``, made for this user alone where it is missing, or a new private one.

    Raises StartupError where others than user and group could reach the sockets in it.
    """
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="gpu-render-") as path:
            yield Path(path)
        return
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = chosen.stat()
    except OSError as error:
        raise StartupError(f"--socket-dir cannot be used ({error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o007:
        raise StartupError("--socket-dir must be closed to others than user and group (chmod o-rwx): sockets serve all")
    if len(os.fsencode(chosen.resolve())) > 80:
        raise StartupError("--socket-dir is too long: a socket's path has at most 107 bytes")
    yield chosen.resolve()


# --- one worker ---------------------------------------------------------------------------------------------


class WorkerFailed(Exception):
    """A worker did not come to serve."""


class Worker:
    """One worker process and the connections to it. ``status`` is what its /health/ready said last."""

    def __init__(self, number: int, settings: Settings, socket: Path) -> None:
        self.number = number
        self.socket = socket
        self.status = "starting"
        self.health: dict[str, Any] = {}
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),  # whatever a client sends and gets is its own
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=READ_BUFFER,
            trace_configs=[_sent_marker()],
        )

    async def spawn(self, command: Sequence[str]) -> None:
        """Start the process and give it its order."""
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # so that CUDA counts as nvidia-smi does
            start_new_session=True,  # a terminal's Ctrl+C goes to the supervisor alone
        )
        assert self._process.stdin is not None
        order = Order(self.number, str(self.socket), self._settings.model_dump(mode="json"))
        self._process.stdin.write(order.line())

    @property
    def pid(self) -> int:
        """Of the process; 0 before it was started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def serves(self) -> bool:
        """Whether requests may be sent to it."""
        return self.alive and self.status in SERVING

    @property
    def wants_recycling(self) -> bool:
        """Whether it said that another process should take its place."""
        return self.health.get("recycle") is True

    async def ask(self) -> bool:
        """Ask /health/ready and keep what it says; whether it answered at all."""
        try:
            async with asyncio.timeout(POLL_LIMIT_S), self.session.get("http://127.0.0.1/health/ready") as answer:
                body = orjson.loads(await answer.read())
            self.health, status = dict(body), str(body["status"])
            self.status = status if answer.status == 200 else "not ready"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError, KeyError):
            return False
        return True

    async def wait_until_serving(self) -> None:
        """Raises WorkerFailed where it ends first, or needs longer than START_LIMIT_S."""
        deadline = time.monotonic() + START_LIMIT_S
        while not (await self.ask() and self.serves):
            if not self.alive:
                raise WorkerFailed(f"it ended with status {self._process and self._process.returncode}")
            if time.monotonic() > deadline:
                raise WorkerFailed(str(self.health.get("problem") or "it does not answer"))
            await asyncio.sleep(0.1)

    async def watch(self) -> str:
        """Wait until another process should take its place; returns why."""
        assert self._process is not None
        ended, silent = asyncio.ensure_future(self._process.wait()), 0
        try:
            while silent < SILENT_POLLS:
                if (await asyncio.wait({ended}, timeout=POLL_S))[0]:
                    return _how_it_ended(ended.result())
                silent = 0 if await self.ask() else silent + 1
                if self.wants_recycling:
                    return "asks to be replaced"
            self.status = "silent"
            return "does not answer"
        finally:
            ended.cancel()

    async def end(self) -> None:
        """SIGTERM, so that requests under way are finished; SIGKILL where that takes too long. May be called again."""
        self.status = "ending"
        if self._process is not None:
            for number, limit_s in ((signal.SIGTERM, KILL_S), (signal.SIGKILL, None)):
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), limit_s)
                    break
        await self.session.close()
        self.socket.unlink(missing_ok=True)


def _how_it_ended(status: int) -> str:
    return f"died ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"


def _sent_marker() -> aiohttp.TraceConfig:
    """Notes in ``trace_request_ctx``, a dict, that a request has gone out: it must not be sent to another worker."""

    async def sent(_session: Any, context: Any, _params: Any) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx["sent"] = True

    marker = aiohttp.TraceConfig()
    marker.on_request_headers_sent.append(sent)
    return marker


# --- all of them --------------------------------------------------------------------------------------------


class Slot:
    """Place number k: one worker after another on the same device."""

    def __init__(self, number: int, settings: Settings, directory: Path, command: Sequence[str]) -> None:
        self.number = number
        self.settings = settings
        self.current: Worker | None = None
        self.tried = False
        self.restarts = 0
        self._directory = directory
        self._command = command
        self._started = 0
        self._pause_s = FIRST_PAUSE_S
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def worker(self) -> Worker | None:
        """The one that requests may be sent to."""
        return self.current if self.current is not None and self.current.serves else None

    async def run(self) -> None:
        """Keep the place filled until cancelled."""
        while True:
            begun = time.monotonic()
            try:
                worker = await self._start()
                self._install(worker)
                trouble = await worker.watch()
            except (WorkerFailed, OSError) as error:
                trouble = f"could not be started: {error}"
            finally:
                self.tried = True
            stable = time.monotonic() - begun >= STABLE_S
            self._pause_s = FIRST_PAUSE_S if stable else self._pause_s
            log.warning("worker %d %s; another is started in %.1f s", self.number, trouble, self._pause_s)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self.restarts += 1

    async def _start(self) -> Worker:
        self._started += 1
        socket = self._directory / f"w{self.number}-{os.getpid()}-{self._started}.sock"
        worker = Worker(self.number, self.settings, socket)
        try:
            await worker.spawn(self._command)
            await worker.wait_until_serving()
        except BaseException:
            await _finish(worker.end())
            raise
        return worker

    def _install(self, worker: Worker) -> None:
        """New requests go to ``worker``; the one before it finishes what it has."""
        before, self.current = self.current, worker
        link = self._directory / f"worker-{self.number}.sock"
        fresh = link.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(worker.socket.name)
        fresh.replace(link)
        log.info("worker %d serves (process %d)", self.number, worker.pid)
        if before is not None:
            task = asyncio.ensure_future(before.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End what runs; ``run`` has been cancelled."""
        ending = [*self._ending, *([self.current.end()] if self.current else [])]
        await asyncio.gather(*ending, return_exceptions=True)
        (self._directory / f"worker-{self.number}.sock").unlink(missing_ok=True)


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, also while the caller is being cancelled."""
    await asyncio.shield(asyncio.ensure_future(work))


class Supervisor:
    """All places. ``command`` starts a worker; it gets an ``Order`` on stdin."""

    def __init__(
        self,
        settings: Sequence[Settings],
        directory: Path,
        command: Sequence[str] = (sys.executable, "-m", "api.worker_process"),
    ) -> None:
        self.slots = [Slot(number, each, directory, command) for number, each in enumerate(settings)]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return as soon as one worker serves. Raises StartupError where none can be started; ``close`` it then."""
        self._tasks = [asyncio.ensure_future(slot.run()) for slot in self.slots]
        while not any(slot.worker for slot in self.slots):
            if all(slot.tried for slot in self.slots):
                raise StartupError("no worker could be started; its messages above say why")
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """End all workers, each after the requests it has, within KILL_S."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in self.slots))

    def candidates(self, key: str | None) -> list[Worker]:
        """Workers for a request, the right one first: by rendezvous hashing of ``key``, else by their numbers."""
        numbers = range(len(self.slots)) if key is None else rendezvous(key, len(self.slots))
        return [worker for number in numbers if (worker := self.slots[number].worker) is not None]


def rendezvous(key: str, count: int) -> list[int]:
    """Places 0 .. count - 1 in the order in which they are asked to take ``key``.

    Each place has a weight of its own for each key. Where one is missing, its keys go to the next in their orders, and
    no other key moves.
    """

    def weight(number: int) -> bytes:
        return hashlib.blake2b(f"{number} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

    return sorted(range(count), key=weight, reverse=True)
