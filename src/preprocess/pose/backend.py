"""What finds people and their joints: what `openpose`, `vitpose` and `mediapipe` have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.skeleton import JOINTS, Keypoints
from preprocess.backend import Backend


class People(NamedTuple):
    """Who was found in an image, the surest first.

    Attributes:
        keypoints: float32 [P, 18, 3], see `datamodules.samples.skeleton`; P may be 0.
        scores: float32 [P], above 0; what they mean is up to the backend.
    """

    keypoints: Keypoints
    scores: NDArray[np.float32]


NOBODY = People(np.zeros((0, len(JOINTS), 3), np.float32), np.zeros(0, np.float32))


class PoseBackend(Backend):
    """Finds people and their joints in images.

    Attributes:
        in_workers: whether the backend runs on the CPU in each DataLoader worker, which gets a copy and loads it.
    """

    in_workers: ClassVar[bool] = False

    @abstractmethod
    def people(self, images: Sequence[Tensor]) -> list[People]:
        """The people in each image.

        Args:
            images: uint8 [3, H, W], RGB, of any sizes, on the device.

        Raises:
            ExtractError: an image cannot be handled.
        """


def within(keypoints: Keypoints, size: tuple[int, int]) -> Keypoints:
    """`keypoints` with all joints missing that lie outside an image of `size` (height, width)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    inside = (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5) & (keypoints[..., 2] > 0)
    return np.where(inside[..., None], keypoints, np.float32(0))


def sorted_people(keypoints: Keypoints, scores: NDArray[np.float32]) -> People:
    """These, the surest first."""
    order = np.argsort(-scores, kind="stable")
    return People(keypoints[order].astype(np.float32), scores[order].astype(np.float32))
