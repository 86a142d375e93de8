"""Native (uncompressed) pixels: bytes -> samples, in the parent, without a copy where nothing has to change."""

import zlib
from dataclasses import replace

import numpy as np

from gpu_render.errors import CorruptPixelData, NotRenderable
from gpu_render.frame import PixelLayout, Samples
from kernels.packing import Packed, Packing, unpack

INTEGER_BITS = (1, 8, 16, 32)
FLOAT_BITS = (32, 64)


def frame_bytes(layout: PixelLayout) -> int:
    """Length [byte] of one native frame (PS3.5 8.1.1; YBR_FULL_422 shares its chroma, PS3.3 C.7.6.3.1.2)."""
    pixels = layout.rows * layout.columns
    if layout.bits_allocated == 1:
        return (pixels * layout.samples_per_pixel + 7) // 8
    samples = 2 * pixels if is_uncompressed_422(layout) else layout.samples_per_pixel * pixels
    return samples * (layout.bits_allocated // 8)


def is_uncompressed_422(layout: PixelLayout) -> bool:
    """Whether native pixels of this layout are stored as Y1 Y2 Cb Cr."""
    return layout.samples_per_pixel == 3 and layout.photometric_interpretation in ("YBR_FULL_422", "YBR_PARTIAL_422")


def check_layout(layout: PixelLayout) -> None:
    """Raise NotRenderable for a layout that no decoder here can produce."""
    bits = FLOAT_BITS if layout.is_float else INTEGER_BITS
    if layout.bits_allocated not in bits:
        raise NotRenderable(f"Bits Allocated {layout.bits_allocated} is not supported, only {bits}")
    if layout.samples_per_pixel not in (1, 3):
        raise NotRenderable(f"Samples per Pixel {layout.samples_per_pixel} is not supported, only 1 and 3")
    if layout.rows < 1 or layout.columns < 1:
        raise CorruptPixelData("Rows or Columns is 0")


def inflate(data: bytes | memoryview, layout: PixelLayout) -> bytes:
    """One frame of Deflated Image Frame Compression (RFC 1951), never more than the layout calls for.

    Raises CorruptPixelData for what is not deflated, or is longer or shorter.
    """
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    expected = frame_bytes(layout)
    try:
        frame = decompressor.decompress(data, expected + 2)  # a pad byte, and one more that shows it is too long
    except zlib.error:
        raise CorruptPixelData("the deflated frame is corrupt") from None
    _check_length(len(frame), expected)
    if not decompressor.eof:
        raise CorruptPixelData("the deflated frame has no end")
    if decompressor.unused_data.strip(b"\0"):
        raise CorruptPixelData("the deflated frame has data behind its end")
    return frame


def decode_native(
    data: bytes | memoryview, layout: PixelLayout, big_endian: bool, *, packed: bool = False
) -> tuple[Samples | Packed, PixelLayout]:
    """Samples of ``layout.shape`` and ``layout.dtype``, and the layout of what came out.

    1-bit pixels unpack to uint8 0 and 1, bit 0 first (PS3.5 8.1.1); planes are interleaved; YBR_FULL_422 becomes
    YBR_FULL, each chroma sample used for its two pixels, as in YBR_PARTIAL_422. 8-bit samples are taken in the order
    of the bytes: words of OW in big endian are put right by the archive, which knows the VR and the next frame.
    With ``packed``, what has to be unpacked is left to a device. The result may be a read-only view of ``data``.
    Raises CorruptPixelData where the length disagrees.
    """
    expected = frame_bytes(layout)
    _check_length(len(data), expected)
    flat = np.frombuffer(data, np.uint8, expected)
    packings = _packings(layout, big_endian)
    if not packings:
        return flat.view(layout.dtype).reshape(layout.shape), _unpacked(layout)
    if len(packings) == 2:  # of big endian and another one, the bytes are swapped here
        flat = flat.view(f"u{layout.dtype.itemsize}").byteswap().view(np.uint8)
    native = Packed(flat, packings[-1], layout.shape, layout.dtype)
    return native if packed else unpack(native), _unpacked(layout)


def _packings(layout: PixelLayout, big_endian: bool) -> list[Packing]:
    """What stands between native pixels and samples, in order."""
    if layout.bits_allocated == 1:
        return [Packing.BITS]
    packings = [Packing.BIG_ENDIAN] if big_endian and layout.dtype.itemsize > 1 else []
    if is_uncompressed_422(layout):
        if layout.columns % 2 or layout.planar_configuration:
            raise CorruptPixelData("subsampled chroma needs an even number of columns and interleaved samples")
        packings.append(Packing.CHROMA_422)
    elif layout.samples_per_pixel == 3 and layout.planar_configuration:
        packings.append(Packing.PLANES)
    return packings


def _unpacked(layout: PixelLayout) -> PixelLayout:
    """The layout of the samples that come out."""
    if layout.bits_allocated == 1:
        return layout
    # No name is left for YBR_PARTIAL without subsampling.
    full = is_uncompressed_422(layout) and layout.photometric_interpretation == "YBR_FULL_422"
    name = "YBR_FULL" if full else layout.photometric_interpretation
    if name == layout.photometric_interpretation and layout.planar_configuration == 0:
        return layout
    return replace(layout, photometric_interpretation=name, planar_configuration=0)


def _check_length(actual: int, expected: int) -> None:
    """One byte more is the padding to even length of PS3.5 8.1.1."""
    if actual != expected and not (actual == expected + 1 and expected % 2):
        raise CorruptPixelData(f"the frame has {actual} bytes, expected {expected}")
