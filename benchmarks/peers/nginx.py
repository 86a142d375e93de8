"""nginx, which sends the same bytes from files: what no service that computes anything can do."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import Server, free_port, running
from benchmarks.peers.slices import Slice

# Files are opened once and sent by the kernel; connections stay open.
_CONFIGURATION = """
daemon off;
user root root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    open_file_cache max=10000 inactive=1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""


def program() -> str | None:
    """Where it is, also for users whose PATH has no /usr/sbin."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextlib.contextmanager
def serving(slices: Sequence[Slice]) -> Iterator[Server]:
    """With the files ``/raw``, ``/stored`` and ``/windowed`` of each slice, until the block ends."""
    with tempfile.TemporaryDirectory() as made:
        folder, port = Path(made), free_port()
        for one in slices:
            _write(folder / "files", one)
        (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, port=port))
        (folder / "files" / "ready").write_text("")
        command = [program() or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        with running(command, port, "/ready", 30.0) as server:
            yield server


def _write(folder: Path, one: Slice) -> None:
    stored = one.stored.astype("<i2", copy=False).tobytes()
    windowed = one.windowed.astype(np.uint8).tobytes()
    for what, content in (("raw", stored), ("stored", one.encoded), ("windowed", windowed)):
        path = folder / what / one.path.parent.name / one.path.stem
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
