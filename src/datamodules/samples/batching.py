"""What the training batches of several kinds have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    """Return `values` stacked along a new first dimension; as a list if their shapes differ."""
    import torch  # exports and `view` decode samples without it

    return torch.stack(list(values)) if len({value.shape for value in values}) == 1 else list(values)
