"""Columns of sample kinds: the rows of tables that they make, and what `view` says of many samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples
from datamodules.samples.columns import Column, counts, overview_of, rates, row_of, span
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.samples.pose import PoseSample, PoseSamples


@dataclass
class Depth:
    """A sample of a kind that Framemill does not have."""

    meters: Any


COLUMNS = (
    Column("meters", "of each frame", lambda sample: sample.meters, pa.list_(pa.float32()), span, "m"),
    Column("num_frames", "T", lambda sample: len(sample.meters), pa.int32()),
    Column("lengths", "T", lambda sample: len(sample.meters), summary=counts),
)


def test_a_row_has_the_columns_of_tables() -> None:
    row = row_of(Depth(np.array([1.5, 2.5])), COLUMNS)

    assert row.keys() == {"meters", "num_frames"}
    assert (row["meters"].tolist(), row["num_frames"]) == ([1.5, 2.5], 2)


def test_an_overview_has_the_summaries_of_all_values() -> None:
    samples = [Depth(np.array([1.5, 2.5])), Depth(np.array([1500.25])), Depth(np.array([3.0, 4.0]))]

    assert overview_of(samples, COLUMNS) == {"meters": "1.5 to 1,500, median 3 m", "lengths": "1 in 1, 2 in 2"}


def test_an_overview_leaves_out_columns_without_values() -> None:
    columns = (Column("x", "", lambda sample: sample, summary=span),)

    assert overview_of([None, np.zeros((0, 2))], columns) == {}
    assert overview_of([], columns) == {}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3], "3"),
        ([1000, 1000], "1,000"),
        ([0, 1, 1204], "0 to 1,204, median 1"),
        ([0.25, 0.5], "0.25 to 0.5, median 0.375"),
    ],
)
def test_a_span_is_the_extremes_and_the_median(values: list[float], text: str) -> None:
    assert span(np.array(values)) == text


def test_rates_are_the_shares_of_values_that_are_not_zero() -> None:
    assert rates(("left_hand", "face"))(np.array([1, 0, 1, 1, 0, 1])) == "left hand 66.7 %, face 66.7 %"


def test_keypoints_have_flat_arrays_and_detection_rates() -> None:
    arrays = (np.ones((2, 75, 3), np.float32), np.array([[1, 0, 1, 0], [1, 0, 0, 0]], np.uint8), np.ones((2, 33), "f"))
    kind, sample = KeypointSamples(), KeypointSample("a", *arrays, {})

    row = kind.row(sample)

    assert {name: np.shape(value) for name, value in row.items()} == {
        "num_frames": (), "keypoints": (450,), "keypoints_shape": (3,), "presence": (8,), "visibility": (66,)
    }  # fmt: skip
    assert kind.overview([sample]) == {
        "num frames": "2",
        "presence": "pose 100 %, face 0 %, left hand 50 %, right hand 0 %",
    }


def test_captions_have_their_lengths() -> None:
    samples = [CaptionSample("a", "a cow", {"num_tokens": 3}), CaptionSample("b", "two cows", {"num_tokens": None})]

    assert CaptionSamples().overview(samples) == {"characters": "5 to 8, median 6.5", "tokens": "3"}
    assert CaptionSamples().row(samples[0]) == {"caption": "a cow", "entities": None}


def test_poses_have_people_and_joints() -> None:
    keypoints = np.zeros((2, 18, 3), np.float32)
    keypoints[0, 0, 2] = 0.5
    samples = [
        PoseSample("a", keypoints, np.ones(2, np.float32), {}),
        PoseSample("b", keypoints[:0], np.ones(0, np.float32), {}),
    ]

    overview = PoseSamples().overview(samples)

    assert overview["people"] == "0 in 1, 2 in 1"
    assert overview["joints"].startswith("nose 50 %, neck 0 %, ")


def test_clips_have_tokens() -> None:
    sample = ClipSample("a", {}, None, {"num_tokens": 12})

    assert ClipSamples().row(sample) == {"tokens": None}
    assert ClipSamples().overview([sample]) == {"tokens of text": "12"}
