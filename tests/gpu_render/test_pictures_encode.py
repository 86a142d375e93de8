"""JPEG, PNG and GIF, read back by another library."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gpu_render.errors import NotRenderable
from gpu_render.pictures.encode import GIF, JPEG, LONGEST_SIDE, PNG, check_size, encode
from gpu_render.pictures.gif import animation, encode_frame
from gpu_render.pictures.profiles import ADOBE_RGB, SRGB, grey_profile, profile_of

RNG = np.random.default_rng(20260101)
GREY = RNG.integers(0, 256, (37, 53), np.uint8)
COLOUR = RNG.integers(0, 256, (37, 53, 3), np.uint8)
SMOOTH = np.add.outer(np.arange(200), np.arange(300)).astype(np.uint8)
FEW_COLOURS = np.array([(255, 0, 0), (0, 128, 0), (1, 2, 255)], np.uint8)[RNG.integers(0, 3, (20, 30))]


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize(
    "pixels", [GREY, COLOUR, GREY[:1, :1], COLOUR[:1], GREY[::-1, ::-2]], ids=lambda p: str(p.shape)
)
def test_png_is_exact(pixels: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(np.asarray(opened(encode(pixels, PNG))), pixels)


@pytest.mark.parametrize(
    "pixels", [GREY, GREY[:1, :1], SMOOTH, np.zeros((300, 2), np.uint8)], ids=lambda p: str(p.shape)
)
def test_gif_of_grey_is_exact(pixels: npt.NDArray[np.uint8]) -> None:
    picture = opened(encode(pixels, GIF))
    assert picture.info["version"] == b"GIF89a"
    assert np.array_equal(np.asarray(picture.convert("L")), pixels)


def test_gif_of_few_colours_is_exact() -> None:
    assert np.array_equal(np.asarray(opened(encode(FEW_COLOURS, GIF)).convert("RGB")), FEW_COLOURS)


def test_an_animation_keeps_every_frame_and_its_delay() -> None:
    """Equal frames, frames of one value, and frames that differ in one pixel: Pillow's own writer would merge some."""
    frames = [GREY, GREY, np.full_like(GREY, 7), np.full_like(GREY, 7), GREY.copy()]
    frames[3][5, 5] = 8
    delays = [7, 2, 500, 10, 65535]
    picture = opened(animation([encode_frame(frame) for frame in frames], delays))
    assert (picture.n_frames, picture.info["loop"]) == (5, 0)  # type: ignore[attr-defined]
    for number, (frame, delay) in enumerate(zip(frames, delays, strict=True)):
        picture.seek(number)
        assert picture.info["duration"] == delay * 10
        assert np.array_equal(np.asarray(picture.convert("L")), frame)


def test_jpeg_is_baseline_grey_or_colour_and_near() -> None:
    for pixels, components in ((SMOOTH, 1), (np.repeat(SMOOTH[:, :, None], 3, 2), 3)):
        data = encode(pixels, JPEG, 95)
        assert b"\xff\xc0" in data
        assert b"\xff\xc2" not in data  # no progressive scans
        picture = opened(data)
        assert len(picture.getbands()) == components
        assert np.abs(np.asarray(picture).astype(int) - pixels).mean() < 2


def test_quality_decides_size_and_error() -> None:
    sizes, errors = [], []
    for quality in (1, 10, 50, 75, 90, 95, 100):
        data = encode(GREY, JPEG, quality)
        sizes.append(len(data))
        errors.append(float(np.abs(np.asarray(opened(data)).astype(int) - GREY).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1


@pytest.mark.parametrize(("quality", "sampling"), [(90, (1, 1)), (89, (2, 2))])
def test_colours_have_full_resolution_at_high_quality(quality: int, sampling: tuple[int, int]) -> None:
    picture = opened(encode(COLOUR, JPEG, quality))
    assert picture.layer[0][1:3] == sampling  # type: ignore[attr-defined]


@pytest.mark.parametrize("media_type", [JPEG, PNG])
@pytest.mark.parametrize(
    "profile",
    [profile_of(SRGB), profile_of(ADOBE_RGB), profile_of(SRGB) + bytes(200_000)],
    ids=["srgb", "adobe", "three segments"],
)
def test_a_profile_is_embedded_byte_for_byte(media_type: str, profile: bytes) -> None:
    with_profile, without = opened(encode(COLOUR, media_type, 90, profile)), opened(encode(COLOUR, media_type, 90))
    assert with_profile.info["icc_profile"] == profile
    assert "icc_profile" not in without.info
    assert np.array_equal(np.asarray(with_profile), np.asarray(without))


def test_grey_takes_a_profile_of_grey() -> None:
    for media_type in (JPEG, PNG):
        picture = opened(encode(GREY, media_type, 100, grey_profile()))
        assert (picture.mode, picture.info["icc_profile"]) == ("L", grey_profile())


@pytest.mark.parametrize("media_type", [JPEG, GIF])
def test_what_a_type_cannot_hold_is_refused(media_type: str) -> None:
    check_size(LONGEST_SIDE[media_type], 1, media_type)
    with pytest.raises(NotRenderable, match="viewport"):
        encode(np.zeros((1, LONGEST_SIDE[media_type] + 1), np.uint8), media_type)
    assert (
        opened(encode(np.zeros((1, LONGEST_SIDE[media_type]), np.uint8), media_type)).width == LONGEST_SIDE[media_type]
    )
