"""Records of committed shards, and the paths of their tars and tables.

The run folder may come from someone else. So all paths are made of the name of a shard in the plan and never of what a
record says, and a record that names anything but its own shard and files is refused.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.files import SUPERSEDED
from datamodules.run.store import STAGING, Entry, Store
from datamodules.run.typed_json import build, load
from datamodules.stored_file import StoredFile

RECORDS = "records"
_DAMAGE = (errno.ENOENT, errno.EIO, errno.ELOOP)  # errors of a file that is missing or damaged
_RANK = re.compile(r"[\w-]+")  # names that `RankIdentity.of_this_process` makes
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StagedFile:
    """A tar or table as its record describes it.

    Attributes:
        name: final name in the store of the run.
        sha256: 64 hexadecimal digits.
        bytes: size.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Timing:
    """When a rank made a shard, and how it spent the time.

    Attributes:
        began: when the rank leased the shard, in seconds since the epoch by its machine's clock; 0: not recorded.
        workers: number of its DataLoader workers.
        phases: seconds spent on the shard by phase, see `activity.PHASES`. `read` and `transform` are summed over the
            workers, and go on while the rank waits, computes or writes.
        holders: names of the ranks that claimed the shard before, oldest first: they died, or were slower.
    """

    began: float = 0.0
    workers: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)


_UNKNOWN = Timing()


@dataclass(frozen=True)
class Record:
    """The record of one committed shard; its existence is the commit.

    Attributes:
        shard: the shard's name.
        attempt: name of the attempt whose staged files became the shard: `{shard}.{rank}`.
        tar: the file with the samples.
        table: the file with the rows.
        planned: number of items of the shard; always `committed + failed`.
        committed: number of items that became samples.
        failed: number of items that became failure rows.
        statuses: number of samples by status: `ok`, or another that the pipeline gave.
        failure_classes: number of failures by class; see the table's `reason_class`.
        num_frames: frames of all samples.
        superseded_statuses, superseded_classes, superseded_frames, superseded_devices: for a retry, the same counts
            over the rows that its rows replace; else empty, and 0.
        replaces: name of the shard that this one replaces as a whole; None if it replaces none. See `Shard.replaces`.
        rank: name of the rank that committed the shard.
        seconds: from lease to commit.
        fingerprint: digest of the fingerprint of the run or, for a shard of a retry, of the retry.
        machine: mean and peak of the rank's figures from lease to commit; see `preprocess.job.telemetry`.
        timing: see `Timing`.
        devices: number of samples by the model of the device that computed them; empty if no row records one.
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
    timing: Timing = _UNKNOWN
    devices: dict[str, int] = field(default_factory=dict)
    superseded_devices: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of the record file: the fields and `sha256`, a digest of the other fields."""
        fields = {**vars(self), "tar": vars(self.tar), "table": vars(self.table), "timing": vars(self.timing)}
        for name in ("devices", "superseded_devices"):  # older records lack them
            if not fields[name]:
                del fields[name]
        return _with_digest(fields)

    @classmethod
    def from_json(cls, text: str, shard: str) -> "Record":
        """Read the text that `to_json` returned for the shard named `shard`.

        Raises:
            ValueError: `text` is no record, has changed, names another shard or other files, or its counts do not add
                up.
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
        for name, (value, expected_value) in expected.items():
            if value != expected_value:
                raise ValueError(f"{name} is {value!r:.100}, not {expected_value!r}")
        if not _RANK.fullmatch(self.rank):
            raise ValueError(f"rank is {self.rank!r:.100}, which is not the name of a rank")
        for file in (self.tar, self.table):
            if not _SHA256.fullmatch(file.sha256):
                raise ValueError(f"the sha256 of {file.name} is {file.sha256!r:.100}, not 64 hexadecimal digits")


def _with_digest(fields: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return json.dumps({**fields, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def record_name(shard: str) -> str:
    """Return the name of the record of the shard named `shard` in the store of its run."""
    return f"{RECORDS}/{shard}.json"


def read_record(store: Store, shard: str) -> Record:
    """Return the record of the committed shard named `shard` of the run in `store`.

    Raises:
        RunError: the shard is not committed, or its record is damaged.
        EnvironmentFailure: the record cannot be read for another reason, such as permissions; it may be intact.
    """
    name = record_name(shard)
    try:
        return Record.from_json(store.read(name).decode(), shard)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            raise EnvironmentFailure(
                f"the record {store.locate(name)} cannot be read: {error.strerror}. Fix that, and try again"
            ) from error
        raise RunError(
            f"the record {store.locate(name)} is missing or damaged ({error}); run `preprocess verify`"
        ) from error


def _file_name(shard: str, suffix: str) -> str:
    """Return the name of a file of a shard in the store of its run."""
    return f"{shard}.tar" if suffix == "tar" else f"tables/{shard}.{suffix}"


@dataclass(frozen=True)
class ShardFile:
    """The tar or the table of a shard.

    A commit publishes both under their final names. A retry may move the tar on to `superseded/`. If a rank dies
    between commit and publication, the file stays in `work/staging` until the next rank that writes to the run moves
    it (`commit.finalize`). Readers must not write, so they open a file where it is.

    Attributes:
        store: of the run.
        shard: the name of the shard.
        suffix: `tar` or `parquet`.
    """

    store: Store
    shard: str
    suffix: str

    @property
    def name(self) -> str:
        """Final name. The file may not have it yet, or may have been moved on to `superseded/`."""
        return _file_name(self.shard, self.suffix)

    @property
    def superseded_name(self) -> str:
        """Name of a tar whose shard a retry has replaced."""
        return f"{SUPERSEDED}/{self.name}"

    @property
    def location(self) -> str:
        """The path or URL of `name`, for people."""
        return self.store.locate(self.name)

    def staged(self, rank: str) -> str:
        """Return the name under which the rank named `rank` writes the file before it commits the shard."""
        return f"{STAGING}/{self.shard}.{rank}.{self.suffix}"

    def possible_names(self) -> Iterator[str]:
        """Yield all names that the file of a committed shard may have.

        Their order is that of the moves, so a file that is moved during the search is still found.

        Raises:
            RunError: the file does not have its final name, and the record, which names the rank that staged it, is
                missing or damaged.
        """
        yield self.name
        yield self.staged(read_record(self.store, self.shard).rank)
        yield self.name  # published after the first look
        if self.suffix == "tar":
            yield self.superseded_name

    def open(self) -> StoredFile:
        """Open the file of a committed shard for reading, whichever name it has.

        Raises:
            FileNotFoundError: the file is missing.
            OSError: the file cannot be opened.
            RunError: the file is not a regular file; or see `possible_names`.
        """
        for name in self.possible_names():
            with suppress(FileNotFoundError):
                return self.store.open(name)
        raise self._missing()

    def find(self) -> Entry:
        """Return the entry of the file of a committed shard, whichever name it has.

        Raises:
            FileNotFoundError: the file is missing.
            RunError: see `possible_names`.
        """
        for name in self.possible_names():
            if entry := self.store.find(name):
                return entry
        raise self._missing()

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "No such file", self.location)
