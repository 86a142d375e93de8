"""Where a reader is known not to be right, or does something else: each with its reason, each still needed."""

from dataclasses import dataclass

from tests.conformance.samples import Sample


@dataclass(slots=True)
class Exception_:  # noqa: N801 - the plain word is taken
    """Files whose name contains one of ``files``, at ``stages``. ``used``: the run has met it."""

    reader: str
    stages: tuple[str, ...]
    files: tuple[str, ...]
    reason: str
    used: bool = False


PICTURES = ("display", "LINEAR", "LINEAR_EXACT", "SIGMOID")
_EVERYTHING = ("stored", "modality", *PICTURES)

_INTEGER = "DCMTK rounds modality values to integers before it windows them"
_FOLDED = "highdicom folds the rescale into the window, which moves the halves of PS3.3 C.11.2.1.2.1"
_WORDS = "32 bits in big endian OW: swapped word by word, against the uncompressed twin in little endian (rtdose.dcm)"
_ZERO = "a slope of 0 is applied, so that every value becomes the intercept"
_HIGH_BIT = "High Bit is taken for Bits Stored - 1"

EXCEPTIONS: list[Exception_] = [
    Exception_("DCMTK", ("modality", *PICTURES), ("mr_176", "vtk_pt_168", "77654033/CR"), _INTEGER),
    Exception_("DCMTK", ("modality", *PICTURES), ("slope_fractional", "tiny_slope", "enhanced_pt"), _INTEGER),
    Exception_("highdicom", PICTURES, ("mr_176", "vtk_pt_168", "77654033/CR", "slope_", "tiny_slope"), _FOLDED),
    Exception_("highdicom", PICTURES, ("enhanced_mr", "enhanced_pt"), _FOLDED),
    Exception_("DCMTK", _EVERYTHING, ("rtdose_expb",), _WORDS),
    Exception_("GDCM", ("stored",), ("rtdose_expb",), _WORDS),
    Exception_("GDCM", ("stored",), ("SC_rgb_rle_16bit", "SC_rgb_rle_32bit"), "planes of wide RLE colour are mixed up"),
    Exception_("pydicom", _EVERYTHING, ("high_bit_15",), _HIGH_BIT),
    Exception_("GDCM", ("stored",), ("high_bit_15",), _HIGH_BIT),
    Exception_("highdicom", _EVERYTHING, ("high_bit_15", "overlay_bits"), "bits beside Bits Stored are not masked"),
    Exception_("pydicom", ("display",), ("OBXXXX1A_expb",), "palette data of a big endian file are not swapped"),
    Exception_("pydicom", ("modality",), ("slope_zero",), _ZERO),
    Exception_("highdicom", ("modality",), ("slope_zero",), _ZERO),
    Exception_("DCMTK", ("display",), ("derived/ybr_",), "DCMTK rounds each term of the YBR matrix by itself"),
]


def find_exception(sample: Sample, reader: str, stage: str) -> Exception_ | None:
    """The first that fits."""
    for exception in EXCEPTIONS:
        if (
            reader.startswith(exception.reader)
            and stage in exception.stages
            and any(f in sample.name for f in exception.files)
        ):
            return exception
    return None
