"""LUT entries as the standard packs them -> uint16 arrays. Arrays in, arrays out: no tags here (see header.py)."""

import numpy as np
import numpy.typing as npt

from gpu_render.errors import CorruptPixelData

Entries = npt.NDArray[np.uint16]


def as_words(value: object, *, little_endian: bool) -> Entries:
    """The 16-bit words of a LUT Data element, whichever of US, SS and OW its writer chose.

    ``value`` is bytes in file order, one integer or a sequence of integers. Raises CorruptPixelData.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2" if little_endian else ">u2").astype(np.uint16)
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.int64))
    except (TypeError, ValueError, OverflowError):
        raise CorruptPixelData("LUT Data holds something that is not a number") from None
    return (numbers & 0xFFFF).astype(np.uint16)


def unpack_entries(words: Entries, entries: int, bits: int) -> tuple[Entries, int]:
    """``entries`` values of ``bits`` bits each, and how many bits they really have.

    Entries of 8 bits may come packed two to a word, low byte first (PS3.3 C.11.1.1.1), or one to a word. Data half
    as long as a descriptor of more than 8 bits asks for are 8-bit entries; entries with a value beyond the declared
    bits are 16-bit ones. One word of padding is allowed. Raises CorruptPixelData where the lengths disagree otherwise.
    """
    if entries <= words.size <= entries + 1:
        values = words[:entries]
        return values, 16 if int(values.max()) >> bits else bits
    if words.size == (entries + 1) // 2:
        packed = words.astype("<u2").view(np.uint8)
        return packed[:entries].astype(np.uint16), 8
    raise CorruptPixelData(f"a LUT declares {entries} entries but its data holds {words.size} words")


def expand_segments(words: Entries, entries: int, bits: int) -> Entries:
    """Expand Segmented Palette Color Lookup Table Data (PS3.3 C.7.9.2) to exactly ``entries`` values.

    Raises CorruptPixelData for an unknown or cut segment, or when the segments do not give ``entries`` values.
    """
    units = words.astype("<u2").view(np.uint8).astype(np.uint16) if bits == 8 else words
    table = _Segments(units, bits, entries)
    table.run(0, None)
    if len(table.out) != entries:
        raise CorruptPixelData(f"a segmented LUT declares {entries} entries but expands to {len(table.out)}")
    return np.asarray(table.out, dtype=np.uint16)


class _Segments:
    """The three kinds of segments; ``out`` never grows past ``entries``."""

    def __init__(self, units: Entries, bits: int, entries: int) -> None:
        self.units: list[int] = units.tolist()
        self.offset_units = 4 if bits == 8 else 2  # an offset is 32 bits, least significant part first
        self.bytes_per_unit = 1 if bits == 8 else 2
        self.entries = entries
        self.out: list[int] = []

    def run(self, position: int, count: int | None) -> None:
        """Expand segments from ``position``: ``count`` of them, or, at top level, until the table is full."""
        done = 0
        while (len(self.out) < self.entries) if count is None else (done < count):
            opcode, length = self._take(position, 2)
            position = self._one(opcode, length, position + 2, nested=count is not None)
            done += 1
            if len(self.out) > self.entries:
                raise CorruptPixelData("a segmented LUT expands beyond its declared entries")

    def _one(self, opcode: int, length: int, position: int, *, nested: bool) -> int:
        if opcode == 0:  # discrete
            self.out += self._take(position, length)
            return position + length
        if opcode == 1:  # linear: from the last value to this one, in ``length`` steps
            if not self.out or length == 0:
                raise CorruptPixelData("a linear segment of a LUT has no beginning or no length")
            end, first = self._take(position, 1)[0], self.out[-1]
            steps = np.arange(1, length + 1)
            self.out += np.floor(first + (end - first) * steps / length + 0.5).astype(int).tolist()
            return position + 1
        if opcode == 2 and not nested:  # indirect: repeat ``length`` segments from a byte offset
            parts = self._take(position, self.offset_units)
            width = 8 * self.bytes_per_unit
            offset = sum(part << (width * index) for index, part in enumerate(parts))
            self.run(offset // self.bytes_per_unit, length)
            return position + self.offset_units
        raise CorruptPixelData(f"a segmented LUT holds a segment of unknown kind {opcode}")

    def _take(self, position: int, count: int) -> list[int]:
        taken = self.units[position : position + count]
        if len(taken) != count:
            raise CorruptPixelData("a segmented LUT ends inside a segment")
        return taken


def sign_16(value: int) -> int:
    """The two's complement meaning of the low 16 bits of ``value``."""
    return ((value & 0xFFFF) ^ 0x8000) - 0x8000
