"""docs/dicomweb.md tells the truth: a running service answers every line of its tables as they say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from httpx2 import Response
from pydicom.uid import generate_uid
from starlette.testclient import TestClient

from api.app import create_app
from api.dicomweb import PREFIX
from gpu_render.decode import DECODERS
from gpu_render.settings import Settings
from tests.api.answers import SERIES, STUDY
from tests.api.conftest import wait_for_scan
from tests.api.dicomweb.conformance import STATEMENT, Row, rows, written
from tests.data import deflate, encapsulate, image, sample, write

TABLES = rows()
SAMPLES = {
    "ct": "CT_small.dcm",
    "two": "SC_rgb_rle_2frame.dcm",
    "j2k": "693_J2KI.dcm",
    "palette": "examples_palette.dcm",
    "sr": "reportsi.dcm",
    "dose": "rtdose_1frame.dcm",
    "bits": "liver_1frame.dcm",
    "us": "examples_ybr_color.dcm",
    **{row["sample"]: row["sample"] for row in TABLES["transfer_syntax"] if "sample" in row},
}
RAMP = np.arange(64 * 64, dtype="<u2").reshape(64, 64)
GREY = (RAMP >> 4).astype(np.uint8)
MADE = {
    "1.2.840.10008.1.2.1.98": RAMP.tobytes(),
    "1.2.840.10008.1.2.8.1": deflate(RAMP.tobytes()),
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_encode(RAMP),
    "1.2.840.10008.1.2.4.111": imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(GREY)),
    **{f"1.2.840.10008.1.2.4.{n}": imagecodecs.jpeg2k_encode(RAMP, codecformat="j2k") for n in (92, 93)},
    **{f"1.2.840.10008.1.2.4.{n}": imagecodecs.jpegxl_encode(RAMP, lossless=True) for n in (110, 112)},
    **{f"1.2.840.10008.1.2.4.{n}": imagecodecs.htj2k_encode(RAMP, reversible=True) for n in (201, 202, 203)},
}
"""A frame in each transfer syntax of which pydicom has no sample."""
BOUNDARY = "a boundary"
EXPLICIT_LE, HTJ2K_RPCL = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.202"


@dataclass(frozen=True, slots=True)
class Running:
    """A service, and the paths of what it serves by the names that the tables use."""

    client: TestClient
    paths: dict[str, str]

    def url(self, path: str) -> str:
        """``/{ct}/frames/1`` -> the path of that frame."""
        for name, found in self.paths.items():
            path = path.replace(f"{{{name}}}", found)
        assert "{" not in path
        return PREFIX + path


def add(root: Path, name: str, file: str) -> dict[str, str]:
    """Copy a sample under UIDs of its own, which some share; returns the paths of study, series and instance."""
    ds = pydicom.dcmread(sample(file))
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(root / f"{name}.dcm")
    study = f"studies/{ds.StudyInstanceUID}"
    series = f"{study}/series/{ds.SeriesInstanceUID}"
    return {name: f"{series}/instances/{ds.SOPInstanceUID}", f"{name}.series": series, f"{name}.study": study}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service over the samples, which may be added to."""
    root, store = tmp_path_factory.mktemp("conformance"), tmp_path_factory.mktemp("store")
    paths: dict[str, str] = {}
    for name, file in SAMPLES.items():
        paths |= add(root, name, file)
    for syntax, frame in MADE.items():
        bits = 8 if syntax.endswith(".111") else 16
        sizes = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "SOPInstanceUID": generate_uid()}
        attributes = image(64, 64, **sizes)
        write(root / f"{syntax}.dcm", attributes, encapsulate([bytes(frame)]), syntax, encapsulated=True)
        paths[syntax] = f"studies/{STUDY}/series/{SERIES}/instances/{attributes['SOPInstanceUID']}"
    settings = Settings(roots=(root,), store_path=store, backend="cpu", workers=2)
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        wait_for_scan(client)
        yield Running(client, paths)


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that stores nothing."""
    settings = Settings(roots=(tmp_path_factory.mktemp("empty"),), backend="cpu", workers=1)
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        yield Running(client, {})


def content(names: list[str]) -> bytes:
    """A body for STOW-RS."""
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    files = {"new": sample("MR_small.dcm").read_bytes(), "no DICOM": b"this is no file of DICOM"}
    return b"".join(head + files[name] + b"\r\n" for name in names) + f"--{BOUNDARY}--\r\n".encode()


def asked(running: Running, ask: dict[str, Any]) -> Response:
    """The answer to a line's request."""
    method, path = ask["ask"].split(" ", 1)
    url = running.url(path)
    headers = {"Accept": ask["accept"]} if "accept" in ask else {"Accept": "*/*"}
    headers |= ask.get("headers", {})
    body = None
    if "body" in ask:
        body = content(ask["body"])
        headers.setdefault("Content-Type", f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"')
    if headers.get("If-None-Match") == "the ETag":
        before = {name: value for name, value in headers.items() if name != "If-None-Match"}
        headers["If-None-Match"] = running.client.request(method, url, headers=before).headers["etag"]
    return running.client.request(method, url, headers=headers, content=body)


LINES = [
    pytest.param(row, ask, id=f"{ask['ask']} {ask.get('accept', '')} {ask['status']}")
    for row in TABLES["offered"] + TABLES["refused"]
    for ask in row["asks"]
]


@pytest.mark.parametrize(("row", "ask"), LINES)
def test_the_service_answers_as_the_line_says(
    served: Running, read_only: Running, row: Row, ask: dict[str, Any]
) -> None:
    answer = asked(read_only if ask.get("without_store") else served, ask)
    assert answer.status_code == ask["status"], answer.text[:500]
    if "type" in ask:
        assert answer.headers["content-type"].startswith(ask["type"])
    for name, text in ask.get("holds", {}).items():
        assert text in answer.headers[name]
    if answer.status_code >= 400 and answer.headers["content-type"] != "application/dicom+json":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == ask["status"]


def test_every_line_has_an_ask_and_every_resource_one_that_succeeds() -> None:
    assert all(row["asks"] for row in TABLES["offered"] + TABLES["refused"])
    assert [row["name"] for row in TABLES["offered"] if statuses_below_300(row) == []] == ["Store instances of a study"]
    assert [row["what"] for row in TABLES["refused"] if statuses_below_300(row)] == []


def statuses_below_300(row: Row) -> list[int]:
    """Of a line's asks."""
    return [ask["status"] for ask in row["asks"] if ask["status"] < 300]


@pytest.mark.parametrize("row", TABLES["transfer_syntax"], ids=lambda row: row["name"])
def test_frames_come_in_the_transfer_syntaxes_that_the_table_names(served: Running, row: Row) -> None:
    name: str = row.get("sample") or row["uid"]
    if "sample" in row:
        assert pydicom.dcmread(sample(name), stop_before_pixels=True).file_meta.TransferSyntaxUID == row["uid"]
    url = served.url(f"/{{{name}}}/frames/1")

    def part(syntax: str) -> str | None:
        """The part's Content-Type; None where it is refused."""
        accept = f'multipart/related; type="application/octet-stream"; transfer-syntax={syntax}'
        answer = served.client.get(url, headers={"Accept": accept})
        if answer.status_code != 200:
            assert answer.status_code == 406
            return None
        return answer.content.split(b"\r\n", 2)[1].decode()

    octets = "Content-Type: application/octet-stream; transfer-syntax="
    star = {"as stored": row["uid"], "Explicit VR Little Endian": EXPLICIT_LE}[row["star"]]
    assert part("*") == octets + star
    assert part(EXPLICIT_LE) == (octets + EXPLICIT_LE if row["explicit"] else None)
    assert part(HTJ2K_RPCL) == (octets + HTJ2K_RPCL if row["htj2k"] else None)
    single = served.client.get(url, headers={"Accept": f"{row['media']}; transfer-syntax=*"})
    assert single.headers["content-type"] == f"{row['media']}; transfer-syntax={star}"


def test_the_table_has_every_transfer_syntax_that_can_be_decoded() -> None:
    assert sorted(row["uid"] for row in TABLES["transfer_syntax"]) == sorted(DECODERS)


def test_the_document_has_the_tables_as_they_are() -> None:
    document = STATEMENT.read_text("utf-8")
    assert written(document) == document, "run python -m tests.api.dicomweb.conformance"


def test_the_routes_below_dicomweb_are_those_of_the_table() -> None:
    paths: dict[str, dict[str, Any]] = create_app(Settings()).openapi()["paths"]
    real = {
        f"{method.upper()} {path}" for path, methods in paths.items() if path.startswith(PREFIX) for method in methods
    }
    assert {row["request"] for row in TABLES["offered"]} == real
