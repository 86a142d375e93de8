"""Whole instances, series and studies, and bulk data, by WADO-RS: the files that were stored, byte for byte."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import UID
from starlette.testclient import TestClient

from api.dicomweb.forms import DICOM, OCTETS
from gpu_render.transcode import EXPLICIT_LE, HTJ2K_RPCL
from tests.api.answers import SERIES, STUDY, Answers, assert_problem, serve
from tests.api.dicomweb.bodies import parts
from tests.data import image, sample, write, write_image

STAR = 'multipart/related; type="application/dicom"; transfer-syntax=*'
BIG = 3_000_000


def get(client: TestClient, url: str, accept: str | None = None, **headers: str) -> Any:
    return client.get(url, headers={"Accept": accept or "*/*", **{k.replace("_", "-"): v for k, v in headers.items()}})


def uids_of(path: Path) -> tuple[str, str, str, str] | None:
    """Study, series, SOP Instance and transfer syntax of a file that has all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            return (
                str(dataset.StudyInstanceUID),
                str(dataset.SeriesInstanceUID),
                str(dataset.SOPInstanceUID),
                str(dataset.file_meta.TransferSyntaxUID),
            )
        except Exception:  # noqa: BLE001 - pydicom may raise anything here
            return None


def url_of(study: str, series: str, instance: str) -> str:
    return f"/dicomweb/studies/{study}/series/{series}/instances/{instance}"


def test_every_instance_is_bit_for_bit_the_file(client: TestClient, samples: Path) -> None:
    """Images, structured reports, presentation states, whatever is in the archive."""
    compared = set()
    for path in sorted(samples.rglob("*")):
        uids = uids_of(path) if path.is_file() else None
        if uids is None:
            continue
        response = get(client, url_of(*uids[:3]))
        if response.status_code == 404:  # what the archive does not take: no valid UID, a directory
            continue
        content = path.read_bytes()
        found = parts(response)
        assert [(part.content_type, part.data) for part in found] == [(f"{DICOM}; transfer-syntax={uids[3]}", content)]
        assert parts(get(client, url_of(*uids[:3]), STAR)) == found
        alone = get(client, url_of(*uids[:3]), "application/dicom; transfer-syntax=*")
        assert (alone.headers["content-type"], alone.content) == (found[0].content_type, content)
        compared.add(uids[3])
    assert len(compared) > 8


def test_a_series_and_a_study_are_all_their_files(client: TestClient, samples: Path) -> None:
    of_series: dict[tuple[str, str], list[bytes]] = {}
    of_study: dict[str, list[bytes]] = {}
    for path in sorted(samples.rglob("*")):
        uids = uids_of(path) if path.is_file() else None
        if uids is not None and get(client, url_of(*uids[:3])).status_code == 200:
            of_series.setdefault(uids[:2], []).append(path.read_bytes())
            of_study.setdefault(uids[0], []).append(path.read_bytes())
    assert max(map(len, of_study.values())) > 2
    for (study, series), contents in of_series.items():
        found = parts(get(client, f"/dicomweb/studies/{study}/series/{series}"))
        assert sorted(part.data for part in found) == sorted(contents)
    for study, contents in of_study.items():
        response = get(client, f"/dicomweb/studies/{study}", STAR)
        assert sorted(part.data for part in parts(response)) == sorted(contents)
        assert response.headers["cache-control"] == "private, no-cache"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instances")
    big = np.random.default_rng(7).integers(0, 255, (1000, BIG // 1000), dtype=np.uint8)
    write_image(folder / "1.dcm", big, SOPInstanceUID="1.2.4.7.1", InstanceNumber=1)
    small = np.arange(12, dtype=np.uint16).reshape(3, 4)
    write_image(folder / "2.dcm", small, SOPInstanceUID="1.2.4.7.2", InstanceNumber=2)
    document = image(1, 1, SOPInstanceUID="1.2.4.7.3", InstanceNumber=3, Rows=..., Columns=...)
    document |= {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "MIMETypeOfEncapsulatedDocument": "application/pdf"}
    write(folder / "3.dcm", document | {"EncapsulatedDocument": b"%PDF-1.4 " + bytes(range(256)) * 20 + b"\n"})
    return folder


@pytest.fixture(scope="module")
def answers(root: Path) -> Iterator[Answers]:
    with serve(root) as running:
        yield running


def local(number: int) -> str:
    return url_of(STUDY, SERIES, f"1.2.4.7.{number}")


def test_large_files_are_read_in_steps(answers: Answers, root: Path) -> None:
    whole = get(answers.client, local(1))
    assert parts(whole)[0].data == (root / "1.dcm").read_bytes()
    assert whole.headers["content-length"] == str(len(whole.content))
    series = get(answers.client, f"/dicomweb/studies/{STUDY}/series/{SERIES}")
    assert [part.data for part in parts(series)] == [(root / f"{n}.dcm").read_bytes() for n in (1, 2, 3)]


@pytest.mark.parametrize("url", [local(1), local(2), f"/dicomweb/studies/{STUDY}"])
@pytest.mark.parametrize("accept", [STAR, "application/dicom; transfer-syntax=*"])
def test_ranges_glued_together_are_the_whole(answers: Answers, url: str, accept: str) -> None:
    whole = get(answers.client, url, accept)
    if whole.status_code == 406:  # a study by itself
        assert accept.startswith("application")
        assert "instances" not in url
        return
    assert whole.headers["accept-ranges"] == "bytes"
    glued, step = b"", len(whole.content) // 7 + 1
    while len(glued) < len(whole.content):
        response = get(answers.client, url, accept, Range=f"bytes={len(glued)}-{len(glued) + step - 1}")
        assert response.status_code == 206
        assert response.headers["content-range"].endswith(f"/{len(whole.content)}")
        assert response.headers["content-length"] == str(len(response.content))
        glued += response.content
    assert glued == whole.content
    behind = get(answers.client, url, accept, Range=f"bytes={len(glued)}-")
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(glued)}")


def test_a_known_etag_is_304(answers: Answers) -> None:
    for url in (local(1), local(2), f"/dicomweb/studies/{STUDY}/series/{SERIES}", f"/dicomweb/studies/{STUDY}"):
        tag = get(answers.client, url).headers["etag"]
        known = get(answers.client, url, If_None_Match=tag)
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
        assert get(answers.client, url, If_None_Match='"other"').status_code == 200


def test_head_is_get_without_a_body(answers: Answers) -> None:
    for url in (local(1), local(2), f"/dicomweb/studies/{STUDY}"):
        got, head = get(answers.client, url), answers.client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
        assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize(
    ("study", "series", "instance"),
    [("1.2.99", SERIES, "1.2.4.7.1"), (STUDY, "1.2.99", "1.2.4.7.1"), (STUDY, SERIES, "1.2.99")],
)
def test_not_found_at_each_level(answers: Answers, study: str, series: str, instance: str) -> None:
    urls = [url_of(study, series, instance), url_of(study, series, instance) + "/bulkdata/00420011"]
    if instance != "1.2.99":
        urls.append(f"/dicomweb/studies/{study}/series/{series}")
    if study == "1.2.99":
        urls.append(f"/dicomweb/studies/{study}")
    for url in urls:
        assert_problem(get(answers.client, url), 404, "1.2.99")


def test_what_is_no_uid_is_400(answers: Answers) -> None:
    for url in ("/dicomweb/studies/x", f"/dicomweb/studies/{STUDY}/series/x", url_of(STUDY, SERIES, "x")):
        assert get(answers.client, url).status_code == 400


def test_what_cannot_be_had_is_406(answers: Answers) -> None:
    for accept in (
        "application/zip",
        "multipart/related; type=image/jpeg",
        STAR.replace("*", "1.2.840.10008.1.2.4.80"),
    ):
        response = get(answers.client, local(2), accept)
        assert response.status_code == 406, accept
        assert "application/dicom" in response.json()["detail"] or EXPLICIT_LE in response.json()["detail"]
    assert get(answers.client, local(2), f"application/zip, {STAR}").status_code == 200


def test_a_file_that_has_gone_is_404(tmp_path: Path) -> None:
    path = write_image(tmp_path / "gone.dcm", np.zeros((4, 4), np.uint16), SOPInstanceUID="1.2.4.7.9")
    with serve(tmp_path) as running:
        url = url_of(STUDY, SERIES, "1.2.4.7.9")
        assert get(running.client, url).status_code == 200
        path.unlink()
        assert_problem(get(running.client, url), 404, "1.2.4.7.9")


def test_a_document_is_bulk_data(answers: Answers) -> None:
    url = local(3) + "/bulkdata/00420011"
    found = parts(get(answers.client, url))
    assert found[0].content_type == f"{OCTETS}; transfer-syntax={EXPLICIT_LE}"
    assert (
        found[0].data == pydicom.dcmread(io.BytesIO(parts(get(answers.client, local(3)))[0].data)).EncapsulatedDocument
    )
    alone = get(answers.client, url, OCTETS)
    assert (alone.headers["content-type"], alone.content) == (found[0].content_type, found[0].data)
    pdf = get(answers.client, url, "application/pdf")
    assert (pdf.headers["content-type"], pdf.content) == ("application/pdf", found[0].data)
    assert get(answers.client, url, OCTETS, Range="bytes=0-4").content == b"%PDF-"
    assert get(answers.client, url, If_None_Match=pdf.headers["etag"]).status_code == 200
    assert get(answers.client, url, "application/pdf", If_None_Match=pdf.headers["etag"]).status_code == 304


def test_bulk_data_that_is_not_there_is_404(answers: Answers) -> None:
    for path in ("00420011", "0040A730/1/0040A160", "7FE00009/1", "xyz", "..%2F..", "0028120"):
        assert get(answers.client, f"{local(2)}/bulkdata/{path}").status_code == 404, path
    assert get(answers.client, f"{local(2)}/bulkdata/00100010", "application/pdf").status_code == 406


def test_an_object_without_pixels_has_no_pixel_data(answers: Answers) -> None:
    assert get(answers.client, local(3) + "/bulkdata/7FE00010").status_code == 406
    assert get(answers.client, local(3)).status_code == 200


def test_every_bulk_data_uri_of_the_metadata_resolves(client: TestClient) -> None:
    """Each value behind one is what the file holds there."""
    found = set()
    for name in ("examples_palette.dcm", "test-SR.dcm", "CT_small.dcm", "693_J2KI.dcm"):
        path = sample(name)
        uids = uids_of(path)
        assert uids is not None
        metadata = client.get(url_of(*uids[:3]) + "/metadata").json()[0]
        dataset = pydicom.dcmread(path)
        for tag, element in metadata.items():
            if "BulkDataURI" not in element:
                continue
            value = get(client, element["BulkDataURI"], OCTETS)
            assert value.status_code == 200
            held = dataset[int(tag, 16)].value
            if tag == "7FE00010":  # decoded
                held = dataset.pixel_array.tobytes()
            assert value.content == held
            found.add(tag)
    assert "7FE00010" in found
    assert len(found) > 1


# --- rewritten ----------------------------------------------------------------------------------------------

RLE = "1.2.840.10008.1.2.5"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, bytes]]]:
    """A series of RLE, Implicit VR, lossy JPEG and a document, and its files by SOP Instance UID."""
    root = tmp_path_factory.mktemp("mixed")
    samples = np.stack([np.arange(1200, dtype=np.uint16).reshape(30, 40) + 1000 * n for n in range(3)])
    for number, syntax in enumerate((RLE, "1.2.840.10008.1.2"), 1):
        path = write_image(root / f"{number}.dcm", samples, SOPInstanceUID=f"1.2.4.5.{number}", InstanceNumber=number)
        dataset = pydicom.dcmread(path)
        if syntax == RLE:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.save_as(path)
    jpeg = pydicom.dcmread(sample("SC_rgb_jpeg_dcmtk.dcm"))
    jpeg.StudyInstanceUID, jpeg.SeriesInstanceUID, jpeg.SOPInstanceUID, jpeg.InstanceNumber = (
        STUDY,
        SERIES,
        "1.2.4.5.3",
        3,
    )
    jpeg.file_meta.MediaStorageSOPInstanceUID = UID("1.2.4.5.3")
    jpeg.save_as(root / "3.dcm")
    document = image(1, 1, SOPInstanceUID="1.2.4.5.4", InstanceNumber=4, Rows=..., Columns=...)
    write(root / "4.dcm", document | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"})
    with serve(root) as running:
        yield running.client, {f"1.2.4.5.{n}": (root / f"{n}.dcm").read_bytes() for n in range(1, 5)}


def rewritten(number: int) -> str:
    return url_of(STUDY, SERIES, f"1.2.4.5.{number}")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("accept", [f"{STAR[:-1]}{EXPLICIT_LE}", STAR.split("; transfer")[0]])
def test_an_instance_in_explicit_vr(mixed: tuple[TestClient, dict[str, bytes]], number: int, accept: str) -> None:
    client, files = mixed
    response = get(client, rewritten(number), accept)
    (part,) = parts(response)
    assert part.content_type == f"{DICOM}; transfer-syntax={EXPLICIT_LE}"
    assert response.headers["content-length"] == str(len(response.content))
    found = pydicom.dcmread(io.BytesIO(part.data))
    assert found.file_meta.TransferSyntaxUID == EXPLICIT_LE
    held = pydicom.dcmread(io.BytesIO(files[f"1.2.4.5.{number}"]))
    assert np.array_equal(found.pixel_array, held.pixel_array)
    assert {e.tag for e in found} == {e.tag for e in held}
    alone = get(client, rewritten(number), f"application/dicom; transfer-syntax={EXPLICIT_LE}")
    assert alone.content == part.data
    cut = get(client, rewritten(number), accept, Range="bytes=500-1500")
    assert (cut.status_code, cut.content) == (206, response.content[500:1501])
    tail = get(client, rewritten(number), accept, Range="bytes=-700")
    assert tail.content == response.content[-700:]


def test_an_instance_in_htj2k(mixed: tuple[TestClient, dict[str, bytes]]) -> None:
    client, files = mixed
    (part,) = parts(get(client, rewritten(1), f"{STAR[:-1]}{HTJ2K_RPCL}"))
    assert part.content_type == f"{DICOM}; transfer-syntax={HTJ2K_RPCL}"
    found = pydicom.dcmread(io.BytesIO(part.data))
    want = pydicom.dcmread(io.BytesIO(files["1.2.4.5.1"])).pixel_array
    frames = generate_frames(found.PixelData, number_of_frames=3)
    for number, frame in enumerate(frames):
        assert np.array_equal(imagecodecs.htj2k_decode(frame), want[number])


def test_by_default_lossy_pixels_and_documents_stay_as_they_are(mixed: tuple[TestClient, dict[str, bytes]]) -> None:
    client, files = mixed
    found = parts(get(client, f"/dicomweb/studies/{STUDY}", STAR.split("; transfer")[0]))
    assert [part.transfer_syntax_uid for part in found] == [
        EXPLICIT_LE,
        EXPLICIT_LE,
        "1.2.840.10008.1.2.4.50",
        EXPLICIT_LE,
    ]
    assert [part.data for part in found[2:]] == [files["1.2.4.5.3"], files["1.2.4.5.4"]]
    assert [part.data for part in found[:2]] == [
        parts(get(client, rewritten(number), f"{STAR[:-1]}{EXPLICIT_LE}"))[0].data for number in (1, 2)
    ]


def test_of_several_syntaxes_each_instance_gets_the_best_it_can_be_had_in(
    mixed: tuple[TestClient, dict[str, bytes]],
) -> None:
    client, _ = mixed
    htj2k = f"{STAR[:-1]}{HTJ2K_RPCL}"
    refused = get(client, f"/dicomweb/studies/{STUDY}", htj2k)
    assert_problem(refused, 406, "1.2.4.5.4", EXPLICIT_LE)
    found = parts(get(client, f"/dicomweb/studies/{STUDY}", f"{STAR}; q=0.5, {htj2k}"))
    assert [part.transfer_syntax_uid for part in found] == [HTJ2K_RPCL, HTJ2K_RPCL, HTJ2K_RPCL, EXPLICIT_LE]
    for number in (1, 4):
        response = get(client, rewritten(number), f"{STAR[:-1]}1.2.840.10008.1.2.4.80")
        assert response.status_code == 406


def test_what_is_rewritten_is_the_same_each_time(mixed: tuple[TestClient, dict[str, bytes]]) -> None:
    client, _ = mixed
    tags = set()
    for syntax in (EXPLICIT_LE, HTJ2K_RPCL, "*"):
        first, second = (get(client, rewritten(1), STAR[:-1] + syntax) for _ in range(2))
        assert first.content == second.content
        assert first.headers["etag"] == second.headers["etag"]
        assert get(client, rewritten(1), STAR[:-1] + syntax, If_None_Match=first.headers["etag"]).status_code == 304
        tags.add(first.headers["etag"])
    assert len(tags) == 3
    head = client.head(rewritten(1), headers={"Accept": STAR[:-1] + HTJ2K_RPCL})
    assert (head.status_code, head.content) == (200, b"")


def test_no_patient_data_in_errors(answers: Answers) -> None:
    for url in (local(2) + "/bulkdata/00100011", local(9), local(2) + "/frames/7", local(3) + "/pixeldata"):
        response = get(answers.client, url)
        assert response.status_code in (404, 406)
        assert "Test^Case" not in response.text
        assert "T1" not in response.text
