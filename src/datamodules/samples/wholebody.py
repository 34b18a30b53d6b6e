"""The 133 points of COCO-WholeBody: their order, names and counterparts in a mirror image.

| part      | points     | what they are                                                                          |
|-----------|------------|----------------------------------------------------------------------------------------|
| body      | 0 to 16    | COCO's joints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles        |
| foot      | 17 to 22   | big toe, small toe and heel                                                            |
| face      | 23 to 90   | the 68 points of iBUG 300-W: jaw 0 to 16, brows 17 to 26, nose 27 to 35, eyes 36 to    |
|           |            | 47, mouth 48 to 67                                                                     |
| lefthand  | 91 to 111  | wrist, then four points of each finger from the palm to the tip, the thumb first       |
| righthand | 112 to 132 | likewise                                                                               |

Of pairs in body and foot the person's left comes first. Points are float32 [P, 133, 3], in px and with zeros for a
missing point as in `skeleton`. Names and counterparts are those of `configs/_base_/datasets/coco_wholebody.py` in
open-mmlab/mmpose; the order is that of jin-s13/COCO-WholeBody.
"""

import numpy as np
from numpy.typing import NDArray

WholeBody = NDArray[np.float32]  # [P, 133, 3]

_BODY = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
_FOOT = tuple(f"{side}_{point}" for side in ("left", "right") for point in ("big_toe", "small_toe", "heel"))
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_HAND = ("hand_root", *(f"{finger}{number}" for finger in _FINGERS for number in range(1, 5)))

PARTS = {
    "body": slice(0, 17), "foot": slice(17, 23), "face": slice(23, 91), "lefthand": slice(91, 112),
    "righthand": slice(112, 133),
}  # fmt: skip
POINTS = (
    *_BODY,
    *_FOOT,
    *(f"face-{number}" for number in range(68)),
    *(f"{side}_{point}" for side in ("left", "right") for point in _HAND),
)
# of the distances to annotated points, for the similarity of keypoints (OKS): `evaluation/myeval_wholebody.py` in
# jin-s13/COCO-WholeBody
_BODY_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
_FOOT_SIGMAS = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
_FACE_SIGMAS = (
    0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
    0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
    0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
    0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
    0.008, 0.008, 0.010, 0.008,
)  # fmt: skip
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.020, 0.019, 0.022, 0.031,
)  # fmt: skip
SIGMAS = (*_BODY_SIGMAS, *_FOOT_SIGMAS, *_FACE_SIGMAS, *_HAND_SIGMAS, *_HAND_SIGMAS)

_MIRRORED_FACE = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
)  # fmt: skip
_OTHER_SIDE = {"left": "right", "right": "left"}


def _mirrored_name(name: str) -> str:
    side, separator, rest = name.partition("_")
    if name.startswith("face-"):
        return f"face-{_MIRRORED_FACE[int(name.removeprefix('face-'))]}"
    return f"{_OTHER_SIDE.get(side, side)}{separator}{rest}"


# the counterpart of each point in a mirror image
MIRRORED = tuple(POINTS.index(_mirrored_name(name)) for name in POINTS)
