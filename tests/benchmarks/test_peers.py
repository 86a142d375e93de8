"""The comparison with peers: wrong answers are not timed, nothing is open beyond loopback, and a small run works."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import data, record
from benchmarks.harness import BenchmarkError
from benchmarks.peers import __main__ as benchmark
from benchmarks.peers import answers, contest, native, network, orthanc, report
from benchmarks.peers.answers import Check, WrongAnswer
from benchmarks.peers.contest import Contestant, Outcome, Peers
from benchmarks.peers.figures import CLIENTS, CPU, FIRST, KIND, P50, P99, REQUESTS, ROUTE, WINDOWED
from benchmarks.peers.orthanc import Orthanc
from benchmarks.peers.routes import FRAMES, ORTHANC, OURS, PICTURE, ROUTES, SAMPLES, UNCOMPRESSED
from benchmarks.peers.slices import Slice
from benchmarks.peers.targets import TARGETS, ratios
from gpu_render import phantom

SLICES = 10
FIGURES = {REQUESTS, P50, P99, CPU, FIRST}


def needs(missing: Sequence[str]) -> None:
    """Skips the test where Debian packages are missing, but fails in CI."""
    if missing:
        assert not os.environ.get("CI"), f"CI needs {', '.join(missing)}"
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def one() -> Slice:
    stored = phantom.stored_slice(150)
    return Slice(UNCOMPRESSED, Path("x.dcm"), "1", "2", "3", "4", stored.tobytes(), stored)


def picture(shown: "np.typing.NDArray[np.float64]", kind: str) -> bytes:
    body = io.BytesIO()
    Image.fromarray(shown.round().astype(np.uint8)).save(body, kind, quality=90)
    return body.getvalue()


def part(body: bytes) -> bytes:
    return b"--x\r\nContent-Type: application/octet-stream\r\n\r\n" + body + b"\r\n--x--\r\n"


def pam(samples: bytes) -> bytes:
    return b"P7\nWIDTH 512\nENDHDR\n" + samples


Body = Callable[[Slice], bytes]
RIGHT_AND_WRONG: dict[str, tuple[Check, Body, Body]] = {
    "samples": (answers.samples, lambda s: s.stored.tobytes(), lambda s: s.stored.byteswap().tobytes()),
    "part": (answers.samples_part, lambda s: part(s.stored.tobytes()), lambda s: part(s.stored.tobytes()[:-2])),
    "two parts": (
        answers.samples_part,
        lambda s: part(s.stored.tobytes()),
        lambda s: part(s.stored.tobytes()).removesuffix(b"--\r\n") + b"\r\n\r\n" + part(s.stored.tobytes()),
    ),
    "16-bit PAM": (
        answers.pam16,
        lambda s: pam(s.stored.astype(">i2").tobytes()),
        lambda s: pam(s.stored.astype("<i2").tobytes()),
    ),
    "as stored": (answers.as_stored, lambda s: s.encoded, lambda s: s.encoded[2:] + s.encoded[:2]),
    "grey": (
        answers.grey,
        lambda s: s.windowed.astype(np.uint8).tobytes(),
        lambda s: s.stretched.astype(np.uint8).tobytes(),
    ),
    "JPEG": (answers.jpeg, lambda s: picture(s.windowed, "JPEG"), lambda s: picture(s.stretched, "JPEG")),
    "PNG": (answers.png, lambda s: picture(s.windowed, "PNG"), lambda s: picture(255 - s.windowed, "PNG")),
    "other form": (answers.png, lambda s: picture(s.windowed, "PNG"), lambda s: picture(s.windowed, "JPEG")),
}


@pytest.mark.parametrize(("check", "right", "wrong"), RIGHT_AND_WRONG.values(), ids=RIGHT_AND_WRONG.keys())
def test_a_wrong_answer_is_told_from_a_right_one(check: Check, right: Body, wrong: Body, one: Slice) -> None:
    headers = {"content-type": "multipart/related; type=application/octet-stream; boundary=x"}
    check(right(one), headers, one)
    with pytest.raises((WrongAnswer, OSError)):
        check(wrong(one), headers, one)


def test_the_reference_window_is_the_one_of_the_service(one: Slice) -> None:
    """PS3.3 C.11.2.1.2.1 at its corners: -160.5 HU and below is black, 239 and above is white, for 40/400."""
    hu = one.stored.astype(int) + phantom.RESCALE_INTERCEPT
    assert set(one.windowed[hu <= -160]) == {0.0}
    assert set(one.windowed[hu >= 239]) == {255.0}
    assert one.windowed[hu == 40][0] == pytest.approx((0.5 / 399 + 0.5) * 255)


def test_a_peer_that_cannot_answer_is_noted_and_this_service_has_to() -> None:
    outcome = Outcome()
    theirs, ours = (Contestant(who, ROUTES[0]) for who in ("Orthanc 1.2.3", OURS))
    contest.refuse(outcome, "HTJ2K", theirs, BenchmarkError("HTTP 400 for /instances/x"))
    assert outcome.refused == {("HTJ2K", theirs): "HTTP 400"}
    assert any("Orthanc 1.2.3" in note and "HTTP 400" in note for note in report.notes(outcome))
    with pytest.raises(BenchmarkError, match="not the stored samples"):
        contest.refuse(outcome, "HTJ2K", ours, WrongAnswer("not the stored samples"))


def test_what_orthanc_binds_is_loopback(tmp_path: Path) -> None:
    needs([] if native.compiler() else ["gcc"])
    library = native.compile_library("shim", tmp_path)
    program = "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[0])"
    said = subprocess.run(
        [sys.executable, "-c", program], env={"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "127.0.0.1"


@pytest.mark.parametrize(("address", "beyond"), [("127.0.0.1", False), ("127.0.0.2", True)])
def test_a_port_at_another_address_is_seen(address: str, beyond: bool) -> None:
    with socket.create_server((address, 0)) as server:
        assert network.listening_beyond_loopback(server.getsockname()[1]) is beyond


def measured(
    name: str, who: str, route: str, kind: str, samples: tuple[float, ...], clients: int
) -> record.Measurement:
    return record.Measurement(
        name=name,
        unit="",
        group=UNCOMPRESSED,
        who=who,
        parameters={ROUTE: route, KIND: kind, CLIENTS: clients, WINDOWED: 1},
        summary=record.spread(samples),
        better="higher" if name == REQUESTS else "lower",
        samples=samples,
    )


def test_targets_are_ratios_to_the_fastest_of_the_peers() -> None:
    found = (
        measured(REQUESTS, OURS, "frames", FRAMES, (300.0, 330.0, 360.0), 8),
        measured(REQUESTS, "Orthanc 1.10", "frames", FRAMES, (100.0, 100.0, 100.0), 8),
        measured(REQUESTS, "Orthanc 1.12", "frames", FRAMES, (110.0, 110.0, 110.0), 8),
        measured(FIRST, OURS, "raw array", PICTURE, (1.0, 2.0, 3.0), 1),
        measured(FIRST, "Orthanc 1.10", "/rendered, PNG", PICTURE, (20.0, 20.0, 20.0), 1),
        measured(FIRST, "Orthanc 1.10", "/rendered, PAM", PICTURE, (8.0, 8.0, 8.0), 1),
    )
    said = {(one.name, one.to): one for one in ratios(found)}
    warm = said["WADO-RS frames, frames, 8 clients", "Orthanc 1.12 frames"]
    assert warm.ratio == pytest.approx(3.0)
    assert (warm.target, warm.reached) == (3, True)
    cold = said["8-bit picture, raw array, first touch, JPEG or PNG", "Orthanc 1.10 /rendered, PNG"]
    assert cold.ratio == pytest.approx(10.0)
    assert (cold.target, cold.reached) == (8, True)
    assert cold.low < cold.ratio < cold.high
    fastest = said["8-bit picture, raw array, first touch, any form", "Orthanc 1.10 /rendered, PAM"]
    assert fastest.ratio == pytest.approx(4.0)
    assert not fastest.reached


def test_every_target_names_routes_that_are_asked_for() -> None:
    for target in TARGETS:
        for sides in ((target.ours,), target.theirs):
            named = [
                [one for one in ROUTES if (one.kind, one.who) == (target.kind, who) and route in ("", one.name)]
                for who, route in sides
            ]
            assert all(named), target
            assert any(one.asked_in(target.syntax) for routes in named for one in routes), target


def peers(tmp_path: Path) -> Peers:
    orthancs = {f"Orthanc {n}": Orthanc(Path("/"), tmp_path) for n in (1, 2)}
    return Peers(tmp_path, {}, orthancs, tmp_path / "window.so", tmp_path)


@pytest.mark.parametrize("plan", [benchmark.FULL, benchmark.QUICK])
def test_no_slice_is_touched_twice_after_a_start(plan: contest.Plan, tmp_path: Path) -> None:
    contest.check_plan(peers(tmp_path), plan)
    with pytest.raises(BenchmarkError, match="are needed"):
        contest.check_plan(peers(tmp_path), replace(plan, slices=plan.slices - 1))


def test_quick_run_end_to_end(tmp_path: Path) -> None:
    needs([*benchmark.missing(), *orthanc.missing(Path("/"))])
    where = ["--data", str(tmp_path), "--results", str(tmp_path), "--plot", str(tmp_path / "plot.png")]
    small = ["--quick", "--rounds", "1", "--seconds", "0.1", "--syntaxes", "uncompressed,HTJ2K"]
    command = [sys.executable, "-m", "benchmarks.peers", *small, *where, "--markdown", str(tmp_path / "peers.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = tmp_path.glob("*-peers-*.json")
    run = record.read(path)
    (version,) = (name for name in run.programs if name.startswith(ORTHANC))
    timed = {(one.group, one.who, str(one.parameters[ROUTE])) for one in run.measurements if one.name == FIRST}
    assert {who for _, who, _ in timed} == {OURS, "ruler", "old design", version}
    assert (UNCOMPRESSED, version, "/numpy") in timed
    assert ("HTJ2K", OURS, "raw array") in timed
    assert ("HTJ2K", version, "/numpy") not in timed  # it has no decoder
    assert any(f"{version} /numpy, HTJ2K" in note for note in run.notes)
    assert {one.name for one in run.measurements if one.parameters[KIND] == SAMPLES} == FIGURES
    assert {one.group for one in run.ratios} == {UNCOMPRESSED, "HTJ2K"}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "peers.md").read_text()
    assert f"| {version} /frames/0/raw |" in text
    assert "## Not timed" in text
    assert len(data.SERIES) * SLICES == len(list(tmp_path.rglob("*.dcm")))
