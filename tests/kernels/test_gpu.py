"""What only a GPU can show, beside ``test_equality.py``: its memory, what a full one does, and its clocks."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from kernels import DeviceError, RenderJob, render
from kernels.cpu import CpuBackend
from kernels.cuda import CudaBackend
from kernels.params import Stage
from tests.gpu import open_gpu
from tests.kernels.cases import Array, Case, case, ramp
from tests.kernels.cases import render as render_cases

pytestmark = pytest.mark.gpu

MIB = 1 << 20


@pytest.fixture
def gpu() -> Iterator[CudaBackend]:
    backend = open_gpu()
    yield backend
    backend.close()


def expected(c: Case) -> bytes:
    return render_cases(CpuBackend(), [c])[0].tobytes()


def free(backend: CudaBackend) -> int:
    return backend.memory()[0]


def test_memory_is_taken_by_frames_and_given_back(gpu: CudaBackend) -> None:
    large = np.zeros((8192, 8192), "<u2")  # 128 MiB
    before = free(gpu)
    handles = gpu.put([large])
    assert before - free(gpu) >= 100 * MIB
    handles.clear()
    c = case(ramp("<i2"), span=400)
    assert render_cases(gpu, [c])[0].tobytes() == expected(c)
    gpu.trim()
    assert before - free(gpu) < 16 * MIB


def test_trim_leaves_what_is_in_flight(gpu: CudaBackend) -> None:
    c = case(ramp("<u2", 700, 700), lower=-160, span=400)
    (handle,) = gpu.put([c.samples])
    ticket = gpu.launch([RenderJob(handle, c.params)])
    del handle
    gpu.trim()
    (picture,) = gpu.collect(ticket)
    assert picture.tobytes() == expected(c)


def test_two_batches_in_flight_with_uploads_between_them(gpu: CudaBackend) -> None:
    rng = np.random.default_rng(1)
    batches = [
        [case(rng.integers(-2000, 3000, (512, 512), np.int16), lower=1000.0 * n, span=400) for n in range(8)]
        for _ in range(12)
    ]
    tickets: list[tuple[object, list[Case]]] = []
    for batch in batches:
        handles = gpu.put([c.samples for c in batch])
        jobs = [RenderJob(handle, c.params) for handle, c in zip(handles, batch, strict=True)]
        if len(tickets) == 2:
            assert_landed(gpu, *tickets.pop(0))
        tickets.append((gpu.launch(jobs), batch))
    for ticket, batch in tickets:
        assert_landed(gpu, ticket, batch)


def assert_landed(gpu: CudaBackend, ticket: object, batch: list[Case]) -> None:
    for picture, c in zip(gpu.collect(ticket), batch, strict=True):
        assert picture.tobytes() == expected(c)


def test_a_full_device_says_so_and_works_on(gpu: CudaBackend) -> None:
    """Frames until the memory does not suffice: an error that is neither lost nor anything else, and room after it."""
    frame, handles = np.zeros((16384, 16384), "<u2"), list[object]()  # 512 MiB
    c = case(ramp("<i2", 300, 300), lower=-160, span=400)
    ticket = gpu.launch([RenderJob(gpu.put([c.samples])[0], c.params)])
    with pytest.raises(DeviceError) as failed:
        fill(gpu, frame, handles)
    assert (failed.value.out_of_memory, failed.value.lost) == (True, False)
    assert gpu.collect(ticket)[0].tobytes() == expected(c)
    handles.clear()
    gc.collect()
    gpu.trim()
    (handle,) = gpu.put([frame])
    first = case(frame, stage=Stage.STORED, region_height=1)
    assert render(gpu, [RenderJob(handle, first.params)])[0].tobytes() == bytes(2 * frame.shape[1])


def fill(gpu: CudaBackend, frame: Array, handles: list[object]) -> None:
    """Put the frame as often as the memory should hold it, and once more."""
    for _ in range(gpu.memory()[1] // frame.nbytes + 1):
        handles += gpu.put([frame])


def test_kernel_and_copy_take_time(gpu: CudaBackend) -> None:
    c = case(np.zeros((2048, 2048), "<i2"), span=400)
    (handle,) = gpu.put([c.samples])
    kernel_ms, copy_ms = gpu.kernel_and_copy_ms([RenderJob(handle, c.params)] * 16, 64 * MIB)
    assert 0 < kernel_ms < 10_000
    assert 0 < copy_ms < 10_000
    assert gpu.cache_bytes > 0
