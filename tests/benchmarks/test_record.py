"""Statistics, the form of result files, and the machine's description."""

import getpass
import socket
from pathlib import Path

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


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        record.Run.model_validate({**example_run().model_dump(), "surprise": 1})


def test_committed_schema_is_that_of_the_code() -> None:
    """After a change: python -m benchmarks.record."""
    assert record.SCHEMA.read_text() == record.schema_text()


@pytest.mark.parametrize("path", [p for p in sorted(record.RESULTS.glob("*.json")) if p != record.SCHEMA], ids=str)
def test_committed_results_have_the_form(path: Path) -> None:
    run = record.read(path)
    assert run.cases or run.kernels or run.throughputs
    assert path.name == f"{run.date[:10]}-{run.benchmark}-{run.machine.slug}.json"


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
