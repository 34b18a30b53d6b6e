"""Hands and faces of `wholebody` points, as DWPose draws them over the skeletons for ControlNet.

A hand has 20 lines in the hues of the colour circle, and blue points; a face has white points. Lines, points and their
sizes in an image of 512 px are those of `draw_handpose` and `draw_facepose` in IDEA-Research/DWPose,
annotator/dwpose/util.py.
"""

from colorsys import hsv_to_rgb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.drawing import Colour, Image
from datamodules.samples.wholebody import PARTS, WholeBody

# from the wrist along each finger
HAND_LINES = tuple((0 if end % 4 == 1 else end - 1, end) for end in range(1, 21))
HAND_COLOURS: tuple[Colour, ...] = tuple(
    tuple(round(255 * value) for value in hsv_to_rgb(line / len(HAND_LINES), 1, 1))  # type: ignore[misc]
    for line in range(len(HAND_LINES))
)
_HAND_POINT, _FACE_POINT = (0, 0, 255), (255, 255, 255)
_LINE, _HAND_RADIUS, _FACE_RADIUS = (px / 512 for px in (2, 4, 3))  # per px of the image's shorter side
_SHIFT = 4  # OpenCV takes coordinates in units of 1/16 px


def draw_hands_and_faces(image: Image, people: WholeBody) -> None:
    """Draw the hands of `people`, and over them their faces, into `image`."""
    for part in ("lefthand", "righthand"):
        for points in people[:, PARTS[part]]:
            _draw_hand(image, points)
    _draw_points(image, people[:, PARTS["face"]].reshape(-1, 3), _FACE_RADIUS, _FACE_POINT)


def _draw_hand(image: Image, points: NDArray[np.float32]) -> None:
    import cv2  # comes with mediapipe

    width = max(1, round(min(image.shape[:2]) * _LINE))
    for (start, end), colour in zip(HAND_LINES, HAND_COLOURS, strict=True):
        if points[start, 2] > 0 and points[end, 2] > 0:
            cv2.line(image, _fixed(points[start]), _fixed(points[end]), colour, width, cv2.LINE_8, _SHIFT)
    _draw_points(image, points, _HAND_RADIUS, _HAND_POINT)


def _draw_points(image: Image, points: NDArray[np.float32], radius: float, colour: Colour) -> None:
    import cv2

    radius = max(1.0, min(image.shape[:2]) * radius)
    for point in points[points[:, 2] > 0]:
        cv2.circle(image, _fixed(point), round(radius * 2**_SHIFT), colour, cv2.FILLED, cv2.LINE_8, _SHIFT)


def _fixed(point: NDArray[np.float32]) -> Any:
    """Return x, y in units of 1/16 px."""
    return (point[:2] * 2**_SHIFT).round().astype(int).tolist()
