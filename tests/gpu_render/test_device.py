"""Device: each fault that a device can have, and that every picture is right all the same."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from gpu_render.device import MOST_FAULTS, Device, Gone, Picture, Ready, Work
from gpu_render.errors import NotRenderable
from gpu_render.frame import DeviceFrame, LookupTable, PixelLayout, Presentation, Samples
from gpu_render.reference import FrameRef
from gpu_render.view import Stage, View
from kernels import Codestream, DeviceError, RenderJob
from kernels.packing import Packed, Packing
from tests.devices import TestDevice, lost, out_of_memory, refused

LAYOUT = PixelLayout(2, 3, 1, 16, 16, 15, 0, "MONOCHROME2")
STORED, DISPLAY = View(stage=Stage.STORED), View()
FRAME = 12  # bytes


def frame(number: int, presentation: Presentation | None = None, layout: PixelLayout = LAYOUT) -> DeviceFrame:
    """Samples that count up from a number."""
    samples = np.arange(number, number + 6).astype(layout.dtype).reshape(layout.shape)
    return DeviceFrame(FrameRef("1", "2", "3", number + 1), layout, presentation or Presentation(), samples, "native")


def pictures(device: Device, frames: Sequence[DeviceFrame], view: View = STORED) -> list[Picture]:
    """Pictures of all frames, in one batch; none may fail."""
    answers = device.land(device.launch(ready(device, frames, view)))
    for answer in answers:
        assert isinstance(answer, Picture), repr(answer)
    return [answer for answer in answers if isinstance(answer, Picture)]


def ready(device: Device, frames: Sequence[DeviceFrame], view: View = STORED) -> list[Ready]:
    """Prepared work; none may fail."""
    answers = device.prepare([Work(each, view) for each in frames])
    assert all(isinstance(answer, Ready) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Ready)]


def assert_right(found: Sequence[Picture], frames: Sequence[DeviceFrame], backend: str) -> None:
    """The stored values of each frame, from that backend."""
    assert [picture.backend for picture in found] == [backend] * len(frames)
    for picture, each in zip(found, frames, strict=True):
        np.testing.assert_array_equal(picture.pixels, expected(each))


def expected(each: DeviceFrame) -> Samples:
    number = each.ref.frame_number - 1
    return np.arange(number, number + 6).astype(each.layout.dtype).reshape(each.layout.shape)


@pytest.fixture
def backend() -> TestDevice:
    return TestDevice(memory_bytes=1000, decoder=lambda c: expected(frame(c.data[0])))


@pytest.fixture
def device(backend: TestDevice) -> Iterator[Device]:
    device = Device(backend, 70)
    yield device
    assert backend.calls["close"] == 0  # whoever opened it closes it


def test_a_device_that_is_lost_before_it_is_used_leaves_everything_to_the_cpu(backend: TestDevice) -> None:
    backend.fail("decode", lost())
    with pytest.raises(DeviceError):
        backend.decode([])
    device = Device(backend, 70)
    frames = [frame(1)]
    assert device.lost == "CUDA error 700"
    assert_right(pictures(device, frames), frames, "cpu")


def test_the_budget_is_a_share_of_the_memory_that_is_free_when_it_is_opened(backend: TestDevice) -> None:
    backend.used = 200
    assert Device(backend, 50).residency.budget == 400


# -- out of memory ----------------------------------------------------------------------------------------------


def test_memory_that_does_not_suffice_is_made_by_frames_that_leave(backend: TestDevice, device: Device) -> None:
    backend.memory_bytes = 600  # somebody else took the rest meanwhile
    first = [frame(n) for n in range(50)]
    assert_right(pictures(device, first), first, "cuda")
    second = [frame(n) for n in range(100, 108)]
    assert_right(pictures(device, second), second, "cuda")
    assert (device.counts.out_of_memory, device.counts.faults, device.counts.by_cpu) == (1, 0, 0)
    assert backend.calls["trim"] == 1
    assert device.residency.budget <= 301
    assert backend.used == device.residency.nbytes <= 301
    assert device.lost is None


@pytest.mark.parametrize("method", ["put", "launch", "extents"])
def test_one_call_without_memory_is_tried_again(backend: TestDevice, device: Device, method: str) -> None:
    frames = [frame(n) for n in (1, 2)]
    backend.fail(method, out_of_memory())
    assert [picture.backend for picture in pictures(device, frames, DISPLAY)] == ["cuda", "cuda"]
    assert backend.calls[method] == 2
    assert (device.counts.out_of_memory, device.counts.faults, device.counts.by_cpu) == (1, 0, 0)


@pytest.mark.parametrize("method", ["put", "launch"])
def test_what_finds_no_memory_at_all_is_done_by_the_cpu(backend: TestDevice, device: Device, method: str) -> None:
    frames = [frame(n) for n in (1, 2)]
    backend.fail(method, out_of_memory(), out_of_memory())
    assert_right(pictures(device, frames), frames, "cuda")
    backend.fail(method, out_of_memory(), out_of_memory(), out_of_memory())
    device.residency.clear()
    assert_right(pictures(device, frames), frames, "cpu")
    assert (device.counts.out_of_memory, device.counts.faults, device.counts.by_cpu) == (4, 1, 2)
    assert_right(pictures(device, frames), frames, "cuda")  # the device goes on
    assert device.lost is None


def test_a_frame_larger_than_the_device_is_rendered_by_the_cpu_and_drives_nothing_out(
    backend: TestDevice, device: Device
) -> None:
    others = [frame(n) for n in range(1, 9)]
    assert_right(pictures(device, others), others, "cuda")
    layout = PixelLayout(20, 30, 1, 16, 16, 15, 0, "MONOCHROME2")
    samples = np.arange(600, dtype=np.uint16).reshape(20, 30)
    large = DeviceFrame(FrameRef("1", "2", "3", 1), layout, Presentation(), samples, "native")
    for _ in range(2 * MOST_FAULTS):
        (picture,) = pictures(device, [large])
        assert picture.backend == "cpu"
        np.testing.assert_array_equal(picture.pixels, samples)
    assert_right(pictures(device, others), others, "cuda")
    assert backend.uploads == len(others)
    assert (device.counts.faults, device.counts.out_of_memory, device.lost) == (0, 0, None)


def test_a_frame_above_the_budget_is_rendered_there_and_does_not_stay(backend: TestDevice) -> None:
    device = Device(backend, 0)
    frames = [frame(1)]
    for _ in range(2):
        assert_right(pictures(device, frames), frames, "cuda")
    assert backend.uploads == 2
    assert backend.used == 0


def test_frames_that_leave_while_a_batch_reads_them_stay_until_it_is_done(backend: TestDevice) -> None:
    device = Device(backend, 2)  # 20 bytes: one frame
    frames = [frame(n) for n in range(1, 5)]
    flight = device.launch(ready(device, frames))
    assert len(device.residency) == 1
    assert backend.used == 4 * FRAME
    landed = [picture for picture in device.land(flight) if isinstance(picture, Picture)]
    assert_right(landed, frames, "cuda")
    del flight
    assert backend.used == FRAME


# -- members ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "extents", "launch", "collect"])
@pytest.mark.parametrize("error", [refused(), RuntimeError("a driver's surprise"), ValueError("not a record")])
def test_a_batch_that_fails_is_done_one_by_one(
    backend: TestDevice, device: Device, method: str, error: Exception
) -> None:
    frames = [frame(n) for n in (1, 2, 3)]
    backend.fail(method, error)
    found = pictures(device, frames, DISPLAY)
    assert [picture.backend for picture in found] == ["cpu"] * 3
    assert [picture.pixels.tolist() for picture in found] == [[[0, 51, 102], [153, 204, 255]]] * 3
    assert device.counts.faults == 1
    assert_right(pictures(device, frames), frames, "cuda")
    assert device.lost is None


def test_a_member_that_no_backend_renders_fails_alone(
    backend: TestDevice, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame(n) for n in (1, 2, 3)]
    prepared = ready(device, frames)
    backend.poison = 2
    real = device._cpu.launch

    def launch(jobs: Sequence[RenderJob]) -> object:
        if any(np.array_equal(samples(job), expected(frames[1])) for job in jobs):
            raise RuntimeError("poisoned")
        return real(jobs)

    def samples(job: RenderJob) -> Samples:
        assert isinstance(job.pixels, np.ndarray)  # the CPU's handles
        return job.pixels

    monkeypatch.setattr(device._cpu, "launch", launch)
    first, second, third = device.land(device.launch(prepared))
    assert isinstance(second, RuntimeError)
    assert_right([p for p in (first, third) if isinstance(p, Picture)], [frames[0], frames[2]], "cpu")


def test_work_that_cannot_be_folded_is_not_launched(backend: TestDevice, device: Device) -> None:
    colours = LookupTable(10, np.zeros((4, 3), np.uint16), 8)
    grey = frame(1)
    odd = frame(2, Presentation(palette=colours, pixel_padding=(0.0, 1.0)))
    answers = device.prepare([Work(odd, DISPLAY), Work(grey, DISPLAY), Work(odd, STORED)])
    assert isinstance(answers[0], NotRenderable)
    assert isinstance(answers[1], Ready)
    assert isinstance(answers[2], Ready)  # which needs no range of values
    assert backend.calls["launch"] == 0


# -- lost -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "extents", "launch", "collect", "trim"])
def test_after_an_illegal_address_the_cpu_finishes_and_goes_on(
    backend: TestDevice, device: Device, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "trim":
        backend.fail("put", out_of_memory())
    backend.fail(method, lost())
    frames = [frame(n) for n in (1, 2, 3)]
    with caplog.at_level(logging.CRITICAL, "gpu_render"):
        assert [picture.backend for picture in pictures(device, frames, DISPLAY)] == ["cpu"] * 3
    assert device.lost == "CUDA error 700"
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert device.backend.name == "cpu"
    assert len(device.residency) == 0
    calls = backend.calls.copy()
    assert_right(pictures(device, frames), frames, "cpu")
    assert backend.calls == calls  # nobody asks the lost device again
    assert device.counts.by_cpu == 6


def test_a_batch_in_flight_when_the_device_is_lost_lands_by_the_cpu(backend: TestDevice, device: Device) -> None:
    one, two = [frame(1), frame(2)], [frame(3)]
    flights = [device.launch(ready(device, one)), device.launch(ready(device, two))]
    backend.fail("collect", lost())
    landed = [device.land(flight) for flight in flights]
    assert_right([p for p in landed[0] if isinstance(p, Picture)], one, "cpu")
    assert_right([p for p in landed[1] if isinstance(p, Picture)], two, "cpu")
    assert backend.calls["collect"] == 1


def test_a_device_that_only_fails_counts_as_lost(backend: TestDevice, device: Device) -> None:
    frames = [frame(1)]
    backend.fail("launch", *[refused()] * (MOST_FAULTS - 1))
    for _ in range(MOST_FAULTS - 1):
        pictures(device, frames)
    assert_right(pictures(device, frames), frames, "cuda")  # a success between them: it starts anew
    backend.fail("launch", *[refused()] * MOST_FAULTS)
    for _ in range(MOST_FAULTS):
        assert device.lost is None
        assert_right(pictures(device, frames), frames, "cpu")
    assert device.lost == "CUDA error 701"


def test_memory_that_never_suffices_is_no_reason_to_give_the_device_up(backend: TestDevice, device: Device) -> None:
    frames = [frame(1)]
    for _ in range(2 * MOST_FAULTS):
        device.residency.clear()
        backend.fail("put", *[out_of_memory()] * 3)
        assert_right(pictures(device, frames), frames, "cpu")
    assert device.lost is None
    assert_right(pictures(device, frames), frames, "cuda")


def test_a_frame_of_which_only_the_device_had_a_copy_is_gone_with_it(backend: TestDevice, device: Device) -> None:
    frames = [frame(1), frame(2)]
    pictures(device, frames)
    frames[0].left()
    backend.fail("launch", lost())
    first, second = device.land(device.launch(ready(device, frames)))
    assert isinstance(first, Gone)
    assert isinstance(second, Picture)
    assert frames[0].is_gone


# -- what is packed, and what needs the host's copy ----------------------------------------------------------------


def test_packed_frames_are_unpacked_by_whoever_renders(backend: TestDevice, device: Device) -> None:
    planes = np.array([[0] * 6, range(1, 7)], np.uint8)
    packed = frame(1)
    packed.samples = Packed(planes.reshape(-1), Packing.BYTE_PLANES, LAYOUT.shape, LAYOUT.dtype)
    assert_right(pictures(device, [packed]), [packed], "cuda")
    assert isinstance(packed.samples, Packed)
    backend.fail("launch", refused())
    assert_right(pictures(device, [packed]), [packed], "cpu")
    assert isinstance(packed.samples, np.ndarray)
    assert not packed.samples.flags.writeable


def test_a_modality_lut_needs_the_hosts_copy_once(device: Device) -> None:
    table = LookupTable(0, np.arange(100, 0, -1, dtype=np.uint16), 8)
    with_table = frame(1, Presentation(modality=table))
    shown = pictures(device, [with_table], DISPLAY)[0].pixels.tolist()
    assert shown == [[255, 204, 153], [102, 51, 0]]
    with_table.left()
    assert pictures(device, [with_table], DISPLAY)[0].pixels.tolist() == shown
    again = frame(2, Presentation(modality=table))
    pictures(device, [again])
    again.left()
    (answer,) = device.prepare([Work(again, DISPLAY)])
    assert isinstance(answer, Gone)


# -- decoding -----------------------------------------------------------------------------------------------------


def stream(number: int) -> Codestream:
    return Codestream(bytes([number]), "jpeg2000", LAYOUT.shape, LAYOUT.dtype, 16, False, 0, 0, 65535)


def undecoded(number: int) -> DeviceFrame:
    each = frame(number)
    each.samples = None
    return each


def decoded(device: Device, count: int) -> tuple[list[DeviceFrame], list[bool]]:
    frames = [undecoded(n) for n in range(count)]
    return frames, device.decode([(each, stream(n)) for n, each in enumerate(frames)])


def test_what_the_device_decoded_is_rendered_without_an_upload(backend: TestDevice, device: Device) -> None:
    frames, kept = decoded(device, 4)
    assert kept == [True] * 4
    assert_right(pictures(device, frames), frames, "cuda")
    assert backend.uploads == 0


@pytest.mark.parametrize("error", [refused(), RuntimeError("the codec's own")])
def test_a_codec_that_fails_leaves_its_batch_to_the_cpu(backend: TestDevice, device: Device, error: Exception) -> None:
    backend.fail("decode", error)
    assert decoded(device, 2)[1] == [False, False]
    assert (device.counts.refused, device.counts.decoded, device.counts.faults) == (0, 0, 1)
    assert decoded(device, 2)[1] == [True, True]


def test_a_codec_that_only_fails_is_asked_no_more_and_the_device_goes_on(backend: TestDevice, device: Device) -> None:
    backend.fail("decode", *[refused()] * (MOST_FAULTS - 1))
    for _ in range(MOST_FAULTS - 1):
        decoded(device, 1)
    assert decoded(device, 1)[1] == [True]  # starts anew
    backend.fail("decode", *[RuntimeError("its own")] * MOST_FAULTS)
    for _ in range(MOST_FAULTS):
        assert device.decodes
        assert decoded(device, 1)[1] == [False]
    assert not device.decodes
    assert device.lost is None
    frames = [frame(1)]
    assert_right(pictures(device, frames), frames, "cuda")


def test_a_codec_without_memory_is_asked_again(backend: TestDevice, device: Device) -> None:
    backend.fail("decode", out_of_memory())
    assert decoded(device, 2)[1] == [True, True]
    backend.fail("decode", *[out_of_memory()] * 3)
    assert decoded(device, 2)[1] == [False, False]


def test_a_codec_that_kills_the_device_leaves_everything_to_the_cpu(backend: TestDevice, device: Device) -> None:
    backend.fail("decode", lost())
    frames, kept = decoded(device, 2)
    assert kept == [False, False]
    assert device.lost == "CUDA error 700"
    assert all(each.is_gone for each in frames)
    assert device.decode([(undecoded(1), stream(1))]) == [False]


def test_what_does_not_stay_counts_as_not_decoded(backend: TestDevice) -> None:
    device = Device(backend, 3)  # 30 bytes: two frames
    assert decoded(device, 4)[1] == [False, False, True, True]
