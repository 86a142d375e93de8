"""``steps.py``: for every 16-bit container the grey of the float64 formula, in the kernel and as ``steps.py`` says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import RenderJob
from kernels.check import Record, read
from kernels.cpu import CpuBackend
from kernels.params import Curve
from kernels.steps import steps_for
from tests.kernels import host
from tests.kernels.cases import THRESHOLDS, Array, Case, case, ramp

CONTAINERS = np.arange(65536).astype("<u2").reshape(256, 256)

# (slope, intercept, lower, span): exact ties, their neighbours, and what is hard on an estimate.
WINDOWS = {
    "LINEAR_EXACT 40/400": (1.0, -1024.0, -160.0, 400.0),
    "LINEAR 40/400": (1.0, -1024.0, -160.5 + 0.5, 399.0),
    "width 511": (1.0, 0.0, -215.5, 511.0),
    "width 510, all ties": (1.0, 0.0, 0.0, 510.0),
    "a grey for each value": (1.0, 0.0, 0.0, 255.0),
    "slope 0.1": (0.1, 0.0, -160.0, 400.0),
    "slope 2.7": (2.7, -1024.0, -100.0, 400.0),
    "falling": (-1.0, 1000.0, -160.0, 400.0),
    "falling, a fraction": (-0.37, 5.0, -3000.0, 9000.0),
    "narrow": (1.0, -1024.0, 39.5, 1.0),
    "narrower than a value": (1.0, 0.0, 39.7, 0.5),
    "steep": (100.0, 0.0, 39.5, 300.0),
    "tiny slope": (1e-5, 1e-7, 1e-4, 3e-3),
    "tiny slope and intercept": (1e-30, 0.0, 1e-27, 1e-26),
    "huge": (1e30, -1e32, 1e33, 1e34),
    "wider than all values": (1.0, 0.0, -1e6, 3e6),
    "all white": (1.0, 0.0, -1e5, 2.0),
    "all black": (1.0, 0.0, 1e5, 2.0),
    "far off": (1.0, 0.0, 1e9, 10.0),
    "full range": (1.0, 0.0, -32768.0, 65535.0),
}
FIELDS: dict[str, dict[str, float]] = {
    "all bits": {},
    "inverted": {"invert": 1},
    "padded": {"pad_low": -20.5, "pad_high": 30.2},
    "padded, inverted, 12 bits": {"pad_low": 7, "pad_high": 7, "invert": 1, "bits": 12},
    "12 bits at 4": {"bits": 12, "shift": 4},
    "10 bits at 3": {"bits": 10, "shift": 3, "pad_low": -np.inf, "pad_high": -100},
    "1 bit": {"bits": 1, "shift": 2},
    "padding between two values": {"pad_low": 0.2, "pad_high": 0.8},
    "all padding": {"pad_low": -np.inf, "pad_high": np.inf},
}


def record(c: Case) -> Record:
    return read(RenderJob(c.samples, c.params, c.table))


def by_steps(steps: Array, containers: Array) -> Array:
    """What steps.py says that a kernel computes."""
    s = steps[0]
    half = np.uint32(0xFFFF)
    key = ((containers.view("<u2") ^ (s["flip"] & half)) & (s["mask"] & half)).astype(np.uint32) << 16
    upper = (key.astype(np.uint64) * s["gain"].astype(np.uint64) >> 32).astype(np.int64) + s["offset"]
    assert np.abs(upper).max() < 2**31
    estimate = np.clip(upper >> s["fraction"], 0, 255)
    grey = (estimate + (key >= s["above"][estimate])).astype(np.uint8) ^ np.uint8(s["invert"] & 255)
    return np.where(key - s["pad_first"] <= s["pad_span"], 0, grey).astype(np.uint8)


def assert_exact(c: Case) -> None:
    steps = steps_for(record(c))
    assert steps is not None
    expected = kernels.render(CpuBackend(), [RenderJob(c.samples, c.params)])[0]
    np.testing.assert_array_equal(by_steps(steps, c.samples), expected)
    (device,) = kernels.render(host.HostBackend(), [RenderJob(c.samples, c.params)])
    np.testing.assert_array_equal(device, expected)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", ["<u2", "<i2"])
def test_every_container(window: str, dtype: str) -> None:
    slope, intercept, lower, span = WINDOWS[window]
    samples = CONTAINERS.view(dtype)
    for fields in FIELDS.values():
        assert_exact(case(samples, slope=slope, intercept=intercept, lower=lower, span=span, **fields))


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-1e3, 1e3).filter(lambda slope: abs(slope) > 1e-6),
    st.integers(-2000, 2000),
    st.floats(-40000, 70000),
    st.floats(0.3, 1e5),
    st.sampled_from(list(FIELDS.values())),
    st.booleans(),
)
def test_any_window(
    slope: float, intercept: float, lower: float, span: float, fields: dict[str, float], signed: bool
) -> None:
    """Window in stored values; where there are steps they are exact, whatever the numbers."""
    samples = CONTAINERS.view("<i2" if signed else "<u2")
    scaled = {"slope": slope, "intercept": intercept, "lower": lower * abs(slope), "span": span * abs(slope)}
    assert_exact(case(samples, **(scaled | fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"span": 0},
        {"slope": 0},
        {"slope": np.nan},
        {"intercept": np.inf},
        {"lower": -np.inf},
        {"span": np.nan},
        {"span": -4},
        {"slope": 1e200},
        {"slope": 1e6, "span": 10},
        {"width": 3},
        {"region_x": 1, "region_width": 3},
    ],
)
def test_no_steps(fields: dict[str, float]) -> None:
    """What has none is left to the float64 formula, and no less exact."""
    c = case(ramp("<i2"), **fields)
    assert steps_for(record(c)) is None
    expected = kernels.render(CpuBackend(), [RenderJob(c.samples, c.params)])[0]
    (device,) = kernels.render(host.HostBackend(), [RenderJob(c.samples, c.params)])
    np.testing.assert_array_equal(device, expected)


def test_no_steps_of_other_samples_and_curves() -> None:
    assert steps_for(record(case(ramp("u1")))) is None
    assert steps_for(record(case(ramp("<i4")))) is None
    assert steps_for(record(case(ramp("<i2"), THRESHOLDS, curve=Curve.THRESHOLDS))) is None


def test_equal_formulas_share_their_steps() -> None:
    small, large = case(ramp("<i2", 3, 4), lower=5, span=77), case(ramp("<i2", 9, 8), lower=5, span=77, region_y=2)
    other = case(ramp("<i2", 3, 4), lower=5, span=77, pad_low=1, pad_high=2)
    shared = steps_for(record(small))
    large.params["region_height"] = large.params["height"] = 7
    assert shared is not None
    assert steps_for(record(large)) is shared
    assert steps_for(record(other)) is not shared
    assert not shared.flags.writeable


def test_the_kernel_reads_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The equality above is no other path's: other steps give other greys, of whole vectors of pixels."""
    c = case(ramp("<i2", 16, 17), lower=-160, span=400)
    jobs = [RenderJob(c.samples, c.params)]
    (before,) = kernels.render(host.HostBackend(), jobs)
    inverted = steps_for(record(c))
    assert inverted is not None
    inverted = inverted.copy()
    inverted["invert"] = 0xFFFFFFFF
    monkeypatch.setattr(host, "steps_for", lambda _: inverted)
    (after,) = kernels.render(host.HostBackend(), jobs)
    np.testing.assert_array_equal(after, 255 - before)
