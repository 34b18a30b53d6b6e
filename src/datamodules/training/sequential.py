"""Sequential reading: each worker reads whole shards, one after another, through `webdataset`.

The shards of an epoch come in a shuffled order, and the samples of a shuffle buffer, a block of this order, in another.
Each worker of each rank has a section of the order, so nobody skips samples of others. The tables say which samples a
section has: counts are exact, and samples that are superseded or excluded are not read.
"""

import io
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_iterator

from datamodules.run.reader import CommittedSamples, damaged
from datamodules.run.remote_tars import RemoteTars
from datamodules.samples import SampleKind
from datamodules.training.batches import SampleBatches
from datamodules.training.read_ahead import neighbours
from datamodules.training.sampler import EpochSampler

_READ_BYTES = 8 << 20  # of samples that follow one another, read at once; a larger sample is read alone
Section = list[tuple[int, int]]  # ranges (begin, end) of positions in the order of an epoch


class SectionBatch(NamedTuple):
    """What a worker gets to know of one batch.

    Attributes:
        size: number of samples, the next of the worker's section.
        section: with the first batch of a worker: indices of the samples of its section in order, a list per buffer.
    """

    size: int
    section: list[list[int]] | None


class SectionSampler(EpochSampler):
    """Yields a `SectionBatch` for each batch of one rank. Over all ranks, every sample occurs once an epoch.

    Args:
        committed: the samples.
        batch_size, seed: see `EpochSampler`.
        num_workers: of the DataLoader, which hands batches to its workers in turn.
        shuffle_buffer: number of samples that are shuffled together.

    Raises:
        ConfigError: see `EpochSampler`.
    """

    def __init__(
        self, committed: CommittedSamples, batch_size: int, seed: int, num_workers: int, shuffle_buffer: int
    ) -> None:
        super().__init__(committed, batch_size, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self._committed, self._num_workers, self._shuffle_buffer = committed, max(1, num_workers), shuffle_buffer
        self.begin_epoch()

    def __len__(self) -> int:
        return self._num_steps_of(self._shares(self._num_samples))

    @property
    def num_steps_left(self) -> int:
        """Number of steps of this epoch that are left."""
        return self._num_steps_of(self._counts(self._sections))

    def begin_epoch(self) -> None:
        """Let the next pass begin with the first sample."""
        self._sections = self._divide([(0, self._num_samples)])

    def resume(self, epoch: int, position: Any) -> None:
        """Continue an epoch with the sections that `position` returned.

        As many workers and ranks as before continue them, with the same batches. Others divide what is left anew.

        Raises:
            ConfigError: fewer samples are left than there are ranks.
        """
        sections: list[Section] = [[(begin, end) for begin, end in section] for section in position]
        self._require_left(sum(map(_length, sections)), epoch)
        is_kept = len(sections) == self.num_replicas * self._num_workers
        if not is_kept or list(map(_length, sections)) != self._lengths(self._counts(sections)):
            sections = self._divide([part for section in sections for part in section])
        self.epoch, self._sections = epoch, sections

    def position(self, step: int) -> list[Section]:
        """Return what is left before a step: a section for each worker of each rank, from the one that is next on."""
        left = []
        for rank, count in enumerate(self._counts(self._sections)):
            sections = self._of_rank(rank)
            sizes = list(islice(_sizes(count, self.num_steps_left), step))
            for worker, section in enumerate(sections):
                num_read = sum(sizes[worker :: self._num_workers])
                sections[worker] = _cut(section, [num_read, _length(section) - num_read])[1]
            is_next = step % self._num_workers
            left += sections[is_next:] + sections[:is_next]
        return left

    def __iter__(self) -> Iterator[SectionBatch]:  # type: ignore[override]
        order, sections = self._order_of_epoch(), self._of_rank(self.rank)
        count = sum(map(_length, sections))
        for step, size in enumerate(_sizes(count, self.num_steps_left)):
            yield SectionBatch(size, self._buffers(order, sections[step]) if step < len(sections) else None)

    def _order_of_epoch(self) -> NDArray[np.int64]:
        """Return the indices of all samples: shards in a shuffled order, then their samples within buffers."""
        rng = np.random.default_rng((self.seed, self.epoch))
        shards = rng.permutation(len(self._committed.tars))[self._committed.tar_numbers]
        in_shards = np.lexsort((self._committed.offsets, shards))
        buffers = np.arange(len(in_shards)) // self._shuffle_buffer
        order: NDArray[np.int64] = in_shards[np.lexsort((rng.random(len(in_shards)), buffers))]
        return order

    def _buffers(self, order: NDArray[np.int64], section: Section) -> list[list[int]]:
        """Return the samples of a section, each part of a shuffle buffer as a list."""
        size = self._shuffle_buffer
        return [
            order[max(begin, start) : min(end, start + size)].tolist()
            for begin, end in section
            for start in range(begin // size * size, end, size)
        ]

    def _divide(self, left: Section) -> list[Section]:
        """Divide ranges among all workers of all ranks."""
        return _cut(left, self._lengths(self._shares(_length(left))))

    def _shares(self, num_left: int) -> list[int]:
        """Return how many samples each rank gets; they differ by at most one."""
        bounds = [num_left * rank // self.num_replicas for rank in range(self.num_replicas + 1)]
        return [end - begin for begin, end in pairwise(bounds)]

    def _lengths(self, counts: Sequence[int]) -> list[int]:
        """Return how many samples each worker of each rank reads, if ranks read `counts`."""
        num_steps, turns = self._num_steps_of(counts), range(self._num_workers)
        sizes = [list(_sizes(count, num_steps)) for count in counts]
        return [sum(of_rank[worker :: self._num_workers]) for of_rank in sizes for worker in turns]

    def _counts(self, sections: Sequence[Section]) -> list[int]:
        """Return how many samples the sections of each rank have."""
        lengths = list(map(_length, sections))
        return [sum(lengths[first : first + self._num_workers]) for first in range(0, len(lengths), self._num_workers)]

    def _of_rank(self, rank: int) -> list[Section]:
        return self._sections[rank * self._num_workers : (rank + 1) * self._num_workers]

    def _num_steps_of(self, counts: Sequence[int]) -> int:
        return min(-(-max(counts) // self._batch_size), min(counts))


class SequentialBatches(SampleBatches):
    """Reads the samples of a section in shuffle buffers, for an element of `SectionSampler`. Can be pickled.

    Args:
        committed: the samples of one split.
        samples: kind of the samples, which decodes and collates them.
        tars: reads `committed.tars`.
    """

    def __init__(self, committed: CommittedSamples, samples: SampleKind[Any], tars: RemoteTars) -> None:
        super().__init__(committed, samples)
        self._tars, self._section = tars, iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_section": iter(())}

    def __getitem__(self, batch: SectionBatch) -> dict[str, Any]:  # type: ignore[override]
        if batch.section is not None:
            self._section = self._read(batch.section)
        return self._samples.collate(list(islice(self._section, batch.size)))

    def _read(self, section: Iterable[list[int]]) -> Iterator[Any]:
        """Yield the decoded samples of a section. Those of one shuffle buffer are in memory, undecoded."""
        for indices in section:
            buffer = dict(self._fill(indices))
            for index in indices:
                sample = buffer.pop(index)
                key = sample.pop("__key__")
                files = {ending: content for ending, content in sample.items() if ending != "__url__"}
                opened: dict[str, Any] = {ending: io.BytesIO(content) for ending, content in files.items()}
                yield self._samples.decode(key, opened if self._samples.opens_files else files)

    def _fill(self, indices: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index, sample of webdataset) of the samples of a shuffle buffer, as they follow in their tars."""
        for in_tar, place in neighbours(self._committed, indices, _READ_BYTES):
            location = self._committed.tars[place.tar].location
            part = io.BytesIO(self._tars.read(place.tar, place.size, place.offset))
            try:
                files = ({**file, "__url__": location} for file in tar_file_iterator(part, skip_meta=None))
                samples = list(group_by_keys(files, lcase=False))
            except (tarfile.TarError, ValueError, AttributeError) as error:
                raise damaged(location, place.offset, f"{error.args[0]}") from error
            if len(samples) != len(in_tar):
                raise damaged(location, place.offset, f"it has {len(samples)} samples there, not {len(in_tar)}")
            yield from zip(in_tar, samples, strict=True)


def _length(section: Section) -> int:
    return sum(end - begin for begin, end in section)


def _sizes(count: int, num_steps: int) -> Iterator[int]:
    """Yield the sizes of `num_steps` batches of `count` samples in all, which differ by at most one."""
    for num_left in range(num_steps, 0, -1):
        yield count // num_left
        count -= count // num_left


def _cut(ranges: Section, lengths: Iterable[int]) -> list[Section]:
    """Cut ranges into sections of the given lengths, one after another."""
    rest, sections = deque(ranges), []
    for length in lengths:
        section: Section = []
        while length:
            begin, end = rest.popleft()
            taken = min(length, end - begin)
            section.append((begin, begin + taken))
            if begin + taken < end:
                rest.appendleft((begin + taken, end))
            length -= taken
        sections.append(section)
    return sections
