"""People, from the heatmaps and part affinity fields of OpenPose's network, for a whole batch at once.

The method is that of Cao et al. (CVPR 2017) as pytorch-openpose and ControlNet have it, with their numbers:

| step    | what                                                                                                 |
|---------|------------------------------------------------------------------------------------------------------|
| enlarge | maps to the image's size: bicubic, times 8, cut, bicubic; the mean of all scales                      |
| peaks   | of each joint's heatmap, blurred (sigma 3 px): above 0.1 and no less than their four neighbours       |
| limbs   | between two peaks, 10 points: 9 or more along the field (above 0.05), and the mean above 0, less what |
|         | exceeds half the image's height; of those that share a peak, the best                                |
| people  | limbs that share a peak; those from shoulder to ear only add ears, or join two                       |
| pruning | of people with under 4 joints, or a score of joints and limbs under 0.4 a joint                      |

Enlarging and blurring are linear, so each is done along an axis by one matrix, made by OpenCV and SciPy themselves: the
maps of joints never stand in memory enlarged but not blurred, and fields are only looked at where limbs may be.

What differs from theirs: several scales are averaged, where `heatmap_avg += heatmap_avg + …` doubles the earlier ones;
of two neighbours with equal values one is the peak, not both; a limb from shoulder to ear never replaces an ear that
a person has, nor gives one to two people that it does not join; of images above 1024 px, maps are made smaller; no
more than 127 peaks of a joint are looked at, as in OpenPose (`POSE_MAX_PEOPLE`).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.skeleton import JOINTS
from preprocess.pose.backend import NOBODY, People, sorted_people

# joints of each limb, in the order in which people are put together, and its field's first channel
PAFS = (
    (1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0), (8, 9, 2), (9, 10, 4),
    (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30), (14, 16, 34), (0, 15, 32), (15, 17, 36),
    (2, 16, 18), (5, 17, 26),
)  # fmt: skip
NUM_TREE = 17  # the first of them make people; the others are from shoulder to ear

_SIGMA_PX = 3.0
_MIN_PEAK = 0.1
_MAX_PEAKS = 127
_NUM_POINTS = 10
_MIN_ALONG, _MIN_POINTS = 0.05, 9
_MIN_JOINTS, _MIN_SCORE = 4, 0.4
# of enlarged maps, that are held at once: 512 kB, which stay in the processor's cache and need no new pages; 1 GB
_MAX_VALUES = {"cpu": 1 << 17, "cuda": 1 << 28}
_MAX_GATHERED = {"cpu": 1 << 17, "cuda": 1 << 26}  # of cells around limbs, likewise

_FROM, _TO, _CHANNELS = (np.array(values) for values in zip(*PAFS, strict=True))


class Maps(NamedTuple):
    """What the network gives of a batch of images of one size, at one scale.

    Attributes:
        pafs: float [B, 38, h, w].
        heatmaps: float [B, 19, h, w].
        rows: float32 [H, h]: how the H rows of an image are made of a map's: `enlarging`.
        columns: float32 [W, w], likewise.
    """

    pafs: Tensor
    heatmaps: Tensor
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


class _Peaks(NamedTuple):
    """N peaks, ordered by image, joint, y, x.

    Attributes:
        places: int64 [N, 4]: image, joint, y, x.
        scores: float32 [N], of the heatmap.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float32]


@lru_cache(maxsize=64)
def enlarging(num_cells: int, used_px: int, size_px: int, stride: int) -> NDArray[np.float32]:
    """float32 [size_px, num_cells]: how a line of an image is made of a map's.

    Args:
        num_cells: of the map.
        used_px: of the `num_cells * stride` px that the network saw, without the padding.
        size_px: of the image.
        stride: px for a cell.
    """
    import cv2

    cells: Any = np.eye(num_cells, dtype=np.float32)
    if stride > 1:
        cells = cv2.resize(cells, (num_cells, num_cells * stride), interpolation=cv2.INTER_CUBIC)
    cells = np.ascontiguousarray(cells.reshape(-1, num_cells)[:used_px])
    enlarged: Any = cv2.resize(cells, (num_cells, size_px), interpolation=cv2.INTER_CUBIC)
    return enlarged.reshape(size_px, num_cells)  # type: ignore[no-any-return]


def decode(maps: Sequence[Maps]) -> list[People]:
    """The people in each image, in px of it; see the module's table.

    Keypoints have the heatmap's value as their score; a person's is the sum of those and of its limbs, by joint: from
    0.4 to about 2.

    Args:
        maps: of the same images, at each scale.
    """
    scales, num_images = [_scale(each) for each in maps], len(maps[0].heatmaps)
    peaks = _peaks(scales)
    return _people(peaks, _limbs(peaks, scales, num_images), num_images)


class _Line(NamedTuple):
    """The same as one of `Maps`' matrices, of which most is 0.

    Attributes:
        cells: int64 [L, T]: the T cells of a map that each place of a line depends on.
        weights: float32 [L, T].
    """

    cells: Tensor
    weights: Tensor


class _Scale(NamedTuple):
    """`Maps`, and what they are looked up by.

    Attributes:
        maps: see `Maps`.
        heatmaps: [B * 18, h, w], of the joints.
        lines: along rows and columns, for single points.
        blurring: float32 [H, h] and [w, W], for all points, blurred.
    """

    maps: Maps
    heatmaps: Tensor
    lines: tuple[_Line, _Line]
    blurring: tuple[Tensor, Tensor]


def _scale(maps: Maps) -> _Scale:
    device, matrices = maps.heatmaps.device, (maps.rows, maps.columns)
    rows, columns = (_line(matrix, device) for matrix in matrices)
    blurred_rows, blurred_columns = (
        (torch.from_numpy(_blurring(len(matrix))) @ torch.from_numpy(matrix)).to(device) for matrix in matrices
    )
    heatmaps = maps.heatmaps[:, : len(JOINTS)].flatten(0, 1)
    return _Scale(maps, heatmaps, (rows, columns), (blurred_rows, blurred_columns.T.contiguous()))


def _line(matrix: NDArray[np.float32], device: torch.device) -> _Line:
    most = max(1, int(np.count_nonzero(matrix, axis=1).max()))
    cells = np.argsort(matrix == 0, axis=1, kind="stable")[:, :most]
    weights = np.take_along_axis(matrix, cells, 1)
    return _Line(torch.from_numpy(cells).to(device), torch.from_numpy(weights).to(device))


@lru_cache(maxsize=16)
def _blurring(size: int) -> NDArray[np.float32]:
    """float32 [size, size]: what blurs a line."""
    from scipy.ndimage import gaussian_filter1d

    blurring: NDArray[np.float32] = gaussian_filter1d(np.eye(size, dtype=np.float32), _SIGMA_PX, axis=0)
    return blurring


def _peaks(scales: Sequence[_Scale]) -> _Peaks:
    heatmaps, height, width = scales[0].maps.heatmaps, len(scales[0].maps.rows), len(scales[0].maps.columns)
    step = max(1, _MAX_VALUES[heatmaps.device.type] // (height * width))
    parts = [slice(start, start + step) for start in range(0, len(scales[0].heatmaps), step)]
    found = torch.cat([_highest(scales, part) + part.start * height * width for part in parts])
    number, y, x = found // (height * width), found // width % height, found % width
    places = torch.stack([number // len(JOINTS), number % len(JOINTS), y, x], 1)
    scores = _looked_up(scales, "heatmaps", places[:, 0], places[:, 1:2], places[:, None, 2:]).flatten()
    return _strongest(_Peaks(places.cpu().numpy(), scores.cpu().numpy()))


def _highest(scales: Sequence[_Scale], part: slice) -> Tensor:
    """int64 [N]: the places of peaks in a part of the joints' enlarged maps of all images, flattened."""
    blurred = _blurred(scales[0], part)
    for scale in scales[1:]:
        blurred += _blurred(scale, part)
    on_cpu, width = blurred.device.type == "cpu", blurred.shape[2]
    values: Any = blurred.numpy() if on_cpu else blurred  # NumPy compares ten times as fast as torch does on the CPU
    highest = values > _MIN_PEAK * len(scales)
    rises = values[:, 1:] > values[:, :-1]
    highest[:, 1:] &= rises
    highest[:, :-1] &= ~rises
    values, highest = values.reshape(-1), highest.reshape(-1)  # along whole maps: many short rows take their time
    rises = values[1:] > values[:-1]
    rises[width - 1 :: width] = True  # from a row's end to the next one's begin
    highest[1:] &= rises
    rises[width - 1 :: width] = False
    highest[:-1] &= ~rises
    return torch.from_numpy(np.flatnonzero(highest)) if on_cpu else highest.nonzero()[:, 0]


def _blurred(scale: _Scale, part: slice) -> Tensor:
    """[M, H, W]: heatmaps, enlarged and blurred."""
    rows, columns = scale.blurring
    blurred: Tensor = rows @ (scale.heatmaps[part].float() @ columns)
    return blurred


def _strongest(peaks: _Peaks) -> _Peaks:
    """The `_MAX_PEAKS` strongest of each joint of each image."""
    groups = peaks.places[:, 0] * len(JOINTS) + peaks.places[:, 1]
    if not len(groups) or np.bincount(groups).max() <= _MAX_PEAKS:
        return peaks
    order = np.lexsort((-peaks.scores, groups))
    starts = np.searchsorted(groups, groups)  # both ascend by group
    kept = np.sort(order[np.arange(len(order)) - starts < _MAX_PEAKS])
    return _Peaks(peaks.places[kept], peaks.scores[kept])


def _looked_up(scales: Sequence[_Scale], name: str, images: Tensor, channels: Tensor, points: Tensor) -> Tensor:
    """[N, C, K]: of N times C channels of a map, enlarged, the values at K points.

    Args:
        scales: whose mean is taken.
        name: `pafs` or `heatmaps`.
        images: int64 [N].
        channels: int64 [N, C].
        points: int64 [N, K, 2]: y, x.
    """
    num_cells = max(rows.cells.shape[1] * columns.cells.shape[1] for _, _, (rows, columns), _ in scales)
    step = max(1, _MAX_GATHERED[images.device.type] // (channels.shape[1] * points.shape[1] * num_cells))
    found = [torch.zeros((0, channels.shape[1], points.shape[1]), device=images.device)]
    for start in range(0, len(images), step):
        part = [each[start : start + step] for each in (images, channels, points)]
        found.append(torch.stack([_at(getattr(scale.maps, name), scale.lines, *part) for scale in scales]).mean(0))
    return torch.cat(found)


def _at(values: Tensor, lines: tuple[_Line, _Line], images: Tensor, channels: Tensor, points: Tensor) -> Tensor:
    """See `_looked_up`, of one scale."""
    (rows, y_weights), (columns, x_weights) = (
        [each[points[..., axis]] for each in line] for axis, line in enumerate(lines)
    )  # each [N, K, T]
    height, width = values.shape[2:]
    cells = (rows[..., :, None] * width + columns[..., None, :]).flatten(2)
    weights = (y_weights[..., :, None] * x_weights[..., None, :]).flatten(2)
    starts = (images[:, None] * values.shape[1] + channels) * (height * width)
    near = values.reshape(-1)[starts[:, :, None, None] + cells[:, None]]
    return (near.float() * weights[:, None]).sum(-1)


class _Limbs(NamedTuple):
    """Pairs of peaks that may be a limb: M of them.

    Attributes:
        paf: int64 [M], place in `PAFS`.
        image: int64 [M].
        ends: int64 [M, 2], two of `_Peaks`.
        scores: float32 [M].
    """

    paf: NDArray[np.int64]
    image: NDArray[np.int64]
    ends: NDArray[np.int64]
    scores: NDArray[np.float32]


def _limbs(peaks: _Peaks, scales: Sequence[_Scale], num_images: int) -> _Limbs:
    """All pairs that pass."""
    paf, image, ends = _pairs(peaks, num_images)
    scores = _limb_scores(peaks, scales, paf, image, ends)
    passed = scores > 0
    return _Limbs(paf[passed], image[passed], ends[passed], scores[passed])


def _pairs(peaks: _Peaks, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(place in `PAFS`, image, ends) of each two peaks of a limb's joints in the same image."""
    groups = peaks.places[:, 0] * len(JOINTS) + peaks.places[:, 1]
    counts = np.bincount(groups, minlength=num_images * len(JOINTS))
    starts = (np.cumsum(counts) - counts).reshape(num_images, -1)
    counts = counts.reshape(num_images, -1)
    num_pairs = (counts[:, _FROM] * counts[:, _TO]).ravel()
    group = np.repeat(np.arange(len(num_pairs)), num_pairs)
    offset = np.arange(len(group)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)
    image, paf = np.divmod(group, len(PAFS))
    num_to = counts[image, _TO[paf]]
    first, second = starts[image, _FROM[paf]] + offset // num_to, starts[image, _TO[paf]] + offset % num_to
    return paf, image, np.stack([first, second], 1)


def _limb_scores(
    peaks: _Peaks, scales: Sequence[_Scale], paf: NDArray[np.int64], image: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Of each pair; -inf for one that is no limb."""
    device = scales[0].maps.pafs.device
    from_yx, to_yx = (torch.from_numpy(peaks.places[each, 2:]).to(device) for each in ends.T)
    steps = torch.linspace(0, 1, _NUM_POINTS, dtype=torch.float64, device=device)[:, None]
    points = (from_yx[:, None] + steps * (to_yx - from_yx)[:, None]).round().long()
    channels = torch.from_numpy(_CHANNELS[paf][:, None] + (1, 0)).to(device)  # y, x
    field = _looked_up(scales, "pafs", torch.from_numpy(image).to(device), channels, points)
    along = (to_yx - from_yx).float()
    length = along.norm(dim=1).clamp(min=1e-3)
    values = (field * (along / length[:, None])[:, :, None]).sum(1)  # [M, points]
    score = values.mean(1) + (0.5 * len(scales[0].maps.rows) / length - 1).clamp(max=0)
    passed = ((values > _MIN_ALONG).sum(1) >= _MIN_POINTS) & (score > 0)
    return torch.where(passed, score, -torch.inf).cpu().numpy()


def _people(peaks: _Peaks, limbs: _Limbs, num_images: int) -> list[People]:
    order = np.lexsort((-limbs.scores, limbs.paf, limbs.image))
    rows = zip(
        limbs.image[order].tolist(), limbs.paf[order].tolist(), *limbs.ends[order].T.tolist(),
        limbs.scores[order].tolist(), strict=True,
    )  # fmt: skip
    people = [NOBODY] * num_images
    for image, found in groupby(rows, key=itemgetter(0)):
        people[image] = _kept(_assembled((row[1:] for row in found), peaks.scores), peaks)
    return people


class _Person:
    """A person in the making: the peak of each joint, or -1; and the scores of joints and limbs together."""

    __slots__ = ("joints", "score")

    def __init__(self) -> None:
        self.joints, self.score = [-1] * len(JOINTS), 0.0

    def can_join(self, other: "_Person") -> bool:
        return not any(a >= 0 and b >= 0 for a, b in zip(self.joints, other.joints, strict=True))

    def join(self, other: "_Person") -> None:
        self.joints = [max(a, b) for a, b in zip(self.joints, other.joints, strict=True)]
        self.score += other.score


def _assembled(limbs: Iterator[tuple[int, int, int, float]], scores: NDArray[np.float32]) -> list[_Person]:
    """The people of (place in `PAFS`, first peak, second peak, score), by place, the best first."""
    of_peak: dict[int, _Person] = {}
    taken: set[tuple[int, int]] = set()
    for paf, first, second, score in limbs:
        if (paf, first) in taken or (paf, second) in taken:
            continue
        taken |= {(paf, first), (paf, second)}
        person, other = of_peak.get(first), of_peak.get(second)
        if person is None and other is None and paf < NUM_TREE:
            person = of_peak[first] = _Person()
            person.joints[PAFS[paf][0]], person.score = first, float(scores[first])
        if person is None or person is other:
            continue
        if other is None and person.joints[PAFS[paf][1]] < 0:
            person.joints[PAFS[paf][1]] = second
            person.score += float(scores[second]) + score
            of_peak[second] = person
        elif other is not None and person.can_join(other):
            person.join(other)
            person.score += score
            of_peak.update({peak: person for peak in other.joints if peak >= 0})
    return list({id(person): person for person in of_peak.values()}.values())


def _kept(people: Sequence[_Person], peaks: _Peaks) -> People:
    kept = []
    for person in people:
        num_joints = sum(peak >= 0 for peak in person.joints)
        if num_joints >= _MIN_JOINTS and person.score / num_joints >= _MIN_SCORE:
            kept.append((person.joints, person.score / num_joints))
    if not kept:
        return NOBODY
    joints, scores = (np.array(values) for values in zip(*kept, strict=True))
    keypoints = np.concatenate([peaks.places[joints][..., :1:-1], peaks.scores[joints][..., None]], -1)
    return sorted_people(np.where(joints[..., None] >= 0, keypoints, 0), scores)
