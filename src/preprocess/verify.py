"""Whether a run is what it says: coverage from its records (every run ends with it), and every byte (`verify`)."""

import errno
import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.line.commit import TABLE_SCHEMA
from datamodules.line.plan import Shard, is_as_written
from datamodules.line.reader import split_name
from datamodules.line.run import Outcome, Record, Run, StagedFile


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a run, and what `repair` may do about it; it can do nothing if no field says so.

    Attributes:
        text: what is wrong, and where; one line.
        damaged: a shard with a missing or damaged file or record: can be put back, to be done again.
        patch: number of a patch with a row that supersedes no failed one: can be withdrawn.
        stray: a file of no committed shard: can be moved away.
        is_open: nothing is wrong, but not all is done.
    """

    text: str
    damaged: Shard | None = None
    patch: int = 0
    stray: Path | None = None
    is_open: bool = False

    @property
    def is_repairable(self) -> bool:
        """Whether `repair` leaves nothing of it."""
        return bool(self.damaged or self.patch or self.stray)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Coverage:
    """Committed ∪ failed = planned, in numbers; `missing` counts items of shards that are not committed.

    An item that failed and is a sample of a patch is committed; one that a patch is to try again has failed.
    """

    planned: int
    committed: int
    failed: int
    missing: int
    problems: list[Problem]

    @property
    def is_exact(self) -> bool:
        """Whether every planned item is either committed or failed."""
        return not self.missing and not self.problems


def coverage(run: Run) -> Coverage:
    """Hold the records against the plans; reads no tar."""
    problems: list[Problem] = []
    done = run.committed()
    own, *patches = (_records(each, problems) for each in (run, *run.patches))
    outcome = Outcome.of(own, (record for records in patches for record in records))
    problems += strays(run.folder, ["records/*.json"])
    return Coverage(
        planned=run.plan.num_items,
        committed=outcome.committed,
        failed=outcome.failed,
        missing=sum(shard.num_items for shard in run.plan.shards if shard.name not in done),
        problems=problems,
    )


def verify(run: Run) -> Iterator[Problem]:
    """All that is wrong with `run` and its patches: records, hashes, counts, keys, stray files, missing shards."""
    damaged = set()
    for problem in chain(coverage(run).problems, _all_shard_problems(run)):
        if problem.damaged:
            damaged.add(problem.damaged.name)
        yield problem
    yield from _superseding_problems(run, damaged)
    yield from _open_shards(run)
    yield from strays(run.folder, ["*.tar", "tables/[!.]*"])


def plan_problems(folder: Path) -> list[str]:
    """The plans in `folder` that are damaged: to be asked before a `Run` opens them."""
    what = "its content has changed (sha256 differs); put back a copy of it, or make the run anew in another folder"
    return [f"{path.name}: {what}" for path in sorted(folder.glob("plan*.arrow")) if not is_as_written(path)]


def strays(folder: Path, patterns: Sequence[str] = ("records/*.json", "*.tar", "tables/[!.]*")) -> list[Problem]:
    """The files of the run in `folder` that match `patterns`, and are of no shard that is planned and committed."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    run = Run(folder)  # opened after the listing: what was listed is of a plan that is there
    planned = {shard.name for each in (run, *run.patches) for shard in each.plan.shards}
    problems = []
    for path in paths:
        if path.stem not in planned or not run.is_committed(path.stem):
            kind = "committed" if path.stem in planned else "planned"
            problems.append(Problem(f"{path.relative_to(folder)}: a stray file, of no {kind} shard", stray=path))
    return problems


def file_problems(folder: Path, file: StagedFile) -> Iterator[str]:
    """What is wrong with one file of a committed shard: it is missing, unreadable, or not as its record says.

    Raises:
        EnvironmentFailure: it cannot be opened or read for a reason that is not its own.
    """
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            yield f"{file.name}: {size:,} bytes instead of {file.bytes:,}"
        elif _sha256(path) != file.sha256:
            yield f"{file.name}: its content has changed (sha256 differs)"
    except FileNotFoundError:
        yield f"{file.name}: missing"
    except OSError as error:
        if (
            error.errno != errno.EIO
        ):  # no permission, mount gone: the file itself may be sound, and is not to be made anew
            raise EnvironmentFailure(
                f"{path} cannot be read: {error.strerror}; mend that, then verify again"
            ) from error
        yield f"{file.name}: cannot be read: {error.strerror}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _records(run: Run, problems: list[Problem]) -> list[Record]:
    """The records of `run` that can be read; what is wrong with any is added to `problems`."""
    done = run.committed()
    records = []
    for shard in (shard for shard in run.plan.shards if shard.name in done):
        try:
            record = run.record(shard.name)
        except RunError as error:
            problems.append(Problem(str(error), damaged=shard))
            continue
        records.append(record)
        failed = sum(record.failure_classes.values())
        if not (record.committed + failed == record.planned == shard.num_items and failed == record.failed):
            counts = f"{record.committed} committed + {record.failed} failed {record.failure_classes}"
            planned = f"{record.planned} planned, the plan has {shard.num_items}"
            problems.append(Problem(f"{shard.name}: the record counts {counts} = {planned}"))
    return records


def _open_shards(run: Run) -> Iterator[Problem]:
    for each in (run, *run.patches):
        done = each.committed()
        if missing := [shard.num_items for shard in each.plan.shards if shard.name not in done]:
            part, again = (f" of patch {each.patch}", "`retry` command") if each.patch else ("", "command")
            text = (
                f"{sum(missing):,} items in {len(missing):,} shards{part} are not done yet; run the same {again} again"
            )
            yield Problem(text, is_open=True)


def _all_shard_problems(run: Run) -> Iterator[Problem]:
    for each in (run, *run.patches):
        done = each.committed()
        for shard in each.plan.shards:
            if shard.name in done:
                try:
                    record = each.record(shard.name)
                except RunError:  # among the coverage's problems
                    continue
                yield from _shard_problems(each, shard, record)


def _shard_problems(run: Run, shard: Shard, record: Record) -> Iterator[Problem]:
    if record.fingerprint != run.fingerprint_digest:
        made_with = f"made with another fingerprint, {record.fingerprint} instead of {run.fingerprint_digest}"
        yield Problem(f"{shard.name}: {made_with}")
    damage = [text for file in (record.tar, record.table) for text in file_problems(run.folder, file)]
    yield from (Problem(text, damaged=shard) for text in damage)
    if not damage:
        try:
            yield from map(Problem, _content_problems(run, shard, record))
        except (RunError, OSError, tarfile.TarError) as error:  # though their hashes are right
            yield Problem(f"{shard.name}: its table or tar cannot be read: {error}")


def _content_problems(run: Run, shard: Shard, record: Record) -> Iterator[str]:
    table = run.table(shard.name)
    if not table.schema.equals(TABLE_SCHEMA):
        yield f"{record.table.name}: its columns are {table.schema.names}"
        return
    rows = table.select(["key", "status", "reason_class", "num_frames", "supersedes"]).to_pylist()
    if [row["key"] for row in rows] != run.plan.keys(shard.number):
        yield f"{record.table.name}: its keys are not those of the plan"
    ok = [row["key"] for row in rows if row["status"] == "ok"]
    counts = {
        "committed": len(ok),
        "failure_classes": dict(Counter(row["reason_class"] for row in rows if row["status"] != "ok")),
        "superseded_classes": sum(row["supersedes"] is not None for row in rows),
        "num_frames": sum(row["num_frames"] for row in rows),
    }
    recorded = {name: getattr(record, name) for name in counts}
    recorded["superseded_classes"] = sum(record.superseded_classes.values())  # classes: `_superseding_problems`
    yield from (
        f"{record.table.name}: {name} is {count}, in the record {recorded[name]}"
        for name, count in counts.items()
        if count != recorded[name]
    )
    with tarfile.open(run.folder / record.tar.name) as tar:
        if list(dict.fromkeys(split_name(name)[0] for name in tar.getnames())) != ok:
            yield f"{record.tar.name}: its keys are not those of its table"


def _superseding_problems(run: Run, damaged: set[str]) -> Iterator[Problem]:
    """Each row of a patch has to supersede a failed row that no other supersedes; of `damaged` shards nothing is known.

    Then no key is committed in two tars: of its n rows n - 1 have failed.
    """
    failed: dict[tuple[str, str], str] = {}  # shard and key of rows that nothing supersedes so far: reason_class
    for each in (run, *run.patches) if run.patches else ():
        for record in _records(each, []):
            if (each.patch or record.failed) and record.shard not in damaged:
                rows = run.table(record.shard, ["key", "reason_class", "supersedes"]).to_pylist()
                if each.patch:
                    yield from _patch_problems(each.patch, record, rows, failed, damaged)
                failed |= {(record.shard, row["key"]): row["reason_class"] for row in rows if row["reason_class"]}


def _patch_problems(
    patch: int, record: Record, rows: list[dict[str, Any]], failed: dict[tuple[str, str], str], damaged: set[str]
) -> Iterator[Problem]:
    classes: Counter[str] = Counter()
    for row in rows:
        superseded = row["supersedes"], row["key"]
        if superseded in failed:
            classes[failed.pop(superseded)] += 1
        elif row["supersedes"] not in damaged:
            what = f"{row['key']} supersedes no failed row of {row['supersedes']}, or not alone"
            yield Problem(f"{record.table.name}: {what}", patch=patch)
    if classes != record.superseded_classes and not damaged.intersection(row["supersedes"] for row in rows):
        yield Problem(
            f"{record.shard}: the record counts {record.superseded_classes} superseded, there are {dict(classes)}"
        )
