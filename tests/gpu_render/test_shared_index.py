"""One index for several processes: each archive here stands for one, with connections and locks of its own."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu_render.archive.folder import GENERATION_S, FolderArchive, shared_index
from gpu_render.archive.index import Index
from gpu_render.errors import NotFound, StartupError
from tests.data import write_image
from tests.gpu_render.conftest import Place
from tests.gpu_render.test_folder import InlinePool, only, refs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def follower_of(root: Path, place: Place) -> FolderArchive:
    return FolderArchive([root], place[0], InlinePool(), index_url=place[1], shared=True)


@pytest.fixture
def archives(root: Path, index_place: Place) -> Iterator[tuple[FolderArchive, FolderArchive]]:
    """One that scans and one that follows."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(shared_index([root], *index_place))
        opened = [follower_of(root, index_place) for _ in range(2)]
        for archive in opened:
            stack.enter_context(contextlib.closing(archive))
        yield opened[0], opened[1]


def samples(value: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    return np.full((4, 6), value, np.uint16)


def replace_file(path: Path, value: int, uid: str) -> None:
    """Another file under the same name, as a sender that writes anew does it; its time differs."""
    write_image(path.with_suffix(".new"), samples(value), SOPInstanceUID=uid, PatientName="A^LongerName")
    path.with_suffix(".new").replace(path)


def test_a_follower_sees_what_another_process_scans(root: Path, archives: tuple[FolderArchive, FolderArchive]) -> None:
    scanner, follower = archives
    assert follower.studies() == ()
    write_image(root / "a.dcm", samples(7))
    assert scanner.scan().added == 1
    assert follower.fetch(only(follower).ref).data == samples(7).tobytes()
    assert follower.status().instances == 1


def test_changes_raise_everybodys_generation_and_additions_nobodys(
    root: Path, archives: tuple[FolderArchive, FolderArchive]
) -> None:
    scanner, follower = archives
    write_image(root / "a.dcm", samples(7), SOPInstanceUID="1.2.9.1")
    before = scanner.generation, follower.generation
    scanner.scan()
    time.sleep(2 * GENERATION_S)
    assert (scanner.generation, follower.generation) == before
    replace_file(root / "a.dcm", 8, "1.2.9.1")
    scanner.scan()
    assert scanner.generation > before[0]
    time.sleep(2 * GENERATION_S)
    assert follower.generation == scanner.generation
    assert follower.fetch(only(follower).ref).data == samples(8).tobytes()


def test_a_follower_that_meets_a_changed_file_indexes_it_for_all(
    root: Path, archives: tuple[FolderArchive, FolderArchive]
) -> None:
    scanner, follower = archives
    write_image(root / "a.dcm", samples(7), SOPInstanceUID="1.2.9.1")
    scanner.scan()
    ref, before = only(scanner).ref, scanner.generation
    replace_file(root / "a.dcm", 8, "1.2.9.1")
    assert follower.fetch(ref).data == samples(8).tobytes()
    time.sleep(2 * GENERATION_S)
    assert scanner.generation > before
    assert scanner.fetch(ref).version == follower.fetch(ref).version
    os.remove(root / "a.dcm")  # noqa: PTH107
    with pytest.raises(NotFound):
        follower.fetch(ref)
    assert refs(scanner) == []


def test_nobody_else_may_use_a_shared_index(
    root: Path, index_place: Place, archives: tuple[FolderArchive, FolderArchive]
) -> None:
    with pytest.raises(StartupError, match="another gpu-render"):
        Index(index_place[0], url=index_place[1])
    with pytest.raises(StartupError, match="another gpu-render"), shared_index([root], *index_place):
        pass


def test_an_index_of_one_process_is_not_shared(root: Path, index_place: Place) -> None:
    with (
        contextlib.closing(Index(index_place[0], url=index_place[1])),
        pytest.raises(StartupError, match="another gpu-render"),
    ):
        follower_of(root, index_place)


def test_a_shared_index_must_have_been_made(root: Path, index_place: Place) -> None:
    with pytest.raises(StartupError, match="not been made yet"):
        follower_of(root, index_place)
    Index(index_place[0], url=index_place[1]).close()  # nothing is left of the failed start


def test_files_of_other_roots_are_gone_before_anybody_shares(root: Path, tmp_path: Path, index_place: Place) -> None:
    other = tmp_path / "other"
    write_image(other / "a.dcm", samples(7))
    path, url = index_place
    with contextlib.closing(FolderArchive([other], path, InlinePool(), index_url=url)) as archive:
        archive.scan()
    with shared_index([root], *index_place), contextlib.closing(follower_of(root, index_place)) as follower:
        assert follower.studies() == ()
