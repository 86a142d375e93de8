"""``kernels/line.py``: a line says what a table over all containers says, or there is none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.check import Record, read_source
from kernels.cpu import CpuBackend, _by_container, _by_stored, _line, _part
from kernels.line import BLOCK, Field, Line, fit
from kernels.params import FRAME_PARAMS, Colour, SampleFormat, Stage
from tests.kernels.cases import case, render

CONTAINERS = np.arange(1 << 16, dtype="<u2").reshape(-1, 512)


def record(**fields: float) -> Record:
    """Of grey display of 16-bit containers."""
    params = np.zeros((), FRAME_PARAMS)
    usual: dict[str, float] = {"rows": 1, "columns": 1, "samples": 1, "sample_format": SampleFormat.U16, "bits": 16}
    usual |= {"slope": 1, "span": 255, "pad_low": math.nan, "pad_high": math.nan}
    usual |= {"stage": Stage.DISPLAY, "colour": Colour.GREY}
    for name, value in (usual | fields).items():
        params[name] = value
    return read_source(params[()])  # type: ignore[arg-type]  # a scalar of a structured dtype


def line_of(r: Record) -> Line | None:
    """After comparing it with the table, for every container."""
    with np.errstate(all="ignore"):
        low, part = _part(r, None)
        line = _line(r, low, part)
    if line is not None:
        table = _by_container(r, _by_stored(r, low, part))
        np.testing.assert_array_equal(line(CONTAINERS).reshape(-1), table)
    return line


@pytest.mark.parametrize("width", [1.5, 2, 80, 400, 401, 1500, 4095])
@pytest.mark.parametrize("invert", [0, 1])
@pytest.mark.parametrize("signed", [0, 1])
def test_usual_windows_are_lines(width: float, invert: int, signed: int) -> None:
    """Their ties as well, of which every window with a whole centre has some."""
    for lower in (-160.0, 0.0, 40.5, 1000.0):
        assert line_of(record(lower=lower, span=width - 1, invert=invert, signed=signed)) is not None


@pytest.mark.parametrize(("shift", "bits"), [(0, 12), (4, 12), (0, 1), (15, 1), (1, 14)])
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_around_the_stored_value_do_not_matter(shift: int, bits: int, signed: int) -> None:
    top = min(1 << bits, 4096)
    assert line_of(record(shift=shift, bits=bits, signed=signed, lower=-top / 4, span=top)) is not None


def test_padding_is_a_lines_where_it_is_black_anyway() -> None:
    below = {"lower": 100, "span": 400, "pad_low": 0, "pad_high": 63}
    assert line_of(record(**below)) is not None
    assert line_of(record(**below, invert=1)) is None
    assert line_of(record(lower=0, span=400, pad_low=200, pad_high=200)) is None
    assert line_of(record(lower=0, span=400, pad_low=70000, pad_high=80000)) is not None


def test_what_float32_cannot_say_is_left_to_a_table() -> None:
    assert line_of(record(span=0)) is None
    assert line_of(record(slope=math.inf)) is None
    assert line_of(record(lower=40.5, span=69999, invert=1)) is None
    assert line_of(record(slope=1e300, lower=0, bits=1)) is None  # which is infinite in float32, and 0 times it nothing
    greys = np.array([0, 3, 1, 255], np.uint8)
    assert fit(Field(0, 16, False), 10, greys, 1.0, -10.0) is None


numbers = st.one_of(st.integers(-70000, 70000), st.floats(-1e5, 1e5), st.floats(allow_nan=False))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_window(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 16))
    line_of(
        record(
            bits=bits,
            shift=data.draw(st.integers(0, 16 - bits)),
            signed=data.draw(st.integers(0, 1)),
            slope=data.draw(numbers),
            intercept=data.draw(numbers),
            lower=data.draw(numbers),
            span=abs(data.draw(numbers)),
            pad_low=data.draw(st.one_of(st.just(math.nan), numbers)),
            pad_high=data.draw(st.one_of(st.just(math.nan), numbers)),
            invert=data.draw(st.integers(0, 1)),
        )
    )


def test_frames_of_several_blocks_and_parts_of_frames() -> None:
    samples = np.arange(3 * BLOCK, dtype="<u2").reshape(-1, 384)
    fields: dict[str, float] = {"lower": 100, "span": 999}
    whole, part, wide = render(
        backend := CpuBackend(),
        [
            case(samples, **fields),
            case(samples, **fields, region_x=3, region_y=5, region_width=300, region_height=400),
            case(samples.astype("<u4"), **fields),
        ],
    )
    np.testing.assert_array_equal(whole, wide)
    np.testing.assert_array_equal(part, wide[5:405, 3:303])
    assert [type(table) for table, _ in backend._tables.values()] == [Line]
