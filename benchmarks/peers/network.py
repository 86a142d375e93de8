"""A network of its own for the run, in which there is nothing but loopback; its processes end with it."""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

INSIDE = "--inside"
"""Option of the process that runs in the namespace; nobody types it."""

_NET, _PROCESSES = ("unshare", "--net"), ("--pid", "--fork", "--kill-child", "--mount-proc")
_WAYS = tuple((*_NET, *processes, *user) for processes in (_PROCESSES, ()) for user in ((), ("--map-root-user",)))
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, net/if.h


def way_in() -> tuple[str, ...] | None:
    """The command that runs another in namespaces of its own (unshare(1)), as root or as anybody; None: not allowed.

    Where processes can have one, too, none of them is left when the run ends, however it does.
    """
    for way in _WAYS:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if subprocess.run([*way, "true"], capture_output=True, timeout=10).returncode == 0:
                return way
    return None


def enter(way: Sequence[str], arguments: Sequence[str]) -> NoReturn:
    """Become this program again, in namespaces of its own."""
    os.execvp(way[0], [*way, sys.executable, "-m", "benchmarks.peers", INSIDE, *arguments])


def raise_loopback() -> None:
    """In a new namespace even loopback is down. Raises OSError where this process may not change that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def listening_beyond_loopback(port: int) -> bool:
    """Whether a socket listens on ``port`` at another address than 127.0.0.1 and ::1, by /proc/net (proc(5))."""
    lines = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError):
            lines += Path(table).read_text().splitlines()[1:]
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    listening = (line.split()[1].split(":") for line in lines if line.split()[3] == "0A")
    return any(int(number, 16) == port and address not in loopback for address, number in listening)
