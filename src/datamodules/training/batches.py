"""Training batches: committed samples, read by random access and collated by their kind."""

from collections.abc import Sequence
from typing import Any

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
