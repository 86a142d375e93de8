"""An index in each of the databases."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_render.archive.index import Index

Place = tuple[Path | None, str | None]
"""Path of an index file, or URL of a database."""


@pytest.fixture(params=["sqlite", "postgresql"])
def index_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where the index of a test is kept."""
    if request.param == "sqlite":
        yield tmp_path / "i.sqlite", None
        return
    with request.getfixturevalue("postgres").schema() as url:
        yield None, url


@pytest.fixture
def open_index(index_place: Place) -> Iterator[Callable[..., Index]]:
    """Open the one index of a test. All are closed at the end."""
    path, url = index_place
    with contextlib.ExitStack() as stack:

        def opener(**options: Any) -> Index:
            opened = Index(path, url=url, **options)
            stack.callback(opened.close)
            return opened

        yield opener
