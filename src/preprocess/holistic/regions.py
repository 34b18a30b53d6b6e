"""Regions: the squares, turned about their centres, that Holistic cuts out of an image.

Everything is in pixels and float64. MediaPipe has fractions of the image's sides in their place, but the regions that
it cuts out are all squares in pixels (`RectTransformationCalculator` with `square_long`). Angles are radians, clockwise
as y goes down.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """Squares of an image, of any number of axes.

    Attributes:
        center: float64 [..., 2]: x, y in px.
        side: float64 [...], px.
        rotation: float64 [...]: radians by which its upper side is turned, from -π to π.
    """

    center: Tensor
    side: Tensor
    rotation: Tensor

    def where(self, valid: Tensor, other: "Region") -> "Region":
        """These where `valid` [...], else `other`."""
        return Region(
            torch.where(valid[..., None], self.center, other.center),
            torch.where(valid, self.side, other.side),
            torch.where(valid, self.rotation, other.rotation),
        )

    def project(self, points: Tensor) -> Tensor:
        """Points of the image, px, of `points` [..., P, 2 or 3]: fractions of the region's side, from its corner.

        z is scaled only. `LandmarkProjectionCalculator`.
        """
        x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
        cos, sin = torch.cos(self.rotation)[..., None], torch.sin(self.rotation)[..., None]
        side, center = self.side[..., None], self.center[..., None, :]
        across = (cos * x - sin * y) * side + center[..., 0]
        down = (sin * x + cos * y) * side + center[..., 1]
        deep = [points[..., 2] * side] if points.shape[-1] == 3 else []
        return torch.stack([across, down, *deep], -1)


def whole(width: Tensor, height: Tensor) -> Region:
    """The squares of side max(width, height) around images of these sizes, int64 [N]."""
    sizes = torch.stack([width, height], -1).double()
    return Region(sizes / 2, sizes.amax(-1), torch.zeros_like(sizes[..., 0]))


def turned(start: Tensor, stop: Tensor, target: float) -> Tensor:
    """By how much a region is turned in which the line from `start` to `stop` [..., 2] has the angle `target`, upwards.

    `DetectionsToRectsCalculator`, `rotation_vector_target_angle`.
    """
    step = stop - start
    angle = target - torch.atan2(-step[..., 1], step[..., 0])
    return angle - 2 * pi * torch.floor((angle + pi) / (2 * pi))


def aligned(center: Tensor, edge: Tensor, target: float) -> Region:
    """The square around `center` [..., 2] whose side is twice the way to `edge`, turned so that this has `target`.

    `AlignmentPointsRectsCalculator`.
    """
    return Region(center, 2 * torch.linalg.vector_norm(edge - center, dim=-1), turned(center, edge, target))


def around(points: Tensor, rotation: Tensor, scale: float, shift: float) -> Region:
    """The region of the bounding box of `points` [..., P, 2], turned by `rotation`; see `grown`."""
    least, greatest = points.amin(-2), points.amax(-2)
    return grown((least + greatest) / 2, greatest - least, rotation, scale, shift)


def grown(center: Tensor, size: Tensor, rotation: Tensor, scale: float, shift: float) -> Region:
    """The square of the longer side of a box of `size` [..., 2] (width, height), times `scale`.

    It is moved down, along its own axis, by the box's height times `shift`. `RectTransformationCalculator`.
    """
    down = size[..., 1] * shift
    moved = torch.stack([-down * torch.sin(rotation), down * torch.cos(rotation)], -1)
    return Region(center + moved, size.amax(-1) * scale, rotation)
