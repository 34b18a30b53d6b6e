"""Commit: how the results in a spool become a shard that exists as a whole, exactly once, or not at all.

When every planned row has a result, the shard is committed in three steps:

1. tar and table are written under names of this attempt in `work/staging`; they and these names are fsynced;
2. the record is *linked* into `records/`: this fails if it exists, so of several writers one wins. This is the commit;
3. `records/` is fsynced, and the staged files, which the record names, are renamed into place; before that, the tar
   whose place they take, if any, is moved to `superseded/`. Whoever finds a record without its files does this.
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
    """Commit `shard` from `spool`, which has a result for each of its rows.

    The tar's bytes depend on the samples alone: members in planned order, fixed headers.

    Args:
        run: the run.
        shard: one of its planned shards.
        spool: a result for every row.
        rank: who commits.
        seconds: since the lease.
        machine: what was measured meanwhile; see `Record`.

    Returns:
        Whether this call made the record; False if another rank's was there, in which case nothing is left of this one.

    Raises:
        OSError: a step failed; the shard is not committed, or it is and only step 3 is to be finished.
    """
    staging = run.work / "staging"
    for folder in (staging, run.folder / "tables", run.folder / "records"):
        folder.mkdir(parents=True, exist_ok=True)
    files = run.tar_file(shard.name), run.table_file(shard.name)
    staged = [*(file.staged(rank) for file in files), staging / f"{shard.name}.{rank}.json"]
    try:
        record = _stage(run, shard, spool, staged, rank, seconds, machine)
        for folder in (staging, run.work, run.folder):  # or a crash may leave a record whose files have no name
            sync(folder)
    except BaseException:
        _unlink(staged)
        raise
    won = _link(staged[2], run.record_path(shard.name))  # if this fails, a file server may have made the link: keep all
    if won:
        finalize(run, record)
    _unlink(staged)
    spool.close()
    _unlink((run.work / "spool").glob(f"{shard.name}.*"))
    return won


def finalize(run: Run, record: Record) -> None:
    """Finish step 3 of a commit: move the files of a committed shard of `run` into place, where they are not yet.

    Every path is made of names that the plan gives. A file that is in such a place already is of the same shard, made
    again because its record was lost, and is replaced.
    """
    sync(run.folder / "records")  # by a rank that died before it could, perhaps; nothing shows that a crash may disown
    if record.replaces:
        _put_out_of_sight(run, record.replaces)
    for file in (run.table_file(record.shard), run.tar_file(record.shard)):  # a tar that shows has its table
        with suppress(FileNotFoundError):  # in place already
            os.rename(file.staged(record.rank), file.path)
        sync(file.path.parent)


def _put_out_of_sight(run: Run, shard: str) -> None:
    """Its samples stand in a retry's shard, and would be read twice."""
    place = run.folder / SUPERSEDED
    place.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # there already
        os.rename(run.tar_file(shard).path, place / f"{shard}.tar")
    for folder in (place, run.folder):
        sync(folder)


def finalize_all(run: Run) -> bool:
    """`finalize` every committed shard, of retries too, whose tar does not show; False if not all could be."""
    committed = [(each, name) for each in run.with_retries for name in each.committed()]
    shown = run.replaced.keys() | {path.stem for path in run.folder.glob("*.tar")}
    for each, name in committed:
        if name not in shown:
            if not each.is_committed(name):  # a file server's client may list a name before it finds it
                return False
            finalize(each, each.record(name))
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
    tar, table, staged_record = staged
    rows, tar_file = write_tar(tar, run.tar_file(shard.name).name, run.plan.keys(shard.number), spool)
    superseded = run.superseded(shard) if run.retry else []
    for row, earlier in zip(rows, superseded, strict=bool(superseded)):
        row["supersedes"] = earlier["shard"]
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
    try:
        os.link(staged, record)
    except FileExistsError:
        return record.samefile(staged)  # a file server may answer a repeated request for a link that it made
    return True
