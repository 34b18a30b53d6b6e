"""The pass of MediaPipe Holistic: from the sizes of images, and what its networks find in their regions, to landmarks.

Only this module knows the steps. It computes with numpy or torch, whichever the networks' outputs are:
`torch_landmarker` runs it for batches on a device, `litert_landmarker` for groups of a few images on a CPU.

| step    | region                                       | network                           | detected if         |
|---------|----------------------------------------------|-----------------------------------|---------------------|
| person  | the image, padded to a square                | pose_detection                    | a score ≥ 0.5       |
| pose    | around the hips, from two keypoints          | pose_landmark_{lite, full, heavy} | score > 0.5         |
| hand, 1 | of the pose's wrist, little and index finger | hand_recrop                       | wrist visible > 0.1 |
| hand, 2 | from that network's two points               | hand_landmark_full                | score > 0.5         |
| face, 1 | around the pose's points of the face         | face_detection_short_range        | a score ≥ 0.5       |
| face, 2 | around the six detected keypoints            | face_landmark{, _with_attention}  | sigmoid > 0.5       |

All shapes are fixed, so that a batch needs no data-dependent step: where a part is not detected, the next steps get the
whole image as their region, with the word that their results are not used. numpy skips steps that no image needs.

The numbers are those of the graphs in mediapipe/modules: pose_detection_to_roi, pose_landmark_by_roi_cpu,
tensors_to_pose_landmarks_and_segmentation, hand_landmarks_from_pose_to_recrop_roi, hand_recrop_by_roi_cpu,
hand_landmark_cpu, face_landmarks_from_pose_to_recrop_roi, face_detection_front_detections_to_roi, face_landmark_cpu.
"""

from collections.abc import Callable, Mapping, Sequence
from math import pi
from typing import TypeAlias

from preprocess.holistic.arrays import Array, device_of, is_known_false, namespace_of, sigmoid
from preprocess.holistic.detection import MIN_SCORE, BestDetection, best_detection
from preprocess.holistic.heatmap import refine
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.networks import NETWORKS, HolisticOptions
from preprocess.holistic.regions import (
    Region,
    aligned_square,
    distance,
    expanded_square,
    image_square,
    rotation_to,
    square_around,
)

RunNetwork: TypeAlias = Callable[[str, Region, Array], Sequence[Array]]
"""Runs a network on regions of N images: (name, regions [N] or [N, K], whether each region's result is used).

The outputs have N * K rows. Rows whose result is not used may hold any finite values.
"""

_NUM_POSE, _NUM_HAND = 33, 21
_MIN_PRESENCE, _MIN_WRIST = 0.5, 0.1
_HAND_DEPTH = 0.4  # normalize_z of TensorsToLandmarksCalculator
# indices of pose points: the face; wrists, little fingers and index fingers, left and right
_FACE_POINTS, _LEFT_EYE, _RIGHT_EYE = slice(0, 11), 2, 5
_WRISTS, _PINKIES, _INDEX_FINGERS = slice(15, 17), slice(17, 19), slice(19, 21)


def find_landmarks(
    width: Array, height: Array, run: RunNetwork, anchors: Mapping[str, Array], options: HolisticOptions
) -> HolisticLandmarks:
    """Return the landmarks of N images, in arrays of the library that computes.

    Args:
        width: int64 [N], px.
        height: int64 [N], px.
        run: runs a network on regions of these images.
        anchors: of the detectors, by name; see `detection.anchors`.
        options: what to find.
    """
    xp = namespace_of(width)
    image = image_square(width, height)
    pose, visibility, has_pose = _pose(run, image, anchors["pose_detection"], options)
    if options.pose_only or is_known_false(has_pose):
        hands, has_hands = _absent(has_pose, 2, _NUM_HAND)
        face, has_face = _absent(has_pose, options.num_face_points)
    else:
        hands, has_hands = _hands(run, image, pose, visibility, has_pose)
        face, has_face = _face(run, image, pose, has_pose, anchors["face_detection_short_range"], options)
    presence = xp.concat([has_pose[:, None], has_face[:, None], has_hands], axis=1)
    points = (pose, face, hands[:, 0], hands[:, 1])
    pose, face, left, right = (
        xp.astype(part, xp.float32) * presence[:, column, None, None] for column, part in enumerate(points)
    )
    return HolisticLandmarks(pose, face, left, right, xp.astype(visibility, xp.float32) * has_pose[:, None], presence)


def _pose(run: RunNetwork, image: Region, anchors: Array, options: HolisticOptions) -> tuple[Array, Array, Array]:
    """Return points [N, 33, 3] in px, their visibility [N, 33], and whether a pose was detected [N]."""
    xp = namespace_of(image.side)
    is_used = xp.ones_like(image.side, dtype=xp.bool)
    person = _detect(run, "pose_detection", image, is_used, anchors, options.min_detection_confidence)
    if is_known_false(person.found):
        pose, has_pose = _absent(person.found, _NUM_POSE)
        return pose, pose[..., 0], has_pose
    hips, edge = person.keypoints[:, 0], person.keypoints[:, 1]
    box = aligned_square(hips, edge, pi / 2)
    region = expanded_square(box.center, _square(box.side), box.rotation, 1.25, 0.0).where(person.found, image)
    raw, score, heatmaps = run(options.pose_network, region, person.found)
    values = xp.reshape(xp.astype(raw, xp.float64), (len(raw), -1, 5))[:, :_NUM_POSE]
    points = values[..., :3] / NETWORKS[options.pose_network].side
    points = xp.concat([refine(points[..., :2], heatmaps), points[..., 2:]], axis=-1)
    return region.project(points), sigmoid(values[..., 3]), person.found & (score[:, 0] > _MIN_PRESENCE)


def _hands(run: RunNetwork, image: Region, pose: Array, visibility: Array, has_pose: Array) -> tuple[Array, Array]:
    """Return points [N, 2, 21, 3] of the left and right hand in px, and whether each was detected [N, 2]."""
    xp = namespace_of(pose)
    is_visible = has_pose[:, None] & (visibility[:, _WRISTS] > _MIN_WRIST)
    if is_known_false(is_visible):
        return _absent(has_pose, 2, _NUM_HAND)
    wrist, pinky, index = (pose[:, points, :2] for points in (_WRISTS, _PINKIES, _INDEX_FINGERS))
    image = Region(image.center[:, None], image.side[:, None], image.rotation[:, None])  # of both hands
    middle = (2 * index + pinky) / 3  # HandDetectionsFromPoseToRectsCalculator
    side = 2 * distance(middle, wrist)
    rough = expanded_square(middle, _square(side), rotation_to(wrist, middle, pi / 2), 2.7, -0.1)
    rough = rough.where(is_visible, image)
    (raw,) = run("hand_recrop", rough, is_visible)
    points = xp.reshape(xp.astype(raw, xp.float64), (-1, 2, 2, 2)) / NETWORKS["hand_recrop"].side
    edges = rough.project(points)
    box = aligned_square(edges[:, :, 0], edges[:, :, 1], -pi / 2)
    region = expanded_square(box.center, _square(box.side), box.rotation, 1.0, -0.1).where(is_visible, image)
    raw, score = run("hand_landmark_full", region, is_visible)
    points = xp.reshape(xp.astype(raw, xp.float64), (-1, 2, _NUM_HAND, 3)) / NETWORKS["hand_landmark_full"].side
    points = xp.concat([points[..., :2], points[..., 2:] / _HAND_DEPTH], axis=-1)
    return region.project(points), is_visible & (xp.reshape(score, (-1, 2)) > _MIN_PRESENCE)


def _face(
    run: RunNetwork, image: Region, pose: Array, has_pose: Array, anchors: Array, options: HolisticOptions
) -> tuple[Array, Array]:
    """Return points [N, 468 or 478, 3] in px, and whether a face was detected [N]."""
    xp = namespace_of(pose)
    rotation = rotation_to(pose[:, _RIGHT_EYE, :2], pose[:, _LEFT_EYE, :2], 0.0)
    rough = square_around(pose[:, _FACE_POINTS, :2], rotation, 3.0, 0.0).where(has_pose, image)
    detection = _detect(run, "face_detection_short_range", rough, has_pose, anchors)
    is_found, keypoints = has_pose & detection.found, detection.keypoints
    rotation = rotation_to(keypoints[:, 0], keypoints[:, 1], 0.0)
    region = square_around(keypoints, rotation, 2.0, -0.1).where(is_found, image)
    raw, logit = run(options.face_network, region, is_found)
    points = xp.reshape(xp.astype(raw, xp.float64), (-1, options.num_face_points, 3))
    points = points / NETWORKS[options.face_network].side
    score = sigmoid(xp.astype(xp.reshape(logit, (-1,)), xp.float32))
    return region.project(points), is_found & (score > _MIN_PRESENCE)


def _detect(
    run: RunNetwork, name: str, region: Region, is_used: Array, anchors: Array, min_score: float = MIN_SCORE
) -> BestDetection:
    """Return the best detection within regions [N], its keypoints in px of the images."""
    detection = best_detection(run(name, region, is_used), anchors, NETWORKS[name].side, min_score)
    return detection._replace(keypoints=region.project(detection.keypoints))


def _absent(has_pose: Array, *shape: int) -> tuple[Array, Array]:
    """Return points [N, *shape, 3] of a part that is not looked for, and that it was not detected [N, *shape[:-1]]."""
    xp = namespace_of(has_pose)
    points = xp.zeros((len(has_pose), *shape, 3), dtype=xp.float64, device=device_of(has_pose))
    return points, points[..., 0, 0] > 0


def _square(side: Array) -> Array:
    """Return width and height [..., 2] of squares of `side` [...]."""
    return namespace_of(side).stack([side, side], axis=-1)
