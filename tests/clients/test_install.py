"""The clients that npm brings can be fetched from any registry, on any platform, and are those that were tested."""

import base64
import json
from pathlib import Path

from tests.clients import install

LOCK: dict[str, dict[str, object]] = json.loads((install.FOLDER / "package-lock.json").read_text())["packages"]
STATEMENT = Path(__file__).parents[2] / "docs" / "dicomweb.md"


def test_lock_names_no_download_address() -> None:
    assert [name for name, package in LOCK.items() if "resolved" in package] == []


def test_every_package_is_pinned_by_its_hash() -> None:
    assert [name for name, package in LOCK.items() if name and "integrity" not in package] == []
    assert len(base64.b64decode(install.OHIF_SHA512)) == 64


def test_native_parts_are_locked_for_all_platforms() -> None:
    for prefix in ("node_modules/@rolldown/binding-", "node_modules/lightningcss-"):
        systems = {name.removeprefix(prefix) for name in LOCK if name.startswith(prefix)}
        for system in ("linux-x64", "linux-arm64", "darwin-arm64"):
            assert any(found.startswith(system) for found in systems), prefix


def test_the_statement_names_the_versions_that_run() -> None:
    text = STATEMENT.read_text("utf-8")
    wanted = json.loads((install.FOLDER / "package.json").read_text())["dependencies"]
    for name in ("@cornerstonejs/dicom-image-loader", "dicomweb-client", "dcmjs"):
        assert LOCK[f"node_modules/{name}"]["version"] == wanted[name]
        assert wanted[name] in text
    assert f"| {install.OHIF_PACKAGE.rpartition('@')[2]} |" in text
