"""The spool: results of an open shard on disk, so that memory is bounded and a dead rank's work is not lost.

It is an append-only file whose entries have checksums. Whoever takes the shard over reads what the file holds, and
which items its writer was working on when it died.
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
from datamodules.run.files import open_file
from datamodules.run.result import Result
from datamodules.run.typed_json import build, load
from datamodules.samples.content import Content, size_of

_ENTRY = struct.Struct("<4sIQI")  # magic, length of the header, length of the members, crc32 of both
_MAGIC = b"FMS2"
_ENDING = re.compile(r"[^/\\\x00-\x1f\x7f]+")  # of a file of a sample, whose name in the tar is `{key}.{ending}`
_MAX_HEADER_BYTES = 16 << 20  # 100 bytes for each file of a sample are usual
_INT32_MAX = (1 << 31) - 1
_BLOCK_BYTES = 1 << 20


class Spool:
    """The results of one open shard, on disk, and the failed_attempts against its items.

    Args:
        folder: `work/spool` of the run.
        shard: name of the shard. What other ranks have spooled for it, up to the first entry that is damaged or that no
            rank writes, is taken over.
        num_rows: of the shard.
        rank: who appends.
        death: (reason, class) of the death of the rank of a name; None if it lives. What a dead rank active last is
            charged with that.

    Attributes:
        results: by row.
        failed_attempts: by row, in no order.
        active: the rows that this process goes on with.
    """

    def __init__(
        self,
        folder: Path,
        shard: str,
        num_rows: int,
        rank: str,
        death: Callable[[str], tuple[str, str] | None] = lambda _: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[int, Result] = {}
        self.failed_attempts: dict[int, list[FailedAttempt]] = {}
        self.active: list[int] = []
        self._num_rows, self._death = num_rows, death
        self._members: dict[int, tuple[IO[bytes], int, list[tuple[str, int]]]] = {}
        self._files: list[IO[bytes]] = []
        for path in sorted(folder.glob(f"{shard}.*")):
            with suppress(FileNotFoundError):  # committed meanwhile, by another
                self._take_over(path)
        self._own = open(folder / f"{shard}.{rank}", "x+b")
        self._files.append(self._own)

    def append(self, result: Result, members: Mapping[str, Content]) -> None:
        """Keep `result`, with the files of its sample by ending (none if it failed); the first of a row counts."""
        if result.row in self.results:
            return
        sizes = [(ending, size_of(content)) for ending, content in members.items()]
        start = self._write({"result": vars(result), "members": sizes}, list(members.values()))
        self._keep(self._own, start, result, sizes)

    def add_failed_attempt(self, attempt: FailedAttempt) -> None:
        """Charge an item with an attempt that has failed, and may be made again."""
        self._write({"failed_attempt": vars(attempt)})
        self.failed_attempts.setdefault(attempt.row, []).append(attempt)

    def mark_active(self, rows: Sequence[int]) -> None:
        """This process goes on with these rows; none: with nothing that could be to blame if it died."""
        self._write({"active": list(rows)})
        self.active = list(rows)

    def members(self, row: int) -> Iterator[tuple[str, int, IO[bytes]]]:
        """(ending, size, a file whose next bytes are the content) of a row's sample, in the order of appending."""
        file, offset, sizes = self._members[row]
        for ending, size in sizes:
            file.seek(offset)
            yield ending, size, file
            offset += size

    def sync(self) -> None:
        """Make what was appended survive a crash of the machine."""
        os.fsync(self._own.fileno())

    def close(self) -> None:
        """Close the files, which stay on disk for a successor."""
        for file in self._files:
            with suppress(OSError):  # an entry that the full disk refused, which `append` has told of
                file.close()

    def _write(self, entry: Mapping[str, Any], body: Sequence[Content] = ()) -> int:
        """Append an entry; where its body begins."""
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
    """The header of an entry in a spool, which is JSON: a result and its files, a failed attempt, or active rows.

    Attributes:
        result: of an item.
        members: (ending, bytes) of each file of its sample, in the order in which they follow the header.
        failed_attempt: at an item.
        active: rows; see `Spool.touch`.
    """

    result: Result | None = None
    members: list[tuple[str, int]] = field(default_factory=list)
    failed_attempt: FailedAttempt | None = None
    active: list[int] | None = None

    def fits(self, num_rows: int, body_bytes: int) -> bool:
        """Whether a rank may have written this for a shard of `num_rows` rows, with files of so many bytes."""
        rows = [each.row for each in (self.result, self.failed_attempt) if each] + (self.active or [])
        names_are_safe = all(_ENDING.fullmatch(ending) for ending, _ in self.members)
        has_size = sum(size for _, size in self.members) == body_bytes
        return all(row < num_rows for row in rows) and names_are_safe and has_size and _is_plausible(self.result)


def _is_plausible(result: Result | None) -> bool:
    """Whether a table can hold `result`, and it is a sample or a failure and not half of each."""
    if result is None:
        return True
    numbers = result.attempts, result.split_to or 0
    return max(numbers) <= _INT32_MAX and (result.reason is None) == (result.reason_class is None)


def _entries(file: IO[bytes], num_rows: int) -> Iterator[tuple[int, _Entry]]:
    """(where its body begins, header) of each entry, up to the first that is damaged or that no rank writes."""
    size = os.fstat(file.fileno()).st_size
    while len(raw := file.read(_ENTRY.size)) == _ENTRY.size:
        magic, header_bytes, body_bytes, checksum = _ENTRY.unpack(raw)
        end = file.tell() + header_bytes + body_bytes
        if magic != _MAGIC or not 0 < header_bytes <= _MAX_HEADER_BYTES or end > size:
            return
        header = file.read(header_bytes)
        start, found = file.tell(), zlib.crc32(header)
        for first in range(0, body_bytes, _BLOCK_BYTES):
            found = zlib.crc32(file.read(min(_BLOCK_BYTES, body_bytes - first)), found)
        if found != checksum:
            return
        try:
            entry = build(_Entry, load(header))
        except ValueError:
            return
        if not entry.fits(num_rows, body_bytes):
            return
        yield start, entry


def _blocks(contents: Iterable[Content]) -> Iterator[bytes]:
    for content in contents:
        if isinstance(content, bytes):
            yield content
        else:
            content.seek(0)
            while block := content.read(_BLOCK_BYTES):
                yield block
