"""Stacking the values of samples to a batch."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.samples.batching import as_tensor, stack


def images(count: int) -> list[torch.Tensor]:
    """Return images whose colours are last in memory, uint8 [3, 4, 5]."""
    return [torch.arange(60, dtype=torch.uint8).reshape(4, 5, 3).permute(2, 0, 1) + number for number in range(count)]


def test_images_keep_their_colours_last_in_memory() -> None:
    batch = stack(images(2))
    assert isinstance(batch, torch.Tensor)
    assert torch.equal(batch, torch.stack([image.contiguous() for image in images(2)]))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_values_of_several_shapes_become_a_list() -> None:
    values = [torch.zeros(3), torch.ones(2)]
    assert stack(values) == values


def test_an_array_on_read_only_memory_is_not_copied_and_nothing_is_warned_of() -> None:
    array = np.frombuffer(b"\1\2\3", np.uint8)
    assert as_tensor(array).data_ptr() == array.ctypes.data


class Images(Dataset[torch.Tensor]):
    """Two images, the colours of one of which are last in memory."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        return (images(1)[0], torch.zeros(3, 4, 5))[index]


def is_shared(values: list[torch.Tensor]) -> bool:
    batch = stack(values)
    return isinstance(batch, torch.Tensor) and batch.untyped_storage().is_shared()


@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning")
def test_a_worker_stacks_in_shared_memory() -> None:
    loader: Iterable[bool] = DataLoader(
        Images(), batch_size=1, num_workers=1, collate_fn=is_shared, multiprocessing_context="fork"
    )
    assert list(loader) == [True, True]
    assert not is_shared(images(2))
