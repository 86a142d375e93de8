"""Servers are started and stopped, answers are checked before they count, and cases take turns."""

import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator

import pytest

from benchmarks import ruler
from benchmarks.harness import (
    RULER,
    Answer,
    BenchmarkError,
    Client,
    Question,
    Series,
    interleave,
    server_timing,
    serving,
)


@pytest.fixture(scope="module")
def ruler_port() -> Iterator[int]:
    with serving(RULER, "/") as server:
        yield server.port


@pytest.fixture
def client(ruler_port: int) -> Iterator[Client]:
    with contextlib.closing(Client(ruler_port)) as client:
        yield client


def test_ruler_answers_512_kib(client: Client) -> None:
    answer = client.ask(Question("/", body_bytes=512 * 1024))
    assert answer.body == bytes(ruler.BODY)
    assert answer.duration_ms > 0


def test_connection_is_kept(client: Client) -> None:
    client.ask(Question("/"))
    first = client._connection.sock
    client.ask(Question("/"))
    assert first is not None
    assert client._connection.sock is first


def test_a_connection_that_was_idle_is_made_anew(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server hangs up on one that asks nothing for some seconds."""
    client.ask(Question("/"))
    first = client._connection.sock
    monkeypatch.setattr("benchmarks.harness.IDLE_S", 0.0)
    client.ask(Question("/"))
    assert client._connection.sock is not None
    assert client._connection.sock is not first


def test_answer_of_another_length_does_not_count(client: Client) -> None:
    with pytest.raises(BenchmarkError, match="524288 bytes instead of 1 "):
        client.ask(Question("/", body_bytes=1))


def test_server_is_gone_after_the_block() -> None:
    with serving(RULER, "/") as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_server_that_ends_at_once_shows_what_it_wrote() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such thing')")
    with pytest.raises(BenchmarkError, match="no such thing"), serving(command, "/"):
        pass


def test_rounds_take_turns_and_keep_no_bodies(client: Client) -> None:
    order: list[int] = []

    def questions(number: int) -> Iterator[Question]:
        for _ in itertools.count():
            order.append(number)
            yield Question("/")

    cases = [Series(str(n), "copy", "", client, questions(n), per_round=2) for n in range(3)]
    interleave(cases, rounds=4, seed=1, step=lambda: None)
    assert all(len(case.answers) == 8 for case in cases)
    assert all(answer.body == b"" for case in cases for answer in case.answers)
    rounds = [order[i : i + 6] for i in range(0, len(order), 6)]
    assert all(sorted(one) == [0, 0, 1, 1, 2, 2] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_server_timing_is_read_by_step() -> None:
    header = 'queue;dur=0.5, read;desc="a disk";dur=1, cache, render;dur=2.25'
    answers = [Answer(1.0, {"server-timing": header}, b""), Answer(1.0, {"server-timing": "queue;dur=1.5"}, b"")]
    assert server_timing(answers) == {"queue": [0.5, 1.5], "read": [1.0], "render": [2.25]}


def test_no_server_timing_is_no_steps() -> None:
    assert server_timing([Answer(1.0, {}, b"")]) == {}
