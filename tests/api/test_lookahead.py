"""Scrolling through compressed series over HTTP: what comes next is decoded before it is asked for."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan
from tests.data import sample

FRAMES = 24
AHEAD = 6
LIMIT_S = 60
Serve = Callable[..., TestClient]


def write_series(folder: Path, name: str, frames: int = FRAMES) -> list[str]:
    """Copies of a sample as one series, in order; the URLs of their frames, without a prefix."""
    dataset = pydicom.dcmread(sample(name))
    study, series = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    urls = []
    for number in range(1, frames + 1):
        dataset.SOPInstanceUID = UID(f"1.2.3.4.{number}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [0, 0, number]
        dataset.save_as(folder / f"{number}.dcm")
        urls.append(f"/studies/{study}/series/{series}/instances/{dataset.SOPInstanceUID}/frames/1")
    return urls


@pytest.fixture
def serve() -> Iterator[Serve]:
    clients: list[TestClient] = []

    def start(root: Path, **settings: Any) -> TestClient:
        app = create_app(Settings(roots=(root,), backend="cpu", workers=2, lookahead_frames=AHEAD, **settings))
        clients.append(TestClient(app, "http://127.0.0.1").__enter__())
        wait_for_scan(clients[-1])
        return clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def figure(client: TestClient, name: str) -> float:
    found = re.search(rf"^gpu_render_{name} (.+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def until(client: TestClient, name: str, value: float) -> None:
    deadline = time.monotonic() + LIMIT_S
    while figure(client, name) != value:
        assert time.monotonic() < deadline, f"{name} is {figure(client, name)}, not {value}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("prefix", "headers"),
    [
        ("/api", {}),
        ("/dicomweb", {"Accept": 'multipart/related; type="application/octet-stream"'}),
    ],
)
def test_the_next_frames_are_in_the_cache_before_they_are_asked_for(
    tmp_path: Path, serve: Serve, prefix: str, headers: dict[str, str]
) -> None:
    urls = write_series(tmp_path, "MR_small_jp2klossless.dcm")
    client = serve(tmp_path)
    for url in urls[:2]:
        assert client.get(prefix + url, headers=headers).status_code == 200
    until(client, "host_cache_frames", 2 + AHEAD)
    misses = figure(client, "host_cache_misses_total")
    for url in urls[2 : 2 + AHEAD]:
        assert client.get(prefix + url, headers=headers).status_code == 200
    until(client, "lookahead_used_total", AHEAD)
    until(client, "host_cache_frames", 2 + 2 * AHEAD)
    # Nobody who asked for one of them had to wait for its decoding: all later misses are the look-ahead's own.
    assert figure(client, "host_cache_misses_total") - misses == AHEAD


def test_a_turn_loads_the_other_way(tmp_path: Path, serve: Serve) -> None:
    urls = write_series(tmp_path, "MR_small_jp2klossless.dcm")
    client = serve(tmp_path)
    for place in (12, 13):
        assert client.get("/api" + urls[place]).status_code == 200
    until(client, "lookahead_begun_total", AHEAD)
    assert client.get("/api" + urls[12]).status_code == 200
    until(client, "lookahead_begun_total", 2 * AHEAD)
    until(client, "host_cache_frames", 2 + 2 * AHEAD - figure(client, "lookahead_dropped_total"))
    used = figure(client, "lookahead_used_total")
    for place in range(11, 11 - AHEAD, -1):
        assert client.get("/api" + urls[place]).status_code == 200
    until(client, "lookahead_used_total", used + AHEAD)


def test_prefetch_by_a_client_is_no_scrolling(tmp_path: Path, serve: Serve) -> None:
    urls = write_series(tmp_path, "MR_small_jp2klossless.dcm", 8)
    client = serve(tmp_path)
    for url in urls[:4]:
        assert client.get("/api" + url, headers={"Priority": "u=6"}).status_code == 200
    assert figure(client, "lookahead_begun_total") == 0


def test_uncompressed_frames_are_not_read_ahead(tmp_path: Path, serve: Serve) -> None:
    urls = write_series(tmp_path, "MR_small.dcm", 8)
    client = serve(tmp_path)
    for url in urls[:4]:
        assert client.get("/api" + url).status_code == 200
    assert figure(client, "lookahead_begun_total") == 0


def test_frames_of_one_object(tmp_path: Path, serve: Serve) -> None:
    source = sample("examples_ybr_color.dcm")  # 30 frames of JPEG
    (tmp_path / "multi.dcm").write_bytes(source.read_bytes())
    header = pydicom.dcmread(source, stop_before_pixels=True)
    client = serve(tmp_path)
    base = f"/api/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
    for number in (1, 2):
        assert client.get(f"{base}/frames/{number}").status_code == 200
    until(client, "host_cache_frames", 2 + AHEAD)
