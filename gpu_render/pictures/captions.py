"""The lines of text for ``annotation`` (PS3.18 8.3.5.1.1), from a data set in the DICOM JSON Model."""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from gpu_render.frame import Window
from gpu_render.pictures.annotate import NO_BREAK
from gpu_render.pictures.dataset import DicomJson, first, items, values


class Annotation(StrEnum):
    """Keywords of ``annotation`` that are supported."""

    PATIENT = "patient"
    TECHNIQUE = "technique"


#: Label, tag and unit of what is shown of the technique, where the object says it (PS3.3 C.7.3, C.8).
_TECHNIQUE = (
    ("", "00080060", ""),  # Modality
    ("", "00180060", "kVp"),
    ("", "00181151", "mA"),  # X-Ray Tube Current
    ("", "00181150", "ms"),  # Exposure Time
    ("", "00181152", "mAs"),  # Exposure
    ("TR", "00180080", "ms"),  # Repetition Time
    ("TE", "00180081", "ms"),  # Echo Time
    ("TI", "00180082", "ms"),  # Inversion Time
    ("Thickness", "00180050", "mm"),  # Slice Thickness
    ("Location", "00201041", "mm"),  # Slice Location
)
_STUDY_DATE, _INSTANCE_NUMBER, _NUMBER_OF_FRAMES = "00080020", "00200013", "00280008"
_POSITION = "00200032"
_SHARED_GROUPS, _PER_FRAME_GROUPS = "52009229", "52009230"


def lines(
    dataset: DicomJson, frame_number: int, window: Window | None, wanted: frozenset[Annotation]
) -> tuple[list[str], list[str]]:
    """What stands at the top of the picture (the patient), and at its bottom (the technique).

    ``window`` is the one in use, None where the picture has none. What the object does not say is left out, but for
    name and ID: that they are absent is said.
    """
    top = list(_patient(dataset)) if Annotation.PATIENT in wanted else []
    if Annotation.TECHNIQUE not in wanted:
        return top, []
    date = "" if top else _labelled("Study", _date(_value(dataset, _STUDY_DATE)))
    technique = _in_one_line([date, *_technique(dataset, frame_number, window)])
    return top, [technique] if technique else []


def _in_one_line(parts: Iterable[str]) -> str:
    """Parts one after the other; where the line has to be broken, it is between them."""
    return "  ".join(part.replace(" ", NO_BREAK) for part in parts if part)


def _patient(dataset: DicomJson) -> Iterator[str]:
    yield person_name(first(dataset, "00100010")) or "(no name)"
    yield _labelled("ID", _value(dataset, "00100020")) or "(no ID)"
    rest = _in_one_line(
        (
            _labelled("Born", _date(_value(dataset, "00100030"))),
            _labelled("Sex", _value(dataset, "00100040")),
            _labelled("Study", _date(_value(dataset, _STUDY_DATE))),
        )
    )
    if rest:
        yield rest


def _technique(dataset: DicomJson, frame_number: int, window: Window | None) -> Iterator[str]:
    places = [dataset, *_groups(dataset, frame_number)]
    for label, tag, unit in _TECHNIQUE:
        text = next((found for place in reversed(places) if (found := _value(place, tag))), "")
        if text:
            yield " ".join(filter(None, (label, text, unit)))
    yield _labelled("Image", _value(dataset, _INSTANCE_NUMBER))
    frames = _value(dataset, _NUMBER_OF_FRAMES)
    yield f"Frame {frame_number} of {frames}" if frames not in ("", "1") else ""
    position = next((where for place in reversed(places) if len(where := values(place, _POSITION)) == 3), None)
    if position is not None:
        yield f"Position {' '.join(map(_number, position))} mm"
    if window is not None:
        yield f"Window {_number(window.center)} / {_number(window.width)} {window.function}"


def _groups(dataset: DicomJson, frame_number: int) -> list[DicomJson]:
    """The items that hold a frame's own attributes, the least specific first: shared groups, then the frame's."""
    shared, per_frame = items(dataset, _SHARED_GROUPS)[:1], items(dataset, _PER_FRAME_GROUPS)
    groups = [*shared, *per_frame[frame_number - 1 : frame_number]]
    return [item for group in groups for tag in group for item in items(group, tag)[:1]]


def _value(dataset: DicomJson, tag: str) -> str:
    value = first(dataset, tag)
    if value is None or isinstance(value, dict):
        return ""
    return _number(value) if isinstance(value, int | float) else str(value).strip()


def _number(value: object) -> str:
    """As short as it can be told apart at four decimals: 5 rather than 5.0000."""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _labelled(label: str, text: str) -> str:
    return f"{label} {text}" if text else ""


def _date(text: str) -> str:
    """DICOM's YYYYMMDD as YYYY-MM-DD, anything else as it stands there."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isascii() and text.isdigit() else text


def person_name(value: object) -> str:
    """A name of the DICOM JSON Model (PS3.18 F.2.2): its alphabetic group, else its ideographic or phonetic one.

    ``family^given^middle^prefix^suffix`` is shown as ``family, given middle prefix suffix``.
    """
    groups = value if isinstance(value, dict) else {"Alphabetic": value or ""}
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        family, *rest = (part.strip() for part in str(groups.get(group) or "").split("^"))
        text = ", ".join(filter(None, (family, " ".join(filter(None, rest)))))
        if text:
            return text
    return ""
