"""What tests of several folders share: one browser, since Playwright runs once in a process, and one PostgreSQL."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.postgres import Postgres, postgres_server

os.environ.setdefault("GPU_RENDER_REENCODE_BYTES", "0")  # services of tests leave nothing in the user's cache folder

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the browser comes last: as long as it runs, Playwright holds an event loop that is in others' way."""
    items.sort(key=lambda item: "browser" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with a software WebGL."""
    if not Path(CHROMIUM).exists():
        assert "CI" not in os.environ, "CI needs Chromium: apt-get install chromium"
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, for tests that make schemas of their own."""
    with postgres_server() as server:
        yield server
