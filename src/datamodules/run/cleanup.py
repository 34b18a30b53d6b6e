"""Clean-up: remove what ranks leave in `work/` once the run is complete."""

import shutil

from datamodules.run.commit import finalize_all
from datamodules.run.files import is_folder, remove
from datamodules.run.folder import PLANNING, Run
from datamodules.run.leases import is_dead
from datamodules.run.planning import discard_unfinished


def clean_up(run: Run) -> None:
    """Remove from `work/` what a complete run does not need.

    Files of shards go, because committed shards need none; files of a rank go if it is dead. Safe while other ranks
    clean up as well, or are about to find that the run is complete.
    """
    if not finalize_all(run):
        return
    for owner in run.with_retries:
        discard_unfinished(owner.plan.path)
    for folder in ("staging", "spool", "leases"):
        for path in (run.work / folder).glob("[!.]*"):  # NFS keeps open files that are removed as `.nfs…`
            name = path.name.partition(".")[0]
            if name == PLANNING or run.is_committed(name):
                remove(path)
    for path in (run.work / "ranks").glob("[!.]*"):
        if is_dead(path.with_name(path.name.partition(".")[0])):
            remove(path)
    for scratch in filter(is_folder, (run.work / "scratch").glob("*")):  # no link, nor anything else a rank never makes
        if is_dead(run.work / "ranks" / scratch.name):
            shutil.rmtree(scratch, ignore_errors=True)
