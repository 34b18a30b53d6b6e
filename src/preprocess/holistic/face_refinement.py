"""Refinement of a face: its lips, eyes and irises, found in close-ups of them; in numpy or torch.

The file `face_landmark_with_attention.tflite` has three operators of MediaPipe's own, which neither LiteRT nor torch
has. Therefore the parts of its graph before and after the close-ups are run as networks, and the rest is computed here:

| step                                                          | operator or calculator of MediaPipe          |
|---------------------------------------------------------------|----------------------------------------------|
| `FACE_MESH`: 468 points, a score, and features of the crop    |                                              |
| `rectangle_around`: a rectangle around the lips and each eye  | Landmarks2TransformMatrix, version 2         |
| `sample`: the features in it, which are the close-up          | TransformTensorBilinear, version 2           |
| `FACE_DETAILS`: points in the close-ups, also of the irises   |                                              |
| `Rectangle.project`: these points in the crop                 | MUL and TransformLandmarks, version 2        |
| `merge`: 478 points                                           | LandmarksRefinementCalculator                |

The operators are in mediapipe/util/tflite/operations. The numbers are those of the file and of
tensors_to_face_landmarks_with_attention.pbtxt, with which `tests/preprocess/holistic/test_face_refinement.py` compares
them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from preprocess.holistic.arrays import Array, clip, device_of, namespace_of
from preprocess.holistic.networks import Cut


class FacePart(NamedTuple):
    """A part of the face that is refined.

    Attributes:
        points: numbers of its points among those of the face, in the order of the network's output.
        corners: numbers of the points at its corners, from left to right in the image of an upright face.
    """

    points: tuple[int, ...]
    corners: tuple[int, int]


LIPS = FacePart(
    (
        *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),  # outer: lower, with the corners; upper
        *(185, 40, 39, 37, 0, 267, 269, 270, 409),
        *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),  # inner
        *(191, 80, 81, 82, 13, 312, 311, 310, 415),
        *(76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),  # between them, nearer to the outer
        *(184, 74, 73, 72, 11, 302, 303, 304, 408),
        *(62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),  # between them, nearer to the inner
        *(183, 42, 41, 38, 12, 268, 271, 272, 407),
    ),
    (61, 291),
)
RIGHT_EYE = FacePart(  # the person's own; MediaPipe's "left eye" here
    (
        *(33, 7, 163, 144, 145, 153, 154, 155, 133),  # contour: lower, with the corners; upper
        *(246, 161, 160, 159, 158, 157, 173),
        *(130, 25, 110, 24, 23, 22, 26, 112, 243),  # rings around it
        *(247, 30, 29, 27, 28, 56, 190),
        *(226, 31, 228, 229, 230, 231, 232, 233, 244),
        *(113, 225, 224, 223, 222, 221, 189),
        *(35, 124, 46, 53, 52, 65),
        *(143, 111, 117, 118, 119, 120, 121, 128, 245),
        *(156, 70, 63, 105, 66, 107, 55, 193),
    ),
    (33, 133),
)
LEFT_EYE = FacePart(
    (
        *(263, 249, 390, 373, 374, 380, 381, 382, 362),
        *(466, 388, 387, 386, 385, 384, 398),
        *(359, 255, 339, 254, 253, 252, 256, 341, 463),
        *(467, 260, 259, 257, 258, 286, 414),
        *(446, 261, 448, 449, 450, 451, 452, 453, 464),
        *(342, 445, 444, 443, 442, 441, 413),
        *(265, 353, 276, 283, 282, 295),
        *(372, 340, 346, 347, 348, 349, 350, 357, 465),
        *(383, 300, 293, 334, 296, 336, 285, 417),
    ),
    (362, 263),
)
FACE_MESH = Cut(("input_1",), ("output_mesh", "conv_faceflag", "p_re_lu_3"))
FACE_DETAILS = Cut(
    ("transform_tensor_bilinear_v2", "transform_tensor_bilinear_v2_1", "transform_tensor_bilinear_v2_2"),
    ("conv_lips", "conv_left_eye", "conv_right_eye", "conv_left_iris", "conv_right_iris"),
)
_PARTS = (LIPS, RIGHT_EYE, LEFT_EYE)  # in the order of the inputs of `FACE_DETAILS`
_NUM_MESH, _NUM_IRIS = 468, 5
NUM_FACE = _NUM_MESH + 2 * _NUM_IRIS
SIDE = 16  # of the features in a rectangle; output_width and output_height
SCALE = 1.5  # of a rectangle to the bounding box of its points; scale_x and scale_y
_POINTS_SIDE = 4 * SIDE  # units of points in a rectangle: the file multiplies the shift of its matrix alone by 4
_NUM_CONTOUR = 16  # points of an eye, the first ones, whose mean depth its iris gets


class Indices(NamedTuple):
    """Indices of points, int64 [P] each, in the library that computes.

    Attributes:
        lips: of the face's points, those of the lips.
        right_eye: likewise.
        left_eye: likewise.
        merged: for each of the 478 points where it is among those of the mesh, the parts and the irises in a row.
    """

    lips: Array
    right_eye: Array
    left_eye: Array
    merged: Array


def indices() -> Indices:
    """Return the indices in arrays of numpy."""
    lips, right_eye, left_eye = (np.array(part.points) for part in _PARTS)
    merged, start = np.arange(NUM_FACE), _NUM_MESH
    for points in (lips, right_eye, left_eye, np.arange(_NUM_MESH, NUM_FACE)):
        merged[points] = start + np.arange(len(points))
        start += len(points)
    return Indices(lips, right_eye, left_eye, merged)


class Rectangle(NamedTuple):
    """Rotated rectangles in crops of faces; the arrays have any number of leading axes.

    Attributes:
        center: float64 [..., 2]: x, y, in px of the crop.
        width: float64 [..., 2]: the upper side as a vector, from left to right.
        height: float64 [..., 2]: the left side as a vector, downwards.
    """

    center: Array
    width: Array
    height: Array

    def project(self, points: Array) -> Array:
        """Return `points` [..., P, 2], fractions of the sides from the upper left corner, in px of the crop."""
        across, down = points[..., :1] - 0.5, points[..., 1:] - 0.5
        return self.center[..., None, :] + across * self.width[..., None, :] + down * self.height[..., None, :]


def find_refined_face(
    images: Array,
    side: int,
    find_mesh: Callable[[Array], Sequence[Array]],
    find_details: Callable[[Array, Array, Array], Sequence[Array]],
    indices: Indices,
) -> list[Array]:
    """Return points [N, 478 * 3], in px of the crop, and the logit of a face's presence [N, ...] for crops of N faces.

    Args:
        images: the crops, in the form that `find_mesh` takes.
        side: of the crops, in px.
        find_mesh: runs `FACE_MESH`.
        find_details: runs `FACE_DETAILS`.
        indices: see `indices`.
    """
    raw, logit, features = find_mesh(images)
    xp = namespace_of(raw)
    mesh = xp.reshape(xp.astype(raw, xp.float64), (-1, _NUM_MESH, 3))
    rectangles = [
        rectangle_around(mesh, points, part.corners) for points, part in zip(indices[:3], _PARTS, strict=True)
    ]
    stacked = Rectangle(*(xp.stack(field, axis=1) for field in zip(*rectangles, strict=True)))
    close_ups = sample(features, stacked, side)
    details = find_details(*(close_ups[:, column] for column in range(len(_PARTS))))
    _, right_eye, left_eye = rectangles
    parts = [
        rectangle.project(xp.reshape(xp.astype(points, xp.float64), (len(mesh), -1, 2)) / _POINTS_SIDE)
        for points, rectangle in zip(details, (*rectangles, right_eye, left_eye), strict=True)
    ]
    return [xp.reshape(merge(mesh, parts, indices), (len(mesh), -1)), logit]


def rectangle_around(mesh: Array, points: Array, corners: tuple[int, int]) -> Rectangle:
    """Return the rectangle around some points of a face, aligned with the line between two of them.

    Args:
        mesh: float64 [N, 468, 2 or 3], in px of the crop.
        points: int64 [P], indices of points.
        corners: indices of the points that the line joins, from left to right.
    """
    xp = namespace_of(mesh)
    left, right = (mesh[:, corner] for corner in corners)
    angle = xp.atan2(right[:, 1] - left[:, 1], right[:, 0] - left[:, 0])[:, None]
    cos, sin = xp.cos(angle), xp.sin(angle)
    x, y = mesh[:, points, 0], mesh[:, points, 1]
    sides = xp.stack([cos * x + sin * y, cos * y - sin * x], axis=1)  # coordinates along the sides
    lower, upper = xp.min(sides, axis=2), xp.max(sides, axis=2)
    (across, down), (width, height) = (
        (values[:, :1], values[:, 1:]) for values in ((lower + upper) / 2, (upper - lower) * SCALE)
    )
    return Rectangle(
        xp.concat([cos * across - sin * down, sin * across + cos * down], axis=1),
        xp.concat([cos * width, sin * width], axis=1),
        xp.concat([-sin * height, cos * height], axis=1),
    )


def sample(features: Array, rectangle: Rectangle, side: int) -> Array:
    """Return the features in rectangles [N, K, 16, 16, C], interpolated bilinearly; zeros outside of the crop.

    Args:
        features: [N, H, H, C], of whole crops.
        rectangle: rectangles [N, K] in them.
        side: of the crops, in px.
    """
    xp = namespace_of(features)
    num_faces, size, _, num_channels = features.shape
    steps = (xp.arange(SIDE, dtype=xp.float64, device=device_of(features)) + 0.5) / SIDE
    down, across = xp.meshgrid(steps, steps, indexing="ij")
    centers = xp.reshape(xp.stack([across, down], axis=-1), (SIDE**2, 2))
    positions = rectangle.project(centers) * (size / side) - 0.5  # in features, from the center of the first one
    is_inside = xp.all((positions >= 0) & (positions <= size - 1), axis=-1)
    positions = clip(positions, 0.0, size - 1.0)
    first = xp.astype(xp.floor(positions), xp.int64)
    second = clip(first + 1, greatest=size - 1)
    weight = xp.astype(positions - first, features.dtype)
    faces = xp.arange(num_faces, device=device_of(features))[:, None, None]
    right, lower = weight[..., :1], weight[..., 1:]
    rows = [
        (1 - right) * features[faces, row, first[..., 0]] + right * features[faces, row, second[..., 0]]
        for row in (first[..., 1], second[..., 1])
    ]
    values = ((1 - lower) * rows[0] + lower * rows[1]) * xp.astype(is_inside[..., None], features.dtype)
    return xp.reshape(values, (num_faces, -1, SIDE, SIDE, num_channels))


def merge(mesh: Array, parts: Sequence[Array], indices: Indices) -> Array:
    """Return 478 points [N, 478, 3]: x and y are those of the parts, where these have the point; z is that of the mesh.

    An iris gets the mean depth of the contour of its eye.

    Args:
        mesh: float64 [N, 468, 3].
        parts: float64 [N, P, 2]: lips, right eye, left eye, right iris, left iris.
        indices: see `indices`.
    """
    xp = namespace_of(mesh)
    xy = xp.concat([mesh[..., :2], *parts], axis=1)[:, indices.merged]
    depths = [
        xp.broadcast_to(xp.mean(mesh[:, eye[:_NUM_CONTOUR], 2:], axis=1, keepdims=True), (len(mesh), _NUM_IRIS, 1))
        for eye in (indices.right_eye, indices.left_eye)
    ]
    return xp.concat([xy, xp.concat([mesh[..., 2:], *depths], axis=1)], axis=-1)
