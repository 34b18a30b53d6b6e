"""Merge: complete runs over different splits, or done on different machines, become one run folder.

| in the merged folder     | what                                                                                   |
|--------------------------|----------------------------------------------------------------------------------------|
| `plan.arrow`             | the shards of all runs as they were, split by split, in the order the runs were given  |
| `{shard}.tar`            | as it was: a hard link where the file system allows, else a copy; numbered anew        |
| `tables/{shard}.parquet` | likewise                                                                               |
| `records/{shard}.json`   | as it was, but for the names and the fingerprint                                       |
| `README.md`              | the dataset card of the merged run                                                     |
| patches                  | those of all runs, one after another, numbered anew; `supersedes` in their tables too  |

| fingerprint of the merged run | what                                                  |
|-------------------------------|-------------------------------------------------------|
| corpus                        | {"merged": [those of the runs]}                       |
| shards                        | {"merged": [those of the runs]}                       |
| all others                    | the same in all runs                                  |
| of a patch                    | as it was, but for the run that it is of              |
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.card import declared_fields, write_card
from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.line.commit import settle_all, sync, write_table
from datamodules.line.folders import SUPERSEDED
from datamodules.line.plan import Shard, write_batches
from datamodules.line.run import Record, Run, StagedFile, differences, plan_path
from datamodules.samples.fields import common_type

_MAY_DIFFER = ("corpus", "shards")  # in the fingerprints: which items, and how they are laid out


def merge(folders: Sequence[Path], dest: Path) -> Run:
    """Make one run in `dest` of the complete runs in `folders`, which stay as they are.

    Streams: holds 8 bytes for each key. `dest` is there whole, or not at all.

    Raises:
        ConfigError: fewer than two folders, or `dest` is there and not empty.
        RunError: a folder is no run, or not complete; two runs have a key in common, or were made otherwise (the
            message names what differs); a field of their corpora has no common type; a file is not as its record says.
        EnvironmentFailure: `dest` cannot be written.
    """
    dest = dest.resolve()
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} folder to merge: give two or more")
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise ConfigError(f"--dest {dest} is there and not empty: give a new folder")
    runs = [Run(folder) for folder in folders]
    for run in runs:
        _refuse_incomplete(run)
    for run in runs[1:]:
        _refuse_made_otherwise(runs[0], run)
    _refuse_common_keys(runs)
    scratch = dest.with_name(f".{dest.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        scratch.mkdir(parents=True)
        _fill(scratch, runs)
        write_card(Run(scratch))
        os.rename(scratch, dest)
    except OSError as error:
        raise EnvironmentFailure(f"cannot merge into {dest}, nothing was made there: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Run(dest)


def _refuse_incomplete(run: Run) -> None:
    done = run.committed()
    missing = sum(shard.name not in done for shard in run.plan.shards)
    if missing:
        raise RunError(
            f"{run.folder} is not complete: {missing:,} of {len(run.plan.shards):,} shards are missing; "
            "run the command that started it again, then merge"
        )
    for patch in run.patches:
        if not patch.is_complete():
            raise RunError(f"{run.folder}: patch {patch.patch} is not complete; finish the `retry`, then merge")
    settle_all(run)


def _refuse_made_otherwise(first: Run, other: Run) -> None:
    theirs, ours = (
        {name: value for name, value in run.plan.fingerprint.items() if name not in _MAY_DIFFER}
        for run in (first, other)
    )
    if different := differences(theirs, ours):
        raise RunError(
            f"{first.folder} and {other.folder} were made otherwise, and do not belong into one run. "
            f"They differ in: {'; '.join(different)}"
        )


def _refuse_common_keys(runs: Sequence[Run]) -> None:
    hashes = np.sort(np.fromiter((hash(key) for run in runs for key in _keys(run)), dtype=np.int64))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: dict[str, Path] = {}
    for run in runs if suspects else ():
        for key in _keys(run):
            if hash(key) in suspects:
                if key in seen:
                    raise RunError(f"the key {key!r} is in {seen[key]} and in {run.folder}: no run has a key twice")
                seen[key] = run.folder


def _keys(run: Run) -> Iterator[str]:
    for shard in run.plan.shards:
        yield from run.plan.keys(shard.number)


def _fill(folder: Path, runs: Sequence[Run]) -> None:
    splits = dict.fromkeys(shard.split for run in runs for shard in run.plan.shards)
    sources = [(run, shard) for split in splits for run in runs for shard in run.plan.shards if shard.split == split]
    _write_plan(folder / "plan.arrow", sources, runs)
    merged = Run(folder)
    for name in ("tables", "records"):
        (folder / name).mkdir()
    names: dict[tuple[Path, str], str] = {}  # folder and name of a shard: its name in the merged run
    for (run, shard), place in zip(sources, merged.plan.shards, strict=True):
        names[run.folder, shard.name] = place.name
        _take(run, shard, merged, place, names)
    for number, patch in enumerate((patch for run in runs for patch in run.patches), start=1):
        _take_patch(patch, merged, number, names)
    for path in (folder / "tables", folder / "records", folder):
        sync(path)


def _write_plan(path: Path, sources: Sequence[tuple[Run, Shard]], runs: Sequence[Run]) -> None:
    fingerprint = {
        **runs[0].plan.fingerprint,
        **{name: {"merged": [run.plan.fingerprint.get(name) for run in runs]} for name in _MAY_DIFFER},
    }
    listing = hashlib.sha256("".join(run.plan.listing for run in runs).encode()).hexdigest()
    batches = (run.plan.batch(shard.number) for run, shard in sources)
    roots = [root for run in runs for root in run.plan.roots]
    write_batches(path, batches, fingerprint, listing, corpus_types=_corpus_types(runs), roots=roots)


def _corpus_types(runs: Sequence[Run]) -> dict[str, str] | None:
    """The type of each field of the corpora in the merged run; None if a run of an earlier version has not recorded it.

    Raises:
        RunError: no type reads a field in the samples of all runs.
    """
    declared = {field.name for field in declared_fields(runs[0])}
    types: dict[str, str] = {}
    for run in runs:
        if run.plan.corpus_types is None:
            return None
        for name, kind in run.plan.corpus_types.items():
            common = common_type(types.get(name, kind), kind)
            if common is None and name not in declared:
                raise RunError(
                    f"the corpus field {name!r} is {kind} in {run.folder}, and {types[name]} in the runs before it: "
                    "a run has one type for each field; merge runs that agree, or make them without this field"
                )
            types[name] = common or kind
    return types


def _take_patch(patch: Run, merged: Run, number: int, names: dict[tuple[Path, str], str]) -> None:
    retried = {**patch.plan.fingerprint["retry"], "of": merged.fingerprint_digest}
    batches = (patch.plan.batch(shard.number) for shard in patch.plan.shards)
    path, fingerprint = plan_path(merged.folder, number), {**patch.plan.fingerprint, "retry": retried}
    replaces = [names[patch.folder, name] for name in patch.plan.replaces]
    write_batches(path, batches, fingerprint, patch.plan.listing, number, replaces, roots=patch.plan.roots)
    taken = Run(merged.folder, number)
    for shard, place in zip(patch.plan.shards, taken.plan.shards, strict=True):
        names[patch.folder, shard.name] = place.name
        _take(patch, shard, taken, place, names)


def _take(run: Run, shard: Shard, merged: Run, place: Shard, names: dict[tuple[Path, str], str]) -> None:
    """Put a shard of `run` into the merged run, where it is called as `place` says, and others as `names` do."""
    record = run.record(shard.name)
    if run.table(shard.name, ["key"])["key"].to_pylist() != run.plan.keys(shard.number):
        raise RunError(f"the keys of {run.folder / record.table.name} are not those planned; run `preprocess verify`")
    named = replace(
        record,
        shard=place.name,
        attempt=f"{place.name}.{record.rank}",
        tar=replace(record.tar, name=f"{place.name}.tar"),
        table=replace(record.table, name=f"tables/{place.name}.parquet"),
        fingerprint=merged.fingerprint_digest,
        replaces=place.replaces,
    )
    for old, new in ((record.tar, named.tar), (record.table, named.table)):
        _link_or_copy(run.folder / old.name, merged.folder / new.name, old)
    if run.patch:
        named = _with_supersedes(run, record, merged, named, names)
    path = merged.record_path(place.name)
    path.write_text(named.to_json())
    sync(path)


def _with_supersedes(
    run: Run, record: Record, merged: Run, named: Record, names: dict[tuple[Path, str], str]
) -> Record:
    """Write the table of a patch's shard anew, with the names that the superseded shards have in the merged run."""
    rows = run.table(record.shard)
    place, path = rows.schema.get_field_index("supersedes"), merged.folder / named.table.name
    column = pa.array([names[run.folder, name] for name in rows["supersedes"].to_pylist()], pa.string())
    path.unlink()  # a link to the other run's
    return replace(
        named, table=write_table(path, named.table.name, rows.set_column(place, "supersedes", column).to_pylist())
    )


def _link_or_copy(source: Path, target: Path, expected: StagedFile) -> None:
    if not source.exists() and (source.parent / SUPERSEDED / source.name).exists():
        source, target = (path.parent / SUPERSEDED / path.name for path in (source, target))
        target.parent.mkdir(exist_ok=True)
    if not source.exists():
        raise RunError(f"{source} is gone, though its shard was committed; run `preprocess verify`")
    size = source.stat().st_size
    if size != expected.bytes:
        raise RunError(f"{source} has {size:,} bytes instead of {expected.bytes:,}; run `preprocess verify`")
    try:
        os.link(source, target)  # committed files are never written to again
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        sync(target)
