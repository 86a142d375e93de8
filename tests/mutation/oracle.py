"""Is an answered picture right? Other readers decide, on the same mutant."""

from collections.abc import Collection, Mapping
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


SAME_LIBRARY: dict[str, tuple[str, ...]] = {
    # libjpeg-turbo, CharLS and OpenJPEG decode here and in pydicom's plugins; GDCM and DCMTK have code of their own
    # or, of OpenJPEG and CharLS, other versions.
    **dict.fromkeys((*_JPEG, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("pydicom",)),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 203)), ("pydicom",)),
}
"""Readers that use the library that decodes a transfer syntax here: their word for us counts for nothing."""


def judge(ours: Array, others: Mapping[str, Array], allowed: int, same_library: Collection[str] = ()) -> Judgement:
    """WRONG: two readers or more agree with each other, and no reader with another library agrees with us.

    DISPUTED: some reader differs from us, but another agrees with us, or those that differ do not agree either, or
    only where a sample is at one end of the range and theirs at the other: DCMTK and GDCM have IJG's old libjpeg,
    which wraps values far beyond the range instead of clamping them (test_decode.py has the proof).
    """
    differences = {name: difference(ours, other) for name, other in others.items()}
    if not differences:
        return Judgement(Verdict.ONLY_WE, {})
    differ = [name for name, largest in differences.items() if not 0 <= largest <= allowed]
    if not differ:
        return Judgement(Verdict.AGREED, differences)
    supported = any(name not in differ and name not in same_library for name in differences)
    against = [name for name in differ if not wrapped(ours, others[name], allowed)]
    united = any(
        0 <= difference(others[one], others[other]) <= allowed for one in against for other in against if one < other
    )
    return Judgement(Verdict.WRONG if united and not supported else Verdict.DISPUTED, differences)


def wrapped(one: Array, other: Array, allowed: int) -> bool:
    """Whether two pictures of a lossy JPEG differ by no more than allowed, but for samples that are at the two ends of
    the range of 8 or 12 bits."""
    if not allowed or one.shape != other.shape or one.dtype.kind == "f":
        return False
    top = 255 if one.dtype.itemsize == 1 else 4095
    apart = np.abs(one.astype(np.int64) - other.astype(np.int64))
    return bool(np.all((apart <= allowed) | (apart == top)))


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
