"""A synthetic CT of a chest and upper abdomen: Hounsfield values, computed slice by slice from simple solids.

It is not a patient and not a physical simulation: ellipsoids, tubes and a chest wall, painted one over the other with
soft edges, bent a little so that nothing is a perfect ellipse, then blurred and given noise like a reconstruction. Its
use is that it looks and compresses like a contrast-enhanced CT, that it needs no download, and that one slice is
always the same.

Coordinates are the patient's, in mm: x to the left, y to the back, and depth ``s`` from the top slice downwards
(s = -z of PS3.3 C.7.6.2.1.1).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating]
Point = tuple[float, float, float]

ROWS = COLUMNS = 512
SLICES = 300
SLICE_SPACING_MM = 1.0
PIXEL_SPACING_MM = 0.75
RESCALE_INTERCEPT = -1024
PADDING = -2000
"""Stored value outside the circle that a scanner reconstructs (Pixel Padding Value)."""

_SEED = 20_240_229
_HALF = (COLUMNS - 1) / 2 * PIXEL_SPACING_MM
FIRST_PIXEL_MM = (-_HALF, -_HALF)
"""x, y of the center of the first pixel (Image Position (Patient))."""

_BACK_MM = 112.0  # the patient lies on the couch: the back is flat at this y


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """``center`` and ``radii`` (x, y, s) in mm, turned by ``turn`` degrees in the slice; ``gas_above``: only the part
    in front of this y is painted (an air-fluid level)."""

    center: Point
    radii: Point
    hu: float
    turn: float = 0.0
    gas_above: float | None = None
    within_cavity: bool = False


@dataclass(frozen=True, slots=True)
class Tube:
    """A straight piece of a vessel or bone with round ends: from ``start`` to ``end``, radius ``first`` to ``last``."""

    start: Point
    end: Point
    first: float
    last: float
    hu: float
    within_lung: bool = False


Solid = Ellipsoid | Tube


def _path(hu: float, radius: float, *points: Point) -> Iterator[Tube]:
    for start, end in pairwise(points):
        yield Tube(start, end, radius, radius, hu)


def _mirrored(solid: Tube) -> tuple[Tube, Tube]:
    (ax, ay, az), (bx, by, bz) = solid.start, solid.end
    return solid, Tube((-ax, ay, az), (-bx, by, bz), solid.first, solid.last, solid.hu, solid.within_lung)


# ---------------------------------------------------------------------------------------------- tables of the body


def _between(s: float, *table: tuple[float, float]) -> float:
    depths, values = zip(*table, strict=True)
    return float(np.interp(s, depths, values))


def _body_axes(s: float) -> tuple[float, float]:
    """Half width and half depth of the skin [mm]."""
    return (
        _between(s, (0, 166), (50, 172), (120, 168), (200, 160), (299, 155)),
        _between(s, (0, 92), (50, 104), (120, 112), (200, 110), (299, 106)),
    )


def _cavity_axes(s: float) -> tuple[float, float]:
    """Half width and half depth of the inside of the ribs, below them of the abdominal wall [mm]."""
    return (
        _between(s, (0, 62), (15, 86), (40, 108), (90, 126), (160, 134), (230, 134), (299, 133)),
        _between(s, (0, 46), (15, 58), (40, 70), (90, 82), (160, 88), (230, 87), (299, 84)),
    )


def _spine_y(s: float) -> float:
    return 60.0 + 9.0 * math.sin(math.pi * s / 300) - _between(s, (0, 0), (299, 8))


_VERTEBRA_MM = 26


def _vertebrae() -> Iterator[Solid]:
    """Arch and processes of each vertebra; the bodies and discs are painted by ``_paint_spine``."""
    for top in range(-20, 320, _VERTEBRA_MM):
        y = _spine_y(min(max(top + 12, 0), 299))
        back = y + 17
        for part in (
            Tube((13, y + 9, top + 9), (17, back + 6, top + 12), 4.0, 4.0, 520),
            Tube((17, back + 6, top + 12), (4, back + 16, top + 18), 3.6, 3.6, 560),
            Tube((17, back + 5, top + 11), (37, back + 11, top + 8), 4.2, 3.2, 480),
        ):
            yield from _mirrored(part)
        yield Tube((0, back + 15, top + 16), (0, back + 25, top + 28), 3.2, 3.4, 480)


def _shoulder_blades() -> Iterator[Solid]:
    for s in range(-6, 108, 3):
        lean = s * 0.22
        yield from _mirrored(Tube((78 + lean, 88 - lean / 4, s), (132 - lean / 3, 56, s), 2.2, 4.5, 520))
    yield from _mirrored(Tube((104, 84, -4), (142, 60, 6), 4.0, 7.0, 480))
    yield from _mirrored(Tube((14, -50, 14), (96, -62, -10), 6.0, 5.5, 520))


def _back_muscles() -> Iterator[Solid]:
    for radius, hu in ((17.5, -95.0), (15.5, 58.0)):
        yield from _mirrored(Tube((27, _spine_y(0) + 32, -30), (30, _spine_y(299) + 33, 330), radius, radius, hu))
    for radius, hu in ((1.5, -95.0), (0.0, 62.0)):
        yield from _mirrored(Tube((31, 54, 225), (42, 48, 330), 4 + radius, 22 + radius, hu))


def _airways() -> Iterator[Solid]:
    routes = (
        (8.2, ((0.0, 6.0, -20.0), (1.0, 14.0, 50.0), (2.0, 20.0, 82.0))),
        (6.4, ((2.0, 20.0, 82.0), (-24.0, 22.0, 100.0), (-36.0, 24.0, 118.0))),
        (5.6, ((2.0, 20.0, 82.0), (26.0, 24.0, 102.0), (42.0, 27.0, 118.0))),
        (3.4, ((-36.0, 24.0, 118.0), (-48.0, 34.0, 150.0), (-56.0, 46.0, 185.0))),
        (3.2, ((42.0, 27.0, 118.0), (54.0, 38.0, 150.0), (60.0, 48.0, 185.0))),
        (2.8, ((-24.0, 22.0, 100.0), (-52.0, 10.0, 88.0), (-66.0, 0.0, 70.0))),
        (2.8, ((30.0, 24.0, 104.0), (56.0, 8.0, 90.0), (68.0, -4.0, 72.0))),
    )
    for extra, hu in ((1.5, 20.0), (0.0, -990.0)):
        for radius, points in routes:
            yield from _path(hu, radius + extra, *points)


def _great_vessels() -> Iterator[Solid]:
    yield from _path(45, 7.5, (3, 34, -20), (6, 37, 120), (16, 30, 185), (30, 10, 205))
    yield from _path(-900, 1.6, (2, 32, 10), (4, 33, 60))
    yield from _path(330, 7.5, (-62, -26, -20), (-34, -18, 38), (-32, -12, 118))
    yield from _path(300, 6.0, (48, -30, -12), (6, -30, 30), (-32, -18, 44))
    yield from _path(300, 14.5, (6, -10, 132), (-12, -22, 100), (-12, -22, 74))
    yield from _path(300, 12.5, (-12, -22, 70), (2, -4, 60), (20, 26, 66), (26, 42, 84))
    yield from _path(300, 11.0, (26, 42, 84), (24, 42, 165), (9, 31, 225), (7, 24, 320))
    yield from _path(300, 5.5, (-12, -16, 60), (-20, -12, 20), (-30, -10, -20))
    yield from _path(300, 4.2, (2, -4, 58), (12, -2, -20))
    yield from _path(300, 4.8, (16, 20, 62), (26, 14, 20), (46, 8, -20))
    yield from _path(285, 13.0, (18, -30, 122), (20, -14, 96))
    yield from _path(280, 10.0, (20, -14, 95), (38, 10, 88), (52, 22, 96))
    yield from _path(280, 9.5, (18, -8, 98), (-16, 2, 100), (-44, 14, 106))
    yield from _path(280, 6.5, (16, 20, 122), (52, 14, 120))
    yield from _path(280, 6.5, (4, 20, 124), (-46, 12, 122))
    yield from _path(40, 3.0, (-8, 44, 90), (-8, 42, 230))
    yield from _path(150, 11.0, (-26, 14, 178), (-27, 18, 230), (-22, 22, 330))


def _heart() -> Iterator[Solid]:
    yield Ellipsoid((20, -24, 146), (66, 50, 54), -85, turn=-28)
    yield Ellipsoid((19, -22, 144), (60, 45, 49), 105, turn=-28)
    yield Ellipsoid((-24, -14, 142), (20, 25, 30), 245)
    yield Ellipsoid((12, -44, 148), (36, 15, 32), 240, turn=-16)
    yield Ellipsoid((10, 14, 124), (32, 16, 20), 285, turn=-6)
    yield Ellipsoid((46, -18, 152), (41, 27, 38), 120, turn=-32)
    yield Ellipsoid((46, -17, 151), (30, 16, 28), 290, turn=-32)


def _upper_abdomen() -> Iterator[Solid]:
    yield Ellipsoid((-76, 2, 240), (74, 84, 84), 112, within_cavity=True)
    yield Ellipsoid((8, -48, 218), (74, 36, 44), 112, turn=-10, within_cavity=True)
    yield from _path(165, 5.0, (-26, 14, 192), (-60, -10, 196), (-90, -20, 206))
    yield from _path(165, 4.0, (-26, 14, 190), (-40, -38, 200), (-10, -55, 210))
    yield from _path(175, 6.5, (-4, 6, 262), (-34, 2, 236), (-70, 6, 226), (-98, 14, 232))
    yield from _path(170, 4.0, (-70, 6, 226), (-82, -34, 228))
    yield Ellipsoid((-44, -40, 262), (17, 24, 24), 8, turn=20)
    yield Ellipsoid((98, 34, 226), (25, 44, 44), 122, turn=-18, within_cavity=True)
    yield Ellipsoid((52, -28, 224), (47, 36, 42), 70, turn=12, within_cavity=True)
    yield Ellipsoid((52, -28, 224), (43, 32, 38), 22, turn=12, within_cavity=True)
    yield Ellipsoid((52, -28, 224), (43, 32, 38), -970, turn=12, gas_above=-40, within_cavity=True)
    yield from _path(105, 10.5, (-24, -2, 268), (6, -8, 258), (40, 4, 246), (76, 18, 236))
    yield from _path(290, 4.0, (8, 26, 246), (5, 6, 262), (3, -6, 320))
    yield from _path(170, 5.5, (-4, 6, 262), (-10, -4, 320))


def _kidneys() -> Iterator[Solid]:
    for x, s, turn in ((-64.0, 282.0, -25.0), (64.0, 268.0, 25.0)):
        medial = math.copysign(1.0, -x)
        yield Ellipsoid((x, 40, s), (35, 38, 62), -104)
        yield Ellipsoid((x, 40, s), (26, 30, 54), 195, turn=turn)
        yield Ellipsoid((x + 3 * medial, 39, s), (19, 22, 45), 150, turn=turn)
        yield Ellipsoid((x + 11 * medial, 36, s), (16, 12, 30), -80, turn=turn)
        yield from _path(230, 4.0, (x + 13 * medial, 36, s), (x + 50 * medial, 31, s - 6))


def _bowel() -> Iterator[Solid]:
    colon = ((-94.0, 6.0, 340.0), (-96.0, -10.0, 286.0), (-62.0, -56.0, 282.0), (0.0, -62.0, 290.0))
    left = ((0.0, -62.0, 290.0), (66.0, -54.0, 276.0), (104.0, 4.0, 262.0), (104.0, 24.0, 340.0))
    loops = ((28.0, -30.0, 300.0), (58.0, -18.0, 284.0), (76.0, -4.0, 302.0), (40.0, 0.0, 312.0), (18.0, -26.0, 286.0))
    more = ((-40.0, -20.0, 304.0), (-66.0, -26.0, 310.0), (-58.0, 0.0, 316.0), (-30.0, -36.0, 312.0))
    for points, radius in ((colon, 19.0), (left, 17.0), (loops, 13.0), (more, 12.0)):
        yield from _path(75, radius, *points)
    for points, radius, hu in ((colon, 16.0, 5.0), (left, 14.0, -10.0), (loops, 10.0, 20.0), (more, 9.5, 15.0)):
        yield from _path(hu, radius, *points)
    for x, y, s in ((-62, -62, 282), (-30, -66, 286), (30, -66, 284), (66, -60, 276), (98, -6, 266), (-96, -18, 288)):
        yield Ellipsoid((x, y, s), (14, 9, 14), -960)


def _lung_vessels() -> Iterator[Solid]:
    """Two trees of arteries and veins a lung, branching from the hilum, thinner with each generation."""
    random = np.random.default_rng(_SEED)
    for side in (-1.0, 1.0):
        for root_s in (86.0, 100.0, 112.0, 122.0):
            for _ in range(4):
                heading = np.array(
                    [side * random.uniform(0.6, 1.0), random.uniform(-0.9, 1.0), random.uniform(-1, 1.2)]
                )
                yield from _branches(random, np.array([side * 42.0, 14.0, root_s]), heading, 4.6, 26.0)


def _branches(
    random: np.random.Generator,
    start: npt.NDArray[np.float64],
    heading: npt.NDArray[np.float64],
    radius: float,
    length: float,
) -> Iterator[Tube]:
    heading = heading / np.linalg.norm(heading)
    end = start + heading * length * random.uniform(0.8, 1.2)
    first, last = (float(start[0]), float(start[1]), float(start[2])), (float(end[0]), float(end[1]), float(end[2]))
    yield Tube(first, last, radius, radius * 0.8, 190, within_lung=True)
    if radius < 0.85:
        return
    for _ in range(2):
        yield from _branches(random, end, heading + random.normal(0, 0.55, 3), radius * 0.72, length * 0.86)


def _nodule() -> Iterator[Solid]:
    """What the reader is meant to find."""
    yield Ellipsoid((-82, 22, 132), (6.5, 6, 6), 45)
    yield from _path(30, 1.0, (-82, 22, 132), (-96, 34, 138))


def _depths(solid: Solid) -> tuple[float, float]:
    if isinstance(solid, Ellipsoid):
        return solid.center[2] - solid.radii[2], solid.center[2] + solid.radii[2]
    reach, ends = max(solid.first, solid.last), (solid.start[2], solid.end[2])
    return min(ends) - reach, max(ends) + reach


@cache
def _solids() -> tuple[tuple[float, float, Solid], ...]:
    """All that is painted over the chest wall, with the depths it spans; what comes later hides what came before."""
    frame = (_lung_vessels, _nodule, _back_muscles, _vertebrae, _shoulder_blades)
    organs = (_heart, _upper_abdomen, _kidneys, _bowel, _great_vessels, _airways)
    return tuple((*_depths(solid), solid) for part in (*frame, *organs) for solid in part())


# ------------------------------------------------------------------------------------------------------- painting


@cache
def _textures() -> tuple[Plane, Plane]:
    """Two smooth random planes of standard deviation 1; mixed by depth they give a texture that flows along s."""
    random = np.random.default_rng(_SEED + 1)
    frequency = np.hypot(np.fft.fftfreq(ROWS)[:, None], np.fft.fftfreq(COLUMNS)[None, :])
    keep = np.exp(-((frequency / 0.035) ** 2))
    planes = [np.fft.ifft2(np.fft.fft2(random.standard_normal((ROWS, COLUMNS))) * keep).real for _ in range(2)]
    first, second = ((plane / plane.std()).astype(np.float32) for plane in planes)
    return first, second


def _cover(distance: Plane) -> Plane:
    """How much of each pixel lies inside, 0 to 1, from the signed distance to the surface [mm], negative inside."""
    cover: Plane = np.clip(0.5 - distance / PIXEL_SPACING_MM, 0, 1)
    return cover


def _blend(image: Plane, cover: Plane, hu: float | Plane) -> None:
    image += cover * (hu - image)


def _blur(image: Plane) -> Plane:
    padded = np.pad(image, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    blurred: Plane = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16
    return blurred


class _Slice:
    """One slice while it is painted: ``image`` in HU, and for each pixel where it lies in the bent patient."""

    def __init__(self, s: float) -> None:
        self.s = s
        axis = np.arange(COLUMNS, dtype=np.float32) * PIXEL_SPACING_MM - _HALF
        along, across = axis[None, :], axis[:, None]
        self.true_x, self.true_y = np.broadcast_arrays(along, across)
        self.x = along + 2.2 * np.sin(across / 21 + s / 37) + 1.1 * np.sin(across / 9 - s / 23 + along / 40)
        self.y = across + 2.0 * np.sin(along / 24 - s / 41) + 1.0 * np.sin(along / 10 + s / 19 + across / 33)
        self.image = np.full((ROWS, COLUMNS), -1000, np.float32)
        self.cavity = self.lung = np.zeros((ROWS, COLUMNS), np.float32)

    def box(self, x: float, y: float, reach_x: float, reach_y: float) -> tuple[slice, slice]:
        """The pixels within reach of (x, y), and a margin for the bending."""

        def run(center: float, reach: float) -> slice:
            low = (center - reach - 5 + _HALF) / PIXEL_SPACING_MM
            high = (center + reach + 5 + _HALF) / PIXEL_SPACING_MM
            return slice(max(0, math.floor(low)), max(0, math.ceil(high)))

        return run(y, reach_y), run(x, reach_x)

    def paint(self, solid: Solid) -> None:
        if isinstance(solid, Ellipsoid):
            self._ellipsoid(solid)
        else:
            self._tube(solid)

    def _ellipsoid(self, solid: Ellipsoid) -> None:
        (cx, cy, cs), (rx, ry, rs) = solid.center, solid.radii
        depth = ((self.s - cs) / rs) ** 2
        reach = max(rx, ry)
        where = self.box(cx, cy, reach, reach)
        dx, dy = self.x[where] - cx, self.y[where] - cy
        cos, sin = math.cos(math.radians(solid.turn)), math.sin(math.radians(solid.turn))
        u, v = (cos * dx - sin * dy) / rx, (sin * dx + cos * dy) / ry
        cover = _cover((np.sqrt(u * u + v * v + depth) - 1) * min(rx, ry))
        if solid.gas_above is not None:
            cover = cover * _cover(self.true_y[where] - solid.gas_above)
        if solid.within_cavity:
            cover = cover * self.cavity[where] * (1 - self.lung[where])
        _blend(self.image[where], cover, solid.hu)

    def _tube(self, solid: Tube) -> None:
        (ax, ay, az), (bx, by, bz) = solid.start, solid.end
        reach = max(solid.first, solid.last)
        where = self.box((ax + bx) / 2, (ay + by) / 2, abs(bx - ax) / 2 + reach, abs(by - ay) / 2 + reach)
        px, py, pz = self.x[where] - ax, self.y[where] - ay, self.s - az
        ux, uy, uz = bx - ax, by - ay, bz - az
        t = np.clip((px * ux + py * uy + pz * uz) / (ux * ux + uy * uy + uz * uz), 0, 1)
        away = np.sqrt((px - t * ux) ** 2 + (py - t * uy) ** 2 + (pz - t * uz) ** 2)
        cover = _cover(away - (solid.first + (solid.last - solid.first) * t))
        if solid.within_lung:
            cover = cover * self.lung[where]
        _blend(self.image[where], cover, solid.hu)


def _rounded(x: Plane, y: Plane, axes: tuple[float, float], power: float) -> Plane:
    """Signed distance [mm, about] to an outline between an ellipse (power 2) and a rectangle."""
    a, b = axes
    ratio = np.power(np.power(np.abs(x / a), power) + np.power(np.abs(y / b), power), 1 / power)
    distance: Plane = ((ratio - 1) * min(a, b)).astype(np.float32)
    return distance


def _paint_couch(canvas: _Slice) -> None:
    x, y = canvas.true_x, canvas.true_y
    top = y - (_BACK_MM + 5) + x * x / 1500
    side = np.abs(x) - 185
    board = np.maximum(np.abs(top - 14) - 12, side)
    _blend(canvas.image, _cover(board), -180)
    _blend(canvas.image, _cover(board + 1.6), -940)


def _paint_wall(canvas: _Slice) -> tuple[Plane, Plane]:
    """Skin, fat and muscle; returns the signed distance to the inside of the wall, and the angle from the front."""
    s = canvas.s
    body, inner = _body_axes(s), _cavity_axes(s)
    y = canvas.y - (_BACK_MM - body[1])
    skin = _rounded(canvas.x, y, body, 2.6)
    inside = _rounded(canvas.x, canvas.y - 6, inner, 2.3)
    angle = np.abs(np.arctan2(canvas.x, -canvas.y))
    fat = 8 + 5 * np.sin(angle) + 4 * np.sin(3 * angle + s / 60) ** 2
    _blend(canvas.image, _cover(skin), 10)
    _blend(canvas.image, _cover(skin + 2), -102)
    muscle = np.maximum(skin + fat, inside - (_between(s, (0, 60), (60, 44), (150, 28), (230, 20))))
    _blend(canvas.image, _cover(muscle), 56)
    for deep, wave in ((9.0, 2.5), (17.0, -3.0)):
        plane = np.abs(muscle + deep + wave * np.sin(5 * angle + s / 30)) - 0.6
        _blend(canvas.image, _cover(plane) * 0.8 * (inside > 12), -70)
    return inside, angle


def _diaphragm(canvas: _Slice) -> Plane:
    """Depth of the diaphragm at each pixel [mm]: two domes, the right one higher, falling off to the back."""
    x, y = canvas.x, canvas.y
    fall = np.where(y > 0, 104 * (y / 84) ** 2, 58 * (y / 84) ** 2)
    right = 160 + fall + 78 * ((x + 60) / 84) ** 2
    left = 172 + fall + 78 * ((x - 66) / 84) ** 2
    depth: Plane = np.minimum(right, left).astype(np.float32)
    return depth


def _paint_cavity(canvas: _Slice, inside: Plane) -> None:
    """Lungs above the diaphragm, abdominal fat below it, the fat of the mediastinum between the lungs."""
    canvas.cavity = _cover(inside)
    _blend(canvas.image, canvas.cavity, -104)
    above = np.clip((_diaphragm(canvas) - canvas.s) / 2.5 + 0.5, 0, 1)
    width = _between(canvas.s, (0, 40), (40, 34), (90, 30), (140, 26), (200, 22))
    middle = _rounded(canvas.x - 3, canvas.y + 4, (width, 86), 2.0)
    spine = _rounded(canvas.x, canvas.y - (_spine_y(canvas.s) + 8), (24, 24), 2.0)
    lung = np.clip(canvas.cavity * above * _cover(-middle) * _cover(-spine), 0, 1)
    canvas.lung = lung * _cover(inside + 2.5)
    _blend(canvas.image, canvas.cavity * (1 - above) * _cover(-inside - 3), 60)
    first, second = _textures()
    flow = math.cos(canvas.s / 9) * first + math.sin(canvas.s / 9) * second
    _blend(canvas.image, canvas.lung, -872 + canvas.y * 0.35 + flow * 12)


def _paint_ribs(canvas: _Slice, inside: Plane, angle: Plane) -> None:
    """Twelve ribs as one periodic rule: each runs round the cavity and falls from the back to the front."""
    course = canvas.s + 36 * angle - 36
    off = np.mod(course, 25) - 12.5
    ring = np.hypot((inside - 4.8) / 4.4, off / 7.4)
    front = 0.62 + max(0.0, canvas.s - 165) / 95
    last = 1.0 if canvas.s < 262 else 0.0
    shaft = _cover((ring - 1) * 4.6) * np.clip((angle - front) * 12, 0, 1) * last
    _blend(canvas.image, shaft, 640)
    _blend(canvas.image, _cover((ring - 0.58) * 4.6) * (shaft > 0.9), 240)
    cartilage = _cover((ring - 1) * 4.6) * ((angle < front) & (angle > 0.28)) * (canvas.s < 215)
    _blend(canvas.image, cartilage.astype(np.float32), 125)


def _paint_sternum(canvas: _Slice) -> None:
    if not 18 < canvas.s < 188:
        return
    y = 6 - _cavity_axes(canvas.s)[1] - 7
    wide = _between(canvas.s, (18, 30), (50, 22), (150, 17), (188, 7))
    bone = _rounded(canvas.x, canvas.y - y, (wide, 7), 2.6)
    _blend(canvas.image, _cover(bone), 430)
    _blend(canvas.image, _cover(bone + 1.8), 170)


def _paint_spine(canvas: _Slice) -> None:
    y, phase = _spine_y(canvas.s), (canvas.s + 20) % _VERTEBRA_MM
    grow = _between(canvas.s, (0, 0.92), (299, 1.35))
    body = _rounded(canvas.x, canvas.y - y, (16.5 * grow, 13.0 * grow), 2.3)
    is_disc, near_end = phase > 20.5, phase < 1.6 or phase > 19
    _blend(canvas.image, _cover(body), 95 if is_disc else 560)
    if not is_disc:
        first, _ = _textures()
        inner = (420 if near_end else 215) + first * 22
        _blend(canvas.image, _cover(body + 1.7), inner)
    back = canvas.y - (y + 13 * grow + 8.5)
    canal = _rounded(canvas.x, back, (11.0, 8.5), 2.0)
    _blend(canvas.image, _cover(canal - 3) * (canvas.y > y + 8), -30 if is_disc else 480)
    _blend(canvas.image, _cover(canal), 12)
    _blend(canvas.image, _cover(_rounded(canvas.x, back, (6.0, 4.5), 2.0)), 42)


def hounsfield(index: int) -> Plane:
    """Slice ``index`` (0 to SLICES - 1, from the top), without noise: (ROWS, COLUMNS) float32 in HU."""
    if not 0 <= index < SLICES:
        raise ValueError(f"a slice index is 0 to {SLICES - 1}")
    canvas = _Slice(float(index) * SLICE_SPACING_MM)
    _paint_couch(canvas)
    inside, angle = _paint_wall(canvas)
    _paint_cavity(canvas, inside)
    _paint_ribs(canvas, inside, angle)
    _paint_sternum(canvas)
    _paint_spine(canvas)
    for low, high, solid in _solids():
        if low < canvas.s < high:
            canvas.paint(solid)
    return _blur(canvas.image)


def stored_slice(index: int) -> npt.NDArray[np.int16]:
    """Slice ``index`` as a scanner stores it: (ROWS, COLUMNS) int16, HU = stored + RESCALE_INTERCEPT.

    Noise of about 11 HU in the soft tissue; PADDING outside the reconstructed circle. The same index always gives the
    same values.
    """
    random = np.random.default_rng((_SEED, index))
    noise = _blur(random.standard_normal((ROWS, COLUMNS), dtype=np.float32)) * 29
    hu = hounsfield(index) + noise
    stored = np.clip(np.rint(hu), -1024, 3071).astype(np.int16) - np.int16(RESCALE_INTERCEPT)
    row, column = np.ogrid[:ROWS, :COLUMNS]
    outside = (row - (ROWS - 1) / 2) ** 2 + (column - (COLUMNS - 1) / 2) ** 2 > (ROWS / 2) ** 2
    stored[outside] = PADDING
    return stored
