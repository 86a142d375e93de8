"""Readers that do not read: they cost a bounded amount of memory, nobody else's answer, and in the end their own."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.sending import ABORT, GRACE_S, LEFT, PIECE_BYTES, Paced, Reader, Readers
from tests import data
from tests.api.served import Served, serving

MIB = 1 << 20
SIDE = 2048
LIMIT_S = 3.0


# --- pieces and the budget, on a clock that is moved by hand ------------------------------------------------------


class Clock:
    """Stands in for ``loop.time``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)

    async def move(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self.now_s += seconds
        for _ in range(5):
            await asyncio.sleep(0)


class Cut(list[str]):
    """Names of those that were cut off, in order."""

    def reader(self, name: str) -> Reader:
        return Reader({ABORT: lambda: self.append(name)})


@pytest.mark.anyio
async def test_within_the_budget_only_the_limit_cuts_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cut, readers = Clock(monkeypatch), Cut(), Readers(100, limit_s=60)
    slow, slower = cut.reader("slow"), cut.reader("slower")
    readers.begin(slow, 40)
    readers.begin(slower, 40)
    await clock.move(59)
    readers.took(slow)
    await clock.move(2)
    assert (cut, readers.nbytes) == (["slower"], 40)
    await clock.move(59)
    assert (cut, readers.nbytes) == (["slower", "slow"], 0)
    assert readers.figures() == {"answer_bytes_waiting": 0, "slow_readers_cut_off_total": 2}


@pytest.mark.anyio
async def test_above_it_those_that_took_nothing_for_longest_go_until_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, cut, readers = Clock(monkeypatch), Cut(), Readers(100, limit_s=60)
    for name in ("a", "b", "c"):
        readers.begin(cut.reader(name), 30)
        await clock.move(GRACE_S / 4)
    readers.begin(cut.reader("d"), 60)  # 150 now, but all of them took something a moment ago
    assert not cut
    await clock.move(GRACE_S / 4)
    assert cut == ["a"]
    await clock.move(GRACE_S / 4)
    assert (cut, readers.nbytes) == (["a", "b"], 90)
    await clock.move(10 * GRACE_S)
    assert cut == ["a", "b"]


@pytest.mark.anyio
async def test_whether_somebody_reads_the_server_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a piece that is taken slowly nobody is told before its end."""
    clock, cut, readers, left = Clock(monkeypatch), Cut(), Readers(1000, limit_s=60), [90]
    slow, stalled = cut.reader("slow"), cut.reader("stalled")
    slow.scope[LEFT] = lambda: left[0]
    stalled.scope[LEFT] = lambda: 90
    for reader in (slow, stalled):
        readers.begin(reader, 100)
        reader.look()
    for _ in range(4):
        left[0] -= 1
        await clock.move(30)
    assert (cut, readers.nbytes) == (["stalled"], 100)
    await clock.move(61)
    await clock.move(61)
    assert (cut, readers.nbytes) == (["stalled", "slow"], 0)


@pytest.mark.anyio
async def test_who_reads_is_not_cut_off_however_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cut, readers = Clock(monkeypatch), Cut(), Readers(100, limit_s=60)
    good, stalled = cut.reader("good"), cut.reader("stalled")
    readers.begin(good, 500)
    readers.begin(stalled, 10)
    for _ in range(9):
        await clock.move(GRACE_S / 2)
        readers.took(good)
    assert cut == ["stalled"]
    readers.end(good)
    assert readers.nbytes == 0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def sent_by(body: bytes | memoryview, **more: Any) -> list[Any]:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, **more})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("not asked for")

    await Paced(app, Readers(1 << 30, 60))({"type": "http"}, receive, send)
    return sent[1:]


@pytest.mark.anyio
async def test_a_large_body_goes_in_pieces_that_are_views_of_it() -> None:
    body = bytes(range(256)) * (PIECE_BYTES // 256) * 2 + b"end"
    messages = await sent_by(body)
    assert b"".join(bytes(message["body"]) for message in messages) == body
    assert [len(message["body"]) for message in messages] == [PIECE_BYTES, PIECE_BYTES, 3, 0]
    assert all(message["body"].obj is body for message in messages[:3])
    assert [message.get("more_body", False) for message in messages] == [True, True, True, False]
    assert [message["more_body"] for message in await sent_by(body, more_body=True)] == [True] * 3


@pytest.mark.anyio
async def test_a_small_body_is_left_alone() -> None:
    assert await sent_by(b"small") == [{"type": "http.response.body", "body": b"small"}]


@pytest.mark.anyio
async def test_where_the_server_closes_no_connection_sending_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, never = Clock(monkeypatch), asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": bytes(MIB)})

    async def send(_message: Any) -> None:
        await never.wait()

    async def receive() -> Any:
        raise AssertionError("not asked for")

    answer = asyncio.ensure_future(Paced(app, Readers(1, 60))({"type": "http"}, receive, send))
    await clock.move(0)
    await clock.move(GRACE_S)
    await answer


# --- a real process ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, work = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("work")
    samples = (np.arange(SIDE * SIDE, dtype=np.uint16) % 4093).reshape(SIDE, SIDE)
    for number in range(1, 5):
        data.write_image(root / f"{number}.dcm", samples + number, SOPInstanceUID=f"1.2.3.{number}")
    limits = {"GPU_RENDER_ANSWER_BYTES": str(32 * MIB), "GPU_RENDER_STALL_LIMIT_S": str(LIMIT_S)}
    with serving(root, work, environment=limits) as running:
        running.wait_for_files(4)
        yield running


SERIES = "/api/studies/1.2.4.1/series/1.2.4.1.1"


def picture(number: int) -> str:
    return f"{SERIES}/instances/1.2.3.{number}/frames/1?window=2000,{4000 + number}"


def connect(served: Served) -> socket.socket:
    """A connection that can hold little, so that it is the service which has to."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", served.port))
    return connection


def ask(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())


def ends(connection: socket.socket) -> bool:
    """Read to the end; whether the connection broke before a whole picture had come."""
    received = 0
    try:
        while part := connection.recv(1 << 16):
            received += len(part)
    except ConnectionResetError:
        return True
    return received < SIDE * SIDE


def figure(served: Served, name: str) -> float:
    text = served.ask("/metrics").body.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"gpu_render_{name} "))


def test_two_hundred_readers_that_stop_cost_bounded_memory_and_nobody_elses_answers(served: Served) -> None:
    expected = served.ask(picture(4)).body
    before = served.peak_bytes()
    with contextlib.ExitStack() as stack:
        stalled = []
        for number in range(200):
            stalled.append(stack.enter_context(connect(served)))
            ask(stalled[-1], picture(number % 3 + 1))
            time.sleep(GRACE_S / 25)  # whoever took something within that time is not cut off
            if number % 20 == 0:
                answer = served.ask(picture(4))
                assert (answer.status, answer.body) == (200, expected)
        deadline = time.monotonic() + 100
        while figure(served, "slow_readers_cut_off_total") < 200 - 32 * MIB // SIDE**2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert figure(served, "answer_bytes_waiting") <= 32 * MIB
        assert ends(stalled[0])
    assert served.ask(picture(4)).body == expected
    # Each holds 4 MiB: all of them together would be 800 MiB.
    assert served.peak_bytes() - before < 400 * MIB
    assert "Traceback" not in served.log.read_text()


def test_a_reader_that_takes_nothing_for_too_long_is_cut_off(served: Served) -> None:
    with connect(served) as connection:
        ask(connection, picture(1))
        connection.recv(1000)
        time.sleep(LIMIT_S + 1)
        assert ends(connection)


def test_a_stream_whose_reader_stops_is_cut_off_and_holds_nothing_any_more(served: Served) -> None:
    with connect(served) as connection:
        ask(connection, f"{SERIES}/frames?stage=stored")
        connection.recv(1000)
        time.sleep(LIMIT_S + 1)
        assert ends(connection)
    assert figure(served, "answer_bytes_waiting") == 0


def test_chunks_that_are_not_copied_come_whole(served: Served) -> None:
    answer = served.ask(f"{SERIES}/frames?stage=stored")
    assert answer.headers["transfer-encoding"] == "chunked"
    rest, found = answer.body, []
    while rest:
        end = 4 + int.from_bytes(rest[:4], "little")
        about, rest = json.loads(rest[4:end]), rest[end:]
        found.append(about["kind"])
        if about["kind"] == "frame":
            number = int(about["sop_instance_uid"].rpartition(".")[2])
            samples, rest = rest[: about["nbytes"]], rest[about["nbytes"] :]
            assert samples == (np.arange(SIDE * SIDE, dtype=np.uint16) % 4093 + number).astype("<u2").tobytes()
    assert found == ["frame"] * 4 + ["end"]


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /api/studies HTTP/1.1\r\nHost", b"POST /api/x HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc"]
)
def test_a_connection_that_stands_still_in_a_request_is_closed(served: Served, beginning: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(beginning)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass
        assert time.monotonic() - begun < 20  # and not the 30 of this side


def test_a_slow_but_steady_reader_gets_all_of_it(served: Served) -> None:
    expected = served.ask(picture(2)).body
    with connect(served) as connection:
        ask(connection, picture(2))
        with connection.makefile("rb", 1 << 16) as answer:
            while answer.readline() != b"\r\n":
                pass
            received = bytearray()
            while len(received) < len(expected):
                received += answer.read(1 << 16)
                time.sleep(0.05)
        assert received == expected


def test_the_service_may_have_as_many_connections_as_the_system_allows(served: Served) -> None:
    limits = Path(f"/proc/{served.process.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
