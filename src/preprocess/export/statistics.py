"""Statistics of one split of a run: what became of its planned items.

| field      | type           | meaning                                                              |
|------------|----------------|----------------------------------------------------------------------|
| split      | str            |                                                                      |
| frames     | int            | number of frames of the exported samples                             |
| videos     | int            | number of exported samples: videos, frame sequences or images        |
| planned    | int            | items of the split; always committed + failed + not_done             |
| committed  | int            | items that became samples                                            |
| failed     | int            | items that failed                                                    |
| not_done   | int            | items of shards that are not committed; 0 if the run is complete     |
| failures   | list of object | {"key": str, "reason": str} of each failed item                      |

Exports of keypoints add to these fields; see `keypoint_statistics.py`.
"""

from typing import Any

from datamodules.run.failures import failures
from datamodules.run.folder import Run


def counts(run: Run, split: str) -> dict[str, Any]:
    """Return the fields of the table above, from the records and tables of `run`.

    Raises:
        RunError: a record or table is damaged.
    """
    planned = sum(shard.num_items for shard in run.plan.shards if shard.split == split)
    done = run.outcome(split)
    return {
        "split": split,
        "frames": done.num_frames,
        "videos": done.committed,
        "planned": planned,
        "committed": done.committed,
        "failed": done.failed,
        "not_done": planned - done.committed - done.failed,
        "failures": [{"key": failure.item.key, "reason": failure.reason} for failure in failures(run, split=split)],
    }
