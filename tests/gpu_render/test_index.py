"""The index by itself: what survives, what is refused, what one look-up finds."""

import sqlite3
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gpu_render.archive.database import SqliteDatabase
from gpu_render.archive.index import (
    APPLICATION_ID,
    CHUNK_FRAMES,
    SCHEMA_VERSION,
    FileChange,
    FileKey,
    Index,
    version_of,
)
from gpu_render.archive.records import geometry_to_json, layout_to_json, presentation_to_json
from gpu_render.archive.tables import OF_INSTANCES, file, series, study, term
from gpu_render.errors import NotFound, StartupError
from gpu_render.frame import Geometry, PixelLayout, Presentation, Rescale
from gpu_render.reference import FrameRef

ROOT = b"/data"
LAYOUT = PixelLayout(2, 3, 1, 16, 12, 11, 0, "MONOCHROME2")


def document(sop: str, count: int = 1, *, study: str = "1.1", series: str = "1.1.1", **changes: Any) -> dict[str, Any]:
    """What ``archive.parse`` says about an encapsulated object."""
    names = ("PatientName", "PatientID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber")
    return {
        "study_instance_uid": study,
        "series_instance_uid": series,
        "sop_instance_uid": sop,
        "study": dict.fromkeys(names, "x"),
        "series": {"Modality": "CT", "SeriesNumber": 1, "SeriesDescription": "y"},
        "instance": {"SOPClassUID": "1.2", "InstanceNumber": 4, "SliceThickness": 2.5},
        "transfer_syntax_uid": "1.2.840.10008.1.2.4.90",
        "number_of_frames": count,
        "error": None,
        "layout": layout_to_json(LAYOUT),
        "presentations": [presentation_to_json(Presentation(modality=Rescale(n, 0.0))) for n in (1, 2)],
        "geometry": geometry_to_json(Geometry()),
        "frames": [],
        "pixel_offset": 100,
        "frame_bits": 0,
        "word_swap": False,
        "frames_whole": count,
        "inflate_offset": 0,
        **changes,
    }


def change(path: str, document: dict[str, Any] | None, spans: bytes = b"", root: bytes = ROOT) -> FileChange:
    return FileChange(FileKey(root, path.encode()), 10, 20, document, spans, "" if document else "broken")


def spans_of(frames: int) -> bytes:
    return b"".join(struct.pack("<2Q", 1000 + n, 10 + n) for n in range(frames))


Opener = Callable[..., Index]


@pytest.fixture
def index(open_index: Opener) -> Index:
    opened = open_index()
    opened.set_roots([ROOT])
    return opened


def known_files(index: Index) -> dict[bytes, tuple[int, int]]:
    """What is known of the files in the root itself."""
    return index.held_folder(FileKey(ROOT, b"")).files


@pytest.mark.parametrize("frames", [1, CHUNK_FRAMES, CHUNK_FRAMES + 1, 1000])
def test_spans_of_every_frame(index: Index, frames: int) -> None:
    index.write([change("a", document("1.7", frames), spans_of(frames))])
    for number in {1, 2, CHUNK_FRAMES, CHUNK_FRAMES + 1, frames} & set(range(1, frames + 1)):
        assert index.find(FrameRef("1.1", "1.1.1", "1.7", number)).span == (999 + number, 9 + number)


def test_frames_that_differ(index: Index) -> None:
    moved = Geometry((1.0, 2.0, 3.0))
    index.write([change("a", document("1.7", 3, frames=[[2, 1, geometry_to_json(moved)]]), spans_of(3))])
    records = [index.find(FrameRef("1.1", "1.1.1", "1.7", number)).record for number in (1, 2, 3)]
    assert [r and (r.presentation.modality, r.geometry) for r in records] == [
        (Rescale(1, 0.0), Geometry()),
        (Rescale(2, 0.0), moved),
        (Rescale(1, 0.0), Geometry()),
    ]
    assert index.series_frames("1.1", "1.1.1")[0] == records


def test_a_record_has_everything(index: Index) -> None:
    index.write([change("a", document("1.7"), spans_of(1))])
    record = index.find(FrameRef("1.1", "1.1.1", "1.7", 1)).record
    assert record is not None
    assert (record.layout, record.instance_number, record.slice_thickness) == (LAYOUT, 4, 2.5)
    assert (record.sop_class_uid, record.image_id, record.version) == ("1.2", 1, version_of(10, 20))


def test_ids_survive_removal_and_another_schema(open_index: Opener) -> None:
    index = open_index()
    index.set_roots([ROOT])
    index.write([change("a", document("1.7")), change("b", document("1.8"))])
    index.remove([FileKey(ROOT, b"a")])
    index.write([change("c", document("1.9")), change("d", document("1.7"))])
    before = [index.image_id(sop) for sop in ("1.7", "1.8", "1.9")]
    assert before == [1, 2, 3]
    mark = f"PRAGMA user_version = {SCHEMA_VERSION + 1}"
    if not isinstance(index._db, SqliteDatabase):
        mark = f"UPDATE gpu_render_index SET version = {SCHEMA_VERSION + 1}"
    with index._db.reader() as database:
        database.exec_driver_sql(mark)
        database.exec_driver_sql("DROP TABLE instance")
    index.close()
    rebuilt = open_index()
    assert known_files(rebuilt) == {}
    rebuilt.set_roots([ROOT])
    rebuilt.write([change("b", document("1.8")), change("a", document("1.9")), change("c", document("1.7"))])
    assert [rebuilt.image_id(sop) for sop in ("1.7", "1.8", "1.9")] == before


def test_other_files_are_not_taken_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(StartupError, match="remove it or name another"):
        Index(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE important (x)")
    database.close()
    with pytest.raises(StartupError, match="another program"):
        Index(tmp_path / "other")
    assert (tmp_path / "text").read_text().startswith("not a database")


def test_a_new_index_is_marked_as_ours(tmp_path: Path) -> None:
    Index(tmp_path / "below" / "i.sqlite").close()
    database = sqlite3.connect(tmp_path / "below" / "i.sqlite")
    assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_nothing_is_left_of_what_is_removed(index: Index) -> None:
    index.write([change("a", document("1.7", 3, frames=[[2, 1, geometry_to_json(Geometry())]]), spans_of(3))])
    assert index.remove([FileKey(ROOT, b"a"), FileKey(ROOT, b"unknown")])
    assert index.studies() == ()
    assert index.counts() == (0, 0)
    with index._db.reader() as database:
        for table in (file, study, series, term, *OF_INSTANCES):
            assert database.execute(select(func.count()).select_from(table)).scalar_one() == 0, table
    with pytest.raises(NotFound, match="no image 1"):
        index.first_frame(1)


def test_what_write_says_about_changes(index: Index) -> None:
    assert not index.write([change("a", document("1.7")), change("b", None)])
    assert not index.write([change("b", None)])
    assert index.write([change("a", document("1.7"))])
    assert index.write([change("a", None)])
    assert [(entry.path, entry.reason) for entry in index.unreadable()] == [("a", "broken"), ("b", "broken")]


def test_a_transaction_that_fails_leaves_nothing(index: Index) -> None:
    broken = document("1.8")
    del broken["transfer_syntax_uid"]
    with pytest.raises(KeyError):
        index.write([change("a", document("1.7")), change("b", broken)])
    assert known_files(index) == {}
    assert not index.write([change("a", document("1.7"))])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["1.7", "1.8", None])), max_size=12))
def test_any_history_ends_where_a_fresh_scan_would(index: Index, history: list[tuple[str, str | None]]) -> None:
    """Files come, change and go in any order; the first path always holds the instance."""
    index.set_roots([])
    index.set_roots([ROOT])
    files: dict[str, str] = {}
    for path, sop in history:
        if sop is None:
            files.pop(path, None)
            index.remove([FileKey(ROOT, path.encode())])
        else:
            files[path] = sop
            index.write([change(path, document(sop))])
        for key in index.orphaned_duplicates():  # as a scan does
            index.write([change(key.path.decode(), document(files[key.path.decode()]))])
    holders: dict[str, str] = {}
    for path in sorted(files):
        holders.setdefault(files[path], path)
    found = {}
    for sop in holders:
        found[sop] = index.find(FrameRef("1.1", "1.1.1", sop, 1)).key.path.decode()
    assert found == holders
    assert index.counts()[0] == len(holders)
    assert len(index.unreadable()) == len(files) - len(holders)


def test_many_threads_read_while_one_writes(index: Index) -> None:
    index.write([change("a", document("1.7", 300), spans_of(300))])
    stop, failures = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not stop.is_set():
                assert index.find(FrameRef("1.1", "1.1.1", "1.7", 200)).span == (1199, 209)
                index.studies()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        index.write([change(f"b{number}", document(f"1.9.{number}"))])
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert index.counts() == (51, 350)


def test_temporary_indexes_are_removed() -> None:
    index = Index(None)
    assert isinstance(index._db, SqliteDatabase)
    path = index._db.path
    assert path.exists()
    index.close()
    assert not path.parent.exists()
