"""The plan: the items of a run and the shard of every item. It is written once and is the same for every rank.

A plan has two files, so that it opens at once and in little memory, whatever the number of items:

- `plan.arrow` is its summary, with one row per shard: `plan_summary.py`. Its creation commits the plan.
- `plan.{digest}.zst` has the items, in one segment per shard: `plan_rows.py`. The items of a shard are one range of it.

A retry, which tries items again (`retries.py`), has such a plan too: `plan-001.arrow` and `plan-001.{digest}.zst`.
"""

import errno
import hashlib
import weakref
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError, EnvironmentFailure, RunError
from datamodules.run.plan_rows import read_item, unpack
from datamodules.run.plan_summary import Summary
from datamodules.run.store import Store
from datamodules.stored_file import StoredFile

_MAX_SUMMARY_BYTES = 256 << 20  # a shard takes some 90 bytes
_REMEDY = "Restore it from a copy, or start a new run in another folder"
_NUM_KEPT = 4  # shards whose rows a process keeps: workers read item by item, of one or two shards at a time


@dataclass(frozen=True)
class ShardSize:
    """How many items go into one shard: as many as all three limits allow, but at least one.

    Args:
        max_items: number of items, at most.
        max_bytes: bytes of input (`Item.cost`), at most, unless a single item has more.
        min_shards: number of shards of a split, at least, if it has that many items. Many more shards than ranks
            balance the load, because fast ranks lease more of them.
    """

    max_items: int = 1000
    max_bytes: int = 1 << 30
    min_shards: int = 256

    def __post_init__(self) -> None:
        for name in ("max_items", "max_bytes", "min_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"shard size {name} = {getattr(self, name)}: it must be 1 or more")

    def limits(self, num_items: int, cost: int) -> tuple[int, int]:
        """Return the largest number of items and of bytes of a shard.

        Args:
            num_items: of the split.
            cost: bytes of all items of the split.
        """
        per_shard = max(1, num_items // self.min_shards)
        return min(self.max_items, per_shard), min(self.max_bytes, -(-cost // self.min_shards) * 2)


@dataclass(frozen=True, slots=True)
class Shard:
    """A planned shard.

    Attributes:
        number: its number in the plan, from 0, over all splits.
        split: its split.
        index: its number within the split, from 0.
        num_items: number of items, which are its rows.
        num_frames: frames that the listing counted: those of image sequences; 0 for a video.
        cost: bytes of input.
        retry: number of the retry whose plan has the shard; 0 for the run's own plan.
        replaces: name of the shard whose samples and rows this one replaces as a whole; None if it replaces none. Only
            shards of a retry of samples replace others.
    """

    number: int
    split: str
    index: int
    num_items: int
    num_frames: int
    cost: int
    retry: int = 0
    replaces: str | None = None

    @property
    def name(self) -> str:
        """`{split}-{index:06d}`, of a retry `{split}-retry{retry:03d}-{index:06d}`: the name of tar, table, record."""
        retry = f"retry{self.retry:03d}-" if self.retry else ""
        return f"{self.split}-{retry}{self.index:06d}"


class Plan:
    """A written plan, opened for reading. Can be pickled.

    The files may come from someone else, so everything in them is checked before it is used: the summary when the plan
    is opened, and the rows of a shard whenever they are read.

    Args:
        store: of the run.
        retry: number of the retry; 0 for the run's own plan.

    Attributes:
        name: of the summary in the store.
        location: of the summary, for messages.
        fingerprint: everything that changes results.
        listing: sha256 of what the corpus listed.
        roots: absolute folders of the corpus at planning: one, or those of all runs of a merged run.
        device: device model of the rank that wrote the plan; empty: not recorded.
        retry: number of the retry; 0 for the run's own plan.
        corpus_types: type of every field of `meta`; None: not recorded.
        rows_name: name of the file with the rows in the store.

    Raises:
        RunError: a file is missing or damaged; also raised by every method.
        EnvironmentFailure: a file cannot be read; also raised by every method.
    """

    def __init__(self, store: Store, retry: int = 0) -> None:
        self.store, self.name, self.location = store, plan_name(retry), store.locate(plan_name(retry))
        try:
            summary = Summary.decode(_content(store, self.name))
        except ValueError as error:
            raise RunError(f"{self.location} is no plan, or damaged: {error}. {_REMEDY}") from error
        self.fingerprint, self.listing, self.roots = summary.fingerprint, summary.listing, list(summary.roots)
        self.device, self.retry, self.corpus_types = summary.device, summary.retry, summary.corpus_types
        self.rows_name = rows_name(self.name, summary.digest)
        self._shards, self._tried = summary.shards, summary.tried

    def __getstate__(self) -> dict[str, Any]:
        derived = ("shards", "_first_items", "_offsets", "_rows")  # the file is opened again by the other process
        return {name: value for name, value in vars(self).items() if name not in derived}

    @cached_property
    def shards(self) -> list[Shard]:
        """All planned shards, by number."""
        shards: list[Shard] = []
        columns = (self._shards[name].to_pylist() for name in ("split", "num_items", "num_frames", "cost", "replaces"))
        for number, (split, num_items, num_frames, cost, replaces) in enumerate(zip(*columns, strict=True)):
            index = shards[-1].index + 1 if shards and shards[-1].split == split else 0
            shards.append(Shard(number, split, index, num_items, num_frames, cost, self.retry, replaces))
        return shards

    @property
    def num_items(self) -> int:
        """Number of planned items of all splits."""
        return self._first_items[-1]

    @property
    def replaces(self) -> list[str]:
        """By shard number the name of the shard that it replaces; empty: none replaces another."""
        names: list[str] = self._shards["replaces"].drop_null().to_pylist()
        return names

    def place(self, position: int) -> tuple[int, int]:
        """Return (shard number, row) of the item at `position` among all items, from 0."""
        number = bisect_right(self._first_items, position) - 1
        return number, position - self._first_items[number]

    def keys(self, number: int) -> list[str]:
        """Return the keys of shard `number`, in order."""
        keys: list[str] = self.batch(number)["key"].to_pylist()
        return keys

    def items(self, number: int) -> list[Item]:
        """Return the items of shard `number`, in order."""
        return [self._item(row) for row in self.batch(number).to_pylist()]

    def item(self, number: int, row: int) -> Item:
        """Return the item in row `row` of shard `number`."""
        return self._item(self.batch(number).slice(row, 1).to_pylist()[0])

    def tried(self, number: int) -> NDArray[np.bool_]:
        """Return which rows of shard `number` are processed, bool [rows].

        All are, but where a retry replaces a shard: it copies the results of rows that it does not try again.

        Raises:
            RunError: another version of Framemill planned this retry.
        """
        if self.shards[number].replaces is None:
            return np.ones(self.shards[number].num_items, bool)
        if self._tried is None:
            raise RunError(
                f"{self.location} does not say which items it tries again. Finish this retry with the version of "
                "Framemill that began it; or, if nothing of it is done, withdraw it with `preprocess verify --repair`"
            )
        return self._tried[slice(*self._first_items[number : number + 2])]

    def batch(self, number: int) -> Any:
        """Return the rows of shard `number`: a pyarrow RecordBatch with the columns of `SCHEMA`."""
        return _batch(self, number)

    def require_intact(self) -> None:
        """Read all rows, and raise RunError unless they are as they were written."""
        for number in range(self._shards.num_rows):
            self._segment(number)
        if (left := self._rows.size - self._offsets[-1]) != 0:
            raise self._damaged(f"{left:,} bytes follow its shards")

    def read_batch(self, number: int) -> Any:
        """Read what `batch` returns."""
        segment = self._segment(number)
        summary = self._shards.slice(number, 1).to_pylist()[0]
        try:
            batch = unpack(segment, summary["num_items"], summary["raw_bytes"])
            sums = len(batch["frames"].flatten()), sum(batch["cost"].to_pylist()), batch["split"][0].as_py()
            if sums != (summary["num_frames"], summary["cost"], summary["split"]):
                raise ValueError(f"it has {sums[0]:,} frames and {sums[1]:,} bytes of {sums[2]}, unlike in {self.name}")
        except (OSError, pa.ArrowException, ValueError, CorpusError) as error:
            raise self._damaged(f"shard {number}: {error}") from error
        return batch

    @cached_property
    def _first_items(self) -> list[int]:
        """By shard the number of items before it; at the end, that of all items."""
        return list(accumulate(self._shards["num_items"].to_pylist(), initial=0))

    @cached_property
    def _offsets(self) -> list[int]:
        """By shard the offset of its segment in bytes; at the end, that of the end of the file."""
        return list(accumulate(self._shards["bytes"].to_pylist(), initial=0))

    @cached_property
    def _rows(self) -> StoredFile:
        """The open file with the rows, closed when the plan is not referenced any more."""
        rows = _open(self.store, self.rows_name)
        weakref.finalize(self, rows.close)
        return rows

    def _segment(self, number: int) -> bytes:
        """Return the packed rows of shard `number`. Their sha256 is right."""
        start, stop = self._offsets[number : number + 2]
        try:
            segment = self._rows.read_at(stop - start, start)
        except OSError as error:
            raise _unreadable(self.store, self.rows_name, error) from error
        if hashlib.sha256(segment).digest() != self._shards["sha256"][number].as_py():
            raise self._damaged(f"the content of shard {number} has changed (sha256 differs)")
        return segment

    def _item(self, row: dict[str, Any]) -> Item:
        try:
            return read_item(row)
        except ValueError as error:
            raise self._damaged(f"the item {row['key']}: {error}") from error

    def _damaged(self, problem: str) -> RunError:
        return RunError(f"{self.store.locate(self.rows_name)} is damaged: {problem}. {_REMEDY}")


@lru_cache(maxsize=_NUM_KEPT)
def _batch(plan: Plan, number: int) -> Any:
    return plan.read_batch(number)


def plan_name(retry: int = 0) -> str:
    """Return the name of the plan of a run, or of a retry of it, in the store of the run."""
    return f"plan-{retry:03d}.arrow" if retry else "plan.arrow"


def rows_name(plan: str, digest: str) -> str:
    """Return the name of the file with the rows of the plan named `plan`.

    Args:
        plan: what `plan_name` returns.
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
        return RunError(f"{store.locate(name)} cannot be read: {error.strerror}. {_REMEDY}")
    return EnvironmentFailure(
        f"{store.locate(name)} cannot be read: {error.strerror or error}. Fix that, and rerun the same command"
    )
