"""Keypoints of the best detection of an SSD model, averaged over the detections that overlap with it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

_MIN_SCORE = 0.5  # min_score_thresh of pose_detection_cpu and face_detection_short_range_by_roi_cpu
_MIN_OVERLAP = 0.3  # min_suppression_threshold of NonMaxSuppressionCalculator there
_MAX_LOGIT = 100.0  # score_clipping_thresh there
_ANCHORS_PER_LAYER = 2  # of SsdAnchorsCalculator: one of the layer's scale, one between scales


class SsdDetector(NamedTuple):
    """The input size and layers of a detection model (SSD).

    Attributes:
        side: of its square input, in px; boxes and keypoints are in these px.
        strides: of its layers, in px.
    """

    side: int
    strides: tuple[int, ...]


POSE_DETECTOR = SsdDetector(224, (8, 16, 32, 32, 32))  # SsdAnchorsCalculator of pose_detection_cpu.pbtxt
FACE_DETECTOR = SsdDetector(128, (8, 16, 16, 16))  # of face_detection_short_range.pbtxt


class BestDetection(NamedTuple):
    """The best detection in each of N images.

    Attributes:
        keypoints: float64 [N, K, 2]: x, y as fractions of the side; arbitrary where nothing was detected.
        found: bool [N], whether anything was detected.
    """

    keypoints: Tensor
    found: Tensor


def anchors(detector: SsdDetector) -> Tensor:
    """Return float32 [A, 2]: x, y of the anchors' centres, as fractions of the side, in the order of the outputs."""
    return torch.cat(list(_layers(detector)))


def _layers(detector: SsdDetector) -> Iterator[Tensor]:
    for stride, layers in groupby(detector.strides):
        size = -(-detector.side // stride)
        centers = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        yield torch.stack([x, y], -1).flatten(0, 1).repeat_interleave(_ANCHORS_PER_LAYER * len(list(layers)), 0)


def best_detection(outputs: Sequence[Tensor], centers: Tensor, side: int) -> BestDetection:
    """Return the first result of weighted non-maximum suppression in each image.

    Args:
        outputs: of the model. Boxes (x and y of the centre, width, height) and keypoints, relative to their anchors, in
            px of the input [N, A, 4 + 2 K]; and logits of their scores [N, A, 1].
        centers: of the anchors; see `anchors`.
        side: of the model's input, in px.
    """
    boxes, logits = outputs[0].float() / side, outputs[1].float()
    scores = logits[..., 0].clamp(-_MAX_LOGIT, _MAX_LOGIT).sigmoid()
    sizes = boxes[..., 2:4]
    is_detected = (scores >= _MIN_SCORE) & (sizes >= 0).all(-1)
    scores = scores * is_detected
    center = boxes[..., :2] + centers
    corners = torch.cat([center - sizes / 2, center + sizes / 2], -1)
    top = scores.argmax(1, keepdim=True)
    overlap = _overlap(corners, corners.gather(1, top[..., None].expand(-1, -1, 4)))
    is_top = torch.arange(scores.shape[1], device=scores.device) == top
    weights = (scores * (is_top | (overlap > _MIN_OVERLAP))).double()
    keypoints = boxes[..., 4:].reshape(*scores.shape, -1, 2) + centers[:, None]
    total = weights.sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    mean = (keypoints.double() * weights[..., None, None]).sum(1) / total[:, None, None]
    return BestDetection(mean, is_detected.any(1))


def _overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union [N, A] of boxes [N, A, 4] and [N, 1, 4], given by their corners."""
    lower, upper = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (upper - lower).clamp(min=0).prod(-1)
    area, other_area = ((corners[..., 2:] - corners[..., :2]).prod(-1) for corners in (boxes, others))
    union = area + other_area - shared
    return torch.where(union > 0, shared / union, 0)
