"""The sample order of an epoch: every sample exactly once over all ranks, and as many batches for every rank."""

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from datamodules.errors import ConfigError


class EpochSampler(DistributedSampler[list[int]], SequentialSampler):
    """Yields the batches of one rank as lists of sample indices. Over all ranks, every sample occurs once an epoch.

    `DistributedSampler` repeats or drops samples until all ranks have equally many. Here, the sizes of batches differ
    by at most one instead, and every rank gets the same number of batches, as DDP needs.

    The class derives from `SequentialSampler` because Lightning's `overfit_batches` replaces any other sampler by one
    that yields single samples.

    Args:
        dataset: the samples; only their number is used.
        batch_size: maximum number of samples in a batch. Exceeded by one where a rank would otherwise get no
            batch.
        shuffle: use a new order each epoch, drawn from `seed` and the epoch (`set_epoch`, which Lightning calls).
        seed: seed of the order; the same on all ranks.

    Raises:
        ConfigError: the dataset has fewer samples than there are ranks.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, shuffle: bool, seed: int) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        DistributedSampler.__init__(
            self,
            dataset,
            num_replicas=None if distributed else 1,
            rank=None if distributed else 0,
            shuffle=shuffle,
            seed=seed,
        )
        self._num_samples = len(dataset)  # type: ignore[arg-type]
        if self._num_samples < self.num_replicas:
            raise ConfigError(
                f"{self._num_samples} samples cannot be shared by {self.num_replicas} ranks. Use fewer ranks"
            )
        # as many as `batch_size` requires, but no more than every rank can fill with one sample a batch
        needed = math.ceil(self._num_samples / (batch_size * self.num_replicas))
        self._num_batches = min(needed, self._num_samples // self.num_replicas)

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        order = torch.arange(self._num_samples)
        if self.shuffle:
            order = torch.randperm(self._num_samples, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        num_all_batches = self._num_batches * self.num_replicas
        for step in range(self._num_batches):
            batch = step * self.num_replicas + self.rank
            # exact integer bounds: the batches partition the samples, and their sizes differ by at most one
            start, stop = (self._num_samples * index // num_all_batches for index in (batch, batch + 1))
            yield order[start:stop].tolist()


class ReadAheadSampler(EpochSampler):
    """Yields each batch of `EpochSampler` with the one that the same worker reads next, which is empty at the end.

    Args:
        num_workers: of the DataLoader, which hands batches to its workers in turn.
        dataset, batch_size, shuffle, seed: see `EpochSampler`.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, shuffle: bool, seed: int, num_workers: int) -> None:
        super().__init__(dataset, batch_size, shuffle, seed)
        self._distance = max(1, num_workers)

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:  # type: ignore[override]
        batches = super().__iter__()
        following = deque(islice(batches, self._distance))
        while following:
            batch = following.popleft()
            following.extend(islice(batches, 1))
            yield batch, following[self._distance - 1] if len(following) == self._distance else []
