"""What one transaction writes to the index. All of it works on many files at once: a database is asked a number of
times that does not depend on how many they are."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from gpu_render.archive.attributes import clock, day, items, joined, name_forms, storable, texts, words
from gpu_render.archive.database import insert_many
from gpu_render.archive.tables import (
    CHUNK_FRAMES,
    OF_INSTANCES,
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
    term,
)

DUPLICATE = "duplicate SOP Instance UID"
STEP = 500
"""Values in one statement."""

# Kinds of terms. The id of a series may be that of a study as well.
OF_STUDIES = PATIENT_NAME, REFERRING_PHYSICIAN, PATIENT_WORD, REFERRING_WORD = 1, 2, 3, 4
OF_SERIES = STEP_ID, PROCEDURE_ID = 11, 12


@dataclass(frozen=True, slots=True)
class FileKey:
    """A file: its root's absolute path and its own path below it, as the bytes the file system uses."""

    root: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class FileChange:
    """What parsing a file gave: a document with its packed spans and its data set as compressed JSON text (empty where
    that is made when it is asked for), or the reason why there is none."""

    key: FileKey
    size: int
    mtime_ns: int
    document: dict[str, Any] | None
    spans: bytes = b""
    reason: str = ""
    metadata: bytes = b""


Rows = list[dict[str, Any]]
Terms = set[tuple[int, str]]
"""(kind, value) of each."""


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """(folder, name) of a path below a root; the root itself is the empty folder."""
    above, _, name = path.rpartition(b"/")
    return above, name


def join_path(above: bytes, name: bytes) -> bytes:
    """The reverse of ``split_path``."""
    return above + b"/" + name if above else name


# --- parts of statements ------------------------------------------------------------------------------------


def _steps(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[at : at + STEP] for at in range(0, len(values), STEP))


def _rows(
    db: Connection, columns: Sequence[Any], key: ColumnElement[Any], values: Iterable[Any], *joins: Any
) -> list[Any]:
    """Rows of ``columns`` in which ``key`` is one of ``values``; ``joins`` are (table, condition)."""
    found: list[Any] = []
    for step in _steps(list(values)):
        query = select(*columns).where(key.in_(step))
        for table, condition in joins:
            query = query.join(table, condition)
        found += db.execute(query).all()
    return found


def _delete(db: Connection, table: Table, column: str, values: Iterable[int]) -> None:
    for step in _steps(list(values)):
        db.execute(delete(table).where(table.c[column].in_(step)))


def _insert(db: Connection, table: Table, rows: Rows) -> None:
    """Rows that all have the same columns, straight by the driver: SQLAlchemy would take as long as the database."""
    if rows:
        insert_many(db, table, list(rows[0]), rows)


def _next_id(db: Connection, table: Table) -> int:
    """The first id that is free. There is one writer at a time."""
    return int(db.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()) + 1


def count_change(db: Connection, changed: bool) -> None:
    """Raise the generation where something that was held has changed or gone."""
    if changed:
        db.execute(update(state).values(generation=state.c.generation + 1))


# --- files --------------------------------------------------------------------------------------------------


def set_roots(db: Connection, roots: Sequence[bytes]) -> bool:
    """Keep only files below these roots; whether there were others."""
    held = _root_ids(db)
    stale = [id_ for path, id_ in held.items() if path not in roots]
    for root_id in stale:
        folders = db.execute(select(folder.c.id).where(folder.c.root_id == root_id)).scalars().all()
        remove_folders(db, folders)
    _delete(db, root, "id", stale)
    first = _next_id(db, root)
    new = [path for path in dict.fromkeys(roots) if path not in held]
    _insert(db, root, [{"id": first + n, "path": path} for n, path in enumerate(new)])
    return bool(stale)


def remove_folders(db: Connection, folder_ids: Sequence[int]) -> tuple[int, bool]:
    """Forget folders with their files: how many files, and whether an instance went with them."""
    ids = [row.id for row in _rows(db, [file.c.id], file.c.folder_id, folder_ids)]
    changed = remove(db, ids)
    _delete(db, folder, "id", folder_ids)
    return len(ids), changed


def remove(db: Connection, file_ids: Sequence[int]) -> bool:
    """Forget files; whether an instance went with them."""
    touched = _remove_instances(db, file_ids)
    _delete(db, file, "id", file_ids)
    recount(db, touched)
    return bool(touched)


def file_ids(db: Connection, keys: Sequence[FileKey]) -> dict[FileKey, int]:
    """Ids of the files that are known."""
    folders = _folder_ids(db, keys)
    wanted = {}
    for key in keys:
        above, name = split_path(key.path)
        if (key.root, above) in folders:
            wanted[folders[key.root, above], name] = key
    columns = (file.c.id, file.c.folder_id, file.c.name)
    rows = _rows(db, columns, tuple_(file.c.folder_id, file.c.name), wanted)
    return {wanted[row.folder_id, row.name]: row.id for row in rows}


def _root_ids(db: Connection) -> dict[bytes, int]:
    return {row.path: row.id for row in db.execute(select(root.c.id, root.c.path))}


def _folder_ids(db: Connection, keys: Sequence[FileKey]) -> dict[tuple[bytes, bytes], int]:
    ids = _root_ids(db)
    roots = {id_: path for path, id_ in ids.items()}
    wanted = {(ids[key.root], split_path(key.path)[0]) for key in keys if key.root in ids}
    rows = _rows(db, (folder.c.id, folder.c.root_id, folder.c.path), tuple_(folder.c.root_id, folder.c.path), wanted)
    return {(roots[row.root_id], row.path): row.id for row in rows}


def _make_folders(db: Connection, keys: Sequence[FileKey]) -> dict[tuple[bytes, bytes], int]:
    """Ids of the folders of files, made where they are new."""
    held = _folder_ids(db, keys)
    ids = _root_ids(db)
    wanted = dict.fromkeys((key.root, split_path(key.path)[0]) for key in keys)
    new = {place: id_ for id_, place in enumerate((p for p in wanted if p not in held), _next_id(db, folder))}
    _insert(db, folder, [{"id": id_, "root_id": ids[at], "path": path} for (at, path), id_ in new.items()])
    return held | new


def _remove_instances(db: Connection, file_ids: Sequence[int]) -> set[int]:
    """Forget the instances that files hold; ids of the series they were in."""
    rows = _rows(db, (instance.c.image_id, instance.c.series_id), instance.c.file_id, file_ids)
    for table in OF_INSTANCES:
        _delete(db, table, "image_id", [row.image_id for row in rows])
    return {row.series_id for row in rows}


# --- instances ----------------------------------------------------------------------------------------------


def store(db: Connection, changes: Iterable[FileChange]) -> bool:
    """Store what parsing gave; whether something that was held has changed or gone."""
    latest = list({change.key: change for change in changes}.values())
    known = list(file_ids(db, [change.key for change in latest]).values())
    touched = _remove_instances(db, known)
    _delete(db, file, "id", known)
    holders = _holders(db, [change.document["sop_instance_uid"] for change in latest if change.document])
    winners = _winners(latest, holders)
    demoted = {uid: holders[uid][0] for uid, key in winners.items() if uid in holders and holders[uid][1] != key}
    touched |= _demote(db, demoted)
    ids = _insert_files(db, latest, winners)
    held = bool(touched)
    stored = [c for c in latest if c.document and winners[c.document["sop_instance_uid"]] == c.key]
    if stored:
        touched |= _store_instances(db, stored, ids)
    recount(db, touched)
    return held


def holder_of(db: Connection, sop_instance_uid: str) -> FileKey | None:
    """The file that an instance is served from."""
    found = _holders(db, [sop_instance_uid]).get(sop_instance_uid)
    return None if found is None else found[1]


def _holders(db: Connection, uids: Iterable[str]) -> dict[str, tuple[int, FileKey]]:
    """Of each SOP Instance UID that is held: id and key of its file."""
    columns = (image.c.sop_instance_uid, file.c.id, root.c.path, folder.c.path, file.c.name)
    joins = (
        (instance, instance.c.image_id == image.c.id),
        (file, file.c.id == instance.c.file_id),
        (folder, folder.c.id == file.c.folder_id),
        (root, root.c.id == folder.c.root_id),
    )
    rows = _rows(db, columns, image.c.sop_instance_uid, set(uids), *joins)
    return {uid: (id_, FileKey(at, join_path(above, name))) for uid, id_, at, above, name in rows}


def _winners(changes: Sequence[FileChange], holders: Mapping[str, tuple[int, FileKey]]) -> dict[str, FileKey]:
    """Of each SOP Instance UID the file that holds it: the first by its path."""
    winners = {uid: key for uid, (_, key) in holders.items()}
    for change in changes:
        if change.document is not None:
            uid = change.document["sop_instance_uid"]
            winners[uid] = min(winners.get(uid, change.key), change.key, key=lambda key: (key.root, key.path))
    return winners


def _demote(db: Connection, file_ids: Mapping[str, int]) -> set[int]:
    """Make files of instances that others hold now into duplicates; ids of their series."""
    touched = _remove_instances(db, list(file_ids.values()))
    statement = update(file).where(file.c.id == bindparam("of_id"))
    rows = [{"of_id": id_, "duplicate_of": uid, "reason": DUPLICATE} for uid, id_ in file_ids.items()]
    if rows:
        db.execute(statement, rows)
    return touched


def _insert_files(db: Connection, changes: Sequence[FileChange], winners: Mapping[str, FileKey]) -> dict[FileKey, int]:
    folders = _make_folders(db, [change.key for change in changes])
    ids, rows = {}, []
    for id_, change in enumerate(changes, _next_id(db, file)):
        above, name = split_path(change.key.path)
        uid = change.document["sop_instance_uid"] if change.document else None
        duplicate = uid is not None and winners[uid] != change.key
        ids[change.key] = id_
        rows.append(
            {
                "id": id_,
                "folder_id": folders[change.key.root, above],
                "name": name,
                "size": change.size,
                "mtime_ns": change.mtime_ns,
                "reason": DUPLICATE if duplicate else None if uid is not None else storable(change.reason),
                "duplicate_of": uid if duplicate else None,
            }
        )
    _insert(db, file, rows)
    return ids


def _store_instances(db: Connection, changes: Sequence[FileChange], files: Mapping[FileKey, int]) -> set[int]:
    """Insert instances and what hangs on them; ids of their series."""
    documents: list[dict[str, Any]] = [change.document for change in changes if change.document]
    series_ids = _series_ids(db, documents)
    images = _image_ids(db, [document["sop_instance_uid"] for document in documents])
    rows: Rows = []
    hanging: dict[Table, Rows] = {table: [] for table in (presentation, frame, span, metadata)}
    for change, document, series_id in zip(changes, documents, series_ids, strict=True):
        image_id = images[document["sop_instance_uid"]]
        rows.append(_instance_row(document, image_id, files[change.key], series_id))
        if document["error"] is None:
            _add_frames(hanging, image_id, document, change.spans)
        if change.metadata:
            hanging[metadata].append({"image_id": image_id, "body": change.metadata})
    _insert(db, instance, rows)
    for table, of_table in hanging.items():
        _insert(db, table, of_table)
    return set(series_ids)


_PLACES = ("pixel_offset", "frame_bits", "word_swap", "frames_whole", "inflate_offset")


def _instance_row(document: dict[str, Any], image_id: int, file_id: int, series_id: int) -> dict[str, Any]:
    kind, error = document["error"] or (None, None)
    said = document["instance"]
    places = {place: document.get(place) for place in _PLACES}
    return {
        "image_id": image_id,
        "file_id": file_id,
        "series_id": series_id,
        "sop_class_uid": said["SOPClassUID"],
        "instance_number": _integer(said["InstanceNumber"]),
        "slice_thickness": said["SliceThickness"],
        "transfer_syntax_uid": document["transfer_syntax_uid"],
        "number_of_frames": document["number_of_frames"],
        "error_kind": kind,
        "error": None if error is None else storable(error),
        "layout": document.get("layout"),
        "geometry": document.get("geometry"),
        **{place: None if value is None else int(value) for place, value in places.items()},
    }


def _integer(value: int | None) -> int | None:
    """None for what no database holds."""
    return value if value is not None and -(1 << 63) <= value < 1 << 63 else None


def _add_frames(hanging: Mapping[Table, Rows], image_id: int, document: dict[str, Any], spans: bytes) -> None:
    step = CHUNK_FRAMES * SPAN_BYTES
    hanging[presentation].extend(
        {"image_id": image_id, "number": number, "record": record}
        for number, record in enumerate(document["presentations"])
    )
    hanging[frame].extend(
        {"image_id": image_id, "frame_number": number, "presentation": shown, "geometry": geometry}
        for number, shown, geometry in document["frames"]
    )
    hanging[span].extend(
        {"image_id": image_id, "chunk": at // step, "spans": spans[at : at + step]} for at in range(0, len(spans), step)
    )


def _image_ids(db: Connection, uids: Sequence[str]) -> dict[str, int]:
    """Ids that are kept for ever, given where they are new."""
    rows = _rows(db, (image.c.sop_instance_uid, image.c.id), image.c.sop_instance_uid, uids)
    held = {row.sop_instance_uid: row.id for row in rows}
    new = {uid: id_ for id_, uid in enumerate((uid for uid in uids if uid not in held), _next_id(db, image))}
    _insert(db, image, [{"id": id_, "sop_instance_uid": uid} for uid, id_ in new.items()])
    return held | new


# --- studies and series -------------------------------------------------------------------------------------


def _series_ids(db: Connection, documents: Sequence[dict[str, Any]]) -> list[int]:
    """Of each document the series, made or brought up to date like its study. Files come in an order that every scan
    has: where they contradict each other, the last one is believed."""
    studies = {document["study_instance_uid"]: document for document in documents}
    study_ids = _upsert(db, study, _studies_held(db, studies), {uid: _study_row(d) for uid, d in studies.items()})
    keys = [(study_ids[document["study_instance_uid"]], document["series_instance_uid"]) for document in documents]
    wanted = dict(zip(keys, documents, strict=True))
    rows = {key: _series_row(document, key[0]) for key, document in wanted.items()}
    ids = _upsert(db, series, _series_held(db, wanted), rows)
    return [ids[key] for key in keys]


def _studies_held(db: Connection, uids: Iterable[str]) -> dict[Any, Any]:
    return {row.study_instance_uid: row for row in _rows(db, list(study.c), study.c.study_instance_uid, uids)}


def _series_held(db: Connection, keys: Iterable[tuple[int, str]]) -> dict[Any, Any]:
    rows = _rows(db, list(series.c), tuple_(series.c.study_id, series.c.series_instance_uid), keys)
    return {(row.study_id, row.series_instance_uid): row for row in rows}


def _upsert(
    db: Connection, table: Table, held: Mapping[Any, Any], rows: Mapping[Any, tuple[dict[str, Any], Terms]]
) -> dict[Any, int]:
    """Ids of rows that are made or brought up to date, with their terms."""
    ids, terms, new = {}, dict[int, Terms](), Rows()
    next_id = _next_id(db, table)
    for key, (row, of_row) in rows.items():
        there = held.get(key)
        ids[key] = next_id + len(new) if there is None else there.id
        if there is None:
            new.append({"id": ids[key], **row})
        elif any(getattr(there, name) != value for name, value in row.items()):
            db.execute(update(table).where(table.c.id == there.id).values(row))
            _delete_terms(db, table, [there.id])
        else:
            continue
        terms[ids[key]] = of_row
    _insert(db, table, new)
    pairs = [(owner, *pair) for owner, of_row in terms.items() for pair in sorted(of_row)]
    _insert(db, term, [{"owner_id": owner, "kind": kind, "value": value} for owner, kind, value in pairs])
    return ids


def _delete_terms(db: Connection, table: Table, owners: Sequence[int]) -> None:
    kinds = OF_SERIES if table is series else OF_STUDIES
    for step in _steps(owners):
        db.execute(delete(term).where(term.c.owner_id.in_(step), term.c.kind.in_(kinds)))


def _json(attributes: Mapping[str, Any]) -> str:
    return storable(json.dumps(attributes, ensure_ascii=False, separators=(",", ":")))


def _study_row(document: dict[str, Any]) -> tuple[dict[str, Any], Terms]:
    said: dict[str, str] = document["study"]
    attributes = document.get("study_attributes", {})
    referring = joined(attributes, "00080090")
    terms = {(PATIENT_NAME, form) for form in name_forms(said["PatientName"])}
    terms |= {(REFERRING_PHYSICIAN, form) for form in name_forms(referring)}
    terms |= {(PATIENT_WORD, word) for word in words(said["PatientName"])}
    terms |= {(REFERRING_WORD, word) for word in words(referring)}
    row = {
        "study_instance_uid": document["study_instance_uid"],
        "patient_name": said["PatientName"],
        "patient_id": said["PatientID"],
        "study_date": said["StudyDate"],
        "study_time": said["StudyTime"],
        "study_description": said["StudyDescription"],
        "accession_number": said["AccessionNumber"],
        "study_day": day(said["StudyDate"]),
        "study_clock": clock(said["StudyTime"]),
        "issuer_of_patient_id": joined(attributes, "00100021"),
        "birth_day": day(joined(attributes, "00100030")),
        "patient_sex": joined(attributes, "00100040"),
        "id_of_study": joined(attributes, "00200010"),
        "attributes": _json(attributes),
    }
    return row, terms


def _series_row(document: dict[str, Any], study_id: int) -> tuple[dict[str, Any], Terms]:
    said = document["series"]
    attributes = document.get("series_attributes", {})
    requests = list(items(attributes, "00400275"))
    terms = {(STEP_ID, value) for request in requests for value in texts(request, "00400009") if value}
    terms |= {(PROCEDURE_ID, value) for request in requests for value in texts(request, "00401001") if value}
    row = {
        "study_id": study_id,
        "series_instance_uid": document["series_instance_uid"],
        "modality": said["Modality"],
        "series_number": _integer(said["SeriesNumber"]),
        "series_description": said["SeriesDescription"],
        "body_part": joined(attributes, "00180015"),
        "series_day": day(joined(attributes, "00080021")),
        "series_clock": clock(joined(attributes, "00080031")),
        "step_day": day(joined(attributes, "00400244")),
        "step_clock": clock(joined(attributes, "00400245")),
        "attributes": _json(attributes),
    }
    return row, terms


# --- counts -------------------------------------------------------------------------------------------------


def recount(db: Connection, touched: Iterable[int]) -> None:
    """Counts and thumbnails of series that gained or lost instances; empty series and studies go."""
    ids = list(touched)
    found: dict[int, list[tuple[str, str, int, bool]]] = {id_: [] for id_ in ids}
    held, uid = instance.c, image.c.sop_instance_uid
    columns = (held.series_id, uid, held.sop_class_uid, held.number_of_frames, held.error_kind)
    number = held.instance_number
    for step in _steps(ids):
        query = select(*columns).join(image, image.c.id == instance.c.image_id).where(instance.c.series_id.in_(step))
        for series_id, *row, kind in db.execute(query.order_by(number.is_(None), number, uid)):
            found[series_id].append((*row, kind is None))
    rows = [{"of_id": series_id, **_counts(instances)} for series_id, instances in found.items() if instances]
    if rows:
        db.execute(update(series).where(series.c.id == bindparam("of_id")), rows)
    _remove_series(db, [series_id for series_id, instances in found.items() if not instances])


def _counts(instances: Sequence[tuple[str, str, int, bool]]) -> dict[str, Any]:
    shown = [(uid, frames) for uid, _, frames, fine in instances if fine]
    uid, number = _middle(shown)
    return {
        "instance_count": len(instances),
        "frame_count": sum(frames for _, frames in shown),
        "sop_classes": "\\".join(sorted({sop_class for _, sop_class, _, _ in instances if sop_class})),
        "thumbnail_uid": uid,
        "thumbnail_frame": number,
    }


def _middle(shown: Sequence[tuple[str, int]]) -> tuple[str | None, int | None]:
    """(SOP Instance UID, frame number) of the middle one of all frames."""
    left = sum(frames for _, frames in shown) // 2
    for uid, frames in shown:
        if left < frames:
            return uid, left + 1
        left -= frames
    return None, None


def _remove_series(db: Connection, ids: Sequence[int]) -> None:
    if not ids:
        return
    studies = {row.study_id for row in _rows(db, [series.c.study_id], series.c.id, ids)}
    _delete_terms(db, series, ids)
    _delete(db, series, "id", ids)
    full = {row.study_id for row in _rows(db, [series.c.study_id], series.c.study_id, studies)}
    empty = sorted(studies - full)
    _delete_terms(db, study, empty)
    _delete(db, study, "id", empty)
