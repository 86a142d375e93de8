"""The command line as a user runs it: real processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
from rich.console import Console
from typer.testing import CliRunner

from api import cli
from api.cli import check_host, gpu_table, is_loopback
from gpu_render import prove
from gpu_render.archive.index import Index
from gpu_render.decode.proof import load_file
from gpu_render.gpus import Gpu
from kernels import Codestream
from tests.encoded import sample
from tests.gpu_render.test_proof import WRONG, Codec, right
from tests.kernels.host import HostBackend

GPU_RENDER = [sys.executable, "-m", "api.cli"]
LIMIT_S = 60


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [*GPU_RENDER, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment,
        cwd=cwd,
        check=False,
    )


def test_info_names_backend_device_codecs_and_versions() -> None:
    done = run("info", "--backend", "cpu")
    assert done.returncode == 0
    for text in ("cpu", f"NumPy {np.__version__}", "HTJ2K", "1.2.840.10008.1.2.4.90", "imagecodecs", "pydicom"):
        assert text in done.stdout


def test_info_shows_what_the_driver_says_and_what_it_does_not() -> None:
    known = (3 << 30, 24 << 30, 40, 7, 50, 33.5, 72.0, 5, 0, ("sw_power_cap",))
    gpus = [Gpu(0, "NVIDIA L4", "GPU-0", "580", *known), Gpu(1, None, None, "580", *[None] * 10)]
    console = Console(width=150)
    with console.capture() as shown:
        console.print(gpu_table(gpus))
    first, second = (line for line in shown.get().splitlines() if "580" in line)
    for text in ("NVIDIA L4", "3.0 of 24.0", "40 %", "50 °C", "33.5 of 72.0", "0 (5 corrected)", "sw_power_cap"):
        assert text in first
    assert "does not answer" in second


def test_render_writes_npy_and_png(tmp_path: Path) -> None:
    source = str(sample("CT_small.dcm"))
    done = run("render", source, "--stage", "modality", "--output", str(tmp_path / "ct.npy"))
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "ct.npy"), pydicom.dcmread(source).pixel_array - 1024)
    done = run("render", source, "--window", "40,400", "--viewport", "64,64", "--output", str(tmp_path / "ct.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ct.png").read_bytes().startswith(b"\x89PNG")
    assert "window 40,400,LINEAR" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("render", "CT", "--frame", "2"), 1, "it has 1 frame"),
        (("render", "CT", "--window", "40"), 1, "a window is center,width"),
        (("render", "CT", "--output", "x.jpg"), 2, ".npy or .png"),
        (("render", "CT", "--stage", "modality", "--output", "x.png"), 1, "PNG cannot hold"),
        (("render", __file__), 1, "not a DICOM file"),
        (("render", "/nowhere/x.dcm"), 1, "no such file"),
        (("render", "CT", "--backend", "cuda"), 1, "gpu-render[cuda12]"),
        (("prove",), 1, "gpu-render[cuda12]"),
        (("prove", "--output", "nowhere/proof.json"), 2, "does not exist"),
        (("serve", "/nowhere"), 2, "is not a folder"),
        (("serve", ".", "--host", "0.0.0.0"), 2, "--allow-anonymous"),
        (("serve", ".", "--host", "192.168.1.2"), 2, "no access control"),
        (("serve",), 2, "Missing argument"),
        (("serve", ".", "--gpus", "0;1"), 1, "--gpus is all, or numbers"),
        (("serve", ".", "--socket-dir", "."), 2, "belongs to --gpus"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    if {"cuda", "prove"} & set(arguments) and has_cuda():
        pytest.skip("this machine has a CUDA device")
    done = run(*(str(sample("CT_small.dcm")) if word == "CT" else word for word in arguments), cwd=tmp_path)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def refuses(data: bytes, codestream: Codestream) -> None:
    """A codec that knows nothing."""


@pytest.mark.parametrize(("decoder", "code"), [(right, 0), (WRONG["off by one"], 3), (refuses, 4), (None, 1)])
def test_prove_writes_a_table_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Codec | None, code: int
) -> None:
    monkeypatch.setattr(prove.Prover, "_device_is_faster", lambda *_: True)  # nothing here depends on time
    kinds = [kind for kind in prove.kinds() if kind.transfer_syntax_uid.endswith(".201")][:2]
    monkeypatch.setattr(prove, "kinds", lambda: kinds)
    monkeypatch.setattr(cli, "open_backend", lambda *_: HostBackend(decoder))
    path = tmp_path / "proof.json"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["prove", "--quick", "--output", str(path)])
    assert done.exit_code == code, done.output
    assert path.exists() is (decoder is not None)
    if decoder is not None:
        assert [row.kind for row in load_file(path).rows] == kinds
        assert "201: 8 bit unsigned" in done.output
        assert ("not proven" in done.output) is (code != 0)


def test_prove_compares_files_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind in prove.kinds() if str(kind) == "90: 16 bit signed")
    monkeypatch.setattr(prove, "kinds", lambda: [kind])
    monkeypatch.setattr(prove.Prover, "_device_is_faster", lambda *_: True)
    monkeypatch.setattr(cli, "open_backend", lambda *_: HostBackend(right))
    shutil.copy(sample("MR_small_jp2klossless.dcm"), tmp_path)
    path = tmp_path / "proof.json"
    done = CliRunner().invoke(cli.app, ["prove", "--quick", "--output", str(path), "--files", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (row,) = load_file(path).rows
    assert row.compared == 5 * len(prove.QUICK.shapes) + 1
    assert row.unequal == 0


@pytest.mark.parametrize(("name", "value"), [("WORKERS", "none"), ("CACHE_BYTES", "-1"), ("ALLOWED_HOSTS", "a,b")])
def test_a_wrong_environment_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GPU_RENDER_{name}", value)
    done = run("render", str(sample("CT_small.dcm")), cwd=tmp_path)
    assert done.returncode == 2
    assert name.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_service_that_cannot_start_says_why_in_a_line(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "garbage.sqlite").write_bytes(b"this is no database" * 100)
    (tmp_path / "file").touch()
    cases = {
        "remove it or name another": ("--index", str(tmp_path / "garbage.sqlite")),
        "name another (--index)": ("--index", str(tmp_path / "file" / "index.sqlite")),
        "gpu-render[cuda12]": ("--index", str(tmp_path / "i.sqlite"), "--backend", "cuda"),
    }
    for text, options in cases.items():
        if "cuda" in options and has_cuda():
            continue
        done = run("serve", str(root), "--port", "0", *options)
        assert done.returncode in (1, 3)
        assert text in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


def test_a_taken_port_and_a_taken_index_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken, contextlib.closing(Index(tmp_path / "i.sqlite")):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", str(tmp_path), "--port", str(taken.getsockname()[1]), "--index", str(tmp_path / "j.sqlite"))
        assert done.returncode in (1, 3)
        assert "address already in use" in done.stderr
        done = run("serve", str(tmp_path), "--port", "0", "--index", str(tmp_path / "i.sqlite"))
        assert done.returncode in (1, 3)
        assert "another gpu-render uses this index" in done.stderr


def has_cuda() -> bool:
    from kernels import BackendUnavailable, open_backend

    try:
        open_backend("cuda").close()
    except BackendUnavailable:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert is_loopback(host)
    assert "localhost" in check_host(host, allow_anonymous=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_anything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert check_host(host, allow_anonymous=True) == ("*",)


def test_serve_answers_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "ct.dcm").write_bytes(sample("CT_small.dcm").read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*GPU_RENDER, "serve", str(tmp_path / "root"), "--port", "0", "--index", str(tmp_path / "index" / "i.sqlite")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            raise AssertionError("".join(lines))
        with urllib.request.urlopen(f"{found[0]}health/ready", timeout=LIMIT_S) as answer:
            assert json.load(answer)["status"] == "ready"
        workers = children(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.stderr.close()
        code = process.wait(LIMIT_S)
    assert code in (0, -signal.SIGTERM)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
