"""Statistics of one split of a run: what became of its planned items.

| field      | type           | meaning                                                              |
|------------|----------------|----------------------------------------------------------------------|
| split      | str            |                                                                      |
| frames     | int            | number of frames of the exported samples                             |
| videos     | int            | number of exported samples: videos, frame sequences or images        |
| planned    | int            | items of the split; always committed + failed + not_done             |
| committed  | int            | items that became samples; always videos + excluded                  |
| excluded   | int            | samples that `--exclude` left out                                    |
| failed     | int            | items that failed                                                    |
| not_done   | int            | items of shards that are not committed; 0 if the run is complete     |
| failures   | list of object | {"key": str, "reason": str} of each failed item                      |

Exports of keypoints add to these fields; see `keypoint_statistics.py`.
"""

from collections.abc import Collection
from typing import Any

from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.keys import shards_with


def counts(run: Run, split: str, excluded: Collection[str] = frozenset()) -> dict[str, Any]:
    """Return the fields of the table above, from the records and tables of `run`.

    Args:
        run: the run.
        split: one of its splits.
        excluded: keys of samples that are left out, a set.

    Raises:
        RunError: a record or table is damaged.
    """
    planned = sum(shard.num_items for shard in run.plan.shards if shard.split == split)
    done, frames = run.outcome(split), _excluded_frames(run, split, excluded)
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


def _excluded_frames(run: Run, split: str, excluded: Collection[str]) -> list[int]:
    """Return the number of frames of each sample of `split` whose key is in `excluded`."""
    committed = run.committed()
    planned = (run.plan.shards[number] for number in shards_with(run.plan, excluded))
    shards = [shard.name for shard in planned if shard.split == split and shard.name in committed]
    rows = (row for shard in shards for row in run.rows(shard, ["key", "num_frames", "reason_class"]).to_pylist())
    return [row["num_frames"] for row in rows if row["key"] in excluded and row["reason_class"] is None]
