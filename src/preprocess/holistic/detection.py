"""What the detection models find: keypoints of the best detection, averaged over those that overlap with it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_SCORE = 0.5  # min_score_thresh of pose_detection_cpu and face_detection_short_range_by_roi_cpu
_LEAST_OVERLAP = 0.3  # min_suppression_threshold of NonMaxSuppressionCalculator there
_MOST_LOGIT = 100.0  # score_clipping_thresh there
_ANCHORS_PER_LAYER = 2  # of SsdAnchorsCalculator: one, and the one interpolated between scales


class Detector(NamedTuple):
    """How a model's outputs are meant.

    Attributes:
        side: of its input, px; boxes and keypoints are in these.
        strides: of its layers, px.
    """

    side: int
    strides: tuple[int, ...]


POSE_DETECTOR = Detector(224, (8, 16, 32, 32, 32))  # SsdAnchorsCalculator of pose_detection_cpu.pbtxt
FACE_DETECTOR = Detector(128, (8, 16, 16, 16))  # of face_detection_short_range.pbtxt


class Detection(NamedTuple):
    """The best detection in each of N images.

    Attributes:
        keypoints: float64 [N, K, 2]: x, y as fractions of the side; of no meaning where nothing is found.
        found: bool [N].
    """

    keypoints: Tensor
    found: Tensor


def anchors(detector: Detector) -> Tensor:
    """float32 [A, 2]: x, y of the anchors' centres, as parts of the side; row by row, layers of a stride together."""
    return torch.cat(list(_layers(detector)))


def _layers(detector: Detector) -> Iterator[Tensor]:
    for stride, layers in groupby(detector.strides):
        size = -(-detector.side // stride)
        centers = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        yield torch.stack([x, y], -1).flatten(0, 1).repeat_interleave(_ANCHORS_PER_LAYER * len(list(layers)), 0)


def best(outputs: Sequence[Tensor], centers: Tensor, side: int) -> Detection:
    """The best detection of each image, by weighted non-maximum suppression, of which the first result is taken.

    Args:
        outputs: [N, A, 4 + 2 K] boxes (x and y of the centre, width, height) and keypoints, from their anchors, px of
            the input; [N, A, 1] logits of their scores.
        centers: of the anchors; see `anchors`.
        side: of the model's input, px.
    """
    boxes, logits = outputs[0].float() / side, outputs[1].float()
    scores = logits[..., 0].clamp(-_MOST_LOGIT, _MOST_LOGIT).sigmoid()
    sizes = boxes[..., 2:4]
    is_there = (scores >= _LEAST_SCORE) & (sizes >= 0).all(-1)
    scores = scores * is_there
    center = boxes[..., :2] + centers
    corners = torch.cat([center - sizes / 2, center + sizes / 2], -1)
    top = scores.argmax(1, keepdim=True)
    overlap = _overlap(corners, corners.gather(1, top[..., None].expand(-1, -1, 4)))
    is_top = torch.arange(scores.shape[1], device=scores.device) == top
    weights = (scores * (is_top | (overlap > _LEAST_OVERLAP))).double()
    keypoints = boxes[..., 4:].reshape(*scores.shape, -1, 2) + centers[:, None]
    total = weights.sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    mean = (keypoints.double() * weights[..., None, None]).sum(1) / total[:, None, None]
    return Detection(mean, is_there.any(1))


def _overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of corners [N, A, 4] and [N, 1, 4]: [N, A]."""
    least, greatest = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (greatest - least).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - shared
    return torch.where(union > 0, shared / union, 0)
