"""Which form of a frame or of an instance a request gets (PS3.18 8.7.3 and 8.7.8): media type and transfer syntax."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from api.dicomweb.multipart import MEDIA_TYPE
from api.negotiation import MediaRange
from gpu_render.decode import DECODERS
from gpu_render.errors import NotAcceptable
from gpu_render.frame import PixelLayout
from gpu_render.transcode import EXPLICIT_LE, MADE, can

DICOM = "application/dicom"
OCTETS = "application/octet-stream"

BIG_ENDIAN = "1.2.840.10008.1.2.2"

#: Transfer syntaxes whose frames are the same bytes as in Explicit VR Little Endian.
_LITTLE_ENDIAN = {"1.2.840.10008.1.2", EXPLICIT_LE, "1.2.840.10008.1.2.1.99"}
#: Those in which no frame is sent: big endian is ruled out by PS3.18 8.7.3, and frames of plain samples may be padded.
_NOT_SENT = {BIG_ENDIAN, "1.2.840.10008.1.2.1.98"}

#: PS3.18 Table 8.7.3-5: the media type of a compressed frame. Any other is application/octet-stream.
_MEDIA_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **{f"1.2.840.10008.1.2.4.{number}": "image/jpeg" for number in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{number}": "image/jls" for number in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": "image/jp2" for number in (90, 91)},
    **{f"1.2.840.10008.1.2.4.{number}": "image/jpx" for number in (92, 93)},
    **{f"1.2.840.10008.1.2.4.{number}": "image/jxl" for number in (110, 111, 112)},
    **{f"1.2.840.10008.1.2.4.{number}": "image/jphc" for number in (201, 202, 203)},
}

#: What clients call them as well (before 2016, and by mistake).
_ALIASES = {
    "image/x-dicom-rle": "image/dicom-rle",
    "image/x-jls": "image/jls",
    "image/jhc": "image/jphc",
    "image/jph": "image/jphc",
    "image/j2c": "image/jp2",
}


@dataclass(frozen=True, slots=True)
class Form:
    """How a frame is sent: ``media_type`` of a part or of the whole, and the transfer syntax of its bytes."""

    media_type: str
    transfer_syntax_uid: str
    multipart: bool

    @property
    def content_type(self) -> str:
        """With the transfer syntax, unquoted: clients read it with a regular expression."""
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax_uid}"


def media_type_of(transfer_syntax_uid: str) -> str:
    """Of a frame in a transfer syntax."""
    return _MEDIA_TYPES.get(transfer_syntax_uid, OCTETS)


def stored_form(transfer_syntax_uid: str) -> str | None:
    """The transfer syntax that the stored bytes of a frame are sent in as they are, None where there is none.
    PS3.18 8.7.3 rules Implicit VR out; for a frame it is the same as Explicit VR."""
    if transfer_syntax_uid in _LITTLE_ENDIAN:
        return EXPLICIT_LE
    return None if transfer_syntax_uid in _NOT_SENT else transfer_syntax_uid


def frame_syntaxes(stored_uid: str, layout: PixelLayout) -> list[str]:
    """Transfer syntaxes in which a frame can be had, the stored one first."""
    stored = stored_form(stored_uid)
    made = [uid for uid in MADE if can(stored_uid, layout, uid)]
    return list(dict.fromkeys([*([stored] if stored else []), *made]))


def choose_frame_form(ranges: Sequence[MediaRange], syntaxes: Sequence[str], frames: int) -> Form:
    """The form that is liked most; of several the stored one, which nobody has to make. ``syntaxes``: as
    ``frame_syntaxes`` gives them. Raises NotAcceptable, which lists what can be had."""
    found = [
        (-entry.quality, form.transfer_syntax_uid != syntaxes[0], number, form)
        for number, entry in enumerate(ranges or [MediaRange("*/*", {}, 1.0)])
        if entry.quality > 0 and (form := _frame_form(entry, syntaxes, frames)) is not None
    ]
    if not found:
        offered = ", ".join(f"{media}; transfer-syntax={uid}" for media, uid in _offers(syntaxes))
        raise NotAcceptable(
            f"offered are parts of multipart/related of the types {offered}"
            f"{'; of one frame also these types by themselves' if frames == 1 else ''}"
        )
    return min(found)[3]


def _offers(syntaxes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Media types and transfer syntaxes: a compressed frame's own type first, then plain octets."""
    for uid in syntaxes:
        if media_type_of(uid) != OCTETS:
            yield media_type_of(uid), uid
        yield OCTETS, uid


def _frame_form(entry: MediaRange, syntaxes: Sequence[str], frames: int) -> Form | None:
    """What one element of Accept gets."""
    multipart, wanted = _part_type(entry)
    if not multipart and frames > 1:
        return None
    syntax = entry.parameters.get("transfer-syntax", "")
    if not syntax:
        # Of images the stored one, whichever of its type: the part says which. Else PS3.18 8.7.3.3: Explicit VR.
        syntax = "*" if wanted.startswith("image/") else EXPLICIT_LE
    for media, uid in _offers(syntaxes):
        if _covers(_ALIASES.get(wanted, wanted), media) and syntax in ("*", uid):
            return Form(wanted if wanted in _ALIASES else media, uid, multipart)
    return None


def _part_type(entry: MediaRange) -> tuple[bool, str]:
    """(whether in a multipart body, media type of a part), which may have ``*`` in it."""
    if entry.media in (MEDIA_TYPE, "multipart/*", "*/*"):
        return True, entry.parameters.get("type", "*/*").strip().lower()
    return False, entry.media


def _covers(wanted: str, media: str) -> bool:
    return wanted in (media, f"{media.split('/')[0]}/*", "*/*")


@dataclass(frozen=True, slots=True)
class InstanceForm:
    """How whole instances are sent. ``syntax``: a transfer syntax, ``*`` for the file as it was stored, or empty: the
    default of PS3.18 8.7.3.4, Explicit VR Little Endian."""

    syntax: str
    multipart: bool


def choose_instance_form(ranges: Sequence[MediaRange], *, one: bool) -> list[InstanceForm]:
    """The forms that are accepted, the best first; ``one``: an instance by itself may be a single part.

    Who takes anything gets the file as it is. Raises NotAcceptable.
    """
    found = [
        (-entry.quality, number, form)
        for number, entry in enumerate(ranges or [MediaRange("*/*", {}, 1.0)])
        if entry.quality > 0 and (form := _instance_form(entry, one)) is not None
    ]
    if not found:
        single = " or application/dicom" if one else ""
        raise NotAcceptable(f'offered is multipart/related; type="application/dicom"{single}')
    return [form for _, _, form in sorted(found, key=lambda item: item[:2])]


def _instance_form(entry: MediaRange, one: bool) -> InstanceForm | None:
    multipart, wanted = _part_type(entry)
    if not _covers(wanted, DICOM) or not (multipart or one):
        return None
    default = "" if wanted == DICOM else "*"
    return InstanceForm(entry.parameters.get("transfer-syntax", default), multipart)


def instance_syntax(form: InstanceForm, stored_uid: str, can_make: Callable[[str], bool]) -> str | None:
    """The transfer syntax in which an instance is sent, its stored one where it is sent as it is; None: not at all.

    By default what was compressed with loss stays as it is (PS3.18 8.7.3.4 allows it): decoding it would make the
    file larger and its pixels no better. So does what cannot be decoded here.
    """
    if form.syntax in ("*", stored_uid):
        return stored_uid
    if form.syntax:
        return form.syntax if can_make(form.syntax) else None
    decoder = DECODERS.get(stored_uid)
    stays = stored_uid == EXPLICIT_LE or (decoder is not None and decoder.may_be_lossy) or not can_make(EXPLICIT_LE)
    return stored_uid if stays else EXPLICIT_LE


PDF = "application/pdf"


def choose_bulkdata_form(ranges: Sequence[MediaRange], *, may_be_pdf: bool) -> tuple[str, bool]:
    """(media type, whether in a multipart body) of a value that is no pixels; ``may_be_pdf``: an Encapsulated Document
    is also offered by its own type. Raises NotAcceptable."""
    offered = (OCTETS, PDF) if may_be_pdf else (OCTETS,)
    for entry in sorted(ranges or [MediaRange("*/*", {}, 1.0)], key=lambda entry: -entry.quality):
        multipart, wanted = _part_type(entry)
        syntax = entry.parameters.get("transfer-syntax", "*")
        media = next((media for media in offered if _covers(wanted, media) and syntax in ("*", EXPLICIT_LE)), None)
        if entry.quality > 0 and media is not None:
            return media, multipart
    raise NotAcceptable(f"offered are {' and '.join(offered)}, by itself or as a part of multipart/related")
