"""What one transaction writes to the index. All of it works on many files at once: a database is asked a number of
times that does not depend on how many they are."""

import hashlib
import json
from collections import Counter
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
    said,
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
PATIENT_NAME, REFERRING_PHYSICIAN, PATIENT_WORD, REFERRING_WORD, PATIENT_ID, ISSUER = 1, 2, 3, 4, 5, 6
STEP_ID, PROCEDURE_ID = 11, 12
# Levels of what is said.
STUDY, SERIES = 1, 2


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
    settle(db, touched)
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
    return settle(db, touched) or held


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
    places = _places(db, documents)
    images = _image_ids(db, [document["sop_instance_uid"] for document in documents])
    rows: Rows = []
    hanging: dict[Table, Rows] = {table: [] for table in (presentation, frame, span, metadata)}
    for change, document, place in zip(changes, documents, places, strict=True):
        image_id = images[document["sop_instance_uid"]]
        rows.append(_instance_row(document, image_id, files[change.key], place))
        if document["error"] is None:
            _add_frames(hanging, image_id, document, change.spans)
        if change.metadata:
            hanging[metadata].append({"image_id": image_id, "body": change.metadata})
    _insert(db, instance, rows)
    for table, of_table in hanging.items():
        _insert(db, table, of_table)
    return {place.series_id for place in places}


_PLACES = ("pixel_offset", "frame_bits", "word_swap", "frames_whole", "inflate_offset")


def _instance_row(document: dict[str, Any], image_id: int, file_id: int, place: "_Place") -> dict[str, Any]:
    kind, error = document["error"] or (None, None)
    spoken = document["instance"]
    places = {place: document.get(place) for place in _PLACES}
    return {
        "image_id": image_id,
        "file_id": file_id,
        "series_id": place.series_id,
        "of_study": place.of_study,
        "of_series": place.of_series,
        "sop_class_uid": spoken["SOPClassUID"],
        "instance_number": _integer(spoken["InstanceNumber"]),
        "slice_thickness": spoken["SliceThickness"],
        "transfer_syntax_uid": document["transfer_syntax_uid"],
        "number_of_frames": document["number_of_frames"],
        "error_kind": kind,
        "error": None if error is None else storable(error),
        "layout": document.get("layout"),
        "geometry": document.get("geometry"),
        "attributes": _json(document["instance_attributes"]) if "instance_attributes" in document else None,
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an instance is, and the ids of what its file says of its study and its series."""

    series_id: int
    of_study: int
    of_series: int


@dataclass(frozen=True, slots=True)
class _Saying:
    """What files say of one study or series: its row without ids, and its terms."""

    row: dict[str, Any]
    terms: Terms

    @property
    def body(self) -> str:
        """The row as text."""
        return json.dumps(self.row)


def _places(db: Connection, documents: Sequence[dict[str, Any]]) -> list[_Place]:
    """Of each document its study and series, made where they are new. ``settle`` brings their rows up to date."""
    uids = [document["study_instance_uid"] for document in documents]
    studies, of_study = _own(db, study, uids, documents)
    keys = [(studies[uid], document["series_instance_uid"]) for uid, document in zip(uids, documents, strict=True)]
    of_all, of_series = _own(db, series, keys, documents)
    return [_Place(of_all[key], *ids) for key, ids in zip(keys, zip(of_study, of_series, strict=True), strict=True)]


def _own(
    db: Connection, table: Table, keys: Sequence[Any], documents: Sequence[dict[str, Any]]
) -> tuple[dict[Any, int], list[int]]:
    """Of documents the rows they belong to, by key, and the ids of what each says of its own."""
    made = _sayings(table, keys, documents)
    held = (_studies_held if table is study else _series_held)(db, set(keys))
    first = _next_id(db, table)
    fresh = {key: id_ for id_, key in enumerate((key for key in dict.fromkeys(keys) if key not in held), first)}
    owners = held | fresh
    ids = _said_ids(db, table, [(owners[key], saying) for key, saying in made])
    rows = {key: {"id": fresh[key], **saying.row} for key, saying in made if key in fresh}
    of_key = dict(zip((key for key, _ in made), ids, strict=True))
    _insert(db, table, [{**row, **_owner_columns(table, key), "said_id": of_key[key]} for key, row in rows.items()])
    return owners, ids


def _owner_columns(table: Table, key: Any) -> dict[str, Any]:
    if table is study:
        return {"study_instance_uid": key}
    return {"study_id": key[0], "series_instance_uid": key[1]}


def _sayings(table: Table, keys: Sequence[Any], documents: Sequence[dict[str, Any]]) -> list[tuple[Any, _Saying]]:
    """What each document says, made once for those in a row that say the same: nearly all of a series."""
    name, make = ("study", _study_row) if table is study else ("series", _series_row)
    last: dict[Any, tuple[Any, _Saying]] = {}
    found = []
    for key, document in zip(keys, documents, strict=True):
        text = document[name], document.get(f"{name}_attributes")
        if key not in last or last[key][0] != text:
            last[key] = text, _Saying(*make(document))
        found.append((key, last[key][1]))
    return found


def _said_ids(db: Connection, table: Table, sayings: Sequence[tuple[int, _Saying]]) -> list[int]:
    """Ids of what is said of owners, with its terms; made where nobody has said it before."""
    level = _level(table)
    distinct = {id(saying): saying for _, saying in sayings}
    digests = {n: hashlib.blake2b(saying.body.encode(), digest_size=16).digest() for n, saying in distinct.items()}
    wanted = {(owner, level, digests[id(saying)]): saying for owner, saying in sayings}
    columns = (said.c.owner_id, said.c.level, said.c.digest)
    rows = _rows(db, (*columns, said.c.id), tuple_(*columns), wanted)
    ids = {(row.owner_id, row.level, bytes(row.digest)): row.id for row in rows}
    new = {key: id_ for id_, key in enumerate((key for key in wanted if key not in ids), _next_id(db, said))}
    _insert(
        db,
        said,
        [
            {"id": id_, "owner_id": key[0], "level": level, "digest": key[2], "body": wanted[key].body}
            for key, id_ in new.items()
        ],
    )
    terms = [(key[0], id_, *pair) for key, id_ in new.items() for pair in sorted(wanted[key].terms)]
    names = ("owner_id", "said_id", "kind", "value")
    _insert(db, term, [dict(zip(names, values, strict=True)) for values in terms])
    ids |= new
    return [ids[owner, level, digests[id(saying)]] for owner, saying in sayings]


def _level(table: Table) -> int:
    return STUDY if table is study else SERIES


def _studies_held(db: Connection, uids: Iterable[str]) -> dict[Any, int]:
    columns = (study.c.study_instance_uid, study.c.id)
    return {row.study_instance_uid: row.id for row in _rows(db, columns, study.c.study_instance_uid, uids)}


def _series_held(db: Connection, keys: Iterable[tuple[int, str]]) -> dict[Any, int]:
    columns = (series.c.study_id, series.c.series_instance_uid)
    rows = _rows(db, (*columns, series.c.id), tuple_(*columns), keys)
    return {(row.study_id, row.series_instance_uid): row.id for row in rows}


def settle(db: Connection, touched: Iterable[int]) -> bool:
    """Bring series that gained or lost instances up to date, and their studies; empty ones go. Whether another file
    than before is believed about one that stays."""
    ids = list(touched)
    studies = {row.study_id for row in _rows(db, [series.c.study_id], series.c.id, ids)}
    recount(db, ids)
    changed = [_believe(db, study, list(studies)), _believe(db, series, ids)]
    return any(changed)


def _believe(db: Connection, table: Table, owners: Sequence[int]) -> bool:
    """Where files contradict each other the last one by its path is believed, in whichever order they came. What no
    file says any more is forgotten. Whether a row has changed."""
    level, held = _level(table), list[Any]()
    for row in _rows(db, (said.c.id, said.c.owner_id, said.c.level), said.c.owner_id, owners):
        if row.level == level:
            held.append(row)
    count = Counter(row.owner_id for row in held)
    contradicted = [owner for owner in owners if count[owner] > 1]
    if not contradicted:
        return False
    last = _last_files(db, table, contradicted)
    used = {said_id for of_owner in last.values() for said_id in of_owner}
    _forget(db, [row.id for row in held if count[row.owner_id] > 1 and row.id not in used])
    believed = {owner: max(of_owner, key=of_owner.__getitem__) for owner, of_owner in last.items()}
    rows = _rows(db, (table.c.id, table.c.said_id), table.c.id, contradicted)
    changed = {row.id: believed[row.id] for row in rows if row.said_id != believed[row.id]}
    bodies = {row.id: row.body for row in _rows(db, (said.c.id, said.c.body), said.c.id, changed.values())}
    for owner, said_id in changed.items():
        values = {**json.loads(bodies[said_id]), "said_id": said_id}
        db.execute(update(table).where(table.c.id == owner).values(values))
    return bool(changed)


def _last_files(db: Connection, table: Table, owners: Sequence[int]) -> dict[int, dict[int, tuple[bytes, bytes]]]:
    """Of each owner all that is said of it, with root and path of the last file that says so."""
    owner, said_id = (series.c.study_id, instance.c.of_study) if table is study else (series.c.id, instance.c.of_series)
    joins = (
        (instance, instance.c.series_id == series.c.id),
        (file, file.c.id == instance.c.file_id),
        (folder, folder.c.id == file.c.folder_id),
        (root, root.c.id == folder.c.root_id),
    )
    found: dict[int, dict[int, tuple[bytes, bytes]]] = {}
    columns = (owner, said_id, root.c.path, folder.c.path, file.c.name)
    for owner_id, said_by, at, above, name in _rows(db, columns, owner, owners, *joins):
        of_owner, key = found.setdefault(owner_id, {}), (at, join_path(above, name))
        of_owner[said_by] = max(of_owner.get(said_by, key), key)
    return found


def _forget(db: Connection, said_ids: Sequence[int]) -> None:
    _delete(db, term, "said_id", said_ids)
    _delete(db, said, "id", said_ids)


def _forget_all(db: Connection, table: Table, owners: Sequence[int]) -> None:
    """What was said of owners that are gone."""
    rows = _rows(db, (said.c.id, said.c.level), said.c.owner_id, owners)
    _forget(db, [row.id for row in rows if row.level == _level(table)])


def patients_of(db: Connection, study_uid: str) -> set[tuple[str, str, str]]:
    """(Patient's Name, Patient ID, Issuer of Patient ID) as files of a study say them."""
    query = select(said.c.body).join(study, study.c.id == said.c.owner_id)
    query = query.where(study.c.study_instance_uid == study_uid, said.c.level == STUDY)
    rows = [json.loads(body) for body in db.execute(query).scalars()]
    return {(row["patient_name"], row["patient_id"], row["issuer_of_patient_id"]) for row in rows}


def _json(attributes: Mapping[str, Any]) -> str:
    return storable(json.dumps(attributes, ensure_ascii=False, separators=(",", ":")))


def _study_row(document: dict[str, Any]) -> tuple[dict[str, Any], Terms]:
    spoken: dict[str, str] = document["study"]
    attributes = document.get("study_attributes", {})
    referring = joined(attributes, "00080090")
    terms = {(PATIENT_NAME, form) for form in name_forms(spoken["PatientName"])}
    terms |= {(REFERRING_PHYSICIAN, form) for form in name_forms(referring)}
    terms |= {(PATIENT_WORD, word) for word in words(spoken["PatientName"])}
    terms |= {(REFERRING_WORD, word) for word in words(referring)}
    issuer = joined(attributes, "00100021")
    terms |= {pair for pair in ((PATIENT_ID, spoken["PatientID"]), (ISSUER, issuer)) if pair[1]}
    row = {
        "patient_name": spoken["PatientName"],
        "patient_id": spoken["PatientID"],
        "study_date": spoken["StudyDate"],
        "study_time": spoken["StudyTime"],
        "study_description": spoken["StudyDescription"],
        "accession_number": spoken["AccessionNumber"],
        "study_day": day(spoken["StudyDate"]),
        "study_clock": clock(spoken["StudyTime"]),
        "issuer_of_patient_id": issuer,
        "birth_day": day(joined(attributes, "00100030")),
        "patient_sex": joined(attributes, "00100040"),
        "id_of_study": joined(attributes, "00200010"),
        "attributes": _json(attributes),
    }
    return row, terms


def _series_row(document: dict[str, Any]) -> tuple[dict[str, Any], Terms]:
    spoken = document["series"]
    attributes = document.get("series_attributes", {})
    requests = list(items(attributes, "00400275"))
    terms = {(STEP_ID, value) for request in requests for value in texts(request, "00400009") if value}
    terms |= {(PROCEDURE_ID, value) for request in requests for value in texts(request, "00401001") if value}
    row = {
        "modality": spoken["Modality"],
        "series_number": _integer(spoken["SeriesNumber"]),
        "series_description": spoken["SeriesDescription"],
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
    _forget_all(db, series, ids)
    _delete(db, series, "id", ids)
    full = {row.study_id for row in _rows(db, [series.c.study_id], series.c.study_id, studies)}
    empty = sorted(studies - full)
    _forget_all(db, study, empty)
    _delete(db, study, "id", empty)
