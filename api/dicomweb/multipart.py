"""Writing multipart/related answers (PS3.18 8.6.1.2.1, RFC 2387), whole or a range of their bytes.

``--B`` CRLF, the part's header, an empty line, its bytes, CRLF, ``--B`` ... ``--B--`` CRLF: nothing stands before the
first delimiter. Clients look for ``Content-Type:`` spelled like that in the first 1000 bytes, and put a body together
from ranges of several answers: one representation has the same bytes each time, its boundary as well.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.dicomweb.ranges import ByteRange

MEDIA_TYPE = "multipart/related"


def digest(*key: object) -> str:
    """What stands for a representation: its boundary, and in quotes its ETag.

    128 bits over what decides the bytes, of which the version is unknown to whoever made the pixels: that they hold
    it is as good as impossible, and nothing has to be searched for it."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Cut:
    """What is sent of one part: ``head``, then the bytes ``start`` to ``stop`` (None: its end) of part ``number``.
    Where they are the same, nothing of the part itself is."""

    number: int
    head: bytes
    start: int
    stop: int | None

    @property
    def has_content(self) -> bool:
        """Whether the part has to be read."""
        return self.start != self.stop


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands around the parts: ``heads`` before each, ``tail`` behind the last; ``media_type`` of the whole."""

    media_type: str
    heads: Sequence[bytes]
    tail: bytes

    def length(self, sizes: Sequence[int | None]) -> int | None:
        """Of the whole body [byte], given those of the parts; None where one is not known."""
        total = sum(map(len, self.heads)) + len(self.tail)
        for size in sizes:
            if size is None:
                return None
            total += size
        return total

    def cuts(self, sizes: Sequence[int | None], wanted: ByteRange | None) -> Iterator[Cut]:
        """What to send, in order: of the whole body, or of a range, for which all sizes have to be known."""
        position = 0
        for number, (head, size) in enumerate(zip((*self.heads, self.tail), (*sizes, 0), strict=True)):
            if wanted is None or size is None:
                yield Cut(number, head, 0, size)
                continue
            first, after = wanted.start - position, wanted.stop - position  # counted from the head on
            position += len(head) + size
            start = min(max(0, first - len(head)), size)
            cut = Cut(number, head[max(0, first) : max(0, after)], start, min(max(start, after - len(head)), size))
            if cut.head or cut.has_content:
                yield cut


def single(content_type: str) -> Framing:
    """One part and nothing around it."""
    return Framing(content_type, (b"",), b"")


def multipart(boundary: str, part_type: str, content_types: Sequence[str]) -> Framing:
    """Parts of these ``content_types``. ``part_type``: of the first, without its parameters, for the whole."""
    heads = [f"\r\n--{boundary}\r\nContent-Type: {text}\r\n\r\n".encode() for text in content_types]
    heads[0] = heads[0].removeprefix(b"\r\n")
    return Framing(f'{MEDIA_TYPE}; type="{part_type}"; boundary={boundary}', heads, f"\r\n--{boundary}--\r\n".encode())
