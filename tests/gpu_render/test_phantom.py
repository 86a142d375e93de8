"""The synthetic CT: the tissues lie where they should, and a slice is always the same."""

import numpy as np
import pytest

from gpu_render import phantom


def hu_at(index: int, x: float, y: float) -> float:
    """Mean of the 3 x 3 pixels round a point [mm] of a slice without noise."""
    first_x, first_y = phantom.FIRST_PIXEL_MM
    column = round((x - first_x) / phantom.PIXEL_SPACING_MM)
    row = round((y - first_y) / phantom.PIXEL_SPACING_MM)
    return float(phantom.hounsfield(index)[row - 1 : row + 2, column - 1 : column + 2].mean())


@pytest.mark.parametrize(
    ("tissue", "index", "x", "y", "low", "high"),
    [
        ("air", 150, -180, -100, -1001, -999),
        ("trachea", 40, 1, 13, -1000, -900),
        ("right lung", 130, -100, -40, -920, -780),
        ("descending aorta", 150, 24, 42, 280, 320),
        ("left ventricle", 150, 46, -17, 270, 300),
        ("liver", 240, -90, -25, 108, 116),
        ("gas in the stomach", 224, 52, -50, -1000, -900),
        ("fluid in the stomach", 224, 52, -15, 10, 30),
        ("renal cortex", 268, 87, 44, 170, 215),
        ("vertebra", 150, 0, 69, 100, 600),
        ("subcutaneous fat", 250, 0, -96, -125, -60),
    ],
)
def test_tissue_has_its_hounsfield_value(tissue: str, index: int, x: float, y: float, low: float, high: float) -> None:
    assert low <= hu_at(index, x, y) <= high, tissue


def test_stored_slice_is_reproducible_and_keeps_the_range_of_a_scanner() -> None:
    stored = phantom.stored_slice(140)
    assert stored.dtype == np.int16
    assert stored.shape == (phantom.ROWS, phantom.COLUMNS)
    assert np.array_equal(stored, phantom.stored_slice(140))
    assert not np.array_equal(stored, phantom.stored_slice(141))
    assert stored[0, 0] == phantom.PADDING
    assert stored[0, 256] != phantom.PADDING
    inside = stored[stored != phantom.PADDING]
    assert inside.min() >= 0
    assert inside.max() <= 4095


def test_noise_is_that_of_a_soft_tissue_scan() -> None:
    liver = phantom.stored_slice(240)[205:235, 120:150].astype(float)
    assert 8 < liver.std() < 15
    assert abs(liver.mean() + phantom.RESCALE_INTERCEPT - 112) < 2


@pytest.mark.parametrize("index", [-1, phantom.SLICES])
def test_slice_outside_the_phantom_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="slice index"):
        phantom.hounsfield(index)
