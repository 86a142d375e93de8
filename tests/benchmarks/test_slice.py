"""The whole benchmark, small: real service, real HTTP, checked answers, a valid result file."""

import itertools
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from benchmarks import data, record, report
from benchmarks import slice as benchmark
from benchmarks.harness import Answer, BenchmarkError, Client, Question, Series
from gpu_render import phantom
from gpu_render.demo import PhantomSeries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.prepare(tmp_path_factory.mktemp("bench"), slices=10)


@pytest.mark.parametrize("series", data.SERIES, ids=lambda s: s.folder)
def test_every_series_holds_the_same_voxels(folder: Path, series: PhantomSeries) -> None:
    path = sorted((folder / series.folder).iterdir())[0]
    assert np.array_equal(pydicom.dcmread(path).pixel_array, phantom.stored_slice(int(path.stem) - 1))


def test_jpeg_lossless_is_first_order_prediction() -> None:
    """What 1.2.840.10008.1.2.4.70 asks for (PS3.5 A.4.3): process 14, selection value 1, no point transform."""
    stream = data.SERIES[4].encode
    assert stream is not None
    code = stream(phantom.stored_slice(150))
    scan = code.index(b"\xff\xda")
    components = code[scan + 4]
    predictor, _, transform = code[scan + 5 + 2 * components : scan + 8 + 2 * components]
    assert b"\xff\xc3" in code[:scan]
    assert (predictor, transform & 0x0F) == (1, 0)
    assert imagecodecs.jpeg8_decode(code).dtype == np.uint16


def test_quick_run_end_to_end(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    where = ["--data", str(folder.parent), "--results", str(tmp_path), "--plot", str(plot)]
    assert benchmark.main(["--quick", "--slices", "10", "--markdown", *where]) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    assert run.backend in ("cpu", "cuda")
    assert run.cases[0].group == "ruler"
    assert {case.group for case in run.cases} == {"ruler", *data.NAMES.values()}
    colds = [case for case in run.cases if case.state == "cold"]
    assert len(colds) == 2 * len(data.SERIES)
    assert {case.client.n for case in colds} == {benchmark.QUICK.rounds}
    assert {case.body_bytes for case in run.cases if case.request == "stored values"} == {2 * benchmark.PIXELS}
    assert {case.body_bytes for case in run.cases if case.request.startswith("picture")} == {benchmark.PIXELS}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert report.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_no_frame_is_cold_twice_and_none_is_both_cold_and_warm() -> None:
    urls = [f"/frames/{n}" for n in range(benchmark.FULL.slices)]
    client = Client(0)
    asked: dict[str, list[str]] = {"cold": [], "warm": []}
    for case in benchmark.syntax_cases(client, "x", urls, benchmark.FULL):
        wanted = case.per_round * benchmark.FULL.rounds
        questions = list(itertools.islice(case.questions, wanted))
        assert len(questions) == wanted
        asked[case.state] += [question.url.partition("?")[0] for question in questions]
    assert len(asked["cold"]) == len(set(asked["cold"])) == 200
    assert not set(asked["cold"]) & set(asked["warm"])


def test_every_new_window_is_new() -> None:
    drag: list[Question] = list(itertools.islice(benchmark.window_drag(["/a", "/b"]), 200))
    assert len({question.url for question in drag}) == 200


@pytest.mark.parametrize(("state", "timing"), [("cold", "render;dur=1"), ("warm", "read;dur=1")])
def test_answer_in_another_state_of_the_cache_does_not_count(state: str, timing: str) -> None:
    case = Series("x", "picture", state, Client(0), iter(()), 1, [Answer(1.0, {"server-timing": timing}, b"")])
    with pytest.raises(BenchmarkError, match=f"not {state}"):
        benchmark.check_state(case)


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(SystemExit, match="--slices"):
        benchmark.main(["--slices", "12"])
