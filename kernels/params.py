"""FRAME_PARAMS: the one record that tells a kernel what to do with one frame.

The same bytes are read by NumPy (``cpu.py``), by CUDA (``render.cu``) and by the host-compiled test build, so the
layout is C's: 8-byte members first, then 4-byte members, no padding. ``render.cu`` asserts the size.
"""

from enum import IntEnum

import numpy as np


class Stage(IntEnum):
    """What comes out."""

    STORED = 0
    MODALITY = 1
    DISPLAY = 2


class SampleFormat(IntEnum):
    """Little-endian container of a sample."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    F64 = 7


class Curve(IntEnum):
    """How a sample becomes a grey value or palette colour at Stage.DISPLAY, and a value at Stage.MODALITY."""

    RATIO = 0  # (slope * stored + intercept - lower) * 255 / span
    THRESHOLDS = 1  # table: 255 float64; grey = how many of them are <= slope * stored + intercept
    TABLE = 2  # table[clamp(stored - table_first, 0, table_length - 1)]


class Colour(IntEnum):
    """Meaning of the samples at Stage.DISPLAY."""

    GREY = 0
    RGB = 1
    YBR_FULL = 2
    YBR_PARTIAL = 3
    PALETTE = 4  # one sample in, three out, through TABLE


SAMPLE_DTYPES: dict[SampleFormat, np.dtype[np.generic]] = {
    SampleFormat.U8: np.dtype("u1"),
    SampleFormat.I8: np.dtype("i1"),
    SampleFormat.U16: np.dtype("<u2"),
    SampleFormat.I16: np.dtype("<i2"),
    SampleFormat.U32: np.dtype("<u4"),
    SampleFormat.I32: np.dtype("<i4"),
    SampleFormat.F32: np.dtype("<f4"),
    SampleFormat.F64: np.dtype("<f8"),
}
SAMPLE_FORMATS: dict[np.dtype[np.generic], SampleFormat] = {dtype: code for code, dtype in SAMPLE_DTYPES.items()}

FRAME_PARAMS = np.dtype(
    [
        # Addresses: filled by the backend, 0 in a record made by the host.
        ("source", "<u8"),  # first sample
        ("table", "<u8"),  # table, or 0
        ("output", "<u8"),  # where this frame's output begins
        # Modality and window, PS3.3 C.11.1 and C.11.2, in float64.
        ("slope", "<f8"),
        ("intercept", "<f8"),
        ("lower", "<f8"),  # modality value shown as 0
        ("span", "<f8"),  # modality units from 0 to 255; 0 is a step just above lower
        ("pad_low", "<f8"),  # inclusive range of stored values shown as background; NaN, NaN where there is none
        ("pad_high", "<f8"),
        # Source.
        ("rows", "<i4"),
        ("columns", "<i4"),
        ("samples", "<i4"),  # 1 or 3 per pixel
        ("planar", "<i4"),  # 0 interleaved, 1 planes
        ("sample_format", "<i4"),
        ("shift", "<i4"),  # High Bit + 1 - Bits Stored
        ("bits", "<i4"),  # Bits Stored; equal to the container for floats
        ("signed", "<i4"),  # Pixel Representation
        # Region of the source, and size of the output.
        ("region_x", "<i4"),
        ("region_y", "<i4"),
        ("region_width", "<i4"),
        ("region_height", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        # What to do.
        ("stage", "<i4"),
        ("curve", "<i4"),
        ("colour", "<i4"),
        ("table_first", "<i4"),
        ("table_length", "<i4"),  # entries
        ("invert", "<i4"),  # grey only: 255 - grey, after the curve, before padding
        ("output_format", "<i4"),  # SampleFormat
        ("output_samples", "<i4"),  # 1 or 3
    ],
    align=True,
)
assert FRAME_PARAMS.itemsize == 9 * 8 + 22 * 4


def output_bytes(params: np.void) -> int:
    """Size of one record's output [byte]."""
    pixels = int(params["height"]) * int(params["width"]) * int(params["output_samples"])
    return pixels * SAMPLE_DTYPES[SampleFormat(int(params["output_format"]))].itemsize
