"""What pages of other sites may ask and read: preflights, answers and errors, of one process and through the front."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from api.app import create_app
from api.cors import EXPOSED_HEADERS, REQUEST_HEADERS, CrossOrigin
from api.front import create_front
from api.supervisor import Supervisor
from gpu_render.settings import Settings

VIEWER = "https://viewer.example"
OTHER = "https://elsewhere.example"
PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range, if-none-match"}


def service(tmp_path: Path, *origins: str, **settings: Any) -> TestClient:
    chosen = Settings(roots=(tmp_path,), backend="cpu", workers=1, cors_origins=origins, **settings)
    return TestClient(create_app(chosen), "http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with service(
        tmp_path_factory.mktemp("empty"), VIEWER, "http://localhost:3000", allowed_hosts=("127.0.0.1",)
    ) as running:
        yield running


#: (method, path, headers, status): answers of every kind, in the process' different layers
ANSWERS = [
    ("GET", "/api/studies", {}, 200),
    ("HEAD", "/api/studies", {}, 200),
    ("GET", "/health/live", {}, 200),
    ("GET", "/api/studies/1.2/series/x", {}, 400),
    ("GET", "/api/studies/1.2/series/1.3", {}, 404),
    ("GET", "/nothing/here", {}, 404),
    ("POST", "/api/studies", {}, 405),
    ("OPTIONS", "/api/studies", {}, 405),
    ("GET", "/api/studies/1.2/series/1.3/instances/1.4/frames/1", {"Accept": "image/png"}, 406),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), ANSWERS)
def test_pages_of_a_listed_origin_read_answers_and_errors(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, headers={**headers, "Origin": VIEWER})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == VIEWER
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == set(EXPOSED_HEADERS)
    assert "Origin" in answer.headers["vary"].split(", ")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("method", "path", "headers", "status"), ANSWERS)
@pytest.mark.parametrize("origin", [OTHER, "null", "https://viewer.example.org", "http://viewer.example", None])
def test_pages_of_other_origins_read_nothing(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int, origin: str | None
) -> None:
    asked = headers if origin is None else {**headers, "Origin": origin}
    answer = client.request(method, path, headers=asked)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"].split(", ")  # a shared cache must not hand it to the listed one


def test_an_unforeseen_error_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(tmp_path, VIEWER) as client:
        monkeypatch.setattr("api.catalog.study_json", lambda study: 1 / 0)
        monkeypatch.setattr("gpu_render.archive.folder.FolderArchive.studies", lambda self: (1,))
        answer = client.get("/api/studies", headers={"Origin": VIEWER})
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:gpu-render:problem:internal")
    assert answer.headers["access-control-allow-origin"] == VIEWER


def test_a_preflight_allows_what_viewers_send(client: TestClient) -> None:
    path = "/dicomweb/studies/1.2/series/1.3/instances/1.4/frames/1"
    for method in ("GET", "HEAD", "POST"):
        asked = {
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ",".join(name.lower() for name in REQUEST_HEADERS),
            "Access-Control-Request-Private-Network": "true",
        }
        answer = client.options(path, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert {*REQUEST_HEADERS} <= set(answer.headers["access-control-allow-headers"].split(", "))
        assert int(answer.headers["access-control-max-age"]) > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": OTHER},
        {"Origin": "null"},
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Headers": "x-own"},
    ],
    ids=str,
)
def test_a_preflight_refuses_the_rest(client: TestClient, changed: dict[str, str]) -> None:
    answer = client.options("/api/studies", headers={"Origin": VIEWER, **PREFLIGHT, **changed})
    assert answer.status_code == 400
    if "Origin" in changed:
        assert "access-control-allow-origin" not in answer.headers


def test_any_origin_never_gets_credentials(tmp_path: Path) -> None:
    with service(tmp_path, "*") as client:
        for answer in (
            client.get("/api/studies", headers={"Origin": OTHER, "Cookie": "a=b"}),
            client.get("/nothing", headers={"Origin": OTHER}),
            client.options("/api/studies", headers={"Origin": OTHER, **PREFLIGHT}),
        ):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
        private = {"Origin": OTHER, **PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
        assert client.options("/api/studies", headers=private).status_code == 400


def test_nothing_is_added_where_no_origin_is_listed(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        for method in ("GET", "OPTIONS"):
            answer = client.request(method, "/api/studies", headers={"Origin": VIEWER, **PREFLIGHT})
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_host_that_is_not_served_gets_no_permission(client: TestClient) -> None:
    """Else a name that leads here could be asked by pages, in spite of the guard against DNS rebinding."""
    answer = client.get("/api/studies", headers={"Origin": VIEWER, "Host": "evil.example"})
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


def test_what_a_worker_said_passes_the_front_once() -> None:
    def worker(request: Request) -> Response:
        response = PlainTextResponse("x")
        headers = MutableHeaders(raw=response.raw_headers)
        headers["Vary"] = "Accept"
        return response

    inner = CrossOrigin(Starlette(routes=[Route("/", worker)]), (VIEWER,))
    client = TestClient(CrossOrigin(inner, (VIEWER,)))
    answer = client.get("/", headers={"Origin": VIEWER})
    assert answer.headers.get_list("access-control-allow-origin") == [VIEWER]
    assert answer.headers["vary"] == "Accept, Origin"


def test_the_fronts_own_answers_are_read_too() -> None:
    nobody = cast(Supervisor, SimpleNamespace(slots=(), candidates=lambda key: ()))
    client = TestClient(create_front(nobody, cors_origins=(VIEWER,)))  # not entered: its lifespan would start workers
    for path, status in (("/health/live", 200), ("/health/ready", 503), ("/api/studies", 503)):
        answer = client.get(path, headers={"Origin": VIEWER})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == VIEWER
    assert client.options("/api/studies", headers={"Origin": VIEWER, **PREFLIGHT}).status_code == 200


@pytest.mark.parametrize(
    "origins",
    [
        ("https://viewer.example/",),
        ("viewer.example",),
        ("https://Viewer.example",),
        ("null",),
        ("",),
        ("https://*.example",),
        ("file://",),
        ("https://a.example, https://b.example",),
        ("*", VIEWER),
    ],
    ids=str,
)
def test_an_origin_that_is_none_is_refused_at_start(origins: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="origin"):
        Settings(cors_origins=origins)


def test_origins_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_RENDER_CORS_ORIGINS", '["https://viewer.example", "http://[::1]:8042"]')
    assert Settings().cors_origins == ("https://viewer.example", "http://[::1]:8042")
