"""Statistics of one split of a run: what became of its planned items.

| field      | type           | meaning                                                              |
|------------|----------------|----------------------------------------------------------------------|
| split      | str            |                                                                      |
| frames     | int            | number of frames of the exported samples                             |
| videos     | int            | number of exported samples: videos, frame sequences or images        |
| planned    | int            | items of the split; always committed + failed + not_done             |
| committed  | int            | items that became samples; always videos + excluded                  |
| excluded   | int            | samples that `--exclude` and `--where` left out                      |
| failed     | int            | items that failed                                                    |
| not_done   | int            | items of shards that are not committed; 0 if the run is complete     |
| failures   | list of object | {"key": str, "reason": str} of each failed item                      |

Exports of keypoints add to these fields; see `keypoint_statistics.py`.
"""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.run.condition import Condition
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.keys import shards_with


def counts(
    run: Run, split: str, excluded: Collection[str] = frozenset(), where: Condition | None = None
) -> dict[str, Any]:
    """Return the fields of the table above, from the records and tables of `run`.

    Args:
        run: the run.
        split: one of its splits.
        excluded: keys of samples that are left out, a set.
        where: samples that do not meet it are left out, too; None: all do.

    Raises:
        RunError: a record or table is damaged.
    """
    planned = sum(shard.num_items for shard in run.plan.shards if shard.split == split)
    done, frames = run.outcome(split), _excluded_frames(run, split, excluded, where)
    return {
        "split": split,
        "frames": done.num_frames - sum(frames),
        "videos": done.committed - len(frames),
        "planned": planned,
        "committed": done.committed,
        "excluded": len(frames),
        "failed": done.failed,
        "not_done": planned - done.committed - done.failed,
        "failures": [{"key": failure.item.key, "reason": failure.reason} for failure in failures(run, split=split)],
    }


def _excluded_frames(run: Run, split: str, excluded: Collection[str], where: Condition | None) -> list[int]:
    """Return the number of frames of each sample of `split` that is left out."""
    shards, committed = run.plan.shards, run.committed()
    numbers = shards_with(run.plan, excluded) if where is None else range(len(shards))
    names = [
        shards[number].name for number in numbers if shards[number].split == split and shards[number].name in committed
    ]
    frames: list[int] = []
    for name in names:
        rows = run.rows(name, list({"key", "num_frames", "reason_class", *(where.columns if where else [])}))
        rows = rows.filter(pc.is_null(rows["reason_class"]))
        is_left = pa.array([key not in excluded for key in rows["key"].to_pylist()], pa.bool_())
        if where:
            is_left = pc.and_(is_left, pc.fill_null(where.evaluate(rows), False))
        frames += rows["num_frames"].filter(pc.invert(is_left)).to_pylist()
    return frames
