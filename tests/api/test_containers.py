"""Every transfer syntax and every way to cut frames into fragments, over HTTP, from files with known pixels.

An encoder makes the codestreams here, so what must come back is known before anything is decoded. Lossless: equal.
Lossy: near what was encoded, and near what GDCM decodes in a process of its own.
"""

import itertools
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt
import pytest
from openjpeg.utils import encode_array
from rle.utils import encode_pixel_data

from gpu_render.decode import DECODERS
from tests import data
from tests.api.answers import Answers, assert_problem, serve
from tests.formulas import linear

Array = npt.NDArray[Any]

STANDARD = "1.2.840.10008.1.2"
NATIVE = ("", ".1", ".1.99", ".2")
FRAMES = 3
HU: dict[str, Any] = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "WindowCenter": "300", "WindowWidth": "1500"}


@dataclass(frozen=True)
class Layout:
    """Image Pixel attributes of a test file; ``samples`` 3 is colour."""

    allocated: int
    stored: int
    signed: int = 0
    samples: int = 1
    photometric: str = ""
    planar: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<{'i' if self.signed else 'u'}{max(1, self.allocated // 8)}")

    @property
    def range(self) -> tuple[int, int]:
        return (-(1 << self.stored - 1), (1 << self.stored - 1) - 1) if self.signed else (0, (1 << self.stored) - 1)

    def tags(self) -> dict[str, Any]:
        tags = {
            "SamplesPerPixel": self.samples,
            "PhotometricInterpretation": self.photometric or ("RGB" if self.samples == 3 else "MONOCHROME2"),
            "BitsAllocated": self.allocated,
            "BitsStored": self.stored,
            "HighBit": self.stored - 1,
            "PixelRepresentation": self.signed,
        }
        return {**tags, "PlanarConfiguration": self.planar} if self.samples == 3 else {**tags, **HU}


GREYS = {
    "8": Layout(8, 8),
    "8 signed": Layout(8, 8, 1),
    "12": Layout(16, 12),
    "12 signed": Layout(16, 12, 1),
    "16": Layout(16, 16),
    "16 signed": Layout(16, 16, 1),
}
RGB8, RGB16 = Layout(8, 8, samples=3), Layout(16, 16, samples=3)
WIDE = {"32": Layout(32, 32), "32 signed": Layout(32, 32, 1)}
COLOUR = {"rgb 8": RGB8, "rgb 16": RGB16}


def noise(layout: Layout, rows: int = 33, columns: int = 35, seed: int = 1) -> Array:
    """Frames of random values that hold the lowest and the highest: (FRAMES, rows, columns[, 3])."""
    low, high = layout.range
    shape = (FRAMES, rows, columns) + ((3,) if layout.samples == 3 else ())
    values = np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(layout.dtype)
    values[:, 0, 0], values[:, -1, -1] = low, high
    return values


def smooth(layout: Layout, rows: int = 24, columns: int = 40) -> Array:
    """Frames that lossy codecs keep well: slow waves over most of the range, each frame another phase."""
    y, x = np.mgrid[:rows, :columns]
    low, high = layout.range
    waves = [
        [np.sin(x / 9 + frame + sample) * np.cos(y / 11 - sample) for sample in range(layout.samples)]
        for frame in range(FRAMES)
    ]
    values = (low + high) / 2 + 0.45 * (high - low) * np.moveaxis(np.array(waves), 1, -1)
    rounded: Array = np.floor(values if layout.samples == 3 else values[..., 0]).astype(layout.dtype)
    return rounded


def bits(values: Array, layout: Layout) -> Array:
    """The bits of Bits Stored as unsigned samples: how codecs that know no sign are given signed ones."""
    mask = (1 << layout.stored) - 1
    return (values.astype(np.int64) & mask).astype(f"<u{values.itemsize}")


# --- encoders: (frame, layout) -> codestream ------------------------------------------------------------------


def native(values: Array, layout: Layout) -> bytes:
    return (np.moveaxis(values, -1, 0) if layout.planar else values).tobytes()


def deflated(values: Array, layout: Layout) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(native(values, layout)) + packer.flush()


def rle(values: Array, layout: Layout) -> bytes:
    rows, columns = values.shape[:2]
    options: dict[str, Any] = {"samples_per_pixel": layout.samples, "bits_allocated": layout.allocated}
    return bytes(encode_pixel_data(values.tobytes(), rows=rows, columns=columns, byteorder="<", **options))


def jpeg(values: Array, layout: Layout) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, level=98, bitspersample=layout.stored))


def jpeg_lossless(predictor: int) -> Callable[[Array, Layout], bytes]:
    def encode(values: Array, layout: Layout) -> bytes:
        space = "RGB" if layout.samples == 3 else "GRAYSCALE"
        stream = imagecodecs.jpeg8_encode(
            bits(values, layout),
            lossless=True,
            predictor=predictor,
            bitspersample=layout.stored,
            colorspace=space,
            outcolorspace=space,
        )
        return bytes(stream)

    return encode


def jpeg_ls_of(near: int, interleave: int = 2) -> Callable[[Array, Layout], bytes]:
    def encode(values: Array, layout: Layout) -> bytes:
        rows, columns = values.shape[:2]
        raw = bits(np.moveaxis(values, -1, 0) if interleave == 0 else values, layout).tobytes()
        mode = {"interleave_mode": interleave} if layout.samples == 3 else {}
        stream = jpeg_ls.encode_buffer(raw, rows, columns, layout.samples, layout.stored, near, **mode)
        return bytes(stream)

    return encode


def openjpeg_of(values: Array, layout: Layout) -> bytes:
    """Lossless through pylibjpeg-openjpeg; a reversible colour transform for RGB given as YBR_RCT."""
    space = 1 if layout.samples == 3 else 2
    mct = layout.photometric == "YBR_RCT"
    return bytes(encode_array(values, bits_stored=layout.stored, photometric_interpretation=space, use_mct=mct))


def jpeg2000_lossy(values: Array, layout: Layout) -> bytes:
    mct = layout.photometric == "YBR_ICT"
    stream = imagecodecs.jpeg2k_encode(
        values, level=70, codecformat="j2k", bitspersample=layout.stored, mct=mct, reversible=False
    )
    return bytes(stream)


def htj2k(values: Array, layout: Layout) -> bytes:
    return bytes(imagecodecs.htj2k_encode(values, reversible=True))


def htj2k_lossy(values: Array, layout: Layout) -> bytes:
    return bytes(imagecodecs.htj2k_encode(values, level=0.0005, reversible=False))


def jpeg_xl(lossless: bool) -> Callable[[Array, Layout], bytes]:
    def encode(values: Array, layout: Layout) -> bytes:
        raw, distance = bits(values, layout), None if lossless else 0.1
        options = {"lossless": lossless, "distance": distance, "bitspersample": layout.stored}
        return bytes(imagecodecs.jpegxl_encode(raw, **options))  # type: ignore[arg-type]

    return encode


def jpeg_xl_of_jpeg(values: Array, layout: Layout) -> bytes:
    return bytes(imagecodecs.jpegxl_encode_jpeg(jpeg(values, layout), usecontainer=True))


# --- forms: what is in the files -----------------------------------------------------------------------------


@dataclass
class Form:
    """One transfer syntax with one pixel layout: the frames that were encoded, and their codestreams.

    ``near``: how far a lossy codec may be from ``frames``; ``photometric``: of the components as they are stored.
    """

    syntax: str
    layout: Layout
    frames: Array
    streams: list[bytes]
    near: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def tags(self, uid: str) -> dict[str, Any]:
        rows, columns = self.frames.shape[1:3]
        return data.image(
            rows, columns, **{**self.layout.tags(), **self.extra}, SOPInstanceUID=uid, NumberOfFrames=len(self.frames)
        )


def form(
    syntax: str, layout: Layout, frames: Array, encode: Callable[[Array, Layout], bytes], near: int = 0, **extra: Any
) -> Form:
    streams = [encode(np.ascontiguousarray(frame), layout) for frame in frames]
    padded = [stream + b"\0" * (len(stream) % 2) for stream in streams]
    return Form(STANDARD + syntax, layout, frames, padded, near, extra)


def lossless_forms() -> dict[str, Form]:
    planes = {"rgb 8 in planes": Layout(8, 8, samples=3, planar=1)}
    rct = {"YBR_RCT": Layout(8, 8, samples=3, photometric="YBR_RCT")}
    byte_wise = {**GREYS, **WIDE, **COLOUR, **planes}
    table: list[tuple[str, str, Callable[[Array, Layout], bytes], dict[str, Layout]]] = [
        ("encapsulated uncompressed", ".1.98", native, byte_wise),
        ("deflated frames", ".8.1", deflated, byte_wise),
        ("RLE", ".5", rle, {**GREYS, **WIDE, **COLOUR}),
        ("JPEG lossless SV1", ".4.70", jpeg_lossless(1), {**GREYS, "rgb 8": RGB8}),
        *((f"JPEG lossless {n}", ".4.57", jpeg_lossless(n), {**GREYS, "rgb 8": RGB8}) for n in (1, 4, 7)),
        ("JPEG-LS", ".4.80", jpeg_ls_of(0), {**GREYS, **COLOUR}),
        ("JPEG-LS by line", ".4.80", jpeg_ls_of(0, 1), COLOUR),
        ("JPEG-LS as near-lossless of 0", ".4.81", jpeg_ls_of(0), GREYS),
        ("JPEG 2000", ".4.90", openjpeg_of, {**GREYS, **COLOUR, **rct}),
        ("JPEG 2000 lossless as lossy", ".4.91", openjpeg_of, {**GREYS, "rgb 8": RGB8}),
        ("JPEG 2000 Part 2 without extensions", ".4.92", openjpeg_of, {"12 signed": GREYS["12 signed"], "rgb 8": RGB8}),
        ("HTJ2K", ".4.201", htj2k, {**GREYS, "rgb 8": RGB8}),
        ("HTJ2K RPCL", ".4.202", htj2k, {**GREYS, "rgb 8": RGB8}),
        ("HTJ2K lossless as lossy", ".4.203", htj2k, {**GREYS, "rgb 8": RGB8}),
        ("JPEG XL lossless", ".4.110", jpeg_xl(True), {**GREYS, **COLOUR}),
        ("JPEG XL lossless as lossy", ".4.112", jpeg_xl(True), {"8": GREYS["8"], "12": GREYS["12"], "rgb 8": RGB8}),
    ]
    planes_tag = {"PlanarConfiguration": 1}  # of no meaning to a codestream
    others = {
        "JPEG-LS by plane, rgb 8": form(".4.80", RGB8, smooth(RGB8), jpeg_ls_of(0, 0)),
        "RLE said to be in planes, rgb 8": form(".5", RGB8, noise(RGB8), rle, **planes_tag),
        "JPEG lossless said to be in planes, rgb 8": form(".4.70", RGB8, noise(RGB8), jpeg_lossless(1), **planes_tag),
        "JPEG-LS said to be in planes, rgb 8": form(".4.80", RGB8, noise(RGB8), jpeg_ls_of(0), **planes_tag),
        "JPEG 2000 said to be in planes, rgb 8": form(".4.90", RGB8, noise(RGB8), openjpeg_of, **planes_tag),
        "HTJ2K said to be in planes, rgb 8": form(".4.201", RGB8, noise(RGB8), htj2k, **planes_tag),
        "JPEG XL said to be in planes, rgb 8": form(".4.110", RGB8, noise(RGB8), jpeg_xl(True), **planes_tag),
    }
    wide = {sign: Layout(16, 8, signed) for signed, sign in enumerate(("8 in 16", "8 in 16 signed"))}
    narrow: list[tuple[str, str, Callable[[Array, Layout], bytes]]] = [
        ("RLE", ".5", rle),
        (
            "JPEG lossless SV1",
            ".4.70",
            lambda values, layout: jpeg_lossless(1)(bits(values, layout).astype("u1"), layout),
        ),
        ("JPEG-LS", ".4.80", lambda values, layout: jpeg_ls_of(0)(bits(values, layout).astype("u1"), layout)),
        ("JPEG 2000", ".4.90", openjpeg_of),
        ("JPEG XL lossless", ".4.110", lambda values, layout: jpeg_xl(True)(bits(values, layout).astype("u1"), layout)),
    ]
    return {
        **{
            f"{name}, {what}": form(syntax, layout, noise(layout), encode)
            for name, syntax, encode, layouts in table
            for what, layout in layouts.items()
        },
        **others,
        **{
            f"{name}, {what}": form(syntax, layout, noise(layout), encode)
            for name, syntax, encode in narrow
            for what, layout in wide.items()
        },
    }


def lossy_forms() -> dict[str, Form]:
    ict = Layout(8, 8, samples=3, photometric="YBR_ICT")
    xyb = Layout(8, 8, samples=3, photometric="XYB")
    grey, twelve, sixteen = GREYS["8"], GREYS["12"], GREYS["16"]

    def ls_near(values: Array, layout: Layout) -> bytes:
        return jpeg_ls_of(2)(values, layout)

    table: list[tuple[str, str, Callable[[Array, Layout], bytes], Layout, int]] = [
        ("JPEG baseline, 8", ".4.50", jpeg, grey, 2),
        ("JPEG extended, 8", ".4.51", jpeg, grey, 2),
        ("JPEG extended, 12", ".4.51", jpeg, twelve, 4),
        *((f"JPEG-LS near-lossless, {k}", ".4.81", ls_near, v, 2) for k, v in {**GREYS, "rgb": RGB8}.items()),
        ("JPEG 2000 lossy, 8", ".4.91", jpeg2000_lossy, grey, 2),
        ("JPEG 2000 lossy, 12", ".4.91", jpeg2000_lossy, twelve, 10),
        ("JPEG 2000 lossy, 16", ".4.91", jpeg2000_lossy, sixteen, 160),
        ("JPEG 2000 lossy, 16 signed", ".4.91", jpeg2000_lossy, GREYS["16 signed"], 160),
        ("JPEG 2000 lossy, YBR_ICT", ".4.91", jpeg2000_lossy, ict, 3),
        ("JPEG 2000 Part 2 without extensions, 8", ".4.93", jpeg2000_lossy, grey, 2),
        ("HTJ2K lossy, 8", ".4.203", htj2k_lossy, grey, 2),
        ("HTJ2K lossy, 16 signed", ".4.203", htj2k_lossy, GREYS["16 signed"], 80),
        ("JPEG XL lossy, 8", ".4.112", jpeg_xl(False), grey, 4),
        ("JPEG XL lossy, 16", ".4.112", jpeg_xl(False), sixteen, 400),
        ("JPEG XL lossy, rgb", ".4.112", jpeg_xl(False), RGB8, 10),
        ("JPEG XL lossy, XYB", ".4.112", jpeg_xl(False), xyb, 10),
        ("JPEG XL recompression, 8", ".4.111", jpeg_xl_of_jpeg, grey, 2),
    ]
    return {name: form(syntax, layout, smooth(layout), encode, near) for name, syntax, encode, layout, near in table}


def native_forms() -> dict[str, Form]:
    """Files of one piece, whose Pixel Data is the frames one after another."""
    planes = {"rgb 8 in planes": Layout(8, 8, samples=3, planar=1), "rgb 8": RGB8, "rgb 16": RGB16}
    names = {"": "implicit", ".1": "explicit", ".1.99": "deflated", ".2": "big endian"}
    return {
        f"{name}, {what}": form(syntax, layout, noise(layout, 5, 7), native)
        for syntax, name in names.items()
        for what, layout in {**GREYS, **WIDE, **planes}.items()
    }


# --- containers: how the codestreams lie in Pixel Data --------------------------------------------------------

NO_MARKER = (".1.98", ".8.1", ".5")
"""Their frames have no codestream marker: where a frame is cut and no table says so, nobody can tell."""


def cut(stream: bytes, pieces: int = 3) -> list[bytes]:
    """Fragments of even length."""
    step = max(2, len(stream) // pieces // 2 * 2)
    return [stream[at : at + step] for at in range(0, len(stream), step)]


def offsets(frames: list[list[bytes]]) -> list[int]:
    """Of each frame's first item tag, from the first byte behind the Basic Offset Table."""
    starts, position = [], 0
    for fragments in frames:
        starts.append(position)
        position += sum(8 + len(fragment) for fragment in fragments)
    return starts


def basic(frames: list[list[bytes]], *, tail: tuple[bytes, ...] = (), **options: Any) -> bytes:
    return data.encapsulate([*itertools.chain(*frames), *tail], offsets(frames), **options)


def extended(frames: list[list[bytes]]) -> dict[str, Any]:
    lengths = [sum(map(len, fragments)) for fragments in frames]
    return {
        "ExtendedOffsetTable": data.Raw("OV", struct.pack(f"<{len(frames)}Q", *offsets(frames))),
        "ExtendedOffsetTableLengths": data.Raw("OV", struct.pack(f"<{len(frames)}Q", *lengths)),
    }


Contained = tuple[bytes, dict[str, Any]]

CONTAINERS: dict[str, Callable[[list[bytes]], Contained]] = {
    "empty table": lambda streams: (data.encapsulate(streams), {}),
    "basic table": lambda streams: (basic([[s] for s in streams]), {}),
    "extended table": lambda streams: (data.encapsulate(streams), extended([[s] for s in streams])),
    "pieces": lambda streams: (data.encapsulate([*itertools.chain(*map(cut, streams))]), {}),
    "pieces, basic table": lambda streams: (basic(list(map(cut, streams))), {}),
    "no delimiter": lambda streams: (data.encapsulate(streams, delimiter=False), {}),
    "pieces, basic table, no delimiter": lambda streams: (basic(list(map(cut, streams)), delimiter=False), {}),
    "empty last fragment": lambda streams: (data.encapsulate([*streams, b""]), {}),
    "empty last fragment, basic table": lambda streams: (basic([[s] for s in streams], tail=(b"",)), {}),
}


def write_form(path: Path, uid: str, what: Form, container: str = "basic table") -> None:
    if what.syntax.removeprefix(STANDARD) in NATIVE:
        little = b"".join(native(frame, what.layout) for frame in what.frames)
        if what.syntax == data.EXPLICIT_BE:  # words of OW, also where a sample is a byte of one
            width = 2 if what.layout.allocated == 8 else what.layout.allocated // 8
            little += b"\0" * (len(little) % width)
            little = np.frombuffer(little, f"<u{width}").byteswap().tobytes()
        data.write(path, what.tags(uid), little, what.syntax)
        return
    value, extra = CONTAINERS[container](what.streams)
    data.write(path, {**what.tags(uid), **extra}, value, what.syntax, encapsulated=True)


LOSSLESS, LOSSY = {**native_forms(), **lossless_forms()}, lossy_forms()
CONTAINED = {
    syntax: next(what for what in (*LOSSLESS.values(), *LOSSY.values()) if what.syntax == syntax)
    for syntax in DECODERS
    if syntax.removeprefix(STANDARD) not in NATIVE
}
"""One form of every encapsulated transfer syntax, for every container."""

CASES: dict[str, tuple[Form, str]] = {
    **{name: (what, "basic table") for name, what in {**LOSSLESS, **LOSSY}.items()},
    **{f"{syntax}, {name}": (what, name) for syntax, what in CONTAINED.items() for name in CONTAINERS},
}
UIDS = {name: f"1.2.6.{number}" for number, name in enumerate(CASES, 1)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("containers")
    for name, (what, container) in CASES.items():
        write_form(root / f"{UIDS[name]}.dcm", UIDS[name], what, container)
    return root


@pytest.fixture(scope="module")
def service(files: Path) -> Iterator[Answers]:
    with serve(files, workers=2) as running:
        assert running.state["unreadable"] == []
        assert running.state["instances"] == len(CASES)
        yield running


def test_every_row_of_the_decoder_table_has_its_forms() -> None:
    """A transfer syntax that is added without pixels here fails this test."""
    assert set(DECODERS) == {what.syntax for what, _ in CASES.values()}


def assert_stages(service: Answers, uid: str, frame: int, stored: Array, layout: Layout) -> None:
    """All three stages of one frame, against the formulas of PS3.3 written out."""
    got = service.array(uid, frame, "stored")
    assert got.dtype == layout.dtype
    np.testing.assert_array_equal(got, stored)
    if layout.samples == 3:
        assert service.get(uid, frame, stage="modality").status_code == 406
        top = (1 << layout.stored) - 1
        want = np.floor(stored.astype(np.float64) * 255 / top + 0.5)
        np.testing.assert_array_equal(service.array(uid, frame), want)
        return
    modality = 2 * stored.astype(np.float64) - 1024
    np.testing.assert_allclose(service.array(uid, frame, "modality"), modality, rtol=1e-6 if layout.stored > 16 else 0)
    np.testing.assert_array_equal(service.array(uid, frame), linear(modality, 300, 1500))


def assert_decoded(service: Answers, name: str) -> None:
    what, container = CASES[name]
    response = service.get(UIDS[name], stage="stored")
    assert response.headers["x-decode-backend"] == DECODERS[what.syntax].codec
    for number, want in enumerate(what.frames, 1):
        got = service.array(UIDS[name], number, "stored")
        assert np.abs(got.astype(np.int64) - want).max() <= what.near
        if number == 1 or container == "basic table":
            assert_stages(service, UIDS[name], number, got if what.near else want, what.layout)


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_frames_come_back_as_they_were_encoded(name: str, service: Answers) -> None:
    assert_decoded(service, name)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_frames_come_back_near_what_was_encoded(name: str, service: Answers) -> None:
    assert_decoded(service, name)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("syntax", CONTAINED)
def test_every_way_to_cut_frames_into_fragments(syntax: str, container: str, service: Answers) -> None:
    name = f"{syntax}, {container}"
    if container == "pieces" and syntax.removeprefix(STANDARD) in NO_MARKER:
        for frame in range(1, FRAMES + 1):
            assert_problem(service.get(UIDS[name], frame), 422, UIDS[name], "cannot be divided")
    else:
        assert_decoded(service, name)


# --- another implementation: GDCM, which ends the process on some files, in a process of its own --------------

GDCM = """
import json, sys, gdcm
for source, target, name in json.load(sys.stdin):
    reader = gdcm.ImageReader()
    reader.SetFileName(source)
    assert reader.Read(), source
    if not name:
        with open(target, "wb") as file:
            file.write(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"))
        continue
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change(), (source, name)
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(target)
    assert writer.Write(), target
"""


def run_gdcm(jobs: list[tuple[Path, Path, str]]) -> None:
    """Each job: (file, where the result goes, name of a transfer syntax; empty: decode to bytes)."""
    job_list = json.dumps([[str(source), str(target), name] for source, target, name in jobs])
    done = subprocess.run(
        [sys.executable, "-c", GDCM], input=job_list, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


GDCM_SYNTAXES = (
    "ExplicitVRBigEndian",
    "DeflatedExplicitVRLittleEndian",
    "RLELossless",
    "JPEGLosslessProcess14",
    "JPEGLosslessProcess14_1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
)
WRITTEN = {"8": GREYS["8"], "12 signed": GREYS["12 signed"], "16": GREYS["16"], "rgb 8": RGB8}


@pytest.fixture(scope="module")
def gdcm_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Files that GDCM wrote from native ones; the SOP Instance UIDs are 1.2.7.LAYOUT.SYNTAX."""
    work = tmp_path_factory.mktemp("gdcm")
    root, jobs = work / "root", []
    root.mkdir()
    for (i, layout), (j, name) in itertools.product(enumerate(WRITTEN.values(), 1), enumerate(GDCM_SYNTAXES, 1)):
        source = work / f"{i}.{j}.dcm"
        write_form(source, f"1.2.7.{i}.{j}", form(".1", layout, noise(layout, 64, 72), native))
        jobs.append((source, root / source.name, name))
    run_gdcm(jobs)
    with serve(root) as running:
        assert running.state["instances"] == len(WRITTEN) * len(GDCM_SYNTAXES)
        yield running


@pytest.mark.parametrize("name", GDCM_SYNTAXES)
@pytest.mark.parametrize("what", WRITTEN)
def test_files_that_gdcm_wrote(what: str, name: str, gdcm_service: Answers) -> None:
    uid = f"1.2.7.{list(WRITTEN).index(what) + 1}.{GDCM_SYNTAXES.index(name) + 1}"
    for number, want in enumerate(noise(WRITTEN[what], 64, 72), 1):
        assert_stages(gdcm_service, uid, number, want, WRITTEN[what])


GDCM_DECODES = [name for name in LOSSY if "XL" not in name and name != "JPEG-LS near-lossless, 12 signed"]
"""GDCM has no JPEG XL, and gives back samples of JPEG-LS without their sign where Bits Stored is below 16."""


@pytest.fixture(scope="module")
def gdcm_decoded(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    work = tmp_path_factory.mktemp("decoded")
    run_gdcm([(files / f"{UIDS[name]}.dcm", work / UIDS[name], "") for name in GDCM_DECODES])
    return {
        name: np.fromfile(work / UIDS[name], LOSSY[name].layout.dtype).reshape(LOSSY[name].frames.shape)
        for name in GDCM_DECODES
    }


@pytest.mark.parametrize("name", GDCM_DECODES)
def test_lossy_frames_are_what_another_decoder_makes_of_them(
    name: str, service: Answers, gdcm_decoded: dict[str, Array]
) -> None:
    """Within 1 for JPEG 2000 and HTJ2K, within 2 for JPEG, equal for JPEG-LS, which defines its decoder exactly."""
    allowed = 0 if "JPEG-LS" in name else 1 if "2000" in name or "HTJ2K" in name else 2
    for number, want in enumerate(gdcm_decoded[name], 1):
        got = service.array(UIDS[name], number, "stored").astype(np.int64)
        assert np.abs(got - want).max() <= allowed


# --- sizes, bits, numbers of frames ---------------------------------------------------------------------------

SIZES = [(1, 1), (1, 9), (9, 1), (3, 5), (5, 3), (7, 7)]
ODD_SYNTAXES: dict[str, Callable[[Array, Layout], bytes]] = {
    "": native,
    ".1": native,
    ".1.99": native,
    ".2": native,
    ".1.98": native,
    ".8.1": deflated,
    ".5": rle,
    ".4.50": jpeg,
    ".4.70": jpeg_lossless(1),
    ".4.80": lambda values, layout: bytes(imagecodecs.jpegls_encode(values, out=1 << 16)),
    ".4.90": lambda values, layout: bytes(
        imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True, mct=False, resolutions=1)
    ),
    ".4.110": jpeg_xl(True),
    ".4.201": lambda values, layout: bytes(imagecodecs.htj2k_encode(values, reversible=True, resolutions=1)),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Three frames of odd length in every kind of syntax; the SOP Instance UIDs are 1.2.8.SYNTAX.SIZE.LAYOUT."""
    root = tmp_path_factory.mktemp("odd")
    for uid, what in odd_forms().items():
        write_form(root / f"{uid}.dcm", uid, what)
    with serve(root, workers=2) as running:
        assert running.state["unreadable"] == []
        yield running


def odd_forms() -> dict[str, Form]:
    return {
        f"1.2.8.{i}.{j}.{layout.samples}": form(syntax, layout, noise(layout, rows, columns, i), encode, 3)
        for i, (syntax, encode) in enumerate(ODD_SYNTAXES.items(), 1)
        for j, (rows, columns) in enumerate(SIZES, 1)
        for layout in (GREYS["8"], RGB8)
        if not (layout is RGB8 and syntax == ".4.50")
    }


@pytest.mark.parametrize("syntax", ODD_SYNTAXES)
def test_odd_sizes_and_frames_of_odd_length(syntax: str, odd: Answers) -> None:
    number = list(ODD_SYNTAXES).index(syntax) + 1
    chosen = {uid: what for uid, what in odd_forms().items() if uid.startswith(f"1.2.8.{number}.")}
    assert len(chosen) >= len(SIZES)
    for uid, what in chosen.items():
        for frame, want in enumerate(what.frames, 1):
            got = odd.array(uid, frame, "stored")
            if syntax == ".4.50":  # quality 98: near, and every later stage from what was decoded
                assert np.abs(got.astype(int) - want).max() <= 12
                want = got
            assert_stages(odd, uid, frame, want, what.layout)


BITS = np.random.default_rng(11).integers(0, 2, (5, 3, 7), dtype=np.uint8)


def packed(frames: Array) -> bytes:
    return np.packbits(frames.reshape(-1), bitorder="little").tobytes()


def one_bit_files(root: Path) -> list[str]:
    """1-bit frames of 21 pixels: packed across byte boundaries natively, each from its own byte when encapsulated."""
    tags = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Modality": "SEG"}
    uids = []
    for number, syntax in enumerate(("", ".1", ".1.99", ".2", ".1.98", ".8.1"), 1):
        uid = f"1.2.9.{number}"
        attributes = data.image(3, 7, NumberOfFrames=len(BITS), SOPInstanceUID=uid, **tags)
        if syntax in (".1.98", ".8.1"):
            frames = [packed(frame) + b"\0" for frame in BITS]
            if syntax == ".8.1":
                packers = [zlib.compressobj(wbits=-15) for _ in frames]
                frames = [p.compress(frame[:3]) + p.flush() for p, frame in zip(packers, frames, strict=True)]
                frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
            value, options = data.encapsulate(frames), {"encapsulated": True}
            data.write(root / f"{uid}.dcm", attributes, value, STANDARD + syntax, **options)
        else:
            value = packed(BITS) + b"\0" * (len(packed(BITS)) % 2)
            if syntax == ".2":
                value = np.frombuffer(value, "<u2").byteswap().tobytes()
            data.write(root / f"{uid}.dcm", attributes, value, STANDARD + syntax)
        uids.append(uid)
    return uids


def test_1_bit_frames_in_every_syntax_that_has_them(tmp_path: Path) -> None:
    uids = one_bit_files(tmp_path)
    with serve(tmp_path) as service:
        for uid in uids:
            for number, want in enumerate(BITS, 1):
                np.testing.assert_array_equal(service.array(uid, number, "stored"), want, err_msg=uid)
                np.testing.assert_array_equal(service.array(uid, number), want * 255)


MANY = 200


def counted(number: int) -> Array:
    """Frame ``number`` of an object of MANY: no two are alike."""
    values = np.random.default_rng(number).integers(0, 4096, (16, 16), dtype=np.uint16)
    values[0, 0] = number
    return values


MANY_CONTAINERS = ("native", "empty table", "basic table", "extended table", "pieces")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Objects of MANY frames, 1.2.10.CONTAINER, and files of unusual form, 1.2.12 to 1.2.14."""
    root = tmp_path_factory.mktemp("many")
    frames = np.stack([counted(number) for number in range(1, MANY + 1)])
    plain = form(".1", GREYS["12"], frames, native)
    streams = form(".4.80", GREYS["12"], frames, jpeg_ls_of(0))
    for number, container in enumerate(MANY_CONTAINERS, 1):
        what = plain if container == "native" else streams
        write_form(root / f"{number}.dcm", f"1.2.10.{number}", what, container)
    for number, syntax in enumerate(NO_MARKER, 1):
        what, uid = whole(syntax), f"1.2.12.{number}"
        tags, value = {**what.tags(uid), "NumberOfFrames": 1}, data.encapsulate(cut(what.streams[0]))
        data.write(root / uid, tags, value, what.syntax, encapsulated=True)
    for number, (syntax, meta) in enumerate(BARE, 1):
        what, uid = whole(syntax), f"1.2.13.{number}"
        options: dict[str, Any] = {"encapsulated": True, "preamble": False, "meta": meta}
        data.write(root / uid, what.tags(uid), data.encapsulate(what.streams), what.syntax, **options)
    with serve(root, lookahead_frames=0) as running:  # what is read is counted
        assert running.state["unreadable"] == []
        yield running


@pytest.mark.parametrize("container", MANY_CONTAINERS)
def test_frame_n_of_200_is_frame_n(container: str, many: Answers) -> None:
    uid = f"1.2.10.{MANY_CONTAINERS.index(container) + 1}"
    for number in [1, 2, MANY - 1, MANY, *random.Random(5).sample(range(3, MANY - 1), 20)]:
        np.testing.assert_array_equal(many.array(uid, number, "stored"), counted(number))
    assert many.get(uid, MANY + 1).status_code == 404


@pytest.mark.parametrize("container", ["native", "empty table", "pieces"])
def test_a_frame_costs_one_read_of_its_own_bytes(
    container: str, many: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its number: no scan, no offset table, no other frame."""
    reads: list[int] = []
    pread, preadv = os.pread, os.preadv

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not place.is_relative_to("/proc"):  # where a worker's memory is looked at
            reads.append(length)
        return pread(descriptor, length, offset)

    def counting_now(descriptor: int, buffers: Sequence[memoryview], offset: int, flags: int) -> int:
        reads.append(sum(map(len, buffers)))
        return preadv(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "pread", counting)
    monkeypatch.setattr(os, "preadv", counting_now)
    uid = f"1.2.10.{MANY_CONTAINERS.index(container) + 1}"
    for number in (4, 180, 197):
        reads.clear()
        np.testing.assert_array_equal(many.array(uid, number, "stored", region="0,0,16,16"), counted(number))
        span = jpeg_ls_of(0)(counted(number), GREYS["12"])
        fragments = len(cut(span)) if container == "pieces" else 1
        assert reads == [512 if container == "native" else len(span) + len(span) % 2 + 8 * fragments]


# --- fragments that leave no single reading, or too few bytes -------------------------------------------------


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    root = tmp_path_factory.mktemp("broken")
    for uid, (what, value, extra) in broken_files().items():
        data.write(root / f"{uid}.dcm", {**what.tags(uid), **extra}, value, what.syntax, encapsulated=True)
    with serve(root) as running:
        yield running


def whole(syntax: str, layout: str = "12") -> Form:
    encode = {".4.80": jpeg_ls_of(0), ".5": rle, ".1.98": native, ".8.1": deflated}[syntax]
    return form(syntax, GREYS[layout], noise(GREYS[layout]), encode)


def broken_files() -> dict[str, tuple[Form, bytes, dict[str, Any]]]:
    ls, runs, plain, flat = (whole(syntax) for syntax in (".4.80", ".5", ".1.98", ".8.1"))
    alone = [[stream] for stream in ls.streams]
    rising = offsets(alone)
    falling = struct.pack("<3Q", rising[0], rising[2], rising[1])
    short = [stream[: len(stream) // 2] for stream in ls.streams]
    return {
        "1.2.11.1": (ls, data.encapsulate(ls.streams, [rising[0], rising[2], rising[1]]), {}),
        "1.2.11.2": (ls, data.encapsulate(ls.streams), {"ExtendedOffsetTable": data.Raw("OV", falling)}),
        "1.2.11.3": (ls, data.encapsulate(ls.streams, [rising[0], rising[1], rising[1]]), {}),
        "1.2.11.4": (ls, data.encapsulate(ls.streams[:2], delimiter=False), {}),
        "1.2.11.5": (ls, data.encapsulate([ls.streams[0], short[1], ls.streams[2]]), {}),
        "1.2.11.6": (runs, data.encapsulate([runs.streams[0], runs.streams[1][:-40], runs.streams[2]]), {}),
        "1.2.11.7": (plain, data.encapsulate([plain.streams[0], plain.streams[1][:-2], plain.streams[2]]), {}),
        "1.2.11.8": (flat, data.encapsulate([flat.streams[0], flat.streams[1][:-8], flat.streams[2]]), {}),
        "1.2.11.9": (ls, data.encapsulate(ls.streams, [rising[0], rising[1] + 2, rising[2]]), {}),
    }


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_offset_table_that_does_not_rise_is_refused(number: int, broken: Answers) -> None:
    for frame in range(1, FRAMES + 1):
        assert_problem(broken.get(f"1.2.11.{number}", frame), 422, f"1.2.11.{number}", "does not rise")


def test_a_basic_offset_table_that_fits_nothing_does_not_matter_where_frames_are_fragments(broken: Answers) -> None:
    for frame, want in enumerate(whole(".4.80").frames, 1):
        np.testing.assert_array_equal(broken.array("1.2.11.9", frame, "stored"), want)


def test_a_frame_that_the_file_does_not_hold_costs_no_other(broken: Answers) -> None:
    frames = whole(".4.80").frames
    for frame in (1, 2):
        np.testing.assert_array_equal(broken.array("1.2.11.4", frame, "stored"), frames[frame - 1])
    assert_problem(broken.get("1.2.11.4", 3), 422, "1.2.11.4")


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_a_frame_that_lost_bytes_is_an_error_and_shows_no_other(number: int, broken: Answers) -> None:
    """Frame 2 is cut; 1 and 3 were decoded into the same buffers before and after."""
    uid, frames = f"1.2.11.{number}", noise(GREYS["12"])
    for frame in (1, 2, 3, 2, 1, 2):
        if frame == 2:
            assert_problem(broken.get(uid, frame), 422, uid)
        else:
            np.testing.assert_array_equal(broken.array(uid, frame, "stored"), frames[frame - 1])


BARE = ((".4.80", True), (".5", True), (".1.98", True), (".4.80", False))
"""Files without a preamble: transfer syntax, and whether there is File Meta Information at all."""


@pytest.mark.parametrize("syntax", NO_MARKER)
def test_one_frame_takes_all_fragments(syntax: str, many: Answers) -> None:
    what = whole(syntax)
    assert_stages(many, f"1.2.12.{NO_MARKER.index(syntax) + 1}", 1, what.frames[0], what.layout)


@pytest.mark.parametrize(("syntax", "meta"), BARE[:3])
def test_encapsulated_files_without_a_preamble(syntax: str, meta: bool, many: Answers) -> None:
    what = whole(syntax)
    for number, want in enumerate(what.frames, 1):
        assert_stages(many, f"1.2.13.{BARE.index((syntax, meta)) + 1}", number, want, what.layout)


def test_encapsulated_files_without_file_meta_information_are_refused(many: Answers) -> None:
    """Nothing says then how the pixels are encoded."""
    assert_problem(many.get("1.2.13.4"), 422, "1.2.13.4", "no Transfer Syntax UID")


# --- buffers that are used again ------------------------------------------------------------------------------


def test_a_small_frame_after_a_large_one_shows_nothing_of_it(tmp_path: Path) -> None:
    """One worker and no cache: its shared memory, and the backend's buffers, have just held 4 MB of white."""
    white = np.full((1, 1024, 2048), 65535, np.uint16)
    encoders: dict[str, Callable[[Array, Layout], bytes]] = {
        ".1": native,
        ".5": rle,
        ".4.70": jpeg_lossless(1),
        ".4.80": jpeg_ls_of(0),
        ".4.90": openjpeg_of,
        ".4.201": htj2k,
    }
    small = noise(GREYS["16"])
    for number, (syntax, encode) in enumerate(encoders.items(), 1):
        write_form(tmp_path / f"{number}.dcm", f"1.2.15.{number}", form(syntax, GREYS["16"], white, encode))
        write_form(tmp_path / f"s{number}.dcm", f"1.2.16.{number}", form(syntax, GREYS["16"], small, encode))
    with serve(tmp_path, cache_bytes=0) as service:
        for number in range(1, len(encoders) + 1):
            assert service.array(f"1.2.15.{number}", 1, "stored").min() == 65535
            assert service.array(f"1.2.15.{number}").min() == 255  # window 300, 1500
            for frame, want in enumerate(small, 1):
                assert_stages(service, f"1.2.16.{number}", frame, want, GREYS["16"])


def test_an_answer_keeps_its_pixels_while_others_are_rendered(tmp_path: Path) -> None:
    """Answers of one size, one after another: none is a view of a buffer that the next one fills."""
    what = form(".4.80", GREYS["16"], noise(GREYS["16"]), jpeg_ls_of(0))
    write_form(tmp_path / "a.dcm", "1.2.17", what)
    with serve(tmp_path, cache_bytes=0) as service:
        answers = [(frame, service.get("1.2.17", frame)) for frame in (1, 2, 3, 1, 2, 3)]
        for frame, answer in answers:
            want = linear(2.0 * what.frames[frame - 1] - 1024, 300, 1500)
            assert answer.content == want.tobytes()


def test_many_requests_at_once_each_get_their_own_frame(many: Answers) -> None:
    """Requests of one moment are decoded side by side and rendered in one batch: none gets another's pixels."""

    def ask(job: tuple[int, int]) -> None:
        number, center = job
        uid = f"1.2.10.{1 + number % len(MANY_CONTAINERS)}"
        want = linear(2.0 * counted(number) - 1024, center, 1500)
        np.testing.assert_array_equal(many.array(uid, number, window=f"{center},1500"), want)

    jobs = [(number, center) for center in (300, 2000) for number in range(1, MANY + 1, 2)]
    random.Random(6).shuffle(jobs)
    with ThreadPoolExecutor(16) as threads:
        assert len(list(threads.map(ask, jobs))) == len(jobs)


# --- what cannot be decoded -----------------------------------------------------------------------------------


WITHOUT_DECODER = {".4.94": "JPIP", ".4.100": "video", ".4.102": "video", ".4.205": "JPIP", ".4.52": "needs"}


@pytest.fixture(scope="module")
def undecodable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    root = tmp_path_factory.mktemp("undecodable")
    for number, syntax in enumerate(WITHOUT_DECODER, 1):
        attributes = data.image(8, 8, SOPInstanceUID=f"1.2.18.{number}")
        value = data.encapsulate([b"\xff\xd8\xff\xe0" + bytes(60)])
        data.write(root / f"{number}.dcm", attributes, value, STANDARD + syntax, encapsulated=True)
    with serve(root) as running:
        yield running


@pytest.mark.parametrize("syntax", WITHOUT_DECODER)
def test_a_transfer_syntax_without_decoder_is_501_and_named(syntax: str, undecodable: Answers) -> None:
    uid = f"1.2.18.{list(WITHOUT_DECODER).index(syntax) + 1}"
    assert_problem(undecodable.get(uid), 501, uid, STANDARD + syntax, WITHOUT_DECODER[syntax])
