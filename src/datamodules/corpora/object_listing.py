"""Listings of object stores: all objects below a URL, in the order in which a folder would be walked.

A store orders keys as text, so `a-b.jpg` comes before `a/c.jpg`. A folder is walked depth first, by name: `a` before
`a-b.jpg`. Keys with a null character in place of each slash have this order as text.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpora.listing import ambiguous_stems, key_of_file
from datamodules.corpora.paths import describe_error, has_extension
from datamodules.corpora.skipped import HIDDEN_FILE, HIDDEN_FOLDER, OTHER_EXTENSION, RUN, Skipped
from datamodules.corpora.walk import PLAN_NAME, File
from datamodules.errors import ConfigError, CorpusError
from datamodules.object_store import parse_url
from datamodules.objects import FileFacts, list_objects, stat_object

_SLASH = "\0"  # in place of a slash: no key has a null character, and it comes before all others
_CHUNK_ROWS = 1 << 16
# Files of a list are looked up one by one, at a request each, before a listing, at a request for 1,000 objects, is
# likely to be faster
_MAX_REQUESTS = 200
_MAX_LISTINGS = 4
_SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),
        ("num_bytes", pa.int64()),
        ("modified", pa.float64()),
        ("version", pa.large_string()),
    ]
)


class ObjectListing:
    """All objects below a URL. Takes about 100 bytes of memory per object.

    Args:
        url: of the folder.

    Raises:
        CorpusError: it cannot be listed.
        EnvironmentFailure: the store does not answer, or refuses the credentials.
    """

    def __init__(self, url: str) -> None:
        try:
            self._table = _sorted_table(list_objects(url))
        except OSError as error:
            raise CorpusError(describe_error(url, error)) from error
        self._paths: Any = self._table["path"].combine_chunks()

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, path: str) -> FileFacts | None:
        """Return what is known of the object with this path relative to the URL; None: there is none."""
        row = self._first_row(path.replace("/", _SLASH))
        is_there = row < len(self._paths) and self._paths[row].as_py().replace(_SLASH, "/") == path
        return self._facts(row) if is_there else None

    def files_in(self, folder: str) -> dict[str, FileFacts]:
        """Return the objects directly in a folder, by name."""
        start = f"{folder}/".replace("/", _SLASH) if folder else ""
        first, stop = self._first_row(start), self._first_row(start[:-1] + "\1") if start else len(self._paths)
        paths = self._paths[first:stop].to_pylist()
        names = ((row, path[len(start) :]) for row, path in enumerate(paths, first))
        return {name: self._facts(row) for row, name in names if name and _SLASH not in name}

    def walk(self, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
        """Yield the objects that have one of `suffixes`, as `walk.walk` yields the files of a folder.

        Args:
            suffixes: with their dots, in lower case.
            skipped: counts what is left out.
            below: path from the corpus root to the URL.
        """
        rows = array("Q", self._wanted(suffixes, skipped, bool(below)))
        prefix = f"{below}/" if below else ""
        is_ambiguous = ambiguous_stems(path for path, _ in self._at(rows))
        for path, facts in self._at(rows):
            yield File(prefix + path, key_of_file(prefix + path, is_ambiguous(path)), *facts)

    def _wanted(self, suffixes: Collection[str], skipped: Skipped, is_below: bool) -> Iterator[int]:
        """Yield the rows of the objects that `walk` yields."""
        runs = self._runs(is_below)
        parent: str | None = None
        left_out: str | None = None  # start of the paths in a folder that is left out
        for row, path in self._rows():
            if left_out is not None and path.startswith(left_out):
                continue
            folder, _, name = path.rpartition(_SLASH)
            if folder != parent:
                parent, left_out = folder, _left_out(folder, runs, skipped)
                if left_out is not None:
                    continue
            if name.startswith("."):
                skipped.add(HIDDEN_FILE)
            elif has_extension(name, suffixes):
                yield row
            else:
                skipped.add(OTHER_EXTENSION, name)

    def _runs(self, is_below: bool) -> set[str]:
        """Return the folders that hold a plan: they are runs, and no part of a corpus. The root may be one."""
        plans = self._paths.filter(pc.ends_with(self._paths, f"{_SLASH}{PLAN_NAME}")).to_pylist()
        runs = {path.rpartition(_SLASH)[0] for path in plans}
        return runs | {""} if is_below and self.find(PLAN_NAME) else runs

    def _rows(self) -> Iterator[tuple[int, str]]:
        """Yield (row, path with null characters), without the empty objects that stand for a folder."""
        before: tuple[int, str] | None = None
        for start in range(0, len(self._paths), _CHUNK_ROWS):
            for row, path in enumerate(self._paths[start : start + _CHUNK_ROWS].to_pylist(), start):
                if before and not (path.startswith(before[1] + _SLASH) and self._facts(before[0]).num_bytes == 0):
                    yield before
                before = row, path
        if before:
            yield before

    def _at(self, rows: "array[int]") -> Iterator[tuple[str, FileFacts]]:
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = self._table.take(pa.array(rows[start : start + _CHUNK_ROWS]))
            for path, *facts in zip(*(column.to_pylist() for column in chunk.columns), strict=True):
                yield path.replace(_SLASH, "/"), FileFacts(*facts)

    def _first_row(self, path: str) -> int:
        return bisect_left(range(len(self._paths)), path, key=lambda row: self._paths[row].as_py())

    def _facts(self, row: int) -> FileFacts:
        return FileFacts(*(self._table[name][row].as_py() for name in ("num_bytes", "modified", "version")))


class Lookup:
    """What is known of the objects that a list names: looked up one by one, or by a listing if they are many.

    Args:
        url: a folder that is listed as a whole; None: the folder of each object.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._num_requests: dict[str, int] = {}  # by folder
        self._listings: dict[str, ObjectListing] = {}  # by folder, the oldest first

    def stat(self, url: str) -> FileFacts:
        """Return what is known of an object; `FileFacts()` if it is missing.

        Raises:
            CorpusError: the URL cannot be one of an object, or the object may not be looked up.
            EnvironmentFailure: the store does not answer, or refuses the credentials.
        """
        try:
            parse_url(url)
        except ConfigError as error:  # of this row; a missing extra concerns all
            raise CorpusError(str(error)) from error
        folder = self._url or url.rpartition("/")[0]
        self._num_requests[folder] = self._num_requests.get(folder, 0) + 1
        if self._num_requests[folder] > _MAX_REQUESTS:
            return self._listing(folder).find(url[len(folder) + 1 :]) or FileFacts()
        try:
            return stat_object(url)
        except FileNotFoundError:
            return FileFacts()
        except OSError as error:
            raise CorpusError(describe_error(url, error)) from error

    def _listing(self, folder: str) -> ObjectListing:
        if folder not in self._listings:
            if len(self._listings) == _MAX_LISTINGS:
                evicted = next(iter(self._listings))
                del self._listings[evicted]
                self._num_requests[evicted] = 0  # else files of many folders in turn would list one for each file
            self._listings[folder] = ObjectListing(folder)
        return self._listings[folder]


def _sorted_table(objects: Iterator[tuple[str, FileFacts]]) -> Any:
    """Return a table of `_SCHEMA`, by path; paths have null characters in place of slashes."""
    batches: list[Any] = []
    rows: list[tuple[str, int, float | None, str | None]] = []
    is_sorted, last = True, ""
    for path, facts in objects:
        path = path.replace("/", _SLASH)
        is_sorted, last = is_sorted and last < path, path
        rows.append((path, *facts))
        if len(rows) == _CHUNK_ROWS:
            batches.append(_batch(rows))
            rows = []
    table = pa.Table.from_batches([*batches, _batch(rows)], _SCHEMA)
    return table if is_sorted else table.take(pc.sort_indices(table["path"]))


def _batch(rows: list[tuple[str, int, float | None, str | None]]) -> Any:
    columns = zip(*rows, strict=True) if rows else ([] for _ in _SCHEMA)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA
    )


def _left_out(folder: str, runs: Collection[str], skipped: Skipped) -> str | None:
    """Return the start of all paths in the outermost hidden folder or run that holds `folder`; None: there is none."""
    if "" in runs:
        skipped.add(RUN, "")
        return ""
    parts = folder.split(_SLASH) if folder else []
    for number, part in enumerate(parts, 1):
        outer = _SLASH.join(parts[:number])
        if part.startswith("."):
            skipped.add(HIDDEN_FOLDER)
            return outer + _SLASH
        if outer in runs:
            skipped.add(RUN, outer.replace(_SLASH, "/"))
            return outer + _SLASH
    return None
