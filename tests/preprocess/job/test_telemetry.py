"""Load figures of the machine, with a fake NVML because the machine may have no GPU."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import pynvml
import pytest
import torch

from preprocess.job import telemetry
from preprocess.job.placement import gpu_uuid
from preprocess.job.telemetry import machine_figures


@pytest.fixture(autouse=True)
def forget_devices() -> Iterator[None]:
    telemetry._device.cache_clear()
    yield
    telemetry._device.cache_clear()


def error(*_: Any) -> NoReturn:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs `a` and `b`, and a MIG slice `c` that reports only its memory."""
    load = {"GPU-a": 10, "GPU-b": 93}

    def handle(uuid: str) -> str:
        return uuid if uuid in (*load, "MIG-c") else error()

    def of_gpus(figure: Any) -> Callable[..., Any]:
        return lambda gpu, *_: figure(gpu) if gpu in load else error()

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda gpu: f"NVIDIA {gpu}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda gpu: SimpleNamespace(used=41, total=80))
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetUtilizationRates", of_gpus(lambda gpu: SimpleNamespace(gpu=load[gpu], memory=7))
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", of_gpus(lambda gpu: 61))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", of_gpus(lambda gpu: 310_400))


def test_the_gpu_of_the_rank_is_measured_and_no_other(nvml: None) -> None:
    assert machine_figures("b")["gpu"] == {
        "name": "NVIDIA GPU-b",
        "utilization_percent": 93,
        "memory_percent": 51.2,
        "temperature_celsius": 61,
        "power_watts": 310,
    }


def test_a_mig_slice_reports_what_it_can(nvml: None) -> None:
    assert machine_figures("c")["gpu"] == {"name": "NVIDIA MIG-c", "memory_percent": 51.2}


def test_a_rank_without_a_gpu_queries_none(nvml: None) -> None:
    assert machine_figures()["gpu"] == {}


def test_an_unknown_gpu_is_left_out(nvml: None) -> None:
    assert machine_figures("d")["gpu"] == {}


def test_without_a_driver_no_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    assert machine_figures("a")["gpu"] == {}


def test_memory_and_cpu_of_this_machine_are_reported() -> None:
    figures = machine_figures()
    assert 0 <= figures["cpu_percent"] <= 100
    assert figures["memory_percent"] == pytest.approx(psutil.virtual_memory().percent, abs=10)
    assert 1e6 < figures["rss_bytes"] < psutil.virtual_memory().total


def test_a_cpu_device_reports_no_gpu() -> None:
    assert gpu_uuid(torch.device("cpu")) is None


@pytest.mark.gpu
def test_the_gpu_that_torch_uses_is_the_one_that_is_measured() -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    figures = machine_figures(gpu_uuid(device))["gpu"]
    assert figures["name"] == torch.cuda.get_device_name(device)
    before = figures["memory_percent"]
    total = torch.cuda.get_device_properties(device).total_memory
    held = torch.empty(total // 4, dtype=torch.uint8, device=device)
    assert machine_figures(gpu_uuid(device))["gpu"]["memory_percent"] - before == pytest.approx(25, abs=2)
    del held
