"""NVIDIA GPUs of this machine as the driver sees them (NVML), for people who ask what is there."""

import pynvml


def describe_gpus() -> list[str]:
    """One line a GPU: name, memory, driver. Empty where there is no driver or no GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return [_line(number, driver) for number in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _line(number: int, driver: str) -> str:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    name = _text(pynvml.nvmlDeviceGetName(handle))
    total = pynvml.nvmlDeviceGetMemoryInfo(handle).total
    return f"{number}: {name}, {total / 2**30:.0f} GiB, driver {driver}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
