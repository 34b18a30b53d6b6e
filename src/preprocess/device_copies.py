"""Copies between the host's memory and a GPU, for which the process does not wait."""

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; where that is a GPU, without waiting for the work that it has been given before.

    A copy from pageable memory would wait for it, so that nothing more is queued meanwhile. torch keeps the page-locked
    memory until the copy is done, and then for the next.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def start_to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy `tensor` to the host. Return a function that waits for the copy and returns it."""
    if tensor.device.type != "cuda":
        copy = tensor.cpu()
        return lambda: copy
    page_locked = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    page_locked.copy_(tensor, non_blocking=True)
    done = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> Tensor:
        done.synchronize()
        return page_locked.clone()  # so that the page-locked memory serves the next copy

    return wait
