"""A picture whose right answer is known: does this process still render correctly?"""

import asyncio
import hashlib

import numpy as np
import numpy.typing as npt

from gpu_render.frame import PixelLayout, Presentation, Rescale, Window
from gpu_render.priority import Priority
from gpu_render.renderer import Renderer
from gpu_render.transform import fold
from gpu_render.view import View
from kernels import RenderJob

#: blake2b (8 bytes) of the probe picture; tests derive it from the formula of PS3.3 C.11.2.1.2 on its own.
PROBE_HASH = "d6758ca10c9be5ca"

PROBE_LAYOUT = PixelLayout(64, 64, 1, 16, 12, 11, 1, "MONOCHROME2")
PROBE_PRESENTATION = Presentation(modality=Rescale(1.0, -24.0, "HU"), voi=(Window(40.0, 400.0),), inverse=True)


def probe_samples() -> npt.NDArray[np.int16]:
    """A ramp over all 12-bit values, (64, 64), with set bits above High Bit, which must not leak."""
    return (np.arange(64 * 64, dtype=np.uint16) | 0x5000).view(np.int16).reshape(64, 64)


async def probe(renderer: Renderer) -> bool:
    """Render the probe on the device, through the queue that requests use; whether the picture is right."""
    folded = fold(PROBE_PRESENTATION, View(), PROBE_LAYOUT)

    def prepare() -> RenderJob:
        return RenderJob(renderer.backend.put(probe_samples()), folded.params, folded.table)

    rendered = await asyncio.wrap_future(renderer.queue.submit(prepare, Priority.INTERACTIVE))
    return hashlib.blake2b(rendered.pixels.tobytes(), digest_size=8).hexdigest() == PROBE_HASH
