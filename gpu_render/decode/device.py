"""Placeholder, to be replaced whole."""

from dataclasses import dataclass

from gpu_render.decode.proof import ProofTable
from gpu_render.frame import EncodedFrame, PixelLayout
from kernels import Codestream


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """How the device decodes a frame."""

    codestream: Codestream
    layout: PixelLayout
    decoder: str


def plan(encoded: EncodedFrame, table: ProofTable) -> DevicePlan | None:
    """None: the CPU."""
    return None
