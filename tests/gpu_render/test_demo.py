"""The demo's files: right, complete, made once, and made anew when they must be."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from gpu_render import demo, phantom

SLICES = 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo.prepare_demo(tmp_path_factory.mktemp("demo"), slices=SLICES)


def series_files(prepared: list[Path], series: demo.PhantomSeries) -> list[Path]:
    return sorted((prepared[1] / series.folder).iterdir())


@pytest.fixture
def all_phantom(prepared: list[Path]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for s in demo.PHANTOM_SERIES for p in series_files(prepared, s)]


def test_roots_are_samples_and_phantom(prepared: list[Path]) -> None:
    assert [root.name for root in prepared] == ["samples", "phantom"]
    assert all(root.is_dir() for root in prepared)


@pytest.mark.parametrize("series", demo.PHANTOM_SERIES, ids=lambda s: s.folder)
def test_each_series_is_lossless(prepared: list[Path], series: demo.PhantomSeries) -> None:
    """Decoded by pydicom's plug-ins, which share no code with the encoders for JPEG 2000 and HTJ2K."""
    for index, path in zip(demo.slice_indices(SLICES), series_files(prepared, series), strict=True):
        ds = pydicom.dcmread(path)
        assert ds.file_meta.TransferSyntaxUID == series.transfer_syntax_uid
        assert ds.pixel_array.dtype == np.int16
        assert np.array_equal(ds.pixel_array, phantom.stored_slice(index))


def test_uids_are_valid_unique_and_below_2_25(all_phantom: list[pydicom.Dataset]) -> None:
    instances = [ds.SOPInstanceUID for ds in all_phantom]
    assert len(set(instances)) == len(instances) == SLICES * len(demo.PHANTOM_SERIES)
    assert len({ds.SeriesInstanceUID for ds in all_phantom}) == len(demo.PHANTOM_SERIES)
    assert len({ds.StudyInstanceUID for ds in all_phantom}) == 1
    assert len({ds.FrameOfReferenceUID for ds in all_phantom}) == 1
    for ds in all_phantom:
        for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID):
            assert uid.is_valid
            assert uid.startswith("2.25.")
            assert int(uid.removeprefix("2.25.")) < 2**128


def test_slices_are_one_millimetre_apart_from_the_head_downwards(prepared: list[Path]) -> None:
    files = series_files(prepared, demo.PHANTOM_SERIES[0])
    positions = [pydicom.dcmread(path).ImagePositionPatient for path in files]
    assert [float(a[2]) - float(b[2]) for a, b in pairwise(positions)] == [1.0] * (SLICES - 1)
    assert len({(p[0], p[1]) for p in positions}) == 1


def test_presentation_attributes(all_phantom: list[pydicom.Dataset]) -> None:
    for ds in all_phantom:
        assert (ds.PatientName, ds.Modality) == ("Demo^Phantom", "CT")
        assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, -1024, "HU")
        assert list(zip(ds.WindowCenter, ds.WindowWidth, ds.WindowCenterWidthExplanation, strict=True)) == [
            (40, 400, "MEDIASTINUM"),
            (-600, 1500, "LUNG"),
        ]
        assert ds.PixelPaddingValue == phantom.PADDING


def test_samples_are_copies_of_all_that_pydicom_ships_with_pixels(prepared: list[Path]) -> None:
    copied = {path.name for path in prepared[0].rglob("*") if path.is_file()}
    assert {"CT_small.dcm", "MR_small_RLE.dcm", "rtdose.dcm", "liver_1frame.dcm", "chrH31.dcm", "6293"} <= copied
    assert {"test-SR.dcm", "waveform_ecg.dcm"} <= copied
    assert not {"README.txt", "DICOMDIR", "zipMR.gz", "crayons.icc"} & copied
    original = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(original, str)
    assert (prepared[0] / "test_files" / "CT_small.dcm").read_bytes() == Path(original).read_bytes()


def test_no_two_samples_share_a_sop_instance_uid(prepared: list[Path]) -> None:
    """pydicom's do: MR_small comes in nine encodings. Only the UID of a copy differs from its original."""
    uids = [demo._sample_uid(path) for path in prepared[0].rglob("*") if path.is_file()]
    named = [uid for uid in uids if uid]
    assert len(named) > 100
    assert len(set(named)) == len(named)
    originals = Path(pydicom.__file__).parent / "data"
    for name in ("MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm", "rtdose_expb.dcm"):
        copy = prepared[0] / "test_files" / name
        original = originals / "test_files" / name
        was, now = demo._sample_uid(original), demo._sample_uid(copy)
        assert was
        assert now
        assert len(was) == len(now)
        assert copy.read_bytes().replace(now.encode(), was.encode()) == original.read_bytes()
        assert pydicom.uid.UID(now).is_valid


def identities(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in root.rglob("*")}


def test_second_call_changes_nothing(tmp_path: Path) -> None:
    first = demo.prepare_demo(tmp_path, slices=1)
    before = identities(tmp_path)
    assert demo.prepare_demo(tmp_path, slices=1) == first
    assert identities(tmp_path) == before


class Stopped(Exception):
    """Stands for Ctrl-C."""


def test_interrupted_run_is_made_anew(tmp_path: Path) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        demo.prepare_phantom(tmp_path, "phantom", demo.PHANTOM_SERIES, slices=2, progress=stop)
    assert not (tmp_path / "phantom").exists()
    assert list(tmp_path.glob(".phantom-*"))
    root = demo.prepare_phantom(tmp_path, "phantom", demo.PHANTOM_SERIES, slices=2)
    assert len(list(root.rglob("*.dcm"))) == 2 * len(demo.PHANTOM_SERIES)
    assert not list(tmp_path.glob(".phantom-*"))


def test_folder_without_its_marker_is_made_anew(tmp_path: Path) -> None:
    root = demo.prepare_phantom(tmp_path, "phantom", demo.PHANTOM_SERIES[:1], slices=1)
    (tmp_path / "phantom.json").unlink()
    (root / "left-over").touch()
    demo.prepare_phantom(tmp_path, "phantom", demo.PHANTOM_SERIES[:1], slices=1)
    assert not (root / "left-over").exists()


def test_another_generator_version_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uid() -> str:
        root = demo.prepare_phantom(tmp_path, "phantom", demo.PHANTOM_SERIES[:1], slices=1)
        return str(pydicom.dcmread(next(root.rglob("*.dcm"))).SOPInstanceUID)

    old = uid()
    monkeypatch.setattr(demo, "GENERATOR_VERSION", demo.GENERATOR_VERSION + 1)
    assert uid() != old
    assert json.loads((tmp_path / "phantom.json").read_text())["generator"] == demo.GENERATOR_VERSION


def test_progress_rises_to_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    demo.prepare_demo(tmp_path, slices=2, progress=lambda *step: seen.append(step))
    for what in ("sample files", "CT phantom"):
        steps = [(done, total) for name, done, total in seen if name == what]
        assert steps == sorted(steps)
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] > 0


@pytest.mark.parametrize("slices", [0, phantom.SLICES + 1])
def test_impossible_number_of_slices_is_refused(tmp_path: Path, slices: int) -> None:
    with pytest.raises(ValueError, match="slices"):
        demo.prepare_demo(tmp_path, slices=slices)
    assert not list(tmp_path.iterdir())
