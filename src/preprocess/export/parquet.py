"""`parquet`: `{split}.parquet`, a row for each sample; for pandas, DuckDB, Hugging Face datasets.

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

Arrays are flat because pandas then gives one NumPy array a row; nested lists become an object for every point. The
file's metadata holds `statistics` (JSON, see `statistics.py`), so that a folder of these files holds nothing else:
`pyarrow.parquet.read_metadata(file).metadata[b"statistics"]`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.line.run import Run
from preprocess.export import all_or_none, keypoint_samples, planned_splits
from preprocess.export.statistics import SplitStatistics, parts_of

if TYPE_CHECKING:
    from datamodules.samples.keypoints import KeypointSample

_TEXTS = ("name", "signer", "glosses", "translation")
_ROW_GROUP_BYTES = 16 << 20  # of arrays: what a reader holds for each row group that it opens


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`; takes every layout.

    Raises:
        ConfigError: a file exists.
        RunError: these are no keypoint samples, or a shard is damaged.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}.parquet" for split in splits]
    with all_or_none(paths) as partials:
        for split, partial in zip(splits, partials, strict=True):
            _write_split(partial, run, split)
    return paths


def _write_split(path: Path, run: Run, split: str) -> None:
    statistics, schema = SplitStatistics(run, split), _schema(run, split)
    rows: list[dict[str, Any]] = []
    pending_bytes = 0
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for sample in keypoint_samples(run, split):
            statistics.add(parts_of(sample), sample.presence)
            rows.append(_row(sample, schema))
            pending_bytes += sample.keypoints.nbytes + sample.presence.nbytes + sample.visibility.nbytes
            if pending_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows, pending_bytes = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
        writer.add_key_value_metadata({"statistics": json.dumps(statistics.to_json())})


def _schema(run: Run, split: str) -> Any:
    shards = [shard for shard in run.plan.shards if shard.split == split]
    known = {name for shard in shards for item in run.plan.items(shard.number) for name in item.meta}
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
