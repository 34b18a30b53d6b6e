"""Copies from the host's memory to a GPU."""

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
