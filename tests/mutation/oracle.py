"""Is an answered picture right? Other readers decide, on the same mutant."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tests.mutation.readers import Array

_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.111")
_WAVELETS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))


class Verdict(StrEnum):
    """What the other readers say about one answered frame."""

    AGREED = "agreed"
    ONLY_WE = "only we answered"
    DISPUTED = "readers disagree"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the largest difference to each reader that answered (-1: another shape), and whether the picture is
    that of the file before it was mutated."""

    verdict: Verdict
    differences: Mapping[str, int]
    unchanged: bool = False


def tolerance(transfer_syntax_uid: str, components: int) -> int:
    """Largest difference that RENDERING allows between two decoders: 2 for JPEG (8 where chroma may be subsampled),
    1 for wavelets, which may be irreversible, 0 for everything else."""
    if transfer_syntax_uid in _JPEG:
        return 8 if components == 3 else 2
    return 1 if transfer_syntax_uid in _WAVELETS else 0


OURS = "ours"


def implementations(transfer_syntax_uid: str) -> dict[str, str]:
    """Reader -> whose code decodes this transfer syntax for it, where that is not code of its own.

    libjpeg-turbo, CharLS and OpenJPEG decode here and in pydicom's plugins. GDCM and DCMTK both have IJG's libjpeg, so
    that of lossy JPEG, where it matters how overflow is treated, they are one voice, and the reference is another.
    """
    shared = {"pydicom": OURS} if transfer_syntax_uid in _SHARED else {}
    return shared | ({"GDCM": "IJG", "DCMTK": "IJG"} if transfer_syntax_uid in _JPEG else {})


_SHARED = (*_JPEG, *(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81, 90, 91, 92, 93, 203)))


def judge(ours: Array, others: Mapping[str, Array], allowed: int, code: Mapping[str, str] | None = None) -> Judgement:
    """WRONG: two implementations or more agree with each other, and none but our own agrees with us.

    DISPUTED: some reader differs from us, but another agrees with us, or those that differ do not agree either.
    ``code``: reader -> implementation, as ``implementations`` says.
    """
    differences = {name: difference(ours, other) for name, other in others.items()}
    if not differences:
        return Judgement(Verdict.ONLY_WE, {})
    whose = {name: (code or {}).get(name, name) for name in differences}
    differ = [name for name, largest in differences.items() if not 0 <= largest <= allowed]
    if not differ:
        return Judgement(Verdict.AGREED, differences)
    supported = any(name not in differ and whose[name] != OURS for name in differences)
    united = any(
        whose[one] != whose[other] and 0 <= difference(others[one], others[other]) <= allowed
        for one in differ
        for other in differ
        if one < other
    )
    return Judgement(Verdict.WRONG if united and not supported else Verdict.DISPUTED, differences)


def difference(one: Array, other: Array) -> int:
    """The largest difference between two pictures; -1 where their shapes differ."""
    if one.shape != other.shape:
        return -1
    if one.dtype.kind == "f" or other.dtype.kind == "f":
        same = np.array_equal(one, other, equal_nan=True)
        return 0 if same else 1 << 31
    if not one.size:
        return 0
    return int(np.abs(one.astype(np.int64) - other.astype(np.int64)).max())
