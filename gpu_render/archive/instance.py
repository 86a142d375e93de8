"""One stored object, read when it is asked for: its metadata where they are long, a large value, or all of it in
another encoding. Worker operations; ``meta`` has ``root`` and ``path`` as for ``parse``."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from gpu_render.archive.dataset import head_reader, tail_reader
from gpu_render.archive.elements import PIXEL_TAGS, IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH
from gpu_render.archive.files import open_beneath
from gpu_render.archive.metadata import (
    DEFAULT_ENCODINGS,
    SPECIFIC_CHARACTER_SET,
    TEXT_VRS,
    WORD_BYTES,
    decoded_text,
    encodings_of,
    little_endian,
)
from gpu_render.archive.parse import (
    File,
    pixels_end,
    quiet,
    read_file,
    read_metadata,
    repaired_head,
    stretches,
)
from gpu_render.errors import NotRenderable, RenderError, TooLarge, UnreadableFile

MAX_METADATA = 128 << 20
"""Longest metadata [character] that are made of one object."""
MAX_VALUE_BYTES = 512 << 20
"""Longest value that is given as bulk data."""

_PATH = re.compile(r"[0-9A-F]{8}(?:/[1-9][0-9]{0,8}/[0-9A-F]{8}){0,32}")


def metadata_of_file(meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker operation ``metadata``: JSON text, compressed by zlib. ``decodable``: whether its frames can be shown.

    Raises UnreadableFile and TooLarge.
    """
    with opened(meta) as (descriptor, file):
        metadata = read_metadata(
            descriptor, file, decodable=meta["decodable"], spans=b"", limit=MAX_METADATA, groups=MAX_METADATA
        )
    if not metadata.text:
        raise TooLarge("the metadata of the object are too long, or cannot be read")
    return {}, metadata.packed


def bulkdata_of_file(meta: dict[str, Any], _payload: memoryview) -> tuple[dict[str, Any], bytes]:
    """The worker operation ``bulkdata``: the value at ``path`` (see Archive.bulkdata), little-endian, text in UTF-8.

    Returns ``{"found": bool}``. Raises UnreadableFile, TooLarge, and NotRenderable for compressed pixels in a sequence.
    """
    steps = _steps(meta["path_in_data_set"])
    if not steps or steps[0] in PIXEL_TAGS:
        return {"found": False}, b""
    with opened(meta) as (descriptor, file):
        value = None
        for reader in readers(descriptor, file):
            value = value or _find(reader, len(reader.data), Scope(), steps, DEFAULT_ENCODINGS)
    return {"found": value is not None}, value or b""


def _steps(path: str) -> list[int]:
    """``52009230/1/00289145/1/00281201`` as tags and numbers of items; empty where it is no path."""
    path = path.upper()
    if _PATH.fullmatch(path) is None:
        return []
    return [int(part, 10 if number % 2 else 16) for number, part in enumerate(path.split("/"))]


@contextlib.contextmanager
def opened(meta: dict[str, Any]) -> Iterator[tuple[int, File]]:
    """The file that an operation is about, and its header. Raises UnreadableFile."""
    try:
        descriptor = open_beneath(meta["root"], os.fsencode(meta["path"]))
    except OSError as error:
        raise UnreadableFile(f"cannot be opened ({type(error).__name__})") from None
    try:
        with quiet():
            try:
                file = read_file(descriptor)
            except RenderError:
                raise
            except Exception as error:  # noqa: BLE001 - as in parse: its text may quote values
                raise UnreadableFile(f"header cannot be parsed ({type(error).__name__})") from None
            yield descriptor, file
    finally:
        os.close(descriptor)


def readers(descriptor: int, file: File) -> list[Reader]:
    """What reads the elements before the pixels, and those behind them."""
    place, end = stretches(descriptor, file), pixels_end(descriptor, file, b"")
    head = head_reader(descriptor, place)
    begin = head.at
    try:
        for _ in head.elements(len(head.data), Scope()):
            pass
        head.at = begin
    except IrregularError:
        head = Reader(repaired_head(descriptor, file), 0, implicit=False, little_endian=True)
    tail = None if end is None else tail_reader(descriptor, place, end)
    return [head] if tail is None else [head, tail]


def _find(reader: Reader, end: int | None, scope: Scope, steps: list[int], encodings: list[str]) -> bytes | None:
    """The value at the end of ``steps``; None where there is none."""
    with contextlib.suppress(IrregularError):  # of what stands behind the pixels
        for tag, vr, start, length in reader.elements(end, scope):
            if tag == SPECIFIC_CHARACTER_SET:
                encodings = encodings_of(bytes(reader.data[start : start + length]))
            if tag == steps[0] and len(steps) == 1:
                return _value(reader, vr, start, length, encodings)
            if tag == steps[0] and vr == b"SQ":
                return _find_in_sequence(reader, length, scope, steps, encodings)
    return None


def _find_in_sequence(
    reader: Reader, length: int, scope: Scope, steps: list[int], encodings: list[str]
) -> bytes | None:
    was_un = reader.was_un
    for number, end in enumerate(reader.items(length), 1):
        inner, nested = reader.inside(was_un), Scope(scope)
        if number == steps[1]:
            return _find(inner, end, nested, steps[2:], encodings)
        for _ in inner.elements(end, nested):
            pass
        reader.at = inner.at
    return None


def _value(reader: Reader, vr: bytes, start: int, length: int, encodings: list[str]) -> bytes | None:
    if vr == b"SQ":
        return None
    if length == UNDEFINED_LENGTH:
        raise NotRenderable("compressed pixels of an icon are offered within the stored file only")
    if length > MAX_VALUE_BYTES:
        raise TooLarge(f"a value of {length} bytes is above the limit of {MAX_VALUE_BYTES}")
    value = bytes(reader.data[start : start + length])
    if vr in TEXT_VRS:
        return decoded_text(value, encodings).encode()
    return little_endian(value, WORD_BYTES.get(vr, 1), "<" if reader.little_endian else ">")
