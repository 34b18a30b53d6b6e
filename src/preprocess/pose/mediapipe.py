"""MediaPipe's pose on the CPU, inside the DataLoader workers: one person an image, and nothing to download.

| COCO-18         | MediaPipe's landmark               |
|-----------------|------------------------------------|
| nose            | 0                                  |
| neck            | the mean of 11 and 12, if both are |
| right, left eye | 5, 2 (the eyes' middle points)     |
| right, left ear | 8, 7                               |
| shoulders       | 12, 11                             |
| elbows          | 14, 13                             |
| wrists          | 16, 15                             |
| hips            | 24, 23                             |
| knees           | 26, 25                             |
| ankles          | 28, 27                             |
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import from_coco_17
from preprocess.mediapipe_graph import MEDIAPIPE_VERSION, HolisticGraph, require_mediapipe
from preprocess.pose.backend import NOBODY, People, PoseBackend, within

LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # of each joint of COCO-17


class MediaPipe(PoseBackend):
    """The most prominent person, by the model whose weights are in mediapipe's wheel; each image by itself.

    The score of a joint is MediaPipe's visibility, 0 to 1, and a person's the mean of these.

    Args:
        min_visibility: 0 to 1; joints with less are missing, as are those outside the image, where MediaPipe guesses.
            0.5 is what mediapipe's own drawing has.
        min_detection_confidence: 0 to 1, least score of a detected person.

    Raises:
        ConfigError: an argument is none of these, or the installed mediapipe is not the one that is wanted.
    """

    in_workers: ClassVar[bool] = True

    def __init__(self, min_visibility: float = 0.5, min_detection_confidence: float = 0.5) -> None:
        if not 0 <= min_visibility <= 1 or not 0 <= min_detection_confidence <= 1:
            raise ConfigError(f"{min_visibility = }, {min_detection_confidence = }: both go from 0 to 1")
        require_mediapipe()
        self.min_visibility, self.min_detection_confidence = min_visibility, min_detection_confidence

    def load(self, device: torch.device) -> None:
        """See `PoseBackend`; `device` is not asked."""
        self._graph = HolisticGraph(min_detection_confidence=self.min_detection_confidence, parts=("pose",))

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        return [self._person(image) for image in images]

    def provenance(self) -> dict[str, str]:
        """See `PoseBackend`."""
        return {"mediapipe": MEDIAPIPE_VERSION}

    def _person(self, image: Tensor) -> People:
        landmarks = self._graph(image.permute(1, 2, 0).numpy()).pose
        if landmarks is None:
            return NOBODY
        joints = landmarks[LANDMARKS, :][:, [0, 1, 3]]
        joints[joints[:, 2] < self.min_visibility] = 0
        keypoints = from_coco_17(within(joints[None], (image.shape[1], image.shape[2])))
        seen = keypoints[0, keypoints[0, :, 2] > 0, 2]
        return People(keypoints, seen.mean(keepdims=True, dtype=np.float32)) if len(seen) else NOBODY
