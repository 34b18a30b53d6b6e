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

A retry has no results if none is committed, or spooled where this machine sees it (the spools of a run in a bucket are
on the disks of its machines). It has no rank if all of its ranks have died or been silent for
a minute; more cannot be known of a rank on another machine, or before a restart.

A retry is withdrawn because items that failed may become samples when their shard is made again, and a key must not be
in two tars. A repair that is killed can be repeated: tars are deleted first, plans last.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count

from datamodules.card import CARD, write_card
from datamodules.errors import RunError
from datamodules.run.commit import finalize
from datamodules.run.files import STRAY, SUPERSEDED, remove
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.plan import Shard
from datamodules.run.record import record_name
from datamodules.run.shared_attempts import ATTEMPTS
from datamodules.run.store import Store
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
            f"{run.store} is a merged run, and cannot make {damaged[0].name} again: repair its runs and merge them"
        )
    withdrawn = _to_withdraw(run, damaged, {problem.retry for problem in problems if problem.retry})
    _refuse_at_work(run, withdrawn)
    withdrawn = withdrawn or [retry for retry in run.retries[-1:] if not _is_begun(retry)]
    for retry in reversed(withdrawn):
        _withdraw(retry)
        yield f"retry {retry.retry}: withdrawn; its items are as they were before, so retry them again"
    for shard in damaged:
        if shard.retry not in {retry.retry for retry in withdrawn}:
            _delete(run.store, _files_of(run, shard))
            command = "retry" if shard.retry else "run"
            yield f"{shard.name}: deleted; rerun the same `{command}` command to make it again"
    yield from _move_back(run)
    for problem in strays(run.store):
        assert problem.stray is not None
        yield f"{problem.stray}: moved to {_move_away(run.store, problem.stray)}"
    if any(problem.is_stale_card for problem in problems):
        write_card(Run(run.store))
        yield f"{CARD}: rewritten"


def _move_back(run: Run) -> Iterator[str]:
    """Move the tars of shards that are not superseded any more out of `superseded/`."""
    run = Run(run.store)  # with its present retries
    replaced = run.replaced
    for name in (name for name in run.store.names(SUPERSEDED) if name.endswith(".tar")):
        shard = name.removesuffix(".tar")
        if shard not in replaced and run.is_committed(shard) and run.store.find(name) is None:
            run.store.publish(f"{SUPERSEDED}/{name}", name)
            yield f"{SUPERSEDED}/{name}: moved back to {run.store}, as its shard is not superseded"


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
    with closing(Leases(run.store)) as leases:
        claims, at_work = leases.list_claims(), leases.at_work()
    for retry in retries:
        for shard in retry.plan.shards:
            if any(claim.holder and claim.holder.rank in at_work for claim in claims.get(shard.name, [])):
                raise RunError(
                    f"{run.store}: retry {retry.retry} has to be withdrawn, but a rank is at work on {shard.name}: "
                    "stop the retry, then repair"
                )


def _is_begun(retry: Run) -> bool:
    """Return whether results of `retry` are committed or spooled, or a rank is at work in the folder."""
    spools = (path for shard in retry.plan.shards for path in retry.work.glob(f"spool/{shard.name}.*"))
    if retry.committed() or any(path.stat().st_size for path in spools):
        return True
    with closing(Leases(retry.store)) as leases:
        return bool(leases.at_work())


def _withdraw(retry: Run) -> None:
    shards, store = retry.plan.shards, retry.store
    for names in zip(*(_files_of(retry, shard) for shard in shards), strict=True):
        _delete(store, names)  # all tars, then all tables, then all records
    planned = {shard.name for shard in shards}
    for folder in ("work/leases", "work/staging", ATTEMPTS):  # leftovers must not go into the next retry of this number
        leftovers = (name for name in store.names(folder) if name.partition(".")[0] in planned)
        _delete(store, [f"{folder}/{name}" for name in leftovers])
    for shard in shards:
        for path in retry.work.glob(f"spool/{shard.name}.*"):
            remove(path)
    _delete(store, [retry.plan.name])  # before its rows: a plan that exists must be complete
    _delete(store, [retry.plan.rows_name])


def _files_of(run: Run, shard: Shard) -> tuple[str, str, str]:
    return run.tar_file(shard.name).name, run.table_file(shard.name).name, record_name(shard.name)


def _delete(store: Store, names: Iterable[str]) -> None:
    for name in names:
        if store.find(name) is None:
            continue
        store.remove(name)
        if store.find(name):
            raise RunError(
                f"{store.locate(name)} is a folder, but should be a file: look what is in it, remove it, and repair "
                "again"
            )
        store.confirm(name)


def _move_away(store: Store, name: str) -> str:
    """Move the file `name` to `stray/` without replacing a file there, and return its new name."""
    candidates = (f"{STRAY}/{name}.{number}" if number else f"{STRAY}/{name}" for number in count())
    free = next(candidate for candidate in candidates if store.find(candidate) is None)
    store.publish(name, free)
    return free
