"""Thousands of broken files through the real service: ``python -m tests.mutation`` shows the same run as a table."""

import os
import shutil
from collections import Counter

import imagecodecs
import numpy as np
import pytest
from rich.console import Console

from gpu_render.decode import DECODERS
from tests.mutation.bases import Base, bases
from tests.mutation.jpeg_reference import BadJpegError, decode
from tests.mutation.mutate import CONTROL, KINDS, mutants
from tests.mutation.oracle import OURS, Verdict, judge
from tests.mutation.report import faults, markdown, show, summary
from tests.mutation.run import run

IN_CI = bool(os.environ.get("CI"))
COUNT = 2400 if IN_CI else 200


def test_the_same_seed_makes_the_same_mutants() -> None:
    first, again, other = (list(mutants(120, seed)) for seed in (1, 1, 2))
    assert [mutant.data for mutant in first] == [mutant.data for mutant in again]
    assert [mutant.data for mutant in first] != [mutant.data for mutant in other]
    assert len({mutant.expected_uid for mutant in first}) == len(first)


def test_every_kind_and_every_decoder_has_mutants() -> None:
    """At least 2,000, below 500 MB, and of each transfer syntax enough that each part of its files is hit."""
    made = list(mutants(2400))
    assert len(made) >= 2000
    assert sum(len(mutant.data) for mutant in made) < 500e6
    assert {mutant.kind for mutant in made} == {kind.name for kind in KINDS}
    syntaxes = Counter(mutant.syntax for mutant in made)
    assert all(syntaxes[uid] >= 10 for uid in DECODERS), syntaxes


def test_a_mutation_changes_its_file() -> None:
    """But for one that by chance writes what was there, or exchanges two equal fragments."""
    made = list(mutants(600))
    unharmed = [mutant for mutant in made if mutant.data == _untouched(mutant.base, mutant.expected_uid)]
    assert len(unharmed) <= 0.03 * len(made), Counter(mutant.kind for mutant in unharmed)


def _untouched(name: str, uid: str) -> bytes:
    base = next(base for base in bases() if base.name == name)
    return base.seal(base.data.replace(base.sop_instance_uid.encode(), uid.encode()))


def test_the_verdict_on_a_picture() -> None:
    ours = np.arange(6, dtype="<u2").reshape(2, 3)
    near, far, other = ours + 1, ours + 9, ours.T
    verdicts = [
        (Verdict.ONLY_WE, {}),
        (Verdict.AGREED, {"a": ours}),
        (Verdict.AGREED, {"a": ours, "b": near}),
        (Verdict.DISPUTED, {"a": far}),
        (Verdict.DISPUTED, {"a": far, "b": other}),
        (Verdict.DISPUTED, {"a": far, "b": far, "c": ours}),
        (Verdict.WRONG, {"a": far, "b": far}),
        (Verdict.WRONG, {"a": other, "b": other, "c": far}),
    ]
    for verdict, answers in verdicts:
        assert judge(ours, answers, 1).verdict is verdict, answers
    assert judge(ours, {"a": far, "b": far, "c": ours}, 1, {"c": OURS}).verdict is Verdict.WRONG
    assert judge(ours, {"a": far, "b": far}, 1, {"a": "one", "b": "one"}).verdict is Verdict.DISPUTED


@pytest.mark.parametrize("base", [base for base in bases() if base.family == "jpeg"], ids=lambda base: base.name)
def test_the_reference_decoder_of_jpeg(base: Base) -> None:
    """On files that are whole, fast decoders differ from it by one at most; what is damaged it refuses."""
    offset, length = base.codestreams[0]
    codestream = base.data[offset : offset + length]
    expected = decode(codestream)
    space = "GRAYSCALE" if expected.ndim == 2 else "YCBCR"
    values = imagecodecs.jpeg8_decode(codestream, colorspace=space, outcolorspace=space)
    assert np.abs(values.astype(int) - expected).max() <= 1
    end = codestream.rindex(b"\xff\xd9")
    with pytest.raises(BadJpegError):
        decode(codestream[: end - 20] + codestream[end:])


@pytest.mark.timeout(900)
def test_no_broken_file_harms_the_service_or_is_shown_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Each gets a picture that other readers do not contradict, or a typed error, in time; the neighbour's pictures
    keep every byte; memory stays flat; nothing dies but decoders."""
    if IN_CI:
        assert shutil.which("dcmdjpeg"), "DCMTK is one of the readers to compare with: scripts/test-system"
    result = run(COUNT)
    with capsys.disabled():
        show(result, Console(width=220))
    assert faults(result) == []
    assert result.neighbour.answers > 100
    statuses = Counter(status for outcome in result.outcomes for status in outcome.statuses)
    assert {200, 413, 422} <= statuses.keys()
    assert sum(outcome.lost for outcome in result.outcomes) > 0, "no codec bomb went off"
    assert all(outcome.pictures for outcome in result.outcomes if outcome.mutant.kind == CONTROL)
    assert len(summary(result)) < len(markdown(result).splitlines())
