"""fold(): what the file says and what the caller asks, become one FRAME_PARAMS record. Pure arithmetic.

Windows are PS3.3 C.11.2.1.2 and C.11.2.1.3, LUTs C.11.1.1.1 and C.11.2.1.1, geometry PS3.18 8.3.5.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from gpu_render.errors import BadRequest, InvalidRegion, InvalidWindow, NotRenderable
from gpu_render.frame import LookupTable, PixelLayout, Presentation, Rescale, VoiFunction, Window
from gpu_render.view import Region, Stage, View
from kernels.params import FRAME_PARAMS, SAMPLE_FORMATS, Colour, Curve, SampleFormat
from kernels.params import Stage as KernelStage

Extent = tuple[float, float] | None
Table = npt.NDArray[np.generic] | None

_TABLE_BITS = 16  # tables over every stored value are built up to this many Bits Stored
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_COLOURS = {
    "RGB": Colour.RGB,
    "YBR_FULL": Colour.YBR_FULL,
    "YBR_FULL_422": Colour.YBR_FULL,
    "YBR_PARTIAL_420": Colour.YBR_PARTIAL,
    "YBR_PARTIAL_422": Colour.YBR_PARTIAL,
}


@dataclass(frozen=True, slots=True)
class Folded:
    """A record without addresses, the table its curve reads, and the window in use (None: no window)."""

    params: np.void
    table: Table
    window: Window | None


def _folded(record: npt.NDArray[np.void], table: Table, window: Window | None) -> Folded:
    return Folded(cast(np.void, record[()]), table, window)


def needs_extent(presentation: Presentation, view: View, layout: PixelLayout) -> bool:
    """Whether fold() needs the frame's extent: its lowest and highest value."""
    if layout.samples_per_pixel != 1 or (presentation.palette is not None and not is_supplemental(layout)):
        return False
    if view.stage is Stage.MODALITY:
        if layout.is_float:
            return layout.bits_allocated > 32
        return view.viewport is None and _integer_rescale(presentation)
    return view.stage is Stage.DISPLAY and view.window is None and not presentation.voi


def is_supplemental(layout: PixelLayout) -> bool:
    """Whether a palette beside this layout is a supplemental one: for a part of the stored values only."""
    return layout.photometric_interpretation != "PALETTE COLOR"


def _integer_rescale(presentation: Presentation) -> bool:
    modality = presentation.modality or Rescale(1.0, 0.0)
    return isinstance(modality, Rescale) and modality.slope.is_integer() and modality.intercept.is_integer()


def source_record(layout: PixelLayout, presentation: Presentation) -> np.void:
    """The record that ``Backend.extent`` needs: how samples lie, and which of them are no grey values.

    Raises NotRenderable where padding and colours are two ranges with grey values between them.
    """
    record = _base_record(layout, presentation)
    if presentation.palette is not None and is_supplemental(layout):
        first, last = presentation.palette.first_mapped, layout.stored_range[1]
        low, high = presentation.pixel_padding or (first, last)
        if high < first - 1 or low > last:
            raise NotRenderable("beside padding and colours the range of grey values is not known; ask for a window")
        record["pad_low"], record["pad_high"] = min(low, first), max(high, last)
    return _folded(record, None, None).params


def _base_record(layout: PixelLayout, presentation: Presentation) -> npt.NDArray[np.void]:
    """A record, shape (), that says how samples lie and which of them are padding; the rest is 0 or neutral."""
    record = np.zeros((), FRAME_PARAMS)
    low, high = presentation.pixel_padding or (math.nan, math.nan)
    values: dict[str, float] = {
        "slope": 1.0,
        "pad_low": low,
        "pad_high": high,
        "rows": layout.rows,
        "columns": layout.columns,
        "samples": layout.samples_per_pixel,
        "planar": 0,
        "sample_format": SAMPLE_FORMATS[layout.dtype],
        "shift": 0 if layout.is_float else layout.high_bit + 1 - layout.bits_stored,
        "bits": layout.bits_stored,
        "signed": layout.pixel_representation,
        "output_samples": layout.samples_per_pixel,
    }
    for name, value in values.items():
        record[name] = value
    if isinstance(presentation.modality, Rescale):
        record["slope"] = presentation.modality.slope
        record["intercept"] = presentation.modality.intercept
    return record


def fold(presentation: Presentation, view: View, layout: PixelLayout, extent: Extent = None) -> Folded:
    """Everything between stored samples and the asked-for array, as one record.

    ``extent``: (lowest, highest) stored value without padding, or modality value where there is a Modality LUT (which
    need not rise, see table_extent()); read only where needs_extent() says so, None there
    means that the frame holds nothing but padding. Raises InvalidRegion, InvalidWindow and NotRenderable.
    """
    record = _base_record(layout, presentation)
    _set_geometry(record, presentation, view, layout)
    record["stage"] = KernelStage[view.stage.name]
    if view.stage is Stage.STORED:
        record["output_format"] = SAMPLE_FORMATS[layout.dtype]
        return _folded(record, None, None)
    if view.stage is Stage.MODALITY:
        return _fold_modality(record, presentation, view, layout, extent)
    record["output_format"] = SampleFormat.U8
    if presentation.palette is not None and not is_supplemental(layout):
        return _fold_palette(record, presentation.palette, view)
    if layout.samples_per_pixel != 1:
        return _fold_colour(record, view, layout)
    return _fold_grey(record, presentation, view, layout, extent)


# -- geometry -------------------------------------------------------------------------------------------------


def _set_geometry(record: npt.NDArray[np.void], presentation: Presentation, view: View, layout: PixelLayout) -> None:
    region = view.region or Region(0, 0, layout.columns, layout.rows)
    if region.x + region.width > layout.columns or region.y + region.height > layout.rows:
        raise InvalidRegion(f"the region leaves the image of {layout.columns} x {layout.rows} pixels")
    width, height = region.width, region.height
    if view.viewport is not None:
        if view.stage is Stage.STORED:
            raise BadRequest("stored values are not resampled; ask for modality or display with a viewport")
        width, height = fit(region, view.viewport, pixel_aspect(presentation))
    for name, value in (
        ("region_x", region.x),
        ("region_y", region.y),
        ("region_width", region.width),
        ("region_height", region.height),
        ("width", width),
        ("height", height),
    ):
        record[name] = value


def pixel_aspect(presentation: Presentation) -> float:
    """Height of a pixel divided by its width, from spacing or Pixel Aspect Ratio (0028,0034); 1 where unknown."""
    pair: tuple[float, float] = presentation.pixel_spacing_mm or presentation.pixel_aspect_ratio or (1.0, 1.0)
    row, column = pair
    aspect = row / column if row > 0 and column > 0 else 1.0
    return aspect if 0.01 <= aspect <= 100 else 1.0


def fit(region: Region, viewport: tuple[int, int], aspect: float) -> tuple[int, int]:
    """(width, height) [px] of the largest picture of ``region`` with square pixels inside ``viewport``."""
    physical_height = region.height * aspect
    scale = min(viewport[0] / region.width, viewport[1] / physical_height)
    width = math.floor(region.width * scale + 0.5)
    height = math.floor(physical_height * scale + 0.5)
    return max(1, min(width, viewport[0])), max(1, min(height, viewport[1]))


# -- modality -------------------------------------------------------------------------------------------------


def _fold_modality(
    record: npt.NDArray[np.void], presentation: Presentation, view: View, layout: PixelLayout, extent: Extent
) -> Folded:
    if layout.samples_per_pixel != 1 or presentation.palette is not None:
        raise NotRenderable("colour has no modality values; ask for stored or display")
    record["output_format"] = SampleFormat.F32
    if isinstance(presentation.modality, LookupTable):
        values = modality_table(presentation.modality, layout)
        _set_table(record, layout)
        return _folded(record, values.astype("<f4"), None)
    if layout.is_float:
        _check_float32(presentation, extent)
    elif needs_extent(presentation, view, layout) and _exact_int16(record, extent):
        record["output_format"] = SampleFormat.I16
    return _folded(record, None, None)


def _check_float32(presentation: Presentation, extent: Extent) -> None:
    """Raise NotRenderable where float32 would make finite modality values infinite. Padding may become so."""
    ends = () if extent is None else _modality_range(presentation, extent)
    if any(math.isfinite(end) and abs(end) > _FLOAT32_MAX for end in ends):
        raise NotRenderable("float32 cannot hold the modality values of this frame; ask for stored or display")


def _exact_int16(record: npt.NDArray[np.void], extent: Extent) -> bool:
    """Whether int16 holds every modality value of a frame whose rescale is integer.

    Padding is outside ``extent`` but inside the array, so its values must fit as well.
    """
    slope, intercept = float(record["slope"]), float(record["intercept"])
    bounds = [*(extent or ())]
    bounds += [pad for pad in (float(record["pad_low"]), float(record["pad_high"])) if not math.isnan(pad)]
    return all(-32768 <= slope * bound + intercept <= 32767 for bound in bounds)


def _check_table_bits(layout: PixelLayout) -> None:
    if layout.is_float or layout.bits_stored > _TABLE_BITS:
        raise NotRenderable("a lookup table on samples of more than 16 bits is not supported")


def stored_values(layout: PixelLayout) -> npt.NDArray[np.int64]:
    """Every stored value that Bits Stored and Pixel Representation allow, ascending; shape (2 ** Bits Stored,).

    Raises NotRenderable above 16 bits, where a table over all of them is no longer small.
    """
    _check_table_bits(layout)
    low, high = layout.stored_range
    return np.arange(low, high + 1, dtype=np.int64)


def look_up(table: LookupTable, inputs: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
    """Entries for ``inputs``; an input beyond the table takes its first or last entry (PS3.3 C.11.1.1.1)."""
    index = np.clip(inputs - table.first_mapped, 0, len(table.data) - 1)
    return table.data[index]


def modality_table(table: LookupTable, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """Modality value of every stored value, in the order of stored_values()."""
    return look_up(table, stored_values(layout))


def _set_table(record: npt.NDArray[np.void], layout: PixelLayout) -> None:
    _check_table_bits(layout)
    record["curve"] = Curve.TABLE
    record["table_first"] = layout.stored_range[0]
    record["table_length"] = 1 << layout.bits_stored


# -- colour ---------------------------------------------------------------------------------------------------


def _refuse_grey_options(view: View) -> None:
    if view.window is not None or view.voi_index is not None or view.invert:
        raise NotRenderable("a window and inversion have no meaning for a colour image")


def _fold_palette(record: npt.NDArray[np.void], palette: LookupTable, view: View) -> Folded:
    _refuse_grey_options(view)
    record["colour"], record["curve"] = Colour.PALETTE, Curve.TABLE
    record["table_first"], record["table_length"] = palette.first_mapped, len(palette.data)
    record["output_samples"] = 3
    return _folded(record, to_bytes(palette.data, palette.bits), None)


def _fold_colour(record: npt.NDArray[np.void], view: View, layout: PixelLayout) -> Folded:
    _refuse_grey_options(view)
    colour = _COLOURS.get(layout.photometric_interpretation)
    if colour is None or layout.pixel_representation or layout.is_float:
        raise NotRenderable(f"no display is defined for {layout.photometric_interpretation} samples like these")
    if colour is not Colour.RGB and layout.bits_stored != 8:
        # The kernels' matrix is exact for 8 bits alone: others, rounded to 8 bits before it, come out 3 levels off.
        raise NotRenderable(f"{layout.photometric_interpretation} of {layout.bits_stored} bits is not supported")
    record["colour"] = colour
    return _folded(record, None, None)


def to_bytes(entries: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.uint8]:
    """LUT entries of ``bits`` significant bits as floor(255 * entry / maximum + 0.5), uint8, same shape."""
    if bits == 8:
        return entries.astype(np.uint8)
    top = (1 << bits) - 1
    wide = np.minimum(entries.astype(np.uint32), top)
    return ((wide * 510 + top) // (2 * top)).astype(np.uint8)


# -- grey -----------------------------------------------------------------------------------------------------


def _fold_grey(
    record: npt.NDArray[np.void], presentation: Presentation, view: View, layout: PixelLayout, extent: Extent
) -> Folded:
    record["invert"] = presentation.inverse != view.invert
    voi = choose_voi(presentation, view)
    if voi is None:
        # A frame that is all foreground must not look like one that is all background.
        one_bit = layout.bits_stored == 1 and not isinstance(presentation.modality, LookupTable)
        voi = auto_window(presentation, (0.0, 1.0) if one_bit else extent)
    window = voi if isinstance(voi, Window) else None
    if presentation.palette is not None:
        return _fold_supplemental(record, presentation, voi, layout)
    table_before = isinstance(presentation.modality, LookupTable)
    if isinstance(voi, LookupTable) or table_before or presentation.presentation_lut is not None:
        _set_table(record, layout)
        return _folded(record, grey_table(presentation, voi, layout), window)
    if voi.function is VoiFunction.SIGMOID:
        record["curve"], record["table_length"] = Curve.THRESHOLDS, 255
        return _folded(record, sigmoid_thresholds(voi), window)
    record["lower"], record["span"] = window_bounds(voi)
    return _folded(record, None, window)


def _fold_supplemental(
    record: npt.NDArray[np.void], presentation: Presentation, voi: Window | LookupTable, layout: PixelLayout
) -> Folded:
    """A colour for every stored value: grey below the palette's first mapped value, the palette from there on."""
    palette = cast(LookupTable, presentation.palette)
    _set_table(record, layout)
    record["colour"], record["output_samples"] = Colour.PALETTE, 3
    stored = stored_values(layout)
    grey = grey_table(presentation, voi, layout)
    grey = 255 - grey if record["invert"] else grey
    colours = np.where(
        (stored < palette.first_mapped)[:, None], grey[:, None], to_bytes(look_up(palette, stored), palette.bits)
    )
    low, high = presentation.pixel_padding or (math.inf, -math.inf)
    colours[(stored >= low) & (stored <= high)] = 0
    return _folded(record, colours, voi if isinstance(voi, Window) else None)


def choose_voi(presentation: Presentation, view: View) -> Window | LookupTable | None:
    """The VOI transformation in force: the caller's window, else the file's one asked for, else its first."""
    if view.window is not None:
        return view.window
    if view.voi_index is not None:
        if not 0 <= view.voi_index < len(presentation.voi):
            raise InvalidWindow(f"the frame has {len(presentation.voi)} VOI transformations, counted from 0")
        return presentation.voi[view.voi_index]
    return presentation.voi[0] if presentation.voi else None


def auto_window(presentation: Presentation, extent: Extent) -> Window:
    """The frame's range without padding, as a LINEAR_EXACT window in modality units; a flat frame shows black.

    ``extent`` as in fold().
    """
    low, high = (0.0, 0.0) if extent is None else _modality_range(presentation, extent)
    if not (math.isfinite(low) and math.isfinite(high - low)):
        raise NotRenderable("the frame's values have no finite range; ask for a window")
    if not high > low:
        return Window(low + 0.5, 1.0, VoiFunction.LINEAR_EXACT, "range of the frame")
    return Window((low + high) / 2, high - low, VoiFunction.LINEAR_EXACT, "range of the frame")


def _modality_range(presentation: Presentation, extent: tuple[float, float]) -> tuple[float, float]:
    if isinstance(presentation.modality, LookupTable):
        return extent
    rescale = presentation.modality or Rescale(1.0, 0.0)
    ends = [rescale.slope * value + rescale.intercept for value in extent]
    return min(ends), max(ends)


def table_extent(presentation: Presentation, stored: npt.NDArray[np.generic]) -> Extent:
    """Lowest and highest modality value of a frame whose modality is a LookupTable, without padding and colours.

    ``stored``: its stored values, any shape. None where nothing is left.
    """
    table = cast(LookupTable, presentation.modality)
    present = np.unique(stored).astype(np.int64)
    if presentation.pixel_padding is not None:
        low, high = presentation.pixel_padding
        present = present[(present < low) | (present > high)]
    if presentation.palette is not None:
        present = present[present < presentation.palette.first_mapped]
    if not present.size:
        return None
    values = look_up(table, present)
    return float(values.min()), float(values.max())


def window_bounds(window: Window) -> tuple[float, float]:
    """(lower, span) of LINEAR (C.11.2.1.2.1) or LINEAR_EXACT (C.11.2.1.3.2): grey = (m - lower) * 255 / span."""
    if window.function is VoiFunction.LINEAR:
        return window.center - 0.5 - (window.width - 1) / 2, window.width - 1
    return window.center - window.width / 2, window.width


def sigmoid_thresholds(window: Window) -> npt.NDArray[np.float64]:
    """The 255 modality values at which SIGMOID (C.11.2.1.3.1) reaches grey 0.5, 1.5 ... 254.5; ascending.

    grey = 255 / (1 + exp(-4 (m - center) / width)) is solved for m, so that every device compares instead of
    computing an exponential of its own.
    """
    half_greys = np.arange(255, dtype=np.float64) + 0.5
    with np.errstate(over="ignore"):  # beyond float64 a threshold is infinite: no value, or every value, reaches it
        thresholds: npt.NDArray[np.float64] = window.center - window.width / 4 * np.log(255 / half_greys - 1)
    return thresholds


def grey_of(values: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.uint8]:
    """8-bit grey of modality ``values`` (any shape) through ``window``: the formula the kernels run per pixel."""
    if window.function is VoiFunction.SIGMOID:
        return np.searchsorted(sigmoid_thresholds(window), values, side="right").astype(np.uint8)
    lower, span = window_bounds(window)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        grey = np.nan_to_num((values - lower) * 255 / span, nan=0.0)
    return np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)


def grey_table(presentation: Presentation, voi: Window | LookupTable, layout: PixelLayout) -> npt.NDArray[np.uint8]:
    """8-bit grey of every stored value, in the order of stored_values(), before inversion; for LUTs of any kind."""
    stored = stored_values(layout)
    if isinstance(presentation.modality, LookupTable):
        values: npt.NDArray[np.float64] = look_up(presentation.modality, stored).astype(np.float64)
    else:
        rescale = presentation.modality or Rescale(1.0, 0.0)
        values = rescale.slope * stored.astype(np.float64) + rescale.intercept
    presentation_lut = presentation.presentation_lut
    if isinstance(voi, Window):
        if presentation_lut is None:
            return grey_of(values, voi)
        return _through_presentation_lut(fraction_of(values, voi), presentation_lut)
    # A LUT's input is an integer; modality values between two of them take the nearer one.
    inputs = np.floor(np.clip(values, -(2.0**31), 2.0**31) + 0.5).astype(np.int64)
    entries = look_up(voi, inputs)
    if presentation_lut is None:
        return to_bytes(entries, voi.bits)
    top = (1 << voi.bits) - 1
    return _through_presentation_lut(np.minimum(entries, top) / top, presentation_lut)


def fraction_of(values: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.float64]:
    """Modality ``values`` through ``window`` as 0 to 1 of the output range (C.11.2.1.2, C.11.2.1.3), float64."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if window.function is VoiFunction.SIGMOID:
            return 1 / (1 + np.exp(-4 * (values - window.center) / window.width))
        lower, span = window_bounds(window)
        fraction = np.nan_to_num((values - lower) / span, nan=0.0)
    return np.clip(fraction, 0.0, 1.0)


def _through_presentation_lut(fraction: npt.NDArray[np.float64], table: LookupTable) -> npt.NDArray[np.uint8]:
    """C.11.6.1.1: the VOI's whole output range maps to the table's entries, whose whole range is black to white."""
    last = len(table.data) - 1
    return to_bytes(table.data[np.floor(fraction * last + 0.5).astype(np.int64)], table.bits)
