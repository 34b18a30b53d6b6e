"""MediaPipe's pose on the CPU, in the DataLoader workers: one person per image.

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
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import from_coco_17
from preprocess.holistic.landmarker import HolisticLandmarker
from preprocess.holistic.litert_landmarker import litert_versions
from preprocess.holistic.models import combined_sha256, find_models
from preprocess.holistic.networks import HolisticOptions
from preprocess.pose.backend import NOBODY, People, PoseBackend, within

LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # of MediaPipe, for each joint of COCO-17


class MediaPipe(PoseBackend):
    """Detects the most prominent person of each image, with two models of mediapipe's wheel, run by LiteRT.

    The score of a joint is MediaPipe's visibility, 0 to 1. The score of a person is the mean of its joints' scores.

    Args:
        min_visibility: 0 to 1. Joints with a lower visibility are left out, and so are joints outside the image, where
            MediaPipe guesses. 0.5 is the threshold of mediapipe's own drawing.
        min_detection_confidence: 0 to 1, the lowest score of a detected person.

    Raises:
        ConfigError: an argument is out of range.
    """

    in_workers: ClassVar[bool] = True

    def __init__(self, min_visibility: float = 0.5, min_detection_confidence: float = 0.5) -> None:
        if not 0 <= min_visibility <= 1:
            raise ConfigError(f"{min_visibility = } is not from 0 to 1")
        self._options = HolisticOptions(min_detection_confidence=min_detection_confidence, pose_only=True)
        self.min_visibility, self.min_detection_confidence = min_visibility, min_detection_confidence

    def load(self, device: torch.device) -> None:
        """See `Backend`. The networks always run on the CPU."""
        self._landmarker = HolisticLandmarker.load("cpu", self._options)

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        landmarks = self._landmarker(images)
        joints = torch.cat([landmarks.pose[..., :2], landmarks.visibility[..., None]], -1).numpy()[:, LANDMARKS]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [self._person(values, size) for values, size in zip(joints, sizes, strict=True)]

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        find_models(self._options.networks)  # fetched here, before the run is planned, if need be
        return {"weights": combined_sha256(self._options.networks), **litert_versions()}

    def _person(self, joints: NDArray[np.float32], size: tuple[int, int]) -> People:
        """Return the person in an image of `size` (height, width), or nobody.

        Args:
            joints: float32 [17, 3]: x, y in px and visibility of the joints of COCO-17; zeros if nobody was detected.
            size: see above.
        """
        joints[joints[:, 2] < self.min_visibility] = 0
        keypoints = from_coco_17(within(joints[None], size))
        scores = keypoints[0, keypoints[0, :, 2] > 0, 2]
        return People(keypoints, scores.mean(keepdims=True, dtype=np.float32)) if len(scores) else NOBODY
