"""Frames by WADO-RS, of all samples and of files built here: the stored bytes, or what pydicom decodes."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID
from starlette.testclient import TestClient

from api.dicomweb.forms import OCTETS, media_type_of, stored_form
from gpu_render.decode import DECODERS
from gpu_render.transcode import EXPLICIT_LE, HTJ2K_RPCL
from tests.api.answers import SERIES, STUDY, Answers, assert_problem, serve
from tests.api.dicomweb.bodies import parts, parts_of
from tests.data import encapsulate, image, sample, write, write_image
from tests.encoded import frames_of

STAR = "multipart/related; type=application/octet-stream; transfer-syntax=*"
DECODED = 'multipart/related; type="application/octet-stream"'
CT, J2K = "CT_small.dcm", "693_J2KI.dcm"
TRUNCATED = "MR_truncated.dcm"


def read(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def url_of(path: Path) -> str:
    dataset = read(path)
    uids = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    return "/dicomweb/studies/{}/series/{}/instances/{}".format(*uids)


def get(client: TestClient, url: str, accept: str | None = None, **headers: str) -> Any:
    return client.get(url, headers={"Accept": accept or "*/*", **{k.replace("_", "-"): v for k, v in headers.items()}})


@pytest.fixture(scope="session")
def shown(client: TestClient, samples: Path) -> list[tuple[Path, str, int]]:
    """(file, URL of its instance, number of frames) of every sample with frames that can be shown."""
    frames: dict[str, list[str]] = {}
    for study in client.get("/api/studies").json()["studies"]:
        for series in study["series"]:
            manifest = f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
            for frame in client.get(manifest).json()["frames"]:
                frames.setdefault(frame["sop_instance_uid"], []).append(frame["url"])
    found = []
    for path in sorted(samples.rglob("*")):
        if path.is_file() and path.name != TRUNCATED and (uid := _uid(path)) in frames:
            url = frames[uid][0].rsplit("/frames/", 1)[0].replace("/api/", "/dicomweb/", 1)
            found.append((path, url, len(frames[uid])))
    assert len(found) > 60
    return found


def _uid(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(pydicom.dcmread(path, stop_before_pixels=True, force=True).get("SOPInstanceUID", ""))
        except Exception:  # noqa: BLE001 - pydicom may raise anything here
            return ""


def test_the_stored_form_is_what_the_file_holds(client: TestClient, shown: list[tuple[Path, str, int]]) -> None:
    """Every frame of every sample; big endian, which DICOMweb does not know, decoded."""
    compared = 0
    for path, url, count in shown:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = list(frames_of(path))[:count]
        found = parts(get(client, f"{url}/frames/{','.join(map(str, range(1, count + 1)))}", STAR))
        assert len(found) == len(want), path.name
        stored = stored_form(want[0].transfer_syntax_uid)
        assert {part.transfer_syntax_uid for part in found} == {stored or EXPLICIT_LE}, path.name
        for part, frame in zip(found, want, strict=True):
            data = bytes(frame.data)
            if stored is None and (frame.layout.samples_per_pixel > 1 or frame.layout.bits_allocated == 1):
                continue  # decoded, see below
            if stored is None and frame.layout.bits_allocated > 8:
                data = np.frombuffer(data, f"u{frame.layout.bits_allocated // 8}").byteswap().tobytes()
            # Fragments have an even length; the last byte may be a pad byte.
            assert part.data.rstrip(b"\0") == data.rstrip(b"\0"), path.name
            compared += 1
    assert compared > 100


def explicit(path: Path) -> list[bytes]:
    """Each frame as pydicom writes it in Explicit VR Little Endian, colours as they were coded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(as_rgb=False)
        count, data = int(dataset.get("NumberOfFrames") or 1), dataset.PixelData
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    assert bits % 8 == 0, path.name
    return [data[number * bits // 8 : (number + 1) * bits // 8] for number in range(count)]


#: Of these, files of ten frames are made.
LOSSLESS = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "j2k": "1.2.840.10008.1.2.4.90",
    "deflated": "1.2.840.10008.1.2.1.99",
    "implicit": "1.2.840.10008.1.2",
}
COUNT = 10


@pytest.fixture(scope="session")
def lossless_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ten frames in several transfer syntaxes."""
    root = tmp_path_factory.mktemp("lossless")
    rows, columns = np.mgrid[0:40, 0:50]
    samples = np.stack([rows * 7 + columns * 3 + 50 * number + rows * columns % 11 for number in range(COUNT)])
    found = {}
    for number, (name, syntax) in enumerate(LOSSLESS.items()):
        path = write_image(root / f"{name}.dcm", samples.astype(np.uint16), SOPInstanceUID=f"1.2.4.8.{number}")
        dataset = pydicom.dcmread(path)
        if UID(syntax).is_compressed and not UID(syntax).is_deflated:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.save_as(path)
        found[name] = path
    return found


@pytest.fixture(scope="session")
def lossless(lossless_files: dict[str, Path]) -> Iterator[TestClient]:
    """A service over them."""
    with serve(next(iter(lossless_files.values())).parent) as answers:
        yield answers.client


@pytest.mark.parametrize("name", LOSSLESS)
def test_without_a_transfer_syntax_frames_are_decoded(
    lossless: TestClient, lossless_files: dict[str, Path], name: str
) -> None:
    path = lossless_files[name]
    want = explicit(path)
    found = parts(get(lossless, f"{url_of(path)}/frames/{','.join(map(str, range(1, COUNT + 1)))}", DECODED))
    assert {part.content_type for part in found} == {f"{OCTETS}; transfer-syntax={EXPLICIT_LE}"}
    assert [part.data for part in found] == want
    assert len(set(want)) == COUNT
    one = parts(get(lossless, f"{url_of(path)}/frames/{COUNT}", DECODED))
    assert [part.data for part in one] == want[-1:]


@pytest.mark.parametrize("name", [CT, "image_dfl.dcm", "693_J2KI.dcm", "SC_rgb_jpeg_gdcm.dcm", "rtdose.dcm"])
def test_samples_are_decoded_as_pydicom_does(client: TestClient, name: str) -> None:
    found = parts(get(client, f"{url_of(sample(name))}/frames/1", DECODED))
    assert [part.data for part in found] == explicit(sample(name))[:1]


def test_decoded_colours_are_in_the_form_that_the_metadata_declare(client: TestClient) -> None:
    """Y1 Y2 Cb Cr of two pixels for YBR_FULL_422, by planes for Planar Configuration 1: viewers rely on it."""
    dataset = read(sample("examples_ybr_color.dcm"))
    assert dataset.PhotometricInterpretation == "YBR_FULL_422"
    found = parts(get(client, f"{url_of(sample('examples_ybr_color.dcm'))}/frames/1", DECODED))[0].data
    assert len(found) == 2 * dataset.Rows * dataset.Columns
    luminance = np.frombuffer(found, np.uint8).reshape(-1, 4)[:, :2].reshape(dataset.Rows, dataset.Columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = pixel_array(sample("examples_ybr_color.dcm"), index=0, raw=True)[..., 0]
    assert np.abs(luminance.astype(int) - want).max() <= 1
    big = read(sample("ExplVR_BigEnd.dcm"))
    assert (big.PlanarConfiguration, big.BitsAllocated) == (1, 8)
    planes = parts(get(client, f"{url_of(sample('ExplVR_BigEnd.dcm'))}/frames/1", DECODED))[0].data
    assert np.array_equal(
        np.moveaxis(np.frombuffer(planes, np.uint8).reshape(3, big.Rows, big.Columns), 0, -1), big.pixel_array
    )


@pytest.mark.parametrize("accept", [None, "*/*", 'multipart/related; type="*/*"', "multipart/related"])
def test_whoever_takes_anything_gets_samples(
    lossless: TestClient, lossless_files: dict[str, Path], accept: str | None
) -> None:
    path = lossless_files["j2k"]
    assert [part.data for part in parts(get(lossless, f"{url_of(path)}/frames/1", accept))] == explicit(path)[:1]


def test_accept_in_the_query_comes_before_the_header(client: TestClient) -> None:
    url = f"{url_of(sample(J2K))}/frames/1"
    response = client.get(url, params={"accept": STAR}, headers={"Accept": "text/html"})
    assert parts(response)[0].transfer_syntax_uid == "1.2.840.10008.1.2.4.91"
    encoded = client.get(f"{url}?accept=multipart/related%3B%20type%3D%22application/octet-stream%22")
    assert parts(encoded)[0].transfer_syntax_uid == EXPLICIT_LE


def test_the_type_of_an_image_gets_the_stored_frame(client: TestClient, shown: list[tuple[Path, str, int]]) -> None:
    seen = set()
    for path, url, _ in shown:
        uid = (
            str(read(path).file_meta.TransferSyntaxUID) if path.suffix == ".dcm" and path.name != "no_meta.dcm" else ""
        )
        if media_type_of(uid) == OCTETS or uid in seen:
            continue
        seen.add(uid)
        stored = parts(get(client, f"{url}/frames/1", STAR))[0]
        found = parts(get(client, f"{url}/frames/1", f"multipart/related; type={media_type_of(uid)}"))[0]
        assert found.content_type == f"{media_type_of(uid)}; transfer-syntax={uid}"
        alone = get(client, f"{url}/frames/1", f"text/html, {media_type_of(uid)}; transfer-syntax={uid}")
        assert alone.headers["content-type"] == found.content_type
        assert alone.content == found.data == stored.data
    assert len(seen) == 6


def test_an_answer_says_which_decoder_ran(client: TestClient) -> None:
    url = f"{url_of(sample('693_J2KI.dcm'))}/frames/1"
    decoded = client.get(url, headers={"Accept": 'multipart/related; type="application/octet-stream"'})
    stored = client.get(url, headers={"Accept": "multipart/related; type=image/jp2; transfer-syntax=*"})
    assert [answer.headers["x-decode-backend"] for answer in (decoded, stored)] == ["jpeg2000", "none"]


def test_one_frame_alone(client: TestClient) -> None:
    response = get(client, f"{url_of(sample(CT))}/frames/1", OCTETS)
    assert response.headers["content-type"] == f"{OCTETS}; transfer-syntax={EXPLICIT_LE}"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.content == read(sample(CT)).PixelData


def test_a_list_is_answered_in_its_order_with_what_it_repeats(
    lossless: TestClient, lossless_files: dict[str, Path]
) -> None:
    path = lossless_files["jpeg-ls"]
    want = explicit(path)
    found = parts(get(lossless, f"{url_of(path)}/frames/7,1,7,10", DECODED))
    assert [part.data for part in found] == [want[6], want[0], want[6], want[9]]
    stored = parts(get(lossless, f"{url_of(path)}/frames/3,2,3", STAR))
    assert [part.data.rstrip(b"\0") for part in stored] == [
        bytes(list(frames_of(path))[number].data).rstrip(b"\0") for number in (2, 1, 2)
    ]


# --- HTJ2K for progressive viewers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSLESS)
def test_frames_are_coded_anew_without_loss(lossless: TestClient, lossless_files: dict[str, Path], name: str) -> None:
    path = lossless_files[name]
    url = f"{url_of(path)}/frames/"
    accept = f"multipart/related; type=image/jphc; transfer-syntax={HTJ2K_RPCL}"
    found = parts(get(lossless, url + "3,1", accept))
    assert {part.content_type for part in found} == {f"image/jphc; transfer-syntax={HTJ2K_RPCL}"}
    for part, number in zip(found, (2, 0), strict=True):
        assert imagecodecs.htj2k_decode(part.data).astype("<u2").tobytes() == explicit(path)[number]
    assert found[0] == parts(get(lossless, url + "3", accept))[0]


def test_a_progressive_viewer_glues_ranges_together(lossless: TestClient, lossless_files: dict[str, Path]) -> None:
    """As Cornerstone3D does: the first bytes, whose end is unknown, then the rest by Content-Range's total."""
    url = f"{url_of(lossless_files['rle'])}/frames/4"
    accept = f"multipart/related; type=application/octet-stream; transfer-syntax={HTJ2K_RPCL}"
    first = get(lossless, url, accept, Range="bytes=0-512")
    total = int(first.headers["content-range"].split("/")[1])
    assert total > 600
    rest = get(lossless, url, accept, Range=f"bytes=513-{total}")
    assert (first.status_code, rest.status_code) == (206, 206)
    glued = first.content + rest.content
    assert glued == get(lossless, url, accept).content
    found = parts_of(first.headers["content-type"], glued)
    samples = imagecodecs.htj2k_decode(found[0].data).astype("<u2").tobytes()
    assert samples == explicit(lossless_files["rle"])[3]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", ["0", "1-3", "1,", ",1", "1,,2", "a", "1 ,2", "1,0", "-1", "1.5", "99999999999"])
def test_what_is_no_list_of_frames_is_400(client: TestClient, frames: str) -> None:
    response = client.get(f"{url_of(sample(CT))}/frames/{frames}")
    assert response.status_code == 400, response.text
    assert response.json()["type"].endswith("invalid-frame-number")


def test_not_found_says_at_which_level(client: TestClient) -> None:
    dataset = read(sample(CT))
    study, series, sop = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    for uids, what in (
        (("1.2.3", series, sop), "study"),
        ((study, "1.2.3", sop), "series"),
        ((study, series, "1.2.3"), ""),
    ):
        url = "/dicomweb/studies/{}/series/{}/instances/{}".format(*uids)
        for leaf in ("/frames/1", "/frames/1,2", "/pixeldata"):
            response = client.get(url + leaf)
            assert response.status_code == 404, response.text
            assert what in response.json()["detail"]
            assert "1.2.3" in response.json()["detail"]
    for frames in ("2", "1,2", "1,1,3"):
        assert client.get(f"{url_of(sample(CT))}/frames/{frames}").status_code == 404


def test_an_accept_that_cannot_be_met_is_406_and_says_what_can_be_had(client: TestClient) -> None:
    response = get(client, f"{url_of(sample(J2K))}/frames/1", "multipart/related; type=image/jls")
    assert_problem(
        response, 406, str(read(sample(J2K)).SOPInstanceUID), "image/jp2", "1.2.840.10008.1.2.4.91", EXPLICIT_LE
    )
    assert get(client, f"{url_of(sample(J2K))}/frames/1,1", OCTETS).status_code == 406


def test_a_truncated_frame_is_an_error_not_half_a_frame(client: TestClient) -> None:
    for leaf in ("/frames/1", "/frames/1,1", "/pixeldata"):
        assert get(client, url_of(sample(TRUNCATED)) + leaf, STAR).status_code == 422


def test_an_object_without_pixels_has_no_frames(client: TestClient) -> None:
    response = client.get(f"{url_of(sample('test-SR.dcm'))}/frames/1")
    assert response.status_code == 406, response.text
    assert response.json()["type"].endswith("not-renderable")


# --- ranges, ETags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leaf", "accept"), [("1", STAR), ("1", OCTETS), ("5,1,9,10", DECODED)])
def test_ranges_glued_together_are_the_whole(
    lossless: TestClient, lossless_files: dict[str, Path], leaf: str, accept: str
) -> None:
    client, url = lossless, f"{url_of(lossless_files['j2k'])}/frames/{leaf}"
    whole = get(client, url, accept)
    assert whole.headers["accept-ranges"] == "bytes"
    glued, total = b"", len(whole.content)
    while len(glued) < total:
        last = len(glued) + 999
        response = get(client, url, accept, Range=f"bytes={len(glued)}-{last}")
        assert response.status_code == 206
        end = min(last, total - 1)
        assert response.headers["content-range"] == f"bytes {len(glued)}-{end}/{total}"
        assert response.headers["content-length"] == str(len(response.content))
        assert response.headers["content-type"] == whole.headers["content-type"]
        assert response.headers["etag"] == whole.headers["etag"]
        glued += response.content
    assert glued == whole.content
    assert get(client, url, accept, Range="bytes=-10").content == whole.content[-10:]


def test_a_range_behind_the_end_is_416_with_the_length(client: TestClient) -> None:
    url = f"{url_of(sample(CT))}/frames/1"
    total = len(get(client, url, STAR).content)
    response = get(client, url, STAR, Range=f"bytes={total}-")
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{total}"
    assert response.headers["content-type"] == "application/problem+json"
    assert get(client, url, STAR, Range="bytes=0-1,5-6").status_code == 200


def test_a_range_of_another_version_is_not_sent(client: TestClient) -> None:
    url = f"{url_of(sample(CT))}/frames/1"
    tag = get(client, url, STAR).headers["etag"]
    assert get(client, url, STAR, Range="bytes=0-9", If_Range=tag).status_code == 206
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert get(client, url, STAR, Range="bytes=0-9", If_Range=other).status_code == 200


def test_a_list_of_compressed_frames_has_no_length_and_is_sent_whole(
    lossless: TestClient, lossless_files: dict[str, Path]
) -> None:
    url = f"{url_of(lossless_files['rle'])}/frames/1,2"
    response = get(lossless, url, STAR, Range="bytes=0-9")
    assert response.status_code == 200
    assert "content-length" not in response.headers
    assert len(parts(response)) == 2


def test_the_same_request_gets_the_same_bytes(lossless: TestClient, lossless_files: dict[str, Path]) -> None:
    for name in LOSSLESS:
        for accept, leaf in ((STAR, "1"), (DECODED, "1"), (STAR, "1,2,3"), (DECODED, "3,2")):
            url = f"{url_of(lossless_files[name])}/frames/{leaf}"
            first, second = get(lossless, url, accept), get(lossless, url, accept)
            assert first.content == second.content
            assert first.headers["etag"] == second.headers["etag"]


def test_a_known_etag_is_304_and_each_representation_has_its_own(client: TestClient) -> None:
    url = f"{url_of(sample(J2K))}/frames/1"
    tags = [get(client, url, accept).headers["etag"] for accept in (STAR, DECODED, OCTETS)]
    tags.append(get(client, url + ",1", DECODED).headers["etag"])
    assert len(set(tags)) == 4
    known = get(client, url, STAR, If_None_Match=f'"x", {tags[0]}')
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tags[0])
    assert known.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert known.headers["vary"] == "Accept, Authorization"
    assert get(client, url, DECODED, If_None_Match=tags[0]).status_code == 200
    assert get(client, url + ",1", DECODED, If_None_Match=tags[3]).status_code == 304
    assert get(client, url + ",2", DECODED, If_None_Match=tags[3]).status_code == 404


def test_head_is_get_without_a_body(client: TestClient) -> None:
    for leaf in ("frames/1", "frames/1,1", "pixeldata"):
        url = f"{url_of(sample(CT))}/{leaf}"
        got, head = get(client, url, DECODED), client.head(url, headers={"Accept": DECODED})
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "accept-ranges"):
            assert head.headers[name] == got.headers[name]


# --- Pixel Data as a whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CT, "rtdose.dcm", "693_J2KI.dcm", "image_dfl.dcm"])
@pytest.mark.parametrize("leaf", ["pixeldata", "bulkdata/7FE00010", "bulkdata/7fe00010"])
def test_the_value_of_pixel_data_is_one_part(client: TestClient, name: str, leaf: str) -> None:
    url = f"{url_of(sample(name))}/{leaf}"
    found = parts(get(client, url, DECODED))
    assert [part.data for part in found] == [b"".join(explicit(sample(name)))]
    assert get(client, url, OCTETS).content == found[0].data
    assert get(client, url, OCTETS, Range="bytes=100-").content == found[0].data[100:]


def test_compressed_pixel_data_is_a_part_for_each_frame(lossless: TestClient, lossless_files: dict[str, Path]) -> None:
    url = url_of(lossless_files["rle"])
    found = parts(get(lossless, f"{url}/pixeldata", STAR))
    assert found == parts(get(lossless, f"{url}/frames/{','.join(map(str, range(1, COUNT + 1)))}", STAR))
    assert get(lossless, f"{url}/pixeldata", "image/dicom-rle").status_code == 406
    whole = parts(get(lossless, f"{url}/pixeldata", DECODED))
    assert [part.data for part in whole] == [b"".join(explicit(lossless_files["rle"]))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Files with known pixels: an odd number of bytes, 1-bit frames, big endian, a frame that is missing."""
    root = tmp_path_factory.mktemp("built")
    write_image(root / "odd.dcm", np.arange(15, dtype=np.uint8).reshape(1, 3, 5)[0], SOPInstanceUID="1.2.4.9.1")
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "SOPInstanceUID": "1.2.4.9.2"}
    write(root / "bits.dcm", image(4, 4, **bits), bytes([0x01, 0x02, 0x03, 0x04, 0x05, 0x06]))
    bits |= {"SOPInstanceUID": "1.2.4.9.3"}
    write(root / "inside.dcm", image(3, 3, **bits), bytes([0xFF, 0x01, 0x00, 0x00]))
    big = np.arange(8, dtype=">u2")
    attributes = image(2, 2, NumberOfFrames=2, SOPInstanceUID="1.2.4.9.4")
    write(root / "big.dcm", attributes, big.tobytes(), syntax="1.2.840.10008.1.2.2")
    attributes = image(2, 2, NumberOfFrames=2, SOPInstanceUID="1.2.4.9.5")
    cut = encapsulate([b"\xff\xd8\xff\x01", b"\xff\xd8\xff\x02"], (0, 12), delimiter=False)[:-2]
    write(root / "cut.dcm", attributes, cut, syntax="1.2.840.10008.1.2.4.80", encapsulated=True)
    attributes = image(2, 2, SOPInstanceUID="1.2.4.9.6", PixelRepresentation=...)
    pieces = encapsulate([b"\xff\xd8\xff\x01\x02\x03", b"\x04\x05"])
    write(
        root / "pieces.dcm",
        image(2, 2, SOPInstanceUID="1.2.4.9.6"),
        pieces,
        "1.2.840.10008.1.2.4.80",
        encapsulated=True,
    )
    with serve(root) as answers:
        yield answers


def built_url(number: int) -> str:
    return f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/1.2.4.9.{number}"


def test_pixel_data_of_an_odd_length_is_padded_a_frame_is_not(built: Answers) -> None:
    assert get(built.client, built_url(1) + "/frames/1", OCTETS).content == bytes(range(15))
    assert get(built.client, built_url(1) + "/pixeldata", OCTETS).content == bytes(range(15)) + b"\0"


def test_frames_of_bits_begin_at_a_byte_each(built: Answers) -> None:
    found = parts(get(built.client, built_url(2) + "/frames/3,1", STAR))
    assert [part.data for part in found] == [b"\x05\x06", b"\x01\x02"]
    assert get(built.client, built_url(2) + "/pixeldata", OCTETS).content == bytes([1, 2, 3, 4, 5, 6])
    inside = parts(get(built.client, built_url(3) + "/frames/1,2,3", STAR))
    assert [part.data for part in inside] == [b"\xff\x01", b"\0\0", b"\0\0"]
    assert get(built.client, built_url(3) + "/pixeldata", OCTETS).status_code == 406


def test_big_endian_is_sent_little(built: Answers) -> None:
    for accept in (STAR, DECODED):
        found = parts(get(built.client, built_url(4) + "/frames/2", accept))
        assert found[0].transfer_syntax_uid == EXPLICIT_LE
        assert found[0].data == np.arange(4, 8, dtype="<u2").tobytes()


def test_fragments_are_joined(built: Answers) -> None:
    found = parts(get(built.client, built_url(6) + "/frames/1", STAR))
    assert [part.data for part in found] == [b"\xff\xd8\xff\x01\x02\x03\x04\x05"]


def test_a_first_frame_that_cannot_be_had_is_an_error(built: Answers) -> None:
    assert get(built.client, built_url(5) + "/frames/1", STAR).status_code == 200
    for frames in ("2", "2,1"):
        assert_problem(get(built.client, f"{built_url(5)}/frames/{frames}", STAR), 422, "1.2.4.9.5", "frame 2")
    # Two bytes that are no JPEG-LS cannot be decoded either.
    assert_problem(get(built.client, built_url(5) + "/frames/1,2", DECODED), 422, "1.2.4.9.5")


def test_every_decoder_has_a_form() -> None:
    assert {uid for uid in DECODERS if stored_form(uid) is None} == {"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.98"}
