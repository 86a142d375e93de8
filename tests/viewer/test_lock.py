"""The viewer's locked packages can be fetched from any registry, on any platform."""

import json
from pathlib import Path

from viewer import DIST

LOCK: dict[str, dict[str, object]] = json.loads((DIST.parent / "package-lock.json").read_text())["packages"]


def test_lock_names_no_download_address() -> None:
    assert [name for name, package in LOCK.items() if "resolved" in package] == []


def test_every_package_is_pinned_by_its_hash() -> None:
    assert [name for name, package in LOCK.items() if name and "integrity" not in package] == []


def test_native_parts_are_locked_for_all_platforms() -> None:
    for prefix in (
        "node_modules/@rolldown/binding-",
        "node_modules/lightningcss-",
        "node_modules/@typescript/typescript-",
    ):
        systems = {Path(name).name.removeprefix(Path(prefix).name) for name in LOCK if name.startswith(prefix)}
        assert any(system.startswith("linux-x64") for system in systems), prefix
        assert any(system.startswith("linux-arm64") for system in systems), prefix
        assert any(system.startswith("darwin-arm64") for system in systems), prefix
