"""Folders and lists, in an order that does not change from one listing to the next.

A fault of one file, folder or row costs one item, which is listed with the reason as its `problem`. A file system that
gives errors (EIO, ESTALE, …) raises EnvironmentFailure: the cause is not in an item.
"""

import codecs
import csv
import errno
import hashlib
import io
import os
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import numpy as np

from datamodules.corpora.skipped import HIDDEN_FILE, HIDDEN_FOLDER, LOOP, OTHER_EXTENSION, RUN, Skipped
from datamodules.corpus import Item, hash64, key_from_path
from datamodules.errors import CorpusError, EnvironmentFailure
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES
from datamodules.regular import NotRegularError, open_regular, require_regular

T = TypeVar("T")
_BLOCK_BYTES = 1 << 20
_FAULTS_OF_A_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
_MAX_PROBLEM_CHARS, _MAX_PATH_CHARS = 1000, 4096  # what is kept of a row that cannot be used; Linux, PATH_MAX
_MAX_FOLDER_DEPTH, _MAX_LINKS_TO_FOLDER = 100, 1000
_MAX_LIST_BYTES = 128 << 30  # read in minutes; a file of holes, which takes no disk, can have 2^63
_PLAN = "plan.arrow"  # the file by which a folder is recognised as a run


class File(NamedTuple):
    """A file that `walk` found.

    Attributes:
        path: relative to the root.
        key: of its item.
        cost: size in bytes.
        modified: modification time in seconds since the epoch; None: not known.
        problem: why it cannot be used; None: as far as the listing sees, it can.
    """

    path: str
    key: str
    cost: int = 0
    modified: float | None = None
    problem: str | None = None


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
    is_path = isinstance(path, str) and len(path) <= _MAX_PATH_CHARS
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


MAX_ROW_CHARS = 1 << 24  # of a line, or of a row that has several
csv.field_size_limit(MAX_ROW_CHARS)  # in all lists: texts may be longer than the default of 131,072 characters


def open_list(path: str, newline: str | None = None, errors: str = "strict") -> TextIO:
    """Open the list `path` as text: UTF-16 if it starts with that byte order mark, else UTF-8 with or without one.

    Raises:
        OSError: see `open_regular`.
    """
    file = open_regular(path)
    is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-16" if is_utf16 else "utf-8-sig", errors=errors, newline=newline)


def read_lines(file: TextIO, path: str) -> Iterator[str]:
    """Yield the lines of the list `file`, of which only one is in memory.

    Raises:
        CorpusError: a line has more than `MAX_ROW_CHARS` characters.
    """
    for number, line in enumerate(iter(partial(file.readline, MAX_ROW_CHARS + 1), ""), 1):
        if len(line) > MAX_ROW_CHARS:
            raise CorpusError(f"{path}, line {number}: it has more than {MAX_ROW_CHARS:,} characters, the limit")
        yield line


def list_sha256(path: str, option: str) -> str:
    """sha256 of the list `path`, which the option `option` names: another list is another run.

    Raises:
        CorpusError: it cannot be read, or has more than 128 GiB.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            if (num_bytes := os.fstat(file.fileno()).st_size) > _MAX_LIST_BYTES:
                raise CorpusError(
                    f"{option} {path} has {num_bytes:,} bytes; the limit is {_MAX_LIST_BYTES:,}: split it"
                )
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise CorpusError(f"{option} {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def list_frames(folder: Path, skipped: Skipped | None = None) -> tuple[tuple[str, ...], int, float]:
    """List the images in `folder`, without hidden files.

    Args:
        folder: of the frames of one item.
        skipped: counts the files that are left out.

    Returns:
        Their names, in the order of the numbers in them (`frame2` before `frame10`), which is total: see `_parts`;
        their total size in bytes; their newest modification time in seconds since the epoch.

    Raises:
        CorpusError: the folder or a frame cannot be read, or two frames have the same number.
        EnvironmentFailure: the file system gives errors.
    """
    skipped = Skipped() if skipped is None else skipped
    try:
        with os.scandir(folder) as entries:
            stats = {entry.name: _status(entry) for entry in entries if _is_frame(entry, skipped)}
    except OSError as error:
        raise CorpusError(fault_of_file(error.filename or str(folder), error)) from error
    except ValueError as error:  # a zero byte
        raise CorpusError(f"{str(folder)!r} cannot be used as a path: {error}") from error
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


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    stat = entry.stat()
    require_regular(stat, entry.path)
    return stat


def _is_frame(entry: "os.DirEntry[str]", skipped: Skipped) -> bool:
    if _is_hidden(entry):  # macOS leaves `._images0001.png` beside `images0001.png`
        skipped.add(HIDDEN_FILE)
    elif _has_extension(entry.name, READABLE_IMAGE_SUFFIXES):
        return True
    else:
        skipped.add(OTHER_EXTENSION, entry.name)
    return False


def walk(root: str, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
    """The files below a folder that have one of `suffixes`, in any case; depth first, by name.

    Keys are the paths without extension. Where two files of a folder differ by it only, the keys of both keep it.

    Links are followed, also to folders: one that is linked twice is listed under both paths, as `find -L` does. Skipped
    are links to a folder that contains them, hidden files and folders, and folders that are runs. What cannot be read
    (a link without target, a folder without permission, one more than 100 folders deep, the 1,001st link to one folder)
    is listed with its problem.

    Args:
        root: the folder that paths are relative to.
        suffixes: of the files.
        skipped: counts what is left out.
        below: the folder to begin at, relative to `root`.

    Raises:
        CorpusError: the first folder cannot be listed.
        EnvironmentFailure: the file system gives errors.
    """
    return _Walk(root, suffixes, skipped).folder(below, frozenset())


class _Walk:
    """One `walk`, whose arguments it takes."""

    def __init__(self, root: str, suffixes: Collection[str], skipped: Skipped) -> None:
        self._root, self._suffixes, self._skipped = root, suffixes, skipped
        self._num_linked: Counter[tuple[int, int]] = Counter()  # by device and inode, of folders reached by a link

    def folder(self, folder: str, above: frozenset[tuple[int, int]], is_link: bool = False) -> Iterator[File]:
        """Yield the files below one folder.

        Args:
            folder: relative to the root.
            above: device and inode of each folder that contains it.
            is_link: whether it is a link to a folder.
        """
        place = os.path.join(self._root, folder)
        try:
            stat = os.stat(place)
            identity = (stat.st_dev, stat.st_ino)
            if identity in above:
                self._skipped.add(LOOP, folder)
                return
            if excess := self._excess(identity, len(above), is_link):
                yield _faulty_folder(folder, f"{folder} {excess}, the limit")
                return
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            problem = fault_of_file(place, error)
            if not above:
                raise CorpusError(problem) from error
            yield _faulty_folder(folder, problem)
            return
        if folder and any(entry.name == _PLAN for entry in entries):
            self._skipped.add(RUN, folder)
        else:
            yield from self._entries(folder, entries, above | {identity})

    def _excess(self, identity: tuple[int, int], depth: int, is_link: bool) -> str | None:
        """Return which limit a folder exceeds; without one, a few dozen links to folders would make 10^9 paths."""
        if depth > _MAX_FOLDER_DEPTH:
            return f"lies in more than {_MAX_FOLDER_DEPTH} folders"
        if is_link:
            self._num_linked[identity] += 1
            if self._num_linked[identity] > _MAX_LINKS_TO_FOLDER:
                return f"is a link to a folder that was listed by more than {_MAX_LINKS_TO_FOLDER:,} links"
        return None

    def _entries(
        self, folder: str, entries: Sequence["os.DirEntry[str]"], above: frozenset[tuple[int, int]]
    ) -> Iterator[File]:
        files = (
            entry.name for entry in entries if not _is_hidden(entry) and _has_extension(entry.name, self._suffixes)
        )
        is_ambiguous = ambiguous_stems(files)
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if _is_hidden(entry):
                self._skipped.add(HIDDEN_FOLDER if entry.is_dir(follow_symlinks=False) else HIDDEN_FILE)
            elif _is_folder(entry):
                yield from self.folder(path, above, entry.is_symlink())
            elif _has_extension(entry.name, self._suffixes):
                yield _file(entry, path, key_of_file(path, is_ambiguous(entry.name)))
            else:
                self._skipped.add(OTHER_EXTENSION, entry.name)


def _faulty_folder(folder: str, problem: str) -> File:
    return File(folder, f"{key_from_path(folder)}/%folder", problem=problem)  # no name is encoded to `%fo`


def _is_hidden(entry: "os.DirEntry[str]") -> bool:
    return entry.name.startswith(".")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: `_file` says why
        return False


def _file(entry: "os.DirEntry[str]", path: str, key: str) -> File:
    try:
        stat = _status(entry)
    except OSError as error:
        return File(path, key, problem=fault_of_file(entry.path, error))
    return File(path, key, stat.st_size, stat.st_mtime)


def fault_of_file(path: str, error: OSError) -> str:
    """Why the file or folder `path` cannot be used.

    Raises:
        EnvironmentFailure: the file system gives errors.
    """
    if isinstance(error, NotRegularError):
        return f"{path} cannot be used: {error.strerror}"
    if error.errno not in _FAULTS_OF_A_FILE:
        raise EnvironmentFailure(f"{path} cannot be listed: {error.strerror}. Is its file system mounted?") from error
    if os.path.islink(path):
        return f"{path} is a link to {os.readlink(path)}, which cannot be read: {error.strerror}"
    return f"{path} cannot be read: {error.strerror}"


def read_list(path: str, option: str) -> Iterator[tuple[int, str]]:
    """(number of its line, path) of each path that the list `path` has, which the option `option` names.

    Blank lines and lines that begin with `#` are skipped; a `./` in front, as `find .` writes it, is left out. Bytes
    that are not UTF-8 are those of a file name, and represented as in one (`surrogateescape`).

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with open_list(path, errors="surrogateescape") as file:
            for number, line in enumerate(read_lines(file, path), 1):
                name = line.strip().removeprefix("./")
                if name and not name.startswith("#"):
                    yield number, name
    except (OSError, UnicodeError) as error:
        raise CorpusError(f"{option} {path} cannot be read: {error}") from error


def relative_to(root: str, path: str) -> str | None:
    """Return the absolute `path` of a file relative to `root`; None if it is not below it, by name or by links.

    Nor is one that is no path: too long, or with a zero byte or a lone surrogate. `look_at` says so.
    """
    if len(path) > _MAX_PATH_CHARS:  # each part would be looked up
        return None
    folder, name = os.path.split(os.path.normpath(path))
    with suppress(ValueError):
        for resolved in (os.path.abspath, _real_path):
            relative = os.path.relpath(os.path.join(resolved(folder), name), resolved(root))
            if relative.split(os.sep)[0] != os.pardir:
                return relative
    return None


@lru_cache(maxsize=1024)
def _real_path(folder: str) -> str:
    """`os.path.realpath`, which asks the file system for each part of the path, once for each folder of a list."""
    return os.path.realpath(folder)


def look_at(root: str, path: str) -> tuple[int, float | None]:
    """(size in bytes, modification time) of the file `path`, relative to `root`; (0, None) if it does not exist.

    The item of a file that does not exist fails when it is read.

    Raises:
        CorpusError: `path` is not a path, or may not be looked up.
        EnvironmentFailure: the file system gives errors.
    """
    try:
        stat = os.stat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    except OSError as error:
        raise CorpusError(fault_of_file(path, error)) from error
    except ValueError as error:  # a zero byte, a lone surrogate
        raise CorpusError(f"{path!r} cannot be used as a path: {error}") from error
    return stat.st_size, stat.st_mtime


def _has_extension(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes
