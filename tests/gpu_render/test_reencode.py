"""What is coded anew: exactly what the stored frame decodes to, in whatever form it is stored, or nothing at all."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import imagecodecs
import numpy as np
import pytest

from gpu_render import reencode as module
from gpu_render.archive import Archive, FrameRecord
from gpu_render.copies import Copies
from gpu_render.decode import DECODERS, decode
from gpu_render.errors import CorruptPixelData, NotFound, NotRenderable, Overloaded, RenderError
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation, Samples
from gpu_render.reencode import MOST_WAITING, SLOW, Reencoder, is_same, recoded
from gpu_render.reference import FrameRef
from gpu_render.transcode import HTJ2K_RPCL
from gpu_render.turns import QUIET_S, Line, Turns
from gpu_render.workers import WorkerPool
from tests.encoded import frames_of, sample

pytestmark = pytest.mark.anyio

LOSSLESS, LOSSY = SLOW[:2]
RANDOM = np.random.default_rng(3)
LIMIT_S = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, background=True) as made:
        yield made


def picture(layout: PixelLayout) -> Samples:
    """A ramp with noise that reaches the lowest and the highest value."""
    low, high = layout.stored_range
    ramp = np.linspace(low, high, layout.columns)[None, :] + RANDOM.normal(0, (high - low) / 50, layout.shape[:2])
    samples = np.clip(np.rint(ramp), low, high).astype(layout.dtype)
    samples.flat[0], samples.flat[-1] = low, high
    if layout.samples_per_pixel == 3:
        samples = np.stack([samples, samples[::-1], np.roll(samples, 9, 1)], -1)
    return samples


def coded(layout: PixelLayout, syntax: str = LOSSLESS, samples: Samples | None = None, **options: Any) -> EncodedFrame:
    """A frame of ``layout`` in JPEG 2000."""
    reversible = syntax == LOSSLESS
    mct = layout.photometric_interpretation in ("YBR_RCT", "YBR_ICT")
    data = imagecodecs.jpeg2k_encode(
        picture(layout) if samples is None else samples,
        codecformat="j2k",
        level=0 if reversible else 40,
        reversible=reversible,
        bitspersample=layout.bits_stored,
        mct=mct,
        **options,
    )
    ref = FrameRef("1.2", "1.2.3", "1.2.3.4", 1)
    return EncodedFrame(ref, syntax, layout, Presentation(), bytes(data), "v1")


def jpeg_xl(layout: PixelLayout, number: int = 110, **options: Any) -> EncodedFrame:
    lossless = not options
    data = imagecodecs.jpegxl_encode(picture(layout), lossless=lossless, **options)
    ref = FrameRef("1.2", "1.2.3", "1.2.3.4", 1)
    return EncodedFrame(ref, f"1.2.840.10008.1.2.4.{number}", layout, Presentation(), bytes(data), "v1")


def grey(allocated: int, stored: int, signed: int = 0, photometric: str = "MONOCHROME2") -> PixelLayout:
    return PixelLayout(96, 130, 1, allocated, stored, stored - 1, signed, photometric)


def colour(photometric: str, planar: int = 0, bits: int = 8) -> PixelLayout:
    return PixelLayout(96, 130, 3, 8 if bits <= 8 else 16, bits, bits - 1, 0, photometric, planar)


FRAMES: dict[str, Callable[[], EncodedFrame]] = {
    "8 bit": lambda: coded(grey(8, 8)),
    "8 bit inverse": lambda: coded(grey(8, 8, photometric="MONOCHROME1")),
    "palette": lambda: coded(grey(8, 8, photometric="PALETTE COLOR")),
    "8 of 16 bit": lambda: coded(grey(16, 8), samples=picture(grey(8, 8))),
    "12 of 16 bit": lambda: coded(grey(16, 12)),
    "12 of 16 bit signed": lambda: coded(grey(16, 12, 1)),
    "16 bit": lambda: coded(grey(16, 16)),
    "16 bit signed": lambda: coded(grey(16, 16, 1)),
    "bits above those that are stored": lambda: replace(coded(grey(16, 16)), layout=grey(16, 12)),
    "a sign that the codestream does not know": lambda: replace(coded(grey(16, 12)), layout=grey(16, 12, 1)),
    "colour, decorrelated": lambda: coded(colour("YBR_RCT")),
    "colour, as it is": lambda: coded(colour("RGB")),
    "colour, 12 bit": lambda: coded(colour("YBR_RCT", bits=12)),
    "colour in planes": lambda: coded(colour("YBR_RCT", planar=1)),
    "luminance and chrominance": lambda: coded(colour("YBR_FULL")),
    "lossy 8 bit": lambda: coded(grey(8, 8), LOSSY),
    "lossy 12 bit": lambda: coded(grey(16, 12), LOSSY),
    "lossy 12 bit signed": lambda: coded(grey(16, 12, 1), LOSSY),
    "lossy 16 bit": lambda: coded(grey(16, 16), LOSSY),
    "lossy colour": lambda: coded(colour("YBR_ICT"), LOSSY),
    "jpeg xl": lambda: jpeg_xl(grey(16, 12)),
    "jpeg xl colour": lambda: jpeg_xl(colour("RGB")),
    "jpeg xl lossy": lambda: jpeg_xl(colour("XYB"), 112, distance=1.0),
    "lossless in the lossy syntax": lambda: replace(coded(grey(16, 12)), transfer_syntax_uid=LOSSY),
    **{
        name: lambda name=name: next(frames_of(sample(name)))  # type: ignore[misc]
        for name in (
            "693_J2KI.dcm",
            "GDCMJ2K_TextGBR.dcm",
            "J2K_pixelrep_mismatch.dcm",
            "JPEG2000.dcm",
            "MR_small_jp2klossless.dcm",
            "examples_jpeg2k.dcm",
        )
    },
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_copy_decodes_to_what_the_stored_frame_decodes_to(name: str, pool: WorkerPool, tmp_path: Path) -> None:
    stored = FRAMES[name]()
    decoded = decode(stored, pool)
    copy = recoded(stored, decoded, pool)
    copies = Copies(tmp_path, 1 << 30)
    assert copies.keep(stored, copy)
    found = copies.find(stored)
    assert found is not None
    again = decode(found, pool)
    assert found.transfer_syntax_uid == HTJ2K_RPCL
    assert isinstance(decoded.samples, np.ndarray)
    assert isinstance(again.samples, np.ndarray)
    assert again.samples.dtype == decoded.samples.dtype
    assert again.samples.tobytes() == decoded.samples.tobytes()
    assert again.layout == decoded.layout
    assert again.decoder == decoded.decoder == DECODERS[stored.transfer_syntax_uid].codec
    assert is_same(decoded, again)


def test_a_single_other_bit_is_not_the_same(pool: WorkerPool) -> None:
    decoded = decode(coded(grey(16, 12)), pool)
    assert isinstance(decoded.samples, np.ndarray)
    other = decoded.samples.copy()
    other[-1, -1] ^= 1
    assert is_same(decoded, replace(decoded, samples=decoded.samples.copy()))
    assert not is_same(decoded, replace(decoded, samples=other))
    assert not is_same(decoded, replace(decoded, samples=decoded.samples.view("<i2")))
    assert not is_same(decoded, replace(decoded, samples=decoded.samples[:-1]))
    assert not is_same(decoded, replace(decoded, layout=replace(decoded.layout, photometric_interpretation="RGB")))
    assert not is_same(decoded, replace(decoded, layout=replace(decoded.layout, bits_stored=11)))
    assert not is_same(decoded, replace(decoded, decoder="htj2k"))


# --- in spare time --------------------------------------------------------------------------------------------


class Shelf:
    """Some frames as an archive: what there is can be changed and removed."""

    def __init__(self, *frames: EncodedFrame) -> None:
        self.frames = {frame.ref: frame for frame in frames}
        self.generation = 1
        self.fetched = 0

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        self.fetched += 1
        if ref not in self.frames:
            raise NotFound("gone")
        return self.frames[ref]

    def describe(self, ref: FrameRef) -> FrameRecord:
        return cast(FrameRecord, self.fetch(ref))  # of which only the version is looked at


def shelf(count: int = 3) -> Shelf:
    frame = coded(grey(16, 12))
    refs = [replace(frame.ref, frame_number=number) for number in range(1, count + 1)]
    return Shelf(*(replace(frame, ref=ref) for ref in refs))


@contextlib.asynccontextmanager
async def working(
    archive: Shelf, folder: Path, pool: WorkerPool, turns: Turns | None = None
) -> AsyncIterator[Reencoder]:
    reencoder = Reencoder(cast(Archive, archive), Copies(folder, 1 << 30), pool)
    reencoder.start(Turns(2, 9) if turns is None else turns)
    try:
        yield reencoder
    finally:
        await reencoder.close()


async def until(reencoder: Reencoder, name: str, count: float) -> None:
    async with asyncio.timeout(LIMIT_S):
        while reencoder.figures()[f"reencode_{name}"] != count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_what_was_decoded_is_a_copy_the_next_time(tmp_path: Path, pool: WorkerPool) -> None:
    archive = shelf()
    async with working(archive, tmp_path, pool) as reencoder:
        stored = [reencoder.fetch(ref) for ref in archive.frames]
        assert stored == list(archive.frames.values())
        await until(reencoder, "kept_total", 3)
        found = [reencoder.fetch(ref) for ref in archive.frames]
    assert [frame.transfer_syntax_uid for frame in found] == [HTJ2K_RPCL] * 3
    for frame, original in zip(found, stored, strict=True):
        assert is_same(decode(frame, pool), decode(original, pool))
    async with working(archive, tmp_path, pool) as restarted:
        assert restarted.fetch(stored[0].ref).transfer_syntax_uid == HTJ2K_RPCL
        assert restarted.figures()["reencode_hits_total"] == 1
        archive.frames[stored[1].ref] = replace(stored[1], version="v2")
        assert restarted.fetch(stored[1].ref).transfer_syntax_uid == LOSSLESS
        await until(restarted, "kept_total", 1)
        assert restarted.fetch(stored[1].ref).version == "v2"


@pytest.mark.parametrize(
    "frame",
    [
        replace(coded(grey(16, 12)), transfer_syntax_uid=HTJ2K_RPCL),
        replace(coded(grey(16, 12)), transfer_syntax_uid="1.2.840.10008.1.2.4.203"),
        replace(coded(grey(16, 12)), transfer_syntax_uid="1.2.840.10008.1.2.4.70"),
        replace(coded(grey(16, 12)), layout=replace(grey(32, 12))),
        replace(coded(grey(8, 8)), layout=replace(grey(8, 8), rows=10, columns=10)),
        replace(coded(grey(16, 12)), layout=replace(grey(16, 12), rows=30_000, columns=30_000)),
    ],
    ids=["htj2k", "htj2k lossy", "jpeg lossless", "32 bit", "tiny", "huge"],
)
async def test_what_is_not_slow_or_too_large_passes_by(frame: EncodedFrame, tmp_path: Path, pool: WorkerPool) -> None:
    async with working(Shelf(frame), tmp_path, pool) as reencoder:
        assert reencoder.fetch(frame.ref) is frame
        assert reencoder.figures()["reencode_waiting"] == 0


async def test_a_frame_is_noted_once_and_so_many_at_most(tmp_path: Path, pool: WorkerPool) -> None:
    frame = coded(grey(16, 12))
    archive = Shelf(*(replace(frame, ref=replace(frame.ref, frame_number=n)) for n in range(1, MOST_WAITING + 10)))
    reencoder = Reencoder(cast(Archive, archive), Copies(tmp_path, 1 << 30), pool)
    for ref in archive.frames:
        for _ in range(2):
            reencoder.fetch(ref)
    assert reencoder.figures()["reencode_waiting"] == MOST_WAITING


async def test_nothing_is_done_while_anybody_waits_for_anything(tmp_path: Path, pool: WorkerPool) -> None:
    archive, turns = shelf(1), Turns(2, 9)
    (ref,) = archive.frames
    async with working(archive, tmp_path, pool, turns) as reencoder:
        async with turns.urgent():
            reencoder.fetch(ref)
            await asyncio.sleep(2 * QUIET_S[Line.SPARE_TIME])
            assert archive.fetched == 1
        async with turns.prefetch():
            await asyncio.sleep(2 * QUIET_S[Line.SPARE_TIME])
            assert archive.fetched == 1
        await until(reencoder, "kept_total", 1)


async def test_a_copy_that_comes_out_otherwise_is_not_kept(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive = shelf(2)
    first, second = archive.frames.values()
    real = recoded

    def wrong(stored: EncodedFrame, decoded: Any, used: WorkerPool) -> EncodedFrame:
        if stored.ref != first.ref:
            return real(stored, decoded, used)
        samples = decoded.samples.copy()
        samples[50, 50] ^= 1
        return real(stored, replace(decoded, samples=samples), used)

    monkeypatch.setattr(module, "recoded", wrong)
    async with working(archive, tmp_path, pool) as reencoder:
        for frame in (first, second):
            reencoder.fetch(frame.ref)
        await until(reencoder, "kept_total", 1)
        assert reencoder.fetch(first.ref) == first
        assert reencoder.fetch(second.ref).transfer_syntax_uid == HTJ2K_RPCL
        figures = reencoder.figures()
        assert (figures["reencode_differing_total"], figures["reencode_refused_total"]) == (1, 1)
        assert figures["reencode_waiting"] == 0  # it is not tried again
        archive.frames[first.ref] = replace(first, version="v2")
        reencoder.fetch(first.ref)  # unless the file is another
        await until(reencoder, "refused_total", 2)
    assert [record.levelno for record in caplog.records if "otherwise" in record.getMessage()] == [logging.ERROR] * 2


@pytest.mark.parametrize("error", [CorruptPixelData("x"), NotRenderable("x"), ValueError("x"), NotFound("x")])
async def test_one_frame_that_fails_does_not_end_the_work(
    error: Exception, tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shelf(2)
    first, second = archive.frames
    real = decode

    def fails(frame: EncodedFrame, used: WorkerPool) -> Any:
        if frame.ref == first:
            raise error
        return real(frame, used)

    monkeypatch.setattr(module, "decode", fails)
    async with working(archive, tmp_path, pool) as reencoder:
        reencoder.fetch(first)
        reencoder.fetch(second)
        await until(reencoder, "kept_total", 1)
        assert reencoder.fetch(first).transfer_syntax_uid == LOSSLESS
        assert reencoder.figures()["reencode_refused_total"] == (1 if not isinstance(error, NotFound) else 0)


async def test_a_copy_that_is_too_large_for_the_budget_is_not_made_again_and_again(
    tmp_path: Path, pool: WorkerPool
) -> None:
    archive = shelf(1)
    (ref,) = archive.frames
    reencoder = Reencoder(cast(Archive, archive), Copies(tmp_path, 20_000), pool)
    reencoder.start(Turns(2, 9))
    try:
        reencoder.fetch(ref)
        await until(reencoder, "refused_total", 1)
        reencoder.fetch(ref)
        assert reencoder.figures()["reencode_waiting"] == 0
    finally:
        await reencoder.close()


async def test_a_machine_without_time_is_asked_again_later(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shelf(1)
    (ref,) = archive.frames
    calls: list[RenderError] = [Overloaded("no processor had time")]
    real = decode

    def sometimes(frame: EncodedFrame, used: WorkerPool) -> Any:
        if calls:
            raise calls.pop()
        return real(frame, used)

    monkeypatch.setattr(module, "decode", sometimes)
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    async with working(archive, tmp_path, pool) as reencoder:
        reencoder.fetch(ref)
        await until(reencoder, "kept_total", 1)


async def test_copies_of_what_has_gone_are_removed_after_a_scan(tmp_path: Path, pool: WorkerPool) -> None:
    archive = shelf(3)
    first, second, third = archive.frames
    async with working(archive, tmp_path, pool) as reencoder:
        for ref in (first, second, third):
            reencoder.fetch(ref)
        await until(reencoder, "kept_total", 3)
        reencoder.scanned()
        await until(reencoder, "waiting", 0)
        del archive.frames[first]
        archive.frames[second] = replace(archive.frames[second], version="v2")
        archive.generation += 1
        threading.Thread(target=reencoder.scanned).start()
        await until(reencoder, "removed_total", 2)
        assert reencoder.fetch(third).transfer_syntax_uid == HTJ2K_RPCL
        fetched = archive.fetched
        reencoder.scanned()  # nothing has changed: nothing is looked at
        await asyncio.sleep(2 * QUIET_S[Line.SPARE_TIME])
        assert archive.fetched == fetched


async def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    archive = shelf(3)
    with WorkerPool(1, background=True) as stopped, stopped.halted():
        async with working(archive, tmp_path, stopped) as reencoder:
            for ref in archive.frames:
                reencoder.fetch(ref)
            await until(reencoder, "waiting", 2)
            await asyncio.sleep(2 * QUIET_S[Line.SPARE_TIME])
        # close() has come back although the process stands still, and its thread ends with the pool
    step = reencoder._step
    assert step is not None
    step.join(LIMIT_S)
    assert not step.is_alive()
