"""Lists of keys: the items that a retry tries again, or the samples that an export or a training leaves out.

A list is a file in UTF-8 with one key per line, such as the `flagged.txt` that the report of a run downloads. Blank
lines and spaces are ignored; a key has neither.
"""

import heapq
import os
from collections.abc import Collection, Iterable, Iterator

from datamodules.errors import ConfigError
from datamodules.object_store import is_url
from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.plan import Plan

KeyList = str | os.PathLike[str] | Iterable[str]  # the path of a file on this machine, or the keys
_NUM_NAMED = 3  # keys in a message


def planned_keys(keys: KeyList, *runs: Run) -> frozenset[str]:
    """Return the keys of a list, after a check that each is in the plan of one of `runs`.

    Raises:
        ConfigError: the file is missing, empty or not a text; or no run has an item with one of the keys (the message
            names the first few, and the nearest key of the first run).
    """
    if isinstance(keys, (str, os.PathLike)):
        name, listed = os.fspath(keys), read_keys(keys)
    else:
        name, listed = "the list of keys", list(dict.fromkeys(keys))
    by_shard = (found for run in runs for found in shards_with(run.plan, frozenset(listed)).values())
    known = {key for found in by_shard for key in found}
    if unknown := [key for key in listed if key not in known]:
        what = f"{len(unknown):,} keys that are" if len(unknown) > 1 else "a key that is"
        named = ", ".join(f"{key!r:.100}" for key in unknown[:_NUM_NAMED]) + (", …" if unknown[_NUM_NAMED:] else "")
        nearest = nearest_keys(runs[0], unknown[0])[0]
        stores = " or ".join(str(run.store) for run in runs)
        raise ConfigError(f"{name} names {what} not in {stores}: {named}. The nearest key is {nearest!r}")
    return frozenset(known)


def read_keys(path: str | os.PathLike[str]) -> list[str]:
    """Return the keys in a file, each once, in order.

    Raises:
        ConfigError: the file is missing, empty or not a text, or `path` is a URL.
    """
    if is_url(os.fspath(path)):
        raise ConfigError(f"{path} is a URL. Give a path on this machine")
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors begin a file with a byte order mark
            keys = dict.fromkeys(key for key in map(str.strip, file) if key)
    except OSError as error:
        raise ConfigError(f"the list of keys {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the list of keys {path} is not UTF-8. Give a text file with one key per line") from error
    if not keys:
        raise ConfigError(f"the list of keys {path} is empty. Give a text file with one key per line")
    return list(keys)


def shards_with(plan: Plan, keys: Collection[str]) -> dict[int, list[str]]:
    """Return by number of the shard those of `keys` that it has. Reads the rows of the plan until all are found.

    Args:
        plan: the plan.
        keys: a set.

    Raises:
        RunError: the plan is damaged.
    """
    found: dict[int, list[str]] = {}
    num_left = len(keys)
    if not num_left:
        return found
    for number, of_shard in enumerate(_keys_of_shards(plan)):
        if in_both := [key for key in of_shard if key in keys]:
            found[number] = in_both
            num_left -= len(in_both)
            if not num_left:
                break
    return found


def nearest_keys(run: Run, key: str) -> list[str]:
    """Return up to three keys of `run` that contain `key`, as if it lacked its split; else the one most like it."""
    keys = (other for of_shard in _keys_of_shards(run.plan) for other in of_shard)
    best = heapq.nsmallest(_NUM_NAMED, keys, lambda other: 0 if key in other else 1 + _num_different(key, other))
    return [other for other in best if key in other] or best[:1]


def _num_different(one: str, other: str) -> int:
    """Return how many characters are between the common begin and the common end of two texts, in the longer one."""
    begin = _num_equal(one, other)
    return max(len(one), len(other)) - begin - _num_equal(one[begin:][::-1], other[begin:][::-1])


def _num_equal(one: str, other: str) -> int:
    """Return the length of the common begin of two texts, in characters."""
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _keys_of_shards(plan: Plan) -> Iterator[list[str]]:
    """Yield the keys of each shard. They are not kept as those that `Plan.batch` returns."""

    def read(number: int) -> list[str]:
        keys: list[str] = plan.read_batch(number)["key"].to_pylist()
        return keys

    return read_each(plan.store, read, range(len(plan.shards)))
