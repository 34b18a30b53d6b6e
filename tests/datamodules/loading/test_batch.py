"""Slices of items, as workers send them to the rank."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.loading.batch import Batch, Slice


def filled(frames: list[Tensor]) -> Batch:
    """Return the batch of a slice of `frames`."""
    content = Slice(0, has_results=False)
    for index, frame in enumerate(frames):
        content.add(0, index, None, frame)
    return content.batch()


class Frames(Dataset[Tensor]):
    """Two black frames."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(3, 4, 5, dtype=torch.uint8)


def is_shared(frames: list[Tensor]) -> bool:
    frames_of_batch = filled(frames)["frames"]
    return isinstance(frames_of_batch, Tensor) and frames_of_batch.untyped_storage().is_shared()


def test_frames_of_one_size_are_stacked_and_keep_their_colours_last_in_memory() -> None:
    frames = [torch.arange(60, dtype=torch.uint8).reshape(4, 5, 3).permute(2, 0, 1) + number for number in range(2)]
    batch = filled(frames)["frames"]
    assert isinstance(batch, Tensor)
    assert batch.tolist() == [frame.tolist() for frame in frames]
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning")
def test_a_worker_stacks_frames_in_the_memory_that_it_shares_with_the_rank() -> None:
    loader: Iterable[bool] = DataLoader(
        Frames(), batch_size=2, num_workers=1, collate_fn=is_shared, multiprocessing_context="fork"
    )
    assert list(loader) == [True]
    assert not is_shared([Frames()[0]])
