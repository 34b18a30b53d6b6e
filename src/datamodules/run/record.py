"""The record of a committed shard, and where the shard's tar and table are.

Both files are found by the name of the shard, which is of the plan. The run folder may come from someone else, so no
path is made of what a record says, and a record that names anything but its own shard and files is refused.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.errors import RunError
from datamodules.run.files import SUPERSEDED, open_file, read_file
from datamodules.run.typed_json import build, load

_RANK = re.compile(r"[\w-]+")  # what `RankIdentity.rank` is made of
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StagedFile:
    """A file of a shard: its place in the run folder, its sha256, its size in bytes."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Record:
    """The record of one committed shard; its existence is the commit.

    Attributes:
        shard: the shard's name.
        attempt: names the staged files that became the shard.
        tar: the samples.
        table: the rows.
        planned: items of the shard; always `committed + failed`.
        committed: items that became samples.
        failed: items that became failure rows.
        statuses: how many of the committed by status: `ok`, or what the pipeline says of them.
        failure_classes: how many of the failed by class; see the table's `reason_class`.
        num_frames: frames of the committed items.
        devices: how many of the committed items each model of device computed; empty: recorded by no row, or none
            committed.
        superseded_statuses, superseded_classes, superseded_frames, superseded_devices: of a retry: of the rows that its
            rows replace, likewise; else empty, and 0.
        replaces: of a retry that tries samples again: the shard whose place it takes; else None.
        rank: who committed.
        seconds: from lease to commit.
        fingerprint: digest of the run's fingerprint; of a retry, the retry's.
        machine: mean and peak of the rank's figures from lease to commit; see `preprocess.job.telemetry`.
    """

    shard: str
    attempt: str
    tar: StagedFile
    table: StagedFile
    planned: int
    committed: int
    failed: int
    statuses: dict[str, int]
    failure_classes: dict[str, int]
    num_frames: int
    superseded_statuses: dict[str, int]
    superseded_classes: dict[str, int]
    superseded_frames: int
    replaces: str | None
    rank: str
    seconds: float
    fingerprint: str
    machine: dict[str, Any]
    devices: dict[str, int] = field(default_factory=dict)
    superseded_devices: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of the record file: the fields, and `sha256`, the digest of their JSON without it."""
        fields = {**vars(self), "tar": vars(self.tar), "table": vars(self.table)}
        for name in ("devices", "superseded_devices"):  # which records did not always have
            if not fields[name]:
                del fields[name]
        return _with_digest(fields)

    @classmethod
    def from_json(cls, text: str, shard: str) -> "Record":
        """Read what `to_json` wrote for the shard named `shard`.

        Raises:
            ValueError: it is something else, names another shard or other files, or its counts do not add up.
        """
        fields = load(text)
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        signed = {name: value for name, value in fields.items() if name != "sha256"}
        if _with_digest(signed) != text:
            raise ValueError("its content has changed: sha256 differs")
        record = build(cls, signed)
        record._check(shard)
        return record

    def _check(self, shard: str) -> None:
        """Raise ValueError unless this is a record of the shard named `shard`."""
        expected = {
            "shard": (self.shard, shard),
            "tar.name": (self.tar.name, _file_name(shard, "tar")),
            "table.name": (self.table.name, _file_name(shard, "parquet")),
            "attempt": (self.attempt, f"{shard}.{self.rank}"),
            "planned": (self.planned, self.committed + self.failed),
        }
        for name, (value, right) in expected.items():
            if value != right:
                raise ValueError(f"{name} is {value!r:.100}, not {right!r}")
        if not _RANK.fullmatch(self.rank):
            raise ValueError(f"rank is {self.rank!r:.100}, which is not the name of a rank")
        for file in (self.tar, self.table):
            if not _SHA256.fullmatch(file.sha256):
                raise ValueError(f"the sha256 of {file.name} is {file.sha256!r:.100}, not 64 hexadecimal digits")


def _with_digest(fields: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return json.dumps({**fields, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def record_path(folder: Path, shard: str) -> Path:
    """Where the record of the shard named `shard` of the run in `folder` is, once it is committed."""
    return folder / "records" / f"{shard}.json"


def read_record(folder: Path, shard: str) -> Record:
    """Return the record of the committed shard named `shard` of the run in `folder`.

    Raises:
        RunError: the shard is not committed, or its record is damaged.
    """
    path = record_path(folder, shard)
    try:
        return Record.from_json(read_file(path).decode(), shard)
    except (OSError, ValueError) as error:
        raise RunError(f"the record {path} is missing or damaged ({error}); run `preprocess verify`") from error


def _file_name(shard: str, suffix: str) -> str:
    """Return the path of a file of a shard, relative to the run folder."""
    return f"{shard}.tar" if suffix == "tar" else f"tables/{shard}.{suffix}"


@dataclass(frozen=True)
class ShardFile:
    """The tar or the table of a shard.

    A commit moves both from `work/staging` to their places. A retry may move the tar on, to `superseded/`. A rank that
    dies in between leaves a file where it was, and the next one that writes to the run moves it (`commit.finalize`);
    those that only read open it where it is.

    Attributes:
        folder: of the run.
        shard: the name of the shard.
        suffix: `tar` or `parquet`.
    """

    folder: Path
    shard: str
    suffix: str

    @property
    def name(self) -> str:
        """Its place, relative to the run folder."""
        return _file_name(self.shard, self.suffix)

    @property
    def path(self) -> Path:
        """Its place: the file may still be on its way there, or have left for `superseded/`."""
        return self.folder / self.name

    def staged(self, rank: str) -> Path:
        """Where the rank of this name writes the file, before it commits the shard."""
        return self.folder / "work" / "staging" / f"{self.shard}.{rank}.{self.suffix}"

    def places(self) -> Iterator[Path]:
        """Every place that the file of a committed shard may be at, in an order in which no move escapes a search.

        Raises:
            RunError: the file is not in its place, and the record, which says who staged it, is missing or damaged.
        """
        yield self.path
        yield self.staged(read_record(self.folder, self.shard).rank)
        yield self.path  # moved from staging meanwhile
        if self.suffix == "tar":
            yield self.folder / SUPERSEDED / self.name

    def open(self) -> BinaryIO:
        """Open the file of a committed shard for reading, wherever it is.

        Raises:
            FileNotFoundError: it is nowhere.
            OSError: it cannot be opened.
            RunError: it is no regular file, or see `places`.
        """
        for place in self.places():
            with suppress(FileNotFoundError):
                return open_file(place)
        raise FileNotFoundError(errno.ENOENT, "No such file", str(self.path))
