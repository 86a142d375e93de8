"""``make fuzz``: every target for a bounded time under atheris (libFuzzer), guided by coverage; then a table.

Inputs that reach something new are kept in ``.fuzz/TARGET/corpus`` and tried first next time; findings in
``.fuzz/TARGET/findings``. Exits with 1 when there is a finding, and says how to see it again.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
INPUT_TIMEOUT_S = 10
"""A seed takes milliseconds; a worker that parses would be killed after about as long."""
MEMORY_MIB = 2048
MAX_INPUT_BYTES = 20_000
COLUMNS = ("target", "executions", "branches covered", "new inputs", "findings")


@dataclass(frozen=True)
class Outcome:
    """What came of one target: what libFuzzer counted, and the files of its findings."""

    name: str
    numbers: dict[str, int]
    findings: tuple[Path, ...]


def numbers_of(log: str) -> dict[str, int]:
    """libFuzzer's final statistics, and the last number of branches covered."""
    numbers = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", log)}
    covered = re.findall(r"\bcov: (\d+)", log)
    return {**numbers, "covered": int(covered[-1]) if covered else 0}


def fuzz(name: str, seconds: int, folder: Path) -> Outcome:
    """Run one target in a process of its own."""
    corpus, findings = folder / name / "corpus", folder / name / "findings"
    for made in (corpus, findings):
        made.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    options = {
        "max_total_time": seconds,
        "timeout": INPUT_TIMEOUT_S,
        "rss_limit_mb": MEMORY_MIB,
        "max_len": MAX_INPUT_BYTES,
        "print_final_stats": 1,
        "artifact_prefix": f"{findings}/",
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    command = [sys.executable, "-m", "tests.fuzz.run", "--one", name, str(corpus), *arguments]
    limit_s = seconds + 120  # the seeds, and the input at hand when the time is over
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)
        log, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        log, status = (error.stderr or b"").decode("utf-8", "replace"), 1
    (folder / name / "log.txt").write_text(log)
    found = tuple(sorted(set(findings.iterdir()) - before))
    if status and not found:  # it could not even start, or a seed failed
        found = (folder / name / "log.txt",)
    return Outcome(name, numbers_of(log), found)


def row(outcome: Outcome) -> tuple[str, ...]:
    """The table's cells, in the order of COLUMNS."""
    names = ("number_of_executed_units", "covered", "new_units_added")
    counts = [f"{outcome.numbers.get(name, 0):,}" for name in names]
    return (outcome.name, *counts, str(len(outcome.findings)))


def report(outcomes: Sequence[Outcome], console: Console) -> None:
    """The table, and how to see each finding again."""
    table = Table(*COLUMNS, title="fuzzing")
    for outcome in outcomes:
        table.add_row(*row(outcome), style="red" if outcome.findings else "")
    console.print(table)
    for outcome in outcomes:
        for path in outcome.findings:
            if path.name == "log.txt":
                console.print(f"{outcome.name}: see {path}", soft_wrap=True, markup=False)
            else:
                console.print(f"python -m tests.fuzz {outcome.name} {path}", soft_wrap=True, markup=False)


def run_one(name: str, corpus: Path, arguments: Sequence[str]) -> None:
    """In a process of its own: instrument, add the seeds to the corpus, and let libFuzzer run. Does not return."""
    import atheris

    with atheris.instrument_imports(include=list(_instrumented(name))):
        from tests.fuzz.targets import TARGETS
    for seed in TARGETS[name].seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    atheris.Setup([name, *arguments, str(corpus)], TARGETS[name].run)
    atheris.Fuzz()


def _instrumented(name: str) -> tuple[str, ...]:
    """Known before the targets are imported, because importing is when modules are instrumented."""
    own = ("gpu_render", "tests.fuzz.targets")
    return (*own, "pydicom") if name in ("header", "groups") else own


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", help="only these (default: all)")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS") or 60), help="in all")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="where inputs and findings are kept")
    options = parser.parse_args(arguments)
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    shares = {name: TARGETS[name].share for name in names}
    outcomes = []
    for name in names:
        seconds = max(1, round(options.seconds * shares[name] / sum(shares.values())))
        print(f"{name}: {seconds} s", flush=True)
        outcomes.append(fuzz(name, seconds, options.folder.resolve()))
    report(outcomes, Console())
    return 1 if any(outcome.findings for outcome in outcomes) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    raise SystemExit(main())
