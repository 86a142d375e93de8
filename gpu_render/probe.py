"""A picture whose right answer is known: does this process still render correctly?"""

import asyncio
import hashlib
import struct

import numpy as np
import numpy.typing as npt

from gpu_render.decode import decode
from gpu_render.frame import DeviceFrame, EncodedFrame, PixelLayout, Presentation, Rescale, Window
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.view import View

#: blake2b (8 bytes) of the probe picture; tests derive it from the formula of PS3.3 C.11.2.1.2 on its own.
PROBE_HASH = "d6758ca10c9be5ca"

_REF = FrameRef("2.25.1", "2.25.2", "2.25.3", 1)
_RLE = "1.2.840.10008.1.2.5"

PROBE_LAYOUT = PixelLayout(64, 64, 1, 16, 12, 11, 1, "MONOCHROME2")
PROBE_PRESENTATION = Presentation(modality=Rescale(1.0, -24.0, "HU"), voi=(Window(40.0, 400.0),), inverse=True)


def probe_samples() -> npt.NDArray[np.int16]:
    """A ramp over all 12-bit values, (64, 64), with set bits above High Bit, which must not leak."""
    return (np.arange(64 * 64, dtype=np.uint16) | 0x5000).view(np.int16).reshape(64, 64)


def probe_frame() -> EncodedFrame:
    """The ramp as RLE Lossless (PS3.5 annex G), all in literal runs, so that a worker process has to decode it."""
    planes = probe_samples().astype(">i2").view(np.uint8).reshape(-1, 2).T
    segments = [
        b"".join(b"\x7f" + plane[at : at + 128].tobytes() for at in range(0, plane.size, 128)) for plane in planes
    ]
    header = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13)
    return EncodedFrame(_REF, _RLE, PROBE_LAYOUT, PROBE_PRESENTATION, header + b"".join(segments))


async def probe(renderer: Renderer) -> bool:
    """Decode the probe in a worker process and render it through the queue that requests use; is the picture right?

    Raises what decoding and rendering raise.
    """
    decoded = await asyncio.to_thread(decode, probe_frame(), renderer.pool, packed=renderer.backend.unpacks)
    frame = DeviceFrame(_REF, decoded.layout, PROBE_PRESENTATION, decoded.samples, decoded.decoder)
    rendered = await asyncio.wrap_future(renderer.queue.render(frame, View(), Priority.INTERACTIVE))
    return hashlib.blake2b(rendered.picture.pixels.tobytes(), digest_size=8).hexdigest() == PROBE_HASH
