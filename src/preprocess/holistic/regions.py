"""Regions: rotated squares in images, which Holistic crops for its networks; in numpy or torch.

Everything is in pixels and float64. MediaPipe uses fractions of the image's sides instead, but all regions that it
crops are squares in pixels (`RectTransformationCalculator` with `square_long`). Angles are in radians, clockwise, since
y points down.
"""

from math import pi
from typing import NamedTuple

from preprocess.holistic.arrays import Array, namespace_of


class Region(NamedTuple):
    """Squares in images; the arrays have any number of leading axes.

    Attributes:
        center: float64 [..., 2]: x, y in px.
        side: float64 [...], in px.
        rotation: float64 [...], of the upper side, in radians from -π to π.
    """

    center: Array
    side: Array
    rotation: Array

    def where(self, valid: Array, other: "Region") -> "Region":
        """Return these regions where `valid` [...], and `other` elsewhere."""
        xp = namespace_of(valid)
        return Region(
            xp.where(valid[..., None], self.center, other.center),
            xp.where(valid, self.side, other.side),
            xp.where(valid, self.rotation, other.rotation),
        )

    def project(self, points: Array) -> Array:
        """Return `points` [..., P, 2 or 3], fractions of the region's side from its corner, in px of the image.

        z is only scaled (`LandmarkProjectionCalculator`).
        """
        xp = namespace_of(points)
        x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
        cos, sin = xp.cos(self.rotation)[..., None], xp.sin(self.rotation)[..., None]
        side, center = self.side[..., None], self.center[..., None, :]
        across = (cos * x - sin * y) * side + center[..., 0]
        down = (sin * x + cos * y) * side + center[..., 1]
        depth = [points[..., 2] * side] if points.shape[-1] == 3 else []
        return xp.stack([across, down, *depth], axis=-1)


def image_square(width: Array, height: Array) -> Region:
    """Return the squares of side max(width, height) around images of these sizes, int64 [N]."""
    xp = namespace_of(width)
    sizes = xp.astype(xp.stack([width, height], axis=-1), xp.float64)
    return Region(sizes / 2, xp.max(sizes, axis=-1), xp.zeros_like(sizes[..., 0]))


def rotation_to(start: Array, stop: Array, target: float) -> Array:
    """Return the rotation of a region within which the line from `start` to `stop` [..., 2] has the angle `target`.

    The target is counter-clockwise, as `rotation_vector_target_angle` of `DetectionsToRectsCalculator`.
    """
    xp = namespace_of(start)
    step = stop - start
    angle = target - xp.atan2(-step[..., 1], step[..., 0])
    return angle - 2 * pi * xp.floor((angle + pi) / (2 * pi))


def aligned_square(center: Array, edge: Array, target: float) -> Region:
    """Return the square around `center` [..., 2] whose side is twice the distance to `edge` [..., 2].

    It is rotated so that the line from `center` to `edge` has the angle `target` (`AlignmentPointsRectsCalculator`).
    """
    return Region(center, 2 * distance(edge, center), rotation_to(center, edge, target))


def distance(points: Array, others: Array) -> Array:
    """Return the distances [...] between `points` and `others` [..., 2], in px."""
    return namespace_of(points).linalg.vector_norm(points - others, axis=-1)


def square_around(points: Array, rotation: Array, scale: float, shift: float) -> Region:
    """Return the square around the bounding box of `points` [..., P, 2]; see `expanded_square`."""
    xp = namespace_of(points)
    lower, upper = xp.min(points, axis=-2), xp.max(points, axis=-2)
    return expanded_square((lower + upper) / 2, upper - lower, rotation, scale, shift)


def expanded_square(center: Array, size: Array, rotation: Array, scale: float, shift: float) -> Region:
    """Return a square around `center` [..., 2] whose side is the longer side of a box, times `scale`.

    Args:
        center: of the box.
        size: [..., 2]: width and height of the box.
        rotation: of the box and the square.
        scale: see above.
        shift: how far the square is moved down along its own axis, as a fraction of the box's height
            (`RectTransformationCalculator`).
    """
    xp = namespace_of(center)
    down = size[..., 1] * shift
    moved = xp.stack([-down * xp.sin(rotation), down * xp.cos(rotation)], axis=-1)
    return Region(center + moved, xp.max(size, axis=-1) * scale, rotation)
