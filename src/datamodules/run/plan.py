"""The plan: which items there are and in which shard each lies, written once, the same for every rank.

One Arrow IPC file, `plan.arrow`, read through a memory map. Record batch k is shard k: opening the file reads its
footer, and a shard's rows cost one seek, whatever the number of items. The schema's metadata holds the run's
`fingerprint` (JSON), so a plan and what it was made for appear together or not at all, `listing`, the sha256 of what
the corpus listed, `device`, the device model of the rank that wrote it, `corpus_types` (JSON), the type of each field
of `meta` in all samples of the run (`samples/fields.py`), and `roots`, where the corpus lay when it was planned, which
no comparison looks at: a corpus may move. A retry, which tries failed items again
(`retries.py`), has a plan of the same form, `plan-001.arrow`; its metadata's `retry` is its number, and `replaces`
names the shards whose places its shards take.

| column | type         | see `corpus.py` |
|--------|--------------|---------------|
| key    | string       |               |
| split  | string       | constant within a shard |
| path   | string       |               |
| frames | list<string> |               |
| fps    | double       | null: every frame |
| start_seconds, stop_seconds | double | null: from the first frame, to the last |
| start_byte | int64    | null: of no tar |
| cost   | int64        | bytes         |
| modified | double     | s; null: not to be looked at |
| meta   | string       | JSON          |
| problem | string      | null: none was found while listing |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus import JSON_FILES, Item, check_key, check_split
from datamodules.errors import ConfigError, CorpusError, RunError
from datamodules.regular import require_regular
from datamodules.run.typed_json import load
from datamodules.samples.fields import CorpusTypes, check_type

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
        ("frames", pa.list_(pa.string())),
        ("fps", pa.float64()),
        ("start_seconds", pa.float64()),
        ("stop_seconds", pa.float64()),
        ("start_byte", pa.int64()),
        ("cost", pa.int64()),
        ("modified", pa.float64()),
        ("meta", pa.string()),
        ("problem", pa.string()),
    ]
)
_NOT_NULL = ("key", "split", "path", "frames", "cost", "meta")  # plans did not always have the other columns
_SHARD_NAME = re.compile(r"[A-Za-z0-9_]+(-retry\d{3,})?-\d{6,}", re.ASCII)
_ASCII_KEY = r"^[0-9A-Za-z_%-]+(?:/[0-9A-Za-z_%-]+)*$"  # what `check_key` allows of ASCII, for Arrow: 14 times as fast


@dataclass(frozen=True)
class ShardSize:
    """How many items go into one shard. The smallest of the three limits holds, and never less than one item.

    Args:
        max_items: at most this many items.
        max_bytes: at most this much input (`Item.cost`), unless one item alone is more.
        min_shards: split every corpus into at least this many shards where it has that many items, so that there are
            many more shards than ranks: that is the load balancing.
    """

    max_items: int = 1000
    max_bytes: int = 1 << 30
    min_shards: int = 256

    def __post_init__(self) -> None:
        for name in ("max_items", "max_bytes", "min_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"shard size {name} = {getattr(self, name)}: it must be 1 or more")

    def limits(self, num_items: int, cost: int) -> tuple[int, int]:
        """(items, bytes) that a shard of a split with `num_items` items of together `cost` bytes may hold."""
        per_shard = max(1, num_items // self.min_shards)
        return min(self.max_items, per_shard), min(self.max_bytes, -(-cost // self.min_shards) * 2)


@dataclass(frozen=True)
class Shard:
    """One shard as planned.

    Attributes:
        number: its place in the plan, from 0, over all splits.
        split: its split.
        index: its place within the split, from 0.
        num_items: rows.
        num_frames: frames that the listing knows of: of image sequences, 0 for videos.
        cost: bytes of input.
        retry: number of the retry whose plan it is in; 0: the run's own.
        replaces: of a retry that tries samples again: the shard whose place it takes, with all that stands there.
    """

    number: int
    split: str
    index: int
    num_items: int
    num_frames: int
    cost: int
    retry: int = 0
    replaces: str | None = None

    @property
    def name(self) -> str:
        """`{split}-{index:06d}`, of a retry `{split}-retry{retry:03d}-{index:06d}`; tar, table and record bear it."""
        retry = f"retry{self.retry:03d}-" if self.retry else ""
        return f"{self.split}-{retry}{self.index:06d}"


class Plan:
    """A written plan, opened for reading.

    The file may come from someone else, so nothing in it is used before it was checked: the metadata when the file is
    opened, a shard's rows when they are first read.

    Args:
        path: the `plan.arrow` of a run, or a retry's.

    Raises:
        RunError: there is no such file, or it is damaged; from every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[int] = set()  # numbers of the shards whose rows were found to be valid
        try:
            require_regular(path.stat(), path)
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            _check_columns(self._file.schema)
            metadata = {key.decode(): value.decode() for key, value in (self._file.schema.metadata or {}).items()}
            if "fingerprint" not in metadata:
                raise ValueError("it bears no fingerprint")
            self.fingerprint = _fingerprint(load(metadata["fingerprint"]))
            self.listing = metadata["listing"]
            # one; of a merged run those of all its runs
            self.roots = _texts(load(metadata["roots"])) if "roots" in metadata else _old_roots(self.fingerprint)
            self.device = metadata.get("device", "")  # empty: not recorded
            self.retry = int(metadata["retry"])
            if self.retry and "classes" not in self.fingerprint.get("retry", {}):
                raise ValueError("its fingerprint does not say what it tries again (retry.classes)")
            # by shard; empty: none takes the place of another
            self.replaces = [check_shard_name(name) for name in _texts(load(metadata["replaces"]))]
            self.corpus_types = _corpus_types(load(metadata.get("corpus_types", "null")))  # None: not recorded
        except (OSError, pa.ArrowException, ValueError) as error:
            raise RunError(f"{path} is no plan, or damaged: {error}") from error
        except KeyError as error:
            raise RunError(f"{path} is no plan, or damaged: it has no {error} in its metadata") from error

    @cached_property
    def shards(self) -> list[Shard]:
        """Every planned shard, by number."""
        num_batches, bytes_left = self._file.num_record_batches, self.path.stat().st_size
        if not num_batches or len(set(self.replaces)) not in (0, num_batches):
            raise self._damaged(f"it has {num_batches:,} shards, which replace {len(set(self.replaces)):,}")
        shards: list[Shard] = []
        splits: set[str] = set()
        for number in range(num_batches):
            batch = self.batch(number)
            bytes_left -= batch.nbytes
            if bytes_left < 0:
                raise self._damaged("its shards overlap or are compressed")
            split = batch["split"][0].as_py()
            follows = bool(shards) and shards[-1].split == split
            if split in splits and not follows:
                raise self._damaged(f"the shards of the split {split} do not follow one another")
            splits.add(split)
            index = shards[-1].index + 1 if follows else 0
            num_frames, cost = len(batch["frames"].flatten()), pc.sum(batch["cost"]).as_py()
            replaces = self.replaces[number] if self.replaces else None
            shards.append(Shard(number, split, index, batch.num_rows, num_frames, cost, self.retry, replaces))
        return shards

    @property
    def num_items(self) -> int:
        """Planned items over all splits."""
        return sum(shard.num_items for shard in self.shards)

    def keys(self, number: int) -> list[str]:
        """The keys of shard `number`, in order."""
        keys: list[str] = self.batch(number)["key"].to_pylist()
        return keys

    def items(self, number: int) -> list[Item]:
        """The items of shard `number`, in order."""
        return [self._item(row) for row in self.batch(number).to_pylist()]

    def item(self, number: int, row: int) -> Item:
        """The item in row `row` of shard `number`."""
        return self._item(self.batch(number).slice(row, 1).to_pylist()[0])

    def batch(self, number: int) -> Any:
        """Shard `number` as it lies in the file: a pyarrow RecordBatch with the columns of `SCHEMA`."""
        try:
            batch = self._file.get_batch(number)
            if number not in self._checked:
                batch.validate(full=True)
                _check_rows(batch)
                self._checked.add(number)
        except (OSError, pa.ArrowException, ValueError, CorpusError) as error:
            raise self._damaged(f"shard {number}: {error}") from error
        return batch

    def _item(self, row: dict[str, Any]) -> Item:
        try:
            return read_item(row)
        except ValueError as error:
            raise self._damaged(f"the item {row['key']}: {error}") from error

    def _damaged(self, problem: str) -> RunError:
        return RunError(
            f"{self.path} is damaged: {problem}; put back a copy of it, or make the run anew in another folder"
        )


def check_shard_name(name: str) -> str:
    """Return `name` if it is the name of a shard: then it names a file in a folder, and no other.

    Raises:
        ValueError: it is not.
    """
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is not the name of a shard")
    return name


def _check_columns(schema: Any) -> None:
    """Return if a plan may have the columns of `schema`, which is Arrow's; else raise ValueError."""
    for field in schema:
        if field.name not in SCHEMA.names or field.type != SCHEMA.field(field.name).type:
            raise ValueError(f"it has a column {field.name!r:.100} of {field.type}")
    if missing := [name for name in _NOT_NULL if schema.names.count(name) != 1]:
        raise ValueError(f"it has no column {missing[0]}, or several")


def _check_rows(batch: Any) -> None:
    """Return if `planning.write_plan` may have written the rows of a shard; else raise ValueError or CorpusError."""
    if not batch.num_rows:
        raise ValueError("it has no items")
    for name in _NOT_NULL:
        if batch[name].null_count:
            raise ValueError(f"{name} is null")
    if batch["frames"].flatten().null_count:
        raise ValueError("a frame is null")
    # a list may name a path that cannot be one: its item has a problem, and is never opened
    usable = batch.filter(pc.is_null(batch["problem"])) if "problem" in batch.schema.names else batch
    for names in (usable["path"], usable["frames"].flatten()):
        if pc.any(pc.match_substring(names, "\0")).as_py():
            raise ValueError("the path of a file has a null character")
    check_split(batch["split"][0].as_py())
    if not pc.all(pc.equal(batch["split"], batch["split"][0])).as_py():  # a str of Python would make Arrow load pandas
        raise ValueError("it has items of several splits")
    keys = batch["key"]
    for key in keys.filter(pc.invert(pc.match_substring_regex(keys, _ASCII_KEY))).to_pylist():
        check_key(key)
    for column in (batch[name] for name in batch.schema.names if name in ("cost", "start_byte")):
        if (pc.min(column).as_py() or 0) < 0:
            raise ValueError("it has a negative number of bytes")
    for column in (column for column in batch.columns if pa.types.is_floating(column.type)):
        if pc.any(pc.invert(pc.is_finite(column))).as_py():
            raise ValueError("it has a number that is not finite")


def _fingerprint(value: Any) -> dict[str, Any]:
    """Return a fingerprint, in which what code of this package looks at has the types that `fingerprint` gives it.

    Raises:
        ValueError: it has not.
    """
    document = _object(value, "its fingerprint")
    for name in ("corpus", "samples", "extractor", "decoding", "retry"):
        _object(document.get(name, {}), f"{name} of its fingerprint")
    corpus = document.get("corpus", {})
    merged = corpus.get("merged", [])
    if not isinstance(merged, list):
        raise ValueError("corpus.merged of its fingerprint is not a list")
    recorded = (part for part in merged if part is not None)  # None: of a run whose plan names no corpus
    for each in (corpus, *recorded, document.get("samples", {}), document.get("extractor", {})):
        part = _object(each, "a part of its fingerprint")
        _object(part.get("init_args", {}), "init_args of its fingerprint")
        _texts([part.get("class_path", "")])
    _texts(document.get("retry", {}).get("classes") or [])
    return document


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("its metadata has another value where a text is needed")
    return value


def _old_roots(fingerprint: Mapping[str, Any]) -> list[str]:
    corpus = fingerprint.get("corpus", {})  # plans before 2026-12 had them here
    arguments = (each.get("init_args", {}) for each in corpus.get("merged", [corpus]))
    return _texts([each["root"] for each in arguments if "root" in each])


def _corpus_types(value: Any) -> CorpusTypes | None:
    if value is not None:
        for name in _texts(list(_object(value, "corpus_types").values())):
            check_type(name)
    return value  # type: ignore[no-any-return]


def read_item(row: dict[str, Any]) -> Item:
    """Return the item in a row of a plan; ValueError if its `meta` is not what a plan may hold."""
    meta = _object(load(row["meta"]), "its meta")
    _check_json_files(meta.get(JSON_FILES, []))
    return Item(**{**row, "frames": tuple(row["frames"]), "meta": meta})


def _check_json_files(files: Any) -> None:
    """Raise ValueError unless `files` is what `item.JSON_FILES` describes."""
    for file in files if isinstance(files, list) else [files]:
        path, *part = file if isinstance(file, list) else [file]
        is_part = all(each is None or (type(each) is int and each >= 0) for each in part)
        if not (isinstance(path, str) and len(part) == 2 and is_part):
            raise ValueError(f"its meta has the {JSON_FILES} {files!r:.100}")
