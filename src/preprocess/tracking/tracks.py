"""Which masks are the same object: tracks, their ids, their beginning and their end. Knows no model.

On each frame, all tracks are followed. Every `detection_frequency` frames there are detections besides:

| a detection                                                             | becomes                           |
|-------------------------------------------------------------------------|-----------------------------------|
| is matched, one to one, to the track that its mask overlaps the most    | corrects and confirms that track  |
| overlaps a track, or a detection of this frame that was taken, as much  | nothing: it is there already      |
| is smaller than `min_area_px`, or `max_objects` are followed            | nothing                           |
| else                                                                    | a new track; best scores first    |

Within a frame, what may run out of memory comes before what changes a track.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from preprocess.tracking.backend import TrackedObject
from preprocess.tracking.options import Identity
from preprocess.tracking.stepping import SteppedTracker

Memory = TypeVar("Memory")  # of one object


class Detection(NamedTuple):
    """What was found on a frame.

    Attributes:
        label: its class.
        score: 0 to 1.
        box: x1, y1, x2, y2, px.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


class MaskVideo(Protocol[Memory]):
    """What makes the masks of one video. Masks are bool [H, W], of the frame's own size."""

    def show(self, frame_idx: int, frame: Tensor) -> None:
        """`frame`, uint8 [3, H, W], is meant from now on; `frame_idx` is its place, which never goes back."""
        ...

    def outline(self, box: Sequence[float]) -> tuple[Memory, Tensor]:
        """What is in `box`, px, and its mask."""
        ...

    def follow(self, memory: Memory) -> Tensor:
        """The mask of a known object, which is remembered."""
        ...

    def correct(self, memory: Memory, seen: Memory) -> None:
        """From now on, what `memory` remembers of this frame is what was `seen`; needs no memory of the device."""
        ...


@dataclass
class _Track(Generic[Memory]):
    """`mask` is that of the frame at `frame_idx`."""

    obj_id: int
    label: str
    score: float
    memory: Memory
    mask: Tensor
    frame_idx: int
    confirmed: int


class _Seen(NamedTuple):
    """A detection, and what its box showed."""

    detection: Detection
    memory: Any
    mask: Tensor


class Tracks(SteppedTracker, Generic[Memory]):
    """The tracks of one video; a `VideoTracker`.

    Args:
        detect: what is on each of these frames.
        video: makes the masks.
        identity: which of them are the same object.
    """

    def __init__(
        self,
        detect: Callable[[Sequence[Tensor]], list[list[Detection]]],
        video: MaskVideo[Memory],
        identity: Identity,
    ) -> None:
        super().__init__()
        self._detect, self._video, self._identity = detect, video, identity
        self._tracks: list[_Track[Memory]] = []
        self._num_objects = 0  # that ever were
        self._detections: dict[int, list[Detection]] = {}

    def prepare(self, frames: Mapping[int, Tensor]) -> None:
        """Detect on those of `frames` that want it, together."""
        every = self._identity.detection_frequency
        self._detections = {
            place: found for place, found in self._detections.items() if place >= min(frames, default=0)
        }
        places = [place for place in frames if place % every == 0 and place not in self._detections]
        if places:
            found = self._detect([frames[place] for place in places])
            self._detections.update(zip(places, found, strict=True))

    def step(self, place: int, frame: Tensor) -> list[TrackedObject]:
        """See `SteppedTracker`."""
        self._video.show(place, frame)
        self._tracks = [track for track in self._tracks if place - track.confirmed <= self._identity.num_lost_frames]
        masks = [self._followed(track, place) for track in self._tracks]
        seen = [self._seen(detection) for detection in self._detections.get(place, [])]
        areas = _areas([*masks, *(each.mask for each in seen)])
        track_areas, seen_areas = areas[: len(masks)], areas[len(masks) :]
        big = [index for index, area in enumerate(seen_areas) if area >= self._identity.min_area_px]
        seen, seen_areas = [seen[index] for index in big], [seen_areas[index] for index in big]
        matches, new = self._assigned(masks, seen)
        for index, each in enumerate(self._tracks):
            if index in matches:
                self._confirm(each, seen[matches[index]], place)
                track_areas[index] = seen_areas[matches[index]]
        self._tracks += [self._begun(seen[index], place) for index in new]
        track_areas += [seen_areas[index] for index in new]
        return [
            TrackedObject(track.obj_id, track.label, track.score, track.mask)
            for track, area in zip(self._tracks, track_areas, strict=True)
            if area >= self._identity.min_area_px
        ]

    def _followed(self, track: _Track[Memory], place: int) -> Tensor:
        if track.frame_idx != place:
            track.mask, track.frame_idx = self._video.follow(track.memory), place
        return track.mask

    def _seen(self, detection: Detection) -> _Seen:
        return _Seen(detection, *self._video.outline(detection.box))

    def _assigned(self, masks: list[Tensor], seen: list[_Seen]) -> tuple[dict[int, int], list[int]]:
        """Which of `seen` each track is, by their places; and which of them are new objects."""
        if not seen:
            return {}, []
        ious = mask_ious([each.mask for each in seen], masks)
        is_same = ious >= self._identity.match_iou
        matches = _matched(is_same, ious)
        return matches, self._new(seen, is_same.any(axis=1), list(matches.values()))

    def _new(self, seen: list[_Seen], is_known: NDArray[np.bool_], taken: list[int]) -> list[int]:
        masks = [each.mask for each in seen]
        is_same = mask_ious(masks, masks) >= self._identity.match_iou
        new: list[int] = []
        for index in sorted(range(len(seen)), key=lambda index: -seen[index].detection.score):
            if len(self._tracks) + len(new) >= self._identity.max_objects:
                break
            if index not in taken and not is_known[index] and not is_same[index, [*taken, *new]].any():
                new.append(index)
        return new

    def _confirm(self, track: _Track[Memory], seen: _Seen, place: int) -> None:
        self._video.correct(track.memory, seen.memory)
        track.score, track.mask, track.confirmed = seen.detection.score, seen.mask, place

    def _begun(self, seen: _Seen, place: int) -> _Track[Memory]:
        self._num_objects += 1
        label, score, _ = seen.detection
        return _Track(self._num_objects, label, score, seen.memory, seen.mask, place, place)


def mask_ious(first: Sequence[Tensor], second: Sequence[Tensor]) -> NDArray[np.float64]:
    """float64 [len(first), len(second)]: intersection over union of masks, bool [H, W]; 0 for two empty ones."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    others = torch.stack(list(second))
    shared = torch.stack([(others & mask).sum(dim=(1, 2)) for mask in first])
    either = torch.stack([(others | mask).sum(dim=(1, 2)) for mask in first])
    ious: NDArray[np.float64] = (shared.double() / either.clamp(min=1)).cpu().numpy()
    return ious


def _areas(masks: list[Tensor]) -> list[int]:
    """Pixels of each, asked of the device at once."""
    if not masks:
        return []
    areas: list[int] = torch.stack([mask.sum() for mask in masks]).tolist()
    return areas


def _matched(allowed: NDArray[np.bool_], ious: NDArray[np.float64]) -> dict[int, int]:
    """The row of each column that has one: one to one, such that the allowed IoUs are the largest in all."""
    rows, columns = linear_sum_assignment(np.where(allowed, ious, 0), maximize=True)
    return {int(column): int(row) for row, column in zip(rows, columns, strict=True) if allowed[row, column]}
