"""A data set as JSON text: the DICOM JSON Model (PS3.18 annex F), without the bytes of its pixels.

Made while a file is indexed, so it walks the encoded elements and writes text, and makes no objects of them. A value
that cannot be read is left out, its VR stays (as of an empty element): nothing is made up, and no file fails by it.
"""

import base64
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from json.encoder import encode_basestring as quoted
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword

from gpu_render.archive import DicomJson
from gpu_render.archive.dataset import PixelElement
from gpu_render.archive.elements import PIXEL_TAGS, IrregularError, Reader, Scope
from gpu_render.archive.encapsulation import UNDEFINED_LENGTH

INLINE_BYTES = 1024
"""Longer values of OB, OD, OF, OL, OV, OW and UN become bulk data."""
TEXT_BYTES = 64 << 10
"""Longer values of LT, ST, UC and UT become bulk data."""
NUMBERS_BYTES = 1 << 20
"""Longer values of numbers become bulk data: coordinates of contours are not, as few clients would fetch them."""

SPECIFIC_CHARACTER_SET, AVAILABLE_TRANSFER_SYNTAX = 0x00080005, 0x00083002
DEFAULT_ENCODINGS = ["iso8859"]  # as pydicom takes ISO_IR 6, so that lists and metadata say the same

# PS3.3 C.7.1.1, C.7.1.4, C.2.2, C.2.3 (Patient IE), C.7.2.1, C.7.2.2, C.7.2.3 (Study IE).
_STUDY = """
StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence ConsultingPhysicianName
ConsultingPhysicianIdentificationSequence ReferringPhysicianName ReferringPhysicianIdentificationSequence
TimezoneOffsetFromUTC StudyDescription ProcedureCodeSequence PhysiciansOfRecord
PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence
AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence ReferencedStudySequence ReferencedPatientSequence
ReasonForVisit ReasonForVisitCodeSequence RequestingService RequestingServiceCodeSequence
PatientName PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence
SourcePatientGroupIdentificationSequence GroupOfPatientsIdentificationSequence PatientBirthDate PatientBirthTime
PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar PatientSex
QualityControlSubject OtherPatientIDs OtherPatientNames OtherPatientIDsSequence ReferencedPatientPhotoSequence
EthnicGroup EthnicGroupCodeSequence PatientComments PatientSpeciesDescription
PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence
StrainDescription StrainNomenclature StrainCodeSequence StrainAdditionalInformation StrainStockSequence
GeneticModificationsSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization
PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
PatientAge PatientSize PatientWeight PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension
PatientSizeCodeSequence MedicalAlerts Allergies SmokingStatus PregnancyStatus LastMenstrualDate PatientState
PatientSexNeutered Occupation AdditionalPatientHistory AdmissionID IssuerOfAdmissionIDSequence
ServiceEpisodeID IssuerOfServiceEpisodeIDSequence ServiceEpisodeDescription
ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID
ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID
ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolEthicsCommitteeApprovalNumber
ClinicalTrialTimePointID ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent
LongitudinalTemporalEventType ConsentForClinicalTrialUseSequence
StudyInstanceUID StudyID
"""
# PS3.3 C.7.3.1, C.7.3.2 (Series IE), C.7.4.1 (Frame of Reference IE) and C.7.5.1 (Equipment IE): the latter two are
# the same in a whole series.
_SERIES = """
SeriesDate SeriesTime Modality Manufacturer InstitutionName InstitutionAddress StationName
InstitutionalDepartmentName InstitutionalDepartmentTypeCodeSequence SeriesDescription SeriesDescriptionCodeSequence
PerformingPhysicianName PerformingPhysicianIdentificationSequence OperatorsName OperatorIdentificationSequence
ManufacturerModelName ReferencedPerformedProcedureStepSequence RelatedSeriesSequence AnatomicalOrientationType
BodyPartExamined DeviceSerialNumber DeviceUID UDISequence SoftwareVersions ProtocolName
PatientPosition TreatmentSessionUID ClinicalTrialCoordinatingCenterName ClinicalTrialSeriesID
ClinicalTrialSeriesDescription SeriesInstanceUID SeriesNumber Laterality FrameOfReferenceUID
PositionReferenceIndicator SmallestPixelValueInSeries LargestPixelValueInSeries
PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedProcedureStepEndDate
PerformedProcedureStepEndTime PerformedProcedureStepID PerformedProcedureStepDescription
PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep RequestAttributesSequence
"""


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag for keyword in keywords.split() if (tag := tag_for_keyword(keyword)) is not None)


STUDY_TAGS, SERIES_TAGS = _tags(_STUDY), _tags(_SERIES)
"""What is the same in all instances of a study, or of a series."""
INSTANCE_TAGS = _tags("InstanceNumber NumberOfFrames Rows Columns BitsAllocated TimezoneOffsetFromUTC")
"""What a search for instances answers of each without looking into its data set (PS3.18 10.6.3.3)."""
LEVELS = (STUDY_TAGS, SERIES_TAGS, INSTANCE_TAGS)


class TooLongError(Exception):
    """The text is longer than its limit."""


# --- values -------------------------------------------------------------------------------------------------

# Of the numbers that JSON writes in the same way those that are no larger than a double holds exactly.
_NUMBER = rb"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?"
_PLAIN_NUMBERS = re.compile(rb"%b(?:\\%b)*" % (_NUMBER, _NUMBER)).fullmatch
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_BACKSLASH = b"\\"
_DELIMITERS = set(b"\r\n\t\f\\^=")  # each ends what an escape sequence began (PS3.5 6.1.2.5.3)

Convert = Callable[["Writer", bytes], str | None]
"""The value of an element -> its member of the JSON object, with a comma before it; None where it has no value."""


def decoded_text(value: bytes, encodings: Sequence[str]) -> str:
    """Text in the character sets of its item. Bytes that these do not have become U+FFFD."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    # What no Unicode text can hold is replaced.
    return decode_bytes(value, encodings, _DELIMITERS).encode("utf-8", "replace").decode()


def _listed(values: Sequence[str | None]) -> str | None:
    """JSON texts of single values; F.2.5: an empty one among several is null."""
    if len(values) == 1 and values[0] is None:
        return None
    return f',"Value":[{",".join([value or "null" for value in values])}]'


def _strings(writer: "Writer", value: bytes) -> str | None:
    """Several values, padded with spaces or zeros at their ends (PS3.5 6.2)."""
    text = decoded_text(value, writer.encodings)
    if "\\" not in text:
        text = text.rstrip(" \0")
        return f',"Value":[{quoted(text)}]' if text else None
    return _listed([quoted(part) if part else None for part in (part.rstrip(" \0") for part in text.split("\\"))])


def _trimmed_strings(_writer: "Writer", value: bytes) -> str | None:
    """The same of AE and CS, whose leading spaces mean nothing either, and which are of the default repertoire."""
    text = value.decode("ascii", "replace")
    return _listed([quoted(part) if part else None for part in (part.strip(" \0") for part in text.split("\\"))])


def _paragraph(writer: "Writer", value: bytes) -> str | None:
    """One value, in which a backslash is a backslash."""
    text = decoded_text(value, writer.encodings).rstrip(" \0")
    return f',"Value":[{quoted(text)}]' if text else None


def _long_paragraph(writer: "Writer", value: bytes) -> str | None:
    return writer.bulk() if len(value) > TEXT_BYTES else _paragraph(writer, value)


def _long_strings(writer: "Writer", value: bytes) -> str | None:
    return writer.bulk() if len(value) > TEXT_BYTES else _strings(writer, value)


def _person_names(writer: "Writer", value: bytes) -> str | None:
    """F.2.2: the component groups by their names."""
    names = decoded_text(value.rstrip(b" \0"), writer.encodings).split("\\")
    return _listed([_person_name(name) for name in names])


def _person_name(name: str) -> str | None:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
    present = [f'"{label}":{quoted(text)}' for label, group in groups if (text := group.strip(" \0"))]
    return f"{{{','.join(present)}}}" if present else None


def _decimals(writer: "Writer", value: bytes) -> str | None:
    """DS and IS: as they are written, where JSON writes numbers in the same way."""
    if len(value) > NUMBERS_BYTES:
        return writer.bulk()
    value = value.rstrip(b" \0")
    if _PLAIN_NUMBERS(value):
        return f',"Value":[{value.replace(_BACKSLASH, b",").decode()}]'
    parts = value.decode("ascii", "replace").split("\\")
    return _listed([_decimal(part.strip(" \0")) for part in parts])


def _decimal(text: str) -> str | None:
    """One of them; what is no number, or none that every reader of JSON knows exactly, is a string."""
    if not text:
        return None
    if not _DECIMAL(text) or not math.isfinite(float(text)):
        return quoted(text)
    if text.lstrip("+-").isdigit():
        whole = int(text)
        return str(whole) if abs(whole) < 1 << 53 else quoted(text)
    return text if _JSON_NUMBER(text) else repr(float(text))


def _numbers(code: str, size: int) -> Convert:
    def convert(writer: "Writer", value: bytes) -> str | None:
        if len(value) > NUMBERS_BYTES:
            return writer.bulk()
        count, rest = divmod(len(value), size)
        if rest:
            return None
        numbers = struct.unpack(f"{writer.order}{count}{code}", value)
        return f',"Value":[{",".join(map(str, numbers))}]'

    return convert


def _long_numbers(code: str) -> Convert:
    """64-bit integers: those a double does not hold are strings."""

    def convert(writer: "Writer", value: bytes) -> str | None:
        if len(value) > NUMBERS_BYTES:
            return writer.bulk()
        if len(value) % 8:
            return None
        numbers = struct.unpack(f"{writer.order}{len(value) // 8}{code}", value)
        return _listed([str(number) if abs(number) < 1 << 53 else f'"{number}"' for number in numbers])

    return convert


def _floats(code: str, size: int) -> Convert:
    def convert(writer: "Writer", value: bytes) -> str | None:
        if len(value) > NUMBERS_BYTES:
            return writer.bulk()
        if len(value) % size:
            return None
        return _listed([_float(x) for x in struct.unpack(f"{writer.order}{len(value) // size}{code}", value)])

    return convert


def _float(number: float) -> str:
    """JSON has no NaN and no infinity, and PS3.18 says nothing of them: strings, which several readers know."""
    if math.isfinite(number):
        return repr(number)
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'


def _tag_values(writer: "Writer", value: bytes) -> str | None:
    if len(value) % 4:
        return None
    words = struct.unpack(f"{writer.order}{len(value) // 2}H", value)
    return _listed([f'"{group:04X}{element:04X}"' for group, element in zip(words[::2], words[1::2], strict=True)])


def _binary(word: int) -> Convert:
    def convert(writer: "Writer", value: bytes) -> str | None:
        if len(value) > INLINE_BYTES:
            return writer.bulk()
        return f',"InlineBinary":"{base64.b64encode(little_endian(value, word, writer.order)).decode()}"'

    return convert


def little_endian(value: bytes, word: int, order: str) -> bytes:
    """A value of words of so many bytes in the order of Little Endian; bytes behind the last whole word stay."""
    if order == "<" or word == 1:
        return value
    whole = len(value) // word * word
    return np.frombuffer(value, f"<u{word}", whole // word).byteswap().tobytes() + value[whole:]


WORD_BYTES = {
    **dict.fromkeys((b"OW", b"US", b"SS", b"AT"), 2),
    **dict.fromkeys((b"OF", b"OL", b"FL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"OD", b"OV", b"FD", b"SV", b"UV"), 8),
}
"""Of the VRs whose bytes are in another order in big endian (PS3.5 7.3)."""

TEXT_VRS = (b"LT", b"ST", b"UC", b"UT")
"""Of bulk data that are text in a character set."""

_CONVERT: dict[bytes, Convert] = {
    **dict.fromkeys((b"AE", b"CS"), _trimmed_strings),
    **dict.fromkeys((b"AS", b"DA", b"DT", b"LO", b"SH", b"TM", b"UI"), _strings),
    **dict.fromkeys((b"LT", b"ST", b"UT"), _long_paragraph),
    **dict.fromkeys((b"DS", b"IS"), _decimals),
    **{vr: _binary(WORD_BYTES.get(vr, 1)) for vr in (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN")},
    b"PN": _person_names,
    b"UR": _paragraph,
    b"UC": _long_strings,
    b"AT": _tag_values,
    b"SS": _numbers("h", 2),
    b"US": _numbers("H", 2),
    b"SL": _numbers("i", 4),
    b"UL": _numbers("I", 4),
    b"SV": _long_numbers("q"),
    b"UV": _long_numbers("Q"),
    b"FL": _floats("f", 4),
    b"FD": _floats("d", 8),
}


# --- the data set -------------------------------------------------------------------------------------------


_REMEMBERED_BYTES = 512
_MOST_REMEMBERED = 20_000
# The elements seen last, with their texts: most of a file are those of the one before it, of the same series.
_remembered: dict[tuple[Any, ...], str] = {}

Member = tuple[int, str]
"""Tag of an element, and its JSON text: name and object."""


def belongs(tag: int) -> bool:
    """Group lengths are not in the model (F.2.2), nor is what belongs to files and messages."""
    return tag & 0xFFFF != 0 and tag >> 16 not in (0x0000, 0x0002)


class Writer:
    """Elements of one item as JSON. ``path``: of the item, for bulk data; ``left``: what the text may still have."""

    def __init__(self, reader: Reader, encodings: list[str], path: str, left: list[int]) -> None:
        self.reader = reader
        self.encodings = encodings
        self.order = "<" if reader.little_endian else ">"
        self._path = path
        self._left = left
        self._tag = 0
        self._context = self._find_context()

    def bulk(self) -> str:
        """F.2.6: the value of the element at hand is to be fetched."""
        return f',"BulkDataURI":"bulkdata/{self._path}{self._tag:08X}"'

    def use(self, encodings: list[str]) -> None:
        """Take texts to be in these character sets from now on."""
        self.encodings = encodings
        self._context = self._find_context()

    def members(self, end: int | None, scope: Scope) -> list[Member]:
        """Up to ``end`` or the item's delimiter. Raises IrregularError and TooLongError."""
        return [
            (tag, self.member(tag, vr, start, length, scope))
            for tag, vr, start, length in self.reader.elements(end, scope)
            if belongs(tag)
        ]

    def member(self, tag: int, vr: bytes, start: int, length: int, scope: Scope) -> str:
        """Of the element whose value begins where the reader is: name and object. The reader goes on behind it, or
        stays. Raises IrregularError and TooLongError."""
        if length > _REMEMBERED_BYTES or tag == SPECIFIC_CHARACTER_SET or tag in PIXEL_TAGS:
            return self._made(tag, vr, start, length, scope)
        key = (tag, vr, bytes(self.reader.data[start : start + length]), scope.signed, self._context)
        text = _remembered.get(key)
        if text is None:
            text = self._made(tag, vr, start, length, scope)
            if "BulkDataURI" not in text:  # which says where the element is
                if len(_remembered) >= _MOST_REMEMBERED:
                    _remembered.clear()
                _remembered[key] = text
            return text
        self.reader.at = start + length
        self._take(text)
        return text

    def _made(self, tag: int, vr: bytes, start: int, length: int, scope: Scope) -> str:
        self._tag = tag
        if vr == b"SQ":
            text = self._sequence(length, scope)
        elif length == UNDEFINED_LENGTH or (tag in PIXEL_TAGS and not scope.depth):
            text = self.bulk()
        elif length:
            value = bytes(self.reader.data[start : start + length])
            if tag == SPECIFIC_CHARACTER_SET:
                self.use(encodings_of(value))
                value = b"ISO_IR 192"
            text = _CONVERT[vr](self, value) or ""
        else:
            text = ""
        if vr != b"SQ":
            self._take(text)
        return f'"{tag:08X}":{{"vr":"{vr.decode()}"{text}}}'

    def _take(self, text: str) -> None:
        self._left[0] -= len(text)
        if self._left[0] < 0:
            raise TooLongError

    def _find_context(self) -> tuple[Any, ...]:
        """What the text of an element depends on beside the element itself."""
        return self.reader.implicit, self.order, *self.encodings

    def root_members(self, *, lenient: bool = False) -> tuple[list[Member], bool]:
        """Of the data set itself, and whether that is all: what is too long is left out.

        ``lenient``: what is irregular ends it. Raises IrregularError where it does not.
        """
        reader, scope, members, whole = self.reader, Scope(), list[Member](), True
        try:
            for tag, vr, start, length in reader.elements(len(reader.data), scope):
                if not belongs(tag):
                    continue
                left = self._left[0]
                try:
                    members.append((tag, self.member(tag, vr, start, length, scope)))
                except TooLongError:
                    self._left[0], reader.at, whole = left, start, False
        except IrregularError:
            if not lenient:
                raise
        return members, whole

    def _sequence(self, length: int, scope: Scope) -> str:
        reader, was_un, items = self.reader, self.reader.was_un, list[str]()
        prefix = f"{self._path}{self._tag:08X}/"
        for end in reader.items(length):
            inner = reader.inside(was_un)
            writer = Writer(inner, self.encodings, f"{prefix}{len(items) + 1}/", self._left)
            items.append(_object(writer.members(end, Scope(scope))))
            reader.at = inner.at
        return f',"Value":[{",".join(items)}]' if items else ""


def encodings_of(value: bytes) -> list[str]:
    """Python's names for what Specific Character Set says; what is unknown is taken as the default."""
    names = [name.strip() for name in value.decode("ascii", "replace").strip(" \0").split("\\")]
    try:
        return convert_encodings(names)
    except LookupError:
        return DEFAULT_ENCODINGS


@dataclass(frozen=True, slots=True)
class Metadata:
    """``text``: of the whole data set, ``packed`` by zlib as well; empty where it would be longer than was asked for.
    ``study`` and ``series``: attributes of the patient and study, and of the series; ``instance``: those that a search
    answers."""

    text: str
    packed: bytes
    study: DicomJson
    series: DicomJson
    instance: DicomJson


NO_METADATA = Metadata("", b"", {}, {}, {})


def make_metadata(
    head: Reader, pixels: PixelElement | None, tail: Reader | None, available: Sequence[str], *, whole: bool, limit: int
) -> Metadata:
    """From the elements before the pixels and those behind them, which may be anything.

    ``available``: transfer syntaxes for Available Transfer Syntax UID. ``whole``: whether ``head`` has all elements.
    ``limit``: longest text, in characters. Raises IrregularError.
    """
    left = [limit]
    writer = Writer(head, DEFAULT_ENCODINGS, "", left)
    members, all_written = writer.root_members()
    if pixels is not None:
        members.append(_bulk_member(tag_for_keyword(pixels.keyword) or 0, pixels.value_representation))
    if tail is not None:
        behind, rest_written = Writer(tail, writer.encodings, "", left).root_members(lenient=True)
        members += behind
        all_written = all_written and rest_written
    present = dict(members)
    present[AVAILABLE_TRANSFER_SYNTAX] = _uids(AVAILABLE_TRANSFER_SYNTAX, available)
    if not all(text.isascii() for text in present.values()):
        present[SPECIFIC_CHARACTER_SET] = f'"{SPECIFIC_CHARACTER_SET:08X}":{{"vr":"CS","Value":["ISO_IR 192"]}}'
    text = _object(list(present.items())) if whole and all_written else ""
    of_each = ([member for member in members if member[0] in tags] for tags in LEVELS)
    packed = zlib.compress(text.encode(), 1) if text else b""
    return Metadata(text, packed, *(json.loads(_object(of_level)) for of_level in of_each))


# --- members that are there already -------------------------------------------------------------------------

Piece = tuple[str, bytes]
"""Members, joined by commas, and ``packed_piece`` of them."""
_LITERAL_BYTES = 512  # fewer are not worth a compressor
_BEGIN, _END = b"\x78\x01", b"\x01\0\0\xff\xff"  # of a zlib stream (RFC 1950), whose last block is empty


def packed_piece(text: str) -> bytes:
    """Members with the comma behind them as blocks that do not look back (RFC 1951): they may stand in any stream.
    Empty where these would not be shorter."""
    return packed if len(packed := _deflated(f"{text},".encode(), 6)) < len(text) else b""


def _deflated(data: bytes, level: int) -> bytes:
    pack = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH)


def _literal(data: bytes) -> bytes:
    if len(data) > _LITERAL_BYTES:
        return _deflated(data, 1)
    return struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data


def _packed(pieces: Sequence[Piece], text: str) -> bytes:
    """The stream of ``text``, an object of these pieces, of which the last is not packed."""
    blocks, literals = [_BEGIN], ["{"]
    for piece, packed in pieces:
        if not packed:
            literals += (piece, ",")
            continue
        if literals:
            blocks.append(_literal("".join(literals).encode()))
            literals = []
        blocks.append(packed)
    literals[-1] = "}"
    blocks += (_literal("".join(literals).encode()), _END, zlib.adler32(text.encode()).to_bytes(4))
    return b"".join(blocks)


def join_metadata(
    pieces: Sequence[Piece],
    available_at: int,
    levels: Sequence[Sequence[str]],
    pixels: PixelElement,
    behind: Sequence[Member],
    available: Sequence[str],
    *,
    unicode: bool,
) -> Metadata | None:
    """As ``make_metadata``, of members in order of their tags: all of those before the pixels, those ``behind`` the
    pixels and, as in ``LEVELS``, those of each level.

    ``available_at``: before which piece Available Transfer Syntax UID belongs. ``unicode``: whether a member says that
    the text is in UTF-8. None where the order is another one, and where the text is in UTF-8 and nothing says so.
    """
    last = [_bulk_member(tag_for_keyword(pixels.keyword) or 0, pixels.value_representation), *behind]
    if any(tag >= following for (tag, _), (following, _) in pairwise(last)):
        return None
    offered = (_uids(AVAILABLE_TRANSFER_SYNTAX, available), b"")
    all_pieces = [*pieces[:available_at], offered, *pieces[available_at:], *((text, b"") for _, text in last)]
    text = f"{{{','.join([piece for piece, _ in all_pieces])}}}"
    if not unicode and not text.isascii():
        return None
    study, series, instance = (f"{{{','.join(of_level)}}}" for of_level in levels)
    return Metadata(text, _packed(all_pieces, text), _loaded(study), _loaded(series), json.loads(instance))


@lru_cache(maxsize=64)
def _loaded(text: str) -> DicomJson:
    """Nobody changes it."""
    loaded: DicomJson = json.loads(text)
    return loaded


def _object(members: list[Member]) -> str:
    """Members in order of their tags (F.2.2), which no two of them share."""
    members.sort()
    return f"{{{','.join([text for _, text in members])}}}"


def _bulk_member(tag: int, vr: str) -> Member:
    return tag, f'"{tag:08X}":{{"vr":"{vr}","BulkDataURI":"bulkdata/{tag:08X}"}}'


def _uids(tag: int, uids: Sequence[str]) -> str:
    return f'"{tag:08X}":{{"vr":"UI","Value":[{",".join(map(quoted, uids))}]}}'
