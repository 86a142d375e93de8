"""One body for every device: ``render.cu`` equals ``cpu.py`` byte for byte.

``host``: the kernel built by a C++ compiler; ``fake``: the same, driven by ``cuda.py`` over a fake CuPy; ``gpu``: a
real device (``pytest -m gpu``).
"""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels import Backend, RenderJob
from kernels.cpu import CpuBackend
from kernels.packing import unpack
from kernels.params import Colour, Stage
from tests.gpu import open_gpu
from tests.kernels import host
from tests.kernels.cases import DTYPES, EDGES, LARGE, PACKED, Case, case, cases, ramp, render
from tests.kernels.fake_cupy import FakeDevice

SAME_BACKEND = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["host", "fake", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "gpu":
        yield open_gpu()
        return
    host.library()
    if request.param == "host":
        yield host.HostBackend()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", FakeDevice().module())
        from kernels.cuda import CudaBackend

        yield CudaBackend()


def assert_equal(device: Backend, batch: list[Case]) -> None:
    for expected, result, c in zip(render(CpuBackend(), batch), render(device, batch), batch, strict=True):
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        assert result.tobytes() == expected.tobytes(), c.params


@pytest.mark.parametrize("name", EDGES)
def test_edges(device: Backend, name: str) -> None:
    assert_equal(device, [EDGES[name]])


def test_large_frames(device: Backend) -> None:
    assert_equal(device, list(LARGE.values()))


def test_all_edges_as_one_batch(device: Backend) -> None:
    assert_equal(device, list(EDGES.values()))


@SAME_BACKEND
@given(st.lists(cases(), min_size=1, max_size=5))
def test_any_batch(device: Backend, batch: list[Case]) -> None:
    assert_equal(device, batch)


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_every_container(device: Backend, dtype: str) -> None:
    size = np.dtype(dtype).itemsize
    samples = np.arange(256**size).astype(f"<u{size}").view(dtype).reshape(-1, 256)
    windows = (
        (1.0, -1024.0, -160.0, 400.0),
        (1.0, 0.0, -160.0, 400.0),
        (0.37, 5.0, 39.5, 0.0),
        (-2.0, 9.0, -1.0, 80.0),
    )
    assert_equal(device, [case(samples, slope=s, intercept=i, lower=low, span=span) for s, i, low, span in windows])


@pytest.mark.parametrize("colour", [Colour.YBR_FULL, Colour.YBR_PARTIAL])
def test_every_chroma(device: Backend, colour: Colour) -> None:
    cb, cr = np.mgrid[:256, :256]
    batch = [np.stack([np.full_like(cb, y), cb, cr], axis=-1).astype(np.uint8) for y in (0, 1, 16, 77, 128, 235, 255)]
    assert_equal(device, [case(samples, colour=colour) for samples in batch])


def test_extents_of_a_batch(device: Backend) -> None:
    """All dtypes at once, padded and not, at every remainder of the vectors that the kernel reads."""
    paddings: list[dict[str, float]] = [{}, {"pad_low": 0, "pad_high": 300}, {"pad_low": -np.inf, "pad_high": np.inf}]
    frames = []
    for dtype in DTYPES:
        for size in ((1, 1), (1, 7), (3, 5), (40, 41)):
            samples = ramp(dtype, *size)
            frames += [(samples, case(samples, **padding).params) for padding in paddings]
    frames.append((np.full((3, 3), np.nan, "<f8"), case(np.full((3, 3), np.nan, "<f8")).params))
    some_bits = np.array([[0xF123, 0x0800, 0x07FF]], "<u2")
    frames.append((some_bits, case(some_bits, bits=12, signed=1, pad_low=0.5, pad_high=0.6).params))
    expected = CpuBackend().extents(frames)
    handles = device.put([samples for samples, _ in frames])
    assert device.extents([(handle, params) for handle, (_, params) in zip(handles, frames, strict=True)]) == expected
    assert expected[-2:] == [None, (-2048, 2047)]


def test_packed_frames(device: Backend) -> None:
    packed = list(PACKED.values())
    handles = device.put(packed)
    for frame, handle in zip(packed, handles, strict=True):
        samples = unpack(frame)
        c = case(samples.reshape(frame.shape), stage=Stage.STORED)
        (stored,) = kernels.render(device, [RenderJob(handle, c.params)])
        assert (stored.dtype, stored.shape) == (frame.dtype, frame.shape)
        assert stored.tobytes() == samples.tobytes()
