"""JPEG 2000 that was decoded once is decoded from a verified HTJ2K copy afterwards, also after a restart, and nobody
sees a difference but in time."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from starlette.testclient import TestClient

from api.app import create_app
from api.cli import default_copies
from gpu_render import phantom
from gpu_render.copies import FOLDER
from gpu_render.demo import PHANTOM_SERIES, write_slice
from gpu_render.errors import StartupError
from gpu_render.reencode import Reencoder
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan
from tests.api.served import serving
from tests.api.test_lookahead import figure, write_series
from tests.data import encapsulate, image, sample, write
from tests.gpu_render.test_reencode import coded, colour, grey

LIMIT_S = 60
NAMES = ("693_J2KI.dcm", "JPEG2000.dcm", "MR_small_jp2klossless.dcm", "examples_jpeg2k.dcm", "GDCMJ2K_TextGBR.dcm")
STORED = 'multipart/related; type="image/jp2"; transfer-syntax=*'
RPCL = 'multipart/related; type="image/jphc"; transfer-syntax=1.2.840.10008.1.2.4.202'
ACCEPTS = (
    STORED,
    RPCL,
    'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1',
)
Serve = Callable[..., contextlib.AbstractContextManager[TestClient]]


@contextlib.contextmanager
def service(root: Path, copies: Path, **settings: Any) -> Iterator[TestClient]:
    options: dict[str, Any] = {"reencode_bytes": 1 << 30, "lookahead_frames": 0, **settings}
    app = create_app(Settings(roots=(root,), backend="cpu", workers=2, reencode_path=copies, **options))
    with TestClient(app, "http://127.0.0.1") as client:
        wait_for_scan(client)
        yield client


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG 2000 of all kinds: files of others, the demo's phantom, colour and 12 bits with loss."""
    folder = tmp_path_factory.mktemp("files")
    for name in NAMES:
        shutil.copyfile(sample(name), folder / name)
    series = next(one for one in PHANTOM_SERIES if one.number == 2)
    for index in range(3):
        write_slice(folder, (series,), phantom.SLICES // 2 + index)
    write_coded(folder / "colour.dcm", "1.2.840.10008.1.2.4.91", "YBR_ICT")
    write_coded(folder / "signed.dcm", "1.2.840.10008.1.2.4.91", "MONOCHROME2")
    return folder


def write_coded(path: Path, syntax: str, photometric: str) -> None:
    layout = colour(photometric) if photometric.startswith("YBR") else grey(16, 12, 1)
    frame = coded(layout, syntax)
    attributes = image(
        layout.rows,
        layout.columns,
        SeriesInstanceUID=f"1.2.4.1.{len(path.stem)}",
        PhotometricInterpretation=photometric,
        SamplesPerPixel=layout.samples_per_pixel,
        BitsAllocated=layout.bits_allocated,
        BitsStored=layout.bits_stored,
        HighBit=layout.high_bit,
        PixelRepresentation=layout.pixel_representation,
        PlanarConfiguration=0 if layout.samples_per_pixel == 3 else ...,
    )
    write(path, attributes, encapsulate([bytes(frame.data)]), syntax, encapsulated=True)


def paths_of(client: TestClient) -> list[str]:
    """Of all frames, as ``/studies/...``."""
    found = []
    for study in client.get("/api/studies").json()["studies"]:
        for series in study["series"]:
            path = f"/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
            found += [frame["url"].removeprefix("/api") for frame in client.get(f"/api{path}").json()["frames"]]
    return sorted(found)


def answers(client: TestClient) -> dict[str, Any]:
    """Everything that can be had of all frames, but for what each answer says of time."""
    asked: list[tuple[str, dict[str, str]]] = []
    for path in paths_of(client):
        asked += [(f"/api{path}?{query}", {}) for query in ("stage=stored", "stage=modality", "window=40,400")]
        asked += [(f"/dicomweb{path}", {"Accept": accept}) for accept in ACCEPTS]
        asked += [(f"/dicomweb{path}/rendered", {"Accept": "image/png"})]
        asked += [(f"/dicomweb{path.rpartition('/frames/')[0]}/metadata", {})]
    found = {}
    for url, headers in asked:
        answer = client.get(url, headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name not in ("server-timing", "date")}
        boundary = kept.get("content-type", "").partition("boundary=")[2].encode()
        body = answer.content.replace(boundary, b"") if boundary else answer.content
        kept["content-type"] = kept.get("content-type", "").partition("boundary=")[0]
        found[f"{url} {headers}"] = answer.status_code, body, kept
    return found


def reencoder(client: TestClient) -> Reencoder:
    found = client.app.state.service.reencoder  # type: ignore[attr-defined]
    assert isinstance(found, Reencoder)
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_for(client: TestClient, name: str, count: float) -> None:
    wait_until(lambda: reencoder(client).figures()[f"reencode_{name}"] >= count, name)


def files(copies: Path) -> list[Path]:
    return sorted(path for path in (copies / FOLDER).glob("??/*") if path.is_file())


def test_answers_are_the_same_with_and_without_copies(root: Path, tmp_path: Path) -> None:
    with service(root, tmp_path / "off", reencode_bytes=0) as client:
        plain = answers(client)
        frames = len(paths_of(client))
        assert client.app.state.service.reencoder is None  # type: ignore[attr-defined]
    assert frames == len(NAMES) + 5
    assert {status for status, _, _ in plain.values()} <= {200, 406}
    with service(root, tmp_path / "copies") as client:
        assert answers(client) == plain
        wait_for(client, "kept_total", frames)
        assert figure(client, "reencode_hits_total") == 0
    with service(root, tmp_path / "copies") as client:
        assert answers(client) == plain
        assert figure(client, "reencode_hits_total") == frames
        assert figure(client, "reencode_kept_total") == 0
    decoders = {headers.get("x-decode-backend") for _, _, headers in plain.values()} - {None}
    assert decoders == {"jpeg2000", "none"}


def test_frames_as_stored_are_the_bytes_of_the_file(root: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(root / "693_J2KI.dcm")
    codestream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    path = f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    path += f"/instances/{dataset.SOPInstanceUID}"
    for hits in (0, 1):
        with service(root, tmp_path) as client:
            client.get(f"/api{path}/frames/1")
            wait_for(client, "hits_total" if hits else "kept_total", 1)
            answer = client.get(f"/dicomweb{path}/frames/1", headers={"Accept": STORED})
            assert codestream in answer.content
            assert dataset.file_meta.TransferSyntaxUID.encode() in answer.content
            whole = client.get(f"/dicomweb{path}", headers={"Accept": "application/dicom; transfer-syntax=*"})
            assert whole.content == (root / "693_J2KI.dcm").read_bytes()


def test_a_damaged_copy_is_never_a_picture(root: Path, tmp_path: Path) -> None:
    with service(root, tmp_path) as client:
        path = next(path for path in paths_of(client) if "2.25." in path)
        right = client.get(f"/api{path}?stage=stored").content
        wait_for(client, "kept_total", 1)
    (copy,) = files(tmp_path)
    whole = copy.read_bytes()
    for place in (20, 200, len(whole) // 2):
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with service(root, tmp_path) as client:
            answer = client.get(f"/api{path}?stage=stored")
            assert answer.content == right
            assert figure(client, "reencode_damaged_total") + figure(client, "reencode_removed_total") == 1
            assert figure(client, "reencode_hits_total") == 0
            wait_for(client, "kept_total", 1)  # and another one is made
        assert copy.read_bytes() == whole


def test_another_file_in_place_of_one_has_no_copy(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    first, *_ = write_series(root, "MR_small_jp2klossless.dcm", 2)
    with service(root, tmp_path / "copies", rescan_interval_s=0, cache_bytes=0) as client:
        before = client.get(f"/api{first}?stage=stored").content
        wait_for(client, "kept_total", 1)
        dataset = pydicom.dcmread(root / "1.dcm")
        other = pydicom.dcmread(sample("693_J2KI.dcm"))
        for keyword in (  # all that says what the pixels are
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "PixelData",
        ):
            dataset[keyword] = other[keyword]
        dataset.file_meta.TransferSyntaxUID = other.file_meta.TransferSyntaxUID
        status = (root / "1.dcm").stat()
        dataset.save_as(root / "1.dcm")
        os.utime(root / "1.dcm", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        after = client.get(f"/api{first}?stage=stored").content
        assert np.array_equal(np.frombuffer(after, "<i2").reshape(512, 512), other.pixel_array)
        assert after != before
        wait_for(client, "kept_total", 2)
    with service(root, tmp_path / "copies") as client:
        assert client.get(f"/api{first}?stage=stored").content == after
        assert figure(client, "reencode_hits_total") == 1


def test_other_pixels_under_an_unchanged_size_and_time_have_no_copy(tmp_path: Path) -> None:
    """Such a file is taken for unchanged, but its own pixels are shown, not those of before."""
    root, copies = tmp_path / "files", tmp_path / "copies"
    root.mkdir()
    shown = []
    for _ in range(2):
        path = root / "1.dcm"
        write_coded(path, "1.2.840.10008.1.2.4.91", "MONOCHROME2")
        content = bytearray(path.read_bytes().ljust(60_000, b"\0"))
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        with service(root, copies) as client:
            (url,) = paths_of(client)
            shown.append(client.get(f"/api{url}?stage=stored").content)
            wait_for(client, "kept_total", 1)
            assert figure(client, "reencode_hits_total") == 0
    assert shown[0] != shown[1]


def test_copies_of_removed_files_go_with_the_next_scan(tmp_path: Path) -> None:
    root, copies = tmp_path / "files", tmp_path / "copies"
    root.mkdir()
    urls = write_series(root, "MR_small_jp2klossless.dcm", 3)
    with service(root, copies, rescan_interval_s=0.3) as client:
        for url in urls:
            client.get(f"/api{url}?stage=stored")
        wait_for(client, "kept_total", 3)
        (root / "2.dcm").unlink()
        wait_for(client, "removed_total", 1)
        assert len(files(copies)) == 2
    (root / "1.dcm").unlink()
    with service(root, copies) as client:
        wait_for(client, "removed_total", 1)
        assert len(files(copies)) == 1
        client.get(f"/api{urls[2]}?stage=stored")
        assert figure(client, "reencode_hits_total") == 1


def test_what_people_and_prefetch_ask_for_is_right_while_frames_are_coded_anew(tmp_path: Path) -> None:
    root, copies = tmp_path / "files", tmp_path / "copies"
    root.mkdir()
    urls = write_series(root, "693_J2KI.dcm", 12)
    pixels = pydicom.dcmread(sample("693_J2KI.dcm")).pixel_array.tobytes()
    settings: dict[str, Any] = {"cache_bytes": 1 << 20, "lookahead_frames": 4}
    with service(root, copies, **settings) as client:
        for turn in range(3):
            for url in urls:
                headers = {"Priority": "u=7"} if turn == 1 else {}
                assert client.get(f"/api{url}?stage=stored", headers=headers).content == pixels
            time.sleep(0.5)
        wait_for(client, "kept_total", len(urls))
        for url in urls:
            assert client.get(f"/api{url}?stage=stored").content == pixels
        assert figure(client, "reencode_hits_total") >= len(urls) - 1
        assert figure(client, "reencode_differing_total") == figure(client, "reencode_refused_total") == 0


def test_killed_in_the_middle_and_started_again(tmp_path: Path) -> None:
    root, copies = tmp_path / "files", tmp_path / "copies"
    root.mkdir()
    urls = write_series(root, "693_J2KI.dcm", 20)
    pixels = pydicom.dcmread(sample("693_J2KI.dcm")).pixel_array.tobytes()
    environment = {"GPU_RENDER_REENCODE_PATH": str(copies), "GPU_RENDER_REENCODE_BYTES": str(1 << 30)}
    made = 0
    for turn in range(2):
        work = tmp_path / str(turn)
        work.mkdir()
        with serving(root, work, environment=environment) as served:
            served.wait_for_files(len(urls))
            for url in urls:
                assert served.ask(f"/api{url}?stage=stored").body == pixels
            more = min(len(urls), made + 4)
            wait_until(lambda more=more: len(files(copies)) >= more, "copies")  # type: ignore[misc]
            served.process.send_signal(signal.SIGKILL)
            served.process.wait()
            assert b"damaged" not in served.log.read_bytes()
        made = len(files(copies))
    with service(root, copies) as client:
        for url in urls:
            assert client.get(f"/api{url}?stage=stored").content == pixels
        assert figure(client, "reencode_hits_total") == made
        assert figure(client, "reencode_damaged_total") == 0
        wait_for(client, "kept_total", len(urls) - made)


def test_a_full_disk_costs_nobody_a_picture(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_blocks, f_frsize, f_bavail = 1000, 4096, 1

    monkeypatch.setattr(os, "statvfs", lambda _path: Full)
    with service(root, tmp_path) as client:
        path = paths_of(client)[0]
        assert client.get(f"/api{path}").status_code == 200
        wait_for(client, "paused", 1)
        assert client.get("/health/ready").status_code == 200
        assert figure(client, "reencode_paused") == 1
    assert files(tmp_path) == []


def test_copies_inside_a_served_folder_are_refused(tmp_path: Path) -> None:
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", reencode_path=tmp_path / "copies", reencode_bytes=1))
    with pytest.raises(StartupError, match="lies in one that is served"), TestClient(app):
        pass


def test_every_set_of_folders_has_copies_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = default_copies((tmp_path / "a",)), default_copies((tmp_path / "a", tmp_path / "b"))
    assert one != other
    assert one.parent == other.parent == tmp_path / "gpu-render" / "reencoded"
    monkeypatch.setenv("GPU_RENDER_REENCODE_PATH", str(tmp_path / "c"))
    assert default_copies((tmp_path / "a",)) == tmp_path / "c"
    assert not (tmp_path / "gpu-render").exists()
