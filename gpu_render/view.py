"""What the caller asked to see: one immutable value, checked when it is made."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from gpu_render.errors import InvalidRegion, InvalidWindow
from gpu_render.frame import VoiFunction, Window


class Stage(StrEnum):
    """The three stages of RENDERING: as stored, in modality units, as 8-bit picture."""

    STORED = "stored"
    MODALITY = "modality"
    DISPLAY = "display"


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of stored pixels: ``x``, ``y`` of its top left corner, ``width``, ``height`` [px]."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a frame.

    ``window`` None means the file's own VOI (its first), or the frame's range where the file has none.
    ``voi_index`` picks another of the file's VOI transformations, from 0. ``viewport`` is (width, height) [px]: the
    largest picture of the region that fits, with square pixels. ``invert`` turns grey values round once more.
    """

    stage: Stage = Stage.DISPLAY
    window: Window | None = None
    voi_index: int | None = None
    region: Region | None = None
    viewport: tuple[int, int] | None = None
    invert: bool = False


_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _number(text: str) -> float:
    """A finite decimal number. Raises ValueError, also for what only Python takes for one: 1_0, other digits."""
    value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError
    return value


def parse_window(text: str) -> Window:
    """``center,width[,function]`` as in PS3.18 8.3.5.1.4; the function is linear, linear-exact or sigmoid.

    Raises InvalidWindow: LINEAR needs a width of at least 1, the others one above 0 (PS3.3 C.11.2.1.2).
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3):
        raise InvalidWindow("a window is center,width or center,width,function")
    try:
        center, width = _number(parts[0]), _number(parts[1])
    except ValueError:
        raise InvalidWindow("window center and width are finite numbers") from None
    name = (parts[2] if len(parts) == 3 else "linear").upper().replace("-", "_")
    if name not in VoiFunction.__members__:
        raise InvalidWindow("a window's function is linear, linear-exact or sigmoid")
    return check_window(Window(center, width, VoiFunction(name)))


def check_window(window: Window) -> Window:
    """Return ``window`` if PS3.3 C.11.2.1.2 and C.11.2.1.3 allow its width, else raise InvalidWindow."""
    if window.function is VoiFunction.LINEAR and window.width < 1:
        raise InvalidWindow("the width of a LINEAR window is at least 1")
    if window.width <= 0:
        raise InvalidWindow(f"the width of a {window.function} window is above 0")
    if not math.isfinite(255 * (abs(window.center) + window.width)):  # the formula would meet an infinity half-way
        raise InvalidWindow("the center and width of a window are no larger than float64 can compute with")
    return window


def _integers(text: str, count: int, what: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(p.isascii() and p.isdigit() and len(p) <= 9 for p in parts):
        raise InvalidRegion(f"{what}, all whole numbers from 0")
    return tuple(int(part) for part in parts)


def parse_region(text: str) -> Region:
    """``x,y,width,height`` in stored pixels. Raises InvalidRegion; whether it lies inside is checked per frame."""
    region = Region(*_integers(text, 4, "a region is x,y,width,height"))
    if region.width < 1 or region.height < 1:
        raise InvalidRegion("a region has at least one pixel")
    return region


def parse_viewport(text: str, max_side: int = 8192) -> tuple[int, int]:
    """``width,height`` of the viewport [px]. Raises InvalidRegion for a side of 0 or above ``max_side``."""
    width, height = _integers(text, 2, "a viewport is width,height")
    if not (1 <= width <= max_side and 1 <= height <= max_side):
        raise InvalidRegion(f"a viewport's sides are 1 to {max_side} pixels")
    return width, height
