"""``gpu-render bench``: benchmarks by name, what is written where, the list, the check, and the page."""

import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from api.cli import app
from benchmarks import concurrency, drawing, history, html, record, suite
from benchmarks.harness import BenchmarkError
from benchmarks.suite import Benchmark, Options
from tests.benchmarks.test_record import example_run

RUNNER = CliRunner()


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Benchmarks ``good`` and ``bad`` in the place of all; what they were called with."""
    asked: list[list[str]] = []

    def good(arguments: Sequence[str]) -> int:
        asked.append(list(arguments))
        if "--results" in arguments:
            folder = Path(arguments[list(arguments).index("--results") + 1])
            record.write(example_run().model_copy(update={"revision": f"{len(asked)}"}), folder)
        return 0

    def bad(arguments: Sequence[str]) -> int:
        raise BenchmarkError("it has no [brackets]")

    module = ModuleType("faked_benchmark")
    other = ModuleType("faked_failure")
    module.main, other.main = good, bad  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, other.__name__, other)
    every = (
        Benchmark("good", module.__name__, "works", "1 s", plots=True),
        Benchmark("bad", other.__name__, "fails", "1 s"),
        Benchmark("far", other.__name__, "needs more", "1 s", gpu=True),
    )
    monkeypatch.setattr(suite, "ALL", every)
    monkeypatch.setattr(suite, "BY_NAME", {one.name: one for one in every})
    return asked


def test_every_benchmark_has_a_command() -> None:
    assert len(suite.BY_NAME) == len(suite.ALL)
    for one in suite.ALL:
        assert callable(one.main())


def test_without_names_they_are_listed() -> None:
    said = RUNNER.invoke(app, ["bench"])
    assert said.exit_code == 0
    assert all(one.name in said.output for one in suite.ALL)


def test_an_unknown_name_names_the_known_ones() -> None:
    said = RUNNER.invoke(app, ["bench", "slise"])
    assert said.exit_code == 1
    assert "slice" in said.output


def test_what_is_named_runs_and_is_written(faked: list[list[str]], tmp_path: Path) -> None:
    said = RUNNER.invoke(app, ["bench", "good", "good", "--quick", "--results", str(tmp_path)])
    assert said.exit_code == 0
    assert faked == [["--quick", "--results", str(tmp_path)]]
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_one_that_fails_does_not_stop_the_others(faked: list[list[str]], tmp_path: Path) -> None:
    said = RUNNER.invoke(app, ["bench", "bad", "good", "--quick", "--results", str(tmp_path)])
    assert said.exit_code == 1
    assert "it has no [brackets]" in said.output
    assert len(faked) == 1


def test_all_leaves_out_what_needs_a_gpu(faked: list[list[str]]) -> None:
    assert [one.name for one in suite.chosen([], True, has_gpu=False)] == ["good", "bad"]
    assert [one.name for one in suite.chosen([], True, has_gpu=True)] == ["good", "bad", "far"]


def test_a_quick_look_writes_nothing_unless_told(faked: list[list[str]]) -> None:
    assert RUNNER.invoke(app, ["bench", "good", "--quick"]).exit_code == 0
    assert faked == [["--quick"]]


def test_plots_of_other_folders_are_not_the_documents(faked: list[list[str]], tmp_path: Path) -> None:
    (one, *_) = suite.ALL
    image = str(tmp_path / "images" / "benchmark-good.png")
    assert Options(results=tmp_path).arguments(one) == ["--results", str(tmp_path), "--plot", image]
    assert Options().arguments(one) == ["--results", str(record.RESULTS)]


def test_without_matplotlib_it_says_what_to_install(
    faked: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drawing, "available", lambda: False)
    for arguments in (["bench", "good", "--results", str(tmp_path)], ["bench", "--html", str(tmp_path / "x.html")]):
        said = RUNNER.invoke(app, arguments)
        assert said.exit_code == 1
        assert "gpu-render[bench]" in said.output
    assert RUNNER.invoke(app, ["bench", "good", "--quick", "--results", str(tmp_path)]).exit_code == 0
    assert len(faked) == 1


def test_drawing_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchmarkError, match=re.escape("gpu-render[bench]")):
        drawing.figure(1, 1)


def test_changes_from_the_last_result_are_shown(faked: list[list[str]], tmp_path: Path) -> None:
    run = example_run()
    cases = tuple(
        case.model_copy(update={"client": record.summarize([value * 9 for value in (1.0, 2.0, 3.0)])})
        for case in run.cases[1:]
    )
    record.write(run.model_copy(update={"cases": cases, "date": "2024-01-01T00:00:00+00:00"}), tmp_path)
    said = RUNNER.invoke(app, ["bench", "good", "--quick", "--results", str(tmp_path)])
    assert "1 of 1 figures are apart" in said.output
    assert "better" in said.output


@pytest.mark.parametrize("arguments", [["--save-baseline"], ["--check", "slice"], ["--check", "--all"]])
def test_options_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    assert RUNNER.invoke(app, ["bench", *arguments]).exit_code == 2


def test_a_check_without_a_baseline_measures_nothing(tmp_path: Path) -> None:
    where = ["--results", str(tmp_path / "none"), "--data", str(tmp_path / "data")]
    said = RUNNER.invoke(app, ["bench", "--check", *where])
    assert said.exit_code == 2
    assert "--save-baseline" in said.output
    assert not (tmp_path / "data").exists()


# --- the page -----------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, how often each element opens, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def loads(measured_rate: float) -> tuple[record.Measurement, ...]:
    def one(kind: str, unit: str, name: str, count: int) -> record.Measurement:
        return record.Measurement(
            name=f"{name}: {kind}",
            unit=unit,
            parameters={"clients": count},
            summary=record.spread([measured_rate * count]),
        )

    kinds = (("throughput", "requests/s"), ("latency", "ms"))
    return tuple(
        one(kind, unit, name, count) for name in concurrency.COLOURS for count in (1, 8) for kind, unit in kinds
    )


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    run = example_run()
    earlier = run.model_copy(update={"date": "2024-01-01T00:00:00+00:00", "revision": "aaaa"})
    changes = {"benchmark": "concurrency", "cases": (), "measurements": loads(5.0), "notes": ("<script>x</script>",)}
    trace = record.Trace(name="memory", unit="MiB", at_s=(0.0, 1.0), values=(1.0, 2.0))
    many = run.model_copy(update={**changes, "traces": (trace,)})
    for one in (run, earlier, many):
        record.write(one, tmp_path)
    (tmp_path / "broken.json").write_text("{")
    target = tmp_path / "out" / "report.html"
    html.write(history.load([tmp_path]), target)
    page = Page(target.read_text("utf-8"))
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 4  # latency, throughput, memory, history
    text = " ".join(page.text)
    assert "<script>x</script>" in text
    for words in (run.machine.slug, "JPEG 2000", "aaaa", "broken.json", run.machine.libraries["numpy"]):
        assert words in text


def test_the_page_of_the_committed_results_is_made(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    said = RUNNER.invoke(app, ["bench", "--html", str(target), "--results", str(tmp_path)])
    assert said.exit_code == 0
    page = Page(target.read_text("utf-8"))
    assert {one.run.benchmark for one in history.load([record.RESULTS]).stored} <= set(page.text)


def test_a_page_without_results_says_so() -> None:
    assert "Nothing was measured yet" in html.page(history.Results((), {}))
