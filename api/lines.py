"""How fast the line to a client is. Its own connection tells: the system measures how fast answers are taken."""

import contextlib
import ipaddress
import math
import struct
from asyncio import BaseTransport
from collections import deque
from collections.abc import Sequence
from socket import IPPROTO_TCP, TCP_INFO
from typing import Protocol

from starlette.types import Scope

from gpu_render.settings import Settings

LINE = "gpu_render.line"
"""In the scope of a request whose client may be at a slow line: its ``Line``. Absent in networks that are fast."""
TOLD = b"x-render-line"
"""Header in which a proxy, or the front of several workers, says how fast its client's line is [Mbit/s]."""

FAR_US = 1000
"""Until it was measured, the line of who is further away [µs, there and back] is slow, and of who is nearer fast."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Sequence[Network]

#: struct tcp_info of Linux: its length up to tcpi_delivery_rate, and where the figures are that are read here. The
#: flag tcpi_delivery_rate_app_limited is the lowest bit of its byte.
_INFO_BYTES = 168
_APP_LIMITED, _MIN_RTT, _RATE = 7, struct.Struct("=148xI"), struct.Struct("=160xQ")


class Line(Protocol):
    """What is known of the way to one client."""

    def mbit_s(self, scope: Scope) -> float:
        """Speed [Mbit/s], as far as it is known; infinite where nothing says that it is slow."""


class Socket(Protocol):
    """Of a transport (asyncio, uvloop)."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """socket.getsockopt()."""


class Measured:
    """A TCP connection of the client's own."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._rates: deque[float] = deque(maxlen=3)

    def mbit_s(self, scope: Scope) -> float:
        """The middle one of the last rates at which the line bounded what was sent: one alone may be a burst that some
        buffer took. Before there is any, the distance decides."""
        del scope
        try:
            info = self._socket.getsockopt(IPPROTO_TCP, TCP_INFO, _INFO_BYTES)
        except OSError:  # the connection has just gone
            return math.inf
        if len(info) < _INFO_BYTES:  # an old kernel
            return math.inf
        if (rate := bounded_rate(info)) is not None:
            self._rates.append(rate)
        if self._rates:
            return sorted(self._rates)[(len(self._rates) - 1) // 2]
        return 0.0 if _MIN_RTT.unpack_from(info)[0] >= FAR_US else math.inf


def bounded_rate(info: bytes) -> float | None:
    """Mbit/s at which a connection delivered last, by its ``struct tcp_info``; None where there was too little to send
    for the line to matter."""
    rate = int(_RATE.unpack_from(info)[0])
    return 8e-6 * rate if rate and not info[_APP_LIMITED] & 1 else None


class Told:
    """Somebody else's connection to the client: a Unix socket leads to a proxy or to the front of several workers."""

    def mbit_s(self, scope: Scope) -> float:
        """As ``x-render-line`` says."""
        for name, value in scope["headers"]:
            if name == TOLD:
                with contextlib.suppress(ValueError):
                    return float(value)
        return math.inf


_TOLD = Told()


def line_of(transport: BaseTransport, fast: Networks) -> Line | None:
    """Of a new connection; None where its other end is in a network of ``fast``."""
    peer, socket = transport.get_extra_info("peername"), transport.get_extra_info("socket")
    if not isinstance(peer, tuple) or socket is None:
        return _TOLD
    return None if is_in(peer[0], fast) else Measured(socket)


def is_in(address: str, networks: Networks) -> bool:
    """Whether one of ``networks`` holds ``address``, IPv4 also where it is written as IPv6. False where it is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    return any(found in network for network in networks)


def fast_networks(settings: Settings) -> Networks | None:
    """Whose connections need no Line; None where none does: it is settled how bodies are sent."""
    return settings.wire_fast_networks if settings.wire_encoding == "auto" else None
