"""Frames of other sizes: as hard to compress as real ones, the same in all syntaxes, and cold really cold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from benchmarks import record, report, ruler, sizes, sizes_data
from benchmarks.harness import RULER, Answer, BenchmarkError, Client, Question, serving
from benchmarks.sizes_data import KINDS, Kind

SMALL = tuple(replace(kind, rows=kind.rows // 16, columns=kind.columns // 16) for kind in KINDS)
BITS_A_SAMPLE = {"CR": (4.5, 6.0), "mammography": (2.2, 4.0), "colour cine": (1.0, 3.5)}
"""What JPEG 2000 without loss leaves of such pictures, of 12 bits of grey and of 8 of each colour."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_samples_are_as_hard_to_compress_as_real_ones(kind: Kind) -> None:
    samples = kind.make(1024, 1024, 1)
    encode = next(one.encode for one in kind.syntaxes if one.name == "JPEG 2000")
    assert encode is not None
    low, high = BITS_A_SAMPLE[kind.name]
    assert low < 8 * len(encode(samples)) / samples.size < high
    assert len(np.unique(samples)) > 200


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.name)
def test_files_hold_the_same_samples_in_every_syntax(kind: Kind, tmp_path: Path) -> None:
    folder = sizes_data.prepare(tmp_path, [kind], 3, lambda: None)[kind.name]
    assert len({*folder.rglob("*.dcm")}) == len(kind.syntaxes) * (1 if kind.cine else 3)
    for number, syntax in enumerate(kind.syntaxes, 1):
        (series,) = folder.glob(f"*/{number}-*")
        ds = pydicom.dcmread(sorted(series.iterdir())[0])
        assert ds.file_meta.TransferSyntaxUID == syntax.uid
        pixels = ds.pixel_array[0] if kind.cine else ds.pixel_array
        if not syntax.lossy:
            assert np.array_equal(pixels, sizes_data.samples_of(kind, 0))
    assert sizes_data.prepare(tmp_path, [kind], 3, lambda: None)[kind.name] == folder


def test_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    where = ["--data", str(tmp_path / "data"), "--results", str(tmp_path), "--plot", str(plot), "--markdown"]
    plan = sizes.Plan(rounds=2, cold=1, often=2)
    assert sizes.main(where, plan, SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    groups = {f"{kind.label}, {syntax.name}" for kind in SMALL for syntax in kind.syntaxes}
    assert {case.group for case in run.cases} == {"ruler", *groups}
    colds = [case for case in run.cases if case.state == "cold"]
    assert len(colds) == 2 * len(groups)
    assert {case.client.n for case in colds} == {plan.rounds * plan.cold}
    assert {case.client.n for case in run.cases if case.state == "warm"} == {plan.rounds * plan.often}
    sizes_of = {case.body_bytes for case in run.cases if case.group == "ruler"}
    assert {case.body_bytes for case in run.cases} == sizes_of
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert report.title(run) != report.title(run.model_copy(update={"benchmark": "slice"}))
    assert report.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_no_frame_is_cold_twice_and_none_is_both_cold_and_warm() -> None:
    kind, plan = KINDS[0], sizes.FULL
    urls = {1: [f"/frames/{place}" for place in range(plan.frames)]}
    asked: dict[str, list[str]] = {"cold": [], "warm": [], "": []}
    for case in sizes.cases_of(Client(0), Client(0), kind, urls, plan):
        for _ in range(case.per_round):
            asked[case.state].append(next(case.questions).url.partition("?")[0])
    assert len(asked["cold"]) == len(set(asked["cold"])) == 2 * plan.cold
    assert set(asked["warm"]) == {f"/frames/{sizes.SPARE}"}
    assert not set(asked["cold"]) & {"/frames/0", *asked["warm"]}


def test_series_that_do_not_agree_are_not_timed() -> None:
    class Told(Client):
        def __init__(self) -> None:
            super().__init__(0)

        def ask(self, question: Question) -> Answer:
            return Answer(1.0, {"x-render-backend": "cpu"}, question.url.encode())

    urls = {number: [f"/{number}/{place}" for place in range(3)] for number in (1, 2)}
    with pytest.raises(BenchmarkError, match="do not answer the same"):
        sizes.warm_up(Told(), KINDS[0], urls)


def test_the_ruler_answers_as_many_bytes_as_asked_for() -> None:
    with serving(RULER, "/") as server:
        client = Client(server.port)
        for path, count in (("/", len(ruler.BODY)), ("/1000", 1000), ("/9000000", 9_000_000), ("/x", len(ruler.BODY))):
            assert len(client.ask(Question(path, body_bytes=count)).body) == count
        client.close()
