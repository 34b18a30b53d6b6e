"""Training batches: committed samples collated, each exactly once an epoch over any number of ranks."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from datamodules.errors import ConfigError
from datamodules.run.reader import CommittedSamples
from datamodules.samples import SampleKind


class SampleBatches(Dataset[dict[str, Any]]):
    """Collated batches, by the list of their samples' indices."""

    def __init__(self, committed: CommittedSamples, samples: SampleKind[Any]) -> None:
        self._committed, self._samples = committed, samples

    def __len__(self) -> int:
        return len(self._committed)

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self._samples.collate([self._committed.decode(index, self._samples) for index in indices])


class EpochSampler(DistributedSampler[list[int]], SequentialSampler):
    """Batches for one rank, such that over all ranks every sample comes exactly once an epoch.

    torch's own sampler repeats samples, or drops some, until all ranks have equally many. Here the batches' sizes
    differ by at most one instead, and all ranks get equally many batches, as DDP needs. Lightning's `overfit_batches`
    puts a sampler of single samples in the place of all that are no `SequentialSampler`: hence it is one by name.

    Args:
        dataset: only its length is used.
        batch_size: samples in a batch, at most; one more where a rank would otherwise be left with none.
        shuffle: a new order each epoch, from `seed` and the epoch (`set_epoch`, which Lightning calls).
        seed: the same on all ranks.

    Raises:
        ConfigError: there are fewer samples than ranks.
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
        self._count = len(dataset)  # type: ignore[arg-type]
        if self._count < self.num_replicas:
            raise ConfigError(f"{self._count} samples cannot be shared by {self.num_replicas} ranks: use fewer")
        self._steps = min(math.ceil(self._count / (batch_size * self.num_replicas)), self._count // self.num_replicas)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        order = torch.arange(self._count)
        if self.shuffle:
            order = torch.randperm(self._count, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        num_batches = self._steps * self.num_replicas
        for step in range(self._steps):
            batch = step * self.num_replicas + self.rank
            start, stop = (self._count * place // num_batches for place in (batch, batch + 1))
            yield order[start:stop].tolist()
