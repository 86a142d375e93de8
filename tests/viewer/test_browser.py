"""The viewer in a real Chromium against the real service."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.viewer.conftest import BROKEN_SLICE, HOSTILE_DESCRIPTION, HOSTILE_NAME
from tests.viewer.steps import by_testid, drag, page_position

pytestmark = pytest.mark.browser

Pixels = npt.NDArray[np.uint8]

# What Cornerstone put on its canvas at the centre of every stored pixel, without interpolation: rows * columns * 3
# values. A stored pixel covers at least one of the canvas, so that its centre shows it and no neighbour.
SAMPLE_CANVAS = """
async () => {
  const { viewport } = window.gpuRenderTest;
  viewport.setProperties({ interpolationType: 0 });
  viewport.render();
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const { imageData, dimensions: [columns, rows] } = viewport.getImageData();
  const at = (column, row) => viewport.worldToCanvas(imageData.indexToWorld([column, row, 0]))
    .map((value) => value * window.devicePixelRatio);
  const [first, right, down] = [at(0, 0), at(1, 0), at(0, 1)];
  if (right[0] - first[0] < 1 || down[1] - first[1] < 1) throw new Error("the picture is shown too small");
  const canvas = viewport.getCanvas();
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const values = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const x = Math.floor(first[0] + column * (right[0] - first[0]) + row * (down[0] - first[0]));
      const y = Math.floor(first[1] + column * (right[1] - first[1]) + row * (down[1] - first[1]));
      const offset = (y * canvas.width + x) * 4;
      values.push(data[offset], data[offset + 1], data[offset + 2]);
    }
  }
  return { rows, columns, values };
}
"""


def first_file(path: Path) -> Path:
    return min(path.iterdir()) if path.is_dir() else path


def open_study(page: Page, service: str, path: Path) -> pydicom.Dataset:
    """Open the study of a file by a click on its row; returns that file's header once its picture is there."""
    header = pydicom.dcmread(first_file(path), stop_before_pixels=True)
    page.goto(service)
    page.locator(f'[data-testid="study-row"][data-study="{header.StudyInstanceUID}"]').click()
    page.locator(f'[data-testid="series-item"][data-series="{header.SeriesInstanceUID}"]').click()
    expect(by_testid(page, "window-level")).not_to_be_empty()
    return header


def open_address(page: Page, service: str, path: Path) -> pydicom.Dataset:
    """Open the series of a file by its address, so that it is opened once."""
    header = pydicom.dcmread(first_file(path), stop_before_pixels=True)
    page.goto(f"{service}/#/study/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/slice/1")
    expect(by_testid(page, "window-level")).not_to_be_empty()
    return header


def canvas_pixels(page: Page) -> Pixels:
    answer = page.evaluate(SAMPLE_CANVAS)
    return np.array(answer["values"], np.uint8).reshape(answer["rows"], answer["columns"], 3)


def series_url(service: str, header: pydicom.Dataset) -> str:
    return f"{service}/api/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"


def served_display(service: str, header: pydicom.Dataset, **query: str) -> Pixels:
    """The service's own picture of the first frame, as RGB."""
    url = f"{series_url(service, header)}/instances/{header.SOPInstanceUID}/frames/1"
    return display_at(url, **query)


def display_at(url: str, **query: str) -> Pixels:
    response = httpx.get(url, params={"stage": "display", **query}).raise_for_status()
    shape = tuple(int(side) for side in response.headers["X-Array-Shape"].split(","))
    grey_or_rgb = np.frombuffer(response.content, np.uint8).reshape(shape)
    return grey_or_rgb if grey_or_rgb.ndim == 3 else np.repeat(grey_or_rgb[..., None], 3, axis=2)


def largest_difference(one: Pixels, other: Pixels) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def frame_requests(page: Page) -> list[str]:
    """Addresses of the frames asked for from now on."""
    seen: list[str] = []

    def note(request: Request) -> None:
        if "/frames" in request.url:
            seen.append(request.url)

    page.on("request", note)
    return seen


@pytest.mark.parametrize("name", ["ct", "padded", "monochrome1", "binary", "rgb", "palette", "multiframe", "broken"])
def test_canvas_shows_the_pixels_that_the_service_renders(
    page: Page, service: str, archive: dict[str, Path], name: str
) -> None:
    header = open_study(page, service, archive[name])
    shown = canvas_pixels(page)
    assert shown.std() > 1, "the canvas is blank"
    assert largest_difference(shown, served_display(service, header)) <= 1


def test_a_one_bit_frame_of_nothing_but_foreground_is_white(page: Page, service: str, archive: dict[str, Path]) -> None:
    header = open_study(page, service, archive["ones"])
    assert (served_display(service, header) == 255).all()
    assert (canvas_pixels(page) == 255).all()


def test_stack_of_unlike_frames_shows_each_as_the_service_does(
    page: Page, service: str, archive: dict[str, Path]
) -> None:
    """Curves, inversion, padding, tables and sample types change from slice to slice; nothing of one may stay."""
    header = open_study(page, service, archive["variants"])
    frames = httpx.get(series_url(service, header)).json()["frames"]
    assert len(frames) == len(list(archive["variants"].iterdir()))
    differences = []
    for number, frame in enumerate(frames, start=1):
        expect(by_testid(page, "slice-number")).to_have_text(f"{number} / {len(frames)}")
        expect(by_testid(page, "window-level")).not_to_be_empty()
        expected = display_at(service + frame["url"])
        differences.append((number, largest_difference(canvas_pixels(page), expected)))
        page.keyboard.press("ArrowDown")
    assert [entry for entry in differences if entry[1] > 1] == []


@pytest.mark.parametrize("name", ["ct", "monochrome1"])
def test_inverted_canvas_equals_the_service_inverted(
    page: Page, service: str, archive: dict[str, Path], name: str
) -> None:
    header = open_study(page, service, archive[name])
    page.keyboard.press("i")
    expect(by_testid(page, "window-level")).to_contain_text("inverted")
    assert largest_difference(canvas_pixels(page), served_display(service, header, invert="true")) <= 1


def test_preset_changes_the_window_in_the_browser(page: Page, service: str, archive: dict[str, Path]) -> None:
    header = open_study(page, service, archive["ct"])
    requests = frame_requests(page)
    by_testid(page, "presets").get_by_role("button", name="Bone").click()
    expect(by_testid(page, "window-level")).to_have_text("W 1500 L 300")
    assert largest_difference(canvas_pixels(page), served_display(service, header, window="300,1500")) <= 1
    page.keyboard.press("2")
    expect(by_testid(page, "window-level")).to_have_text("W 400 L 40")
    assert largest_difference(canvas_pixels(page), served_display(service, header, window="40,400")) <= 1
    page.keyboard.press("r")
    expect(by_testid(page, "window-level")).not_to_have_text("W 400 L 40")
    assert largest_difference(canvas_pixels(page), served_display(service, header)) <= 1
    assert requests == []


def test_dragging_changes_the_window_without_a_request(page: Page, service: str, archive: dict[str, Path]) -> None:
    header = open_study(page, service, archive["ct"])
    page.keyboard.press("2")
    expect(by_testid(page, "window-level")).to_have_text("W 400 L 40")
    before = canvas_pixels(page)
    requests = frame_requests(page)
    drag(page, page_position(page, 30, 40), page_position(page, 70, 60))
    expect(by_testid(page, "window-level")).not_to_have_text("W 400 L 40")
    after = canvas_pixels(page)
    assert largest_difference(before, after) > 20
    window = page.evaluate("() => window.gpuRenderTest.viewport.getProperties().voiRange")
    center, width = (window["lower"] + window["upper"] + 1) / 2, window["upper"] - window["lower"] + 1
    assert width > 400
    assert center > 40
    assert largest_difference(after, served_display(service, header, window=f"{center},{width}")) <= 1
    assert requests == []


def test_scrolls_by_wheel_and_keys(page: Page, service: str, archive: dict[str, Path]) -> None:
    open_study(page, service, archive["multiframe"])
    number = by_testid(page, "slice-number")
    expect(number).to_have_text("1 / 30")
    first = canvas_pixels(page)
    page.mouse.move(*page_position(page, 100, 100))
    page.mouse.wheel(0, 120)
    expect(number).to_have_text("2 / 30")
    assert largest_difference(first, canvas_pixels(page)) > 0
    for key, text in [
        ("ArrowDown", "3 / 30"),
        ("ArrowUp", "2 / 30"),
        ("PageDown", "12 / 30"),
        ("End", "30 / 30"),
        ("ArrowRight", "30 / 30"),
        ("PageUp", "20 / 30"),
        ("Home", "1 / 30"),
        ("ArrowLeft", "1 / 30"),
    ]:
        page.keyboard.press(key)
        expect(number).to_have_text(text)
    assert largest_difference(first, canvas_pixels(page)) == 0


def test_a_series_comes_in_one_answer_and_scrolling_asks_for_nothing(
    page: Page, service: str, archive: dict[str, Path]
) -> None:
    requests = frame_requests(page)
    header = open_address(page, service, archive["multiframe"])
    expect(by_testid(page, "loaded")).to_have_text("all loaded")
    streams = [url for url in requests if "/frames?" in url]
    assert [url.split("?")[1] for url in streams] == ["frames=2-30&stage=display"]
    assert len([url for url in requests if "/frames/" in url and "viewport" not in url]) == 1
    requests.clear()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(by_testid(page, "slice-number")).to_have_text("4 / 30")
    page.keyboard.press("End")
    expect(by_testid(page, "slice-number")).to_have_text("30 / 30")
    url = f"{series_url(service, header)}/instances/{header.SOPInstanceUID}/frames/30"
    assert largest_difference(canvas_pixels(page), display_at(url)) <= 1
    assert requests == []


def test_what_is_loaded_is_shown_and_a_turn_drops_the_stream(
    page: Page, service: str, archive: dict[str, Path]
) -> None:
    held: list[str] = []
    failed: list[str] = []
    page.route("**/frames?frames=2-30&*", lambda route: held.append(route.request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    requests = frame_requests(page)
    open_address(page, service, archive["multiframe"])
    expect(by_testid(page, "loaded")).to_have_text("1 of 30 loaded")
    assert len(held) == 1
    page.keyboard.press("End")
    expect(by_testid(page, "slice-number")).to_have_text("30 / 30")
    expect(by_testid(page, "loaded")).to_have_text("all loaded")
    assert failed[0] == held[0]
    assert [url.split("?")[1] for url in requests if "/frames?" in url][1:] == ["frames=29-2&stage=display"]


def answer_with(page: Page, change: Callable[[bytes], bytes]) -> list[str]:
    """Let the service's streams pass through ``change`` on their way, the first one only; all that were asked for."""
    seen: list[str] = []

    def pass_on(route: Route) -> None:
        seen.append(route.request.url)
        body = httpx.get(route.request.url).raise_for_status().content
        route.fulfill(body=change(body) if len(seen) == 1 else body)

    page.route("**/frames?*", pass_on)
    return seen


def test_a_cut_answer_is_asked_for_again_from_where_it_broke(
    page: Page, service: str, archive: dict[str, Path]
) -> None:
    seen = answer_with(page, lambda body: body[: len(body) // 2])
    open_address(page, service, archive["multiframe"])
    expect(by_testid(page, "loaded")).to_have_text("all loaded", timeout=20_000)
    assert re.search(r"frames=1[4-7]-30&", seen[1]), seen
    assert len(seen) == 2


def test_frames_of_a_series_that_has_changed_are_not_taken(page: Page, service: str, archive: dict[str, Path]) -> None:
    def renamed(body: bytes) -> bytes:
        return body.replace(b'"frame_number":2,', b'"frame_number":3,').replace(b'"version":"', b'"version":"x')

    seen = answer_with(page, renamed)
    header = open_address(page, service, archive["multiframe"])
    page.wait_for_timeout(500)
    expect(by_testid(page, "loaded")).to_have_text("1 of 30 loaded")
    assert len(seen) == 1
    page.keyboard.press("ArrowDown")
    expect(by_testid(page, "slice-number")).to_have_text("2 / 30")
    expect(by_testid(page, "loaded")).to_have_text("all loaded")
    url = f"{series_url(service, header)}/instances/{header.SOPInstanceUID}/frames/2"
    assert largest_difference(canvas_pixels(page), display_at(url)) <= 1


def test_address_brings_the_slice_back(page: Page, service: str, archive: dict[str, Path]) -> None:
    open_study(page, service, archive["multiframe"])
    page.keyboard.press("PageDown")
    expect(by_testid(page, "slice-number")).to_have_text("11 / 30")
    assert page.url.endswith("/slice/11")
    page.reload()
    expect(by_testid(page, "slice-number")).to_have_text("11 / 30")
    expect(by_testid(page, "window-level")).not_to_be_empty()


@pytest.mark.parametrize(("name", "unit"), [("ct", "mm"), ("palette", "px")])
def test_length_is_measured_in_the_units_that_the_file_allows(
    page: Page, service: str, archive: dict[str, Path], name: str, unit: str
) -> None:
    header = open_study(page, service, archive[name])
    by_testid(page, "tool-length").click()
    drag(page, page_position(page, 20, 30), page_position(page, 100, 90))
    down, right = (float(value) for value in header.get("PixelSpacing", (1, 1)))
    length = np.hypot(80 * right, 60 * down)
    # The label follows the mouse a few times a second, so the last value comes a little after the last move.
    label = by_testid(page, "viewport").locator("svg text").filter(has_text=unit)
    for _ in range(40):
        match = re.fullmatch(r"([\d.]+) " + unit, label.text_content() or "")
        if match is not None and float(match[1]) == pytest.approx(length, rel=0.01):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{label.text_content()} where {length:.1f} {unit} were measured")


def test_frame_that_fails_says_so_and_scrolling_goes_on(page: Page, service: str, archive: dict[str, Path]) -> None:
    open_study(page, service, archive["broken"])
    number, error = by_testid(page, "slice-number"), by_testid(page, "frame-error")
    expect(error).to_be_hidden()
    page.keyboard.press("ArrowDown")
    expect(number).to_have_text(f"{BROKEN_SLICE} / 3")
    expect(error).to_be_visible()
    assert len(error.inner_text()) > 20
    page.mouse.move(*page_position(page, 30, 30))
    page.mouse.wheel(0, 120)
    expect(number).to_have_text("3 / 3")
    expect(error).to_be_hidden()
    page.keyboard.press("ArrowUp")
    expect(number).to_have_text(f"{BROKEN_SLICE} / 3")
    expect(error).to_be_visible()


def test_lost_connection_is_told(page: Page, service: str, archive: dict[str, Path]) -> None:
    open_study(page, service, archive["ct"])
    header = pydicom.dcmread(archive["monochrome1"], stop_before_pixels=True)
    page.route("**/frames/**", lambda route: route.abort())
    page.locator(f'[data-testid="study-row"][data-study="{header.StudyInstanceUID}"]').click()
    error = by_testid(page, "frame-error")
    expect(error).to_contain_text("cannot be reached")
    page.unroute("**/frames/**")
    error.get_by_role("button").click()
    expect(error).to_be_hidden()
    expect(by_testid(page, "window-level")).not_to_be_empty()


def test_text_from_files_stays_text(page: Page, service: str, archive: dict[str, Path]) -> None:
    open_study(page, service, archive["broken"])
    assert by_testid(page, "patient").inner_text() == HOSTILE_NAME.replace("^", ", ")
    for place in ("study", "series", "study-list", "series-item"):
        assert HOSTILE_DESCRIPTION in by_testid(page, place).first.inner_text()
    assert page.locator("#app :is(img, b:text('Bold'), script)").count() == 0


def test_filter_narrows_the_list(page: Page, service: str, archive: dict[str, Path]) -> None:
    header = pydicom.dcmread(archive["padded"], stop_before_pixels=True)
    page.goto(service)
    expect(by_testid(page, "study-row").nth(1)).to_be_visible()
    page.get_by_role("searchbox").fill(str(header.PatientID))
    expect(by_testid(page, "study-row")).to_have_count(1)
