"""Failures: the items that failed, and samples that are selected by their status or key, as read from the tables."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.run.keys import shards_with
from datamodules.run.result import OK


@dataclass(frozen=True)
class Failure:
    """An item that failed, and in every retry too; or an item whose sample has a requested status or key.

    Attributes:
        item: as planned.
        shard: name of the shard whose table has its valid row.
        reason: why it failed; for a sample, its status.
        reason_class: see `datamodules.errors`; for a sample, its status.
        attempts: number of attempts in the run or retry that `shard` belongs to.
    """

    item: Item
    shard: str
    reason: str
    reason_class: str
    attempts: int


def failures(
    run: Run, classes: Collection[str] = (), split: str | None = None, keys: Collection[str] | None = None
) -> Iterator[Failure]:
    """Yield the failed items of `run` in planned order.

    Reads only the tables of shards that have one of `keys`; without `keys`, of those whose records count failures or a
    status other than `ok`.

    Args:
        run: the run; its retries are taken into account.
        classes: failure classes, or statuses of samples, such as `truncated`; empty: all failures, or all of `keys`.
        split: only this split; None: all.
        keys: only items with these keys, samples included, a set; None: all items.

    Raises:
        RunError: a record or table is damaged.
    """
    records = run.records(split)
    if keys is None:
        shards = {record.shard for record in records if record.failed or record.statuses.keys() - {OK}}
    else:
        with_keys = {run.plan.shards[number].name for number in shards_with(run.plan, keys)}
        shards = {record.shard for record in records if record.shard in with_keys}
    for shard in (shard for shard in run.plan.shards if shard.name in shards):
        rows = run.rows(shard.name, ["key", "status", "reason", "reason_class", "attempts"]).to_pylist()
        for number, row in enumerate(rows):
            if is_selected(row, classes, keys):
                item = run.plan.item(shard.number, number)
                reason, reason_class = row["reason"] or row["status"], row["reason_class"] or row["status"]
                yield Failure(item, row["shard"], reason, reason_class, row["attempts"])


def is_selected(row: Mapping[str, Any], classes: Collection[str], keys: Collection[str] | None) -> bool:
    """Return whether `classes` and `keys` select a row of a table.

    Args:
        row: with at least `key`, `status` and `reason_class`.
        classes, keys: see `failures`.
    """
    if keys is not None and row["key"] not in keys:
        return False
    if classes:
        return (row["reason_class"] or row["status"]) in classes
    return keys is not None or row["reason_class"] is not None


def count_failures(run: Run, classes: Collection[str] = (), keys: Collection[str] | None = None) -> dict[str, int]:
    """Return the number of `failures` by class, and of samples by status. Without `keys`, reads only the records.

    Args:
        run: the run; its retries are taken into account.
        classes, keys: see `failures`.

    Raises:
        ConfigError: no item ever had one of `classes`; the message names the classes of this run.
        RunError: a record is damaged.
    """
    records = [record for owner in run.with_retries for record in owner.records()]
    known = {name for record in records for name in (*record.failure_classes, *record.statuses)} - {OK}
    if unknown := sorted(set(classes) - known):
        choices = f"Use one of {', '.join(sorted(known))}" if known else "Nothing has failed"
        raise ConfigError(f"--class {unknown[0]}: no item of {run.store} has this class. {choices}")
    if keys is not None:
        return dict(Counter(failure.reason_class for failure in failures(run, classes, keys=keys)))
    outcome = run.outcome()
    counts = {**outcome.failure_classes, **outcome.statuses} if classes else outcome.failure_classes
    return {name: count for name, count in counts.items() if not classes or name in classes}
