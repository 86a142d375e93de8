"""The benchmark of re-encoded copies, small: real services, answers that are the same, a valid result file."""

from pathlib import Path

import pytest

from benchmarks import record
from benchmarks import reencode as benchmark
from benchmarks.reencode import AS_STORED, CT, FROM_COPY, Plan


def test_quick_run_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MAMMOGRAM_PIXELS", (800, 640))
    monkeypatch.setattr(benchmark, "QUICK", Plan(slices=3, mammograms=1, rounds=1))
    assert benchmark.main(["--quick", "--markdown", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    names = {one.name for one in run.measurements if one.group == CT}
    assert {f"picture, cold, {who}" for who in (AS_STORED, FROM_COPY)} < names
    assert all(one.summary.min > 0 for one in run.measurements)
    assert {one.summary.n for one in run.measurements if one.group == CT and one.unit == "ms"} == {3}
    assert len(run.ratios) == 6
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out
