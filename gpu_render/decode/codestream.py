"""What a codestream says about itself: bounded parsers for JPEG, JPEG-LS, JPEG 2000 and HTJ2K headers.

They decode nothing, read only inside the buffer, take time linear in its length, and raise nothing but
CorruptPixelData. A codestream is compared with the dataset before a codec sees it, and one that ends too early is
found here, because several codecs fill the missing part with grey and report success.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from gpu_render.errors import CorruptPixelData

_MOST_TAKEN = 1 << 19  # enough for 100,000 tile-parts
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE = b"\xff\xd9"
_SOF_LOSSLESS, _SOF_JPEG_LS = 0xC3, 0xF7
_SOF_SEQUENTIAL = (0xC0, 0xC1, _SOF_LOSSLESS)
# Tables and miscellaneous (ISO 10918-1 B.2.4): DHT, DQT, DNL, DRI, APPn, COM.
_BETWEEN_SCANS = {0xC4, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
# ISO 15444-1 Table A.2, and A.3 of 15444-15: coding style, quantization, capabilities; and those that change no sample.
_COD, _QCD, _CAP = 0xFF52, 0xFF5C, 0xFF50
_TLM_PLM_PLT_COM = {0xFF55, 0xFF57, 0xFF58, 0xFF64}

HuffmanTable: TypeAlias = dict[int, tuple[int, int]]
"""(code, its length [bit]) by symbol."""


@dataclass(frozen=True, slots=True)
class JpegComponent:
    """Component identifier, and horizontal and vertical sampling factors (ISO 10918-1 B.2.2)."""

    identifier: int
    horizontal: int
    vertical: int


@dataclass(frozen=True, slots=True)
class JpegScan:
    """Ss, Se, Al of a scan header (ISO 10918-1 B.2.3). Lossless: predictor, 0, point transform. JPEG-LS: NEAR, ILV.
    ``components``: identifiers of those that the scan holds; ``tables``: which Huffman table of class 0 each has."""

    start: int
    end: int
    low: int
    components: tuple[int, ...] = ()
    tables: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """A JPEG or JPEG-LS frame header. ``start_of_frame`` is the marker's low byte: 0xC0 baseline ... 0xF7 JPEG-LS.
    ``data_start``, ``data_ends``: offsets [byte] of the first stretch of entropy-coded data, and behind each (none for
    JPEG-LS). ``any_bits``: almost any bits are codes of the Huffman tables before the first scan. ``scan_tables``: the
    first scan's of class 0, one for each of its components, None where it is not there or no table of categories."""

    start_of_frame: int
    precision: int
    rows: int
    columns: int
    components: tuple[JpegComponent, ...]
    adobe_transform: int | None
    jfif: bool
    first_scan: JpegScan
    mapping_table: bool
    data_start: int = 0
    data_ends: tuple[int, ...] = ()
    any_bits: bool = False
    scan_tables: tuple[HuffmanTable | None, ...] = ()

    @property
    def subsampled(self) -> bool:
        """Whether any component is sampled more coarsely than another."""
        return len({(c.horizontal, c.vertical) for c in self.components}) > 1


@dataclass(frozen=True, slots=True)
class Jpeg2000Header:
    """Main header of a JPEG 2000 or HTJ2K codestream (ISO 15444-1 A.5, A.6). ``start``: where it lies in the buffer.
    ``part_2``: it needs extensions of ISO 15444-2, such as transforms over several components. ``plain``: it uses
    nothing that encoders rarely do, see ``_is_plain``."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    tile_rows: int
    tile_columns: int
    multiple_component_transform: bool
    reversible: bool
    high_throughput: bool
    part_2: bool
    plain: bool
    start: int
    end: int


class _Reader:
    """A position inside bytes; reading past the end is CorruptPixelData, never memory beyond it. So is reading more
    often than any picture needs: a header is also read in a process that nobody ends after some time."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end
        self.taken = 0

    def take(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize(layout)
        self.taken += 1
        if self.taken > _MOST_TAKEN:
            raise CorruptPixelData("the codestream has too many markers")
        if self.position + size > self.end:
            raise CorruptPixelData("the codestream ends inside a header")
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += size
        return values

    def segment(self) -> "_Reader":
        """A marker segment's content; this reader moves behind it."""
        start = self.position
        (length,) = self.take(">H")
        if length < 2 or start + length > self.end:
            raise CorruptPixelData("a marker segment of the codestream reaches beyond its end")
        self.position = start + length
        return _Reader(self.data, start + 2, start + length)


def parse_jpeg(data: bytes) -> JpegHeader:
    """Header of a JPEG (ISO 10918-1) or JPEG-LS (ISO 14495-1) codestream. Raises CorruptPixelData."""
    reader = _Reader(data, 0, len(data))
    if reader.take(">H") != (0xFFD8,):
        raise CorruptPixelData("the codestream does not begin with a JPEG start of image")
    frame: tuple[int, int, int, int, tuple[JpegComponent, ...]] | None = None
    adobe, jfif, mapping, interval, any_bits = None, False, False, 0, True
    tables: dict[int, HuffmanTable | None] = {}
    while (marker := _next_marker(reader)) != 0xDA:
        if marker in (0xD8, 0xD9):
            raise CorruptPixelData("the JPEG codestream has no scan")
        segment = reader.segment()
        if marker in _START_OF_FRAME:
            if frame is not None:
                raise CorruptPixelData("the JPEG codestream has two frame headers")
            frame = (marker, *_frame_header(segment))
        content = data[segment.position : segment.end]
        interval = _restart_interval(marker, segment, interval)
        any_bits = any_bits and (marker != 0xC4 or _any_bits(content))
        if marker == 0xC4:
            tables |= _huffman_tables(content)
        jfif = jfif or (marker == 0xE0 and content.startswith(b"JFIF\0"))
        mapping = mapping or (marker == 0xF8 and content[:1] in (b"\x02", b"\x03"))
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
    if frame is None:
        raise CorruptPixelData("the JPEG codestream has no frame header before its first scan")
    scan = _scan_header(reader)
    header = JpegHeader(*frame, adobe, jfif, scan, mapping, reader.position)
    if data.rfind(_END_OF_IMAGE, reader.position) < 0:
        raise CorruptPixelData("the JPEG codestream is truncated: it has no end of image")
    if header.start_of_frame != _SOF_JPEG_LS:  # whose markers differ, and whose decoder looks by itself
        ends, of_scan = _walk_scans(reader, header, interval), tuple(tables.get(number) for number in scan.tables)
        return replace(header, data_ends=ends, any_bits=any_bits, scan_tables=of_scan)
    _check_rest(data[data.find(_END_OF_IMAGE, reader.position) + 2 :])
    return header


def _next_marker(reader: _Reader) -> int:
    while True:
        (prefix,) = reader.take("B")
        if prefix != 0xFF:
            raise CorruptPixelData("the JPEG codestream has something else where a marker belongs")
        code = prefix
        while code == 0xFF:
            (code,) = reader.take("B")
        if code not in _STANDALONE:
            return code


def _frame_header(segment: _Reader) -> tuple[int, int, int, tuple[JpegComponent, ...]]:
    precision, rows, columns, count = segment.take(">BHHB")
    if not (2 <= precision <= 16 and rows and columns and count):
        raise CorruptPixelData("the JPEG frame header has an impossible size or precision")
    components = []
    for _ in range(count):
        identifier, sampling, _table = segment.take("3B")
        horizontal, vertical = sampling >> 4, sampling & 15
        if not (1 <= horizontal <= 4 and 1 <= vertical <= 4):
            raise CorruptPixelData("the JPEG frame header has an impossible sampling factor")
        components.append(JpegComponent(identifier, horizontal, vertical))
    return precision, rows, columns, tuple(components)


def _scan_header(reader: _Reader) -> JpegScan:
    segment = reader.segment()
    (count,) = segment.take("B")
    selectors = segment.take(f"{2 * count}B")
    start, end, approximation = segment.take("3B")
    return JpegScan(start, end, approximation & 15, selectors[::2], tuple(table >> 4 for table in selectors[1::2]))


def _restart_interval(marker: int, segment: _Reader, interval: int) -> int:
    return _Reader(segment.data, segment.position, segment.end).take(">H")[0] if marker == 0xDD else interval


def _any_bits(tables: bytes) -> bool:
    """Whether the codes of all Huffman tables in a DHT segment (B.2.4.2) fill 15/16 of the code space or more."""
    position = 0
    while position + 17 <= len(tables):
        counts = tables[position + 1 : position + 17]
        if sum(count << (16 - length) for length, count in enumerate(counts, 1)) < 0xF000:
            return False
        position += 17 + sum(counts)
    return True


def _huffman_tables(segment: bytes) -> dict[int, HuffmanTable | None]:
    """Tables of class 0 by their destination (B.2.4.2, C.2); None for one whose symbols are not categories (H.1.2.2),
    or that has two codes for one."""
    found: dict[int, HuffmanTable | None] = {}
    position = 0
    while position + 17 <= len(segment):
        counts, begin = segment[position + 1 : position + 17], position + 17
        position, number = begin + sum(counts), segment[position]
        symbols = segment[begin:position]
        if number >> 4 == 0:
            usable = len(symbols) == sum(counts) and len(set(symbols)) == len(symbols) and max(symbols, default=17) < 17
            found[number] = _codes(counts, symbols) if usable else None
    return found


def _codes(counts: bytes, symbols: bytes) -> HuffmanTable:
    codes: HuffmanTable = {}
    code = 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[len(codes) : len(codes) + count]:
            codes[symbol] = code, length
            code += 1
        code <<= 1
    return codes


def _walk_scans(reader: _Reader, header: JpegHeader, interval: int) -> tuple[int, ...]:
    """From behind the first scan header to the end of image; returns ``JpegHeader.data_ends``.

    libjpeg ends a scan at any marker, makes up what is missing, skips what is too much, and tells nobody. So the
    markers must be those of a whole picture.
    """
    scan, seen = header.first_scan, list(header.first_scan.components)
    markers, ends = _markers(reader), list[int]()
    while True:
        marker = _behind_scan(reader, markers, _restarts(header, scan, interval), ends)
        while marker not in (0xD9, 0xDA):
            if marker not in _BETWEEN_SCANS:
                raise CorruptPixelData("the JPEG codestream has a marker inside its entropy-coded data")
            interval = _restart_interval(marker, reader.segment(), interval)
            marker = _next_marker(reader)
        if marker == 0xD9:
            break
        scan = _scan_header(reader)
        seen += scan.components
    identifiers = {component.identifier for component in header.components}
    if header.start_of_frame in _SOF_SEQUENTIAL and len(seen) != len(set(seen)):
        raise CorruptPixelData("the JPEG codestream has two scans of one component")
    if not identifiers <= set(seen):
        raise CorruptPixelData(f"the JPEG codestream has {len(set(seen))} of {len(identifiers)} components")
    _check_rest(reader.data[reader.position :])
    return tuple(ends)


def _check_rest(rest: bytes) -> None:
    """Two images in one frame: it cannot be known which of them is meant."""
    if _END_OF_IMAGE in rest and rest.strip(b"\0\xff\xd9"):
        raise CorruptPixelData("the JPEG codestream has another image behind its end")


def _markers(reader: _Reader) -> Iterator[tuple[int, int]]:
    """(offset behind it, code) of all that looks like a marker in entropy-coded data: 0xFF, then neither the 0 that
    is stuffed in, nor another 0xFF."""
    data = np.frombuffer(reader.data, np.uint8)
    prefixes = np.flatnonzero(data[reader.position : -1] == 0xFF) + reader.position
    codes = data[prefixes + 1]
    real = (codes != 0) & (codes != 0xFF)
    yield from zip((prefixes[real] + 2).tolist(), codes[real].tolist(), strict=True)


def _behind_scan(reader: _Reader, markers: Iterator[tuple[int, int]], restarts: int, ends: list[int]) -> int:
    """The marker that ends this scan's entropy-coded data; ``reader`` moves behind it. ``restarts``: how many restart
    markers come before it; a last one with nothing behind it is harmless. ``ends`` gets where all of them begin."""
    found = 0
    for position, code in markers:
        if position <= reader.position:  # inside a segment between two scans
            continue
        reader.position = position
        end = position - 2
        while reader.data[end - 1] == 0xFF:  # a marker may begin with any number of these; in data a 0 follows
            end -= 1
        ends.append(end)
        if not 0xD0 <= code <= 0xD7:
            if not restarts <= found <= restarts + (restarts > 0):
                raise CorruptPixelData(f"the JPEG codestream has {found} restart markers, expected {restarts}")
            return code
        if code != 0xD0 + found % 8:
            raise CorruptPixelData("the restart markers of the JPEG codestream are out of order")
        found += 1
    raise CorruptPixelData("the JPEG codestream is truncated: it has no end of image")


def _restarts(header: JpegHeader, scan: JpegScan, interval: int) -> int:
    """How many restart markers a scan has: one between each two intervals of so many minimum coded units (A.2)."""
    if not interval:
        return 0
    unit = 1 if header.start_of_frame == _SOF_LOSSLESS else 8
    widest = max(component.horizontal for component in header.components)
    highest = max(component.vertical for component in header.components)
    across, down = unit * widest, unit * highest
    if len(scan.components) == 1:
        own = next((c for c in header.components if c.identifier == scan.components[0]), header.components[0])
        columns, rows = -(-header.columns * own.horizontal // widest), -(-header.rows * own.vertical // highest)
        across = down = unit
    else:
        columns, rows = header.columns, header.rows
    return -(-(-(-columns // across) * -(-rows // down)) // interval) - 1


def parse_jpeg2000(data: bytes) -> Jpeg2000Header:
    """Header of a JPEG 2000 or HTJ2K codestream, raw or inside JP2 boxes. Raises CorruptPixelData.

    Walks all tile-parts, so a codestream that was cut off, or that lacks a tile, is refused here.
    """
    start, end = _codestream_span(data)
    reader = _Reader(data, start, end)
    if reader.take(">HH") != (0xFF4F, 0xFF51):
        raise CorruptPixelData("the codestream does not begin with a JPEG 2000 start of codestream and size")
    size = _image_size(reader.segment())
    coding = _Coding()
    while (marker := reader.take(">H")[0]) != 0xFF90:
        coding.read(marker, reader.segment())
    if coding.multiple_component_transform is None:
        raise CorruptPixelData("the JPEG 2000 codestream has no coding style")
    parts = _walk_tile_parts(reader, size, coding)
    usual = size.one_tile and not coding.overridden and (parts == 1 or size.high_throughput)
    return Jpeg2000Header(
        rows=size.rows,
        columns=size.columns,
        components=size.components,
        precision=size.precision,
        signed=size.signed,
        tile_rows=size.tile_rows,
        tile_columns=size.tile_columns,
        multiple_component_transform=coding.multiple_component_transform,
        reversible=coding.reversible,
        high_throughput=size.high_throughput,
        part_2=size.part_2,
        plain=usual and _is_plain(coding.segments, size.high_throughput),
        start=start,
        end=end,
    )


@dataclass(frozen=True, slots=True)
class _ImageSize:
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    tile_rows: int
    tile_columns: int
    tiles: int
    high_throughput: bool
    part_2: bool
    one_tile: bool


class _Coding:
    """What COD and COC of the main and all tile-part headers say together (ISO 15444-1 A.6.1, A.6.2).

    ``segments``: contents of the main header's that say how samples are coded; ``overridden``: some are said again."""

    def __init__(self) -> None:
        self.multiple_component_transform: bool | None = None
        self.reversible = True
        self.segments: dict[int, bytes] = {}
        self.overridden = False

    def read(self, marker: int, segment: _Reader, *, in_tile: bool = False) -> None:
        if marker not in _TLM_PLM_PLT_COM:
            self.overridden = self.overridden or in_tile or marker in self.segments
            self.segments[marker] = segment.data[segment.position : segment.end]
        if marker == _COD:
            values = segment.take(">BBHBBBBBB")
            self.multiple_component_transform = bool(values[3])
            self.reversible = self.reversible and values[8] == 1
        elif marker == 0xFF53:
            # Component index is 1 byte long below 257 components, then Scoc, 4 bytes, and the transformation.
            self.reversible = self.reversible and segment.take("7B")[6] == 1


def _is_plain(segments: dict[int, bytes], high_throughput: bool) -> bool:
    """Whether a reversible codestream is coded as nearly all are: packets by resolution, in one layer, without
    precincts or markers between them; at most five decompositions; code blocks of 64 x 64 samples without options
    (A.6.1), all of them of high throughput or none; one or two guard bits (A.6.4); nothing special for a component, a
    region, a tile, or an order of packets. (In one tile, too, whose parts are many only with high throughput.)"""
    expected = {_COD, _QCD, _CAP} if high_throughput else {_COD, _QCD}
    if set(segments) != expected or len(segments[_COD]) != 10 or segments[_QCD][:1] not in (b"\x20", b"\x40"):
        return False
    capability = segments.get(_CAP, b"\0\2\0\0\0\0")
    if capability[:4] != b"\0\2\0\0" or len(capability) != 6 or capability[4] & 0xF8:  # Part 15, and nothing else
        return False
    style, progression, layers, _, levels, *block, options, _ = struct.unpack(">BBHBBBBBB", segments[_COD])
    usual_blocks = block == [4, 4] and options == (0x40 if high_throughput else 0)
    return style == 0 and progression <= 2 and layers == 1 and levels <= 5 and usual_blocks


def _image_size(segment: _Reader) -> _ImageSize:
    capabilities, x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, count = segment.take(">HIIIIIIIIH")
    if not (x1 > x0 and y1 > y0 and tile_w and tile_h and 1 <= count <= 256):
        raise CorruptPixelData("the JPEG 2000 codestream has an impossible size")
    if tile_x0 > x0 or tile_y0 > y0:
        raise CorruptPixelData("the JPEG 2000 codestream has an impossible tile grid")
    components = {segment.take("3B") for _ in range(count)}
    if len(components) > 1 or next(iter(components))[1:] != (1, 1):
        raise CorruptPixelData("JPEG 2000 components of different precision or sampling cannot be decoded")
    depth = next(iter(components))[0]
    return _ImageSize(
        rows=y1 - y0,
        columns=x1 - x0,
        components=count,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        tile_rows=tile_h,
        tile_columns=tile_w,
        tiles=-(-(x1 - tile_x0) // tile_w) * -(-(y1 - tile_y0) // tile_h),
        high_throughput=bool(capabilities & 0x4000),
        part_2=bool(capabilities & 0x8000),
        one_tile=(x0, y0, tile_x0, tile_y0) == (0, 0, 0, 0) and tile_w >= x1 and tile_h >= y1,
    )


def _walk_tile_parts(reader: _Reader, size: _ImageSize, coding: _Coding) -> int:
    """From behind the first SOT marker to the end of codestream; every tile must be there, with all of its parts where
    any of them says how many these are (A.4.2). Returns how many parts there are."""
    parts: dict[int, int] = {}
    declared: dict[int, int] = {}
    while True:
        start = reader.position - 2
        tile, length, part, count = reader.segment().take(">HIBB")
        if part != parts.get(tile, 0):
            raise CorruptPixelData("the tile-parts of the JPEG 2000 codestream are not complete or not in order")
        parts[tile] = part + 1
        declared[tile] = count or declared.get(tile, 0)
        if not length and not reader.data[: reader.end].rstrip(b"\0").endswith(b"\xff\xd9"):
            raise CorruptPixelData("the JPEG 2000 codestream is truncated: nothing says where its last tile-part ends")
        end = start + length if length else reader.end
        if tile >= size.tiles or end > reader.end or end < reader.position:
            raise CorruptPixelData("the JPEG 2000 codestream is truncated, or has an impossible tile-part")
        header = _Reader(reader.data, reader.position, end)
        while (marker := header.take(">H")[0]) != 0xFF93:
            coding.read(marker, header.segment(), in_tile=True)
        reader.position, reader.taken = end, reader.taken + header.taken
        # What follows the end of codestream marker is padding. Without one, OpenJPEG refuses the codestream.
        if reader.end - end < 2 or reader.take(">H")[0] != 0xFF90:
            break
    if len(parts) != size.tiles:
        raise CorruptPixelData(f"the JPEG 2000 codestream has {len(parts)} of {size.tiles} tiles")
    if any(parts[tile] < count for tile, count in declared.items()):  # some encoders write one less than there are
        raise CorruptPixelData("the JPEG 2000 codestream lacks tile-parts")
    if reader.data.find(b"\xff\x4f\xff\x51", end) >= 0:
        raise CorruptPixelData("the JPEG 2000 codestream has another one behind its end")
    return sum(parts.values())


def _codestream_span(data: bytes) -> tuple[int, int]:
    """Where the codestream lies: all of ``data``, or the ``jp2c`` box (ISO 15444-1 I.4), which PS3.5 A.4.4 forbids
    but real files have."""
    if data[4:12] != b"jP  \r\n\x87\n":
        return 0, len(data)
    reader = _Reader(data, 0, len(data))
    while True:
        start = reader.position
        length, kind = reader.take(">II")
        if length == 1:
            (length,) = reader.take(">Q")
        end = start + length if length else len(data)
        if end > len(data) or end < reader.position:
            raise CorruptPixelData("a JP2 box reaches beyond the end of the codestream")
        if kind == 0x6A703263:  # jp2c
            return reader.position, end
        reader.position = end


@dataclass(frozen=True, slots=True)
class Progression:
    """In which order a JPEG 2000 codestream has its packets (ISO 15444-1 A.6.1): ``order`` 2 is resolution, position,
    component, layer. ``tile_parts``: their lengths [byte] as the markers TLM list them, empty where they are wrong or
    not there."""

    order: int
    decompositions: int
    tile_parts: tuple[int, ...]


def parse_progression(data: bytes) -> Progression:
    """Of a bare codestream that ``parse_jpeg2000`` accepts. Raises CorruptPixelData."""
    reader = _Reader(data, 2, len(data))
    order, decompositions, listed = -1, -1, list[int]()
    while (marker := reader.take(">H")[0]) != 0xFF90:
        segment = reader.segment()
        if marker == _COD:
            _, order, _, _, decompositions = segment.take(">BBHBB")
        elif marker == 0xFF55:  # TLM, A.7.1
            _, style = segment.take("BB")
            entry = ">" + ("", "B", "H")[min(style >> 4 & 3, 2)] + ("I" if style & 0x40 else "H")
            while segment.position < segment.end:
                listed.append(segment.take(entry)[-1])
    lengths, start = list[int](), reader.position - 2
    while reader.take(">H")[0] != 0xFFD9:
        if data[start : start + 2] != b"\xff\x90" or start + 12 > len(data):
            raise CorruptPixelData("something else stands where a tile-part of the JPEG 2000 codestream belongs")
        (length,) = struct.unpack_from(">I", data, start + 6)
        lengths.append(length or len(data) - 2 - start)
        start += lengths[-1]
        reader.position = start
    return Progression(order, decompositions, tuple(lengths) if lengths == listed else ())
