"""dicomweb-client, the client of Python programs: search, metadata, instances, frames, pictures, bulk data, storing."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom.dataset import Dataset

from tests.api.served import serving
from tests.clients import archive
from tests.clients.conftest import DicomWeb

PIXEL_DATA = "7FE00010"


@pytest.fixture
def client(dicomweb: DicomWeb) -> DICOMwebClient:
    """The client, with nothing set but the address."""
    return DICOMwebClient(url=dicomweb.root)


def header(path: Path) -> Dataset:
    """A file's data set without its pixels."""
    return pydicom.dcmread(path, stop_before_pixels=True)


def uids(path: Path) -> tuple[str, str, str]:
    """Study, series and SOP Instance UID of a file."""
    ds = header(path)
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)


def written(ds: Dataset) -> bytes:
    """A data set that was retrieved, as a file again."""
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def studies_of(answers: list[dict[str, Any]]) -> set[str]:
    """Study Instance UIDs of search results."""
    return {answer["0020000D"]["Value"][0] for answer in answers}


def test_studies_are_found_by_what_worklists_ask_for(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    everything = {uids(path)[0] for path in dicomweb.files.values()} | {archive.STUDY_UID}
    assert studies_of(client.search_for_studies()) == everything
    phantom = {archive.STUDY_UID}
    for filters in (
        {"PatientID": "DEMO-1"},
        {"00100020": "DEMO-1"},
        {"PatientName": "Demo*"},
        {"PatientName": "*phantom*"},
        {"StudyDate": "20240229"},
        {"StudyDate": "20240201-20240301", "ModalitiesInStudy": "CT"},
        {"AccessionNumber": "DEMO-1"},
        {"StudyDescription": "*synthetic"},
        {"StudyInstanceUID": archive.STUDY_UID},
    ):
        assert studies_of(client.search_for_studies(search_filters=filters)) == phantom, filters
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_fuzzy_matching_finds_names_that_sound_alike_or_says_that_it_does_not(client: DICOMwebClient) -> None:
    found = client.search_for_studies(search_filters={"PatientName": "phantom"}, fuzzymatching=True)
    assert studies_of(found) == {archive.STUDY_UID}


def test_pages_of_a_search_end(client: DICOMwebClient) -> None:
    """With a limit and all that remains the client asks on until an answer is empty."""
    pages = client.search_for_instances(archive.STUDY_UID, limit=5, get_remaining=True)
    once = client.search_for_instances(archive.STUDY_UID)
    assert len(once) == archive.SLICES * len(archive.PHANTOM)
    assert pages == once
    assert client.search_for_instances(archive.STUDY_UID, limit=3, offset=4) == once[4:7]


def test_fields_that_are_asked_for_are_there(client: DICOMwebClient) -> None:
    fields = ["StudyDescription", "00080090"]
    [study] = client.search_for_studies(search_filters={"PatientID": "DEMO-1"}, fields=fields)
    assert study["00081030"]["Value"] == ["CT chest and upper abdomen, synthetic"]
    assert study["00080090"]["vr"] == "PN"
    series = client.search_for_series(archive.STUDY_UID, fields=["BodyPartExamined"])
    assert [one["00180015"]["Value"] for one in series] == [["CHEST"]] * len(archive.PHANTOM)


def test_series_and_instances_are_found_below_and_without_a_study(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    series = client.search_for_series(archive.STUDY_UID)
    assert [one["00200011"]["Value"][0] for one in series] == [one.number for one in archive.PHANTOM]
    assert {one["0020000E"]["Value"][0] for one in series} == {archive.series_uid(one) for one in archive.PHANTOM}
    assert {one["00201209"]["Value"][0] for one in series} == {archive.SLICES}
    mr = client.search_for_series(search_filters={"Modality": "MR"})
    assert {one["0020000E"]["Value"][0] for one in mr} == {uids(dicomweb.files["MR_small_bigendian.dcm"])[1]}
    first = archive.PHANTOM[0]
    instances = client.search_for_instances(archive.STUDY_UID, archive.series_uid(first))
    assert [one["00080018"]["Value"][0] for one in instances] == [
        archive.instance_uid(first, position) for position in range(archive.SLICES)
    ]
    found = client.search_for_instances(search_filters={"SOPInstanceUID": archive.instance_uid(first, 2)})
    assert [one["00200013"]["Value"] for one in found] == [instances[2]["00200013"]["Value"]]


def test_metadata_of_a_study_a_series_and_an_instance_are_the_files_own(
    client: DICOMwebClient, dicomweb: DicomWeb
) -> None:
    series = archive.PHANTOM[1]
    study = client.retrieve_study_metadata(archive.STUDY_UID)
    assert len(study) == archive.SLICES * len(archive.PHANTOM)
    of_series = client.retrieve_series_metadata(archive.STUDY_UID, archive.series_uid(series))
    assert [one["00080018"]["Value"][0] for one in of_series] == [
        archive.instance_uid(series, position) for position in range(archive.SLICES)
    ]
    for name, path in dicomweb.files.items():
        metadata = client.retrieve_instance_metadata(*uids(path))
        assert "InlineBinary" not in metadata.get(PIXEL_DATA, {}), name
        found, stored = Dataset.from_json(metadata, lambda *_: b""), header(path)
        for keyword in ("SOPClassUID", "Rows", "Columns", "PixelSpacing", "WindowCenter", "Modality", "PatientID"):
            assert found.get(keyword) == stored.get(keyword), (name, keyword)
        assert str(found.get("PatientName", "")) == str(stored.get("PatientName", "")), name


@pytest.mark.parametrize("name", [*archive.SAMPLES])
def test_an_instance_comes_back_as_it_was_stored(client: DICOMwebClient, dicomweb: DicomWeb, name: str) -> None:
    path = dicomweb.files[name]
    stored = pydicom.dcmread(path)
    found = client.retrieve_instance(*uids(path), media_types=(("application/dicom", "*"),))
    assert found.file_meta.TransferSyntaxUID == stored.file_meta.TransferSyntaxUID
    assert written(found) == written(stored)


def test_an_instance_of_no_named_syntax_comes_in_explicit_little_endian(
    client: DICOMwebClient, dicomweb: DicomWeb
) -> None:
    """The default of PS3.18 8.7.3; the client's own is to take any."""
    series = archive.PHANTOM[1]
    address = (archive.STUDY_UID, archive.series_uid(series), archive.instance_uid(series, 3))
    assert client.retrieve_instance(*address).file_meta.TransferSyntaxUID == series.transfer_syntax_uid
    found = client.retrieve_instance(*address, media_types=("application/dicom",))
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(found.pixel_array, archive.stored_values(3))


def test_series_and_studies_arrive_whole(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    series = archive.PHANTOM[3]
    stored = (("application/dicom", "*"),)
    whole = client.retrieve_series(archive.STUDY_UID, archive.series_uid(series), media_types=stored)
    assert {str(ds.SOPInstanceUID) for ds in whole} == {archive.instance_uid(series, n) for n in range(archive.SLICES)}
    streamed = client.iter_series(archive.STUDY_UID, archive.series_uid(series), media_types=stored)
    assert [ds.PixelData for ds in streamed] == [ds.PixelData for ds in whole]
    study = client.retrieve_study(uids(dicomweb.files["CT_small.dcm"])[0], media_types=stored)
    assert [written(ds) for ds in study] == [written(pydicom.dcmread(dicomweb.files["CT_small.dcm"]))]


@pytest.mark.parametrize("series", archive.PHANTOM, ids=lambda one: one.folder)
def test_frames_arrive_decoded_and_as_they_are_stored(client: DICOMwebClient, series: Any) -> None:
    address = (archive.STUDY_UID, archive.series_uid(series), archive.instance_uid(series, 4))
    [plain] = client.retrieve_instance_frames(*address, frame_numbers=[1])
    values = archive.stored_values(4)
    assert np.array_equal(np.frombuffer(plain, "<i2").reshape(values.shape), values)
    kinds = (("application/octet-stream", "*"), ("image/*", "*"))
    for media_types in (kinds, kinds[:1]):
        [stored] = client.retrieve_instance_frames(*address, frame_numbers=[1], media_types=media_types)
        encoded = values.tobytes() if series.encode is None else series.encode(values)
        assert stored in (encoded, encoded + b"\0"), "PS3.5 8.2: a fragment may be padded to an even length"


@pytest.mark.parametrize(
    ("number", "media_type"),
    [(2, "image/jp2"), (4, "image/jls"), (4, "image/x-jls"), (5, "image/x-dicom-rle"), (5, "image/dicom-rle")],
)
def test_frames_arrive_as_the_media_type_that_is_named(client: DICOMwebClient, number: int, media_type: str) -> None:
    series = archive.PHANTOM[number - 1]
    address = (archive.STUDY_UID, archive.series_uid(series), archive.instance_uid(series, 0))
    assert series.encode is not None
    encoded = series.encode(archive.stored_values(0))
    [stored] = client.retrieve_instance_frames(*address, frame_numbers=[1], media_types=(media_type,))
    assert stored in (encoded, encoded + b"\0")


def test_frames_of_a_list_come_in_its_order_and_one_by_one(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    path = dicomweb.files["SC_rgb_rle_2frame.dcm"]
    pixels = pydicom.dcmread(path).pixel_array
    turned = client.retrieve_instance_frames(*uids(path), frame_numbers=[2, 1])
    assert [
        np.array_equal(np.frombuffer(t, "u1").reshape(p.shape), p) for t, p in zip(turned, pixels[::-1], strict=True)
    ]
    single = list(client.iter_instance_frames(*uids(path), frame_numbers=[1, 2]))
    assert single == turned[::-1]
    long = dicomweb.files["examples_ybr_color.dcm"]
    numbers = [30, 1, 17, 2]
    frames = list(client.iter_instance_frames(*uids(long), frame_numbers=numbers))
    assert [len(frame) for frame in frames] == [240 * 320 * 2] * 4, "YBR_FULL_422, as its metadata say, is 2 a pixel"
    assert frames[1] == client.retrieve_instance_frames(*uids(long), frame_numbers=[1])[0]


def test_rendered_pictures_are_of_the_kind_that_is_asked_for(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    address = uids(dicomweb.files["CT_small.dcm"])
    for media_type, kind in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/gif", "GIF")):
        picture = Image.open(io.BytesIO(client.retrieve_instance_rendered(*address, media_types=(media_type,))))
        assert (picture.format, picture.size) == (kind, (128, 128))
    frames = client.retrieve_instance_frames_rendered(
        *address, frame_numbers=[1], media_types=("image/png",), params={"window": "40,400,linear", "viewport": "64,64"}
    )
    assert Image.open(io.BytesIO(frames)).size == (64, 64)
    series = client.retrieve_series_rendered(*address[:2], media_types=("image/png",))
    assert np.asarray(Image.open(io.BytesIO(series))).std() > 10


def test_bulk_data_that_metadata_points_at_are_the_files_own(client: DICOMwebClient, dicomweb: DicomWeb) -> None:
    """Addresses begin with ``/``: the client's Host header lacks the port, so that no server could make them whole."""
    path = dicomweb.files["examples_palette.dcm"]
    stored = pydicom.dcmread(path)
    fetched = []

    def fetch(tag: str, vr: str, address: str) -> bytes:
        [value] = client.retrieve_bulkdata(urljoin(dicomweb.root, address))
        fetched.append(tag)
        return bytes(value)

    metadata = client.retrieve_instance_metadata(*uids(path))
    found = Dataset.from_json(metadata, fetch)
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        assert found[keyword].value == stored[keyword].value
    if PIXEL_DATA in metadata:
        assert found.PixelData == stored.PixelData
    assert set(fetched) >= {tag for tag, element in metadata.items() if "BulkDataURI" in element}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DICOMwebClient]:
    """A client of a service that has nothing yet and stores what it is sent."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "work").mkdir()
    environment = {"GPU_RENDER_STORE_PATH": str(root)}
    with serving(root, tmp_path / "work", environment=environment) as running:
        yield DICOMwebClient(url=f"http://127.0.0.1:{running.port}/dicomweb", chunk_size=100_000)


def test_instances_that_are_stored_can_be_found_and_retrieved_at_once(
    store: DICOMwebClient, dicomweb: DicomWeb
) -> None:
    """One small request with its length, one in chunks, as the client sends them; then the same again."""
    small = [pydicom.dcmread(dicomweb.files[name]) for name in ("CT_small.dcm", "MR_small_bigendian.dcm")]
    large = [pydicom.dcmread(dicomweb.files[name]) for name in ("693_J2KI.dcm", "examples_ybr_color.dcm")]
    for sent in (small, large, large):
        answer = store.store_instances(sent)
        kept = {str(item.ReferencedSOPInstanceUID) for item in answer.ReferencedSOPSequence}
        assert kept == {str(ds.SOPInstanceUID) for ds in sent}
        assert "FailedSOPSequence" not in answer
    assert len(store.search_for_instances()) == 4
    for ds in small + large:
        address = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        found = store.retrieve_instance(*address, media_types=(("application/dicom", "*"),))
        assert written(found) == written(ds)
        assert store.retrieve_instance_frames(*address, frame_numbers=[1])


def test_an_instance_of_another_study_is_refused_by_name(store: DICOMwebClient, dicomweb: DicomWeb) -> None:
    from requests.exceptions import HTTPError

    ds = pydicom.dcmread(dicomweb.files["CT_small.dcm"])
    with pytest.raises(HTTPError, match="409"):
        store.store_instances([ds], study_instance_uid="1.2.3")
    assert store.search_for_instances() == []
