"""The listing of a corpus: its items, on disk, until all are known and can be divided into shards."""

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from datamodules.corpus import JSON_FILES, Item, check_key, check_split, hash64
from datamodules.errors import CorpusError
from datamodules.run.plan import ShardSize
from datamodules.run.plan_rows import SCHEMA, read_item
from datamodules.samples.fields import TypeInference

# without threads: Arrow's pool may abort a process that ends soon after
_WRITE = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)
_fields_of = attrgetter(*SCHEMA.names)
_to_json = json.JSONEncoder(sort_keys=True).encode  # to ASCII: JSON allows lone surrogates, Arrow does not
_META = SCHEMA.names.index("meta")
_CHUNK_ROWS = 4096
_CHUNK_BYTES = 16 << 20  # of texts; a chunk of items with many frames has fewer rows
_FULL_BYTES = 64 << 20  # rows of a shard, at most, unless a single item has more: half of `MAX_SEGMENT_BYTES`


class Listing:
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
        with ExitStack() as stack:
            files: dict[str, _SplitFile] = {}
            for item in items:
                count, cost = self._counts.get(item.split, (0, 0))
                self._counts[item.split] = count + 1, cost + item.cost
                if item.split not in files:
                    file = _SplitFile(stack.enter_context(open(self._folder / check_split(item.split), "wb")))
                    files[item.split] = stack.enter_context(closing(file))
                files[item.split].add(*self._row(item))
        if not self._counts:
            raise CorpusError("the corpus lists no items. Check its root, its splits and its pattern")
        self._refuse_duplicate_keys()

    def _row(self, item: Item) -> tuple[list[Any], int]:
        """Return (the row of `item`, bytes of its text), and add it to the digest, the types and the hashes of keys."""
        item = _in_utf8(item)
        self._types.add(item.meta)
        if item.problem is None:
            self._num_usable += 1
        else:
            self._first_problem = self._first_problem or item.problem
        row = list(_fields_of(item))
        row[_META] = _to_json(item.meta)
        text = repr(tuple(row)).encode()
        self._sha256.update(text)
        self._key_hashes.append(hash64(check_key(item.key)))
        return row, len(text)

    def require_usable(self) -> None:
        """Raise CorpusError if every item has a problem, because then the corpus or its options are wrong."""
        if not self._num_usable:
            num_items, first = len(self._key_hashes), self._first_problem
            raise CorpusError(f"none of the {num_items:,} items of the corpus can be used; the first: {first}")

    def _chunks(self, split: str) -> Iterator[Any]:
        with open(self._folder / split, "rb") as source, pa.ipc.open_stream(source, options=_READ) as reader:
            yield from reader

    def _refuse_duplicate_keys(self) -> None:
        """Raise CorpusError if two items have one key. Only keys with equal hashes are compared."""
        hashes = np.frombuffer(self._key_hashes, dtype=np.uint64)
        hashes.sort()  # in place, because there may be 10^8; their order is not needed any more
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
                if rows and chunk.nbytes + sum(part.nbytes for part in pending) > _FULL_BYTES:
                    yield _concat(pending)
                    pending, rows, filled = [], 0, 0
                start = 0
                for row, item_cost in enumerate(chunk["cost"].to_pylist()):
                    if rows and (rows == max_items or filled + item_cost > max_bytes):
                        yield _concat([*pending, chunk[start:row]])
                        pending, start, rows, filled = [], row, 0, 0
                    rows, filled = rows + 1, filled + item_cost
                pending.append(chunk[start:])
            yield _concat(pending)


class _SplitFile:
    """Writes rows to the file of a split, as a compressed Arrow IPC stream.

    Args:
        file: to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pa.ipc.new_stream(file, SCHEMA, options=_WRITE)
        self._rows: list[list[Any]] = []
        self._num_bytes = 0

    def add(self, row: list[Any], num_bytes: int) -> None:
        """Add a row, whose text has `num_bytes`."""
        self._rows.append(row)
        self._num_bytes += num_bytes
        if len(self._rows) == _CHUNK_ROWS or self._num_bytes >= _CHUNK_BYTES:
            self._flush()

    def close(self) -> None:
        """Write all rows, and the end of the stream."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(zip(*self._rows, strict=True), SCHEMA.types, strict=True)
            arrays = [pa.array(values, kind) for values, kind in columns]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._rows, self._num_bytes = [], 0


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
