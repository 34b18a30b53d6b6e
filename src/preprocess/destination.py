"""Where a command writes what it makes: a new folder, or a new prefix in a bucket.

A folder is renamed at the end, so that it appears whole or not at all. A bucket has no renames. So the first object
below the prefix is `unfinished`, which is created exclusively and removed at the end: while it exists, something is
missing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from datamodules.errors import ConfigError, EnvironmentFailure
from datamodules.run.bucket import open_store
from datamodules.run.leases import RANKS
from datamodules.run.store import Folder, Store
from preprocess.export.destination import whole_folder

UNFINISHED = "unfinished"
_OPTION = "--dest"
_NUM_AT_ONCE = 16  # requests to a bucket, which answers each of them in some 10 ms
_NUM_WAITING = 1000  # calls that are prepared ahead

T = TypeVar("T")


class Destination(NamedTuple):
    """Where a command writes to.

    Attributes:
        folder: to write to.
        url: where the files of the folder are in the end; empty: where they are.
    """

    folder: Path
    url: str = ""

    def locate(self, path: Path) -> str:
        """Return where a file or folder in `folder` is in the end: a path or a URL."""
        return f"{self.url}/{path.relative_to(self.folder).as_posix()}".removesuffix("/.") if self.url else str(path)


@contextmanager
def destination(location: str) -> Iterator[Destination]:
    """Yield the folder `location`; for a URL a local one, whose files are uploaded if the block ends without an error.

    The local folder is in the system's temporary folder, and has to have space for all files.

    Args:
        location: what the user gave as `--dest`.

    Raises:
        ConfigError: there are objects below the URL, it is not that of a bucket, or another process is writing there.
        EnvironmentFailure: the files cannot be uploaded. Those that were are removed again, if the store answers.
    """
    local = open_store(location, option=_OPTION)
    if isinstance(local, Folder):
        yield Destination(local.path)
        return
    with TemporaryDirectory(prefix="framemill-") as scratch:
        store = open_store(location, scratch, _OPTION)
        with claimed(store):
            folder = Path(scratch) / "files"
            yield Destination(folder, store.location)
            _upload(folder, store)


@contextmanager
def new_store(location: str | os.PathLike[str]) -> Iterator[Store]:
    """Yield a store for a new run, which is at `location` if the block ends without an error.

    Args:
        location: what the user gave as `--dest`: a folder or URL.

    Raises:
        ConfigError, EnvironmentFailure: `location` is not empty, or another process is writing there; see `claimed`.
    """
    local = open_store(location, option=_OPTION)
    if isinstance(local, Folder):
        with whole_folder(local.path.resolve()) as folder:
            yield Folder(folder)
        return
    with TemporaryDirectory(prefix="framemill-") as scratch:
        store = open_store(location, scratch, _OPTION)
        with claimed(store):
            yield store


@contextmanager
def claimed(store: Store) -> Iterator[None]:
    """Mark a prefix without objects as unfinished while the block fills it.

    If the block raises, the mark is removed only if nothing else is there.

    Raises:
        ConfigError: there are objects, or another process is writing there.
        EnvironmentFailure: the store cannot be used; also for an OSError of the block.
    """
    store.prepare()
    try:
        if _names(store):
            raise ConfigError(f"{_OPTION} {store} is not empty. Remove what is there, or give another URL")
        if not store.create(UNFINISHED, os.urandom(8).hex().encode()):
            raise ConfigError(f"{_OPTION} {store}: another process is writing there. Wait for it, or give another URL")
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if _names(store) == {UNFINISHED}:
                    store.remove(UNFINISHED)
            raise
        store.remove(UNFINISHED)
    except OSError as error:  # also of a source or of the local disk
        where = f"{error.filename}: " if error.filename else ""
        raise EnvironmentFailure(
            f"{_OPTION} {store} was not finished. {where}{error.strerror or error}. Remove what is left there, and try "
            "again"
        ) from error


def _names(store: Store) -> set[str]:
    """Return what is directly in a store, but for the folders that `prepare` leaves in `file://`."""
    return set(store.names()) - (set() if store.names(RANKS) else {"work"})


def each(function: Callable[[T], None], arguments: Iterable[T]) -> None:
    """Call `function` with each of `arguments`, several at a time in threads. The first error ends the calls."""
    arguments = iter(arguments)
    with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        while chunk := list(islice(arguments, _NUM_WAITING)):
            try:
                for _ in pool.map(function, chunk):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _upload(folder: Path, store: Store) -> None:
    """Move all files below `folder` to `store`. If that fails, remove those that were moved, if the store answers."""
    names: list[str] = []

    def move(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        names.append(name)
        with store.staged(name) as staged:
            os.rename(path, staged)

    try:
        each(move, (path for path in folder.rglob("*") if path.is_file()))
    except BaseException:
        with suppress(OSError):
            each(store.remove, names)
        raise
