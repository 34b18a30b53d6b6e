"""A cache of whole tars on a local disk, shared by the processes of a machine and by all that train there later.

| in the folder          | content                                                                                    |
|------------------------|--------------------------------------------------------------------------------------------|
| `{digest}.tar`         | a tar, whole and verified; its modification time is that of its last use                   |
| `{digest}.tar.partial` | a tar that a process fetches, which holds a lock of the file; it has its final size at once |
| `lock`                 | locked while a process makes room                                                          |

The digest is that of the tar's URL and version, so the name of a tar identifies its content. The system releases the
locks of a process that is killed; its partial files are fetched anew or removed by the next process.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.files import read_at
from datamodules.run.record import ShardFile, read_record
from datamodules.run.store import Entry

_FETCH_BYTES = 4 << 20  # of one request; a process may fetch several tars at once
_PARTIAL = ".partial"


class TarCache:
    """Keeps tars on a local disk. Can be pickled, and used by several threads and processes.

    Args:
        folder: is created if it is missing.
        max_bytes: of all tars in the folder. The least recently used ones are removed before more are fetched.

    Attributes:
        max_bytes: as given.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self._folder, self.max_bytes = Path(folder), max_bytes

    def read(self, tar: ShardFile, entry: Entry, size: int, offset: int) -> bytes | None:
        """Return `size` bytes from `offset` on of a tar, which is fetched if it is not in the folder.

        Args:
            tar: of a committed shard.
            entry: of the tar in its store.
            size, offset: in bytes.

        Returns:
            The bytes, fewer only at the end of the tar; None if the tar does not fit in beside those that others fetch.

        Raises:
            RunError: the tar is not that of its record.
            OSError: the tar cannot be fetched; see `Store.read_range`.
            EnvironmentFailure: the folder cannot be used.
        """
        if entry.size > self.max_bytes:
            return None
        digest = hashlib.sha256(f"{tar.store.locate(entry.name)} {entry.version}".encode()).hexdigest()[:32]
        path = self._folder / f"{digest}.tar"
        content = self._read(path, size, offset)
        if content is None and self._fetch(tar, entry, path):
            content = self._read(path, size, offset)  # None: another process has removed it already
        return content

    def _read(self, path: Path, size: int, offset: int) -> bytes | None:
        """Return bytes of a tar in the folder, and note its use; None if it is not there."""
        with self._explained():
            try:
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                os.utime(file, ns=(time.time_ns(),) * 2)  # the kernel's own "now" is up to 4 ms old
                return read_at(file, size, offset)
            finally:
                os.close(file)

    def _fetch(self, tar: ShardFile, entry: Entry, path: Path) -> bool:
        """Fetch a tar, or wait until another process has done so; return whether it is in the folder."""
        partial = path.with_name(path.name + _PARTIAL)
        with self._locked(partial) as file:
            try:
                if path.exists() or not self._reserve(entry.size, file, partial):
                    partial.unlink()
                    return path.exists()
                self._download(tar, entry, file)
                with self._explained():
                    os.fsync(file)  # else a crash of the machine may keep the name, but not the content
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            with self._explained():
                os.rename(partial, path)
        return True

    def _reserve(self, size: int, file: int, partial: Path) -> bool:
        """Give the open file `partial` this size, and remove tars until that fits; return whether it fits."""
        with self._locked(self._folder / "lock"), self._explained():
            present: list[tuple[int, int, Path]] = []
            for other in self._folder.iterdir():
                if other.suffix == _PARTIAL and other != partial:
                    _remove_abandoned(other)
                if other.suffix in (".tar", _PARTIAL) and other != partial:
                    with suppress(FileNotFoundError):  # removed, or renamed meanwhile
                        status = other.stat()
                        present.append((status.st_mtime_ns, status.st_size, other))
            free = self.max_bytes - sum(num_bytes for _, num_bytes, _ in present)
            tars = sorted(entry for entry in present if entry[2].suffix == ".tar")
            if free + sum(num_bytes for _, num_bytes, _ in tars) < size:
                return False
            for _, num_bytes, other in tars:
                if free >= size:
                    break
                other.unlink(missing_ok=True)
                free += num_bytes
            os.ftruncate(file, size)
            return True

    def _download(self, tar: ShardFile, entry: Entry, file: int) -> None:
        """Write the content of a tar to an open file, and compare it with the record."""
        digest = hashlib.sha256()
        for offset in range(0, entry.size, _FETCH_BYTES):
            content = tar.store.read_range(entry, _FETCH_BYTES, offset)
            digest.update(content)
            with self._explained():
                if os.pwrite(file, content, offset) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if digest.hexdigest() != read_record(tar.store, tar.shard).tar.sha256:
            raise RunError(f"{tar.location} is damaged: its sha256 is not that of its record; run `preprocess verify`")

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        """Create the file `path` unless it exists, and yield its descriptor while this thread alone has its lock."""
        while True:
            with self._explained():
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with self._explained():
                    fcntl.flock(file, fcntl.LOCK_EX)
                if _is_same(file, path):  # else it was renamed or removed while this thread waited
                    yield file
                    return
            finally:
                os.close(file)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the local disk into an EnvironmentFailure."""
        try:
            yield
        except OSError as error:
            remedy = "Free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Fix that"
            raise EnvironmentFailure(
                f"the cache folder {self._folder} cannot be used: {error.strerror}. {remedy}, or give another cache_dir"
            ) from error


def _is_same(file: int, path: Path) -> bool:
    """Return whether the open file is the one that has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_abandoned(partial: Path) -> None:
    """Remove a partial file unless a process holds its lock: the one that fetched it is dead."""
    try:
        file = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(file, partial):
            partial.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(file)
