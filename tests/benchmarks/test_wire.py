"""Bodies for slow lines, small: sizes and times of all forms, and slices over real lines where those can be made."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record
from benchmarks import wire as benchmark
from benchmarks.harness import Answer, BenchmarkError

SMALL = benchmark.Plan(pictures=1, rounds=1, mbit_s=(50, 0), line_rounds=1, slices=3)


def test_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    assert benchmark.main(["--results", str(tmp_path), "--plot", str(plot), "--markdown"], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    out = capsys.readouterr().out
    kinds = (benchmark.CT, benchmark.PICTURE, benchmark.RADIOGRAPH, benchmark.CINE)
    sizes = {(one.group, one.parameters["form"]): one for one in run.measurements if one.unit == "of plain"}
    assert set(sizes) == {(kind, form) for kind in kinds for form in benchmark.FORMS}
    assert all(0 < one.summary.median < 1 for one in sizes.values())
    for kind in (benchmark.CT, benchmark.RADIOGRAPH):
        assert sizes[kind, "zstd, filtered"].summary.median < 0.8 * sizes[kind, "zstd"].summary.median
    assert len(benchmark.body_rows(run)) == len(sizes)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert benchmark.markdown(run).splitlines()[2] in out
    if benchmark.LINE_NOTE not in run.notes:
        assert any("No lines" in note for note in run.notes)
        pytest.skip("a network namespace with a token bucket cannot be made here")
    lines = {
        (one.parameters["Mbit/s"], one.parameters["way"]): one for one in run.measurements if "way" in one.parameters
    }
    assert set(lines) == {(mbit_s, way.name) for mbit_s in SMALL.mbit_s for way in benchmark.WAYS}
    for (_, name), one in lines.items():
        coded = {benchmark.AS_IT_IS: 0, benchmark.AUTO: one.parameters["coded answers"]}.get(str(name), SMALL.slices)
        assert one.parameters["coded answers"] == coded
    least_ms = 8e-3 * (2 * 512 * 512 - 64 * 1024) / 50  # the bucket is full at first
    assert lines[50, benchmark.AS_IT_IS].summary.median > least_ms
    assert lines[50, benchmark.AUTO].parameters["coded answers"] in (1, 2), "the first one is the measurement"
    # A machine that is busy for a moment is a slow line; api/test_encoding.py has the rule itself, without a clock.
    assert lines[0, benchmark.AUTO].parameters["coded answers"] in range(SMALL.slices)
    assert {one.of for one in run.ratios} == {benchmark.AS_IT_IS}


def test_without_a_namespace_there_are_no_lines_and_a_note_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 1, "", "unshare: unshare failed: Operation not permitted\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    results, note = benchmark.over_lines(tmp_path, SMALL)
    assert results == []
    assert "Operation not permitted" in note

    def missing(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        raise FileNotFoundError("unshare")

    monkeypatch.setattr(subprocess, "run", missing)
    assert benchmark.over_lines(tmp_path, SMALL)[0] == []


def test_samples_are_undone_as_the_answer_says_and_nothing_else_is() -> None:
    pixels = np.arange(12, dtype="<i2").reshape(3, 4)
    about = {"x-array-shape": "3,4", "x-array-dtype": "<i2"}

    def answer(body: bytes, **headers: str) -> Answer:
        return Answer(1.0, about | {name.replace("_", "-"): value for name, value in headers.items()}, body)

    plain = answer(pixels.tobytes(), content_type=benchmark.OCTETS)
    assert np.array_equal(benchmark.samples_of(plain), pixels)
    for coding, filtered in benchmark.FORMS.values():
        media = benchmark.PLANES if filtered else benchmark.OCTETS
        coded = answer(benchmark.encode(pixels, coding, filtered), content_type=media, content_encoding=coding)
        assert np.array_equal(benchmark.samples_of(coded), pixels)
    for wrong in (
        answer(b"", content_type="text/html"),
        answer(b"", content_type=benchmark.OCTETS, content_encoding="br"),
        answer(pixels.tobytes(), content_type=benchmark.PLANES),
    ):
        with pytest.raises(BenchmarkError):
            benchmark.samples_of(wrong)
