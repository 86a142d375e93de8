"""/api/benchmarks over the real app: results of every origin, and the service's test of itself."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from api.app import create_app
from api.benchmarks import Results, SelfTest
from benchmarks import record
from gpu_render import selftest
from gpu_render.decode import decode
from gpu_render.errors import Overloaded
from gpu_render.phantom import stored_slice
from gpu_render.phantom_frames import ENCODERS, SLICE
from gpu_render.selftest import NAMES, Timed
from gpu_render.settings import Settings
from gpu_render.workers import WorkerPool

TOKEN = "a-token-of-the-operator-0123456789"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
COMMITTED = sorted(path.stem for path in record.RESULTS.glob("*.json") if path != record.SCHEMA)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local") / "results"


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, local: Path) -> Iterator[TestClient]:
    """A service whose operator has set a token and a folder."""
    settings = Settings(
        roots=(tmp_path_factory.mktemp("nothing"),),
        backend="cpu",
        workers=1,
        self_test_token=TOKEN,
        benchmark_results=local,
    )
    with TestClient(create_app(settings), "http://127.0.0.1") as running:
        yield running


def names(client: TestClient, **query: str) -> list[str]:
    return [one["name"] for one in client.get("/api/benchmarks", params=query).json()["results"]]


# --- what was measured ---------------------------------------------------------------------------------------


def test_committed_results_are_answered_as_they_were_written(client: TestClient) -> None:
    answer = client.get("/api/benchmarks")
    assert answer.headers["content-type"] == "application/json"
    document = Results.model_validate_json(answer.text)
    assert COMMITTED
    assert sorted(one.name for one in document.results) == COMMITTED
    assert document.unreadable == {}
    for one in document.results:
        assert one.source == "release"
        assert one.machine == one.run.machine.slug
        assert one.run == record.read(record.RESULTS / f"{one.name}.json")
    dates = [one.run.date for one in document.results]
    assert dates == sorted(dates)


def test_an_etag_spares_the_second_answer_and_gzip_most_of_the_first(client: TestClient) -> None:
    plain = client.get("/api/benchmarks", headers={"Accept-Encoding": "identity"})
    packed = client.get("/api/benchmarks", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    same = client.get("/api/benchmarks", headers={"If-None-Match": plain.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


def test_results_are_chosen_by_benchmark_machine_and_age(client: TestClient) -> None:
    everything = client.get("/api/benchmarks").json()["results"]
    for benchmark in {one["run"]["benchmark"] for one in everything}:
        expected = [one["name"] for one in everything if one["run"]["benchmark"] == benchmark]
        assert names(client, benchmark=benchmark) == expected
    for machine in {one["machine"] for one in everything}:
        assert names(client, machine=machine) == [one["name"] for one in everything if one["machine"] == machine]
    newest: dict[tuple[str, str], str] = {}
    for one in everything:
        newest[one["run"]["benchmark"], one["machine"]] = one["name"]
    assert sorted(names(client, latest="true")) == sorted(newest.values())
    assert names(client, benchmark="no such") == []
    assert client.get("/api/benchmarks", params={"latest": "perhaps"}).status_code == 400


def test_the_schema_describes_every_member(client: TestClient) -> None:
    answer = client.get("/api/benchmarks/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    schema = answer.json()
    assert schema["$schema"].endswith("2020-12/schema")
    document = client.get("/api/benchmarks").json()
    check(document, schema, schema["$defs"])


def check(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """What pydantic's schemas use of JSON Schema; anything else in one fails."""
    if "$ref" in schema:
        check(value, definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    elif "anyOf" in schema:
        assert any(fits(value, option, definitions) for option in schema["anyOf"])
    elif "enum" in schema:
        assert value in schema["enum"]
    elif schema["type"] == "object":
        assert isinstance(value, dict)
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", False)
        assert set(schema.get("required", ())) <= set(value)
        for name, member in value.items():
            assert name in properties or more, name
            check(member, properties.get(name, more), definitions)
    elif schema["type"] == "array":
        assert isinstance(value, list)
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        assert len(items) == len(value)
        for member, item in zip(value, items, strict=True):
            check(member, item, definitions)
    else:
        types: dict[str, tuple[type, ...]] = {
            "string": (str,), "number": (int, float), "integer": (int,), "null": (type(None),)
        }  # fmt: skip
        assert isinstance(value, types[schema["type"]])


def fits(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    try:
        check(value, schema, definitions)
    except AssertionError:
        return False
    return True


def test_the_folder_of_the_operator_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    settings = Settings(roots=(tmp_path,), backend="cpu", workers=1, benchmark_results=tmp_path / "mine")
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        assert sorted(names(client)) == COMMITTED
        (tmp_path / "mine").mkdir()
        shutil.copyfile(record.RESULTS / f"{COMMITTED[0]}.json", tmp_path / "mine" / "copy.json")
        (tmp_path / "mine" / "broken.json").write_text('{"benchmark": "slice"}')
        document = client.get("/api/benchmarks").json()
    assert sorted(one["name"] for one in document["results"]) == sorted([*COMMITTED, "copy"])
    assert [one["source"] for one in document["results"] if one["name"] == "copy"] == ["local"]
    assert list(document["unreadable"]) == ["broken.json"]
    assert str(tmp_path) not in json.dumps(document)


def test_an_installation_without_results_answers_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "absent")
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        assert client.get("/api/benchmarks").json() == {"results": [], "unreadable": {}}


# --- who may let the service measure itself ------------------------------------------------------------------


def test_a_self_test_is_off_by_default(client: TestClient) -> None:
    for headers in ({}, SHOWN, {"Authorization": "Bearer "}):
        answer = client.post("/api/benchmarks", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:gpu-render:problem:forbidden")


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN} x",
     "Bearer \u00e4"],
)  # fmt: skip
def test_without_the_token_nothing_is_measured(tested: TestClient, authorization: str) -> None:
    answer = tested.post("/api/benchmarks", headers={b"Authorization": authorization.encode("latin-1")})
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:gpu-render:problem:unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters", "with a space, sixteen", "sixteen-and-\u00e4-more"])
def test_a_token_that_can_be_guessed_or_sent_by_nobody_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="16 characters"):
        Settings(self_test_token=token)


def test_the_token_is_not_shown_by_settings_but_reaches_worker_processes() -> None:
    settings = Settings(self_test_token=TOKEN)
    assert TOKEN not in repr(settings)
    assert Settings(**settings.model_dump(mode="json")).self_test_token == TOKEN


# --- what is measured ----------------------------------------------------------------------------------------


def test_the_service_measures_itself(tested: TestClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "ROUNDS", 2)
    assert "self_test" not in tested.get("/metrics").text
    answer = tested.post("/api/benchmarks", headers=SHOWN)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    done = SelfTest.model_validate_json(answer.text)
    run = done.result.run
    assert (run.benchmark, run.backend, done.result.source) == ("self-test", "cpu", "local")
    pictures = {one.group: one for one in run.measurements if one.name == "picture"}
    assert list(pictures) == list(NAMES.values())
    assert done.slowest_ms == max(one.summary.max for one in pictures.values())
    for one in run.measurements:
        assert (one.unit, one.summary.n, len(one.samples)) == ("ms", 2, 2)
        assert 0 < one.summary.min <= one.summary.median <= one.summary.max
        assert one.parameters == {"rows": 512, "columns": 512}
    assert [path.stem for path in local.glob("*.json")] == [done.result.name]
    assert names(tested, benchmark="self-test") == [done.result.name]
    families = {family.name: family for family in text_string_to_metric_families(tested.get("/metrics").text)}
    assert families["gpu_render_self_test_slowest_seconds"].samples[0].value == done.slowest_ms / 1e3
    medians = families["gpu_render_self_test_median_seconds"].samples
    assert {s.labels["transfer_syntax"]: s.value for s in medians} == {
        name: one.summary.median / 1e3 for name, one in pictures.items()
    }


def test_without_a_folder_the_last_one_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "ROUNDS", 1)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for folder in (None, blocked / "below"):
        settings = Settings(
            roots=(tmp_path,), backend="cpu", workers=1, self_test_token=TOKEN, benchmark_results=folder
        )
        with TestClient(create_app(settings), "http://127.0.0.1") as client:
            done = client.post("/api/benchmarks", headers=SHOWN).json()
            (found,) = client.get("/api/benchmarks", params={"benchmark": "self-test"}).json()["results"]
        assert found == done["result"]
        assert found["source"] == "memory"


def test_one_at_a_time(tested: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Event(), threading.Event()

    async def wait(*_: object) -> dict[str, Timed]:
        begun.set()
        await asyncio.to_thread(release.wait, 30)
        raise Overloaded("this test has seen enough")

    monkeypatch.setattr(selftest, "measure", wait)
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(tested.post("/api/benchmarks", headers=SHOWN).status_code))
    first.start()
    try:
        assert begun.wait(30)
        second = tested.post("/api/benchmarks", headers=SHOWN)
        assert (second.status_code, second.json()["type"]) == (409, "urn:gpu-render:problem:self-test-running")
        assert tested.get("/health/live").status_code == 200
    finally:
        release.set()
        first.join()
    assert answers == [503]
    third = tested.post("/api/benchmarks", headers=SHOWN)
    assert third.status_code == 503, "the one that failed does not count as running any more"


def test_six_transfer_syntaxes_hold_the_same_voxels() -> None:
    pool = WorkerPool(1)
    try:
        frames = selftest.phantom_frames(pool)
        assert list(frames) == list(NAMES) == [str(uid) for uid in ENCODERS]
        for frame in frames.values():
            decoded = decode(frame, pool)
            assert isinstance(decoded.samples, np.ndarray)
            np.testing.assert_array_equal(decoded.samples, stored_slice(SLICE))
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("seconds", "status"), [(0.001, "ok"), (1.999, "ok"), (2.0, "slow"), (4.999, "slow"), (5.0, "alarm"), (60, "alarm")]
)
def test_levels(seconds: float, status: str) -> None:
    assert selftest.status_of(seconds) == status
