"""A new folder beside a destination: what a command makes in it becomes the destination whole, or not at all."""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.errors import ConfigError

_RANDOM_BYTES = 8


@contextmanager
def scratch_beside(dest: Path) -> Iterator[Path]:
    """Make a hidden folder beside `dest`, whose parents are made too; the block fills it and renames it to `dest`.

    If the block does not rename it, it is removed at the end. What killed commands have left is removed before: folders
    of such a name that belong to this user and that no process has locked, but no links.

    Raises:
        ConfigError: another process is making `dest`.
        OSError: the folder cannot be made.
    """
    _remove_left(dest)
    scratch = dest.with_name(f".{dest.name}.{os.urandom(_RANDOM_BYTES).hex()}.partial")
    scratch.mkdir(parents=True)
    descriptor = _open(scratch)
    try:
        with suppress(OSError):  # NFS locks no folders; then no process removes what others have left there
            _lock(descriptor)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _remove_left(dest: Path) -> None:
    random = "[0-9a-f]" * (2 * _RANDOM_BYTES)
    for left in dest.parent.glob(f".{glob.escape(dest.name)}.{random}.partial"):
        with suppress(OSError):  # a link, a file, or gone meanwhile
            descriptor = _open(left)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    _lock(descriptor)
                    shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError as error:
                raise ConfigError(f"another process is writing {dest}: wait for it, or name another folder") from error
            finally:
                os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
