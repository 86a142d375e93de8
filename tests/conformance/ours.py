"""What this service makes of a file, rendered on every backend at hand and compared byte for byte among them."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import kernels
from gpu_render.archive import FrameRecord
from gpu_render.archive.file import FileArchive
from gpu_render.errors import RenderError
from gpu_render.frame import VoiFunction, Window
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.view import Stage, View
from gpu_render.workers import WorkerPool
from kernels import Backend, BackendUnavailable, Codestream, Decoded, RenderJob
from kernels.cpu import CpuBackend
from kernels.packing import Packed
from tests.conformance.readers import GREY, Ask
from tests.conformance.samples import Sample
from tests.kernels.host import HostBackend

Array = npt.NDArray[Any]

MOST_FRAMES = 64  # stored values are compared of this many frames of a file; modality and display of three


def other_backends() -> list[Backend]:
    """The kernel as the host's compiler builds it, and a real GPU where there is one."""
    from kernels.cuda import CudaBackend

    found: list[Backend] = [HostBackend()]
    with contextlib.suppress(BackendUnavailable):
        found.append(CudaBackend())
    return found


class EveryBackend:
    """NumPy's answers, after every other backend has given the same bytes."""

    name = "cpu"
    description = "NumPy, compared with every other backend"
    unpacks = True
    codec = ""
    download_ms = 0.0

    def __init__(self, others: Sequence[Backend]) -> None:
        self._backends: list[Backend] = [CpuBackend(), *others]
        self.renderings = 0
        self.unlike = 0

    def put(self, frames: Sequence[Array | Packed]) -> list[object]:
        """For each frame a handle of each backend."""
        return [list(handles) for handles in zip(*(backend.put(frames) for backend in self._backends), strict=True)]

    def decode(self, codestreams: Sequence[Codestream]) -> list[Decoded | None]:
        """See ``kernels.Backend.decode``: nothing is decoded here."""
        return [None] * len(codestreams)

    def extents(self, frames: Sequence[tuple[object, np.void]]) -> list[tuple[float, float] | None]:
        """See ``kernels.Backend.extents``."""
        extents = []
        for place, backend in enumerate(self._backends):
            extents.append(backend.extents([(self._pairs(pixels)[place][1], params) for pixels, params in frames]))
        for answers in zip(*extents, strict=True):
            self._count(answers)
        return extents[0]

    def launch(self, jobs: Sequence[RenderJob]) -> object:
        """See ``kernels.Backend.launch``: rendered at once."""
        rendered = []
        for place, backend in enumerate(self._backends):
            own = [RenderJob(self._pairs(job.pixels)[place][1], job.params, job.table) for job in jobs]
            rendered.append(kernels.render(backend, own))
        for answers in zip(*rendered, strict=True):
            self._count([(a.shape, a.dtype.str, a.tobytes()) for a in answers])
        return rendered[0]

    def collect(self, ticket: object) -> list[Array]:
        """See ``kernels.Backend.collect``."""
        return cast(list[Array], ticket)

    def trim(self) -> None:
        """Nothing is kept back."""

    def _pairs(self, pixels: object) -> list[tuple[Backend, object]]:
        assert isinstance(pixels, list)
        return list(zip(self._backends, pixels, strict=True))

    def _count(self, answers: Sequence[object]) -> None:
        self.renderings += 1
        self.unlike += any(answer != answers[0] for answer in answers[1:])

    def memory(self) -> tuple[int, int]:
        """As a device has it: so that every picture comes from here, and none from the thread that asks for it."""
        return 1 << 31, 1 << 31

    def close(self) -> None:
        """Close all."""
        for backend in self._backends:
            backend.close()


@dataclass(slots=True)
class Ours:
    """``stages`` as a reader's Answer has them; ``padding`` masks what is background. ``error`` where the first frame
    cannot be shown; ``unlike``: renderings in which a backend gave other bytes than NumPy."""

    record: FrameRecord | None = None
    ask: Ask | None = None
    stages: dict[str, dict[int, Array]] = field(default_factory=dict)
    padding: dict[int, Array] = field(default_factory=dict)
    error: str = ""
    decoder: str = ""
    renderings: int = 0
    unlike: int = 0


def render_sample(sample: Sample, pool: WorkerPool, others: Sequence[Backend]) -> Ours:
    """Stored values of all frames, modality and display values of three, each in every view that is compared."""
    ours = Ours()
    backend = EveryBackend(others)
    try:
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(contextlib.closing(FileArchive(sample.path, pool)))
            settings = Settings(backend="cpu", workers=1)
            renderer = stack.enter_context(contextlib.closing(Renderer(archive, backend, pool, settings)))
            asyncio.run(_render_all(ours, sample.path, archive, renderer))
    except RenderError as error:
        ours.error = str(error)
    ours.renderings, ours.unlike = backend.renderings, backend.unlike
    return ours


async def _render_all(ours: Ours, path: Path, archive: FileArchive, renderer: Renderer) -> None:
    ours.record = archive.describe(archive.ref(1))
    count = ours.record.number_of_frames
    stored_frames = tuple(range(1, min(count, MOST_FRAMES) + 1))
    frames = tuple(sorted({1, count // 2 + 1, count}))

    async def every(stage: Stage, wanted: Sequence[int], window: Window | None = None) -> dict[int, Array]:
        found = {}
        for frame in wanted:
            rendered = await renderer.render(archive.ref(frame), View(stage=stage, window=window))
            found[frame] = rendered.pixels
            ours.decoder = rendered.decoder
        return found

    ours.stages["stored"] = await every(Stage.STORED, stored_frames)
    presentation, layout = ours.record.presentation, ours.record.layout
    grey = layout.photometric_interpretation in GREY
    if presentation.pixel_padding is not None and grey:
        low, high = presentation.pixel_padding
        stored = await every(Stage.STORED, frames)
        ours.padding = {n: (values >= low) & (values <= high) for n, values in stored.items()}
    windows: tuple[tuple[str, tuple[float, float, str]], ...] = ()
    if grey and presentation.palette is None:
        ours.stages["modality"] = await every(Stage.MODALITY, frames)
        windows = _windows(ours.stages["modality"][1]) if presentation.presentation_lut is None else ()
    ours.stages["display"] = await every(Stage.DISPLAY, frames)
    for name, (center, width, function) in windows:
        ours.stages[name] = await every(Stage.DISPLAY, frames, Window(center, width, VoiFunction(function)))
    ours.ask = Ask(path, stored_frames, frames, windows)


def _windows(modality: Array) -> tuple[tuple[str, tuple[float, float, str]], ...]:
    """One window of each function that cuts the frame's values on both sides, with numbers that hit no ties."""
    finite = modality[np.isfinite(modality)].astype(np.float64)
    low, high = np.percentile(finite, [10, 90]).tolist()
    width = max(high - low, 1e-3 if high - low < 1 else 2.0)
    center = round((low + high) / 2, 3) + width / 1024
    linear = (("LINEAR", (center, max(width, 1.0), "LINEAR")),)
    return (*linear, ("LINEAR_EXACT", (center, width, "LINEAR_EXACT")), ("SIGMOID", (center, width, "SIGMOID")))
