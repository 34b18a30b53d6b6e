"""A run: one output folder, its plan, and the shards that are committed to it.

| in the folder              | content                                                                           |
|----------------------------|-----------------------------------------------------------------------------------|
| `{shard}.tar`              | the samples of a committed shard, for any WebDataset reader                       |
| `tables/{shard}.parquet`   | a row for each planned item of the shard: `table.TABLE_SCHEMA`                    |
| `records/{shard}.json`     | the record of a shard: the shard is committed if and only if it exists            |
| `plan.arrow`               | the shards of the plan, and the fingerprint: `plan.py`                            |
| `plan.{digest}.zst`        | the items of the plan                                                             |
| `plan-001.arrow`, …        | the same of retries, which try items again: `retries.py`                          |
| `superseded/{shard}.tar`   | tars that shards of retries have replaced, where the pattern `O/*.tar` misses them |
| `config.yaml`              | the configuration that started the run                                            |
| `work/`                    | files of ranks, leases, spools, and the staged files of shards                    |
| `stray/`                   | files that belong to no shard, moved here by `verify --repair`                    |
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.object_store import StoreUnavailableError
from datamodules.run.bucket import as_store
from datamodules.run.outcome import Outcome
from datamodules.run.parallel_reads import read_each
from datamodules.run.plan import Plan, Shard, plan_name
from datamodules.run.record import RECORDS, Record, ShardFile, read_record, record_name
from datamodules.run.store import Store
from datamodules.run.table import read_table

_RETRY_PLAN = re.compile(r"plan-(?!000)([0-9]{3}|[1-9][0-9]{3,8})\.arrow")  # what `plan_name` makes
PLANNING = "plan"  # name of the lease for planning; all names of shards contain a dash


class Run:
    """An opened run folder, with the plan of the run or of one of its retries. Opening it writes nothing.

    Args:
        folder: of the run, or its store.
        retry: 0 for the run as it was first planned; n for its n-th retry, whose plan has items of the run. Leases,
            ranks and commits treat both alike.

    Attributes:
        store: of the run.
        retry: as given.
        plan: of the run or the retry.
        work: folder on a local disk for the spools, fault files and scratch of this plan's ranks.

    Raises:
        RunError: the folder is not a run, has no such retry, or contains a link in place of a folder of its own.
        OSError: the store cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str] | Store, retry: int = 0) -> None:
        self.store = as_store(folder)
        self.retry = retry
        name = plan_name(retry)
        if self.store.find(name) is None:
            with suppress(NotADirectoryError):
                self.store.names()  # raises if there is no such bucket, which the answer for one object does not tell
            raise RunError(f"{self.store} is no run: it has no {name}; give the folder that was --output.dir")
        self.store.check_folders()
        self.plan = Plan(self.store, retry)
        if self.plan.retry != retry:
            raise RunError(
                f"{self.plan.location} is the plan of retry {self.plan.retry}, not of {retry}: it is damaged or "
                "misplaced"
            )

    @cached_property
    def work(self) -> Path:
        # the local disk outlives a run that is deleted in its bucket: its spools must not enter another one there
        plan = f"{self.plan.rows_name}.{self.fingerprint_digest}"
        return self.store.work if self.store.shares_work else self.store.work / plan

    @cached_property
    def retries(self) -> "list[Run]":
        """The retries of this run when this is first read, in order; empty for a retry.

        Raises:
            RunError: the plan of a retry is damaged.
        """
        if self.retry:
            return []
        retries = [type(self)(self.store, number) for number in retry_numbers(self.store)]
        known: set[str] = set()
        for previous, retry in zip((self, *retries), retries, strict=False):
            known.update(shard.name for shard in previous.plan.shards)
            if unknown := set(retry.plan.replaces) - known:
                what = f"it replaces {min(unknown)}, which no plan before it has"
                raise RunError(f"{retry.plan.location} is damaged: {what}")
        return retries

    @property
    def with_retries(self) -> "list[Run]":
        """This run and its `retries`, in order."""
        return [self, *self.retries]

    @cached_property
    def fingerprint_digest(self) -> str:
        """The first 16 hexadecimal digits of the fingerprint's sha256."""
        return hashlib.sha256(json.dumps(self.plan.fingerprint, sort_keys=True).encode()).hexdigest()[:16]

    def tar_file(self, shard: str) -> ShardFile:
        """Return the tar of the shard named `shard`, which may belong to another plan of this run."""
        return ShardFile(self.store, shard, "tar")

    def table_file(self, shard: str) -> ShardFile:
        """Return the table of the shard named `shard`, which may belong to another plan of this run."""
        return ShardFile(self.store, shard, "parquet")

    def is_committed(self, shard: str) -> bool:
        """Return whether the shard named `shard` is committed."""
        return self.store.find(record_name(shard)) is not None

    def committed_at(self, shard: str) -> float:
        """Return when the committed shard named `shard` was committed, in seconds since the epoch by the store's clock.

        Raises:
            RunError: the shard is not committed.
        """
        entry = self.store.find(record_name(shard))
        if entry is None:
            raise RunError(f"{self.store} has no record of {shard}; run `preprocess verify`")
        return entry.modified

    def committed(self) -> set[str]:
        """Return the names of the planned shards that are committed; records of other names are ignored."""
        names = self.store.names(RECORDS)
        return {name.removesuffix(".json") for name in names if name.endswith(".json")} & self._shards.keys()

    @cached_property
    def _shards(self) -> dict[str, Shard]:
        """The shards of this plan, by name."""
        return {shard.name: shard for shard in self.plan.shards}

    def is_complete(self) -> bool:
        """Return whether every shard of this plan is committed."""
        return self.committed() == self._shards.keys()

    def record(self, shard: str) -> Record:
        """Return the record of a committed shard of this plan.

        Raises:
            RunError: the shard is not committed, or its record is damaged or contradicts the plan.
        """
        record, planned = read_record(self.store, shard), self._shards[shard]
        if record.replaces != planned.replaces:
            raise RunError(
                f"the record {self.store.locate(record_name(shard))} is damaged (it replaces {record.replaces!r:.100}, "
                f"in the plan {planned.replaces!r}); run `preprocess verify`"
            )
        return record

    def table(self, shard: str, columns: Sequence[str] | None = None) -> Any:
        """Return the rows of a committed shard of this plan.

        Args:
            shard: name of the shard.
            columns: of `table.TABLE_SCHEMA`; None: all.

        Returns:
            A pyarrow Table in planned order.

        Raises:
            RunError: the table is missing or damaged.
            EnvironmentFailure: the store does not answer, or refuses the credentials.
        """
        file = self.table_file(shard)
        keys = self.plan.batch(self._shards[shard].number)["key"]
        try:
            with file.open() as opened:
                return read_table(opened, keys, columns)
        except StoreUnavailableError as error:
            raise EnvironmentFailure(
                f"{file.location} cannot be read: {error.strerror}. Fix that, and rerun the same command"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{file.location} cannot be read: {error}; run `preprocess verify`") from error

    def rows(self, shard: str, columns: Sequence[str] | None = None) -> Any:
        """Return the valid rows of a committed shard: for an item that retries tried again, the last retry's row.

        Args:
            shard: name of the shard.
            columns: of `table.TABLE_SCHEMA`; None: all.

        Returns:
            A pyarrow Table in planned order with `columns` and the dictionary column `shard`: the name of the shard
            whose table and tar hold the row and its sample.

        Raises:
            RunError: a table is missing or damaged.
        """
        rows = _with_shard(self.table(shard, columns), shard)
        retried, latest_index = self._retried
        if shard not in latest_index:
            return rows
        keys = self.table(shard, ["key"])["key"].to_pylist()
        replaced = [number for number, key in enumerate(keys) if key in latest_index[shard]]
        latest = retried.select(rows.column_names).take([latest_index[shard][keys[number]] for number in replaced])
        # append the latest rows, and take them where the rows that they replace were
        order = list(range(len(keys)))
        for index, number in enumerate(replaced, start=len(keys)):
            order[number] = index
        return pa.concat_tables([rows, latest]).unify_dictionaries().take(order)

    @cached_property
    def _retried(self) -> tuple[Any, dict[str, dict[str, int]]]:
        """(all rows of retries, by shard of this plan and by key the index of the last of these rows)."""
        tables = []
        latest_index: dict[str, dict[str, int]] = {}
        first: dict[str, str] = {}  # by key, the shard of this plan: later retries supersede rows of earlier retries
        num_rows = 0
        for retry, record in ((run, record) for run in self.retries for record in run.records()):
            tables.append(_with_shard(retry.table(record.shard), record.shard))
            keys, supersedes = (tables[-1][name].to_pylist() for name in ("key", "supersedes"))
            for index, (key, superseded) in enumerate(zip(keys, supersedes, strict=True), start=num_rows):
                latest_index.setdefault(first.setdefault(key, superseded), {})[key] = index
            num_rows += len(keys)
        return pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else None, latest_index

    def superseded(self, shard: Shard) -> list[dict[str, Any]]:
        """Return the rows that the rows of a retry's shard supersede.

        Args:
            shard: of this retry's plan.

        Returns:
            One dictionary per row of `shard`, in order, with columns of the table, and `shard`, the name of its shard.

        Raises:
            RunError: a table is missing or damaged, or an item of the retry's plan has no row before.
        """
        rows = self._failed_before if shard.replaces is None else self._rows_before(shard.replaces)
        keys = self.plan.keys(shard.number)
        if unknown := next((key for key in keys if key not in rows), None):
            what = f"no row of {shard.replaces}" if shard.replaces else "no failed row"
            raise RunError(f"{self.plan.location} is damaged: {what} has its key {unknown}")
        return [rows[key] for key in keys]

    @cached_property
    def _previous(self) -> "list[Run]":
        """The run and the retries before this retry, in order."""
        return [previous for previous in Run(self.store).with_retries if previous.retry < self.retry]

    def _rows_before(self, shard: str) -> dict[str, dict[str, Any]]:
        """Return by key the rows of the earlier shard named `shard`, which a shard of this retry replaces."""
        [owner] = (previous for previous in self._previous if shard in previous._shards)
        return {row["key"]: {**row, "shard": shard} for row in owner.table(shard).to_pylist()}

    @cached_property
    def _failed_before(self) -> dict[str, dict[str, Any]]:
        """By key the last failed row before this retry."""
        failed: dict[str, dict[str, Any]] = {}
        for owner, record in ((run, record) for run in self._previous for record in run.records() if record.failed):
            rows = owner.table(record.shard, ["key", "status", "reason_class", "num_frames"])
            for row in rows.drop_null().to_pylist():  # samples have no reason_class
                failed[row["key"]] = {**row, "shard": record.shard}
        return failed

    @property
    def replaced(self) -> dict[str, str]:
        """Names of the shards that committed shards of retries have replaced as a whole, with the names of those."""
        replaced: dict[str, str] = {}
        for retry in (retry for retry in self.retries if retry.plan.replaces):
            committed = retry.committed()
            for shard in retry.plan.shards:
                # an NFS client may list a record later than it finds it
                if shard.replaces and (shard.name in committed or self.is_committed(shard.name)):
                    replaced[shard.replaces] = shard.name
        return replaced

    def records(self, split: str | None = None) -> Iterator[Record]:
        """Yield the records of the committed shards of this plan (of `split`; None: of all), in planned order."""
        committed = self.committed()
        names = [shard.name for shard in self.plan.shards if shard.name in committed and split in (None, shard.split)]
        yield from read_each(self.store, self.record, names)

    def outcome(self, split: str | None = None) -> Outcome:
        """Count what became of the planned items (of `split`; None: of all), retries included.

        Raises:
            RunError: a record is damaged.
        """
        retries = (record for retry in self.retries for record in retry.records(split))
        return Outcome.of(self.records(split), retries)


def retry_numbers(store: Store) -> list[int]:
    """Return the numbers of the retries of the run in `store`, ascending."""
    names = (_RETRY_PLAN.fullmatch(name) for name in store.names())
    return sorted(int(name[1]) for name in names if name)


def _with_shard(rows: Any, shard: str) -> Any:
    """Return a pyarrow Table with a dictionary column `shard` that has one value."""
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows), [shard])
    return rows.append_column("shard", column)
