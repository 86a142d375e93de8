"""The page /benchmarks in a real Chromium: committed results, and a folder of an operator; the documents' picture."""

import json
import math
import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from benchmarks import record
from benchmarks.running import Started
from tests.viewer.conftest import running
from tests.viewer.steps import by_testid

pytestmark = pytest.mark.browser

COMMITTED = [record.read(path) for path in sorted(record.RESULTS.glob("*.json")) if path != record.SCHEMA]
CLIENTS = (1, 8, 64, 256)


def made_up() -> tuple[record.Run, ...]:
    """Results of a machine that does not exist, so that they are never taken for figures: load, kernels, a history."""
    nowhere = COMMITTED[0].machine.model_copy(update={"cpu": "Made Up For Tests", "cores": 64})
    load = tuple(
        record.Measurement(
            name=f"{name}: {what}",
            unit=unit,
            group="uncompressed",
            parameters={"clients": clients},
            summary=record.spread(values),
            throughput=values[0] if what == "throughput" else None,
            errors={"503": 3} if clients == 256 and what == "throughput" else {},
        )
        for name, factor in (("stored values, warm", 10.0), ("picture, warm", 5.0))
        for clients in CLIENTS
        for what, unit, values in (
            ("throughput", "requests/s", [clients * factor]),
            ("latency", "ms", [clients * 1.0, clients * 2.0, clients * 4.0]),
        )
    )
    kernel = record.Kernel(
        name="16 bit grey by a window",
        frames=1,
        bytes_read=2_000_000,
        bytes_written=1_000_000,
        cache_bytes=1,
        kernel=record.summarize([0.02]),
        copied=record.summarize([0.015]),
        target_percent=90,
    )
    slices = next(run for run in COMMITTED if run.benchmark == "slice")
    mammograms = [
        case.model_copy(update={"group": f"mammography 3328x4096, {case.group}"})
        for case in slices.cases
        if case.group == "JPEG 2000"
    ]
    begun = Started()
    runs = [
        begun.record("sizes", (), cases=tuple(mammograms)),
        begun.record("concurrency", (), measurements=load),
        begun.record("roofline", (), kernels=(kernel,)),
        slices.model_copy(update={"date": "2024-02-28T00:00:00+00:00", "revision": "1" * 40}),
        slices.model_copy(update={"date": "2024-02-29T00:00:00+00:00", "revision": "2" * 40}),
    ]
    return tuple(run.model_copy(update={"machine": nowhere}) for run in runs)


@pytest.fixture(scope="module")
def released(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service without a folder of results; asks for the browser first."""
    folder = tmp_path_factory.mktemp("released")
    with running(folder, "serve", str(tmp_path_factory.mktemp("nothing"))) as url:
        yield url


@pytest.fixture(scope="module")
def local(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with results of its own."""
    folder = tmp_path_factory.mktemp("local")
    results = folder / "results"
    for run in made_up():
        record.write(run, results)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPU_RENDER_BENCHMARK_RESULTS", str(results))
        with running(folder, "serve", str(tmp_path_factory.mktemp("nothing"))) as url:
            yield url


def cells(section: Locator) -> list[list[str]]:
    """The table of a section, opened as a keyboard does."""
    summary = section.locator("summary")
    summary.focus()
    summary.press("Enter")
    expect(section.locator("table")).to_be_visible()
    rows: list[list[str]] = section.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    return rows


def choose(chooser: Locator, text: str) -> None:
    value = chooser.locator("option").filter(has_text=text).first.get_attribute("value")
    chooser.select_option(value)


def test_committed_results_are_shown_and_nothing_is_fetched_from_elsewhere(page: Page, released: str) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto(f"{released}/benchmarks")
    latency = by_testid(page, "latency")
    expect(latency.locator("svg.plot")).to_be_visible()
    if target := os.environ.get("GPU_RENDER_BENCHMARKS_SCREENSHOT"):
        page.screenshot(path=target, full_page=True)
    assert all(url.startswith(released) for url in requests)
    assert [url for url in requests if "/api/" in url] == [f"{released}/api/benchmarks"]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    newest = max((run for run in COMMITTED), key=lambda run: run.date).machine.slug
    expect(by_testid(page, "machine")).to_have_attribute("data-machine", newest)


def test_medians_of_slices_are_those_of_the_file(page: Page, released: str) -> None:
    page.goto(f"{released}/benchmarks")
    latency = by_testid(page, "latency")
    machine = by_testid(page, "machine").get_attribute("data-machine")
    runs = [run for run in COMMITTED if run.benchmark == "slice" and run.machine.slug == machine and run.cases]
    run = max(runs, key=lambda run: run.date)
    if latency.locator("select").count():
        choose(latency.locator("select"), "slice, 512 x 512")
    rows = {(row[0], row[1]): row for row in cells(latency)}
    for case in run.cases:
        name = f"{case.request}, {case.state}" if case.state else case.request
        shown = rows[case.group, name]
        assert milliseconds(shown[2]) == pytest.approx(case.client.median_ms, rel=0.006)
        assert milliseconds(shown[4]) == pytest.approx(case.client.p99_ms, rel=0.006)
        assert shown[5] == str(case.client.n)
    assert latency.locator("g.mark").count() == len(rows)


def milliseconds(text: str) -> float:
    value, unit = text.replace(",", "").split()
    return float(value) * {"ms": 1.0, "s": 1000.0}[unit]


def test_the_target_and_the_alarm_stand_where_the_axis_has_2_and_5_s(page: Page, released: str) -> None:
    page.goto(f"{released}/benchmarks")
    plot = by_testid(page, "latency").locator("svg.plot")
    ticks = {
        tick: float(plot.locator("text.tick", has_text=tick).last.get_attribute("x") or 0) for tick in ("1 s", "10 s")
    }
    for kind, seconds in (("target", 2), ("alarm", 5)):
        line = plot.locator(f"line.{kind}")
        expect(plot.locator(f"text.{kind}")).to_have_text(f"{kind} {seconds} s")
        expected = ticks["1 s"] + math.log10(seconds) * (ticks["10 s"] - ticks["1 s"])
        assert float(line.get_attribute("x1") or 0) == pytest.approx(expected, abs=0.5)
        assert line.get_attribute("x1") == line.get_attribute("x2")


def test_what_was_not_measured_says_so(page: Page, released: str) -> None:
    page.route("**/api/benchmarks", lambda route: answer(route, [run for run in COMMITTED if run.benchmark == "index"]))
    page.goto(f"{released}/benchmarks")
    for section in ("latency", "throughput", "roofline"):
        expect(by_testid(page, section).locator(".nothing")).to_contain_text("gpu-render bench")
    expect(by_testid(page, "history").locator("svg.plot")).to_be_visible()


def answer(route: Route, runs: list[record.Run]) -> None:
    results = [
        {"name": "x", "source": "local", "machine": run.machine.slug, "run": json.loads(run.model_dump_json())}
        for run in runs
    ]
    route.fulfill(json={"results": results, "unreadable": {}})


def test_without_results_and_without_an_answer_the_page_says_so(page: Page, released: str) -> None:
    page.route("**/api/benchmarks", lambda route: answer(route, []))
    page.goto(f"{released}/benchmarks")
    expect(by_testid(page, "empty")).to_contain_text("No results")
    page.unroute("**/api/benchmarks")
    page.route("**/api/benchmarks", lambda route: route.fulfill(status=503, body=""))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("503")


def test_a_machine_is_chosen_and_its_load_kernels_and_history_are_drawn(page: Page, local: str) -> None:
    page.goto(f"{local}/benchmarks")
    choose(page.get_by_label("Machine"), "Made Up For Tests, 64 cores")
    expect(by_testid(page, "machine")).to_have_attribute("data-machine", made_up()[0].machine.slug)
    latency = by_testid(page, "latency")
    choose(latency.locator("select"), "sizes, mammography 3328x4096")
    assert {row[0] for row in cells(latency)} == {"JPEG 2000"}
    throughput = by_testid(page, "throughput")
    assert throughput.locator("g.line").count() == 2
    rows = cells(throughput)
    assert [row[:4] for row in rows if "picture" in row[0]] == [
        ["uncompressed: picture, warm", str(clients), f"{clients * 5:,}", f"{clients * 2} ms"] for clients in CLIENTS
    ]
    assert [row[6] for row in rows if row[1] == "256"] == ["3", "3"]
    assert cells(by_testid(page, "roofline")) == [["16 bit grey by a window", "150", "200", "75 %", "90 %"]]
    assert by_testid(page, "roofline").locator("g.bar.short").count() == 1
    history = by_testid(page, "history")
    assert history.locator("g.line").first.locator("circle").count() == 2
    assert history.locator("thead th").all_text_contents() == ["", "02-28 1111111", "02-29 2222222"]


def test_colours_are_chosen_and_kept(page: Page, released: str) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(f"{released}/benchmarks")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    by_testid(page, "theme").press("Enter")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    expect(by_testid(page, "theme")).to_have_text("Light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
