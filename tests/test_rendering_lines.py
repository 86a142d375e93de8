"""Every line of what a correct picture is has its tests: they exist, and the document that lists them is current."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rendering import DOCUMENT, PENDING, RENDERING_LINES, document, named_tests

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """What pytest finds in the files that are named: every test, with and without its parameters."""
    files = sorted({test.partition("::")[0] for tests in named_tests().values() for test in tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    names = {line for line in done.stdout.splitlines() if line.startswith("tests/")}
    return names | {name.partition("[")[0] for name in names}


def test_every_requirement_has_tests_that_exist(collected: set[str]) -> None:
    missing = {key: [test for test in tests if test not in collected] for key, tests in named_tests().items()}
    assert {key: tests for key, tests in missing.items() if tests} == {}


def test_only_pending_requirements_have_no_test() -> None:
    assert {key for key, tests in named_tests().items() if not tests} == PENDING


def test_keys_are_unique_and_requirements_differ() -> None:
    keys = [key for lines in RENDERING_LINES.values() for key in lines]
    texts = [text for lines in RENDERING_LINES.values() for text, _ in lines.values()]
    assert len(set(keys)) == len(keys)
    assert len(set(texts)) == len(texts)


def test_the_document_is_current() -> None:
    """Run ``python -m tests.rendering`` where this fails."""
    assert DOCUMENT.read_text("utf-8") == document()
