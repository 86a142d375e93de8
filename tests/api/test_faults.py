"""Decoders that hang, crash and lie, a full queue, header bombs and files that change: the answers over HTTP.

The server is ``saboteur.py``: the real one, real worker processes, orders in place of codestreams, all of its log.
"""

import functools
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from gpu_render.workers import OPERATIONS, WorkerPool
from tests.api import broken
from tests.api.broken import (
    CANARY,
    CORRUPT,
    FRAME,
    FULL,
    NO_TIME,
    NOT_FOUND,
    OLD,
    SERIES,
    STOPPED,
    Case,
    Kind,
    assert_nothing_of_the_patient,
    case,
    check_problem,
    frame_url,
    grey,
)
from tests.api.conftest import wait_for_scan
from tests.api.saboteur import GATED_ROWS, order
from tests.api.served import Answer, Served, serving
from tests.data import RLE, encapsulate, file_bytes

MIB = 1 << 20


def fault(kind: Kind, name: str, says: str, *words: object) -> Case:
    """A file whose one frame orders its decoder to misbehave."""
    return case(kind, name, says, grey(), None, RLE, fragments=[order(*words or (name,))])


FAULTS = [
    fault(STOPPED, "hang", r"stopped at its time limit of 2\.0 s"),
    fault(STOPPED, "grab", "stopped at its (memory|time) limit"),
    fault(STOPPED, "killed", r"died \(SIGKILL\)", "crash", int(signal.SIGKILL)),
    fault(CORRUPT, "segmentation-fault", r"died \(SIGSEGV\)", "crash", int(signal.SIGSEGV)),
    fault(CORRUPT, "abort", r"died \(SIGABRT\)", "crash", int(signal.SIGABRT)),
    fault(CORRUPT, "leave", r"died \(status 3\)"),
    fault(CORRUPT, "stumble", r"could not be read \(KeyError\)"),
    fault(CORRUPT, "recurse", r"could not be read \(RecursionError\)"),
    fault(CORRUPT, "chatter", "died"),
    fault(CORRUPT, "short", "the decoder gave 2046 bytes, expected 2048"),
    fault(CORRUPT, "foreign", "the decoder gave", "foreign", f"{CANARY}^Colour"),
]
HEALTHY, GATED = grey(NumberOfFrames=4 * len(FAULTS)), grey(GATED_ROWS, GATED_ROWS, NumberOfFrames=40)
BOMBS = list(broken.bombs())


@dataclass(frozen=True, slots=True)
class Sabotaged:
    """The server, its folder, and the file that opens the gate of GATED's decoders."""

    service: Served
    root: Path
    gate: Path

    def add(self, name: str, data: bytes) -> Path:
        """Put a file among those that are served, whole at once."""
        (self.root.parent / "incoming").write_bytes(data)
        return (self.root.parent / "incoming").rename(self.root / name)

    def wait(self) -> None:
        """Until a scan has seen all files."""
        self.service.wait_for_files(len(list(self.root.iterdir())))


@pytest.fixture(scope="module")
def sabotaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sabotaged]:
    base = tmp_path_factory.mktemp("faults")
    gate, root = base / "gate", base / f"{CANARY}^Clinic"
    root.mkdir()
    for one in FAULTS:
        (root / f"{CANARY}^{one.name}.dcm").write_bytes(one.data)
    healthy = encapsulate([broken.rle(broken.samples())] * HEALTHY["NumberOfFrames"])
    (root / "healthy.dcm").write_bytes(file_bytes(HEALTHY, healthy, RLE, encapsulated=True))
    gated = encapsulate([order("wait", gate)] * GATED["NumberOfFrames"])
    (root / "gated.dcm").write_bytes(file_bytes(GATED, gated, RLE, encapsulated=True))
    environment = {"PYTHONDEVMODE": "1", "GPU_RENDER_RESCAN_INTERVAL_S": "0.2", "GPU_RENDER_QUEUE_CAPACITY": "2"}
    environment["GPU_RENDER_LOOKAHEAD_FRAMES"] = "0"  # it would ask for what the tests have not asked for yet
    with serving(root, base, launch=("-m", "tests.api.saboteur"), environment=environment) as service:
        found = Sabotaged(service, root, gate)
        found.wait()
        yield found
    log = service.log.read_text()
    assert " DEBUG " in log
    assert_nothing_of_the_patient(log, base)
    assert "unforeseen" not in log
    assert "Traceback" not in log
    assert "Warning" not in log


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[one.name for one in FAULTS])
def test_a_decoder_that_fails_costs_one_frame_a_typed_error(number: int, sabotaged: Sabotaged) -> None:
    one, served = FAULTS[number], sabotaged.service
    old = OLD.format(id=served.image_ids()[one.sop_instance_uid])
    for url, method in ((one.url, "GET"), (old, "GET"), (one.url, "HEAD")):
        answer = served.ask(url, method)
        if method == "GET":
            problem = check_problem(answer, (one.status, one.kind), url, one.says)
            assert one.sop_instance_uid in problem["detail"]
            assert problem["sop_instance_uid"] == one.sop_instance_uid
        assert (answer.status, bool(answer.body)) == (422, method == "GET")
        if one.name == "hang":
            break  # each takes the whole time limit
    for frame in range(4 * number + 1, 4 * number + 5):  # more than there are workers, none in the cache
        answer = served.ask(frame_url(HEALTHY["SOPInstanceUID"], str(frame), "stage=stored"))
        assert (answer.status, answer.body) == (200, broken.samples().tobytes())
    assert served.json("/health/ready")["status"] == "ready"


def test_a_full_queue_answers_at_once_and_says_when_to_ask_again(sabotaged: Sabotaged) -> None:
    """Two workers, four loading threads, two places in the queue: while the gate is shut, the seventh is refused."""
    served, uid = sabotaged.service, GATED["SOPInstanceUID"]
    cached = frame_url(HEALTHY["SOPInstanceUID"])
    assert served.ask(cached).status == 200
    with ThreadPoolExecutor(GATED["NumberOfFrames"]) as threads:
        try:
            asked = fill(served, threads, 6)
            check_refusals(sabotaged, frame_url(uid, "40"))
            assert served.ask(cached).status == 200
            assert sum(one.done() for one in asked) == len(asked) - 6
        finally:
            sabotaged.gate.touch()
    statuses = [one.result().status for one in asked]
    assert (statuses.count(200), statuses.count(503)) == (6, len(asked) - 6)
    for number in (39, 40, *(n for n, status in enumerate(statuses, 1) if status == 503)):
        assert served.ask(frame_url(uid, str(number))).status == 200  # to ask again helps


def fill(served: Served, threads: ThreadPoolExecutor, places: int) -> list[Future[Answer]]:
    """Ask for gated frames until as many wait as can, and have done so for a while: what is refused waits not."""
    asked: list[Future[Answer]] = []
    since = time.monotonic()
    while time.monotonic() - since < 0.5:
        if sum(not one.done() for one in asked) < places:
            # Stored values go past the device, whose queue is as short and may be full once the gate is open.
            url = frame_url(GATED["SOPInstanceUID"], str(len(asked) + 1), "stage=stored")
            asked.append(threads.submit(served.ask, url, headers={"Priority": f"u={len(asked) % 4}"}))
            since = time.monotonic()
        time.sleep(0.1)  # so that a thread takes it up, and starts a process, before the next one comes
    return asked


def check_refusals(sabotaged: Sabotaged, url: str) -> None:
    """Every way to ask for a frame that has to be loaded is refused alike."""
    served, uid = sabotaged.service, GATED["SOPInstanceUID"]
    for urgency in ("u=0", "u=4", "u=7"):
        check_full(served.ask(url, headers={"Priority": urgency}), url, uid)
    check_full(served.ask(url, headers={"If-None-Match": "*"}), url, uid)
    old = f"{OLD.format(id=served.image_ids()[uid])}?frame=39"
    check_full(served.ask(old), old, uid)
    head = served.ask(url, "HEAD")
    assert (head.status, head.headers["retry-after"], head.body) == (503, "1", b"")


def check_full(answer: Answer, url: str, uid: str) -> None:
    problem = check_problem(answer, FULL, url, f"queue is full .*{uid}")
    assert problem["sop_instance_uid"] == uid
    assert int(answer.headers["retry-after"]) >= 1


def test_a_header_bomb_is_refused_before_anything_is_allocated(sabotaged: Sabotaged) -> None:
    """Peak memory of the server and of its workers, from before the files are there to after all were asked for."""
    served = sabotaged.service
    for url in (frame_url(HEALTHY["SOPInstanceUID"]), SERIES):
        assert served.ask(url).status == 200
    served.forget_peak()
    before, others = served.peak_bytes(), max(served.peak_bytes_of_children())  # one may still hold what it grabbed
    for number, bomb in enumerate(BOMBS):
        sabotaged.add(f"{CANARY}^bomb-{number}.dcm", bomb.data)
    sabotaged.add("header-bomb.dcm", broken.unreadable()["header-bomb.dcm"][0])
    sabotaged.wait()
    ids = served.image_ids()
    for bomb in BOMBS:
        for url in (bomb.url, OLD.format(id=ids[bomb.sop_instance_uid])):
            check_problem(served.ask(url), (bomb.status, bomb.kind), url, bomb.says)
    assert len(served.json(SERIES)["problems"]) == len(BOMBS)
    assert served.peak_bytes() - before < 8 * MIB
    assert max(served.peak_bytes_of_children()) < max(512 * MIB, others + 8 * MIB)


def test_files_that_go_or_break_after_they_were_indexed(sabotaged: Sabotaged) -> None:
    """The next scan finds out, or the next request for a frame that is not kept: until then the frame as it was."""
    served, noise = sabotaged.service, broken.samples().tobytes()
    attributes = grey()
    uid, whole = attributes["SOPInstanceUID"], file_bytes(attributes, noise)
    stored = frame_url(uid, query="stage=stored")
    for data, kind, says in (
        (whole[:-500], CORRUPT, f"truncated|declared frames.*{uid}"),
        (f"{CANARY}^Garbage".encode() * 99, NOT_FOUND, f"no .*{uid}"),
        (None, NOT_FOUND, f"no .*{uid}"),
    ):
        path = sabotaged.add(f"{CANARY}^changing.dcm", whole)
        while (answer := served.ask(stored)).status != 200:
            time.sleep(0.02)  # until the next scan; the test's own time limit is the limit
        assert answer.body == noise
        if data is None:
            path.unlink()
        else:
            sabotaged.add(path.name, data)
        while (again := served.ask(stored)).status == 200:
            assert again.body == noise
        for condition in ({}, {"If-None-Match": answer.headers["etag"]}):
            check_problem(served.ask(stored, headers=condition), kind, stored, says)


# --- what cannot be reached from outside ---------------------------------------------------------------------


def test_a_service_that_shuts_down_refuses_with_retry_after(tmp_path: Path) -> None:
    """In this process: a real server has closed its socket by then."""
    one, two = grey(), grey()
    for attributes in (one, two):
        (tmp_path / f"{attributes['SOPInstanceUID']}.dcm").write_bytes(file_bytes(attributes, FRAME))
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1))
    with TestClient(app, "http://127.0.0.1") as client:
        wait_for_scan(client)
        assert client.get(frame_url(one["SOPInstanceUID"])).status_code == 200
        app.state.service.renderer.close()
        for attributes in (one, two):  # one waits for the device, the other would have to be loaded
            response = client.get(frame_url(attributes["SOPInstanceUID"]))
            assert response.status_code == 503
            assert response.json()["type"] == "urn:gpu-render:problem:overloaded"
            assert "shutting down" in response.json()["detail"]
            assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [("no_such_module:nothing", FULL), ("tests.gpu_render.worker_operations:stop", NO_TIME)],
    ids=["cannot be started", "get no processor"],
)
def test_decoders_that_do_not_run_are_no_fault_of_the_file(
    decoder: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = grey()
    pixels = encapsulate([broken.rle(broken.samples())])
    (tmp_path / "a.dcm").write_bytes(file_bytes(attributes, pixels, RLE, encapsulated=True))
    operations = {**OPERATIONS, "decode": decoder}
    monkeypatch.setattr("api.app.WorkerPool", functools.partial(WorkerPool, operations=operations))
    monkeypatch.setattr("gpu_render.decode.time_limit_s", lambda size: 0.1)
    app = create_app(Settings(roots=(tmp_path,), backend="cpu", workers=1))
    with TestClient(app, "http://127.0.0.1") as client:
        wait_for_scan(client)
        response = client.get(frame_url(attributes["SOPInstanceUID"]))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"] == f"urn:gpu-render:problem:{kind[1]}"
    assert attributes["SOPInstanceUID"] in response.json()["detail"]
