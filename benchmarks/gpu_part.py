"""One part of `gpu.py`: how it is called, and what its measurements share."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Event, Thread
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import torch

from gpu_results import Figures

Measurement: TypeAlias = tuple[str, Callable[[], Figures]]
"""A measurement of a part: its name, unique in the part, and what makes it."""


class Missing(Exception):
    """A package that a measurement needs is missing; the message names it."""


class Setting(NamedTuple):
    """What all parts are measured with.

    Attributes:
        device: `cuda`, or `cpu` for a trial.
        tiny: whether sizes are those of a trial, which says nothing about speed.
        models: folder of the model files of Holistic; None: where `preprocess models` finds them.
        reference: file of images and MediaPipe's landmarks; None: none.
        workers: processes that decode, in runs from files.
        seconds: of one turn.
    """

    device: str
    tiny: bool
    models: Path | None
    reference: Path | None
    workers: int
    seconds: float

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self, step: Callable[[], Any], units: int, rounds: int = 3) -> float:
        """Return the units per second of `step`, which processes `units` of them: the median of several turns.

        The device is waited for at the end of a turn only, so that it is never idle within one.
        """
        taken = self._seconds_of(step, 1)  # the step before it was the warm-up
        repeats = max(1, int(self.seconds / max(taken, 1e-6)))
        return units * repeats / median(self._seconds_of(step, repeats) for _ in range(1 if self.tiny else rounds))

    def _seconds_of(self, step: Callable[[], Any], repeats: int) -> float:
        self.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            step()
        self.synchronize()
        return time.perf_counter() - started


class Peak:
    """Context manager for the peak of the GPU's memory within it, beyond what was in use before.

    Attributes:
        megabytes: the peak, in MB; 0 on a CPU.
    """

    def __init__(self, setting: Setting) -> None:
        self._is_gpu = setting.device == "cuda"
        self.megabytes = 0.0

    def __enter__(self) -> "Peak":
        if self._is_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_gpu:
            self.megabytes = (torch.cuda.max_memory_allocated() - self._before) / 1e6


class Busy:
    """Context manager that samples how busy the GPU is: the share of time in which it ran a kernel, by NVML.

    Attributes:
        note: the mean as text; empty without a GPU or NVML's Python package.
    """

    def __init__(self, setting: Setting) -> None:
        self.note = ""
        self._is_gpu = setting.device == "cuda"
        self._samples: list[int] = []
        self._done = Event()
        self._thread = Thread(target=self._sample, name="busy", daemon=True)

    def __enter__(self) -> "Busy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._samples:
            self.note = f"GPU busy {sum(self._samples) / len(self._samples):.0f} %"

    def _sample(self) -> None:
        while self._is_gpu and not self._done.wait(0.2):
            try:
                self._samples.append(torch.cuda.utilization())
            except (ImportError, RuntimeError):  # no pynvml, or it does not know this GPU
                return


def machine_facts(setting: Setting) -> dict[str, str]:
    """Return what the figures depend on: the device, and versions."""
    facts = {"torch": str(torch.__version__)}
    if setting.device == "cuda":
        facts = {"GPU": torch.cuda.get_device_name(), **facts, "CUDA": str(torch.version.cuda)}
    return facts if not setting.tiny else {**facts, "sizes": "of a trial"}
