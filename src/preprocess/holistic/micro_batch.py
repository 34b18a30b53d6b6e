"""The batch size that `preprocess estimate` suggests for a GPU, from measurements of a few sizes."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from rich.filesize import decimal

from preprocess.gpu_errors import is_out_of_memory

SIZES = (16, 32, 64, 128, 256)
_MIN_SHARE = 0.95  # of the most images/s: larger batches need memory, and lose more work when interrupted
_SECONDS = 1.0  # for each size, after a warm-up


class Trial(NamedTuple):
    """The measurement of one batch size.

    Attributes:
        size: images in a batch.
        per_second: images per second.
        memory_bytes: peak of the GPU's memory.
    """

    size: int
    per_second: float
    memory_bytes: int


def suggest_batch_size(run_trial: Callable[[int], Trial], sizes: Iterable[int] = SIZES) -> str:
    """Return text that suggests the smallest size that is about as fast as the fastest, with all measurements.

    Args:
        run_trial: measures a size; the search ends where memory runs out.
        sizes: in ascending order.
    """
    trials: list[Trial] = []
    for size in sizes:
        try:
            trials.append(run_trial(size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
    if not trials:
        return "none: the GPU's memory is too small for the smallest batch"
    lines = [f"--model.batch_size {_smallest_fast(trials).size}; images/s and memory of the GPU by size:"]
    lines += [f"  {trial.size:>5} {trial.per_second:>10,.0f} {decimal(trial.memory_bytes):>10}" for trial in trials]
    return "\n".join(lines)


def _smallest_fast(trials: Sequence[Trial]) -> Trial:
    most = max(trial.per_second for trial in trials)
    return next(trial for trial in trials if trial.per_second >= _MIN_SHARE * most)


def measure(size: int, step: Callable[[], Any], device: torch.device) -> Trial:
    """Return the measurement of a batch size; `step` computes one batch of it on a GPU and waits for the result."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()  # chooses kernels, captures graphs
    started, images = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < _SECONDS or not images:
        step()
        images += size
    return Trial(size, images / seconds, torch.cuda.max_memory_allocated(device))
