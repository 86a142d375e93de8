"""Frames asked for past the framework's router: the same answers as through it, to the last header."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response
from starlette.testclient import TestClient

from api import native
from api.again import Remembered
from api.app import create_app
from api.dicomweb import rendered, wado
from api.direct import Direct, route_of
from api.metrics import Metrics
from api.negotiation import LONGEST_REMEMBERED
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan
from tests.api.test_frames import url_of

ORIGIN = "https://viewer.example"
EXPLICIT = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'


def service(samples: Path, *, routed: bool) -> Iterator[TestClient]:
    settings = Settings(roots=(samples,), backend="cpu", workers=1, cors_origins=(ORIGIN,))
    app = create_app(settings)
    if routed:
        app.user_middleware = [one for one in app.user_middleware if one.cls is not cast(Any, Direct)]
    assert any(one.cls is cast(Any, Direct) for one in app.user_middleware) is not routed
    with TestClient(app, "http://127.0.0.1") as client:
        wait_for_scan(client)
        yield client


@pytest.fixture(scope="module")
def direct(samples: Path) -> Iterator[TestClient]:
    yield from service(samples, routed=False)


@pytest.fixture(scope="module")
def routed(samples: Path) -> Iterator[TestClient]:
    yield from service(samples, routed=True)


def what(response: Any) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but how long it took."""
    headers = {name: value for name, value in response.headers.items() if name != "server-timing"}
    return response.status_code, headers, response.content


RAW = [
    "",
    "?stage=stored",
    "?stage=STORED&stage=modality",
    "?stage=",
    "?stage=modality&region=0,0,64,32",
    "?window=40,400&viewport=64,64&invert=true",
    "?window=40%2C400",
    "?window=+40,400",
    "?voi=0&unknown=1&stage=display",
    "?accept=application/x-npy",
    "?%61ccept=application/x-npy",
    "?window=40,400&" + "x" * LONGEST_REMEMBERED,
    "?&&=&stage=stored;window=1",
    # refused
    "?stage=other",
    "?window=1",
    "?region=0,0,9999,9999",
    "?stage=stored&invert=true",
    "?voi=%E0%A4%A",
    "?voi=9",
    "?accept=image/png",
    "?viewport=0,0",
]


@pytest.mark.parametrize("query", RAW)
@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle_2frame.dcm"])
def test_raw_arrays(
    query: str, name: str, direct: TestClient, routed: TestClient, frame_urls: dict[str, list[str]]
) -> None:
    url = url_of(name, frame_urls) + query
    for _ in range(2):  # from the file, and from the cache
        assert what(direct.get(url)) == what(routed.get(url))


@pytest.mark.parametrize("number", ["2", "0", "-1", "99", "1e1", "1%2F", "", "1/", "%31", "1,2", "x" * 300])
@pytest.mark.parametrize("prefix", ["/api", "/dicomweb"])
def test_paths(
    number: str, prefix: str, direct: TestClient, routed: TestClient, frame_urls: dict[str, list[str]]
) -> None:
    base = url_of("SC_rgb_rle_2frame.dcm", frame_urls).rpartition("/")[0].replace("/api", prefix, 1)
    got, want = (client.get(f"{base}/{number}", follow_redirects=False) for client in (direct, routed))
    assert what(got) == what(want)
    wrong = base.replace("/series/1", "/series/1x")
    assert what(direct.get(f"{wrong}/1")) == what(routed.get(f"{wrong}/1"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Accept": EXPLICIT},
        {"Accept": EXPLICIT, "Range": "bytes=10-99"},
        {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"},
        {"Accept": "image/dicom-rle"},
        {"Accept": "text/html"},
        {"Accept": "application/octet-stream", "Priority": "u=7", "Origin": ORIGIN},
        {"Accept": "application/octet-stream", "Origin": "https://elsewhere.example"},
        {"If-None-Match": "*"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("prefix", ["/api", "/dicomweb"])
def test_headers_and_methods(
    headers: dict[str, str],
    method: str,
    prefix: str,
    direct: TestClient,
    routed: TestClient,
    frame_urls: dict[str, list[str]],
) -> None:
    url = url_of("SC_rgb_rle_2frame.dcm", frame_urls).replace("/api", prefix, 1)
    for _ in range(2):
        got, want = (client.request(method, url, headers=headers) for client in (direct, routed))
        assert what(got) == what(want)


@pytest.mark.parametrize("prefix", ["/api", "/dicomweb"])
def test_what_a_client_has_it_is_not_sent(
    prefix: str, direct: TestClient, routed: TestClient, frame_urls: dict[str, list[str]]
) -> None:
    url = url_of("CT_small.dcm", frame_urls).replace("/api", prefix, 1)
    tag = direct.get(url).headers["etag"]
    got, want = (client.get(url, headers={"If-None-Match": f'"other", W/{tag}'}) for client in (direct, routed))
    assert got.status_code == 304
    assert what(got) == what(want)


RENDERED = [
    "",
    "?window=40,400,linear",
    "?window=40%2C400%2Clinear&viewport=64,64&quality=50",
    "?window=40,400,linear&window=50,500,linear",
    "?annotation=patient,dose&iccprofile=yes",
    "?accept=image/png",
    "?%61ccept=image/png",
    "?accept=image/gif&quality=",
    "?other=1",
    # refused
    "?window=40,400",
    "?window=",
    "?viewport=0,0",
    "?quality=101",
    "?annotation=%00",
    "?iccprofile=other",
    "?accept=text/html",
    "?accept=image/png,application/dicom",
]


@pytest.mark.parametrize("query", RENDERED)
@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle_2frame.dcm"])
@pytest.mark.parametrize("leaf", ["/frames/1/rendered", "/frames/1,2/rendered", "/frames/0/rendered", "/rendered"])
def test_pictures(
    query: str, name: str, leaf: str, direct: TestClient, routed: TestClient, frame_urls: dict[str, list[str]]
) -> None:
    instance = url_of(name, frame_urls).replace("/api", "/dicomweb", 1).rpartition("/frames/")[0]
    for accept in (None, "image/png;q=0.5, image/jpeg", 'multipart/related; type="image/png"'):
        headers = {} if accept is None else {"Accept": accept}
        got, want = (what(client.get(instance + leaf + query, headers=headers)) for client in (direct, routed))
        # The boundary of parts is made of the answer's tag, the same for the same pictures.
        assert got == want


def test_requests_are_counted_by_their_route(direct: TestClient, frame_urls: dict[str, list[str]]) -> None:
    url = url_of("CT_small.dcm", frame_urls)
    direct.get(url + "?stage=wrong")
    direct.head(url.replace("/api", "/dicomweb", 1))
    text = direct.get("/metrics").text
    frame = "/studies/{study}/series/{series}/instances/{instance}/frames/"
    for route, status in ((f"/api{frame}{{frame}}", "4xx"), (f"/dicomweb{frame}{{frames}}", "2xx")):
        name = f'gpu_render_request_seconds_count{{route="{route}",status="{status}"}} '
        assert any(line.startswith(name) and float(line.split()[-1]) > 0 for line in text.splitlines())


def test_an_unforeseen_error_is_a_500_without_its_text(
    direct: TestClient, frame_urls: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ValueError("Doe^John")

    monkeypatch.setattr(native, "frame_response", broken)
    answer = direct.get(url_of("CT_small.dcm", frame_urls) + "?not=yet-asked")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:gpu-render:problem:internal"
    assert "Doe" not in answer.text


def test_the_routes_are_documented_all_the_same(direct: TestClient) -> None:
    paths = direct.get("/openapi.json").json()["paths"]
    found = paths["/api/studies/{study}/series/{series}/instances/{instance}/frames/{frame}"]["get"]["parameters"]
    assert {"study", "frame", "stage", "window", "invert"} <= {one["name"] for one in found}


async def _with_header(request: Request, other: Annotated[str | None, Header()] = None) -> Response:
    raise AssertionError(request, other)


async def _with_number(request: Request, number: int) -> Response:
    raise AssertionError(request, number)


async def _with_default(request: Request, stage: Annotated[str | None, Query()] = "display") -> Response:
    raise AssertionError(request, stage)


async def _with_alias(request: Request, stage: Annotated[str | None, Query(alias="st")] = None) -> Response:
    raise AssertionError(request, stage)


async def _with_dependency(request: Request, _more: Annotated[None, Depends(lambda: None)]) -> Response:
    raise AssertionError(request)


async def _without_request(study: str) -> Response:
    raise AssertionError(study)


@pytest.mark.parametrize(
    "handler", [_with_header, _with_number, _with_default, _with_alias, _with_dependency, _without_request]
)
def test_a_route_that_needs_more_of_the_framework_is_refused(handler: Any) -> None:
    router = APIRouter()
    router.get("/{study}/{number}" if handler is _with_number else "/{study}")(handler)
    with pytest.raises(ValueError, match="more than a GET"):
        Direct(router, [route_of(router, handler)], Metrics(), list, Remembered(0))


def test_the_routes_of_single_frames_need_no_more() -> None:
    routes = [route_of(native.router, native.get_frame), route_of(wado.router, wado.get_frames)]
    Direct(native.router, routes, Metrics(), list, Remembered(0))
    of_pictures = (rendered.get_rendered_frames, rendered.get_rendered_instance)
    Direct(
        rendered.router, [route_of(rendered.router, handler) for handler in of_pictures], Metrics(), list, Remembered(0)
    )
