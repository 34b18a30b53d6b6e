"""Stores: where the files of a run are, with the operations that its ranks need, and no others.

Ranks share a store and nothing else. It is a folder (`Folder`) or a bucket (`datamodules.run.bucket.Bucket`), and no
other module knows which. Names are relative to the run, with `/` between folders: `records/train-000000.json`.

| operation | what ranks rely on                                            | folder            | bucket            |
|-----------|---------------------------------------------------------------|-------------------|-------------------|
| `create`  | of several callers one wins; its content appears whole        | hard link         | conditional put   |
| `replace` | readers see the old or the new content, never a part          | rename            | put               |
| `staged`  | a large file is durable before a record names it              | file, fsync       | upload            |
| `publish` | moves a staged file; anyone may do it, or do it again         | rename            | copy, then delete |
| `list`    | a version that changes with each `replace`: a heartbeat       | modification time | ETag, time        |

What only appends, or is written by other code through a path, stays on a local disk: `Store.work`.
"""

import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datamodules.errors import RunError
from datamodules.run.files import (
    link_new,
    make_folder,
    open_file,
    read_at,
    read_file,
    remove,
    require_own_folders,
    sync,
    write_new,
    write_whole,
)
from datamodules.stored_file import StoredFile

STAGING = "work/staging"
_COPY_BYTES = 8 << 20  # read at once


class Entry(NamedTuple):
    """One file of a store, as it was when it was listed.

    Attributes:
        name: relative to the run.
        size: in bytes.
        version: changes whenever the file is replaced.
        modified: when it was last written, in seconds since the epoch by the clock of the store.
    """

    name: str
    size: int
    version: str
    modified: float


class Store(ABC):
    """The files of one run. Can be pickled.

    Attributes:
        location: the folder or URL, as the user gave it; also the text of the store.
        work: folder on a local disk for spools, fault files and scratch; it may not exist yet.
        shares_work: whether the ranks of all machines have the same `work`.
        beat_seconds: time between two heartbeats of a rank.
        patience_seconds: how long writing may fail before the store counts as lost.
        num_reads_at_once: number of reads that a process should have in flight; 1: more would not be faster.
    """

    location: str
    work: Path
    shares_work: bool
    beat_seconds: float
    patience_seconds: float
    num_reads_at_once: int

    def __str__(self) -> str:
        return self.location

    def locate(self, name: str) -> str:
        """Return where the file `name` is, for people: a path or a URL."""
        return f"{self.location.rstrip('/')}/{name}"

    @abstractmethod
    def prepare(self) -> None:
        """Check that a rank can work in the store. Called by every process that works on the run, before it writes.

        Raises:
            EnvironmentFailure: the store cannot be written to or listed, or cannot create files exclusively.
        """

    @abstractmethod
    def check_folders(self) -> None:
        """Raise RunError if one of the run's own folders leads out of the store; the message names it."""

    @abstractmethod
    def create(self, name: str, content: bytes, is_durable: bool = True) -> bool:
        """Create the file `name`, unless it exists.

        Args:
            name: of the file.
            content: of the file. In a bucket it identifies the call that created the file: of two calls with equal
                content, both return True.
            is_durable: whether the file survives a crash of the machine once this returns.

        Returns:
            Whether this call created the file; False if another did.

        Raises:
            OSError: it is not known whether the file was created.
            EnvironmentFailure: the store cannot create files exclusively.
        """

    @abstractmethod
    def replace(self, name: str, content: bytes) -> None:
        """Write `content` to the file `name`, whether it exists or not.

        Raises:
            OSError: the file cannot be written.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of the small file `name`.

        Raises:
            OSError: it cannot be read; FileNotFoundError if it is missing.
            RunError: it has more than 16 MiB, or is not a regular file.
        """

    @abstractmethod
    def open(self, name: str) -> StoredFile:
        """Open the file `name` for reading.

        Raises:
            OSError, RunError: see `read`; the size is not limited.
        """

    def read_range(self, entry: Entry, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset` on of a file that was listed or found; fewer only at its end.

        Can be called by several threads.

        Raises:
            OSError: the file cannot be read, or was removed. In a bucket also if it was replaced since.
        """
        with self.open(entry.name) as file:
            return file.read_at(size, offset)

    @abstractmethod
    def wait_longer(self) -> None:
        """Let all operations wait for `patience_seconds` from now on. Before, a wrong address is to show soon."""

    @abstractmethod
    def find(self, name: str) -> Entry | None:
        """Return the entry of the file `name`; None if it is missing."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Return the names, without their folder, of what is directly in `folder`, sorted; empty if it is missing.

        Names that begin with a dot are left out: NFS keeps open files that are removed as `.nfs…`.
        """

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Entry]:
        """Yield the entries of the files directly in `folder`, in order of names; see `names`."""

    @abstractmethod
    def staged(self, name: str) -> AbstractContextManager[Path]:
        """Yield a path for a new file, which becomes the file `name`, durably, when the block ends without an error.

        Raises:
            OSError: the file cannot be written.
        """

    @abstractmethod
    def publish(self, staged: str, name: str) -> None:
        """Move the file `staged` to `name`, durably, and replace what is there. Does nothing if `staged` is missing,
        because another process has moved it."""

    def copy_to(self, name: str, target: "Store", new_name: str) -> None:
        """Copy the file `name`, durably, to the file `new_name` of another store, which does not exist.

        Raises:
            OSError: it cannot be read or written; FileNotFoundError if it is missing.
            RunError: it is a link or not a file. A link in someone else's run could bring in any file of this machine.
        """
        with self.open(name) as source, target.staged(new_name) as path, open(path, "xb") as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)

    @abstractmethod
    def confirm(self, name: str) -> None:
        """Make durable that the file `name` exists: the process that created it may have died before it did."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the file `name`, if it exists."""


class Folder(Store):
    """A folder of a file system that all ranks share. It needs hard links, as NFS and all of Linux's own have them.

    Args:
        path: of the folder.
    """

    shares_work = True
    beat_seconds = 2.0
    patience_seconds = 10.0
    num_reads_at_once = 1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.location = str(path)
        self.work = self.path / "work"
        self._durable_folders: set[str] = set()  # those whose names `_sync_above` has made durable

    def prepare(self) -> None:
        """Do nothing: the first write says what a folder lacks."""

    def wait_longer(self) -> None:
        """Do nothing: the operating system waits."""

    def check_folders(self) -> None:
        require_own_folders(self.path)

    def create(self, name: str, content: bytes, is_durable: bool = True) -> bool:
        path = self._path(name)
        # why a link: it fails if its name exists, on NFS too, where a rename would replace the winner's file. And the
        # content is complete before it has the name
        temporary = self._path(f"{STAGING}/{path.name}.{os.urandom(8).hex()}.partial")
        for folder in (path.parent, temporary.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if is_durable:
            self._sync_above(name)
        try:
            write_new(temporary, content, is_durable)
            is_created = link_new(temporary, path)
        except FileNotFoundError:
            if temporary.exists():
                raise
            return self.create(name, content, is_durable)  # another rank has found the run complete, and cleaned up
        finally:
            with suppress(OSError):
                remove(temporary)
        if is_created and is_durable:
            sync(path.parent)
        return is_created

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(path, content)
        except FileNotFoundError:  # another rank cleaned up before it could know that this one lives
            write_whole(path, content)

    def read(self, name: str) -> bytes:
        return read_file(self._path(name))

    def open(self, name: str) -> StoredFile:
        return _LocalFile(open_file(self._path(name)))

    def find(self, name: str) -> Entry | None:
        try:
            status = os.lstat(self._path(name))  # a link that leads nowhere is a damaged file, not a missing one
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, status.st_size, f"{status.st_ino} {status.st_mtime_ns}", status.st_mtime)

    def names(self, folder: str = "") -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self._path(folder)) if not name.startswith("."))
        return []

    def list(self, folder: str = "") -> Iterator[Entry]:
        for name in self.names(folder):
            if entry := self.find(f"{folder}/{name}" if folder else name):  # else it was removed in the meantime
                yield entry

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        path = self._path(name)
        self.path.mkdir(parents=True, exist_ok=True)
        # `/` in the key of a video makes folders that `check_folders` does not know
        make_folder(self.path, path.parent)
        self._sync_above(name)
        try:
            yield path
            for written in (path, path.parent):  # else a crash may keep a record, but not the names of its files
                sync(written)
        except BaseException:
            with suppress(OSError):
                remove(path)
            raise

    def publish(self, staged: str, name: str) -> None:
        source, path = self._path(staged), self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sync_above(name)
        with suppress(FileNotFoundError):
            os.rename(source, path)
        sync(path.parent)
        with suppress(FileNotFoundError):
            sync(source.parent)

    def copy_to(self, name: str, target: Store, new_name: str) -> None:
        source = self._path(name)
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise RunError(f"{source} is a link or not a file, and is not copied: put the file itself there")
        if isinstance(target, Folder):
            path = target._path(new_name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # another file system, or one without links
                os.link(source, path, follow_symlinks=False)  # safe, as committed files are never written to
                sync(path.parent)
                return
        super().copy_to(name, target, new_name)

    def confirm(self, name: str) -> None:
        sync(self._path(name).parent)

    def remove(self, name: str) -> None:
        remove(self._path(name))

    def _path(self, name: str) -> Path:
        return self.path / name if name else self.path

    def _sync_above(self, name: str) -> None:
        """fsync the folders above that of the file `name`: a new folder that a crash takes, takes its files with it.

        Once is enough, because every fsync makes the disk empty its cache: a run's folders are removed only when the
        run is complete, and then no file of it has to become durable any more.
        """
        folder = name.rpartition("/")[0]
        while folder and folder not in self._durable_folders:
            above = folder.rpartition("/")[0]
            sync(self._path(above))
            self._durable_folders.add(folder)
            folder = above


class _LocalFile(StoredFile):
    """A file of a file system, open for reading."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(os.fstat(file.fileno()).st_size)
        self._file = file

    def read_at(self, size: int, offset: int) -> bytes:
        size = max(0, min(size, self.size - offset))  # before memory is allocated for it
        return read_at(self._file.fileno(), size, offset)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
