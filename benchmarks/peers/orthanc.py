"""Orthanc, as Debian packages it, of this machine or of another Debian in a folder (``scripts/orthanc-root``)."""

import contextlib
import http.client
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError, Client, Question, Server, free_port, running
from benchmarks.peers.native import compile_library
from benchmarks.peers.network import listening_beyond_loopback

PROGRAM = "usr/sbin/Orthanc"
PLUGINS = ("usr/share/orthanc/plugins/libOrthancDicomWeb.so", "usr/share/orthanc/plugins/libOrthancGdcm.so")
PACKAGES = ("orthanc", "orthanc-dicomweb", "orthanc-gdcm")

# Nothing here slows it down: no compression, no log, answers at once on connections that stay open, a cache that holds
# all slices of the run, and threads enough for every client.
_CONFIGURATION = {
    "Name": "peer",
    "DicomServerEnabled": False,
    "RemoteAccessAllowed": False,
    "AuthenticationEnabled": False,
    "KeepAlive": True,
    "TcpNoDelay": True,
    "HttpThreadsCount": 64,
    "HttpCompressionEnabled": False,
    "StorageCompression": False,
    "MaximumStorageCacheSize": 1024,
    "SaveJobs": False,
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
}


@dataclass(frozen=True, slots=True)
class Orthanc:
    """An Orthanc with a database of its own, which keeps what was stored in it from one start to the next."""

    root: Path
    folder: Path
    """Its files; below ``root``."""

    @property
    def command(self) -> list[str]:
        inside = Path("/") / self.folder.relative_to(self.root)
        start = ["/usr/bin/env", "LC_ALL=C.UTF-8", f"LD_PRELOAD={inside / 'shim.so'}"]
        change = [] if self.root == Path("/") else ["chroot", str(self.root)]
        return [*change, *start, f"/{PROGRAM}", str(inside / "orthanc.json")]

    @contextlib.contextmanager
    def serving(self) -> Iterator[Server]:
        """Started afresh until the block ends. Raises BenchmarkError where others could reach it."""
        port, inside = free_port(), str(Path("/") / self.folder.relative_to(self.root))
        plugins = [f"/{plugin}" for plugin in PLUGINS]
        own = {"HttpPort": port, "StorageDirectory": inside, "IndexDirectory": inside, "Plugins": plugins}
        (self.folder / "orthanc.json").write_text(json.dumps(_CONFIGURATION | own))
        with running(self.command, port, "/system", 60.0) as server:
            if listening_beyond_loopback(port):
                raise BenchmarkError("Orthanc listens on more than loopback")
            yield server


def missing(root: Path) -> list[str]:
    """Debian packages that are not installed below ``root``."""
    return [name for name, path in zip(PACKAGES, (PROGRAM, *PLUGINS), strict=True) if not (root / path).exists()]


@contextlib.contextmanager
def prepared(root: Path) -> Iterator[Orthanc]:
    """An empty one, whose files are removed at the end."""
    if missing(root):
        raise BenchmarkError(f"no {', '.join(missing(root))} in {root}")
    parent = root / "var" / "tmp"
    folder = Path(tempfile.mkdtemp(prefix="gpu-render-peers-", dir=parent)).resolve()
    try:
        compile_library("shim", folder)
        yield Orthanc(root.resolve(), folder)
    finally:
        shutil.rmtree(folder)


def store(port: int, paths: Sequence[Path]) -> list[str]:
    """POST files to its REST API; return the ids that it gives their instances."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        return [_store(connection, path) for path in paths]


def _store(connection: http.client.HTTPConnection, path: Path) -> str:
    connection.request("POST", "/instances", path.read_bytes(), {"Content-Type": "application/dicom"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise BenchmarkError(f"Orthanc does not store {path.name}: HTTP {answer.status}")
    return str(json.loads(body)["ID"])


def versions(port: int) -> str:
    """Of itself and its plugins."""
    with contextlib.closing(Client(port)) as client:
        own = json.loads(client.ask(Question("/system", "application/json")).body)["Version"]
        names = ("dicom-web", "gdcm")
        asked = [json.loads(client.ask(Question(f"/plugins/{name}", "application/json")).body) for name in names]
    return ", ".join([str(own), *(f"{one['ID']} {one['Version']}" for one in asked)])
