"""What MediaPipe Holistic detects in one image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.keypoint_layouts import PARTS, Layout


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The detected parts of one person, in pixels of the input image; None where a part was not detected.

    Attributes:
        pose: float32 [33, 4]: x, y, z in px (z relative to the hips, towards the camera negative), visibility 0 to 1.
            Points may lie outside the image.
        face: float32 [468, 3]: x, y, z in px.
        left_hand: float32 [21, 3]: x, y, z in px, z relative to the wrist.
        right_hand: float32 [21, 3], likewise.
    """

    pose: NDArray[np.float32] | None = None
    face: NDArray[np.float32] | None = None
    left_hand: NDArray[np.float32] | None = None
    right_hand: NDArray[np.float32] | None = None

    @property
    def presence(self) -> NDArray[np.uint8]:
        """uint8 [4]: 1 for each detected part, in the order of `PARTS`."""
        return np.array([getattr(self, part) is not None for part in PARTS], np.uint8)

    @property
    def pose_visibility(self) -> NDArray[np.float32]:
        """float32 [33], 0 to 1: how likely each pose point is visible; zeros without a pose."""
        return np.zeros(33, np.float32) if self.pose is None else self.pose[:, 3]

    def keypoints(self, layout: Layout) -> NDArray[np.float32]:
        """Return float32 [K, 3]: x, y, z in px of the K keypoints of `layout`; zeros where a part was not detected."""
        keypoints = np.zeros((layout.num_keypoints, 3), np.float32)
        for part in layout.parts:
            points = getattr(self, part.name)
            if points is not None:
                keypoints[layout.part_slices[part.name]] = points[list(part.points), :3]
        return keypoints
