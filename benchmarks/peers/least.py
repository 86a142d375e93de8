"""The ruler: the least work that a Python process can do for a slice, on the HTTP server that this service uses.

Where each frame lies is known before the first request. ``/stored`` is one positional read; ``/raw`` adds the fastest
codec whose licence permits it, J2K on all processors that are idle; ``/windowed`` adds one pass over the samples in C.
Nothing is checked, nothing is kept, and nothing else is done. Files come from PEERS_FOLDER, the compiled pass from
PEERS_WINDOW; without it, NumPy windows.
"""

import asyncio
import ctypes
import os
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from benchmarks.peers.slices import PIXELS, WINDOW, load
from gpu_render import phantom

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Stored = npt.NDArray[np.int16]

FOLDER, LIBRARY = "PEERS_FOLDER", "PEERS_WINDOW"
CORES = len(os.sched_getaffinity(0))


class _Decoders:
    """Frame's bytes to samples, for each transfer syntax by its name."""

    def __init__(self) -> None:
        self.busy = 0

    def decode(self, syntax: str, encoded: bytes) -> Stored:
        return np.frombuffer(self._decode(syntax, encoded), np.int16)

    def _decode(self, syntax: str, encoded: bytes) -> Any:
        if syntax == "uncompressed":
            return encoded
        if syntax == "RLE":
            return imagecodecs.dicomrle_decode(encoded, np.dtype("<i2"))
        if syntax == "JPEG 2000":
            return imagecodecs.jpeg2k_decode(encoded, numthreads=max(1, CORES // max(1, self.busy)))
        return _BY_NAME[syntax](encoded)


_BY_NAME: dict[str, Callable[[bytes], Any]] = {
    "HTJ2K": imagecodecs.htj2k_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "JPEG lossless": imagecodecs.jpeg8_decode,
}


def _positions() -> dict[str, tuple[str, int, int, int]]:
    """``folder/file`` to (transfer syntax, file descriptor, offset, bytes)."""
    found = {}
    for syntax, slices in load(Path(os.environ[FOLDER])).items():
        for one in slices:
            offset = one.path.read_bytes().index(one.encoded)
            descriptor = os.open(one.path, os.O_RDONLY)
            found[f"{one.path.parent.name}/{one.path.stem}"] = (syntax, descriptor, offset, len(one.encoded))
    return found


_CENTER, _WIDTH = WINDOW
GAIN = 255 / (_WIDTH - 1)
OFFSET = ((phantom.RESCALE_INTERCEPT - (_CENTER - 0.5)) / (_WIDTH - 1) + 0.5) * 255


def _window_in_numpy(stored: Stored) -> bytes:
    grey = stored.astype(np.float32)
    grey *= np.float32(GAIN)
    grey += np.float32(OFFSET)
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8).tobytes()


def _window_in_c(library: str) -> Callable[[Stored], bytes]:
    function = ctypes.CDLL(library).window
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float, ctypes.c_float)
    function.restype = None

    def window(stored: Stored) -> bytes:
        shown = np.empty(PIXELS, np.uint8)
        function(stored.ctypes.data, shown.ctypes.data, stored.size, GAIN, OFFSET)
        return shown.data  # type: ignore[return-value]  # any buffer will do

    return window


_positions_by_name = _positions()
_decoders = _Decoders()
_window = _window_in_c(os.environ[LIBRARY]) if os.environ.get(LIBRARY) else _window_in_numpy
_pool = ThreadPoolExecutor(CORES)


def _work(what: str, name: str) -> bytes:
    syntax, descriptor, offset, length = _positions_by_name[name]
    encoded = os.pread(descriptor, length, offset)
    if what == "stored" or (what == "raw" and syntax == "uncompressed"):
        return encoded
    stored = _decoders.decode(syntax, encoded)
    return stored.tobytes() if what == "raw" else _window(stored)


async def app(scope: Message, _receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    """ASGI, by hand. What takes microseconds is done at once, codecs in threads."""
    if scope["type"] != "http":
        return
    what, _, name = scope["path"][1:].partition("/")
    if what == "ready":
        body = b""
    elif what == "stored" or _positions_by_name[name][0] == "uncompressed":
        body = _work(what, name)
    else:
        _decoders.busy += 1
        try:
            body = await asyncio.get_running_loop().run_in_executor(_pool, _work, what, name)
        finally:
            _decoders.busy -= 1
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
