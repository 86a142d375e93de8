"""A real regression fails, noise does not, an improvement passes: over made-up samples of many kinds of noise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import baseline, record
from benchmarks.baseline import Verdict
from tests.benchmarks.test_record import example_run

Samples = Callable[[np.random.Generator], list[float]]
ROUNDS = 21


def floats(values: npt.NDArray[np.float64]) -> list[float]:
    return [float(value) for value in values]


def quiet(random: np.random.Generator) -> list[float]:
    return floats(2.0 * np.exp(random.normal(0, 0.04, ROUNDS)))


def noisy(random: np.random.Generator) -> list[float]:
    return floats(2.0 * np.exp(random.normal(0, 0.15, ROUNDS)))


def one_disturbed_round(random: np.random.Generator) -> list[float]:
    return [*quiet(random)[1:], 40.0]


def heavy_tails(random: np.random.Generator) -> list[float]:
    """One of five rounds is up to several times slower."""
    slow = np.where(random.random(ROUNDS) < 0.2, 1 + random.pareto(1.1, ROUNDS), 1.0)
    return floats(np.asarray(quiet(random)) * slow)


def in_blocks(random: np.random.Generator) -> list[float]:
    """Each start of the servers is a few percent faster or slower than the last."""
    return floats(np.repeat(np.exp(random.normal(0, 0.04, 3)), ROUNDS // 3) * quiet(random))


NOISE = [quiet, noisy, one_disturbed_round, heavy_tails, in_blocks]


def measured(samples: list[float], **more: object) -> record.Measurement:
    fields = {"name": "x", "unit": "ratio", "group": "ruler", "summary": record.spread(samples), "samples": samples}
    return record.Measurement.model_validate({**fields, **more})


def verdicts(kind: Samples, factor: float, seeds: int = 60) -> list[Verdict]:
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        before, now = kind(random), [value * factor for value in kind(random)]
        (judged,) = baseline.judge([measured(now)], [measured(before)])
        found.append(judged.verdict)
    return found


@pytest.mark.parametrize("kind", NOISE, ids=lambda kind: kind.__name__)
def test_noise_is_no_regression(kind: Samples) -> None:
    assert Verdict.SLOWER not in verdicts(kind, 1.0)


@pytest.mark.parametrize("kind", [quiet, one_disturbed_round, heavy_tails], ids=lambda kind: kind.__name__)
def test_thirty_percent_slower_fails(kind: Samples) -> None:
    found = verdicts(kind, 1.3)
    assert found.count(Verdict.SLOWER) >= len(found) * 0.9


def test_twice_as_slow_fails_even_where_all_is_noisy() -> None:
    found = verdicts(noisy, 2.0)
    assert found.count(Verdict.SLOWER) >= len(found) * 0.95


@pytest.mark.parametrize("kind", NOISE, ids=lambda kind: kind.__name__)
def test_an_improvement_passes(kind: Samples) -> None:
    assert not set(verdicts(kind, 0.6)) & set(baseline.FAILING)
    assert Verdict.FASTER in verdicts(kind, 0.6)


def test_a_few_percent_are_within_the_tolerance() -> None:
    assert set(verdicts(quiet, 1.05)) == {Verdict.SAME}


def test_a_yardstick_that_was_not_measured_in_turn_is_another_figure() -> None:
    """What was compared with wrk and what with clients in Python, or a case of another name."""
    now, stored = measured([1.0] * 9, group="ruler, wrk"), measured([1.0] * 9, group="ruler, asyncio")
    assert [one.verdict for one in baseline.judge([now], [stored])] == [Verdict.NEW, Verdict.MISSING]


def test_what_the_baseline_has_must_be_measured() -> None:
    """A case that is dropped fails: it would be the easiest way to pass."""
    assert Verdict.MISSING in baseline.FAILING
    assert Verdict.NEW not in baseline.FAILING


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        baseline.judge([measured([1.0] * 4)], [measured([1.0] * 9)])


def test_a_measurement_names_its_own_tolerance() -> None:
    now = measured([1.2] * 9, parameters={"tolerance": 0.25})
    assert [one.verdict for one in baseline.judge([now], [measured([1.0] * 9)])] == [Verdict.SAME]


def test_a_baseline_is_chosen_by_the_kind_of_machine(tmp_path: Path) -> None:
    run = example_run()
    other = run.machine.model_copy(update={"cpu": "another processor"})
    path = baseline.save(run, tmp_path / "own")
    assert path.name == f"{run.machine.slug}.json"
    assert baseline.find(run.machine, [tmp_path / "none", tmp_path / "own"]) == run
    assert baseline.find(other, [tmp_path / "own"]) is None


def test_what_changed_on_the_machine_is_named() -> None:
    before = example_run().machine
    after = before.model_copy(update={"python": "CPython 9", "libraries": {**before.libraries, "numpy": "9"}})
    numpy = before.libraries["numpy"]
    assert baseline.differences(after, before) == [f"Python {before.python} -> CPython 9", f"numpy {numpy} -> 9"]


def test_committed_baselines_have_the_form() -> None:
    for path in (record.RESULTS.parent / "baseline").glob("*.json"):
        run = record.read(path)
        assert path == baseline.path_of(run.machine, path.parent)
        assert all(len(one.samples) >= baseline.LEAST_ROUNDS for one in run.measurements)
