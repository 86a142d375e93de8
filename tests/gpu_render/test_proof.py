"""Decoding on the device: what is planned, what a proof table says, and how ``prove`` finds codecs that are wrong.

The device is render.cu built for the host; its codec is imagecodecs, right or wrong on purpose.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydantic import ValidationError

from gpu_render import prove
from gpu_render.decode import decode
from gpu_render.decode.codecs import _no_lost_errors
from gpu_render.decode.codestream import parse_jpeg2000
from gpu_render.decode.declared import widened
from gpu_render.decode.device import check, decode_here, describe, kind_layout, plan, sample_frame
from gpu_render.decode.proof import Kind, ProofFile, ProofTable, ProvenRow, Row, load_file
from gpu_render.errors import RenderError, StartupError
from gpu_render.frame import EncodedFrame
from gpu_render.workers import WorkerPool
from kernels import Codestream, DeviceError
from kernels.packing import unpacked
from tests.encoded import encode, frames_of, sample
from tests.gpu_render.test_decode import CODESTREAMS, CORPUS
from tests.kernels.host import HostBackend

Array = Any
Codec = Callable[[bytes, Codestream], Array | None]
SMALL = prove.Plan(((64, 64), (33, 97), (40, 50)), damages=4, sides=(16,))


def right(data: bytes, codestream: Codestream) -> Array | None:
    """The libraries that the CPU uses, without anything that is done around them."""
    try:
        with _no_lost_errors():
            if codestream.codec == "jpeg":
                values = imagecodecs.jpeg8_decode(data, colorspace="GRAYSCALE", outcolorspace="GRAYSCALE")
            elif b"\xff\x50" in data[:100]:
                values = imagecodecs.htj2k_decode(data)
            else:
                values = imagecodecs.jpeg2k_decode(data, numthreads=1)
    except Exception:  # noqa: BLE001 - a codec that refuses says nothing more
        return None
    return values.astype(f"{'i' if codestream.signed else 'u'}{1 if codestream.precision <= 8 else 2}")


def change(how: Callable[[Array], Array]) -> Codec:
    """A codec that is wrong in one way."""

    def codec(data: bytes, codestream: Codestream) -> Array | None:
        values = right(data, codestream)
        return None if values is None else how(values.copy())

    return codec


def last_row_missing(values: Array) -> Array:
    values[-1] = values[-2]
    return values


def lenient(data: bytes, codestream: Codestream) -> Array | None:
    """Shows something of what is damaged, as many decoders do."""
    values = right(data, codestream)
    if values is not None:
        return values
    dtype = f"{'i' if codestream.signed else 'u'}{1 if codestream.precision <= 8 else 2}"
    return (np.arange(np.prod(codestream.shape)) % 64).astype(dtype).reshape(codestream.shape)


def without_sign(values: Array) -> Array:
    return np.abs(values.astype(np.int32)).astype(values.dtype)


def constant(values: Array) -> Array:
    return np.full_like(values, values.flat[0])


WRONG: dict[str, Codec] = {
    "off by one": change(lambda v: v + 1),
    "scaled to 16 bits": change(lambda v: v << 2),
    "the last row is missing": change(last_row_missing),
    "upside down": change(lambda v: v[::-1]),
    "constant": change(constant),
    "without sign": change(without_sign),
    "one sample": change(lambda v: np.where(np.arange(v.size).reshape(v.shape) == v.size // 2, v ^ 1, v)),
    "shows what is damaged": lenient,
}
KINDS = {str(kind): kind for kind in prove.kinds()}
SOME = ("90: 12 bit signed", "90: 8 bit unsigned, colour transform", "201: 12 bit unsigned", "70: 12 bit unsigned")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def row_of(name: str, codec: Codec, pool: WorkerPool) -> Row:
    return prove.Prover(HostBackend(codec), pool, SMALL).row(KINDS[name])


class Everything(ProofTable):
    """As if all were proven."""

    def __init__(self, least_pixels: int = 0) -> None:
        row = ProvenRow.model_construct(
            kind=KINDS[SOME[0]], least_pixels=least_pixels, most_pixels=1 << 30, longest_side=1 << 30, sample=None
        )
        super().__init__([row])
        self._any = row
        self.transfer_syntaxes = frozenset(kind.transfer_syntax_uid for kind in KINDS.values())

    def find(self, kind: Kind) -> ProvenRow:
        return self._any


# -- planning -----------------------------------------------------------------------------------------------------


def equal_or_refused(frame: EncodedFrame, backend: HostBackend, pool: WorkerPool) -> bool:
    """Whether the device shows a frame; if so, as the CPU does."""
    (found,) = decode_here(backend, [frame])
    if found is None:
        return False
    planned = plan(frame, Everything())
    assert planned is not None
    expected = decode(frame, pool)
    np.testing.assert_array_equal(found, unpacked(expected.samples))
    assert found.dtype == unpacked(expected.samples).dtype
    assert planned.layout == expected.layout
    return True


def test_what_the_device_shows_of_every_codestream_is_the_cpus(pool: WorkerPool) -> None:
    backend = HostBackend(right)
    shown = {
        name
        for name, (uid, data, layout) in CODESTREAMS.items()
        if equal_or_refused(encode(bytes(data), uid, layout), backend, pool)
    }
    assert {"j2k", "jp2", "jpeg-lossless"} <= shown <= {"j2k", "jp2", "jpeg-lossless", "jpeg"}  # HTJ2K has 16 bits


def test_what_the_device_shows_of_real_files_is_the_cpus(pool: WorkerPool) -> None:
    backend = HostBackend(right)
    names = (
        "JPEG2000.dcm",
        "JPEG-LL.dcm",
        "MR_small_jp2klossless.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "693_J2KR.dcm",
    )
    files = [sample(name) for name in names]
    files += sorted(CORPUS.rglob("*.dcm"))[:400] if CORPUS.exists() else []
    shown = 0
    for path in files:
        try:
            frame = next(frames_of(path))
        except Exception:  # noqa: BLE001 - files that cannot be read are other tests' matter
            continue
        if describe(frame) is None:
            continue
        try:
            decode(frame, pool)
        except RenderError:
            assert decode_here(backend, [frame]) == [None]
            continue
        shown += equal_or_refused(frame, backend, pool)
    assert shown >= 3


def test_what_is_unusual_is_the_cpus(pool: WorkerPool) -> None:
    kind = KINDS["90: 12 bit unsigned"]
    values = next(prove.contents((40, 50), 0, 4095, 3))
    layout = kind_layout(kind, 40, 50)
    data = prove.encode(kind, values, 0)
    frame = encode(data, kind.transfer_syntax_uid, layout)
    assert describe(frame) is not None
    for odd in (
        replace(layout, rows=41),
        replace(layout, high_bit=15, bits_stored=12),
        replace(layout, bits_allocated=32),
        replace(layout, samples_per_pixel=3),
        replace(layout, bits_allocated=8, bits_stored=8, high_bit=7),
    ):
        assert describe(replace(frame, layout=odd)) is None
    assert describe(replace(frame, data=data[:200])) is None  # parsed as far as it goes: it has no end
    assert describe(replace(frame, data=b"")) is None
    assert describe(replace(frame, transfer_syntax_uid="1.2.840.10008.1.2.4.91")) is None  # may be lossy: clamped
    assert describe(replace(frame, transfer_syntax_uid="1.2.840.10008.1.2.4.80")) is None
    colour = imagecodecs.jpeg8_encode(np.zeros((16, 16, 3), np.uint8) + 9, level=90)
    rgb = kind_layout(KINDS["90: 8 bit unsigned, colour"], 16, 16)
    assert describe(encode(bytes(colour), "1.2.840.10008.1.2.4.50", rgb)) is None


def jpeg(name: str, **options: Any) -> tuple[bytes, EncodedFrame]:
    """The bytes, and the frame that they are, of a kind of JPEG."""
    kind = KINDS[name]
    layout = kind_layout(kind, 40, 50)
    values = next(prove.contents((40, 50), *layout.stored_range, 3)).astype(layout.dtype)
    data = bytes(imagecodecs.jpeg8_encode(values, bitspersample=kind.precision, **options))
    return data, encode(data, kind.transfer_syntax_uid, layout)


def test_what_is_unusual_in_jpeg_is_the_cpus() -> None:
    data, frame = jpeg("70: 12 bit unsigned", lossless=True, predictor=1)
    assert describe(frame) is not None
    ybr = replace(frame.layout, photometric_interpretation="YBR_FULL")
    assert describe(replace(frame, layout=ybr)) is None
    factors = data.index(b"\xff\xc3") + 11
    assert data[factors] == 0x11
    assert describe(replace(frame, data=data[:factors] + b"\x22" + data[factors + 1 :])) is None
    intervals = data.replace(b"\xff\xc4", b"\xff\xdd\0\4\0\x32\xff\xc4")
    assert describe(replace(frame, data=intervals)) is None
    assert describe(replace(frame, data=intervals[:-2] + b"\xff\xd0" * 10_000_000)) is None
    _, frame = jpeg("70: 12 bit unsigned", lossless=True, predictor=4)
    assert describe(frame) is None
    assert describe(replace(frame, transfer_syntax_uid="1.2.840.10008.1.2.4.57")) is not None


def test_what_prove_does_not_try_is_the_cpus() -> None:
    name = "90: 8 bit unsigned"
    layout = kind_layout(KINDS[name], 40, 50)
    values = next(prove.contents((40, 50), 0, 255, 3))
    data = prove.encode(KINDS[name], values, 0)
    frame = encode(data, KINDS[name].transfer_syntax_uid, layout)
    assert describe(frame) is not None
    style = data.index(b"\xff\x52") + 12
    assert describe(replace(frame, data=data[:style] + b"\x08" + data[style + 1 :])) is None
    lossy = imagecodecs.jpeg2k_encode(values.astype("u1"), level=50, reversible=False, codecformat="j2k")
    assert describe(encode(bytes(lossy), "1.2.840.10008.1.2.4.91", layout)) is None
    four = np.dstack([values.astype("u1")] * 4)
    rgba = imagecodecs.jpeg2k_encode(four, level=0, reversible=True, codecformat="j2k", mct=False)
    assert describe(encode(bytes(rgba), "1.2.840.10008.1.2.4.90", replace(layout, samples_per_pixel=4))) is None
    high = imagecodecs.htj2k_encode(values.astype("u2"), reversible=True)
    deep = kind_layout(KINDS["90: 16 bit unsigned"], 40, 50)
    for uid in ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"):
        assert describe(encode(bytes(high), uid, deep)) is None
    assert describe(replace(frame, transfer_syntax_uid="1.2.840.10008.1.2.4.201")) is None
    fast = prove.encode(KINDS["201: 8 bit unsigned"], values, 0)
    assert describe(encode(fast, "1.2.840.10008.1.2.4.201", layout)) is not None
    assert describe(encode(fast, "1.2.840.10008.1.2.4.90", layout)) is None


def test_small_frames_and_unproven_kinds_are_the_cpus() -> None:
    kind = KINDS["201: 12 bit unsigned"]
    frame = encode(
        prove.encode(kind, next(prove.contents((40, 50), 0, 4095, 3)), 0),
        kind.transfer_syntax_uid,
        kind_layout(kind, 40, 50),
    )
    assert plan(frame, Everything(2000)) is not None
    assert plan(frame, Everything(2001)) is None
    assert plan(frame, ProofTable()) is None
    planned = plan(frame, Everything())
    assert planned is not None
    assert (planned.decoder, planned.kind) == ("nvimgcodec-jpeg2000", kind)


def test_frames_larger_than_what_was_compared_are_the_cpus(pool: WorkerPool) -> None:
    row = row_of(SOME[2], right, pool)
    assert (row.most_pixels, row.longest_side) == (64 * 64, 97)
    file = ProofFile(format=1, rows=(row.model_copy(update={"compared": 50, "damaged": 50, "least_pixels": 0}),))
    table = check(HostBackend(right), file)
    kind = KINDS[SOME[2]]
    planned = {}
    for shape in ((64, 64), (42, 97), (64, 65), (4, 98)):
        data = prove.encode(kind, next(prove.contents(shape, 0, 4095, 3)), 0)
        frame = encode(data, kind.transfer_syntax_uid, kind_layout(kind, *shape))
        assert describe(frame) is not None
        planned[shape] = plan(frame, table) is not None
    assert planned == {(64, 64): True, (42, 97): True, (64, 65): False, (4, 98): False}


def test_values_beyond_the_declared_range_are_not_shown(pool: WorkerPool) -> None:
    kind = KINDS["201: 12 bit unsigned"]
    beyond = next(prove.contents((40, 50), 0, 4095, 3)) + 100
    frame = encode(prove.encode(kind, beyond, 0), kind.transfer_syntax_uid, kind_layout(kind, 40, 50))
    assert describe(frame) is not None
    assert decode_here(HostBackend(right), [frame]) == [None]
    with pytest.raises(RenderError):
        decode(frame, pool)


# -- proving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_a_codec_that_is_right_is_proven(name: str, pool: WorkerPool) -> None:
    row = row_of(name, right, pool)
    assert (row.unequal, row.largest_difference, row.shown_damaged, row.unlike_damaged) == (0, 0, 0, 0)
    assert row.compared == 15
    assert row.refused <= 6
    assert row.damaged >= 20
    assert row.codec == "test codec 1"


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", SOME)
def test_a_codec_that_is_wrong_is_found_out(name: str, wrong: str, pool: WorkerPool) -> None:
    if wrong == "without sign" and name.startswith("70"):
        return  # a codec of JPEG gives none
    row = row_of(name, WRONG[wrong], pool)
    if wrong == "shows what is damaged" and name.startswith("70"):
        assert row.shown_damaged == 0  # JPEG has witnesses: what they contradict is not shown in the first place
        return
    assert not row.proven
    assert row.least_pixels is None
    assert row.unequal or row.shown_damaged or row.refused == row.compared


@pytest.mark.parametrize("name", ["90: 16 bit unsigned", "90: 15 bit signed", "91: 16 bit signed"])
def test_a_codec_that_wraps_what_the_cpu_clamps_is_found_out(name: str, pool: WorkerPool) -> None:
    def wraps(data: bytes, codestream: Codestream) -> Array | None:
        header = parse_jpeg2000(data)
        wide = right(widened(data, header), replace(codestream, signed=True, precision=header.precision + 2))
        if wide is None:
            return None
        bits = 16 - header.precision
        values = wide.astype(np.int32) + (0 if header.signed else 1 << (header.precision - 1))
        return (values.astype("<u2") << bits).view("<i2" if header.signed else "<u2") >> bits

    row = prove.Prover(HostBackend(wraps), pool, SMALL).row(KINDS[name])
    assert row.unequal > 0
    assert row.largest_difference > 1000
    assert not prove.Prover(HostBackend(right), pool, SMALL).row(KINDS[name]).unequal


def test_a_codec_that_fails_refuses_and_a_lost_device_ends_it(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HostBackend(right)

    def fail(codestreams: object) -> None:
        raise DeviceError("the codec failed", lost=lost)

    monkeypatch.setattr(backend, "decode", fail)
    lost = False
    row = prove.Prover(backend, pool, SMALL).row(KINDS[SOME[0]])
    assert row.refused == row.compared
    assert not row.proven
    assert row.least_pixels is None
    lost = True
    with pytest.raises(DeviceError):
        prove.Prover(backend, pool, SMALL).row(KINDS[SOME[0]])


@pytest.mark.parametrize(("largest", "least"), [(10**9, 32 * 32), (64 * 64, None)])
def test_a_size_that_the_device_does_not_decode_is_not_its_size(
    largest: int, least: int | None, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(data: bytes, codestream: Codestream) -> Array | None:
        return right(data, codestream) if np.prod(codestream.shape) <= largest else None

    prover = prove.Prover(HostBackend(limited), pool, replace(SMALL, sides=(32, 96)))
    monkeypatch.setattr(prover, "_by_cpu", lambda _: time.sleep(0.5))  # far slower than the device
    monkeypatch.setattr(prove, "ROUNDS", 1)
    assert prover._least_pixels(KINDS[SOME[2]]) == least


def test_a_codec_that_answers_for_another_frame_is_found_out(pool: WorkerPool) -> None:
    seen: list[Array] = []

    def late(data: bytes, codestream: Codestream) -> Array | None:
        values = right(data, codestream)
        if values is not None:
            seen.append(values)
        return seen[-2] if len(seen) > 1 and seen[-2].shape == seen[-1].shape else values

    assert row_of(SOME[0], late, pool).unequal > 0


# -- the table ----------------------------------------------------------------------------------------------------


def proven_file(name: str, decoder: Codec, pool: WorkerPool, **changes: Any) -> ProofFile:
    """A file with one row that is good enough, but for ``changes``."""
    enough = {"compared": 50, "refused": 0, "damaged": 50, "least_pixels": 100}
    row = row_of(name, decoder, pool).model_copy(update={**enough, **changes})
    return ProofFile(format=1, rows=(row,))


@pytest.mark.parametrize("name", SOME)
def test_a_table_is_written_read_and_checked_at_start(name: str, pool: WorkerPool, tmp_path: Path) -> None:
    prove.save(proven_file(name, right, pool), tmp_path / "proof.json")
    file = load_file(tmp_path / "proof.json")
    assert file == proven_file(name, right, pool)
    table = check(HostBackend(right), file)
    assert len(table) == 1
    assert table.find(KINDS[name]) is not None
    frame = sample_frame(next(iter(table)))
    assert plan(frame, table) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"unequal": 1},
        {"largest_difference": 1},
        {"shown_damaged": 1},
        {"least_pixels": None},
        {"compared": 14},
        {"refused": 40},
        {"damaged": 19},
        {"codec": "another version"},
    ],
)
def test_a_row_that_is_not_good_enough_is_not_used(changes: dict[str, Any], pool: WorkerPool) -> None:
    assert not check(HostBackend(right), proven_file(SOME[2], right, pool, **changes))


@pytest.mark.parametrize("wrong", ["off by one", "the last row is missing", "upside down", "one sample"])
def test_a_row_that_does_not_hold_any_more_is_not_used(
    wrong: str, pool: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "gpu_render"):
        assert not check(HostBackend(WRONG[wrong]), proven_file(SOME[2], right, pool))
    assert f"do not hold for on this device: {SOME[2]}" in caplog.text


def test_a_sample_of_another_kind_confirms_nothing(pool: WorkerPool) -> None:
    row, other = (proven_file(name, right, pool).rows[0] for name in SOME[:2])
    mixed = row.model_copy(update={"sample": other.sample})
    table = check(HostBackend(right), ProofFile(format=1, rows=(mixed, other)))
    assert [each.kind for each in table] == [other.kind]


def test_one_kind_has_one_row(pool: WorkerPool) -> None:
    (row,) = proven_file(SOME[0], right, pool).rows
    wrong = row.model_copy(update={"unequal": 1})
    with pytest.raises(ValidationError, match="two rows for one kind"):
        ProofFile(format=1, rows=(wrong, row))
    assert ProofFile(format=1, rows=(row, row.model_copy(update={"codec": "another"}))).rows[0] == row


def test_a_device_that_fails_at_start_leaves_decoding_to_the_cpu(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HostBackend(right)

    def fail(codestreams: object) -> None:
        raise DeviceError("CUDA error 700", lost=True)

    monkeypatch.setattr(backend, "decode", fail)
    assert not check(backend, proven_file(SOME[2], right, pool))


def test_without_a_codec_nothing_is_decoded_there(pool: WorkerPool) -> None:
    assert not check(HostBackend(), proven_file(SOME[2], right, pool))


def test_the_shipped_table_claims_nothing_that_was_not_measured() -> None:
    file = load_file(None)
    assert all(row.codec and row.proven for row in file.rows)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"format": 2, "rows": []}', '{"format": 1, "rows": [{}]}', '{"format": 1, "rows": [], "more": 1}'],
)
def test_a_file_that_is_none_is_refused_with_what_to_do(text: str, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_text(text)
    with pytest.raises(StartupError, match="gpu-render prove"):
        load_file(path)
    with pytest.raises(StartupError, match="cannot be read"):
        load_file(tmp_path / "absent.json")


def test_the_file_holds_no_more_than_it_says(pool: WorkerPool, tmp_path: Path) -> None:
    prove.save(proven_file(SOME[0], right, pool), tmp_path / "proof.json")
    content = json.loads((tmp_path / "proof.json").read_text())
    content["rows"][0]["compared"] = -1
    with pytest.raises(ValidationError):
        ProofFile.model_validate(content)
    assert [path.name for path in tmp_path.iterdir()] == ["proof.json"]


@pytest.mark.parametrize("name", KINDS)
def test_all_variants_of_a_kind_are_planned_and_mean_the_same(name: str, pool: WorkerPool) -> None:
    kind = KINDS[name]
    layout = kind_layout(kind, 70, 81)
    low, high = layout.stored_range
    values = list(prove.contents(layout.shape, low, high, 5))[3]  # the extremes
    for variant in range(12):
        frame = encode(prove.encode(kind, values, variant), kind.transfer_syntax_uid, layout)
        found = describe(frame)
        assert found is not None
        assert found.kind == kind
        if kind.reversible:
            np.testing.assert_array_equal(unpacked(decode(frame, pool).samples), values)


def test_prove_says_how_far_it_is(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "kinds", lambda: [KINDS[SOME[2]], KINDS[SOME[3]]])
    steps: list[tuple[str, int, int]] = []
    file = prove.prove(HostBackend(right), pool, SMALL, lambda *step: steps.append(step))
    assert [row.kind for row in file.rows] == [KINDS[SOME[2]], KINDS[SOME[3]]]
    assert steps == [(SOME[2], 0, 2), (SOME[3], 1, 2), ("", 2, 2)]
