"""What a correct picture is, line by line, and the tests that prove each line.

``python -m tests.rendering`` writes docs/requirements.md; tests/test_rendering_lines.py checks that every test named
here exists and that the document is current. Sections are those of the project's paper on rendering: its eight stages,
the silent wrong pixels, the reference and the errors.
"""

from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "requirements.md"

PENDING: set[str] = set()
"""Keys of requirements whose tests are still to be written."""

Tests = tuple[str, ...]

_CHAIN = "tests/api/test_chain.py::"
_CONTAINERS = "tests/api/test_containers.py::"
_ERRORS = "tests/api/test_errors.py::"
_PICTURES = "tests/api/test_pictures.py::"
_WHOLE = "tests/gpu_render/test_pictures.py::"
_DECODE = "tests/gpu_render/test_decode.py::"
_FOLDER = "tests/gpu_render/test_folder.py::"
_HEADER = "tests/gpu_render/test_header.py::"
_TRANSFORM = "tests/gpu_render/test_transform.py::"
_WORKERS = "tests/gpu_render/test_workers.py::"


def _looks(*names: str) -> Tests:
    return tuple(f"{_CHAIN}test_every_look_is_what_the_standard_says[{name}]" for name in names)


def _lossless(*names: str) -> Tests:
    return tuple(f"{_CONTAINERS}test_lossless_frames_come_back_as_they_were_encoded[{name}]" for name in names)


def _lossy(*names: str) -> Tests:
    return tuple(f"{_CONTAINERS}test_lossy_frames_come_back_near_what_was_encoded[{name}]" for name in names)


def _kinds(syntax: str, *kinds: str) -> Tests:
    return _lossless(*(f"{syntax}, {kind}" for kind in kinds))


def _cut(container: str) -> Tests:
    uids = ("1.98", "8.1", "5", "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.92", "4.93", "4.110")
    names = (*uids, "4.111", "4.112", "4.201", "4.202", "4.203")
    test = "test_every_way_to_cut_frames_into_fragments"
    # Without its own offset table a frame that has no codestream marker cannot be cut: that test expects the refusal.
    return tuple(f"{_CONTAINERS}{test}[1.2.840.10008.1.2.{name}-{container}]" for name in names)


def _gdcm(name: str) -> Tests:
    return tuple(f"{_CONTAINERS}test_files_that_gdcm_wrote[{k}-{name}]" for k in ("8", "12 signed", "16", "rgb 8"))


def _broken(*names: str) -> Tests:
    return tuple(f"{_ERRORS}test_a_file_that_cannot_be_shown[{name}]" for name in names)


_GREYS = ("8", "8 signed", "12", "12 signed", "16", "16 signed")
_WIDE = (*_GREYS, "32", "32 signed", "rgb 8", "rgb 16")

_DECODE_LINES: dict[str, tuple[str, Tests]] = {
    "implicit": ("Implicit VR Little Endian", _kinds("implicit", *_WIDE)),
    "explicit": ("Explicit VR Little Endian", _kinds("explicit", *_WIDE)),
    "big-endian": (
        "Explicit VR Big Endian",
        (*_kinds("big endian", *_WIDE), *_gdcm("ExplicitVRBigEndian"), *_looks("palette, big endian")),
    ),
    "deflated": (
        "Deflated Explicit VR Little Endian",
        (*_kinds("deflated", *_WIDE), *_gdcm("DeflatedExplicitVRLittleEndian")),
    ),
    "rle": ("RLE Lossless", (*_kinds("RLE", *_WIDE), *_gdcm("RLELossless"), *_looks("YBR_FULL in RLE"))),
    "jpeg-baseline": ("JPEG baseline, 8 bit, grey and colour", (
        *_lossy("JPEG baseline, 8"),
        f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean",
    )),
    "jpeg-extended": ("JPEG extended, 8 and 12 bit", (
        *_lossy("JPEG extended, 8", "JPEG extended, 12"),
        f"{_DECODE}test_twelve_bit_jpeg_equals_dcmtk",
    )),
    "jpeg-lossless-57": ("JPEG lossless (57) with every predictor", (
        *_kinds("JPEG lossless 1", *_GREYS), *_kinds("JPEG lossless 4", *_GREYS),
        *_kinds("JPEG lossless 7", *_GREYS, "rgb 8"), *_gdcm("JPEGLosslessProcess14"),
        f"{_DECODE}test_every_predictor_of_lossless_jpeg",
    )),
    "jpeg-lossless-70": ("JPEG lossless (70)", (
        *_kinds("JPEG lossless SV1", *_GREYS, "rgb 8"), *_gdcm("JPEGLosslessProcess14_1"),
    )),
    "jpeg-ls": ("JPEG-LS lossless (80), by pixel, by line or by plane", (
        *_kinds("JPEG-LS", *_GREYS, "rgb 8", "rgb 16"), *_kinds("JPEG-LS by line", "rgb 8", "rgb 16"),
        *_kinds("JPEG-LS by plane", "rgb 8"),
        *_gdcm("JPEGLSLossless"),
    )),
    "jpeg-ls-near": ("JPEG-LS near-lossless (81), also with an error of 0", (
        *_lossy(*(f"JPEG-LS near-lossless, {kind}" for kind in (*_GREYS, "rgb"))),
        *_kinds("JPEG-LS as near-lossless of 0", *_GREYS),
    )),
    "jpeg-2000": ("JPEG 2000 lossless (90)", (
        *_kinds("JPEG 2000", *_GREYS, "rgb 8", "rgb 16", "YBR_RCT"), *_gdcm("JPEG2000Lossless"),
    )),
    "jpeg-2000-lossy": ("JPEG 2000 (91), reversible and irreversible", (
        *_lossy(*(f"JPEG 2000 lossy, {kind}" for kind in ("8", "12", "16", "16 signed", "YBR_ICT"))),
        *_kinds("JPEG 2000 lossless as lossy", *_GREYS, "rgb 8"),
    )),
    "jpeg-2000-part-2": (
        "JPEG 2000 Part 2 (92, 93): codestreams without extensions are decoded, others refused by name", (
            *_kinds("JPEG 2000 Part 2 without extensions", "12 signed", "rgb 8"),
            *_lossy("JPEG 2000 Part 2 without extensions, 8"),
            f"{_WHOLE}test_jpeg_2000_part_2_is_decoded_where_it_needs_no_extension",
        ),
    ),
    "htj2k": ("HTJ2K lossless (201) and RPCL (202)", (
        *_kinds("HTJ2K", *_GREYS, "rgb 8"), *_kinds("HTJ2K RPCL", *_GREYS, "rgb 8"),
    )),
    "htj2k-lossy": ("HTJ2K (203), reversible and irreversible", (
        *_lossy("HTJ2K lossy, 8", "HTJ2K lossy, 16 signed"), *_kinds("HTJ2K lossless as lossy", *_GREYS, "rgb 8"),
    )),
    "jpeg-xl": ("JPEG XL lossless (110)", _kinds("JPEG XL lossless", *_GREYS, "rgb 8", "rgb 16")),
    "jpeg-xl-recompression": ("JPEG XL JPEG Recompression (111)", (
        *_lossy("JPEG XL recompression, 8"), f"{_CHAIN}test_a_jpeg_recompressed_as_jpeg_xl_is_that_jpeg",
    )),
    "jpeg-xl-lossy": ("JPEG XL (112), RGB and XYB", (
        *_lossy(*(f"JPEG XL lossy, {kind}" for kind in ("8", "16", "rgb", "XYB"))),
        *_kinds("JPEG XL lossless as lossy", "8", "12", "rgb 8"),
    )),
    "encapsulated-uncompressed": ("Encapsulated Uncompressed (1.2.1.98)", (
        *_kinds("encapsulated uncompressed", *_WIDE, "rgb 8 in planes"),
        f"{_CONTAINERS}test_1_bit_frames_in_every_syntax_that_has_them",
    )),
    "deflated-frame": ("Deflated Image Frame Compression (1.2.8.1)", (
        *_kinds("deflated frames", *_WIDE, "rgb 8 in planes"),
        f"{_CONTAINERS}test_1_bit_frames_in_every_syntax_that_has_them",
    )),
    "one-decoder": ("One decoder for each transfer syntax, named in the answer", (
        f"{_CONTAINERS}test_every_row_of_the_decoder_table_has_its_forms",
        f"{_DECODE}test_another_transfer_syntax_than_the_codestream_is_an_error",
    )),
    "several-fragments": (
        "Several fragments a frame; where nothing says where a frame begins, a refusal", (
            *_cut("pieces"), *_cut("pieces, basic table"), f"{_CONTAINERS}test_one_frame_takes_all_fragments",
        ),
    ),
    "empty-offset-table": ("Empty Basic Offset Table", _cut("empty table")),
    "basic-offset-table": ("Basic Offset Table", (
        *_cut("basic table"),
        f"{_CONTAINERS}test_a_basic_offset_table_that_fits_nothing_does_not_matter_where_frames_are_fragments",
    )),
    "extended-offset-table": ("Extended Offset Table", _cut("extended table")),
    "missing-delimiter": ("No sequence delimiter at the end", (
        *_cut("no delimiter"), *_cut("pieces, basic table, no delimiter"),
    )),
    "empty-last-fragment": ("A last fragment of 0 bytes", (
        *_cut("empty last fragment"), *_cut("empty last fragment, basic table"),
    )),
    "one-read": ("Frame n costs one read of its own bytes, not a scan", (
        f"{_CONTAINERS}test_a_frame_costs_one_read_of_its_own_bytes",
    )),
    "frame-n": ("Frame n of a long object is frame n", (f"{_CONTAINERS}test_frame_n_of_200_is_frame_n",)),
    "no-preamble": ("Files without a preamble", (
        *(f"{_PICTURES}test_every_stage_is_what_the_standard_says[no preamble]",),
        f"{_CONTAINERS}test_encapsulated_files_without_a_preamble",
    )),
    "no-meta-group": ("Files without File Meta Information: native ones are shown, encapsulated ones refused", (
        f"{_WHOLE}test_files_without_a_preamble_or_meta_information",
        f"{_CONTAINERS}test_encapsulated_files_without_file_meta_information_are_refused",
    )),
    "odd-sizes": ("Odd sizes: 1 x 1, 1 x N, frames of odd length", (
        f"{_CONTAINERS}test_odd_sizes_and_frames_of_odd_length",
    )),
    "float": ("Float Pixel Data", _looks("parametric map of Float Pixel Data", "NaN in Float Pixel Data")),
    "double": ("Double Float Pixel Data", _looks(
        "parametric map of Double Float Pixel Data", "NaN in Double Float Pixel Data"
    )),
}  # fmt: skip

_POST_LINES: dict[str, tuple[str, Tests]] = {
    "byte-swap": ("Big endian samples of 8, 16 and 32 bits, also 8 bits in words of OW", (
        *_kinds("big endian", *_WIDE),
        f"{_CONTAINERS}test_odd_sizes_and_frames_of_odd_length[.2]",
    )),
    "byte-order": ("LUTs, padding and floating point pixels of implicit and big endian files", _looks(
        *(
            f"{what}, {name}"
            for name in ("implicit", "big endian")
            for what in ("LUTs", "padding range", "Float Pixel Data", "Double Float Pixel Data")
        ),
        "8 bit samples of OB, big endian",
    )),
    "one-bit": ("1-bit pixels, frames that begin inside a byte, columns that fill no byte", (
        f"{_CONTAINERS}test_1_bit_frames_in_every_syntax_that_has_them",
        f"{_PICTURES}test_frames_of_one_bit_that_begin_inside_a_byte",
        f"{_WHOLE}test_one_bit_has_no_sign",
    )),
    "mask": ("Masked to Bits Stored at High Bit (10 and 12 in 16)", (
        *_looks(*(f"{bits} bits up to bit {high}, unsigned" for bits in (10, 12) for high in (12, 15))),
        f"{_WHOLE}test_only_bits_stored_at_high_bit_are_seen",
    )),
    "sign-extend": ("Sign-extended by Pixel Representation", (
        *_looks(*(f"{bits} bits up to bit {high}, signed" for bits in (10, 12) for high in (12, 15))),
        *_kinds("explicit", "8 signed", "12 signed", "16 signed", "32 signed"),
    )),
    "overlay-bits": ("Overlays in the bits above High Bit do not leak, native or encoded", (
        *_looks(*(
            f"overlay in the high bits, {name}, {sign}"
            for name in ("native", "RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K")
            for sign in ("unsigned", "signed")
        )),
        f"{_DECODE}test_bits_above_bits_stored_in_a_reversible_codestream_are_not_clamped",
    )),
    "j2k-sign": (
        "JPEG 2000 whose sign or precision is not the dataset's: the codestream decides the decoding, Pixel "
        "Representation the meaning", (
            *_looks(*(
                f"{precision} bit codestream {a}signed, dataset {b}signed"
                for precision in (12, 13, 16) for a in ("", "un") for b in ("", "un")
            ), "13 bit codestream unsigned, dataset 16 bit signed"),
            f"{_DECODE}test_sign_of_codestream_and_dataset",
        ),
    ),
    "jpeg-ls-sign": ("JPEG-LS whose precision is below Bits Stored: a sign that readers disagree on is refused", (
        f"{_DECODE}test_jpeg_ls_of_fewer_bits_than_stored_has_no_certain_sign",
    )),
    "rle-planes": ("RLE byte planes become samples of 8, 16 and 32 bits, grey and colour", (
        *_kinds("RLE", "16 signed", "32", "32 signed", "rgb 8", "rgb 16"), f"{_DECODE}test_rle_of_every_container",
    )),
    "planar": ("Planes become interleaved pixels", _looks(
        "RGB 8 in planes", "RGB 16 in planes", "YBR_FULL in planes"
    )),
    "planar-codestream": ("Planar Configuration means nothing to a codestream", _lossless(*(
        f"{name} said to be in planes, rgb 8"
        for name in ("RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "JPEG XL")
    ))),
    "narrow-codestream": ("Codestreams of 8 bits where 16 are allocated, signed too", _lossless(*(
        f"{name}, 8 in 16{sign}"
        for name in ("RLE", "JPEG lossless SV1", "JPEG-LS", "JPEG 2000", "JPEG XL lossless") for sign in ("", " signed")
    ))),
    "ybr-full": ("YBR_FULL", _looks("YBR_FULL", "YBR_FULL in planes", "YBR_FULL in RLE")),
    "ybr-full-422": ("YBR_FULL_422, uncompressed and JPEG", (
        *_looks("YBR_FULL_422"), f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[YBR_FULL_422-JFIF]",
        f"{_FOLDER}test_subsampling_that_the_length_denies",
    )),
    "ybr-rct": ("YBR_RCT", (
        *_kinds("JPEG 2000", "YBR_RCT"),
        f"{_WHOLE}test_the_colour_transform_of_a_codestream_and_of_the_header_agree",
    )),
    "ybr-ict": ("YBR_ICT", _lossy("JPEG 2000 lossy, YBR_ICT")),
    "ybr-partial-422": ("YBR_PARTIAL_422, uncompressed and JPEG", (
        *_looks("YBR_PARTIAL_422"),
        f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[YBR_PARTIAL_422-none]",
    )),
    "ybr-wide": ("YBR of other than 8 bits: refused", (f"{_TRANSFORM}test_ybr_of_other_than_8_bits_is_refused",)),
    "ybr-partial-420": ("YBR_PARTIAL_420", (
        f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[YBR_PARTIAL_420-none]",
    )),
    "jpeg-markers": ("JPEG whose Photometric Interpretation and APP14 or JFIF disagree: the dataset decides", (
        *(
            f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[{photometric}-{marker}]"
            for photometric in ("RGB", "YBR_FULL", "YBR_FULL_422") for marker in ("none", "JFIF", "Adobe 0", "Adobe 1")
        ),
    )),
    "palette-8": ("PALETTE COLOR of 8-bit entries, packed or one to a word", _looks(
        "palette, 8 bit packed", "palette, 8 bit one to a word"
    )),
    "palette-16": ("PALETTE COLOR of 16-bit entries, signed samples too", _looks(
        "palette, 16 bit", "palette, 16 bit samples, 65536 entries", "palette, signed samples, negative first value",
        "palette, RLE", "palette, implicit", "palette, big endian",
    )),
    "palette-segmented": ("Segmented palettes of 8 and 16 bits: discrete, linear, indirect", _looks(
        "palette, segmented 8 bit", "palette, segmented 16 bit"
    )),
    "palette-supplemental": ("Supplemental palettes of grey images (Pixel Presentation COLOR, MIXED)", (
        f"{_WHOLE}test_supplemental_palette",
    )),
}  # fmt: skip

_MODALITY_LINES: dict[str, tuple[str, Tests]] = {
    "rescale": ("Rescale Slope and Intercept, whole and fractional", _looks("fractional slope", "values beyond int16")),
    "modality-lut": ("Modality LUT: first mapped value, 16-bit entries, packed 8-bit entries, 65536 entries", _looks(
        "Modality LUT of unsigned input with a first value above 32767", "Modality LUT of 65536 entries",
        "Modality LUT of packed 8 bit entries", "Modality LUT without VOI shows its own range",
        "Modality LUT before Rescale",
    )),
    "modality-lut-signed": ("Modality LUT of signed input with a negative first mapped value", _looks(
        "Modality LUT of signed input, VOI LUTs and windows by index", "Modality LUT descriptor of VR SS"
    )),
    "functional-groups": ("Enhanced CT, MR and PET: per-frame before shared before root, macro by macro", _looks(
        *(f"enhanced {name} with per-frame, shared and root values" for name in ("CT", "MR", "PET")),
        "enhanced CT whose other frames have the root's values", "enhanced MR whose own window is empty",
        "enhanced PET with a slope for every frame",
    )),
    "negative-slope": ("Negative slope, with and without a window", _looks(
        "negative slope", "negative slope without a window"
    )),
    "slope-absent": ("A slope of 0, empty or missing counts as absent, and the manifest says so", _looks(
        "slope of 0 is absent", "slope empty is absent", "slope missing is absent"
    )),
}  # fmt: skip

_PADDING_LINES: dict[str, tuple[str, Tests]] = {
    "padding-range": ("Padding value and range, signed by Pixel Representation, whatever VR the file chose", _looks(
        "one padding value", "padding range of signed samples", "padding range written with VR US",
        "padding range with its limit first", "padding range of unsigned samples",
    )),
    "padding-auto-window": ("Padding does not count for the automatic window", _looks(
        "padding range of signed samples", "padding is compared with stored values, not rescaled ones",
        "nothing but padding",
    )),
    "padding-background": ("Padding is shown as background under every window, inverted or not", _looks(
        "padding under a window", "padding of MONOCHROME1 stays background"
    )),
    "padding-float": ("Float and Double Float Pixel Padding Value", _looks(
        "padding of Float Pixel Data", "padding of Double Float Pixel Data"
    )),
}  # fmt: skip

_VOI_LINES: dict[str, tuple[str, Tests]] = {
    "several-windows": ("Several windows: the first by default, any by its index", (
        *_looks("several windows"), f"{_CHAIN}test_a_voi_number_beyond_the_files_own_is_400",
    )),
    "voi-lut": ("VOI LUT where there is one and no window was asked for", _looks(
        "VOI LUT where no window was asked for", "VOI LUT of rescaled values", "VOI LUT with a negative first value",
        "Modality LUT of signed input, VOI LUTs and windows by index",
    )),
    "linear": ("LINEAR with its -0.5 and -1, of the file and of the request", (
        *_looks("LINEAR of the file and of the request"),
        f"{_TRANSFORM}test_every_window_equals_the_standards_formula_on_every_stored_value",
    )),
    "linear-exact": ("LINEAR_EXACT, of the file and of the request", _looks(
        "LINEAR_EXACT of the file and of the request"
    )),
    "sigmoid": ("SIGMOID, of the file and of the request", _looks("SIGMOID of the file and of the request")),
    "width-1": ("LINEAR of width 1 is a step at center - 0.5", _looks("width 1 is a step at center - 0.5")),
    "width-request": ("An impossible width in a request is an error", (
        "tests/gpu_render/test_view.py::test_what_is_no_window_is_refused",
        "tests/api/test_frames.py::test_requests_that_are_none_are_refused",
    )),
    "width-file": ("An impossible width in a file is passed over, and the manifest says so", _looks(
        "impossible windows are passed over", "nothing but impossible windows", "PET whose LINEAR width is below 1"
    )),
    "empty-window": ("Present but empty counts as absent", _looks(
        "empty windows are absent", "enhanced MR whose own window is empty"
    )),
    "lut-bits": ("LUT entries beyond their declared bits have 16", (
        f"{_WHOLE}test_entries_beyond_their_declared_bits_have_16",
    )),
    "xa-lut": ("X-ray angiography: the Modality LUT leads to intensities and is none for display", (
        f"{_WHOLE}test_the_modality_lut_of_angiography_is_none_for_display",
    )),
    "one-bit-flat": ("A 1-bit frame of one value shows which", (
        f"{_WHOLE}test_a_frame_of_one_bit_and_one_value_shows_which",
    )),
    "no-window": ("No window at all: lowest to highest value of the frame without padding", (
        *_looks("no window at all", "padding range of signed samples", "Modality LUT without VOI shows its own range"),
        f"{_WHOLE}test_a_modality_lut_without_a_window_shows_the_range_of_the_frames_own_values",
    )),
    "tiny-widths": ("Fractional and tiny widths on tiny slopes: PET, parametric maps", _looks(
        "PET with a fractional slope and window", "PET whose LINEAR width is below 1",
        "tiny width on a tiny slope", "parametric map of Float Pixel Data",
        "parametric map of Double Float Pixel Data",
    )),
    "float-voi": ("Float and Double Float Pixel Data through windows, NaN and infinity included", (
        *_looks("NaN in Float Pixel Data", "NaN in Double Float Pixel Data"),
        f"{_WHOLE}test_float_pixels_with_nan_and_infinity",
    )),
}  # fmt: skip

_PRESENTATION_LINES: dict[str, tuple[str, Tests]] = {
    "monochrome1": ("MONOCHROME1 inverts after VOI", _looks(
        "MONOCHROME1 with Presentation LUT Shape absent", "MONOCHROME1 inverts after a VOI LUT"
    )),
    "inverse": ("Presentation LUT Shape INVERSE inverts", _looks("MONOCHROME2 with Presentation LUT Shape INVERSE")),
    "inverse-once": ("Both together invert once", _looks("MONOCHROME1 with Presentation LUT Shape INVERSE")),
    "presentation-lut": ("Presentation LUT Sequence, after VOI", (
        f"{_WHOLE}test_a_presentation_lut_comes_after_the_window",
        f"{_WHOLE}test_a_presentation_lut_comes_after_a_sigmoid_and_after_a_voi_lut",
        f"{_WHOLE}test_padding_stays_black_through_a_presentation_lut",
        f"{_WHOLE}test_an_ambiguous_presentation_lut_is_refused",
    )),
}  # fmt: skip

_GEOMETRY_LINES: dict[str, tuple[str, Tests]] = {
    "window-before-region": ("The window before the region: a range is that of the whole frame", _looks(
        "the range is that of the frame, not of the region"
    )),
    "window-before-scaling": ("The window before the scaling", _looks("the window comes before the scaling")),
    "region-before-viewport": ("The region before the viewport", _looks(
        "region, then viewport", "region of every stage"
    )),
    "bilinear": ("Bilinear, pixel centers at .5", _looks(
        "region, then viewport", "the window comes before the scaling"
    )),
    "non-square": ("Pixels that are not square are scaled square, per frame too", _looks(
        "pixels that Pixel Spacing says are tall", "pixels that Imager Pixel Spacing says are tall",
        "pixels that Pixel Aspect Ratio says are tall", "pixels of another shape in every frame",
    )),
}  # fmt: skip

_OUTPUT_LINES: dict[str, tuple[str, Tests]] = {
    "rounding": ("floor(255 t + 0.5), uint8: halves are rounded up", (
        *_looks("halves are rounded up"), "tests/kernels/test_cpu.py::test_exact_ties_round_up",
    )),
    "cpu-equals-gpu": ("CPU and GPU are equal byte for byte", (
        "tests/kernels/test_equality.py::test_edges", "tests/kernels/test_equality.py::test_any_batch",
        "tests/kernels/test_nvrtc.py::test_no_operation_is_fused_or_flushes_denormals",
    )),
    "array-headers": ("An answer names its stage, shape, type, byte order, window and decoder", (
        f"{_CHAIN}test_the_answer_names_stage_type_order_and_window",
        f"{_CONTAINERS}test_lossless_frames_come_back_as_they_were_encoded",
    )),
}  # fmt: skip

_SILENT_LINES: dict[str, tuple[str, Tests]] = {
    "point-transform": ("JPEG lossless with a point transform", (
        f"{_CHAIN}test_a_point_transform_of_lossless_jpeg_is_undone",
        f"{_DECODE}test_point_transform_of_lossless_jpeg_is_undone",
    )),
    "lossy-white": ("White of a lossy codec is clamped to Bits Stored, never wrapped or masked", (
        f"{_CHAIN}test_white_of_a_lossy_codec_never_turns_black",
        f"{_DECODE}test_lossy_htj2k_never_wraps_white_to_black",
        f"{_DECODE}test_lossy_output_is_clamped_to_bits_stored",
        f"{_DECODE}test_near_lossless_jpeg_ls_clamps_its_own_error_and_no_more",
    )),
    "high-bit": ("High Bit other than Bits Stored - 1: shifted, then masked, or refused", (
        *_looks(*(f"{bits} bits up to bit 15, {sign}" for bits in (10, 12) for sign in ("unsigned", "signed"))),
        f"{_WHOLE}test_a_codestream_without_the_bits_of_high_bit_is_refused",
    )),
    "falling-offsets": ("Offset tables that do not rise are refused", (
        f"{_CONTAINERS}test_an_offset_table_that_does_not_rise_is_refused",
        *_broken("offsets-fall", "extended-offsets-fall"),
    )),
    "frame-numbers": ("Pieces, merged frames and frames that were left out give no frame another number", (
        "tests/gpu_render/test_encapsulation.py::test_pieces_are_not_counted_as_frames",
        "tests/gpu_render/test_encapsulation.py::test_a_whole_file_with_fewer_fragments_than_frames_is_refused",
        "tests/gpu_render/test_encapsulation.py::test_a_cut_file_whose_table_contradicts_its_fragments_is_refused",
        *_broken("a-frame-left-out", "fragments-for-no-frames"),
    )),
    "jpeg-12": ("12-bit JPEG extended", (
        *_lossy("JPEG extended, 12"), f"{_DECODE}test_twelve_bit_jpeg_equals_dcmtk",
        f"{_CONTAINERS}test_lossy_frames_are_what_another_decoder_makes_of_them[JPEG extended, 12]",
    )),
    "jpeg-rgb": ("JPEG that the dataset calls RGB and the stream YCbCr: the dataset decides", (
        f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[RGB-JFIF]",
        f"{_CHAIN}test_the_dataset_decides_what_jpeg_components_mean[RGB-Adobe 1]",
    )),
    "jpeg-short": ("JPEG whose data end before its last pixel, though a marker says it is whole", (
        f"{_DECODE}test_a_jpeg_whose_data_end_before_its_last_pixel_is_an_error",
        f"{_DECODE}test_a_jpeg_that_ends_in_mid_grey_is_whole",
    )),
    "lost-bytes": ("A frame that lost bytes is an error and shows no other", (
        f"{_CONTAINERS}test_a_frame_that_lost_bytes_is_an_error_and_shows_no_other",
        f"{_CONTAINERS}test_a_frame_that_the_file_does_not_hold_costs_no_other",
        f"{_WHOLE}test_bytes_lost_from_the_pixels_are_not_made_up_by_what_follows",
        f"{_DECODE}test_a_truncated_codestream_is_an_error",
    )),
    "codestream-size": ("The codestream's own size is compared with the header before decoding", (
        f"{_DECODE}test_a_codestream_that_disagrees_with_the_dataset_is_an_error",
        f"{_DECODE}test_a_mismatch_names_both_sizes",
        *_broken("j2k-fewer-rows", "jpeg-ls-fewer-rows", "jpeg-more-components"),
    )),
    "declared-pixels": ("Declared pixels are limited before anything is allocated", (
        *_broken("bomb-rows-and-columns", "bomb-frames", "bomb-rle", "bomb-j2k"),
        f"{_HEADER}test_header_bombs",
    )),
    "deflate-bomb": ("Deflate is inflated in steps with a cap", (
        f"{_FOLDER}test_a_deflate_bomb_is_refused_before_it_is_inflated",
        f"{_DECODE}test_deflated_frames_and_deflate_bombs",
        *_broken("bomb-deflated-data-set", "deflated-frame-bomb"),
    )),
    "nesting": ("Any exception out of a parser is one typed error: nesting 250 deep", (
        f"{_FOLDER}test_nesting_that_breaks_the_parser",
        f"{_WORKERS}test_of_other_errors_only_the_type_crosses",
    )),
    "lut-ends": ("Indices beside a table take its first or last entry", (
        *_looks(
            "palette, indices beside both ends", "palette, 16 bit samples beside both ends",
            "Modality LUT of signed input, VOI LUTs and windows by index", "VOI LUT with a negative first value",
        ),
    )),
    "old-pixels": ("Buffers that are used again never show old pixels", (
        f"{_CONTAINERS}test_a_small_frame_after_a_large_one_shows_nothing_of_it",
        f"{_CONTAINERS}test_an_answer_keeps_its_pixels_while_others_are_rendered",
        f"{_CONTAINERS}test_a_frame_that_lost_bytes_is_an_error_and_shows_no_other",
        f"{_WORKERS}test_results_of_changing_size_never_show_an_earlier_one",
    )),
    "own-pixels": ("Requests that are answered together each get their own pixels", (
        f"{_CONTAINERS}test_many_requests_at_once_each_get_their_own_frame",
        "tests/kernels/test_equality.py::test_all_edges_as_one_batch",
    )),
}  # fmt: skip

_REFERENCE_LINES: dict[str, tuple[str, Tests]] = {
    "reference-lossless": ("Lossless: stored values equal to what other readers agree on", (
        f"{_DECODE}test_corpus_files_have_the_agreed_stored_values",
        f"{_DECODE}test_pydicom_samples_have_the_stored_values_that_pydicom_gives",
        f"{_CONTAINERS}test_files_that_gdcm_wrote",
    )),
    "reference-lossy": ("Lossy JPEG 2000 and HTJ2K within 1 of another decoder, JPEG within 2", (
        f"{_CONTAINERS}test_lossy_frames_are_what_another_decoder_makes_of_them",
    )),
    "reference-modality": ("Modality: exact for integers, 1e-6 relative for floats", (
        *_kinds("explicit", *_GREYS, "32", "32 signed"), *_looks("fractional slope", "tiny width on a tiny slope"),
    )),
    "reference-tables": ("Display of tables: exact", _looks(
        "VOI LUT where no window was asked for", "VOI LUT of rescaled values", "palette, 16 bit",
    )),
    "reference-windows": ("Display of windows: the formula", (
        *_looks(*(f"{function} of the file and of the request" for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"))),
        f"{_TRANSFORM}test_every_window_equals_the_standards_formula_on_every_stored_value",
    )),
}  # fmt: skip

_ERROR_LINES: dict[str, tuple[str, Tests]] = {
    "error-404": ("No such frame, instance, series or study: 404", (
        f"{_ERRORS}test_a_request_that_cannot_be_answered",
        f"{_CONTAINERS}test_frame_n_of_200_is_frame_n",
    )),
    "error-400": ("Malformed UID, frame 0, a window that is none, a region outside: 400", (
        f"{_ERRORS}test_a_request_that_cannot_be_answered",
        "tests/api/test_frames.py::test_requests_that_are_none_are_refused",
        "tests/api/test_frames.py::test_what_is_not_there_is_said_to_be_so",
    )),
    "error-accept": ("Nothing acceptable in Accept: 406", (
        "tests/api/test_frames.py::test_nothing_acceptable_is_406_and_says_what_there_is",
    )),
    "error-406": ("Objects without pixels, and views that have no meaning: 406 with the reason", (
        *_broken("without-pixels-sr", "without-pixels-pr", "without-pixels-ko"),
        f"{_CHAIN}test_colour_has_neither_window_nor_modality_values",
    )),
    "error-422": ("Truncated or corrupt pixel data, lengths that disagree: 422", (
        *_broken("rle-half", "jpeg-half", "j2k-half", "explicit-value-short", "explicit-file-cut", "third-frame-cut"),
    )),
    "error-422-decoder": ("A decoder that failed, hung or ran out of memory: 422, and only for its frame", (
        f"{_WORKERS}test_a_crash_costs_one_call_and_is_logged",
        f"{_WORKERS}test_a_hang_is_stopped_at_its_time_limit_and_reaped",
        f"{_WORKERS}test_a_memory_bomb_is_stopped_and_the_worker_survives",
        f"{_ERRORS}test_every_row_of_the_table_of_statuses_occurs",
    )),
    "error-501": ("A transfer syntax without decoder: 501, naming it and what would be needed", (
        f"{_CONTAINERS}test_a_transfer_syntax_without_decoder_is_501_and_named",
        *_broken("syntax-1.2.840.10008.1.2.4.102", "syntax-1.2.840.10008.1.2.4.94"),
    )),
    "error-413": ("A header bomb: 413, before anything is allocated", (
        *_broken("bomb-rows-and-columns", "bomb-all-there-is", "bomb-deflated-data-set"),
        "tests/gpu_render/test_renderer.py::test_a_frame_above_the_limit_is_refused_before_it_is_decoded",
    )),
    "error-503": ("A full queue: 503 with Retry-After", (
        "tests/api/test_service.py::test_a_full_queue_is_503_with_retry_after",
    )),
    "error-message": ("Each error is typed, names the SOP Instance UID and holds no patient attribute", (
        f"{_ERRORS}test_a_file_that_cannot_be_shown",
        f"{_ERRORS}test_what_can_be_ignored_in_a_file_is_not_quoted_in_headers",
        f"{_FOLDER}test_reasons_name_no_values",
    )),
}  # fmt: skip

RENDERING_LINES: dict[str, dict[str, tuple[str, Tests]]] = {
    "1. Decode": _DECODE_LINES,
    "2. Post-processing": _POST_LINES,
    "3. Modality": _MODALITY_LINES,
    "4. Padding": _PADDING_LINES,
    "5. VOI": _VOI_LINES,
    "6. Presentation": _PRESENTATION_LINES,
    "7. Geometry": _GEOMETRY_LINES,
    "8. Output": _OUTPUT_LINES,
    "Silent wrong pixels": _SILENT_LINES,
    "Reference": _REFERENCE_LINES,
    "Errors": _ERROR_LINES,
}
"""{section: {key: (requirement, names of its tests)}}. A name without brackets stands for all its parameters."""


def named_tests() -> dict[str, Tests]:
    """Names of the tests of every requirement, by its key."""
    return {key: tests for lines in RENDERING_LINES.values() for key, (_, tests) in lines.items()}


def _together(tests: Tests) -> str:
    """Names for a reader: parameters of one test in one line."""
    functions: dict[str, list[str]] = {}
    for test in tests:
        function, _, parameters = test.partition("[")
        functions.setdefault(function, []).extend([parameters.removesuffix("]")] if parameters else [])
    lines = []
    for function, named in functions.items():
        module, _, name = function.removeprefix("tests/").partition("::")
        many = f": {'; '.join(named)}" if named else ""
        lines.append(f"`{module}` `{name}`{many}".replace("|", "\\|"))
    return "<br>".join(lines) or "to be written"


def document() -> str:
    """docs/requirements.md."""
    count = len(named_tests())
    parts = [
        "# Every requirement and its test\n",
        f"What a correct picture is, in {count} lines, and the tests that prove each. Written by"
        " `python -m tests.rendering`; `tests/test_rendering_lines.py` checks that every test exists.\n",
    ]
    for section, lines in RENDERING_LINES.items():
        rows = [f"| {text} | {_together(tests)} |" for text, tests in lines.values()]
        parts.append("\n".join([f"## {section}\n", "| requirement | tests |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
