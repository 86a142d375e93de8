"""The CPU's kernels beside memcpy, small: right pictures, counted bytes, a copy that touches no new memory."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bandwidth, gpu_report, record
from benchmarks.roofline import Plan, kinds
from gpu_render import phantom

SMALL = Plan(frames=3, side=32, rounds=2, warm_ups=1)


def test_small_run_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bandwidth, "cache_bytes", lambda: 1 << 12)
    plot = tmp_path / "plot.png"
    assert bandwidth.main(["--results", str(tmp_path), "--plot", str(plot), "--markdown"], SMALL) == 0
    (path,) = tmp_path.glob("*.json")
    run = record.read(path)
    names = [one.name for one in run.kernels]
    assert "int16 to uint8, window" in names
    assert "unpack: RLE's byte planes to int16" in names
    assert "RGB" not in names  # shown as it is: no work, no figure
    assert {one.kernel.n for one in run.kernels} == {SMALL.rounds}
    window = run.kernels[names.index("int16 to uint8, window")]
    assert window.bytes_written == window.frames * 32 * 32
    assert window.bytes_read >= 2 * window.bytes_written
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert gpu_report.kernel_markdown(run).splitlines()[2] in capsys.readouterr().out


def test_a_copy_uses_the_same_memory_again() -> None:
    copy = bandwidth.Copy()
    copy.after(lambda: None, 4096)
    first = copy._target.ctypes.data
    worked, copied = copy.after(lambda: None, 1024)
    assert copy._target.ctypes.data == first
    assert min(worked, copied) >= 0


def test_the_second_cache_is_found_or_assumed() -> None:
    assert 1 << 16 <= bandwidth.cache_bytes() <= bandwidth.MOST_CACHE_BYTES


def test_every_kind_is_rendered_or_shown_unchanged() -> None:
    slices = [np.ascontiguousarray(phantom.stored_slice(index)[:32, :32]) for index in (100, 200)]
    made = {kind.name: bandwidth.rendered(kind, bandwidth.Copy(), SMALL, slices) for kind in kinds(32)}
    assert [name for name, batch in made.items() if batch is None] == ["RGB"]
