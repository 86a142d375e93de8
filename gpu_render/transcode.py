"""Frames and whole instances in a transfer syntax that they are not stored in: see docs/decisions/0013.

Two can be made: Explicit VR Little Endian, and HTJ2K (RPCL) Lossless for viewers that show a picture while it arrives.
A frame by itself goes to a client that has the data set's metadata as they are stored, so its samples are in the form
that those declare, or it is refused; a whole instance says anew what became of its pixels. Nothing is lost that the
decoder gave.
"""

import asyncio
import math
import os
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from gpu_render.ahead import Room, in_order
from gpu_render.archive import Archive, FrameRecord, InstanceRecord, PixelPlace, Rewritten
from gpu_render.archive.encapsulation import DELIMITER, ITEM, UNDEFINED_LENGTH
from gpu_render.archive.files import inflate as inflate_data_set
from gpu_render.archive.metadata import little_endian
from gpu_render.cache import FrameCache
from gpu_render.decode import DECODERS, memory_limit, time_limit_s
from gpu_render.decode.native import inflate
from gpu_render.errors import CorruptPixelData, NotAcceptable, NotRenderable, RenderError, TooLarge
from gpu_render.frame import DecodedFrame, PixelLayout, Samples
from gpu_render.header import SUBSAMPLED, native_frame_bits
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.workers import WorkerPool

EXPLICIT_LE = "1.2.840.10008.1.2.1"
HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"

IMPLICIT_LE, EXPLICIT_BE, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
ENCAPSULATED_NATIVE, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
NATIVE = (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)
NATIVE_FRAMES = (*NATIVE, ENCAPSULATED_NATIVE, DEFLATED_FRAMES)
"""Transfer syntaxes whose frames hold samples as they are."""
MADE = (EXPLICIT_LE, HTJ2K_RPCL)
"""Transfer syntaxes that can be made."""

_DECORRELATED = ("YBR_RCT", "YBR_ICT")
_LOSSY_JPEG = ("jpeg", "jpeg-xl-recompression")  # codecs of which chrominance is subsampled by nature
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_STEP_BYTES = 1 << 20
_LONGEST_VALUE = 0xFFFFFFFE

Part = bytes | memoryview


@dataclass(frozen=True, slots=True, eq=False)
class TranscodedFrame:
    """One frame in a transfer syntax; ``version`` changes whenever its file does."""

    data: Part
    transfer_syntax_uid: str
    version: str

    @property
    def nbytes(self) -> int:
        """What it counts against a cache [byte]."""
        return len(self.data)

    is_gone = False

    def left(self) -> None:
        """Nothing is to be done when a cache does not keep it."""


@dataclass(frozen=True, slots=True)
class InstanceStream:
    """A whole file. ``content_length`` [byte], None where it is not known before all is made. ``chunks``: close it
    (``contextlib.aclosing``) to drop what is under way."""

    content_length: int | None
    chunks: AsyncGenerator[Part, None]


# --- what can be had ----------------------------------------------------------------------------------------


def require_frame(stored_uid: str, layout: PixelLayout, target: str) -> None:
    """Raise NotAcceptable where frames stored like that cannot be had in ``target`` so that a client, who knows the
    metadata as they are stored, shows them rightly."""
    if target == stored_uid:
        return
    why = _why_no_instance(stored_uid, layout, target)
    photometric = layout.photometric_interpretation
    if why is None and stored_uid in NATIVE_FRAMES and target == EXPLICIT_LE:
        return
    if why is None and photometric == "XYB":
        why = "clients that are told XYB would show RGB wrongly"
    if why is None and target == HTJ2K_RPCL and layout.planar_configuration:
        why = "Planar Configuration 1 contradicts it"
    if why is None and photometric in (*SUBSAMPLED, "YBR_PARTIAL_420"):
        why = _why_not_subsampled(DECODERS[stored_uid].codec, layout, target)
    if why is not None:
        raise NotAcceptable(f"the frame is not offered in transfer syntax {target}: {why}")


def require_instance(stored_uid: str, layout: PixelLayout | None, target: str) -> None:
    """Raise NotAcceptable where an object stored like that cannot be rewritten in ``target``. ``layout`` None: its
    pixels cannot be shown, or there are none."""
    if target == stored_uid:
        return
    if target not in MADE:
        why: str | None = "offered are " + " and ".join((stored_uid, *MADE))
    elif layout is None:
        why = "it can be decoded only if it can be shown" if target == HTJ2K_RPCL or stored_uid not in NATIVE else None
    else:
        why = _why_no_instance(stored_uid, layout, target)
        if why is None and layout.photometric_interpretation.startswith("YBR_PARTIAL"):
            passes = stored_uid in NATIVE_FRAMES and target == EXPLICIT_LE
            why = None if passes else f"{layout.photometric_interpretation} without subsampling has no name"
    if why is not None:
        raise NotAcceptable(f"the instance is not offered in transfer syntax {target}: {why}")


def can(stored_uid: str, layout: PixelLayout, target: str) -> bool:
    """Whether a frame can be had in ``target``; see ``require_frame``."""
    try:
        require_frame(stored_uid, layout, target)
    except NotAcceptable:
        return False
    return True


def can_instance(stored_uid: str, layout: PixelLayout | None, target: str) -> bool:
    """Whether an instance can be had in ``target``; see ``require_instance``."""
    try:
        require_instance(stored_uid, layout, target)
    except NotAcceptable:
        return False
    return True


def _why_no_instance(stored_uid: str, layout: PixelLayout, target: str) -> str | None:
    if target not in MADE:
        return "offered are " + " and ".join((stored_uid, *MADE))
    if stored_uid not in DECODERS:
        return f"nothing here decodes {stored_uid}"
    if target == HTJ2K_RPCL and (layout.is_float or layout.bits_allocated not in (8, 16)):
        kind = "floating point" if layout.is_float else f"{layout.bits_allocated} bits allocated"
        return f"{kind} cannot be kept without loss"
    return None


def _why_not_subsampled(codec: str, layout: PixelLayout, target: str) -> str | None:
    photometric = layout.photometric_interpretation
    if target != EXPLICIT_LE:
        return f"{photometric} is subsampled, and its codestreams are not"
    if photometric not in SUBSAMPLED or layout.columns % 2 or layout.planar_configuration:
        return f"uncompressed {photometric} has no defined form here"
    if codec not in _LOSSY_JPEG:
        return f"{photometric} contradicts a codestream with all of its samples"
    return None


# --- samples ------------------------------------------------------------------------------------------------


def as_declared(decoded: DecodedFrame, declared: PixelLayout) -> Samples:
    """Decoded samples as native pixels of ``declared``, which ``require_frame`` has accepted: by planes where it says
    so, with shared chrominance where it says so. A colour transform of the codestream that was undone stays so: all
    clients take uncompressed YBR_RCT and YBR_ICT for the RGB that it is. Raises NotAcceptable for another colour space.
    """
    samples = decoded.samples
    if not isinstance(samples, np.ndarray):
        raise CorruptPixelData("the decoder gave no samples")
    is_called, says = decoded.layout.photometric_interpretation, declared.photometric_interpretation
    if says in SUBSAMPLED and is_called in (says, "YBR_FULL"):
        return _shared_chrominance(samples)
    if is_called != says and not (says in _DECORRELATED and is_called == "RGB"):
        raise NotAcceptable(f"the decoder gives {is_called}, and the data set says {says}")
    if declared.samples_per_pixel == 3 and declared.planar_configuration:
        return np.ascontiguousarray(np.moveaxis(samples, -1, 0))
    return samples


def _shared_chrominance(samples: Samples) -> Samples:
    """Y1 Y2 CB CR of each two pixels (PS3.3 C.7.6.3.1.2), chrominance the mean of theirs."""
    rows, columns, _ = samples.shape
    pairs = samples.reshape(rows, columns // 2, 2, 3)
    packed = np.empty((rows, columns // 2, 4), samples.dtype)
    packed[..., :2] = pairs[..., 0]
    packed[..., 2:] = (pairs[..., 1:].astype(np.int64).sum(axis=2) + 1) // 2
    return packed


def _native_bytes(data: Part, stored_uid: str, layout: PixelLayout) -> Part:
    """A frame of native samples as Explicit VR Little Endian has it."""
    nbytes = (native_frame_bits(layout) + 7) // 8
    if stored_uid == DEFLATED_FRAMES:
        data = inflate(data, layout)
    if not nbytes <= len(data) <= nbytes + 1:
        raise CorruptPixelData(f"the frame has {len(data)} bytes, expected {nbytes}")
    data = data[:nbytes]
    word = layout.dtype.itemsize
    # Bytes of words with smaller samples were put right by the archive, which knows the VR.
    return little_endian(bytes(data), word, ">") if stored_uid == EXPLICIT_BE and word > 1 else data


def _flat(samples: Samples) -> memoryview:
    return np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data


class Transcoder:
    """Makes what is asked for from what is stored. Lives on the renderer's event loop; borrows all it is given.

    ``encoders``: threads that wait for encoding processes. ``room``: for frames that streams have ahead.
    ``cache_bytes``: budget for codestreams [byte].
    """

    def __init__(
        self,
        archive: Archive,
        renderer: Renderer,
        pool: WorkerPool,
        encoders: PriorityExecutor,
        room: Room,
        cache_bytes: int,
    ) -> None:
        self._archive = archive
        self._renderer = renderer
        self._pool = pool
        self._encoders = encoders
        self._room = room
        self.cache: FrameCache[TranscodedFrame] = FrameCache(cache_bytes)

    # --- frames ---------------------------------------------------------------------------------------------

    async def frame(
        self, ref: FrameRef, transfer_syntax_uid: str, priority: Priority = Priority.INTERACTIVE
    ) -> TranscodedFrame:
        """A frame for a client that has the metadata as they are stored.

        Raises NotAcceptable where there is no such form that it would show rightly, and any RenderError. Cancel the
        caller to drop the work.
        """
        record = await asyncio.to_thread(self._archive.describe, ref)
        stored = record.transfer_syntax_uid
        require_frame(stored, record.layout, transfer_syntax_uid)
        if stored == transfer_syntax_uid and stored not in NATIVE:
            encoded = await self._renderer.encoded(ref, priority)
            return _same_version(TranscodedFrame(encoded.data, stored, encoded.version), record)
        if transfer_syntax_uid == HTJ2K_RPCL:
            return await self._codestream(ref, record, priority)
        return _same_version(await self._native(ref, record, priority), record)

    async def _native(self, ref: FrameRef, record: FrameRecord, priority: Priority) -> TranscodedFrame:
        stored = record.transfer_syntax_uid
        if stored in NATIVE_FRAMES:
            encoded = await self._renderer.encoded(ref, priority)
            work = partial(_native_bytes, encoded.data, stored, record.layout)
            data = await asyncio.to_thread(work) if stored in (EXPLICIT_BE, DEFLATED_FRAMES) else work()
            return TranscodedFrame(data, EXPLICIT_LE, encoded.version)
        decoded = await self._renderer.decoded(ref, priority)
        declared = await asyncio.to_thread(as_declared, decoded, record.layout)
        return TranscodedFrame(_flat(declared), EXPLICIT_LE, decoded.version)

    async def _codestream(self, ref: FrameRef, record: FrameRecord, priority: Priority) -> TranscodedFrame:
        key = (ref, record.version)
        return await self.cache.get(key, partial(self._encode, ref, record, priority))

    async def _encode(self, ref: FrameRef, record: FrameRecord, priority: Priority) -> TranscodedFrame:
        decoded = await self._renderer.decoded(ref, priority)
        layout = replace(decoded.layout, photometric_interpretation=_encoded_photometric(record.layout, decoded.layout))
        work = partial(self._encode_in_worker, decoded, layout)
        codestream = await asyncio.wrap_future(self._encoders.submit(work, priority))
        return _same_version(TranscodedFrame(codestream, HTJ2K_RPCL, decoded.version), record)

    def _encode_in_worker(self, decoded: DecodedFrame, layout: PixelLayout) -> bytes:
        """On a thread: wait for an encoding process."""
        samples = decoded.samples
        if not isinstance(samples, np.ndarray):
            raise CorruptPixelData("the decoder gave no samples")
        return encode_in_worker(samples, layout, self._pool)

    # --- instances ------------------------------------------------------------------------------------------

    async def instance(
        self, record: InstanceRecord, transfer_syntax_uid: str, priority: Priority = Priority.INTERACTIVE
    ) -> InstanceStream:
        """A whole instance in a transfer syntax that it is not stored in; its SOP Instance UID stays, for nothing is
        lost. Raises NotAcceptable and any RenderError, here or from ``chunks``."""
        first = FrameRef(record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid, 1)
        shown = await asyncio.to_thread(self._archive.describe, first) if record.reason is None else None
        stored = record.transfer_syntax_uid
        layout = None if shown is None else shown.layout
        if shown is not None and shown.version != record.version:
            raise _changed(first)
        require_instance(stored, layout, transfer_syntax_uid)
        rewrite = partial(self._archive.rewritten, record, transfer_syntax_uid)
        if layout is None or (stored in NATIVE and transfer_syntax_uid == EXPLICIT_LE):
            return self._with_stored_pixels(record, await asyncio.to_thread(rewrite, ()))
        if shown is None:
            raise _changed(first)
        encoded = transfer_syntax_uid == HTJ2K_RPCL
        if stored in NATIVE_FRAMES and not encoded:
            coded, nbytes = layout, (native_frame_bits(layout) + 7) // 8
            if native_frame_bits(layout) % 8 and record.number_of_frames > 1:
                raise NotRenderable("frames that begin inside a byte are offered one by one")
            changes: list[tuple[int, str, int | str]] = []
        else:
            decoded = await self._renderer.decoded(first, priority)
            photometric = _encoded_photometric(layout, decoded.layout) if encoded else _full(decoded.layout)
            coded = replace(decoded.layout, photometric_interpretation=photometric)
            nbytes = math.prod(coded.shape) * coded.dtype.itemsize
            changes = [(_PHOTOMETRIC, "CS", coded.photometric_interpretation)]
            changes += [(_PLANAR, "US", 0)] if coded.samples_per_pixel == 3 else []
        parts = await asyncio.to_thread(rewrite, changes)
        if parts.pixels is None:
            raise _changed(first)
        frames = self._frames(first, shown, record.number_of_frames, encoded, priority)
        if encoded:
            return InstanceStream(None, _encapsulated(parts.head, frames, parts.tail))
        vr = "OB" if coded.bits_allocated <= 8 else parts.pixels.vr if coded.is_float else "OW"
        total = nbytes * record.number_of_frames
        head = parts.head + _pixel_head(parts.pixels.tag, vr, total)
        length = len(head) + total + total % 2 + len(parts.tail)
        return InstanceStream(length, _joined(head, frames, b"\0" * (total % 2) + parts.tail, nbytes))

    async def _frames(
        self, first: FrameRef, shown: FrameRecord, count: int, encoded: bool, priority: Priority
    ) -> AsyncGenerator[Part, None]:
        """All frames in order, some ahead."""

        async def make(number: int) -> TranscodedFrame:
            ref = replace(first, frame_number=number)
            return await (self._codestream if encoded else self._interleaved)(ref, shown, priority)

        most = math.prod(shown.layout.shape) * shown.layout.dtype.itemsize
        results = in_order(range(1, count + 1), make, lambda _: most, self._room)
        async with aclosing(results):
            async for _, result in results:
                if isinstance(result, RenderError):
                    raise result
                yield _same_version(result, shown).data

    async def _interleaved(self, ref: FrameRef, record: FrameRecord, priority: Priority) -> TranscodedFrame:
        """A frame of an instance that says anew what its pixels are."""
        if record.transfer_syntax_uid in NATIVE_FRAMES:
            return await self._native(ref, record, priority)
        decoded = await self._renderer.decoded(ref, priority)
        if not isinstance(decoded.samples, np.ndarray):
            raise CorruptPixelData("the decoder gave no samples")
        return TranscodedFrame(_flat(decoded.samples), EXPLICIT_LE, decoded.version)

    def _with_stored_pixels(self, record: InstanceRecord, parts: Rewritten) -> InstanceStream:
        """Native pixels pass through as they are, in steps."""
        place = parts.pixels
        if place is None:
            content = parts.head + parts.tail
            return InstanceStream(len(content), _whole(content))
        length = place.length
        if length is None:
            raise NotAcceptable("the pixels are compressed in a transfer syntax that has none, and offered as stored")
        if not place.inflate_offset and place.offset + length > record.nbytes:
            raise CorruptPixelData(f"the file of SOP Instance {record.sop_instance_uid} is cut off")
        head = parts.head + _pixel_head(place.tag, place.vr, length)
        tail = b"\0" * (length % 2) + parts.tail
        read = self._inflated(record, place, length) if place.inflate_offset else self._read(record, place, length)
        return InstanceStream(len(head) + length + len(tail), _joined(head, read, tail, None))

    async def _read(self, record: InstanceRecord, place: PixelPlace, length: int) -> AsyncGenerator[Part, None]:
        for start in range(0, length, _STEP_BYTES):
            size = min(_STEP_BYTES, length - start)
            step = await asyncio.to_thread(self._read_step, record, place.offset + start, size)
            yield little_endian(step, place.word_bytes, ">")

    def _read_step(self, record: InstanceRecord, start: int, size: int) -> bytes:
        """The file is opened for each step: nobody who waits for a slow client holds it."""
        with self._archive.open(record) as file:
            step = os.pread(file.descriptor, size, start)
        if len(step) != size:
            raise CorruptPixelData(f"the file of SOP Instance {record.sop_instance_uid} is cut off")
        return step

    async def _inflated(self, record: InstanceRecord, place: PixelPlace, length: int) -> AsyncGenerator[Part, None]:
        """From a deflated data set, which can only be read from its beginning: the file stays open."""
        descriptor = await asyncio.to_thread(self._descriptor, record)
        try:
            steps = inflate_data_set(descriptor, place.inflate_offset)
            at, end = 0, place.offset + length
            while at < end:
                step = await asyncio.to_thread(next, steps, b"")
                if not step:
                    raise CorruptPixelData(f"the file of SOP Instance {record.sop_instance_uid} is cut off")
                wanted = step[max(0, place.offset - at) : end - at]
                at += len(step)
                if wanted:
                    yield wanted
        finally:
            os.close(descriptor)

    def _descriptor(self, record: InstanceRecord) -> int:
        with self._archive.open(record) as file:
            return os.dup(file.descriptor)


def encode_in_worker(samples: Samples, layout: PixelLayout, pool: WorkerPool) -> bytes:
    """An HTJ2K codestream (see ``encode.py``), blocking. Raises NotRenderable, what ``WorkerPool.call`` raises."""
    payload = _flat(samples)
    _, codestream = pool.call(
        "encode",
        {"layout": asdict(layout)},
        payload,
        timeout_s=4 * time_limit_s(len(payload)),  # coded, decoded and compared
        result_bytes=2 * len(payload) + (1 << 16),
        memory_bytes=2 * memory_limit(len(payload)),
    )
    return codestream.tobytes()


def _encoded_photometric(stored: PixelLayout, decoded: PixelLayout) -> str:
    """Of a codestream: colours are decorrelated where the stored ones were, so that the data set says so already."""
    decorrelated = stored.photometric_interpretation in _DECORRELATED
    return "YBR_RCT" if decorrelated and decoded.photometric_interpretation == "RGB" else _full(decoded)


def _full(decoded: PixelLayout) -> str:
    """The name of samples without subsampling."""
    photometric = decoded.photometric_interpretation
    return "YBR_FULL" if photometric == "YBR_FULL_422" else photometric


def _same_version(frame: TranscodedFrame, record: FrameRecord) -> TranscodedFrame:
    if frame.version != record.version:
        raise _changed(record.ref)
    return frame


def _changed(ref: FrameRef) -> CorruptPixelData:
    return CorruptPixelData(f"the file of SOP Instance {ref.sop_instance_uid} changed while it was read")


def _pixel_head(tag: int, vr: str, length: int) -> bytes:
    if length > _LONGEST_VALUE:
        raise TooLarge(f"{length} bytes of uncompressed pixels are more than an element can have")
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length + length % 2)


async def _whole(content: bytes) -> AsyncGenerator[Part, None]:
    yield content


async def _joined(
    head: bytes, frames: AsyncGenerator[Part, None], tail: bytes, frame_bytes: int | None
) -> AsyncGenerator[Part, None]:
    """Raises CorruptPixelData for a frame of another length than was promised."""
    async with aclosing(frames):
        yield head
        async for frame in frames:
            if frame_bytes is not None and len(frame) != frame_bytes:
                raise CorruptPixelData(f"a frame has {len(frame)} bytes, expected {frame_bytes}")
            yield frame
    if tail:
        yield tail


async def _encapsulated(head: bytes, frames: AsyncGenerator[Part, None], tail: bytes) -> AsyncGenerator[Part, None]:
    """PS3.5 A.4: an empty Basic Offset Table, a fragment for each frame, the delimiter."""
    async with aclosing(frames):
        yield head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED_LENGTH) + ITEM + bytes(4)
        async for frame in frames:
            padding = len(frame) % 2
            yield ITEM + struct.pack("<I", len(frame) + padding)
            yield bytes(frame) + b"\0" * padding
    yield DELIMITER + bytes(4) + tail
