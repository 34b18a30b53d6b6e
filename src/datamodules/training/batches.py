"""Training batches: committed samples of one run or several, read by random access and collated by their kind.

Workers import this module. It needs no Lightning, whose import takes longer than many a first epoch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.run.reader import CommittedSamples
from datamodules.run.remote_tars import RemoteTars
from datamodules.samples import SampleKind
from datamodules.training.read_ahead import ReadAhead


class SampleBatches(Dataset[dict[str, Any]]):
    """Dataset that returns a collated batch of committed samples for a list of sample indices.

    Args:
        committed: the samples of one split.
        samples: kind of the samples, which decodes and collates them.
    """

    def __init__(self, committed: CommittedSamples, samples: SampleKind[Any]) -> None:
        self._committed, self._samples = committed, samples

    def __len__(self) -> int:
        """Return the number of samples, not of batches."""
        return len(self._committed)

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.collate(self.read(indices))

    def read(self, indices: Sequence[int], following: Sequence[int] = ()) -> list[Any]:
        """Return the decoded samples of a batch, in order.

        Args:
            indices: of the batch.
            following: of the batch that this process reads next, which may be read ahead.
        """
        return [self._committed.decode(index, self._samples) for index in indices]

    def collate(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return a batch of decoded samples."""
        return self._samples.collate(samples)


class RemoteSampleBatches(SampleBatches):
    """The same for samples that are read ahead, for an element of `ReadAheadSampler`.

    Args:
        committed: the samples of one split.
        samples: kind of the samples, which decodes and collates them.
        tars: reads `committed.tars`.
        num_requests: requests that a process has in flight, at most.
    """

    def __init__(
        self, committed: CommittedSamples, samples: SampleKind[Any], tars: RemoteTars, num_requests: int
    ) -> None:
        super().__init__(committed, samples)
        self.ahead = ReadAhead(committed, tars, samples, num_requests)

    def __getitem__(self, batches: Sequence[Sequence[int]]) -> dict[str, Any]:  # type: ignore[override]
        return self.collate(self.read(*batches))

    def read(self, indices: Sequence[int], following: Sequence[int] = ()) -> list[Any]:
        """Return the decoded samples of a batch, in order; see `SampleBatches.read`."""
        return list(self.ahead.read(indices, following))


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


class JoinedSamples:
    """Which samples of several runs belong together.

    Attributes:
        keys: pyarrow ChunkedArray of strings [N]: what the samples of each row have in common.
        rows: int64 [N, number of runs], indices of samples; -1: the run has none.
    """

    def __init__(self, keys: Any, rows: NDArray[np.int64]) -> None:
        self.keys, self.rows = keys, rows

    def digest(self) -> bytes:
        """Return a digest of which samples belong together."""
        return hashlib.sha256(self.rows.tobytes()).digest()


class JoinedBatches(Dataset[dict[str, Any]]):
    """Dataset that returns a batch of joined samples for an element of `ReadAheadSampler`.

    A batch has `key`, a list of B, and by name of the run its collated batch. In an outer join, `present` has a bool
    tensor [B] by name of the run, and the batch of a run has the samples that are present, in order; None without any.

    Args:
        parts: the batches of each run, by name.
        joined: which samples belong together.
        outer: whether some may be missing.
    """

    def __init__(self, parts: Mapping[str, SampleBatches], joined: JoinedSamples, outer: bool) -> None:
        self._parts, self._joined, self._outer = dict(parts), joined, outer

    def __len__(self) -> int:
        """Return the number of joined samples, not of batches."""
        return len(self._joined.rows)

    def __getitem__(self, batches: Sequence[Sequence[int]]) -> dict[str, Any]:
        rows, following = (self._joined.rows[list(indices)] for indices in batches)
        batch: dict[str, Any] = {"key": self._joined.keys.take(list(batches[0])).to_pylist()}
        if self._outer:
            batch["present"] = {name: torch.from_numpy(rows[:, column] >= 0) for column, name in enumerate(self._parts)}
        for column, (name, part) in enumerate(self._parts.items()):
            indices, next_indices = (own[own >= 0].tolist() for own in (rows[:, column], following[:, column]))
            batch[name] = part.collate(part.read(indices, next_indices)) if indices else None
        return batch


def with_tensors(batch: Any) -> Any:
    """Return a batch whose arrays, and those of batches in it, are tensors; any other value as it is.

    DataLoader's own conversion visits every element of every sample's fields, such as the names of all its frames.
    """
    if isinstance(batch, np.ndarray):
        return torch.from_numpy(batch)
    return {name: with_tensors(value) for name, value in batch.items()} if isinstance(batch, dict) else batch
