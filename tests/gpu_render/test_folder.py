"""The folder archive: against pydicom on every real file, against what was written on made ones."""

import contextlib
import errno
import os
import re
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import generate_frames

from gpu_render.archive import Archive, FrameRecord
from gpu_render.archive.file import FileArchive
from gpu_render.archive.folder import FolderArchive, anatomical_order
from gpu_render.archive.parse import parse_descriptor, parse_file, parse_files, unpack_result, unpack_results
from gpu_render.errors import (
    CorruptPixelData,
    DecoderTimeout,
    NoProcessorTime,
    NotFound,
    NotRenderable,
    RenderError,
    StartupError,
    TooLarge,
    UnreadableFile,
    UnsupportedTransferSyntax,
)
from gpu_render.frame import Geometry, Rescale
from gpu_render.header import native_frame_bits
from gpu_render.reference import FrameRef
from gpu_render.workers import WorkerPool
from tests.data import (
    DEFLATED,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    RLE,
    Raw,
    corpus,
    encapsulate,
    file_bytes,
    image,
    item,
    pydicom_folder,
    sample,
    write,
    write_image,
)


class InlinePool:
    """The operation ``parse`` on the calling thread, one call at a time as in a worker; counts what was opened."""

    size = 2

    def __init__(self) -> None:
        self.opened: list[str] = []
        self._lock = threading.Lock()

    def call(
        self, operation: str, meta: dict[str, Any], payload: bytes | memoryview, **limits: Any
    ) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            self.opened += meta["paths"] if operation == "parse_files" else [meta["path"]]
            return (parse_files if operation == "parse_files" else parse_file)(meta, memoryview(payload))


@pytest.fixture
def pool() -> InlinePool:
    return InlinePool()


Opener = Callable[..., FolderArchive]


@pytest.fixture
def open_archive(pool: InlinePool) -> Iterator[Opener]:
    """Open an archive over folders; closed at the end."""
    opened: list[FolderArchive] = []

    def opener(*roots: Path, index_path: Path | None = None, **options: Any) -> FolderArchive:
        opened.append(FolderArchive(roots, index_path, pool, **options))
        return opened[-1]

    yield opener
    for archive in opened:
        archive.close()


def refs(archive: Archive) -> list[FrameRef]:
    """All frames that can be shown, by study, series and manifest."""
    found = []
    for study in archive.studies():
        for series in study.series:
            manifest = archive.series(series.study_instance_uid, series.series_instance_uid)
            found += [frame.ref for frame in manifest.frames]
    return found


def only(archive: Archive) -> FrameRecord:
    (ref,) = refs(archive)
    return archive.describe(ref)


def hidden(archive: Archive) -> list[str]:
    return [
        instance.reason
        for study in archive.studies()
        for series in study.series
        for instance in archive.series(series.study_instance_uid, series.series_instance_uid).hidden
    ]


# --- every real file -------------------------------------------------------------------------------------------


def pydicoms_frames(path: Path) -> list[bytes] | None:
    """What pydicom cuts out of a file's Pixel Data, None where it has no opinion here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True)
        if "PixelData" not in ds or "BitsAllocated" not in ds:
            return None
        frames = int(ds.get("NumberOfFrames") or 1)
        if ds.file_meta.TransferSyntaxUID.is_encapsulated:
            return list(generate_frames(ds.PixelData, number_of_frames=frames))
    # PS3.5 8.1.1: the pixels' bits follow each other without gaps, over the borders of frames too.
    data = np.frombuffer(ds.PixelData, np.uint8)
    if ds["PixelData"].VR == "OW" and not ds.original_encoding[1] and ds.BitsAllocated <= 8:
        data = data.view("<u2").byteswap().view(np.uint8)
    subsampled = ds.PhotometricInterpretation == "YBR_FULL_422"
    size = ds.Rows * ds.Columns * (2 if subsampled else ds.SamplesPerPixel) * ds.BitsAllocated
    bits = np.unpackbits(data, bitorder="little")
    return [np.packbits(bits[i * size : (i + 1) * size], bitorder="little").tobytes() for i in range(frames)]


def real_files() -> list[Path]:
    """Files in folders of their own, so that no SOP Instance UID is there twice."""
    folders = [pydicom_folder() / "test_files", pydicom_folder() / "charset_files"]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def anything(_: FrameRecord) -> bool:
    return True


def assert_same_now(archive: FolderArchive, ref: FrameRef) -> None:
    """What lies in memory is what is fetched. Some file systems cannot tell, and a deflated file never may."""
    archive._wait_until_s = 0.0
    fetched, now = archive.fetch(ref), archive.fetch_now(ref, anything)
    if now is not None:
        assert bytes(now.data) == bytes(fetched.data)
        assert replace(now, data=b"") == replace(fetched, data=b"")


def check_against_pydicom(paths: list[Path], pool: InlinePool) -> int:
    checked = 0
    for path in paths:
        try:
            archive = FileArchive(path, pool)
        except UnreadableFile:
            continue
        try:
            if hidden(archive):
                continue
            expected = pydicoms_frames(path)
            assert expected is not None, path.name
            for number, frame in enumerate(expected, 1):
                if path.name == "MR_truncated.dcm":
                    with pytest.raises(CorruptPixelData, match="truncated"):
                        archive.fetch(archive.ref(number))
                    continue
                assert bytes(archive.fetch(archive.ref(number)).data) == frame, path.name
                assert_same_now(archive, archive.ref(number))
                checked += 1
            with pytest.raises(NotFound, match="no frame"):
                archive.fetch(archive.ref(len(expected) + 1))
        finally:
            archive.close()
    return checked


def test_every_frame_of_pydicoms_samples_is_what_pydicom_cuts_out(pool: InlinePool) -> None:
    assert check_against_pydicom(real_files(), pool) > 150


@pytest.mark.corpus
def test_every_frame_of_the_corpus_is_what_pydicom_cuts_out(pool: InlinePool) -> None:
    assert check_against_pydicom(sorted(corpus().rglob("*.dcm")), pool) > 100


def test_no_sample_with_pixels_is_left_out_without_a_reason(pool: InlinePool) -> None:
    reasons = {}
    for path in real_files():
        try:
            archive = FileArchive(path, pool)
        except UnreadableFile as error:
            reasons[path.name] = str(error)
            continue
        for reason in hidden(archive):
            if "no pixels" not in reason:
                reasons[path.name] = reason
        archive.close()
    assert {name: reason for name, reason in reasons.items() if name.endswith(".dcm") and "DIR" not in name} == {
        "UN_sequence.dcm": "neither a SOP Class UID nor pixel data",
        "badVR.dcm": "NumberOfFrames is malformed",
        "chrSQEncoding.dcm": "neither a SOP Class UID nor pixel data",
        "chrSQEncoding1.dcm": "neither a SOP Class UID nor pixel data",
        "empty_charset_LEI.dcm": "neither a SOP Class UID nor pixel data",
        "meta_missing_tsyntax.dcm": "BitsAllocated is missing",
        "nested_priv_SQ.dcm": "BitsAllocated is missing",
        "no_meta.dcm": "not a DICOM file",
        "no_meta_group_length.dcm": "neither a SOP Class UID nor pixel data",
        "priv_SQ.dcm": "neither a SOP Class UID nor pixel data",
    }
    assert reasons["DICOMDIR"] == "a DICOMDIR, not an image"
    assert reasons["README.txt"] == "not a DICOM file"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chrArab.dcm", "قباني^لنزار"),
        ("chrGreek.dcm", "Διονυσιος"),
        ("chrH31.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrI2.dcm", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("chrX1.dcm", "Wang^XiaoDong=王^小東"),
        ("chrX2.dcm", "Wang^XiaoDong=王^小东"),
    ],
)
def test_patient_names_in_their_own_script(name: str, expected: str, pool: InlinePool) -> None:
    archive = FileArchive(pydicom_folder() / "charset_files" / name, pool)
    assert archive.studies()[0].attributes.patient_name == expected
    archive.close()


def test_a_real_folder_through_real_workers(tmp_path: Path) -> None:
    with WorkerPool(1) as workers:
        archive = FolderArchive([pydicom_folder() / "test_files" / "dicomdirtests"], tmp_path / "i.sqlite", workers)
        calls: list[tuple[int, int]] = []
        report = archive.scan(lambda done, total: calls.append((done, total)))
        assert calls[0] == (0, calls[-1][1])
        assert calls[-1][0] == calls[-1][1] == report.added
        modalities = {m for study in archive.studies() for m in study.modalities}
        assert modalities == {"CR", "CT", "MR"}
        assert len(refs(archive)) == archive.status().frames == 31
        assert len(hidden(archive)) == 50
        assert all(len(archive.fetch(ref).data) == 512 for ref in refs(archive))
        archive.close()


# --- native pixels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4"])
def test_frames_of_a_native_object(tmp_path: Path, open_archive: Opener, dtype: str) -> None:
    samples = np.arange(5 * 3 * 7).reshape(5, 3, 7).astype(dtype)
    write_image(tmp_path / "a.dcm", samples)
    archive = open_archive(tmp_path)
    archive.scan()
    found = refs(archive)
    assert [ref.frame_number for ref in found] == [1, 2, 3, 4, 5]
    for ref, frame in zip(found, samples, strict=True):
        fetched = archive.fetch(ref)
        assert np.array_equal(np.frombuffer(fetched.data, fetched.layout.dtype).reshape(3, 7), frame)
        assert fetched.transfer_syntax_uid == EXPLICIT_LE


@pytest.mark.parametrize(
    ("syntax", "preamble", "meta"),
    [
        *((syntax, True, True) for syntax in (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)),
        *((syntax, False, True) for syntax in (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED)),
        *((syntax, False, False) for syntax in (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE)),
    ],
)
def test_ways_to_write_a_header(tmp_path: Path, open_archive: Opener, syntax: str, preamble: bool, meta: bool) -> None:
    pixels = bytes(range(40))
    write(tmp_path / "a.dcm", image(4, 5), pixels, syntax, preamble=preamble, meta=meta)
    archive = open_archive(tmp_path)
    archive.scan()
    fetched = archive.fetch(only(archive).ref)
    assert (fetched.data, fetched.transfer_syntax_uid) == (pixels, syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, EXPLICIT_BE, DEFLATED])
@pytest.mark.parametrize("bits", [1, 8])
def test_frames_that_begin_inside_a_byte_or_word(tmp_path: Path, open_archive: Opener, syntax: str, bits: int) -> None:
    rng = np.random.default_rng(1)
    samples = rng.integers(0, 2 if bits == 1 else 256, (4, 5, 5), dtype=np.uint8)
    raw = (np.packbits(samples, bitorder="little") if bits == 1 else samples).tobytes()
    raw += b"\0" * (len(raw) % 2)
    if syntax == EXPLICIT_BE:  # words of 16 bits, most significant byte first
        raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    sizes = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "NumberOfFrames": 4}
    write(tmp_path / "a.dcm", image(5, 5, **sizes), raw, syntax)
    archive = open_archive(tmp_path)
    archive.scan()
    for ref, frame in zip(refs(archive), samples, strict=True):
        data = np.frombuffer(archive.fetch(ref).data, np.uint8)
        assert data.size == (25 * bits + 7) // 8
        found = np.unpackbits(data, bitorder="little")[:25] if bits == 1 else data
        assert np.array_equal(found.reshape(5, 5), frame)


UIDS = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4"}


@pytest.fixture
def in_memory(tmp_path: Path, open_archive: Opener) -> FolderArchive:
    """Two frames that have been read already."""
    write_image(tmp_path / "a.dcm", np.arange(2 * 3 * 7, dtype="<u2").reshape(2, 3, 7), **UIDS)
    archive = open_archive(tmp_path)
    archive.scan()
    archive.fetch(refs(archive)[0])
    if archive.fetch_now(refs(archive)[0], anything) is None:
        pytest.skip("this file system does not tell what it has in memory")
    return archive


def test_a_frame_in_memory_is_had_at_once(in_memory: FolderArchive) -> None:
    for ref in refs(in_memory):
        now = in_memory.fetch_now(ref, anything)
        assert now is not None
        assert bytes(now.data) == in_memory.fetch(ref).data
        assert in_memory.fetch_now(ref, lambda record: record.layout.rows > 3) is None


def test_what_is_wrong_is_left_to_fetch(in_memory: FolderArchive) -> None:
    first = refs(in_memory)[0]
    for ref in (replace(first, frame_number=3), replace(first, sop_instance_uid="9.9"), replace(first, study_uid="9")):
        assert in_memory.fetch_now(ref, anything) is None
        with pytest.raises(NotFound):
            in_memory.fetch(ref)


def test_a_file_that_changed_is_left_to_fetch(tmp_path: Path, in_memory: FolderArchive) -> None:
    first = refs(in_memory)[0]
    write_image(tmp_path / "a.dcm", np.full((2, 3, 7), 9, "<u2"), **UIDS)
    assert in_memory.fetch_now(first, anything) is None
    assert set(bytes(in_memory.fetch(first).data)) == {0, 9}
    now = in_memory.fetch_now(first, anything)
    assert now is not None
    assert set(bytes(now.data)) == {0, 9}


def test_a_frame_that_lies_on_the_disk_is_left_to_fetch(in_memory: FolderArchive, monkeypatch: Any) -> None:
    first, preadv = refs(in_memory)[0], os.preadv
    for left in (lambda *_: 41, lambda *_: 0, refuses(errno.EAGAIN), refuses(errno.EOPNOTSUPP)):
        monkeypatch.setattr(os, "preadv", left)
        assert in_memory.fetch_now(first, anything) is None
    monkeypatch.setattr(os, "preadv", preadv)
    assert in_memory.fetch_now(first, anything) is not None


def refuses(code: int) -> Callable[..., int]:
    def preadv(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return preadv


def test_who_had_to_wait_does_not_try_again_soon(in_memory: FolderArchive, monkeypatch: Any) -> None:
    first, preadv, slept = refs(in_memory)[0], os.preadv, [0.02]

    def slow(*arguments: Any) -> int:
        if slept:
            time.sleep(slept.pop())
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", slow)
    assert in_memory.fetch_now(first, anything) is not None
    assert in_memory.fetch_now(first, anything) is None
    assert in_memory._wait_until_s > time.monotonic() + 1
    in_memory._wait_until_s = time.monotonic()
    assert in_memory.fetch_now(first, anything) is not None


def test_float_and_double_float_pixel_data(tmp_path: Path, open_archive: Opener) -> None:
    for bits, keyword, dtype, vr in ((32, "FloatPixelData", "<f4", "OF"), (64, "DoubleFloatPixelData", "<f8", "OD")):
        samples = np.linspace(-1, 1, 6).astype(dtype)
        attributes = image(2, 3, BitsAllocated=bits, BitsStored=..., HighBit=..., PixelRepresentation=...)
        write(tmp_path / f"{bits}.dcm", attributes, samples.tobytes(), keyword=keyword, vr=vr)
    archive = open_archive(tmp_path)
    archive.scan()
    fetched = [archive.fetch(ref) for ref in refs(archive)]
    assert sorted(frame.layout.dtype.str for frame in fetched) == ["<f4", "<f8"]
    for frame in fetched:
        assert np.allclose(np.frombuffer(frame.data, frame.layout.dtype), np.linspace(-1, 1, 6))


def test_truncated_native_pixels_cost_the_frames_that_are_missing(tmp_path: Path, open_archive: Opener) -> None:
    whole = file_bytes(image(4, 4, NumberOfFrames=3), bytes(96))
    (tmp_path / "a.dcm").write_bytes(whole[:-40])
    archive = open_archive(tmp_path)
    archive.scan()
    first, *others = refs(archive)
    assert len(archive.fetch(first).data) == 32
    assert len(others) == 2
    for ref in others:
        with pytest.raises(CorruptPixelData, match=f"frame {ref.frame_number} of SOP Instance .* is truncated"):
            archive.fetch(ref)


def test_subsampling_that_the_length_denies(tmp_path: Path, open_archive: Opener) -> None:
    colour = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
    }
    write(tmp_path / "full.dcm", image(4, 4, **colour), bytes(48))
    write(tmp_path / "half.dcm", image(4, 4, **colour), bytes(32))
    archive = open_archive(tmp_path)
    archive.scan()
    assert len(archive.fetch(only(archive).ref).data) == 32
    assert hidden(archive) == ["the pixels are subsampled by PhotometricInterpretation but not by their length"]


@pytest.mark.parametrize(("syntax", "encapsulated"), [(EXPLICIT_LE, False), (DEFLATED, False), (J2K_LOSSLESS, True)])
def test_a_header_that_declares_far_more_frames_than_there_are(
    tmp_path: Path, open_archive: Opener, syntax: str, encapsulated: bool
) -> None:
    pixels = encapsulate([JPEG, JPEG], delimiter=False) if encapsulated else bytes(100)
    write(tmp_path / "a.dcm", image(5, 5, NumberOfFrames=9_000_000), pixels, syntax, encapsulated=encapsulated)
    archive = open_archive(tmp_path)
    archive.scan()
    assert hidden(archive) == ["the file holds 2 of 9000000 declared frames"]


def test_a_deflate_bomb_is_refused_before_it_is_inflated(tmp_path: Path, open_archive: Opener) -> None:
    attributes = image(16000, 16000, NumberOfFrames=20)
    body = file_bytes(attributes, syntax=EXPLICIT_LE, preamble=False, meta=False)
    body += b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 0xFFFFFFF0) + bytes(1000)
    packer = zlib.compressobj(wbits=-15)
    head = file_bytes({"SOPInstanceUID": attributes["SOPInstanceUID"]}, syntax=DEFLATED)
    meta_end = 144 + struct.unpack_from("<I", head, 140)[0]
    (tmp_path / "a.dcm").write_bytes(head[:meta_end] + packer.compress(body) + packer.flush())
    archive = open_archive(tmp_path)
    archive.scan()
    assert "above the limit" in hidden(archive)[0]


# --- encapsulated pixels -------------------------------------------------------------------------------------------

JPEG = b"\xff\xd8\xff\xe0"


def test_encapsulated_frames(tmp_path: Path, open_archive: Opener) -> None:
    frames = [JPEG + bytes([n % 256]) * (2 * n) for n in range(300)]
    write(tmp_path / "a.dcm", image(4, 4, NumberOfFrames=300), encapsulate(frames), J2K_LOSSLESS, encapsulated=True)
    archive = open_archive(tmp_path)
    archive.scan()
    assert [bytes(archive.fetch(ref).data) for ref in refs(archive)] == frames


@pytest.mark.parametrize("number", ["1.98", "4.110", "4.203", "8.1"])
def test_transfer_syntaxes_that_pydicom_does_not_list(tmp_path: Path, open_archive: Opener, number: str) -> None:
    write(tmp_path / "a.dcm", image(1, 1), encapsulate([b"ab"]), f"1.2.840.10008.1.2.{number}", encapsulated=True)
    archive = open_archive(tmp_path)
    archive.scan()
    assert bytes(archive.fetch(only(archive).ref).data) == b"ab"


def test_extended_offset_table(tmp_path: Path, open_archive: Opener) -> None:
    attributes = image(4, 4, NumberOfFrames=2, ExtendedOffsetTable=struct.pack("<2Q", 0, 20))
    attributes["ExtendedOffsetTableLengths"] = struct.pack("<2Q", 4, 2)
    value = encapsulate([b"aa", b"bb", b"cc"])
    write(tmp_path / "a.dcm", attributes, value, J2K_LOSSLESS, encapsulated=True)
    archive = open_archive(tmp_path)
    archive.scan()
    assert [bytes(archive.fetch(ref).data) for ref in refs(archive)] == [b"aabb", b"cc"]


@pytest.mark.parametrize(
    ("syntax", "value", "error", "message"),
    [
        (J2K_LOSSLESS, encapsulate([b"aa", b"bb"], [10, 0]), CorruptPixelData, "does not rise"),
        (J2K_LOSSLESS, encapsulate([b"aa", b"bb", b"cc"]), CorruptPixelData, "3 fragments"),
        (RLE, b"", CorruptPixelData, "no Basic Offset Table"),
        (EXPLICIT_LE, encapsulate([b"aa", b"bb"]), CorruptPixelData, "encapsulated but"),
        ("1.2.840.10008.1.2.4.102", encapsulate([b"aa", b"bb"]), UnsupportedTransferSyntax, "video"),
        ("1.2.3.4", encapsulate([b"aa", b"bb"]), UnsupportedTransferSyntax, "needs a decoder for it"),
    ],
)
def test_pixel_data_that_cannot_be_divided(
    tmp_path: Path, open_archive: Opener, syntax: str, value: bytes, error: type[RenderError], message: str
) -> None:
    attributes = image(4, 4, NumberOfFrames=2)
    write(tmp_path / "a.dcm", attributes, value, syntax, encapsulated=True)
    archive = open_archive(tmp_path)
    archive.scan()
    ref = FrameRef("1.2.4.1", "1.2.4.1.1", attributes["SOPInstanceUID"], 1)
    with pytest.raises(error, match=f"{attributes['SOPInstanceUID']}.*{message}"):
        archive.fetch(ref)
    assert message in hidden(archive)[0]


def test_encapsulated_without_a_transfer_syntax(tmp_path: Path, open_archive: Opener) -> None:
    write(
        tmp_path / "a.dcm", image(4, 4), encapsulate([JPEG]), EXPLICIT_LE, encapsulated=True, meta=False, preamble=False
    )
    archive = open_archive(tmp_path)
    archive.scan()
    assert hidden(archive) == ["Pixel Data is encapsulated but there is no Transfer Syntax UID"]


def test_native_pixels_under_an_encapsulated_transfer_syntax(tmp_path: Path, open_archive: Opener) -> None:
    write(tmp_path / "a.dcm", image(4, 4), bytes(32), JPEG_BASELINE)
    archive = open_archive(tmp_path)
    archive.scan()
    assert "native" in hidden(archive)[0]


# --- per-frame records ---------------------------------------------------------------------------------------------


def enhanced(frames: int, **changes: Any) -> dict[str, Any]:
    """An enhanced object whose frames differ in rescale and position; frame 1 lies highest."""
    per_frame = [
        {
            "PixelValueTransformationSequence": [
                {"RescaleSlope": 1 + n % 2, "RescaleIntercept": 0, "RescaleType": "HU"}
            ],
            "PlanePositionSequence": [{"ImagePositionPatient": f"0\\0\\{frames - n}"}],
        }
        for n in range(frames)
    ]
    orientation = [{"PlaneOrientationSequence": [{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0"}]}]
    return image(
        2,
        2,
        NumberOfFrames=frames,
        SharedFunctionalGroupsSequence=orientation,
        PerFrameFunctionalGroupsSequence=per_frame,
        **changes,
    )


def test_frames_of_an_enhanced_object_differ_and_are_in_anatomical_order(tmp_path: Path, open_archive: Opener) -> None:
    write(tmp_path / "a.dcm", enhanced(5), bytes(40))
    archive = open_archive(tmp_path)
    archive.scan()
    manifest = archive.series("1.2.4.1", "1.2.4.1.1")
    assert [frame.ref.frame_number for frame in manifest.frames] == [5, 4, 3, 2, 1]
    for frame in manifest.frames:
        number = frame.ref.frame_number
        assert frame.presentation.modality == Rescale(1.0 + (number - 1) % 2, 0.0, "HU")
        assert frame.geometry.image_position == (0.0, 0.0, 6.0 - number)
        assert archive.describe(frame.ref) == frame
        assert archive.fetch(frame.ref).presentation.modality == frame.presentation.modality


def test_fewer_functional_groups_than_frames(tmp_path: Path, open_archive: Opener) -> None:
    write(tmp_path / "a.dcm", {**enhanced(5), "NumberOfFrames": 6}, bytes(48))
    archive = open_archive(tmp_path)
    archive.scan()
    assert hidden(archive) == ["PerFrameFunctionalGroupsSequence has 5 items for 6 frames"]


# --- lists ---------------------------------------------------------------------------------------------------------


def test_slices_in_anatomical_order(tmp_path: Path, open_archive: Opener) -> None:
    for number, z in enumerate([30, -10, 10, 20, 0], 1):
        write_image(
            tmp_path / f"{number}.dcm",
            np.zeros((2, 2), np.uint16),
            InstanceNumber=number,
            ImagePositionPatient=f"0\\0\\{z}",
            ImageOrientationPatient="1\\0\\0\\0\\1\\0",
        )
    archive = open_archive(tmp_path)
    archive.scan()
    frames = archive.series("1.2.4.1", "1.2.4.1.1").frames
    assert [frame.instance_number for frame in frames] == [2, 5, 3, 4, 1]


def test_without_positions_by_instance_number(tmp_path: Path, open_archive: Opener) -> None:
    for number in (3, 1, 10, None, 2):
        write_image(tmp_path / f"{number}.dcm", np.zeros((2, 2), np.uint16), InstanceNumber=number)
    archive = open_archive(tmp_path)
    archive.scan()
    manifest = archive.series("1.2.4.1", "1.2.4.1.1")
    assert [frame.instance_number for frame in manifest.frames] == [1, 2, 3, 10, None]
    assert manifest.series.thumbnail == manifest.frames[2].ref


def test_other_orientations_keep_the_given_order(tmp_path: Path, open_archive: Opener) -> None:
    write_image(tmp_path / "a.dcm", np.zeros((2, 2), np.uint16))
    archive = open_archive(tmp_path)
    archive.scan()
    record = only(archive)

    def placed(z: float, orientation: tuple[float, ...]) -> FrameRecord:
        x, y, *rest = orientation
        where = Geometry((0.0, 0.0, z), (x, y, rest[0], rest[1], rest[2], rest[3]))
        return replace(record, geometry=where)

    axial, coronal = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    mixed = [placed(2, axial), placed(1, coronal)]
    assert anatomical_order(mixed) == mixed
    assert anatomical_order([placed(2, axial), placed(1, axial)]) == [placed(1, axial), placed(2, axial)]
    assert anatomical_order([]) == []


def test_study_list(tmp_path: Path, open_archive: Opener) -> None:
    write_image(tmp_path / "a.dcm", np.zeros((3, 2, 2), np.uint16), SeriesNumber=2, SeriesDescription="Thin")
    write_image(
        tmp_path / "b.dcm", np.zeros((2, 2), np.uint16), SeriesInstanceUID="1.2.4.1.2", Modality="PT", SeriesNumber=1
    )
    write_image(tmp_path / "c.dcm", np.zeros((2, 2), np.uint16), StudyInstanceUID="1.2.4.9", StudyDate="20270101")
    write(tmp_path / "d.dcm", image(1, 1, Modality="SR", SeriesInstanceUID="1.2.4.1.3"))
    archive = open_archive(tmp_path)
    archive.scan()
    latest, study = archive.studies()
    # The same Series Instance UID in two studies is two series.
    assert (latest.attributes.study_instance_uid, latest.instance_count, latest.frame_count) == ("1.2.4.9", 1, 1)
    assert study.attributes.patient_name == "Test^Case"
    assert (study.modalities, study.instance_count, study.frame_count) == (("CT", "PT", "SR"), 3, 4)
    assert [series.series_number for series in study.series] == [1, 2, None]
    assert study.series[1].thumbnail is not None
    assert study.series[1].thumbnail.frame_number == 2
    assert study.series[2].thumbnail is None
    assert len(archive.series("1.2.4.9", "1.2.4.1.1").frames) == 1


def test_not_found_says_at_which_level(tmp_path: Path, open_archive: Opener) -> None:
    write_image(tmp_path / "a.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.7")
    archive = open_archive(tmp_path)
    archive.scan()
    for ref, message in [
        (FrameRef("1.9", "1.2.4.1.1", "1.7", 1), "no study 1.9"),
        (FrameRef("1.2.4.1", "1.9", "1.7", 1), "no series 1.9 in study 1.2.4.1"),
        (FrameRef("1.2.4.1", "1.2.4.1.1", "1.9", 1), "no SOP Instance 1.9"),
        (FrameRef("1.2.4.1", "1.2.4.1.1", "1.7", 2), "no frame 2 of SOP Instance 1.7: it has 1 frame"),
    ]:
        with pytest.raises(NotFound, match=message):
            archive.fetch(ref)
    with pytest.raises(NotFound, match=r"no series 1\.9"):
        archive.series("1.2.4.1", "1.9")
    with pytest.raises(NotFound, match="no image 99"):
        archive.image(99)
    with pytest.raises(NotFound, match="no image"):
        archive.image(10**30)
    with pytest.raises(NotFound, match=r"1\.9"):
        archive.image_id("1.9")


def test_objects_without_pixels_and_header_bombs(tmp_path: Path, open_archive: Opener) -> None:
    report = image(1, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", SOPInstanceUID="1.7", Rows=..., Columns=...)
    write(tmp_path / "sr.dcm", report)
    write(tmp_path / "bomb.dcm", image(60000, 60000, SOPInstanceUID="1.8"), bytes(8))
    archive = open_archive(tmp_path)
    archive.scan()
    with pytest.raises(NotRenderable, match=r"1\.7: the object has no pixels \(Basic Text SR Storage\)"):
        archive.fetch(FrameRef("1.2.4.1", "1.2.4.1.1", "1.7", 1))
    with pytest.raises(TooLarge):
        archive.fetch(FrameRef("1.2.4.1", "1.2.4.1.1", "1.8", 1))
    with pytest.raises(NotRenderable):
        archive.image(archive.image_id("1.7"))


# --- scanning ------------------------------------------------------------------------------------------------------


def test_a_second_scan_opens_nothing_and_picks_up_changes(
    tmp_path: Path, open_archive: Opener, pool: InlinePool
) -> None:
    for name in "abc":
        write_image(tmp_path / name / "x.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID=f"1.{ord(name)}")
    (tmp_path / "notes.txt").write_text("no image")
    index_path = tmp_path.parent / f"{tmp_path.name}.sqlite"
    archive = open_archive(tmp_path, index_path=index_path)
    first = archive.scan()
    assert (first.added, first.changed, first.removed, first.unchanged) == (4, 0, 0, 0)
    assert [(entry.path, entry.reason) for entry in first.unreadable] == [("notes.txt", "not a DICOM file")]
    ids = [archive.image_id(f"1.{ord(name)}") for name in "abc"]
    generation = archive.generation

    pool.opened.clear()
    assert archive.scan().unchanged == 4
    assert pool.opened == []
    assert archive.generation == generation

    write_image(tmp_path / "b" / "x.dcm", np.ones((2, 3), np.uint16), SOPInstanceUID="1.98")
    (tmp_path / "c" / "x.dcm").unlink()
    write_image(tmp_path / "d.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.99")  # c, at another place
    again = archive.scan()
    assert (again.added, again.changed, again.removed, again.unchanged) == (1, 1, 1, 2)
    assert archive.generation > generation
    assert [archive.image_id(f"1.{ord(name)}") for name in "abc"] == ids
    assert archive.describe(FrameRef("1.2.4.1", "1.2.4.1.1", "1.98", 1)).layout.columns == 3


def test_ids_and_index_survive_a_restart(tmp_path: Path, open_archive: Opener, pool: InlinePool) -> None:
    write_image(tmp_path / "data" / "a.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.7")
    before = open_archive(tmp_path / "data", index_path=tmp_path / "i.sqlite")
    before.scan()
    identity = before.image_id("1.7")
    before.close()
    pool.opened.clear()
    after = open_archive(tmp_path / "data", index_path=tmp_path / "i.sqlite")
    assert after.image_id("1.7") == identity
    assert after.image(identity).frame.ref.sop_instance_uid == "1.7"
    assert after.scan().unchanged == 1
    assert pool.opened == []


def test_files_below_other_roots_are_not_served(tmp_path: Path, open_archive: Opener) -> None:
    write_image(tmp_path / "old" / "a.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.7")
    (tmp_path / "new").mkdir()
    old = open_archive(tmp_path / "old", index_path=tmp_path / "i.sqlite")
    old.scan()
    old.close()
    archive = open_archive(tmp_path / "new", index_path=tmp_path / "i.sqlite")
    with pytest.raises(NotFound):
        archive.image_id("1.7")
    assert archive.studies() == ()


def test_duplicates_first_path_wins_until_it_goes(tmp_path: Path, open_archive: Opener) -> None:
    for name, columns in (("b", 3), ("c", 4), ("a", 2)):
        write_image(tmp_path / f"{name}.dcm", np.zeros((2, columns), np.uint16), SOPInstanceUID="1.7")
        if name == "b":
            archive = open_archive(tmp_path)
            archive.scan()
    ref = FrameRef("1.2.4.1", "1.2.4.1.1", "1.7", 1)
    for name, columns in (("a", 2), ("b", 3), ("c", 4)):
        report = archive.scan()
        assert archive.describe(ref).layout.columns == columns
        left = [f"{other}.dcm" for other in "abc" if other > name]
        assert [entry.path for entry in report.unreadable] == left
        assert {entry.reason for entry in report.unreadable} <= {"duplicate SOP Instance UID"}
        (tmp_path / f"{name}.dcm").unlink()


def test_links_devices_and_pipes_are_not_opened(tmp_path: Path, open_archive: Opener, pool: InlinePool) -> None:
    outside = write_image(tmp_path / "outside" / "secret.dcm", np.zeros((2, 2), np.uint16))
    inside = tmp_path / "inside"
    write_image(inside / "a.dcm", np.zeros((2, 2), np.uint16))
    (inside / "file-link.dcm").symlink_to(outside)
    (inside / "folder-link").symlink_to(outside.parent)
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe.dcm")
    (tmp_path / "root-link").symlink_to(inside)
    archive = open_archive(tmp_path / "root-link")
    assert archive.scan().added == 1
    assert pool.opened == ["a.dcm"]


@pytest.mark.parametrize(
    "path", ["../outside.dcm", "link.dcm", "folder/../../outside.dcm", "pipe", "", "/etc/hostname"]
)
def test_a_worker_opens_nothing_outside(tmp_path: Path, path: str) -> None:
    write_image(tmp_path / "outside.dcm", np.zeros((2, 2), np.uint16))
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    os.mkfifo(tmp_path / "root" / "pipe")
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        parse_file({"root": str(tmp_path / "root"), "path": path}, memoryview(b""))


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path, open_archive: Opener) -> None:
    outside = write_image(tmp_path / "outside.dcm", np.ones((2, 2), np.uint16))
    inside = write_image(tmp_path / "root" / "a.dcm", np.zeros((2, 2), np.uint16))
    archive = open_archive(tmp_path / "root")
    archive.scan()
    ref = only(archive).ref
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(NotFound):
        archive.fetch(ref)


def test_a_changed_file_is_indexed_again_before_it_is_served(tmp_path: Path, open_archive: Opener) -> None:
    path = write_image(tmp_path / "a.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.7")
    archive = open_archive(tmp_path)
    archive.scan()
    ref = only(archive).ref
    before = archive.fetch(ref)
    write_image(path, np.full((3, 3), 7, np.uint16), SOPInstanceUID="1.7", PatientName="A^Longer^Name")
    after = archive.fetch(ref)
    assert (after.layout.rows, after.data) == (3, np.full(9, 7, "<u2").tobytes())
    assert before.version != after.version == archive.describe(ref).version

    replacement = write_image(tmp_path / "new", np.full((2, 2), 9, np.uint16), SOPInstanceUID="1.7")
    replacement.replace(path)
    assert archive.fetch(ref).data == np.full(4, 9, "<u2").tobytes()

    write_image(path, np.zeros((2, 2), np.uint16), SOPInstanceUID="1.8")
    with pytest.raises(NotFound, match=r"no SOP Instance 1\.7"):
        archive.fetch(ref)
    path.unlink()
    with pytest.raises(NotFound, match="no study"):
        archive.fetch(FrameRef("1.2.4.1", "1.2.4.1.1", "1.8", 1))
    assert archive.studies() == ()


def test_a_file_that_was_cut_is_an_error_not_an_old_picture(tmp_path: Path, open_archive: Opener) -> None:
    path = write_image(tmp_path / "a.dcm", np.zeros((2, 64, 64), np.uint16))
    archive = open_archive(tmp_path)
    archive.scan()
    first, second = refs(archive)
    os.truncate(path, path.stat().st_size - 100)
    assert len(archive.fetch(first).data) == 8192
    with pytest.raises(CorruptPixelData, match="truncated"):
        archive.fetch(second)


def test_a_folder_that_cannot_be_listed_keeps_its_files(
    tmp_path: Path, open_archive: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a" / "x.dcm", np.zeros((2, 2), np.uint16))
    write_image(tmp_path / "b.dcm", np.zeros((2, 2), np.uint16))
    archive = open_archive(tmp_path)
    archive.scan()
    real = os.scandir

    def failing(path: bytes) -> Any:
        if path.endswith(b"/a"):
            raise PermissionError
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    report = archive.scan()
    assert report.removed == 0
    assert [(entry.path, entry.reason) for entry in report.unreadable] == [
        ("a", "folder cannot be listed (PermissionError)")
    ]
    assert len(refs(archive)) == 2


class FallingPool(InlinePool):
    """A call that has to do with the file ``bad`` raises ``error``; as of a worker that died, if none is named."""

    def __init__(self, error: RenderError | None = None) -> None:
        super().__init__()
        self.error: RenderError | None = error or CorruptPixelData("the process died")

    def call(self, operation: str, meta: dict[str, Any], payload: bytes | memoryview, **limits: Any) -> Any:
        if self.error is not None and "bad" in meta.get("paths", [meta.get("path")]):
            raise self.error
        return super().call(operation, meta, payload, **limits)


def test_a_bad_file_costs_none_of_those_that_a_worker_was_given_with_it(tmp_path: Path) -> None:
    for number in range(40):
        write_image(tmp_path / f"{number:02}", np.zeros((2, 2), np.uint16))
    (tmp_path / "30").rename(tmp_path / "bad")
    (tmp_path / "20").write_bytes(b"no DICOM")
    with contextlib.closing(FolderArchive([tmp_path], None, FallingPool())) as archive:
        report = archive.scan()
        assert [(entry.path, entry.reason) for entry in report.unreadable] == [
            ("20", "not a DICOM file"),
            ("bad", "header cannot be parsed (CorruptPixelData)"),
        ]
        assert archive.status().instances == 38


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NoProcessorTime("..."), "no processor time"), (DecoderTimeout("..."), "beyond the time or memory limit")],
    ids=lambda value: type(value).__name__,
)
def test_a_file_that_a_worker_had_no_time_for_is_tried_again(error: RenderError, reason: str, tmp_path: Path) -> None:
    for name in ("a", "b", "bad", "c", "d", "e"):
        write_image(tmp_path / name, np.zeros((2, 2), np.uint16))
    pool = FallingPool(error)
    with contextlib.closing(FolderArchive([tmp_path], None, pool)) as archive:
        (missed,) = archive.scan().unreadable
        assert missed.path == "bad"
        assert reason in missed.reason
        assert archive.status().instances == 5
        pool.opened, pool.error = [], None
        assert not archive.scan().unreadable
        assert (pool.opened, archive.status().instances) == (["bad"], 6)


def test_files_in_one_call_are_what_each_is_by_itself() -> None:
    folder = pydicom_folder()
    paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = unpack_results(*parse_files({"root": str(folder), "paths": paths}, memoryview(b"")))
    assert len(found) == len(paths)
    for path, parsed in zip(paths, found, strict=True):
        alone_meta = {"root": str(folder), "path": path}
        if isinstance(parsed, UnreadableFile):
            with pytest.raises(UnreadableFile, match=f"^{re.escape(str(parsed))}$"):
                parse_file(alone_meta, memoryview(b""))
            continue
        alone = unpack_result(*parse_file(alone_meta, memoryview(b"")))
        assert (parsed.document, parsed.spans) == (alone.document, alone.spans)
        assert bool(parsed.metadata) == bool(alone.metadata)
        if alone.metadata:
            assert zlib.decompress(parsed.metadata) == zlib.decompress(alone.metadata)


def test_a_scan_can_be_stopped(tmp_path: Path, open_archive: Opener) -> None:
    for number in range(30):
        write_image(tmp_path / f"{number:02}.dcm", np.zeros((2, 2), np.uint16))
    archive = open_archive(tmp_path)
    stop = threading.Event()
    report = archive.scan(lambda done, total: stop.set() if done == 3 else None, stop)
    assert report.stopped
    assert 3 <= archive.status().instances < 30
    assert not archive.status().scanning
    assert archive.scan().unchanged + archive.scan().added >= 3
    assert archive.status().instances == 30


def test_requests_while_scanning(tmp_path: Path, open_archive: Opener) -> None:
    for number in range(60):
        write_image(tmp_path / f"{number:02}.dcm", np.full((2, 2), number, np.uint16), InstanceNumber=number)
    archive = open_archive(tmp_path)
    failures: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                for ref in refs(archive):
                    number = archive.describe(ref).instance_number
                    assert archive.fetch(ref).data == np.full(4, number, "<u2").tobytes()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for thread in readers:
        thread.start()
    for _ in range(3):
        archive.scan()
        for path in tmp_path.glob("*0.dcm"):
            os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000))
    done.set()
    for thread in readers:
        thread.join()
    assert failures == []


def test_open_files_are_bounded_and_closed(tmp_path: Path, pool: InlinePool) -> None:
    for number in range(20):
        write_image(tmp_path / f"{number}.dcm", np.zeros((2, 2), np.uint16))
    archive = FolderArchive([tmp_path], None, pool, open_files=4)
    archive.scan()

    def held() -> int:
        links = (Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - names
        return sum(link.is_symlink() and str(tmp_path) in str(link.readlink()) for link in links)

    for ref in refs(archive) * 2:
        archive.fetch(ref)
        assert held() <= 4
    archive.close()
    assert held() == 0


def test_names_that_are_not_text(tmp_path: Path, open_archive: Opener) -> None:
    write_image(tmp_path / os.fsdecode(b"caf\xe9\n.dcm"), np.zeros((2, 2), np.uint16))
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    archive = open_archive(tmp_path)
    report = archive.scan()
    assert len(archive.fetch(only(archive).ref).data) == 8
    assert [entry.path for entry in report.unreadable] == ["\ufffd.txt"]


def test_roots(tmp_path: Path, open_archive: Opener, pool: InlinePool) -> None:
    write_image(tmp_path / "inner" / "a.dcm", np.zeros((2, 2), np.uint16))
    archive = open_archive(tmp_path, tmp_path / "inner", tmp_path)
    assert archive.scan().added == 1
    with pytest.raises(StartupError):
        FolderArchive([tmp_path / "inner" / "a.dcm"], None, pool)


def test_two_roots_with_the_same_names(tmp_path: Path, open_archive: Opener) -> None:
    for name in "ab":
        write_image(tmp_path / name / "x.dcm", np.full((2, 2), ord(name), np.uint16))
    archive = open_archive(tmp_path / "a", tmp_path / "b")
    archive.scan()
    assert sorted(archive.fetch(ref).data[0] for ref in refs(archive)) == [97, 98]


# --- hostile files -------------------------------------------------------------------------------------------------


def test_reasons_name_no_values(tmp_path: Path, open_archive: Opener) -> None:
    write(tmp_path / "a.dcm", image(2, 2, StudyInstanceUID="Secret^Name"), bytes(8))
    write(tmp_path / "b.dcm", image(2, 2, Rows=..., PatientName="Secret^Name"), bytes(8))
    archive = open_archive(tmp_path)
    report = archive.scan()
    assert [entry.reason for entry in report.unreadable] == ["malformed Study Instance UID"]
    assert hidden(archive) == ["Rows is missing"]


def test_missing_uids_are_made_up_and_stay(tmp_path: Path, open_archive: Opener) -> None:
    write(tmp_path / "a.dcm", image(2, 2, StudyInstanceUID=..., SeriesInstanceUID=...), bytes(8))
    archive = open_archive(tmp_path)
    archive.scan()
    ref = only(archive).ref
    assert ref.study_uid.startswith("2.25.")
    assert FrameRef.parse(ref.study_uid, ref.series_uid, ref.sop_instance_uid, 1) == ref
    os.utime(tmp_path / "a.dcm", (1, 1))
    archive.scan()
    assert only(archive).ref == ref


@pytest.mark.parametrize("wrong", ["1.2.3\x014", "1.2.3\n4", "1.2.3 4", "1.2.3\\4", "x" * 64])
def test_a_malformed_uid_is_not_mended_into_another(wrong: str, tmp_path: Path, open_archive: Opener) -> None:
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        tags = image(2, 2, **{keyword: Raw("UI", wrong.encode())})
        write(tmp_path / f"{keyword}.dcm", tags | {"SOPInstanceUID": tags["SOPInstanceUID"]}, bytes(8))
    write(tmp_path / "padded.dcm", image(2, 2, SOPInstanceUID=Raw("UI", b"1.2.3 \0")), bytes(8))
    archive = open_archive(tmp_path)
    archive.scan()
    assert only(archive).ref.sop_instance_uid == "1.2.3"
    reasons = {entry.path: entry.reason for entry in archive.status().unreadable}
    assert len(reasons) == 3
    assert all("malformed" in reason and wrong not in reason for reason in reasons.values())


def parse_bytes(content: bytes) -> dict[str, Any] | None:
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, content)
        document, spans, _ = parse_descriptor(descriptor, identity="x")
    except UnreadableFile:
        return None
    finally:
        os.close(descriptor)
    assert len(spans) % 16 == 0
    return document


def test_nesting_that_breaks_the_parser() -> None:
    nested = b""
    for _ in range(5000):
        nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + nested
    head = file_bytes(image(2, 2))
    descriptor = os.memfd_create("nested")
    os.write(descriptor, head[: head.index(b"\x08\x00\x18\x00UI")] + nested)
    with pytest.raises(UnreadableFile, match=r"header cannot be parsed \(RecursionError\)"):
        parse_descriptor(descriptor, identity="x")
    os.close(descriptor)


SEEDS = [
    file_bytes(image(4, 4), bytes(32)),
    file_bytes(image(4, 4, NumberOfFrames=2), encapsulate([JPEG, JPEG]), JPEG_BASELINE, encapsulated=True),
    file_bytes(enhanced(2), bytes(16), IMPLICIT_LE),
    file_bytes(image(4, 4), bytes(32), DEFLATED),
    item(b"") + b"DICM",
]


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_give_a_document_or_a_typed_error(seed: bytes, flips: list[tuple[int, int]]) -> None:
    content = bytearray(seed)
    for position, byte in flips:
        content[position % len(content)] = byte
    parse_bytes(bytes(content))


@given(st.sampled_from(SEEDS), st.integers(0, 1200))
def test_cut_files_give_a_document_or_a_typed_error(seed: bytes, length: int) -> None:
    parse_bytes(seed[:length])


@given(st.binary(max_size=300))
def test_any_bytes_give_a_document_or_a_typed_error(content: bytes) -> None:
    parse_bytes(content)
    parse_bytes(bytes(128) + b"DICM" + content)


def test_native_frame_bits_of_a_sample(pool: InlinePool) -> None:
    archive = FileArchive(sample("SC_ybr_full_422_uncompressed.dcm"), pool)
    fetched = archive.fetch(archive.ref(1))
    assert 8 * len(fetched.data) == native_frame_bits(fetched.layout) == 100 * 100 * 2 * 8
    archive.close()


def test_a_file_that_cannot_be_looked_at_is_not_forgotten(
    tmp_path: Path, open_archive: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "a.dcm", np.zeros((2, 2), np.uint16), SOPInstanceUID="1.7")
    archive = open_archive(tmp_path)
    archive.scan()
    (ref,) = refs(archive)
    os.utime(path, ns=(1, 1))  # changed: the next fetch looks at the file again

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("gpu_render.archive.folder.os.stat", refuse)
        with pytest.raises(CorruptPixelData, match="cannot be read at the moment"):
            archive.fetch(ref)
    assert archive.fetch(ref).ref == ref
