"""Tags to records: made headers for every rule, hypothesis for hostile values."""

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from gpu_render.archive.records import (
    geometry_from_json,
    geometry_to_json,
    layout_from_json,
    layout_to_json,
    presentation_from_json,
    presentation_to_json,
)
from gpu_render.errors import CorruptPixelData, NotRenderable, RenderError, TooLarge
from gpu_render.frame import Geometry, LookupTable, PixelLayout, Presentation, Rescale, VoiFunction, Window
from gpu_render.header import (
    native_frame_bits,
    read_geometry,
    read_kind,
    read_layout,
    read_number_of_frames,
    read_presentation,
    read_series,
    read_study,
    uid_text,
    whole_number,
)
from gpu_render.lookup_tables import expand_segments
from tests.data import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Raw, dataset, image

SYNTAXES = [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE]


@pytest.fixture(autouse=True)
def _without_pydicoms_warnings() -> Iterator[None]:
    """As in a worker: pydicom warns of the very values that are tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(syntax: str = EXPLICIT_LE, **changes: Any) -> Dataset:
    body = dataset(image(4, 6, **changes), syntax)
    return read_dataset(io.BytesIO(body), syntax == IMPLICIT_LE, syntax != EXPLICIT_BE)


def presentation(syntax: str = EXPLICIT_LE, frame_index: int = 0, **changes: Any) -> Presentation:
    ds = read(syntax, **changes)
    return read_presentation(ds, read_layout(ds, encapsulated=True), frame_index)


RGB: dict[str, Any] = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
BITS_8: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
BITS_1: dict[str, Any] = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}


# --- layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_layout(syntax: str) -> None:
    layout = read_layout(read(syntax, BitsStored=12, HighBit=13, PixelRepresentation=1))
    assert layout == PixelLayout(4, 6, 1, 16, 12, 13, 1, "MONOCHROME2")
    assert native_frame_bits(layout) == 4 * 6 * 16


def test_float_layout_needs_no_integer_attributes() -> None:
    ds = read(BitsAllocated=64, BitsStored=..., HighBit=..., PixelRepresentation=...)
    assert read_layout(ds, is_float=True) == PixelLayout(4, 6, 1, 64, 64, 63, 0, "MONOCHROME2", is_float=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": ...}, "Rows is missing"),
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": 0}, "at least 1"),
        ({"Columns": [4, 5]}, "Columns is malformed"),
        ({"BitsAllocated": ...}, "BitsAllocated is missing"),
        ({"BitsStored": 0}, "contradict"),
        ({"BitsStored": 17}, "contradict"),
        ({"HighBit": 16}, "contradict"),
        ({"BitsStored": 12, "HighBit": 10}, "contradict"),
        ({"PixelRepresentation": 2}, "PixelRepresentation"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation is missing"),
        ({"SamplesPerPixel": 3}, "contradicts"),
        ({"PhotometricInterpretation": "RGB"}, "contradicts"),
        ({**RGB, **BITS_8, "PlanarConfiguration": ...}, "PlanarConfiguration"),
        ({**RGB, **BITS_8, "PlanarConfiguration": 2}, "PlanarConfiguration"),
        ({**RGB, **BITS_8, "PhotometricInterpretation": "YBR_FULL_422", "Columns": 5}, "subsampling"),
        ({**RGB, **BITS_8, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 1}, "subsampling"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptPixelData, match=message):
        read_layout(read(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
        {"SamplesPerPixel": 4, "PhotometricInterpretation": "CMYK"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "HSV"},
        {"PhotometricInterpretation": "SOMETHING"},
        {**RGB, **BITS_1},
        {**RGB, **BITS_8, "PhotometricInterpretation": "YBR_PARTIAL_420"},
    ],
)
def test_what_cannot_be_shown(changes: dict[str, Any]) -> None:
    with pytest.raises(NotRenderable):
        read_layout(read(**changes))


def test_layout_of_colour() -> None:
    layout = read_layout(read(**RGB | BITS_8 | {"PhotometricInterpretation": "YBR_FULL_422"}))
    assert layout.shape == (4, 6, 3)
    assert native_frame_bits(layout) == 4 * 6 * 2 * 8
    assert read_layout(read(**RGB | BITS_8 | {"PlanarConfiguration": ...}), encapsulated=True).planar_configuration == 0


def test_header_bombs() -> None:
    with pytest.raises(TooLarge):
        read_layout(read(Rows=65535, Columns=65535))
    with pytest.raises(TooLarge):
        read_number_of_frames(read(NumberOfFrames="2000000000"))


@pytest.mark.parametrize(("value", "expected"), [(..., 1), (None, 1), ("0", 1), ("7", 7), (" 12 ", 12), ("3.0", 3)])
def test_number_of_frames(value: Any, expected: int) -> None:
    assert read_number_of_frames(read(NumberOfFrames=value)) == expected


@pytest.mark.parametrize("value", ["1A", "-3", "2\\3", "2.5"])
def test_malformed_number_of_frames(value: str) -> None:
    with pytest.raises(CorruptPixelData, match="NumberOfFrames"):
        read_number_of_frames(read(NumberOfFrames=value))


# --- modality -----------------------------------------------------------------------------------------------


def test_rescale() -> None:
    assert presentation(RescaleSlope="-2.5", RescaleIntercept="-1024").modality == Rescale(-2.5, -1024.0, "HU")
    pet = presentation(Modality="PT", RescaleSlope="0.001", RescaleIntercept="0", RescaleType="US")
    assert pet.modality == Rescale(0.001, 0.0, "US")


@pytest.mark.parametrize("slope", ["0", None, ..., "nan", "inf"])
def test_useless_slope_is_absent_and_said_so(slope: Any) -> None:
    shown = presentation(RescaleSlope=slope, RescaleIntercept="-1024")
    assert shown.modality is None
    assert any("Rescale Slope" in note for note in shown.notes)


@pytest.mark.parametrize("changes", [{"RescaleSlope": "1,5"}, {"RescaleSlope": "1\\2"}, {"RescaleIntercept": "abc"}])
def test_a_rescale_is_never_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptPixelData, match="Rescale"):
        presentation(**{"RescaleSlope": "1", "RescaleIntercept": "0", **changes})


def test_equal_values_where_one_is_expected() -> None:
    assert presentation(RescaleSlope="2\\2", RescaleIntercept="1").modality == Rescale(2.0, 1.0, "HU")


def test_functional_groups_come_before_the_root() -> None:
    def rescale(slope: float) -> dict[str, Any]:
        return {
            "PixelValueTransformationSequence": [{"RescaleSlope": slope, "RescaleIntercept": 0, "RescaleType": "US"}]
        }

    changes: dict[str, Any] = {
        "RescaleSlope": 9,
        "RescaleIntercept": 9,
        "SharedFunctionalGroupsSequence": [rescale(2)],
        "PerFrameFunctionalGroupsSequence": [rescale(3), {}, {"PixelValueTransformationSequence": []}],
    }
    found = [presentation(frame_index=index, **changes).modality for index in range(3)]
    assert found == [Rescale(3.0, 0.0, "US"), Rescale(2.0, 0.0, "US"), Rescale(2.0, 0.0, "US")]
    del changes["SharedFunctionalGroupsSequence"]
    assert presentation(frame_index=1, **changes).modality == Rescale(9.0, 9.0, "HU")


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", ["US", "SS"])
def test_modality_lut_is_signed_as_the_pixels(syntax: str, vr: str) -> None:
    order = ">" if syntax == EXPLICIT_BE else "<"
    lut = {
        "LUTDescriptor": Raw(vr, struct.pack(f"{order}3H", 4, 0xFFFE, 16)),
        "LUTData": Raw("OW", struct.pack(f"{order}4H", 0, 1, 40000, 65535)),
    }
    for representation, first in ((1, -2), (0, 0xFFFE)):
        table = presentation(syntax, PixelRepresentation=representation, ModalityLUTSequence=[lut]).modality
        assert isinstance(table, LookupTable)
        assert (table.first_mapped, table.bits, table.data.tolist()) == (first, 16, [0, 1, 40000, 65535])


def lut(entries: int, first: int, bits: int, data: bytes) -> dict[str, Any]:
    return {"LUTDescriptor": Raw("US", struct.pack("<3H", entries, first & 0xFFFF, bits)), "LUTData": Raw("OW", data)}


def test_malformed_modality_lut_is_an_error_and_malformed_voi_lut_a_note() -> None:
    with pytest.raises(CorruptPixelData, match="4 entries"):
        presentation(ModalityLUTSequence=[lut(4, 0, 16, b"\0\0")])
    shown = presentation(VOILUTSequence=[lut(4, 0, 16, b"\0\0")], WindowCenter="40", WindowWidth="400")
    assert shown.voi == (Window(40.0, 400.0),)
    assert shown.notes == ("VOI LUT 1 ignored: malformed",)


def test_65536_entries_are_written_as_0() -> None:
    data = np.arange(65536, dtype="<u2")
    table = presentation(ModalityLUTSequence=[lut(0, 0, 16, data.tobytes())]).modality
    assert isinstance(table, LookupTable)
    assert np.array_equal(table.data, data)


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_8_bit_entries(bits: int) -> None:
    table = presentation(ModalityLUTSequence=[lut(5, 0, bits, bytes([1, 2, 3, 4, 255, 0]))]).modality
    assert isinstance(table, LookupTable)
    assert (table.data.tolist(), table.bits) == ([1, 2, 3, 4, 255], 8)


# --- VOI ----------------------------------------------------------------------------------------------------


def test_windows_with_explanations_and_function() -> None:
    shown = presentation(
        WindowCenter="40\\-600",
        WindowWidth="400\\0.5",
        WindowCenterWidthExplanation="SOFT\\LUNG",
        VOILUTFunction="SIGMOID",
    )
    assert shown.voi == (
        Window(40.0, 400.0, VoiFunction.SIGMOID, "SOFT"),
        Window(-600.0, 0.5, VoiFunction.SIGMOID, "LUNG"),
    )


@pytest.mark.parametrize(
    ("center", "width", "function", "left"),
    [
        ("40\\50", "0.5\\400", None, [(50.0, 400.0)]),
        ("40", "0", "LINEAR_EXACT", []),
        ("nan", "400", None, []),
        ("40,5", "400", None, []),
        ("40", None, None, []),
        ("40\\50", "400", None, [(40.0, 400.0)]),
        ("40\\", "400\\10", None, [(40.0, 400.0)]),
        ("40", "400", "CUBIC", []),
    ],
)
def test_impossible_windows_are_ignored_with_a_note(center: str, width: Any, function: Any, left: list[Any]) -> None:
    shown = presentation(WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    assert [(w.center, w.width) for w in shown.voi if isinstance(w, Window)] == left
    assert shown.notes


def test_only_linear_needs_a_width_of_1() -> None:
    shown = presentation(WindowCenter="40", WindowWidth="0.5", VOILUTFunction="LINEAR_EXACT")
    assert (shown.voi, shown.notes) == ((Window(40.0, 0.5, VoiFunction.LINEAR_EXACT),), ())


def test_empty_windows_are_absent() -> None:
    shown = presentation(WindowCenter=None, WindowWidth=None)
    assert (shown.voi, shown.notes) == ((), ())


def test_frame_voi_lut_comes_first_and_an_empty_one_is_absent() -> None:
    def window(center: Any) -> dict[str, Any]:
        return {"FrameVOILUTSequence": [{"WindowCenter": center, "WindowWidth": 10}]}

    changes: dict[str, Any] = {
        "WindowCenter": 3,
        "WindowWidth": 10,
        "SharedFunctionalGroupsSequence": [window(2)],
        "PerFrameFunctionalGroupsSequence": [window(1), {"FrameVOILUTSequence": [{"WindowCenter": None}]}],
    }
    assert presentation(frame_index=0, **changes).voi == (Window(1.0, 10.0),)
    assert presentation(frame_index=1, **changes).voi == (Window(2.0, 10.0),)


def test_voi_luts_come_before_windows_and_are_signed_as_their_input() -> None:
    changes: dict[str, Any] = {
        "VOILUTSequence": [lut(2, 0xFC00, 12, b"\0\0\x01\0")],
        "WindowCenter": 1,
        "WindowWidth": 2,
    }
    hounsfield = presentation(RescaleSlope=1, RescaleIntercept=-1024, **changes).voi
    positive = presentation(RescaleSlope=1, RescaleIntercept=0, **changes).voi
    assert [type(voi) for voi in hounsfield] == [LookupTable, Window]
    assert isinstance(hounsfield[0], LookupTable)
    assert isinstance(positive[0], LookupTable)
    assert (hounsfield[0].first_mapped, positive[0].first_mapped) == (-1024, 0xFC00)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse"),
    [
        ("MONOCHROME1", ..., True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", ..., False),
    ],
)
def test_inverse_once(photometric: str, shape: Any, inverse: bool) -> None:
    assert presentation(PhotometricInterpretation=photometric, PresentationLUTShape=shape).inverse is inverse


def test_colour_has_neither_rescale_nor_window() -> None:
    shown = presentation(**RGB, **BITS_8, RescaleSlope=2, RescaleIntercept=1, WindowCenter=1, WindowWidth=2)
    assert (shown.modality, shown.voi, shown.inverse) == (None, (), False)


# --- palette ------------------------------------------------------------------------------------------------

PALETTE: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", **BITS_8}


def palette(descriptor: tuple[int, int, int], data: bytes, prefix: str = "", **changes: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(PALETTE)
    for name in ("Red", "Green", "Blue"):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = Raw("US", struct.pack("<3H", *descriptor))
        attributes[f"{prefix}{name}PaletteColorLookupTableData"] = Raw("OW", data)
    return {**attributes, **changes}


def test_palette() -> None:
    blue: dict[str, Any] = {"BluePaletteColorLookupTableData": Raw("OW", struct.pack("<3H", 7, 8, 9))}
    table = presentation(**palette((3, 5, 16), struct.pack("<3H", 0, 256, 65535), **blue)).palette
    assert table is not None
    assert (table.first_mapped, table.bits) == (5, 16)
    assert table.data.tolist() == [[0, 0, 7], [256, 256, 8], [65535, 65535, 9]]


def test_palette_first_mapped_value_is_signed_as_the_pixels() -> None:
    table = presentation(**palette((2, 0xFF80, 8), b"\x01\x02", PixelRepresentation=1)).palette
    assert table is not None
    assert table.first_mapped == -128


@pytest.mark.parametrize(
    "changes",
    [
        {"GreenPaletteColorLookupTableDescriptor": Raw("US", struct.pack("<3H", 3, 0, 8))},
        {"GreenPaletteColorLookupTableDescriptor": Raw("US", struct.pack("<2H", 2, 0))},
        {"GreenPaletteColorLookupTableDescriptor": ...},
        {"RedPaletteColorLookupTableData": ...},
        {"RedPaletteColorLookupTableData": Raw("OW", b"\0" * 12)},
        {"RedPaletteColorLookupTableDescriptor": Raw("US", struct.pack("<3H", 2, 0, 12))},
    ],
)
def test_malformed_palette(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptPixelData):
        presentation(**{**palette((2, 0, 8), b"\x01\x02"), **changes})


def test_segmented_palette() -> None:
    segments = struct.pack("<13H", 0, 2, 10, 20, 1, 4, 60, 0, 1, 7, 2, 1, 0) + struct.pack("<H", 0)
    table = presentation(**palette((9, 0, 16), segments, "Segmented")).palette
    assert table is not None
    assert table.data[:, 0].tolist() == [10, 20, 30, 40, 50, 60, 7, 10, 20]


def test_segments_of_8_bits() -> None:
    units = bytes([0, 2, 10, 20, 1, 4, 60, 2, 1, 0, 0, 0, 0, 0])
    words = np.frombuffer(units, "<u2").astype(np.uint16)
    assert expand_segments(words, 8, 8).tolist() == [10, 20, 30, 40, 50, 60, 10, 20]


@given(st.lists(st.integers(0, 65535), max_size=30), st.integers(1, 300), st.sampled_from([8, 16]))
def test_any_segments_give_all_entries_or_a_typed_error(units: list[int], entries: int, bits: int) -> None:
    try:
        table = expand_segments(np.array([unit % 7 for unit in units], dtype=np.uint16), entries, bits)
    except CorruptPixelData:
        return
    assert table.shape == (entries,)


# --- padding, spacing, geometry -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("representation", "value", "limit", "expected"),
    [
        (1, Raw("US", b"\x30\xf8"), ..., (-2000.0, -2000.0)),
        (1, Raw("SS", b"\x30\xf8"), Raw("SS", b"\x00\xf8"), (-2048.0, -2000.0)),
        (0, Raw("SS", b"\x30\xf8"), ..., (63536.0, 63536.0)),
        (0, ..., Raw("US", b"\0\0"), None),
        (0, None, ..., None),
    ],
)
def test_padding_is_signed_as_the_pixels(representation: int, value: Any, limit: Any, expected: Any) -> None:
    shown = presentation(PixelRepresentation=representation, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    assert shown.pixel_padding == expected


def test_float_padding() -> None:
    ds = read(BitsAllocated=32, FloatPixelPaddingValue=-1.5, FloatPixelPaddingRangeLimit=0.25)
    assert read_presentation(ds, read_layout(ds, is_float=True)).pixel_padding == (-1.5, 0.25)


def test_spacing_in_order_of_trust() -> None:
    measures = [{"PixelMeasuresSequence": [{"PixelSpacing": "1\\2"}]}]
    everything: dict[str, Any] = {
        "SharedFunctionalGroupsSequence": measures,
        "PixelSpacing": "3\\4",
        "ImagerPixelSpacing": "5\\6",
        "NominalScannedPixelSpacing": "7\\8",
    }
    found = []
    for keyword in list(everything):
        found.append(presentation(**everything).pixel_spacing_mm)
        del everything[keyword]
    assert found == [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]
    assert "detector" in presentation(ImagerPixelSpacing="5\\6").notes[0]


@pytest.mark.parametrize("spacing", ["0\\1", "-1\\1", "1", "a\\b", "1\\2\\3", "inf\\1"])
def test_impossible_spacing_is_ignored_with_a_note(spacing: str) -> None:
    shown = presentation(PixelSpacing=spacing)
    assert shown.pixel_spacing_mm is None
    assert shown.notes == ("PixelSpacing ignored: malformed",)


def test_spacing_of_one_ultrasound_region() -> None:
    region = {
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.02,
        "PhysicalDeltaY": 0.01,
    }
    assert presentation(SequenceOfUltrasoundRegions=[region]).pixel_spacing_mm == pytest.approx((0.1, 0.2))
    assert presentation(SequenceOfUltrasoundRegions=[region, region]).pixel_spacing_mm is None


def test_geometry() -> None:
    ds = read(ImagePositionPatient="1\\2\\3", ImageOrientationPatient="1\\0\\0\\0\\1\\0", SliceLocation="4.5")
    assert read_geometry(ds) == Geometry((1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 4.5)
    bent = read(ImagePositionPatient="1\\2", ImageOrientationPatient="1\\0\\0\\1\\0\\0", SliceLocation="x")
    assert read_geometry(bent) == Geometry()


def test_the_roots_position_is_that_of_frame_1_alone() -> None:
    plain = read(ImagePositionPatient="1\\2\\3", ImageOrientationPatient="1\\0\\0\\0\\1\\0")
    assert read_geometry(plain, 1, 2).image_position is None
    dose = read(
        ImagePositionPatient="1\\2\\3", ImageOrientationPatient="1\\0\\0\\0\\1\\0", GridFrameOffsetVector="0\\2.5"
    )
    assert read_geometry(dose, 1, 2).image_position == (1.0, 2.0, 5.5)


def test_geometry_of_functional_groups() -> None:
    ds = read(
        SharedFunctionalGroupsSequence=[
            {"PlaneOrientationSequence": [{"ImageOrientationPatient": "0\\1\\0\\0\\0\\1"}]}
        ],
        PerFrameFunctionalGroupsSequence=[
            {"PlanePositionSequence": [{"ImagePositionPatient": f"{x}\\0\\0"}]} for x in (7, 8)
        ],
    )
    assert [read_geometry(ds, index, 2).image_position for index in (0, 1)] == [(7.0, 0.0, 0.0), (8.0, 0.0, 0.0)]
    assert read_geometry(ds, 1, 2).image_orientation == (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


# --- attributes, hostile values, records --------------------------------------------------------------------


def test_attributes_are_decoded_and_cleaned() -> None:
    ds = read(
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Bär^Jo=\u5c71".encode(),
        SeriesNumber="x",
        StudyDescription="a\0b\nc",
    )
    study = read_study(ds)
    assert study["PatientName"] == "Bär^Jo=\u5c71"
    assert study["StudyDescription"] == "ab c"
    assert read_series(ds)["SeriesNumber"] is None


@pytest.mark.parametrize("value", [b"", b"1 "])
def test_a_vr_that_is_none_is_an_absent_value(value: bytes) -> None:
    """With no bytes pydicom looks at the VR even where only the bytes are asked for. Found by fuzzing."""
    ds = read(InstanceNumber=Raw("I\0", value), StudyInstanceUID=Raw("U\0", value))
    assert whole_number(ds, "InstanceNumber") is None
    assert uid_text(ds, "StudyInstanceUID") == ""


HOSTILE = [
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelPaddingValue", "NumberOfFrames", "Rows", "BitsStored",
    "PatientName", "ModalityLUTSequence", "VOILUTSequence", "PerFrameFunctionalGroupsSequence",
    "PixelAspectRatio", "PresentationLUTShape", "PhotometricInterpretation", "InstanceNumber",
]  # fmt: skip


@given(
    st.sampled_from(HOSTILE),
    st.sampled_from(["DS", "IS", "US", "SS", "CS", "SQ", "UN", "OW", "FD", "PN"]),
    st.binary(max_size=24),
)
def test_hostile_values_give_records_or_a_typed_error(keyword: str, vr: str, value: bytes) -> None:
    changes: dict[str, Any] = {keyword: Raw(vr, value)}
    ds = read(**changes)
    try:
        for read_level in (read_study, read_series, read_kind):
            read_level(ds)
        frames = read_number_of_frames(ds)
        layout = read_layout(ds)
        shown = read_presentation(ds, layout)
        geometry = read_geometry(ds, 0, frames)
    except RenderError:
        return
    assert_same(presentation_from_json(presentation_to_json(shown)), shown)
    assert geometry_from_json(geometry_to_json(geometry)) == geometry
    assert layout_from_json(layout_to_json(layout)) == layout


finite = st.floats(allow_nan=False, allow_infinity=False)
tables = st.builds(
    LookupTable,
    st.integers(-32768, 65535),
    st.lists(st.integers(0, 65535), min_size=1, max_size=9).map(lambda v: np.array(v, dtype=np.uint16)),
    st.integers(1, 16),
    st.text(max_size=9),
)
presentations = st.builds(
    Presentation,
    modality=st.none() | tables | st.builds(Rescale, finite, finite, st.text(max_size=5)),
    voi=st.lists(tables | st.builds(Window, finite, finite, st.sampled_from(VoiFunction), st.text(max_size=9))).map(
        tuple
    ),
    inverse=st.booleans(),
    palette=st.none() | tables.map(lambda t: LookupTable(t.first_mapped, np.stack([t.data] * 3, axis=1), 16)),
    pixel_padding=st.none() | st.tuples(finite, finite),
    pixel_spacing_mm=st.none() | st.tuples(finite, finite),
    pixel_aspect_ratio=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    notes=st.lists(st.text(max_size=9)).map(tuple),
)


def flat(value: Any) -> Any:
    """Records with their tables as lists, which compare."""
    if isinstance(value, LookupTable):
        return (value.first_mapped, value.data.tolist(), value.data.dtype, value.bits, value.explanation)
    return tuple(map(flat, value)) if isinstance(value, tuple) else value


def assert_same(one: Presentation, other: Presentation) -> None:
    for name in Presentation.__slots__:
        assert flat(getattr(one, name)) == flat(getattr(other, name))


@given(presentations)
def test_presentation_survives_the_index(shown: Presentation) -> None:
    assert_same(presentation_from_json(presentation_to_json(shown)), shown)


def test_tables_from_the_index_cannot_be_changed() -> None:
    table = LookupTable(0, np.array([1, 2], dtype=np.uint16), 16)
    palette_of = presentation_from_json(presentation_to_json(Presentation(palette=table))).palette
    assert palette_of is not None
    assert not palette_of.data.flags.writeable
