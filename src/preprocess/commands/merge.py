"""`preprocess merge`: make one run of complete runs over different splits, or from different machines.

| in the merged folder     | content                                                                                   |
|--------------------------|----------------------------------------------------------------------------------------|
| `plan.arrow`             | the shards of all runs, split by split, in the order in which the runs were given      |
| `{shard}.tar`            | unchanged: a hard link where the file system allows it, else a copy; renumbered        |
| `tables/{shard}.parquet` | likewise                                                                               |
| `records/{shard}.json`   | unchanged but for the names and the fingerprint                                        |
| `README.md`              | the dataset card of the merged run                                                     |
| retries                  | those of all runs, one after another; renumbered, also in `supersedes` of their tables |

| fingerprint of the merged run | value                                                 |
|-------------------------------|-------------------------------------------------------|
| corpus                        | {"merged": [those of the runs]}                       |
| shards                        | {"merged": [those of the runs]}                       |
| all others                    | the same in all runs                                  |
| of a retry                    | unchanged but for the run that it belongs to          |
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.card import declared_fields, write_card
from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.files import SUPERSEDED, sync
from datamodules.run.folder import Run
from datamodules.run.opening import differences
from datamodules.run.plan import Shard
from datamodules.run.planning import write_batches
from datamodules.run.record import Record, ShardFile, StagedFile, record_name
from datamodules.run.shard_files import write_table
from datamodules.run.store import Folder, Store
from datamodules.samples.fields import common_type
from preprocess.commands.arguments import add_dest
from preprocess.scratch import scratch_beside
from preprocess.terminal import Parser, say

_MAY_DIFFER = ("corpus", "shards")  # in the fingerprints: which items, and how they are laid out


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess merge`, print the folder of the merged run, and return the exit status."""
    parser = Parser("preprocess merge", description="Merge complete runs over different splits or items into one run.")
    parser.add_argument(
        "folders", metavar="O", nargs="+", type=Path, help="folders of complete runs; they stay as they are"
    )
    add_dest(parser)
    options = parser.parse_args(arguments)
    say(str(merge(options.folders, options.dest).store))
    return 0


def merge(folders: Sequence[Path], dest: Path) -> Run:
    """Make one run in `dest` of the complete runs in `folders`, which are left unchanged.

    It streams: memory holds 8 bytes for each key. `dest` appears whole or not at all.

    Raises:
        ConfigError: there are fewer than two folders, or `dest` exists and is not empty.
        RunError: a folder is not a run, or not complete; two runs have a key in common, or were made with different
            settings (the message names them); a field of their corpora has no common type; a file is not as its record
            says.
        EnvironmentFailure: `dest` cannot be written.
    """
    dest = dest.resolve()
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} folder to merge: give two or more")
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise ConfigError(f"--dest {dest} exists and is not empty: give a new folder")
    runs = [Run(folder) for folder in folders]
    for run in runs:
        _refuse_incomplete(run)
    for run in runs[1:]:
        _refuse_different_settings(runs[0], run)
    _refuse_common_keys(runs)
    try:
        with scratch_beside(dest) as scratch:
            _fill(scratch, runs)
            write_card(Run(scratch))
            os.rename(scratch, dest)
    except OSError as error:
        raise EnvironmentFailure(f"cannot merge into {dest}: {error}. Nothing was written there") from error
    return Run(dest)


def _refuse_incomplete(run: Run) -> None:
    done = run.committed()
    missing = sum(shard.name not in done for shard in run.plan.shards)
    if missing:
        raise RunError(
            f"{run.store} is not complete: {missing:,} of {len(run.plan.shards):,} shards are missing. Rerun the "
            "command that started it, then merge"
        )
    for retry in run.retries:
        if not retry.is_complete():
            raise RunError(f"{run.store}: retry {retry.retry} is not complete. Finish the `retry`, then merge")


def _refuse_different_settings(first: Run, other: Run) -> None:
    theirs, ours = (
        {name: value for name, value in run.plan.fingerprint.items() if name not in _MAY_DIFFER}
        for run in (first, other)
    )
    if different := differences(theirs, ours):
        raise RunError(
            f"{first.store} and {other.store} were made with different settings, and cannot be one run. "
            f"They differ in: {'; '.join(different)}"
        )


def _refuse_common_keys(runs: Sequence[Run]) -> None:
    hashes = np.sort(np.fromiter((hash(key) for run in runs for key in _keys(run)), dtype=np.int64))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: dict[str, str] = {}
    for run in runs if suspects else ():
        for key in _keys(run):
            if hash(key) in suspects:
                if key in seen:
                    raise RunError(
                        f"the key {key!r} is in {seen[key]} and in {run.store}, and a run cannot have a key twice"
                    )
                seen[key] = str(run.store)


def _keys(run: Run) -> Iterator[str]:
    for shard in run.plan.shards:
        yield from run.plan.keys(shard.number)


def _fill(folder: Path, runs: Sequence[Run]) -> None:
    splits = dict.fromkeys(shard.split for run in runs for shard in run.plan.shards)
    sources = [(run, shard) for split in splits for run in runs for shard in run.plan.shards if shard.split == split]
    _write_plan(Folder(folder), sources, runs)
    merged = Run(folder)
    for name in ("tables", "records"):
        (folder / name).mkdir()
    names: dict[tuple[str, str], str] = {}  # folder and name of a shard: its name in the merged run
    for (run, shard), target in zip(sources, merged.plan.shards, strict=True):
        names[str(run.store), shard.name] = target.name
        _add(run, shard, merged, target, names)
    for number, retry in enumerate((retry for run in runs for retry in run.retries), start=1):
        _add_retry(retry, merged, number, names)
    for path in (folder / "tables", folder / "records", *_move_superseded(Run(folder)), folder):
        sync(path)


def _move_superseded(merged: Run) -> list[Path]:
    """Move the tars of superseded shards to `superseded/`, and return that folder, if there are any."""
    folder, names = _folder(merged) / SUPERSEDED, merged.replaced
    for name in names:
        folder.mkdir(exist_ok=True)
        os.rename(merged.tar_file(name).location, folder / f"{name}.tar")
    return [folder] if names else []


def _folder(run: Run) -> Path:
    return Path(str(run.store))


def _write_plan(store: Store, sources: Sequence[tuple[Run, Shard]], runs: Sequence[Run]) -> None:
    fingerprint = {
        **runs[0].plan.fingerprint,
        **{name: {"merged": [run.plan.fingerprint.get(name, {}) for run in runs]} for name in _MAY_DIFFER},
    }
    listing = hashlib.sha256("".join(run.plan.listing for run in runs).encode()).hexdigest()
    batches = (run.plan.batch(shard.number) for run, shard in sources)
    roots = [root for run in runs for root in run.plan.roots]
    types = _corpus_types(runs)
    write_batches(store, batches, fingerprint, listing, corpus_types=types, roots=roots, is_alone=True)


def _corpus_types(runs: Sequence[Run]) -> dict[str, str] | None:
    """Return the type of each corpus field in the merged run; None if a run's plan has none recorded.

    Raises:
        RunError: a field has no type with which the samples of all runs can be read.
    """
    declared = {field.name for field in declared_fields(runs[0])}
    types: dict[str, str] = {}
    for run in runs:
        if run.plan.corpus_types is None:
            return None
        for name, kind in run.plan.corpus_types.items():
            before = types.get(name, kind)
            common = common_type(before, kind)
            if common and before != kind and "float64" in common and any(_would_round(run, name) for run in runs):
                common = None
            if common is None and name not in declared:
                raise RunError(
                    f"the corpus field {name!r} is {kind} in {run.store}, and {types[name]} in the runs before it: "
                    "a run has one type for each field. Merge runs that agree, or make them without this field"
                )
            types[name] = common or kind
    return types


def _would_round(run: Run, name: str) -> bool:
    """Return whether the corpus field `name` of `run` has an integer of more than 53 bits, which a float may round."""
    if "int64" not in (run.plan.corpus_types or {}).get(name, ""):
        return False
    items = chain.from_iterable(run.plan.items(shard.number) for shard in run.plan.shards)
    values = (item.meta.get(name) for item in items)
    numbers = chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    return any(isinstance(number, int) and abs(number) > 1 << 53 for number in numbers)


def _add_retry(retry: Run, merged: Run, number: int, names: dict[tuple[str, str], str]) -> None:
    retried = {**retry.plan.fingerprint["retry"], "of": merged.fingerprint_digest}
    batches = (retry.plan.batch(shard.number) for shard in retry.plan.shards)
    fingerprint = {**retry.plan.fingerprint, "retry": retried}
    replaces = [_renamed(names, retry, name) for name in retry.plan.replaces]
    listing, roots = retry.plan.listing, retry.plan.roots
    write_batches(merged.store, batches, fingerprint, listing, number, replaces, roots=roots, is_alone=True)
    taken = Run(merged.store, number)
    for shard, target in zip(retry.plan.shards, taken.plan.shards, strict=True):
        names[str(retry.store), shard.name] = target.name
        _add(retry, shard, taken, target, names)


def _add(run: Run, shard: Shard, merged: Run, target: Shard, names: dict[tuple[str, str], str]) -> None:
    """Add a shard of `run` to the merged run as `target`. `names` are the new names of all shards so far."""
    record, tar, table = run.record(shard.name), run.tar_file(shard.name), run.table_file(shard.name)
    run.table(shard.name, ["key"])  # raises RunError if these are not the planned keys
    new_tar, new_table = merged.tar_file(target.name), merged.table_file(target.name)
    named = replace(
        record,
        shard=target.name,
        attempt=f"{target.name}.{record.rank}",
        tar=replace(record.tar, name=new_tar.name),
        table=replace(record.table, name=new_table.name),
        fingerprint=merged.fingerprint_digest,
        replaces=target.replaces,
    )
    _link_or_copy(tar, Path(new_tar.location), record.tar)
    _link_or_copy(table, Path(new_table.location), record.table)
    if run.retry:
        named = _with_supersedes(run, record, merged, named, names)
    path = _folder(merged) / record_name(target.name)
    path.write_text(named.to_json())
    sync(path)


def _with_supersedes(run: Run, record: Record, merged: Run, named: Record, names: dict[tuple[str, str], str]) -> Record:
    """Rewrite the table of a shard of a retry with the names that the superseded shards have in the merged run."""
    rows, file = run.table(record.shard), merged.table_file(named.shard)
    column = [_renamed(names, run, name) for name in rows["supersedes"].to_pylist()]
    rows = rows.set_column(rows.schema.get_field_index("supersedes"), "supersedes", pa.array(column, pa.string()))
    path = Path(file.location)
    path.unlink()  # it may be a link to that of the source run
    return replace(named, table=write_table(path, file.name, rows.to_pylist()))


def _renamed(names: dict[tuple[str, str], str], run: Run, shard: str) -> str:
    """Return the name that a shard of `run` has in the merged run."""
    if (str(run.store), shard) not in names:
        raise RunError(f"{run.plan.location} names shards that {run.store} does not have, such as {shard!r}")
    return names[str(run.store), shard]


def _link_or_copy(source: ShardFile, target: Path, expected: StagedFile) -> None:
    """Link or copy a file of a run into the merged run.

    Raises:
        RunError: it is missing, has another size than its record says, or is not a regular file. A symbolic link in
            someone else's run folder could bring any file of this machine into the merged run.
    """
    for path in map(source.store.locate, source.possible_names()):
        with suppress(FileNotFoundError):
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise RunError(f"{path} is a link or not a file, and is not merged: put the file itself there")
            if status.st_size != expected.bytes:
                raise RunError(
                    f"{path} has {status.st_size:,} bytes instead of {expected.bytes:,}; run `preprocess verify`"
                )
            _link_or_copy_file(Path(path), target)
            return
    raise RunError(f"{source.location} is missing, although its shard is committed; run `preprocess verify`")


def _link_or_copy_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)  # safe, as committed files are never written to
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target, follow_symlinks=False)
        sync(target)
