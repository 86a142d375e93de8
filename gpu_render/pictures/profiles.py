"""ICC profiles of the three color spaces that PS3.18 8.3.5.1.5 names, made from what their standards publish.

A profile (ICC.1:2010, version 4.3) is a header, a table of tags and their values; one of red, green and blue says where
the three lie in the profile connection space (D50), and by which curve a channel's value becomes light.
"""

import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Chromaticity = tuple[float, float]

#: The white of the profile connection space (ICC.1 7.2.16).
D50 = np.array((0.9642, 1.0, 0.8249))
_BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))


@dataclass(frozen=True, slots=True)
class ColorSpace:
    """A space of red, green and blue: chromaticities (x, y) of the three and of white, and the curve of a channel.

    The curve is the parametric one of ICC.1 10.16: (g,): light = value ** g; (g, a, b, c, d): light = (a * value + b)
    ** g from d on, c * value below.
    """

    name: str
    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity
    white: Chromaticity
    curve: tuple[float, ...]


_D65 = (0.3127, 0.3290)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

SRGB = ColorSpace("sRGB IEC 61966-2.1", (0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65, _SRGB_CURVE)
ADOBE_RGB = ColorSpace("Adobe RGB (1998)", (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65, (2 + 51 / 256,))
ROMM_RGB = ColorSpace(
    "ROMM RGB ISO 22028-2",
    (0.7347, 0.2653),
    (0.1596, 0.8404),
    (0.0366, 0.0001),
    (0.3457, 0.3585),
    (1.8, 1.0, 0.0, 1 / 16, 16 / 512),
)


def _xyz(chromaticity: Chromaticity) -> Matrix:
    x, y = chromaticity
    return np.array((x / y, 1.0, (1 - x - y) / y))


def adaptation(white: Chromaticity) -> Matrix:
    """Bradford's matrix from ``white`` to D50 (ICC.1 annex E)."""
    scale = (_BRADFORD @ D50) / (_BRADFORD @ _xyz(white))
    adapted: Matrix = np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD
    return adapted


def to_d50(space: ColorSpace) -> Matrix:
    """Linear red, green and blue to XYZ in the profile connection space; shape (3, 3)."""
    primaries = np.column_stack([_xyz(one) for one in (space.red, space.green, space.blue)])
    amounts = np.linalg.solve(primaries, _xyz(space.white))
    matrix: Matrix = adaptation(space.white) @ (primaries * amounts)
    return matrix


def _fixed(*values: float) -> bytes:
    """s15Fixed16Number."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _text(text: str) -> bytes:
    """multiLocalizedUnicodeType with one record, in English."""
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(encoded), 28) + encoded


def _curve(parameters: tuple[float, ...]) -> bytes:
    return b"para" + struct.pack(">IHH", 0, 0 if len(parameters) == 1 else 3, 0) + _fixed(*parameters)


def _xyz_tag(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    header = struct.pack(
        ">I4sI4s4s4s6H4sII", 0, bytes(4), 0x04300000, b"mntr", space, b"XYZ ", 2020, 1, 1, 0, 0, 0, b"acsp", 0, 0
    )
    header = header.ljust(64, b"\0") + struct.pack(">I", 1) + _fixed(*D50)  # relative colorimetric
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for signature, value in tags.items():
        table += signature + struct.pack(">II", start + len(body), len(value))
        body += value.ljust(-(-len(value) // 4) * 4, b"\0")
    whole = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _texts(name: str) -> dict[bytes, bytes]:
    return {b"desc": _text(name), b"cprt": _text("No copyright, use freely"), b"wtpt": _xyz_tag(*D50)}


@cache
def profile_of(space: ColorSpace) -> bytes:
    """The profile of a space of red, green and blue."""
    matrix, curve = to_d50(space), _curve(space.curve)
    chad = b"sf32" + bytes(4) + _fixed(*adaptation(space.white).ravel())
    columns = {b"rXYZ": matrix[:, 0], b"gXYZ": matrix[:, 1], b"bXYZ": matrix[:, 2]}
    return _profile(
        b"RGB ",
        {
            **_texts(space.name),
            b"chad": chad,
            **{tag: _xyz_tag(*column) for tag, column in columns.items()},
            **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
        },
    )


@cache
def grey_profile() -> bytes:
    """Of grey pictures: the greys of sRGB, which is how browsers show a picture that says nothing."""
    return _profile(b"GRAY", {**_texts("Grey with the curve of sRGB"), b"kTRC": _curve(_SRGB_CURVE)})
