"""How busy the machine is: a few figures for the live display and `status`."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psutil
import pynvml


def machine_figures() -> dict[str, Any]:
    """Load of this machine now.

    Returns:
        `cpu_percent` (0 to 100 over all cores, since the last call), `memory_percent` (0 to 100), `rss_bytes` of this
        process with its children, and `gpus`: for each NVIDIA GPU `name`, `utilization_percent`, `memory_percent`,
        `temperature_celsius`, `power_watts`, as far as it tells; an empty list where there is none.
    """
    process = psutil.Process()
    rss = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # ended meanwhile
            rss += member.memory_info().rss
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "rss_bytes": rss,
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    read = [{name: _read(figure, gpu) for name, figure in _FIGURES.items()} for gpu in _devices()]
    return [{name: value for name, value in figures.items() if value is not None} for figures in read]


@lru_cache(maxsize=1)
def _devices() -> list[Any]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver here
        return []


def _read(figure: Callable[[Any], Any], gpu: Any) -> Any:
    try:
        return figure(gpu)
    except pynvml.NVMLError:  # a MIG slice, a virtual GPU or one with unified memory does not tell everything
        return None


def _memory_percent(gpu: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return float(round(100 * memory.used / memory.total, 1))


_FIGURES: dict[str, Callable[[Any], Any]] = {
    "name": pynvml.nvmlDeviceGetName,
    "utilization_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_percent": _memory_percent,
    "temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "power_watts": lambda gpu: round(pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
}
