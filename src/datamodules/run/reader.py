"""Random access to committed samples, whose offsets in the tars are in the tables."""

import hashlib
import io
import os
import tarfile
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus import check_key
from datamodules.errors import CorpusError, EnvironmentFailure, RunError
from datamodules.object_store import StoreUnavailableError
from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.record import ShardFile
from datamodules.samples import Sample, SampleKind
from datamodules.stored_file import StoredFile
from datamodules.tar_members import read_members, split_name

_SLICED_BLOCKS = 128  # of a sample that is read at once, then divided; of a larger one, each file is read by itself


class SamplePlace(NamedTuple):
    """Where a sample is.

    Attributes:
        tar: index in `CommittedSamples.tars`.
        offset: of the sample in the tar, in bytes.
        size: of the sample in the tar, headers included, in bytes.
    """

    tar: int
    offset: int
    size: int


class CommittedSamples:
    """The committed samples of a run and its retries in planned order, without failed items.

    Needs 20 bytes of memory per sample, and opens at most 64 tars at once. Can be pickled.

    Args:
        run: the run. Shards that are committed later are not part of this object.
        split: only this split; None: all.
        exclude: keys of samples to leave out, a set.
        where: only samples whose rows meet this condition; None: all.
        keeps_keys: whether to keep the keys of the samples.

    Attributes:
        item_keys: pyarrow ChunkedArray of the key of each sample; None: not kept. Pickling drops them.
        tars: those with samples, in the order of their first samples.
        num_undecided: number of samples for which a value that `where` compares is not recorded; they are left out.
        tar_numbers: index in `tars` of each sample.
        offsets: of each sample in its tar, in bytes.

    Raises:
        RunError: the run has no such split (the message names its splits), no shard is committed, or all items failed.
    """

    def __init__(
        self,
        run: Run,
        split: str | None = None,
        exclude: Collection[str] = frozenset(),
        where: Condition | None = None,
        keeps_keys: bool = False,
    ) -> None:
        shards = run.plan.shards
        splits = sorted({shard.split for shard in shards})
        if split is not None and split not in splits:
            raise RunError(f"{run.store} has no split {split!r}; it has {', '.join(splits)}")
        committed = run.committed()
        self._token = os.urandom(8)  # else a new run in the same folder would be read through open files of the old
        tars: dict[str, int] = {}
        parts = []
        names = [shard.name for shard in shards if shard.name in committed and split in (None, shard.split)]
        of_split = f" of split {split!r}" if split else ""
        if not names:
            raise RunError(f"no shard is committed in {run.store}{of_split} yet: run it first")
        self.num_undecided = 0
        keys: list[Any] = []
        for rows, num_undecided in _rows_of(run, names, exclude, where, keeps_keys):
            keys += rows["key"].chunks if keeps_keys else []
            self.num_undecided += num_undecided
            owners = rows["shard"].combine_chunks()
            numbers = [tars.setdefault(name, len(tars)) for name in owners.dictionary.to_pylist()]
            parts.append((np.array(numbers, np.int32)[owners.indices], rows["tar_offset"], rows["tar_bytes"]))
        self.item_keys = pa.chunked_array(keys, pa.string()) if keeps_keys else None
        self.tars = [run.tar_file(name) for name in tars]
        self.tar_numbers, self.offsets, self._bytes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if not len(self) and not exclude and where is None:
            raise RunError(f"{run.store} has no samples{of_split}: all items of its committed shards failed")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "item_keys": None}  # workers need no keys

    def __len__(self) -> int:
        return len(self.tar_numbers)

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all samples in their tars."""
        return int(self._bytes.sum())

    def digest(self) -> bytes:
        """Return a digest of the places of all samples, by which another selection of samples is noticed."""
        digest = hashlib.sha256("\n".join(tar.shard for tar in self.tars).encode())
        for column in (self.tar_numbers, self.offsets, self._bytes):
            digest.update(column.tobytes())
        return digest.digest()

    def place(self, index: int) -> "SamplePlace":
        """Return where the sample at `index` is."""
        return SamplePlace(int(self.tar_numbers[index]), int(self.offsets[index]), int(self._bytes[index]))

    def __getitem__(self, index: int) -> tuple[str, dict[str, bytes]]:
        """Return (key, content of its files by ending) of the sample at `index`.

        Raises:
            RunError: the tar is missing or damaged.
        """
        number, offset, size = self.place(index)
        return read_sample(self.tars[number], offset, size, self._token)

    def open(self, index: int) -> tuple[str, dict[str, BinaryIO]]:
        """Return (key, open files by ending) of the sample at `index`, which may be larger than memory.

        Raises:
            RunError: the tar is missing or damaged.
        """
        number, offset, size = self.place(index)
        return open_sample(self.tars[number], offset, size, self._token)

    def decode(self, index: int, kind: SampleKind[Sample]) -> Sample:
        """Return the sample at `index`, decoded by `kind`.

        Raises:
            RunError: the tar is missing or damaged, or the sample is of another kind.
        """
        key, files = self.open(index) if kind.opens_files else self[index]
        return kind.decode(key, files)

    def opened(self) -> Iterator[tuple[str, dict[str, BinaryIO]]]:
        """Yield what `open` returns for every sample, in planned order."""
        return (self.open(index) for index in range(len(self)))

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return (self[index] for index in range(len(self)))


def _rows_of(
    run: Run, shards: Sequence[str], exclude: Collection[str], where: Condition | None, keeps_keys: bool
) -> Iterator[tuple[Any, int]]:
    """Yield (rows of the selected samples of a shard, number of its samples for which `where` is not decided).

    The rows have the columns `shard`, `tar_offset` and `tar_bytes`, and `key` if it is kept.
    """
    columns = {"tar_offset", "tar_bytes", *(where.columns if where else [])}
    if exclude or keeps_keys:
        columns.add("key")

    def read(shard: str) -> tuple[Any, int]:
        rows = run.rows(shard, list(columns))
        rows = rows.filter(pc.is_valid(rows["tar_offset"]))  # failed items have no place in a tar
        if exclude:
            rows = rows.filter(pa.array([key not in exclude for key in rows["key"].to_pylist()], pa.bool_()))
        if where is None:
            return rows, 0
        is_selected = where.evaluate(rows)
        return rows.filter(is_selected), is_selected.null_count

    return read_each(run.store, read, shards)


def read_sample(
    file: ShardFile, offset: int, size: int, token: bytes = b"", key: str | None = None
) -> tuple[str, dict[str, bytes]]:
    """Read one sample of a tar.

    Args:
        file: the tar.
        offset: of the sample, in bytes.
        size: of the sample in the tar, headers included, in bytes.
        token: the tar stays open for further reads with the same token.
        key: of the sample; None: any.

    Returns:
        (key, content of its files by ending).

    Raises:
        RunError: the tar is missing or damaged, or its sample has another key.
    """
    try:
        tar = _open(file, token)
        if size > _SLICED_BLOCKS * tar.block_bytes:
            key, files = open_sample(file, offset, size, token, key)
            return key, {ending: content.read() for ending, content in files.items()}
        content = tar.read(size, offset)
    except (OSError, tarfile.TarError) as error:
        raise _unreadable(file.location, offset, error) from error
    return parse_sample(file.location, offset, content, key)


def parse_sample(location: str, offset: int, content: bytes, key: str | None = None) -> tuple[str, dict[str, bytes]]:
    """Return (key, content of its files by ending) of a sample that was read from a tar.

    Args:
        location, offset: of the tar, and of the sample in it, for messages.
        content: the bytes of the sample, headers included.
        key: of the sample; None: any.

    Raises:
        RunError: the sample is damaged, or has another key.
    """
    key, members = _members(location, offset, io.BytesIO(content), key)
    return key, {ending: content[start : start + size] for ending, (start, size) in members.items()}


def open_sample(
    file: ShardFile, offset: int, size: int, token: bytes = b"", key: str | None = None
) -> tuple[str, dict[str, BinaryIO]]:
    """Return (key, open files by ending) of a sample, which read from the tar on demand.

    The files are seekable and at their starts. Reading raises RunError if the tar ends before the file does.

    Args:
        file, offset, size, token, key: see `read_sample`.

    Raises:
        RunError: see `read_sample`.
    """
    try:
        sample = _Part(file.location, _open(file, token), offset, size)
    except OSError as error:
        raise _unreadable(file.location, offset, error) from error
    key, members = _members(file.location, offset, cast(BinaryIO, sample), key)
    return key, {ending: _buffered(sample.part(start, size)) for ending, (start, size) in members.items()}


def _buffered(part: "_Part") -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(part, part.block_bytes))


def _unreadable(location: str, offset: int, error: Exception) -> RunError | EnvironmentFailure:
    """Return the error for a sample at `offset` of a tar that cannot be read because of `error`."""
    if isinstance(error, StoreUnavailableError):  # the tar may be intact
        return EnvironmentFailure(f"{location} cannot be read: {error.strerror}. Fix that, and rerun the same command")
    return damaged(location, offset, error)


def damaged(location: str, offset: int, error: Exception | str) -> RunError:
    """Return the error for a tar that does not have a sample at `offset`."""
    return RunError(f"{location} cannot be read at byte {offset}: {error}; run `preprocess verify`")


def _members(location: str, offset: int, sample: BinaryIO, key: str | None) -> tuple[str, dict[str, tuple[int, int]]]:
    """Read the tar headers of a sample.

    The tar may come from someone else, so headers, names and sizes that no run writes are refused.

    Args:
        location, offset: of the tar, and of the sample in it, for messages.
        sample: the bytes of the sample.
        key: of the sample; None: any.

    Returns:
        (key, by ending: offset in the sample and size in bytes).

    Raises:
        RunError: the sample is damaged, empty or of another key.
    """
    members: dict[str, tuple[int, int]] = {}
    try:
        for member in read_members(sample, "the sample", is_whole=False):
            stem, ending = split_name(member.name)
            if check_key(stem) != (key or stem) or not ending or ending in members:
                raise CorpusError(f"the sample {key or stem} has a file {member.name!r:.200}")
            if member.problem:
                raise CorpusError(member.problem)
            key, members[ending] = stem, (member.start_byte, member.num_bytes)
    except CorpusError as error:
        raise damaged(location, offset, error) from error
    if key is None or not members:
        raise damaged(location, offset, "it has no sample at this offset")
    return key, members


class _OpenTar:
    """An open tar, closed when it is not referenced any more: the cache drops it, or the last reader does."""

    def __init__(self, file: ShardFile) -> None:
        self._file = file.open()
        self.block_bytes = self._file.block_bytes
        weakref.finalize(self, self._file.close)

    def read(self, size: int, offset: int) -> bytes:
        content = self._file.read_at(size, offset)
        if len(content) < size:
            raise tarfile.ReadError(f"it ends {size - len(content)} bytes too early")
        return content


class _Part(StoredFile):
    """`size` bytes from `start` of an open tar, as a file."""

    def __init__(self, location: str, tar: _OpenTar, start: int, size: int) -> None:
        super().__init__(size)
        self._location, self._tar, self._start = location, tar, start
        self.block_bytes = tar.block_bytes

    def part(self, start: int, size: int) -> "_Part":
        """Return the `size` bytes from `start` of this part as a file of their own."""
        return _Part(self._location, self._tar, self._start + start, size)

    def read_at(self, size: int, offset: int) -> bytes:
        try:
            return self._tar.read(max(0, min(size, self.size - offset)), self._start + offset)
        except (OSError, tarfile.TarError) as error:
            raise _unreadable(self._location, self._start, error) from error


@lru_cache(maxsize=64)
def _open(file: ShardFile, token: bytes) -> _OpenTar:
    return _OpenTar(file)
