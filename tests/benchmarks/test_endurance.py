"""Memory over time, small: every process is counted, requests are of all kinds, and a leak is told from noise."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import comparing, endurance, record
from benchmarks.harness import BenchmarkError

SMALL = endurance.Plan(seconds=6, per_s=20, every_s=0.1, slices=10)


def test_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    where = ["--data", str(tmp_path / "data"), "--results", str(tmp_path), "--plot", str(plot), "--markdown"]
    assert endurance.main(where, SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    found = {one.name: one for one in run.measurements}
    answers = found["answers of all kinds"]
    assert not answers.errors
    assert answers.summary.n == pytest.approx(SMALL.seconds * SMALL.per_s, abs=endurance.CONNECTIONS + 1)
    assert {"stored values", "picture", "thumbnail", "metadata"} <= set(answers.parameters)
    assert found["memory: service, RSS"].summary.median > 50
    assert found["memory: workers, RSS"].summary.median > 20  # decoders were started
    assert found["growth: all, PSS"].unit == "MB/h"
    assert len(run.traces) == 3
    assert any("says little" in note for note in run.notes)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert endurance.markdown(run).splitlines()[2] in capsys.readouterr().out


def test_descendants_are_found() -> None:
    text = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = endurance.family(process.pid)
        assert found[0] == process.pid
        assert len(found) == 2
        rss, pss = endurance.memory_of(found[1])
        assert rss >= pss > 1 << 20
        process.communicate(b"\n")
    with pytest.raises(BenchmarkError, match="has ended"):
        endurance.read_memory(process.pid, 0.0, endurance.Found())


def test_this_process_holds_memory() -> None:
    rss, pss = endurance.memory_of(os.getpid())
    assert rss >= pss > 1 << 20


def memory_curve(seed: int, mb_per_h: float) -> tuple[list[float], list[float]]:
    """200 points in 400 s: a line, noise whose neighbours resemble each other, and a few peaks."""
    random = np.random.default_rng(seed)
    at, noise = np.arange(200) * 2.0, random.normal(0, 1, 200)
    for place in range(1, 200):
        noise[place] += 0.7 * noise[place - 1]
    noise[random.integers(0, 200, 4)] += 60
    return at.tolist(), (300 + at / 3600 * mb_per_h + noise).tolist()


@pytest.mark.parametrize("mb_per_h", [0.0, 120.0, -60.0])
def test_a_slope_is_found_through_noise_and_peaks(mb_per_h: float) -> None:
    within = 0
    for seed in range(20):
        slopes = comparing.slope(*memory_curve(seed, mb_per_h)) * 3600
        low, high = np.percentile(slopes[1:], [2.5, 97.5])
        within += int(low <= mb_per_h <= high)
        assert abs(slopes[0] - mb_per_h) < 40
    assert within >= 16


def test_too_few_points_have_no_slope() -> None:
    with pytest.raises(ValueError, match="too few"):
        comparing.slope([0.0, 1.0], [0.0, 1.0])
