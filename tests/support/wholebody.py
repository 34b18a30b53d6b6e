"""A person with all 133 points of COCO-WholeBody."""

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.skeleton import COCO_17
from datamodules.samples.wholebody import PARTS, POINTS, WholeBody
from support.pose_runs import standing

_FINGER_ANGLES = np.radians([-60, -25, 0, 20, 40])  # of the thumb and the fingers, from straight down


def standing_wholebody(x: float, y: float, height: float, turn: float = 0.0) -> NDArray[np.float32]:
    """float32 [133, 3]: the person that `standing` returns, with feet, an oval face and spread hands."""
    joints = standing(x, y, height, turn)
    person = np.ones((len(POINTS), 3), np.float32)
    person[PARTS["body"]] = joints[list(COCO_17)]
    ankles = joints[[13, 10], None, :2]
    feet = ankles + np.array([(0.02, 0.04), (0.04, 0.035), (-0.02, 0.03)]) * height * [[[1, 1]], [[-1, 1]]]
    person[PARTS["foot"], :2] = feet.reshape(-1, 2)
    around = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    person[PARTS["face"], :2] = joints[0, :2] + np.stack([np.cos(around), 1.4 * np.sin(around)], 1) * 0.05 * height
    for part, wrist, side in (("lefthand", 7, -1), ("righthand", 4, 1)):
        lengths = np.arange(1, 5)[None, :, None] * 0.025 * height
        fingers = np.stack([side * np.sin(_FINGER_ANGLES), np.cos(_FINGER_ANGLES)], 1)[:, None] * lengths
        person[PARTS[part], :2] = joints[wrist, :2] + np.concatenate([np.zeros((1, 2)), fingers.reshape(-1, 2)])
    return person


def people(*persons: NDArray[np.float32]) -> WholeBody:
    """float32 [P, 133, 3]"""
    return np.array(persons, np.float32).reshape(-1, len(POINTS), 3)
