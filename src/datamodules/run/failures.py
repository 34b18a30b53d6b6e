"""Failures: the items that failed, and samples with a status other than `ok`, as tables tell of them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.run.result import OK


@dataclass(frozen=True)
class Failure:
    """An item that failed, and is no sample of a retry either; or one whose sample has a status that was asked for.

    Attributes:
        item: as planned.
        shard: the shard whose table tells of its last attempt.
        reason: why it failed; of a sample, its status.
        reason_class: see `datamodules.errors`; of a sample, its status.
        attempts: how often it was tried, by the run or retry that `shard` is of.
    """

    item: Item
    shard: str
    reason: str
    reason_class: str
    attempts: int


def failures(run: Run, classes: Collection[str] = (), split: str | None = None) -> Iterator[Failure]:
    """The failed items of `run` (of these classes, of this split), in planned order; reads tables with such only.

    A class may also be a status of samples, as `truncated`.

    Raises:
        RunError: a record or table is damaged.
    """
    found = {record.shard for record in run.records(split) if record.failed or record.statuses.keys() - {OK}}
    for shard in (shard for shard in run.plan.shards if shard.name in found):
        rows = run.rows(shard.name, ["status", "reason", "reason_class", "attempts"]).to_pylist()
        for number, row in enumerate(rows):
            if _is_meant(row, classes):
                told = row["reason"] or row["status"], row["reason_class"] or row["status"], row["attempts"]
                yield Failure(run.plan.item(shard.number, number), row["shard"], *told)


def _is_meant(row: Mapping[str, Any], classes: Collection[str]) -> bool:
    """Whether the row of a table is a failure of these classes, or a sample of such a status."""
    return (row["reason_class"] or row["status"]) in classes if classes else row["reason_class"] is not None


def count_failures(run: Run, classes: Collection[str] = ()) -> dict[str, int]:
    """How many `failures` there are, by class; from records alone.

    Raises:
        ConfigError: no item has ever had one of `classes`; the message names the classes there are.
        RunError: a record is damaged.
    """
    records = [record for each in run.with_retries for record in each.records()]
    known = {name for record in records for name in (*record.failure_classes, *record.statuses)} - {OK}
    if unknown := sorted(set(classes) - known):
        there = f"there are {', '.join(sorted(known))}" if known else "nothing has failed"
        raise ConfigError(f"--class {unknown[0]}: no item of {run.folder} ended so; {there}")
    outcome = run.outcome()
    counts = {**outcome.failure_classes, **outcome.statuses} if classes else outcome.failure_classes
    return {name: count for name, count in counts.items() if not classes or name in classes}
