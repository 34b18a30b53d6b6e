"""Paths of files of a corpus."""

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache

from datamodules.errors import CorpusError, EnvironmentFailure
from datamodules.regular import NotRegularError, require_regular

MAX_PATH_CHARS = 4096  # Linux, PATH_MAX
_FAULTS_OF_A_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)


def stat_file(entry: "os.DirEntry[str]") -> os.stat_result:
    stat = entry.stat()
    require_regular(stat, entry.path)
    return stat


def is_hidden(entry: "os.DirEntry[str]") -> bool:
    return entry.name.startswith(".")


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


def relative_to(root: str, path: str) -> str | None:
    """Return the absolute `path` of a file relative to `root`; None if it is not below it, by name or by links.

    Nor is one that is no path: too long, or with a zero byte or a lone surrogate. `look_at` says so.
    """
    if len(path) > MAX_PATH_CHARS:  # each part would be looked up
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


def has_extension(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes
