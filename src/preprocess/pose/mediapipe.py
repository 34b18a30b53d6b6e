"""MediaPipe's pose on the CPU, in the DataLoader workers: one person per image, without any download.

| COCO-18         | MediaPipe's landmark               |
|-----------------|------------------------------------|
| nose            | 0                                  |
| neck            | mean of 11 and 12, if both exist   |
| right, left eye | 5, 2 (the centres of the eyes)     |
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

LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # of MediaPipe, for each joint of COCO-17


class MediaPipe(PoseBackend):
    """Detects the most prominent person of each image, with the models in mediapipe's wheel.

    The score of a joint is MediaPipe's visibility, 0 to 1. The score of a person is the mean of its joints' scores.

    Args:
        min_visibility: 0 to 1. Joints with a lower visibility are left out, and so are joints outside the image, where
            MediaPipe guesses. 0.5 is the threshold of mediapipe's own drawing.
        min_detection_confidence: 0 to 1, the lowest score of a detected person.

    Raises:
        ConfigError: an argument is out of range, or mediapipe is not installed in the release that this needs.
    """

    in_workers: ClassVar[bool] = True

    def __init__(self, min_visibility: float = 0.5, min_detection_confidence: float = 0.5) -> None:
        if not 0 <= min_visibility <= 1 or not 0 <= min_detection_confidence <= 1:
            raise ConfigError(f"{min_visibility = }, {min_detection_confidence = }: both must be 0 to 1")
        require_mediapipe()
        self.min_visibility, self.min_detection_confidence = min_visibility, min_detection_confidence

    def load(self, device: torch.device) -> None:
        """See `Backend`. The graph always runs on the CPU."""
        self._graph = HolisticGraph(min_detection_confidence=self.min_detection_confidence, parts=("pose",))

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        return [self._person(image) for image in images]

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        return {"mediapipe": MEDIAPIPE_VERSION}

    def _person(self, image: Tensor) -> People:
        """Return the person in an image, uint8 [3, H, W] on the CPU, or nobody."""
        landmarks = self._graph(image.permute(1, 2, 0).numpy()).pose
        if landmarks is None:
            return NOBODY
        joints = landmarks[LANDMARKS, :][:, [0, 1, 3]]
        joints[joints[:, 2] < self.min_visibility] = 0
        keypoints = from_coco_17(within(joints[None], (image.shape[1], image.shape[2])))
        scores = keypoints[0, keypoints[0, :, 2] > 0, 2]
        return People(keypoints, scores.mean(keepdims=True, dtype=np.float32)) if len(scores) else NOBODY
