"""One row per sample, of any kind, for pandas, DuckDB and Hugging Face datasets.

`{split}.parquet` for each split. Its columns are `key`, the `fields` of the sample kind and its `columns`
(`datamodules.samples.*`); a column takes the place of a field of the same name. Fields that only some corpora give are
columns if the corpus gives them for an item of the split.

Arrays are flat, as [T, K, 3] of keypoints in one list, because pandas then reads each as one NumPy array; nested lists
would become a Python object for every point. The metadata of the file holds `statistics` (JSON, see `statistics.py` and
`keypoint_statistics.py`), so that a folder of these files holds nothing else:
`pyarrow.parquet.read_metadata(file).metadata[b"statistics"]`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.samples.keypoints import KeypointSamples
from preprocess.export.destination import all_or_none
from preprocess.export.keypoint_statistics import KeypointStatistics, parts_of
from preprocess.export.source import Source

_ROW_GROUP_BYTES = 16 << 20  # of arrays and texts: what a reader holds for each row group that it opens

_Row = dict[str, Any]


def export(source: Source[Any], dest: Path) -> list[Path]:
    """Write a Parquet file for each split to `dest`.

    Args:
        source: a run of any kind of sample.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists, or the sample kind declares nothing that a table could show.
        RunError: a shard is damaged.
    """
    if not source.kind.fields and all(column.type is None for column in source.kind.columns):
        raise ConfigError(
            f"{type(source.kind).__name__} declares neither fields nor columns with a type, so its table would be "
            "empty: declare some, or take --format jsonl"
        )
    paths = [dest / f"{split}.parquet" for split in source.splits]
    with all_or_none(paths) as partials:
        for split, partial in zip(source.splits, partials, strict=True):
            _write(partial, source, split)
    return paths


def _write(path: Path, source: Source[Any], split: str) -> None:
    schema, counts = _schema(source, split), source.statistics(split)
    statistics = KeypointStatistics(counts) if isinstance(source.kind, KeypointSamples) else None
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        pending: list[_Row] = []
        pending_bytes = 0
        for sample in source.samples(split):
            if statistics:
                statistics.add(parts_of(sample), sample.presence)
            pending.append(_row(sample, source, schema))
            pending_bytes += sum(map(_num_bytes, pending[-1].values()))
            if pending_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(pending, schema))
                pending, pending_bytes = [], 0
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, schema))
        described = statistics.to_json() if statistics else counts
        writer.add_key_value_metadata({"statistics": json.dumps(described)})


def _schema(source: Source[Any], split: str) -> Any:
    given, kind = _given_fields(source.run, split), source.kind
    types: dict[str, pa.DataType | None] = {"key": pa.string()}
    types |= {field.name: field.type for field in kind.fields if field.name in given or not field.of_corpus}
    types |= {column.name: column.type for column in kind.columns}  # None: the column is for `view` only
    return pa.schema([pa.field(name, column, name != "key") for name, column in types.items() if column is not None])


def _row(sample: Any, source: Source[Any], schema: Any) -> _Row:
    meta: Mapping[str, Any] = sample.meta if source.kind.fields else {}
    row = {**meta, "key": sample.key, **source.kind.row(sample)}
    texts = (field.name for field in schema if field.type == pa.string())
    return row | {name: str(row[name]) for name in texts if row.get(name) is not None}  # a corpus may give a number


def _num_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, str) else 8 * len(value) if isinstance(value, list) else 8


def _given_fields(run: Run, split: str) -> set[str]:
    """Return the names of the fields that the corpus gives for some item of `split`."""
    shards = [shard for shard in run.plan.shards if shard.split == split]
    return {name for shard in shards for item in run.plan.items(shard.number) for name in item.meta}
