"""Per-frame functional groups are walked by their lengths; what comes out is what pydicom's whole parse gives."""

import io
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from gpu_render.archive import parse
from gpu_render.archive.functional_groups import FrameGroups
from gpu_render.errors import CorruptPixelData, UnreadableFile
from gpu_render.header import GEOMETRY_GROUPS, PRESENTATION_GROUPS, read_geometry, read_layout, read_presentation
from tests import data
from tests.data import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Raw

UNDEFINED = 0xFFFFFFFF
PER_FRAME = 0x52009230


# --- writing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Items:
    """A sequence: its items, each a list of (tag, VR, value), and which lengths are undefined: the sequence's own, and
    that of its items."""

    items: list[list[tuple[int, str, Any]]]
    undefined: bool = False
    undefined_items: bool = False


def encode(tag: int, vr: str, value: Any, syntax: str) -> bytes:
    """One element; values are bytes or Items. What stands inside UN is implicit little endian (PS3.5 6.2.2)."""
    if not isinstance(value, Items):
        return data.element(tag, Raw(vr, value), syntax)
    inner = IMPLICIT_LE if vr == "UN" and syntax == EXPLICIT_LE else syntax
    body = encode_items(value, inner)
    return data.element(tag, Raw(vr, body), syntax, length=UNDEFINED if value.undefined else None)


def encode_items(value: Items, syntax: str) -> bytes:
    order = ">" if syntax == EXPLICIT_BE else "<"
    parts = []
    for elements in value.items:
        content = b"".join(encode(*element, syntax) for element in sorted(elements, key=lambda element: element[0]))
        if value.undefined_items:
            parts.append(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, UNDEFINED) + content)
            parts.append(struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0))
        else:
            parts.append(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(content)) + content)
    end = struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0) if value.undefined else b""
    return b"".join(parts) + end


def multi_frame(groups: Items, syntax: str = EXPLICIT_LE, frames: int | None = None, **changes: Any) -> bytes:
    """A file with 1x2 8-bit frames and these per-frame functional groups."""
    frames = len(groups.items) if frames is None else frames
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "NumberOfFrames": frames}
    body = data.dataset(data.image(1, 2, **{**sizes, **changes}), syntax)
    body += encode(PER_FRAME, "SQ", groups, syntax)
    body += data.element(0x7FE00010, bytes(2 * frames), syntax, vr="OW")
    return b"\0" * 128 + b"DICM" + data.file_meta(syntax, "1.2.9") + body


# --- reading in both ways -----------------------------------------------------------------------------------


@contextmanager
def opened(content: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def document(content: bytes) -> Any:
    with opened(content) as descriptor:
        parsed = parse.parse_descriptor(descriptor, identity="x")
    # The text counts: how it is compressed depends on the files before.
    return parsed._replace(metadata=zlib.decompress(parsed.metadata)) if parsed.metadata else parsed


def document_by_pydicom(content: bytes) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "_walk_groups", lambda *_: None)
        return document(content)


def was_walked(content: bytes) -> bool:
    with opened(content) as descriptor, parse.quiet():
        groups = parse.read_file(descriptor).ds.get("PerFrameFunctionalGroupsSequence")
    return isinstance(groups, FrameGroups)


# --- random groups ------------------------------------------------------------------------------------------


def nested(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Items]:
    return st.builds(lambda item, a, b: Items([item], a, b), strategy, st.booleans(), st.booleans())


def optional(*elements: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Some of these elements."""
    return st.tuples(*(st.none() | element for element in elements)).map(
        lambda some: [e for e in some if e is not None]
    )


def element(tag: int, vr: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[int, str, Any]]:
    return st.tuples(st.just(tag), st.just(vr), value)


number = st.sampled_from(
    [b"0", b"1", b"-0", b"+1.5", b" 2 ", b"-125.25", b".5", b"7.", b"1e3", b"1E-2", b"1e999", b"", b"x", b"1_0", b"nan"]
) | st.integers(-3000, 3000).map(lambda n: b"%d" % n)


def numbers(least: int, most: int) -> st.SearchStrategy[bytes]:
    return st.lists(number, min_size=least, max_size=most).map(b"\\".join)


rescale = optional(
    element(0x00281052, "DS", numbers(1, 1)),
    element(0x00281053, "DS", numbers(1, 1)),
    element(0x00281054, "LO", st.sampled_from([b"HU", b"US", b"\xe4\xf6"])),
)
voi = optional(
    element(0x00281050, "DS", numbers(1, 2)),
    element(0x00281051, "DS", numbers(1, 2)),
    element(0x00281055, "LO", st.sampled_from([b"A\\B", b"\xc3\xa4", b""])),
    element(0x00281056, "CS", st.sampled_from([b"LINEAR", b"SIGMOID", b"ODD"])),
)
measures = optional(element(0x00280030, "DS", st.sampled_from([b"0.5\\0.5", b"1\\2", b"0\\1", b"1"])))
position = st.one_of(
    st.lists(st.integers(-900, 900).map(lambda n: b"%.2f" % (n / 4)), min_size=3, max_size=3).map(b"\\".join),
    numbers(2, 4),
).flatmap(lambda value: st.just([(0x00200032, "DS", value)]))
orientation = st.sampled_from([b"1\\0\\0\\0\\1\\0", b"0\\1\\0\\0\\0\\-1", b"1\\1\\0\\0\\1\\0", b"1\\0"]).map(
    lambda value: [(0x00200037, "DS", value)]
)
content = optional(
    element(0x00209157, "UL", st.just(struct.pack("<2I", 1, 2))),
    element(0x00209056, "SH", st.sampled_from([b"1", b"22", b"333"])),
)
private = st.recursive(
    optional(element(0x00091002, "OB", st.binary(max_size=6)), element(0x00091004, "UT", st.just(b"text"))),
    lambda inner: st.lists(
        element(0x00091003, "SQ", nested(inner)) | element(0x00091005, "UN", nested(inner)), max_size=1
    ),
    max_leaves=4,
)
frame = optional(
    element(0x00080005, "CS", st.sampled_from([b"ISO_IR 192", b"ISO_IR 100"])),
    element(0x00090010, "LO", st.just(b"ACME")),
    element(0x00091001, "SQ", nested(private)),
    element(0x00091006, "UN", nested(private).map(lambda items: Items(items.items, True, items.undefined_items))),
    element(0x00189226, "SQ", nested(st.just([(0x00089205, "CS", b"MONOCHROME")]))),
    element(0x00209111, "SQ", nested(content)),
    element(0x00209113, "SQ", nested(position)),
    element(0x00209116, "SQ", nested(orientation)),
    element(0x00289110, "SQ", nested(measures)),
    element(0x00289132, "SQ", nested(voi)),
    element(0x00289145, "SQ", nested(rescale)),
)
groups = st.builds(
    lambda pool, picks, a, b: Items([pool[pick % len(pool)] for pick in picks], a, b),
    st.lists(frame, min_size=1, max_size=3),
    st.lists(st.integers(0, 5), min_size=2, max_size=8),
    st.booleans(),
    st.booleans(),
)
root = st.fixed_dictionaries(
    {},
    optional={
        "ImagePositionPatient": st.just(Raw("DS", b"1\\2\\3")),
        "ImageOrientationPatient": st.just(Raw("DS", b"1\\0\\0\\0\\1\\0")),
        "WindowCenter": st.just(Raw("DS", b"50")),
        "WindowWidth": st.just(Raw("DS", b"100")),
        "SliceLocation": st.just(Raw("DS", b"7")),
        "SpecificCharacterSet": st.sampled_from([Raw("CS", b"ISO_IR 192"), Raw("CS", b"ISO_IR 100")]),
        "GridFrameOffsetVector": st.just(Raw("DS", b"0\\1\\2\\3\\4\\5\\6\\7")),
        "SharedFunctionalGroupsSequence": st.just(
            [
                {
                    "PlanePositionSequence": [{"ImagePositionPatient": Raw("DS", b"9\\9\\9")}],
                    "PlaneOrientationSequence": [{"ImageOrientationPatient": Raw("DS", b"0\\1\\0\\0\\0\\-1")}],
                    "FrameVOILUTSequence": [{"WindowCenter": Raw("DS", b"1"), "WindowWidth": Raw("DS", b"2")}],
                }
            ]
        ),
    },
)


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=groups, root=root)
def test_walking_gives_what_pydicom_gives(syntax: str, groups: Items, root: dict[str, Any]) -> None:
    content = multi_frame(groups, syntax, **root)
    assert was_walked(content)
    assert document(content) == document_by_pydicom(content)
    one = multi_frame(Items(groups.items[:1], groups.undefined, groups.undefined_items), syntax, **root)
    assert document(one) == document_by_pydicom(one)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE]))
def test_broken_groups_give_what_pydicom_gives(draw: st.DataObject, syntax: str) -> None:
    """One byte wrong anywhere in the sequence's structure, or a few bytes lost."""
    good = multi_frame(draw.draw(groups), syntax)
    start = good.index(struct.pack(">HH" if syntax == EXPLICIT_BE else "<HH", 0x5200, 0x9230))
    at = draw.draw(st.integers(start, len(good) - 1))
    if draw.draw(st.booleans()):
        bad = good[:at] + bytes([draw.draw(st.integers(0, 255))]) + good[at + 1 :]
    else:
        bad = good[:at] + good[at + draw.draw(st.integers(1, 9)) :]
    try:
        expected = document_by_pydicom(bad)
    except UnreadableFile:
        return  # a walk that skips what is not looked at may still find the pixels
    assert _same_where_shown(document(bad), expected)


def _same_where_shown(walked: Any, expected: Any) -> bool:
    """Equal, or pydicom refused what the walk never looked at."""
    return walked == expected or expected[0]["error"] is not None


# --- cases --------------------------------------------------------------------------------------------------


def positions(count: int, **options: bool) -> Items:
    return Items(
        [[(0x00209113, "SQ", Items([[(0x00200032, "DS", b"0\\0\\%d" % index)]], **options))] for index in range(count)],
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"undefined": True, "undefined_items": True}], ids=["defined", "undefined"])
def test_items_that_reach_over_the_end_of_a_window(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.archive.functional_groups._WINDOW_BYTES", 7)
    content = multi_frame(positions(30, **options))
    assert was_walked(content)
    walked, *_ = document(content)
    assert [row[0] for row in walked["frames"]] == list(range(2, 31))
    assert walked["frames"][28][2] == "[[0.0,0.0,29.0],null,null]"


def test_more_forms_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.archive.functional_groups._MAX_PATTERNS", 3)
    monkeypatch.setattr("gpu_render.archive.functional_groups._MAX_FORMS", 2)
    items = [
        [
            (0x00209113, "SQ", Items([[(0x00200032, "DS", b"0\\0\\" + b"1" * (1 + index % 7))]])),
            (0x00209111, "SQ", Items([])),
        ]
        for index in range(20)
    ]
    content = multi_frame(Items(items))
    assert was_walked(content)
    assert document(content) == document_by_pydicom(content)


def test_a_length_that_lies_is_left_to_pydicom() -> None:
    good = multi_frame(positions(3))
    at = good.index(b"\xfe\xff\x00\xe0") + 4
    bad = good[:at] + struct.pack("<I", 5) + good[at + 4 :]
    assert not was_walked(bad)


def test_too_few_items_are_refused() -> None:
    walked, *_ = document(multi_frame(positions(3), frames=4))
    assert walked["error"] == ["CorruptPixelData", "PerFrameFunctionalGroupsSequence has 3 items for 4 frames"]


def test_elements_behind_the_groups_are_kept() -> None:
    """The Extended Offset Table stands there."""
    content = multi_frame(positions(2))
    at = content.index(data.element(0x7FE00010, bytes(4), vr="OW"))
    table = data.element(0x7FE00001, struct.pack("<2Q", 0, 10), vr="OV")
    with opened(content[:at] + table + content[at:]) as descriptor:
        assert parse.read_file(descriptor).ds.ExtendedOffsetTable == struct.pack("<2Q", 0, 10)


def test_groups_larger_than_what_pydicom_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "DEFER_BYTES", 1000)
    walked, *_ = document(multi_frame(positions(100)))
    assert walked["error"] is None
    assert len(walked["frames"]) == 99


def test_memory_of_the_walk_is_that_of_what_is_kept() -> None:
    """Private elements of 20 KiB a frame are skipped; they come by in windows of 1 MiB."""
    items = [[*position_items, (0x00091001, "OB", bytes(20_000))] for position_items in positions(1000).items]
    value = encode_items(Items(items), EXPLICIT_LE)
    groups = FrameGroups(implicit=False, little_endian=True, encoding=["iso8859"])
    stream = io.BytesIO(value + bytes(12))
    tracemalloc.start()
    assert groups.read(stream, len(value))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(value) > 20_000_000
    assert peak < 5_000_000
    assert len(groups) == 1000


def test_readers_look_at_no_other_functional_groups() -> None:
    """The walk keeps no others: a new one belongs into PRESENTATION_GROUPS or GEOMETRY_GROUPS."""
    asked: set[str] = set()

    class Watched(Dataset):
        def __contains__(self, name: object) -> bool:
            asked.add(pydicom.datadict.keyword_for_tag(name))  # type: ignore[arg-type]
            return False

    ds = Dataset()
    for keyword, value in data.image(1, 1, PixelPresentation="COLOR").items():
        setattr(ds, keyword, value)
    ds.PerFrameFunctionalGroupsSequence = [Watched()]
    layout = read_layout(ds)
    asked.clear()
    with pytest.raises(CorruptPixelData, match="Palette"):  # looked for behind all functional groups
        read_presentation(ds, layout)
    ds.PixelPresentation = "MONOCHROME"
    read_presentation(ds, layout)
    assert asked - {"PixelRepresentation"} == set(PRESENTATION_GROUPS)
    asked.clear()
    read_geometry(ds)
    assert asked == set(GEOMETRY_GROUPS)


def test_real_multi_frame_objects() -> None:
    """All of pydicom's samples that have per-frame functional groups."""
    marks = [struct.pack(f"{order}HH", 0x5200, 0x9230) for order in "<>"]
    walked = []
    for path in sorted(path for path in data.pydicom_folder().rglob("*") if path.is_file()):
        content = path.read_bytes()
        if not any(mark in content for mark in marks) or b"DICM" not in content[:132]:
            continue
        assert document(content) == document_by_pydicom(content), path.name
        if was_walked(content):
            walked.append(path.name)
    assert {"liver_1frame.dcm", "liver_expb_1frame.dcm"} <= set(walked)
