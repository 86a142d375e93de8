"""Store: files from outside become files of the archive, whole or not at all (PS3.18 10.5). See docs/decisions/0011.

A file is received below ``INCOMING``, where no scan looks; flushed to disk; parsed in a worker process; linked to
``<study>/<series>/<instance>.dcm``, which fails where that name is taken; and written to the index. A process that ends
in between leaves either a whole file, which the next scan finds, or one that the next start removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom.uid
from pydicom.config import IGNORE

from gpu_render.archive.attributes import comparable_name
from gpu_render.archive.files import INCOMING, open_beneath
from gpu_render.archive.index import FileChange, FileKey
from gpu_render.errors import InvalidUid, StartupError, StorageFull, TooLarge
from gpu_render.reference import check_uid

log = logging.getLogger("gpu_render")

COMPARE_BYTES = 1 << 20
THREADS = 4
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCKS = b"locks"


class FailureReason(IntEnum):
    """Failure Reason (0008,1197) of PS3.18 table I.2-2, and three that it leaves to the implementation: 0111H as
    PS3.7 C.4.2 names it, and what dcm4chee answers for another study."""

    PROCESSING = 0x0110
    DUPLICATE = 0x0111
    """Another file with this SOP Instance UID is held already."""
    FULL = 0xA700
    TOO_LARGE = 0xA701
    INCOMPLETE = 0xA900
    """A UID or the Transfer Syntax is missing: the data set conforms to no SOP Class."""
    NOT_UNDERSTOOD = 0xC000
    OTHER_STUDY = 0xC409
    """Its Study Instance UID is not that of the request."""


class WarningReason(IntEnum):
    """Warning Reason (0008,1196) of PS3.18 table I.2-1."""

    OTHER_PATIENT = 0xB000
    """Stored as it came, although files of its study name different patients. The nearest that there is ("coercion of
    data elements"): what is answered about the study is not what each of them says."""
    DAMAGED = 0xB007
    """Stored as it came, although it is cut off or its pixels contradict its header."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file; UIDs as far as they are known. Without ``failure`` it is held, bit by bit as it came."""

    failure: FailureReason | None = None
    warning: WarningReason | None = None
    study_uid: str = ""
    series_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""


class StoringArchive(Protocol):
    """What storing needs of ``folder.FolderArchive``."""

    def key_of(self, path: Path) -> FileKey:
        """How the archive names a file below its roots."""
        ...

    def examine(self, key: FileKey) -> FileChange:
        """What parsing makes of a file."""
        ...

    def adopt(self, change: FileChange) -> None:
        """Let requests find it."""
        ...

    def holder(self, sop_instance_uid: str) -> FileKey | None:
        """The file that an instance is served from."""
        ...

    def patients(self, study_uid: str) -> set[tuple[str, str, str]]:
        """(Patient's Name, Patient ID, Issuer of Patient ID) of all files of a study."""
        ...


def served_roots(roots: Sequence[Path], store_path: Path | None) -> tuple[Path, ...]:
    """All folders that are read: with the one for stored files, which is made where it is absent. StartupError."""
    return tuple(roots) if store_path is None else (*roots, prepare(store_path))


def prepare(path: Path) -> Path:
    """Make the folder for stored files where it is absent. Raises StartupError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StartupError(f"the folder for stored files cannot be written ({error.strerror})") from None
    return path.resolve()


class Incoming:
    """One file that is being received. Used by one thread at a time. Raises StorageFull and TooLarge."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.path = folder / secrets.token_hex(16)
        self.nbytes = 0
        self._max_bytes = max_bytes
        with _room():
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        if self.nbytes + len(data) > self._max_bytes:
            raise TooLarge(f"an instance is larger than the limit of {self._max_bytes} bytes")
        rest = memoryview(data)
        while rest:
            with _room():
                written = os.write(self._descriptor, rest)
            self.nbytes += written
            rest = rest[written:]

    def finish(self) -> None:
        """Flush to disk."""
        with _room():
            os.fsync(self._descriptor)
            self._close()

    def discard(self) -> None:
        """Forget what was received; may be called at any time and again."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Store:
    """Files below ``path``, a folder below a root of ``archive``. Every method may be called from any thread; several
    processes may store below one folder. Raises StartupError where the folder cannot be used.

    ``threads`` are for calling the others: they wait for disks and for workers, and no reader shall wait with them.
    Files are parsed one by one, so that readers who need a worker as well wait for one file at most. ``uploads``: how
    many requests store at the moment, counted by whoever takes them.
    """

    def __init__(self, archive: StoringArchive, path: Path, *, max_instance_bytes: int) -> None:
        self.path = prepare(path)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self.uploads = 0
        self._parsing = threading.Lock()
        self._archive = archive
        self._max_instance_bytes = max_instance_bytes
        archive.key_of(self.path)
        self._incoming = self.path / os.fsdecode(INCOMING)
        try:
            self._locks = self._incoming / os.fsdecode(_LOCKS)
            self._locks.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_leftovers(self._incoming)
            self._own, self._claim = _claim(self._incoming)
        except OSError as error:
            raise StartupError(f"the folder for stored files cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Finish what runs and remove what is unfinished. No other method may follow."""
        self.threads.shutdown(cancel_futures=True)
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._claim)

    def receive(self) -> Incoming:
        """A new file to write to. Raises StorageFull."""
        return Incoming(self._own, self._max_instance_bytes)

    def keep(self, incoming: Incoming, study_uid: str | None = None) -> Outcome:
        """Take a file that was received to its end; with ``study_uid`` only one of that study. It is known when this
        returns. Whatever happens, ``incoming`` is used up."""
        try:
            incoming.finish()
            return self._warned(self._keep(incoming, study_uid))
        except StorageFull:
            return Outcome(FailureReason.FULL)
        except Exception as error:  # noqa: BLE001 - disk, workers, database: the client hears of it, and sends again
            log.error("a received file was not stored (%s)", type(error).__name__)
            return Outcome(FailureReason.PROCESSING)
        finally:
            incoming.discard()

    def _keep(self, incoming: Incoming, study_uid: str | None) -> Outcome:
        with self._parsing:
            change = self._archive.examine(self._archive.key_of(incoming.path))
        outcome = judge(change, study_uid)
        if outcome.failure is not None:
            return outcome
        with self._alone(outcome.sop_instance_uid):
            held = self._archive.holder(outcome.sop_instance_uid)
            if held is not None:
                return self._meet(incoming, change, outcome, held)
            return self._place(incoming, change, outcome)

    def _warned(self, outcome: Outcome) -> Outcome:
        """Looked at when it is held: of two that come at the same time the later one is warned."""
        if outcome.failure is not None or not contradict(self._archive.patients(outcome.study_uid)):
            return outcome
        log.warning("a file was stored in a study whose files name different patients")
        return replace(outcome, warning=WarningReason.OTHER_PATIENT)

    def _place(self, incoming: Incoming, change: FileChange, outcome: Outcome) -> Outcome:
        """Give the file its name, and let the index know. Where a file that the index does not know has that name, a
        process has ended just after it gave it, most likely."""
        key = self._key(outcome)
        with _room(), self._folder(outcome) as folder:
            if not _link(incoming.path, _name(outcome), folder):
                self._archive.adopt(self._archive.examine(key))
                return self._meet(incoming, change, outcome, key)
            os.fsync(folder)
        self._archive.adopt(replace(change, key=key))
        return outcome

    def _meet(self, incoming: Incoming, change: FileChange, outcome: Outcome, held: FileKey) -> Outcome:
        """The instance is held already. That it comes again is fine, that it is another is not; but the whole of it
        takes the place of a beginning, since nothing is lost with that."""
        begins, same = _compare(held, incoming.path)
        if same:
            return outcome
        if begins and held == self._key(outcome) and outcome.warning is None and self._is_damaged(held):
            with self._folder(outcome) as folder:
                os.rename(incoming.path, _name(outcome), dst_dir_fd=folder)
                os.fsync(folder)
            self._archive.adopt(replace(change, key=held))
            return outcome
        return replace(outcome, failure=FailureReason.DUPLICATE, warning=None)

    def _is_damaged(self, held: FileKey) -> bool:
        change = self._archive.examine(held)
        return change.document is not None and is_damaged(change.document, change.spans)

    def _key(self, outcome: Outcome) -> FileKey:
        return self._archive.key_of(self.path / outcome.study_uid / outcome.series_uid / _name(outcome))

    @contextlib.contextmanager
    def _folder(self, outcome: Outcome) -> Iterator[int]:
        """A descriptor of the folder of a series, made where it is absent; no links are followed."""
        folder = os.open(self.path, _DIRECTORY)
        try:
            for part in (outcome.study_uid, outcome.series_uid):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                os.fsync(folder)  # also where another has made it just now; costs nothing where it is old
                inner = os.open(part, _DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _alone(self, sop_instance_uid: str) -> Iterator[None]:
        """One file of an instance at a time, in all threads of all processes (flock belongs to the open file)."""
        name = hashlib.blake2b(sop_instance_uid.encode(), digest_size=1).hexdigest()
        descriptor = os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def judge(change: FileChange, study_uid: str | None) -> Outcome:
    """What parsing says of a file that is to be stored."""
    document = change.document
    if document is None:
        stopped = change.size < 0  # at a limit of time, which says nothing about the file
        return Outcome(FailureReason.PROCESSING if stopped else FailureReason.NOT_UNDERSTOOD)
    if not is_uid(document["instance"]["SOPClassUID"]):
        return Outcome(FailureReason.INCOMPLETE)
    outcome = Outcome(
        study_uid=document["study_instance_uid"],
        series_uid=document["series_instance_uid"],
        sop_instance_uid=document["sop_instance_uid"],
        sop_class_uid=document["instance"]["SOPClassUID"],
        warning=WarningReason.DAMAGED if is_damaged(document, change.spans) else None,
    )
    if document["lacks"]:
        # What was made up is nobody's name.
        known = "" if "SOP Instance UID" in document["lacks"] else outcome.sop_instance_uid
        return Outcome(FailureReason.INCOMPLETE, sop_instance_uid=known, sop_class_uid=outcome.sop_class_uid)
    if study_uid is not None and outcome.study_uid != study_uid:
        return replace(outcome, failure=FailureReason.OTHER_STUDY, warning=None)
    return outcome


def contradict(patients: Collection[tuple[str, str, str]]) -> bool:
    """Whether names, ids or their issuers differ. To say nothing is no contradiction, nor is another case of a name."""
    attributes = (
        {comparable_name(name) for name, _, _ in patients},
        {number.strip() for _, number, _ in patients},
        {issuer.strip() for _, _, issuer in patients},
    )
    return any(len(values - {""}) > 1 for values in attributes)


def is_uid(text: str) -> bool:
    """Whether it may be named: what is no UID may be anything."""
    try:
        check_uid(text)
    except InvalidUid:
        return False
    return True


def is_damaged(document: dict[str, Any], spans: bytes) -> bool:
    """Whether something is wrong with a file that can be told from others nevertheless."""
    kind = document["error"][0] if document["error"] else None
    if kind is None:
        missing = np.frombuffer(spans, "<u8").reshape(-1, 2)[:, 1] == 0
        return document["frames_whole"] < document["number_of_frames"] or bool(missing.any())
    # Of an image that was cut off before its pixels nothing else tells.
    no_pixels = kind == "NotRenderable" and document["number_of_frames"] == 0 and _is_image(document)
    return kind == "CorruptPixelData" or document["cut_off"] or no_pixels


def _is_image(document: dict[str, Any]) -> bool:
    # Without validation: its warnings quote what is in the file.
    return pydicom.uid.UID(document["instance"]["SOPClassUID"], IGNORE).name.endswith("Image Storage")


# --- files --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """A disk, quota or file size limit that is reached is StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("there is no room to store what was sent") from None
        raise


def _link(source: Path, name: str, folder: int) -> bool:
    """Give ``source`` the name ``name`` in ``folder``; False where that is taken. Never overwrites."""
    try:
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links. Nobody else stores this instance now (_alone).
        if name in os.listdir(folder):
            return False
        os.rename(source, name, dst_dir_fd=folder)
    return True


def _name(outcome: Outcome) -> str:
    return f"{outcome.sop_instance_uid}.dcm"


def _compare(held: FileKey, path: Path) -> tuple[bool, bool]:
    """Whether the file at ``path`` begins with all bytes of the one that is held, and whether it has no others."""
    opened = os.fdopen(open_beneath(held.root, held.path), "rb", buffering=0)
    with opened as known, path.open("rb", buffering=0) as other:
        while block := known.read(COMPARE_BYTES):
            if other.read(len(block)) != block:
                return False, False
        return True, not other.read(1)


def _claim(incoming: Path) -> tuple[Path, int]:
    """A folder of this process' own, and a descriptor whose lock says that the process lives."""
    while True:
        own = incoming / secrets.token_hex(8)
        own.mkdir(mode=0o700)
        # Another process may take it for a leftover before it is locked.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(own, _DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if own.exists():
                return own, descriptor
            os.close(descriptor)


def _remove_leftovers(incoming: Path) -> None:
    """Remove what processes that are gone had not finished."""
    for folder in incoming.iterdir():
        if folder.name == os.fsdecode(_LOCKS):
            continue
        try:
            descriptor = os.open(folder, _DIRECTORY)
        except FileNotFoundError:  # another process that starts has removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
