"""What is compared: the corpus beside the project, the images in pydicom's wheel, and derivatives of these."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.api.conftest import SAMPLES
from tests.api.test_samples import names

CORPUS = Path(os.environ.get("GPU_RENDER_CORPUS", Path(__file__).parents[3] / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One file. ``group``: corpus, pydicom or derived; ``feature``: what it is there for, in a few words; ``refused``:
    part of the message of the error that is right for it; ``truth``: stored values known from its making, all frames;
    ``twin``: the same image uncompressed, for readers that do not know its transfer syntax; ``stored_sha256``: stored
    values that independent readers agreed on when the corpus was made."""

    name: str
    path: Path
    group: str
    feature: str
    refused: str = ""
    truth: npt.NDArray[np.generic] | None = None
    twin: Path | None = None
    stored_sha256: str = ""


#: Files of pydicom's wheel that no reader should show.
_REFUSED = {
    "MR_truncated.dcm": "truncated",
    "badVR.dcm": "NumberOfFrames",
    "JPEG2000-embedded-sequence-delimiter.dcm": "codestream",
}
_FEATURES = {
    "693_J2KI.dcm": "lossy JPEG 2000, 14 bits, padding",
    "CT_small.dcm": "no window, padding",
    "ExplVR_BigEnd.dcm": "big endian colour in planes",
    "GDCMJ2K_TextGBR.dcm": "JPEG 2000 with JP2 boxes, YBR_RCT",
    "J2K_pixelrep_mismatch.dcm": "sign of codestream and dataset differ",
    "JPEG-lossy.dcm": "12-bit JPEG",
    "JPGExtended.dcm": "12-bit JPEG, fragments",
    "MR_small_padded.dcm": "trailing padding",
    "SC_jpeg_no_color_transform.dcm": "APP14 against header",
    "SC_jpeg_no_color_transform_2.dcm": "APP14 against header",
    "SC_rgb_jpeg_app14_dcmd.dcm": "APP14 says RGB",
    "SC_rgb_small_odd.dcm": "3 x 3 pixels, odd length",
    "SC_rgb_small_odd_big_endian.dcm": "3 x 3 pixels, odd length, big endian",
    "SC_ybr_full_422_uncompressed.dcm": "native YBR_FULL_422",
    "image_dfl.dcm": "deflated",
    "liver_1frame.dcm": "1-bit segmentation",
    "liver_expb_1frame.dcm": "1-bit segmentation, big endian",
    "examples_overlay.dcm": "overlay, two windows",
    "examples_palette.dcm": "palette",
    "examples_ybr_color.dcm": "30 frames of JPEG",
}


def _feature(text: str) -> str:
    """The manifest's words, without what the table says in other columns."""
    short = text.split(";")[0]
    return "CT head phantom" if "phantom" in short else short.removeprefix("NEMA WG04 ")


def corpus_samples() -> list[Sample]:
    """Every file of the manifest with pixels, and the one without; empty where the folder is absent."""
    manifest = CORPUS / "MANIFEST.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        Sample(
            row["path"],
            CORPUS / row["path"],
            "corpus",
            _feature(row["feature"]),
            refused="no pixels" if row["expected"] == "expected-error" else "",
            stored_sha256=row["stored_sha256"] if row["tolerance"] == "0" else "",
        )
        for row in rows
    ]


def wheel_samples() -> list[Sample]:
    """Every image in pydicom's wheel."""
    return [
        Sample(
            name.removeprefix("test_files/"),
            SAMPLES / name,
            "pydicom",
            _FEATURES.get(Path(name).name, ""),
            refused=_REFUSED.get(Path(name).name, ""),
        )
        for name in names()
    ]
