"""The conformance run as a test: nothing differs from the independent readers without a reason."""

import os
import shutil

import pytest

from tests.conformance.compare import Row, Verdict
from tests.conformance.deviations import DEVIATIONS
from tests.conformance.run import Run, run
from tests.conformance.samples import CORPUS, corpus_samples
from tests.conformance.table import totals
from tests.gpu import open_gpu

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def result() -> Run:
    if shutil.which("dcm2pnm") is None:
        assert "CI" not in os.environ, "CI needs DCMTK: apt-get install dcmtk"
        pytest.skip("DCMTK is not installed (apt-get install dcmtk)")
    return run(lambda _done, _total: None)


@pytest.fixture(scope="module")
def rows(result: Run) -> list[Row]:
    return result.rows


def test_nothing_differs_without_a_reason(rows: list[Row]) -> None:
    different = [
        (row.sample.name, row.error, [c for c in row.comparisons if c.verdict is Verdict.DIFFERENT])
        for row in rows
        if row.unexplained
    ]
    assert different == []


def test_every_backend_gives_the_same_bytes_for_every_file(rows: list[Row]) -> None:
    assert sum(row.renderings for row in rows) > 1000
    assert [row.sample.name for row in rows if row.unlike] == []


@pytest.mark.gpu
def test_a_gpu_was_one_of_the_backends(request: pytest.FixtureRequest) -> None:
    open_gpu().close()  # or skips, before anything is compared
    result: Run = request.getfixturevalue("result")
    assert "cuda" in result.backends
    assert [row.sample.name for row in result.rows if row.unlike or row.unexplained] == []


def test_every_picture_was_checked_by_somebody(result: Run) -> None:
    assert set(totals(result).unchecked) <= {"derived/ybr_partial_422 (stored)"}  # GDCM dies on it, the others refuse


def test_no_file_was_left_out(rows: list[Row]) -> None:
    assert len([row for row in rows if row.sample.group == "pydicom"]) == 105
    assert len([row for row in rows if row.sample.group == "derived"]) > 45
    if not CORPUS.is_dir():
        pytest.skip("the folder of real DICOM files is absent (GPU_RENDER_CORPUS)")
    assert len([row for row in rows if row.sample.group == "corpus"]) == len(corpus_samples()) > 100


def test_every_deviation_is_still_there(rows: list[Row]) -> None:
    """A reader that has been mended, or a file that is no longer read, takes its row with it."""
    if not CORPUS.is_dir():
        pytest.skip("the folder of real DICOM files is absent (GPU_RENDER_CORPUS)")
    assert [deviation for deviation in DEVIATIONS if not deviation.used] == []
