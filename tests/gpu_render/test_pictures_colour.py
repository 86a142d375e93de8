"""ICC profiles against the formulas of the standards that publish the color spaces, and against Little CMS's own."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from gpu_render.errors import CorruptPixelData, NotRenderable, TooLarge
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation
from gpu_render.pictures.colour import MAX_PROFILE_BYTES, Profile, Source, jpeg_profile, manage, source_of
from gpu_render.pictures.encode import JPEG, encode
from gpu_render.pictures.profiles import ADOBE_RGB, ROMM_RGB, SRGB, ColorSpace, grey_profile, profile_of
from gpu_render.workers import WorkerPool
from tests.encoded import REF

COLOURS = np.array(
    [
        [(0, 0, 0), (255, 255, 255), (128, 128, 128), (10, 10, 10)],
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)],
        [(200, 100, 50), (50, 100, 200), (30, 180, 90), (1, 2, 3)],
    ],
    np.uint8,
)

# Linear light to XYZ as published: exact fractions from the primaries (CSS Color 4, section 18), and Bradford's matrix.
SRGB_TO_XYZ_D65 = np.array(
    [[506752 / 1228815, 87881 / 245763, 12673 / 70218], [87098 / 409605, 175762 / 245763, 12673 / 175545],
     [7918 / 409605, 87881 / 737289, 1001167 / 1053270]]
)  # fmt: skip
ADOBE_TO_XYZ_D65 = np.array(
    [[573536 / 994567, 263643 / 1420810, 187206 / 994567], [591459 / 1989134, 6239551 / 9945670, 374412 / 4972835],
     [53769 / 1989134, 351524 / 4972835, 4929758 / 4972835]]
)  # fmt: skip
ROMM_TO_XYZ_D50 = np.array(
    [[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]]
)  # ISO 22028-2, as published: four digits
D65_TO_D50 = np.array(
    [[1.0479297, 0.0229468, -0.0501923], [0.0296278, 0.9904344, -0.0170738], [-0.0092430, 0.0150552, 0.7518743]]
)


def srgb_light(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    v = values / 255
    light: npt.NDArray[np.float64] = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return light


def adobe(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """sRGB to Adobe RGB (1998), as the two are published."""
    light = srgb_light(values) @ (np.linalg.inv(ADOBE_TO_XYZ_D65) @ SRGB_TO_XYZ_D65).T
    values_of: npt.NDArray[np.float64] = np.clip(light, 0, 1) ** (256 / 563) * 255
    return values_of


def romm(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    light = np.clip(srgb_light(values) @ (np.linalg.inv(ROMM_TO_XYZ_D50) @ D65_TO_D50 @ SRGB_TO_XYZ_D65).T, 0, 1)
    values_of: npt.NDArray[np.float64] = np.where(light < 1 / 512, light * 16, light ** (1 / 1.8)) * 255
    return values_of


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("wanted", "want"), [(Profile.ADOBE_RGB, adobe), (Profile.ROMM_RGB, romm), (Profile.SRGB, lambda v: v)]
)
def test_srgb_becomes_what_the_formulas_say(wanted: Profile, want: Any, pool: WorkerPool) -> None:
    got, profile = manage(COLOURS, wanted, Source(None), pool)
    assert np.abs(got.astype(float) - want(COLOURS)).max() <= 1.01
    assert profile is not None
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    assert {"srgb": "sRGB", "adobergb": "Adobe", "rommrgb": "ROMM"}[wanted] in name


@pytest.mark.parametrize("space", [SRGB, ADOBE_RGB, ROMM_RGB], ids=lambda space: space.name)
def test_profiles_are_read_as_what_they_are(space: ColorSpace) -> None:
    """Primaries, white and version as Little CMS reads them; chromaticities adapted back to the space's own white."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(space))).profile
    assert (profile.xcolor_space, profile.connection_space, profile.version) == ("RGB ", "XYZ ", 4.3)
    assert profile.media_white_point is not None
    assert np.allclose(profile.media_white_point[0], (0.9642, 1, 0.8249), atol=1e-4)
    if space is not ROMM_RGB:
        to_own_white = np.linalg.inv(D65_TO_D50)
        for primary, want in (("red", space.red), ("green", space.green), ("blue", space.blue)):
            x, y, z = to_own_white @ np.array(getattr(profile, f"{primary}_primary")[0])
            assert (x / (x + y + z), y / (x + y + z)) == pytest.approx(want, abs=2e-4)


def test_our_srgb_is_little_cms_srgb() -> None:
    theirs = ImageCms.createProfile("sRGB")
    ours = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(SRGB)))
    all_colours = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).reshape(52, -1, 3).astype(np.uint8)
    for intent in (ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Intent.PERCEPTUAL):
        transform = ImageCms.buildTransform(ours, theirs, "RGB", "RGB", intent)
        got = np.asarray(ImageCms.applyTransform(Image.fromarray(all_colours), transform))
        assert np.abs(got.astype(int) - all_colours).max() <= 1


def test_the_profile_of_grey_shows_greys_as_srgb_does() -> None:
    ours, theirs = ImageCms.ImageCmsProfile(io.BytesIO(grey_profile())), ImageCms.createProfile("sRGB")
    ramp = np.arange(256, dtype=np.uint8)[None]
    got = np.asarray(ImageCms.applyTransform(Image.fromarray(ramp), ImageCms.buildTransform(ours, theirs, "L", "RGB")))
    assert np.abs(got.astype(int) - ramp[:, :, None]).max() <= 1


def test_grey_becomes_three_channels_of_the_space_that_is_named(pool: WorkerPool) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    got, profile = manage(ramp, Profile.SRGB, Source(None), pool)
    assert np.array_equal(got, np.repeat(ramp[:, :, None], 3, 2))
    assert profile == profile_of(SRGB)
    got, _ = manage(ramp, Profile.ADOBE_RGB, Source(b"not used for grey"), pool)
    assert np.abs(got.astype(float) - adobe(np.repeat(ramp[:, :, None], 3, 2))).max() <= 1.01


def test_yes_changes_no_pixel_and_says_what_they_are(pool: WorkerPool) -> None:
    own = profile_of(ROMM_RGB)
    for source, want in (
        (Source(own), own),
        (Source(None), profile_of(SRGB)),
        (Source(None, ADOBE_RGB), profile_of(ADOBE_RGB)),
    ):
        pixels, profile = manage(COLOURS, Profile.YES, source, pool)
        assert pixels is COLOURS
        assert profile == want
    assert manage(COLOURS[:, :, 0], Profile.YES, Source(own), pool)[1] == grey_profile()
    assert manage(COLOURS, Profile.NO, Source(own), pool)[1] is None


def test_the_objects_own_profile_is_applied_in_a_worker(pool: WorkerPool) -> None:
    """From Adobe RGB as the object's profile to sRGB, and back: the two worlds meet."""
    there, _ = manage(COLOURS, Profile.ADOBE_RGB, Source(None), pool)
    back, profile = manage(there, Profile.SRGB, Source(profile_of(ADOBE_RGB)), pool)
    assert np.abs(back.astype(int) - COLOURS).max() <= 2
    assert profile == profile_of(SRGB)
    assert np.array_equal(manage(there, Profile.SRGB, Source(None, ADOBE_RGB), pool)[0], back)


def test_a_profile_that_cannot_be_used_is_a_typed_error(pool: WorkerPool) -> None:
    good = profile_of(ADOBE_RGB)
    broken = good[:128] + bytes(len(good) - 128)
    with pytest.raises(CorruptPixelData, match="ICC Profile"):
        manage(COLOURS, Profile.SRGB, Source(broken), pool)


# -- where a profile stands ---------------------------------------------------------------------------------------


def frame(data: bytes = b"", syntax: str = "1.2.840.10008.1.2.1") -> EncodedFrame:
    layout = PixelLayout(1, 1, 3, 8, 8, 7, 0, "RGB")
    return EncodedFrame(REF, syntax, layout, Presentation(), data)


def inline(profile: bytes) -> dict[str, Any]:
    return {"vr": "OB", "InlineBinary": base64.b64encode(profile).decode()}


def no_bulk(path: str) -> bytes:
    raise AssertionError(path)


OWN, OTHER = profile_of(ROMM_RGB), profile_of(ADOBE_RGB)


def test_the_datasets_profile_comes_first_then_the_streams_then_the_color_space() -> None:
    stream = encode(COLOURS, JPEG, 90, OTHER)
    jpeg = frame(stream, "1.2.840.10008.1.2.4.50")
    assert source_of({"00282000": inline(OWN)}, 1, no_bulk, lambda: jpeg).profile == OWN
    assert source_of({}, 1, no_bulk, lambda: jpeg).profile == OTHER
    assert source_of({}, 1, no_bulk, lambda: frame(stream)).profile is None  # these bytes are no JPEG stream
    space = {"00282002": {"vr": "CS", "Value": ["ADOBERGB"]}}
    assert source_of(space, 1, no_bulk, frame) == Source(None, ADOBE_RGB)
    assert source_of({}, 1, no_bulk, frame) == Source(None, SRGB)
    assert source_of({"00282000": {"vr": "OB"}}, 1, no_bulk, frame) == Source(None, SRGB)  # empty


def test_bulk_data_is_read_by_its_path() -> None:
    asked: list[str] = []

    def read(path: str) -> bytes:
        asked.append(path)
        return OWN + b"\0"  # padded to an even length

    bulk = {"vr": "OB", "BulkDataURI": "bulkdata/00282000"}
    assert source_of({"00282000": bulk}, 1, read, frame).profile == OWN
    optical = {"00480105": {"vr": "SQ", "Value": [{"00282000": bulk}]}}
    assert source_of(optical, 1, read, frame).profile == OWN
    assert asked == ["00282000", "00480105/1/00282000"]


def optical_paths(*frames: str, shared: str | None = None) -> dict[str, Any]:
    def group(identifier: str) -> dict[str, Any]:
        reference = {"00480106": {"vr": "SH", "Value": [identifier]}}
        return {"00480207": {"vr": "SQ", "Value": [reference]}}

    paths = [
        {"00480106": {"vr": "SH", "Value": ["A"]}, "00282000": inline(OWN)},
        {"00480106": {"vr": "SH", "Value": ["B"]}, "00282000": inline(OTHER)},
    ]
    dataset: dict[str, Any] = {"00480105": {"vr": "SQ", "Value": paths}}
    if frames:
        dataset["52009230"] = {"vr": "SQ", "Value": [group(name) for name in frames]}
    if shared:
        dataset["52009229"] = {"vr": "SQ", "Value": [group(shared)]}
    return dataset


def test_a_frame_has_the_profile_of_its_optical_path() -> None:
    dataset = optical_paths("B", "A")
    assert [source_of(dataset, number, no_bulk, frame).profile for number in (1, 2)] == [OTHER, OWN]
    assert source_of(optical_paths(shared="B"), 7, no_bulk, frame).profile == OTHER
    for unknown in (optical_paths(), optical_paths("C")):
        with pytest.raises(NotRenderable, match="optical path"):
            source_of(unknown, 1, no_bulk, frame)


@pytest.mark.parametrize(
    "profile",
    [b"x" * 200, OWN[:100], grey_profile(), b"\xff\xff\xff\xff" + OWN[4:], OWN[:36] + b"nope" + OWN[40:]],
    ids=["no profile", "cut off", "of grey", "longer than it is", "no signature"],
)
def test_what_is_no_profile_of_colours_is_refused(profile: bytes) -> None:
    with pytest.raises(CorruptPixelData, match="ICC Profile"):
        source_of({"00282000": inline(profile)}, 1, no_bulk, frame)


def test_malformed_and_huge_profiles_are_typed_errors() -> None:
    with pytest.raises(CorruptPixelData):
        source_of({"00282000": {"vr": "OB", "InlineBinary": "!"}}, 1, no_bulk, frame)
    with pytest.raises(TooLarge):
        source_of({"00282000": inline(OWN + bytes(MAX_PROFILE_BYTES))}, 1, no_bulk, frame)


def test_a_profile_in_several_segments_is_put_together_or_not_at_all() -> None:
    large = OWN + bytes(150_000)
    stream = encode(COLOURS, JPEG, 90, large)
    assert jpeg_profile(stream) == large
    assert jpeg_profile(memoryview(stream)) == large
    start = stream.index(b"ICC_PROFILE\0\x02") - 4
    assert jpeg_profile(stream[:start] + stream[start + 2 + 65535 :]) is None
    for cut in (0, 1, 3, 5, 20, 21, 22, 30, 1000):
        assert jpeg_profile(stream[:cut]) is None
