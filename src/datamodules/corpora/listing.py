"""Folders and lists, in an order that does not change from one listing to the next.

A fault of one file, folder or row costs one item, which is listed with the reason as its `problem`. A file system that
gives errors (EIO, ESTALE, …) raises EnvironmentFailure: the cause is not in an item.
"""

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from datamodules.corpora.paths import MAX_PATH_CHARS
from datamodules.corpora.skipped import Skipped
from datamodules.corpus import Item, hash64, key_from_path
from datamodules.errors import CorpusError

T = TypeVar("T")
_MAX_PROBLEM_CHARS = 1000  # what is kept of the problem of a row


def key_of_file(path: str, keeps_extension: bool) -> str:
    """The key of the file `path`, relative to the root.

    Raises:
        CorpusError: see `key_from_path`.
    """
    return key_from_path(path if keeps_extension else os.path.splitext(path)[0])


def key_of_place(where: str) -> str:
    """The key of a row that has none: `%line-12` of `list.csv, line 12`, which no name is encoded to."""
    return "%" + where.rpartition(", ")[2].replace(" ", "-")


def faulty_row(where: str, error: CorpusError, key: str, split: str, path: Any = "") -> Item:
    """The item of a row that cannot be used.

    Args:
        where: the row stands, as in `list.csv, line 12`.
        error: what is wrong with it.
        key, split: of the item.
        path: what the row has in place of the path of its file.
    """
    is_path = isinstance(path, str) and len(path) <= MAX_PATH_CHARS
    return Item(key, split, path if is_path else "", problem=f"{where}: {str(error)[:_MAX_PROBLEM_CHARS]}")


def limit(values: Iterator[T], count: int | None) -> Iterator[T]:
    """The first `count` of `values`; all if that is None."""
    return islice(values, count)


def require_found(
    items: Iterator[Item], kind: str, root: str, suffixes: Collection[str], skipped: Skipped
) -> Iterator[Item]:
    """Pass on the `items` that were found below a folder.

    Args:
        items: of the listing.
        kind: what they are, in the plural.
        root, suffixes, skipped: see `walk`.

    Raises:
        CorpusError: there are none; the message names the extensions that count, and what was skipped.
    """
    first = next(items, None)
    if first is None:
        extensions = f"files with the extensions {', '.join(sorted(suffixes))}"
        raise CorpusError(f"--data.root {root} has no {kind}, which are {extensions}; skipped: {skipped or 'nothing'}")
    yield first
    yield from items


def require_existing(items: Iterator[Item], listed: str, folder: str) -> Iterator[Item]:
    """Pass on the `items` of a list.

    Args:
        items: of the listing; `modified` is None where the file does not exist. Those with a problem do not count.
        listed: path of the list.
        folder: the option that names the folder of the files, with its value.

    Raises:
        CorpusError: none of the files exists, which is known at the end.
    """
    num_files = num_existing = 0
    for item in items:
        num_files += item.problem is None
        num_existing += item.modified is not None
        yield item
    if num_files and not num_existing:
        raise CorpusError(f"none of the {num_files:,} files of {listed} is in {folder}: is it the right folder?")


def repeated(texts: Iterable[str]) -> Callable[[str], bool]:
    """Whether a text occurs several times in `texts`, as a function; holds 8 bytes for each."""
    hashes = np.fromiter(map(hash64, texts), np.uint64)
    hashes.sort()
    found = array("Q", np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tobytes())  # a set would hold 60 bytes for each

    def is_repeated(text: str) -> bool:
        value = hash64(text)
        place = bisect_left(found, value)
        return place < len(found) and found[place] == value

    return is_repeated


def ambiguous_stems(paths: Iterable[str]) -> Callable[[str], bool]:
    """Whether the stem of one of `paths` is that of another, or another's whole path: then keys keep extensions."""
    is_repeated = repeated(text for path in paths for text in (path, os.path.splitext(path)[0]))
    return lambda path: is_repeated(os.path.splitext(path)[0])
