"""The spool: the results of an open shard on disk, which bounds memory and keeps the work of a rank that dies.

Every rank that works on a shard appends to a spool file of its own. The rank that takes the shard over reads the files
of all ranks before it: their results, their failed attempts, and the rows that were active when a process died.

A process may be killed in the middle of a write, and a machine may crash before its disk has all that was written. Such
torn entries are detected rather than prevented: an entry begins with its lengths and a checksum, and reading ends at
the first one that is not whole. Nothing after it is trusted either, because where the next entry begins is not known.
Items whose entries are lost have no result, and are done again.
"""

import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from datamodules.run.attempts import FailedAttempt
from datamodules.run.files import open_file, remove
from datamodules.run.result import Result
from datamodules.run.shared_attempts import SharedAttempts
from datamodules.run.typed_json import build, load
from datamodules.samples.content import Content, size_of

_ENTRY = struct.Struct("<4sIQI")  # magic, bytes of the header, bytes of the members, crc32 of both
_MAGIC = b"FMS2"
_ENDING = re.compile(r"[^/\\\x00-\x1f\x7f]+")  # a sample's file is `{key}.{ending}` in the tar
_MAX_HEADER_BYTES = 16 << 20  # usual are 100 bytes for each file of a sample
_INT32_MAX = (1 << 31) - 1
_BLOCK_BYTES = 1 << 20


class Spool:
    """The results of one open shard on disk, and the failed attempts at its items.

    Takes over what other ranks have spooled for the shard, from every file up to the first entry that is torn, damaged,
    or not one that a rank writes. If several ranks have a result of one row, the first that is read counts.

    Args:
        folder: `work/spool` of the run.
        shard: name of the shard.
        num_rows: number of rows of the shard.
        rank: name of this rank, whose file is created.
        death: given the name of another rank, returns (reason, class) of the death of its process; None if that is
            alive. The rows that a dead rank had active are charged with a failed attempt.
        shared: the failed attempts in the store; None: those in `folder` are all.

    Attributes:
        results: by row.
        failed_attempts: by row, in no order.
        active: the rows that this process is working on.
    """

    def __init__(
        self,
        folder: Path,
        shard: str,
        num_rows: int,
        rank: str,
        death: Callable[[str], tuple[str, str] | None] = lambda _: None,
        shared: SharedAttempts | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[int, Result] = {}
        self.failed_attempts: dict[int, list[FailedAttempt]] = {}
        self.active: list[int] = []
        self._folder, self._shard, self._num_rows, self._death, self._shared = folder, shard, num_rows, death, shared
        self._members: dict[int, tuple[IO[bytes], int, list[tuple[str, int]]]] = {}
        self._files: list[IO[bytes]] = []
        spools = sorted(folder.glob(f"{shard}.*"))
        for path in spools:
            with suppress(FileNotFoundError):  # another rank has committed the shard in the meantime
                self._take_over(path)
        for attempt in shared.of_others(num_rows, {path.suffix[1:] for path in spools}) if shared else ():
            self.failed_attempts.setdefault(attempt.row, []).append(attempt)
        self._own = open(folder / f"{shard}.{rank}", "x+b")
        self._files.append(self._own)

    def append(self, result: Result, members: Mapping[str, Content]) -> None:
        """Append `result`; does nothing if its row has one.

        Args:
            result: of a row.
            members: the files of its sample by ending; empty if it failed.

        Raises:
            OSError: it cannot be written.
        """
        if result.row in self.results:
            return
        sizes = [(ending, size_of(content)) for ending, content in members.items()]
        start = self._write({"result": vars(result), "members": sizes}, list(members.values()))
        self._keep(self._own, start, result, sizes)

    def add_failed_attempt(self, attempt: FailedAttempt) -> None:
        """Append a failed attempt."""
        self._write({"failed_attempt": vars(attempt)})
        if self._shared:
            self._shared.add(attempt)
        self.failed_attempts.setdefault(attempt.row, []).append(attempt)

    def mark_active(self, rows: Sequence[int]) -> None:
        """Append that this process works on `rows`, which are charged if it dies; empty: it works on none."""
        self._write({"active": list(rows)})
        if self._shared:
            self._shared.mark_active(rows)
        self.active = list(rows)

    def members(self, row: int) -> Iterator[tuple[str, int, IO[bytes]]]:
        """Yield (ending, bytes, a file) for each file of a row's sample, in the order in which they were appended.

        The content is the next so many bytes of the yielded file; read them before the next iteration.
        """
        file, offset, sizes = self._members[row]
        for ending, size in sizes:
            file.seek(offset)
            yield ending, size, file
            offset += size

    def sync(self) -> None:
        """fsync what was appended, so that it survives a crash of the machine."""
        os.fsync(self._own.fileno())

    def close(self) -> None:
        """Close the files, which stay on disk for the rank that takes the shard over."""
        for file in self._files:
            with suppress(OSError):  # a buffered entry that the disk had no space for: `append` has raised already
                file.close()

    def remove_all(self) -> None:
        """Remove the files of all ranks for the shard, which is committed."""
        for path in self._folder.glob(f"{self._shard}.*"):
            remove(path)
        if self._shared:
            self._shared.remove_all()

    def _write(self, entry: Mapping[str, Any], body: Sequence[Content] = ()) -> int:
        """Append an entry and return the offset of its body in bytes.

        A body may be larger than memory, so it is read twice: for the checksum, which comes first, and for the file.
        """
        header = json.dumps(entry).encode()
        size, checksum = 0, zlib.crc32(header)
        for block in _blocks(body):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
        start = self._own.seek(0, os.SEEK_END) + _ENTRY.size + len(header)
        self._own.write(_ENTRY.pack(_MAGIC, len(header), size, checksum) + header)
        for block in _blocks(body):
            self._own.write(block)
        self._own.flush()
        return start

    def _keep(self, file: IO[bytes], offset: int, result: Result, sizes: list[tuple[str, int]]) -> None:
        self.results[result.row] = result
        self._members[result.row] = file, offset, sizes

    def _take_over(self, path: Path) -> None:
        """Add the entries of another rank's spool, and charge what it had active if its process died."""
        file = open_file(path)
        self._files.append(file)
        active: list[int] = []
        for start, entry in _entries(file, self._num_rows):
            if entry.active is not None:
                active = entry.active
            if entry.failed_attempt:
                self.failed_attempts.setdefault(entry.failed_attempt.row, []).append(entry.failed_attempt)
            if entry.result and entry.result.row not in self.results:
                self._keep(file, start, entry.result, entry.members)
        if active and (death := self._death(path.suffix[1:])):
            for row in active:
                self.failed_attempts.setdefault(row, []).append(FailedAttempt(row, *death, alone=len(active) == 1))


@dataclass(frozen=True)
class _Entry:
    """The header of an entry, as JSON: a result and the sizes of its files, a failed attempt, or active rows.

    Attributes:
        result: of a row.
        members: (ending, number of bytes) of the files of its sample, in the order in which they follow the header.
        failed_attempt: at a row.
        active: rows; see `Spool.mark_active`.
    """

    result: Result | None = None
    members: list[tuple[str, int]] = field(default_factory=list)
    failed_attempt: FailedAttempt | None = None
    active: list[int] | None = None

    def fits(self, num_rows: int, body_bytes: int) -> bool:
        """Return whether a rank may have written this for a shard of `num_rows` rows, with a body of `body_bytes`."""
        rows = [part.row for part in (self.result, self.failed_attempt) if part] + (self.active or [])
        names_are_safe = all(_ENDING.fullmatch(ending) for ending, _ in self.members)
        has_size = sum(size for _, size in self.members) == body_bytes
        return all(row < num_rows for row in rows) and names_are_safe and has_size and _is_plausible(self.result)


def _is_plausible(result: Result | None) -> bool:
    """Return whether a table can hold the numbers of `result`, and whether it has both a reason and a class or none."""
    if result is None:
        return True
    numbers = result.attempts, result.split_to or 0
    return max(numbers) <= _INT32_MAX and (result.reason is None) == (result.reason_class is None)


def _entries(file: IO[bytes], num_rows: int) -> Iterator[tuple[int, _Entry]]:
    """Yield (offset of the body in bytes, header) of the entries, up to the first that no rank has written whole."""
    size = os.fstat(file.fileno()).st_size
    while len(raw := file.read(_ENTRY.size)) == _ENTRY.size:
        magic, header_bytes, body_bytes, checksum = _ENTRY.unpack(raw)
        end = file.tell() + header_bytes + body_bytes
        if magic != _MAGIC or not 0 < header_bytes <= _MAX_HEADER_BYTES or end > size:  # torn, or not a spool
            return
        header = file.read(header_bytes)
        start, actual = file.tell(), zlib.crc32(header)
        for first in range(0, body_bytes, _BLOCK_BYTES):
            actual = zlib.crc32(file.read(min(_BLOCK_BYTES, body_bytes - first)), actual)
        if actual != checksum:  # a crash of the machine may leave the length of a file without all its content
            return
        try:
            entry = build(_Entry, load(header))
        except ValueError:
            return
        if not entry.fits(num_rows, body_bytes):
            return
        yield start, entry


def _blocks(contents: Iterable[Content]) -> Iterator[bytes]:
    """Yield the contents, a file in blocks of at most 1 MiB."""
    for content in contents:
        if isinstance(content, bytes):
            yield content
        else:
            content.seek(0)
            while block := content.read(_BLOCK_BYTES):
                yield block
