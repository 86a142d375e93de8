"""``gpu-render prove``: what does this device's codec decode exactly as the CPU does, and from which size on faster?

For each kind of codestream (``proof.Kind``): frames of many shapes and contents are encoded, decoded by the CPU and by
the device in batches, and compared sample by sample; then the same frames are damaged, and the device must show none
that the CPU refuses; then both are timed side by side over rising sizes. The result is a proof table for this codec,
this kind of device and these versions, which the service reads at start.

What ``decode.device`` plans and what is tried here belong together: of no row may hold what was not tried.
"""

import base64
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

import imagecodecs
import numpy as np
import numpy.typing as npt

from gpu_render import phantom
from gpu_render.archive.folder import FolderArchive
from gpu_render.decode import decode
from gpu_render.decode.device import SAMPLE_REF, decode_here, describe, kind_layout
from gpu_render.decode.proof import Kind, ProofFile, Row, Sample, digest
from gpu_render.errors import RenderError
from gpu_render.frame import EncodedFrame, Presentation, Samples
from gpu_render.reference import FrameRef
from gpu_render.workers import WorkerPool
from kernels import Backend, DeviceError
from kernels.packing import unpacked

Values = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

_SYNTAX = "1.2.840.10008.1.2.4."
_RPCL = _SYNTAX + "202"
BATCH = 16
SAMPLE_SIDE = 48
ROUNDS = 5
FRAMES_A_SERIES = 4
FRAMES_OF_FILES = 64  # of each kind
LARGEST_OF_FILES = 64 << 20  # decoded [byte]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tried. ``shapes`` (rows, columns) of compared frames, ``sides`` [px] of timed ones, ascending."""

    shapes: tuple[tuple[int, int], ...]
    damages: int
    sides: tuple[int, ...]


FULL = Plan(
    ((512, 512), (64, 64), (33, 129), (300, 211), (1, 640), (640, 1), (7, 5), (256, 1024), (2048, 2048)),
    damages=12,
    sides=(32, 64, 128, 256, 512, 1024, 2048),
)
QUICK = Plan(((256, 256), (33, 129), (64, 64), (100, 7), (300, 211)), damages=6, sides=(64, 256, 512))


def kinds() -> list[Kind]:
    """All kinds that are tried."""
    return [*_wavelet_kinds(), *_jpeg_kinds()]


def _wavelet_kinds() -> Iterator[Kind]:
    for syntax, precisions, fast in (
        ("90", (8, 10, 12, 14, 15, 16), False),
        ("91", (8, 16), False),
        ("201", (8, 10, 12, 14), True),
        ("202", (8, 10, 12, 14), True),
        ("203", (8,), True),
    ):
        for precision in precisions:
            for signed in (False, True):
                yield _kind(syntax, precision, signed, high_throughput=fast)
        for transform in (True,) if fast else (False, True):  # the encoder writes no other
            yield _kind(syntax, 8, components=3, high_throughput=fast, color_transform=transform)


def _jpeg_kinds() -> Iterator[Kind]:
    for syntax in ("57", "70"):
        for precision in (8, 10, 12, 14, 16):
            yield _kind(syntax, precision)
    for syntax in ("50", "51"):
        yield _kind(syntax, 8, reversible=False)


def _kind(
    syntax: str,
    precision: int,
    signed: bool = False,
    components: int = 1,
    reversible: bool = True,
    high_throughput: bool = False,
    color_transform: bool = False,
) -> Kind:
    return Kind(
        transfer_syntax_uid=_SYNTAX + syntax,
        precision=precision,
        signed=signed,
        components=components,
        reversible=reversible,
        high_throughput=high_throughput,
        color_transform=color_transform,
    )


# -- frames ------------------------------------------------------------------------------------------------------


def contents(shape: tuple[int, ...], low: int, high: int, seed: int) -> Iterator[Values]:
    """Values between ``low`` and ``high``, both included, of each sort: noise, waves, steps, extremes, anatomy."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle, half = (low + high) / 2, (high - low) / 2
    slices = phantom.stored_slice(seed % phantom.SLICES).astype(np.int64)
    anatomy = np.resize(slices, shape[:2])
    anatomy = low + (anatomy - anatomy.min()) * (high - low) // max(1, int(np.ptp(anatomy)))
    flat = (
        random.integers(low, high, shape[:2], endpoint=True),
        np.rint(middle + half * np.sin(x / 9 + seed) * np.cos(y / 7)).astype(np.int64),
        low + (x + 3 * y + seed) % (high - low + 1),
        np.where((x // 3 + y // 5 + seed) % 2, low, high),
        anatomy,
    )
    for values in flat:
        yield values if len(shape) == 2 else np.stack((values, values[::-1], low + high - values), axis=-1)


def encode(kind: Kind, values: Values, variant: int) -> bytes:
    """A codestream of a kind. ``variant`` changes what an encoder is free to choose."""
    layout = kind_layout(kind, *values.shape[:2])
    samples = values.astype(layout.dtype)
    if kind.transfer_syntax_uid.endswith((".50", ".51")):
        quality, optimize = (90, 75, 100)[variant % 3], bool(variant % 2)
        return bytes(imagecodecs.jpeg8_encode(samples, level=quality, optimize=optimize))
    if kind.transfer_syntax_uid.endswith((".57", ".70")):
        predictor = 1 if kind.transfer_syntax_uid.endswith(".70") else 1 + variant % 7
        return bytes(
            imagecodecs.jpeg8_encode(samples, lossless=True, predictor=predictor, bitspersample=kind.precision)
        )
    if kind.high_throughput:
        data = _encode_htj2k(kind, values, variant)
    elif kind.precision > 14 and variant % 4 == 3:
        data = _encode_beyond(kind, values)
    else:
        data = _encode_jpeg2000(samples, kind, variant)
    by_resolution = kind.transfer_syntax_uid == _RPCL
    return _said_otherwise(data, 1 + variant // 2 % 2, 2 if by_resolution else variant // 3 % 3)


def _encode_jpeg2000(samples: Samples, kind: Kind, variant: int) -> bytes:
    """Not with three resolutions: OpenJPEG's two guard bits then lose bits of extreme colours."""
    return bytes(
        imagecodecs.jpeg2k_encode(
            samples,
            level=0,
            codecformat="jp2" if variant % 5 == 4 else "j2k",
            reversible=True,
            bitspersample=kind.precision,
            mct=kind.color_transform,
            resolutions=(6, 1, 4)[variant % 3] if min(samples.shape[:2]) >= 64 else None,
            numthreads=1,
        )
    )


def _encode_beyond(kind: Kind, values: Values) -> bytes:
    """One component whose extreme values lie beyond the range that the header declares, as lossy encoders leave them:
    the CPU clamps them, and two bits more than 14 leave the device no room to show them."""
    middle = 0 if kind.signed else 1 << (kind.precision - 1)
    stretched = ((values - middle) * 1.01).astype(np.int32)
    bits = kind.precision + 2
    data = imagecodecs.jpeg2k_encode(
        stretched, level=0, codecformat="j2k", reversible=True, bitspersample=bits, numthreads=1
    )
    return _declared(bytes(data), kind)


def _encode_htj2k(kind: Kind, values: Values, variant: int) -> bytes:
    """OpenJPH's encoder takes 8 and 16 bits. Any other precision is written into the header afterwards, and the level
    shift that belongs to it is made up for before."""
    layout = kind_layout(kind, *values.shape[:2])
    container = 8 * layout.dtype.itemsize
    shift = 0 if kind.signed else (1 << (container - 1)) - (1 << (kind.precision - 1))
    parts = imagecodecs.HTJ2K.TILEPART.RESOLUTIONS if variant % 4 == 1 else None
    data = imagecodecs.htj2k_encode(
        (values + shift).astype(layout.dtype),
        reversible=True,
        rgb=kind.color_transform if kind.components == 3 else None,
        resolutions=(5, 1, 3)[variant % 3],
        tlm=parts is not None,
        tilepart=parts,
    )
    return _declared(bytes(data), kind)


def _declared(data: bytes, kind: Kind) -> bytes:
    """With the kind's precision and sign in the SIZ segment of a raw codestream (ISO 15444-1 A.5.1)."""
    changed = bytearray(data)
    for component in range(kind.components):
        changed[42 + 3 * component] = (0x80 if kind.signed else 0) | kind.precision - 1
    return bytes(changed)


def _said_otherwise(data: bytes, guard_bits: int, progression: int) -> bytes:
    """The same packets with another number of guard bits, made up for by the exponents (ISO 15444-1 E.1), and in
    another progression by resolution (A.6.1): in one layer, without precincts, all have the same order."""
    coding, quantization = data.index(b"\xff\x52\0"), data.index(b"\xff\x5c\0")
    exponents = quantization + 5, quantization + 2 + int.from_bytes(data[quantization + 2 : quantization + 4], "big")
    changed = bytearray(data)
    changed[coding + 5] = progression
    fewer = (data[quantization + 4] >> 5) - guard_bits
    changed[quantization + 4] = guard_bits << 5
    for at in range(*exponents):
        changed[at] += fewer << 3
    return bytes(changed)


def damaged(data: bytes, other: bytes, variants: int, seed: int) -> Iterator[bytes]:
    """The codestream as disks and networks leave it: cut, with other bytes, with zeros, with another's end."""
    random = np.random.default_rng(seed)
    for number in range(variants):
        at = int(random.integers(len(data) // 4, max(len(data) - 2, len(data) // 4 + 1)))
        sort = number % 4
        if sort == 0:
            yield data[:at]
        elif sort == 1:
            changed = bytearray(data)
            changed[at] ^= int(random.integers(1, 256))
            yield bytes(changed)
        elif sort == 2:
            length = min(len(data) - at, 64)
            yield data[:at] + bytes(length) + data[at + length :]
        else:
            yield data[:at] + other[len(other) // 2 :]


# -- proving -----------------------------------------------------------------------------------------------------


def frames_of_files(archive: FolderArchive) -> dict[Kind, list[EncodedFrame]]:
    """Some frames of each series that are of a kind which a device may decode. What cannot be read is left out."""
    found: dict[Kind, list[EncodedFrame]] = {}
    for study in archive.studies():
        for series in study.series:
            frames = archive.series(series.study_instance_uid, series.series_instance_uid).frames
            for record in frames[:: -(-len(frames) // FRAMES_A_SERIES) or 1]:
                frame = _fetched(archive, record.ref)
                planned = describe(frame) if frame is not None else None
                if frame is not None and planned is not None:
                    of_kind = found.setdefault(planned.kind, [])
                    of_kind.extend([frame] if len(of_kind) < FRAMES_OF_FILES else [])
    return found


def _fetched(archive: FolderArchive, ref: FrameRef) -> EncodedFrame | None:
    try:
        frame = archive.fetch(ref)
    except RenderError:
        return None
    size = int(np.prod(frame.layout.shape, dtype=object)) * frame.layout.dtype.itemsize
    return frame if size <= LARGEST_OF_FILES else None


@dataclass(slots=True)
class _Compared:
    """As in proof.Row."""

    unequal: int = 0
    largest_difference: int = 0
    refused: int = 0
    most_pixels: int = 0
    longest_side: int = 0


class Prover:
    """Decodes on both and compares. Borrows the backend, which it asks from the thread that calls, and the pool.
    ``files``: frames that are compared as well."""

    def __init__(
        self,
        backend: Backend,
        pool: WorkerPool,
        plan: Plan = FULL,
        files: Mapping[Kind, Sequence[EncodedFrame]] | None = None,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._plan = plan
        self._files = files or {}
        self._threads = min(BATCH, os.cpu_count() or 1)

    def row(self, kind: Kind) -> Row:
        """All of one kind. Raises DeviceError where the device is lost."""
        frames = list(self._frames(kind))
        more = self._files.get(kind, ())
        compared = self._compare([*frames, *more])
        unequal, refused = compared.unequal, compared.refused
        hurt = [self._frame(kind, frames[n].layout.shape, data) for n, data in self._damaged(frames)]
        shown, unlike = self._try_damaged(hurt)
        exact = unequal == shown == 0 and refused < len(frames) + len(more)
        return Row(
            kind=kind,
            codec=self._backend.codec,
            compared=len(frames) + len(more),
            unequal=unequal,
            largest_difference=compared.largest_difference,
            refused=refused,
            damaged=len(hurt),
            shown_damaged=shown,
            unlike_damaged=unlike,
            least_pixels=self._least_pixels(kind) if exact else None,
            most_pixels=compared.most_pixels,
            longest_side=compared.longest_side,
            sample=self._sample(kind),
            date=datetime.now(UTC).date(),
        )

    def _frames(self, kind: Kind) -> Iterator[EncodedFrame]:
        numbers = count()
        for rows, columns in self._plan.shapes:
            shape = kind_layout(kind, rows, columns).shape
            for values in contents(shape, *_range(kind), seed=rows + columns):
                yield self._frame(kind, shape, encode(kind, values, next(numbers)))

    @staticmethod
    def _frame(kind: Kind, shape: tuple[int, ...], data: bytes) -> EncodedFrame:
        layout = kind_layout(kind, shape[0], shape[1])
        return EncodedFrame(SAMPLE_REF, kind.transfer_syntax_uid, layout, Presentation(), data)

    def _by_both(self, frames: Sequence[EncodedFrame]) -> Iterator[tuple[Samples | None, Samples | None]]:
        """What the CPU and the device make of each; None where one refuses it."""
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            yield from zip(self._by_cpu(batch), self._by_device(batch), strict=True)

    def _by_device(self, frames: Sequence[EncodedFrame]) -> list[Samples | None]:
        """None for all where the codec fails, but the device goes on."""
        try:
            return decode_here(self._backend, frames)
        except DeviceError as error:
            if error.lost:
                raise
            return [None] * len(frames)

    def _by_cpu(self, frames: Sequence[EncodedFrame]) -> list[Samples | None]:
        with ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(self._one_by_cpu, frames))

    def _one_by_cpu(self, frame: EncodedFrame) -> Samples | None:
        try:
            return unpacked(decode(frame, self._pool).samples)
        except RenderError:
            return None

    def _compare(self, frames: Sequence[EncodedFrame]) -> "_Compared":
        compared = _Compared()
        for expected, found in self._by_both(frames):
            if found is None:
                compared.refused += 1
                continue
            compared.most_pixels = max(compared.most_pixels, found.shape[0] * found.shape[1])
            compared.longest_side = max(compared.longest_side, *found.shape[:2])
            if expected is None:
                compared.unequal += 1
            elif not np.array_equal(expected, found) or expected.dtype != found.dtype:
                compared.unequal += 1
                difference = int(np.abs(expected.astype(np.int64) - found.astype(np.int64)).max())
                compared.largest_difference = max(compared.largest_difference, difference)
        return compared

    def _damaged(self, frames: Sequence[EncodedFrame]) -> Iterator[tuple[int, bytes]]:
        """From every frame but the smallest, (its number, bytes)."""
        chosen = [n for n, frame in enumerate(frames) if len(frame.data) > 200][:: max(1, len(frames) // 10)]
        for n in chosen:
            other = bytes(frames[(n + 1) % len(frames)].data)
            for data in damaged(bytes(frames[n].data), other, self._plan.damages, seed=n):
                yield n, data

    def _try_damaged(self, frames: Sequence[EncodedFrame]) -> tuple[int, int]:
        """(shown though the CPU refuses it, shown by both and unlike)."""
        shown = unlike = 0
        for expected, found in self._by_both(frames):
            if found is not None:
                shown += expected is None
                unlike += expected is not None and not np.array_equal(expected, found)
        return shown, unlike

    def _least_pixels(self, kind: Kind) -> int | None:
        """The smallest timed size from which on the device is faster for a batch, plans, witnesses and all; None where
        it is not at the largest."""
        least = None
        for side in reversed(self._plan.sides):
            if not self._device_is_faster(kind, side):
                break
            least = side * side
        return least

    def _device_is_faster(self, kind: Kind, side: int) -> bool:
        shape = kind_layout(kind, side, side).shape
        *_, values = contents(shape, *_range(kind), seed=side)
        frames = [self._frame(kind, shape, encode(kind, values, variant=0))] * BATCH
        by_cpu, by_device = [], []
        for _ in range(1 + ROUNDS):
            begun = time.perf_counter()
            self._by_cpu(frames)
            between = time.perf_counter()
            if not self._all_decoded(frames):
                return False
            by_cpu.append(between - begun)
            by_device.append(time.perf_counter() - between)
        return statistics.median(by_device[1:]) < statistics.median(by_cpu[1:])  # the first also allocates

    def _all_decoded(self, frames: Sequence[EncodedFrame]) -> bool:
        """Let the device decode frames, and leave them there. Whether it did."""
        plans = [planned for frame in frames if (planned := describe(frame)) is not None]
        try:
            return len(plans) == len(frames) and None not in self._backend.decode([p.codestream for p in plans])
        except DeviceError as error:
            if error.lost:
                raise
            return False

    def _sample(self, kind: Kind) -> Sample:
        """A small frame of the kind as the CPU decodes it; one that the device decodes so, too, if there is any."""
        shape = kind_layout(kind, SAMPLE_SIDE, SAMPLE_SIDE + 5).shape
        frames = [self._frame(kind, shape, encode(kind, v, 0)) for v in contents(shape, *_range(kind), seed=1)]
        tried = [(frame, e, f) for frame, (e, f) in zip(frames, self._by_both(frames), strict=True) if e is not None]
        frame, samples, _ = max(tried, key=lambda each: each[2] is not None and digest(each[1]) == digest(each[2]))
        data = base64.b64encode(frame.data)
        return Sample(rows=shape[0], columns=shape[1], codestream=data, digest=digest(samples))


def _range(kind: Kind) -> tuple[int, int]:
    return kind_layout(kind, 1, 1).stored_range


def prove(
    backend: Backend,
    pool: WorkerPool,
    plan: Plan,
    progress: Progress,
    files: Mapping[Kind, Sequence[EncodedFrame]] | None = None,
) -> ProofFile:
    """The proof table of a backend's codec. ``progress(kind, done, total)``. Raises DeviceError."""
    prover, rows, chosen = Prover(backend, pool, plan, files), [], kinds()
    for done, kind in enumerate(chosen):
        progress(str(kind), done, len(chosen))
        rows.append(prover.row(kind))
    progress("", len(chosen), len(chosen))
    return ProofFile(format=1, note=f"{backend.codec}; {backend.description}", rows=tuple(rows))


def save(file: ProofFile, path: Path) -> None:
    """Write the table whole or not at all. Raises OSError."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as temporary:
        temporary.write(file.model_dump_json(indent=1) + "\n")
    Path(temporary.name).chmod(0o644)
    Path(temporary.name).replace(path)
