"""fold(): windows, LUTs and geometry, against the formulas of PS3.3 written out here once more."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from gpu_render.errors import BadRequest, InvalidRegion, InvalidWindow, NotRenderable
from gpu_render.frame import LookupTable, PixelLayout, Presentation, Rescale, VoiFunction, Window
from gpu_render.transform import (
    auto_window,
    fit,
    fold,
    grey_of,
    needs_extent,
    pixel_aspect,
    table_extent,
    to_bytes,
    window_bounds,
)
from gpu_render.view import Region, Stage, View
from kernels import RenderJob
from kernels.cpu import CpuBackend
from kernels.params import Curve, SampleFormat

CT = PixelLayout(4, 6, 1, 16, 12, 11, 0, "MONOCHROME2")
HU = Presentation(modality=Rescale(1.0, -1024.0, "HU"), voi=(Window(40, 400), Window(-600, 1500)))


def render(samples: np.ndarray, presentation: Presentation, view: View, layout: PixelLayout) -> np.ndarray:
    """Through fold() and the CPU backend, extent included: what the service does."""
    backend = CpuBackend()
    (pixels,) = backend.put([samples])
    extent = None
    if needs_extent(presentation, view, layout):
        (extent,) = backend.extents([(pixels, fold(presentation, View(stage=Stage.STORED), layout).params)])
    folded = fold(presentation, view, layout, extent)
    return kernels.render(backend, [RenderJob(pixels, folded.params, folded.table)])[0]


def standard_grey(value: float, window: Window) -> int:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2 as they are printed, with output 0..255."""
    c, w = window.center, window.width
    if window.function is VoiFunction.SIGMOID:
        exponent = min(700.0, -4 * (value - c) / w)
        y = 255 / (1 + math.exp(exponent))
    elif window.function is VoiFunction.LINEAR:
        if value <= c - 0.5 - (w - 1) / 2:
            y = 0.0
        elif value > c - 0.5 + (w - 1) / 2:
            y = 255.0
        else:
            y = ((value - (c - 0.5)) / (w - 1) + 0.5) * 255
    elif value <= c - w / 2:
        y = 0.0
    elif value > c + w / 2:
        y = 255.0
    else:
        y = ((value - c) / w + 0.5) * 255
    return math.floor(y + 0.5)


@given(
    center=st.integers(-2000, 4000),
    width=st.integers(1, 5000),
    function=st.sampled_from(VoiFunction),
    slope=st.sampled_from([1.0, 2.0, -1.0, 0.5, 0.37428]),
)
def test_every_window_equals_the_standards_formula_on_every_stored_value(
    center: int, width: int, function: VoiFunction, slope: float
) -> None:
    layout = replace(CT, rows=64, columns=64)
    samples = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    window = Window(center, width, function)
    presentation = Presentation(modality=Rescale(slope, -1024.0), voi=(window,))
    got = render(samples, presentation, View(), layout).ravel().astype(int)
    want = np.array([standard_grey(slope * v - 1024.0, window) for v in range(4096)])
    # Exact ties of the real formula may fall either way in the float64 formula of the standard; nothing else may.
    assert np.abs(got - want).max() <= 1
    for value in np.flatnonzero(got != want):
        lower, span = window_bounds(window) if function is not VoiFunction.SIGMOID else (0.0, 1.0)
        exact = (slope * float(value) - 1024.0 - lower) * 255 / span + 0.5
        assert function is VoiFunction.SIGMOID or abs(exact - round(exact)) < 1e-9


def test_a_linear_window_of_width_1_is_a_step_at_center_minus_a_half() -> None:
    values = np.array([38.9, 39.5, 39.500001, 40.0, 41.0])
    assert grey_of(values, Window(40, 1)).tolist() == [0, 0, 255, 255, 255]


def test_the_files_first_window_is_the_default_and_others_can_be_chosen() -> None:
    assert fold(HU, View(), CT).window == Window(40, 400)
    assert fold(HU, View(voi_index=1), CT).window == Window(-600, 1500)
    assert fold(HU, View(window=Window(1, 2)), CT).window == Window(1, 2)
    with pytest.raises(InvalidWindow, match="2 VOI"):
        fold(HU, View(voi_index=2), CT)


def test_without_a_window_the_range_without_padding_is_shown() -> None:
    samples = np.array([[0, 10, 20], [30, 40, 4000]], dtype=np.uint16)
    layout = replace(CT, rows=2, columns=3)
    presentation = Presentation(pixel_padding=(4000, 4000))
    assert render(samples, presentation, View(), layout).tolist() == [[0, 64, 128], [191, 255, 0]]


def test_a_flat_frame_and_a_frame_of_padding_show_black() -> None:
    layout = replace(CT, rows=1, columns=2)
    assert not render(np.full((1, 2), 7, np.uint16), Presentation(), View(), layout).any()
    padded = Presentation(pixel_padding=(7, 7))
    assert not render(np.full((1, 2), 7, np.uint16), padded, View(), layout).any()


def test_the_range_of_tiny_float_values_is_resolved() -> None:
    layout = PixelLayout(1, 3, 1, 32, 32, 31, 0, "MONOCHROME2", is_float=True)
    samples = np.array([[0, 1e-9, 2e-9]], dtype=np.float32)
    assert render(samples, Presentation(), View(), layout).tolist() == [[0, 128, 255]]


def test_auto_window_follows_a_negative_slope() -> None:
    assert auto_window(Presentation(modality=Rescale(-2.0, 0.0)), (1, 3)) == Window(
        -4, 4, VoiFunction.LINEAR_EXACT, "range of the frame"
    )


def test_auto_window_of_a_modality_lut_knows_the_values_that_are_there() -> None:
    """Entries between those of the lowest and the highest stored value may be higher, and be nowhere in the frame."""
    table = LookupTable(0, np.array([5, 100, 7, 0, 200], np.uint16), 16)
    lut = Presentation(modality=table, pixel_padding=(4, 9))
    assert table_extent(lut, np.array([[0, 2], [2, 4]], np.int16)) == (5, 7)
    assert table_extent(lut, np.array([[0, 1], [3, 3]], np.uint8)) == (0, 100)
    assert table_extent(lut, np.array([[4, 5]], np.uint8)) is None
    coloured = Presentation(modality=table, palette=LookupTable(3, np.zeros((4, 3), np.uint16), 8))
    assert table_extent(coloured, np.array([[0, 1, 3, 4]], np.uint16)) == (5, 100)
    window = auto_window(lut, (5, 7))
    assert (window.center, window.width) == (6, 2)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("invert", [False, True])
def test_inversion_is_applied_once_and_padding_stays_background(inverse: bool, invert: bool) -> None:
    layout = replace(CT, rows=1, columns=3)
    samples = np.array([[0, 255, 9]], dtype=np.uint16)
    presentation = Presentation(voi=(Window(128, 256),), inverse=inverse, pixel_padding=(9, 9))
    want = [255, 0, 0] if inverse != invert else [0, 255, 0]
    assert render(samples, presentation, View(invert=invert), layout).tolist() == [want]


# -- modality -----------------------------------------------------------------------------------------------------


def test_modality_is_int16_when_exact_and_float32_otherwise() -> None:
    signed = PixelLayout(1, 2, 1, 16, 16, 15, 1, "MONOCHROME2")
    samples = np.array([[-2000, 3000]], dtype=np.int16)
    hu = Presentation(modality=Rescale(1.0, -1024.0))
    view = View(stage=Stage.MODALITY)
    got = render(samples, hu, view, signed)
    assert got.dtype == np.dtype("<i2")
    assert got.tolist() == [[-3024, 1976]]
    low = render(np.array([[-32000, 0]], dtype=np.int16), hu, view, signed)
    assert low.dtype == np.dtype("<f4")
    assert low.tolist() == [[-33024.0, -1024.0]]
    fraction = render(samples, Presentation(modality=Rescale(0.5, 0.0)), view, signed)
    assert fraction.dtype == np.dtype("<f4")


def test_padding_counts_when_int16_is_chosen() -> None:
    layout = replace(CT, rows=1, columns=2, bits_stored=16, high_bit=15)
    samples = np.array([[5, 40000]], dtype=np.uint16)
    got = render(samples, Presentation(pixel_padding=(40000, 40000)), View(stage=Stage.MODALITY), layout)
    assert got.dtype == np.dtype("<f4")
    assert got.tolist() == [[5.0, 40000.0]]


def test_modality_lut_maps_and_clamps() -> None:
    layout = replace(CT, rows=1, columns=4)
    table = LookupTable(10, np.array([100, 200, 300], np.uint16), 16)
    samples = np.array([[0, 10, 12, 4095]], dtype=np.uint16)
    got = render(samples, Presentation(modality=table), View(stage=Stage.MODALITY), layout)
    assert got.tolist() == [[100, 100, 300, 300]]


def test_voi_lut_is_applied_after_the_rescale_and_scaled_from_its_bits() -> None:
    layout = replace(CT, rows=1, columns=3)
    lut = LookupTable(-1024, np.array([0, 2048, 4095], np.uint16), 12)
    presentation = Presentation(modality=Rescale(1.0, -1024.0), voi=(lut, Window(40, 400)))
    samples = np.array([[0, 1, 9]], dtype=np.uint16)
    assert render(samples, presentation, View(), layout).tolist() == [[0, 128, 255]]
    windowed = render(samples, presentation, View(window=Window(-1023, 2)), layout)
    assert windowed.tolist() == [[0, 255, 255]]


def test_luts_on_wide_samples_are_refused() -> None:
    wide = PixelLayout(1, 1, 1, 32, 32, 31, 0, "MONOCHROME2")
    lut = LookupTable(0, np.zeros(4, np.uint16), 16)
    with pytest.raises(NotRenderable, match="more than 16 bits"):
        fold(Presentation(voi=(lut,)), View(), wide)


# -- colour -------------------------------------------------------------------------------------------------------

RGB = PixelLayout(2, 2, 3, 8, 8, 7, 0, "RGB")


def test_colour_has_no_window_no_inversion_and_no_modality_values() -> None:
    for view in (View(window=Window(1, 2)), View(voi_index=0), View(invert=True), View(stage=Stage.MODALITY)):
        with pytest.raises(NotRenderable):
            fold(Presentation(), view, RGB)


@pytest.mark.parametrize("bits", [7, 10, 16])
@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_ybr_of_other_than_8_bits_is_refused(photometric: str, bits: int) -> None:
    layout = PixelLayout(2, 2, 3, 16, bits, bits - 1, 0, photometric)
    with pytest.raises(NotRenderable, match=f"{bits} bits"):
        fold(Presentation(), View(), layout)
    fold(Presentation(), View(stage=Stage.STORED), layout)
    fold(Presentation(), View(), replace(layout, photometric_interpretation="RGB"))


def test_palette_entries_of_16_bits_are_rounded_to_8() -> None:
    entries = np.array([0, 128, 129, 257, 32767, 65535], np.uint16)
    want = [math.floor(255 * int(e) / 65535 + 0.5) for e in entries]
    assert to_bytes(entries, 16).tolist() == want
    assert to_bytes(np.array([3, 255], np.uint16), 8).tolist() == [3, 255]


def test_palette_pictures_are_rgb() -> None:
    layout = PixelLayout(1, 3, 1, 8, 8, 7, 0, "PALETTE COLOR")
    palette = LookupTable(1, np.array([[0, 0, 0], [65535, 0, 257]], np.uint16), 16)
    got = render(np.array([[0, 1, 2]], np.uint8), Presentation(palette=palette), View(), layout)
    assert got.tolist() == [[[0, 0, 0], [0, 0, 0], [255, 0, 1]]]


# -- geometry -----------------------------------------------------------------------------------------------------


def test_a_region_outside_is_refused() -> None:
    assert fold(HU, View(region=Region(2, 1, 4, 3)), CT).params["region_x"] == 2
    for region in (Region(3, 0, 4, 4), Region(0, 1, 6, 4)):
        with pytest.raises(InvalidRegion):
            fold(HU, View(region=region), CT)


def test_stored_values_are_never_resampled() -> None:
    with pytest.raises(BadRequest, match="not resampled"):
        fold(HU, View(stage=Stage.STORED, viewport=(3, 3)), CT)
    region = fold(HU, View(stage=Stage.STORED, region=Region(1, 1, 2, 2)), CT)
    assert region.params["output_format"] == SampleFormat.U16


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    viewport=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    aspect=st.floats(0.05, 20),
)
def test_a_fitted_picture_fills_one_side_and_never_leaves_the_viewport(
    width: int, height: int, viewport: tuple[int, int], aspect: float
) -> None:
    got = fit(Region(0, 0, width, height), viewport, aspect)
    assert 1 <= got[0] <= viewport[0]
    assert 1 <= got[1] <= viewport[1]
    assert got[0] == viewport[0] or got[1] == viewport[1]


def test_non_square_pixels_are_shown_square() -> None:
    tall = Presentation(pixel_spacing_mm=(2.0, 1.0))
    assert pixel_aspect(tall) == 2.0
    assert fit(Region(0, 0, 100, 100), (200, 200), 2.0) == (100, 200)
    assert pixel_aspect(Presentation(pixel_aspect_ratio=(1, 2))) == 0.5
    assert pixel_aspect(Presentation(pixel_spacing_mm=(0.0, 1.0))) == 1.0


def test_sigmoid_travels_as_thresholds() -> None:
    folded = fold(Presentation(), View(window=Window(0, 10, VoiFunction.SIGMOID)), CT)
    assert folded.params["curve"] == Curve.THRESHOLDS
    assert folded.table is not None
    assert folded.table.shape == (255,)
    assert np.all(np.diff(folded.table.astype(float)) > 0)


@pytest.mark.parametrize("function", VoiFunction)
@pytest.mark.parametrize("window", [(1e308, 1e308), (-1e308, 1.7e308), (1e308, 1.0), (0.0, 1.7e308)])
def test_windows_at_the_end_of_float64_still_rise(function: VoiFunction, window: tuple[float, float]) -> None:
    layout = replace(CT, rows=1, columns=3)
    view = View(window=Window(*window, function))
    got = render(np.array([[0, 2000, 4095]], np.uint16), Presentation(), view, layout)
    assert np.all(np.diff(got.astype(int)) >= 0)
