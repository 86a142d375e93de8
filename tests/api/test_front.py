"""The front and the supervisor over real processes that misbehave on demand (``tests.api.fake_worker``)."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from api import supervisor as supervision
from api.front import affinity, create_front, end_to_end
from api.supervisor import Supervisor, choose_gpus, rendezvous, socket_directory, worker_settings
from gpu_render.errors import StartupError
from gpu_render.gpus import Gpu
from gpu_render.settings import Settings
from tests.api.fake_worker import PARTS
from tests.api.served import Answer

ROOT = Path(__file__).parents[2]
LIMIT_S = 30
FAKE = (sys.executable, "-m", "tests.api.fake_worker")


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


class Running:
    """A front in a thread of this process, with its workers in processes of their own."""

    def __init__(self, supervisor: Supervisor, notes: Path) -> None:
        self.supervisor = supervisor
        self.notes = notes
        config = uvicorn.Config(create_front(supervisor), port=0, log_config=None, timeout_graceful_shutdown=5)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        eventually(lambda: self.server.started or not self.thread.is_alive(), "the front")
        assert self.server.started
        self.port = int(self.server.servers[0].sockets[0].getsockname()[1])
        eventually(lambda: all(slot.worker for slot in supervisor.slots), "both workers")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def pids(self) -> list[int]:
        return [slot.current.pid if slot.current else 0 for slot in self.supervisor.slots]

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


def series_of(worker: int, rest: str = "") -> str:
    """The path of a series that belongs to one of two workers."""
    uid = next(f"1.2.{n}" for n in range(100) if rendezvous(f"1.2.{n}", 2)[0] == worker)
    return f"/api/studies/1.2/series/{uid}/{rest}"


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("FAKE_WORKER_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(supervision, "POLL_S", 0.1)
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.1)
    with socket_directory(None) as directory:
        settings = worker_settings(Settings(backend="cpu"), [0, 1])
        running = Running(Supervisor(settings, directory, FAKE), tmp_path)
        try:
            yield running
        finally:
            running.close()
        assert list(directory.iterdir()) == []


# --- passing on -------------------------------------------------------------------------------------------------


def test_a_request_passes_byte_for_byte_and_connections_stay_apart(front: Running) -> None:
    path = "/a%2Fb/../%41?x=%20&y=a+b"
    sent = {"Host": "some.where:81", "Connection": "X-Own", "X-Own": "1", "TE": "trailers", "Cookie": "c=d"}
    answer = front.ask(path, headers=sent)
    found = json.loads(answer.body)
    assert found["path"] == path
    headers = dict(found["headers"])
    assert (headers["host"], headers["cookie"]) == ("some.where:81", "c=d")
    assert not {"x-own", "te", "user-agent", "accept", "transfer-encoding"} & headers.keys()
    assert answer.headers["etag"] == '"e"'
    assert "x-mine" not in answer.headers
    assert answer.headers["x-render-worker"] == "0"
    assert "cookie" not in dict(json.loads(front.ask("/").body)["headers"])  # set by the answer to somebody else


def test_the_worker_learns_the_scheme_that_the_client_used(front: Running) -> None:
    for claimed, found in ((None, "http"), ("https", "https"), ("gopher", "http")):  # from 127.0.0.1, as of a proxy
        sent = {} if claimed is None else {"X-Forwarded-Proto": claimed}
        headers = json.loads(front.ask("/", headers=sent).body)["headers"]
        assert [value for name, value in headers if name == "x-forwarded-proto"] == [found]


def test_bodies_head_ranges_and_not_modified_pass(front: Running) -> None:
    body = os.urandom(3 << 20)
    answer = front.ask("/upload", "POST", body=body)
    assert json.loads(answer.body)["body"] == hashlib.sha256(body).hexdigest()
    head = front.ask("/", "HEAD")
    assert (head.status, head.body, int(head.headers["content-length"]) > 0) == (200, b"", True)
    assert front.ask("/not-modified", headers={"If-None-Match": '"e"'}).status == 304
    partial = front.ask("/partial", headers={"Range": "bytes=5-9"})
    assert (partial.status, partial.body, partial.headers["content-range"]) == (206, b"56789", "bytes 5-9/10")


def test_a_series_goes_to_one_worker(front: Running) -> None:
    for worker in (0, 1):
        answers = [front.ask(series_of(worker, rest)) for rest in ("", "instances/1/frames/1", "metadata")]
        assert {answer.headers["x-render-worker"] for answer in answers} == {str(worker)}
        assert {json.loads(answer.body)["pid"] for answer in answers} == {front.pids()[worker]}


@pytest.mark.parametrize("kind", ["counted", "chunked"])
def test_an_answer_that_breaks_off_never_looks_whole(front: Running, kind: str) -> None:
    before = front.pids()
    with contextlib.closing(front.connect()) as connection:
        connection.request("GET", series_of(1, f"die-{kind}"))
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            connection.getresponse().read()
    eventually(lambda: front.pids()[1] != before[1] and front.supervisor.slots[1].worker is not None, "another worker")
    assert front.pids()[0] == before[0]


def test_a_request_that_ends_its_worker_is_asked_of_no_other(front: Running) -> None:
    before = front.pids()
    for _ in range(2):  # the second over a connection that was used before
        assert front.ask(series_of(1)).headers["x-render-worker"] == "1"
        answer = front.ask(series_of(1, "die"))
        assert (answer.status, answer.problem["type"]) == (502, "urn:gpu-render:problem:worker-failed")
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        eventually(lambda: front.ask(series_of(1)).headers["x-render-worker"] == "1", "the worker's return")
    assert front.pids()[0] == before[0]
    assert front.supervisor.slots[1].restarts == 2
    text = front.ask("/metrics").body.decode()
    assert 'gpu_render_worker_failures_total{worker="1"} 2.0' in text
    assert 'gpu_render_worker_restarts_total{worker="1"} 2.0' in text


def test_a_client_that_goes_ends_the_workers_part_and_a_slow_one_holds_it_back(front: Running) -> None:
    connection = front.connect()
    connection.request("GET", series_of(1, "flood"))
    response = connection.getresponse()
    assert len(response.read(10)) == 10
    counts = [-1]

    def still() -> bool:
        time.sleep(0.3)
        counts.append(int((front.notes / "flood").read_text() or 0))
        return counts[-1] == counts[-2]

    eventually(still, "back-pressure")
    assert counts[-1] < PARTS // 4  # of 256 MiB
    assert not (front.notes / "client-gone").exists()
    response.close()
    connection.close()
    eventually(lambda: (front.notes / "client-gone").exists(), "the news that the client has gone")


# --- workers come and go ------------------------------------------------------------------------------------------


def test_a_dead_workers_series_go_to_the_next_and_come_back(front: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 1.5)
    front.supervisor.slots[1]._pause_s = 1.5
    os.kill(front.pids()[1], signal.SIGKILL)
    eventually(lambda: front.ask(series_of(1)).headers.get("x-render-worker") == "0", "the other worker's help")
    ready = front.ask("/health/ready")
    assert (ready.status, ready.problem["status"]) == (200, "degraded")
    assert [worker["status"] for worker in ready.problem["workers"]] == ["ready", "starting"]
    eventually(lambda: front.ask(series_of(1)).headers["x-render-worker"] == "1", "the worker's return")
    assert front.ask("/health/ready").problem["status"] == "ready"


def test_without_any_worker_the_answer_says_so(front: Running) -> None:
    for slot in front.supervisor.slots:
        slot._pause_s = 60
        os.kill(front.pids()[slot.number], signal.SIGKILL)
    eventually(lambda: not any(slot.worker for slot in front.supervisor.slots), "the workers' end")
    answer = front.ask("/api/studies")
    assert (answer.status, answer.problem["type"]) == (503, "urn:gpu-render:problem:no-worker")
    assert int(answer.headers["retry-after"]) > 0
    ready = front.ask("/health/ready")
    assert (ready.status, ready.problem["status"]) == (503, "not ready")
    assert front.ask("/health/live").status == 200
    assert front.ask("/metrics").status == 200


def test_a_worker_that_is_not_ready_gets_no_requests(front: Running) -> None:
    pid = front.pids()[1]
    (front.notes / f"unready-{pid}").touch()
    eventually(lambda: front.ask(series_of(1)).headers["x-render-worker"] == "0", "the other worker's help")
    assert front.ask("/health/ready").problem["status"] == "degraded"
    (front.notes / f"unready-{pid}").unlink()
    eventually(lambda: front.ask(series_of(1)).headers["x-render-worker"] == "1", "the worker's return")
    assert front.pids()[1] == pid


def test_recycling_loses_no_request(front: Running) -> None:
    before = front.pids()
    with contextlib.closing(front.connect()) as connection:
        connection.request("GET", series_of(1, "slow"))
        response = connection.getresponse()
        (front.notes / f"recycle-{before[1]}").touch()
        served: set[int] = set()

        def exchanged() -> bool:
            answer = front.ask(series_of(1))
            assert (answer.status, answer.headers["x-render-worker"]) == (200, "1")
            served.add(json.loads(answer.body)["pid"])
            return len(served) == 2

        eventually(exchanged, "another worker")
        assert Path(f"/proc/{before[1]}").exists()  # it still has the slow request
        (front.notes / "finish").touch()
        assert response.read() == b"firstafter"
    eventually(lambda: not Path(f"/proc/{before[1]}").exists(), "the old worker's end")
    assert front.pids()[0] == before[0]


def test_stable_names_lead_to_the_workers_that_serve(front: Running) -> None:
    directory = front.supervisor.slots[0]._directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    link = directory / "worker-1.sock"
    before = os.readlink(link)  # noqa: PTH115
    (front.notes / f"recycle-{front.pids()[1]}").touch()
    eventually(lambda: os.readlink(link) != before, "the other socket")  # noqa: PTH115
    assert stat.S_ISSOCK(link.stat().st_mode)


def test_figures_of_all_processes_are_one_text(front: Running) -> None:
    families = list(text_string_to_metric_families(front.ask("/metrics").body.decode()))
    assert len({family.name for family in families}) == len(families)
    (some,) = (family for family in families if family.name == "some")
    assert [(sample.labels, sample.value) for sample in some.samples] == [({"worker": "0"}, 2), ({"worker": "1"}, 2)]
    up = next(family for family in families if family.name == "gpu_render_worker_up")
    assert [sample.value for sample in up.samples] == [1, 1]


@pytest.mark.anyio
async def test_workers_that_cannot_start_fail_the_start_or_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for broken in ((0, 1), (0,)):
        for number in (0, 1):
            (tmp_path / f"broken-{number}").unlink(missing_ok=True)
        for number in broken:
            (tmp_path / f"broken-{number}").touch()
        with socket_directory(None) as directory:
            supervisor = Supervisor(worker_settings(Settings(backend="cpu"), [0, 1]), directory, FAKE)
            try:
                if len(broken) == 2:
                    with pytest.raises(StartupError, match="no worker could be started"):
                        await supervisor.start()
                else:
                    await supervisor.start()
                    assert [worker.number for worker in supervisor.candidates(None)] == [1]
            finally:
                await supervisor.close()


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_what_decides_the_worker() -> None:
    assert affinity("/api/studies/1.2/series/1.3") == "1.3"
    assert affinity("/api/studies/1.2/series/1.3/instances/1.4/frames/5") == "1.3"
    assert affinity("/dicomweb/studies/1.2/series/1.3/metadata") == "1.3"
    assert affinity("/dicom-viewer/api/image/17/data/") == "17"
    assert [affinity(path) for path in ("/", "/api/studies", "/api/index", "/x/api/studies/1/series/2")] == [None] * 4


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_rendezvous_spreads_and_moves_only_what_it_must(count: int) -> None:
    orders = [rendezvous(f"1.2.840.{n}", count) for n in range(2000)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    firsts = [sum(order[0] == number for order in orders) for number in range(count)]
    assert min(firsts) > 2000 / count * 0.8
    for order, larger in zip(orders, (rendezvous(f"1.2.840.{n}", count + 1) for n in range(2000)), strict=True):
        assert [number for number in larger if number != count] == order


def test_headers_of_one_connection() -> None:
    headers = [(b"Connection", b"close, X-A"), (b"X-a", b"1"), (b"Keep-Alive", b"5"), (b"ETag", b"e"), (b"TE", b"t")]
    assert end_to_end(headers) == [(b"etag", b"e")]


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    silent = Gpu(count, None, None, "580", *[None] * 10)
    found = [Gpu(k, "L4", f"GPU-{k}", "580", 1, 2, *[None] * 8) for k in range(count)]
    monkeypatch.setattr(supervision, "read_gpus", lambda: [*found, silent] if count else [])


def test_which_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus(monkeypatch, 3)
    assert choose_gpus("all", "auto") == [0, 1, 2]
    assert choose_gpus("0, 2", "cuda") == [0, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert choose_gpus("all", "cuda") == [0, 1]
    assert choose_gpus("5,6", "cpu") == [5, 6]


@pytest.mark.parametrize(
    ("count", "text", "backend", "message"),
    [
        (0, "all", "auto", "no GPU that an NVIDIA driver knows"),
        (2, "all", "cpu", "no meaning on the CPU"),
        (2, "0,2", "auto", "knows no GPU 2"),
        (0, "0", "cuda", "knows no GPU 0"),
        (2, "0,0", "cuda", "each once"),
        (2, "", "cuda", "each once"),
        (2, "0,x", "cuda", "each once"),
        (2, "-1", "cuda", "each once"),
    ],
)
def test_gpus_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, count: int, text: str, backend: str, message: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus(monkeypatch, count)
    with pytest.raises(StartupError, match=message):
        choose_gpus(text, backend)


def test_workers_share_cores_and_cache_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPU_RENDER_WORKERS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    first, second, third = worker_settings(Settings(cache_bytes=300), [0, 2, 3])
    assert [each.device for each in (first, second, third)] == [0, 2, 3]
    assert [each.scan for each in (first, second, third)] == [True, False, False]
    assert {(each.workers, each.cache_bytes, each.index_shared, each.backend) for each in (first, second)} == {
        (2, 300, True, "cuda")
    }
    assert worker_settings(Settings(), [0, 1])[1].cache_bytes == 512 << 20
    assert worker_settings(Settings(workers=5, backend="cpu"), list(range(9)))[8].workers == 5
    assert worker_settings(Settings(backend="cpu"), list(range(9)))[8].workers == 1
    monkeypatch.setenv("GPU_RENDER_WORKERS", "7")
    assert worker_settings(Settings(), [0, 1])[0].workers == 7


def test_sockets_lie_where_nobody_else_reaches_them(tmp_path: Path) -> None:
    with socket_directory(tmp_path / "new") as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "file").touch()
    (tmp_path / ("x" * 100)).mkdir(mode=0o700)
    for name, message in (("open", "closed to others"), ("file", "cannot be used"), ("x" * 100, "too long")):
        with pytest.raises(StartupError, match=message), socket_directory(tmp_path / name):
            pass


def test_a_worker_started_by_hand_says_what_it_is() -> None:
    async def run() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api.worker_process", stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        return process.returncode or await process.wait(), (await process.communicate())[1]

    status, text = asyncio.run(run())
    assert status == 1
    assert b"gpu-render serve --gpus" in text
