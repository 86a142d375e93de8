"""The command line: ``gpu-render serve | demo | render | prove | bench | info``."""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import math
import os
import platform
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from starlette.types import ASGIApp

from api.app import create_app
from api.arrays import window_text
from api.lines import fast_networks
from api.native import parse_view
from api.sending import Connection, Readers, allow_connections
from api.supervisor import Supervisor, choose_gpus, socket_directory, worker_settings
from gpu_render import __version__
from gpu_render.archive.file import FileArchive
from gpu_render.archive.folder import FolderArchive, shared_index
from gpu_render.archive.store import served_roots
from gpu_render.decode import DECODERS, codec_versions
from gpu_render.decode.proof import ProofFile, ProofTable, load_file
from gpu_render.demo import prepare_demo
from gpu_render.errors import RenderError, StartupError
from gpu_render.frame import RenderedFrame
from gpu_render.gpus import Gpu, read_gpus
from gpu_render.images import encode_png
from gpu_render.memory import collect_rarely, keep_freed_memory
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings, default_cache_dir
from gpu_render.view import View
from gpu_render.workers import WorkerPool
from kernels import BackendUnavailable, DeviceError, open_backend

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
errors = Console(stderr=True, highlight=False)


class BackendChoice(StrEnum):
    """Which device renders."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class StageChoice(StrEnum):
    """Which stage of the picture comes out."""

    STORED = "stored"
    MODALITY = "modality"
    DISPLAY = "display"


HostOption = Annotated[str, typer.Option(help="Address to listen on. Others than loopback need --allow-anonymous.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
BackendOption = Annotated[BackendChoice, typer.Option(help="Device that renders; auto takes a GPU where there is one.")]


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong on stderr and leave."""
    errors.print(Text.assemble(("gpu-render: ", "red"), message), soft_wrap=True)
    raise typer.Exit(code)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, allow_anonymous: bool) -> tuple[str, ...]:
    """Refuse an address that others reach, unless allowed; return the Host headers to answer."""
    if is_loopback(host):
        return ("localhost", "127.0.0.1", "[::1]", host)
    if not allow_anonymous:
        fail(
            f"{host} can be reached from other machines, and this service has no access control yet: everybody there "
            "could read every study. Listen on 127.0.0.1 behind a proxy that checks who asks, or say "
            "--allow-anonymous if that is what you want."
        )
    errors.print(f"[yellow]warning:[/yellow] {host} is served without access control, as --allow-anonymous says")
    return ("*",)


def check_roots(paths: list[Path]) -> tuple[Path, ...]:
    """Folders that exist, resolved once. Anything else ends the command."""
    for path in paths:
        if not path.is_dir():
            fail(f"{path} is not a folder")
        if not os.access(path, os.R_OK | os.X_OK):
            fail(f"{path} may not be read by this user")
    return tuple(path.resolve() for path in paths)


def default_index(roots: tuple[Path, ...]) -> Path:
    """An index file of its own for each set of roots, below the cache folder."""
    return default_cache_dir() / "index" / f"{name_of(roots)}.sqlite"


def default_copies(roots: tuple[Path, ...]) -> Path:
    """A folder of its own for each set of roots, below the cache folder: where re-encoded frames are kept."""
    return make_settings().reencode_path or default_cache_dir() / "reencoded" / name_of(roots)


def name_of(roots: tuple[Path, ...]) -> str:
    """What is the same for the same folders."""
    return hashlib.sha256("\0".join(sorted(map(str, roots))).encode()).hexdigest()[:16]


def index_options(path: Path | None, roots: tuple[Path, ...]) -> dict[str, Any]:
    """Where the index is: ``path`` where one is given, else what the environment names, else a file of the roots'."""
    said = make_settings()
    if path is None and said.index_url:
        return {"index_path": None, "index_url": said.index_url}
    return {"index_path": path or said.index_path or default_index(roots), "index_url": None}


def make_settings(**options: Any) -> Settings:
    """Settings from the environment and the command's options. A wrong GPU_RENDER_... variable ends the command."""
    try:
        return Settings(**options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fail(f"GPU_RENDER_{str(first['loc'][0]).upper()}: {first['msg']}")
    except SettingsError as error:
        fail(f'{error} (lists are JSON, as in \'["a", "b"]\')')


def set_up_logging() -> None:
    """Our own and uvicorn's messages on stderr. Access logs stay off: URLs name studies."""
    handler: logging.Handler = logging.StreamHandler()
    if errors.is_terminal:
        handler = RichHandler(console=errors, show_path=False, markup=False)
    form = "%(message)s" if errors.is_terminal else "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("pydicom").disabled = True  # its messages quote element values


class ScanDisplay:
    """Shows a scan: a progress bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._said_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        if errors.is_terminal:
            self._draw(done, total)
        elif total and (done >= total or time.monotonic() - self._said_s > 5):
            self._said_s = time.monotonic()
            logging.getLogger("gpu_render").info("indexed %d of %d files", done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("indexing"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=errors,
                transient=True,
            )
            self._bar.add_task("scan", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None


class Server(uvicorn.Server):
    """Says where it listens once it does, and opens a browser there if asked to."""

    open_browser = False

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if not self.started or not self.servers:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        errors.print(f"gpu-render {__version__} listens on [bold]{url}[/bold]  (stop with Ctrl+C)")
        if self.open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def run_server(service: ASGIApp, host: str, port: int, settings: Settings, open_browser: bool = False) -> None:
    """Serve until SIGINT or SIGTERM."""
    keep_freed_memory()
    collect_rarely()
    allow_connections()
    config = uvicorn.Config(
        service,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=10,
        http=Connection.with_limit(settings.stall_limit_s, fast_networks(settings)),
    )
    server = Server(config)
    server.open_browser = open_browser
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl+C; the server has closed what it could
        server.run()
    if not server.started:
        raise typer.Exit(1)


@app.command()
def serve(
    paths: Annotated[list[Path], typer.Argument(help="Folders with DICOM files; nothing outside them is ever read.")],
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    backend: BackendOption = BackendChoice.AUTO,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen where others can reach it, without access control.")
    ] = False,
    index: Annotated[
        Path | None, typer.Option(help="Index file; the default lies below the user's cache folder.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder where instances that clients send are stored (STOW-RS). Default: none are taken."),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="One process for each of these GPUs: all, or numbers as in 0,2. Default: one GPU."),
    ] = None,
    socket_dir: Annotated[
        Path | None,
        typer.Option(help="With --gpus: where the processes' sockets lie, for a proxy that asks them itself."),
    ] = None,
) -> None:
    """Index folders of DICOM files and serve them: viewer at /, API documentation at /docs."""
    if socket_dir is not None and gpus is None:
        fail("--socket-dir belongs to --gpus")
    allowed_hosts = check_host(host, allow_anonymous)
    roots = check_roots(paths)
    set_up_logging()
    settings = make_settings(
        roots=roots,
        **index_options(index, roots),
        store_path=store or make_settings().store_path,
        reencode_path=default_copies(roots),
        backend=backend.value,
        allowed_hosts=allowed_hosts,
    )
    if gpus is None:
        run_server(create_app(settings, ScanDisplay()), host, port, settings)
    else:
        serve_gpus(settings, gpus, socket_dir, host, port)


def serve_gpus(settings: Settings, gpus: str, socket_dir: Path | None, host: str, port: int) -> None:
    """A worker process a GPU, and in this process what starts them and passes requests on to them."""
    from api.front import create_front  # here: with one GPU nobody needs it, nor its client

    # The server raises SIGTERM anew when it has ended. Then the sockets and the lock are to go as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        numbers = choose_gpus(gpus, settings.backend)
        roots = served_roots(settings.roots, settings.store_path)
        with socket_directory(socket_dir) as directory, shared_index(roots, settings.index_path, settings.index_url):
            supervisor = Supervisor(worker_settings(settings, numbers), directory)
            readers = Readers(settings.answer_bytes, settings.stall_limit_s)
            front = create_front(supervisor, settings.allowed_hosts, settings.cors_origins, readers)
            run_server(front, host, port, settings)
    except StartupError as error:
        fail(str(error), 1)


@contextlib.contextmanager
def demo_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is being made."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


@app.command()
def demo(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    backend: BackendOption = BackendChoice.AUTO,
    allow_anonymous: Annotated[bool, typer.Option("--allow-anonymous", help="See serve.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the viewer in a browser.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Where the demo files are made once.")] = None,
) -> None:
    """Serve sample images of all kinds and a 300-slice CT phantom, made once (about 290 MB)."""
    allowed_hosts = check_host(host, allow_anonymous)
    target = folder or default_cache_dir() / "demo"
    set_up_logging()
    with demo_progress() as show:
        roots = tuple(prepare_demo(target, progress=show))
    settings = make_settings(
        roots=roots,
        **index_options(target / "index.sqlite", roots),
        reencode_path=make_settings().reencode_path or target / "reencoded",
        backend=backend.value,
        allowed_hosts=allowed_hosts,
    )
    run_server(create_app(settings, ScanDisplay()), host, port, settings, open_browser=browser)


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="One DICOM file.")],
    frame: Annotated[int, typer.Option(min=1, help="Frame number, from 1.")] = 1,
    stage: Annotated[StageChoice, typer.Option(help="stored, modality or display values.")] = StageChoice.DISPLAY,
    window: Annotated[str | None, typer.Option(help="CENTER,WIDTH[,linear|linear-exact|sigmoid]")] = None,
    voi: Annotated[str | None, typer.Option(help="Which VOI of the file, from 0.")] = None,
    region: Annotated[str | None, typer.Option(help="X,Y,WIDTH,HEIGHT in stored pixels")] = None,
    viewport: Annotated[str | None, typer.Option(help="WIDTH,HEIGHT that the picture fits in")] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Turn grey values round.")] = False,
    output: Annotated[Path | None, typer.Option(help="x.npy or x.png; the default only says what came out.")] = None,
    backend: BackendOption = BackendChoice.AUTO,
) -> None:
    """Render one frame of one file, without a server: the same bytes that the service answers."""
    if output is not None and output.suffix not in (".npy", ".png"):
        fail("the output's name ends in .npy or .png")
    try:
        view = parse_view(stage.value, window, voi, region, viewport, str(invert).lower(), make_settings().max_viewport)
        rendered = asyncio.run(render_file(file, frame, view, backend))
        if output is not None:
            save(rendered, output)
    except (RenderError, BackendUnavailable) as error:
        fail(str(error), 1)
    shape = " x ".join(map(str, rendered.pixels.shape))
    used = f", window {window_text(rendered.window)}" if rendered.window else ""
    errors.print(f"{rendered.stage} {shape} {rendered.pixels.dtype.str}{used}, decoded by {rendered.decoder}")


async def render_file(file: Path, frame_number: int, view: View, backend: BackendChoice) -> RenderedFrame:
    """One frame of one file through the service's own Renderer."""
    settings = make_settings(backend=backend.value, workers=1)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(contextlib.closing(open_backend(settings.backend, settings.device)))
        pool = stack.enter_context(contextlib.closing(WorkerPool(settings.workers)))
        archive = stack.enter_context(contextlib.closing(FileArchive(file, pool)))
        renderer = stack.enter_context(contextlib.closing(Renderer(archive, device, pool, settings)))
        return await renderer.render(archive.ref(frame_number), view)


def save(rendered: RenderedFrame, output: Path) -> None:
    """Write the array as .npy, or as .png where PNG can hold it."""
    if output.suffix == ".npy":
        with output.open("wb") as target:
            np.save(target, rendered.pixels, allow_pickle=False)
    else:
        output.write_bytes(encode_png(rendered.pixels))


@app.command()
def prove(
    output: Annotated[Path, typer.Option(help="Where the proof table is written.")] = Path("gpu-render-proof.json"),
    device: Annotated[int, typer.Option(min=0, help="Number of the CUDA device.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer frames: to see whether it works.")] = False,
    files: Annotated[list[Path] | None, typer.Option(help="A folder of files to compare as well; repeatable.")] = None,
) -> None:
    """Find out which frames this machine's GPU decodes exactly as the CPU does, and from which size on it is faster.

    The service uses the result with GPU_RENDER_PROOF_PATH. Run it again after a change of driver, GPU or packages.
    """
    from gpu_render import prove as proving  # which loads codec libraries into this process

    settings = make_settings()
    if not output.parent.is_dir():
        fail(f"the folder of {output} does not exist")
    try:
        with contextlib.ExitStack() as stack:
            backend = stack.enter_context(contextlib.closing(open_backend("cuda", device)))
            if not backend.codec:
                fail("nvImageCodec cannot be used here: pip install 'gpu-render[cuda12]' or 'gpu-render[cuda13]'", 1)
            pool = stack.enter_context(contextlib.closing(WorkerPool(settings.workers)))
            more = {}
            if files:
                archive = stack.enter_context(contextlib.closing(FolderArchive(files, None, pool)))
                archive.scan()
                more = proving.frames_of_files(archive)
            with proof_progress() as show:
                found = proving.prove(backend, pool, proving.QUICK if quick else proving.FULL, show, more)
            proving.save(found, output)
    except (BackendUnavailable, DeviceError, RenderError) as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"{output} cannot be written ({error.strerror})", 1)
    Console().print(proof_table(found))
    codec = found.rows[0].codec
    usable = len(ProofTable.of(found, codec))
    errors.print(f"{usable} of {len(found.rows)} kinds are for the GPU ({codec})")
    if any((row.unequal and row.kind.reversible) or row.shown_damaged for row in found.rows):
        fail("the GPU's codec differs from the CPU's: those kinds stay on the CPU", 3)
    if not usable:
        fail("the CPU goes on decoding everything", 4)
    errors.print(f"Use them with GPU_RENDER_PROOF_PATH={output}")


@contextlib.contextmanager
def proof_progress() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for all kinds."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors
    ) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what or "done", completed=done, total=total)

        yield show


def proof_table(file: ProofFile) -> Table:
    """A row of text for each kind."""
    table = Table("kind", "compared", "unequal", "refused", "damaged", "shown", "GPU from", title="Decoding on the GPU")
    for row in file.rows:
        least = f"{math.isqrt(row.least_pixels)} x {math.isqrt(row.least_pixels)}" if row.least_pixels else "-"
        verdict = least if row.proven else "not proven"
        numbers = (row.compared, row.unequal, row.refused, row.damaged, row.shown_damaged)
        table.add_row(str(row.kind), *map(str, numbers), verdict)
    return table


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which benchmarks. None: they are listed.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All that this machine can run; takes more than an hour.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A short look at each; too little for conclusions.")] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the JSON files. Default: benchmarks/results of a checkout, else the user's cache."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write all results there as one HTML file that loads nothing.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the baseline of this kind of machine; 1: slower, 2: none.")
    ] = False,
    save_baseline: Annotated[
        bool, typer.Option("--save-baseline", help="With --check: store what is measured as the baseline.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="With --check: where slices are kept.")] = None,
) -> None:
    """Measure this installation: latency, throughput, memory. Results are JSON files that name machine and revision."""
    from benchmarks import suite  # which loads what it measures
    from benchmarks.harness import BenchmarkError

    if save_baseline and not check:
        fail("--save-baseline belongs to --check")
    if check and (names or every):
        fail("--check has its own cases: name no benchmarks")
    options = suite.Options(quick, results, html, data or default_cache_dir() / "bench")
    try:
        if check:
            raise typer.Exit(suite.check(options, save_baseline))
        raise typer.Exit(suite.command(names or [], every, bool(read_gpus()), options))
    except BenchmarkError as error:
        fail(str(error), 1)


def gpu_table(gpus: list[Gpu]) -> Table:
    """What the driver says of each GPU; a dash is what it does not say."""

    def text(value: object, unit: str = "") -> str:
        return "-" if value is None else f"{value}{unit}"

    def gib(value: int | None) -> str:
        return text(None if value is None else f"{value / 2**30:.1f}")

    table = Table(title="NVIDIA GPUs", header_style="bold")
    for heading in ("gpu", "name", "memory [GiB]", "busy", "temp.", "power [W]", "ECC errors", "clocks", "driver"):
        table.add_column(heading, no_wrap=True)
    for gpu in gpus:
        table.add_row(
            str(gpu.index),
            text(gpu.name) if gpu.answers else "does not answer",
            f"{gib(gpu.memory_used)} of {gib(gpu.memory_total)}",
            text(gpu.gpu_utilization, " %"),
            text(gpu.temperature_c, " °C"),
            f"{text(gpu.power_w)} of {text(gpu.power_limit_w)}",
            f"{text(gpu.ecc_uncorrected)} ({text(gpu.ecc_corrected)} corrected)",
            text(None if gpu.throttle_reasons is None else ", ".join(gpu.throttle_reasons) or "full"),
            text(gpu.driver),
        )
    return table


@app.command()
def info(backend: BackendOption = BackendChoice.AUTO) -> None:
    """Say what this installation renders and decodes with."""
    try:
        with contextlib.closing(open_backend(backend.value)) as device:
            proven = len(ProofTable.of(load_file(make_settings().proof_path), device.codec))
            decodes = f"{device.codec}; {proven} kinds of codestreams are proven" if device.codec else "nothing"
            rows = [("backend", device.name), ("device", device.description), ("device decodes with", decodes)]
    except (BackendUnavailable, StartupError) as error:
        fail(str(error), 1)
    gpus = read_gpus()
    if not gpus:
        rows.append(("gpu", "none that an NVIDIA driver knows"))
    packages = ("numpy", "pydicom", "imagecodecs", "fastapi", "uvicorn")
    rows.append(("packages", ", ".join(f"{name} {version(name)}" for name in packages)))
    table = Table(title=f"gpu-render {__version__}", show_header=False)
    for name, text in [("python", f"{platform.python_version()} on {platform.platform()}"), *rows]:
        table.add_row(name, Text(text))
    versions = codec_versions()
    codecs = Table(title="decoders", header_style="bold")
    for heading in ("transfer syntax", "UID", "decoder", "library"):
        codecs.add_column(heading, no_wrap=True)
    for decoder in DECODERS.values():
        codecs.add_row(decoder.name, decoder.uid, decoder.codec, versions[decoder.codec])
    out = Console(file=sys.stdout)
    out = Console(file=sys.stdout, width=max(out.width, 150))
    out.print(table)
    if gpus:
        out.print(gpu_table(gpus))
    out.print(codecs)


if __name__ == "__main__":
    app()
