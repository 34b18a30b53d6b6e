"""Keypoints as a model takes them: gaps of hands filled, changed at random in training, normalised, and reduced.

Points of a part that was not found stay zeros throughout: a model tells them by `presence`.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS, Layout

Normalization = Literal["none", "shoulders"]
_Bools = NDArray[np.bool_]

_HANDS = [PARTS.index("left_hand"), PARTS.index("right_hand")]
_POSE = PARTS.index("pose")
_SHOULDERS = (11, 12)  # of MediaPipe's PoseLandmark
_POSE_LAYOUT = LAYOUTS[75]  # its first 33 keypoints are the pose


@dataclass(frozen=True)
class Augmentation:
    """Random changes of keypoints in training, each drawn anew for every sample by torch's generator.

    Args:
        flip: probability, 0 to 1, that a sample is mirrored; left parts become right ones.
        rotation: standard deviation in degrees, in the image, about its middle.
        scale: standard deviation of the logarithm of the size.
        shear: standard deviation of the shift in x for each px in y.
        speed: standard deviation of the logarithm of the speed; the number of frames changes by it.

    Raises:
        ConfigError: a value is out of range.
    """

    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    speed: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or not all(0 <= value < math.inf for value in vars(self).values()):
            raise ConfigError(f"{self} must have a flip from 0 to 1, and nothing below 0")

    def mirrored(self, keypoints: "Keypoints", width: float) -> "Keypoints":
        """Return keypoints of frames `width` px wide, mirrored or as they are."""
        return mirrored(keypoints, width) if _drawn("rand") < self.flip else keypoints

    def in_time(self, keypoints: "Keypoints") -> "Keypoints":
        """Return keypoints at another speed."""
        return at_speed(keypoints, math.exp(self.speed * _drawn("randn")))

    def matrix(self) -> NDArray[np.float32]:
        """Return a rotation, shear and scaling of x and y, float32 [2, 2]."""
        angle = math.radians(self.rotation) * _drawn("randn")
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shear = np.array([[1, self.shear * _drawn("randn")], [0, 1]])
        matrix: NDArray[np.float32] = (math.exp(self.scale * _drawn("randn")) * rotation @ shear).astype(np.float32)
        return matrix


def _drawn(kind: Literal["rand", "randn"]) -> float:
    """Return a number by torch's generator."""
    import torch  # exports and `view` decode samples without it

    return float(getattr(torch, kind)(()))


@dataclass
class Keypoints:
    """The arrays of a sample.

    Attributes:
        layout: which keypoints there are.
        points: float32 [T, K, 3], in px of the frame; zeros of parts that were not found.
        presence: bool [T, 4], see `PARTS`.
        visibility: float32 [T, 33], of the pose points.
        filled: bool [T, 4], parts that were not found, but are interpolated.
    """

    layout: Layout
    points: NDArray[np.float32]
    presence: _Bools
    visibility: NDArray[np.float32]
    filled: _Bools

    def __len__(self) -> int:
        return len(self.points)

    @property
    def known(self) -> _Bools:
        """Bool [T, K], whether a keypoint was found or is interpolated."""
        known: _Bools = (self.presence | self.filled)[:, self.layout.part_columns]
        return known


def fill_hands(keypoints: Keypoints, max_gap: int) -> Keypoints:
    """Interpolate hands linearly where they were lost for a while between two frames in which they were found.

    Args:
        keypoints: are not changed.
        max_gap: longest gap that is filled, in frames.

    Returns:
        The same with `filled`; `presence` still says what was found.
    """
    points, filled = keypoints.points.copy(), keypoints.filled.copy()
    for part in _HANDS:
        place = keypoints.layout.part_slices[PARTS[part]]
        found = np.flatnonzero(keypoints.presence[:, part])
        for before, after in pairwise(found):
            if 1 < after - before <= max_gap + 1:
                share = (np.arange(before + 1, after) - before)[:, None, None] / np.float32(after - before)
                points[before + 1 : after, place] = (1 - share) * points[before, place] + share * points[after, place]
                filled[before + 1 : after, part] = True
    return replace(keypoints, points=points, filled=filled)


def mirrored(keypoints: Keypoints, width: float) -> Keypoints:
    """Mirror keypoints at the middle of a frame `width` px wide: left parts become right ones."""
    layout, pose = keypoints.layout, _POSE_LAYOUT.mirrored[:33]
    points = keypoints.points[:, layout.mirrored]
    points[..., 0] = width - points[..., 0]  # MediaPipe measures from the edge of the image, not from a pixel's centre
    parts = [PARTS.index(swapped) for swapped in ("pose", "face", "right_hand", "left_hand")]
    return _zeros_where_unknown(
        Keypoints(
            *(layout, points, keypoints.presence[:, parts], keypoints.visibility[:, pose]),
            keypoints.filled[:, parts],
        )
    )


def at_speed(keypoints: Keypoints, speed: float) -> Keypoints:
    """Play keypoints `speed` times as fast. Points between two frames that have them are interpolated linearly.

    Where only one of two frames has a part, the nearer one decides.
    """
    if len(keypoints) < 2:
        return keypoints
    times = np.linspace(0, len(keypoints) - 1, max(1, round(len(keypoints) / speed)))
    before = np.floor(times).astype(int)
    after, nearest = np.minimum(before + 1, len(keypoints) - 1), np.floor(times + 0.5).astype(int)
    share = (times - before).astype(np.float32)
    between = keypoints.known[before] & keypoints.known[after]
    points = keypoints.points
    moved = (1 - share)[:, None, None] * points[before] + share[:, None, None] * points[after]
    visibility = (1 - share)[:, None] * keypoints.visibility[before] + share[:, None] * keypoints.visibility[after]
    has_pose = keypoints.presence[before, _POSE] & keypoints.presence[after, _POSE]
    return Keypoints(
        keypoints.layout,
        np.where(between[..., None], moved, points[nearest]),
        keypoints.presence[nearest],
        np.where(has_pose[:, None], visibility, keypoints.visibility[nearest]),
        keypoints.filled[nearest],
    )


def changed(keypoints: Keypoints, matrix: NDArray[np.float32], centre: tuple[float, float]) -> Keypoints:
    """Change x and y by a matrix [2, 2] about a centre."""
    points, middle = keypoints.points.copy(), np.array(centre, np.float32)
    points[..., :2] = (points[..., :2] - middle) @ matrix.T + middle
    return _zeros_where_unknown(replace(keypoints, points=points))


def relative_to_shoulders(key: str, keypoints: Keypoints) -> Keypoints:
    """Move and scale a sample so that the shoulders are 1 apart on average, and 0 is between them.

    As `Pose.normalize` of pose-format 0.15 does it in two dimensions, by means over the frames with a pose (Moryossef
    et al., "Evaluating the Immediate Applicability of Pose Estimation for Sign Language Recognition", 2021). z, which
    has an origin of its own in each part, is scaled alone.

    Raises:
        RunError: no frame has a pose, or its shoulders are at one place.
    """
    shoulders = keypoints.points[:, keypoints.layout.part_slices["pose"]][keypoints.presence[:, _POSE]][:, _SHOULDERS]
    width = np.linalg.norm(shoulders[:, 0, :2] - shoulders[:, 1, :2], axis=-1).mean() if len(shoulders) else 0
    if not width:
        raise RunError(f"{key} has no shoulders to be relative to. Leave such samples out: where='pose_rate > 0'")
    middle = np.array([*shoulders[..., :2].mean(axis=(0, 1)), 0], np.float32)
    points = (keypoints.points - middle) / np.float32(width)
    return _zeros_where_unknown(replace(keypoints, points=points))


def _zeros_where_unknown(keypoints: Keypoints) -> Keypoints:
    return replace(keypoints, points=np.where(keypoints.known[..., None], keypoints.points, np.float32(0)))


@dataclass(frozen=True)
class Preparation:
    """How the keypoints of a sample are prepared.

    Args:
        fill_hands: longest gap of a hand that is interpolated, in frames; see `fill_hands`.
        augment: random changes; None: none.
        normalize: `shoulders`: see `relative_to_shoulders`; `none`: px of the frame.
    """

    fill_hands: int
    augment: Augmentation | None
    normalize: Normalization

    def __call__(self, key: str, keypoints: Keypoints, size: tuple[float, float]) -> Keypoints:
        """Return the keypoints, prepared.

        Args:
            key: of the sample, for errors.
            keypoints: are not changed.
            size: (width, height) of the frames in px.

        Raises:
            RunError: see `relative_to_shoulders`.
        """
        keypoints = fill_hands(keypoints, self.fill_hands)
        if self.augment:
            keypoints = self.augment.in_time(self.augment.mirrored(keypoints, size[0]))
        middle = size[0] / 2, size[1] / 2
        if self.normalize == "shoulders":
            keypoints, middle = relative_to_shoulders(key, keypoints), (0.0, 0.0)
        return changed(keypoints, self.augment.matrix(), middle) if self.augment else keypoints
