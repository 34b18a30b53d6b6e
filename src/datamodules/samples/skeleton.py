"""The 18 joints of OpenPose's COCO model: their order, limbs and colours, and how they are drawn.

| 0    | 1    | 2, 5      | 3, 6   | 4, 7   | 8, 11 | 9, 12 | 10, 13 | 14, 15 | 16, 17 |
|------|------|-----------|--------|--------|-------|-------|--------|--------|--------|
| nose | neck | shoulders | elbows | wrists | hips  | knees | ankles | eyes   | ears   |

Of a pair, the person's right joint comes first. Keypoints are float32 [P, 18, 3]: x and y in px, where whole numbers
are the centres of pixels, as in OpenCV and OpenPose; and a score above 0. A missing joint is (0, 0, 0).

Limbs and colours are those of `draw_bodypose` in lllyasviel/ControlNet, annotator/openpose/util.py, which drew the
images that ControlNet was trained with: 17 limbs at 0.6 of their colours, and above them 18 joints. OpenPose's 18th and
19th limb, from the shoulders to the ears, only serve to assemble people and are not drawn.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.drawing import Image
from datamodules.samples.drawing.hands_and_faces import draw_hands_and_faces
from datamodules.samples.wholebody import WholeBody

Keypoints = NDArray[np.float32]  # [P, 18, 3]

JOINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
JOINT_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
# the counterpart of each joint in a mirror image
MIRRORED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
# index here of each of COCO's 17 joints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left first
COCO_17 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)

_THICK = 4 / 512  # half the width of a limb, and radius of a joint, per px of the shorter side; as in ControlNet
_LIMB_OPACITY = 0.6
_SHIFT = 4  # OpenCV takes coordinates in units of 1/16 px
_CIRCLE = np.linspace(0, 2 * np.pi, 64, endpoint=False)


def from_coco_17(joints: NDArray[np.float32]) -> Keypoints:
    """Return the 18 joints for COCO's 17, float32 [P, 17, 3].

    The neck is the mean of the shoulders, with the lower of their scores; it is missing if one of them is.
    """
    keypoints = np.zeros((len(joints), len(JOINTS), 3), np.float32)
    keypoints[:, COCO_17] = np.where(joints[..., 2:] > 0, joints, 0)
    shoulders = keypoints[:, (2, 5)]
    neck = np.concatenate([shoulders[..., :2].mean(1), shoulders[..., 2].min(1)[:, None]], 1)
    keypoints[:, 1] = np.where((shoulders[..., 2] > 0).all(1)[:, None], neck, 0)
    return keypoints


def rescaled(keypoints: Keypoints, size: tuple[int, int], to: tuple[int, int]) -> Keypoints:
    """Return `keypoints` of an image of `size` (height, width) for the same image resized to the size `to`."""
    scale = np.array([to[1] / size[1], to[0] / size[0]])
    moved = keypoints.copy()
    moved[..., :2] = np.where(keypoints[..., 2:] > 0, (keypoints[..., :2] + 0.5) * scale - 0.5, 0)
    return moved


def mirrored(keypoints: Keypoints, width: int, counterparts: Sequence[int] = MIRRORED) -> Keypoints:
    """Return `keypoints` in the mirror image of an image of this width; right joints become left ones."""
    moved = keypoints[:, counterparts]
    moved[..., 0] = np.where(moved[..., 2] > 0, width - 1 - moved[..., 0], 0)
    return moved


def draw(image: Image, keypoints: Keypoints, wholebody: WholeBody | None = None) -> Image:
    """Return a copy of `image` with the skeletons of `keypoints`, and with the hands and faces of `wholebody`."""
    import cv2  # comes with mediapipe

    radius = max(1.0, min(image.shape[:2]) * _THICK)
    limbs: Any = image.copy()
    for (a, b), colour in zip(LIMBS, JOINT_COLOURS, strict=False):
        for person in keypoints:
            if person[a, 2] > 0 and person[b, 2] > 0:
                cv2.fillConvexPoly(limbs, _ellipse(person[a, :2], person[b, :2], radius), colour, cv2.LINE_8, _SHIFT)
    drawn: Any = cv2.addWeighted(limbs, _LIMB_OPACITY, image, 1 - _LIMB_OPACITY, 0)
    for joint, colour in enumerate(JOINT_COLOURS):
        for x, y, score in keypoints[:, joint].tolist():
            if score > 0:
                cv2.circle(drawn, _fixed(np.array([x, y])).tolist(), round(radius * 2**_SHIFT), colour, -1, 8, _SHIFT)
    if wholebody is not None:
        draw_hands_and_faces(drawn, wholebody)
    return drawn  # type: ignore[no-any-return]


def pose_map(keypoints: Keypoints, size: tuple[int, int], wholebody: WholeBody | None = None) -> Image:
    """Return what `draw` draws on black, in `size` (height, width): what ControlNet is conditioned on."""
    return draw(np.zeros((*size, 3), np.uint8), keypoints, wholebody)


def as_png(image: Image) -> bytes:
    """Return `image` as a PNG file."""
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _ellipse(start: NDArray[np.float32], end: NDArray[np.float32], radius: float) -> NDArray[np.int32]:
    """Return the outline of an ellipse that reaches from `start` to `end`, in units of 1/16 px."""
    along = (end - start) / 2
    length = max(float(np.hypot(*along)), 1e-6)
    across = np.array([-along[1], along[0]]) * (radius / length)
    return _fixed((start + end) / 2 + np.outer(np.cos(_CIRCLE), along) + np.outer(np.sin(_CIRCLE), across))


def _fixed(points: NDArray[Any]) -> NDArray[np.int32]:
    """Return points in px in units of 1/16 px."""
    fixed: NDArray[np.int32] = (points * 2**_SHIFT).round().astype(np.int32)
    return fixed
