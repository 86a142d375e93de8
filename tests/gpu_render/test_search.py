"""Searches: what matches, against plain Python over the same studies; what an answer has; one order for all of them."""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_render.archive import DicomJson, InstanceRecord, Level, Match, Query
from gpu_render.archive.attributes import clock, day, words
from gpu_render.archive.index import FileChange, FileKey, Index
from gpu_render.archive.search import searchable
from gpu_render.errors import BadRequest, NotFound
from tests.gpu_render.test_index import ROOT, document

Opener = Callable[..., Index]
REUSED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def element(vr: str, *values: Any) -> DicomJson:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def name(text: str) -> DicomJson:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return element("PN", {group: part for group, part in groups if part}) if text else element("PN")


def tags(values: Mapping[str, DicomJson]) -> dict[str, Any]:
    return {"study_attributes": dict(values)}


def study(uid: str, *, series: Sequence[Mapping[str, Any]] = ({},), **said: str) -> Iterator[FileChange]:
    """One file for each of ``series``. ``said``: keywords of the study, such as PatientName, as text."""
    columns = {key: said.get(key, "") for key in COLUMNS}
    attributes: DicomJson = {}
    for keyword, (tag, vr) in TAGS.items():
        if keyword in said:
            attributes[tag] = name(said[keyword]) if vr == "PN" else element(vr, said[keyword])
    for number, of_series in enumerate(series, 1):
        changes = {"Modality": "CT", "SeriesNumber": number, "SeriesDescription": "y", **of_series}
        made = document(f"{uid}.{number}.7", study=uid, series=f"{uid}.{number}", study_attributes=attributes)
        made["study"], made["series"] = columns, changes
        made["series_attributes"] = of_series.get("attributes", {})
        yield FileChange(FileKey(ROOT, made["sop_instance_uid"].encode()), 10, 20, made)


COLUMNS = ("PatientName", "PatientID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber")
TAGS = {
    "StudyDate": ("00080020", "DA"),
    "StudyTime": ("00080030", "TM"),
    "AccessionNumber": ("00080050", "SH"),
    "ReferringPhysicianName": ("00080090", "PN"),
    "PatientName": ("00100010", "PN"),
    "PatientID": ("00100020", "LO"),
    "IssuerOfPatientID": ("00100021", "LO"),
    "PatientBirthDate": ("00100030", "DA"),
    "PatientSex": ("00100040", "CS"),
    "StudyID": ("00200010", "SH"),
    "StudyDescription": ("00081030", "LO"),
}


@pytest.fixture
def index(open_index: Opener) -> Index:
    opened = open_index()
    opened.set_roots([ROOT])
    return opened


def fill(index: Index, *studies: Iterator[FileChange]) -> None:
    index.set_roots([])
    index.set_roots([ROOT])
    index.write([change for one in studies for change in one])


def found(index: Index, level: Level = Level.STUDY, **wanted: Any) -> list[str]:
    """UIDs of what matches ``wanted``: keyword=value, a list of values, or a field of Query."""
    options = {key: wanted.pop(key) for key in ("fuzzy", "limit", "offset", "study_uid", "series_uid") if key in wanted}
    matches = tuple(
        Match(key.replace("__", "."), tuple(value) if isinstance(value, list) else (value,))
        for key, value in wanted.items()
    )
    answers = index.search(Query(level, matches=matches, **options))
    tag = {Level.STUDY: "0020000D", Level.SERIES: "0020000E", Level.INSTANCE: "00080018"}[level]
    return [answer[tag]["Value"][0] for answer in answers]


# --- matching ----------------------------------------------------------------------------------------------------

LETTERS = "aAbBäÄ[]%_\\^ -"
NAMES = st.text(LETTERS.replace("\\", ""), min_size=1, max_size=5)


def as_expression(pattern: str) -> "re.Pattern[str]":
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), re.DOTALL)


@REUSED
@given(
    st.lists(st.text(LETTERS.replace("\\", ""), max_size=5), max_size=6),
    st.text(LETTERS.replace("\\", "") + "*?*?", max_size=6),
)
def test_wild_cards_match_what_an_expression_does(index: Index, values: list[str], pattern: str) -> None:
    """In text, case and all; by the letter where there is no wild card."""
    fill(index, *(study(f"1.{n}", PatientID=value.strip()) for n, value in enumerate(values, 1)))
    matched = as_expression(pattern.strip())
    wanted = {f"1.{n}" for n, value in enumerate(values, 1) if not pattern.strip() or matched.fullmatch(value.strip())}
    assert set(found(index, PatientID=pattern)) == wanted


def plain_name(text: str) -> str:
    return text.lower().strip("^= ")


@REUSED
@given(st.lists(NAMES, max_size=6), st.text(LETTERS.replace("\\", "") + "*?*?", max_size=6))
def test_names_match_without_case(index: Index, values: list[str], pattern: str) -> None:
    fill(index, *(study(f"1.{n}", PatientName=value.strip()) for n, value in enumerate(values, 1)))
    wanted = plain_name(pattern)
    # Components left out at the end (NUL here) are there for ^ and *, but are no characters for ?.
    forms = {"*": ".*", "?": "[^\0]", "^": r"[\^\0]"}
    matched = re.compile("".join(forms.get(c, re.escape(c)) for c in wanted), re.DOTALL)
    expected = {
        f"1.{n}"
        for n, value in enumerate(values, 1)
        if not wanted.strip("*")
        or (plain_name(value) and any(matched.fullmatch(plain_name(value) + "\0" * left_out) for left_out in range(7)))
    }
    assert set(found(index, PatientName=pattern)) == expected
    assert set(found(index, PatientName=pattern, fuzzy=True)) >= expected


DATES = st.dates().map(lambda date: f"{date:%Y%m%d}".rjust(8, "0"))


@REUSED
@given(st.lists(DATES | st.sampled_from(["", "junk", "2004.01.19"]), max_size=6), DATES, DATES, st.sampled_from("abcd"))
def test_ranges_of_dates(index: Index, values: list[str], low: str, high: str, form: str) -> None:
    fill(index, *(study(f"1.{n}", StudyDate=value) for n, value in enumerate(values, 1)))
    wanted, first, last = {
        "a": (f"{low}-{high}", low, high),
        "b": (f"{low}-", low, "99999999"),
        "c": (f"-{high}", "00000000", high),
        "d": (low, low, low),
    }[form]
    expected = {
        f"1.{n}"
        for n, value in enumerate(values, 1)
        if value.replace(".", "").isdigit() and first <= value.replace(".", "") <= last
    }
    assert set(found(index, StudyDate=wanted)) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("10", ["10", "1030", "103059", "103059.5"]),
        ("1030", ["1030", "103059", "103059.5"]),
        ("103059", ["103059", "103059.5"]),
        ("103059.5", ["103059.5"]),
        ("1031-", ["11", "235960"]),
        ("-10", ["00", "10", "1030", "103059", "103059.5"]),
        ("103000.000001-103059", ["103059", "103059.5"]),
        ("10:30-11:00", ["1030", "103059", "103059.5", "11"]),
    ],
)
def test_ranges_of_times(index: Index, wanted: str, expected: list[str]) -> None:
    """What a time leaves open is its first moment where it is stored, and all of it where it is asked for."""
    times = ["00", "10", "1030", "103059", "103059.5", "11", "235960", "", "25", "1061"]
    fill(index, *(study(f"1.{n}", StudyTime=value) for n, value in enumerate(times, 1)))
    assert sorted(times[int(uid[2:]) - 1] for uid in found(index, StudyTime=wanted)) == expected


PEOPLE = {
    "1.1": "Müller-Lüdenscheid^Jürgen",
    "1.2": "MULLER^Anna^^Dr.",
    "1.3": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "1.4": "Jones^Anna Maria",
    "1.5": "",
    "1.6": "Groß^Bärbel",
    "1.7": "OB^^^^",
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("müller-lüdenscheid^jürgen", ["1.1"]),
        ("mu\u0308ller*", ["1.1"]),
        ("Muller", []),
        ("muller^anna^^dr.", ["1.2"]),
        ("*ANNA*", ["1.2", "1.4"]),
        ("yamada^tarou", ["1.3"]),
        ("山田^太郎", ["1.3"]),
        ("山田*", ["1.3"]),
        ("?amada^*", ["1.3"]),
        ("gro?^*", ["1.6"]),
        ("OB^*", ["1.7"]),
        ("ob^^^^", ["1.7"]),
        ("OB^*^*", ["1.7"]),
        ("?b^^*", ["1.7"]),
        ("OB^?*", []),
        ("O^*", []),
        ("*", ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7"]),
        ("", ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7"]),
    ],
)
def test_names(index: Index, wanted: str, expected: list[str]) -> None:
    fill(index, *(study(uid, PatientName=said) for uid, said in PEOPLE.items()))
    assert sorted(found(index, PatientName=wanted)) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("muller", ["1.1", "1.2"]),
        ("Anna MUL", ["1.2"]),
        ("maria, jones", ["1.4"]),
        ("jurgen ludenscheid", ["1.1"]),
        ("gross bar*", ["1.6"]),
        ("山田", ["1.3"]),
        ("ones", []),
        ("*ones*", ["1.4"]),
        ("J?nes*", ["1.4"]),
        ("*ANNA* muller", ["1.2"]),
        ("OB^*", ["1.7"]),
        ("^", ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7"]),
    ],
)
def test_fuzzy_names(index: Index, wanted: str, expected: list[str]) -> None:
    """Words in any order, from their beginnings, without accents; of whichever name is asked for."""
    fill(index, *(study(uid, PatientName=said) for uid, said in PEOPLE.items()))
    assert sorted(found(index, PatientName=wanted, fuzzy=True)) == expected
    fill(index, *(study(uid, ReferringPhysicianName=said) for uid, said in PEOPLE.items()))
    assert sorted(found(index, ReferringPhysicianName=wanted, fuzzy=True)) == expected
    assert found(index, PatientName="muller", fuzzy=True) == []


def test_every_other_key_of_a_study(index: Index) -> None:
    said: dict[str, Any] = {
        "AccessionNumber": "A-1",
        "ReferringPhysicianName": "Doe^Jane",
        "PatientID": "p 1",
        "IssuerOfPatientID": "Here",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "StudyID": "S1",
        "StudyDescription": "CT of the chest",
    }
    others: dict[str, Any] = {key: f"{value[:7]}2" for key, value in said.items()}
    fill(index, study("1.1", **said), study("1.2", **others))
    for keyword, value in said.items():
        assert found(index, **{keyword: value}) == ["1.1"], keyword
    assert found(index, StudyDescription="*chest") == ["1.1"]
    assert found(index, StudyDescription="*Chest") == []  # only names are matched without regard to case
    assert sorted(found(index, PatientID="p*")) == ["1.1", "1.2"]
    assert found(index, PatientID=["p 1", "nobody"]) == ["1.1"]
    assert found(index, StudyInstanceUID=["1.1", "1.9"]) == ["1.1"]
    assert found(index, PatientID="p*", AccessionNumber="A-1", PatientSex="F") == ["1.1"]


def test_modalities_of_a_study_and_attributes_of_series(index: Index) -> None:
    request = {"00400275": element("SQ", {"00400009": element("SH", "step"), "00401001": element("SH", "proc")})}
    known = {"00180015": element("CS", "CHEST"), "00400244": element("DA", "20040119"), **request}
    fill(
        index,
        study("1.1", series=[{"Modality": "CT"}, {"Modality": "SR"}]),
        study("1.2", series=[{"Modality": "MR", "SeriesDescription": "T1", "attributes": known}]),
    )
    assert found(index, ModalitiesInStudy="SR") == ["1.1"]
    assert sorted(found(index, ModalitiesInStudy=["SR", "MR"])) == ["1.1", "1.2"]
    assert found(index, Level.SERIES, ModalitiesInStudy="SR") == ["1.1.1", "1.1.2"]
    assert found(index, Level.SERIES, Modality="SR") == ["1.1.2"]
    assert found(index, Level.SERIES, SeriesNumber="+02") == ["1.1.2"]
    assert found(index, Level.SERIES, SeriesInstanceUID="1.2.1") == ["1.2.1"]
    for keyword, value in {
        "BodyPartExamined": "CHES?",
        "SeriesDescription": "T*",
        "PerformedProcedureStepStartDate": "20040101-20041231",
        "RequestAttributesSequence__ScheduledProcedureStepID": "step",
        "RequestAttributesSequence__RequestedProcedureID": "p*",
    }.items():
        assert found(index, Level.SERIES, **{keyword: value}) == ["1.2.1"], keyword
    assert found(index, Level.SERIES, RequestAttributesSequence__ScheduledProcedureStepID="proc") == []
    assert found(index, Level.INSTANCE, Modality="SR") == ["1.1.2.7"]
    assert found(index, Level.INSTANCE, SOPInstanceUID=["1.1.1.7", "1.2.1.7"], InstanceNumber="4") == [
        "1.1.1.7",
        "1.2.1.7",
    ]
    assert found(index, Level.INSTANCE, SOPClassUID="1.2", study_uid="1.1", series_uid="1.1.2") == ["1.1.2.7"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "yesterday"),
        ("StudyDate", "2004"),
        ("StudyDate", "20041301"),
        ("StudyDate", "-"),
        ("StudyDate", "20040101-20050101-"),
        ("StudyDate", "20040119*"),
        ("StudyTime", "25"),
        ("StudyTime", "12-noon"),
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1..2"),
        ("PatientSex", "f"),
        ("ModalitiesInStudy", "ct"),
        ("AccessionNumber", "12345678901234567"),
        ("PatientID", "a\nb"),
        ("PatientID", "a\0b"),
        ("PatientName", "a\tb"),
        ("SeriesNumber", "1.5"),
        ("SeriesNumber", "99999999999999999999"),
        ("Rows", "512"),
        ("InstanceNumber", "1"),
    ],
)
def test_values_that_are_none_are_refused_and_not_repeated(index: Index, keyword: str, value: str) -> None:
    with pytest.raises(BadRequest) as error:
        found(index, Level.SERIES, **{keyword: value})
    assert keyword in str(error.value) or "StudyInstanceUID" in str(error.value)
    assert len(value) < 4 or value not in str(error.value)


def test_what_can_be_searched_at_each_level() -> None:
    assert searchable(Level.STUDY) < searchable(Level.SERIES) < searchable(Level.INSTANCE)
    assert {"PatientName", "ModalitiesInStudy", "StudyID"} < searchable(Level.STUDY)
    assert "Modality" in searchable(Level.SERIES) - searchable(Level.STUDY)
    assert "SOPClassUID" in searchable(Level.INSTANCE) - searchable(Level.SERIES)


def test_patients_with_one_id_stay_apart(index: Index) -> None:
    fill(
        index,
        study("1.1", PatientID="7", IssuerOfPatientID="A", PatientName="One"),
        study("1.2", PatientID="7", IssuerOfPatientID="B", PatientName="Two"),
    )
    answers = index.search(Query(Level.STUDY, matches=(Match("PatientID", ("7",)),)))
    assert sorted(answer["00100010"]["Value"][0]["Alphabetic"] for answer in answers) == ["One", "Two"]
    assert found(index, PatientID="7", IssuerOfPatientID="B") == ["1.2"]


# --- order and pages -----------------------------------------------------------------------------------------------


def test_the_order_of_studies_series_and_instances(index: Index) -> None:
    fill(
        index,
        study("1.1", StudyDate="20040119", StudyTime="10"),
        study("1.2", StudyDate="20040119", StudyTime="1030"),
        study("1.3", StudyDate="20050101"),
        study("1.5"),
        study("1.4", series=[{"SeriesNumber": None}, {"SeriesNumber": 10}, {"SeriesNumber": 2}]),
    )
    assert found(index) == ["1.3", "1.2", "1.1", "1.4", "1.5"]
    assert found(index, Level.SERIES, study_uid="1.4") == ["1.4.3", "1.4.2", "1.4.1"]
    assert found(index, Level.SERIES)[2:6] == ["1.1.1", "1.4.3", "1.4.2", "1.4.1"]
    assert found(index, Level.INSTANCE, study_uid="1.4") == ["1.4.3.7", "1.4.2.7", "1.4.1.7"]


@pytest.mark.parametrize("level", list(Level))
def test_pages_give_each_once_and_end_empty(index: Index, level: Level) -> None:
    fill(index, *(study(f"1.{n}", StudyDate="20040119", series=[{}, {}]) for n in range(1, 8)))
    whole = found(index, level)
    pages: list[str] = []
    while page := found(index, level, limit=3, offset=len(pages)):
        pages += page
    assert pages == whole
    assert len(set(whole)) == len(whole) == (7 if level is Level.STUDY else 14)
    assert found(index, level, offset=5) == whole[5:]
    assert found(index, level, limit=0) == []
    assert found(index, level, offset=1 << 40) == []


# --- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_of_each_level(index: Index) -> None:
    whole = {
        "00080016": element("UI", "1.2"),
        "00080018": element("UI", "1.1.1.7"),
        "00080060": element("CS", "CT"),
        "00200013": element("IS", 4),
        "00280010": element("US", 2),
        "00281050": element("DS", 40),
        "00281201": {"vr": "OW", "BulkDataURI": "bulkdata/00281201"},
        "00209999": element("SQ", {"00281201": {"vr": "OW", "BulkDataURI": "bulkdata/00209999/1/00281201"}}),
    }
    of_series = {"SeriesNumber": 3, "attributes": {"00080070": element("LO", "Maker")}}
    (change,) = study("1.1", series=[of_series], PatientName="A=B", PatientSex="F", PatientBirthDate="19500101")
    assert change.document is not None
    change.document["instance_attributes"] = {tag: whole[tag] for tag in ("00200013", "00280010")}
    index.write([replace(change, metadata=zlib.compress(json.dumps(whole).encode()))])

    (answer,) = index.search(Query(Level.STUDY))
    assert answer["00100010"] == element("PN", {"Alphabetic": "A", "Ideographic": "B"})
    assert answer["00100030"] == element("DA", "19500101")
    assert answer["00080061"] == element("CS", "CT")
    assert (answer["00201206"], answer["00201208"]) == (element("IS", 1), element("IS", 1))
    assert answer["00080020"] == {"vr": "DA"}  # wanted by the standard, not known
    assert {
        "00080005",
        "00080050",
        "00080056",
        "00080090",
        "00081030",
        "00100020",
        "0020000D",
        "00200010",
    } < answer.keys()
    assert not answer.keys() & {"00080062", "00080060", "00080070"}

    (answer,) = index.search(Query(Level.STUDY, include=frozenset({"00080062", "00080060"})))
    assert answer["00080062"] == element("UI", "1.2")

    (answer,) = index.search(Query(Level.SERIES, study_uid="1.1"))
    assert answer["00200011"] == element("IS", 3)
    assert answer["00201209"] == element("IS", 1)
    assert answer["0020000D"] == element("UI", "1.1")
    assert not answer.keys() & {"00100010", "00201208", "00080070"}
    (answer,) = index.search(Query(Level.SERIES, include=frozenset({"00080070"})))
    assert (answer["00080070"], answer["00100040"]) == (element("LO", "Maker"), element("CS", "F"))

    (answer,) = index.search(Query(Level.INSTANCE, study_uid="1.1", series_uid="1.1.1"))
    assert answer["00083002"] == element("UI", "1.2.840.10008.1.2.4.90")
    assert (answer["00280010"], answer["00200013"]) == (element("US", 2), element("IS", 4))
    assert not answer.keys() & {"00280011", "00281050", "00080060", "00201209"}
    (answer,) = index.search(Query(Level.INSTANCE, include_all=True))
    assert answer["00281050"] == element("DS", 40)
    assert answer["00100040"] == element("CS", "F")
    assert not answer.keys() & {"00281201", "00209999"}


def test_data_sets_are_read_only_where_they_are_asked_for(index: Index) -> None:
    """What is stored here is none: reading it would fail."""
    (change,) = study("1.1", PatientName="A", PatientID="7")
    assert change.document is not None
    change.document["instance_attributes"] = {"00280008": element("IS", 1), "00280010": element("US", 2)}
    index.write([replace(change, metadata=b"no data set")])
    matches = (Match("PatientID", ("7",)), Match("Modality", ("CT",)), Match("SOPClassUID", ("1.2",)))
    include = frozenset({"00100020", "00080060", "00080016", "00280008"})
    (answer,) = index.search(Query(Level.INSTANCE, matches=matches, include=include))
    assert (answer["00280010"], answer["00280008"]) == (element("US", 2), element("IS", 1))
    assert answer["00100020"] == element("LO", "7")
    with pytest.raises(zlib.error):
        index.search(Query(Level.INSTANCE, include=frozenset({"00281050"})))


def test_an_answer_ends_where_data_sets_take_too_much_memory(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so; nothing is lost to who goes on from there."""
    text = zlib.compress(json.dumps({"00281050": element("DS", 40)}).encode())
    fill(index, (replace(change, metadata=text) for change in study("1.1", series=[{}] * 7)))
    monkeypatch.setattr("gpu_render.archive.search.MOST_TEXT", 60)
    plain = index.search(Query(Level.INSTANCE))
    assert (len(plain), plain.cut) == (7, False)
    pages: list[str] = []
    for size, cut in ((2, True), (2, True), (2, True), (1, False), (0, False)):
        page = index.search(Query(Level.INSTANCE, include_all=True, offset=len(pages)))
        assert (len(page), page.cut) == (size, cut)
        pages += [answer["00080018"]["Value"][0] for answer in page]
    assert pages == [answer["00080018"]["Value"][0] for answer in plain]


def test_an_instance_whose_data_set_is_not_kept(index: Index) -> None:
    fill(index, study("1.1"))
    (answer,) = index.search(Query(Level.INSTANCE))
    assert [answer[tag]["Value"] for tag in ("00080016", "00280010", "00280011", "00280100")] == [
        ["1.2"],
        [2],
        [3],
        [16],
    ]


# --- instances and their data sets -----------------------------------------------------------------------------------


def test_instances_of_a_study_a_series_or_one(index: Index) -> None:
    fill(index, study("1.1", series=[{"SeriesNumber": 2}, {"SeriesNumber": 1}]), study("1.2"))
    assert [record.sop_instance_uid for record in index.instances("1.1", None, None)] == ["1.1.2.7", "1.1.1.7"]
    (record,) = index.instances("1.1", "1.1.1", "1.1.1.7")
    assert record == InstanceRecord(
        "1.1", "1.1.1", "1.1.1.7", "1.2", "1.2.840.10008.1.2.4.90", 4, 1, None, record.version, 10
    )
    for uids, missing in (
        (("1.9", None, None), "no study"),
        (("1.9", "1.1.1", "1.1.1.7"), "no study"),
        (("1.1", "1.2.1", None), "no series"),
        (("1.1", "1.1.2", "1.1.1.7"), "no SOP Instance"),
    ):
        with pytest.raises(NotFound, match=missing):
            index.instances(*uids)


def test_data_sets_come_in_order_and_only_as_they_were(index: Index) -> None:
    changes = [
        replace(change, metadata=b"" if n == 70 else b"%d" % n)
        for n, change in enumerate(study("1.1", series=[{}] * 150))
    ]
    index.write(changes)
    records = index.instances("1.1", None, None)
    assert [body for _, body in index.metadata(records)] == [b"" if n == 70 else b"%d" % n for n in range(150)]
    bodies = index.metadata(records)
    next(bodies)
    index.write([replace(changes[140], mtime_ns=21)])
    with pytest.raises(NotFound, match=f"{records[140].sop_instance_uid} has changed"):
        list(bodies)


# --- values --------------------------------------------------------------------------------------------------------


def test_words_and_dates_of_any_text() -> None:
    assert words("Ångström-Łoś^J.") == {"angstrom", "łos", "j"}
    assert (day("20040119"), day("2004.01.19"), day("20041319"), day("")) == ("20040119", "20040119", "", "")
    assert (clock("1030"), clock("1030", last=True), clock("24")) == ("103000.000000", "103059.999999", "")


HOSTILE = st.text(max_size=400)


@REUSED
@given(HOSTILE, HOSTILE, st.integers(-(1 << 80), 1 << 80))
def test_whatever_a_file_says_can_be_stored(index: Index, said: str, other: str, number: int) -> None:
    (change,) = study("1.1", series=[{"SeriesNumber": number}], ReferringPhysicianName=said, StudyID=other)
    assert change.document is not None
    change.document["error"] = ["NotRenderable", said]
    fill(index, iter([change, FileChange(FileKey(ROOT, b"x"), 1, 2, None, reason=other)]))
    assert found(index) == ["1.1"]
    assert len(index.unreadable()) == 1
