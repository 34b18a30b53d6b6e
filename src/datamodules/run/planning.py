"""Planning: divide the items of a corpus into shards and write the plan, whose file `plan.py` describes.

Any number of items is planned in bounded memory. Shards can be sized only when all items are known. So while the corpus
is listed, the items of every split are written to a file in a scratch folder beside the plan; the plan is then written
from these files. At last it is linked to its name: of several ranks that plan at once, one wins.
"""

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from datamodules.corpus import JSON_FILES, Item, check_key, check_split, hash64
from datamodules.errors import CorpusError, RunError
from datamodules.run.files import is_folder, open_file
from datamodules.run.plan import SCHEMA, ShardSize, read_item
from datamodules.samples.fields import CorpusTypes, TypeInference

_BLOCK_BYTES = 1 << 20
_CHUNK_ROWS = 4096


def write_plan(
    items: Iterable[Item],
    destination: Path,
    fingerprint: Mapping[str, Any],
    size: ShardSize,
    retry: int = 0,
    device: str = "",
    roots: Sequence[str] = (),
) -> None:
    """Divide `items` into shards and write the plan, which appears whole or not at all.

    Memory holds one shard, and 8 bytes per item to detect keys that occur twice.

    Args:
        items: in the order of the corpus.
        destination: path of the plan.
        fingerprint, retry, device, roots: see `write_batches`.
        size: of the shards.

    Raises:
        CorpusError: there are no items; all of them have a problem (except in a retry); or two have one key (the
            message names both paths).
        FileExistsError: another process was faster, and its plan is valid.
    """
    with _scratch(destination) as scratch:
        listing = _Listing(scratch)
        listing.fill(items)
        if not retry:
            listing.require_usable()
        written = scratch / "plan.arrow"  # beside files named by splits, whose names have no dot
        shards, types = listing.shards(size), listing.corpus_types
        write_batches(
            written, shards, fingerprint, listing.digest, retry, device=device, corpus_types=types, roots=roots
        )
        os.link(written, destination)


def write_plan_of(
    batches: Iterable[Any],
    destination: Path,
    fingerprint: Mapping[str, Any],
    listing: str,
    retry: int,
    replaces: Sequence[str],
    roots: Sequence[str] = (),
) -> None:
    """Write the plan of a retry whose shards replace others. It appears whole or not at all.

    Args:
        batches, fingerprint, listing, retry, replaces, roots: see `write_batches`.
        destination: path of the plan.

    Raises:
        FileExistsError: another process was faster, and its plan is valid.
    """
    with _scratch(destination) as scratch:
        write_batches(scratch / "plan.arrow", batches, fingerprint, listing, retry, replaces, roots=roots)
        os.link(scratch / "plan.arrow", destination)


@contextmanager
def _scratch(destination: Path) -> Iterator[Path]:
    """Create a folder beside `destination` to write it in, and remove the folder at the end."""
    scratch = destination.with_name(f".{destination.name}.{os.getpid()}.{os.urandom(4).hex()}")
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        _discard(scratch)


def discard_unfinished(destination: Path) -> None:
    """Remove the scratch folders of processes that were killed while they wrote the existing plan `destination`."""
    for scratch in filter(is_folder, destination.parent.glob(f".{destination.name}.*")):  # a run makes no such link
        with suppress(OSError):  # another process removes it too, or a late one still writes its plan
            _discard(scratch)


def _discard(scratch: Path) -> None:
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()


def write_batches(
    path: Path,
    batches: Iterable[Any],
    fingerprint: Mapping[str, Any],
    listing: str,
    retry: int = 0,
    replaces: Sequence[str] = (),
    device: str = "",
    corpus_types: CorpusTypes | None = None,
    roots: Sequence[str] = (),
) -> None:
    """Write a plan file and fsync it.

    Args:
        path: of the file.
        batches: one pyarrow RecordBatch per shard, with the columns of `SCHEMA`. The shards of a split follow one
            another.
        fingerprint: of the run, JSON-able.
        listing: sha256 of what was listed; see `Plan.listing`.
        retry: number of the retry whose plan this is; 0: it is the run's own.
        replaces: for every shard the name of the shard that it replaces; empty: none replaces another.
        device: device model of the rank that writes the plan; empty: not recorded.
        corpus_types: type of every field of the items' `meta`; None: not recorded. Retries have the types of the run.
        roots: absolute folders that the items' paths are relative to; for a merged run those of all its runs.
    """
    metadata = {
        "fingerprint": json.dumps(fingerprint, sort_keys=True),
        "listing": listing,
        "retry": str(retry),
        "replaces": json.dumps(list(replaces)),
        "device": device,
        "corpus_types": json.dumps(corpus_types),
        "roots": json.dumps(list(roots)),
    }
    with open(path, "wb") as file:
        with pa.ipc.new_file(file, SCHEMA.with_metadata(metadata)) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        # put the digest before the footer, where no reader of the Arrow format looks; see `is_as_written`
        with open(path, "rb") as written:
            footer_start = _footer_start(written)
            digest = _sha256(written, footer_start, footer_start)
            written.seek(footer_start)
            footer = written.read()
        file.seek(footer_start)
        file.write(digest + footer)
        file.flush()
        os.fsync(file.fileno())


def is_as_written(path: Path) -> bool:
    """Return whether a plan file still has the bytes that were written.

    The sha256 of the rest of the file is in the 32 bytes before its footer. Reads the file without Arrow, because Arrow
    may abort the process on a damaged file.

    Raises:
        RunError: `path` is not a regular file, or cannot be opened.
    """
    try:
        opened = open_file(path)
    except FileNotFoundError:  # a broken link
        return False
    except OSError as error:  # no permission, or a circular link
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    with opened as file:
        digest_start = _footer_start(file) - 32
        if digest_start < 0:
            return False
        digest = _sha256(file, digest_start, digest_start + 32)
        file.seek(digest_start)
        return digest == file.read(32)


def _sha256(file: IO[bytes], stop: int, start: int) -> bytes:
    """Return the sha256 of the bytes of `file` before `stop` and from `start` on."""
    digest = hashlib.sha256()
    for first, last in ((0, stop), (start, file.seek(0, os.SEEK_END))):
        file.seek(first)
        while block := file.read(min(_BLOCK_BYTES, last - file.tell())):
            digest.update(block)
    return digest.digest()


def _footer_start(file: IO[bytes]) -> int:
    """Return the offset of the footer of an Arrow file in bytes; below 0 if it has none.

    The footer ends with its length (4 bytes, little-endian) and `ARROW1`.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 10))
    length = int.from_bytes(file.read(4), "little")
    return size - 10 - length


class _Listing:
    """The items of one listing, in one file per split until all are known and shards can be sized.

    Args:
        folder: an empty folder for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[str, tuple[int, int]] = {}  # split: items, bytes; in the order of first appearance
        self._key_hashes = array("Q")
        self._num_usable = 0
        self._first_problem: str | None = None
        self._sha256 = hashlib.sha256()
        self._types = TypeInference()

    @property
    def corpus_types(self) -> dict[str, str]:
        """Type of every field of the items' `meta` that becomes part of samples."""
        return {name: kind for name, kind in self._types.types().items() if name != JSON_FILES}

    @property
    def digest(self) -> str:
        """sha256 of what was listed, in order: two listings with equal digests give equal plans."""
        return self._sha256.hexdigest()

    def fill(self, items: Iterable[Item]) -> None:
        """Write all `items` to the files.

        Raises:
            CorpusError: there are no items, or two have one key.
        """
        rows: dict[str, list[dict[str, Any]]] = {}
        with ExitStack() as stack:
            writers: dict[str, Any] = {}

            def flush(split: str) -> None:
                if split not in writers:
                    sink = stack.enter_context(open(self._folder / check_split(split), "wb"))
                    writers[split] = stack.enter_context(pa.ipc.new_stream(sink, SCHEMA))
                writers[split].write_batch(pa.RecordBatch.from_pylist(rows[split], schema=SCHEMA))
                rows[split] = []

            for item in items:
                count, cost = self._counts.get(item.split, (0, 0))
                self._counts[item.split] = count + 1, cost + item.cost
                row = self._row(item)
                rows.setdefault(item.split, []).append(row)
                if len(rows[item.split]) == _CHUNK_ROWS:
                    flush(item.split)
            for split in list(rows):
                flush(split)
        if not self._counts:
            raise CorpusError("the corpus lists no items. Check its root, its splits and its pattern")
        self._refuse_duplicate_keys()

    def _row(self, item: Item) -> dict[str, Any]:
        """Return the row of `item` and add it to the digest, the types and the hashes of keys."""
        item = _in_utf8(item)
        self._types.add(item.meta)
        if item.problem is None:
            self._num_usable += 1
        else:
            self._first_problem = self._first_problem or item.problem
        meta = json.dumps(item.meta, sort_keys=True)  # ASCII: JSON allows lone surrogates, Arrow does not
        row = {**{name: getattr(item, name) for name in SCHEMA.names}, "meta": meta}
        self._sha256.update(repr(tuple(row.values())).encode())
        self._key_hashes.append(hash64(check_key(item.key)))
        return row

    def require_usable(self) -> None:
        """Raise CorpusError if every item has a problem, because then the corpus or its options are wrong."""
        if not self._num_usable:
            num_items, first = len(self._key_hashes), self._first_problem
            raise CorpusError(f"none of the {num_items:,} items of the corpus can be used; the first: {first}")

    def _chunks(self, split: str) -> Iterator[Any]:
        with pa.memory_map(str(self._folder / split)) as source, pa.ipc.open_stream(source) as reader:
            yield from reader

    def _refuse_duplicate_keys(self) -> None:
        """Raise CorpusError if two items have one key. Only keys with equal hashes are compared."""
        hashes = np.sort(np.frombuffer(self._key_hashes, dtype=np.uint64))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        seen: dict[str, str] = {}
        for split in self._counts if suspects else ():
            for chunk in self._chunks(split):
                for row, key in enumerate(chunk["key"].to_pylist()):
                    if hash64(key) in suspects:
                        path = read_item(chunk.slice(row, 1).to_pylist()[0]).source
                        if key in seen:
                            raise CorpusError(
                                f"two items have the key {key!r}: {seen[key]!r} and {path!r}; rename or leave out one"
                            )
                        seen[key] = path

    def shards(self, size: ShardSize) -> Iterator[Any]:
        """Yield one record batch per shard."""
        for split, (num_items, cost) in self._counts.items():
            max_items, max_bytes = size.limits(num_items, cost)
            pending: list[Any] = []
            rows, filled = 0, 0
            for chunk in self._chunks(split):
                start = 0
                for row, item_cost in enumerate(chunk["cost"].to_pylist()):
                    if rows and (rows == max_items or filled + item_cost > max_bytes):
                        yield _concat([*pending, chunk[start:row]])
                        pending, start, rows, filled = [], row, 0, 0
                    rows, filled = rows + 1, filled + item_cost
                pending.append(chunk[start:])
            yield _concat(pending)


def _in_utf8(item: Item) -> Item:
    """Return `item`; with a problem instead of its file names if one of them is not UTF-8, as Arrow requires."""
    names = (item.path, *item.frames)
    wrong = next((name for name in names if not _is_utf8(name)), None)
    if wrong is None and _is_utf8(item.problem or ""):
        return item
    path, *frames = map(_printable, names)
    problem = _printable(item.problem) if item.problem else _problem_of_name(wrong or "")
    return replace(item, path=path, frames=tuple(frames), modified=None, version=None, problem=problem)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # surrogates, with which Python represents bytes of another encoding
        return False
    return True


def _problem_of_name(name: str) -> str:
    """Return why the file name `name` is not UTF-8, and what to do."""
    try:
        name.encode(errors="surrogateescape").decode()
    except UnicodeError:
        return f"the file name {_printable(name)} is not UTF-8: rename the file"
    return (
        f"the file name {_printable(name)} cannot be used in this locale, whose encoding is "
        f"{sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    )


def _printable(text: str) -> str:
    r"""Return `text` without surrogates, a byte of another encoding as in `caf\xe9`."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # a surrogate that represents no byte
        return text.encode(errors="backslashreplace").decode()


def _concat(batches: list[Any]) -> Any:
    return pa.Table.from_batches(batches, SCHEMA).combine_chunks().to_batches()[0]
