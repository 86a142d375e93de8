"""Codecs: codestream -> samples. Runs in a worker process; a codec library is called here and nowhere else.

Every codec compares what the codestream declares with the dataset before it decodes, and returns samples of the
layout's shape and container. Colour transforms that belong to the codestream (JPEG 2000 MCT) are undone by the codec;
those that belong to the dataset (YBR_FULL of JPEG) are left alone: Photometric Interpretation decides, not APP14.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from gpu_render.decode.codestream import Jpeg2000Header, JpegHeader, parse_jpeg
from gpu_render.decode.declared import check_declared, jpeg2000_header, photometric_of, widened
from gpu_render.decode.jpeg_count import takes_all
from gpu_render.decode.jpeg_probes import Ahead, Probes
from gpu_render.errors import (
    CorruptPixelData,
    DecoderTimeout,
    NotRenderable,
    RenderError,
)
from gpu_render.frame import PixelLayout, Samples
from kernels.packing import Packed, Packing, unpack

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One frame for a codec: codestream, dataset's layout, threads it may use, whether its syntax may be lossy."""

    data: bytes
    layout: PixelLayout
    threads: int
    may_be_lossy: bool


Codec = Callable[[Job], tuple[Samples | Packed, str]]
"""-> samples (layout.shape, layout.dtype), maybe packed, and the Photometric Interpretation they have."""


def decode_payload(meta: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The worker's operation ``decode``.

    ``meta``: ``codec`` (a name in CODECS), ``layout`` (PixelLayout's fields), ``threads``, ``may_be_lossy``, and
    ``packed``: whether samples that the codec leaves packed are unpacked by the caller.
    Returns ``{"photometric_interpretation": ..., "packing": ...}`` (a Packing, or None) and the samples as flat bytes.
    """
    job = Job(bytes(payload), PixelLayout(**meta["layout"]), meta["threads"], meta["may_be_lossy"])
    samples, photometric = run_codec(meta["codec"], job)
    if isinstance(samples, Packed) and not meta["packed"]:
        samples = unpack(samples)
    answer = {"photometric_interpretation": photometric, "packing": None}
    if isinstance(samples, Packed):
        return answer | {"packing": int(samples.packing)}, samples.data.data
    return answer, np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data


def run_codec(name: str, job: Job) -> tuple[Samples | Packed, str]:
    """Decode with one codec. Raises CorruptPixelData, DecoderTimeout (memory), NotRenderable."""
    try:
        with _no_lost_errors():
            samples, photometric = CODECS[name](job)
    except (RenderError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - codec libraries raise what they like; their text stays here
        raise CorruptPixelData(f"the {name} decoder refused the codestream ({type(error).__name__})") from None
    if samples.shape != job.layout.shape or samples.dtype != job.layout.dtype:
        raise CorruptPixelData(f"{name} gave {samples.shape} {samples.dtype}, expected {job.layout.shape}")
    return samples, photometric


@contextmanager
def _no_lost_errors() -> Iterator[None]:
    """Turn an exception that a C extension could not raise into CorruptPixelData.

    imagecodecs' HTJ2K reports a broken code block only as "exception ignored", and returns a wrong picture.
    """
    lost: list[type[BaseException]] = []
    previous = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: lost.append(unraisable.exc_type)
    try:
        yield
    finally:
        sys.unraisablehook = previous
    if any(issubclass(kind, MemoryError) for kind in lost):
        raise DecoderTimeout("stopped at its memory limit")
    if lost:
        raise CorruptPixelData("the decoder met an error inside the codestream")


def to_container(values: Array, precision: int, signed: bool, layout: PixelLayout) -> Samples:
    """Put decoded values into the dataset's container.

    Where the codestream and Pixel Representation agree on the sign, values are kept. Where they do not, the
    ``precision`` low bits are kept and read as Pixel Representation says.
    """
    if signed == bool(layout.pixel_representation):
        return values.astype(layout.dtype, copy=False)
    unused = 8 * layout.dtype.itemsize - precision
    raw = values.astype(f"<u{layout.dtype.itemsize}", copy=False)
    return (raw << unused).view(layout.dtype) >> unused if unused else raw.view(layout.dtype)


def _clamp(samples: Samples, layout: PixelLayout, most: int | None = None) -> Samples:
    """Lossy codecs overshoot: clamp to Bits Stored; masking would turn white into black.

    ``most``: how far this codestream can overshoot, where that is known. What lies farther out is an overlay or a sign
    in the bits above Bits Stored, or the loss of an encoder that says it lost nothing: NotRenderable.
    """
    if layout.high_bit != layout.bits_stored - 1:
        raise NotRenderable("a lossy codestream with High Bit other than Bits Stored - 1 has no defined values")
    if layout.bits_stored == 8 * layout.dtype.itemsize:
        return samples
    low, high = layout.stored_range
    clamped = np.clip(samples, low, high)
    if most is not None:
        limits = np.iinfo(layout.dtype)  # type: ignore[type-var]  # a codec's samples are integers
        if not np.array_equal(np.clip(samples, max(low - most, limits.min), min(high + most, limits.max)), samples):
            raise NotRenderable("bits above Bits Stored in a codestream that may be lossy: overshoot or an overlay")
    return clamped


def _rle(job: Job) -> tuple[Packed, str]:
    """RLE Lossless, PS3.5 annex G: a segment for each byte of each sample, most significant byte first.

    Segment by segment: a whole-frame decoder that only compares the total lets a long one make up for a short one.
    """
    layout = job.layout
    if layout.bits_allocated % 8 or layout.is_float:
        raise CorruptPixelData(f"RLE with Bits Allocated {layout.bits_allocated} is not defined")
    pixels, size = layout.rows * layout.columns, layout.dtype.itemsize
    planes = np.empty((layout.samples_per_pixel * size, pixels), np.uint8)
    for plane, segment in zip(planes, _rle_segments(job.data, len(planes)), strict=True):
        unpacked = np.frombuffer(imagecodecs.packbits_decode(segment), np.uint8)
        # What follows the pixels can only be padding, which unpacks to zeros.
        if unpacked.size < pixels or unpacked[pixels:].any():
            raise CorruptPixelData(f"an RLE segment has {unpacked.size} bytes, expected {pixels}")
        plane[:] = unpacked[:pixels]
    packed = Packed(planes.reshape(-1), Packing.BYTE_PLANES, layout.shape, layout.dtype)
    return packed, layout.photometric_interpretation


def _rle_segments(data: bytes, expected: int) -> list[bytes]:
    """The segments as the header (PS3.5 G.5) places them."""
    if len(data) < 64:
        raise CorruptPixelData("the RLE frame is shorter than its header")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != expected or count > 15:
        raise CorruptPixelData(f"the RLE frame has {count} segments, expected {expected}")
    spans = list(pairwise([*offsets[:count], len(data)]))
    if offsets[0] != 64 or any(start >= end for start, end in spans):
        raise CorruptPixelData("the offsets of the RLE frame do not rise, or reach beyond its end")
    return [data[start:end] for start, end in spans]


def _jpeg(job: Job, processes: tuple[int, ...]) -> tuple[Array, JpegHeader]:
    """Components as the codestream has them, chroma upsampled, no colour transform."""
    header = parse_jpeg(job.data)
    if header.start_of_frame not in processes:
        raise CorruptPixelData(
            f"JPEG process SOF{header.start_of_frame - 0xC0} does not belong to this transfer syntax"
        )
    check_declared(job.layout, header.rows, header.columns, len(header.components), header.precision)
    # The same name in and out switches libjpeg's own transform, and its guess from APP14 and JFIF, off.
    space = "GRAYSCALE" if len(header.components) == 1 else "YCBCR"
    decode = partial(imagecodecs.jpeg8_decode, colorspace=space, outcolorspace=space)
    if header.start_of_frame == 0xC3:
        values = decode(job.data)
        if not takes_all(job.data, header, values):
            Probes(job.data, header).check(values, decode)
        return values, header
    probes = Probes(job.data, header)
    with Ahead(decode, job.threads, [job.data, *probes.first()]) as decoded:
        values = decoded(job.data)
        probes.check(values, decoded)
    return values, header


def _jpeg_lossy(job: Job) -> tuple[Samples, str]:
    """JPEG baseline and extended, 8 and 12 bit (ISO 10918-1 processes 1, 2, 4); progressive where mislabelled."""
    values, header = _jpeg(job, (0xC0, 0xC1, 0xC2))
    precision = max(header.precision, job.layout.bits_stored)
    samples = _clamp(to_container(values, precision, False, job.layout), job.layout)
    return samples, photometric_of(job.layout)


def _jpeg_lossless(job: Job) -> tuple[Samples, str]:
    """JPEG lossless (process 14), any predictor; a point transform is undone as ISO 10918-1 H.2.2 says."""
    values, header = _jpeg(job, (0xC3,))
    if header.subsampled:
        raise CorruptPixelData("lossless JPEG with subsampled components")
    precision = max(header.precision, job.layout.bits_stored)
    return to_container(values, precision, False, job.layout), job.layout.photometric_interpretation


def _jpeg_ls(job: Job) -> tuple[Samples, str]:
    """JPEG-LS (ISO 14495-1), which knows no sign: signed samples are stored as their raw bits."""
    header = parse_jpeg(job.data)
    if header.start_of_frame != 0xF7 or header.mapping_table:
        raise CorruptPixelData("not a JPEG-LS codestream, or one with mapping tables")
    check_declared(job.layout, header.rows, header.columns, len(header.components), header.precision)
    values = imagecodecs.jpegls_decode(job.data)
    if (
        job.layout.pixel_representation
        and header.precision < job.layout.bits_stored
        and values.max() >> (header.precision - 1)
    ):
        raise CorruptPixelData(f"readers disagree on the sign of {header.precision} bits a sample in JPEG-LS")
    samples = to_container(values, header.precision, False, job.layout)
    near = header.first_scan.start
    if near:
        samples = _clamp(samples, job.layout, near)
    return samples, job.layout.photometric_interpretation


def _jpeg2000(job: Job) -> tuple[Samples, str]:
    """JPEG 2000, and HTJ2K that may be lossy, through OpenJPEG, which clamps to the codestream's precision."""
    header = jpeg2000_header(job.data, job.layout, max_precision=24)
    # With threads, OpenJPEG forgets the error of a high-throughput code block and shows what was decoded of it.
    threads = 1 if header.high_throughput else job.threads
    values = imagecodecs.jpeg2k_decode(job.data[header.start : header.end], numthreads=threads)
    return _wavelet_samples(job, header, values)


def _htj2k_lossless(job: Job) -> tuple[Samples, str]:
    """HTJ2K through OpenJPH, which wraps values beyond the range: reversible codestreams only."""
    header = jpeg2000_header(job.data, job.layout, max_precision=16)
    if not header.reversible:
        raise CorruptPixelData("an irreversible codestream in a lossless transfer syntax")
    wide = imagecodecs.htj2k_decode(widened(job.data[header.start : header.end], header), planar=False)
    half = 1 << (header.precision - 1)
    if wide.min() < -half or wide.max() >= half:
        raise CorruptPixelData(f"values beyond the {header.precision} bits that the lossless codestream declares")
    kind = f"{'i' if header.signed else 'u'}{1 if header.precision <= 8 else 2}"
    return _wavelet_samples(job, header, (wide if header.signed else wide + half).astype(kind))


def _wavelet_samples(job: Job, header: Jpeg2000Header, values: Array) -> tuple[Samples, str]:
    samples = to_container(values, header.precision, header.signed, job.layout)
    if job.may_be_lossy or not header.reversible:
        samples = _clamp(samples, job.layout, 0 if header.reversible else None)
    return samples, photometric_of(job.layout)


def _jpeg_xl(job: Job) -> tuple[Samples, str]:
    """JPEG XL (ISO 18181-1). Its size is only known once decoded; the worker's memory limit stands before that."""
    _check_jpeg_xl(job)
    if b"jbrd" in job.data and job.layout.photometric_interpretation.startswith("YBR"):
        raise CorruptPixelData("a recompressed JPEG, which comes out as RGB, in a dataset that says YBR")
    values = imagecodecs.jpegxl_decode(job.data, keeporientation=True, numthreads=job.threads)
    if values.shape != job.layout.shape or values.dtype.kind != "u":
        raise CorruptPixelData(f"the codestream has shape {values.shape}, the dataset says {job.layout.shape}")
    if values.dtype.itemsize > job.layout.dtype.itemsize:
        declared = f"the dataset allocates {job.layout.bits_allocated}"
        raise CorruptPixelData(f"the codestream has more than 8 bits a sample, {declared}")
    samples = to_container(values, job.layout.bits_stored, False, job.layout)
    if job.may_be_lossy:
        samples = _clamp(samples, job.layout)
    photometric = job.layout.photometric_interpretation
    return samples, "RGB" if photometric == "XYB" else photometric


def _jpeg_xl_recompression(job: Job) -> tuple[Samples, str]:
    """JPEG XL JPEG Recompression: the JPEG codestream comes back bit by bit, and is decoded as one."""
    _check_jpeg_xl(job)
    return _jpeg_lossy(replace(job, data=bytes(imagecodecs.jpegxl_decode_jpeg(job.data, numthreads=job.threads))))


def _check_jpeg_xl(job: Job) -> None:
    if not job.data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        raise CorruptPixelData("the codestream does not begin with a JPEG XL signature")
    if job.layout.bits_allocated not in (8, 16) or job.layout.is_float:
        raise CorruptPixelData(f"JPEG XL with Bits Allocated {job.layout.bits_allocated} is not supported")


CODECS: dict[str, Codec] = {
    "rle": _rle,
    "jpeg": _jpeg_lossy,
    "jpeg-lossless": _jpeg_lossless,
    "jpeg-ls": _jpeg_ls,
    "jpeg2000": _jpeg2000,
    "htj2k": _htj2k_lossless,
    "jpeg-xl": _jpeg_xl,
    "jpeg-xl-recompression": _jpeg_xl_recompression,
}
