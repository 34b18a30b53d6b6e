"""The plan: the items of a run and the shard of every item. It is written once and is the same for every rank.

A plan is one Arrow IPC file, `plan.arrow`, read through a memory map. Record batch k is shard k: opening the file reads
its footer, and the rows of a shard take one seek, whatever the number of items. A retry, which tries items again
(`retries.py`), has a plan of the same form, `plan-001.arrow`. Columns are the fields of `datamodules.corpus.Item`:

| column                      | type         | remarks                                        |
|-----------------------------|--------------|------------------------------------------------|
| key                         | string       | unique in the run                              |
| split                       | string       | constant within a shard                        |
| path                        | string       | relative to the corpus root                    |
| frames                      | list<string> | names of image files; empty for a video        |
| fps                         | double       | null: every frame                              |
| start_seconds, stop_seconds | double       | null: from the first frame, to the last        |
| start_byte                  | int64        | null: the file is not in a tar                 |
| cost                        | int64        | bytes                                          |
| modified                    | double       | seconds since the epoch; null: not compared    |
| version                     | string       | ETag; null: of files, or not compared          |
| meta                        | string       | JSON                                           |
| problem                     | string       | null: the listing noticed none                 |

The metadata of the schema is in the same file, so that a plan and its fingerprint appear together or not at all:

| metadata     | content                                                                                             |
|--------------|-----------------------------------------------------------------------------------------------------|
| fingerprint  | JSON: everything that changes results                                                               |
| listing      | sha256 of what the corpus listed                                                                    |
| device       | device model of the rank that wrote the plan                                                        |
| corpus_types | JSON: type of every field of `meta` in the samples of the run; see `samples/fields.py`              |
| roots        | JSON: absolute folders of the corpus at planning. Not part of the fingerprint: a corpus may move    |
| retry        | number of the retry; 0 for the run's own plan                                                       |
| replaces     | JSON: for every shard of a retry the name of the shard that it replaces; empty if it replaces none  |
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
        ("version", pa.string()),
        ("meta", pa.string()),
        ("problem", pa.string()),
    ]
)
_NOT_NULL = ("key", "split", "path", "frames", "cost", "meta")  # older plans lack some of the other columns
_SHARD_NAME = re.compile(r"[A-Za-z0-9_]+(-retry\d{3,})?-\d{6,}", re.ASCII)
_ASCII_KEY = r"^[0-9A-Za-z_%-]+(?:/[0-9A-Za-z_%-]+)*$"  # ASCII that `check_key` allows; 14 times as fast in Arrow


@dataclass(frozen=True)
class ShardSize:
    """How many items go into one shard: as many as all three limits allow, but at least one.

    Args:
        max_items: number of items, at most.
        max_bytes: bytes of input (`Item.cost`), at most, unless a single item has more.
        min_shards: number of shards of a split, at least, if it has that many items. Many more shards than ranks
            balance the load, because fast ranks lease more of them.
    """

    max_items: int = 1000
    max_bytes: int = 1 << 30
    min_shards: int = 256

    def __post_init__(self) -> None:
        for name in ("max_items", "max_bytes", "min_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"shard size {name} = {getattr(self, name)}: it must be 1 or more")

    def limits(self, num_items: int, cost: int) -> tuple[int, int]:
        """Return the largest number of items and of bytes of a shard.

        Args:
            num_items: of the split.
            cost: bytes of all items of the split.
        """
        per_shard = max(1, num_items // self.min_shards)
        return min(self.max_items, per_shard), min(self.max_bytes, -(-cost // self.min_shards) * 2)


@dataclass(frozen=True)
class Shard:
    """A planned shard.

    Attributes:
        number: its number in the plan, from 0, over all splits.
        split: its split.
        index: its number within the split, from 0.
        num_items: number of items, which are its rows.
        num_frames: frames that the listing counted: those of image sequences; 0 for a video.
        cost: bytes of input.
        retry: number of the retry whose plan has the shard; 0 for the run's own plan.
        replaces: name of the shard whose samples and rows this one replaces as a whole; None if it replaces none. Only
            shards of a retry of samples replace others.
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
        """`{split}-{index:06d}`, of a retry `{split}-retry{retry:03d}-{index:06d}`: the name of tar, table, record."""
        retry = f"retry{self.retry:03d}-" if self.retry else ""
        return f"{self.split}-{retry}{self.index:06d}"


class Plan:
    """A written plan, opened for reading.

    The file may come from someone else, so everything in it is checked before it is used: the metadata when the file is
    opened, and the rows of a shard when they are first read.

    Args:
        path: the `plan.arrow` of a run, or the plan of a retry.

    Attributes:
        fingerprint: everything that changes results.
        listing: sha256 of what the corpus listed.
        roots: absolute folders of the corpus at planning: one, or those of all runs of a merged run.
        device: device model of the rank that wrote the plan; empty: not recorded.
        retry: number of the retry; 0 for the run's own plan.
        replaces: by shard number the name of the shard that it replaces; empty: none replaces another.
        corpus_types: type of every field of `meta`; None: not recorded.

    Raises:
        RunError: the file is missing or damaged; also raised by every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[int] = set()  # numbers of the shards whose rows are valid
        try:
            require_regular(path.stat(), path)
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            _check_columns(self._file.schema)
            metadata = {key.decode(): value.decode() for key, value in (self._file.schema.metadata or {}).items()}
            if "fingerprint" not in metadata:
                raise ValueError("it has no fingerprint")
            self.fingerprint = _fingerprint(load(metadata["fingerprint"]))
            self.listing = metadata["listing"]
            self.roots = _texts(load(metadata["roots"])) if "roots" in metadata else _old_roots(self.fingerprint)
            self.device = metadata.get("device", "")
            self.retry = int(metadata["retry"])
            if self.retry and "classes" not in self.fingerprint.get("retry", {}):
                raise ValueError("its fingerprint does not say what it tries again (retry.classes)")
            self.replaces = [check_shard_name(name) for name in _texts(load(metadata["replaces"]))]
            self.corpus_types = _corpus_types(load(metadata.get("corpus_types", "null")))
        except (OSError, pa.ArrowException, ValueError) as error:
            raise RunError(f"{path} is no plan, or damaged: {error}") from error
        except KeyError as error:
            raise RunError(f"{path} is no plan, or damaged: it has no {error} in its metadata") from error

    @cached_property
    def shards(self) -> list[Shard]:
        """All planned shards, by number."""
        num_batches, bytes_left = self._file.num_record_batches, self.path.stat().st_size
        if not num_batches or len(set(self.replaces)) not in (0, num_batches):
            raise self._damaged(f"it has {num_batches:,} shards, which replace {len(set(self.replaces)):,}")
        shards: list[Shard] = []
        splits: set[str] = set()
        for number in range(num_batches):
            batch = self.batch(number)
            bytes_left -= batch.nbytes
            if bytes_left < 0:  # a small file must not unfold into more than memory holds
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
        """Number of planned items of all splits."""
        return sum(shard.num_items for shard in self.shards)

    def keys(self, number: int) -> list[str]:
        """Return the keys of shard `number`, in order."""
        keys: list[str] = self.batch(number)["key"].to_pylist()
        return keys

    def items(self, number: int) -> list[Item]:
        """Return the items of shard `number`, in order."""
        return [self._item(row) for row in self.batch(number).to_pylist()]

    def item(self, number: int, row: int) -> Item:
        """Return the item in row `row` of shard `number`."""
        return self._item(self.batch(number).slice(row, 1).to_pylist()[0])

    def batch(self, number: int) -> Any:
        """Return shard `number` as it is in the file: a pyarrow RecordBatch with columns of `SCHEMA`."""
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
            f"{self.path} is damaged: {problem}. Restore it from a copy, or start a new run in another folder"
        )


def check_shard_name(name: str) -> str:
    """Return `name` if it is the name of a shard. Such a name is safe as a part of paths.

    Raises:
        ValueError: `name` is not the name of a shard.
    """
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is not the name of a shard")
    return name


def _check_columns(schema: Any) -> None:
    """Raise ValueError unless the Arrow schema `schema` has the columns of a plan."""
    for field in schema:
        if field.name not in SCHEMA.names or field.type != SCHEMA.field(field.name).type:
            raise ValueError(f"it has a column {field.name!r:.100} of {field.type}")
    if missing := [name for name in _NOT_NULL if schema.names.count(name) != 1]:
        raise ValueError(f"it has no column {missing[0]}, or several")


def _check_rows(batch: Any) -> None:
    """Raise ValueError or CorpusError unless the rows of a shard are such as `planning.write_plan` writes."""
    if not batch.num_rows:
        raise ValueError("it has no items")
    for name in _NOT_NULL:
        if batch[name].null_count:
            raise ValueError(f"{name} is null")
    if batch["frames"].flatten().null_count:
        raise ValueError("a frame is null")
    # an item with a problem may have an impossible path, as its list gave it; it is never opened
    usable = batch.filter(pc.is_null(batch["problem"])) if "problem" in batch.schema.names else batch
    for names in (usable["path"], usable["frames"].flatten()):
        if pc.any(pc.match_substring(names, "\0")).as_py():
            raise ValueError("the path of a file has a null character")
    check_split(batch["split"][0].as_py())
    # compared with an Arrow scalar, because a Python str makes Arrow import pandas
    if not pc.all(pc.equal(batch["split"], batch["split"][0])).as_py():
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
    """Return a fingerprint after a check of the types of all fields that this package reads.

    Raises:
        ValueError: a field has another type.
    """
    document = _object(value, "its fingerprint")
    for name in ("corpus", "samples", "extractor", "decoding", "retry"):
        _object(document.get(name, {}), f"{name} of its fingerprint")
    corpus = document.get("corpus", {})
    merged = corpus.get("merged", [])
    if not isinstance(merged, list):
        raise ValueError("corpus.merged of its fingerprint is not a list")
    recorded = (part for part in merged if part is not None)  # None: a run whose plan names no corpus
    for entry in (corpus, *recorded, document.get("samples", {}), document.get("extractor", {})):
        part = _object(entry, "a part of its fingerprint")
        _object(part.get("init_args", {}), "init_args of its fingerprint")
        _texts([part.get("class_path", "")])
    _texts(document.get("retry", {}).get("classes") or [])
    return document


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("its metadata has another value where texts are required")
    return value


def _old_roots(fingerprint: Mapping[str, Any]) -> list[str]:
    """Return the roots of a plan from before 2026-12, which had them in its fingerprint."""
    corpus = fingerprint.get("corpus", {})
    arguments = (part.get("init_args", {}) for part in corpus.get("merged", [corpus]))
    return _texts([init_args["root"] for init_args in arguments if "root" in init_args])


def _corpus_types(value: Any) -> CorpusTypes | None:
    if value is not None:
        for name in _texts(list(_object(value, "corpus_types").values())):
            check_type(name)
    return value  # type: ignore[no-any-return]


def read_item(row: dict[str, Any]) -> Item:
    """Return the item in a row of a plan.

    Raises:
        ValueError: its `meta` is not such as a plan has.
    """
    meta = _object(load(row["meta"]), "its meta")
    _check_json_files(meta.get(JSON_FILES, []))
    return Item(**{**row, "frames": tuple(row["frames"]), "meta": meta})


def _check_json_files(files: Any) -> None:
    """Raise ValueError unless `files` is what `corpus.JSON_FILES` describes."""
    for file in files if isinstance(files, list) else [files]:
        path, *part = file if isinstance(file, list) else [file]
        is_part = all(number is None or (type(number) is int and number >= 0) for number in part)
        if not (isinstance(path, str) and len(part) == 2 and is_part):
            raise ValueError(f"its meta has the {JSON_FILES} {files!r:.100}")
