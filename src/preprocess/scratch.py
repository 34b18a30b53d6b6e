"""A hidden folder beside a destination, in which a command makes what then appears whole, or not at all."""

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
    """Yield a new hidden folder beside `dest`, which the block fills and renames to `dest`.

    Missing parents of `dest` are made. If the block does not rename the folder, it is removed at the end. Leftovers of
    commands that were killed are removed first: folders of such a name that belong to this user and are not locked by a
    process. Links are left alone.

    Raises:
        ConfigError: another process is writing `dest`.
        OSError: the folder cannot be made.
    """
    _remove_leftovers(dest)
    scratch = dest.with_name(f".{dest.name}.{os.urandom(_RANDOM_BYTES).hex()}.partial")
    scratch.mkdir(parents=True)
    descriptor = _open(scratch)
    try:
        with suppress(OSError):  # NFS cannot lock folders; then leftovers are never removed there
            _lock(descriptor)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _remove_leftovers(dest: Path) -> None:
    random = "[0-9a-f]" * (2 * _RANDOM_BYTES)
    for leftover in dest.parent.glob(f".{glob.escape(dest.name)}.{random}.partial"):
        with suppress(OSError):  # it is a link or a file, or was removed meanwhile
            descriptor = _open(leftover)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    _lock(descriptor)
                    shutil.rmtree(leftover, ignore_errors=True)
            except BlockingIOError as error:
                raise ConfigError(f"another process is writing {dest}. Wait for it, or name another folder") from error
            finally:
                os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
