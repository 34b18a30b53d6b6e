"""Arrays of numpy or torch, for code that computes with both.

Such code calls functions of the Python array API standard (`namespace_of(array).concat`, `.max(…, axis=…)`), which
array-api-compat offers for both libraries under the same names; and `einsum`, which both have besides.
"""

from typing import Any, TypeAlias

import array_api_compat.numpy
import array_api_compat.torch
import numpy as np
import torch

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor


def namespace_of(array: Array) -> Any:
    """Return the array API's functions for `array`: those of numpy, or of torch."""
    return array_api_compat.numpy if isinstance(array, np.ndarray) else array_api_compat.torch


def device_of(array: Array) -> Any:
    """Return the device of `array`, as functions of its library take it."""
    return "cpu" if isinstance(array, np.ndarray) else array.device


def is_known_false(mask: Array) -> bool:
    """Return whether no value of `mask` is true; False for torch, where the answer would wait for the device."""
    return isinstance(mask, np.ndarray) and not mask.any()


def clip(values: Array, least: float | None = None, greatest: float | None = None) -> Array:
    """Return `values` limited to a range; the API's own functions copy a number to the GPU, and wait for that."""
    if not isinstance(values, np.ndarray):
        return torch.clamp(values, least, greatest)
    values = values if least is None else np.maximum(values, least)
    return values if greatest is None else np.minimum(values, greatest)


def sigmoid(values: Array) -> Array:
    """Return 1 / (1 + exp(-values)), of any floating dtype, without overflow."""
    if not isinstance(values, np.ndarray):
        return torch.sigmoid(values)
    from scipy.special import expit  # here, because the pass in torch does not need it

    return expit(values)
