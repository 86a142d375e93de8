"""QIDO-RS: searches for studies, series and instances (PS3.18 section 10.6), answered from the index.

What a client typed is nowhere repeated: errors and warnings hold names of attributes and parameters only, since values
are names and identifiers of patients.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter, Request
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from starlette.responses import Response

from api.dicomweb import PREFIX
from api.documents import json_document
from api.negotiation import choose
from api.problems import RESPONSES
from api.service import service_of
from gpu_render.archive import Archive, DicomJson, Level, Match, Query
from gpu_render.errors import BadRequest
from gpu_render.reference import check_uid

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], responses=RESPONSES)

#: PS3.18 8.7.3.2. What is called application/json by a client is the same text.
DICOM_JSON = "application/dicom+json"
MEDIA_TYPES = (DICOM_JSON, "application/json")

STUDY_UID, SERIES_UID, SOP_INSTANCE_UID = "0020000D", "0020000E", "00080018"
RETRIEVE_URL, INSTANCE_AVAILABILITY = "00081190", "00080056"

#: VRs whose values cannot hold a comma, so that clients write lists with it; UIDs by PS3.4 C.2.2.2.2.
_COMMA_LISTS = ("UI", "CS", "IS")
#: VRs whose values may hold a backslash; everywhere else it separates several values (PS3.5 section 6.4).
_ONE_VALUE = ("ST", "LT", "UT", "UR")
#: Most values of one attribute in one search.
_MOST_UIDS, _MOST_VALUES = 500, 50
_NAMEABLE = re.compile(r"[A-Za-z0-9.]{1,128}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_UNSIGNED = re.compile(r"[0-9]{1,18}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Path = tuple[int, ...]
"""Tags from the data set down to an attribute: more than one where it lies in items of sequences."""


# --- what is asked ------------------------------------------------------------------------------------------


def attribute_path(text: str) -> Path | None:
    """An attributeID (8.3.4.1): keyword or eight hex digits, dotted where it lies in a sequence; else None."""
    path = tuple(_tag(part) for part in text.split("."))
    return None if None in path else tuple(tag for tag in path if tag is not None)


def _tag(text: str) -> int | None:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", text):
        return int(text, 16)
    return tag_for_keyword(text) if text else None  # pydicom knows retired elements without a keyword


def dotted_keyword(path: Path) -> str:
    """As ``Match`` names attributes; empty where one is private or unknown."""
    keywords = [keyword_for_tag(tag) for tag in path]
    return ".".join(keywords) if all(keywords) else ""


def _hex(path: Path) -> str:
    """What has to be in the answer: the attribute itself, or the outermost sequence that holds it."""
    return f"{path[0]:08X}"


@dataclass(slots=True)
class Asked:
    """The query component of a search, read parameter by parameter. Raises BadRequest and InvalidUid."""

    searchable: frozenset[str]
    values: dict[str, list[str]] = field(default_factory=dict)
    include: set[str] = field(default_factory=set)
    include_all: bool = False
    flags: dict[str, bool] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def read(self, query: bytes) -> None:
        """All parameters. Empty ones count as absent, but an attribute without a value is wanted in the answer."""
        for name, value in _parameters(query):
            lower = name.lower()
            if _CONTROL.search(value):
                raise BadRequest("a query parameter holds control characters")
            if lower in ("limit", "offset"):
                self._number(lower, value)
            elif lower in ("fuzzymatching", "emptyvaluematching", "multiplevaluematching"):
                self._flag(lower, value)
            elif lower == "includefield":
                self._include(value)
            elif lower not in ("accept", "charset"):
                self._match(name, value)

    def _number(self, name: str, value: str) -> None:
        if not value:
            return
        if not _UNSIGNED.fullmatch(value):
            raise BadRequest(f"{name} is an unsigned integer")
        if self.numbers.setdefault(name, int(value)) != int(value):
            raise BadRequest(f"{name} is given more than once")

    def _flag(self, name: str, value: str) -> None:
        if value.lower() not in ("true", "false", ""):
            raise BadRequest(f"{name} is true or false")
        self.flags[name] = value.lower() == "true"

    def _include(self, value: str) -> None:
        for name in filter(None, map(str.strip, value.split(","))):
            path = attribute_path(name)
            if name.lower() == "all":
                self.include_all = True
            elif path is not None:
                self.include.add(_hex(path))
            else:
                self.ignored.append(name)

    def _match(self, name: str, value: str) -> None:
        path = attribute_path(name)
        if path is None:
            self.ignored.append(name)
            return
        self.include.add(_hex(path))
        keyword = dotted_keyword(path)
        if keyword in self.searchable:
            vr = dictionary_VR(path[-1])
            found = _split(keyword, vr, value)
            known = self.values.setdefault(keyword, [])
            if known and found not in ([], known) and vr not in _COMMA_LISTS:
                raise BadRequest(f"{keyword} is given more than once")  # 8.3.4.1: each once, but for lists
            known.extend(found)
            if len(known) > (_MOST_UIDS if vr == "UI" else _MOST_VALUES):
                raise BadRequest(f"{keyword} lists more values than can be looked for at once")
        elif value not in ("", "*"):
            self.ignored.append(name)

    def matches(self) -> tuple[Match, ...]:
        """Attributes to match; universal matching (PS3.4 C.2.2.2.3) leaves one out."""
        return tuple(Match(name, tuple(dict.fromkeys(values))) for name, values in self.values.items() if values)


def _parameters(query: bytes) -> list[tuple[str, str]]:
    """Names and values. Raises BadRequest for what is no percent-encoded UTF-8."""
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadRequest("the query is not percent-encoded UTF-8") from None


def _split(keyword: str, vr: str, value: str) -> list[str]:
    """The values that a parameter lists, none where it is empty or ``*``. UIDs are checked here."""
    if vr in _COMMA_LISTS:
        value = value.replace(",", "\\")
    values = [value] if vr in _ONE_VALUE else value.split("\\")
    found = [text for text in map(str.strip, values) if text]
    if "*" in found:
        return []
    return [check_uid(text, keyword) for text in found] if vr == "UI" else found


def make_query(asked: Asked, level: Level, study_uid: str | None, series_uid: str | None, maximum: int) -> Query:
    """A query for one result more than may be answered: then it is known whether there are more."""
    return Query(
        level=level,
        study_uid=study_uid,
        series_uid=series_uid,
        matches=asked.matches(),
        include=frozenset(asked.include),
        include_all=asked.include_all,
        fuzzy=asked.flags.get("fuzzymatching", False),
        limit=min(asked.numbers.get("limit", maximum), maximum) + 1,
        offset=min(asked.numbers.get("offset", 0), 2**31),
    )


# --- what is answered ---------------------------------------------------------------------------------------


def base_url(request: Request) -> str:
    """The DICOMweb root as the client sees it, without a slash at the end; relative where its Host is no host."""
    host = request.headers.get("host", "")
    root = f"{request.scope.get('root_path', '')}{PREFIX}"
    return f"{request.scope['scheme']}://{host}{root}" if _HOST.fullmatch(host) else root


def warnings(asked: Asked, more: bool, service: str) -> list[str]:
    """Values of Warning headers (8.3.4). Of parameters they hold names, and only such as an attribute could have."""
    texts = []
    if more:
        texts.append("There are additional results that can be requested")
    if asked.flags.get("emptyvaluematching"):
        texts.append("The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed.")
    if asked.ignored:
        named = sorted({name for name in asked.ignored if _NAMEABLE.fullmatch(name)})[:20]
        texts.append(f"Not supported and ignored: {', '.join(named) or 'parameters whose names are none'}")
    return [f"299 {service}: {text}" for text in texts]


def _first(result: DicomJson, tag: str) -> str | None:
    values = result.get(tag, {}).get("Value") or [None]
    return values[0] if isinstance(values[0], str) else None


def complete(result: DicomJson, query: Query, service: str) -> DicomJson:
    """Add what depends on the service: Retrieve URL and Instance Availability; in order of tags."""
    url = f"{service}/studies/{_first(result, STUDY_UID) or query.study_uid}"
    if query.level is not Level.STUDY:
        url += f"/series/{_first(result, SERIES_UID) or query.series_uid}"
    if query.level is Level.INSTANCE:
        url += f"/instances/{_first(result, SOP_INSTANCE_UID)}"
    added = {
        RETRIEVE_URL: {"vr": "UR", "Value": [url]},
        INSTANCE_AVAILABILITY: {"vr": "CS", "Value": ["ONLINE"]},
    }
    return dict(sorted({**result, **added}.items()))


def search(archive: Archive, request: Request, level: Level, uids: Sequence[str], maximum: int) -> Response:
    """The whole search; blocks. ``uids``: of the study and series that the path names."""
    asked = Asked(archive.searchable(level))
    asked.read(request.scope["query_string"])
    study_uid, series_uid = (*uids, None, None)[:2]
    query = make_query(asked, level, study_uid, series_uid, maximum)
    results = archive.search(query)
    assert query.limit is not None
    service = base_url(request)
    shown = [complete(result, query, service) for result in results[: query.limit - 1]]
    response = json_document(request, orjson.dumps(shown), DICOM_JSON)
    for warning in warnings(asked, results.cut or len(results) == query.limit, service):
        response.headers.append("Warning", warning)
    return response


async def _answer(request: Request, level: Level, *uids: str) -> Response:
    service = service_of(request)
    choose(request, MEDIA_TYPES)
    names = ("Study Instance UID", "Series Instance UID")
    checked = [check_uid(uid, name) for uid, name in zip(uids, names, strict=False)]
    maximum = service.settings.max_search_results
    return await asyncio.to_thread(search, service.archive, request, level, checked, maximum)


# --- routes -------------------------------------------------------------------------------------------------

_PARAMETERS = [
    {"name": name, "in": "query", "schema": schema, "description": text}
    for name, schema, text in (
        ("PatientID", {"type": "string"}, "any attribute that can be matched, by keyword or as ggggeeee"),
        ("includefield", {"type": "string"}, "further attributes in the answer: keywords, ggggeeee or all; comma list"),
        ("fuzzymatching", {"type": "boolean"}, "names by their words"),
        ("limit", {"type": "integer", "minimum": 0}, "most results"),
        ("offset", {"type": "integer", "minimum": 0}, "results to skip"),
    )
]
_EXAMPLE = [
    {
        "00080020": {"vr": "DA", "Value": ["20240131"]},
        "00081190": {"vr": "UR", "Value": ["http://127.0.0.1:8000/dicomweb/studies/1.2.3"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Demo^Phantom"}]},
        "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
    }
]
_ROUTE: dict[str, Any] = {
    "response_class": Response,
    "openapi_extra": {"parameters": _PARAMETERS},
    "responses": {200: {"content": {DICOM_JSON: {"example": _EXAMPLE}}}},
}


@router.get("/studies", summary="Search for studies", **_ROUTE)
async def search_studies(request: Request) -> Response:
    """Studies, the latest first."""
    return await _answer(request, Level.STUDY)


@router.get("/series", summary="Search for series", **_ROUTE)
async def search_series(request: Request) -> Response:
    """Series of all studies, with their studies' attributes."""
    return await _answer(request, Level.SERIES)


@router.get("/instances", summary="Search for instances", **_ROUTE)
async def search_instances(request: Request) -> Response:
    """Instances of all series, with their studies' and series' attributes."""
    return await _answer(request, Level.INSTANCE)


@router.get("/studies/{study}/series", summary="Search for series of a study", **_ROUTE)
async def search_series_of_study(request: Request, study: str) -> Response:
    """Series of one study, by Series Number."""
    return await _answer(request, Level.SERIES, study)


@router.get("/studies/{study}/instances", summary="Search for instances of a study", **_ROUTE)
async def search_instances_of_study(request: Request, study: str) -> Response:
    """Instances of one study, with their series' attributes."""
    return await _answer(request, Level.INSTANCE, study)


@router.get("/studies/{study}/series/{series}/instances", summary="Search for instances of a series", **_ROUTE)
async def search_instances_of_series(request: Request, study: str, series: str) -> Response:
    """Instances of one series, by Instance Number."""
    return await _answer(request, Level.INSTANCE, study, series)
