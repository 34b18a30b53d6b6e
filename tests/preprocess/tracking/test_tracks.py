"""Ids, starts and ends of objects, compared with the ground truth of drawn videos."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.errors import ConfigError
from preprocess.tracking.backend import TrackedObject
from preprocess.tracking.options import Identity
from preprocess.tracking.tracks import Detection, Tracks, mask_ious
from support.moving_shapes import (
    SHAPES,
    SIZE,
    Shape,
    TrueDetector,
    TrueSegmenter,
    box_of,
    frames_of,
    masks_at,
    score_at,
)

NUM_FRAMES = 28
T = TypeVar("T")


class Row(NamedTuple):
    frame_idx: int
    obj_id: int
    label: str
    score: float
    box: tuple[int, int, int, int]


def rows_of(results: Sequence[Sequence[TrackedObject]]) -> list[Row]:
    return [
        Row(frame_idx, each.obj_id, each.label, each.score, box_of(each.mask))
        for frame_idx, objects in enumerate(results)
        for each in objects
    ]


def track(
    shapes: Sequence[Shape],
    identity: Identity = Identity(),  # noqa: B008
    slice_frames: int = 8,
    num_frames: int = NUM_FRAMES,
    detector: TrueDetector | None = None,
    segmenter: TrueSegmenter | None = None,
) -> list[Row]:
    tracks = Tracks(detector or TrueDetector(shapes), segmenter or TrueSegmenter(shapes), identity)
    frames, results = frames_of(shapes, num_frames), []
    for first in range(0, num_frames, slice_frames):
        results += tracks.track(first, frames[first : first + slice_frames])
    return rows_of(results)


def truth(shapes: Sequence[Shape], every: int = 1, num_frames: int = NUM_FRAMES) -> list[Row]:
    """Return the expected objects, if they are detected on every n-th frame and none is lost."""
    ids: dict[int, int] = {}
    scores: dict[int, float] = {}
    rows = []
    for number in range(num_frames):
        seen = {place: mask for place, mask in enumerate(masks_at(shapes, number)) if mask.any()}
        if number % every == 0:
            scores.update({place: score_at(shapes[place], number) for place in seen})
            for place in sorted(seen, key=lambda place: -scores[place]):
                ids.setdefault(place, len(ids) + 1)
        rows += [
            Row(number, ids[place], shapes[place].label, scores[place], box_of(mask))
            for place, mask in sorted(seen.items(), key=lambda item: ids.get(item[0], 0))
            if place in ids
        ]
    return rows


def frames_with(rows: Sequence[Row], obj_id: int) -> list[int]:
    return [row.frame_idx for row in rows if row.obj_id == obj_id]


def test_the_test_video_has_the_intended_objects() -> None:
    masks = [masks_at(SHAPES, number) for number in range(NUM_FRAMES)]
    spans = [[number for number in range(NUM_FRAMES) if masks[number][place].any()] for place in range(5)]
    assert spans[1] == list(range(14)) + list(range(14, 20)), "leaves"
    assert spans[2] == list(range(12, NUM_FRAMES)), "enters"
    assert min(int(masks[number][4].sum()) for number in spans[4]) < 0.3 * int(masks[0][4].sum()), "is behind the other"
    assert box_of(masks[0][3])[0] < box_of(masks[0][4])[0]
    assert box_of(masks[24][3])[0] > 40, "they have crossed"
    assert box_of(masks[24][4])[0] < 10


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("slice_frames", [1, 8, 28])
def test_ids_frames_scores_and_boxes_equal_the_ground_truth(every: int, slice_frames: int) -> None:
    rows = track(SHAPES, Identity(detection_frequency=every), slice_frames)
    assert rows == truth(SHAPES, every)
    assert {row.obj_id for row in rows} == {1, 2, 3, 4, 5}


def test_masks_equal_the_ground_truth() -> None:
    tracks = Tracks(TrueDetector(SHAPES), TrueSegmenter(SHAPES), Identity())
    results = tracks.track(0, frames_of(SHAPES, NUM_FRAMES))
    places = {1: 0, 2: 1, 3: 3, 4: 4, 5: 2}
    for number, objects in enumerate(results):
        for each in objects:
            assert torch.equal(each.mask, masks_at(SHAPES, number)[places[each.obj_id]])


@pytest.mark.parametrize(("every", "frames"), [(1, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]), (3, [[0, 3], [6], [9]])])
def test_frames_of_a_slice_that_are_due_are_detected_in_one_batch(every: int, frames: list[list[int]]) -> None:
    detector = TrueDetector(SHAPES)
    track(SHAPES, Identity(detection_frequency=every), 4, 10, detector)
    assert detector.calls == frames


def test_detections_correct_drifting_masks() -> None:
    segmenter = TrueSegmenter(SHAPES[:1], drift=1)
    rows = track(SHAPES[:1], Identity(detection_frequency=3), segmenter=segmenter, num_frames=9)
    assert [row.box[0] for row in rows] == [2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert {row.obj_id for row in rows} == {1}


def test_a_higher_match_iou_starts_a_new_object_for_a_drifting_mask() -> None:
    segmenter = TrueSegmenter(SHAPES[:1], drift=1)
    rows = track(SHAPES[:1], Identity(3, match_iou=0.8), segmenter=segmenter, num_frames=4)
    assert [(row.frame_idx, row.obj_id) for row in rows] == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2)]


@pytest.mark.parametrize(("gap", "ids"), [(10, [1]), (11, [1, 2])])
def test_an_object_that_returns_before_it_is_lost_keeps_its_id(gap: int, ids: list[int]) -> None:
    shape = replace(SHAPES[0], seen=((0, 5), (4 + gap, 100)))
    rows = track([shape], Identity(max_lost_frames=10))
    assert sorted({row.obj_id for row in rows}) == ids
    assert frames_with(rows, 1) + frames_with(rows, 2) == [*range(5), *range(4 + gap, NUM_FRAMES)]


def test_an_object_without_detections_ends() -> None:
    once = TrueDetector(SHAPES[:2], is_found={number: {0} for number in range(1, NUM_FRAMES)})
    rows = track(SHAPES[:2], Identity(max_lost_frames=6), detector=once)
    assert frames_with(rows, 1) == list(range(NUM_FRAMES))
    assert frames_with(rows, 2) == list(range(7))


def test_an_object_is_not_lost_between_two_detections() -> None:
    assert track(SHAPES, Identity(detection_frequency=7, max_lost_frames=1)) == truth(SHAPES, 7)


def test_objects_with_the_highest_scores_are_followed_if_there_are_too_many() -> None:
    rows = track(SHAPES, Identity(max_objects=2))
    assert {row.label for row in rows} == {"car", "person"}
    assert frames_with(rows, 1) == list(range(NUM_FRAMES))


def test_an_object_that_ends_makes_room_for_another() -> None:
    rows = track(SHAPES, Identity(max_objects=2, max_lost_frames=3))
    assert frames_with(rows, 2) == list(range(20))
    ball = [row for row in rows if row.obj_id == 3]
    assert {row.label for row in ball} == {"ball"}
    assert [row.frame_idx for row in ball] == list(range(23, NUM_FRAMES))


def test_small_objects_are_not_added_and_small_masks_not_written() -> None:
    area = [int(masks_at(SHAPES, number)[1].sum()) for number in range(NUM_FRAMES)]
    assert area[0] == 60
    assert area[18] == 20
    rows = track(SHAPES, Identity(min_area_px=61))
    assert "person" not in {row.label for row in rows}
    rows = track(SHAPES, Identity(min_area_px=30))
    assert [row.frame_idx for row in rows if row.label == "person"] == [n for n in range(20) if area[n] >= 30]


def test_a_second_detection_of_an_object_is_not_a_second_object() -> None:
    rows = track(SHAPES, detector=TrueDetector(SHAPES, copies=3))
    assert [row[:3] for row in rows] == [row[:3] for row in truth(SHAPES)]


def test_ids_are_never_reused() -> None:
    flickering = replace(SHAPES[0], seen=tuple((first, first + 1) for first in range(0, NUM_FRAMES, 4)))
    rows = track([flickering], Identity(max_lost_frames=2))
    assert [(row.frame_idx, row.obj_id) for row in rows] == [(4 * n, n + 1) for n in range(7)]


def test_frames_without_objects_are_a_result() -> None:
    detector = TrueDetector(SHAPES, is_found={number: set() for number in range(NUM_FRAMES)})
    tracks = Tracks(detector, TrueSegmenter(SHAPES), Identity())
    assert tracks.track(0, frames_of(SHAPES, 3)) == [[], [], []]


def test_a_video_of_one_frame_has_its_objects() -> None:
    assert track(SHAPES, num_frames=1) == truth(SHAPES, num_frames=1)


@pytest.mark.parametrize("every", [2, 5])
def test_running_out_of_memory_anywhere_changes_nothing_and_repeats_nothing(every: int) -> None:
    frames, shapes = frames_of(SHAPES, 8), SHAPES
    whole = TrueSegmenter(shapes)
    expected = rows_of(Tracks(TrueDetector(shapes), whole, Identity(every)).track(0, frames))
    for call in range(1, whole.num_calls + 1):
        segmenter, detector = TrueSegmenter(shapes, fails_at=call), TrueDetector(shapes)
        tracks = Tracks(detector, segmenter, Identity(every))
        with pytest.raises(torch.OutOfMemoryError):
            tracks.track(0, frames)
        results = tracks.track(0, frames[:4]) + tracks.track(4, frames[4:])
        assert rows_of(results) == expected
        assert segmenter.followed == whole.followed
        assert detector.calls == [[number for number in range(8) if number % every == 0]]


class InThread:
    """Starts work in a thread, as `SideStream` does; the work on the last frames waits for `may_end`."""

    def __init__(self) -> None:
        self.thread, self.num_started, self.may_end = ThreadPoolExecutor(1), 0, Event()

    def __call__(self, work: Callable[[], T], inputs: Sequence[Tensor]) -> Callable[[], T]:
        self.num_started += 1
        is_last = self.num_started % 4 == 0

        def run() -> T:
            assert not is_last or self.may_end.wait(60)
            return work()

        return self.thread.submit(run).result


def test_first_frames_are_tracked_before_objects_are_detected_on_the_last() -> None:
    detector, start = TrueDetector(SHAPES), InThread()

    class Segmenter(TrueSegmenter):
        def set_frame(self, frame_idx: int, frame: Tensor) -> None:
            if frame_idx == 9:
                start.may_end.set()
            super().set_frame(frame_idx, frame)

    tracks = Tracks(detector, Segmenter(SHAPES), Identity(), start, 4)
    frames = frames_of(SHAPES, NUM_FRAMES)
    found = rows_of([*tracks.track(0, frames[:14]), *tracks.track(14, frames[14:])])
    assert found == truth(SHAPES)
    assert list(chain(*detector.calls)) == list(range(NUM_FRAMES))
    assert [len(numbers) for numbers in detector.calls] == [4, 4, 4, 2] * 2


def test_detection_beside_tracking_that_runs_out_of_memory_is_started_anew() -> None:
    detector, start = TrueDetector(SHAPES), InThread()
    start.may_end.set()
    full = [True]

    def detect(frames: Sequence[Tensor]) -> list[list[Detection]]:
        if int(frames[0][0, 0, 0]) == 4 and full.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detector(frames)

    full.insert(0, False)
    tracks = Tracks(detect, TrueSegmenter(SHAPES), Identity(), start, 4)
    frames, results = frames_of(SHAPES, NUM_FRAMES), []
    with pytest.raises(torch.OutOfMemoryError):
        tracks.track(0, frames[:8])
    for first in range(0, NUM_FRAMES, 4):
        results += tracks.track(first, frames[first : first + 4])
    assert rows_of(results) == truth(SHAPES)


def test_results_of_tracked_frames_are_kept_until_later_frames_are_requested() -> None:
    segmenter = TrueSegmenter(SHAPES)
    tracks, frames = Tracks(TrueDetector(SHAPES), segmenter, Identity()), frames_of(SHAPES, 6)
    first = tracks.track(0, frames[:4])
    num_calls = segmenter.num_calls
    assert rows_of(tracks.track(0, frames[:2])) == rows_of(first[:2])
    assert rows_of(tracks.track(2, frames[2:4])) == rows_of(first[2:])
    assert segmenter.num_calls == num_calls
    tracks.track(4, frames[4:])
    with pytest.raises(ValueError, match="frame 2 was tracked, and its result was dropped"):
        tracks.track(2, frames[2:4])


def test_a_skipped_frame_fails() -> None:
    tracks, frames = Tracks(TrueDetector(SHAPES), TrueSegmenter(SHAPES), Identity()), frames_of(SHAPES, 6)
    tracks.track(0, frames[:2])
    with pytest.raises(ValueError, match="frame 3 comes after frame 2, which was not tracked"):
        tracks.track(3, frames[3:])


def test_ious_of_masks_are_those_of_their_pixels() -> None:
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    masks[0, :2, :4] = True
    masks[1, :4, :2] = True
    masks[2, 10:, 10:] = True
    assert np.allclose(mask_ious(list(masks[:2]), list(masks)), [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0]])
    assert mask_ious([masks[3]], [masks[3]]) == 0
    assert mask_ious([], list(masks)).shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detection_frequency": 0}, "detection_frequency = 0"),
        ({"max_objects": 0}, "max_objects = 0"),
        ({"min_area_px": 0}, "min_area_px = 0"),
        ({"max_lost_frames": 0}, "max_lost_frames = 0 must be 1 or more"),
        ({"match_iou": 0.0}, r"match_iou = 0\.0 must be above 0"),
        ({"match_iou": 1.1}, r"match_iou = 1\.1"),
    ],
)
def test_options_out_of_range_fail(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Identity(**options)  # type: ignore[arg-type]
