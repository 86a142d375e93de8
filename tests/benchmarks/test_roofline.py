"""The benchmark of the kernel: bytes counted by hand, and a small run from end to end over a fake CuPy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_report, record, roofline, traffic
from benchmarks.roofline import Plan, frames_of
from benchmarks.traffic import of_frame
from gpu_render.view import Stage
from kernels import Backend, Codestream, RenderJob, render
from kernels.cuda import COPIES_AHEAD
from kernels.packing import Packed, Packing
from kernels.params import Colour, Curve
from kernels.params import Stage as KernelStage
from tests.kernels.cases import GREYS, case, ramp
from tests.kernels.fake_cupy import CUDARuntimeError, FakeDevice, use

SMALL = Plan(frames=3, side=32, rounds=2, warm_ups=1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    device = use(monkeypatch, FakeDevice())
    monkeypatch.setattr("kernels.cuda.RING_BYTES", 1 << 20)
    yield device
    assert device.wrong == []


def test_bytes_of_a_frame_are_counted_from_its_record() -> None:
    samples, colour = ramp("<i2", 10, 20), np.zeros((10, 20, 3), np.uint8)
    assert of_frame(case(samples, span=400).params) == (400, 200)
    assert of_frame(case(samples, GREYS, curve=Curve.TABLE).params) == (400, 200)
    assert of_frame(case(samples, stage=KernelStage.MODALITY, slope=0.5).params) == (400, 800)
    assert of_frame(case(samples, stage=KernelStage.STORED).params) == (400, 400)
    assert of_frame(case(ramp("<f8", 10, 20), stage=KernelStage.STORED).params) == (1600, 1600)
    assert of_frame(case(colour, colour=Colour.YBR_FULL).params) == (600, 600)
    assert of_frame(case(samples, region_x=3, region_width=7, region_height=2).params) == (28, 14)


@pytest.mark.parametrize(
    ("size", "looked_at"),
    [((40, 20), 10 * 20), ((20, 10), 10 * 20), ((5, 5), 10 * 10), ((4, 2), 4 * 8), ((1, 1), 2 * 2)],
)
def test_of_a_scaled_frame_only_neighbours_count(size: tuple[int, int], looked_at: int) -> None:
    """(width, height) of 20 columns and 10 rows."""
    width, height = size
    assert of_frame(case(ramp("<u2", 10, 20), width=width, height=height).params) == (2 * looked_at, width * height)


def test_records_and_each_distinct_table_are_read_once_a_batch() -> None:
    """A record has 168 bytes; the 1,056 of STEPS are a table of 16-bit samples with a window."""
    shown, other = case(ramp("<u2", 10, 20), GREYS, curve=Curve.TABLE), case(ramp("u1", 10, 20), span=400)
    window = case(ramp("<i2", 10, 20), span=400)
    table = np.arange(500, dtype=np.uint8)
    jobs = [RenderJob(None, shown.params, shown.table)] * 3 + [RenderJob(None, other.params, table)]
    assert traffic.of_batch(jobs) == (4 * 168 + GREYS.nbytes + 3 * 400 + 200, 4 * 200)
    assert traffic.of_batch([RenderJob(None, window.params)] * 2) == (2 * 168 + 1056 + 2 * 400, 2 * 200)


def test_bytes_that_are_unpacked_or_taken_over() -> None:
    bits = Packed(np.zeros(25, np.uint8), Packing.BITS, (10, 20), np.dtype("u1"))
    chroma = Packed(np.zeros(400, np.uint8), Packing.CHROMA_422, (10, 20, 3), np.dtype("u1"))
    assert traffic.of_packed([bits, chroma]) == (2 * 40 + 25 + 400, 200 + 600)
    wide = Codestream(b"", "jpeg2000", (10, 20), np.dtype("u1"), 10, True, 128, 0, 255)
    colour = Codestream(b"", "jpeg", (10, 20, 3), np.dtype("u1"), 8, False, 0, 0, 255)
    assert traffic.of_adopted([wide, colour]) == (2 * 72 + 400 + 600, 2 * 40 + 200 + 600)
    with pytest.raises(ValueError, match="packed data"):
        traffic.of_packed([Packed(np.zeros(24, np.uint8), Packing.BITS, (10, 20), np.dtype("u1"))])


def test_a_record_that_contradicts_itself_is_not_counted() -> None:
    with pytest.raises(ValueError, match="samples"):
        of_frame(case(ramp("u1"), samples=2).params)


def test_a_batch_is_beyond_the_cache() -> None:
    assert frames_of(1000, cache_bytes=0, least=300) == 300
    assert frames_of(1000, cache_bytes=1_000_000, least=300) == 4000
    assert frames_of(512 * 512 * 3, cache_bytes=50 << 20, least=300) == 300


def test_kinds_are_what_they_are_called() -> None:
    found = {kind.name: kind.folded(512) for kind in roofline.kinds(512)}
    curves = {name: Curve(int(folded.params["curve"])) for name, folded in found.items()}
    assert curves["int16 to uint8, window"] == curves["uint8 to uint8, window"] == Curve.RATIO
    twelve, inverse = found["12 of 16 bits to uint8, window"], found["int16 to uint8, MONOCHROME1, padding"]
    assert (twelve.params["bits"], twelve.params["signed"], twelve.params["shift"]) == (12, 1, 0)
    assert (inverse.params["invert"], inverse.params["pad_low"], inverse.params["pad_high"]) == (1, -2000, -2000)
    assert of_frame(found["int16 to uint8, region"].params) == (384 * 384 * 2, 384 * 384)
    assert curves["int16 to uint8, VOI LUT"] == curves["palette to RGB"] == Curve.TABLE
    assert of_frame(found["int16 to uint8, window"].params) == (512 * 512 * 2, 512 * 512)
    assert of_frame(found["int16 to float32, modality"].params) == (512 * 512 * 2, 512 * 512 * 4)
    assert of_frame(found["palette to RGB"].params) == (512 * 512, 3 * 512 * 512)
    assert of_frame(found["int16 to uint8, viewport 1.5 times"].params) == (512 * 512 * 2, 768 * 768)
    assert {kind.view.stage for kind in roofline.kinds(512)} == {Stage.DISPLAY, Stage.MODALITY}


def test_small_run_end_to_end(fake: FakeDevice, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--results", str(tmp_path), "--plot", str(tmp_path / "plot.png")]
    assert roofline.main(["--quick", "--markdown", *where], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    assert (run.benchmark, run.backend) == ("roofline", "cuda")
    assert run.device.startswith("Fake GPU")
    assert [one.name for one in run.kernels][:-2] == [kind.name for kind in roofline.kinds(32)]
    assert [one.name.split()[0] for one in run.kernels[-2:]] == ["unpack:", "take"]
    for one in run.kernels:
        assert one.kernel.n == one.copied.n == SMALL.rounds
        assert one.nbytes >= roofline.TIMES_CACHE * one.cache_bytes == 4 * 4096
        assert one.percent_of_copy == pytest.approx(100)  # every piece of work takes the fake as long
    timed = len(run.kernels) * (SMALL.rounds + SMALL.warm_ups)
    assert fake.counts["copy"] == timed * (1 + COPIES_AHEAD)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert gpu_report.kernel_markdown(run).splitlines()[2] in capsys.readouterr().out
    assert len(gpu_report.kernel_table(run).rows) == len(run.kernels)


def test_a_wrong_picture_is_not_timed(
    fake: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the device had rendered its last frame black."""

    def broken(backend: Backend, jobs: Sequence[RenderJob]) -> list[np.ndarray[Any, Any]]:
        pictures = render(backend, jobs)
        return pictures if backend.name == "cpu" else [*pictures[:-1], pictures[-1] * 0]

    monkeypatch.setattr(roofline, "render", broken)
    assert roofline.main(["--quick", "--results", str(tmp_path)], SMALL) == 1
    assert "is not the CPU's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_device_it_says_so(fake: FakeDevice, capsys: pytest.CaptureFixture[str]) -> None:
    fake.count_error = CUDARuntimeError(100)
    assert roofline.main(["--quick"], SMALL) == 1
    assert "needs a GPU, and none can be used here: no CUDA device answers" in capsys.readouterr().err


def test_a_promise_is_met_or_missed() -> None:
    times = record.summarize([1.0])
    one = record.Kernel(
        name="x",
        frames=1,
        bytes_read=2_000_000,
        bytes_written=1_000_000,
        cache_bytes=1,
        kernel=record.summarize([1.25]),
        copied=times,
        target_percent=90,
    )
    assert one.percent_of_copy == 80
    assert gpu_report.is_met(one) is False
    assert gpu_report.is_met(one.model_copy(update={"kernel": times})) is True
    assert gpu_report.is_met(one.model_copy(update={"target_percent": None})) is None
