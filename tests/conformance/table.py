"""The run as people read it: a table on the terminal, the same in Markdown, and the totals."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.uid import UID
from rich.table import Table

from gpu_render.decode import DECODERS
from tests.conformance.compare import Comparison, Row, Verdict
from tests.conformance.run import Run

STAGES = ("stored", "modality", "display")
HEADINGS = ("file", "transfer syntax", "feature", *STAGES)


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a whole run. ``comparisons`` by stage and verdict: one is one stage of one file against one reader, all views
    of ``display`` counted. ``samples`` is how many values were compared in all of them."""

    files: int
    pictures: int
    refused: int
    comparisons: dict[tuple[str, Verdict], int]
    samples: int
    renderings: int
    unlike: int
    unexplained: int
    unchecked: tuple[str, ...]
    deaths: str


def totals(run: Run) -> Totals:
    """Count everything."""
    rows = run.rows
    all_comparisons = [comparison for row in rows for comparison in row.comparisons]
    return Totals(
        files=len(rows),
        pictures=sum(not row.error for row in rows),
        refused=sum(bool(row.error) and row.error_is_right for row in rows),
        comparisons=dict(Counter((_column(c), c.verdict) for c in all_comparisons)),
        samples=sum(c.samples for c in all_comparisons),
        renderings=sum(row.renderings for row in rows),
        unlike=sum(row.unlike for row in rows),
        unexplained=sum(row.unexplained for row in rows),
        unchecked=tuple(f"{row.sample.name} ({stage})" for row in rows for stage in _unchecked(row)),
        deaths=", ".join(f"{name} {count}" for name, count in run.deaths.items() if count) or "none",
    )


def _unchecked(row: Row) -> Iterator[str]:
    """Stages that no reader answered. Colour has no modality values."""
    if not row.error:
        have = {_column(comparison) for comparison in row.comparisons}
        yield from (stage for stage in ("stored", "display") if stage not in have)


def _column(comparison: Comparison) -> str:
    return comparison.stage if comparison.stage in STAGES else "display"


def reasons(rows: Sequence[Row]) -> list[str]:
    """Every reason that explains a difference, once, in order of appearance."""
    explained = (c for row in rows for c in row.comparisons if c.verdict is Verdict.EXPLAINED)
    return list(dict.fromkeys(f"{c.reader.removesuffix(' of twin')}: {c.reason}" for c in explained))


def cells(row: Row, footnotes: Sequence[str]) -> tuple[str, ...]:
    """A row under HEADINGS."""
    head = (row.sample.name, _syntax(row.transfer_syntax_uid), row.sample.feature)
    if row.error:
        verdict = "refused, rightly" if row.error_is_right else "ERROR"
        return (*head, f"{verdict}: {row.sample.refused or row.error}", "", "")
    return (*head, *(_cell(row, stage, footnotes) for stage in STAGES))


def _syntax(uid: str) -> str:
    return DECODERS[uid].name if uid in DECODERS else UID(uid).name if uid else ""


def _cell(row: Row, stage: str, footnotes: Sequence[str]) -> str:
    """Readers that agree in one word; of the others the largest difference and how many samples differ."""
    worst: dict[str, Comparison] = {}
    for comparison in row.comparisons:
        if _column(comparison) == stage:
            known = worst.get(comparison.reader)
            if known is None or _badness(comparison) > _badness(known):
                worst[comparison.reader] = comparison
    equal = [reader for reader, comparison in worst.items() if comparison.verdict is Verdict.EQUAL]
    parts = [f"equal ({', '.join(equal)})"] if equal else []
    return "; ".join(parts + [_difference(c, footnotes) for c in worst.values() if c.verdict is not Verdict.EQUAL])


_ORDER = [Verdict.EQUAL, Verdict.WITHIN, Verdict.EXPLAINED, Verdict.DIFFERENT]


def _badness(comparison: Comparison) -> tuple[int, float, int]:
    return _ORDER.index(comparison.verdict), comparison.largest, comparison.differing


def _difference(comparison: Comparison, footnotes: Sequence[str]) -> str:
    largest = "another shape" if math.isinf(comparison.largest) else f"max {comparison.largest:.3g}"
    share = f"{comparison.differing:,} of {comparison.samples:,}"
    if comparison.verdict is Verdict.EXPLAINED:
        reason = f"{comparison.reader.removesuffix(' of twin')}: {comparison.reason}"
        return f"{largest}, {share} ({comparison.reader}, note {footnotes.index(reason) + 1})"
    mark = "DIFFERENT: " if comparison.verdict is Verdict.DIFFERENT else ""
    return f"{mark}{largest}, {share} ({comparison.reader})"


def rich_table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    table = Table(title="conformance", header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    footnotes = reasons(rows)
    for row in rows:
        table.add_row(*cells(row, footnotes), style="red" if row.unexplained else None)
    return table


def totals_rows(counted: Totals) -> list[tuple[str, str]]:
    """What the run says in few lines."""
    lines = [
        ("files", f"{counted.files}: {counted.pictures} pictures, {counted.refused} rightly refused"),
        ("values compared", f"{counted.samples:,}"),
    ]
    for stage in STAGES:
        found = {verdict: counted.comparisons.get((stage, verdict), 0) for verdict in Verdict}
        text = (
            f"{found[Verdict.EQUAL]} equal, {found[Verdict.WITHIN]} within the tolerance, "
            f"{found[Verdict.EXPLAINED]} explained, {found[Verdict.DIFFERENT]} different"
        )
        lines.append((f"{stage}, file by reader", text))
    lines.append(("renderings on every backend", f"{counted.renderings:,}, of which {counted.unlike} differ by a byte"))
    lines.append(("without a reader", ", ".join(counted.unchecked) or "none"))
    lines.append(("readers that died on a file", counted.deaths))
    lines.append(("unexplained differences", str(counted.unexplained)))
    return lines


def markdown_totals(counted: Totals) -> str:
    """The totals as a Markdown table."""
    return (
        "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in totals_rows(counted))]) + "\n"
    )


def markdown(run: Run, versions: str, backends: str) -> str:
    """The whole page ``docs/conformance.md``."""
    rows = run.rows
    footnotes = reasons(rows)
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row, footnotes)) + " |" for row in rows]
    notes = [f"{number}. {reason}" for number, reason in enumerate(footnotes, 1)]
    return f"""# Conformance run

Written by `make conformance TABLE=docs/conformance.md`; what it means is in [correctness.md](correctness.md). Readers:
{versions}. Backends: {backends}.

{markdown_totals(totals(run))}
## Where a reader is not followed

{chr(10).join(notes)}

## Every file

"Equal" and "max" name the readers; display is the worst of the file's own picture and three windows.

{chr(10).join(lines)}
"""
