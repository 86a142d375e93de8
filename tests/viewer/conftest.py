"""The real service over a folder of real files, and a real Chromium in front of it."""

import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import UID, generate_uid

from viewer import DIST

SAMPLES = {
    "ct": "CT_small.dcm",
    "padded": "693_J2KI.dcm",
    "monochrome1": "dicomdirtests/77654033/CR1/6154",
    "rgb": "examples_rgb_color.dcm",
    "palette": "examples_palette.dcm",
    "binary": "liver_1frame.dcm",
    "multiframe": "examples_ybr_color.dcm",
}
BROKEN_SLICE = 2
READY_LIMIT_S = 100
HOSTILE_NAME = "<script>alert(1)</script>^<b>Bold</b>"
HOSTILE_DESCRIPTION = "<img src=x onerror=alert(1)>"
CORPUS = Path(os.environ.get("GPU_RENDER_CORPUS") or Path(__file__).parents[3] / "shared" / "data")


def sample(name: str) -> Path:
    """A file of the pydicom wheel."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"pydicom's wheel lacks {name}"
    return Path(path)


def write_broken_series(folder: Path) -> None:
    """Three slices made of one real MR, the middle one without its codestream's header; hostile text."""
    dataset = pydicom.dcmread(sample("MR_small_jp2klossless.dcm"))
    dataset.PatientName = HOSTILE_NAME
    dataset.StudyDescription = dataset.SeriesDescription = HOSTILE_DESCRIPTION
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for number in (1, 2, 3):
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [0, 0, 10 * number]
        path = folder / f"slice{number}.dcm"
        dataset.save_as(path)
        if number == BROKEN_SLICE:
            whole = path.read_bytes()
            start = whole.index(b"\xff\x4f\xff\x51")  # SOC and SIZ, with which a JPEG 2000 codestream begins
            path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])


def table(first: int, entries: int, bits: int, reverse: bool = False) -> Dataset:
    """An item of a Modality or VOI LUT Sequence: a ramp with a bend, so that no window is equal to it."""
    ramp = np.sqrt(np.linspace(0, 1, entries)) * (2**bits - 1)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, bits])
    item.add_new("LUTData", "OW", np.round(ramp[::-1] if reverse else ramp).astype("<u2").tobytes())
    return item


def palette(first: int, entries: int) -> dict[str, Any]:
    """A supplemental palette: colours from stored value ``first`` on, grey below."""
    values: dict[str, Any] = {}
    for factor, name in ((1, "Red"), (3, "Green"), (5, "Blue")):
        values[f"{name}PaletteColorLookupTableDescriptor"] = [entries, first, 8]
        values[f"{name}PaletteColorLookupTableData"] = (np.arange(entries) * factor % 256).astype(np.uint8).tobytes()
    return values


def variants(pixels: npt.NDArray[np.int16]) -> list[dict[str, Any]]:
    """Attributes that turn one real CT into the cases in which a browser could disagree with the service."""
    linear = {"WindowCenter": 900, "WindowWidth": 1200}
    tiny = {"RescaleSlope": "0.001", "RescaleIntercept": "-1", "WindowCenter": "0.1"}
    padding = {"PixelPaddingValue": int(pixels[0, 0]), "WindowCenter": 1000, "WindowWidth": 9000}
    return [
        linear,
        {**linear, "VOILUTFunction": "SIGMOID"},
        {**linear, "WindowWidth": "700.5", "VOILUTFunction": "LINEAR_EXACT"},
        {**linear, "WindowWidth": 1},
        {**linear, "RescaleSlope": "-0.5", "RescaleIntercept": "1000"},
        {**tiny, "WindowWidth": "0.8", "VOILUTFunction": "LINEAR_EXACT"},
        {**tiny, "WindowWidth": "0.3", "VOILUTFunction": "SIGMOID"},
        {**linear, "PhotometricInterpretation": "MONOCHROME1"},
        {**linear, "PhotometricInterpretation": "MONOCHROME1", "VOILUTFunction": "SIGMOID"},
        padding,
        {**padding, "PhotometricInterpretation": "MONOCHROME1"},
        {"PixelPaddingValue": int(pixels.max())},
        {"VOILUTSequence": [table(-900, 2048, 12)]},
        {"VOILUTSequence": [table(-900, 2048, 12)], "PhotometricInterpretation": "MONOCHROME1"},
        {"ModalityLUTSequence": [table(0, 2200, 16)], "RescaleSlope": None, "RescaleIntercept": None},
        {**linear, "PresentationLUTSequence": [table(0, 4096, 12, reverse=True)]},
        {**linear, "PixelPresentation": "COLOR", **palette(1100, 256)},
        {
            "BitsAllocated": 32,
            "BitsStored": 32,
            "HighBit": 31,
            "PixelData": (pixels.astype("<i4") * 70_000).tobytes(),
        },
        {**linear, "VOILUTFunction": "SIGMOID"},
        linear,
    ]


def write_variants(folder: Path) -> None:
    """One series, a slice for each of ``variants``, in that order."""
    original = pydicom.dcmread(sample("CT_small.dcm"))
    study, series = generate_uid(), generate_uid()
    for number, attributes in enumerate(variants(original.pixel_array), start=1):
        dataset = deepcopy(original)
        del dataset.PixelPaddingValue
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = study, series, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [0, 0, number]
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            elif keyword == "PixelPaddingValue" or keyword.endswith("TableDescriptor"):
                dataset.add_new(keyword, "SS", value)  # the VR depends on Pixel Representation
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(folder / f"variant{number:02}.dcm")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for the service: ``root``, and each file (or folder) in it by name."""
    root = tmp_path_factory.mktemp("archive")
    files = {name: root / f"{name}.dcm" for name in SAMPLES}
    for name, path in files.items():
        shutil.copyfile(sample(SAMPLES[name]), path)
    files["ones"] = root / "ones.dcm"
    ones = pydicom.dcmread(files["binary"])
    ones.PixelData = b"\xff" * len(ones.PixelData)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ones, keyword, generate_uid())
    ones.save_as(files["ones"])
    files["broken"] = root / "broken"
    files["broken"].mkdir()
    write_broken_series(files["broken"])
    files["variants"] = root / "variants"
    files["variants"].mkdir()
    write_variants(files["variants"])
    series = CORPUS / "ct_phantom_series"
    if series.is_dir():
        files["phantom"] = root / "phantom"
        files["phantom"].mkdir()
        for path in series.iterdir():
            shutil.copyfile(path, files["phantom"] / path.name)
    return {"root": root, **files}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Ready means: the service answers so, and its first scan is over."""
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the service ended with status {process.returncode}"
        try:
            ready = httpx.get(f"{url}/health/ready").status_code == 200
            if ready and not httpx.get(f"{url}/api/index").json()["scanning"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the service did not become ready within {READY_LIMIT_S} s")


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a ``gpu-render`` that runs as users start it; its log and its cache lie in ``folder``."""
    assert (DIST / "index.html").is_file(), "the viewer is not built: run make setup"
    command = shutil.which("gpu-render", path=sysconfig.get_path("scripts"))
    assert command is not None, "gpu-render is not installed in this environment: run make setup"
    port = free_port()
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    everything = [command, *arguments, "--host", "127.0.0.1", "--port", str(port), "--backend", "cpu"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(everything, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def service(archive: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``gpu-render serve`` over the archive."""
    with running(tmp_path_factory.mktemp("service"), "serve", str(archive["root"])) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; an uncaught error or a message in the console's error channel fails the test.

    A frame that the service refuses shows up there as "Failed to load resource"; that one is the test's own affair.
    """
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(20_000)
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []
