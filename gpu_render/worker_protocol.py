"""What parent and worker say to each other: length-prefixed JSON over a socket pair, pixels through shared memory.

No pickle: a worker that hostile bytes have taken over can send the parent numbers and text, never code.
"""

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

from gpu_render.errors import (
    CorruptPixelData,
    DecoderTimeout,
    NotRenderable,
    RenderError,
    TooLarge,
    UnreadableFile,
    UnsupportedTransferSyntax,
)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest message [byte]; anything larger belongs into the shared memory."""

ERRORS: dict[str, type[RenderError]] = {
    error.__name__: error
    for error in (
        CorruptPixelData,
        DecoderTimeout,
        NotRenderable,
        TooLarge,
        UnreadableFile,
        UnsupportedTransferSyntax,
    )
}
"""The errors a worker may raise in the parent, by class name."""

_HEADER = struct.Struct("<4sI")
_MAGIC = b"GRW1"
_PART_BYTES = 1 << 18

Message = dict[str, Any]


class BrokenMessage(Exception):
    """The other side closed the socket, or sent what is not a message."""


def send_message(sock: socket.socket, message: Message) -> None:
    """Send one message. Raises OSError where the other side is gone, BrokenMessage where it is too long."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise BrokenMessage("message too long")
    sock.sendall(_HEADER.pack(_MAGIC, len(body)) + body)


def receive_message(sock: socket.socket, left: Callable[[], float] | None = None) -> Message:
    """Wait for one message, as long as ``left`` says, which is asked again after that time [s] until it raises.

    Raises BrokenMessage at the end of the stream or on bytes that are not a message.
    """
    received = _receive(sock, b"", left)
    while len(received) < _HEADER.size:
        received = _receive(sock, received, left)
    magic, length = _HEADER.unpack_from(received)
    if magic != _MAGIC or length > MAX_MESSAGE_BYTES:
        raise BrokenMessage("bad header")
    end = _HEADER.size + length
    while len(received) < end:
        received = _receive(sock, received, left)
    if len(received) > end:  # nobody says anything before he is asked
        raise BrokenMessage("more than a message")
    try:
        message = json.loads(received[_HEADER.size :])
    except (ValueError, RecursionError):
        raise BrokenMessage("bad body") from None
    if not isinstance(message, dict):
        raise BrokenMessage("bad body")
    return message


def _receive(sock: socket.socket, before: bytes, left: Callable[[], float] | None) -> bytes:
    """What comes next behind ``before``."""
    while True:
        if left is not None:
            sock.settimeout(left())
        try:
            part = sock.recv(_PART_BYTES)
        except TimeoutError:
            continue
        if not part:
            raise BrokenMessage("closed")
        return before + part
