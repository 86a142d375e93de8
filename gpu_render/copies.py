"""Copies on disk of frames that are slow to decode: in HTJ2K, which is not, for the next visit, also after a restart.

A copy is one file. It is used for exactly the codestream that it was made of, with the codecs that it was compared
with, and only where every byte of it is as it was written. Whatever else is wrong with it, or with the disk, the stored
frame is decoded instead. See docs/decisions/0014.

Several processes may share a folder. Whoever writes holds a lock, and counts what is there in the same file::

    <folder>/copies-1/ledger        locked (flock) by who writes; how many bytes all copies take
    <folder>/copies-1/incoming      a copy that is being written
    <folder>/copies-1/3f/09ab...    a copy; its time of modification is when it was used last
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_render import PIPELINE_VERSION
from gpu_render.errors import RenderError, TooLarge
from gpu_render.frame import EncodedFrame
from gpu_render.reference import FrameRef
from gpu_render.transcode import HTJ2K_RPCL

log = logging.getLogger("gpu_render")

FOLDER = "copies-1"
BLOCK_BYTES = 4096
"""A file takes whole blocks on most disks, so that is how copies count."""
LARGEST_SHARE = 8
"""No copy takes more than this part of the budget."""
FREED_SHARE = 10
"""When the budget is full, this part of it is freed at once: so the folder is seldom listed."""
LEAST_FREE_SHARE = 20
"""This part of the disk is left free."""
PAUSE_S = 60.0
"""After a full or failing disk nothing is written for so long."""
LOCK_S = 5.0
"""Longest wait for another process that writes."""
TOUCH_S = 60.0
"""How exactly it is known when a copy was used last."""

_MAGIC = b"GPURHTJ1"
_LEDGER = struct.Struct("<8sQ")
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_MOST_HEADER_BYTES = 1 << 16
_SHARDS = re.compile(r"[0-9a-f]{2}")
_NAMES = re.compile(r"[0-9a-f]{38}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Copies:
    """The copies below ``folder``, which is made when the first one is written. Thread-safe.

    ``budget_bytes``: most that all of them take. What fails on the disk raises nothing: without a copy the stored
    frame is decoded.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = Path(folder).absolute() / FOLDER
        self._budget = budget_bytes
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._stopped = threading.Event()
        self._surveyed = False
        self._paused_until_s = float("-inf")
        self._said = ""
        self._nbytes = 0
        self._counts: Counter[str] = Counter()

    @property
    def paused(self) -> bool:
        """Whether nothing is written at the moment, since the disk is full or fails."""
        return time.monotonic() < self._paused_until_s

    def figures(self) -> dict[str, float]:
        """Counters of this process and gauges. ``reencode_bytes`` is of all processes, as this one saw it last."""
        names = ("hits", "kept", "damaged", "outdated", "evicted", "removed")
        counted = {f"reencode_{name}_total": self._counts[name] for name in names}
        return {**counted, "reencode_bytes": self._nbytes, "reencode_paused": float(self.paused)}

    def _count(self, name: str) -> None:
        with self._counting:
            self._counts[name] += 1

    def close(self) -> None:
        """Let go who lists the folder, or waits for another process."""
        self._stopped.set()

    # --- reading --------------------------------------------------------------------------------------------

    def find(self, original: EncodedFrame) -> EncodedFrame | None:
        """The copy of a frame, for a decoder; None where there is none that can be used. What cannot is removed."""
        path = self._path(original.ref)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            header, codestream = _checked(_read(descriptor, min(status.st_size, self._budget)))
            if header != _header(original, header.get("photometric_interpretation"), header.get("decoder")):
                self._count("outdated")
                self._remove(path)
                return None
            if time.time() - status.st_mtime > TOUCH_S:
                with contextlib.suppress(OSError):
                    os.utime(descriptor)
        except OSError:
            return None
        except ValueError:
            self._count("damaged")
            log.warning("a re-encoded copy is damaged on disk; it is removed, and the stored frame is decoded")
            self._remove(path)
            return None
        finally:
            os.close(descriptor)
        self._count("hits")
        photometric, decoder = str(header["photometric_interpretation"]), str(header["decoder"])
        layout = replace(original.layout, photometric_interpretation=photometric, planar_configuration=0)
        return replace(original, transfer_syntax_uid=HTJ2K_RPCL, layout=layout, data=codestream, decoder=decoder)

    def _path(self, ref: FrameRef) -> Path:
        named = "\0".join((ref.study_uid, ref.series_uid, ref.sop_instance_uid, str(ref.frame_number)))
        digest = hashlib.sha256(named.encode()).hexdigest()
        return self._folder / digest[:2] / digest[2:40]

    @staticmethod
    def _remove(path: Path) -> None:
        """The ledger counts it until the folder is listed again, which is never too little."""
        with contextlib.suppress(OSError):
            path.unlink()

    # --- writing --------------------------------------------------------------------------------------------

    def keep(self, original: EncodedFrame, copy: EncodedFrame) -> bool:
        """Write the copy of a frame, which was compared with it, and make room for it. False where it is not kept now;
        raises TooLarge where it never will be."""
        content = _content(original, copy)
        nbytes = _blocks(len(content))
        if nbytes > self._budget // LARGEST_SHARE:
            raise TooLarge("the copy would take too much of the budget")
        if self.paused:
            return False
        try:
            with self._writing, self._ledger() as ledger:
                if not self._make_room(ledger, nbytes):
                    return False
                self._write(ledger, self._path(original.ref), content, nbytes)
        except BlockingIOError:
            return False  # another process writes; the frame is asked for again some day
        except OSError as error:
            why = "the disk is full" if error.errno in _NO_ROOM else f"{type(error).__name__} {error.errno}"
            self._pause(why)
            return False
        self._count("kept")
        self._said = ""
        return True

    def _pause(self, why: str) -> None:
        self._paused_until_s = time.monotonic() + PAUSE_S
        if why != self._said:
            self._said = why
            log.warning("no re-encoded copies are written for now: %s", why)

    @contextlib.contextmanager
    def _ledger(self) -> "Iterator[_Ledger]":
        """The ledger, locked. Raises OSError, BlockingIOError where another process holds it for too long."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = self._lock()
        try:
            ledger = _Ledger(descriptor)
            if not self._surveyed or ledger.nbytes is None:  # power may have failed, or somebody removed files
                ledger.set(self._survey().total())
                self._surveyed = True
            yield ledger
            self._nbytes = ledger.count
        finally:
            os.close(descriptor)

    def _lock(self) -> int:
        path, until_s = self._folder / "ledger", time.monotonic() + LOCK_S
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _inode(path) == os.fstat(descriptor).st_ino:  # nobody has removed it meanwhile
                    return descriptor
            except BlockingIOError:
                if time.monotonic() > until_s or self._stopped.wait(0.02):
                    os.close(descriptor)
                    raise
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _make_room(self, ledger: "_Ledger", nbytes: int) -> bool:
        """Whether ``nbytes`` more fit into the budget, after what was used longest ago has gone, and onto the disk."""
        disk = os.statvfs(self._folder)
        least_free = disk.f_blocks * disk.f_frsize // LEAST_FREE_SHARE
        if disk.f_bavail * disk.f_frsize < nbytes + least_free:
            self._pause(f"less than {100 // LEAST_FREE_SHARE} % of the disk would be free")
            return False
        if ledger.count + nbytes > self._budget:
            self._evict(ledger, self._budget - self._budget // FREED_SHARE - nbytes)
        return ledger.count + nbytes <= self._budget

    def _write(self, ledger: "_Ledger", path: Path, content: bytes, nbytes: int) -> None:
        """Killed at whatever point, this leaves no part of a copy under its name, and a ledger that counts too much."""
        ledger.set(ledger.count + nbytes)
        incoming = self._folder / "incoming"
        try:
            incoming.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(incoming, flags, 0o600), "wb") as file:
                file.write(content)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            before = _size(path)
            incoming.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                incoming.unlink(missing_ok=True)
            ledger.set(ledger.count - nbytes)
            raise
        ledger.set(ledger.count - before)

    # --- the folder as a whole ------------------------------------------------------------------------------

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """All copies: names that nobody else gives a file. Raises OSError, BlockingIOError when stopped."""
        with os.scandir(self._folder) as shards:
            for shard in shards:
                if self._stopped.is_set():
                    raise BlockingIOError(errno.EAGAIN, "the service is shutting down")
                if _SHARDS.fullmatch(shard.name) and shard.is_dir(follow_symlinks=False):
                    with os.scandir(shard.path) as entries:
                        yield from (entry for entry in entries if _NAMES.fullmatch(entry.name))

    def _survey(self) -> Counter[int]:
        """Bytes of all copies by the minute in which they were used last."""
        by_minute: Counter[int] = Counter()
        for entry in self._files():
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                by_minute[int(status.st_mtime // 60)] += _blocks(status.st_size)
        return by_minute

    def _evict(self, ledger: "_Ledger", most: int) -> None:
        """Remove what was used longest ago, until ``most`` bytes or less are left. Two passes and no list of files, of
        which there may be millions."""
        by_minute = self._survey()
        excess, last_minute = by_minute.total() - most, 0
        ledger.set(by_minute.total())
        for minute in sorted(by_minute):
            if excess <= 0:
                break
            excess, last_minute = excess - by_minute[minute], minute
        excess = ledger.count - most
        for entry in self._files() if excess > 0 else ():
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime // 60 > last_minute or (status.st_mtime // 60 == last_minute and excess <= 0):
                    continue
                Path(entry.path).unlink()
                nbytes = _blocks(status.st_size)
                excess -= nbytes
                ledger.set(ledger.count - nbytes)
                self._count("evicted")

    def sweep(self, is_held: Callable[[FrameRef, str], bool]) -> Iterator[None]:
        """Remove copies of frames that are not held any more in the version (``EncodedFrame.version``) that they were
        made of. Yields after each, so that who calls may wait or stop."""
        with contextlib.suppress(OSError):
            for entry in self._files():
                path = Path(entry.path)
                found = _origin(path)
                if found is None or not is_held(*found):
                    self._remove(path)
                    self._count("removed")
                    self._surveyed = False  # the next one who writes counts what is left
                yield


class _Ledger:
    """What all copies take [byte], in a file that is locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        content = os.pread(descriptor, _LEDGER.size, 0)
        magic, nbytes = _LEDGER.unpack(content) if len(content) == _LEDGER.size else (b"", 0)
        self.nbytes: int | None = nbytes if magic == _MAGIC else None

    @property
    def count(self) -> int:
        return self.nbytes or 0

    def set(self, nbytes: int) -> None:
        self.nbytes = max(0, nbytes)
        os.pwrite(self._descriptor, _LEDGER.pack(_MAGIC, self.nbytes), 0)


# --- one copy -----------------------------------------------------------------------------------------------


def _codecs() -> str:
    """What a copy was compared with. With other codecs a frame that was compressed with loss may come out otherwise."""
    return f"{PIPELINE_VERSION}, imagecodecs {version('imagecodecs')}, {platform.machine()}"


CODECS = _codecs()


def _header(original: EncodedFrame, photometric: Any, decoder: Any) -> dict[str, Any]:
    """What has to be the same when a copy is used, and two things more that it tells."""
    return {
        "ref": list(asdict(original.ref).values()),
        "version": original.version,
        "transfer_syntax_uid": original.transfer_syntax_uid,
        "layout": asdict(original.layout),
        "sha256": hashlib.sha256(original.data).hexdigest(),
        "codecs": CODECS,
        "photometric_interpretation": photometric,
        "decoder": decoder,
    }


def _content(original: EncodedFrame, copy: EncodedFrame) -> bytes:
    """A copy as a file: magic, digest of all that follows, length of the header, header, codestream."""
    header = json.dumps(_header(original, copy.layout.photometric_interpretation, copy.decoder)).encode()
    rest = _LENGTH.pack(len(header)) + header + bytes(copy.data)
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def _checked(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Header and codestream. Raises ValueError where a single byte is another."""
    rest = content[len(_MAGIC) + _DIGEST_BYTES :]
    digest = content[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(rest).digest() != digest:
        raise ValueError("damaged")
    (length,) = _LENGTH.unpack_from(rest)
    end = _LENGTH.size + length
    return json.loads(bytes(rest[_LENGTH.size : end])), rest[end:]


def _read(descriptor: int, nbytes: int) -> memoryview:
    content = memoryview(bytearray(nbytes))
    at = 0
    while at < nbytes:
        count = os.preadv(descriptor, [content[at:]], at)
        if not count:
            raise ValueError("cut off")
        at += count
    return content.toreadonly()


def _origin(path: Path) -> tuple[FrameRef, str] | None:
    """Of which frame, in which version, a copy is; None where that cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + _DIGEST_BYTES + _LENGTH.size)
            (length,) = _LENGTH.unpack_from(head, len(_MAGIC) + _DIGEST_BYTES)
            header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
        study, series, instance, number = header["ref"]
        return FrameRef.parse(study, series, instance, number), str(header["version"])
    except (OSError, ValueError, KeyError, TypeError, struct.error, RenderError):
        return None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _size(path: Path) -> int:
    try:
        return _blocks(path.stat().st_size)
    except OSError:
        return 0


def _blocks(nbytes: int) -> int:
    return -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES
