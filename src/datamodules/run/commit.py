"""Commit: turn the results in a spool into a shard, which is committed as a whole and exactly once, or not at all.

When every planned row has a result, the shard is committed in three steps:

1. The tar, the table and the record are written to `work/staging`, under names that contain the rank. The files and
   their folders are fsynced.
2. The record is *linked* into `records/`. This is the commit.
3. `records/` is fsynced, and the staged tar and table are renamed to their final names. If the shard replaces another,
   the tar of that one is moved to `superseded/` first.

Why the link decides: one system call must settle which of several writers wins, and it must never replace a file. A
rename would replace the record of another rank, whose files may be in use; a link fails if the name exists. The record
is complete and durable before it is linked, so no reader sees a part of one.

Why three steps, and what a process that ends between two of them leaves:

- before the link: staged files that no record names. Readers do not look into `work/staging`; `cleanup.py` removes
  them when the run is complete, and another rank takes the shard over from the spool.
- after the link: a committed shard whose files are still in `work/staging`. The record names the rank that wrote them,
  so every rank can finish step 3 (`finalize`), and readers open the files where they are (`record.ShardFile`).
- within step 3: some files at their final names, others not. Each rename is done or not, and is repeated without harm.

A tar is visible to any WebDataset reader from its rename on. So it is the last of the moves, and `records/` is fsynced
before: no crash of the machine can take back the record of a tar that a reader has seen.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.run.files import SUPERSEDED, remove, sync
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.record import Record
from datamodules.run.shard_files import count_devices, count_rows, write_table, write_tar
from datamodules.run.spool import Spool

_UNKNOWN: Mapping[str, Any] = {}


def commit(
    run: Run, shard: Shard, spool: Spool, rank: str, seconds: float, machine: Mapping[str, Any] = _UNKNOWN
) -> bool:
    """Commit `shard` from `spool`, and remove the shard's spools.

    The tar's bytes depend on the samples alone: members in planned order, fixed headers.

    Args:
        run: the run or retry that has `shard` in its plan.
        shard: the shard to commit.
        spool: holds a result for every row of the shard.
        rank: name of the rank that commits.
        seconds: since the shard was leased.
        machine: mean and peak of the rank's figures since then; see `Record.machine`.

    Returns:
        Whether this call committed the shard; False if another rank had, in which case this one's files are removed.

    Raises:
        OSError: a step failed. Either the shard is not committed, or it is and only step 3 is unfinished.
    """
    staging = run.work / "staging"
    for folder in (staging, run.folder / "tables", run.folder / "records"):
        folder.mkdir(parents=True, exist_ok=True)
    files = run.tar_file(shard.name), run.table_file(shard.name)
    staged = [*(file.staged(rank) for file in files), staging / f"{shard.name}.{rank}.json"]
    try:
        record = _stage(run, shard, spool, staged, rank, seconds, machine)
        for folder in (staging, run.work, run.folder):  # else a crash may keep the record but lose its files' names
            sync(folder)
    except BaseException:
        _unlink(staged)
        raise
    # an error here propagates and removes nothing: a file server may have made the link and lost only its answer
    won = _link(staged[2], run.record_path(shard.name))
    if won:
        finalize(run, record)
    _unlink(staged)
    spool.close()
    _unlink((run.work / "spool").glob(f"{shard.name}.*"))
    return won


def finalize(run: Run, record: Record) -> None:
    """Finish step 3 of a commit: move the files of a committed shard to their final names, unless they are moved.

    All paths are made of names in the plan, never of what the record says. If a final name is taken, its file is of the
    same shard: the record was lost, the shard was made again, and its old file is replaced.

    Args:
        run: the run or retry that has the shard in its plan.
        record: of the committed shard.
    """
    sync(run.folder / "records")  # the rank that linked the record may have died before its own fsync
    if record.replaces:
        _move_to_superseded(run, record.replaces)
    for file in (run.table_file(record.shard), run.tar_file(record.shard)):  # tar last: a visible tar has its table
        with suppress(FileNotFoundError):  # moved already, by this rank or another
            os.rename(file.staged(record.rank), file.path)
        sync(file.path.parent)


def _move_to_superseded(run: Run, shard: str) -> None:
    """Move the tar of `shard` to `superseded/`: a retry's shard holds its samples, which would be read twice."""
    superseded = run.folder / SUPERSEDED
    superseded.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # moved already
        os.rename(run.tar_file(shard).path, superseded / f"{shard}.tar")
    for folder in (superseded, run.folder):
        sync(folder)


def finalize_all(run: Run) -> bool:
    """Finalize every committed shard of `run` and its retries whose tar is not at its final name.

    Returns:
        Whether all are finalized; False if the file system listed a record that it does not find yet.
    """
    committed = [(owner, name) for owner in run.with_retries for name in owner.committed()]
    final = run.replaced.keys() | {path.stem for path in run.folder.glob("*.tar")}
    for owner, name in committed:
        if name not in final:
            if not owner.is_committed(name):  # an NFS client may list a name before it can look it up
                return False
            finalize(owner, owner.record(name))
    return True


def _stage(
    run: Run,
    shard: Shard,
    spool: Spool,
    staged: list[Path],
    rank: str,
    seconds: float,
    machine: Mapping[str, Any],
) -> Record:
    """Write the tar, the table and the record of `shard` to the paths `staged`, fsync them, and return the record."""
    tar, table, staged_record = staged
    rows, tar_file = write_tar(tar, run.tar_file(shard.name).name, run.plan.keys(shard.number), spool)
    superseded = run.superseded(shard) if run.retry else []
    for row, previous in zip(rows, superseded, strict=bool(superseded)):
        row["supersedes"] = previous["shard"]
    statuses, classes = count_rows(rows)
    superseded_statuses, superseded_classes = count_rows(superseded)
    failed = sum(classes.values())
    record = Record(
        shard=shard.name,
        attempt=f"{shard.name}.{rank}",
        tar=tar_file,
        table=write_table(table, run.table_file(shard.name).name, rows),
        planned=len(rows),
        committed=len(rows) - failed,
        failed=failed,
        statuses=statuses,
        failure_classes=classes,
        num_frames=sum(row["num_frames"] for row in rows),
        superseded_statuses=superseded_statuses,
        superseded_classes=superseded_classes,
        superseded_frames=sum(row["num_frames"] for row in superseded),
        devices=count_devices(rows),
        superseded_devices=count_devices(superseded),
        replaces=shard.replaces,
        rank=rank,
        seconds=round(seconds, 3),
        fingerprint=run.fingerprint_digest,
        machine=dict(machine),
    )
    with open(staged_record, "x") as file:
        file.write(record.to_json())
        file.flush()
        os.fsync(file.fileno())
    return record


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        remove(path)


def _link(staged: Path, record: Path) -> bool:
    """Link `staged` to the name `record`; return whether this rank's record has the name afterwards."""
    try:
        os.link(staged, record)
    except FileExistsError:
        # NFS may repeat a request whose answer was lost, and then report this rank's own link as "exists"
        return record.samefile(staged)
    return True
