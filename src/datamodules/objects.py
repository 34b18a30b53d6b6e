"""Objects by their URLs: what is known of them, their bytes, and which lie below a URL.

Every function repeats its requests while the store does not answer (`object_store.repeated`), and raises the OSErrors
that are described there. Stores are opened once per bucket and process.
"""

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from datamodules.object_store import (
    PATIENCE_SECONDS,
    StaleVersionError,
    StoreUnavailableError,
    is_url,
    open_object_store,
    parse_url,
    repeated,
)
from datamodules.regular import open_regular
from datamodules.stored_file import StoredFile

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RANGE_BYTES = 16 << 20  # of one request for a part of a large object
_READ_AHEAD_BYTES = 256 << 10  # an S3 server sends so much within the time that it needs to answer at all


class FileFacts(NamedTuple):
    """What a listing says about a file or object.

    Attributes:
        num_bytes: its size.
        modified: its modification time in seconds since the epoch; None: it is missing.
        version: its ETag, as the store writes it; None: it is a file, or its store has none.
    """

    num_bytes: int = 0
    modified: float | None = None
    version: str | None = None


class Listing(NamedTuple):
    """What lies directly in a folder of a bucket, as names, by name."""

    folders: list[str]
    files: list[str]


def is_remote(root: str, path: str) -> bool:
    """Return whether `path`, which may be relative to `root`, is that of an object."""
    return is_url(path) or (is_url(root) and not path.startswith("/"))


def absolute_root(root: str) -> str:
    """Return the root of a corpus as plans keep it: an absolute path without links, or a URL."""
    return root.rstrip("/") if is_url(root) else os.path.realpath(root)


def join(root: str, path: str) -> str:
    """Return the path or URL of `path`, which is below `root` unless it is absolute or a URL itself."""
    if is_url(path) or path.startswith("/"):
        return path
    if is_url(root):
        return "/".join(part for part in (root.rstrip("/"), path) if part not in ("", "."))
    return os.path.join(root, path)


def version_of(facts: Collection[FileFacts]) -> str | None:
    """Return the version of one object, or a hash of those of several; None if one of them has none."""
    versions = [fact.version for fact in facts]
    if None in versions or len(versions) < 2:
        return versions[0] if versions else None
    return hashlib.blake2b("\n".join(map(str, versions)).encode(), digest_size=16).hexdigest()


def stat_object(url: str) -> FileFacts:
    """Return size, time and ETag of an object.

    Raises:
        ConfigError, OSError: see `object_store`; FileNotFoundError if it is missing.
    """
    from obstore import head

    store, key = _locate(url)
    try:
        return _facts(repeated(lambda: head(store, key), url))
    except (FileNotFoundError, StoreUnavailableError):
        raise
    except OSError:  # an answer to HEAD has no content, so only one to GET says whether the credentials are at fault
        return read_object(url, num_bytes=1)[1]


def read_object(
    url: str,
    version: str | None = None,
    start_byte: int = 0,
    num_bytes: int | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[bytes, FileFacts]:
    """Return the content of an object, or a part of it, and what the store says of the object it is from.

    Args:
        url: of the object.
        version: the ETag that it must have; None: any.
        start_byte: of the part.
        num_bytes: of the part, which is shorter if the object ends in it; None: to the end.
        on_wait: see `repeated`.

    Raises:
        ConfigError, OSError: see `object_store`; FileNotFoundError if it is missing, StaleVersionError if it has
            another version.
    """
    from obstore import get

    store, key = _locate(url)
    options: dict[str, Any] = {"if_match": version} if version is not None else {}
    if num_bytes is not None:
        options["range"] = (start_byte, start_byte + num_bytes)

    def request() -> tuple[bytes, FileFacts]:
        result = get(store, key, options=options)  # type: ignore[arg-type]  # a TypedDict of these keys
        return bytes(result.bytes()), _facts(result.meta)

    return repeated(request, url, on_wait=on_wait)


def download(
    url: str, version: str | None, write: Callable[[bytes], object], on_wait: Callable[[], None] = lambda: None
) -> FileFacts:
    """Fetch an object by requests of 16 MiB that all see the same version of it.

    Args:
        url, version, on_wait: see `read_object`. `on_wait` is also called after each request.
        write: gets the content, piece by piece.

    Returns:
        What the store says of the object.

    Raises:
        ConfigError, OSError: see `read_object`.
    """
    facts = stat_object(url)
    if version is None:
        version = facts.version
    elif facts.version is None:  # this store has no ETags; size and time are compared
        version = None
    elif version != facts.version:
        raise StaleVersionError(errno.ESTALE, "the object has another version", url)
    for start in range(0, facts.num_bytes, RANGE_BYTES):
        content, facts = read_object(url, version, start, RANGE_BYTES, on_wait)
        write(content)
        on_wait()
    return facts


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Return the path of a file; of an object a temporary file with its content, until the context ends.

    Raises:
        ConfigError, OSError: see `read_object`.
    """
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="framemill-object-") as folder:
        copy = Path(folder, os.path.basename(path))
        with open(copy, "wb", buffering=0) as file:
            download(path, None, file.write)
        yield copy


def list_objects(url: str) -> Iterator[tuple[str, FileFacts]]:
    """Yield (path relative to `url`, facts) of all objects below a URL, in the order of the store.

    Raises:
        ConfigError, OSError: see `object_store`. A key that cannot be a path ends the listing.
    """
    import obstore

    store, prefix = _locate(url)
    skipped_chars = len(prefix) + 1 if prefix else 0
    stream: Any = None
    offset: str | None = None  # key of the last object: where to resume the listing after a page that failed

    def next_page() -> Any:
        nonlocal stream
        stream = stream or iter(obstore.list(store, prefix or None, offset=offset))
        try:
            return next(stream, None)
        except obstore.exceptions.BaseError:
            stream = None
            raise

    while page := repeated(next_page, url):
        for meta in page:
            yield meta["path"][skipped_chars:], _facts(meta)
        offset = page[-1]["path"]


def list_folder(url: str) -> Listing:
    """Return the names of the folders and objects directly below a URL, sorted.

    Raises:
        ConfigError, OSError: see `object_store`.
    """
    from obstore import list_with_delimiter

    store, prefix = _locate(url)
    result = repeated(lambda: list_with_delimiter(store, prefix or None), url)
    folders = {path.rstrip("/").rpartition("/")[2] for path in result["common_prefixes"]}
    files = {meta["path"].rpartition("/")[2] for meta in result["objects"]}
    return Listing(sorted(folders - {""}), sorted(files - folders))


def exists(path: str) -> bool:
    """Return whether there is a file or folder, an object, or an object below a URL.

    Raises:
        ConfigError, OSError: see `object_store`.
    """
    if not is_url(path):
        return os.path.exists(path)
    try:
        stat_object(path)
    except FileNotFoundError:
        return has_objects(path)
    return True


def has_objects(url: str, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Return whether there is an object below a URL.

    Args:
        url: of the folder.
        patience_seconds: see `repeated`.

    Raises:
        ConfigError, OSError: see `object_store`.
    """
    import obstore

    store, prefix = _locate(url)
    first_page = repeated(lambda: next(iter(obstore.list(store, prefix or None)), None), url, patience_seconds)
    return bool(first_page)


def open_input(path: str) -> BinaryIO:
    """Open a file, or an object by its URL, for reading at any position.

    Raises:
        ConfigError, OSError: see `object_store` and `open_regular`.
    """
    return io.BufferedReader(_Object(path), _READ_AHEAD_BYTES) if is_url(path) else open_regular(path)


class _Object(StoredFile):
    """An object, open for reading. All reads see one version of it."""

    def __init__(self, url: str) -> None:
        self._url, self._facts = url, stat_object(url)
        super().__init__(self._facts.num_bytes)

    def read_at(self, size: int, offset: int) -> bytes:
        size = min(size, self.size - offset)
        return read_object(self._url, self._facts.version, offset, size)[0] if size > 0 else b""


def _facts(meta: Any) -> FileFacts:
    return FileFacts(meta["size"], meta["last_modified"].timestamp(), meta["e_tag"])


def _locate(url: str) -> "tuple[ObjectStore, str]":
    """Return the store of a URL's bucket, and the key in it."""
    scheme, bucket, prefix = parse_url(url)
    return _bucket(f"{scheme}://{bucket}/"), prefix.lstrip("/")


@cache
def _bucket(url: str) -> "ObjectStore":
    return open_object_store(url)
