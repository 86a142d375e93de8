"""The SQLite index of a folder archive: what every file says, and where each frame lies. See docs/decisions/0004.

A cache of what the files say: it may be deleted at any time, at the price of a new scan and new image ids.
"""

import contextlib
import fcntl
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_render.archive import (
    FrameRecord,
    HiddenInstance,
    SeriesRecord,
    StudyAttributes,
    StudyRecord,
    UnreadableEntry,
)
from gpu_render.archive.records import geometry_from_json, layout_from_json, presentation_from_json
from gpu_render.errors import NotFound, StartupError
from gpu_render.frame import Presentation
from gpu_render.reference import FrameRef

SCHEMA_VERSION = 3
"""Raised with every change of a table, of what a column means or of what parsing makes of a file: an index of another
version is rebuilt."""
APPLICATION_ID = 0x47505552
CHUNK_FRAMES = 128
"""Spans kept in one row: 2 KiB, less than a page, so that any frame of an object costs one small read."""
SPAN_BYTES = 16
DUPLICATE = "duplicate SOP Instance UID"

# Ids are promised to clients: this table survives every rebuild and is never deleted from.
_IMAGES = """
CREATE TABLE IF NOT EXISTS image (id INTEGER PRIMARY KEY AUTOINCREMENT, sop_instance_uid TEXT NOT NULL UNIQUE)
"""
# Counts up with every change to what was held, for all processes that share the file.
_STATE = """
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 0), generation INTEGER NOT NULL);
INSERT OR IGNORE INTO state VALUES (0, 0);
"""
_TABLES = """
CREATE TABLE root (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, root_id INTEGER NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, reason TEXT, duplicate_of TEXT, UNIQUE (root_id, path));
CREATE INDEX file_duplicate ON file (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE TABLE study (
    id INTEGER PRIMARY KEY, study_instance_uid TEXT NOT NULL UNIQUE, patient_name TEXT NOT NULL,
    patient_id TEXT NOT NULL, study_date TEXT NOT NULL, study_time TEXT NOT NULL, study_description TEXT NOT NULL,
    accession_number TEXT NOT NULL);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, study_id INTEGER NOT NULL, series_instance_uid TEXT NOT NULL, modality TEXT NOT NULL,
    series_number INTEGER, series_description TEXT NOT NULL, instance_count INTEGER NOT NULL DEFAULT 0,
    frame_count INTEGER NOT NULL DEFAULT 0, thumbnail_uid TEXT, thumbnail_frame INTEGER,
    UNIQUE (study_id, series_instance_uid));
CREATE TABLE instance (
    image_id INTEGER PRIMARY KEY, file_id INTEGER NOT NULL UNIQUE, series_id INTEGER NOT NULL,
    sop_class_uid TEXT NOT NULL, instance_number INTEGER, slice_thickness REAL, transfer_syntax_uid TEXT NOT NULL,
    number_of_frames INTEGER NOT NULL, error_kind TEXT, error TEXT, layout TEXT, geometry TEXT,
    pixel_offset INTEGER, frame_bits INTEGER, word_swap INTEGER, frames_whole INTEGER, inflate_offset INTEGER);
CREATE INDEX instance_series ON instance (series_id);
CREATE TABLE presentation (
    image_id INTEGER NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (image_id, number)) WITHOUT ROWID;
CREATE TABLE frame (
    image_id INTEGER NOT NULL, frame_number INTEGER NOT NULL, presentation INTEGER NOT NULL, geometry TEXT NOT NULL,
    PRIMARY KEY (image_id, frame_number)) WITHOUT ROWID;
CREATE TABLE span (
    image_id INTEGER NOT NULL, chunk INTEGER NOT NULL, spans BLOB NOT NULL,
    PRIMARY KEY (image_id, chunk)) WITHOUT ROWID;
"""
_TABLE_NAMES = ("root", "file", "study", "series", "instance", "presentation", "frame", "span")


@dataclass(frozen=True, slots=True)
class FileKey:
    """A file: its root's absolute path and its own path below it, as the bytes the file system uses."""

    root: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class FileChange:
    """What parsing a file gave: a document with its packed spans, or the reason why there is none."""

    key: FileKey
    size: int
    mtime_ns: int
    document: dict[str, Any] | None
    spans: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Located:
    """One frame in the index. ``error``: class name and message of why it cannot be shown, else the record and
    where its bytes are: native at ``pixel_offset`` + index * ``frame_bits`` / 8 [byte], encapsulated at ``span``
    (offset, length) [byte]; in the inflated data set where ``inflate_offset`` is not 0."""

    key: FileKey
    size: int
    mtime_ns: int
    number_of_frames: int
    error: tuple[str, str] | None
    record: FrameRecord | None
    pixel_offset: int = 0
    frame_bits: int = 0
    word_swap: bool = False
    frames_whole: int = 0
    inflate_offset: int = 0
    span: tuple[int, int] = (0, 0)


def version_of(size: int, mtime_ns: int) -> str:
    """What changes whenever a file does."""
    return f"{size:x}-{mtime_ns:x}"


def _claim(path: Path, shared: bool) -> int:
    """A descriptor whose lock keeps other services off this index: of one process, or of all that share it. The files
    are the user's alone: they hold names."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"the index file cannot be written ({error.strerror}): name another (--index)") from None
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StartupError("another gpu-render uses this index file: stop it, or name another (--index)") from None
    return lock


class Index:
    """One SQLite file. Any thread may call any method: readers take a connection each, writers wait for each other.

    ``path`` None makes a temporary one. ``shared``: another process has made it with ``share()``, and further ones use
    it, too. Raises StartupError where the file cannot be used or another process uses it.
    """

    def __init__(self, path: Path | None, *, shared: bool = False) -> None:
        self._temporary = None if path else tempfile.TemporaryDirectory(prefix="gpu-render-")
        self._path = path or Path(self._temporary.name if self._temporary else "") / "index.sqlite"
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._lock_fd = _claim(self._path, shared)
        self._writer = self._connect()
        try:
            if shared:
                self._require_set_up()
            else:
                self._set_up()
        except sqlite3.DatabaseError as error:
            self.close()
            raise StartupError(f"the index file cannot be used ({error}): remove it or name another") from None
        except StartupError:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)

    def _set_up(self) -> None:
        writer = self._writer
        tables = {row[0] for row in writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and writer.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StartupError("the index file belongs to another program; name another")
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = NORMAL")
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        writer.execute(_IMAGES)
        writer.executescript(_STATE)
        if writer.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        drops = "".join(f"DROP TABLE IF EXISTS {name};" for name in _TABLE_NAMES)
        writer.executescript(f"BEGIN; {drops} {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _require_set_up(self) -> None:
        found = [self._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if found != [APPLICATION_ID, SCHEMA_VERSION]:
            raise StartupError("the shared index file has not been made yet")

    def share(self) -> None:
        """Let processes that open the file as ``shared`` use it as well, but no other service."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Close all connections and give the file free; no other method may run or follow. May be called again."""
        self._writer.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with self._idle_lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            with self._idle_lock:
                self._idle.append(connection)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    # --- writing --------------------------------------------------------------------------------------------

    def set_roots(self, roots: Sequence[bytes]) -> None:
        """Keep only files below these roots: an index may have been made for others, which must not be served."""
        with self._transaction() as db:
            marks = ",".join("?" * len(roots))
            stale = db.execute(f"SELECT id FROM root WHERE path NOT IN ({marks})", roots).fetchall()  # noqa: S608 - marks
            touched: set[int] = set()
            for (root_id,) in stale:
                for (file_id,) in db.execute("SELECT id FROM file WHERE root_id = ?", (root_id,)).fetchall():
                    _remove_file(db, file_id, touched)
                db.execute("DELETE FROM root WHERE id = ?", (root_id,))
            _recount(db, touched)
            _count_change(db, bool(stale))
            db.executemany("INSERT OR IGNORE INTO root (path) VALUES (?)", [(root,) for root in roots])

    def write(self, changes: Iterable[FileChange]) -> bool:
        """Store what parsing gave, in one transaction; whether something that was held has changed or gone."""
        with self._transaction() as db:
            touched: set[int] = set()
            results = [_store(db, change, touched) for change in changes]
            _recount(db, touched)
            _count_change(db, any(results))
        return any(results)

    def remove(self, keys: Iterable[FileKey]) -> bool:
        """Forget files, in one transaction; whether an instance went with them."""
        with self._transaction() as db:
            touched: set[int] = set()
            ids = [_file_id(db, key) for key in keys]
            results = [_remove_file(db, file_id, touched) for file_id in ids if file_id is not None]
            _recount(db, touched)
            _count_change(db, any(results))
        return any(results)

    # --- reading: files -------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Rises whenever something that was held has changed or gone, whichever process wrote it."""
        with self._reader() as db:
            return int(db.execute("SELECT generation FROM state").fetchone()[0])

    def known_files(self) -> dict[FileKey, tuple[int, int]]:
        """Size [byte] and modification time [ns] of all files, unreadable ones too."""
        with self._reader() as db:
            rows = db.execute(
                "SELECT root.path, file.path, size, mtime_ns FROM file JOIN root ON root.id = root_id"
            ).fetchall()
        return {FileKey(root, path): (size, mtime_ns) for root, path, size, mtime_ns in rows}

    def known_file(self, key: FileKey) -> tuple[int, int] | None:
        """Size [byte] and modification time [ns] of one file, None where it is not known."""
        with self._reader() as db:
            row = db.execute(
                "SELECT size, mtime_ns FROM file JOIN root ON root.id = root_id WHERE root.path = ? AND file.path = ?",
                (key.root, key.path),
            ).fetchone()
        return None if row is None else (row[0], row[1])

    def holder(self, sop_instance_uid: str) -> FileKey | None:
        """The file that an instance is served from."""
        with self._reader() as db:
            found = _holder(db, sop_instance_uid)
        return None if found is None else found[1]

    def orphaned_duplicates(self) -> list[FileKey]:
        """Files left out as duplicates of an instance that is gone, in order of their paths."""
        with self._reader() as db:
            rows = db.execute(
                "SELECT root.path, file.path FROM file JOIN root ON root.id = root_id"
                " WHERE duplicate_of IS NOT NULL AND NOT EXISTS (SELECT 1 FROM instance"
                " JOIN image ON image.id = image_id WHERE sop_instance_uid = duplicate_of)"
                " ORDER BY root.path, file.path"
            ).fetchall()
        return [FileKey(*row) for row in rows]

    def unreadable(self) -> list[UnreadableEntry]:
        """Files that hold no instance, with their reasons, in order of their paths."""
        with self._reader() as db:
            rows = db.execute("SELECT path, reason FROM file WHERE reason IS NOT NULL ORDER BY path").fetchall()
        return [UnreadableEntry(path.decode("utf-8", "replace"), reason) for path, reason in rows]

    def counts(self) -> tuple[int, int]:
        """(instances, frames that can be shown)."""
        with self._reader() as db:
            row = db.execute(
                "SELECT coalesce(sum(instance_count), 0), coalesce(sum(frame_count), 0) FROM series"
            ).fetchone()
        return int(row[0]), int(row[1])

    # --- reading: frames ------------------------------------------------------------------------------------

    def find(self, ref: FrameRef) -> Located:
        """Where a frame is. Raises NotFound, which says at which level."""
        chunk, place = divmod(ref.frame_index, CHUNK_FRAMES)
        with self._reader() as db:
            row = db.execute(
                _FIND, (SPAN_BYTES * place + 1, SPAN_BYTES, ref.frame_number, chunk, ref.sop_instance_uid)
            ).fetchone()
            if row is None or row[0] != ref.study_uid or row[1] != ref.series_uid:
                raise NotFound(_what_is_missing(db, ref))
        return _located(ref, row)

    def first_frame(self, image_id: int) -> FrameRef:
        """Frame 1 of the instance with this id. Raises NotFound."""
        if not 0 < image_id < 1 << 63:  # more than SQLite's integers hold
            raise NotFound(f"no image {image_id}")
        with self._reader() as db:
            row = db.execute(
                "SELECT study_instance_uid, series_instance_uid, sop_instance_uid FROM image"
                " JOIN instance ON image_id = image.id JOIN series ON series.id = series_id"
                " JOIN study ON study.id = study_id WHERE image.id = ?",
                (image_id,),
            ).fetchone()
        if row is None:
            raise NotFound(f"no image {image_id}")
        return FrameRef(row[0], row[1], row[2], 1)

    def image_id(self, sop_instance_uid: str) -> int:
        """The id of an instance that is held. Raises NotFound."""
        with self._reader() as db:
            row = db.execute(
                "SELECT image.id FROM image JOIN instance ON image_id = image.id WHERE sop_instance_uid = ?",
                (sop_instance_uid,),
            ).fetchone()
        if row is None:
            raise NotFound(f"no SOP Instance {sop_instance_uid}")
        return int(row[0])

    # --- reading: studies and series ------------------------------------------------------------------------

    def studies(self) -> tuple[StudyRecord, ...]:
        """All studies, the latest first, each with its series by Series Number."""
        with self._reader() as db:
            studies = db.execute(
                f"SELECT id, {_STUDY_COLUMNS} FROM study ORDER BY study_date DESC, study_time DESC, study_instance_uid"  # noqa: S608 - constants
            ).fetchall()
            rows = db.execute(
                f"SELECT study_id, study_instance_uid, {_SERIES_COLUMNS} FROM series JOIN study ON study.id = study_id"  # noqa: S608 - constants
                " ORDER BY series_number IS NULL, series_number, series_instance_uid"
            ).fetchall()
        by_study: dict[int, list[SeriesRecord]] = {}
        for study_id, *row in rows:
            by_study.setdefault(study_id, []).append(_series_record(row))
        return tuple(StudyRecord(StudyAttributes(*row), tuple(by_study.get(id_, ()))) for id_, *row in studies)

    def series_attributes(self, study_uid: str, series_uid: str) -> tuple[StudyAttributes, SeriesRecord]:
        """One series and its study. Raises NotFound."""
        with self._reader() as db:
            row = db.execute(
                f"SELECT {_STUDY_COLUMNS}, study_instance_uid, {_SERIES_COLUMNS} FROM study"  # noqa: S608 - constants
                " JOIN series ON study_id = study.id WHERE study_instance_uid = ? AND series_instance_uid = ?",
                (study_uid, series_uid),
            ).fetchone()
            if row is None:
                raise NotFound(_what_is_missing(db, FrameRef(study_uid, series_uid, "", 1)))
        return StudyAttributes(*row[:7]), _series_record(row[7:])

    def series_frames(self, study_uid: str, series_uid: str) -> tuple[list[FrameRecord], list[HiddenInstance]]:
        """All frames of a series by Instance Number and frame number, and the instances without any."""
        with self._reader() as db, _snapshot(db):
            instances, frames, shown = (
                db.execute(query, (study_uid, series_uid)).fetchall()
                for query in (_SERIES_INSTANCES, _SERIES_FRAMES, _SERIES_PRESENTATIONS)
            )
        # Read here, once each: an object may have more of them than presentation_from_json remembers.
        presentations = {(image_id, number): presentation_from_json(record) for image_id, number, record in shown}
        varying: dict[int, dict[int, tuple[str, Presentation]]] = {}
        for image_id, frame_number, geometry, number in frames:
            varying.setdefault(image_id, {})[frame_number] = (geometry, presentations[image_id, number])
        records: list[FrameRecord] = []
        hidden: list[HiddenInstance] = []
        for row in instances:
            if row[_ERROR] is not None:
                hidden.append(HiddenInstance(row[0], row[_SOP_CLASS], row[_ERROR]))
            else:
                records += _records_of(study_uid, series_uid, row, varying.get(row[1], {}))
        return records, hidden


@contextlib.contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """All queries of the block see the index as it was at the first."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


_STUDY_COLUMNS = (
    "study_instance_uid, patient_name, patient_id, study_date, study_time, study_description, accession_number"
)
_SERIES_COLUMNS = (
    "series_instance_uid, modality, series_number, series_description, instance_count, frame_count,"
    " thumbnail_uid, thumbnail_frame"
)
_FIND = """
SELECT study_instance_uid, series_instance_uid, image.id, root.path, file.path, size, mtime_ns, number_of_frames,
    error_kind, error, instance_number, slice_thickness, sop_class_uid, transfer_syntax_uid, layout,
    presentation.record, coalesce(frame.geometry, instance.geometry), pixel_offset, frame_bits, word_swap,
    frames_whole, inflate_offset, substr(spans, ?, ?)
FROM image
JOIN instance ON instance.image_id = image.id
JOIN file ON file.id = file_id
JOIN root ON root.id = root_id
JOIN series ON series.id = series_id
JOIN study ON study.id = study_id
LEFT JOIN frame ON frame.image_id = image.id AND frame_number = ?
LEFT JOIN presentation ON presentation.image_id = image.id AND number = coalesce(frame.presentation, 0)
LEFT JOIN span ON span.image_id = image.id AND chunk = ?
WHERE sop_instance_uid = ?
"""
_IN_SERIES = """
FROM study JOIN series ON study_id = study.id JOIN instance ON series_id = series.id
JOIN image ON image.id = instance.image_id
"""
_SERIES_INSTANCES = f"""
SELECT sop_instance_uid, image.id, sop_class_uid, error, number_of_frames, instance_number, slice_thickness,
    transfer_syntax_uid, layout, presentation.record, geometry, size, mtime_ns
{_IN_SERIES}
JOIN file ON file.id = file_id
LEFT JOIN presentation ON presentation.image_id = image.id AND number = 0
WHERE study_instance_uid = ? AND series_instance_uid = ?
ORDER BY instance_number IS NULL, instance_number, sop_instance_uid
"""
_SOP_CLASS, _ERROR = 2, 3
_SERIES_FRAMES = f"""
SELECT frame.image_id, frame_number, frame.geometry, frame.presentation
{_IN_SERIES}
JOIN frame ON frame.image_id = image.id
WHERE study_instance_uid = ? AND series_instance_uid = ?
"""
_SERIES_PRESENTATIONS = f"""
SELECT presentation.image_id, number, record
{_IN_SERIES}
JOIN presentation ON presentation.image_id = image.id
WHERE study_instance_uid = ? AND series_instance_uid = ?
"""


def _what_is_missing(db: sqlite3.Connection, ref: FrameRef) -> str:
    study = db.execute("SELECT id FROM study WHERE study_instance_uid = ?", (ref.study_uid,)).fetchone()
    if study is None:
        return f"no study {ref.study_uid}"
    series = db.execute(
        "SELECT id FROM series WHERE study_id = ? AND series_instance_uid = ?", (study[0], ref.series_uid)
    ).fetchone()
    if series is None:
        return f"no series {ref.series_uid} in study {ref.study_uid}"
    return f"no SOP Instance {ref.sop_instance_uid} in series {ref.series_uid}"


def _located(ref: FrameRef, row: Sequence[Any]) -> Located:
    (_, _, image_id, root, path, size, mtime_ns, frames, kind, error, instance_number, thickness) = row[:12]
    (sop_class, syntax, layout, presentation, geometry) = row[12:17]
    where = Located(FileKey(root, path), size, mtime_ns, frames, None if kind is None else (kind, error), None)
    if kind is not None:
        return where
    record = FrameRecord(
        ref,
        image_id,
        frames,
        instance_number,
        thickness,
        sop_class,
        syntax,
        layout_from_json(layout),
        presentation_from_json(presentation),
        geometry_from_json(geometry),
        version_of(size, mtime_ns),
    )
    span = row[22] or b""
    return replace(
        where,
        record=record,
        pixel_offset=row[17],
        frame_bits=row[18],
        word_swap=bool(row[19]),
        frames_whole=row[20],
        inflate_offset=row[21],
        span=(int.from_bytes(span[:8], "little"), int.from_bytes(span[8:], "little")),
    )


def _series_record(row: Sequence[Any]) -> SeriesRecord:
    """From study_instance_uid and _SERIES_COLUMNS."""
    study, series, modality, number, description, instances, frames, thumbnail_uid, thumbnail_frame = row
    thumbnail = None if thumbnail_uid is None else FrameRef(study, series, thumbnail_uid, thumbnail_frame)
    return SeriesRecord(study, series, modality, number, description, instances, frames, thumbnail)


def _records_of(
    study_uid: str, series_uid: str, row: Sequence[Any], varying: dict[int, tuple[str, Presentation]]
) -> Iterator[FrameRecord]:
    """All frames of one instance, from a row of _SERIES_INSTANCES."""
    sop, image_id, sop_class, _, frames, instance_number, thickness, syntax, layout, presentation, geometry = row[:11]
    version, pixel_layout = version_of(*row[11:13]), layout_from_json(layout)
    common = presentation_from_json(presentation), geometry_from_json(geometry)
    for frame_number in range(1, frames + 1):
        own = varying.get(frame_number)
        shown, placed = common if own is None else (own[1], geometry_from_json(own[0]))
        yield FrameRecord(
            FrameRef(study_uid, series_uid, sop, frame_number),
            image_id,
            frames,
            instance_number,
            thickness,
            sop_class,
            syntax,
            pixel_layout,
            shown,
            placed,
            version,
        )


# --- inside a transaction -----------------------------------------------------------------------------------


def _count_change(db: sqlite3.Connection, changed: bool) -> None:
    if changed:
        db.execute("UPDATE state SET generation = generation + 1")


def _file_id(db: sqlite3.Connection, key: FileKey) -> int | None:
    row = db.execute(
        "SELECT file.id FROM file JOIN root ON root.id = root_id WHERE root.path = ? AND file.path = ?",
        (key.root, key.path),
    ).fetchone()
    return None if row is None else int(row[0])


def _remove_file(db: sqlite3.Connection, file_id: int, touched: set[int]) -> bool:
    """Forget a file and its instance; whether there was one."""
    held = _remove_instance(db, file_id, touched)
    db.execute("DELETE FROM file WHERE id = ?", (file_id,))
    return held


def _remove_instance(db: sqlite3.Connection, file_id: int, touched: set[int]) -> bool:
    row = db.execute("SELECT image_id, series_id FROM instance WHERE file_id = ?", (file_id,)).fetchone()
    if row is None:
        return False
    touched.add(row[1])
    for table in ("instance", "presentation", "frame", "span"):
        db.execute(f"DELETE FROM {table} WHERE image_id = ?", (row[0],))  # noqa: S608 - constants
    return True


def _store(db: sqlite3.Connection, change: FileChange, touched: set[int]) -> bool:
    """Store one file; whether something that was held has changed or gone."""
    known = _file_id(db, change.key)
    held = known is not None and _remove_file(db, known, touched)
    document = change.document
    duplicate_of = None
    if document is not None:
        holder = _holder(db, document["sop_instance_uid"])
        if holder is not None and (holder[1].root, holder[1].path) < (change.key.root, change.key.path):
            duplicate_of = document["sop_instance_uid"]
        elif holder is not None:
            held = _remove_instance(db, holder[0], touched) or held
            db.execute(
                "UPDATE file SET reason = ?, duplicate_of = ? WHERE id = ?",
                (DUPLICATE, document["sop_instance_uid"], holder[0]),
            )
    file_id = _insert(
        db,
        "INSERT INTO file (root_id, path, size, mtime_ns, reason, duplicate_of)"
        " VALUES ((SELECT id FROM root WHERE path = ?), ?, ?, ?, ?, ?)",
        change.key.root,
        change.key.path,
        change.size,
        change.mtime_ns,
        DUPLICATE if duplicate_of else None if document is not None else change.reason,
        duplicate_of,
    )
    if document is not None and duplicate_of is None:
        touched.add(_store_instance(db, file_id, document, change.spans))
    return held


def _insert(db: sqlite3.Connection, statement: str, *values: object) -> int:
    identity = db.execute(statement, values).lastrowid
    if identity is None:
        raise sqlite3.InternalError("no row was inserted")
    return identity


def _holder(db: sqlite3.Connection, sop_instance_uid: str) -> tuple[int, FileKey] | None:
    row = db.execute(
        "SELECT file.id, root.path, file.path FROM image JOIN instance ON image_id = image.id"
        " JOIN file ON file.id = file_id JOIN root ON root.id = root_id WHERE sop_instance_uid = ?",
        (sop_instance_uid,),
    ).fetchone()
    return None if row is None else (row[0], FileKey(row[1], row[2]))


def _store_instance(db: sqlite3.Connection, file_id: int, document: dict[str, Any], spans: bytes) -> int:
    """Insert the instance and what hangs on it; returns the id of its series."""
    series_id = _series_id(db, document)
    image_id = _image_id(db, document["sop_instance_uid"])
    instance = document["instance"]
    kind, error = document["error"] or (None, None)
    places = ("pixel_offset", "frame_bits", "word_swap", "frames_whole", "inflate_offset")
    db.execute(
        "INSERT INTO instance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            image_id,
            file_id,
            series_id,
            instance["SOPClassUID"],
            instance["InstanceNumber"],
            instance["SliceThickness"],
            document["transfer_syntax_uid"],
            document["number_of_frames"],
            kind,
            error,
            document.get("layout"),
            document.get("geometry"),
            *(document.get(place) for place in places),
        ),
    )
    if kind is None:
        _store_frames(db, image_id, document, spans)
    return series_id


def _store_frames(db: sqlite3.Connection, image_id: int, document: dict[str, Any], spans: bytes) -> None:
    step = CHUNK_FRAMES * SPAN_BYTES
    db.executemany(
        "INSERT INTO presentation VALUES (?, ?, ?)",
        [(image_id, number, record) for number, record in enumerate(document["presentations"])],
    )
    db.executemany("INSERT INTO frame VALUES (?, ?, ?, ?)", [(image_id, *row) for row in document["frames"]])
    db.executemany(
        "INSERT INTO span VALUES (?, ?, ?)",
        [(image_id, at // step, spans[at : at + step]) for at in range(0, len(spans), step)],
    )


def _image_id(db: sqlite3.Connection, sop_instance_uid: str) -> int:
    db.execute("INSERT OR IGNORE INTO image (sop_instance_uid) VALUES (?)", (sop_instance_uid,))
    row = db.execute("SELECT id FROM image WHERE sop_instance_uid = ?", (sop_instance_uid,)).fetchone()
    return int(row[0])


def _series_id(db: sqlite3.Connection, document: dict[str, Any]) -> int:
    """Study and series of a document, made or brought up to date. Files come in order of their paths: where they
    contradict each other, the last one is believed, in every scan the same."""
    study, series = document["study"], document["series"]
    study_id = db.execute(
        "INSERT INTO study (study_instance_uid, patient_name, patient_id, study_date, study_time, study_description,"
        " accession_number) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study_instance_uid) DO UPDATE SET"
        " patient_name = excluded.patient_name, patient_id = excluded.patient_id, study_date = excluded.study_date,"
        " study_time = excluded.study_time, study_description = excluded.study_description,"
        " accession_number = excluded.accession_number RETURNING id",
        (document["study_instance_uid"], *study.values()),
    ).fetchone()[0]
    row = db.execute(
        "INSERT INTO series (study_id, series_instance_uid, modality, series_number, series_description)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (study_id, series_instance_uid) DO UPDATE SET"
        " modality = excluded.modality, series_number = excluded.series_number,"
        " series_description = excluded.series_description RETURNING id",
        (study_id, document["series_instance_uid"], *series.values()),
    ).fetchone()
    return int(row[0])


def _recount(db: sqlite3.Connection, touched: set[int]) -> None:
    """Counts and thumbnails of series that gained or lost instances; empty series and studies go."""
    for series_id in touched:
        rows = db.execute(
            "SELECT sop_instance_uid, number_of_frames, error IS NULL FROM instance"
            " JOIN image ON image.id = image_id WHERE series_id = ?"
            " ORDER BY instance_number IS NULL, instance_number, sop_instance_uid",
            (series_id,),
        ).fetchall()
        if not rows:
            db.execute("DELETE FROM series WHERE id = ?", (series_id,))
            continue
        shown = [(uid, frames) for uid, frames, fine in rows if fine]
        db.execute(
            "UPDATE series SET instance_count = ?, frame_count = ?, thumbnail_uid = ?, thumbnail_frame = ?"
            " WHERE id = ?",
            (len(rows), sum(frames for _, frames in shown), *_middle(shown), series_id),
        )
    if touched:
        db.execute("DELETE FROM study WHERE NOT EXISTS (SELECT 1 FROM series WHERE study_id = study.id)")


def _middle(shown: list[tuple[str, int]]) -> tuple[str | None, int | None]:
    """(SOP Instance UID, frame number) of the middle one of all frames."""
    left = sum(frames for _, frames in shown) // 2
    for uid, frames in shown:
        if left < frames:
            return uid, left + 1
        left -= frames
    return None, None
