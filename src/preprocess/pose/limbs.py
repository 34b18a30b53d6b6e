"""Limbs: pairs of peaks that a part affinity field connects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.samples.skeleton import JOINTS
from preprocess.pose.maps import Scale, values_at
from preprocess.pose.peaks import Peaks

# joints of each limb, in the order in which people are assembled, and the first channel of its field
PAFS = (
    (1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0), (8, 9, 2), (9, 10, 4),
    (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30), (14, 16, 34), (0, 15, 32), (15, 17, 36),
    (2, 16, 18), (5, 17, 26),
)  # fmt: skip

_NUM_POINTS = 10  # where a field is evaluated along a limb
_MIN_ALONG, _MIN_POINTS = 0.05, 9  # so many of the points must be above this value
_FROM, _TO, _CHANNELS = (np.array(values) for values in zip(*PAFS, strict=True))


class Limbs(NamedTuple):
    """M pairs of peaks that may be limbs.

    Attributes:
        pafs: int64 [M], indices in `PAFS`.
        images: int64 [M].
        ends: int64 [M, 2], indices of two `Peaks`.
        scores: float32 [M], above 0.
    """

    pafs: NDArray[np.int64]
    images: NDArray[np.int64]
    ends: NDArray[np.int64]
    scores: NDArray[np.float32]


def find_limbs(peaks: Peaks, scales: Sequence[Scale]) -> Limbs:
    """Return all pairs of peaks whose field runs from one to the other; a peak may be in several."""
    pafs, images, ends = _pairs(peaks, len(scales[0].maps.heatmaps))
    scores = _scores(peaks, scales, pafs, images, ends)
    passed = scores > 0
    return Limbs(pafs[passed], images[passed], ends[passed], scores[passed])


def _pairs(peaks: Peaks, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (pafs, images, ends), as in `Limbs`, of all pairs of peaks of a limb's two joints in one image."""
    counts = np.bincount(peaks.groups, minlength=num_images * len(JOINTS)).reshape(num_images, -1)
    starts = np.cumsum(counts).reshape(num_images, -1) - counts
    num_pairs = (counts[:, _FROM] * counts[:, _TO]).ravel()  # of each limb of each image
    group = np.repeat(np.arange(len(num_pairs)), num_pairs)
    offset = np.arange(len(group)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)
    images, pafs = np.divmod(group, len(PAFS))
    num_to = counts[images, _TO[pafs]]
    first, second = starts[images, _FROM[pafs]] + offset // num_to, starts[images, _TO[pafs]] + offset % num_to
    return pafs, images, np.stack([first, second], 1)


def _scores(
    peaks: Peaks, scales: Sequence[Scale], pafs: NDArray[np.int64], images: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return float32 [M]: the mean of the field along each pair, less a penalty for length; -inf for other pairs."""
    device = scales[0].maps.pafs.device
    from_yx, to_yx = (torch.from_numpy(peaks.positions[indices, 2:]).to(device) for indices in ends.T)
    steps = torch.linspace(0, 1, _NUM_POINTS, dtype=torch.float64, device=device)[:, None]
    points = (from_yx[:, None] + steps * (to_yx - from_yx)[:, None]).round().long()
    channels = torch.from_numpy(_CHANNELS[pafs][:, None] + (1, 0)).to(device)  # y, x
    field = values_at(scales, "pafs", torch.from_numpy(images).to(device), channels, points)
    along = (to_yx - from_yx).float()
    length = along.norm(dim=1).clamp(min=1e-3)
    values = (field * (along / length[:, None])[:, :, None]).sum(1)  # [M, points]: the field along the limb
    scores = values.mean(1) + (0.5 * len(scales[0].maps.rows) / length - 1).clamp(max=0)
    passed = ((values > _MIN_ALONG).sum(1) >= _MIN_POINTS) & (scores > 0)
    return torch.where(passed, scores, -torch.inf).cpu().numpy()
