"""Bodies for slow lines over HTTP: who gets which, and that nobody ever gets other samples."""

import asyncio
import json
import shutil
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from api import encoding
from api.app import create_app
from api.encoding import PLANES, WORTH_BYTES, Encoder, Form, codings
from api.front import _as_seen
from api.lines import LINE, TOLD
from api.streaming import Part
from gpu_render import wire
from gpu_render.errors import Overloaded
from gpu_render.priority import Priority, PriorityExecutor
from gpu_render.settings import Settings
from tests import data
from tests.api.conftest import wait_for_scan
from tests.api.served import serving
from tests.api.test_batches import records

T = TypeVar("T")

BOTH = f"{PLANES}, application/octet-stream"
STREAM = "application/vnd.gpu-render.frames"
NOISE, SMALL = "noise", "small"
UNDO: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    "gzip": lambda body: zlib.decompress(body, 16 + zlib.MAX_WBITS),
}
SAMPLES = (
    "CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "examples_rgb_color.dcm", "examples_palette.dcm", "rtdose.dcm",
    "liver_1frame.dcm", "examples_overlay.dcm", "JPEG2000.dcm",
)  # fmt: skip


def made() -> dict[str, npt.NDArray[Any]]:
    """Pictures of all containers, with odd sizes and both ends of their range."""
    ramp = np.add.outer(np.arange(151) * 3, np.arange(203) * 7)
    signed = (ramp % 251 - 125).astype("<i1")
    grey16 = (ramp * 37 - 20000).astype("<i2")
    grey16[0, 0], grey16[-1, -1] = -32768, 32767
    return {
        "i1": signed,
        "u1": ramp.astype("<u1"),
        "i2": grey16,
        "u2": grey16.view("<u2"),
        "i4": (ramp * 1_000_003).astype("<i4"),
        SMALL: grey16[:50, :100],
        NOISE: np.random.default_rng(1).integers(0, 256, (199, 201), np.uint8),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real files of several kinds, and made ones."""
    root = tmp_path_factory.mktemp("wire")
    for name in SAMPLES:
        shutil.copyfile(data.sample(name), root / name)
    for number, (name, pixels) in enumerate(made().items()):
        uids = {"StudyInstanceUID": f"1.2.77.{number}", "SeriesInstanceUID": f"1.2.77.{number}.1"}
        data.write_image(root / f"made-{name}.dcm", pixels, **uids, SOPInstanceUID=f"1.2.77.{number}.1.1")
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """A service that encodes for all who accept it."""
    settings = Settings(roots=(folder,), backend="cpu", workers=2, wire_encoding="on")
    with TestClient(create_app(settings), "http://127.0.0.1") as running:
        wait_for_scan(running)
        yield running


def url_of(name: str) -> str:
    number = list(made()).index(name)
    return f"/api/studies/1.2.77.{number}/series/1.2.77.{number}.1/instances/1.2.77.{number}.1.1/frames/1"


@pytest.fixture(scope="module")
def series(client: TestClient) -> dict[str, list[dict[str, Any]]]:
    """The frames of every manifest by its path."""
    return {
        path: client.get(path).json()["frames"]
        for study in client.get("/api/studies").json()["studies"]
        for one in study["series"]
        for path in [f"/api/studies/{study['study_instance_uid']}/series/{one['series_instance_uid']}"]
    }


class Raw:
    """An answer with its body as it went over the wire."""

    def __init__(self, client: TestClient, url: str, method: str = "GET", **headers: str) -> None:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with client.stream(method, url, headers={"Accept-Encoding": "identity", **sent}) as response:
            self.status, self.headers = response.status_code, response.headers
            self.body = b"".join(response.iter_raw())

    @property
    def coding(self) -> str | None:
        found: str | None = self.headers.get("content-encoding")
        return found

    @property
    def decoded(self) -> bytes:
        """As HTTP clients hand it on."""
        return UNDO[self.coding](self.body) if self.coding else self.body

    @property
    def samples(self) -> bytes:
        """As a client that asked for the filter undoes it."""
        if self.headers["content-type"] != PLANES:
            return self.decoded
        shape = tuple(map(int, self.headers["x-array-shape"].split(",")))
        return wire.unplanes(self.decoded, shape, self.headers["x-array-dtype"]).tobytes()


@pytest.mark.parametrize("stage", ["stored", "modality", "display"])
@pytest.mark.parametrize("accept", ["*/*", BOTH])
def test_every_frame_has_the_same_samples_however_it_is_sent(
    client: TestClient, series: dict[str, list[dict[str, Any]]], stage: str, accept: str
) -> None:
    seen = set()
    for url in (frame["url"] for frames in series.values() for frame in frames[:3]):
        plain = Raw(client, f"{url}?stage={stage}")
        if plain.status != 200:
            continue
        for coding in UNDO:
            coded = Raw(client, f"{url}?stage={stage}", Accept=accept, Accept_Encoding=coding)
            assert coded.samples == plain.body
            assert int(coded.headers["content-length"]) == len(coded.body)
            for name in ("x-array-shape", "x-array-dtype", "x-array-stage", "x-window", "x-decode-backend", "vary"):
                assert coded.headers.get(name) == plain.headers.get(name)
            seen.add((coded.coding, coded.headers["content-type"], coded.headers["x-array-dtype"]))
    dtypes = {"stored": {"|u1", "|i1", "<i2", "<u2", "<i4"}, "modality": {"<i2", "<f4"}, "display": {"|u1"}}[stage]
    form = PLANES if accept == BOTH else "application/octet-stream"
    assert seen >= {(coding, form, dtype) for coding in UNDO for dtype in dtypes}


@pytest.mark.parametrize(
    "accept",
    [
        None, "*/*", "application/*", "application/octet-stream", f"{PLANES};q=0, application/octet-stream",
        f"{PLANES};v=2, application/octet-stream", "application/octet-stream;filter=planes",
    ],
)  # fmt: skip
def test_nobody_gets_the_filter_who_did_not_ask_for_it(client: TestClient, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = Raw(client, f"{url_of('i2')}?stage=stored", Accept_Encoding="zstd", **headers)
    assert (answer.coding, answer.headers["content-type"]) == ("zstd", "application/octet-stream")
    assert answer.decoded == made()["i2"].tobytes()


def test_the_filter_is_never_alone(client: TestClient) -> None:
    """Without a coding it saves nothing; and one who names nothing else could not be answered otherwise."""
    url = f"{url_of('i2')}?stage=stored"
    plain = Raw(client, url, Accept=BOTH)
    assert (plain.coding, plain.headers["content-type"], plain.body) == (
        None,
        "application/octet-stream",
        made()["i2"].tobytes(),
    )
    assert Raw(client, url, Accept=PLANES, Accept_Encoding="zstd").status == 406


def test_a_npy_file_stays_one(client: TestClient) -> None:
    answer = Raw(client, f"{url_of('i2')}?stage=stored", Accept=f"application/x-npy, {PLANES}", Accept_Encoding="zstd")
    plain = Raw(client, f"{url_of('i2')}?stage=stored", Accept="application/x-npy")
    assert (answer.coding, answer.headers["content-type"]) == ("zstd", "application/x-npy")
    assert answer.decoded == plain.body


@pytest.mark.parametrize("name", [SMALL, NOISE])
def test_what_is_small_or_does_not_get_smaller_comes_as_it_is(client: TestClient, name: str) -> None:
    answer = Raw(client, f"{url_of(name)}?stage=stored", Accept=BOTH, Accept_Encoding="zstd, gzip")
    assert (answer.coding, answer.headers["content-type"]) == (None, "application/octet-stream")
    assert answer.body == made()[name].tobytes()
    assert answer.headers["etag"].startswith('"')
    assert made()[SMALL].nbytes < WORTH_BYTES < made()[NOISE].nbytes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, []),
        ("", []),
        ("identity", []),
        ("br, deflate", []),
        ("gzip, deflate, br, zstd", ["zstd", "gzip"]),
        ("gzip", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("*", ["gzip"]),
        ("ZSTD", ["zstd"]),
        ("zstd;q=0.5, gzip", ["gzip", "zstd"]),
        ("zstd;q=0, gzip;q=0", []),
        ("gzip;q=0, *", []),
        ("identity, gzip;q=0.5, zstd;q=0.8", []),
        ("identity;q=0.6, gzip;q=0.5, zstd;q=0.8", ["zstd"]),
    ],
)
def test_codings_that_a_request_accepts(text: str | None, found: list[str]) -> None:
    headers = [] if text is None else [(b"accept-encoding", text.encode())]
    assert codings(Request({"type": "http", "headers": headers})) == found


# --- caches ------------------------------------------------------------------------------------------------------


def test_each_form_has_an_etag_of_its_own_and_each_is_answered_304(client: TestClient) -> None:
    url = f"{url_of('i2')}?stage=stored"
    everything = {"Accept": BOTH, "Accept_Encoding": "gzip, zstd"}
    forms: list[dict[str, str]] = [
        {},
        {"Accept_Encoding": "zstd"},
        {"Accept_Encoding": "gzip"},
        {"Accept": BOTH, "Accept_Encoding": "zstd"},
        {"Accept": BOTH, "Accept_Encoding": "gzip"},
    ]
    tags = [Raw(client, url, **form).headers["etag"] for form in forms]
    assert len(set(tags)) == len(forms)
    assert [tag.startswith("W/") for tag in tags] == [False, True, True, True, True]
    for form, tag in zip(forms, tags, strict=True):
        for asking in (form, everything):
            same = Raw(client, url, If_None_Match=f'"other", {tag}', **asking)
            assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
            assert same.headers["vary"] == "Accept, Accept-Encoding, Authorization"
    for tag in tags[1:]:  # the cache of one who could not read that form
        assert Raw(client, url, If_None_Match=tag).status == 200
    assert Raw(client, url, If_None_Match=tags[3], Accept_Encoding="zstd").status == 200
    assert Raw(client, url, If_None_Match=tags[1].replace("-zstd", "-br"), **everything).status == 200


def test_head_says_what_get_would(client: TestClient) -> None:
    url = f"{url_of('i2')}?stage=stored"
    for headers in ({"Accept_Encoding": "zstd"}, {"Accept": BOTH, "Accept_Encoding": "gzip"}, {}):
        get, head = Raw(client, url, **headers), Raw(client, url, "HEAD", **headers)
        assert (head.status, head.body) == (200, b"")
        for name in ("content-encoding", "content-length", "content-type", "etag", "vary"):
            assert head.headers.get(name) == get.headers.get(name)


def test_the_step_is_timed_and_counted(client: TestClient) -> None:
    def figures() -> dict[str, float]:
        lines = (line.split() for line in client.get("/metrics").text.splitlines() if "encoded_" in line)
        return {line[0]: float(line[1]) for line in lines if line[0] != "#"}

    before = figures()
    coded = Raw(client, f"{url_of('i2')}?stage=stored", Accept_Encoding="zstd")
    assert "encode;dur=" in coded.headers["server-timing"]
    assert "encode" not in Raw(client, f"{url_of('i2')}?stage=stored").headers["server-timing"]
    after = figures()
    assert after["gpu_render_encoded_answers_total"] == before["gpu_render_encoded_answers_total"] + 1
    saved = after["gpu_render_encoded_bytes_saved_total"] - before["gpu_render_encoded_bytes_saved_total"]
    assert saved == made()["i2"].nbytes - len(coded.body)


# --- many frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", UNDO)
@pytest.mark.parametrize("accept", ["*/*", STREAM, f"{STREAM};filter=planes"])
def test_streams_hold_the_same_records_however_they_are_sent(
    client: TestClient, series: dict[str, list[dict[str, Any]]], coding: str, accept: str
) -> None:
    filters = set()
    for path in series:
        plain = Raw(client, f"{path}/frames?stage=stored")
        coded = Raw(client, f"{path}/frames?stage=stored", Accept=accept, Accept_Encoding=coding)
        assert (plain.coding, coded.coding) == (None, coding)
        assert coded.headers["cache-control"] == "private, no-store"
        assert "Accept-Encoding" in coded.headers["vary"]
        expected, found = list(records(plain.body)), list(records(coded.decoded))
        assert len(found) == len(expected)
        for (header, samples), (told, sent) in zip(expected, found, strict=True):
            used = told.pop("filter", None)
            filters.add(used)
            assert told == header
            undone = wire.unplanes(sent, tuple(told["shape"]), told["dtype"]).tobytes() if used else sent
            assert undone == samples
    assert filters == ({None, "planes"} if accept.endswith("planes") else {None})  # None: ends and problems


def test_a_record_can_be_read_before_the_next_one_is_made() -> None:
    async def parts() -> AsyncGenerator[Part, None]:
        for number in range(3):
            made_so_far.append(number)
            yield f"head {number};".encode()
            yield np.full((100, 100), number, "<u2").data
        yield b"end"

    async def read() -> None:
        undo = zstandard.ZstdDecompressor().decompressobj()
        stream = Encoder("on", threads).stream(parts(), Form("zstd", True), Priority.THUMBNAIL)
        for number in range(3):
            text = undo.decompress(await anext(stream))
            assert text == f"head {number};".encode() + bytes(wire.planes(np.full((100, 100), number, "<u2")))
            assert made_so_far == list(range(number + 1))
        assert undo.decompress(await anext(stream)) == b"end"
        assert await anext(stream, None) is None

    made_so_far: list[int] = []
    threads = PriorityExecutor(1, 10, "test")
    try:
        asyncio.run(read())
    finally:
        threads.close()


# --- when --------------------------------------------------------------------------------------------------------


class AtLine:
    """ASGI: the service as it is reached over a line of so many Mbit/s."""

    def __init__(self, app: ASGIApp, mbit_s: float) -> None:
        self.app = app
        self._mbit_s = mbit_s

    def mbit_s(self, scope: Scope) -> float:
        """As ``Line`` says."""
        return self._mbit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[LINE] = self
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def automatic(folder: Path) -> Iterator[TestClient]:
    """A service as it is without a setting."""
    settings = Settings(roots=(folder,), backend="cpu", workers=2)
    with TestClient(create_app(settings), "http://127.0.0.1") as running:
        wait_for_scan(running)
        yield running


@pytest.mark.parametrize(
    ("mbit_s", "accepted", "coding"),
    [
        (10, "gzip, zstd", "zstd"),
        (10, "gzip", "gzip"),
        (200, "gzip, zstd", "zstd"),
        (200, "gzip", None),
        (200, "gzip, zstd;q=0.5", "zstd"),
        (499, "zstd", "zstd"),
        (501, "gzip, zstd", None),
        (float("inf"), "gzip, zstd", None),
        (10, "identity", None),
    ],
)
def test_the_line_decides(automatic: TestClient, mbit_s: float, accepted: str, coding: str | None) -> None:
    client = TestClient(AtLine(automatic.app, mbit_s), "http://127.0.0.1")
    url = url_of("i2")
    answer = Raw(client, f"{url}?stage=stored", Accept_Encoding=accepted)
    assert (answer.coding, answer.decoded) == (coding, made()["i2"].tobytes())
    path = url.split("/instances")[0]
    stream = Raw(client, f"{path}/frames?stage=stored", Accept_Encoding=accepted)
    assert stream.coding == coding
    assert next(records(stream.decoded))[1] == made()["i2"].tobytes()


def test_nothing_is_encoded_where_no_line_is_known(automatic: TestClient) -> None:
    answer = Raw(automatic, f"{url_of('i2')}?stage=stored", Accept=BOTH, Accept_Encoding="zstd")
    assert (answer.coding, answer.body) == (None, made()["i2"].tobytes())


def test_switched_off_nobody_gets_it(folder: Path) -> None:
    settings = Settings(roots=(folder,), backend="cpu", workers=1, wire_encoding="off")
    with TestClient(AtLine(create_app(settings), 1), "http://127.0.0.1") as client:
        wait_for_scan(client)
        answer = Raw(client, f"{url_of('i2')}?stage=stored", Accept=BOTH, Accept_Encoding="zstd")
        assert (answer.coding, answer.body) == (None, made()["i2"].tobytes())


def test_a_real_server_encodes_as_it_is_told_and_never_on_loopback(folder: Path, tmp_path: Path) -> None:
    asked = {"Accept": BOTH, "Accept-Encoding": "gzip, zstd"}
    expected = made()["i2"].tobytes()
    for mode, coding in (("on", "zstd"), ("auto", None)):
        work = tmp_path / mode
        work.mkdir()
        with serving(folder, work, environment={"GPU_RENDER_WIRE_ENCODING": mode}) as served:
            served.wait_for_files(len(SAMPLES) + len(made()))
            for _ in range(3):
                answer = served.ask(f"{url_of('i2')}?stage=stored", headers=asked)
                assert answer.headers.get("content-encoding") == coding
                if coding is None:
                    assert answer.body == expected
                else:
                    undone = wire.unplanes(UNDO[coding](answer.body), (151, 203), "<i2")
                    assert undone.tobytes() == expected


@pytest.mark.parametrize("claimed", [[], [(TOLD, b"3")]])
def test_the_front_tells_a_worker_what_it_saw_and_not_what_the_client_says(claimed: list[tuple[bytes, bytes]]) -> None:
    def told(mbit_s: float | None) -> Mapping[bytes, bytes]:
        scope: Scope = {"scheme": "https"} | ({} if mbit_s is None else {LINE: AtLine(create_app, mbit_s)})  # type: ignore[arg-type]
        return dict(_as_seen([(b"accept", b"*/*"), *claimed], scope))

    assert told(None) == {b"accept": b"*/*", b"x-forwarded-proto": b"https"}
    assert told(float("inf")) == told(None)
    assert told(12.34) == {**told(None), TOLD: b"12.3"}


# --- too much to do ----------------------------------------------------------------------------------------------


class Full:
    """Threads that take nothing more; the answer is due all the same."""

    def __len__(self) -> int:
        return 0

    def submit(self, work: Callable[[], T], priority: Priority) -> "Future[T]":
        raise Overloaded("the render queue is full")


class Waiting(Full):
    def __len__(self) -> int:
        return encoding.MOST_WAITING


@pytest.mark.parametrize("threads", [Full(), Waiting()])
def test_a_frame_comes_as_it_is_where_the_threads_are_busy(
    client: TestClient, threads: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(client.app.state._state, "encoder", Encoder("on", threads))  # type: ignore[arg-type, attr-defined]
    answer = Raw(client, f"{url_of('i2')}?stage=stored", Accept_Encoding="zstd")
    assert (answer.status, answer.coding, answer.body) == (200, None, made()["i2"].tobytes())


def test_a_stream_asks_again_and_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PATIENCE_S", 0.05)

    class Busy(Full):
        def __init__(self, times: int) -> None:
            self.left = times

        def submit(self, work: Callable[[], T], priority: Priority) -> "Future[T]":
            self.left -= 1
            if self.left >= 0:
                raise Overloaded("the render queue is full")
            done: Future[T] = Future()
            done.set_result(work())
            return done

    async def parts() -> AsyncGenerator[Part, None]:
        yield b"head"
        yield memoryview(b"samples")
        yield b"end"

    async def all_of(threads: Busy) -> bytes:
        stream = Encoder("on", threads).stream(parts(), Form("gzip", False), Priority.THUMBNAIL)  # type: ignore[arg-type]
        return b"".join([bytes(part) async for part in stream])

    assert UNDO["gzip"](asyncio.run(all_of(Busy(1)))) == b"headsamplesend"
    with pytest.raises(Overloaded):
        asyncio.run(all_of(Busy(10**9)))


# --- JSON --------------------------------------------------------------------------------------------------------


def test_json_comes_with_zstd_where_that_is_accepted(client: TestClient) -> None:
    plain = Raw(client, "/api/studies")
    for accepted, coding in (("gzip, deflate, br, zstd", "zstd"), ("gzip", "gzip"), ("zstd;q=0.1, gzip", "gzip")):
        answer = Raw(client, "/api/studies", Accept_Encoding=accepted)
        assert (answer.coding, answer.decoded) == (coding, plain.body)
        assert answer.headers["etag"] == plain.headers["etag"]
        assert "Accept-Encoding" in answer.headers["vary"]
    assert json.loads(plain.body)["studies"]
