"""Mutants of real files, made from a seed: the same seed gives the same bytes. ``KINDS`` names what is done to them.

A mutant keeps its base's transfer syntax, Study and Series Instance UID unless the mutation hits them, and has a SOP
Instance UID of its own, of the same length as the base's.
"""

import functools
import io
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from gpu_render.decode import DECODERS
from tests import data as files
from tests.mutation.bases import Base, Part, Segment, bases, marker_named, segments

Mutation = Callable[[Random, Base], bytes]
"""(random numbers, base) -> bytes of the file before its data set is deflated."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutated file. ``name`` is its file name; ``expected_uid`` its SOP Instance UID unless the mutation hit it."""

    name: str
    kind: str
    base: str
    syntax: str
    expected_uid: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Kind:
    """A named way to break a file, and the bases it can be done to. ``share``: how often beside the others."""

    name: str
    mutate: Mutation
    applies: Callable[[Base], bool] = lambda _base: True
    share: float = 1


def mutants(count: int, seed: int = 1) -> Iterator[Mutant]:
    """About ``count`` mutants, as many of each kind as its share says, every applicable base in turn."""
    shares = sum(kind.share for kind in KINDS)
    index = itertools.count()
    for kind in KINDS:
        suitable = [base for base in bases() if kind.applies(base)]
        order = Random(f"{seed} {kind.name}")
        for number in range(max(1, round(count * kind.share / shares))):
            if number % len(suitable) == 0:
                order.shuffle(suitable)
            yield make_mutant(kind, suitable[number % len(suitable)], next(index), seed)


def controls(first: int, seed: int) -> Iterator[Mutant]:
    """Every base as it is, but for its UID: what its pictures look like, and that all of this finds no fault in it."""
    for index, base in enumerate(bases(), first):
        yield make_mutant(Kind(CONTROL, lambda _rng, base: base.data), base, index, seed)


CONTROL = "unharmed (control)"


def make_mutant(kind: Kind, base: Base, index: int, seed: int) -> Mutant:
    """One mutant; ``index`` makes its UID and its name."""
    stamped = stamp(base, index)
    data = kind.mutate(Random(f"{seed} {kind.name} {base.name} {index}"), stamped)
    name = f"{index:05d}-{kind.name.replace(' ', '-')}.dcm"
    return Mutant(name, kind.name, base.name, base.syntax, stamped.sop_instance_uid, stamped.seal(data))


def stamp(base: Base, index: int) -> Base:
    """The base with another SOP Instance UID of the same length, in the data set and in its File Meta Information."""
    uid = f"2.25.1{index:0{len(base.sop_instance_uid) - 6}d}"
    data = base.data.replace(base.sop_instance_uid.encode(), uid.encode())
    return replace(base, data=data, sop_instance_uid=uid)


# --- bytes anywhere -----------------------------------------------------------------------------------------


def _flip(rng: Random, data: bytearray, start: int, end: int, most: int = 8) -> bytes:
    for _ in range(rng.randint(1, most)):
        data[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_header(rng: Random, base: Base) -> bytes:
    return _flip(rng, bytearray(base.data), 132, base.pixels.value)


def flip_pixels(rng: Random, base: Base) -> bytes:
    return _flip(rng, bytearray(base.data), base.pixels.value, base.pixels.end)


def flip_markers(rng: Random, base: Base) -> bytes:
    """Bits of the codestream's first bytes, where its markers and sizes are."""
    offset, length = rng.choice(base.codestreams)
    return _flip(rng, bytearray(base.data), offset, offset + min(length, 120), 3)


def overwrite(rng: Random, base: Base) -> bytes:
    data = bytearray(base.data)
    length = rng.choice((1, 2, 4, 16, 64, 512))
    start = rng.randrange(132, max(133, len(data) - length))
    run = {0: bytes(length), 1: b"\xff" * length, 2: rng.randbytes(length)}[rng.randrange(3)]
    data[start : start + length] = run
    return bytes(data[: len(base.data)])


def overwrite_pixels(rng: Random, base: Base) -> bytes:
    """A run inside the pixels, as of a bad sector."""
    data = bytearray(base.data)
    length = min(rng.choice((1, 4, 16, 64, 512)), base.pixels.length // 2)
    start = rng.randrange(base.pixels.value, base.pixels.end - length)
    data[start : start + length] = {0: bytes(length), 1: b"\xff" * length, 2: rng.randbytes(length)}[rng.randrange(3)]
    return bytes(data)


def cut(rng: Random, base: Base) -> bytes:
    return base.data[: rng.randrange(len(base.data))]


def cut_pixels(rng: Random, base: Base) -> bytes:
    return base.data[: rng.randrange(base.pixels.value, base.pixels.end)]


def cut_item_header(rng: Random, base: Base) -> bytes:
    offset, _ = rng.choice(base.fragments)
    return base.data[: offset - rng.randint(1, 8)]


def insert(rng: Random, base: Base) -> bytes:
    at = rng.randrange(132, len(base.data))
    return base.data[:at] + rng.randbytes(rng.choice((1, 2, 3, 8, 100))) + base.data[at:]


def delete(rng: Random, base: Base) -> bytes:
    at = rng.randrange(132, len(base.data))
    return base.data[:at] + base.data[at + rng.choice((1, 2, 3, 8, 100)) :]


# --- fragments ----------------------------------------------------------------------------------------------


def _items(base: Base) -> list[bytes]:
    return [base.data[offset : offset + length] for offset, length in base.fragments]


def _rebuild(base: Base, items: Sequence[bytes], *, delimiter: bool = True) -> bytes:
    end = b"\xfe\xff\xdd\xe0\0\0\0\0" if delimiter else b""
    return base.data[: base.pixels.value] + b"".join(map(files.item, items)) + end


def swap_fragments(rng: Random, base: Base) -> bytes:
    items = _items(base)
    one, other = rng.sample(range(1, len(items)), 2)
    items[one], items[other] = items[other], items[one]
    return _rebuild(base, items)


def drop_fragment(rng: Random, base: Base) -> bytes:
    items = _items(base)
    del items[rng.randrange(len(items))]
    return _rebuild(base, items)


def duplicate_fragment(rng: Random, base: Base) -> bytes:
    items = _items(base)
    at = rng.randrange(len(items))
    items.insert(rng.randint(0, len(items)), items[at])
    return _rebuild(base, items)


def empty_fragment(rng: Random, base: Base) -> bytes:
    """0 bytes in place of a fragment, or beside the others."""
    items = _items(base)
    at = rng.randrange(1, len(items))
    if rng.random() < 0.5:
        items[at] = b""
    else:
        items.insert(rng.randint(1, len(items)), b"")
    return _rebuild(base, items)


def split_fragment(rng: Random, base: Base) -> bytes:
    items = _items(base)
    at = rng.randrange(1, len(items))
    middle = rng.randrange(len(items[at]) // 2) * 2
    items[at : at + 1] = [items[at][:middle], items[at][middle:]]
    return _rebuild(base, items)


def shorten_fragment(rng: Random, base: Base) -> bytes:
    """A codestream that ends too early, in a file whose lengths are right."""
    items = _items(base)
    at = rng.randrange(1, len(items))
    items[at] = items[at][: rng.randrange(len(items[at])) // 2 * 2]
    return _rebuild(base, items)


def starve_codestream(rng: Random, base: Base) -> bytes:
    """Bytes taken from inside the codestream, so that its end markers are still there."""
    items = _items(base)
    at = rng.randrange(1, len(items))
    start = rng.randrange(len(items[at]) // 4, len(items[at]) - 4)
    gone = rng.choice((2, 10, 100, 1000)) // 2 * 2
    items[at] = items[at][:start] + items[at][min(start + gone, len(items[at]) - 4) :]
    return _rebuild(base, [item + b"\0" * (len(item) % 2) for item in items])


def wrong_basic_offsets(rng: Random, base: Base) -> bytes:
    items = _items(base)
    count = rng.choice((1, base.frames, base.frames, base.frames + 1, 1000))
    offsets = [rng.choice((0, 8, 2, rng.randrange(1 << 32), 0xFFFFFFFF)) for _ in range(count)]
    items[0] = struct.pack(f"<{count}I", *(offsets if rng.random() < 0.5 else sorted(offsets)))
    return _rebuild(base, items)


def wrong_extended_offsets(rng: Random, base: Base) -> bytes:
    """Extended Offset Table and its lengths (7FE0,0001) and (7FE0,0002)."""
    count = rng.choice((base.frames, base.frames, base.frames + 1, 0))
    numbers = [rng.choice((0, 8, rng.randrange(1 << 20), 1 << 63, (1 << 64) - 1)) for _ in range(2 * count)]
    tables = [numbers[:count] if rng.random() < 0.5 else sorted(numbers[:count]), numbers[count:]]
    inserted = b"".join(
        files.element(tag, struct.pack(f"<{count}Q", *table), base.syntax, vr="OV")
        for tag, table in zip((0x7FE00001, 0x7FE00002), tables, strict=True)
    )
    return base.data[: base.pixels.start] + inserted + base.data[base.pixels.start :]


def lying_item_length(rng: Random, base: Base) -> bytes:
    data = bytearray(base.data)
    offset, length = rng.choice(base.fragments)
    lie = rng.choice((0, 1, length - 2, length - 1, length + 1, length + 2, length + 8, 0x7FFFFFFF, 0xFFFFFFFF))
    struct.pack_into("<I", data, offset - 4, lie & 0xFFFFFFFF)
    return bytes(data)


def no_delimiter(rng: Random, base: Base) -> bytes:
    return _rebuild(base, _items(base), delimiter=False) + (b"" if rng.random() < 0.5 else rng.randbytes(8))


# --- values of the header -----------------------------------------------------------------------------------


def _replaced(base: Base, tag: int, value: bytes, vr: str) -> bytes:
    """With another value for ``tag``, put where it belongs when it is not there."""
    new = files.element(tag, value, base.syntax, vr=vr)
    part = base.parts.get(tag)
    if part is not None:
        return base.data[: part.start] + new + base.data[part.end :]
    at = next((p.start for p in base.parts.values() if p.tag > tag), base.pixels.start)
    return base.data[:at] + new + base.data[at:]


def _number_kind(keyword: str, tag: int, *values: int) -> Kind:
    """Another unsigned number; -1 and 1 beside the right one are always tried too."""

    def mutate(rng: Random, base: Base) -> bytes:
        part = base.parts.get(tag)
        now = int.from_bytes(base.data[part.value : part.end], "big" if base.big_endian else "little") if part else 0
        value = rng.choice((*values, now + 1, max(0, now - 1), now * 2, now // 2))
        return _replaced(base, tag, struct.pack(f"{base.order}H", value & 0xFFFF), "US")

    return Kind(f"wrong {keyword}", mutate)


_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422"),
    *("YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB", "HSV", "ARGB", "CMYK", "", "RGB\\RGB", "\0\0", "rgb"),
)


def wrong_photometric(rng: Random, base: Base) -> bytes:
    return _replaced(base, 0x00280004, rng.choice(_PHOTOMETRIC).encode(), "CS")


_FRAMES = ("0", "2", "7", "1000", "1000000000", "-1", "99999999999", "1.5", "", "x", "1\\2", "\0")


def wrong_frames(rng: Random, base: Base) -> bytes:
    value = rng.choice((*_FRAMES, str(base.frames + 1), str(base.frames - 1)))
    return _replaced(base, 0x00280008, value.encode(), "IS")


_CODED = "1.2.840.10008.1.2.4."


def other_transfer_syntax(rng: Random, base: Base) -> bytes:
    """Another Transfer Syntax UID in the File Meta Information, the data set as it was."""
    uid = rng.choice([uid for uid in (*DECODERS, "1.2.840.10008.1.2.4.100", "1.2.3", "") if uid != base.syntax])
    at = base.data.index(b"\x02\0\x10\0UI", 128)
    length = struct.unpack_from("<H", base.data, at + 6)[0]
    return base.data[:at] + files.element(0x00020010, uid.encode(), vr="UI") + base.data[at + 8 + length :]


def other_syntax_of_the_same_family(rng: Random, base: Base) -> bytes:
    """One of JPEG's or JPEG 2000's for another of them: 57 for 70, 90 for 91, 201 for 90 ..."""
    uid = rng.choice([uid for uid in DECODERS if uid != base.syntax and uid.startswith(_CODED)])
    at = base.data.index(b"\x02\0\x10\0UI", 128)
    length = struct.unpack_from("<H", base.data, at + 6)[0]
    return base.data[:at] + files.element(0x00020010, uid.encode(), vr="UI") + base.data[at + 8 + length :]


def lying_element_length(rng: Random, base: Base) -> bytes:
    data = bytearray(base.data)
    part = rng.choice([part for part in base.parts.values() if part.value - part.start in (8, 12)])
    width = 2 if part.value - part.start == 8 and base.syntax != files.IMPLICIT_LE else 4
    lie = rng.choice((0, 1, part.length + 1, part.length + 2, max(0, part.length - 1), 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF))
    data[part.value - width : part.value] = (lie & (1 << 8 * width) - 1).to_bytes(
        width, "big" if base.big_endian else "little"
    )
    return bytes(data)


# --- tables, groups, bombs ----------------------------------------------------------------------------------


def _lut_item(rng: Random, order: str) -> dict[str, object]:
    entries, first, bits = rng.choice((0, 1, 255, 4096, 65535)), rng.choice((0, 0x8000, 0xFFFF)), rng.randrange(20)
    words = rng.choice((0, 1, 2, entries, entries // 2, entries + 3))
    return {
        "LUTDescriptor": files.Raw("US", _descriptor(rng, order, entries, first, bits)),
        "LUTData": files.Raw("OW", rng.randbytes(2 * words)),
    }


def _descriptor(rng: Random, order: str, *values: int) -> bytes:
    return struct.pack(f"{order}3H", *values)[: rng.choice((6, 6, 6, 4, 5, 0))]


def broken_lut(rng: Random, base: Base) -> bytes:
    """A Modality or VOI LUT Sequence, or palette tables, whose descriptor and data do not fit or do not end."""
    if base.parts.keys() & {0x00281101} or rng.random() < 0.3:
        tag = rng.choice((0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281221))
        if tag < 0x00281200:
            value = _descriptor(rng, base.order, rng.randrange(1 << 16), rng.randrange(1 << 16), rng.choice((8, 16, 0)))
            return _replaced(base, tag, value, "US")
        return _replaced(base, tag, rng.randbytes(2 * rng.choice((0, 1, 3, 255, 257, 4096))), "OW")
    tag = rng.choice((0x00283000, 0x00283010))  # Modality LUT Sequence, VOI LUT Sequence
    item = _lut_item(rng, base.order)
    value = files.element(tag, [item], base.syntax)
    part = base.parts.get(tag)
    at = part.start if part else next((p.start for p in base.parts.values() if p.tag > tag), base.pixels.start)
    return base.data[:at] + value + base.data[part.end if part else at :]


_GROUPS = (0x52009229, 0x52009230)


def broken_functional_groups(rng: Random, base: Base) -> bytes:
    data, part = bytearray(base.data), base.parts[rng.choice([tag for tag in _GROUPS if tag in base.parts])]
    choice = rng.randrange(4)
    if choice == 0:
        return _flip(rng, data, part.value, part.end, 30)
    start = rng.randrange(part.value, part.end)
    length = rng.choice((2, 8, 100, 1000))
    if choice == 1:
        data[start : min(part.end, start + length)] = rng.randbytes(min(part.end, start + length) - start)
    elif choice == 2:
        del data[start : min(part.end, start + length)]
    else:
        data[start:start] = base.data[part.value : part.value + length]
    return bytes(data)


def header_bomb(rng: Random, base: Base) -> bytes:
    """Sizes that would take terabytes, in the header or as lengths of elements."""
    bomb = base
    for tag, value in ((0x00280010, 65535), (0x00280011, 65535)):
        bomb = _with(bomb, tag, struct.pack(f"{base.order}H", value), "US")
    choice = rng.randrange(4)
    if choice == 0:
        bomb = _with(bomb, 0x00280008, b"1000000000", "IS")
    elif choice == 1:
        bomb = _with(base, 0x00280008, b"9999999", "IS")
    elif choice == 2:
        bomb = _with(bomb, 0x00280008, b"9999999", "IS")
    else:
        at = base.parts[0x00280010].start
        lie = files.element(0x00280000 | 0x0009, b"", base.syntax, vr="OB", length=0xFFFFFF00)
        return base.data[:at] + lie + base.data[at:]
    return bomb.data


def _with(base: Base, tag: int, value: bytes, vr: str) -> Base:
    data = _replaced(base, tag, value, vr)
    shift = len(data) - len(base.data)
    parts = {
        p.tag: Part(p.tag, p.start + shift, p.value + shift, p.length) if p.tag > tag else p
        for p in base.parts.values()
    }
    pixels = Part(base.pixels.tag, base.pixels.start + shift, base.pixels.value + shift, base.pixels.length)
    return replace(base, data=data, parts=parts, pixels=pixels)


def deep_nesting(rng: Random, base: Base) -> bytes:
    """Sequences in sequences, of undefined or of known lengths, ended or not."""
    depth, tag = rng.choice((30, 250, 3000)), 0x00081140
    order, at = base.order, next(p.start for p in base.parts.values() if p.tag > tag)
    head = files.element(tag, b"", base.syntax, vr="SQ", length=0xFFFFFFFF)
    begin = head + struct.pack(f"{order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack(f"{order}HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return base.data[:at] + begin * depth + end * rng.choice((depth, depth, depth // 2)) + base.data[at:]


# --- codestreams --------------------------------------------------------------------------------------------

JPEG_SIZES = (0xFFC0, 0xFFC1, 0xFFC3, 0xFFF7)


def other_codestream_size(rng: Random, base: Base) -> bytes:
    """SOF or SIZ says another size, precision or number of components."""
    data = bytearray(base.data)
    found = [s for s in segments(base) if s.marker in (*JPEG_SIZES, 0xFF51)]
    segment = rng.choice(found)
    if segment.marker == 0xFF51:
        at, width = segment.offset + rng.choice((4, 8, 12, 16, 20, 24, 28, 32)), 4
    else:
        at, width = segment.offset + rng.choice((3, 5)), 2
    now = int.from_bytes(data[at : at + width], "big")
    value = rng.choice((0, 1, now + 1, max(0, now - 1), 2 * now, (1 << 8 * width) - 1))
    data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "big")
    if rng.random() < 0.3:
        offset = segment.offset + (2 if segment.marker != 0xFF51 else 36)
        data[offset] = rng.choice((1, 7, 8, 11, 15, 16, 38, 128, 255))
    return bytes(data)


def _segment_kind(name: str, *markers: int) -> Kind:
    def mutate(rng: Random, base: Base) -> bytes:
        segment = rng.choice([s for s in segments(base) if s.marker in markers])
        return _damage(rng, base.data, segment)

    return Kind(name, mutate, marker_named(*markers))


def _damage(rng: Random, data: bytes, segment: Segment) -> bytes:
    """Flip, overwrite, remove, repeat, or lie about the length."""
    changed, end = bytearray(data), segment.offset + segment.length
    choice = rng.randrange(6)
    if choice < 2 and segment.length > 2:
        return _flip(rng, changed, segment.offset + 2, end, 4)
    if choice == 2:
        changed[segment.offset + 2 : end] = rng.randbytes(max(0, segment.length - 2))
    elif choice == 3:
        changed[segment.offset - 2 : end] = b""
    elif choice == 4:
        changed[end:end] = changed[segment.offset - 2 : end]
    else:
        lie = rng.choice((0, 1, 2, segment.length - 1, segment.length + 1, 0xFFFF))
        struct.pack_into(">H", changed, segment.offset, lie & 0xFFFF)
    if choice in (3, 4):  # keep the fragment's own length right
        return _fix_fragment(bytes(changed), data, segment.offset)
    return bytes(changed)


def _fix_fragment(changed: bytes, data: bytes, inside: int) -> bytes:
    """Write the length of the fragment that holds the offset ``inside``, after bytes were put in or taken out."""
    at = data.rindex(b"\xfe\xff\x00\xe0", 0, inside) + 4
    length = struct.unpack_from("<I", data, at)[0] + len(changed) - len(data)
    return changed[:at] + struct.pack("<I", length) + changed[at + 4 :]


def damage_rle_header(rng: Random, base: Base) -> bytes:
    """The number of segments, or an offset, of an RLE header (PS3.5 G.5)."""
    data = bytearray(base.data)
    offset, length = rng.choice(base.codestreams)
    field = rng.randrange(16)
    now = struct.unpack_from("<I", data, offset + 4 * field)[0]
    value = rng.choice((0, 1, 15, 16, now + 1, max(0, now - 1), now + 2, length, 0xFFFFFFFF, rng.randrange(length)))
    struct.pack_into("<I", data, offset + 4 * field, value)
    return bytes(data)


def damage_codestream(rng: Random, base: Base) -> bytes:
    """Flips, a run, or a hole anywhere in one codestream."""
    data = bytearray(base.data)
    offset, length = rng.choice(base.codestreams)
    choice = rng.randrange(3)
    if choice == 0:
        return _flip(rng, data, offset, offset + length, 3)
    start = offset + rng.randrange(length)
    run = min(rng.choice((1, 2, 8, 64)), offset + length - start)
    data[start : start + run] = bytes(run) if choice == 1 else rng.randbytes(run)
    return bytes(data)


@functools.cache
def _scan_bomb(scans: int) -> bytes:
    """A progressive JPEG of 4096 x 4096 pixels that comes back to them so many times: each scan a few bytes, and some
    milliseconds of libjpeg's time."""
    buffer = io.BytesIO()
    Image.new("L", (4096, 4096), 90).save(buffer, "jpeg", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    scan = data[last:-2]
    return data[:-2] + scan * scans + data[-2:]


def codec_bomb(rng: Random, base: Base) -> bytes:
    """A small file that would keep its codec busy for ten seconds."""
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SOPInstanceUID": base.sop_instance_uid}
    codestream = _scan_bomb(1000 + rng.randrange(100))
    value = files.encapsulate([codestream + b"\0" * (len(codestream) % 2)])
    return files.file_bytes(files.image(4096, 4096, **sizes), value, files.JPEG_BASELINE, encapsulated=True)


def _family(*names: str) -> Callable[[Base], bool]:
    return lambda base: base.family in names


def _encapsulated(base: Base) -> bool:
    return base.encapsulated


def _codestreams(base: Base) -> bool:
    return base.syntax.startswith(_CODED)


def _several(base: Base) -> bool:
    return len(base.codestreams) > 1


KINDS: tuple[Kind, ...] = (
    Kind("bits flipped in header", flip_header, share=3),
    Kind("bits flipped in pixel data", flip_pixels, share=3),
    Kind("bits flipped in codestream head", flip_markers, _encapsulated, share=2),
    Kind("bytes overwritten", overwrite, share=2),
    Kind("bytes overwritten in pixel data", overwrite_pixels, share=2),
    Kind("file cut", cut, share=2),
    Kind("file cut in pixel data", cut_pixels),
    Kind("file cut in item header", cut_item_header, _encapsulated),
    Kind("bytes inserted", insert, share=2),
    Kind("bytes deleted", delete, share=2),
    Kind("fragments swapped", swap_fragments, _several),
    Kind("fragment dropped", drop_fragment, _encapsulated),
    Kind("fragment duplicated", duplicate_fragment, _encapsulated),
    Kind("fragment empty", empty_fragment, _encapsulated),
    Kind("fragment split", split_fragment, _encapsulated),
    Kind("codestream cut, lengths right", shorten_fragment, _encapsulated, share=2),
    Kind("bytes missing in codestream", starve_codestream, _encapsulated, share=2),
    Kind("Basic Offset Table wrong", wrong_basic_offsets, _encapsulated),
    Kind("Extended Offset Table wrong", wrong_extended_offsets, _encapsulated),
    Kind("item length lies", lying_item_length, _encapsulated),
    Kind("sequence delimiter missing", no_delimiter, _encapsulated),
    _number_kind("Rows", 0x00280010, 0, 1, 65535),
    _number_kind("Columns", 0x00280011, 0, 1, 65535),
    _number_kind("Bits Allocated", 0x00280100, 0, 1, 8, 12, 16, 24, 32, 64, 65535),
    _number_kind("Bits Stored", 0x00280101, 0, 1, 8, 10, 12, 16, 17, 32),
    _number_kind("High Bit", 0x00280102, 0, 7, 11, 15, 16, 31),
    _number_kind("Pixel Representation", 0x00280103, 0, 1, 2, 65535),
    _number_kind("Samples per Pixel", 0x00280002, 0, 1, 2, 3, 4, 65535),
    _number_kind("Planar Configuration", 0x00280006, 0, 1, 2),
    Kind("wrong Photometric Interpretation", wrong_photometric),
    Kind("wrong Number of Frames", wrong_frames),
    Kind("Transfer Syntax UID exchanged", other_transfer_syntax),
    Kind("Transfer Syntax UID of the same family", other_syntax_of_the_same_family, _codestreams),
    Kind("element length lies", lying_element_length, share=2),
    Kind("LUT broken", broken_lut, share=2),
    Kind("functional groups broken", broken_functional_groups, lambda base: bool(base.parts.keys() & set(_GROUPS))),
    Kind("header bomb", header_bomb),
    Kind("deep nesting", deep_nesting),
    Kind("codec bomb", codec_bomb, lambda base: base.syntax == files.JPEG_BASELINE, share=0.1),
    Kind("SOF or SIZ changed", other_codestream_size, marker_named(*JPEG_SIZES, 0xFF51), share=2),
    _segment_kind("JPEG DHT damaged", 0xFFC4),
    _segment_kind("JPEG DQT damaged", 0xFFDB),
    _segment_kind("JPEG SOS damaged", 0xFFDA),
    _segment_kind("JPEG 2000 COD damaged", 0xFF52),
    _segment_kind("JPEG 2000 QCD damaged", 0xFF5C),
    _segment_kind("JPEG 2000 SOT damaged", 0xFF90),
    Kind("JPEG damaged", damage_codestream, _family("jpeg")),
    Kind("JPEG lossless damaged", damage_codestream, _family("jpeg-lossless")),
    Kind("JPEG-LS damaged", damage_codestream, _family("jpeg-ls")),
    Kind("JPEG 2000 damaged", damage_codestream, _family("jpeg2000")),
    Kind("HTJ2K damaged", damage_codestream, _family("htj2k")),
    Kind("JPEG XL damaged", damage_codestream, _family("jpeg-xl", "jpeg-xl-recompression")),
    Kind("RLE damaged", damage_codestream, _family("rle")),
    Kind("RLE header damaged", damage_rle_header, _family("rle")),
    Kind("deflated frame damaged", damage_codestream, _family("deflate")),
)
"""Everything that is done to files; the table of a run has a row for each."""
