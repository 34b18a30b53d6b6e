"""Distances between MediaPipe's landmarks and others of the same images."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preprocess.holistic.landmarks import HolisticLandmarks

PARTS = HolisticLandmarks._fields[:4]  # pose, face, left hand, right hand

Points: TypeAlias = dict[str, NDArray[Any]]
"""Points [B, P, 2] of each part in px, NaN where it was not detected."""


def mediapipe_points(images: Sequence[NDArray[np.uint8]]) -> Points:
    """Return the points that MediaPipe's graph detects in images [H, W, 3]."""
    from preprocess.mediapipe_graph import HolisticGraph

    with HolisticGraph() as graph:
        detected = [graph(image) for image in images]
    points: Points = {}
    for part, num_points in zip(PARTS, (33, 468, 21, 21), strict=True):
        absent = np.full((num_points, 2), np.nan)
        values = [getattr(landmarks, part) for landmarks in detected]
        points[part] = np.stack([absent if value is None else value[:, :2] for value in values])
    return points


def points_of(landmarks: HolisticLandmarks) -> Points:
    """Return landmarks in the form of MediaPipe's points."""
    presence = landmarks.presence.cpu().numpy()
    points = {part: getattr(landmarks, part)[..., :2].cpu().numpy() for part in PARTS}
    return {part: np.where(presence[:, at, None, None], points[part], np.nan) for at, part in enumerate(PARTS)}


def presence_of(points: Points) -> NDArray[np.bool_]:
    """Return bool [B, 4]: which parts were detected, in the order of `PARTS`."""
    return np.stack([~np.isnan(points[part][:, 0, 0]) for part in PARTS], 1)


def parity(landmarks: HolisticLandmarks, reference: Points) -> str:
    """Return the share of parts that only one of both detects, and the distances of the others in px, as text."""
    if "pose" not in reference:
        return "no reference"
    points = points_of(landmarks)
    detected, expected = presence_of(points), presence_of(reference)
    figures = []
    for column, part in enumerate(PARTS):
        both = detected[:, column] & expected[:, column]
        if both.any():
            apart = np.linalg.norm(points[part][both] - reference[part][both], axis=-1)
            figures.append(f"{part} {np.median(apart):.3f} {np.percentile(apart, 99):.2f}")
    return f"{100 * (detected != expected).mean():.1f} % flips; p50 p99: {', '.join(figures)}"
