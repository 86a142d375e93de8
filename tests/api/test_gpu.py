"""The whole service over HTTP on the CUDA backend, over a fake CuPy whose kernels are render.cu built for the host.

Every answer has to be the CPU's, byte for byte: while the device works, while its memory does not suffice, and after it
was lost. What crosses the bus is counted.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from kernels import BackendUnavailable, cuda
from tests.api.conftest import wait_for_scan
from tests.kernels import host
from tests.kernels.fake_cupy import CUDARuntimeError, FakeDevice, OutOfMemoryError

ORIGIN = "http://127.0.0.1"
STAGES = ("?stage=stored", "?stage=modality", "", "?window=40,400", "?viewport=64,64")
HEADERS = ("X-Array-Shape", "X-Array-Dtype", "X-Array-Stage", "X-Window", "X-Decode-Backend", "ETag")
FRAMES_A_FILE = 2


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device behind a fake CuPy."""
    host.library()
    device = FakeDevice()
    monkeypatch.setitem(sys.modules, "cupy", device.module())
    monkeypatch.setattr(cuda, "RING_BYTES", 1 << 20)
    return device


@contextlib.contextmanager
def serving(samples: Path, fake: FakeDevice) -> Iterator[TestClient]:
    """The service on the fake device, scanned."""
    with TestClient(create_app(Settings(roots=(samples,), backend="cuda", workers=2)), ORIGIN) as running:
        wait_for_scan(running)
        yield running
    assert fake.wrong == []


def some(frame_urls: dict[str, list[str]], files: int | None = None) -> list[str]:
    """URLs of the first frames of some files."""
    return [url for urls in list(frame_urls.values())[:files] for url in urls[:FRAMES_A_FILE]]


def figures(client: TestClient) -> dict[str, float]:
    """The unlabelled figures of /metrics."""
    found = re.findall(r"^gpu_render_(\w+) (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def assert_same(client: TestClient, gpu: TestClient, urls: list[str], backends: set[str]) -> int:
    """That both answer alike, errors too; how many pictures the device's service gave."""
    pictures = 0
    for url in urls:
        for query in STAGES:
            expected, found = client.get(url + query), gpu.get(url + query)
            assert (found.status_code, found.headers["content-type"]) == (
                expected.status_code,
                expected.headers["content-type"],
            ), url
            assert found.content == expected.content, url + query
            if found.status_code == 200:
                pictures += 1
                assert found.headers["X-Render-Backend"] in backends
                for header in (
                    "X-Array-Shape",
                    "X-Array-Dtype",
                    "X-Array-Stage",
                    "X-Window",
                    "X-Decode-Backend",
                    "ETag",
                ):
                    assert found.headers.get(header) == expected.headers.get(header)
    return pictures


def test_every_sample_is_the_cpus_byte_for_byte(
    client: TestClient, samples: Path, frame_urls: dict[str, list[str]], fake: FakeDevice
) -> None:
    with serving(samples, fake) as gpu:
        pictures = assert_same(client, gpu, some(frame_urls), {"cuda", "none"})
        found = figures(gpu)
        assert gpu.get("/health/ready").json()["status"] == "ready"
    assert pictures > 300
    assert found["downloads_total"] == found["launches_total"] > 200
    assert 0 < found["uploads_total"] <= len(some(frame_urls)) + 2
    assert found["device_faults_total"] == found["rendered_on_cpu_total"] == found["out_of_memory_total"] == 0
    assert 0 < found["device_cache_bytes"] <= found["device_cache_budget_bytes"]


def test_a_window_drag_uploads_nothing_but_records(
    samples: Path, frame_urls: dict[str, list[str]], fake: FakeDevice
) -> None:
    with serving(samples, fake) as gpu:
        url = next(url for url in some(frame_urls) if gpu.get(f"{url}?window=0,1000").status_code == 200)
        before, uploaded, downloads = figures(gpu), fake.uploaded, fake.counts["download"]
        for width in range(1001, 1051):
            assert gpu.get(f"{url}?window=0,{width}").status_code == 200
        after = figures(gpu)
    assert after["uploads_total"] == before["uploads_total"]
    assert after["launches_total"] - before["launches_total"] == 50
    assert fake.counts["download"] - downloads == 50  # one each
    assert fake.uploaded - uploaded < 50 * 2048  # records and steps


def test_a_device_that_dies_is_replaced_by_the_cpu_and_says_so(
    client: TestClient,
    samples: Path,
    frame_urls: dict[str, list[str]],
    fake: FakeDevice,
    caplog: pytest.LogCaptureFixture,
) -> None:
    urls = some(frame_urls, 8)
    with serving(samples, fake) as gpu:
        assert_same(client, gpu, urls[:4], {"cuda", "none"})
        fake.fail("work", CUDARuntimeError(700))
        with caplog.at_level(logging.CRITICAL, "gpu_render"):
            assert_same(client, gpu, urls, {"cpu", "none"})
        ready = gpu.get("/health/ready")
        found = figures(gpu)
        assert gpu.get("/health/live").status_code == 200
    assert (ready.status_code, ready.json()["status"], ready.json()["recycle"]) == (200, "degraded", True)
    assert "CUDA error 700" in ready.json()["problem"]
    assert ready.json()["backend"] == "cpu"
    assert (found["device_lost"], found["device_cache_frames"]) == (1, 0)
    assert found["rendered_on_cpu_total"] > 0
    assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1


def test_memory_that_does_not_suffice_costs_nobody_a_picture(
    client: TestClient, samples: Path, frame_urls: dict[str, list[str]], fake: FakeDevice
) -> None:
    with serving(samples, fake) as gpu:
        for url in some(frame_urls, 8):
            fake.fail("alloc", OutOfMemoryError())
            assert_same(client, gpu, [url], {"cuda", "none"})
        found = figures(gpu)
    assert found["out_of_memory_total"] > 4
    assert found["device_lost"] == 0


def test_without_a_device_auto_takes_the_cpu_and_says_so_once_and_cuda_refuses_to_start(
    samples: Path, fake: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    fake.count_error = CUDARuntimeError(100)
    willing = TestClient(create_app(Settings(roots=(samples,), backend="auto", workers=1)), ORIGIN)
    with caplog.at_level(logging.INFO, "kernels"), willing as running:
        ready = running.get("/health/ready").json()
    assert (ready["status"], ready["backend"], ready["recycle"]) == ("ready", "cpu", False)
    said = [record.getMessage() for record in caplog.records if record.name == "kernels"]
    assert len(said) == 1
    assert "nvidia-smi" in said[0]
    refusing = TestClient(create_app(Settings(roots=(samples,), backend="cuda", workers=1)), ORIGIN)
    with pytest.raises(BackendUnavailable, match="nvidia-smi"), refusing:
        pass
