"""Statistics, the form of result files, and the machine's description."""

import getpass
import socket
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks import machine, record, report


def example_run() -> record.Run:
    """A run with one slow and one fast case."""
    fast = record.summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    slow = record.summarize([100.0, 6000.0])
    cases = [
        record.Case(
            group="JPEG 2000",
            request="picture",
            state=state,
            body_bytes=262144,
            client=client,
            server_ms={"render": 0.25},
            decoder="openjpeg",
            times_ruler=client.median_ms,
        )
        for state, client in (("cold", slow), ("warm", fast))
    ]
    return record.Run(
        benchmark="slice",
        date="2024-02-29T12:00:00+00:00",
        duration_s=1.0,
        version="0",
        revision="unknown",
        backend="cpu",
        machine=machine.describe(),
        load_average=(0.0, 0.5),
        startup_s=1.5,
        ruler_ms=1.0,
        notes=("A note.",),
        cases=tuple(cases),
    )


def test_summary_of_five_durations() -> None:
    summary = record.summarize([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.n, summary.median_ms, summary.q1_ms, summary.q3_ms) == (5, 3.0, 2.0, 4.0)
    assert (summary.min_ms, summary.max_ms) == (1.0, 5.0)
    assert summary.p99_ms == pytest.approx(4.96)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_summary_is_ordered(durations: list[float]) -> None:
    s = record.summarize(durations)
    assert s.p95_ms is not None
    order = [s.min_ms, s.q1_ms, s.median_ms, s.q3_ms, s.p95_ms, s.p99_ms, s.max_ms]
    assert np.all(np.diff(order) >= -1e-9)


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no durations"):
        record.summarize([])


def test_run_survives_its_file(tmp_path: Path) -> None:
    run = example_run()
    path = record.write(run, tmp_path)
    assert path.name == f"2024-02-29-slice-{run.machine.slug}.json"
    assert record.read(path) == run


def test_another_revision_of_the_same_day_is_kept(tmp_path: Path) -> None:
    run = example_run()
    later = run.model_copy(update={"revision": "0123456789abcdef"})
    paths = [record.write(one, tmp_path) for one in (run, later, later, run)]
    assert paths[0] == paths[3]
    assert paths[1] == paths[2] != paths[0]
    assert [record.read(path).revision for path in paths[:2]] == ["unknown", "0123456789abcdef"]


def test_measurements_survive_their_file(tmp_path: Path) -> None:
    measured = record.Measurement(
        name="stored values, warm",
        unit="ms",
        group="uncompressed",
        parameters={"clients": 8, "state": "warm"},
        summary=record.spread([1.0, 2.0, 3.0]),
        throughput=400.0,
        errors={"503": 2, "timeout": 1},
        samples=(1.0, 2.0, 3.0),
    )
    ratio = record.Ratio(name="warm", of="gpu-render", to="ruler", ratio=0.8, low=0.7, high=0.9, target=0.7)
    trace = record.Trace(name="RSS", unit="bytes", at_s=(0.0, 1.0), values=(5.0, 6.0))
    also = {"measurements": (measured,), "ratios": (ratio,), "traces": (trace,), "programs": {"wrk": "4"}}
    run = example_run().model_copy(update=also)
    assert record.read(record.write(run, tmp_path)) == run
    assert measured.error_count == 3
    assert measured.summary.median == 2.0


@pytest.mark.parametrize(
    ("ratio", "better", "target", "reached"),
    [(0.8, "higher", 0.7, True), (0.6, "higher", 0.7, False), (5.5, "lower", 5.0, False), (1.0, "higher", None, None)],
)
def test_a_promise_is_held_by_the_medians(
    ratio: float, better: Literal["lower", "higher"], target: float | None, reached: bool | None
) -> None:
    made = record.Ratio(name="", of="", to="", ratio=ratio, low=0.0, high=9.0, better=better, target=target)
    assert made.reached is reached


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        record.Run.model_validate({**example_run().model_dump(), "surprise": 1})


def test_committed_schema_is_that_of_the_code() -> None:
    """After a change: python -m benchmarks.record."""
    assert record.SCHEMA.read_text() == record.schema_text()


@pytest.mark.parametrize("path", [p for p in sorted(record.RESULTS.glob("*.json")) if p != record.SCHEMA], ids=str)
def test_committed_results_have_the_form(path: Path) -> None:
    run = record.read(path)
    assert any(getattr(run, name) for name in record.FIGURES)
    assert path.stem in (record.file_stem(run), f"{record.file_stem(run)}-{run.revision[:9]}")


def test_machine_is_described_without_naming_it() -> None:
    described = machine.describe()
    assert described.cores >= 1
    assert described.memory_bytes > 2**20
    assert described.libraries["numpy"] == np.__version__
    text = described.model_dump_json()
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() not in text.split('"')


def test_slug_is_a_file_name() -> None:
    base = machine.describe().model_dump()
    named = record.Machine.model_validate({**base, "cpu": "Intel(R) Xeon(R) @ 2.00GHz", "cores": 8, "gpus": ()})
    assert named.slug == "intel-r-xeon-r-2-00ghz-8-cores-no-gpu"
    gpu = {"name": "NVIDIA L4", "memory_bytes": 1, "driver": "1"}
    assert record.Machine.model_validate({**base, "cpu": "x", "cores": 2, "gpus": (gpu,)}).slug == "x-2-cores-nvidia-l4"


def test_table_has_a_row_for_each_case() -> None:
    run = example_run()
    assert len(report.rich_table(run).rows) == len(run.cases)
    assert report.rows(run)[0] == (
        "JPEG 2000", "picture", "cold", "3050", "1575 - 4525", "5941", "2", "3050.0", "1"
    )  # fmt: skip
    assert report.rows(run)[1][3:6] == ("3.00", "2.00 - 4.00", "4.96")


def test_markdown_has_a_row_for_each_transfer_syntax() -> None:
    run = example_run()
    cold, warm = run.cases
    also = [case.model_copy(update={"group": "RLE"}) for case in run.cases]
    ruler = warm.model_copy(update={"group": "ruler", "request": "copy", "state": ""})
    text = report.markdown(run.model_copy(update={"cases": (ruler, cold, warm, *also)}))
    assert text.splitlines()[:4] == [
        "| median (p99) in ms | picture, cold | picture, warm |",
        "| --- | --: | --: |",
        "| JPEG 2000 | 3050 (5941) | 3.00 (4.96) |",
        "| RLE | 3050 (5941) | 3.00 (4.96) |",
    ]
    assert text.splitlines()[-1].startswith("ruler: copy 3.00 (4.96); ")
    assert text.endswith("A note.\n")


def test_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "images" / "plot.png"
    report.plot(example_run(), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
