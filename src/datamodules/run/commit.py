"""Spool and commit: how results become a shard that is there whole, once, or not at all.

Results of an open shard go to a spool, an append-only file whose entries bear checksums: it bounds memory, and whoever
takes the shard over reads what it holds, and what its writer active when it died. When every planned row has a result,
the shard is committed:

1. tar and table are written under names of this attempt in `work/staging`; they and these names are fsynced;
2. the record is *linked* into `records/`: this fails if it exists, so of several writers one wins. This is the commit;
3. `records/` is fsynced, and the staged files, which the record names, are renamed into place; before that, the tar
   whose place they take, if any, is moved to `superseded/`. Whoever finds a record without its files does this.
"""

import hashlib
import io
import json
import os
import re
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.run.attempts import FailedAttempt
from datamodules.run.files import SUPERSEDED, open_file, remove
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.record import Record, StagedFile
from datamodules.run.table import TABLE_SCHEMA
from datamodules.run.typed_json import build, load
from datamodules.samples.content import Content, size_of

OK = "ok"  # the status of a sample with which nothing is the matter
EMPTY = "empty"  # the status of a sample in which nothing was found that was looked for
_ENTRY = struct.Struct("<4sIQI")  # magic, length of the header, length of the members, crc32 of both
_MAGIC = b"FMS2"
_ENDING = re.compile(r"[^/\\\x00-\x1f\x7f]+")  # of a file of a sample, whose name in the tar is `{key}.{ending}`
_MAX_HEADER_BYTES = 16 << 20  # 100 bytes for each file of a sample are usual
_INT32_MAX = (1 << 31) - 1
_BLOCK_BYTES = 1 << 20
_UNKNOWN: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Result:
    """What became of one planned item.

    Attributes:
        row: its place in the shard.
        num_frames: frames in the sample; 0 when failed.
        seconds: reading and computing took; never part of a tar.
        reason: why it failed; None: it is a sample.
        reason_class: see `datamodules.errors`; None: it is a sample.
        attempts: how often it was tried.
        split_to: frames in the smallest batch its frames were in; None: batches were as planned.
        decoder: the backends that decoded its video, in order, separated by commas; None: it is none.
        status: of a sample; `Extractor.status`.
        device: model of the device of the rank that gave the result; None: not recorded.
    """

    row: int
    num_frames: int = 0
    seconds: float = 0.0
    reason: str | None = None
    reason_class: str | None = None
    attempts: int = 1
    split_to: int | None = None
    decoder: str | None = None
    status: str = OK
    device: str | None = None


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


def commit(
    run: Run, shard: Shard, spool: Spool, rank: str, seconds: float, machine: Mapping[str, Any] = _UNKNOWN
) -> bool:
    """Commit `shard` from `spool`, which has a result for each of its rows.

    The tar's bytes depend on the samples alone: members in planned order, fixed headers.

    Args:
        run: the run.
        shard: one of its planned shards.
        spool: a result for every row.
        rank: who commits.
        seconds: since the lease.
        machine: what was measured meanwhile; see `Record`.

    Returns:
        Whether this call made the record; False if another rank's was there, in which case nothing is left of this one.

    Raises:
        OSError: a step failed; the shard is not committed, or it is and only step 3 is to be finished.
    """
    staging = run.work / "staging"
    for folder in (staging, run.folder / "tables", run.folder / "records"):
        folder.mkdir(parents=True, exist_ok=True)
    files = run.tar_file(shard.name), run.table_file(shard.name)
    staged = [*(file.staged(rank) for file in files), staging / f"{shard.name}.{rank}.json"]
    try:
        record = _stage(run, shard, spool, staged, rank, seconds, machine)
        for folder in (staging, run.work, run.folder):  # or a crash may leave a record whose files have no name
            sync(folder)
    except BaseException:
        _unlink(staged)
        raise
    won = _link(staged[2], run.record_path(shard.name))  # if this fails, a file server may have made the link: keep all
    if won:
        finalize(run, record)
    _unlink(staged)
    spool.close()
    _unlink((run.work / "spool").glob(f"{shard.name}.*"))
    return won


def finalize(run: Run, record: Record) -> None:
    """Finish step 3 of a commit: move the files of a committed shard of `run` into place, where they are not yet.

    Every path is made of names that the plan gives. A file that is in such a place already is of the same shard, made
    again because its record was lost, and is replaced.
    """
    sync(run.folder / "records")  # by a rank that died before it could, perhaps; nothing shows that a crash may disown
    if record.replaces:
        _put_out_of_sight(run, record.replaces)
    for file in (run.table_file(record.shard), run.tar_file(record.shard)):  # a tar that shows has its table
        with suppress(FileNotFoundError):  # in place already
            os.rename(file.staged(record.rank), file.path)
        sync(file.path.parent)


def _put_out_of_sight(run: Run, shard: str) -> None:
    """Its samples stand in a retry's shard, and would be read twice."""
    place = run.folder / SUPERSEDED
    place.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # there already
        os.rename(run.tar_file(shard).path, place / f"{shard}.tar")
    for folder in (place, run.folder):
        sync(folder)


def finalize_all(run: Run) -> bool:
    """`finalize` every committed shard, of retries too, whose tar does not show; False if not all could be."""
    committed = [(each, name) for each in run.with_retries for name in each.committed()]
    shown = run.replaced.keys() | {path.stem for path in run.folder.glob("*.tar")}
    for each, name in committed:
        if name not in shown:
            if not each.is_committed(name):  # a file server's client may list a name before it finds it
                return False
            finalize(each, each.record(name))
    return True


def _stage(
    run: Run,
    shard: Shard,
    spool: Spool,
    staged: list[Path],
    rank: str,
    seconds: float,
    machine: Mapping[str, Any],
) -> Record:
    tar, table, staged_record = staged
    rows, tar_file = _write_tar(tar, run.tar_file(shard.name).name, run.plan.keys(shard.number), spool)
    superseded = run.superseded(shard) if run.retry else []
    for row, earlier in zip(rows, superseded, strict=bool(superseded)):
        row["supersedes"] = earlier["shard"]
    statuses, classes = count_rows(rows)
    superseded_statuses, superseded_classes = count_rows(superseded)
    failed = sum(classes.values())
    record = Record(
        shard=shard.name,
        attempt=f"{shard.name}.{rank}",
        tar=tar_file,
        table=write_table(table, run.table_file(shard.name).name, rows),
        planned=len(rows),
        committed=len(rows) - failed,
        failed=failed,
        statuses=statuses,
        failure_classes=classes,
        num_frames=sum(row["num_frames"] for row in rows),
        superseded_statuses=superseded_statuses,
        superseded_classes=superseded_classes,
        superseded_frames=sum(row["num_frames"] for row in superseded),
        devices=count_devices(rows),
        superseded_devices=count_devices(superseded),
        replaces=shard.replaces,
        rank=rank,
        seconds=round(seconds, 3),
        fingerprint=run.fingerprint_digest,
        machine=dict(machine),
    )
    with open(staged_record, "x") as file:
        file.write(record.to_json())
        file.flush()
        os.fsync(file.fileno())
    return record


def count_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """(how many samples of each status, how many failures of each class) rows of a table tell of."""
    rows = list(rows)
    statuses = Counter(row["status"] for row in rows if row["reason_class"] is None)
    classes = Counter(row["reason_class"] for row in rows if row["reason_class"] is not None)
    return dict(sorted(statuses.items())), dict(sorted(classes.items()))


def count_devices(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many samples of each model of device rows of a table tell of; those that record none are left out."""
    devices = Counter(row["device"] for row in rows if row["reason_class"] is None and row["device"])
    return dict(sorted(devices.items()))


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        remove(path)


def _link(staged: Path, record: Path) -> bool:
    try:
        os.link(staged, record)
    except FileExistsError:
        return record.samefile(staged)  # a file server may answer a repeated request for a link that it made
    return True


def _write_tar(path: Path, name: str, keys: Sequence[str], spool: Spool) -> tuple[list[dict[str, Any]], StagedFile]:
    rows = []
    with open(path, "xb") as raw:
        hashed = _HashingFile(raw)
        with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=tarfile.RECORDSIZE) as tar:
            for row, key in enumerate(keys):
                result = spool.results[row]
                start = tar.offset
                for ending, size, content in spool.members(row):
                    tar.addfile(_tar_header(f"{key}.{ending}", size), content)
                ok = result.reason is None
                rows.append(
                    {
                        "key": key,
                        "status": result.status if ok else "failed",
                        "reason": result.reason,
                        "reason_class": result.reason_class,
                        "attempts": result.attempts,
                        "num_frames": result.num_frames,
                        "seconds": result.seconds,
                        "split_to": result.split_to,
                        "decoder": result.decoder,
                        "device": result.device,
                        "tar_offset": start if ok else None,
                        "tar_bytes": tar.offset - start if ok else None,
                    }
                )
        raw.flush()
        os.fsync(raw.fileno())
    return rows, StagedFile(name, hashed.sha256.hexdigest(), path.stat().st_size)


def _tar_header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # mtime, uid and gid are 0 and owner names empty, whoever writes
    header.size, header.mode = size, 0o644
    return header


def write_table(path: Path, name: str, rows: list[dict[str, Any]]) -> StagedFile:
    """Write `rows`, of `TABLE_SCHEMA`, to `path`, fsynced; what a record says of it as `name`."""
    content = _encode_table(rows)
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return StagedFile(name, hashlib.sha256(content).hexdigest(), len(content))


def _encode_table(rows: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, TABLE_SCHEMA), content)
    return content.getvalue()


class _HashingFile(io.RawIOBase):
    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._raw.write(data)


def sync(path: Path) -> None:
    """fsync a file or a folder, so that it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
