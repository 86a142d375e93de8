"""The benchmark of metadata, small: real files, real service, checked answers, a valid result file."""

from pathlib import Path

import pydicom
import pytest

from benchmarks import metadata as benchmark
from benchmarks import metadata_data as data
from benchmarks import record
from benchmarks.harness import Answer, BenchmarkError


def test_quick_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(tmp_path / "data"), "--results", str(tmp_path)]
    assert benchmark.main(["--quick", "--markdown", *where]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    cases = {(case.group, case.request, case.state): case for case in run.cases}
    for instances in benchmark.QUICK.large.values():
        group = f"{instances} instances"
        for form in benchmark.FORMS:
            assert cases[group, f"metadata, {form}", "cold"].client.n == benchmark.QUICK.starts
            assert cases[group, f"metadata, {form}", "warm"].client.n == 4
        packed, plain = (cases[group, f"metadata, {form}", "warm"].body_bytes for form in ("gzip", "identity"))
        assert 0 < packed < plain / 10
        assert cases[group, "metadata, 304", "warm"].body_bytes == 0
    assert cases["4 series, 80 instances", "one of them, gzip", "warm"].client.n == 16
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_the_files_are_series_of_one_scanner(tmp_path: Path) -> None:
    done = []
    folder = data.prepare(tmp_path, {1: 3}, {1: 1, 2: 1}, lambda: done.append(1))
    assert len(done) == 5
    slices = [pydicom.dcmread(path) for path in sorted((folder / "large-1").iterdir())]
    assert len({ds.SOPInstanceUID for ds in slices}) == 3
    assert len({(ds.StudyInstanceUID, ds.SeriesInstanceUID) for ds in slices}) == 1
    assert [ds.InstanceNumber for ds in slices] == [1, 2, 3]
    assert slices[1].ImagePositionPatient[2] - slices[0].ImagePositionPatient[2] == pytest.approx(0.625)
    assert data.prepare(tmp_path, {1: 3}, {1: 1, 2: 1}, lambda: done.append(1)) == folder
    assert len(done) == 5  # made once


def test_a_list_that_is_short_is_not_timed() -> None:
    body = b'[{"00080018":{"vr":"UI","Value":["1.2"]}},{"00080018":{"vr":"UI","Value":["1.2"]}}]'
    with pytest.raises(BenchmarkError, match="instead of 2"):
        benchmark.check(Answer(1.0, {}, body), 2)
