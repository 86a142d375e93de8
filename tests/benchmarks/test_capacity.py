"""The document and the script agree, and the model's arithmetic is right. No test asserts how fast anything is."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import capacity, history, record
from benchmarks.capacity import Measured, Node

DOCUMENT = capacity.DOCUMENT.read_text()


@pytest.fixture(scope="module")
def found() -> Measured:
    """From the results that the document names, not from newer ones."""
    names = re.findall(r"`benchmarks/results/([^`]+\.json)`", capacity.block(DOCUMENT, "sources"))
    assert names
    stored = history.load([record.RESULTS]).stored
    return capacity.measured([one for one in stored if one.path.name in names])


@pytest.mark.parametrize("name", ["sources", "inputs", "resources"])
def test_the_document_holds_what_the_script_prints(found: Measured, name: str) -> None:
    """After a change: python -m benchmarks.capacity --write."""
    assert capacity.block(DOCUMENT, name) == capacity.TABLES[name](found)


def test_simulated_rows_of_the_document_are_those_of_the_script(found: Measured) -> None:
    """The slowest to decode and the slowest GPU: the others take longer to simulate."""
    for name, rows in (
        ("users", capacity.carried(found, ["JPEG 2000"])),
        ("gpu", capacity.with_gpu(found, capacity.GPU_DECODE_MS[-1:])),
    ):
        assert capacity.markdown(rows).splitlines()[-1] in capacity.block(DOCUMENT, name).splitlines()


def test_no_way_to_store_slices_is_cheaper_than_not_to_compress_them(found: Measured) -> None:
    """Figures of several runs and kinds go into a row each: they must not contradict each other."""
    assert min(capacity.SYNTAXES, key=found.work_ms) == "uncompressed"
    for name in capacity.SYNTAXES:
        assert found.work_ms(name) >= max(found.alone_ms[name], found.together_ms.get(name, 0.0))


def test_the_document_says_that_no_gpu_was_measured_as_long_as_none_was(found: Measured) -> None:
    assert "No GPU has been measured" in DOCUMENT
    assert not any(one.run.machine.gpus for one in history.load([record.RESULTS]).stored), "then measure capacity anew"
    assert "assumed" in capacity.block(DOCUMENT, "gpu").splitlines()[0]


def test_tables_are_put_in_their_places_only() -> None:
    text = "a\n<!-- capacity: x -->\nold\n<!-- end -->\nb\n<!-- capacity: y -->\nkept\n<!-- end -->\n"
    new = capacity.rewritten(text, {"x": "| new |\n"})
    assert new == text.replace("old\n", "| new |\n")
    with pytest.raises(capacity.NoResult):
        capacity.block(text, "z")


def test_what_saturates_first_is_the_smallest_rate() -> None:
    node = Node(cores=2, work_ms=9.0, loop_ms=1.0)
    assert node.slices_per_s == pytest.approx({"cores": 200, "event loop": 1000})
    assert node.first == "cores"
    assert Node(64, 9.0, 1.0).first == "event loop"
    assert Node(64, 9.0, 1.0, device_ms=4.0).first == "GPU"
    assert capacity.most_users(node) == pytest.approx(200 / (16.1 / 60))


def test_a_user_asks_for_as_many_slices_as_the_source_says() -> None:
    asked = capacity.studies(500, 0.0, 4000.0)
    assert asked.opened.size / capacity.SLICES == pytest.approx(500 * 4000 / capacity.STUDY_S, rel=0.1)
    assert asked.first.sum() == asked.opened.size / capacity.SLICES
    one = asked.reached[: capacity.SLICES]
    np.testing.assert_allclose(np.diff(one[: capacity.BURST]), 1 / 30)
    assert np.all(np.diff(one) >= 1 / 30 - 1e-9)
    np.testing.assert_array_equal(asked.reached[asked.first], asked.opened[asked.first])


@pytest.mark.parametrize("ahead", [False, True])
def test_an_idle_node_takes_as_long_as_its_parts_and_a_full_one_longer(ahead: bool) -> None:
    node = Node(cores=2, work_ms=20.0, loop_ms=1.0, manifest_ms=10.0)
    slice_s, open_s = capacity.percentiles(node, 1.0, ahead=ahead)
    assert open_s == pytest.approx(0.031, abs=0.025)
    assert slice_s <= (0.03 if not ahead else 0.022)
    full_s, _ = capacity.percentiles(node, 1.5 * capacity.most_users(node), ahead=ahead)
    assert full_s > (1.0 if not ahead else slice_s)


def test_results_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(capacity.NoResult, match="slice"):
        capacity.measured(())
    with pytest.raises(SystemExit):
        capacity.main(["--results", str(tmp_path)])
