"""Whether a run is what it says: coverage from its records (every run ends with it), and every byte (`verify`)."""

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import RunError
from datamodules.line.commit import TABLE_SCHEMA
from datamodules.line.plan import Shard
from datamodules.line.reader import split_name
from datamodules.line.run import Record, Run, StagedFile


@dataclass(frozen=True)
class Coverage:
    """Committed ∪ failed = planned, in numbers; `missing` counts items of shards that are not committed."""

    planned: int
    committed: int
    failed: int
    missing: int
    problems: list[str]

    @property
    def is_exact(self) -> bool:
        """Whether every planned item is either committed or failed."""
        return not self.missing and not self.problems


def coverage(run: Run) -> Coverage:
    """Hold the records against the plan; reads no tar."""
    planned = committed = failed = missing = 0
    problems = []
    done = run.committed()
    for shard in run.plan.shards:
        planned += shard.num_items
        if shard.name not in done:
            missing += shard.num_items
            continue
        try:
            record = run.record(shard.name)
        except RunError as error:
            problems.append(str(error))
            continue
        committed, failed = committed + record.committed, failed + record.failed
        if not record.planned == record.committed + record.failed == shard.num_items:
            problems.append(f"{shard.name}: the record counts {record.planned} items, the plan {shard.num_items}")
    problems += [f"records/{name}.json: no such shard is planned" for name in sorted(done - _names(run))]
    return Coverage(planned, committed, failed, missing, problems)


def verify(run: Run) -> Iterator[str]:
    """All that is wrong with `run`, one line each: records, hashes, counts, keys, stray files, missing shards."""
    covered = coverage(run)
    yield from covered.problems
    done = run.committed()
    for shard in run.plan.shards:
        if shard.name in done:
            with suppress(RunError):  # a damaged record is among the coverage's problems
                yield from _shard_problems(run, shard, run.record(shard.name))
    if covered.missing:
        open_shards = len(_names(run) - done)
        yield f"{covered.missing:,} items in {open_shards:,} shards are not done yet; run the same command again"
    for path in sorted([*run.folder.glob("*.tar"), *(run.folder / "tables").glob("*")]):
        if path.stem not in done:
            yield f"{path.relative_to(run.folder)}: a stray file, of no committed shard"


def _names(run: Run) -> set[str]:
    return {shard.name for shard in run.plan.shards}


def _shard_problems(run: Run, shard: Shard, record: Record) -> Iterator[str]:
    if record.fingerprint != run.fingerprint_digest:
        yield f"{shard.name}: made with another fingerprint, {record.fingerprint} instead of {run.fingerprint_digest}"
    damaged = [problem for file in (record.tar, record.table) for problem in _file_problems(run.folder, file)]
    yield from damaged
    if not damaged:
        yield from _content_problems(run, shard, record)


def _file_problems(folder: Path, file: StagedFile) -> Iterator[str]:
    path = folder / file.name
    if not path.exists():
        yield f"{file.name}: missing"
    elif path.stat().st_size != file.bytes:
        yield f"{file.name}: {path.stat().st_size:,} bytes instead of {file.bytes:,}"
    else:
        with open(path, "rb") as content:
            digest = hashlib.sha256()
            while block := content.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != file.sha256:
            yield f"{file.name}: its content has changed (sha256 differs)"


def _content_problems(run: Run, shard: Shard, record: Record) -> Iterator[str]:
    table = run.table(shard.name)
    if not table.schema.equals(TABLE_SCHEMA):
        yield f"{record.table.name}: its columns are {table.schema.names}"
        return
    rows = table.select(["key", "status"]).to_pylist()
    if [row["key"] for row in rows] != run.plan.keys(shard.number):
        yield f"{record.table.name}: its keys are not those of the plan"
    ok = [row["key"] for row in rows if row["status"] == "ok"]
    if len(ok) != record.committed:
        yield f"{record.table.name}: {len(ok)} committed rows, the record counts {record.committed}"
    with tarfile.open(run.folder / record.tar.name) as tar:
        if list(dict.fromkeys(split_name(name)[0] for name in tar.getnames())) != ok:
            yield f"{record.tar.name}: its keys are not those of its table"
