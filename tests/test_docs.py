"""The documents tell the truth: links lead somewhere, routes, targets, commands and settings exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from api.app import create_app
from api.cli import app as command_line
from gpu_render.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{document.name} links to {target}"


def test_the_documented_routes_are_the_real_ones() -> None:
    documents = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("api.md", "dicomweb.md"))
    written = set(re.findall(r"`(?:(?:GET|POST) )?(/(?:api|health|metrics|dicom-viewer|dicomweb/)[^`?]*)`", documents))
    real = set(create_app(Settings()).openapi()["paths"])
    assert {re.sub(r"\{\w+\}", "{}", path) for path in real} <= {re.sub(r"\{\w+\}", "{}", path) for path in written}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in written} <= {re.sub(r"\{\w+\}", "{}", path) for path in real}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_and_commands_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?\bmake ([a-z-]+)`", text)) <= targets
    assert set(re.findall(r"^ {4}make ([a-z-]+)", text, re.MULTILINE)) <= targets
    commands = set(getattr(get_command(command_line), "commands", {}))
    assert set(re.findall(r"^\s+(?:\S*/)?gpu-render ([a-z]+)", text, re.MULTILINE)) <= commands


def test_every_setting_an_operator_can_make_is_described() -> None:
    operating = (ROOT / "docs" / "operating.md").read_text("utf-8")
    for name in Settings.model_fields:
        assert f"GPU_RENDER_{name.upper()}" in operating
    for variable in re.findall(r"GPU_RENDER_([A-Z_]+)", operating):
        assert variable.lower() in {*Settings.model_fields, "corpus"}
