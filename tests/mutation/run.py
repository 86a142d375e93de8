"""The whole run: mutants, service, clients, a neighbour, readers."""

import hashlib
import json
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from api.problems import STATUS
from benchmarks.data import prepare
from gpu_render.archive.parse import _made_up
from tests.mutation.mutate import CONTROL, Mutant, controls, mutants
from tests.mutation.oracle import Judgement, Verdict, implementations, judge, tolerance
from tests.mutation.readers import READERS, Array, ReaderProcess
from tests.mutation.service import ANSWER_LIMIT_S, MIB, Footprint, Reply, Service, Watch, serving, wait_for_scan

CLIENTS = 4
WORKERS = 2
CACHE_BYTES = 8 * MIB
ROUNDS, REQUESTS = 6, 6000
"""The same questions are asked at least so often, each time in another order, and until they are so many: memory must
not rise once each was asked at every stage."""
NEIGHBOUR_SLICES = 4  # of each of six transfer syntaxes, 512 KiB each: more than the cache holds
SCAN_LIMIT_S = 120.0
NOT_INDEXED = "not indexed"
TYPED = {status for _, status, _ in STATUS} - {500, 503, 400}
"""Statuses that docs/api.md documents for a file; 400 would say that the request was wrong, and it was not."""
LOST = ("process died", "time limit", "memory limit")

Step = Callable[[str, int, int], None]
"""(what, done, total) as the run goes on."""


@dataclass
class Outcome:
    """What became of one mutant. ``statuses``: of all its answers; ``answers``: digest of each by URL; ``lost``: how
    often a decoder died or was stopped; ``faults``: what must not happen."""

    mutant: Mutant
    statuses: Counter[int | str] = field(default_factory=Counter)
    reason: str = ""
    lost: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    answers: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[int, Array] = field(default_factory=dict)
    syntax: str = ""
    judgements: dict[int, Judgement] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> bool:
        """Whether any of its frames has this verdict."""
        return any(judgement.verdict is verdict for judgement in self.judgements.values())


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a report needs. ``asked``, ``warm``: index of the first footprint after the scan, and of the
    first after every question was asked at every stage once."""

    outcomes: list[Outcome]
    footprints: list[Footprint]
    asked: int
    warm: int
    requests: int
    neighbour: "Neighbour"
    reader_deaths: dict[str, int]
    ready: dict[str, Any]
    seconds: dict[str, float]


def run(count: int, seed: int = 1, step: Step = lambda *_: None) -> Run:
    """Make mutants, ask the service for each, compare. Everything is bounded in time."""
    with tempfile.TemporaryDirectory(prefix="gpu-render-mutation-") as name, ExitStack() as stack:
        folder = Path(name)
        clock = _Clock()
        good = prepare(folder / "good", NEIGHBOUR_SLICES)
        expected = good_answers(good, folder)
        clock.lap("good files and their answers")
        outcomes = write_mutants(folder / "mutants", count, seed)
        clock.lap("mutants")
        service = stack.enter_context(
            serving([good, folder / "mutants"], folder, workers=WORKERS, cache_bytes=CACHE_BYTES)
        )
        neighbour = Neighbour(service, expected, seed)
        with Watch(service) as watch, neighbour:
            state = wait_for_scan(service, len(outcomes), SCAN_LIMIT_S, lambda done: step("scan", done, len(outcomes)))
            neighbour.scanned = True
            clock.lap("scan")
            questions = plan(service, outcomes, state, seed)
            asked = warm = len(watch.footprints)
            requests = 0
            rounds = max(ROUNDS, -(-REQUESTS // len(questions["stored"])))
            for number in range(rounds):
                if number == len(_STAGES):
                    warm = len(watch.footprints)
                total = rounds * len(questions["stored"])
                stage = _STAGES[number % len(_STAGES)]
                chosen = [question for question in questions[stage] if question.outcome.lost < 2]
                progress = _from(requests, total, partial(step, "requests"))
                requests += ask_all(service, chosen, f"{seed} {number}", progress)
            clock.lap("requests")
            with service.client() as client:
                ready = client.get("/health/ready").json()
        deaths = compare(folder / "mutants", outcomes, partial(step, "other readers"))
        clock.lap("other readers")
        ready["alive"] = service.alive
        return Run(outcomes, watch.footprints, asked, warm, requests, neighbour, deaths, ready, clock.laps)


def _from(done: int, total: int, step: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda more, _: step(done + more, total)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def write_mutants(folder: Path, count: int, seed: int) -> list[Outcome]:
    """The mutants, and their bases as they were, as files."""
    folder.mkdir()
    outcomes = []
    broken = list(mutants(count, seed))
    for mutant in (*broken, *controls(len(broken), seed)):
        (folder / mutant.name).write_bytes(mutant.data)
        outcomes.append(Outcome(mutant))
    return outcomes


# --- the neighbour ------------------------------------------------------------------------------------------


def good_answers(good: Path, folder: Path) -> dict[str, bytes]:
    """URL -> body of every good frame, stored and display, from a service that knows nothing else."""
    with serving([good], folder, workers=WORKERS, cache_bytes=CACHE_BYTES) as service, service.client() as client:
        wait_for_scan(service, len(list(good.rglob("*.dcm"))), SCAN_LIMIT_S)
        urls = [frame["url"] for _, manifest in _manifests(client) for frame in manifest["frames"]]
        answers = {f"{url}?stage={stage}": client.get(f"{url}?stage={stage}") for url in urls for stage in _STAGES}
    assert all(answer.status == 200 for answer in answers.values())
    return {url: answer.body for url, answer in answers.items()}


_STAGES = ("stored", "display")


class Neighbour:
    """Asks for good frames without a pause, on a thread of its own, and compares every byte."""

    def __init__(self, service: Service, expected: dict[str, bytes], seed: int) -> None:
        self.answers = 0
        self.scanned = False
        self.faults: list[str] = []
        self.slowest_s = 0.0
        self._service, self._expected = service, expected
        self._order = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        urls = list(self._expected)
        with self._service.client() as client:
            known: set[str] = set()
            while not self._stop.is_set():
                url = self._order.choice(urls)
                answer = client.get(url)
                if answer.status == 404 and url not in known and not self.scanned:
                    time.sleep(0.02)  # the scan has not come to this file
                    continue
                known.add(url)
                self.answers += 1
                if answer.status != 200 or answer.body != self._expected[url]:
                    self.faults.append(f"HTTP {answer.status}, {len(answer.body)} bytes for {url}")
                self.slowest_s = max(self.slowest_s, answer.seconds)


# --- questions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """One frame of one mutant; ``shape`` and ``dtype`` as the manifest says them, None where it lists no frame."""

    outcome: Outcome
    url: str
    frame: int
    shape: tuple[int, ...] | None
    dtype: str | None


def plan(service: Service, outcomes: list[Outcome], state: dict[str, Any], seed: int) -> dict[str, list[Question]]:
    """First, last and a random frame of every mutant that is indexed; the others must be listed with a reason."""
    rng = random.Random(f"{seed} frames")
    unreadable = {entry["path"]: entry["reason"] for entry in state["unreadable"]}
    with service.client() as client:
        listed = _listed(client)
    expected = {outcome.mutant.expected_uid for outcome in outcomes}
    questions = []
    for outcome in outcomes:
        uid = outcome.mutant.expected_uid
        found = listed.get(uid) or _listed_otherwise(listed.keys() - expected, listed, outcome.mutant)
        if found is not None:
            questions += list(_questions(outcome, found, rng))
        elif outcome.mutant.name in unreadable:
            outcome.statuses[NOT_INDEXED] += 1
            outcome.reason = unreadable[outcome.mutant.name]
        else:
            outcome.faults.append("neither indexed nor listed as unreadable")
    return {stage: [_of_stage(question, stage) for question in questions] for stage in _STAGES}


def _listed_otherwise(strangers: set[str], listed: Mapping[str, "Listed"], mutant: Mutant) -> "Listed | None":
    """The instance of a mutant whose SOP Instance UID was hit: it has what stands there now, or one made up."""
    made_up = _made_up("instance", mutant.name)
    if made_up in strangers:
        return listed[made_up]
    readable = re.sub(rb"[^ -~]", b"", mutant.data)  # the service drops what cannot be printed
    found = (uid for uid in sorted(strangers, key=len, reverse=True) if uid.encode() in readable)
    return next((listed[uid] for uid in found), None)


def _of_stage(question: Question, stage: str) -> Question:
    display = stage == "display"
    return Question(
        question.outcome,
        f"{question.url}?stage={stage}",
        question.frame,
        question.shape,
        "|u1" if display and question.dtype else question.dtype,
    )


def _manifests(client: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for study in client.get("/api/studies").json()["studies"]:
        for series in study["series"]:
            path = f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
            answer = client.get(path)
            assert answer.status == 200, f"HTTP {answer.status} for a manifest: {answer.body[:300]!r}"
            yield path, answer.json()


Listed = tuple[str, list[dict[str, Any]]]
"""Path of the series, or of the instance where it cannot be shown, and its frames, none then."""


def _listed(client: Any) -> dict[str, Listed]:
    """What the service has, by SOP Instance UID."""
    listed: dict[str, Listed] = {}
    for path, manifest in _manifests(client):
        for frame in manifest["frames"]:
            listed.setdefault(frame["sop_instance_uid"], (path, []))[1].append(frame)
        for problem in manifest["problems"]:
            listed.setdefault(problem["sop_instance_uid"], (f"{path}/instances/{problem['sop_instance_uid']}", []))
    return listed


def _questions(outcome: Outcome, found: Listed, rng: random.Random) -> Iterator[Question]:
    path, frames = found
    if not frames:
        yield Question(outcome, f"{path}/frames/1", 1, None, None)
        return
    frames = sorted(frames, key=lambda frame: frame["frame_number"])
    outcome.syntax = frames[0]["transfer_syntax_uid"]
    some = frames if outcome.mutant.kind == CONTROL else (frames[0], frames[-1], rng.choice(frames))
    chosen = {frame["frame_number"]: frame for frame in some}
    for number, frame in chosen.items():
        yield Question(outcome, frame["url"], number, tuple(frame["shape"]), frame["dtype"])


def ask_all(service: Service, questions: Sequence[Question], seed: str, step: Callable[[int, int], None]) -> int:
    """Ask them in an order of their own, several at a time; what comes is written into the outcomes."""
    order = random.Random(seed).sample(list(questions), len(questions))
    lock, left = threading.Lock(), iter(order)
    done = 0

    def ask_some() -> None:
        nonlocal done
        with service.client() as client:
            while True:
                with lock:
                    question = next(left, None)
                if question is None:
                    return
                reply = client.get(question.url)
                with lock:
                    done += 1
                    note(question, reply)
                    step(done, len(order))

    with ThreadPoolExecutor(CLIENTS) as threads:
        for future in [threads.submit(ask_some) for _ in range(CLIENTS)]:
            future.result()
    return done


def note(question: Question, reply: Reply) -> None:
    """Write down one answer, and everything that is not as it must be."""
    outcome = question.outcome
    outcome.statuses[reply.status] += 1
    outcome.slowest_s = max(outcome.slowest_s, reply.seconds)
    if reply.seconds > ANSWER_LIMIT_S:
        outcome.faults.append(f"{reply.seconds:.1f} s for {question.url}")
    fault = picture_fault(question, reply) if reply.status == 200 else problem_fault(outcome, reply)
    digest = hashlib.sha256(reply.body).digest()
    if outcome.answers.setdefault(question.url, digest) != digest and not outcome.lost:
        fault = fault or f"another answer than before, HTTP {reply.status}, for {question.url}"
    if fault:
        outcome.faults.append(fault)
    elif reply.status == 200 and question.url.endswith("stored"):
        shape = tuple(map(int, reply.headers["x-array-shape"].split(",")))
        outcome.pictures[question.frame] = np.frombuffer(reply.body, reply.headers["x-array-dtype"]).reshape(shape)


def picture_fault(question: Question, reply: Reply) -> str:
    """What is wrong with a 200; empty where nothing is."""
    shape = tuple(map(int, reply.headers.get("x-array-shape", "0").split(",")))
    kind = np.dtype(reply.headers.get("x-array-dtype", "V0"))
    stage = question.url.rpartition("=")[2]
    if question.shape is None:
        return "a picture of what the manifest calls a problem"
    if len(reply.body) != int(np.prod(shape)) * kind.itemsize:
        return f"{len(reply.body)} bytes for {shape} {kind.str}"
    if reply.headers.get("x-array-stage") != stage or kind.str != question.dtype or "etag" not in reply.headers:
        return f"headers of another picture: {kind.str} {reply.headers.get('x-array-stage')}"
    if shape[:2] != question.shape[:2] or (stage == "stored" and shape != question.shape):
        return f"shape {shape}, the manifest says {question.shape}"
    return ""


def problem_fault(outcome: Outcome, reply: Reply) -> str:
    """What is wrong with an error; empty where it is a typed, documented one."""
    if reply.status not in TYPED:
        return f"HTTP {reply.status}"
    if reply.headers.get("content-type") != "application/problem+json":
        return "an error that is no problem+json"
    problem = json.loads(reply.body)
    outcome.reason = problem["detail"]
    outcome.lost += any(words in problem["detail"] for words in LOST)
    if not problem["type"].startswith("urn:gpu-render:problem:") or not problem["detail"]:
        return "an error without type or reason"
    return ""


# --- other readers ------------------------------------------------------------------------------------------


def compare(folder: Path, outcomes: list[Outcome], step: Callable[[int, int], None]) -> dict[str, int]:
    """Judge every stored picture; returns how often each reader's process had to be started anew."""
    answered = [outcome for outcome in outcomes if outcome.pictures]
    originals = {
        (outcome.mutant.base, frame): picture
        for outcome in answered
        if outcome.mutant.kind == CONTROL
        for frame, picture in outcome.pictures.items()
    }
    lock, left, deaths = threading.Lock(), iter(answered), Counter[str]()
    done = 0

    def compare_some() -> None:
        nonlocal done
        with ExitStack() as stack:
            readers = [stack.enter_context(ReaderProcess(name)) for name in READERS]
            while True:
                with lock:
                    outcome = next(left, None)
                if outcome is None:
                    break
                _judge(folder / outcome.mutant.name, outcome, originals, readers)
                with lock:
                    done += 1
                    step(done, len(answered))
            with lock:
                deaths.update({reader.name: reader.deaths for reader in readers})

    with ThreadPoolExecutor(WORKERS) as threads:
        for future in [threads.submit(compare_some) for _ in range(WORKERS)]:
            future.result()
    return dict(deaths)


def _judge(
    path: Path, outcome: Outcome, originals: Mapping[tuple[str, int], Array], readers: Sequence[ReaderProcess]
) -> None:
    found = {reader.name: reader.read(path, list(outcome.pictures)) for reader in readers}
    for frame, ours in outcome.pictures.items():
        others = {name: frames[frame] for name, frames in found.items() if frame in frames}
        allowed = tolerance(outcome.syntax, ours.shape[2] if ours.ndim == 3 else 1)
        original = originals.get((outcome.mutant.base, frame))
        unchanged = original is not None and original.dtype == ours.dtype and np.array_equal(original, ours)
        judgement = judge(ours, others, allowed, implementations(outcome.syntax))
        outcome.judgements[frame] = replace(judgement, unchanged=unchanged)
