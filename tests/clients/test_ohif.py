"""OHIF as its package ships it, in Chromium, from another origin: list, open, see, switch series, scroll.

What stands on the canvas is compared with what the service itself displays; nothing may land in the error console.
"""

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect

from gpu_render.demo import PhantomSeries
from tests.clients import archive, install
from tests.clients.conftest import DicomWeb
from tests.clients.static import served

pytestmark = pytest.mark.browser

DOCUMENT = Path(__file__).parents[2] / "docs" / "dicomweb.md"
ALIKE = 0.993
"""Correlation of the canvas with the service's picture in its place: 0.998 for the slice itself, 0.987 for the next."""

LONG_MS = 40_000
VIEWPORT = "#viewerLayoutResizableViewportGridPanel canvas.cornerstone-canvas"

Grey = npt.NDArray[np.float64]


def configuration(root: str, **changes: object) -> str:
    """``app-config.js`` of docs/dicomweb.md for the service at ``root``, with ``changes`` in its data source."""
    [text] = (part.split("```")[0] for part in DOCUMENT.read_text("utf-8").split("```js\n")[1:])
    script = text.replace("https://pacs.example.org/dicomweb", root)
    return f"{script}\nObject.assign(window.config.dataSources[0].configuration, {json.dumps(changes)});\n"


@pytest.fixture
def ohif(installed: None, dicomweb: DicomWeb) -> Iterator[str]:
    """The address of an OHIF that is set up as docs/dicomweb.md says."""
    with served(install.OHIF, {"/app-config.js": configuration(dicomweb.root)}) as url:
        yield url


@pytest.fixture
def viewer(tab: Page) -> Page:
    """A page on which OHIF's tour for beginners does not begin."""
    tab.add_init_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")
    return tab


def displayed(dicomweb: DicomWeb, series: PhantomSeries, position: int) -> Grey:
    """The service's own picture of a slice of the phantom, (512, 512), 0 to 255."""
    server = dicomweb.root.removesuffix("/dicomweb")
    where = f"/api/studies/{archive.STUDY_UID}/series/{archive.series_uid(series)}"
    answer = httpx.get(f"{server}{where}/instances/{archive.instance_uid(series, position)}/frames/1")
    return np.frombuffer(answer.content, np.uint8).reshape(512, 512).astype(float)


def canvas(page: Page) -> Grey:
    """What the viewport shows, (height, width)."""
    address: str = page.locator(VIEWPORT).evaluate("(canvas) => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("L"), float)


def fitted(picture: Grey, height: int, width: int) -> Grey:
    """A picture as a viewport of this size shows it: as large as it can be, in the middle, on black."""
    rows, columns = picture.shape
    scale = min(height / rows, width / columns)
    scaled = Image.fromarray(picture.astype(np.uint8)).resize((round(columns * scale), round(rows * scale)))
    whole = Image.new("L", (width, height))
    whole.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return np.asarray(whole, float)


def likeness(page: Page, wanted: Grey) -> float:
    """Correlation of the canvas with a picture; 0 while the canvas is blank."""
    shown = canvas(page)
    return float(np.corrcoef(shown.ravel(), fitted(wanted, *shown.shape).ravel())[0, 1]) if shown.std() > 1 else 0.0


def wait_until_shown(page: Page, wanted: Grey, alike: float = ALIKE) -> None:
    """Until the canvas shows a picture."""
    for _ in range(200):
        if likeness(page, wanted) > alike:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"the canvas shows something else: likeness {likeness(page, wanted)}")


def thumbnail(page: Page, number: int) -> Grey:
    """The picture beside a series in the study's browser, scaled to (512, 512)."""
    picture = page.locator(f"[data-cy='study-browser-thumbnail'][data-series='{number}'] img")
    expect(picture).to_have_js_property("complete", True, timeout=LONG_MS)
    address: str = picture.evaluate(
        """(image) => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [512, 512];
          canvas.getContext("2d").drawImage(image, 0, 0, 512, 512);
          return canvas.toDataURL("image/png");
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("L"), float)


def open_phantom(page: Page, address: str) -> None:
    """From the study list into the viewer, as a user goes."""
    page.goto(address)
    page.get_by_text("Demo, Phantom").first.dblclick()
    page.wait_for_url("**/viewer?StudyInstanceUIDs=*")
    page.get_by_text("Confirm and hide").click()  # that it is for investigational use only


def test_the_study_list_shows_and_filters_studies(viewer: Page, ohif: str, dicomweb: DicomWeb) -> None:
    viewer.goto(ohif)
    expect(viewer.get_by_text("Demo, Phantom")).to_be_visible(timeout=LONG_MS)
    expect(viewer.get_by_text("CompressedSamples, CT1")).to_be_visible(timeout=LONG_MS)
    with viewer.expect_request(lambda request: "PatientName=" in request.url):
        viewer.locator("input").first.fill("phantom")
    expect(viewer.get_by_text("CompressedSamples, CT1")).to_have_count(0, timeout=LONG_MS)
    expect(viewer.get_by_text("Demo, Phantom")).to_be_visible(timeout=LONG_MS)
    expect(viewer.get_by_text("CT chest and upper abdomen, synthetic")).to_be_visible(timeout=LONG_MS)


def test_a_ct_is_opened_scrolled_and_shown_in_every_transfer_syntax(
    viewer: Page, ohif: str, dicomweb: DicomWeb
) -> None:
    frames: list[Request] = []
    viewer.on("request", lambda request: frames.append(request) if "/frames/" in request.url else None)
    open_phantom(viewer, ohif)
    expect(viewer.get_by_text("1/8").first).to_be_visible(timeout=LONG_MS)
    native = archive.PHANTOM[0]
    wait_until_shown(viewer, displayed(dicomweb, native, 0))
    assert likeness(viewer, displayed(dicomweb, native, 1)) < ALIKE
    for series in archive.PHANTOM:
        middle = displayed(dicomweb, series, archive.SLICES // 2)
        assert np.corrcoef(thumbnail(viewer, series.number).ravel(), middle.ravel())[0, 1] > 0.9
    viewer.locator(VIEWPORT).hover()
    for _ in range(archive.SLICES - 1):
        viewer.mouse.wheel(0, 100)
        viewer.wait_for_timeout(100)
    wait_until_shown(viewer, displayed(dicomweb, native, archive.SLICES - 1))
    for series in archive.PHANTOM[1:]:
        viewer.get_by_text(series.description).first.dblclick()
        wait_until_shown(viewer, displayed(dicomweb, series, 0))
        assert any(archive.instance_uid(series, 0) in request.url for request in frames)
    if target := os.environ.get("GPU_RENDER_OHIF_SCREENSHOT"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        viewer.screenshot(path=target)


def test_thumbnails_can_be_the_services_own(viewer: Page, installed: None, dicomweb: DicomWeb) -> None:
    script = configuration(dicomweb.root, thumbnailRendering="thumbnail", thumbnailRequestStrategy="fetch")
    asked: list[str] = []
    viewer.on("request", lambda request: asked.append(request.url) if "/thumbnail" in request.url else None)
    with served(install.OHIF, {"/app-config.js": script}) as url:
        open_phantom(viewer, url)
        for series in archive.PHANTOM[:2]:
            middle = displayed(dicomweb, series, archive.SLICES // 2)
            assert np.corrcoef(thumbnail(viewer, series.number).ravel(), middle.ravel())[0, 1] > 0.9
        wait_until_shown(viewer, displayed(dicomweb, archive.PHANTOM[0], 0))
    assert len(asked) >= 2


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_bigendian.dcm",
        "SC_rgb_rle_2frame.dcm",
        "examples_palette.dcm",
        "examples_ybr_color.dcm",
        "reportsi.dcm",
    ],
)
def test_other_objects_are_shown(viewer: Page, ohif: str, dicomweb: DicomWeb, name: str) -> None:
    """Big Endian, RLE and JPEG in colour, a palette, many frames; a structured report as text."""
    refused: list[str] = []
    viewer.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    study = pydicom.dcmread(dicomweb.files[name], stop_before_pixels=True).StudyInstanceUID
    viewer.goto(f"{ohif}/viewer?StudyInstanceUIDs={study}")
    if name == "reportsi.dcm":
        expect(viewer.get_by_text("Observation Context Mode").first).to_be_visible(timeout=LONG_MS)
    else:
        expect(viewer.locator(VIEWPORT)).to_be_visible(timeout=LONG_MS)
        wait_until_shown(viewer, own_picture(dicomweb, name), 0.9)  # one of them plays its frames
    assert refused == []


def own_picture(dicomweb: DicomWeb, name: str) -> Grey:
    """The service's picture of a sample's first frame in grey."""
    ds = pydicom.dcmread(dicomweb.files[name], stop_before_pixels=True)
    where = (
        f"studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1/rendered"
    )
    answer = httpx.get(f"{dicomweb.root}/{where}", headers={"Accept": "image/png"})
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"), float)
