"""``adopt_batch`` equals ``adopt.py``; and what its report says of codestreams and witnesses."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Codestream, Witness
from kernels.adopt import NONE, adopt_record, extent_of, holds, number, ordered
from kernels.adopt import adopt as specification
from tests.kernels import host
from tests.kernels.cases import Array

NARROW = ("u1", "i1", "<u2", "<i2")


def codestream(shape: tuple[int, ...] = (2, 3), dtype: str = "<i2", **fields: Any) -> Codestream:
    values: dict[str, Any] = {"offset": 0, "low": -(2**20), "high": 2**20, "sign_bits": np.dtype(dtype).itemsize * 8}
    return Codestream(b"1", "jpeg", shape, np.dtype(dtype), 16, signed=True, **(values | fields))


def assert_adopted(c: Codestream, left: Array, reference: Array | None = None) -> tuple[Array, Array]:
    record = adopt_record(c, left.dtype, left.size // len(left) * left.itemsize)
    flat = None if reference is None else reference.reshape(len(left), -1)
    samples, words = specification(record, left.reshape(len(left), -1), flat)
    report, output = host.adopt(c, left, reference)
    assert report is not None
    assert output is not None
    assert report.tolist() == words.tolist()
    assert output.tobytes() == (samples if reference is None else np.full_like(output, 77)).tobytes()
    return report, output


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_equals_the_specification(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 70)), *draw(st.sampled_from([(), (3,)]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    source, dtype = (np.dtype(draw(st.sampled_from(NARROW))) for _ in range(2))
    left = rng.integers(0, 256, (*shape[:-1], shape[-1] * source.itemsize), np.uint8).view(source).reshape(shape)
    c = codestream(
        shape, dtype.str, offset=draw(st.integers(-65536, 65536)), sign_bits=draw(st.integers(1, dtype.itemsize * 8))
    )
    _, samples = assert_adopted(c, left)
    other = samples.copy()
    other.reshape(-1)[draw(st.integers(0, samples.size - 1)) :] ^= 1
    for reference in (samples, other):
        assert_adopted(c, left, reference)


def test_values_outside_the_declared_range_are_not_adopted() -> None:
    left = np.array([[0, 4095, 7], [8, 9, 10]], "<u2")
    report, _ = assert_adopted(codestream(dtype="<u2", low=0, high=4095, sign_bits=0), left)
    assert extent_of(codestream(dtype="<u2", low=0, high=4095, sign_bits=0), report) == (0, 4095)
    assert extent_of(codestream(dtype="<u2", low=0, high=4094, sign_bits=0), report) is None
    assert extent_of(codestream(dtype="<u2", low=1, high=4095, sign_bits=0), report) is None


def test_the_range_is_of_values_and_the_extent_of_samples() -> None:
    """12 unsigned bits that the dataset reads as signed: 4095 is allowed, and means -1."""
    c = codestream(low=0, high=4095, sign_bits=12)
    report, samples = assert_adopted(c, np.array([[0, 2047, 2048], [4095, 5, 6]], "<u2"))
    assert samples.tolist() == [[0, 2047, -2048], [-1, 5, 6]]
    assert extent_of(c, report) == (-2048, 2047)


def test_an_offset_makes_signed_samples() -> None:
    c = codestream(offset=-32768, low=-32768, high=32767, sign_bits=0)
    _, samples = assert_adopted(c, np.array([[0, 32768, 65535], [1, 2, 3]], "<u2"))
    assert samples.tolist() == [[-32768, 0, 32767], [-32767, -32766, -32765]]


def test_witnesses() -> None:
    c = codestream((2, 4), "<u2", low=0, high=65535, sign_bits=0)
    left = np.arange(8, dtype="<u2").reshape(2, 4)
    _, samples = assert_adopted(c, left)
    same, _ = assert_adopted(c, left, samples)
    changed = left.copy()
    changed[1, 1] = 77
    other, _ = assert_adopted(c, changed, samples)
    assert (int(same[2]), int(other[2])) == (NONE, 5)
    expected: Mapping[tuple[int, bool], tuple[bool, bool]] = {
        (5, True): (False, True),
        (5, False): (True, True),
        (6, True): (False, False),
        (8, False): (True, False),
    }
    for (equal, differs), answers in expected.items():
        witness = Witness(b"2", equal, differs)
        assert (holds(witness, c, same), holds(witness, c, other)) == answers


def test_a_witness_outside_the_range_does_not_hold() -> None:
    c = codestream((1, 2), "<u2", low=0, high=10, sign_bits=0)
    _, samples = assert_adopted(c, np.array([[1, 2]], "<u2"))
    report, _ = assert_adopted(c, np.array([[1, 11]], "<u2"), samples)
    assert not holds(Witness(b"", 1, differs=True), c, report)


def test_nothing_adopted_has_no_extent() -> None:
    assert extent_of(codestream(), np.full(5, NONE, np.uint64)) is None


@pytest.mark.parametrize(
    ("fields", "left", "stride"),
    [
        ({}, "<i4", 12),
        ({"dtype": "<u4", "sign_bits": 16}, "<u2", 6),
        ({}, "<u2", 5),
        ({}, "<u2", 7),
        ({"shape": (2, 3, 2)}, "<u2", 12),
        ({"offset": 65537}, "<u2", 6),
        ({"sign_bits": 17}, "<u2", 6),
        ({"sign_bits": -1}, "<u2", 6),
        ({"sign_bits": 0, "low": 0, "high": 32768}, "<u2", 6),
        ({"dtype": "u1", "sign_bits": 0, "low": -1, "high": 255}, "<u2", 6),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], left: str, stride: int) -> None:
    with pytest.raises(ValueError, match=r"codec|row stride|values"):
        adopt_record(codestream(**fields), np.dtype(left), stride)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 65535.0, -98304.0, 1e-300])
def test_ordered_numbers(value: float) -> None:
    assert number(ordered(value)) == value
    assert ordered(value) < ordered(value + 1)


def test_host_backend_decodes() -> None:
    pixels = np.arange(6, dtype="<u2").reshape(2, 3)
    c = codestream(dtype="<u2", low=0, high=9, sign_bits=0)
    lying = Codestream(b"1", "jpeg", (2, 3), np.dtype("<u2"), 16, False, 0, 0, 9, 0, (Witness(b"2", 0, differs=True),))
    backend = host.HostBackend(lambda data, _: pixels if data else None)
    decoded = backend.decode([c, lying, codestream((3, 2), "<u2", sign_bits=0, low=0, high=9)])
    assert decoded[0] is not None
    assert (decoded[0].lowest, decoded[0].highest) == (0, 5)
    np.testing.assert_array_equal(np.asarray(decoded[0].pixels), pixels)
    assert decoded[1:] == [None, None]
    assert host.HostBackend().decode([c]) == [None]
