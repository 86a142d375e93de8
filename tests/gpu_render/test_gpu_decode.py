"""What a codec is proven to decode, decoded: nvImageCodec on a GPU, and imagecodecs in its place without one."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gpu_render import prove
from gpu_render.decode import decode
from gpu_render.decode.device import check, decode_here, kind_layout
from gpu_render.decode.proof import Kind, ProofFile, ProofTable, load_file
from gpu_render.frame import EncodedFrame
from gpu_render.workers import WorkerPool
from kernels import Backend
from kernels.cuda import CudaBackend
from kernels.packing import unpacked
from tests.encoded import encode
from tests.gpu import open_gpu
from tests.gpu_render.test_proof import KINDS, SMALL, SOME, right
from tests.kernels.host import HostBackend

PLAN = replace(SMALL, shapes=(*SMALL.shapes, (120, 90), (48, 35)))  # so that enough is left where some are refused
OTHERS = ((96, 80), (2, 70), (130, 61))  # (rows, columns)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture
def gpu() -> Iterator[CudaBackend]:
    with contextlib.closing(open_gpu()) as backend:
        if not backend.codec:
            pytest.skip("nvImageCodec cannot be used: the CPU decodes")
        yield backend


def proven_now(backend: Backend, pool: WorkerPool, kinds: Sequence[Kind]) -> ProofTable:
    """What ``prove`` and the check at start say of a device, whether or not it is the faster one."""
    rows = [prove.Prover(backend, pool, PLAN).row(kind) for kind in kinds]
    return check(backend, ProofFile(format=1, rows=tuple(row.model_copy(update={"least_pixels": 0}) for row in rows)))


def other_frames(kind: Kind) -> list[EncodedFrame]:
    """Frames of a kind that ``prove`` has not tried: of other sizes, with other contents."""
    half = 1 << (kind.precision - 1)
    low, high = (-half, half - 1) if kind.signed else (0, 2 * half - 1)
    frames = []
    for rows, columns in OTHERS:
        layout = kind_layout(kind, rows, columns)
        for variant, values in enumerate(prove.contents(layout.shape, low, high, seed=1000 + rows)):
            frames.append(encode(prove.encode(kind, values, variant + rows), kind.transfer_syntax_uid, layout))
    return frames


def assert_equal(backend: Backend, pool: WorkerPool, table: ProofTable) -> None:
    """All that the table allows is shown by the device as by the CPU, or left to that; most of it is shown."""
    for row in table:
        frames = other_frames(row.kind)
        found = decode_here(backend, frames)
        for frame, samples in zip(frames, found, strict=True):
            if samples is not None:
                expected = unpacked(decode(frame, pool).samples)
                assert samples.dtype == expected.dtype
                np.testing.assert_array_equal(samples, expected, err_msg=str(row.kind))
        assert sum(samples is not None for samples in found) > len(found) // 2, row.kind


def test_what_is_proven_of_a_right_codec_is_equal_for_other_frames(pool: WorkerPool) -> None:
    backend = HostBackend(right)
    table = proven_now(backend, pool, [KINDS[name] for name in SOME])
    assert len(table) == len(SOME)
    assert_equal(backend, pool, table)


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_what_is_proven_of_this_gpu_is_equal_for_other_frames(gpu: CudaBackend, pool: WorkerPool) -> None:
    table = proven_now(gpu, pool, prove.kinds())
    assert table
    assert_equal(gpu, pool, table)


@pytest.mark.gpu
def test_the_shipped_table_holds_on_this_gpu(gpu: CudaBackend) -> None:
    file = load_file(None)
    assert {row.kind for row in check(gpu, file)} == {row.kind for row in ProofTable.of(file, gpu.codec)}
