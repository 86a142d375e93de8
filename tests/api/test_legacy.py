"""The old viewer's route: its JSON, its binary form, its ids."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID
from starlette.testclient import TestClient

from api.app import create_app
from api.legacy import luminance
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan


def image_id(client: TestClient, path: Path) -> int:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    manifest = client.get(f"/api/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}").json()
    frames = [f for f in manifest["frames"] if f["sop_instance_uid"] == dataset.SOPInstanceUID]
    return int(frames[0]["id"])


def frame_url(client: TestClient, path: Path) -> str:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return (
        f"/api/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}/frames/1"
    )


@pytest.fixture
def ct(samples: Path) -> Path:
    return samples / "test_files" / "CT_small.dcm"


def test_the_json_is_what_an_old_viewer_reads(client: TestClient, ct: Path) -> None:
    response = client.get(f"/dicom-viewer/api/image/{image_id(client, ct)}/data/", params={"window": "40,400"})
    body = response.json()
    dataset = pydicom.dcmread(ct)
    display = client.get(frame_url(client, ct), params={"window": "40,400"}).content
    assert response.headers["content-type"] == "application/json"
    assert bytes(body["pixel_data"]) == display
    assert (body["rows"], body["columns"]) == (128, 128)
    assert (body["window_center"], body["window_width"]) == (40, 400)
    assert (body["bits_allocated"], body["bits_stored"]) == (16, 16)
    assert body["pixel_spacing"] == [float(v) for v in dataset.PixelSpacing]
    assert body["slice_thickness"] == float(dataset.SliceThickness)
    assert (body["rescale_slope"], body["rescale_intercept"]) == (1, -1024)
    assert body["modality"] == "CT"
    assert body["patient_id"] == dataset.PatientID


def test_the_binary_form_holds_the_same_values(client: TestClient, ct: Path) -> None:
    url = f"/dicom-viewer/api/image/{image_id(client, ct)}/data/"
    binary = client.get(url, headers={"Accept": "application/octet-stream"})
    assert binary.headers["x-array-shape"] == "128,128"
    assert list(binary.content) == client.get(url).json()["pixel_data"]
    assert client.get(url, headers={"Accept": "text/html"}).status_code == 406


def test_colour_comes_as_luminance_and_says_so(client: TestClient, samples: Path) -> None:
    path = samples / "test_files" / "examples_rgb_color.dcm"
    body = client.get(f"/dicom-viewer/api/image/{image_id(client, path)}/data/").json()
    rgb = pydicom.dcmread(path).pixel_array.astype(int)
    want = (299 * rgb[..., 0] + 587 * rgb[..., 1] + 114 * rgb[..., 2] + 500) // 1000
    assert body["pixel_data"] == want.ravel().tolist()
    assert body["original_photometric_interpretation"] == "RGB"
    assert body["samples_per_pixel"] == 1
    assert body["window_center"] is None


def test_luminance_of_grey_is_the_grey() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(luminance(np.stack([grey] * 3, axis=-1)), grey)
    assert luminance(grey) is grey


def test_frames_are_picked_by_number(client: TestClient, samples: Path) -> None:
    path = samples / "test_files" / "rtdose.dcm"
    url = f"/dicom-viewer/api/image/{image_id(client, path)}/data/"
    first, last = (client.get(url, params={"frame": n}).json() for n in (1, 15))
    assert (first["frame"], last["frame"], last["number_of_frames"]) == (1, 15, 15)
    assert first["pixel_data"] != last["pixel_data"]
    assert client.get(url, params={"frame": 16}).status_code == 404
    assert client.get(url, params={"frame": 0}).status_code == 400


@pytest.mark.parametrize("number", ["0", "999999", "-1", "x", "9" * 30])
def test_an_unknown_id_is_404(client: TestClient, number: str) -> None:
    response = client.get(f"/dicom-viewer/api/image/{number}/data/")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_an_object_without_pixels_is_406(client: TestClient, samples: Path) -> None:
    """Every instance has an id, shown or not; this one is found by trying the ids that no manifest names."""
    answers = {client.get(f"/dicom-viewer/api/image/{n}/data/").status_code for n in range(1, 140)}
    assert {200, 406} <= answers
    assert not any(status >= 500 and status != 501 for status in answers)


def test_ids_survive_restarts_removal_and_return(tmp_path: Path, ct: Path) -> None:
    root, index = tmp_path / "root", tmp_path / "index.sqlite"
    root.mkdir()
    settings = Settings(roots=(root,), index_path=index, backend="cpu", workers=1)
    (root / "b.dcm").write_bytes(ct.read_bytes())
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        wait_for_scan(client)
        number = image_id(client, root / "b.dcm")
    other = pydicom.dcmread(ct)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    other.save_as(root / "a.dcm")
    (root / "b.dcm").unlink()
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        wait_for_scan(client)
        assert image_id(client, root / "a.dcm") != number
        assert client.get(f"/dicom-viewer/api/image/{number}/data/").status_code == 404
    (root / "c.dcm").write_bytes(ct.read_bytes())
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        wait_for_scan(client)
        assert image_id(client, root / "c.dcm") == number
