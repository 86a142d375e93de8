"""DICOM files with known pixels, written byte by byte: what a test expects is never what a library made of it."""

import itertools
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom.data
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

IMPLICIT_LE, EXPLICIT_LE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
EXPLICIT_BE, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG_BASELINE, J2K_LOSSLESS, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

UNDEFINED = 0xFFFFFFFF
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "OV": "Q"}
_counter = itertools.count(1)


class Raw:
    """A value as it shall stand in the file: its VR and its bytes, right or wrong."""

    def __init__(self, vr: str, value: bytes) -> None:
        self.vr = vr
        self.value = value


def uid() -> str:
    """A new UID."""
    return f"1.2.3.{next(_counter)}"


def dataset(attributes: Mapping[str, Any], syntax: str = EXPLICIT_LE) -> bytes:
    """Elements by keyword, in order of their tags. None is an empty value; lists of mappings are sequences."""
    tagged = sorted((_tag(keyword), value) for keyword, value in attributes.items())
    return b"".join(element(tag, value, syntax) for tag, value in tagged)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def element(
    tag: int, value: Any, syntax: str = EXPLICIT_LE, *, vr: str | None = None, length: int | None = None
) -> bytes:
    """One element; ``length`` writes another length than the value's."""
    vr = vr or (value.vr if isinstance(value, Raw) else dictionary_VR(tag).split(" or ")[0])
    body = _value(vr, value, syntax)
    body += (b"\0" if vr in ("UI", "OB", "UN", "OW") else b" ") * (len(body) % 2)
    order = ">" if syntax == EXPLICIT_BE else "<"
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    size = len(body) if length is None else length
    if syntax == IMPLICIT_LE:
        return head + struct.pack("<I", size) + body
    if vr in _LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}I", size) + body
    return head + vr.encode() + struct.pack(f"{order}H", size) + body


def _value(vr: str, value: Any, syntax: str) -> bytes:
    order = ">" if syntax == EXPLICIT_BE else "<"
    if isinstance(value, Raw):
        return value.value
    if value is None or isinstance(value, bytes):
        return value or b""
    if vr == "SQ":
        items = [dataset(item, syntax) for item in value]
        return b"".join(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    values = value if isinstance(value, list | tuple) else [value]
    if vr in _NUMBERS:
        return struct.pack(f"{order}{len(values)}{_NUMBERS[vr]}", *values)
    return "\\".join(map(str, values)).encode()


def file_meta(syntax: str, sop_instance_uid: str, sop_class_uid: str = CT_IMAGE) -> bytes:
    """File Meta Information, always explicit little endian."""
    group = dataset(
        {
            "MediaStorageSOPClassUID": sop_class_uid,
            "MediaStorageSOPInstanceUID": sop_instance_uid,
            "TransferSyntaxUID": syntax,
        }
    )
    return element(0x00020000, len(group)) + group


def image(rows: int, columns: int, **changes: Any) -> dict[str, Any]:
    """Attributes of a 16-bit unsigned MONOCHROME2 CT image, with ``changes`` by keyword; ``...`` removes one."""
    attributes: dict[str, Any] = {
        "SOPClassUID": CT_IMAGE,
        "SOPInstanceUID": uid(),
        "StudyInstanceUID": "1.2.4.1",
        "SeriesInstanceUID": "1.2.4.1.1",
        "Modality": "CT",
        "PatientName": "Test^Case",
        "PatientID": "T1",
        "StudyDate": "20260102",
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    attributes.update(changes)
    return {keyword: value for keyword, value in attributes.items() if value is not ...}


def item(value: bytes, length: int | None = None) -> bytes:
    """One item of encapsulated Pixel Data."""
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value) if length is None else length) + value


def encapsulate(fragments: Sequence[bytes], offsets: Sequence[int] = (), *, delimiter: bool = True) -> bytes:
    """Value of encapsulated Pixel Data: the Basic Offset Table, every fragment an item, the sequence delimiter."""
    table = item(struct.pack(f"<{len(offsets)}I", *offsets))
    end = b"\xfe\xff\xdd\xe0\0\0\0\0" if delimiter else b""
    return table + b"".join(map(item, fragments)) + end


def file_bytes(
    attributes: Mapping[str, Any],
    pixels: bytes | None = None,
    syntax: str = EXPLICIT_LE,
    *,
    encapsulated: bool = False,
    keyword: str = "PixelData",
    vr: str = "OW",
    preamble: bool = True,
    meta: bool = True,
) -> bytes:
    """A whole file. ``pixels`` is the value of the pixel element as it shall stand there."""
    body = dataset(attributes, syntax)
    if pixels is not None:
        length = UNDEFINED if encapsulated else None
        body += element(_tag(keyword), pixels, syntax, vr="OB" if encapsulated else vr, length=length)
    if syntax == DEFLATED:
        body = deflate(body)
    head = b"\0" * 128 + b"DICM" if preamble else b""
    return head + (file_meta(syntax, attributes.get("SOPInstanceUID", "1.2.9")) if meta else b"") + body


def deflate(body: bytes) -> bytes:
    """A data set as PS3.5 A.5 deflates it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def write(path: Path, *arguments: Any, **options: Any) -> Path:
    """``file_bytes`` into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_bytes(*arguments, **options))
    return path


def write_image(path: Path, samples: npt.NDArray[Any], **changes: Any) -> Path:
    """Little-endian native samples, (rows, columns) or (frames, rows, columns), of 8, 16 or 32 bits."""
    frames, rows, columns = samples.shape if samples.ndim == 3 else (1, *samples.shape)
    bits = 8 * samples.dtype.itemsize
    sizes: dict[str, Any] = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    sizes["PixelRepresentation"] = int(samples.dtype.kind == "i")
    if frames > 1:
        sizes["NumberOfFrames"] = frames
    little = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<"))
    return write(path, image(rows, columns, **{**sizes, **changes}), little.tobytes())


def pydicom_folder() -> Path:
    """The folder of the sample files that the pydicom wheel brings."""
    return Path(pydicom.data.__file__).parent


def sample(name: str) -> Path:
    """One of pydicom's sample files; nothing is downloaded."""
    found = pydicom.data.get_testdata_file(name, download=False)
    assert isinstance(found, str), name
    return Path(found)


def corpus() -> Path:
    """The folder of real files beside the project; skips where it is absent."""
    folder = Path(os.environ.get("GPU_RENDER_CORPUS", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real DICOM files is absent (GPU_RENDER_CORPUS)")
    return folder
