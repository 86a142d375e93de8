"""HTJ2K RPCL: what PS3.5 10.18 demands, and every sample as it was, for two decoders that share no code."""

import imagecodecs
import numpy as np
import pytest

from gpu_render.decode.codestream import parse_jpeg2000, parse_progression
from gpu_render.encode import decompositions, encode_htj2k, encode_payload
from gpu_render.errors import CorruptPixelData, NotRenderable
from gpu_render.frame import PixelLayout, Samples

RANDOM = np.random.default_rng(7)


def layout_of(rows: int, columns: int, allocated: int, stored: int, signed: int, photometric: str) -> PixelLayout:
    samples = 3 if photometric in ("RGB", "YBR_RCT", "YBR_FULL") else 1
    return PixelLayout(rows, columns, samples, allocated, stored, stored - 1, signed, photometric)


def noise(layout: PixelLayout) -> Samples:
    """Any values that Bits Stored allows, the lowest and the highest among them."""
    low, high = layout.stored_range
    samples = RANDOM.integers(low, high + 1, layout.shape).astype(layout.dtype)
    samples.flat[0], samples.flat[-1] = low, high
    return samples


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(
    ("allocated", "stored"), [(8, 8), (8, 7), (8, 2), (16, 16), (16, 12), (16, 10), (16, 9), (16, 8), (16, 3)]
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB", "YBR_RCT", "YBR_FULL"])
def test_two_decoders_give_every_sample(photometric: str, allocated: int, stored: int, signed: int) -> None:
    layout = layout_of(70, 131, allocated, stored, signed, photometric)
    samples = noise(layout)
    codestream = encode_htj2k(samples, layout)
    header = parse_jpeg2000(codestream)
    assert (header.precision, header.signed, header.reversible) == (stored, bool(signed), True)
    assert header.multiple_component_transform == (photometric == "YBR_RCT")
    assert header.high_throughput
    for decoded in (imagecodecs.jpeg2k_decode(codestream), imagecodecs.htj2k_decode(codestream, planar=False)):
        assert np.array_equal(decoded, samples)


@pytest.mark.parametrize("signed", [0, 1])
def test_values_beyond_bits_stored_are_kept(signed: int) -> None:
    """An overlay in the upper bits, say: the samples of a frame are those of Explicit VR Little Endian."""
    layout = layout_of(20, 30, 16, 12, signed, "MONOCHROME2")
    samples = RANDOM.integers(0, 1 << 16, layout.shape).astype("<u2").view(layout.dtype)
    codestream = encode_htj2k(samples, layout)
    assert parse_jpeg2000(codestream).precision == 16
    assert np.array_equal(imagecodecs.jpeg2k_decode(codestream), samples)


@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(1, 1, 1), (1, 500, 1), (3, 5, 1), (64, 64, 5), (512, 512, 5), (2048, 4096, 5), (2049, 3000, 6), (9000, 5000, 7)],
)
def test_the_lowest_resolution_is_small(rows: int, columns: int, count: int) -> None:
    assert decompositions(rows, columns) == count
    assert -(-min(rows, columns) // 2**count) <= 64


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (64, 65), (200, 129)])
def test_resolutions_come_one_after_the_other(shape: tuple[int, int]) -> None:
    layout = layout_of(*shape, 16, 12, 0, "MONOCHROME2")
    codestream = encode_htj2k(noise(layout), layout)
    progression = parse_progression(codestream)
    assert progression.order == 2
    assert len(progression.tile_parts) == progression.decompositions + 1
    assert codestream[: -2 - sum(progression.tile_parts)].count(b"\xff\x90") == 0


def test_the_beginning_shows_the_whole_picture_small() -> None:
    layout = layout_of(256, 256, 16, 12, 0, "MONOCHROME2")
    rows, columns = np.mgrid[:256, :256]
    samples = (rows * 8 + columns * 4).astype("<u2")
    codestream = encode_htj2k(samples, layout)
    whole = imagecodecs.htj2k_decode(codestream, skipres=3)
    parts = parse_progression(codestream).tile_parts
    begin = codestream[: len(codestream) - 2 - sum(parts[3:])]
    small = imagecodecs.htj2k_decode(begin, skipres=3, resilient=True)
    assert small.shape == (32, 32)
    assert np.array_equal(small, whole)


def test_the_same_samples_give_the_same_bytes() -> None:
    layout = layout_of(50, 60, 16, 12, 0, "MONOCHROME2")
    samples = noise(layout)
    assert encode_htj2k(samples, layout) == encode_htj2k(samples.copy(), layout)


def test_what_a_faulty_encoder_makes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(50, 60, 16, 12, 0, "MONOCHROME2")
    samples = noise(layout)
    encode = imagecodecs.htj2k_encode
    monkeypatch.setattr(imagecodecs, "htj2k_encode", lambda data, **options: encode(data ^ 1, **options))
    with pytest.raises(NotRenderable, match="all samples"):
        encode_htj2k(samples, layout)
    monkeypatch.setattr(imagecodecs, "htj2k_encode", lambda data, **options: encode(data, **{**options, "tlm": False}))
    with pytest.raises(NotRenderable, match="by resolution"):
        encode_htj2k(samples, layout)


def test_the_operation_takes_flat_bytes() -> None:
    layout = layout_of(5, 6, 16, 12, 1, "MONOCHROME2")
    samples = noise(layout)
    fields = {name: getattr(layout, name) for name in PixelLayout.__dataclass_fields__}
    _, codestream = encode_payload({"layout": fields}, memoryview(samples.tobytes()))
    assert codestream == encode_htj2k(samples, layout)


def test_a_progression_of_anything_is_no_crash() -> None:
    layout = layout_of(9, 9, 8, 8, 0, "MONOCHROME2")
    codestream = encode_htj2k(noise(layout), layout)
    assert parse_progression(codestream).tile_parts
    for end in range(2, len(codestream) - 2):
        with pytest.raises(CorruptPixelData):
            parse_progression(codestream[:end])
