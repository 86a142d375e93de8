"""Whole pictures over HTTP from files with known pixels, against the standard's formulas written out per pixel."""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan
from tests.data import DEFLATED, EXPLICIT_BE, IMPLICIT_LE, Raw, image, write, write_image

Array = npt.NDArray[Any]
STUDY, SERIES = "1.2.4.1", "1.2.4.1.1"


def ramp(rows: int, columns: int, dtype: str, step: int = 1, start: int = 0) -> Array:
    return (start + step * np.arange(rows * columns)).astype(dtype).reshape(rows, columns)


def linear(values: Array, center: float, width: float) -> Array:
    """PS3.3 C.11.2.1.2.1 with y from 0 to 255, value by value."""

    def one(x: float) -> int:
        if x <= center - 0.5 - (width - 1) / 2:
            return 0
        if x > center - 0.5 + (width - 1) / 2:
            return 255
        return math.floor(((x - (center - 0.5)) / (width - 1) + 0.5) * 255 + 0.5)

    greys: Array = np.vectorize(one)(values).astype(np.uint8)
    return greys


def lut_item(first: int, entries: list[int], bits: int) -> dict[str, Any]:
    descriptor = struct.pack("<HhH" if first < 0 else "<HHH", len(entries), first, bits)
    return {"LUTDescriptor": Raw("SS", descriptor), "LUTData": Raw("OW", struct.pack(f"<{len(entries)}H", *entries))}


class Case:
    """A file, and what each stage of its frames must be."""

    def __init__(self, write_to: Callable[[Path, str], Path], **stages: Array) -> None:
        self.write_to = write_to
        self.stages = stages


def grey(
    samples: Array, display: Array, modality: Array | None = None, stored: Array | None = None, **tags: Any
) -> Case:
    stored = samples if stored is None else stored
    stages = {"stored": stored, "modality": stored if modality is None else modality, "display": display}
    return Case(lambda path, uid: write_image(path, samples, SOPInstanceUID=uid, **tags), **stages)


def cases() -> dict[str, Case]:
    wide = ramp(8, 16, "u2", 31)
    twelve = (ramp(16, 16, "u2", 16) & 0x0FFF) | 0xA000  # set bits above High Bit, as overlays leave them
    signed12 = np.where(twelve & 0x0800, (twelve & 0x0FFF).astype("i4") - 4096, twelve & 0x0FFF).astype("i2")
    hu: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"}
    shown: dict[str, Any] = {"WindowCenter": "1000", "WindowWidth": "2001"}
    at = linear(wide, 1000, 2001)
    big = ramp(4, 8, "i4", 100_000_007, -1_600_000_000)
    return {
        "plain window": grey(wide, at, **shown),
        "rescale to HU": grey(wide, linear(wide - 1024.0, 40, 400), wide - 1024.0, **hu),
        "12 in 16 unsigned": grey(
            twelve,
            linear(twelve & 0x0FFF, 1000, 2001),
            stored=twelve & 0x0FFF,
            BitsStored=12,
            HighBit=11,
            **shown,
        ),
        "12 in 16 signed": grey(
            twelve,
            linear(signed12, 0, 3000),
            stored=signed12,
            BitsStored=12,
            HighBit=11,
            PixelRepresentation=1,
            WindowCenter="0",
            WindowWidth="3000",
        ),
        "high bit above": grey(
            (wide << 4).astype("u2"),
            linear(wide & 0x0FFF, 1000, 2001),
            stored=wide & 0x0FFF,
            BitsStored=12,
            HighBit=15,
            **shown,
        ),
        "MONOCHROME1 with INVERSE": grey(
            wide, 255 - at, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **shown
        ),
        "negative slope": grey(
            wide,
            linear(3000 - wide.astype(float), 1000, 2001),
            3000 - wide.astype(float),
            RescaleSlope="-1",
            RescaleIntercept="3000",
            **shown,
        ),
        "padding stays black when inverted": grey(
            wide,
            np.where((wide >= 31) & (wide <= 93), 0, 255 - at),
            PhotometricInterpretation="MONOCHROME1",
            PixelPaddingValue=31,
            PixelPaddingRangeLimit=93,
            **shown,
        ),
        "an impossible window is passed over": grey(
            wide, linear(wide, 1500, 900), WindowCenter="7\\1500", WindowWidth="0\\900"
        ),
        "VOI LUT before the window": grey(
            wide,
            np.array([0, 64, 128, 255])[np.clip(wide.astype(int) - 1024 + 100, 0, 3)],
            wide - 1024.0,
            VOILUTSequence=[lut_item(-100, [0, 0x4040, 0x8080, 0xFFFF], 16)],
            **hu,
        ),
        "range of the frame": grey(wide, np.floor(wide / wide.max() * 255 + 0.5).astype(np.uint8)),
        "32 bit signed, exact": grey(
            big,
            np.floor((big.astype("f8") - big.min()) * 255 / (float(big.max()) - float(big.min())) + 0.5),
            big.astype("f4"),
        ),
        "signed 8 bit": grey(
            ramp(16, 16, "i1", 1, -128), ramp(16, 16, "u1"), WindowCenter="0", WindowWidth="256", Modality="OT"
        ),
        **other_forms(),
    }


def other_forms() -> dict[str, Case]:
    """Files that are not plain little-endian 16-bit grey."""
    wide = ramp(5, 7, "u2", 997)
    window: dict[str, Any] = {"WindowCenter": "16000", "WindowWidth": "30001"}
    stages = {"stored": wide, "modality": wide, "display": linear(wide, 16000, 30001)}
    bits = (np.arange(3 * 5 * 7) % 3 == 0).astype(np.uint8).reshape(3, 5, 7)
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    floats = np.array([[0.25, -1e30, 2.5, np.nan, np.inf, 1.75]], "f4")
    grid = np.array([[0, 1, 127, 128, 254, 255]], "u1")
    rgb = np.stack([grid, grid[:, ::-1], 255 - grid], axis=-1)
    deep = (rgb.astype("u2") << 4) | 0x9  # 12 of 16 bits
    one_bit = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "Modality": "SEG"}

    def native(attributes: dict[str, Any], pixels: bytes, syntax: str = "1.2.840.10008.1.2.1", **options: Any) -> Any:
        return lambda path, uid: write(path, {**attributes, "SOPInstanceUID": uid}, pixels, syntax, **options)

    colour = {"SamplesPerPixel": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0}
    return {
        "big endian": Case(native(image(5, 7, **window), wide.astype(">u2").tobytes(), EXPLICIT_BE), **stages),
        "implicit": Case(native(image(5, 7, **window), wide.tobytes(), IMPLICIT_LE), **stages),
        "deflated": Case(native(image(5, 7, **window), wide.tobytes(), DEFLATED), **stages),
        "no preamble": Case(native(image(5, 7, **window), wide.tobytes(), preamble=False), **stages),
        "1 bit, frames inside bytes": Case(
            native(image(5, 7, **one_bit), packed, vr="OB"), stored=bits[0], display=bits[0] * 255
        ),
        "float with NaN and infinity": Case(
            native(
                image(
                    1,
                    6,
                    BitsAllocated=32,
                    BitsStored=...,
                    HighBit=...,
                    PixelRepresentation=...,
                    WindowCenter="1",
                    WindowWidth="4",
                ),
                floats.tobytes(),
                keyword="FloatPixelData",
                vr="OF",
            ),
            stored=floats,
            modality=floats,
            display=np.array([[106, 0, 255, 0, 255, 234]]),
        ),
        "planes": Case(
            native(
                image(1, 6, PhotometricInterpretation="RGB", **{**colour, "PlanarConfiguration": 1}),
                np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes(),
            ),
            stored=rgb,
            display=rgb,
        ),
        "12 bit colour": Case(
            native(
                image(
                    1,
                    6,
                    PhotometricInterpretation="RGB",
                    **{**colour, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11},
                ),
                deep.tobytes(),
            ),
            stored=deep,
            display=np.floor(deep.astype(float) * 255 / 4095 + 0.5),
        ),
        "YBR_FULL": Case(
            native(image(1, 6, PhotometricInterpretation="YBR_FULL", **colour), rgb.tobytes()),
            stored=rgb,
            display=from_ybr(rgb),
        ),
        "YBR_FULL_422": Case(
            native(image(1, 2, PhotometricInterpretation="YBR_FULL_422", **colour), bytes([90, 150, 60, 200])),
            stored=np.array([[[90, 60, 200], [150, 60, 200]]]),
            display=from_ybr(np.array([[[90, 60, 200], [150, 60, 200]]])),
        ),
    }


def from_ybr(ybr: Array) -> Array:
    """PS3.3 C.7.6.3.1.2, solved for RGB."""
    y, cb, cr = (ybr[..., n].astype(float) - (128 if n else 0) for n in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    clipped: Array = np.clip(np.floor(rgb + 0.5), 0, 255)
    return clipped


CASES = cases()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("pictures")
    for number, case in enumerate(CASES.values(), 1):
        case.write_to(root / f"{number:02}.dcm", f"1.2.5.{number}")
    with TestClient(create_app(Settings(roots=(root,), backend="cpu", workers=1)), "http://127.0.0.1") as client:
        state = wait_for_scan(client)
        assert state["unreadable"] == []
        assert state["instances"] == len(CASES)
        yield client


@pytest.mark.parametrize("name", CASES)
def test_every_stage_is_what_the_standard_says(name: str, service: TestClient) -> None:
    number = list(CASES).index(name) + 1
    for stage, want in CASES[name].stages.items():
        response = service.get(
            f"/api/studies/{STUDY}/series/{SERIES}/instances/1.2.5.{number}/frames/1", params={"stage": stage}
        )
        assert response.status_code == 200, response.text
        shape = tuple(map(int, response.headers["x-array-shape"].split(",")))
        got = np.frombuffer(response.content, response.headers["x-array-dtype"]).reshape(shape)
        np.testing.assert_array_equal(got.astype("f8"), want.astype("f8"), err_msg=stage)


def test_frames_of_one_bit_that_begin_inside_a_byte(service: TestClient) -> None:
    number = list(CASES).index("1 bit, frames inside bytes") + 1
    bits = (np.arange(3 * 5 * 7) % 3 == 0).astype(np.uint8).reshape(3, 35)
    for frame in (1, 2, 3):
        url = f"/api/studies/{STUDY}/series/{SERIES}/instances/1.2.5.{number}/frames/{frame}"
        assert service.get(url, params={"stage": "stored"}).content == bits[frame - 1].tobytes()
