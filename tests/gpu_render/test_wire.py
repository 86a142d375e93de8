"""Bodies for slow lines: whatever the samples are, they come back bit by bit, and nothing else does."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpu_render import wire
from tests.data import sample

DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4")

shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)


def undo_gzip(body: bytes) -> bytes:
    return zlib.decompress(body, 16 + zlib.MAX_WBITS)


def undo_zstd(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


UNDO: dict[wire.Coding, Callable[[bytes], bytes]] = {"gzip": undo_gzip, "zstd": undo_zstd}


@given(st.sampled_from(DTYPES), shapes, st.booleans(), st.randoms(use_true_random=False))
def test_any_samples_come_back_bit_by_bit(dtype: str, shape: tuple[int, ...], is_colour: bool, random: Random) -> None:
    whole = (*shape, 3) if is_colour else shape
    nbytes = int(np.prod(whole)) * np.dtype(dtype).itemsize
    pixels = np.frombuffer(random.randbytes(nbytes), np.uint8).view(dtype).reshape(whole)
    body = wire.planes(pixels)
    found = wire.unplanes(body, whole, dtype)
    assert body.nbytes == nbytes
    assert (found.dtype, found.shape, found.tobytes()) == (pixels.dtype, whole, pixels.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_of_the_range_and_pictures_of_several_bands_come_back(dtype: str) -> None:
    if dtype == "<f4":
        values: npt.NDArray[np.generic] = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3e38], dtype)
    else:
        ends = np.iinfo(dtype)
        values = np.array([ends.min, ends.max, 0, ends.max, ends.min, 1, ends.max - 1], dtype)
    pixels = np.resize(values, (wire.BAND // 100 * 3 + 1, 100))
    assert wire.unplanes(wire.planes(pixels), pixels.shape, dtype).tobytes() == pixels.tobytes()


def test_a_band_with_one_row_that_is_wider_than_a_band() -> None:
    pixels = (np.arange(3 * (wire.BAND + 5)) * 7919).astype("<u2").reshape(3, -1)
    assert np.array_equal(wire.unplanes(wire.planes(pixels), pixels.shape, "<u2"), pixels)


def test_the_filter_is_the_documented_one() -> None:
    """docs/api.md tells it by an example; here it is computed by hand."""
    grey = np.array([[100, 103, 101], [99, 103, 104]], "<i2")
    # left: 100 3 -2 / 99 4 1; minus the row above: 100 3 -2 / -1 1 3; folded: 200 6 3 / 1 2 6
    assert bytes(wire.planes(grey)) == bytes([200, 6, 3, 1, 2, 6]) + bytes(6)
    colour = np.array([[[10, 20, 30], [11, 19, 30]]], np.uint8)
    assert bytes(wire.planes(colour)) == bytes([10, 20, 30, 1, 255, 0])


def test_a_body_of_another_length_is_an_error() -> None:
    body = wire.planes(np.zeros((4, 6), "<u2"))
    for wrong in (bytes(body[:-1]), bytes(body[:-2]), bytes(body) + b"\0\0"):
        with pytest.raises(ValueError, match="reshape"):
            wire.unplanes(wrong, (4, 6), "<u2")


def test_what_browsers_have_no_type_for_is_not_filtered() -> None:
    assert all(wire.can_be_filtered(np.zeros((1, 1), dtype)) for dtype in DTYPES)
    assert not wire.can_be_filtered(np.zeros((1, 1), np.float64))


@pytest.mark.parametrize("coding", UNDO)
@pytest.mark.parametrize("filtered", [False, True])
def test_a_coded_body_and_a_coded_stream_hold_what_was_put_in(coding: wire.Coding, filtered: bool) -> None:
    pixels = pydicom.dcmread(sample("CT_small.dcm")).pixel_array
    plain = bytes(wire.planes(pixels)) if filtered else pixels.tobytes()
    body = wire.compress(plain, coding, filtered=filtered)
    assert UNDO[coding](body) == plain
    assert len(body) < len(plain)
    stream = wire.Stream(coding, filtered=filtered)
    parts = [stream.part(b"head", memoryview(plain)), stream.part(b"more"), stream.end()]
    assert UNDO[coding](b"".join(parts)) == b"head" + plain + b"more"


@pytest.mark.parametrize("coding", UNDO)
def test_each_part_of_a_stream_is_there_before_the_next_is_made(coding: wire.Coding) -> None:
    undo = zstandard.ZstdDecompressor().decompressobj() if coding == "zstd" else zlib.decompressobj(31)
    stream = wire.Stream(coding, filtered=True)
    for part in (b"one" * 1000, b"two", bytes(100_000)):
        assert undo.decompress(stream.part(part)) == part


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (3000, 3000)])
def test_zstd_bodies_hold_their_checksum_and_a_window_that_browsers_take(rows: int, columns: int) -> None:
    """RFC 9659: more than 8 MB need not be taken."""
    body = wire.compress(wire.planes(np.zeros((rows, columns), "<u2")), "zstd", filtered=True)
    frame = zstandard.get_frame_parameters(body)
    assert frame.has_checksum
    assert frame.window_size <= 8_000_000
    broken = bytearray(wire.compress(bytes(range(256)) * 40, "zstd", filtered=False))
    broken[-1] ^= 1
    with pytest.raises(zstandard.ZstdError, match="checksum"):
        undo_zstd(bytes(broken))


def test_a_slice_gets_smaller_with_the_filter_than_without() -> None:
    pixels = pydicom.dcmread(sample("CT_small.dcm")).pixel_array
    with_filter = wire.compress(wire.planes(pixels), "zstd", filtered=True)
    without = wire.compress(pixels.tobytes(), "zstd", filtered=False)
    assert len(with_filter) < 0.8 * len(without) < 0.8 * pixels.nbytes


def test_the_recipe_in_the_documentation_undoes_the_filter() -> None:
    """docs/api.md."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    recipe = re.search(r"```python\n(def unplanes\(.*?)```", text, re.DOTALL)
    assert recipe is not None
    found: dict[str, Any] = {"numpy": np}
    exec(recipe[1], found)
    for dtype in DTYPES:
        pixels = (np.arange(5 * 7 * 3) * 40503).astype(np.uint32).view("u1")[: 105 * np.dtype(dtype).itemsize]
        for shape in ((15, 7), (5, 7, 3)):
            array = pixels.view(dtype).reshape(shape)
            assert found["unplanes"](bytes(wire.planes(array)), shape, dtype).tobytes() == array.tobytes()
