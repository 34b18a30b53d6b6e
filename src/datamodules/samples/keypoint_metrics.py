"""Metrics of keypoint samples: which parts were found how often, how surely, and how steadily.

Left and right are the person's own. A number is unknown where a sample has nothing to compute it from: no frames, or no
pose in any. The functions take a `KeypointSample`, whose module imports this one.
"""

from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS
from datamodules.samples.metrics import Metric, mean

_POSE = PARTS.index("pose")
_SHOULDERS, _WRISTS = (11, 12), (15, 16)  # left and right, of MediaPipe's PoseLandmark


def _rate(sample: Any, part: int) -> float | None:
    return mean(sample.presence[:, part])


def _longest_gap(sample: Any, part: int) -> float | None:
    """Return how many frames the longest run without a part has."""
    if not len(sample.presence):
        return None
    runs = groupby(sample.presence[:, part].tolist())
    return float(max((len(list(run)) for found, run in runs if not found), default=0))


def _mean_visibility(sample: Any) -> float | None:
    return mean(sample.visibility[sample.presence[:, _POSE] > 0])


def _jitter(sample: Any) -> float | None:
    """Return the median acceleration of the wrists, from one frame to the next, in shoulder widths.

    The acceleration is the length of x[t-1] - 2 x[t] + x[t+1], of x and y alone, where three frames in a row have a
    pose. The shoulder width is the median over the frames with a pose.
    """
    if sample.keypoints.shape[1] not in LAYOUTS:
        return None
    pose = sample.keypoints[:, LAYOUTS[sample.keypoints.shape[1]].part_slices["pose"], :2].astype(np.float64)
    found = sample.presence[:, _POSE] > 0
    accelerations = _lengths(np.diff(pose[:, _WRISTS], n=2, axis=0))[found[:-2] & found[1:-1] & found[2:]]
    left, right = pose[found][:, _SHOULDERS].swapaxes(0, 1)
    width = float(np.median(_lengths(left - right))) if found.any() else 0.0
    return float(np.median(accelerations)) / width if accelerations.size and width else None


def _lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1)
    return lengths


_HANDS = ("left_hand", "right_hand")
METRICS = (
    *(
        Metric(f"{part}_rate", "share of frames in which it was found, 0 to 1", partial(_rate, part=index), worst="low")
        for index, part in enumerate(PARTS)
    ),
    *(
        Metric(
            f"{part}_longest_gap",
            "longest run of frames in which it was not found",
            partial(_longest_gap, part=PARTS.index(part)),
            "frames",
            worst="high",
        )
        for part in _HANDS
    ),
    Metric("mean_visibility", "of all pose points, in frames with a pose, 0 to 1", _mean_visibility, worst="low"),
    Metric(
        "jitter",
        "median acceleration of the wrists, in the image, where three frames in a row have a pose",
        _jitter,
        "shoulder widths per frame²",
        worst="high",
    ),
)
