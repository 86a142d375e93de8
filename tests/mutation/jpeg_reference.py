"""Sequential JPEG as ISO 10918-1 says it, in float64 and without overflow: slow, and the judge between fast decoders.

Of damaged data libjpeg-turbo and IJG's libjpeg make different pictures where a coefficient is far beyond what a sample
can be: both compute in 16 or 32 bits, and wrap. Errors of the data are refused here, not made up for.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ZIGZAG = np.array(sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
_COSINES = np.array(
    [[np.sqrt((1 if u == 0 else 2) / 8) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)]
)


class BadJpegError(Exception):
    """Not a sequential Huffman-coded JPEG of one scan without restarts, or damaged where that can be seen."""


@dataclass
class _Component:
    horizontal: int
    vertical: int
    quantization: int
    dc: int = 0
    ac: int = 0
    predicted: int = 0


class _Bits:
    """Bits of entropy-coded data, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        if self._at > len(self._text):
            raise BadJpegError("too short")
        return int(self._text[self._at - count : self._at] or "0", 2)

    def symbol(self, table: dict[str, int]) -> int:
        for length in range(1, 17):
            found = table.get(self._text[self._at : self._at + length])
            if found is not None and self._at + length <= len(self._text):
                self._at += length
                return found
        raise BadJpegError("no such code")

    def number(self, size: int) -> int:
        """F.2.2.1: EXTEND of RECEIVE."""
        value = self.take(size)
        return value if not size or value >> (size - 1) else value - (1 << size) + 1


def decode(data: bytes) -> Array:
    """(rows, columns) or (rows, columns, components), uint8 or uint16; chroma upsampled as libjpeg does it."""
    tables: dict[tuple[int, int], dict[str, int]] = {}
    steps: dict[int, Array] = {}
    components: dict[int, _Component] = {}
    position, precision, rows, columns = 2, 8, 0, 0
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        content = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xFFC4:
            tables |= _huffman(content)
        elif marker == 0xFFDB:
            steps |= _quantization(content)
        elif marker in (0xFFC0, 0xFFC1):
            precision, rows, columns, count = struct.unpack_from(">BHHB", content)
            for i in range(count):
                name, sampling, table = content[6 + 3 * i : 9 + 3 * i]
                components[name] = _Component(sampling >> 4, sampling & 15, table)
        elif marker == 0xFFDA:
            break
        elif not 0xFFE0 <= marker <= 0xFFFE or marker == 0xFFDD:
            raise BadJpegError("not sequential, or with restarts")
    for name, selected in zip(content[1:-3:2], content[2:-3:2], strict=True):
        components[name].dc, components[name].ac = selected >> 4, selected & 15
    end = data.rindex(b"\xff\xd9")
    bits = _Bits(data[position:end].replace(b"\xff\0", b"\xff"))
    planes = _planes(bits, list(components.values()), tables, steps, (rows, columns))
    half = 1 << (precision - 1)
    clamped = [np.clip(np.floor(plane + half + 0.5), 0, 2 * half - 1).astype(np.int64) for plane in planes]
    full = [
        _upsample(plane, c, list(components.values())) for plane, c in zip(clamped, components.values(), strict=True)
    ]
    picture = np.stack([plane[:rows, :columns] for plane in full], -1).astype("u1" if precision == 8 else "<u2")
    return picture[..., 0] if len(full) == 1 else picture


def _huffman(content: bytes) -> dict[tuple[int, int], dict[str, int]]:
    found = {}
    while content:
        counts, code, at = content[1:17], 0, 17
        table = {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                table[f"{code:0{length}b}"] = content[at]
                code, at = code + 1, at + 1
            code <<= 1
        found[content[0] >> 4, content[0] & 15] = table
        content = content[at:]
    return found


def _quantization(content: bytes) -> dict[int, Array]:
    found = {}
    while content:
        wide, name = content[0] >> 4, content[0] & 15
        size = 128 if wide else 64
        found[name] = np.frombuffer(content[1 : 1 + size], ">u2" if wide else "u1").astype(np.float64)
        content = content[1 + size :]
    return found


def _planes(
    bits: _Bits,
    components: list[_Component],
    tables: dict[tuple[int, int], dict[str, int]],
    steps: dict[int, Array],
    size: tuple[int, int],
) -> list[Array]:
    """Samples before the level shift, whole blocks, each component in its own resolution."""
    widest, highest = max(c.horizontal for c in components), max(c.vertical for c in components)
    if len(components) == 1:
        components[0].horizontal = components[0].vertical = widest = highest = 1
    down, across = -(-size[0] // (8 * highest)), -(-size[1] // (8 * widest))
    planes = [np.zeros((8 * down * c.vertical, 8 * across * c.horizontal)) for c in components]
    for unit in range(down * across):
        row, column = divmod(unit, across)
        for component, plane in zip(components, planes, strict=True):
            for inner in range(component.vertical * component.horizontal):
                y = 8 * (row * component.vertical + inner // component.horizontal)
                x = 8 * (column * component.horizontal + inner % component.horizontal)
                coefficients = _block(bits, component, tables) * steps[component.quantization]
                square = np.zeros(64)
                square[_ZIGZAG] = coefficients
                plane[y : y + 8, x : x + 8] = _COSINES.T @ square.reshape(8, 8) @ _COSINES
    return planes


def _block(bits: _Bits, component: _Component, tables: dict[tuple[int, int], dict[str, int]]) -> Array:
    values = np.zeros(64)
    component.predicted += bits.number(bits.symbol(tables[0, component.dc]))
    values[0] = component.predicted
    index = 1
    while index < 64:
        run, size = divmod(bits.symbol(tables[1, component.ac]), 16)
        if not size and run < 15:
            break
        index += run
        if index > 63:
            raise BadJpegError("a run beyond the block")
        values[index] = bits.number(size)
        index += 1
    return values


def _upsample(plane: Array, component: _Component, components: list[_Component]) -> Array:
    """libjpeg's triangle filter, horizontally; ISO 10918-1 leaves it open."""
    across = max(c.horizontal for c in components) // component.horizontal
    down = max(c.vertical for c in components) // component.vertical
    if down > 1 or across not in (1, 2):
        raise BadJpegError("other subsampling than 2 x 1")
    if across == 1:
        return plane
    before, after = np.pad(plane, ((0, 0), (1, 0)), "edge")[:, :-1], np.pad(plane, ((0, 0), (0, 1)), "edge")[:, 1:]
    wide = np.empty((plane.shape[0], 2 * plane.shape[1]), plane.dtype)
    wide[:, ::2], wide[:, 1::2] = (3 * plane + before + 1) >> 2, (3 * plane + after + 2) >> 2
    return wide
