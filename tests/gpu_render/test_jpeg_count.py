"""``takes_all``: true of whole pictures, and never of what decoding once more would find damaged."""

import random
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from gpu_render.decode import codecs
from gpu_render.decode.codecs import Job, run_codec
from gpu_render.decode.codestream import parse_jpeg
from gpu_render.decode.jpeg_count import takes_all
from gpu_render.decode.jpeg_probes import Probes
from gpu_render.errors import CorruptPixelData
from gpu_render.frame import PixelLayout

Array = npt.NDArray[Any]

decode = partial(imagecodecs.jpeg8_decode, colorspace="GRAYSCALE", outcolorspace="GRAYSCALE")


def picture(rows: int, columns: int, bits: int, seed: int = 0) -> Array:
    """Soft tissue with noise, an edge, and background of one value, in which damage is hardest to see."""
    rng = np.random.default_rng(seed)
    top = (1 << bits) - 1
    values = rng.normal(top / 3, max(1, top / 500), (rows, columns)).clip(0, top)
    values[rows // 2 :, columns // 2 :] = top
    values[2 * rows // 3 :] = 0
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def encode(values: Array, bits: int, predictor: int = 1) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=bits))


def is_whole(data: bytes, values: Array) -> bool:
    return takes_all(data, parse_jpeg(data), values)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("shape", [(64, 50), (1, 1), (1, 40), (40, 1), (300, 512)])
def test_whole_pictures_are_known_without_decoding_again(bits: int, shape: tuple[int, int]) -> None:
    values = picture(*shape, bits)
    data = encode(values, bits)
    np.testing.assert_array_equal(decode(data), values)
    assert is_whole(data, values)


@pytest.mark.parametrize("bits", [8, 16])
def test_differences_of_every_size(bits: int) -> None:
    values = np.random.default_rng(1).integers(0, 1 << bits, (90, 100)).astype(np.uint8 if bits == 8 else np.uint16)
    values[::7, ::3], values[1::7, ::3] = 0, (1 << bits) - 1
    values[3, :2] = 0, 1 << (bits - 1)
    assert is_whole(encode(values, bits), values)


def test_colour() -> None:
    values = np.random.default_rng(2).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    data = bytes(imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB"))
    assert is_whole(data, imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="YCBCR"))


def test_other_predictors_are_left_to_the_probes() -> None:
    values = picture(40, 50, 12)
    for predictor in range(2, 8):
        assert not is_whole(encode(values, 12, predictor), values)


def test_a_picture_that_is_not_the_datas_is_not_whole() -> None:
    values = picture(40, 50, 12)
    data = encode(values, 12)
    for y, x in ((0, 0), (0, 7), (20, 0), (39, 49)):
        other = values.copy()
        other[y, x] ^= 0x40
        assert not is_whole(data, other)
    assert not is_whole(data, np.roll(values, 1, axis=0))


def damaged(data: bytes, order: random.Random) -> bytes:
    """Bytes overwritten, left out or put in, somewhere in the entropy-coded data."""
    header = parse_jpeg(data)
    start = order.randrange(header.data_start, header.data_ends[0] - 1)
    length = order.choice((1, 2, 3, 8, 64))
    what = order.randrange(4)
    if what == 0:
        return data[:start] + order.randbytes(length).replace(b"\xff", b"\xfe") + data[start + length :]
    if what == 1:
        return data[:start] + data[min(start + length, header.data_ends[0]) :]
    if what == 2:
        return data[:start] + bytes(length) + data[start:]
    return data[:start] + bytes([data[start] ^ 1 << order.randrange(8)]) + data[start + 1 :]


def finds_damage(data: bytes, values: Array) -> bool:
    try:
        Probes(data, parse_jpeg(data)).check(values, decode)
    except CorruptPixelData:
        return True
    return False


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_what_the_probes_refuse_is_not_whole(bits: int) -> None:
    order = random.Random(bits)
    originals = [encode(picture(20, 50, bits, seed), bits) for seed in range(4)]
    both = found = 0
    for _ in range(400):
        data = damaged(order.choice(originals), order)
        try:
            values = decode(data)
            whole = is_whole(data, values)
        except (CorruptPixelData, imagecodecs.Jpeg8Error):
            continue
        refused = finds_damage(data, values)
        assert not (whole and refused)
        both += whole
        found += refused
    assert found > 50
    assert both > 0  # a flipped bit that leaves every length alone


def test_an_ordinary_frame_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, calls = picture(64, 64, 16), list[int]()

    def counted(data: bytes, **options: Any) -> Array:
        calls.append(len(data))
        decoded: Array = imagecodecs.jpeg8_decode(data, **options)
        return decoded

    monkeypatch.setattr(codecs, "imagecodecs", type("Counted", (), {"jpeg8_decode": staticmethod(counted)}))
    layout = PixelLayout(64, 64, 1, 16, 16, 15, 0, "MONOCHROME2")
    for predictor, times in ((1, 1), (4, 2)):
        calls.clear()
        samples, _ = run_codec("jpeg-lossless", Job(encode(values, 16, predictor), layout, 2, False))
        np.testing.assert_array_equal(samples, values)
        assert len(calls) == times
