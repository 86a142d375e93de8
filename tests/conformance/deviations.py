"""Where a reader is known not to be right, or does something else: each with its reason, each still needed."""

from dataclasses import dataclass

from tests.conformance.samples import Sample


@dataclass(slots=True)
class Deviation:
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

DEVIATIONS: list[Deviation] = [
    Deviation("DCMTK", ("modality", *PICTURES), ("mr_176", "vtk_pt_168", "77654033/CR"), _INTEGER),
    Deviation("DCMTK", ("modality", *PICTURES), ("slope_fractional", "tiny_slope", "enhanced_pt"), _INTEGER),
    Deviation("highdicom", PICTURES, ("mr_176", "vtk_pt_168", "77654033/CR", "slope_", "tiny_slope"), _FOLDED),
    Deviation("highdicom", PICTURES, ("enhanced_mr", "enhanced_pt"), _FOLDED),
    Deviation("DCMTK", _EVERYTHING, ("rtdose_expb",), _WORDS),
    Deviation("GDCM", ("stored",), ("rtdose_expb",), _WORDS),
    Deviation("GDCM", ("stored",), ("SC_rgb_rle_16bit", "SC_rgb_rle_32bit"), "planes of wide RLE colour are mixed up"),
    Deviation("pydicom", _EVERYTHING, ("high_bit_15",), _HIGH_BIT),
    Deviation("GDCM", ("stored",), ("high_bit_15",), _HIGH_BIT),
    Deviation("highdicom", _EVERYTHING, ("high_bit_15", "overlay_bits"), "bits beside Bits Stored are not masked"),
    Deviation("pydicom", ("display",), ("OBXXXX1A_expb",), "palette data of a big endian file are not swapped"),
    Deviation("pydicom", ("modality",), ("slope_zero",), _ZERO),
    Deviation("highdicom", ("modality",), ("slope_zero",), _ZERO),
    Deviation("DCMTK", ("display",), ("derived/ybr_",), "DCMTK rounds each term of the YBR matrix by itself"),
]


def find_deviation(sample: Sample, reader: str, stage: str) -> Deviation | None:
    """The first that fits."""
    for deviation in DEVIATIONS:
        if (
            reader.startswith(deviation.reader)
            and stage in deviation.stages
            and any(f in sample.name for f in deviation.files)
        ):
            return deviation
    return None
