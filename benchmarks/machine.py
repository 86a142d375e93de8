"""What this machine is, in words that may be published: no host name, no user, no addresses."""

import contextlib
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pynvml

from benchmarks.record import Gpu, Machine

LIBRARIES = (
    "numpy",
    "pydicom",
    "imagecodecs",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
)
OF_THE_GPU = ("cupy-cuda12x", "cupy-cuda13x", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13")


def describe() -> Machine:
    """This machine as it is now."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{_distribution()}, Linux {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries={name: version(name) for name in LIBRARIES} | _of_the_gpu(),
        gpus=_gpus(),
    )


def revision() -> str:
    """The commit this tree is at, with '+' where it was changed since; 'unknown' where this is no repository of ours.

    An environment may lie within somebody else's repository, whose commit says nothing about this package.
    """
    root = Path(__file__).resolve().parent.parent
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
        if Path(top) != root:
            return "unknown"
        changes = _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError, ValueError):
        return "unknown"
    return commit + ("+" if changes.strip() else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def _of_the_gpu() -> dict[str, str]:
    found = {}
    for name in OF_THE_GPU:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "Linux"


def _gpus() -> tuple[Gpu, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver on this machine
        return ()
    with contextlib.ExitStack() as stack:
        stack.callback(pynvml.nvmlShutdown)
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(name=pynvml.nvmlDeviceGetName(h), memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(h).total, driver=driver)
            for h in handles
        )
