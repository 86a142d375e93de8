"""Encoded frame -> samples in host memory. One decoder a transfer syntax, chosen up front; never another instead."""

import importlib
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version

import numpy as np

from gpu_render.decode.native import check_layout, decode_native, inflate
from gpu_render.errors import CorruptPixelData, UnsupportedTransferSyntax
from gpu_render.frame import DecodedFrame, EncodedFrame, PixelLayout, Samples
from gpu_render.workers import MIB, WorkerPool
from kernels.packing import Packed, Packing

_PHOTOMETRIC_INTERPRETATIONS = {
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_PARTIAL_422",
    "YBR_PARTIAL_420",
}


@dataclass(frozen=True, slots=True)
class Decoder:
    """How one transfer syntax (PS3.6 Table A-1) is decoded.

    ``codec``: reported as X-Decode-Backend, and the key of codecs.CODECS where ``needs_worker``; ``library``: an
    imagecodecs ``..._version`` function's stem, or empty. ``may_be_lossy``: output is clamped to Bits Stored.
    """

    uid: str
    name: str
    codec: str
    library: str = ""
    may_be_lossy: bool = False

    @property
    def needs_worker(self) -> bool:
        """Whether a codec library reads the bytes: then only in a process that may be killed."""
        return bool(self.library)


DECODERS: dict[str, Decoder] = {
    decoder.uid: decoder
    for decoder in (
        Decoder("1.2.840.10008.1.2", "Implicit VR Little Endian", "native"),
        Decoder("1.2.840.10008.1.2.1", "Explicit VR Little Endian", "native"),
        Decoder("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", "native"),
        Decoder("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", "native"),
        Decoder("1.2.840.10008.1.2.2", "Explicit VR Big Endian", "native-big-endian"),
        Decoder("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", "deflate"),
        Decoder("1.2.840.10008.1.2.5", "RLE Lossless", "rle", "packbits"),
        Decoder("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", "jpeg", "jpeg8", True),
        Decoder("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 and 4)", "jpeg", "jpeg8", True),
        Decoder("1.2.840.10008.1.2.4.57", "JPEG Lossless (Process 14)", "jpeg-lossless", "jpeg8"),
        Decoder("1.2.840.10008.1.2.4.70", "JPEG Lossless (Process 14, SV1)", "jpeg-lossless", "jpeg8"),
        Decoder("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless", "jpeg-ls", "jpegls"),
        Decoder("1.2.840.10008.1.2.4.81", "JPEG-LS Near-lossless", "jpeg-ls", "jpegls", True),
        Decoder("1.2.840.10008.1.2.4.90", "JPEG 2000 (Lossless Only)", "jpeg2000", "jpeg2k"),
        Decoder("1.2.840.10008.1.2.4.91", "JPEG 2000", "jpeg2000", "jpeg2k", True),
        # Part 2 contains Part 1: a codestream without its extensions is decoded, one with them is refused by the codec.
        Decoder("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 (Lossless Only)", "jpeg2000", "jpeg2k"),
        Decoder("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2", "jpeg2000", "jpeg2k", True),
        Decoder("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", "jpeg-xl", "jpegxl"),
        Decoder("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", "jpeg-xl-recompression", "jpegxl", True),
        Decoder("1.2.840.10008.1.2.4.112", "JPEG XL", "jpeg-xl", "jpegxl", True),
        Decoder("1.2.840.10008.1.2.4.201", "HTJ2K (Lossless Only)", "htj2k", "htj2k"),
        Decoder("1.2.840.10008.1.2.4.202", "HTJ2K RPCL (Lossless Only)", "htj2k", "htj2k"),
        # OpenJPH wraps values beyond the range of a lossy codestream; OpenJPEG clamps them.
        Decoder("1.2.840.10008.1.2.4.203", "HTJ2K", "jpeg2000", "jpeg2k", True),
    )
}

_NEEDED: dict[str, str] = {
    **{f"1.2.840.10008.1.2.4.{n}": "a JPIP client" for n in (94, 95, 204, 205)},
    **{f"1.2.840.10008.1.2.4.{n}": "a video decoder" for n in range(100, 109)},
    **{f"1.2.840.10008.1.2.4.{n}.1": "a video decoder" for n in range(100, 107)},
    **{f"1.2.840.10008.1.2.7.{n}": "an SMPTE ST 2110 receiver" for n in (1, 2, 3)},
}


def find_decoder(transfer_syntax_uid: str) -> Decoder:
    """The row of DECODERS. Raises UnsupportedTransferSyntax, saying what would be needed."""
    decoder = DECODERS.get(transfer_syntax_uid)
    if decoder is None:
        from pydicom.uid import UID  # here: decoders' processes have no other need of pydicom, and it takes 25 MB

        name = UID(transfer_syntax_uid).name
        needed = _NEEDED.get(transfer_syntax_uid, "a decoder for it")
        raise UnsupportedTransferSyntax(f"transfer syntax {transfer_syntax_uid} ({name}) needs {needed}")
    return decoder


def decode(encoded: EncodedFrame, pool: WorkerPool, *, cores: int = 1, packed: bool = False) -> DecodedFrame:
    """Samples of one frame, blocking. ``cores``: processor cores of the machine, shared by the calls running now.
    ``packed``: leave to a device what one can unpack.

    ``timings["decode"]`` [ms]. Raises UnsupportedTransferSyntax, CorruptPixelData, DecoderTimeout, NotRenderable,
    TooLarge (beyond the pool's shared memory), Overloaded (pool closed), NoProcessorTime.
    """
    decoder = find_decoder(encoded.transfer_syntax_uid)
    layout = encoded.layout
    check_layout(layout)
    started = time.perf_counter()
    samples: Samples | Packed
    if decoder.needs_worker:
        samples, layout = _decode_in_worker(encoded, decoder, pool, cores, packed)
    elif decoder.codec == "deflate":
        samples, layout = decode_native(inflate(encoded.data, layout), layout, big_endian=False, packed=packed)
    else:
        samples, layout = decode_native(encoded.data, layout, decoder.codec == "native-big-endian", packed=packed)
    named = encoded.decoder or decoder.codec
    return DecodedFrame(samples, layout, named, {"decode": (time.perf_counter() - started) * 1000})


def _decode_in_worker(
    encoded: EncodedFrame, decoder: Decoder, pool: WorkerPool, cores: int, packed: bool
) -> tuple[Samples | Packed, PixelLayout]:
    layout = encoded.layout
    size = int(np.prod(layout.shape, dtype=object)) * layout.dtype.itemsize
    meta = {
        "codec": decoder.codec,
        "layout": _fields(layout),
        "threads": max(1, cores // (pool.busy + 1)),
        "may_be_lossy": decoder.may_be_lossy,
        "packed": packed,
    }
    seconds, memory = time_limit_s(size), memory_limit(size)
    try:
        reply, flat = pool.call("decode", meta, encoded.data, timeout_s=seconds, result_bytes=size, memory_bytes=memory)
    except UnsupportedTransferSyntax as error:  # a part of it: the codec knows which, but not the syntax
        raise UnsupportedTransferSyntax(f"transfer syntax {decoder.uid} ({decoder.name}): {error}") from None
    # A worker may have been taken over by what it decoded: nothing it says is believed unchecked.
    photometric = reply.get("photometric_interpretation")
    known = photometric == layout.photometric_interpretation or photometric in _PHOTOMETRIC_INTERPRETATIONS
    packing = reply.get("packing")
    expected = packing is None or (packed and packing == Packing.BYTE_PLANES)  # which take as many bytes as samples
    if flat.nbytes != size or not isinstance(photometric, str) or not known or not expected:
        raise CorruptPixelData(f"the decoder gave {flat.nbytes} bytes, expected {size}")
    decoded = replace(layout, photometric_interpretation=photometric, planar_configuration=0)
    if packing is not None:
        return Packed(flat, Packing.BYTE_PLANES, layout.shape, layout.dtype), decoded
    return flat.view(layout.dtype).reshape(layout.shape), decoded


@lru_cache(maxsize=256)
def _fields(layout: PixelLayout) -> dict[str, int | str | bool]:
    """A layout for JSON."""
    return asdict(layout)


def time_limit_s(size: int) -> float:
    """Processor time [s] a decoder may take for ``size`` decoded bytes. Valid files were measured at a tenth of it or
    less."""
    return 2.0 + size / 50e6


def memory_limit(size: int) -> int:
    """Memory [byte] a decoder may take for ``size`` decoded bytes."""
    return 512 * MIB + 8 * size


def codec_versions() -> dict[str, str]:
    """Codec name -> library and version, for ``gpu-render info``. Loads the codec libraries into this process."""
    package = f"imagecodecs {version('imagecodecs')}"
    codecs = importlib.import_module("imagecodecs")
    versions = {"native": f"numpy {np.__version__}"}
    for decoder in DECODERS.values():
        if decoder.needs_worker:
            versions[decoder.codec] = f"{package}, {getattr(codecs, decoder.library + '_version')()}"
        else:
            versions[decoder.codec] = versions["native"]
    return versions
