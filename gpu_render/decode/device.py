"""Which frames the device may decode, and what its codec has to give for them. Runs in the service's own process: it
reads headers only.

Whatever is unusual is the CPU's: it decodes it, or says what is wrong. What is planned here has to come out as the
CPU's decoder gives it, bit by bit, or not at all: see ``docs/decisions/0007-gpu-decoding.md``.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gpu_render.decode.codestream import Jpeg2000Header, JpegHeader, parse_jpeg
from gpu_render.decode.declared import check_declared, jpeg2000_header, photometric_of, widened
from gpu_render.decode.jpeg_probes import Probes
from gpu_render.decode.native import check_layout
from gpu_render.decode.proof import Kind, ProofFile, ProofTable, ProvenRow, digest
from gpu_render.errors import RenderError
from gpu_render.frame import EncodedFrame, PixelLayout, Presentation, Samples
from gpu_render.reference import FrameRef
from gpu_render.transform import fold
from gpu_render.view import Stage, View
from kernels import Backend, Codestream, DeviceError, RenderJob, render

log = logging.getLogger("gpu_render")

DECODER = "nvimgcodec"

SAMPLE_REF = FrameRef("2.25.1", "2.25.2", "2.25.4", 1)

#: Most bits a sample that leave room for two more in 16, where values beyond the range show.
_WIDENED_BITS = 14


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """How the device decodes a frame: ``codestream`` for its codec, ``layout`` of the samples that come out,
    ``decoder`` for X-Decode-Backend, and ``kind``: what has to be proven."""

    codestream: Codestream
    layout: PixelLayout
    decoder: str
    kind: Kind


def plan(encoded: EncodedFrame, table: ProofTable) -> DevicePlan | None:
    """How the device decodes a frame. None where the CPU has to: it is not proven, too small, or unusual."""
    if encoded.transfer_syntax_uid not in table.transfer_syntaxes:
        return None
    found = describe(encoded)
    if found is None:
        return None
    row = table.find(found.kind)
    return found if row is not None and row.covers(encoded.layout.rows, encoded.layout.columns) else None


def describe(encoded: EncodedFrame) -> DevicePlan | None:
    """The plan for a frame, whether it is proven or not. None where no proof could cover it."""
    make, layout = _PLANS.get(encoded.transfer_syntax_uid), encoded.layout
    if make is None or layout.is_float or layout.bits_allocated not in (8, 16):
        return None
    try:
        check_layout(layout)
        return make(encoded, bytes(encoded.data))
    except RenderError:
        return None  # the CPU says what is wrong


def _jpeg2000(encoded: EncodedFrame, data: bytes) -> DevicePlan | None:
    """Reversible, and coded as nearly all are: ``prove`` tries nothing else. High throughput only where values beyond
    the range show, for the CPU refuses them."""
    layout = encoded.layout
    may_be_lossy = encoded.transfer_syntax_uid in _MAY_BE_LOSSY
    header = jpeg2000_header(data, layout, max_precision=16)
    if not header.reversible or not header.plain:
        return None
    if header.high_throughput != (encoded.transfer_syntax_uid in _HIGH_THROUGHPUT):
        return None
    if may_be_lossy and layout.bits_stored < layout.bits_allocated:
        return None  # the CPU clamps to Bits Stored
    if header.high_throughput and header.precision > _WIDENED_BITS:
        return None
    return _wavelet(encoded, data, header)


def _wavelet(encoded: EncodedFrame, data: bytes, header: Jpeg2000Header) -> DevicePlan:
    layout = encoded.layout
    stream = data[header.start : header.end]
    half = 1 << (header.precision - 1)
    low, high = (-half, half - 1) if header.signed else (0, 2 * half - 1)
    codestream = Codestream(
        data=stream,
        codec="jpeg2000",
        shape=layout.shape,
        dtype=layout.dtype,
        precision=header.precision,
        signed=header.signed,
        offset=0,
        low=low,
        high=high,
        sign_bits=0 if header.signed == bool(layout.pixel_representation) else header.precision,
    )
    if header.precision <= _WIDENED_BITS:
        codestream = replace(
            codestream,
            data=widened(stream, header),
            precision=header.precision + 2,
            signed=True,
            offset=0 if header.signed else half,
        )
    kind = Kind(
        transfer_syntax_uid=encoded.transfer_syntax_uid,
        precision=header.precision,
        signed=header.signed,
        components=header.components,
        reversible=header.reversible,
        high_throughput=header.high_throughput,
        color_transform=header.multiple_component_transform,
    )
    return DevicePlan(codestream, _decoded_layout(layout), f"{DECODER}-jpeg2000", kind)


def _jpeg_lossless(encoded: EncodedFrame, data: bytes) -> DevicePlan | None:
    """With a predictor of the transfer syntax, without a point transform."""
    header = _jpeg_header(data, 0xC3)
    predictors = range(1, 2 if encoded.transfer_syntax_uid == _FIRST_ORDER else 8)
    if header is None or header.first_scan.low or header.first_scan.start not in predictors:
        return None
    return _jpeg(encoded, data, header)


def _jpeg_lossy(encoded: EncodedFrame, data: bytes) -> DevicePlan | None:
    """Baseline, 8 bits."""
    full = encoded.layout.bits_stored == encoded.layout.bits_allocated == 8
    header = _jpeg_header(data, 0xC0) if full else None
    return _jpeg(encoded, data, header) if header is not None else None


def _jpeg_header(data: bytes, process: int) -> JpegHeader | None:
    """Of one component without restart intervals; None for any other. Three components come out of nvJPEG transformed,
    whatever the dataset says."""
    # RST0, before the restart markers are counted, which may be millions; DRI; DNL. Entropy-coded data hold none.
    if any(marker in data for marker in (b"\xff\xd0", b"\xff\xdd", b"\xff\xdc")):
        return None
    header = parse_jpeg(data)
    factors = [(component.horizontal, component.vertical) for component in header.components]
    return header if header.start_of_frame == process and factors == [(1, 1)] else None


def _jpeg(encoded: EncodedFrame, data: bytes, header: JpegHeader) -> DevicePlan | None:
    layout = encoded.layout
    check_declared(layout, header.rows, header.columns, 1, header.precision)
    if layout.photometric_interpretation.startswith("YBR"):
        return None  # of one component
    witnesses = Probes(data, header).witnesses(layout.rows * layout.columns)
    if not witnesses:
        return None
    codestream = Codestream(
        data=data,
        codec="jpeg",
        shape=layout.shape,
        dtype=layout.dtype,
        precision=header.precision,
        signed=False,
        offset=0,
        low=0,
        high=(1 << header.precision) - 1,
        sign_bits=max(header.precision, layout.bits_stored) if layout.pixel_representation else 0,
        witnesses=witnesses,
    )
    kind = Kind(
        transfer_syntax_uid=encoded.transfer_syntax_uid,
        precision=header.precision,
        signed=False,
        components=1,
        reversible=header.start_of_frame == 0xC3,
        high_throughput=False,
        color_transform=False,
    )
    return DevicePlan(codestream, _decoded_layout(layout), f"{DECODER}-jpeg", kind)


def _decoded_layout(layout: PixelLayout) -> PixelLayout:
    return replace(layout, photometric_interpretation=photometric_of(layout), planar_configuration=0)


_SYNTAX = "1.2.840.10008.1.2.4."
_FIRST_ORDER = _SYNTAX + "70"
_HIGH_THROUGHPUT = {_SYNTAX + n for n in ("201", "202", "203")}
_MAY_BE_LOSSY = {_SYNTAX + n for n in ("91", "203")}
_PLANS: dict[str, Callable[[EncodedFrame, bytes], DevicePlan | None]] = {
    **{_SYNTAX + n: _jpeg_lossy for n in ("50", "51")},
    **{_SYNTAX + n: _jpeg_lossless for n in ("57", "70")},
    **{_SYNTAX + n: _jpeg2000 for n in ("90", "91", "201", "202", "203")},
}


def check(backend: Backend, file: ProofFile) -> ProofTable:
    """What the file proves of this backend's codec, after it has decoded the sample of each row once more.

    A row whose sample comes out otherwise is not used. Called before anybody else uses the backend.
    """
    table = ProofTable.of(file, backend.codec)
    if not backend.codec or not table:
        if backend.codec:
            log.info("the CPU decodes: nothing is proven of %s; see gpu-render prove", backend.codec)
        return ProofTable()
    rows = list(table)
    frames = [sample_frame(row) for row in rows]
    try:
        shown = decode_here(backend, frames)
    except DeviceError as error:
        log.error("the CPU decodes: the device failed on the samples of the proof table (%s)", error)
        return ProofTable()
    right = [_holds(*each) for each in zip(rows, frames, shown, strict=True)]
    wrong = [row.kind for row, holds in zip(rows, right, strict=True) if not holds]
    if wrong:
        kinds = "; ".join(map(str, wrong))
        log.error("the CPU decodes what rows of the proof table do not hold for on this device: %s", kinds)
    return ProofTable(row for row, holds in zip(rows, right, strict=True) if holds)


def _holds(row: ProvenRow, frame: EncodedFrame, samples: Samples | None) -> bool:
    """Whether the sample of a row is one of its kind, and came out as the CPU has it."""
    planned = describe(frame)
    of_its_kind = planned is not None and planned.kind == row.kind
    return of_its_kind and samples is not None and digest(samples) == row.sample.digest


def sample_frame(row: ProvenRow) -> EncodedFrame:
    """The frame that a row's sample is."""
    sample, kind = row.sample, row.kind
    layout = kind_layout(kind, sample.rows, sample.columns)
    return EncodedFrame(SAMPLE_REF, kind.transfer_syntax_uid, layout, Presentation(), sample.codestream)


def decode_here(backend: Backend, frames: Sequence[EncodedFrame]) -> list[Samples | None]:
    """What the device's codec makes of frames, in one batch, with all bits of their containers; None where it refuses
    one, or nothing can be planned for it. Raises DeviceError."""
    plans = [describe(frame) for frame in frames]
    planned = [each for each in plans if each is not None]
    decoded = backend.decode([each.codestream for each in planned])
    jobs = [
        RenderJob(found.pixels, fold(Presentation(), View(stage=Stage.STORED), _all_bits(each.layout)).params)
        for each, found in zip(planned, decoded, strict=True)
        if found is not None
    ]
    arrays = iter(render(backend, jobs) if jobs else [])
    answers = iter([next(arrays) if found is not None else None for found in decoded])
    return [next(answers) if each is not None else None for each in plans]


def _all_bits(layout: PixelLayout) -> PixelLayout:
    bits = 8 * layout.dtype.itemsize
    return replace(layout, bits_stored=bits, high_bit=bits - 1)


def kind_layout(kind: Kind, rows: int, columns: int) -> PixelLayout:
    """The layout of a frame of a kind, as a dataset would say it: Bits Stored is the codestream's precision."""
    photometric = "MONOCHROME2" if kind.components == 1 else "RGB"
    if kind.color_transform:
        photometric = "YBR_RCT" if kind.reversible else "YBR_ICT"
    bits = 8 if kind.precision <= 8 else 16
    return PixelLayout(
        rows, columns, kind.components, bits, kind.precision, kind.precision - 1, int(kind.signed), photometric
    )
