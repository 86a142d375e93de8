"""The benchmark of starts, small: real services, a valid result file, and a limit that is compared with."""

from pathlib import Path

import pytest

from benchmarks import record
from benchmarks import startup as benchmark
from benchmarks.startup import COLD, PSS, READY, RSS, SCANNED, WARM, Plan, label


def test_quick_run_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "QUICK", Plan((0, 40), 1, 3))
    picture = tmp_path / "plot.png"
    assert benchmark.main(["--quick", "--markdown", "--results", str(tmp_path), "--plot", str(picture)]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    found = {(one.group, one.name): one for one in run.measurements}
    groups = (label(0), label(40), SCANNED)
    times = {(group, f"{READY}, {state}") for group in groups[:2] for state in (WARM, COLD)}
    memory = {(group, name) for group in groups for name in (PSS, RSS)}
    assert set(found) == {*times, *memory, (SCANNED, f"{READY}, {WARM}")}
    assert all(one.summary.min > 0 for one in run.measurements)
    assert all(found[group, PSS].parameters["processes"] in range(2, 8) for group in groups)
    assert {one.to for one in run.ratios} == {"3 s", "250 MB"}
    assert run.startup_s > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_what_is_forgotten_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    benchmark.forget([tmp_path, tmp_path / "a", tmp_path / "none"])
    assert (tmp_path / "a").read_bytes() == b"x" * 10_000
    assert any(path.name == "cli.py" for path in benchmark.modules())
