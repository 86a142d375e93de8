"""NVIDIA GPUs of this machine as the driver sees them (NVML): what an operator watches, and what ``info`` prints.

Numbers and names are those of ``nvidia-smi``. CUDA counts in the same order where CUDA_DEVICE_ORDER is PCI_BUS_ID.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pynvml

T = TypeVar("T")

#: Bits of nvmlDeviceGetCurrentClocksThrottleReasons, by NVML's own names for them.
THROTTLE_REASONS = {
    pynvml.nvmlClocksThrottleReasonGpuIdle: "gpu_idle",
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "applications_clocks_setting",
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
    pynvml.nvmlClocksThrottleReasonDisplayClockSetting: "display_clock_setting",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device at one moment; None is what NVML would not say. A device that is lost has its number only.

    Memory in bytes, utilization in percent of the last sample period, temperature in degrees Celsius, power in watts.
    ECC errors are counted since the driver was loaded (volatile). ``throttle_reasons``: why clocks are below the most.
    """

    index: int
    name: str | None
    uuid: str | None
    driver: str | None
    memory_used: int | None
    memory_total: int | None
    gpu_utilization: int | None
    memory_utilization: int | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    ecc_corrected: int | None
    ecc_uncorrected: int | None
    throttle_reasons: tuple[str, ...] | None

    @property
    def answers(self) -> bool:
        """Whether the driver knows anything about the device beyond that it should be there."""
        return self.uuid is not None or self.memory_total is not None


def read_gpus() -> list[Gpu]:
    """All devices in the order of their numbers. Empty where there is no driver or no GPU; never raises.

    Takes milliseconds, with a device in trouble seconds: not for an event loop. May be called from any thread.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _text(_ask(pynvml.nvmlSystemGetDriverVersion))
        return [_read(number, driver) for number in range(_ask(pynvml.nvmlDeviceGetCount) or 0)]
    finally:
        _ask(pynvml.nvmlShutdown)


def _ask(question: Callable[..., T], *arguments: object) -> T | None:
    """NVML's answer; None where it has none: not supported, not permitted, an old driver, a lost device."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _read(number: int, driver: str | None) -> Gpu:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, number)
    if handle is None:
        return Gpu(number, None, None, driver, *[None] * 10)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    busy = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index=number,
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle)),
        uuid=_text(_ask(pynvml.nvmlDeviceGetUUID, handle)),
        driver=driver,
        memory_used=None if memory is None else int(memory.used),
        memory_total=None if memory is None else int(memory.total),
        gpu_utilization=None if busy is None else int(busy.gpu),
        memory_utilization=None if busy is None else int(busy.memory),
        temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_w=_watts(_ask(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_w=_watts(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        ecc_corrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        throttle_reasons=_reasons(_ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)),
    )


def _ecc(handle: object, kind: int) -> int | None:
    return _ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_VOLATILE_ECC)


def _reasons(bits: int | None) -> tuple[str, ...] | None:
    return None if bits is None else tuple(name for bit, name in THROTTLE_REASONS.items() if bits & bit)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _text(value: bytes | str | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
