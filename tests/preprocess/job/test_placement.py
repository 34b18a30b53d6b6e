import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import ConfigError
from preprocess.job.placement import device_name, placement, rank_position


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")


def devices_of(monkeypatch: pytest.MonkeyPatch, num_ranks: int, devices: Any, accelerator: str = "auto") -> list[Any]:
    found = []
    for local_rank in range(num_ranks):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        found.append(placement(accelerator, devices).options["devices"])
    return found


@pytest.mark.parametrize(
    ("num_ranks", "devices", "wanted"),
    [
        (4, 1, [[0], [1], [2], [3]]),
        (6, "auto", [[0], [1], [2], [3], [0], [1]]),
        (4, "0,2", [[0], [2], [0], [2]]),
        (2, [3], [[3], [3]]),
        (2, "1,", [[1], [1]]),
        (2, [-1], [[0], [1]]),
    ],
)
def test_ranks_of_torchrun_share_the_gpus_that_are_listed(
    four_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
    num_ranks: int,
    devices: int | str | list[int],
    wanted: list[list[int]],
) -> None:
    assert devices_of(monkeypatch, num_ranks, devices) == wanted


def test_a_missing_gpu_is_refused(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--trainer.devices 0,4: there is no GPU 4; there are 4"):
        devices_of(monkeypatch, 1, "0,4")


@pytest.mark.parametrize("devices", ["0,x", ",", "-1,0"])
def test_devices_that_are_not_gpu_numbers_are_refused(
    four_gpus: None, monkeypatch: pytest.MonkeyPatch, devices: str
) -> None:
    with pytest.raises(ConfigError, match=f"--trainer.devices {devices} is not a list of GPU numbers"):
        devices_of(monkeypatch, 1, devices)


def test_a_gpu_is_named_by_its_driver_and_a_cpu_by_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert device_name(torch.device("cuda", 1)) == "GPU 1"
    assert device_name(torch.device("cpu")).strip()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 7R13 Processor\nmodel name\t: b\n", "AMD EPYC 7R13 Processor"),
        ("", "arm"),
    ],
)
def test_a_cpu_is_named_by_the_kernel_or_else_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch, content: str, name: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: content)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert device_name(torch.device("cpu")) == name


def test_on_the_cpu_each_rank_has_one_device_of_its_own(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of(monkeypatch, 3, 1, "cpu") == [1, 1, 1]


def test_the_device_of_apple_silicon_is_the_one_that_lightning_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement("auto", 1).device == torch.device("mps", 0)


def test_the_ranks_of_all_tasks_of_a_job_array_begin_at_different_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_position() == 0
    monkeypatch.setenv("SLURM_NTASKS", "2")  # of each task: its ranks
    positions = []
    for name, value in (("MIN", "3"), ("MAX", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("3", "4"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        for rank in ("0", "1"):
            monkeypatch.setenv("SLURM_PROCID", rank)
            positions.append(rank_position())
    assert positions == [0, 0.25, 0.5, 0.75]


def test_the_pods_of_an_indexed_job_begin_at_different_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = []
    for index in range(100):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        positions.append(rank_position())
    assert positions[0] == 0
    gaps = [after - before for before, after in pairwise([*sorted(positions), 1.0])]
    assert 0.005 < min(gaps) < max(gaps) < 0.02
