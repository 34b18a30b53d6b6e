"""Commit: turn the results in a spool into a shard, which is committed as a whole and exactly once, or not at all.

When every planned row has a result, the shard is committed in three steps:

1. The tar and the table are written to `work/staging`, durably, under names that contain the rank.
2. The record is *created* in `records/`, exclusively and durably. This is the commit.
3. The staged table and tar are published under their final names. If the shard replaces another, the tar of that one is
   moved to `superseded/` first.

Why the creation decides: one operation must settle which of several writers wins, and it must never replace the record
of another rank, whose files may be in use. The record appears whole, so no reader sees a part of one.

Why three steps, and what a process that ends between two of them leaves:

- before the record: staged files that no record names. Readers do not look into `work/staging`; `cleanup.py` removes
  them when the run is complete, and another rank takes the shard over from the spool.
- after the record: a committed shard whose files are still in `work/staging`. The record names the rank that wrote
  them, so every rank can finish step 3 (`finalize`), and readers open the files where they are (`record.ShardFile`).
- within step 3: some files have their final names, others not. Each move is done or not, and is repeated without harm.

A tar is visible to any WebDataset reader once it is published. So it is the last of the moves, and the record is made
durable before: no crash of the machine can take back the record of a tar that a reader has seen.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.record import Record, Timing, record_name
from datamodules.run.shard_files import count_devices, count_rows, write_table, write_tar
from datamodules.run.spool import Spool

Figures = Mapping[str, Any]

_NONE: Figures = {}
_UNTIMED = Timing()


def commit(
    run: Run, shard: Shard, spool: Spool, rank: str, seconds: float, machine: Figures = _NONE, timing: Timing = _UNTIMED
) -> bool:
    """Commit `shard` from `spool`, and remove the shard's spools.

    The tar's bytes depend on the samples alone: members in planned order, fixed headers.

    Args:
        run: the run or retry that has `shard` in its plan.
        shard: the shard to commit.
        spool: holds a result for every row of the shard.
        rank: name of the rank that commits.
        seconds, machine, timing: see `Record`; of the time before this call.

    Returns:
        Whether this call committed the shard; False if another rank had, in which case this one's files are removed.

    Raises:
        OSError: a step failed. Either the shard is not committed, or it is and only step 3 is unfinished.
    """
    staged = run.tar_file(shard.name).staged(rank), run.table_file(shard.name).staged(rank)
    started = time.monotonic()
    try:
        contents = _stage(run, shard, spool, *staged)
    except BaseException:
        with suppress(OSError):
            _discard(run, staged)
        raise
    record = Record(
        shard=shard.name,
        attempt=f"{shard.name}.{rank}",
        replaces=shard.replaces,
        rank=rank,
        fingerprint=run.fingerprint_digest,
        machine=dict(machine),
        **_times(seconds, timing, time.monotonic() - started),
        **contents,
    )
    # an error here propagates and removes nothing: the store may have created the record and lost only its reply
    won = run.store.create(record_name(shard.name), record.to_json().encode())
    if won:
        _publish(run, record)
    else:
        _discard(run, staged)
    spool.close()
    spool.remove_all()
    return won


def finalize(run: Run, record: Record) -> None:
    """Finish step 3 of a commit: move the files of a committed shard to their final names, unless they are moved.

    All names are made of names in the plan, never of what the record says. If a final name is taken, its file is of the
    same shard: the record was lost, the shard was made again, and its old file is replaced.

    Args:
        run: the run or retry that has the shard in its plan.
        record: of the committed shard.
    """
    run.store.confirm(record_name(record.shard))  # the rank that created it may have died before it was durable
    _publish(run, record)


def finalize_all(run: Run) -> bool:
    """Finalize every committed shard of `run` and its retries whose tar is not at its final name.

    Returns:
        Whether all are finalized; False if the store listed a record that it does not find yet.
    """
    committed = [(owner, name) for owner in run.with_retries for name in owner.committed()]
    final = run.replaced.keys() | {name.removesuffix(".tar") for name in run.store.names() if name.endswith(".tar")}
    for owner, name in committed:
        if name not in final:
            if not owner.is_committed(name):  # an NFS client may list a name before it can look it up
                return False
            finalize(owner, owner.record(name))
    return True


def _publish(run: Run, record: Record) -> None:
    """Move the files of a committed shard, whose record is durable, to their final names."""
    if record.replaces:  # a retry's shard holds its samples, which would be read twice
        replaced = run.tar_file(record.replaces)
        run.store.publish(replaced.name, replaced.superseded_name)
    for file in (run.table_file(record.shard), run.tar_file(record.shard)):  # tar last: a visible tar has its table
        run.store.publish(file.staged(record.rank), file.name)


def _stage(run: Run, shard: Shard, spool: Spool, tar: str, table: str) -> dict[str, Any]:
    """Write the tar and the table of `shard` to the store under these names.

    Returns:
        The fields of the record that describe both, and count the rows.
    """
    with run.store.staged(tar) as path:
        rows, tar_file = write_tar(path, run.tar_file(shard.name).name, run.plan.keys(shard.number), spool)
    superseded = run.superseded(shard) if run.retry else []
    for row, previous in zip(rows, superseded, strict=bool(superseded)):
        row["supersedes"] = previous["shard"]
    with run.store.staged(table) as path:
        table_file = write_table(path, run.table_file(shard.name).name, rows)
    return {"tar": tar_file, "table": table_file, **_counts(rows, superseded)}


def _counts(rows: Sequence[Mapping[str, Any]], superseded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of a record that count the rows of its table, and the rows that these supersede."""
    statuses, classes = count_rows(rows)
    superseded_statuses, superseded_classes = count_rows(superseded)
    failed = sum(classes.values())
    return {
        "planned": len(rows),
        "committed": len(rows) - failed,
        "failed": failed,
        "statuses": statuses,
        "failure_classes": classes,
        "num_frames": sum(row["num_frames"] for row in rows),
        "superseded_statuses": superseded_statuses,
        "superseded_classes": superseded_classes,
        "superseded_frames": sum(row["num_frames"] for row in superseded),
        "devices": count_devices(rows),
        "superseded_devices": count_devices(superseded),
    }


def _times(seconds: float, timing: Timing, staging_seconds: float) -> dict[str, Any]:
    """Return the fields of a record that say how long its shard took, with the time in which its files were staged."""
    phases = timing.phases
    if phases:
        phases = {**phases, "write": round(phases["write"] + staging_seconds, 3)}
    return {"seconds": round(seconds + staging_seconds, 3), "timing": replace(timing, phases=phases)}


def _discard(run: Run, staged: Sequence[str]) -> None:
    """Remove staged files that no record names."""
    for name in staged:
        run.store.remove(name)
