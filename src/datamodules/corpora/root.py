"""The root of a corpus: what its paths are relative to, a folder or a URL of an object store.

Corpora list and open files through it, and so need not know which one it is. The same files give the same items in the
same order, except for `modified` and `version`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

from datamodules.corpora.skipped import Skipped
from datamodules.corpora.walk import File
from datamodules.objects import FileFacts


class Frames(NamedTuple):
    """The images of a frame sequence.

    Attributes:
        names: of the files, in the order of the numbers in them.
        num_bytes: of all.
        modified: the newest modification time in seconds since the epoch; 0 if there are no images; None: not known.
        version: hash of their ETags; None: they have none.
    """

    names: tuple[str, ...]
    num_bytes: int
    modified: float | None
    version: str | None


class Root(ABC):
    """A folder or prefix. Paths are relative to it and use `/`."""

    @abstractmethod
    def join(self, path: str) -> str:
        """Return the path or URL of a file, to open it and for messages."""

    @abstractmethod
    def relative(self, path: str) -> str:
        """Return `path` as relative to this root if it is an absolute path or URL below it; else unchanged."""

    @abstractmethod
    def walk(self, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
        """Yield the files that have one of `suffixes`, in upper or lower case; depth first, by name. See `walk.walk`.

        Args:
            suffixes: with their dots, in lower case.
            skipped: counts what is left out.
            below: the folder to begin at.

        Raises:
            CorpusError: the first folder cannot be listed.
            EnvironmentFailure: the file system or the store fails.
        """

    @abstractmethod
    def stat(self, path: str) -> FileFacts:
        """Return what is known of a file that a list names, by a path below the root, an absolute path or a URL.

        Returns:
            `FileFacts()` if it is missing: its item is listed all the same, and fails when it is read.

        Raises:
            CorpusError: `path` cannot be a path, or the file may not be looked up.
            EnvironmentFailure: the file system or the store fails.
        """

    @abstractmethod
    def frames(self, folder: str, skipped: Skipped | None = None) -> Frames:
        """List the images in a folder, without hidden files.

        Raises:
            CorpusError: the folder or a frame cannot be read, or two frames have the same number.
            EnvironmentFailure: the file system or the store fails.
        """

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading at any position.

        Raises:
            OSError: it is missing, or cannot be read.
        """

    @abstractmethod
    def files(self, pattern: str) -> list[str]:
        """Return the files that a glob pattern matches, sorted, without hidden ones and those in hidden folders.

        Raises:
            ValueError, NotImplementedError, RecursionError: the pattern is invalid.
        """

    @abstractmethod
    def folders(self, pattern: str) -> list[str]:
        """Return the folders that a glob pattern without `**` matches, sorted, without hidden ones."""

    def is_file(self, path: str) -> bool:
        """Return whether there is such a file."""
        return self.stat(path).modified is not None

    @abstractmethod
    def is_folder(self, path: str) -> bool:
        """Return whether there is such a folder."""
