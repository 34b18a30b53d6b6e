"""A run: one output folder, its plan, and what has been committed to it.

| in the folder              | what                                                                              |
|----------------------------|-----------------------------------------------------------------------------------|
| `{shard}.tar`              | the samples of a committed shard, for any WebDataset reader                       |
| `tables/{shard}.parquet`   | a row for each planned item of the shard: `commit.TABLE_SCHEMA`                   |
| `records/{shard}.json`     | what is true: the shard is committed if and only if this exists                   |
| `plan.arrow`               | the plan and the fingerprint: `plan.py`                                           |
| `config.yaml`              | the configuration that started the run                                            |
| `work/`                    | ranks, leases, spools, staged files of shards in the making                       |
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.line.item import Corpus
from datamodules.line.leases import Leases
from datamodules.line.plan import Plan, ShardSize, write_plan

_PLANNING = "plan"  # the lease under which the plan is made; no shard's name is without a dash


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
        failure_classes: how many of these by class; see the table's `reason_class`.
        num_frames: frames of the committed items.
        rank: who committed.
        seconds: from lease to commit.
        fingerprint: digest of the run's fingerprint.
    """

    shard: str
    attempt: str
    tar: StagedFile
    table: StagedFile
    planned: int
    committed: int
    failed: int
    failure_classes: dict[str, int]
    num_frames: int
    rank: str
    seconds: float
    fingerprint: str

    def to_json(self) -> str:
        """The text of the record file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read what `to_json` wrote; ValueError, TypeError or KeyError where it is something else."""
        fields = json.loads(text)
        return cls(**{**fields, "tar": StagedFile(**fields["tar"]), "table": StagedFile(**fields["table"])})


class Run:
    """A run's folder, opened; nothing is written by opening it.

    Raises:
        RunError: the folder is no run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.work = self.folder / "work"
        if not (self.folder / "plan.arrow").is_file():
            raise RunError(f"{self.folder} is no run: it has no plan.arrow; give the folder that was --output.dir")
        self.plan = Plan(self.folder / "plan.arrow")

    @cached_property
    def fingerprint_digest(self) -> str:
        """16 hexadecimal digits that name the fingerprint."""
        return hashlib.sha256(json.dumps(self.plan.fingerprint, sort_keys=True).encode()).hexdigest()[:16]

    def record_path(self, shard: str) -> Path:
        """Where the record of the shard named `shard` is, once it is committed."""
        return self.folder / "records" / f"{shard}.json"

    def is_committed(self, shard: str) -> bool:
        """Whether the shard named `shard` is committed."""
        return self.record_path(shard).exists()

    def committed(self) -> set[str]:
        """Names of all committed shards."""
        return {path.stem for path in (self.folder / "records").glob("*.json")}

    def record(self, shard: str) -> Record:
        """The record of a committed shard.

        Raises:
            RunError: it is not committed, or its record is damaged.
        """
        path = self.record_path(shard)
        try:
            return Record.from_json(path.read_text())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"the record {path} is missing or damaged ({error}); run `preprocess verify`") from error

    def table(self, shard: str, columns: Sequence[str] | None = None) -> Any:
        """The rows of a committed shard, a pyarrow Table: `columns` of `commit.TABLE_SCHEMA`, or all.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.folder / "tables" / f"{shard}.parquet"
        try:
            with open(path, "rb") as file:  # no thread pool for so little: it may abort a process that ends at once
                return pq.ParquetFile(file).read(columns=columns, use_threads=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"{path} cannot be read: {error}; run `preprocess verify`") from error

    def records(self) -> Iterator[Record]:
        """The records of all committed shards, in planned order."""
        committed = self.committed()
        for shard in self.plan.shards:
            if shard.name in committed:
                yield self.record(shard.name)


def open_or_plan(
    folder: str | os.PathLike[str], corpus: Corpus, fingerprint: Mapping[str, Any], size: ShardSize
) -> Run:
    """The run in `folder`: planned now if it is new, else as it was planned, if that was for the same fingerprint.

    Any number of ranks may call this at once: one lists the corpus, the others wait for its plan.

    Raises:
        RunError: the folder holds a run with another fingerprint; the message names what differs. Nothing is changed.
        CorpusError: see `write_plan`.
        EnvironmentFailure: the folder cannot be written to.
    """
    if not (Path(folder) / "plan.arrow").exists():
        _plan(Path(folder), corpus, fingerprint, size)
    run = Run(folder)
    different = differences(run.plan.fingerprint, json.loads(json.dumps(fingerprint)))
    if different:
        raise RunError(
            f"{folder} holds a run made otherwise; use another --output.dir, or go on with the same settings. "
            f"It differs in: {'; '.join(different)}"
        )
    return run


def _plan(folder: Path, corpus: Corpus, fingerprint: Mapping[str, Any], size: ShardSize) -> None:
    path = folder / "plan.arrow"
    try:
        with closing(Leases(folder / "work")) as leases:
            while not path.exists():
                claims = leases.survey().get(_PLANNING, [])
                generation = claims[-1].generation + 1 if claims else 0
                if (claims and not claims[-1].dead) or not leases.claim(_PLANNING, generation):
                    time.sleep(0.1)
                    continue
                with leases.beating():
                    write_plan(corpus.items(), path, fingerprint, size)
                leases.clear(_PLANNING)
    except OSError as error:
        if not path.exists():  # else it was planned by a rank that was thought dead, and that plan stands
            raise EnvironmentFailure(f"cannot write the plan {path}: {error}") from error


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """In which fields, named with dots, two fingerprints differ, and how; empty if they are equal."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        return [d for k in keys for d in differences(theirs.get(k), ours.get(k), f"{name}.{k}" if name else k)]
    return [] if theirs == ours else [f"{name}: {theirs!r} there, {ours!r} here"]
