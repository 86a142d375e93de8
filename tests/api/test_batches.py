"""Many frames of a series in one answer: every record is what the frame's own URL answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.batches import most_bytes, parse_positions
from gpu_render.errors import BadRequest, NotFound
from gpu_render.frame import PixelLayout
from gpu_render.view import Stage, View


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
