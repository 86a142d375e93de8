"""Many pictures in one answer over real connections: memory, readers that stop, clients that go, errors, a front."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.api.answers import SERIES, STUDY
from tests.api.dicomweb.bodies import parts_of
from tests.api.dicomweb.test_streams import MIB, asked, eventually, figure
from tests.api.served import Served, serving
from tests.data import write_image

SIDE, COUNT = 512, 240
PNGS = 'multipart/related; type="image/png"'
BASE = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/1.2.4.7"
CACHE = {"GPU_RENDER_CACHE_BYTES": str(8 * MIB)}


def noise(number: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Grey values that no codec makes small."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 frames whose pictures are 60 MiB together, and eight of which the last is not all there."""
    folder = tmp_path_factory.mktemp("rendered") / "root"
    window = {"WindowCenter": 128, "WindowWidth": 256, "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
    frames = np.stack([noise(number) for number in range(COUNT)])
    write_image(folder / "long.dcm", frames, SOPInstanceUID="1.2.4.7.1", **window)
    for number in range(1, 4):
        path = write_image(folder / f"{number}.dcm", frames[number], SOPInstanceUID=f"1.2.4.7.2.{number}",
                           InstanceNumber=number, **{**window, "SeriesInstanceUID": f"{SERIES}.2"})  # fmt: skip
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with hardly any cache, so that memory that grows is memory of answers."""
    with serving(root, tmp_path_factory.mktemp("work"), environment=CACHE) as running:
        running.wait_for_files(4)
        yield running


def test_all_pictures_are_streamed_in_flat_memory(served: Served) -> None:
    served.ask(f"{BASE}.1/frames/1,2,3/rendered", headers={"Accept": PNGS})
    served.forget_peak()
    before = served.peak_bytes()
    with asked(served, f"{BASE}.1/rendered", PNGS) as response:
        assert response.status == 200
        body = response.read()
    assert len(body) > 55 * MIB
    assert served.peak_bytes() - before < 40 * MIB
    found = parts_of(response.headers["Content-Type"], body, twice=False)
    assert [part.content_type for part in found] == ["image/png"] * COUNT
    for number in (0, 1, 77, COUNT - 1):
        assert np.array_equal(imagecodecs.png_decode(found[number].data), noise(number))


def test_a_reader_that_stops_holds_little_memory_and_gets_the_rest_later(served: Served) -> None:
    served.forget_peak()
    before = served.peak_bytes()
    with asked(served, f"{BASE}.1/rendered", PNGS) as response:
        first = response.read(MIB)
        misses = -1.0
        while misses != (misses := figure(served, "host_cache_misses_total")):  # until nothing more is read
            time.sleep(0.5)
        assert served.peak_bytes() - before < 40 * MIB
        body = first + response.read()
    assert len(parts_of(response.headers["Content-Type"], body, twice=False)) == COUNT


def test_a_client_that_goes_ends_the_work(served: Served) -> None:
    begun = figure(served, "host_cache_misses_total")
    with asked(served, f"{BASE}.1/rendered", PNGS) as response:
        response.read(MIB)
    misses = -1.0
    while misses != (misses := figure(served, "host_cache_misses_total")):
        time.sleep(0.5)
    assert misses - begun < COUNT / 2
    eventually(lambda: figure(served, "loads_waiting") == 0, "an empty queue")


def test_an_animation_that_becomes_too_large_is_413_and_holds_little(served: Served) -> None:
    served.forget_peak()
    before = served.peak_bytes()
    answer = served.ask(f"{BASE}.1/rendered", headers={"Accept": "image/gif"})
    assert (answer.status, "smaller viewport" in answer.problem["detail"]) == (413, True)
    assert served.peak_bytes() - before < 160 * MIB
    small = served.ask(f"{BASE}.1/rendered?viewport=32,32", headers={"Accept": "image/gif"})
    assert (small.status, small.headers["content-type"]) == (200, "image/gif")


def test_an_error_in_mid_answer_never_looks_whole(served: Served) -> None:
    with asked(served, f"/dicomweb/studies/{STUDY}/series/{SERIES}.2/rendered", PNGS) as response:
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert "unforeseen" not in served.log.read_text()
    assert "Test^Case" not in served.log.read_text()


def test_workers_behind_a_front_render_the_same(served: Served, root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path, options=("--gpus", "0,1"), environment=CACHE) as front:
        front.wait_for_files(4)
        study = f"/dicomweb/studies/{STUDY}"
        for path, accept in (
            (f"{BASE}.1/frames/3/rendered?annotation=patient,technique", "image/png"),
            (f"{BASE}.1/frames/3,5/rendered", PNGS),
            (f"{BASE}.1/frames/3,5/rendered", "image/gif"),
            (f"{BASE}.1/thumbnail", "image/jpeg"),
            (f"{study}/series/{SERIES}/thumbnail", "image/jpeg"),
            (f"{study}/thumbnail", "image/jpeg"),
            (f"{study}/rendered?viewport=64,64", "image/png"),
            (f"{study}/rendered", "video/mp4"),
        ):
            one, two = (service.ask(path, headers={"Accept": accept}) for service in (served, front))
            assert (two.status, two.body) == (one.status, one.body), path
            assert two.headers.get("content-location") == one.headers.get("content-location")
