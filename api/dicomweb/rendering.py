"""What a request for rendered pictures asks: PS3.18 8.3.5 (parameters), 8.7.4 and 8.7.8 (media types)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from api.dicomweb.multipart import MEDIA_TYPE as MULTIPART
from api.negotiation import LONGEST_REMEMBERED, MediaRange, parse_accept, quality
from gpu_render.errors import BadRequest, InvalidRegion, InvalidWindow, NotAcceptable
from gpu_render.frame import PixelLayout, Window
from gpu_render.pictures.captions import Annotation
from gpu_render.pictures.colour import Profile
from gpu_render.pictures.encode import DEFAULT_QUALITY, GIF, JPEG, PNG
from gpu_render.view import Region, parse_viewport, parse_window

OFFERED = (JPEG, PNG, GIF)
"""Rendered media types, best first."""

_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,9})?", re.ASCII)


class RenderedQuery(BaseModel):
    """The query parameters of a Rendered resource (PS3.18 Table 8.3.5-1), as they were sent; None: absent."""

    model_config = ConfigDict(frozen=True)

    window: str | None = Field(
        default=None, description="center,width,function; linear, linear-exact or sigmoid", examples=["40,400,linear"]
    )
    viewport: str | None = Field(
        default=None, description="vw,vh[,sx,sy,sw,sh] in pixels; a negative sw or sh flips", examples=["256,256"]
    )
    quality: str | None = Field(default=None, description="1 to 100, of image/jpeg", examples=["90"])
    annotation: str | None = Field(default=None, description="patient, technique or both", examples=["patient"])
    iccprofile: str | None = Field(default=None, description="no, yes, srgb, adobergb or rommrgb", examples=["no"])


@dataclass(frozen=True, slots=True)
class Viewport:
    """The ``viewport`` parameter: ``size`` (width, height) that the picture fits in, and of which part it is [px].

    ``width`` and ``height`` None: up to the right and the bottom edge.
    """

    size: tuple[int, int]
    x: int = 0
    y: int = 0
    width: int | None = None
    height: int | None = None
    flip_horizontally: bool = False
    flip_vertically: bool = False

    def region(self, layout: PixelLayout) -> Region:
        """The part of a frame that is shown. Raises InvalidRegion where nothing is left of it."""
        width = layout.columns - self.x if self.width is None else self.width
        height = layout.rows - self.y if self.height is None else self.height
        if width < 1 or height < 1:
            raise InvalidRegion(f"the region leaves the image of {layout.columns} x {layout.rows} pixels")
        return Region(self.x, self.y, width, height)

    @property
    def is_whole(self) -> bool:
        """Whether it is of the whole frame."""
        return (self.x, self.y, self.width, self.height) == (0, 0, None, None)


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are to look; ``unsupported``: annotations that were asked for and are not known here."""

    window: Window | None = None
    viewport: Viewport | None = None
    quality: int = DEFAULT_QUALITY
    annotation: frozenset[Annotation] = frozenset()
    profile: Profile = Profile.NO
    unsupported: tuple[str, ...] = ()


def parse_look(query: RenderedQuery, max_side: int) -> Look:
    """Raises BadRequest and its subclasses for a parameter whose value is none, also for an empty one."""
    known, unknown = _annotations(query.annotation)
    return Look(
        window=None if query.window is None else _window(query.window),
        viewport=None if query.viewport is None else parse_source_viewport(query.viewport, max_side),
        quality=DEFAULT_QUALITY if query.quality is None else _quality(query.quality),
        annotation=known,
        profile=Profile.NO if query.iccprofile is None else _profile(query.iccprofile),
        unsupported=unknown,
    )


def _window(text: str) -> Window:
    if text.count(",") != 2:
        raise InvalidWindow("a window is center,width,function")
    return parse_window(text)


def _quality(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100):
        raise BadRequest("quality is a whole number from 1 to 100")
    return int(text)


def _profile(text: str) -> Profile:
    if text not in Profile.__members__.values():
        raise BadRequest(f"iccprofile is one of {', '.join(Profile)}")
    return Profile(text)


def _annotations(text: str | None) -> tuple[frozenset[Annotation], tuple[str, ...]]:
    """What is supported of the keywords, and what is not (PS3.18 8.3.5.1.1: that is ignored)."""
    if text is None:
        return frozenset(), ()
    names = [name.strip() for name in text.split(",")]
    if not all(map(_KEYWORD.fullmatch, names)):
        raise BadRequest("annotation is a list of keywords: patient, technique")
    unknown = [name for name in names if name not in Annotation.__members__.values()]
    return frozenset(Annotation(name) for name in names if name not in unknown), tuple(dict.fromkeys(unknown))


def parse_source_viewport(text: str, max_side: int) -> Viewport:
    """``vw,vh[,[sx],[sy],[sw],[sh]]`` (PS3.18 8.3.5.1.3). Raises InvalidRegion.

    The standard allows decimal numbers: parts of pixels are refused here, not rounded to another region.
    """
    parts = [part.strip() for part in text.split(",")]
    if not 2 <= len(parts) <= 6:
        raise InvalidRegion("a viewport is vw,vh or vw,vh,sx,sy,sw,sh")
    size = parse_viewport(",".join(parts[:2]), max_side)
    x, y, width, height = (_whole(part) for part in (*parts[2:], "", "", "", "")[:4])
    if width == 0 or height == 0:
        raise InvalidRegion("a region has at least one pixel")
    return Viewport(
        size,
        abs(x or 0),
        abs(y or 0),
        None if width is None else abs(width),
        None if height is None else abs(height),
        width is not None and width < 0,
        height is not None and height < 0,
    )


def _whole(text: str) -> int | None:
    if not text:
        return None
    value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not value.is_integer():
        raise InvalidRegion("the region sx,sy,sw,sh is given in whole pixels")
    return int(value)


@dataclass(frozen=True, slots=True)
class Form:
    """``media_type`` of a picture, and whether each is a part of ``multipart/related``."""

    media_type: str
    multipart: bool


#: Media types of DICOM (PS3.18 8.7.3), which a request may not mix with rendered ones (8.7.5).
_DICOM = {"application/dicom", "application/dicom+json", "application/dicom+xml", "application/octet-stream"}
_RENDERED = ("image/", "video/", "text/", "application/pdf")


def choose_form(request: Request, *, several: bool, parts: bool = True) -> Form:
    """The form that is liked most; where several are liked alike, all of several pictures rather than one of them.

    ``several``: there is more than one picture. ``parts``: whether ``multipart/related`` is offered. The parameter
    ``accept`` comes first, the header where nothing in that can be had. Raises NotAcceptable, which lists what is
    offered, and BadRequest where media types of DICOM and rendered ones are mixed.
    """
    in_query = ",".join(request.query_params.getlist("accept")) if _names_accept(request) else ""
    texts = in_query, ",".join(request.headers.getlist("accept"))
    choose = _usual_form if sum(map(len, texts)) <= LONGEST_REMEMBERED else _form
    return choose(texts, several, parts)


def _names_accept(request: Request) -> bool:
    """Whether the query may have the parameter ``accept``, however it is written."""
    return any(part in request.scope["query_string"] for part in (b"accept", b"%"))


def _form(texts: tuple[str, ...], several: bool, parts: bool) -> Form:
    accepted = [ranges for text in texts if (ranges := parse_accept(text))]
    _refuse_mixtures([entry for ranges in accepted for entry in ranges])
    single, in_parts = ([Form(media, multipart) for media in OFFERED] for multipart in (False, True))
    forms = [*in_parts, *single] if parts and several else [*single, *(in_parts if parts else [])]
    for ranges in accepted:
        best = max(forms, key=lambda form: _liking(form, ranges))
        if _liking(best, ranges) > 0:
            return best
    if accepted:
        offered = [*OFFERED, *([f'{MULTIPART}; type="{media}"' for media in OFFERED] if parts else [])]
        raise NotAcceptable(f"this resource is offered as {', '.join(offered)}")
    return Form(JPEG, multipart=False)


_usual_form = lru_cache(maxsize=256)(_form)


def _part_type(entry: MediaRange) -> str:
    """The media type of the pictures: that of the parts where there are parts."""
    return entry.parameters.get("type", "*/*").lower() if entry.media == MULTIPART else entry.media


def _liking(form: Form, ranges: Sequence[MediaRange]) -> float:
    matching = [
        MediaRange(_part_type(entry), {}, entry.quality)
        for entry in ranges
        if (entry.media == MULTIPART) == form.multipart
    ]
    return quality(form.media_type, matching)


def _refuse_mixtures(ranges: Sequence[MediaRange]) -> None:
    wanted = [_part_type(entry) for entry in ranges if entry.quality > 0]
    if any(media in _DICOM for media in wanted) and any(media.startswith(_RENDERED) for media in wanted):
        raise BadRequest("Accept names media types of DICOM and rendered ones: one kind or the other (PS3.18 8.7.5)")
