"""``kernels/nvcodec.py``: against a library that does as it is told, and against the real one on the CPU."""

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from kernels import nvcodec
from kernels.nvcodec import CodecImage, CodecUnavailable, NvCodec
from tests.kernels import host

Array = npt.NDArray[Any]

STREAM = 4711  # a CUDA stream


class BackendKind(Enum):
    """As the library's."""

    GPU_ONLY, CPU_ONLY, HYBRID_CPU_GPU, HW_GPU_ONLY = range(1, 5)


class SampleFormat(Enum):
    """As the library's, with its aliases."""

    I_UNCHANGED, I_AUTO_COMPONENTS, I_Y, P_RGB, I_RGB, I_BGR, I_YCC = 2, 2, 4, 7, 8, 10, 12


class ColorSpec(Enum):
    """As the library's, with its aliases."""

    UNKNOWN, UNCHANGED, SYCC, SRGB, GRAY, CMYK = 0, 0, 3, 1, 2, 4


class ImageBufferKind(Enum):
    """As the library's."""

    STRIDED_DEVICE, STRIDED_HOST = 1, 2


def jpeg(name: str) -> bytes:
    """What only the fake library takes for JPEG."""
    return b"\xff\xd8\xff" + name.encode()


def jpeg2000(
    name: str = "", tile: tuple[int, int] = (64, 64), components: int = 1, factors: Sequence[int] = (1, 1)
) -> bytes:
    """What only the fake library takes for JPEG 2000: SOC and SIZ, with each component's depth and factors."""
    size = b"".join(n.to_bytes(4, "big") for n in (64, 64, 0, 0, *tile, 0, 0))
    each = bytes((7, *factors))
    return (
        b"\xff\x4f\xff\x51\0\0\0\0"
        + size
        + components.to_bytes(2, "big")
        + each * components
        + name.encode()
        + b" " * 9
    )


@dataclass
class Known:
    """What the library makes of a codestream: what it reads of it, and the image, field by field."""

    codec_name: str = "jpeg2k"
    num_channels: int = 1
    color_spec: ColorSpec = ColorSpec.UNKNOWN
    precision: int = 16
    image: dict[str, Any] | None = field(default_factory=dict)


class FakeImage:
    """As the library's. Reports when it is released."""

    def __init__(self, library: "FakeLibrary", known: Known, stream: int) -> None:
        given = known.image or {}
        self.buffer_kind = given.get("buffer_kind", ImageBufferKind.STRIDED_DEVICE)
        self.sample_format = given.get("sample_format", SampleFormat.I_UNCHANGED)
        self.precision = given.get("precision", known.precision)
        self._interface = given.get("interface", {})
        self._channels = known.num_channels
        self._stream = stream
        weakref.finalize(self, library.released.append, "image").atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._interface is None:
            raise TypeError("no interface")
        dense = {"shape": (4, 5, self._channels), "typestr": "<u2", "strides": None, "data": (4096, False)}
        return {**dense, "version": 3, "stream": self._stream, **self._interface}


class FakeLibrary:
    """A strict nvImageCodec: what the wrapper does not have to call is not there."""

    def __init__(self) -> None:
        self.known: dict[bytes, Known | Exception] = {}
        self.calls: list[tuple[bytes, ...]] = []
        self.released: list[str] = []
        self.closed = 0
        self.answers: Callable[[list[Any]], list[Any]] = list
        self.broken: Exception | None = None
        self.decoder: dict[str, Any] = {}
        self.params: dict[str, Any] = {}

    def module(self) -> ModuleType:
        """To stand in ``sys.modules["nvidia.nvimgcodec"]``."""
        library = self

        class CodeStream:
            def __init__(self, data: bytes) -> None:
                known = library.known[data]
                if isinstance(known, Exception):
                    raise known
                self.data, self.known = data, known
                self.num_channels, self.precision = known.num_channels, known.precision
                self.codec_name, self.color_spec = known.codec_name, known.color_spec
                weakref.finalize(self, library.released.append, "codestream").atexit = False

        class DecodeParams:
            def __init__(self, **fields: Any) -> None:
                library.params = fields

        class Decoder:
            def __init__(self, **fields: Any) -> None:
                if library.broken:
                    raise library.broken
                library.decoder = fields
                weakref.finalize(self, library.released.append, "decoder").atexit = False

            def decode(self, srcs: list[CodeStream], *, params: DecodeParams, cuda_stream: int) -> list[Any]:
                assert srcs
                library.calls.append(tuple(each.data for each in srcs))
                made = [FakeImage(library, e.known, cuda_stream) if e.known.image is not None else None for e in srcs]
                return library.answers(made)

            def __exit__(self, *error: object) -> None:
                assert error == (None, None, None)
                library.closed += 1

        module = ModuleType("nvidia.nvimgcodec")
        vars(module).update(
            __version__="0.9.0",
            __cuda_version__="12090",
            NVIMGCODEC_DEVICE_CPU_ONLY=-99999,
            Backend=lambda kind: kind,
            BackendKind=BackendKind,
            SampleFormat=SampleFormat,
            ColorSpec=ColorSpec,
            ImageBufferKind=ImageBufferKind,
            CodeStream=CodeStream,
            DecodeParams=DecodeParams,
            Decoder=Decoder,
        )
        return module

    def add(self, data: bytes, **fields: Any) -> bytes:
        """Let it know a codestream."""
        codec = {"codec_name": "jpeg", "color_spec": ColorSpec.GRAY} if data.startswith(b"\xff\xd8") else {}
        self.known[data] = Known(**{**codec, **fields})
        return data

    def gone(self, what: str) -> int:
        """How many of these were released."""
        gc.collect()
        return self.released.count(what)


def install(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    package = ModuleType("nvidia")
    package.__path__ = []
    if module is not None:
        vars(package)["nvimgcodec"] = module
    monkeypatch.setitem(sys.modules, "nvidia", package)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)


LOADED = {"libnvjpeg.so.12": "12.4.0", "libnvjpeg2k.so.0": "0.11.0"}
PACKAGES = {"nvidia-nvimgcodec-cu12": "0.9.0.20", "nvidia-nvjpeg-cu12": "12.4.0.76"}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    def version(name: str) -> str:
        if name not in PACKAGES:
            raise metadata.PackageNotFoundError(name)
        return PACKAGES[name]

    made = FakeLibrary()
    install(monkeypatch, made.module())
    monkeypatch.setattr(nvcodec, "_loaded", lambda name, function: LOADED.get(name, ""))
    monkeypatch.setattr(metadata, "version", version)
    return made


# How it is asked.


def test_a_batch_is_one_call_of_the_library(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    batch = [
        library.add(jpeg("a")),
        library.add(jpeg2000("b")),
        library.add(jpeg2000("c", components=3), num_channels=3),
    ]
    found = codec.decode(batch, STREAM)
    assert library.calls == [tuple(batch)]
    assert [(each.shape, each.row_stride) for each in found if each] == [
        ((4, 5, 1), 10),
        ((4, 5, 1), 10),
        ((4, 5, 3), 30),
    ]
    assert {(each.address, each.dtype) for each in found if each} == {(4096, np.dtype("<u2"))}


def test_the_order_is_kept_and_what_is_unreadable_does_not_reach_the_decoder(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    good = [library.add(jpeg2000(name), image={"interface": {"data": (i, False)}}) for i, name in enumerate("abc", 1)]
    library.known[jpeg("bad")] = RuntimeError("no image")
    library.known[jpeg("worse")] = ValueError("no length")
    found = codec.decode([jpeg("bad"), good[2], b"", good[0], jpeg("worse"), good[1], good[0]], STREAM)
    assert [each and each.address for each in found] == [None, 3, None, 1, None, 2, 1]
    assert library.calls == [(good[2], good[0], good[1], good[0])]


def test_nothing_readable_is_no_call(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    assert codec.decode([], STREAM) == []
    assert codec.decode([b"", b"II*\0"], STREAM) == [None, None]
    assert library.calls == []


def test_the_decoder_is_the_gpus_and_changes_no_sample(library: FakeLibrary) -> None:
    NvCodec(3)
    assert library.decoder == {
        "device_id": 3,
        "max_num_cpu_threads": nvcodec.THREADS,
        "backends": [BackendKind.GPU_ONLY, BackendKind.HYBRID_CPU_GPU],
        "options": "nvjpeg_cuda_decoder:hybrid_huffman_threshold=4611686018427387904",
    }
    assert library.params == {
        "allow_any_depth": True,
        "apply_exif_orientation": False,
        "color_spec": ColorSpec.UNCHANGED,
        "sample_format": SampleFormat.I_UNCHANGED,
    }


def test_the_version_says_all_that_results_may_depend_on(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "nvImageCodec 0.9.0 for CUDA 12, nvJPEG {}, nvJPEG2000 0.11.0"
    packages = " (nvidia-nvimgcodec-cu12 0.9.0.20, nvidia-nvjpeg-cu12 12.4.0.76)"
    assert NvCodec(0).version == expected.format("12.4.0") + packages
    monkeypatch.delitem(LOADED, "libnvjpeg.so.12")
    assert NvCodec(0).version == expected.format("-") + packages


def test_the_version_of_a_loaded_library_is_asked_of_itself(tmp_path: Path) -> None:
    source, built = tmp_path / "v.cpp", tmp_path / "libversion.so"
    source.write_text('extern "C" int version(int which, int *value) { *value = 10 + which; return 0; }')
    subprocess.run([host.compiler(), "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    assert nvcodec._loaded(str(built), "version") == ""
    ctypes.CDLL(str(built))
    assert nvcodec._loaded(str(built), "version") == "10.11.12"
    assert nvcodec._loaded(str(built), "other") == ""
    assert nvcodec._loaded(str(tmp_path / "none.so"), "version") == ""


# What it refuses.

SIZ = {
    "no tile width": jpeg2000(tile=(0, 64)),
    "no tile height": jpeg2000(tile=(64, 0)),
    "huge tiles": jpeg2000(tile=(64, 1 << 31)),
    "no components": jpeg2000(components=0),
    "two components": jpeg2000(components=2),
    "many components": jpeg2000(components=16384),
    "no factor": jpeg2000(factors=(1, 0)),
    "subsampled": jpeg2000(factors=(2, 1), components=3),
    "cut off": jpeg2000()[:50],
    "JP2": bytes.fromhex("0000000c6a5020200d0a870a") + jpeg2000(),
    "TIFF": b"II*\0" + jpeg2000(),
    "no marker": b"\xff\x4f\xff\x52" + jpeg2000()[4:],
    "not JPEG": b"\xff\xd8\x00" + bytes(90),
}


@pytest.mark.parametrize("what", SIZ)
def test_the_parser_sees_only_what_it_survives(library: FakeLibrary, what: str) -> None:
    """The fake fails for codestreams that it does not know."""
    codec, good = NvCodec(0), library.add(jpeg2000("good"))
    assert [each is None for each in codec.decode([SIZ[what], good], STREAM)] == [True, False]


REFUSED: dict[str, dict[str, Any]] = {
    "no image": {"image": None},
    "JPEG of three components": {"codec_name": "jpeg", "num_channels": 3},
    "two components": {"num_channels": 2},
    "four components": {"num_channels": 4},
    "another codec": {"codec_name": "png"},
    "YCbCr": {"num_channels": 3, "color_spec": ColorSpec.SYCC},
    "host memory": {"image": {"buffer_kind": ImageBufferKind.STRIDED_HOST}},
    "BGR": {"num_channels": 3, "image": {"sample_format": SampleFormat.I_BGR}},
    "planes": {"num_channels": 3, "image": {"sample_format": SampleFormat.P_RGB}},
    "less precision": {"precision": 12, "image": {"precision": 8}},
    "more precision": {"precision": 12, "image": {"precision": 16}},
    "another stream": {"image": {"interface": {"stream": STREAM + 1}}},
    "no stream": {"image": {"interface": {"stream": None}}},
    "more channels": {"image": {"interface": {"shape": (4, 5, 3)}}},
    "fewer channels": {"num_channels": 3, "image": {"interface": {"shape": (4, 5, 1)}}},
    "two dimensions": {"image": {"interface": {"shape": (4, 5)}}},
    "empty": {"image": {"interface": {"shape": (0, 5, 1)}}},
    "float": {"image": {"interface": {"typestr": "<f4"}}},
    "32 bits": {"image": {"interface": {"typestr": "<u4"}}},
    "big endian": {"image": {"interface": {"typestr": ">u2"}}},
    "short rows": {"image": {"interface": {"strides": (9, 2, 2)}}},
    "upside down": {"image": {"interface": {"strides": (-10, 2, 2)}}},
    "gaps between pixels": {"image": {"interface": {"strides": (20, 4, 2)}}},
    "planes in memory": {"num_channels": 3, "image": {"interface": {"strides": (10, 2, 40)}}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_as_the_codestream_has_it_is_refused(library: FakeLibrary, what: str) -> None:
    codec, bad, good = NvCodec(0), library.add(jpeg2000("bad"), **REFUSED[what]), library.add(jpeg2000("good"))
    assert [each is None for each in codec.decode([bad, good, bad], STREAM)] == [True, False, True]
    assert len(library.calls) == 1


@pytest.mark.parametrize(("typestr", "stride"), [("|u1", 5), ("|i1", 8), ("<u2", 10), ("<i2", 512)])
def test_rows_may_be_apart_and_samples_signed(library: FakeLibrary, typestr: str, stride: int) -> None:
    size = np.dtype(typestr).itemsize
    interface = {"typestr": typestr, "strides": (stride, size, size)}
    (found,) = NvCodec(0).decode([library.add(jpeg2000(), image={"interface": interface})], STREAM)
    assert found is not None
    assert (found.dtype, found.row_stride) == (np.dtype(typestr), stride)


# Who holds the memory.


def test_an_image_lives_as_long_as_its_owner(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    found = codec.decode([library.add(jpeg2000(name)) for name in "ab"], STREAM)
    assert codec.decode([library.add(jpeg2000("c"))], STREAM) != [None]
    codec.close()
    assert library.gone("image") == 1  # that of c
    owner = found[0].owner if found[0] else None
    found.clear()
    assert library.gone("image") == library.gone("codestream") == 2
    del owner
    assert library.gone("image") == library.gone("codestream") == 3


def test_what_is_refused_is_kept_until_the_stream_was_waited_for(library: FakeLibrary) -> None:
    """The next call says so."""
    codec = NvCodec(0)
    bad = library.add(jpeg2000("bad"), image={"precision": 3})
    assert codec.decode([bad], STREAM) == [None]
    assert library.gone("image") == library.gone("codestream") == 0
    codec.decode([], STREAM)
    assert library.gone("image") == library.gone("codestream") == 1


def test_an_exception_after_queueing_keeps_what_queued_work_uses(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    batch = [library.add(jpeg2000("a")), library.add(jpeg2000("b"), image={"interface": None})]
    with pytest.raises(TypeError, match="no interface"):
        codec.decode(batch, STREAM)
    assert library.gone("image") == library.gone("codestream") == 0
    codec.close()
    assert library.gone("image") == library.gone("codestream") == 2


@pytest.mark.parametrize("answers", [lambda images: images[:1], lambda images: [*images, None], lambda images: []])
def test_answers_that_cannot_be_told_apart_are_an_error(
    library: FakeLibrary, answers: Callable[[list[Any]], list[Any]]
) -> None:
    codec, batch = NvCodec(0), [library.add(jpeg2000(name)) for name in "ab"]
    library.answers = answers
    given = len([each for each in answers([object(), object()]) if each])
    with pytest.raises(RuntimeError, match="each codestream"):
        codec.decode(batch, STREAM)
    assert (library.gone("image"), library.gone("codestream")) == (2 - given, 0)
    library.answers = list
    assert None not in codec.decode(batch, STREAM)
    assert (library.gone("image"), library.gone("codestream")) == (4, 4)


def test_a_library_that_raises_keeps_the_codestreams(library: FakeLibrary) -> None:
    def fail(images: list[Any]) -> list[Any]:
        raise RuntimeError("of the library")

    codec = NvCodec(0)
    library.answers = fail
    with pytest.raises(RuntimeError, match="of the library"):
        codec.decode([library.add(jpeg2000("a"))], STREAM)
    assert library.gone("codestream") == 0
    codec.close()
    assert library.gone("codestream") == 1


def test_closed(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    codec.close()
    codec.close()
    assert library.closed == library.gone("decoder") == 1
    with pytest.raises(RuntimeError, match="closed"):
        codec.decode([jpeg("a")], STREAM)


def test_nothing_is_released_once_it_is_abandoned(library: FakeLibrary) -> None:
    codec = NvCodec(0)
    before = codec.decode([library.add(jpeg2000("before"))], STREAM)
    before.clear()
    assert library.gone("image") == 1
    found = codec.decode([library.add(jpeg2000("a")), library.add(jpeg2000("bad"), image={"precision": 3})], STREAM)
    codec.abandon()
    codec.abandon()
    with pytest.raises(RuntimeError, match="closed"):
        codec.decode([jpeg2000("a")], STREAM)
    codec.close()
    found.clear()
    del codec
    assert (library.gone("image"), library.gone("decoder"), library.closed) == (1, 0, 0)


# Whether it can be used.


@pytest.mark.parametrize("what", ["raise OSError('libcudart.so.12: cannot open')", "import _no_such_module", None])
def test_a_library_that_is_absent_or_does_not_load(
    what: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    monkeypatch.delitem(sys.modules, "nvidia.nvimgcodec")
    sys.modules["nvidia"].__path__ = [str(tmp_path)]
    if what is not None:
        (tmp_path / "nvimgcodec.py").write_text(what)
    with pytest.raises(CodecUnavailable, match=r"cannot be imported: .*gpu-render\[cuda12\]"):
        NvCodec(0)
    assert "nvidia.nvimgcodec" not in sys.modules


def test_no_decoder_for_the_device(library: FakeLibrary) -> None:
    library.broken = RuntimeError("code 8")
    with pytest.raises(CodecUnavailable, match="no decoder for device 1"):
        NvCodec(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DecodeParams", None),
        ("Decoder", lambda device_id: None),
        ("ImageBufferKind", None),
        ("ColorSpec", Enum("ColorSpec", ["OTHER"])),
        ("__cuda_version__", "twelve"),
        ("__cuda_version__", None),
        ("__version__", None),
    ],
)
def test_a_version_that_is_not_known(
    library: FakeLibrary, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["nvidia.nvimgcodec"]
    monkeypatch.delattr(module, name) if value is None else monkeypatch.setattr(module, name, value)
    with pytest.raises(CodecUnavailable, match="not known"):
        NvCodec(0)


def test_neither_nvjpeg_nor_nvjpeg2000(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcodec, "_loaded", lambda name, function: "")
    with pytest.raises(CodecUnavailable, match=r"neither nvJPEG nor nvJPEG2000: .*gpu-render\[cuda13\]"):
        NvCodec(0)
    assert library.decoder == {}


# The real library, with its decoders for the CPU.


@pytest.fixture
def real() -> NvCodec:
    """Skips where it is not installed, but fails in CI."""
    spec = importlib.util.find_spec("nvidia")
    if spec is None or importlib.util.find_spec("nvidia.nvimgcodec") is None:
        if os.environ.get("CI"):
            pytest.fail("the wheel nvidia-nvimgcodec-cu12 is not installed, though this is CI")
        pytest.skip("the wheel nvidia-nvimgcodec-cu12 is not installed")
    return NvCodec(0, on_host=True)


def pixels(image: CodecImage | None) -> Array:
    """A copy of the samples in the host's memory: (rows, columns, samples)."""
    assert image is not None
    rows, columns, samples = image.shape
    size = image.dtype.itemsize
    raw: Any = (ctypes.c_ubyte * ((rows - 1) * image.row_stride + columns * samples * size)).from_address(image.address)
    return np.ndarray(image.shape, image.dtype, raw, 0, (image.row_stride, samples * size, size)).copy()


RAMP = (np.add.outer(np.arange(50) ** 2, 3 * np.arange(61)) % 4096).astype("<u2")
GREY = (RAMP >> 4).astype("u1")
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def encoded(image: Array, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(image, codecformat="j2k", level=0, reversible=True, **options))


JPEG = bytes(imagecodecs.jpeg8_encode(GREY, level=90))


def test_real_jpeg_is_as_the_cpus(real: NvCodec) -> None:
    (image,) = real.decode([JPEG], 0)
    np.testing.assert_array_equal(pixels(image)[..., 0], imagecodecs.jpeg8_decode(JPEG))


@pytest.mark.parametrize("image", [RAMP, GREY, COLOUR], ids=["12 bits", "8 bits", "colour"])
def test_real_jpeg_2000_keeps_every_sample(real: NvCodec, image: Array) -> None:
    bits = 12 if image.dtype.itemsize == 2 else 8
    (found,) = real.decode([encoded(image, bitspersample=bits)], 0)
    np.testing.assert_array_equal(pixels(found), image.reshape(50, 61, -1))


def test_real_answers_keep_their_order_and_garbage_is_refused(real: NvCodec) -> None:
    garbage = [b"", b"\xff", bytes(999), b"\xff\xd8\xff" + bytes(99), JPEG[:100], JPEG[: len(JPEG) // 2], *SIZ.values()]
    colour = bytes(imagecodecs.jpeg8_encode(COLOUR, level=90))
    others = [colour, bytes(imagecodecs.png_encode(GREY)), encoded(COLOUR[..., :2])]
    batch = [JPEG, *garbage, encoded(RAMP, bitspersample=12), *others, encoded(GREY), JPEG]
    found = real.decode(batch, 0)
    assert [batch[i] for i, image in enumerate(found) if image] == [JPEG, batch[-6], batch[-2], JPEG]
    for image, expected in zip([e for e in found if e], [None, RAMP, GREY, None], strict=True):
        want = imagecodecs.jpeg8_decode(JPEG) if expected is None else expected
        np.testing.assert_array_equal(pixels(image)[..., 0], want)


def test_real_parser_survives_damage(real: NvCodec) -> None:
    random = np.random.default_rng(7)
    sources = [JPEG, encoded(RAMP), encoded(COLOUR), bytes(imagecodecs.htj2k_encode(RAMP, reversible=True))]
    read = 0
    for _ in range(5000):
        damaged = bytearray(sources[random.integers(len(sources))])
        for place in random.integers(min(len(damaged), 130), size=random.integers(1, 5)):
            damaged[place] = random.choice((0, 255, int(random.integers(256))))
        read += real._stream(bytes(damaged)) is not None
    assert 0 < read < 5000


def test_real_images_outlive_the_codec(real: NvCodec) -> None:
    (image,) = real.decode([encoded(RAMP)], 0)
    real.close()
    del real
    gc.collect()
    np.testing.assert_array_equal(pixels(image)[..., 0], RAMP)


def test_real_library_says_so_where_there_is_no_such_device(real: NvCodec) -> None:
    with pytest.raises(CodecUnavailable, match=r"neither nvJPEG nor nvJPEG2000|no decoder for device 999"):
        NvCodec(999)


def test_the_real_library_has_every_name_of_the_fake(real: NvCodec) -> None:
    module = FakeLibrary().module()
    nv: Any = sys.modules["nvidia.nvimgcodec"]
    for name, value in vars(module).items():
        if name.startswith("__") and name not in ("__version__", "__cuda_version__"):
            continue
        found = getattr(nv, name)
        if isinstance(value, type) and issubclass(value, Enum):
            for member, each in value.__members__.items():
                if each.name != member:
                    assert getattr(found, member) == getattr(found, each.name), f"{name}.{member} is an alias"
                assert hasattr(found, member)
    assert isinstance(nv.__version__, str)
    assert int(nv.__cuda_version__) > 11000
    assert {"__cuda_array_interface__", "buffer_kind", "sample_format", "precision"} <= set(dir(nv.Image))
