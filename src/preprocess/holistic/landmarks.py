"""What Holistic takes, and what it returns: images, and the landmarks of one person in each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class HolisticLandmarks(NamedTuple):
    """The detected parts of one person in each of B images; zeros where a part was not detected.

    Attributes:
        pose: float32 [B, 33, 3]: x, y, z in px of the image, z towards the camera negative. Points may lie outside.
        face: float32 [B, 468, 3], likewise; [B, 478, 3] if it is refined, where the last ten are the irises.
        left_hand: float32 [B, 21, 3], likewise; the person's own left.
        right_hand: float32 [B, 21, 3], likewise.
        visibility: float32 [B, 33], 0 to 1: how likely each pose point is visible.
        presence: bool [B, 4]: whether pose, face, left hand, right hand were detected.
    """

    pose: Tensor
    face: Tensor
    left_hand: Tensor
    right_hand: Tensor
    visibility: Tensor
    presence: Tensor


def check_images(images: Tensor | Sequence[Tensor]) -> None:
    """Check that there are images, and that they have pixels.

    Raises:
        ValueError: the images are not uint8 [B, 3, H, W], nor a list of [3, H, W], or one is empty.
    """
    if not len(images) or any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
        shapes = [(image.dtype, tuple(image.shape)) for image in images][:3]
        raise ValueError(f"images are uint8 [B, 3, H, W], or a list of [3, H, W]; got {shapes}")
    if min(min(image.shape) for image in images) < 1:
        raise ValueError("an image has no pixels")
