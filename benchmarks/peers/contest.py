"""The run itself: everybody is started, checked, and asked in turn; then asked once more after a fresh start."""

import contextlib
import http.client
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.harness import SERVICE, WITHOUT_LOOKAHEAD, BenchmarkError, Client, Question, Server, serving
from benchmarks.peers import nginx
from benchmarks.peers.answers import WrongAnswer
from benchmarks.peers.load import Load, load
from benchmarks.peers.orthanc import Orthanc
from benchmarks.peers.routes import (
    KINDS,
    NGINX,
    OLD,
    ORTHANC,
    OURS,
    PICTURE,
    ROUTES,
    RULER,
    SAMPLES,
    UNCACHED,
    UNCOMPRESSED,
    Route,
)
from benchmarks.peers.slices import Slice
from benchmarks.slice import wait_for_index

Slices = Mapping[str, Sequence[Slice]]
Step = Callable[[str], None]
"""Called with what has just been done."""

COMPARED_CLIENTS = 8
"""With which transfer syntaxes are compared with each other."""

_UNREADABLE = (WrongAnswer, BenchmarkError, ValueError, KeyError, OSError, http.client.HTTPException)
_MOST_PER_S = 8000
"""More pictures than anybody here makes in a second."""
_ONLY_WARM = (NGINX, UNCACHED)
_OF_THE_MOST = (OURS, RULER, NGINX)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. ``slices`` a transfer syntax, of which ``warm`` are asked for again and again.

    ``cold_slices``: how many slices a route is asked for after each start. After ``limit_s`` no further warm round
    begins, but two are made in any case.
    """

    syntaxes: tuple[str, ...]
    slices: int
    warm: int
    rounds: int
    seconds: float
    clients: tuple[int, ...]
    most_clients: int
    cold_rounds: int
    cold_slices: int
    limit_s: float = 660.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A route and who answers it: ``who`` names a server, with its version where there may be several."""

    who: str
    route: Route

    @property
    def label(self) -> str:
        return f"{self.who} {self.route.name}"


@dataclass(frozen=True, slots=True)
class Block:
    """What several contestants are asked for, one after the other."""

    syntax: str
    kind: str
    clients: int


@dataclass(slots=True)
class Outcome:
    """All that was measured. ``refused``: why somebody was not timed, in the words of the check; ``windows``:
    the next one that nobody asked for; the checks ask for the first."""

    loads: dict[tuple[Block, Contestant], list[Load]] = field(default_factory=lambda: defaultdict(list))
    first_touches_ms: dict[tuple[str, Contestant], list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[tuple[str, Contestant], str] = field(default_factory=dict)
    body_bytes: dict[tuple[str, Contestant], float] = field(default_factory=dict)
    startup_s: float = 0.0
    windows: int = 2

    def takes_part(self, syntax: str, contestant: Contestant) -> bool:
        return (syntax, contestant) not in self.refused


@dataclass(frozen=True, slots=True)
class Peers:
    """Who takes part, and over which files. ``scratch``: a folder for what they need meanwhile."""

    folder: Path
    slices: Slices
    orthancs: Mapping[str, Orthanc]
    window_library: Path
    scratch: Path

    @property
    def servers(self) -> list[str]:
        """Their names."""
        return [OURS, UNCACHED, RULER, OLD, NGINX, *self.orthancs]

    def contestants(self, syntax: str) -> list[Contestant]:
        """Everybody who is asked for slices of a transfer syntax."""
        return [
            Contestant(who, route)
            for route in ROUTES
            if route.asked_in(syntax)
            for who in (self.orthancs if route.who == ORTHANC else (route.who,))
        ]

    def serving(self, who: str, lookahead: bool = True) -> contextlib.AbstractContextManager[Server]:
        """One of them, started afresh. Without ``lookahead`` this service decodes nothing that nobody asked for."""
        if who in self.orthancs:
            return self.orthancs[who].serving()
        if who == NGINX:
            return nginx.serving([one for slices in self.slices.values() for one in slices])
        if who in (RULER, OLD):
            return self._asgi(who)
        return self._ours(who, lookahead)

    def _asgi(self, who: str) -> contextlib.AbstractContextManager[Server]:
        module, ready = ("least", "/ready") if who == RULER else ("old", "/openapi.json")
        environment = ("env", f"PEERS_FOLDER={self.folder}", f"PEERS_WINDOW={self.window_library}")
        uvicorn = (
            sys.executable,
            "-m",
            "uvicorn",
            f"benchmarks.peers.{module}:app",
            "--log-level",
            "warning",
            "--no-access-log",
        )
        return serving((*environment, *uvicorn), ready)

    @contextlib.contextmanager
    def _ours(self, who: str, lookahead: bool) -> Iterator[Server]:
        command = SERVICE if lookahead else WITHOUT_LOOKAHEAD
        if who == UNCACHED:
            command = ("env", "GPU_RENDER_CACHE_BYTES=0", *command)
        index = self.scratch / f"{self.servers.index(who)}.sqlite"
        with serving((*command, str(self.folder), "--index", str(index)), "/health/ready") as server:
            with contextlib.closing(Client(server.port)) as client:
                wait_for_index(client, sum(map(len, self.slices.values())))
            yield server


def question(contestant: Contestant, one: Slice) -> Question:
    return Question(contestant.route.url(one, int(contestant.route.fresh)), contestant.route.accept)


def ask(client: Client, contestant: Contestant, one: Slice) -> tuple[float, int]:
    """(duration [ms], bytes of the body) of a right answer. Raises one of _UNREADABLE for any other."""
    answer = client.ask(question(contestant, one))
    contestant.route.check(answer.body, answer.headers, one)
    return answer.duration_ms, len(answer.body)


def refuse(outcome: Outcome, syntax: str, contestant: Contestant, error: Exception) -> None:
    """A peer that cannot answer is not timed, and this is written down; if it is this service, the run has failed."""
    said = str(error).partition(" for /")[0] or type(error).__name__
    if contestant.who in (OURS, UNCACHED, RULER):
        raise BenchmarkError(f"{contestant.label}, {syntax}: {said}") from error
    outcome.refused[syntax, contestant] = said


def check_all(peers: Peers, servers: Mapping[str, Server], plan: Plan, outcome: Outcome, step: Step) -> None:
    """Every slice of every route once: all answers are right, and warm from now on."""
    for syntax in plan.syntaxes:
        for contestant in peers.contestants(syntax):
            try:
                with contextlib.closing(Client(servers[contestant.who].port)) as client:
                    sizes = [ask(client, contestant, one)[1] for one in peers.slices[syntax][: plan.warm]]
                outcome.body_bytes[syntax, contestant] = statistics.fmean(sizes)
            except _UNREADABLE as error:
                refuse(outcome, syntax, contestant, error)
            step(f"checked {contestant.label}, {syntax}")


def blocks(plan: Plan) -> list[Block]:
    """Uncompressed with every number of clients, the others with one number."""
    found = []
    for syntax in plan.syntaxes:
        clients = (*plan.clients, plan.most_clients) if syntax == UNCOMPRESSED else (COMPARED_CLIENTS,)
        found += [Block(syntax, kind, number) for kind in KINDS for number in clients if number]
    return [one for one in found if one.clients != plan.most_clients or one.kind in (SAMPLES, PICTURE)]


def in_block(peers: Peers, block: Block, plan: Plan, outcome: Outcome) -> list[Contestant]:
    """Who is timed in it. With the most clients only those who hold connections without a thread each."""
    return [
        one
        for one in peers.contestants(block.syntax)
        if one.route.kind == block.kind
        and outcome.takes_part(block.syntax, one)
        and (block.clients != plan.most_clients or (one.who in _OF_THE_MOST and not one.route.fresh))
    ]


def measure_warm(peers: Peers, plan: Plan, outcome: Outcome, step: Step) -> None:
    """All servers run at once and are asked in turn, blocks and contestants in another order in each round."""
    with contextlib.ExitStack() as stack:
        servers = {who: stack.enter_context(peers.serving(who)) for who in peers.servers}
        outcome.startup_s = servers[OURS].startup_s
        check_all(peers, servers, plan, outcome, step)
        order, start_s = random.Random(plan.rounds), time.perf_counter()
        for turn in range(plan.rounds):
            if turn >= 2 and time.perf_counter() - start_s > plan.limit_s:
                break
            for block in order.sample(blocks(plan), len(blocks(plan))):
                taking_part = in_block(peers, block, plan, outcome)
                for contestant in order.sample(taking_part, len(taking_part)):
                    outcome.loads[block, contestant].append(_load(peers, servers, block, contestant, plan, outcome))
                    step(f"{contestant.label}, {block.syntax}, {block.clients} clients")


def _load(
    peers: Peers, servers: Mapping[str, Server], block: Block, contestant: Contestant, plan: Plan, outcome: Outcome
) -> Load:
    """One block of one contestant. Raises BenchmarkError where answers were of another size than the checked ones."""
    server, route = servers[contestant.who], contestant.route
    seconds = plan.seconds * max(1.0, block.clients / 64)  # so that each client gets several answers
    urls = _urls(route, peers.slices[block.syntax][: plan.warm], seconds, outcome)
    measured = load(server.port, server.pid, urls, route.accept, block.clients, seconds)
    expected = outcome.body_bytes[block.syntax, contestant]
    most = (1.2 * expected + 2000) * (1 + block.clients / measured.answers)  # the last answers of each are incomplete
    if not measured.errors and not 0.8 * expected <= measured.answer_bytes <= most:
        raise BenchmarkError(f"{contestant.label}: {measured.answer_bytes:.0f} bytes an answer, not {expected:.0f}")
    return measured


def _urls(route: Route, slices: Sequence[Slice], seconds: float, outcome: Outcome) -> list[str]:
    """Those that are asked for in turn; of a fresh one more than will be, and none that was asked for before."""
    if not route.fresh:
        return [route.url(one) for one in slices]
    first, outcome.windows = outcome.windows, outcome.windows + 100 + int(seconds * _MOST_PER_S)
    return [route.url(slices[nth % len(slices)], nth) for nth in range(first, outcome.windows)]


def measure_cold(peers: Peers, plan: Plan, outcome: Outcome, step: Step) -> None:
    """Each server by itself, started afresh in each round; one client, and no slice is asked for twice."""
    order = random.Random(plan.cold_rounds)
    for turn in range(plan.cold_rounds):
        taking_part = [who for who in peers.servers if who not in _ONLY_WARM]
        for who in order.sample(taking_part, len(taking_part)):
            with peers.serving(who, lookahead=False) as server:
                for syntax in order.sample(plan.syntaxes, len(plan.syntaxes)):
                    _first_touches(peers, who, server, syntax, plan, outcome, turn)
            step(f"first touch, {who}")


def _first_touches(
    peers: Peers, who: str, server: Server, syntax: str, plan: Plan, outcome: Outcome, turn: int
) -> None:
    """Each route of a server gets slices that no other route of it was asked for since it was started."""
    contestants = [
        one
        for one in peers.contestants(syntax)
        if one.who == who and not one.route.fresh and outcome.takes_part(syntax, one)
    ]
    shifted = turn % max(1, len(contestants))
    unseen = iter(peers.slices[syntax])
    for contestant in [*contestants[shifted:], *contestants[:shifted]]:
        try:
            with contextlib.closing(Client(server.port)) as client:
                times = [ask(client, contestant, one)[0] for one in islice(unseen, plan.cold_slices)]
        except _UNREADABLE as error:
            refuse(outcome, syntax, contestant, error)
            continue
        outcome.first_touches_ms[syntax, contestant] += times


def steps(peers: Peers, plan: Plan) -> int:
    """How often ``step`` will be called at most."""
    everybody = sum(len(peers.contestants(syntax)) for syntax in plan.syntaxes)
    timed = sum(len(in_block(peers, block, plan, Outcome())) for block in blocks(plan))
    cold = len(peers.servers) - len(_ONLY_WARM)
    return everybody + plan.rounds * timed + plan.cold_rounds * cold


def check_plan(peers: Peers, plan: Plan) -> None:
    """Raises BenchmarkError where there are too few slices for every route to have unseen ones."""
    for syntax in plan.syntaxes:
        of_each: dict[str, int] = defaultdict(int)
        for contestant in peers.contestants(syntax):
            of_each[contestant.who] += plan.cold_slices
        if max(of_each.values()) > plan.slices:
            raise BenchmarkError(f"{max(of_each.values())} slices are needed, not {plan.slices}")
