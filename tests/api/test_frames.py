"""The frame route: what it answers, in which form, and what it refuses."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pydicom.data
import pytest
from starlette.testclient import TestClient

CT = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


def sample(name: str) -> pydicom.Dataset:
    path = pydicom.data.get_testdata_file(name, download=False)
    assert path is not None
    return pydicom.dcmread(str(path))


def url_of(name: str, frame_urls: dict[str, list[str]], frame: int = 1) -> str:
    return frame_urls[str(sample(name).SOPInstanceUID)][frame - 1]


def array(response: Any) -> npt.NDArray[np.generic]:
    assert response.status_code == 200, response.text
    shape = tuple(map(int, response.headers["x-array-shape"].split(",")))
    return np.frombuffer(response.content, np.dtype(response.headers["x-array-dtype"])).reshape(shape)


@pytest.fixture(scope="module")
def ct_url(frame_urls: dict[str, list[str]]) -> str:
    return url_of("CT_small.dcm", frame_urls)


def test_stored_values_are_the_files_own(client: TestClient, ct_url: str) -> None:
    response = client.get(ct_url, params={"stage": "stored"})
    assert np.array_equal(array(response), sample("CT_small.dcm").pixel_array)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-array-dtype"] == "<i2"
    assert response.headers["x-array-stage"] == "stored"
    assert "x-window" not in response.headers


def test_modality_values_are_hounsfield_units(client: TestClient, ct_url: str) -> None:
    got = array(client.get(ct_url, params={"stage": "modality"}))
    assert got.dtype == np.dtype("<i2")
    assert np.array_equal(got, sample("CT_small.dcm").pixel_array - 1024)


def test_display_is_the_default_and_names_its_window(client: TestClient, ct_url: str) -> None:
    response = client.get(ct_url, params={"window": "40,400"})
    got = array(response)
    hu = sample("CT_small.dcm").pixel_array.astype(np.float64) - 1024
    want = np.floor(np.clip((hu - 39.5) / 399 + 0.5, 0, 1) * 255 + 0.5)
    assert response.headers["x-window"] == "40,400,LINEAR"
    assert response.headers["x-array-dtype"] == "|u1"
    assert np.array_equal(got, want)


def test_the_answer_says_who_worked_and_how_long(client: TestClient, ct_url: str) -> None:
    headers = client.get(ct_url, params={"window": "41,401"}).headers
    assert headers["x-render-backend"] == "cpu"
    assert headers["x-decode-backend"]
    steps = {part.split(";")[0].strip() for part in headers["server-timing"].split(",")}
    assert {"queue", "upload", "render", "download"} <= steps
    assert headers["cache-control"] == "private, max-age=31536000, immutable"


def test_npy_holds_the_same_array(client: TestClient, ct_url: str) -> None:
    raw = client.get(ct_url, params={"stage": "modality"})
    npy = client.get(ct_url, params={"stage": "modality"}, headers={"Accept": "application/x-npy"})
    assert npy.headers["content-type"] == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(npy.content)), array(raw))
    assert npy.headers["etag"] != raw.headers["etag"]


def test_a_known_etag_is_answered_304_without_a_body(client: TestClient, ct_url: str) -> None:
    first = client.get(ct_url)
    again = client.get(ct_url, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(ct_url, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get(ct_url, params={"invert": "true"}).headers["etag"] != first.headers["etag"]


def test_an_etag_of_a_frame_that_does_not_exist_is_404(client: TestClient, ct_url: str) -> None:
    tag = client.get(ct_url).headers["etag"]
    missing = ct_url.removesuffix("/1") + "/2"
    assert client.get(missing, headers={"If-None-Match": tag}).status_code == 404


def test_region_and_viewport(client: TestClient, ct_url: str) -> None:
    whole = array(client.get(ct_url, params={"stage": "stored"}))
    part = array(client.get(ct_url, params={"stage": "stored", "region": "10,20,30,40"}))
    assert np.array_equal(part, whole[20:60, 10:40])
    small = array(client.get(ct_url, params={"viewport": "64,32"}))
    assert small.shape == (32, 32)
    large = array(client.get(ct_url, params={"viewport": "256,256", "stage": "modality"}))
    assert large.shape == (256, 256)
    assert large.dtype == np.dtype("<f4")


def test_inversion_turns_greys_round(client: TestClient, ct_url: str) -> None:
    plain = array(client.get(ct_url, params={"window": "40,400"})).astype(int)
    turned = array(client.get(ct_url, params={"window": "40,400", "invert": "true"})).astype(int)
    shown = plain + turned == 255
    padding = sample("CT_small.dcm").pixel_array == sample("CT_small.dcm").PixelPaddingValue
    assert np.array_equal(shown, ~padding)


def test_colour_and_palette_are_rgb(client: TestClient, frame_urls: dict[str, list[str]]) -> None:
    rgb = sample("examples_rgb_color.dcm")
    got = array(client.get(url_of("examples_rgb_color.dcm", frame_urls)))
    assert np.array_equal(got, rgb.pixel_array)
    palette = array(client.get(url_of("examples_palette.dcm", frame_urls)))
    assert palette.shape == (350, 800, 3)
    assert client.get(url_of("examples_palette.dcm", frame_urls), params={"window": "1,2"}).status_code == 406


def test_every_frame_of_a_multi_frame_object_is_its_own(client: TestClient, frame_urls: dict[str, list[str]]) -> None:
    dataset = sample("rtdose.dcm")
    urls = frame_urls[str(dataset.SOPInstanceUID)]
    assert len(urls) == 15
    for index, url in enumerate(urls):
        assert np.array_equal(array(client.get(url, params={"stage": "stored"})), dataset.pixel_array[index])


def test_empty_parameters_count_as_absent(client: TestClient, ct_url: str) -> None:
    empty = dict.fromkeys(("stage", "window", "voi", "region", "viewport", "invert"), "")
    assert client.get(ct_url, params=empty).content == client.get(ct_url).content


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"stage": "raw"}, 400, "bad-request"),
        ({"window": "40"}, 400, "invalid-window"),
        ({"window": "40,0"}, 400, "invalid-window"),
        ({"window": "40,400,cubic"}, 400, "invalid-window"),
        ({"voi": "9"}, 400, "invalid-window"),
        ({"voi": "x"}, 400, "bad-request"),
        ({"region": "0,0,129,1"}, 400, "invalid-region"),
        ({"region": "0,0,0,1"}, 400, "invalid-region"),
        ({"viewport": "0,10"}, 400, "invalid-region"),
        ({"viewport": "64,64", "stage": "stored"}, 400, "bad-request"),
        ({"invert": "perhaps"}, 400, "bad-request"),
        ({"window": "40,400", "stage": "modality"}, 400, "bad-request"),
    ],
)
def test_requests_that_are_none_are_refused(
    client: TestClient, ct_url: str, change: dict[str, str], status: int, kind: str
) -> None:
    response = client.get(ct_url, params=change)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:gpu-render:problem:{kind}"
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/studies/1.2/series/1.2/instances/1.2/frames/1", 404),
        ("/api/studies/x/series/1.2/instances/1.2/frames/1", 400),
        ("/api/studies/1.2/series/..%2f/instances/1.2/frames/1", 404),
        ("/api/studies/1.2/series/1.2/instances/1.2/frames/0", 400),
        ("/api/studies/1.2/series/1.2/instances/1.2/frames/one", 400),
        ("/api/studies/1.2/series/1.2", 404),
        ("/api/studies/1.2/series/no-uid", 400),
        ("/api/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_to_be_so(client: TestClient, path: str, status: int) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status


def test_nothing_acceptable_is_406_and_says_what_there_is(client: TestClient, ct_url: str) -> None:
    response = client.get(ct_url, headers={"Accept": "image/png"})
    assert response.status_code == 406
    assert "application/octet-stream" in response.json()["detail"]
    for accept in ("*/*", "application/*", "image/png, application/octet-stream;q=0.1", "text/html, */*;q=0.8"):
        assert client.get(ct_url, headers={"Accept": accept}).status_code == 200


def test_two_accept_headers_count_as_one(client: TestClient, ct_url: str) -> None:
    headers = [("Accept", "text/html"), ("Accept", "application/x-npy")]
    assert client.get(ct_url, headers=headers).headers["content-type"] == "application/x-npy"


def test_head_answers_the_headers_of_get(client: TestClient, ct_url: str) -> None:
    for path in (ct_url, "/health/live", "/api/studies"):
        get, head = client.get(path), client.head(path)
        assert head.status_code == get.status_code == 200
        for name in ("content-type", "content-length", "etag", "x-array-shape"):
            assert head.headers.get(name) == get.headers.get(name)


def test_a_truncated_file_is_422_with_its_uid(client: TestClient, frame_urls: dict[str, list[str]]) -> None:
    uid = str(sample("MR_truncated.dcm").SOPInstanceUID)
    response = client.get(frame_urls[uid][0])
    assert response.status_code == 422
    assert uid in response.json()["detail"]
    assert response.json()["sop_instance_uid"] == uid


def test_answers_carry_the_security_headers(client: TestClient, ct_url: str) -> None:
    for path in (ct_url, "/api/nothing", "/health/live"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
