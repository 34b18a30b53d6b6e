"""Tracks: which masks are the same object, when objects start and end, and their ids. Independent of the models.

The mask of each track is propagated to each frame. On every `detection_frequency`-th frame, objects are also detected:

| a detection                                                             | effect                                |
|-------------------------------------------------------------------------|---------------------------------------|
| whose mask is matched, one to one, to the track with the largest IoU    | corrects and confirms that track      |
| that overlaps another track, or a used detection of this frame, as much | none: the object is known             |
| that is smaller than `min_area_px`, or exceeds `max_objects`            | none                                  |
| other than these                                                        | starts a track, highest scores first  |

Within a frame, computations that may run out of memory come before changes of a track: after an exception, the frame
can be tracked again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from preprocess.tracking.backend import TrackedObject
from preprocess.tracking.options import Identity
from preprocess.tracking.side_stream import Start, at_once
from preprocess.tracking.stepping import SteppedTracker

Memory = TypeVar("Memory")  # what a segmenter remembers of one object


class Detection(NamedTuple):
    """A detected object on a frame.

    Attributes:
        label: its class.
        score: 0 to 1.
        box: x1, y1, x2, y2 in px.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


class VideoSegmenter(Protocol[Memory]):
    """Segments objects of one video. Masks are bool [H, W], of the frame's size."""

    def set_frame(self, frame_idx: int, frame: Tensor) -> None:
        """Make `frame`, uint8 [3, H, W], the current frame. `frame_idx`, its index in the video, never decreases."""
        ...

    def segment(self, box: Sequence[float]) -> tuple[Memory, Tensor]:
        """Return the memory and the mask of the object in `box`, in px of the current frame."""
        ...

    def propagate(self, memory: Memory) -> Tensor:
        """Return the mask of a known object on the current frame, and add it to the memory."""
        ...

    def correct(self, memory: Memory, detected: Memory) -> None:
        """Replace the current frame in `memory` by that in `detected`; allocates no memory on the device."""
        ...


@dataclass
class _Track(Generic[Memory]):
    """An object that is followed.

    Attributes:
        obj_id: see `TrackedObject`.
        label: see `TrackedObject`.
        score: see `TrackedObject`.
        memory: see `VideoSegmenter`.
        mask: on frame `frame_idx`.
        frame_idx: the last frame that the mask was propagated to.
        confirmed: the last frame with a detection of the object.
    """

    obj_id: int
    label: str
    score: float
    memory: Memory
    mask: Tensor
    frame_idx: int
    confirmed: int


class _Candidate(NamedTuple):
    """A detection with the memory and the mask of the object in its box."""

    detection: Detection
    memory: Any
    mask: Tensor


class Tracks(SteppedTracker, Generic[Memory]):
    """The `VideoTracker` of a detector and a segmenter.

    Args:
        detect: returns the detections on each of some frames.
        video: the segmenter of the video.
        identity: which masks are the same object.
        start: does the detection of frames; `at_once`, or beside the segmentation of those before them.
        num_batches: the largest number of batches that the frames of one call are detected in; more than one lets the
            first frames be segmented before the last are detected.
    """

    def __init__(
        self,
        detect: Callable[[Sequence[Tensor]], list[list[Detection]]],
        video: VideoSegmenter[Memory],
        identity: Identity,
        start: Start = at_once,
        num_batches: int = 1,
    ) -> None:
        super().__init__()
        self._detect, self._video, self._identity = detect, video, identity
        self._start, self._num_batches = start, num_batches
        self._tracks: list[_Track[Memory]] = []
        self._num_objects = 0  # including those that have ended
        self._detections: dict[int, Callable[[], list[Detection]]] = {}  # each may have to wait

    def prepare(self, frames: Mapping[int, Tensor]) -> None:
        """Start to detect objects on those of `frames` that are due."""
        every = self._identity.detection_frequency
        self._detections = {
            frame_idx: detections
            for frame_idx, detections in self._detections.items()
            if frame_idx >= min(frames, default=0)
        }
        frame_indices = [
            frame_idx for frame_idx in frames if frame_idx % every == 0 and frame_idx not in self._detections
        ]
        size = max(1, math.ceil(len(frame_indices) / self._num_batches))
        for first in range(0, len(frame_indices), size):
            indices = frame_indices[first : first + size]
            batch = [frames[frame_idx] for frame_idx in indices]
            wait = self._start(partial(self._detect, batch), batch)
            self._detections.update({frame_idx: partial(_item, wait, row) for row, frame_idx in enumerate(indices)})

    def step(self, frame_idx: int, frame: Tensor) -> list[TrackedObject]:
        """See `SteppedTracker`."""
        self._video.set_frame(frame_idx, frame)
        self._tracks = [
            track for track in self._tracks if frame_idx - track.confirmed <= self._identity.num_lost_frames
        ]
        masks = [self._propagated(track, frame_idx) for track in self._tracks]
        candidates = [self._candidate(detection) for detection in self._detected(frame_idx)]
        areas = _areas([*masks, *(candidate.mask for candidate in candidates)])
        track_areas, candidate_areas = areas[: len(masks)], areas[len(masks) :]
        large = [index for index, area in enumerate(candidate_areas) if area >= self._identity.min_area_px]
        candidates, candidate_areas = (
            [candidates[index] for index in large],
            [candidate_areas[index] for index in large],
        )
        matches, new = self._assigned(masks, candidates)
        for index, track in enumerate(self._tracks):  # from here on, tracks change
            if index in matches:
                self._confirm(track, candidates[matches[index]], frame_idx)
                track_areas[index] = candidate_areas[matches[index]]
        self._tracks += [self._started(candidates[index], frame_idx) for index in new]
        track_areas += [candidate_areas[index] for index in new]
        return [
            TrackedObject(track.obj_id, track.label, track.score, track.mask)
            for track, area in zip(self._tracks, track_areas, strict=True)
            if area >= self._identity.min_area_px
        ]

    def _detected(self, frame_idx: int) -> list[Detection]:
        """Return the detections on a frame; none if it is not due."""
        if frame_idx not in self._detections:
            return []
        try:
            return self._detections[frame_idx]()
        except BaseException:
            self._detections.clear()  # so that they are started anew if the frame is tracked again
            raise

    def _propagated(self, track: _Track[Memory], frame_idx: int) -> Tensor:
        if track.frame_idx != frame_idx:
            track.mask, track.frame_idx = self._video.propagate(track.memory), frame_idx
        return track.mask

    def _candidate(self, detection: Detection) -> _Candidate:
        return _Candidate(detection, *self._video.segment(detection.box))

    def _assigned(self, masks: list[Tensor], candidates: list[_Candidate]) -> tuple[dict[int, int], list[int]]:
        """Return the candidate of each matched track, both as indices; and the indices of candidates that are new."""
        if not candidates:
            return {}, []
        ious = mask_ious([candidate.mask for candidate in candidates], masks)
        is_same = ious >= self._identity.match_iou
        matches = _matched(is_same, ious)
        return matches, self._new(candidates, is_same.any(axis=1), list(matches.values()))

    def _new(self, candidates: list[_Candidate], is_known: NDArray[np.bool_], matched: list[int]) -> list[int]:
        """Return the indices of the candidates that start a track.

        Args:
            candidates: of the frame.
            is_known: bool [len(candidates)], whether a candidate overlaps a track.
            matched: indices of the candidates that are matched to a track.
        """
        masks = [candidate.mask for candidate in candidates]
        is_same = mask_ious(masks, masks) >= self._identity.match_iou
        new: list[int] = []
        for index in sorted(range(len(candidates)), key=lambda index: -candidates[index].detection.score):
            if len(self._tracks) + len(new) >= self._identity.max_objects:
                break
            if index not in matched and not is_known[index] and not is_same[index, [*matched, *new]].any():
                new.append(index)
        return new

    def _confirm(self, track: _Track[Memory], candidate: _Candidate, frame_idx: int) -> None:
        self._video.correct(track.memory, candidate.memory)
        track.score, track.mask, track.confirmed = candidate.detection.score, candidate.mask, frame_idx

    def _started(self, candidate: _Candidate, frame_idx: int) -> _Track[Memory]:
        self._num_objects += 1
        label, score, _ = candidate.detection
        return _Track(self._num_objects, label, score, candidate.memory, candidate.mask, frame_idx, frame_idx)


def _item(wait: Callable[[], list[list[Detection]]], row: int) -> list[Detection]:
    return wait()[row]


def mask_ious(first: Sequence[Tensor], second: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return float64 [len(first), len(second)]: intersection over union of masks, bool [H, W]; 0 if both are empty."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    others = torch.stack(list(second))
    shared = torch.stack([(others & mask).sum(dim=(1, 2)) for mask in first])
    either = torch.stack([(others | mask).sum(dim=(1, 2)) for mask in first])
    ious: NDArray[np.float64] = (shared.double() / either.clamp(min=1)).cpu().numpy()
    return ious


def _areas(masks: list[Tensor]) -> list[int]:
    """Return the number of pixels of each mask, with one copy from the device."""
    if not masks:
        return []
    areas: list[int] = torch.stack([mask.sum() for mask in masks]).tolist()
    return areas


def _matched(allowed: NDArray[np.bool_], ious: NDArray[np.float64]) -> dict[int, int]:
    """Return the row that each matched column is assigned: one to one, with the largest sum of allowed IoUs."""
    rows, columns = linear_sum_assignment(np.where(allowed, ious, 0), maximize=True)
    return {int(column): int(row) for row, column in zip(rows, columns, strict=True) if allowed[row, column]}
