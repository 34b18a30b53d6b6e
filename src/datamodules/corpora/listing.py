"""What all listings share: keys of files and rows, items of faulty rows, and checks that anything usable was listed."""

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from datamodules.corpora.paths import MAX_PATH_CHARS
from datamodules.corpora.skipped import Skipped
from datamodules.corpus import Item, hash64, key_from_path
from datamodules.errors import CorpusError
from datamodules.object_store import is_url

_MAX_PROBLEM_CHARS = 1000  # kept of the problem of a row


def key_of_file(path: str, keeps_extension: bool) -> str:
    """Return the key of the file `path`, relative to the root.

    Raises:
        CorpusError: see `key_from_path`.
    """
    return key_from_path(path if keeps_extension else os.path.splitext(path)[0])


def bare_path(path: str) -> str:
    """Return an absolute path without its slash, and a URL without its scheme, to make a key from."""
    return (path.partition("://")[2] if is_url(path) else path).lstrip("/")


def key_of_row(where: str) -> str:
    """Return the key of a row that has no key of its own: `%line-12` for `list.csv, line 12`.

    It equals no other key, because `%li` is not an escape that `key_from_path` makes.
    """
    return "%" + where.rpartition(", ")[2].replace(" ", "-")


def faulty_row(where: str, error: CorpusError, key: str, split: str, path: Any = "") -> Item:
    """Return the item of a row that cannot be used. It becomes a failure row of the class `listing`.

    Args:
        where: location of the row, such as `list.csv, line 12`.
        error: what is wrong with the row.
        key: of the item.
        split: of the item.
        path: the row's value for the path of the file, whatever it is.
    """
    is_path = isinstance(path, str) and len(path) <= MAX_PATH_CHARS
    return Item(key, split, path if is_path else "", problem=f"{where}: {str(error)[:_MAX_PROBLEM_CHARS]}")


def require_any(
    items: Iterator[Item], kind: str, root: str, suffixes: Collection[str], skipped: Skipped
) -> Iterator[Item]:
    """Yield the items of a folder.

    Args:
        items: of the listing.
        kind: what they are, in the plural, for the message.
        root: the folder.
        suffixes: extensions of the files that are listed.
        skipped: what the listing left out.

    Raises:
        CorpusError: there are no items. The message names the extensions, and what was skipped.
    """
    first = next(items, None)
    if first is None:
        extensions = f"files with the extensions {', '.join(sorted(suffixes))}"
        raise CorpusError(f"--data.root {root} has no {kind}, which are {extensions}; skipped: {skipped or 'nothing'}")
    yield first
    yield from items


def require_existing(items: Iterator[Item], listed: str, folder: str) -> Iterator[Item]:
    """Yield the items of a list.

    Args:
        items: of the listing. `modified` is None where the file is missing; items with a problem do not count.
        listed: path of the list, for the message.
        folder: the option that names the folder of the files, with its value, for the message.

    Raises:
        CorpusError: all files are missing, which is known only after the last item.
    """
    num_files = num_existing = 0
    for item in items:
        num_files += item.problem is None
        num_existing += item.modified is not None
        yield item
    if num_files and not num_existing:
        raise CorpusError(f"none of the {num_files:,} files of {listed} is in {folder}: is it the right folder?")


def repeated(texts: Iterable[str]) -> Callable[[str], bool]:
    """Return a predicate: whether a text occurs more than once in `texts`.

    It compares 64-bit hashes and keeps only those that repeat, because a corpus may have 100 million files.
    """
    hashes = np.fromiter(map(hash64, texts), np.uint64)
    hashes.sort()
    # `array` and `bisect` take 8 bytes a hash, a set 60; and numpy's search of one value is slower
    duplicates = array("Q", np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tobytes())

    def is_repeated(text: str) -> bool:
        value = hash64(text)
        index = bisect_left(duplicates, value)
        return index < len(duplicates) and duplicates[index] == value

    return is_repeated


def ambiguous_stems(paths: Iterable[str]) -> Callable[[str], bool]:
    """Return a predicate: whether the key of one of `paths` has to keep the extension.

    It has to if the path without extension is also that of another path (`a.jpg` and `a.png`), or another whole path
    (`a.jpg.png` beside `a.jpg`).
    """
    is_repeated = repeated(text for path in paths for text in (path, os.path.splitext(path)[0]))
    return lambda path: is_repeated(os.path.splitext(path)[0])
