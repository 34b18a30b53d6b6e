"""The folders and files of a run folder, which somebody else may have prepared.

A run writes, renames and deletes in folders of its own. If one of these were a link, it would do so wherever the link
leads; so `require_own_folders` refuses links before a run is opened or planned. Files are read through `open_file` and
`read_file`, which refuse what is not a regular file, and removed by `remove`, which removes a link and not its target.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from datamodules.errors import RunError
from datamodules.regular import NotRegularError, open_regular

_BLOCK_BYTES = 1 << 20

SUPERSEDED = "superseded"  # the folder of tars whose place others have taken
STRAY = "stray"  # the folder of what `verify --repair` moved away
VIDEOS = "videos"  # the folder of videos that are drawn while a run goes on
_OWN = (
    "records",
    "tables",
    SUPERSEDED,
    VIDEOS,
    *(f"{STRAY}{below}" for below in ("", "/records", "/tables", f"/{SUPERSEDED}")),
    *(f"work{below}" for below in ("", "/leases", "/ranks", "/scratch", "/spool", "/staging")),
)
_MAX_BYTES = 16 << 20  # of a file that is read whole: records, rank files and cards have some KB


def require_own_folders(folder: Path) -> None:
    """Return if each of a run's own folders is missing, or a folder and no link.

    Args:
        folder: of the run; it may be a link itself, as the user named it.

    Raises:
        RunError: one of them is a link or a file; the message names it.
    """
    for name in _OWN:
        _require_folder(folder / name)


def make_folder(root: Path, path: Path) -> None:
    """Make the folder `root`, whose parent exists, and those from there down to the folder `path`, where missing.

    Raises:
        RunError: one of them is a link or a file.
    """
    for folder in (*(root / name for name in reversed(path.relative_to(root).parents)), path):
        _require_folder(folder)
        folder.mkdir(exist_ok=True)


def open_file(path: Path) -> BinaryIO:
    """Open the file `path` of a run folder for reading. It may be a link to a file.

    Raises:
        RunError: it is a folder, a FIFO, a device or a socket.
        OSError: as of `open`.
    """
    try:
        return open_regular(path)
    except (IsADirectoryError, NotRegularError) as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; no run makes such a thing: remove it") from error


def read_file(path: Path) -> bytes:
    """Return the content of the small file `path` of a run folder.

    Raises:
        RunError: it has more than 16 MiB, or see `open_file`.
        OSError: as of `open`.
    """
    with open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > _MAX_BYTES:
            raise RunError(f"{path} has {num_bytes:,} bytes; the limit for such a file is {_MAX_BYTES:,}: remove it")
        return file.read()


def write_whole(path: Path, text: str) -> None:
    """Write `text` to the file `path`, which appears whole or not at all and replaces what has that name.

    Raises:
        OSError: it cannot be written; nothing is changed.
    """
    partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with open(partial, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Remove the file or link `path`. A folder stays: no run makes folders of the names that it removes."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _require_folder(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        what = f"a link to {os.readlink(path)}"
    elif not stat.S_ISDIR(mode):
        what = "not a folder"
    else:
        return
    raise RunError(f"{path} is {what}. A run writes and deletes files in it, so it must be a real folder: remove it")


def sync(path: Path) -> None:
    """fsync a file or a folder, so that it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: BinaryIO) -> str:
    """The sha256 of what is left to read of an open file, in hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
