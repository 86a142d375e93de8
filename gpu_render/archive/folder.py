"""Folders of DICOM files as an archive: scanned once, then one positional read a frame."""

import contextlib
import hashlib
import os
import stat
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpu_render.archive import (
    Answers,
    ArchiveStatus,
    FrameRecord,
    ImageRecord,
    InstanceRecord,
    Level,
    OpenInstance,
    PixelPlace,
    Query,
    Rewritten,
    SeriesManifest,
    StudyRecord,
    UnreadableEntry,
)
from gpu_render.archive.encapsulation import join_fragments
from gpu_render.archive.files import INCOMING, OpenFiles, inflate_range
from gpu_render.archive.index import FileChange, FileKey, HeldFolder, Index, Located, version_of
from gpu_render.archive.parse import Parsed, unpack_result, unpack_results
from gpu_render.archive.search import searchable
from gpu_render.archive.writing import join_path, split_path
from gpu_render.errors import (
    CorruptPixelData,
    DecoderTimeout,
    NoProcessorTime,
    NotFound,
    NotRenderable,
    Overloaded,
    RenderError,
    StartupError,
    TooLarge,
    UnreadableFile,
    UnsupportedTransferSyntax,
)
from gpu_render.frame import EncodedFrame, Geometry
from gpu_render.header import MAX_FRAME_BYTES, MAX_FRAMES
from gpu_render.reference import FrameRef

MIB = 1 << 20
SLOW_S = 0.003
"""What takes longer had to wait for a disk."""
BATCH_FILES = 512
"""Most files committed at once; a batch is also committed after BATCH_S."""
BATCH_S = 0.5
CALL_FILES, CALL_BYTES = 64, 64 * MIB
"""Most files, and their bytes, that a worker is given at once: while this process writes, it is slow to give more."""
MANY_FILES = 1000
"""After so many new ones the database counts anew what is in its tables, by which it plans how to search."""

GENERATION_S = 0.1
"""How long another process' change to a shared index may go unnoticed. Own changes are seen at once."""

_ATTEMPTS = 4  # a scan that saw the file before its last change may undo one

Progress = Callable[[int, int], None]
"""(files done, files in all), called from the scanning thread."""

_ERRORS: dict[str, type[RenderError]] = {
    error.__name__: error for error in (CorruptPixelData, NotRenderable, TooLarge, UnsupportedTransferSyntax)
}


Pread = Callable[[int, int, int], bytes | memoryview]


class _OnDiskError(Exception):
    """What is to be read would have to be waited for. No OSError: a file that was refused raises those, too."""


class ParsePool(Protocol):
    """What this archive needs of ``workers.WorkerPool``."""

    @property
    def size(self) -> int:
        """Calls that run at the same time."""
        ...

    def call(
        self,
        operation: str,
        meta: dict[str, Any],
        payload: bytes | memoryview,
        *,
        timeout_s: float,
        result_bytes: int,
        memory_bytes: int,
    ) -> tuple[dict[str, Any], bytes | npt.NDArray[np.uint8]]:
        """Run one operation in a worker."""
        ...


@dataclass(slots=True)
class ScanReport:
    """What a scan did, in files. ``stopped``: it was told to end early."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: list[UnreadableEntry] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    key: FileKey
    size: int
    mtime_ns: int

    @property
    def name(self) -> bytes:
        """Its name in its folder."""
        return split_path(self.key.path)[1]

    @property
    def stamp(self) -> tuple[int, int]:
        """What changes whenever the file does, as the index keeps it."""
        return self.size, self.mtime_ns


class FolderArchive:
    """All DICOM files below ``roots``. Implements Archive; every method may be called from any thread.

    Symbolic links below a root are not followed, devices not opened; the roots themselves are resolved once.
    ``index_path`` None keeps the index in a temporary file, ``index_url`` in a PostgreSQL database instead. ``pool``
    runs the operation ``parse``. ``shared``: the index is that of ``shared_index``, and other processes use it as well;
    one of them is to scan. Raises StartupError for a root that is no folder and for an index that cannot be used.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        index_path: Path | None,
        pool: ParsePool,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_frames: int = MAX_FRAMES,
        open_files: int = 64,
        index_url: str | None = None,
        shared: bool = False,
    ) -> None:
        self._roots = _resolve(roots)
        self._pool = pool
        self._limits = {"max_frame_bytes": max_frame_bytes, "max_frames": max_frames}
        self._index = Index(index_path, url=index_url, shared=shared)
        if not shared:
            self._index.set_roots(self._roots)
        self._files = OpenFiles(open_files)
        self._scan_lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._generation = self._index.generation()
        self._ask_generation_s = 0.0
        self._wait_until_s = 0.0
        self._progress = (False, 0, 0)
        self._unlisted: tuple[UnreadableEntry, ...] = ()

    def close(self) -> None:
        """Release files and database. No scan or request may be running."""
        self._files.close()
        self._index.close()

    # --- frames ---------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Rises whenever something that was held has changed or gone."""
        if time.monotonic() >= self._ask_generation_s:
            self._ask_generation_s = time.monotonic() + GENERATION_S
            self._generation = self._index.generation()
        return self._generation

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        """The bytes of one frame: one look-up, one read. A file that changed since it was indexed is indexed again.

        Raises NotFound, NotRenderable, CorruptPixelData, UnsupportedTransferSyntax and TooLarge.
        """
        for _ in range(_ATTEMPTS):
            located = self._index.find(ref)
            record = _require_shown(ref, located)
            data = self._read(ref, located, os.pread)
            if data is not None:
                return _encoded(ref, record, data)
            self._refresh(located.key)
        raise CorruptPixelData(f"the file of SOP Instance {ref.sop_instance_uid} changes while it is read")

    def fetch_now(self, ref: FrameRef, is_wanted: Callable[[FrameRecord], bool]) -> EncodedFrame | None:
        """The same where index and file lie in memory; None where they do not, where the frame is not wanted, and where
        ``fetch`` has something to say. For the event loop: where that had to wait nevertheless, for a directory, say,
        this does nothing for a hundred times as long, so that slow disks cost it a hundredth of its time."""
        begun = time.monotonic()
        if begun < self._wait_until_s or not self._index.is_near:
            return None
        try:
            located = self._index.find(ref)
            record = _require_shown(ref, located)
            wanted = not located.inflate_offset and is_wanted(record)
            data = self._read(ref, located, _pread_now) if wanted else None
        except (RenderError, _OnDiskError):
            return None
        finally:
            took_s = time.monotonic() - begun
            if took_s > SLOW_S:
                self._wait_until_s = begun + 100 * took_s
        return None if data is None else _encoded(ref, record, data)

    def describe(self, ref: FrameRef) -> FrameRecord:
        """The same frame without its bytes, of the file as it is now; raises the same errors."""
        for _ in range(_ATTEMPTS):
            located = self._index.find(ref)
            if self._is_current(located.key, (located.size, located.mtime_ns)):
                return _require_shown(ref, located)
        raise CorruptPixelData(f"the file of SOP Instance {ref.sop_instance_uid} changes while it is read")

    def _is_current(self, key: FileKey, indexed: tuple[int, int]) -> bool:
        """Whether a file is still the one of this size and time; where not, it is indexed again."""
        found = _stat(key)
        if found is not None and (found.size, found.mtime_ns) == indexed:
            return True
        self._refresh(key)
        return False

    def _read(self, ref: FrameRef, located: Located, pread: Pread) -> bytes | memoryview | None:
        """The frame's bytes; None where the file is not the one that was indexed. Raises _OnDiskError
        where ``pread`` does."""
        try:
            with self._files.lease(located.key.root, located.key.path) as descriptor:
                try:
                    data = _read_frame(descriptor, ref, located, pread)
                except CorruptPixelData:  # of a frame that is gone, perhaps
                    data = None
                status = os.fstat(descriptor)  # after reading: what was read is older than this
        except OSError:
            data, status = None, None
        if status is None or (status.st_size, status.st_mtime_ns) != (located.size, located.mtime_ns):
            self._files.forget(located.key.root, located.key.path)
            return None
        if data is None:
            raise CorruptPixelData(f"{_name(ref)} cannot be read completely")
        return data

    def _refresh(self, key: FileKey) -> None:
        """Index one file again, or forget it where it has gone; one at a time, so that it is parsed once for all who
        wait for it."""
        with self._refresh_lock:
            found = _stat(key)
            if found is None:
                self._write_removed([key])
            elif self._index.known_file(key) != found.stamp:
                self._write([self._parse(found)])

    # --- storing --------------------------------------------------------------------------------------------

    def key_of(self, path: Path) -> FileKey:
        """How this archive names a file below its roots. Raises StartupError for one that is not."""
        resolved = os.fsencode(path.resolve())
        for root in self._roots:
            if resolved == root or resolved.startswith(root.rstrip(b"/") + b"/"):
                return FileKey(root, resolved[len(root.rstrip(b"/")) + 1 :])
        raise StartupError("the folder for stored files is not below a root of the archive")

    def examine(self, key: FileKey) -> FileChange:
        """What parsing makes of a file below a root, known or not; the index learns nothing. Raises NotFound,
        CorruptPixelData where the file cannot be read at the moment, and Overloaded."""
        found = _stat(key)
        if found is None:
            raise NotFound("the file has gone")
        return self._parse(found)

    def adopt(self, change: FileChange) -> None:
        """Let the index know a file that ``examine`` has seen: requests find it from now on."""
        self._write([change])

    def holder(self, sop_instance_uid: str) -> FileKey | None:
        """The file that an instance is served from, None where there is none. A file that has gone is forgotten."""
        key = self._index.holder(sop_instance_uid)
        if key is not None and _stat(key) is None:
            self._write_removed([key])
            return None
        return key

    def patients(self, study_uid: str) -> set[tuple[str, str, str]]:
        """(Patient's Name, Patient ID, Issuer of Patient ID) of all files of a study: one, unless they contradict each
        other."""
        return self._index.patients(study_uid)

    # --- lists ----------------------------------------------------------------------------------------------

    def studies(self) -> tuple[StudyRecord, ...]:
        """All studies, the latest first."""
        return self._index.studies()

    def series(self, study_uid: str, series_uid: str) -> SeriesManifest:
        """One series with all its frames in anatomical order. Raises NotFound."""
        study, series = self._index.series_attributes(study_uid, series_uid)
        frames, hidden = self._index.series_frames(study_uid, series_uid)
        return SeriesManifest(study, series, tuple(anatomical_order(frames)), tuple(hidden))

    def series_version(self, study_uid: str, series_uid: str) -> str:
        """What changes whenever ``series`` would answer something else: one look-up. Raises NotFound."""
        generation = self.generation
        said = repr(self._index.series_attributes(study_uid, series_uid))  # with the counts of what it has
        return f"{generation}-{hashlib.blake2b(said.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"

    def image(self, image_id: int) -> ImageRecord:
        """The instance behind a stable integer id. Raises what ``describe`` raises."""
        ref = self._index.first_frame(image_id)
        study, series = self._index.series_attributes(ref.study_uid, ref.series_uid)
        return ImageRecord(study, series, self.describe(ref))

    def image_id(self, sop_instance_uid: str) -> int:
        """The stable integer id of an instance. Raises NotFound."""
        return self._index.image_id(sop_instance_uid)

    # --- for DICOMweb ---------------------------------------------------------------------------------------

    def search(self, query: Query) -> Answers:
        """What matches, in a fixed order. Raises BadRequest for a matching value that is none."""
        return self._index.search(query)

    def searchable(self, level: Level) -> frozenset[str]:
        """Keywords that ``search`` can match at a level; those of an item with that of its sequence before a dot."""
        return searchable(level)

    def instances(
        self, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[InstanceRecord]:
        """All instances of a study or series, or one: by Series Number, Instance Number and UID. Raises NotFound.

        One alone is that of the file as it is now; of many the files are not looked at."""
        if sop_instance_uid is not None:
            key = self._index.holder(sop_instance_uid)
            known = None if key is None else self._index.known_file(key)
            if key is not None and known is not None:
                self._is_current(key, known)
        return self._index.instances(study_uid, series_uid, sop_instance_uid)

    def metadata(self, instances: Sequence[InstanceRecord]) -> Iterator[bytes]:
        """Of each instance its whole data set as JSON text, some read ahead. Raises NotFound for one that has changed
        or gone."""
        for instance, body in self._index.metadata(instances):
            if not body:  # too long to be kept
                _, made = self._read_in_worker("metadata", instance, {"decodable": instance.reason is None})
                body = bytes(made)
            yield zlib.decompress(body)

    def bulkdata(self, instance: InstanceRecord, path: str) -> bytes:
        """The value of one element, little-endian, text in UTF-8. Pixels of the data set are frames, and not found
        here. Raises NotFound, TooLarge, CorruptPixelData, and NotRenderable for the compressed pixels of an icon."""
        answer, value = self._read_in_worker("bulkdata", instance, {"path_in_data_set": path})
        if not answer.get("found"):
            raise NotFound(f"SOP Instance {instance.sop_instance_uid} has no such value")
        return bytes(value)

    def rewritten(
        self, instance: InstanceRecord, transfer_syntax_uid: str, changes: Sequence[tuple[int, str, int | str]]
    ) -> Rewritten:
        """All of it but the pixels, as a file in another transfer syntax. Raises NotFound, CorruptPixelData,
        NotRenderable and TooLarge."""
        meta = {
            "transfer_syntax_uid": transfer_syntax_uid,
            "sop_class_uid": instance.sop_class_uid,
            "sop_instance_uid": instance.sop_instance_uid,
            "changes": [list(change) for change in changes],
        }
        answer, result = self._read_in_worker("rewrite", instance, meta)
        head, place = answer["head_bytes"], answer["pixels"]
        content = bytes(result)
        return Rewritten(content[:head], content[head:], None if place is None else PixelPlace(**place))

    def _read_in_worker(
        self, operation: str, instance: InstanceRecord, meta: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes | npt.NDArray[np.uint8]]:
        """Let a worker read the file of an instance, which is the one that was indexed before and afterwards.

        Raises NotFound where it is not, CorruptPixelData where it cannot be read, and what the operation raises.
        """
        with self.open(instance):
            key = self._index.holder(instance.sop_instance_uid)
        size = min(instance.nbytes, 256 * MIB)
        if key is None:
            raise NotFound(f"SOP Instance {instance.sop_instance_uid} has changed or gone")
        try:
            answer = self._pool.call(
                operation,
                {"root": os.fsdecode(key.root), "path": os.fsdecode(key.path), **meta},
                b"",
                timeout_s=30 + size / MIB,
                result_bytes=64 * MIB + 2 * size,
                memory_bytes=1024 * MIB + 8 * size,
            )
        except UnreadableFile:
            raise CorruptPixelData(f"the file of SOP Instance {instance.sop_instance_uid} cannot be read") from None
        with self.open(instance):
            return answer

    @contextlib.contextmanager
    def open(self, instance: InstanceRecord) -> Iterator[OpenInstance]:
        """The stored file. Raises NotFound where it has gone or changed."""
        gone = NotFound(f"SOP Instance {instance.sop_instance_uid} has changed or gone")
        key = self._index.holder(instance.sop_instance_uid)
        if key is None:
            raise gone
        with contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self._files.lease(key.root, key.path))
                status = os.fstat(descriptor)
                found = version_of(status.st_size, status.st_mtime_ns)
            except OSError:
                found = None
            if found != instance.version:
                self._files.forget(key.root, key.path)
                self._refresh(key)
                raise gone
            yield OpenInstance(descriptor, instance.nbytes)

    def status(self) -> ArchiveStatus:
        """Progress and the list of unreadable files."""
        instances, frames = self._index.counts()
        return ArchiveStatus(*self._progress, instances, frames, (*self._index.unreadable(), *self._unlisted))

    # --- scanning -------------------------------------------------------------------------------------------

    def scan(self, progress: Progress | None = None, stop: threading.Event | None = None) -> ScanReport:
        """Bring the index up to date with the folders. Files whose size and time are unchanged are not opened.

        Requests see files as batches are committed. ``stop`` ends the scan after the files being parsed; what was
        committed stays. One scan at a time: a second waits.
        """
        with self._scan_lock:
            report, stop = ScanReport(), stop or threading.Event()
            self._progress = (True, 0, 0)
            try:
                self._scan(report, progress or _no_progress, stop)
            finally:
                self._progress = (False, *self._progress[1:])
            report.stopped = stop.is_set()
            report.unreadable = [*self._index.unreadable(), *self._unlisted]
            return report

    def _scan(self, report: ScanReport, progress: Progress, stop: threading.Event) -> None:
        """Folder by folder: in memory are the files of one folder, and which folders there are."""
        last, walk = self._index.last_folder(), _Walk(self._roots, stop)
        seen, changed, total = set[int | None](), list[FileKey](), 0
        for place, held, files in walk.folders(self._index.held_folder):
            self._forget_files(place, held, files, report)
            todo = sum(held.files.get(file.name) != file.stamp for file in files)
            report.unchanged += len(files) - todo
            seen.add(held.id)
            changed += [place] if todo else []
            total += todo
        self._unlisted = tuple(walk.failed_entries)
        if stop.is_set():
            return
        self._forget_folders(walk, seen, last, report)
        changed.sort(key=lambda place: (place.root, place.path))
        self._parse_all(self._todo(changed, report), total, progress, stop)
        orphans = self._index.orphaned_duplicates()
        if orphans:
            self._index.remove(orphans)  # so that they count as unknown
        for key in orphans:
            self._refresh(key)
        if total >= MANY_FILES:
            self._index.analyze()

    def _forget_files(self, place: FileKey, held: HeldFolder, files: Sequence[_Found], report: ScanReport) -> None:
        """Forget what is no longer in a folder."""
        gone = held.files.keys() - {file.name for file in files}
        report.removed += len(gone)
        if gone:
            self._write_removed([FileKey(place.root, join_path(place.path, name)) for name in gone])

    def _forget_folders(self, walk: "_Walk", seen: set[int | None], last: int, report: ScanReport) -> None:
        """Forget folders that were not met, up to the one that was known ``last`` before the walk."""
        after = 0
        while after < last and (held := self._index.held_folders(after, last)):
            after = held[-1][0]
            unseen = [(id_, place) for id_, place in held if id_ not in seen and not walk.failed_above(place)]
            gone = [id_ for id_, place in unseen if not _is_folder(place)]  # may have been made behind the walk's back
            if gone:
                report.removed += self._index.remove_folders(gone)
                self._ask_generation_s = 0.0

    def _todo(self, places: Sequence[FileKey], report: ScanReport) -> Iterator[_Found]:
        """Files of these folders that are new or have changed, in order of their paths."""
        for place in places:
            held = self._index.held_folder(place)
            with contextlib.suppress(OSError):  # listed a moment ago; the next scan tells more
                for file in sorted(list_folder(place)[0], key=lambda file: file.name):
                    known = held.files.get(file.name)
                    if known != file.stamp:
                        report.added += known is None
                        report.changed += known is not None
                        yield file

    def _parse_all(self, todo: Iterable[_Found], total: int, progress: Progress, stop: threading.Event) -> None:
        """Parse on as many threads as the pool has workers; commit in order of the paths. ``total`` files are meant;
        it is told more or fewer where folders change meanwhile."""
        done, batch, began = 0, list[FileChange](), time.monotonic()
        self._progress = (True, 0, total)
        progress(0, total)
        with ThreadPoolExecutor(self._pool.size, thread_name_prefix="scan") as threads:
            for change in _in_order(threads, self._parse_some, _grouped(todo), 4 * self._pool.size, stop):
                batch.append(change)
                done += 1
                if len(batch) >= BATCH_FILES or time.monotonic() - began >= BATCH_S:
                    self._write(batch)
                    batch, began = [], time.monotonic()
                self._progress = (True, done, max(done, total))
                progress(done, max(done, total))
        if batch:
            self._write(batch)
        if done < total and not stop.is_set():
            self._progress = (True, done, done)
            progress(done, done)

    def _parse_some(self, files: Sequence[_Found]) -> list[FileChange]:
        """Files below one root in one call. Where that fails, each by itself: a bad one costs no other."""
        if len(files) == 1:
            return [self._parse(files[0])]
        size = sum(file.size for file in files)
        paths = [os.fsdecode(file.key.path) for file in files]
        try:
            answer, result = self._pool.call(
                "parse_files",
                {"root": os.fsdecode(files[0].key.root), "paths": paths, **self._limits},
                b"",
                timeout_s=10 + size / MIB,
                result_bytes=2 * MIB + 3 * size,
                memory_bytes=512 * MIB + 8 * size,
            )
        except NoProcessorTime:
            return [self._parse(file) for file in files]
        except Overloaded:
            raise
        except RenderError:
            return [self._parse(file) for file in files]
        return [_change(file, parsed) for file, parsed in zip(files, unpack_results(answer, result), strict=True)]

    def _parse(self, file: _Found) -> FileChange:
        key = file.key
        meta = {"root": os.fsdecode(key.root), "path": os.fsdecode(key.path), **self._limits}
        try:
            answer, result = self._pool.call(
                "parse",
                meta,
                b"",
                timeout_s=min(300, 10 + file.size / MIB),
                result_bytes=2 * MIB + 3 * min(file.size, 256 * MIB),
                memory_bytes=512 * MIB + 8 * min(file.size, 256 * MIB),
            )
        except (DecoderTimeout, NoProcessorTime) as error:  # may have been killed: no size, so that a scan tries again
            return FileChange(key, -1, file.mtime_ns, None, reason=_reason(error))
        except Overloaded:
            raise  # the pool is closing: nothing is known about the file
        except RenderError as error:
            return _change(file, error)
        return _change(file, unpack_result(answer, result))

    def _write(self, changes: Sequence[FileChange]) -> None:
        if self._index.write(changes):
            self._ask_generation_s = 0.0

    def _write_removed(self, keys: Sequence[FileKey]) -> None:
        if self._index.remove(keys):
            self._ask_generation_s = 0.0


@contextlib.contextmanager
def shared_index(roots: Sequence[Path], index_path: Path | None, index_url: str | None = None) -> Iterator[None]:
    """Make or migrate an index for several processes and keep other services off it until the block ends.

    Raises StartupError like FolderArchive.
    """
    index = Index(index_path, url=index_url)
    try:
        index.set_roots(_resolve(roots))
        index.share()
        yield
    finally:
        index.close()


def _no_progress(_done: int, _total: int) -> None:
    """Nobody looks."""


def _reason(error: RenderError) -> str:
    if isinstance(error, UnreadableFile):
        return str(error)
    if isinstance(error, NoProcessorTime):
        return "header was not read, since the machine had no processor time for it; the next scan tries again"
    if isinstance(error, DecoderTimeout | TooLarge):
        return "header is beyond the time or memory limit"
    return f"header cannot be parsed ({type(error).__name__})"


def _change(file: _Found, parsed: Parsed | RenderError) -> FileChange:
    if isinstance(parsed, RenderError):
        return FileChange(file.key, file.size, file.mtime_ns, None, reason=_reason(parsed))
    return FileChange(file.key, file.size, file.mtime_ns, parsed.document, parsed.spans, metadata=parsed.metadata)


def _grouped(todo: Iterable[_Found]) -> Iterator[list[_Found]]:
    """Files for one call each, of one root: few at first, so that workers and readers soon have some."""
    group, nbytes, most = list[_Found](), 0, 1
    for file in todo:
        nbytes += file.size
        if group and (len(group) >= most or nbytes > CALL_BYTES or group[0].key.root != file.key.root):
            yield group
            group, nbytes, most = [], file.size, min(2 * most, CALL_FILES)
        group.append(file)
    if group:
        yield group


def _in_order(
    threads: ThreadPoolExecutor,
    parse: Callable[[Sequence[_Found]], list[FileChange]],
    groups: Iterable[Sequence[_Found]],
    ahead: int,
    stop: threading.Event,
) -> Iterator[FileChange]:
    """Results in the order of ``groups``, with at most ``ahead`` of these under way; ends early when ``stop`` is
    set."""
    waiting: deque[Future[list[FileChange]]] = deque()
    try:
        for group in groups:
            if stop.is_set():
                return
            waiting.append(threads.submit(parse, group))
            if len(waiting) >= ahead:
                yield from waiting.popleft().result()
        while waiting and not stop.is_set():
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


# --- files below roots --------------------------------------------------------------------------------------


def _resolve(roots: Sequence[Path]) -> list[bytes]:
    """Absolute paths without links, each once, none inside another. Raises StartupError."""
    resolved = sorted({Path(root).resolve() for root in roots})
    for root in resolved:
        if not root.is_dir():
            raise StartupError("a root of the archive is not a folder")
    return [os.fsencode(root) for root in resolved if not any(other in root.parents for other in resolved)]


def _stat(key: FileKey) -> _Found | None:
    try:
        status = os.stat(os.path.join(key.root, key.path), follow_symlinks=False)  # noqa: PTH118, PTH116 - bytes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # a share that does not answer, say: the file has not gone for all that
        raise CorruptPixelData("the file cannot be read at the moment") from None
    return _Found(key, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


class _Walk:
    """All folders below the roots. What cannot be listed is remembered: its files are unknown, not gone."""

    def __init__(self, roots: Sequence[bytes], stop: threading.Event) -> None:
        self._roots = roots
        self._stop = stop
        self._failed: list[FileKey] = []
        self.failed_entries: list[UnreadableEntry] = []

    def folders(self, known: Callable[[FileKey], HeldFolder]) -> Iterator[tuple[FileKey, HeldFolder, list[_Found]]]:
        """Each folder, what was ``known`` of it just before it was looked at, and its files; in no particular order.
        Ends early when stopped."""
        for root in self._roots:
            waiting = [b""]
            while waiting and not self._stop.is_set():
                place = FileKey(root, waiting.pop())
                held = known(place)  # before: what is stored meanwhile is not seen, but has not gone
                try:
                    files, inner = list_folder(place)
                except OSError as error:
                    self._fail(place, error)
                    continue
                waiting += inner
                yield place, held, files

    def _fail(self, place: FileKey, error: OSError) -> None:
        self._failed.append(place)
        shown = place.path.decode("utf-8", "replace") or "."
        self.failed_entries.append(UnreadableEntry(shown, f"folder cannot be listed ({type(error).__name__})"))

    def failed_above(self, place: FileKey) -> bool:
        """Whether this folder or one above it could not be listed."""
        return any(
            failed.root == place.root and (not failed.path or (place.path + b"/").startswith(failed.path + b"/"))
            for failed in self._failed
        )


def list_folder(place: FileKey) -> tuple[list[_Found], list[bytes]]:
    """Regular files of a folder, and paths of the folders in it. Links are neither. Raises OSError."""
    files, folders = [], []
    with os.scandir(os.path.join(place.root, place.path)) as entries:  # noqa: PTH118 - bytes
        for entry in entries:
            path = join_path(place.path, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if entry.name != INCOMING:
                    folders.append(path)
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                files.append(_Found(FileKey(place.root, path), status.st_size, status.st_mtime_ns))
    return files, folders


def _is_folder(place: FileKey) -> bool:
    """Whether there is such a folder, and no link on the way to it."""
    path = os.path.join(place.root, place.path)  # noqa: PTH118 - bytes
    return os.path.realpath(path) == path and os.path.isdir(path)  # noqa: PTH112


# --- one frame ----------------------------------------------------------------------------------------------


def _name(ref: FrameRef) -> str:
    return f"frame {ref.frame_number} of SOP Instance {ref.sop_instance_uid}"


def _require_shown(ref: FrameRef, located: Located) -> FrameRecord:
    """The record of a frame that can be shown, else the error that says why not."""
    if located.error is not None or located.record is None:
        kind, message = located.error or ("CorruptPixelData", "not indexed completely")
        raise _ERRORS[kind](f"SOP Instance {ref.sop_instance_uid}: {message}")
    frames = located.number_of_frames
    if ref.frame_number > frames:
        raise NotFound(f"no {_name(ref)}: it has {frames} frame{'s' if frames > 1 else ''}")
    native = located.frame_bits > 0
    if (ref.frame_number > located.frames_whole) if native else (located.span[1] == 0):
        raise CorruptPixelData(f"{_name(ref)} is truncated")
    return located.record


def _encoded(ref: FrameRef, record: FrameRecord, data: bytes | memoryview) -> EncodedFrame:
    return EncodedFrame(ref, record.transfer_syntax_uid, record.layout, record.presentation, data, record.version)


def _pread_now(descriptor: int, length: int, offset: int) -> memoryview:
    """As ``os.pread``, of what the system has in memory. Raises _OnDiskError where that is not all, and where a file
    system cannot tell."""
    buffer = np.empty(length, np.uint8).data
    try:
        read = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        raise _OnDiskError from None
    if read < length:  # the rest lies on the disk, or the file ends here
        raise _OnDiskError
    return buffer


def _read_frame(descriptor: int, ref: FrameRef, located: Located, pread: Pread) -> bytes | memoryview | None:
    """One read. None where the file ends inside the frame."""
    data: bytes | memoryview
    if located.frame_bits == 0:
        offset, length = located.span
        data = pread(descriptor, length, offset)
        return join_fragments(data) if len(data) == length else None
    first_bit = ref.frame_index * located.frame_bits
    start, end = first_bit // 8, (first_bit + located.frame_bits + 7) // 8
    if located.word_swap:
        start, end = start - start % 2, end + end % 2
    if located.inflate_offset:
        data = inflate_range(descriptor, located.inflate_offset, located.pixel_offset + start, end - start)
    else:
        data = pread(descriptor, end - start, located.pixel_offset + start)
    if 8 * (start + len(data)) < first_bit + located.frame_bits:
        return None
    if located.word_swap:
        data = _swap_pairs(data)
    return _cut_bits(data, first_bit - 8 * start, located.frame_bits)


def _swap_pairs(data: bytes | memoryview) -> bytes:
    return np.frombuffer(bytes(data) + b"\0" * (len(data) % 2), "<u2").byteswap().tobytes()


def _cut_bits(data: bytes | memoryview, first_bit: int, bits: int) -> bytes | memoryview:
    """``bits`` bits from ``first_bit`` on, the first of them in bit 0 of the first byte; spare bits are 0."""
    if first_bit % 8 == 0 and bits % 8 == 0:
        begin = first_bit // 8
        return data if begin == 0 and len(data) == bits // 8 else data[begin : begin + bits // 8]
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[first_bit : first_bit + bits]
    return np.packbits(unpacked, bitorder="little").tobytes()


# --- order of a series --------------------------------------------------------------------------------------


def anatomical_order(frames: Sequence[FrameRecord]) -> list[FrameRecord]:
    """Along the slice normal (row x column direction), then Instance Number and frame number, where every frame has
    a position and all have one orientation; otherwise as given."""
    first = frames[0].geometry.image_orientation if frames else None
    if first is None or not all(_lies_parallel(frame.geometry, first) for frame in frames):
        return list(frames)
    normal = np.cross(first[:3], first[3:])
    positions = np.array([frame.geometry.image_position for frame in frames], dtype=np.float64)
    # Rounded to 1 um, so that noise in decimal strings does not reorder frames at one place.
    distances = np.round(positions @ normal, 3)
    return [frames[index] for index in np.argsort(distances, kind="stable")]


def _lies_parallel(geometry: Geometry, orientation: tuple[float, ...]) -> bool:
    if geometry.image_position is None or geometry.image_orientation is None:
        return False
    return all(abs(a - b) < 1e-4 for a, b in zip(geometry.image_orientation, orientation, strict=True))
