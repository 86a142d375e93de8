"""Start real servers, ask them over HTTP/1.1 keep-alive, and time the answers in interleaved rounds."""

import contextlib
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVICE = (sys.executable, "-c", "from api.cli import app; app()", "serve")
WITHOUT_LOOKAHEAD = ("env", "GPU_RENDER_LOOKAHEAD_FRAMES=0", *SERVICE)
"""For what is asked for frame after frame and is to be cold each time."""
WITHOUT_COPIES = {"GPU_RENDER_REENCODE_BYTES": "0"}
"""What is cold once is to be cold in the next run too, and nothing is left in the user's cache folder."""
RULER = (sys.executable, "-m", "uvicorn", "benchmarks.ruler:app", "--log-level", "warning", "--no-access-log")


class BenchmarkError(Exception):
    """A server did not start, or answered something that must not be timed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``duration_ms`` from sending the request to holding the last byte of the body."""

    duration_ms: float
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """One GET and what its answer must look like."""

    url: str
    accept: str = "application/octet-stream"
    body_bytes: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


IDLE_S = 2.0


class Client:
    """One connection that stays open. Not safe to share between threads. After IDLE_S without a question, when a server
    may be about to hang up, a new one is made before the next question is timed."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._asked_s = time.monotonic()

    def ask(self, question: Question) -> Answer:
        """Raises BenchmarkError unless the answer has the expected status and length."""
        if self._connection.sock is not None and time.monotonic() - self._asked_s > IDLE_S:
            self._connection.close()
            self._connection.connect()
        start = time.perf_counter()
        self._connection.request("GET", question.url, headers={"Accept": question.accept, **question.headers})
        response = self._connection.getresponse()
        body = response.read()
        duration_ms = (time.perf_counter() - start) * 1000
        self._asked_s = time.monotonic()
        if response.status != question.status:
            raise BenchmarkError(f"HTTP {response.status} for {question.url}")
        if question.body_bytes not in (None, len(body)):
            raise BenchmarkError(f"{len(body)} bytes instead of {question.body_bytes} for {question.url}")
        return Answer(duration_ms, {name.lower(): value for name, value in response.getheaders()}, body)

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Series:
    """Requests of one kind: ``questions`` in the order in which they are asked, ``per_round`` at a time."""

    group: str
    request: str
    state: str
    client: Client
    questions: Iterator[Question]
    per_round: int
    answers: list[Answer] = field(default_factory=list)

    def ask_some(self) -> None:
        """Ask the next ``per_round`` questions; bodies are counted and dropped."""
        for _ in range(self.per_round):
            answer = self.client.ask(next(self.questions))
            self.answers.append(Answer(answer.duration_ms, answer.headers, answer.body[:0]))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server process."""

    port: int
    startup_s: float
    pid: int


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str], ready: str, timeout_s: float = 120.0) -> Iterator[Server]:
    """Run ``command --port N`` until the block ends; entered when ``ready`` answers 200.

    Raises BenchmarkError, with the last lines the process wrote, when it ends or stays silent.
    """
    port = free_port()
    with running([*command, "--port", str(port)], port, ready, timeout_s) as server:
        yield server


@contextlib.contextmanager
def running(command: Sequence[str], port: int, ready: str, timeout_s: float = 120.0) -> Iterator[Server]:
    """The same for a program that is told its port in another way."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=WITHOUT_COPIES | os.environ)
        try:
            while not _answers(port, ready):
                if process.poll() is not None or time.perf_counter() - start > timeout_s:
                    log.seek(0)
                    raise BenchmarkError("the server did not start:\n" + "".join(log.readlines()[-20:]))
                time.sleep(0.05)
            yield Server(port, time.perf_counter() - start, process.pid)
        finally:
            _stop(process)


def _answers(port: int, url: str) -> bool:
    with contextlib.closing(Client(port, 5.0)) as client:
        try:
            client.ask(Question(url, "*/*"))
        except (OSError, http.client.HTTPException, BenchmarkError):
            return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def interleave(series: Sequence[Series], rounds: int, seed: int, step: Callable[[], None]) -> None:
    """Ask every series in every round, in another order each time, so that a busy moment hits all alike."""
    order = random.Random(seed)
    for _ in range(rounds):
        for one in order.sample(list(series), len(series)):
            one.ask_some()
            step()


def server_timing(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """The durations [ms] of each step that the answers' Server-Timing headers name."""
    steps: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, duration in re.findall(r"([\w-]+)\s*;[^,]*?dur=([\d.]+)", answer.headers.get("server-timing", "")):
            steps[name].append(float(duration))
    return dict(steps)
