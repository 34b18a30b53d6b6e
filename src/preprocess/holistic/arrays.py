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
    """Return the array API's functions for `array`: those of numpy, or of torch.

    array-api-compat's own `array_namespace` keeps a cache, which torch.compile warns of.
    """
    return array_api_compat.numpy if isinstance(array, np.ndarray) else array_api_compat.torch


def is_known_false(mask: Array) -> bool:
    """Return whether no value of `mask` is true; False for torch, where the answer would wait for the device."""
    return isinstance(mask, np.ndarray) and not mask.any()


def sigmoid(values: Array) -> Array:
    """Return 1 / (1 + exp(-values)), of any floating dtype, without overflow."""
    if not isinstance(values, np.ndarray):
        return torch.sigmoid(values)
    from scipy.special import expit  # here, because the pass in torch does not need it

    return expit(values)
