"""The real service over the phantom and some samples, pages of other origins, and a real Chromium."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.api.served import Served, serving
from tests.clients import archive, install
from tests.clients.static import served


@dataclass(frozen=True, slots=True)
class DicomWeb:
    """A running service: ``root`` is the address of its ``/dicomweb``, ``files`` the samples it serves by name."""

    served: Served
    root: str
    files: dict[str, Path]
    folder: Path


@pytest.fixture(scope="session")
def dicomweb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomWeb]:
    """The service over the archive, to be read only: any page may ask it, storing is switched off."""
    folder, work = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("service")
    files = archive.write(folder)
    environment = {"GPU_RENDER_CORS_ORIGINS": '["*"]'}
    with serving(folder, work, environment=environment) as running:
        running.wait_for_files(len(archive.PHANTOM) * archive.SLICES + len(files))
        yield DicomWeb(running, f"http://127.0.0.1:{running.port}/dicomweb", files, folder)


@pytest.fixture(scope="session")
def installed() -> None:
    """Skips where the JavaScript clients are not there; in CI that is a failure."""
    if not install.installed():
        assert "CI" not in os.environ, install.HINT
        pytest.skip(install.HINT)


@pytest.fixture(scope="session")
def page_origin(installed: None) -> Iterator[str]:
    """The address of the page with Cornerstone3D's loader and dcmjs's client: another origin than the service's."""
    with served(install.PAGE) as url:
        yield url


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A fresh page; any uncaught error and any message in the console's error channel fails the test."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} {message.location}")

    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(40_000)
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []
