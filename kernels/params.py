"""The records that tell kernels what to do with one frame: FRAME_PARAMS, STEPS, UNPACK_PARAMS and ADOPT_PARAMS.

The same bytes are read by NumPy, by CUDA (``render.cu``) and by the host-compiled test build, so the layouts are C's:
8-byte members first, then 4-byte members. ``render.cu`` asserts the sizes.
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
        ("steps", "<u8"),  # STEPS (steps.py), or 0
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
assert FRAME_PARAMS.itemsize == 10 * 8 + 22 * 4

STEPS = np.dtype(
    [
        ("above", "<u4", 256),  # [g]: the first key whose grey is above g; all ones where there is none, and at 255
        ("gain", "<u4"),
        ("offset", "<i4"),  # (the upper word of key * gain) + offset estimates the grey ...
        ("fraction", "<i4"),  # ... in units of 2^-fraction
        ("flip", "<u4"),  # key = ((container ^ flip) & mask) << 16; flip and mask say so for two containers at once
        ("mask", "<u4"),
        ("pad_first", "<u4"),  # keys shown as background: pad_first ... pad_first + pad_span; all ones, 0: none
        ("pad_span", "<u4"),
        ("invert", "<u4"),  # all ones: 255 - grey, before padding
    ],
    align=True,
)
assert STEPS.itemsize == 1024 + 8 * 4

UNPACK_PARAMS = np.dtype(
    [
        ("source", "<u8"),  # address of the packed bytes, aligned to 8; filled by the backend
        ("output", "<u8"),  # address of the samples, aligned to 8; filled by the backend
        ("rows", "<i4"),
        ("columns", "<i4"),
        ("samples", "<i4"),  # 1 or 3 per pixel
        ("itemsize", "<i4"),  # of a sample that comes out [byte]
        ("packing", "<i4"),  # packing.Packing
        ("reserved", "<i4"),
    ],
    align=True,
)
assert UNPACK_PARAMS.itemsize == 2 * 8 + 6 * 4

ADOPT_PARAMS = np.dtype(
    [
        # Addresses, filled by the backend.
        ("source", "<u8"),  # what the codec left: rows of interleaved samples, row_stride bytes apart
        ("output", "<u8"),  # samples, dense; 0: they are not written
        ("reference", "<u8"),  # samples, dense, of output_format, to compare with; 0: none
        ("stats", "<u8"),  # ADOPT_WORDS words, all ones before
        ("row_stride", "<i8"),  # [byte]
        ("source_format", "<i4"),  # SampleFormat, one of U8, I8, U16, I16; so is output_format
        ("output_format", "<i4"),
        ("rows", "<i4"),
        ("columns", "<i4"),
        ("samples", "<i4"),  # 1 or 3 per pixel
        ("offset", "<i4"),  # value = what the codec left + offset
        ("sign_bits", "<i4"),  # above 0: the value's lowest bits, read as output_format says; 0: the value itself
        ("reserved", "<i4"),
    ],
    align=True,
)
assert ADOPT_PARAMS.itemsize == 5 * 8 + 8 * 4

ADOPT_WORDS = 5
"""uint64 words that ``adopt_batch`` reports per record: see ``adopt.py``."""


def output_bytes(params: np.void) -> int:
    """Size of one record's output [byte]."""
    pixels = int(params["height"]) * int(params["width"]) * int(params["output_samples"])
    return pixels * SAMPLE_DTYPES[SampleFormat(int(params["output_format"]))].itemsize
