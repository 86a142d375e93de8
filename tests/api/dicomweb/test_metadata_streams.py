"""How metadata are sent: piece by piece, with gzip or not, and never as a list that only looks whole."""

import asyncio
import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import uvicorn
from fastapi import FastAPI

from api import problems
from api.app import HeadAsGet
from api.dicomweb import metadata
from api.dicomweb.metadata import PIECE_BYTES, InThreads, etag_of, pieces
from gpu_render.archive import InstanceRecord
from gpu_render.errors import CorruptPixelData, NotFound

STUDY, SERIES = "1.2", "1.2.1"
PATH = f"/dicomweb/studies/{STUDY}/series/{SERIES}"


def record(number: int, version: str = "v1") -> InstanceRecord:
    uid = f"{SERIES}.{number}"
    return InstanceRecord(
        STUDY, SERIES, uid, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", number, 1, None, version, 9
    )


def text_of(record: InstanceRecord, filler: int = 0) -> bytes:
    """As the archive writes it. The comment is there to be mistaken for bulk data."""
    members = {
        "00080018": {"vr": "UI", "Value": [record.sop_instance_uid]},
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "0020000E": {"vr": "UI", "Value": [SERIES]},
        "00104000": {"vr": "LT", "Value": ['"BulkDataURI":"bulkdata/00104000" ' + "x" * filler]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "bulkdata/7FE00010"},
    }
    return json.dumps(members, separators=(",", ":")).encode()


def joined(records: Sequence[InstanceRecord], texts: Iterator[bytes], *, packed: bool, root: str = "") -> list[bytes]:
    return list(pieces(records, texts, root, packed))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_all_texts_in_order_with_bulk_data_from_the_root(count: int, packed: bool) -> None:
    records = [record(number) for number in range(count)]
    found = joined(records, (text_of(one, 5000) for one in records), packed=packed, root="/pacs")
    body = b"".join(found)
    decoded = json.loads(gzip.decompress(body) if packed else body)
    assert [one["00080018"]["Value"] for one in decoded] == [[one.sop_instance_uid] for one in records]
    for one, asked in zip(decoded, records, strict=True):
        path = f"/pacs/dicomweb/studies/1.2/series/1.2.1/instances/{asked.sop_instance_uid}/bulkdata/7FE00010"
        assert one["7FE00010"] == {"vr": "OW", "BulkDataURI": path}
        assert one["00104000"]["Value"][0].startswith('"BulkDataURI":"bulkdata/00104000" x')
    assert all(len(piece) < PIECE_BYTES + 10_000 for piece in found)
    assert (len(found) > 1) == (count == 300 and not packed)


@pytest.mark.parametrize("missing", ["00080018", "0020000D", "0020000E"])
def test_a_uid_that_the_file_lacks_is_the_one_of_its_url(missing: str) -> None:
    members = json.loads(text_of(record(7)))
    whole = dict(members)
    del members[missing]
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
    (found,) = json.loads(b"".join(joined([record(7)], iter([text]), packed=False)))
    assert found[missing] == whole[missing]
    assert list(found) == sorted(found)
    assert found["7FE00010"]["BulkDataURI"].startswith("/dicomweb/studies/1.2/")


@pytest.mark.parametrize("there", [0, 2, 4])
def test_texts_that_are_not_one_an_instance_end_in_an_error(there: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        joined([record(n) for n in range(3)], (text_of(record(n)) for n in range(there)), packed=False)


def test_the_etag_changes_with_what_it_is_of() -> None:
    tags = [
        etag_of([record(1), record(2)], ""),
        etag_of([record(2), record(1)], ""),
        etag_of([record(1)], ""),
        etag_of([record(1), record(2, "v2")], ""),
        etag_of([record(1), record(2)], "/pacs"),
    ]
    assert len(set(tags)) == len(tags)
    assert tags[0] == etag_of([record(1), record(2)], "")


def test_memory_stays_that_of_a_piece() -> None:
    records = [record(number) for number in range(4000)]
    for packed in (False, True):
        made = pieces(records, (text_of(one, 5000) for one in records), "", packed)
        next(made)
        tracemalloc.start()
        for _ in made:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * PIECE_BYTES


def test_a_step_that_is_given_up_ends_before_the_generator_is_closed() -> None:
    events = []
    go = threading.Event()

    def steps() -> Generator[bytes, None, None]:
        try:
            yield b"1"
            go.wait(10)
            events.append("stepped")
            yield b"2"
        finally:
            events.append("closed")

    async def give_up() -> None:
        made = InThreads(steps())
        assert await made.next() == b"1"
        task = asyncio.ensure_future(made.next())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        closing = asyncio.ensure_future(made.aclose())
        await asyncio.sleep(0.01)
        go.set()
        await closing

    asyncio.run(give_up())
    assert events == ["stepped", "closed"]


# --- over a connection ----------------------------------------------------------------------------------------


@dataclass
class Archive:
    """Holds ``count`` instances; the text of the one at ``fails`` cannot be had."""

    count: int
    fails: int | None = None
    error: Exception = field(default_factory=lambda: CorruptPixelData("nothing of it can be read"))
    read: int = 0
    closed: int = 0

    def instances(self, study: str, series: str | None = None, instance: str | None = None) -> list[InstanceRecord]:
        if (study, series or SERIES) != (STUDY, SERIES):
            raise NotFound(f"no study {study}")
        return [record(number) for number in range(self.count)]

    def metadata(self, records: Sequence[InstanceRecord]) -> Iterator[bytes]:
        try:
            for number, one in enumerate(records):
                if number == self.fails:
                    raise self.error
                self.read += 1
                yield text_of(one, 5000)
        finally:
            self.closed += 1


@contextlib.contextmanager
def serving(archive: Archive) -> Iterator[int]:
    """The port of a server in a thread of this process."""
    app = FastAPI()
    problems.install(app)
    app.add_middleware(HeadAsGet)
    app.include_router(metadata.router)
    app.state.service = SimpleNamespace(archive=archive)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


@pytest.mark.parametrize("count", [3, 300])
def test_get_head_and_304(count: int) -> None:
    archive = Archive(count)
    with serving(archive) as port:
        status, headers, body = ask(port, f"{PATH}/metadata", Accept_Encoding="gzip")
        assert (status, headers["content-type"]) == (200, "application/dicom+json")
        assert (headers["content-encoding"], headers["vary"]) == ("gzip", "Accept, Accept-Encoding, Authorization")
        assert headers["cache-control"] == "private, no-cache"
        assert len(json.loads(gzip.decompress(body))) == count
        plain = ask(port, f"{PATH}/metadata")
        assert "content-encoding" not in plain[1]
        assert gzip.decompress(body) == plain[2]
        assert ("content-length" in plain[1]) == (count == 3)
        archive.read = 0
        head = ask(port, f"{PATH}/metadata", "HEAD", Accept_Encoding="gzip")
        assert (head[0], head[2]) == (200, b"")
        assert {name: head[1][name] for name in ("etag", "content-type", "content-encoding", "vary")} == {
            name: headers[name] for name in ("etag", "content-type", "content-encoding", "vary")
        }
        for known in (headers["etag"], headers["etag"].removeprefix("W/"), "*", f'"x", {headers["etag"]}'):
            for method in ("GET", "HEAD"):
                same = ask(port, f"{PATH}/metadata", method, If_None_Match=known)
                assert (same[0], same[2], same[1]["etag"]) == (304, b"", headers["etag"])
        assert archive.read == 0
        assert ask(port, f"{PATH}/metadata", If_None_Match='"other"')[0] == 200


def test_gzip_only_where_it_is_accepted() -> None:
    with serving(Archive(3)) as port:
        for accepted, packed in (
            ("gzip, deflate, br, zstd", True),
            ("*", True),
            ("gzip;q=0.1", True),
            ("x-gzip", True),
            ("gzip;q=0", False),
            ("*;q=0", False),
            ("gzip;q=0, *", False),
            ("identity", False),
            ("br", False),
            ("", False),
        ):
            headers = ask(port, f"{PATH}/metadata", Accept_Encoding=accepted)[1]
            assert ("content-encoding" in headers) == packed, accepted


def test_what_fails_in_the_first_pieces_is_an_error_like_any() -> None:
    archive = Archive(300, fails=60)
    with serving(archive) as port:
        for _ in range(2):
            status, headers, body = ask(port, f"{PATH}/metadata")
            assert (status, headers["content-type"]) == (422, "application/problem+json")
            assert json.loads(body)["type"] == "urn:gpu-render:problem:corrupt-pixel-data"
            assert "etag" not in headers
        status, _, body = ask(port, f"{PATH}/metadata", Accept_Encoding="gzip")  # packed, all are in the first piece
        assert (status, json.loads(body)["status"]) == (422, 422)
    assert archive.closed == 3


@pytest.mark.parametrize("error", [CorruptPixelData("nothing of it can be read"), ZeroDivisionError("Doe^Jane")])
def test_what_fails_later_breaks_the_connection(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    archive = Archive(300, fails=250, error=error)
    with serving(archive) as port, pytest.raises(http.client.IncompleteRead):
        ask(port, f"{PATH}/metadata")
    assert archive.closed == 1
    assert "Doe" not in caplog.text


def test_a_client_that_goes_ends_the_reading() -> None:
    archive = Archive(100_000)
    with serving(archive) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET {PATH}/metadata HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(1000)
            time.sleep(0.3)
            stopped = archive.read
            time.sleep(0.2)
            assert archive.read == stopped  # nobody reads: nothing is made ahead
        eventually(lambda: archive.closed == 1)
    assert archive.read < 10_000


def test_errors_say_what_is_wrong() -> None:
    with serving(Archive(3)) as port:
        for path, accept, status in (
            ("/dicomweb/studies/1.3/metadata", "*/*", 404),
            ("/dicomweb/studies/x/metadata", "*/*", 400),
            (f"{PATH}/instances/1..2/metadata", "*/*", 400),
            (f"{PATH}/metadata", 'multipart/related; type="application/dicom+xml"', 406),
            (f"{PATH}/metadata", "image/jpeg", 406),
        ):
            found = ask(port, path, Accept=accept)
            assert (found[0], found[1]["content-type"]) == (status, "application/problem+json")
        for accept in ("application/json", "application/dicom+json", "application/*", 'application/dicom+json;q="0.5"'):
            assert ask(port, f"{PATH}/metadata", Accept=accept)[1]["content-type"] == "application/dicom+json"
        assert ask(port, f"{PATH}/metadata?accept=application/json", Accept="image/png")[0] == 200


def test_bulk_data_lies_where_its_route_is() -> None:
    assert metadata.instance_path("", record(1)) == f"{PATH}/instances/{SERIES}.1"
