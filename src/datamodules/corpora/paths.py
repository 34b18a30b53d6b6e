"""Looking up files of a corpus, and why one of them cannot be used."""

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache

from datamodules.errors import CorpusError, EnvironmentFailure
from datamodules.object_store import StoreUnavailableError, is_url
from datamodules.regular import NotRegularError, require_regular

MAX_PATH_CHARS = 4096  # Linux, PATH_MAX
# Errors that concern one file. Others (EIO, ESTALE, ENOTCONN, …) are the file system's and fail no item.
_ERRORS_OF_A_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)


def stat_path(root: str, path: str) -> tuple[int, float | None]:
    """Return the size in bytes and the modification time, in seconds since the epoch, of a file that a list names.

    Args:
        root: the folder that `path` is relative to, unless it is absolute.
        path: of the file.

    Returns:
        (0, None) if the file is missing: its item is listed all the same, and fails when it is read.

    Raises:
        CorpusError: `path` cannot be a path, or its folder cannot be searched.
        EnvironmentFailure: the file system gives errors.
    """
    try:
        stat = os.stat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    except OSError as error:
        raise CorpusError(describe_error(path, error)) from error
    except ValueError as error:  # a zero byte, a lone surrogate
        raise CorpusError(f"{path!r} cannot be used as a path: {error}") from error
    return stat.st_size, stat.st_mtime


def stat_entry(entry: "os.DirEntry[str]") -> os.stat_result:
    """Return the status of an entry of a folder; a link is followed.

    Raises:
        NotRegularError, IsADirectoryError: it is not a regular file.
        OSError: it cannot be looked up.
    """
    stat = entry.stat()
    require_regular(stat, entry.path)
    return stat


def describe_error(path: str, error: OSError) -> str:
    """Return why the file, folder or object `path` cannot be used.

    Raises:
        EnvironmentFailure: the file system gives errors, or the store does not answer or refuses the credentials.
    """
    require_available(path, error)
    if isinstance(error, NotRegularError):
        return f"{path} cannot be used: {error.strerror}"
    if is_url(path):
        return f"{path} cannot be read: {error.strerror}"
    if error.errno not in _ERRORS_OF_A_FILE:
        raise EnvironmentFailure(f"{path} cannot be listed: {error.strerror}. Is its file system mounted?") from error
    if os.path.islink(path):
        return f"{path} is a link to {os.readlink(path)}, which cannot be read: {error.strerror}"
    return f"{path} cannot be read: {error.strerror}"


def require_available(path: str, error: OSError) -> None:
    """Raise EnvironmentFailure if `error`, of `path`, says that a store does not answer or refuses the credentials."""
    if isinstance(error, StoreUnavailableError) and error.errno != errno.ENOENT:  # ENOENT: a misspelled bucket
        raise EnvironmentFailure(f"{path} cannot be read: {error.strerror}") from error


def relative_to(root: str, path: str) -> str | None:
    """Return the absolute `path` of a file relative to `root`.

    Returns:
        None if the file is not below `root`, neither by name nor by links; or if `path` cannot be a path (too long,
        with a zero byte or a lone surrogate), which `stat_path` reports.
    """
    if len(path) > MAX_PATH_CHARS:  # each part would be looked up
        return None
    folder, name = os.path.split(os.path.normpath(path))
    with suppress(ValueError):
        for resolve in (os.path.abspath, _real_path):
            relative = os.path.relpath(os.path.join(resolve(folder), name), resolve(root))
            if relative.split(os.sep)[0] != os.pardir:
                return relative
    return None


@lru_cache(maxsize=1024)
def _real_path(folder: str) -> str:
    """Return `os.path.realpath`, which asks the file system for each part of a path, once per folder of a list."""
    return os.path.realpath(folder)


def is_hidden(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry's name begins with a dot, as the `._a.png` that macOS leaves beside `a.png` does."""
    return entry.name.startswith(".")


def has_extension(name: str, suffixes: Collection[str]) -> bool:
    """Whether the name ends with one of `suffixes`, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in suffixes
