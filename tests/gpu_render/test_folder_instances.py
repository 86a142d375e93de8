"""Instances as a whole, from folders: searched, opened, their data sets; and scans that go folder by folder."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_render.archive import DicomJson, Level, Match, Query
from gpu_render.archive.folder import FolderArchive
from gpu_render.archive.index import FileKey
from gpu_render.errors import NotFound
from tests.data import sample, write_image
from tests.gpu_render.conftest import Place
from tests.gpu_render.test_folder import InlinePool

NAMES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "JPEG2000.dcm")


@pytest.fixture
def pool() -> InlinePool:
    return InlinePool()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def archive(root: Path, pool: InlinePool, index_place: Place) -> Iterator[FolderArchive]:
    path, url = index_place
    with closing(FolderArchive([root], path, pool, index_url=url)) as opened:
        yield opened


def image(path: Path, uid: str = "1.7", value: int = 7, **changes: Any) -> Path:
    return write_image(path, np.full((2, 2), value, np.uint16), SOPInstanceUID=uid, **changes)


# --- real files ----------------------------------------------------------------------------------------------------


def test_searches_and_data_sets_of_real_files(root: Path, archive: FolderArchive) -> None:
    for name in NAMES:
        (root / name).write_bytes(sample(name).read_bytes())
    archive.scan()
    studies = archive.search(Query(Level.STUDY))
    assert len(studies) == len(NAMES)
    (answer,) = archive.search(Query(Level.STUDY, matches=(Match("PatientName", ("compressedsamples^ct1",)),)))
    assert answer["00100020"]["Value"] == ["1CT1"]
    assert answer["00080061"]["Value"] == ["CT"]
    (study,) = answer["0020000D"]["Value"]
    (record,) = archive.instances(study)
    (text,) = archive.metadata([record])
    whole: DicomJson = json.loads(text)
    assert whole["00080018"]["Value"] == [record.sop_instance_uid]
    (found,) = archive.search(Query(Level.INSTANCE, study_uid=study))
    for tag in ("00080016", "00200013", "00280010", "00280100"):
        assert found[tag] == whole[tag]
    with archive.open(record) as opened:
        assert opened.nbytes == record.nbytes
        assert os.pread(opened.descriptor, opened.nbytes + 1, 0) == sample("CT_small.dcm").read_bytes()


def test_instances_without_pixels_say_why(root: Path, archive: FolderArchive) -> None:
    (root / "plan.dcm").write_bytes(sample("rtplan.dcm").read_bytes())
    archive.scan()
    (answer,) = archive.search(Query(Level.SERIES))
    (record,) = archive.instances(answer["0020000D"]["Value"][0], answer["0020000E"]["Value"][0])
    assert (record.number_of_frames, record.nbytes) == (0, (root / "plan.dcm").stat().st_size)
    assert record.reason


def test_a_file_that_changed_is_not_opened_as_the_one_that_was(root: Path, archive: FolderArchive) -> None:
    path = image(root / "a.dcm")
    archive.scan()
    (before,) = archive.instances("1.2.4.1")
    image(path, value=9, PatientName="A^Longer^Name")
    with pytest.raises(NotFound, match="changed or gone"), archive.open(before):
        pass
    with pytest.raises(NotFound, match="changed or gone"):
        list(archive.metadata([before]))
    (after,) = archive.instances("1.2.4.1")  # it was indexed again at once
    assert after.version != before.version
    with archive.open(after) as opened:
        assert os.pread(opened.descriptor, 1 << 20, 0) == path.read_bytes()
    path.unlink()
    with pytest.raises(NotFound), archive.open(after):
        pass
    with pytest.raises(NotFound, match="no study"):
        archive.instances("1.2.4.1")


# --- scans -----------------------------------------------------------------------------------------------------------


def test_an_unchanged_tree_is_neither_opened_nor_written(
    root: Path, archive: FolderArchive, pool: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        image(root / f"{number % 3}" / f"{number % 2}" / f"{number}.dcm", f"1.{number + 1}")
    (root / "1" / "notes.txt").write_text("no image")
    archive.scan()
    pool.opened.clear()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was written")

    for method in ("write", "remove", "remove_folders", "analyze", "set_roots"):
        monkeypatch.setattr(archive._index, method, refuse)
    report = archive.scan()
    assert (report.unchanged, report.added, report.changed, report.removed) == (13, 0, 0, 0)
    assert pool.opened == []


def test_folders_that_go_take_their_files_along(root: Path, archive: FolderArchive) -> None:
    for number in range(6):
        image(root / f"{number}" / "below" / "x.dcm", f"1.{number + 1}")
    image(root / "top.dcm", "1.9")
    archive.scan()
    (root / "2" / "below" / "x.dcm").unlink()
    (root / "2" / "below").rmdir()
    (root / "3" / "below" / "x.dcm").rename(root / "3" / "moved.dcm")
    (root / "4").rename(root / "other")
    report = archive.scan()
    assert (report.added, report.removed, report.unchanged) == (2, 3, 4)
    assert archive.status().instances == 6
    found = {record.sop_instance_uid for record in archive.instances("1.2.4.1")}
    assert found == {"1.1", "1.2", "1.4", "1.5", "1.6", "1.9"}


def test_a_folder_that_became_a_link_is_forgotten(root: Path, archive: FolderArchive) -> None:
    image(root / "a" / "b" / "x.dcm")
    archive.scan()
    (root / "a").rename(root.parent / "outside")
    (root / "a").symlink_to(root.parent / "outside")
    assert archive.scan().removed == 1
    assert archive.status().instances == 0


def test_what_is_stored_while_a_scan_walks_stays(
    root: Path, archive: FolderArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder that was listed, into a new one, and into one that was known, had gone, and is made again."""
    image(root / "old" / "x.dcm", "1.1")
    image(root / "gone" / "x.dcm", "1.2")
    archive.scan()
    (root / "gone" / "x.dcm").unlink()
    (root / "gone").rmdir()
    stored = {"old/y.dcm": "1.3", "new/x.dcm": "1.4", "gone/y.dcm": "1.5"}
    real, done = os.scandir, threading.Event()

    class Listing:
        """Files come right behind the listing of the folder they are in, or of the one above."""

        def __init__(self, path: bytes) -> None:
            self._path, self._entries = path, real(path)

        def __enter__(self) -> Iterator[Any]:
            self._listed = list(self._entries)
            if not done.is_set() and self._path.endswith(b"/old"):
                done.set()
                for name, uid in stored.items():
                    archive.adopt(archive.examine(archive.key_of(image(root / name, uid))))
            return iter(self._listed)

        def __exit__(self, *_: object) -> None:
            self._entries.close()

    monkeypatch.setattr(os, "scandir", Listing)
    report = archive.scan()
    monkeypatch.undo()
    assert done.is_set()
    assert report.removed == 0
    found = {record.sop_instance_uid for record in archive.instances("1.2.4.1")}
    assert found == {"1.1", "1.2", "1.3", "1.4", "1.5"}
    again = archive.scan()  # which does list the folder that was made again
    assert (again.unchanged, again.removed) == (4, 1)


def test_the_total_is_told_before_parsing_begins(root: Path, archive: FolderArchive) -> None:
    for number in range(7):
        image(root / f"{number}.dcm", f"1.{number + 1}")
    told: list[tuple[int, int]] = []
    archive.scan(lambda done, total: told.append((done, total)))
    assert told == [(done, 7) for done in range(8)]
    told.clear()
    archive.scan(lambda done, total: told.append((done, total)))
    assert told == [(0, 0)]


def test_files_are_taken_in_one_order(root: Path, archive: FolderArchive, pool: InlinePool) -> None:
    for name in ("b/1.dcm", "a/2.dcm", "a/c/3.dcm", "4.dcm", "a-b/5.dcm"):
        image(root / name, f"1.{name[-5]}")
    archive.scan()
    assert sorted(pool.opened) == sorted(["4.dcm", "a/2.dcm", "a-b/5.dcm", "a/c/3.dcm", "b/1.dcm"])
    ids = [archive.image_id(f"1.{number}") for number in (4, 2, 5, 3, 1)]
    assert ids == sorted(ids)


def test_a_file_where_a_folder_was(root: Path, archive: FolderArchive) -> None:
    image(root / "a" / "x.dcm", "1.1")
    archive.scan()
    (root / "a" / "x.dcm").rename(root / "y")
    (root / "a").rmdir()
    (root / "y").rename(root / "a")
    report = archive.scan()
    assert (report.added, report.removed) == (1, 1)
    assert archive.holder("1.1") == FileKey(os.fsencode(root), b"a")
