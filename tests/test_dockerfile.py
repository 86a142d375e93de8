"""Dockerfile.cuda keeps what a hospital server relies on; there is no container engine where the tests run."""

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile.cuda").read_text()
LOCKS = [ROOT / "deploy" / name for name in ("requirements-cuda12.lock", "requirements-build.lock")]


def parse(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, comments gone and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, rest in pairs]


INSTRUCTIONS = parse(TEXT)
LAST_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def final(name: str) -> list[str]:
    """The arguments of an instruction in the stage that is shipped."""
    return [rest for instruction, rest in LAST_STAGE if instruction == name]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in final("ENV") for pair in shlex.split(rest))


def test_bases_are_pinned_cuda_12_and_alike() -> None:
    images = [rest.split()[0] for name, rest in INSTRUCTIONS if name == "FROM"]
    assert len(images) == 2
    assert len(set(images)) == 1
    assert re.fullmatch(r"nvidia/cuda:12\.\d+\.\d+-(base|runtime)-ubuntu24\.04", images[0])


def test_nothing_is_added_from_the_network_or_as_an_archive() -> None:
    assert not [rest for name, rest in INSTRUCTIONS if name == "ADD"]
    assert not re.search(r"https?://|curl|wget", "\n".join(rest for name, rest in INSTRUCTIONS if name == "RUN"))


def test_runs_as_a_fixed_user_that_is_not_root() -> None:
    users = final("USER")
    assert users == ["10001:10001"]
    created = " ".join(final("RUN"))
    assert "--uid 10001" in created
    assert "--gid 10001" in created
    assert LAST_STAGE.index(("USER", users[0])) > max(
        i for i, (name, _) in enumerate(LAST_STAGE) if name in ("RUN", "COPY")
    )


def test_health_check_asks_readiness_with_python() -> None:
    (check,) = final("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "http://127.0.0.1:8000/health/ready" in command[2]
    ast.parse(command[2])


def test_only_the_cache_is_written() -> None:
    assert final("VOLUME") == ["/var/cache/gpu-render"]
    assert environment()["XDG_CACHE_HOME"] == "/var/cache"
    assert environment()["TMPDIR"] == "/var/cache/gpu-render"
    assert environment()["CUPY_CACHE_DIR"].startswith("/var/cache/gpu-render/")
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"


def test_asks_the_container_toolkit_for_compute_and_nvml_only() -> None:
    assert environment()["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_anonymous_access_is_spelled_out() -> None:
    assert json.loads(final("ENTRYPOINT")[0]) == ["gpu-render", "serve"]
    command = json.loads(final("CMD")[0])
    assert command == ["/data", "--host", "0.0.0.0", "--port", "8000", "--allow-anonymous"]
    assert final("EXPOSE") == ["8000"]
    assert "-p 127.0.0.1:8000:8000" in (ROOT / "docs" / "operating.md").read_text()


def test_every_package_of_the_wheel_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {word for name, rest in INSTRUCTIONS if name == "COPY" for word in rest.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in (*packages, "pyproject.toml", "README.md", "LICENSE"):
        assert name in copied
        assert name in kept
    for word in (word for word in copied if word.startswith("deploy/") and word.endswith(".lock")):
        assert (ROOT / word).is_file()


def locked(path: Path) -> dict[str, str]:
    """Project names to versions."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_hold_hashes_and_no_addresses(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert f"--require-hashes -r deploy/{path.name}" in TEXT


def test_image_runs_the_versions_that_were_tested() -> None:
    """requirements.lock is what the tests run on; entries only for Python 3.12 and newer are not (see deploy/lock)."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    old = [line for line in lines if "==" in line and "python_full_version >= '3.12'" not in line]
    tested = {name.lower(): version for name, version in re.findall(r"^(\S+?)==([^ ;\\]+)", "\n".join(old), re.M)}
    image = locked(LOCKS[0])
    assert {"numpy", "pydicom", "imagecodecs", "fastapi", "cupy-cuda12x"} <= image.keys()
    different = {name for name, version in image.items() if tested.get(name, version) != version}
    assert not different, "run deploy/lock after make lock"


def test_image_holds_every_declared_dependency_and_no_decoder_that_ends_the_process() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0].lower() for text in requirements}

    image = locked(LOCKS[0]).keys()
    declared = names(project["dependencies"]) | names(project["optional-dependencies"]["cuda12"])
    assert declared <= image
    assert not {"python-gdcm", "pylibjpeg-libjpeg", "pytest"} & image
