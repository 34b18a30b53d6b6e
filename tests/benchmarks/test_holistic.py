"""The figures that `benchmarks/holistic.py` prints: parity, times of images by what is visible, and shares."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.samples.keypoint_layouts import PARTS
from preprocess.holistic.landmarks import HolisticLandmarks

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_parity_tells_distances_and_flips() -> None:
    from holistic_parity import parity, points_of

    shapes = {"pose": 33, "face": 468, "left_hand": 21, "right_hand": 21}
    reference = {part: np.zeros((2, num_points, 2)) for part, num_points in shapes.items()}
    reference["left_hand"][:] = np.nan
    points = {part: torch.zeros(2, num_points, 3) for part, num_points in shapes.items()}
    points["pose"][..., :2] = torch.tensor([3.0, 4.0])
    presence = torch.tensor([[True, True, False, True], [True, True, True, True]])
    found = HolisticLandmarks(**points, visibility=torch.zeros(2, 33), presence=presence)

    expected = "12.5 % flips; p50 p99: pose 5.000 5.00, face 0.000 0.00, right_hand 0.000 0.00"
    assert parity(found, reference) == expected
    assert parity(found, {}) == "no reference"
    nowhere = "0.0 % flips; p50 p99: pose 0.000 0.00, face 0.000 0.00, left_hand 0.000 0.00, right_hand 0.000 0.00"
    assert parity(found, points_of(found)) == nowhere


def test_images_are_grouped_by_what_mediapipe_detects() -> None:
    from holistic_cpu import by_kind

    presence = [(0, 0, 0, 0), (1, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0), (1, 1, 0, 0)]
    images = [torch.full((3, 1, 1), number) for number in range(len(presence))]
    points = np.where(np.array(presence)[..., None, None], 1.0, np.nan)
    kinds = by_kind(images, {part: points[:, column] for column, part in enumerate(PARTS)})
    assert {kind: [int(image[0, 0, 0]) for image in some] for kind, some in kinds.items()} == {
        "nobody": [0],
        "no hands": [4],
        "one hand": [1, 3],
        "both hands": [2],
    }


def test_ways_take_turns_and_their_least_and_median_times_are_added_over_images() -> None:
    from holistic_cpu import Turn, milliseconds, shares, take_turns

    calls: list[tuple[str, int]] = []
    ways = {name: lambda some, name=name: calls.append((name, len(some))) for name in ("MediaPipe's graph", "litert")}
    turns = take_turns({"no hands": [torch.zeros(3, 1, 1, dtype=torch.uint8)] * 9}, ways, 2, {})
    assert {name: values.shape for (_, name), values in turns.items()} == {
        "MediaPipe's graph": (2, 9, 3),
        "litert": (2, 9, 3),
        "litert, groups of 4": (2, 3, 3),
    }
    assert calls[:4] == [("MediaPipe's graph", 1), ("litert", 1)] * 2
    assert [call for call in calls if call[1] == 4] == [("litert", 4)] * 6
    seconds = np.array([[Turn(4, 2, 1), Turn(6, 3, 1)], [Turn(2, 2, 0), Turn(8, 5, 1)], [Turn(3, 1, 1), Turn(7, 7, 0)]])
    assert milliseconds(seconds, num_images=2).tolist() == [4000, 5000]
    assert shares(seconds) == pytest.approx([20 / 30, 4 / 30, 6 / 30])


def test_the_benchmark_is_imported_without_mediapipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    for path in BENCHMARKS.glob("holistic*.py"):
        sys.modules.pop(path.stem, None)
    importlib.import_module("holistic")
