"""Result files of a folder, grouped by machine and over revisions; a broken one costs no other."""

from pathlib import Path

import pytest

from benchmarks import history, record
from tests.benchmarks.test_record import example_run


def stored_run(folder: Path, day: int, revision: str, cpu: str = "A") -> record.Run:
    run = example_run()
    machine = run.machine.model_copy(update={"cpu": cpu, "cores": 2, "gpus": ()})
    date = f"2024-03-{day:02d}T12:00:00+00:00"
    run = run.model_copy(update={"date": date, "revision": revision, "machine": machine})
    record.write(run, folder)
    return run


def test_files_are_read_oldest_first_and_once(tmp_path: Path) -> None:
    later, earlier = stored_run(tmp_path, 9, "bbb"), stored_run(tmp_path, 2, "aaa")
    (tmp_path / "schema.json").write_text("{}")
    found = history.load([tmp_path, tmp_path, tmp_path / "no such folder"])
    assert [one.run for one in found.stored] == [earlier, later]
    assert not found.refused


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    stored_run(tmp_path, 2, "aaa")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_bytes(b"\xff\xfe")
    (tmp_path / "half.json").write_text('{"benchmark": "slice"}')
    found = history.load([tmp_path])
    assert len(found.stored) == 1
    assert {path.name for path in found.refused} == {"broken.json", "other.json", "half.json"}


def test_machines_are_kept_apart_and_the_newest_run_is_found(tmp_path: Path) -> None:
    for day, revision, cpu in ((1, "a", "X"), (2, "b", "X"), (3, "c", "Y")):
        stored_run(tmp_path, day, revision, cpu)
    groups = history.by_machine(history.load([tmp_path]).stored)
    assert {slug: [one.run.revision for one in group] for slug, group in groups.items()} == {
        "x-2-cores-no-gpu": ["a", "b"],
        "y-2-cores-no-gpu": ["c"],
    }
    assert history.latest(groups["x-2-cores-no-gpu"])["slice"].run.revision == "b"


def test_a_line_has_a_point_for_each_revision(tmp_path: Path) -> None:
    measured = record.Measurement(
        name="stored", unit="requests/s", parameters={"clients": 8}, summary=record.spread([4.0, 5.0]), better="higher"
    )
    for day, revision in ((1, "a"), (2, "b")):
        run = stored_run(tmp_path, day, revision)
        record.write(run.model_copy(update={"measurements": (measured,)}), tmp_path)
    lines = history.lines(history.load([tmp_path]).stored)
    assert [(line.group, line.name, line.unit) for line in lines] == [
        ("JPEG 2000", "picture, cold", "ms"),
        ("JPEG 2000", "picture, warm", "ms"),
        ("", "gpu-render, stored, clients 8", "requests/s"),
    ]
    assert [[point.revision for point in line.points] for line in lines] == [["a", "b"]] * 3
    assert (lines[2].points[0].median, lines[2].better) == (4.5, "higher")


def test_committed_results_load() -> None:
    found = history.load([record.RESULTS])
    assert found.stored
    assert not found.refused
    assert history.lines(found.stored)


def test_results_of_an_installed_package_go_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert history.local_results() == record.RESULTS
    monkeypatch.setattr(record, "RESULTS", tmp_path / "site-packages" / "benchmarks" / "results")
    assert history.local_results().is_relative_to(tmp_path)
    assert history.local_results() != record.RESULTS
