"""DICOM tags -> records. The only file that reads tags; sections are of PS3.3 unless named otherwise.

A value that cannot be read is ignored with a note where the picture is right without it (a window, a spacing), and
a typed error where it is not (sizes, rescale, Modality LUT, palette). Nothing here quotes an element's value of a
patient attribute.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from gpu_render.errors import CorruptPixelData, NotRenderable, RenderError, TooLarge
from gpu_render.frame import Geometry, LookupTable, PixelLayout, Presentation, Rescale, VoiFunction, Window
from gpu_render.lookup_tables import Entries, as_words, expand_segments, sign_16, unpack_entries

Found = TypeVar("Found")

MAX_FRAME_BYTES = 1 << 30
"""Largest frame [byte] that is accepted by default."""
MAX_FRAMES = 10_000_000
"""Most frames of one SOP Instance that are accepted by default."""

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = (
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_422",
    "YBR_PARTIAL_420",
    "YBR_ICT",
    "YBR_RCT",
    "XYB",
)
SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
"""Two luminance samples share a pair of chrominance samples: 2 samples a pixel when native (C.7.6.3.1.2)."""

# What pydicom raises while it turns an element's bytes into a value.
_CONVERSION_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)


class _BadValueError(Exception):
    """An element is there but its value cannot be used; the argument is its keyword."""


# --- single values ------------------------------------------------------------------------------------------


def _values(ds: Dataset, keyword: str) -> Sequence[object]:
    """The element's values, () where it is absent or empty. Raises _BadValueError."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in ds:
        return ()
    try:
        value = ds[tag].value  # Dataset.get would take some failed conversions for an absent element
    except _CONVERSION_ERRORS:
        raise _BadValueError(keyword) from None
    if value is None or value == "" or value == b"":
        return ()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value  # as it is: a sequence of 200,000 frames is not copied
    return (value,)


_WHOLE, _FRACTION = rb"-?[0-9]{1,15}", rb"(?:\.[0-9]{1,15})?"
_PLAIN_UID = re.compile(rb"([0-9.]{1,128})\0?").fullmatch
_PLAIN_NUMBERS = {
    "IS": (re.compile(rb"%b(?:\\%b)* ?" % (_WHOLE, _WHOLE)).fullmatch, int),
    "DS": (re.compile(rb"%b(?:\\%b)* ?" % (_WHOLE + _FRACTION, _WHOLE + _FRACTION)).fullmatch, float),
}


def _raw(ds: Dataset, keyword: str) -> tuple[str, bytes]:
    """VR and value as they lie in the file, empty where nobody has to know them."""
    tag = tag_for_keyword(keyword)
    # kept as it is: asked for plainly, pydicom converts a value of no bytes, and raises for a VR that is none
    raw = None if tag is None else ds.get_item(tag, keep_deferred=True)
    if not isinstance(raw, RawDataElement) or not raw.value:
        return "", b""
    return raw.VR or dictionary_VR(raw.tag), raw.value


def _plain_floats(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """The same of decimals that nobody could take for anything else, () of all others: straight from their text, as
    most that varies in a series is such a number."""
    vr, value = _raw(ds, keyword)
    is_plain, convert = _PLAIN_NUMBERS.get(vr, (None, float))
    if is_plain is None or not is_plain(value):
        return ()
    return tuple([float(convert(part)) for part in value.split(b"\\")])


def _floats(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """Numbers, NaN for an empty one among several, () where absent or all empty. Raises _BadValueError."""
    plain = _plain_floats(ds, keyword)
    if plain:
        return plain
    numbers = []
    for value in _values(ds, keyword):
        if value is None or value == "":
            numbers.append(math.nan)
        elif isinstance(value, bytes):
            raise _BadValueError(keyword)
        else:
            try:
                numbers.append(float(value))  # type: ignore[arg-type]  # what is no number raises TypeError
            except (TypeError, ValueError, OverflowError):
                raise _BadValueError(keyword) from None
    return () if all(math.isnan(n) for n in numbers) and len(numbers) > 1 else tuple(numbers)


def _float(ds: Dataset, keyword: str) -> float | None:
    """One number, None where absent. Several are accepted where they are equal. Raises _BadValueError."""
    numbers = _floats(ds, keyword)
    if len(set(numbers)) > 1:
        raise _BadValueError(keyword)
    return numbers[0] if numbers else None


def _integer(ds: Dataset, keyword: str) -> int | None:
    """One whole number, None where absent. Raises _BadValueError."""
    number = _float(ds, keyword)
    if number is None:
        return None
    if not math.isfinite(number) or number != int(number):
        raise _BadValueError(keyword)
    return int(number)


def text(ds: Dataset, keyword: str, limit: int = 1024) -> str:
    """The element as text, components joined by a backslash; empty where absent or undecodable.

    Control characters are dropped and what no Unicode text can hold is replaced.
    """
    return _clean(_joined(ds, keyword)[:limit])


def uid_text(ds: Dataset, keyword: str) -> str:
    """A UID as it stands there, right or wrong, without its padding (PS3.5 9.1); empty where absent."""
    vr, value = _raw(ds, keyword)
    if vr == "UI" and (plain := _PLAIN_UID(value)) is not None:
        return plain[1].decode()
    return _joined(ds, keyword)[:128].strip("\0 ")


def _joined(ds: Dataset, keyword: str) -> str:
    try:
        parts = [str(value) for value in _values(ds, keyword) if value is not None]
    except (_BadValueError, *_CONVERSION_ERRORS):
        return ""
    return "\\".join(parts)


def _clean(value: str) -> str:
    """Without control characters and what no Unicode text can hold; other kinds of blanks as spaces."""
    encodable = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in encodable).strip()


def whole_number(ds: Dataset, keyword: str) -> int | None:
    """One whole number of at most 63 bits, None where absent or unusable (for listing only)."""
    try:
        number = _integer(ds, keyword)
    except _BadValueError:
        return None
    return number if number is not None and abs(number) < 1 << 63 else None


def number(ds: Dataset, keyword: str) -> float | None:
    """One finite number, None where absent or unusable (for listing only)."""
    try:
        value = _float(ds, keyword)
    except _BadValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


# --- Image Pixel Module -------------------------------------------------------------------------------------


def _required(ds: Dataset, keyword: str) -> int:
    try:
        value = _integer(ds, keyword)
    except _BadValueError:
        raise CorruptPixelData(f"{keyword} is malformed") from None
    if value is None:
        raise CorruptPixelData(f"{keyword} is missing")
    return value


def read_number_of_frames(ds: Dataset, max_frames: int = MAX_FRAMES) -> int:
    """Number of Frames (C.7.6.6); absent, empty or 0 mean 1. Raises CorruptPixelData, TooLarge."""
    try:
        frames = _integer(ds, "NumberOfFrames") or 1
    except _BadValueError:
        raise CorruptPixelData("NumberOfFrames is malformed") from None
    if frames < 0:
        raise CorruptPixelData("NumberOfFrames is negative")
    if frames > max_frames:
        raise TooLarge(f"{frames} frames are above the limit of {max_frames}")
    return frames


def read_layout(
    ds: Dataset, *, is_float: bool = False, encapsulated: bool = False, max_frame_bytes: int = MAX_FRAME_BYTES
) -> PixelLayout:
    """The Image Pixel attributes, checked against each other (C.7.6.3).

    ``is_float``: the pixels are Float or Double Float Pixel Data (C.7.6.24, C.7.6.25). Raises CorruptPixelData for
    missing or contradictory attributes, NotRenderable for what has no display here, TooLarge for a header bomb.
    """
    allocated = _required(ds, "BitsAllocated")
    layout = PixelLayout(
        rows=_required(ds, "Rows"),
        columns=_required(ds, "Columns"),
        samples_per_pixel=_required(ds, "SamplesPerPixel"),
        bits_allocated=allocated,
        bits_stored=allocated if is_float else _required(ds, "BitsStored"),
        high_bit=allocated - 1 if is_float else _required(ds, "HighBit"),
        pixel_representation=0 if is_float else _required(ds, "PixelRepresentation"),
        photometric_interpretation=text(ds, "PhotometricInterpretation", 16).upper(),
        is_float=is_float,
    )
    _check_samples(layout)
    _check_bits(layout)
    if layout.samples_per_pixel == 3:
        layout = replace(layout, planar_configuration=_planar_configuration(ds, layout, encapsulated))
    _check_size(layout, max_frame_bytes)
    return layout


def _check_samples(layout: PixelLayout) -> None:
    samples, photometric = layout.samples_per_pixel, layout.photometric_interpretation
    if not photometric:
        raise CorruptPixelData("PhotometricInterpretation is missing")
    if photometric not in (*GREY, "PALETTE COLOR", *COLOUR) or samples not in (1, 3):
        known = photometric if photometric in ("ARGB", "CMYK", "HSV") else "this PhotometricInterpretation"
        raise NotRenderable(f"{known} with {samples} samples per pixel cannot be shown")
    if (samples == 3) != (photometric in COLOUR):
        raise CorruptPixelData(f"SamplesPerPixel {samples} contradicts PhotometricInterpretation {photometric}")


def _check_bits(layout: PixelLayout) -> None:
    allocated, stored, high = layout.bits_allocated, layout.bits_stored, layout.high_bit
    if allocated not in ((32, 64) if layout.is_float else (1, 8, 16, 32, 64)):
        raise NotRenderable(f"BitsAllocated {allocated} cannot be shown")
    if not (1 <= stored <= high + 1 <= allocated):
        raise CorruptPixelData(f"BitsStored {stored}, HighBit {high} and BitsAllocated {allocated} contradict")
    if layout.pixel_representation not in (0, 1):
        raise CorruptPixelData("PixelRepresentation is neither 0 nor 1")
    if layout.pixel_representation and stored == 1:
        # As two's complement its values would be 0 and -1: foreground black on white.
        raise CorruptPixelData("PixelRepresentation 1 contradicts BitsStored 1")
    if layout.samples_per_pixel == 3 and (layout.is_float or allocated == 1):
        raise NotRenderable(f"colour with BitsAllocated {allocated} cannot be shown")


def _planar_configuration(ds: Dataset, layout: PixelLayout, encapsulated: bool) -> int:
    try:
        planar = _integer(ds, "PlanarConfiguration")
    except _BadValueError:
        raise CorruptPixelData("PlanarConfiguration is malformed") from None
    if planar is None and encapsulated:
        return 0  # the codestream knows
    if planar not in (0, 1):
        raise CorruptPixelData("PlanarConfiguration is neither 0 nor 1")
    if not encapsulated and layout.photometric_interpretation in SUBSAMPLED:
        if planar or layout.columns % 2:
            raise CorruptPixelData("chrominance subsampling needs PlanarConfiguration 0 and an even number of Columns")
    elif not encapsulated and layout.photometric_interpretation == "YBR_PARTIAL_420":
        raise NotRenderable("uncompressed YBR_PARTIAL_420 cannot be shown")
    return planar


def _check_size(layout: PixelLayout, max_frame_bytes: int) -> None:
    if not (1 <= layout.rows <= 0xFFFFFFFF and 1 <= layout.columns <= 0xFFFFFFFF):
        raise CorruptPixelData("Rows and Columns are at least 1")
    nbytes = layout.rows * layout.columns * layout.samples_per_pixel * max(1, layout.bits_allocated // 8)
    if nbytes > max_frame_bytes:
        raise TooLarge(f"a frame of {nbytes} bytes is above the limit of {max_frame_bytes}")


def native_frame_bits(layout: PixelLayout) -> int:
    """Bits of one frame as native (not encapsulated) Pixel Data (PS3.5 section 8.1, 8.2)."""
    samples = 2 if layout.photometric_interpretation in SUBSAMPLED else layout.samples_per_pixel
    return layout.rows * layout.columns * samples * layout.bits_allocated


# --- functional groups --------------------------------------------------------------------------------------


def _item(ds: Dataset | None, keyword: str, index: int = 0) -> Dataset | None:
    """One item of a sequence, None where there is none. Raises CorruptPixelData where it cannot be read: taking it
    as absent could mean another rescale or another position."""
    if ds is None:
        return None
    try:
        items = _values(ds, keyword)
        item = items[index] if index < len(items) else None
    except (_BadValueError, *_CONVERSION_ERRORS):
        raise CorruptPixelData(f"{keyword} is malformed") from None
    if item is not None and not isinstance(item, Dataset):
        raise CorruptPixelData(f"{keyword} is malformed")
    return item


def _groups(ds: Dataset, frame_index: int, keyword: str) -> Iterator[Dataset]:
    """Where an attribute of a frame may stand, most specific first: per-frame, shared, root (C.7.6.16.1)."""
    for source in (
        _item(ds, "PerFrameFunctionalGroupsSequence", frame_index),
        _item(ds, "SharedFunctionalGroupsSequence"),
    ):
        item = _item(source, keyword)
        if item is not None:
            yield item
    yield ds


# Where Pixel Presentation of a single frame stands: the frame type macros of enhanced objects (C.8).
_FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "USImageDescriptionSequence",
)

PRESENTATION_GROUPS = (
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PixelMeasuresSequence",
    *_FRAME_TYPES,
)
"""The functional groups that read_presentation looks at."""
GEOMETRY_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence")
"""The functional groups that read_geometry looks at."""


def presentation_varies(ds: Dataset, frame_index: int) -> bool:
    """Whether this frame's own functional groups hold anything that read_presentation looks at."""
    item = _item(ds, "PerFrameFunctionalGroupsSequence", frame_index)
    return item is not None and any(name in item for name in PRESENTATION_GROUPS)


# --- modality, VOI, palette ---------------------------------------------------------------------------------


def read_presentation(ds: Dataset, layout: PixelLayout, frame_index: int = 0) -> Presentation:
    """How stored values of one frame become a picture. ``frame_index`` counts from 0.

    Raises CorruptPixelData where a rescale, Modality LUT, Presentation LUT or palette is there but cannot be used, and
    NotRenderable where nothing says what they mean together.
    """
    notes: list[str] = []
    grey = layout.photometric_interpretation in GREY
    coloured = grey and _has_supplemental_palette(ds, layout, frame_index)
    if layout.bits_allocated > 16 and not layout.is_float and not _is_little_endian(ds):
        # DCMTK and GDCM swap the bytes of OW in words of 16 bits, pydicom (and this service) those of a sample.
        notes.append("big endian samples of 32 bits: taken as such, though some writers swap their halves")
    modality = _read_modality(ds, layout, frame_index, notes) if grey else None
    return Presentation(
        modality=modality,
        voi=_read_voi(ds, layout, modality, frame_index, notes) if grey else (),
        inverse=grey and _is_inverse(ds, layout, notes),
        presentation_lut=_read_presentation_lut(ds, layout) if grey else None,
        palette=_read_palette(ds, layout) if coloured or layout.photometric_interpretation == "PALETTE COLOR" else None,
        pixel_padding=_read_padding(ds, layout, notes) if grey else None,
        pixel_spacing_mm=_read_spacing(ds, frame_index, notes),
        pixel_aspect_ratio=_read_aspect_ratio(ds, notes),
        notes=tuple(notes),
    )


# X-Ray Angiographic and X-Ray Radiofluoroscopic Image Storage: their Modality LUT undoes Pixel Intensity Relationship;
# a display ignores it (PS3.4 N.2.5), and their windows are those of stored values.
_XRAY_INTENSITY_LUTS = ("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2")


def _read_modality(
    ds: Dataset, layout: PixelLayout, frame_index: int, notes: list[str]
) -> Rescale | LookupTable | None:
    for source in _groups(ds, frame_index, "PixelValueTransformationSequence"):
        try:
            slope, intercept = _float(source, "RescaleSlope"), _float(source, "RescaleIntercept")
        except _BadValueError as error:
            raise CorruptPixelData(f"{error} is malformed") from None
        lut = _item(source, "ModalityLUTSequence") if source is ds else None
        if lut is not None and text(ds, "SOPClassUID", 64) in _XRAY_INTENSITY_LUTS:
            notes.append("Modality LUT ignored: in X-ray angiography it leads back to intensities, not to a picture")
            lut = None
        if lut is not None and not layout.is_float:
            if slope is not None:
                notes.append("Rescale Slope and Intercept ignored: there is a Modality LUT")
            return _read_lut(lut, signed=bool(layout.pixel_representation))
        if slope is not None or intercept is not None:
            return _rescale(source, ds, slope, intercept, notes)
    return None


def _rescale(
    source: Dataset, ds: Dataset, slope: float | None, intercept: float | None, notes: list[str]
) -> Rescale | None:
    if slope is None or slope == 0 or not math.isfinite(slope):
        notes.append("rescale ignored: Rescale Slope is empty, 0 or not finite")
        return None
    if intercept is None:
        notes.append("Rescale Intercept is empty: taken as 0")
        intercept = 0.0
    if not math.isfinite(intercept):
        notes.append("rescale ignored: Rescale Intercept is not finite")
        return None
    unit = text(source, "RescaleType", 16)
    if not unit and text(ds, "Modality", 16) == "CT":
        unit = "HU"  # C.8.2.1: Rescale Type is required where it is not HU
    return Rescale(slope, intercept, unit)


def _input_is_signed(layout: PixelLayout, modality: Rescale | LookupTable | None) -> bool:
    """Whether the input of a VOI LUT may be negative, which says how its first mapped value is read (C.11.2.1.1)."""
    if isinstance(modality, LookupTable):
        return False
    if modality is None or layout.is_float:
        return bool(layout.pixel_representation)
    return min(modality.slope * value + modality.intercept for value in layout.stored_range) < 0


def _read_voi(
    ds: Dataset, layout: PixelLayout, modality: Rescale | LookupTable | None, frame_index: int, notes: list[str]
) -> tuple[Window | LookupTable, ...]:
    """LUTs, then windows, of the most specific place that has any of them (C.11.2, C.7.6.16.2.10)."""
    signed = _input_is_signed(layout, modality)
    for source in _groups(ds, frame_index, "FrameVOILUTSequence"):
        tables, windows = _read_voi_luts(source, signed, notes), _read_windows(source, notes)
        if tables or windows:
            return (*tables, *windows)
    return ()


def _read_voi_luts(source: Dataset, signed: bool, notes: list[str]) -> list[LookupTable]:
    try:
        items = [item for item in _values(source, "VOILUTSequence") if isinstance(item, Dataset)]
    except _BadValueError:
        notes.append("VOI LUT Sequence ignored: malformed")
        return []
    tables = []
    for index, item in enumerate(items):
        try:
            tables.append(_read_lut(item, signed=signed))
        except RenderError:
            notes.append(f"VOI LUT {index + 1} ignored: malformed")
    return tables


def _read_windows(source: Dataset, notes: list[str]) -> list[Window]:
    try:
        centers, widths = _floats(source, "WindowCenter"), _floats(source, "WindowWidth")
    except _BadValueError as error:
        notes.append(f"windows ignored: {error} is malformed")
        return []
    if not centers and not widths:
        return []
    name = text(source, "VOILUTFunction", 16).upper() or "LINEAR"
    if name not in VoiFunction.__members__:
        notes.append("windows ignored: VOI LUT Function is unknown")
        return []
    if len(centers) != len(widths):
        notes.append(f"{len(centers)} Window Centers and {len(widths)} Window Widths: only pairs are used")
    explanations = _explanations(source)
    windows = []
    for index, (center, width) in enumerate(zip(centers, widths, strict=False)):
        explanation = explanations[index] if index < len(explanations) else ""
        window = Window(center, width, VoiFunction(name), explanation)
        if _is_possible(window):
            windows.append(window)
        else:
            notes.append(f"window {index + 1} ignored: impossible center or width")
    return windows


def _explanations(source: Dataset) -> list[str]:
    try:
        return [_clean(str(value)[:64]) for value in _values(source, "WindowCenterWidthExplanation")]
    except _BadValueError:
        return []


def _is_possible(window: Window) -> bool:
    """C.11.2.1.2.1: a LINEAR width is at least 1; C.11.2.1.3: the others are above 0."""
    if not math.isfinite(255 * (abs(window.center) + abs(window.width))):  # as in view.check_window
        return False
    return window.width >= 1 if window.function is VoiFunction.LINEAR else window.width > 0


def _is_inverse(ds: Dataset, layout: PixelLayout, notes: list[str]) -> bool:
    """MONOCHROME1 and Presentation LUT Shape INVERSE mean the same (C.11.6.1.2): together they invert once."""
    shape = text(ds, "PresentationLUTShape", 16).upper()
    mono1 = layout.photometric_interpretation == "MONOCHROME1"
    if mono1 and shape == "IDENTITY":
        notes.append("Presentation LUT Shape IDENTITY contradicts MONOCHROME1: shown inverted")
    return mono1 or shape == "INVERSE"


def _read_presentation_lut(ds: Dataset, layout: PixelLayout) -> LookupTable | None:
    """Presentation LUT Sequence (C.11.6.1.1), None where there is none."""
    item = _item(ds, "PresentationLUTSequence")
    if item is None:
        return None
    if layout.photometric_interpretation == "MONOCHROME1" or text(ds, "PresentationLUTShape", 16):
        # Its output are P-Values, where 0 is black; nothing says whether to invert before it, after it or not at all.
        raise NotRenderable("a Presentation LUT Sequence beside MONOCHROME1 or a Presentation LUT Shape is ambiguous")
    table = _read_lut(item, signed=False)
    if table.first_mapped != 0:
        raise CorruptPixelData("the first value mapped by a Presentation LUT is 0")
    return table


def _descriptor(ds: Dataset, keyword: str, *, signed: bool) -> tuple[int, int, int]:
    """(entries, first mapped value, bits an entry) of a LUT descriptor. Raises CorruptPixelData."""
    try:
        values = _values(ds, keyword)
        if len(values) == 1 and isinstance(values[0], bytes):
            values = tuple(int(word) for word in as_words(values[0], little_endian=_is_little_endian(ds)))
        entries, first, bits = (int(value) for value in values)  # type: ignore[call-overload]  # raises TypeError
    except (_BadValueError, TypeError, ValueError):
        raise CorruptPixelData(f"{keyword} is missing or malformed") from None
    # The three share one VR, so the file's choice of US or SS says nothing about any one of them.
    entries, bits = entries & 0xFFFF or 0x10000, bits & 0xFFFF
    if not 1 <= bits <= 16:
        raise CorruptPixelData(f"{keyword} declares entries of {bits} bits")
    return entries, sign_16(first) if signed else first & 0xFFFF, bits


def _is_little_endian(ds: Dataset) -> bool:
    return ds.original_encoding[1] is not False


def _words(ds: Dataset, keyword: str) -> Entries:
    try:
        values = _values(ds, keyword)
    except _BadValueError:
        raise CorruptPixelData(f"{keyword} is malformed") from None
    if not values:
        raise CorruptPixelData(f"{keyword} is missing")
    raw = values[0] if len(values) == 1 else values
    return as_words(raw, little_endian=_is_little_endian(ds))


def _read_lut(item: Dataset, *, signed: bool) -> LookupTable:
    """One item of a Modality or VOI LUT Sequence (C.11.1.1.1, C.11.2.1.1). Raises CorruptPixelData."""
    entries, first, bits = _descriptor(item, "LUTDescriptor", signed=signed)
    data, bits = unpack_entries(_words(item, "LUTData"), entries, bits)
    return LookupTable(first, np.ascontiguousarray(data), bits, text(item, "LUTExplanation", 64))


def _has_supplemental_palette(ds: Dataset, layout: PixelLayout, frame_index: int) -> bool:
    """Whether a grey frame's higher stored values are colours (C.8.16.2.1.1.1): Pixel Presentation says so, the
    frame's own before the image's."""
    shown = text(ds, "PixelPresentation", 16).upper()
    if shown not in ("COLOR", "MIXED"):
        return False
    own = (text(item, "PixelPresentation", 16).upper() for item in _frame_types(ds, frame_index))
    shown = next(filter(None, own), shown)
    if shown == "MIXED":
        raise NotRenderable("Pixel Presentation is MIXED, but the frame does not say which it is")
    if shown == "COLOR" and layout.photometric_interpretation != "MONOCHROME2":
        raise CorruptPixelData("a supplemental palette goes with MONOCHROME2 only")
    return shown == "COLOR"


def _frame_types(ds: Dataset, frame_index: int) -> Iterator[Dataset]:
    for keyword in _FRAME_TYPES:
        yield from (item for item in _groups(ds, frame_index, keyword) if item is not ds)


def _read_palette(ds: Dataset, layout: PixelLayout) -> LookupTable:
    """Red, green and blue tables as one (C.7.6.3.1.5, C.7.6.3.1.6, C.7.9.2). Raises CorruptPixelData."""
    channels = [_read_channel(ds, name, layout) for name in ("Red", "Green", "Blue")]
    firsts, counts, bits = ({channel[i] for channel in channels} for i in (0, 1, 2))
    if len(firsts) != 1 or len(counts) != 1 or len(bits) != 1:
        raise CorruptPixelData("the red, green and blue palette descriptors differ")
    data = np.stack([channel[3] for channel in channels], axis=1)
    return LookupTable(channels[0][0], np.ascontiguousarray(data), channels[0][2])


def _read_channel(ds: Dataset, name: str, layout: PixelLayout) -> tuple[int, int, int, Entries]:
    keyword = f"{name}PaletteColorLookupTableDescriptor"
    entries, first, bits = _descriptor(ds, keyword, signed=bool(layout.pixel_representation))
    if bits not in (8, 16):
        raise CorruptPixelData(f"{keyword} declares entries of {bits} bits")
    if f"Segmented{name}PaletteColorLookupTableData" in ds:
        words = _words(ds, f"Segmented{name}PaletteColorLookupTableData")
        return first, entries, bits, expand_segments(words, entries, bits)
    data, bits = unpack_entries(_words(ds, f"{name}PaletteColorLookupTableData"), entries, bits)
    return first, entries, bits, data


# --- padding, spacing ---------------------------------------------------------------------------------------


def _read_padding(ds: Dataset, layout: PixelLayout, notes: list[str]) -> tuple[float, float] | None:
    """Pixel Padding Value to Range Limit, inclusive, in stored values (C.7.5.1.1.2)."""
    prefix = "" if not layout.is_float else ("Float" if layout.bits_allocated == 32 else "DoubleFloat")
    try:
        value = _float(ds, f"{prefix}PixelPaddingValue")
        limit = _float(ds, f"{prefix}PixelPaddingRangeLimit")
        if value is None or math.isnan(value):
            return None
        if not layout.is_float:
            value, limit = (None if v is None else _signed_padding(v, layout) for v in (value, limit))
    except (_BadValueError, ValueError, OverflowError):
        notes.append("Pixel Padding Value ignored: malformed")
        return None
    if value is None:
        return None
    other = value if limit is None or math.isnan(limit) else limit
    return min(value, other), max(value, other)


def _signed_padding(value: float, layout: PixelLayout) -> float:
    """The VR is US or SS as Pixel Representation says, whatever VR the file chose; wider values stay as they are."""
    number = int(value)
    if layout.bits_allocated > 16 or not -0x8000 <= number <= 0xFFFF:
        return float(number)
    return float(sign_16(number) if layout.pixel_representation else number & 0xFFFF)


_SPACINGS = (
    ("PixelSpacing", ""),
    ("ImagerPixelSpacing", "spacing is Imager Pixel Spacing: distances are those at the detector"),
    ("NominalScannedPixelSpacing", "spacing is Nominal Scanned Pixel Spacing: distances are those on the film"),
)


def _read_spacing(ds: Dataset, frame_index: int, notes: list[str]) -> tuple[float, float] | None:
    """Distance between the centers of adjacent rows, and of adjacent columns [mm] (10.7.1.3)."""
    for source in _groups(ds, frame_index, "PixelMeasuresSequence"):
        for keyword, note in _SPACINGS:
            pair = _pair(source, keyword, notes)
            if pair is not None:
                if note:
                    notes.append(note)
                return pair
    return _ultrasound_spacing(ds)


def _pair(ds: Dataset, keyword: str, notes: list[str]) -> tuple[float, float] | None:
    try:
        values = _floats(ds, keyword)
    except _BadValueError:
        values = (math.nan,)
    if not values:
        return None
    if len(values) != 2 or not all(math.isfinite(v) and v > 0 for v in values):
        notes.append(f"{keyword} ignored: malformed")
        return None
    return values[0], values[1]


def _ultrasound_spacing(ds: Dataset) -> tuple[float, float] | None:
    """Of the one and only region, where both its axes are in cm (C.8.5.5): several regions have several scales."""
    try:
        regions = _values(ds, "SequenceOfUltrasoundRegions")
    except _BadValueError:
        return None
    if len(regions) != 1 or not isinstance(regions[0], Dataset):
        return None
    units = [whole_number(regions[0], f"PhysicalUnits{axis}Direction") for axis in "XY"]
    x, y = number(regions[0], "PhysicalDeltaX"), number(regions[0], "PhysicalDeltaY")
    if units != [3, 3] or not x or not y:
        return None
    return abs(y) * 10, abs(x) * 10


def _read_aspect_ratio(ds: Dataset, notes: list[str]) -> tuple[int, int] | None:
    """(vertical, horizontal) size of a pixel (C.7.6.3.1.7)."""
    pair = _pair(ds, "PixelAspectRatio", notes)
    return None if pair is None or min(pair) < 1 else (int(pair[0]), int(pair[1]))


# --- geometry -----------------------------------------------------------------------------------------------


def read_geometry(
    ds: Dataset, frame_index: int = 0, number_of_frames: int = 1, recalled: Callable[..., Any] | None = None
) -> Geometry:
    """Image Plane attributes of one frame (C.7.6.2, C.7.6.16.2.3, C.7.6.16.2.4). What is malformed is absent.

    The root's position is that of frame 1; the others of a multi-frame object without functional groups have one
    only where a Grid Frame Offset Vector says so (C.8.8.3.2). ``recalled(function, *args)``: ``function(ds, *args)``,
    of what is mostly the same from slice to slice.
    """
    recalled = recalled or partial(_called, ds)
    orientation = recalled(_orientation, frame_index)
    position = recalled(_position, frame_index, "PlanePositionSequence")
    if position is None and frame_index == 0:
        position = _triple(ds)
    elif position is None and number_of_frames > 1:
        position = _grid_position(ds, frame_index, orientation)
    location = number(ds, "SliceLocation") if number_of_frames == 1 else None
    return Geometry(position, orientation, location)


def _called(ds: Dataset, function: Callable[..., Found], *args: object) -> Found:
    return function(ds, *args)


def _finite(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        values = _floats(ds, keyword)
    except _BadValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _triple(ds: Dataset) -> tuple[float, float, float] | None:
    values = _finite(ds, "ImagePositionPatient", 3)
    return None if values is None else (values[0], values[1], values[2])


def _position(ds: Dataset, frame_index: int, keyword: str) -> tuple[float, float, float] | None:
    positions = (_triple(source) for source in _groups(ds, frame_index, keyword) if source is not ds)
    return next((position for position in positions if position is not None), None)


def _orientation(ds: Dataset, frame_index: int) -> tuple[float, float, float, float, float, float] | None:
    for source in _groups(ds, frame_index, "PlaneOrientationSequence"):
        values = _finite(source, "ImageOrientationPatient", 6)
        if values is not None and _is_rigid(values):
            return values[0], values[1], values[2], values[3], values[4], values[5]
    return None


@lru_cache(maxsize=256)
def _is_rigid(values: tuple[float, ...]) -> bool:
    """Two unit vectors at a right angle, within what decimal strings round away."""
    row, column = np.array(values[:3]), np.array(values[3:])
    return bool(
        abs(np.linalg.norm(row) - 1) < 1e-2
        and abs(np.linalg.norm(column) - 1) < 1e-2
        and abs(np.dot(row, column)) < 1e-2
    )


def _grid_position(
    ds: Dataset, frame_index: int, orientation: tuple[float, ...] | None
) -> tuple[float, float, float] | None:
    first = _triple(ds)
    try:
        offsets = _values(ds, "GridFrameOffsetVector")
        if first is None or orientation is None or frame_index >= len(offsets) or float(str(offsets[0])) != 0:
            return None
        offset = float(str(offsets[frame_index]))
    except (_BadValueError, ValueError):
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    x, y, z = (np.array(first) + offset * normal).tolist()
    return (x, y, z) if math.isfinite(x + y + z) else None


# --- attributes for listing ---------------------------------------------------------------------------------

_STUDY = (
    "PatientName",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
)


Attributes = dict[str, str | int | float | None]
"""What lists and overlays show, by keywords."""


def read_study(ds: Dataset) -> Attributes:
    """Of the patient and the study (C.7.1.1, C.7.2.1)."""
    return {keyword: text(ds, keyword, 256) for keyword in _STUDY}


def read_series(ds: Dataset) -> Attributes:
    """Of the series (C.7.3.1)."""
    return {
        "Modality": text(ds, "Modality", 16),
        "SeriesNumber": whole_number(ds, "SeriesNumber"),
        "SeriesDescription": text(ds, "SeriesDescription", 256),
    }


def read_kind(ds: Dataset) -> Attributes:
    """Of the instance what is mostly the same in a series."""
    return {"SOPClassUID": text(ds, "SOPClassUID", 64), "SliceThickness": number(ds, "SliceThickness")}
