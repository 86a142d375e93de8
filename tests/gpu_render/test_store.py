"""Storing: whole files or none, as they came, known at once, never in the place of another."""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_render.archive import folder
from gpu_render.archive.folder import FolderArchive
from gpu_render.archive.store import FailureReason, Outcome, Store, WarningReason, served_roots
from gpu_render.errors import NotFound, StartupError, StorageFull, TooLarge
from gpu_render.reference import FrameRef
from tests.data import file_bytes, image, pydicom_folder, sample, uid
from tests.gpu_render.test_folder import InlinePool

STUDY, SERIES = "1.2.4.1", "1.2.4.1.1"
INCOMING = ".gpu-render-incoming"


class Site:
    """An archive over ``root`` with a store below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "store"
        root.mkdir(exist_ok=True)
        self.archive = FolderArchive(served_roots([root], self.path), None, InlinePool())
        self.store = Store(self.archive, self.path, max_instance_bytes=1 << 20)

    def keep(self, data: bytes, study_uid: str | None = None) -> Outcome:
        """Store ``data``, received in two pieces."""
        return keep(self.store, data, study_uid)

    def files(self) -> dict[str, str]:
        """Path below the store -> digest, of everything but locks; what is being received is among it."""
        paths = [path for path in self.path.rglob("*") if path.is_file() and path.parent.name != "locks"]
        return {path.relative_to(self.path).as_posix(): digest(path.read_bytes()) for path in paths}

    def close(self) -> None:
        self.store.close()
        self.archive.close()


def keep(target: Store, data: bytes, study_uid: str | None = None) -> Outcome:
    incoming = target.receive()
    incoming.write(data[: len(data) // 2])
    incoming.write(memoryview(data)[len(data) // 2 :])
    return target.keep(incoming, study_uid)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ct(sop: str | None = None, fill: int = 1, **changes: Any) -> bytes:
    """An 8 x 8 CT image."""
    attributes = image(8, 8, **changes)
    if sop is not None:
        attributes["SOPInstanceUID"] = sop
    return file_bytes(attributes, np.full(64, fill, "<u2").tobytes())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "root")
    yield made
    made.close()


# --- what is taken ------------------------------------------------------------------------------------------


def test_a_file_is_stored_as_it_came_and_known_at_once(site: Site) -> None:
    data = ct("1.2.3")
    assert site.keep(data) == Outcome(None, None, STUDY, SERIES, "1.2.3", "1.2.840.10008.5.1.4.1.1.2")
    assert site.files() == {f"{STUDY}/{SERIES}/1.2.3.dcm": digest(data)}
    ref = FrameRef(STUDY, SERIES, "1.2.3", 1)
    assert bytes(site.archive.fetch(ref).data) == data[-128:]
    report = site.archive.scan()
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 0, 1)


def test_every_sample_is_stored_as_it_is_or_not_at_all(site: Site) -> None:
    kept: dict[str, str] = {}
    for path in sorted((pydicom_folder() / "test_files").rglob("*.dcm")):
        data = path.read_bytes()
        if len(data) > 1 << 20:
            continue
        outcome = site.keep(data)
        if outcome.failure is None:
            name = f"{outcome.study_uid}/{outcome.series_uid}/{outcome.sop_instance_uid}.dcm"
            assert kept.setdefault(name, digest(data)) == digest(data)
            assert (outcome.warning is not None) == (path.name == "badVR.dcm")  # without Bits Allocated
        assert site.files() == kept, path.name
    assert len(kept) > 30
    assert site.archive.status().instances == len(kept)
    assert site.archive.status().unreadable == ()


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("CT_small.dcm", 35_000, WarningReason.DAMAGED),
        ("CT_small.dcm", 6_000, WarningReason.DAMAGED),
        ("CT_small.dcm", 700, FailureReason.INCOMPLETE),
        ("CT_small.dcm", 200, FailureReason.NOT_UNDERSTOOD),
        ("CT_small.dcm", 100, FailureReason.NOT_UNDERSTOOD),
        ("MR_small_RLE.dcm", 7_000, WarningReason.DAMAGED),
        ("JPEG2000.dcm", 2_977, WarningReason.DAMAGED),
        ("test-SR.dcm", 6_700, WarningReason.DAMAGED),
        ("rtplan.dcm", 2_600, WarningReason.DAMAGED),
        ("reportsi.dcm", 2_900, FailureReason.NOT_UNDERSTOOD),
    ],
)
def test_what_was_cut_off(site: Site, name: str, size: int, expected: FailureReason | WarningReason) -> None:
    data = sample(name).read_bytes()[:size]
    outcome = site.keep(data)
    if isinstance(expected, WarningReason):
        assert (outcome.failure, outcome.warning) == (None, expected)
        assert list(site.files().values()) == [digest(data)]
    else:
        assert outcome.failure == expected
        assert site.files() == {}


def test_objects_without_pixels_are_no_warning(site: Site) -> None:
    for name in ("test-SR.dcm", "rtplan.dcm", "reportsi.dcm"):
        outcome = site.keep(sample(name).read_bytes())
        assert (outcome.failure, outcome.warning) == (None, None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", FailureReason.NOT_UNDERSTOOD),
        (b"nonsense" * 100, FailureReason.NOT_UNDERSTOOD),
        (sample("DICOMDIR").read_bytes(), FailureReason.NOT_UNDERSTOOD),
        (ct(StudyInstanceUID=...), FailureReason.INCOMPLETE),
        (ct(SeriesInstanceUID=None), FailureReason.INCOMPLETE),
        (ct(SOPClassUID=...), FailureReason.INCOMPLETE),
        (file_bytes(image(8, 8), bytes(128), meta=False), FailureReason.INCOMPLETE),
        (ct("../../../x"), FailureReason.NOT_UNDERSTOOD),
        (ct(StudyInstanceUID=".."), FailureReason.NOT_UNDERSTOOD),
        (ct(SeriesInstanceUID="1.2/3"), FailureReason.NOT_UNDERSTOOD),
        (ct(StudyInstanceUID="1.2\\1.3"), FailureReason.NOT_UNDERSTOOD),
        (ct(StudyInstanceUID="1." * 40 + "1"), FailureReason.NOT_UNDERSTOOD),
    ],
)
def test_what_is_not_taken(site: Site, data: bytes, reason: FailureReason) -> None:
    assert site.keep(data).failure == reason
    assert site.files() == {}
    assert [path.name for path in site.root.iterdir()] == ["store"]


def test_an_instance_of_another_study(site: Site) -> None:
    assert site.keep(ct("1.2.3"), "1.2.5").failure == FailureReason.OTHER_STUDY
    assert site.files() == {}
    assert site.keep(ct("1.2.3"), STUDY).failure is None


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        ({"PatientName": "Alice^A"}, {"PatientName": "Bob^B"}, True),
        ({"PatientID": "A1"}, {"PatientID": "B2"}, True),
        ({"PatientID": "1", "IssuerOfPatientID": "A"}, {"PatientID": "1", "IssuerOfPatientID": "B"}, True),
        ({"PatientName": "Alice^A"}, {"PatientName": "ALICE^A^"}, False),
        ({"PatientID": "A1", "IssuerOfPatientID": "A"}, {"PatientID": "A1"}, False),
        ({"PatientID": "A1"}, {"PatientID": "A1"}, False),
    ],
)
def test_another_patient_in_a_study(site: Site, first: dict[str, Any], second: dict[str, Any], warned: bool) -> None:
    """It is stored, with a warning; again when it is sent again; not in another study."""
    outcomes = [site.keep(ct("1.2.3.1", **first)), *(site.keep(ct("1.2.3.2", **second)) for _ in range(2))]
    outcomes.append(site.keep(ct("1.2.3.3", StudyInstanceUID="1.2.9", **second)))
    expected = WarningReason.OTHER_PATIENT if warned else None
    assert [outcome.warning for outcome in outcomes] == [None, expected, expected, None]
    assert all(outcome.failure is None for outcome in outcomes)


def test_a_missing_uid_names_what_is_known(site: Site) -> None:
    outcome = site.keep(ct("1.2.3", StudyInstanceUID=...))
    assert (outcome.sop_instance_uid, outcome.study_uid) == ("1.2.3", "")
    assert site.keep(ct(SOPInstanceUID=...)).sop_instance_uid == ""


# --- what is held already -----------------------------------------------------------------------------------


def test_the_same_again_is_fine(site: Site) -> None:
    first = site.keep(ct("1.2.3"))
    before = site.path.joinpath(STUDY, SERIES, "1.2.3.dcm").stat()
    generation = site.archive.generation
    assert site.keep(ct("1.2.3")) == first
    assert site.path.joinpath(STUDY, SERIES, "1.2.3.dcm").stat() == before
    assert site.archive.generation == generation


@pytest.mark.parametrize("change", [{"fill": 2}, {"StudyInstanceUID": "1.2.9"}, {"PatientID": "other"}])
def test_another_under_the_same_uid_is_refused(site: Site, change: dict[str, Any]) -> None:
    site.keep(ct("1.2.3"))
    before = site.files()
    outcome = site.keep(ct("1.2.3", **change))
    assert outcome.failure == FailureReason.DUPLICATE
    assert outcome.sop_instance_uid == "1.2.3"
    assert site.files() == before


def test_what_another_folder_holds_is_held(site: Site) -> None:
    (site.root / "a.dcm").write_bytes(ct("1.2.3"))
    site.archive.scan()
    assert site.keep(ct("1.2.3")).failure is None
    assert site.keep(ct("1.2.3", fill=2)).failure == FailureReason.DUPLICATE
    assert site.files() == {}


def test_a_file_that_was_deleted_can_be_stored_again(site: Site) -> None:
    site.keep(ct("1.2.3"))
    (site.path / STUDY / SERIES / "1.2.3.dcm").unlink()
    assert site.keep(ct("1.2.3", fill=2)).failure is None
    assert list(site.files().values()) == [digest(ct("1.2.3", fill=2))]


def test_the_whole_takes_the_place_of_a_beginning(site: Site) -> None:
    whole = ct("1.2.3")
    assert site.keep(whole[:-50]).warning == WarningReason.DAMAGED
    assert site.keep(whole[:-20]).failure == FailureReason.DUPLICATE  # damaged as well
    assert site.keep(ct("1.2.3", fill=2)).failure == FailureReason.DUPLICATE
    generation = site.archive.generation
    assert site.keep(whole) == Outcome(None, None, STUDY, SERIES, "1.2.3", "1.2.840.10008.5.1.4.1.1.2")
    assert list(site.files().values()) == [digest(whole)]
    assert site.archive.generation > generation
    assert site.archive.fetch(FrameRef(STUDY, SERIES, "1.2.3", 1)).data == whole[-128:]
    assert site.keep(whole[:-50]).failure == FailureReason.DUPLICATE


def test_what_only_follows_a_whole_file_does_not_replace_it(site: Site) -> None:
    site.keep(ct("1.2.3"))
    assert site.keep(ct("1.2.3") + bytes(8)).failure == FailureReason.DUPLICATE
    assert list(site.files().values()) == [digest(ct("1.2.3"))]


def test_a_file_that_a_process_placed_before_it_was_killed(site: Site) -> None:
    target = site.path / STUDY / SERIES / "1.2.3.dcm"
    target.parent.mkdir(parents=True)
    target.write_bytes(ct("1.2.3"))
    assert site.keep(ct("1.2.3", fill=2)).failure == FailureReason.DUPLICATE
    assert site.keep(ct("1.2.3")).failure is None
    assert site.archive.describe(FrameRef(STUDY, SERIES, "1.2.3", 1)).number_of_frames == 1
    assert list(site.files().values()) == [digest(ct("1.2.3"))]


def test_a_name_that_something_else_has_is_left_alone(site: Site) -> None:
    target = site.path / STUDY / SERIES / "1.2.3.dcm"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"not DICOM")
    assert site.keep(ct("1.2.3")).failure == FailureReason.DUPLICATE
    assert target.read_bytes() == b"not DICOM"


def test_links_within_the_store_lead_nowhere(site: Site, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (site.path / STUDY).symlink_to(tmp_path / "outside")
    assert site.keep(ct("1.2.3")).failure == FailureReason.PROCESSING
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_same_by_several_clients_at_once(site: Site) -> None:
    other = Store(site.archive, site.path, max_instance_bytes=1 << 20)  # as of another process
    targets = [site.store, other] * 8
    barrier = threading.Barrier(len(targets))

    def send(target: Store) -> Outcome:
        barrier.wait()
        return keep(target, ct("1.2.3"))

    with ThreadPoolExecutor(len(targets)) as threads:
        outcomes = list(threads.map(send, targets))
    other.close()
    assert {outcome.failure for outcome in outcomes} == {None}
    assert list(site.files().values()) == [digest(ct("1.2.3"))]


def test_different_files_of_one_instance_at_once(site: Site) -> None:
    files = [ct("1.2.3", fill=number, StudyInstanceUID=f"1.2.{number}") for number in range(8)]
    barrier = threading.Barrier(len(files))

    def send(data: bytes) -> Outcome:
        barrier.wait()
        return site.keep(data)

    with ThreadPoolExecutor(len(files)) as threads:
        outcomes = list(threads.map(send, files))
    won = [data for data, outcome in zip(files, outcomes, strict=True) if outcome.failure is None]
    assert [outcome.failure for outcome in outcomes].count(FailureReason.DUPLICATE) == len(files) - 1
    assert list(site.files().values()) == [digest(data) for data in won]
    assert site.archive.status().instances == 1


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_a_file_beyond_the_limit(site: Site) -> None:
    incoming = site.store.receive()
    incoming.write(bytes(1 << 20))
    with pytest.raises(TooLarge):
        incoming.write(b"x")
    incoming.discard()
    incoming.discard()
    assert site.files() == {}


def test_a_limit_of_the_system_while_a_file_is_received(site: Site) -> None:
    incoming = site.store.receive()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageFull):
            incoming.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        incoming.discard()
    assert site.files() == {}


def failing(number: int) -> Callable[..., Any]:
    """A system call that fails with this errno."""

    def call(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["fsync", "mkdir", "link"])
@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, FailureReason.FULL), (errno.EIO, FailureReason.PROCESSING)]
)
def test_a_disk_that_fails_at_the_end(
    site: Site, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: FailureReason
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        assert site.keep(ct("1.2.3")).failure == reason
    assert site.files() == {}
    with pytest.raises(NotFound):
        site.archive.describe(FrameRef(STUDY, SERIES, "1.2.3", 1))
    assert site.keep(ct("1.2.3")).failure is None


def test_an_index_that_cannot_be_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(site.archive, "adopt", failing(errno.EIO))
        assert site.keep(ct("1.2.3")).failure == FailureReason.PROCESSING
    assert site.keep(ct("1.2.3")).failure is None  # it was placed: the same again


def test_a_file_system_without_hard_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert site.keep(ct("1.2.3")).failure is None
    (site.path / STUDY / SERIES / "1.2.4.dcm").write_bytes(b"something else")
    assert site.keep(ct("1.2.4")).failure == FailureReason.DUPLICATE
    assert (site.path / STUDY / SERIES / "1.2.4.dcm").read_bytes() == b"something else"


def test_leftovers_of_a_process_that_is_gone(tmp_path: Path) -> None:
    incoming = tmp_path / "root" / "store" / INCOMING
    gone, alive = incoming / "0123", incoming / "4567"
    for left in (gone, alive):
        left.mkdir(parents=True)
        (left / "half").write_bytes(ct())
    descriptor = os.open(alive, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    made = Site(tmp_path / "root")
    try:
        assert (gone.exists(), alive.exists()) == (False, True)
        made.archive.scan()
        assert made.archive.status().instances == 0
    finally:
        made.close()
        os.close(descriptor)
    assert [path.name for path in incoming.iterdir() if path.name != "locks"] == ["4567"]


def test_a_store_that_is_closed_leaves_nothing_unfinished(tmp_path: Path) -> None:
    made = Site(tmp_path / "root")
    made.store.receive().write(b"half")
    made.close()
    assert made.files() == {}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError):
        served_roots([], tmp_path / "file" / "store")
    archive = FolderArchive([tmp_path], None, InlinePool())
    with pytest.raises(StartupError):
        Store(archive, tmp_path.parent / "elsewhere", max_instance_bytes=1)
    archive.close()


def test_a_scan_forgets_nothing_that_is_stored_while_it_looks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.keep(ct("1.2.3"))
    listed = folder.list_folder
    kept = []

    def list_folder(place: Any) -> Any:
        found = listed(place)
        for number in range(2):  # into a folder that was just listed, and into one that was not there
            kept.append(ct(fill=number, SeriesInstanceUID=(SERIES, uid())[number]))
            assert site.keep(kept[-1]).failure is None
        return found

    monkeypatch.setattr(folder, "list_folder", list_folder)
    assert site.archive.scan().removed == 0
    assert site.archive.status().instances == 1 + len(kept) > 6


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_kept_as_they_are_or_not_at_all(site: Site, data: st.DataObject) -> None:
    shutil.rmtree(site.path / STUDY, ignore_errors=True)
    changed = bytearray(ct("1.2.3"))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    before = site.files()
    outcome = site.keep(bytes(changed))
    if outcome.failure is None:
        name = f"{outcome.study_uid}/{outcome.series_uid}/{outcome.sop_instance_uid}.dcm"
        assert site.files() == before | {name: digest(bytes(changed))}
    else:
        assert site.files() == before
