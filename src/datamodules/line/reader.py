"""Committed samples, read back by random access: the tables say where in the tars each one lies."""

import io
import os
import tarfile
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import RunError
from datamodules.line.run import SUPERSEDED, Run


class CommittedSamples:
    """The committed samples of a run, in planned order, those of its patches included; failed items are not.

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
        self._tars = [run.folder / f"{name}.tar" for name in tars]
        self._tar, self._offset, self._bytes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def __len__(self) -> int:
        return len(self._tar)

    def __getitem__(self, index: int) -> tuple[str, dict[str, bytes]]:
        """(key, content of its files by ending).

        Raises:
            RunError: the tar is missing or damaged there.
        """
        path = self._tars[self._tar[index]]
        return read_sample(path, int(self._offset[index]), int(self._bytes[index]), self._token)

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return (self[index] for index in range(len(self)))


def read_sample(path: Path, offset: int, size: int, token: bytes = b"") -> tuple[str, dict[str, bytes]]:
    """(key, content of its files by ending) of the sample in `size` bytes from `offset` of the tar `path`.

    Tars stay open for the next read with the same `token`.

    Raises:
        RunError: the tar is missing, or damaged there.
    """
    try:
        content = _open(path, token).read(size, offset)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            files = [(member.name, _content(tar, member)) for member in tar]
    except (OSError, tarfile.TarError) as error:
        raise RunError(f"{path} cannot be read at byte {offset}: {error}; run `preprocess verify`") from error
    if not files:
        raise RunError(f"{path} holds no sample at byte {offset}; run `preprocess verify`")
    return split_name(files[0][0])[0], {split_name(name)[1]: content for name, content in files}


def split_name(name: str) -> tuple[str, str]:
    """(key, ending) of a file in a tar, as WebDataset splits it: at the first dot of the base name."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending


class _OpenTar:
    """A file descriptor that is closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # a retry has taken its place meanwhile
            self._descriptor = os.open(path.parent / SUPERSEDED / path.name, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, size: int, offset: int) -> bytes:
        content = os.pread(self._descriptor, size, offset)
        if len(content) < size:
            raise tarfile.ReadError(f"it ends {size - len(content)} bytes too soon")
        return content


@lru_cache(maxsize=64)
def _open(path: Path, token: bytes) -> _OpenTar:
    return _OpenTar(path)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: Any = tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is no regular file")
    content: bytes = file.read()
    return content
