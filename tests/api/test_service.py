"""Health, documentation, faults, and the life of the application."""

import asyncio
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from api import catalog, legacy, metrics, native, ops
from api.app import create_app
from api.service import ClientGone, priority_of, while_connected
from gpu_render.errors import Overloaded
from gpu_render.frame import Samples
from gpu_render.priority import Priority
from gpu_render.settings import Settings
from kernels.cpu import CpuBackend


def test_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["backend"] == "cpu"
    assert ready.json()["recycle"] is False


def test_a_backend_that_paints_wrongly_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CpuBackend.collect

    def wrong(self: CpuBackend, ticket: object) -> list[Samples]:
        return [np.zeros_like(pixels) for pixels in right(self, ticket)]

    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        assert client.get("/health/ready").status_code == 200
        monkeypatch.setattr(CpuBackend, "collect", wrong)
        refused = client.get("/health/ready")
    assert refused.status_code == 503
    assert "wrong" in refused.json()["problem"]


def test_every_route_is_documented_with_an_example(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/api/studies", "/api/index", "/health/ready"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "example" in json.dumps(operation), f"{method} {path} has no example"
            assert operation.get("description"), f"{method} {path} is not described"
            assert "default" in operation["responses"], f"{method} {path} does not say how it fails"
    assert "HTTPValidationError" not in json.dumps(document)


def test_the_api_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    for asset in re.findall(r'(?:src|href)="(\./assets/[^"]+)"', page.text):
        assert client.get(asset.removeprefix(".")).status_code == 200


def test_all_routers_are_mounted(client: TestClient) -> None:
    paths = set(client.get("/openapi.json").json()["paths"])
    for module in (native, catalog, legacy, ops, metrics):
        for route in module.router.routes:
            assert getattr(route, "path", None) in paths


def test_an_unforeseen_exception_says_nothing_of_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gpu_render.archive.folder import FolderArchive

    def broken(_: FolderArchive) -> None:
        raise LookupError("Doe^Jane")

    monkeypatch.setattr(FolderArchive, "studies", broken)
    caplog.set_level(logging.DEBUG)
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=True) as client:
        response = client.get("/api/studies")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:gpu-render:problem:internal"
    assert "LookupError" in response.text
    assert "Doe" not in response.text
    assert "Doe" not in caplog.text
    assert "unforeseen LookupError" in caplog.text


def test_a_full_queue_is_503_with_retry_after(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_render.renderer import Renderer

    async def full(*_: object) -> None:
        raise Overloaded("the render queue is full", 3)

    studies = client.get("/api/studies").json()["studies"]
    shown = [series["thumbnail"] for study in studies for series in study["series"] if series["thumbnail"]]
    url = shown[0]["url"]
    monkeypatch.setattr(Renderer, "at_hand", lambda *_: None)  # whatever others have asked of this service before
    monkeypatch.setattr(Renderer, "render", full)
    response = client.get(url)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"


def test_hosts_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    settings = Settings(roots=(tmp_path,), backend="cpu", workers=1, allowed_hosts=("127.0.0.1", "localhost"))
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        assert client.get("/health/live").status_code == 200
        for _ in range(2):  # also where others were let pass before
            assert client.get("/health/live", headers={"Host": "evil.example"}).status_code == 400
            assert client.get("/health/live", headers={"Host": ""}).status_code == 400
            assert client.get("/health/live", headers={"Host": "LOCALHOST:8000"}).status_code == 200
            assert client.get("/health/live", headers={"Host": "localhost.evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("header", "priority"),
    [
        ("", Priority.INTERACTIVE),
        ("u=0", Priority.INTERACTIVE),
        ("u=3, i", Priority.INTERACTIVE),
        ("u=5", Priority.THUMBNAIL),
        ("i, u=7", Priority.PREFETCH),
        ("u=9", Priority.INTERACTIVE),
        ("nonsense", Priority.INTERACTIVE),
    ],
)
def test_urgency_is_read_from_the_priority_header(header: str, priority: Priority) -> None:
    scope = {"type": "http", "headers": [(b"priority", header.encode())]}
    assert priority_of(Request(scope)) is priority


@pytest.mark.anyio
async def test_work_of_a_client_that_goes_is_cancelled() -> None:
    gone, cancelled = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.ensure_future(while_connected(Request({"type": "http", "headers": []}, receive), work()))
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(ClientGone):
        await waiting
    await asyncio.wait_for(cancelled.wait(), 10)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_service_without_decoder_processes_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no processes here")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        refused = client.get("/health/ready")
    assert refused.status_code == 503
    assert refused.json()["problem"]
