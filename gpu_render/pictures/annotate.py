"""Text burned into a picture, in white with a black outline, so that it can be read on anything.

A wrong character in a patient's name would be worse than none. So text is drawn glyph by glyph from left to right, and
only what is right that way: a character that the font lacks, or that has to be shaped or joined with others (Arabic,
Devanagari, combining marks ...), is shown by its number instead: ``[U+5C71 U+7530]``.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gpu_render.errors import NotRenderable

Pixels = npt.NDArray[np.generic]

SMALLEST = 10
"""Smallest height of letters [px] that is still legible; a picture without room for it is not annotated."""
_LINES = 32
"""How many lines of the preferred size the height of a picture would hold."""
NO_BREAK = "\u00a0"
"""A space at which a line is not broken."""
_SPACES = f" {NO_BREAK}"
_NOT_A_CHARACTER = "\U0010ffff"

#: Where one character is one glyph and the next stands to its right: Latin, Greek, Cyrillic and their punctuation;
#: kana, ideographs, Hangul; their full-width forms.
_SIMPLE = ((0x20, 0x590), (0x1E00, 0x2C00), (0x2E80, 0xA4D0), (0xAC00, 0xD7A4), (0xF900, 0xFB07), (0xFF00, 0xFFF0))


@lru_cache(maxsize=1)
def default_font() -> Path:
    """The font that is used unless another is set: it knows Latin, Greek and Cyrillic."""
    spec = find_spec("font_source_sans_pro")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "files" / "SourceSansPro-Regular.ttf"


@lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        raise NotRenderable("the font for annotations cannot be read") from None


@lru_cache(maxsize=4096)
def _is_drawable(path: Path, character: str) -> bool:
    simple = any(first <= ord(character) < end for first, end in _SIMPLE)
    if not simple or unicodedata.category(character)[0] in "CM":
        return False
    font = _font(path, 24)
    return character in (" ", NO_BREAK) or _look(font, character) != _look(font, _NOT_A_CHARACTER)


def _look(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def shown(text: str, path: Path) -> str:
    """``text`` as it is drawn: what cannot be drawn by its number."""
    composed = unicodedata.normalize("NFC", text)
    parts = []
    for drawable, run in groupby(composed, lambda character: _is_drawable(path, character)):
        characters = list(run)
        parts.append("".join(characters) if drawable else f"[{' '.join(f'U+{ord(c):04X}' for c in characters)}]")
    return "".join(parts)


def burn_in(pixels: Pixels, top: Sequence[str], bottom: Sequence[str], font: Path | None = None) -> Pixels:
    """A copy of uint8 (height, width) or (height, width, 3) with lines at its top left and its bottom left.

    Letters have a 32nd of the height, less where the lines would not fit, at least ``SMALLEST`` pixels. Raises
    NotRenderable where they do not fit even so.
    """
    path = font or default_font()
    height, width = pixels.shape[:2]
    texts = [[shown(line, path) for line in lines] for lines in (top, bottom)]
    size, blocks = _fitted(texts, path, width, height)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    draw, step, edge = ImageDraw.Draw(picture), _line_height(size), _edge(size)
    black, white = ((0,) * 3, (255,) * 3) if picture.mode == "RGB" else (0, 255)
    starts = (edge, height - edge - step * len(blocks[1]))
    for start, block in zip(starts, blocks, strict=True):
        for number, line in enumerate(block):
            place = (edge + _outline(size), start + number * step)
            text = line.replace(NO_BREAK, " ")
            draw.text(place, text, white, _font(path, size), stroke_width=_outline(size), stroke_fill=black)
    return np.asarray(picture)


def _outline(size: int) -> int:
    return max(1, size // 12)


def _edge(size: int) -> int:
    return size // 4


def _line_height(size: int) -> int:
    return size + size // 4


def _fitted(texts: Sequence[Sequence[str]], path: Path, width: int, height: int) -> tuple[int, list[list[str]]]:
    """The largest size up to the preferred one at which the lines fit, and the lines broken for it."""
    for size in _sizes(min(width, height) // _LINES):
        font, room = _font(path, size), width - 2 * (_edge(size) + _outline(size))
        blocks = [[part for line in lines for part in _broken(line, font, room)] for lines in texts]
        fits_across = all(font.getlength(line) <= room for block in blocks for line in block)
        if fits_across and _line_height(size) * sum(map(len, blocks)) + 2 * _edge(size) <= height:
            return size, blocks
    raise NotRenderable(f"a picture of {width} x {height} pixels has no room for its annotation; ask for a viewport")


def _sizes(preferred: int) -> Iterator[int]:
    size = preferred
    while size > SMALLEST:
        yield size
        size = size * 9 // 10
    yield SMALLEST


def _broken(line: str, font: ImageFont.FreeTypeFont, room: float) -> Iterator[str]:
    """A line as few that fit, broken at spaces, at ``NO_BREAK`` where there is no other: never within a word or number,
    which would read as another one."""
    while font.getlength(line) > room:
        ends = [[end for end, character in enumerate(line) if character == space] for space in (" ", NO_BREAK)]
        fitting = (max((end for end in places if font.getlength(line[:end]) <= room), default=0) for places in ends)
        end = next(filter(None, fitting), 0)
        if not end:
            break
        yield line[:end].rstrip(_SPACES)
        line = line[end:].lstrip(_SPACES)
    yield line
