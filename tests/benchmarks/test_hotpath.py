"""What an answer from the cache is made of, counted: no tasks, no copies of the pixels."""

import asyncio
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks import hotpath
from benchmarks.harness import BenchmarkError, Server
from tests.api.answers import SERIES, STUDY
from tests.api.served import serving
from tests.data import write_image

SIDE = 512
INSTANCE = f"/studies/{STUDY}/series/{SERIES}/instances/1.2.3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "files"
    found.mkdir()
    write_image(
        found / "1.dcm",
        np.arange(SIDE * SIDE, dtype=np.uint32).astype(np.uint16).reshape(SIDE, SIDE),
        SOPInstanceUID="1.2.3",
    )
    return found


@pytest.mark.parametrize(
    "case",
    [
        hotpath.Case("raw", [f"/api{INSTANCE}/frames/1?stage=stored"]),
        hotpath.Case("window", [f"/api{INSTANCE}/frames/1?window=40,400"]),
        hotpath.Case("WADO-RS", [f"/dicomweb{INSTANCE}/frames/1"], hotpath.EXPLICIT),
    ],
    ids=lambda case: case.name,
)
def test_a_frame_that_is_held_costs_no_task_and_no_copy(folder: Path, tmp_path: Path, case: hotpath.Case) -> None:
    (found,) = asyncio.run(hotpath.all_counts(folder, tmp_path / "index.sqlite", [case], 8))
    assert found.tasks == 0
    assert found.peak_bytes < SIDE * SIDE / 4
    assert found.left < 20
    assert 20 < found.python_calls < 400


def test_the_time_of_a_process_is_that_of_all_its_threads_and_answers_are_read_whole(
    folder: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with serving(folder, work) as running:
        running.wait_for_files(1)
        server = Server(running.port, 0.0, running.process.pid)
        case = hotpath.Case("raw", [f"/api{INSTANCE}/frames/1?stage=stored"])
        hotpath.measure(case, server, 16)
        assert 0 < case.cpu_us[0] < 1e6
        with pytest.raises(BenchmarkError, match="HTTP 404"):
            hotpath.measure(hotpath.Case("none", ["/api/none"]), server, 8)


def test_what_a_thread_has_used_is_counted() -> None:
    done, end = threading.Event(), threading.Event()

    def work() -> None:
        sum(range(3_000_000))
        done.set()
        end.wait(60)

    before = hotpath.cpu_s(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    assert done.wait(60)
    assert hotpath.cpu_s(os.getpid()) - before > 0.01
    end.set()
    thread.join()
