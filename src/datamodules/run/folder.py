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
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.errors import RunError
from datamodules.run.files import require_own_folders
from datamodules.run.outcome import Outcome
from datamodules.run.plan import Plan, Shard
from datamodules.run.record import Record, ShardFile, read_record, record_path
from datamodules.run.table import read_table

_RETRY_PLAN = re.compile(r"plan-(?!000)([0-9]{3}|[1-9][0-9]{3,8})\.arrow")  # as `plan_path` names it
PLANNING = "plan"  # the lease under which the plan is made; no shard's name is without a dash


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


def plan_path(folder: Path, retry: int = 0) -> Path:
    """Where the plan of a run is, or of its retry."""
    return folder / (f"plan-{retry:03d}.arrow" if retry else "plan.arrow")


def _located(rows: Any, shard: str) -> Any:
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows), [shard])
    return rows.append_column("shard", column)
