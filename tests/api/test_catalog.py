"""Studies, manifests and the index, against what pydicom reads from the same files."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render import PIPELINE_VERSION
from gpu_render.settings import Settings
from tests.api.answers import SERIES, STUDY, serve
from tests.api.conftest import sop_instance_uid, wait_for_scan
from tests.data import write_image


@pytest.fixture(scope="module")
def studies(client: TestClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/studies").json()["studies"]
    return found


def manifest(client: TestClient, study: dict[str, Any], series: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
    body: dict[str, Any] = client.get(path).json()
    return body


def test_the_study_list_names_what_a_list_shows(
    client: TestClient, samples: Path, studies: list[dict[str, Any]]
) -> None:
    dataset = pydicom.dcmread(samples / "test_files" / "CT_small.dcm")
    study = next(s for s in studies if s["study_instance_uid"] == dataset.StudyInstanceUID)
    assert study["patient_name"] == str(dataset.PatientName)
    assert study["patient_id"] == dataset.PatientID
    assert study["study_date"] == dataset.StudyDate
    assert study["study_description"] == dataset.StudyDescription
    assert study["modalities"] == ["CT"]
    assert study["series_count"] == len(study["series"])
    for key in ("instance_count", "frame_count"):
        assert study[key] == sum(series[key] for series in study["series"])


def test_names_in_other_alphabets_arrive(studies: list[dict[str, Any]]) -> None:
    names = {study["patient_name"] for study in studies}
    assert "قباني^لنزار" in names
    assert "Διονυσιος" in names
    assert "Buc^Jérôme" in names


def test_counts_of_the_index_equal_those_of_the_studies(client: TestClient, studies: list[dict[str, Any]]) -> None:
    state = client.get("/api/index").json()
    assert state["instances"] == sum(study["instance_count"] for study in studies)
    assert state["frames"] == sum(study["frame_count"] for study in studies)
    assert state["scanning"] is False


def test_unreadable_files_are_listed_below_their_root_with_a_reason(client: TestClient, samples: Path) -> None:
    unreadable = {entry["path"]: entry["reason"] for entry in client.get("/api/index").json()["unreadable"]}
    assert unreadable["test_files/README.txt"] == "not a DICOM file"
    assert "DICOMDIR" in unreadable["test_files/dicomdirtests/DICOMDIR"]
    assert not any(str(samples) in text for pair in unreadable.items() for text in pair)


def test_every_manifest_describes_its_frames(client: TestClient, studies: list[dict[str, Any]]) -> None:
    seen = 0
    for study in studies:
        for series in study["series"]:
            body = manifest(client, study, series)
            assert len(body["frames"]) == series["frame_count"]
            for frame in body["frames"]:
                seen += 1
                stored = client.get(frame["url"], params={"stage": "stored"})
                if stored.status_code == 200:
                    assert stored.headers["x-array-shape"] == ",".join(map(str, frame["shape"]))
                    assert stored.headers["x-array-dtype"] == frame["dtype"]
                else:
                    assert stored.status_code in (422, 501)
            thumbnail = series["thumbnail"]
            assert (thumbnail is None) == (series["frame_count"] == 0)
    assert seen > 100


def test_a_manifest_holds_what_a_viewer_needs(client: TestClient, samples: Path) -> None:
    dataset = pydicom.dcmread(samples / "test_files" / "CT_small.dcm")
    path = f"/api/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    frame = client.get(path).json()["frames"][0]
    assert frame["rescale"] == {"slope": 1.0, "intercept": -1024.0, "unit": "HU"}
    assert frame["pixel_padding"] == [-2000, -2000]
    assert frame["pixel_spacing_mm"] == [float(v) for v in dataset.PixelSpacing]
    assert frame["image_position"] == [float(v) for v in dataset.ImagePositionPatient]
    assert frame["image_orientation"] == [float(v) for v in dataset.ImageOrientationPatient]
    assert frame["windows"] == []
    assert frame["voi_lut"] is False
    assert frame["version"].startswith(f"{PIPELINE_VERSION}-")
    assert frame["inverse"] is False
    assert frame["transfer_syntax_uid"] == dataset.file_meta.TransferSyntaxUID


def test_objects_without_pixels_are_said_to_have_none(client: TestClient, samples: Path) -> None:
    dataset = pydicom.dcmread(samples / "test_files" / "rtplan.dcm", stop_before_pixels=True)
    body = client.get(f"/api/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}").json()
    problem = next(p for p in body["problems"] if p["sop_instance_uid"] == dataset.SOPInstanceUID)
    assert "no pixels" in problem["reason"]
    refused = client.get(
        f"/api/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}/frames/1"
    )
    assert refused.status_code == 406
    assert "no pixels" in refused.json()["detail"]


def test_slices_come_in_anatomical_order(tmp_path: Path, samples: Path) -> None:
    """File names, instance numbers and positions all disagree: positions decide."""
    source = pydicom.dcmread(samples / "test_files" / "CT_small.dcm")
    for number, z in enumerate([30.0, -10.0, 20.0, 0.0]):
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
        source.InstanceNumber = number
        source.ImagePositionPatient = [0, 0, z]
        source.save_as(tmp_path / f"{9 - number}.dcm")
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        wait_for_scan(client)
        study = client.get("/api/studies").json()["studies"][0]
        frames = manifest(client, study, study["series"][0])["frames"]
    positions = np.array([frame["image_position"][2] for frame in frames])
    assert sorted(positions) in (list(positions), list(positions[::-1]))


def test_files_beyond_the_roots_are_never_served(tmp_path: Path, samples: Path) -> None:
    """Symbolic links to files and folders outside are not followed; FIFOs are not opened."""
    outside = samples / "test_files" / "CT_small.dcm"
    root = tmp_path / "root"
    root.mkdir()
    (root / "inside.dcm").write_bytes((samples / "test_files" / "JPEG-lossy.dcm").read_bytes())
    (root / "link.dcm").symlink_to(outside)
    (root / "folder").symlink_to(samples / "test_files", target_is_directory=True)
    os.mkfifo(root / "fifo")
    with TestClient(create_app(Settings(roots=(root,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        state = wait_for_scan(client)
        assert state["instances"] == 1
        hidden = sop_instance_uid(outside)
        assert hidden not in client.get("/api/studies").text


def test_file_names_that_are_no_text_are_listed_all_the_same(tmp_path: Path, samples: Path) -> None:
    ct = (samples / "test_files" / "CT_small.dcm").read_bytes()
    (tmp_path / "good.dcm").write_bytes(ct)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.txt")).write_bytes(b"no DICOM")
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        state = wait_for_scan(client)
    assert len(state["unreadable"]) == 1
    assert state["unreadable"][0]["path"].startswith("caf")


def test_a_manifest_that_was_kept_is_of_what_there_is_now(tmp_path: Path) -> None:
    write_image(tmp_path / "1.dcm", np.zeros((4, 4), np.uint16), SOPInstanceUID="1.2.3.1")
    with serve(tmp_path) as answers:
        path, archive = f"/api/studies/{STUDY}/series/{SERIES}", cast(Any, answers.client.app).state.service.archive
        first = answers.client.get(path)
        for _ in range(3):  # made, kept, from what is kept
            again = answers.client.get(path)
            assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
        assert answers.client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
        write_image(tmp_path / "2.dcm", np.zeros((4, 4), np.uint16), SOPInstanceUID="1.2.3.2")
        archive.scan()
        uids = [frame["sop_instance_uid"] for frame in answers.client.get(path).json()["frames"]]
        assert uids == ["1.2.3.1", "1.2.3.2"]
        write_image(tmp_path / "1.dcm", np.zeros((8, 4), np.uint16), SOPInstanceUID="1.2.3.1")
        archive.scan()
        assert {tuple(frame["shape"]) for frame in answers.client.get(path).json()["frames"]} == {(4, 4), (8, 4)}
        (tmp_path / "2.dcm").unlink()
        archive.scan()
        assert len(answers.client.get(path).json()["frames"]) == 1
