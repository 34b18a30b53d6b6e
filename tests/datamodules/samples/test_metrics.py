"""Metrics of sample kinds: numbers of each sample, in the tables of the shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.run.folder import Run
from datamodules.run.table import TABLE_SCHEMA
from datamodules.samples import SampleKind
from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples
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
            {"pose_rate": 1.0, "face_rate": 0.25, "left_hand_rate": 0.25, "right_hand_rate": 0.0},
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
