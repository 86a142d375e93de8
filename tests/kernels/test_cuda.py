"""``kernels/cuda.py`` over a fake CuPy: what it moves and when, what it refuses, and how it fails."""

import gc
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import (
    BackendUnavailable,
    Codestream,
    Decoded,
    DeviceError,
    RenderJob,
    Witness,
    cuda,
    open_backend,
    staging,
)
from kernels.cpu import CpuBackend
from kernels.cuda import CudaBackend
from kernels.nvcodec import CodecImage, CodecUnavailable
from kernels.packing import Packed, Packing, unpack
from kernels.params import FRAME_PARAMS, STEPS, UNPACK_PARAMS, Curve, Stage
from tests.kernels import fake_cupy
from tests.kernels.cases import EDGES, GREYS, PACKED, Array, Case, case, ramp, render
from tests.kernels.fake_cupy import FakeDevice, use

RENDERED = {"render_batch", "download"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    device = use(monkeypatch, FakeDevice())
    monkeypatch.setattr(cuda, "RING_BYTES", 1 << 20)
    yield device
    for backend in OPENED:
        backend.close()
    OPENED.clear()
    gc.collect()
    assert device.wrong == []


OPENED: list[CudaBackend] = []


def opened(fake: FakeDevice) -> CudaBackend:
    """A backend, of whose start nothing is counted. It is closed when the test is over."""
    backend = CudaBackend()
    OPENED.append(backend)
    fake.counts.clear()
    fake.log.clear()
    fake.uploaded = fake.downloaded = 0
    return backend


def jobs_of(backend: CudaBackend, cases: list[Case]) -> list[RenderJob]:
    handles = backend.put([c.samples for c in cases])
    return [RenderJob(handle, c.params, c.table) for handle, c in zip(handles, cases, strict=True)]


def expected(cases: list[Case]) -> list[bytes]:
    return [array.tobytes() for array in render(CpuBackend(), cases)]


def got(arrays: list[Array]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


# What crosses the bus.


def test_one_upload_a_frame_one_launch_and_one_download_a_batch(fake: FakeDevice) -> None:
    backend, batch = opened(fake), list(EDGES.values())[:40]
    jobs = jobs_of(backend, batch)
    assert fake.log == ["upload"] * len(batch)
    assert fake.uploaded == sum(c.samples.nbytes for c in batch)
    fake.log.clear()
    arrays = kernels.render(backend, jobs)
    assert fake.log == ["upload", "render_batch", "download"]
    assert got(arrays) == expected(batch)
    assert backend.download_ms > 0
    assert fake.counts["compile"] == 0


def test_the_kernel_and_a_copy_are_timed_without_a_download(fake: FakeDevice) -> None:
    backend = opened(fake)
    jobs = jobs_of(backend, [case(ramp("u1")), case(ramp("<i2"), span=400)])
    fake.log.clear()
    assert backend.kernel_and_copy_ms(jobs, 5000) == (1, 1)  # the fake's: half for the work, half for the event behind
    assert fake.log == ["upload", *["copy"] * cuda.COPIES_AHEAD, "render_batch", "copy"]
    before = fake.alive
    fake.fail("copy", fake_cupy.CUDARuntimeError(2), cuda.COPIES_AHEAD + 1)
    with pytest.raises(DeviceError, match="CUDA error 2"):
        backend.kernel_and_copy_ms(jobs, 5000)
    assert fake.alive == before
    assert backend.cache_bytes == 4096


def test_unpacking_is_timed_behind_its_upload(fake: FakeDevice) -> None:
    backend, before = opened(fake), fake.alive
    planes = Packed(np.arange(600, dtype=np.uint8) % 251, Packing.BYTE_PLANES, (15, 20), np.dtype("<i2"))
    assert backend.unpack_and_copy_ms([planes, planes], 5000) == (1, 1)
    assert fake.log == ["upload"] * 3 + ["copy"] * cuda.COPIES_AHEAD + ["unpack_batch", "copy"]
    assert fake.uploaded == 2 * planes.nbytes + 2 * UNPACK_PARAMS.itemsize
    backend.trim()
    assert fake.alive == before


def test_adopting_is_timed_over_frames_in_a_codecs_place(fake: FakeDevice) -> None:
    backend, samples = opened(fake), ramp("<u2", 15, 20)
    left = backend.put([samples, samples])
    declared = Codestream(
        data=b"",
        codec="jpeg2000",
        shape=(15, 20),
        dtype=np.dtype("<i2"),
        precision=16,
        signed=False,
        offset=0,
        low=0,
        high=65535,
        sign_bits=16,
    )
    fake.log.clear()
    assert backend.adopt_and_copy_ms(declared, left, 5000) == (1, 1)
    assert fake.log == ["upload", *["copy"] * cuda.COPIES_AHEAD, "adopt_batch", "copy"]
    with pytest.raises(ValueError, match="size"):
        backend.adopt_and_copy_ms(replace(declared, shape=(15, 21)), left, 5000)
    with pytest.raises(ValueError, match="format"):
        backend.adopt_and_copy_ms(replace(declared, precision=8, sign_bits=8), left, 5000)


def test_timing_keeps_out_of_what_is_in_flight(fake: FakeDevice) -> None:
    backend, batch = opened(fake), [case(ramp("<u2"), span=9)]
    ticket = backend.launch(jobs_of(backend, batch))
    backend.kernel_and_copy_ms(jobs_of(backend, [case(ramp("u1"), invert=1)]), 100)
    assert got(backend.collect(ticket)) == expected(batch)


def test_a_second_batch_of_the_same_frames_uploads_only_records(fake: FakeDevice) -> None:
    backend, samples = opened(fake), ramp("<u2", 300, 300)
    (handle,) = backend.put([samples])
    for lower in (-160, 40, 60):
        fake.uploaded = fake.downloaded = 0
        c = case(samples, lower=lower, span=400)
        assert got(kernels.render(backend, [RenderJob(handle, c.params)])) == expected([c])
        assert fake.uploaded < 256 + FRAME_PARAMS.itemsize + STEPS.itemsize
        assert fake.downloaded == 300 * 300
    assert fake.counts["download"] == fake.counts["render_batch"] == 3
    assert fake.counts["upload"] == 1 + 3


def test_tables_and_steps_travel_once_a_batch(fake: FakeDevice) -> None:
    backend = opened(fake)
    table = np.resize(GREYS, 60000)
    c = case(ramp("<u2"), table, curve=Curve.TABLE)
    (handle,) = backend.put([c.samples])
    fake.uploaded = 0
    kernels.render(backend, [RenderJob(handle, c.params, c.table)] * 5)
    assert table.nbytes + 5 * FRAME_PARAMS.itemsize <= fake.uploaded < table.nbytes + 2000
    window = case(ramp("<u2"), lower=-160, span=400)
    fake.uploaded = 0
    kernels.render(backend, [RenderJob(handle, window.params)] * 64)
    assert STEPS.itemsize + 64 * FRAME_PARAMS.itemsize <= fake.uploaded
    assert fake.uploaded < 2 * STEPS.itemsize + 64 * FRAME_PARAMS.itemsize


def test_packed_frames_go_up_packed_and_are_unpacked_by_one_kernel(fake: FakeDevice) -> None:
    backend, packed, plain = opened(fake), list(PACKED.values()), ramp("<i2")
    handles = backend.put([packed[0], plain, *packed[1:]])
    assert backend.unpacks
    assert fake.counts["unpack_batch"] == 1
    assert fake.counts["upload"] == len(packed) + 2
    records = UNPACK_PARAMS.itemsize * len(packed)
    assert fake.uploaded == sum(frame.nbytes for frame in packed) + plain.nbytes + records
    cases = [case(unpack(frame), stage=Stage.STORED) for frame in packed]
    cases.insert(1, case(plain, stage=Stage.STORED))
    arrays = kernels.render(backend, [RenderJob(h, c.params) for h, c in zip(handles, cases, strict=True)])
    assert got(arrays) == expected(cases)


def test_extents_are_one_upload_one_launch_and_16_bytes_a_frame(fake: FakeDevice) -> None:
    backend, batch = opened(fake), [case(ramp(dtype, 40, 41), pad_low=0, pad_high=9) for dtype in ("u1", "<i2", "<f4")]
    handles = backend.put([c.samples for c in batch])
    fake.log.clear()
    extents = backend.extents([(h, c.params) for h, c in zip(handles, batch, strict=True)])
    assert extents == CpuBackend().extents([(c.samples, c.params) for c in batch])
    assert fake.log == ["upload", "extent_batch", "download"]
    assert fake.downloaded == 16 * len(batch)
    assert backend.extents([]) == []


def test_results_outlive_the_next_batch(fake: FakeDevice) -> None:
    backend, first, second = opened(fake), case(ramp("<i2"), span=400), case(ramp("<u2", 40, 40), span=9)
    (kept,) = render(backend, [first])
    before = kept.tobytes()
    render(backend, [second])
    render(backend, [second])
    assert [kept.tobytes()] == [before] == expected([first])
    assert kept.flags.writeable


def test_nothing_to_do_touches_nothing(fake: FakeDevice) -> None:
    backend = opened(fake)
    assert backend.collect(backend.launch([])) == []
    assert backend.put([]) == backend.decode([]) == []
    assert fake.log == []


# What waits for what.


def test_uploads_do_not_wait_for_the_batch_before(fake: FakeDevice) -> None:
    backend, one, two = opened(fake), [case(ramp("<u2"), span=9)], [case(ramp("u1", 90, 90)), case(ramp("<i2"))]
    first = backend.launch(jobs_of(backend, one))
    second = backend.launch(jobs_of(backend, two))
    batch = ["upload", "render_batch", "download"]
    assert fake.log == ["upload", *batch, "upload", "upload", *batch]
    assert fake.counts["synchronize"] == 0
    assert got(backend.collect(first)) == expected(one)
    assert fake.counts["synchronize"] == 1
    assert got(backend.collect(second)) == expected(two)


def test_a_third_batch_is_refused_until_one_is_collected(fake: FakeDevice) -> None:
    backend, batch = opened(fake), [case(ramp("u1"))]
    tickets = [backend.launch(jobs_of(backend, batch)) for _ in range(2)]
    jobs = jobs_of(backend, batch)
    with pytest.raises(RuntimeError, match="two batches"):
        backend.launch(jobs)
    assert got(backend.collect(tickets[0])) == expected(batch)
    tickets.append(backend.launch(jobs))
    assert [got(backend.collect(ticket)) for ticket in tickets[1:]] == [expected(batch)] * 2


def test_a_ticket_is_collected_once(fake: FakeDevice) -> None:
    backend = opened(fake)
    ticket = backend.launch(jobs_of(backend, [case(ramp("u1"))]))
    backend.collect(ticket)
    for wrong in (ticket, None, "ticket"):
        with pytest.raises(ValueError, match="ticket"):
            backend.collect(wrong)


def test_no_wait_while_the_ring_has_room(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "RING_BYTES", 4096)
    backend, samples = opened(fake), np.arange(1024, dtype=np.uint8).reshape(32, 32)
    backend.put([samples] * 4)
    assert fake.counts["synchronize"] == 0
    backend.put([samples])
    assert fake.counts["synchronize"] == 1


@pytest.mark.parametrize("size", [1, 1000, 1024, 1025, 3000, 4096, 4097, 20000])
def test_frames_of_any_size_go_through_the_ring(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(cuda, "RING_BYTES", 4096)
    backend = opened(fake)
    rng = np.random.default_rng(size)
    batch = [case(rng.integers(0, 256, (1, n), np.uint8)) for n in (size, 700, size, 1, size)]
    assert got(render(backend, batch)) == expected(batch)


def scenario(backend: CudaBackend, seed: int) -> None:
    """Frames put, packed and not, shown, dropped and put again, with two batches in flight."""
    rng = np.random.default_rng(seed)
    names = list(EDGES)
    flying: list[tuple[object, list[bytes]]] = []
    kept: list[tuple[object, Case]] = []
    for _ in range(12):
        cases = [EDGES[names[i]] for i in rng.integers(0, len(names), rng.integers(1, 6))]
        kept += zip(backend.put([c.samples for c in cases]), cases, strict=True)
        packed = list(PACKED.values())[rng.integers(0, len(PACKED))]
        (handle,) = backend.put([packed])
        kept.append((handle, case(unpack(packed), stage=Stage.STORED)))
        del handle
        rng.shuffle(kept)
        del kept[8:]
        if len(flying) == 2:
            ticket, wanted = flying.pop(0)
            assert got(backend.collect(ticket)) == wanted
        shown = kept[: rng.integers(1, 8)]
        flying.append(
            (
                backend.launch([RenderJob(handle, c.params, c.table) for handle, c in shown]),
                expected([c for _, c in shown]),
            )
        )
        del shown
        if rng.random() < 0.3:
            handle, c = kept.pop()
            assert backend.extents([(handle, c.params)]) == CpuBackend().extents([(c.samples, c.params)])
            del handle
    for ticket, wanted in flying:
        assert got(backend.collect(ticket)) == wanted


@pytest.mark.parametrize("seed", [None, *range(12)])
def test_right_in_every_order_that_the_events_allow(seed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeDevice(seed=seed))
    monkeypatch.setattr(cuda, "RING_BYTES", 4096)
    scenario(CudaBackend(), seed or 0)
    gc.collect()
    assert fake.wrong == []


def _broken(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "kernels do not wait":
        monkeypatch.setattr(staging.Ring, "before", lambda ring, stream: None)
    elif what == "downloads do not wait":
        monkeypatch.setattr(fake_cupy.Stream, "wait_event", lambda stream, event: None)
    elif what == "the ring does not wait":
        monkeypatch.setattr(fake_cupy.Event, "synchronize", lambda event: None)
    elif what == "tickets hold nothing":
        made = cuda._Ticket.__init__
        monkeypatch.setattr(cuda._Ticket, "__init__", lambda it, batch, pixels, slot: made(it, batch, [], slot))
    else:
        monkeypatch.setattr(fake_cupy.Event, "done", True)


@pytest.mark.parametrize(
    "what",
    ["kernels do not wait", "downloads do not wait", "the ring does not wait", "tickets hold nothing", "nothing held"],
)
def test_the_fake_notices(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait and each reference is needed: without it some order gives wrong bytes, or touches what is gone."""
    noticed = False
    monkeypatch.setattr(cuda, "RING_BYTES", 4096)
    for seed in (None, 0, 1, 2):
        fake = use(monkeypatch, FakeDevice(seed=seed))
        backend = CudaBackend()
        with monkeypatch.context() as patch:
            _broken(patch, what)
            try:
                scenario(backend, 0)
            except (AssertionError, DeviceError):
                noticed = True
        gc.collect()
        noticed = noticed or bool(fake.wrong)
    assert noticed


def test_handles_dropped_in_flight_keep_their_memory_until_then(fake: FakeDevice) -> None:
    backend, c = opened(fake), case(ramp("<u2", 300, 301), span=400)
    start = fake.alive
    jobs = jobs_of(backend, [c, c])
    first = backend.launch(jobs)
    second = backend.launch(jobs[:1])
    jobs.clear()
    assert fake.alive >= start + 2 * c.samples.nbytes
    assert got(backend.collect(first)) == expected([c, c])
    assert fake.alive >= start + c.samples.nbytes
    assert got(backend.collect(second)) == expected([c])
    before = fake.alive
    del first, second
    backend.trim()
    assert fake.alive == 0 < before


def test_packed_bytes_live_until_they_are_unpacked(fake: FakeDevice) -> None:
    backend = opened(fake)
    for frame in PACKED.values():
        backend.put([frame])  # and dropped
    assert fake.counts["synchronize"] == 0
    backend.trim()
    assert fake.alive == 0


# What is refused.


@pytest.mark.parametrize("samples", [np.zeros((2, 2), ">u2"), np.zeros((4, 4), "u1")[:, ::2], np.zeros((0, 4), "u1")])
def test_put_refuses_what_no_kernel_reads(fake: FakeDevice, samples: Array) -> None:
    backend = opened(fake)
    with pytest.raises(ValueError, match="SAMPLE_FORMATS"):
        backend.put([ramp("u1"), samples])
    assert fake.log == []


def test_put_refuses_packed_frames_of_another_size(fake: FakeDevice) -> None:
    backend, frame = opened(fake), next(iter(PACKED.values()))
    with pytest.raises(ValueError, match="packing"):
        backend.put([replace(frame, data=frame.data[1:])])
    assert fake.log == []


def test_handles_of_another_kind_size_or_format_are_refused(fake: FakeDevice) -> None:
    backend, samples = opened(fake), ramp("<u2")
    params = case(samples).params
    for handle in (samples, *backend.put([samples[1:], samples.view("<i2")])):
        with pytest.raises(ValueError, match="samples"):
            backend.launch([RenderJob(handle, params)])
        with pytest.raises(ValueError, match="samples"):
            backend.extents([(handle, params)])
    assert fake.counts["render_batch"] == fake.counts["extent_batch"] == 0


# Decoding.


class FakeCodec:
    """Leaves ``images[codestream]`` in device memory, rows ``gap`` bytes apart, when its stream comes to it.

    As with the real one, an image that is released while the device is lost would end the process, unless it was
    abandoned before."""

    version = "fake 1.2, images 3"

    def __init__(self, fake: FakeDevice) -> None:
        self.fake = fake
        self.images: dict[bytes, Array | Exception | None] = {}
        self.gap = 6
        self.calls: list[int] = []
        self.answers: Callable[[list[CodecImage | None]], list[CodecImage | None]] = list
        self.closed = False
        self.abandoned = False

    def decode(self, codestreams: list[bytes], stream_ptr: int) -> list[CodecImage | None]:
        self.calls.append(len(codestreams))
        made: list[CodecImage | None] = [None] * len(codestreams)  # not a comprehension, which would forget them
        for i, data in enumerate(codestreams):
            made[i] = self._image(self.images[data], stream_ptr)
        return self.answers(made)

    def _image(self, image: Array | Exception | None, stream_ptr: int) -> CodecImage | None:
        if isinstance(image, Exception):
            raise image
        if image is None:
            return None
        flat = image.reshape(len(image), -1).view(np.uint8)
        wide = np.pad(flat, ((0, 0), (0, self.gap)), constant_values=0x55)
        memory = self.fake.alloc(wide.nbytes)
        weakref.finalize(memory, self._released).atexit = False
        block = self.fake.block(memory.ptr, wide.nbytes)
        (stream,) = (s for s in self.fake.streams if s.ptr == stream_ptr)

        def write() -> None:
            block.bytes[:] = wide.reshape(-1)

        self.fake.queue(stream, write, blocks=(block,))
        shape = image.shape if image.ndim == 3 else (*image.shape, 1)
        return CodecImage(memory.ptr, shape, image.dtype, wide.shape[1], memory)

    def _released(self) -> None:
        if self.fake.lost and not self.abandoned:
            self.fake.wrong.append("an image was released though the device is lost")

    def abandon(self) -> None:
        self.abandoned = True

    def close(self) -> None:
        if self.fake.lost and not self.abandoned:
            self.fake.wrong.append("the codec was closed though the device is lost")
        self.closed = True


@pytest.fixture
def codec(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    made = FakeCodec(fake)
    monkeypatch.setattr(cuda, "NvCodec", lambda device: made)
    return made


def coded(codec: FakeCodec, name: str, image: Array, **fields: Any) -> Codestream:
    """A codestream of an image, which the codec knows."""
    codec.images[name.encode()] = image
    low, high = np.iinfo(image.dtype).min, np.iinfo(image.dtype).max
    values: dict[str, Any] = {
        "codec": "jpeg2000",
        "shape": image.shape,
        "dtype": image.dtype,
        "precision": image.dtype.itemsize * 8,
        "signed": image.dtype.kind == "i",
        "offset": 0,
        "low": low,
        "high": high,
    }
    return Codestream(name.encode(), **(values | fields))


def stored(backend: CudaBackend, decoded: Decoded | None, samples: Array) -> bytes:
    assert decoded is not None
    c = case(samples, stage=Stage.STORED)
    (array,) = kernels.render(backend, [RenderJob(decoded.pixels, c.params)])
    return array.tobytes()


def test_a_batch_is_decoded_by_one_call_and_judged_by_one_download(fake: FakeDevice, codec: FakeCodec) -> None:
    backend = opened(fake)
    images = [ramp(dtype, 20, 31) for dtype in ("u1", "i1", "<u2", "<i2")] + [ramp("u1", 9, 33).reshape(9, 11, 3)]
    batch = [coded(codec, f"frame {i}", image) for i, image in enumerate(images)]
    found = backend.decode(batch)
    assert fake.log == ["upload", "adopt_batch", "download"]
    assert codec.calls == [5]
    assert fake.downloaded == 40 * 5
    for decoded, image in zip(found, images, strict=True):
        assert stored(backend, decoded, image) == image.tobytes()
        assert decoded is not None
        assert (decoded.lowest, decoded.highest) == (image.min(), image.max())
    assert backend.codec == "fake 1.2, images 3, compute capability 9.0"


def test_an_offset_and_sign_bits_make_the_samples(fake: FakeDevice, codec: FakeCodec) -> None:
    backend, image = opened(fake), np.arange(6, dtype="<u2").reshape(2, 3) * 800
    batch = [
        coded(codec, "offset", image, dtype=np.dtype("<i2"), precision=12, offset=-1024, low=-1024, high=2976),
        coded(codec, "signs", image, dtype=np.dtype("<i2"), precision=12, low=0, high=4095, sign_bits=12),
    ]
    offset, signs = backend.decode(batch)
    assert stored(backend, offset, image.astype("<i2")) == (image.astype("<i2") - 1024).astype("<i2").tobytes()
    wanted = np.where(image > 2047, image.astype("<i4") - 4096, image).astype("<i2")
    assert stored(backend, signs, wanted) == wanted.tobytes()
    assert signs is not None
    assert (signs.lowest, signs.highest) == (wanted.min(), wanted.max())


def _wrong(codec: FakeCodec, what: str) -> Codestream:
    image = ramp("<u2", 8, 9) & 4095
    c = coded(codec, "wrong", image, precision=12, high=4095)
    if what == "refused":
        codec.images[b"wrong"] = None
    elif what == "constant":
        codec.images[b"wrong"] = np.full_like(image, 7)
    elif what == "zeros":
        codec.images[b"wrong"] = np.zeros_like(image)
    elif what == "too high":
        image[3, 3] = 4096
    elif what == "another shape":
        codec.images[b"wrong"] = image.reshape(9, 8)
    elif what == "three samples":
        codec.images[b"wrong"] = np.zeros((8, 9, 3), "<u2")
    elif what == "another width":
        codec.images[b"wrong"] = image.astype("u1")
    elif what == "another sign":
        codec.images[b"wrong"] = image.view("<i2")
    elif what == "short rows":
        codec.answers = lambda images: [i and replace(i, row_stride=17) for i in images]
    else:
        codec.answers = lambda images: [i and replace(i, address=i.address + 1) for i in images]
    return c


@pytest.mark.parametrize(
    "what",
    [
        "refused",
        "constant",
        "zeros",
        "too high",
        "another shape",
        "three samples",
        "another width",
        "another sign",
        "short rows",
        "odd address",
    ],
)
def test_what_is_not_as_declared_counts_as_not_decoded(fake: FakeDevice, codec: FakeCodec, what: str) -> None:
    backend, good = opened(fake), ramp("<i2")
    found = backend.decode([_wrong(codec, what), coded(codec, "good", good)])
    assert found[0] is None
    if what not in ("short rows", "odd address"):  # which are of all images
        assert stored(backend, found[1], good) == good.tobytes()
    codec.answers = list
    assert backend.decode([_wrong(codec, what)]) == [None] or what in ("short rows", "odd address")


IMAGE = ramp("<u2", 8, 9)


def _changed(first: int) -> Array:
    other = IMAGE.copy()
    other.reshape(-1)[first:] ^= 1
    return other


@pytest.mark.parametrize(
    ("witness", "equal", "differs", "good"),
    [
        (_changed(40), 40, True, True),
        (_changed(40), 20, True, True),
        (_changed(40), 41, True, False),
        (_changed(0), 1, False, False),
        (IMAGE, 40, True, False),
        (IMAGE, 40, False, True),
        (_changed(71), 71, True, True),
        (None, 40, True, False),
        (_changed(40).astype("u1"), 40, True, False),
    ],
)
def test_witnesses(
    fake: FakeDevice, codec: FakeCodec, witness: Array | None, equal: int, differs: bool, good: bool
) -> None:
    backend, plain = opened(fake), ramp("u1")
    codec.images |= {b"witness": witness, b"same": IMAGE}
    witnesses = Witness(b"same", 72, differs=False), Witness(b"witness", equal, differs=differs)
    batch = [coded(codec, "image", IMAGE, witnesses=witnesses), coded(codec, "plain", plain)]
    found = backend.decode(batch)
    assert codec.calls == [4]
    assert (found[0] is not None) is good
    assert stored(backend, found[1], plain) == plain.tobytes()
    if good:
        assert stored(backend, found[0], IMAGE) == IMAGE.tobytes()
        assert fake.log[:4] == ["upload", "adopt_batch", "adopt_batch", "download"]


def test_a_codec_that_fails_is_an_error_of_the_call(fake: FakeDevice, codec: FakeCodec) -> None:
    backend, image = opened(fake), ramp("u1")
    kept: list[list[CodecImage | None]] = []
    start = fake.alive
    batch = [coded(codec, "good", image), coded(codec, "bad", image)]
    codec.images[b"bad"] = ValueError("of the codec")
    with pytest.raises(DeviceError, match="ValueError") as caught:
        backend.decode(batch)
    assert not caught.value.lost
    codec.images[b"bad"] = image
    codec.answers = lambda images: (kept.append(images), images[:1])[1]  # type: ignore[func-returns-value]
    with pytest.raises(DeviceError, match="each codestream") as caught:
        backend.decode(batch)
    assert not caught.value.lost
    kept.clear()
    assert fake.alive == start
    codec.answers = list
    assert stored(backend, backend.decode(batch)[1], image) == image.tobytes()


def test_a_codec_that_breaks_the_device_loses_it(fake: FakeDevice, codec: FakeCodec) -> None:
    backend, image = opened(fake), ramp("u1")
    kept: list[list[CodecImage | None]] = []
    c = coded(codec, "image", image)
    fake.fail("work", fake_cupy.CUDARuntimeError(700))
    codec.answers = lambda images: (kept.append(images), images[:0])[1]  # type: ignore[func-returns-value]
    with pytest.raises(DeviceError) as caught:
        backend.decode([c])
    assert caught.value.lost
    assert codec.abandoned


@pytest.mark.parametrize("what", ["upload", "adopt_batch", "download", "synchronize", "work"])
@pytest.mark.parametrize("status", [2, 700])
def test_images_are_abandoned_before_they_are_let_go_when_the_device_is_lost(
    fake: FakeDevice, codec: FakeCodec, what: str, status: int
) -> None:  # the fixture looks for what was released
    backend = opened(fake)
    fake.fail(what, _error(what, 700 if what == "work" else status))
    failed = failure(lambda: backend.decode([coded(codec, "image", IMAGE)]))
    assert failed is not None
    assert codec.abandoned is failed.lost is (status == 700 or what == "work")


def test_a_device_lost_by_others_work_is_found_while_an_exception_passes(fake: FakeDevice, codec: FakeCodec) -> None:
    """Whatever passes, even what is no Exception: the codec is abandoned before the images are let go."""
    backend = opened(fake)

    def interrupt(images: list[CodecImage | None]) -> list[CodecImage | None]:
        fake.fail("work", fake_cupy.CUDARuntimeError(719))
        raise KeyboardInterrupt

    codec.answers = interrupt
    with pytest.raises(KeyboardInterrupt):
        backend.decode([coded(codec, "image", IMAGE)])
    assert codec.abandoned


def test_a_codestream_that_contradicts_itself_is_refused_before_anything_is_queued(
    fake: FakeDevice, codec: FakeCodec
) -> None:
    backend = opened(fake)
    with pytest.raises(ValueError, match="fit"):
        backend.decode([coded(codec, "wide", ramp("u1"), high=256)])
    assert codec.calls == []


def test_without_a_codec_nothing_is_decoded(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(device: int) -> None:
        raise CodecUnavailable(f"install it for {device}")

    c = coded(FakeCodec(fake), "image", ramp("u1"))
    monkeypatch.setattr(cuda, "NvCodec", none)
    with caplog.at_level(logging.INFO, "kernels"):
        backend = opened(fake)
    assert [record.getMessage() for record in caplog.records] == ["the CPU decodes: install it for 0"]
    assert backend.codec == ""
    assert backend.decode([c, c]) == [None, None]
    assert fake.log == []


def test_images_live_until_they_are_adopted(
    fake: FakeDevice, codec: FakeCodec
) -> None:  # the fixture looks for what was given back too early
    backend = opened(fake)
    start = fake.alive
    codec.images[b"other"] = None
    c = coded(codec, "image", IMAGE, witnesses=(Witness(b"other", 1, differs=True),))
    assert backend.decode([c]) == [None]
    assert backend.decode([coded(codec, "image", IMAGE)]) != [None]
    backend.trim()
    assert fake.alive <= start


@pytest.mark.parametrize("failing", [False, True])
def test_no_picture_stays_in_the_codecs_memory(fake: FakeDevice, codec: FakeCodec, failing: bool) -> None:
    """Neither of adopted images, nor of those that are not as declared, nor of any when adopting fails."""
    backend, kept = opened(fake), list[CodecImage | None]()
    codec.gap = 0
    codec.answers = lambda images: (kept.extend(images), images)[1]  # type: ignore[func-returns-value]
    batch = [coded(codec, "image", IMAGE), coded(codec, "bad", ramp("u1", 7, 7))]
    codec.images[b"bad"] = ramp("<i2", 7, 7)
    if failing:
        fake.fail("alloc", fake_cupy.OutOfMemoryError(), 3)  # the first two are the codec's
    assert (failure(lambda: backend.decode(batch)) is not None) is failing
    for image in kept:
        assert image is not None
        nbytes = image.shape[0] * image.row_stride
        assert not fake.block(image.address, nbytes).bytes[:nbytes].any()


# Failures.


def test_compiled_at_start_without_contraction(fake: FakeDevice) -> None:
    backend = CudaBackend()
    assert fake.counts["compile"] == 1
    assert [fake.counts[name] for name in cuda.KERNELS] == [1, 1, 1, 1]
    assert "-fmad=false" in fake.options
    assert backend.description == (
        "Fake GPU, compute capability 9.0, driver for CUDA 13.1, runtime 12.9, CuPy 0.0-fake"
    )
    assert backend.memory() == ((1 << 30) + 4096, 1 << 31)


def test_closed(fake: FakeDevice, codec: FakeCodec) -> None:
    backend, c = opened(fake), case(ramp("u1", 70, 70))
    render(backend, [c])
    backend.launch(jobs_of(backend, [c]))  # never collected
    backend.close()
    backend.close()
    assert codec.closed
    assert not codec.abandoned
    assert fake.alive == 0


def test_closing_a_lost_device_is_quiet(fake: FakeDevice, codec: FakeCodec) -> None:
    backend = opened(fake)
    fake.fail("synchronize", fake_cupy.CUDARuntimeError(719))
    backend.close()
    assert codec.abandoned
    assert codec.closed


OPERATIONS: dict[str, Callable[[CudaBackend, list[Codestream]], object]] = {
    "put": lambda backend, coded: backend.put([ramp("<u2", 90, 91), *list(PACKED.values())[:3], ramp("u1")]),
    "render": lambda backend, coded: render(backend, [case(ramp("<u2", 300, 301), width=999), case(ramp("<f4"))]),
    "extents": lambda backend, coded: backend.extents([(backend.put([ramp("u1")])[0], case(ramp("u1")).params)]),
    "decode": lambda backend, coded: backend.decode(coded),
}
FAILURES = {
    "put": ["alloc", "upload", "event", "unpack_batch"],
    "render": ["alloc", "pinned", "upload", "event", "render_batch", "download", "synchronize"],
    "extents": ["alloc", "pinned", "upload", "extent_batch", "download", "synchronize"],
    "decode": ["alloc", "pinned", "upload", "adopt_batch", "download", "synchronize", "wipe"],
}


def failure(call: Callable[[], object]) -> DeviceError | None:
    """What it raises, held with its traceback as a handler of it does."""
    try:
        call()
    except DeviceError as error:
        return error
    return None


def _error(what: str, status: int) -> Exception:
    return (
        fake_cupy.OutOfMemoryError()
        if what == "alloc" and status == 2
        else fake_cupy.CUDADriverError(status)
        if what.endswith("_batch")
        else fake_cupy.CUDARuntimeError(status)
    )


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize(("operation", "what"), [(o, what) for o, each in FAILURES.items() for what in each])
def test_a_call_that_fails_leaves_nothing_behind(
    fake: FakeDevice, codec: FakeCodec, operation: str, what: str, nth: int
) -> None:
    """Wherever it fails: its memory is free while the error is still held, and the next calls work."""
    backend, flying = opened(fake), [case(ramp("<i2", 50, 51), span=77)]
    batch = [coded(codec, "image", IMAGE, witnesses=(Witness(b"image", 72, differs=False),))]
    ticket = backend.launch(jobs_of(backend, flying))
    backend.collect(backend.launch(jobs_of(backend, flying)))
    ticket_bytes = fake.alive
    fake.fail(what, _error(what, 2), nth)
    failed = failure(lambda: OPERATIONS[operation](backend, batch))
    if failed is None:
        assert nth > 1
    else:
        assert (failed.lost, failed.out_of_memory) == (False, True)
        assert fake.alive <= ticket_bytes + (2 << 20)
        backend.trim()
        assert got(render(backend, flying)) == expected(flying)
    del failed  # and with it what this test's own frames hold
    fake._failures.clear()
    for each in OPERATIONS.values():
        each(backend, batch)
    assert got(backend.collect(ticket)) == expected(flying)
    del ticket
    backend.trim()
    assert fake.alive == 0


def test_frames_that_did_not_fit_are_free_while_their_error_is_held(fake: FakeDevice) -> None:
    backend, frames = opened(fake), [ramp("<u2", 100, 100)] * 5
    fake.fail("alloc", fake_cupy.OutOfMemoryError(), 4)
    failed = failure(lambda: backend.put(frames))
    assert failed is not None
    assert (failed.lost, failed.out_of_memory) == (False, True)
    assert fake.alive == 0
    backend.trim()
    assert fake.counts["trim"] == fake.counts["trim pinned"] == 1
    backend.put(frames)


@pytest.mark.parametrize(
    ("status", "lost"), [(700, True), (719, True), (214, True), (999, True), (2, False), (9, False), (701, False)]
)
@pytest.mark.parametrize("operation", ["render", "extents", "decode"])
def test_a_failed_launch_says_whether_the_device_is_lost(
    fake: FakeDevice, codec: FakeCodec, status: int, lost: bool, operation: str
) -> None:
    backend = opened(fake)
    kernel = {"render": "render_batch", "extents": "extent_batch", "decode": "adopt_batch"}[operation]
    fake.fail(kernel, fake_cupy.CUDADriverError(status))
    with pytest.raises(DeviceError, match=str(status)) as caught:
        OPERATIONS[operation](backend, [coded(codec, "image", IMAGE)])
    assert caught.value.lost is lost
    assert caught.value.out_of_memory is (status == 2)


@pytest.mark.parametrize("nth", range(1, 8))
def test_what_fails_on_the_device_is_raised_by_collect(fake: FakeDevice, nth: int) -> None:
    """Work that was queued fails later: no pixel of that batch comes out, nor of the one behind it."""
    backend, batch = opened(fake), [case(ramp("<u2"), span=50)]
    fake.fail("work", fake_cupy.CUDARuntimeError(700), nth)
    tickets = [backend.launch(jobs_of(backend, batch)) for _ in range(2)]
    for ticket in tickets:
        with pytest.raises(DeviceError, match="700") as caught:
            backend.collect(ticket)
        assert caught.value.lost
    with pytest.raises(DeviceError):
        backend.put([batch[0].samples])
    backend.close()


def test_a_lost_device_found_while_it_settles(fake: FakeDevice) -> None:
    """A harmless error, but what was queued before turns out to have failed, too."""
    backend = opened(fake)
    jobs = jobs_of(backend, [case(ramp("u1"))])
    fake.fail("work", fake_cupy.CUDARuntimeError(719))
    fake.fail("render_batch", fake_cupy.CUDADriverError(2))
    with pytest.raises(DeviceError) as caught:
        backend.launch(jobs)
    assert caught.value.lost


# Whether it is there.


def _unavailable(fake: FakeDevice, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "cupy":
        monkeypatch.setitem(sys.modules, "cupy", None)
    elif what == "driver":
        fake.count_error = fake_cupy.CUDARuntimeError(35)
    elif what == "device":
        fake.devices = 0
    elif what == "compiler":
        fake.compile_error = fake_cupy.CompileException("quoted source")
    elif what == "nvrtc":
        fake.compile_error = RuntimeError("libnvrtc")
    elif what == "context":
        fake.compile_error = fake_cupy.CUDARuntimeError(2)
    elif what == "pinned memory":
        fake.fail("pinned", fake_cupy.CUDARuntimeError(2))
    elif what == "first launch":
        fake.fail("unpack_batch", fake_cupy.CUDADriverError(209))
    else:
        fake.compile_error = PermissionError(13, "denied")


REASONS = {
    "cupy": r"gpu-render\[cuda12\]",
    "driver": "driver",
    "device": "no CUDA device 0",
    "compiler": "does not compile",
    "nvrtc": "NVRTC",
    "context": "does not answer",
    "pinned memory": "does not answer",
    "first launch": "does not answer",
    "cache": "CUPY_CACHE_DIR",
}


@pytest.mark.parametrize("what", REASONS)
def test_unavailable_with_the_remedy(fake: FakeDevice, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _unavailable(fake, what, monkeypatch)
    with pytest.raises(BackendUnavailable, match=REASONS[what]):
        open_backend("cuda")


@pytest.mark.parametrize("what", REASONS)
def test_auto_falls_back_and_says_why(
    fake: FakeDevice, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _unavailable(fake, what, monkeypatch)
    with caplog.at_level(logging.INFO, "kernels"):
        assert open_backend("auto").name == "cpu"
    assert len(caplog.records) == 1


def test_a_device_that_is_not_there(fake: FakeDevice) -> None:
    with pytest.raises(BackendUnavailable, match="no CUDA device 1"):
        CudaBackend(1)


def test_open_backend_chooses(fake: FakeDevice) -> None:
    assert [open_backend("auto").name, open_backend("cuda").name, open_backend("cpu").name] == ["cuda", "cuda", "cpu"]


# The real CuPy.


def _names(of: object, path: str = "") -> Iterator[str]:
    for name, value in vars(of).items():
        if not name.startswith("__") or name == "__version__":
            yield path + name
            if type(value).__name__ == "SimpleNamespace":
                yield from _names(value, f"{path}{name}.")


def test_the_real_cupy_has_every_name_of_the_fake() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    names = [*_names(FakeDevice().module())]
    names += [f"cuda.Stream.{name}" for name in ("synchronize", "record", "wait_event", "__enter__")]
    names += [f"cuda.Event.{name}" for name in ("synchronize", "done")]
    names += [f"RawModule.{name}" for name in ("compile", "get_function")]
    names += [f"cuda.MemoryPool.{name}" for name in ("free_bytes", "free_all_blocks")]
    names += ["cuda.PinnedMemoryPool.free_all_blocks", "cuda.MemoryPointer.ptr"]
    for name in names:
        found = cupy
        for part in name.split("."):
            found = getattr(found, part)
    assert "cuda.runtime.memcpyAsync" in names
