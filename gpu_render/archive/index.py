"""The index of a folder archive: what every file says, and where each frame lies. See docs/decisions/0004 and 0012.

A cache of what the files say: it may be deleted at any time, at the price of a new scan and new image ids.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, LargeBinary, Select, and_, bindparam, func, literal_column, select
from sqlalchemy import Integer as SqlInteger

from gpu_render.archive import (
    Answers,
    FrameRecord,
    HiddenInstance,
    InstanceRecord,
    Query,
    SeriesRecord,
    StudyAttributes,
    StudyRecord,
    UnreadableEntry,
)
from gpu_render.archive.database import APPLICATION_ID, Database, PostgresDatabase, SqliteDatabase
from gpu_render.archive.records import geometry_from_json, layout_from_json, presentation_from_json
from gpu_render.archive.search import search
from gpu_render.archive.tables import (
    CHUNK_FRAMES,
    SCHEMA_VERSION,
    SPAN_BYTES,
    file,
    folder,
    frame,
    image,
    instance,
    metadata,
    presentation,
    root,
    series,
    span,
    state,
    study,
)
from gpu_render.archive.writing import (
    STEP,
    FileChange,
    FileKey,
    count_change,
    file_ids,
    holder_of,
    join_path,
    patients_of,
    remove,
    remove_folders,
    set_roots,
    split_path,
    store,
)
from gpu_render.errors import NotFound
from gpu_render.frame import Presentation
from gpu_render.reference import FrameRef

__all__ = [
    "APPLICATION_ID",
    "CHUNK_FRAMES",
    "SCHEMA_VERSION",
    "FileChange",
    "FileKey",
    "Index",
    "Located",
    "version_of",
]

METADATA_STEP = 64
"""Data sets read at once: a few hundred KiB."""


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


@dataclass(frozen=True, slots=True)
class HeldFolder:
    """A folder that the index knows files of: its id, and of each name size [byte] and modification time [ns]."""

    id: int | None
    files: dict[bytes, tuple[int, int]]


class Index:
    """One SQLite file, or the tables of a PostgreSQL database. Any thread may call any method: readers take a
    connection each, writers wait for each other.

    ``url`` is that of a PostgreSQL database; without one, ``path`` is a SQLite file, None a temporary one. ``shared``:
    another process has made the index with ``share()``, and further ones use it, too. Raises StartupError where the
    index cannot be used or another process uses it. Every method raises Overloaded where the database does not answer.
    """

    def __init__(self, path: Path | None, *, url: str | None = None, shared: bool = False) -> None:
        self._db: Database = PostgresDatabase(url, shared=shared) if url else SqliteDatabase(path, shared=shared)
        self._find = self._db.prepare(_FIND)
        self._generation = self._db.prepare(select(state.c.generation))

    def share(self) -> None:
        """Let processes that open the index as ``shared`` use it as well, but no other service."""
        self._db.share()

    def close(self) -> None:
        """Close all connections and give the index free; no other method may run or follow. May be called again."""
        self._db.close()

    # --- writing --------------------------------------------------------------------------------------------

    def set_roots(self, roots: Sequence[bytes]) -> None:
        """Keep only files below these roots: an index may have been made for others, which must not be served."""
        with self._db.transaction() as db:
            count_change(db, set_roots(db, roots))

    def write(self, changes: Iterable[FileChange]) -> bool:
        """Store what parsing gave, in one transaction; whether something that was held has changed or gone."""
        with self._db.transaction() as db:
            held = store(db, changes)
            count_change(db, held)
        return held

    def remove(self, keys: Iterable[FileKey]) -> bool:
        """Forget files, in one transaction; whether an instance went with them."""
        with self._db.transaction() as db:
            held = remove(db, list(file_ids(db, list(keys)).values()))
            count_change(db, held)
        return held

    def remove_folders(self, folder_ids: Sequence[int]) -> int:
        """Forget folders with their files, and say how many these were."""
        with self._db.transaction() as db:
            files, held = remove_folders(db, folder_ids)
            count_change(db, held)
        return files

    def analyze(self) -> None:
        """Let the database count what is in its tables: by that it plans how to search."""
        with self._db.reader() as db:
            self._db.analyze(db)

    # --- reading: files -------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Rises whenever something that was held has changed or gone, whichever process wrote it."""
        with self._db.reader() as db:
            (found,) = self._generation.one(db, {}) or (0,)
        return int(found)

    def held_folder(self, place: FileKey) -> HeldFolder:
        """What is known of the files that lie in one folder, unreadable ones too."""
        columns = (folder.c.id, file.c.name, file.c.size, file.c.mtime_ns)
        tables = folder.join(root, root.c.id == folder.c.root_id).outerjoin(file, file.c.folder_id == folder.c.id)
        query = select(*columns).select_from(tables).where(root.c.path == place.root, folder.c.path == place.path)
        with self._db.reader() as db:
            rows = db.execute(query).all()
        files = {name: (size, mtime_ns) for _, name, size, mtime_ns in rows if name is not None}
        return HeldFolder(rows[0].id if rows else None, files)

    def held_folders(self, after: int, last: int) -> list[tuple[int, FileKey]]:
        """The next folders by their ids, above ``after`` and up to ``last``."""
        columns = (folder.c.id, root.c.path, folder.c.path)
        query = select(*columns).join(root, root.c.id == folder.c.root_id).order_by(folder.c.id).limit(STEP)
        with self._db.reader() as db:
            rows = db.execute(query.where(folder.c.id > after, folder.c.id <= last)).all()
        return [(id_, FileKey(at, path)) for id_, at, path in rows]

    def last_folder(self) -> int:
        """Id of the folder that was met last."""
        with self._db.reader() as db:
            return int(db.execute(select(func.coalesce(func.max(folder.c.id), 0))).scalar_one())

    def known_file(self, key: FileKey) -> tuple[int, int] | None:
        """Size [byte] and modification time [ns] of one file, None where it is not known."""
        above, name = split_path(key.path)
        query = select(file.c.size, file.c.mtime_ns).select_from(_FILES)
        with self._db.reader() as db:
            row = db.execute(
                query.where(root.c.path == key.root, folder.c.path == above, file.c.name == name)
            ).one_or_none()
        return None if row is None else (row.size, row.mtime_ns)

    def holder(self, sop_instance_uid: str) -> FileKey | None:
        """The file that an instance is served from."""
        with self._db.reader() as db:
            return holder_of(db, sop_instance_uid)

    def patients(self, study_uid: str) -> set[tuple[str, str, str]]:
        """(Patient's Name, Patient ID, Issuer of Patient ID) of all files of a study: one, unless they contradict each
        other; none where it is not held."""
        with self._db.reader() as db:
            return patients_of(db, study_uid)

    def orphaned_duplicates(self) -> list[FileKey]:
        """Files left out as duplicates of an instance that is gone, in order of their paths."""
        held = select(instance.c.image_id).join(image, image.c.id == instance.c.image_id)
        query = select(root.c.path, folder.c.path, file.c.name).select_from(_FILES)
        query = query.where(
            file.c.duplicate_of.is_not(None), ~held.where(image.c.sop_instance_uid == file.c.duplicate_of).exists()
        )
        with self._db.reader() as db:
            keys = [FileKey(at, join_path(above, name)) for at, above, name in db.execute(query)]
        return sorted(keys, key=lambda key: (key.root, key.path))

    def unreadable(self) -> list[UnreadableEntry]:
        """Files that hold no instance, with their reasons, in order of their paths."""
        query = select(folder.c.path, file.c.name, file.c.reason).select_from(_FILES)
        with self._db.reader() as db:
            rows = db.execute(query.where(file.c.reason.is_not(None))).all()
        found = sorted((join_path(above, name), reason) for above, name, reason in rows)
        return [UnreadableEntry(path.decode("utf-8", "replace"), reason) for path, reason in found]

    def counts(self) -> tuple[int, int]:
        """(instances, frames that can be shown)."""
        totals = (func.coalesce(func.sum(column), 0) for column in (series.c.instance_count, series.c.frame_count))
        with self._db.reader() as db:
            instances, frames = db.execute(select(*totals)).one()
        return int(instances), int(frames)

    # --- reading: frames ------------------------------------------------------------------------------------

    @property
    def is_near(self) -> bool:
        """Whether a look-up needs no other process."""
        return isinstance(self._db, SqliteDatabase)

    def find(self, ref: FrameRef) -> Located:
        """Where a frame is. Raises NotFound, which says at which level."""
        chunk, place = divmod(ref.frame_index, CHUNK_FRAMES)
        values = {
            "span_at": SPAN_BYTES * place + 1,
            "span_bytes": SPAN_BYTES,
            "frame": ref.frame_number,
            "chunk": chunk,
            "sop": ref.sop_instance_uid,
        }
        with self._db.reader() as db:
            row = self._find.one(db, values)
            if row is None or row[0] != ref.study_uid or row[1] != ref.series_uid:
                raise NotFound(_what_is_missing(db, ref.study_uid, ref.series_uid, ref.sop_instance_uid))
        return _located(ref, row)

    def first_frame(self, image_id: int) -> FrameRef:
        """Frame 1 of the instance with this id. Raises NotFound."""
        columns = (study.c.study_instance_uid, series.c.series_instance_uid, image.c.sop_instance_uid)
        row = None
        if 0 < image_id < 1 << 63:  # more than the databases' integers hold
            with self._db.reader() as db:
                row = db.execute(select(*columns).select_from(_INSTANCES).where(image.c.id == image_id)).one_or_none()
        if row is None:
            raise NotFound(f"no image {image_id}")
        return FrameRef(*row, 1)

    def image_id(self, sop_instance_uid: str) -> int:
        """The id of an instance that is held. Raises NotFound."""
        query = select(image.c.id).join(instance, instance.c.image_id == image.c.id)
        with self._db.reader() as db:
            found = db.execute(query.where(image.c.sop_instance_uid == sop_instance_uid)).scalar_one_or_none()
        if found is None:
            raise NotFound(f"no SOP Instance {sop_instance_uid}")
        return int(found)

    # --- reading: studies and series ------------------------------------------------------------------------

    def studies(self) -> tuple[StudyRecord, ...]:
        """All studies, the latest first, each with its series by Series Number."""
        order = (study.c.study_day.desc(), study.c.study_clock.desc(), study.c.study_instance_uid)
        columns = (series.c.study_id, study.c.study_instance_uid, *_OF_SERIES)
        of_series = select(*columns).join(study, study.c.id == series.c.study_id).order_by(*_SERIES_ORDER)
        with self._db.snapshot() as db:
            studies = db.execute(select(study.c.id, *_OF_STUDY).order_by(*order)).all()
            rows = db.execute(of_series).all()
        by_study: dict[int, list[SeriesRecord]] = {}
        for study_id, *row in rows:
            by_study.setdefault(study_id, []).append(_series_record(row))
        return tuple(StudyRecord(StudyAttributes(*row), tuple(by_study.get(id_, ()))) for id_, *row in studies)

    def series_attributes(self, study_uid: str, series_uid: str) -> tuple[StudyAttributes, SeriesRecord]:
        """One series and its study. Raises NotFound."""
        columns = (*_OF_STUDY, study.c.study_instance_uid.label("again"), *_OF_SERIES)
        query = select(*columns).join(series, series.c.study_id == study.c.id)
        with self._db.reader() as db:
            row = db.execute(query.where(*_is_series(study_uid, series_uid))).one_or_none()
            if row is None:
                raise NotFound(_what_is_missing(db, study_uid, series_uid, None))
        return StudyAttributes(*row[:7]), _series_record(row[7:])

    def series_frames(self, study_uid: str, series_uid: str) -> tuple[list[FrameRecord], list[HiddenInstance]]:
        """All frames of a series by Instance Number and frame number, and the instances without any."""
        with self._db.snapshot() as db:
            instances, frames, shown = (
                db.execute(query.where(*_is_series(study_uid, series_uid))).all()
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
            if row.error is not None:
                hidden.append(HiddenInstance(row.sop_instance_uid, row.sop_class_uid, row.error))
            else:
                records += _records_of(study_uid, series_uid, row, varying.get(row.id, {}))
        return records, hidden

    # --- reading: for DICOMweb ------------------------------------------------------------------------------

    def search(self, query: Query) -> Answers:
        """See Archive.search."""
        with self._db.snapshot() as db:
            return search(self._db, db, query)

    def instances(self, study_uid: str, series_uid: str | None, sop_instance_uid: str | None) -> list[InstanceRecord]:
        """See Archive.instances."""
        wanted = [study.c.study_instance_uid == study_uid]
        if series_uid is not None:
            wanted.append(series.c.series_instance_uid == series_uid)
        if sop_instance_uid is not None:
            wanted.append(image.c.sop_instance_uid == sop_instance_uid)
        with self._db.reader() as db:
            rows = db.execute(_WHOLE_INSTANCES.where(*wanted)).all()
            if not rows:
                raise NotFound(_what_is_missing(db, study_uid, series_uid, sop_instance_uid))
        return [InstanceRecord(*row[:8], version_of(row.size, row.mtime_ns), row.size) for row in rows]

    def metadata(self, instances: Sequence[InstanceRecord]) -> Iterator[tuple[InstanceRecord, bytes]]:
        """Of each instance its data set as compressed JSON text, empty where none is kept. Raises NotFound for one that
        has changed or gone."""
        for at in range(0, len(instances), METADATA_STEP):
            step = instances[at : at + METADATA_STEP]
            wanted = image.c.sop_instance_uid.in_([record.sop_instance_uid for record in step])
            with self._db.reader() as db:
                rows = {row.sop_instance_uid: row for row in db.execute(_BODIES.where(wanted))}
            for record in step:
                row = rows.get(record.sop_instance_uid)
                if row is None or version_of(row.size, row.mtime_ns) != record.version:
                    raise NotFound(f"SOP Instance {record.sop_instance_uid} has changed or gone")
                yield record, row.body or b""


# --- statements ---------------------------------------------------------------------------------------------

_FILES = file.join(folder, folder.c.id == file.c.folder_id).join(root, root.c.id == folder.c.root_id)
_INSTANCES = (
    study.join(series, series.c.study_id == study.c.id)
    .join(instance, instance.c.series_id == series.c.id)
    .join(image, image.c.id == instance.c.image_id)
)
_SERIES_ORDER = (series.c.series_number.is_(None), series.c.series_number, series.c.series_instance_uid)
_INSTANCE_ORDER = (instance.c.instance_number.is_(None), instance.c.instance_number, image.c.sop_instance_uid)
_OF_STUDY = (
    study.c.study_instance_uid,
    study.c.patient_name,
    study.c.patient_id,
    study.c.study_date,
    study.c.study_time,
    study.c.study_description,
    study.c.accession_number,
)
_OF_SERIES = (
    series.c.series_instance_uid,
    series.c.modality,
    series.c.series_number,
    series.c.series_description,
    series.c.instance_count,
    series.c.frame_count,
    series.c.thumbnail_uid,
    series.c.thumbnail_frame,
)
_FIND: Select[Any] = (
    select(
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        image.c.id,
        root.c.path,
        folder.c.path,
        file.c.name,
        file.c.size,
        file.c.mtime_ns,
        instance.c.number_of_frames,
        instance.c.error_kind,
        instance.c.error,
        instance.c.instance_number,
        instance.c.slice_thickness,
        instance.c.sop_class_uid,
        instance.c.transfer_syntax_uid,
        instance.c.layout,
        presentation.c.record,
        func.coalesce(frame.c.geometry, instance.c.geometry),
        instance.c.pixel_offset,
        instance.c.frame_bits,
        instance.c.word_swap,
        instance.c.frames_whole,
        instance.c.inflate_offset,
        func.substr(
            span.c.spans,
            bindparam("span_at", type_=SqlInteger),
            bindparam("span_bytes", type_=SqlInteger),
            type_=LargeBinary,
        ),
    )
    .select_from(image)
    .join(instance, instance.c.image_id == image.c.id)
    .join(file, file.c.id == instance.c.file_id)
    .join(folder, folder.c.id == file.c.folder_id)
    .join(root, root.c.id == folder.c.root_id)
    .join(series, series.c.id == instance.c.series_id)
    .join(study, study.c.id == series.c.study_id)
    .outerjoin(frame, and_(frame.c.image_id == image.c.id, frame.c.frame_number == bindparam("frame")))
    .outerjoin(
        presentation,
        and_(
            presentation.c.image_id == image.c.id,
            presentation.c.number == func.coalesce(frame.c.presentation, literal_column("0")),
        ),
    )
    .outerjoin(span, and_(span.c.image_id == image.c.id, span.c.chunk == bindparam("chunk")))
    .where(image.c.sop_instance_uid == bindparam("sop"))
)
_SERIES_INSTANCES = (
    select(
        image.c.sop_instance_uid,
        image.c.id,
        instance.c.sop_class_uid,
        instance.c.error,
        instance.c.number_of_frames,
        instance.c.instance_number,
        instance.c.slice_thickness,
        instance.c.transfer_syntax_uid,
        instance.c.layout,
        presentation.c.record,
        instance.c.geometry,
        file.c.size,
        file.c.mtime_ns,
    )
    .select_from(_INSTANCES)
    .join(file, file.c.id == instance.c.file_id)
    .outerjoin(presentation, and_(presentation.c.image_id == image.c.id, presentation.c.number == 0))
    .order_by(*_INSTANCE_ORDER)
)
_SERIES_FRAMES = (
    select(frame.c.image_id, frame.c.frame_number, frame.c.geometry, frame.c.presentation)
    .select_from(_INSTANCES)
    .join(frame, frame.c.image_id == image.c.id)
)
_SERIES_PRESENTATIONS = (
    select(presentation.c.image_id, presentation.c.number, presentation.c.record)
    .select_from(_INSTANCES)
    .join(presentation, presentation.c.image_id == image.c.id)
)
_WHOLE_INSTANCES = (
    select(
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        image.c.sop_instance_uid,
        instance.c.sop_class_uid,
        instance.c.transfer_syntax_uid,
        instance.c.instance_number,
        instance.c.number_of_frames,
        instance.c.error,
        file.c.size,
        file.c.mtime_ns,
    )
    .select_from(_INSTANCES)
    .join(file, file.c.id == instance.c.file_id)
    .order_by(*_SERIES_ORDER, *_INSTANCE_ORDER)
)
_BODIES = (
    select(image.c.sop_instance_uid, file.c.size, file.c.mtime_ns, metadata.c.body)
    .select_from(image)
    .join(instance, instance.c.image_id == image.c.id)
    .join(file, file.c.id == instance.c.file_id)
    .outerjoin(metadata, metadata.c.image_id == image.c.id)
)


def _is_series(study_uid: str, series_uid: str) -> tuple[Any, ...]:
    return study.c.study_instance_uid == study_uid, series.c.series_instance_uid == series_uid


def _what_is_missing(db: Connection, study_uid: str, series_uid: str | None, sop_instance_uid: str | None) -> str:
    """Of a path of UIDs, the first that is not held."""
    study_id = db.execute(select(study.c.id).where(study.c.study_instance_uid == study_uid)).scalar_one_or_none()
    if study_id is None or series_uid is None:
        return f"no study {study_uid}"
    of_series = select(series.c.id).where(series.c.study_id == study_id, series.c.series_instance_uid == series_uid)
    if db.execute(of_series).one_or_none() is None or sop_instance_uid is None:
        return f"no series {series_uid} in study {study_uid}"
    return f"no SOP Instance {sop_instance_uid} in series {series_uid}"


def _located(ref: FrameRef, row: Sequence[Any]) -> Located:
    (_, _, image_id, at, above, name, size, mtime_ns, frames, kind, error, instance_number, thickness) = row[:13]
    (sop_class, syntax, layout, shown, geometry) = row[13:18]
    key = FileKey(at, join_path(above, name))
    if kind is not None:
        return Located(key, size, mtime_ns, frames, (kind, error), None)
    record = FrameRecord(
        ref,
        image_id,
        frames,
        instance_number,
        thickness,
        sop_class,
        syntax,
        layout_from_json(layout),
        presentation_from_json(shown),
        geometry_from_json(geometry),
        version_of(size, mtime_ns),
    )
    span = row[23] or b""
    return Located(
        key,
        size,
        mtime_ns,
        frames,
        None,
        record,
        pixel_offset=row[18],
        frame_bits=row[19],
        word_swap=bool(row[20]),
        frames_whole=row[21],
        inflate_offset=row[22],
        span=(int.from_bytes(span[:8], "little"), int.from_bytes(span[8:], "little")),
    )


def _series_record(row: Sequence[Any]) -> SeriesRecord:
    """From Study Instance UID and _OF_SERIES."""
    of_study, uid, modality, number, description, instances, frames, thumbnail_uid, thumbnail_frame = row
    thumbnail = None if thumbnail_uid is None else FrameRef(of_study, uid, thumbnail_uid, thumbnail_frame)
    return SeriesRecord(of_study, uid, modality, number, description, instances, frames, thumbnail)


def _records_of(
    study_uid: str, series_uid: str, row: Sequence[Any], varying: dict[int, tuple[str, Presentation]]
) -> Iterator[FrameRecord]:
    """All frames of one instance, from a row of _SERIES_INSTANCES."""
    sop, image_id, sop_class, _, frames, instance_number, thickness, syntax, layout, record, geometry = row[:11]
    version, pixel_layout = version_of(*row[11:13]), layout_from_json(layout)
    common = presentation_from_json(record), geometry_from_json(geometry)
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
