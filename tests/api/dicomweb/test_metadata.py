"""Metadata of pydicom's samples with the real service: whole, of the right instances, and from the index alone."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan

Results = list[dict[str, Any]]
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


def found(client: TestClient, path: str) -> Results:
    answer = client.get(f"/dicomweb{path}")
    assert answer.status_code == 200, answer.text
    results: Results = answer.json()
    return results


def uid(result: dict[str, Any], tag: str) -> str:
    return str(result[tag]["Value"][0])


def instances(client: TestClient) -> list[tuple[str, str, str]]:
    results = found(client, "/instances")
    return [(uid(result, STUDY), uid(result, SERIES), uid(result, INSTANCE)) for result in results]


def test_every_level_has_what_the_level_below_has(client: TestClient) -> None:
    """Some samples have no UIDs: they are told by those that were made up, as in URLs."""
    by_instance: dict[tuple[str, ...], Results] = {}
    for study, series, instance in instances(client):
        one = found(client, f"/studies/{study}/series/{series}/instances/{instance}/metadata")
        assert len(one) == 1
        assert [uid(one[0], tag) for tag in (STUDY, SERIES, INSTANCE)] == [study, series, instance]
        assert list(one[0]) == sorted(one[0])
        keys: list[tuple[str, ...]] = [(study,), (study, series)]
        for key in keys:
            by_instance.setdefault(key, []).extend(one)
    for key, expected in by_instance.items():
        path = f"/studies/{key[0]}" + (f"/series/{key[1]}" if len(key) > 1 else "")
        assert found(client, f"{path}/metadata") == expected  # in the order of a search, too


def test_a_search_and_the_metadata_agree(client: TestClient) -> None:
    results = {uid(result, INSTANCE): result for result in found(client, "/instances?includefield=all")}
    for study, series, instance in instances(client)[:20]:
        (whole,) = found(client, f"/studies/{study}/series/{series}/instances/{instance}/metadata")
        shared = whole.keys() & results[instance].keys() - {"00083002", "00080056", "00081190"}
        assert len(shared) >= 10
        assert {tag: whole[tag] for tag in shared} == {tag: results[instance][tag] for tag in shared}


def test_bulk_data_is_never_relative_and_leads_somewhere(client: TestClient) -> None:
    links = []
    for study in found(client, "/studies"):
        text = client.get(f"/dicomweb/studies/{uid(study, STUDY)}/metadata").text
        assert '"BulkDataURI":"bulkdata' not in text
        links += re.findall(r'"BulkDataURI":"([^"]*)"', text)
    assert len(links) > 50
    for link in links:
        assert re.fullmatch(r"/dicomweb/studies/[\d.]+/series/[\d.]+/instances/[\d.]+/bulkdata/[0-9A-F/]+", link)
    others = [link for link in links if not link.endswith(("/7FE00010", "/7FE00008", "/7FE00009"))]
    assert others
    for link in others[:: len(others) // 10 or 1]:
        assert client.get(link).status_code == 200


def test_no_file_is_opened(samples: Path, tmp_path: Path) -> None:
    """The files have gone since the scan: metadata and searches answer as before, 304 too."""
    folder = tmp_path / "files"
    shutil.copytree(samples, folder)
    settings = Settings(roots=(folder,), backend="cpu", workers=2)
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        wait_for_scan(client)
        paths = [f"/dicomweb/studies/{uid(result, STUDY)}/metadata" for result in found(client, "/studies")]
        before = [client.get(path) for path in paths]
        shutil.rmtree(folder)
        for path, answer in zip(paths, before, strict=True):
            again = client.get(path)
            assert (again.status_code, again.content) == (200, answer.content)
            same = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (same.status_code, same.content) == (304, b"")


def test_etags_change_with_the_files_and_with_what_there_is(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copyfile(samples / "test_files" / "CT_small.dcm", folder / "a.dcm")
    settings = Settings(roots=(folder,), index_path=tmp_path / "index.sqlite", backend="cpu", workers=1)
    tags = []
    for changed in (False, False, True):
        if changed:
            (folder / "a.dcm").touch()
        with TestClient(create_app(settings), "http://127.0.0.1") as client:
            wait_for_scan(client)
            ((study, series, _),) = instances(client)
            answer = client.get(f"/dicomweb/studies/{study}/series/{series}/metadata")
            tags.append(answer.headers["etag"])
            assert answer.headers["etag"].startswith('W/"')
    assert tags[0] == tags[1] != tags[2]


def test_errors_are_problems_without_values(client: TestClient) -> None:
    study, series, instance = instances(client)[0]
    for path, status in (
        ("/studies/1.2.99/metadata", 404),
        (f"/studies/{study}/series/1.2.99/metadata", 404),
        (f"/studies/{study}/series/{series}/instances/1.2.99/metadata", 404),
        (f"/studies/1.2.99/series/{series}/instances/{instance}/metadata", 404),
        ("/studies/Doe/metadata", 400),
        (f"/studies/{study}/series/{series}/instances/Doe/metadata", 400),
    ):
        answer = client.get(f"/dicomweb{path}", headers={"If-None-Match": "*"})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert "Doe" not in json.dumps({key: text for key, text in answer.json().items() if key != "instance"})
