"""Drift: how the files of a corpus differ from the plan of a run."""

import errno
import os
from array import array
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np

from datamodules.corpus import Item, hash64
from datamodules.errors import ChangedError, DecodeError, MissingError, RunError
from datamodules.object_store import is_url
from datamodules.objects import FileFacts, join, list_objects, stat_object, version_of
from datamodules.run.plan import Plan

SAME_TIME_SECONDS = 2.0  # precision that copies and file systems keep (FAT: 2 s)
_NUM_CHECKED = 32  # items compared to recognise a corpus, at least


def require_unchanged(item: Item, root: str) -> None:
    """Raise unless the files of `item` below the folder or URL `root` are as they were planned (`require_same`).

    Raises:
        MissingError: a file is missing.
        ChangedError: the size, the time or the ETag differs.
        OSError: the file system or the store does not answer.
    """
    if item.modified is None:
        return
    path = join(root, item.path)
    files = [path] if item.start_byte is not None else [join(path, name) for name in item.frames] or [path]
    try:
        require_same(item, _object_facts(path, item) if is_url(path) else [_file_facts(file) for file in files])
    except FileNotFoundError as error:
        name = os.path.relpath(error.filename, os.path.dirname(path))
        raise MissingError(f"{name} is missing, or its folder is") from error


def require_same(item: Item, facts: Sequence[FileFacts]) -> None:
    """Raise unless the files or objects of `item` have the size, and the ETag or modification time, of the plan.

    Times may differ by 2 s. They are compared only where there is no ETag, as an object that is copied has another
    time. An item that was planned without either is not compared.

    Args:
        item: of a plan.
        facts: of all its files; of an image in a tar, of the tar.

    Raises:
        ChangedError: the size, the time or the ETag differs.
    """
    if item.modified is None or not facts:
        return
    size, modified = sum(fact.num_bytes for fact in facts), max(fact.modified or 0.0 for fact in facts)
    if size != item.cost and item.start_byte is None:  # `member_content` checks images in a tar
        raise ChangedError(f"{item.source} has {size:,} bytes, but had {item.cost:,} when it was planned")
    version = version_of(facts)
    if item.version is not None and version is not None:
        if version != item.version:
            raise ChangedError(f"{item.source} has changed since it was planned: it has another ETag")
    elif abs(modified - item.modified) > SAME_TIME_SECONDS:
        now, then = _as_time(modified), _as_time(item.modified)
        raise ChangedError(f"{item.source} was written {now}, after it was planned with the time {then}")


def _file_facts(path: str) -> FileFacts:
    stat = os.stat(path)
    return FileFacts(stat.st_size, stat.st_mtime)


def _object_facts(url: str, item: Item) -> list[FileFacts]:
    """Return what the store says of an item's object, or of those in its folder, at one request."""
    if not item.frames or item.start_byte is not None:
        return [stat_object(url)]
    if len(item.frames) == 1:
        return [stat_object(join(url, item.frames[0]))]
    objects = dict(list_objects(url))
    if missing := next((name for name in item.frames if name not in objects), None):
        raise FileNotFoundError(errno.ENOENT, "there is no such object", join(url, missing))
    return [objects[name] for name in item.frames]


def _as_time(seconds: float) -> str:
    """Return a time since the epoch as text. File systems allow times for which there is no date."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"


def require_planned(plan: Plan, root: str, option: str) -> None:
    """Raise unless `root`, a folder or URL, holds the corpus of `plan`, which was elsewhere when it was planned.

    Compares 32 to 63 items that are spread evenly over the plan, or all if it has fewer. At least half must have the
    planned size and time, so a few changed files do not stop the run: they fail as items.

    Args:
        plan: of a run.
        root: the folder or URL of the corpus now.
        option: name of the option that gave the folder, for the message.

    Raises:
        RunError: more than half of the compared items are missing or changed.
    """
    items = _evenly_spaced(plan)
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
        num_gone: planned items that are not listed any more, or whose files existed then and do not now.
    """

    num_new: int
    num_gone: int

    def line(self, plan: Plan) -> str:
        """Return one line that says what differs from `plan`; at least one number must be above 0."""
        entry = plan.store.find(plan.name)
        made = f" of {_as_time(entry.modified)[:10]}" if entry else ""
        new = f"{_items(self.num_new, '')} of the corpus {_are(self.num_new)} not in this run's plan{made}"
        gone = f"{_items(self.num_gone, 'planned ')} {_are(self.num_gone)} gone"
        changes = "; ".join(text for text, number in zip((new, gone), self, strict=True) if number)
        return f"{changes}. The run keeps to its plan. Add --extend to plan the new items too"


def drift(plan: Plan, items: Iterable[Item]) -> Drift:
    """Compare a new listing of the corpus with its plan. Needs some 30 bytes of memory per item.

    Args:
        plan: of a run.
        items: the new listing.

    Returns:
        The differences, by hashes of 64 bits of the keys.
    """
    planned, existed = array("Q"), array("B")
    for shard in plan.shards:
        batch = plan.batch(shard.number)
        planned.extend(map(hash64, batch["key"].to_pylist()))
        # an item has a time if its files existed when it was listed
        existed.extend(modified is not None for modified in batch["modified"].to_pylist())
    listed, listed_existing = array("Q"), array("Q")
    for item in items:
        listed.append(hash64(item.key))
        if item.modified is not None:
            listed_existing.append(listed[-1])
    planned_existing = np.frombuffer(planned, np.uint64)[np.frombuffer(existed, np.bool_)]
    gone = np.union1d(np.setdiff1d(planned, listed), np.setdiff1d(planned_existing, listed_existing))
    return Drift(len(np.setdiff1d(listed, planned)), len(gone))


def _items(number: int, kind: str) -> str:
    return f"{number:,} {kind}item{'s' * (number != 1)}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _evenly_spaced(plan: Plan) -> list[Item]:
    """Return 32 to 63 evenly spaced items of `plan`, or all; without those whose files did not exist at planning."""
    positions = range(0, plan.num_items, max(1, plan.num_items // _NUM_CHECKED))
    items = (plan.item(*plan.place(position)) for position in positions)
    return [item for item in items if item.modified is not None]


def _reason(item: Item, root: str) -> str | None:
    """Return how `item` differs from the plan; None if it does not."""
    try:
        require_unchanged(item, root)
    except (DecodeError, OSError) as error:
        return str(error)
    return None
