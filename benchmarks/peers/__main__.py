"""``python -m benchmarks.peers``: one slice from this service, Orthanc, the old design, nginx and a ruler.

All answer the same slices of the CT phantom, stored in six transfer syntaxes, side by side in one run. Every
answer is compared with what it has to be before it is timed. Warm: all servers run, and wrk asks one after the other,
in another order in each round. Cold: each is started afresh and one client asks for slices that nobody asked for yet.

Everything runs in a network of its own, in which there is nothing but loopback.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import clients, data, record, running
from benchmarks.harness import BenchmarkError
from benchmarks.peers import contest, figures, native, network, nginx, orthanc, report
from benchmarks.peers.contest import Outcome, Peers, Plan
from benchmarks.peers.orthanc import Orthanc
from benchmarks.peers.slices import load
from benchmarks.peers.targets import ratios
from gpu_render.settings import default_cache_dir

ROOT = Path(__file__).parents[2]
PLOT, TABLES = ROOT / "docs" / "images" / "benchmark-peers.png", ROOT / "docs" / "peers.md"
ALL = tuple(data.NAMES.values())
FULL = Plan(
    syntaxes=ALL,
    slices=60,
    warm=20,
    rounds=5,
    seconds=0.5,
    clients=(1, 8, 32),
    most_clients=256,
    cold_rounds=4,
    cold_slices=6,
)
QUICK = Plan(
    syntaxes=(ALL[0], ALL[1]),
    slices=10,
    warm=4,
    rounds=2,
    seconds=0.2,
    clients=(8,),
    most_clients=64,
    cold_rounds=2,
    cold_slices=1,
)


def missing() -> list[str]:
    """Debian packages that the comparison needs beside Orthanc and that are not installed."""
    there = {"nginx-light": nginx.program(), "wrk": shutil.which("wrk"), "gcc": native.compiler()}
    return [name for name, program in there.items() if program is None]


@contextlib.contextmanager
def _orthancs(roots: Sequence[Path], paths: Sequence[Path], programs: dict[str, str]) -> Iterator[dict[str, Orthanc]]:
    """By name and version, with all slices stored in each of them."""
    with contextlib.ExitStack() as stack:
        found = {}
        for root in roots:
            one = stack.enter_context(orthanc.prepared(root))
            with one.serving() as server:
                orthanc.store(server.port, paths)
                version = orthanc.versions(server.port)
            name = f"Orthanc {version.partition(',')[0]}"
            found[name] = one
            programs[name] = version
        yield found


def measure(folder: Path, roots: Sequence[Path], plan: Plan, console: Console) -> record.Run:
    """Everything, from the first start to the record."""
    started, outcome = running.Started(), Outcome()
    programs = _versions()
    slices = load(folder)
    paths = [one.path for same_syntax in slices.values() for one in same_syntax]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        orthancs = stack.enter_context(_orthancs(roots, paths, programs))
        peers = Peers(folder, slices, orthancs, native.compile_library("window", scratch), scratch)
        contest.check_plan(peers, plan)
        data.read_all(folder)
        with running.progress(console) as bar:
            task = bar.add_task("peers", total=contest.steps(peers, plan))

            def step(what: str) -> None:
                bar.update(task, advance=1, description=what)

            contest.measure_warm(peers, plan, outcome, step)
            contest.measure_cold(peers, plan, outcome, step)
    measurements = figures.measurements(outcome)
    return started.record(
        "peers",
        report.notes(outcome),
        startup_s=outcome.startup_s,
        measurements=measurements,
        ratios=ratios(measurements),
        programs=programs,
    )


def _versions() -> dict[str, str]:
    """Of what measures and of the limit."""
    found = {"wrk": clients.generator_version()}
    for name, program in (("nginx", nginx.program()), ("C compiler", native.compiler())):
        done = subprocess.run([str(program), "-v"], capture_output=True, text=True, timeout=20)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if " version" in line]
        found[name] = lines[-1].removeprefix("nginx version: ").strip() if lines else "unknown"
    return found


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a look in about a minute; nothing is written unless asked"
    )
    parser.add_argument(
        "--orthanc-root",
        type=Path,
        action="append",
        help="folder with a Debian that has Orthanc; again for another (default: /)",
    )
    parser.add_argument("--data", type=Path, default=default_cache_dir() / "bench", help="where the slices are kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON file (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="PNG (default: docs/images/benchmark-peers.png)")
    parser.add_argument("--markdown", type=Path, help="the tables as Markdown (default: docs/peers.md)")
    parser.add_argument("--rounds", type=int, help="of both kinds")
    parser.add_argument("--seconds", type=float, help="of each block")
    parser.add_argument("--syntaxes", help=f"comma list of: {', '.join(ALL)}")
    parser.add_argument(network.INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the command line asks for. Raises SystemExit for a transfer syntax that there is not."""
    plan = QUICK if options.quick else FULL
    syntaxes = tuple(options.syntaxes.split(",")) if options.syntaxes else plan.syntaxes
    if unknown := set(syntaxes) - set(ALL):
        raise SystemExit(f"--syntaxes: {', '.join(sorted(unknown))}?")
    rounds = {"rounds": options.rounds, "cold_rounds": options.rounds} if options.rounds else {}
    seconds = {"seconds": options.seconds} if options.seconds else {}
    return replace(plan, syntaxes=syntaxes, **rounds, **seconds)


def isolate(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Go on in a network of its own. Where that is not allowed, Orthanc is kept to loopback by shim.c alone."""
    if options.inside:
        network.raise_loopback()
    elif (way := network.way_in()) is not None:
        network.enter(way, arguments)
    else:
        Console(stderr=True).print("network namespaces are not allowed here; loopback is shared with other programs")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options, console = parse(arguments), running.console()
    plan, roots = plan_of(options), options.orthanc_root or [Path("/")]
    if lacking := [*missing(), *(name for root in roots for name in orthanc.missing(root))]:
        Console(stderr=True).print(f"not installed: {', '.join(lacking)} (scripts/apt-install gets them)")
        return 1
    isolate(options, arguments)
    try:
        run = measure(_prepare(options.data, plan, console), roots, plan, console)
    except BenchmarkError as error:
        Console(stderr=True).print(f"benchmark failed: {error}", markup=False)
        return 1
    for table in report.tables(run):
        console.print(table.rich())
    _write(run, options, console)
    return 0


def _prepare(directory: Path, plan: Plan, console: Console) -> Path:
    with running.progress(console) as bar:
        task = bar.add_task("CT phantom", total=None)
        return data.prepare(
            directory, plan.slices, lambda _what, done, total: bar.update(task, completed=done, total=total)
        )


def _write(run: record.Run, options: argparse.Namespace, console: Console) -> None:
    """The record, the plot and the tables: where they are asked for, and all of them after a full run."""
    results = options.results or (None if options.quick else record.RESULTS)
    plot = options.plot or (None if options.quick else PLOT)
    markdown = options.markdown or (None if options.quick else TABLES)
    if results is not None:
        console.print(f"wrote {record.write(run, results)}", soft_wrap=True)
    if plot is not None:
        report.plot(run, plot)
        console.print(f"wrote {plot}", soft_wrap=True)
    if markdown is not None:
        markdown.write_text(report.markdown(run))
        console.print(f"wrote {markdown}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
