"""The benchmark of series as a whole, small: real service, checked answers, a valid result file."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from benchmarks import record
from benchmarks import series as benchmark


def test_quick_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    assert benchmark.main(["--quick", "--markdown", "--results", str(tmp_path), "--plot", str(plot)]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    sizes = [size for asked in benchmark.QUICK.asked.values() for size in asked]
    assert [(one.frames, one.way) for one in run.streams] == [(size, way) for size in sizes for way in benchmark.WAYS]
    assert all(0 < one.first.median_ms <= one.total.median_ms for one in run.streams)
    assert all(one.peak_bytes > 1 << 20 for one in run.streams)
    manifests = [(one.group, one.parameters["slices"], one.summary.n > 0) for one in run.measurements]
    assert manifests == [
        ("uncompressed", 20, True),
        ("JPEG 2000", 5, True),
        ("JPEG 2000", 10, True),
        ("HTJ2K", 20, True),
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_slices_are_instances_of_their_own_in_order(tmp_path: Path) -> None:
    benchmark.write_series(tmp_path / "series", 1, count=5, distinct=2)
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "series").iterdir())]
    assert len({ds.SOPInstanceUID for ds in slices}) == 5
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [ds.ImagePositionPatient[2] for ds in slices] == [0, -1, -2, -3, -4]
    assert np.array_equal(slices[0].pixel_array, slices[2].pixel_array)
    assert not np.array_equal(slices[0].pixel_array, slices[1].pixel_array)
