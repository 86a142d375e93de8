"""DCMTK on what the service hands out: dcmdump reads it, dcm2json says what the metadata say, no byte differs."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pydicom
import pytest

from tests.clients import archive
from tests.clients.conftest import DicomWeb


@pytest.fixture(scope="module")
def dcmtk() -> None:
    """Skips where DCMTK is not installed; in CI that is a failure."""
    missing = [name for name in ("dcmdump", "dcm2json") if shutil.which(name) is None]
    if missing:
        assert "CI" not in os.environ, f"CI needs {missing}: apt-get install dcmtk"
        pytest.skip(f"{', '.join(missing)} is not installed (apt-get install dcmtk)")


def run(*command: str | Path) -> str:
    """What a program of DCMTK says; it has to be content."""
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "replace")


def address(dicomweb: DicomWeb, path: Path) -> str:
    """URL of the instance that a file holds."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    return f"{dicomweb.root}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


@pytest.mark.parametrize("name", archive.SAMPLES)
def test_an_instance_is_the_stored_file_and_dcmtk_reads_it(
    dcmtk: None, dicomweb: DicomWeb, tmp_path: Path, name: str
) -> None:
    stored = dicomweb.files[name]
    accept = "application/dicom; transfer-syntax=*"
    answer = httpx.get(address(dicomweb, stored), headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "application/dicom")
    assert hashlib.sha256(answer.content).hexdigest() == hashlib.sha256(stored.read_bytes()).hexdigest()
    retrieved = tmp_path / "retrieved.dcm"
    retrieved.write_bytes(answer.content)
    assert run("dcmdump", "-q", retrieved) == run("dcmdump", "-q", stored)


BINARY = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")


def simple(element: dict[str, Any]) -> Any:
    """An element's value, as far as two writers of the DICOM JSON Model have to agree on it."""
    values = element.get("Value", [])
    if element["vr"] == "SQ":
        return [{tag: simple(one) for tag, one in item.items() if one["vr"] not in BINARY} for item in values]
    if element["vr"] in ("IS", "DS", "FL", "FD"):
        return [pytest.approx(float(value), rel=1e-7) for value in values if value is not None]
    return values


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "examples_ybr_color.dcm", "reportsi.dcm"])
def test_metadata_say_what_dcm2json_says_of_the_file(
    dcmtk: None, dicomweb: DicomWeb, tmp_path: Path, name: str
) -> None:
    """dcm2json gets the file without its pixels: it knows no way to write compressed ones."""
    header = pydicom.dcmread(dicomweb.files[name], stop_before_pixels=True)
    header.save_as(tmp_path / "header.dcm")
    theirs = json.loads(run("dcm2json", "-q", tmp_path / "header.dcm"))
    url = f"{address(dicomweb, dicomweb.files[name])}/metadata"
    [ours] = httpx.get(url, headers={"Accept": "application/dicom+json"}).json()
    compared = 0
    for tag, element in theirs.items():
        if element["vr"] in BINARY or tag.startswith("0002") or tag.endswith("0000"):
            continue
        assert tag in ours, tag
        assert ours[tag]["vr"] == element["vr"], tag
        assert simple(ours[tag]) == simple(element), tag
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("series", archive.PHANTOM, ids=lambda one: one.folder)
def test_an_instance_in_explicit_little_endian_is_one_that_dcmtk_reads(
    dcmtk: None, dicomweb: DicomWeb, tmp_path: Path, series: Any
) -> None:
    url = (
        f"{dicomweb.root}/studies/{archive.STUDY_UID}/series/{archive.series_uid(series)}"
        f"/instances/{archive.instance_uid(series, 5)}"
    )
    answer = httpx.get(url, headers={"Accept": "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"})
    assert answer.status_code == 200
    retrieved = tmp_path / "retrieved.dcm"
    retrieved.write_bytes(answer.content)
    assert "=LittleEndianExplicit" in run("dcmdump", "-q", "+P", "0002,0010", retrieved)
    ds = pydicom.dcmread(retrieved)
    assert ds.PixelData == archive.stored_values(5).astype("<i2").tobytes()
