"""nvImageCodec: what it leaves on the device, and whether it can be used. The only file that imports it.

What matters of the library (0.9, and its published source up to 0.8):

- Samples come as the codestream has them only with ``allow_any_depth``; without, they are scaled to 8 bits. Each image
  says its precision, which is compared with the codestream's, as another one would mean that samples were scaled.
- Three components of JPEG come as something else: all are taken for YCbCr, whatever the Adobe marker says, and turned
  into RGB. So only one component of JPEG is decoded. Three of JPEG 2000 come as they are, without a JP2 header's sYCC.
- A decoder for the hardware JPEG engine would get a share of each batch, so that a frame's values could depend on its
  neighbours. It is left out; so are the CPU's decoders, which this project chooses elsewhere; so is the choice between
  two ways of Huffman decoding by the picture's size.
- Memory is allocated and freed in the order of the stream that is handed in, and what the library queues on streams of
  its own is ordered before what that stream does next.
- Memory that cannot be freed, since the device is lost, ends the process: the library throws where nothing may. See
  ``abandon``. It frees images that it could not decode by itself: where it finds the device lost, nothing helps.
- Its parser of JPEG 2000 divides by what the codestream says, and a division by 0 ends the process. So what it is given
  is looked at before; and it is given no JP2, nor any other of the many formats that it would recognise.
"""

import ctypes
import os
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

THREADS = 4  # that parse codestreams; the library takes fewer where there are fewer cores
# The threshold is a number of pixels: none has so many, so all take the same way.
OPTIONS = f"nvjpeg_cuda_decoder:hybrid_huffman_threshold={1 << 62}"

_INSTALL = "install it with pip install 'gpu-render[cuda12]' or 'gpu-render[cuda13]', as the driver's CUDA version says"
_DTYPES = frozenset(np.dtype(name) for name in ("u1", "i1", "<u2", "<i2"))
_CHANNELS = {"jpeg": (1,), "jpeg2k": (1, 3)}
_FACTORS = struct.Struct(">II8xH")  # of SIZ, which is the first segment: tile width and height; number of components
_WHEELS = ("nvidia-nvimgcodec-cu{}", "nvidia-nvjpeg-cu{}", "nvidia-nvjpeg", "nvidia-nvjpeg2k-cu{}")


class CodecUnavailable(RuntimeError):
    """The codec cannot be used here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class CodecImage:
    """An image on the device: ``shape`` (rows, columns, samples), interleaved samples of ``dtype``, rows ``row_stride``
    bytes apart from ``address`` on. ``owner`` keeps the memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    row_stride: int
    owner: object


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Held:
    """An image of the library, and the codestream that queued work may still read."""

    image: Any
    stream: Any


class NvCodec:
    """The codec of one device, for one thread. Raises CodecUnavailable where it cannot be used.

    ``on_host``: the library's CPU decoders, with images in the host's memory. For tests, where there is no device.
    """

    version: str
    """All that results may depend on, but for the device: versions of the libraries in use and of their packages."""

    def __init__(self, device: int, *, on_host: bool = False) -> None:
        self._nv = nv = _import()
        self._on_host = on_host
        self._live: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._kept: list[_Held] = []  # what nobody else holds, until the stream is known to have been waited for
        try:
            self.version = _version(nv, needed=not on_host)
            kinds = [nv.BackendKind.GPU_ONLY, nv.BackendKind.HYBRID_CPU_GPU]
            self._decoder: Any = nv.Decoder(
                device_id=nv.NVIMGCODEC_DEVICE_CPU_ONLY if on_host else device,
                max_num_cpu_threads=THREADS,
                backends=[nv.Backend(kind) for kind in ([nv.BackendKind.CPU_ONLY] if on_host else kinds)],
                options=OPTIONS,
            )
            self._params = nv.DecodeParams(
                allow_any_depth=True,
                apply_exif_orientation=False,
                color_spec=nv.ColorSpec.UNCHANGED,
                sample_format=nv.SampleFormat.I_UNCHANGED,
            )
            self._formats = {nv.SampleFormat.I_UNCHANGED, nv.SampleFormat.I_Y, nv.SampleFormat.I_RGB}
            self._colours = {nv.ColorSpec.UNCHANGED, nv.ColorSpec.UNKNOWN, nv.ColorSpec.GRAY, nv.ColorSpec.SRGB}
            self._memory = nv.ImageBufferKind.STRIDED_HOST if on_host else nv.ImageBufferKind.STRIDED_DEVICE
        except (AttributeError, TypeError, ValueError) as error:
            raise CodecUnavailable(f"this version of nvImageCodec is not known: {_INSTALL}") from error
        except CodecUnavailable:
            raise
        except RuntimeError as error:
            raise CodecUnavailable(f"nvImageCodec makes no decoder for device {device}") from error

    def decode(self, codestreams: Sequence[bytes], stream_ptr: int) -> list[CodecImage | None]:
        """One image for each codestream, None where it is refused. The work is queued on the CUDA stream, by one call
        of the library. The caller waits for the stream before it calls again, whether this returns or raises."""
        if self._decoder is None:
            raise RuntimeError("the codec is closed")
        streams = [self._stream(data) for data in codestreams]
        readable = [stream for stream in streams if stream is not None]
        self._kept = [_Held(None, readable)]
        images = self._decode(readable, stream_ptr)
        self._kept = [_Held(image, s) for image, s in zip(images, readable, strict=True) if image is not None]
        self._live.update(self._kept)
        found = {id(held.stream): self._image(held, stream_ptr) for held in self._kept}
        self._kept = [held for held in self._kept if found[id(held.stream)] is None]
        return [found.get(id(stream)) for stream in streams]

    def abandon(self) -> None:
        """The device is lost: never release anything that still lives, for that would end the process."""
        for each in (*self._live, self._decoder):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
        self._decoder = None

    def close(self) -> None:
        """Release the codec. Images that the caller still holds keep their memory until they are dropped."""
        self._kept.clear()
        if self._decoder is not None:
            self._decoder.__exit__(None, None, None)
            self._decoder = None

    def _stream(self, data: bytes) -> Any | None:
        """The library's view of a codestream; None for one that it cannot read or would not leave as it is."""
        if not _harmless(data):
            return None
        try:
            stream = self._nv.CodeStream(data)
            known = stream.num_channels in _CHANNELS.get(stream.codec_name, ())
            coloured = stream.num_channels > 1 and stream.color_spec not in self._colours
        except (RuntimeError, ValueError, MemoryError):
            return None
        return stream if known and not coloured else None

    def _decode(self, streams: list[Any], stream_ptr: int) -> list[Any]:
        if not streams:
            return []
        images = list(self._decoder.decode(streams, params=self._params, cuda_stream=stream_ptr))
        if len(images) != len(streams):
            self._kept = [_Held(images, streams)]
            self._live.update(self._kept)
            raise RuntimeError("nvImageCodec did not answer for each codestream")
        return images

    def _image(self, held: _Held, stream_ptr: int) -> CodecImage | None:
        """None where the library left something else than the codestream's samples, interleaved."""
        image = held.image
        if image.buffer_kind != self._memory or image.sample_format not in self._formats:
            return None
        if image.precision != held.stream.precision:
            return None
        interface = image.__array_interface__ if self._on_host else image.__cuda_array_interface__
        if not self._on_host and interface["stream"] != stream_ptr:
            return None
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        if len(shape) != 3 or min(shape) < 1 or shape[2] != held.stream.num_channels or dtype not in _DTYPES:
            return None
        pixel = shape[2] * dtype.itemsize
        strides = tuple(interface["strides"] or (shape[1] * pixel, pixel, dtype.itemsize))
        if strides[1:] != (pixel, dtype.itemsize) or strides[0] < shape[1] * pixel:
            return None
        return CodecImage(interface["data"][0], shape, dtype, strides[0], held)


def _import() -> ModuleType:
    # Silent where nobody asks otherwise: by default it writes coloured lines to stderr for each damaged codestream.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    try:
        from nvidia import nvimgcodec
    except (ImportError, OSError) as error:
        raise CodecUnavailable(f"nvImageCodec cannot be imported: {_INSTALL}") from error
    module: ModuleType = nvimgcodec
    return module


def _harmless(data: bytes) -> bool:
    """Whether the library may parse a codestream: JPEG, or raw JPEG 2000 by whose tiles and factors one can divide."""
    if not data.startswith(b"\xff\x4f\xff\x51") or len(data) < 51:
        return data.startswith(b"\xff\xd8\xff")
    *tile, components = _FACTORS.unpack_from(data, 24)
    if components not in _CHANNELS["jpeg2k"] or not all(0 < size < 1 << 31 for size in tile):
        return False
    end = 42 + 3 * components  # of its bit depths and its two subsampling factors
    return set(data[43:end:3] + data[44:end:3]) == {1}


def _version(nv: ModuleType, *, needed: bool) -> str:
    """Raises CodecUnavailable where neither nvJPEG nor nvJPEG2000 is there though they are ``needed``."""
    cuda = int(nv.__cuda_version__) // 1000
    jpeg = _loaded(f"libnvjpeg.so.{cuda}", "nvjpegGetProperty")
    jpeg2000 = _loaded("libnvjpeg2k.so.0", "nvjpeg2kGetProperty")
    if needed and not jpeg and not jpeg2000:
        raise CodecUnavailable(f"nvImageCodec finds neither nvJPEG nor nvJPEG2000: {_INSTALL}")
    libraries = f"nvImageCodec {nv.__version__} for CUDA {cuda}, nvJPEG {jpeg or '-'}, nvJPEG2000 {jpeg2000 or '-'}"
    return f"{libraries} ({', '.join(_packages(cuda))})"


def _packages(cuda: int) -> list[str]:
    found = []
    for name in (wheel.format(cuda) for wheel in _WHEELS):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _loaded(library: str, get_property: str) -> str:
    """The version that a shared library states, if this process has loaded it; otherwise empty."""
    try:
        function = getattr(ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_NOW), get_property)
    except (OSError, AttributeError):
        return ""
    parts = [ctypes.c_int(-1) for _ in range(3)]  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL of libraryPropertyType
    for place, part in enumerate(parts):
        function(place, ctypes.byref(part))
    return ".".join(str(part.value) for part in parts)
