"""A part of a plan: one summary and the file with the items that it describes.

The plan of a run has one part, and one more for each time it was extended (`extension.py`). That of a retry has one.
"""

import errno
import hashlib
import weakref
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa

from datamodules.errors import CorpusError, EnvironmentFailure, RunError
from datamodules.run.plan_rows import unpack
from datamodules.run.plan_summary import Summary
from datamodules.run.store import Store
from datamodules.stored_file import StoredFile

_MAX_SUMMARY_BYTES = 256 << 20  # a shard takes some 90 bytes
REMEDY = "Restore it from a copy, or start a new run in another folder"


class PlanPart:
    """One part of a plan, opened for reading. Can be pickled.

    The files may come from someone else, so everything in them is checked before it is used.

    Args:
        store: of the run.
        name: of the summary in the store.

    Attributes:
        name: as given.
        location: of the summary, for messages.
        summary: what the file `name` says.
        rows_name: name of the file with the rows in the store.

    Raises:
        RunError: a file is missing or damaged; also raised by every method.
        EnvironmentFailure: a file cannot be read; also raised by every method.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self.name, self.location = store, name, store.locate(name)
        try:
            self.summary = Summary.decode(_content(store, name))
        except ValueError as error:
            raise RunError(f"{self.location} is no plan, or damaged: {error}. {REMEDY}") from error
        self.rows_name = rows_name(name, self.summary.digest)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_offsets", "_rows")  # the file is opened again by the other process
        return {name: value for name, value in vars(self).items() if name not in derived}

    @property
    def num_shards(self) -> int:
        """Number of shards of this part."""
        return int(self.summary.shards.num_rows)

    def batch(self, index: int) -> Any:
        """Read the rows of the shard at `index` of this part: a pyarrow RecordBatch with the columns of `SCHEMA`."""
        segment = self._segment(index)
        summary = self.summary.shards.slice(index, 1).to_pylist()[0]
        try:
            batch = unpack(segment, summary["num_items"], summary["raw_bytes"])
            sums = len(batch["frames"].flatten()), sum(batch["cost"].to_pylist()), batch["split"][0].as_py()
            if sums != (summary["num_frames"], summary["cost"], summary["split"]):
                raise ValueError(f"it has {sums[0]:,} frames and {sums[1]:,} bytes of {sums[2]}, unlike in {self.name}")
        except (OSError, pa.ArrowException, ValueError, CorpusError) as error:
            raise self.damaged(f"shard {index}: {error}") from error
        return batch

    def require_intact(self) -> None:
        """Read all rows, and raise RunError unless they are as they were written."""
        for index in range(self.num_shards):
            self._segment(index)
        if (left := self._rows.size - self._offsets[-1]) != 0:
            raise self.damaged(f"{left:,} bytes follow its shards")

    def damaged(self, problem: str) -> RunError:
        """Return the error for a file with the rows that has this problem."""
        return RunError(f"{self._store.locate(self.rows_name)} is damaged: {problem}. {REMEDY}")

    @cached_property
    def _offsets(self) -> list[int]:
        """By shard the offset of its segment in bytes; at the end, that of the end of the file."""
        return list(accumulate(self.summary.shards["bytes"].to_pylist(), initial=0))

    @cached_property
    def _rows(self) -> StoredFile:
        """The open file with the rows, closed when this part is not referenced any more."""
        rows = _open(self._store, self.rows_name)
        weakref.finalize(self, rows.close)
        return rows

    def _segment(self, index: int) -> bytes:
        """Return the packed rows of the shard at `index`. Their sha256 is right."""
        start, stop = self._offsets[index : index + 2]
        try:
            segment = self._rows.read_at(stop - start, start)
        except OSError as error:
            raise _unreadable(self._store, self.rows_name, error) from error
        if hashlib.sha256(segment).digest() != self.summary.shards["sha256"][index].as_py():
            raise self.damaged(f"the content of shard {index} has changed (sha256 differs)")
        return segment


def rows_name(plan: str, digest: str) -> str:
    """Return the name of the file with the rows of the summary named `plan`.

    Args:
        plan: what `plan.plan_name` returns.
        digest: first 16 hexadecimal digits of the file's sha256.
    """
    return f"{plan.removesuffix('.arrow')}.{digest}.zst"


def _open(store: Store, name: str) -> StoredFile:
    try:
        return store.open(name)
    except OSError as error:
        raise _unreadable(store, name, error) from error


def _content(store: Store, name: str) -> bytes:
    """Return the content of the summary `name`.

    Raises:
        ValueError: it is larger than any summary.
    """
    with _open(store, name) as file:
        if file.size > _MAX_SUMMARY_BYTES:
            raise ValueError(f"it has {file.size:,} bytes; the limit is {_MAX_SUMMARY_BYTES:,}")
        try:
            return file.readall()
        except OSError as error:
            raise _unreadable(store, name, error) from error


def _unreadable(store: Store, name: str, error: OSError) -> RunError | EnvironmentFailure:
    """Return the exception for a file of a plan that cannot be read because of `error`."""
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return RunError(f"{store.locate(name)} cannot be read: {error.strerror}. {REMEDY}")
    return EnvironmentFailure(
        f"{store.locate(name)} cannot be read: {error.strerror or error}. Fix that, and rerun the same command"
    )
