"""Text in pictures: which lines, where they stand, and that no character is shown as another one."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from gpu_render.errors import NotRenderable
from gpu_render.frame import Window
from gpu_render.pictures.annotate import SMALLEST, burn_in, default_font, shown
from gpu_render.pictures.captions import Annotation, lines, person_name
from gpu_render.pictures.dataset import DicomJson
from gpu_render.pictures.timing import delays

BOTH = frozenset(Annotation)
PATIENT, TECHNIQUE = frozenset({Annotation.PATIENT}), frozenset({Annotation.TECHNIQUE})


def element(vr: str, *values: object) -> dict[str, object]:
    return {"vr": vr, "Value": list(values)}


DATASET: DicomJson = {
    "00100010": element("PN", {"Alphabetic": "Müller^Anna^B."}),
    "00100020": element("LO", "P 17"),
    "00100030": element("DA", "19500203"),
    "00100040": element("CS", "F"),
    "00080020": element("DA", "20260131"),
    "00080060": element("CS", "CT"),
    "00180060": element("DS", 120.0),
    "00181152": element("IS", 170),
    "00180050": element("DS", 2.5),
    "00201041": element("DS", -77.2040634155),
    "00200013": element("IS", 3),
    "00200032": element("DS", 1.0, -2.5, 3.25),
}


def plain(texts: list[str]) -> list[str]:
    return [text.replace("\u00a0", " ") for text in texts]


def test_the_lines_say_what_the_object_says() -> None:
    top, bottom = lines(DATASET, 1, Window(40.0, 400.5), BOTH)
    assert plain(top) == ["Müller, Anna B.", "ID P 17", "Born 1950-02-03  Sex F  Study 2026-01-31"]
    assert plain(bottom) == [
        "CT  120 kVp  170 mAs  Thickness 2.5 mm  Location -77.2041 mm  Image 3  Position 1 -2.5 3.25 mm"
        "  Window 40 / 400.5 LINEAR"
    ]
    assert lines(DATASET, 1, None, PATIENT) == (top, [])
    assert plain(lines(DATASET, 1, None, TECHNIQUE)[1])[0].startswith("Study 2026-01-31  CT  120 kVp")


def test_that_a_patient_has_no_name_is_said() -> None:
    assert lines({}, 1, None, BOTH) == (["(no name)", "(no ID)"], [])
    assert lines({"00100010": element("PN", {})}, 1, None, PATIENT)[0][0] == "(no name)"


def test_a_frames_own_attributes_come_before_the_shared_ones() -> None:
    def group(thickness: float) -> dict[str, object]:
        return {"00289110": element("SQ", {"00180050": element("DS", thickness)})}

    dataset: DicomJson = {
        "00280008": element("IS", 2),
        "52009229": element("SQ", {**group(9.0), "00189325": element("SQ", {"00180060": element("DS", 80)})}),
        "52009230": element("SQ", group(1.5), {}),
    }
    assert plain(lines(dataset, 1, None, TECHNIQUE)[1]) == ["80 kVp  Thickness 1.5 mm  Frame 1 of 2"]
    assert plain(lines(dataset, 2, None, TECHNIQUE)[1]) == ["80 kVp  Thickness 9 mm  Frame 2 of 2"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}, "Yamada, Tarou"),
        ({"Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}, "山田, 太郎"),
        ({"Alphabetic": "Adams^John Robert Quincy^^Rev.^B.A. M.Div."}, "Adams, John Robert Quincy Rev. B.A. M.Div."),
        ({"Alphabetic": "^Only^Given"}, "Only Given"),
        ({"Alphabetic": "^^^^"}, ""),
        ("Plain^Text", "Plain, Text"),
        (None, ""),
        (7, "7"),
    ],
)
def test_names(value: object, name: str) -> None:
    assert person_name(value) == name


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Müller Łukasz Ødegård Żaneta ß", "Müller Łukasz Ødegård Żaneta ß"),
        ("Ελένη Иванов", "Ελένη Иванов"),
        ("e\u0301", "é"),
        ("山田 Taro", "[U+5C71 U+7530] Taro"),
        ("שלום", "[U+05E9 U+05DC U+05D5 U+05DD]"),
        ("محمد", "[U+0645 U+062D U+0645 U+062F]"),
        ("a\u202eb", "a[U+202E]b"),
        ("x\u0323\u0331", "x[U+0323 U+0331]"),  # no one character: a mark that would stand beside its letter
        ("a\nb", "a[U+000A]b"),
        ("\U0001f600", "[U+1F600]"),
        ("", ""),
    ],
)
def test_what_the_font_cannot_show_is_shown_by_its_number(text: str, want: str) -> None:
    assert shown(text, default_font()) == want


def test_every_character_that_is_drawn_has_a_look_of_its_own() -> None:
    """No two letters of those shown as themselves look alike by accident: that would be the font's box for unknowns."""
    font = ImageFont.truetype(default_font(), 40, layout_engine=ImageFont.Layout.BASIC)
    box = bytes(font.getmask("\U0010ffff"))
    drawn = [chr(code) for code in range(0x21, 0x2FFF) if shown(chr(code), default_font()) == chr(code)]
    assert len(drawn) > 900
    assert all(bytes(font.getmask(character)) != box for character in drawn)


def changed(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    different: npt.NDArray[np.bool_] = before != after
    return np.logical_or.reduce(different, axis=2) if different.ndim == 3 else different


@pytest.mark.parametrize("shape", [(128, 128), (512, 512), (512, 512, 3), (1000, 300), (300, 1000, 3), (3000, 2000)])
def test_text_is_white_with_a_black_outline_at_top_and_bottom_left(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 127, np.uint8)
    got = burn_in(pixels, ["Müller, Anna"], ["Window 40 / 400"])
    assert (got.shape, got.dtype) == (pixels.shape, pixels.dtype)
    assert (pixels == 127).all()  # the renderer's own array is not written to
    where = changed(pixels, got)
    rows, columns = np.nonzero(where)
    height, width = shape[:2]
    size = max(SMALLEST, min(height, width) // 32)
    assert rows.min() < 2 * size
    assert rows.max() > height - 2 * size
    assert not where[2 * size : height - 2 * size].any()
    assert columns.max() < width
    assert got.max() > 240
    assert got[where].min() == 0
    if len(shape) == 3:
        assert (got[..., 0] == got[..., 2]).all()


def read_back(picture: npt.NDArray[np.generic], candidates: list[str], size: int) -> str:
    """Which of ``candidates`` the picture shows: the one whose own drawing is the nearest."""
    font = ImageFont.truetype(default_font(), size, layout_engine=ImageFont.Layout.BASIC)

    def distance(text: str) -> float:
        reference = Image.new("L", (picture.shape[1], picture.shape[0]))
        outline = max(1, size // 12)
        ImageDraw.Draw(reference).text(
            (size // 4 + outline, size // 4), text, 255, font, stroke_width=outline, stroke_fill=0
        )
        return float(np.abs(np.asarray(reference).astype(int) - picture).sum())

    return min(candidates, key=distance)


@pytest.mark.parametrize("side", [320, 700, 2048])
def test_the_text_can_be_read_back(side: int) -> None:
    names = ["Müller, Anna", "Muller, Anna", "Müller, Hanna", "Mueller, Anna", "Möller, Anna"]
    for name in names:
        got = burn_in(np.zeros((side, side), np.uint8), [name], [])
        assert read_back(got, names, max(SMALLEST, side // 32)) == name


def test_lines_are_broken_between_words() -> None:
    grey = np.full((400, 100), 127, np.uint8)
    where = changed(grey, burn_in(grey, ["one two three four five six seven eight nine ten"], []))
    assert where.any(axis=1).sum() > 2 * SMALLEST
    assert where[:, :60].any()
    assert not where[:, -2:].any()


@pytest.mark.parametrize(
    ("shape", "line"),
    [((16, 16), "x"), ((600, 40), "1234567890123456789"), ((20, 600), "a"), ((1, 1), "a"), ((64, 64), "word " * 30)],
)
def test_a_picture_without_room_is_refused_not_left_without_its_text(shape: tuple[int, int], line: str) -> None:
    with pytest.raises(NotRenderable, match="no room for its annotation"):
        burn_in(np.zeros(shape, np.uint8), [line], ["y"])


def test_a_font_that_is_none_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "font.ttf"
    path.write_bytes(b"no font")
    with pytest.raises(NotRenderable, match="font"):
        burn_in(np.zeros((100, 100), np.uint8), ["x"], [], path)


@pytest.mark.parametrize(
    ("dataset", "numbers", "want"),
    [
        ({}, [1, 2], [10, 10]),
        ({"00181063": element("DS", 33.3)}, [1, 2], [3, 3]),
        ({"00180040": element("IS", 25)}, [1], [4]),
        ({"00082144": element("IS", 50), "00180040": element("IS", 25)}, [1], [2]),
        ({"00181065": element("DS", 0, 40, 200)}, [1, 2, 3], [4, 20, 20]),
        ({"00181065": element("DS", 0, 40, 200)}, [3, 1], [20, 4]),
        ({"00181063": element("DS", 1)}, [1], [2]),
        ({"00181063": element("DS", 1e9)}, [1], [65535]),
        ({"00181063": element("DS", 0)}, [1], [10]),
        ({"00181063": element("DS", "oops")}, [1], [10]),
        ({"00180040": element("IS", 0)}, [1], [10]),
    ],
)
def test_the_pace_of_an_animation(dataset: DicomJson, numbers: list[int], want: list[int]) -> None:
    assert delays(dataset, numbers) == want
