"""Many clients, small: warm is warm and cold is cold, every number of clients is there, promises are compared."""

from pathlib import Path

import pytest

from benchmarks import concurrency as benchmark
from benchmarks import record
from benchmarks.clients import Load
from benchmarks.harness import Answer, BenchmarkError, Client, Question

SMALL = benchmark.Plan((1, 8), rounds=1, seconds=0.2, native=4, compressed=12, distinct=2, by="asyncio")


def test_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    assert benchmark.main(["--results", str(tmp_path), "--plot", str(plot), "--markdown"], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    names = (benchmark.RULED, benchmark.STORED, benchmark.PICTURE, benchmark.DECODED)
    kinds = {(one.name, one.parameters["clients"]) for one in run.measurements}
    assert kinds == {(f"{n}: {kind}", c) for n in names for kind in ("throughput", "latency") for c in SMALL.clients}
    assert all(one.summary.median > 0 for one in run.measurements)
    assert all(not one.errors for one in run.measurements)
    promised = {one.name: one.target for one in run.ratios}
    assert promised["stored values, warm: throughput, 8 clients"] == benchmark.OF_THE_RULER
    assert promised["stored values, warm: tail, 8 clients"] == benchmark.TAIL
    assert run.ruler_ms > 0
    assert "load generator" in run.programs
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert benchmark.markdown(run).splitlines()[2] in capsys.readouterr().out
    assert len(benchmark.rows(run)) == len(names) * len(SMALL.clients)


class Told(Client):
    """Answers with a header that says what the service did."""

    def __init__(self, timing: str, decoder: str = "openjpeg") -> None:
        super().__init__(0)
        self.headers = {"server-timing": timing, "x-decode-backend": decoder, "x-render-backend": "cpu"}

    def ask(self, question: Question) -> Answer:
        return Answer(1.0, self.headers, b"")


def test_what_is_read_is_not_warm() -> None:
    with pytest.raises(BenchmarkError, match="not warm"):
        benchmark.check_warm(Told("read;dur=1"), ["/a"])
    assert benchmark.check_warm(Told("render;dur=1"), ["/a"]) == "cpu"


@pytest.mark.parametrize(("timing", "decoder"), [("render;dur=1", "openjpeg"), ("read;dur=1", "")])
def test_what_is_not_read_and_decoded_is_not_cold(timing: str, decoder: str) -> None:
    with pytest.raises(BenchmarkError, match="not cold"):
        benchmark.check_cold(Told(timing, decoder), ["/a"])


def test_slow_answers_are_waited_for() -> None:
    assert benchmark.long_enough(1, 8, 5000) == 1
    assert benchmark.long_enough(1, 256, 64) == 12
    assert benchmark.long_enough(1, 256, 0) == benchmark.LONGEST_S


def test_refusals_stand_in_the_throughputs_errors_and_do_not_count() -> None:
    target = benchmark.Target("x", "g", 0, ["/"])
    loads = [
        Load(100, 2.0, 0, record.spread([1.0, 2.0]), {"status": 3}),
        Load(300, 2.0, 0, record.spread([3.0, 4.0]), {"status": 1, "timeout": 1}),
    ]
    rate, wait = benchmark.throughput_of(target, 8, loads), benchmark.latency_of(target, 8, loads)
    assert rate.samples == (50.0, 150.0)
    assert rate.errors == {"status": 4, "timeout": 1}
    assert (wait.summary.n, wait.summary.min, wait.summary.median, wait.summary.max) == (4, 1.0, 2.5, 4.0)
