"""Retries: items tried again in the same run folder.

A retry is a plan over items of a complete run, and leased, spooled and committed like any plan; it takes their files
as they are now. No committed file is changed, and the tars of the run and of its retries hold each sample once:

- failed items have no sample, so the shards of a retry over them lie beside the others;
- of samples, which are tried again if their status is named (`truncated`), the retry has a shard for each shard that
  holds one. It takes that one's place: what is not tried again is copied from it, and so is a sample that fails when it
  is tried again; its tar moves to `superseded/`.

`Run.rows` shows what holds now. A retry is planned only when all before are done.

| in the folder                        | what                                                              |
|--------------------------------------|-------------------------------------------------------------------|
| `plan-001.arrow`, …                  | the plan of retry 1, …                                            |
| `{split}-retry001-{index:06d}`       | its shards: tar, table and record lie where all others do         |
| table column `supersedes`            | the shard whose row of this key this row replaces                 |
| record fields `superseded_…`         | of which classes those were, so that counting needs no table      |

| fingerprint of a retry | what                                                                                       |
|------------------------|--------------------------------------------------------------------------------------------|
| retry                  | {"of": digest of the run's fingerprint, "classes": those tried again, null: all failures}  |
| all others             | as a run with the settings of the retry has them                                           |
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.errors import RunError
from datamodules.run.commit import finalize_all
from datamodules.run.failures import _is_meant, count_failures, failures
from datamodules.run.folder import Run, plan_path
from datamodules.run.opening import differences, plan_once
from datamodules.run.plan import Shard, ShardSize
from datamodules.run.planning import write_plan, write_plan_of
from datamodules.run.record import Record


@dataclass(frozen=True)
class RetryRequest:
    """What one command is to try again.

    Attributes:
        classes: failed items of these classes, and samples of these statuses; empty: all failed items.
        began: when the command was started, seconds since the epoch. Ranks of one launch start together, and a fast one
            may finish a retry before a slow one looks: who began before a retry was complete belongs to it.
        roots: the folder of the corpus as it is now, absolute, for the retry's plan to record.
    """

    classes: tuple[str, ...]
    began: float
    roots: tuple[str, ...] = ()


def refuse_unfinished(run: Run) -> None:
    """Raise RunError unless every shard of `run`'s own plan is committed."""
    if not run.is_complete():
        raise RunError(f"{run.folder} is not complete: finish it with the same command first, then retry what failed")


def open_or_plan_retry(
    folder: str | os.PathLike[str],
    fingerprint: Mapping[str, Any],
    size: ShardSize,
    request: RetryRequest,
    fixed: Sequence[str] = (),
) -> Run:
    """The retry that `request` asks for: the unfinished one, if it was made likewise, or a new one.

    Any number of ranks may call this at once, and all get the same.

    Args:
        folder: of a run.
        fingerprint: that of a run with the settings of this retry.
        size: of the retry's shards.
        request: what to try again.
        fixed: fields of the fingerprint, named with dots, that have to be as the run has them; so have the corpus and
            the kind of samples.

    Raises:
        RunError: the run is not complete; something fixed differs; the run has an unfinished retry that was made
            otherwise (the message names what differs), or nothing to retry.
        EnvironmentFailure: the folder cannot be written to.
    """
    run = Run(folder)
    refuse_unfinished(run)
    finalize_all(run)
    made_by = {**fingerprint, "retry": {"of": run.fingerprint_digest, "classes": sorted(request.classes) or None}}
    made_by = json.loads(json.dumps(made_by))
    _refuse_changed(differences(run.plan.fingerprint, made_by), fixed)
    retry = _begun(run, made_by, request.began) or _planned(run, made_by, size, request)
    if different := differences(retry.plan.fingerprint, made_by):
        raise RunError(
            f"{folder} has a retry that is not finished, retry {retry.retry}, and was made otherwise: finish it with "
            "its own command first; or, if nothing of it is done, give it up by `preprocess verify --repair`. "
            f"It differs in: {'; '.join(different)}"
        )
    return retry


def _refuse_changed(different: Sequence[str], fixed: Sequence[str]) -> None:
    """Raise RunError if two fingerprints differ in what a retry has to leave as it is."""
    names = ("corpus.", "samples.", *(f"{name}:" for name in fixed))
    if changed := [each for each in different if each.startswith(names)]:
        raise RunError(
            "a retry takes its items as they were planned, and makes samples like the others, so it cannot change "
            f"{'; '.join(changed)}: start a new run"
        )


def _begun(run: Run, made_by: Mapping[str, Any], began: float) -> Run | None:
    for retry in run.retries:
        if not retry.is_complete():
            return retry
    last = run.retries[-1] if run.retries else None
    return last if last and last.plan.fingerprint == made_by and _completed(last) > began else None


def _completed(retry: Run) -> float:
    return max(retry.record_path(shard.name).stat().st_mtime for shard in retry.plan.shards)


def _planned(run: Run, made_by: Mapping[str, Any], size: ShardSize, request: RetryRequest) -> Run:
    if not count_failures(run, request.classes):
        raise RunError(f"{run.folder} has nothing to retry")
    number = run.retries[-1].retry + 1 if run.retries else 1
    path = plan_path(Path(run.folder), number)
    if set(request.classes) & run.outcome().statuses.keys():
        plan_once(path, lambda: _write_replacing(run, path, made_by, number, request))
    else:
        failed = (replace(failure.item, modified=None) for failure in failures(run, request.classes))
        plan_once(path, lambda: write_plan(failed, path, made_by, size, number, roots=request.roots))
    return Run(run.folder, number)


def _write_replacing(run: Run, path: Path, made_by: Mapping[str, Any], number: int, request: RetryRequest) -> None:
    """Write the plan of a retry that has a shard for each one with items to retry, of all that stands there."""
    gone = _superseded(run)
    chosen: list[tuple[Run, Shard, Any]] = []  # with which rows stand, bool [rows]
    for each in run.with_retries:
        names = {record.shard for record in each.records() if _has(record, request.classes)}
        for shard in (shard for shard in each.plan.shards if shard.name in names):
            rows = each.table(shard.name, ["key", "status", "reason_class"]).to_pylist()
            stand = [row["key"] not in gone.get(shard.name, ()) for row in rows]
            if any(stands and _is_meant(row, request.classes) for row, stands in zip(rows, stand, strict=True)):
                chosen.append((each, shard, pa.array(stand)))
    splits = list(dict.fromkeys(shard.split for shard in run.plan.shards))
    chosen.sort(key=lambda place: splits.index(place[1].split))
    batches = (_to_be_read_anew(each.plan.batch(shard.number).filter(stand)) for each, shard, stand in chosen)
    replaces = [shard.name for _, shard, _ in chosen]
    write_plan_of(batches, path, made_by, run.plan.listing, number, replaces, request.roots)


def _to_be_read_anew(batch: Any) -> Any:
    """Rows of a plan, of files as they are now."""
    return batch.set_column(batch.schema.get_field_index("modified"), "modified", pa.nulls(len(batch), pa.float64()))


def _has(record: Record, classes: Collection[str]) -> bool:
    return not record.statuses.keys().isdisjoint(classes) or not record.failure_classes.keys().isdisjoint(classes)


def _superseded(run: Run) -> dict[str, set[str]]:
    """By shard, the keys of its rows that retries have superseded."""
    keys: dict[str, set[str]] = {}
    for retry, record in ((each, record) for each in run.retries for record in each.records()):
        for row in retry.table(record.shard, ["key", "supersedes"]).to_pylist():
            keys.setdefault(row["supersedes"], set()).add(row["key"])
    return keys
