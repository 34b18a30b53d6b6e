"""The files below a folder, in an order that does not change from one listing to the next."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from datamodules.corpora.listing import ambiguous_stems, key_of_file
from datamodules.corpora.paths import describe_error, has_extension, is_hidden, stat_entry
from datamodules.corpora.skipped import HIDDEN_FILE, HIDDEN_FOLDER, LOOP, OTHER_EXTENSION, RUN, Skipped
from datamodules.corpus import key_from_path
from datamodules.errors import CorpusError

_MAX_FOLDER_DEPTH, _MAX_LINKS_TO_FOLDER = 100, 1000
PLAN_NAME = "plan.arrow"  # a folder with this file is a run, whose videos are no part of a corpus

_Identity = tuple[int, int]  # device and inode of a folder


class File(NamedTuple):
    """A listed file.

    Attributes:
        path: relative to the root.
        key: of its item.
        cost: size in bytes.
        modified: modification time in seconds since the epoch; None: not known.
        version: ETag of an object; None: it is a file, or its store has none.
        problem: why it cannot be used; None: nothing known.
    """

    path: str
    key: str
    cost: int = 0
    modified: float | None = None
    version: str | None = None
    problem: str | None = None


def walk(root: str, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
    """Yield the files below a folder that have one of `suffixes`, in upper or lower case; depth first, by name.

    Keys are the paths without extension. Files of one folder whose names differ only by the extension keep it.

    Links are followed, also to folders: a folder that is linked twice is listed under both paths, as `find -L` does.
    Skipped are links to a folder that contains them, hidden files and folders, and folders that are runs. A file or
    folder that cannot be read (a link without target, a folder without permission, a folder more than 100 folders
    deep, the 1,001st link to one folder) is yielded with its problem.

    Args:
        root: the folder that paths are relative to.
        suffixes: with their dots, in lower case.
        skipped: counts what is left out.
        below: the folder to begin at, relative to `root`.

    Raises:
        CorpusError: the first folder cannot be listed.
        EnvironmentFailure: the file system gives errors.
    """
    return _Walk(root, suffixes, skipped).folder(below, frozenset())


class _Walk:
    """The state of one `walk`, with the same arguments."""

    def __init__(self, root: str, suffixes: Collection[str], skipped: Skipped) -> None:
        self._root, self._suffixes, self._skipped = root, suffixes, skipped
        self._num_links: Counter[_Identity] = Counter()  # by the folder that they lead to

    def folder(self, folder: str, parents: frozenset[_Identity], is_link: bool = False) -> Iterator[File]:
        """Yield the files below one folder.

        Args:
            folder: relative to the root.
            parents: the folders that contain it.
            is_link: whether `folder` is a link.
        """
        path = os.path.join(self._root, folder)
        try:
            stat = os.stat(path)
            identity = (stat.st_dev, stat.st_ino)
            if identity in parents:
                self._skipped.add(LOOP, folder)
                return
            if excess := self._excess(identity, len(parents), is_link):
                yield _faulty_folder(folder, f"{folder} {excess}, the limit")
                return
            with os.scandir(path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            problem = describe_error(path, error)
            if not parents:
                raise CorpusError(problem) from error
            yield _faulty_folder(folder, problem)
            return
        if folder and any(entry.name == PLAN_NAME for entry in entries):
            self._skipped.add(RUN, folder)
        else:
            yield from self._entries(folder, entries, parents | {identity})

    def _excess(self, identity: _Identity, depth: int, is_link: bool) -> str | None:
        """Return which limit a folder exceeds. Without limits a few dozen links to folders would make 10^9 paths."""
        if depth > _MAX_FOLDER_DEPTH:
            return f"lies in more than {_MAX_FOLDER_DEPTH} folders"
        if is_link:
            self._num_links[identity] += 1
            if self._num_links[identity] > _MAX_LINKS_TO_FOLDER:
                return f"is a link to a folder that was listed by more than {_MAX_LINKS_TO_FOLDER:,} links"
        return None

    def _entries(
        self, folder: str, entries: Sequence["os.DirEntry[str]"], parents: frozenset[_Identity]
    ) -> Iterator[File]:
        names = (entry.name for entry in entries if not is_hidden(entry) and has_extension(entry.name, self._suffixes))
        is_ambiguous = ambiguous_stems(names)
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if is_hidden(entry):
                self._skipped.add(HIDDEN_FOLDER if entry.is_dir(follow_symlinks=False) else HIDDEN_FILE)
            elif _is_folder(entry):
                yield from self.folder(path, parents, entry.is_symlink())
            elif has_extension(entry.name, self._suffixes):
                yield _file(entry, path, key_of_file(path, is_ambiguous(entry.name)))
            else:
                self._skipped.add(OTHER_EXTENSION, entry.name)


def _faulty_folder(folder: str, problem: str) -> File:
    return File(folder, f"{key_from_path(folder)}/%folder", problem=problem)  # no file's key: `%fo` is not an escape


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: `_file` says why
        return False


def _file(entry: "os.DirEntry[str]", path: str, key: str) -> File:
    try:
        stat = stat_entry(entry)
    except OSError as error:
        return File(path, key, problem=describe_error(entry.path, error))
    return File(path, key, stat.st_size, stat.st_mtime)
