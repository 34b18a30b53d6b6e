"""Keypoints of the best detection of an SSD model, averaged over the detections that overlap with it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.holistic.arrays import Array, clip, device_of, namespace_of, sigmoid
from preprocess.holistic.networks import Network

MIN_SCORE = 0.5  # min_score_thresh of pose_detection_cpu and face_detection_short_range_by_roi_cpu
_MIN_OVERLAP = 0.3  # min_suppression_threshold of NonMaxSuppressionCalculator there
_MAX_LOGIT = 100.0  # score_clipping_thresh there
_TINY = float(np.finfo(np.float32).tiny)
_LEAST_AREA = 1e-9  # px²: boxes without an area overlap with none
_ANCHORS_PER_LAYER = 2  # of SsdAnchorsCalculator: one of the layer's scale, one between scales


class BestDetection(NamedTuple):
    """The best detection in each of N images.

    Attributes:
        keypoints: float64 [N, K, 2]: x, y as fractions of the side; arbitrary where nothing was detected.
        found: bool [N], whether anything was detected.
    """

    keypoints: Array
    found: Array


def anchors(network: Network) -> NDArray[np.float32]:
    """Return float32 [A, 2]: x, y of a detector's anchors, in px of its input, in the order of its outputs."""
    return np.concatenate(list(_layers(network)))


def _layers(network: Network) -> Iterator[NDArray[np.float32]]:
    for stride, layers in groupby(network.strides):
        size = -(-network.side // stride)
        centers = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(network.side / size)
        y, x = np.meshgrid(centers, centers, indexing="ij")
        yield np.stack([x, y], -1).reshape(-1, 2).repeat(_ANCHORS_PER_LAYER * len(list(layers)), 0)


def best_detection(outputs: Sequence[Array], centers: Array, side: int, min_score: float = MIN_SCORE) -> BestDetection:
    """Return the first result of weighted non-maximum suppression in each image.

    Args:
        outputs: of the model. Boxes (x and y of the centre, width, height) and keypoints, relative to their anchors, in
            px of the input [N, A, 4 + 2 K]; and logits of their scores [N, A, 1].
        centers: of the anchors, in px of the input [A, 2]; see `anchors`.
        side: of the model's input, in px.
        min_score: 0 to 1, the lowest score of a detection.
    """
    xp = namespace_of(centers)
    boxes, logits = (xp.astype(output, xp.float32, copy=False) for output in outputs)
    scores = sigmoid(clip(logits[..., 0], -_MAX_LOGIT, _MAX_LOGIT))
    width, height = boxes[..., 2], boxes[..., 3]
    is_detected = (scores >= min_score) & (width >= 0) & (height >= 0)
    scores = scores * is_detected
    best = xp.argmax(scores, axis=1, keepdims=True)
    is_best = xp.arange(scores.shape[1], device=device_of(scores)) == best
    overlap = _overlap(boxes[..., 0] + centers[:, 0], boxes[..., 1] + centers[:, 1], width, height, best)
    weights = xp.astype(scores * (is_best | (overlap > _MIN_OVERLAP)), xp.float64)
    total = clip(xp.sum(weights, axis=1), _TINY)
    offsets = xp.einsum("na,nak->nk", weights, xp.astype(boxes[..., 4:], xp.float64))
    anchor = xp.einsum("na,ak->nk", weights, xp.astype(centers, xp.float64))
    keypoints = xp.reshape(offsets, (len(offsets), -1, 2)) + anchor[:, None]
    return BestDetection(keypoints / (total * side)[:, None, None], xp.any(is_detected, axis=1))


def _overlap(x: Array, y: Array, width: Array, height: Array, best: Array) -> Array:
    """Return intersection over union [N, A] of boxes, given by centres and sizes [N, A], with that of index `best`."""
    xp = namespace_of(x)
    shared, area = 1.0, 1.0
    for center, size in ((x, width), (y, height)):
        lower, upper = center - size / 2, center + size / 2
        best_lower, best_upper = (xp.take_along_axis(values, best, axis=1) for values in (lower, upper))
        shared = shared * clip(xp.minimum(upper, best_upper) - xp.maximum(lower, best_lower), 0.0)
        area = area * (upper - lower)
    union = area + xp.take_along_axis(area, best, axis=1) - shared
    return shared / clip(union, _LEAST_AREA)
