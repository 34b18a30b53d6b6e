"""Keypoints of frames: Holistic as it runs in DataLoader workers, or in batches on the rank's device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from datamodules.corpus import Item
from datamodules.samples.keypoint_layouts import LAYOUTS, Layout
from preprocess.device_copies import start_to_host
from preprocess.holistic.landmarker import HolisticLandmarker
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.litert_landmarker import GROUP
from preprocess.holistic.networks import HolisticOptions
from preprocess.holistic.replay import Replay
from preprocess.job.late import LateResults
from preprocess.mediapipe_graph import HolisticGraph, Mode

Crop = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a frame in px, half-open."""


class Result(NamedTuple):
    """What is found in a frame.

    Attributes:
        keypoints: float32 [K, 3].
        presence: uint8 [4].
        visibility: float32 [33].
        crop: the part of the frame that was searched; None: all of it.
    """

    keypoints: Any
    presence: Any
    visibility: Any
    crop: Crop | None = None


class MediaPipeTransform:
    """Runs MediaPipe's own graph on frames in a DataLoader worker."""

    def __init__(self, layout: Layout, mode: Mode, options: HolisticOptions) -> None:
        self._graph = HolisticGraph(mode, refine_face_landmarks=options.refine_face_landmarks)
        self._layout = layout

    def start(self, item: Item) -> None:
        """Forget the previous item."""
        self._graph.reset()

    def __call__(self, frame: Tensor) -> Result:
        """Return the result of a frame, uint8 [3, H, W].

        Raises:
            ExtractError: MediaPipe failed on it.
        """
        landmarks = self._graph(frame.permute(1, 2, 0).numpy())
        return Result(landmarks.keypoints(self._layout), landmarks.presence, landmarks.pose_visibility)


class LiteRTTransform:
    """Runs Holistic on groups of frames in a DataLoader worker, by LiteRT."""

    num_frames = GROUP

    def __init__(self, layout: Layout, options: HolisticOptions, model_dir: Path | None) -> None:
        cv2.setNumThreads(1)  # the workers share the cores
        self._landmarker = HolisticLandmarker.load("cpu", options, model_dir=model_dir)
        self._order = point_order(layout)

    def start(self, item: Item) -> None:
        """Do nothing: no state is kept from frame to frame."""

    def results(self, frames: Sequence[Tensor]) -> list[Result]:
        """Return the result of each frame, uint8 [3, H, W].

        Raises:
            ExtractError: a frame is too large.
        """
        return results_of(self._landmarker(frames), self._order)


class HolisticBatches:
    """Runs Holistic on batches of frames on the rank's device.

    The last bits of convolutions depend on the batch size, and a CUDA graph has a fixed one: therefore all batches are
    padded to `size` frames. A part of a batch that was split, because memory ran out, is padded to a half of `size`, or
    a half of that, and so on.

    Args:
        run: the landmarker.
        layout: the keypoints to keep.
        size: frames in a batch.
    """

    def __init__(self, run: HolisticLandmarker | Replay, layout: Layout, size: int) -> None:
        self._run, self._size = run, size
        self._order = point_order(layout)

    def __call__(self, frames: Tensor | Sequence[Tensor], is_part: bool = False) -> list[Result]:
        """Return the result of each frame; see `start`."""
        return self.start(frames, is_part).get()

    def start(self, frames: Tensor | Sequence[Tensor], is_part: bool = False) -> LateResults:
        """Give the device frames to compute. Return their results, which have not been waited for.

        Args:
            frames: uint8 [B, 3, H, W], or a list of B frames [3, H, W]; B is at most `size`.
            is_part: whether they are a part of a batch that was split.
        """
        number = len(frames)
        landmarks = self._run(_padded(frames, self._size_for(number) if is_part else self._size))
        self._order = self._order.to(landmarks.pose.device)
        return late_results(landmarks, self._order, number)

    def _size_for(self, number: int) -> int:
        """Return the smallest of `size`, its half (rounded up), and so on, that is not below `number`."""
        size = self._size
        while (size + 1) // 2 >= number and size > 1:
            size = (size + 1) // 2
        return size


def point_order(layout: Layout) -> Tensor:
    """Return int64 [K]: the points of `layout` as indices of all points: pose, left hand, right hand, face."""
    starts = {**{name: points.start for name, points in LAYOUTS[75].part_slices.items()}, "face": 75}
    return torch.tensor([starts[part.name] + point for part in layout.parts for point in part.points])


def results_of(landmarks: HolisticLandmarks, order: Tensor) -> list[Result]:
    """Return the result of each of B frames, with the keypoints in `order`; see `point_order`."""
    return late_results(landmarks, order, len(landmarks.pose)).get()


def late_results(landmarks: HolisticLandmarks, order: Tensor, number: int) -> LateResults:
    """Return the results of the first `number` frames, which have not been waited for."""
    parts = (landmarks.pose, landmarks.left_hand, landmarks.right_hand, landmarks.face)  # a face has 468 or 478 points
    points = torch.cat(parts, 1).index_select(1, order)
    values = (points.flatten(1), landmarks.visibility, landmarks.presence.float())
    copy = start_to_host(torch.cat(values, 1)[:number])

    def read() -> list[Result]:
        starts = [len(order) * 3, len(order) * 3 + 33]
        keypoints, visibility, presence = np.split(copy().numpy(), starts, axis=1)
        of_frames = (keypoints.reshape(-1, len(order), 3), presence.astype(np.uint8), visibility)
        return [Result(*values) for values in zip(*of_frames, strict=True)]

    return LateResults(number, read)


def _padded(frames: Tensor | Sequence[Tensor], size: int) -> Tensor | Sequence[Tensor]:
    """Return `frames`, followed by black ones up to `size`."""
    missing = size - len(frames)
    if missing <= 0:
        return frames
    if isinstance(frames, Tensor):
        return torch.cat([frames, frames.new_zeros(missing, *frames.shape[1:])])
    return [*frames, *(frames[0].new_zeros(3, 1, 1) for _ in range(missing))]
