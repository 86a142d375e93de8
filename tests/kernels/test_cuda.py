"""``kernels/cuda.py`` over a fake CuPy: what it moves, what it refuses, and how it fails."""

import logging
import sys

import numpy as np
import pytest

from kernels import BackendUnavailable, DeviceError, RenderJob, open_backend
from kernels.cpu import CpuBackend
from kernels.cuda import CudaBackend
from kernels.params import FRAME_PARAMS, Curve
from tests.kernels import fake_cupy, host
from tests.kernels.cases import EDGES, GREYS, case, ramp, render
from tests.kernels.fake_cupy import FakeDevice


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    host.library()
    device = FakeDevice()
    monkeypatch.setitem(sys.modules, "cupy", device.module())
    return device


def test_one_upload_a_frame_one_launch_and_one_download_a_batch(fake: FakeDevice) -> None:
    backend = CudaBackend()
    batch = list(EDGES.values())[:40]
    handles = [backend.put(c.samples) for c in batch]
    assert fake.counts["upload"] == len(batch)
    assert fake.uploaded == sum(c.samples.nbytes for c in batch)
    fake.counts.clear()
    jobs = [RenderJob(handle, c.params, c.table) for handle, c in zip(handles, batch, strict=True)]
    backend.render(jobs)
    assert (fake.counts["upload"], fake.counts["render_batch"], fake.counts["download"]) == (1, 1, 1)
    assert backend.download_ms > 0
    backend.render(jobs)
    assert (fake.counts["upload"], fake.counts["render_batch"], fake.counts["download"]) == (2, 2, 2)
    assert fake.counts["compile"] == 0


def test_a_table_travels_once_a_batch(fake: FakeDevice) -> None:
    backend = CudaBackend()
    table = np.resize(GREYS, 60000)
    c = case(ramp("<u2"), table, curve=Curve.TABLE)
    job = RenderJob(backend.put(c.samples), c.params, c.table)
    fake.uploaded = 0
    backend.render([job] * 5)
    assert table.nbytes + 5 * FRAME_PARAMS.itemsize <= fake.uploaded < 2 * table.nbytes


def test_results_outlive_the_next_batch(fake: FakeDevice) -> None:
    backend, first, second = CudaBackend(), case(ramp("<i2"), span=400), case(ramp("<u2", 40, 40), span=9)
    (kept,) = render(backend, [first])
    before = kept.tobytes()
    render(backend, [second])
    assert kept.tobytes() == before == render(CpuBackend(), [first])[0].tobytes()
    assert kept.flags.writeable


def test_an_empty_batch_touches_nothing(fake: FakeDevice) -> None:
    assert CudaBackend().render([]) == []
    assert fake.counts["render_batch"] == 0


def test_compiled_at_start_without_contraction(fake: FakeDevice) -> None:
    backend = CudaBackend()
    assert fake.counts["compile"] == 1
    assert "-fmad=false" in fake.options
    assert backend.description == (
        "Fake GPU, compute capability 9.0, driver for CUDA 13.1, runtime 12.9, CuPy 0.0-fake"
    )
    assert backend.memory() == ((1 << 30) + 4096, 1 << 31)
    backend.close()


@pytest.mark.parametrize("samples", [np.zeros((2, 2), ">u2"), np.zeros((4, 4), "u1")[:, ::2], np.zeros((0, 4), "u1")])
def test_put_refuses_what_no_kernel_reads(
    fake: FakeDevice, samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    with pytest.raises(ValueError, match="SAMPLE_FORMATS"):
        CudaBackend().put(samples)


def test_handles_of_another_kind_size_or_format_are_refused(fake: FakeDevice) -> None:
    backend, samples = CudaBackend(), ramp("<u2")
    for handle in (samples, backend.put(samples[1:]), backend.put(samples.view("<i2"))):
        with pytest.raises(ValueError, match="samples"):
            backend.render([RenderJob(handle, case(samples).params)])
    assert fake.counts["render_batch"] == 0


@pytest.mark.parametrize(
    ("status", "lost"), [(700, True), (719, True), (214, True), (999, True), (2, False), (9, False)]
)
def test_a_failed_launch_says_whether_the_device_is_lost(fake: FakeDevice, status: int, lost: bool) -> None:
    backend = CudaBackend()
    fake.launch_error = fake_cupy.CUDARuntimeError(status)
    with pytest.raises(DeviceError, match=str(status)) as caught:
        render(backend, [case(ramp("u1"))])
    assert caught.value.lost is lost


def test_too_little_memory_is_not_a_lost_device(fake: FakeDevice) -> None:
    backend, c = CudaBackend(), case(ramp("u1"))
    fake.alloc_error = fake_cupy.OutOfMemoryError()
    with pytest.raises(DeviceError, match="memory") as caught:
        backend.put(c.samples)
    assert not caught.value.lost
    fake.alloc_error = None
    assert render(backend, [c])[0].tobytes() == render(CpuBackend(), [c])[0].tobytes()


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
    else:
        fake.compile_error = PermissionError(13, "denied")


REASONS = {
    "cupy": r"gpu-render\[cuda12\]",
    "driver": "driver",
    "device": "no CUDA device 0",
    "compiler": "does not compile",
    "nvrtc": "NVRTC",
    "context": "does not answer",
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
