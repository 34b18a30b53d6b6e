"""Skeletons of MediaPipe's keypoints over the frames that they were found in."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import cv2  # comes with mediapipe
import numpy as np
from numpy.typing import NDArray

from datamodules.errors import RunError
from datamodules.samples.drawing import (
    IMAGES_PER_SECOND,
    MAX_FRAMES,
    Colour,
    Image,
    LegendEntry,
    SourceFrames,
    VideoDrawing,
    at_rate,
    display_size,
)
from datamodules.samples.fields import size_of_frames
from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS

PART_COLOURS: dict[str, Colour] = {
    "pose": (0, 200, 170),
    "face": (255, 200, 70),
    "left_hand": (255, 90, 110),
    "right_hand": (80, 140, 255),
}


@dataclass(frozen=True)
class _Stroke:
    """Width of lines and radius of points, in px."""

    line_width: float
    point_radius: float

    def scaled(self, factor: float) -> "_Stroke":
        return _Stroke(self.line_width * factor, self.point_radius * factor)

    def grown(self, margin: float) -> "_Stroke":
        """Return a stroke that shows `margin` px on each side of this one when it is drawn below it."""
        return _Stroke(self.line_width + 2 * margin, self.point_radius + margin)


_HAND = _Stroke(2, 2.2)
# for frames whose longer side has 520 px
_STROKES = {"pose": _Stroke(3, 4), "face": _Stroke(1.5, 1.2), "left_hand": _HAND, "right_hand": _HAND}
_STROKES_SIDE_PX = 520
_HALO: Colour = (15, 20, 30)  # drawn below lines, so that they stand out from any frame
# points of the pose that are left out where the part that shows them in more detail was found
_COVERED = {"face": range(11), "left_hand": (17, 19, 21), "right_hand": (18, 20, 22)}
_MIN_VISIBILITY = 0.5  # as in mediapipe/python/solutions/drawing_utils.py
_MAX_PX = 32_766  # points are moved nearer than this: OpenCV takes coordinates of 16 bits
_SHIFT = 4  # OpenCV takes coordinates in units of 1/16 px


class Keypoints(Protocol):
    """What is drawn: a `datamodules.samples.keypoints.KeypointSample`, which imports this module."""

    key: str
    keypoints: NDArray[np.float32]
    presence: NDArray[np.uint8]
    visibility: NDArray[np.float32]
    meta: dict[str, Any]


def draw_sample(sample: Keypoints, source: SourceFrames) -> VideoDrawing:
    """Return the first 300 frames of `sample` with their skeletons.

    Raises:
        RunError: the sample has no frames, no known layout, or a size that no image can have.
    """
    num_frames, num_keypoints = sample.keypoints.shape[:2]
    height, width = _frame_size(sample)
    if not num_frames or num_keypoints not in LAYOUTS:
        shape = list(sample.keypoints.shape)
        raise RunError(f"{sample.key} cannot be drawn: its keypoints {shape} have no frames, or no known layout")
    size = display_size(height, width)
    facts = [f"{num_frames:,} frames", f"{width}x{height} px", f"{num_keypoints} keypoints"]
    shares = zip(PARTS, sample.presence.mean(0).tolist(), strict=True)
    return VideoDrawing(
        frames=at_rate(_skeletons(sample, source, size), sample.meta.get("fps") or IMAGES_PER_SECOND),
        num_frames=min(num_frames, MAX_FRAMES),
        size=size,
        facts=[*facts, str(sample.meta["glosses"])] if "glosses" in sample.meta else facts,
        legend=[
            LegendEntry(f"{part.replace('_', ' ')} {100 * share:.0f} %", PART_COLOURS[part]) for part, share in shares
        ],
    )


def _frame_size(sample: Keypoints) -> tuple[int, int]:
    try:
        return size_of_frames(sample.meta)
    except ValueError as error:
        raise RunError(f"{sample.key} cannot be drawn: {error}; run `preprocess verify`") from error


def _skeletons(sample: Keypoints, source: SourceFrames, size: tuple[int, int]) -> Iterator[Image]:
    """Yield the first frames at `size` with the skeletons found in them."""
    scale = size[1] / sample.meta["width"]
    num_frames = min(len(sample.keypoints), MAX_FRAMES)
    for frame_idx, image in enumerate(islice(source.images(size), num_frames)):
        yield _draw_skeleton(image, sample, frame_idx, scale)


def _draw_skeleton(image: Image, sample: Keypoints, frame_idx: int, scale: float) -> Image:
    """Return a copy of `image` with the skeleton of one frame, whose keypoints are multiplied by `scale`."""
    unit = max(image.shape[:2]) / _STROKES_SIDE_PX
    points = np.nan_to_num(sample.keypoints[frame_idx, :, :2]).clip(-_MAX_PX, _MAX_PX)
    pixels = (points * scale * (1 << _SHIFT)).round().astype(int)
    lines = {part: _visible_lines(sample, frame_idx, part) for part in PARTS}
    halo = image.copy()
    for part in PARTS:
        _draw_lines(halo, pixels, lines[part], _HALO, _STROKES[part].grown(0.8).scaled(unit))
    drawn: Any = cv2.addWeighted(halo, 0.5, image, 0.5, 0)
    for part in PARTS:
        _draw_lines(drawn, pixels, lines[part], PART_COLOURS[part], _STROKES[part].scaled(unit))
    return drawn  # type: ignore[no-any-return]


def _visible_lines(sample: Keypoints, frame_idx: int, part: str) -> list[tuple[int, int]]:
    """Return the lines of `part` as pairs of keypoints; none if the part was not found in the frame."""
    layout = LAYOUTS[sample.keypoints.shape[1]]

    def is_found(name: str) -> bool:
        return name in layout.part_slices and bool(sample.presence[frame_idx, PARTS.index(name)])

    if not is_found(part):
        return []
    edges = layout.part_edges[part]
    if part != "pose":
        return list(edges)
    hidden = set(np.flatnonzero(sample.visibility[frame_idx] < _MIN_VISIBILITY).tolist())
    for other, points in _COVERED.items():
        if is_found(other):
            hidden.update(points)
    start = layout.part_slices[part].start
    return [(a, b) for a, b in edges if a - start not in hidden and b - start not in hidden]


def _draw_lines(
    image: Image, pixels: NDArray[Any], lines: list[tuple[int, int]], colour: Colour, stroke: _Stroke
) -> None:
    for a, b in lines:
        start, end = pixels[a].tolist(), pixels[b].tolist()
        cv2.line(image, start, end, colour, max(1, round(stroke.line_width)), cv2.LINE_AA, _SHIFT)
    radius = round(stroke.point_radius * (1 << _SHIFT))
    for point in {point for line in lines for point in line}:
        cv2.circle(image, pixels[point].tolist(), radius, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
