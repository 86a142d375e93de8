"""STOW-RS as clients see it: in this process, and over real connections to a server that is killed."""

import contextlib
import http.client
import json
import random
import re
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from api.app import create_app
from api.dicomweb import stow
from gpu_render.archive.store import FailureReason, WarningReason
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan
from tests.api.dicomweb.test_uploads import HEAD, body
from tests.api.served import Answer, Served, serving
from tests.data import file_bytes, image, sample, uid
from tests.gpu_render.test_store import digest

MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'
PATIENT = "Geheim^Person"
WHO = {"PatientName": PATIENT, "PatientID": "GEHEIM7"}
STUDY, SERIES = "1.2.4.1", "1.2.4.1.1"


def ct(sop: str, fill: int = 1, **changes: Any) -> bytes:
    attributes = image(8, 8, **{**WHO, **changes, "SOPInstanceUID": sop})
    return file_bytes(attributes, np.full(64, fill, "<u2").tobytes())


class Site:
    """A service that stores, and its folder."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = folder / "store"
        options = {"roots": (folder,), "store_path": self.path, "backend": "cpu", "workers": 1, **options}
        self.client = TestClient(create_app(Settings(**options)), "http://127.0.0.1", raise_server_exceptions=False)

    def post(self, data: bytes | Iterator[bytes], content_type: str = MULTIPART, path: str = "", **headers: str) -> Any:
        return self.client.post(
            f"/dicomweb/studies{path}", content=data, headers={"Content-Type": content_type, **headers}
        )

    def files(self) -> dict[str, str]:
        """Path below the store -> digest, of everything but locks; what is being received is among it."""
        return files_below(self.path)


def files_below(path: Path) -> dict[str, str]:
    paths = [file for file in path.rglob("*") if file.is_file() and file.parent.name != "locks"]
    return {file.relative_to(path).as_posix(): digest(file.read_bytes()) for file in paths}


def name_of(sop: str, study: str = STUDY, series: str = SERIES) -> str:
    return f"{study}/{series}/{sop}.dcm"


@contextlib.contextmanager
def site_in(folder: Path, **options: Any) -> Iterator[Site]:
    site = Site(folder, **options)
    with site.client:
        yield site


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests whose files nobody else has."""
    with site_in(tmp_path_factory.mktemp("stow")) as site:
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as made:
        yield made


def reasons(answer: Any) -> dict[str, int]:
    """SOP Instance UID -> Failure Reason; 0 for those that are held."""
    found = Dataset.from_json(answer.json())
    held = {item.ReferencedSOPInstanceUID: 0 for item in found.get("ReferencedSOPSequence", [])}
    return held | {item.ReferencedSOPInstanceUID: item.FailureReason for item in found.get("FailedSOPSequence", [])}


def other_reasons(answer: Any) -> list[int]:
    return [item.FailureReason for item in Dataset.from_json(answer.json()).get("OtherFailuresSequence", [])]


# --- what is answered ---------------------------------------------------------------------------------------


def test_instances_are_stored_and_found_at_once(shared: Site) -> None:
    names = ("CT_small.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "test-SR.dcm", "rtplan.dcm", "MR_small.dcm")
    files = [sample(name).read_bytes() for name in names]
    answer = shared.post(body(files))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    module = Dataset.from_json(answer.json())
    assert "FailedSOPSequence" not in module
    assert "OtherFailuresSequence" not in module
    assert module.RetrieveURL == ""  # of several studies
    for name, data, item in zip(names, files, module.ReferencedSOPSequence, strict=True):
        ds = pydicom.dcmread(sample(name), stop_before_pixels=True)
        assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (ds.SOPClassUID, ds.SOPInstanceUID)
        assert "WarningReason" not in item
        stored = f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
        assert shared.files()[stored] == digest(data)
        found = shared.client.get("/dicomweb/instances", params={"SOPInstanceUID": ds.SOPInstanceUID}).json()
        assert [one["00080018"]["Value"] for one in found] == [[ds.SOPInstanceUID]]
        metadata = shared.client.get(f"{item.RetrieveURL.removeprefix('http://127.0.0.1')}/metadata").json()
        assert metadata[0]["00080018"]["Value"] == [ds.SOPInstanceUID]


def test_an_instance_comes_back_bit_by_bit(shared: Site) -> None:
    data = ct(sop := uid())
    answer = shared.post(data, "application/dicom", f"/{STUDY}")
    module = Dataset.from_json(answer.json())
    assert (answer.status_code, module.RetrieveURL) == (200, f"http://127.0.0.1/dicomweb/studies/{STUDY}")
    url = module.ReferencedSOPSequence[0].RetrieveURL
    assert url == f"http://127.0.0.1/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{sop}"
    back = shared.client.get(url, headers={"Accept": 'application/dicom; transfer-syntax="*"'})
    assert (back.status_code, digest(back.content)) == (200, digest(data))


def test_the_same_again_and_another_under_its_uid(shared: Site) -> None:
    sop = uid()
    first = shared.post(body([ct(sop)]))
    again = shared.post(body([ct(sop)]))
    assert (again.status_code, again.json()) == (200, first.json())
    other = shared.post(body([ct(sop, fill=2)]))
    assert (other.status_code, reasons(other)) == (409, {sop: FailureReason.DUPLICATE})
    assert shared.files()[name_of(sop)] == digest(ct(sop))


def test_some_are_stored_and_some_are_not(shared: Site) -> None:
    good, foreign = uid(), uid()
    files = [ct(foreign, StudyInstanceUID="1.2.9"), b"nonsense", ct(good), ct(uid(), SeriesInstanceUID=...)[:-300]]
    answer = shared.post(body(files), path=f"/{STUDY}")
    assert answer.status_code == 202
    found = reasons(answer)
    assert (found[good], found[foreign]) == (0, FailureReason.OTHER_STUDY)
    assert sorted(found.values()) == [0, FailureReason.INCOMPLETE, FailureReason.OTHER_STUDY]
    assert other_reasons(answer) == [FailureReason.NOT_UNDERSTOOD]


def test_a_damaged_file_is_stored_with_a_warning(shared: Site) -> None:
    data = ct(sop := uid())[:-30]
    answer = shared.post(body([data]))
    module = Dataset.from_json(answer.json())
    assert answer.status_code == 202
    assert module.ReferencedSOPSequence[0].WarningReason == WarningReason.DAMAGED
    assert shared.files()[name_of(sop)] == digest(data)
    assert shared.post(body([ct(sop)])).status_code == 200
    assert shared.files()[name_of(sop)] == digest(ct(sop))


def test_a_file_of_another_patient_is_stored_with_a_warning(site: Site) -> None:
    """And when it has gone nothing is said of that patient any more, after a restart too."""
    assert site.post(body([ct("1.2.77.1")])).status_code == 200
    other = site.post(body([ct("1.2.77.2", PatientName="Bob^B", PatientID="B2")]))
    assert other.status_code == 202
    assert [item["00081196"]["Value"] for item in other.json()["00081199"]["Value"]] == [[0xB000]]
    ids = [study["00100020"]["Value"] for study in site.client.get("/dicomweb/studies").json()]
    assert ids == [["B2"]]
    assert len(site.client.get("/dicomweb/studies?PatientID=GEHEIM7").json()) == 1
    (site.path / name_of("1.2.77.2")).unlink()
    with site_in(site.path.parent) as again:
        wait_for_scan(again.client)
        (study,) = again.client.get("/dicomweb/studies").json()
        assert study["00100020"]["Value"] == ["GEHEIM7"]
        assert again.client.get("/dicomweb/studies?PatientID=B2").json() == []


def test_none_is_stored(shared: Site) -> None:
    before = shared.files()
    answer = shared.post(body([b"nonsense", ct(uid(), StudyInstanceUID=...)]))
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/dicom+json"
    assert Dataset.from_json(answer.json()).RetrieveURL == ""
    assert shared.files() == before


@pytest.mark.parametrize(
    ("data", "content_type", "path", "status"),
    [
        (b"", MULTIPART, "", 400),
        (body([ct("1.2.77")])[:-8], MULTIPART, "", 400),
        (body([ct("1.2.77")]), "multipart/related; type=application/dicom", "", 400),
        (body([ct("1.2.77")]), MULTIPART, "/1.2.x", 400),
        (body([ct("1.2.77")]), MULTIPART, "/%2E%2E%2E", 400),
        (b"{}", "application/dicom+json", "", 415),
        (b"<a/>", "application/dicom+xml", "", 415),
        (b"{}", 'multipart/related; type="application/dicom+json"; boundary=b', "", 415),
        (body([b"{}"], head=b"Content-Type: application/dicom+json\r\n"), MULTIPART, "", 415),
        (body([ct("1.2.77")]), "text/plain", "", 415),
    ],
)
def test_requests_that_are_refused(shared: Site, data: bytes, content_type: str, path: str, status: int) -> None:
    before = shared.files()
    answer = shared.post(data, content_type, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert shared.files() == before


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom+json", 200),
        ("application/json", 200),
        ("*/*", 200),
        ("application/dicom+xml, application/dicom+json;q=0.5", 200),
        ("application/dicom+xml", 406),
    ],
)
def test_what_is_accepted(shared: Site, accept: str, status: int) -> None:
    answer = shared.post(body([ct("1.2.88")]), Accept=accept)
    assert answer.status_code == status
    assert (name_of("1.2.88") in shared.files()) or status == 406


def test_nothing_is_stored_where_no_folder_is_named(tmp_path: Path) -> None:
    with site_in(tmp_path, store_path=None) as site:
        answer = site.post(body([ct("1.2.3")]))
    assert answer.status_code == 403
    assert "GPU_RENDER_STORE_PATH" in answer.json()["detail"]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_may_lie_outside_the_roots(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with site_in(tmp_path / "root", store_path=tmp_path / "a" / "b") as site:
        assert site.post(body([ct("1.2.3")])).status_code == 200
        assert len(site.client.get("/dicomweb/studies").json()) == 1
    assert list(files_below(tmp_path / "a" / "b")) == [name_of("1.2.3")]


def test_what_was_complete_before_a_body_broke_stays(shared: Site) -> None:
    first, second = uid(), uid()
    whole = body([ct(first), ct(second)])
    answer = shared.post(whole[: -len(ct(second)) // 2])
    assert (answer.status_code, reasons(answer)) == (202, {first: 0})
    assert other_reasons(answer) == [FailureReason.NOT_UNDERSTOOD]
    assert name_of(first) in shared.files()
    assert name_of(second) not in shared.files()
    assert shared.post(whole).status_code == 200


def test_an_instance_that_is_too_large(tmp_path: Path) -> None:
    small, large = ct("1.2.3"), file_bytes(image(64, 64, SOPInstanceUID="1.2.4"), bytes(8192))
    with site_in(tmp_path, max_store_instance_bytes=4096) as site:
        assert site.post(body([large])).status_code == 413
        answer = site.post(body([large, small]))
        assert (answer.status_code, reasons(answer), other_reasons(answer)) == (202, {"1.2.3": 0}, [0xA701])
        assert list(site.files()) == [name_of("1.2.3")]


def test_a_request_that_is_too_large(tmp_path: Path) -> None:
    with site_in(tmp_path, max_store_bytes=1500) as site:
        assert site.post(body([ct("1.2.3"), ct("1.2.4"), ct("1.2.5")])).status_code == 413
        assert site.files() == {}


def test_too_many_instances(tmp_path: Path) -> None:
    with site_in(tmp_path, max_store_instances=2) as site:
        answer = site.post(body([ct("1.2.3"), ct("1.2.4"), ct("1.2.5")]))
        assert (answer.status_code, other_reasons(answer)) == (202, [FailureReason.TOO_LARGE])
        assert sorted(site.files()) == [name_of("1.2.3"), name_of("1.2.4")]


def test_too_many_uploads(shared: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "MAX_UPLOADS", 0)
    answer = shared.post(body([ct(uid())]))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_many_instances_in_one_request(shared: Site) -> None:
    files = {uid(): number for number in range(60)}
    answer = shared.post(body([ct(sop, number) for sop, number in files.items()]))
    assert answer.status_code == 200
    assert list(reasons(answer)) == list(files)  # in their order
    assert all(shared.files()[name_of(sop)] == digest(ct(sop, number)) for sop, number in files.items())


# --- what clients may do ------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bodies(shared: Site, data: st.DataObject) -> None:
    shutil.rmtree(shared.path / STUDY, ignore_errors=True)
    before = shared.files()
    whole = bytearray(body([ct("1.2.991"), ct("1.2.992", fill=2)]))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(whole)))
        removed = data.draw(st.sampled_from([0, 0, 1, 2, 4, 400]))
        put = data.draw(st.binary(max_size=4) | st.sampled_from([b"\r\n", b"\r\n--b\r\n", b"--b--", HEAD, b"../../x"]))
        whole[at : at + removed] = put
    answer = shared.post(bytes(whole))
    assert answer.status_code in (200, 202, 400, 409, 413, 415)
    assert PATIENT not in answer.text
    new = {name: found for name, found in shared.files().items() if name not in before}
    if answer.status_code in (200, 202):
        held = [sop for sop, reason in reasons(answer).items() if reason == 0]
        assert {Path(name).stem for name in new} <= set(held)
    else:
        assert new == {}
    assert [path for path in shared.path.parent.iterdir() if path != shared.path] == []


def test_answers_and_logs_name_no_patient(shared: Site, caplog: pytest.LogCaptureFixture) -> None:
    texts = [
        shared.post(body([ct(sop := uid())])).text,
        shared.post(body([ct(sop, fill=2)])).text,
        shared.post(body([ct(uid())[:400], ct(uid(), StudyInstanceUID=PATIENT)])).text,
        shared.post(body([ct(uid())], head=b"Content-Type: text/plain\r\n")).text,
    ]
    for text in [*texts, caplog.text]:
        assert "Geheim" not in text
        assert "GEHEIM" not in text
        assert str(shared.path) not in text


# --- over real connections ----------------------------------------------------------------------------------


@contextlib.contextmanager
def storing(work: Path, **options: Any) -> Iterator[Served]:
    """A server that stores below ``work/root/store``."""
    (work / "root").mkdir(parents=True, exist_ok=True)
    arguments = ("--store", str(work / "root" / "store"), *options.pop("arguments", ()))
    with serving(work / "root", work, options=arguments, **options) as service:
        yield service


def send(service: Served, data: bytes | Iterable[bytes], content_type: str = MULTIPART) -> Answer:
    """A store request on a connection of its own; chunked where ``data`` is no bytes."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        headers = {"Content-Type": content_type}
        connection.request("POST", "/dicomweb/studies", data, headers, encode_chunked=not isinstance(data, bytes))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def is_empty_of_leftovers(store: Path) -> bool:
    return not [path for path in (store / ".gpu-render-incoming").rglob("*") if path.is_file() and len(path.name) == 32]


def eventually(true: Callable[[], bool], limit_s: float = 30) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A server, and the folder it stores to."""
    work = tmp_path_factory.mktemp("served")
    with storing(work) as service:
        yield service, work / "root" / "store"


def test_memory_stays_flat_while_half_a_gigabyte_comes(served: tuple[Served, Path]) -> None:
    service, store = served
    frames, frame = 1000, np.arange(512 * 512, dtype="<u2").tobytes()
    sop = uid()
    head = file_bytes(image(512, 512, **WHO, SOPInstanceUID=sop, NumberOfFrames=frames))
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + (frames * len(frame)).to_bytes(4, "little")

    def data() -> Iterator[bytes]:
        yield b"--b\r\n" + HEAD + b"\r\n" + head + pixels
        for _ in range(frames):
            yield frame
        yield b"\r\n--b--\r\n"

    send(service, body([ct(uid())]))  # whatever the first one loads
    service.forget_peak()
    before = service.peak_bytes()
    answer = send(service, data())
    assert answer.status == 200, answer
    assert service.peak_bytes() - before < 32 << 20
    stored = store / name_of(sop)
    assert stored.stat().st_size == len(head) + len(pixels) + frames * len(frame)
    with stored.open("rb") as file:
        file.seek(-len(frame), 2)
        assert file.read() == frame
    stored.unlink()


def test_a_client_that_goes_in_the_middle(served: tuple[Served, Path]) -> None:
    service, store = served
    first, second = uid(), uid()
    whole = body([ct(first), file_bytes(image(2048, 2048, **WHO, SOPInstanceUID=second), bytes(8 << 20))])
    request = f"POST /dicomweb/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {MULTIPART}\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(f"{request}Content-Length: {len(whole)}\r\n\r\n".encode() + whole[: 6 << 20])
        assert eventually(lambda: not is_empty_of_leftovers(store))
    assert eventually(lambda: is_empty_of_leftovers(store) and (store / name_of(first)).exists())
    assert not (store / name_of(second)).exists()
    assert send(service, whole).status == 200


#: The command line, with less patience.
IMPATIENT = "from api.dicomweb import uploads; uploads.IDLE_S = 0.5; from api.cli import app; app()"


def test_a_silent_client_and_one_that_sends_too_much(tmp_path: Path) -> None:
    store = tmp_path / "root" / "store"
    with storing(tmp_path, launch=("-c", IMPATIENT), environment={"GPU_RENDER_MAX_STORE_BYTES": "100000"}) as service:
        head = f"POST /dicomweb/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {MULTIPART}\r\n"
        for sent, status in ((b"", 408), (body([ct("1.2.3"), ct("1.2.4")])[:-200], 202)):
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
                connection.sendall(f"{head}Content-Length: 9999\r\n\r\n".encode() + sent)
                answer = connection.makefile("rb").read().decode()  # ends: the server closes the connection
            assert answer.startswith(f"HTTP/1.1 {status} ")
            assert "connection: close" in answer.lower()
        assert eventually(lambda: list(files_below(store)) == [name_of("1.2.3")])
        whole = body([ct("1.2.5"), b"x" * 200_000])
        chunked = send(service, [whole[i : i + 5000] for i in range(0, len(whole), 5000)])
        assert chunked.status == 202
        module = Dataset.from_json(json.loads(chunked.body))
        assert [item.ReferencedSOPInstanceUID for item in module.ReferencedSOPSequence] == ["1.2.5"]
        assert [item.FailureReason for item in module.OtherFailuresSequence] == [FailureReason.TOO_LARGE]
        assert list(files_below(store)) == [name_of("1.2.3"), name_of("1.2.5")]


def test_a_refusal_reaches_a_client_that_goes_on_sending(served: tuple[Served, Path]) -> None:
    service, _ = served
    answer = send(service, [b"x" * (1 << 20)] * 32, "text/plain")
    assert answer.status == 415


def test_clients_that_send_at_the_same_time(served: tuple[Served, Path]) -> None:
    service, store = served
    same, contested, apart = uid(), uid(), [uid() for _ in range(8)]

    def one(number: int) -> Answer:
        data = body([ct(same), ct(contested, fill=number), ct(apart[number])])
        return send(service, data if number % 2 else [data[:500], data[500:]])

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, range(8)))
    assert sorted(answer.status for answer in answers) == [200, *[202] * 7]
    found = [Dataset.from_json(json.loads(answer.body)) for answer in answers]
    won = [number for number, module in enumerate(found) if "FailedSOPSequence" not in module]
    assert digest((store / name_of(contested)).read_bytes()) == digest(ct(contested, fill=won[0]))
    assert digest((store / name_of(same)).read_bytes()) == digest(ct(same))
    assert all((store / name_of(sop)).exists() for sop in apart)
    refused = {module.FailedSOPSequence[0].FailureReason for module in found if "FailedSOPSequence" in module}
    assert refused == {FailureReason.DUPLICATE}


def test_the_log_names_nobody(served: tuple[Served, Path]) -> None:
    service, _ = served
    send(service, body([ct(sop := uid())]))
    send(service, body([ct(sop, fill=2), ct(uid())[:300], b"x"]))
    send(service, b"--b\r\nGeheim^Person\r\n\r\n")
    assert "eheim" not in service.log.read_text()


#: The command line in a process that cannot write files beyond 4 MiB: to it, its disk is full then.
FULL = "import resource as r; h = r.getrlimit(r.RLIMIT_FSIZE)[1]; r.setrlimit(r.RLIMIT_FSIZE, (4 << 20, h))"


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY, reason="files are limited here already"
)
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    large = file_bytes(image(2048, 1536, SOPInstanceUID="1.2.4"), bytes(2 * 2048 * 1536))
    with storing(tmp_path, launch=("-c", f"{FULL}; from api.cli import app; app()")) as service:
        answer = send(service, body([large]))
        assert (answer.status, answer.headers["content-type"]) == (507, "application/dicom+json")
        store = tmp_path / "root" / "store"
        assert files_below(store) == {}
        mixed = send(service, body([large, ct("1.2.3")]))
        assert mixed.status == 202
        module = Dataset.from_json(json.loads(mixed.body))
        assert [item.FailureReason for item in module.OtherFailuresSequence] == [FailureReason.FULL]
        assert list(files_below(store)) == [name_of("1.2.3")]


def known_instances(service: Served) -> set[str]:
    found: list[str] = []
    while page := json.loads(service.ask(f"/dicomweb/instances?limit=500&offset={len(found)}").body or "[]"):
        found += [one["00080018"]["Value"][0] for one in page]
    return set(found)


ROUNDS = 4


@pytest.mark.timeout(300)
def test_a_server_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever was answered is there, whole; of the rest each is whole and known, or not there at all."""
    chance, store = random.Random(7), tmp_path / "root" / "store"
    sent: dict[str, bytes] = {}
    confirmed = set[str]()

    def upload(service: Served) -> None:
        while True:
            files = {uid(): chance.randrange(1000) for _ in range(3)}
            data = {sop: ct(sop, fill, SeriesInstanceUID=f"1.2.5.{fill % 7}") for sop, fill in files.items()}
            sent.update(data)
            try:
                answer = send(service, [body(data.values())])
            except (OSError, http.client.HTTPException):
                return
            confirmed.update(sop for sop, reason in reasons_of(answer).items() if reason == 0)

    def kill_while_storing(service: Served) -> None:
        threads = [threading.Thread(target=upload, args=(service,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        before = len(confirmed)
        assert eventually(lambda: len(confirmed) > before)
        time.sleep(chance.uniform(0, 0.3))
        service.process.kill()
        service.process.wait()
        for thread in threads:
            thread.join()

    for number in range(ROUNDS + 1):
        on_disk = {Path(name).stem: found for name, found in files_below(store).items() if name.endswith(".dcm")}
        assert all(found == digest(sent[sop]) for sop, found in on_disk.items())
        assert confirmed <= on_disk.keys()
        with storing(tmp_path) as service:
            assert eventually(lambda: service.ask("/health/live").status == 200)
            state = service.wait_for_files(len(on_disk))
            assert state["unreadable"] == []
            assert known_instances(service) == on_disk.keys()
            assert is_empty_of_leftovers(store)
            again = [send(service, body([sent[sop]])) for sop in chance.sample(sorted(sent), 5 if sent else 0)]
            assert {answer.status for answer in again} <= {200}  # sent again, as clients do
            if number < ROUNDS:
                kill_while_storing(service)
    assert len(confirmed) > ROUNDS


def reasons_of(answer: Answer) -> dict[str, int]:
    found = Dataset.from_json(json.loads(answer.body))
    held = {item.ReferencedSOPInstanceUID: 0 for item in found.get("ReferencedSOPSequence", [])}
    return held | {item.ReferencedSOPInstanceUID: item.FailureReason for item in found.get("FailedSOPSequence", [])}


def test_all_processes_see_what_one_has_stored(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with storing(tmp_path, arguments=("--gpus", "0,1")) as service:
        assert eventually(lambda: service.ask("/health/ready").problem.get("status") == "ready")
        series = [uid() for _ in range(6)]
        files = {uid(): each for each in series}
        data = body([ct(sop, SeriesInstanceUID=each) for sop, each in files.items()])
        answer = send(service, [data[i : i + 700] for i in range(0, len(data), 700)])
        assert answer.status == 200, answer
        workers = set()
        for sop, each in files.items():
            path = f"/dicomweb/studies/{STUDY}/series/{each}/instances/{sop}/metadata"
            found = service.ask(path)
            assert found.status == 200
            workers.add(found.headers["x-render-worker"])
        assert workers == {"0", "1"}
        assert re.fullmatch(
            r"http://127\.0\.0\.1:\d+/dicomweb/studies/.*", json.loads(answer.body)["00081190"]["Value"][0]
        )
