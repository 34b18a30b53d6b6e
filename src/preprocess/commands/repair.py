"""`preprocess verify --repair`: what is damaged is put back to be done again, what is stray is moved away.

| found                                             | done                                                           |
|---------------------------------------------------|----------------------------------------------------------------|
| a tar or table that is not in its place yet       | moved into place                                               |
| a missing or damaged tar, table or record         | tar, table and record are deleted: the same command makes them |
| the same, of a shard whose items a retry retried  | besides, that retry and all later ones are withdrawn           |
| a retry's row that supersedes no failed row       | that retry and all later ones are withdrawn                    |
| a retry of which nothing is done, and no rank     | it is withdrawn, as it may have been started by mistake        |
| a tar, table or record of no committed shard      | moved to `stray/` in the run folder                            |
| a tar in `superseded/` whose place nobody has     | moved back                                                     |
| a dataset card that is not as the run is now      | it is written anew                                             |
| anything else                                     | nothing: another fingerprint, other keys or counts             |

Nothing is done of a retry of which no result is committed or spooled. No rank is there if all have died, or have been
silent for a minute: of another machine's, or of one before a restart, nothing else can be known.

A retry is withdrawn because a shard that is done again may succeed where it failed, and no sample may be there twice.
Whoever is killed in between leaves what the next `verify --repair` finds: tars go first, plans last.
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
    """Repair what `verify` has found, as the table above says; a line for each thing done. The run may be going on.

    Raises:
        RunError: the run is a merged one, which no command makes again; or a rank is at work on a retry that has to be
            withdrawn. Nothing is changed then.
    """
    yield from _put_back(run)
    damaged = [problem.damaged for problem in problems if problem.damaged and _is_damaged(run, problem.damaged)]
    damaged = list(dict.fromkeys(damaged))
    if damaged and "merged" in run.plan.fingerprint.get("corpus", {}):
        raise RunError(
            f"{run.folder} is merged, and cannot make {damaged[0].name} again: repair its runs and merge anew"
        )
    withdrawn = _to_withdraw(run, damaged, {problem.retry for problem in problems if problem.retry})
    _refuse_at_work(run, withdrawn)
    withdrawn = withdrawn or [retry for retry in run.retries[-1:] if not _is_begun(retry)]
    for retry in reversed(withdrawn):
        _withdraw(retry)
        yield f"retry {retry.retry}: withdrawn, its items count as failed; retry again afterwards"
    for shard in damaged:
        if shard.retry not in {retry.retry for retry in withdrawn}:
            _delete(_files_of(run, shard))
            again = "retry" if shard.retry else "run"
            yield f"{shard.name}: put back; the same `{again}` command does it again"
    yield from _put_back(run)
    for problem in strays(run.folder):
        assert problem.stray is not None
        yield f"{problem.stray.relative_to(run.folder)}: moved to {_move_away(run.folder, problem.stray)}"
    if any(problem.is_stale_card for problem in problems):
        write_card(Run(run.folder))
        yield f"{CARD}: written anew"


def _put_back(run: Run) -> Iterator[str]:
    """Bring back into sight the tars whose place no shard has any more."""
    run = Run(run.folder)  # with the retries that there are now
    for path in sorted(run.folder.glob(f"{SUPERSEDED}/*.tar")):
        if path.stem not in run.replaced and run.is_committed(path.stem) and not (run.folder / path.name).exists():
            os.rename(path, run.folder / path.name)
            sync(run.folder)
            yield f"{path.relative_to(run.folder)}: back in {run.folder}, as no other has its place"


def _is_damaged(run: Run, shard: Shard) -> bool:
    if not run.is_committed(shard.name):
        return False
    try:
        record = next(each for each in run.with_retries if each.retry == shard.retry).record(shard.name)
    except RunError:
        return True
    finalize(run, record)  # what was missing may have been on its way
    files = recorded_files(run, record, stands=shard.name not in run.replaced)
    return any(problem for file in files for problem in file_problems(*file))


def _to_withdraw(run: Run, damaged: Iterable[Shard], wrong: set[int]) -> list[Run]:
    """From the first retry that is `wrong`, or tried items of a `damaged` shard again, all."""
    plans = {each.retry: each.plan for each in run.with_retries}
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
    """Whether anything of it is committed or spooled, or a rank is at work in the folder."""
    spools = (path for shard in retry.plan.shards for path in retry.work.glob(f"spool/{shard.name}.*"))
    if retry.committed() or any(path.stat().st_size for path in spools):
        return True
    with closing(Leases(retry.work)) as leases:
        return bool(leases.at_work())


def _withdraw(retry: Run) -> None:
    shards = retry.plan.shards
    for files in zip(*(_files_of(retry, shard) for shard in shards), strict=True):  # all tars, tables, records
        _delete(files)
    for shard in shards:  # nothing of it may go into another retry of this number
        _delete(path for place in ("leases", "spool", "staging") for path in retry.work.glob(f"{place}/{shard.name}.*"))
    _delete([retry.plan.path])


def _files_of(run: Run, shard: Shard) -> tuple[Path, Path, Path]:
    return run.tar_file(shard.name).path, run.table_file(shard.name).path, run.record_path(shard.name)


def _delete(paths: Iterable[Path]) -> None:
    folders = set()
    for path in paths:
        if is_folder(path):
            raise RunError(f"{path} is a folder in place of a file: look what is in it, remove it, and repair again")
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        sync(folder)


def _move_away(folder: Path, path: Path) -> Path:
    """Where in `stray/` it is now, relative to `folder`; nothing there is replaced."""
    place = folder / STRAY / path.relative_to(folder)
    make_folder(folder / STRAY, place.parent)
    places = (place.with_name(f"{place.name}.{n}" if n else place.name) for n in count())
    free = next(each for each in places if not os.path.lexists(each))
    os.rename(path, free)
    return free.relative_to(folder)
