"""Long answers of WADO-RS over real connections: memory, clients that go, errors in mid-answer, a front."""

import contextlib
import http.client
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.answers import SERIES, STUDY
from tests.api.dicomweb.bodies import parts_of
from tests.api.served import Served, serving
from tests.data import encapsulate, image, write

RLE, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"
SIDE, COUNT = 512, 400
FRAME_BYTES = 2 * SIDE * SIDE
MIB = 1 << 20
LIMIT_S = 40
ACCEPTS = {
    "decoded": 'multipart/related; type="application/octet-stream"',
    "stored": "multipart/related; type=application/octet-stream; transfer-syntax=*",
}


def frame(number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """A picture that compresses well and says which one it is."""
    return np.full((SIDE, SIDE), number, np.uint16)


def encoded(number: int) -> bytes:
    """The same by RLE (PS3.5 annex G): high bytes, then low bytes, in runs of 128."""
    segments = [bytes([0x81, byte]) * (SIDE * SIDE // 128) for byte in divmod(number, 256)]
    return struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 frames of 512 KiB, native and compressed; compressed ones of which frame 6 is damaged."""
    folder = tmp_path_factory.mktemp("streams") / "root"
    native = image(SIDE, SIDE, NumberOfFrames=COUNT, SOPInstanceUID="1.2.4.6.1")
    path = write(folder / "native.dcm", native, bytes(2))
    pixels = len(path.read_bytes()) - 2
    with path.open("r+b") as file:  # sparse: nothing but its end is on the disk
        file.seek(pixels - 4)
        file.write((COUNT * FRAME_BYTES).to_bytes(4, "little"))
        file.truncate(pixels + COUNT * FRAME_BYTES)
        for number in (0, 7, COUNT - 1):
            file.seek(pixels + number * FRAME_BYTES)
            file.write(frame(number).tobytes())
    fragments = [encoded(number) for number in range(COUNT)]
    compressed = image(SIDE, SIDE, NumberOfFrames=COUNT, SOPInstanceUID="1.2.4.6.2")
    write(folder / "rle.dcm", compressed, encapsulate(fragments), syntax=RLE, encapsulated=True)
    damaged = image(SIDE, SIDE, NumberOfFrames=8, SOPInstanceUID="1.2.4.6.3")
    fragments = [*fragments[:5], b"\x01\0\0\0" + bytes(61), *fragments[6:8]]
    write(folder / "damaged.dcm", damaged, encapsulate(fragments), syntax=RLE, encapsulated=True)
    cut = image(SIDE, SIDE, NumberOfFrames=8, SOPInstanceUID="1.2.4.6.4")
    whole = encapsulate(fragments[:4] * 2, delimiter=False)
    write(folder / "cut.dcm", cut, whole[:-20], syntax=RLE, encapsulated=True)
    return folder


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with hardly any cache, so that memory that grows is memory of answers."""
    environment = {"GPU_RENDER_CACHE_BYTES": str(8 * MIB)}
    with serving(root, tmp_path_factory.mktemp("work"), environment=environment) as running:
        running.wait_for_files(4)
        yield running


def url(number: int, frames: str = "") -> str:
    base = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/1.2.4.6.{number}"
    return f"{base}/frames/{frames}" if frames else base


ALL = ",".join(str(number) for number in range(1, COUNT + 1))


@contextlib.contextmanager
def asked(service: Served, path: str, accept: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer whose body is not read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": accept, **headers})
        yield connection.getresponse()


def figure(service: Served, name: str) -> float:
    found = re.search(rf"^\w*{name} ([0-9.e+]+)$", service.ask("/metrics").body.decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "form"), [(1, "decoded"), (2, "decoded"), (2, "stored")])
def test_a_long_list_is_streamed_in_flat_memory(served: Served, number: int, form: str) -> None:
    """200 MiB of frames go through far less memory, in order, each the one that was asked for."""
    served.ask(url(number, "1,2,3"), headers={"Accept": ACCEPTS[form]})
    served.forget_peak()
    before = served.peak_bytes()
    with asked(served, url(number, ALL), ACCEPTS[form]) as response:
        assert response.status == 200
        content_type = response.headers["Content-Type"]
        length = response.headers["Content-Length"]
        body = response.read()
    assert served.peak_bytes() - before < 110 * MIB
    found = parts_of(content_type, body, twice=False)
    assert len(found) == COUNT
    assert (length is None) == (form == "stored")
    if form == "stored":
        assert [part.data for part in found] == [encoded(n) for n in range(COUNT)]
    else:
        assert length == str(len(body))
        assert all(
            part.data == frame(n).tobytes() for n, part in enumerate(found) if number == 2 or n in (0, 7, COUNT - 1)
        )


def test_a_reader_that_stops_holds_little_memory_and_gets_the_rest_later(served: Served) -> None:
    served.forget_peak()
    before = served.peak_bytes()
    with asked(served, url(2, ALL), ACCEPTS["decoded"]) as response:
        response.read(MIB)
        misses = -1.0
        while misses != (misses := figure(served, "host_cache_misses_total")):  # until nothing more is decoded
            time.sleep(0.5)
        assert served.peak_bytes() - before < 110 * MIB
        rest = response.read()
    assert len(rest) == int(response.headers["Content-Length"]) - MIB


def test_a_client_that_goes_ends_the_work(served: Served) -> None:
    begun = figure(served, "host_cache_misses_total")
    with asked(served, url(2, ALL), ACCEPTS["decoded"]) as response:
        response.read(MIB)
    misses = -1.0
    while misses != (misses := figure(served, "host_cache_misses_total")):
        time.sleep(0.5)
    assert misses - begun < COUNT / 2
    eventually(lambda: figure(served, "loads_waiting") == 0, "an empty queue")


@pytest.mark.parametrize(("number", "form"), [(3, "decoded"), (4, "stored")])
def test_an_error_in_mid_answer_never_looks_whole(served: Served, number: int, form: str) -> None:
    """With a length as well as without one, the connection ends before the body does."""
    with asked(served, url(number, "1,2,3,4,5,6,7,8"), ACCEPTS[form]) as response:
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    log = served.log.read_text()
    assert "an answer was broken off" in log
    assert "unforeseen" not in log
    assert "Test^Case" not in log
    with asked(served, url(number, "6,1" if number == 3 else "8,1"), ACCEPTS[form]) as response:
        assert response.status == 422
        assert "frame" in response.read().decode()


def test_a_range_of_a_long_list_reads_only_its_frames(served: Served) -> None:
    with asked(served, url(2, ALL), ACCEPTS["decoded"], Range="bytes=0-99") as response:
        assert response.status == 206
        head = response.read()
        total = int(response.headers["Content-Range"].split("/")[1])
    begun = figure(served, "host_cache_misses_total")
    with asked(served, url(2, ALL), ACCEPTS["decoded"], Range=f"bytes={total - 1000}-") as response:
        assert response.status == 206
        tail = response.read()
    assert figure(served, "host_cache_misses_total") - begun <= 2
    assert head.startswith(b"--")
    assert tail.endswith(b"--\r\n")
    assert frame(COUNT - 1).tobytes()[:100] in tail


def test_a_file_is_read_while_it_is_sent(served: Served, root: Path) -> None:
    """A series of hundreds of MiB, and a file that changes in the middle."""
    served.forget_peak()
    before = served.peak_bytes()
    with asked(served, f"/dicomweb/studies/{STUDY}/series/{SERIES}", "*/*") as response:
        assert response.status == 200
        length, read = int(response.headers["Content-Length"]), 0
        while step := response.read(MIB):
            read += len(step)
    assert read == length > COUNT * FRAME_BYTES
    assert served.peak_bytes() - before < 60 * MIB
    with asked(served, url(1), "*/*") as response:
        response.read(MIB)
        os.utime(root / "native.dcm", ns=(1, 1))
        with pytest.raises(http.client.IncompleteRead):
            response.read()


def test_workers_behind_a_front_stream_and_cut_the_same(root: Path, tmp_path: Path) -> None:
    with serving(
        root, tmp_path, options=("--gpus", "0,1"), environment={"GPU_RENDER_CACHE_BYTES": str(8 * MIB)}
    ) as front:
        front.wait_for_files(4)
        headers = {"Accept": ACCEPTS["decoded"]}
        whole = front.ask(url(2, "5,1,9"), headers=headers)
        assert [part.data for part in parts_of(whole.headers["content-type"], whole.body)] == [
            frame(n).tobytes() for n in (4, 0, 8)
        ]
        half = len(whole.body) // 2
        first = front.ask(url(2, "5,1,9"), headers={**headers, "Range": f"bytes=0-{half - 1}"})
        rest = front.ask(
            url(2, "5,1,9"), headers={**headers, "Range": f"bytes={half}-", "If-Range": whole.headers["etag"]}
        )
        assert (first.status, rest.status) == (206, 206)
        assert first.body + rest.body == whole.body
        assert rest.headers["content-range"] == f"bytes {half}-{len(whole.body) - 1}/{len(whole.body)}"
        with asked(front, url(3, "1,2,3,4,5,6,7,8"), ACCEPTS["decoded"]) as response:
            assert response.status == 200
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        with asked(front, url(1), "*/*") as response:
            assert int(response.headers["Content-Length"]) == sum(
                len(step) for step in iter(lambda: response.read(MIB), b"")
            )
