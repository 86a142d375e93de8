"""How the query component of a search is read: every spelling that clients use, and what is refused or ignored."""

import contextlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.qido import Asked, attribute_path, complete, dotted_keyword, make_query, warnings
from gpu_render.archive import Level, Match, Query
from gpu_render.errors import BadRequest

SEARCHABLE = frozenset(
    {
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "StudyDate",
        "ModalitiesInStudy",
        "SeriesNumber",
        "StudyDescription",
        "RequestAttributesSequence.ScheduledProcedureStepID",
    }
)
SERVICE = "http://127.0.0.1:8000/dicomweb"


def asked(query: str) -> Asked:
    found = Asked(SEARCHABLE)
    found.read(query.encode())
    return found


def matches(query: str) -> dict[str, tuple[str, ...]]:
    return {match.keyword: match.values for match in asked(query).matches()}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("PatientID=A%201", {"PatientID": ("A 1",)}),
        ("PatientID=A+1", {"PatientID": ("A 1",)}),
        ("00100020=A1", {"PatientID": ("A1",)}),
        ("PatientID=A1&00100020=A1", {"PatientID": ("A1",)}),
        ("PatientName=*Doe%5EJ%3F*", {"PatientName": ("*Doe^J?*",)}),
        ("PatientName=Doe, Jane", {"PatientName": ("Doe, Jane",)}),
        ("PatientName=%E5%B1%B1%E7%94%B0", {"PatientName": ("山田",)}),
        ("PatientName=", {}),
        ("PatientName=*", {}),
        ("PatientName=%20", {}),
        ("PatientName", {}),
        ("StudyDate=20200101-20201231", {"StudyDate": ("20200101-20201231",)}),
        ("StudyDate=-20201231&StudyInstanceUID=1.2", {"StudyDate": ("-20201231",), "StudyInstanceUID": ("1.2",)}),
        ("StudyInstanceUID=1.2,1.3", {"StudyInstanceUID": ("1.2", "1.3")}),
        ("StudyInstanceUID=1.2%5C1.3", {"StudyInstanceUID": ("1.2", "1.3")}),
        ("StudyInstanceUID=1.2\\1.3,1.4", {"StudyInstanceUID": ("1.2", "1.3", "1.4")}),
        ("StudyInstanceUID=1.2&StudyInstanceUID=1.3&0020000d=1.2", {"StudyInstanceUID": ("1.2", "1.3")}),
        ("StudyInstanceUID=1.2,,", {"StudyInstanceUID": ("1.2",)}),
        ("ModalitiesInStudy=CT%2CMR", {"ModalitiesInStudy": ("CT", "MR")}),
        ("ModalitiesInStudy=CT&ModalitiesInStudy=MR", {"ModalitiesInStudy": ("CT", "MR")}),
        ("SeriesNumber=1,2", {"SeriesNumber": ("1", "2")}),
        ("StudyDescription=a%5Cb", {"StudyDescription": ("a", "b")}),
        (
            "RequestAttributesSequence.ScheduledProcedureStepID=S1",
            {"RequestAttributesSequence.ScheduledProcedureStepID": ("S1",)},
        ),
        ("00400275.00400009=S1", {"RequestAttributesSequence.ScheduledProcedureStepID": ("S1",)}),
        ("limit=5&offset=10&fuzzymatching=true&includefield=all&accept=application/json", {}),
        ("", {}),
        ("&&", {}),
    ],
)
def test_matching_keys(query: str, found: dict[str, tuple[str, ...]]) -> None:
    assert matches(query) == found


@pytest.mark.parametrize(
    ("query", "included"),
    [
        ("includefield=00081030,00080060", {"00081030", "00080060"}),
        ("includefield=StudyDescription,Modality", {"00081030", "00080060"}),
        ("includefield=StudyDescription&includefield=0020000e", {"00081030", "0020000E"}),
        ("includeField=StudyDescription", {"00081030"}),
        ("includefield=StudyDescription%2CModality", {"00081030", "00080060"}),
        ("includefield=00400275.00400009", {"00400275"}),
        ("includefield=RequestAttributesSequence.ScheduledProcedureStepID", {"00400275"}),
        ("includefield=00091001", {"00091001"}),
        ("includefield=", set()),
        ("includefield=, ,", set()),
        ("PatientName=*x*&00100020=", {"00100010", "00100020"}),
        ("PatientBirthDate=", {"00100030"}),
    ],
)
def test_what_the_answer_has_to_hold(query: str, included: set[str]) -> None:
    found = asked(query)
    assert (found.include, found.include_all, found.ignored) == (included, False, [])


def test_all_fields() -> None:
    for query in ("includefield=all", "includefield=ALL", "includefield=Modality,all"):
        assert asked(query).include_all


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=1.5",
        "limit=x",
        "limit=%D9%A1",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "offset=-1",
        "offset=0x1",
        "fuzzymatching=perhaps",
        "fuzzymatching=1",
        "StudyInstanceUID=1.2*",
        "StudyInstanceUID=1.2,Doe",
        "StudyInstanceUID=" + "1" * 65,
        "PatientName=Doe&PatientName=Roe",
        "StudyInstanceUID=" + ",".join(f"1.{n}" for n in range(501)),
        "ModalitiesInStudy=" + ",".join(f"M{n}" for n in range(51)),
        "PatientName=%00",
        "PatientName=a%0Ab",
        "PatientName=%FF",
        "PatientName=%C3",
    ],
)
def test_what_is_malformed_is_refused_without_being_repeated(query: str) -> None:
    with pytest.raises(BadRequest) as error:
        asked(query)
    assert "Doe" not in str(error.value)


def test_empty_control_parameters_count_as_absent() -> None:
    found = asked("limit=&offset=&fuzzymatching=&includefield=&PatientID=")
    assert make_query(found, Level.STUDY, None, None, 100).limit == 101


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [("", 101, 0), ("limit=10", 11, 0), ("limit=0", 1, 0), ("limit=1000&offset=7", 101, 7), ("limit=5&limit=5", 6, 0)],
)
def test_pages(query: str, limit: int, offset: int) -> None:
    """One more than may be answered is asked for: it tells whether there are more."""
    found = make_query(asked(query), Level.SERIES, "1.2", None, 100)
    assert (found.limit, found.offset, found.study_uid, found.level) == (limit, offset, "1.2", Level.SERIES)


def test_a_query_has_everything() -> None:
    query = "PatientName=x&includefield=Modality&fuzzymatching=TRUE&offset=3"
    assert make_query(asked(query), Level.INSTANCE, "1.2", "1.3", 9) == Query(
        level=Level.INSTANCE,
        study_uid="1.2",
        series_uid="1.3",
        matches=(Match("PatientName", ("x",)),),
        include=frozenset({"00100010", "00080060"}),
        fuzzy=True,
        limit=10,
        offset=3,
    )


def test_warnings_name_parameters_and_never_values() -> None:
    found = asked("Modality=CT&PatinetID=X9&Doe%5EJane=1&includefield=Nonsense&emptyvaluematching=true&limit=3")
    texts = warnings(found, more=True, service=SERVICE)
    assert texts == [
        f"299 {SERVICE}: There are additional results that can be requested",
        f"299 {SERVICE}: The emptyvaluematching parameter is not supported. "
        "Empty Value Matching has not been performed.",
        f"299 {SERVICE}: Not supported and ignored: Modality, Nonsense, PatinetID",
    ]
    assert warnings(asked("PatientID=1&Modality="), more=False, service=SERVICE) == []
    assert warnings(asked("Doe%5EJane="), more=False, service=SERVICE)[0].endswith("whose names are none")


def test_attributes_by_their_names() -> None:
    assert attribute_path("0020000d") == attribute_path("StudyInstanceUID") == (0x0020000D,)
    assert attribute_path("00400275.00400009") == (0x00400275, 0x00400009)
    for text in (
        "",
        ".",
        "PatientName.",
        "0010,0010",
        "(0010,0010)",
        "patientname",
        "0010001",
        "١٢٣٤٥٦٧٨",
        "00100010 ",
    ):
        assert attribute_path(text) is None
    assert dotted_keyword((0x00400275, 0x00400009)) == "RequestAttributesSequence.ScheduledProcedureStepID"
    assert dotted_keyword((0x00091001,)) == ""


def test_results_say_where_they_are_retrieved() -> None:
    def url(level: Level, result: dict[str, Any]) -> str:
        found = complete(result, Query(level, study_uid="1.2", series_uid="1.3"), SERVICE)
        assert list(found) == sorted(found)
        assert found["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
        assert found["00081190"]["vr"] == "UR"
        return str(found["00081190"]["Value"][0])

    assert url(Level.STUDY, {"0020000D": {"vr": "UI", "Value": ["1.9"]}}) == f"{SERVICE}/studies/1.9"
    assert url(Level.SERIES, {"0020000E": {"vr": "UI", "Value": ["1.8"]}}) == f"{SERVICE}/studies/1.2/series/1.8"
    instance = {"00080018": {"vr": "UI", "Value": ["1.7"]}}
    assert url(Level.INSTANCE, instance) == f"{SERVICE}/studies/1.2/series/1.3/instances/1.7"


_NAMES = st.one_of(
    st.sampled_from([*sorted(SEARCHABLE), "limit", "offset", "includefield", "fuzzymatching", "accept", "00100020"]),
    st.text(max_size=12),
)


@given(st.lists(st.tuples(_NAMES, st.text(max_size=20)), max_size=6))
def test_any_query_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    try:
        found = asked(query)
    except BadRequest:
        return
    make_query(found, Level.STUDY, None, None, 100)
    for text in warnings(found, more=True, service=SERVICE):
        text.encode("latin-1")


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(query: bytes) -> None:
    with contextlib.suppress(BadRequest):
        Asked(SEARCHABLE).read(query)
