"""Drift: how the files of a corpus differ from what was planned."""

import os
from array import array
from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Item, hash64
from datamodules.errors import ChangedError, DecodeError, MissingError, RunError
from datamodules.run.plan import Plan

_SAME_TIME_SECONDS = 2.0  # what copies and file systems keep of a time (FAT: 2 s)
_NUM_CHECKED = 32  # items that stand for a corpus


def require_unchanged(item: Item, root: str) -> None:
    """Return if the files of `item` below `root` have the size and the time that it was planned with.

    Raises:
        MissingError: one is missing.
        ChangedError: they have others.
        OSError: they cannot be asked for.
    """
    if item.modified is None:
        return
    path = os.path.join(root, item.path)
    files = [path] if item.start_byte is not None else [os.path.join(path, name) for name in item.frames] or [path]
    try:
        stats = [os.stat(file) for file in files]
    except FileNotFoundError as error:
        name = os.path.relpath(error.filename, os.path.dirname(path))
        raise MissingError(f"{name} is missing, or its folder is") from error
    size, modified = sum(stat.st_size for stat in stats), max(stat.st_mtime for stat in stats)
    if size != item.cost and item.start_byte is None:  # of a tar, its image is looked at: `read_member`
        raise ChangedError(f"{item.source} has {size:,} bytes, but had {item.cost:,} when it was planned")
    if abs(modified - item.modified) > _SAME_TIME_SECONDS:
        now, then = _as_time(modified), _as_time(item.modified)
        raise ChangedError(f"{item.source} was written {now}, after it was planned with the time {then}")


def _as_time(seconds: float) -> str:
    """Return a time since the epoch as people read it. A file can have one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"


def require_planned(plan: Plan, root: str, option: str) -> None:
    """Return if `root`, where the corpus of `plan` is now, has most of 32 items that are spread evenly over the plan.

    A corpus is known by the keys, sizes and times of its items. One that is missing or changed fails by itself.

    Args:
        plan: of a run.
        root: the folder, which is another than when the items were planned.
        option: that names the folder, for the message.

    Raises:
        RunError: it has not.
    """
    items = _spread(plan)
    wrong = [reason for item in items if (reason := _reason(item, root))]
    if 2 * len(wrong) > len(items):
        raise RunError(
            f"--data.{option} {root} is not the corpus that was planned, then in {', '.join(plan.roots)}: of "
            f"{len(items)} items that were compared, {len(wrong)} are missing or have another size or time (the first: "
            f"{wrong[0]}). Give the folder that has them, copied with their times (cp -a, rsync -a); or use another "
            "--output.dir"
        )


class Drift(NamedTuple):
    """How a listing differs from a plan.

    Attributes:
        num_new: listed items that are not planned.
        num_gone: planned items that are not listed any more, or whose files were found then and are not now.
    """

    num_new: int
    num_gone: int

    def line(self, plan: Plan) -> str:
        """Return it as one line for people; it is not to be empty."""
        made = datetime.fromtimestamp(plan.path.stat().st_mtime, timezone.utc).date().isoformat()
        new = f"{_items(self.num_new, '')} of the corpus {_are(self.num_new)} not in this run's plan of {made}"
        gone = f"{_items(self.num_gone, 'planned ')} {_are(self.num_gone)} gone"
        changes = "; ".join(text for text, number in zip((new, gone), self, strict=True) if number)
        return f"{changes}. The run keeps to its plan: to plan the corpus as it is now, use another --output.dir"


def drift(plan: Plan, items: Iterable[Item]) -> Drift:
    """Compare `items`, a new listing of the corpus, with its plan; holds 16 bytes for each item of either."""
    batches = [plan.batch(shard.number) for shard in plan.shards]
    planned = _hashes(key for batch in batches for key in batch["key"].to_pylist())
    found = np.concatenate([batch["modified"].is_valid().to_numpy(zero_copy_only=False) for batch in batches])
    listed, listed_found = array("Q"), array("Q")
    for item in items:
        listed.append(hash64(item.key))
        if item.modified is not None:
            listed_found.append(listed[-1])
    gone = np.union1d(np.setdiff1d(planned, listed), np.setdiff1d(planned[found], listed_found))
    return Drift(len(np.setdiff1d(listed, planned)), len(gone))


def _hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter(map(hash64, keys), np.uint64)


def _items(number: int, kind: str) -> str:
    return f"{number:,} {kind}item{'s' * (number != 1)}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _spread(plan: Plan) -> list[Item]:
    """Some items of `plan`, evenly spaced, of those whose files were found when it was made."""
    places = ((shard.number, row) for shard in plan.shards for row in range(shard.num_items))
    items = (plan.item(*place) for place in islice(places, 0, None, max(1, plan.num_items // _NUM_CHECKED)))
    return [item for item in items if item.modified is not None]


def _reason(item: Item, root: str) -> str | None:
    try:
        require_unchanged(item, root)
    except (DecodeError, OSError) as error:
        return str(error)
    return None
