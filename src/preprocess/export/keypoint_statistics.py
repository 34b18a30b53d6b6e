"""Statistics of keypoints: how often each part was found, and where. In exports they join those of `statistics.py`.

| field            | type           | meaning                                                                        |
|------------------|----------------|--------------------------------------------------------------------------------|
| detection_rate   | {part: float}  | share of the frames in which the part was found, 0 to 1                        |
| coordinate_range | {part: object} | {"x": [min, max], "y": [min, max]} in px, where found; null if it never was   |

Parts are `pose`, `face`, `left_hand` and `right_hand`, as far as the layout has them. A split without frames has
neither rates nor ranges.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.keypoint_layouts import PARTS
from datamodules.samples.keypoints import KeypointSample


class KeypointStatistics:
    """Statistics of the samples of a split, gathered while they are written.

    Args:
        counts: what became of the planned items (`statistics.py`).
    """

    def __init__(self, counts: Mapping[str, Any]) -> None:
        self._counts = counts
        self._frames = self._videos = 0
        self._num_found: dict[str, int] = {}
        self._lowest: dict[str, NDArray[np.float32]] = {}  # x, y
        self._highest: dict[str, NDArray[np.float32]] = {}

    def add(self, parts: Mapping[str, NDArray[np.float32]], presence: NDArray[np.uint8]) -> None:
        """Add a sample.

        Args:
            parts: float32 [T, n, 3] of each part, as they are written.
            presence: uint8 [T, 4] of the sample.
        """
        self._videos += 1
        self._frames += len(presence)
        for name, keypoints in parts.items():
            is_present = presence[:, PARTS.index(name)] > 0
            present = keypoints[is_present, :, :2].reshape(-1, 2)
            self._num_found[name] = self._num_found.get(name, 0) + int(np.count_nonzero(is_present))
            if len(present):
                self._lowest[name] = np.minimum(present.min(axis=0), self._lowest.get(name, np.inf))
                self._highest[name] = np.maximum(present.max(axis=0), self._highest.get(name, -np.inf))

    def to_json(self) -> dict[str, Any]:
        """Return the fields of both tables, for the samples that were added."""
        rates = {name: count / self._frames for name, count in self._num_found.items() if self._frames}
        counts = dict(self._counts)
        failures = counts.pop("failures")
        return {
            **counts,
            "frames": self._frames,
            "videos": self._videos,
            "detection_rate": rates,
            "coordinate_range": {name: self._range(name) for name in rates},
            "failures": failures,
        }

    def _range(self, part: str) -> dict[str, list[float]] | None:
        if part not in self._lowest:
            return None
        low, high = self._lowest[part].tolist(), self._highest[part].tolist()
        return {"x": [low[0], high[0]], "y": [low[1], high[1]]}


def parts_of(sample: KeypointSample) -> dict[str, NDArray[np.float32]]:
    """Return float32 [T, n, 3], x, y, z in px, of each part, in the order of the sample's layout.

    Raises:
        RunError: see `KeypointSample.layout`.
    """
    return {name: sample.keypoints[:, points] for name, points in sample.layout.part_slices.items()}
