"""Rendered and Thumbnail resources over HTTP: real files, the real service, pictures decoded by other libraries."""

import io
import re
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image, ImageSequence
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.pictures.profiles import ADOBE_RGB, SRGB, grey_profile, profile_of
from gpu_render.settings import Settings
from tests import formulas
from tests.api.conftest import SAMPLES, sample_files, wait_for_scan
from tests.data import image, write, write_image
from tests.encoded import sample

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
Urls = dict[str, list[str]]
Pixels = npt.NDArray[np.uint8]


def instance_of(name: str, urls: Urls) -> str:
    """Path of a sample's instance below /dicomweb."""
    uid = str(pydicom.dcmread(sample(name), stop_before_pixels=True).SOPInstanceUID)
    return urls[uid][0].replace("/api/", "/dicomweb/", 1).rsplit("/frames/", 1)[0]


def native(client: TestClient, instance: str, frame: int = 1, **parameters: str) -> Pixels:
    """The service's own display bytes."""
    path = f"{instance.replace('/dicomweb/', '/api/', 1)}/frames/{frame}"
    response = client.get(path, params={"stage": "display", **parameters})
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, np.uint8).reshape(
        list(map(int, response.headers["x-array-shape"].split(",")))
    )


def get(client: TestClient, path: str, accept: str | None = PNG, **parameters: str) -> Any:
    return client.get(path, params=parameters or None, headers={"Accept": accept or ""})


def pixels_of(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))


def shown(client: TestClient, path: str, **parameters: str) -> Pixels:
    response = get(client, path, PNG, **parameters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == PNG
    return pixels_of(response.content)


def parts_of(response: Any) -> list[tuple[str, bytes]]:
    """Content type and bytes of each part, by Python's own reader of MIME."""
    text = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(text + response.content)
    assert message.is_multipart()
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in message.get_payload()]  # type: ignore[union-attr,misc]


@pytest.fixture(scope="module")
def ct(frame_urls: Urls) -> str:
    return instance_of("CT_small.dcm", frame_urls)


@pytest.fixture(scope="module")
def dose(frame_urls: Urls) -> str:
    """15 frames of 10 x 10, 32 bit."""
    return instance_of("rtdose.dcm", frame_urls)


# -- pictures are the service's own pixels ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "GDCMJ2K_TextGBR.dcm", "examples_rgb_color.dcm", "examples_palette.dcm", "SC_rgb_rle.dcm"]
)
def test_png_holds_the_display_bytes(client: TestClient, frame_urls: Urls, name: str) -> None:
    instance = instance_of(name, frame_urls)
    for path in (instance, f"{instance}/frames/1"):
        assert np.array_equal(shown(client, f"{path}/rendered"), native(client, instance))


def test_jpeg_is_the_default_and_near(client: TestClient, ct: str) -> None:
    want = native(client, ct).astype(int)
    for accept in (None, "*/*", "image/*", JPEG, "image/avif,image/webp,*/*;q=0.8"):
        response = get(client, f"{ct}/rendered", accept)
        assert (response.status_code, response.headers["content-type"]) == (200, JPEG)
        for got in (pixels_of(response.content), imagecodecs.jpeg8_decode(response.content)):
            assert np.abs(got.astype(int) - want).max() <= 16
            assert np.abs(got.astype(int) - want).mean() < 1.5


def test_quality_decides_the_size(client: TestClient, ct: str) -> None:
    sizes = [
        len(get(client, f"{ct}/rendered", JPEG, quality=str(quality)).content) for quality in (1, 20, 50, 80, 90, 100)
    ]
    assert sizes == sorted(set(sizes))
    assert get(client, f"{ct}/rendered", JPEG).content == get(client, f"{ct}/rendered", JPEG, quality="90").content


@pytest.mark.parametrize("function", ["linear", "linear-exact", "sigmoid"])
@pytest.mark.parametrize(("center", "width"), [(40.0, 400.0), (-600.0, 1500.5), (100.0, 1.0)])
def test_windows_are_the_standards_formulas(
    client: TestClient, ct: str, function: str, center: float, width: float
) -> None:
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    hu = dataset.pixel_array.astype(np.float64) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    want = formulas.WINDOWS[function.upper().replace("-", "_")](hu, center, width)
    want[dataset.pixel_array == dataset.PixelPaddingValue] = 0
    got = shown(client, f"{ct}/rendered", window=f"{center},{width},{function}")
    assert np.abs(got.astype(int) - want).max() <= (1 if function == "sigmoid" else 0)


# -- viewport ---------------------------------------------------------------------------------------------------


def test_a_viewport_of_the_regions_own_size_cuts_it_out(client: TestClient, ct: str) -> None:
    whole = shown(client, f"{ct}/rendered")
    cases = {
        "30,40,10,20,30,40": whole[20:60, 10:40],
        "118,108,10,20": whole[20:, 10:],
        "128,128": whole,
        "50,60,,,50,60": whole[:60, :50],
        "28,128,100": whole[:, 100:],
        "28,128,100,,": whole[:, 100:],
        "30,40,-10,-20,30.0,40": whole[20:60, 10:40],
        "30,40,10,20,-30,40": whole[20:60, 10:40][:, ::-1],
        "30,40,10,20,30,-40": whole[20:60, 10:40][::-1],
        "128,128,,,-128,-128": whole[::-1, ::-1],
    }
    for viewport, want in cases.items():
        assert np.array_equal(shown(client, f"{ct}/rendered", viewport=viewport), want), viewport


def test_a_region_is_scaled_to_fit_and_keeps_its_shape(client: TestClient, ct: str) -> None:
    whole = shown(client, f"{ct}/rendered", viewport="256,64,0,0,64,32")
    assert whole.shape == (64, 128)
    assert np.array_equal(whole, native(client, ct, region="0,0,64,32", viewport="256,64"))
    assert shown(client, f"{ct}/rendered", viewport="64,32").shape == (32, 32)
    assert shown(client, f"{ct}/rendered", viewport="1000,300").shape == (300, 300)
    small, turned = (shown(client, f"{ct}/rendered", viewport=f"40,40,8,8,{w},100") for w in (100, -100))
    assert np.abs(small.astype(int) - turned[:, ::-1]).max() <= 1


def test_pixels_that_are_not_square_are_shown_so_only_in_a_viewport(client: TestClient, tmp_path: Path) -> None:
    ramp = np.arange(20 * 40, dtype=np.uint16).reshape(20, 40)
    write_image(tmp_path / "a.dcm", ramp, PixelSpacing=[2, 1])
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as service:
        wait_for_scan(service)
        base = "/dicomweb/studies/1.2.4.1/rendered"
        assert shown(service, base).shape == (20, 40)
        assert shown(service, base, viewport="40,40").shape == (40, 40)


# -- what is no request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", ""), ("window", "40"), ("window", "40,400"), ("window", "40,400,"), ("window", "40,400,cubic"),
        ("window", "a,400,linear"), ("window", "40,0,linear"), ("window", "40,0,sigmoid"), ("window", "1,2,linear,3"),
        ("viewport", ""), ("viewport", "10"), ("viewport", "0,10"), ("viewport", "10,-1"), ("viewport", "10,"),
        ("viewport", "10,10,129"), ("viewport", "10,10,0,0,129,1"), ("viewport", "10,10,0,0,0,1"),
        ("viewport", "10,10,0.5,0,9,9"), ("viewport", "10,10,x"), ("viewport", "10,10,,,,,"), ("viewport", "99999,1"),
        ("viewport", "10,10,nan"), ("viewport", "10,10,1e1"),
        ("quality", ""), ("quality", "0"), ("quality", "101"), ("quality", "9.5"), ("quality", "-1"),
        ("quality", "best"), ("quality", "٥"),
        ("annotation", ""), ("annotation", "patient,"), ("annotation", "1?"), ("annotation", "a b"),
        ("iccprofile", ""), ("iccprofile", "SRGB"), ("iccprofile", "cmyk"), ("iccprofile", "no,yes"),
    ],
)  # fmt: skip
def test_malformed_parameters_are_400(client: TestClient, ct: str, name: str, value: str) -> None:
    for path in (f"{ct}/rendered", f"{ct}/frames/1/rendered"):
        response = get(client, path, PNG, **{name: value})
        assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
        assert response.json()["detail"]


def test_unknown_parameters_and_annotations_are_ignored(client: TestClient, ct: str) -> None:
    plain = get(client, f"{ct}/rendered", PNG)
    assert get(client, f"{ct}/rendered", PNG, nonsense="1", Quality="7").content == plain.content
    other = get(client, f"{ct}/rendered", PNG, annotation="dose,legend")
    assert np.array_equal(pixels_of(other.content), pixels_of(plain.content))
    assert other.headers["warning"].endswith("The following annotation values are not supported: dose, legend")
    assert "warning" not in plain.headers


def test_a_colour_picture_has_no_window(client: TestClient, frame_urls: Urls) -> None:
    response = get(client, f"{instance_of('examples_rgb_color.dcm', frame_urls)}/rendered", window="40,400,linear")
    assert response.status_code == 406


# -- media types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "query", "media_type"),
    [
        (PNG, None, PNG),
        (GIF, None, GIF),
        ("image/jpeg;q=0.5, image/png", None, PNG),
        ("image/jpeg, image/png", None, JPEG),
        ("video/mp4, image/gif;q=0.1", None, GIF),
        ("image/*;q=0.2, image/png;q=0.1", None, JPEG),
        ("text/html, image/png", None, PNG),
        ("image/jpeg; transfer-syntax=*", None, JPEG),
        ("*/*", PNG, PNG),
        ("image/jpeg", PNG, PNG),
        (None, GIF, GIF),
        ("image/jpeg", "image/tiff", JPEG),
        ('multipart/related; type="image/png"', None, "multipart/related"),
        ("multipart/related; type=image/jpeg", None, "multipart/related"),
        ("multipart/related", None, "multipart/related"),
        ('multipart/related; type="image/tiff", image/png;q=0.1', None, PNG),
    ],
)
def test_what_is_accepted_is_sent(
    client: TestClient, ct: str, accept: str | None, query: str | None, media_type: str
) -> None:
    response = get(client, f"{ct}/rendered{f'?accept={query}' if query else ''}", accept)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].split(";")[0] == media_type


@pytest.mark.parametrize(
    "accept",
    ["video/mp4", "video/*", "image/tiff", "text/html", "application/dicom", "image/jpeg;q=0", "application/pdf",
     'multipart/related; type="application/dicom"', "multipart/related; type=video/mp4"]
)  # fmt: skip
def test_nothing_acceptable_is_406_and_says_what_there_is(client: TestClient, ct: str, accept: str) -> None:
    for path in (f"{ct}/rendered", f"{ct}/thumbnail", f"{ct}/frames/1/rendered"):
        response = get(client, path, accept)
        assert response.status_code == 406
        assert all(media in response.json()["detail"] for media in (JPEG, PNG, GIF))


@pytest.mark.parametrize(
    "accept",
    ["image/jpeg, application/dicom", "application/octet-stream, image/png", "application/dicom+json, text/html",
     'multipart/related; type="application/dicom", image/jpeg', "video/mp4, application/dicom;q=0.1"],
)  # fmt: skip
def test_media_types_of_dicom_and_rendered_ones_do_not_mix(client: TestClient, ct: str, accept: str) -> None:
    assert get(client, f"{ct}/rendered", accept).status_code == 400
    assert (
        client.get(
            f"{ct}/rendered", params={"accept": accept.split(", ")[0]}, headers={"Accept": accept.split(", ")[1]}
        ).status_code
        == 400
    )


# -- several frames and instances -----------------------------------------------------------------------------------


def test_an_animation_has_all_frames(client: TestClient, dose: str) -> None:
    response = get(client, f"{dose}/rendered", GIF)
    picture = Image.open(io.BytesIO(response.content))
    got = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]
    assert len(got) == 15
    for number, pixels in enumerate(got, 1):
        assert np.array_equal(pixels, native(client, dose, number))


def test_parts_are_all_frames_in_the_order_that_is_asked_for(client: TestClient, dose: str) -> None:
    every = get(client, f"{dose}/rendered", 'multipart/related; type="image/png"')
    assert [media for media, _ in parts_of(every)] == [PNG] * 15
    for number, (_, data) in enumerate(parts_of(every), 1):
        assert np.array_equal(pixels_of(data), native(client, dose, number))
    some = get(client, f"{dose}/frames/7,2,2/rendered", 'multipart/related; type="image/png"')
    assert [data for _, data in parts_of(some)] == [parts_of(every)[number - 1][1] for number in (7, 2, 2)]
    again = get(client, f"{dose}/rendered", 'multipart/related; type="image/png"')
    assert (again.content, again.headers["etag"]) == (every.content, every.headers["etag"])


def test_one_picture_of_several_is_the_middle_one_and_says_so(client: TestClient, dose: str) -> None:
    response = get(client, f"{dose}/rendered", PNG, viewport="20,20")
    assert response.headers["content-location"] == f"{dose}/frames/8/rendered?viewport=20%2C20"
    assert client.get(response.headers["content-location"], headers={"Accept": PNG}).content == response.content
    assert get(client, f"{dose}/frames/3,9,4/rendered", PNG).headers["content-location"] == f"{dose}/frames/9/rendered"
    assert "content-location" not in get(client, f"{dose}/frames/3/rendered", PNG).headers


@pytest.mark.parametrize("accept", [PNG, 'multipart/related; type="image/png"', GIF])
def test_frames_that_are_not_there_are_404(client: TestClient, dose: str, accept: str) -> None:
    for frames in ("16", "1,16", "16,1"):
        assert get(client, f"{dose}/frames/{frames}/rendered", accept).status_code == 404
    for frames in ("0", "1,0", "x", "1,", "1-2"):
        assert get(client, f"{dose}/frames/{frames}/rendered", accept).status_code == 400


def series_of_slices(root: Path, count: int = 9) -> list[Pixels]:
    """Slices of one series, and a structured report in another one of the study. Their display pixels."""
    slices = [np.add.outer(np.arange(24), np.arange(16) * number).astype(np.uint16) for number in range(1, count + 1)]
    for number, samples in enumerate(slices, 1):
        write_image(root / f"{number}.dcm", samples, InstanceNumber=number, WindowCenter=64, WindowWidth=128)
    report = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11",
        "SOPInstanceUID": "1.2.4.9",
        "StudyInstanceUID": "1.2.4.1",
    }
    write(root / "sr.dcm", {**report, "SeriesInstanceUID": "1.2.4.1.9", "Modality": "SR", "PatientID": "T1"})
    return [formulas.linear(samples, 64, 128) for samples in slices]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, list[Pixels]]]:
    root = tmp_path_factory.mktemp("study")
    slices = series_of_slices(root)
    with TestClient(create_app(Settings(roots=(root,), backend="cpu", workers=2)), "http://127.0.0.1") as service:
        wait_for_scan(service)
        yield service, slices


@pytest.mark.parametrize("level", ["/dicomweb/studies/1.2.4.1", "/dicomweb/studies/1.2.4.1/series/1.2.4.1.1"])
def test_all_pictures_of_a_series_and_a_study(study: tuple[TestClient, list[Pixels]], level: str) -> None:
    service, slices = study
    whole = get(service, f"{level}/rendered", "multipart/related; type=image/png", annotation="none")
    parts = parts_of(whole)
    assert len(parts) == len(slices)
    assert ("1 of 10 instances cannot be shown" in whole.headers["warning"]) == ("series" not in level)
    assert "not supported: none" in whole.headers["warning"]
    for (_, data), want in zip(parts, slices, strict=True):
        assert np.array_equal(pixels_of(data), want)
    film = Image.open(io.BytesIO(get(service, f"{level}/rendered", GIF).content))
    for frame, want in zip(ImageSequence.Iterator(film), slices, strict=True):
        assert np.array_equal(np.asarray(frame.convert("L")), want)
    for resource in ("rendered", "thumbnail"):
        one = get(service, f"{level}/{resource}")
        assert np.array_equal(pixels_of(one.content), slices[4])
        assert one.headers["content-location"].endswith(f"/frames/1/{resource}")
        assert one.headers["cache-control"] == "private, no-cache"  # another instance may come


def test_what_has_no_pictures_is_406_at_each_level(study: tuple[TestClient, list[Pixels]]) -> None:
    service, _ = study
    series = "/dicomweb/studies/1.2.4.1/series/1.2.4.1.9"
    for level in (series, f"{series}/instances/1.2.4.9", f"{series}/instances/1.2.4.9/frames/1"):
        for resource in ("rendered", "thumbnail"):
            response = get(service, f"{level}/{resource}", JPEG)
            assert (response.status_code, response.json()["type"]) == (406, "urn:gpu-render:problem:not-renderable")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dicomweb/studies/9.9", 404),
        ("/dicomweb/studies/1.2.4.1/series/9.9", 404),
        ("/dicomweb/studies/1.2.4.1/series/1.2.4.1.1/instances/9.9", 404),
        ("/dicomweb/studies/1.2.4.1/series/1.2.4.1.1/instances/9.9/frames/1", 404),
        ("/dicomweb/studies/nonsense", 400),
        ("/dicomweb/studies/1.2.4.1/series/1..2", 400),
    ],
)
def test_what_is_not_there(study: tuple[TestClient, list[Pixels]], path: str, status: int) -> None:
    for resource in ("rendered", "thumbnail"):
        assert get(study[0], f"{path}/{resource}", JPEG).status_code == status


def test_frames_of_different_sizes_are_no_animation(tmp_path: Path) -> None:
    for number in (1, 2):
        write_image(
            tmp_path / f"{number}.dcm", np.arange(100 * number, dtype=np.uint16).reshape(10, -1), InstanceNumber=number
        )
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as service:
        wait_for_scan(service)
        refused = get(service, "/dicomweb/studies/1.2.4.1/rendered", GIF)
        assert (refused.status_code, "viewport" in refused.json()["detail"]) == (406, True)
        assert len(parts_of(get(service, "/dicomweb/studies/1.2.4.1/rendered", "multipart/related"))) == 2


def test_an_answer_that_cannot_go_on_is_broken_off(tmp_path: Path) -> None:
    """A frame that fails at first is its error; one that fails later must not end the answer as if it were whole."""
    for number in (1, 2, 3):
        path = write_image(
            tmp_path / f"{number}.dcm", np.arange(100, dtype=np.uint16).reshape(10, 10), InstanceNumber=number
        )
        if number == 3:
            path.write_bytes(path.read_bytes()[:-50])
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as service:
        wait_for_scan(service)
        begun = get(service, "/dicomweb/studies/1.2.4.1/rendered", "multipart/related; type=image/png")
        assert (begun.status_code, begun.content.count(b"\x89PNG")) == (200, 2)
        assert not begun.content.rstrip().endswith(b"--")
        assert get(service, "/dicomweb/studies/1.2.4.1/rendered", GIF).status_code == 422
        third = service.get("/dicomweb/studies/1.2.4.1/series/1.2.4.1.1/instances").json()[2]["00080018"]["Value"][0]
        instance = f"/dicomweb/studies/1.2.4.1/series/1.2.4.1.1/instances/{third}"
        assert get(service, f"{instance}/rendered", "multipart/related; type=image/png").status_code == 422


# -- thumbnails -----------------------------------------------------------------------------------------------------


def test_thumbnails_are_small_and_keep_small_pictures(client: TestClient, frame_urls: Urls, ct: str, dose: str) -> None:
    large = instance_of("examples_palette.dcm", frame_urls)  # 350 x 800
    assert shown(client, f"{large}/thumbnail").shape == (112, 256, 3)
    assert shown(client, f"{large}/thumbnail", viewport="64,64").shape == (28, 64, 3)
    assert np.array_equal(shown(client, f"{ct}/thumbnail"), native(client, ct))
    for path, frame in ((dose, 8), (f"{dose}/frames/2", 2), (f"{dose}/frames/1,2,3", 2)):
        response = get(client, f"{path}/thumbnail")
        assert np.array_equal(pixels_of(response.content), native(client, dose, frame))
        assert response.headers["content-location"] == f"{dose}/frames/{frame}/thumbnail"
    assert get(client, f"{ct}/thumbnail", None).headers["content-type"] == JPEG
    assert Image.open(io.BytesIO(get(client, f"{dose}/thumbnail", GIF).content)).n_frames == 1  # type: ignore[attr-defined]


def test_thumbnails_are_never_annotated(client: TestClient, ct: str) -> None:
    plain = get(client, f"{ct}/thumbnail")
    assert (
        get(client, f"{ct}/thumbnail", annotation="patient", window="1,2,linear", quality="1").content == plain.content
    )
    for viewport in ("256,256,0,0,10,10", "256", ""):
        assert get(client, f"{ct}/thumbnail", viewport=viewport).status_code == 400
    assert get(client, f"{ct}/thumbnail", "multipart/related; type=image/jpeg").status_code == 406


# -- annotations and colours ------------------------------------------------------------------------------------------


def test_annotation_changes_only_where_the_text_is(client: TestClient, ct: str) -> None:
    plain = shown(client, f"{ct}/rendered", viewport="640,640")
    for keywords, top, bottom in (
        ("patient", True, False),
        ("technique", False, True),
        ("patient,technique", True, True),
    ):
        got = shown(client, f"{ct}/rendered", viewport="640,640", annotation=keywords)
        where = (got != plain).any(axis=1)
        assert not where[90:540].any()
        assert (where[:90].any(), where[540:].any()) == (top, bottom)
        assert got.shape == plain.shape


def test_the_annotation_is_the_same_in_every_type_and_names_the_window(client: TestClient, ct: str) -> None:
    texts = [
        shown(client, f"{ct}/rendered", annotation="technique", viewport="512,512", window=w)
        for w in ("40,400,linear", "40,401,linear")
    ]
    plain = [shown(client, f"{ct}/rendered", viewport="512,512", window=w) for w in ("40,400,linear", "40,401,linear")]
    letters = [text == 255 for text in texts]
    assert (letters[0] & (plain[0] < 200)).sum() > 100
    assert not np.array_equal(letters[0] & (plain[0] < 200), letters[1] & (plain[1] < 200))
    film = get(client, f"{ct}/rendered", GIF, annotation="technique", viewport="512,512", window="40,400,linear")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(film.content)).convert("L")), texts[0])


def test_a_picture_without_room_for_its_annotation_is_406(client: TestClient, dose: str) -> None:
    response = get(client, f"{dose}/frames/1/rendered", annotation="patient")
    assert (response.status_code, "viewport" in response.json()["detail"]) == (406, True)
    assert get(client, f"{dose}/frames/1/rendered", annotation="patient", viewport="400,400").status_code == 200


def test_no_profile_unless_it_is_asked_for(client: TestClient, ct: str, frame_urls: Urls) -> None:
    def profile(path: str, accept: str, **parameters: str) -> bytes | None:
        response = get(client, path, accept, **parameters)
        assert response.status_code == 200, response.text
        return Image.open(io.BytesIO(response.content)).info.get("icc_profile")

    colour = f"{instance_of('examples_rgb_color.dcm', frame_urls)}/rendered"
    for accept in (JPEG, PNG):
        assert profile(colour, accept) is profile(colour, accept, iccprofile="no") is None
        assert (
            profile(colour, accept, iccprofile="yes") == profile(colour, accept, iccprofile="srgb") == profile_of(SRGB)
        )
        assert profile(colour, accept, iccprofile="adobergb") == profile_of(ADOBE_RGB)
        assert profile(f"{ct}/rendered", accept, iccprofile="yes") == grey_profile()
        assert profile(f"{ct}/rendered", accept, iccprofile="srgb") == profile_of(SRGB)
    whole = get(client, colour, PNG)
    assert np.array_equal(pixels_of(get(client, colour, PNG, iccprofile="srgb").content), pixels_of(whole.content))
    assert get(client, colour, GIF, iccprofile="yes").status_code == 400
    assert get(client, colour, GIF, iccprofile="no").status_code == 200


def test_the_objects_own_profile_is_used(tmp_path: Path) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    changes = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0,
               "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}  # fmt: skip
    own = image(6, 8, **changes, ICCProfile=profile_of(ADOBE_RGB), SOPInstanceUID="1.2.4.77")
    broken = image(6, 8, **changes, ICCProfile=b"no profile at all.", SOPInstanceUID="1.2.4.78")
    for name, attributes in (("own", own), ("broken", broken)):
        write(tmp_path / f"{name}.dcm", attributes, colours.tobytes())
    with TestClient(create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1)), "http://127.0.0.1") as service:
        wait_for_scan(service)
        base = "/dicomweb/studies/1.2.4.1/series/1.2.4.1.1/instances"
        kept = Image.open(io.BytesIO(get(service, f"{base}/1.2.4.77/rendered", iccprofile="yes").content))
        assert kept.info["icc_profile"] == profile_of(ADOBE_RGB)
        assert np.array_equal(np.asarray(kept), colours)
        changed = shown(service, f"{base}/1.2.4.77/rendered", iccprofile="srgb")
        # From the formulas: Adobe RGB to light, to XYZ of D65, to sRGB; out of its range is clipped.
        to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
        from_xyz = np.array([[3.24097, -1.53738, -0.49861], [-0.96924, 1.87597, 0.04156], [0.05563, -0.20398, 1.05697]])
        light = np.clip((colours / 255) ** (563 / 256) @ to_xyz.T @ from_xyz.T, 0, 1)
        want = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        assert np.abs(changed - want).max() <= 1.6
        assert get(service, f"{base}/1.2.4.78/rendered").status_code == 200
        for value in ("yes", "srgb"):
            refused = get(service, f"{base}/1.2.4.78/rendered", iccprofile=value)
            assert (refused.status_code, "ICC Profile" in refused.json()["detail"]) == (422, True)


# -- caching ----------------------------------------------------------------------------------------------------------


def test_etags_are_strong_and_answered_304(client: TestClient, ct: str) -> None:
    variants = [
        ({}, PNG), ({}, JPEG), ({}, GIF), ({"quality": "50"}, JPEG), ({"window": "40,400,linear"}, PNG),
        ({"window": "40,400,sigmoid"}, PNG), ({"viewport": "64,64"}, PNG), ({"viewport": "64,64,,,-128"}, PNG),
        ({"annotation": "patient"}, PNG), ({"annotation": "technique"}, PNG), ({"iccprofile": "yes"}, PNG),
        ({}, "multipart/related; type=image/png"),
    ]  # fmt: skip
    tags = []
    for parameters, accept in variants:
        first = get(client, f"{ct}/frames/1/rendered", accept, **parameters)
        assert first.status_code == 200
        tags.append(first.headers["etag"])
        assert re.fullmatch(r'"[0-9a-f]{32}"', tags[-1])
        assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert "Accept" in first.headers["vary"]
        headers = {"Accept": accept, "If-None-Match": f'"x", {tags[-1]}'}
        again = client.get(f"{ct}/frames/1/rendered", params=parameters, headers=headers)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[-1])
    assert len(set(tags)) == len(tags)


def test_head_tells_the_headers_of_get(client: TestClient, ct: str, dose: str) -> None:
    for path, accept in ((f"{ct}/rendered", PNG), (f"{dose}/rendered", "multipart/related; type=image/png")):
        got, head = get(client, path, accept), client.head(path, headers={"Accept": accept})
        assert head.status_code == 200
        assert head.headers["etag"] == got.headers["etag"]
        assert head.headers["content-type"] == got.headers["content-type"]


# -- every sample ---------------------------------------------------------------------------------------------------


def identified() -> list[tuple[str, str]]:
    """Name and path of each sample with UIDs."""
    found = []
    for path in sample_files():
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            uids = [str(dataset[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        except Exception:  # noqa: BLE001 - hostile on purpose, or no DICOM
            continue
        if all(re.fullmatch(r"[0-9.]+", uid) for uid in uids):
            study, series, instance = uids
            found.append(
                (
                    path.relative_to(SAMPLES).as_posix(),
                    f"/dicomweb/studies/{study}/series/{series}/instances/{instance}",
                )
            )
    return found


@pytest.mark.filterwarnings("ignore")
def test_every_sample_is_rendered_or_a_typed_error(client: TestClient) -> None:
    rendered = 0
    samples = identified()
    assert len(samples) > 90
    for name, path in samples:
        for resource in ("rendered", "thumbnail", "frames/1/rendered", "frames/1/thumbnail"):
            response = get(client, f"{path}/{resource}", PNG)
            if response.status_code == 200:
                assert pixels_of(response.content).size, name
                rendered += 1
            else:
                assert response.status_code in (400, 404, 406, 413, 422, 501), (name, resource, response.text)
                assert response.json()["type"].startswith("urn:gpu-render:problem:"), name
        annotated = get(
            client, f"{path}/rendered", JPEG, annotation="patient,technique", viewport="700,700", iccprofile="srgb"
        )
        assert annotated.status_code in (200, 400, 404, 406, 413, 422, 501), (name, annotated.text)
    assert rendered > 200
