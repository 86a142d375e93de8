"""Files that cannot be shown, each with the answer that RENDERING.md's table of errors demands for it.

Every file says who the patient is wherever it can, and so does its path: CANARY must turn up in no answer and no log.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import imagecodecs
import numpy as np
import numpy.typing as npt

from tests.api.served import Answer
from tests.data import (
    DEFLATED,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    JPEG_BASELINE,
    RLE,
    UNDEFINED,
    Raw,
    dataset,
    element,
    encapsulate,
    file_bytes,
    file_meta,
    image,
    item,
)

CANARY = "Kanarie"
"""Part of every patient attribute and path; looked for in any case of its letters."""
BIRTH_DATE = "18470911"
"""Patient's Birth Date of every file: DA cannot hold the canary."""

SIDE = 32
FRAME = bytes(2 * SIDE * SIDE)
PART_5 = "1.2.840.10008.1.2"
J2K, J2K_PART_2, JPEG_XL = f"{PART_5}.4.90", f"{PART_5}.4.92", f"{PART_5}.4.110"
UNCOMPRESSED_FRAMES, DEFLATED_FRAMES = f"{PART_5}.1.98", f"{PART_5}.8.1"

Array = npt.NDArray[Any]
Options = dict[str, Any]


def patient() -> dict[str, Any]:
    """Everything that could say who the patient is, the canary in each."""
    names = (
        *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientAddress"),
        *("PatientMotherBirthName", "PatientTelephoneNumbers", "PatientComments", "AdditionalPatientHistory"),
        *("Occupation", "MilitaryRank", "EthnicGroup", "ReferringPhysicianName", "PerformingPhysicianName"),
        *("OperatorsName", "RequestingPhysician", "PhysiciansOfRecord", "InstitutionName", "InstitutionAddress"),
        *("InstitutionalDepartmentName", "StationName", "AccessionNumber", "StudyID", "StudyDescription"),
        *("SeriesDescription", "ProtocolName", "ImageComments", "DerivationDescription", "AdmissionID"),
        *("RequestedProcedureDescription", "DeviceSerialNumber", "WindowCenterWidthExplanation"),
    )
    return {
        **{name: f"{CANARY}^{name[:8]}" for name in names},
        "PatientBirthDate": BIRTH_DATE,
        "PatientInsurancePlanCodeSequence": [{"CodeValue": CANARY, "CodeMeaning": f"{CANARY} plan"}],
        "RequestAttributesSequence": [{"RequestedProcedureID": CANARY, "ScheduledProcedureStepID": CANARY}],
    }


def grey(rows: int = SIDE, columns: int = SIDE, /, **changes: Any) -> dict[str, Any]:
    """Attributes of a 16-bit MONOCHROME2 image of a well-known patient; ``...`` removes one."""
    return image(rows, columns, **{**patient(), **changes})


def colour(photometric: str = "RGB", /, **changes: Any) -> dict[str, Any]:
    """Attributes of an 8-bit image of three samples, interleaved."""
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0, "SamplesPerPixel": 3}
    return grey(**{**eight, "PhotometricInterpretation": photometric, **changes})


def of_bits(bits: int, stored: int | None = None, **changes: Any) -> dict[str, Any]:
    """Attributes of a grey image that allocates ``bits`` a sample."""
    stored = stored or bits
    return grey(**{"BitsAllocated": bits, "BitsStored": stored, "HighBit": stored - 1, **changes})


def canary(vr: str) -> Raw:
    """The canary as the value of an element of this VR, whether it can hold it or not."""
    return Raw(vr, f"{CANARY}^X".encode())


@dataclass(frozen=True, slots=True)
class Case:
    """A file, how a frame of it is asked for, and the problem that must be the answer.

    ``says`` is a regular expression that ``detail`` must match. ``query`` is for the raw-array route; ``old_query``
    the same on the old viewer's route, None where that cannot be asked there.
    """

    name: str
    status: int
    kind: str
    says: str
    data: bytes
    sop_instance_uid: str
    frame: str = "1"
    query: str = ""
    old_query: str | None = ""

    @property
    def url(self) -> str:
        """The frame on the raw-array route."""
        return frame_url(self.sop_instance_uid, self.frame, self.query)


SERIES = "/api/studies/1.2.4.1/series/1.2.4.1.1"
OLD = "/dicom-viewer/api/image/{id}/data/"


def frame_url(sop_instance_uid: str, frame: str = "1", query: str = "") -> str:
    """A frame on the raw-array route; all files are of one study and one series."""
    return f"{SERIES}/instances/{sop_instance_uid}/frames/{frame}?{query}"


Kind = tuple[int, str]
NOT_FOUND: Kind = (404, "not-found")
NO_ROUTE: Kind = (404, "http-404")
NO_METHOD: Kind = (405, "http-405")
BAD_REQUEST: Kind = (400, "bad-request")
BAD_UID: Kind = (400, "invalid-uid")
BAD_FRAME: Kind = (400, "invalid-frame-number")
BAD_WINDOW: Kind = (400, "invalid-window")
BAD_REGION: Kind = (400, "invalid-region")
NOT_ACCEPTABLE: Kind = (406, "not-acceptable")
NOT_RENDERABLE: Kind = (406, "not-renderable")
TOO_LARGE: Kind = (413, "too-large")
CORRUPT: Kind = (422, "corrupt-pixel-data")
STOPPED: Kind = (422, "decoder-timeout")
NO_DECODER: Kind = (501, "unsupported-transfer-syntax")
FULL: Kind = (503, "overloaded")
NO_TIME: Kind = (503, "no-processor-time")


def assert_nothing_of_the_patient(text: str, *paths: Path) -> None:
    """Neither the canary nor the birth date nor any of ``paths`` in ``text``."""
    for word in (CANARY, BIRTH_DATE, *map(str, paths)):
        assert word.lower() not in text.lower()


def check_problem(answer: Answer, kind: Kind, path: str, says: str = "") -> dict[str, Any]:
    """Assert all that every problem document has in common; returns it."""
    problem = answer.problem
    assert (answer.status, problem["type"]) == (kind[0], f"urn:gpu-render:problem:{kind[1]}"), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    assert problem["status"] == kind[0]
    assert problem["title"]
    assert re.search(says, problem["detail"]), problem["detail"]
    assert problem.pop("instance") == unquote(path.partition("?")[0])  # the request's own words
    assert_nothing_of_the_patient(json.dumps(problem) + str(dict(answer.headers)))
    return problem


def case(
    kind: Kind,
    name: str,
    says: str,
    attributes: Mapping[str, Any],
    pixels: bytes | None = FRAME,
    syntax: str = EXPLICIT_LE,
    *,
    fragments: Sequence[bytes] | None = None,
    frame: str = "1",
    query: str = "",
    cut: int = 0,
    **options: Any,
) -> Case:
    """A file of ``attributes`` and ``pixels`` (or encapsulated ``fragments``), its last ``cut`` bytes missing."""
    if fragments is not None:
        pixels, options["encapsulated"] = encapsulate(fragments), True
    data = file_bytes(attributes, pixels, syntax, **options)
    old = query if not query or query.startswith("window=") else None
    return Case(name, *kind, says, data[: len(data) - cut], attributes["SOPInstanceUID"], frame, query, old)


def samples(bits: int = 16, components: int = 1, rows: int = SIDE) -> Array:
    """Noise of (rows, SIDE) or (rows, SIDE, components), the same each time."""
    shape = (rows, SIDE) if components == 1 else (rows, SIDE, components)
    return np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8 if bits <= 8 else np.uint16)


# --- encapsulated pixels ------------------------------------------------------------------------------------


def rle(values: Array) -> bytes:
    """RLE Lossless (PS3.5 annex G), every segment of even length."""
    big = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">")))
    planes = big.reshape(values.shape[0] * values.shape[1], -1).view(np.uint8).T
    segments = [bytes(imagecodecs.packbits_encode(plane.tobytes())) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def deflate(data: bytes) -> bytes:
    """One raw deflate stream."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax whose frames a codec decodes; ``encode`` takes samples of ``bits`` bits."""

    name: str
    uid: str
    bits: int
    encode: Callable[[Array], bytes]

    @property
    def header(self) -> dict[str, Any]:
        """Attributes that go with its samples."""
        return of_bits(8 if self.bits == 8 else 16, self.bits)


def _j2k(values: Array) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k"))


def _jls(values: Array) -> bytes:
    return bytes(imagecodecs.jpegls_encode(values, out=1 << 20))


def _lossless(values: Array) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=8 * values.dtype.itemsize))


def _jpeg_xl(values: Array) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(values, lossless=True))


def _recompressed(values: Array) -> bytes:
    return bytes(imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(values), usecontainer=True))


SYNTAXES = (
    Syntax("rle", RLE, 16, rle),
    Syntax("jpeg", JPEG_BASELINE, 8, lambda values: bytes(imagecodecs.jpeg8_encode(values))),
    Syntax("jpeg-12", f"{PART_5}.4.51", 12, lambda values: bytes(imagecodecs.jpeg8_encode(values, bitspersample=12))),
    Syntax("jpeg-lossless", f"{PART_5}.4.57", 16, _lossless),
    Syntax("jpeg-lossless-sv1", f"{PART_5}.4.70", 16, _lossless),
    Syntax("jpeg-ls", f"{PART_5}.4.80", 16, _jls),
    Syntax("jpeg-ls-near", f"{PART_5}.4.81", 16, _jls),
    Syntax("j2k", J2K, 16, _j2k),
    Syntax("j2k-lossy", f"{PART_5}.4.91", 16, _j2k),
    Syntax("j2k-part-2-lossless", J2K_PART_2, 16, _j2k),
    Syntax("j2k-part-2", f"{PART_5}.4.93", 16, _j2k),
    Syntax("htj2k", f"{PART_5}.4.201", 16, lambda values: bytes(imagecodecs.htj2k_encode(values))),
    Syntax("htj2k-rpcl", f"{PART_5}.4.202", 16, lambda values: bytes(imagecodecs.htj2k_encode(values))),
    Syntax("htj2k-lossy", f"{PART_5}.4.203", 16, lambda values: bytes(imagecodecs.htj2k_encode(values))),
    Syntax("jxl", JPEG_XL, 16, _jpeg_xl),
    Syntax("jxl-jpeg", f"{PART_5}.4.111", 8, _recompressed),
    Syntax("jxl-lossy", f"{PART_5}.4.112", 16, _jpeg_xl),
)


def broken_codestreams(syntax: Syntax) -> Iterator[Case]:
    """Truncated, corrupt, and at odds with the header in every way that a header has."""
    good, half = syntax.encode(samples(syntax.bits)), syntax.encode(samples(syntax.bits, rows=SIDE // 2))
    three = syntax.encode(samples(syntax.bits, 3))
    other = _j2k if syntax.uid == RLE else rle
    streams = {
        "half": good[: len(good) // 2],
        "first-bytes": good[:20],
        "noise": np.random.default_rng(3).bytes(len(good)),
        "zeros": bytes(len(good)),
        "canary": f"{CANARY}^Fragment".encode() * 8,
        "of-another-syntax": other(samples(syntax.bits)),
        "fewer-rows": half,
        "more-components": three,
    }
    for name, stream in streams.items():
        yield case(CORRUPT, f"{syntax.name}-{name}", "", syntax.header, None, syntax.uid, fragments=[stream])
    wide = {"BitsAllocated": syntax.header["BitsAllocated"], "BitsStored": syntax.bits, "HighBit": syntax.bits - 1}
    fewer = colour(**wide)
    yield case(CORRUPT, f"{syntax.name}-fewer-components", "", fewer, None, syntax.uid, fragments=[good])
    if syntax.bits > 8:
        yield case(CORRUPT, f"{syntax.name}-more-bits", "", of_bits(8), None, syntax.uid, fragments=[good])
    if syntax.name != "rle" and not syntax.name.startswith("jxl"):
        short, long = struct.pack(">HH", SIDE, SIDE), struct.pack(">II", SIDE, SIDE)
        bomb = good.replace(long, struct.pack(">II", 65535, 65535)).replace(short, b"\xff" * 4, 1)
        yield case(CORRUPT, f"{syntax.name}-bomb", "65535 x 65535", syntax.header, None, syntax.uid, fragments=[bomb])
    empty: Options = {"fragments": [b""]}
    yield case(CORRUPT, f"{syntax.name}-empty-fragment", "truncated", syntax.header, None, syntax.uid, **empty)
    if not syntax.name.startswith("j2k-part-2"):  # fewer fragments than frames may be an extension of Part 2
        yield case(CORRUPT, f"{syntax.name}-no-fragment", "no fragments", syntax.header, None, syntax.uid, fragments=[])
    whole: Options = {"fragments": [good], "cut": len(good) // 2}
    yield case(CORRUPT, f"{syntax.name}-file-cut", "truncated", syntax.header, None, syntax.uid, **whole)


def broken_encapsulation() -> Iterator[Case]:
    """Items, offset tables and frames that do not fit each other."""
    frame = rle(samples())
    step = len(frame) + 8

    def rle_case(name: str, says: str, pixels: bytes, **options: Any) -> Case:
        changes = {"NumberOfFrames": 3, **options.pop("changes", {})}
        return case(CORRUPT, name, says, grey(**changes), pixels, RLE, encapsulated=True, **options)

    frames = [frame] * 3
    rising = np.array([0, step, 2 * step], "<u8")
    yield rle_case("offsets-fall", "does not rise", encapsulate(frames, [0, 2 * step, step]))
    yield rle_case("offsets-repeat", "does not rise", encapsulate(frames, [0, step, step]))
    yield rle_case("offsets-equal", "does not rise", encapsulate(frames, [0, 0, 0]))
    yield rle_case(
        "extended-offsets-fall",
        "does not rise",
        encapsulate(frames),
        changes={"ExtendedOffsetTable": Raw("OV", rising[::-1].tobytes())},
    )
    yield rle_case("fragments-for-no-frames", "divided among 3 frames", encapsulate([frame] * 4))
    yield rle_case("third-frame-missing", "truncated", encapsulate(frames[:2], delimiter=False), frame="3")
    yield rle_case("a-frame-left-out", "divided among 3 frames", encapsulate(frames[:2]), frame="2")
    yield rle_case("third-frame-cut", "truncated", encapsulate(frames), frame="3", cut=len(frame) // 2)
    yield rle_case("no-offset-table", "not an item|no Basic Offset Table", f"{CANARY}^Item".encode() * 4)
    yield rle_case("text-between-fragments", "not an item", item(b"") + item(frame) + b"Kanarie^Text" * 9)
    yield rle_case("fragment-without-end", "not an item", item(b"") + item(frame, UNDEFINED))
    yield rle_case("fragment-beyond-the-file", "truncated", item(b"") + item(frame, 1 << 30))
    few = encapsulate([frame], delimiter=False)
    yield rle_case("a-hundred-frames-for-one", "declared frames", few, changes={"NumberOfFrames": 101})
    native: Options = {"pixels": FRAME, "syntax": J2K}
    yield case(CORRUPT, "native-in-j2k", "native but Transfer Syntax", grey(), **native)
    yield case(CORRUPT, "encapsulated-in-native", "encapsulated but", grey(), fragments=[frame])
    for name, stream in (("short", FRAME[2:]), ("long", FRAME * 2)):
        says = "expected 2048"
        yield case(CORRUPT, f"raw-frame-{name}", says, grey(), None, UNCOMPRESSED_FRAMES, fragments=[stream])
    for name, stream in {
        "short": deflate(FRAME[2:]),
        "long": deflate(FRAME * 2),
        "bomb": deflate(bytes(50_000_000)),
        "cut": deflate(samples().tobytes())[:1000],
        "noise": b"\xff" * 100,
        "canary": f"{CANARY}^Deflate".encode() * 8,
    }.items():
        yield case(CORRUPT, f"deflated-frame-{name}", "", grey(), None, DEFLATED_FRAMES, fragments=[stream])


# --- native pixels ------------------------------------------------------------------------------------------


def broken_native() -> Iterator[Case]:
    """Pixels that are cut, short, long, or followed by what cannot follow them."""
    for name, syntax in (("explicit", EXPLICIT_LE), ("implicit", IMPLICIT_LE), ("big-endian", EXPLICIT_BE)):
        yield case(CORRUPT, f"{name}-file-cut", "declared frames|truncated", grey(), FRAME, syntax, cut=1000)
        yield case(CORRUPT, f"{name}-value-short", "declared frames|truncated", grey(), FRAME[:-2], syntax)
        yield case(CORRUPT, f"{name}-value-long", "longer than 1 frames", grey(), FRAME * 2, syntax)
    noise = np.random.default_rng(2).bytes(len(FRAME))
    yield case(CORRUPT, "deflated-cut", "", grey(), noise, DEFLATED, cut=1000)
    yield case(CORRUPT, "deflated-short", "", grey(), FRAME[:-2], DEFLATED)
    for number, cut in (("2", 3000), ("3", 0)):
        short, says = FRAME * 2 + FRAME[2:], f"frame {number} .* truncated"
        yield case(CORRUPT, f"frame-{number}-short", says, grey(NumberOfFrames=3), short, frame=number, cut=cut)
    yield case(CORRUPT, "frames-uncounted", "longer than 2 frames", grey(NumberOfFrames=2), FRAME * 3)
    followed = FRAME + f"{CANARY}^Behind".encode() * 2
    yield case(CORRUPT, "text-behind-pixels", "longer than 1 frame", grey(), followed)
    yield case(CORRUPT, "no-pixels-at-all", "", grey(), b"")
    yield case(CORRUPT, "one-bit-short", "", of_bits(1), bytes(SIDE * SIDE // 8 - 2))
    yield case(CORRUPT, "rgb-short", "", colour(), bytes(3 * SIDE * SIDE - 2))
    yield case(CORRUPT, "ybr-422-of-full-length", "subsampled", colour("YBR_FULL_422"), bytes(3 * SIDE * SIDE))
    yield case(CORRUPT, "ybr-422-of-odd-width", "even number", colour("YBR_FULL_422", Columns=31), bytes(2 * 31 * SIDE))
    single: Options = {"keyword": "FloatPixelData", "vr": "OF"}
    yield case(CORRUPT, "float-short", "", of_bits(32), bytes(4 * SIDE * SIDE - 4), **single)


# --- headers ------------------------------------------------------------------------------------------------


def broken_headers() -> Iterator[Case]:
    """Attributes that are missing, malformed (the canary in place of a number) or contradict each other."""

    def corrupt(name: str, says: str, attributes: Mapping[str, Any], **options: Any) -> Case:
        return case(CORRUPT, name, says, attributes, **options)

    needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
    for keyword in needed:
        yield corrupt(f"no-{keyword}", f"{keyword} is missing", grey(**{keyword: ...}))
        yield corrupt(f"empty-{keyword}", f"{keyword} is missing", grey(**{keyword: None}))
        yield corrupt(f"canary-in-{keyword}", f"{keyword} is malformed", grey(**{keyword: canary("LO")}))
        yield corrupt(f"canary-as-US-in-{keyword}", "", grey(**{keyword: canary("US")}))
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        rescale = {"RescaleSlope": 1, keyword: canary("DS")}
        yield corrupt(f"canary-in-{keyword}", f"{keyword} is malformed", grey(**rescale))
    yield corrupt("canary-in-NumberOfFrames", "NumberOfFrames is malformed", grey(NumberOfFrames=canary("IS")))
    yield corrupt("canary-in-PlanarConfiguration", "Planar", colour(PlanarConfiguration=canary("LO")))
    yield corrupt("negative-frames", "NumberOfFrames", grey(NumberOfFrames=-2))
    yield corrupt("half-a-frame", "NumberOfFrames", grey(NumberOfFrames=Raw("DS", b"1.5 ")))
    yield corrupt("no-rows", "Rows and Columns", grey(Rows=0))
    yield corrupt("no-columns", "Rows and Columns", grey(Columns=0))
    yield corrupt("no-photometric", "PhotometricInterpretation is missing", grey(PhotometricInterpretation=...))
    yield corrupt("no-planar-configuration", "PlanarConfiguration", colour(PlanarConfiguration=...))
    yield corrupt("planar-configuration-2", "PlanarConfiguration", colour(PlanarConfiguration=2))
    yield corrupt("stored-above-allocated", "contradict", grey(BitsStored=17, HighBit=16))
    yield corrupt("high-bit-below-stored", "contradict", grey(HighBit=10))
    yield corrupt("pixel-representation-2", "PixelRepresentation", grey(PixelRepresentation=2))
    yield corrupt("rgb-of-one-sample", "contradicts", grey(PhotometricInterpretation="RGB"))
    yield corrupt("grey-of-three-samples", "contradicts", colour("MONOCHROME2"))
    tables = {"LUTExplanation": CANARY, "LUTData": canary("OW")}
    for name, descriptor in (("none", None), ("canary", canary("US")), ("two", Raw("US", b"\x10\0\0\0"))):
        lut = {**tables, "LUTDescriptor": descriptor}
        yield corrupt(f"modality-lut-descriptor-{name}", "LUTDescriptor|LUT", grey(ModalityLUTSequence=[lut]))
    lut = {**tables, "LUTDescriptor": Raw("US", struct.pack("<3H", 256, 0, 16))}
    yield corrupt("modality-lut-too-short", "declares 256 entries", grey(ModalityLUTSequence=[lut]))
    lut = {**tables, "LUTDescriptor": Raw("US", struct.pack("<3H", 4, 0, 32))}
    yield corrupt("modality-lut-of-32-bits", "32 bits", grey(ModalityLUTSequence=[lut]))
    yield from broken_palettes()
    yield from broken_functional_groups()


def broken_palettes() -> Iterator[Case]:
    """PALETTE COLOR without tables, or with tables that do not fit each other."""
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": "PALETTE COLOR"}

    def palette(entries: int = 4, /, **changes: Any) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        for name in ("Red", "Green", "Blue"):
            tables[f"{name}PaletteColorLookupTableDescriptor"] = Raw("US", struct.pack("<3H", entries, 0, 16))
            tables[f"{name}PaletteColorLookupTableData"] = bytes(8)
        return grey(**{**eight, **tables, **changes})

    descriptor, data = "GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"
    segmented = "SegmentedRedPaletteColorLookupTableData"
    for name, says, attributes in (
        ("none", "missing", grey(**eight)),
        ("no-data", "missing", palette(**{data: ...})),
        ("short", "declares 9 entries", palette(9)),
        ("canary-in-descriptor", "Descriptor", palette(**{descriptor: canary("LO")})),
        ("descriptors-differ", "differ", palette(**{descriptor: Raw("US", struct.pack("<3H", 4, 1, 16))})),
        ("of-12-bits", "12 bits", palette(**{descriptor: Raw("US", struct.pack("<3H", 4, 0, 12))})),
        ("canary-in-segments", "segment", palette(**{segmented: canary("OW")})),
    ):
        yield case(CORRUPT, f"palette-{name}", says, attributes, bytes(SIDE * SIDE))


def broken_functional_groups() -> Iterator[Case]:
    """Enhanced multi-frame objects whose groups are too few, or are no groups."""
    shared, each = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
    group = {"PixelValueTransformationSequence": [{"RescaleSlope": canary("DS"), "RescaleIntercept": 0}]}
    for name, says, keyword, value in (
        ("too-few", "1 items for 2 frames", each, [{}]),
        ("are-text", "FunctionalGroups", each, canary("LO")),
        ("shared-are-text", "FunctionalGroups", shared, canary("LO")),
        ("canary-in-slope", "RescaleSlope is malformed", shared, [group]),
    ):
        yield case(CORRUPT, f"groups-{name}", says, grey(NumberOfFrames=2, **{keyword: value}), FRAME * 2)


# --- objects and views that have no picture -----------------------------------------------------------------

STORAGE = "1.2.840.10008.5.1.4.1.1"
WITHOUT_PIXELS = {
    "sr": (f"{STORAGE}.88.11", r"no pixels \(Basic Text SR Storage\)"),
    "ko": (f"{STORAGE}.88.59", r"no pixels \(Key Object Selection Document Storage\)"),
    "pr": (f"{STORAGE}.11.1", r"no pixels \(Grayscale Softcopy Presentation State Storage\)"),
    "pdf": (f"{STORAGE}.104.1", r"no pixels \(Encapsulated PDF Storage\)"),
    "ecg": (f"{STORAGE}.9.1.1", "no pixels"),
    "rt-plan": (f"{STORAGE}.481.5", "no pixels"),
    "private": ("1.3.6.1.4.1.99.7", "no pixels"),
    "canary": (f"{CANARY}^Class", "no pixels"),
}


def without_pixels() -> Iterator[Case]:
    """Objects of all kinds that are no images."""
    for name, (sop_class, says) in WITHOUT_PIXELS.items():
        attributes = grey(SOPClassUID=Raw("UI", sop_class.encode()), Rows=..., Columns=..., Modality="OT")
        yield case(NOT_RENDERABLE, f"without-pixels-{name}", says, attributes, None)
    elsewhere = grey(PixelDataProviderURL=f"https://example.invalid/{CANARY}")
    yield case(NOT_RENDERABLE, "pixels-elsewhere", "another server", elsewhere, None)


def not_renderable() -> Iterator[Case]:
    """Pixels that nothing here displays, and views that have no meaning for an image."""

    def refused(name: str, says: str, attributes: Mapping[str, Any], pixels: bytes = FRAME, **options: Any) -> Case:
        return case(NOT_RENDERABLE, name, says, attributes, pixels, **options)

    rgb, plane = bytes(3 * SIDE * SIDE), bytes(SIDE * SIDE)
    for photometric, count in (("CMYK", 4), ("ARGB", 4), ("HSV", 3)):
        attributes = colour(photometric, SamplesPerPixel=count)
        yield refused(photometric.lower(), f"{photometric} with {count} samples", attributes, plane * count)
    foreign = grey(PhotometricInterpretation=CANARY.upper())
    yield refused("canary-photometric", "this PhotometricInterpretation", foreign)
    yield refused("two-samples", "2 samples", colour("MONOCHROME2", SamplesPerPixel=2), plane * 2)
    for bits in (12, 24, 128):
        yield refused(f"allocates-{bits}", f"BitsAllocated {bits}", of_bits(bits), bytes(SIDE * SIDE * bits // 8))
    yield refused("integers-of-64-bits", "64 is not supported", of_bits(64), bytes(8 * SIDE * SIDE))
    yield refused("native-420", "YBR_PARTIAL_420", colour("YBR_PARTIAL_420"), rgb)
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    yield refused("colour-of-one-bit", "colour with BitsAllocated 1", colour(**one), bytes(3 * SIDE * SIDE // 8))
    yield refused("signed-rgb", "no display", colour(PixelRepresentation=1), rgb)
    for name, query in (("window", "window=40,400"), ("voi", "voi=0"), ("invert", "invert=true")):
        yield refused(f"{name}-of-rgb", "colour image", colour(), rgb, query=query)
    yield refused("modality-of-rgb", "colour has no modality", colour(), rgb, query="stage=modality")
    infinite = np.full((SIDE, SIDE), np.inf, "<f4").tobytes()
    single: Options = {"keyword": "FloatPixelData", "vr": "OF"}
    yield refused("all-infinite", "no finite range", of_bits(32), infinite, **single)
    double = {"keyword": "DoubleFloatPixelData", "vr": "OD", "query": "stage=modality"}
    huge = np.full((SIDE, SIDE), 1e300).tobytes()
    yield refused("beyond-float32", "float32 cannot hold", of_bits(64), huge, **double)
    lut = {"LUTDescriptor": Raw("US", struct.pack("<3H", 2, 0, 16)), "LUTData": bytes(4), "LUTExplanation": CANARY}
    wide = of_bits(32, ModalityLUTSequence=[lut])
    yield refused("lut-on-32-bits", "more than 16 bits", wide, bytes(4 * SIDE * SIDE))
    shifted = of_bits(16, 8, HighBit=8)
    stream = bytes(imagecodecs.jpeg2k_encode(samples(), level=30, reversible=False, codecformat="j2k"))
    yield case(NOT_RENDERABLE, "lossy-and-shifted", "High Bit", shifted, None, f"{PART_5}.4.91", fragments=[stream])


# --- transfer syntaxes without decoder ----------------------------------------------------------------------

NEEDED = {
    **{f"{PART_5}.4.{n}": "video decoder" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108)},
    **{f"{PART_5}.4.{n}.1": "video decoder" for n in (100, 101, 102, 103, 104, 105, 106)},
    **{f"{PART_5}.4.{n}": "JPIP client" for n in (94, 95, 204, 205)},
    **{f"{PART_5}.4.{n}": "a decoder for it" for n in (52, 53, 55, 58, 64, 66)},
    **{f"{PART_5}.7.{n}": "SMPTE ST 2110" for n in (1, 2, 3)},
    f"{PART_5}.4.999": "a decoder for it",
    "1.2.840.10008.1.20": "a decoder for it",
    "1.2.840.113619.5.2": "a decoder for it",
    "1.3.6.1.4.1.99.8": "a decoder for it",
}


def without_decoder() -> Iterator[Case]:
    """Transfer syntaxes that nothing here decodes: the answer names the UID and what would be needed."""
    for syntax, needed in NEEDED.items():
        says = rf"(?=.*(?<![\d.]){syntax.replace('.', '[.]')}(?![\d.])).*needs .*{needed}"
        yield case(NO_DECODER, f"syntax-{syntax}", says, grey(), None, syntax, fragments=[b"\0\0\1\xb3" * 8])
    for number in (94, 204):
        attributes = grey(PixelDataProviderURL=f"https://example.invalid/{CANARY}")
        yield case(NO_DECODER, f"jpip-{number}-as-it-is", "JPIP client", attributes, None, f"{PART_5}.4.{number}")
    extended = bytearray(_j2k(samples()))
    extended[6] |= 0x80  # Rsiz: the codestream needs extensions of Part 2
    says = f"(?=.*{J2K_PART_2}).*Part 2"
    yield case(NO_DECODER, "j2k-extensions", says, grey(), None, J2K_PART_2, fragments=[bytes(extended)])


# --- header bombs -------------------------------------------------------------------------------------------


def zeros_deflated(mebibytes: int) -> bytes:
    """A deflate stream of so many MiB of zeros, some kB a MiB, without making them."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + packer.flush()


def deflated_file(attributes: Mapping[str, Any], length: int, mebibytes: int, tag: int = 0x7FE00010) -> bytes:
    """A deflated file whose last element declares ``length`` bytes and inflates to ``mebibytes`` of zeros."""
    packer = zlib.compressobj(wbits=-15)
    header = dataset(attributes) + element(tag, b"", vr="OW", length=length)
    begin = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\0" * 128 + b"DICM" + file_meta(DEFLATED, attributes["SOPInstanceUID"])
    return head + begin + zeros_deflated(mebibytes)


def bombs() -> Iterator[Case]:
    """Small files whose headers declare more than the limits."""
    most, huge = 65535, {"Rows": 65535, "Columns": 65535}

    def bomb(name: str, says: str, attributes: Mapping[str, Any], **options: Any) -> Case:
        return case(TOO_LARGE, f"bomb-{name}", says, attributes, **options)

    billion = {"NumberOfFrames": 10**9}
    yield bomb("rows-and-columns", f"a frame of {2 * most * most} bytes", grey(**huge))
    yield bomb("all-there-is", "1000000000 frames", grey(**huge, **billion))
    yield bomb("frames", "1000000000 frames", grey(**billion))
    yield bomb("most-frames", "2147483647 frames", grey(NumberOfFrames=2**31 - 1))
    yield bomb("frames-of-one-pixel", "1000000000 frames", grey(1, 1, **billion))
    yield bomb("rgb", f"a frame of {3 * most * most} bytes", colour(**huge))
    yield bomb("64-bit", "a frame of", of_bits(64, **huge))
    yield bomb("just-above", f"a frame of {2 * 32768 * 16385} bytes", grey(32768, 16385))
    float_64 = {"keyword": "DoubleFloatPixelData", "vr": "OD", "pixels": bytes(64)}
    yield bomb("float", "a frame of", of_bits(64, **huge), **float_64)
    for syntax in SYNTAXES:
        stream = [syntax.encode(samples(syntax.bits))]
        attributes = {**syntax.header, **huge, "SamplesPerPixel": 1}
        yield bomb(syntax.name, "a frame of", attributes, pixels=None, syntax=syntax.uid, fragments=stream)
    many = grey(**huge, **billion)
    yield bomb("deflated-frames", "frames", many, pixels=None, syntax=DEFLATED_FRAMES, fragments=[deflate(FRAME)])
    inflating = grey(16384, 16384, NumberOfFrames=3)
    length = 3 * 2 * 16384 * 16384
    data = deflated_file(inflating, length, 1600)
    yield Case("bomb-deflated-data-set", *TOO_LARGE, "a deflated object of", data, inflating["SOPInstanceUID"])


# --- files that are no instance at all ----------------------------------------------------------------------


def unreadable() -> dict[str, tuple[bytes, str]]:
    """Name -> (file, regular expression of the reason why it is in no study)."""
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
    nested = b""
    for _ in range(300):
        nested = element(0x00081140, item(nested, UNDEFINED) + ends[0] + ends[1], vr="SQ", length=UNDEFINED)
    begin = file_bytes(grey(InstanceNumber=...), None)
    found = {
        "text.txt": (f"{CANARY}^Text, born {BIRTH_DATE}".encode() * 20, "not a DICOM file"),
        "empty.dcm": (b"", "not a DICOM file"),
        "head-only.dcm": (b"\0" * 128 + b"DICM", ""),
        "nested.dcm": (begin + nested, r"header cannot be parsed \(RecursionError\)"),
        "no-class.dcm": (file_bytes(grey(SOPClassUID=...), None), "neither a SOP Class UID nor pixel data"),
        "canary-syntax.dcm": (file_bytes(grey(), FRAME, f"{CANARY}^Syntax"), "malformed Transfer Syntax UID"),
        "header-bomb.dcm": (deflated_file(grey(), 0xFFFFFFFE, 400, 0x00430010), "no pixels within the first"),
    }
    dicomdir = file_meta(EXPLICIT_LE, "1.2.3", "1.2.840.10008.1.3.10")
    found["DICOMDIR"] = (b"\0" * 128 + b"DICM" + dicomdir + dataset(patient()), "a DICOMDIR, not an image")
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        level = keyword.removesuffix("InstanceUID")
        attributes = grey(**{keyword: Raw("UI", f"{CANARY}^{level}".encode())})
        data = file_bytes({**attributes, "ImageComments": CANARY}, FRAME)
        found[f"canary-{level}.dcm"] = (data, f"malformed {level} ?Instance UID")
    return found


def shown_with_notes() -> dict[str, Case]:
    """Name -> file that is shown although it holds the canary where a number or a term belongs; ``says`` is what the
    notes about it say."""
    lut = {"LUTDescriptor": canary("US"), "LUTData": canary("OW"), "LUTExplanation": CANARY}
    window = {"WindowCenter": 40, "WindowWidth": 400}
    changes: dict[str, tuple[Options, str]] = {
        "center": ({**window, "WindowCenter": canary("DS")}, "windows ignored: WindowCenter is malformed"),
        "width": ({**window, "WindowWidth": canary("DS")}, "windows ignored: WindowWidth is malformed"),
        "too-wide": ({**window, "WindowWidth": "1e308"}, "window 1 ignored: impossible center or width"),
        "function": ({**window, "VOILUTFunction": CANARY}, "VOI LUT Function is unknown"),
        "voi-lut": ({"VOILUTSequence": [lut]}, "VOI LUT 1 ignored"),
        "spacing": ({"PixelSpacing": canary("DS")}, "PixelSpacing ignored"),
        "padding": ({"PixelPaddingValue": canary("LO")}, "Pixel Padding Value ignored"),
        "character-set": ({"SpecificCharacterSet": CANARY}, ""),
        "instance-number": ({"InstanceNumber": canary("IS")}, ""),
        "position": ({"ImagePositionPatient": canary("DS")}, ""),
        "date": ({"StudyDate": canary("DA"), "PatientBirthDate": canary("DA")}, ""),
    }
    return {name: case((200, ""), name, says, grey(**values)) for name, (values, says) in changes.items()}


def all_cases() -> list[Case]:
    """Every file that is shown to nobody, and why."""
    return [
        *(broken for syntax in SYNTAXES for broken in broken_codestreams(syntax)),
        *broken_encapsulation(),
        *broken_native(),
        *broken_headers(),
        *without_pixels(),
        *not_renderable(),
        *without_decoder(),
        *bombs(),
    ]
