"""Decide where this rank runs. Ranks share only a folder, so they need no process group, whoever starts them.

| started by                                         | result                                                |
|----------------------------------------------------|-------------------------------------------------------|
| `preprocess run`                                   | one rank on one device                                |
| `preprocess run --trainer.devices 2`               | Lightning's launcher, `LeasedStrategy`                |
| `torchrun -m preprocess run`, `fabric run`, `srun` | each process a rank, on one device after another: more |
|                                                    | processes than devices share them                      |
| `preprocess ray run`                               | one rank on the device that Ray shows to its process   |
"""

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from datamodules.errors import ConfigError

# Where in the plan a rank begins, 0 to 1: a variable of the environment that `preprocess ray` sets for its ranks.
POSITION = "FRAMEMILL_POSITION"
_GOLDEN_RATIO = (5**0.5 - 1) / 2


class _IndependentLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher without the observer that kills all ranks when one has died."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)


class LeasedStrategy(DDPStrategy):
    """DDP's launcher and placement of ranks on devices, without its process group.

    In a process group every rank waits until the others have started, and dies when one of them dies.
    """

    strategy_name = "leased"

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _IndependentLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        """Set the rank's number. Connects to no other process."""
        self.set_world_ranks()

    def setup(self, trainer: Trainer) -> None:
        """Move the module to the device. Without a process group no state has to be synchronized."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self.setup_precision_plugin()


class Placement(NamedTuple):
    """Where this rank runs.

    Attributes:
        device: device of the rank's models.
        options: options of Lightning's Trainer that put the rank on this device.
    """

    device: torch.device
    options: Mapping[str, Any]


def placement(accelerator: Any, devices: Any) -> Placement:
    """Return the placement of this process, before a Trainer exists.

    Args:
        accelerator: the Trainer's option.
        devices: the Trainer's option; under torchrun, `fabric run` and srun a list (`0,2`) names the GPUs to use.

    Raises:
        ConfigError: the accelerator is unknown or missing, or a listed GPU is missing.
    """
    kind, local_rank = _kind(accelerator), _started_as()
    gpus = _gpus(devices, torch.cuda.device_count()) if kind == "cuda" else []
    if kind != "cuda" and (isinstance(devices, list) or "," in str(devices)):
        raise ConfigError(
            f"--trainer.devices {devices} lists GPUs, but the accelerator is {kind}. Give a number of ranks"
        )
    options: dict[str, Any] = {"accelerator": kind, "plugins": [LightningEnvironment()]}
    if local_rank is not None:
        options |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    elif _are_several(devices, len(gpus)):
        local_rank, options["strategy"] = int(os.environ.get("LOCAL_RANK", 0)), LeasedStrategy()
        if isinstance(devices, int) and devices > len(gpus) > 0:
            raise ConfigError(f"--trainer.devices {devices}: this machine has {len(gpus)} GPUs")
    if kind != "cuda":
        # Lightning numbers the only device of MPS, and has none for the CPU
        return Placement(torch.device("mps", 0) if kind == "mps" else torch.device("cpu"), options)
    gpu = gpus[(local_rank or 0) % len(gpus)]
    if "strategy" not in options or options["strategy"] == "auto":
        options["devices"] = [gpu]
    return Placement(torch.device("cuda", gpu), options)


def _kind(accelerator: Any) -> str:
    """Return the kind of device that the Trainer's option means: `cpu`, `cuda` or `mps`."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator in ("auto", "gpu", None):
        kinds = ("cuda", "mps") if accelerator == "gpu" else tuple(available)
        kind = next((kind for kind in kinds if available[kind]), "cuda")
    else:
        kind = str(accelerator)
    if kind not in available:
        raise ConfigError(f"--trainer.accelerator {accelerator} is not one of auto, cpu, gpu, cuda, mps")
    if not available[kind]:
        raise ConfigError(f"--trainer.accelerator {accelerator}: torch finds no such device on this machine")
    return kind


def _are_several(devices: Any, num_gpus: int) -> bool:
    """Whether the Trainer's option requests several ranks, which Lightning's launcher then starts."""
    if devices in ("auto", None, -1, "-1"):
        return num_gpus > 1
    return devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1)


def _gpus(devices: Any, count: int) -> list[int]:
    """Return the numbers of those of `count` GPUs that the Trainer's option lists; all if it lists none."""
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if not isinstance(listed, list) or listed == [-1]:
        return list(range(count))
    named = [str(gpu).strip() for gpu in listed]
    if not any(named) or not all(gpu.isdecimal() for gpu in named if gpu):
        raise ConfigError(f"--trainer.devices {devices} is not a list of GPU numbers. Give for example 0,2")
    gpus = [int(gpu) for gpu in named if gpu]
    if missing := [gpu for gpu in gpus if gpu not in range(count)]:
        raise ConfigError(f"--trainer.devices {devices}: there is no GPU {missing[0]}; there are {count}, from 0")
    return gpus


def rank_position() -> float:
    """Return where in the plan this rank begins, 0 to 1. The ranks of one launch begin at different positions.

    A job array of SLURM is one launch, whose tasks have their parts of the plan. So is an Indexed Job of Kubernetes.
    """
    if POSITION in os.environ:
        return float(os.environ[POSITION])
    position, names = 0.0, (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"), ("LOCAL_RANK", "WORLD_SIZE"))
    for rank, size in names:
        if rank in os.environ and size in os.environ:
            position = int(os.environ[rank]) / int(os.environ[size])
            break
    if index := os.environ.get("JOB_COMPLETION_INDEX"):  # the number of pods is unknown here
        return (int(index) * _GOLDEN_RATIO + position) % 1  # spreads any number of them about evenly
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return position
    task, first, last = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX"))
    return (task - first + position) / (last - first + 1)


def device_name(device: torch.device) -> str:
    """Return the model of this rank's device, for example `NVIDIA A100-SXM4-80GB` or `AMD EPYC 7R13 Processor`.

    Results on two models of one kind of device may differ in their last digits.
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):  # ARM has no such line
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_uuid(device: torch.device) -> str | None:
    """Return the UUID of the GPU `device`, which names it whatever GPUs this process may see; None for no CUDA GPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def is_first_on_machine() -> bool:
    """Whether this is the first rank on its machine, which shows the progress. `preprocess ray` does so itself."""
    return POSITION not in os.environ and int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0


def _started_as() -> int | None:
    """Return the local rank that torchrun or srun gave this process; None if neither started it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun or `fabric run`, which calls torchrun
        return int(os.environ["LOCAL_RANK"])
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1:  # srun
        return int(os.environ["SLURM_LOCALID"])
    return None
