"""Headers read by what files before them had in common: always what pydicom's way makes of the same file."""

import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_render.archive import alike, parse
from gpu_render.errors import UnreadableFile
from tests import data
from tests.data import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Raw

Result = parse.Parsed | str


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> alike._Known:
    """Nothing is remembered of the files of other tests."""
    fresh = alike._Known()
    monkeypatch.setattr(alike, "_known", fresh)
    return fresh


def _parse(content: bytes, read_alike: Callable[[int], parse.File]) -> Result:
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(content)
        file.flush()
        patch.setattr(parse, "read_alike", read_alike)
        try:
            found = parse.parse_descriptor(file.fileno(), identity="x")
            return found._replace(metadata=zlib.decompress(found.metadata) if found.metadata else b"")
        except UnreadableFile as error:
            return str(error)


def by_pydicom(content: bytes) -> Result:
    def refuse(_descriptor: int) -> parse.File:
        raise alike.UnfamiliarError

    return _parse(content, refuse)


class Reading:
    """Parses files one after another; ``familiar``: how many were read without pydicom."""

    def __init__(self) -> None:
        self.familiar = 0
        self._read_alike = parse.read_alike

    def __call__(self, content: bytes) -> Result:
        return _parse(content, self._counted)

    def _counted(self, descriptor: int) -> parse.File:
        file = self._read_alike(descriptor)
        self.familiar += 1
        return file


def check(contents: Sequence[bytes]) -> int:
    """Each is what pydicom's way makes of it; returns how many went the short one."""
    reading = Reading()
    for content in contents:
        assert reading(content) == by_pydicom(content)
    return reading.familiar


# --- real files ---------------------------------------------------------------------------------------------


def _files(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".py" and path.stat().st_size < 4 << 20:
            yield path.read_bytes()


def test_samples_in_any_order() -> None:
    contents = list(_files(data.pydicom_folder()))
    expected = {content: by_pydicom(content) for content in contents}
    reading, chance = Reading(), random.Random(7)
    for _ in range(3):
        for content in contents:
            assert reading(content) == expected[content]
        chance.shuffle(contents)
    assert reading.familiar > len(contents)  # of three times as many, of which some have no pixels


def test_real_files_of_other_devices() -> None:
    assert check([*_files(data.corpus())]) > 100


# --- made files ---------------------------------------------------------------------------------------------

RICH: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ImagePositionPatient": ["-1.5", "2", "30"],
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PixelSpacing": ["0.5", "0.5"],
    "SliceLocation": "30",
    "SliceThickness": "2.5",
    "RescaleSlope": "1",
    "RescaleIntercept": "-1024",
    "WindowCenter": "40",
    "WindowWidth": "400",
    "StudyDescription": Raw("LO", b"Sch\xe4del "),
    "AvailableTransferSyntaxUID": "1.2.3",
    "VOILUTSequence": [{"LUTDescriptor": [2, 0, 16], "LUTData": struct.pack("<2H", 1, 2)}],
    "RequestAttributesSequence": [{"ScheduledProcedureStepID": "A"}, {}],
}


def _slice(number: int, syntax: str = EXPLICIT_LE, **changes: Any) -> bytes:
    varying = {"InstanceNumber": number, "SliceLocation": str(number), "ImagePositionPatient": ["1", "2", str(number)]}
    return data.file_bytes(data.image(1, 1, **{**RICH, **varying, **changes}), b"\1\2", syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, IMPLICIT_LE])
def test_slices_of_a_series_are_read_without_pydicom(syntax: str, known: alike._Known) -> None:
    assert check([_slice(number, syntax) for number in (1, 2, 3, 10, 100)]) == 5
    assert 0 < known._learned < 30


def test_what_was_the_same_so_far_may_change(known: alike._Known) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {},
        {"PatientName": "Other^Name"},
        {"SpecificCharacterSet": "ISO_IR 144"},
        {"SpecificCharacterSet": "ISO_IR 192", "StudyDescription": Raw("LO", "Schädel ".encode())},
        {"SpecificCharacterSet": ...},
        {"PixelRepresentation": 1},
        {"PixelRepresentation": 1, "SmallestImagePixelValue": Raw("SS", b"\xff\xff")},
        {"WindowCenter": "50"},
        {"Rows": 2},
        {"RescaleSlope": ""},
        {"SOPClassUID": ...},
        {"StudyInstanceUID": ...},
        {"Rows": ...},
        {"VOILUTSequence": []},
        {},
    ]
    assert check([_slice(number, **change) for change in changes for number in (1, 2)]) > len(changes)
    assert check([_slice(number, IMPLICIT_LE, **change) for change in changes for number in (1, 2)]) > len(changes)
    assert known._results


def test_equal_bytes_may_mean_something_else() -> None:
    """Behind another character set, private creator or Pixel Representation."""
    private = [
        data.element(0x00190010, Raw("LO", creator)) + data.element(0x00191010, Raw("UN", b"12"))
        for creator in (b"GEMS_ACQU_01", b"SIEMENS CT VA0  COAD", b"nobody")
    ]
    plain = data.image(1, 1, StudyDescription=Raw("LO", b"\xe4 "), PatientName=Raw("PN", b"\xe4 "))
    pixels = data.element(0x7FE00010, b"\1\2", vr="OW")

    def content(private: bytes, **changes: Any) -> bytes:
        attributes = {**plain, **changes}
        before = {name: value for name, value in attributes.items() if data._tag(name) < 0x00190010}
        behind = {name: value for name, value in attributes.items() if data._tag(name) > 0x00191010}
        body = data.dataset(before) + private + data.dataset(behind) + pixels
        return b"\0" * 128 + b"DICM" + data.file_meta(EXPLICIT_LE, "1.2.9") + body

    charsets = [{"SpecificCharacterSet": name} for name in ("ISO_IR 100", "ISO_IR 144", "ISO_IR 101")]
    contents = [content(creator, **charset) for creator in private for charset in (*charsets, {})]
    padding = Raw("UN", b"\xff\xff")
    contents += [content(private[0], PixelRepresentation=sign, PixelPaddingValue=padding) for sign in (0, 1)]
    assert check(contents * 3) == 3 * len(contents)


def test_behind_the_pixels() -> None:
    padding = data.element(0xFFFCFFFC, bytes(6), vr="OB")
    late = data.element(0x00100010, "Late^Name", vr="PN")
    endings = (padding, padding + late, late, b"\0\0", data.element(0x7FE10010, "ACME", vr="LO") + padding)
    assert check([_slice(number) + ending for ending in endings for number in (1, 2)]) == 2 * len(endings)


def test_sequences_of_undefined_length() -> None:
    items = b"".join(data.item(data.dataset({"ReferencedSOPInstanceUID": f"1.2.{n}"})) for n in range(2))
    contents = []
    for number in (1, 2, 3):
        content = _slice(number)
        at = content.index(struct.pack("<HH", 0x0010, 0x0010))
        for value in (items, items[:-2], b"", items + b"\0\0"):
            sequence = data.element(0x00089215, Raw("SQ", value + b"\xfe\xff\xdd\xe0\0\0\0\0"), length=data.UNDEFINED)
            contents.append(content[:at] + sequence + content[at:])
    assert check(contents) >= 3


def test_long_headers_are_read_in_steps(known: alike._Known) -> None:
    sizes = (5_000, 20_000, 60_000, 100, 400_000, 100, 600_000, 100)
    contents = [_slice(n, RedPaletteColorLookupTableData=Raw("OW", bytes(size))) for n, size in enumerate(sizes)]
    assert check(contents) == len(sizes) - 1
    assert known.expected <= alike.MOST_BYTES


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, known: alike._Known) -> None:
    for name, most in (("_MOST_RUNS", 20), ("_MOST_RESULTS", 5), ("_MOST_MEANINGS", 4)):
        monkeypatch.setattr(alike, name, most)
    charsets = ("ISO_IR 100", "ISO_IR 144", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110")
    contents = [_slice(n, SpecificCharacterSet=name, PatientID=f"P{n % 3}") for n, name in enumerate(charsets * 8)]
    assert check(contents) == len(contents)
    assert sum(len(results) for looks in known._results.values() for _, results in looks) <= 5
    assert len(known._meanings) <= 4 + 3


# --- what only pydicom may read -----------------------------------------------------------------------------


def _swapped(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def _unfamiliar() -> Iterator[tuple[str, bytes]]:
    plain = _slice(1)
    yield "big endian", _slice(1, EXPLICIT_BE)
    yield "deflated", data.file_bytes(data.image(1, 1), bytes(2), data.DEFLATED)
    yield "no preamble", plain[132:]
    yield "no File Meta Information", data.file_bytes(data.image(1, 1), bytes(2), meta=False)
    yield "no pixels", data.file_bytes(data.image(1, 1))
    yield "functional groups", _slice(1, PerFrameFunctionalGroupsSequence=[{}])
    yield "a VR that is none", _swapped(plain, b"\x10\0\x10\0PN", b"\x10\0\x10\0QQ")
    yield "another order", _swapped(plain, b"\x10\0\x20\0LO", b"\x08\0\x21\0LO")
    yield "twice the same", _swapped(plain, b"\x10\0\x20\0LO", b"\x10\0\x10\0PN")
    yield "implicit after all", _swapped(_slice(1, IMPLICIT_LE), b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"[:18])
    yield "cut off", plain[:300]
    yield "empty", b""


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in _unfamiliar()])
def test_what_only_pydicom_may_read(content: bytes) -> None:
    assert check([_slice(0), _slice(1), content, _slice(2)]) == 3


# --- anything -----------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="latin-1", exclude_characters="\\"), max_size=12).map(lambda x: x.encode("latin-1"))
numbers = st.sampled_from(
    ["1", "-0", "1.50 ", " 2", "1e3", "x", "", "99999999999", "1\\2", "\\", "0.1\\0.2\\-0.3", "+5"]
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "InstanceNumber": numbers,
        "SliceThickness": numbers,
        "ImagePositionPatient": numbers,
        "WindowCenter": numbers,
        "PixelSpacing": numbers,
        "PatientName": texts.map(lambda value: Raw("PN", value)),
        "StudyDescription": texts.map(lambda value: Raw("LO", value)),
        "SOPInstanceUID": st.sampled_from(["1.2.3", "1.2.x", "", "1.2.3\\4"]),
        "SpecificCharacterSet": st.sampled_from(
            ["ISO_IR 100", "ISO_IR 192", "", "\\ISO 2022 IR 87", "nonsense", "latin_1"]
        ),
        "PixelRepresentation": st.sampled_from([0, 1]),
        "PixelPaddingValue": st.binary(min_size=2, max_size=2).map(lambda value: Raw("US", value)),
        "RequestAttributesSequence": st.lists(st.fixed_dictionaries({"ScheduledProcedureStepID": numbers}), max_size=2),
    },
)
FLIPS = st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), max_size=2)


@given(st.lists(st.tuples(st.sampled_from([EXPLICIT_LE, IMPLICIT_LE]), CHANGES, FLIPS), min_size=2, max_size=5))
def test_anything(files: list[tuple[str, dict[str, Any], list[tuple[int, int]]]]) -> None:
    contents = []
    for syntax, changes, flips in files:
        content = bytearray(_slice(1, syntax, **changes))
        for at, value in flips:
            content[min(at, len(content) - 1)] = value
        contents.append(bytes(content))
    check([*contents, *contents])
