"""Clean-up: remove what ranks leave in `work/` once the run is complete."""

import shutil

from datamodules.run.commit import finalize_all
from datamodules.run.files import is_folder, remove
from datamodules.run.folder import PLANNING, Run
from datamodules.run.leases import RANKS, has_ended
from datamodules.run.planning import discard_unfinished
from datamodules.run.shared_attempts import ATTEMPTS


def clean_up(run: Run) -> None:
    """Remove from `work/` what a complete run does not need.

    Files of shards go, because committed shards need none; files of a rank go if it is dead. Safe while other ranks
    clean up as well, or are about to find that the run is complete.
    """
    if not finalize_all(run):
        return
    discard_unfinished([owner.plan for owner in run.with_retries])
    for folder in ("work/staging", "work/leases", ATTEMPTS):
        for name in run.store.names(folder):
            shard = name.partition(".")[0]
            if shard == PLANNING or run.is_committed(shard):
                run.store.remove(f"{folder}/{name}")
    for name in run.store.names(RANKS):
        if has_ended(run.store, name.partition(".")[0]):
            run.store.remove(f"{RANKS}/{name}")
    _clean_up_locally(run)


def _clean_up_locally(run: Run) -> None:
    """Remove the spools of committed shards from the disk of this machine, and what dead ranks left there."""
    for path in (run.work / "spool").glob("[!.]*"):  # NFS keeps open files that are removed as `.nfs…`
        if run.is_committed(path.name.partition(".")[0]):
            remove(path)
    for path in (run.work / "ranks").glob("*.fault"):
        if has_ended(run.store, path.stem):
            remove(path)
    for scratch in filter(is_folder, (run.work / "scratch").glob("*")):  # no link, nor anything else a rank never makes
        if has_ended(run.store, scratch.name):
            shutil.rmtree(scratch, ignore_errors=True)
