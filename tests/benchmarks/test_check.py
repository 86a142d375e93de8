"""The check against a baseline, small and whole: every case is measured, stored and compared; a slower one fails."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import baseline, check, data, record
from benchmarks.harness import Answer, BenchmarkError, Client, Question
from tests.benchmarks.test_baseline import measured
from tests.benchmarks.test_record import example_run

CONSOLE = Console(width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.prepare(tmp_path_factory.mktemp("bench"), check.QUICK.slices)


def test_every_case_is_measured_and_stored(folder: Path, tmp_path: Path) -> None:
    plan = check.Plan(slices=check.QUICK.slices, starts=1, rounds=2, load_s=0.1, scanned=20)
    assert check.command(folder, plan, CONSOLE, [tmp_path], tmp_path) == 0
    run = baseline.find(record.read(next(tmp_path.glob("*.json"))).machine, [tmp_path])
    assert run is not None
    assert {len(one.samples) for one in run.measurements} == {plan.values}
    names = {one.name for one in run.measurements}
    assert {f"picture, {data.NAMES[number]}, cold" for number in check.CODECS} <= names
    assert {"scan", "window of one slice", f"stored values, {check.CLIENTS} clients"} <= names
    assert all(value > 0 for one in run.measurements for value in one.samples)


def run_of(*measurements: record.Measurement) -> record.Run:
    return example_run().model_copy(update={"cases": (), "measurements": measurements})


class Faked:
    """What ``check.run`` is replaced by: the next of some runs each time."""

    def __init__(self, *runs: record.Run) -> None:
        self.runs = iter(runs)
        self.asked: list[frozenset[str] | None] = []

    def __call__(
        self, folder: Path, plan: check.Plan, console: Console, only: frozenset[str] | None = None
    ) -> record.Run:
        self.asked.append(only)
        return next(self.runs)


QUIET = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0]
SLOWER = [value * 1.3 for value in QUIET]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(QUIET, None, 0), (SLOWER, SLOWER, 1), (SLOWER, QUIET, 0), ([0.5] * 7, None, 0)],
    ids=["the same", "slower twice", "slower once", "faster"],
)
def test_slower_twice_fails(
    first: Sequence[float],
    second: Sequence[float] | None,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    baseline.save(run_of(measured(QUIET), measured(QUIET, name="y")), tmp_path)
    runs = [run_of(measured(list(first)), measured(QUIET, name="y"))]
    runs += [run_of(measured(list(second)))] if second else []
    faked = Faked(*runs)
    monkeypatch.setattr(check, "run", faked)
    assert check.command(tmp_path, check.QUICK, Console(width=200), [tmp_path], None) == status
    assert faked.asked == [None, *([frozenset({"x"})] if second else [])]
    said = capsys.readouterr().out
    assert ("slower than the baseline" in said) == (status == 1)


def test_a_case_that_is_no_longer_measured_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline.save(run_of(measured(QUIET), measured(QUIET, name="y")), tmp_path)
    monkeypatch.setattr(check, "run", Faked(run_of(measured(QUIET))))
    assert check.command(tmp_path, check.QUICK, CONSOLE, [tmp_path], None) == 1


def test_without_a_baseline_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.command(tmp_path, check.QUICK, Console(width=300), [tmp_path], None) == 2
    assert "--save-baseline" in capsys.readouterr().out


@pytest.mark.parametrize(("timing", "read"), [("cache;dur=1", True), ("read;dur=1", False)])
def test_an_answer_in_another_state_of_the_cache_ends_the_run(timing: str, read: bool) -> None:
    class Told(Client):
        def __init__(self) -> None:
            super().__init__(0)

        def ask(self, question: Question) -> Answer:
            return Answer(1.0, {"server-timing": timing}, b"")

    with contextlib.closing(Told()) as client, pytest.raises(BenchmarkError, match="was not"):
        check.asking(client, iter([Question("/")]), read=read)()
