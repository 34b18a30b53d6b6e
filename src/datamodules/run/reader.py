"""Committed samples, read back by random access: the tables say where in the tars each one lies."""

import io
import os
import tarfile
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from datamodules.corpus import check_key
from datamodules.errors import CorpusError, RunError
from datamodules.run.folder import Run
from datamodules.run.record import ShardFile
from datamodules.samples import Sample, SampleKind
from datamodules.tar_members import read_members, split_name


class CommittedSamples:
    """The committed samples of a run, in planned order, those of its retries included; failed items are not.

    Holds 20 bytes a sample, and opens at most 64 tars at once. Can be sent to other processes.

    Args:
        run: the run; shards committed later are not seen.
        split: only this split; None: all.

    Raises:
        RunError: nothing is committed (of that split); the message names the splits there are.
    """

    def __init__(self, run: Run, split: str | None = None) -> None:
        shards = run.plan.shards
        splits = sorted({shard.split for shard in shards})
        if split is not None and split not in splits:
            raise RunError(f"{run.folder} has no split {split!r}; it has {', '.join(splits)}")
        committed = run.committed()
        self._token = os.urandom(8)  # a run made anew in the same folder is not read through the old one's open files
        tars: dict[str, int] = {}
        parts = []
        for shard in shards:
            if shard.name in committed and split in (None, shard.split):
                rows = run.rows(shard.name, ["tar_offset", "tar_bytes"]).drop_null()  # the failed lie nowhere
                there = rows["shard"].combine_chunks()
                numbers = [tars.setdefault(name, len(tars)) for name in there.dictionary.to_pylist()]
                parts.append((np.array(numbers, np.int32)[there.indices], rows["tar_offset"], rows["tar_bytes"]))
        if not tars:
            raise RunError(
                f"nothing is committed in {run.folder}" + (f" of split {split!r}" if split else "") + ": run it first"
            )
        self._tars = [run.tar_file(name) for name in tars]
        self._tar, self._offset, self._bytes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def __len__(self) -> int:
        return len(self._tar)

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all samples in their tars."""
        return int(self._bytes.sum())

    def __getitem__(self, index: int) -> tuple[str, dict[str, bytes]]:
        """(key, content of its files by ending).

        Raises:
            RunError: the tar is missing or damaged there.
        """
        tar = self._tars[self._tar[index]]
        return read_sample(tar, int(self._offset[index]), int(self._bytes[index]), self._token)

    def open(self, index: int) -> tuple[str, dict[str, BinaryIO]]:
        """(key, its files by ending): for samples that are not to stand in memory whole; see `open_sample`.

        Raises:
            RunError: the tar is missing or damaged there.
        """
        tar = self._tars[self._tar[index]]
        return open_sample(tar, int(self._offset[index]), int(self._bytes[index]), self._token)

    def decode(self, index: int, kind: SampleKind[Sample]) -> Sample:
        """Return the sample at `index`, decoded by `kind`.

        Raises:
            RunError: the tar is missing or damaged there, or the sample is of another kind.
        """
        key, files = self.open(index) if kind.opens_files else self[index]
        return kind.decode(key, files)

    def opened(self) -> Iterator[tuple[str, dict[str, BinaryIO]]]:
        """`open` of each, in planned order."""
        return (self.open(index) for index in range(len(self)))

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return (self[index] for index in range(len(self)))


def read_sample(
    file: ShardFile, offset: int, size: int, token: bytes = b"", key: str | None = None
) -> tuple[str, dict[str, bytes]]:
    """(key, content of its files by ending) of the sample in `size` bytes from `offset` of the tar `file`.

    Tars stay open for the next read with the same `token`.

    Raises:
        RunError: the tar is missing, or damaged there, or its sample does not have the `key`, if one is given.
    """
    try:
        content = _open(file, token).read(size, offset)
    except (OSError, tarfile.TarError) as error:
        raise _damaged(file.path, offset, error) from error
    key, members = _members(file.path, offset, io.BytesIO(content), key)
    return key, {ending: content[start : start + size] for ending, (start, size) in members.items()}


def open_sample(
    file: ShardFile, offset: int, size: int, token: bytes = b"", key: str | None = None
) -> tuple[str, dict[str, BinaryIO]]:
    """(key, its files by ending): as `read_sample`, but each file reads from the tar what it is asked for.

    The files can be read and sought in, and stand at their starts; reading one raises RunError where the tar ends
    before it.
    """
    try:
        sample = _Part(file.path, _open(file, token), offset, size)
    except OSError as error:
        raise _damaged(file.path, offset, error) from error
    key, members = _members(file.path, offset, cast(BinaryIO, sample), key)
    return key, {ending: _buffered(sample.part(start, size)) for ending, (start, size) in members.items()}


def _buffered(part: "_Part") -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(part))


def _damaged(path: Path, offset: int, error: Exception | str) -> RunError:
    return RunError(f"{path} cannot be read at byte {offset}: {error}; run `preprocess verify`")


def _members(path: Path, offset: int, sample: BinaryIO, key: str | None) -> tuple[str, dict[str, tuple[int, int]]]:
    """(key, where each file of a sample begins in it, and how many bytes it has, by ending).

    The tar may come from someone else: headers, names and sizes are those that a run writes, or refused.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        for member in read_members(sample, "the sample", is_whole=False):
            own, ending = split_name(member.name)
            if check_key(own) != (key or own) or not ending or ending in places:
                raise CorpusError(f"the sample {key or own} has a file {member.name!r:.200}")
            if member.problem:
                raise CorpusError(member.problem)
            key, places[ending] = own, (member.start_byte, member.num_bytes)
    except CorpusError as error:
        raise _damaged(path, offset, error) from error
    if key is None or not places:
        raise _damaged(path, offset, "there is no sample")
    return key, places


class _OpenTar:
    """A tar that is closed with the last reference to it."""

    def __init__(self, file: ShardFile) -> None:
        self._file = file.open()
        weakref.finalize(self, self._file.close)

    def read(self, size: int, offset: int) -> bytes:
        left = os.fstat(self._file.fileno()).st_size - offset
        content = os.pread(self._file.fileno(), min(size, left), offset) if left > 0 else b""
        if len(content) < size:
            raise tarfile.ReadError(f"it ends {size - len(content)} bytes too soon")
        return content


class _Part(io.RawIOBase):
    """`size` bytes from `offset` of an open tar, as a file."""

    def __init__(self, path: Path, tar: _OpenTar, offset: int, size: int) -> None:
        self._path, self._tar, self._offset, self._size, self._place = path, tar, offset, size, 0

    def part(self, offset: int, size: int) -> "_Part":
        """A part of this part."""
        return _Part(self._path, self._tar, self._offset + offset, size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        try:
            content = self._tar.read(size, self._offset + self._place)
        except (OSError, tarfile.TarError) as error:
            raise _damaged(self._path, self._offset, error) from error
        buffer[:size] = content
        self._place += size
        return size


@lru_cache(maxsize=64)
def _open(file: ShardFile, token: bytes) -> _OpenTar:
    return _OpenTar(file)
