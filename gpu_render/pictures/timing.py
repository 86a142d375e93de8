"""How long each frame of an animation is shown (PS3.3 C.7.6.5)."""

from collections.abc import Sequence

from gpu_render.pictures.dataset import DicomJson, as_number, number, values

DEFAULT_MS = 100.0
"""Where the object says nothing of time."""
_SHORTEST, _LONGEST = 2, 65535  # [1/100 s]: browsers take anything shorter for 10, GIF holds nothing longer

_FRAME_TIME, _FRAME_TIME_VECTOR = "00181063", "00181065"
_RATES = ("00082144", "00180040")  # Recommended Display Frame Rate, Cine Rate


def delays(dataset: DicomJson, frame_numbers: Sequence[int]) -> list[int]:
    """Of each of these frames [1/100 s]: by Frame Time Vector, Frame Time, Recommended Display Frame Rate or Cine Rate.

    Frame Time Vector holds the time from one frame to the next, from the second frame on; the last frame takes as long
    as the one before it.
    """
    steps = [as_number(value) for value in values(dataset, _FRAME_TIME_VECTOR)][1:]
    steps += steps[-1:]
    rate = next((rate for tag in _RATES if (rate := number(dataset, tag))), None)
    constant = number(dataset, _FRAME_TIME) or (1000 / rate if rate else None) or DEFAULT_MS
    return [_hundredths(_at(steps, frame_number - 1) or constant) for frame_number in frame_numbers]


def _at(steps: Sequence[float | None], index: int) -> float | None:
    return steps[index] if index < len(steps) else None


def _hundredths(milliseconds: float) -> int:
    return int(min(max(milliseconds / 10 + 0.5, _SHORTEST), _LONGEST))
