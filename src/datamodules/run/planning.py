"""Planning: divide the items of a corpus into shards and write the plan, whose files `plan.py` describes.

Any number of items is planned in bounded memory. Shards can be sized only when all items are known. So while the corpus
is listed, the items of every split are written to a file in a scratch folder (`listing.py`); the plan is then written
from these files.

The file with the rows is published first, under a name with its digest, and the summary that names it is created at
last, exclusively: of several ranks that plan at once, one wins. The rows of the others, and those of a rank that was
killed in between, are files that no summary names. `discard_unfinished` removes them.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.errors import CorpusError
from datamodules.run.files import is_folder
from datamodules.run.listing import Listing
from datamodules.run.plan import Plan, ShardSize, plan_name
from datamodules.run.plan_part import rows_name
from datamodules.run.plan_rows import pack
from datamodules.run.plan_summary import SHARDS, Summary
from datamodules.run.store import STAGING, Store
from datamodules.samples.fields import CorpusTypes, common_type

_SCRATCH = "planning"  # folder in `Store.work`
_ROWS = re.compile(r"(.+)\.[0-9a-f]{16}\.zst")  # what `rows_name` makes


def write_plan(
    items: Iterable[Item],
    store: Store,
    fingerprint: Mapping[str, Any],
    size: ShardSize,
    retry: int = 0,
    device: str = "",
    roots: Sequence[str] = (),
    extended: Plan | None = None,
) -> None:
    """Divide `items` into shards and write the plan, which appears whole or not at all.

    Memory holds one shard, and 8 bytes per item to detect keys that occur twice.

    Args:
        items: in the order of the corpus.
        store: of the run.
        fingerprint, retry, device, roots: see `write_batches`.
        size: of the shards.
        extended: the plan that the items extend; None: they are all of a new run or a retry.

    Raises:
        CorpusError: there are no items; all of them have a problem (only in a new run); two have one key (the message
            names both paths); an item has more frames or metadata than a plan can hold; or a field of their metadata
            has another type than in the plan that they extend.
        FileExistsError: another process was faster, and its plan is valid.
        OSError: the plan cannot be written.
    """
    extension = len(extended.parts) if extended else 0
    with _scratch(store, plan_name(retry, extension)) as scratch:
        listing = Listing(scratch)
        listing.fill(items)
        if not retry and not extended:
            listing.require_usable()
        types = _types_of_both(extended, listing.corpus_types) if extended else listing.corpus_types
        write_batches(
            store,
            listing.shards(size),
            fingerprint,
            listing.digest,
            retry,
            device=device,
            corpus_types=types,
            roots=roots,
            extension=extension,
        )


def _types_of_both(extended: Plan, types: CorpusTypes) -> CorpusTypes:
    """Return the types of the corpus's fields in a plan, which those of new items must fit: samples have one type."""
    planned = extended.corpus_types or {}
    for name, kind in types.items():
        if name not in planned or common_type(planned[name], kind) != planned[name]:
            before = f"is {planned[name]}" if name in planned else "is missing"
            raise CorpusError(
                f"the corpus field {name!r} {before} in {extended.store}, and {kind} in its new items. A run has one "
                "type for each field: correct the corpus, or start a new run in another folder"
            )
    return planned


def write_batches(
    store: Store,
    batches: Iterable[Any],
    fingerprint: Mapping[str, Any],
    listing: str,
    retry: int = 0,
    replaces: Sequence[str] = (),
    device: str = "",
    corpus_types: CorpusTypes | None = None,
    roots: Sequence[str] = (),
    is_alone: bool = False,
    tried: NDArray[np.bool_] | None = None,
    extension: int = 0,
) -> None:
    """Write a plan, which appears whole or not at all.

    Args:
        store: of the run.
        batches: one pyarrow RecordBatch per shard, with the columns of `plan_rows.SCHEMA`. The shards of a split follow
            one another.
        fingerprint: of the run, JSON-able.
        listing: sha256 of what was listed; see `Plan.listing`.
        retry: number of the retry whose plan this is; 0: it is the run's own.
        replaces: for every shard the name of the shard that it replaces; empty: none replaces another.
        device: device model of the rank that writes the plan; empty: not recorded.
        corpus_types: type of every field of the items' `meta`; None: not recorded. Retries have the types of the run.
        roots: absolute folders that the items' paths are relative to; for a merged run those of all its runs.
        is_alone: whether no other process can write this plan; it needs no exclusive creation then.
        tried: which rows of all batches, in order, a retry that replaces shards tries again, bool [rows].
        extension: see `plan_name`.

    Raises:
        CorpusError: an item has more frames or metadata than a plan can hold.
        FileExistsError: another process was faster, and its plan is valid.
        OSError: the plan cannot be written.
    """
    name = plan_name(retry, extension)
    shards, digest = _publish_rows(store, name, batches, replaces)
    summary = Summary(shards, digest, fingerprint, listing, retry, device, corpus_types, roots, tried).encode()
    if is_alone:
        with store.staged(name) as path:
            path.write_bytes(summary)
    elif not store.create(name, summary):
        raise FileExistsError(f"{store.locate(name)} exists")


def _publish_rows(store: Store, plan: str, batches: Iterable[Any], replaces: Sequence[str]) -> tuple[Any, str]:
    """Write the rows of the plan named `plan`, and return (the `shards` of its summary, their digest)."""
    staged = f"{STAGING}/{rows_name(plan, os.urandom(8).hex())}"
    shards: list[dict[str, Any]] = []
    sha256 = hashlib.sha256()
    with store.staged(staged) as path, open(path, "wb") as file:
        for batch in batches:
            segment, shard = _packed(batch)
            file.write(segment)
            sha256.update(segment)
            shards.append({**shard, "replaces": replaces[len(shards)] if replaces else None})
    digest = sha256.hexdigest()[:16]
    store.publish(staged, rows_name(plan, digest))
    return pa.RecordBatch.from_pylist(shards, schema=SHARDS), digest


def _packed(batch: Any) -> tuple[bytes, dict[str, Any]]:
    """Return (the segment of a shard, its row in the summary)."""
    try:
        segment, raw_bytes = pack(batch)
    except ValueError as error:
        raise CorpusError(f"the item {batch['key'][0]} has too many frames, or too much metadata: {error}") from error
    return segment, {
        "split": batch["split"][0].as_py(),
        "num_items": batch.num_rows,
        "num_frames": len(batch["frames"].flatten()),
        "cost": sum(batch["cost"].to_pylist()),
        "bytes": len(segment),
        "raw_bytes": raw_bytes,
        "sha256": hashlib.sha256(segment).digest(),
    }


@contextmanager
def _scratch(store: Store, plan: str) -> Iterator[Path]:
    """Create a folder on the local disk for the plan named `plan`, and remove it at the end."""
    scratch = store.work / _SCRATCH / f"{plan}.{os.urandom(8).hex()}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        _discard(scratch)


def discard_unfinished(plans: Sequence[Plan]) -> None:
    """Remove what processes left that were killed, or late, while they wrote one of `plans`.

    Nothing is removed of a plan that is still to be created.

    Args:
        plans: of one run and its retries.
    """
    parts = [part for plan in plans for part in plan.parts]
    store, stems = plans[0].store, {part.name.removesuffix(".arrow") for part in parts}
    used = {part.rows_name for part in parts}
    for folder in ("", STAGING):
        for name in store.names(folder):
            if (rows := _ROWS.fullmatch(name)) and rows[1] in stems and name not in used:
                store.remove(f"{folder}/{name}" if folder else name)
    for scratch in filter(is_folder, (store.work / _SCRATCH).glob("*")):  # a run makes no such link
        if scratch.name.partition(".")[0] in stems:
            with suppress(OSError):  # another process removes it too, or a late one still writes its plan
                _discard(scratch)


def _discard(scratch: Path) -> None:
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
