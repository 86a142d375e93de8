"""Cornerstone3D's own wadors loader in Chromium, from another origin: its requests, its parsing, its decoders.

The pixel values that arrive are compared with what was stored. Range requests are the loader's, seen on the wire.
"""

import base64
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from playwright.sync_api import Page, Response

from tests.clients import archive
from tests.clients.conftest import DicomWeb

pytestmark = pytest.mark.browser

UNSCALED = {"preScale": {"enabled": False}}
RPCL = "1.2.840.10008.1.2.4.202"
STAGES = [{"id": "first", "retrieveType": "first"}, {"id": "last", "retrieveType": "last"}]
DTYPES = {
    "Uint8Array": "u1",
    "Uint8ClampedArray": "u1",
    "Int8Array": "i1",
    "Uint16Array": "<u2",
    "Int16Array": "<i2",
    "Float32Array": "<f4",
}
FULL_RESOLUTION = 8


@pytest.fixture
def loader(tab: Page, page_origin: str) -> Page:
    """The page with the loader in it."""
    tab.goto(page_origin)
    tab.wait_for_function("window.clients")
    return tab


def values(picture: dict[str, Any]) -> npt.NDArray[Any]:
    """Pixel values as the loader has them: (rows, columns) or (rows, columns, samples)."""
    flat = np.frombuffer(base64.b64decode(picture["values"]), DTYPES[picture["kind"]])
    rows, columns = picture["shape"]
    return flat.reshape(rows, columns) if flat.size == rows * columns else flat.reshape(rows, columns, -1)


def load(page: Page, dicomweb: DicomWeb, uids: list[str], frame: int = 1, **options: Any) -> dict[str, Any]:
    """One frame by the loader."""
    found: dict[str, Any] = page.evaluate(
        "([root, uids, frame, options]) => clients.load(root, uids, frame, options)",
        [dicomweb.root, uids, frame, {**UNSCALED, **options}],
    )
    return found


def phantom_uids(number: int, position: int) -> list[str]:
    """Study, series and SOP Instance UID of a slice of the phantom."""
    series = archive.PHANTOM[number - 1]
    return [archive.STUDY_UID, archive.series_uid(series), archive.instance_uid(series, position)]


def sample_uids(dicomweb: DicomWeb, name: str) -> list[str]:
    """The same of a sample."""
    ds = pydicom.dcmread(dicomweb.files[name], stop_before_pixels=True)
    return [str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)]


def stored_array(dicomweb: DicomWeb, uids: list[str], frame: int = 1) -> npt.NDArray[Any]:
    """The service's own stored values, which tests/conformance compares with four other readers."""
    study, series, instance = uids
    url = f"{dicomweb.root.removesuffix('/dicomweb')}/api/studies/{study}/series/{series}/instances/{instance}"
    answer = httpx.get(f"{url}/frames/{frame}", params={"stage": "stored"})
    shape = [int(n) for n in answer.headers["x-array-shape"].split(",")]
    return np.frombuffer(answer.content, answer.headers["x-array-dtype"]).reshape(shape)


@pytest.mark.parametrize("series", archive.PHANTOM, ids=lambda one: one.folder)
def test_a_slice_in_any_syntax_arrives_as_it_is_stored_and_decodes_to_its_values(
    loader: Page, dicomweb: DicomWeb, series: Any
) -> None:
    picture = load(loader, dicomweb, phantom_uids(series.number, 3))
    assert picture["transferSyntax"] == series.transfer_syntax_uid
    assert np.array_equal(values(picture), archive.stored_values(3))


def test_the_loader_scales_to_hounsfield_units_with_the_metadata(loader: Page, dicomweb: DicomWeb) -> None:
    picture = load(loader, dicomweb, phantom_uids(2, 0), preScale={"enabled": True})
    assert np.array_equal(values(picture), archive.stored_values(0).astype("f4") - 1024)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("CT_small.dcm", 1),
        ("MR_small_bigendian.dcm", 1),
        ("693_J2KI.dcm", 1),
        ("image_dfl.dcm", 1),
        ("SC_rgb_rle_2frame.dcm", 2),
    ],
)
def test_samples_decode_to_the_values_that_the_service_has(
    loader: Page, dicomweb: DicomWeb, name: str, frame: int
) -> None:
    uids = sample_uids(dicomweb, name)
    assert np.array_equal(values(load(loader, dicomweb, uids, frame)), stored_array(dicomweb, uids, frame))


@pytest.mark.parametrize(("name", "frame"), [("JPEG-lossy.dcm", 1), ("examples_ybr_color.dcm", 30)])
def test_lossy_pictures_differ_by_the_rounding_of_two_decoders(
    loader: Page, dicomweb: DicomWeb, name: str, frame: int
) -> None:
    uids = sample_uids(dicomweb, name)
    theirs = values(load(loader, dicomweb, uids, frame)).astype(int)
    if name == "JPEG-lossy.dcm":  # the loader's decoder of 12 bits is 15 too high everywhere, of 4096
        assert np.ptp(theirs - stored_array(dicomweb, uids, frame)) <= 8
        return
    study, series, instance = uids
    url = f"{dicomweb.root.removesuffix('/dicomweb')}/api/studies/{study}/series/{series}/instances/{instance}"
    rgb = np.frombuffer(httpx.get(f"{url}/frames/{frame}").content, "u1").reshape(240, 320, 3).astype(int)
    assert np.abs(theirs[..., :3] - rgb).mean() < 3


def test_a_palette_picture_is_coloured_by_the_tables_in_the_metadata(loader: Page, dicomweb: DicomWeb) -> None:
    """Only Cornerstone3D's newer metadata package reads the tables, and only inline: those of 1 KiB or less are."""
    uids = sample_uids(dicomweb, "examples_palette.dcm")
    theirs = values(load(loader, dicomweb, uids, 1, newer=True))
    study, series, instance = uids
    url = f"{dicomweb.root.removesuffix('/dicomweb')}/api/studies/{study}/series/{series}/instances/{instance}"
    answer = httpx.get(f"{url}/frames/1")
    rgb = np.frombuffer(answer.content, "u1").reshape(*theirs.shape[:2], 3).astype(int)
    assert np.abs(theirs[..., :3].astype(int) - rgb).max() <= 1


@pytest.fixture
def wire(loader: Page) -> Callable[[], list[Response]]:
    """All answers about frames since the test began."""
    seen: list[Response] = []
    loader.on("response", lambda response: seen.append(response) if "/frames/" in response.url else None)
    return lambda: [response for response in seen if response.request.method == "GET"]


def in_stages(page: Page, dicomweb: DicomWeb, uids: list[str], options: dict[str, Any]) -> list[dict[str, Any]]:
    """The pictures that the loader makes on its way to the whole frame."""
    found = page.evaluate(
        "([root, uids, stages, options]) => clients.loadInStages(root, uids, 1, stages, options)",
        [dicomweb.root, uids, STAGES, options],
    )
    assert found["errors"] == []
    pictures: list[dict[str, Any]] = found["pictures"]
    return pictures


def test_byte_ranges_bring_a_coarse_picture_first_and_then_the_whole_one(
    loader: Page, dicomweb: DicomWeb, wire: Callable[[], list[Response]]
) -> None:
    """The loader glues the ranges of one multipart body together: the boundary must not change from one to the next."""
    options = {"first": {"rangeIndex": 0, "initialChunkSize": 30_000, "decodeLevel": 3}, "last": {"rangeIndex": -1}}
    pictures = in_stages(loader, dicomweb, phantom_uids(7, 2), options)
    assert [response.status for response in wire()] == [206, 206]
    ranges = [response.request.header_value("range") or "" for response in wire()]
    assert ranges[0] == "bytes=0-29999"
    assert ranges[1].startswith("bytes=30000-")
    first, second = (response.header_value("content-range") or "" for response in wire())
    assert first.startswith("bytes 0-29999/")
    assert second.split("/")[1] == first.split("/")[1]
    assert pictures[0]["quality"] < FULL_RESOLUTION
    assert pictures[0]["shape"][0] < 512
    assert pictures[-1]["quality"] == FULL_RESOLUTION
    assert np.array_equal(values(pictures[-1]), archive.stored_values(2))


def test_a_range_longer_than_the_frame_is_the_frame(
    loader: Page, dicomweb: DicomWeb, wire: Callable[[], list[Response]]
) -> None:
    options = {"first": {"rangeIndex": 0, "initialChunkSize": 2_000_000}, "last": {"rangeIndex": -1}}
    pictures = in_stages(loader, dicomweb, phantom_uids(7, 2), options)
    assert [r.status for r in wire()] == [206]
    assert np.array_equal(values(pictures[-1]), archive.stored_values(2))


def test_ranges_of_a_frame_that_is_transcoded_for_progressive_display(
    loader: Page, dicomweb: DicomWeb, wire: Callable[[], list[Response]]
) -> None:
    """A JPEG 2000 slice asked for in HTJ2K RPCL: the loader passes the wish on as ``accept=`` in the URL."""
    argument = f"accept=multipart/related; type=application/octet-stream; transfer-syntax={RPCL}"
    first = {"rangeIndex": 0, "initialChunkSize": 30_000, "decodeLevel": 3, "urlArguments": argument}
    last = {"rangeIndex": -1, "urlArguments": argument}
    pictures = in_stages(loader, dicomweb, phantom_uids(2, 6), {"first": first, "last": last})
    assert [response.status for response in wire()] == [206, 206]
    assert {picture["transferSyntax"] for picture in pictures} == {RPCL}
    assert pictures[0]["shape"][0] < 512
    assert np.array_equal(values(pictures[-1]), archive.stored_values(6))


def test_a_streamed_frame_is_shown_while_it_arrives(
    loader: Page, dicomweb: DicomWeb, wire: Callable[[], list[Response]]
) -> None:
    """The loader reads Content-Length of the stream, which a page of another origin sees only if it is exposed."""
    options = {"first": {"streaming": True, "initialChunkSize": 20_000}, "last": {"streaming": True}}
    pictures = in_stages(loader, dicomweb, phantom_uids(7, 1), options)
    assert [(r.request.header_value("range"), r.status) for r in wire()] == [(None, 200)]
    assert pictures[-1]["quality"] == FULL_RESOLUTION
    assert np.array_equal(values(pictures[-1]), archive.stored_values(1))
