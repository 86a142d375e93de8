"""``gpu-render demo`` as a newcomer sees it: open a study, scroll, change the window, measure; README's screenshot."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.viewer.conftest import running
from tests.viewer.steps import by_testid, drag, page_position

pytestmark = pytest.mark.browser

#: Resolves once what was set before has reached the canvas.
PAINTED = """
async () => {
  window.gpuRenderTest.viewport.render();
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}
"""


@pytest.fixture(scope="module")
def demo(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh demo; asks for the browser first, so that nothing is made where there is none."""
    folder = tmp_path_factory.mktemp("demo")
    with running(folder, "demo", "--no-browser", "--folder", str(folder / "data")) as url:
        yield url


def test_the_demo_shows_a_ct_that_can_be_scrolled_windowed_and_measured(page: Page, demo: str) -> None:
    page.goto(demo)
    by_testid(page, "study-row").filter(has_text="Demo, Phantom").click()
    expect(by_testid(page, "series-item")).to_have_count(4)
    by_testid(page, "series-item").first.click()
    expect(by_testid(page, "slice-number")).to_have_text("1 / 300")
    by_testid(page, "viewport").hover()
    for _ in range(15):
        page.keyboard.press("PageDown")
    expect(by_testid(page, "slice-number")).to_have_text("151 / 300")
    expect(by_testid(page, "window-level")).to_have_text("W 400 L 40")
    before = page.screenshot()
    drag(page, page_position(page, 200, 200), page_position(page, 260, 240))
    expect(by_testid(page, "window-level")).not_to_have_text("W 400 L 40")
    assert page.screenshot() != before
    by_testid(page, "presets").get_by_role("button").first.click()
    expect(by_testid(page, "window-level")).to_have_text("W 400 L 40")
    by_testid(page, "tool-length").click()
    drag(page, page_position(page, 285, 190), page_position(page, 375, 260))
    expect(by_testid(page, "viewport").locator("svg text").filter(has_text="mm")).to_be_visible()
    page.mouse.move(*page_position(page, 20, 20))
    expect(page.locator(".thumbnail[data-painted]")).to_have_count(4)
    if target := os.environ.get("GPU_RENDER_SCREENSHOT"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=target)


def test_every_series_of_the_phantom_shows_the_same_picture(page: Page, demo: str) -> None:
    """Four transfer syntaxes of the same voxels: the canvases are equal, and the overlay names each syntax."""
    page.goto(demo)
    by_testid(page, "study-row").filter(has_text="Demo, Phantom").click()
    pictures, syntaxes = set(), [""]
    for number in range(4):
        by_testid(page, "series-item").nth(number).click()
        expect(by_testid(page, "transfer-syntax")).not_to_have_text(syntaxes[-1])
        expect(by_testid(page, "slice-number")).to_have_text("1 / 300")
        expect(by_testid(page, "window-level")).to_have_text("W 400 L 40")
        page.evaluate(PAINTED)
        syntaxes.append(by_testid(page, "transfer-syntax").inner_text())
        pictures.add(page.evaluate("window.gpuRenderTest.viewport.getCanvas().toDataURL()"))
    assert len(set(syntaxes)) == 5
    assert len(pictures) == 1
