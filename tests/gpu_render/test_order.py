"""The order of a series is kept while it holds, and no longer."""

import threading
from typing import Any, cast

import pytest

from gpu_render.archive import Archive
from gpu_render.errors import NotFound
from gpu_render.order import Orders
from gpu_render.reference import FrameRef


class Frame:
    def __init__(self, series: str, number: int) -> None:
        self.ref = FrameRef("1.2", series, f"{series}.{number}", 1)


class Manifests:
    """An archive whose series grow; counts what it was asked."""

    def __init__(self) -> None:
        self.sizes = {"1.3": 3, "1.4": 4, "1.5": 5}
        self.asked: list[str] = []

    def series_version(self, _study: str, series: str) -> str:
        if series not in self.sizes:
            raise NotFound("no such series")
        return str(self.sizes[series])

    def series(self, _study: str, series: str) -> Any:
        self.asked.append(series)
        manifest = type("Manifest", (), {})()
        manifest.frames = tuple(Frame(series, number) for number in range(self.sizes[series]))
        return manifest


@pytest.fixture
def archive() -> Manifests:
    return Manifests()


def orders(archive: Manifests, most_frames: int = 1000) -> Orders:
    return Orders(cast(Archive, archive), most_frames)


def test_it_is_asked_for_once_while_nothing_changes(archive: Manifests) -> None:
    kept = orders(archive)
    first = kept.of("1.2", "1.3")
    assert kept.of("1.2", "1.3") is first
    assert archive.asked == ["1.3"]
    assert [first.places[frame.ref] for frame in first.frames] == [0, 1, 2]


def test_a_series_that_has_grown_has_another_order(archive: Manifests) -> None:
    kept = orders(archive)
    kept.of("1.2", "1.3")
    archive.sizes["1.3"] = 7
    assert len(kept.of("1.2", "1.3").frames) == 7
    del archive.sizes["1.3"]
    with pytest.raises(NotFound):
        kept.of("1.2", "1.3")


def test_those_not_used_for_longest_go_and_the_last_one_stays_however_long(archive: Manifests) -> None:
    kept = orders(archive, most_frames=8)
    for series in ("1.3", "1.4", "1.3", "1.5", "1.3", "1.4"):
        kept.of("1.2", series)
    assert archive.asked == ["1.3", "1.4", "1.5", "1.4"]
    archive.sizes["1.3"] = 100
    for _ in range(2):
        kept.of("1.2", "1.3")
    assert archive.asked == ["1.3", "1.4", "1.5", "1.4", "1.3"]


def test_threads_may_ask_at_once(archive: Manifests) -> None:
    kept, found = orders(archive), list[int]()
    threads = [threading.Thread(target=lambda: found.append(len(kept.of("1.2", "1.4").frames))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [4] * 8
