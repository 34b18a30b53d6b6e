"""`parquet`: `{split}.parquet`, a row for each sample; for pandas, DuckDB, Hugging Face datasets.

The columns are `key`, the fields of the json as `FIELDS` of `datamodules.samples.*` declares them (those that a corpus
gives only if it gives them for an item of the split), and these:

| samples   | column               | type         | meaning                                                           |
|-----------|----------------------|--------------|-------------------------------------------------------------------|
| keypoints | num_frames           | int64        | T                                                                 |
|           | keypoints            | list<float>  | [T, K, 3], flat: x, y, z in px; zeros where a part was not found  |
|           | keypoints_shape      | list<int32>  | [T, K, 3], for `row.keypoints.reshape(row.keypoints_shape)`       |
|           | presence             | list<uint8>  | [T, 4], flat: whether pose, face, left, right hand were found     |
|           | visibility           | list<float>  | [T, 33], flat: of each pose point, 0 to 1; zeros without a pose   |
| clips     | tokens               | list<int64>  | 77; null without a tokenizer. Frames stay in the shards           |
| captions  | entities             | string       | as JSON text; null of models that do not ground them              |
| poses     | num_people           | int32        | P; in place of `people`                                           |
|           | scores               | list<float>  | [P], the surest person first                                      |
|           | keypoints,           | list<float>  | [P, 18, 3], flat: x, y in px of the processed, of the original    |
|           | original_keypoints   |              | image, and score; zeros for a missing joint                       |
| tracks    | frame_idx, obj_ids   | list<int32>  | [M]: of each object of each frame. Masks stay in the shards       |
|           | labels               | list<string> | [M]                                                               |
|           | scores               | list<float>  | [M], 0 to 1                                                       |
|           | boxes                | list<float>  | [M, 4], flat: x1, y1, x2, y2 in px, half-open                     |

Arrays are flat because pandas then gives one NumPy array a row; nested lists become an object for every point. The
file's metadata holds `statistics` (JSON, see `statistics.py`), so that a folder of these files holds nothing else:
`pyarrow.parquet.read_metadata(file).metadata[b"statistics"]`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.run.folder import Run
from datamodules.samples import captions, clips, keypoints, pose, tracks
from datamodules.samples.fields import Field
from preprocess.export.destination import all_or_none
from preprocess.export.reading import (
    caption_samples,
    clip_samples,
    keypoint_samples,
    kind_of,
    planned_splits,
    pose_samples,
    track_samples,
)
from preprocess.export.statistics import SplitStatistics, counts, parts_of

if TYPE_CHECKING:
    from datamodules.samples.captions import CaptionSample
    from datamodules.samples.clips import ClipSample
    from datamodules.samples.keypoints import KeypointSample
    from datamodules.samples.pose import PoseSample
    from datamodules.samples.tracks import TrackSample

_ROW_GROUP_BYTES = 16 << 20  # of arrays and texts: what a reader holds for each row group that it opens
_FLOATS, _INTS, _TEXTS = pa.list_(pa.float32()), pa.list_(pa.int32()), pa.list_(pa.string())

_Row = dict[str, Any]


class _Table(NamedTuple):
    """How samples of one kind become rows.

    Attributes:
        samples: of a split of a run.
        fields: of their json.
        columns: besides these, or in place of those of the same name; type None: left out.
        row: the values of `columns`.
    """

    samples: Callable[[Run, str], Iterator[Any]]
    fields: Sequence[Field]
    columns: Mapping[str, pa.DataType | None]
    row: Callable[[Any], _Row]


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`; takes every layout of keypoints.

    Raises:
        ConfigError: a file exists.
        RunError: the samples are of another kind, or a shard is damaged.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}.parquet" for split in splits]
    table = _TABLES.get(kind_of(run), _TABLES["KeypointSamples"])
    with all_or_none(paths) as partials:
        for split, partial in zip(splits, partials, strict=True):
            _write(partial, run, split, table)
    return paths


def _write(path: Path, run: Run, split: str, table: _Table) -> None:
    schema, statistics = _schema(run, split, table), SplitStatistics(run, split)
    is_keypoints = table is _TABLES["KeypointSamples"]
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        pending: list[_Row] = []
        pending_bytes = 0
        for sample in table.samples(run, split):
            if is_keypoints:
                statistics.add(parts_of(sample), sample.presence)
            pending.append(_row(sample, table, schema))
            pending_bytes += sum(map(_num_bytes, pending[-1].values()))
            if pending_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(pending, schema))
                pending, pending_bytes = [], 0
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, schema))
        described = statistics.to_json() if is_keypoints else counts(run, split)
        writer.add_key_value_metadata({"statistics": json.dumps(described)})


def _schema(run: Run, split: str, table: _Table) -> Any:
    known = _known(run, split)
    fields = {field.name: field.type for field in table.fields if field.name in known or not field.of_corpus}
    types = {"key": pa.string(), **fields, **table.columns}
    return pa.schema([pa.field(name, column, name != "key") for name, column in types.items() if column is not None])


def _row(sample: Any, table: _Table, schema: Any) -> _Row:
    row = {**sample.meta, "key": sample.key, **table.row(sample)}
    texts = (field.name for field in schema if field.type == pa.string())
    return row | {name: str(row[name]) for name in texts if row.get(name) is not None}  # a corpus may give a number


def _num_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, str) else 8 * len(value) if isinstance(value, list) else 8


def _known(run: Run, split: str) -> set[str]:
    """What the corpus knows of some item of `split`."""
    shards = [shard for shard in run.plan.shards if shard.split == split]
    return {name for shard in shards for item in run.plan.items(shard.number) for name in item.meta}


def _keypoints(sample: "KeypointSample") -> _Row:
    return {
        "num_frames": len(sample.keypoints),
        "keypoints": np.ravel(sample.keypoints),
        "keypoints_shape": list(sample.keypoints.shape),
        "presence": np.ravel(sample.presence),
        "visibility": np.ravel(sample.visibility),
    }


def _clip(sample: "ClipSample") -> _Row:
    return {"tokens": sample.tokens}


def _caption(sample: "CaptionSample") -> _Row:
    entities = sample.meta.get("entities")
    text = None if entities is None else json.dumps(entities, ensure_ascii=False)
    return {"caption": sample.caption, "entities": text}


def _pose(sample: "PoseSample") -> _Row:
    return {
        "num_people": len(sample.scores),
        "scores": sample.scores,
        "keypoints": np.ravel(sample.keypoints),
        "original_keypoints": np.ravel(sample.keypoints_in("original")),
    }


def _tracks(sample: "TrackSample") -> _Row:
    found = [(each["label"], each["score"]) for line in sample.lines for each in line["objects"]]
    return {
        "frame_idx": sample.array("frame_idx.npy"),
        "obj_ids": sample.array("obj_ids.npy"),
        "labels": [label for label, _ in found],
        "scores": [score for _, score in found],
        "boxes": np.ravel(sample.array("boxes.npy")),
    }


_TABLES = {
    "KeypointSamples": _Table(
        keypoint_samples,
        keypoints.FIELDS,
        {
            "num_frames": pa.int64(),
            "keypoints": _FLOATS,
            "keypoints_shape": _INTS,
            "presence": pa.list_(pa.uint8()),
            "visibility": _FLOATS,
        },
        _keypoints,
    ),
    "ClipSamples": _Table(clip_samples, clips.FIELDS, {"tokens": pa.list_(pa.int64())}, _clip),
    "CaptionSamples": _Table(caption_samples, captions.FIELDS, {"entities": pa.string()}, _caption),
    "PoseSamples": _Table(
        pose_samples,
        pose.FIELDS,
        {
            "people": None,
            "num_people": pa.int32(),
            "scores": _FLOATS,
            "keypoints": _FLOATS,
            "original_keypoints": _FLOATS,
        },
        _pose,
    ),
    "TrackSamples": _Table(
        track_samples,
        tracks.FIELDS,
        {"frame_idx": _INTS, "obj_ids": _INTS, "labels": _TEXTS, "scores": _FLOATS, "boxes": _FLOATS},
        _tracks,
    ),
}
