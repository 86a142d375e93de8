"""Copies on disk: used for exactly what they were made of and with every byte as it was, within a budget, whatever
ends who writes them."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_render import copies as module
from gpu_render.copies import FOLDER, Copies
from gpu_render.errors import TooLarge
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation, Rescale
from gpu_render.reference import FrameRef

MIB = 1 << 20
J2K = "1.2.840.10008.1.2.4.90"
HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"
GREY = PixelLayout(16, 20, 1, 16, 12, 11, 1, "MONOCHROME2")
RGB = PixelLayout(16, 20, 3, 8, 8, 7, 0, "YBR_RCT", 1)
RANDOM = np.random.default_rng(11)


def frame(number: int = 1, nbytes: int = 60, layout: PixelLayout = GREY) -> EncodedFrame:
    ref = FrameRef("1.2", "1.2.3", f"1.2.3.{number}", 1)
    data = RANDOM.integers(0, 256, nbytes, np.uint8).tobytes()
    return EncodedFrame(ref, J2K, layout, Presentation(Rescale(2.0, -5.0)), data, f"v{number}")


def copy_of(original: EncodedFrame, nbytes: int = 80) -> EncodedFrame:
    data = RANDOM.integers(0, 256, nbytes, np.uint8).tobytes()
    layout = replace(original.layout, planar_configuration=0)
    return replace(original, transfer_syntax_uid=HTJ2K_RPCL, layout=layout, data=data, decoder="jpeg2000")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / FOLDER).glob("??/*") if path.is_file())


def only_file(folder: Path) -> Path:
    (found,) = files(folder)
    return found


def blocks(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files(folder))


def figure(copies: Copies, name: str) -> float:
    return copies.figures()[f"reencode_{name}"]


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path, MIB)


def test_a_copy_is_found_again_also_after_a_restart(copies: Copies, tmp_path: Path) -> None:
    for number, layout in ((1, GREY), (2, RGB)):
        original = frame(number, layout=layout)
        copy = copy_of(original)
        assert copies.find(original) is None
        assert copies.keep(original, copy)
        for reader in (copies, Copies(tmp_path, MIB)):
            found = reader.find(original)
            assert found is not None
            assert replace(found, data=bytes(found.data)) == copy
            assert (found.ref, found.presentation, found.version) == (original.ref, original.presentation, f"v{number}")
    assert figure(copies, "hits_total") == 2
    assert figure(copies, "bytes") == blocks(tmp_path) == 2 * 4096


def test_nobody_else_may_read_them(copies: Copies, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    copies = Copies(folder, MIB)
    previous = os.umask(0)
    try:
        original = frame()
        assert copies.keep(original, copy_of(original))
    finally:
        os.umask(previous)
    modes = {path.stat().st_mode & 0o777 for path in (folder / FOLDER).rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (folder / FOLDER, only_file(folder).parent)}
    assert (modes, folders) == ({0o600}, {0o700})
    assert "1.2.3" not in only_file(folder).name


def test_no_byte_of_a_file_can_be_another(copies: Copies, tmp_path: Path) -> None:
    original = frame()
    assert copies.keep(original, copy_of(original))
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bits in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            assert copies.find(original) is None, (place, bits)
            assert not path.exists()
    path.write_bytes(whole)
    assert copies.find(original) is not None
    assert figure(copies, "damaged_total") == 3 * len(whole)


def test_a_file_that_was_cut_off_or_filled_with_zeros_is_no_copy(copies: Copies, tmp_path: Path) -> None:
    original = frame()
    assert copies.keep(original, copy_of(original))
    path = only_file(tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole + b"\0", bytes(len(whole)), whole[:60] + bytes(len(whole) - 60), whole[::-1]]
    for content in damaged:
        path.write_bytes(content)
        assert copies.find(original) is None
        assert not path.exists()
    path.mkdir()
    assert copies.find(original) is None


def test_a_copy_is_for_one_frame_of_one_version_of_one_file(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = frame()
    others = [
        replace(original, version="v2"),
        replace(original, data=bytes(original.data)[:-1] + b"!"),
        replace(original, transfer_syntax_uid="1.2.840.10008.1.2.4.91"),
        replace(original, layout=replace(GREY, bits_stored=11, high_bit=10)),
        replace(original, layout=replace(GREY, pixel_representation=0)),
    ]
    for number, other in enumerate(others, 1):
        assert copies.keep(original, copy_of(original))
        assert copies.find(other) is None
        assert files(tmp_path) == []
        assert figure(copies, "outdated_total") == number
    for ref in (replace(original.ref, frame_number=2), replace(original.ref, series_uid="1.2.4")):
        other = replace(original, ref=ref)
        assert copies.keep(original, copy_of(original))
        assert copies.find(other) is None
        copies.keep(other, copy_of(other))
        here, there = files(tmp_path)
        here.replace(there)  # under the name of another frame
        assert [copies.find(original), copies.find(other)].count(None) >= 1
        for path in files(tmp_path):
            path.unlink()
    assert copies.keep(original, copy_of(original))
    monkeypatch.setattr(module, "CODECS", "another version")
    assert copies.find(original) is None
    assert files(tmp_path) == []


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    copies = Copies(tmp_path, 20 * 4096)
    originals = [frame(number) for number in range(20)]
    now = time.time()
    for number, original in enumerate(originals):
        assert copies.keep(original, copy_of(original))
        path = next(path for path in files(tmp_path) if path.stat().st_mtime > now - 60)
        os.utime(path, (now - 86400 + 600 * number,) * 2)
    assert copies.find(originals[0]) is not None  # now it is used last
    more = frame(99)
    assert copies.keep(more, copy_of(more))
    held = [number for number, original in enumerate(originals) if copies.find(original) is not None]
    assert held == [0, *range(4, 20)]
    assert figure(copies, "evicted_total") == 3
    assert figure(copies, "bytes") == blocks(tmp_path) == 18 * 4096


def test_the_budget_holds_whatever_comes(tmp_path: Path) -> None:
    budget = 40 * 4096
    copies = Copies(tmp_path, budget)
    for number in range(150):
        original = frame(number % 70)
        copies.keep(original, copy_of(original, int(RANDOM.integers(1, 19_000))))
        assert blocks(tmp_path) <= budget
        assert figure(copies, "bytes") >= blocks(tmp_path)
    assert blocks(tmp_path) > budget // 2
    assert figure(copies, "evicted_total") > 20
    huge = frame(200)
    with pytest.raises(TooLarge):
        copies.keep(huge, copy_of(huge, budget // 8 + 1))


def test_a_budget_that_was_lowered_is_kept_from_the_next_copy_on(tmp_path: Path) -> None:
    copies = Copies(tmp_path, MIB)
    for number in range(30):
        original = frame(number)
        assert copies.keep(original, copy_of(original))
    original = frame(31)
    assert Copies(tmp_path, 10 * 4096).keep(original, copy_of(original))
    assert blocks(tmp_path) <= 10 * 4096


@pytest.mark.parametrize("content", [b"", b"GPUR", bytes(16), module._LEDGER.pack(b"GPURHTJ1", 1)])
def test_a_ledger_that_is_lost_or_wrong_is_made_anew(tmp_path: Path, content: bytes) -> None:
    budget = 10 * 4096
    copies = Copies(tmp_path, budget)
    for number in range(10):
        original = frame(number)
        assert copies.keep(original, copy_of(original))
    (tmp_path / FOLDER / "ledger").write_bytes(content)
    restarted = Copies(tmp_path, budget)
    original = frame(11)
    assert restarted.keep(original, copy_of(original))
    assert figure(restarted, "bytes") == blocks(tmp_path) <= budget


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    (folder / "ab").mkdir(parents=True)
    foreign = [tmp_path / "notes.txt", folder / "README", folder / "ab" / "picture.dcm"]
    for path in foreign:
        path.write_bytes(bytes(5000))
    copies = Copies(tmp_path, 10 * 4096)
    for number in range(40):
        original = frame(number)
        assert copies.keep(original, copy_of(original))
    assert list(copies.sweep(lambda _ref, _version: False))
    assert files(tmp_path) == [foreign[2]]
    assert all(path.exists() for path in foreign)


def test_copies_of_what_is_not_held_any_more_go(copies: Copies, tmp_path: Path) -> None:
    originals = [frame(number) for number in range(6)]
    for original in originals:
        assert copies.keep(original, copy_of(original))
    damaged = files(tmp_path)[0]
    damaged.write_bytes(b"GPURHTJ1 and then something else that is long enough")
    held = {original.ref: original.version for original in originals[:4]}
    held[originals[3].ref] = "another version"
    assert sum(1 for _ in copies.sweep(lambda ref, version: held.get(ref) == version)) == 6
    left = [original for original in originals[:3] if copies.find(original) is not None]
    assert len(files(tmp_path)) == len(left) >= 2
    assert all(copies.find(original) is None for original in originals[3:])
    assert figure(copies, "removed_total") == 6 - len(left)
    assert copies.keep(originals[5], copy_of(originals[5]))
    assert figure(copies, "bytes") == blocks(tmp_path)


# --- a disk that is full or fails ----------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@contextlib.contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Writing beyond fails in the middle, as on a disk that becomes full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing_and_is_said_once(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = frame(1), frame(2)
    assert copies.keep(first, copy_of(first))
    with largest_file(10_000):
        for _ in range(3):
            assert not copies.keep(second, copy_of(second, 50_000))
    assert copies.paused
    assert figure(copies, "paused") == 1
    assert not (tmp_path / FOLDER / "incoming").exists()
    assert len(files(tmp_path)) == 1
    assert copies.find(first) is not None  # what is there is still used
    assert not copies.keep(second, copy_of(second))  # not before some time has passed
    assert len(warnings_of(caplog)) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + module.PAUSE_S)
    assert copies.keep(second, copy_of(second))
    assert figure(copies, "bytes") == blocks(tmp_path) == 2 * 4096


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "OSError 5")])
def test_a_disk_that_is_full_or_broken_ends_nothing(
    copies: Copies,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    said: str,
) -> None:
    def fails(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number), "/a/path")

    monkeypatch.setattr(Path, "rename", fails)
    original = frame()
    assert not copies.keep(original, copy_of(original))
    assert files(tmp_path) == []
    assert not (tmp_path / FOLDER / "incoming").exists()
    assert warnings_of(caplog) == [f"no re-encoded copies are written for now: {said}"]


def test_some_of_the_disk_is_left_free(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.statvfs(tmp_path)

    class Disk:
        f_blocks, f_frsize = 1000, 4096
        f_bavail = 51

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk)
    first, second = frame(1), frame(2)
    assert copies.keep(first, copy_of(first))
    Disk.f_bavail = 50
    assert not copies.keep(second, copy_of(second))
    assert warnings_of(caplog) == ["no re-encoded copies are written for now: less than 5 % of the disk would be free"]
    assert real.f_blocks


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    copies = Copies(tmp_path / "file", MIB)
    original = frame()
    assert copies.find(original) is None
    assert not copies.keep(original, copy_of(original))
    assert list(copies.sweep(lambda _ref, _version: True)) == []
    assert copies.paused
    assert warnings_of(caplog) == ["no re-encoded copies are written for now: FileExistsError 17"] or warnings_of(
        caplog
    ) == ["no re-encoded copies are written for now: NotADirectoryError 20"]


def test_links_are_not_followed(copies: Copies, tmp_path: Path) -> None:
    original = frame()
    assert copies.keep(original, copy_of(original))
    path = only_file(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert copies.find(original) is None


# --- several processes, and ends in the middle ----------------------------------------------------------------

WRITER = """
import sys, json
from pathlib import Path
from tests.gpu_render.test_copies import frame, copy_of, Copies
import numpy as np
folder, budget, seed, rounds = sys.argv[1:]
copies, random = Copies(Path(folder), int(budget)), np.random.default_rng(int(seed))
print("ready", flush=True)
for _ in range(int(rounds)):
    original = frame(int(random.integers(100)))
    original = original.__class__(original.ref, original.transfer_syntax_uid, original.layout, original.presentation,
                                  b"the same each time", original.version)
    copies.keep(original, copy_of(original, int(random.integers(1, 25_000))))
print(json.dumps(copies.figures()), flush=True)
"""


def writer(folder: Path, budget: int, seed: int, rounds: int) -> "subprocess.Popen[str]":
    arguments = [str(folder), str(budget), str(seed), str(rounds)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True, cwd=root, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def usable(copies: Copies) -> int:
    originals = [replace(frame(number), data=b"the same each time") for number in range(100)]
    return sum(copies.find(original) is not None for original in originals)


def test_several_processes_keep_to_one_budget(tmp_path: Path) -> None:
    budget = 60 * 4096
    processes = [writer(tmp_path, budget, seed, 120) for seed in range(3)]
    peak = 0
    while any(process.poll() is None for process in processes):
        with contextlib.suppress(FileNotFoundError):
            peak = max(peak, blocks(tmp_path))
    figures = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert peak <= budget
    copies = Copies(tmp_path, budget)
    assert usable(copies) == len(files(tmp_path)) > 10
    assert figure(copies, "damaged_total") == 0
    kept = sum(one["reencode_kept_total"] for one in figures)
    assert kept == 3 * 120
    ledger = module._LEDGER.unpack((tmp_path / FOLDER / "ledger").read_bytes())
    assert ledger[1] == blocks(tmp_path)


def test_killed_in_the_middle_leaves_whole_copies_and_the_budget(tmp_path: Path) -> None:
    budget = 60 * 4096
    for seed in range(6):
        process = writer(tmp_path, budget, seed, 1_000_000)
        time.sleep(0.03 + 0.02 * seed)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ledger = module._LEDGER.unpack((tmp_path / FOLDER / "ledger").read_bytes())
        assert blocks(tmp_path) <= ledger[1] <= budget + 11 * 4096
        copies = Copies(tmp_path, budget)
        assert usable(copies) == len(files(tmp_path))
        assert figure(copies, "damaged_total") == 0
        original = frame(500 + seed)
        assert copies.keep(original, copy_of(original))
        assert figure(copies, "bytes") == blocks(tmp_path) <= budget


def test_who_does_not_let_go_of_the_folder_is_not_waited_for(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = frame(1), frame(2)
    assert copies.keep(first, copy_of(first))
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    with (tmp_path / FOLDER / "ledger").open("rb") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        assert not copies.keep(second, copy_of(second))
        assert copies.find(first) is not None
    assert not copies.paused
    assert copies.keep(second, copy_of(second))


def test_a_folder_that_is_emptied_meanwhile_is_filled_again(copies: Copies, tmp_path: Path) -> None:
    first, second = frame(1), frame(2)
    assert copies.keep(first, copy_of(first))
    (tmp_path / FOLDER).rename(tmp_path / "moved")
    assert copies.find(first) is None
    assert copies.keep(second, copy_of(second))
    assert copies.find(second) is not None
    assert figure(copies, "bytes") >= blocks(tmp_path)


def test_nothing_is_written_once_closed_where_the_folder_has_to_be_listed(tmp_path: Path) -> None:
    copies = Copies(tmp_path, MIB)
    original = frame()
    assert Copies(tmp_path, MIB).keep(original, copy_of(original))
    copies.close()
    assert not copies.keep(frame(2), copy_of(frame(2)))
    assert not copies.paused
