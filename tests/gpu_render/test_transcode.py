"""Frames and instances in other transfer syntaxes, as pydicom and DCMTK read them."""

import asyncio
import io
import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array

from gpu_render.ahead import Room
from gpu_render.archive import InstanceRecord
from gpu_render.archive.folder import FolderArchive
from gpu_render.archive.parse import quiet
from gpu_render.decode.codestream import parse_jpeg2000, parse_progression
from gpu_render.errors import CorruptPixelData, NotAcceptable, NotFound, NotRenderable, RenderError
from gpu_render.frame import PixelLayout
from gpu_render.priority import PriorityExecutor
from gpu_render.reference import FrameRef
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from gpu_render.transcode import EXPLICIT_LE, HTJ2K_RPCL, Transcoder, can, can_instance
from gpu_render.workers import WorkerPool
from kernels.cpu import CpuBackend
from tests import data
from tests.api.conftest import sample_files, sop_instance_uid, without_twins
from tests.data import DEFLATED, EXPLICIT_BE, IMPLICIT_LE, RLE

T = TypeVar("T")
J2K = "1.2.840.10008.1.2.4.90"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
FILES, _ = without_twins([path for path in sample_files() if sop_instance_uid(path)])
DCMDUMP = shutil.which("dcmdump")


class Place:
    """An archive of some files with all that transcoding needs."""

    def __init__(self, root: Path, pool: WorkerPool, cache_bytes: int = 1 << 20) -> None:
        self.archive = FolderArchive((root,), None, pool)
        self.pool = pool
        self._cache_bytes = cache_bytes
        self.archive.scan()

    def run(self, work: Callable[[Transcoder], Awaitable[T]]) -> T:
        """On an event loop and a renderer of its own."""

        async def main() -> T:
            renderer = Renderer(self.archive, CpuBackend(), self.pool, Settings(workers=1))
            encoders = PriorityExecutor(1, 64, "encode")
            room = Room(1 << 26)
            transcoder = Transcoder(self.archive, renderer, self.pool, encoders, room, self._cache_bytes)
            try:
                return await work(transcoder)
            finally:
                assert room.taken == 0
                await asyncio.to_thread(encoders.close)
                await asyncio.to_thread(renderer.close)

        return asyncio.run(main())

    def records(self) -> list[InstanceRecord]:
        return [
            r for study in self.archive.studies() for r in self.archive.instances(study.attributes.study_instance_uid)
        ]

    def only(self) -> InstanceRecord:
        """The instance of an archive of one file."""
        (record,) = self.records()
        return record

    def frame(self, number: int, target: str, record: InstanceRecord | None = None) -> bytes:
        ref = ref_of(record or self.only(), number)
        frame = self.run(lambda transcoder: transcoder.frame(ref, target))
        assert frame.transfer_syntax_uid == target
        return bytes(frame.data)

    def instance(self, target: str, record: InstanceRecord | None = None) -> bytes:
        async def work(transcoder: Transcoder) -> bytes:
            stream = await transcoder.instance(record or self.only(), target)
            async with aclosing(stream.chunks):
                content = b"".join([bytes(chunk) async for chunk in stream.chunks])
            assert stream.content_length in (None, len(content))
            assert (stream.content_length is None) == (target == HTJ2K_RPCL)
            return content

        return self.run(work)

    def metadata(self, record: InstanceRecord) -> dict[str, Any]:
        (text,) = self.archive.metadata([record])
        made: dict[str, Any] = json.loads(text)
        return made


def ref_of(record: InstanceRecord, number: int) -> FrameRef:
    return FrameRef(record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid, number)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as workers:
        yield workers


@pytest.fixture(scope="module")
def samples(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("samples")
    for number, path in enumerate(FILES):
        shutil.copyfile(path, root / f"{number}.dcm")
    place = Place(root, pool, cache_bytes=1 << 28)
    yield place
    place.archive.close()


@pytest.fixture
def one(pool: WorkerPool, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Make an archive of one file."""
    places: list[Place] = []

    def make(*arguments: Any, **options: Any) -> Place:
        data.write(tmp_path / "root" / "a.dcm", *arguments, **options)
        places.append(Place(tmp_path / "root", pool))
        return places[-1]

    yield make
    for place in places:
        place.archive.close()


def record_of(place: Place, path: Path) -> InstanceRecord:
    """The record of a sample; skips what is not in the archive."""
    uid = sop_instance_uid(path)
    found = [record for record in place.records() if record.sop_instance_uid == uid]
    if not found:
        pytest.skip("not an instance")
    return found[0]


# --- readers ------------------------------------------------------------------------------------------------


def picture_of(ds: Dataset) -> npt.NDArray[Any] | None:
    """Grey or RGB, as pydicom shows it; None where it cannot."""
    with quiet():
        try:
            return pixel_array(ds)
        except Exception:  # noqa: BLE001 - no decoder, or data that it refuses
            return None


def read(content: bytes) -> FileDataset:
    with quiet():
        return pydicom.dcmread(io.BytesIO(content), force=True)


def client_with(metadata: dict[str, Any], pixels: bytes, record: InstanceRecord) -> Dataset:
    """What a client puts together of the metadata and of frames in Explicit VR Little Endian."""
    with quiet():
        ds = Dataset.from_json(json.dumps(metadata), lambda *_: b"")
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT_LE)
    tag = next(tag for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010) if tag in ds)
    ds[tag].value = pixels + b"\0" * (len(pixels) % 2)
    ds.NumberOfFrames = record.number_of_frames
    return ds


def assert_same_picture(mine: npt.NDArray[Any], theirs: npt.NDArray[Any], lossy: bool) -> None:
    assert mine.shape == theirs.shape
    if not lossy:
        assert np.array_equal(mine, theirs)
        return
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    assert np.mean(difference) < 3
    assert np.quantile(difference, 0.99) < 40  # chrominance at edges, which each decoder makes up in its own way


# --- pydicom's samples --------------------------------------------------------------------------------------

BROKEN = {"JPEG2000-embedded-sequence-delimiter.dcm"}  # a delimiter stands in the header of its codestream
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_frames_show_clients_with_the_metadata_the_same_picture(path: Path, samples: Place) -> None:
    record = record_of(samples, path)
    if record.reason is not None:
        pytest.skip("nothing to show")
    if path.name in BROKEN:
        with pytest.raises(CorruptPixelData):
            samples.frame(1, EXPLICIT_LE, record)
        return
    frames = [samples.frame(number, EXPLICIT_LE, record) for number in range(1, record.number_of_frames + 1)]
    expected = picture_of(read(path.read_bytes()))
    if expected is None:
        pytest.skip("pydicom has no decoder")
    mine = picture_of(client_with(samples.metadata(record), b"".join(frames), record))
    assert mine is not None
    assert_same_picture(mine, expected, record.transfer_syntax_uid in LOSSY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("target", [EXPLICIT_LE, HTJ2K_RPCL])
def test_instances_are_files_with_the_same_content(target: str, path: Path, samples: Place, tmp_path: Path) -> None:
    record = record_of(samples, path)
    must_be_had = record.reason is None and target == EXPLICIT_LE and path.name not in BROKEN
    if not must_be_had and _is_refused(samples, target, record):
        return
    content = samples.instance(target, record)
    mine, theirs = read(content), read(path.read_bytes())
    assert mine.file_meta.TransferSyntaxUID == (
        record.transfer_syntax_uid if target == record.transfer_syntax_uid else target
    )
    assert mine.file_meta.MediaStorageSOPInstanceUID == mine.SOPInstanceUID == record.sop_instance_uid
    check_elements(mine, theirs)
    expected = picture_of(theirs) if record.reason is None else None
    if expected is not None:
        found = picture_of(mine)
        assert found is not None
        assert_same_picture(found, expected, record.transfer_syntax_uid in LOSSY)
    if DCMDUMP is None:
        assert not os.environ.get("CI"), "DCMTK is missing"
        return
    (tmp_path / "a.dcm").write_bytes(content)
    dumped = subprocess.run([DCMDUMP, "-q", tmp_path / "a.dcm"], capture_output=True, timeout=60, check=False)
    assert dumped.returncode == 0, dumped.stderr[:200]


def _is_refused(place: Place, target: str, record: InstanceRecord) -> bool:
    try:
        place.instance(target, record)
    except (NotAcceptable, CorruptPixelData) as refused:
        return any(words in str(refused) for words in ("offered", "cut off", "tiles"))
    return False


CHANGED = {0x00280004, 0x00280006, 0x7FE00010, 0x7FE00001, 0x7FE00002, 0x00080001, 0xFFFCFFFC}


def check_elements(mine: Dataset, theirs: Dataset) -> None:
    """All but what says how the pixels are coded."""
    with quiet():
        for ds in (mine, theirs):
            for tag in [tag for tag in ds.keys() if tag in CHANGED or tag.element == 0 or tag.group == 2]:  # noqa: SIM118
                del ds[tag]
        assert set(mine.keys()) == set(theirs.keys())
        as_json = [json.loads(ds.to_json(suppress_invalid_tags=True)) for ds in (mine, theirs)]
        swapped = theirs.original_encoding[1] is False
        for tag, element in as_json[1].items():
            if not (swapped and "InlineBinary" in element):
                assert as_json[0][tag] == element, tag


# --- native pixels ------------------------------------------------------------------------------------------


def words(syntax: str, values: list[int], code: str = "H") -> bytes:
    return struct.pack(f"{'>' if syntax == EXPLICIT_BE else '<'}{len(values)}{code}", *values)


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, data.EXPLICIT_LE, EXPLICIT_BE, DEFLATED])
@pytest.mark.parametrize(("bits", "code"), [(16, "H"), (32, "I"), (64, "Q")])
def test_words_of_any_size_and_order(syntax: str, bits: int, code: str, one: Callable[..., Place]) -> None:
    values = [1, 0x203, 0x405, 6, 7, 8]
    sizes = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "NumberOfFrames": 2}
    place = one(data.image(1, 3, **sizes), words(syntax, values, code), syntax)
    assert place.frame(2, EXPLICIT_LE) == struct.pack(f"<3{code}", *values[3:])
    assert read(place.instance(EXPLICIT_LE)).PixelData == struct.pack(f"<6{code}", *values)


@pytest.mark.parametrize("syntax", [data.EXPLICIT_LE, EXPLICIT_BE, DEFLATED])
def test_bytes_in_words(syntax: str, one: Callable[..., Place]) -> None:
    sizes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "NumberOfFrames": 2}
    pixels = bytes([1, 2, 3, 4, 5, 6])
    stored = words(syntax, np.frombuffer(pixels, "<u2").tolist())
    place = one(data.image(1, 3, **sizes), stored, syntax)
    assert [place.frame(number, EXPLICIT_LE) for number in (1, 2)] == [pixels[:3], pixels[3:]]
    assert read(place.instance(EXPLICIT_LE)).PixelData == pixels


@pytest.mark.parametrize("syntax", [data.EXPLICIT_LE, EXPLICIT_BE])
def test_bits_stay_packed(syntax: str, one: Callable[..., Place]) -> None:
    sizes = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 2}
    stored = words(syntax, [0b101_0110_1101])
    place = one(data.image(1, 5, **sizes), stored, syntax)
    assert [place.frame(number, EXPLICIT_LE)[0] for number in (1, 2)] == [0b01101, 0b01011]
    assert read(place.instance(EXPLICIT_LE)).PixelData == struct.pack("<H", 0b101_0110_1101)
    with pytest.raises(NotAcceptable, match="1 bits"):
        place.frame(1, HTJ2K_RPCL)


def test_floats(one: Callable[..., Place]) -> None:
    attributes = data.image(1, 2, BitsAllocated=32, BitsStored=..., HighBit=..., PixelRepresentation=...)
    values = struct.pack(">2f", 1.5, -2)
    place = one(attributes, values, EXPLICIT_BE, keyword="FloatPixelData", vr="OF")
    assert place.frame(1, EXPLICIT_LE) == struct.pack("<2f", 1.5, -2)
    assert read(place.instance(EXPLICIT_LE)).FloatPixelData == struct.pack("<2f", 1.5, -2)
    with pytest.raises(NotAcceptable, match="floating point"):
        place.frame(1, HTJ2K_RPCL)
    with pytest.raises(NotAcceptable, match="floating point"):
        place.instance(HTJ2K_RPCL)


def test_long_pixels_pass_through_in_steps(one: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.transcode._STEP_BYTES", 16)
    pixels = np.arange(100, dtype=">u2")
    place = one(data.image(10, 10), pixels.tobytes(), EXPLICIT_BE)
    assert read(place.instance(EXPLICIT_LE)).PixelData == pixels.astype("<u2").tobytes()


def test_a_file_that_is_cut_off_is_refused_before_anything_is_said(one: Callable[..., Place]) -> None:
    attributes = data.image(2, 2, NumberOfFrames=2)
    place = one(attributes, data.Raw("OW", bytes(16)).value, IMPLICIT_LE)
    record = place.only()
    path = next(Path(os.fsdecode(place.archive._roots[0])).iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:-6])
    with pytest.raises((NotFound, CorruptPixelData)):
        place.run(lambda transcoder: transcoder.instance(record, EXPLICIT_LE))
    place.archive.scan()
    with pytest.raises(CorruptPixelData, match="cut off"):
        place.run(lambda transcoder: transcoder.instance(place.only(), EXPLICIT_LE))


# --- compressed pixels --------------------------------------------------------------------------------------

GREY = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
COLOUR = {**GREY, "SamplesPerPixel": 3}


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


def rle(samples: npt.NDArray[np.uint8]) -> bytes:
    planes = [samples] if samples.ndim == 2 else [samples[..., plane] for plane in range(3)]
    segments = [bytes(imagecodecs.packbits_encode(np.ascontiguousarray(plane).reshape(-1))) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def encapsulated(frames: list[bytes]) -> bytes:
    return data.encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])


@pytest.mark.parametrize("planar", [0, 1])
def test_planes_are_what_the_data_set_says(planar: int, one: Callable[..., Place]) -> None:
    samples = noise(4, 6, 3)
    attributes = data.image(4, 6, PhotometricInterpretation="RGB", PlanarConfiguration=planar, **COLOUR)
    place = one(attributes, encapsulated([rle(samples)]), RLE, encapsulated=True)
    expected = np.moveaxis(samples, -1, 0) if planar else samples
    assert place.frame(1, EXPLICIT_LE) == expected.tobytes()
    rewritten = read(place.instance(EXPLICIT_LE))
    assert (rewritten.PlanarConfiguration, rewritten.PixelData) == (0, samples.tobytes())
    assert rewritten["PixelData"].VR == "OB"
    if planar:
        with pytest.raises(NotAcceptable, match="Planar Configuration 1"):
            place.frame(1, HTJ2K_RPCL)
    coded = read(place.instance(HTJ2K_RPCL))
    assert coded.PlanarConfiguration == 0
    assert np.array_equal(coded.pixel_array, samples)


@pytest.mark.parametrize("photometric", ["YBR_RCT", "RGB", "YBR_FULL"])
def test_colour_transforms_of_the_codestream_are_undone(photometric: str, one: Callable[..., Place]) -> None:
    samples = noise(8, 6, 3)
    codestream = bytes(
        imagecodecs.jpeg2k_encode(samples, mct=photometric == "YBR_RCT", reversible=True, codecformat="J2K")
    )
    attributes = data.image(8, 6, PhotometricInterpretation=photometric, PlanarConfiguration=0, **COLOUR)
    place = one(attributes, encapsulated([codestream]), J2K, encapsulated=True)
    assert place.frame(1, EXPLICIT_LE) == samples.tobytes()
    rewritten = read(place.instance(EXPLICIT_LE))
    assert rewritten.PhotometricInterpretation == ("RGB" if photometric == "YBR_RCT" else photometric)
    assert rewritten.PixelData == samples.tobytes()
    frame = place.frame(1, HTJ2K_RPCL)
    assert parse_jpeg2000(frame).multiple_component_transform == (photometric == "YBR_RCT")
    assert np.array_equal(imagecodecs.jpeg2k_decode(frame), samples)
    coded = read(place.instance(HTJ2K_RPCL))
    assert coded.PhotometricInterpretation == photometric
    assert coded["PixelData"].is_undefined_length


def jpeg_422(samples: npt.NDArray[np.uint8]) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(samples, level=95, colorspace="YCBCR", outcolorspace="YCBCR", subsampling="422")
    )


def test_shared_chrominance_of_jpeg_is_shared_again(one: Callable[..., Place]) -> None:
    rows, columns = np.mgrid[:16, :32]
    samples = np.stack([rows * 8 + columns, 100 + columns, 150 - rows], axis=-1).astype(np.uint8)
    attributes = data.image(16, 32, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0, **COLOUR)
    place = one(attributes, encapsulated([jpeg_422(samples)]), data.JPEG_BASELINE, encapsulated=True)
    frame = np.frombuffer(place.frame(1, EXPLICIT_LE), np.uint8).reshape(16, 16, 4)
    assert np.abs(frame[..., :2].reshape(16, 32).astype(int) - samples[..., 0]).max() <= 3
    assert np.abs(frame[..., 2].astype(int) - samples[:, ::2, 1]).max() <= 3
    assert np.abs(frame[..., 3].astype(int) - samples[:, ::2, 2]).max() <= 3
    rewritten = read(place.instance(EXPLICIT_LE))
    assert rewritten.PhotometricInterpretation == "YBR_FULL"
    assert len(rewritten.PixelData) == 16 * 32 * 3
    with pytest.raises(NotAcceptable, match="subsampled"):
        place.frame(1, HTJ2K_RPCL)
    assert read(place.instance(HTJ2K_RPCL)).PhotometricInterpretation == "YBR_FULL"


def test_shared_chrominance_that_is_none_is_refused(one: Callable[..., Place]) -> None:
    attributes = data.image(4, 6, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0, **COLOUR)
    place = one(attributes, encapsulated([rle(noise(4, 6, 3))]), RLE, encapsulated=True)
    with pytest.raises(NotAcceptable, match="contradicts"):
        place.frame(1, EXPLICIT_LE)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_bits_stored_stay(signed: int, one: Callable[..., Place]) -> None:
    """An overlay there, say: the client masks it as the data set says."""
    samples = np.array([[0xF123, 0x8001], [0x0FFF, 0x0800]], "<u2")
    place = one(data.image(2, 2, BitsStored=12, HighBit=11, PixelRepresentation=signed), samples.tobytes())
    assert place.frame(1, EXPLICIT_LE) == samples.tobytes()
    decoded = imagecodecs.jpeg2k_decode(place.frame(1, HTJ2K_RPCL))
    assert np.array_equal(decoded.view("<u2"), samples)


def test_codestreams_are_made_once_and_kept(one: Callable[..., Place]) -> None:
    place = one(data.image(64, 64, NumberOfFrames=2), noise(2, 64, 128).tobytes())
    ref = ref_of(place.only(), 2)

    async def work(transcoder: Transcoder) -> None:
        frames = await asyncio.gather(*[transcoder.frame(ref, HTJ2K_RPCL) for _ in range(5)])
        assert len({id(frame) for frame in frames}) == 1
        assert await transcoder.frame(ref, HTJ2K_RPCL) is frames[0]
        assert transcoder.cache.nbytes == len(frames[0].data)
        assert parse_progression(bytes(frames[0].data)).order == 2

    place.run(work)
    again = place.frame(2, HTJ2K_RPCL)
    assert again == place.frame(2, HTJ2K_RPCL)


def test_stored_codestreams_pass_as_they_are(one: Callable[..., Place]) -> None:
    codestream = bytes(imagecodecs.htj2k_encode(noise(9, 9), reversible=True))
    attributes = data.image(9, 9, **GREY)
    place = one(attributes, encapsulated([codestream]), HTJ2K_RPCL, encapsulated=True)
    assert place.frame(1, HTJ2K_RPCL)[: len(codestream)] == codestream


def test_frames_in_deflated_form(one: Callable[..., Place]) -> None:
    packer = zlib.compressobj(wbits=-15)
    frame = packer.compress(b"\1\2\3\4") + packer.flush()
    place = one(data.image(2, 2, **GREY), encapsulated([frame]), "1.2.840.10008.1.2.8.1", encapsulated=True)
    assert place.frame(1, EXPLICIT_LE) == b"\1\2\3\4"
    assert read(place.instance(EXPLICIT_LE)).PixelData == b"\1\2\3\4"


def test_an_odd_number_of_bytes_is_padded_once(one: Callable[..., Place]) -> None:
    samples = noise(3, 3, 5)
    place = one(
        data.image(3, 5, NumberOfFrames=3, **GREY), encapsulated([rle(s) for s in samples]), RLE, encapsulated=True
    )
    assert read(place.instance(EXPLICIT_LE)).PixelData == samples.tobytes() + b"\0"


# --- data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_BE, DEFLATED])
def test_objects_without_pixels(syntax: str, one: Callable[..., Place]) -> None:
    item = {"CodeValue": "1", "ReferencePixelX0": -5}
    attributes = {
        **{name: data.image(1, 1)[name] for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")},
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": data.Raw("PN", b"M\xfcller"),
        "ContentSequence": [item, {}, item],
    }
    place = one(attributes, None, syntax)
    ds = read(place.instance(EXPLICIT_LE))
    assert ds.PatientName == "Müller"
    assert [len(item) for item in ds.ContentSequence] == [2, 0, 2]
    assert ds.ContentSequence[2].ReferencePixelX0 == -5
    with pytest.raises(NotAcceptable):
        place.instance(HTJ2K_RPCL)


def test_group_lengths_and_offset_tables_go(one: Callable[..., Place]) -> None:
    samples = noise(4, 4)
    attributes = data.image(
        4, 4, LengthToEnd=5, ExtendedOffsetTable=bytes(8), ExtendedOffsetTableLengths=bytes(8), **GREY
    )
    place = one(attributes, encapsulated([rle(samples)]), RLE, encapsulated=True)
    for target in (EXPLICIT_LE, HTJ2K_RPCL):
        ds = read(place.instance(target))
        assert not {"LengthToEnd", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"} & set(ds.dir())


def with_icon(attributes: dict[str, Any], tag: int, pixels: bytes, *, length: int | None) -> bytes:
    body = data.dataset(attributes)
    icon = data.element(0x7FE00010, pixels, vr="OB", length=length)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(icon)) + icon
    body += data.element(tag, data.Raw("SQ", item))
    body += data.element(0x7FE00010, data.encapsulate([rle(noise(4, 4))]), vr="OB", length=data.UNDEFINED)
    return b"\0" * 128 + b"DICM" + data.file_meta(RLE, attributes["SOPInstanceUID"]) + body


def test_icons(pool: WorkerPool, tmp_path: Path) -> None:
    """A native one stays; one that is compressed goes, for its syntax does."""
    for name, pixels, length in (("native", b"\1\2", None), ("coded", data.encapsulate([b"ab"]), data.UNDEFINED)):
        (tmp_path / name).mkdir()
        content = with_icon(data.image(4, 4, **GREY), 0x00880200, pixels, length=length)
        (tmp_path / name / "a").write_bytes(content)
        place = Place(tmp_path / name, pool)
        assert ("IconImageSequence" in read(place.instance(EXPLICIT_LE))) == (name == "native")
        place.archive.close()


def test_compressed_pixels_elsewhere_are_refused(pool: WorkerPool, tmp_path: Path) -> None:
    content = with_icon(data.image(4, 4, **GREY), 0x00890011, data.encapsulate([b"ab"]), length=data.UNDEFINED)
    (tmp_path / "a").write_bytes(content)
    place = Place(tmp_path, pool)
    with pytest.raises(NotRenderable, match="within a sequence"):
        place.instance(EXPLICIT_LE)
    place.archive.close()


def test_elements_behind_the_pixels_follow_them(pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        data.file_bytes(data.image(4, 4, **GREY), data.encapsulate([rle(noise(4, 4))]), RLE, encapsulated=True)
        + data.element(0x7FE10010, b"ACME", vr="LO")
    )
    place = Place(tmp_path, pool)
    for target in (EXPLICIT_LE, HTJ2K_RPCL):
        assert read(place.instance(target))[0x7FE10010].value == "ACME"
    place.archive.close()


def test_a_value_too_long_for_its_length_field_is_unknown(one: Callable[..., Place]) -> None:
    place = one(data.image(1, 1, ImageComments=data.Raw("LT", b"x" * 70000)), bytes(2), IMPLICIT_LE)
    element = read(place.instance(EXPLICIT_LE)).get_item("ImageComments")
    assert (element.VR, element.value) == ("UN", b"x" * 70000)


# --- what can be had ----------------------------------------------------------------------------------------


def layout(**changes: Any) -> PixelLayout:
    fields: dict[str, Any] = {"samples_per_pixel": 1, "bits_allocated": 16, "photometric_interpretation": "MONOCHROME2"}
    fields |= changes
    bits = fields["bits_allocated"]
    return PixelLayout(
        **{"rows": 2, "columns": 2, "bits_stored": bits, "high_bit": bits - 1, "pixel_representation": 0, **fields}
    )


@pytest.mark.parametrize(
    ("stored", "changes", "target", "frame", "instance"),
    [
        (J2K, {}, EXPLICIT_LE, True, True),
        (J2K, {}, HTJ2K_RPCL, True, True),
        (J2K, {}, J2K, True, True),
        (J2K, {}, data.JPEG_BASELINE, False, False),
        (data.EXPLICIT_LE, {"bits_allocated": 32}, HTJ2K_RPCL, False, False),
        (data.EXPLICIT_LE, {"bits_allocated": 32, "is_float": True}, EXPLICIT_LE, True, True),
        (
            data.EXPLICIT_LE,
            {
                "samples_per_pixel": 3,
                "bits_allocated": 8,
                "photometric_interpretation": "RGB",
                "planar_configuration": 1,
            },
            HTJ2K_RPCL,
            False,
            True,
        ),
        (
            data.EXPLICIT_LE,
            {"samples_per_pixel": 3, "bits_allocated": 8, "photometric_interpretation": "YBR_PARTIAL_422"},
            HTJ2K_RPCL,
            False,
            False,
        ),
        (
            "1.2.840.10008.1.2.4.112",
            {"samples_per_pixel": 3, "photometric_interpretation": "XYB"},
            EXPLICIT_LE,
            False,
            True,
        ),
        ("1.2.840.10008.1.2.4.102", {}, EXPLICIT_LE, False, False),
    ],
)
def test_what_can_be_had(stored: str, changes: dict[str, Any], target: str, frame: bool, instance: bool) -> None:
    assert can(stored, layout(**changes), target) == frame
    assert can_instance(stored, layout(**changes), target) == instance


def test_what_cannot_be_shown_can_be_rewritten_only_if_nothing_is_decoded() -> None:
    assert can_instance(EXPLICIT_BE, None, EXPLICIT_LE)
    assert not can_instance(EXPLICIT_BE, None, HTJ2K_RPCL)
    assert not can_instance(J2K, None, EXPLICIT_LE)


def test_a_stream_that_is_left_drops_what_is_under_way(one: Callable[..., Place]) -> None:
    samples = noise(40, 64, 64)
    attributes = data.image(64, 64, NumberOfFrames=40, **GREY)
    place = one(attributes, encapsulated([rle(s) for s in samples]), RLE, encapsulated=True)

    async def work(transcoder: Transcoder) -> None:
        stream = await transcoder.instance(place.only(), HTJ2K_RPCL)
        async with aclosing(stream.chunks):
            async for _ in stream.chunks:
                break
        with pytest.raises(RenderError):
            await transcoder.frame(FrameRef("1", "2", "3", 1), HTJ2K_RPCL)

    place.run(work)
