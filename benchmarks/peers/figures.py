"""What was measured, as the record has it, and how to find it there again."""

from collections.abc import Callable, Iterable

from benchmarks import data
from benchmarks.peers.contest import Contestant, Outcome
from benchmarks.peers.load import Load
from benchmarks.peers.routes import ROUTES
from benchmarks.record import Measurement, spread

REQUESTS, P50, P99, CPU, FIRST = "requests", "50th percentile", "99th percentile", "processor time", "first touch"
ROUTE, KIND, CLIENTS, WINDOWED = "route", "answer", "clients", "windowed"


def measurements(outcome: Outcome) -> tuple[Measurement, ...]:
    """One sample a round, or of first touches one a slice; in the order of syntaxes and routes."""
    found: list[Measurement] = []
    for (block, one), loads in sorted(outcome.loads.items(), key=lambda item: _place(item[0][0].syntax, item[0][1])):
        found += _of_loads(block.syntax, one, block.clients, loads)
    for (syntax, one), times in sorted(outcome.first_touches_ms.items(), key=lambda item: _place(*item[0])):
        found.append(_measurement(FIRST, "ms", syntax, one, 1, times))
    return tuple(found)


def _place(syntax: str, contestant: Contestant) -> tuple[int, int, str]:
    """In the order of tables; who answered by several versions of a program, by these."""
    return (list(data.NAMES.values()).index(syntax), ROUTES.index(contestant.route), contestant.who)


def _of_loads(syntax: str, contestant: Contestant, clients: int, loads: list[Load]) -> Iterable[Measurement]:
    errors: dict[str, int] = {}
    for one in loads:
        for kind, count in one.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    of_each: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
        (REQUESTS, "requests/s", lambda one: one.per_s),
        (P50, "ms", lambda one: one.p50_ms),
        (P99, "ms", lambda one: one.p99_ms),
        (CPU, "ms/request", lambda one: one.cpu_ms),
    )
    for name, unit, value in of_each:
        yield _measurement(name, unit, syntax, contestant, clients, [value(one) for one in loads], errors)


def _measurement(
    name: str,
    unit: str,
    syntax: str,
    contestant: Contestant,
    clients: int,
    samples: list[float],
    errors: dict[str, int] | None = None,
) -> Measurement:
    route = contestant.route
    return Measurement(
        name=name,
        unit=unit,
        group=syntax,
        who=contestant.who,
        parameters={ROUTE: route.name, KIND: route.kind, CLIENTS: clients, WINDOWED: int(route.windowed)},
        summary=spread(samples),
        better="higher" if name == REQUESTS else "lower",
        errors=errors or {},
        samples=tuple(samples),
    )


def label(one: Measurement) -> str:
    """Who answered, and by which route."""
    return f"{one.who} {one.parameters[ROUTE]}"


def select(
    found: Iterable[Measurement],
    name: str,
    syntax: str,
    kind: str,
    who: str = "",
    route: str = "",
    clients: int = 0,
) -> list[Measurement]:
    """Those of a kind of figure; ``who`` is how its name begins, '' and 0 are all."""
    return [
        one
        for one in found
        if (one.name, one.group, one.parameters.get(KIND)) == (name, syntax, kind)
        and (not who or one.who == who or one.who.startswith(f"{who} "))
        and (not route or one.parameters[ROUTE] == route)
        and (not clients or one.parameters[CLIENTS] == clients)
    ]
