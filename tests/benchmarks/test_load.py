"""The benchmark of a service under load, small: a person beside prefetches, 503s, a valid result file."""

from pathlib import Path

import pytest

from benchmarks import data, record
from benchmarks import load as benchmark
from benchmarks.harness import BenchmarkError


def test_quick_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    where = ["--data", str(tmp_path / "data"), "--results", str(tmp_path), "--plot", str(plot)]
    assert benchmark.main(["--quick", "--slices", "10", "--markdown", *where]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    assert [one.group for one in run.besides] == [data.NAMES[number] for number in benchmark.NUMBERS]
    plan = benchmark.QUICK
    assert {summary.n for one in run.besides for summary in (one.alone, one.beside)} == {plan.rounds * plan.per_turn}
    # Half of them were in line when a turn began, or there would be no result. The last turn's are all held and may end
    # before its five requests do; those of the first have to be decoded.
    assert all(0 <= one.others_waiting <= plan.prefetches for one in run.besides)
    assert max(one.others_waiting for one in run.besides) > 0
    assert [0 < one.answer.n <= plan.refusals for one in run.refusals] == [True, True]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_percent_is_by_how_much_the_others_raise_the_95th() -> None:
    alone, beside = record.summarize([10.0] * 20), record.summarize([10.0] * 10 + [12.0] * 10)
    one = record.Beside(group="", request="", others="", others_waiting=1, alone=alone, beside=beside)
    assert one.p95_percent == pytest.approx(20)


def test_more_connections_than_this_user_may_open_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="ulimit -n"):
        benchmark.allow_connections(1 << 40)
