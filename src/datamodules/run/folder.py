"""A run: one output folder, its plan, and what has been committed to it.

| in the folder              | what                                                                              |
|----------------------------|-----------------------------------------------------------------------------------|
| `{shard}.tar`              | the samples of a committed shard, for any WebDataset reader                       |
| `tables/{shard}.parquet`   | a row for each planned item of the shard: `table.TABLE_SCHEMA`                   |
| `records/{shard}.json`     | what is true: the shard is committed if and only if this exists                   |
| `plan.arrow`               | the plan and the fingerprint: `plan.py`                                           |
| `plan-001.arrow`, …        | likewise of retries, which try items again: `retries.py`                          |
| `superseded/{shard}.tar`   | of a shard whose place a retry's shard has taken: out of sight of `O/*.tar`       |
| `config.yaml`              | the configuration that started the run                                            |
| `work/`                    | ranks, leases, spools, staged files of shards in the making                       |
| `stray/`                   | what `verify --repair` found and no shard knows                                   |
"""

import hashlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from datamodules.corpus import Corpus
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.drift import require_planned
from datamodules.run.files import require_own_folders
from datamodules.run.leases import Leases
from datamodules.run.plan import Plan, Shard, ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.record import Record, ShardFile, read_record, record_path
from datamodules.run.table import read_table

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_RETRY_PLAN = re.compile(r"plan-(?!000)([0-9]{3}|[1-9][0-9]{3,8})\.arrow")  # as `plan_path` names it
PLANNING = "plan"  # the lease under which the plan is made; no shard's name is without a dash


@dataclass(frozen=True)
class Outcome:
    """What has become of planned items, in numbers.

    Attributes:
        committed: items that became samples.
        num_frames: frames of these.
        statuses: these by status.
        devices: these by the model of device that computed them; `unknown` where no row recorded it.
        failure_classes: items that failed, and are no sample of a retry either, by class.
    """

    committed: int
    num_frames: int
    statuses: dict[str, int]
    devices: dict[str, int]
    failure_classes: dict[str, int]

    @property
    def failed(self) -> int:
        """Items that failed, of all classes."""
        return sum(self.failure_classes.values())

    @classmethod
    def of(cls, records: Iterable[Record], retries: Iterable[Record] = ()) -> "Outcome":
        """Add up the `records` of a plan, and those of the retries over its rows."""
        statuses: Counter[str] = Counter()
        classes: Counter[str] = Counter()
        devices: Counter[str] = Counter()
        num_frames = 0
        retries = list(retries)
        for record in chain(records, retries):
            statuses.update(record.statuses)
            classes.update(record.failure_classes)
            devices.update(record.devices)
            num_frames += record.num_frames
        for record in retries:
            statuses.subtract(record.superseded_statuses)
            classes.subtract(record.superseded_classes)
            devices.subtract(record.superseded_devices)
            num_frames -= record.superseded_frames
        devices["unknown"] += statuses.total() - devices.total()
        return cls(
            committed=statuses.total(),
            num_frames=num_frames,
            statuses=dict(sorted((+statuses).items())),
            devices=dict(sorted((+devices).items())),
            failure_classes=dict(sorted((+classes).items())),
        )


def device_mix(devices: Mapping[str, int]) -> str:
    """Return `Outcome.devices` as text: `NVIDIA A100-SXM4-80GB (1,204 samples), NVIDIA H200 (796 samples)`."""
    return ", ".join(f"{device} ({count:,} samples)" for device, count in devices.items())


class Run:
    """A run's folder, opened; nothing is written by opening it.

    Args:
        folder: of the run.
        retry: 0: the run as it was planned first. p: its p-th retry, a plan over items of the run; leases, ranks and
            commits know no difference.

    Raises:
        RunError: the folder is no run, or has no such retry; or one of its own folders is a link.
    """

    def __init__(self, folder: str | os.PathLike[str], retry: int = 0) -> None:
        self.folder = Path(folder)
        self.work = self.folder / "work"
        self.retry = retry
        path = plan_path(self.folder, retry)
        if not path.is_file():
            raise RunError(f"{self.folder} is no run: it has no {path.name}; give the folder that was --output.dir")
        require_own_folders(self.folder)
        self.plan = Plan(path)
        if self.plan.retry != retry:
            raise RunError(f"{path} is the plan of retry {self.plan.retry}, not of {retry}: it is damaged or misplaced")

    @cached_property
    def retries(self) -> "list[Run]":
        """The retries that there are when this is first read, in order; a retry has none itself.

        Raises:
            RunError: the plan of one is damaged.
        """
        if self.retry:
            return []
        names = (_RETRY_PLAN.fullmatch(path.name) for path in self.folder.glob("plan-*.arrow"))
        retries = [type(self)(self.folder, number) for number in sorted(int(name[1]) for name in names if name)]
        known: set[str] = set()
        for earlier, retry in zip((self, *retries), retries, strict=False):
            known.update(shard.name for shard in earlier.plan.shards)
            if unknown := set(retry.plan.replaces) - known:
                raise RunError(f"{retry.plan.path} is damaged: it replaces {min(unknown)}, which no plan before it has")
        return retries

    @property
    def with_retries(self) -> "list[Run]":
        """This run and its `retries`, in order."""
        return [self, *self.retries]

    @cached_property
    def fingerprint_digest(self) -> str:
        """16 hexadecimal digits that name the fingerprint."""
        return hashlib.sha256(json.dumps(self.plan.fingerprint, sort_keys=True).encode()).hexdigest()[:16]

    def record_path(self, shard: str) -> Path:
        """Where the record of the shard named `shard` is, once it is committed."""
        return record_path(self.folder, shard)

    def tar_file(self, shard: str) -> ShardFile:
        """The tar of the shard named `shard`, which may be of another plan of this run."""
        return ShardFile(self.folder, shard, "tar")

    def table_file(self, shard: str) -> ShardFile:
        """The table of the shard named `shard`, which may be of another plan of this run."""
        return ShardFile(self.folder, shard, "parquet")

    def is_committed(self, shard: str) -> bool:
        """Whether the shard named `shard` is committed."""
        path = self.record_path(shard)
        return path.exists() or path.is_symlink()  # a link that leads nowhere is a damaged record

    def committed(self) -> set[str]:
        """Names of the planned shards that are committed; a record of any other name counts for nothing."""
        return {path.stem for path in (self.folder / "records").glob("*.json")} & self._shards.keys()

    @cached_property
    def _shards(self) -> dict[str, Shard]:
        """The shards of this plan, by name."""
        return {shard.name: shard for shard in self.plan.shards}

    def is_complete(self) -> bool:
        """Whether every shard of this plan is committed."""
        return self.committed() == self._shards.keys()

    def record(self, shard: str) -> Record:
        """The record of a committed shard of this plan.

        Raises:
            RunError: it is not committed, or its record is damaged or not as the plan is.
        """
        record, planned = read_record(self.folder, shard), self._shards[shard]
        if record.replaces != planned.replaces:
            raise RunError(
                f"the record {self.record_path(shard)} is damaged (it replaces {record.replaces!r:.100}, in the plan "
                f"{planned.replaces!r}); run `preprocess verify`"
            )
        return record

    def table(self, shard: str, columns: Sequence[str] | None = None) -> Any:
        """The rows of a committed shard of this plan, a pyarrow Table: `columns` of `table.TABLE_SCHEMA`, or all.

        Raises:
            RunError: it is missing or damaged.
        """
        file = self.table_file(shard)
        keys = self.plan.batch(self._shards[shard].number)["key"]
        try:
            with file.open() as opened:
                return read_table(opened, keys, columns)
        except (OSError, ValueError) as error:
            raise RunError(f"{file.path} cannot be read: {error}; run `preprocess verify`") from error

    def rows(self, shard: str, columns: Sequence[str] | None = None) -> Any:
        """The rows of a committed shard as they stand now: one that retries tried again is the last's.

        A pyarrow Table in planned order: `columns` of `table.TABLE_SCHEMA`, or all; and `shard`, a dictionary column:
        the name of the shard whose table and tar hold the row and its sample.

        Raises:
            RunError: a table is missing or damaged.
        """
        rows = _located(self.table(shard, columns), shard)
        retried, places = self._retried
        if shard not in places:
            return rows
        keys = self.table(shard, ["key"])["key"].to_pylist()
        replaced = [number for number, key in enumerate(keys) if key in places[shard]]
        latest = retried.select(rows.column_names).take([places[shard][keys[number]] for number in replaced])
        order = list(range(len(keys)))
        for place, number in enumerate(replaced, start=len(keys)):
            order[number] = place
        return pa.concat_tables([rows, latest]).unify_dictionaries().take(order)

    @cached_property
    def _retried(self) -> tuple[Any, dict[str, dict[str, int]]]:
        """All rows of retries; and for shards of this plan, which of them is the last of a key."""
        tables = []
        places: dict[str, dict[str, int]] = {}
        first: dict[str, str] = {}  # for each key, the shard of this plan
        num_rows = 0
        for retry, record in ((run, record) for run in self.retries for record in run.records()):
            tables.append(_located(retry.table(record.shard), record.shard))
            keys, supersedes = (tables[-1][name].to_pylist() for name in ("key", "supersedes"))
            for place, (key, superseded) in enumerate(zip(keys, supersedes, strict=True), start=num_rows):
                places.setdefault(first.setdefault(key, superseded), {})[key] = place
            num_rows += len(keys)
        return pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else None, places

    def superseded(self, shard: Shard) -> list[dict[str, Any]]:
        """For each row of a retry's `shard`, the row that it supersedes, with the columns of the table, and `shard`.

        Raises:
            RunError: a table is missing or damaged, or there is no such row for an item of the retry's plan.
        """
        rows = self._failed_before if shard.replaces is None else self._rows_before(shard.replaces)
        keys = self.plan.keys(shard.number)
        if unknown := next((key for key in keys if key not in rows), None):
            what = f"no row of {shard.replaces}" if shard.replaces else "no failed row"
            raise RunError(f"{self.plan.path} is damaged: {what} has its key {unknown}")
        return [rows[key] for key in keys]

    @cached_property
    def _earlier(self) -> "list[Run]":
        """Of a retry: the run, and the retries before it."""
        run = Run(self.folder)
        return [each for each in run.with_retries if each.retry < self.retry]

    def _rows_before(self, shard: str) -> dict[str, dict[str, Any]]:
        """Of a retry, by key: the rows of the shard named `shard`, which one of its shards replaces."""
        [owner] = (each for each in self._earlier if shard in each._shards)
        return {row["key"]: {**row, "shard": shard} for row in owner.table(shard).to_pylist()}

    @cached_property
    def _failed_before(self) -> dict[str, dict[str, Any]]:
        """Of a retry, by key: the last failed row before it."""
        failed: dict[str, dict[str, Any]] = {}
        for run, record in ((each, record) for each in self._earlier for record in each.records() if record.failed):
            rows = run.table(record.shard, ["key", "status", "reason_class", "num_frames"])
            for row in rows.drop_null().to_pylist():  # a class is of a failure
                failed[row["key"]] = {**row, "shard": record.shard}
        return failed

    @property
    def replaced(self) -> dict[str, str]:
        """The shards whose place a committed shard of a retry has taken, of which nothing stands; and by which."""
        shards = (shard for retry in self.retries if retry.plan.replaces for shard in retry.plan.shards)
        return {shard.replaces: shard.name for shard in shards if shard.replaces and self.is_committed(shard.name)}

    def records(self, split: str | None = None) -> Iterator[Record]:
        """The records of all committed shards of this plan (of `split`), in planned order."""
        committed = self.committed()
        for shard in self.plan.shards:
            if shard.name in committed and split in (None, shard.split):
                yield self.record(shard.name)

    def outcome(self, split: str | None = None) -> Outcome:
        """What has become of the planned items (of `split`), retries included.

        Raises:
            RunError: a record is damaged.
        """
        retries = (record for retry in self.retries for record in retry.records(split))
        return Outcome.of(self.records(split), retries)


def sha256_of(file: BinaryIO) -> str:
    """The sha256 of what is left to read of an open file, in hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def plan_path(folder: Path, retry: int = 0) -> Path:
    """Where the plan of a run is, or of its retry."""
    return folder / (f"plan-{retry:03d}.arrow" if retry else "plan.arrow")


def _located(rows: Any, shard: str) -> Any:
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows), [shard])
    return rows.append_column("shard", column)


def open_or_plan(
    folder: str | os.PathLike[str], corpus: Corpus, fingerprint: Mapping[str, Any], size: ShardSize, device: str = ""
) -> Run:
    """The run in `folder`: planned now if it is new, else as it was planned, if that was for the same fingerprint.

    Any number of ranks may call this at once: one lists the corpus and says what the listing skipped; the others wait
    for its plan. `device` is the model of this rank's device, which a plan written now keeps; see `Plan.device`.

    Raises:
        RunError: the folder holds a run with another fingerprint (the message names what differs), or of items that
            are not below the corpus root, which is another than when they were planned; or one of the folders that a
            run makes is a link. Nothing is changed.
        CorpusError: see `write_plan`.
        EnvironmentFailure: the folder cannot be written to.
    """
    path, root = plan_path(Path(folder)), os.path.realpath(corpus.root)
    if not path.exists():
        require_own_folders(Path(folder))
        plan_once(path, lambda: _plan(corpus, path, fingerprint, size, device, root))
    run = Run(folder)
    different = differences(run.plan.fingerprint, json.loads(json.dumps(fingerprint)))
    if different:
        raise RunError(
            f"{folder} holds a run made otherwise; use another --output.dir, or go on with the same settings. "
            f"It differs in: {'; '.join(different)}"
        )
    if root not in run.plan.roots:
        require_planned(run.plan, root, corpus.root_option)
    return run


def _plan(corpus: Corpus, path: Path, fingerprint: Mapping[str, Any], size: ShardSize, device: str, root: str) -> None:
    write_plan(corpus.items(), path, fingerprint, size, device=device, roots=[root])
    for note in corpus.notes():
        _log.warning("%s", note)


def plan_once(path: Path, write: Callable[[], None]) -> None:
    """Have one of all ranks that call this `write` the plan `path`, which the others wait for.

    Raises:
        EnvironmentFailure: it cannot be written.
    """
    try:
        with closing(Leases(path.parent / "work")) as leases:
            while not path.exists():
                claims = leases.list_claims().get(PLANNING, [])
                generation = claims[-1].generation + 1 if claims else 0
                if (claims and not claims[-1].dead) or not leases.claim(PLANNING, generation):
                    time.sleep(0.1)
                    continue
                with leases.beating():
                    write()
                leases.clear(PLANNING)
    except OSError as error:
        if not path.exists():  # else it was planned by a rank that was thought dead, and that plan stands
            raise EnvironmentFailure(f"cannot write the plan {path}: {error}") from error


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """In which fields, named with dots, two fingerprints differ, and how; empty if they are equal."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        return [d for k in keys for d in differences(theirs.get(k), ours.get(k), f"{name}.{k}" if name else k)]
    return [] if theirs == ours else [f"{name}: {theirs!r} there, {ours!r} here"]
