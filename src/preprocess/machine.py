"""How busy the machine is: a few figures for the live display and `status`."""

from contextlib import suppress
from typing import Any

import psutil


def machine_figures() -> dict[str, Any]:
    """Load of this machine now.

    Returns:
        `cpu_percent` (0 to 100 over all cores, since the last call), `memory_percent` (0 to 100), `rss_bytes` of this
        process with its children, and `gpus`: for each NVIDIA GPU `name`, `utilization_percent`, `memory_percent`,
        `temperature_celsius`, `power_watts`; an empty list where there is none.
    """
    process = psutil.Process()
    rss = process.memory_info().rss
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # ended meanwhile
            rss += child.memory_info().rss
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "rss_bytes": rss,
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver here
        return []
    figures = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        figures.append(
            {
                "name": pynvml.nvmlDeviceGetName(gpu),
                "utilization_percent": pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
                "memory_percent": round(100 * memory.used / memory.total, 1),
                "temperature_celsius": pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
                "power_watts": round(pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
            }
        )
    return figures
