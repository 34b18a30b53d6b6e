"""Checks of a run: coverage, from its records alone, with which every run ends; and every byte (`verify`)."""

import errno
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from datamodules.card import CARD, is_stale
from datamodules.errors import CorpusError, EnvironmentFailure, RunError
from datamodules.run.effort import Effort
from datamodules.run.files import SUPERSEDED, sha256_of
from datamodules.run.folder import Run, retry_numbers
from datamodules.run.outcome import Outcome
from datamodules.run.parallel_reads import read_each
from datamodules.run.plan import Plan, Shard, plan_name
from datamodules.run.record import RECORDS, Record, ShardFile, StagedFile
from datamodules.run.shard_files import count_devices, count_rows
from datamodules.run.store import Store
from datamodules.tar_members import read_members, split_name

# folder and ending of the files that belong to shards
_RECORDS = ((RECORDS, ".json"),)
_SAMPLES = (("", ".tar"), (SUPERSEDED, ".tar"), ("tables", ""))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a run. The fields besides `text` say how `repair` can help; without any, it cannot.

    Attributes:
        text: what is wrong, and where; one line.
        damaged: a shard with a missing or damaged file or record. `repair` deletes it, so that it is made again.
        retry: number of a retry with a row that supersedes no failed row. `repair` withdraws the retry.
        stray: name of a file that belongs to no committed shard. `repair` moves it away.
        is_stale_card: whether the dataset card is out of date. `repair` rewrites it.
        is_open: whether nothing is wrong, but some items are not done yet.
    """

    text: str
    damaged: Shard | None = None
    retry: int = 0
    stray: str | None = None
    is_stale_card: bool = False
    is_open: bool = False

    @property
    def is_repairable(self) -> bool:
        """Whether `repair` solves the problem."""
        return bool(self.damaged or self.retry or self.stray or self.is_stale_card)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Coverage:
    """How many planned items are committed, failed, or neither.

    An item that failed and became a sample in a retry counts as committed. One that a retry is still to try counts as
    failed.

    Attributes:
        planned: items of the plan.
        committed: items that are samples.
        failed: items that failed.
        missing: items of shards that are not committed.
        failure_classes: failed items by class.
        devices: committed items by the model of the device that computed them.
        efforts: what the run took, by the number 0, and each retry, by its number.
        problems: records that are missing or damaged, or contradict the plan.
    """

    planned: int
    committed: int
    failed: int
    missing: int
    failure_classes: dict[str, int]
    devices: dict[str, int]
    efforts: dict[int, Effort]
    problems: list[Problem]

    @property
    def is_exact(self) -> bool:
        """Whether every planned item is either committed or failed."""
        return not self.missing and not self.problems


def coverage(run: Run) -> Coverage:
    """Compare the records of `run` with its plans. Reads no tar."""
    problems: list[Problem] = []
    done = run.committed()
    records = {part.retry: list(_records(part, problems)) for part in run.with_retries}
    own, *retries = records.values()
    outcome = Outcome.of(own, chain.from_iterable(retries))
    problems += strays(run.store, _RECORDS)
    return Coverage(
        planned=run.plan.num_items,
        committed=outcome.committed,
        failed=outcome.failed,
        missing=sum(shard.num_items for shard in run.plan.shards if shard.name not in done),
        failure_classes=outcome.failure_classes,
        devices=outcome.devices,
        efforts={number: Effort.of(part) for number, part in records.items()},
        problems=problems,
    )


def verify(run: Run) -> Iterator[Problem]:
    """Yield all that is wrong with `run` and its retries: records, hashes, counts, keys, stray and missing files."""
    damaged = set()
    for problem in chain(coverage(run).problems, _all_shard_problems(run)):
        if problem.damaged:
            damaged.add(problem.damaged.name)
        yield problem
    yield from _superseding_problems(run, damaged)
    yield from _open_shards(run)
    yield from strays(run.store, _SAMPLES)
    if not damaged and is_stale(run):
        yield Problem(f"{CARD}: the dataset card is out of date: rewrite it with `verify --repair`", is_stale_card=True)


def plan_problems(store: Store) -> list[str]:
    """Return a line for each damaged plan of the run in `store`. Call it before a `Run` opens the plans."""
    problems = []
    for number in (*([0] if store.find(plan_name()) else []), *retry_numbers(store)):
        try:
            Plan(store, number).require_intact()
        except RunError as error:
            problems.append(str(error))
    return problems


def strays(store: Store, where: Sequence[tuple[str, str]] = (*_RECORDS, *_SAMPLES)) -> list[Problem]:
    """Return a problem for each file of a run that is of a kind in `where` and belongs to no committed shard.

    The same goes for a tar of a superseded shard outside `superseded/`, and for a tar of any other shard inside it.
    """
    listed = ((folder, name) for folder, ending in where for name in store.names(folder) if name.endswith(ending))
    files = [PurePosixPath(*names) for names in listed]
    run = Run(store)  # opened after the listing, so that it knows the plan of each listed file
    planned, replaced = {shard.name for part in run.with_retries for shard in part.plan.shards}, run.replaced
    committed = {name for part in run.with_retries for name in part.committed()}
    problems = []
    for file in files:
        is_superseded, why = file.stem in replaced, ""
        if file.stem not in planned:
            why = "no planned shard has this name"
        elif file.stem not in committed and not run.is_committed(file.stem):  # an NFS client may list it late
            why = "its shard is not committed"
        elif file.suffix == ".tar" and is_superseded != (file.parent.name == SUPERSEDED):
            why = "its shard is superseded" if is_superseded else "its shard is not superseded"
        if why:
            problems.append(Problem(f"{file}: a stray file, as {why}", stray=str(file)))
    return problems


def file_problems(file: ShardFile, recorded: StagedFile) -> Iterator[str]:
    """Yield what is wrong with one file of a committed shard: missing, unreadable, misplaced, or not as recorded.

    Raises:
        EnvironmentFailure: it cannot be opened or read for another reason than damage, such as permissions.
    """
    try:
        with file.open() as opened:
            if opened.size != recorded.bytes:
                yield f"{file.name}: {opened.size:,} bytes instead of {recorded.bytes:,}"
            elif sha256_of(opened) != recorded.sha256:
                yield f"{file.name}: its content has changed (sha256 differs)"
            elif file.store.find(file.name) is None:
                yield f"{file.name}: complete, but not at its final name yet"
    except RunError as error:  # it is not a regular file
        yield str(error)
    except FileNotFoundError:
        yield f"{file.name}: missing"
    except OSError as error:
        # after any other error (no permission, mount gone) the file may be intact, and must not be deleted
        if error.errno not in (errno.EIO, errno.ELOOP):
            raise EnvironmentFailure(
                f"{file.location} cannot be read: {error.strerror}. Fix that, then verify again"
            ) from error
        yield f"{file.name}: cannot be read: {error.strerror}"


def recorded_files(run: Run, record: Record, stands: bool) -> list[tuple[ShardFile, StagedFile]]:
    """Return the files that a committed shard needs, with what its record says of each.

    Args:
        run: the run.
        record: of the shard.
        stands: whether the shard is valid. One that was superseded needs its table only.
    """
    table = run.table_file(record.shard), record.table
    return [(run.tar_file(record.shard), record.tar), table] if stands else [table]


def _records(run: Run, problems: list[Problem]) -> list[Record]:
    """Return the records of `run` that can be read, and add what is wrong with any to `problems`."""
    done = run.committed()
    shards = [shard for shard in run.plan.shards if shard.name in done]

    def read(shard: Shard) -> Record | Problem:
        try:
            return run.record(shard.name)
        except RunError as error:
            return Problem(str(error), damaged=shard)

    records = []
    for shard, record in zip(shards, read_each(run.store, read, shards), strict=True):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        records.append(record)
        failed = sum(record.failure_classes.values())
        if not (record.committed + failed == record.planned == shard.num_items and failed == record.failed):
            counts = f"{record.committed} committed + {record.failed} failed {record.failure_classes}"
            planned = f"{record.planned} planned items, and the plan has {shard.num_items}"
            problems.append(Problem(f"{shard.name}: the record counts {counts}, for {planned}"))
    return records


def _open_shards(run: Run) -> Iterator[Problem]:
    for part in run.with_retries:
        done = part.committed()
        if open_items := [shard.num_items for shard in part.plan.shards if shard.name not in done]:
            of_retry, command = (f" of retry {part.retry}", "`retry` command") if part.retry else ("", "command")
            count = f"{sum(open_items):,} items in {len(open_items):,} shards{of_retry}"
            yield Problem(f"{count} are not done yet; rerun the same {command}", is_open=True)


def _all_shard_problems(run: Run) -> Iterator[Problem]:
    replaced = run.replaced
    for part in run.with_retries:
        done = part.committed()
        for shard in part.plan.shards:
            if shard.name in done:
                try:
                    record = part.record(shard.name)
                except RunError:  # `coverage` has reported it
                    continue
                yield from _shard_problems(part, shard, record, stands=shard.name not in replaced)


def _shard_problems(run: Run, shard: Shard, record: Record, stands: bool) -> Iterator[Problem]:
    if record.fingerprint != run.fingerprint_digest:
        made_with = f"made with another fingerprint, {record.fingerprint} instead of {run.fingerprint_digest}"
        yield Problem(f"{shard.name}: {made_with}")
    damage = [text for file in recorded_files(run, record, stands) for text in file_problems(*file)]
    yield from (Problem(text, damaged=shard) for text in damage)
    if not damage:
        try:
            yield from map(Problem, _table_problems(run, record))
            if stands:
                yield from map(Problem, _tar_problems(run, record))
        except (RunError, CorpusError, OSError) as error:  # although the hashes are right
            yield Problem(f"{shard.name}: its table or tar cannot be read: {error}")


def _table_problems(run: Run, record: Record) -> Iterator[str]:
    rows = run.table(record.shard).to_pylist()
    statuses, classes = count_rows(rows)
    counts = {
        "committed": sum(statuses.values()),
        "statuses": statuses,
        "failure_classes": classes,
        "superseded": sum(row["supersedes"] is not None for row in rows),
        "num_frames": sum(row["num_frames"] for row in rows),
        "devices": count_devices(rows),
    }
    recorded = {
        **vars(record),
        "superseded": sum(_superseded_by(record).values()),
    }  # and see `_superseding_problems`
    yield from (
        f"{record.table.name}: {name} is {count}, but {recorded[name]} in the record"
        for name, count in counts.items()
        if count != recorded[name]
    )


def _tar_problems(run: Run, record: Record) -> Iterator[str]:
    rows = run.table(record.shard, ["key", "tar_offset"]).to_pylist()
    samples = [row["key"] for row in rows if row["tar_offset"] is not None]
    with run.tar_file(record.shard).open() as file:
        keys = [split_name(member.name)[0] for member in read_members(cast(BinaryIO, file), record.tar.name)]
    if list(dict.fromkeys(keys)) != samples:
        yield f"{record.tar.name}: its keys differ from those of its table"


def _superseded_by(record: Record) -> dict[str, int]:
    return {**record.superseded_statuses, **record.superseded_classes}


def _superseding_problems(run: Run, damaged: set[str]) -> Iterator[Problem]:
    """Yield the rows of retries that supersede the wrong row, which would put a key into two tars.

    Each row of a retry has to supersede a row that has failed or whose tar is in `superseded/`, and that no other row
    supersedes. The rows of `damaged` shards are unknown, and not judged.
    """
    replaced = run.replaced
    # rows that may be superseded, and are not so far: (shard, key) to class of the failure, or status
    open_to: dict[tuple[str, str], str] = {}
    for part in run.with_retries if run.retries else ():
        for record in _records(part, []):
            is_superseded = record.shard in replaced
            if (part.retry or record.failed or is_superseded) and record.shard not in damaged:
                rows = part.table(record.shard, ["key", "status", "reason_class", "supersedes"]).to_pylist()
                if part.retry:
                    yield from _retry_problems(part.retry, record, rows, open_to, damaged)
                for row in (row for row in rows if row["reason_class"] or is_superseded):
                    open_to[record.shard, row["key"]] = row["reason_class"] or row["status"]
    for shard, key in open_to:
        if shard in replaced and replaced[shard] not in damaged:
            yield Problem(f"{shard}: no row supersedes its row {key}, but its tar is in {SUPERSEDED}/")


def _retry_problems(
    retry: int, record: Record, rows: list[dict[str, Any]], open_to: dict[tuple[str, str], str], damaged: set[str]
) -> Iterator[Problem]:
    classes: Counter[str] = Counter()
    for row in rows:
        superseded = row["supersedes"], row["key"]
        if superseded in open_to:
            classes[open_to.pop(superseded)] += 1
        elif row["supersedes"] not in damaged:
            what = f"{row['key']} supersedes no failed row of {row['supersedes']}, or one that is superseded already"
            yield Problem(f"{record.table.name}: {what}", retry=retry)
    counted = _superseded_by(record)
    if classes != counted and not damaged.intersection(row["supersedes"] for row in rows):
        yield Problem(f"{record.shard}: the record counts {counted} superseded rows, but there are {dict(classes)}")
