"""What is asked for again is answered without a look at the request: the same answers, and they are counted alike."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from api import native
from api.again import CONDITIONS, DECIDING, LONGEST, MOST, Remembered, key_of
from api.app import create_app
from api.dicomweb import frames, wado
from api.lines import LINE
from gpu_render.errors import Overloaded
from gpu_render.lookahead import LookAhead
from gpu_render.renderer import Renderer
from gpu_render.settings import Settings
from tests.api.answers import SERIES, STUDY, serve
from tests.api.conftest import wait_for_scan
from tests.api.test_frames import url_of
from tests.data import write_image

ORIGIN = "https://viewer.example"
OCTETS = "application/octet-stream"
EXPLICIT = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
UID = "1.2.4.1.1.7"
RAW = f"/api/studies/{STUDY}/series/{SERIES}/instances/{UID}/frames/1?stage=stored"
WADO = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{UID}/frames/1"


@contextmanager
def service(root: Path, *, forgetful: bool, **settings: Any) -> Iterator[TestClient]:
    app = create_app(Settings(roots=(root,), backend="cpu", workers=1, **settings))
    if forgetful:
        for one in app.user_middleware:
            if "remembered" in one.kwargs:
                one.kwargs["remembered"] = Remembered(0)
    with TestClient(app, "http://127.0.0.1") as client:
        wait_for_scan(client)
        yield client


@pytest.fixture(scope="module", params=["auto", "on"])
def both(request: pytest.FixtureRequest, samples: Path) -> Iterator[tuple[TestClient, TestClient]]:
    """A service that remembers, and one that does not."""
    settings = {"cors_origins": (ORIGIN,), "wire_encoding": request.param}
    with service(samples, forgetful=False, **settings) as again, service(samples, forgetful=True, **settings) as anew:
        yield again, anew


def known(client: TestClient) -> int:
    return len(client.app.state.remembered)  # type: ignore[attr-defined]


def what(response: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """All of an answer, in order; of its time only the steps."""
    headers = [(name, value) for name, value in response.headers.items() if name != "server-timing"]
    steps = [part.split(";")[0] for part in response.headers.get("server-timing", "none").split(", ")]
    return response.status_code, [*headers, ("steps", ",".join(steps))], response.content


HEADERS: list[dict[str, str]] = [
    {},
    {"Accept": OCTETS},
    {"Accept": "application/x-npy"},
    {"Accept": EXPLICIT},
    {"Accept": AS_STORED},
    {"Accept": "text/html"},
    {"Accept": OCTETS, "Accept-Encoding": "identity"},
    {"Accept": f"application/vnd.gpu-render.planes, {OCTETS}", "Accept-Encoding": "zstd, gzip"},
    {"Accept": OCTETS, "Priority": "u=7"},
    {"Accept": OCTETS, "Priority": "u=4, i"},
    {"Accept": OCTETS, "Origin": ORIGIN, "Cookie": "a=b"},
    {"Accept": OCTETS, "Origin": "https://elsewhere.example"},
    {"Accept": OCTETS, "Range": "bytes=2-9"},
    {"Accept": OCTETS, "Range": "bytes=99999999-"},
    {"Accept": OCTETS, "Range": "bytes=2-9", "If-Range": '"other"'},
    {"Accept": OCTETS, "If-None-Match": "*"},
    {"Accept": OCTETS, "If-None-Match": '"other"'},
    {"Accept": OCTETS, "If-None-Match": "its own"},
    {"Accept": OCTETS, "If-Range": "its own", "Range": "bytes=-7"},
    {"Accept": OCTETS, "X-Other": "x" * LONGEST},
]
QUERIES = ["", "?stage=stored", "?stage=stored&accept=application/x-npy", "?window=40,400", "?viewport=9,9", "?stage=x"]


@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle_2frame.dcm"])
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("prefix", ["/api", "/dicomweb"])
def test_the_same_answers(
    name: str, query: str, prefix: str, both: tuple[TestClient, TestClient], frame_urls: dict[str, list[str]]
) -> None:
    url = url_of(name, frame_urls).replace("/api", prefix, 1) + query
    tag = ""
    for _ in range(4):  # read, decoded; kept; left behind; again
        for given in HEADERS:
            headers = {header: tag if value == "its own" else value for header, value in given.items()}
            got, want = (what(client.get(url, headers=headers)) for client in both)
            assert got == want, headers
            tag = dict(got[1]).get("etag", tag)
        got, want = (what(client.head(url, headers=HEADERS[1])) for client in both)
        assert got == want
    assert known(both[0]) > 0


@pytest.mark.parametrize(("module", "handler", "url"), [(native, "frame_response", RAW), (wado, "_frames", WADO)])
def test_the_handler_is_not_asked_again(
    module: Any, handler: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "one.dcm", np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)
    monkeypatch.setattr(frames, "LOOK_S", 60.0)
    with serve(tmp_path) as answers:
        for _ in range(3):
            answers.client.get(url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, handler, None)
            assert answers.client.get(url).status_code == 200
            assert answers.client.get(url, headers={"Cookie": "other=1"}).status_code == 200
            for condition in CONDITIONS:
                assert answers.client.get(url, headers={condition.decode(): "x"}).status_code == 500


def test_what_is_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "one.dcm", np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)
    told: list[tuple[Any, str]] = []
    monkeypatch.setattr(LookAhead, "saw", lambda _, ref, decoder: told.append((ref, decoder)))
    found = []
    for forgetful in (False, True):
        told.clear()
        with service(tmp_path, forgetful=forgetful) as client:
            for url in (RAW, WADO, RAW.partition("?")[0]):
                for priority in ("u=0", "u=7") * 5:
                    client.get(url, headers={"Priority": priority})
            lines = client.get("/metrics").text.splitlines()
        counts = [one for one in lines if "host_cache_hits" in one or ("seconds_count" in one and "/frames/" in one)]
        found.append((list(told), counts))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 10
    assert any(one.endswith("} 20.0") for one in found[0][1])


@pytest.mark.parametrize("url", [RAW, WADO, RAW.partition("?")[0]])
def test_a_file_that_is_replaced_and_one_that_has_gone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "LOOK_S", 60.0)
    file = tmp_path / "one.dcm"
    write_image(file, np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)
    with serve(tmp_path) as answers:

        def ask(times: int = 5) -> list[tuple[int, list[tuple[str, str]], bytes]]:
            got = [what(answers.client.get(url)) for _ in range(times)]
            return [(status, headers[:-1], content) for status, headers, content in got]

        archive = answers.client.app.state.service.archive  # type: ignore[attr-defined]
        first = ask()
        assert first == first[:1] * 5
        assert known(answers.client) == 1
        write_image(file, np.full((4, 8), 4, np.uint16), SOPInstanceUID=UID)
        archive.scan()
        new = ask()
        assert new == new[:1] * 5
        assert new[0][0] == 200
        assert dict(new[0][1])["etag"] != dict(first[0][1])["etag"]
        assert url != RAW or new[0][2] == np.full((4, 8), 4, np.uint16).tobytes()
        file.unlink()
        archive.scan()
        assert [status for status, _, _ in ask(2)] == [404, 404]


def test_an_error_is_a_problem_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "one.dcm", np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)

    def refuse(*_: object) -> None:
        raise Overloaded("full")

    with serve(tmp_path) as answers:
        for _ in range(3):
            answers.client.get(RAW)
        monkeypatch.setattr(Renderer, "at_hand", refuse)
        answer = answers.client.get(RAW)
    assert answer.status_code == 503
    assert answer.json()["sop_instance_uid"] == UID
    assert "retry-after" in answer.headers


def test_a_service_that_ends_leaves_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "one.dcm", np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1))
    for _ in range(2):
        with TestClient(app, "http://127.0.0.1") as client:
            wait_for_scan(client)
            assert known(client) == 0
            assert [client.get(RAW).status_code for _ in range(3)] == [200] * 3
            assert known(client) == 1


def test_a_service_remembers_no_more_than_it_may(tmp_path: Path) -> None:
    write_image(tmp_path / "one.dcm", np.full((10, 8), 10, np.uint16), SOPInstanceUID=UID)
    with serve(tmp_path) as answers:
        for number in range(20):
            answers.client.get(f"{RAW}&{number}={'x' * 100 * number}")
        assert 5 < known(answers.client) <= 10
        remembered = answers.client.app.state.remembered  # type: ignore[attr-defined]
        for number in range(MOST):
            remembered.keep((str(number), b"", ()), None)
        assert known(answers.client) == MOST


def test_those_that_were_asked_last_stay() -> None:
    remembered = Remembered[int](2)
    keys = [(path, b"", ((b"accept", b"*/*"),)) for path in "abc"]
    remembered.keep(keys[0], 0)
    remembered.keep(keys[1], 1)
    assert remembered.find(keys[0]) == 0
    remembered.keep(keys[2], 2)
    assert [remembered.find(key) for key in keys] == [0, None, 2]
    for name in CONDITIONS:
        remembered.keep(("a", b"", ((name, b""),)), 3)
    remembered.keep(("a", b"x" * LONGEST, ()), 3)
    remembered.keep(("\udcff" * (LONGEST // 3 + 1), b"", ()), 3)
    assert [remembered.find(key) for key in keys] == [0, None, 2]


class Noted(bytes):
    """The name of a header that notes what it is looked at for."""

    names: set[Any]
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        self.names.add(other)
        return super().__eq__(other)


def scope_of(url: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    path, _, query = url.partition("?")
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "", "headers": headers, "state": {},
        "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
    }  # fmt: skip


@pytest.mark.parametrize("url", [RAW, WADO])
def test_no_other_header_is_looked_at(url: str, tmp_path: Path) -> None:
    write_image(tmp_path / "one.dcm", np.full((256, 256), 10, np.uint16), SOPInstanceUID=UID)
    names: set[Any] = set()
    noted = Noted(b"x-noted")
    noted.names = names
    statuses = []

    async def ask(app: Any, *more: tuple[bytes, bytes]) -> None:
        async def send(message: Message) -> None:
            statuses.append(message.get("status", 200))

        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError

        await app(scope_of(url, [(noted, b"1"), *more]), receive, send)

    with serve(tmp_path, wire_encoding="on") as answers:
        for more in ((), ((b"range", b"bytes=0-1"), (b"if-range", b"x")), ((b"if-none-match", b'"x"'),)) * 3:
            answers.client.portal.call(ask, answers.client.app, *more)  # type: ignore[union-attr]
    assert set(statuses) == {200}
    assert {b"accept", b"priority", b"if-none-match"} <= names
    assert names <= DECIDING, names - DECIDING


def test_where_the_line_decides_nothing_is_remembered() -> None:
    scope = scope_of(RAW, [(b"accept", b"*/*"), (b"x-other", b"1"), (b"accept-encoding", b"zstd")])
    assert key_of(scope) == (scope["path"], b"stage=stored", ((b"accept", b"*/*"), (b"accept-encoding", b"zstd")))
    assert key_of({**scope, LINE: object()}) is None
