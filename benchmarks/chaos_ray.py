"""The pipeline of Ray Data that `chaos.py` disturbs: the same items, the same work, and Ray Data's own checkpoints.

It reads the list of items from Parquet, computes in `map_batches`, and writes tars with `write_webdataset`. The
checkpoints need a column of unique ids, which is the key here. A file and its checkpoint are committed in two phases:
`{name}.pending.parquet` with the ids, the file, then the rename of the first to `{name}.parquet`. A driver that starts
again deletes the files of pending checkpoints and skips the rows of the others.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.corpus import Item
from datamodules.media.image import read_image
from poison import MeanTransform, Poisoned

_KEY = "__key__"  # what `write_webdataset` calls it
_ROWS_PER_FILE = 20  # as many as a chunk of litData's has


def write_items(corpus: Poisoned, path: Path) -> None:
    """Write the items of `corpus` as a Parquet file: `__key__`, `frames` and `poison`."""
    items = list(corpus.items())
    poisons = pa.array([item.meta["poison"] for item in items], pa.string())  # Ray Data reads a column of nulls as NaN
    columns = {_KEY: [item.key for item in items], "frames": [item.frames for item in items], "poison": poisons}
    pq.write_table(pa.table(columns), path)


def run(items: str, root: str, dest: str, num_cpus: int, seconds_per_frame: float, poisonous: bool, tally: str) -> None:
    """Run the pipeline in a Ray cluster of its own on this machine, or resume it. Called in the driver's process.

    Args:
        items: the file that `write_items` has written.
        root: folder of the images.
        dest: path or URL; the tars are written to `{dest}/tars`, and the checkpoints to `{dest}/checkpoints`.
        num_cpus: tasks of Ray at once.
        seconds_per_frame: see `MeanTransform`.
        poisonous: whether poison acts. Blocks with items that raise are dropped, however many.
        tally: see `MeanTransform`.
    """
    import ray
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    ray.init("local", num_cpus=num_cpus, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    # kept on success, or a signal after the last row would repeat the whole run
    context.checkpoint_config = CheckpointConfig(_KEY, f"{dest}/checkpoints", delete_checkpoint_on_success=False)
    context.max_errored_blocks = -1 if poisonous else 0
    rows = ray.data.read_parquet(items).repartition(target_num_rows_per_block=_ROWS_PER_FILE)
    compute = partial(_compute, root, MeanTransform(poisonous, seconds_per_frame, tally))
    rows.map_batches(compute, batch_size=_ROWS_PER_FILE).write_webdataset(f"{dest}/tars")


def _compute(root: str, mean: MeanTransform, batch: Mapping[str, Any]) -> dict[str, list[str]]:
    samples = []
    for key, frames, poison in zip(batch[_KEY], batch["frames"], batch["poison"], strict=True):
        mean.start(Item(key, "train", ".", tuple(frames), cost=len(frames), meta={"poison": poison}))
        samples.append(json.dumps([key, [mean(read_image(Path(root, name))) for name in frames]]))
    return {_KEY: list(batch[_KEY]), "json": samples}
