"""The sample order of an epoch: every sample exactly once over all ranks, and as many batches for every rank."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from datamodules.errors import ConfigError


class EpochSampler(DistributedSampler[list[int]], SequentialSampler):
    """Yields the batches of one rank as lists of sample indices. Over all ranks, every sample occurs once an epoch.

    `DistributedSampler` repeats or drops samples until all ranks have equally many. Here, the sizes of batches differ
    by at most one instead, and every rank gets the same number of batches, as DDP needs.

    A step is one batch of every rank: samples that follow one another in the order of the epoch, which does not depend
    on the number of ranks. So a position in that order is all that is needed to continue an epoch on other ranks. How
    many samples a step has follows from the number of those that are left, so that continuing changes no batch.

    The class derives from `SequentialSampler` because Lightning's `overfit_batches` replaces any other sampler by one
    that yields single samples.

    Args:
        dataset: the samples; only their number is used.
        batch_size: maximum number of samples in a batch. Exceeded by one where a rank would otherwise get no
            batch.
        shuffle: use a new order each epoch, drawn from `seed` and the epoch (`set_epoch`, which Lightning calls).
        seed: seed of the order; the same on all ranks.

    Attributes:
        start: number of samples of this epoch, over all ranks, that are left out because they were read before.

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
        self._batch_size, self.start = batch_size, 0
        if self._num_samples < self.num_replicas:
            raise ConfigError(
                f"{self._num_samples} samples cannot be shared by {self.num_replicas} ranks. Use fewer ranks"
            )

    def __len__(self) -> int:
        """Return the number of batches of this rank in a whole epoch, which is the number of steps."""
        return self._num_steps(0)

    @property
    def num_steps_left(self) -> int:
        """Number of steps from `start` on."""
        return self._num_steps(self.start)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order. Another epoch than before begins at its first sample."""
        if epoch != self.epoch:
            self.begin_epoch()
        super().set_epoch(epoch)

    def begin_epoch(self) -> None:
        """Let the next pass begin with the first sample."""
        self.start = 0

    def resume(self, epoch: int, position: Any) -> None:
        """Continue an epoch at a position that `position` returned, on any number of ranks.

        Raises:
            ConfigError: fewer samples are left than there are ranks.
        """
        self._require_left(self._num_samples - position, epoch)
        self.epoch, self.start = epoch, position

    def _require_left(self, num_left: int, epoch: int) -> None:
        if 0 < num_left < self.num_replicas:
            raise ConfigError(
                f"the checkpoint leaves {num_left} samples of epoch {epoch}, which cannot be shared by "
                f"{self.num_replicas} ranks. Resume on {num_left} ranks or fewer, or from another checkpoint"
            )

    def position(self, step: int) -> Any:
        """Return how many samples of the epoch come before a step.

        Args:
            step: counted from `start`; `num_steps_left`: the end of the epoch.
        """
        num_steps = self.num_steps_left
        if not num_steps:
            return self._num_samples
        size, num_larger = divmod(self._num_samples - self.start, num_steps)  # the first steps have one sample more
        return self.start + step * size + min(step, num_larger)

    def order(self) -> torch.Tensor:
        """Return the indices of the samples of this epoch, of all ranks, in their order: int64 [number of samples]."""
        if not self.shuffle:
            return torch.arange(self._num_samples)
        return torch.randperm(self._num_samples, generator=torch.Generator().manual_seed(self.seed + self.epoch))

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        order = self.order()
        for start, stop in self._own_ranges():
            yield order[start:stop].tolist()

    def _own_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the positions (start, stop) of this rank's batch in the order of the epoch, for each step left."""
        for step in range(self.num_steps_left):
            begin, end = EpochSampler.position(self, step), EpochSampler.position(self, step + 1)
            yield (
                begin + (end - begin) * self.rank // self.num_replicas,
                begin + (end - begin) * (self.rank + 1) // self.num_replicas,
            )

    def _num_steps(self, start: int) -> int:
        """Return the number of steps from a position on: as many as `batch_size` requires.

        But no more than every rank can fill with one sample a batch.
        """
        num_left = self._num_samples - start
        return min(math.ceil(num_left / (self._batch_size * self.num_replicas)), num_left // self.num_replicas)


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


def continued_passes(
    epoch: int, count: int, size: int, one_pass: Callable[[int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the samples of an epoch of a run that goes through all its samples before one comes again.

    An epoch begins where the one before has ended. With `count` = `size`, it is one pass.

    Args:
        epoch: number of the epoch.
        count: number of samples in each epoch.
        size: number of samples of the run.
        one_pass: returns the order of the pass with a number: int64 [size].

    Returns:
        int64 [count], indices of samples.
    """
    first = epoch * count
    passes = [one_pass(number) for number in range(first // size, -(-(first + count) // size))]
    drawn: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *passes])[first % size :][:count]
    return drawn
