"""Load figures of the machine for the live display, `status` and the records of shards."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psutil
import pynvml


def machine_figures(gpu: str | None = None) -> dict[str, Any]:
    """Return the current load of this machine.

    Args:
        gpu: UUID of the GPU that this process uses; None: it uses none.

    Returns:
        `cpu_percent` (0 to 100 over all cores, since the last call), `memory_percent` (0 to 100), `rss_bytes` of this
        process with its children, and `gpu`: `name`, `utilization_percent` (share of time in which it ran a
        kernel), `memory_percent`, `temperature_celsius`, `power_watts` of that NVIDIA GPU, by all its users, without
        the figures that it does not report; empty without a GPU.
    """
    process = psutil.Process()
    rss = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # the process has ended
            rss += member.memory_info().rss
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "rss_bytes": rss,
        "gpu": _gpu_figures(gpu) if gpu else {},
    }


def _gpu_figures(uuid: str) -> dict[str, Any]:
    gpu = _device(uuid)
    read = {name: _read(figure, gpu) for name, figure in _FIGURES.items()} if gpu else {}
    return {name: value for name, value in read.items() if value is not None}


@lru_cache(maxsize=1)
def _device(uuid: str) -> Any:
    for kind in ("GPU", "MIG"):
        with suppress(pynvml.NVMLError):  # no driver on this machine, or not a GPU of this kind
            pynvml.nvmlInit()
            return pynvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}")
    return None


def _read(figure: Callable[[Any], Any], gpu: Any) -> Any:
    try:
        return figure(gpu)
    except pynvml.NVMLError:  # a MIG slice, a virtual GPU or one with unified memory does not report every figure
        return None


def _memory_percent(gpu: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return float(round(100 * memory.used / memory.total, 1))


_FIGURES: dict[str, Callable[[Any], Any]] = {
    "name": lambda gpu: pynvml.nvmlDeviceGetName(gpu),
    "utilization_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_percent": _memory_percent,
    "temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "power_watts": lambda gpu: round(pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
}
