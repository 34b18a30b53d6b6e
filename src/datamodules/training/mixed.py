"""Mixed runs: the samples of several runs of one kind, all of them or by weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.errors import RunError
from datamodules.training.batches import SampleBatches
from datamodules.training.sampler import EpochSampler, ReadAheadSampler
from datamodules.training.splits import RunSplits, TrainingSplits, Use


class MixedBatches(Dataset[dict[str, Any]]):
    """Dataset that returns a batch of samples of several runs for an element of `ReadAheadSampler`.

    Args:
        parts: the batches of each run. Their samples have consecutive indices.

    Attributes:
        ends: int64 [number of runs], the number of samples of each run and those before it.
    """

    def __init__(self, parts: Sequence[SampleBatches]) -> None:
        self._parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        """Return the number of samples, not of batches."""
        return int(self.ends[-1])

    def __getitem__(self, batches: Sequence[Sequence[int]]) -> dict[str, Any]:
        indices, following = (np.asarray(batch, np.int64) for batch in batches)
        owners, next_owners = (np.searchsorted(self.ends, batch, side="right") for batch in (indices, following))
        samples: list[Any] = [None] * len(indices)
        for number, part in enumerate(self._parts):
            start = self.ends[number] - len(part)
            places = np.flatnonzero(owners == number)
            own, next_own = indices[places] - start, following[next_owners == number] - start
            if len(own):
                for place, sample in zip(places, part.read(own.tolist(), next_own.tolist()), strict=True):
                    samples[place] = sample
        return self._parts[0].collate(samples)


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
        self._starts = [0, *dataset.ends.tolist()]
        # rounded so that they add up exactly: each run ends where its share of the whole does
        ends = np.round(np.cumsum(weights) / np.sum(weights) * len(dataset)).astype(np.int64)
        self.counts: list[int] = np.diff(ends, prepend=0).tolist()

    def order(self) -> torch.Tensor:
        """Return the indices of the samples of this epoch, of all ranks, in their order."""
        drawn = torch.cat([self._drawn(number, count) for number, count in enumerate(self.counts)])
        return drawn[torch.randperm(len(drawn), generator=torch.Generator().manual_seed(self.seed + self.epoch))]

    def _drawn(self, number: int, count: int) -> torch.Tensor:
        """Return the next `count` samples of a run: a piece of its endless sequence of shuffled passes."""
        start, size = self._starts[number], self._starts[number + 1] - self._starts[number]
        first, last = self.epoch * count, (self.epoch + 1) * count
        passes = [
            torch.randperm(size, generator=torch.Generator().manual_seed(self._seed_of(number, index)))
            for index in range(first // size, -(-last // size))
        ]
        offset = first - first // size * size
        drawn = torch.cat([torch.empty(0, dtype=torch.int64), *passes])[offset : offset + count]
        return torch.add(drawn, start)

    def _seed_of(self, number: int, index: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed} {number} {index}".encode()).digest()[:8], "little") >> 1


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

    def batches(self, use: Use, shuffle: bool) -> tuple[MixedBatches, EpochSampler]:
        """Return (batches of a split, the order of its samples)."""
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
