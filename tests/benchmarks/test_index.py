"""The benchmark of the index measures what it says, in both databases, and does not time wrong answers."""

import contextlib
from pathlib import Path

import pydicom
import pytest
from rich.progress import Progress

from benchmarks import index as benchmark
from benchmarks import index_data, record
from benchmarks.harness import BenchmarkError
from benchmarks.index import ROOT, Found, Plan
from gpu_render.archive.index import FileKey, Index
from tests.postgres import Postgres

TINY = Plan((300, 700), 5, 6, 1, (20,))


def test_a_run_over_both_databases(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    url = f"postgresql://postgres@/postgres?host={postgres.folder}"
    assert benchmark.main(["--quick", "--url", url, "--results", str(tmp_path), "--markdown"]) == 0
    (path,) = tmp_path.glob("*-index-*.json")
    run = record.read(path)
    groups = {case.group for case in run.cases}
    assert groups == {f"{name}, {size} instances" for name in ("SQLite", "PostgreSQL") for size in (300, 700)}
    assert {case.request for case in run.cases} == set(benchmark.QUESTIONS)
    assert [(rate.group, rate.what, rate.count) for rate in run.rates] == [
        ("SQLite", "filling from 0 to 300", 300),
        ("SQLite", "filling from 300 to 700", 400),
        ("PostgreSQL", "filling from 0 to 300", 300),
        ("PostgreSQL", "filling from 300 to 700", 400),
        ("scan, 2 workers", "new files", 6),
        ("pydicom, 1 process", "new files", 6),
        ("pydicom's to_json, 1 process", "new files", 6),
        ("scan, SQLite", "unchanged files", 20),
        ("scan, PostgreSQL", "unchanged files", 20),
    ]
    assert all(rate.per_s > 0 for rate in run.rates)
    assert len(benchmark.markdown(benchmark.case_rows(run)).splitlines()) == len(benchmark.QUESTIONS) + 2
    postgres.execute(f"CREATE SCHEMA {benchmark.SCHEMA}", f"DROP SCHEMA {benchmark.SCHEMA}")  # it has gone


def test_answers_that_are_wrong_are_not_timed() -> None:
    with contextlib.closing(Index(None)) as index, Progress(disable=True) as bar:
        benchmark.measure_index(index, "SQLite", TINY, Found([], []), lambda: 0, bar)
        last = index_data.frame_of(699)
        key = index.holder(last.sop_instance_uid)
        assert key is not None
        index.remove([FileKey(ROOT, key.path)])
        for name in ("data sets of a series", "search: instances of a series"):
            with pytest.raises(BenchmarkError):
                benchmark.QUESTIONS[name](index, 699)
        index.set_roots([])
        for name in ("search: latest studies", "search: name, fuzzy", "search: one day"):
            with pytest.raises(BenchmarkError):
                benchmark.QUESTIONS[name](index, 0)


def test_files_are_instances_of_their_own(tmp_path: Path) -> None:
    slices = [pydicom.dcmread(path) for path in index_data.write_files(tmp_path, 101)]
    assert len({ds.SOPInstanceUID for ds in slices}) == 101
    assert [ds.InstanceNumber for ds in slices] == [*range(1, 101), 1]
    assert len({ds.SeriesInstanceUID for ds in slices}) == 2
    assert len({tuple(ds.ImagePositionPatient) for ds in slices}) == 100
    original = pydicom.dcmread(index_data.ct())
    assert all(ds.PixelData == original.PixelData and len(ds) == len(original) for ds in slices)
