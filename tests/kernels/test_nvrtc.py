"""``render.cu`` through NVRTC, called directly: no driver and no device are needed to compile for one."""

import ctypes
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import pytest

from kernels.cuda import OPTIONS

SOURCE = Path(__file__).parents[2] / "kernels" / "render.cu"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
KERNELS = ("render_batch", "extent_batch", "unpack_batch", "adopt_batch")
CUPY_ADDS = ("-ftz=true",)
MAX_REGISTERS = 80
MIN_BLOCKS = 3  # of 256 threads on a multiprocessor; each thread has up to 64 bytes under way
# Of a multiprocessor: shared memory [KiB] and threads (CUDA C++ Programming Guide, Compute Capabilities).
LIMITS = {75: (64, 1024), 80: (164, 2048), 86: (100, 1536), 89: (100, 1536), 90: (228, 2048), 100: (228, 2048)}
LIMITS[120] = (100, 1536)


@cache
def nvrtc() -> ctypes.CDLL:
    """The library of the nvidia-cuda-nvrtc wheel; skips where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*"))
    if not found:
        if os.environ.get("CI"):
            pytest.fail("the wheel nvidia-cuda-nvrtc is not installed, though this is CI")
        pytest.skip("the wheel nvidia-cuda-nvrtc is not installed")
    return ctypes.CDLL(str(found[-1]))


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    assert getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc(), f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw


@cache
def compile_for(architecture: str) -> tuple[bytes, bytes, str]:
    """``render.cu`` compiled for one architecture."""
    return compile_source(SOURCE.read_bytes(), architecture)


def compile_source(source: bytes, architecture: str) -> tuple[bytes, bytes, str]:
    """(cubin, PTX, log) with the options of ``kernels/cuda.py`` and those that CuPy adds to them."""
    program = ctypes.c_void_p()
    assert nvrtc().nvrtcCreateProgram(ctypes.byref(program), source, b"render.cu", 0, None, None) == 0
    words = (*OPTIONS, *CUPY_ADDS, f"-arch={architecture}", "--ptxas-options=-v")
    options = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
    result = nvrtc().nvrtcCompileProgram(program, len(words), options)
    log = _text(program, "ProgramLog").decode(errors="replace")
    assert result == 0, log
    cubin, ptx = _text(program, "CUBIN"), _text(program, "PTX")
    nvrtc().nvrtcDestroyProgram(ctypes.byref(program))
    return cubin, ptx, log


def resources(log: str, kernel: str) -> dict[str, int]:
    """What ptxas says of one kernel: registers; stack, spills and shared memory [bytes]."""
    part = log.split(f"Function properties for {kernel}", 1)[1]
    found = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
        part,
        re.S,
    )
    assert found is not None, log
    shared = re.search(r"(\d+) bytes smem", found.group(5))
    names = ("stack", "spill stores", "spill loads", "registers")
    return dict(zip(names, map(int, found.groups()[:4]), strict=True)) | {
        "shared": int(shared.group(1)) if shared else 0
    }


def blocks(used: dict[str, int], architecture: int) -> int:
    """How many blocks of 256 threads a multiprocessor holds: 64 Ki registers, given to warps in units of 256."""
    shared, threads = LIMITS[architecture]
    by_registers = 65536 // (8 * (-(-used["registers"] * 32 // 256) * 256))
    reserved = 1024 if architecture >= 80 else 0  # by the system, of each block's shared memory
    by_shared = shared * 1024 // max(used["shared"] + reserved, 1)
    return min(by_registers, by_shared, threads // 256)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int, capsys: pytest.CaptureFixture[str]) -> None:
    cubin, _, log = compile_for(f"sm_{architecture}")
    assert cubin.startswith(b"\x7fELF")
    assert f"for 'sm_{architecture}'" in log
    for kernel in KERNELS:
        used = resources(log, kernel)
        held = blocks(used, architecture)
        facts = " ".join(f"{name} {value:3}" for name, value in used.items())
        with capsys.disabled():
            print(f"\nsm_{architecture} {kernel:12} {facts}, blocks a multiprocessor {held}", end="")
        assert (used["stack"], used["spill stores"], used["spill loads"]) == (0, 0, 0)
        assert 0 < used["registers"] <= MAX_REGISTERS
        assert held >= MIN_BLOCKS


def test_no_operation_is_fused_or_flushes_denormals() -> None:
    """Even with -ftz=true: every arithmetic instruction of the PTX names its own rounding and keeps denormals."""
    ptx = compile_for("sm_90")[1].decode()
    instructions = set(re.findall(r"^\s+(?:@\S+\s+)?([a-z0-9_.]+)\s", ptx, re.M))
    assert {
        "add.rn.f32",
        "sub.rn.f32",
        "mul.rn.f32",
        "cvt.rn.f32.f64",
        "add.rn.f64",
        "mul.rn.f64",
        "div.rn.f64",
    } <= instructions
    assert not [name for name in instructions if name.startswith("fma") or (name.startswith("mad") and ".f" in name)]
    # What the flag may touch: a test for NaN, and the integer of a float that is at least 0.5.
    assert {name for name in instructions if "ftz" in name} <= {"setp.nan.ftz.f32", "cvt.rzi.ftz.u32.f32"}
    assert not [name for name in instructions if "approx" in name]


SPILLING = b"""
extern "C" __global__ void __launch_bounds__(1024, 2) greedy(const float *in, float *out, int n) {
    float held[200];
    for (int i = 0; i < 200; ++i) held[i] = in[i * n];
    __syncthreads();
    for (int i = 0; i < 200; ++i) out[i * n] = held[199 - i] * held[i];
}
"""


def test_the_log_shows_spills_where_there_are_some() -> None:
    """The evidence above is not an empty match: a kernel that must spill is seen to."""
    used = resources(compile_source(SPILLING, "sm_80")[2], "greedy")
    assert used["stack"] > 0
    assert used["spill stores"] > 0
