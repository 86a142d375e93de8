"""Searching the index: matching keys (PS3.4 C.2.2.2) to conditions, rows to answers (PS3.18 10.6)."""

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select, true, union

from gpu_render.archive import Answers, DicomJson, Level, Match, Query
from gpu_render.archive.attributes import clock, comparable_name, day, words
from gpu_render.archive.database import Database
from gpu_render.archive.metadata import INSTANCE_TAGS, SERIES_TAGS, STUDY_TAGS
from gpu_render.archive.records import layout_from_json
from gpu_render.archive.tables import image, instance, metadata, said, series, study, term
from gpu_render.archive.writing import (
    ISSUER,
    PATIENT_ID,
    PATIENT_NAME,
    PATIENT_WORD,
    PROCEDURE_ID,
    REFERRING_PHYSICIAN,
    REFERRING_WORD,
    STEP,
    STEP_ID,
)
from gpu_render.errors import BadRequest
from gpu_render.reference import check_uid

Condition = ColumnElement[bool]
_HIGHEST = "\U0010ffff"


# --- matching -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """One value that is looked for."""

    database: Database
    keyword: str
    value: str
    fuzzy: bool

    def refuse(self, why: str) -> BadRequest:
        """The error of a value that is none; it does not repeat the value."""
        return BadRequest(f"{self.keyword}: {why}")

    def in_text(self, column: ColumnElement[str], value: str | None = None) -> Condition:
        """Single value or wild card matching (C.2.2.2.1, C.2.2.2.4)."""
        pattern = self.value if value is None else value
        if "*" not in pattern and "?" not in pattern:
            return column == pattern
        if not pattern.strip("*"):
            return true()
        prefix = re.split(r"[*?]", pattern, maxsplit=1)[0]
        form = self.database.like(column, pattern)
        return and_(_begins(column, prefix), form) if prefix else form  # the range is what an index serves


def _begins(column: ColumnElement[str], prefix: str) -> Condition:
    return and_(column >= prefix, column <= prefix + _HIGHEST)


Matcher = Callable[[_Asked], Condition]

_LIMITS = {"SH": 16, "LO": 64, "CS": 16}


def _text(column: ColumnElement[str], vr: str) -> Matcher:
    def match(asked: _Asked) -> Condition:
        _check_text(asked, vr)
        return asked.in_text(column)

    return match


def _check_text(asked: _Asked, vr: str) -> None:
    """What PS3.5 6.2 allows in a value of this VR, wild cards apart."""
    if not asked.value.isprintable() or "\\" in asked.value:
        raise asked.refuse("a character that no such value has")
    if len(asked.value.replace("*", "")) > _LIMITS[vr]:
        raise asked.refuse(f"longer than the {_LIMITS[vr]} characters of a value of {vr}")
    if vr == "CS" and re.fullmatch(r"[A-Z0-9 _*?]*", asked.value) is None:
        raise asked.refuse("only capital letters, digits, blanks and underscores are allowed")


def _uid(column: ColumnElement[str]) -> Matcher:
    return lambda asked: column == check_uid(asked.value, asked.keyword)


def _number(column: ColumnElement[Any]) -> Matcher:
    def match(asked: _Asked) -> Condition:
        if re.fullmatch(r"[+-]?\d{1,11}", asked.value) is None:
            raise asked.refuse("not an integer")
        return and_(column == int(asked.value))

    return match


def _date(column: ColumnElement[str]) -> Matcher:
    """Single value and range matching of dates (C.2.2.2.1, C.2.2.2.5)."""

    def match(asked: _Asked) -> Condition:
        return _within(asked, column, day, day, "a date: YYYYMMDD, or YYYYMMDD-YYYYMMDD")

    return match


def _time(column: ColumnElement[str]) -> Matcher:
    """The same of times; one that leaves minutes or seconds open stands for all of them."""

    def last(value: str) -> str:
        return clock(value, last=True)

    def match(asked: _Asked) -> Condition:
        return _within(asked, column, clock, last, "a time: HHMMSS.FFFFFF, or a range of two")

    return match


def _within(
    asked: _Asked, column: ColumnElement[str], first: Callable[[str], str], last: Callable[[str], str], form: str
) -> Condition:
    low, dash, high = asked.value.partition("-")
    bounds = first(low), last(high if dash else low)
    if not (low or high) or (low and not bounds[0]) or (high and not bounds[1]) or re.search(r"[^\d.:-]", asked.value):
        raise asked.refuse(f"not {form}")
    conditions = [column > ""]  # what has no value is in no range
    if low:
        conditions.append(column >= bounds[0])
    if high or not dash:
        conditions.append(column <= bounds[1])
    return and_(*conditions)


def _name(name_kind: int, word_kind: int) -> Matcher:
    """A person's name without regard to case; where it is asked for, also by words in any order, without accents."""

    def match(asked: _Asked) -> Condition:
        if not asked.value.replace("\\", "!").isprintable() or len(asked.value) > 5 * 64:
            raise asked.refuse("not a person's name")
        pattern, wanted = comparable_name(asked.value), sorted(words(asked.value))
        if not pattern.strip("*") or (asked.fuzzy and not wanted):
            return true()
        # Components that are left out at the end of a name are empty: they are there for a caret of the pattern.
        forms = {pattern, re.sub(r"\^[\^*]*$", "", pattern)}
        literal = _owners(name_kind, lambda value: or_(*(asked.in_text(value, form) for form in sorted(forms))))
        if not asked.fuzzy:
            return study.c.id.in_(literal)
        found, *others = (_owners(word_kind, partial(_begins, prefix=word)) for word in wanted)
        for other in others:
            found = found.where(found.selected_columns.owner_id.in_(other))
        return study.c.id.in_(union(literal, found))  # never less than without it

    return match


def _identifier(kind: int) -> Matcher:
    """An id of the patient that any file of the study has."""

    def match(asked: _Asked) -> Condition:
        _check_text(asked, "LO")
        return study.c.id.in_(_owners(kind, asked.in_text)) if asked.value.strip("*") else true()

    return match


def _owners(kind: int, form: Callable[[ColumnElement[str]], Condition]) -> Select[tuple[int]]:
    """Ids of studies or series with a term of a kind whose value has a form."""
    one = term.alias()
    return select(one.c.owner_id).where(one.c.kind == kind, form(one.c.value))


def _request(kind: int) -> Matcher:
    """An id within the items of Request Attributes Sequence (sequence matching, C.2.2.2.6)."""

    def match(asked: _Asked) -> Condition:
        _check_text(asked, "SH")
        return series.c.id.in_(_owners(kind, asked.in_text))

    return match


def _modalities(asked: _Asked) -> Condition:
    _check_text(asked, "CS")
    inner = series.alias("of_study")
    return study.c.id.in_(select(inner.c.study_id).where(asked.in_text(inner.c.modality)))


_STUDY: dict[str, Matcher] = {
    "StudyDate": _date(study.c.study_day),
    "StudyTime": _time(study.c.study_clock),
    "AccessionNumber": _text(study.c.accession_number, "SH"),
    "ModalitiesInStudy": _modalities,
    "ReferringPhysicianName": _name(REFERRING_PHYSICIAN, REFERRING_WORD),
    "PatientName": _name(PATIENT_NAME, PATIENT_WORD),
    "PatientID": _identifier(PATIENT_ID),
    "IssuerOfPatientID": _identifier(ISSUER),
    "PatientBirthDate": _date(study.c.birth_day),
    "PatientSex": _text(study.c.patient_sex, "CS"),
    "StudyInstanceUID": _uid(study.c.study_instance_uid),
    "StudyID": _text(study.c.id_of_study, "SH"),
    "StudyDescription": _text(study.c.study_description, "LO"),
}
_SERIES: dict[str, Matcher] = {
    "Modality": _text(series.c.modality, "CS"),
    "SeriesInstanceUID": _uid(series.c.series_instance_uid),
    "SeriesNumber": _number(series.c.series_number),
    "SeriesDescription": _text(series.c.series_description, "LO"),
    "SeriesDate": _date(series.c.series_day),
    "SeriesTime": _time(series.c.series_clock),
    "BodyPartExamined": _text(series.c.body_part, "CS"),
    "PerformedProcedureStepStartDate": _date(series.c.step_day),
    "PerformedProcedureStepStartTime": _time(series.c.step_clock),
    "RequestAttributesSequence.ScheduledProcedureStepID": _request(STEP_ID),
    "RequestAttributesSequence.RequestedProcedureID": _request(PROCEDURE_ID),
}
_INSTANCE: dict[str, Matcher] = {
    "SOPClassUID": _uid(instance.c.sop_class_uid),
    "SOPInstanceUID": _uid(image.c.sop_instance_uid),
    "InstanceNumber": _number(instance.c.instance_number),
}
_MATCHERS: dict[Level, dict[str, Matcher]] = {
    Level.STUDY: _STUDY,
    Level.SERIES: _STUDY | _SERIES,
    Level.INSTANCE: _STUDY | _SERIES | _INSTANCE,
}


def searchable(level: Level) -> frozenset[str]:
    """See Archive.searchable."""
    return frozenset(_MATCHERS[level])


def _condition(database: Database, query: Query, match: Match) -> Condition:
    """Any of the values; an empty one matches everything (universal matching, C.2.2.2.3)."""
    matcher = _MATCHERS[query.level].get(match.keyword)
    if matcher is None:
        raise BadRequest(f"{match.keyword[:64]} cannot be matched at the level of a {query.level}")
    values = [value.strip() for value in match.values]
    if not any(values):
        return true()
    asked = (_Asked(database, match.keyword, value, query.fuzzy) for value in values if value)
    return or_(*(matcher(one) for one in asked))


# --- which, and in which order ------------------------------------------------------------------------------

_BY_STUDY = (study.c.study_day.desc(), study.c.study_clock.desc(), study.c.study_instance_uid)
_BY_SERIES = (series.c.series_number.is_(None), series.c.series_number, series.c.series_instance_uid)
_BY_INSTANCE = (instance.c.instance_number.is_(None), instance.c.instance_number, image.c.sop_instance_uid)


def _selection(query: Query) -> Select[Any]:
    """The ids of what matches, of the levels above as well; without conditions."""
    if query.level is Level.STUDY:
        return select(study.c.id.label("study_id")).order_by(*_BY_STUDY)
    columns = (study.c.id.label("study_id"), series.c.id.label("series_id"))
    if query.level is Level.SERIES:
        return select(*columns).join(series, series.c.study_id == study.c.id).order_by(*_BY_STUDY, *_BY_SERIES)
    return (
        select(*columns, instance.c.image_id, instance.c.of_study, instance.c.of_series)
        .select_from(study)
        .join(series, series.c.study_id == study.c.id)
        .join(instance, instance.c.series_id == series.c.id)
        .join(image, image.c.id == instance.c.image_id)
        .order_by(*_BY_STUDY, *_BY_SERIES, *_BY_INSTANCE)
    )


def _matching(database: Database, db: Connection, query: Query) -> Sequence[Any]:
    selection = _selection(query)
    if query.study_uid is not None:
        selection = selection.where(study.c.study_instance_uid == query.study_uid)
    if query.series_uid is not None:
        selection = selection.where(series.c.series_instance_uid == query.series_uid)
    selection = selection.where(*(_condition(database, query, match) for match in query.matches))
    # SQLite knows no OFFSET without LIMIT.
    limit = query.limit if query.limit is not None else (1 << 62) if query.offset else None
    return db.execute(selection.limit(limit).offset(query.offset or None)).all()


def search(database: Database, db: Connection, query: Query) -> Answers:
    """See Archive.search."""
    rows = _matching(database, db, query)
    studies = _study_parts(db, {row.study_id for row in rows})
    if query.level is Level.STUDY:
        return Answers(_study_answer(studies[row.study_id], query, own=True) for row in rows)
    of_series = _series_parts(db, {row.series_id for row in rows})
    if query.level is Level.SERIES:
        return Answers(
            _study_answer(studies[row.study_id], query) | _series_answer(of_series[row.series_id], query, own=True)
            for row in rows
        )
    instances = _instance_answers(db, [row.image_id for row in rows], query)
    rows = rows[: len(instances.found)]
    own_studies = _own_parts(db, studies, {(row.study_id, row.of_study) for row in rows}, _study_attributes)
    own_series = _own_parts(db, of_series, {(row.series_id, row.of_series) for row in rows}, _series_attributes)
    answers = (
        _study_answer(own_studies[row.study_id, row.of_study], query)
        | _series_answer(own_series[row.series_id, row.of_series], query)
        | instances.found[row.image_id]
        for row in rows
    )
    return Answers(answers, cut=instances.cut)


# --- answers ------------------------------------------------------------------------------------------------

# PS3.18 10.6.3.3: what an answer has, with its VR. Study Description and the dates of series are read by viewers.
_OF_STUDY = {
    "00080020": "DA",
    "00080030": "TM",
    "00080050": "SH",
    "00080090": "PN",
    "00081030": "LO",
    "00100010": "PN",
    "00100020": "LO",
    "00100030": "DA",
    "00100040": "CS",
    "0020000D": "UI",
    "00200010": "SH",
}
_OF_SERIES = {
    "00080060": "CS",
    "0008103E": "LO",
    "0020000E": "UI",
    "00200011": "IS",
}
_OF_SERIES_KNOWN = ("00080021", "00080031", "00180015", "00400244", "00400245", "00400275")
_OF_INSTANCE_KNOWN = ("00080016", "00080018", "00200013", "00280008", "00280010", "00280011", "00280100")
_TIMEZONE = "00080201"
_KEPT_APART = frozenset(
    {f"{tag:08X}" for tags in (STUDY_TAGS, SERIES_TAGS, INSTANCE_TAGS) for tag in tags}
    | {"00080005", "00080016", "00080018", "00080056", "00080061", "00080062", "00083002", "00081190"}
    | {"00201206", "00201208", "00201209"}
)
"""What needs no look into the data set of an instance."""
_WHOLE_STEP = 64
"""Data sets read at once: a few hundred KiB."""
MOST_TEXT = 64 << 20
"""Length [byte] of all data sets that are read for one answer, as text: beyond it the answer ends."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is known of one study, series or instance: all its attributes, and those that are counted or looked up. Of
    studies and series ``said_id`` is what is believed of them."""

    attributes: DicomJson
    derived: DicomJson
    said_id: int = 0


def element(vr: str, *values: object) -> DicomJson:
    """An element of the DICOM JSON Model; without values where there are none."""
    known = [value for value in values if value not in (None, "")]
    return {"vr": vr, "Value": known} if known else {"vr": vr}


def _name_element(name: str) -> DicomJson:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
    return element("PN", {group: part for group, part in groups if part} or None)


def _chunks(ids: Iterable[int]) -> Iterable[Sequence[int]]:
    listed = list(ids)
    return (listed[at : at + STEP] for at in range(0, len(listed), STEP))


def _study_parts(db: Connection, ids: Iterable[int]) -> dict[int, _Part]:
    parts = {}
    for chunk in _chunks(ids):
        held: dict[int, list[Any]] = {}
        columns = (series.c.study_id, series.c.modality, series.c.instance_count, series.c.sop_classes)
        for row in db.execute(select(*columns).where(series.c.study_id.in_(chunk))):
            held.setdefault(row.study_id, []).append(row)
        for row in db.execute(select(study).where(study.c.id.in_(chunk))):
            of_series = held.get(row.id, [])
            modalities = sorted({one.modality for one in of_series})
            classes = sorted({uid for one in of_series for uid in one.sop_classes.split("\\")})
            derived = {
                "00080061": element("CS", *modalities),
                "00080062": element("UI", *classes),
                "00201206": element("IS", len(of_series)),
                "00201208": element("IS", sum(one.instance_count for one in of_series)),
            }
            attributes = _study_attributes(dict(row._mapping))
            attributes["0020000D"] = element("UI", row.study_instance_uid)  # where the file has none it was made up
            parts[row.id] = _Part(attributes, derived, row.said_id)
    return parts


def _study_attributes(row: Mapping[str, Any]) -> DicomJson:
    """From a row of a study. The columns are for one whose attributes were not kept."""
    columns = {
        "00080020": element("DA", row["study_date"]),
        "00080030": element("TM", row["study_time"]),
        "00080050": element("SH", row["accession_number"]),
        "00081030": element("LO", row["study_description"]),
        "00100010": _name_element(row["patient_name"]),
        "00100020": element("LO", row["patient_id"]),
    }
    columns.update(orjson.loads(row["attributes"]))
    return columns


def _series_parts(db: Connection, ids: Iterable[int]) -> dict[int, _Part]:
    parts = {}
    for chunk in _chunks(ids):
        for row in db.execute(select(series).where(series.c.id.in_(chunk))):
            attributes = _series_attributes(dict(row._mapping))
            attributes["0020000E"] = element("UI", row.series_instance_uid)
            parts[row.id] = _Part(attributes, {"00201209": element("IS", row.instance_count)}, row.said_id)
    return parts


def _series_attributes(row: Mapping[str, Any]) -> DicomJson:
    """From a row of a series."""
    columns = {
        "00080060": element("CS", row["modality"]),
        "0008103E": element("LO", row["series_description"]),
        "00200011": element("IS", row["series_number"]),
    }
    columns.update(orjson.loads(row["attributes"]))
    return columns


def _own_parts(
    db: Connection,
    parts: Mapping[int, _Part],
    wanted: Iterable[tuple[int, int]],
    attributes_of: Callable[[Mapping[str, Any]], DicomJson],
) -> dict[tuple[int, int], _Part]:
    """Studies or series as the files of instances have them, by their id and the id of what is said: an instance is
    not answered with the patient of another."""
    found, others = {}, {}
    for owner, said_id in wanted:
        found[owner, said_id] = parts[owner]
        if said_id != parts[owner].said_id:
            others[said_id] = owner
    for chunk in _chunks(others):
        for row in db.execute(select(said.c.id, said.c.body).where(said.c.id.in_(chunk))):
            part = parts[others[row.id]]
            uids = {tag: part.attributes[tag] for tag in ("0020000D", "0020000E") if tag in part.attributes}
            own = _Part(attributes_of(orjson.loads(row.body)) | uids, part.derived, row.id)
            found[others[row.id], row.id] = own
    return found


@dataclass(frozen=True, slots=True)
class _Instances:
    """Answers by id, in order; ``cut``: not of all, since their data sets are too long."""

    found: dict[int, DicomJson]
    cut: bool


def _instance_answers(db: Connection, ids: Sequence[int], query: Query) -> _Instances:
    """Made at once of each: thousands of whole data sets take too much memory. They are read only where something is
    asked for that is kept nowhere else."""
    whole = query.include_all or not query.include <= _KEPT_APART
    columns = (image.c.sop_instance_uid, *instance.c, *((metadata.c.body,) if whole else ()))
    wanted = select(*columns).join(instance, instance.c.image_id == image.c.id)
    if whole:
        wanted = wanted.outerjoin(metadata, metadata.c.image_id == image.c.id)
    found: dict[int, DicomJson] = {}
    length = 0
    for at in range(0, len(ids), _WHOLE_STEP if whole else STEP):
        chunk = ids[at : at + (_WHOLE_STEP if whole else STEP)]
        rows = {row.image_id: row for row in db.execute(wanted.where(image.c.id.in_(chunk)))}
        for image_id in chunk:
            if length > MOST_TEXT:
                return _Instances(found, cut=True)
            row = rows[image_id]
            text = zlib.decompress(row.body) if whole and row.body else b""
            length += len(text)
            attributes = orjson.loads(text) if text else _instance_attributes(row)
            attributes["00080018"] = element("UI", row.sop_instance_uid)  # where the file has none it was made up
            part = _Part(attributes, {"00083002": element("UI", row.transfer_syntax_uid)})
            found[image_id] = _instance_answer(part, query)
    return _Instances(found, cut=False)


def _instance_attributes(row: Any) -> DicomJson:
    """What is known of an instance without its data set."""
    found = {"00080016": element("UI", row.sop_class_uid)}
    if row.attributes is not None:
        found.update(orjson.loads(row.attributes))
        return found
    found["00200013"] = element("IS", row.instance_number)
    if row.layout is not None:
        layout = layout_from_json(row.layout)
        found["00280010"] = element("US", layout.rows)
        found["00280011"] = element("US", layout.columns)
        found["00280100"] = element("US", layout.bits_allocated)
    if row.number_of_frames > 1:
        found["00280008"] = element("IS", row.number_of_frames)
    return found


def _study_answer(part: _Part, query: Query, *, own: bool = False) -> DicomJson:
    """Attributes of a study: all of them in its own answers and in those of relational queries, else its UID."""
    answer = _shared(part, query)
    if own or query.study_uid is None:
        answer |= {tag: part.attributes.get(tag, {"vr": vr}) for tag, vr in _OF_STUDY.items()}
        answer |= {tag: part.derived[tag] for tag in ("00080061", "00201206", "00201208")}
    answer["0020000D"] = part.attributes["0020000D"]
    return answer


def _series_answer(part: _Part, query: Query, *, own: bool = False) -> DicomJson:
    answer = _shared(part, query)
    if own or query.series_uid is None:
        answer |= {tag: part.attributes.get(tag, {"vr": vr}) for tag, vr in _OF_SERIES.items()}
        answer |= {tag: part.attributes[tag] for tag in _OF_SERIES_KNOWN if tag in part.attributes}
        answer |= part.derived
    answer["0020000E"] = part.attributes["0020000E"]
    return answer


def _instance_answer(part: _Part, query: Query) -> DicomJson:
    answer = _shared(part, query)
    answer |= {tag: part.attributes[tag] for tag in _OF_INSTANCE_KNOWN if tag in part.attributes}
    return answer | part.derived


def _shared(part: _Part, query: Query) -> DicomJson:
    """What every answer has, and what was asked for besides. Bulk data is not in answers."""
    known = part.attributes | part.derived
    wanted = known.keys() if query.include_all else known.keys() & query.include
    answer = {tag: known[tag] for tag in wanted if b"BulkDataURI" not in orjson.dumps(known[tag])}
    if _TIMEZONE in part.attributes:
        answer[_TIMEZONE] = part.attributes[_TIMEZONE]
    answer["00080005"] = element("CS", "ISO_IR 192")
    answer["00080056"] = element("CS", "ONLINE")
    return answer
