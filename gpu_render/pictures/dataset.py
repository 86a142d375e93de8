"""Values of a data set in the DICOM JSON Model (PS3.18 annex F), by tag as eight hex digits. Nothing here raises: what
is not as the model says counts as absent."""

from collections.abc import Sequence
from typing import Any

DicomJson = dict[str, Any]


def values(dataset: DicomJson, tag: str) -> Sequence[object]:
    """All values; empty where the element is absent, empty or binary."""
    element = dataset.get(tag)
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else ()


def first(dataset: DicomJson, tag: str) -> object:
    """The first value, None where there is none."""
    found = values(dataset, tag)
    return found[0] if found else None


def items(dataset: DicomJson, tag: str) -> list[DicomJson]:
    """The items of a sequence."""
    return [item for item in values(dataset, tag) if isinstance(item, dict)]


def number(dataset: DicomJson, tag: str) -> float | None:
    """The first value as a finite number; the model also allows text for numbers."""
    return as_number(first(dataset, tag))


def as_number(value: object) -> float | None:
    """A finite number, None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
    return found if found is not None and abs(found) < float("inf") else None
