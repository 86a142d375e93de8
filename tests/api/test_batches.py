"""Many frames of a series in one answer: every record is what the frame's own URL answers."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import pytest
from starlette.testclient import TestClient

from api.batches import most_bytes, parse_positions, patiently
from gpu_render.errors import BadRequest, NotFound, Overloaded
from gpu_render.frame import PixelLayout
from gpu_render.view import Stage, View
from tests import data
from tests.api.served import Served, serving


def records(body: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Header and samples of each record."""
    at = 0
    while at < len(body):
        begin = at + 4
        header = json.loads(body[begin : begin + int.from_bytes(body[at:begin], "little")])
        begin += int.from_bytes(body[at:begin], "little")
        at = begin + header.get("nbytes", 0)
        yield header, body[begin:at]


def all_series(client: TestClient) -> list[str]:
    studies = client.get("/api/studies").json()["studies"]
    return [
        f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
        for study in studies
        for series in study["series"]
    ]


@pytest.fixture(scope="module")
def several(client: TestClient) -> str:
    """The grey series with the most frames."""

    def grey_frames(path: str) -> int:
        frames = client.get(path).json()["frames"]
        return len(frames) if all(frame["samples_per_pixel"] == 1 for frame in frames) else 0

    return max(all_series(client), key=grey_frames)


@pytest.mark.parametrize("stage", ["stored", "modality", "display"])
def test_every_frame_of_every_series_is_what_its_own_url_answers(client: TestClient, stage: str) -> None:
    for path in all_series(client):
        manifest = client.get(path).json()["frames"]
        answer = client.get(f"{path}/frames", params={"stage": stage})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.gpu-render.frames")
        *found, (end, nothing) = records(answer.content)
        assert len(found) == len(manifest)
        problems = 0
        for place, (frame, (header, samples)) in enumerate(zip(manifest, found, strict=True), 1):
            single = client.get(frame["url"], params={"stage": stage})
            named = header["position"], header["sop_instance_uid"], header["frame_number"]
            assert named == (place, frame["sop_instance_uid"], frame["frame_number"])
            if header["kind"] == "problem":
                problems += 1
                assert single.status_code == header["problem"]["status"] >= 400
                assert single.json()["type"] == header["problem"]["type"]
                continue
            assert single.status_code == 200
            assert samples == single.content
            assert ",".join(map(str, header["shape"])) == single.headers["x-array-shape"]
            assert header["dtype"] == single.headers["x-array-dtype"]
            assert header["stage"] == stage
            assert header["window"] == single.headers.get("x-window")
            assert header["decoder"] == single.headers["x-decode-backend"]
            assert header["version"] == frame["version"]
        assert (end, nothing) == ({"kind": "end", "frames": len(manifest), "problems": problems}, b"")


def positions_of(client: TestClient, path: str, text: str) -> list[int]:
    answer = client.get(f"{path}/frames", params={"frames": text, "stage": "display", "viewport": "16,16"})
    assert answer.status_code == 200
    return [header["position"] for header, _ in records(answer.content) if header["kind"] != "end"]


def test_frames_come_in_the_order_asked_for(client: TestClient, several: str) -> None:
    count = len(client.get(several).json()["frames"])
    assert positions_of(client, several, "5-3,1") == [5, 4, 3, 1]
    assert positions_of(client, several, f"{count - 1}-, 2") == [count - 1, count, 2]


def test_parameters_are_those_of_one_frame(client: TestClient, several: str) -> None:
    url = client.get(several).json()["frames"][1]["url"]
    view = {"stage": "display", "window": "50,100,sigmoid", "region": "0,0,8,8", "viewport": "32,32", "invert": "true"}
    (_, samples), _ = records(client.get(f"{several}/frames", params={"frames": "2", **view}).content)
    assert samples == client.get(url, params=view).content


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"frames": "0"}, 400),
        ({"frames": "1-0"}, 400),
        ({"frames": "1,,2"}, 400),
        ({"frames": "-3"}, 400),
        ({"frames": "1,2-1"}, 400),
        ({"frames": "one"}, 400),
        ({"frames": "1-99999"}, 404),
        ({"frames": "99999-"}, 404),
        ({"stage": "raw"}, 400),
        ({"stage": "stored", "window": "1,2"}, 400),
    ],
)
def test_what_is_no_request_is_answered_before_anything_is_sent(
    client: TestClient, several: str, parameters: dict[str, str], status: int
) -> None:
    answer = client.get(f"{several}/frames", params=parameters)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_what_is_not_there_or_not_acceptable(client: TestClient, several: str) -> None:
    study = several.split("/series/")[0]
    assert client.get(f"{study}/series/1.2.3.4.5/frames").status_code == 404
    assert client.get(f"{study}/series/x/frames").status_code == 400
    assert client.get(f"{several}/frames", headers={"Accept": "image/png"}).status_code == 406
    octets = client.get(f"{several}/frames?frames=1", headers={"Accept": "application/octet-stream"})
    assert octets.headers["content-type"] == "application/octet-stream"
    assert octets.headers["cache-control"] == "private, no-store"


def test_a_head_renders_nothing(client: TestClient, several: str) -> None:
    renderer = client.app.state.service.renderer  # type: ignore[attr-defined]
    before = renderer.figures()
    answer = client.head(f"{several}/frames")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.gpu-render.frames")
    assert renderer.figures() == before


def test_positions() -> None:
    assert list(parse_positions(None, 3)) == list(parse_positions("", 3)) == [1, 2, 3]
    assert list(parse_positions("2-", 4)) == [2, 3, 4]
    assert list(parse_positions("3-1,4", 4)) == [3, 2, 1, 4]
    assert list(parse_positions(None, 0)) == []
    for text in ("1-2,2", "1-5,1-5,1-5", "1--2", "+1", "1 2", "\u0661", "1" * 12):
        with pytest.raises(BadRequest):
            parse_positions(text, 5)
    with pytest.raises(NotFound, match="no position 6: this series has 5 frames"):
        parse_positions("6", 5)


def test_what_a_frame_counts_covers_its_samples_and_its_picture() -> None:
    grey = PixelLayout(100, 200, 1, 16, 12, 11, 0, "MONOCHROME2")
    assert most_bytes(grey, View(Stage.STORED)) == 40_000
    assert most_bytes(grey, View(Stage.MODALITY)) == 80_000
    assert most_bytes(grey, View(Stage.DISPLAY, viewport=(1000, 1000))) == 3_000_000
    assert most_bytes(grey, View(Stage.DISPLAY, viewport=(8, 8))) == 40_000


# --- a series of its own -----------------------------------------------------------------------------------------


BROKEN = 3
SERIES = "/api/studies/1.2.4.1/series/1.2.4.1.77"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """40 slices in JPEG 2000, one of them broken; a service with two decoders and a cache that keeps nothing."""
    root, work = tmp_path_factory.mktemp("encoded"), tmp_path_factory.mktemp("work")
    noise = np.random.default_rng(7)
    for number in range(1, 41):
        samples = noise.integers(0, 4000, (256, 256), dtype=np.uint16)
        stream = bytes(imagecodecs.jpeg2k_encode(samples, codecformat="j2k", reversible=True))
        stream = stream if number != BROKEN else stream[:90] + b"\xff" * 40 + stream[130:200]
        attributes = data.image(
            256, 256, SeriesInstanceUID="1.2.4.1.77", SOPInstanceUID=f"1.2.77.{number}", InstanceNumber=number
        )
        pixels = data.encapsulate([stream + b"\0" * (len(stream) % 2)])
        data.write(root / f"{number}.dcm", attributes, pixels, data.J2K_LOSSLESS, encapsulated=True)
    with serving(root, work, environment={"GPU_RENDER_CACHE_BYTES": "0", "GPU_RENDER_LOOKAHEAD_FRAMES": "0"}) as served:
        served.wait_for_files(40)
        yield served


def figure(served: Served, name: str) -> float:
    text = served.ask("/metrics").body.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"gpu_render_{name} "))


def test_a_frame_that_cannot_be_shown_is_a_record_and_ends_nothing(encoded: Served) -> None:
    answer = encoded.ask(f"{SERIES}/frames?frames=5-1&stage=stored")
    *found, (end, _) = records(answer.body)
    assert [header["position"] for header, _ in found] == [5, 4, 3, 2, 1]
    assert [header["kind"] for header, _ in found] == ["frame", "frame", "problem", "frame", "frame"]
    problem = found[2][0]["problem"]
    url = problem["instance"]
    assert url == f"{SERIES}/instances/1.2.77.{BROKEN}/frames/1"
    assert (problem["status"], problem["type"]) == (422, encoded.ask(f"{url}?stage=stored").problem["type"])
    assert end == {"kind": "end", "frames": 5, "problems": 1}
    for header, samples in (found[0], found[4]):
        single = f"{SERIES}/instances/{header['sop_instance_uid']}/frames/1?stage=stored"
        assert samples == encoded.ask(single).body
        assert header["decoder"] == "jpeg2000"


def test_what_is_under_way_ahead_is_dropped_when_the_client_goes(encoded: Served) -> None:
    before = figure(encoded, "host_cache_misses_total")
    with socket.create_connection(("127.0.0.1", encoded.port), timeout=30) as connection:
        connection.sendall(f"GET {SERIES}/frames?stage=stored HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
    while figure(encoded, "loads_waiting"):
        time.sleep(0.02)  # the test's own time limit is the limit
    begun = figure(encoded, "host_cache_misses_total") - before
    time.sleep(0.5)
    assert figure(encoded, "host_cache_misses_total") - before == begun < 40  # no further one was begun


class Queue:
    """Refuses some times, then renders."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    async def __call__(self) -> str:
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("full")
        return "rendered"


def test_in_mid_answer_a_full_queue_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(patiently(Queue(3))) == "rendered"
    monkeypatch.setattr("api.batches.PATIENCE_S", 0.0)
    with pytest.raises(Overloaded):
        asyncio.run(patiently(Queue(10_000)))
