"""`parquet`: `{split}.parquet`, a row for each sample; for pandas, DuckDB, Hugging Face datasets. Of keypoints:

| column          | type        | meaning                                                                          |
|-----------------|-------------|----------------------------------------------------------------------------------|
| key             | string      | of the item                                                                      |
| path            | string      | of the video, or the folder of the frames; relative to the corpus root           |
| name            | string      | this and the next three: only if the corpus gives it for an item of the split;   |
| signer          | string      | null for items where it does not                                                 |
| glosses         | string      |                                                                                  |
| translation     | string      |                                                                                  |
| layout          | int32       | K, the number of keypoints: 143, 75 or 543                                       |
| width, height   | int32       | px                                                                               |
| fps             | double      | frames per second; null for images                                               |
| num_frames      | int64       | T                                                                                |
| keypoints       | list<float> | float32 [T, K, 3], flat: x, y, z in px; zeros where a part was not found         |
| keypoints_shape | list<int32> | [T, K, 3], for `row.keypoints.reshape(row.keypoints_shape)`                      |
| presence        | list<uint8> | [T, 4], flat: whether pose, face, left hand, right hand were found               |
| visibility      | list<float> | [T, 33], flat: of each pose point, 0 to 1; zeros without a pose                  |

Of clips, whose frames stay in the shards, which the key finds:

| column          | type         | meaning                                                                         |
|-----------------|--------------|---------------------------------------------------------------------------------|
| key             | string       | of the item                                                                     |
| path            | string       | of the video; relative to the corpus root                                       |
| vid             | string       | this and the next five: only if the corpus gives it for an item of the split;   |
| transcript      | string       | null for items where it does not                                                |
| begin_time      | double       | s; this and the next two are the corpus's own                                   |
| end_time        | double       | s                                                                               |
| duration        | double       | s                                                                               |
| size            | list<double> |                                                                                 |
| width, height   | int32        | px, of the video                                                                |
| fps             | double       | frames per second, of the video                                                 |
| num_frames      | int64        | of the video                                                                    |
| codec           | string       | of the video                                                                    |
| pts_seconds     | list<double> | of the T frames of the clip, since the video's first                            |
| tokens          | list<int64>  | 77; null without a tokenizer                                                    |
| num_tokens      | int32        | of the whole text; null without a tokenizer                                     |
| truncated       | bool         | whether that was more than 77; likewise                                         |

Of captions, whose images stay where they are:

| column         | type   | meaning                                                                                |
|----------------|--------|----------------------------------------------------------------------------------------|
| key            | string | of the item                                                                            |
| image          | string | path relative to the corpus root                                                       |
| caption        | string |                                                                                        |
| status         | string | `ok`, `truncated`, `empty`                                                             |
| model          | string | this and the next four: what made it                                                   |
| revision       | string |                                                                                        |
| backend        | string |                                                                                        |
| prompt         | string | as it was filled in                                                                    |
| system_prompt  | string |                                                                                        |
| num_tokens     | int32  | of the caption                                                                         |
| width, height  | int32  | px, of the image                                                                       |
| entities       | string | JSON, of models that ground them; null of others                                       |

Arrays are flat because pandas then gives one NumPy array a row; nested lists become an object for every point. The
file's metadata holds `statistics` (JSON, see `statistics.py`), so that a folder of these files holds nothing else:
`pyarrow.parquet.read_metadata(file).metadata[b"statistics"]`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.line.run import Run
from preprocess.export import all_or_none, caption_samples, clip_samples, keypoint_samples, kind_of, planned_splits
from preprocess.export.statistics import SplitStatistics, counts, parts_of

if TYPE_CHECKING:
    from datamodules.samples.keypoints import KeypointSample

_TEXTS = ("name", "signer", "glosses", "translation")
_ROW_GROUP_BYTES = 16 << 20  # of arrays: what a reader holds for each row group that it opens

_Row = tuple[dict[str, Any], int]  # and the bytes of its arrays


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`; takes every layout of keypoints.

    Raises:
        ConfigError: a file exists.
        RunError: these are neither keypoints, clips nor captions, or a shard is damaged.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}.parquet" for split in splits]
    with all_or_none(paths) as partials:
        for split, partial in zip(splits, partials, strict=True):
            _WRITERS.get(kind_of(run), _write_keypoints)(partial, run, split)
    return paths


def _write_keypoints(path: Path, run: Run, split: str) -> None:
    statistics, schema = SplitStatistics(run, split), _schema(run, split)

    def rows() -> Iterator[_Row]:
        for sample in keypoint_samples(run, split):
            statistics.add(parts_of(sample), sample.presence)
            yield _row(sample, schema), sample.keypoints.nbytes + sample.presence.nbytes + sample.visibility.nbytes

    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        _write_rows(writer, schema, rows())
        writer.add_key_value_metadata({"statistics": json.dumps(statistics.to_json())})


def _write_clips(path: Path, run: Run, split: str) -> None:
    known = _known(run, split)
    schema = pa.schema([field for field in _CLIP_SCHEMA if field.name in known or field.name not in _OF_CLIP_CORPUS])
    rows = (
        ({**sample.meta, "key": sample.key, "tokens": sample.tokens}, 8 * (77 + len(sample.meta["pts_seconds"])))
        for sample in clip_samples(run, split)
    )
    _write_told(path, run, split, schema, rows)


def _write_captions(path: Path, run: Run, split: str) -> None:
    def rows() -> Iterator[_Row]:
        for sample in caption_samples(run, split):
            entities = sample.meta.get("entities")
            told = {"entities": None if entities is None else json.dumps(entities, ensure_ascii=False)}
            texts = (sample.caption, sample.meta.get("prompt"), told["entities"])
            yield (
                {**sample.meta, **told, "key": sample.key, "caption": sample.caption},
                sum(len(t or "") for t in texts),
            )

    _write_told(path, run, split, _CAPTION_SCHEMA, rows())


def _write_told(path: Path, run: Run, split: str, schema: Any, rows: Iterator[_Row]) -> None:
    """A file of `rows`, with what is known of the split."""
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        _write_rows(writer, schema, rows)
        writer.add_key_value_metadata({"statistics": json.dumps(counts(run, split))})


def _write_rows(writer: Any, schema: Any, rows: Iterator[_Row]) -> None:
    texts = [field.name for field in schema if field.type == pa.string()]
    pending: list[dict[str, Any]] = []
    pending_bytes = 0
    for row, num_bytes in rows:  # whose corpus may tell a number for a name
        pending.append(row | {name: str(row[name]) for name in texts if row.get(name) is not None})
        pending_bytes += num_bytes
        if pending_bytes >= _ROW_GROUP_BYTES:
            writer.write_table(pa.Table.from_pylist(pending, schema))
            pending, pending_bytes = [], 0
    if pending:
        writer.write_table(pa.Table.from_pylist(pending, schema))


def _known(run: Run, split: str) -> set[str]:
    """What the corpus knows of some item of `split`."""
    shards = [shard for shard in run.plan.shards if shard.split == split]
    return {name for shard in shards for item in run.plan.items(shard.number) for name in item.meta}


_OF_CLIP_CORPUS = ("vid", "transcript", "begin_time", "end_time", "duration", "size")
_CLIP_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("path", pa.string()),
        ("vid", pa.string()),
        ("transcript", pa.string()),
        ("begin_time", pa.float64()),
        ("end_time", pa.float64()),
        ("duration", pa.float64()),
        ("size", pa.list_(pa.float64())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("codec", pa.string()),
        pa.field("pts_seconds", pa.list_(pa.float64()), nullable=False),
        ("tokens", pa.list_(pa.int64())),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)

_CAPTION_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("image", pa.string()),
        pa.field("caption", pa.string(), nullable=False),
        *((name, pa.string()) for name in ("status", "model", "revision", "backend", "prompt", "system_prompt")),
        ("num_tokens", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("entities", pa.string()),
    ]
)
_WRITERS = {"ClipSamples": _write_clips, "CaptionSamples": _write_captions}


def _schema(run: Run, split: str) -> Any:
    known = _known(run, split)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            ("path", pa.string()),
            *((name, pa.string()) for name in _TEXTS if name in known),
            ("layout", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("fps", pa.float64()),
            pa.field("num_frames", pa.int64(), nullable=False),
            pa.field("keypoints", pa.list_(pa.float32()), nullable=False),
            pa.field("keypoints_shape", pa.list_(pa.int32()), nullable=False),
            pa.field("presence", pa.list_(pa.uint8()), nullable=False),
            pa.field("visibility", pa.list_(pa.float32()), nullable=False),
        ]
    )


def _row(sample: "KeypointSample", schema: Any) -> dict[str, Any]:
    return {
        **{name: sample.meta.get(name) for name in schema.names},
        "key": sample.key,
        "num_frames": len(sample.keypoints),
        "keypoints": np.ravel(sample.keypoints),
        "keypoints_shape": sample.keypoints.shape,
        "presence": np.ravel(sample.presence),
        "visibility": np.ravel(sample.visibility),
    }
