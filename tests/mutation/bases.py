"""The real files that are mutated, and where their parts lie: element headers, values, fragments, marker segments."""

import functools
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from gpu_render.decode import DECODERS
from tests import data as files

PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
SEQUENCE = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

NATIVE = {files.IMPLICIT_LE, files.EXPLICIT_LE, files.EXPLICIT_BE, files.DEFLATED}


@dataclass(frozen=True, slots=True)
class Part:
    """One top-level element: offsets [byte] of its header and of its value, ``length`` [byte] as it really is."""

    tag: int
    start: int
    value: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.value + self.length


@dataclass(frozen=True)
class Base:
    """A file to be mutated. ``data`` is the file with its data set inflated; ``body`` [byte]: where that begins.

    ``parts``: the elements of the data set up to the pixels; ``fragments``: (offset, length) [byte] of the values of
    all items, the Basic Offset Table first; empty for native pixels.
    """

    name: str
    data: bytes
    syntax: str
    body: int
    parts: dict[int, Part]
    pixels: Part
    fragments: tuple[tuple[int, int], ...] = ()
    sop_instance_uid: str = ""
    frames: int = 1
    family: str = field(default="")

    @property
    def big_endian(self) -> bool:
        return self.syntax == files.EXPLICIT_BE

    @property
    def order(self) -> str:
        """Byte order for ``struct``."""
        return ">" if self.big_endian else "<"

    @property
    def encapsulated(self) -> bool:
        return self.syntax not in NATIVE

    @property
    def codestreams(self) -> tuple[tuple[int, int], ...]:
        """(offset, length) [byte] of the fragments without the Basic Offset Table."""
        return self.fragments[1:]

    def seal(self, data: bytes | bytearray) -> bytes:
        """The file as it is written: its data set deflated where the transfer syntax says so."""
        if self.syntax != files.DEFLATED:
            return bytes(data)
        return bytes(data[: self.body]) + files.deflate(bytes(data[self.body :]))


def make_base(name: str, data: bytes) -> Base:
    """Take a file apart. Raises ValueError where it has no pixels."""
    body, syntax = _behind_meta(data)
    if syntax == files.DEFLATED:
        data = data[:body] + zlib.decompress(data[body:], -zlib.MAX_WBITS)
    parts = _walk(data, body, syntax)
    pixels = next((parts[tag] for tag in PIXELS if tag in parts), None)
    if pixels is None:
        raise ValueError(f"{name} has no pixels")
    fragments = _fragments(data, pixels.value) if syntax not in NATIVE else ()
    uid = _text(data, parts, 0x00080018)
    frames = int(_text(data, parts, 0x00280008) or 1)
    return Base(name, data, syntax, body, parts, pixels, fragments, uid, frames, DECODERS[syntax].codec)


def _text(data: bytes, parts: dict[int, Part], tag: int) -> str:
    part = parts.get(tag)
    return data[part.value : part.end].decode("ascii").strip("\0 ") if part else ""


def _behind_meta(data: bytes) -> tuple[int, str]:
    """Where the data set begins, and its transfer syntax."""
    position = 132 if data[128:132] == b"DICM" else 0
    syntax = files.IMPLICIT_LE
    while data[position : position + 2] == b"\x02\0":
        element = struct.unpack_from("<H", data, position + 2)[0]
        long = data[position + 4 : position + 6] in (b"OB", b"UN", b"UT")
        value = position + (12 if long else 8)
        length = struct.unpack_from("<I" if long else "<H", data, value - (4 if long else 2))[0]
        if element == 0x10:
            syntax = data[value : value + length].decode().rstrip("\0 ")
        position = value + length
    return position, syntax


_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def _header(data: bytes, at: int, syntax: str) -> tuple[int, int, int]:
    """(tag, offset of the value, declared length) of the element or item at ``at``."""
    order = ">" if syntax == files.EXPLICIT_BE else "<"
    group, element = struct.unpack_from(f"{order}HH", data, at)
    if group == 0xFFFE or syntax == files.IMPLICIT_LE:
        return group << 16 | element, at + 8, struct.unpack_from(f"{order}I", data, at + 4)[0]
    if data[at + 4 : at + 6] in _LONG:
        return group << 16 | element, at + 12, struct.unpack_from(f"{order}I", data, at + 8)[0]
    return group << 16 | element, at + 8, struct.unpack_from(f"{order}H", data, at + 6)[0]


def _walk(data: bytes, position: int, syntax: str) -> dict[int, Part]:
    parts = {}
    while position + 8 <= len(data):
        tag, value, length = _header(data, position, syntax)
        if tag in PIXELS:
            end = value + length if length != SEQUENCE else len(data)
            parts[tag] = Part(tag, position, value, min(end, len(data)) - value)
            break
        end = value + length if length != SEQUENCE else _behind_items(data, value, syntax, _SEQUENCE_END)
        parts[tag] = Part(tag, position, value, end - value)
        position = end
    return parts


def _behind_items(data: bytes, position: int, syntax: str, stop: int) -> int:
    """Offset behind the delimiter ``stop`` of a sequence or item of undefined length."""
    while True:
        tag, value, length = _header(data, position, syntax)
        if tag == stop:
            return value
        inner = _ITEM_END if tag == _ITEM else _SEQUENCE_END
        position = value + length if length != SEQUENCE else _behind_items(data, value, syntax, inner)


def _fragments(data: bytes, position: int) -> tuple[tuple[int, int], ...]:
    found = []
    while data[position : position + 4] == b"\xfe\xff\x00\xe0":
        length = struct.unpack_from("<I", data, position + 4)[0]
        found.append((position + 8, length))
        position += 8 + length
    return tuple(found)


# --- which files --------------------------------------------------------------------------------------------

_SAMPLES = (
    *("CT_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_padded", "image_dfl", "ExplVR_BigEnd"),
    *("SC_ybr_full_422_uncompressed", "SC_rgb_small_odd", "liver_1frame", "rtdose", "rtdose_expb"),
    *("MR_small_RLE", "SC_rgb_rle_16bit_2frame", "SC_rgb_rle_32bit", "rtdose_rle"),
    *("SC_rgb_jpeg_dcmtk", "SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_small_odd_jpeg", "SC_rgb_jpeg_app14_dcmd", "JPGExtended"),
    *("SC_rgb_jpeg_gdcm", "MR_small_jpeg_ls_lossless", "SC_rgb_jls_lossy_line", "JPEGLSNearLossless_16"),
    *("MR_small_jp2klossless", "JPEG2000", "GDCMJ2K_TextGBR", "SC_rgb_gdcm_KY", "693_J2KI"),
)
_CORPUS = (
    *("single/emri_small.dcm", "single/emri_small_jls.dcm", "single/seg_sm_numbers.dcm", "single/sm_image.dcm"),
    *("single/TestPattern_JPEG-Baseline_YBRFull.dcm", "single/mr_176.dcm", "single/vtk_pt_168.dcm"),
    *("wg04/CT2_J2KI.dcm", "wg04/NM1_JLSN.dcm", "single/OBXXXX1A_rle_2frame.dcm", "single/TestPattern_Palette_16.dcm"),
)


def corpus_folder() -> Path | None:
    """The folder of real files beside the project, None where it is absent."""
    folder = Path(os.environ.get("GPU_RENDER_CORPUS", Path(__file__).parents[3] / "shared" / "data"))
    return folder if folder.is_dir() else None


@functools.cache
def bases() -> tuple[Base, ...]:
    """All of them: pydicom's samples, real files beside the project where they are, and samples encoded anew for
    the transfer syntaxes that no small real file has."""
    found = [make_base(name, files.sample(f"{name}.dcm").read_bytes()) for name in _SAMPLES]
    folder = corpus_folder()
    if folder is not None:
        found += [make_base(name, (folder / name).read_bytes()) for name in _CORPUS if (folder / name).is_file()]
    found += [make_base(name, data) for name, data in _encoded().items()]
    return tuple(found)


def _encoded() -> dict[str, bytes]:
    slice_ = pydicom.dcmread(files.sample("MR_small.dcm"))
    colour = pydicom.dcmread(files.sample("SC_rgb_rle.dcm"))
    grey = slice_.pixel_array.astype("<u2")
    rgb = np.ascontiguousarray(colour.pixel_array[:64, :64])
    jpeg = bytes(imagecodecs.jpeg8_encode(rgb, level=90))
    made: dict[str, bytes] = {}

    def add(name: str, uid: str, pixels: npt.NDArray[np.generic], *frames: bytes, **changes: Any) -> None:
        made[name] = _file(slice_, uid, pixels, frames, len(made), **changes)

    halves = [np.ascontiguousarray(grey[:32]), np.ascontiguousarray(grey[32:])]
    add("enc-uncompressed", "1.2.840.10008.1.2.1.98", halves[0], *(half.tobytes() for half in halves))
    add("enc-deflated", "1.2.840.10008.1.2.8.1", halves[0], *(files.deflate(half.tobytes()) for half in halves))
    for process, predictor in (("57", 4), ("70", 1)):
        add(f"enc-lossless-{process}", f"1.2.840.10008.1.2.4.{process}", grey, _lossless(grey, predictor))
    add("enc-lossless-2", "1.2.840.10008.1.2.4.70", halves[0], *(_lossless(half, 1) for half in halves))
    add("enc-jls-2", "1.2.840.10008.1.2.4.80", halves[0], *(bytes(imagecodecs.jpegls_encode(h)) for h in halves))
    add("enc-j2k-2", "1.2.840.10008.1.2.4.90", halves[0], *(_j2k(half, reversible=True) for half in halves))
    for uid in ("92", "93"):
        add(f"enc-j2k-{uid}", f"1.2.840.10008.1.2.4.{uid}", rgb, _j2k(rgb, reversible=True, mct=True), **_RCT)
    add("enc-j2k-lossy", "1.2.840.10008.1.2.4.91", grey, _j2k(grey, reversible=False, level=50))
    add("enc-jxl", "1.2.840.10008.1.2.4.110", grey, bytes(imagecodecs.jpegxl_encode(grey, lossless=True)))
    add("enc-jxl-rgb", "1.2.840.10008.1.2.4.110", rgb, bytes(imagecodecs.jpegxl_encode(rgb, lossless=True)), **_RGB)
    add("enc-jxl-jpeg", "1.2.840.10008.1.2.4.111", rgb, bytes(imagecodecs.jpegxl_encode_jpeg(jpeg)), **_YBR)
    add("enc-jxl-lossy", "1.2.840.10008.1.2.4.112", rgb, bytes(imagecodecs.jpegxl_encode(rgb, level=90)), **_RGB)
    for uid in ("201", "202"):
        frames = [bytes(imagecodecs.htj2k_encode(half)) for half in halves]
        add(f"enc-htj2k-{uid}", f"1.2.840.10008.1.2.4.{uid}", halves[0], *frames)
    lossy = bytes(imagecodecs.htj2k_encode(grey, level=0.002, reversible=False))
    add("enc-htj2k-203", "1.2.840.10008.1.2.4.203", grey, lossy)
    return made


_RGB = {"PhotometricInterpretation": "RGB"}
_RCT = {"PhotometricInterpretation": "YBR_RCT"}
_YBR = {"PhotometricInterpretation": "YBR_FULL_422"}


def _lossless(values: npt.NDArray[np.generic], predictor: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=16))


def _j2k(values: npt.NDArray[np.generic], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat="j2k", **{"level": 0, **options}))


def _file(
    source: Dataset, uid: str, pixels: npt.NDArray[np.generic], frames: tuple[bytes, ...], number: int, **changes: Any
) -> bytes:
    bits = 8 * pixels.dtype.itemsize
    attributes: dict[str, Any] = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    if pixels.ndim == 3:
        attributes |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    if len(frames) > 1:
        attributes["NumberOfFrames"] = len(frames)
    attributes["SOPInstanceUID"] = f"1.2.826.0.1.3680043.8.498.1000000{number:04d}"
    attributes["StudyInstanceUID"] = str(source.StudyInstanceUID)
    attributes["SeriesInstanceUID"] = f"{source.SeriesInstanceUID}.{1 + number}"
    rows, columns = pixels.shape[:2]
    padded = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    offsets = [8 * index + sum(map(len, padded[:index])) for index in range(len(padded))]
    value = files.encapsulate(padded, offsets)
    return files.file_bytes(files.image(rows, columns, **attributes, **changes), value, uid, encapsulated=True)


# --- marker segments ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment of a codestream: ``offset`` [byte] in the file of its length field, ``length`` with it."""

    marker: int
    offset: int
    length: int


def segments(base: Base) -> list[Segment]:
    """Marker segments of all codestreams' headers: JPEG and JPEG-LS up to the first scan, JPEG 2000 up to the first
    tile-part and its header."""
    found = []
    for offset, length in base.codestreams:
        found += _segments(base.data, offset, offset + length)
    return found


def _segments(data: bytes, position: int, end: int) -> list[Segment]:
    wavelet = data[position : position + 2] == b"\xff\x4f"
    if not wavelet and data[position : position + 2] != b"\xff\xd8":
        return []
    last, found = (0xFF93 if wavelet else 0xFFDA), []
    position += 2
    while position + 4 <= end:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker < 0xFF00 or (wavelet and marker == last):
            break
        found.append(Segment(marker, position + 2, length))
        position += 2 + length
        if marker == last:
            break
    return found


def marker_named(*markers: int) -> Callable[[Base], bool]:
    """Whether a base has one of these segments."""
    return lambda base: any(segment.marker in markers for segment in segments(base))
