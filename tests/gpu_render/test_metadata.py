"""The DICOM JSON Model of data sets, against pydicom's and against bytes written by hand."""

import base64
import json
import logging
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from gpu_render.archive import parse
from gpu_render.archive.instance import bulkdata_of_file, metadata_of_file
from gpu_render.archive.metadata import INLINE_BYTES, NUMBERS_BYTES, SERIES_TAGS, STUDY_TAGS, TEXT_BYTES
from gpu_render.errors import NotRenderable, TooLarge, UnreadableFile
from tests import data
from tests.data import DEFLATED, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Raw

SYNTAXES = (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)
SAMPLES = [path for folder in ("test_files", "charset_files") for path in (data.pydicom_folder() / folder).rglob("*")]


def parsed(content: bytes) -> parse.Parsed:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return parse.parse_descriptor(file.fileno(), identity="x")


def metadata(content: bytes) -> dict[str, Any]:
    """The JSON of a file, which must be there."""
    made: dict[str, Any] = json.loads(zlib.decompress(parsed(content).metadata))
    assert list(made) == sorted(made)  # F.2.2
    return made


def image(syntax: str = EXPLICIT_LE, **changes: Any) -> dict[str, Any]:
    """The JSON of a small image with these attributes."""
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return metadata(data.file_bytes(data.image(1, 2, **sizes, **changes), b"\1\2", syntax))


def raw(elements: bytes, syntax: str = EXPLICIT_LE, **changes: Any) -> dict[str, Any]:
    """The same with encoded elements between group 0028 and the pixels."""
    return metadata(with_elements(elements, syntax, **changes))


def with_elements(elements: bytes, syntax: str = EXPLICIT_LE, **changes: Any) -> bytes:
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    attributes = data.image(1, 2, **sizes, **changes)
    body = data.dataset(attributes, syntax) + elements + data.element(0x7FE00010, b"\1\2", syntax, vr="OW")
    return b"\0" * 128 + b"DICM" + data.file_meta(syntax, "1.2.9") + body


# --- pydicom's samples --------------------------------------------------------------------------------------


def normalised(element: Any) -> Any:
    """What both writers say in their own ways: empty sequences, empty values among several, names of bulk data."""
    if isinstance(element, dict):
        plain = {name: normalised(value) for name, value in element.items() if not (name == "Value" and value == [])}
        return {**plain, "BulkDataURI": "..."} if "BulkDataURI" in plain else plain
    if isinstance(element, list):
        return [normalised(value) for value in element]
    return None if element == "" else element.strip() if isinstance(element, str) else element


# Where pydicom raises: Number of Frames "1A", which is text here.
DIFFERS = {"badVR.dcm": {"00280008"}}


@pytest.mark.parametrize(
    "path", [path for path in SAMPLES if path.is_file() and path.suffix != ".py"], ids=lambda p: p.name
)
def test_samples_are_what_pydicom_says(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with parse.quiet():
            result = parse.parse_descriptor(descriptor, identity="x")
    except UnreadableFile:
        pytest.skip("no DICOM object")
    finally:
        os.close(descriptor)
    mine = json.loads(zlib.decompress(result.metadata))
    assert mine.pop("00083002")["Value"][0] == result.document["transfer_syntax_uid"]
    with parse.quiet():
        ds = pydicom.dcmread(path, force=True)
        tags = [tag for tag in ds.keys() if tag.element and tag.group not in (0, 2)]  # noqa: SIM118
        assert set(mine) - {"00080005"} == {f"{tag:08X}" for tag in tags} - {"00080005"}
        for tag in tags:
            name = f"{tag:08X}"
            if name in DIFFERS.get(path.name, set()):
                continue
            if tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
                assert mine[name]["BulkDataURI"] == f"bulkdata/{name}"
            elif tag == 0x00080005:
                assert mine[name]["Value"] == ["ISO_IR 192"]
            else:
                theirs = ds[tag].to_json_dict(lambda _: "...", (INLINE_BYTES * 4) // 3 + 4)
                assert normalised(mine[name]) == normalised(json.loads(json.dumps(theirs))), name
        if path.name not in DIFFERS:
            Dataset.from_json(json.dumps(mine), lambda *_: b"")


def test_study_and_series_attributes() -> None:
    document = parsed(data.file_bytes(data.image(1, 1), bytes(2))).document
    study, series = document["study_attributes"], document["series_attributes"]
    assert study["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Test^Case"}]}
    assert study["0020000D"] == {"vr": "UI", "Value": ["1.2.4.1"]}
    assert series["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert not set(study) & set(series)
    assert not STUDY_TAGS & SERIES_TAGS
    assert "00080018" not in {*study, *series}


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_binary_numbers_in_any_byte_order(syntax: str) -> None:
    made = image(syntax, ReferencePixelX0=-70000, TagAngleSecondAxis=-2, RecommendedDisplayFrameRateInFloat=0.5)
    assert made["00186020"]["Value"] == [-70000]
    assert made["00189219"]["Value"] == [-2]
    assert made["00089459"]["Value"] == [0.5]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_words_are_little_endian(syntax: str) -> None:
    order = ">" if syntax == EXPLICIT_BE else "<"
    made = image(syntax, RedPaletteColorLookupTableData=Raw("OW", struct.pack(f"{order}2H", 1, 0x203)))
    assert base64.b64decode(made["00281201"]["InlineBinary"]) == b"\1\0\3\2"


def test_numbers_that_json_has_not() -> None:
    made = image(TableOfParameterValues=Raw("FL", struct.pack("<4f", math.inf, -math.inf, math.nan, 1)))
    assert made["0018605A"]["Value"] == ["Infinity", "-Infinity", "NaN", 1.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.500", "1.500"),
        ("+1.5", "1.5"),
        (".5", "0.5"),
        ("1.", "1.0"),
        (" 007 ", "7"),
        ("-0", "-0"),
        ("1E2", "1E2"),
        ("1e999", '"1e999"'),
        ("1,5", '"1,5"'),
        ("1_0", '"1_0"'),
        ("nan", '"nan"'),
        ("9007199254740993", '"9007199254740993"'),
        ("1\\\\2", "1,null,2"),
    ],
)
def test_decimals_are_numbers_where_they_can_be(text: str, value: str) -> None:
    """A JSON number is written as the file has it: nothing is lost or made up."""
    content = data.file_bytes(data.image(1, 1, RescaleSlope=Raw("DS", text.encode())), bytes(2))
    assert f'"00281053":{{"vr":"DS","Value":[{value}]}}'.encode() in zlib.decompress(parsed(content).metadata)


def test_integers_of_64_bits_that_doubles_do_not_hold_are_strings() -> None:
    made = raw(data.element(0x00720082, struct.pack("<2q", 5, -(1 << 60)), vr="SV"))
    assert made["00720082"]["Value"] == [5, str(-(1 << 60))]


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
@pytest.mark.parametrize(("signed", "vr", "value"), [(0, "US", 0xFFFE), (1, "SS", -2)])
def test_alternatives_are_decided_by_pixel_representation(syntax: str, signed: int, vr: str, value: int) -> None:
    padding = Raw(vr, struct.pack("<H", 0xFFFE))
    item = {"SmallestImagePixelValue": padding}
    made = image(syntax, PixelRepresentation=signed, PixelPaddingValue=padding, VOILUTSequence=[item])
    assert made["00280120"] == {"vr": vr, "Value": [value]}
    assert made["00283010"]["Value"][0]["00280106"] == {"vr": vr, "Value": [value]}


def test_empty_values() -> None:
    """F.2.5"""
    made = image(
        PatientName="",
        StudyDate="",
        ImageType=["ORIGINAL", "", "AXIAL"],
        VOILUTSequence=[],
        ModalityLUTSequence=[{}, {"LUTExplanation": "x"}],
        OperatorsName="A\\\\B",
        OtherPatientNames="=\\C",
    )
    assert made["00100010"] == {"vr": "PN"}
    assert made["00080020"] == {"vr": "DA"}
    assert made["00080008"]["Value"] == ["ORIGINAL", None, "AXIAL"]
    assert made["00283010"] == {"vr": "SQ"}
    assert made["00283000"]["Value"] == [{}, {"00283003": {"vr": "LO", "Value": ["x"]}}]
    assert made["00081070"]["Value"] == [{"Alphabetic": "A"}, None, {"Alphabetic": "B"}]
    assert made["00101001"]["Value"] == [None, {"Alphabetic": "C"}]


def test_tags_and_uids_and_padding() -> None:
    pointers = Raw("AT", struct.pack("<4H", 0x18, 0x1063, 0x54, 0x20))
    made = image(FrameIncrementPointer=pointers, PatientID=Raw("LO", b"A1  "))
    assert made["00280009"]["Value"] == ["00181063", "00540020"]
    assert made["00080016"]["Value"] == [data.CT_IMAGE]  # of an odd length
    assert made["00100020"]["Value"] == ["A1"]


@pytest.mark.parametrize("length", [INLINE_BYTES, INLINE_BYTES + 2])
def test_long_binary_values_are_bulk_data(length: int) -> None:
    made = image(ICCProfile=bytes(length))
    assert ("InlineBinary" in made["00282000"]) == (length == INLINE_BYTES)
    assert made["00282000"].get("BulkDataURI", "bulkdata/00282000") == "bulkdata/00282000"


def test_long_texts_and_numbers_are_bulk_data() -> None:
    made = raw(
        data.element(0x00421010, b"x" * (TEXT_BYTES + 2), vr="UT")
        + data.element(0x00540220, b"x" * TEXT_BYTES, vr="UT")
        + data.element(0x00720080, bytes(NUMBERS_BYTES + 8), vr="UV"),
    )
    assert made["00421010"] == {"vr": "UT", "BulkDataURI": "bulkdata/00421010"}
    assert len(made["00540220"]["Value"][0]) == TEXT_BYTES
    assert made["00720080"] == {"vr": "UV", "BulkDataURI": "bulkdata/00720080"}


def test_paths_of_bulk_data_lead_through_sequences() -> None:
    long = {"LUTData": Raw("OW", bytes(4096))}
    made = image(
        VOILUTSequence=[{}, {**long}],
        SharedFunctionalGroupsSequence=[{"FrameVOILUTSequence": [{"VOILUTSequence": [long]}]}],
    )
    assert made["00283010"]["Value"][1]["00283006"]["BulkDataURI"] == "bulkdata/00283010/2/00283006"
    inner = made["52009229"]["Value"][0]["00289132"]["Value"][0]["00283010"]["Value"][0]
    assert inner["00283006"]["BulkDataURI"] == "bulkdata/52009229/1/00289132/1/00283010/1/00283006"


@pytest.mark.parametrize(
    ("keyword", "value", "vr"),
    [
        ("ReferencePixelX0", Raw("SL", b"\1\2"), "SL"),
        ("TableOfParameterValues", Raw("FL", b"\1\2"), "FL"),
        ("FrameIncrementPointer", Raw("AT", b"\1\2"), "AT"),
        ("RecommendedDisplayFrameRateInFloat", Raw("FL", b"\1\2"), "FL"),
    ],
)
def test_values_that_cannot_be_read_are_left_out(
    keyword: str, value: Raw, vr: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    changes: dict[str, Any] = {keyword: value}
    made = image(**changes)
    assert {"vr": vr} in made.values()
    assert not caplog.text


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("character_set", "value", "text"),
    [
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        ("ISO_IR 192", "Ω-名".encode(), "Ω-名"),
        ("GB18030", "馶".encode("gb18030") + b"\\2", "馶"),  # whose second byte is 5C
        ("\\ISO 2022 IR 87", b"\x1b$B=U\x1b(B", "春"),  # whose first byte is =
        ("ISO 2022 IR 6\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8", "김"),
    ],
)
def test_texts_are_decoded_and_called_utf_8(character_set: str, value: bytes, text: str) -> None:
    made = image(SpecificCharacterSet=character_set, StudyDescription=Raw("LO", value), PatientName=Raw("PN", value))
    assert made["00080005"]["Value"] == ["ISO_IR 192"]
    assert made["00081030"]["Value"][0] == text
    assert made["00100010"]["Value"][0] == {"Alphabetic": text}


def test_an_item_has_its_own_character_set() -> None:
    item = {"SpecificCharacterSet": "ISO_IR 144", "LUTExplanation": Raw("LO", "Ж".encode("iso8859_5"))}
    made = image(SpecificCharacterSet="ISO_IR 100", ModalityLUTSequence=[item], ImageComments=Raw("LT", b"\xfc"))
    assert made["00283000"]["Value"][0]["00283003"]["Value"] == ["Ж"]
    assert made["00283000"]["Value"][0]["00080005"]["Value"] == ["ISO_IR 192"]
    assert made["00204000"]["Value"] == ["ü"]


def test_text_of_no_character_set_says_utf_8() -> None:
    made = image(StudyDescription=Raw("LO", b"M\xfcller"))
    assert made["00080005"]["Value"] == ["ISO_IR 192"]


def test_component_groups_of_names() -> None:
    made = image(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert made["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]


def test_backslashes_within_paragraphs_stay() -> None:
    assert image(ImageComments=Raw("LT", b'a\\b "c"\n '))["00204000"]["Value"] == ['a\\b "c"\n']


# --- structure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
def test_private_elements(syntax: str) -> None:
    elements = (
        data.element(0x00290010, b"SIEMENS CSA HEADER", syntax, vr="LO")
        + data.element(0x00291008, b"NUM 4 ", syntax, vr="UN" if syntax == EXPLICIT_LE else "CS")
        + data.element(0x002910F0, b"ab", syntax, vr="UN")
    )
    made = raw(elements, syntax)
    assert made["00290010"] == {"vr": "LO", "Value": ["SIEMENS CSA HEADER"]}
    assert made["00291008"] == {"vr": "CS", "Value": ["NUM 4"]}
    assert made["002910F0"] == {"vr": "UN", "InlineBinary": base64.b64encode(b"ab").decode()}


def test_an_unknown_sequence_is_implicit_inside() -> None:
    inner = data.element(0x00080104, b"text", IMPLICIT_LE, vr="LO")
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    sequence += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    made = raw(data.element(0x00291010, sequence, vr="UN", length=data.UNDEFINED))
    assert made["00291010"] == {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["text"]}}]}


def test_group_lengths_and_file_meta_are_left_out() -> None:
    made = raw(data.element(0x00290000, struct.pack("<I", 0), vr="UL"))
    assert "00290000" not in made
    assert not any(tag.startswith("0002") for tag in made)


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED])
def test_elements_behind_the_pixels(syntax: str) -> None:
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    body = data.dataset(data.image(1, 2, **sizes), syntax) + data.element(0x7FE00010, b"\1\2", syntax, vr="OW")
    body += data.element(0x7FE10010, b"ACME", syntax, vr="LO") + data.element(0xFFFCFFFC, bytes(4), syntax, vr="OB")
    body = data.deflate(body) if syntax == DEFLATED else body
    made = metadata(b"\0" * 128 + b"DICM" + data.file_meta(syntax, "1.2.9") + body)
    assert made["7FE00010"] == {"vr": "OW", "BulkDataURI": "bulkdata/7FE00010"}
    assert made["7FE10010"]["Value"] == ["ACME"]
    assert made["FFFCFFFC"]["InlineBinary"] == "AAAAAA=="


def test_elements_behind_compressed_pixels() -> None:
    content = data.file_bytes(
        data.image(1, 1, NumberOfFrames=2), data.encapsulate([b"ab", b"cd"]), data.RLE, encapsulated=True
    )
    made = metadata(content + data.element(0xFFFCFFFC, bytes(4), vr="OB"))
    assert made["7FE00010"]["vr"] == "OB"
    assert made["FFFCFFFC"]["InlineBinary"] == "AAAAAA=="


def test_transfer_syntaxes_that_can_be_had() -> None:
    assert image()["00083002"]["Value"] == [EXPLICIT_LE]
    assert image(EXPLICIT_BE)["00083002"]["Value"] == [EXPLICIT_BE, EXPLICIT_LE]
    video = data.file_bytes(data.image(1, 1), data.encapsulate([b"ab"]), "1.2.840.10008.1.2.4.102", encapsulated=True)
    assert metadata(video)["00083002"]["Value"] == ["1.2.840.10008.1.2.4.102"]


def test_an_irregular_data_set_is_what_pydicom_makes_of_it() -> None:
    twice = data.element(0x00291001, b"a ", vr="LO") + data.element(0x00291001, b"b ", vr="LO")
    assert raw(twice)["00291001"]["Value"] == ["b"]


@pytest.mark.parametrize("undefined", [False, True])
def test_long_functional_groups_are_made_on_request(
    undefined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [{"PlanePositionSequence": [{"ImagePositionPatient": ["0", "0", str(z)]}]} for z in range(50)]
    attributes = data.image(
        1, 2, NumberOfFrames=50, BitsAllocated=8, BitsStored=8, HighBit=7, PerFrameFunctionalGroupsSequence=groups
    )
    path = data.write(tmp_path / "a", attributes, bytes(100))
    content = path.read_bytes()
    whole = metadata(content)
    assert len(whole["52009230"]["Value"]) == 50
    monkeypatch.setattr(parse, "INDEXED_GROUPS_BYTES", 1000)
    monkeypatch.setattr(
        parse.read_metadata, "__kwdefaults__", {**(parse.read_metadata.__kwdefaults__ or {}), "groups": 1000}
    )
    short = parsed(content)
    assert short.metadata == b""
    assert short.document["study_attributes"] == parsed(content).document["study_attributes"]
    assert short.document["series_attributes"]["00080060"]["Value"] == ["CT"]
    _, made = metadata_of_file({"root": str(tmp_path), "path": "a", "decodable": True}, memoryview(b""))
    assert json.loads(zlib.decompress(made)) == whole


def test_what_is_too_long_is_left_for_later(tmp_path: Path) -> None:
    items = [{"LUTExplanation": "x" * 60} for _ in range(1000)]
    path = data.write(tmp_path / "a", data.image(1, 1, ModalityLUTSequence=items, SeriesNumber=7), bytes(2))
    with path.open("rb") as stream, parse.quiet():
        file = parse.read_file(stream.fileno())
        made = parse.read_metadata(stream.fileno(), file, decodable=True, spans=b"", limit=10_000)
    assert made.text == ""
    assert made.series["00200011"]["Value"] == [7]


# --- bulk data ----------------------------------------------------------------------------------------------


def bulk(path: Path, steps: str) -> bytes | None:
    meta = {"root": str(path.parent), "path": path.name, "path_in_data_set": steps}
    answer, value = bulkdata_of_file(meta, memoryview(b""))
    return value if answer["found"] else None


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_bulk_data_uri_of_a_file_leads_to_its_value(syntax: str, tmp_path: Path) -> None:
    order = ">" if syntax == EXPLICIT_BE else "<"
    table = struct.pack(f"{order}1024H", *range(1024))
    item = {"LUTDescriptor": [1024, 0, 16], "LUTData": Raw("OW", table)}
    attributes = data.image(
        1, 1, VOILUTSequence=[item, {}, item], ICCProfile=b"abc" * 600, RedPaletteColorLookupTableData=Raw("OW", table)
    )
    path = data.write(tmp_path / "a", attributes, bytes(2), syntax)
    little = struct.pack("<1024H", *range(1024))
    assert bulk(path, "00282000") == b"abc" * 600
    assert bulk(path, "00281201") == little
    assert bulk(path, "00283010/3/00283006") == little
    assert bulk(path, "00283010/2/00283006") is None
    assert bulk(path, "00283010/4/00283006") is None


@pytest.mark.parametrize(
    "steps", ["", "x", "00283010", "00283010/1", "00283010/0/00283006", "7FE00010", "0028300G", "../1"]
)
def test_what_is_no_value(steps: str, tmp_path: Path) -> None:
    path = data.write(tmp_path / "a", data.image(1, 1, VOILUTSequence=[{"LUTExplanation": "x"}]), bytes(2))
    assert bulk(path, steps) is None


def test_long_text_is_utf_8(tmp_path: Path) -> None:
    attributes = data.image(1, 1, SpecificCharacterSet="ISO_IR 100", TextValue=Raw("UT", b"\xfc" * (TEXT_BYTES + 2)))
    path = data.write(tmp_path / "a", attributes, bytes(2))
    assert bulk(path, "0040A160") == "ü".encode() * (TEXT_BYTES + 2)


def test_a_value_behind_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(data.file_bytes(data.image(1, 1), bytes(2)) + data.element(0x7FE11010, b"z" * 2000, vr="OB"))
    assert bulk(path, "7FE11010") == b"z" * 2000


def test_compressed_pixels_of_an_icon_are_refused(tmp_path: Path) -> None:
    icon = data.element(0x7FE00010, data.encapsulate([b"abcd"]), vr="OB", length=data.UNDEFINED)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(icon)) + icon
    path = tmp_path / "a"
    path.write_bytes(with_elements(data.element(0x00880200, Raw("SQ", item))))
    assert (
        metadata(path.read_bytes())["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"] == "bulkdata/00880200/1/7FE00010"
    )
    with pytest.raises(NotRenderable, match="icon"):
        bulk(path, "00880200/1/7FE00010")


def test_a_value_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.archive.instance.MAX_VALUE_BYTES", 1000)
    path = data.write(tmp_path / "a", data.image(1, 1, ICCProfile=bytes(2000)), bytes(2))
    with pytest.raises(TooLarge, match="2000 bytes"):
        bulk(path, "00282000")


# --- made-up data sets --------------------------------------------------------------------------------------

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\\\0^=\x1b", exclude_categories=("Cs", "Cc")), max_size=12
)
_TRIMMED = _TEXT.map(str.strip)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "StudyDescription": _TRIMMED,
    "PatientName": st.lists(_TRIMMED, min_size=1, max_size=3).map("=".join),
    "ImageComments": _TRIMMED,
    "InstanceNumber": st.integers(-(2**31), 2**31 - 1),
    "RescaleSlope": st.floats(-1e9, 1e9).map(lambda x: f"{x:.9g}"),
    "ImagePositionPatient": st.tuples(*[st.integers(-999, 999)] * 3).map(list),
    "ReferencePixelX0": st.integers(-(2**31), 2**31 - 1),
    "PixelPaddingValue": st.integers(0, 65535),
    "DoubleExposureFieldDelta": st.floats(allow_nan=False, allow_infinity=False),
    "TableOfParameterValues": st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4),
    "ICCProfile": st.binary(min_size=1, max_size=40).map(lambda b: b + b"\0" * (len(b) % 2)),
    "RedPaletteColorLookupTableData": st.binary(min_size=1, max_size=9).map(lambda b: b + b),
}
_FLAT = st.fixed_dictionaries({}, optional=_VALUES)
_NESTED = st.fixed_dictionaries({}, optional={**_VALUES, "VOILUTSequence": st.lists(_FLAT, max_size=3)})


@settings(max_examples=120, deadline=None)
@given(attributes=_NESTED, syntax=st.sampled_from(SYNTAXES))
def test_pydicom_reads_the_data_set_back(attributes: dict[str, Any], syntax: str) -> None:
    """What pydicom makes of our JSON is what pydicom makes of the file."""
    content = data.file_bytes(
        {**data.image(1, 1), **attributes, "SpecificCharacterSet": "ISO_IR 192"}, bytes(2), syntax
    )
    with parse.quiet(), tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        theirs = pydicom.dcmread(file, stop_before_pixels=True)
        mine = Dataset.from_json(json.dumps(metadata(content)), lambda *_: b"")
    del mine[0x00083002], mine[0x7FE00010]
    for ds in (theirs, mine):
        ds.walk(_plainly)
    assert json.loads(mine.to_json()) == json.loads(theirs.to_json())


def _plainly(ds: Dataset, element: Any) -> None:
    """Numbers as numbers, and words of big endian files in little endian."""
    if element.VR == "DS" and element.value:
        numbers = element.value if element.VM > 1 else [element.value]
        element.value = [float(number) for number in numbers]
    if element.VR == "OW" and ds.original_encoding[1] is False:
        element.value = b"".join(element.value[i : i + 2][::-1] for i in range(0, len(element.value), 2))


def test_elements_out_of_order_are_put_in_order() -> None:
    item = data.element(0x00283003, b"b ", vr="LO") + data.element(0x00283002, b"\1\0" * 3, vr="US")
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    made = raw(data.element(0x00283010, Raw("SQ", sequence)) + data.element(0x00204000, b"a ", vr="LT"))
    assert list(made["00283010"]["Value"][0]) == ["00283002", "00283003"]
    assert made["00204000"]["Value"] == ["a"]


def test_elements_that_were_seen_before_are_told_apart() -> None:
    """The same bytes in another character set, byte order or sign."""
    for _ in range(2):
        for character_set, text in (("ISO_IR 100", "ä"), ("ISO_IR 144", "ф"), ("ISO_IR 126", "δ")):
            made = image(SpecificCharacterSet=character_set, StudyDescription=Raw("LO", b"\xe4 "))
            assert made["00081030"]["Value"] == [text]
        for syntax, signed, value in ((IMPLICIT_LE, 0, 0xFFFE), (IMPLICIT_LE, 1, -2), (EXPLICIT_BE, 1, -257)):
            padding = Raw("SS" if signed else "US", b"\xfe\xff")
            made = image(syntax, PixelRepresentation=signed, VOILUTSequence=[{"SmallestImagePixelValue": padding}])
            assert made["00283010"]["Value"][0]["00280106"]["Value"] == [value]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: dict[tuple[Any, ...], str] = {}
    monkeypatch.setattr("gpu_render.archive.metadata._MOST_REMEMBERED", 10)
    monkeypatch.setattr("gpu_render.archive.metadata._remembered", remembered)
    for number in range(3):
        assert image(InstanceNumber=number)["00200013"]["Value"] == [number]
        assert len(remembered) <= 10


def test_pixels_of_a_vr_that_is_none() -> None:
    content = data.file_bytes(data.image(1, 1, BitsAllocated=8, BitsStored=8, HighBit=7), b"\1\2", vr="OB")
    at = content.rindex(b"\xe0\x7f\x10\0OB")
    made = metadata(content[: at + 4] + b"O\0\2\0" + b"\1\2")  # read with a length of two bytes, as of a short VR
    assert made["7FE00010"] == {"vr": "OW", "BulkDataURI": "bulkdata/7FE00010"}
