"""The host stands in for CUDA truthfully where barriers are concerned: else tests of shared memory prove nothing."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.kernels import host

NEIGHBOURS = ["21", "22", "23", "24", "25", "26", "27", "20"]
HERE = Path(__file__).parent
PROGRAM = """
#include "host_shim.h"

static unsigned results[8];

// Threads write, then read what their neighbour wrote.
static void turn(unsigned *result) {{
    __shared__ unsigned held[8];
    for (unsigned round = 0; round < 3; ++round) {{
        held[threadIdx.x] = threadIdx.x + 10 * round;
        {first}
        result[threadIdx.x] = held[(threadIdx.x + 1) % blockDim.x];
        {second}
    }}
}}

int main() {{
    launch(1, 1, 8, [] {{ turn(results); }});
    for (unsigned t = 0; t < 8; ++t) std::printf("%u ", results[t]);
}}
"""


def run(folder: Path, first: str, second: str) -> subprocess.CompletedProcess[str]:
    source, program = folder / "turn.cpp", folder / "turn"
    source.write_text(PROGRAM.format(first=first, second=second))
    command = [host.compiler(), "-std=c++17", "-O2", f"-I{HERE}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=20)


def test_every_thread_reaches_a_barrier_before_any_goes_on(tmp_path: Path) -> None:
    done = run(tmp_path, "__syncthreads();", "__syncthreads();")
    assert (done.returncode, done.stdout.split()) == (0, NEIGHBOURS)


def test_a_forgotten_barrier_is_seen(tmp_path: Path) -> None:
    done = run(tmp_path, "", "__syncthreads();")
    assert done.stdout.split() != NEIGHBOURS


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("if (threadIdx.x != 3) __syncthreads();", ""),
        ("if (threadIdx.x == 3) return; __syncthreads();", ""),
        ("if (threadIdx.x < 7) __syncthreads();", "if (threadIdx.x == 7) __syncthreads();"),
    ],
)
def test_divergent_barriers_end_the_program(tmp_path: Path, first: str, second: str) -> None:
    done = run(tmp_path, first + "\n", second)
    assert done.returncode == -signal.SIGABRT
    assert "barrier divergence" in done.stderr
