"""What is known of the way to a client."""

import asyncio
import ipaddress
import json
import math
import re
import socket
import struct
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.lines import LINE, TOLD, Line, Measured, Networks, Told, fast_networks, is_in, line_of
from api.sending import Connection
from gpu_render.settings import Settings

LOOPBACK: Networks = Settings().wire_fast_networks


class Reports:
    """A socket with made-up TCP_INFO: rate [Mbit/s], whether the line bounds it, least time there and back [µs]."""

    def __init__(self, *reports: tuple[float, bool, int]) -> None:
        self._reports = list(reports)

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """The next report, as Linux lays it out."""
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        rate, is_bounded, rtt_us = self._reports.pop(0)
        info = bytearray(232)
        info[7] = 0 if is_bounded else 1
        struct.pack_into("=I", info, 148, rtt_us)
        struct.pack_into("=Q", info, 160, int(rate * 1e6 / 8))
        return bytes(info[:size])


class Gone:
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        raise OSError("Bad file descriptor")


def speeds(*reports: tuple[float, bool, int]) -> list[float]:
    line = Measured(Reports(*reports))
    return [line.mbit_s({}) for _ in reports]


def test_a_new_connection_is_judged_by_its_distance() -> None:
    assert speeds((0, False, 200)) == [math.inf]
    assert speeds((0, False, 1000)) == [0.0]
    assert speeds((5, False, 40_000)) == [0.0], "a few bytes say nothing of the line"
    assert speeds((800, False, 200)) == [math.inf]


def test_what_was_measured_counts_and_a_burst_does_not() -> None:
    near = 200
    assert speeds((10, True, near)) == [10]
    assert speeds((4000, True, near), (10, True, near), (11, True, near)) == [4000, 10, 11]
    assert speeds((10, True, near), (4000, True, near), (11, True, near)) == [10, 10, 11]
    assert speeds(*[(900, True, 30_000)] * 4) == [900] * 4, "far away, and fast"


def test_what_was_measured_is_remembered_over_small_answers() -> None:
    assert speeds((10, True, 200), (3000, False, 200)) == [10, 10]


def test_nothing_is_assumed_where_nothing_can_be_read() -> None:
    class Old(Reports):
        def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
            return super().getsockopt(level, option, size)[:104]  # Linux 2.6

    assert Measured(Old((10, True, 5000))).mbit_s({}) == math.inf
    assert Measured(Gone()).mbit_s({}) == math.inf


def test_a_real_connection_tells_something() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        connection, _ = server.accept()
        with connection:
            line = Measured(connection)
            assert line.mbit_s({}) == math.inf, "loopback is near"
            connection.sendall(b"x" * 100_000)
            assert client.recv(1)
            assert line.mbit_s({}) > 0


@pytest.mark.parametrize(
    ("value", "speed"), [(b"12.5", 12.5), (b"0", 0), (b"", math.inf), (b"slow", math.inf), (None, math.inf)]
)
def test_a_proxy_tells_by_a_header(value: bytes | None, speed: float) -> None:
    headers = [(b"accept", b"*/*")] + ([] if value is None else [(TOLD, value)])
    assert Told().mbit_s({"headers": headers}) == speed


@pytest.mark.parametrize(
    ("address", "networks", "inside"),
    [
        ("127.0.0.1", LOOPBACK, True),
        ("127.8.8.8", LOOPBACK, True),
        ("::1", LOOPBACK, True),
        ("::ffff:127.0.0.1", LOOPBACK, True),
        ("10.1.2.3", LOOPBACK, False),
        ("2001:db8::1", LOOPBACK, False),
        ("fe80::1%eth0", (ipaddress.ip_network("fe80::/10"),), True),
        ("10.1.2.3", (ipaddress.ip_network("10.0.0.0/8"),), True),
        ("127.0.0.1", (), False),
        ("", LOOPBACK, False),
        ("testclient", LOOPBACK, False),
    ],
)
def test_networks_that_are_fast(address: str, networks: Networks, inside: bool) -> None:
    assert is_in(address, networks) is inside


async def lines_of(address: tuple[str, int] | str, fast: Networks) -> list[Line | None]:
    """Of one connection to a server at ``address``, as the server sees it."""
    found: list[Line | None] = []

    class Noted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            found.append(line_of(transport, fast))
            transport.close()

    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        server = await loop.create_unix_server(Noted, address)
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        server = await loop.create_server(Noted, *address)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with server:
        await reader.read()
        writer.close()
    return found


async def speeds_seen(fast: Networks | None, uds: Path | None, headers: bytes = b"") -> list[str]:
    """What the scopes of two requests on one connection to uvicorn say of its line."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        line: Line | None = scope.get(LINE)
        text = b"none" if line is None else f"{line.mbit_s(scope)}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})

    http = Connection.with_limit(10, fast)
    config = uvicorn.Config(
        app, port=0, uds=None if uds is None else str(uds), http=http, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    opened = asyncio.open_unix_connection(str(uds)) if uds else asyncio.open_connection(*_address(server))
    reader, writer = await opened
    found = []
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        found.append((await reader.readexactly(int(length[1]))).decode())
    writer.close()
    server.should_exit = True
    await running
    return found


def _address(server: uvicorn.Server) -> tuple[str, int]:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return str(host), int(port)


def test_a_request_knows_the_line_of_its_connection(tmp_path: Path) -> None:
    assert asyncio.run(speeds_seen(LOOPBACK, None)) == ["none", "none"]
    assert asyncio.run(speeds_seen(None, None)) == ["none", "none"]
    assert asyncio.run(speeds_seen((), None)) == ["inf", "inf"], "measured, near, and nothing sent yet"
    told = b"X-Render-Line: 7.5\r\n"
    assert asyncio.run(speeds_seen(LOOPBACK, tmp_path / "socket", told)) == ["7.5", "7.5"]
    assert asyncio.run(speeds_seen(LOOPBACK, tmp_path / "socket")) == ["inf", "inf"]
    assert asyncio.run(speeds_seen(None, tmp_path / "socket", told)) == ["none", "none"]


def test_lines_matter_only_where_they_decide() -> None:
    listed = Settings.model_validate({"wire_fast_networks": ["10.0.0.0/8"]})
    assert fast_networks(listed) == (ipaddress.ip_network("10.0.0.0/8"),)
    assert fast_networks(Settings(wire_encoding="on")) is None
    assert fast_networks(Settings(wire_encoding="off")) is None
    given = Settings.model_validate({"wire_fast_networks": ["10.0.0.0/8", "fe80::/10"]})
    assert Settings(**json.loads(given.model_dump_json())) == given, "as a supervisor hands it to its workers"
    with pytest.raises(ValueError, match="wire_fast_networks"):
        Settings.model_validate({"wire_fast_networks": ["10.0.0.1/8"]})


def test_only_who_may_be_slow_has_a_line(tmp_path: Path) -> None:
    assert asyncio.run(lines_of(("127.0.0.1", 0), LOOPBACK)) == [None]
    (measured,) = asyncio.run(lines_of(("127.0.0.1", 0), ()))
    assert isinstance(measured, Measured)
    assert measured.mbit_s({}) == math.inf
    (told,) = asyncio.run(lines_of(str(tmp_path / "socket"), LOOPBACK))
    assert isinstance(told, Told)
