"""The root of a corpus in an object store."""

from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import BinaryIO, TypeVar

from datamodules.corpora.frame_files import in_order, is_frame
from datamodules.corpora.object_listing import Lookup, ObjectListing
from datamodules.corpora.paths import describe_error
from datamodules.corpora.root import Frames, Root
from datamodules.corpora.skipped import Skipped
from datamodules.corpora.walk import File
from datamodules.errors import CorpusError
from datamodules.object_store import is_url
from datamodules.objects import FileFacts, has_objects, join, list_folder, list_objects, open_input, version_of

T = TypeVar("T")


class ObjectRoot(Root):
    """A URL. Listings are kept only as long as what follows them needs them.

    Args:
        url: of the root, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._below, self._elsewhere = Lookup(url), Lookup()
        self._listing: tuple[str, ObjectListing] | None = None  # of one folder: (folder, its objects)

    def join(self, path: str) -> str:
        return join(self._url, path)

    def relative(self, path: str) -> str:
        return path.removeprefix(f"{self._url}/")

    def walk(self, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
        return ObjectListing(self.join(below)).walk(suffixes, skipped, below)

    def stat(self, path: str) -> FileFacts:
        if path.startswith("/"):
            raise CorpusError(f"{path} is a path of one machine: give a path below the root, or a URL")
        return self._elsewhere.stat(path) if is_url(path) else self._below.stat(self.join(path))

    def frames(self, folder: str, skipped: Skipped | None = None) -> Frames:
        skipped = Skipped() if skipped is None else skipped
        parent, _, name = folder.rpartition("/")
        if self._listing is None or self._listing[0] != parent:  # sequences lie beside each other, mostly
            self._listing = parent, ObjectListing(self.join(parent))
        files = self._listing[1].files_in(name)
        if not files:
            raise CorpusError(f"{self.join(folder)} cannot be read: No such file or directory")
        names = in_order((name for name in files if is_frame(name, skipped)), self.join(folder))
        facts = [files[name] for name in names]
        modified = max((fact.modified or 0.0 for fact in facts), default=0.0)
        return Frames(names, sum(fact.num_bytes for fact in facts), modified, version_of(facts))

    def open(self, path: str) -> BinaryIO:
        return open_input(self.join(path))

    def files(self, pattern: str) -> list[str]:
        return self._matches(pattern)[1]

    def folders(self, pattern: str) -> list[str]:
        return self._matches(pattern)[0]

    def is_folder(self, path: str) -> bool:
        return self._listed(lambda: has_objects(self.join(path)))

    def _matches(self, pattern: str) -> tuple[list[str], list[str]]:
        """Return the folders and files that a glob pattern matches, sorted, without hidden ones."""
        *outer, last = PurePosixPath(pattern).parts or ("",)
        if not last or pattern.startswith("/"):
            raise ValueError(f"Unacceptable pattern: {pattern!r}")  # as pathlib says it
        if "**" in (*outer, last):
            paths = [PurePosixPath(path) for path, _ in self._listed(lambda: list(list_objects(self._url)))]
            files = [path for path in paths if _matches(path.parts, (*outer, last))]
            return [], _visible(files)
        parents = [PurePosixPath()]
        for part in outer:
            parents = [parent / name for parent in parents for name in self._names(parent, part)[0]]
        found = [(parent, self._names(parent, last)) for parent in parents]
        folders, files = ([parent / name for parent, names in found for name in names[kind]] for kind in (0, 1))
        return _visible(folders), _visible(files)

    def _names(self, folder: PurePosixPath, pattern: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and files in a folder that match one part of a pattern."""
        listing = self._listed(lambda: list_folder(self.join(str(folder))))
        folders, files = ([name for name in names if fnmatchcase(name, pattern)] for names in listing)
        return folders, files

    def _listed(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except OSError as error:
            raise CorpusError(describe_error(self._url, error)) from error


def _visible(paths: list[PurePosixPath]) -> list[str]:
    return [str(path) for path in sorted(paths) if not any(part.startswith(".") for part in path.parts)]


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern in which `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[number:], pattern[1:]) for number in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
