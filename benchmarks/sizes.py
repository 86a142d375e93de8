"""``python -m benchmarks.sizes``: time to a radiograph, a mammogram and a colour frame, cold and warm, per syntax.

As ``benchmarks.slice``, with larger frames: stored values, pictures, and pictures with a window that was never asked
for. The frames are few, because each is large; so the service is started anew in every round, and every frame that is
cold is asked for once after each start. One spare frame of each series is asked for before, which starts the decoders.
"""

import argparse
import contextlib
import hashlib
import itertools
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import record, report, running, sizes_data
from benchmarks.harness import RULER, WITHOUT_LOOKAHEAD, Answer, BenchmarkError, Client, Question, Series, serving
from benchmarks.sizes_data import KINDS, STUDY, Kind
from benchmarks.slice import get_json, result, wait_for_index
from gpu_render.settings import default_cache_dir

PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmark-sizes.png"
SPARE, WARM = 1, 1
NOTES = (
    "Time from sending the request to the last byte, one request at a time.",
    "Cold: the first request for a frame after the service was started, which it is in every round; its decoders have "
    "decoded one other frame of the series. The file is in the page cache of the operating system.",
    "Warm: the decoded frame is in the service's cache.",
    "Samples are made by rule, with the spectrum and noise of such pictures (benchmarks/sizes_data.py).",
    "x ruler: over an ASGI application on the same server that only copies and sends as many bytes. What is in the "
    "service's cache is sent from where it lies; for bodies of megabytes that is faster than the ruler.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``rounds``, each with servers of its own; ``cold`` frames a round as stored values and as many as pictures;
    ``often``: how often the warm frame is asked for a round."""

    rounds: int
    cold: int
    often: int

    @property
    def frames(self) -> int:
        """Of each series."""
        return SPARE + WARM + 2 * self.cold


FULL = Plan(rounds=8, cold=2, often=6)
QUICK = Plan(rounds=1, cold=1, often=2)


def stored(kind: Kind, url: str) -> Question:
    return Question(f"{url}?stage=stored", body_bytes=kind.stored_bytes)


def picture(kind: Kind, url: str, window: str | None = None) -> Question:
    """Colour has no window."""
    asked = f"&window={window or kind.window}" if kind.window else ""
    return Question(f"{url}?stage=display{asked}", body_bytes=kind.picture_bytes)


def windows(kind: Kind, url: str, start: int) -> Iterator[Question]:
    """One frame, each time with another window; ``start``: how many were asked for before."""
    for step in itertools.count(start):
        yield picture(kind, url, f"{1500 + step * 0.25:g},{2000 + step * 0.5:g}")


def urls_of(client: Client, kind: Kind) -> dict[int, list[str]]:
    """By Series Number, from 1 on."""
    found = {}
    for number in range(1, len(kind.syntaxes) + 1):
        path = f"/api/studies/{STUDY}/series/{kind.series_uid(number)}"
        found[number] = [frame["url"] for frame in get_json(client, path)["frames"]]
    return found


def warm_up(client: Client, kind: Kind, urls: dict[int, list[str]]) -> str:
    """Ask for the spare frame of each series and put the warm one into the cache; returns the backend's name.

    Raises BenchmarkError unless all syntaxes that lose nothing answer the same picture and samples.
    """
    pictures, samples, backend = set(), set(), ""
    for number, frames in urls.items():
        client.ask(picture(kind, frames[0]))
        shown = client.ask(picture(kind, frames[SPARE]))
        backend = shown.headers["x-render-backend"]
        values = client.ask(stored(kind, frames[SPARE]))
        if not kind.syntaxes[number - 1].lossy:
            pictures.add(hashlib.sha256(shown.body).digest())
            samples.add(hashlib.sha256(values.body).digest())
    if len(pictures) != 1 or len(samples) != 1:
        raise BenchmarkError(f"{kind.label}: the series do not answer the same")
    return backend


def cases_of(client: Client, scale: Client, kind: Kind, urls: dict[int, list[str]], plan: Plan) -> list[Series]:
    """The cases of one start. No frame serves two of the cold ones, nor a cold and a warm one."""
    cases = []
    for size in dict.fromkeys((kind.stored_bytes, kind.picture_bytes)):
        same = itertools.repeat(Question(f"/{size}", body_bytes=size))
        cases.append(Series("ruler", f"copy {size // 1024:,} KiB", "", scale, same, plan.often))
    for number, frames in urls.items():
        name, warm, cold = f"{kind.label}, {kind.syntaxes[number - 1].name}", frames[SPARE], frames[SPARE + WARM :]
        first, second = cold[: plan.cold], cold[plan.cold : 2 * plan.cold]
        again, shown = itertools.repeat(stored(kind, warm)), itertools.repeat(picture(kind, warm))
        cases += [
            Series(name, "stored values", "cold", client, map(partial(stored, kind), first), plan.cold),
            Series(name, "picture", "cold", client, map(partial(picture, kind), second), plan.cold),
            Series(name, "stored values", "warm", client, again, plan.often),
            Series(name, "picture", "warm", client, shown, plan.often),
        ]
        if kind.window:
            dragged = windows(kind, warm, 0)
            cases.append(Series(name, "picture, new window", "warm", client, dragged, plan.often))
    return cases


@dataclass(slots=True)
class Found:
    """All answers of a case, by group, request and state, from all rounds."""

    answers: dict[tuple[str, str, str], list[Answer]]
    backend: str = ""
    startup_s: float = 0.0


def measure_kind(folder: Path, kind: Kind, plan: Plan, found: Found, step: Callable[[], None]) -> None:
    """Rounds of one kind, each with a service and a ruler that were just started."""
    with tempfile.TemporaryDirectory() as work:
        command = (*WITHOUT_LOOKAHEAD, str(folder), "--index", f"{work}/index.sqlite")
        for number in range(plan.rounds):
            with contextlib.ExitStack() as stack:
                service = stack.enter_context(serving(command, "/health/ready"))
                ruler = stack.enter_context(serving(RULER, "/"))
                client = stack.enter_context(contextlib.closing(Client(service.port)))
                scale = stack.enter_context(contextlib.closing(Client(ruler.port)))
                objects = len(kind.syntaxes) * (1 if kind.cine else plan.frames)
                wait_for_index(client, objects)
                read_all(folder)
                urls = urls_of(client, kind)
                found.backend = warm_up(client, kind, urls)
                found.startup_s = found.startup_s or service.startup_s
                for size in (kind.stored_bytes, kind.picture_bytes):
                    scale.ask(Question(f"/{size}"))  # which makes what is copied from then on
                cases = cases_of(client, scale, kind, urls, plan)
                for case in order(cases, number):
                    case.ask_some()
                for case in cases:
                    found.answers[case.group, case.request, case.state] += case.answers
            step()


def order(cases: Sequence[Series], number: int) -> list[Series]:
    """Another order in each round."""
    shift = number * 5 % len(cases)
    return [*cases[shift:], *cases[:shift]][:: 1 if number % 2 else -1]


def read_all(folder: Path) -> None:
    """Into the page cache."""
    for path in folder.rglob("*.dcm"):
        path.read_bytes()


def results(found: Found) -> Iterator[record.Case]:
    """All cases, each beside the ruler of its size. Raises BenchmarkError where one was not what it is called."""
    rulers = {
        len_of(answers): statistics.median(answer.duration_ms for answer in answers)
        for (group, *_), answers in found.answers.items()
        if group == "ruler"
    }
    for (group, request, state), answers in found.answers.items():
        case = Series(group, request, state, Client(0), iter(()), 0, answers)
        yield result(case, rulers[len_of(answers)])


def len_of(answers: Sequence[Answer]) -> int:
    """Of the body, as the answers said."""
    return int(answers[-1].headers["content-length"])


def measure(directory: Path, kinds: Sequence[Kind], plan: Plan, console: Console) -> record.Run:
    """Make the files, measure one kind after the other."""
    started, found = running.Started(), Found(defaultdict(list))
    with running.progress(console) as bar:
        task = bar.add_task("making files", total=len(kinds))
        folders = sizes_data.prepare(directory, kinds, plan.frames, lambda: bar.advance(task))
        task = bar.add_task("measuring", total=len(kinds) * plan.rounds)
        for kind in kinds:
            measure_kind(folders[kind.name], kind, plan, found, lambda: bar.advance(task))
    return started.record("sizes", NOTES, backend=found.backend, startup_s=found.startup_s, cases=tuple(results(found)))


def table_of(run: record.Run) -> Table:
    """For the terminal."""
    return report.rich_table(run, "time to one frame of other sizes over HTTP")


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None, kinds: Sequence[Kind] = KINDS) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is written unless asked")
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where 600 MB are kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-sizes.png)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, console = parser.parse_args(arguments), running.console()
    chosen = plan or (QUICK if options.quick else FULL)

    def work() -> record.Run:
        return measure(options.data, kinds, chosen, console)

    return running.command(options, console, work, table_of, report.markdown, report.plot, PLOT)


if __name__ == "__main__":
    raise SystemExit(main())
