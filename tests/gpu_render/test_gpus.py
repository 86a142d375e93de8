"""NVML's figures against a fake driver that refuses call by call; the names against the real pynvml."""

import ast
import inspect
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from gpu_render import gpus
from gpu_render.gpus import Gpu, read_gpus

GIB = 1 << 30
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


class FakeDriver:
    """NVML with two devices. ``refusals`` maps (function, device number or None) to an NVML error code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals: dict[tuple[str, int | None], int] = {}
        self.open = 0
        answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": "580.82.07",
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": lambda number: number,
            "nvmlDeviceGetName": b"NVIDIA L4",  # bytes, as pynvml answered before version 11.5
            "nvmlDeviceGetUUID": lambda number: f"GPU-{number}",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * GIB, used=3 * GIB, free=21 * GIB),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=40, memory=7),
            "nvmlDeviceGetTemperature": lambda number, _sensor: 50 + number,
            "nvmlDeviceGetPowerUsage": 33500,
            "nvmlDeviceGetEnforcedPowerLimit": 72000,
            "nvmlDeviceGetTotalEccErrors": lambda _number, kind, _since: {0: 5, 1: 0}[kind],
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, self._function(name, answer))
        monkeypatch.setattr(pynvml, "nvmlInit", self._init)
        monkeypatch.setattr(pynvml, "nvmlShutdown", self._shutdown)

    def _init(self) -> None:
        self._refuse("nvmlInit", None)
        self.open += 1

    def _shutdown(self) -> None:
        self.open -= 1
        self._refuse("nvmlShutdown", None)

    def _function(self, name: str, answer: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self._refuse(name, arguments[0] if arguments else None)
            return answer(*arguments) if callable(answer) else answer

        return call

    def _refuse(self, name: str, number: int | None) -> None:
        if (name, number) in self.refusals:
            raise pynvml.NVMLError(self.refusals[name, number])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(monkeypatch)


def test_every_figure_of_every_device(driver: FakeDriver) -> None:
    first, second = read_gpus()
    assert first == Gpu(
        0, "NVIDIA L4", "GPU-0", "580.82.07", 3 * GIB, 24 * GIB, 40, 7, 50, 33.5, 72.0, 5, 0,
        ("sw_power_cap", "sw_thermal_slowdown"),
    )  # fmt: skip
    assert (second.index, second.uuid, second.temperature_c) == (1, "GPU-1", 51)
    assert driver.open == 0


@pytest.mark.parametrize("code", [NOT_SUPPORTED, LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("nvmlDeviceGetName", {"name"}),
        ("nvmlDeviceGetUUID", {"uuid"}),
        ("nvmlDeviceGetMemoryInfo", {"memory_used", "memory_total"}),
        ("nvmlDeviceGetUtilizationRates", {"gpu_utilization", "memory_utilization"}),
        ("nvmlDeviceGetTemperature", {"temperature_c"}),
        ("nvmlDeviceGetPowerUsage", {"power_w"}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit_w"}),
        ("nvmlDeviceGetTotalEccErrors", {"ecc_corrected", "ecc_uncorrected"}),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", {"throttle_reasons"}),
    ],
)
def test_what_one_call_refuses_is_none_and_nothing_else(
    driver: FakeDriver, function: str, fields: set[str], code: int
) -> None:
    driver.refusals[function, 0] = code
    first, second = read_gpus()
    assert {name for name in Gpu.__slots__ if getattr(first, name) is None} == fields
    assert None not in [getattr(second, name) for name in Gpu.__slots__]
    assert driver.open == 0


def test_a_lost_device_does_not_hide_the_others(driver: FakeDriver) -> None:
    driver.refusals["nvmlDeviceGetHandleByIndex", 0] = LOST
    first, second = read_gpus()
    assert (first.index, first.driver, first.answers) == (0, "580.82.07", False)
    assert (second.index, second.answers) == (1, True)


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlShutdown", "nvmlSystemGetDriverVersion"])
def test_a_driver_in_trouble_raises_nothing(driver: FakeDriver, function: str) -> None:
    driver.refusals[function, None] = pynvml.NVML_ERROR_UNKNOWN
    assert len(read_gpus()) == (0 if function in ("nvmlInit", "nvmlDeviceGetCount") else 2)
    assert driver.open == 0


def test_every_name_is_one_of_pynvml() -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(gpus)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pynvml"
    }
    assert "nvmlDeviceGetTotalEccErrors" in used
    assert not {name for name in used if not hasattr(pynvml, name)}


def test_the_reasons_are_the_bits_that_nvml_documents() -> None:
    assert sorted(gpus.THROTTLE_REASONS) == [1 << bit for bit in range(9)]
