"""Runs in object storage: S3, Google Cloud Storage, Azure, and obstore's own stores of a folder or in memory.

A bucket has no links, no renames and no locks. What decides between ranks is the conditional put, which fails if the
object exists. Its answer may be lost, or wrong:

| what happens                                                         | what the client reports | the object    |
|----------------------------------------------------------------------|-------------------------|---------------|
| another rank has created the object                                  | it exists               | has others' content |
| this rank's put arrived, its reply was lost, the client put it again | it exists               | has this content    |
| two puts raced, and S3 answered 409 to one or both                   | it exists               | may be missing      |

So `Bucket.create` reads the object after every "it exists", and its content decides.
"""

import errno
import hashlib
import logging
import math
import os
import random
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.object_store import (
    SCHEMES,
    StoreUnavailableError,
    is_url,
    open_object_store,
    parse_url,
    repeated,
)
from datamodules.run.files import MAX_BYTES, remove
from datamodules.run.store import STAGING, Entry, Folder, Store
from datamodules.stored_file import StoredFile

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta
    from obstore.store import ObjectStore

_OPTION = "--output.dir"  # that names most stores
_SHORT_PATIENCE_SECONDS = 30.0  # of a process that only reads, and of the first requests: a wrong address shows soon
_PROBE, _PROBE_SECONDS = "probe", 3600.0  # objects that test the store; what is older, no living rank tests with
_CONFLICT_SECONDS = (0.05, 0.5)  # random wait before a put is repeated that raced with another
# Of an upload: 64 MiB in memory, files of up to 160 GB (S3 takes 10,000 parts), and 1.1 MB/s are enough to send these
# parts within the client's limit of 60 s for a request
_PART_BYTES, _NUM_PARTS_AT_ONCE = 16 << 20, 4
_WHOLE_BYTES = 1 << 20  # files up to this size are read by one request
_MIN_AHEAD_BYTES, _MAX_AHEAD_BYTES = 256 << 10, 8 << 20  # read ahead of sequential reads; doubles from one to the next

_log = logging.getLogger(__name__)
T = TypeVar("T")


def open_store(location: str | os.PathLike[str], scratch: str | None = None, option: str = _OPTION) -> Store:
    """Return the store at `location`.

    Args:
        location: path of a folder, or URL of a bucket or a prefix in it.
        scratch: folder on a local disk for what a run in a bucket keeps there; see `Bucket`.
        option: that the user gave the location with, for messages.

    Raises:
        ConfigError: the scheme of the URL is not supported, it does not name a bucket, or lacks a slash.
    """
    if is_url(location):
        return Bucket(str(location), scratch, option)
    scheme, separator, rest = str(location).partition(":/")
    if separator and scheme in SCHEMES:
        raise ConfigError(f"{option} {location} lacks a slash: {scheme}://{rest}. Give ./{location} for a folder")
    return Folder(location)


def as_store(location: str | os.PathLike[str] | Store) -> Store:
    """Return `location` if it is a store, else the store there; see `open_store`."""
    return location if isinstance(location, Store) else open_store(location)


class Bucket(Store):
    """A bucket, or a prefix in it.

    The client is opened at its first use, also after unpickling, with the credentials that the process finds then.

    Args:
        url: `s3://bucket/prefix`, or another that `object_store` opens.
        scratch: folder on a local disk for `work`; None: the system's temporary folder. `work` is below it, in a folder
            of this user's that is named after the URL.
        option: see `open_store`.

    Raises:
        ConfigError: see `open_store`.
    """

    shares_work = False
    beat_seconds = 20.0
    patience_seconds = 900.0  # ten minutes without network, with the requests before and after them
    num_reads_at_once = 16  # each takes some 20 ms until its first byte

    def __init__(self, url: str, scratch: str | None = None, option: str = _OPTION) -> None:
        parse_url(url, option)
        self._option = option
        self.location = url.rstrip("/")
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.location)[:80]
        digest = hashlib.sha256(self.location.encode()).hexdigest()[:12]
        self._own_scratch = Path(scratch or tempfile.gettempdir()) / f"framemill-{os.geteuid()}"
        self.work = self._own_scratch / f"{name}-{digest}"
        self._patience_seconds = _SHORT_PATIENCE_SECONDS
        self._silent_since: float | None = None  # when the store stopped answering; -inf: for longer than patience
        self._clients: dict[str, ObjectStore] = {}  # by URL: of the run, and of its whole bucket
        self._opening = threading.Lock()  # looking up credentials takes time, and boto3 allows only one thread

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_clients": {}, "_silent_since": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _opening=threading.Lock())

    def check_folders(self) -> None:
        """Do nothing: an object is no link."""

    def prepare(self) -> None:
        if self._patience_seconds == self.patience_seconds:  # done before
            return
        if self.location.startswith("file:"):
            with self._explaining("create"):
                os.makedirs(parse_url(self.location).prefix, exist_ok=True)
        try:
            self._make_work()
        except OSError as error:
            raise EnvironmentFailure(f"cannot create the scratch folder {self.work}: {error.strerror}") from error
        probe = f"{STAGING}/{_PROBE}.{os.urandom(8).hex()}"
        with self._explaining("create"):
            self.create(probe, b"first")
        with self._explaining("read"):
            is_exclusive = not self.create(probe, b"second") and self.read(probe) == b"first"
        if not is_exclusive:
            self.remove(probe)
            raise EnvironmentFailure(
                f"{self} has created one object twice: it ignores the condition If-None-Match, so that ranks would "
                "replace each other's files. Use a store with conditional writes"
            )
        with self._explaining("overwrite"):
            self.replace(probe, b"third")
        with self._explaining("list"):
            probes = {found.name: found.modified for found in self.list(STAGING) if f"/{_PROBE}." in found.name}
        with self._explaining("delete"):
            for other, modified in probes.items():  # ranks that were killed here have left theirs
                if other == probe or probes.get(probe, 0.0) - modified > _PROBE_SECONDS:
                    self.remove(other)
        self.wait_longer()

    def wait_longer(self) -> None:
        self._patience_seconds = self.patience_seconds

    def create(self, name: str, content: bytes, is_durable: bool = True) -> bool:
        deadline: float | None = None  # a slow request before the first conflict must not use up the time
        while True:
            try:
                self._request(name, lambda client: client.put(name, content, mode="create"))
                return True
            except FileExistsError:
                with suppress(FileNotFoundError):
                    return self._has_content(name, content)
            deadline = deadline or time.monotonic() + self._patience_seconds
            if time.monotonic() > deadline:
                raise OSError(
                    errno.EAGAIN, "the store says that the object exists, but does not have it", self.locate(name)
                )
            time.sleep(random.uniform(*_CONFLICT_SECONDS))

    def replace(self, name: str, content: bytes) -> None:
        self._request(name, lambda client: client.put(name, content, use_multipart=False))

    def read(self, name: str) -> bytes:
        def get(client: "ObjectStore") -> bytes:
            result = client.get(name)
            if result.meta["size"] > MAX_BYTES:
                raise RunError(
                    f"{self.locate(name)} has {result.meta['size']:,} bytes; the limit for such a file is "
                    f"{MAX_BYTES:,}: remove it"
                )
            return bytes(result.bytes())

        return self._request(name, get)

    def open(self, name: str) -> StoredFile:
        return _StoredObject(self, name, self._head(name))

    def read_range(self, entry: Entry, size: int, offset: int) -> bytes:
        etag = entry.version.rpartition(" ")[0] or None
        return self.fetch(entry.name, offset, min(offset + size, entry.size), etag) if offset < entry.size else b""

    def find(self, name: str) -> Entry | None:
        try:
            return _entry(name, self._head(name))
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        listing = self._list(folder)
        paths = [*listing["common_prefixes"], *(found["path"] for found in listing["objects"])]
        return sorted({name for path in paths if (name := _name_in(folder, path))})

    def list(self, folder: str = "") -> Iterator[Entry]:
        for found in sorted(self._list(folder)["objects"], key=lambda found: found["path"]):
            if _name_in(folder, found["path"]):
                yield _entry(found["path"], found)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        self._make_work()
        path = self.work / "staging" / f"{name.rpartition('/')[2]}.{os.urandom(8).hex()}.partial"
        try:
            yield path
            self._request(
                name,
                lambda client: client.put(name, path, chunk_size=_PART_BYTES, max_concurrency=_NUM_PARTS_AT_ONCE),
            )
        finally:
            with suppress(OSError):
                remove(path)

    def publish(self, staged: str, name: str) -> None:
        try:
            self._copy(staged, self, name, lambda client: client.copy(staged, name))
        except FileNotFoundError:  # moved by another process
            return
        self.remove(staged)

    def copy_to(self, name: str, target: Store, new_name: str) -> None:
        source = parse_url(self.location)
        other = parse_url(target.location) if isinstance(target, Bucket) else None
        is_same = other is not None and (other.scheme, other.bucket) == (source.scheme, source.bucket)
        if other is None or not is_same or source.scheme == "memory":  # each of whose URLs is a store by itself
            super().copy_to(name, target, new_name)
            return
        client = self._client(f"{source.scheme}://{source.bucket}/")
        path, new_path = f"{source.prefix}/{name}".lstrip("/"), f"{other.prefix}/{new_name}".lstrip("/")
        self._copy(name, target, new_name, lambda _: client.copy(path, new_path))

    def confirm(self, name: str) -> None:
        """Do nothing: an object is durable before the store answers."""

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._request(name, lambda client: client.delete(name))

    def fetch(self, name: str, start: int, end: int, etag: str | None) -> bytes:
        """Return the bytes from `start` to `end` (exclusive) of an object that has the ETag `etag`.

        Raises:
            OSError: see `StoredFile.read_at`; StaleVersionError if the object was replaced.
        """
        return self._request(
            name, lambda client: bytes(client.get(name, options={"range": (start, end), "if_match": etag}).bytes())
        )

    def _copy(self, name: str, target: Store, new_name: str, request: Callable[["ObjectStore"], object]) -> None:
        """Copy an object by `request`, or through scratch where the server refuses to copy it.

        S3 copies no object of more than 5 GB, and none into a bucket whose policy asks for conditional puts.
        """
        try:
            self._request(name, request)
        except StoreUnavailableError:
            raise
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            super().copy_to(name, target, new_name)

    def _has_content(self, name: str, content: bytes) -> bool:
        """Return whether the object `name`, of any size, has this content.

        Raises:
            OSError: see `read`.
        """

        def compare(client: "ObjectStore") -> bool:
            result = client.get(name)
            return result.meta["size"] == len(content) and bytes(result.bytes()) == content

        return self._request(name, compare)

    def _head(self, name: str) -> "ObjectMeta":
        try:
            return self._request(name, lambda client: client.head(name))
        except (FileNotFoundError, StoreUnavailableError):
            raise
        except OSError:
            # the answer to a HEAD has no body, hence no reason: that to a GET says, for example, "expired"
            self._request(name, lambda client: client.get(name))
            raise

    def _list(self, folder: str) -> "ListResult[Any]":
        return self._request(folder, lambda client: client.list_with_delimiter(folder or None))

    def _request(self, name: str, request: Callable[["ObjectStore"], T]) -> T:
        """Return what `request` returns; see `repeated`.

        All requests share one time of patience. So several of them in a row do not wait for it one after the other.
        """
        client, since = self._client(self.location), self._silent_since
        patience = self._patience_seconds - (0 if since is None else time.monotonic() - since)
        try:
            result = repeated(lambda: request(client), self.locate(name), patience, self._note_silence)
        except StoreUnavailableError as error:
            self._silent_since = -math.inf if error.errno == errno.EHOSTUNREACH else None
            raise
        except OSError:
            self._silent_since = None  # it answers
            raise
        self._silent_since = None
        return result

    def _client(self, url: str) -> "ObjectStore":
        with self._opening:
            if url not in self._clients:
                self._clients[url] = open_object_store(url, self._option)
            return self._clients[url]

    def _note_silence(self) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            _log.warning("%s does not answer. Trying again for %.0f s", self, self._patience_seconds)

    def _make_work(self) -> None:
        """Create `work`, and refuse one that another user could have prepared."""
        self._own_scratch.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = os.lstat(self._own_scratch)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise EnvironmentFailure(
                f"{self._own_scratch} is not a folder that only this user can enter. Remove it, or give another "
                "--output.scratch"
            )
        (self.work / "staging").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _explaining(self, operation: str) -> Iterator[None]:
        """Turn errors of the block, which does `operation`, into an EnvironmentFailure."""
        try:
            yield
        except PermissionError as error:
            raise EnvironmentFailure(
                f"no permission to {operation} objects in {self} ({error.strerror}). Allow to read, create, overwrite, "
                "list and delete objects there"
            ) from error
        except OSError as error:
            raise EnvironmentFailure(f"cannot {operation} objects in {self}: {error.strerror}") from error


class _StoredObject(StoredFile):
    """An object, open for reading. Reads fail if it was replaced since.

    Small objects are read whole at the first read; sequential reads of others are served from a buffer.

    Args:
        bucket: it belongs to.
        name: of the object.
        head: what the store says of it.
    """

    block_bytes = _MIN_AHEAD_BYTES

    def __init__(self, bucket: Bucket, name: str, head: "ObjectMeta") -> None:
        super().__init__(head["size"])
        self._bucket, self._name, self._etag = bucket, name, head["e_tag"]
        self._buffer = (0, b"")  # offset and content; replaced as a whole, for threads
        self._ahead = _MIN_AHEAD_BYTES

    def read_at(self, size: int, offset: int) -> bytes:
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        if self.size <= _WHOLE_BYTES and not self._buffer[1]:
            self._buffer = 0, self._bucket.fetch(self._name, 0, self.size, self._etag)
        start, content = self._buffer
        if start <= offset and end <= start + len(content):
            return content[offset - start : end - start]
        return self._bucket.fetch(self._name, offset, end, self._etag)

    def readinto(self, buffer: Any) -> int:
        start, content = self._buffer
        position, end = self._position, min(self._position + len(buffer), self.size)
        if self.size > _WHOLE_BYTES and not start <= position <= end <= start + len(content):
            is_sequential = start <= position <= start + len(content)
            self._ahead = min(2 * self._ahead, _MAX_AHEAD_BYTES) if is_sequential else _MIN_AHEAD_BYTES
            self._buffer = position, self.read_at(max(end - position, self._ahead), position)
        return super().readinto(buffer)


def _entry(name: str, found: "ObjectMeta") -> Entry:
    modified = found["last_modified"].timestamp()
    # whole seconds: some servers give fractions in listings only
    return Entry(name, found["size"], f"{found['e_tag'] or ''} {int(modified)}", modified)


def _name_in(folder: str, path: str) -> str:
    """Return the name of `path` in `folder`; "" for the placeholder of the folder itself and for hidden names."""
    name = path.rpartition("/")[2]
    return "" if path == folder or name.startswith(".") else name
