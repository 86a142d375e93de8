"""The benchmark of the service on a GPU: its data, its ways to pictures, and a small run over a fake CuPy."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from benchmarks import gpu as benchmark
from benchmarks import gpu_data, gpu_paths, gpu_report, record
from benchmarks.gpu import Plan
from benchmarks.gpu_data import Series
from benchmarks.gpu_paths import CPU, GPU, KERNEL, PYDICOM, Pydicom, Tally, pydicom_with_plugin, shared_out, windowed
from gpu_render import phantom
from gpu_render.demo import slice_indices
from gpu_render.frame import Window
from gpu_render.reference import FrameRef
from gpu_render.view import View
from tests.kernels.fake_cupy import CUDARuntimeError, FakeDevice, use

SMALL = Plan(slices=2, rounds=1, clients=2, first=1, windows=3, limit_s=60)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    device = use(monkeypatch, FakeDevice())
    monkeypatch.setattr("kernels.cuda.RING_BYTES", 1 << 20)
    yield device
    assert device.wrong == []


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the series are kept."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def folders(directory: Path) -> list[Path]:
    return gpu_data.prepare(directory, SMALL.slices, lambda _what, _done, _total: None)


def series_of(folders: list[Path], number: int) -> Series:
    """A series as its files are, without an archive."""
    one = next(one for one in (*gpu_data.SERIES_16_BIT, gpu_data.BASELINE) if one.number == number)
    paths = sorted(path for folder in folders for path in (folder / one.folder).glob("*.dcm"))
    window = gpu_data.BYTE_WINDOW if one is gpu_data.BASELINE else gpu_data.WINDOW
    return Series(gpu_data.NAMES[number], one.transfer_syntax_uid, (), paths, window, one in gpu_data.LOSSY)


def test_files_are_made_once(directory: Path, folders: list[Path]) -> None:
    assert gpu_data.prepare(directory, SMALL.slices, lambda _what, _done, _total: pytest.fail("made anew")) == folders


@pytest.mark.parametrize("number", gpu_data.NAMES)
def test_every_series_shows_the_same_slices(folders: list[Path], number: int) -> None:
    series, first = series_of(folders, number), slice_indices(SMALL.slices)[0]
    assert len(series.paths) == SMALL.slices
    expected = windowed(phantom.stored_slice(first), 1, phantom.RESCALE_INTERCEPT, gpu_data.WINDOW)
    found = Pydicom("none").picture(series, series.paths[0])
    difference = np.abs(found.astype(np.int16) - expected)
    assert difference.max() <= 1 if not series.lossy else difference.mean() < 3


def test_the_baseline_series_is_one_component_of_8_bits(folders: list[Path]) -> None:
    ds = pydicom.dcmread(series_of(folders, 8).paths[0])
    assert (ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation, ds.SamplesPerPixel) == (8, 8, 0, 1)
    assert "RescaleSlope" not in ds
    assert b"\xff\xc0" in ds.PixelData


def test_numpys_window_is_the_standards() -> None:
    """PS3.3 C.11.2.1.2: center 40, width 400 shows -160 ... 239 from black to white."""
    values = np.array([-2000, -160, 39, 40, 239, 240])
    assert windowed(values, 1, 0, Window(40, 400)).tolist() == [0, 0, 127, 128, 255, 255]


def test_clients_share_all_slices_in_about_their_order() -> None:
    wanted = [(FrameRef("1", "2", "3", number), View()) for number in range(1, 11)]
    clients = [[ref.frame_number for ref, _ in client] for client in shared_out(wanted, 4)]
    assert clients == [[1, 5, 9], [2, 6, 10], [3, 7], [4, 8]]
    assert len(shared_out(wanted[:2], 64)) == 2


def test_without_the_plug_in_the_reason_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec.tools.dicom", None)
    with pydicom_with_plugin() as (library, note):
        assert library is None
    assert "cannot be imported" in note


def test_a_library_that_fails_or_differs_is_not_measured(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    series, library = series_of(folders, 1), Pydicom("none")
    right = library.picture(series, series.paths[0])
    assert library.check(series, series.paths[0], right) == []
    (note,) = library.check(series, series.paths[0], np.where(right == 255, 253, right))
    assert "differs by 2 grey values" in note
    assert library.refused == {series.name}

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(library, "picture", fail)
    (note,) = library.check(series, series.paths[0], right)
    assert note == f"{PYDICOM}: uncompressed not measured, it raises RuntimeError."


@contextlib.contextmanager
def only_pydicom() -> Iterator[tuple[Pydicom, str]]:
    """pydicom with its own decoders: the plug-in needs a GPU."""
    yield Pydicom("none"), "a note"


def test_small_run_end_to_end(
    fake: FakeDevice,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "pydicom_with_plugin", only_pydicom)
    plot = tmp_path / "plot.png"
    where = ["--data", str(directory), "--results", str(tmp_path), "--plot", str(plot)]
    assert benchmark.main(["--quick", "--markdown", *where], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    rows = {(one.group, one.request, one.path, one.state): one for one in run.throughputs}
    assert run.device.startswith("Fake GPU")
    assert len(rows) == len(run.throughputs)
    for name in gpu_data.NAMES.values():
        cold, warm = (rows[name, "series", GPU, state] for state in ("cold", "warm"))
        assert (cold.uploads, warm.uploads, cold.slices) == (SMALL.slices, 0, SMALL.slices)
        assert cold.decoder
        assert not warm.decoder
        assert rows[name, "series", PYDICOM, "cold"].answer is not None
        for service in (GPU, CPU):
            cold, warm = (rows[name, "first frame", service, state] for state in ("cold", "warm"))
            assert cold.per_slice.n == warm.per_slice.n == SMALL.rounds * SMALL.first
            assert (cold.uploads, warm.uploads) == (int(service == GPU), 0)
            assert cold.decoder
            assert not warm.decoder
    drag = rows["uncompressed", "window drag", GPU, "warm"]
    assert (drag.slices, drag.uploads, drag.downloads, drag.launches) == (3, 0, 3, 3)
    assert drag.answer is not None
    assert drag.answer.n == 3
    together = rows[benchmark.ALL, "8 series at once", GPU, "warm"]
    assert (together.slices, together.in_flight, together.uploads) == (16, 8, 0)
    assert together.frames_a_launch is not None
    assert together.frames_a_launch >= 1
    alone = rows["uncompressed", "series", KERNEL, "warm"]
    assert alone.per_slice.median_ms == pytest.approx(1 / SMALL.slices)  # the fake's kernels take a millisecond
    assert ("JPEG baseline, 8 bit", "series", KERNEL, "warm") in rows
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert gpu_report.throughput_markdown(run).splitlines()[2] in capsys.readouterr().out
    assert len(gpu_report.throughput_table(run).rows) == len(rows)


def test_after_its_time_no_further_round_begins() -> None:
    done: list[int] = []

    async def job(number: int) -> None:
        done.append(number)

    plan = replace(SMALL, rounds=5, limit_s=-1)
    assert asyncio.run(benchmark.measure([job, job], plan, lambda: None)) == 1
    assert done == [0, 0]


def test_a_device_that_dies_gives_no_figures(
    fake: FakeDevice, directory: Path, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the CPU's figures would stand in the GPU's rows."""
    fake.fail("render_batch", CUDARuntimeError(719), 2)  # the first is of the start
    where = ["--data", str(directory), "--results", str(tmp_path)]
    assert benchmark.main(["--quick", "--no-pydicom", *where], SMALL) == 1
    assert "the GPU failed, and the CPU rendered in its place" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_device_it_says_so(fake: FakeDevice, capsys: pytest.CaptureFixture[str]) -> None:
    fake.count_error = CUDARuntimeError(100)
    assert benchmark.main(["--quick"], SMALL) == 1
    assert "needs a GPU, and none can be used here: no CUDA device answers" in capsys.readouterr().err


def test_a_proof_table_that_is_none_is_refused(
    fake: FakeDevice, directory: Path, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "proof.json"
    table.write_text("{}")
    assert benchmark.main(["--quick", "--no-pydicom", "--data", str(directory), "--proof", str(table)], SMALL) == 1
    assert "proof table" in capsys.readouterr().err


def test_slices_a_second_and_frames_a_launch_follow_from_what_is_written() -> None:
    tally = Tally("a", "series", GPU, "warm", slices=10, in_flight=4, per_slice_ms=[2.0, 4.0, 2.0], launches=5)
    row = tally.result()
    assert (row.slices_per_s, row.frames_a_launch, row.answer) == (500, 6, None)
    assert gpu_paths.Tally("a", "series", PYDICOM, "cold", 1, 1, [1.0]).result().frames_a_launch is None
