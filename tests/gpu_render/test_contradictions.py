"""Files of one study or series that contradict each other: what is said of it is what the files that are left say."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gpu_render.archive import DicomJson, Level, Match, Query
from gpu_render.archive.index import FileChange, FileKey, Index
from gpu_render.archive.tables import said, term
from tests.gpu_render.test_index import ROOT, document
from tests.gpu_render.test_search import COLUMNS, element, name

Opener = Callable[..., Index]
REUSED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def index(open_index: Opener) -> Index:
    opened = open_index()
    opened.set_roots([ROOT])
    return opened


def file_of(path: str, patient: str, number: str, *, series: str = "1.1.1", **more: Any) -> FileChange:
    """Of the one study, with an instance that is called like its file. ``more``: modality, issuer, step."""
    made = document(f"1.7.{path.replace('/', '.')}", series=series)
    made["study"] = dict.fromkeys(COLUMNS, "") | {"PatientName": patient, "PatientID": number}
    made["study_attributes"] = {"00100010": name(patient), "00100020": element("LO", number)}
    if "issuer" in more:
        made["study_attributes"]["00100021"] = element("LO", more["issuer"])
    made["series"] = {**made["series"], "Modality": more.get("modality", "CT")}
    if "step" in more:
        item = {"00400009": element("SH", more["step"])}
        made["series_attributes"] = {"00400275": element("SQ", item)}
    return FileChange(FileKey(ROOT, path.encode()), 10, 20, made)


ALICE, BOB = file_of("1", "Alice^A", "A1"), file_of("2", "Bob^B", "B2")


def answers(index: Index, level: Level = Level.STUDY, /, **wanted: str) -> list[DicomJson]:
    matches = tuple(Match(key.replace("__", "."), (value,)) for key, value in wanted.items())
    return index.search(Query(level, matches=matches, include_all=True))


def patients(index: Index, **wanted: str) -> list[tuple[str, str]]:
    """(name, id) of each study that is found."""
    found = answers(index, Level.STUDY, **wanted)
    return [(a["00100010"]["Value"][0]["Alphabetic"], a["00100020"]["Value"][0]) for a in found]


def test_a_file_that_goes_takes_its_patient_with_it(index: Index) -> None:
    index.write([ALICE])
    index.write([BOB])
    assert patients(index) == [("Bob^B", "B2")]
    index.remove([BOB.key])
    assert patients(index) == [("Alice^A", "A1")]
    assert [study.attributes.patient_name for study in index.studies()] == ["Alice^A"]
    for wanted in ({"PatientName": "Alice*"}, {"PatientID": "A1"}):
        assert patients(index, **wanted) == [("Alice^A", "A1")]
    for wanted in ({"PatientName": "Bob*"}, {"PatientID": "B2"}):
        assert patients(index, **wanted) == []


def test_a_file_that_is_replaced_takes_its_patient_with_it(index: Index) -> None:
    index.write([ALICE, BOB])
    index.write([file_of("2", "Alice^A", "A1")])
    assert patients(index) == [("Alice^A", "A1")]
    assert patients(index, PatientID="B2") == []


def test_a_folder_that_goes_takes_its_patient_with_it(index: Index) -> None:
    index.write([ALICE, file_of("x/2", "Bob^B", "B2")])
    folder = index.held_folder(FileKey(ROOT, b"x")).id
    assert folder is not None
    index.remove_folders([folder])
    assert patients(index) == [("Alice^A", "A1")]


def test_the_last_file_by_its_path_is_believed_whenever_it_came(index: Index) -> None:
    index.write([BOB])
    index.write([ALICE])
    assert patients(index) == [("Bob^B", "B2")]


def test_either_patient_finds_the_study(index: Index) -> None:
    index.write([file_of("1", "Alice^A", "A1", issuer="X"), file_of("2", "Bob^B", "B2", issuer="Y")])
    wanted = [{"PatientName": "alice*"}, {"PatientName": "Bob^B"}, {"PatientID": "A1"}, {"PatientID": "B*"}]
    for keys in (*wanted, {"IssuerOfPatientID": "X"}, {"IssuerOfPatientID": "Y"}):
        assert patients(index, **keys) == [("Bob^B", "B2")], keys
    assert patients(index, PatientID="C3") == []
    assert index.patients("1.1") == {("Alice^A", "A1", "X"), ("Bob^B", "B2", "Y")}
    assert index.patients("1.2") == set()


def test_an_instance_is_answered_with_its_own_patient(index: Index) -> None:
    index.write([file_of("1", "Alice^A", "A1", modality="CT"), file_of("2", "Bob^B", "B2", modality="MR")])
    found = answers(index, Level.INSTANCE)
    assert [(a["00080018"]["Value"], a["00100020"]["Value"], a["00080060"]["Value"]) for a in found] == [
        (["1.7.1"], ["A1"], ["CT"]),
        (["1.7.2"], ["B2"], ["MR"]),
    ]
    assert all(a["0020000D"]["Value"] == ["1.1"] and a["0020000E"]["Value"] == ["1.1.1"] for a in found)


def test_a_series_says_what_is_left(index: Index) -> None:
    index.write([file_of("1", "A", "1", modality="CT", step="S1"), file_of("2", "A", "1", modality="MR", step="S2")])
    key = "RequestAttributesSequence__ScheduledProcedureStepID"
    assert [a["00080060"]["Value"] for a in answers(index, Level.SERIES)] == [["MR"]]
    assert len(answers(index, Level.SERIES, **{key: "S1"})) == len(answers(index, Level.SERIES, **{key: "S2"})) == 1
    index.remove([FileKey(ROOT, b"2")])
    assert [a["00080060"]["Value"] for a in answers(index, Level.SERIES)] == [["CT"]]
    assert [len(answers(index, Level.SERIES, **{key: step})) for step in ("S1", "S2")] == [1, 0]


def test_what_is_said_of_a_study_is_a_change(index: Index) -> None:
    """Of its other series, too: lists of frames name the patient."""
    index.write([ALICE])
    before = index.generation()
    index.write([file_of("2", "Alice^A", "A1", series="1.1.2")])
    assert index.generation() == before
    index.write([file_of("3", "Bob^B", "B2", series="1.1.2")])
    assert index.generation() > before


def test_nothing_is_left_of_what_is_gone(index: Index) -> None:
    index.write([ALICE, BOB])
    index.remove([ALICE.key, BOB.key])
    with index._db.reader() as db:
        assert [db.execute(select(func.count()).select_from(table)).scalar_one() for table in (said, term)] == [0, 0]


PATHS = st.sampled_from(["1", "2", "3", "a/1", "a/2", "a.", "b"])
FILES = st.builds(
    file_of,
    PATHS,
    st.sampled_from(["Alice^A", "Bob^B", "Carol^C"]),
    st.sampled_from(["A1", "B2"]),
    series=st.sampled_from(["1.1.1", "1.1.2"]),
    modality=st.sampled_from(["CT", "MR"]),
)


@REUSED
@given(st.lists(st.one_of(st.lists(FILES, min_size=1, max_size=3), PATHS), max_size=8))
def test_any_history_ends_like_a_fresh_scan(index: Index, history: list[list[FileChange] | str]) -> None:
    """Writes of several files at once, and removals of one."""
    index.set_roots([])
    index.set_roots([ROOT])
    held: dict[FileKey, FileChange] = {}
    for step in history:
        if isinstance(step, str):
            held.pop(FileKey(ROOT, step.encode()), None)
            index.remove([FileKey(ROOT, step.encode())])
        else:
            held |= {change.key: change for change in step}
            index.write(step)

    def seen() -> Any:
        found = [answers(index, level) for level in Level]
        keys = [{"PatientName": f"{name}*"} for name in ("Alice", "Bob", "Carol")]
        return found, [patients(index, **key) for key in (*keys, {"PatientID": "A1"}, {"PatientID": "B2"})]

    after = seen()
    index.set_roots([])
    index.set_roots([ROOT])
    index.write(sorted(held.values(), key=lambda change: change.key.path))
    assert after == seen()
