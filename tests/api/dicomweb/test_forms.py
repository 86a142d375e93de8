"""What a viewer's Accept gets, without a service: every spelling that clients are known to send."""

import pytest

from api.dicomweb.forms import (
    DICOM,
    OCTETS,
    Form,
    InstanceForm,
    choose_bulkdata_form,
    choose_frame_form,
    choose_instance_form,
    frame_syntaxes,
    instance_syntax,
    media_type_of,
)
from api.negotiation import parse_accept
from gpu_render.errors import NotAcceptable
from gpu_render.frame import PixelLayout
from gpu_render.transcode import EXPLICIT_LE, HTJ2K_RPCL, MADE

LAYOUT = PixelLayout(512, 512, 1, 16, 12, 11, 0, "MONOCHROME2")
IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG, JPEG_LS, J2K, RLE = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)
HTJ2K, JPIP, JPEG_XL = "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.110"

IN_PARTS = {
    OCTETS: {uid: Form(OCTETS, uid, True) for uid in (EXPLICIT_LE, JPEG, JPEG_LS, J2K, RLE, HTJ2K, HTJ2K_RPCL)},
}
STORED_LS = Form("image/jls", JPEG_LS, True)


def chosen(accept: str, stored: str, frames: int = 1) -> Form:
    return choose_frame_form(parse_accept(accept), frame_syntaxes(stored, LAYOUT), frames)


@pytest.mark.parametrize(
    ("accept", "stored", "form"),
    [
        # Cornerstone3D, unquoted, and OHIF, quoted: the stored form, as the type that was asked for.
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", JPEG_LS, IN_PARTS[OCTETS][JPEG_LS]),
        ('multipart/related; type="application/octet-stream"; transfer-syntax="*"', J2K, IN_PARTS[OCTETS][J2K]),
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", IMPLICIT,
         IN_PARTS[OCTETS][EXPLICIT_LE]),
        ("multipart/related;type=application/octet-stream;transfer-syntax=*", BIG, IN_PARTS[OCTETS][EXPLICIT_LE]),
        # dicomweb-client names no syntax: decoded.
        ('multipart/related; type="*/*"', JPEG_LS, IN_PARTS[OCTETS][EXPLICIT_LE]),
        ('multipart/related; type="*/*"; transfer-syntax=*', JPEG_LS, STORED_LS),
        ('multipart/related; type="application/octet-stream"', RLE, IN_PARTS[OCTETS][EXPLICIT_LE]),
        ("multipart/related", J2K, IN_PARTS[OCTETS][EXPLICIT_LE]),
        ("", J2K, IN_PARTS[OCTETS][EXPLICIT_LE]),
        ("*/*", J2K, IN_PARTS[OCTETS][EXPLICIT_LE]),
        # One named: that.
        (f"multipart/related; type=application/octet-stream; transfer-syntax={J2K}", J2K, IN_PARTS[OCTETS][J2K]),
        (f"multipart/related; type=image/jphc; transfer-syntax={HTJ2K_RPCL}", J2K,
         Form("image/jphc", HTJ2K_RPCL, True)),
        (f'multipart/related; type="image/jphc"; transfer-syntax={HTJ2K}', HTJ2K, Form("image/jphc", HTJ2K, True)),
        (f"multipart/related; type=application/octet-stream; transfer-syntax={EXPLICIT_LE}", J2K,
         IN_PARTS[OCTETS][EXPLICIT_LE]),
        # Types of images: the stored one, whichever of its kind it is, under the name that was used for it.
        ("multipart/related; type=image/jls", JPEG_LS, STORED_LS),
        ("multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.80", JPEG_LS, STORED_LS),
        ('multipart/related; type="image/jp2"; transfer-syntax=*', J2K, Form("image/jp2", J2K, True)),
        ("multipart/related; type=image/jphc", HTJ2K, Form("image/jphc", HTJ2K, True)),
        ('multipart/related; type="image/jpeg"', JPEG, Form("image/jpeg", JPEG, True)),
        ("multipart/related; type=image/dicom-rle", RLE, Form("image/dicom-rle", RLE, True)),
        ("multipart/related; type=image/x-dicom-rle", RLE, Form("image/x-dicom-rle", RLE, True)),
        ("multipart/related; type=image/jxl", JPEG_XL, Form("image/jxl", JPEG_XL, True)),
        ("multipart/related; type=image/*", J2K, Form("image/jp2", J2K, True)),
        ("multipart/related; type=image/*", EXPLICIT_LE, Form("image/jphc", HTJ2K_RPCL, True)),
        # By itself.
        ("application/octet-stream", J2K, Form(OCTETS, EXPLICIT_LE, False)),
        ("application/octet-stream; transfer-syntax=*", J2K, Form(OCTETS, J2K, False)),
        ("image/jls", JPEG_LS, Form("image/jls", JPEG_LS, False)),
    ],
)  # fmt: skip
def test_one_form_that_is_accepted(accept: str, stored: str, form: Form) -> None:
    assert chosen(accept, stored) == form


@pytest.mark.parametrize("other", ["text/html", "application/dicom+json", "image/png", "video/mp4; q=1", "bogus"])
def test_a_list_with_other_types_is_never_refused(other: str) -> None:
    wanted = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    for accept in (f"{other}, {wanted}", f"{wanted}, {other}", f"{wanted}; q=0.1, {other}"):
        assert chosen(accept, J2K) == Form(OCTETS, J2K, True)


def test_of_several_that_are_liked_as_much_the_stored_one_is_sent() -> None:
    """dcmjs and dicom-microscopy-viewer list one element for each transfer syntax."""
    accept = ", ".join(
        f'multipart/related; type="{media_type_of(uid)}"; transfer-syntax={uid}'
        for uid in (EXPLICIT_LE, JPEG, JPEG_LS, J2K)
    )
    assert chosen(accept, JPEG_LS) == STORED_LS
    assert chosen(accept, RLE) == IN_PARTS[OCTETS][EXPLICIT_LE]


def test_quality_comes_before_that() -> None:
    accept = "multipart/related; type=image/jls; q=0.5, multipart/related; type=application/octet-stream; q=0.9"
    assert chosen(accept, JPEG_LS) == IN_PARTS[OCTETS][EXPLICIT_LE]
    assert chosen(accept.replace("q=0.9", "q=0"), JPEG_LS) == STORED_LS


@pytest.mark.parametrize(
    ("accept", "stored"),
    [
        ("text/html", EXPLICIT_LE),
        ("multipart/related; type=image/jls", J2K),
        (f"multipart/related; type=application/octet-stream; transfer-syntax={JPEG_LS}", J2K),
        (f"multipart/related; type=application/octet-stream; transfer-syntax={IMPLICIT}", IMPLICIT),
        (f"multipart/related; type=application/octet-stream; transfer-syntax={BIG}", BIG),
        ("multipart/related; type=application/octet-stream", JPIP),
        ("multipart/related; type=application/octet-stream; q=0", EXPLICIT_LE),
        ("multipart/related; type=application/dicom", EXPLICIT_LE),
        ("multipart/related; type=image/jls; transfer-syntax=nonsense", JPEG_LS),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_list_of_what_can(accept: str, stored: str) -> None:
    with pytest.raises(NotAcceptable, match="offered are parts of multipart/related") as refused:
        chosen(accept, stored)
    assert media_type_of(frame_syntaxes(stored, LAYOUT)[0]) in str(refused.value)


def test_several_frames_need_parts() -> None:
    with pytest.raises(NotAcceptable, match="multipart/related"):
        chosen("application/octet-stream", EXPLICIT_LE, frames=2)
    assert chosen("application/octet-stream, multipart/related; q=0.1", EXPLICIT_LE, 2) == IN_PARTS[OCTETS][EXPLICIT_LE]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", InstanceForm("*", True)),
        ("*/*", InstanceForm("*", True)),
        ("multipart/related", InstanceForm("*", True)),
        ('multipart/related; type="application/dicom"', InstanceForm("", True)),
        ("multipart/related; type=application/dicom; transfer-syntax=*", InstanceForm("*", True)),
        (f'multipart/related; type="application/dicom"; transfer-syntax={J2K}', InstanceForm(J2K, True)),
        ("application/dicom", InstanceForm("", False)),
        ("application/dicom; transfer-syntax=*", InstanceForm("*", False)),
        ("application/zip, application/dicom; transfer-syntax=*; q=0.2", InstanceForm("*", False)),
    ],
)
def test_the_form_of_an_instance(accept: str, form: InstanceForm) -> None:
    assert choose_instance_form(parse_accept(accept), one=True)[0] == form


def test_instances_together_are_parts() -> None:
    with pytest.raises(NotAcceptable, match="multipart/related"):
        choose_instance_form(parse_accept(DICOM), one=False)
    with pytest.raises(NotAcceptable, match="or application/dicom"):
        choose_instance_form(parse_accept("application/zip"), one=True)


@pytest.mark.parametrize(
    ("asked", "stored", "sent"),
    [
        ("*", J2K, J2K),
        ("*", IMPLICIT, IMPLICIT),
        ("*", BIG, BIG),
        ("", J2K, EXPLICIT_LE),
        ("", IMPLICIT, EXPLICIT_LE),
        ("", EXPLICIT_LE, EXPLICIT_LE),
        ("", JPEG, JPEG),  # with loss
        ("", JPIP, JPIP),  # cannot be decoded
        (EXPLICIT_LE, JPEG, EXPLICIT_LE),
        (HTJ2K_RPCL, DEFLATED, HTJ2K_RPCL),
        (JPEG_LS, JPEG_LS, JPEG_LS),
        (JPEG_LS, J2K, None),
        (EXPLICIT_LE, JPIP, None),
    ],
)
def test_the_transfer_syntax_of_an_instance(asked: str, stored: str, sent: str | None) -> None:
    assert instance_syntax(InstanceForm(asked, True), stored, lambda uid: stored != JPIP and uid in MADE) == sent


def test_what_cannot_be_rewritten_is_sent_as_it_is_by_default() -> None:
    assert instance_syntax(InstanceForm("", True), J2K, lambda _: False) == J2K
    assert instance_syntax(InstanceForm(EXPLICIT_LE, True), J2K, lambda _: False) is None


def test_floating_point_is_not_offered_as_htj2k() -> None:
    layout = PixelLayout(4, 4, 1, 32, 32, 31, 0, "MONOCHROME2", is_float=True)
    assert frame_syntaxes(EXPLICIT_LE, layout) == [EXPLICIT_LE]
    assert frame_syntaxes(BIG, LAYOUT) == [EXPLICIT_LE, HTJ2K_RPCL]
    assert frame_syntaxes(JPIP, LAYOUT) == [JPIP]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", (OCTETS, True)),
        ('multipart/related; type="application/octet-stream"', (OCTETS, True)),
        ("application/octet-stream", (OCTETS, False)),
        ("text/html, application/octet-stream;q=0.5", (OCTETS, False)),
        ("application/pdf", ("application/pdf", False)),
    ],
)
def test_the_form_of_a_large_value(accept: str, form: tuple[str, bool]) -> None:
    assert choose_bulkdata_form(parse_accept(accept), may_be_pdf=True) == form


def test_a_value_that_is_no_document_is_not_offered_as_one() -> None:
    with pytest.raises(NotAcceptable):
        choose_bulkdata_form(parse_accept("application/pdf"), may_be_pdf=False)
