"""The tars of a run whose store is far away, read by ranges of bytes, and as they were when the run was opened."""

from collections.abc import Sequence

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.object_store import StaleVersionError
from datamodules.run.reader import damaged
from datamodules.run.record import ShardFile
from datamodules.run.store import Entry, Store
from datamodules.run.tar_cache import TarCache


class RemoteTars:
    """Reads ranges of the tars of one run. Can be pickled, and used by several threads.

    The listing of the store gives the version of every tar, so a read is one request, and a tar that was replaced later
    is noticed.

    Args:
        store: of the run.
        tars: of the run.
        cache: keeps whole tars on a local disk; None: every read asks the store.
    """

    def __init__(self, store: Store, tars: Sequence[ShardFile], cache: TarCache | None = None) -> None:
        self._store, self._tars, self._cache = store, tars, cache
        listed = {entry.name: entry for entry in store.list()}
        self._entries = {number: listed[tar.name] for number, tar in enumerate(tars) if tar.name in listed}

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all tars, without those that were being moved when they were listed."""
        return sum(entry.size for entry in self._entries.values())

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset` on of the tar with index `number`.

        Raises:
            RunError: the tar is missing, damaged, or another one than when the run was opened.
            EnvironmentFailure: the store does not answer or refuses the request, or the disk of the cache failed.
        """
        location = self._tars[number].location
        try:
            content = self._read(number, size, offset)
        except StaleVersionError as error:
            raise RunError(
                f"{location} was replaced after this run was opened (its ETag has changed). Start the training anew"
            ) from error
        except FileNotFoundError as error:
            raise damaged(location, offset, f"{error.strerror}") from error
        except OSError as error:
            raise EnvironmentFailure(
                f"{location} cannot be read: {error.strerror}. Fix that, and resume from the last checkpoint"
            ) from error
        if len(content) < size:
            raise damaged(location, offset, f"it ends {size - len(content)} bytes too early")
        return content

    def _read(self, number: int, size: int, offset: int) -> bytes:
        entry = self._entries.get(number) or self._find(number)
        try:
            return self._read_entry(number, entry, size, offset)
        except FileNotFoundError:
            # published after it was staged, or moved to `superseded/` by a retry. A copy may have another ETag
            moved = self._find(number)
            if moved.size != entry.size or moved.name == entry.name:
                raise
            return self._read_entry(number, moved, size, offset)

    def _find(self, number: int) -> Entry:
        entry = self._entries[number] = self._tars[number].find()
        return entry

    def _read_entry(self, number: int, entry: Entry, size: int, offset: int) -> bytes:
        if self._cache is not None:
            content = self._cache.read(self._tars[number], entry, size, offset)
            if content is not None:
                return content
        return self._store.read_range(entry, size, offset)
