"""What a user does on the page."""

from playwright.sync_api import Locator, Page

# Where on the page the centre of a stored pixel lies.
PAGE_POSITION = """
([column, row]) => {
  const { viewport } = window.gpuRenderTest;
  const box = viewport.element.getBoundingClientRect();
  const [x, y] = viewport.worldToCanvas(viewport.getImageData().imageData.indexToWorld([column, row, 0]));
  return [box.left + x, box.top + y];
}
"""


def by_testid(page: Page, name: str) -> Locator:
    return page.locator(f'[data-testid="{name}"]')


def page_position(page: Page, column: float, row: float) -> tuple[float, float]:
    x, y = page.evaluate(PAGE_POSITION, [column, row])
    return float(x), float(y)


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()
