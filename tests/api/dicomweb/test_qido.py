"""Searches over pydicom's samples with the real service, against values that pydicom reads from the same files."""

import dataclasses
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from gpu_render.archive import Level

Results = list[dict[str, Any]]

# What OHIF reads (its DICOMweb data source), and what PS3.18 10.6.3.3 asks for besides.
OF_A_STUDY = (
    "0020000D 00080020 00080030 00080050 00100010 00100020 00100030 00201206 00201208 00081030 00080061 00080090"
)
OF_A_SERIES = "0020000E 00080060 00200011 00201209 0008103E"
OF_AN_INSTANCE = "00080018"
ALWAYS = "00080056 00081190"


@pytest.fixture(scope="module")
def held(client: TestClient, samples: Path) -> dict[str, Dataset]:
    """SOP Instance UID -> what pydicom reads, of every sample file that the service could read and that has UIDs."""
    unreadable = {entry["path"] for entry in client.get("/api/index").json()["unreadable"]}
    found: dict[str, Dataset] = {}
    for path in sorted(samples.rglob("*")):
        if path.is_file() and str(path.relative_to(samples)) not in unreadable:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
                ds.decode()
            if all(ds.get(name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
                found[str(ds.SOPInstanceUID)] = ds
    assert len(found) > 80
    return found


def search(client: TestClient, path: str, query: str = "") -> Results:
    answer = client.get(f"/dicomweb{path}{'?' if query else ''}{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    found: Results = answer.json()
    return found


def value(result: Mapping[str, Any], tag: str) -> Any:
    """The first value of an element, None where it has none."""
    return (result.get(tag, {}).get("Value") or [None])[0]


def uids(results: Results, tag: str) -> set[str]:
    found = [value(result, tag) for result in results]
    assert len(set(found)) == len(found)
    return set(found)


def text(ds: Dataset, keyword: str) -> str:
    """A value as DICOM writes it, without what pads it."""
    found = ds.get(keyword)
    values = found if isinstance(found, pydicom.multival.MultiValue) else [found]
    return "\\".join("" if one is None else str(one).strip().rstrip("^= ") for one in values)


# --- what is found ------------------------------------------------------------------------------------------


def test_everything_is_found_at_every_level(client: TestClient, held: dict[str, Dataset]) -> None:
    by_study, by_series = defaultdict(set), defaultdict(set)
    for uid, ds in held.items():
        by_study[str(ds.StudyInstanceUID)].add(str(ds.SeriesInstanceUID))
        by_series[str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)].add(uid)
    assert uids(search(client, "/instances"), "00080018") >= held.keys()
    assert uids(search(client, "/studies"), "0020000D") >= by_study.keys()
    for study, series in by_study.items():
        assert uids(search(client, f"/studies/{study}/series"), "0020000E") == series
        of_study = search(client, f"/studies/{study}/instances")
        assert uids(of_study, "00080018") == {uid for key, held in by_series.items() if key[0] == study for uid in held}
        assert {value(result, "0020000E") for result in of_study} == series
    for (study, series_uid), instances in by_series.items():
        assert uids(search(client, f"/studies/{study}/series/{series_uid}/instances"), "00080018") == instances


def test_values_are_those_of_the_files(client: TestClient, held: dict[str, Dataset]) -> None:
    results = {value(result, "00080018"): result for result in search(client, "/instances", "includefield=ImageType")}
    for uid, ds in held.items():
        result = results[uid]
        for keyword in (
            "SOPClassUID",
            "SOPInstanceUID",
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "Modality",
            "StudyDescription",
        ):
            tag = f"{tag_for_keyword(keyword):08X}"
            assert (value(result, tag) or "") == text(ds, keyword), keyword
        for keyword in ("InstanceNumber", "SeriesNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"):
            tag = f"{tag_for_keyword(keyword):08X}"
            assert value(result, tag) == ds.get(keyword), keyword
        image_type = text(ds, "ImageType").split("\\") if ds.get("ImageType") else []
        assert result.get("00080008", {}).get("Value", []) == [part or None for part in image_type]


def test_counts_are_those_of_the_files(client: TestClient, held: dict[str, Dataset]) -> None:
    groups: dict[str, list[Dataset]] = defaultdict(list)
    for ds in held.values():
        groups[str(ds.StudyInstanceUID)].append(ds)
    for result in search(client, "/studies"):
        group = groups.get(value(result, "0020000D"))
        if group is not None:
            assert value(result, "00201208") == len(group)
            assert value(result, "00201206") == len({ds.SeriesInstanceUID for ds in group})
            modalities = {text(ds, "Modality") for ds in group} - {""}
            assert result["00080061"].get("Value", []) == sorted(modalities)


def test_what_viewers_read_is_there(client: TestClient) -> None:
    for result in search(client, "/studies"):
        assert set(f"{OF_A_STUDY} {ALWAYS}".split()) <= result.keys()
        assert value(result, "00080056") == "ONLINE"
    for result in search(client, "/series"):
        assert set(f"{OF_A_STUDY} {OF_A_SERIES} {ALWAYS}".split()) - {"00201206"} <= result.keys()
    for study in search(client, "/studies"):
        for result in search(client, f"/studies/{value(study, '0020000D')}/series"):
            assert set(f"0020000D {OF_A_SERIES} {ALWAYS}".split()) <= result.keys()
    for result in search(client, "/instances"):
        assert set(f"0020000D 0020000E {OF_AN_INSTANCE} {ALWAYS}".split()) <= result.keys()


def test_results_read_as_data_sets(client: TestClient) -> None:
    """By pydicom's own reader of DICOM JSON, tags in order."""
    for path in ("/studies", "/series", "/instances?includefield=all"):
        for result in search(client, path):
            assert list(result) == sorted(result)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert len(Dataset.from_json(result)) == len(result)


def test_retrieve_urls_lead_to_what_was_found(client: TestClient) -> None:
    for path in ("/studies?limit=5", "/series?limit=5", "/instances?limit=5"):
        for result in search(client, path):
            url = value(result, "00081190")
            assert url.startswith("http://127.0.0.1/dicomweb/studies/")
            answer = client.get(f"{url}/metadata")
            assert answer.status_code == 200
            for tag in {"0020000D", "0020000E", "00080018"} & result.keys():
                assert value(answer.json()[0], tag) == value(result, tag)


# --- matching -----------------------------------------------------------------------------------------------

Matches = Callable[[Dataset], bool]


def _equals(keyword: str, wanted: str) -> Matches:
    return lambda ds: text(ds, keyword) == wanted


def _like(keyword: str, pattern: str, flags: int = 0) -> Matches:
    form = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return lambda ds: re.fullmatch(form, text(ds, keyword), flags | re.DOTALL) is not None


def _between(keyword: str, low: str, high: str) -> Matches:
    return lambda ds: bool(text(ds, keyword)) and low <= text(ds, keyword).replace(".", "")[:8] <= high


STUDY_LEVEL: list[tuple[str, Matches]] = [
    ("PatientID=1CT1", _equals("PatientID", "1CT1")),
    ("00100020=1CT1", _equals("PatientID", "1CT1")),
    ("PatientID=%31CT%31", _equals("PatientID", "1CT1")),
    ("PatientID=1ct1", _equals("PatientID", "1ct1")),
    ("PatientID=*CT*", _like("PatientID", "*CT*")),
    ("PatientID=?CT?", _like("PatientID", "?CT?")),
    ("PatientID=*", lambda ds: True),
    ("PatientID=", lambda ds: True),
    ("PatientName=CompressedSamples%5ECT1", _equals("PatientName", "CompressedSamples^CT1")),
    ("PatientName=compressedsamples^ct1", _equals("PatientName", "CompressedSamples^CT1")),
    ("PatientName=*samples*", _like("PatientName", "*samples*", re.IGNORECASE)),
    ("00100010=COMPRESSED*", _like("PatientName", "COMPRESSED*", re.IGNORECASE)),
    ("StudyDate=20040119", _between("StudyDate", "20040119", "20040119")),
    ("StudyDate=20040101-20041231", _between("StudyDate", "20040101", "20041231")),
    ("StudyDate=-20040119", _between("StudyDate", "00000000", "20040119")),
    ("StudyDate=20040119-", _between("StudyDate", "20040119", "99999999")),
    ("00080020=20040101-20041231", _between("StudyDate", "20040101", "20041231")),
    ("StudyDescription=e%2B1", _equals("StudyDescription", "e+1")),
    ("StudyDescription=*e*", _like("StudyDescription", "*e*")),
    ("AccessionNumber=1", _equals("AccessionNumber", "1")),
    ("StudyID=1CT1", _equals("StudyID", "1CT1")),
    ("PatientSex=O", _equals("PatientSex", "O")),
    (
        "StudyDate=20040101-20041231&PatientName=*ct*",
        lambda ds: (
            _between("StudyDate", "20040101", "20041231")(ds) and _like("PatientName", "*ct*", re.IGNORECASE)(ds)
        ),
    ),
]


@pytest.mark.parametrize(("query", "matches"), STUDY_LEVEL, ids=[query for query, _ in STUDY_LEVEL])
def test_studies_that_match(client: TestClient, held: dict[str, Dataset], query: str, matches: Matches) -> None:
    """Files of one study may differ: a study of which all match has to be found, one of which none does must not."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for ds in held.values():
        groups[str(ds.StudyInstanceUID)].append(matches(ds))
    found = uids(search(client, "/studies", query), "0020000D") & groups.keys()
    assert {uid for uid, group in groups.items() if all(group)} <= found
    assert found <= {uid for uid, group in groups.items() if any(group)}


SERIES_LEVEL: list[tuple[str, Matches]] = [
    ("Modality=CT", _equals("Modality", "CT")),
    ("00080060=CT", _equals("Modality", "CT")),
    ("Modality=CT,MR", lambda ds: text(ds, "Modality") in ("CT", "MR")),
    ("Modality=CT%5CMR", lambda ds: text(ds, "Modality") in ("CT", "MR")),
    ("Modality=CT&Modality=MR", lambda ds: text(ds, "Modality") in ("CT", "MR")),
    ("SeriesNumber=1", lambda ds: ds.get("SeriesNumber") == 1),
    ("SeriesDescription=*", lambda ds: True),
    ("BodyPartExamined=*HEAD*", _like("BodyPartExamined", "*HEAD*")),
    ("PatientID=*CT*&Modality=CT", lambda ds: "CT" in text(ds, "PatientID") and text(ds, "Modality") == "CT"),
]


@pytest.mark.parametrize(("query", "matches"), SERIES_LEVEL, ids=[query for query, _ in SERIES_LEVEL])
def test_series_that_match(client: TestClient, held: dict[str, Dataset], query: str, matches: Matches) -> None:
    groups: dict[str, list[bool]] = defaultdict(list)
    for ds in held.values():
        groups[str(ds.SeriesInstanceUID)].append(matches(ds))
    found = uids(search(client, "/series", query), "0020000E") & groups.keys()
    assert {uid for uid, group in groups.items() if all(group)} <= found
    assert found <= {uid for uid, group in groups.items() if any(group)}


INSTANCE_LEVEL: list[tuple[str, Matches]] = [
    ("SOPClassUID=1.2.840.10008.5.1.4.1.1.2", _equals("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ("00080016=1.2.840.10008.5.1.4.1.1.2", _equals("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ("InstanceNumber=1", lambda ds: ds.get("InstanceNumber") == 1),
    ("00200013=1&Modality=MR", lambda ds: ds.get("InstanceNumber") == 1 and text(ds, "Modality") == "MR"),
]


@pytest.mark.parametrize(("query", "matches"), INSTANCE_LEVEL, ids=[query for query, _ in INSTANCE_LEVEL])
def test_instances_that_match(client: TestClient, held: dict[str, Dataset], query: str, matches: Matches) -> None:
    found = uids(search(client, "/instances", query), "00080018") & held.keys()
    assert found == {uid for uid, ds in held.items() if matches(ds)}


def test_lists_of_uids_in_every_spelling(client: TestClient, held: dict[str, Dataset]) -> None:
    some = sorted({str(ds.StudyInstanceUID) for ds in held.values()})[:3]
    for query in (
        f"StudyInstanceUID={','.join(some)}",
        f"StudyInstanceUID={quote(','.join(some), safe='')}",
        f"StudyInstanceUID={quote(chr(92).join(some), safe='')}",
        f"0020000D={','.join(some)}",
        f"0020000d={','.join(some)}",
        "&".join(f"StudyInstanceUID={uid}" for uid in some),
        f"StudyInstanceUID={some[0]},{some[1]}&0020000D={some[2]}",
    ):
        assert uids(search(client, "/studies", query), "0020000D") == set(some)
    uid, ds = next(iter(held.items()))
    assert uids(search(client, "/instances", f"SOPInstanceUID={uid}"), "00080018") == {uid}
    assert uids(search(client, "/series", f"SeriesInstanceUID={ds.SeriesInstanceUID}"), "0020000E") == {
        str(ds.SeriesInstanceUID)
    }
    assert search(client, f"/studies/{ds.StudyInstanceUID}/series", "StudyInstanceUID=1.2.99") == []


def test_modalities_in_study(client: TestClient, held: dict[str, Dataset]) -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for ds in held.values():
        groups[str(ds.StudyInstanceUID)].add(text(ds, "Modality"))
    for query, wanted in (
        ("ModalitiesInStudy=CT", {"CT"}),
        ("00080061=CT", {"CT"}),
        ("ModalitiesInStudy=CT%2CMR", {"CT", "MR"}),
        ("ModalitiesInStudy=CT%5CMR", {"CT", "MR"}),
    ):
        found = uids(search(client, "/studies", query), "0020000D") & groups.keys()
        assert found == {uid for uid, modalities in groups.items() if modalities & wanted}


def test_names_of_other_alphabets_are_found_by_each_component_group(
    client: TestClient, held: dict[str, Dataset]
) -> None:
    tried = 0
    for ds in held.values():
        name = str(ds.get("PatientName", ""))
        if name.isascii():
            continue
        for part in {name, *name.split("=")} - {""}:
            query = f"PatientName={quote(part, safe='')}"
            assert str(ds.StudyInstanceUID) in uids(search(client, "/studies", query), "0020000D"), query
            tried += 1
    assert tried > 20


def test_fuzzy_matching_is_by_words(client: TestClient, held: dict[str, Dataset]) -> None:
    wanted = {str(ds.StudyInstanceUID) for ds in held.values() if text(ds, "PatientName") == "CompressedSamples^CT1"}
    for name in ("ct1 compressed", "CT1", "compressedsamples^ct1", "Compr%20Ct"):
        found = uids(search(client, "/studies", f"PatientName={name}&fuzzymatching=true"), "0020000D")
        assert wanted <= found
    assert not wanted & uids(search(client, "/studies", "PatientName=ct1 compressed&fuzzymatching=false"), "0020000D")


# --- what is in the answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "includefield=PatientWeight,Modality",
        "includefield=00101030",
        "includefield=00101030&includefield=00081030",
        "includeField=PatientWeight",
        "PatientWeight=",
        "includefield=all",
    ],
)
def test_attributes_that_are_asked_for(client: TestClient, held: dict[str, Dataset], query: str) -> None:
    weights = {str(ds.StudyInstanceUID): ds.get("PatientWeight") for ds in held.values()}
    found = search(client, "/studies", query)
    seen = [value(result, "00101030") for result in found if weights.get(value(result, "0020000D")) is not None]
    assert seen
    assert None not in seen
    assert not [result for result in search(client, "/studies") if "00101030" in result]
    assert not [result for result in found if {"00080018", "0020000E", "00280010"} & result.keys()]  # of other levels


def test_pages_until_an_empty_one(client: TestClient) -> None:
    for path in ("/studies", "/series", "/instances"):
        whole = search(client, path)
        pages: Results = []
        offset = 0
        while page := client.get(f"/dicomweb{path}?limit=7&offset={offset}"):
            results = page.json()
            more = offset + len(results) < len(whole)
            text = "299 http://127.0.0.1/dicomweb: There are additional results that can be requested"
            assert page.headers.get_list("warning") == ([text] if more else [])
            if not results:
                break
            pages += results
            offset += len(results)
        assert pages == whole
    assert search(client, "/studies", "limit=0") == []
    assert search(client, "/studies", "offset=999999999999999999") == []
    assert search(client, "/studies", "PatientID=there-is-none") == []
    assert search(client, "/studies/1.2.99/series") == []


def test_pages_of_whole_data_sets_end_by_their_length(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never without the warning, and all of them are reached by the offset."""
    monkeypatch.setattr("gpu_render.archive.search.MOST_TEXT", 20_000)
    expected = [value(found, "00080018") for found in search(client, "/instances")]
    found: list[str] = []
    sizes = []
    while len(found) < len(expected):
        answer = client.get(f"/dicomweb/instances?includefield=all&offset={len(found)}")
        page = [value(one, "00080018") for one in answer.json()]
        found += page
        sizes.append(len(page))
        assert ("additional results" in answer.headers.get("warning", "")) == (len(found) < len(expected))
    assert found == expected
    assert min(sizes) >= 1
    assert max(sizes) < len(expected) / 2


def test_what_is_answered_without_the_data_set_is_what_it_says(client: TestClient) -> None:
    whole = {value(found, "00080018"): found for found in search(client, "/instances", "includefield=all")}
    plain = {value(found, "00080018"): found for found in search(client, "/instances")}
    assert plain.keys() == whole.keys()
    for sop, found in plain.items():
        given = {tag: one for tag, one in found.items() if "Value" in one}
        assert given == {tag: whole[sop][tag] for tag in given}
        wanted = {"00080016", "00200013", "00280008", "00280010", "00280011", "00280100"}
        assert wanted & whole[sop].keys() <= found.keys()


def test_no_more_than_the_operator_allows(client: TestClient) -> None:
    state = client.app.state  # type: ignore[attr-defined]
    service = state.service
    few = service.settings.model_copy(update={"max_search_results": 5})
    state.service = dataclasses.replace(service, settings=few)
    try:
        for query in ("", "?limit=100"):
            answer = client.get(f"/dicomweb/instances{query}")
            assert len(answer.json()) == 5
            assert "additional results" in answer.headers["warning"]
        assert len(client.get("/dicomweb/instances?limit=3").json()) == 3
    finally:
        state.service = service


def test_what_is_ignored_is_named(client: TestClient) -> None:
    answer = client.get("/dicomweb/studies?limit=1000&PatinetID=X&Modality=CT&includefield=Nonsense,StudyDate&_=1")
    assert answer.headers.get_list("warning") == [
        "299 http://127.0.0.1/dicomweb: Not supported and ignored: Modality, Nonsense, PatinetID"
    ]
    assert len(answer.json()) == len(search(client, "/studies"))


# --- HTTP ---------------------------------------------------------------------------------------------------


def test_media_types(client: TestClient) -> None:
    for accept in (
        "application/dicom+json",
        "application/json",
        "application/dicom+json, application/json",
        "*/*",
        "application/*;q=0.1",
        'multipart/related; type="application/dicom+xml", application/dicom+json;q=0.5',
        "text/html,application/xhtml+xml,*/*;q=0.8",
    ):
        answer = client.get("/dicomweb/studies?limit=1", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    for accept in ('multipart/related; type="application/dicom+xml"', "application/dicom+xml", "image/png"):
        answer = client.get("/dicomweb/studies", headers={"Accept": accept})
        assert answer.status_code == 406
        assert "application/dicom+json" in answer.json()["detail"]
    plain = client.get("/dicomweb/studies?accept=application/dicom%2Bjson", headers={"Accept": "image/png"})
    assert plain.status_code == 200


def test_etags_and_gzip(client: TestClient) -> None:
    packed = client.get("/dicomweb/studies", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/dicomweb/studies", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert packed.headers["etag"] == plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]
    same = client.get("/dicomweb/studies", headers={"If-None-Match": plain.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    other = client.get("/dicomweb/studies?limit=1", headers={"If-None-Match": plain.headers["etag"]})
    assert other.status_code == 200
    head = client.head("/dicomweb/studies", headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.headers["etag"]) == (200, plain.headers["etag"])


def test_urls_have_the_root_path_and_the_scheme_that_the_client_used(client: TestClient) -> None:
    behind = TestClient(client.app, "https://pacs.example", root_path="/archive")
    result = behind.get("/archive/dicomweb/instances?limit=1").json()[0]
    url = value(result, "00081190")
    assert url.startswith("https://pacs.example/archive/dicomweb/studies/")
    metadata = behind.get(f"{url}/metadata").json()[0]
    links = re.findall(r'"BulkDataURI": ?"([^"]*)"', json.dumps(metadata))
    assert all(link.startswith("/archive/dicomweb/studies/") for link in links)


def test_a_host_that_is_none_is_not_repeated(client: TestClient) -> None:
    for host in (b"[", b"a b", b"x\xff", b"evil.example/path", b"a:b", b""):
        answer = client.get("/dicomweb/studies?limit=1", headers={b"Host": host})
        assert answer.status_code == 200
        assert value(answer.json()[0], "00081190").startswith("/dicomweb/studies/")


@pytest.mark.parametrize(
    "query",
    [
        "limit=Doe",
        "offset=-1",
        "fuzzymatching=Doe",
        "StudyDate=Doe",
        "StudyDate=2020-01-01",
        "StudyDate=20201301",
        "StudyTime=Doe",
        "StudyInstanceUID=Doe",
        "StudyInstanceUID=1.2*",
        "PatientName=Doe%00",
        "PatientName=Doe%FF",
        "PatientID=Doe&PatientID=Roe",
        "PatientID=" + "Doe" * 100,
        "ModalitiesInStudy=Doe",
    ],
)
def test_what_is_malformed_is_400_and_not_repeated(client: TestClient, query: str) -> None:
    answer = client.get(f"/dicomweb/studies?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert "Doe" not in answer.text + str(answer.headers)


def test_malformed_uids_in_paths(client: TestClient) -> None:
    for path in ("/studies/x/series", "/studies/1..2/instances", "/studies/1.2/series/x/instances"):
        assert client.get(f"/dicomweb{path}").status_code == 400


def test_other_methods_are_refused(client: TestClient) -> None:
    for path in ("/series", "/instances", "/studies/1.2/series", "/studies/1.2/metadata"):
        for method in ("PUT", "DELETE", "PATCH"):
            assert client.request(method, f"/dicomweb{path}").status_code == 405


PATHS = [
    "/studies",
    "/series",
    "/instances",
    "/studies/{s}/series",
    "/studies/{s}/instances",
    "/studies/{s}/series/{e}/instances",
]
_VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["*", "?", "", "20200101", "1-2", "-", "1.2", "1,2", "\\", '""', "%", "%%", "'", "_", "[", "1" * 70]
    ),
    st.text(alphabet="0123456789-.:*?\\,", max_size=30),
)


def _names(client: TestClient) -> list[str]:
    keywords = client.app.state.service.archive.searchable(Level.INSTANCE)  # type: ignore[attr-defined]
    own = ["limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "accept"]
    return [*sorted(keywords), *own, "00100020", "0020000d", "00400275.00400009"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_query_is_a_fault_of_the_service(client: TestClient, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(PATHS)).format(s=data.draw(st.sampled_from(["1.2", "x"])), e="1.3")
    names = st.one_of(st.sampled_from(_names(client)), st.text(max_size=10))
    pairs = data.draw(st.lists(st.tuples(names, _VALUES), max_size=5))
    query = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in pairs)
    answer = client.get(f"/dicomweb{path}?{query}")
    assert answer.status_code in (200, 400, 406), (path, query)


def test_the_document_lists_what_can_be_matched(client: TestClient) -> None:
    document = (Path(__file__).parents[3] / "docs" / "dicomweb.md").read_text("utf-8")
    archive = client.app.state.service.archive  # type: ignore[attr-defined]
    seen: set[str] = set()
    for level in Level:
        row = re.search(rf"^\| {level} \| (.*) \|$", document, re.MULTILINE)
        assert row is not None
        seen |= set(re.findall(r"`([^`]+)`", row[1]))
        assert seen == archive.searchable(level)
