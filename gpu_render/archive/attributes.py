"""Attributes in the DICOM JSON Model, as values that are matched: dates, times, names, words."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

Attributes = Mapping[str, Any]
"""Tag as eight hex digits -> element."""
MATCHED = 256
"""Characters that are matched: more than any value may have that is searched for, less than an index refuses."""

_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")  # with dots: ACR-NEMA's (PS3.5 6.2)
_TIME = re.compile(r"(\d\d):?(?:(\d\d):?(?:(\d\d)(?:\.(\d{1,6}))?)?)?")
_WORD = re.compile(r"[^\W_]+")


def texts(attributes: Attributes, tag: str) -> list[str]:
    """The values of an element; of a name its component groups, as DICOM writes them."""
    found = []
    for value in attributes.get(tag, {}).get("Value", ()):
        if isinstance(value, dict):
            groups = [str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")]
            found.append("=".join(groups).rstrip("="))
        elif value is not None:
            found.append(str(value))
    return [storable(value).strip()[:MATCHED] for value in found]


def joined(attributes: Attributes, tag: str) -> str:
    """The values of an element as DICOM writes them, empty where there are none."""
    return "\\".join(texts(attributes, tag))[:MATCHED]


def items(attributes: Attributes, tag: str) -> Iterator[Attributes]:
    """The items of a sequence."""
    for value in attributes.get(tag, {}).get("Value", ()):
        if isinstance(value, dict):
            yield value


def storable(value: str) -> str:
    """Without what no database holds as text: NUL, and halves of surrogate pairs."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def day(value: str) -> str:
    """A date (DA) as YYYYMMDD, empty where it is none."""
    found = _DATE.fullmatch(value.strip())
    return "".join(found.groups()) if found and 1 <= int(found[2]) <= 12 and 1 <= int(found[3]) <= 31 else ""


def clock(value: str, *, last: bool = False) -> str:
    """A time (TM) as HHMMSS.FFFFFF, empty where it is none. What it leaves open is its first moment, or its last."""
    found = _TIME.fullmatch(value.strip())
    if found is None:
        return ""
    hour, minute, second, fraction = found.groups()
    filler = "9" if last else "0"
    whole = hour + (minute or ("59" if last else "00")) + (second or ("59" if last else "00"))
    if int(hour) > 23 or int(whole[2:4]) > 59 or int(whole[4:]) > 60:
        return ""
    return f"{whole}.{(fraction or '').ljust(6, filler)}"


def name_forms(name: str) -> set[str]:
    """What a person's name is matched as: as a whole, and each of its component groups (PS3.5 6.2.1)."""
    groups = {comparable_name(group) for group in name.split("=")}
    return {form for form in {comparable_name(name), *groups} if form}


def comparable_name(name: str) -> str:
    """Without regard to case, to the way in which accents are encoded, and to components left out at the end."""
    return unicodedata.normalize("NFC", name).lower().strip("^= ")


def words(name: str) -> set[str]:
    """The words of a name without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return set(_WORD.findall(plain.casefold()))
