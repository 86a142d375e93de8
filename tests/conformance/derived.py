"""Files made from real ones for the features that no file of the corpus has; pydicom writes them."""

import struct
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, generate_uid

from tests.conformance.samples import Sample
from tests.data import file_meta, sample

Array = npt.NDArray[Any]

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
LUT_FIRST = -900


def _ct() -> Dataset:
    ds = pydicom.dcmread(sample("CT_small.dcm"))
    del ds.PixelPaddingValue
    ds.WindowCenter, ds.WindowWidth = 40, 400
    return ds


def _mr() -> Dataset:
    """Ten frames of 64 x 64 unsigned pixels of 12 bits, cut out of a CT, without rescale, window or groups."""
    ds = _ct()
    pixels = np.clip(ds.pixel_array, 0, 4095).astype("<u2")
    del ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth
    ds.PixelData = np.stack([pixels[6 * n : 6 * n + 64, 5 * n : 5 * n + 64] for n in range(10)]).tobytes()
    ds.Modality, ds.NumberOfFrames, ds.Rows, ds.Columns = "MR", 10, 64, 64
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def _lut(entries: Array, first: int, bits: int, *, modality: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) & 0xFFFF, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    if modality:
        item.ModalityLUTType = "US"
    return item


def _bent(entries: int, bits: int) -> Array:
    """A table that no window is equal to."""
    return np.round(np.sqrt(np.linspace(0, 1, entries)) * ((1 << bits) - 1)).astype(np.uint16)


Made = Iterator[tuple[str, str, Dataset]]
"""(file name, feature, data set)."""


def _tables() -> Made:
    ds = _ct()
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.ModalityLUTSequence = [_lut(_bent(2200, 12), LUT_FIRST, 12, modality=True)]
    ds.WindowCenter, ds.WindowWidth = 2000, 3000
    yield "modality_lut", "Modality LUT, signed input", ds
    both = deepcopy(ds)
    both.VOILUTSequence = [_lut(_bent(4096, 10)[::-1], 0, 10)]
    yield "modality_and_voi_lut", "Modality LUT and VOI LUT", both
    ds = _ct()
    ds.VOILUTSequence = [_lut(_bent(1024, 12), -500, 12), _lut(_bent(64, 8), 0, 8)]
    yield "voi_lut", "two VOI LUTs beside a window", ds
    ds = _ct()
    ds.PresentationLUTSequence = [_lut(_bent(4096, 12)[::-1], 0, 12)]
    yield "presentation_lut", "Presentation LUT Sequence", ds


def _windows() -> Made:
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        ds = _ct()
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "40.5", "333.25", function
        yield f"window_{function.lower()}", f"VOI LUT Function {function}", ds
    ds = _ct()
    ds.WindowCenter, ds.WindowWidth = [300, 40], [1500, 400]
    yield "windows", "two windows", ds
    ds = _ct()
    ds.WindowWidth = 1
    yield "window_width_1", "window of width 1", ds
    ds = _ct()
    del ds.WindowCenter, ds.WindowWidth
    yield "no_window", "range of the frame", ds


def _greys() -> Made:
    ds = _ct()
    ds.PhotometricInterpretation = "MONOCHROME1"
    yield "monochrome1", "MONOCHROME1", ds
    both = deepcopy(ds)
    both.PresentationLUTShape = "INVERSE"
    yield "monochrome1_inverse", "MONOCHROME1 with INVERSE", both
    ds = _ct()
    ds.PresentationLUTShape = "INVERSE"
    yield "inverse", "Presentation LUT Shape INVERSE", ds
    ds = _ct()
    ds.add_new("PixelPaddingValue", "SS", -200)
    ds.add_new("PixelPaddingRangeLimit", "SS", 100)
    del ds.WindowCenter, ds.WindowWidth
    yield "padding_range", "padding range, no window", ds
    for name, slope, intercept in (("negative", "-1", "1000"), ("fractional", "0.37", "-12.5"), ("zero", "0", "5")):
        ds = _ct()
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        yield f"slope_{name}", f"Rescale Slope {slope}", ds
    ds = _mr()
    ds.RescaleSlope, ds.RescaleIntercept = "0.0000125", "0"
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "0.002", "0.004", "LINEAR_EXACT"
    yield "tiny_slope", "tiny slope, window width 0.004", ds


def _bits() -> Made:
    ds = _mr()
    values = np.frombuffer(ds.PixelData, "<u2")
    high = (values & 0x0FFF) | 0xA000
    overlay = deepcopy(ds)
    overlay.PixelData = high.astype("<u2").tobytes()
    yield "overlay_bits", "overlay bits above High Bit", overlay
    signed = deepcopy(overlay)
    signed.PixelData = ((values * 3 & 0x0FFF) | 0xA000).astype("<u2").tobytes()
    signed.PixelRepresentation = 1
    yield "overlay_bits_signed", "overlay bits above High Bit, signed", signed
    shifted = deepcopy(ds)
    shifted.PixelData, shifted.HighBit = ((values & 0x0FFF) << 4 | 5).astype("<u2").tobytes(), 15
    yield "high_bit_15", "High Bit 15 with 12 bits stored", shifted
    one = deepcopy(ds)
    one.BitsAllocated = one.BitsStored = 1
    one.HighBit, one.Columns = 0, 61
    bits = (values.reshape(10, 64, 64)[:, :, :61] > 500).reshape(-1)
    packed = np.packbits(bits, bitorder="little").tobytes()
    one.PixelData = packed + b"\0" * (len(packed) % 2)
    yield "one_bit", "1 bit, 61 columns, 10 frames", one
    for bits_allocated, keyword, kind in ((32, "FloatPixelData", "<f4"), (64, "DoubleFloatPixelData", "<f8")):
        ds = _mr()
        scaled = (values * 1e-3 - 0.25).astype(kind)
        setattr(ds, keyword, scaled.tobytes())
        ds.BitsAllocated = bits_allocated
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "0.1", "0.5", "LINEAR_EXACT"
        yield f"float_{bits_allocated}", f"{keyword}, window width 0.5", ds
    wide = _mr()
    wide.PixelData = (values.astype("<i4") * 70_001 - 9_000_000).tobytes()
    wide.BitsAllocated = wide.BitsStored = 32
    wide.HighBit, wide.PixelRepresentation = 31, 1
    yield "signed_32", "32 bits, signed", wide


def _groups(slope: float, intercept: float, center: float, width: float) -> Dataset:
    rescale, window, item = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, intercept, "US"
    window.WindowCenter, window.WindowWidth = center, width
    item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [rescale], [window]
    return item


def _enhanced() -> Made:
    kinds = (
        ("CT", "1.2.840.10008.5.1.4.1.1.2.1", 1.0, -1024.0),
        ("MR", "1.2.840.10008.5.1.4.1.1.4.1", 2.0, 0.0),
        ("PT", "1.2.840.10008.5.1.4.1.1.130", 0.125, 0.0),
    )
    for modality, sop_class, slope, intercept in kinds:
        ds = _mr()
        ds.Modality, ds.SOPClassUID = modality, UID(sop_class)
        ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        frames = [
            _groups(slope * (n + 1), intercept - n, 300 * slope * (n + 1), 900 * slope * (n + 1)) for n in range(10)
        ]
        for number, item in enumerate(frames):  # the even ones have a rescale of their own, all have a window
            if number % 2:
                del item.PixelValueTransformationSequence
        ds.SharedFunctionalGroupsSequence = [_groups(slope, intercept, 100, 200)]
        del ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
        ds.PerFrameFunctionalGroupsSequence = frames
        yield f"enhanced_{modality.lower()}", f"enhanced {modality}, per-frame groups", ds


def _palettes() -> Made:
    original = pydicom.dcmread(sample("examples_palette.dcm"))
    wide = deepcopy(original)
    for name in ("Red", "Green", "Blue"):
        entries = np.frombuffer(original[f"{name}PaletteColorLookupTableData"].value, "<u2")
        wide.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(entries), 0, 16])
        wide[f"{name}PaletteColorLookupTableData"].value = (entries >> 8).astype("<u2").tobytes()
    bent = deepcopy(original)
    segmented = deepcopy(original)
    for factor, name in ((1, "Red"), (2, "Green"), (3, "Blue")):
        first = 20
        table = (np.arange(200) * 317 * factor % 65536).astype("<u2")
        bent.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [200, first, 16])
        bent[f"{name}PaletteColorLookupTableData"].value = table.tobytes()
        segments = struct.pack("<2H4H", 0, 4, *table[:4].tolist()) + struct.pack("<3H", 1, 196, 900 * factor)
        segmented.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [200, first, 16])
        del segmented[f"{name}PaletteColorLookupTableData"]
        segmented.add_new(f"Segmented{name}PaletteColorLookupTableData", "OW", segments)
    yield "palette_16", "palette of 200 16-bit entries from 20 on", bent
    yield "palette_segmented", "segmented palette", segmented
    ds = _mr()
    ds.PixelPresentation = "COLOR"
    ds.WindowCenter, ds.WindowWidth = 200, 600
    for factor, name in ((1, "Red"), (3, "Green"), (5, "Blue")):
        table = (np.arange(2048) * 31 * factor % 65536).astype("<u2")
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [2048, 500, 16])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", table.tobytes())
    yield "palette_supplemental", "supplemental palette", ds


def _colours() -> Made:
    rgb = pydicom.dcmread(sample("examples_rgb_color.dcm"))
    pixels = rgb.pixel_array
    planes = deepcopy(rgb)
    planes.PlanarConfiguration, planes.PixelData = 1, np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    yield "rgb_planes", "RGB in planes", planes
    ybr = deepcopy(rgb)  # any bytes are YBR_FULL: what counts is that all readers convert them alike
    ybr.PhotometricInterpretation = "YBR_FULL"
    yield "ybr_full", "native YBR_FULL", ybr
    for name in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        shared = deepcopy(rgb)
        pairs = np.stack([pixels[:, 0::2, 0], pixels[:, 1::2, 0], pixels[:, 0::2, 1], pixels[:, 0::2, 2]], axis=-1)
        shared.PhotometricInterpretation, shared.PixelData = name, np.ascontiguousarray(pairs).tobytes()
        yield name.lower(), f"native {name}", shared


def _native_syntaxes() -> Iterator[tuple[str, str, Dataset, str]]:
    for uid, name in ((IMPLICIT, "implicit"), (BIG_ENDIAN, "big_endian"), (f"{EXPLICIT}.99", "deflated")):
        ds = _ct()
        if uid == BIG_ENDIAN:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        yield f"syntax_{name}", f"signed 16 bits, {name.replace('_', ' ')}", ds, uid


def _raw(pixels: Array) -> bytes:
    return pixels.tobytes()


def _deflated(pixels: Array) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(pixels.tobytes()) + packer.flush()


def _jpeg2000(pixels: Array) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="J2K"))


def _htj2k(pixels: Array) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels))


def _jpeg_xl(pixels: Array) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))


def _lossless_jpeg(predictor: int) -> Callable[[Array], bytes]:
    return lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=12))


_ENCODERS: dict[str, tuple[str, Callable[[Array], bytes]]] = {
    "1.2.840.10008.1.2.1.98": ("encapsulated uncompressed", _raw),
    "1.2.840.10008.1.2.8.1": ("deflated frames", _deflated),
    "1.2.840.10008.1.2.4.57": ("JPEG lossless, predictor 6", _lossless_jpeg(6)),
    "1.2.840.10008.1.2.4.70": ("JPEG lossless, 12 bits", _lossless_jpeg(1)),
    "1.2.840.10008.1.2.4.92": ("JPEG 2000 Part 2 without extensions", _jpeg2000),
    "1.2.840.10008.1.2.4.201": ("HTJ2K lossless, 10 frames", _htj2k),
    "1.2.840.10008.1.2.4.202": ("HTJ2K as RPCL, 10 frames", _htj2k),
    "1.2.840.10008.1.2.4.203": ("HTJ2K, reversible", _htj2k),
    "1.2.840.10008.1.2.4.110": ("JPEG XL lossless, 10 frames", _jpeg_xl),
    "1.2.840.10008.1.2.4.112": ("JPEG XL, lossless", _jpeg_xl),
}


def _encoded() -> Iterator[tuple[str, str, Dataset, str, Array]]:
    for uid, (feature, encode) in _ENCODERS.items():
        ds = _mr()
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(10, 64, 64)
        ds.PixelData = encapsulate([encode(frame) for frame in pixels])
        yield f"syntax_{uid.removeprefix('1.2.840.10008.1.2.')}", feature, ds, uid, pixels


def derived_samples(folder: Path) -> list[Sample]:
    """Write all of them into ``folder``."""
    samples = []
    for made in (_tables, _windows, _greys, _bits, _enhanced, _palettes, _colours):
        samples += [_write(folder, name, feature, ds, EXPLICIT) for name, feature, ds in made()]
    samples += [_write(folder, *row) for row in _native_syntaxes()]
    twin = _write(folder, "uncompressed", "12 bits, 10 frames, uncompressed", _mr(), EXPLICIT)
    encoded = [replace(_write(folder, *row), twin=twin.path) for row in _encoded()]
    return [*samples, twin, *encoded]


def _write(folder: Path, name: str, feature: str, ds: Dataset, uid: str, truth: Array | None = None) -> Sample:
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    path = folder / f"{name}.dcm"
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW" if truth is None else "OB"
    if truth is not None:
        ds["PixelData"].is_undefined_length = True
        _write_encapsulated(path, ds, uid)
        return Sample(f"derived/{name}", path, "derived", feature, truth=truth)
    ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.TransferSyntaxUID = UID(ds.SOPInstanceUID), UID(uid)
    pydicom.dcmwrite(path, ds, implicit_vr=uid == IMPLICIT, little_endian=uid != BIG_ENDIAN, enforce_file_format=True)
    return Sample(f"derived/{name}", path, "derived", feature)


def _write_encapsulated(path: Path, ds: Dataset, uid: str) -> None:
    """Not with ``dcmwrite``, which refuses transfer syntaxes that its dictionary does not know."""
    body = DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = True, False
    del ds.file_meta
    write_dataset(body, ds)
    path.write_bytes(b"\0" * 128 + b"DICM" + file_meta(uid, str(ds.SOPInstanceUID)) + body.getvalue())
