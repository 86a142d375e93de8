"""``serve --gpus 0,1 --backend cpu`` as it runs: real workers on real files, and processes that are killed."""

import http.client
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from api.front import affinity
from api.supervisor import rendezvous
from tests.api.served import Answer, Served, serving
from tests.data import sample, write_image

GPUS = ("--gpus", "0,1")
SERIES, IMAGES = 6, 3
LIMIT_S = 40


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six native series, and three encoded files of pydicom's."""
    folder = tmp_path_factory.mktemp("several") / "root"
    random = np.random.default_rng(5)
    for series in range(SERIES):
        for number in range(IMAGES):
            pixels = random.integers(0, 4096, (96, 80)).astype(np.uint16)
            path = folder / f"{series}" / f"{number}.dcm"
            write_image(path, pixels, SeriesInstanceUID=f"1.2.4.{series}", InstanceNumber=number + 1)
    for name in ("CT_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm"):
        (folder / name).write_bytes(sample(name).read_bytes())
    return folder


FILES = SERIES * IMAGES + 3


def frame_urls(service: Served) -> list[str]:
    found = []
    for study in service.json("/api/studies")["studies"]:
        for series in study["series"]:
            manifest = service.json(
                f"/api/studies/{study['study_instance_uid']}/series/{series['series_instance_uid']}"
            )
            found += [frame["url"] for frame in manifest["frames"]]
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, deepest last."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [found for child in children for found in (child, *descendants(child))]


def workers(service: Served) -> dict[int, int]:
    """Place -> process id, from what the supervisor logs."""
    found = {}
    for line in service.log.read_text().splitlines():
        if " serves (process " in line:
            words = line.split()
            found[int(words[words.index("worker") + 1])] = int(words[-1].rstrip(")"))
    return found


def both_serve(service: Served) -> bool:
    answer = service.ask("/health/ready")
    return answer.status == 200 and answer.problem["status"] == "ready"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the service makes its private folder; short, since sockets' paths are limited."""
    with tempfile.TemporaryDirectory(prefix="several-") as path:
        yield Path(path)


@pytest.fixture
def several(root: Path, tmp_path: Path, temporary: Path) -> Iterator[Served]:
    environment = {"GPU_RENDER_WORKERS": "1", "TMPDIR": str(temporary)}
    with serving(root, tmp_path, options=GPUS, environment=environment) as service:
        service.wait_for_files(FILES)
        eventually(lambda: both_serve(service), "two workers")
        yield service


#: What two answers to one question may differ in.
VOLATILE = {"date", "server-timing", "x-render-worker"}


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    return answer.status, {k: v for k, v in answer.headers.items() if k not in VOLATILE}, answer.body


def test_answers_are_those_of_one_process_byte_for_byte(root: Path, tmp_path: Path, several: Served) -> None:
    (tmp_path / "one").mkdir()
    with serving(root, tmp_path / "one") as one:
        one.wait_for_files(FILES)
        frames = frame_urls(one)
        assert len(frames) == FILES
        views = [f"{url}{query}" for url in frames for query in ("", "?stage=stored", "?window=40,400&viewport=50,50")]
        series = sorted({url.partition("/instances/")[0] for url in frames})
        ids = [f"/dicom-viewer/api/image/{number}/data/" for number in (1, FILES, 999)]
        bad = ["/api/nothing", "/api/studies/1/series/2", f"{frames[0]}0", "/api/studies/x/series/y", "/docs"]
        for url in [*views, *series, *ids, *bad, "/", "/api/studies", "/api/index", "/openapi.json"]:
            assert told(several.ask(url)) == told(one.ask(url)), url
        tag = one.ask(frames[0]).headers["etag"]
        assert several.ask(frames[0], headers={"If-None-Match": tag}).status == 304
        assert told(several.ask(frames[0], "HEAD")) == told(one.ask(frames[0], "HEAD"))
        assert told(several.ask(frames[0], "DELETE")) == told(one.ask(frames[0], "DELETE"))


def test_a_series_has_one_worker_and_both_have_some(several: Served) -> None:
    found: dict[str | None, set[str]] = {}
    for url in frame_urls(several):
        found.setdefault(affinity(url), set()).add(several.ask(url).headers["x-render-worker"])
    for uid, places in found.items():
        assert places == {str(rendezvous(str(uid), 2)[0])}
    assert set.union(*found.values()) == {"0", "1"}


def test_a_worker_killed_under_load_costs_typed_errors_and_no_wrong_byte(several: Served) -> None:
    urls = [f"{url}?window={n},4096" for url in frame_urls(several) for n in (2000, 2100)]
    right = {url: (answer.status, answer.body) for url in urls for answer in [several.ask(url)]}  # 406: has no window
    before, stop = workers(several), threading.Event()
    wrong: list[str] = []
    counts = {"fine": 0, "refused": 0, "broken": 0}

    def load() -> None:
        while not stop.is_set():
            for url in urls:
                try:
                    answer = several.ask(url)
                except (http.client.HTTPException, OSError):  # broken off, and seen to be
                    counts["broken"] += 1
                    continue
                typed = answer.headers["content-type"] == "application/problem+json"
                if (answer.status, answer.body) == right[url]:
                    counts["fine"] += 1
                elif answer.status in (502, 503) and typed:
                    counts["refused"] += 1
                else:
                    wrong.append(f"{url}: {answer.status}")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        for place in (1, 0):  # the scanning one as well
            os.kill(before[place], signal.SIGKILL)
            eventually(lambda place=place: workers(several)[place] != before[place], "another worker")  # type: ignore[misc]
        eventually(lambda: both_serve(several), "both")
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert counts["fine"] > 100
    assert counts["refused"] + counts["broken"] <= 2 * len(threads)  # no more than was under way
    assert several.ask("/api/index").problem["instances"] == FILES


def test_files_that_the_first_worker_finds_are_served_by_the_second(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "root"
    write_image(own / "0.dcm", np.zeros((4, 4), np.uint16))
    environment = {"GPU_RENDER_WORKERS": "1", "GPU_RENDER_RESCAN_INTERVAL_S": "0.3"}
    with serving(own, tmp_path, options=GPUS, environment=environment) as service:
        service.wait_for_files(1)
        eventually(lambda: both_serve(service), "two workers")
        uid = next(f"1.2.7.{n}" for n in range(100) if rendezvous(f"1.2.7.{n}", 2)[0] == 1)
        path, pixels = f"/api/studies/1.2.4.1/series/{uid}", np.full((4, 4), 9, np.uint16)
        assert service.ask(path).status == 404
        write_image(own / "new.dcm", pixels, SeriesInstanceUID=uid, SOPInstanceUID="1.2.7.1.1")
        eventually(lambda: service.ask(path).status == 200, "the new file")
        frame = f"{path}/instances/1.2.7.1.1/frames/1?stage=stored"
        answer = service.ask(frame)
        assert (answer.body, answer.headers["x-render-worker"]) == (pixels.tobytes(), "1")
        write_image(own / "new.tmp", pixels + 1, SeriesInstanceUID=uid, SOPInstanceUID="1.2.7.1.1", PatientName="A^B")
        (own / "new.tmp").rename(own / "new.dcm")
        eventually(lambda: service.ask(frame).body == (pixels + 1).tobytes(), "the changed file")


@pytest.mark.parametrize(
    ("how", "status"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, None), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_no_process_outlives_the_supervisor(
    several: Served, temporary: Path, how: signal.Signals, status: int | None
) -> None:
    several.ask(frame_urls(several)[0])
    processes = descendants(several.process.pid)
    assert {*workers(several).values()} < {*processes}  # and their decoders
    several.process.send_signal(how)
    several.process.wait(LIMIT_S)
    eventually(lambda: not any(map(_runs, processes)), "the end of all")
    assert status is None or several.process.returncode == status
    if how != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


def _runs(pid: int) -> bool:
    """A process that nobody has waited for yet runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_all_gpus_without_one_is_said_in_a_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not start"), serving(root, tmp_path, options=("--gpus", "all")):
        pass
    log = (tmp_path / "server.log").read_text()
    assert "--gpus all has no meaning on the CPU" in log.replace("\n", " ")
    assert "Traceback" not in log
