"""Regions: rotated squares that Holistic crops out of an image.

Everything is in pixels and float64. MediaPipe uses fractions of the image's sides instead, but all regions that it
crops are squares in pixels (`RectTransformationCalculator` with `square_long`). Angles are in radians, clockwise, since
y points down.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """Squares in images; the tensors have any number of leading axes.

    Attributes:
        center: float64 [..., 2]: x, y in px.
        side: float64 [...], in px.
        rotation: float64 [...], of the upper side, in radians from -π to π.
    """

    center: Tensor
    side: Tensor
    rotation: Tensor

    def where(self, valid: Tensor, other: "Region") -> "Region":
        """Return these regions where `valid` [...], and `other` elsewhere."""
        return Region(
            torch.where(valid[..., None], self.center, other.center),
            torch.where(valid, self.side, other.side),
            torch.where(valid, self.rotation, other.rotation),
        )

    def project(self, points: Tensor) -> Tensor:
        """Return `points` [..., P, 2 or 3], fractions of the region's side from its corner, in px of the image.

        z is only scaled (`LandmarkProjectionCalculator`).
        """
        x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
        cos, sin = torch.cos(self.rotation)[..., None], torch.sin(self.rotation)[..., None]
        side, center = self.side[..., None], self.center[..., None, :]
        across = (cos * x - sin * y) * side + center[..., 0]
        down = (sin * x + cos * y) * side + center[..., 1]
        depth = [points[..., 2] * side] if points.shape[-1] == 3 else []
        return torch.stack([across, down, *depth], -1)


def image_square(width: Tensor, height: Tensor) -> Region:
    """Return the squares of side max(width, height) around images of these sizes, int64 [N]."""
    sizes = torch.stack([width, height], -1).double()
    return Region(sizes / 2, sizes.amax(-1), torch.zeros_like(sizes[..., 0]))


def rotation_to(start: Tensor, stop: Tensor, target: float) -> Tensor:
    """Return the rotation of a region within which the line from `start` to `stop` [..., 2] has the angle `target`.

    The target is counter-clockwise, as `rotation_vector_target_angle` of `DetectionsToRectsCalculator`.
    """
    step = stop - start
    angle = target - torch.atan2(-step[..., 1], step[..., 0])
    return angle - 2 * pi * torch.floor((angle + pi) / (2 * pi))


def aligned_square(center: Tensor, edge: Tensor, target: float) -> Region:
    """Return the square around `center` [..., 2] whose side is twice the distance to `edge` [..., 2].

    It is rotated so that the line from `center` to `edge` has the angle `target` (`AlignmentPointsRectsCalculator`).
    """
    return Region(center, 2 * torch.linalg.vector_norm(edge - center, dim=-1), rotation_to(center, edge, target))


def square_around(points: Tensor, rotation: Tensor, scale: float, shift: float) -> Region:
    """Return the square around the bounding box of `points` [..., P, 2]; see `expanded_square`."""
    lower, upper = points.amin(-2), points.amax(-2)
    return expanded_square((lower + upper) / 2, upper - lower, rotation, scale, shift)


def expanded_square(center: Tensor, size: Tensor, rotation: Tensor, scale: float, shift: float) -> Region:
    """Return a square around `center` [..., 2] whose side is the longer side of a box, times `scale`.

    Args:
        center: of the box.
        size: [..., 2]: width and height of the box.
        rotation: of the box and the square.
        scale: see above.
        shift: how far the square is moved down along its own axis, as a fraction of the box's height
            (`RectTransformationCalculator`).
    """
    down = size[..., 1] * shift
    moved = torch.stack([-down * torch.sin(rotation), down * torch.cos(rotation)], -1)
    return Region(center + moved, size.amax(-1) * scale, rotation)
