"""Every target runs over its seeds here, without libFuzzer; what fuzzing has found is tested where it was fixed."""

import importlib.util
import random
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.targets import TARGETS, Finding


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_small_mutations_of_them(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    assert len(seeds) >= 3
    for seed in seeds:
        target.run(seed)
        for _ in range(5):
            target.run(mutated(seed, chance))
    target.run(b"")


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A byte changed, or some bytes lost."""
    at = chance.randrange(len(seed))
    if chance.random() < 0.5:
        return seed[:at] + bytes([chance.randrange(256)]) + seed[at + 1 :]
    return seed[:at] + seed[at + chance.randrange(1, 9) :]


def test_a_promise_not_kept_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no target could find anything."""
    monkeypatch.setattr("tests.fuzz.targets.expand_segments", lambda *_: ())
    with pytest.raises(Finding, match="entries"):
        TARGETS["lut"].run(TARGETS["lut"].seeds()[0])


def test_exceptions_of_our_own_code_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr("gpu_render.archive.parse.read_presentation", broken)
    with pytest.raises(KeyError):
        TARGETS["header"].run(TARGETS["header"].seeds()[-1])


def test_a_walk_that_goes_astray_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_render.archive.functional_groups.FrameGroups.position", lambda *_: ((9.0, 9.0, 9.0), b""))
    for seed in TARGETS["groups"].seeds():
        with pytest.raises(Finding, match="pydicom"):
            TARGETS["groups"].run(seed)


def test_log_of_libfuzzer_is_read() -> None:
    log = "#4\tINITED cov: 11 ft: 12\n#99\tDONE   cov: 345 ft: 678 corp: 9/90b\nstat::number_of_executed_units: 1234\n"
    outcome = run.Outcome("x", run.numbers_of(log + "stat::new_units_added: 7\n"), ())
    assert run.row(outcome) == ("x", "1,234", "345", "7", "0")


def test_libfuzzer_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: make fuzz does it")
    assert run.main(["--seconds", "4", "--folder", str(tmp_path), "lut", "fragments"]) == 0
    text = capfd.readouterr().out
    assert "lut" in text
    assert "fragments" in text
    assert any((tmp_path / "lut" / "corpus").iterdir())
