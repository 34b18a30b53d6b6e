"""The plan: the items of a run and the shard of every item. It is the same for every rank, and never rewritten.

A plan has two files, so that it opens at once and in little memory, whatever the number of items:

- `plan.arrow` is its summary, with one row per shard: `plan_summary.py`. Its creation commits the plan.
- `plan.{digest}.zst` has the items, in one segment per shard: `plan_rows.py`. The items of a shard are one range of it.

A retry, which tries items again (`retries.py`), has such a plan too: `plan-001.arrow` and `plan-001.{digest}.zst`.
Items that a corpus has gained are planned as an extension (`extension.py`), `plan-extension001.arrow` and its rows. To
readers the plan of a run and its extensions are one plan, in which the shards of a split are numbered on.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.errors import ConfigError, RunError
from datamodules.run.plan_part import REMEDY, PlanPart
from datamodules.run.plan_rows import read_item
from datamodules.run.store import Store

_SHARD_COLUMNS = ("split", "num_items", "num_frames", "cost", "replaces")
_NUM_KEPT = 16  # shards whose rows a process keeps: a rank has several open at once where shards have one item


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

    Args:
        store: of the run.
        retry: number of the retry; 0 for the run's own plan, with all its extensions.

    Attributes:
        name: of the summary in the store; of an extended plan, of the first one.
        location: of the summary, for messages.
        fingerprint: everything that changes results.
        listing: sha256 of what the corpus listed when it was first planned.
        roots: absolute folders of the corpus at planning: one, or those of all runs of a merged run.
        device: device model of the rank that wrote the plan; empty: not recorded.
        retry: number of the retry; 0 for the run's own plan.
        corpus_types: type of every field of `meta`; None: not recorded.
        parts: the summary and rows that were planned at first, and those of each extension.

    Raises:
        RunError: a file is missing or damaged, or an extension belongs to another run; also raised by every method.
        EnvironmentFailure: a file cannot be read; also raised by every method.
    """

    def __init__(self, store: Store, retry: int = 0) -> None:
        self.store, self.name, self.location = store, plan_name(retry), store.locate(plan_name(retry))
        self.parts = [PlanPart(store, self.name)]
        summary = self.parts[0].summary
        self.fingerprint, self.listing, self.roots = summary.fingerprint, summary.listing, list(summary.roots)
        self.device, self.retry, self.corpus_types = summary.device, summary.retry, summary.corpus_types
        self._tried = summary.tried
        while not retry and store.find(name := plan_name(extension=len(self.parts))):
            extension = PlanPart(store, name)
            if extension.summary.fingerprint != self.fingerprint:
                raise RunError(f"{extension.location} extends another run: its fingerprint differs. {REMEDY}")
            self.parts.append(extension)
            self.roots += [root for root in extension.summary.roots if root not in self.roots]

    def __getstate__(self) -> dict[str, Any]:
        derived = ("shards", "_first_items", "_first_shards")
        return {name: value for name, value in vars(self).items() if name not in derived}

    @cached_property
    def shards(self) -> list[Shard]:
        """All planned shards, by number."""
        shards: list[Shard] = []
        num_of_split: Counter[str] = Counter()
        for part in self.parts:
            columns = (part.summary.shards[name].to_pylist() for name in _SHARD_COLUMNS)
            for split, num_items, num_frames, cost, replaces in zip(*columns, strict=True):
                index, number = num_of_split[split], len(shards)
                shards.append(Shard(number, split, index, num_items, num_frames, cost, self.retry, replaces))
                num_of_split[split] += 1
        return shards

    @property
    def rows_name(self) -> str:
        """Name of the file with the rows in the store; of an extended plan, of the first one."""
        return self.parts[0].rows_name

    @property
    def num_items(self) -> int:
        """Number of planned items of all splits."""
        return self._first_items[-1]

    @property
    def replaces(self) -> list[str]:
        """By shard number the name of the shard that it replaces; empty: none replaces another."""
        names: list[str] = self.parts[0].summary.shards["replaces"].drop_null().to_pylist()  # only retries replace
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
        return [self._item(row, number) for row in self.batch(number).to_pylist()]

    def item(self, number: int, row: int) -> Item:
        """Return the item in row `row` of shard `number`."""
        return self._item(self.batch(number).slice(row, 1).to_pylist()[0], number)

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
        for part in self.parts:
            part.require_intact()

    def read_batch(self, number: int) -> Any:
        """Read what `batch` returns."""
        part, index = self._part_of(number)
        return part.batch(index)

    @cached_property
    def _first_items(self) -> list[int]:
        """By shard the number of items before it; at the end, that of all items."""
        sizes = (part.summary.shards["num_items"].to_pylist() for part in self.parts)
        return list(accumulate(chain.from_iterable(sizes), initial=0))

    @cached_property
    def _first_shards(self) -> list[int]:
        """By part the number of its first shard."""
        return list(accumulate((part.num_shards for part in self.parts[:-1]), initial=0))

    def _part_of(self, number: int) -> tuple[PlanPart, int]:
        """Return (the part with shard `number`, the index of the shard in it)."""
        part = bisect_right(self._first_shards, number) - 1
        return self.parts[part], number - self._first_shards[part]

    def _item(self, row: dict[str, Any], number: int) -> Item:
        try:
            return read_item(row)
        except ValueError as error:
            raise self._part_of(number)[0].damaged(f"the item {row['key']}: {error}") from error


@lru_cache(maxsize=_NUM_KEPT)
def _batch(plan: Plan, number: int) -> Any:
    return plan.read_batch(number)


def plan_name(retry: int = 0, extension: int = 0) -> str:
    """Return the name of a summary in the store of its run.

    Args:
        retry: number of the retry whose plan it is; 0: it is the run's own.
        extension: how many times the run was extended, this time included; 0: it is what was planned at first.
    """
    if extension:
        return f"plan-extension{extension:03d}.arrow"
    return f"plan-{retry:03d}.arrow" if retry else "plan.arrow"
