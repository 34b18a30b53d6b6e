"""Peaks of heatmaps: places where a joint may be."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.skeleton import JOINTS
from preprocess.pose.maps import Scale, values_at

_MIN_VALUE = 0.1
_MAX_PEAKS = 127  # of one joint in one image, as in OpenPose (`POSE_MAX_PEOPLE`)
# values of upsampled maps that are held at once: 512 kB, which stay in a CPU's cache and need no new pages; or 1 GB
_MAX_VALUES = {"cpu": 1 << 17, "cuda": 1 << 28}


class Peaks(NamedTuple):
    """N peaks, ordered by image, joint, y, x.

    Attributes:
        positions: int64 [N, 4]: image, joint, y, x; the last two in px.
        scores: float32 [N], values of the heatmaps.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def groups(self) -> NDArray[np.int64]:
        """int64 [N], ascending: a number for each joint of each image, image * 18 + joint."""
        groups: NDArray[np.int64] = self.positions[:, 0] * len(JOINTS) + self.positions[:, 1]
        return groups


def find_peaks(scales: Sequence[Scale]) -> Peaks:
    """Return the peaks of the mean of several scales: the strongest ones where a joint has too many."""
    maps = scales[0].maps
    height, width = len(maps.rows), len(maps.columns)
    step = max(1, _MAX_VALUES[maps.heatmaps.device.type] // (height * width))
    parts = [slice(start, start + step) for start in range(0, len(scales[0].heatmaps), step)]
    indices = torch.cat([_peaks_of(scales, part) + part.start * height * width for part in parts])
    heatmap, y, x = indices // (height * width), indices // width % height, indices % width
    positions = torch.stack([heatmap // len(JOINTS), heatmap % len(JOINTS), y, x], 1)
    scores = values_at(scales, "heatmaps", positions[:, 0], positions[:, 1:2], positions[:, None, 2:]).flatten()
    return _strongest(Peaks(positions.cpu().numpy(), scores.cpu().numpy()))


def _peaks_of(scales: Sequence[Scale], part: slice) -> Tensor:
    """Return int64 [N]: indices of the peaks in a part of the joints' heatmaps of all images, upsampled and flattened.

    A value is a peak if it is above the minimum, above its neighbours to the left and above, and not below its
    neighbours to the right and below: of equal neighbours exactly one is a peak.
    """
    blurred = scales[0].blurred_heatmaps(part)
    for scale in scales[1:]:
        blurred += scale.blurred_heatmaps(part)
    on_cpu, width = blurred.device.type == "cpu", blurred.shape[2]
    values: Any = blurred.numpy() if on_cpu else blurred  # NumPy compares ten times as fast as torch does on the CPU
    is_peak = values > _MIN_VALUE * len(scales)
    rises = values[:, 1:] > values[:, :-1]  # from a row to the next
    is_peak[:, 1:] &= rises
    is_peak[:, :-1] &= ~rises
    values, is_peak = values.reshape(-1), is_peak.reshape(-1)  # one long row: many short ones are slower
    rises = values[1:] > values[:-1]
    rises[width - 1 :: width] = True  # between the end of a row and the start of the next, nothing is compared
    is_peak[1:] &= rises
    rises[width - 1 :: width] = False
    is_peak[:-1] &= ~rises
    return torch.from_numpy(np.flatnonzero(is_peak)) if on_cpu else is_peak.nonzero()[:, 0]


def _strongest(peaks: Peaks) -> Peaks:
    """Return the `_MAX_PEAKS` strongest peaks of each joint of each image."""
    groups = peaks.groups
    if not len(groups) or np.bincount(groups).max() <= _MAX_PEAKS:
        return peaks
    order = np.lexsort((-peaks.scores, groups))
    starts = np.searchsorted(groups, groups)  # of each peak's group, both in `groups` and in `order`
    kept = np.sort(order[np.arange(len(order)) - starts < _MAX_PEAKS])
    return Peaks(peaks.positions[kept], peaks.scores[kept])
