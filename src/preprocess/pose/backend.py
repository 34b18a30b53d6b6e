"""Backends of poses: they detect people and their joints in images."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.skeleton import JOINTS, Keypoints
from datamodules.samples.wholebody import WholeBody
from preprocess.backend import Backend


class People(NamedTuple):
    """The P people detected in an image, by descending score; P may be 0.

    Attributes:
        keypoints: float32 [P, 18, 3], see `datamodules.samples.skeleton`.
        scores: float32 [P], above 0; the scale depends on the backend.
        wholebody: float32 [P, 133, 3], see `datamodules.samples.wholebody`; None: the backend only finds the joints.
    """

    keypoints: Keypoints
    scores: NDArray[np.float32]
    wholebody: WholeBody | None = None


NOBODY = People(np.zeros((0, len(JOINTS), 3), np.float32), np.zeros(0, np.float32))


class PoseBackend(Backend):
    """Detects people and their joints in images.

    Attributes:
        in_workers: whether the backend runs on the CPU in each DataLoader worker, which gets a copy and loads it.
    """

    in_workers: ClassVar[bool] = False

    @abstractmethod
    def people(self, images: Sequence[Tensor]) -> list[People]:
        """Return the people in each image.

        Args:
            images: uint8 [3, H, W], RGB, of any sizes, on the device that was given to `load`.

        Raises:
            ExtractError: an image cannot be processed.
        """


def within(keypoints: Keypoints, size: tuple[int, int]) -> Keypoints:
    """Return `keypoints` with zeros for all joints outside an image of `size` (height, width)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    inside = (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5) & (keypoints[..., 2] > 0)
    return np.where(inside[..., None], keypoints, np.float32(0))


def sorted_people(keypoints: Keypoints, scores: NDArray[np.float32], wholebody: WholeBody | None = None) -> People:
    """Return these people by descending score."""
    order = np.argsort(-scores, kind="stable")
    points = None if wholebody is None else wholebody[order]
    return People(keypoints[order].astype(np.float32), scores[order].astype(np.float32), points)
