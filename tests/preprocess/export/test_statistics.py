"""Statistics of a split equal a plain computation over all of its frames."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.samples.keypoints import KeypointSample
from preprocess.export.keypoint_statistics import KeypointStatistics, parts_of
from preprocess.export.statistics import counts
from support.keypoint_runs import PART_SLICES, PRESENCE_COLUMNS, REASON, MadeItems, made_samples, make_run

CORPUS = MadeItems({"train": 7, "dev": 2})
FAILED = ("train/v1", "train/v4")


def statistics_of(run: Run, samples: list[KeypointSample]) -> KeypointStatistics:
    statistics = KeypointStatistics(counts(run, "train"))
    for sample in samples:
        statistics.add(parts_of(sample), sample.presence)
    return statistics


@pytest.mark.parametrize("layout", [143, 75, 543, 553])
def test_counts_rates_and_ranges_are_those_of_all_frames(tmp_path: Path, layout: int) -> None:
    run = make_run(tmp_path, CORPUS, layout, FAILED)
    samples = made_samples(CORPUS, "train", layout, FAILED)
    points = np.concatenate([sample.keypoints for sample in samples])
    presence = np.concatenate([sample.presence for sample in samples])

    result = statistics_of(run, samples).to_json()

    assert (result["split"], result["videos"], result["frames"]) == ("train", 5, len(points))
    assert [result[name] for name in ("planned", "committed", "failed", "not_done")] == [7, 5, 2, 0]
    assert result["failures"] == [{"key": key, "reason": REASON} for key in FAILED]
    assert list(result["detection_rate"]) == list(PART_SLICES[layout])
    for part, place in PART_SLICES[layout].items():
        column = presence[:, PRESENCE_COLUMNS.index(part)]
        assert result["detection_rate"][part] == pytest.approx(column.mean())
        x, y, _ = points[column > 0][:, place].reshape(-1, 3).T
        assert result["coordinate_range"][part] == {"x": [x.min(), x.max()], "y": [y.min(), y.max()]}
        assert x.min() > 0  # zeros of absent parts are not in the range


def test_a_part_that_was_never_detected_has_no_range(tmp_path: Path) -> None:
    run = make_run(tmp_path, CORPUS)
    samples = made_samples(CORPUS, "train")
    for sample in samples:
        sample.presence[:, PRESENCE_COLUMNS.index("face")] = 0

    result = statistics_of(run, samples).to_json()

    assert result["detection_rate"]["face"] == 0
    assert result["coordinate_range"]["face"] is None


def test_without_frames_rates_and_ranges_are_empty(tmp_path: Path) -> None:
    result = KeypointStatistics(counts(make_run(tmp_path, CORPUS), "train")).to_json()

    assert (result["frames"], result["detection_rate"], result["coordinate_range"]) == (0, {}, {})


def test_parts_of_shards_that_are_missing_are_not_done(tmp_path: Path) -> None:
    run = make_run(tmp_path, CORPUS, max_shards=1)

    result = counts(run, "train")

    assert [result[name] for name in ("planned", "committed", "failed", "not_done")] == [7, 2, 0, 5]


@pytest.mark.parametrize(
    ("layout", "message"),
    [(None, "a has the layout None; known are 143, 75, 543, 553"), (75, "not those of layout 75")],
)
def test_a_layout_that_is_not_the_samples_fails(layout: int | None, message: str) -> None:
    sample = made_samples(MadeItems({"a": 1}), "a")[0]
    sample.key, sample.meta["layout"] = "a", layout

    with pytest.raises(RunError, match=message):
        _ = sample.layout
