"""What a codestream declares, compared with the dataset: the same for every decoder, before any of them sees it."""

from gpu_render.decode.codestream import Jpeg2000Header, parse_jpeg2000
from gpu_render.errors import CorruptPixelData, NotRenderable, UnsupportedTransferSyntax
from gpu_render.frame import PixelLayout


def check_declared(layout: PixelLayout, rows: int, columns: int, components: int, precision: int) -> None:
    """Raise CorruptPixelData where size, components or bits cannot be the dataset's."""
    if (rows, columns, components) != (layout.rows, layout.columns, layout.samples_per_pixel):
        raise CorruptPixelData(
            f"the codestream is {rows} x {columns} with {components} components, "
            f"the dataset says {layout.rows} x {layout.columns} with {layout.samples_per_pixel}"
        )
    if precision > layout.bits_allocated or layout.bits_allocated not in (8, 16, 32) or layout.is_float:
        raise CorruptPixelData(
            f"the codestream has {precision} bits a sample, the dataset allocates {layout.bits_allocated}"
        )
    if layout.high_bit >= max(precision, layout.bits_stored):
        raise CorruptPixelData(f"the codestream has {precision} bits a sample, HighBit is {layout.high_bit}")


def jpeg2000_header(data: bytes, layout: PixelLayout, max_precision: int) -> Jpeg2000Header:
    """The header of a JPEG 2000 or HTJ2K codestream that can be the dataset's.

    Raises CorruptPixelData, UnsupportedTransferSyntax, and NotRenderable above ``max_precision`` [bit].
    """
    header = parse_jpeg2000(data)
    if header.part_2:
        raise UnsupportedTransferSyntax("the codestream needs a decoder of JPEG 2000 Part 2 extensions")
    check_declared(layout, header.rows, header.columns, header.components, header.precision)
    photometric = layout.photometric_interpretation
    transformed = photometric in ("YBR_ICT", "YBR_RCT")
    if header.components == 3 and photometric != "RGB" and transformed != header.multiple_component_transform:
        raise CorruptPixelData(f"the codestream's colour transform contradicts {photometric}")
    if header.precision > max_precision:
        raise NotRenderable(f"{header.precision} bits a sample; this decoder is exact up to {max_precision}")
    return header


def widened(codestream: bytes, header: Jpeg2000Header) -> bytes:
    """The codestream with two more bits a sample in its SIZ segment, signed, so that there is no level shift: a value
    beyond the range, as of a damaged code block, comes out as it is instead of wrapped."""
    depths = bytearray(codestream[42 : 42 + 3 * header.components])
    depths[::3] = bytes([0x80 | header.precision + 1]) * header.components
    return codestream[:42] + depths + codestream[42 + len(depths) :]


def photometric_of(layout: PixelLayout) -> str:
    """The Photometric Interpretation of decoded samples: a codestream's own colour transform is undone, and chroma is
    upsampled."""
    photometric = layout.photometric_interpretation
    if photometric in ("YBR_ICT", "YBR_RCT"):
        return "RGB"
    return "YBR_FULL" if photometric == "YBR_FULL_422" else photometric
