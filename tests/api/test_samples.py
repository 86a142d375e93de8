"""Every sample file of pydicom with pixels, over HTTP: pydicom's stored values, or the error of docs/api.md."""

import asyncio
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.cli import BackendChoice, render_file
from api.native import parse_view
from gpu_render.archive.file import FileArchive
from gpu_render.settings import Settings
from gpu_render.workers import WorkerPool
from tests.api.conftest import SAMPLES, copy_samples, sample_files, wait_for_scan, without_twins
from tests.encoded import sample

#: Samples that are wrong, or that no reader decodes alike: status and what the answer says.
REFUSED = {
    "MR_truncated.dcm": (422, "truncated"),
    "badVR.dcm": (422, "NumberOfFrames"),
    "JPEG2000-embedded-sequence-delimiter.dcm": (422, "codestream"),
}

#: 12-bit JPEG, which no reader in the wheels decodes: SHA-256 of what DCMTK 3.6.7 (dcmdjpeg) gives, as little-endian
#: 16-bit stored values.
DCMTKS = {
    "JPEG-lossy.dcm": "d30242775a414c01d616447854ebe3f2b20259822894bcd6891f879bcdcbf313",
    "JPGExtended.dcm": "d30242775a414c01d616447854ebe3f2b20259822894bcd6891f879bcdcbf313",
}


def has_pixels(path: Path) -> bool:
    try:
        dataset = pydicom.dcmread(path)
    except Exception:  # noqa: BLE001 - not DICOM, or hostile on purpose: nothing to compare
        return False
    pixels = any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    return pixels and "BitsAllocated" in dataset  # two samples have a stub of a Pixel Data element and no image


def names() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [path.relative_to(SAMPLES).as_posix() for path in sample_files() if has_pixels(path)]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TestClient]]:
    """As many services as it takes for every sample to be served: twins of one SOP Instance UID need one each."""
    rest = [SAMPLES / name for name in names()]
    with ExitStack() as stack:
        clients = []
        while rest:
            layer, rest = without_twins(rest)
            root = tmp_path_factory.mktemp("layer")
            copy_samples(root, layer)
            app = create_app(Settings(roots=(root,), backend="cpu", workers=1))
            clients.append(stack.enter_context(TestClient(app, "http://127.0.0.1")))
            wait_for_scan(clients[-1])
        yield clients


@pytest.fixture(scope="module")
def where(services: list[TestClient], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TestClient, str]]:
    """Sample name -> (service that has it, URL of its first frame up to the frame number)."""
    found = {}
    rest = [SAMPLES / name for name in names()]
    with WorkerPool(1) as pool:
        for client in services:
            layer, rest = without_twins(rest)
            for path in layer:
                archive = FileArchive(path, pool)
                ref = archive.ref(1)
                archive.close()
                found[path.relative_to(SAMPLES).as_posix()] = (
                    client,
                    f"/api/studies/{ref.study_uid}/series/{ref.series_uid}/instances/{ref.sop_instance_uid}/frames/",
                )
    return found


def array(response: Any) -> npt.NDArray[np.generic]:
    shape = tuple(map(int, response.headers["x-array-shape"].split(",")))
    return np.frombuffer(response.content, np.dtype(response.headers["x-array-dtype"])).reshape(shape)


def pydicoms_frames(path: Path) -> list[npt.NDArray[np.generic]]:
    """Stored values as pydicom gives them, without its colour conversion, frame by frame."""
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(raw=True)
    pixels = dataset.pixel_array
    return list(pixels) if int(dataset.get("NumberOfFrames") or 1) > 1 else [pixels]


@pytest.mark.parametrize("name", names())
@pytest.mark.filterwarnings("ignore")
def test_a_sample_has_pydicoms_stored_values_or_the_right_error(
    name: str, where: dict[str, tuple[TestClient, str]]
) -> None:
    client, url = where[name]
    file_name = name.rsplit("/", 1)[-1]
    if file_name in REFUSED:
        status, text = REFUSED[file_name]
        response = client.get(f"{url}1", params={"stage": "stored"})
        assert response.status_code == status
        assert text in response.json()["detail"]
        return
    if file_name in DCMTKS:
        stored = client.get(f"{url}1", params={"stage": "stored"})
        assert hashlib.sha256(stored.content).hexdigest() == DCMTKS[file_name]
        return
    frames = pydicoms_frames(SAMPLES / name)
    for number, want in enumerate(frames, 1):
        response = client.get(f"{url}{number}", params={"stage": "stored"})
        assert response.status_code == 200, response.text
        np.testing.assert_array_equal(array(response), want)
    assert client.get(f"{url}{len(frames) + 1}").status_code == 404


@pytest.mark.parametrize("name", names())
def test_a_sample_is_rendered_alike_with_and_without_a_server(
    name: str, where: dict[str, tuple[TestClient, str]]
) -> None:
    """``gpu-render render`` and the HTTP answer: the same bytes, or the same error."""
    client, url = where[name]
    # Each run starts a process of its own, as the command does: all three stages for some, one for the others.
    for stage in ("stored", "modality", "display") if "small" in name else ("display",):
        view = parse_view(stage, None, None, None, None, None, 8192)
        response = client.get(f"{url}1", params={"stage": stage})
        if response.status_code == 200:
            rendered = asyncio.run(render_file(SAMPLES / name, 1, view, BackendChoice.CPU))
            assert rendered.pixels.dtype.str == response.headers["x-array-dtype"]
            assert rendered.pixels.tobytes() == response.content
        else:
            with pytest.raises(Exception, match=r".") as caught:
                asyncio.run(render_file(SAMPLES / name, 1, view, BackendChoice.CPU))
            assert str(caught.value) in response.json()["detail"]


def test_the_samples_are_there() -> None:
    assert len(names()) > 90
    assert Path(sample("CT_small.dcm")).is_file()
