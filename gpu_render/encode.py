"""Samples -> HTJ2K codestream, for clients that show a picture while it arrives. Runs in a worker process.

Transfer syntax HTJ2K (RPCL) Lossless, 1.2.840.10008.1.2.4.202 (PS3.5 10.18): packets by resolution, one tile-part for
each, their lengths listed (TLM), and a lowest resolution of 64 pixels or less. Nothing leaves here that was not decoded
again and found to be the same, sample by sample.
"""

from typing import Any

import imagecodecs
import numpy as np

from gpu_render.decode.codecs import Job, run_codec
from gpu_render.decode.codestream import parse_progression
from gpu_render.errors import NotRenderable
from gpu_render.frame import PixelLayout, Samples

RPCL = 2
BASE_PIXELS = 64
"""Width or height of the lowest resolution is at most this (PS3.5 10.18)."""
USUAL_DECOMPOSITIONS = 5

_HEADER_DEPTHS = 42  # where SIZ has the components' depths: behind SOC, the marker and 36 bytes (ISO 15444-1 A.5.1)


def encode_payload(meta: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker's operation ``encode``: payload are samples of ``layout`` (PixelLayout's fields), C order.

    Raises NotRenderable where the encoder does not do what was asked for.
    """
    layout = PixelLayout(**meta["layout"])
    samples = np.frombuffer(payload, layout.dtype).reshape(layout.shape)
    return {}, encode_htj2k(samples, layout)


def encode_htj2k(samples: Samples, layout: PixelLayout) -> bytes:
    """``samples`` of ``layout.shape`` and ``layout.dtype``: integers of 8 or 16 bits. Colours are decorrelated where
    Photometric Interpretation is YBR_RCT, which the decoder undoes: the samples are RGB then.

    The codestream has Bits Stored as its precision, unless values need more of the container.
    """
    precision = _precision(samples, layout)
    signed = bool(layout.pixel_representation)
    # The encoder knows only whole containers. Without its level shift (G.1.2) the coefficients are those of any
    # precision, so the shift is made here, and the depth is written into the header afterwards.
    shifted = samples if signed else samples.astype(np.int32) - (1 << precision - 1)
    options: dict[str, Any] = {"planar": False} if layout.samples_per_pixel == 3 else {}
    codestream = imagecodecs.htj2k_encode(
        np.ascontiguousarray(shifted, np.int8 if precision <= 8 else np.int16),
        rgb=layout.photometric_interpretation == "YBR_RCT",
        reversible=True,
        resolutions=decompositions(layout.rows, layout.columns),
        tlm=True,
        tilepart=imagecodecs.HTJ2K.TILEPART.RESOLUTIONS,
        **options,
    )
    made = _with_depth(bytes(codestream), precision, signed, layout.samples_per_pixel)
    _check(made, samples, layout)
    return made


def decompositions(rows: int, columns: int) -> int:
    """How often the picture is halved: five times as is usual, more where its lowest resolution would be too large, and
    never below a single row or column."""
    shorter = min(rows, columns)
    needed = max(0, (-(-shorter // BASE_PIXELS) - 1).bit_length())
    return max(1, min(max(USUAL_DECOMPOSITIONS, needed), shorter.bit_length() - 1))


def _precision(samples: Samples, layout: PixelLayout) -> int:
    low, high = layout.stored_range
    fits = layout.high_bit == layout.bits_stored - 1 and samples.min() >= low and samples.max() <= high
    return layout.bits_stored if fits else layout.bits_allocated


def _with_depth(codestream: bytes, precision: int, signed: bool, components: int) -> bytes:
    depths = bytearray(codestream[_HEADER_DEPTHS : _HEADER_DEPTHS + 3 * components])
    depths[::3] = bytes([(0x80 if signed else 0) | precision - 1]) * components
    return codestream[:_HEADER_DEPTHS] + depths + codestream[_HEADER_DEPTHS + len(depths) :]


def _check(codestream: bytes, samples: Samples, layout: PixelLayout) -> None:
    """Raise NotRenderable where PS3.5 10.18 does not hold, or a decoder gives anything else than ``samples``."""
    progression = parse_progression(codestream)
    base = min(layout.rows, layout.columns) / 2**progression.decompositions
    if progression.order != RPCL or base > BASE_PIXELS or not progression.tile_parts:
        raise NotRenderable("the encoder did not order the codestream by resolution")
    decoded, _ = run_codec("htj2k", Job(codestream, layout, threads=1, may_be_lossy=False))
    if not isinstance(decoded, np.ndarray) or not np.array_equal(decoded, samples):
        raise NotRenderable("the encoder did not keep all samples")
