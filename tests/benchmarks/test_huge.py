"""Huge objects, made small: real files, real service, checked frames, a valid result file."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from benchmarks import huge, huge_objects, record, report
from benchmarks.huge_objects import OBJECTS, HugeObject


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: one.file_name)
def test_objects_are_what_pydicom_reads(one: HugeObject, tmp_path: Path) -> None:
    path, done = tmp_path / one.file_name, list[int]()
    huge_objects.write(one, path, 1000, done.append)
    assert sum(done) == 1000 * (1 if one.groups is None else 2)
    asked = {number for some in huge_objects.asked_frames(1000) for number in some}
    assert {1, 500, 950, 1000} <= asked
    ds = pydicom.dcmread(path)
    assert ds.NumberOfFrames == 1000
    if one.groups is not None:
        assert len(ds.PerFrameFunctionalGroupsSequence) == 1000
    if not one.syntax.is_encapsulated:
        pixels = ds.pixel_array
        for number in asked:
            assert np.array_equal(pixels[number - 1], huge_objects.stored_frame(one, number))


def test_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["RLE, no offset table", "enhanced CT, undefined lengths", "slide, TILED_SPARSE"]
    wanted = [argument for name in names for argument in ("--object", name)]
    where = ["--data", str(tmp_path), "--results", str(tmp_path)]
    assert huge.main(["--quick", "--frames", "1000", "--markdown", *where, *wanted]) == 0
    assert not list(tmp_path.glob("huge-*")), "the files are left behind"
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    assert [one.name for one in run.objects] == names
    for one in run.objects:
        assert [read.frame_number for read in one.reads] == [1, 500, 950, 1000]
        assert {read.file_reads for read in one.reads} == {1}
        assert one.index.n == huge.QUICK.runs
        assert one.worker_peak_bytes > 2**20
    assert {(case.request, case.state) for case in run.cases if case.group == names[0]} == {
        ("frame 1", "cold"), ("frame 1", "warm"), ("frame 950", "cold"), ("frame 950", "warm")
    }  # fmt: skip
    assert report.object_markdown(run).splitlines()[2] in capsys.readouterr().out
    assert len(report.object_table(run).rows) == len(names)
