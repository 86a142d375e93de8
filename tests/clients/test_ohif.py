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
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect

from gpu_render.demo import PhantomSeries
from tests.clients import archive, install
from tests.clients.conftest import DicomWeb
from tests.clients.static import served

pytestmark = pytest.mark.browser

DOCUMENT = Path(__file__).parents[2] / "docs" / "dicomweb.md"
ALIKE = 0.98
"""Correlation of a canvas with the service's picture: two resamplings of one picture have 0.99 and more, two
neighbouring slices less than 0.97."""

LONG_MS = 40_000
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
    """The square in the middle of the viewport's canvas, in which the picture lies, scaled to (512, 512)."""
    address: str = page.locator("canvas.cornerstone-canvas").evaluate("(canvas) => canvas.toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("L")
    side, (width, height) = min(picture.size), picture.size
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)).resize((512, 512)), float)


def likeness(page: Page, wanted: Grey) -> float:
    """Correlation of the canvas with a picture; 0 while the canvas is blank."""
    shown = canvas(page)
    return float(np.corrcoef(shown.ravel(), wanted.ravel())[0, 1]) if shown.std() > 1 else 0.0


def wait_until_shown(page: Page, wanted: Grey) -> None:
    """Until the canvas shows a picture."""
    for _ in range(200):
        if likeness(page, wanted) > ALIKE:
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
    assert likeness(viewer, displayed(dicomweb, native, archive.SLICES - 1)) < ALIKE
    for series in archive.PHANTOM:
        middle = displayed(dicomweb, series, archive.SLICES // 2)
        assert np.corrcoef(thumbnail(viewer, series.number).ravel(), middle.ravel())[0, 1] > 0.9
    viewer.locator("canvas.cornerstone-canvas").hover()
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
