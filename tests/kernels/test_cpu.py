"""``kernels/cpu.py`` against the formula written out pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings

from kernels import RenderJob
from kernels.cpu import TABLES, CpuBackend
from kernels.params import Colour, Curve, SampleFormat, Stage
from tests.kernels import reference
from tests.kernels.cases import COLOURS, DTYPES, EDGES, GREYS, THRESHOLDS, Array, Case, case, cases, ramp, render


def assert_equals_reference(c: Case) -> None:
    (result,) = render(CpuBackend(), [c])
    expected = reference.render(c)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.flags.c_contiguous
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    assert_equals_reference(EDGES[name])


@settings(max_examples=300, deadline=None)
@given(cases())
def test_any_record(c: Case) -> None:
    assert_equals_reference(c)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2"])
@pytest.mark.parametrize("slope", [1.0, -0.7, 3e-6, 1.25e5])
@pytest.mark.parametrize("curve", [Curve.RATIO, Curve.THRESHOLDS])
def test_every_container(dtype: str, slope: float, curve: Curve) -> None:
    """All 65,536 containers: where the table is filled, not computed, the formula says the same."""
    size = np.dtype(dtype).itemsize * 8
    samples = np.arange(1 << size).astype(f"<u{size // 8}").view(dtype).reshape(-1, 256)
    wide = samples.astype("<i4")  # wide samples take the other way: the formula for each pixel
    for centre, span in ((0.0, 0.0), (40.0, 400.0), (-3.3, 0.9), (30000.0, 70000.0), (1e7, 3.0)):
        table = None if curve == Curve.RATIO else np.sort(THRESHOLDS * slope + centre)
        fields: dict[str, float] = {
            "slope": slope,
            "intercept": -slope * 8,
            "lower": centre * slope - span / 2,
            "span": span,
        }
        fields |= {"curve": curve, "pad_low": 5, "pad_high": 6, "invert": centre > 0}
        narrow, full = render(CpuBackend(), [case(samples, table, **fields), case(wide, table, **fields)])
        np.testing.assert_array_equal(narrow, full)


def test_exact_ties_round_up() -> None:
    """LINEAR_EXACT, center 40, width 400: stored 40 is 127.5 exactly, and every eightieth has such a tie."""
    (grey,) = render(CpuBackend(), [case(np.array([[40, 120, 200]], "<i2"), lower=-160, span=400)])
    assert grey.tolist() == [[128, 179, 230]]


@pytest.mark.parametrize("colour", [Colour.YBR_FULL, Colour.YBR_PARTIAL])
def test_ybr_is_the_rounded_real_formula(colour: Colour) -> None:
    """For all 2^16 chroma pairs: Y only shifts YBR_FULL's result before the clamp, so a few Y cover all 2^24."""
    cb, cr = (plane.ravel() for plane in np.mgrid[:256, :256])
    for y in range(0, 256, 17):
        samples = np.stack([np.full(65536, y), cb, cr], axis=-1).astype(np.uint8).reshape(256, 256, 3)
        (rgb,) = render(CpuBackend(), [case(samples, colour=colour)])
        exact = _millionths(colour, y, cb.astype(object), cr.astype(object))
        np.testing.assert_array_equal(rgb.reshape(-1, 3), exact)


def _millionths(colour: Colour, y: int, cb: Array, cr: Array) -> Array:
    """Python integers: no width, no sign to go wrong."""
    scale, black, (a, b, c, d) = 1_000_000, 0, (1_402_000, 344_136, 714_136, 1_772_000)
    if colour == Colour.YBR_PARTIAL:
        scale, black, (a, b, c, d) = 1_164_384, 16, (1_596_027, 391_762, 812_968, 2_017_232)
    luma, blue, red = scale * (y - black), cb - 128, cr - 128
    exact = np.stack([luma + a * red, luma - b * blue - c * red, luma + d * blue], axis=-1)
    rounded: Array = np.clip((2 * exact + 1_000_000) // 2_000_000, 0, 255).astype(np.uint8)
    return rounded


def test_ybr_reference_in_fractions() -> None:
    for colour in (Colour.YBR_FULL, Colour.YBR_PARTIAL):
        for y, cb, cr in ((0, 0, 0), (255, 255, 255), (16, 128, 128), (235, 128, 128), (81, 90, 240), (1, 0, 255)):
            (rgb,) = render(CpuBackend(), [case(np.array([[[y, cb, cr]]], np.uint8), colour=colour)])
            assert rgb[0, 0].tolist() == reference.ybr(colour, y, cb, cr)


def test_partial_range_spans_black_to_white() -> None:
    samples = np.array([[[16, 128, 128], [235, 128, 128]]], np.uint8)
    (rgb,) = render(CpuBackend(), [case(samples, colour=Colour.YBR_PARTIAL)])
    assert rgb.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_unchanged_samples_are_not_copied_and_cannot_be_written() -> None:
    samples = ramp("<i2")
    stored, rgb = render(CpuBackend(), [case(samples, stage=Stage.STORED), case(COLOURS)])
    assert np.shares_memory(stored, samples)
    assert np.shares_memory(rgb, COLOURS)
    assert not stored.flags.writeable
    assert samples.flags.writeable


def test_a_changed_table_is_seen() -> None:
    backend, table = CpuBackend(), GREYS.copy()
    c = case(ramp("<u2"), table, curve=Curve.TABLE)
    render(backend, [c])
    table[:] = 255 - table
    assert render(backend, [c])[0].tobytes() == reference.render(c).tobytes()


def test_table_cache_forgets_the_oldest_only() -> None:
    backend = CpuBackend()
    for lower in range(2 * TABLES):
        c = case(ramp("<u2", 2, 3), lower=lower, span=100)
        assert render(backend, [c])[0].tobytes() == reference.render(c).tobytes()
    assert len(backend._tables) == TABLES
    backend.close()
    assert not backend._tables


@pytest.mark.parametrize("dtype", DTYPES)
def test_extent(dtype: str) -> None:
    samples = ramp(dtype)
    backend = CpuBackend()
    values = samples[~np.isnan(samples)].astype(np.float64)
    assert backend.extents([(samples, case(samples).params)]) == [(values.min(), values.max())]
    rest = values[(values < 0) | (values > 300)]
    padded = case(samples, pad_low=0, pad_high=300).params
    all_padding = case(samples, pad_low=-np.inf, pad_high=np.inf).params
    expected = (rest.min(), rest.max()) if rest.size else None
    assert backend.extents([(samples, padded), (samples, all_padding)]) == [expected, None]


def test_extent_sees_the_meaning_of_the_bits() -> None:
    samples = np.array([[0xF123, 0x0800, 0x07FF]], "<u2")
    assert CpuBackend().extents([(samples, case(samples, bits=12, signed=1).params)]) == [(-2048, 2047)]


def test_extent_of_nothing_but_nan() -> None:
    samples = np.full((3, 3), np.nan, "<f4")
    assert CpuBackend().extents([(samples, case(samples).params)]) == [None]


REFUSED: dict[str, dict[str, int]] = {
    "region to the right": {"region_x": 1},
    "region below": {"region_y": 3},
    "region before": {"region_x": -1},
    "no region": {"region_width": 0},
    "no output": {"height": 0},
    "endless output": {"height": 2**16, "width": 2**15},
    "too many bits": {"bits": 17},
    "bits beyond the container": {"bits": 12, "shift": 5},
    "no bits": {"bits": 0},
    "two samples": {"samples": 2},
    "scaled stored": {"stage": Stage.STORED, "width": 3},
    "stored in another container": {"stage": Stage.STORED, "output_format": SampleFormat.U8},
    "modality as bytes": {"stage": Stage.MODALITY, "output_format": SampleFormat.U8},
    "scaled int16": {"stage": Stage.MODALITY, "output_format": SampleFormat.I16, "width": 3},
    "modality by thresholds": {"stage": Stage.MODALITY, "curve": Curve.THRESHOLDS},
    "display in 16 bits": {"output_format": SampleFormat.U16},
    "no table": {"curve": Curve.TABLE},
    "palette without table": {"colour": Colour.PALETTE},
    "colour of grey samples": {"colour": Colour.RGB, "output_samples": 3},
    "other size": {"rows": 15, "region_height": 15, "height": 15},
    "other format": {"sample_format": SampleFormat.I16},
    "unknown stage": {"stage": 9},
    "unknown format": {"sample_format": 8},
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictory_records_are_refused(name: str) -> None:
    samples = ramp("<u2")
    stage = REFUSED[name].get("stage", Stage.DISPLAY)
    good = case(samples, stage=stage if stage in list(Stage) else Stage.DISPLAY)
    CpuBackend().launch([RenderJob(samples, good.params)])
    bad = good.params.copy()
    for field, value in REFUSED[name].items():
        bad[field] = value
    with pytest.raises(ValueError, match=r".+"):
        CpuBackend().launch([RenderJob(samples, bad)])


@pytest.mark.parametrize("table", [GREYS[:9], GREYS.astype("<f4"), GREYS[::2], THRESHOLDS])
def test_tables_of_another_kind_are_refused(table: Array) -> None:
    c = case(ramp("<u2"), table, curve=Curve.TABLE, table_length=10)
    with pytest.raises(ValueError, match="table"):
        render(CpuBackend(), [c])


def test_signed_colour_and_float_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        render(CpuBackend(), [case(COLOURS.view("i1"))])
    with pytest.raises(ValueError, match="float"):
        render(CpuBackend(), [case(ramp("<f4"), GREYS, curve=Curve.TABLE)])


@pytest.mark.parametrize("samples", [np.zeros((2, 2), ">u2"), np.zeros((2, 2), "<i8"), np.zeros((4, 4), "u1")[:, ::2]])
def test_put_refuses_what_no_kernel_reads(samples: Array) -> None:
    with pytest.raises(ValueError, match="SAMPLE_FORMATS"):
        CpuBackend().put([samples])
