"""Clean-up: remove what ranks leave in `work/` once the run is complete."""

import shutil
from collections.abc import Set
from pathlib import Path

from datamodules.run.commit import finalize_all
from datamodules.run.files import is_folder, remove
from datamodules.run.folder import Run
from datamodules.run.leases import RANKS, has_ended, is_of_this_host
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
    finished = _finished(run)
    for folder in ("work/staging", "work/leases", ATTEMPTS):
        for name in run.store.names(folder):
            if name.partition(".")[0] in finished:
                run.store.remove(f"{folder}/{name}")
    entries = {entry.name.removeprefix(f"{RANKS}/"): entry for entry in run.store.list(RANKS)}
    for name in entries:
        rank = name.partition(".")[0]
        # only its own host knows that a rank has ended: each of a thousand ranks would read the files of all in vain
        is_elsewhere = rank in entries and entries[rank].size > 0 and not is_of_this_host(rank)
        if not is_elsewhere and has_ended(run.store, rank):
            run.store.remove(f"{RANKS}/{name}")
    for work in {owner.work for owner in run.with_retries}:
        _clean_up_locally(run, work, finished)


def _finished(run: Run) -> set[str]:
    """Return the names of the committed shards, and the stems of the names of the existing plans."""
    plans = {part.name.removesuffix(".arrow") for owner in run.with_retries for part in owner.plan.parts}
    return plans.union(*(owner.committed() for owner in run.with_retries))


def _clean_up_locally(run: Run, work: Path, finished: Set[str]) -> None:
    """Remove the spools and uploads of committed shards from the folder `work`, and what dead ranks left there."""
    for folder in (work / "spool", run.store.work / "staging"):
        for path in folder.glob("[!.]*"):  # NFS keeps open files that are removed as `.nfs…`
            if path.name.partition(".")[0] in finished:
                remove(path)
    for path in (work / "ranks").glob("*.fault"):
        if has_ended(run.store, path.stem):
            remove(path)
    for scratch in filter(is_folder, (work / "scratch").glob("*")):  # no link, nor anything else a rank never makes
        if has_ended(run.store, scratch.name):
            shutil.rmtree(scratch, ignore_errors=True)
