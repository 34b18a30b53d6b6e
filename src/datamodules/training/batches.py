"""Training batches: committed samples, read by random access and collated by their kind."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from datamodules.run.reader import CommittedSamples
from datamodules.samples import SampleKind


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
        return self._samples.collate([self._committed.decode(index, self._samples) for index in indices])
