"""Mixed runs: the samples of several runs of one kind, all of them or by weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.errors import RunError
from datamodules.training.batches import MixedBatches
from datamodules.training.sampler import EpochSampler, ReadAheadSampler, continued_passes
from datamodules.training.splits import RunSplits, TrainingSplits, Use


class WeightedSampler(ReadAheadSampler):
    """Yields batches in which each run has its share of the samples.

    An epoch has as many samples as all runs together. A run goes through all its samples in a shuffled order before one
    comes again, and an epoch begins where the one before has ended. So over the epochs, all samples of a run occur
    equally often, up to one.

    Args:
        dataset: samples of the runs.
        weights: of each run, above 0; only their ratios count.
        batch_size, seed, num_workers: see `ReadAheadSampler`.
    """

    def __init__(
        self, dataset: MixedBatches, weights: Sequence[float], batch_size: int, seed: int, num_workers: int
    ) -> None:
        super().__init__(dataset, batch_size, True, seed, num_workers)
        self._ends: list[int] = dataset.ends.tolist()
        self._counts = shares(weights, len(dataset))

    def order(self) -> torch.Tensor:
        """Return the indices of the samples of this epoch, of all ranks, in their order."""
        drawn = [
            start + continued_passes(self.epoch, count, end - start, partial(self._pass, number, end - start))
            for number, (start, end, count) in enumerate(zip([0, *self._ends], self._ends, self._counts, strict=False))
        ]
        order = torch.from_numpy(np.concatenate(drawn))
        return order[torch.randperm(len(order), generator=torch.Generator().manual_seed(self.seed + self.epoch))]

    def _pass(self, number: int, size: int, index: int) -> NDArray[np.int64]:
        """Return the order of the samples of a run in one of its passes."""
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {number} {index}".encode()).digest()[:8], "little") >> 1
        order: NDArray[np.int64] = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
        return order


def shares(weights: Sequence[float], num_samples: int) -> list[int]:
    """Return how many of the samples of an epoch each run has; they add up exactly."""
    ends = np.round(np.cumsum(weights) / np.sum(weights) * num_samples).astype(np.int64)
    counts: list[int] = np.diff(ends, prepend=0).tolist()
    return counts


class MixedSplits(TrainingSplits):
    """Loads batches of samples of several runs of one kind.

    The runs that lack a split of validation or test have no part in it. All must have that of training.

    Args:
        parts: the runs, by the number or the place of each.
        weights: of each run in training; None: every sample once an epoch.
        loading: see `TrainingSplits`.
    """

    def __init__(self, parts: Mapping[str, RunSplits], weights: Sequence[float] | None, **loading: Any) -> None:
        super().__init__(**loading)
        self._parts, self._weights = parts, weights
        self.planned = sorted(set().union(*(part.planned for part in parts.values())))
        for part in parts.values():
            part.names = {use: self.split(use) for use in self.names}

    def source(self, use: Use) -> dict[str, Any]:
        """Return the sources of the runs in their order, and the weights."""
        sources = {name: part.source(use) for name, part in self._parts_with(use).items()}
        return {"runs": sources, **({"weights": list(self._weights)} if self._weights and use == "train" else {})}

    def identity(self, use: Use) -> str:
        """Return the number of samples of a split, and a digest of what they are, in one line."""
        identities = [part.identity(use) for part in self._parts_with(use).values()]
        digest = hashlib.sha256(json.dumps([identities, self._weights and list(self._weights)]).encode())
        return f"{sum(map(len, self.open(use))):,} (digest {digest.hexdigest()[:16]})"

    @property
    def selection(self) -> dict[str, Any]:
        """Those of all runs by number."""
        return {name: part.selection for name, part in self._parts.items()}

    def batches(self, use: Use, shuffle: bool) -> tuple[Dataset[dict[str, Any]], EpochSampler]:
        """Return (batches of a split, the order of its samples)."""
        if shuffle and self._reading == "sequential":
            sizes = list(map(len, self.open(use)))
            return self.sequential(self._parts_with(use).values(), use, shares(self._weights or sizes, sum(sizes)))
        batches = MixedBatches([part.dataset(use) for part in self._parts_with(use).values()])
        if self._weights and shuffle:
            return batches, WeightedSampler(batches, self._weights, self._batch_size, self._seed, self._num_workers)
        return batches, ReadAheadSampler(batches, self._batch_size, shuffle, self._seed, self._num_workers)

    def open(self, use: Use) -> list[Any]:
        """Return the committed samples of a split, of each run that has it.

        Raises:
            RunError: no run has the split, or one lacks that of training; or a run has no committed samples of it.
        """
        return [part.open(use) for part in self._parts_with(use).values()]

    def _parts_with(self, use: Use) -> dict[str, RunSplits]:
        split = self.split(use)
        parts = {name: part for name, part in self._parts.items() if split in part.planned or use == "train"}
        if not parts:
            raise RunError(f"no run has a split {split!r}. Set {use}_split to one of {', '.join(self.planned)}")
        return parts
