"""Many clients: both generators count answers, bytes and refusals of a real server."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import clients, ruler
from benchmarks.harness import RULER, BenchmarkError, serving


def need(generator: str) -> None:
    if generator == "wrk" and clients.generator() != "wrk":
        if os.environ.get("CI"):
            pytest.fail("wrk is not installed")
        pytest.skip("wrk is not installed (apt-get install wrk)")


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that gives these answers in turn; its port."""
    loop, port, asked = asyncio.new_event_loop(), list[int](), iter(range(1 << 30))
    stop, ready = asyncio.Event(), threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answers[next(asked) % len(answers)])
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"


@pytest.mark.parametrize("generator", ["wrk", "asyncio"])
def test_answers_are_counted(generator: str) -> None:
    need(generator)
    with serving(RULER, "/") as server:
        found = clients.load(server.port, ["/", "/?x"], clients=3, seconds=0.3, by=generator)
    assert found.answers > 3
    assert found.nbytes >= (found.answers - 3) * len(ruler.BODY)
    assert not found.errors
    assert 0 < found.latency.min <= found.latency.median <= found.latency.max


@pytest.mark.parametrize(("generator", "name"), [("wrk", "status"), ("asyncio", "503")])
def test_refusals_are_errors_and_no_answers(generator: str, name: str) -> None:
    need(generator)
    with answering(GOOD, FULL) as port:
        found = clients.load(port, ["/"], clients=2, seconds=0.2, by=generator)
    assert set(found.errors) == {name}
    assert abs(found.answers - found.errors[name]) <= 8
    assert found.latency.n == pytest.approx(found.answers + found.errors[name], abs=8)


def test_a_broken_connection_is_an_error() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    with answering(GOOD, half) as port, pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "TIMEOUT_S", 0.2)
        found = clients.load(port, ["/"], clients=1, seconds=5, by="asyncio")
    assert found.errors == {"timeout": 1}
    assert found.answers == 1


def test_no_answer_at_all_is_no_figure() -> None:
    with answering() as port:
        pass  # nobody listens there any more
    with pytest.raises(BenchmarkError, match="no answer"):
        clients.load(port, ["/"], clients=2, seconds=0.1, by="asyncio")


def test_a_path_that_is_no_lua_string_is_refused() -> None:
    with pytest.raises(ValueError, match="Lua"):
        clients.load(1, ['/a"b'], clients=1, seconds=1, by="wrk")
