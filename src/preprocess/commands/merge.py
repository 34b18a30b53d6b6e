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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from datamodules.card import declared_fields, write_card
from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.folder import Run
from datamodules.run.opening import differences
from datamodules.run.plan import Shard
from datamodules.run.planning import write_batches
from datamodules.run.record import ShardFile, StagedFile, record_name
from datamodules.run.shard_files import write_table
from datamodules.run.store import Folder, Store
from datamodules.samples.fields import common_type
from preprocess.commands.arguments import add_dest
from preprocess.destination import each, new_store
from preprocess.terminal import Parser, say

Location = str | os.PathLike[str]

_MAY_DIFFER = ("corpus", "shards")  # in the fingerprints: which items, and how they are laid out


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess merge`, print the folder of the merged run, and return the exit status."""
    options = parser().parse_args(arguments)
    say(str(merge(options.folders, options.dest).store))
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser("preprocess merge", description="Merge complete runs over different splits or items into one run.")
    parser.add_argument(
        "folders", metavar="O", nargs="+", help="folders or URLs of complete runs; they stay as they are"
    )
    add_dest(parser)
    return parser


def merge(folders: Sequence[Location], dest: Location) -> Run:
    """Make one run in `dest` of the complete runs in `folders`, which are left unchanged.

    It streams: memory holds 8 bytes for each key. `dest` appears whole or not at all; in a bucket see `destination.py`.

    Args:
        folders: folders or URLs of the runs.
        dest: a new or empty folder, or a URL below which there are no objects.

    Raises:
        ConfigError: there are fewer than two folders, or `dest` is not empty.
        RunError: a folder is not a run, or not complete; two runs have a key in common, or were made with different
            settings (the message names them); a field of their corpora has no common type; a file is not as its record
            says.
        EnvironmentFailure: `dest` cannot be written.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} folder to merge: give two or more")
    runs = [Run(folder) for folder in folders]
    try:
        with new_store(dest) as store:
            for run in runs:
                _refuse_incomplete(run)
            for run in runs[1:]:
                _refuse_different_settings(runs[0], run)
            _refuse_common_keys(runs)
            _fill(store, runs)
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


@dataclass(frozen=True)
class _Move:
    """A shard of a run, and what it becomes in the merged run.

    Attributes:
        run: the run or retry that has the shard.
        shard: its shard.
        target: the shard in the merged run or in a retry of it.
        fingerprint: digest of the fingerprint of the merged run or of that retry.
        is_superseded: whether a retry has replaced the shard as a whole.
    """

    run: Run
    shard: Shard
    target: Shard
    fingerprint: str
    is_superseded: bool

    def files(self, store: Store) -> tuple[str, str, str]:
        """Return the names of its tar, table and record in the store of the merged run."""
        tar = ShardFile(store, self.target.name, "tar")
        table = ShardFile(store, self.target.name, "parquet")
        return tar.superseded_name if self.is_superseded else tar.name, table.name, record_name(self.target.name)


_Names = dict[tuple[str, str], str]  # by store and name of a shard: its name in the merged run


def _fill(store: Store, runs: Sequence[Run]) -> None:
    """Write all files of the merged run to an empty store: its plan last, which makes the run appear."""
    with TemporaryDirectory(prefix="framemill-") as scratch:
        plans = Folder(scratch)
        moves, names = _planned(plans, runs)
        written = [name for run in reversed(Run(plans).with_retries) for name in (run.plan.rows_name, run.plan.name)]
        try:
            each(lambda move: _add(move, store, names), moves)
            for name in written:
                plans.copy_to(name, store, name)
            write_card(Run(store))
        except BaseException:
            with suppress(OSError):
                each(store.remove, (*reversed(written), *chain.from_iterable(move.files(store) for move in moves)))
            raise


def _planned(plans: Folder, runs: Sequence[Run]) -> tuple[list[_Move], _Names]:
    """Write the plans of the merged run and its retries to `plans`, and return what becomes of each shard."""
    splits = dict.fromkeys(shard.split for run in runs for shard in run.plan.shards)
    sources = [(run, shard) for split in splits for run in runs for shard in run.plan.shards if shard.split == split]
    _write_plan(plans, sources, runs)
    merged = Run(plans)
    replaced = {(str(run.store), name) for run in runs for retry in run.retries for name in retry.plan.replaces}
    moves: list[_Move] = []
    names: _Names = {}

    def plan(sources: Iterable[tuple[Run, Shard]], target: Run) -> None:
        for (run, shard), new in zip(sources, target.plan.shards, strict=True):
            place = str(run.store), shard.name
            moves.append(_Move(run, shard, new, target.fingerprint_digest, place in replaced))
            names[place] = new.name

    plan(sources, merged)
    for number, retry in enumerate((retry for run in runs for retry in run.retries), start=1):
        fingerprint = {
            **retry.plan.fingerprint,
            "retry": {**retry.plan.fingerprint["retry"], "of": merged.fingerprint_digest},
        }
        batches = (retry.plan.batch(shard.number) for shard in retry.plan.shards)
        replaces = [_renamed(names, retry, name) for name in retry.plan.replaces]
        listing, roots = retry.plan.listing, retry.plan.roots
        write_batches(plans, batches, fingerprint, listing, number, replaces, roots=roots, is_alone=True)
        plan(((retry, shard) for shard in retry.plan.shards), Run(plans, number))
    return moves, names


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


def _add(move: _Move, store: Store, names: _Names) -> None:
    """Add a shard to the merged run."""
    run, shard, target = move.run, move.shard.name, move.target
    record = run.record(shard)
    run.table(shard, ["key"])  # raises RunError if these are not the planned keys
    tar, table, record_file = move.files(store)
    named = replace(
        record,
        shard=target.name,
        attempt=f"{target.name}.{record.rank}",
        tar=replace(record.tar, name=ShardFile(store, target.name, "tar").name),
        table=replace(record.table, name=table),
        fingerprint=move.fingerprint,
        replaces=target.replaces,
    )
    _copy(run.tar_file(shard), record.tar, store, tar)
    if run.retry:
        with store.staged(table) as path:
            named = replace(named, table=write_table(path, table, _superseding_rows(run, shard, names)))
    else:
        _copy(run.table_file(shard), record.table, store, table)
    store.replace(record_file, named.to_json().encode())


def _superseding_rows(retry: Run, shard: str, names: _Names) -> list[dict[str, Any]]:
    """Return the rows of a shard of a retry, with the names that the superseded shards have in the merged run."""
    rows = retry.table(shard).to_pylist()
    return [{**row, "supersedes": _renamed(names, retry, row["supersedes"])} for row in rows]


def _renamed(names: _Names, run: Run, shard: str) -> str:
    """Return the name that a shard of `run` has in the merged run."""
    if (str(run.store), shard) not in names:
        raise RunError(f"{run.plan.location} names shards that {run.store} does not have, such as {shard!r}")
    return names[str(run.store), shard]


def _copy(source: ShardFile, recorded: StagedFile, store: Store, name: str) -> None:
    """Copy a file of a run to the file `name` of the merged run.

    Raises:
        RunError: it is missing, has another size than its record says, or is a link or not a file.
    """
    for found in filter(None, map(source.store.find, source.possible_names())):
        source.store.copy_to(found.name, store, name)  # first, as the size of a link is not that of its file
        if found.size != recorded.bytes:
            raise RunError(
                f"{source.store.locate(found.name)} has {found.size:,} bytes instead of {recorded.bytes:,}; run "
                "`preprocess verify`"
            )
        return
    raise RunError(f"{source.location} is missing, although its shard is committed; run `preprocess verify`")
