"""The few lines of C that the comparison needs, compiled when it starts."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.harness import BenchmarkError

HERE = Path(__file__).parent


def compiler() -> str | None:
    """A C compiler, where there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def compile_library(name: str, folder: Path) -> Path:
    """``name``.c of this folder as a shared library in ``folder``. Raises BenchmarkError where it cannot be made."""
    program, target = compiler(), folder / f"{name}.so"
    if program is None:
        raise BenchmarkError("needs a C compiler (Debian package gcc)")
    command = [program, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(target), str(HERE / f"{name}.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BenchmarkError(f"{name}.c was not compiled: {done.stderr[-500:]}")
    return target
