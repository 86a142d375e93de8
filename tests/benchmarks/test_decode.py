"""Decoding beside the codec alone, small: right samples, all ways, ratios the right way round."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decode, record, sizes_data
from benchmarks.harness import BenchmarkError
from gpu_render.decode import DECODERS
from gpu_render.workers import WorkerPool

SMALL = decode.Plan(rounds=2, kinds=3, side=64)


def test_small_run_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode, "BATCH_S", 0.001)
    monkeypatch.setattr(decode, "keep_freed_memory", lambda: None)
    small = [replace(kind, rows=80, columns=96) for kind in sizes_data.KINDS]
    monkeypatch.setattr(sizes_data, "KINDS", small)
    plot = tmp_path / "plot.png"
    assert decode.main(["--results", str(tmp_path), "--plot", str(plot), "--markdown"], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    groups = {one.group for one in run.measurements}
    assert {"CT 512x512, RLE", "CR 96x80, JPEG-LS", "colour cine 96x80, JPEG baseline"} <= groups
    assert len(groups) == 5 + 5 + 5 + 4
    assert len(run.measurements) == 4 * len(groups)
    assert {one.who for one in run.measurements} == {decode.ALONE, decode.SERVICE}
    assert all(one.summary.median > 0 for one in run.measurements)
    assert len(run.ratios) == 2 * len(groups)
    assert {one.target for one in run.ratios} == {decode.PROMISED}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert decode.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_above_one_is_faster_both_ways() -> None:
    stored = next(decode.ct_slices())
    values = {
        (decode.ALONE, decode.ONE): [2.0],
        (decode.SERVICE, decode.ONE): [4.0],  # ms: half as fast
        (decode.ALONE, decode.ALL): [100.0],
        (decode.SERVICE, decode.ALL): [80.0],  # frames/s
    }
    works = [decode.Work(stored, who, at_once, id, values=found) for (who, at_once), found in values.items()]
    assert [one.ratio for one in decode.ratios_of(works)] == [0.5, 0.8]


def test_other_samples_are_not_timed() -> None:
    stored = next(decode.ct_slices())
    wrong = replace(stored, samples=[np.zeros_like(one) for one in stored.samples or ()])
    with WorkerPool(1) as pool, pytest.raises(BenchmarkError, match="not those that were encoded"):
        decode.works_of(wrong, pool, 1)


def test_every_codec_of_the_files_has_one_beside_it() -> None:
    syntaxes = {str(syntax.uid) for kind in sizes_data.KINDS for syntax in kind.syntaxes if syntax.encode}
    assert {DECODERS[uid].codec for uid in syntaxes} <= set(decode.CODECS)
