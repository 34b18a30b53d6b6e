"""Patches: failed items, tried again in the same run folder.

A patch is a plan over failed items of a complete run, and leased, spooled and committed like any plan; it takes their
files as they are now. Of its shards, each row supersedes a failed one, which has no sample: so no committed file is
touched, and the tars of the run and of its patches hold each sample once. `Run.rows` shows what holds now. A patch is
planned only when all before are done.

| in the folder                        | what                                                              |
|--------------------------------------|-------------------------------------------------------------------|
| `plan-001.arrow`, …                  | the plan of patch 1, …                                            |
| `{split}-patch001-{index:06d}`       | its shards: tar, table and record lie where all others do         |
| table column `supersedes`            | the shard whose failed row of this key this row replaces          |
| record field `superseded_classes`    | of which classes those were, so that counting needs no table      |

| fingerprint of a patch | what                                                                                       |
|------------------------|--------------------------------------------------------------------------------------------|
| retry                  | {"of": digest of the run's fingerprint, "classes": those tried again, null: all}           |
| all others             | as a run with the settings of the retry has them                                           |
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.errors import ConfigError, RunError
from datamodules.line.commit import settle_all
from datamodules.line.item import Item
from datamodules.line.plan import ShardSize, write_plan
from datamodules.line.run import Run, differences, plan_once, plan_path


@dataclass(frozen=True)
class Failure:
    """An item that failed, and is no sample of a patch either.

    Attributes:
        item: as planned.
        shard: the shard whose table tells of its last failure.
        reason: why it failed.
        reason_class: see `datamodules.errors`.
        attempts: how often it was tried, by the run or patch that `shard` is of.
    """

    item: Item
    shard: str
    reason: str
    reason_class: str
    attempts: int


@dataclass(frozen=True)
class Retry:
    """What one command is to try again.

    Attributes:
        classes: failed items of these classes; empty: of all.
        began: when the command was started, seconds since the epoch. Ranks of one launch start together, and a fast one
            may finish a patch before a slow one looks: who began before a patch was complete belongs to it.
    """

    classes: tuple[str, ...]
    began: float


def failures(run: Run, classes: Collection[str] = (), split: str | None = None) -> Iterator[Failure]:
    """The failed items of `run` (of these classes, of this split), in planned order; reads tables with failures only.

    Raises:
        RunError: a record or table is damaged.
    """
    failed = {record.shard for record in run.records(split) if record.failed}
    for shard in (shard for shard in run.plan.shards if shard.name in failed):
        for number, row in enumerate(run.rows(shard.name, ["reason", "reason_class", "attempts"]).to_pylist()):
            if row["reason"] is not None and (not classes or row["reason_class"] in classes):
                yield Failure(run.plan.item(shard.number, number), **row)


def count_failures(run: Run, classes: Collection[str] = ()) -> dict[str, int]:
    """How many `failures` there are, by class; from records alone.

    Raises:
        ConfigError: nothing has ever failed with one of `classes`; the message names the classes there are.
        RunError: a record is damaged.
    """
    known = {name for each in (run, *run.patches) for record in each.records() for name in record.failure_classes}
    if unknown := sorted(set(classes) - known):
        there = f"there are {', '.join(sorted(known))}" if known else "nothing has failed"
        raise ConfigError(f"--class {unknown[0]}: no item of {run.folder} failed so; {there}")
    return {name: count for name, count in run.outcome().failure_classes.items() if not classes or name in classes}


def refuse_unfinished(run: Run) -> None:
    """Raise RunError unless every shard of `run`'s own plan is committed."""
    if not run.is_complete():
        raise RunError(f"{run.folder} is not complete: finish it with the same command first, then retry what failed")


def open_or_patch(folder: str | os.PathLike[str], fingerprint: Mapping[str, Any], size: ShardSize, retry: Retry) -> Run:
    """The patch that `retry` is to work on: the unfinished one, if it was made likewise, or a new one.

    Any number of ranks may call this at once, and all get the same.

    Args:
        folder: of a run.
        fingerprint: that of a run with the settings of this retry.
        size: of the patch's shards.
        retry: what to try again.

    Raises:
        RunError: the run is not complete, or has an unfinished patch that was made otherwise (the message names what
            differs), or nothing to retry.
        EnvironmentFailure: the folder cannot be written to.
    """
    run = Run(folder)
    refuse_unfinished(run)
    settle_all(run)
    made_by = {**fingerprint, "retry": {"of": run.fingerprint_digest, "classes": sorted(retry.classes) or None}}
    made_by = json.loads(json.dumps(made_by))
    patch = _begun(run, made_by, retry.began) or _planned(run, made_by, size, retry)
    if different := differences(patch.plan.fingerprint, made_by):
        raise RunError(
            f"{folder} has a retry that is not finished, patch {patch.patch}, and was made otherwise: finish it with "
            "its own command first; or, if nothing of it is done, give it up by `preprocess verify --repair`. "
            f"It differs in: {'; '.join(different)}"
        )
    return patch


def _begun(run: Run, made_by: Mapping[str, Any], began: float) -> Run | None:
    for patch in run.patches:
        if not patch.is_complete():
            return patch
    last = run.patches[-1] if run.patches else None
    return last if last and last.plan.fingerprint == made_by and _completed(last) > began else None


def _completed(patch: Run) -> float:
    return max(patch.record_path(shard.name).stat().st_mtime for shard in patch.plan.shards)


def _planned(run: Run, made_by: Mapping[str, Any], size: ShardSize, retry: Retry) -> Run:
    if not count_failures(run, retry.classes):
        raise RunError(f"{run.folder} has nothing to retry")
    number = run.patches[-1].patch + 1 if run.patches else 1
    path = plan_path(Path(run.folder), number)
    failed = (replace(failure.item, modified=None) for failure in failures(run, retry.classes))  # as files now are
    plan_once(path, lambda: write_plan(failed, path, made_by, size, number))
    return Run(run.folder, number)
