"""`preprocess verify --repair`: delete what is damaged, so that it is made again, and move stray files away.

| problem                                           | repair                                                         |
|---------------------------------------------------|----------------------------------------------------------------|
| a tar or table that is not at its final name yet  | moved there                                                    |
| a missing or damaged tar, table or record         | all three are deleted; the command of the run makes them again |
| the same, if a retry tried items of the shard     | in addition, that retry and all later ones are withdrawn       |
| a row of a retry that supersedes no failed row    | that retry and all later ones are withdrawn                    |
| the last retry has no results and no rank         | it is withdrawn, as it may have been started by mistake        |
| a tar, table or record of no committed shard      | moved to `stray/` in the run folder                            |
| a tar in `superseded/` of a shard that is not     | moved back                                                     |
| a dataset card that is out of date                | rewritten                                                      |
| another fingerprint, other keys or counts         | none                                                           |

A retry has no results if none is committed or spooled. It has no rank if all of its ranks have died or been silent for
a minute; more cannot be known of a rank on another machine, or before a restart.

A retry is withdrawn because items that failed may become samples when their shard is made again, and a key must not be
in two tars. A repair that is killed can be repeated: tars are deleted first, plans last.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

from datamodules.card import CARD, write_card
from datamodules.errors import RunError
from datamodules.run.commit import finalize
from datamodules.run.files import STRAY, SUPERSEDED, is_folder, make_folder, sync
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.plan import Shard
from preprocess.integrity import Problem, file_problems, recorded_files, strays


def repair(run: Run, problems: Sequence[Problem]) -> Iterator[str]:
    """Repair `problems`, which `verify` has found, as the table above says. The run may be going on.

    Yields:
        A line for each repair.

    Raises:
        RunError: the run is a merged one, whose shards no command makes again; or a rank is at work on a retry that has
            to be withdrawn. Nothing is changed then.
    """
    yield from _move_back(run)
    damaged = [problem.damaged for problem in problems if problem.damaged and _is_damaged(run, problem.damaged)]
    damaged = list(dict.fromkeys(damaged))
    if damaged and "merged" in run.plan.fingerprint.get("corpus", {}):
        raise RunError(
            f"{run.folder} is a merged run, and cannot make {damaged[0].name} again: repair its runs and merge them"
        )
    withdrawn = _to_withdraw(run, damaged, {problem.retry for problem in problems if problem.retry})
    _refuse_at_work(run, withdrawn)
    withdrawn = withdrawn or [retry for retry in run.retries[-1:] if not _is_begun(retry)]
    for retry in reversed(withdrawn):
        _withdraw(retry)
        yield f"retry {retry.retry}: withdrawn; its items count as failed, so retry them again"
    for shard in damaged:
        if shard.retry not in {retry.retry for retry in withdrawn}:
            _delete(_files_of(run, shard))
            command = "retry" if shard.retry else "run"
            yield f"{shard.name}: deleted; rerun the same `{command}` command to make it again"
    yield from _move_back(run)
    for problem in strays(run.folder):
        assert problem.stray is not None
        yield f"{problem.stray.relative_to(run.folder)}: moved to {_move_away(run.folder, problem.stray)}"
    if any(problem.is_stale_card for problem in problems):
        write_card(Run(run.folder))
        yield f"{CARD}: rewritten"


def _move_back(run: Run) -> Iterator[str]:
    """Move the tars of shards that are not superseded any more out of `superseded/`."""
    run = Run(run.folder)  # with its present retries
    for path in sorted(run.folder.glob(f"{SUPERSEDED}/*.tar")):
        if path.stem not in run.replaced and run.is_committed(path.stem) and not (run.folder / path.name).exists():
            os.rename(path, run.folder / path.name)
            sync(run.folder)
            yield f"{path.relative_to(run.folder)}: moved back to {run.folder}, as its shard is not superseded"


def _is_damaged(run: Run, shard: Shard) -> bool:
    if not run.is_committed(shard.name):
        return False
    try:
        record = next(part for part in run.with_retries if part.retry == shard.retry).record(shard.name)
    except RunError:
        return True
    finalize(run, record)  # a file that was missing may have been about to be moved
    files = recorded_files(run, record, stands=shard.name not in run.replaced)
    return any(problem for file in files for problem in file_problems(*file))


def _to_withdraw(run: Run, damaged: Iterable[Shard], wrong: set[int]) -> list[Run]:
    """Return all retries from the first that is `wrong`, or that tried items of a `damaged` shard."""
    plans = {part.retry: part.plan for part in run.with_retries}
    latest_first = sorted(damaged, key=lambda shard: -shard.retry)
    again = {key: shard.retry for shard in latest_first for key in plans[shard.retry].keys(shard.number)}
    for retry in run.retries if again else ():
        keys = (key for shard in retry.plan.shards for key in retry.plan.keys(shard.number))
        if any(again.get(key, retry.retry) < retry.retry for key in keys):
            wrong = wrong | {retry.retry}
    return [retry for retry in run.retries if wrong and retry.retry >= min(wrong)]


def _refuse_at_work(run: Run, retries: Sequence[Run]) -> None:
    if not retries:
        return
    with closing(Leases(run.work)) as leases:
        claims, at_work = leases.list_claims(), leases.at_work()
    for retry in retries:
        for shard in retry.plan.shards:
            if any(claim.holder and claim.holder.rank in at_work for claim in claims.get(shard.name, [])):
                raise RunError(
                    f"{run.folder}: retry {retry.retry} has to be withdrawn, but a rank is at work on {shard.name}: "
                    "stop the retry, then repair"
                )


def _is_begun(retry: Run) -> bool:
    """Return whether results of `retry` are committed or spooled, or a rank is at work in the folder."""
    spools = (path for shard in retry.plan.shards for path in retry.work.glob(f"spool/{shard.name}.*"))
    if retry.committed() or any(path.stat().st_size for path in spools):
        return True
    with closing(Leases(retry.work)) as leases:
        return bool(leases.at_work())


def _withdraw(retry: Run) -> None:
    shards = retry.plan.shards
    for files in zip(
        *(_files_of(retry, shard) for shard in shards), strict=True
    ):  # all tars, then all tables, then all records
        _delete(files)
    for shard in shards:  # its leftovers must not go into the next retry of this number
        _delete(
            path for folder in ("leases", "spool", "staging") for path in retry.work.glob(f"{folder}/{shard.name}.*")
        )
    _delete([retry.plan.path])


def _files_of(run: Run, shard: Shard) -> tuple[Path, Path, Path]:
    return run.tar_file(shard.name).path, run.table_file(shard.name).path, run.record_path(shard.name)


def _delete(paths: Iterable[Path]) -> None:
    folders = set()
    for path in paths:
        if is_folder(path):
            raise RunError(f"{path} is a folder, but should be a file: look what is in it, remove it, and repair again")
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        sync(folder)


def _move_away(folder: Path, path: Path) -> Path:
    """Move `path` to `stray/` without replacing a file there, and return where it is now, relative to `folder`."""
    target = folder / STRAY / path.relative_to(folder)
    make_folder(folder / STRAY, target.parent)
    candidates = (target.with_name(f"{target.name}.{n}" if n else target.name) for n in count())
    free = next(candidate for candidate in candidates if not os.path.lexists(candidate))
    os.rename(path, free)
    return free.relative_to(folder)
