"""The whole service over HTTP on the CUDA backend, over a fake CuPy whose kernels are render.cu built for the host.

Every answer has to be the CPU's, byte for byte: while the device works, while its memory does not suffice, and after it
was lost. What crosses the bus is counted.
"""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render import prove
from gpu_render.decode.codestream import Jpeg2000Header, parse_jpeg, parse_jpeg2000
from gpu_render.decode.device import describe
from gpu_render.decode.proof import ProofFile
from gpu_render.frame import EncodedFrame
from gpu_render.settings import Settings
from gpu_render.workers import WorkerPool
from kernels import BackendUnavailable, Codestream, cuda
from kernels.cuda import CudaBackend
from tests.api.conftest import wait_for_scan
from tests.encoded import frames_of
from tests.gpu_render.test_proof import right
from tests.kernels.fake_cupy import CUDARuntimeError, FakeDevice, OutOfMemoryError, use
from tests.kernels.test_cuda import FakeCodec

ORIGIN = "http://127.0.0.1"
STAGES = ("?stage=stored", "?stage=modality", "", "?window=40,400", "?viewport=64,64")
HEADERS = {"X-Array-Shape", "X-Array-Dtype", "X-Array-Stage", "X-Window", "X-Decode-Backend", "ETag"}
FRAMES_A_FILE = 2


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device behind a fake CuPy."""
    monkeypatch.setattr(cuda, "RING_BYTES", 1 << 20)
    return use(monkeypatch, FakeDevice())


@contextlib.contextmanager
def serving(samples: Path, fake: FakeDevice, **settings: Any) -> Iterator[TestClient]:
    """The service on the fake device, scanned."""
    app = create_app(Settings(roots=(samples,), backend="cuda", workers=2, **settings))
    with TestClient(app, ORIGIN) as running:
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


def assert_same(
    client: TestClient, gpu: TestClient, urls: list[str], backends: set[str], but: Collection[str] = ()
) -> int:
    """That both answer alike, errors too, ``but`` for some headers; how many pictures the device's service gave."""
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
                for header in HEADERS - set(but):
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


# -- decoding on the device ---------------------------------------------------------------------------------------


class Images(dict[bytes, Any]):
    """What the libraries of the CPU make of any codestream."""

    def __missing__(self, data: bytes) -> Any:
        codec = "jpeg" if data[:2] == b"\xff\xd8" else "jpeg2000"
        declared = parse_jpeg2000(data) if codec == "jpeg2000" else parse_jpeg(data)
        signed = isinstance(declared, Jpeg2000Header) and declared.signed
        return right(data, Codestream(data, codec, (), np.dtype("u1"), declared.precision, signed, 0, 0, 0))


@pytest.fixture
def decoding(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """The device with a codec."""

    def codec(device: int) -> FakeCodec:
        made = FakeCodec(fake)
        made.images = Images()
        return made

    monkeypatch.setattr(cuda, "NvCodec", codec)
    return fake


@pytest.fixture
def proven(samples: Path, decoding: FakeDevice, tmp_path: Path) -> Path:
    """A table that proves every kind that occurs in the samples, of any size."""
    plan = prove.Plan(((40, 50), (33, 97)), damages=2, sides=())
    frames = [frame for path in sorted(samples.rglob("*.dcm")) for frame in first_frames(path)]
    kinds = {found.kind for frame in frames if (found := describe(frame)) is not None}
    enough = {
        "compared": 50,
        "refused": 0,
        "damaged": 50,
        "least_pixels": 1,
        "most_pixels": 1 << 24,
        "longest_side": 4096,
    }
    with contextlib.closing(CudaBackend()) as backend, WorkerPool(2) as pool:
        rows = [prove.Prover(backend, pool, plan).row(kind).model_copy(update=enough) for kind in kinds]
    assert all(row.proven for row in rows)
    prove.save(ProofFile(format=1, rows=tuple(rows)), tmp_path / "proof.json")
    return tmp_path / "proof.json"


def first_frames(path: Path) -> list[EncodedFrame]:
    """The first frame of a file that can be read."""
    try:
        return list(islice(frames_of(path), 1))
    except Exception:  # noqa: BLE001 - many samples are broken on purpose
        return []


def decoders(client: TestClient, urls: list[str]) -> Counter[str]:
    """How often each decoder was told."""
    answers = [client.get(url) for url in urls]
    return Counter(answer.headers["X-Decode-Backend"] for answer in answers if answer.status_code == 200)


def test_what_the_device_decodes_is_the_cpus_byte_for_byte_and_is_never_uploaded(
    client: TestClient, samples: Path, frame_urls: dict[str, list[str]], decoding: FakeDevice, proven: Path
) -> None:
    urls = some(frame_urls)
    with serving(samples, decoding, proof_path=proven) as gpu:
        assert_same(client, gpu, urls, {"cuda", "none"}, but={"X-Decode-Backend"})
        used, found = decoders(gpu, urls), figures(gpu)
        assert gpu.get("/health/ready").json()["status"] == "ready"
    by_device = sum(count for name, count in used.items() if name.startswith("nvimgcodec-"))
    assert by_device >= 2
    assert used["nvimgcodec-jpeg2000"] >= 2
    assert found["decoded_on_device_total"] >= by_device
    assert found["uploads_total"] + by_device <= len(urls) + 2
    with serving(samples, decoding, proof_path=proven, gpu_decode="off") as gpu:
        assert not [name for name in decoders(gpu, urls[:20]) if name.startswith("nvimgcodec-")]


def test_frames_that_only_a_lost_device_had_are_read_again(
    client: TestClient, samples: Path, frame_urls: dict[str, list[str]], decoding: FakeDevice, proven: Path
) -> None:
    with serving(samples, decoding, proof_path=proven) as gpu:
        urls = [url for url in some(frame_urls) if "nvimgcodec" in gpu.get(url).headers.get("X-Decode-Backend", "")]
        assert len(urls) >= 2
        decoding.fail("work", CUDARuntimeError(700))
        assert_same(client, gpu, urls, {"cpu", "none"})  # and the CPU's decoders are told
        assert gpu.get("/health/ready").json()["recycle"] is True
