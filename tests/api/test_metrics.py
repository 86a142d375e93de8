"""/metrics as Prometheus reads it."""

import math
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from api import metrics
from api.app import create_app
from api.metrics import BUCKETS, Measured, Metrics, figure_families, gpu_families
from gpu_render.gpus import Gpu
from gpu_render.settings import Settings

KNOWN = Gpu(0, "NVIDIA L4", "GPU-0", "580", 3, 24, 40, 7, 50, 33.5, 72.0, 5, 0, ("sw_power_cap",))
SILENT = Gpu(1, None, None, "580", *[None] * 10)


def read(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels[label] for label in labels): sample.value for sample in family.samples}


def test_requests_are_counted_by_route_template_and_class_of_status(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        client.get("/api/studies/1.2/series/1.3")
        client.get("/api/studies/1.2/series/none")
        client.head("/health/live")
        client.get("/nothing/here")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    samples = read(answer.text)["gpu_render_request_seconds"].samples
    counts = {(s.labels["route"], s.labels["status"]): s.value for s in samples if s.name.endswith("_count")}
    assert counts == {
        ("/api/studies/{study}/series/{series}", "4xx"): 2,
        ("/health/live", "2xx"): 1,
        ("other", "4xx"): 1,
    }
    ends = {float(s.labels["le"]) for s in samples if s.name.endswith("_bucket")}
    assert ends == {*BUCKETS, math.inf}
    assert {2.0, 5.0} <= ends


def test_no_identifier_is_a_label(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        client.get("/api/studies/1.2.named/series/1.3.77/instances/1.4.77/frames/1")
        client.get("/api/studies/1.2.77/series/1.3.77/instances/1.4.77/frames/1")
        client.get("/named.77")
        text = client.get("/metrics").text
    # Only labels and names: a value, such as seconds of processor time, may hold any digits.
    assert "named" not in text
    said = [part for family in read(text).values() for s in family.samples for part in (s.name, *s.labels.values())]
    assert "/api/studies/{study}/series/{series}/instances/{instance}/frames/{frame}" in said
    assert not [part for part in said if ".77" in part]


def test_the_process_the_index_and_the_service_are_there(client: TestClient) -> None:
    found = read(client.get("/metrics").text)
    assert found["gpu_render_index_instances"].samples[0].value == client.get("/api/index").json()["instances"]
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert values(found["gpu_render_service_info"], "backend") == {("cpu",): 1}


def test_figures_are_exported_under_their_names() -> None:
    text = Metrics().text(figure_families({"queue_waiting": 3, "launches_total": 7, "something_new": 1.5})).decode()
    found = read(text)
    assert (found["gpu_render_queue_waiting"].type, found["gpu_render_queue_waiting"].samples[0].value) == ("gauge", 3)
    assert found["gpu_render_launches"].type == "counter"
    assert found["gpu_render_launches"].samples[0][:3] == ("gpu_render_launches_total", {}, 7)
    assert found["gpu_render_something_new"].samples[0].value == 1.5
    assert "# HELP gpu_render_queue_waiting Pictures that wait for the device" in text


def test_figures_of_the_renderer_are_scraped(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_render.renderer import Renderer

    monkeypatch.setattr(Renderer, "figures", lambda _: {"device_lost": 1.0}, raising=False)
    assert read(client.get("/metrics").text)["gpu_render_device_lost"].samples[0].value == 1


def test_nvml_figures_of_two_devices_one_of_which_is_lost() -> None:
    found = read(Metrics().text(gpu_families([KNOWN, SILENT])).decode())
    assert values(found["gpu_render_gpu_up"], "gpu") == {("0",): 1, ("1",): 0}
    assert values(found["gpu_render_gpu_power_watts"], "gpu") == {("0",): 33.5}
    assert values(found["gpu_render_gpu_ecc_errors"], "gpu", "kind") == {
        ("0", "corrected"): 5,
        ("0", "uncorrected"): 0,
    }
    throttled = values(found["gpu_render_gpu_throttled"], "gpu", "reason")
    assert throttled["0", "sw_power_cap"] == 1
    assert sum(throttled.values()) == 1
    assert {gpu for gpu, _ in throttled} == {"0"}


@pytest.mark.parametrize("reads_gpus", [True, False])
def test_nvml_is_read_by_the_processes_that_shall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads_gpus: bool
) -> None:
    monkeypatch.setattr(metrics, "read_gpus", lambda: [KNOWN])
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1), reads_gpus=reads_gpus)
    with TestClient(app, "http://127.0.0.1") as client:
        assert ("gpu_render_gpu_up" in read(client.get("/metrics").text)) is reads_gpus


@pytest.mark.anyio
async def test_a_handler_that_breaks_off_is_counted_as_no_answer() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pass

    counted = Metrics()
    with pytest.raises(OSError):  # noqa: PT011 - any
        await Measured(broken, counted)({"type": "http"}, receive, send)
    (family,) = [f for f in read(counted.text(()).decode()).values() if f.name == "gpu_render_request_seconds"]
    assert {tuple(s.labels[k] for k in ("route", "status")) for s in family.samples} == {("other", "none")}
