"""What viewers trip over elsewhere, asked of this service as their own code asks.

What is tested in more depth beside this file (test_frames, test_qido, test_rendered, test_stow ...) is not repeated.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from starlette.testclient import TestClient

from tests.api.answers import SERIES, STUDY, serve
from tests.api.dicomweb.bodies import parts
from tests.data import encapsulate, image, sample, write, write_image

SAMPLES = ("CT_small.dcm", "examples_ybr_color.dcm", "examples_palette.dcm", "reportsi.dcm", "liver_1frame.dcm")
CORNERSTONE = "multipart/related; type=application/octet-stream; transfer-syntax=*"
OHIF = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
FRAMES = 20_000


def path_of(file: Path) -> str:
    """Where an instance is below ``/dicomweb``."""
    ds = pydicom.dcmread(file, stop_before_pixels=True)
    return f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def built(uid: str) -> str:
    """The same of a file that ``tests.data`` wrote."""
    return f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{uid}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service over samples and files made here, those of one Patient ID in two places."""
    root = tmp_path_factory.mktemp("interop")
    for name in SAMPLES:
        shutil.copyfile(sample(name), root / name)
    for issuer in ("NORTH", "SOUTH"):
        ds = pydicom.dcmread(sample("MR_small.dcm"))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientID, ds.IssuerOfPatientID, ds.PatientName = "SHARED", issuer, f"Somebody^{issuer}"
        ds.save_as(root / f"{issuer}.dcm")
    numbers = np.arange(FRAMES, dtype="<u2").reshape(FRAMES, 1, 1)
    write_image(root / "many.dcm", np.broadcast_to(numbers, (FRAMES, 2, 2)).copy(), SOPInstanceUID="1.2.4.9")
    for last in (202, 203):
        ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
        frame = bytes(imagecodecs.htj2k_encode(ramp, reversible=True))
        write_htj2k(root / f"{last}.dcm", f"1.2.840.10008.1.2.4.{last}", f"1.2.4.{last}", frame)
    with serve(root, workers=2) as running:
        yield running.client


def write_htj2k(path: Path, syntax: str, uid: str, frame: bytes) -> None:
    """One slice of 64 x 64."""
    attributes = image(64, 64, SOPInstanceUID=uid)
    write(path, attributes, encapsulate([frame]), syntax=syntax)


@pytest.mark.parametrize("accept", [CORNERSTONE, OHIF])
@pytest.mark.parametrize("last", [202, 203])
def test_a_progressive_frame_can_be_streamed_and_cut(client: TestClient, accept: str, last: int) -> None:
    """Loaders draw after each piece: they need the length beforehand, and ranges that fit together."""
    url, headers = f"{built(f'1.2.4.{last}')}/frames/1", {"Accept": accept}
    whole = client.get(url, headers=headers)
    assert int(whole.headers["content-length"]) == len(whole.content)
    [part] = parts(whole)
    assert part.transfer_syntax_uid == f"1.2.840.10008.1.2.4.{last}"
    first = client.get(url, headers={**headers, "Range": "bytes=0-399"})
    rest = client.get(url, headers={**headers, "Range": "bytes=400-"})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == whole.content
    assert rest.headers["content-range"] == f"bytes 400-{len(whole.content) - 1}/{len(whole.content)}"


def test_a_frame_far_behind_in_one_object_is_that_frame(client: TestClient) -> None:
    for number in (1, FRAMES // 2, FRAMES):
        [part] = parts(client.get(f"{built('1.2.4.9')}/frames/{number}", headers={"Accept": CORNERSTONE}))
        assert part.data == np.full(4, number - 1, "<u2").tobytes()


def test_many_frames_come_in_one_request(client: TestClient) -> None:
    numbers = list(range(2000, 0, -1))
    url = f"{built('1.2.4.9')}/frames/{','.join(map(str, numbers))}"
    found = parts(client.get(url, headers={"Accept": OHIF}))
    assert [int(np.frombuffer(part.data, "<u2")[0]) + 1 for part in found] == numbers


def test_an_object_without_pixels_is_refused_and_not_waited_for(client: TestClient) -> None:
    url = path_of(sample("reportsi.dcm"))
    for resource in ("/frames/1", "/rendered", "/thumbnail"):
        accept = CORNERSTONE if resource == "/frames/1" else "image/png"
        answer = client.get(url + resource, headers={"Accept": accept})
        assert answer.status_code == 406
        assert "the object has no pixels" in answer.json()["detail"]


def test_patients_of_two_facilities_with_one_id_stay_apart(client: TestClient) -> None:
    found = client.get("/dicomweb/studies", params={"PatientID": "SHARED", "includefield": "IssuerOfPatientID"}).json()
    assert sorted(one["00100021"]["Value"][0] for one in found) == ["NORTH", "SOUTH"]
    assert len({one["0020000D"]["Value"][0] for one in found}) == 2
    params = {"PatientID": "SHARED", "IssuerOfPatientID": "SOUTH"}
    [south] = client.get("/dicomweb/studies", params=params).json()
    assert south["00100010"]["Value"] == [{"Alphabetic": "Somebody^SOUTH"}]


def metadata(client: TestClient, name: str) -> dict[str, Any]:
    """Of a sample's instance."""
    [found] = client.get(f"{path_of(sample(name))}/metadata").json()
    assert isinstance(found, dict)
    return found


def test_metadata_have_what_viewers_draw_with(client: TestClient) -> None:
    """Pixel padding, ultrasound regions, palettes; never the pixels; and what a frame can be had in."""
    ct, us, palette = (metadata(client, name) for name in SAMPLES[:3])
    assert ct["00280120"] == {"vr": "SS", "Value": [-2000]}
    assert us["00186011"]["Value"][0]["00186024"]["Value"] == [3]  # Physical Units X Direction: cm
    assert all("InlineBinary" in palette[tag] or "BulkDataURI" in palette[tag] for tag in ("00281201", "00281203"))
    for one in (ct, us, palette):
        assert set(one["7FE00010"]) == {"vr", "BulkDataURI"}
        assert one["7FE00010"]["BulkDataURI"].startswith("/dicomweb/studies/")
    assert us["00083002"]["Value"][0] == "1.2.840.10008.1.2.4.50"
    assert "1.2.840.10008.1.2.1" in us["00083002"]["Value"]


def test_what_metadata_say_can_be_had_is_had(client: TestClient) -> None:
    """0008,3002 lists transfer syntaxes that a viewer may then ask for."""
    for name in ("CT_small.dcm", "examples_ybr_color.dcm"):
        for uid in metadata(client, name)["00083002"]["Value"]:
            accept = f"multipart/related; type=application/octet-stream; transfer-syntax={uid}"
            [part] = parts(client.get(f"{path_of(sample(name))}/frames/1", headers={"Accept": accept}))
            assert part.transfer_syntax_uid == uid


def test_an_etag_is_no_way_around_what_is_not_there(client: TestClient) -> None:
    """304 is decided as any answer is: what does not exist, or may not be had in that form, is no 304."""
    url = f"{path_of(sample('CT_small.dcm'))}/frames/1"
    known = client.get(url, headers={"Accept": CORNERSTONE})
    assert known.headers["vary"] == "Accept, Authorization"
    assert known.headers["cache-control"] == "private, max-age=31536000, immutable"
    tag = {"If-None-Match": known.headers["etag"]}
    assert client.get(url, headers={"Accept": CORNERSTONE, **tag}).status_code == 304
    assert client.get(url, headers={"Accept": "image/jls", **tag}).status_code == 406
    assert client.get(f"{built('1.2.3')}/frames/1", headers=tag).status_code == 404
    assert client.get(f"{built('1.2.3')}/frames/1", headers={"If-None-Match": "*"}).status_code == 404


def test_unknown_parameters_of_proxies_and_viewers_are_ignored(client: TestClient) -> None:
    url = path_of(sample("CT_small.dcm"))
    for resource in ("/frames/1", "/rendered", "/metadata", ""):
        plain, decorated = client.get(url + resource), client.get(f"{url}{resource}?_=1699999999&token=abc")
        assert (decorated.status_code, decorated.content) == (plain.status_code, plain.content), resource
