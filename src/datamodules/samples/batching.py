"""What the training batches of several kinds have in common."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from datamodules.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


def require_alike(forms: Sequence[tuple[str, str]]) -> None:
    """Check that samples can be one batch.

    Args:
        forms: for each sample its key, and its form in words.

    Raises:
        RunError: two forms differ.
    """
    first, form = forms[0]
    for key, other in forms:
        if other != form:
            raise RunError(
                f"{first} has {form}, but {key} has {other}: they were made with different options and cannot be one "
                "batch. Rerun the pipeline for one of them with the options of the other"
            )


def stack(values: "Sequence[Tensor]") -> "Tensor | list[Tensor]":
    """Return `values` stacked along a new first dimension; as a list if their shapes differ.

    In a worker of a DataLoader, the result lies in shared memory, so that sending it copies nothing. Images whose
    colours are last in memory keep that.
    """
    from torch.utils.data import default_collate  # exports and `view` decode samples without torch

    if len({value.shape for value in values}) > 1:
        return list(values)
    if values[0].is_contiguous():
        stacked: Tensor = default_collate(list(values))
        return stacked
    stacked = default_collate([value.movedim(0, -1) for value in values])
    return stacked.movedim(-1, 1)


def as_tensor(values: NDArray[Any]) -> "Tensor":
    """Return `values` as a tensor on the same memory, which may be the bytes of a file: it must not be changed."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)
