"""The table of a run, on a terminal and as Markdown, and whether the run is good."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.mutation.mutate import CONTROL
from tests.mutation.oracle import Verdict
from tests.mutation.run import NOT_INDEXED, Outcome, Run
from tests.mutation.service import MIB, Footprint

FLAT = 0.05
"""How much memory may rise after the warm-up."""
KEPT_BYTES = 64 * MIB
"""What decoder processes may keep beyond that of what they freed, for the next large frame (decision 0003)."""
NEIGHBOUR_LIMIT_S = 5.0
"""The promise's alarm: what a neighbour's request may take beside all this."""

COLUMNS = (
    *("mutation", "files", "pictures", "404", "406", "413", "422", "501", "not indexed", "decoders lost"),
    *("other readers agree", "only we answer", "readers disagree", "wrong"),
)
_STATUSES = (404, 406, 413, 422, 501, NOT_INDEXED)


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of mutation, counted in files; a file with several outcomes counts in each column that it has."""

    name: str
    numbers: tuple[int, ...]


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each kind in the order of the run, the totals of all mutants, and the control."""
    kinds = dict.fromkeys(outcome.mutant.kind for outcome in outcomes)
    made = [_row(kind, [o for o in outcomes if o.mutant.kind == kind]) for kind in kinds if kind != CONTROL]
    mutated = [outcome for outcome in outcomes if outcome.mutant.kind != CONTROL]
    control = [outcome for outcome in outcomes if outcome.mutant.kind == CONTROL]
    return [*made, _row("all mutants", mutated), _row(CONTROL, control)]


def _row(name: str, outcomes: Sequence[Outcome]) -> Row:
    def count(holds: Callable[[Outcome], object]) -> int:
        return sum(bool(holds(outcome)) for outcome in outcomes)

    numbers = [len(outcomes), count(lambda o: o.statuses[200])]
    numbers += [count(lambda o, status=status: o.statuses[status]) for status in _STATUSES]  # type: ignore[misc]
    numbers.append(sum(outcome.lost for outcome in outcomes))
    numbers += [count(lambda o, verdict=verdict: o.count(verdict)) for verdict in _VERDICTS]  # type: ignore[misc]
    return Row(name, tuple(numbers))


_VERDICTS = (Verdict.AGREED, Verdict.ONLY_WE, Verdict.DISPUTED, Verdict.WRONG)


@dataclass(frozen=True, slots=True)
class Memory:
    """Medians [byte] of the first and of the second half of what follows the warm-up, in which every question was asked
    at every stage once, and the most there ever was. A decoder that works at a large frame, or was just replaced, is no
    leak: hence medians."""

    before: float
    after: float
    peak: int

    @property
    def growth(self) -> float:
        """Share by which the later one is above the earlier one."""
        return self.after / self.before - 1

    def __str__(self) -> str:
        before, after, peak = (value / MIB for value in (self.before, self.after, self.peak))
        return f"{before:.0f} MiB, then {after:.0f} MiB ({self.growth:+.1%}), at most {peak:.0f} MiB"


def memory(run: Run, of: Callable[[Footprint], int]) -> Memory:
    """Of the service or of its workers, while questions were asked."""
    values = [of(footprint) for footprint in run.footprints]
    half = (run.warm + len(values)) // 2
    return Memory(median(values[run.warm : half]), median(values[half:]), max(values[run.asked :]))


def faults(run: Run) -> list[str]:
    """Everything that must not happen; empty after a good run."""
    found = [f"{outcome.mutant.name}: {fault}" for outcome in run.outcomes for fault in outcome.faults]
    found += [f"neighbour: {fault}" for fault in run.neighbour.faults]
    for outcome in run.outcomes:
        for frame, judgement in outcome.judgements.items():
            if judgement.verdict is Verdict.WRONG:
                found.append(f"{outcome.mutant.name}: frame {frame} is wrong, {dict(judgement.differences)}")
        if outcome.mutant.kind == CONTROL and (outcome.statuses.keys() - {200}):
            found.append(f"{outcome.mutant.base}, unharmed: {dict(outcome.statuses)} {outcome.reason}")
    if not run.ready.get("alive") or run.ready.get("status") != "ready":
        found.append(f"the service is not ready at the end: {run.ready}")
    if run.neighbour.slowest_s > NEIGHBOUR_LIMIT_S:
        found.append(f"a neighbour waited {run.neighbour.slowest_s:.1f} s")
    service, workers = memory(run, _rss), memory(run, _workers_rss)
    if service.growth > FLAT:
        found.append(f"memory of the service is not flat: {service}")
    if workers.growth > FLAT and workers.after - workers.before > KEPT_BYTES:
        found.append(f"memory of the decoder processes is not flat: {workers}")
    return found


def _rss(footprint: Footprint) -> int:
    return footprint.rss


def _workers_rss(footprint: Footprint) -> int:
    return footprint.workers_rss


def summary(run: Run) -> list[str]:
    """What the table does not say, a line each."""
    asked = run.footprints[run.asked :]
    slowest = max(outcome.slowest_s for outcome in run.outcomes)
    pictures = [j for o in run.outcomes if o.mutant.kind != CONTROL for j in o.judgements.values()]
    verdicts = Counter(judgement.verdict for judgement in pictures)
    changed = Counter(judgement.verdict for judgement in pictures if not judgement.unchanged)
    each = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run.seconds.items())
    return [
        f"{run.requests} requests for frames of mutants, the slowest answer after {slowest:.2f} s",
        f"the neighbour got {run.neighbour.answers} answers, {len(run.neighbour.faults)} of them not the expected "
        f"bytes, the slowest after {run.neighbour.slowest_s:.2f} s",
        f"memory of the service: {memory(run, _rss)}; of its decoder processes: {memory(run, _workers_rss)}",
        f"threads {asked[0].threads} to {max(f.threads for f in asked)}, open files at most "
        f"{max(f.descriptors for f in asked)}, decoder processes {asked[-1].workers}",
        f"{len(pictures)} frames compared: "
        + ", ".join(f"{verdict} {verdicts[verdict]} ({changed[verdict]} not as before)" for verdict in _VERDICTS),
        "processes of other readers lost: " + ", ".join(f"{name} {n}" for name, n in run.reader_deaths.items()),
        f"duration: {each}",
    ]


def table(run: Run) -> Table:
    """For a terminal."""
    shown = Table(title="Mutated files through the HTTP API", header_style="bold")
    for index, heading in enumerate(COLUMNS):
        shown.add_column(heading, justify="right" if index else "left")
    for row in rows(run.outcomes):
        if row.name == "all mutants":
            shown.add_section()
        shown.add_row(row.name, *(str(number) if number else "" for number in row.numbers))
    return shown


def show(run: Run, console: Console) -> None:
    """Table, summary, faults."""
    console.print(table(run))
    for line in summary(run):
        console.print(line, highlight=False)
    for fault in faults(run):
        console.print(f"[red]{fault}", highlight=False)


def markdown(run: Run) -> str:
    """The table and the lines below it, for docs."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += [f"| {row.name} | " + " | ".join(map(str, row.numbers)) + " |" for row in rows(run.outcomes)]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(run)), ""])
