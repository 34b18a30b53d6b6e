"""Clean-up: what ranks leave in `work/` is removed when the run is complete."""

import shutil

from datamodules.run.commit import finalize_all
from datamodules.run.files import is_folder, remove
from datamodules.run.folder import PLANNING, Run
from datamodules.run.leases import is_dead
from datamodules.run.planning import discard_unfinished


def clean_up(run: Run) -> None:
    """Remove what dead ranks left in `work/` of a run whose every shard is committed; the living need none of it."""
    if not finalize_all(run):
        return
    for each in run.with_retries:
        discard_unfinished(each.plan.path)
    for folder in ("staging", "spool", "leases"):
        for path in (run.work / folder).glob("[!.]*"):  # NFS keeps removed files that are open as `.nfs…`
            name = path.name.partition(".")[0]
            if name == PLANNING or run.is_committed(name):
                remove(path)
    for path in (run.work / "ranks").glob("[!.]*"):
        if is_dead(path.with_name(path.name.partition(".")[0])):
            remove(path)
    for left in filter(is_folder, (run.work / "scratch").glob("*")):  # opening a FIFO has no end
        if is_dead(run.work / "ranks" / left.name):
            shutil.rmtree(left, ignore_errors=True)
