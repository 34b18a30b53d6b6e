"""Statistics of one split of a run: what was planned and what became of it, what was found, and where.

| field            | type           | meaning                                                                         |
|------------------|----------------|---------------------------------------------------------------------------------|
| split            | str            |                                                                                 |
| frames           | int            | in the file that these statistics describe                                      |
| videos           | int            | samples in it: videos, sequences or images                                      |
| planned          | int            | items of the split; always committed + failed + not_done                        |
| committed        | int            | items that became samples                                                       |
| failed           | int            | items that failed                                                               |
| not_done         | int            | items of shards that are not committed: 0 if the run is complete                |
| detection_rate   | {part: float}  | share of the frames in which the part was found, 0 to 1                         |
| coordinate_range | {part: object} | {"x": [min, max], "y": [min, max]} in px, where found; null if it never was     |
| failures         | list of object | {"key": str, "reason": str} of each failed item                                 |

Parts are `pose`, `face`, `left_hand` and `right_hand`, as far as the layout has them. Where the file has no frames, the
rates and ranges are empty; of samples that are no keypoints, they are not there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.retries import failures
from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS, Layout

if TYPE_CHECKING:
    from datamodules.samples.keypoints import KeypointSample


class SplitStatistics:
    """The statistics of `split`, gathered while its samples pass by; the fields are those of the table above."""

    def __init__(self, run: Run, split: str) -> None:
        self._run, self._split = run, split
        self._frames = self._videos = 0
        self._found: dict[str, int] = {}
        self._lowest: dict[str, NDArray[np.float32]] = {}  # of x and y
        self._highest: dict[str, NDArray[np.float32]] = {}

    def add(self, parts: Mapping[str, NDArray[np.float32]], presence: NDArray[np.uint8]) -> None:
        """Count a sample: the [T, n, 3] keypoints of each part as they are written, and the sample's `presence`."""
        self._videos += 1
        self._frames += len(presence)
        for name, keypoints in parts.items():
            present = keypoints[presence[:, PARTS.index(name)] > 0, :, :2].reshape(-1, 2)
            self._found[name] = self._found.get(name, 0) + int(np.count_nonzero(presence[:, PARTS.index(name)]))
            if len(present):
                self._lowest[name] = np.minimum(present.min(axis=0), self._lowest.get(name, np.inf))
                self._highest[name] = np.maximum(present.max(axis=0), self._highest.get(name, -np.inf))

    def to_json(self) -> dict[str, Any]:
        """The table above, of all that was added."""
        found = {name: count / self._frames for name, count in self._found.items() if self._frames}
        counted = counts(self._run, self._split)
        failed = counted.pop("failures")
        return {
            **counted,
            "frames": self._frames,
            "videos": self._videos,
            "detection_rate": found,
            "coordinate_range": {name: self._range(name) for name in found},
            "failures": failed,
        }

    def _range(self, part: str) -> dict[str, list[float]] | None:
        if part not in self._lowest:
            return None
        low, high = self._lowest[part].tolist(), self._highest[part].tolist()
        return {"x": [low[0], high[0]], "y": [low[1], high[1]]}


def counts(run: Run, split: str) -> dict[str, Any]:
    """The table above without rates and ranges, which only keypoints have: what the records and tables tell of a split.

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


def layout_of(sample: "KeypointSample") -> Layout:
    """The layout that `sample` says it has.

    Raises:
        RunError: there is no such layout, or the arrays do not have its shape.
    """
    number, num_frames = sample.meta.get("layout"), len(sample.keypoints)
    layout = LAYOUTS.get(number) if isinstance(number, int) else None
    if layout is None:
        raise RunError(f"{sample.key} has the layout {number!r}; known are {', '.join(map(str, LAYOUTS))}")
    shapes = (sample.keypoints.shape, sample.presence.shape)
    if shapes != ((num_frames, number, 3), (num_frames, len(PARTS))):
        raise RunError(f"{sample.key}: keypoints and presence have shapes {shapes}, not those of layout {number}")
    return layout


def parts_of(sample: "KeypointSample") -> dict[str, NDArray[np.float32]]:
    """The [T, n, 3] keypoints of each part, in the order of the sample's layout.

    Raises:
        RunError: see `layout_of`.
    """
    return {name: sample.keypoints[:, place] for name, place in layout_of(sample).part_slices.items()}
