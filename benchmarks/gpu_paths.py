"""The ways from files to pictures that ``benchmarks.gpu`` times beside each other."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder

from benchmarks import record
from benchmarks.gpu_data import Series
from benchmarks.harness import BenchmarkError
from gpu_render.archive.folder import FolderArchive
from gpu_render.decode import decode
from gpu_render.decode.proof import ProofTable
from gpu_render.frame import Window
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.transform import fold
from gpu_render.view import View
from gpu_render.workers import WorkerPool
from kernels import Backend, RenderJob
from kernels.cuda import CudaBackend
from kernels.packing import unpacked

Picture = npt.NDArray[np.uint8]
Wanted = Sequence[tuple[FrameRef, View]]

GPU, CPU, PYDICOM, KERNEL = "GPU", "CPU", "pydicom, NVIDIA", "kernel alone"
_COUNTED = {
    "uploads": "uploads_total",
    "decoded": "decoded_on_device_total",
    "downloads": "downloads_total",
    "launches": "launches_total",
}
_COPIED = 64 << 20  # for as long as the device takes for that, it is busy
DIFFERENCE, LOSSY_DIFFERENCE = 1, 8  # grey values: float32 here, float64 there; and other decoders' rounding


@dataclass(slots=True)
class Tally:
    """One row of the result while it is being measured."""

    group: str
    request: str
    path: str
    state: str
    slices: int
    in_flight: int
    per_slice_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    decoders: set[str] = field(default_factory=set)
    uploads: int = 0
    decoded: int = 0
    downloads: int = 0
    launches: int = 0

    def result(self) -> record.Throughput:
        """What is written down."""
        return record.Throughput(
            group=self.group,
            request=self.request,
            path=self.path,
            state=self.state,
            slices=self.slices,
            in_flight=self.in_flight,
            per_slice=record.summarize(self.per_slice_ms),
            answer=record.summarize(self.answer_ms) if self.answer_ms else None,
            decoder=", ".join(sorted(self.decoders)),
            uploads=self.uploads,
            decoded=self.decoded,
            downloads=self.downloads,
            launches=self.launches,
        )


@dataclass(frozen=True, slots=True)
class Service:
    """This service without HTTP: the renderer over one backend. Each renderer begins with empty caches."""

    name: str
    archive: FolderArchive
    backend: Backend
    pool: WorkerPool
    settings: Settings
    proven: ProofTable | None = None

    @contextlib.asynccontextmanager
    async def renderer(self) -> AsyncIterator[Renderer]:
        """A fresh renderer; closed at the end. Raises BenchmarkError where another device rendered than it should."""
        renderer = Renderer(self.archive, self.backend, self.pool, self.settings, self.proven)
        try:
            yield renderer
        finally:
            await asyncio.to_thread(renderer.close)
        if renderer.figures()["rendered_on_cpu_total"]:
            raise BenchmarkError("the GPU failed, and the CPU rendered in its place")

    async def one_by_one(self, renderer: Renderer, wanted: Wanted, tally: Tally) -> None:
        """Ask for the next picture when the last one has come."""
        for ref, view in wanted:
            begun = time.perf_counter()
            frame = await renderer.render(ref, view)
            tally.answer_ms.append((time.perf_counter() - begun) * 1e3)
            if "decode" in frame.timings:
                tally.decoders.add(frame.decoder)

    async def one_pass(self, renderer: Renderer, clients: Sequence[Wanted], tally: Tally) -> None:
        """A pass: every client asks for its pictures one by one, all clients at once."""
        before, begun = renderer.figures(), time.perf_counter()
        await asyncio.gather(*(self.one_by_one(renderer, wanted, tally) for wanted in clients))
        took_ms, after = (time.perf_counter() - begun) * 1e3, renderer.figures()
        tally.per_slice_ms.append(took_ms / sum(map(len, clients)))
        for name, figure in _COUNTED.items():
            setattr(tally, name, getattr(tally, name) + int(after[figure] - before[figure]))
        if tally.state == "warm" and after["uploads_total"] != before["uploads_total"]:
            raise BenchmarkError(f"{tally.group}, {tally.request}: frames went up though all were on the device")


def shared_out(wanted: Wanted, clients: int) -> list[Wanted]:
    """The same pictures shared out, so that about as many are waited for at a time, in about their order."""
    return [wanted[first::clients] for first in range(min(clients, len(wanted)))]


def windowed(pixels: npt.NDArray[Any], slope: float, intercept: float, window: Window) -> Picture:
    """LINEAR (PS3.3 C.11.2.1.2) by NumPy, in float32, as one would write it without this service."""
    low, span = window.center - 0.5 - (window.width - 1) / 2, window.width - 1
    values = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept - low)
    grey: Picture = (np.clip(values * np.float32(255 / span), 0, 255) + np.float32(0.5)).astype(np.uint8)
    return grey


class Pydicom:
    """pydicom, with NVIDIA's plug-in where it knows the transfer syntax, and NumPy: one file after the other."""

    name = PYDICOM

    def __init__(self, label: str) -> None:
        self._label = label
        self.refused: set[str] = set()
        """Names of series that it cannot decode, or not so."""

    def check(self, series: Series, path: Path, expected: npt.NDArray[np.generic]) -> list[str]:
        """Compare a picture with this service's. Where it is another one, or none, the series is refused: says why."""
        try:
            difference = int(np.abs(self.picture(series, path).astype(np.int16) - expected.astype(np.int16)).max())
        except Exception as error:  # noqa: BLE001 - whatever pydicom and the plug-in raise
            reason = f"it raises {type(error).__name__}"
        else:
            if difference <= (LOSSY_DIFFERENCE if series.lossy else DIFFERENCE):
                return []
            reason = f"its picture differs by {difference} grey values from this service's"
        self.refused.add(series.name)
        return [f"{PYDICOM}: {series.name} not measured, {reason}."]

    def picture(self, series: Series, path: Path) -> Picture:
        """One picture. Raises whatever pydicom and the plug-in raise: there is no second decoder in its place."""
        ds = pydicom.dcmread(path)
        if self.decoder(series) == self._label:
            ds.pixel_array_options(decoding_plugin=self._label)
        return windowed(ds.pixel_array, ds.get("RescaleSlope", 1), ds.get("RescaleIntercept", 0), series.window)

    def decoder(self, series: Series) -> str:
        """The plug-in's label where it decodes the series."""
        uid = pydicom.uid.UID(series.transfer_syntax_uid)
        known = uid.is_encapsulated and self._label in get_decoder(uid).available_plugins
        return self._label if known else "pydicom's own"

    def one_pass(self, series: Series, tally: Tally) -> None:
        """All files of the series."""
        tally.decoders.add(self.decoder(series))
        start = time.perf_counter()
        for path in series.paths:
            begun = time.perf_counter()
            self.picture(series, path)
            tally.answer_ms.append((time.perf_counter() - begun) * 1e3)
        tally.per_slice_ms.append((time.perf_counter() - start) * 1e3 / len(series.paths))


@contextlib.contextmanager
def no_pydicom() -> Iterator[tuple[Pydicom | None, str]]:
    """In place of pydicom, where it is not wanted."""
    yield None, f"{PYDICOM}: not measured, left out on demand."


@contextlib.contextmanager
def pydicom_with_plugin() -> Iterator[tuple[Pydicom | None, str]]:
    """pydicom with the plug-in as long as the block runs, or None and why not."""
    try:
        from nvidia.nvimgcodec.tools.dicom import pydicom_plugin as plugin
    except ImportError as error:
        yield None, f"{PYDICOM}: not measured, nvImageCodec's plug-in cannot be imported ({type(error).__name__})."
        return
    label = plugin.NVIMGCODEC_PLUGIN_LABEL
    if not plugin.register():
        yield None, f"{PYDICOM}: not measured, it did not register with pydicom."
        return
    try:
        yield (
            Pydicom(label),
            f"{PYDICOM}: plug-in {label}; transfer syntaxes that it does not know, pydicom decodes itself.",
        )
    finally:
        plugin.unregister()


@dataclass(frozen=True, slots=True)
class KernelAlone:
    """All frames of a series on the device, rendered by one launch."""

    backend: CudaBackend
    jobs: Sequence[RenderJob]

    @staticmethod
    def of(backend: CudaBackend, archive: FolderArchive, pool: WorkerPool, series: Series) -> "KernelAlone":
        """Decode the series, and put it on the device."""
        jobs: list[RenderJob] = []
        for encoded in map(archive.fetch, series.refs):
            decoded = decode(encoded, pool)
            (handle,) = backend.put([unpacked(decoded.samples)])
            folded = fold(encoded.presentation, View(window=series.window), decoded.layout)
            jobs.append(RenderJob(handle, folded.params, folded.table))
        return KernelAlone(backend, jobs)

    def one_pass(self, tally: Tally) -> None:
        """One launch."""
        kernel_ms, _copy_ms = self.backend.kernel_and_copy_ms(self.jobs, _COPIED)
        tally.per_slice_ms.append(kernel_ms / len(self.jobs))
        tally.launches += 1
