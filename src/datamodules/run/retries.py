"""Retries: items of a complete run, planned again in the same run folder.

The plan of a retry is leased, spooled and committed like any plan, and reads the files of its items as they are now. No
committed file is changed, and the current tars of a run and its retries hold every sample once:

- Failed items have no sample. The shards of a retry of failures only add samples beside the others.
- Samples are retried if their status is named (such as `truncated`), or their key. For every shard with such a sample
  the retry has a shard that replaces it as a whole. It has copies of the samples that are not retried, and of those
  that fail when they are retried. The tar of the replaced shard moves to `superseded/`.

`Run.rows` returns the rows that are valid after all retries. A retry is planned only when all before it are complete.

| in the folder                        | content                                                           |
|--------------------------------------|-------------------------------------------------------------------|
| `plan-001.arrow`, …                  | the plan of retry 1, …                                            |
| `{split}-retry001-{index:06d}`       | its shards, with tar, table and record like all others            |
| table column `supersedes`            | the shard whose row of this key this row replaces                 |
| record fields `superseded_…`         | counts over the replaced rows, so that totals need no tables      |

| fingerprint of a retry | content                                                                                     |
|------------------------|---------------------------------------------------------------------------------------------|
| retry                  | {"of": digest of the run's fingerprint, "classes": those tried again, null: all failures,   |
|                        | "keys": {"number", "sha256"} of those tried again, null: not selected by key}               |
| all other fields       | as a run with the settings of the retry has them                                            |
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.errors import RunError
from datamodules.run.commit import finalize_all
from datamodules.run.failures import count_failures, failures, is_selected
from datamodules.run.folder import Run
from datamodules.run.keys import shards_with
from datamodules.run.opening import differences, plan_once
from datamodules.run.plan import Shard, ShardSize, plan_name
from datamodules.run.planning import write_batches, write_plan
from datamodules.run.record import Record
from datamodules.run.store import Store


@dataclass(frozen=True)
class RetryRequest:
    """Which items a command tries again.

    Attributes:
        classes: failed items of these classes, and samples of these statuses; empty: all failed items, or all items of
            `keys`.
        began: start of the command, in seconds since the epoch. The ranks of one launch start together, and fast ranks
            may complete a retry before a slow one opens it. So a rank that began before a retry was complete takes part
            in that retry, and plans no new one.
        roots: absolute folder of the corpus now, for the plan of the retry.
        keys: only items with these keys, all of them planned, whether they failed or are samples; None: any item.
    """

    classes: tuple[str, ...]
    began: float
    roots: tuple[str, ...] = ()
    keys: frozenset[str] | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Return what the fingerprint of the retry says of the selection, the same for all ranks of a retry."""
        keys = None
        if self.keys is not None:
            digest = hashlib.sha256("\n".join(sorted(self.keys)).encode()).hexdigest()[:16]
            keys = {"number": len(self.keys), "sha256": digest}
        return {"classes": sorted(self.classes) or None, "keys": keys}


def refuse_unfinished(run: Run) -> None:
    """Raise RunError unless every shard of `run`'s own plan is committed."""
    if not run.is_complete():
        raise RunError(f"{run.store} is not complete. Finish it with the same command first, then retry")


def open_or_plan_retry(
    folder: str | os.PathLike[str] | Store,
    fingerprint: Mapping[str, Any],
    size: ShardSize,
    request: RetryRequest,
    fixed: Sequence[str] = (),
) -> Run:
    """Open the retry that `request` asks for: the unfinished one if it has the same settings, else a new one.

    Any number of ranks may call this at once, and all open the same retry.

    Args:
        folder: of a run, or its store.
        fingerprint: of a run with the settings of this retry.
        size: of the retry's shards. Not used for a retry of samples, whose shards are those of the run.
        request: which items to try again.
        fixed: fields of the fingerprint, named with dots, in which a retry must equal its run. The corpus and the kind
            of samples must, too.

    Raises:
        RunError: the run is not complete; a fixed field differs; the run has an unfinished retry with other settings
            (the message names what differs); or the run has nothing to retry.
        EnvironmentFailure: the folder cannot be written to.
    """
    run = Run(folder)
    refuse_unfinished(run)
    finalize_all(run)
    made_by = {**fingerprint, "retry": {"of": run.fingerprint_digest, **request.fingerprint()}}
    made_by = json.loads(json.dumps(made_by))
    _refuse_changed(differences(run.plan.fingerprint, made_by), fixed)
    retry = _current_retry(run, made_by, request.began) or _plan_retry(run, made_by, size, request)
    if different := differences(retry.plan.fingerprint, made_by):
        raise RunError(
            f"{run.store} has an unfinished retry, retry {retry.retry}, with other settings. Finish it with its own "
            "command first; or, if nothing of it is done, withdraw it with `preprocess verify --repair`. "
            f"It differs in: {'; '.join(different)}"
        )
    return retry


def _refuse_changed(different: Sequence[str], fixed: Sequence[str]) -> None:
    """Raise RunError if `different`, what `differences` returned, names a field that a retry must not change."""
    names = ("corpus.", "samples.", *(f"{name}:" for name in fixed))
    if changed := [difference for difference in different if difference.startswith(names)]:
        raise RunError(
            "a retry takes its items as they were planned, and its samples must be like the others, so it cannot "
            f"change {'; '.join(changed)}. Start a new run"
        )


def _current_retry(run: Run, made_by: Mapping[str, Any], began: float) -> Run | None:
    """Return the unfinished retry, or the last one if it was completed after `began`; None if there is neither."""
    for retry in run.retries:
        if not retry.is_complete():
            return retry
    last = run.retries[-1] if run.retries else None
    return last if last and last.plan.fingerprint == made_by and completed_at(last) > began else None


def completed_at(retry: Run) -> float:
    """Return when a complete retry was completed, in seconds since the epoch."""
    return max(retry.committed_at(shard.name) for shard in retry.plan.shards)


def _plan_retry(run: Run, made_by: Mapping[str, Any], size: ShardSize, request: RetryRequest) -> Run:
    """Plan the next retry of `run`, once among all ranks, and open it."""
    counts = count_failures(run, request.classes, request.keys)
    if not counts:
        raise RunError(f"{run.store} has nothing to retry")
    number = run.retries[-1].retry + 1 if run.retries else 1
    name = plan_name(number)
    if counts.keys() & run.outcome().statuses.keys():
        plan_once(run.store, name, lambda: _write_replacing(run, made_by, number, request))
    else:
        selected = failures(run, request.classes, keys=request.keys)
        failed = (replace(failure.item, modified=None, version=None) for failure in selected)
        plan_once(run.store, name, lambda: write_plan(failed, run.store, made_by, size, number, roots=request.roots))
    return Run(run.store, number)


def _write_replacing(run: Run, made_by: Mapping[str, Any], number: int, request: RetryRequest) -> None:
    """Write the plan of a retry of samples: for every shard with rows to retry a shard of all its valid rows."""
    superseded = _superseded(run)
    chosen: list[_Replaced] = []
    for owner in run.with_retries:
        for shard in _candidates(owner, request):
            rows = owner.table(shard.name, ["key", "status", "reason_class"]).to_pylist()
            valid = [row["key"] not in superseded.get(shard.name, ()) for row in rows]
            tried = [is_selected(row, request.classes, request.keys) for row in rows]
            if np.logical_and(valid, tried).any():
                chosen.append(_Replaced(owner, shard, np.array(valid), np.array(tried)[valid]))
    splits = list(dict.fromkeys(shard.split for shard in run.plan.shards))
    chosen.sort(key=lambda entry: splits.index(entry.shard.split))  # a plan has the shards of a split together
    batches = (
        _without_versions(entry.owner.plan.batch(entry.shard.number).filter(pa.array(entry.valid))) for entry in chosen
    )
    replaces = [entry.shard.name for entry in chosen]
    tried_rows = np.concatenate([entry.tried for entry in chosen])
    write_batches(
        run.store, batches, made_by, run.plan.listing, number, replaces, roots=request.roots, tried=tried_rows
    )


class _Replaced(NamedTuple):
    """A shard that a retry replaces.

    Attributes:
        owner: the run or the retry that has it in its plan.
        shard: the shard.
        valid: which of its rows no retry has superseded yet, bool [rows].
        tried: which of the valid rows are tried again, bool [valid rows].
    """

    owner: Run
    shard: Shard
    valid: NDArray[np.bool_]
    tried: NDArray[np.bool_]


def _candidates(owner: Run, request: RetryRequest) -> Iterator[Shard]:
    """Yield the shards of a plan that may have rows to retry: those with one of the keys, or one of the classes."""
    if request.keys is not None:
        yield from (owner.plan.shards[number] for number in shards_with(owner.plan, request.keys))
        return
    names = {record.shard for record in owner.records() if _has(record, request.classes)}
    yield from (shard for shard in owner.plan.shards if shard.name in names)


def _without_versions(batch: Any) -> Any:
    """Return rows of a plan without times and ETags: a retry reads files as they are now, also if they have changed."""
    for name in ("modified", "version"):
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, name, pa.nulls(len(batch), batch.schema.field(index).type))
    return batch


def _has(record: Record, classes: Collection[str]) -> bool:
    """Return whether a shard has rows of these failure classes or statuses."""
    return not record.statuses.keys().isdisjoint(classes) or not record.failure_classes.keys().isdisjoint(classes)


def _superseded(run: Run) -> dict[str, set[str]]:
    """Return by shard the keys of its rows that retries have superseded."""
    keys: dict[str, set[str]] = {}
    for owner, record in ((retry, record) for retry in run.retries for record in retry.records()):
        for row in owner.table(record.shard, ["key", "supersedes"]).to_pylist():
            keys.setdefault(row["supersedes"], set()).add(row["key"])
    return keys
