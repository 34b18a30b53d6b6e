"""Sequential reading: each worker reads whole shards, one after another, through `webdataset`.

The shards of an epoch come in a shuffled order, which is cut into lanes of equal length. A lane is read front to back,
one shuffle buffer after another, each in a random order. Batches take turns among the lanes, so that the order of an
epoch is one sequence, of which steps, ranks and workers take their parts as with random access. There are as many lanes
as the training has workers when it begins: each of them reads a lane of its own. The number of lanes belongs to the
order and is in its position. So a training that resumes on others has the same order; its workers share lanes.

The tables say which samples a lane has: counts are exact, and samples that are superseded or excluded are not read.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from webdataset.tariterators import group_by_keys

from datamodules.errors import CorpusError
from datamodules.run.reader import CommittedSamples, damaged
from datamodules.run.remote_tars import RemoteTars
from datamodules.samples import SampleKind
from datamodules.tar_members import read_members
from datamodules.training.read_ahead import neighbours
from datamodules.training.sampler import EpochSampler, continued_passes

_READ_BYTES = 8 << 20  # of samples that follow one another, read at once; a larger sample is read alone


class SequentialBatch(NamedTuple):
    """What a worker gets to know of one batch.

    Attributes:
        indices: of the samples of the batch.
        buffers: the worker's part of each shuffle buffer that begins with this batch, indices of its samples.
        is_first: whether this is the first batch of the worker in a pass.
    """

    indices: list[int]
    buffers: list[list[int]]
    is_first: bool


class SequentialSampler(EpochSampler):
    """Yields a `SequentialBatch` for each batch of one rank. Over all ranks, every sample occurs once an epoch.

    Args:
        runs: the samples of each run. They have consecutive indices.
        counts: number of samples of each run in an epoch. A run goes through all its samples before one comes again,
            see `continued_passes`. Runs are mixed: a batch has samples of each, in a random order.
        batch_size, seed: see `EpochSampler`.
        num_workers: of the DataLoader, which hands batches to its workers in turn.
        shuffle_buffer: number of samples of a lane that are shuffled together.

    Raises:
        ConfigError: see `EpochSampler`.
    """

    def __init__(
        self,
        runs: Sequence[CommittedSamples],
        counts: Sequence[int],
        batch_size: int,
        seed: int,
        num_workers: int,
        shuffle_buffer: int,
    ) -> None:
        super().__init__(range(sum(counts)), batch_size, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self._runs, self._counts, self._shuffle_buffer = runs, counts, shuffle_buffer
        self._num_workers = max(1, num_workers)
        self._num_lanes = self.num_replicas * self._num_workers
        self._turn = batch_size  # number of samples of a lane that follow one another

    def position(self, step: int) -> dict[str, int]:
        """Return the number of samples that come before a step, and what the order of the epoch depends on."""
        return {"samples": super().position(step), "lanes": self._num_lanes, "turn": self._turn}

    def resume(self, epoch: int, position: dict[str, int]) -> None:
        """Continue an epoch at a position that `position` returned, in its order, which later epochs keep.

        Raises:
            ConfigError: fewer samples are left than there are ranks.
        """
        super().resume(epoch, position["samples"])
        self._num_lanes, self._turn = position["lanes"], position["turn"]

    def __iter__(self) -> Iterator[SequentialBatch]:  # type: ignore[override]
        order, buffers = self._order_and_buffers()
        ranges = list(self._own_ranges())
        starting = self._starting_buffers(order, buffers, ranges)
        for step, (start, stop) in enumerate(ranges):
            yield SequentialBatch(order[start:stop].tolist(), starting.pop(step, []), step < self._num_workers)

    def _starting_buffers(
        self, order: NDArray[np.int64], buffers: NDArray[np.int64], ranges: Sequence[tuple[int, int]]
    ) -> dict[int, list[list[int]]]:
        """Return the buffers that begin at each step; those of workers that share a lane have their own samples."""
        starts, stops = np.array(ranges, np.int64).reshape(-1, 2).T
        steps = np.repeat(np.arange(len(ranges)), stops - starts)
        begun = np.cumsum(stops - starts) - (stops - starts)
        positions = np.arange(len(steps)) + (starts - begun)[steps]
        owners = buffers[positions] * self._num_workers + steps % self._num_workers
        grouped = np.argsort(owners, kind="stable")
        _, firsts, sizes = np.unique(owners, return_index=True, return_counts=True)
        starting = defaultdict(list)
        for first, group in zip(firsts, np.split(order[positions[grouped]], np.cumsum(sizes)[:-1]), strict=False):
            starting[int(steps[first])].append(group.tolist())
        return starting

    def _order_and_buffers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (indices of the samples of this epoch in their order, the number of the shuffle buffer of each)."""
        rng = np.random.default_rng((self.seed, self.epoch))
        columns = zip(*(self._lanes_of(number, rng) for number in range(len(self._runs))), strict=True)
        samples, lanes, buffers, keys = (np.concatenate(column) for column in columns)
        by_lane = np.argsort(keys)
        sizes = np.bincount(lanes, minlength=self._num_lanes)
        turns = (np.arange(len(lanes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)) // self._turn
        order = by_lane[np.argsort(turns * self._num_lanes + lanes[by_lane], kind="stable")]
        return samples[order], buffers[order]

    def _lanes_of(self, number: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Divide the samples of a run in this epoch among the lanes.

        Returns:
            (indices of the samples in the order of each lane, lane by lane; the lane of each; the number of its shuffle
            buffer; keys by which the lane takes the samples of all runs: increasing, from its number to the next).
        """
        run, count, num_lanes = self._runs[number], self._counts[number], self._num_lanes
        drawn = continued_passes(self.epoch, count, len(run), partial(self._pass, number))
        bounds = -(-count * np.arange(num_lanes + 1) // num_lanes)
        lanes = np.repeat(np.arange(num_lanes), np.diff(bounds))
        size = max(1, self._shuffle_buffer * count // self._num_samples)  # the runs share the buffer
        within = np.arange(count) - bounds[lanes]
        shuffled = np.argsort(np.cumsum(within % size == 0) + rng.random(count))
        buffers = (within // size * num_lanes + lanes) * len(self._runs) + number
        first_index = sum(map(len, self._runs[:number]))
        return drawn[shuffled] + first_index, lanes, buffers, np.sort(lanes + rng.random(count))

    def _pass(self, number: int, index: int) -> NDArray[np.int64]:
        """Return the samples of a run in one of its passes: shards in a shuffled order, each front to back."""
        run = self._runs[number]
        shards = np.random.default_rng((self.seed, number, index)).permutation(len(run.tars))
        order: NDArray[np.int64] = np.lexsort((run.offsets, shards[run.tar_numbers]))
        return order


class SequentialBatches(Dataset[dict[str, Any]]):
    """Dataset that returns a collated batch for an element of `SequentialSampler`. Can be pickled.

    Shuffle buffers that have begun are in memory, undecoded.

    Args:
        runs: the samples of each run. They have consecutive indices.
        tars: reads the tars of each run.
        samples: kind of the samples, which decodes and collates them.
    """

    def __init__(self, runs: Sequence[CommittedSamples], tars: Sequence[RemoteTars], samples: SampleKind[Any]) -> None:
        self._runs, self._tars, self._samples = runs, tars, samples
        self._ends = np.cumsum(list(map(len, runs)))
        self._undecoded: dict[int, list[dict[str, Any]]] = {}  # the same sample once for each of its occurrences

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_undecoded": {}}

    def __len__(self) -> int:
        """Return the number of samples, not of batches."""
        return int(self._ends[-1])

    def __getitem__(self, batch: SequentialBatch) -> dict[str, Any]:
        if batch.is_first:
            self._undecoded = {}  # a pass may have been left before its end
        for indices in batch.buffers:
            read = dict(self._read(np.unique(indices)))
            for index in indices:
                self._undecoded.setdefault(index, []).append(read[index])
        return self._samples.collate(list(map(self._decode, batch.indices)))

    def _decode(self, index: int) -> Any:
        """Return the decoded sample of one occurrence of `index`."""
        occurrences = self._undecoded[index]
        sample = occurrences.pop()
        if not occurrences:
            del self._undecoded[index]
        files = {ending: content for ending, content in sample.items() if ending not in ("__key__", "__url__")}
        opened: dict[str, Any] = {ending: io.BytesIO(content) for ending, content in files.items()}
        return self._samples.decode(sample["__key__"], opened if self._samples.opens_files else files)

    def _read(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index, sample of webdataset) of samples, which are read as they follow in their tars."""
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            first_index = int(self._ends[owner]) - len(self._runs[owner])
            own = (indices[owners == owner] - first_index).tolist()
            for index, sample in _fill(self._runs[owner], self._tars[owner], own):
                yield first_index + index, sample


def _fill(
    committed: CommittedSamples, tars: RemoteTars, indices: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, sample of webdataset) of samples of one run, as they follow in their tars."""
    for in_tar, place in neighbours(committed, indices, _READ_BYTES):
        location = committed.tars[place.tar].location
        part = tars.read(place.tar, place.size, place.offset)
        try:
            samples = list(group_by_keys(_files(part, location), lcase=False))
        except (CorpusError, ValueError) as error:
            raise damaged(location, place.offset, f"{error.args[0]}") from error
        if len(samples) != len(in_tar):
            raise damaged(location, place.offset, f"it has {len(samples)} samples there, not {len(in_tar)}")
        yield from zip(in_tar, samples, strict=True)


def _files(part: bytes, location: str) -> Iterator[dict[str, Any]]:
    """Yield the files of a part of a tar as webdataset's `tar_file_iterator` does, but copy each at once.

    webdataset copies in blocks of 10 KB, which takes longer than to decode the arrays of a sample.

    Raises:
        CorpusError: the part is damaged.
    """
    for member in read_members(io.BytesIO(part), "the part", is_whole=False):
        content = part[member.start_byte : member.start_byte + member.num_bytes]
        yield {"fname": member.name, "data": content, "__url__": location}
