"""Opening files below a root, and nothing else: no symbolic links, no devices, no way out. Also bounded inflating."""

import contextlib
import os
import stat
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from gpu_render.errors import CorruptPixelData

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer. It changes nothing for regular files.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

INFLATE_STEP_BYTES = 1 << 20

INCOMING = b".gpu-render-incoming"
"""Name of a folder for files that are being received. No scan looks into one: nothing there is known to be whole."""


def open_beneath(root: str | bytes, path: bytes) -> int:
    """Descriptor of the regular file at ``path`` (relative, ``/`` between its parts) below the directory ``root``.

    Every part is opened by itself without following symbolic links. Raises OSError for anything else.
    """
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise OSError("not a path below its root")
    # The root itself may be reached through links: it was resolved when the archive was opened.
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        descriptor = os.open(parts[-1], _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


@dataclass(slots=True)
class _Open:
    descriptor: int
    users: int = 0
    dropped: bool = False


class OpenFiles:
    """Descriptors of the files read last, at most ``capacity`` that nobody uses at the moment. Thread-safe."""

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[bytes, bytes], _Open] = OrderedDict()

    @contextlib.contextmanager
    def lease(self, root: bytes, path: bytes) -> Iterator[int]:
        """The descriptor of a file, open as long as the block runs. Raises OSError as ``open_beneath`` does."""
        entry = self._take((root, path))
        try:
            yield entry.descriptor
        finally:
            self._give_back(entry)

    def _take(self, key: tuple[bytes, bytes]) -> _Open:
        with self._lock:
            entry = self._files.get(key)
            # A file that was replaced or deleted lives on behind its old descriptor: look at the name again.
            if entry is not None and os.fstat(entry.descriptor).st_nlink > 0:
                self._files.move_to_end(key)
                entry.users += 1
                return entry
            if entry is not None:
                self._drop(key)
        opened = _Open(open_beneath(*key), users=1)
        with self._lock:
            if key in self._files:
                opened.dropped = True  # another thread was faster; this one is closed after use
            else:
                self._files[key] = opened
                while len(self._files) > self._capacity:
                    self._drop(next(iter(self._files)))
        return opened

    def _give_back(self, entry: _Open) -> None:
        with self._lock:
            entry.users -= 1
            if entry.dropped and entry.users == 0:
                os.close(entry.descriptor)

    def _drop(self, key: tuple[bytes, bytes]) -> None:
        entry = self._files.pop(key)
        entry.dropped = True
        if entry.users == 0:
            os.close(entry.descriptor)

    def forget(self, root: bytes, path: bytes) -> None:
        """Close this file's descriptor, after use where it is in use."""
        with self._lock:
            if (root, path) in self._files:
                self._drop((root, path))

    def close(self) -> None:
        """Close all that nobody uses; the others close after use."""
        with self._lock:
            for key in list(self._files):
                self._drop(key)


def inflate(descriptor: int, offset: int) -> Iterator[bytes]:
    """The deflated data set (PS3.5 A.5) that begins at ``offset`` [byte], in steps of at most 1 MiB.

    The caller stops when it has enough. Raises CorruptPixelData where the stream is corrupt.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending = b""
    while not inflater.eof:
        if not pending:
            pending = os.pread(descriptor, INFLATE_STEP_BYTES, offset)
            offset += len(pending)
            if not pending:
                return
        try:
            step = inflater.decompress(pending, INFLATE_STEP_BYTES)
        except zlib.error:
            raise CorruptPixelData("the deflated data set is corrupt") from None
        pending = inflater.unconsumed_tail
        if step:
            yield step


def inflate_range(descriptor: int, stream_offset: int, start: int, length: int) -> bytes:
    """Bytes ``start`` to ``start + length`` of the inflated data set, fewer where it ends before."""
    kept, position = bytearray(), 0
    for step in inflate(descriptor, stream_offset):
        kept += step[max(0, start - position) : max(0, start + length - position)]
        position += len(step)
        if position >= start + length:
            break
    return bytes(kept)
