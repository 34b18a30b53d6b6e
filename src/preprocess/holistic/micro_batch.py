"""How many images to put into a batch on a GPU: what `preprocess estimate` proposes, from a few sizes that it times."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from rich.filesize import decimal

SIZES = (16, 32, 64, 128, 256)
_ENOUGH = 0.95  # of the most images/s: larger batches cost memory, and work that is lost with a batch
_SECONDS = 1.0  # of each size, after a warm-up


class Tried(NamedTuple):
    """What a size came to.

    Attributes:
        size: images in a batch.
        per_second: images.
        memory_bytes: of the GPU, at most.
    """

    size: int
    per_second: float
    memory_bytes: int


def propose(trial: Callable[[int], Tried], sizes: Iterable[int] = SIZES) -> str:
    """The smallest size that is about as fast as any, and what each came to, for people; sizes are in rising order."""
    tried: list[Tried] = []
    for size in sizes:
        try:
            tried.append(trial(size))
        except torch.OutOfMemoryError:
            break
    if not tried:
        return "none: the GPU's memory does not suffice for the smallest"
    lines = [f"--model.batch_size {_best(tried).size}; images/s and memory of the GPU by size:"]
    lines += [f"  {each.size:>5} {each.per_second:>10,.0f} {decimal(each.memory_bytes):>10}" for each in tried]
    return "\n".join(lines)


def _best(tried: Sequence[Tried]) -> Tried:
    most = max(each.per_second for each in tried)
    return next(each for each in tried if each.per_second >= _ENOUGH * most)


def timed(size: int, step: Callable[[], Any], device: torch.device) -> Tried:
    """What batches of `size` come to, each of which `step` computes on a GPU, and waits for."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()  # kernels are chosen, graphs captured
    started, images = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _SECONDS or not images:
        step()
        images += size
    return Tried(size, images / spent, torch.cuda.max_memory_allocated(device))
