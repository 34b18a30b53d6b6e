"""Folders listed in an order that does not change."""

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO, TypeVar

from datamodules.errors import CorpusError
from datamodules.media.suffixes import IMAGE_SUFFIXES

T = TypeVar("T")
_BLOCK_BYTES = 1 << 20


def limit(values: Iterator[T], count: int | None) -> Iterator[T]:
    """The first `count` of `values`; all if that is None."""
    return islice(values, count)


def open_list(path: str, newline: str | None = None) -> TextIO:
    """Open the list `path` as text: UTF-16 if it starts with that byte order mark, else UTF-8 with or without one."""
    with open(path, "rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return open(path, encoding="utf-16" if is_utf16 else "utf-8-sig", newline=newline)


def list_sha256(path: str, option: str) -> str:
    """sha256 of the list `path`, which the option `option` names: another list is another run.

    Raises:
        CorpusError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise CorpusError(f"{option} {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def list_frames(folder: Path) -> tuple[tuple[str, ...], int, float]:
    """List the images in `folder`, without hidden files.

    Returns:
        Their names, in the order of the numbers in them (`frame2` before `frame10`), which is total: see `_parts`;
        their total size in bytes; their newest modification time in seconds since the epoch.

    Raises:
        CorpusError: the folder is missing or cannot be listed, or two frames have the same number.
    """
    try:
        with os.scandir(folder) as entries:
            stats = {
                entry.name: entry.stat()
                for entry in entries
                if not entry.name.startswith(".")  # macOS leaves `._images0001.png` beside `images0001.png`
                and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
            }
    except OSError as error:
        raise CorpusError(f"{folder} cannot be listed: {error.strerror}") from error
    names = sorted(stats, key=_parts)
    for name, following in pairwise(names):
        if _parts(name) == _parts(following):
            raise CorpusError(f"{folder} has two frames with one number, {name!r} and {following!r}: remove one")
    modified = max((stat.st_mtime for stat in stats.values()), default=0.0)
    return tuple(names), sum(stat.st_size for stat in stats.values()), modified


def count_missing(names: Sequence[str]) -> int:
    """Return how many frames the numbering of `names`, in the order of `list_frames`, leaves out.

    A numbering starts at 1, or at 0 if it has a 0; how far it should go is unknown. Names that differ in more than one
    number are no single numbering, and count as complete.
    """
    parts = [_parts(name) for name in names]
    numbers = list(zip(*(each[1::2] for each in parts), strict=False))
    varying = [values for values in numbers if len(set(values)) > 1] or numbers[-1:]
    if len({each[::2] for each in parts}) > 1 or len(varying) != 1:
        return 0
    return int(varying[0][-1] - min(varying[0][0], 1) + 1 - len(names))


def _parts(name: str) -> tuple[Any, ...]:
    """Return the name of a frame, without its extension and case, as text, number, text, number, …, text."""
    parts = re.split("([0-9]+)", os.path.splitext(name)[0].casefold())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))


def walk(root: str, suffixes: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """(path relative to `root`, size and time) of the files with one of `suffixes`, in any case; depth first, by name.

    Hidden files and folders are left out; links are followed to files, not to folders.

    Raises:
        CorpusError: a folder cannot be listed.
    """
    return ((path, stat) for path, stat, _ in walk_folders(root, suffixes, lambda folder, names: None))


def walk_folders(
    root: str, suffixes: Collection[str], known_of: Callable[[str, list[str]], T], below: str = ""
) -> Iterator[tuple[str, os.stat_result, T]]:
    """As `walk`, with what `known_of` says of each file's folder.

    Args:
        root: the folder.
        suffixes: of the files.
        known_of: is called once for each folder, with its path relative to `root` and all names in it with `suffixes`.
        below: the folder to begin at, relative to `root`.
    """
    try:
        with os.scandir(os.path.join(root, below)) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise CorpusError(f"{os.path.join(root, below)} cannot be listed: {error.strerror}") from error
    known = known_of(below, [entry.name for entry in entries if _has_ending(entry.name, suffixes)])
    for entry in entries:
        path = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from walk_folders(root, suffixes, known_of, path)
        elif _has_ending(entry.name, suffixes) and entry.is_file():
            yield path, entry.stat(), known


def read_list(path: str, option: str) -> Iterator[tuple[int, str]]:
    """(number of its line, path) of each path that the list `path` has, which the option `option` names.

    Blank lines and lines that begin with `#` are skipped; a `./` in front, as `find .` writes it, is left out.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with open_list(path) as file:
            for number, line in enumerate(file, 1):
                name = line.strip().removeprefix("./")
                if name and not name.startswith("#"):
                    yield number, name
    except (OSError, UnicodeError) as error:
        raise CorpusError(f"{option} {path} cannot be read: {error}") from error


def relative_to(root: str, path: str) -> str | None:
    """Return the absolute `path` of a file relative to `root`; None if it is not below it, by name or by links."""
    folder, name = os.path.split(os.path.normpath(path))
    for resolved in (os.path.abspath, _real_path):
        relative = os.path.relpath(os.path.join(resolved(folder), name), resolved(root))
        if relative.split(os.sep)[0] != os.pardir:
            return relative
    return None


@lru_cache(maxsize=1024)
def _real_path(folder: str) -> str:
    """`os.path.realpath`, which asks the file system for each part of the path, once for each folder of a list."""
    return os.path.realpath(folder)


def stat_listed(root: str, path: str, where: str) -> os.stat_result:
    """Size and time of the file `path`, relative to `root`, that a list names in the place `where`.

    Raises:
        CorpusError: it is not there.
    """
    try:
        return os.stat(os.path.join(root, path))
    except (OSError, ValueError) as error:  # a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise CorpusError(f"{where}: {path}: {reason}") from error


def look_at(root: str, path: str) -> tuple[int, float | None]:
    """(size in bytes, modification time) of the file `path`, relative to `root`; 0 and None if there is none.

    An item that is listed all the same fails when it is read, alone.

    Raises:
        CorpusError: that cannot be told.
    """
    try:
        stat = os.stat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    except OSError as error:
        raise CorpusError(f"{path!r} cannot be looked at: {error.strerror}") from error
    except ValueError as error:  # a zero byte, half a character
        raise CorpusError(f"{path!r} is no path: {error}") from error
    return stat.st_size, stat.st_mtime


def _has_ending(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes
