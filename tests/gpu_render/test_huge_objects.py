"""Frame 1 and the last of very many cost the same: one read of the frame's bytes, wherever it lies."""

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import huge_objects
from benchmarks.huge_objects import OBJECTS, HugeObject
from gpu_render.archive.encapsulation import frame_spans
from gpu_render.archive.file import FileArchive
from gpu_render.archive.index import CHUNK_FRAMES, Index
from gpu_render.archive.parse import _buffered, parse_file
from gpu_render.decode import decode
from gpu_render.frame import Rescale
from gpu_render.workers import WorkerPool
from kernels.packing import unpacked

FRAMES = 1000


class InlinePool:
    """The operation ``parse`` on the calling thread."""

    size = 1

    def call(
        self, operation: str, meta: dict[str, Any], payload: bytes | memoryview, **limits: Any
    ) -> tuple[dict[str, Any], bytes]:
        return parse_file(meta, memoryview(payload))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each ``os.pread`` from now on gives."""
    calls: list[int] = []
    pread = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        calls.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    return calls


@pytest.mark.parametrize("huge", OBJECTS, ids=lambda one: one.file_name)
def test_any_frame_is_one_read(huge: HugeObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / huge.file_name
    huge_objects.write(huge, path, FRAMES, lambda _done: None)
    archive = FileArchive(path, InlinePool())
    monkeypatch.setattr(Index, "series_frames", None)  # the manifest has no part in it
    calls = count_reads(monkeypatch)
    for number in (1, 2, CHUNK_FRAMES, CHUNK_FRAMES + 1, FRAMES // 2, FRAMES * 95 // 100, FRAMES - 1, FRAMES):
        calls.clear()
        frame = archive.fetch(archive.ref(number))
        assert len(calls) == 1
        assert calls[0] <= len(frame.data) + 8 * huge.fragments + 1
        if not huge.lossy and (huge.fragment_bytes or huge.side <= 16):
            assert bytes(frame.data)[:64] == _beginning(huge, number)
    archive.close()


def _beginning(huge: HugeObject, number: int) -> bytes:
    """The first bytes of what was written for a frame."""
    if not huge.syntax.is_encapsulated:
        samples = huge_objects.stored_frame(huge, number)
        packed = np.packbits(samples.ravel(), bitorder="little") if huge.bits == 1 else samples
        return packed.tobytes()[:64]
    return huge_objects._encode(huge, huge_objects.stored_frame(huge, (number - 1) % huge_objects.PERIOD + 1))[:64]


@pytest.mark.parametrize("table", [False, True], ids=["no table", "basic offset table"])
@pytest.mark.parametrize("fragment_bytes", [64, 1 << 24])
def test_memory_of_the_walk_knows_no_fragment_size(fragment_bytes: int, table: bool) -> None:
    """The items of 2,000 frames, never written: 128 KB and 33 GB of them."""
    frames, step = 2000 if not table else 200, fragment_bytes + 8
    offsets = struct.pack(f"<{frames}I", *(step * index for index in range(frames))) if table else b""
    begin = 8 + len(offsets)

    def read(offset: int, length: int) -> bytes:
        """As from a file: the offset table, then items of zeros."""
        head = struct.pack("<HHI", 0xFFFE, 0xE000, len(offsets)) + offsets
        if offset < begin:
            return head[offset : offset + length]
        place = (offset - begin) % step
        item = struct.pack("<HHI", 0xFFFE, 0xE000, fragment_bytes) + bytes(min(length, fragment_bytes))
        return item[place : place + length]

    tracemalloc.start()
    spans = frame_spans(_buffered(read), 0, begin + frames * step, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spans[:, 1].tolist() == [step] * frames
    assert spans[-1, 0] == begin + (frames - 1) * step
    assert peak < 1_000_000


def test_frames_decode_to_what_was_written(tmp_path: Path) -> None:
    """Several fragments a frame without an offset table: the hardest to divide."""
    huge = next(one for one in OBJECTS if one.fragments > 1)
    path = tmp_path / huge.file_name
    huge_objects.write(huge, path, FRAMES, lambda _done: None)
    archive = FileArchive(path, InlinePool())
    with WorkerPool(1) as pool:
        for number in (1, 950, FRAMES):
            decoded = decode(archive.fetch(archive.ref(number)), pool)
            assert np.array_equal(unpacked(decoded.samples), huge_objects.stored_frame(huge, number))
    archive.close()


def test_headers_far_apart_are_read_alone_and_those_close_together_at_once() -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return bytes(length)

    near = _buffered(read)
    for offset in range(0, 4096 * 4, 64):
        assert near(offset, 8) == bytes(8)
    assert len(asked) <= 6
    asked.clear()
    far = _buffered(read)
    for offset in range(0, 100 * 65536, 65536):
        assert far(offset, 8) == bytes(8)
    assert asked == [(offset, 8) for offset in range(0, 100 * 65536, 65536)]


def test_a_series_lists_more_presentations_than_are_remembered(tmp_path: Path) -> None:
    huge = next(one for one in OBJECTS if one.groups is huge_objects.volume_groups_distinct)
    path = tmp_path / huge.file_name
    huge_objects.write(huge, path, FRAMES, lambda _done: None)
    archive = FileArchive(path, InlinePool())
    frames = archive.series(huge_objects.uid(huge, "study"), huge_objects.uid(huge, "series")).frames
    assert [frame.ref.frame_number for frame in frames] == list(range(1, FRAMES + 1))
    for index in (0, 1, 500, FRAMES - 1):
        assert frames[index] == archive.describe(frames[index].ref)
        assert frames[index].presentation.modality == Rescale(1.0, -1024.0 - index, "HU")
        assert frames[index].geometry.image_position == (-125.5, -130.25, round(index * 0.625, 3))
    archive.close()
