"""dcmjs-org's dicomweb-client in Chromium, from another origin, and dcmjs on the metadata that it gets."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from playwright.sync_api import Page

from tests.api.served import serving
from tests.clients import archive
from tests.clients.conftest import DicomWeb
from tests.clients.test_cornerstone import loader as loader
from tests.clients.test_cornerstone import phantom_uids, sample_uids

pytestmark = pytest.mark.browser


def call(page: Page, root: str, method: str, **options: Any) -> Any:
    """A method of the client; bytes come back as bytes."""
    found = page.evaluate("([root, method, options]) => clients.call(root, method, options)", [root, method, options])
    return [unpacked(one) for one in found] if isinstance(found, list) else unpacked(found)


def unpacked(answer: Any) -> Any:
    """base64 to bytes."""
    return base64.b64decode(answer["base64"]) if isinstance(answer, dict) and "base64" in answer else answer


def instance(uids: list[str]) -> dict[str, str]:
    """The client's names for the three UIDs."""
    return dict(zip(("studyInstanceUID", "seriesInstanceUID", "sopInstanceUID"), uids, strict=True))


def test_searches_find_studies_series_and_instances(loader: Page, dicomweb: DicomWeb) -> None:
    root = dicomweb.root
    [study] = call(loader, root, "searchForStudies", queryParams={"PatientName": "Demo*", "limit": 101, "offset": 0})
    assert study["0020000D"]["Value"] == [archive.STUDY_UID]
    series = call(loader, root, "searchForSeries", studyInstanceUID=archive.STUDY_UID)
    assert [one["00200011"]["Value"][0] for one in series] == [one.number for one in archive.PHANTOM]
    one = archive.series_uid(archive.PHANTOM[0])
    found = call(loader, root, "searchForInstances", studyInstanceUID=archive.STUDY_UID, seriesInstanceUID=one)
    assert len(found) == archive.SLICES
    assert call(loader, root, "searchForStudies", queryParams={"PatientID": "nobody"}) in ([], None)


def test_dcmjs_reads_the_metadata_as_a_dataset(loader: Page, dicomweb: DicomWeb) -> None:
    study, series, sop = phantom_uids(3, 0)
    found = loader.evaluate(
        """async (where) => {
          const sets = await clients.naturalized(...where);
          const [first] = sets;
          return { uids: sets.map((one) => one.SOPInstanceUID), rows: first.Rows, spacing: [...first.PixelSpacing],
                   center: [...first.WindowCenter], name: String(first.PatientName), padding: first.PixelPaddingValue };
        }""",
        [dicomweb.root, study, series],
    )
    assert found == {
        "uids": [archive.instance_uid(archive.PHANTOM[2], n) for n in range(archive.SLICES)],
        "rows": 512,
        "spacing": [0.75, 0.75],
        "center": [40, -600],
        "name": "Demo^Phantom",
        "padding": -2000,
    }
    assert sop in found["uids"]


def test_an_instance_arrives_as_a_file_that_dcmjs_reads(loader: Page, dicomweb: DicomWeb) -> None:
    """The client cannot name a transfer syntax here: it gets Explicit VR Little Endian, but lossy files as they are."""
    uids = phantom_uids(2, 4)
    found = call(loader, dicomweb.root, "retrieveInstance", **instance(uids))
    assert np.array_equal(pydicom.dcmread(io.BytesIO(found)).pixel_array, archive.stored_values(4))
    for name in ("693_J2KI.dcm", "CT_small.dcm"):
        found = call(loader, dicomweb.root, "retrieveInstance", **instance(sample_uids(dicomweb, name)))
        assert found == dicomweb.files[name].read_bytes()
        rows = loader.evaluate("(text) => clients.readFile(text).Rows", base64.b64encode(found).decode())
        assert rows == pydicom.dcmread(dicomweb.files[name]).Rows


def test_frames_and_lists_of_them_arrive(loader: Page, dicomweb: DicomWeb) -> None:
    [plain] = call(loader, dicomweb.root, "retrieveInstanceFrames", **instance(phantom_uids(5, 1)), frameNumbers=[1])
    assert plain == archive.stored_values(1).tobytes()
    wish = [{"mediaType": "application/octet-stream", "transferSyntaxUID": "*"}]
    [stored] = call(
        loader,
        dicomweb.root,
        "retrieveInstanceFrames",
        **instance(phantom_uids(4, 1)),
        frameNumbers=[1],
        mediaTypes=wish,
    )
    encode = archive.PHANTOM[3].encode
    assert encode is not None
    assert stored in (encode(archive.stored_values(1)), encode(archive.stored_values(1)) + b"\0")
    uids = sample_uids(dicomweb, "SC_rgb_rle_2frame.dcm")
    pixels = pydicom.dcmread(dicomweb.files["SC_rgb_rle_2frame.dcm"]).pixel_array
    both = call(loader, dicomweb.root, "retrieveInstanceFrames", **instance(uids), frameNumbers=[1, 2])
    assert both == [frame.tobytes() for frame in pixels]


def test_rendered_pictures_and_thumbnails_arrive(loader: Page, dicomweb: DicomWeb) -> None:
    address = instance(sample_uids(dicomweb, "CT_small.dcm"))
    for kind, start in (("image/png", b"\x89PNG"), ("image/jpeg", b"\xff\xd8")):
        wish = [{"mediaType": kind}]
        for method in ("retrieveInstanceRendered", "retrieveInstanceFramesRendered", "retrieveInstanceFramesThumbnail"):
            frames = {} if method == "retrieveInstanceRendered" else {"frameNumbers": [1]}
            found = call(loader, dicomweb.root, method, **address, **frames, mediaTypes=wish)
            assert (found[0] if isinstance(found, list) else found).startswith(start), method


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The ``/dicomweb`` of a service that has nothing yet and stores what it is sent, from any page."""
    (tmp_path / "root").mkdir()
    (tmp_path / "work").mkdir()
    environment = {"GPU_RENDER_STORE_PATH": str(tmp_path / "root"), "GPU_RENDER_CORS_ORIGINS": '["*"]'}
    with serving(tmp_path / "root", tmp_path / "work", environment=environment) as running:
        yield f"http://127.0.0.1:{running.port}/dicomweb"


def test_instances_are_stored_from_a_page_and_come_back(loader: Page, dicomweb: DicomWeb, store: str) -> None:
    """The client's body begins with an empty line, and the request is preceded by a preflight."""
    names = ("CT_small.dcm", "693_J2KI.dcm")
    content = [dicomweb.files[name].read_bytes() for name in names]
    call(loader, store, "storeInstances", datasets=[base64.b64encode(one).decode() for one in content])
    for name, one in zip(names, content, strict=True):
        assert call(loader, store, "retrieveInstance", **instance(sample_uids(dicomweb, name))) == one
