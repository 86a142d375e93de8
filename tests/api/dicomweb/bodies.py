"""Multipart bodies taken apart without the service's own code: strictly (RFC 2046, 2387), and by Python's parser."""

import email.message
import email.parser
import email.policy
import re
from dataclasses import dataclass
from typing import Any

OUTER = re.compile(r'multipart/related; type="([a-z0-9/*+-]+)"; boundary=([0-9a-f]{32})')
INNER = re.compile(rb"Content-Type: ([a-z0-9/+-]+(?:; transfer-syntax=([0-9.]+))?)\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its content type as it stands there, its transfer syntax ("" where none is named), its bytes."""

    content_type: str
    transfer_syntax_uid: str
    data: bytes


def parts_of(content_type: str, body: bytes, *, twice: bool = True) -> list[Part]:
    """The parts of a body, of which nothing but they, their headers and the delimiters may be left. ``twice``: read
    by Python's parser as well, which takes its time for many MiB."""
    outer = OUTER.fullmatch(content_type)
    assert outer is not None, content_type
    boundary = outer[2].encode()
    assert body.startswith(b"--" + boundary + b"\r\n")
    assert body.endswith(b"\r\n--" + boundary + b"--\r\n")
    inner = body[len(boundary) + 4 : -len(boundary) - 8]
    found = []
    for text in inner.split(b"\r\n--" + boundary + b"\r\n"):
        header = INNER.match(text)
        assert header is not None, text[:200]
        assert header.end() < 1000
        found.append(Part(header[1].decode(), (header[2] or b"").decode(), text[header.end() :]))
    assert found[0].content_type.split(";")[0] == outer[1]
    assert not any(boundary in part.data for part in found)
    assert not twice or [part.data for part in found] == by_email(content_type, body)
    return found


def by_email(content_type: str, body: bytes) -> list[bytes]:
    """The same bytes as Python's parser of mail reads them."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message: Any = email.parser.BytesParser(email.message.Message, policy=email.policy.compat32).parsebytes(head + body)
    assert not message.defects
    assert message.is_multipart()
    assert not message.preamble
    return [part.get_payload(decode=True) for part in message.get_payload()]


def parts(response: Any) -> list[Part]:
    """Of a 200 or 206 that holds the whole."""
    assert response.status_code in (200, 206), response.text
    return parts_of(response.headers["content-type"], response.content)
