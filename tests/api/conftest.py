"""A running service over real files: the samples that pydicom's wheel ships."""

import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings

SAMPLES = Path(pydicom.data.__file__).parent
SCAN_LIMIT_S = 60


def sample_files() -> list[Path]:
    """All sample files of the installed pydicom."""
    found = [path for folder in ("test_files", "charset_files") for path in (SAMPLES / folder).rglob("*")]
    return sorted(path for path in found if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts)


def sop_instance_uid(path: Path) -> str:
    """Of a DICOM file; empty where it has none or is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(pydicom.dcmread(path, stop_before_pixels=True, force=True).get("SOPInstanceUID", ""))
        except Exception:  # noqa: BLE001 - pydicom may raise anything here; such a file has no UID for us
            return ""


def without_twins(paths: list[Path], preferred: tuple[str, ...] = ()) -> tuple[list[Path], list[Path]]:
    """(files of which no two have one SOP Instance UID, the rest); of twins the preferred name stays."""
    chosen: dict[str, Path] = {}
    rest = []
    for path in sorted(paths, key=lambda path: (path.name not in preferred, path)):
        key = sop_instance_uid(path) or str(path)
        if key in chosen:
            rest.append(path)
        else:
            chosen[key] = path
    return list(chosen.values()), rest


def copy_samples(target: Path, paths: list[Path]) -> None:
    """Copies of sample files, in their folders below ``target``."""
    for path in paths:
        copy = target / path.relative_to(SAMPLES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def wait_for_scan(client: TestClient) -> dict[str, Any]:
    """Poll /api/index until the scan is over."""
    deadline = time.monotonic() + SCAN_LIMIT_S
    while time.monotonic() < deadline:
        state: dict[str, Any] = client.get("/api/index").json()
        if not state["scanning"] and state["instances"]:
            return state
        time.sleep(0.05)
    raise AssertionError("the scan did not end")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of pydicom's sample files, no two of one SOP Instance UID."""
    target = tmp_path_factory.mktemp("samples")
    copy_samples(target, without_twins(sample_files(), ("rtdose.dcm", "MR_truncated.dcm"))[0])
    return target


@pytest.fixture(scope="session")
def client(samples: Path) -> Iterator[TestClient]:
    """A service over the samples, scanned."""
    with TestClient(create_app(Settings(roots=(samples,), backend="cpu", workers=2)), "http://127.0.0.1") as running:
        wait_for_scan(running)
        yield running


@pytest.fixture(scope="session")
def frame_urls(client: TestClient) -> dict[str, list[str]]:
    """URLs of all frames in frame order, by SOP Instance UID, gathered from every series manifest."""
    urls: dict[str, list[tuple[int, str]]] = {}
    for study in client.get("/api/studies").json()["studies"]:
        for series in study["series"]:
            path = f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
            for frame in client.get(path).json()["frames"]:
                urls.setdefault(frame["sop_instance_uid"], []).append((frame["frame_number"], frame["url"]))
    return {uid: [url for _, url in sorted(pairs)] for uid, pairs in urls.items()}
