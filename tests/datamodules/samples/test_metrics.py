"""Metrics of sample kinds: numbers of each sample, in the tables of the shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.run.folder import Run
from datamodules.run.table import TABLE_SCHEMA
from datamodules.samples import SampleKind
from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples
from datamodules.samples.keypoint_layouts import LAYOUTS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.samples.metrics import Metric, metrics_of
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.tracks import TrackSamples
from support.keypoint_runs import MadeItems, made_samples, make_run, retry_made
from support.track_runs import Shapes, TrackItems

PRESENCE = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]], np.uint8)


def keypoint_sample(presence: Any) -> KeypointSample:
    keypoints, visibility = np.zeros((len(presence), 143, 3), np.float32), np.zeros((len(presence), 33), np.float32)
    return KeypointSample("a", keypoints, presence, visibility, {})


def people(*joints: int) -> PoseSample:
    keypoints = np.zeros((len(joints), 18, 3), np.float32)
    for person, found in zip(keypoints, joints, strict=True):
        person[:found, 2] = 0.5
    return PoseSample("a", keypoints, np.array([0.75, 0.25][: len(joints)], np.float32), {})


def clip(times: list[float]) -> ClipSample:
    return ClipSample("a", {}, None, {"pts_seconds": times, "num_frames": 90, "num_tokens": None})


@pytest.mark.parametrize(
    ("kind", "sample", "expected"),
    [
        (
            KeypointSamples(),
            keypoint_sample(PRESENCE),
            {
                **{"pose_rate": 1.0, "face_rate": 0.25, "left_hand_rate": 0.25, "right_hand_rate": 0.0},
                **{"left_hand_longest_gap": 3.0, "right_hand_longest_gap": 4.0, "mean_visibility": 0.0},
            },
        ),
        (PoseSamples(), people(18, 4), {"num_people": 2.0, "mean_score": 0.5, "mean_joints": 11.0}),
        (PoseSamples(), people(), {"num_people": 0.0}),
        (CaptionSamples(), CaptionSample("a", "a cow", {"num_tokens": 3}), {"num_characters": 5.0, "num_tokens": 3.0}),
        (ClipSamples(), clip([0.5, 1.0, 3.0]), {"clip_seconds": 2.5, "video_frames": 90.0}),
        (ClipSamples(), clip([]), {"video_frames": 90.0}),
    ],
)
def test_a_kind_has_the_numbers_of_a_sample_that_are_known(
    kind: SampleKind[Any], sample: Any, expected: dict[str, float]
) -> None:
    assert kind.metrics_of(sample) == expected


def signing(presence: Sequence[int], wrists: Sequence[tuple[float, float]], layout: int = 143) -> KeypointSample:
    """A sample whose shoulders are 50 px apart; the left wrist's x is of `wrists`[t][0], the right one's of [1]."""
    count = len(presence)
    keypoints = np.full((count, layout, 3), 7, np.float32)
    pose = keypoints[:, LAYOUTS[layout].part_slices["pose"]]
    pose[:, 11], pose[:, 12] = (130, 140, 0.5), (100, 100, -0.5)  # 30 px and 40 px apart; z has no part in it
    pose[:, (15, 16), 0] = wrists
    pose[:, (15, 16), 2] = np.arange(count)[:, None] ** 3
    keypoints[np.array(presence) == 0] = 0
    visibility = np.full((count, 33), 0.5, np.float32)
    visibility[:, 16] = 1
    parts = np.array(presence, np.uint8)[:, None] * np.array([1, 0, 0, 1], np.uint8)
    return KeypointSample("a", keypoints, parts, visibility * parts[:, :1], {})


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_jitter_is_the_median_acceleration_of_the_wrists_in_shoulder_widths(layout: int) -> None:
    # left: 0, 1, 4, 9, 16 has an acceleration of 2 px; right: 10 px, -20 px, 10 px; the median of (2, 2, 2, 10, 20, 10)
    wrists = [(0, 5), (1, 5), (4, 15), (9, 5), (16, 5)]
    assert KeypointSamples().metrics_of(signing([1] * 5, wrists, layout))["jitter"] == pytest.approx(6 / 50)


def test_the_jitter_is_that_of_three_frames_in_a_row_with_a_pose() -> None:
    wrists = [(0, 0), (0, 0), (100, 100), (0, 0), (5, 5), (20, 20), (900, 900)]
    metrics = KeypointSamples().metrics_of(signing([1, 1, 0, 1, 1, 1, 0], wrists))
    assert metrics["jitter"] == pytest.approx(10 / 50)
    assert metrics["mean_visibility"] == pytest.approx((32 * 0.5 + 1) / 33)
    assert (metrics["left_hand_longest_gap"], metrics["right_hand_longest_gap"]) == (7, 1)


@pytest.mark.parametrize("presence", [[], [0, 0, 0], [1, 1], [1, 1, 0, 1, 1]])
def test_without_three_frames_with_a_pose_the_jitter_is_unknown(presence: list[int]) -> None:
    wrists = [(0, 0)] * len(presence)
    metrics = KeypointSamples().metrics_of(signing(presence, wrists) if presence else keypoint_sample(PRESENCE[:0]))
    assert "jitter" not in metrics
    assert ("mean_visibility" in metrics) == any(presence)
    assert ("right_hand_longest_gap" in metrics) == bool(presence)


def test_tracks_have_objects_scores_and_lengths() -> None:
    # the car is in 12 frames with scores 0.9 - 0.01 k, the person in 8 of them
    corpus = TrackItems("/nowhere", {"train/a": Shapes()})
    sample = TrackSamples().metrics_of(_tracked(corpus))
    scores = [0.9 - 0.01 * k for k in range(12)] + [0.9 - 0.01 * k for k in range(2, 10)]
    assert sample == {"num_objects": 2.0, "mean_score": pytest.approx(np.mean(scores)), "mean_track_frames": 10.0}


def _tracked(corpus: TrackItems) -> Any:
    """Return the sample of the corpus's only item, without a video file: frames at 25 per second."""
    corpus.frames = lambda item: [(k, k / 25) for k in range(12)]  # type: ignore[method-assign]
    [item] = corpus.items()
    return corpus.sample(item)


def test_a_number_that_is_not_finite_is_unknown() -> None:
    unknown = Metric("x", "", lambda sample: sample)
    assert [metrics_of(value, [unknown]) for value in (np.nan, np.inf, None, 1)] == [{}, {}, {}, {"x": 1.0}]


def test_no_metric_has_the_name_of_a_column_of_the_tables() -> None:
    for kind in (KeypointSamples, PoseSamples, CaptionSamples, ClipSamples, TrackSamples):
        names = [metric.name for metric in kind.metrics]
        assert len(set(names)) == len(names) > 0
        assert set(names).isdisjoint(TABLE_SCHEMA.names)
        assert all(name.isidentifier() for name in names)


def test_tables_have_the_metrics_of_each_sample_also_after_a_retry(tmp_path: Path) -> None:
    make_run(tmp_path, MadeItems({"train": 4}), failed=("train/v1", "train/v2"))
    retry_made(tmp_path, failed=("train/v2",))

    run, kind = Run(tmp_path), KeypointSamples()
    rows = [row for shard in run.plan.shards for row in run.rows(shard.name).to_pylist()]
    samples = {sample.key: sample for sample in made_samples(MadeItems({"train": 4}), "train")}
    expected = [{} if key == "train/v2" else kind.metrics_of(samples[key]) for key in samples]
    assert [dict(row["metrics"]) for row in rows] == expected
